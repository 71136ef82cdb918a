//! Whole lives of connections: opening, sending, closing, options, limits.

mod rig;

use std::net::SocketAddr;

use rig::{Handshake, PEER_IP, Rig, STACK_IP, config, pattern};
use rightedge_stack::{
    Event, ListenOptions, SocketError, SocketId, SocketOption, Stack, StackConfig, State,
    nic::Driver,
    profile::Profile,
    time::{Duration, Instant},
    units::Seq,
    wire::{self, Medium, OutOptions, Packet, RxMeta, TcpFlags, TcpSegment, Timestamps, forge::Forge},
};

const SYN: TcpFlags = TcpFlags::SYN;
const ACK: TcpFlags = TcpFlags::ACK;
const RST: TcpFlags = TcpFlags::RST;
const FIN: TcpFlags = TcpFlags::FIN;

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

fn rig() -> Rig {
    with(ListenOptions::default())
}

fn with(options: ListenOptions) -> Rig {
    Rig::new(config(Profile::linux_6_18(), Driver::Tun), options, Handshake::default())
}

fn events(stack: &mut Stack) -> Vec<Event> {
    std::iter::from_fn(|| stack.poll_event()).collect()
}

fn frames(stack: &mut Stack) -> Vec<TcpSegment> {
    std::iter::from_fn(|| stack.poll_transmit())
        .filter_map(|t| match wire::parse(Medium::Ip, &t.frame, RxMeta::default()) {
            Ok(Packet::Tcp(s)) => Some(s),
            _ => None,
        })
        .collect()
}

/// An active open towards `remote`, up to its SYN.
fn connecting(local: &str, remote: &str, options: &ListenOptions) -> (Stack, SocketId, TcpSegment, Instant) {
    let now = Instant::from_millis(1000);
    let mut stack = Stack::new(StackConfig::ip(Profile::linux_6_18(), local.parse().unwrap(), 64)).unwrap();
    let id = stack.connect(now, remote.parse().unwrap(), 0, options).unwrap();
    let syn = frames(&mut stack).pop().unwrap();
    (stack, id, syn, now)
}

fn answer(syn: &TcpSegment, flags: TcpFlags, options: &OutOptions) -> bytes::Bytes {
    Forge::new(syn.dst, syn.src)
        .flags(flags)
        .seq_ack(Seq(7000), syn.seq + 1)
        .window(1000)
        .options(options)
        .build()
}

#[test]
fn an_active_open_negotiates_and_sends_a_request() {
    let (mut stack, id, syn, now) = connecting("10.0.0.2", "10.0.0.1:80", &ListenOptions::default());
    let o = &syn.options;
    assert_eq!(
        (syn.flags, syn.window, o.mss, o.wscale, o.sack_permitted),
        (SYN, 64_240, Some(1460), Some(10), true)
    );
    assert_eq!(stack.send(now, id, &pattern(0, 10)), Err(SocketError::NotConnected));
    let tsval = o.timestamps.unwrap().tsval;
    let options = OutOptions {
        mss: Some(1400),
        wscale: Some(3),
        sack_permitted: true,
        timestamps: Some(Timestamps { tsval: 5, tsecr: tsval }),
        ..OutOptions::default()
    };
    let now = now + ms(30);
    stack.ingress(now, &answer(&syn, SYN | ACK, &options), RxMeta::default());
    let ack = frames(&mut stack);
    assert_eq!((ack.len(), ack[0].flags, ack[0].ack, ack[0].seq), (1, ACK, Seq(7001), syn.seq + 1));
    // 64 240 rounded up to 1024; the clamp keeps one segment back.
    assert_eq!(ack[0].window, 63);
    assert_eq!(events(&mut stack), [Event::Connected(id)]);
    let i = stack.info(id).unwrap();
    assert_eq!(
        (i.state, i.snd_mss, i.advmss, i.snd_wscale, i.rtt_us),
        (State::Established, 500, 1448, 3, 30_000)
    );
    assert_eq!(stack.send(now, id, &pattern(0, 3000)), Ok(3000));
    let sent: Vec<_> = frames(&mut stack).iter().map(|s| s.payload.len()).collect();
    // The peer's window is 1000; half of it is the largest segment that is worth sending.
    assert_eq!(sent, [500, 500]);
    // A larger window makes larger segments; those that are cut already stay.
    let wide = Forge::new(syn.dst, syn.src).seq_ack(Seq(7001), syn.seq + 1001).window(8000);
    let options =
        OutOptions { timestamps: Some(Timestamps { tsval: 6, tsecr: tsval }), ..OutOptions::default() };
    stack.ingress(now, &wide.options(&options).build(), RxMeta::default());
    assert_eq!(stack.info(id).unwrap().snd_mss, 1388);
}

