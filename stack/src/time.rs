//! Time as the caller hands it in: nanoseconds since an origin of the caller's choice, and the kernel's ticks.
//!
//! Nothing in this crate reads a clock. Whoever drives the stack passes an [`Instant`] with every call; the stack
//! answers with the instant at which it next wants to be called. Decisions that Linux takes in *jiffies* (delayed ACK,
//! ATO, out-of-window reply limits) are taken in ticks of [`Tick`], whose length comes from the profile's HZ.

/// A point in time: nanoseconds since the caller's origin.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(transparent))]
pub struct Instant(u64);

/// A span of time in nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(transparent))]
pub struct Duration(u64);

impl Instant {
    /// The caller's origin.
    pub const ZERO: Instant = Instant(0);
    /// Later than every deadline; a timer set to it never fires.
    pub const FAR_FUTURE: Instant = Instant(u64::MAX);

    /// The instant `ns` nanoseconds after the origin.
    #[must_use]
    pub const fn from_nanos(ns: u64) -> Self {
        Instant(ns)
    }

    /// The instant `us` microseconds after the origin.
    #[must_use]
    pub const fn from_micros(us: u64) -> Self {
        Instant(us.saturating_mul(1_000))
    }

    /// The instant `ms` milliseconds after the origin.
    #[must_use]
    pub const fn from_millis(ms: u64) -> Self {
        Instant(ms.saturating_mul(1_000_000))
    }

    /// Nanoseconds since the origin.
    #[must_use]
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// Whole microseconds since the origin.
    #[must_use]
    pub const fn as_micros(self) -> u64 {
        self.0 / 1_000
    }

    /// Whole milliseconds since the origin.
    #[must_use]
    pub const fn as_millis(self) -> u64 {
        self.0 / 1_000_000
    }

    /// Seconds since the origin, for people.
    #[must_use]
    pub fn as_secs_f64(self) -> f64 {
        self.0 as f64 / 1e9
    }

    /// The time from `earlier` to `self`, zero if `earlier` is later.
    #[must_use]
    pub const fn since(self, earlier: Instant) -> Duration {
        Duration(self.0.saturating_sub(earlier.0))
    }
}

impl core::ops::Add<Duration> for Instant {
    type Output = Instant;
    fn add(self, rhs: Duration) -> Instant {
        Instant(self.0.saturating_add(rhs.0))
    }
}

impl Duration {
    /// No time at all.
    pub const ZERO: Duration = Duration(0);

    /// A span of `ns` nanoseconds.
    #[must_use]
    pub const fn from_nanos(ns: u64) -> Self {
        Duration(ns)
    }

    /// A span of `us` microseconds.
    #[must_use]
    pub const fn from_micros(us: u64) -> Self {
        Duration(us.saturating_mul(1_000))
    }

    /// A span of `ms` milliseconds.
    #[must_use]
    pub const fn from_millis(ms: u64) -> Self {
        Duration(ms.saturating_mul(1_000_000))
    }

    /// A span of `s` seconds.
    #[must_use]
    pub const fn from_secs(s: u64) -> Self {
        Duration(s.saturating_mul(1_000_000_000))
    }

    /// The span in nanoseconds.
    #[must_use]
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// The span in whole microseconds.
    #[must_use]
    pub const fn as_micros(self) -> u64 {
        self.0 / 1_000
    }

    /// The span in whole milliseconds.
    #[must_use]
    pub const fn as_millis(self) -> u64 {
        self.0 / 1_000_000
    }
}

impl From<core::time::Duration> for Duration {
    fn from(d: core::time::Duration) -> Self {
        Duration(u64::try_from(d.as_nanos()).unwrap_or(u64::MAX))
    }
}

/// The kernel's tick: converts between instants and jiffies for one HZ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tick {
    hz: u32,
    /// Kept, because it divides with every segment.
    nanos: u64,
}

impl Tick {
    /// Ticks of `1/hz` seconds. `hz` is clamped to 1…10 000.
    #[must_use]
    pub const fn new(hz: u32) -> Self {
        let hz = if hz == 0 {
            1
        } else if hz > 10_000 {
            10_000
        } else {
            hz
        };
        Tick { hz, nanos: 1_000_000_000 / hz as u64 }
    }

    /// Ticks per second.
    #[must_use]
    pub const fn hz(self) -> u32 {
        self.hz
    }

    /// The length of one tick in nanoseconds.
    #[must_use]
    pub const fn nanos(self) -> u64 {
        self.nanos
    }

    /// The tick that `t` falls into, counted from the caller's origin (`tcp_jiffies32`).
    #[must_use]
    pub const fn jiffies(self, t: Instant) -> u64 {
        t.0 / self.nanos
    }

    /// The instant at which tick `j` begins.
    #[must_use]
    pub const fn instant(self, j: u64) -> Instant {
        Instant(j.saturating_mul(self.nanos()))
    }

    /// Milliseconds as jiffies, rounded up, as the kernel's `msecs_to_jiffies` does.
    #[must_use]
    pub const fn from_millis(self, ms: u64) -> u64 {
        ms.saturating_mul(self.hz as u64).div_ceil(1000)
    }

    /// Microseconds as jiffies, rounded up, as the kernel's `usecs_to_jiffies` does.
    #[must_use]
    pub const fn from_micros(self, us: u64) -> u64 {
        us.saturating_mul(self.hz as u64).div_ceil(1_000_000)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_of_the_usual_hz() {
        for (hz, len) in [(100, 10_000_000), (250, 4_000_000), (1000, 1_000_000)] {
            let t = Tick::new(hz);
            assert_eq!(t.nanos(), len);
            assert_eq!(t.jiffies(Instant::from_nanos(len - 1)), 0);
            assert_eq!(t.jiffies(Instant::from_nanos(len)), 1);
            assert_eq!(t.jiffies(t.instant(12_345)), 12_345);
        }
        assert_eq!(Tick::new(250).from_millis(500), 125);
        assert_eq!(Tick::new(100).from_millis(1), 1);
    }
}
