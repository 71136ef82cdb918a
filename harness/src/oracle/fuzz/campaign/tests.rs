use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::AtomicU64;

use super::*;
use crate::oracle::script::Op;

/// A kernel of which everything is known.
#[derive(Default)]
struct Fake {
    /// Scripts run, by name.
    ran: Mutex<BTreeMap<String, u64>>,
    /// Says nothing at the first attempt, nor at any other.
    slips_once: BTreeSet<u64>,
    slips: BTreeSet<u64>,
    /// The bench breaks at it.
    breaks: BTreeSet<u64>,
    /// Stops the campaign after so many verdicts.
    stop_after: Option<u64>,
    verdicts: AtomicU64,
    stop: Arc<AtomicBool>,
}

struct FakeBench<'a>(&'a Fake);

/// A script with a segment beyond a hole and, behind it, a read differs.
fn holes_differ(s: &Script) -> Option<&'static str> {
    let hole = s.steps.iter().position(|x| matches!(&x.op, Op::Inject(i) if i.seq.offset == 5000))?;
    let read = s.steps.iter().rposition(|x| matches!(&x.op, Op::Read { .. }))?;
    (hole < read).then_some(if s.handshake.ts { "read with ts" } else { "read" })
}

impl Bench for FakeBench<'_> {
    fn run(&mut self, scripts: &[(u64, Script)], each: &mut dyn FnMut(u64, Verdict)) -> Result<()> {
        let f = self.0;
        for (index, s) in scripts {
            let own: u64 = s.name.rsplit('/').next().unwrap().parse().unwrap();
            let first = {
                let mut ran = f.ran.lock().unwrap();
                let n = ran.entry(s.name.clone()).or_insert(0);
                *n += 1;
                *n == 1
            };
            if f.breaks.contains(&own) {
                anyhow::bail!("the kernel is gone");
            }
            let verdict = if f.slips.contains(&own) || first && f.slips_once.contains(&own) {
                Verdict::NotRecorded { why: "slipped".to_owned() }
            } else if let Some(what) = holes_differ(s) {
                Verdict::Differs {
                    what: what.to_owned(),
                    report: format!("{} steps", s.steps.len()),
                    trace_jsonl: s.name.clone().into_bytes(),
                }
            } else {
                Verdict::Clean { ops: s.steps.len() as u64 }
            };
            each(*index, verdict);
            let n = f.verdicts.fetch_add(1, Ordering::Relaxed) + 1;
            if f.stop_after.is_some_and(|m| n >= m) {
                f.stop.store(true, Ordering::Relaxed);
                return Ok(());
            }
        }
        Ok(())
    }
}

fn config(dir: &Path) -> Config {
    Config {
        kernel: "fake-1".to_owned(),
        target: Target::default(),
        runs: 300,
        seed: 9,
        batch: 7,
        jobs: 1,
        out_dir: dir.join("out"),
        resume: false,
        quiet: true,
    }
}

fn go(config: &Config, fake: &Fake) -> Result<Summary> {
    run(config, &fake.stop, &|_| Ok(FakeBench(fake)))
}

fn json(path: PathBuf) -> serde_json::Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

#[test]
fn counts_findings_and_small_scripts() {
    let dir = tempfile::tempdir().unwrap();
    let c = config(dir.path());
    let s = go(&c, &Fake::default()).unwrap();
    assert!(s.complete && s.differs > 8 && s.not_recorded == 0);
    assert_eq!(s.clean + s.differs, 300);
    assert_eq!(json(c.out_dir.join("summary.json"))["clean"], s.clean);
    assert_eq!(s.kinds.len(), 2);
    for kind in &s.kinds {
        let mut small = 0;
        for i in &kind.indexes {
            let folder = c.out_dir.join(format!("finding-{i}"));
            let script = Script::load(&folder.join("script.json")).unwrap().remove(0);
            let original = Script::load(&folder.join("original.json")).unwrap().remove(0);
            assert_eq!(holes_differ(&original), Some(kind.what.as_str()));
            assert_eq!(holes_differ(&script), Some(kind.what.as_str()));
            let report = std::fs::read_to_string(folder.join("report.txt")).unwrap();
            assert_eq!(report, format!("{} steps", script.steps.len()));
            assert!(folder.join("trace.jsonl").exists());
            small += usize::from(script.steps.len() == 2);
        }
        assert_eq!(small, SMALL_PER_KIND, "{}", kind.what);
    }
    // Beside each other the same comes out.
    let c = Config { jobs: 4, out_dir: dir.path().join("four"), ..c };
    assert_eq!(go(&c, &Fake::default()).unwrap(), s);
}