#[test]
fn an_active_open_falls_back_when_the_peer_offers_nothing() {
    let (mut stack, id, syn, now) = connecting("10.0.0.2", "10.0.0.1:80", &ListenOptions::default());
    stack.ingress(now, &answer(&syn, SYN | ACK, &OutOptions::default()), RxMeta::default());
    let ack = frames(&mut stack).pop().unwrap();
    assert_eq!((ack.options.timestamps, ack.window > 60_000), (None, true));
    let i = stack.info(id).unwrap();
    assert_eq!(
        (i.wscale, i.sack, i.timestamps, i.rcv_wscale, i.snd_mss, i.window_clamp),
        (false, false, false, 0, 500, 64_076)
    );
}

#[test]
fn an_active_open_that_is_refused_or_not_answered() {
    let (mut stack, id, syn, now) = connecting("10.0.0.2", "10.0.0.1:80", &ListenOptions::default());
    // A RST that does not acknowledge the SYN is not for it.
    let wrong = Forge::new(syn.dst, syn.src).flags(RST | ACK).seq_ack(Seq(0), syn.seq).build();
    stack.ingress(now, &wrong, RxMeta::default());
    assert_eq!(events(&mut stack), []);
    stack.ingress(now, &answer(&syn, RST | ACK, &OutOptions::default()), RxMeta::default());
    assert_eq!(events(&mut stack), [Event::Closed(id, Some(SocketError::Refused))]);
    assert_eq!(stack.recv(now, id, &mut [0; 9]), Err(SocketError::Refused));
    stack.close(now, id).unwrap();
    assert_eq!(stack.connections().count(), 0);

    let (mut stack, id, _, start) = connecting("10.0.0.2", "10.0.0.1:80", &ListenOptions::default());
    let mut at = Vec::new();
    while let Some(t) = stack.poll_timeout() {
        stack.handle_timeout(t);
        at.extend(
            frames(&mut stack).iter().map(|s| (s.flags == SYN).then(|| t.since(start).as_millis() / 1000)),
        );
        if events(&mut stack) == [Event::Closed(id, Some(SocketError::TimedOut))] {
            // 127 s, and what the timer wheel adds.
            assert_eq!(t.since(start).as_millis(), 130_072);
        }
    }
    assert_eq!(at, [1, 3, 7, 15, 31, 64].map(Some));
    assert_eq!(stack.info(id).unwrap().state, State::Closed);
}

#[test]
fn tcp_maxseg_holds_on_both_sides_of_both_opens() {
    let options = ListenOptions { maxseg: 700, ..ListenOptions::default() };
    let (mut stack, id, syn, now) = connecting("10.0.0.2", "10.0.0.1:80", &options);
    assert_eq!(syn.options.mss, Some(700));
    let peer = OutOptions { mss: Some(1460), wscale: Some(7), ..OutOptions::default() };
    stack.ingress(now, &answer(&syn, SYN | ACK, &peer), RxMeta::default());
    stack.ingress(
        now,
        &Forge::new(syn.dst, syn.src).seq_ack(Seq(7001), syn.seq + 1).window(500).build(),
        RxMeta::default(),
    );
    assert_eq!(stack.info(id).unwrap().snd_mss, 700);
    let rig = with(options);
    assert_eq!((rig.syn_ack.options.mss, rig.info().snd_mss, rig.info().advmss), (Some(700), 688, 688));
    let mut rig = self::rig();
    let set = |rig: &mut Rig, v| rig.stack.set_option(rig.now, rig.id, SocketOption::MaxSeg(v));
    assert!(matches!(set(&mut rig, 87), Err(SocketError::Invalid { what: "TCP_MAXSEG", value: 87, .. })));
    set(&mut rig, 600).unwrap();
    assert_eq!(rig.info().snd_mss, 588);
}

