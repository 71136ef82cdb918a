//! An independent witness of the wire: what was really offered, and what was really sent.
//!
//! The observer reads every frame with another parser than the stack ([`segment`], on pnet's packet views) and knows
//! nothing of the stack's state. It follows each connection's handshake, computes the right edge that every departing
//! ACK offers, and judges: does the edge ever move left (RFC 9293 §3.8.6), does the peer send beyond it, is anything
//! acknowledged that was never sent. Sequence numbers are unwrapped to 64 bits and counted from the peer's first
//! payload byte.
//!
//! Limits: a connection whose handshake was not seen is followed, but its windows cannot be judged (their scale is
//! unknown). IP fragments are counted, not reassembled.

use std::{collections::BTreeMap, net::SocketAddr};

use rustc_hash::FxHashMap;
use serde::Serialize;

use crate::record::Direction;

pub mod segment;
#[cfg(test)]
pub(crate) mod tests;

use segment::{ACK, FIN, NotTcp, RST, SYN, Segment};

/// Follows every connection of one stack.
#[derive(Debug, Default)]
pub struct Observer {
    frames: u64,
    other: u64,
    fragments: u64,
    malformed: u64,
    untracked: u64,
    open: FxHashMap<(SocketAddr, SocketAddr), usize>,
    connections: Vec<Connection>,
}

/// What the right edge was allowed to do in this run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Expectation {
    /// The policy lets the right edge move left.
    pub shrink_allowed: bool,
    /// The kernel generation sends a zero window when no memory is found, wherever the edge was.
    pub nomem_zero_allowed: bool,
}

/// Whose behaviour a finding is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Party {
    /// The receive stack under test.
    Receiver,
    /// The sender it talks to.
    Sender,
    /// The observation itself: something could not be judged.
    Observer,
}

/// Something that should not have been, or could not be judged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// About whom.
    pub party: Party,
    /// Stable name of the rule.
    pub rule: &'static str,
    /// The connection, as `local remote`.
    pub connection: String,
    /// The packet that shows it first, if one does.
    pub packet: Option<u64>,
    /// In words, with the numbers.
    pub words: String,
}

/// The right edge moved left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct LeftMove {
    /// Packet that carried the window.
    pub packet: u64,
    /// Its time.
    pub t_ns: u64,
    /// By how many bytes, against the edge of the ACK before.
    pub by: u64,
    /// Where the edge went.
    pub edge: i64,
    /// How far behind the furthest edge ever offered.
    pub behind_furthest: u64,
    /// The new window is zero.
    pub zero_window: bool,
    /// Bytes already sent that lie beyond the new edge.
    pub sent_beyond: u64,
    /// Less than one unit of the window scale: what rounding alone can do.
    pub below_unit: bool,
}

/// The sender sent data that no window had ever allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Beyond {
    /// The packet.
    pub packet: u64,
    /// Its time.
    pub t_ns: u64,
    /// End of its payload.
    pub end: i64,
    /// Bytes beyond the furthest edge offered so far.
    pub by: u64,
}

/// Everything seen, for `observer.json`.
#[derive(Clone, Debug, Serialize)]
pub struct Verdict {
    /// Frames looked at.
    pub frames: u64,
    /// Of these, not TCP.
    pub not_tcp: u64,
    /// Of these, IP fragments.
    pub fragments: u64,
    /// Of these, malformed.
    pub malformed: u64,
    /// TCP segments of connections beyond the most that are followed.
    pub untracked: u64,
    /// No right edge moved left.
    pub no_left_move: bool,
    /// Distinct payload bytes seen from the senders.
    pub bytes_sent: u64,
    /// The connections in the order of their first packet.
    pub connections: Vec<ConnectionVerdict>,
}

