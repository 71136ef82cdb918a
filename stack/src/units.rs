//! Sequence numbers. Everything a peer can choose goes through here, so nothing here can panic.
//!
//! [`Seq`] has no `Ord` on purpose: sequence space is a circle (RFC 9293 §3.4) and "less" means "before by less than
//! half the circle", which is not transitive. Use [`Seq::before`] and [`Seq::after`].

use core::fmt;

/// A 32-bit TCP sequence number.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(transparent))]
pub struct Seq(pub u32);

impl Seq {
    /// Signed distance from `earlier` to `self`, modulo 2³².
    #[must_use]
    pub const fn since(self, earlier: Seq) -> i32 {
        self.0.wrapping_sub(earlier.0) as i32
    }

    /// Strictly before `other`.
    #[must_use]
    pub const fn before(self, other: Seq) -> bool {
        self.since(other) < 0
    }

    /// Strictly after `other`.
    #[must_use]
    pub const fn after(self, other: Seq) -> bool {
        other.since(self) < 0
    }

    /// At or before `other`.
    #[must_use]
    pub const fn at_or_before(self, other: Seq) -> bool {
        !self.after(other)
    }

    /// At or after `other`.
    #[must_use]
    pub const fn at_or_after(self, other: Seq) -> bool {
        !self.before(other)
    }

    /// The earlier of two.
    #[must_use]
    pub const fn min(self, other: Seq) -> Seq {
        if self.before(other) { self } else { other }
    }

    /// The later of two.
    #[must_use]
    pub const fn max(self, other: Seq) -> Seq {
        if self.after(other) { self } else { other }
    }
}

impl core::ops::Add<u32> for Seq {
    type Output = Seq;
    fn add(self, rhs: u32) -> Seq {
        Seq(self.0.wrapping_add(rhs))
    }
}

impl core::ops::Sub<u32> for Seq {
    type Output = Seq;
    fn sub(self, rhs: u32) -> Seq {
        Seq(self.0.wrapping_sub(rhs))
    }
}

impl core::ops::AddAssign<u32> for Seq {
    fn add_assign(&mut self, rhs: u32) {
        *self = *self + rhs;
    }
}

impl fmt::Debug for Seq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl fmt::Display for Seq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// A half-open range of sequence numbers, `start` included, `end` not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct SeqRange {
    /// First sequence number inside.
    pub start: Seq,
    /// First sequence number behind the range.
    pub end: Seq,
}

impl SeqRange {
    /// The range from `start` up to but without `end`.
    #[must_use]
    pub const fn new(start: Seq, end: Seq) -> Self {
        SeqRange { start, end }
    }

    /// Bytes of sequence space covered; zero for an inverted range.
    #[must_use]
    pub const fn len(self) -> u32 {
        let d = self.end.since(self.start);
        if d < 0 { 0 } else { d as u32 }
    }

    /// Nothing inside.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.len() == 0
    }
}

/// Rounds `x` up to a multiple of the power of two `a`, wrapping as 32-bit arithmetic does.
#[must_use]
pub(crate) const fn round_up(x: u32, a: u32) -> u32 {
    x.wrapping_add(a - 1) & !(a - 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn difference_undoes_addition(a in any::<u32>(), n in any::<u32>()) {
            prop_assert_eq!((Seq(a) + n).since(Seq(a)), n as i32);
            prop_assert_eq!(Seq(a) + n - n, Seq(a));
        }

        #[test]
        fn before_and_after_are_opposites_within_half_the_circle(a in any::<u32>(), n in 1u32..0x8000_0000) {
            let (x, y) = (Seq(a), Seq(a) + n);
            prop_assert!(x.before(y) && y.after(x) && !y.before(x) && !x.after(y));
            prop_assert_eq!(x.min(y), x);
            prop_assert_eq!(x.max(y), y);
        }
    }

    #[test]
    fn ranges_that_wrap_have_a_length() {
        assert_eq!(SeqRange::new(Seq(u32::MAX - 4), Seq(5)).len(), 10);
        assert!(SeqRange::new(Seq(5), Seq(5)).is_empty());
        assert_eq!(SeqRange::new(Seq(9), Seq(5)).len(), 0);
    }

    #[test]
    fn rounding_up_to_units_of_the_scale() {
        assert_eq!(round_up(0, 128), 0);
        assert_eq!(round_up(1, 128), 128);
        assert_eq!(round_up(65160, 1024), 65536);
        assert_eq!(round_up(65160, 1), 65160);
    }
}