#[test]
fn ipv6_passive_and_active() {
    let (mut stack, id, syn, now) = connecting("fd00::2", "[fd00::1]:80", &ListenOptions::default());
    assert_eq!((syn.options.mss, syn.window), (Some(1440), 64_800));
    let options = OutOptions { mss: Some(1440), wscale: Some(7), ..OutOptions::default() };
    stack.ingress(now, &answer(&syn, SYN | ACK, &options), RxMeta::default());
    assert_eq!(stack.info(id).unwrap().state, State::Established);

    let to: SocketAddr = "[fd00::2]:5001".parse().unwrap();
    let from: SocketAddr = "[fd00::1]:9999".parse().unwrap();
    let l = stack.listen("[::]:5001".parse().unwrap(), ListenOptions::default()).unwrap();
    let syn = Forge::new(from, to).flags(SYN).seq_ack(Seq(5), Seq(0)).options(&options);
    frames(&mut stack);
    stack.ingress(now, &syn.build(), RxMeta::default());
    let s = frames(&mut stack).pop().unwrap();
    assert_eq!((s.flags, s.ack, s.options.mss), (SYN | ACK, Seq(6), Some(1440)));
    let data = Forge::new(from, to).seq_ack(Seq(6), s.seq + 1).payload(pattern(0, 900));
    stack.ingress(now, &data.build(), RxMeta::default());
    let id = stack.accept(l).unwrap();
    let mut buf = vec![0; 2000];
    assert_eq!(stack.recv(now, id, &mut buf), Ok(900));
    assert_eq!(buf[..900], pattern(0, 900));
    // An IPv4 peer does not reach it.
    assert_eq!(
        stack.connect(now, "10.0.0.1:1".parse().unwrap(), 0, &ListenOptions::default()).err(),
        Some(SocketError::NoSuchAddress)
    );
}

#[test]
fn a_lost_request_is_sent_again_and_backs_off() {
    let mut rig = rig();
    assert_eq!(rig.stack.send(rig.now, rig.id, &pattern(0, 300)), Ok(300));
    assert_eq!(rig.sent()[0].len, 300);
    let start = rig.now;
    let mut at = Vec::new();
    for _ in 0..4 {
        let t = rig.stack.poll_timeout().unwrap();
        rig.pass(t.since(rig.now));
        at.push(t.since(start).as_millis());
    }
    // The handshake took no time, so the timeout is its floor of 200 ms and doubles; the timer wheel adds up to an eighth.
    assert_eq!(at, [208, 632, 1464, 3128]);
    assert_eq!((rig.count("TcpRetransSegs"), rig.info().total_retrans), (4, 4));
    rig.acked = 300;
    rig.data(0, 0);
    assert_eq!((rig.info().send_q, rig.info().mem.wmem_queued, rig.stack.poll_timeout()), (0, 0, None));
}

#[test]
fn three_duplicate_acks_bring_a_retransmission_and_window_updates_do_not() {
    let mut rig = rig();
    rig.stack.send(rig.now, rig.id, &pattern(0, 8 * 1448)).unwrap();
    assert_eq!(rig.sent().len(), 8);
    for window in [600, 700, 800, 900] {
        rig.window = window;
        assert!(rig.data(0, 0).is_empty());
    }
    assert!(rig.data(0, 0).is_empty() && rig.data(0, 0).is_empty());
    let again = rig.data(0, 0);
    assert_eq!((again.len(), again[0].len, rig.count("TcpExtTCPFastRetrans")), (1, 1448, 1));
}

