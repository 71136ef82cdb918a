//! Are the bytes right, and does what is acknowledged count?

use super::clauses::{ACKED, DATA};
use super::view::View;
use super::{Case, End, Outcome, SECOND, Verdict, count, say, span};

pub(super) fn judge(case: &Case<'_>, view: &View<'_>, out: &mut Vec<Verdict>) {
    data(case, view, out);
    acked(view, out);
}

fn data(case: &Case<'_>, view: &View<'_>, out: &mut Vec<Verdict>) {
    let wrong: Vec<_> = view.trace.segments.iter().filter(|s| s.wrong_byte.is_some()).collect();
    if let Some(first) = wrong.first() {
        let words = format!(
            "the byte at {} is not the one that belongs there ({} with wrong bytes)",
            first.wrong_byte.unwrap_or_default(),
            count(wrong.len(), "segment")
        );
        return say(out, &DATA, Outcome::Broken, words, wrong.iter().map(|s| s.packet));
    }
    if let (Some(fin), Some(total)) = (view.trace.fin, case.total)
        && fin != total.cast_signed()
    {
        let words = format!("the stream ends at {fin}, but {total} bytes were to be sent");
        return say(out, &DATA, Outcome::Broken, words, []);
    }
    if case.end.is_well() {
        let all = if case.end == End::Complete { "all" } else { "the first" };
        say(
            out,
            &DATA,
            Outcome::Kept,
            format!("{all} {} bytes, each as it was sent", view.trace.received),
            [],
        );
    } else {
        let of = case.total.map(|t| format!(" of {t}")).unwrap_or_default();
        let words = format!(
            "{}{of} bytes arrived, each as it was sent; the rest never came ({})",
            view.trace.received,
            why(case)
        );
        say(out, &DATA, Outcome::Inconclusive, words, []);
    }
}

/// Why it is not complete.
fn why(case: &Case<'_>) -> String {
    match case.end {
        End::Complete | End::Enough => "no more was needed".to_owned(),
        End::Reset => "the peer reset the connection".to_owned(),
        End::GaveUp => format!("the peer gave up: {}", case.error.unwrap_or("no reason given")),
        End::PeerGone => "the peer's process ended".to_owned(),
        End::TimeLimit => "the time was over".to_owned(),
        End::Flood => "the peer sent more than it could need and was stopped".to_owned(),
        End::NoConnection => "there was no connection".to_owned(),
        End::Interrupted => "interrupted".to_owned(),
    }
}

/// Data far below what is acknowledged, again and again: the acknowledgement did not count.
fn acked(view: &View<'_>, out: &mut Vec<Verdict>) {
    /// So long after an acknowledgement nothing that was sent before it can still be under way.
    const SETTLED: u64 = SECOND;
    const REPEATED: usize = 3;
    let mut beyond = None;
    for o in &view.offers {
        if o.ack > o.edge_before && o.edge_before >= 0 {
            beyond = beyond.or(Some(o));
        }
    }
    let mut offers = view.offers.iter().peekable();
    let mut settled = 0;
    let mut again = Vec::new();
    for (s, m) in view.data() {
        while let Some(o) = offers.next_if(|o| o.t + SETTLED <= s.t) {
            settled = settled.max(o.ack);
        }
        // One byte below a closed window is a probe.
        if s.len > 1 && s.end() <= settled && !(m.is_closed() && s.end() == m.una) {
            again.push((s, settled));
        }
    }
    if again.len() >= REPEATED
        && let Some((s, settled)) = again.first()
    {
        let words = format!(
            "{} were sent again although they had been acknowledged for more than {} (the first: {}…{}, {settled} was acknowledged)",
            count(again.len(), "segment"),
            span(SETTLED),
            s.seq,
            s.end()
        );
        say(out, &ACKED, Outcome::Broken, words, again.iter().map(|(s, _)| s.packet));
    } else if let Some(o) = beyond {
        let words = format!(
            "{} was acknowledged, {} bytes beyond the edge offered before, and counted",
            o.ack,
            o.ack - o.edge_before
        );
        say(out, &ACKED, Outcome::Kept, words, [o.packet]);
    }
}
