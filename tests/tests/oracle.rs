//! Scripts played to this machine's own kernel.
#![allow(clippy::unwrap_used)]

use std::sync::atomic::{AtomicBool, Ordering};

use rightedge::oracle::live::{RecordError, record_batch};
use rightedge::oracle::recorder::Options;
use rightedge::oracle::script::Script;
use rightedge::oracle::trace::{Record, Trace, Volatile};
use rightedge_tapctl::rights::{self, Need, require};

const NEEDS: [Need; 3] = [Need::TunNode, Need::Netns, Need::Tap];

fn scripts(text: &str) -> Vec<Script> {
    Script::parse_all("test", text, None).unwrap()
}

fn record(text: &str) -> Vec<Result<Trace, RecordError>> {
    let scripts = scripts(text);
    let mut out = Vec::new();
    // A busy machine makes operations slip; patience does not change what is recorded.
    let options = Options { tries: 200, ..Options::default() };
    record_batch(&scripts, &options, &mut |i, trace| {
        assert_eq!(i, out.len());
        out.push(trace);
    })
    .unwrap();
    assert_eq!(out.len(), scripts.len());
    out
}

/// A record without what hangs on the clock: the peer's clock goes on, and whether a delayed ACK was a tick late decides
/// when the next operation begins and so the estimate of the time between arrivals.
fn compared(r: &Record) -> Record {
    let mut r = r.clone();
    r.vol = Volatile::default();
    r.tx.iter_mut().for_each(|s| (s.tsval, s.tsecr) = (None, None));
    r.rx.iter_mut().for_each(|f| f.tsecr = None);
    r.info.remove("ato");
    r
}

#[test]
fn a_recording_looks_as_measured() {
    if !require("oracle_first", &NEEDS) {
        return;
    }
    let text = r#"{"name": "first", "listener": [["SO_RCVBUF", 32768]], "handshake": {"ts": true},
        "sysctl": {"tcp_no_such_thing": 1},
        "ops": [{"op": "inject", "len": 1448}, {"op": "inject", "len": 10, "seq": 1458},
                {"op": "inject", "len": 10, "settle": "none"}, {"op": "read", "n": "all"},
                {"op": "inject", "len": 4, "seq": 0, "alt": true, "aside": true}, {"op": "read", "n": 5},
                {"op": "close"}]}"#;
    let t = record(text).remove(0).unwrap();
    assert_eq!((t.name(), t.records.len(), t.footer.as_ref().unwrap().slips), ("first", 8, 0));
    assert_eq!(t.header.missing_sysctl.iter().filter(|n| *n == "net.ipv4.tcp_no_such_thing").count(), 1);
    assert_eq!(t.header.sysctl["net.ipv4.tcp_congestion_control"], "reno");

    let open = &t.records[0];
    assert_eq!((open.op_name(), open.tx.len(), open.rx.len()), ("open", 2, 1));
    assert_eq!((open.tx[0].flags.to_string().as_str(), open.tx[0].seq), ("S", -1));
    let syn_ack = &open.rx[0];
    assert_eq!((syn_ack.flags.to_string().as_str(), syn_ack.seq, syn_ack.ack), ("SA", -1, 0));
    assert_eq!(
        (syn_ack.at, syn_ack.mss, syn_ack.wscale, syn_ack.sackok),
        (Some(0), Some(1460), Some(0), true)
    );
    assert_eq!((open.clamp, open.mem["rcvbuf"], open.info["rcv_ssthresh"]), (Some(31_320), 65_536, 31_320));

    // The first full segment is acknowledged at once.
    let first = &t.records[1];
    assert_eq!(first.rx.len(), 1);
    assert_eq!((first.rx[0].ack, first.rx[0].at, first.rx[0].late), (1448, Some(0), false));
    assert_eq!(first.rx[0].tsecr, first.tx[0].tsval);
    assert_eq!(first.rx[0].edge, first.rx[0].ack + i64::from(first.rx[0].win));
    assert_eq!((first.inq, first.info["bytes_received"], first.info["rcv_mss"]), (Some(1448), 1448, 1448));
    assert_eq!((first.mem["rmem_alloc"], first.cnt["TcpInSegs"]), (2304, 1));
    if t.header.kernel.starts_with("6.18.") {
        assert_eq!(
            (first.clamp, first.rx[0].win, first.info["rcv_ssthresh"]),
            (Some(40_960), 34_752, 34_752)
        );
    }
    // A gap is reported by SACK.
    assert_eq!(t.records[2].rx[0].sack, [[1458, 1468]]);
    assert_eq!((t.records[3].tx[0].seq, t.records[3].tx[0].len), (1468, 10));
    let read = t.records[4].ret.as_ref().unwrap();
    assert_eq!((read.n, read.alt.len(), read.corrupt.len()), (Some(1448), 0, 0));
    assert_eq!(t.records[6].ret.as_ref().unwrap().err.as_deref(), Some("EAGAIN"));
    assert!(t.records[7].info.is_empty() && t.records[7].ret.as_ref().unwrap().n == Some(0));
    // Whole ticks lie between the operations.
    for pair in t.records.windows(2) {
        assert_eq!(pair[1].vol.anchor, pair[0].vol.tick + 1);
    }
    // As text and back.
    let mut text = Vec::new();
    t.write(&mut text).unwrap();
    assert_eq!(Trace::read_all("t", &text[..]).unwrap(), [t]);
}

