//! Many peers in many situations, beside each other: which cells there are, and what came of each.

use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use super::capture::Capture;
use super::cell::{self, Plan};
use super::judge::{self, Case, End, Figures, Overall, SECOND, Verdict};
use super::peer::guest::Row;
use super::peer::spec::{Kind, PeerSpec};
use super::peer::{Job, LATENCY, Shop};
use super::sequence::Sequence;
use super::situation::Situation;
use super::trace::Content;
use crate::guest::Kernel;
use crate::run::wire::PORT;
use crate::scenario::Clock;

/// What is to be run.
#[derive(Debug)]
pub struct Request {
    /// The rows.
    pub peers: Vec<PeerSpec>,
    /// The columns.
    pub situations: Vec<Situation>,
    /// Cells beside each other.
    pub jobs: usize,
    /// Where it is written.
    pub out: PathBuf,
    /// The clock of peers that have a choice; virtual unless said.
    pub clock: Option<Clock>,
    /// Seed of the receiver's numbers and of the links.
    pub seed: u64,
    /// What the peers need.
    pub shop: Shop,
}

/// What came of one cell.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CellReport {
    /// The peer as it was named.
    pub peer: String,
    /// The situation.
    pub situation: String,
    /// What became of it.
    #[serde(flatten)]
    pub state: CellState,
}

/// Whether a cell was run.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "kebab-case")]
pub enum CellState {
    /// It was run and judged.
    Judged(Box<Judged>),
    /// It makes no sense.
    NotApplicable {
        /// Why not.
        why: String,
    },
    /// It could not be run.
    Failed {
        /// What went wrong, and what to do.
        why: String,
    },
}

/// A cell that was run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Judged {
    /// All of it in one word.
    pub overall: Overall,
    /// Clause by clause.
    pub verdicts: Vec<Verdict>,
    /// How it ended.
    pub end: End,
    /// When, nanoseconds after the first segment.
    pub lasted: u64,
    /// Bytes that the peer was to send, if that was known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total: Option<u64>,
    /// What it sent was known beforehand.
    pub content: Content,
    /// What the peer says went wrong.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Name and version of the stack, by the peer's own account.
    pub stack: String,
    /// Virtual or real time.
    pub clock: Clock,
    /// How fast it was.
    pub figures: Figures,
    /// Steps of the situation that did not come to what they waited for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub missed: Vec<String>,
    /// SHA-256 of what the receiver's application read.
    pub sha256: String,
    /// What the peer wrote to its standard error, the end of it, if it did not come through.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub said: String,
    /// The capture, from the directory of the report.
    pub capture: PathBuf,
    /// Packets that did not fit into it.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub left_out: u64,
    /// For the time–sequence diagram. Only the file of the cell has it.
    #[serde(default, skip_serializing_if = "Sequence::is_empty")]
    pub sequence: Sequence,
}

fn is_zero(n: &u64) -> bool {
    *n == 0
}

impl CellReport {
    /// The verdicts, if it was judged.
    #[must_use]
    pub fn judged(&self) -> Option<&Judged> {
        match &self.state {
            CellState::Judged(j) => Some(j),
            _ => None,
        }
    }
}

/// How long an acknowledgement may take to be heard in real time, nanoseconds.
const GRACE: u64 = SECOND / 5;

/// A piece of work: a cell, or all the cells of a kernel that is booted for them.
#[derive(Debug)]
struct Work<'a> {
    peer: &'a PeerSpec,
    /// Places in the matrix, and what belongs there.
    cells: Vec<(usize, &'a Situation)>,
}