#[test]
fn a_closed_peer_window_is_probed_ever_more_slowly() {
    let mut rig = rig();
    rig.window = 0;
    rig.data(0, 0);
    rig.stack.send(rig.now, rig.id, &pattern(0, 100)).unwrap();
    assert!(rig.sent().is_empty());
    let start = rig.now;
    let mut at = Vec::new();
    for _ in 0..6 {
        let t = rig.stack.poll_timeout().unwrap();
        let probe = rig.pass(t.since(rig.now));
        assert_eq!((probe.len(), probe[0].len), (1, 0));
        at.push(t.since(start).as_millis());
        // The peer answers that it is still closed.
        rig.data(0, 0);
    }
    assert_eq!(at, [208, 632, 1464, 3128, 6424, 13_080]);
    rig.window = 512;
    assert_eq!(rig.data(0, 0)[0].len, 100);
}

#[test]
fn a_peer_window_below_one_segment_is_used_in_the_end() {
    let mut rig = rig();
    rig.data(0, 1);
    rig.window = 1; // 128 bytes
    rig.data(1, 0);
    rig.stack.send(rig.now, rig.id, &pattern(0, 300)).unwrap();
    assert!(rig.sent().is_empty());
    let mut got = 0;
    for _ in 0..3 {
        let sent = rig.pass(Duration::from_secs(2));
        got += sent[0].len as u32;
        rig.acked = got;
        rig.data(1, 0);
    }
    assert_eq!((got, rig.info().mem.wmem_queued), (300, 0));
    rig.stack.audit().unwrap();
}

#[test]
fn nagle_holds_what_is_small_while_something_is_on_its_way() {
    let mut rig = rig();
    let write = |rig: &mut Rig, n| {
        rig.stack.send(rig.now, rig.id, &pattern(0, n)).unwrap();
        rig.sent().iter().map(|s| s.len).collect::<Vec<_>>()
    };
    assert_eq!(write(&mut rig, 10), [10]);
    assert_eq!(write(&mut rig, 20), []);
    assert_eq!(write(&mut rig, 30), []);
    rig.acked = 10;
    let sent = rig.data(0, 0);
    assert_eq!(sent.iter().map(|s| s.len).collect::<Vec<_>>(), [50]);
    rig.stack.set_option(rig.now, rig.id, SocketOption::NoDelay(true)).unwrap();
    assert_eq!(write(&mut rig, 5), [5]);
    rig.stack.audit().unwrap();
}

fn state(rig: &Rig) -> Option<State> {
    rig.stack.info(rig.id).ok().map(|i| i.state)
}

#[test]
fn the_peer_closes_first() {
    let mut rig = rig();
    rig.data(0, 100);
    rig.inject(100, 50, ACK | FIN);
    assert_eq!(state(&rig), Some(State::CloseWait));
    assert!(events(&mut rig.stack).contains(&Event::PeerClosed(rig.id)));
    assert_eq!(rig.read(1000), pattern(0, 150));
    assert_eq!(rig.stack.recv(rig.now, rig.id, &mut [0; 9]), Ok(0));
    // Sending still works.
    rig.stack.send(rig.now, rig.id, &pattern(0, 40)).unwrap();
    assert_eq!(rig.sent()[0].len, 40);
    rig.acked = 40;
    rig.data(151, 0);
    rig.stack.close(rig.now, rig.id).unwrap();
    let fin = rig.sent();
    assert_eq!((fin.len(), fin[0].flags, fin[0].ack), (1, ACK | FIN, 151));
    assert_eq!(state(&rig), Some(State::LastAck));
    rig.acked = 41;
    rig.data(151, 0);
    assert_eq!((state(&rig), rig.stack.connections().count(), rig.stack.memory().0), (None, 0, 0));
}

