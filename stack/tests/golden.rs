//! The golden traces: what live kernels were seen to do, number for number.
//!
//! Peer: MSS 1460, timestamps, SACK, wscale 7; segments one at a time, a tick apart; nobody reads; default sysctls. T1 and
//! the 6.18 halves were measured on 6.18.44 (HZ 250), T2 and the 6.1 halves on 6.1.176 (HZ 100).

mod rig;

use rig::{Handshake, Rig, Sent, config};
use rightedge_stack::{
    ListenOptions, SocketOption,
    decision::{AckNow, Decision},
    nic::Driver,
    profile::Profile,
    time::Duration,
    wire::TcpFlags,
};

/// One tick of the kernel the trace was taken on: 4 ms at HZ 250, 10 ms at HZ 100.
fn gap(rig: &Rig) -> Duration {
    Duration::from_nanos(rig.stack.profile().build.tick().nanos())
}

fn tun(profile: &str, options: ListenOptions) -> Rig {
    let profile = Profile::parse(profile).unwrap();
    let mut c = config(profile, Driver::Tun);
    if c.profile.name == "linux-6.1" {
        // The measured machine was small: its largest tcp_rmem gave scale 6.
        c.sysctls.tcp_rmem[2] = 3_870_000;
    }
    Rig::new(c, options, Handshake::default())
}

/// rcv_ssthresh, R, F and the window of the ACK, if one went out at once.
fn row(rig: &mut Rig, at: u32, len: usize) -> (u32, u32, u32, Option<u32>) {
    rig.pass(gap(rig));
    rig.records.clear();
    let sent = rig.data(at, len);
    let i = rig.info();
    (i.rcv_ssthresh, i.mem.rmem_alloc, i.mem.fwd_alloc, sent.last().map(|s| s.window))
}

/// Was the last ACK one that had been put off and came due?
fn delayed(rig: &Rig) -> bool {
    rig.records.iter().any(|r| matches!(r.decision, Decision::AckNow { why: AckNow::DelackTimer, .. }))
}

#[test]
fn t1_full_segments_on_6_18() {
    let mut rig = tun("linux-6.18", ListenOptions::default());
    assert_eq!((rig.syn_ack.window, rig.wscale), (65_160, 10));
    let i = rig.info();
    assert_eq!((i.rcv_ssthresh, i.rcv_mss, i.rcv_space), (64_088, 536, 14_480));
    let mut last_immediate = 0;
    for n in 1..=59u32 {
        let hits = rig.count("TcpExtTCPHPHits");
        let got = row(&mut rig, (n - 1) * 1448, 1448);
        let hit = rig.count("TcpExtTCPHPHits") > hits;
        if got.3.is_some() && !delayed(&rig) {
            last_immediate = n;
        }
        let i = rig.info();
        match n {
            1 => {
                assert_eq!(got, (68_056, 2304, 1792, Some(68_608)));
                assert_eq!((i.scaling_ratio, i.window_clamp), (160, 81_920));
            }
            2 => assert_eq!(got, (70_952, 4608, 3584, Some(71_680))),
            3 => assert_eq!((got, hit), ((73_848, 6912, 1280, Some(74_752)), true)),
            4 => assert_eq!(got, (76_160, 9216, 3072, Some(76_800))),
            5 => assert_eq!((got, hit), ((76_160, 11_520, 768, Some(75_776)), true)),
            20 => assert_eq!(got, (76_160, 46_080, 3072, Some(60_416))),
            57 => assert_eq!((got.0, got.1, got.2, i.mem.rcvbuf), (76_160, 131_328, 3840, 131_072)),
            58 => assert_eq!((got.0, got.1, got.2, hit), (76_160, 133_632, 1536, true)),
            59 => {
                assert_eq!((got.0, got.1, got.2), (76_160, 135_936, 3328));
                assert_eq!((rig.count("TcpExtPruneCalled"), i.mem.rcvbuf), (1, 133_632));
            }
            _ => assert_eq!(got.0, 76_160),
        }
        if n < 59 {
            assert_eq!(rig.count("TcpExtPruneCalled"), 0);
        }
    }
    assert_eq!(last_immediate, 20);
}