/// What was seen of one connection.
#[derive(Clone, Debug, Serialize)]
pub struct ConnectionVerdict {
    /// The stack's address.
    pub local: SocketAddr,
    /// The peer's address.
    pub remote: SocketAddr,
    /// Packet in which it was seen first.
    pub first_packet: u64,
    /// Both SYNs were seen.
    pub handshake: bool,
    /// Scale of the stack's window, once both SYNs are known.
    pub wscale: Option<u8>,
    /// Scale of the peer's window.
    pub peer_wscale: Option<u8>,
    /// ACKs that offered a window.
    pub acks: u64,
    /// Highest acknowledgement.
    pub acked: i64,
    /// The edge offered last.
    pub right_edge: Option<i64>,
    /// The furthest edge offered.
    pub furthest_edge: Option<i64>,
    /// How often the edge moved left.
    pub left_moves_total: u64,
    /// The largest move to the left.
    pub left_move_max: u64,
    /// The first of them in detail.
    pub left_moves: Vec<LeftMove>,
    /// Departing segments with a zero window.
    pub zero_window_acks: u64,
    /// How often the window closed.
    pub zero_windows: u64,
    /// ACKs that only moved the edge to the right.
    pub window_updates: u64,
    /// Distinct payload bytes seen from the peer.
    pub bytes_sent: u64,
    /// End of the furthest payload.
    pub highest_seq: i64,
    /// Payload bytes seen more than once.
    pub retransmitted_bytes: u64,
    /// Data segments of the peer.
    pub data_segments: u64,
    /// Zero-window probes of the peer.
    pub probes: u64,
    /// Data segments beyond every edge offered.
    pub beyond_total: u64,
    /// The first of them in detail.
    pub beyond: Vec<Beyond>,
    /// Packet of the first ACK for something never sent.
    pub acked_unsent: Option<u64>,
    /// Packet in which the acknowledgement went back first.
    pub ack_went_back: Option<u64>,
    /// The peer sent a FIN.
    pub fin_from_peer: bool,
    /// The stack sent a FIN.
    pub fin_from_stack: bool,
    /// Resets from the peer.
    pub resets_from_peer: u64,
    /// Resets from the stack.
    pub resets_from_stack: u64,
}

/// Most connections followed.
const MOST_CONNECTIONS: usize = 100_000;
/// Most details kept of each kind and connection; beyond that they are only counted.
const MOST_DETAILS: usize = 1_000;

impl Observer {
    /// An observer that has seen nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Looks at one frame. `packet` is its number in the capture, `direction` is seen from the stack.
    pub fn frame(&mut self, packet: u64, t_ns: u64, direction: Direction, frame: &[u8]) {
        self.parsed(packet, t_ns, direction, segment::parse(frame).as_ref());
    }

    /// Looks at one frame that [`segment::parse`] has taken apart already.
    pub fn parsed(&mut self, packet: u64, t_ns: u64, direction: Direction, frame: Result<&Segment, &NotTcp>) {
        self.frames += 1;
        let segment = match frame {
            Ok(segment) => segment,
            Err(NotTcp::Other) => return self.other += 1,
            Err(NotTcp::Fragment) => return self.fragments += 1,
            Err(NotTcp::Malformed | NotTcp::Cut) => return self.malformed += 1,
        };
        let key = match direction {
            Direction::In => (segment.destination, segment.source),
            Direction::Out => (segment.source, segment.destination),
        };
        let known = self.open.get(&key).and_then(|i| self.connections.get(*i));
        let fresh = known.is_none_or(|c| c.is_replaced_by(segment, direction));
        if fresh {
            if self.connections.len() >= MOST_CONNECTIONS {
                self.untracked += 1;
                return;
            }
            self.open.insert(key, self.connections.len());
            self.connections.push(Connection::new(key, packet));
        }
        let Some(c) = self.open.get(&key).and_then(|i| self.connections.get_mut(*i)) else { return };
        match direction {
            Direction::In => c.on_arrival(packet, t_ns, segment),
            Direction::Out => c.on_departure(packet, t_ns, segment),
        }
    }

