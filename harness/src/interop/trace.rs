//! What passed between the peer and the receiver, as the judge sees it: one connection, in positions of the peer's stream.
//!
//! Frames are read with the observer's parser, which shares nothing with the stack's. A position is a byte of the peer's
//! stream: 0 is the first byte behind its SYN.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use pnet::packet::{ethernet::EthernetPacket, ipv4::Ipv4Packet, tcp::TcpPacket};
use serde::{Deserialize, Serialize};

use crate::observer::segment::{self, ACK, FIN, RST, SYN, Segment};
use crate::sender::first_mismatch;

/// Which way a segment went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Way {
    /// From the peer to the receiver.
    FromPeer,
    /// From the receiver to the peer.
    ToPeer,
}

/// One segment on the wire.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Seen {
    /// Its number in the capture.
    pub packet: u64,
    /// When, nanoseconds.
    pub t: u64,
    /// Since when it may have been under way: it was looked for then, and was not there.
    pub since: u64,
    /// Which way.
    pub way: Way,
    /// It did not reach its end: the situation made the network lose it.
    pub lost: bool,
    /// The flag bits.
    pub flags: u8,
    /// Position of the first payload byte (of the peer's stream; of the receiver's, for what the receiver sends).
    pub seq: i64,
    /// Payload bytes.
    pub len: u32,
    /// What the receiver acknowledges, as a position of the peer's stream.
    pub ack: Option<i64>,
    /// The window the receiver offers, bytes.
    pub window: Option<i64>,
    /// What the receiver reports as received out of order.
    pub sack: Vec<(i64, i64)>,
    /// Its timestamp.
    pub tsval: Option<u32>,
    /// The timestamp of the other side that it had heard last: proof of what it knew.
    pub tsecr: Option<u32>,
    /// First position whose byte is not what it must be.
    pub wrong_byte: Option<i64>,
}

impl Seen {
    /// Are all these flags set?
    #[must_use]
    pub fn has(&self, flags: u8) -> bool {
        self.flags & flags == flags
    }

    /// Position behind the payload.
    #[must_use]
    pub fn end(&self) -> i64 {
        self.seq + i64::from(self.len)
    }

    /// The right edge that an acknowledgement offers.
    #[must_use]
    pub fn edge(&self) -> Option<i64> {
        Some(self.ack? + self.window?)
    }

    /// Does it carry bytes of the peer's stream, or its end?
    #[must_use]
    pub fn is_data(&self) -> bool {
        self.way == Way::FromPeer && (self.len > 0 || self.has(FIN)) && !self.has(SYN)
    }
}

/// What the payload must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Content {
    /// The pattern of all senders here.
    Pattern,
    /// Not known beforehand: a byte that is sent again must be the byte that was sent first.
    Consistent,
}

/// A moment of the situation: one of its steps began.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Mark {
    /// When, nanoseconds.
    pub t: u64,
    /// Frames seen before.
    pub packet: u64,
    /// The step.
    pub step: String,
}

/// Everything seen of the connection.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Trace {
    /// The segments, in the order of the capture.
    pub segments: Vec<Seen>,
    /// The steps of the situation.
    pub marks: Vec<Mark>,
    /// The receiver's window scale; none without both SYNs, or if one of them offers none.
    pub wscale: Option<u8>,
    /// SACK was agreed on.
    pub sack: bool,
    /// The largest segment that the receiver announced.
    pub mss: Option<u16>,
    /// The peer's address.
    pub peer: Option<SocketAddr>,
    /// Frames of the peer that are no segments of this connection.
    pub others: u64,
    /// Segments with a wrong checksum: they count for nothing.
    pub damaged: u64,
    /// Position behind the last byte in order and given to the receiver.
    pub received: i64,
    /// Position of the peer's FIN, if one came.
    pub fin: Option<i64>,
}

/// Builds a [`Trace`] frame by frame.
#[derive(Debug)]
pub struct Watch {
    trace: Trace,
    content: Content,
    peer_isn: Option<u32>,
    own_isn: Option<u32>,
    peer_scale: Option<Option<u8>>,
    own_scale: Option<Option<u8>>,
    peer_sack: bool,
    /// Ranges given to the receiver: start to end.
    held: BTreeMap<i64, i64>,
    first: First,
    acked: i64,
    near: i64,
    looked: u64,
}

impl Watch {
    /// A watch over a connection that is not open yet.
    #[must_use]
    pub fn new(content: Content) -> Self {
        Watch {
            trace: Trace::default(),
            content,
            peer_isn: None,
            own_isn: None,
            peer_scale: None,
            own_scale: None,
            peer_sack: false,
            held: BTreeMap::new(),
            first: First::default(),
            acked: 0,
            near: 0,
            looked: u64::MAX,
        }
    }

    /// What was seen so far.
    #[must_use]
    pub fn trace(&self) -> &Trace {
        &self.trace
    }

