//! What a time–sequence diagram shows, in few words: a page holds hundreds of them.

use serde::{Deserialize, Serialize};

use super::judge::{Outcome, Verdict};
use super::trace::{Trace, Way};

/// The points of a diagram. Times are microseconds from the first segment, positions bytes of the stream.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Sequence {
    /// Acknowledgements that reached the peer: packet, time, position, window.
    pub acks: Vec<(u64, u64, i64, i64)>,
    /// Data of the peer: packet, time, first position, length, what it is.
    pub data: Vec<(u64, u64, i64, u32, Kind)>,
    /// Steps of the situation: time and name.
    pub steps: Vec<(u64, String)>,
    /// Packets that show a broken clause, and which.
    pub broken: Vec<(u64, String)>,
    /// How many points were left out.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub left_out: u64,
}

impl Sequence {
    /// There is nothing to draw.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Sequence::default()
    }
}

fn is_zero(n: &u64) -> bool {
    *n == 0
}

/// What a segment of the peer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "u8", try_from = "u8")]
pub enum Kind {
    /// New data.
    New = 0,
    /// Old data within the window.
    Again = 1,
    /// Old data beyond the edge.
    Beyond = 2,
    /// An empty segment whose number has passed: a probe.
    Empty = 3,
    /// A reset.
    Reset = 4,
    /// New data beyond the edge.
    NewBeyond = 5,
}

impl From<Kind> for u8 {
    fn from(k: Kind) -> u8 {
        k as u8
    }
}

impl TryFrom<u8> for Kind {
    type Error = String;

    fn try_from(n: u8) -> Result<Self, String> {
        let all = [Kind::New, Kind::Again, Kind::Beyond, Kind::Empty, Kind::Reset, Kind::NewBeyond];
        all.get(usize::from(n)).copied().ok_or_else(|| format!("{n} is no kind of segment"))
    }
}

/// Points of a kind that a diagram holds; of longer runs every n-th is shown, but none that a verdict names is left out.
const MOST: usize = 1_500;

impl Sequence {
    /// Of a trace and the verdicts on it.
    #[must_use]
    pub fn of(trace: &Trace, verdicts: &[Verdict]) -> Self {
        use crate::observer::segment::{RST, SYN};

        let mut s = Sequence::default();
        let origin = trace.segments.first().map_or(0, |f| f.t);
        let t = |ns: u64| ns.saturating_sub(origin) / 1_000;
        let (mut una, mut edge, mut sent) = (0, 0, 0);
        for seg in &trace.segments {
            match seg.way {
                Way::ToPeer => {
                    if let (Some(ack), Some(window), false) = (seg.ack, seg.window, seg.lost) {
                        s.acks.push((seg.packet, t(seg.t), ack, window));
                        (una, edge) = (ack, ack + window);
                    }
                }
                Way::FromPeer => {
                    let kind = if seg.has(RST) {
                        Kind::Reset
                    } else if seg.is_data() {
                        match (seg.end() > sent || sent == 0, seg.end() > edge) {
                            (true, false) => Kind::New,
                            (true, true) => Kind::NewBeyond,
                            (false, false) => Kind::Again,
                            (false, true) => Kind::Beyond,
                        }
                    } else if seg.seq < una && !seg.has(SYN) {
                        Kind::Empty
                    } else {
                        continue;
                    };
                    sent = sent.max(seg.end());
                    s.data.push((seg.packet, t(seg.t), seg.seq, seg.len, kind));
                }
            }
        }
        for v in verdicts.iter().filter(|v| v.outcome == Outcome::Broken) {
            s.broken.extend(v.packets.iter().map(|p| (*p, v.clause.id.to_owned())));
        }
        s.steps = trace.marks.iter().map(|m| (t(m.t), m.step.clone())).collect();
        let named = |packet: u64| s.broken.iter().any(|(p, _)| *p == packet);
        let before = s.acks.len() + s.data.len();
        thin(&mut s.acks, |a| named(a.0));
        thin(&mut s.data, |d| named(d.0));
        s.left_out = (before - s.acks.len() - s.data.len()) as u64;
        s
    }
}

fn thin<T>(points: &mut Vec<T>, keep: impl Fn(&T) -> bool) {
    let step = points.len().div_ceil(MOST).max(1);
    let last = points.len().saturating_sub(1);
    let mut i = 0;
    points.retain(|p| {
        let stays = i % step == 0 || i == last || keep(p);
        i += 1;
        stays
    });
}
