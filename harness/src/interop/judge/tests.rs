//! Each rule on traces of a few segments; then senders with one fault each, caught and for nothing else.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::*;
use crate::interop::cell::{self, Plan};
use crate::interop::matrix::conclude;
use crate::interop::peer::bad::{self, How};
use crate::interop::peer::spec::PeerSpec;
use crate::interop::peer::{Job, Shop};
use crate::interop::situation::Situation;
use crate::interop::trace::{Seen, Way};
use crate::observer::segment::{ACK, FIN, RST};
use crate::scenario::Clock;

const MS: u64 = SECOND / 1000;

/// A trace in the making; times in milliseconds.
#[derive(Default)]
struct Tape {
    trace: Trace,
}

impl Tape {
    fn push(mut self, seen: Seen) -> Self {
        self.trace.segments.push(seen);
        self
    }

    fn seen(&self, ms: u64, way: Way, flags: u8) -> Seen {
        Seen {
            packet: self.trace.segments.len() as u64 + 1,
            t: ms * MS,
            since: ms * MS,
            way,
            lost: false,
            flags,
            seq: 0,
            len: 0,
            ack: None,
            window: None,
            sack: Vec::new(),
            tsval: None,
            tsecr: None,
            wrong_byte: None,
        }
    }

    fn data(self, ms: u64, seq: i64, len: u32) -> Self {
        let seen = Seen { seq, len, ..self.seen(ms, Way::FromPeer, ACK) };
        self.push(seen)
    }

    fn echoing(self, ms: u64, seq: i64, len: u32, tsecr: u32) -> Self {
        let seen = Seen { seq, len, tsecr: Some(tsecr), ..self.seen(ms, Way::FromPeer, ACK) };
        self.push(seen)
    }

    fn fin(mut self, ms: u64, seq: i64) -> Self {
        self.trace.fin = Some(seq);
        let seen = Seen { seq, ..self.seen(ms, Way::FromPeer, ACK | FIN) };
        self.push(seen)
    }

    fn reset(self, ms: u64, seq: i64) -> Self {
        let seen = Seen { seq, ..self.seen(ms, Way::FromPeer, RST) };
        self.push(seen)
    }

    fn ack(mut self, ms: u64, ack: i64, window: i64) -> Self {
        self.trace.received = self.trace.received.max(ack);
        let seen = Seen { ack: Some(ack), window: Some(window), ..self.seen(ms, Way::ToPeer, ACK) };
        self.push(seen)
    }

    fn stamped(self, ms: u64, ack: i64, window: i64, tsval: u32) -> Self {
        let mut tape = self.ack(ms, ack, window);
        tape.last().tsval = Some(tsval);
        tape
    }

    fn last(&mut self) -> &mut Seen {
        self.trace.segments.last_mut().unwrap()
    }

    fn lost(mut self) -> Self {
        self.last().lost = true;
        self
    }

    /// The verdicts if it ends so after `ms`.
    fn verdicts(&self, end: End, ms: u64) -> Vec<Verdict> {
        self.of(end, ms, None, None)
    }

    fn of(&self, end: End, ms: u64, total: Option<u64>, error: Option<&str>) -> Vec<Verdict> {
        judge(&Case { trace: &self.trace, end, ended_at: ms * MS, error, total, grace: 10 * MS })
    }
}

/// What was found of a clause.
fn found(verdicts: &[Verdict], id: &str) -> Option<Outcome> {
    verdicts.iter().find(|v| v.clause.id == id).map(|v| v.outcome)
}

fn words<'a>(verdicts: &'a [Verdict], id: &str) -> &'a str {
    verdicts.iter().find(|v| v.clause.id == id).map_or("", |v| &v.words)
}

fn tape() -> Tape {
    Tape::default().ack(0, 0, 10_000)
}

/// 10 000 bytes in flight, of which the receiver takes none; then the window is what `window` says.
fn shrunk(window: i64) -> Tape {
    (0..10).fold(tape(), |t, i| t.data(1, i * 1000, 1000)).ack(10, 0, window)
}

// ---- data, acked ---------------------------------------------------------------------------------------------------

