//! What the benchmarks share: the work itself, without a clock. `cargo bench` and `rightedge bench` time the same things.
//!
//! | module | one line |
//! |---|---|
//! | [`connection`] | our stack with open connections, and a forger of segments for them |
//! | [`rival`] | smoltcp's TCP socket doing the same |
//! | [`queue`] | receive queues and out-of-order queues as full as they get |

#![forbid(unsafe_code)]
#![allow(
    clippy::expect_used,
    clippy::missing_panics_doc,
    reason = "work that cannot be set up cannot be measured"
)]

pub mod connection;
pub mod queue;
pub mod rival;

use bytes::Bytes;

/// A receiver that segments can be handed to and that an application reads from.
pub trait Receiver {
    /// A frame arrives; what is answered is thrown away. Returns how many frames that was.
    fn arrive(&mut self, frame: &Bytes) -> usize;
    /// The application reads everything there is. Returns how much that was.
    fn drain(&mut self) -> usize;
}

/// Hands `frames` to `to`; the application reads behind every `read_every` of them. Returns how many bytes it read.
#[inline(never)]
pub fn feed(to: &mut impl Receiver, frames: &[Bytes], read_every: usize) -> usize {
    let mut read = 0;
    for batch in frames.chunks(read_every.max(1)) {
        for frame in batch {
            to.arrive(frame);
        }
        read += to.drain();
    }
    read
}
