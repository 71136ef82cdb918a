//! Round-trip estimate and retransmission time-out (RFC 6298, with Linux's bounds).

use rightedge_stack::time::Duration;

/// Estimator state; all in nanoseconds.
#[derive(Clone, Debug)]
pub(super) struct Rtt {
    srtt: Option<u64>,
    rttvar: u64,
    min: u64,
    rto: u64,
    lower: u64,
    upper: u64,
}

impl Rtt {
    pub(super) fn new(lower: Duration, upper: Duration) -> Self {
        let upper = upper.as_nanos().max(1_000_000);
        let lower = lower.as_nanos().clamp(1_000_000, upper);
        // RFC 6298 §2.1: one second until there is a measurement.
        Rtt { srtt: None, rttvar: 0, min: u64::MAX, rto: 1_000_000_000u64.min(upper), lower, upper }
    }

    /// Takes a sample in and sets the time-out anew, which also ends any back-off.
    pub(super) fn measure(&mut self, sample: Duration) {
        let r = sample.as_nanos();
        self.min = self.min.min(r);
        match self.srtt {
            None => {
                self.srtt = Some(r);
                self.rttvar = r / 2;
            }
            Some(s) => {
                self.rttvar = self.rttvar - self.rttvar / 4 + s.abs_diff(r) / 4;
                self.srtt = Some(s - s / 8 + r / 8);
            }
        }
        self.reset();
    }

    /// The time-out without back-off. Linux bounds the variance term from below, not the sum: an idle path's time-out
    /// is its round trip plus 200 ms.
    pub(super) fn reset(&mut self) {
        if let Some(s) = self.srtt {
            self.rto = s.saturating_add(self.rttvar.saturating_mul(4).max(self.lower)).min(self.upper);
        }
    }

    /// Doubles the time-out up to its bound.
    pub(super) fn back_off(&mut self) {
        self.rto = self.rto.saturating_mul(2).min(self.upper);
    }

    pub(super) fn rto(&self) -> Duration {
        Duration::from_nanos(self.rto)
    }

    pub(super) fn srtt(&self) -> Option<Duration> {
        self.srtt.map(Duration::from_nanos)
    }

    /// A quarter of the shortest round trip: how much reordering in time is tolerated (RFC 8985 §6.2).
    pub(super) fn reordering(&self) -> Duration {
        Duration::from_nanos(if self.min == u64::MAX { 0 } else { self.min / 4 })
    }

    /// The interval of the probe after `backoff` unanswered ones.
    pub(super) fn probe_interval(&self, backoff: u32) -> Duration {
        let base = self.rto.max(self.lower);
        let shifted = base.checked_shl(backoff.min(20)).unwrap_or(u64::MAX);
        Duration::from_nanos(shifted.min(self.upper))
    }

    /// How long `retries` retransmissions take when the first comes after the smallest time-out: what Linux holds
    /// against the time since the first retransmission (15 → 924.6 s).
    pub(super) fn patience(&self, retries: u32) -> Duration {
        let mut total = 0u64;
        let mut interval = self.lower;
        for _ in 0..=retries.min(1000) {
            total = total.saturating_add(interval);
            interval = interval.saturating_mul(2).min(self.upper);
        }
        Duration::from_nanos(total)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rtt() -> Rtt {
        Rtt::new(Duration::from_millis(200), Duration::from_secs(120))
    }

    #[test]
    fn fifteen_retries_are_924_6_seconds() {
        assert_eq!(rtt().patience(15), Duration::from_millis(924_600));
        assert_eq!(rtt().patience(5), Duration::from_millis(12_600));
    }

    #[test]
    fn the_time_out_is_the_round_trip_plus_at_least_200_ms() {
        let mut r = rtt();
        assert_eq!(r.rto(), Duration::from_secs(1));
        for _ in 0..200 {
            r.measure(Duration::from_millis(50));
        }
        assert_eq!(r.rto().as_millis(), 250);
        for _ in 0..20 {
            r.back_off();
        }
        assert_eq!(r.rto(), Duration::from_secs(120));
        r.reset();
        assert_eq!(r.rto().as_millis(), 250);
        assert_eq!(r.probe_interval(40), Duration::from_secs(120));
        r.measure(Duration::from_nanos(u64::MAX));
        assert_eq!(r.rto(), Duration::from_secs(120));
    }
}
