//! What is compared, and the first thing that differs.
//!
//! Everything in a record but `vol` is compared, except what [`EXCLUDED`] lists with its reason. There is one tolerance:
//! a frame that a timer sent may come one tick later on either side, because the CPU that runs a timer need not be the one
//! that counts ticks.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};

use comfy_table::{Cell, ContentArrangement, Table, presets};

use super::trace::{Frame, Record, Trace};

/// What is not compared between a kernel and the stack: `(field, why)`. Fields of `info`, `mem` and `cnt` with their
/// prefix; a trailing `*` stands for the rest of a name.
pub const EXCLUDED: &[(&str, &str)] = &[
    ("vol", "hangs on the clock"),
    ("op", "the script's, the same by construction"),
    (
        "rx.at, rx.late while tcp_comp_sack_nr is not 0",
        "the timer of compressed SACKs counts nanoseconds and may fire while the recorder still looks",
    ),
    ("rx.wnd", "follows from win"),
    ("rx.edge", "follows from ack and win"),
    ("info.ca_state", "congestion control of what the receiver sends"),
    ("info.retransmits", "retransmission of what the receiver sends"),
    ("info.probes", "window probes of what the receiver sends"),
    ("info.backoff", "retransmission of what the receiver sends"),
    ("info.unacked", "segments the receiver sent; the stack cuts them otherwise"),
    ("info.sacked", "loss recovery of what the receiver sends"),
    ("info.lost", "loss recovery of what the receiver sends"),
    ("info.retrans", "loss recovery of what the receiver sends"),
    ("info.fackets", "always 0"),
    ("info.snd_ssthresh", "congestion control of what the receiver sends"),
    ("info.snd_cwnd", "congestion control of what the receiver sends"),
    ("info.reordering", "loss recovery of what the receiver sends"),
    ("info.notsent_bytes", "what the receiver sends"),
    ("info.delivered*", "what the receiver sends"),
    ("info.bytes_sent", "what the receiver sends"),
    ("info.bytes_retrans", "what the receiver sends"),
    ("info.data_segs_out", "what the receiver sends"),
    ("info.dsack_dups", "D-SACKs about what the receiver sends"),
    ("info.reord_seen", "loss recovery of what the receiver sends"),
    ("info.snd_wnd", "the peer's window"),
    ("info.rehash", "choice of paths by the sending half"),
    ("info.total_rto*", "retransmission of what the receiver sends"),
    ("info.delivery_rate_app_limited", "what the receiver sends"),
    ("info.fastopen_client_fail", "TCP Fast Open is not modelled"),
    ("mem.wmem_alloc", "packets in a driver's queue; the stack has none"),
    ("mem.wmem_queued", "send buffers; the stack packs them otherwise"),
    ("mem.optmem", "option memory; the stack has none"),
    ("cnt.TcpPassiveOpens", "counts connections, not decisions about them"),
    ("cnt.TcpActiveOpens", "counts connections, not decisions about them"),
    ("cnt.TcpExtTCPOrigDataSent", "what the receiver sends"),
    ("cnt.TcpExtTCPDelivered", "what the receiver sends"),
    ("cnt.TcpExtTCPHystart*", "congestion control"),
    ("cnt.TcpExtTCPLostRetransmit", "loss recovery of what the receiver sends"),
    ("cnt.TcpExtTCPAutoCorking", "what the receiver sends"),
];

/// Is this field excluded? The reason, if it is.
#[must_use]
pub fn excluded(field: &str) -> Option<&'static str> {
    EXCLUDED
        .iter()
        .find(|(name, _)| match name.strip_suffix('*') {
            Some(start) => field.starts_with(start),
            None => *name == field,
        })
        .map(|(_, why)| *why)
}

/// One field of one record that differs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// The record.
    pub record: u64,
    /// The field, as in `mem.rmem_alloc` or `rx[2].win`.
    pub field: String,
    /// What the first trace has.
    pub left: String,
    /// What the second trace has.
    pub right: String,
}

impl Difference {
    /// The field without its index: what kind of difference this is.
    #[must_use]
    pub fn kind(&self) -> String {
        let mut out = String::new();
        let mut inside = false;
        for c in self.field.chars() {
            match c {
                '[' => inside = true,
                ']' => inside = false,
                c if !inside => out.push(c),
                _ => {}
            }
        }
        out
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} / {}", self.field, self.left, self.right)
    }
}