    /// All that was seen.
    #[must_use]
    pub fn into_trace(self) -> Trace {
        self.trace
    }

    /// At this time nothing was there: what comes next has been sent since.
    pub fn nothing(&mut self, t: u64) {
        self.looked = t;
    }

    /// A step of the situation begins.
    pub fn mark(&mut self, t: u64, packet: u64, step: &str) {
        self.trace.marks.push(Mark { t, packet, step: step.to_owned() });
    }

    /// Looks at a frame; returns the segment if it is one of the connection.
    pub fn frame(&mut self, packet: u64, t: u64, way: Way, lost: bool, frame: &[u8]) -> Option<&Seen> {
        let Ok(s) = segment::parse(frame) else {
            self.trace.others += u64::from(way == Way::FromPeer);
            return None;
        };
        if !checksum_is_right(frame) {
            self.trace.damaged += 1;
            return None;
        }
        let seen = match way {
            Way::FromPeer => self.peer_said(packet, t, lost, frame, &s),
            Way::ToPeer => self.receiver_said(packet, t, lost, &s),
        };
        match seen {
            Some(seen) => self.trace.segments.push(seen),
            None => {
                self.trace.others += u64::from(way == Way::FromPeer);
                return None;
            }
        }
        self.trace.segments.last()
    }

    /// A packet that was held back reaches the receiver after all.
    pub fn reaches(&mut self, packet: u64) {
        let at = self.trace.segments.binary_search_by_key(&packet, |s| s.packet);
        let Some(seen) = at.ok().and_then(|i| self.trace.segments.get_mut(i)) else { return };
        seen.lost = false;
        let (seq, end, fin) = (seen.seq, seen.end(), seen.has(FIN));
        self.arrives(seq, end, fin);
    }

    fn arrives(&mut self, seq: i64, end: i64, fin: bool) {
        if end > seq {
            self.hold(seq, end);
        }
        if fin {
            self.trace.fin = Some(end);
        }
    }

    fn peer_said(&mut self, packet: u64, t: u64, lost: bool, frame: &[u8], s: &Segment) -> Option<Seen> {
        if s.has(SYN) && !s.has(ACK) && self.own_isn.is_none() {
            // A port is tried again, or another one comes: the connection is the one that is answered.
            self.peer_isn = Some(s.seq);
            self.trace.peer = Some(s.source);
            self.peer_scale = Some(s.wscale);
            self.peer_sack = s.sack_permitted;
        }
        if self.trace.peer != Some(s.source) {
            return None;
        }
        let isn = self.peer_isn?;
        let seq = if s.has(SYN) { 0 } else { place(s.seq, isn.wrapping_add(1), self.near) };
        let mut seen = Seen {
            packet,
            t,
            since: self.looked.min(t),
            way: Way::FromPeer,
            lost,
            flags: s.flags,
            seq,
            len: if s.has(SYN) { 0 } else { s.payload },
            ack: None,
            window: None,
            sack: Vec::new(),
            tsval: s.timestamps.map(|(val, _)| val),
            tsecr: s.timestamps.filter(|_| s.has(ACK)).map(|(_, ecr)| ecr),
            wrong_byte: None,
        };
        if s.has(RST) || s.has(SYN) {
            return Some(seen);
        }
        if seen.len > 0 {
            seen.wrong_byte = self.check(seq, payload(frame, s.payload));
        }
        if !lost {
            self.arrives(seq, seen.end(), s.has(FIN));
        }
        Some(seen)
    }

    fn receiver_said(&mut self, packet: u64, t: u64, lost: bool, s: &Segment) -> Option<Seen> {
        if self.trace.peer != Some(s.destination) {
            return None;
        }
        if s.has(SYN) {
            self.own_isn = Some(s.seq);
            self.own_scale = Some(s.wscale);
            self.trace.mss = s.mss;
            // Both must offer it (RFC 7323 §2.2).
            let both = self.own_scale.flatten().zip(self.peer_scale.flatten());
            self.trace.wscale = both.map(|(own, _)| own.min(14));
            self.trace.sack = self.peer_sack;
        }
        let isn = self.peer_isn?;
        let own = self.own_isn.unwrap_or(s.seq);
        let ack = s.has(ACK).then(|| place(s.ack, isn.wrapping_add(1), self.near));
        // The window of a SYN is never scaled; what a reset says is no offer.
        let scale = if s.has(SYN) { 0 } else { self.trace.wscale.unwrap_or(0) };
        let window = (s.has(ACK) && !s.has(RST)).then(|| i64::from(s.window) << scale);
        let sack = s.sack.iter().map(|(a, b)| {
            let start = place(*a, isn.wrapping_add(1), self.near);
            (start, start + i64::from(b.wrapping_sub(*a)))
        });
        let sack = sack.collect();
        if let Some(ack) = ack.filter(|_| !lost) {
            self.acked = self.acked.max(ack);
            self.near = self.near.max(ack);
        }
        Some(Seen {
            packet,
            t,
            since: t,
            way: Way::ToPeer,
            lost,
            flags: s.flags,
            seq: i64::from(s.seq.wrapping_sub(own).cast_signed()),
            len: s.payload,
            ack,
            window,
            sack,
            tsval: s.timestamps.map(|(val, _)| val),
            tsecr: s.timestamps.filter(|_| s.has(ACK)).map(|(_, ecr)| ecr),
            wrong_byte: None,
        })
    }