#[test]
fn two_recordings_of_a_script_are_alike() {
    if !require("oracle_repeats", &NEEDS) {
        return;
    }
    let one = r#"{"name": "x", "rx_path": "PATH", "handshake": {"ts": true, "wscale": 2},
        "sysctl": {"tcp_rmem": "4096 20000 60000"}, "route": {"window": 30000},
        "ops": [{"op": "fill", "len": 700, "partial": true}, {"op": "probe", "kind": "keepalive"},
                {"op": "probe", "kind": "byte"}, {"op": "reads", "n": 3000, "count": 4}, {"op": "sleep", "ms": 50},
                {"op": "burst", "seq": "next+1000", "len": 500, "count": 3}, {"op": "inject", "len": 1000, "seq": "ack"},
                {"op": "write", "n": 10}, {"op": "ackall"}, {"op": "inject", "flags": "FA"},
                {"op": "read", "n": "all"}, {"op": "shutdown"}]}"#;
    for path in ["linear", "frag", "vnet", "napi", "tun"] {
        let one = one.replace("PATH", path);
        let mut both = record(&format!("{one}\n{one}"));
        let (b, a) = (both.pop().unwrap().unwrap(), both.pop().unwrap().unwrap());
        assert_eq!(a.header, b.header, "{path}");
        for (a, b) in a.records.iter().zip(&b.records) {
            assert_eq!(compared(a), compared(b), "{path}");
        }
    }
}

#[test]
fn what_a_kernel_does_not_take_is_named_and_the_others_go_on() {
    if !require("oracle_refused", &NEEDS) {
        return;
    }
    let text = r#"{"name": "a", "listener": [["TCP_MAXSEG", 7]]}
        {"name": "b", "rx_path": "linear", "mtu": 65535}
        {"name": "c", "listener": [["SO_RCVBUF", 4096]], "ops": [{"op": "inject", "flags": "R"}, {"op": "read", "n": 1}]}"#;
    let out = record(text);
    let say = |i: usize| out[i].as_ref().unwrap_err().to_string();
    assert!(say(0).contains("script a") && say(0).contains("TCP_MAXSEG = 7"), "{}", say(0));
    assert!(say(1).contains("script b") && say(1).contains("mtu 65535"), "{}", say(1));
    assert!(!rights::is_missing_right(out[1].as_ref().unwrap_err()));
    let t = out[2].as_ref().unwrap();
    assert_eq!(t.records[2].ret.as_ref().unwrap().err.as_deref(), Some("ECONNRESET"));
}

#[test]
fn a_set_stop_ends_it() {
    if !require("oracle_stop", &NEEDS) {
        return;
    }
    let options = Options { stop: std::sync::Arc::new(AtomicBool::new(false)), ..Options::default() };
    let scripts = scripts("{\"ops\":[{\"op\":\"inject\",\"len\":9}]}\n{\"ops\":[]}");
    let mut seen = 0;
    record_batch(&scripts, &options, &mut |_, _| {
        seen += 1;
        options.stop.store(true, Ordering::Relaxed);
    })
    .unwrap();
    assert_eq!(seen, 1);
}
