//! What people read on a terminal: a socket as `ss -tmi` prints it, counters as `nstat` does, summaries as tables.

use std::{
    fmt::{self, Write as _},
    net::SocketAddr,
};

use comfy_table::{Cell, CellAlignment, ContentArrangement, Table, presets};
use serde::Serialize;

use crate::record::Sample;

/// A socket as `ss -tmi` sees one. Times are milliseconds, everything else bytes, segments or counts. Fields that ss
/// leaves out while they are zero are left out here too.
#[derive(Clone, Debug, Default, Serialize)]
pub struct SocketView {
    /// State as ss names it: `ESTAB`, `LISTEN`, `CLOSE-WAIT` …
    pub state: String,
    /// Unread bytes (of a listener: connections to accept).
    pub recv_q: u64,
    /// Unacknowledged bytes (of a listener: the most that may wait).
    pub send_q: u64,
    /// This end.
    pub local: Option<SocketAddr>,
    /// The other end.
    pub peer: Option<SocketAddr>,
    /// sk_rmem_alloc.
    pub skmem_r: i64,
    /// sk_rcvbuf.
    pub skmem_rb: i64,
    /// sk_wmem_alloc.
    pub skmem_t: i64,
    /// sk_sndbuf.
    pub skmem_tb: i64,
    /// sk_forward_alloc.
    pub skmem_f: i64,
    /// sk_wmem_queued.
    pub skmem_w: i64,
    /// sk_omem_alloc.
    pub skmem_o: i64,
    /// Backlog.
    pub skmem_bl: i64,
    /// sk_drops.
    pub skmem_d: u64,
    /// Timestamps in use.
    pub ts: bool,
    /// SACK in use.
    pub sack: bool,
    /// Scale of the peer's window and of ours, once agreed.
    pub wscale: Option<(u8, u8)>,
    /// Retransmission timeout.
    pub rto_ms: f64,
    /// Round-trip time and its variance.
    pub rtt_ms: Option<(f64, f64)>,
    /// Delayed-ACK timeout.
    pub ato_ms: f64,
    /// Largest segment this side sends.
    pub mss: u32,
    /// Path MTU.
    pub pmtu: u32,
    /// Estimate of the peer's segment size.
    pub rcv_mss: u32,
    /// Segment size announced to the peer.
    pub advmss: u32,
    /// Payload received in order.
    pub bytes_received: u64,
    /// Segments sent.
    pub segs_out: u64,
    /// Segments received.
    pub segs_in: u64,
    /// Segments with payload received.
    pub data_segs_in: u64,
    /// Since the last segment with payload arrived.
    pub lastrcv_ms: Option<u64>,
    /// Receiver-side round-trip estimate.
    pub rcv_rtt_ms: f64,
    /// What the reader took in the last round trip.
    pub rcv_space: u32,
    /// rcv_ssthresh.
    pub rcv_ssthresh: u32,
    /// Out-of-order segments received.
    pub rcv_ooopack: u32,
    /// The peer's window.
    pub snd_wnd: u32,
    /// What the peer may still send.
    pub rcv_wnd: u32,
}

impl SocketView {
    /// The second line of ss: memory and TCP internals, without the leading tab.
    #[must_use]
    pub fn details(&self) -> String {
        let mut s = format!(
            "skmem:(r{},rb{},t{},tb{},f{},w{},o{},bl{},d{})",
            self.skmem_r,
            self.skmem_rb,
            self.skmem_t,
            self.skmem_tb,
            self.skmem_f,
            self.skmem_w,
            self.skmem_o,
            self.skmem_bl,
            self.skmem_d
        );
        let mut put = |text: fmt::Arguments<'_>| {
            // Writing to a String cannot fail.
            let _ = s.write_fmt(text);
        };
        if self.ts {
            put(format_args!(" ts"));
        }
        if self.sack {
            put(format_args!(" sack"));
        }
        if let Some((snd, rcv)) = self.wscale {
            put(format_args!(" wscale:{snd},{rcv}"));
        }
        if self.rto_ms > 0.0 {
            put(format_args!(" rto:{}", general(self.rto_ms)));
        }
        if let Some((rtt, var)) = self.rtt_ms {
            put(format_args!(" rtt:{}/{}", general(rtt), general(var)));
        }
        if self.ato_ms > 0.0 {
            put(format_args!(" ato:{}", general(self.ato_ms)));
        }
        for (name, value) in [
            ("mss", u64::from(self.mss)),
            ("pmtu", u64::from(self.pmtu)),
            ("rcvmss", u64::from(self.rcv_mss)),
            ("advmss", u64::from(self.advmss)),
            ("bytes_received", self.bytes_received),
            ("segs_out", self.segs_out),
            ("segs_in", self.segs_in),
            ("data_segs_in", self.data_segs_in),
        ] {
            if value != 0 {
                put(format_args!(" {name}:{value}"));
            }
        }
        if let Some(ms) = self.lastrcv_ms {
            put(format_args!(" lastrcv:{ms}"));
        }
        if self.rcv_rtt_ms > 0.0 {
            put(format_args!(" rcv_rtt:{}", general(self.rcv_rtt_ms)));
        }
        for (name, value) in [
            ("rcv_space", self.rcv_space),
            ("rcv_ssthresh", self.rcv_ssthresh),
            ("rcv_ooopack", self.rcv_ooopack),
            ("snd_wnd", self.snd_wnd),
            ("rcv_wnd", self.rcv_wnd),
        ] {
            if value != 0 {
                put(format_args!(" {name}:{value}"));
            }
        }
        s
    }
}