#[test]
fn a_wrong_byte_a_short_stream_and_a_missing_rest_are_told_apart() {
    let whole = tape().data(1, 0, 1000).fin(1, 1000).ack(2, 1001, 9000);
    assert_eq!(found(&whole.of(End::Complete, 3, Some(1000), None), "data"), Some(Outcome::Kept));
    let short = whole.of(End::Complete, 3, Some(1001), None);
    assert_eq!(found(&short, "data"), Some(Outcome::Broken));
    assert!(words(&short, "data").contains("ends at 1000"), "{short:?}");
    let cut = tape().data(1, 0, 1000).ack(2, 1000, 9000).of(End::TimeLimit, 3, Some(5000), None);
    assert_eq!(found(&cut, "data"), Some(Outcome::Inconclusive));
    let mut wrong = tape().data(1, 0, 1000);
    wrong.last().wrong_byte = Some(7);
    let wrong = wrong.ack(2, 1000, 9000).verdicts(End::Complete, 3);
    assert_eq!(found(&wrong, "data"), Some(Outcome::Broken));
    assert_eq!(wrong.iter().find(|v| v.clause.id == "data").unwrap().packets, [2]);
}

#[test]
fn what_is_enough_is_well() {
    let t = tape().data(1, 0, 1000).ack(2, 1000, 9000);
    let v = t.verdicts(End::Enough, 3);
    assert_eq!(found(&v, "data"), Some(Outcome::Kept));
    assert_eq!(Overall::of(&v), Overall::Clean);
}

#[test]
fn an_acknowledgement_beyond_the_edge_must_count() {
    // The edge was at 10 000, moves to 4000, and then 8000 are acknowledged.
    let base = || shrunk(4000).ack(20, 8000, 10_000);
    let good = base().data(30, 8000, 1000).verdicts(End::Complete, 40);
    assert_eq!(found(&good, "acked"), Some(Outcome::Kept));
    let deaf = (0..3).fold(base(), |t, i| t.data(2000 + i * 400, 0, 1000));
    assert_eq!(found(&deaf.verdicts(End::TimeLimit, 4000), "acked"), Some(Outcome::Broken));
    // What crosses the acknowledgement on the wire says nothing.
    let crossing = (0..3).fold(base(), |t, i| t.data(25 + i, 0, 1000));
    assert_eq!(found(&crossing.verdicts(End::TimeLimit, 100), "acked"), Some(Outcome::Kept));
}

// ---- in-window, SHLD-15, MAY-7 -------------------------------------------------------------------------------------

#[test]
fn new_data_beyond_the_edge() {
    let v = tape().data(50, 0, 10_000).data(51, 10_000, 1).verdicts(End::Complete, 60);
    assert_eq!(found(&v, "in-window"), Some(Outcome::Broken));
    assert_eq!(found(&v, "SHLD-15"), None, "the window never shrank");
    let v = shrunk(4000).data(100, 10_000, 1000).verdicts(End::Complete, 200);
    assert_eq!(
        (found(&v, "in-window"), found(&v, "SHLD-15")),
        (Some(Outcome::Broken), Some(Outcome::Broken))
    );
    let v = shrunk(4000).data(100, 0, 1000).verdicts(End::Complete, 200);
    assert_eq!((found(&v, "in-window"), found(&v, "SHLD-15")), (Some(Outcome::Kept), Some(Outcome::Kept)));
}

#[test]
fn what_was_under_way_when_the_edge_moved_is_no_offence() {
    // Within the grace of 10 ms it cannot have been heard.
    let t = || tape().data(1, 0, 5000).ack(10, 0, 4000);
    let v = t().data(15, 5000, 1000).verdicts(End::Complete, 200);
    assert_eq!(found(&v, "in-window"), Some(Outcome::Kept));
    let v = t().data(21, 5000, 1000).verdicts(End::Complete, 200);
    assert_eq!(found(&v, "in-window"), Some(Outcome::Broken));
}

#[test]
fn an_echoed_timestamp_proves_what_was_heard() {
    let t = || Tape::default().stamped(0, 0, 10_000, 100).echoing(1, 0, 5000, 100).stamped(10, 0, 4000, 101);
    let still = t().echoing(12, 5000, 1000, 100).verdicts(End::Complete, 200);
    assert_eq!(found(&still, "in-window"), Some(Outcome::Kept));
    let heard = t().echoing(12, 5000, 1000, 101).verdicts(End::Complete, 200);
    assert_eq!(found(&heard, "in-window"), Some(Outcome::Broken));
    assert!(words(&heard, "in-window").contains("smaller window of packet 3"), "{heard:?}");
}

