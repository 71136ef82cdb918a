//! Does the connection survive, and if not, who ended it and when?

use super::clauses::{MUST_34, MUST_37, SHLD_11, SHLD_17};
use super::view::View;
use super::{Case, End, Outcome, SECOND, Verdict, say, span};
use crate::interop::trace::{Seen, Way};
use crate::observer::segment::RST;

/// A peer that resets so soon after the window shrank has not waited for anything.
const AT_ONCE: u64 = SECOND;
/// RFC 9293 §3.8.3: R2 is at least 100 s.
const R2: u64 = 100 * SECOND;
/// An open window that nothing was sent into for so long: the connection hangs. RFC 6298 §2.5 allows a time-out of 60 s;
/// two of them have passed.
const HANGS: u64 = 120 * SECOND;
/// A closed window this long is a test of patience.
const PATIENCE: u64 = 5 * SECOND;
/// An answer is one if it came this soon.
const SOON: u64 = SECOND;

pub(super) fn judge(case: &Case<'_>, view: &View<'_>, out: &mut Vec<Verdict>) {
    let shrunk = view.retractions().next();
    match case.end {
        End::Complete | End::Enough => {
            if let Some(o) = shrunk {
                let completed = if case.end == End::Complete { " and was completed" } else { "" };
                let words = format!("the connection went on{completed}");
                say(out, &MUST_34, Outcome::Kept, words, [o.packet]);
            }
            patient(view, out);
        }
        End::Reset | End::GaveUp => gave_up(case, view, out),
        End::TimeLimit | End::Flood => {
            patient(view, out);
            stalled(view, out);
        }
        End::PeerGone => {
            if let Some(o) = shrunk {
                let words = "the peer's process ended before it was done; whether its stack or its program failed cannot be seen from here";
                say(out, &MUST_34, Outcome::Inconclusive, words, [o.packet]);
            }
        }
        End::NoConnection | End::Interrupted => {}
    }
}

/// It outlived what it was to outlive.
fn patient(view: &View<'_>, out: &mut Vec<Verdict>) {
    let length = |c: &super::view::Closed| c.until.map_or(view.end, |o| o.t).saturating_sub(c.from.t);
    let Some(c) = view.closed().into_iter().max_by_key(length).filter(|c| length(c) >= PATIENCE) else {
        return;
    };
    let from = c.from.t;
    let until = c.until.map_or(view.end, |o| o.t);
    let answered = |s: &Seen| s.way == Way::ToPeer && !s.lost && s.t > from && s.t < until;
    let segments = &view.trace.segments;
    if view.asked(&c, until) && segments.iter().any(answered) {
        let words = format!("the connection stayed open through {} of a closed window", span(length(&c)));
        say(out, &MUST_37, Outcome::Kept, words, [c.from.packet]);
    }
    if c.shrunk {
        let words = format!(
            "no time-out in {} although data beyond the edge stayed unacknowledged",
            span(length(&c))
        );
        say(out, &SHLD_17, Outcome::Kept, words, [c.from.packet]);
    }
}