/// Sockets as `ss -tmi` lists them, header included.
#[must_use]
pub fn sockets(views: &[SocketView]) -> String {
    let address = |a: Option<SocketAddr>| a.map_or_else(|| "*:*".to_owned(), |a| a.to_string());
    let rows: Vec<[String; 5]> = views
        .iter()
        .map(|v| {
            [v.state.clone(), v.recv_q.to_string(), v.send_q.to_string(), address(v.local), address(v.peer)]
        })
        .collect();
    let header = ["State", "Recv-Q", "Send-Q", "Local Address:Port", "Peer Address:Port"];
    let widths: Vec<usize> = header
        .iter()
        .enumerate()
        .map(|(i, h)| rows.iter().filter_map(|r| r.get(i)).map(String::len).fold(h.len(), usize::max))
        .collect();
    let line = |cells: [&str; 5]| {
        let mut out = String::new();
        for (i, (cell, width)) in cells.iter().zip(&widths).enumerate() {
            // ss sets both addresses to the right.
            let _ = if i < 3 { write!(out, "{cell:<width$} ") } else { write!(out, "{cell:>width$} ") };
        }
        out.trim_end().to_owned()
    };
    let mut out = line(header) + "\n";
    for (row, view) in rows.iter().zip(views) {
        out += &line([&row[0], &row[1], &row[2], &row[3], &row[4]]);
        out += &format!("\n\t {}\n", view.details());
    }
    out
}

/// Counters as `nstat` prints them: those that are not zero, or all.
#[must_use]
pub fn counters<'a>(values: impl IntoIterator<Item = (&'a str, u64)>, all: bool) -> String {
    let mut out = "#rightedge\n".to_owned();
    for (name, value) in values {
        if all || value != 0 {
            let _ = writeln!(out, "{name:<32}{value:<16}{:6.1}", 0.0);
        }
    }
    out
}

/// A table of names and values for people.
#[must_use]
pub fn summary(title: &str, rows: &[(&str, String)]) -> String {
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED).set_content_arrangement(ContentArrangement::Dynamic);
    table.set_header(vec![title, ""]);
    for (name, value) in rows {
        table.add_row(vec![Cell::new(name), Cell::new(value).set_alignment(CellAlignment::Right)]);
    }
    table.trim_fmt()
}

/// Several runs beside each other: one row per metric, one column per policy. A run that lacks a metric shows "–".
#[must_use]
pub fn comparison(policies: &[&str], rows: &[(String, Vec<String>)]) -> String {
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED).set_content_arrangement(ContentArrangement::Dynamic);
    table.set_header(std::iter::once("").chain(policies.iter().copied()).collect::<Vec<_>>());
    for (name, values) in rows {
        let mut cells = vec![Cell::new(name)];
        for i in 0..policies.len() {
            let value = values.get(i).map_or("–", String::as_str);
            cells.push(Cell::new(value).set_alignment(CellAlignment::Right));
        }
        table.add_row(cells);
    }
    table.trim_fmt()
}