/// Runs them all. `each` hears of every cell when it begins and when it is over.
///
/// # Errors
/// The directory cannot be written. What fails in a cell is in its report.
pub fn run(
    request: &Request,
    stop: &Arc<AtomicBool>,
    each: &(dyn Fn(Progress<'_>) + Sync),
) -> Result<Vec<CellReport>> {
    let mut queue: Vec<Work<'_>> = Vec::new();
    let columns = request.situations.len();
    for (row, peer) in request.peers.iter().enumerate() {
        let all = request.situations.iter().enumerate().map(|(column, s)| (row * columns + column, s));
        if matches!(peer.kind, Kind::Guest(_)) {
            queue.push(Work { peer, cells: all.collect() });
        } else {
            queue.extend(all.map(|cell| Work { peer, cells: vec![cell] }));
        }
    }
    // Kernels first: booting takes the processor, and nothing else should be timed by then. What is done in virtual time
    // takes the processor and nothing else, so it comes last. Between them the longest first: the end is then not one long
    // cell alone.
    queue.sort_by_key(|w| {
        let is_virtual = w.peer.clock(request.clock) == Clock::Virtual;
        let longest = w.cells.iter().map(|(_, s)| s.longest(is_virtual)).max();
        let kind = match w.peer.kind {
            Kind::Guest(Kernel::Qemu(_)) => 0,
            Kind::Guest(_) => 1,
            _ => 2 + u8::from(is_virtual),
        };
        (kind, std::cmp::Reverse(longest))
    });
    let total = queue.len();
    let queue = Mutex::new(VecDeque::from(queue));
    let done: Mutex<Vec<(usize, CellReport)>> = Mutex::new(Vec::new());
    let boots = Mutex::new(());
    std::thread::scope(|scope| {
        for _ in 0..request.jobs.clamp(1, total.max(1)) {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let next = lock(&queue).pop_front();
                    let Some(work) = next else { break };
                    let over = |place: usize, report: CellReport| {
                        each(Progress::Over { report: &report });
                        lock(&done).push((place, report));
                    };
                    match &work.peer.kind {
                        Kind::Guest(kernel) => row(request, &work, kernel, &boots, stop, each, &over),
                        _ => {
                            for (place, situation) in &work.cells {
                                each(Progress::Begins { peer: work.peer, situation });
                                over(*place, one(request, work.peer, situation, stop));
                            }
                        }
                    }
                }
            });
        }
    });
    let mut all = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    all.sort_by_key(|(place, _)| *place);
    let mut all: Vec<CellReport> = all.into_iter().map(|(_, r)| r).collect();
    compare(&mut all, &request.situations);
    Ok(all)
}

/// What happens while a matrix runs.
#[derive(Clone, Copy, Debug)]
pub enum Progress<'a> {
    /// A cell begins.
    Begins {
        /// The peer.
        peer: &'a PeerSpec,
        /// The situation.
        situation: &'a Situation,
    },
    /// A cell is over.
    Over {
        /// What came of it.
        report: &'a CellReport,
    },
}

/// The situation as the peer is to have it, or why it cannot.
fn scaled(peer: &PeerSpec, situation: &Situation) -> Result<Situation, String> {
    match peer.options.wscale().filter(|_| situation.receiver.window.is_some()) {
        Some(wscale) => situation.at_scale(wscale),
        None => Ok(situation.clone()),
    }
}

fn one(request: &Request, peer: &PeerSpec, situation: &Situation, stop: &Arc<AtomicBool>) -> CellReport {
    let state = match scaled(peer, situation) {
        Err(why) => CellState::NotApplicable { why },
        Ok(s) => {
            let plan = Plan::new(s, peer.clock(request.clock));
            let job = Job { bytes: plan.situation.bytes.0, clock: plan.clock };
            let plan = Plan { seed: request.seed, ..plan };
            let ran = recorded(&request.out, &peer.to_string(), &plan, |capture| {
                peer.with_wire(job, &request.shop, |wire| cell::run(&plan, wire, capture, stop))
            });
            state_of(ran)
        }
    };
    CellReport { peer: peer.to_string(), situation: situation.name.clone(), state }
}