#[test]
fn an_octet_at_a_closed_edge_is_a_probe_and_a_fin_needs_no_room() {
    let v = tape()
        .data(1, 0, 10_000)
        .ack(2, 10_000, 0)
        .data(500, 10_000, 1)
        .fin(600, 10_001)
        .verdicts(End::Complete, 700);
    assert_eq!(found(&v, "in-window"), Some(Outcome::Kept));
    let v = tape().data(1, 0, 10_000).ack(2, 10_000, 0).data(500, 10_000, 2).verdicts(End::Complete, 700);
    assert_eq!(found(&v, "in-window"), Some(Outcome::Broken));
}

#[test]
fn old_data_beyond_the_edge_are_a_matter_of_taste() {
    let v = shrunk(4000).data(300, 5000, 1000).verdicts(End::Complete, 400);
    assert_eq!(found(&v, "MAY-7"), Some(Outcome::Taken));
    let v = shrunk(4000).data(300, 0, 1000).verdicts(End::Complete, 400);
    assert_eq!(found(&v, "MAY-7"), Some(Outcome::NotTaken));
    assert!(!v.iter().any(|v| v.outcome == Outcome::Broken), "{v:?}");
}

// ---- SHLD-16, MUST-19 ----------------------------------------------------------------------------------------------

#[test]
fn old_data_within_the_window_are_due() {
    let v = shrunk(4000).data(1000, 0, 1000).ack(1001, 10_000, 10_000).verdicts(End::Complete, 1100);
    assert_eq!(found(&v, "SHLD-16"), Some(Outcome::Kept));
    let late = shrunk(4000).data(13_000, 0, 1000).ack(13_001, 10_000, 10_000).verdicts(End::Complete, 13_100);
    assert_eq!(found(&late, "SHLD-16"), Some(Outcome::Broken));
    // A time-out that has doubled that far is in order.
    let backed_off =
        [300, 900, 2100, 4500, 9300, 18_900].iter().fold(shrunk(4000), |t, ms| t.data(*ms, 0, 1000));
    let v = backed_off.ack(18_901, 10_000, 10_000).verdicts(End::Complete, 19_000);
    assert_eq!(found(&v, "SHLD-16"), Some(Outcome::Kept));
    // What the receiver says last counts, too: here nothing is owed behind it.
    let v = shrunk(4000).data(500, 0, 1000).ack(501, 4000, 0).verdicts(End::TimeLimit, 60_000);
    assert_eq!(found(&v, "SHLD-16"), Some(Outcome::Kept));
    let v = shrunk(4000).data(500, 0, 1000).ack(501, 1000, 3000).verdicts(End::TimeLimit, 60_000);
    assert_eq!(found(&v, "SHLD-16"), Some(Outcome::Broken));
}

#[test]
fn the_time_out_doubles() {
    let tries = |at: &[u64]| {
        at.iter().fold(shrunk(4000), |t, ms| t.data(*ms, 0, 1000)).verdicts(End::Complete, 90_000)
    };
    assert_eq!(found(&tries(&[300, 900, 2100, 4500]), "MUST-19"), Some(Outcome::Kept));
    let steady = tries(&[400, 800, 1200, 1600, 2000]);
    assert_eq!(found(&steady, "MUST-19"), Some(Outcome::Broken));
    assert!(words(&steady, "MUST-19").contains("400 ms, 400 ms"));
    assert_eq!(found(&tries(&[400, 800, 1200]), "MUST-19"), None, "three are too few to tell");
    // With progress in between it begins anew.
    let moving = (1..6).fold(shrunk(9000), |t, i| {
        t.data(400 * i, (i as i64 - 1) * 1000, 1000).ack(400 * i + 1, i as i64 * 1000, 9000)
    });
    assert_ne!(found(&moving.verdicts(End::Complete, 90_000), "MUST-19"), Some(Outcome::Broken));
}

#[test]
fn nothing_is_sent_twice_without_a_sign_of_loss() {
    let twice = (0..4).fold(tape(), |t, i| t.data(1, i * 1000, 1000).data(1, i * 1000, 1000));
    assert_eq!(found(&twice.verdicts(End::Complete, 5), "MUST-19"), Some(Outcome::Broken));
    let answered =
        (0..4).fold(tape(), |t, i| t.data(1, i * 1000, 1000).ack(1, 0, 10_000).data(1, i * 1000, 1000));
    assert_eq!(found(&answered.verdicts(End::Complete, 5), "MUST-19"), None);
}