#[test]
fn we_close_first_and_wait() {
    let mut rig = rig();
    rig.stack.shutdown(rig.now, rig.id).unwrap();
    assert_eq!((rig.sent()[0].flags, state(&rig)), (ACK | FIN, Some(State::FinWait1)));
    assert_eq!(rig.stack.send(rig.now, rig.id, &pattern(0, 1)), Err(SocketError::BrokenPipe));
    rig.acked = 1;
    rig.data(0, 0);
    assert_eq!(state(&rig), Some(State::FinWait2));
    // Half closed: data still arrives and is acknowledged.
    rig.data(0, 1448);
    assert_eq!(rig.read(5000).len(), 1448);
    let sent = rig.inject(1448, 0, ACK | FIN);
    assert_eq!((sent.last().map(|s| s.ack), state(&rig)), (Some(1449), Some(State::TimeWait)));
    // A FIN that comes again is acknowledged again, and the wait begins anew.
    rig.pass(Duration::from_secs(30));
    assert_eq!(rig.inject(1448, 0, ACK | FIN).last().map(|s| s.ack), Some(1449));
    rig.pass(Duration::from_secs(59));
    assert_eq!(state(&rig), Some(State::TimeWait));
    rig.pass(Duration::from_secs(2));
    assert_eq!(state(&rig), Some(State::Closed));
    rig.stack.close(rig.now, rig.id).unwrap();
    assert_eq!(rig.stack.connections().count(), 0);
}

#[test]
fn both_close_at_once() {
    let mut rig = rig();
    rig.stack.close(rig.now, rig.id).unwrap();
    assert_eq!(rig.sent()[0].flags, ACK | FIN);
    // The peer's FIN does not acknowledge ours yet.
    let sent = rig.inject(0, 0, ACK | FIN);
    assert_eq!((sent.last().map(|s| s.ack), state(&rig)), (Some(1), Some(State::Closing)));
    rig.acked = 1;
    rig.data(1, 0);
    assert_eq!(state(&rig), Some(State::TimeWait));
    rig.pass(Duration::from_secs(61));
    assert_eq!((state(&rig), rig.stack.poll_timeout()), (None, None));
}

#[test]
fn an_orphan_in_fin_wait_2_is_given_up() {
    let mut rig = rig();
    rig.stack.close(rig.now, rig.id).unwrap();
    rig.sent();
    rig.acked = 1;
    rig.data(0, 0);
    assert_eq!(state(&rig), Some(State::FinWait2));
    rig.pass(Duration::from_secs(59));
    assert_eq!(state(&rig), Some(State::FinWait2));
    rig.pass(Duration::from_secs(2));
    assert_eq!(state(&rig), None);
}

#[test]
fn data_for_a_closed_socket_and_unread_data_end_in_a_reset() {
    let mut rig = self::rig();
    rig.stack.close(rig.now, rig.id).unwrap();
    rig.sent();
    rig.acked = 1;
    let sent = rig.data(0, 10);
    assert!(sent.iter().any(|s| s.flags.contains(RST)) && state(&rig).is_none());
    assert_eq!(rig.count("TcpExtTCPAbortOnData"), 1);

    let mut rig = self::rig();
    rig.data(0, 10);
    rig.sent();
    rig.stack.close(rig.now, rig.id).unwrap();
    let sent = rig.sent();
    assert_eq!((sent.len(), sent[0].flags, sent[0].ack), (1, RST | ACK, 10));
    assert_eq!(
        (rig.count("TcpExtTCPAbortOnClose"), rig.stack.connections().count(), rig.stack.memory().0),
        (1, 0, 0)
    );
}

#[test]
fn a_reader_that_holds_the_socket_may_close_it() {
    let mut rig = rig();
    rig.stack.hold(rig.now, rig.id).unwrap();
    assert!(rig.data(0, 500).is_empty(), "it waits in the backlog");
    rig.stack.close(rig.now, rig.id).unwrap();
    assert!(rig.sent().iter().any(|s| s.flags.contains(RST)), "the backlog counts as unread");
    assert_eq!(rig.stack.connections().count(), 0);
}

