//! A link in user space: delay, jitter, rate with a queue, loss, reordering, duplication and corruption between the
//! sender (a TAP device or the model sender) and the receiving stack. Off by default.
//!
//! Sans-I/O: [`Link::push`] decides a packet's whole fate at once and records it as a [`LinkEvent`]; [`Link::poll`]
//! hands out what is due; [`Link::poll_timeout`] says when to come back.
//!
//! ```text
//! push → number → listed? random? → queue (rate) → delay ± jitter → [extra delay] → [bit flip] → poll
//!                                      └ full: drop                                 └ twice with dup
//! ```
//!
//! - **Determinism.** Each direction has its own generator and every packet takes the same number of draws whatever is
//!   switched on: with one seed, packet 17 is lost or kept alike with and without jitter.
//! - **Order.** A direction keeps order, with jitter too; only a reordered packet is overtaken (and does not hold up
//!   those behind it). Packets due at the same instant come out in the order of arrival.
//! - **Super-segments** (GSO) are one packet: numbered, lost, reordered, duplicated and queued as a whole. The rate
//!   counts the bytes they become on the wire, headers repeated per segment. For loss of single MSS-sized
//!   segments switch segmentation offload off at the sender.
//! - **Memory** is bounded: [`Link::set_limit`] bytes in flight (256 MiB at first) and [`MAX_EVENTS`] undrained records.

mod event;
mod spec;
#[cfg(test)]
mod tests;

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

use bytes::{Bytes, BytesMut};
use rand::{RngExt as _, SeedableRng as _};
use rand_pcg::Pcg64;

use rightedge_stack::time::{Duration, Instant};

pub use event::{Dir, DropCause, Fate, LinkEvent, LinkStats};
pub use spec::{DirSpec, LinkSpec, LinkSpecError, QueueLimit};

/// Records kept when nobody drains them; the oldest go first and [`Link::events_lost`] counts them.
pub const MAX_EVENTS: usize = 1 << 16;

/// What travels beside a frame. The link needs only the segment size of a super-segment.
pub trait FrameMeta: Clone {
    /// Payload bytes per segment of a super-segment; zero for an ordinary frame.
    fn gso_size(&self) -> u16;
}

/// The plain [`FrameMeta`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Meta {
    /// Payload bytes per segment of a super-segment; zero for an ordinary frame.
    pub gso_size: u16,
    /// For the caller; the link carries it along.
    pub tag: u64,
}

/// The link emulator.
#[derive(Debug)]
pub struct Link<M = Meta> {
    down: Lane,
    up: Lane,
    heap: BinaryHeap<Reverse<Pending<M>>>,
    order: u64,
    held: u64,
    limit: u64,
    record: bool,
    events: VecDeque<LinkEvent>,
    events_lost: u64,
}

impl<M: FrameMeta> Link<M> {
    /// A link that does what `spec` says.
    #[must_use]
    pub fn new(spec: &LinkSpec) -> Self {
        Link {
            down: Lane::new(&spec.down, spec.seed, 1),
            up: Lane::new(&spec.up, spec.seed, 2),
            heap: BinaryHeap::new(),
            order: 0,
            held: 0,
            limit: 256 << 20,
            record: !spec.is_off(),
            events: VecDeque::new(),
            events_lost: 0,
        }
    }

    /// Limits the bytes held in flight, both directions together.
    pub fn set_limit(&mut self, bytes: u64) {
        self.limit = bytes;
    }

    /// Records fates or not; on by default unless the link is off.
    pub fn set_record(&mut self, on: bool) {
        self.record = on;
    }

    /// Takes a frame in and decides its fate.
    pub fn push(&mut self, now: Instant, dir: Dir, frame: Bytes, meta: M) {
        let len = frame.len() as u64;
        let wire = wire_len(&frame, meta.gso_size());
        let room = self.limit.saturating_sub(self.held);
        let lane = match dir {
            Dir::Down => &mut self.down,
            Dir::Up => &mut self.up,
        };
        let (number, fate) = lane.decide(now, &frame, wire, room);
        if let Fate::Forward { deliver_at, duplicated, corrupted_bit, .. } = fate {
            let frame = match corrupted_bit {
                Some(bit) => flip(&frame, bit),
                None => frame,
            };
            if duplicated {
                self.insert(deliver_at, dir, frame.clone(), meta.clone());
            }
            self.insert(deliver_at, dir, frame, meta);
        }
        if self.record {
            if self.events.len() >= MAX_EVENTS {
                self.events.pop_front();
                self.events_lost += 1;
            }
            let small = |n: u64| u32::try_from(n).unwrap_or(u32::MAX);
            self.events.push_back(LinkEvent {
                at: now,
                dir,
                number,
                len: small(len),
                wire_len: small(wire),
                fate,
            });
        }
    }

