//! A limit on how often a stranger can make us talk.

use crate::time::Instant;

/// So many at once, then so many a second.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rate {
    per_second: u64,
    burst: u64,
    /// Billionths of a permission.
    stock: u64,
    at: Instant,
}

impl Rate {
    pub(super) const fn new(per_second: u32, burst: u32) -> Self {
        let (per_second, burst) = (per_second as u64, burst as u64);
        Rate { per_second, burst, stock: burst.saturating_mul(ONE), at: Instant::ZERO }
    }

    /// Takes a permission if there is one.
    pub(super) fn allow(&mut self, now: Instant) -> bool {
        let gained = now.since(self.at).as_nanos().saturating_mul(self.per_second);
        self.stock = self.stock.saturating_add(gained).min(self.burst.saturating_mul(ONE));
        self.at = self.at.max(now);
        match self.stock.checked_sub(ONE) {
            Some(left) => {
                self.stock = left;
                true
            }
            None => false,
        }
    }
}

const ONE: u64 = 1_000_000_000;
