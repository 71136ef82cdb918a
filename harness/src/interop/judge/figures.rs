//! How fast: figures, no verdicts.

use serde::{Deserialize, Serialize};

use super::view::View;
use super::{Case, SECOND};
use crate::interop::trace::Way;

/// Figures of a cell; times in seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Figures {
    /// From the SYN to the end.
    pub seconds: f64,
    /// Bytes that arrived in order.
    pub bytes: u64,
    /// Segments of the peer that carried data.
    pub data_segments: u64,
    /// Bytes sent more than once.
    pub bytes_again: u64,
    /// How often the right edge moved left.
    pub retractions: u64,
    /// The longest time the window was closed.
    pub closed: f64,
    /// From the offer that opened the window for good to the first new acknowledgement.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recovery: Option<f64>,
    /// Bytes per second from there to the end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub goodput: Option<f64>,
    /// The same against the run it is compared with, 1 being as fast.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub goodput_ratio: Option<f64>,
}

pub(super) fn of(case: &Case<'_>, view: &View<'_>) -> Figures {
    let seconds = |ns: u64| ns as f64 / SECOND as f64;
    let began = view.trace.segments.first().map_or(0, |s| s.t);
    let ended = view.trace.segments.last().map_or(0, |s| s.t);
    let mut bytes_again = 0;
    let mut data_segments = 0;
    for (s, m) in view.data() {
        data_segments += 1;
        bytes_again += u64::try_from(s.end().min(m.snd_max) - s.seq).unwrap_or(0).min(u64::from(s.len));
    }
    let closed = view.closed().iter().map(|c| c.until.map_or(view.end, |o| o.t) - c.from.t).max();
    // The last offer that moved the edge right without acknowledging anything: what came before was the situation's.
    let retracted = view.retractions().last().map(|o| o.t);
    let closed_once = view.closed().last().map(|c| c.from.t);
    let disturbed = retracted.max(closed_once);
    let mut acked = 0;
    let mut opened = None;
    for o in &view.offers {
        if disturbed.is_some_and(|d| o.t >= d)
            && o.ack == acked
            && o.edge() > o.edge_before
            && opened.is_none()
        {
            opened = Some(*o);
        }
        acked = o.ack;
    }
    let recovery = opened.and_then(|open| {
        let first = view.offers.iter().find(|o| o.t > open.t && o.ack > open.ack)?;
        Some(first.t - open.t)
    });
    let last_ack = view.trace.segments.iter().rev().find(|s| s.way == Way::ToPeer && s.ack.is_some());
    // Where nothing was disturbed, all of it counts.
    let from = opened.map_or(Some((began, 0)), |o| Some((o.t, o.ack)));
    let goodput = from.zip(last_ack).and_then(|((t, ack), last)| {
        let bytes = view.trace.received - ack;
        (bytes > 0 && last.t > t && case.end.is_well()).then(|| bytes as f64 / seconds(last.t - t))
    });
    Figures {
        seconds: seconds(ended.saturating_sub(began)),
        bytes: view.trace.received.max(0).unsigned_abs(),
        data_segments,
        bytes_again,
        retractions: view.retractions().count() as u64,
        closed: seconds(closed.unwrap_or(0)),
        recovery: recovery.map(seconds),
        goodput,
        goodput_ratio: None,
    }
}