    /// The next frame that is due at `now`, if any. Call until `None`.
    pub fn poll(&mut self, now: Instant) -> Option<(Dir, Bytes, M)> {
        if self.heap.peek().is_none_or(|Reverse(p)| p.at > now) {
            return None;
        }
        let Reverse(p) = self.heap.pop()?;
        let len = p.frame.len() as u64;
        self.held = self.held.saturating_sub(len);
        let stats = match p.dir {
            Dir::Down => &mut self.down.stats,
            Dir::Up => &mut self.up.stats,
        };
        stats.delivered += 1;
        stats.delivered_bytes += len;
        Some((p.dir, p.frame, p.meta))
    }

    /// When the next frame is due.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.heap.peek().map(|Reverse(p)| p.at)
    }

    /// Takes the records written since the last call, oldest first.
    pub fn drain_events(&mut self) -> impl Iterator<Item = LinkEvent> + '_ {
        self.events.drain(..)
    }

    /// Records that were overwritten because nobody drained them.
    #[must_use]
    pub fn events_lost(&self) -> u64 {
        self.events_lost
    }

    /// The counts of one direction.
    #[must_use]
    pub fn stats(&self, dir: Dir) -> LinkStats {
        match dir {
            Dir::Down => self.down.stats,
            Dir::Up => self.up.stats,
        }
    }

    /// Bytes in flight.
    #[must_use]
    pub fn held(&self) -> u64 {
        self.held
    }

    fn insert(&mut self, at: Instant, dir: Dir, frame: Bytes, meta: M) {
        self.held += frame.len() as u64;
        self.order += 1;
        self.heap.push(Reverse(Pending { at, order: self.order, dir, frame, meta }));
    }
}

impl FrameMeta for Meta {
    fn gso_size(&self) -> u16 {
        self.gso_size
    }
}

impl FrameMeta for () {
    fn gso_size(&self) -> u16 {
        0
    }
}

/// A frame on its way.
#[derive(Debug)]
struct Pending<M> {
    at: Instant,
    order: u64,
    dir: Dir,
    frame: Bytes,
    meta: M,
}

impl<M> Ord for Pending<M> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.order).cmp(&(other.at, other.order))
    }
}

impl<M> PartialOrd for Pending<M> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl<M> PartialEq for Pending<M> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl<M> Eq for Pending<M> {}

/// One direction.
#[derive(Debug)]
struct Lane {
    spec: DirSpec,
    rng: Pcg64,
    number: u64,
    /// First entry of `spec.lose` that may still match.
    lose_next: usize,
    /// The rate limiter is busy until then.
    busy_until: Instant,
    /// Bit-nanoseconds left over from the last division by the rate, so that rounding does not add up.
    carry: u128,
    /// Packets not wholly sent yet: when they will be, and their bytes.
    queue: VecDeque<(Instant, u64)>,
    queued: u64,
    last_delivery: Instant,
    stats: LinkStats,
}

impl Lane {
    fn new(spec: &DirSpec, seed: u64, stream: u64) -> Self {
        // Neighbouring seeds must not give neighbouring streams: the multiplier spreads them.
        let mixed = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ (stream << 62);
        Lane {
            spec: spec.clone(),
            rng: Pcg64::seed_from_u64(mixed),
            number: 0,
            lose_next: 0,
            busy_until: Instant::ZERO,
            carry: 0,
            queue: VecDeque::new(),
            queued: 0,
            last_delivery: Instant::ZERO,
            stats: LinkStats::default(),
        }
    }

    fn decide(&mut self, now: Instant, frame: &Bytes, wire: u64, room: u64) -> (u64, Fate) {
        self.number += 1;
        self.stats.pushed += 1;
        self.stats.pushed_bytes += frame.len() as u64;
        let fate = match self.forward(now, frame, wire, room) {
            Ok(fate) => fate,
            Err(cause) => {
                match cause {
                    DropCause::Listed | DropCause::Random => self.stats.lost += 1,
                    DropCause::QueueBytes | DropCause::QueuePackets => self.stats.queue_drops += 1,
                    DropCause::LinkFull => self.stats.overflow_drops += 1,
                }
                Fate::Drop { cause }
            }
        };
        (self.number, fate)
    }

