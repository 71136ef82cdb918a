//! A receiver that only acknowledges: the ceiling of any receiver in user space on this machine.
//!
//! It answers ARP and a SYN, and acknowledges in-order data with a window that never changes: once for all frames that were
//! there to be read, as smoltcp does, or at every second segment, as Linux does. It verifies nothing, keeps nothing, and has no timers.

use std::ops::Range;

use anyhow::Result;
use rightedge_stack::{time::Instant, wire::RxMeta};

use super::WINDOW;
use super::port::{Port, Receiver, frame_room};
use crate::run::wire::{STACK_IP, STACK_MAC};

/// Payload of a full-sized segment at an MTU of 1500, bytes.
pub(super) const MSS: u16 = 1460;
/// Window scale: 4 MiB are 32768 of these.
const SCALE: u8 = 7;
/// Ethernet, IPv4 and TCP headers without options.
const HEADERS: usize = 54;

/// The receiver.
pub(super) struct NullSink {
    buffer: Vec<u8>,
    /// An acknowledgement, complete but for its number and the two checksums.
    ack: [u8; HEADERS],
    expected: u32,
    acked: u32,
    read: u64,
    /// Bytes that are acknowledged as soon as they are there; the rest once for all that was there to be read.
    every: u32,
}

impl NullSink {
    pub(super) fn new(offload: bool, every: u32) -> Self {
        NullSink {
            buffer: vec![0; frame_room(offload)],
            ack: [0; HEADERS],
            expected: 0,
            acked: 0,
            read: 0,
            every,
        }
    }

    fn acknowledge(&mut self, port: &Port) -> Result<()> {
        self.acked = self.expected;
        put(&mut self.ack, 42, &self.expected.to_be_bytes());
        put(&mut self.ack, 50, &[0, 0]);
        let sum = tcp_checksum(self.ack.get(26..).unwrap_or_default());
        put(&mut self.ack, 50, &sum.to_be_bytes());
        port.send(&self.ack)
    }

    /// Turns the SYN's addresses round, says SYN-ACK, and keeps the headers for later acknowledgements.
    fn answer_syn(&mut self, syn: &[u8; HEADERS], port: &Port) -> Result<()> {
        self.expected = word(syn, 38).wrapping_add(1);
        self.acked = self.expected;
        let mut head = [0; HEADERS];
        put(&mut head, 0, syn.get(6..12).unwrap_or_default());
        put(&mut head, 6, &STACK_MAC.0);
        put(&mut head, 12, &[8, 0, 0x45, 0, 0, 40, 0, 0, 0x40, 0, 64, 6, 0, 0]);
        put(&mut head, 26, syn.get(30..34).unwrap_or_default());
        put(&mut head, 30, syn.get(26..30).unwrap_or_default());
        put(&mut head, 34, syn.get(36..38).unwrap_or_default());
        put(&mut head, 36, syn.get(34..36).unwrap_or_default());
        put(&mut head, 42, &self.expected.to_be_bytes());
        put(&mut head, 46, &[0x80, 0x12, 0xff, 0xff]);
        let [high, low] = MSS.to_be_bytes();
        let mut frame = [0; HEADERS + 12];
        put(&mut frame, 0, &head);
        put(&mut frame, 54, &[2, 4, high, low, 1, 1, 4, 2, 1, 3, 3, SCALE]);
        put(&mut frame, 16, &52u16.to_be_bytes());
        finish(&mut frame);
        // From now on: its first own byte is behind the SYN, no options, the window scaled.
        self.ack = head;
        put(&mut self.ack, 38, &1u32.to_be_bytes());
        let window = u16::try_from(WINDOW >> SCALE).unwrap_or(u16::MAX);
        put(&mut self.ack, 46, &[0x50, 0x10]);
        put(&mut self.ack, 48, &window.to_be_bytes());
        finish(&mut self.ack);
        port.send(&frame)
    }
}

impl Receiver for NullSink {
    fn buffer(&mut self) -> &mut [u8] {
        &mut self.buffer
    }

    fn arrived(&mut self, _: Instant, frame: Range<usize>, _: RxMeta, port: &Port) -> Result<()> {
        let frame = self.buffer.get(frame).unwrap_or_default();
        let Some(&head) = frame.first_chunk::<HEADERS>() else { return arp(frame, port) };
        if head.get(12..14) != Some(&[8, 0]) || head.get(23) != Some(&6) {
            return arp(frame, port);
        }
        let (offset, flags) = (usize::from(head[46] >> 4) * 4, head[47]);
        if flags & 0x02 != 0 {
            return self.answer_syn(&head, port);
        }
        let total = usize::from(u16::from_be_bytes([head[16], head[17]]));
        let len = total.saturating_sub(20 + offset) as u32;
        if len == 0 {
            return Ok(());
        }
        if word(&head, 38) != self.expected {
            return self.acknowledge(port);
        }
        self.expected = self.expected.wrapping_add(len);
        self.read += u64::from(len);
        if self.expected.wrapping_sub(self.acked) < self.every { Ok(()) } else { self.acknowledge(port) }
    }

    fn settle(&mut self, _: Instant, port: &Port) -> Result<()> {
        if self.expected == self.acked { Ok(()) } else { self.acknowledge(port) }
    }

    fn due(&mut self, _: Instant) -> Option<Instant> {
        None
    }

    fn read(&self) -> u64 {
        self.read
    }
}

/// Answers a question for the stack's hardware address.
fn arp(frame: &[u8], port: &Port) -> Result<()> {
    let Some(q) = frame.first_chunk::<42>() else { return Ok(()) };
    if q.get(12..22) != Some(&[8, 6, 0, 1, 8, 0, 6, 4, 0, 1]) || q.get(38..42) != Some(&STACK_IP.octets()) {
        return Ok(());
    }
    let mut a = *q;
    put(&mut a, 0, q.get(6..12).unwrap_or_default());
    put(&mut a, 6, &STACK_MAC.0);
    put(&mut a, 20, &[0, 2]);
    put(&mut a, 22, &STACK_MAC.0);
    put(&mut a, 28, &STACK_IP.octets());
    put(&mut a, 32, q.get(22..32).unwrap_or_default());
    port.send(&a)
}

/// Fills in the checksums of a frame whose checksum fields are zero.
fn finish(frame: &mut [u8]) {
    let ip = fold(sum(frame.get(14..34).unwrap_or_default()));
    put(frame, 24, &ip.to_be_bytes());
    let tcp = tcp_checksum(frame.get(26..).unwrap_or_default());
    put(frame, 50, &tcp.to_be_bytes());
}

/// Of the addresses and the segment behind them.
fn tcp_checksum(addresses_and_segment: &[u8]) -> u16 {
    fold(sum(addresses_and_segment) + 6 + addresses_and_segment.len().saturating_sub(8) as u32)
}

fn sum(data: &[u8]) -> u32 {
    data.chunks_exact(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum()
}

fn fold(sum: u32) -> u16 {
    let once = (sum & 0xffff) + (sum >> 16);
    !((once & 0xffff) + (once >> 16)) as u16
}

fn word(head: &[u8; HEADERS], at: usize) -> u32 {
    head.get(at..).and_then(|b| b.first_chunk()).map_or(0, |b| u32::from_be_bytes(*b))
}

fn put(to: &mut [u8], at: usize, what: &[u8]) {
    if let Some(to) = to.get_mut(at..at + what.len()) {
        to.copy_from_slice(what);
    }
}
