//! A script that tells a difference becomes a small one that still does.
//!
//! [`Shrinker`] proposes scripts and is told which of them still fail; who runs them, and on what, it does not know. It
//! removes operations first (large pieces, then single ones), then what else can be left out: settings, segments of
//! bursts, gaps, lengths. Edits that work each alone are tried together. A script is proposed once at most, so an
//! unsteady verdict cannot keep it going.

use std::collections::HashSet;

use serde_json::{Map, Value, json};

use crate::oracle::script::{Op, Script, Settle};

/// Rounds unless said.
pub const ROUNDS: u32 = 60;
/// Candidates of a round unless said.
pub const WIDTH: usize = 12;

/// One thing that is made simpler.
#[derive(Clone, Debug, PartialEq)]
enum Edit {
    /// Operations from one to another are left out.
    Cut(usize, usize),
    /// An operation is another one.
    Op(usize, Value),
    /// A key at the top is left out.
    Top(&'static str),
    /// A key at the top has another value.
    Set(&'static str, Value),
    /// A key within one at the top is left out.
    Within(&'static str, String),
    /// A listener's option is left out.
    Listener(usize),
    /// All operations begin a tick after the one before.
    ///
    /// Their phases stay: a read exactly one round trip behind another differs on the kernel itself.
    Steady,
    /// `repeat` and `reads` are written out.
    WriteOut,
}

/// What is being made simpler, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    WriteOut,
    /// Pieces of that part of the operations are left out.
    Pieces(usize),
    Settings,
    Single,
    Bursts,
    Timing,
    Details,
}

impl Stage {
    /// The next one, for a script of so many operations.
    fn next(self, ops: usize) -> Option<Self> {
        Some(match self {
            Stage::WriteOut => Stage::Pieces(2),
            Stage::Pieces(n) if n * 2 < ops => Stage::Pieces(n * 2),
            Stage::Pieces(_) => Stage::Single,
            Stage::Single => Stage::Settings,
            Stage::Settings => Stage::Bursts,
            Stage::Bursts => Stage::Timing,
            Stage::Timing => Stage::Details,
            Stage::Details => return None,
        })
    }
}

/// How large a script is. What is earlier counts for more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Size {
    steps: usize,
    segments: u64,
    settings: usize,
    ticks: u64,
    /// Places where an operation says more than it has to.
    words: usize,
    bytes: u64,
    text: usize,
}

impl Size {
    fn of(script: &Script) -> Self {
        let (mut segments, mut bytes, mut ticks) = (0u64, 0u64, 0u64);
        let mut words = 0;
        for step in &script.steps {
            ticks += u64::from(step.gap);
            words += keys(&step.raw);
            match &step.op {
                Op::Inject(x) => {
                    segments += 1;
                    bytes += u64::from(x.len);
                }
                Op::Burst { segs, len, count, .. } => {
                    let n = segs.len() as u64 + u64::from(*count);
                    segments += n;
                    bytes += segs.iter().map(|x| u64::from(x.len)).sum::<u64>()
                        + u64::from(*len) * u64::from(*count);
                }
                Op::Fill { max, len, .. } => {
                    segments += u64::from(max.unwrap_or(1 << 10));
                    bytes += u64::from(*len);
                }
                Op::Sleep { ms } => ticks += ms,
                _ => {}
            }
            ticks += match step.settle {
                Settle::None => 0,
                Settle::Ms(ms) => ms,
                Settle::Ack => 10,
            };
        }
        let settings = script
            .raw
            .iter()
            .filter(|(k, _)| !matches!(k.as_str(), "ops" | "name" | "settle"))
            .map(|(_, v)| match v {
                Value::Object(m) => 1 + m.len(),
                Value::Array(a) => 1 + a.len(),
                _ => 1,
            })
            .sum();
        let text = Value::Object(script.raw.clone()).to_string().len();
        Size { steps: script.steps.len(), segments, settings, ticks, words, bytes, text }
    }
}

/// How many keys there are at all depths.
fn keys(value: &Value) -> usize {
    match value {
        Value::Object(m) => m.len() + m.values().map(keys).sum::<usize>(),
        Value::Array(a) => a.iter().map(keys).sum(),
        _ => 0,
    }
}

/// A candidate and what was done to make it.
#[derive(Debug)]
struct Candidate {
    edits: Vec<Edit>,
    script: Script,
}

/// Makes a failing script smaller: [`Shrinker::next`] proposes, [`Shrinker::verdicts`] is told.
#[derive(Debug)]
pub struct Shrinker {
    best: Script,
    size: Size,
    stage: Stage,
    /// The script has become smaller since the first stage.
    better: bool,
    pending: Vec<Candidate>,
    /// Edits that worked each alone, to be tried together.
    together: Vec<Vec<Edit>>,
    /// What `together` applies to.
    from: Script,
    tried: HashSet<String>,
    rounds: u32,
    width: usize,
}

impl Shrinker {
    /// For a script that fails.
    #[must_use]
    pub fn new(script: Script) -> Self {
        Self::with_limits(script, ROUNDS, WIDTH)
    }

