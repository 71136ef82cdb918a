//! From when to when a round counts, and what it came to.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::bench::measure::cpu_time;

/// How long a receiver waits for the first byte.
const PATIENCE: Duration = Duration::from_secs(10);

/// Payload bytes before a round counts: windows have grown and slow start is over.
const RAMP_BYTES: u64 = 64 << 20;

/// What a round came to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Round {
    /// Seconds.
    pub(super) seconds: f64,
    /// Payload bytes that the application got.
    pub(super) bytes: u64,
    /// CPU time of the receiving thread.
    pub(super) cpu: Duration,
}

impl Round {
    /// Payload bytes per second.
    pub(super) fn goodput(&self) -> f64 {
        if self.seconds > 0.0 { self.bytes as f64 / self.seconds } else { 0.0 }
    }

    /// CPU time per payload byte, ns.
    pub(super) fn cpu_per_byte(&self) -> f64 {
        self.cpu.as_secs_f64() * 1e9 / self.bytes.max(1) as f64
    }
}

/// Tells when a round is over.
#[derive(Clone, Copy, Debug)]
pub(super) struct Meter {
    ramp: Duration,
    length: Duration,
    opened: Instant,
    first_byte: Option<Instant>,
    begun: Option<(Instant, u64, Duration)>,
}

impl Meter {
    /// Counts for `length`, from `ramp` after the first byte and [`RAMP_BYTES`] on, but lets a slow receiver begin after `length`.
    pub(super) fn new(ramp: Duration, length: Duration) -> Self {
        Meter { ramp, length, opened: Instant::now(), first_byte: None, begun: None }
    }

    /// The application has got `bytes` so far. The round, once it is over.
    ///
    /// # Errors
    /// Nothing came.
    pub(super) fn look(&mut self, bytes: u64) -> Result<Option<Round>> {
        let now = Instant::now();
        let Some(first) = self.first_byte else {
            if bytes > 0 {
                self.first_byte = Some(now);
            } else if now.duration_since(self.opened) > PATIENCE {
                bail!("not a byte came in {} s", PATIENCE.as_secs());
            }
            return Ok(None);
        };
        let Some((begun, before, cpu)) = self.begun else {
            let waited = now.duration_since(first);
            if waited >= self.ramp && (bytes >= RAMP_BYTES || waited >= self.length) {
                self.begun = Some((now, bytes, cpu_time()));
            }
            return Ok(None);
        };
        let length = now.duration_since(begun);
        if length < self.length {
            return Ok(None);
        }
        let cpu = cpu_time().saturating_sub(cpu);
        Ok(Some(Round { seconds: length.as_secs_f64(), bytes: bytes.saturating_sub(before), cpu }))
    }
}