/// All that differs between two traces of the same script.
#[must_use]
pub fn compare(left: &Trace, right: &Trace) -> Vec<Difference> {
    let mut all = Vec::new();
    let tick_ms = left.header.tick_ms;
    // The timer of compressed SACKs counts nanoseconds: it may fire while the recorder still looks.
    let steady = left.header.sysctl.get("net.ipv4.tcp_comp_sack_nr").is_none_or(|v| v == "0");
    for (a, b) in left.records.iter().zip(&right.records) {
        compare_records(a, b, tick_ms, steady, &mut all);
    }
    let (n, m) = (left.records.len(), right.records.len());
    if n != m {
        all.push(Difference {
            record: n.min(m) as u64,
            field: "records".to_owned(),
            left: n.to_string(),
            right: m.to_string(),
        });
    }
    all
}

/// The fields of the first record that differs, as one key: what kind of divergence this is.
#[must_use]
pub fn key(all: &[Difference]) -> String {
    let Some(first) = all.first() else { return String::new() };
    let mut kinds: Vec<String> =
        all.iter().take_while(|d| d.record == first.record).map(Difference::kind).collect();
    kinds.dedup();
    kinds.join(" ")
}

fn compare_records(a: &Record, b: &Record, tick_ms: f64, steady: bool, all: &mut Vec<Difference>) {
    let mut put = |field: String, left: String, right: String| {
        all.push(Difference { record: a.i, field, left, right });
    };
    if a.tx != b.tx {
        put("tx".to_owned(), format!("{} segments", a.tx.len()), format!("{} segments", b.tx.len()));
    }
    if a.rx.len() == b.rx.len() {
        for (i, (x, y)) in a.rx.iter().zip(&b.rx).enumerate() {
            for (name, l, r) in frame_fields(x, y, steady) {
                put(format!("rx[{i}].{name}"), l, r);
            }
            let times = (a.vol.rx_ms.get(i), b.vol.rx_ms.get(i));
            if let ((Some(l), Some(r)), true) = (times, x.late) {
                let (l, r) = ((l / tick_ms).floor(), (r / tick_ms).floor());
                if (l - r).abs() > 1.0 {
                    put(format!("rx[{i}].tick"), l.to_string(), r.to_string());
                }
            }
        }
    } else {
        put("rx".to_owned(), frames_text(&a.rx), frames_text(&b.rx));
    }
    if a.ret != b.ret {
        put("ret".to_owned(), ret_text(a), ret_text(b));
    }
    for (name, l, r) in [("inq", a.inq, b.inq), ("clamp", a.clamp, b.clamp)] {
        if l != r {
            put(name.to_owned(), option_text(l), option_text(r));
        }
    }
    maps("info", &a.info, &b.info, &mut put);
    maps("mem", &a.mem, &b.mem, &mut put);
    let names: std::collections::BTreeSet<&String> = a.cnt.keys().chain(b.cnt.keys()).collect();
    for name in names {
        let (l, r) = (a.cnt.get(name).copied().unwrap_or(0), b.cnt.get(name).copied().unwrap_or(0));
        let field = format!("cnt.{name}");
        if l != r && excluded(&field).is_none() {
            put(field, l.to_string(), r.to_string());
        }
    }
}

/// Fields that both have must be equal; one that only the first has is a difference unless it is excluded. The second may
/// show more: a kernel's struct can be shorter.
fn maps(
    prefix: &str,
    a: &BTreeMap<String, u64>,
    b: &BTreeMap<String, u64>,
    put: &mut impl FnMut(String, String, String),
) {
    for (name, l) in a {
        let field = format!("{prefix}.{name}");
        let r = b.get(name);
        // Nothing to compare with: the socket is gone on that side, which another field says.
        if b.is_empty() || Some(l) == r || excluded(&field).is_some() {
            continue;
        }
        put(field, l.to_string(), option_text(r.copied()));
    }
    if a.is_empty() != b.is_empty() {
        let there = |m: &BTreeMap<String, u64>| if m.is_empty() { "gone" } else { "there" }.to_owned();
        put(prefix.to_owned(), there(a), there(b));
    }
}