    /// With at most so many rounds of so many candidates each.
    #[must_use]
    pub fn with_limits(script: Script, rounds: u32, width: usize) -> Self {
        let mut tried = HashSet::new();
        tried.insert(key(&script));
        Shrinker {
            size: Size::of(&script),
            from: script.clone(),
            best: script,
            stage: Stage::WriteOut,
            better: false,
            pending: Vec::new(),
            together: Vec::new(),
            tried,
            rounds,
            width: width.max(1),
        }
    }

    /// The smallest script that was seen to fail.
    #[must_use]
    pub fn best(&self) -> &Script {
        &self.best
    }

    /// The next candidates; `None` when there is nothing left to try.
    #[allow(clippy::should_implement_trait, reason = "answers come back between two calls: no iterator")]
    pub fn next(&mut self) -> Option<Vec<Script>> {
        loop {
            if self.rounds == 0 {
                return None;
            }
            let candidates = self.candidates();
            if !candidates.is_empty() {
                self.rounds -= 1;
                self.pending = candidates;
                return Some(self.pending.iter().map(|c| c.script.clone()).collect());
            }
            match self.stage.next(ops(&self.best).len()) {
                Some(stage) => self.stage = stage,
                None if self.better => {
                    self.better = false;
                    self.stage = Stage::Pieces(2);
                }
                None => return None,
            }
        }
    }

    /// Whether each of the candidates still fails. One that is not told of does not.
    pub fn verdicts(&mut self, fails: &[bool]) {
        let pending = std::mem::take(&mut self.pending);
        let failing: Vec<Candidate> =
            pending.into_iter().zip(fails).filter(|(_, f)| **f).map(|(c, _)| c).collect();
        let all: Vec<Edit> = failing.iter().flat_map(|c| c.edits.clone()).collect();
        let alone = failing.len() > 1 && failing.iter().all(|c| c.edits.len() == 1);
        let Some(best) = failing.into_iter().min_by_key(|c| Size::of(&c.script)) else { return };
        let size = Size::of(&best.script);
        let written_out = best.edits == [Edit::WriteOut];
        if size >= self.size && !written_out {
            return;
        }
        let before = std::mem::replace(&mut self.best, best.script);
        self.size = size;
        // Writing out makes nothing smaller by itself: no reason to begin again.
        self.better |= !written_out;
        if alone {
            let half = all.len() / 2;
            let halves = [all.get(..half), all.get(half..)];
            self.together = halves.into_iter().flatten().filter(|e| e.len() > 1).map(<[_]>::to_vec).collect();
            self.together.push(all);
            self.from = before;
        }
    }

    fn candidates(&mut self) -> Vec<Candidate> {
        let mut out = Vec::new();
        for edits in std::mem::take(&mut self.together) {
            self.propose(&self.from.clone(), edits, &mut out);
        }
        if !out.is_empty() {
            return out;
        }
        let from = self.best.clone();
        for edit in edits(self.stage, &from) {
            if out.len() >= self.width {
                break;
            }
            self.propose(&from, vec![edit], &mut out);
        }
        out
    }

