//! What is sent again: old data within the window when they are due, with growing pauses, and only for a reason.

use std::collections::BTreeMap;

use super::clauses::{MUST_19, SHLD_16};
use super::view::View;
use super::{Case, End, Outcome, SECOND, Verdict, count, say, span};
use crate::interop::trace::Way;

/// How long old data within the window may wait. RFC 6298 §2 has a first time-out of 1 s, its predecessor 3 s; a sender whose
/// timer has run out twice by then waits for 12 s.
const PATIENCE: u64 = 12 * SECOND;

pub(super) fn judge(case: &Case<'_>, view: &View<'_>, out: &mut Vec<Verdict>) {
    due(case, view, out);
    paced(case, view, out);
}

/// A time in which old data lay within the window and were owed.
#[derive(Clone, Copy, Debug)]
struct Owed {
    since: u64,
    packet: u64,
    /// What the peer's own back-off allows.
    allowed: u64,
    una: i64,
    within: i64,
}

fn due(case: &Case<'_>, view: &View<'_>, out: &mut Vec<Verdict>) {
    let mut owed: Option<Owed> = None;
    // When each place was sent last, by the position it began at; and how long the peer waited before it sent the oldest
    // again: its own back-off.
    let mut sent: BTreeMap<i64, (i64, u64)> = BTreeMap::new();
    let mut pause = 0;
    let mut paid = 0usize;
    let mut paid_packet = None;
    let mut late: Vec<(Owed, u64)> = Vec::new();
    let settle = |owed: &mut Option<Owed>, t: u64, late: &mut Vec<(Owed, u64)>| {
        if let Some(o) = owed.take() {
            let waited = t.saturating_sub(o.since);
            if waited > o.allowed {
                late.push((o, waited));
            }
        }
    };
    let after = view.moments.iter().skip(1).copied();
    for ((s, m), n) in view.segments().zip(after) {
        match s.way {
            Way::FromPeer if s.is_data() => {
                if s.seq <= m.una && m.una < s.end() {
                    let before = sent.range(..=m.una).next_back().filter(|(_, (end, _))| *end > m.una);
                    if let Some((_, (_, before))) = before {
                        pause = pause.max(s.t.saturating_sub(*before));
                    }
                    if owed.is_some() {
                        paid += 1;
                        paid_packet = paid_packet.or(Some(s.packet));
                    }
                    settle(&mut owed, s.t, &mut late);
                }
                sent.insert(s.seq, (s.end(), s.t));
            }
            Way::ToPeer if !s.lost => {
                if n.una > m.una {
                    pause = 0;
                    sent = sent.split_off(&(n.una - i64::from(u16::MAX)));
                }
                if n.una > m.una || n.edge != m.edge {
                    settle(&mut owed, s.t, &mut late);
                }
            }
            _ => continue,
        }
        // After what just happened: are old data within the window, and has the window ever shrunk?
        let within = n.edge.unwrap_or(0).min(n.snd_max) - n.una;
        if n.shrunk && within > 0 && owed.is_none() {
            let allowed = PATIENCE.max(pause.saturating_mul(5) / 2);
            owed = Some(Owed { since: s.t, packet: s.packet, allowed, una: n.una, within });
        } else if within <= 0 {
            owed = None;
        }
    }
    if !matches!(case.end, End::Complete | End::Enough | End::Reset | End::Interrupted) {
        settle(&mut owed, view.end, &mut late);
    }
    if let Some((o, waited)) = late.iter().max_by_key(|(_, waited)| *waited) {
        let times = if late.len() > 1 { format!(" ({} times)", late.len()) } else { String::new() };
        let words = format!(
            "nothing for {}{times} although {} old bytes from {} on lay within the window; {} would have been in order",
            span(*waited),
            o.within,
            o.una,
            span(o.allowed)
        );
        say(out, &SHLD_16, Outcome::Broken, words, late.iter().map(|(o, _)| o.packet));
    } else if paid > 0 {
        let words = format!(
            "old data within the window were sent again when they were due ({})",
            count(paid, "time")
        );
        say(out, &SHLD_16, Outcome::Kept, words, paid_packet);
    }
}

/// Retransmissions of one place without progress: the pauses must grow. And nothing twice at once without a reason.
fn paced(case: &Case<'_>, view: &View<'_>, out: &mut Vec<Verdict>) {
    let mut tries: Vec<(u64, u64)> = Vec::new();
    let mut steady: Option<Vec<(u64, u64)>> = None;
    let mut longest = 0;
    let mut ended = Vec::new();
    for (s, m) in view.segments() {
        match s.way {
            // What follows at once belongs to the same try.
            Way::FromPeer
                if s.is_data()
                    && s.seq <= m.una
                    && m.una < s.end()
                    && !m.is_closed()
                    && tries.last().is_none_or(|(t, _)| s.t - t > super::probe::ONE_TRY) =>
            {
                tries.push((s.t, s.packet));
            }
            Way::ToPeer if !s.lost && (s.ack.is_some_and(|a| a > m.una) || s.edge() != m.edge) => {
                ended.push(std::mem::take(&mut tries));
            }
            _ => {}
        }
    }
    ended.push(tries);
    for tries in ended {
        longest = longest.max(tries.len());
        if !super::probe::grows(&tries) && steady.is_none() {
            steady = Some(tries);
        }
    }
    let twice = doubled(view);
    if case.end == End::Flood {
        let sent = view.data().count();
        let words = format!(
            "{} in {}, for {} bytes that arrived: it was stopped",
            count(sent, "segment"),
            span(view.end.saturating_sub(view.trace.segments.first().map_or(0, |s| s.t))),
            view.trace.received
        );
        say(out, &MUST_19, Outcome::Broken, words, view.data().last().map(|(s, _)| s.packet));
    } else if let Some(tries) = steady {
        let words = format!(
            "the same data were sent {} without progress, and the pauses do not grow: {}",
            count(tries.len(), "time"),
            super::probe::pauses(&tries)
        );
        say(out, &MUST_19, Outcome::Broken, words, tries.iter().map(|(_, p)| *p));
    } else if twice.len() >= NEEDLESS {
        let words =
            format!("{} were sent twice at once, without any sign of loss", count(twice.len(), "segment"));
        say(out, &MUST_19, Outcome::Broken, words, twice);
    } else if longest >= super::probe::ENOUGH {
        say(out, &MUST_19, Outcome::Kept, "the pauses between retransmissions grow", []);
    }
}

/// Segments sent twice within [`AT_ONCE`] while nothing came from the receiver.
fn doubled(view: &View<'_>) -> Vec<u64> {
    let mut recent: Vec<(i64, i64, u64)> = Vec::new();
    let mut twice = Vec::new();
    for (s, _) in view.segments() {
        match s.way {
            // Lost or not: as soon as anything is on its way, there may be a reason.
            Way::ToPeer => recent.clear(),
            Way::FromPeer if s.is_data() && s.len > 1 => {
                // They may have waited for us: at once is only what cannot have been further apart.
                recent.retain(|(_, _, since)| s.t - since <= AT_ONCE);
                if recent.iter().any(|(a, b, _)| *a <= s.seq && s.end() <= *b) {
                    twice.push(s.packet);
                }
                if recent.len() < 64 {
                    recent.push((s.seq, s.end(), s.since));
                }
            }
            Way::FromPeer => {}
        }
    }
    twice
}

/// No timer of a sender is as short: Linux' tail loss probe waits two ticks.
const AT_ONCE: u64 = SECOND / 500;
/// So many are no accident.
const NEEDLESS: usize = 3;
