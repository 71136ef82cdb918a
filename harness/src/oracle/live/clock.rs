//! The clock of a recording: CLOCK_MONOTONIC moved so that whole ticks of it are the kernel's jiffies.

use std::collections::BTreeMap;
use std::time::Duration;

use rustix::time::{ClockId, Timespec, clock_getres, clock_gettime};

const SECOND: i64 = 1_000_000_000;
/// Jiffies are recorded modulo 2^20: enough for every difference that matters, and the numbers stay readable.
const JIFFIES: i64 = (1 << 20) - 1;

/// Nanoseconds since boot, as CLOCK_MONOTONIC has them.
pub(super) fn now() -> i64 {
    nanos(clock_gettime(ClockId::Monotonic))
}

fn nanos(t: Timespec) -> i64 {
    t.tv_sec.saturating_mul(SECOND).saturating_add(t.tv_nsec)
}

/// Passes the time until then.
pub(super) fn sleep_until(target: i64) {
    loop {
        let left = target.saturating_sub(now());
        if left <= 0 {
            return;
        }
        std::thread::sleep(Duration::from_nanos(left.unsigned_abs()));
    }
}

/// Where the ticks of this kernel lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Clock {
    /// Ticks per second.
    pub(super) hz: u32,
    /// Length of a tick, nanoseconds.
    pub(super) tick: i64,
    /// Added to CLOCK_MONOTONIC.
    pub(super) shift: i64,
    /// How far behind whole multiples of a tick this kernel's ticks lie, nanoseconds; taken out by `shift`.
    pub(super) behind: i64,
    /// Whether the kernel said how many jiffies there are.
    pub(super) jiffies_known: bool,
}

impl Clock {
    /// Asks the kernel we run on. Takes some ticks.
    pub(super) fn detect() -> Self {
        let hz = hz_of(nanos(clock_getres(ClockId::MonotonicCoarse)));
        let tick = SECOND / i64::from(hz);
        let edges: Vec<i64> = (0..8).filter_map(|_| edge(tick)).collect();
        let behind = behind(&edges, tick);
        let jiffies = jiffies_offset(tick, behind);
        let shift = jiffies.unwrap_or(0).saturating_mul(tick).saturating_sub(behind);
        Clock { hz, tick, shift, behind, jiffies_known: jiffies.is_some() }
    }

    /// On the scale of the trace.
    pub(super) fn at(&self, monotonic: i64) -> i64 {
        monotonic.saturating_add(self.shift)
    }

    /// Now, on the scale of the trace.
    pub(super) fn t(&self) -> i64 {
        self.at(now())
    }

    /// Now, in ticks.
    pub(super) fn ticks(&self) -> i64 {
        self.tick_of(self.t())
    }

    /// The tick in which a moment of the trace lies.
    pub(super) fn tick_of(&self, t: i64) -> i64 {
        t.div_euclid(self.tick.max(1))
    }

    /// CLOCK_MONOTONIC at a moment of the trace.
    pub(super) fn monotonic(&self, t: i64) -> i64 {
        t.saturating_sub(self.shift)
    }

    /// How far behind its tick everything happens, beyond what is asked for: ticks of slow clocks (user-mode-linux) come
    /// late by a tenth of a millisecond or more, and not always by the same.
    pub(super) fn margin(&self) -> i64 {
        if self.hz > 100 { 0 } else { 1_000_000 }
    }

    /// Length of a tick, milliseconds.
    pub(super) fn tick_ms(&self) -> f64 {
        self.tick as f64 / 1e6
    }
}

/// Milliseconds with three decimals.
pub(super) fn ms(nanos: i64) -> f64 {
    (nanos as f64 / 1e3).round() / 1e3
}

/// Ticks per second from the resolution of the coarse clock, which is a tick.
fn hz_of(resolution: i64) -> u32 {
    let hz = (SECOND + resolution / 2).checked_div(resolution).unwrap_or(250);
    u32::try_from(hz).unwrap_or(250).clamp(10, 10_000)
}

/// When the next tick is worked on: the coarse clock moves then. What it shows is not when it moved, so it is watched.
fn edge(tick: i64) -> Option<i64> {
    let coarse = || nanos(clock_gettime(ClockId::MonotonicCoarse));
    let (before, began) = (coarse(), now());
    loop {
        let t = now();
        if coarse() != before {
            return Some(t);
        }
        if t.saturating_sub(began) > tick.saturating_mul(4) {
            return None;
        }
    }
}

