//! What the peer could know when: the offers that reached it, and what follows from them.

use std::collections::HashMap;

use crate::interop::trace::{Seen, Trace, Way};
use crate::observer::segment::RST;

/// A window that reached the peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Offer {
    pub(super) t: u64,
    pub(super) packet: u64,
    pub(super) ack: i64,
    pub(super) window: i64,
    /// The furthest edge offered before.
    pub(super) furthest_before: i64,
    /// The edge offered before.
    pub(super) edge_before: i64,
    /// Position behind the last byte the peer had sent by then.
    pub(super) snd_max: i64,
    /// For whom a smaller window counts only together with an acknowledgement of something new: the edge that still holds,
    /// and the packet whose window was the first not to count.
    pub(super) narrowed: Option<(i64, u64)>,
}

impl Offer {
    pub(super) fn edge(&self) -> i64 {
        self.ack + self.window
    }

    /// The right edge moved left.
    pub(super) fn retracts(&self) -> bool {
        self.edge() < self.edge_before
    }
}

/// A time in which the window was closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Closed {
    /// The offer that closed it.
    pub(super) from: Offer,
    /// The offer that opened it again.
    pub(super) until: Option<Offer>,
    /// It was open further before: the window shrank to zero, it was not used up.
    pub(super) shrunk: bool,
}

/// How things stood before a segment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Moment {
    /// What was acknowledged (SND.UNA).
    pub(super) una: i64,
    /// The edge last offered; `None` before there was an offer.
    pub(super) edge: Option<i64>,
    /// The furthest edge ever offered.
    pub(super) furthest: i64,
    /// Position behind the last byte sent (SND.NXT at its furthest).
    pub(super) snd_max: i64,
    /// The window has shrunk at least once.
    pub(super) shrunk: bool,
}

impl Moment {
    /// The window is closed.
    pub(super) fn is_closed(&self) -> bool {
        self.edge.is_some_and(|e| e <= self.una)
    }
}

/// The trace with what follows from it.
#[derive(Debug)]
pub(super) struct View<'a> {
    pub(super) trace: &'a Trace,
    pub(super) offers: Vec<Offer>,
    /// How things stood before each segment, and behind the last.
    pub(super) moments: Vec<Moment>,
    /// By timestamp of the receiver, how many offers there were up to the first packet that carried it.
    echoes: HashMap<u32, usize>,
    /// How long what is under way may cross an offer, nanoseconds.
    grace: u64,
    /// When the trace ends.
    pub(super) end: u64,
}

impl<'a> View<'a> {
    pub(super) fn new(trace: &'a Trace, grace: u64, end: u64) -> Self {
        let mut offers: Vec<Offer> = Vec::new();
        let mut moments = Vec::with_capacity(trace.segments.len() + 1);
        let mut echoes = HashMap::new();
        let mut now = Moment::default();
        // The window of a peer for whom smaller ones do not always count.
        let mut kept = (0, None);
        for s in &trace.segments {
            moments.push(now);
            match s.way {
                Way::FromPeer => {
                    if s.is_data() {
                        now.snd_max = now.snd_max.max(s.end());
                    }
                }
                Way::ToPeer => {
                    let (Some(ack), Some(window)) = (s.ack, s.window) else { continue };
                    // An older acknowledgement says nothing (RFC 9293 §3.10.7.4).
                    if s.lost || ack < now.una {
                        continue;
                    }
                    if ack > now.una || offers.is_empty() || window >= kept.0 {
                        kept = (window, None);
                    } else {
                        kept.1.get_or_insert(s.packet);
                    }
                    let offer = Offer {
                        t: s.t,
                        packet: s.packet,
                        ack,
                        window,
                        furthest_before: now.furthest,
                        edge_before: now.edge.unwrap_or(i64::MIN),
                        snd_max: now.snd_max,
                        narrowed: kept.1.map(|packet| (ack + kept.0, packet)),
                    };
                    now.una = ack;
                    now.shrunk |= offer.retracts();
                    now.edge = Some(offer.edge());
                    now.furthest = now.furthest.max(offer.edge());
                    offers.push(offer);
                    if let Some(stamp) = s.tsval {
                        echoes.entry(stamp).or_insert(offers.len());
                    }
                }
            }
        }
        moments.push(now);
        let end = end.max(trace.segments.last().map_or(0, |s| s.t));
        View { trace, offers, moments, echoes, grace, end }
    }