fn frame_fields(x: &Frame, y: &Frame, steady: bool) -> Vec<(&'static str, String, String)> {
    let mut out = Vec::new();
    let mut field = |name: &'static str, l: &dyn fmt::Debug, r: &dyn fmt::Debug| {
        let (l, r) = (format!("{l:?}"), format!("{r:?}"));
        if l != r {
            out.push((name, l, r));
        }
    };
    field("flags", &x.flags.to_string(), &y.flags.to_string());
    field("seq", &x.seq, &y.seq);
    field("len", &x.len, &y.len);
    field("ack", &x.ack, &y.ack);
    field("win", &x.win, &y.win);
    field("sack", &x.sack, &y.sack);
    field("mss", &x.mss, &y.mss);
    field("wscale", &x.wscale, &y.wscale);
    field("sackok", &x.sackok, &y.sackok);
    field("tsecr", &x.tsecr, &y.tsecr);
    if steady {
        field("at", &x.at, &y.at);
        field("late", &x.late, &y.late);
    }
    out
}

fn option_text(v: Option<u64>) -> String {
    v.map_or_else(|| "none".to_owned(), |v| v.to_string())
}

fn ret_text(r: &Record) -> String {
    r.ret.as_ref().and_then(|r| serde_json::to_string(r).ok()).unwrap_or_else(|| "none".to_owned())
}

/// A frame as tcpdump would put it.
#[must_use]
pub fn frame_text(f: &Frame) -> String {
    let mut s = format!("[{}] seq {} len {} ack {} win {}", f.flags, f.seq, f.len, f.ack, f.win);
    if !f.sack.is_empty() {
        let blocks: Vec<String> = f.sack.iter().map(|[a, b]| format!("{a}:{b}")).collect();
        let _ = write!(s, " sack {}", blocks.join(" "));
    }
    if let Some(t) = f.tsecr {
        let _ = write!(s, " ecr {t}");
    }
    if f.late {
        s.push_str(" late");
    }
    s
}

fn frames_text(frames: &[Frame]) -> String {
    let all: Vec<String> = frames.iter().map(frame_text).collect();
    if all.is_empty() { "none".to_owned() } else { format!("{}: {}", all.len(), all.join("; ")) }
}

/// The whole comparison as text: where it begins to differ, why in the stack's words, and everything that differs.
#[must_use]
pub fn report(left: &Trace, right: &Trace, all: &[Difference], decisions: &[Vec<String>]) -> String {
    let mut s = String::new();
    let (l, r) = (&left.header.kernel, &right.header.kernel);
    let Some(first) = all.first() else {
        let _ = writeln!(s, "{}: equal, {} records ({l} / {r})", left.name(), left.records.len());
        return s;
    };
    let _ = writeln!(s, "{}: differs from record {} on ({l} / {r})", left.name(), first.record);
    if let Some(rec) = left.records.get(first.record as usize) {
        let _ = writeln!(s, "\nrecord {}, {} at tick {}:", rec.i, rec.op, rec.vol.anchor);
        for x in rec.tx.iter().take(20) {
            let _ = writeln!(s, "  > [{}] seq {} len {} ack {} win {}", x.flags, x.seq, x.len, x.ack, x.win);
        }
        if rec.tx.len() > 20 {
            let _ = writeln!(s, "  > … {} more", rec.tx.len() - 20);
        }
    }
    for d in all.iter().take_while(|d| d.record == first.record) {
        let _ = writeln!(s, "  {}\n    {l}: {}\n    {r}: {}", d.field, d.left, d.right);
    }
    if let Some(words) = decisions.get(first.record as usize).filter(|w| !w.is_empty()) {
        let _ = writeln!(s, "\nwhat the stack decided there:");
        for w in words {
            let _ = writeln!(s, "  {w}");
        }
    }
    let _ = writeln!(s, "\n{}", table(all, l, r));
    s
}

