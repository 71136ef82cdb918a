//! What a run came to: figures, verdicts, and the words for people.

use std::fmt::Write as _;
use std::time::Duration as StdDuration;

use anyhow::Result;
use rightedge_stack::{Info, SocketId, profile::ShrinkPolicy, time::Instant};
use serde::Serialize;

use super::engine::{ConnectionEnd, EndReason, Engine};
use super::tally::{Ending, Judged, judge};
use super::wire::{SENDER_IP, STACK_IP, SenderReport, Wire};
use super::{RunSpec, SenderKind, status};
use crate::observer::{Expectation, Finding, Party};
use crate::record::{RunDir, names};
use crate::scenario::{Clock, Outcome};
use crate::views::{self, SocketView};

/// Everything there is to say about a run, for `summary.json` and for people.
#[derive(Clone, Debug, Serialize)]
pub struct RunReport {
    /// Name of the scenario.
    pub scenario: String,
    /// The policy.
    pub policy: String,
    /// Who sent.
    pub sender: SenderReport,
    /// Which clock.
    pub clock: Clock,
    /// Why it ended.
    pub end: EndReason,
    /// On its own clock, seconds.
    pub duration: f64,
    /// On the wall, seconds.
    pub wall: f64,
    /// The connections.
    pub connections: Vec<ConnectionEnd>,
    /// Every byte read or unread is the one the sender wrote, and no more than it wrote.
    pub intact: bool,
    /// Bytes received equal bytes sent, if the sender finished and its connection closed in order.
    pub complete: Option<bool>,
    /// Largest skmem_rb, skmem_r and overrun, bytes.
    pub peak: Peak,
    /// The scenario's rules.
    pub judged: Vec<Judged>,
    /// What the observer objects to.
    pub findings: Vec<Finding>,
    /// ACKs that moved the right edge left, and the furthest such move, bytes.
    pub left_moves: (u64, u64),
    /// Counters that are not zero.
    pub counters: std::collections::BTreeMap<&'static str, u64>,
    /// Packets in the capture.
    pub packets: u64,
    /// Only every n-th event was recorded at the end; 1 is all.
    pub recorded_every: u64,
    /// Decisions that nobody took in time.
    pub decisions_lost: u64,
    /// The link's figures.
    pub link: Option<serde_json::Value>,
    /// What differs in real time, in the scenario's words.
    pub real_time_note: Option<String>,
    #[serde(skip)]
    ss: String,
    #[serde(skip)]
    nstat: String,
    #[serde(skip)]
    observer: serde_json::Value,
}

/// Extremes.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Peak {
    /// Largest sk_rcvbuf.
    pub skmem_rb: i64,
    /// Largest sk_rmem_alloc.
    pub skmem_r: i64,
    /// Largest sk_rmem_alloc − sk_rcvbuf.
    pub over_budget: i64,
    /// Most unread bytes.
    pub recv_q: i64,
    /// Largest window left to the peer.
    pub rcv_win: i64,
}

/// Draws the conclusion of a run.
pub(super) fn conclude<W: Wire>(
    spec: &RunSpec,
    engine: &mut Engine<'_, W>,
    end: EndReason,
    sender: &SenderReport,
    connections: Vec<ConnectionEnd>,
    now: Instant,
    wall: StdDuration,
) -> RunReport {
    let verdict = engine.observer.verdict();
    let sysctls = engine.stack.sysctls();
    let shrink_allowed = spec.profile.shrink != ShrinkPolicy::Never || sysctls.tcp_shrink_window;
    let nomem = spec.profile.no_memory_window == rightedge_stack::profile::NoMemoryWindow::Zero;
    let expectation = Expectation { shrink_allowed, nomem_zero_allowed: nomem };
    let findings = engine.observer.check(expectation);
    let left_moves = (
        verdict.connections.iter().map(|c| c.left_moves_total).sum(),
        verdict.connections.iter().map(|c| c.left_move_max).max().unwrap_or(0),
    );
    let delivered: u64 = connections.iter().map(|c| c.delivered).sum();
    let read: u64 = connections.iter().map(|c| c.read).sum();
    // What a write that is under way has handed over already is not counted before it returns; a sender that is done has
    // none.
    let sender_knows = end == EndReason::SenderDone;
    let intact = connections.iter().all(|c| c.corrupt_at.is_none())
        && (!sender_knows || delivered <= sender.written)
        && delivered <= verdict.bytes_sent;
    let orderly = sender.error.is_none() && verdict.connections.iter().all(|c| c.fin_from_peer);
    let complete = (end == EndReason::SenderDone && orderly && !connections.is_empty())
        .then_some(delivered == verdict.bytes_sent && delivered == sender.written);
    let ending = Ending {
        duration: now.as_secs_f64(),
        counters: engine.stack.counters(),
        sender,
        sender_error_at: engine.sender_error_at,
        delivered,
        read,
        left_moves,
    };
    let judged = judge(&spec.scenario.expect, &spec.policy, spec.clock, &engine.tally, &ending);
    let t = &engine.tally;
    let peak = Peak {
        skmem_rb: t.max("skmem_rb"),
        skmem_r: t.max("skmem_r"),
        over_budget: t.max("over_budget"),
        recv_q: t.max("recv_q"),
        rcv_win: t.max("rcv_win"),
    };
    let sockets: Vec<SocketView> = engine
        .stack
        .connections()
        .filter_map(|id: SocketId| {
            Some(socket_view(&engine.stack.info(id).ok()?, engine.stack.addresses(id).ok()?))
        })
        .collect();
    RunReport {
        scenario: spec.scenario.name.clone(),
        policy: spec.policy.clone(),
        sender: sender.clone(),
        clock: spec.clock,
        end,
        duration: now.as_secs_f64(),
        wall: wall.as_secs_f64(),
        intact,
        complete,
        peak,
        judged,
        findings,
        left_moves,
        counters: engine.stack.counters().iter().filter(|(_, v)| *v != 0).collect(),
        packets: engine.dir.packets(),
        recorded_every: engine.thinned(),
        decisions_lost: engine.stack.decisions_lost(),
        link: engine.link_stats(),
        real_time_note: (spec.clock == Clock::Real)
            .then(|| spec.scenario.real_time.as_ref().map(|r| r.why.clone()))
            .flatten(),
        ss: views::sockets(&sockets),
        nstat: views::counters(engine.stack.counters().iter(), false),
        observer: serde_json::to_value(&verdict).unwrap_or_default(),
        connections,
    }
}

