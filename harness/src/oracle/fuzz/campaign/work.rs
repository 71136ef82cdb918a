//! What benches do: take work, run it, say what came of it.

use std::collections::{BTreeSet, HashSet, VecDeque};
use std::fs;
use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::Value;

use super::super::generate;
use super::super::shrink::Shrinker;
use super::state::{Finding, Shrunk, State, write_json};
use super::{Bench, Config, SMALL_PER_KIND, Verdict};
use crate::oracle::script::Script;

/// A bench that breaks so often without a single verdict will not recover.
const BROKEN: u32 = 3;
/// Between two lines of progress where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// What one bench does next.
enum Work {
    /// Scripts for the first time.
    First(Vec<u64>),
    /// One that was not recorded, alone: should it break its bench, it takes no other with it.
    Again(u64),
    /// A finding is made small.
    Small(u64),
}

struct Inner {
    state: State,
    /// Where to look for the next index that was never attempted.
    next: u64,
    /// Indexes that a broken bench left behind, never attempted.
    left: BTreeSet<u64>,
    again: VecDeque<u64>,
    small: VecDeque<u64>,
}

/// What all benches share.
pub(super) struct Shared<'a> {
    config: &'a Config,
    stop: &'a AtomicBool,
    abandoned: AtomicBool,
    inner: Mutex<Inner>,
    progress: Progress,
}

impl<'a> Shared<'a> {
    pub(super) fn new(config: &'a Config, stop: &'a AtomicBool, state: State) -> Self {
        let again = state.again.keys().copied().collect();
        let small = state.findings.iter().filter(|f| f.shrunk == Shrunk::Due).map(|f| f.index).collect();
        let progress = Progress::new(config, &state);
        let inner = Inner { state, next: 0, left: BTreeSet::new(), again, small };
        Shared { config, stop, abandoned: AtomicBool::new(false), inner: Mutex::new(inner), progress }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Every change is complete before the lock is given back, so what a broken thread leaves is sound.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed) || self.abandoned.load(Ordering::Relaxed)
    }

    pub(super) fn abandon(&self) {
        self.abandoned.store(true, Ordering::Relaxed);
    }

    pub(super) fn finish(self) -> State {
        let state = self.inner.into_inner().unwrap_or_else(PoisonError::into_inner).state;
        self.progress.end(&state);
        state
    }

    /// Findings first, that one sees them early; second attempts last.
    fn take(&self) -> Option<Work> {
        if self.stopped() {
            return None;
        }
        let mut inner = self.lock();
        if let Some(i) = inner.small.pop_front() {
            return Some(Work::Small(i));
        }
        let mut batch = Vec::new();
        while batch.len() < self.config.batch.max(1) {
            if let Some(i) = inner.left.pop_first() {
                batch.push(i);
                continue;
            }
            let mut i = inner.state.done.first_missing(inner.next);
            while i < self.config.runs && inner.state.attempted(i) {
                i += 1;
            }
            if i >= self.config.runs {
                inner.next = i;
                break;
            }
            inner.next = i + 1;
            batch.push(i);
        }
        if batch.is_empty() { inner.again.pop_front().map(Work::Again) } else { Some(Work::First(batch)) }
    }

    fn script(&self, index: u64) -> Result<Script> {
        generate::script(self.config.seed, index, &self.config.target)
            .with_context(|| format!("the script of seed {} and index {index}", self.config.seed))
    }

    /// A script came to an end, or to its first attempt.
    fn settle(&self, script: &Script, index: u64, verdict: Verdict, second: bool) -> Result<()> {
        let differs = match verdict {
            Verdict::Differs { what, report, trace_jsonl } => {
                // Files first: a state that names a finding must not be without them.
                self.keep(index, script, script, &report, &trace_jsonl)?;
                Ok(what)
            }
            other => Err(other),
        };
        let found = differs.is_ok();
        let mut inner = self.lock();
        let Inner { state, again, small, .. } = &mut *inner;
        match differs {
            Err(Verdict::NotRecorded { why }) if !second => {
                state.again.insert(index, why);
                again.push_back(index);
                self.progress.tell(state);
                return Ok(());
            }
            Err(Verdict::NotRecorded { why }) => {
                state.not_recorded.insert(index, why);
            }
            Err(Verdict::Clean { ops }) => {
                state.clean += 1;
                state.operations += ops;
            }
            Err(Verdict::Differs { .. }) => {}
            Ok(what) => {
                let due = state.small(&what) < SMALL_PER_KIND;
                if due {
                    small.push_back(index);
                }
                let shrunk = if due { Shrunk::Due } else { Shrunk::Not };
                state.findings.push(Finding { index, name: script.name.clone(), what, shrunk });
            }
        }
        state.again.remove(&index);
        state.done.insert(index);
        self.progress.tell(state);
        if found { state.save(&self.config.out_dir) } else { Ok(()) }
    }

    fn folder(&self, index: u64) -> PathBuf {
        self.config.out_dir.join(format!("finding-{index}"))
    }

    fn keep(&self, index: u64, original: &Script, small: &Script, report: &str, trace: &[u8]) -> Result<()> {
        let dir = self.folder(index);
        fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        write_json(&dir.join("original.json"), &Value::Object(original.raw.clone()))?;
        write_json(&dir.join("script.json"), &Value::Object(small.raw.clone()))?;
        for (name, bytes) in [("trace.jsonl", trace), ("report.txt", report.as_bytes())] {
            let path = dir.join(name);
            fs::write(&path, bytes).with_context(|| format!("cannot write {}", path.display()))?;
        }
        Ok(())
    }

    fn save(&self) -> Result<()> {
        self.lock().state.save(&self.config.out_dir)
    }
}

