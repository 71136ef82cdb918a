//! Senders that drive the receiving stack: an embedded model for virtual time, and the machine's own kernel.
//!
//! Both send the same bytes, so that a receiver can check every one of them: see [`pattern`].

pub mod kernel;
pub mod model;

use std::sync::LazyLock;

use serde::{Deserialize, Serialize};

/// Who opens the connection, seen from the sender.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// The sender listens; the receiving stack connects to it.
    #[default]
    Server,
    /// The sender connects to the receiving stack.
    Client,
}

/// What a sender does with the connection when its application is done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum End {
    /// FIN behind the last byte.
    #[default]
    Close,
    /// RST, unsent data thrown away.
    Abort,
    /// The connection stays open.
    Keep,
}

/// `len` bytes of the payload pattern from stream offset `offset`; at most [`PATTERN_CHUNK`] at a time.
///
/// The byte at offset `o` is `p[o mod 65521]` with `p[i] = (7·i + 13·(i>>8) + (i>>3)) mod 256`. The period is a prime,
/// so no segment size divides it and a misplaced segment shows.
#[must_use]
pub fn pattern(offset: u64, len: usize) -> &'static [u8] {
    let start = (offset % PATTERN_PERIOD) as usize;
    PATTERN.get(start..start + len.min(PATTERN_CHUNK)).unwrap_or(&[])
}

/// The first byte of `data` that differs from the pattern when `data[0]` has stream offset `offset`.
#[must_use]
pub fn first_mismatch(offset: u64, data: &[u8]) -> Option<u64> {
    let mut at = offset;
    for chunk in data.chunks(PATTERN_CHUNK) {
        let want = pattern(at, chunk.len());
        if want != chunk {
            return want.iter().zip(chunk).position(|(a, b)| a != b).map(|i| at + i as u64);
        }
        at += chunk.len() as u64;
    }
    None
}

/// The pattern repeats after this many bytes.
pub const PATTERN_PERIOD: u64 = 65_521;
/// The most bytes [`pattern`] hands out at once.
pub const PATTERN_CHUNK: usize = 65_536;

static PATTERN: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let byte = |i: u64| (7 * i + 13 * (i >> 8) + (i >> 3)) as u8; // mod 256 is meant
    (0..PATTERN_PERIOD + PATTERN_CHUNK as u64).map(|o| byte(o % PATTERN_PERIOD)).collect()
});

/// How the application writes: the sizes of successive writes, used in turn.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WriteSizes {
    sizes: Vec<u32>,
    next: usize,
}

impl WriteSizes {
    /// Writes of these sizes in turn; zeros are left out, and nothing at all becomes 1448.
    #[must_use]
    pub fn new(sizes: &[u32]) -> Self {
        let mut sizes: Vec<u32> = sizes.iter().copied().filter(|&s| s > 0).collect();
        if sizes.is_empty() {
            sizes.push(1448);
        }
        WriteSizes { sizes, next: 0 }
    }

    /// The size of the next write.
    #[must_use]
    pub fn peek(&self) -> u32 {
        self.sizes.get(self.next).copied().unwrap_or(1)
    }

    /// Goes on to the write after it.
    pub fn advance(&mut self) {
        self.next = (self.next + 1) % self.sizes.len().max(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pattern_follows_its_formula_and_wraps_at_its_period() {
        assert_eq!(pattern(0, 4), [0, 7, 14, 21]);
        assert_eq!(pattern(300, 1)[0], ((7 * 300 + 13 + 37) % 256) as u8);
        assert_eq!(pattern(PATTERN_PERIOD - 1, 3)[1..], [0, 7]);
        assert_eq!(pattern(5, usize::MAX).len(), PATTERN_CHUNK);
        assert_eq!(first_mismatch(1_000_000, pattern(1_000_000, 5000)), None);
        let mut bad = pattern(123, 200_000).to_vec();
        bad[70] ^= 1;
        assert_eq!(first_mismatch(123, &bad), Some(193));
    }

    #[test]
    fn write_sizes_go_round() {
        let mut w = WriteSizes::new(&[1, 0, 5]);
        let got: Vec<u32> = (0..4)
            .map(|_| {
                let s = w.peek();
                w.advance();
                s
            })
            .collect();
        assert_eq!(got, [1, 5, 1, 5]);
        assert_eq!(WriteSizes::new(&[]).peek(), 1448);
    }
}
