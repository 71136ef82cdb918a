//! What is sent beyond the right edge.

use super::clauses::{MAY_7, SHLD_15, WINDOW};
use super::view::{Moment, View};
use super::{Case, Outcome, Verdict, count, say};
use crate::interop::trace::Seen;

pub(super) fn judge(case: &Case<'_>, view: &View<'_>, out: &mut Vec<Verdict>) {
    let mut after_shrink = Vec::new();
    let mut beyond_all = Vec::new();
    let mut old = Vec::new();
    for (s, m) in view.data() {
        let Some(offer) = view.believed(s) else { continue };
        let edge = offer.edge();
        if s.end() <= edge {
            continue;
        }
        let new = s.end() - s.seq.max(m.snd_max);
        if new <= 0 {
            old.push((s, edge));
        } else if new == 1 && is_probe(s, &m, edge) {
            // A probe of a closed window may be an octet of new data (RFC 9293 §3.8.6.1).
        } else if s.len == 0 {
            // A FIN beyond the edge: it has a number, but no buffer waits for it.
        } else if m.furthest > edge || s.end() <= m.furthest {
            after_shrink.push((s, offer));
        } else {
            beyond_all.push((s, offer));
        }
    }
    let first = view.retractions().next();
    let more = |o: &super::view::Offer| case.total.is_none_or(|t| o.snd_max < t.cast_signed());
    let tempted = view.retractions().find(|o| more(o));
    if let Some((s, offer)) = after_shrink.first() {
        let words = format!(
            "{} of new data beyond the edge after it moved left (the first: {}…{}, the edge is {}){}",
            count(after_shrink.len(), "segment"),
            s.seq,
            s.end(),
            offer.edge(),
            unheard(view, &after_shrink.iter().map(|(s, _)| *s).collect::<Vec<_>>())
        );
        say(out, &SHLD_15, Outcome::Broken, words, after_shrink.iter().map(|(s, _)| s.packet));
    } else if let Some(o) = tempted {
        let words = format!(
            "no new data beyond the edge, although {} were sent beyond it before",
            o.snd_max - o.edge()
        );
        let words = if o.snd_max > o.edge() { words } else { "no new data beyond the edge".to_owned() };
        say(out, &SHLD_15, Outcome::Kept, words, [o.packet]);
    }
    // What is new and beyond an edge that moved left is also outside the window offered last.
    let mut outside: Vec<_> = beyond_all.iter().chain(&after_shrink).collect();
    outside.sort_by_key(|(s, _)| s.packet);
    if let Some((s, offer)) = outside.first() {
        let words = format!(
            "{} of new data outside the window (the first: {}…{}, the edge is {}){}",
            count(outside.len(), "segment"),
            s.seq,
            s.end(),
            offer.edge(),
            unheard(view, &outside.iter().map(|(s, _)| *s).collect::<Vec<_>>())
        );
        say(out, &WINDOW, Outcome::Broken, words, outside.iter().map(|(s, _)| s.packet));
    } else if !view.offers.is_empty() {
        say(out, &WINDOW, Outcome::Kept, "no new data outside the window offered last", []);
    }
    let left_beyond = view.retractions().any(|o| o.snd_max > o.edge());
    if let Some((s, edge)) = old.first() {
        let words = format!(
            "{} of old data beyond the edge (the first: {}…{}, the edge is {edge})",
            count(old.len(), "segment"),
            s.seq,
            s.end()
        );
        say(out, &MAY_7, Outcome::Taken, words, old.iter().map(|(s, _)| s.packet));
    } else if left_beyond && let Some(o) = first {
        say(out, &MAY_7, Outcome::NotTaken, "no old data were sent again beyond the edge", [o.packet]);
    }
}

/// Stacks there are that take a smaller window only together with an acknowledgement of something new.
fn unheard(view: &View<'_>, segments: &[&Seen]) -> String {
    let packets: Option<Vec<u64>> = segments.iter().map(|s| view.passed_over(s)).collect();
    let Some(packet) = packets.and_then(|p| p.first().copied()) else { return String::new() };
    format!(
        "; they lie within the edge offered before: the smaller window of packet {packet}, which acknowledged nothing new, did not count for the peer (RFC 9293 §3.10.7.4 takes it)"
    )
}

/// An octet at the edge of a closed window.
fn is_probe(s: &Seen, m: &Moment, edge: i64) -> bool {
    s.len == 1 && edge <= m.una
}
