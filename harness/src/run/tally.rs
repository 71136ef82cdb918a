//! The figures of a run, gathered as it goes: what scenarios' rules are held against, in constant memory.

use std::collections::BTreeMap;

use rightedge_stack::counters::Counters;

use super::wire::SenderReport;
use crate::record::{Event, Sample};
use crate::scenario::{Expect, Outcome, Quantity};

/// First, last, smallest and largest value of a series.
#[derive(Clone, Copy, Debug, Default)]
struct Series {
    first: Option<i64>,
    last: i64,
    min: i64,
    max: i64,
}

impl Series {
    fn add(&mut self, v: i64) {
        if self.first.is_none() {
            *self = Series { first: Some(v), last: v, min: v, max: v };
        }
        self.last = v;
        self.min = self.min.min(v);
        self.max = self.max.max(v);
    }

    fn get(&self, which: &str) -> Option<i64> {
        self.first?;
        Some(match which {
            "first" => self.first?,
            "final" => self.last,
            "min" => self.min,
            "max" => self.max,
            _ => return None,
        })
    }
}

const SERIES: [&str; 8] =
    ["skmem_rb", "skmem_r", "recv_q", "rcv_win", "rcv_ssthresh", "acked", "over_budget", "cwnd"];

/// Figures so far.
#[derive(Debug, Default)]
pub struct Tally {
    /// In the order of [`SERIES`].
    series: [Series; SERIES.len()],
    /// Snapshots of all series at the packets that rules name.
    at_packet: BTreeMap<u64, Option<[i64; SERIES.len()]>>,
    last_ssthresh: Option<i64>,
    ssthresh_falls: u64,
    drops: u64,
    last_drop_free: Option<u64>,
    closed: BTreeMap<u32, bool>,
    zero_windows: u64,
    acks: u64,
    pub(super) collapses: u64,
    packets: u64,
}

/// What is known at the end besides the samples.
pub struct Ending<'a> {
    /// How long the run took, seconds on its own clock.
    pub duration: f64,
    /// The stack's counters.
    pub counters: &'a Counters,
    /// The sender.
    pub sender: &'a SenderReport,
    /// When the sender's error came, seconds.
    pub sender_error_at: Option<f64>,
    /// Payload bytes in order.
    pub delivered: u64,
    /// Payload bytes the application took.
    pub read: u64,
    /// Times the right edge moved left, and the furthest, as the observer saw it.
    pub left_moves: (u64, u64),
}

impl Tally {
    /// A tally that keeps what `rules` will ask for.
    #[must_use]
    pub fn new(rules: &[Expect]) -> Self {
        let at_packet = rules.iter().filter_map(|r| r.at_packet).map(|p| (p, None)).collect();
        Tally { at_packet, ..Tally::default() }
    }

    /// Takes one sample in.
    pub fn add(&mut self, s: &Sample, cwnd: u32) {
        let values = [
            s.skmem_rb,
            s.skmem_r,
            s.recv_q,
            s.rcv_win,
            s.rcv_ssthresh,
            s.acked,
            s.skmem_r - s.skmem_rb,
            i64::from(cwnd),
        ];
        for (series, v) in self.series.iter_mut().zip(values) {
            series.add(v);
        }
        self.packets = self.packets.max(s.packet);
        if let Some(at) = self.at_packet.get_mut(&s.packet) {
            *at = Some(values);
        }
        if self.last_ssthresh.is_some_and(|before| s.rcv_ssthresh < before) {
            self.ssthresh_falls += 1;
        }
        self.last_ssthresh = Some(s.rcv_ssthresh);
        if let Some(field) = s.tx_win_field {
            let before = self.closed.insert(s.conn, field == 0);
            self.zero_windows += u64::from(field == 0 && before != Some(true));
        }
        self.acks += u64::from(s.event == Event::Tx);
    }

    /// `drops` segments were dropped for want of memory when frame `packet` arrived.
    pub fn note_drops(&mut self, drops: u64, packet: u64) {
        if drops > 0 && self.drops == 0 {
            self.last_drop_free = Some(packet.saturating_sub(1));
        }
        self.drops += drops;
    }

    /// The value of a metric.
    #[must_use]
    pub fn metric(&self, name: &str, at_packet: Option<u64>, end: &Ending<'_>) -> Option<Quantity> {
        let int = |n: u64| Some(Quantity::Int(i64::try_from(n).unwrap_or(i64::MAX)));
        if let Some(counter) = name.strip_prefix("counter.") {
            return ["", "TcpExt", "Tcp"]
                .iter()
                .find_map(|p| end.counters.by_name(&format!("{p}{counter}")))
                .and_then(int);
        }
        match name {
            "duration" => Some(Quantity::Float(end.duration)),
            "packets" => int(self.packets),
            "bytes_delivered" => int(end.delivered),
            "bytes_read" => int(end.read),
            "acks" => int(self.acks),
            "coalesces" => end.counters.by_name("TcpExtTCPRcvCoalesce").and_then(int),
            "collapses" => int(self.collapses),
            "drops" => int(self.drops),
            "last_drop_free_packet" => self.last_drop_free.and_then(int),
            "zero_windows" => int(self.zero_windows),
            "edge_shrinks" => int(end.left_moves.0),
            "edge_shrink_max" => int(end.left_moves.1),
            "ssthresh_falls" => int(self.ssthresh_falls),
            "sender.error" => {
                Some(Quantity::Text(end.sender.error.clone().unwrap_or_else(|| "none".to_owned())))
            }
            "sender.error_at" => end.sender_error_at.map(Quantity::Float),
            "sender.retransmits" => int(end.sender.retransmits),
            "sender.written" => int(end.sender.written),
            _ => {
                let (series, which) = name.rsplit_once('.')?;
                let column = SERIES.iter().position(|s| *s == series)?;
                if let Some(p) = at_packet {
                    let values = self.at_packet.get(&p)?.as_ref()?;
                    return values.get(column).map(|v| Quantity::Int(*v));
                }
                self.series.get(column)?.get(which).map(Quantity::Int)
            }
        }
    }

    /// Largest value of a series.
    #[must_use]
    pub fn max(&self, series: &str) -> i64 {
        let column = SERIES.iter().position(|s| *s == series);
        column.and_then(|c| self.series.get(c)).map_or(0, |s| s.max)
    }
}

/// One rule of the scenario, judged.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Judged {
    /// The metric.
    pub metric: String,
    /// The effect in words.
    pub effect: String,
    /// What was published.
    pub published: Option<Quantity>,
    /// What must hold.
    pub condition: String,
    /// Ours.
    pub ours: Option<Quantity>,
    /// The outcome.
    pub outcome: Outcome,
    /// Why ours may differ.
    pub reason: String,
}

/// Holds the run against the rules that apply to it.
#[must_use]
pub fn judge(
    rules: &[Expect],
    policy: &str,
    clock: crate::scenario::Clock,
    tally: &Tally,
    end: &Ending<'_>,
) -> Vec<Judged> {
    rules
        .iter()
        .filter(|r| r.applies(policy, clock))
        .map(|r| {
            let ours = tally.metric(&r.metric, r.at_packet, end);
            Judged {
                metric: r
                    .at_packet
                    .map_or_else(|| r.metric.clone(), |p| format!("{} at packet {p}", r.metric)),
                effect: r.effect.clone(),
                published: r.published.clone(),
                condition: r.condition(),
                outcome: r.judge(ours.as_ref()),
                ours,
                reason: r.reason.clone(),
            }
        })
        .collect()
}