    fn forward(&mut self, now: Instant, frame: &Bytes, wire: u64, room: u64) -> Result<Fate, DropCause> {
        // Always six draws, in this order.
        let lost = self.rng.random::<f64>() < self.spec.loss;
        let duplicated = self.rng.random::<f64>() < self.spec.dup;
        let corrupt = self.rng.random::<f64>() < self.spec.corrupt;
        let reordered = self.rng.random::<f64>() < self.spec.reorder;
        let jitter = self.rng.random::<f64>();
        let bit = self.rng.random::<u32>();

        if self.listed() {
            return Err(DropCause::Listed);
        }
        if lost {
            return Err(DropCause::Random);
        }
        let copies = if duplicated { 2 } else { 1 };
        if room < (frame.len() as u64).saturating_mul(copies) {
            return Err(DropCause::LinkFull);
        }
        let (waited, sent) = self.serialise(now, wire)?;

        let j = self.spec.jitter.as_nanos();
        let wobble = (jitter * 2.0 * j as f64) as u64;
        let delay = Duration::from_nanos(self.spec.delay.as_nanos().saturating_sub(j).saturating_add(wobble));
        let in_order = (sent + delay).max(self.last_delivery);
        let deliver_at = if reordered {
            self.stats.reordered += 1;
            in_order + self.spec.reorder_extra
        } else {
            self.last_delivery = in_order;
            in_order
        };
        let first = ETHERNET * 8;
        let bits = u32::try_from(frame.len()).unwrap_or(u32::MAX).saturating_mul(8).saturating_sub(first);
        let corrupted_bit = (corrupt && bits > 0).then(|| first + bit % bits.max(1));
        self.stats.duplicated += u64::from(duplicated);
        self.stats.corrupted += u64::from(corrupted_bit.is_some());
        Ok(Fate::Forward { deliver_at, waited, reordered, duplicated, corrupted_bit })
    }

    fn listed(&mut self) -> bool {
        while let Some(&(first, last)) = self.spec.lose.get(self.lose_next) {
            if self.number <= last {
                return self.number >= first;
            }
            self.lose_next += 1;
        }
        false
    }

    /// Puts `wire` bytes through the rate limiter: how long they wait and when the last bit is out.
    ///
    /// The queue holds what is not wholly sent. An empty one takes a frame of any size, so that a super-segment
    /// larger than the limit still passes.
    fn serialise(&mut self, now: Instant, wire: u64) -> Result<(Duration, Instant), DropCause> {
        let Some(rate) = self.spec.rate else { return Ok((Duration::ZERO, now)) };
        while let Some(&(done, bytes)) = self.queue.front() {
            if done > now {
                break;
            }
            self.queued -= bytes;
            self.queue.pop_front();
        }
        if !self.queue.is_empty() {
            match self.spec.queue.unwrap_or(QueueLimit::Packets(1000)) {
                QueueLimit::Bytes(max) if self.queued.saturating_add(wire) > max => {
                    return Err(DropCause::QueueBytes);
                }
                QueueLimit::Packets(max) if self.queue.len() as u64 >= max => {
                    return Err(DropCause::QueuePackets);
                }
                _ => {}
            }
        }
        if self.busy_until <= now {
            self.busy_until = now;
            self.carry = 0;
        }
        let start = self.busy_until;
        let work = u128::from(wire) * 8 * 1_000_000_000 + self.carry;
        let nanos = work / u128::from(rate);
        self.carry = work % u128::from(rate);
        let done = start + Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        self.busy_until = done;
        self.queue.push_back((done, wire));
        self.queued += wire;
        self.stats.queue_peak_bytes = self.stats.queue_peak_bytes.max(self.queued);
        Ok((start.since(now), done))
    }
}

/// Bytes of an Ethernet header.
const ETHERNET: u32 = 14;

/// Bytes of the frames that a super-segment becomes; just the length of anything else.
fn wire_len(frame: &[u8], gso_size: u16) -> u64 {
    let len = frame.len() as u64;
    if gso_size == 0 {
        return len;
    }
    let Some(headers) = header_len(frame) else { return len };
    let payload = len.saturating_sub(headers);
    let segments = payload.div_ceil(u64::from(gso_size)).max(1);
    len + (segments - 1) * headers
}

/// Bytes before the TCP payload, of plain IPv4 and IPv6 without extension headers.
fn header_len(frame: &[u8]) -> Option<u64> {
    let ip = match frame.get(12..14)? {
        [0x08, 0x00] => usize::from(*frame.get(14)? & 0xf) * 4,
        [0x86, 0xdd] => 40,
        _ => return None,
    };
    let tcp = usize::from(*frame.get(14 + ip + 12)? >> 4) * 4;
    Some((14 + ip + tcp) as u64)
}

fn flip(frame: &Bytes, bit: u32) -> Bytes {
    let mut copy = BytesMut::from(&frame[..]);
    if let Some(byte) = copy.get_mut((bit / 8) as usize) {
        *byte ^= 1 << (bit % 8);
    }
    copy.freeze()
}