#[test]
fn a_flood_is_an_offence_however_it_is_answered() {
    let v = tape().data(1, 0, 1000).ack(1, 1000, 9000).verdicts(End::Flood, 5);
    assert_eq!(found(&v, "MUST-19"), Some(Outcome::Broken));
    assert_eq!(Overall::of(&v), Overall::Must);
}

// ---- MUST-35, MUST-36, SHLD-29, SHLD-30 ----------------------------------------------------------------------------

/// A window that is used up, or one that shrinks to nothing.
fn closed(by_shrinking: bool) -> Tape {
    if by_shrinking { shrunk(0) } else { tape().data(1, 0, 10_000).ack(10, 10_000, 0) }
}

#[test]
fn a_closed_window_is_probed() {
    for (by_shrinking, clause, other) in [(true, "MUST-35", "MUST-36"), (false, "MUST-36", "MUST-35")] {
        let silent = closed(by_shrinking).verdicts(End::TimeLimit, 25_000);
        assert_eq!((found(&silent, clause), found(&silent, other)), (Some(Outcome::Broken), None));
        let brief = closed(by_shrinking).verdicts(End::TimeLimit, 10_000);
        assert_eq!(found(&brief, clause), Some(Outcome::Inconclusive));
        let una = if by_shrinking { 0 } else { 10_000 };
        let probed = closed(by_shrinking).data(300, una - 1, 1).verdicts(End::TimeLimit, 25_000);
        assert_eq!(found(&probed, clause), Some(Outcome::Kept));
        // An empty segment in front of what is acknowledged asks as well.
        let probed = closed(by_shrinking).data(300, una - 1, 0).verdicts(End::TimeLimit, 25_000);
        assert_eq!(found(&probed, clause), Some(Outcome::Kept));
        // But not an acknowledgement of ours.
        let idle = closed(by_shrinking).data(300, una, 0).verdicts(End::TimeLimit, 25_000);
        assert_eq!(found(&idle, clause), Some(Outcome::Broken));
        let quit = closed(by_shrinking).reset(16_000, una).verdicts(End::Reset, 16_000);
        assert_eq!(found(&quit, clause), Some(Outcome::Broken));
    }
}

#[test]
fn probes_come_in_time_and_with_growing_pauses() {
    let at = |all: &[u64]| {
        all.iter().fold(closed(false), |t, ms| t.data(*ms, 9999, 0)).verdicts(End::TimeLimit, 90_000)
    };
    let good = at(&[300, 700, 1500, 3100, 6300]);
    assert_eq!(
        (found(&good, "SHLD-29"), found(&good, "SHLD-30")),
        (Some(Outcome::Kept), Some(Outcome::Kept))
    );
    let late = at(&[7000, 21_000]);
    assert_eq!((found(&late, "SHLD-29"), found(&late, "SHLD-30")), (Some(Outcome::Broken), None));
    let steady = at(&[400, 800, 1200, 1600, 2000]);
    assert_eq!(found(&steady, "SHLD-30"), Some(Outcome::Broken));
    let capped = at(&[300, 900, 2100, 4500, 9300, 18_900, 38_100, 75_000]);
    assert_eq!(found(&capped, "SHLD-30"), Some(Outcome::Kept));
}

// ---- MUST-34, MUST-37, SHLD-17, SHLD-11 ----------------------------------------------------------------------------

#[test]
fn a_reset_is_blamed_for_what_it_follows() {
    let at_once = shrunk(0).reset(50, 10_000).verdicts(End::Reset, 50);
    assert_eq!(found(&at_once, "MUST-34"), Some(Outcome::Broken));
    let probes = |t: Tape| [300, 900, 2100].iter().fold(t, |t, ms| t.data(*ms, 0, 1000).ack(ms + 1, 0, 0));
    let answered = probes(shrunk(0)).reset(10_000, 10_000).verdicts(End::Reset, 10_000);
    assert_eq!((found(&answered, "MUST-37"), found(&answered, "SHLD-11")), (Some(Outcome::Broken), None));
    let asked_nothing = shrunk(0).reset(10_000, 10_000).verdicts(End::Reset, 10_000);
    assert_eq!(
        (found(&asked_nothing, "SHLD-17"), found(&asked_nothing, "MUST-37")),
        (Some(Outcome::Broken), None)
    );
    let ordinary = closed(false).reset(10_000, 10_000).verdicts(End::Reset, 10_000);
    assert_eq!(found(&ordinary, "MUST-37"), Some(Outcome::Inconclusive));
    let unanswered = |ms| {
        let t = [300, 900, 2100].iter().fold(shrunk(0), |t, ms| t.data(*ms, 0, 1000));
        t.reset(ms, 10_000).verdicts(End::Reset, ms)
    };
    assert_eq!(found(&unanswered(50_000), "SHLD-11"), Some(Outcome::Broken));
    assert_eq!(found(&unanswered(120_000), "SHLD-11"), Some(Outcome::Kept));
    let open = probes(shrunk(4000)).ack(2200, 0, 4000).reset(10_000, 10_000).verdicts(End::Reset, 10_000);
    assert_eq!(found(&open, "SHLD-17"), Some(Outcome::Broken));
    let never = tape().data(1, 0, 1000).ack(2, 1000, 9000).reset(3000, 1000).verdicts(End::Reset, 3000);
    assert_eq!(found(&never, "MUST-34"), Some(Outcome::Inconclusive));
}