    fn propose(&mut self, from: &Script, edits: Vec<Edit>, out: &mut Vec<Candidate>) {
        let Some(script) = apply(from, &edits) else { return };
        let smaller = Size::of(&script) < self.size || edits == [Edit::WriteOut];
        if smaller && self.tried.insert(key(&script)) {
            out.push(Candidate { edits, script });
        }
    }
}

/// What makes two scripts the same.
fn key(script: &Script) -> String {
    let mut raw = script.raw.clone();
    raw.remove("name");
    Value::Object(raw).to_string()
}

fn ops(script: &Script) -> &[Value] {
    script.raw.get("ops").and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// The script with the edits made; `None` if that is no script.
fn apply(script: &Script, edits: &[Edit]) -> Option<Script> {
    let mut raw = script.raw.clone();
    let mut list: Vec<Option<Value>> = ops(script).iter().cloned().map(Some).collect();
    let mut options: Vec<Option<Value>> = match raw.get("listener") {
        Some(Value::Array(a)) => a.iter().cloned().map(Some).collect(),
        _ => Vec::new(),
    };
    for edit in edits {
        match edit {
            Edit::Cut(a, b) => {
                let end = (*b).min(list.len());
                list.get_mut(*a..end)?.fill(None);
            }
            // One that another edit leaves out stays out.
            Edit::Op(i, op) => {
                if let Some(Some(place)) = list.get_mut(*i) {
                    *place = op.clone();
                }
            }
            Edit::Top(k) => drop(raw.remove(*k)),
            Edit::Set(k, v) => drop(raw.insert((*k).to_owned(), v.clone())),
            Edit::Within(k, name) => {
                if let Some(Value::Object(map)) = raw.get_mut(*k) {
                    map.remove(name);
                }
            }
            Edit::Listener(i) => *options.get_mut(*i)? = None,
            Edit::Steady => {
                for op in list.iter_mut().flatten().filter_map(Value::as_object_mut) {
                    op.remove("gap");
                }
            }
            Edit::WriteOut => list = script.steps.iter().map(|s| Some(s.raw.clone())).collect(),
        }
    }
    raw.insert("ops".to_owned(), list.into_iter().flatten().collect());
    if raw.contains_key("listener") {
        raw.insert("listener".to_owned(), options.into_iter().flatten().collect());
    }
    // Empty parts say nothing.
    raw.retain(|_, v| !matches!(v, Value::Object(m) if m.is_empty()));
    if raw.get("listener").and_then(Value::as_array).is_some_and(Vec::is_empty) {
        raw.remove("listener");
    }
    Script::from_map(raw).ok()
}

fn edits(stage: Stage, script: &Script) -> Vec<Edit> {
    let list = ops(script);
    let each = |f: &dyn Fn(&Map<String, Value>) -> Vec<Value>| -> Vec<Edit> {
        list.iter()
            .enumerate()
            .filter_map(|(i, op)| Some((i, op.as_object()?)))
            .flat_map(|(i, op)| f(op).into_iter().map(move |v| Edit::Op(i, v)))
            .collect()
    };
    match stage {
        Stage::WriteOut => {
            let lists = |op: &Value| matches!(op.get("op").and_then(Value::as_str), Some("repeat" | "reads"));
            if list.iter().any(lists) { vec![Edit::WriteOut] } else { Vec::new() }
        }
        Stage::Pieces(n) => {
            let step = list.len().div_ceil(n).max(1);
            // From the end: what comes behind the difference is what most scripts have most of.
            (0..list.len()).step_by(step).map(|a| Edit::Cut(a, a + step)).rev().collect()
        }
        Stage::Single => (0..list.len()).rev().map(|a| Edit::Cut(a, a + 1)).collect(),
        Stage::Settings => settings(script),
        Stage::Bursts => each(&bursts),
        Stage::Timing => {
            let mut out = vec![Edit::Steady];
            if script.raw.get("settle").is_none_or(|v| v != "none") {
                out.push(Edit::Set("settle", "none".into()));
            }
            out.extend(each(&timing));
            out
        }
        Stage::Details => each(&details),
    }
}

/// Every setting that is not the default, all at once and one by one.
fn settings(script: &Script) -> Vec<Edit> {
    let mut out = Vec::new();
    for k in ["sysctl", "listener", "handshake", "route", "mtu", "isn", "tsecr", "rx_path", "about", "gap"] {
        let Some(value) = script.raw.get(k) else { continue };
        out.push(Edit::Top(k));
        match value {
            Value::Object(m) => out.extend(m.keys().map(|name| Edit::Within(k, name.clone()))),
            Value::Array(a) if k == "listener" => out.extend((0..a.len()).map(Edit::Listener)),
            _ => {}
        }
    }
    out
}

fn with(op: &Map<String, Value>, key: &str, value: impl Into<Value>) -> Value {
    let mut op = op.clone();
    op.insert(key.to_owned(), value.into());
    Value::Object(op)
}

fn without(op: &Map<String, Value>, keys: &[&str]) -> Value {
    let mut op = op.clone();
    op.retain(|k, _| !keys.contains(&k.as_str()));
    Value::Object(op)
}

/// Bursts with fewer segments; one of a single segment is that segment.
fn bursts(op: &Map<String, Value>) -> Vec<Value> {
    let mut out = Vec::new();
    let number = |k: &str| op.get(k).and_then(Value::as_u64).unwrap_or(0);
    match (op.get("op").and_then(Value::as_str), op.get("segs").and_then(Value::as_array)) {
        (Some("burst"), Some(segs)) if !segs.is_empty() => {
            let n = segs.len();
            if let [Value::Object(only)] = segs.as_slice() {
                let mut one = only.clone();
                one.insert("op".to_owned(), "inject".into());
                for k in ["gap", "ph", "settle"] {
                    if let Some(v) = op.get(k) {
                        one.insert(k.to_owned(), v.clone());
                    }
                }
                return vec![Value::Object(one)];
            }
            let half = n / 2;
            for piece in [segs.get(..1), segs.get(..half), segs.get(half..)].into_iter().flatten() {
                out.push(with(op, "segs", piece.to_vec()));
            }
            // Long bursts are halved first; later rounds take single segments.
            if n <= 8 {
                for i in 0..n {
                    let mut left = segs.clone();
                    left.remove(i);
                    out.push(with(op, "segs", left));
                }
            } else {
                out.push(with(op, "segs", segs.get(..n - 1).unwrap_or_default().to_vec()));
                out.push(with(op, "segs", segs.get(1..).unwrap_or_default().to_vec()));
            }
        }
        (Some("burst"), _) => {
            let n = number("count");
            if n <= 1 {
                return vec![with_op(&without(op, &["count", "stride"]), "inject")];
            }
            out.extend([1, n / 2, n - 1].into_iter().map(|c| with(op, "count", c)));
        }
        (Some("fill"), _) => {
            let n = match number("max") {
                0 => 64,
                n => n,
            };
            out.extend([1, n / 2, n - 1].into_iter().filter(|c| *c > 0).map(|c| with(op, "max", c)));
        }
        _ => {}
    }
    out
}

fn with_op(op: &Value, name: &str) -> Value {
    op.as_object().map_or(Value::Null, |map| with(map, "op", name))
}

/// One tick, no settling of its own, short sleeps.
fn timing(op: &Map<String, Value>) -> Vec<Value> {
    let mut out: Vec<Value> =
        ["gap", "settle"].iter().filter(|k| op.contains_key(**k)).map(|k| without(op, &[k])).collect();
    if let Some(gap) = op.get("gap").and_then(Value::as_u64).filter(|g| *g > 2) {
        out.push(with(op, "gap", gap / 2));
        out.push(with(op, "gap", gap - 1));
    }
    if let Some(ms) = op.get("ms").and_then(Value::as_u64).filter(|n| *n > 1) {
        out.push(with(op, "ms", ms / 2));
    }
    out
}

/// Flags and oddities left out, lengths and reads smaller or round.
fn details(op: &Map<String, Value>) -> Vec<Value> {
    const PLAIN: [&str; 13] = [
        "flags", "win", "ack", "tsadd", "tsval", "tsecr", "no_ts", "alt", "aside", "partial", "quiet",
        "about", "seq",
    ];
    let mut out = Vec::new();
    for k in PLAIN {
        // A plain segment is the next one; a burst without a place of its own is, too.
        if op.contains_key(k) {
            out.push(without(op, &[k]));
        }
    }
    if let Some(len) = op.get("len").and_then(Value::as_u64) {
        if !op.contains_key("count") {
            out.push(without(op, &["len"]));
        }
        out.extend(smaller(len).map(|n| with(op, "len", n)));
    }
    if let Some(n) = op.get("n").and_then(Value::as_u64) {
        out.extend(smaller(n).map(|n| with(op, "n", n)));
    }
    if let Some(Value::Array(segs)) = op.get("segs") {
        let all = |f: &dyn Fn(&Map<String, Value>) -> Value| {
            segs.iter().map(|s| s.as_object().map_or_else(|| s.clone(), f)).collect::<Vec<_>>()
        };
        out.push(with(op, "segs", all(&|s| without(s, &["flags"]))));
        out.push(with(op, "segs", all(&|s| without(s, &["seq"]))));
        let first = segs.first().and_then(|s| s.get("len")).and_then(Value::as_u64).unwrap_or(0);
        out.push(with(op, "segs", all(&|s| with(s, "len", first))));
        for n in smaller(first) {
            out.push(with(op, "segs", all(&|s| with(s, "len", n))));
        }
        let plain = |s: &Value| s.as_object().is_some_and(|m| m.len() == 1 && m.contains_key("len"));
        let same = segs.iter().all(|s| plain(s) && Some(s) == segs.first());
        if same && segs.len() > 1 {
            let mut short = op.clone();
            short.remove("segs");
            short.insert("len".to_owned(), first.into());
            short.insert("count".to_owned(), json!(segs.len()));
            out.push(Value::Object(short));
        }
    }
    out
}

/// Lengths below `n` that are worth trying, small first.
fn smaller(n: u64) -> impl Iterator<Item = u64> {
    let mut list = vec![0, 1, 100, 1000, 1448, n / 2, n - n % 100, n.saturating_sub(1)];
    list.retain(|k| *k < n);
    let mut seen = HashSet::new();
    list.into_iter().filter(move |k| seen.insert(*k))
}

#[cfg(test)]
mod tests {
    use super::super::generate::{self, Target};
    use super::*;

    fn one(v: Value) -> Script {
        match v {
            Value::Object(map) => Script::from_map(map).unwrap(),
            v => panic!("{v}"),
        }
    }

    /// Shrinks with a predicate for a kernel; how many scripts it ran.
    fn shrink(script: Script, fails: &dyn Fn(&Script) -> bool) -> (Script, usize) {
        assert!(fails(&script));
        let mut s = Shrinker::new(script);
        let mut ran = 0;
        while let Some(batch) = s.next() {
            assert!(batch.len() <= WIDTH);
            ran += batch.len();
            s.verdicts(&batch.iter().map(fails).collect::<Vec<_>>());
            assert!(fails(s.best()));
        }
        (s.best().clone(), ran)
    }

    fn has(s: &Script, f: &dyn Fn(&Op) -> bool) -> bool {
        s.steps.iter().any(|x| f(&x.op))
    }

    #[test]
    fn only_what_fails_is_left() {
        let t = Target::default();
        let mut found = 0;
        for i in 0..150 {
            let script = generate::script(2, i, &t).unwrap();
            // Something beyond a hole, with a read before it.
            let fails = |s: &Script| {
                let read = s.steps.iter().position(|x| matches!(x.op, Op::Read { .. }));
                let hole = |x: &Op| matches!(x, Op::Inject(i) if i.seq.offset > 100 && i.len >= 200);
                let hole = s.steps.iter().rposition(|x| hole(&x.op));
                matches!((read, hole), (Some(a), Some(b)) if a < b)
            };
            if !fails(&script) {
                continue;
            }
            found += 1;
            let (small, ran) = shrink(script, &fails);
            let text = Value::Object(small.raw.clone()).to_string();
            assert_eq!(small.steps.len(), 2, "{text}");
            assert!(small.sysctl.is_empty() && small.listener.is_empty() && small.mtu == 1500, "{text}");
            assert!(!text.contains("gap") && !text.contains("handshake"), "{text}");
            assert!(ran <= ROUNDS as usize * WIDTH, "{ran}");
        }
        assert!(found > 20, "{found}");
    }

    #[test]
    fn settings_that_matter_stay() {
        let script = one(json!({"name": "x", "mtu": 9000, "sysctl": {"tcp_rmem": "1 2 3", "tcp_sack": 0},
            "listener": [["SO_RCVBUF", 5], ["SO_RCVLOWAT", 7]], "handshake": {"mss": 536, "ts": true},
            "ops": [{"op": "inject", "len": 9, "gap": 40}, {"op": "sleep", "ms": 80}]}));
        let (small, _) = shrink(script, &|s| {
            s.sysctl.contains_key("net.ipv4.tcp_sack")
                && s.listener.iter().any(|(_, v)| *v == 7)
                && s.handshake.ts
                && has(s, &|o| matches!(o, Op::Inject(_)))
        });
        assert_eq!(
            Value::Object(small.raw),
            json!({"name": "x", "sysctl": {"tcp_sack": 0}, "listener": [["SO_RCVLOWAT", 7]],
                "handshake": {"ts": true}, "settle": "none", "ops": [{"op": "inject"}]})
        );
    }

    #[test]
    fn lists_are_written_out_and_bursts_get_short() {
        let segs: Vec<Value> = (0..33).map(|_| json!({"seq": "next", "len": 700, "flags": "AP"})).collect();
        let script = one(json!({"name": "x", "ops": [
            {"op": "repeat", "n": 5, "ops": [{"op": "inject", "len": 5}, {"op": "reads", "n": 5, "count": 4}]},
            {"op": "burst", "segs": segs}]}));
        let (small, _) = shrink(script, &|s| {
            let reads = s.steps.iter().filter(|x| matches!(x.op, Op::Read { .. })).count();
            let n = |o: &Op| match o {
                Op::Burst { segs, count, .. } => segs.len() + *count as usize,
                _ => 0,
            };
            reads >= 2 && s.steps.iter().any(|x| n(&x.op) >= 3)
        });
        let text = Value::Object(small.raw.clone()).to_string();
        assert_eq!(small.steps.len(), 3, "{text}");
        let Op::Burst { segs, count, .. } = &small.steps[2].op else { panic!("{text}") };
        assert_eq!(segs.len() + *count as usize, 3, "{text}");
        assert!(!text.contains("AP") && !text.contains("repeat"), "{text}");
    }

    #[test]
    fn a_gap_that_matters_shrinks_to_what_it_takes() {
        let script =
            one(json!({"name": "x", "ops": [{"op": "inject", "len": 9}, {"op": "inject", "gap": 40}]}));
        let (small, _) = shrink(script, &|s| s.steps.iter().any(|x| x.gap >= 12));
        assert_eq!(small.steps.iter().map(|x| x.gap).collect::<Vec<_>>(), [12]);
    }

    #[test]
    fn it_ends_whatever_it_is_told() {
        let t = Target::default();
        for i in 0..20 {
            let script = generate::script(4, i, &t).unwrap();
            // Nothing fails again.
            let mut s = Shrinker::new(script.clone());
            let mut rounds = 0;
            while let Some(batch) = s.next() {
                rounds += 1;
                s.verdicts(&vec![false; batch.len()]);
            }
            assert!(rounds <= ROUNDS);
            assert_eq!(s.best().raw, script.raw);
            // Everything fails.
            let (small, _) = shrink(script.clone(), &|_| true);
            assert!(small.steps.is_empty());
            // By chance, and with answers missing.
            let mut s = Shrinker::with_limits(script, 10, 3);
            let mut coin = i;
            let mut rounds = 0;
            while let Some(batch) = s.next() {
                rounds += 1;
                coin = coin.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                s.verdicts(&vec![coin >> 40 & 1 == 1; batch.len() - usize::from(coin >> 50 & 1 == 1)]);
            }
            assert!(rounds <= 10);
        }
    }
}