#[test]
fn an_interrupted_campaign_goes_on_where_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let slips_once: BTreeSet<u64> = [3, 77, 250].into();
    let whole = config(dir.path());
    let whole = go(&Config { out_dir: dir.path().join("whole"), ..whole }, &Fake::default()).unwrap();
    let mut c = config(dir.path());
    let mut ran: BTreeMap<String, u64> = BTreeMap::new();
    let mut summary = None;
    for after in [1, 5, 30, 100, 170, 400, 2000, 9000] {
        let fake = Fake { stop_after: Some(after), slips_once: slips_once.clone(), ..Fake::default() };
        *fake.ran.lock().unwrap() = ran.clone();
        let s = go(&c, &fake).unwrap();
        ran = fake.ran.into_inner().unwrap();
        c.resume = true;
        let state = json(c.out_dir.join("state.json"));
        assert_eq!(state["clean"], s.clean);
        summary = Some(s);
    }
    let summary = summary.unwrap();
    assert!(summary.complete);
    assert_eq!(summary, whole);
    // Nothing that was clean was run twice, but for what slipped.
    for (name, n) in ran {
        let i: u64 = name.rsplit('/').next().unwrap().parse().unwrap();
        let differs = summary.kinds.iter().any(|k| k.indexes.contains(&i));
        assert!(differs || n == 1 + u64::from(slips_once.contains(&i)), "{name} ran {n} times");
    }
    // Complete: resuming runs nothing.
    let fake = Fake::default();
    assert_eq!(go(&c, &fake).unwrap(), whole);
    assert!(fake.ran.lock().unwrap().is_empty());
    // More of it.
    let more = go(&Config { runs: 320, ..c }, &fake).unwrap();
    assert_eq!((more.clean + more.differs, fake.ran.lock().unwrap().len() >= 20), (320, true));
}

#[test]
fn another_campaign_is_not_resumed() {
    let dir = tempfile::tempdir().unwrap();
    let c = Config { runs: 20, ..config(dir.path()) };
    go(&c, &Fake::default()).unwrap();
    let say = |c: &Config| format!("{:#}", go(c, &Fake::default()).unwrap_err());
    assert!(say(&c).contains("resume it, or give another directory"));
    let c = Config { resume: true, ..c };
    assert!(say(&Config { seed: 10, ..c.clone() }).contains("had seed 9, this one has 10"));
    assert!(say(&Config { kernel: "fake-2".to_owned(), ..c.clone() }).contains("had kernel fake-1"));
    let target = Target { hz: 100, ..Target::default() };
    assert!(say(&Config { target, ..c.clone() }).contains("had target"));
    assert!(say(&Config { runs: 10, ..c.clone() }).contains("only 10 runs"));
    std::fs::write(c.out_dir.join("state.json"), "{}").unwrap();
    assert!(say(&c).contains("no state of a campaign"));
}

#[test]
fn what_is_not_recorded_is_tried_again_and_told() {
    let dir = tempfile::tempdir().unwrap();
    let fake = Fake { slips_once: (0..20).collect(), slips: [30, 31].into(), ..Fake::default() };
    let c = Config { runs: 100, ..config(dir.path()) };
    let s = go(&c, &fake).unwrap();
    assert!(s.complete);
    assert_eq!((s.not_recorded, s.clean + s.differs), (2, 98));
    assert_eq!(s.reasons["slipped"], 2);
    let ran = fake.ran.lock().unwrap();
    assert!(ran.iter().any(|(name, n)| name.ends_with("/9/30") && *n == 2));
}

#[test]
fn a_script_that_breaks_its_bench_takes_no_other_with_it() {
    let dir = tempfile::tempdir().unwrap();
    for jobs in [1, 3] {
        let fake = Fake { breaks: [0, 1, 50, 99].into(), ..Fake::default() };
        let c = Config { runs: 100, jobs, out_dir: dir.path().join(format!("{jobs}")), ..config(dir.path()) };
        let s = go(&c, &fake).unwrap();
        assert_eq!((s.complete, s.not_recorded, s.clean + s.differs), (true, 4, 96));
        assert_eq!(s.reasons["the kernel is gone"], 4);
    }
    // One that always breaks ends the campaign; it is resumed on a better one.
    let c = Config { runs: 100, ..config(dir.path()) };
    let fake = Fake { breaks: (0..100).collect(), ..Fake::default() };
    let e = format!("{:#}", go(&c, &fake).unwrap_err());
    assert!(e.contains("can be resumed") && e.contains("the kernel is gone"), "{e}");
    let none: Result<Summary> = run(&Config { resume: true, ..c.clone() }, &Arc::default(), &|_| {
        Err::<FakeBench<'_>, _>(anyhow::anyhow!("no kernel"))
    });
    assert!(format!("{:#}", none.unwrap_err()).contains("no kernel"));
    let s = go(&Config { resume: true, ..c }, &Fake::default()).unwrap();
    assert_eq!((s.complete, s.not_recorded, s.clean + s.differs), (true, 0, 100));
}
