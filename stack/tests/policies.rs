//! What each policy and setting changes, in numbers worked out by hand.

mod rig;

use rig::{Handshake, Rig, config, pattern};
use rightedge_stack::{
    ListenOptions, SocketOption, decision::Decision, nic::Driver, profile::Profile, time::Duration,
    wire::TcpFlags,
};

fn tun(policy: &str) -> Rig {
    Rig::new(
        config(Profile::parse(policy).unwrap(), Driver::Tun),
        ListenOptions::default(),
        Handshake::default(),
    )
}

/// SO_RCVBUF 10 000 on the listener: sk_rcvbuf 20 000 and no window scale.
fn locked(policy: &str) -> Rig {
    let options = ListenOptions { rcvbuf: Some(10_000), ..ListenOptions::default() };
    Rig::new(config(Profile::parse(policy).unwrap(), Driver::Tun), options, Handshake::default())
}

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

#[test]
fn adv_win_scale_sets_the_first_window_of_6_1_and_not_of_later_ones() {
    let first = |name: &str, a: i8| {
        let mut c = config(Profile::parse(name).unwrap(), Driver::Tun);
        c.sysctls.tcp_adv_win_scale = a;
        Rig::new(c, ListenOptions::default(), Handshake::default()).syn_ack.window
    };
    // 131 072 bytes, scaled, whole segments of 1448, at most 65 535.
    let table = [
        (-31, 0),
        (-18, 0),
        (-17, 1),
        (-10, 128),
        (-8, 512),
        (-7, 1024),
        (-6, 1448),
        (-5, 2896),
        (-4, 7240),
        (-3, 15_928),
        (-2, 31_856),
        (-1, 65_160),
        (0, 65_535),
        (1, 65_160),
        (2, 65_535),
        (3, 65_535),
        (31, 65_535),
    ];
    for (a, window) in table {
        for name in Profile::NAMES {
            let want = if *name == "linux-6.1" { window } else { 65_160 };
            assert_eq!(first(name, a), want, "{name}, tcp_adv_win_scale {a}");
        }
    }
}

#[test]
fn initrwnd_lowers_the_first_window_and_the_patch_lifts_rcv_ssthresh() {
    let open = |policy: &str, segments: u32, rmem1: i32| {
        let mut c = config(Profile::parse(policy).unwrap(), Driver::Tun);
        c.route.initrwnd = segments;
        c.sysctls.tcp_rmem[1] = rmem1;
        Rig::new(c, ListenOptions::default(), Handshake::default())
    };
    for (segments, window) in [(1, 1448), (10, 14_480), (45, 65_160), (1000, 65_160)] {
        assert_eq!(open("linux-6.18", segments, 131_072).syn_ack.window, window);
    }
    let grown = |policy: &str| {
        let mut rig = open(policy, 100, 1 << 20);
        let before = rig.info().rcv_ssthresh;
        let ack = rig.data(0, 1448).pop().map(|s| s.window);
        (rig.syn_ack.window, before, ack)
    };
    // The first full segment adds 2 · 1448; the window is rounded up to 128.
    assert_eq!(grown("linux-6.1"), (65_535, 65_535, Some(68_480)));
    assert_eq!(grown("linux-6.1,initrwnd_ssthresh=on"), (65_535, 144_800, Some(147_712)));
}

#[test]
fn collapse_is_on_off_or_below_a_threshold() {
    // Sixteen buffers of 1280 are charged when segment 32 comes: 20 480 bytes against 20 000.
    let fill = |policy: &str, max_bytes: &str| {
        let mut rig = locked(policy);
        rig.stack.set_sysctl(rig.now, "tcp_collapse_max_bytes", max_bytes).unwrap();
        for n in 0..32 {
            rig.pass(ms(4));
            rig.data(n * 200, 200);
        }
        let read = rig.read(10_000);
        assert_eq!(read, pattern(0, read.len()));
        let c = |name| rig.count(name);
        let prunes = (
            c("TcpExtPruneCalled"),
            c("TcpExtTCPRcvCollapsed"),
            c("TcpExtRcvPruned"),
            c("TcpExtTCPRcvQDrop"),
        );
        (prunes, read.len())
    };
    let collapsed = ((1, 16, 0, 0), 6400);
    let refused = ((1, 0, 1, 1), 6200);
    // The builds of the other two would have small heads of 704 bytes.
    for name in ["linux-6.1", "linux-6.12,max_header=32", "linux-6.18", "linux-7,max_header=32"] {
        assert_eq!(fill(name, "0"), collapsed, "{name}");
        assert_eq!(fill(&format!("{name},collapse=off"), "0"), refused, "{name} off");
        assert_eq!(
            fill(&format!("{name},collapse=20480"), "0"),
            collapsed,
            "{name}: the threshold itself is within"
        );
        assert_eq!(fill(&format!("{name},collapse=20479"), "0"), refused, "{name}");
        assert_eq!(fill(name, "20480"), collapsed, "{name} by sysctl");
        assert_eq!(fill(name, "20479"), refused, "{name} by sysctl");
    }
}

