//! Measurements: repeated, interleaved, and reported with their spread.
//!
//! The machines that benchmarks run on are shared and change their speed. So the cases that are compared take turns, round
//! by round, in one run; what is quoted is the median, and the ratio of two cases is the median of the ratios of their
//! rounds.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

/// What a figure counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Unit {
    /// Nanoseconds, per whatever the case names.
    Nanoseconds,
    /// Bytes in a second.
    BytesPerSecond,
    /// Bytes.
    Bytes,
    /// Instructions.
    Instructions,
    /// A plain number.
    Count,
}

impl Unit {
    /// More is better.
    #[must_use]
    pub fn more_is_better(self) -> bool {
        self == Unit::BytesPerSecond
    }
}

/// One case, measured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// What is compared, as in `segment/in-order-1448`.
    pub group: String,
    /// Who or what it is, as in `rightedge` or `smoltcp`.
    pub case: String,
    /// What the figures count, and per what.
    pub unit: Unit,
    /// Per what: `segment`, `byte`, `call`.
    pub per: String,
    /// A figure per round, in the order of the rounds.
    pub rounds: Vec<f64>,
}

impl Measured {
    /// The median of the rounds.
    #[must_use]
    pub fn median(&self) -> f64 {
        quantile(&self.rounds, 0.5)
    }

    /// The interquartile range as a share of the median: how much the rounds differ.
    #[must_use]
    pub fn spread(&self) -> f64 {
        let m = self.median();
        if m == 0.0 { 0.0 } else { (quantile(&self.rounds, 0.75) - quantile(&self.rounds, 0.25)) / m }
    }

    /// The median of the ratios to another case, round by round.
    #[must_use]
    pub fn ratio_to(&self, other: &Measured) -> f64 {
        let ratios: Vec<f64> =
            self.rounds.iter().zip(&other.rounds).filter(|(_, b)| **b != 0.0).map(|(a, b)| a / b).collect();
        quantile(&ratios, 0.5)
    }
}

/// The value below which the share `q` of the values lies; 0 of none.
#[must_use]
pub fn quantile(values: &[f64], q: f64) -> f64 {
    let mut sorted: Vec<f64> = values.iter().copied().filter(|v| v.is_finite()).collect();
    sorted.sort_by(f64::total_cmp);
    let Some(last) = sorted.len().checked_sub(1) else { return 0.0 };
    let at = q.clamp(0.0, 1.0) * last as f64;
    let (low, high) = (at.floor() as usize, at.ceil() as usize);
    match (sorted.get(low), sorted.get(high)) {
        (Some(a), Some(b)) => a + (b - a) * (at - at.floor()),
        _ => 0.0,
    }
}

/// One case to be timed: does its work once and says how often it did what is counted, and how long that took.
pub struct Case<'a> {
    /// Who or what it is.
    pub name: String,
    /// One round.
    pub round: Box<dyn FnMut() -> Timed + 'a>,
}

/// What a round took.
#[derive(Clone, Copy, Debug)]
pub struct Timed {
    /// Seconds.
    pub seconds: f64,
    /// How many of what is counted.
    pub count: f64,
}

impl<'a> Case<'a> {
    /// A case.
    pub fn new(name: impl Into<String>, round: impl FnMut() -> Timed + 'a) -> Self {
        Case { name: name.into(), round: Box::new(round) }
    }
}

/// Times `work`, which says how many of what is counted it did.
pub fn timed(work: impl FnOnce() -> u64) -> Timed {
    let begun = Instant::now();
    let count = work();
    Timed { seconds: begun.elapsed().as_secs_f64(), count: count as f64 }
}

/// CPU time of the calling thread so far: while it does not run, it stands still.
pub fn cpu_time() -> Duration {
    let t = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(u64::try_from(t.tv_sec).unwrap_or(0), u32::try_from(t.tv_nsec).unwrap_or(0))
}

/// How often.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Effort {
    /// Rounds before the first that counts.
    pub warm_up: u32,
    /// Rounds that count.
    pub rounds: u32,
}

/// Times cases in turn, nanoseconds per `per`. `each` hears of every round.
pub fn compare(
    group: &str,
    per: &str,
    effort: Effort,
    cases: &mut [Case<'_>],
    each: &mut dyn FnMut(&str),
) -> Vec<Measured> {
    let mut all: Vec<Measured> = cases
        .iter()
        .map(|c| Measured {
            group: group.to_owned(),
            case: c.name.clone(),
            unit: Unit::Nanoseconds,
            per: per.to_owned(),
            rounds: Vec::new(),
        })
        .collect();
    for round in 0..effort.warm_up + effort.rounds {
        for (case, measured) in cases.iter_mut().zip(&mut all) {
            let t = (case.round)();
            if round >= effort.warm_up && t.count > 0.0 {
                measured.rounds.push(t.seconds * 1e9 / t.count);
            }
        }
        each(group);
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(rounds: &[f64]) -> Measured {
        Measured {
            group: "g".to_owned(),
            case: "c".to_owned(),
            unit: Unit::Nanoseconds,
            per: "segment".to_owned(),
            rounds: rounds.to_vec(),
        }
    }

    #[test]
    fn medians_and_ratios_are_those_of_the_rounds() {
        let a = measured(&[1.0, 2.0, 30.0]);
        let b = measured(&[2.0, 4.0, 10.0]);
        assert_eq!((a.median(), a.ratio_to(&b)), (2.0, 0.5));
        assert_eq!(measured(&[]).median(), 0.0);
        assert_eq!(quantile(&[4.0, 1.0, 3.0, 2.0], 0.5), 2.5);
        assert_eq!(measured(&[10.0, 10.0, 10.0, 20.0]).spread(), 0.25);
    }

    #[test]
    fn cases_take_turns_and_the_warm_up_does_not_count() {
        let order = std::cell::RefCell::new(String::new());
        let case = |name: &'static str| {
            let order = &order;
            Case::new(name, move || {
                order.borrow_mut().push_str(name);
                Timed { seconds: 1e-9, count: 1.0 }
            })
        };
        let effort = Effort { warm_up: 1, rounds: 2 };
        let all = compare("g", "call", effort, &mut [case("a"), case("b")], &mut |_| ());
        assert_eq!(*order.borrow(), "ababab");
        assert_eq!(all.iter().map(|m| m.rounds.len()).collect::<Vec<_>>(), [2, 2]);
        assert!((all[0].median() - 1.0).abs() < 1e-9);
    }
}