    /// Each segment of the peer that carries data, and how things stood before it.
    pub(super) fn data(&self) -> impl Iterator<Item = (&'a Seen, Moment)> + '_ {
        self.segments().filter(|(s, _)| s.is_data())
    }

    /// Each segment, and how things stood before it.
    pub(super) fn segments(&self) -> impl Iterator<Item = (&'a Seen, Moment)> + '_ {
        self.trace.segments.iter().zip(self.moments.iter().copied())
    }

    /// The offer with the furthest edge among those that may have been the last one heard when the peer sent `s`.
    pub(super) fn believed(&self, s: &Seen) -> Option<&Offer> {
        self.heard_by(s).iter().max_by_key(|o| o.edge())
    }

    /// Those that may have been the last one heard when the peer sent `s`.
    fn heard_by(&self, s: &Seen) -> &[Offer] {
        // An offer takes its time to be heard; at the same instant it may have been before.
        let heard = s.t.saturating_sub(self.grace);
        let in_time = self.offers.partition_point(|o| o.t < heard);
        // The timestamp that the segment echoes proves what was heard, however soon.
        let proven = s.tsecr.and_then(|stamp| self.echoes.get(&stamp)).copied().unwrap_or(0);
        let under_way = self.offers.partition_point(|o| o.t <= s.t);
        let known = in_time.max(proven).min(under_way);
        self.offers.get(known.saturating_sub(1)..under_way).unwrap_or_default()
    }

    /// The packet whose smaller window was passed over, if `s` lies within the edge that held before it.
    pub(super) fn passed_over(&self, s: &Seen) -> Option<u64> {
        let narrowed = self.heard_by(s).iter().filter_map(|o| o.narrowed);
        narrowed.filter(|(edge, _)| s.end() <= *edge).map(|(_, packet)| packet).next_back()
    }

    /// The offers that moved the right edge to the left.
    pub(super) fn retractions(&self) -> impl Iterator<Item = &Offer> {
        self.offers.iter().filter(|o| o.retracts())
    }

    /// The times in which the window was closed.
    pub(super) fn closed(&self) -> Vec<Closed> {
        let mut all: Vec<Closed> = Vec::new();
        let mut open = true;
        for o in &self.offers {
            match (open, o.window) {
                (true, 0) => {
                    let shrunk = o.edge() < o.furthest_before;
                    all.push(Closed { from: *o, until: None, shrunk });
                    open = false;
                }
                (false, 1..) => {
                    if let Some(last) = all.last_mut() {
                        last.until = Some(*o);
                    }
                    open = true;
                }
                _ => {}
            }
        }
        all
    }

    /// Did the peer send anything but a reset into a closed window before `t`?
    pub(super) fn asked(&self, c: &Closed, t: u64) -> bool {
        let mut within = self.trace.segments.iter().filter(|s| s.t > c.from.t && s.t < t);
        within.any(|s| s.way == Way::FromPeer && !s.has(RST))
    }

    /// When an offer is surely heard.
    pub(super) fn heard(&self, o: &Offer) -> u64 {
        o.t.saturating_add(self.grace)
    }

    /// The last offer, or segment of the receiver at all, that reached the peer at or before `t`.
    pub(super) fn last_answer(&self, t: u64) -> Option<&'a Seen> {
        let segments = &self.trace.segments;
        segments.iter().rev().find(|s| s.t <= t && s.way == Way::ToPeer && !s.lost)
    }
}
