//! Nothing a peer does makes the stack grow beyond its bounds, and nothing makes it slow.
//!
//! Figures go to stderr; run with `--nocapture` to see them.

mod rig;

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
    net::SocketAddr,
    time::Instant as Clock,
};

use bytes::Bytes;
use proptest::prelude::*;
use rig::{Handshake, PEER_MAC, Rig, STACK_IP, STACK_MAC, config};
use rightedge_stack::{
    Event, ListenOptions, Stack, StackConfig,
    nic::Driver,
    profile::Profile,
    time::{Duration, Instant},
    units::Seq,
    wire::{self, Link, Medium, Packet, RxMeta, TcpFlags, forge::Forge},
};

/// Counts the bytes that each thread, and with it each test, has allocated.
struct Counting;

thread_local! {
    static HEAP: Cell<usize> = const { Cell::new(0) };
}

// SAFETY: every call is handed to the system allocator as it came; only a counter is kept beside it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        HEAP.set(HEAP.get().wrapping_add(layout.size()));
        // SAFETY: the caller's promise is the one that the system allocator asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        HEAP.set(HEAP.get().wrapping_sub(layout.size()));
        // SAFETY: as above.
        unsafe { System.dealloc(ptr, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Bytes allocated since `before`, which an earlier call with zero returned.
fn heap(before: usize) -> usize {
    let now = HEAP.get().wrapping_sub(before);
    if now > usize::MAX / 2 { 0 } else { now }
}

fn listening(backlog: u32) -> (Stack, rightedge_stack::SocketId) {
    let c = StackConfig::ethernet(Profile::linux_6_18(), STACK_MAC, STACK_IP, 8);
    let mut stack = Stack::new(c).unwrap();
    let l =
        stack.listen(SocketAddr::new(STACK_IP, 80), ListenOptions { backlog, ..Default::default() }).unwrap();
    (stack, l)
}

fn from(n: u32) -> SocketAddr {
    SocketAddr::new([10, 1, (n >> 8) as u8, 1].into(), 1024 + (n % 50_000) as u16)
}

fn syn(src: SocketAddr) -> Bytes {
    Forge::new(src, SocketAddr::new(STACK_IP, 80))
        .link(Link { src: PEER_MAC, dst: STACK_MAC })
        .flags(TcpFlags::SYN)
        .seq_ack(Seq(99), Seq(0))
        .raw_options(&[2, 4, 5, 180, 1, 3, 3, 7, 4, 2, 8, 10, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0])
        .build()
}

#[test]
fn ten_thousand_idle_connections() {
    let (mut stack, l) = listening(128);
    let now = Instant::from_millis(1);
    let peer = rig::PEER_IP;
    stack.add_neighbour(peer, PEER_MAC);
    let before = heap(0);
    let clock = Clock::now();
    for n in 0..10_000u16 {
        let src = SocketAddr::new(peer, 1024 + n);
        stack.ingress(now, &syn(src), RxMeta::default());
        let answer = stack.poll_transmit().unwrap().frame;
        let Ok(Packet::Tcp(s)) = wire::parse(Medium::Ethernet, &answer, RxMeta::default()) else { panic!() };
        let ack = Forge::new(src, SocketAddr::new(STACK_IP, 80))
            .link(Link { src: PEER_MAC, dst: STACK_MAC })
            .seq_ack(Seq(100), s.seq + 1)
            .build();
        stack.ingress(now, &ack, RxMeta::default());
        assert!(stack.accept(l).is_some());
        while stack.poll_event().is_some() {}
    }
    let took = clock.elapsed();
    let each = (heap(before)) / 10_000;
    eprintln!("10 000 idle connections: {each} bytes each, opened in {took:?}");
    assert_eq!((stack.connections().count(), stack.memory().0), (10_000, 0));
    assert!(each <= 2560, "{each} bytes for an idle connection");
    assert_eq!(stack.poll_timeout(), None, "an idle connection needs no timer");
    let clock = Clock::now();
    let ids: Vec<_> = stack.connections().collect();
    for id in ids {
        stack.abort(now, id).unwrap();
    }
    while stack.poll_transmit().is_some() {}
    eprintln!("closed in {:?}", clock.elapsed());
    assert_eq!(stack.connections().count(), 0);
}

/// Nanoseconds this thread has had on a processor: a busy machine must not count.
fn cpu_ns() -> u64 {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    stat.split_whitespace().next().and_then(|n| n.parse().ok()).unwrap_or(0)
}

/// One-byte segments with one-byte holes, never the next expected byte. In a `wide` window there is more room than memory.
fn needles(profile: &str, driver: Driver, rising: bool, wide: bool, count: u32) {
    let p = Profile::parse(profile).unwrap();
    let mut c = config(p, driver);
    if wide {
        c.sysctls.tcp_rmem = [4096, 32 << 20, 32 << 20];
    }
    let mut rig = Rig::new(c, ListenOptions::default(), Handshake::default());
    rig.stack.set_tracing(false);
    let before = heap(0);
    let (mut worst_heap, mut worst_charge, mut worst_over) = (0usize, 0u32, 0i64);
    let mut fifths = Vec::new();
    let mut clock = cpu_ns();
    let mut at = 1;
    for n in 1..=count {
        let room = rig.info().rcv_win;
        let place = if rising { at } else { room.saturating_sub(2).saturating_sub(at) | 1 };
        let f = rig.forge(place, 1, TcpFlags::ACK);
        rig.push(f);
        while rig.stack.poll_transmit().is_some() {}
        while rig.stack.poll_event().is_some() {}
        at = if at + 3 >= room { 1 } else { at + 2 };
        if n % 1024 == 0 {
            rig.pass(Duration::from_millis(1));
            rig.all.clear();
        }
        let m = rig.info().mem;
        worst_over = worst_over.max(i64::from(m.rmem_alloc) - i64::from(m.rcvbuf));
        if m.rmem_alloc > worst_charge {
            worst_charge = m.rmem_alloc;
        }
        worst_heap = worst_heap.max(heap(before));
        if n % (count / 5) == 0 {
            fifths.push((cpu_ns() - clock) / u64::from(count / 5));
            clock = cpu_ns();
        }
    }
    rig.stack.audit().unwrap();
    let i = rig.info();
    eprintln!(
        "{profile} {} {}{}: charged at most {worst_charge} (sk_rcvbuf {}, most above it {worst_over}), heap at most \
         {worst_heap}, {} buffers, ns per segment by fifths {fifths:?}",
        driver.name(),
        if rising { "rising" } else { "falling" },
        if wide { ", wide window" } else { "" },
        i.mem.rcvbuf,
        i.ofo_skbs,
    );
    // One buffer on top of what the rule admits.
    assert!(worst_over <= 1280, "{worst_over} above sk_rcvbuf");
    assert!(i64::from(worst_charge) <= i64::from(rig.stack.sysctls().tcp_rmem[2]) + 1280);
    assert!(
        worst_heap <= worst_charge as usize + (1 << 20),
        "{worst_heap} bytes of heap for {worst_charge} charged"
    );
    let slowest = fifths.iter().max().copied().unwrap_or(0);
    assert!(slowest < 100_000, "{slowest} ns for a segment");
}

#[test]
fn one_byte_segments_with_holes_stay_within_the_buffer() {
    for profile in [
        "linux-6.1",
        "linux-6.12",
        "linux-6.18",
        "linux-7",
        "linux-6.1,collapse=off",
        "linux-6.18,coalesce=off",
    ] {
        for driver in [Driver::TapBuild, Driver::Tun] {
            for rising in [true, false] {
                needles(profile, driver, rising, false, 200_000);
            }
        }
    }
}

#[test]
fn one_byte_segments_with_holes_in_a_wide_window() {
    for rising in [true, false] {
        needles("linux-6.1", Driver::TapBuild, rising, true, 200_000);
    }
}

#[test]
fn one_byte_segments_beyond_memory_in_a_wide_window() {
    needles("linux-6.18", Driver::TapBuild, true, true, 50_000);
    needles("linux-6.18", Driver::TapBuild, false, true, 50_000);
}

#[test]
fn a_syn_flood_stops_at_the_backlog() {
    let (mut stack, l) = listening(100);
    let other = stack.listen(SocketAddr::new(STACK_IP, 81), ListenOptions::default()).unwrap();
    stack.add_neighbour(rig::PEER_IP, PEER_MAC);
    let before = heap(0);
    let now = Instant::from_millis(1);
    for n in 0..100_000 {
        stack.ingress(now, &syn(from(n)), RxMeta::default());
        while stack.poll_transmit().is_some() {}
    }
    let grown = heap(before);
    eprintln!("100 000 SYNs: {grown} bytes");
    assert!(grown < 200_000, "{grown} bytes");
    assert_eq!(stack.counters().by_name("TcpExtListenOverflows"), Some(100_000 - 101));
    // Another listener is not affected.
    let src = SocketAddr::new(rig::PEER_IP, 5000);
    let f = Forge::new(src, SocketAddr::new(STACK_IP, 81))
        .link(Link { src: PEER_MAC, dst: STACK_MAC })
        .flags(TcpFlags::SYN)
        .build();
    stack.ingress(now, &f, RxMeta::default());
    let mut answered = false;
    while let Some(t) = stack.poll_transmit() {
        answered |= matches!(wire::parse(Medium::Ethernet, &t.frame, RxMeta::default()),
            Ok(Packet::Tcp(s)) if s.src.port() == 81 && s.flags.contains(TcpFlags::SYN));
    }
    assert!(answered, "the other listener answers");
    // Nobody completes: all of them are given up, and nothing is left.
    let mut last = now;
    while let Some(t) = stack.poll_timeout() {
        assert!(t >= last && t < Instant::from_millis(200_000));
        last = t;
        stack.handle_timeout(t);
        while stack.poll_transmit().is_some() {}
    }
    assert_eq!(stack.counters().by_name("TcpAttemptFails"), Some(102));
    assert_eq!((stack.accept(l), stack.accept(other)), (None, None));
}

#[test]
fn packets_for_unknown_neighbours_are_bounded() {
    let (mut stack, _) = listening(4096);
    let before = heap(0);
    for n in 0..50_000 {
        // Segments without a connection: each wants a RST to somebody unknown.
        let f = Forge::new(from(n), SocketAddr::new(STACK_IP, 9))
            .link(Link { src: PEER_MAC, dst: STACK_MAC })
            .build();
        stack.ingress(Instant::from_millis(1), &f, RxMeta::default());
    }
    let grown = heap(before);
    eprintln!("50 000 RSTs to unknown neighbours: {grown} bytes");
    assert!(grown < 300_000, "{grown} bytes");
}

#[test]
fn what_nobody_takes_is_bounded() {
    let mut rig = Rig::new(
        config(Profile::linux_6_18(), Driver::TapBuild),
        ListenOptions::default(),
        Handshake::default(),
    );
    let before = heap(0);
    for n in 0..100_000u32 {
        let f = rig.forge(n, 1, TcpFlags::ACK | TcpFlags::PSH);
        rig.push(f);
        rig.stack.recv_with(rig.now, rig.id, 10, &mut |_| {}).unwrap();
        rig.now = rig.now + Duration::from_millis(1);
    }
    let grown = heap(before);
    let lost = rig.stack.decisions_lost();
    eprintln!(
        "100 000 segments, nobody takes decisions, frames or wake-ups: {grown} bytes, {lost} decisions lost"
    );
    let (mut decisions, mut frames, mut events) = (0, 0, 0);
    while rig.stack.poll_decision().is_some() {
        decisions += 1;
    }
    while rig.stack.poll_transmit().is_some() {
        frames += 1;
    }
    while rig.stack.poll_event().is_some() {
        events += 1;
    }
    assert_eq!((decisions, frames), (65_536, 4096));
    assert!(lost > 100_000 && events < 1100, "{lost} lost, {events} events");
    assert!(grown < 32 << 20, "{grown} bytes");
}

#[test]
fn wake_ups_of_sockets_that_come_and_go_are_bounded() {
    let (mut stack, l) = listening(16);
    stack.add_neighbour(rig::PEER_IP, PEER_MAC);
    let now = Instant::from_millis(1);
    let link = Link { src: PEER_MAC, dst: STACK_MAC };
    for n in 0..20_000u16 {
        let src = SocketAddr::new(rig::PEER_IP, 1024 + n);
        stack.ingress(now, &syn(src), RxMeta::default());
        let answer = stack.poll_transmit().unwrap().frame;
        let Ok(Packet::Tcp(s)) = wire::parse(Medium::Ethernet, &answer, RxMeta::default()) else { panic!() };
        let to = SocketAddr::new(STACK_IP, 80);
        let data = Forge::new(src, to).link(link).seq_ack(Seq(100), s.seq + 1).payload(&b"x"[..]);
        stack.ingress(now, &data.build(), RxMeta::default());
        let id = stack.accept(l).unwrap();
        stack.abort(now, id).unwrap();
        while stack.poll_transmit().is_some() {}
    }
    let mut events = 0;
    while let Some(e) = stack.poll_event() {
        events += 1;
        assert!(matches!(e, Event::Acceptable(_) | Event::Readable(_) | Event::Closed(..)), "{e:?}");
    }
    assert!(events < 1100, "{events}");
}

/// A segment of a hostile peer that knows the connection's numbers: any flags, any place, any window.
fn hostile() -> impl Strategy<Value = (i32, usize, u16, u16, i32, u16, Vec<u8>, u16)> {
    let near = prop_oneof![3 => Just(0i32), 3 => -20..20i32, 2 => -70_000..70_000i32, 1 => any::<i32>()];
    let len = prop_oneof![3 => 0..4usize, 2 => 0..1500usize, 1 => 0..60_000usize];
    let flags = prop_oneof![3 => Just(16u16), 2 => Just(17u16), 3 => 0..512u16];
    let ack = prop_oneof![4 => Just(0i32), 2 => -5..50i32, 1 => any::<i32>()];
    let options = prop_oneof![
        2 => Just(vec![1u8, 1, 8, 10, 0, 76, 75, 64, 0, 0, 0, 0]),
        1 => prop::collection::vec(any::<u8>(), 0..44)
    ];
    (near, len, flags, any::<u16>(), ack, any::<u16>(), options, prop_oneof![Just(0u16), any::<u16>()])
}

proptest! {
    #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases.max(300), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn hostile_segments_never_unbalance_the_books(
        which in 0..Profile::NAMES.len(), driver in 0..Driver::ALL.len(), ts in any::<bool>(),
        segments in prop::collection::vec((hostile(), 0..24u8), 1..80),
    ) {
            let p = Profile::named(Profile::NAMES[which]).unwrap();
        let c = config(p, Driver::ALL[driver].0);
        let mut rig = Rig::new(c, ListenOptions::default(), Handshake { ts, ..Handshake::default() });
        for ((near, len, flags, window, ack, urgent, options, gso_size), act) in segments {
            let Ok(i) = rig.stack.info(rig.id) else { break };
            let mut f = rig.forge(0, len, TcpFlags::from_bits_truncate(flags)).raw_options(&options);
            f.seq = Seq(i.rcv_nxt.0.wrapping_add_signed(near));
            f.ack = Seq(i.iss.0.wrapping_add(1 + i.send_q).wrapping_add_signed(ack));
            f.window = window;
            f.urgent = urgent;
            rig.push_meta(f, RxMeta { gso_size, hdr_len: urgent, csum_ok: false });
            let (now, id) = (rig.now, rig.id);
            match act {
                0 => drop(rig.read(100)),
                1 => drop(rig.read(1 << 20)),
                2 => drop(rig.stack.send(now, id, &vec![1; 3000].into())),
                3 => drop(rig.stack.shutdown(now, id)),
                4 => drop(rig.pass(Duration::from_millis(300))),
                5 => drop(rig.pass(Duration::from_secs(70))),
                6 => drop(rig.stack.hold(now, id)),
                7 | 8 => drop(rig.stack.release(now, id)),
                9 if near == 0 => drop(rig.stack.close(now, id)),
                _ => {}
            }
            rig.segments();
            rig.records.clear();
            prop_assert_eq!(rig.stack.audit(), Ok(()));
        }
    }

    #[test]
    fn garbage_never_hurts(
        ip in any::<bool>(),
        frames in prop::collection::vec((any::<bool>(), prop::collection::vec(any::<u8>(), 0..200),
            prop::collection::vec((any::<usize>(), any::<u8>()), 0..4), 0..100usize, any::<[u16; 2]>()), 1..60),
    ) {
            let driver = if ip { Driver::Tun } else { Driver::TapBuild };
        let mut rig = Rig::new(config(Profile::linux_6_18(), driver), ListenOptions::default(), Handshake::default());
        let before = heap(0);
        for (random, bytes, mutations, cut, [gso_size, hdr_len]) in frames {
            let frame: Vec<u8> = if random {
                bytes
            } else {
                let mut f = rig.forge(3, bytes.len(), TcpFlags::ACK);
                if !ip {
                    f = f.link(Link { src: PEER_MAC, dst: STACK_MAC });
                }
                let mut v = f.build().to_vec();
                for (at, b) in mutations {
                    let n = v.len();
                    v[at % n] = b;
                }
                v.truncate(v.len().saturating_sub(cut / 2));
                v
            };
            rig.stack.ingress(rig.now, &frame.into(), RxMeta { gso_size, hdr_len, csum_ok: cut % 2 == 0 });
            rig.pass(Duration::from_millis(7));
            rig.records.clear();
            prop_assert_eq!(rig.stack.audit(), Ok(()));
        }
        rig.all.clear();
        prop_assert!(heap(before) < 200_000, "{} bytes", heap(before));
    }
}