#[test]
fn nothing_is_taken_behind_a_fin() {
    let mut rig = rig();
    rig.inject(0, 100, ACK | FIN);
    let sent = rig.data(50, 200);
    assert!(sent.iter().any(|s| s.flags.contains(RST)));
    assert_eq!((rig.info().recv_q, rig.count("TcpExtTCPAbortOnData")), (100, 1));
    assert_eq!(rig.read(1000), pattern(0, 100));
}

#[test]
fn a_reset_must_hit_the_next_number() {
    let mut rig = rig();
    rig.data(0, 100);
    // Beyond the window: nothing. Within it: a challenge (RFC 5961 §3.2). At the next number: the end.
    assert!(rig.inject(1 << 20, 0, RST).is_empty());
    let sent = rig.inject(101, 0, RST);
    assert_eq!((sent.len(), sent[0].ack, rig.count("TcpExtTCPChallengeACK")), (1, 100, 1));
    assert!(rig.inject(102, 0, RST).is_empty(), "one challenge in half a second");
    assert_eq!((rig.count("TcpExtTCPACKSkippedChallenge"), state(&rig)), (1, Some(State::Established)));
    rig.pass(ms(600));
    events(&mut rig.stack);
    assert!(rig.inject(100, 0, RST).is_empty());
    assert_eq!(events(&mut rig.stack), [Event::Closed(rig.id, Some(SocketError::Reset))]);
    // What had arrived can still be read; then comes the error.
    assert_eq!(rig.read(1000), pattern(0, 100));
    assert_eq!(rig.stack.recv(rig.now, rig.id, &mut [0; 9]), Err(SocketError::Reset));
    assert_eq!(rig.count("TcpEstabResets"), 1);
}

#[test]
fn the_addresses_of_a_reset_connection_are_free_at_once() {
    let mut rig = rig();
    rig.inject(0, 0, RST);
    assert_eq!(state(&rig), Some(State::Closed));
    let syn = Forge::new(rig.peer, rig.local).flags(SYN).seq_ack(Seq(9), Seq(0));
    rig.push(syn);
    let sent = rig.segments();
    assert_eq!((sent.len(), sent[0].flags, sent[0].ack), (1, SYN | ACK, Seq(10)));
    rig.stack.close(rig.now, rig.id).unwrap();
    rig.stack.audit().unwrap();
}

#[test]
fn a_syn_in_an_open_connection_is_challenged() {
    let mut rig = rig();
    let sent = rig.inject(5, 0, SYN);
    assert_eq!((sent.len(), sent[0].flags, rig.count("TcpExtTCPSYNChallenge")), (1, ACK, 1));
    assert_eq!(state(&rig), Some(State::Established));
}

#[test]
fn an_old_timestamp_is_refused() {
    let mut rig = rig();
    rig.pass(ms(100));
    rig.data(0, 100);
    let mut f = rig.forge(100, 100, ACK);
    // One tick of the peer's clock is forgiven, more is not.
    f = f.options(&OutOptions {
        timestamps: Some(Timestamps { tsval: 5_001_000, tsecr: 0 }),
        ..OutOptions::default()
    });
    rig.push(f);
    assert_eq!((rig.sent().len(), rig.count("TcpExtPAWSEstab"), rig.info().recv_q), (1, 1, 100));
    rig.data(100, 100);
    assert_eq!(rig.info().recv_q, 200);
}

#[test]
fn rcvlowat_keeps_the_reader_asleep() {
    let mut rig = rig();
    rig.stack.set_option(rig.now, rig.id, SocketOption::RcvLowat(3000)).unwrap();
    events(&mut rig.stack);
    rig.data(0, 1448);
    rig.data(1448, 1448);
    assert_eq!(events(&mut rig.stack), []);
    rig.data(2896, 104);
    assert_eq!(events(&mut rig.stack), [Event::Readable(rig.id)]);
    rig.data(3000, 1448);
    assert_eq!(events(&mut rig.stack), [], "one wake-up until something is read");
    // At the end of the stream less is enough.
    rig.read(1 << 20);
    rig.inject(4448, 10, ACK | FIN);
    assert!(events(&mut rig.stack).contains(&Event::Readable(rig.id)));
}