    /// The first byte at or behind what is acknowledged that is not what it must be. What is acknowledged is history: a
    /// probe may carry any byte there (RFC 9293 §3.8.4 allows garbage).
    fn check(&mut self, seq: i64, payload: &[u8]) -> Option<i64> {
        let skip = usize::try_from((self.acked - seq).max(0)).ok()?;
        let at = seq + skip as i64;
        let payload = payload.get(skip..)?;
        let offset = u64::try_from(at).ok()?;
        match self.content {
            Content::Pattern => first_mismatch(offset, payload).map(u64::cast_signed),
            Content::Consistent => self.first.check(offset, payload).map(u64::cast_signed),
        }
    }

    fn hold(&mut self, start: i64, end: i64) {
        let (mut start, mut end) = (start.max(self.trace.received), end);
        if start >= end {
            return;
        }
        while let Some((&s, &e)) = self.held.range(..=end).next_back() {
            if e < start {
                break;
            }
            start = start.min(s);
            end = end.max(e);
            self.held.remove(&s);
        }
        self.held.insert(start, end);
        if let Some((&s, &e)) = self.held.first_key_value()
            && s <= self.trace.received
        {
            self.trace.received = e;
            self.held.remove(&s);
            self.near = self.near.max(e);
        }
    }
}

/// The bytes as they were sent first, where they are not known beforehand.
#[derive(Debug, Default)]
struct First {
    bytes: Vec<u8>,
    known: BTreeMap<u64, u64>,
}

/// The most bytes that are remembered; what lies behind is not checked.
const REMEMBERED: u64 = 64 << 20;

impl First {
    fn check(&mut self, offset: u64, payload: &[u8]) -> Option<u64> {
        let end = (offset + payload.len() as u64).min(REMEMBERED);
        if offset >= end {
            return None;
        }
        if self.bytes.len() < end as usize {
            self.bytes.resize(end as usize, 0);
        }
        let mut wrong = None;
        let mut at = offset;
        while at < end {
            let inside = self.known.range(..=at).next_back().map(|(_, e)| *e).filter(|e| *e > at);
            let until = match inside {
                Some(e) => e.min(end),
                None => self.known.range(at..).next().map_or(end, |(s, _)| (*s).min(end)),
            };
            let new = payload.get((at - offset) as usize..(until - offset) as usize)?;
            let old = self.bytes.get_mut(at as usize..until as usize)?;
            if inside.is_some() {
                let differs = old.iter().zip(new).position(|(a, b)| a != b);
                wrong = wrong.or(differs.map(|i| at + i as u64));
            } else {
                old.copy_from_slice(new);
                self.known.insert(at, until);
            }
            at = until;
        }
        // Neighbours become one.
        let mut start = offset;
        while let Some((&s, &e)) = self.known.range(..start).next_back().filter(|(_, e)| **e >= start) {
            let own = self.known.remove(&start).unwrap_or(e);
            self.known.insert(s, e.max(own));
            start = s;
        }
        wrong
    }
}

/// Where a 32-bit number lies, as a position near `near`.
fn place(number: u32, base: u32, near: i64) -> i64 {
    let offset = number.wrapping_sub(base);
    near + i64::from(offset.wrapping_sub(near as u32).cast_signed())
}

fn payload(frame: &[u8], len: u32) -> &[u8] {
    // A short frame is padded at its end: the IP header says where the segment ends.
    let ip = EthernetPacket::new(frame).map_or(0, |_| 14);
    let total = frame.get(ip..).and_then(Ipv4Packet::new).map_or(0, |p| usize::from(p.get_total_length()));
    let end = (ip + total).min(frame.len());
    frame.get(end.saturating_sub(len as usize)..end).unwrap_or_default()
}

/// Is the TCP checksum right? Other packets than IPv4 are not looked at.
fn checksum_is_right(frame: &[u8]) -> bool {
    let Some(ip) = frame.get(14..).and_then(Ipv4Packet::new).filter(|p| p.get_version() == 4) else {
        return true;
    };
    let start = 14 + usize::from(ip.get_header_length()) * 4;
    let end = 14 + usize::from(ip.get_total_length());
    let tcp = frame.get(start..end).and_then(TcpPacket::new);
    tcp.is_some_and(|t| {
        pnet::packet::tcp::ipv4_checksum(&t, &ip.get_source(), &ip.get_destination()) == t.get_checksum()
    })
}

#[cfg(test)]
mod tests;