#[test]
fn giving_up_without_a_word_is_told_by_the_peer() {
    let t = [300, 900, 2100].iter().fold(shrunk(0), |t, ms| t.data(*ms, 0, 1000).ack(ms + 1, 0, 0));
    let v = t.of(End::GaveUp, 30_000, None, Some("ETIMEDOUT"));
    assert_eq!(found(&v, "MUST-37"), Some(Outcome::Broken));
    assert!(words(&v, "MUST-37").contains("ETIMEDOUT"));
    let v = shrunk(0).of(End::PeerGone, 30_000, None, None);
    assert_eq!(found(&v, "MUST-34"), Some(Outcome::Inconclusive), "who failed cannot be seen");
}

#[test]
fn patience_is_seen_and_a_hang_is_told_from_a_short_look() {
    let through = shrunk(0).data(300, 0, 1000).ack(301, 0, 0).ack(10_000, 0, 10_000).data(10_001, 0, 10_000);
    let v = through.ack(10_002, 10_000, 10_000).verdicts(End::Complete, 11_000);
    for id in ["MUST-34", "MUST-37", "SHLD-17", "MUST-35"] {
        assert_eq!(found(&v, id), Some(Outcome::Kept), "{id}");
    }
    let hangs = |ms| shrunk(0).ack(1000, 0, 10_000).verdicts(End::TimeLimit, ms);
    assert_eq!(found(&hangs(122_000), "MUST-34"), Some(Outcome::Broken));
    assert_eq!(found(&hangs(60_000), "MUST-34"), Some(Outcome::Inconclusive));
    // The update that would open the window was lost: the window is closed as far as the peer knows.
    let lost = shrunk(0).ack(1000, 0, 10_000).lost().verdicts(End::TimeLimit, 122_000);
    assert_eq!(found(&lost, "MUST-34"), Some(Outcome::Inconclusive));
    assert_eq!(found(&lost, "MUST-35"), Some(Outcome::Broken));
}

#[test]
fn figures_measure_the_way_back() {
    let t = shrunk(0)
        .ack(1000, 0, 10_000)
        .data(1200, 0, 10_000)
        .ack(1201, 10_000, 10_000)
        .data(1300, 10_000, 10_000);
    let t = t.ack(2000, 20_000, 10_000);
    let case =
        Case { trace: &t.trace, end: End::Complete, ended_at: 2000 * MS, error: None, total: None, grace: 0 };
    let f = figures(&case);
    assert_eq!((f.retractions, f.closed, f.recovery), (1, 0.99, Some(0.201)));
    assert_eq!((f.bytes, f.bytes_again, f.goodput), (20_000, 10_000, Some(20_000.0)));
}

#[test]
fn a_trace_without_anything_has_no_verdicts_that_blame() {
    for end in
        [End::Complete, End::Enough, End::Reset, End::GaveUp, End::PeerGone, End::TimeLimit, End::Interrupted]
    {
        let v = Tape::default().verdicts(end, 1_000_000);
        assert!(!v.iter().any(|v| v.outcome == Outcome::Broken), "{end:?}: {v:?}");
    }
    assert!(Tape::default().verdicts(End::NoConnection, 0).is_empty());
}

// ---- senders with a fault ------------------------------------------------------------------------------------------