#[test]
fn a_write_that_was_cut_short_is_told_when_there_is_room() {
    let profile = Profile::linux_6_18();
    let mut c = config(profile.clone(), Driver::Tun);
    c.sysctls.set(&profile, "net.ipv4.tcp_wmem", "4096 16384 16384").unwrap();
    let mut rig = Rig::new(c, ListenOptions::default(), Handshake::default());
    // The send buffer cannot grow beyond tcp_wmem[2]; one write has one head of 832: eleven segments of 1448 fit.
    assert_eq!(rig.stack.send(rig.now, rig.id, &pattern(0, 20_000)), Ok(11 * 1448));
    assert_eq!(rig.stack.send(rig.now, rig.id, &pattern(0, 10)), Ok(0));
    rig.sent();
    events(&mut rig.stack);
    rig.acked = 1448;
    rig.data(0, 0);
    assert_eq!(events(&mut rig.stack), [Event::Writable(rig.id)]);
    rig.acked = 2 * 1448;
    rig.data(0, 0);
    assert_eq!(events(&mut rig.stack), [], "nobody waits");
}

#[test]
fn the_window_clamp_caps_the_window_from_now_on() {
    let mut rig = rig();
    let set = |rig: &mut Rig, v| rig.stack.set_option(rig.now, rig.id, SocketOption::WindowClamp(v));
    assert!(matches!(set(&mut rig, 0), Err(SocketError::Invalid { what: "TCP_WINDOW_CLAMP", .. })));
    set(&mut rig, 500).unwrap();
    // Half of the smallest buffer is the least.
    assert_eq!((rig.info().window_clamp, rig.info().rcv_ssthresh), (1152, 1152));
    set(&mut rig, 30_000).unwrap();
    assert_eq!((rig.info().window_clamp, rig.info().rcv_ssthresh), (30_000, 30_000));
    // What was offered stays offered until it is used up; then the cap shows, rounded up to the scale.
    let mut last = 0;
    for n in 0..60 {
        rig.pass(ms(1));
        if let Some(s) = rig.data(n * 1448, 1448).last() {
            last = s.window;
        }
        rig.read(1 << 20);
        if let Some(s) = rig.sent().last() {
            last = s.window;
        }
    }
    assert!(last <= 82_944, "{last}");
}

/// Measured on 6.18: the option itself sends only what a read would have sent; it ends ping-pong mode for what follows.
#[test]
fn quickack_ends_the_waiting() {
    let mut rig = rig();
    rig.stack.set_option(rig.now, rig.id, SocketOption::QuickAck(false)).unwrap();
    assert!(rig.data(0, 1448).is_empty(), "ping-pong mode delays");
    rig.stack.set_option(rig.now, rig.id, SocketOption::QuickAck(true)).unwrap();
    assert!(rig.sent().is_empty(), "one segment is not worth an ACK by itself");
    assert_eq!(rig.data(1448, 100).first().map(|s| s.ack), Some(1548), "the next one is");
}

#[test]
fn a_syn_ack_is_repeated_five_times() {
    let now = Instant::from_millis(1000);
    let mut stack = Stack::new(config(Profile::linux_6_18(), Driver::Tun)).unwrap();
    let local = SocketAddr::new(STACK_IP, 80);
    stack.listen(local, ListenOptions::default()).unwrap();
    let syn = Forge::new(SocketAddr::new(PEER_IP, 4), local).flags(SYN).seq_ack(Seq(9), Seq(0)).build();
    stack.ingress(now, &syn, RxMeta::default());
    // The same SYN again gets the same answer.
    stack.ingress(now, &syn, RxMeta::default());
    let first = frames(&mut stack);
    assert_eq!((first.len(), first[0].seq == first[1].seq), (2, true));
    let mut at = Vec::new();
    while let Some(t) = stack.poll_timeout() {
        stack.handle_timeout(t);
        at.extend(frames(&mut stack).iter().map(|_| t.since(now).as_millis() / 1000));
    }
    assert_eq!(at, [1, 3, 7, 15, 31]);
    assert_eq!(stack.counters().by_name("TcpAttemptFails"), Some(1));
    // A SYN with FIN is nothing.
    let both = Forge::new(SocketAddr::new(PEER_IP, 4), local).flags(SYN | FIN).build();
    stack.ingress(now, &both, RxMeta::default());
    assert!(frames(&mut stack).is_empty() && stack.poll_timeout().is_none());
}