    /// What was seen so far.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        let connections: Vec<_> = self.connections.iter().map(|c| c.seen.clone()).collect();
        Verdict {
            frames: self.frames,
            not_tcp: self.other,
            fragments: self.fragments,
            malformed: self.malformed,
            untracked: self.untracked,
            no_left_move: connections.iter().all(|c| c.left_moves_total == 0),
            bytes_sent: connections.iter().map(|c| c.bytes_sent).sum(),
            connections,
        }
    }

    /// Judges what was seen against what was allowed.
    #[must_use]
    pub fn check(&self, expected: Expectation) -> Vec<Finding> {
        let mut findings = Vec::new();
        for c in &self.connections {
            c.check(expected, &mut findings);
        }
        if self.untracked > 0 {
            findings.push(Finding {
                party: Party::Observer,
                rule: "too-many-connections",
                connection: String::new(),
                packet: None,
                words: format!(
                    "{} segments belong to connections beyond the {MOST_CONNECTIONS} that are followed",
                    self.untracked
                ),
            });
        }
        findings
    }
}

impl Verdict {
    /// Left moves of all connections.
    #[must_use]
    pub fn left_moves(&self) -> u64 {
        self.connections.iter().map(|c| c.left_moves_total).sum()
    }
}

#[derive(Debug)]
struct Connection {
    seen: ConnectionVerdict,
    /// Sequence number of the peer's first payload byte, and the unwrapped position near which the next is expected.
    peer: Option<Unwrap>,
    /// The first sequence number of the stack's SYN: tells a repeated SYN from a new connection.
    own_isn: Option<u32>,
    own_syn: Option<Option<u8>>,
    peer_syn: Option<Option<u8>>,
    received: Ranges,
    fin_at: Option<i64>,
    last_ack: Option<i64>,
    last_window: Option<u32>,
}

impl Connection {
    fn new((local, remote): (SocketAddr, SocketAddr), packet: u64) -> Self {
        Connection {
            seen: ConnectionVerdict {
                local,
                remote,
                first_packet: packet,
                handshake: false,
                wscale: None,
                peer_wscale: None,
                acks: 0,
                acked: 0,
                right_edge: None,
                furthest_edge: None,
                left_moves_total: 0,
                left_move_max: 0,
                left_moves: Vec::new(),
                zero_window_acks: 0,
                zero_windows: 0,
                window_updates: 0,
                bytes_sent: 0,
                highest_seq: 0,
                retransmitted_bytes: 0,
                data_segments: 0,
                probes: 0,
                beyond_total: 0,
                beyond: Vec::new(),
                acked_unsent: None,
                ack_went_back: None,
                fin_from_peer: false,
                fin_from_stack: false,
                resets_from_peer: 0,
                resets_from_stack: 0,
            },
            peer: None,
            own_isn: None,
            own_syn: None,
            peer_syn: None,
            received: Ranges::default(),
            fin_at: None,
            last_ack: None,
            last_window: None,
        }
    }

    /// A SYN with another start on the same addresses is a new connection, but only when the old one is over or was
    /// never more than a SYN: a stray SYN inside a living connection must not blind the observer.
    fn is_replaced_by(&self, s: &Segment, direction: Direction) -> bool {
        if !s.has(SYN) || s.has(ACK) || s.has(RST) {
            return false;
        }
        let same = match direction {
            Direction::In => self.peer.is_some_and(|p| p.base == s.seq.wrapping_add(1)),
            Direction::Out => self.own_isn == Some(s.seq),
        };
        let over = self.seen.resets_from_peer + self.seen.resets_from_stack > 0
            || (self.seen.fin_from_peer && self.seen.fin_from_stack);
        let simultaneous = direction == Direction::In && self.peer.is_none()
            || direction == Direction::Out && self.own_isn.is_none() && self.seen.acks == 0;
        !same && (over || (!self.seen.handshake && !simultaneous))
    }

