//! Verdict rules as data: a metric of the run, a comparison, and the published value to print beside ours.

use serde::{Deserialize, Serialize};

use super::schema::Clock;
use super::units::{parse_duration, parse_size};

/// One rule. Without a comparison it is only shown.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Expect {
    /// What is measured; see [`is_metric`].
    pub metric: String,
    /// The effect in words, for the table.
    pub effect: String,
    /// Only under these of the scenario's policies; empty for all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub policies: Vec<String>,
    /// Only under this clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clock: Option<Clock>,
    /// The metric's value when this many frames had arrived, instead of at the end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at_packet: Option<u64>,
    /// What was published.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub published: Option<Quantity>,
    /// Must be exactly this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub equal: Option<Quantity>,
    /// Must be this or more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at_least: Option<Quantity>,
    /// Must be this or less.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at_most: Option<Quantity>,
    /// Must be this, give or take `tolerance`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub near: Option<Quantity>,
    /// Share of `near`, such as 0.05.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tolerance: Option<f64>,
    /// Why the tolerance, or why ours may differ.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
}

/// A value: a number, a size or a duration (as seconds), or a word.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(
    untagged,
    expecting = "a value is a number, a size or duration such as \"8MiB\" or \"15m\", or a word"
)]
pub enum Quantity {
    /// A whole number.
    Int(i64),
    /// A number.
    Float(f64),
    /// A size, a duration, or a word such as `ETIMEDOUT`.
    Text(String),
}

/// The outcome of a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The comparison holds.
    Met,
    /// It does not.
    Missed,
    /// There is no comparison: the value is shown.
    Shown,
    /// The run has no such value.
    Absent,
}

impl Expect {
    /// Does the rule apply to a run under `policy` and `clock`?
    #[must_use]
    pub fn applies(&self, policy: &str, clock: Clock) -> bool {
        let policy_fits = self.policies.is_empty() || self.policies.iter().any(|p| p == policy);
        policy_fits && self.clock.is_none_or(|c| c == clock)
    }

    /// Holds `ours` against the rule.
    #[must_use]
    pub fn judge(&self, ours: Option<&Quantity>) -> Outcome {
        let Some(ours) = ours else { return Outcome::Absent };
        let number = |q: &Quantity| ours.number().zip(q.number());
        let mut checks = Vec::new();
        if let Some(want) = &self.equal {
            checks.push(number(want).map_or(ours == want, |(a, b)| a == b));
        }
        if let Some(want) = &self.at_least {
            checks.push(number(want).is_some_and(|(a, b)| a >= b));
        }
        if let Some(want) = &self.at_most {
            checks.push(number(want).is_some_and(|(a, b)| a <= b));
        }
        if let Some(want) = &self.near {
            let share = self.tolerance.unwrap_or(0.0);
            checks.push(number(want).is_some_and(|(a, b)| (a - b).abs() <= b.abs() * share));
        }
        match (checks.is_empty(), checks.iter().all(|&c| c)) {
            (true, _) => Outcome::Shown,
            (false, true) => Outcome::Met,
            (false, false) => Outcome::Missed,
        }
    }

    /// The comparisons in words, such as `= 62464`.
    #[must_use]
    pub fn condition(&self) -> String {
        let mut all = Vec::new();
        for (sign, q) in [("=", &self.equal), ("≥", &self.at_least), ("≤", &self.at_most)] {
            if let Some(q) = q {
                all.push(format!("{sign} {q}"));
            }
        }
        if let Some(q) = &self.near {
            all.push(format!("{q} ± {} %", self.tolerance.unwrap_or(0.0) * 100.0));
        }
        all.join(" and ")
    }
}

impl Quantity {
    /// As a number: sizes in bytes, durations in seconds.
    #[must_use]
    pub fn number(&self) -> Option<f64> {
        match self {
            Quantity::Int(n) => Some(*n as f64),
            Quantity::Float(f) => Some(*f),
            Quantity::Text(t) => match parse_size(t) {
                Ok(n) => Some(n as f64),
                Err(_) => parse_duration(t).ok().map(|d| d.as_nanos() as f64 / 1e9),
            },
        }
    }
}

impl std::fmt::Display for Quantity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Quantity::Int(n) => n.fmt(f),
            Quantity::Float(x) => x.fmt(f),
            Quantity::Text(t) => f.write_str(t),
        }
    }
}