#[test]
fn the_accept_queue_overflows() {
    let mut rig = with(ListenOptions { backlog: 2, ..ListenOptions::default() });
    let mut open = |port: u16| {
        let from = SocketAddr::new(PEER_IP, port);
        rig.push(Forge::new(from, rig.local).flags(SYN).seq_ack(Seq(0), Seq(0)));
        let Some(s) = rig.segments().pop() else { return "SYN dropped" };
        let f = Forge::new(from, rig.local).seq_ack(Seq(1), s.seq + 1);
        let before = rig.stack.connections().count();
        rig.push(f);
        rig.segments();
        if rig.stack.connections().count() > before { "open" } else { "ACK dropped" }
    };
    // One more than the backlog, as in the kernel.
    assert_eq!([open(1), open(2), open(3), open(4)], ["open", "open", "open", "SYN dropped"]);
    assert_eq!((rig.count("TcpExtListenOverflows"), rig.count("TcpExtListenDrops")), (1, 1));
}

#[test]
fn a_listener_that_closes_resets_whom_nobody_accepted() {
    let now = Instant::from_millis(1000);
    let mut stack = Stack::new(config(Profile::linux_6_18(), Driver::Tun)).unwrap();
    let (local, from) = (SocketAddr::new(STACK_IP, 80), SocketAddr::new(PEER_IP, 4));
    let l = stack.listen(local, ListenOptions::default()).unwrap();
    assert_eq!(stack.listen(local, ListenOptions::default()).err(), Some(SocketError::AddressInUse));
    stack.ingress(now, &Forge::new(from, local).flags(SYN).build(), RxMeta::default());
    let s = frames(&mut stack).pop().unwrap();
    stack.ingress(now, &Forge::new(from, local).seq_ack(Seq(1), s.seq + 1).build(), RxMeta::default());
    stack.close(now, l).unwrap();
    assert!(frames(&mut stack).iter().any(|s| s.flags.contains(RST)));
    assert_eq!(stack.connections().count(), 0);
    // Nobody listens any more.
    stack.ingress(now, &Forge::new(from, local).flags(SYN).build(), RxMeta::default());
    assert!(frames(&mut stack)[0].flags.contains(RST));
}

#[test]
fn a_time_wait_gives_way_to_a_later_syn_and_keeps_what_is_unread() {
    let mut rig = rig();
    rig.data(0, 100);
    rig.stack.shutdown(rig.now, rig.id).unwrap();
    rig.sent();
    rig.acked = 1;
    rig.inject(100, 0, ACK | FIN);
    assert_eq!(state(&rig), Some(State::TimeWait));
    let syn = |rig: &Rig, seq: u32, tsval| {
        let options =
            OutOptions { timestamps: Some(Timestamps { tsval, tsecr: 0 }), ..OutOptions::default() };
        Forge::new(rig.peer, rig.local).flags(SYN).seq_ack(rig.isn + seq, Seq(0)).options(&options)
    };
    // An old timestamp: a leftover of the old connection.
    let old = syn(&rig, 5000, 4_000_000);
    rig.push(old);
    assert!(rig.segments().iter().all(|s| !s.flags.contains(SYN)));
    // An old number but a later clock is a new connection (RFC 6191 §2).
    let new = syn(&rig, 50, 6_000_000);
    rig.push(new);
    let sent = rig.segments();
    assert_eq!((sent.len(), sent[0].flags, sent[0].ack), (1, SYN | ACK, rig.isn + 51));
    assert_eq!(rig.read(1000), pattern(0, 100));
    rig.stack.close(rig.now, rig.id).unwrap();
    assert_eq!(rig.stack.connections().count(), 0);
}