/// What is broken, by situation.
fn broken(peer: &str, situations: &[Situation]) -> BTreeMap<String, BTreeSet<&'static str>> {
    let peer: PeerSpec = peer.parse().unwrap();
    let mut all = BTreeMap::new();
    for s in situations {
        let plan = Plan::new(s.clone(), Clock::Virtual);
        let job = Job { bytes: s.bytes.0, clock: Clock::Virtual };
        let stop = Arc::default();
        let mut capture = crate::interop::capture::Capture::none();
        let ran = peer
            .with_wire(job, &Shop::default(), |wire| cell::run(&plan, wire, &mut capture, &stop))
            .unwrap();
        let judged = conclude(&ran, &plan);
        let these = judged.verdicts.iter().filter(|v| v.outcome == Outcome::Broken).map(|v| v.clause.id);
        all.insert(s.name.clone(), these.collect());
    }
    all
}

#[test]
fn a_sender_by_the_letter_is_clean_in_every_situation() {
    let all = Situation::list();
    assert!(all.len() > 20);
    for (situation, broken) in broken("model", &all) {
        assert!(broken.is_empty(), "{situation}: {broken:?}");
    }
}

/// A fault, a clause it must be caught by with a situation that does, and what else follows from it.
type Expected = (How, &'static [(&'static str, &'static str)], &'static [&'static str]);

const EXPECTED: &[Expected] = &[
    (How::KeepsWindow, &[("shrink-in-duplicates", "in-window"), ("shrink-in-duplicates", "SHLD-15")], &[]),
    // Who believes the window is open gives up when what lies in it is never acknowledged.
    (How::IgnoresEdge, &[("shrink-in-flight", "in-window"), ("shrink-in-flight", "SHLD-15")], &["MUST-37"]),
    // Who never asks is timed out by a timer of its own.
    (
        How::NeverProbes,
        &[("zero-silent", "MUST-35"), ("zero-ordinary", "MUST-36"), ("update-lost", "MUST-35")],
        &["SHLD-17"],
    ),
    // The model's own timer backs off behind the probes, and old data wait for it.
    (How::ProbesSteadily, &[("zero-in-flight", "SHLD-30"), ("zero-ordinary", "SHLD-30")], &["SHLD-16"]),
    (How::NeedsSegment, &[("window-one", "SHLD-16")], &[]),
    (
        How::GivesUp,
        &[("zero-long", "MUST-37"), ("zero-ordinary", "MUST-37"), ("zero-silent", "SHLD-11")],
        &[],
    ),
    (How::Resets, &[("shrink-in-flight", "MUST-34"), ("natural", "MUST-34")], &[]),
    (
        How::FallsSilent,
        &[("shrink-in-flight", "MUST-34"), ("shrink-in-flight", "SHLD-16"), ("zero-silent", "MUST-35")],
        &["SHLD-17"],
    ),
    (How::Duplicates, &[("shrink-in-flight", "MUST-19"), ("slow-start", "MUST-19")], &[]),
    (How::Corrupts, &[("shrink-in-flight", "data"), ("shrink-loss", "data")], &[]),
    // What is not heard stops the stream.
    (How::DeafBeyondEdge, &[("ack-beyond-edge", "acked")], &["MUST-34", "SHLD-16"]),
    (How::StopsShort, &[("plain", "data"), ("fin-in-flight", "data")], &[]),
    (How::Floods, &[("plain", "MUST-19"), ("zero-in-flight", "MUST-19")], &[]),
];

#[test]
fn every_fault_is_caught_and_only_for_what_it_does() {
    let all = Situation::list();
    for (how, _) in bad::ALL {
        let (_, must, also) =
            EXPECTED.iter().find(|(h, ..)| h == how).unwrap_or_else(|| panic!("{how} is not expected"));
        let named = |s: &&Situation| must.iter().any(|(name, _)| *name == s.name);
        // A flood takes its time, and it is one everywhere.
        let these: Vec<_> = all.iter().filter(|s| *how != How::Floods || named(s)).cloned().collect();
        let broken = broken(&format!("bad:{how}"), &these);
        for (situation, clause) in *must {
            assert!(broken[*situation].contains(clause), "{how} in {situation}: {:?}", broken[*situation]);
        }
        let allowed: BTreeSet<_> = must.iter().map(|(_, c)| *c).chain(also.iter().copied()).collect();
        for (situation, clauses) in &broken {
            assert!(
                clauses.is_subset(&allowed),
                "{how} in {situation}: {clauses:?}, and only {allowed:?} is its fault"
            );
        }
    }
}