fn socket_view(i: &Info, (local, peer): (std::net::SocketAddr, std::net::SocketAddr)) -> SocketView {
    SocketView {
        state: i.state.as_str().to_owned(),
        recv_q: u64::from(i.recv_q),
        send_q: u64::from(i.send_q),
        local: Some(local),
        peer: Some(peer),
        skmem_r: i64::from(i.mem.rmem_alloc),
        skmem_rb: i64::from(i.mem.rcvbuf),
        skmem_t: i64::from(i.mem.wmem_alloc),
        skmem_tb: i64::from(i.mem.sndbuf),
        skmem_f: i64::from(i.mem.fwd_alloc as i32),
        skmem_w: i64::from(i.mem.wmem_queued),
        skmem_o: i64::from(i.mem.optmem),
        skmem_bl: i64::from(i.mem.backlog),
        skmem_d: u64::from(i.mem.drops),
        ts: i.timestamps,
        sack: i.sack,
        wscale: i.wscale.then_some((i.snd_wscale, i.rcv_wscale)),
        rto_ms: i.rto_us as f64 / 1000.0,
        rtt_ms: (i.rtt_us > 0).then(|| (f64::from(i.rtt_us) / 1000.0, 0.0)),
        ato_ms: f64::from(i.ato_us) / 1000.0,
        mss: i.snd_mss,
        rcv_mss: i.rcv_mss,
        advmss: i.advmss,
        bytes_received: i.bytes_received,
        segs_out: u64::from(i.segs_out),
        segs_in: u64::from(i.segs_in),
        data_segs_in: u64::from(i.data_segs_in),
        rcv_rtt_ms: f64::from(i.rcv_rtt_us) / 1000.0,
        rcv_space: i.rcv_space,
        rcv_ssthresh: i.rcv_ssthresh,
        rcv_ooopack: i.rcv_ooopack,
        rcv_wnd: i.rcv_win,
        ..SocketView::default()
    }
}

impl RunReport {
    /// Writes what belongs into the run directory and gives the report back.
    pub(super) fn write(self, spec: &RunSpec, dir: RunDir) -> Result<RunReport> {
        dir.write_counters(&self.counters)?;
        dir.write_observer(&serde_json::json!({ "verdict": self.observer, "findings": self.findings }))?;
        dir.write_file(names::SS, self.ss.as_bytes())?;
        dir.write_file(names::NSTAT, self.nstat.as_bytes())?;
        let status = status(self.end);
        let path = dir.finish(status, &self)?;
        #[cfg(feature = "charts")]
        draw(spec, &path, &self)?;
        let _ = spec;
        let _ = path;
        Ok(self)
    }

    /// Did everything hold: the bytes, the observer, the scenario's rules?
    #[must_use]
    pub fn ok(&self) -> bool {
        self.intact
            && self.complete != Some(false)
            && self.findings.iter().all(|f| f.party != Party::Receiver)
            && self.judged.iter().all(|j| j.outcome != Outcome::Missed)
    }