/// Values over time; each has `.first`, `.final`, `.min`, `.max`, and at a packet with `at_packet`.
pub const SERIES: [(&str, &str); 8] = [
    ("skmem_rb", "sk_rcvbuf, the budget"),
    ("skmem_r", "sk_rmem_alloc, the charged truesize"),
    ("recv_q", "unread payload"),
    ("rcv_win", "what the sender may still send"),
    ("rcv_ssthresh", "the receiver's own cap on the window"),
    ("acked", "bytes acknowledged by the receiver"),
    ("over_budget", "skmem_r less skmem_rb"),
    ("cwnd", "the sender's congestion window, in segments"),
];

/// Single values of a run. `counter.NAME` is a kernel counter of the receiver as `nstat` names it.
pub const SCALARS: [(&str, &str); 17] = [
    ("duration", "how long the run took, seconds"),
    ("packets", "frames that arrived at the receiver"),
    ("bytes_delivered", "payload bytes taken by the receiver"),
    ("bytes_read", "payload bytes read by its application"),
    ("acks", "frames sent by the receiver"),
    ("coalesces", "merges into the tail of the receive queue"),
    ("collapses", "runs of the collapse of the receive queue"),
    ("drops", "segments the receiver dropped for want of memory"),
    ("last_drop_free_packet", "number of the last packet before the first drop"),
    ("zero_windows", "zero windows sent"),
    ("edge_shrinks", "times the right edge moved left"),
    ("edge_shrink_max", "the furthest it moved at once, bytes"),
    ("ssthresh_falls", "times rcv_ssthresh fell"),
    ("sender.error", "the sender's error, as an errno name, or `none`"),
    ("sender.error_at", "when it came, seconds"),
    ("sender.retransmits", "segments the sender sent again"),
    ("sender.written", "bytes the sender's application wrote"),
];

/// Is `name` a metric that a rule can name?
#[must_use]
pub fn is_metric(name: &str) -> bool {
    if SCALARS.iter().any(|(n, _)| *n == name) {
        return true;
    }
    if let Some(counter) = name.strip_prefix("counter.") {
        return !counter.is_empty() && counter.chars().all(|c| c.is_ascii_alphanumeric());
    }
    name.rsplit_once('.').is_some_and(|(series, which)| {
        SERIES.iter().any(|(n, _)| *n == series) && ["first", "final", "min", "max"].contains(&which)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(text: &str) -> Expect {
        toml::from_str(&format!("metric = \"recv_q.final\"\neffect = \"x\"\n{text}")).unwrap()
    }

    #[test]
    fn comparisons_take_sizes_durations_and_words() {
        let int = |n| Quantity::Int(n);
        assert_eq!(rule("equal = 62464").judge(Some(&int(62_464))), Outcome::Met);
        assert_eq!(rule("equal = \"61KiB\"").judge(Some(&int(62_464))), Outcome::Met);
        assert_eq!(rule("at_most = \"8MiB\"").judge(Some(&int(9 << 20))), Outcome::Missed);
        assert_eq!(
            rule("near = \"15m\"\ntolerance = 0.2").judge(Some(&Quantity::Float(1044.6))),
            Outcome::Met
        );
        assert_eq!(
            rule("near = \"15m\"\ntolerance = 0.1").judge(Some(&Quantity::Float(1044.6))),
            Outcome::Missed
        );
        let word = Quantity::Text("ETIMEDOUT".to_owned());
        assert_eq!(rule("equal = \"ETIMEDOUT\"").judge(Some(&word)), Outcome::Met);
        assert_eq!(rule("equal = \"none\"").judge(Some(&word)), Outcome::Missed);
        assert_eq!(rule("at_least = 3").judge(Some(&word)), Outcome::Missed);
        assert_eq!(rule("published = 13").judge(Some(&int(4))), Outcome::Shown);
        assert_eq!(rule("equal = 1").judge(None), Outcome::Absent);
        assert_eq!(rule("at_least = 1\nat_most = 5").condition(), "≥ 1 and ≤ 5");
    }

    #[test]
    fn metrics_have_known_names() {
        for good in ["recv_q.final", "skmem_rb.max", "counter.TCPRcvQDrop", "sender.error", "drops"] {
            assert!(is_metric(good), "{good}");
        }
        for bad in ["recv_q", "recv_q.mean", "counter.", "counter.a b", "", "sender"] {
            assert!(!is_metric(bad), "{bad}");
        }
    }
}
