//! When the receiving application reads, and how much.

use serde::{Deserialize, Serialize};

use rightedge_stack::time::{Duration, Instant};

use super::units::{Size, Span};

/// How the receiving application reads.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "pattern", rename_all = "snake_case", deny_unknown_fields)]
pub enum ReadPattern {
    /// Never.
    Never {},
    /// As soon as there is something, up to `size` at a time.
    FlatOut {
        /// Bytes asked for per read.
        #[serde(default = "default_read")]
        size: Size,
    },
    /// Reads `bytes`, then sleeps for `every`; waits while there is nothing.
    Paced {
        /// Bytes asked for per read.
        bytes: Size,
        /// Sleep between reads.
        every: Span,
    },
    /// Several rhythms one after another, over and over.
    Oscillating {
        /// The rhythms.
        phases: Vec<Phase>,
        /// After the last one the first comes again; otherwise the last one stays.
        #[serde(default = "yes")]
        repeat: bool,
    },
}

/// One rhythm of an oscillating reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Phase {
    /// How long it lasts.
    pub duration: Span,
    /// Bytes asked for per read; 0 does not read at all.
    pub bytes: Size,
    /// Sleep between reads; none reads flat out.
    #[serde(default)]
    pub every: Span,
}

/// A [`ReadPattern`] in time. Ask [`ReadSchedule::poll`] whenever data has come or [`ReadSchedule::next_at`] is due, until it
/// says `None`.
#[derive(Clone, Debug)]
pub struct ReadSchedule {
    pattern: ReadPattern,
    /// A read is allowed from here on.
    next: Instant,
    phase: usize,
    phase_end: Instant,
}

impl ReadSchedule {
    /// The pattern, beginning at `start`.
    #[must_use]
    pub fn new(pattern: ReadPattern, start: Instant) -> Self {
        let phase_end = match &pattern {
            ReadPattern::Oscillating { phases, .. } => end_of(phases, 0, start),
            _ => Instant::FAR_FUTURE,
        };
        ReadSchedule { pattern, next: start, phase: 0, phase_end }
    }

    /// How many bytes to ask for now, if a read is due and `available` bytes wait. Call again after the read.
    ///
    /// A paced reader with nothing to read waits in its read; its sleep begins when it got something.
    pub fn poll(&mut self, now: Instant, available: u64) -> Option<u32> {
        self.turn(now);
        if available == 0 || now < self.next {
            return None;
        }
        let (bytes, every) = self.rhythm()?;
        if every != Duration::ZERO {
            // A read that comes on time keeps the beat; one that had to wait starts a new one.
            let late = now.since(self.next);
            self.next = if late < every { self.next + every } else { now + every };
        }
        Some(bytes)
    }

    /// When to ask again although no data has come: the next read that is not due yet, or the next phase.
    #[must_use]
    pub fn next_at(&self, now: Instant) -> Option<Instant> {
        let read = (self.rhythm().is_some() && self.next > now).then_some(self.next);
        let phase = (self.phase_end != Instant::FAR_FUTURE).then_some(self.phase_end);
        read.into_iter().chain(phase).min()
    }

    /// Index of the phase under way.
    #[must_use]
    pub fn phase(&self) -> usize {
        self.phase
    }

    /// Bytes per read and the sleep between reads; `None` when nothing is read.
    fn rhythm(&self) -> Option<(u32, Duration)> {
        let (bytes, every) = match &self.pattern {
            ReadPattern::Never {} => return None,
            ReadPattern::FlatOut { size } => (*size, Duration::ZERO),
            ReadPattern::Paced { bytes, every } => (*bytes, every.0),
            ReadPattern::Oscillating { phases, .. } => {
                let p = phases.get(self.phase)?;
                (p.bytes, p.every.0)
            }
        };
        (bytes.0 > 0).then_some((bytes.as_u32(), every))
    }

    fn turn(&mut self, now: Instant) {
        let ReadPattern::Oscillating { phases, repeat } = &self.pattern else { return };
        // Phases last a while (validation sees to it), so this loop is short unless a run slept for hours.
        for _ in 0..1_000_000 {
            if now < self.phase_end {
                return;
            }
            let at = self.phase_end;
            let last = self.phase + 1 >= phases.len();
            if last && !repeat {
                self.phase_end = Instant::FAR_FUTURE;
                return;
            }
            self.phase = if last { 0 } else { self.phase + 1 };
            self.phase_end = end_of(phases, self.phase, at);
            self.next = at;
        }
        self.phase_end = now + Duration::from_secs(1);
    }
}

fn end_of(phases: &[Phase], i: usize, start: Instant) -> Instant {
    phases.get(i).map_or(Instant::FAR_FUTURE, |p| start + p.duration.0)
}

fn default_read() -> Size {
    Size(1 << 20)
}

fn yes() -> bool {
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn at(ms: u64) -> Instant {
        Instant::from_millis(ms)
    }

    fn count(pattern: ReadPattern, until: u64) -> Vec<(u64, u32)> {
        let mut s = ReadSchedule::new(pattern, at(0));
        let (mut now, mut reads) = (at(0), Vec::new());
        loop {
            while let Some(n) = s.poll(now, 1 << 30) {
                reads.push((now.as_millis(), n));
                if reads.len() > 10_000 {
                    return reads;
                }
            }
            match s.next_at(now) {
                Some(t) if t <= at(until) => now = t,
                _ => return reads,
            }
        }
    }

    #[test]
    fn a_paced_reader_keeps_the_beat_and_waits_for_data() {
        let paced = ReadPattern::Paced { bytes: Size(1), every: Span(Duration::from_nanos(MS)) };
        assert_eq!(count(paced.clone(), 1000).len(), 1001);
        let mut s = ReadSchedule::new(paced, at(0));
        assert_eq!(s.poll(at(0), 0), None);
        assert_eq!(s.next_at(at(0)), None, "it waits in its read");
        assert_eq!(s.poll(at(50), 10), Some(1));
        assert_eq!(s.poll(at(50), 9), None);
        assert_eq!(s.next_at(at(50)), Some(at(51)));
    }

    #[test]
    fn never_is_never_and_flat_out_is_always() {
        assert!(count(ReadPattern::Never {}, 1000).is_empty());
        let mut s = ReadSchedule::new(ReadPattern::FlatOut { size: Size(4096) }, at(0));
        assert_eq!((s.poll(at(0), 1), s.poll(at(0), 1), s.poll(at(0), 0)), (Some(4096), Some(4096), None));
    }

    #[test]
    fn an_oscillating_reader_changes_its_rhythm_and_starts_over() {
        let phase = |ms, bytes, every| Phase {
            duration: Span(Duration::from_millis(ms)),
            bytes: Size(bytes),
            every: Span(Duration::from_millis(every)),
        };
        let phases = vec![phase(10, 1, 1), phase(10, 0, 0), phase(10, 3300, 5)];
        let reads = count(ReadPattern::Oscillating { phases: phases.clone(), repeat: true }, 35);
        let of = |n| reads.iter().filter(|r| r.1 == n).count();
        assert_eq!((of(1), of(3300)), (10 + 6, 2), "{reads:?}");
        let once = count(ReadPattern::Oscillating { phases, repeat: false }, 99);
        assert_eq!(once.iter().filter(|r| r.1 == 1).count(), 10);
        assert_eq!(once.last(), Some(&(95, 3300)));
    }
}