fn gave_up(case: &Case<'_>, view: &View<'_>, out: &mut Vec<Verdict>) {
    let reset = view.trace.segments.iter().find(|s| s.way == Way::FromPeer && s.has(RST));
    let (t, packet) = reset.map_or((view.end, None), |s| (s.t, Some(s.packet)));
    let how = match (reset, case.error) {
        (Some(_), _) => "reset the connection".to_owned(),
        (None, Some(error)) => format!("gave the connection up ({error})"),
        (None, None) => "gave the connection up".to_owned(),
    };
    let before = view.offers.partition_point(|o| o.t < t);
    let last = view.offers.get(..before).and_then(<[_]>::last);
    let shrunk = view.offers.get(..before).unwrap_or_default().iter().rev().find(|o| o.retracts());
    let closed = view.closed().into_iter().rev().find(|c| c.from.t < t && c.until.is_none_or(|o| o.t > t));
    // What the peer asked last, and when it last heard anything.
    let asked = view
        .trace
        .segments
        .iter()
        .rev()
        .find(|s| s.way == Way::FromPeer && s.t < t && (s.is_data() || !s.has(RST)));
    let heard = view.last_answer(t).map_or(0, |s| s.t);
    let since_heard = t.saturating_sub(heard);
    let unanswered = asked.is_some_and(|s| heard < s.t && t - s.t > SOON);
    let packets = packet.into_iter().chain(last.map(|o| o.packet));
    if unanswered && since_heard > SOON {
        if since_heard < R2 {
            let words = format!("{how} after {} without an answer", span(since_heard));
            say(out, &SHLD_11, Outcome::Broken, words, packets);
        } else {
            let words = format!("{how}, but only after {} without an answer", span(since_heard));
            say(out, &SHLD_11, Outcome::Kept, words, packets);
        }
        return;
    }
    match (closed, shrunk) {
        (_, Some(o)) if t.saturating_sub(o.t) < AT_ONCE => {
            let words = format!("{how} {} after the window shrank", span(t - o.t));
            say(out, &MUST_34, Outcome::Broken, words, packets);
        }
        (Some(c), _) if view.asked(&c, t) => {
            let words = format!(
                "{how} after {} of a closed window, although what it sent was answered (last {} before)",
                span(t - c.from.t),
                span(since_heard)
            );
            say(out, &MUST_37, Outcome::Broken, words, packets);
        }
        // Nothing was asked, so nothing was answered: no clause on probes speaks of it.
        (Some(c), _) if c.shrunk => {
            let words = format!("{how} after {} of a window that shrank to zero", span(t - c.from.t));
            say(out, &SHLD_17, Outcome::Broken, words, packets);
        }
        (Some(c), _) => {
            let words = format!("{how} after {} of a closed window", span(t - c.from.t));
            say(out, &MUST_37, Outcome::Inconclusive, words, packets);
        }
        (None, Some(o)) => {
            let words = format!(
                "{how} {} after the window shrank, although what it sent was answered",
                span(t - o.t)
            );
            say(out, &SHLD_17, Outcome::Broken, words, packets);
        }
        (None, None) => {
            let words = format!("{how} although the window was open and never shrank");
            say(out, &MUST_34, Outcome::Inconclusive, words, packets);
        }
    }
}

/// The window is open and nothing moves.
fn stalled(view: &View<'_>, out: &mut Vec<Verdict>) {
    let Some(last) = view.offers.last() else { return };
    let shrunk = view.retractions().next();
    // The last offer that opened anything, and the last that acknowledged anything.
    let opened = view.offers.iter().rev().find(|o| o.edge() > o.edge_before);
    let mut una = i64::MIN;
    let mut progressed = 0;
    for o in &view.offers {
        if o.ack > una {
            (una, progressed) = (o.ack, o.t);
        }
    }
    let since = progressed.max(opened.map_or(0, |o| o.t));
    let quiet = view.end.saturating_sub(since);
    if last.window == 0 {
        if let Some(o) = shrunk {
            let words = "the time was over while the window was closed";
            say(out, &MUST_34, Outcome::Inconclusive, words, [o.packet]);
        }
        return;
    }
    let Some(o) = shrunk else {
        let words = format!("no progress for {} with an open window, and it never shrank", span(quiet));
        return say(out, &MUST_34, Outcome::Inconclusive, words, [last.packet]);
    };
    let packets = opened.map(|o| o.packet).into_iter().chain([o.packet]);
    if quiet >= HANGS {
        let words = format!(
            "no progress in {} since the window last opened, to {} bytes from {}",
            span(quiet),
            last.window,
            last.ack
        );
        say(out, &MUST_34, Outcome::Broken, words, packets);
    } else {
        let words = format!(
            "the time was over {} after the last progress; less than {} does not settle it",
            span(quiet),
            span(HANGS)
        );
        say(out, &MUST_34, Outcome::Inconclusive, words, packets);
    }
}