    /// The summary for people.
    #[must_use]
    pub fn text(&self) -> String {
        let end = match self.end {
            EndReason::TimeLimit => "time limit reached",
            EndReason::PacketLimit => "packet limit reached",
            EndReason::ByteLimit => "byte limit reached",
            EndReason::SenderDone => "the sender is done",
            EndReason::Interrupted => "interrupted",
        };
        let delivered: u64 = self.connections.iter().map(|c| c.delivered).sum();
        let read: u64 = self.connections.iter().map(|c| c.read).sum();
        let n = |v: u64| views::bytes(i64::try_from(v).unwrap_or(i64::MAX));
        let rows = vec![
            ("policy", self.policy.clone()),
            ("sender", self.sender.what.clone()),
            ("ended", format!("{end} after {:.3} s ({:.1} s on the wall)", self.duration, self.wall)),
            ("skmem_rb, most (the budget)", views::bytes(self.peak.skmem_rb)),
            ("skmem_r, most (charged)", views::bytes(self.peak.skmem_r)),
            ("over budget, most", views::bytes(self.peak.over_budget.max(0))),
            ("recv-q, most", views::bytes(self.peak.recv_q)),
            ("rcv_win, most", views::bytes(self.peak.rcv_win)),
            ("received / read", format!("{} / {}", n(delivered), n(read))),
            ("sender wrote", n(self.sender.written)),
            ("sender's error", self.sender.error.clone().unwrap_or_else(|| "none".to_owned())),
            (
                "right edge moved left",
                format!("{} times, {} at most", self.left_moves.0, n(self.left_moves.1)),
            ),
            ("bytes intact", if self.intact { "yes, every one checked" } else { "NO" }.to_owned()),
        ];
        let mut s = views::summary(&self.scenario, &rows);
        s.push('\n');
        if !self.judged.is_empty() {
            let rows: Vec<(String, Vec<String>)> = self
                .judged
                .iter()
                .map(|j| {
                    let show = |q: &Option<crate::scenario::Quantity>| {
                        q.as_ref().map_or_else(|| "–".to_owned(), ToString::to_string)
                    };
                    let outcome = match j.outcome {
                        Outcome::Met => "ok",
                        Outcome::Missed => "MISSED",
                        Outcome::Shown => "",
                        Outcome::Absent => "absent",
                    };
                    (
                        format!("{}\n{}", j.effect, j.metric),
                        vec![show(&j.published), j.condition.clone(), show(&j.ours), outcome.to_owned()],
                    )
                })
                .collect();
            let _ = writeln!(s, "{}", views::comparison(&["published", "must be", "ours", ""], &rows));
        }
        for f in &self.findings {
            let at = f.packet.map(|p| format!(" (packet {p})")).unwrap_or_default();
            let _ = writeln!(s, "observer: {:?}: {}{at}: {}", f.party, f.rule, f.words);
        }
        if self.recorded_every > 1 {
            let _ =
                writeln!(s, "note: towards the end only every {}th event was recorded", self.recorded_every);
        }
        if self.decisions_lost > 0 {
            let _ =
                writeln!(s, "note: {} decisions were not taken in time and are lost", self.decisions_lost);
        }
        if let Some(why) = &self.real_time_note {
            let _ = writeln!(s, "note: shortened for real time: {why}");
        }
        s
    }

    /// The `ss -tmi`-like view at the end.
    #[must_use]
    pub fn ss(&self) -> &str {
        &self.ss
    }

    /// The `nstat`-like view at the end.
    #[must_use]
    pub fn nstat(&self) -> &str {
        &self.nstat
    }
}

#[cfg(feature = "charts")]
fn draw(spec: &RunSpec, path: &std::path::Path, report: &RunReport) -> Result<()> {
    use crate::{chart, record::load_samples};
    let samples = load_samples(path)?;
    let counters =
        ["TcpExtTCPRcvCoalesce", "TcpExtTCPRcvCollapsed", "TcpExtPruneCalled", "TcpExtTCPRcvQDrop"];
    let options = chart::Options {
        title: format!("{} · {}", spec.scenario.name, report.policy),
        subtitle: format!("{} · {}", spec.scenario.about, report.sender.what),
        counters: counters
            .iter()
            .filter_map(|c| report.counters.get(c).map(|v| (c.trim_start_matches("TcpExt").to_owned(), *v)))
            .collect(),
        ..chart::Options::default()
    };
    let svg = chart::svg(&samples, &options)?;
    std::fs::write(path.join(names::CHART_PNG), chart::png(&svg, 1.5)?)?;
    std::fs::write(path.join(names::CHART_SVG), svg)?;
    Ok(())
}

/// Names for the two ends, for messages.
#[must_use]
pub fn ends(kind: SenderKind) -> String {
    match kind {
        SenderKind::Kernel => format!("kernel sender {SENDER_IP}, our stack {STACK_IP}"),
        SenderKind::Model => format!("model sender {SENDER_IP}, our stack {STACK_IP}"),
    }
}