    fn on_arrival(&mut self, packet: u64, t_ns: u64, s: &Segment) {
        if s.has(RST) {
            self.seen.resets_from_peer += 1;
            return;
        }
        let first = s.seq.wrapping_add(u32::from(s.has(SYN)));
        if s.has(SYN) {
            if self.peer.is_some_and(|p| p.base != first) {
                return;
            }
            self.peer_syn = Some(s.wscale);
            self.shake();
        }
        let peer = self.peer.get_or_insert(Unwrap { base: first, near: 0 });
        let start = peer.place(first);
        let end = start + i64::from(s.payload);
        if s.has(FIN) {
            self.seen.fin_from_peer = true;
            self.fin_at = Some(end);
        }
        let closed = self.last_window == Some(0);
        if s.payload == 0 {
            // The old byte again, without data: how Linux asks whether a window is still closed.
            if closed && !s.has(SYN) && !s.has(FIN) && self.last_ack.is_some_and(|a| start == a - 1) {
                self.seen.probes += 1;
            }
            return;
        }
        self.seen.data_segments += 1;
        let probe = s.payload == 1 && closed && self.seen.right_edge.is_some_and(|e| start == e);
        if probe {
            self.seen.probes += 1;
        } else if let Some(furthest) = self.seen.furthest_edge
            && end > furthest
            && self.seen.wscale.is_some()
        {
            self.seen.beyond_total += 1;
            if self.seen.beyond.len() < MOST_DETAILS {
                self.seen.beyond.push(Beyond { packet, t_ns, end, by: distance(furthest, end) });
            }
        }
        let new = self.received.insert(start, end);
        self.seen.bytes_sent += new;
        self.seen.retransmitted_bytes += u64::from(s.payload).saturating_sub(new);
        self.seen.highest_seq = self.seen.highest_seq.max(end);
        if let Some(peer) = &mut self.peer {
            // Not the highest seen: a stray segment far away must not shift the circle.
            peer.near = peer.near.max(self.received.low);
        }
    }

    fn on_departure(&mut self, packet: u64, t_ns: u64, s: &Segment) {
        if s.has(RST) {
            // What a reset says in its window field is no offer.
            self.seen.resets_from_stack += 1;
            return;
        }
        if s.has(FIN) {
            self.seen.fin_from_stack = true;
        }
        if s.has(SYN) {
            self.own_isn = Some(s.seq);
            self.own_syn = Some(s.wscale);
            self.shake();
        }
        if !s.has(ACK) {
            return;
        }
        let (Some(peer), Some(scale)) = (self.peer, self.seen.wscale) else { return };
        let scale = if s.has(SYN) { 0 } else { scale };
        let ack = peer.place(s.ack);
        let window = u32::from(s.window) << scale;
        let edge = ack + i64::from(window);
        self.seen.acks += 1;
        let sent = self.seen.highest_seq.max(self.fin_at.map_or(0, |f| f + 1));
        if ack > sent && self.seen.acked_unsent.is_none() {
            self.seen.acked_unsent = Some(packet);
        }
        if self.last_ack.is_some_and(|before| ack < before) && self.seen.ack_went_back.is_none() {
            self.seen.ack_went_back = Some(packet);
        }
        if window == 0 {
            self.seen.zero_window_acks += 1;
            if self.last_window != Some(0) {
                self.seen.zero_windows += 1;
            }
        }
        let furthest = self.seen.furthest_edge.unwrap_or(edge).max(edge);
        if let Some(before) = self.seen.right_edge {
            if edge < before {
                self.left(LeftMove {
                    packet,
                    t_ns,
                    by: distance(edge, before),
                    edge,
                    behind_furthest: distance(edge, furthest),
                    zero_window: window == 0,
                    sent_beyond: distance(edge, self.seen.highest_seq.max(edge)),
                    below_unit: before - edge < 1i64 << scale,
                });
            } else if edge > before && self.last_ack == Some(ack) && s.payload == 0 && !s.has(FIN) {
                self.seen.window_updates += 1;
            }
        }
        self.seen.right_edge = Some(edge);
        self.seen.furthest_edge = Some(furthest);
        self.seen.acked = self.seen.acked.max(ack);
        if let Some(peer) = &mut self.peer {
            peer.near = peer.near.max(ack);
        }
        self.last_ack = Some(ack);
        self.last_window = Some(window);
    }

    fn left(&mut self, m: LeftMove) {
        self.seen.left_moves_total += 1;
        self.seen.left_move_max = self.seen.left_move_max.max(m.by);
        if self.seen.left_moves.len() < MOST_DETAILS {
            self.seen.left_moves.push(m);
        }
    }