/// Works until there is nothing left.
pub(super) fn work<B: Bench>(
    shared: &Shared<'_>,
    job: usize,
    make: &(dyn Fn(usize) -> Result<B> + Sync),
) -> Result<()> {
    let mut bench = None;
    let mut broke = 0;
    while let Some(work) = shared.take() {
        let running = match &mut bench {
            Some(b) => b,
            none => none.insert(make(job)?),
        };
        let (indexes, second) = match work {
            Work::Small(index) => {
                if shrink(shared, running, index)? {
                    bench = None;
                }
                shared.save()?;
                continue;
            }
            Work::First(v) => (v, false),
            Work::Again(i) => (vec![i], true),
        };
        let scripts = indexes.iter().map(|i| Ok((*i, shared.script(*i)?))).collect::<Result<Vec<_>>>()?;
        let mut open: BTreeSet<u64> = indexes.iter().copied().collect();
        let mut failure = None;
        let ended = running.run(&scripts, &mut |index, verdict| {
            // A second verdict on a script, or one on a script that is not in the batch, says nothing.
            if !open.remove(&index) {
                return;
            }
            if let Some((_, script)) = scripts.iter().find(|(i, _)| *i == index)
                && let Err(e) = shared.settle(script, index, verdict, second)
            {
                failure.get_or_insert(e);
            }
        });
        if let Some(e) = failure {
            return Err(e);
        }
        let some = open.len() < scripts.len();
        let why = match &ended {
            Ok(()) => "the bench said nothing of it".to_owned(),
            Err(e) => format!("{e:#}"),
        };
        if shared.stopped() {
            // Interrupted, not failed: they are run when the campaign goes on.
            shared.save()?;
            return Ok(());
        }
        if let Err(e) = ended {
            bench = None;
            broke = if some || second { 0 } else { broke + 1 };
            if broke >= BROKEN {
                return Err(e.context(format!("bench {job} broke {BROKEN} times without a verdict")));
            }
            // The first without a verdict is the one that broke it, the others never ran.
            if !second {
                let mut inner = shared.lock();
                let first = scripts.iter().map(|(i, _)| *i).find(|i| open.contains(i));
                inner.left.extend(open.iter().copied().filter(|i| Some(*i) != first));
                open.retain(|i| Some(*i) == first);
            }
        } else {
            broke = 0;
        }
        for (index, script) in scripts.iter().filter(|(i, _)| open.contains(i)) {
            shared.settle(script, *index, Verdict::NotRecorded { why: why.clone() }, second)?;
        }
        shared.save()?;
    }
    Ok(())
}

