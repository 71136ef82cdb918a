//! How a closed window is probed.

use super::clauses::{MUST_35, MUST_36, SHLD_29, SHLD_30};
use super::view::{Closed, View};
use super::{Case, End, Outcome, SECOND, Verdict, count, say, span};
use crate::interop::trace::Way;

/// A silence this long into a closed window is no longer a late probe. BSD's shortest interval is 5 s; one doubling and as
/// much again is 20 s.
const SILENCE: u64 = 20 * SECOND;
/// When a first probe is late: RFC 6298 has a first time-out of 1 s, its predecessor 3 s; one doubling is 6 s.
const LATE: u64 = 6 * SECOND;
/// What comes within this time belongs to one try.
pub(super) const ONE_TRY: u64 = SECOND / 10;
/// Tries from which on one can say whether pauses grow.
pub(super) const ENOUGH: usize = 4;
/// Pauses may stop growing at this length: RFC 6298 §2.5 allows a cap of 60 s; half of it may be the last doubling.
const CAP: u64 = 30 * SECOND;

pub(super) fn judge(case: &Case<'_>, view: &View<'_>, out: &mut Vec<Verdict>) {
    let gave_up = matches!(case.end, End::Reset | End::GaveUp);
    let all: Vec<_> = view.closed().into_iter().map(|c| (c, tries(view, &c))).collect();
    for (clause, shrunk) in [(&MUST_35, true), (&MUST_36, false)] {
        let these: Vec<_> =
            all.iter().filter(|(c, _)| c.shrunk == shrunk && length(view, c) > LATE).collect();
        let silent = these.iter().filter(|(_, t)| t.is_empty()).max_by_key(|(c, _)| length(view, c));
        match (silent, these.iter().find(|(_, t)| !t.is_empty())) {
            (Some((c, _)), _) if length(view, c) >= SILENCE => {
                let words = format!("no probe in {} of a closed window", span(length(view, c)));
                say(out, clause, Outcome::Broken, words, [c.from.packet]);
            }
            (Some((c, _)), _) if gave_up && c.until.is_none() => {
                let words = format!(
                    "the connection was given up after {} of a closed window without a single probe",
                    span(length(view, c))
                );
                say(out, clause, Outcome::Broken, words, [c.from.packet]);
            }
            (Some((c, _)), _) => {
                let words = format!(
                    "no probe while the window was closed for {}; less than {} does not settle it",
                    span(length(view, c)),
                    span(SILENCE)
                );
                say(out, clause, Outcome::Inconclusive, words, [c.from.packet]);
            }
            (None, Some((c, tries))) => {
                let words = format!(
                    "{} into a window that was closed for {}",
                    count(tries.len(), "probe"),
                    span(length(view, c))
                );
                say(out, clause, Outcome::Kept, words, tries.iter().map(|(_, p)| *p));
            }
            (None, None) => {}
        }
    }
    let probed: Vec<_> = all.iter().filter(|(_, t)| !t.is_empty()).collect();
    let first = |c: &Closed, t: &[(u64, u64)]| t.first().map(|(t, _)| t.saturating_sub(c.from.t));
    let slowest = probed.iter().filter_map(|(c, t)| Some((first(c, t)?, t.first()?.1))).max();
    if let Some((after, packet)) = slowest {
        if after > LATE {
            let words = format!("the first probe came {} after the window closed", span(after));
            say(out, &SHLD_29, Outcome::Broken, words, [packet]);
        } else if probed.iter().any(|(c, _)| length(view, c) > LATE) {
            say(
                out,
                &SHLD_29,
                Outcome::Kept,
                format!("the first probe came {} after the window closed", span(after)),
                [packet],
            );
        }
    }
    if let Some((_, tries)) = probed.iter().find(|(_, t)| !grows(t)) {
        let words = format!("the pauses between probes do not grow: {}", pauses(tries));
        say(out, &SHLD_30, Outcome::Broken, words, tries.iter().map(|(_, p)| *p));
    } else if let Some((_, tries)) =
        probed.iter().max_by_key(|(_, t)| t.len()).filter(|(_, t)| t.len() >= ENOUGH)
    {
        let words = format!("the pauses between probes grow: {}", pauses(tries));
        say(out, &SHLD_30, Outcome::Kept, words, tries.iter().map(|(_, p)| *p));
    }
}

/// How long it was closed.
fn length(view: &View<'_>, c: &Closed) -> u64 {
    c.until.map_or(view.end, |o| o.t).saturating_sub(c.from.t)
}

/// Times and packets of what asks for an answer while the window is closed: data of any kind, or an empty segment whose
/// number has passed.
fn tries(view: &View<'_>, c: &Closed) -> Vec<(u64, u64)> {
    let until = c.until.map_or(u64::MAX, |o| o.t);
    let heard = view.heard(&c.from);
    let mut all: Vec<(u64, u64)> = Vec::new();
    for (s, m) in view.segments() {
        let asks = s.way == Way::FromPeer && (s.is_data() || (s.len == 0 && s.seq < m.una));
        let within = s.t >= heard.min(until) && s.t < until && s.packet > c.from.packet;
        if asks && within && all.last().is_none_or(|(t, _)| s.t - t > ONE_TRY) {
            all.push((s.t, s.packet));
        }
    }
    all
}

/// Do the pauses between the tries grow, as far as there are enough to tell?
pub(super) fn grows(tries: &[(u64, u64)]) -> bool {
    let pauses: Vec<u64> = tries.windows(2).map(|w| w[1].0 - w[0].0).collect();
    if tries.len() < ENOUGH {
        return true;
    }
    let (Some(first), Some(last)) = (pauses.first(), pauses.last()) else { return true };
    let steady = pauses.windows(2).all(|w| w[1] >= w[0] / 10 * 8 || w[1] >= CAP);
    steady && (*last >= first / 2 * 3 || *last >= CAP)
}

/// The pauses in words, the middle of many left out.
pub(super) fn pauses(tries: &[(u64, u64)]) -> String {
    let all: Vec<String> = tries.windows(2).map(|w| span(w[1].0 - w[0].0)).collect();
    match all.as_slice() {
        [head @ .., last] if head.len() > 8 => {
            format!("{}, … {last}", head.get(..6).unwrap_or_default().join(", "))
        }
        all => all.join(", "),
    }
}