#[test]
fn t2_full_segments_on_6_1() {
    let mut rig = tun("linux-6.1", ListenOptions::default());
    assert_eq!((rig.syn_ack.window, rig.wscale), (65_160, 6));
    let windows = [64_128, 63_232, 62_080, 60_928, 59_776, 58_624, 57_472, 56_320, 55_168];
    let memory = [(2304, 1792), (4608, 3584), (6912, 1280), (9216, 3072), (11_520, 768)];
    for (n, window) in windows.iter().enumerate() {
        let got = row(&mut rig, n as u32 * 1448, 1448);
        assert_eq!((got.0, got.3), (64_088, Some(*window)), "segment {}", n + 1);
        if let Some(m) = memory.get(n) {
            assert_eq!((got.1, got.2), *m);
        }
    }
}

#[test]
fn t3_small_segments_collapse_on_both() {
    for profile in ["linux-6.18", "linux-6.1"] {
        let options = ListenOptions { rcvbuf: Some(10_000), ..ListenOptions::default() };
        let mut rig = tun(profile, options);
        let i = rig.info();
        assert_eq!(
            (rig.syn_ack.window, rig.wscale, i.mem.rcvbuf, i.rcv_ssthresh),
            (8688, 0, 20_000, 8552),
            "{profile}"
        );
        let mut charged = 0;
        for n in 1..=32u32 {
            let got = row(&mut rig, (n - 1) * 200, 200);
            let windows = [8488, 8488, 8488, 8488, 8288, 8088, 7888, 7688];
            if let Some(w) = windows.get(n as usize - 1) {
                assert_eq!(got.3, Some(*w), "{profile} segment {n}");
            }
            if n <= 31 {
                charged += if n % 2 == 1 { 1280 } else { 0 };
                assert_eq!(got.1, charged, "{profile} segment {n}");
            } else {
                assert_eq!(
                    (got.0, got.1, got.2, got.3),
                    (3296, 8704, 3584, Some(3200)),
                    "{profile} segment 32"
                );
                assert_eq!((rig.count("TcpExtPruneCalled"), rig.count("TcpExtTCPRcvCollapsed")), (1, 16));
            }
        }
        let mut ssthresh = 3296;
        for (n, window) in (33u32..).zip([3600, 4000, 4400, 4800, 5200]) {
            let got = row(&mut rig, (n - 1) * 200, 200);
            ssthresh += 400;
            assert_eq!((got.0, got.3), (ssthresh, Some(window)), "{profile} segment {n}");
        }
        assert_eq!(rig.read(10_000), rig::pattern(0, 37 * 200), "{profile}: collapse keeps the bytes");
        assert_eq!(rig.info().mem.rmem_alloc, 0);
    }
}

#[test]
fn t4_page_fragment_heads_on_tap() {
    let mut rig = Rig::new(
        config(Profile::linux_6_18(), Driver::TapBuild),
        ListenOptions::default(),
        Handshake::default(),
    );
    let mut charged = 0;
    for n in 0..20u32 {
        let got = row(&mut rig, n * 1448, 1448);
        charged += if n == 0 || n == 18 { 2176 } else { 1920 };
        assert_eq!(got.1, charged, "segment {}", n + 1);
        if let Some(s) = [68_056, 70_952, 73_848, 76_744, 79_640, 79_640].get(n as usize) {
            assert_eq!(got.0, *s, "segment {}", n + 1);
        }
    }
    // A hole of one segment, then two pairs with another hole between them.
    let base = 20 * 1448;
    let r = |rig: &Rig| rig.info().mem.rmem_alloc as i64;
    let step = |rig: &mut Rig, at: u32, len: usize| {
        let before = r(rig);
        row(rig, base + at, len);
        r(rig) - before
    };
    assert_eq!(step(&mut rig, 1448, 1448), 2176);
    assert_eq!(step(&mut rig, 2 * 1448, 1448), 1920);
    assert_eq!(step(&mut rig, 2 * 1448, 1448), 0, "a covered duplicate");
}

#[test]
fn t4_filling_a_hole_refunds_stolen_heads() {
    let mut rig = Rig::new(
        config(Profile::linux_6_18(), Driver::TapBuild),
        ListenOptions::default(),
        Handshake::default(),
    );
    row(&mut rig, 0, 1448);
    // Two segments further out, two nearer, and 100 bytes that close the gap between them: two buffers, no hole.
    let far = 4 * 1448 + 100;
    for (at, len) in [(far, 1448), (far + 1448, 1448), (2 * 1448, 1448), (3 * 1448, 1448), (4 * 1448, 100)] {
        row(&mut rig, at, len);
    }
    assert_eq!(rig.info().ofo_skbs, 2);
    let before = i64::from(rig.info().mem.rmem_alloc);
    row(&mut rig, 1448, 1448);
    let change = i64::from(rig.info().mem.rmem_alloc) - before;
    assert_eq!(change, 1920 - 256 - 256);
    assert_eq!(rig.read(1 << 16), rig::pattern(0, 6 * 1448 + 100));
}

