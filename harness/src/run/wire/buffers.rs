//! Buffers for frames that come from a device, used again once nobody looks at their frame any more.

use std::collections::VecDeque;
use std::ops::Range;

use bytes::{Bytes, BytesMut};

/// Buffers lent out that are remembered; memory that is kept longer is given up to whoever keeps it.
const MOST_LENT: usize = 256;

/// One buffer to read into, and those that were lent out.
#[derive(Debug)]
pub(super) struct Buffers {
    /// Zeroed once; empty when it was lent.
    next: BytesMut,
    lent: VecDeque<Bytes>,
    room: usize,
}

impl Buffers {
    /// Buffers of `room` bytes each.
    pub(super) fn new(room: usize) -> Self {
        Buffers { next: BytesMut::zeroed(room), lent: VecDeque::new(), room }
    }

    /// Where the next frame goes. The same one until [`Buffers::take`].
    pub(super) fn next(&mut self) -> &mut [u8] {
        if self.next.is_empty() {
            self.next = self.unused().unwrap_or_else(|| BytesMut::zeroed(self.room));
        }
        &mut self.next
    }

    /// The frame that was read into this part of the buffer.
    pub(super) fn take(&mut self, frame: Range<usize>) -> Bytes {
        if frame.len() < self.room / 2 {
            // A small segment must not keep a large buffer alive.
            return Bytes::copy_from_slice(self.next.get(frame).unwrap_or_default());
        }
        let whole = std::mem::take(&mut self.next).freeze();
        let end = frame.end.min(whole.len());
        let part = whole.slice(frame.start.min(end)..end);
        if self.lent.len() == MOST_LENT {
            self.lent.pop_front();
        }
        self.lent.push_back(whole);
        part
    }

    /// A buffer that came back. They come back in order, or nearly so.
    fn unused(&mut self) -> Option<BytesMut> {
        // The one lent last is still in the cache, if it is back already.
        let from_behind = self.lent.pop_back()?;
        match from_behind.try_into_mut() {
            Ok(buffer) => return Some(buffer),
            Err(in_use) => self.lent.push_back(in_use),
        }
        match self.lent.pop_front()?.try_into_mut() {
            Ok(buffer) => Some(buffer),
            Err(in_use) => {
                self.lent.push_front(in_use);
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_is_used_again_when_its_frame_is_gone() {
        let mut b = Buffers::new(100);
        let first = b.next().as_ptr();
        b.next()[..3].copy_from_slice(b"abc");
        let small = b.take(1..3);
        assert_eq!((&small[..], b.next().as_ptr()), (&b"bc"[..], first));
        b.next()[60] = 7;
        let large = b.take(10..90);
        assert_eq!((large.len(), large[50]), (80, 7));
        assert_ne!(b.next().as_ptr(), first);
        drop(large);
        let second = b.take(0..100);
        assert_eq!(b.next().as_ptr(), first);
        assert_eq!(b.next().len(), 100);
        drop(second);
    }

    #[test]
    fn frames_that_are_kept_keep_their_bytes() {
        let mut b = Buffers::new(64);
        let mut kept = Vec::new();
        for n in 0..1000 {
            b.next()[..8].copy_from_slice(&u64::to_be_bytes(n));
            kept.push(b.take(0..40));
        }
        for (n, frame) in kept.iter().enumerate() {
            assert_eq!(frame[..8], (n as u64).to_be_bytes());
        }
        assert!(b.lent.len() <= MOST_LENT);
    }
}