/// Right edges of the ACKs for `n` segments of `len` bytes that nobody reads.
fn edges(rig: &mut Rig, n: u32, len: u32) -> Vec<u32> {
    let mut edges = Vec::new();
    for i in 0..n {
        let mut sent = rig.data(i * len, len as usize);
        sent.extend(rig.pass(ms(300)));
        edges.extend(sent.iter().map(|s| s.ack + s.window));
    }
    edges
}

#[test]
fn without_scaling_only_the_first_form_shrinks() {
    for name in Profile::NAMES {
        let run = |shrink: &str| edges(&mut locked(&format!("{name},shrink={shrink}")), 28, 200);
        let never = run("never");
        assert!(never.windows(2).all(|w| w[0] <= w[1]), "{never:?}");
        assert_eq!(run("merged"), never);
        let first = run("first");
        assert!(first.windows(2).any(|w| w[0] > w[1]), "{first:?}");
        // Sysctl and switch are one.
        let mut rig = locked(name);
        rig.stack.set_sysctl(rig.now, "net.ipv4.tcp_shrink_window", "1").unwrap();
        assert_eq!(edges(&mut rig, 28, 200), never);
    }
}

#[test]
fn with_scaling_both_forms_shrink_alike() {
    let run = |shrink: &str| {
        let mut rig = tun(&format!("linux-6.18,shrink={shrink}"));
        let mut window = 0;
        for n in 0..20 {
            rig.pass(ms(4));
            if let Some(s) = rig.data(n * 1448, 1448).last() {
                window = s.window;
            }
        }
        (rig.info().mem.rmem_alloc, window)
    };
    // 131 072 − 46 080 bytes are free, 160/256 of them 53 120; rounded down to 1024, or the old edge rounded up.
    assert_eq!(run("never"), (46_080, 60_416));
    assert_eq!((run("first"), run("merged")), ((46_080, 52_224), (46_080, 52_224)));
}

#[test]
fn a_sender_that_obeys_a_shrinking_window_is_never_dropped() {
    let run = |shrink: &str| {
        let mut rig = tun(&format!("linux-6.18,shrink={shrink}"));
        let (mut edge, mut at) = (65_160, 0);
        // Half-size segments: 2304 bytes each for 800.
        for _ in 0..400 {
            let mut sent = Vec::new();
            if at + 800 <= edge {
                sent = rig.data(at, 800);
                at += 800;
            }
            sent.extend(rig.pass(ms(50)));
            if let Some(s) = sent.last() {
                edge = s.ack + s.window;
            }
        }
        (
            rig.count("TcpExtPruneCalled") > 0,
            rig.count("TcpExtTCPRcvQDrop"),
            rig.info().mem.rcvbuf > 131_072,
            edge == at,
        )
    };
    assert_eq!(run("merged"), (false, 0, false, true));
    assert!(run("never").0, "the promise is kept at the price of memory");
}

#[test]
fn the_quickack_route_acknowledges_everything_at_once() {
    let acks = |quickack| {
        let mut c = config(Profile::linux_6_18(), Driver::Tun);
        c.route.quickack = quickack;
        let mut rig = Rig::new(c, ListenOptions::default(), Handshake::default());
        rig.stack.set_option(rig.now, rig.id, SocketOption::QuickAck(false)).unwrap();
        (0..100).map(|n| rig.data(n * 100, 100).len()).sum::<usize>()
    };
    assert_eq!(acks(true), 100);
    assert!(acks(false) < 40, "{}", acks(false));
}