/// How far behind multiples of a tick the ticks lie. Since 6.4 they lie on them; an older kernel began to count whenever it
/// booted. Less than a fifth of a tick is lateness, not a place.
fn behind(edges: &[i64], tick: i64) -> i64 {
    let places: Vec<i64> = edges.iter().map(|e| e.rem_euclid(tick.max(1))).collect();
    let (Some(&least), Some(&most)) = (places.iter().min(), places.iter().max()) else { return 0 };
    let fifth = tick / 5;
    if least > fifth && most < tick - fifth / 4 && most - least < fifth { least } else { 0 }
}

/// Jiffies less whole ticks of CLOCK_MONOTONIC, modulo 2^20; `None` if the kernel does not say.
fn jiffies_offset(tick: i64, behind: i64) -> Option<i64> {
    let mut votes: BTreeMap<i64, u32> = BTreeMap::new();
    for _ in 0..5 {
        let count = |ns: i64| ns.saturating_sub(behind).div_euclid(tick.max(1));
        let before = count(now());
        let text = std::fs::read_to_string("/proc/timer_list").ok()?;
        let after = count(now());
        if let Some(jiffies) = jiffies_in(&text).filter(|_| before == after) {
            *votes.entry(jiffies.wrapping_sub(before) & JIFFIES).or_default() += 1;
        }
        std::thread::sleep(Duration::from_millis(3));
    }
    votes.into_iter().max_by_key(|(_, n)| *n).map(|(offset, _)| offset)
}

/// The largest "jiffies:" of /proc/timer_list: a CPU that sleeps keeps an old one.
fn jiffies_in(text: &str) -> Option<i64> {
    text.lines()
        .filter_map(|l| l.strip_prefix("jiffies:")?.trim().parse::<u64>().ok())
        .max()
        .map(|j| j.cast_signed() & i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: i64 = 1_000_000;

    #[test]
    fn ticks_are_jiffies() {
        let c = Clock { hz: 250, tick: 4 * MS, shift: 1000 * 4 * MS, behind: 0, jiffies_known: true };
        assert_eq!(c.tick_of(c.at(0)), 1000);
        assert_eq!((c.tick_of(c.at(4 * MS - 1)), c.tick_of(c.at(4 * MS))), (1000, 1001));
        assert_eq!(c.monotonic(c.at(77)), 77);
        assert_eq!((c.margin(), c.tick_ms()), (0, 4.0));
        // Ticks 3 ms behind the multiples.
        let c = Clock { shift: -3 * MS, behind: 3 * MS, ..c };
        assert_eq!((c.tick_of(c.at(7 * MS - 1)), c.tick_of(c.at(7 * MS))), (0, 1));
    }

    #[test]
    fn hz_from_the_coarse_clock() {
        for (ns, hz) in [(4_000_000, 250), (1_000_000, 1000), (10_000_000, 100), (3_333_333, 300), (0, 250)] {
            assert_eq!(hz_of(ns), hz);
        }
    }

    #[test]
    fn late_ticks_are_no_other_place() {
        let tick = 10 * MS;
        assert_eq!(behind(&[10 * MS + 1, 20 * MS + MS, 30 * MS], tick), 0);
        assert_eq!(behind(&[14 * MS, 24 * MS + 9, 34 * MS + MS], tick), 4 * MS);
        // All over the place, or just before the edge: nothing to go by.
        assert_eq!(behind(&[14 * MS, 27 * MS], tick), 0);
        assert_eq!(behind(&[19_900_000, 29_990_000], tick), 0);
        assert_eq!(behind(&[], tick), 0);
    }

    #[test]
    fn jiffies_of_the_busiest_cpu() {
        let text = "cpu: 0\njiffies: 4297700000\nx\ncpu: 1\njiffies: 4297700007\njiffies: x\n";
        assert_eq!(jiffies_in(text), Some(4_297_700_007));
        assert_eq!(jiffies_in("now"), None);
    }

    #[test]
    fn three_decimals() {
        assert_eq!(ms(1_234_567_890), 1_234.568);
    }
}