    /// Scaling is on only if both SYNs offer it (RFC 7323 §2.2); shifts above 14 count as 14 (§2.3).
    fn shake(&mut self) {
        if let (Some(own), Some(peer)) = (self.own_syn, self.peer_syn) {
            let (own, peer) = own.zip(peer).unwrap_or((0, 0));
            self.seen.handshake = true;
            self.seen.wscale = Some(own.min(14));
            self.seen.peer_wscale = Some(peer.min(14));
        }
    }

    fn check(&self, expected: Expectation, findings: &mut Vec<Finding>) {
        let c = &self.seen;
        let connection = format!("{} {}", c.local, c.remote);
        let mut find = |party, rule, packet, words| {
            findings.push(Finding { party, rule, connection: connection.clone(), packet, words });
        };
        if !c.handshake && c.data_segments > 0 {
            let words =
                "the handshake was not seen: the window scale is unknown and no window was judged".to_owned();
            find(Party::Observer, "handshake-unseen", Some(c.first_packet), words);
        }
        let forbidden =
            |m: &&LeftMove| !(expected.shrink_allowed || m.zero_window && expected.nomem_zero_allowed);
        if let Some(m) = c.left_moves.iter().find(forbidden) {
            let n = c.left_moves.iter().filter(forbidden).count();
            let more = if c.left_moves_total > c.left_moves.len() as u64 { " or more" } else { "" };
            let size = if m.below_unit { ", less than one unit of the window scale" } else { "" };
            let zero = if m.zero_window { ", to a zero window" } else { "" };
            let words = format!(
                "the right edge moved left {n} times{more}, first by {} bytes{size}{zero}; {} bytes already sent lay beyond it",
                m.by, m.sent_beyond
            );
            find(Party::Receiver, "edge-moved-left", Some(m.packet), words);
        }
        if let Some(packet) = c.acked_unsent {
            let words = "something was acknowledged that was never seen to be sent".to_owned();
            find(Party::Receiver, "acked-unsent", Some(packet), words);
        }
        if let Some(packet) = c.ack_went_back {
            find(
                Party::Receiver,
                "ack-went-back",
                Some(packet),
                "the acknowledgement number went back".to_owned(),
            );
        }
        if let Some(b) = c.beyond.first() {
            let words = format!(
                "{} data segments reached beyond every window offered, the first by {} bytes (end {})",
                c.beyond_total, b.by, b.end
            );
            find(Party::Sender, "sent-beyond-window", Some(b.packet), words);
        }
    }
}

/// Positions of 32-bit sequence numbers on an unbounded line.
#[derive(Clone, Copy, Debug)]
struct Unwrap {
    base: u32,
    near: i64,
}

impl Unwrap {
    /// The position of `seq` that is nearest to where the connection is now.
    fn place(self, seq: u32) -> i64 {
        // Truncation to the circle is the point of both casts.
        let here = self.base.wrapping_add(self.near as u32);
        self.near + i64::from(seq.wrapping_sub(here) as i32)
    }
}

fn distance(from: i64, to: i64) -> u64 {
    u64::try_from(to.saturating_sub(from)).unwrap_or(0)
}

/// Which payload bytes were seen: everything below `low`, and the ranges above.
#[derive(Debug, Default)]
struct Ranges {
    low: i64,
    above: BTreeMap<i64, i64>,
}

impl Ranges {
    /// Adds a range; returns how many of its bytes are new.
    fn insert(&mut self, start: i64, end: i64) -> u64 {
        /// A sender that leaves more holes than this is not counted exactly any more.
        const MOST_RANGES: usize = 100_000;
        let (mut start, mut end) = (start.max(self.low), end.max(self.low));
        let mut new = distance(start, end);
        if new == 0 {
            return 0;
        }
        while let Some((&s, &e)) = self.above.range(..=end).next_back() {
            if e < start {
                break;
            }
            new -= distance(s.max(start), e.min(end)).min(new);
            self.above.remove(&s);
            start = start.min(s);
            end = end.max(e);
        }
        if start <= self.low {
            self.low = end;
        } else {
            self.above.insert(start, end);
            if self.above.len() > MOST_RANGES
                && let Some((_, e)) = self.above.pop_first()
            {
                self.low = e;
            }
        }
        new
    }
}