#[test]
fn delayed_acks_wait_for_the_tick_of_the_build() {
    // 40 ms in ticks, and the timer fires at the start of the tick behind.
    for (hz, wait) in [(100, 50), (250, 44), (1000, 41)] {
        for name in Profile::NAMES {
            let mut rig = tun(&format!("{name},hz={hz}"));
            rig.stack.set_option(rig.now, rig.id, SocketOption::QuickAck(false)).unwrap();
            assert!(rig.data(0, 100).is_empty());
            let due = rig.stack.poll_timeout().unwrap();
            assert_eq!(due.since(rig.now).as_millis(), wait, "{name} HZ {hz}");
            assert_eq!((rig.pass(ms(wait)).len(), rig.count("TcpExtDelayedACKs")), (1, 1));
        }
    }
}

/// Duplicate ACKs at once, held back, and the time they are held, µs.
fn compressed(rtt: u64, segments: u32) -> (usize, u64, Option<u64>) {
    let shake = Handshake { delay: ms(rtt), ..Handshake::default() };
    let mut rig = Rig::new(config(Profile::linux_6_18(), Driver::Tun), ListenOptions::default(), shake);
    rig.data(0, 1448);
    rig.pass(Duration::from_secs(1));
    rig.stack.set_option(rig.now, rig.id, SocketOption::QuickAck(false)).unwrap();
    rig.records.clear();
    let mut sent = 0;
    for n in 2..2 + segments {
        sent += rig.data(n * 1448, 1448).len();
    }
    let held = rig.records.iter().find_map(|r| match r.decision {
        Decision::AckCompressed { until, .. } => Some(until.since(r.at).as_micros()),
        _ => None,
    });
    rig.pass(ms(5));
    (sent, rig.count("TcpExtTCPAckCompressed"), held)
}

#[test]
fn sacks_are_compressed_after_three() {
    assert_eq!(compressed(100, 3), (3, 0, None));
    // 5 % of 100 ms is more than a millisecond, which is the most; of 10 ms it is less.
    assert_eq!(compressed(100, 13), (3, 9, Some(1000)));
    assert_eq!(compressed(10, 13), (3, 9, Some(500)));
    // 44 are held; the next goes out for all of them.
    assert_eq!(compressed(100, 48), (4, 44, Some(1000)));
}

#[test]
fn a_read_announces_the_window_when_it_at_least_doubles() {
    let run = |segments: u32| {
        let mut rig = tun("linux-6.18");
        for n in 0..segments {
            rig.pass(ms(4));
            rig.data(n * 1448, 1448);
        }
        // Whatever is owed goes out first.
        rig.pass(ms(500));
        assert_eq!(rig.read(1 << 20).len(), segments as usize * 1448);
        rig.sent().iter().map(|s| s.window).collect::<Vec<_>>()
    };
    // window_clamp is 81 920: more than half of it is open after ten segments, less after forty.
    assert_eq!(run(10), []);
    // rcv_ssthresh 76 160, rounded up to 1024.
    assert_eq!(run(40), [76_800]);
}

#[test]
fn no_memory_closes_the_window_of_6_18_and_not_of_6_1() {
    let run = |name: &str| {
        let mut rig = tun(name);
        rig.stack.set_option(rig.now, rig.id, SocketOption::RcvBuf(1000)).unwrap();
        let mut last = None;
        for n in 0..4 {
            rig.pass(ms(10));
            last = rig.inject(n * 1448, 1448, TcpFlags::ACK).pop();
        }
        let zero = last.map(|s| (s.ack, s.window));
        (zero, rig.count("TcpExtTCPRcvQDrop"), rig.count("TcpExtTCPToZeroWindowAdv"))
    };
    assert_eq!(run("linux-6.18"), (Some((3 * 1448, 0)), 1, 0));
    // Here the segment is lost silently; the peer's timer will find out.
    assert_eq!(run("linux-6.1").1, 1);
    assert!(run("linux-6.1").0.is_none_or(|(_, window)| window > 0));
}
