//! Choices that stay the same whatever version of a random number library is at hand.

use rand::{Rng as _, SeedableRng as _};
use rand_pcg::Pcg64;

/// A seeded stream of choices.
pub(super) struct Dice(Pcg64);

impl Dice {
    pub(super) fn new(seed: u64, index: u64) -> Self {
        // Neighbouring seeds must not give overlapping runs of scripts: the multiplier spreads them.
        Dice(Pcg64::seed_from_u64(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(index)))
    }

    /// 0 to `n` - 1; 0 if there is nothing to choose.
    ///
    /// Written out because a library's own ranges may be drawn differently in its next version, and a script's name
    /// has to mean the same script for good.
    pub(super) fn below(&mut self, n: u64) -> u64 {
        ((u128::from(self.0.next_u64()) * u128::from(n)) >> 64) as u64
    }

    /// `low` to `high`, both included.
    pub(super) fn between(&mut self, low: u32, high: u32) -> u32 {
        low.saturating_add(self.below(u64::from(high.saturating_sub(low)) + 1) as u32)
    }

    /// True in so many of a thousand cases.
    pub(super) fn permille(&mut self, n: u64) -> bool {
        self.below(1000) < n
    }

    /// True in so many of a hundred cases.
    pub(super) fn percent(&mut self, n: u64) -> bool {
        self.permille(n * 10)
    }

    /// One of a list; the default of its type if the list is empty.
    pub(super) fn pick<T: Clone + Default>(&mut self, list: &[T]) -> T {
        let i = self.below(list.len() as u64) as usize;
        list.get(i).cloned().unwrap_or_default()
    }

    /// One of a list with weights.
    pub(super) fn weighted<T: Copy>(&mut self, list: &[(T, u32)]) -> Option<T> {
        let mut left = self.below(list.iter().map(|(_, w)| u64::from(*w)).sum());
        for (t, w) in list {
            if left < u64::from(*w) {
                return Some(*t);
            }
            left -= u64::from(*w);
        }
        None
    }
}