/// All the cells of a kernel that is booted for them, beside each other.
fn row(
    request: &Request,
    work: &Work<'_>,
    kernel: &Kernel,
    boots: &Mutex<()>,
    stop: &Arc<AtomicBool>,
    each: &(dyn Fn(Progress<'_>) + Sync),
    over: &(dyn Fn(usize, CellReport) + Sync),
) {
    let peer = work.peer;
    let report =
        |s: &Situation, state| CellReport { peer: peer.to_string(), situation: s.name.clone(), state };
    let mut plans: Vec<(usize, &Situation, Plan)> = Vec::new();
    for (place, situation) in &work.cells {
        each(Progress::Begins { peer, situation });
        match scaled(peer, situation) {
            Err(why) => over(*place, report(situation, CellState::NotApplicable { why })),
            Ok(s) => {
                let mut plan = Plan { seed: request.seed, ..Plan::new(s, Clock::Real) };
                let port = PORT.saturating_add(u16::try_from(plans.len()).unwrap_or(u16::MAX));
                plan.receiver.set_port(port);
                plans.push((*place, situation, plan));
            }
        }
    }
    let streams = plans.iter().map(|(_, _, p)| (p.receiver.port(), p.situation.bytes.0)).collect();
    // One after the other: all at once they would starve each other.
    let booting = lock(boots);
    let started = Row::start(kernel, &peer.options, streams, &request.shop);
    drop(booting);
    let mut row = match started {
        Ok(row) => row,
        Err(e) => {
            for (place, situation, _) in &plans {
                over(*place, report(situation, CellState::Failed { why: format!("{e:#}") }));
            }
            return;
        }
    };
    std::thread::scope(|scope| {
        for (place, situation, plan) in &plans {
            let Some(mut wire) = row.wire(plan.receiver.port()) else { continue };
            scope.spawn(move || {
                let ran = recorded(&request.out, &peer.to_string(), plan, |capture| {
                    cell::run(plan, &mut wire, capture, stop)
                });
                over(*place, report(situation, state_of(ran)));
            });
        }
    });
}

/// A cell that was run, or why it could not be.
pub(super) fn state_of(judged: Result<Judged>) -> CellState {
    match judged {
        Ok(j) if j.end == End::NoConnection => {
            let said =
                if j.said.is_empty() { String::new() } else { format!("; it said: {}", j.said.trim()) };
            let why = format!("no connection: {}{said}", j.error.as_deref().unwrap_or("the peer never came"));
            CellState::Failed { why }
        }
        Ok(j) if j.end == End::Flood && j.figures.data_segments == 0 => CellState::Failed {
            why: "the peer sent frame upon frame and no data, and was stopped".to_owned(),
        },
        Ok(j) => CellState::Judged(Box::new(j)),
        Err(e) => CellState::Failed { why: format!("{e:#}") },
    }
}

/// Runs a cell with its capture in place, and judges it.
pub(super) fn recorded(
    out: &Path,
    peer: &str,
    plan: &Plan,
    run: impl FnOnce(&mut Capture) -> Result<cell::Ran>,
) -> Result<Judged> {
    let file = PathBuf::from(slug(peer)).join(format!("{}.pcapng", plan.situation.name));
    let path = out.join(&file);
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    }
    let what = format!("{peer} in {}", plan.situation.name);
    let mut capture = Capture::create(&path, &what, plan.clock == Clock::Real)?;
    let ran = run(&mut capture)?;
    let mut judged = conclude(&ran, plan);
    judged.capture = file;
    judged.left_out = capture.left_out();
    Ok(judged)
}

fn grace(clock: Clock) -> u64 {
    if clock == Clock::Virtual { 2 * LATENCY.as_nanos() } else { GRACE }
}

/// The verdicts on a cell that was run.
#[must_use]
pub fn conclude(ran: &cell::Ran, plan: &Plan) -> Judged {
    let case = Case {
        trace: &ran.trace,
        end: ran.end,
        ended_at: ran.ended_at,
        error: ran.sender.error.as_deref(),
        total: plan.total,
        grace: grace(plan.clock),
    };
    let verdicts = judge::judge(&case);
    let began = ran.trace.segments.first().map_or(ran.ended_at, |s| s.t);
    let said = ran.sender.detail.get("said").and_then(serde_json::Value::as_str).unwrap_or_default();
    Judged {
        overall: Overall::of(&verdicts),
        end: ran.end,
        lasted: ran.ended_at.saturating_sub(began),
        total: plan.total,
        content: plan.content,
        error: ran.sender.error.clone(),
        stack: ran.sender.what.clone(),
        clock: plan.clock,
        figures: judge::figures(&case),
        missed: ran.missed.clone(),
        sha256: ran.sha256.clone(),
        said: if ran.end.is_well() { String::new() } else { said.to_owned() },
        capture: PathBuf::new(),
        left_out: 0,
        sequence: Sequence::of(&ran.trace, &verdicts),
        verdicts,
    }
}

/// Puts the goodput of every cell beside that of the run it is compared with.
pub(super) fn compare(all: &mut [CellReport], situations: &[Situation]) {
    let goodput: BTreeMap<(String, String), f64> = all
        .iter()
        .filter_map(|r| Some(((r.peer.clone(), r.situation.clone()), r.judged()?.figures.goodput?)))
        .collect();
    for r in all {
        let Some(s) = situations.iter().find(|s| s.name == r.situation && s.against != s.name) else {
            continue;
        };
        let base = goodput.get(&(r.peer.clone(), s.against.clone())).copied().filter(|b| *b > 0.0);
        if let (CellState::Judged(j), Some(base)) = (&mut r.state, base) {
            j.figures.goodput_ratio = j.figures.goodput.map(|g| g / base);
        }
    }
}

/// A name as a directory's.
#[must_use]
pub fn slug(text: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || ".-=_,".contains(c) { c } else { '_' };
    text.chars().map(plain).collect()
}

fn lock<T>(m: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Judges a capture that a cell left, again. What the wire does not show is taken from the cell's file beside it, if that
/// is there; else the peer is taken to send the pattern or not as `content` says, and `total` bytes of it.
///
/// # Errors
/// It is no capture of a cell.
pub fn judge_capture(path: &Path, total: Option<u64>, content: Content) -> Result<Judged> {
    use super::trace::{Watch, Way};
    use crate::record::{Direction, WireReader};

    let beside = std::fs::read(path.with_extension("json")).ok();
    let cell: Option<CellReport> = beside.and_then(|text| serde_json::from_slice(&text).ok());
    let known = cell.as_ref().and_then(CellReport::judged);
    let content = known.map_or(content, |k| k.content);
    let total = total.or(known.and_then(|k| k.total));
    let clock = known.map_or(Clock::Real, |k| k.clock);
    let mut reader = WireReader::open(path)?;
    let mut watch = Watch::new(content);
    let mut last = 0;
    let mut first = None;
    while let Some(f) = reader.next_frame()? {
        let t = f.t_ns.saturating_sub(*first.get_or_insert(f.t_ns));
        let way = match f
            .direction
            .with_context(|| format!("{}: packet {} has no direction", path.display(), f.packet))?
        {
            Direction::In => Way::FromPeer,
            Direction::Out => Way::ToPeer,
        };
        let starts = |word: &str| f.comments.iter().any(|c| c.starts_with(word));
        for c in &f.comments {
            if let Some(step) = c.strip_prefix("STEP ") {
                watch.mark(t, f.packet - 1, step);
            }
            let reached = c.strip_prefix("packet ").and_then(|c| c.strip_suffix(" reaches the receiver"));
            if let Some(n) = reached.and_then(|n| n.parse().ok()) {
                watch.reaches(n);
            }
        }
        watch.frame(f.packet, t, way, ["LOST", "HELD", "REFUSED"].into_iter().any(starts), &f.data);
        last = t;
    }
    let trace = watch.into_trace();
    let end = known.map_or_else(|| end_of(&trace, total), |k| k.end);
    let began = trace.segments.first().map_or(0, |s| s.t);
    let ended_at = known.map_or(last, |k| began.saturating_add(k.lasted));
    let error = known.and_then(|k| k.error.as_deref());
    let case = Case { trace: &trace, end, ended_at, error, total, grace: grace(clock) };
    let verdicts = judge::judge(&case);
    Ok(Judged {
        overall: Overall::of(&verdicts),
        end,
        lasted: ended_at.saturating_sub(began),
        total,
        content,
        error: error.map(str::to_owned),
        stack: known.map(|k| k.stack.clone()).unwrap_or_default(),
        clock,
        figures: judge::figures(&case),
        missed: Vec::new(),
        sha256: String::new(),
        said: String::new(),
        capture: path.to_owned(),
        left_out: 0,
        sequence: Sequence::of(&trace, &verdicts),
        verdicts,
    })
}

/// How a recorded connection ended, as far as the wire shows it.
fn end_of(trace: &super::trace::Trace, total: Option<u64>) -> End {
    use super::trace::Way;
    use crate::observer::segment::RST;

    let reset = trace.segments.iter().any(|s| s.way == Way::FromPeer && s.has(RST));
    let whole = trace.fin.is_some_and(|f| trace.received >= f)
        && total.is_none_or(|t| trace.received >= t.cast_signed());
    match (trace.segments.is_empty(), whole, reset) {
        (true, ..) => End::NoConnection,
        (_, true, _) => End::Complete,
        (_, _, true) => End::Reset,
        _ => End::TimeLimit,
    }
}