fn window_zero(sent: &[Sent]) -> bool {
    sent.last().is_some_and(|s| s.window == 0)
}

#[test]
fn t5_shrunken_buffer_on_6_18() {
    let mut rig = tun("linux-6.18", ListenOptions::default());
    rig.stack.set_option(rig.now, rig.id, SocketOption::RcvBuf(1000)).unwrap();
    assert_eq!(rig.info().mem.rcvbuf, 2304);
    let got = row(&mut rig, 0, 1448);
    assert_eq!((got.0, got.3), (1440, Some(64_512)));
    assert_eq!(rig.count("TcpExtTCPWantZeroWindowAdv"), 1);
    assert_eq!(row(&mut rig, 1448, 1448).1, 4608);
    let hits = rig.count("TcpExtTCPHPHits");
    assert_eq!(row(&mut rig, 2 * 1448, 1448).1, 6912);
    assert_eq!(rig.count("TcpExtTCPHPHits"), hits + 1);
    let got = row(&mut rig, 3 * 1448, 1448);
    assert_eq!((got.1, got.3), (6912, Some(0)));
    for c in ["TcpExtPruneCalled", "TcpExtRcvPruned", "TcpExtTCPRcvQDrop"] {
        assert_eq!(rig.count(c), 1, "{c}");
    }
    assert_eq!(rig.count("TcpExtTCPToZeroWindowAdv"), 0);
    for n in 1..=3 {
        rig.pass(gap(&rig));
        let sent = rig.data(3 * 1448, 1448);
        assert!(window_zero(&sent), "every later data segment is answered");
        assert_eq!(rig.count("TcpExtBeyondWindow"), n);
    }
    // A pure ACK at rcv_nxt is fine, one beyond the edge is answered.
    rig.pass(Duration::from_millis(600));
    assert!(rig.inject(3 * 1448, 0, TcpFlags::ACK).is_empty());
    assert_eq!(rig.inject(3 * 1448 + 10, 0, TcpFlags::ACK).len(), 1);
    // A bare FIN is let in.
    let coalesced = rig.count("TcpExtTCPRcvCoalesce");
    let sent = rig.inject(3 * 1448, 0, TcpFlags::ACK | TcpFlags::FIN);
    assert!(window_zero(&sent));
    assert_eq!(sent.last().map(|s| s.ack), Some(3 * 1448 + 1));
    assert_eq!(
        (rig.count("TcpExtPruneCalled"), rig.count("TcpExtRcvPruned"), rig.count("TcpExtTCPRcvCoalesce")),
        (2, 2, coalesced + 1)
    );
    assert_eq!(rig.info().mem.rmem_alloc, 6912);
}

#[test]
fn t5_shrunken_buffer_on_6_1() {
    let mut rig = tun("linux-6.1", ListenOptions::default());
    rig.stack.set_option(rig.now, rig.id, SocketOption::RcvBuf(1000)).unwrap();
    for n in 0..3u32 {
        assert_eq!(row(&mut rig, n * 1448, 1448).0, 64_088);
    }
    let mut acks = 0;
    for n in 1..=4 {
        let got = row(&mut rig, 3 * 1448, 1448);
        assert_eq!(got.0, 2896);
        acks += u32::from(got.3.is_some() && !delayed(&rig));
        for c in ["TcpExtPruneCalled", "TcpExtRcvPruned", "TcpExtTCPRcvQDrop"] {
            assert_eq!(rig.count(c), n, "{c}");
        }
    }
    assert_eq!(acks, 0, "no ACK is forced");
    rig.pass(Duration::from_secs(1));
    assert_eq!(rig.all.last().map(|s| s.window), Some(60_864), "the window never closes");
    rig.inject(3 * 1448, 0, TcpFlags::ACK | TcpFlags::FIN);
    assert_eq!(rig.count("TcpExtTCPRcvQDrop"), 5, "a bare FIN is dropped too");
}
