//! Queues as full as they get, one segment before they are collapsed.

use bytes::Bytes;
use rightedge_stack::nic::Driver;
use rightedge_stack::profile::Profile;
use rightedge_stack::{SocketOption, Steering};

use crate::Receiver;
use crate::connection::{Connections, Setup};

/// Which queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// The receive queue.
    InOrder,
    /// The out-of-order queue, behind one missing segment.
    OutOfOrder,
}

/// Queues that are measured: segment size, driver, which, partly read.
pub const QUEUES: [(u32, Driver, Which, bool); 7] = [
    (1448, Driver::Page4K, Which::InOrder, false),
    (1448, Driver::Page4K, Which::InOrder, true),
    (1448, Driver::Page4K, Which::OutOfOrder, false),
    (1448, Driver::Buf16K, Which::InOrder, false),
    (536, Driver::Page4K, Which::InOrder, false),
    (100, Driver::TapAlloc, Which::InOrder, false),
    (1, Driver::TapAlloc, Which::InOrder, false),
];

/// A queue to be collapsed.
#[derive(Clone, Debug)]
pub struct Shape {
    /// The kernel generation with its switches.
    pub profile: Profile,
    /// The driver model.
    pub driver: Driver,
    /// What may be charged, bytes (sk_rcvbuf).
    pub charged: u32,
    /// Payload of a segment, bytes.
    pub segment: u32,
    /// Which queue.
    pub which: Which,
    /// Half of the first buffer has been read.
    pub partly_read: bool,
}

/// A full queue and the segment that makes it collapse.
pub struct Full {
    /// The stack.
    pub receiver: Connections,
    /// The segment that does not fit.
    pub last: Bytes,
    /// Payload bytes in the queue.
    pub payload: u64,
    /// Buffers in the queue, about.
    pub segments: u64,
    /// The payload of the queue where it lies. The frames' memory is the driver's, as that of a device's ring: a collapse
    /// lets go of it, and gives none back.
    pub frames: Vec<Bytes>,
}

/// Memory that the heap will hand out next: `bytes` of it in pages, used before. With it, what is timed does not wait for the
/// operating system to hand out pages. To be kept until the work is done: it stands in the way of giving the memory back.
#[must_use]
pub fn used_memory(bytes: u64) -> Box<[u8]> {
    let page = Profile::linux_6_1().build.page_room() as usize;
    let pages: Vec<Vec<u8>> = (0..bytes / page as u64 + 2).map(|_| vec![1; page]).collect();
    let plug = vec![1; 64 << 10].into_boxed_slice();
    drop(std::hint::black_box(pages));
    plug
}

/// The floor of a collapse: the same bytes, from where they lie, copied into fresh buffers of a page. Returns how many buffers.
#[inline(never)]
#[must_use]
pub fn plain_copy(pieces: &[Bytes]) -> usize {
    let page = Profile::linux_6_1().build.page_room() as usize;
    let mut made: Vec<Vec<u8>> = Vec::new();
    let mut now = Vec::with_capacity(page);
    for mut rest in pieces.iter().map(|p| &p[..]) {
        while !rest.is_empty() {
            let n = rest.len().min(page - now.len());
            now.extend_from_slice(&rest[..n]);
            rest = &rest[n..];
            if now.len() == page {
                made.push(std::mem::replace(&mut now, Vec::with_capacity(page)));
            }
        }
    }
    made.push(now);
    std::hint::black_box(&made).len()
}

/// Frames that lie side by side.
const RING: u32 = 64;

/// Fills a queue until one more segment calls for a collapse, or until the window is used up.
#[must_use]
pub fn full(shape: &Shape) -> Full {
    fill(shape, fits(shape))
}

/// How many segments go in before the one that calls for a collapse. That is found out by letting it in, so before the clock
/// starts.
#[must_use]
pub fn fits(shape: &Shape) -> u64 {
    fill(shape, u64::MAX).segments
}

/// A queue of `most` segments.
#[must_use]
pub fn fill(shape: &Shape, most: u64) -> Full {
    let setup = Setup {
        profile: shape.profile.clone(),
        driver: shape.driver,
        rcvbuf: Some(i32::try_from(shape.charged / 2).unwrap_or(i32::MAX)),
        decisions: false,
        pressure: false,
    };
    let mut receiver = Connections::new(&setup, 1);
    let id = receiver.all[0];
    let mut at = if shape.which == Which::OutOfOrder { shape.segment } else { 0 };
    if shape.which == Which::OutOfOrder {
        // The window opens with data in order only; here it is said to be open.
        let now = receiver.now;
        let open = SocketOption::Steer(Some(Steering::Window(shape.charged)));
        receiver.stack.set_option(now, id, open).expect("steering");
        receiver.stack.send_ack(now, id).expect("an ACK");
    }
    let mut ready = Vec::new().into_iter();
    let (mut payload, mut segments) = (0, 0);
    let mut frames = Vec::new();
    loop {
        let last: Bytes = match ready.next() {
            Some(frame) => frame,
            None => {
                let offsets = (0..RING).map(|i| at.wrapping_add(i * shape.segment));
                ready = receiver.peers[0].segments(offsets, shape.segment as usize).into_iter();
                continue;
            }
        };
        if segments == most {
            return Full { receiver, last, payload, segments, frames };
        }
        // What is charged, and how much is held: a segment may fill the tail room of the one before it and cost nothing.
        let state = |r: &Connections| {
            r.stack.info(id).map_or((0, 0), |i| (i.mem.rmem_alloc, u64::from(i.recv_q) + i.ofo_bytes))
        };
        let before = state(&receiver);
        receiver.arrive(&last);
        let after = state(&receiver);
        if after.0 < before.0 || after.1 <= before.1 {
            return Full { receiver, last, payload, segments, frames };
        }
        at += shape.segment;
        payload += u64::from(shape.segment);
        segments += 1;
        frames.push(last.slice(last.len() - shape.segment as usize..));
        if shape.partly_read && segments == 1 && shape.which == Which::InOrder {
            let half = (shape.segment / 2) as usize;
            let now = receiver.now;
            let _ = receiver.stack.recv_with(now, id, half, &mut |_| {});
            payload -= half as u64;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_queue_is_full_and_the_last_segment_collapses_it() {
        for (segment, driver, which) in [
            (100, Driver::TapAlloc, Which::InOrder),
            (1448, Driver::Page4K, Which::InOrder),
            (1448, Driver::Page4K, Which::OutOfOrder),
        ] {
            let profile = Profile::linux_6_1();
            let shape = Shape { profile, driver, charged: 1 << 20, segment, which, partly_read: false };
            let mut q = full(&shape);
            let id = q.receiver.all[0];
            let charged = |q: &Full| q.receiver.stack.info(id).expect("open").mem.rmem_alloc;
            let before = charged(&q);
            assert!(before > 9 << 16, "{shape:?}: {before}");
            q.receiver.arrive(&q.last);
            assert!(charged(&q) < before, "{shape:?}: {} after {before}", charged(&q));
            assert!(q.payload > 50_000, "{shape:?}: {}", q.payload);
        }
    }
}