/// Every kind of field that differs: how often, where first, and with which values.
fn table(all: &[Difference], left: &str, right: &str) -> Table {
    let mut kinds: Vec<(String, usize, &Difference)> = Vec::new();
    for d in all {
        let kind = d.kind();
        match kinds.iter_mut().find(|k| k.0 == kind) {
            Some(k) => k.1 += 1,
            None => kinds.push((kind, 1, d)),
        }
    }
    let mut t = Table::new();
    t.load_style(presets::UTF8_FULL_CONDENSED).set_content_arrangement(ContentArrangement::Dynamic);
    t.set_header(["field", "records", "first in", left, right]);
    for (kind, n, d) in kinds {
        let cell = |s: &str| Cell::new(s.chars().take(60).collect::<String>());
        t.add_row([Cell::new(kind), Cell::new(n), Cell::new(d.record), cell(&d.left), cell(&d.right)]);
    }
    t
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = r#"{"header":{"script":{"name":"t"},"kernel":"6.18.1","tick_ms":4,"sysctl":{"net.ipv4.tcp_comp_sack_nr":"0"}}}
{"i":0,"op":{"op":"read"},"rx":[{"flags":"A","ack":5,"win":9,"late":true}],"ret":{"n":1},"inq":3,"clamp":7,"info":{"ato":40,"snd_cwnd":10,"rcv_mss":536},"mem":{"rmem_alloc":1,"optmem":0},"cnt":{"TcpInSegs":1,"TcpExtTCPDelivered":2},"vol":{"rx_ms":[8.1]}}
"#;

    fn trace(text: &str) -> Trace {
        Trace::read_all("t", text.as_bytes()).unwrap().remove(0)
    }

    /// What differs when `from` is `to` in the second trace.
    fn with(from: &str, to: &str) -> Vec<String> {
        assert!(TRACE.contains(from), "{from}");
        let all = compare(&trace(TRACE), &trace(&TRACE.replace(from, to)));
        all.into_iter().map(|d| d.field).collect()
    }

    #[test]
    fn every_field_counts() {
        for (from, to, field) in [
            ("\"ack\":5", "\"ack\":6", "rx[0].ack"),
            ("\"win\":9", "\"win\":8", "rx[0].win"),
            ("\"flags\":\"A\"", "\"flags\":\"AP\"", "rx[0].flags"),
            (",\"late\":true", ",\"at\":0", "rx[0].at"),
            ("\"ret\":{\"n\":1}", "\"ret\":{\"err\":\"EAGAIN\"}", "ret"),
            ("\"inq\":3", "\"inq\":4", "inq"),
            ("\"clamp\":7", "\"clamp\":8", "clamp"),
            ("\"rcv_mss\":536", "\"rcv_mss\":535", "info.rcv_mss"),
            ("\"rmem_alloc\":1", "\"rmem_alloc\":2", "mem.rmem_alloc"),
            ("\"TcpInSegs\":1", "\"TcpInSegs\":2", "cnt.TcpInSegs"),
            ("\"TcpInSegs\":1,", "", "cnt.TcpInSegs"),
            ("\"ato\":40,", "", "info.ato"),
            ("[8.1]", "[16.0]", "rx[0].tick"),
        ] {
            assert_eq!(with(from, to).first().map(String::as_str), Some(field), "{from} {to}");
        }
        assert_eq!(with("{\"flags\":\"A\",\"ack\":5,\"win\":9,\"late\":true}", ""), ["rx"]);
    }

    #[test]
    fn what_is_excluded_does_not_count() {
        for (from, to) in [
            ("\"snd_cwnd\":10", "\"snd_cwnd\":11"),
            ("\"optmem\":0", "\"optmem\":5"),
            ("\"TcpExtTCPDelivered\":2", "\"TcpExtTCPDelivered\":3"),
            // A timer may run one tick later.
            ("[8.1]", "[12.3]"),
            ("[8.1]", "[4.3]"),
        ] {
            assert_eq!(with(from, to), Vec::<String>::new(), "{from} {to}");
        }
        assert!(excluded("info.total_rto_time").is_some() && excluded("info.rcv_wnd").is_none());
    }

    #[test]
    fn a_trace_that_ends_early_differs() {
        let short = TRACE.lines().next().unwrap();
        let all = compare(&trace(TRACE), &trace(short));
        assert_eq!((key(&all).as_str(), all[0].left.as_str()), ("records", "1"));
    }

    #[test]
    fn kinds_have_no_numbers() {
        let d =
            Difference { record: 0, field: "rx[12].win".into(), left: String::new(), right: String::new() };
        assert_eq!(d.kind(), "rx.win");
    }
}