/// The figures of one run that its samples tell.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Metrics {
    /// Arriving packets.
    pub packets: u64,
    /// Duration, nanoseconds.
    pub duration_ns: u64,
    /// Largest sk_rcvbuf.
    pub skmem_rb_max: i64,
    /// Largest sk_rmem_alloc.
    pub skmem_r_max: i64,
    /// Furthest that sk_rmem_alloc was above sk_rcvbuf.
    pub over_budget_max: i64,
    /// Most unread bytes.
    pub recv_q_max: i64,
    /// Smallest and largest window left to the peer.
    pub rcv_win: (i64, i64),
    /// Bytes acknowledged in the end, summed over connections.
    pub acked: i64,
    /// Bytes read in the end, summed over connections.
    pub copied: i64,
    /// Zero windows: how often the window left to the peer closed on a departing segment.
    pub zero_windows: u64,
    /// Segments merged.
    pub coalesced: u64,
    /// Collapses.
    pub collapsed: u64,
    /// Prune calls.
    pub pruned: u64,
    /// Segments dropped.
    pub dropped: u64,
    /// Clamps.
    pub clamped: u64,
}

impl Metrics {
    /// Draws the figures from samples in their order.
    #[must_use]
    pub fn of(samples: &[Sample]) -> Self {
        let mut m = Metrics::default();
        let mut ends = std::collections::BTreeMap::<u32, (i64, i64)>::new();
        let mut closed = std::collections::BTreeMap::<u32, bool>::new();
        for (i, s) in samples.iter().enumerate() {
            m.packets = m.packets.max(s.packet);
            m.duration_ns = m.duration_ns.max(s.t_ns);
            m.skmem_rb_max = m.skmem_rb_max.max(s.skmem_rb);
            m.skmem_r_max = m.skmem_r_max.max(s.skmem_r);
            m.over_budget_max = m.over_budget_max.max(s.skmem_r.saturating_sub(s.skmem_rb));
            m.recv_q_max = m.recv_q_max.max(s.recv_q);
            m.rcv_win = if i == 0 {
                (s.rcv_win, s.rcv_win)
            } else {
                (m.rcv_win.0.min(s.rcv_win), m.rcv_win.1.max(s.rcv_win))
            };
            ends.insert(s.conn, (s.acked, s.copied));
            if let Some(field) = s.tx_win_field {
                let before = closed.insert(s.conn, field == 0);
                m.zero_windows += u64::from(field == 0 && before != Some(true));
            }
            m.coalesced += u64::from(s.coalesced);
            m.collapsed += u64::from(s.collapsed);
            m.pruned += u64::from(s.pruned);
            m.dropped += u64::from(s.dropped);
            m.clamped += u64::from(s.clamped);
        }
        for (acked, copied) in ends.into_values() {
            m.acked = m.acked.saturating_add(acked);
            m.copied = m.copied.saturating_add(copied);
        }
        m
    }

    /// Names and values for [`summary`] and [`comparison`].
    #[must_use]
    pub fn rows(&self) -> Vec<(&'static str, String)> {
        vec![
            ("arriving packets", self.packets.to_string()),
            ("duration", format!("{:.3} s", self.duration_ns as f64 / 1e9)),
            ("skmem_rb, most", bytes(self.skmem_rb_max)),
            ("skmem_r, most", bytes(self.skmem_r_max)),
            ("over budget, most", bytes(self.over_budget_max)),
            ("recv-q, most", bytes(self.recv_q_max)),
            ("rcv_win, least", bytes(self.rcv_win.0)),
            ("rcv_win, most", bytes(self.rcv_win.1)),
            ("bytes ACKed", bytes(self.acked)),
            ("bytes read", bytes(self.copied)),
            ("zero windows", self.zero_windows.to_string()),
            ("coalesced", self.coalesced.to_string()),
            ("collapses", self.collapsed.to_string()),
            ("prune calls", self.pruned.to_string()),
            ("dropped", self.dropped.to_string()),
            ("clamps", self.clamped.to_string()),
        ]
    }

    /// The rows of [`comparison`] for several runs.
    #[must_use]
    pub fn compare(runs: &[Metrics]) -> Vec<(String, Vec<String>)> {
        let columns: Vec<_> = runs.iter().map(Metrics::rows).collect();
        Metrics::default()
            .rows()
            .iter()
            .enumerate()
            .map(|(i, (name, _))| {
                let values = columns.iter().filter_map(|c| c.get(i)).map(|(_, v)| v.clone());
                ((*name).to_owned(), values.collect())
            })
            .collect()
    }
}