/// Makes a finding small. True if the bench broke.
fn shrink<B: Bench>(shared: &Shared<'_>, bench: &mut B, index: u64) -> Result<bool> {
    let what = {
        let inner = shared.lock();
        inner.state.findings.iter().find(|f| f.index == index).map(|f| f.what.clone())
    };
    let Some(what) = what else { return Ok(false) };
    let original = shared.script(index)?;
    let mut shrinker = Shrinker::new(original.clone());
    let mut broke = false;
    while !broke && let Some(batch) = shrinker.next() {
        if shared.stopped() {
            // It is still due when the campaign goes on.
            return Ok(false);
        }
        let numbered: Vec<(u64, Script)> = (0u64..).zip(batch).collect();
        let mut same: Vec<Option<(String, Vec<u8>)>> = vec![None; numbered.len()];
        let ended = bench.run(&numbered, &mut |i, verdict| {
            if let Verdict::Differs { what: w, report, trace_jsonl } = verdict
                && w == what
                && let Some(place) = usize::try_from(i).ok().and_then(|i| same.get_mut(i))
            {
                *place = Some((report, trace_jsonl));
            }
        });
        // A small script that breaks the bench is another matter; what was reached is kept.
        broke = ended.is_err();
        shrinker.verdicts(&same.iter().map(Option::is_some).collect::<Vec<_>>());
        let best = numbered.iter().zip(&same).find(|((_, s), _)| s == shrinker.best());
        if let Some(((_, script), Some((report, trace)))) = best {
            shared.keep(index, &original, script, report, trace)?;
        }
    }
    let mut inner = shared.lock();
    if let Some(f) = inner.state.findings.iter_mut().find(|f| f.index == index) {
        f.shrunk = Shrunk::Done;
    }
    Ok(broke)
}

/// Where a campaign stands: a bar on a terminal, lines elsewhere.
struct Progress {
    bar: Option<ProgressBar>,
    lines: bool,
    began: Instant,
    /// Scripts that were done before this began.
    before: u64,
    last: Mutex<Instant>,
}

fn ended(state: &State) -> u64 {
    state.clean + (state.findings.len() + state.not_recorded.len()) as u64
}

impl Progress {
    fn new(config: &Config, state: &State) -> Self {
        let terminal = std::io::stderr().is_terminal();
        let bar = (!config.quiet && terminal).then(|| {
            let bar = ProgressBar::new(config.runs);
            let style = ProgressStyle::with_template("{elapsed_precise} [{bar:30}] {pos}/{len} {msg}");
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=> "));
            bar.enable_steady_tick(Duration::from_millis(200));
            bar
        });
        let now = Instant::now();
        let lines = !config.quiet && !terminal;
        Progress { bar, lines, began: now, before: ended(state), last: Mutex::new(now) }
    }

    fn text(&self, state: &State) -> String {
        let kinds: HashSet<&str> = state.findings.iter().map(|f| f.what.as_str()).collect();
        let rate = (ended(state) - self.before) as f64 / self.began.elapsed().as_secs_f64().max(0.001);
        let not = state.not_recorded.len();
        let waiting = if state.again.is_empty() {
            String::new()
        } else {
            format!(" and {} to be tried again", state.again.len())
        };
        format!(
            "clean {}, differs {} ({} kinds), not recorded {not}{waiting}; {rate:.1}/s",
            state.clean,
            state.findings.len(),
            kinds.len()
        )
    }

    fn tell(&self, state: &State) {
        if let Some(bar) = &self.bar {
            bar.set_position(ended(state));
            bar.set_message(self.text(state));
        } else if self.lines {
            let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
            if last.elapsed() >= LINE_EVERY {
                *last = Instant::now();
                anstream::eprintln!("{}/{} {}", ended(state), state.runs, self.text(state));
            }
        }
    }

    fn end(&self, state: &State) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        if self.bar.is_some() || self.lines {
            anstream::eprintln!("{}/{} {}", ended(state), state.runs, self.text(state));
        }
    }
}