/// A byte count: exact, and rounded where that helps.
#[must_use]
pub fn bytes(n: i64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut v = n as f64;
    let mut unit = 0;
    while v.abs() >= 1024.0 && unit + 1 < units.len() {
        v /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{n} B") } else { format!("{n} B ({v:.1} {})", units[unit]) }
}

/// A number as C's `%g` writes it, for the magnitudes that occur here.
fn general(v: f64) -> String {
    if v != 0.0 && v.abs() < 1e6 {
        let places = (5 - v.abs().log10().floor() as i32).clamp(0, 10) as usize;
        let text = format!("{v:.places$}");
        if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
    } else {
        format!("{v:.0}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_reads_as_in_ss() {
        let view = SocketView {
            state: "ESTAB".into(),
            recv_q: 126_973,
            local: Some("127.0.0.1:56659".parse().unwrap()),
            peer: Some("127.0.0.1:40650".parse().unwrap()),
            skmem_r: 130_469,
            skmem_rb: 131_072,
            skmem_tb: 3_939_840,
            skmem_f: 603,
            skmem_d: 2,
            wscale: Some((10, 10)),
            rto_ms: 200.0,
            rtt_ms: Some((0.019, 0.009)),
            ato_ms: 80.0,
            mss: 32768,
            pmtu: 65535,
            rcv_mss: 47616,
            advmss: 65483,
            bytes_received: 127_973,
            segs_out: 3,
            segs_in: 8,
            data_segs_in: 5,
            lastrcv_ms: Some(304),
            rcv_rtt_ms: 0.052,
            rcv_space: 65483,
            rcv_ssthresh: 95232,
            snd_wnd: 65536,
            ..Default::default()
        };
        assert_eq!(
            sockets(&[view]),
            "State Recv-Q Send-Q Local Address:Port Peer Address:Port\n\
             ESTAB 126973 0         127.0.0.1:56659   127.0.0.1:40650\n\
             \t skmem:(r130469,rb131072,t0,tb3939840,f603,w0,o0,bl0,d2) wscale:10,10 rto:200 rtt:0.019/0.009 ato:80 \
             mss:32768 pmtu:65535 rcvmss:47616 advmss:65483 bytes_received:127973 segs_out:3 segs_in:8 data_segs_in:5 \
             lastrcv:304 rcv_rtt:0.052 rcv_space:65483 rcv_ssthresh:95232 snd_wnd:65536\n"
        );
        assert!(sockets(&[]).starts_with("State Recv-Q"));
    }

    #[test]
    fn counters_read_as_in_nstat() {
        let values = [("TcpExtPruneCalled", 13), ("TcpExtOfoPruned", 0)];
        assert_eq!(
            counters(values, false),
            "#rightedge\nTcpExtPruneCalled               13                 0.0\n"
        );
        assert_eq!(counters(values, true).lines().count(), 3);
    }

    #[test]
    fn numbers_are_written_as_c_does() {
        let cases = [
            (0.0, "0"),
            (5.524, "5.524"),
            (200.0, "200"),
            (0.019, "0.019"),
            (123_456.7, "123457"),
            (1e7, "10000000"),
        ];
        for (v, text) in cases {
            assert_eq!(general(v), text);
        }
        assert_eq!(bytes(65_536), "65536 B (64.0 KiB)");
        assert_eq!(bytes(-3), "-3 B");
    }

    #[test]
    fn runs_stand_beside_each_other() {
        let samples = [
            Sample {
                conn: 0,
                packet: 1,
                skmem_rb: 100,
                skmem_r: 130,
                rcv_win: 5,
                tx_win_field: Some(1),
                ..Default::default()
            },
            Sample {
                conn: 0,
                packet: 2,
                skmem_rb: 100,
                tx_win_field: Some(0),
                acked: 7,
                ..Default::default()
            },
            Sample { conn: 0, packet: 3, tx_win_field: Some(0), acked: 9, dropped: 2, ..Default::default() },
            Sample { conn: 1, packet: 4, acked: 1, ..Default::default() },
        ];
        let a = Metrics::of(&samples);
        assert_eq!(
            (a.over_budget_max, a.zero_windows, a.acked, a.dropped, a.rcv_win),
            (30, 1, 10, 2, (0, 5))
        );
        let text =
            comparison(&["never", "merged", "third"], &Metrics::compare(&[a.clone(), Metrics::of(&[])]));
        let line = text.lines().find(|l| l.contains("zero windows")).unwrap();
        assert_eq!(
            line.split_whitespace().collect::<Vec<_>>(),
            ["│", "zero", "windows", "┆", "1", "┆", "0", "┆", "–", "│"]
        );
        let text = summary("never-reads", &a.rows());
        assert!(text.contains("never-reads") && text.contains("over budget, most"));
    }
}
