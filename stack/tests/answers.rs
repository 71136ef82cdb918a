//! What live kernels were seen to do with segments and calls that are not quite right. Each was recorded first; the
//! recordings replay in the whole-run tests, here the rules stand one by one.

mod rig;

use rig::{Handshake, Rig, config};
use rightedge_stack::{
    ListenOptions, SocketError, SocketOption, State,
    nic::Driver,
    profile::Profile,
    time::Duration,
    wire::{RxMeta, TcpFlags, forge::Checksum},
};

const ACK: TcpFlags = TcpFlags::ACK;
const ALL: &[&str] = Profile::NAMES;

fn rig(profile: &str) -> Rig {
    with(profile, ListenOptions::default())
}

fn with(profile: &str, options: ListenOptions) -> Rig {
    let shake = Handshake { ts: false, ..Handshake::default() };
    Rig::new(config(Profile::parse(profile).unwrap(), Driver::Tun), options, shake)
}

#[test]
fn the_last_ack_of_the_handshake_is_a_pure_ack() {
    for p in ALL {
        assert_eq!(rig(p).count("TcpExtTCPPureAcks"), 1, "{p}");
    }
}

#[test]
fn damaged_segments_are_counted_where_linux_finds_out() {
    // Header and payload of 76 bytes are checked on arrival, 77 by the socket.
    for (len, at_socket) in [(56, false), (57, true)] {
        let mut r = rig("linux-6.18");
        let (segs, seen) = (r.info().segs_in, r.count("TcpInSegs"));
        let f = r.forge(0, len, ACK).tcp_checksum(Checksum::Wrong);
        r.push(f);
        assert_eq!(r.count("TcpInSegs"), seen + 1);
        assert_eq!((r.count("TcpInErrs"), r.count("TcpInCsumErrors")), (1, 1));
        let i = r.info();
        let n = u32::from(at_socket);
        assert_eq!((i.segs_in - segs, i.data_segs_in, i.mem.drops, i.recv_q), (n, n, n, 0), "{len}");
    }
    let mut r = rig("linux-6.18");
    r.inject(0, 0, ACK | TcpFlags::FIN);
    let f = r.forge(1, 57, ACK).tcp_checksum(Checksum::Wrong);
    r.push(f);
    assert_eq!(
        (r.info().data_segs_in, r.info().mem.drops),
        (1, 0),
        "outside ESTAB nothing counts as dropped"
    );
}

#[test]
fn acks_of_the_future_and_of_the_far_past() {
    for (p, answered) in
        [("linux-6.1", false), ("linux-6.12", false), ("linux-6.18", true), ("linux-7", true)]
    {
        let mut r = rig(p);
        let f = r.forge(0, 0, ACK).seq_ack(r.isn, r.iss + 1001);
        r.push(f);
        assert_eq!(!r.sent().is_empty(), answered, "{p}");
        assert_eq!(r.count("TcpExtTCPChallengeACK"), u64::from(answered), "{p}");
        // Nothing was sent yet, so nothing below can have been acknowledged.
        r.pass(Duration::from_secs(1));
        let before = r.count("TcpExtTCPChallengeACK");
        let f = r.forge(0, 0, ACK).seq_ack(r.isn, r.iss);
        r.push(f);
        assert_eq!(r.count("TcpExtTCPChallengeACK"), before + 1, "{p}");
        // In the closing states both are challenged everywhere.
        r.inject(0, 0, ACK | TcpFlags::FIN);
        // Past the limit on such answers.
        r.pass(Duration::from_secs(1));
        let before = r.count("TcpExtTCPChallengeACK");
        let f = r.forge(1, 0, ACK).seq_ack(r.isn + 1, r.iss + 1001);
        r.push(f);
        assert_eq!(r.count("TcpExtTCPChallengeACK"), before + 1, "{p}");
    }
}

#[test]
fn a_predicted_segment_with_an_impossible_ack_keeps_its_data() {
    for (p, read) in [("linux-6.1", 200), ("linux-6.12", 100), ("linux-6.18", 200), ("linux-7", 100)] {
        let mut r = rig(p);
        r.window = 65_535;
        r.data(0, 100);
        let f = r.forge(100, 100, ACK).seq_ack(r.isn + 100, r.iss + 1 - 1000).window(65_535);
        r.push(f);
        assert_eq!((r.info().recv_q, r.count("TcpExtTCPChallengeACK")), (read, 1), "{p}");
    }
}

#[test]
fn reads_that_take_nothing() {
    let mut r = rig("linux-6.18");
    let mut none = [0u8; 0];
    assert_eq!(r.stack.recv(r.now, r.id, &mut none), Err(SocketError::WouldBlock));
    r.data(0, 10);
    assert_eq!(r.stack.recv(r.now, r.id, &mut none), Ok(0));
    // A look changes nothing; a peek acknowledges as a read would.
    let mut r = rig("linux-6.18");
    for i in 0..18 {
        r.data(i * 88, 88);
    }
    let mut one = [0u8; 1];
    assert_eq!(r.stack.unread(r.id, &mut one), Ok(1));
    assert!(r.sent().is_empty());
    assert_eq!(r.stack.peek(r.now, r.id, &mut one), Ok(1));
    assert_eq!(r.sent().len(), 1);
    assert_eq!(r.info().recv_q, 18 * 88);
    // The end of reading.
    r.stack.shutdown_read(r.now, r.id).unwrap();
    r.read(1 << 20);
    assert_eq!(r.stack.recv(r.now, r.id, &mut one), Ok(0));
}

#[test]
fn every_way_out_of_estab_counts_as_a_reset() {
    let mut r = rig("linux-6.18");
    r.data(0, 1);
    r.stack.close(r.now, r.id).unwrap();
    assert_eq!(r.count("TcpEstabResets"), 1);
    let mut r = rig("linux-6.18");
    r.inject(0, 0, TcpFlags::RST);
    assert_eq!((r.count("TcpEstabResets"), r.info().state), (1, State::Closed));
}

#[test]
fn a_syn_in_estab_is_an_error() {
    let mut r = rig("linux-6.18");
    r.inject(0, 0, TcpFlags::SYN | ACK);
    assert_eq!((r.count("TcpInErrs"), r.count("TcpExtTCPSYNChallenge")), (1, 1));
}

#[test]
fn maxseg_caps_an_offer_and_not_the_default() {
    let mut options = ListenOptions::default();
    options.set(SocketOption::MaxSeg(88)).unwrap();
    assert_eq!(with("linux-6.18", options).info().snd_mss, 88);
}

#[test]
fn fins_count_as_acknowledged_bytes() {
    let mut r = rig("linux-6.18");
    r.stack.shutdown(r.now, r.id).unwrap();
    r.acked = 1;
    r.inject(0, 0, ACK);
    assert_eq!((r.info().bytes_acked, r.info().state), (1, State::FinWait2));
}

#[test]
fn the_send_buffer_grows_when_the_connection_opens() {
    assert_eq!(rig("linux-6.18").info().mem.sndbuf, 46_080);
}

#[test]
fn push_is_on_the_last_piece_of_a_write_and_retransmissions_are_not_sent_segments() {
    let mut r = rig("linux-6.18");
    let sent = r.count("TcpOutSegs");
    let data = bytes::Bytes::from(vec![0u8; 2000]);
    r.stack.send(r.now, r.id, &data).unwrap();
    let flags: Vec<_> = r.sent().iter().map(|s| s.flags.contains(TcpFlags::PSH)).collect();
    assert_eq!(flags, [false, true]);
    assert_eq!(r.count("TcpOutSegs"), sent + 2);
    r.pass(Duration::from_secs(1));
    assert!(r.count("TcpRetransSegs") > 0);
    assert_eq!(r.count("TcpOutSegs"), sent + 2);
    assert_eq!(r.count("TcpExtTcpTimeoutRehash"), r.count("TcpExtTCPTimeouts"));
}

#[test]
fn the_same_old_data_twice_is_a_sign_on_6_1() {
    for (p, n) in [("linux-6.1", 1), ("linux-6.12", 0), ("linux-6.18", 0)] {
        let mut r = rig(p);
        r.data(0, 500);
        r.data(500, 500);
        r.data(0, 500);
        assert_eq!(r.count("TcpExtTcpDuplicateDataRehash"), 0, "{p}");
        r.data(0, 500);
        assert_eq!(r.count("TcpExtTcpDuplicateDataRehash"), n, "{p}");
    }
}

#[test]
fn the_first_rcv_space_may_be_nothing() {
    let profile = Profile::linux_6_1();
    let mut c = config(profile.clone(), Driver::Tun);
    c.sysctls.set(&profile, "net.ipv4.tcp_adv_win_scale", "-31").unwrap();
    let mut r = Rig::new(c, ListenOptions::default(), Handshake::default());
    assert_eq!(r.info().rcv_space, 0);
    // And nothing divides by it.
    for i in 0..50 {
        r.data(i * 100, 100);
        r.read(1 << 20);
        r.pass(Duration::from_millis(20));
    }
}

#[test]
fn a_super_segment_with_a_virtio_header_is_one_segment() {
    let mut c = config(Profile::linux_6_18(), Driver::TapVnet);
    c.mtu = 1500;
    let mut r = Rig::new(c, ListenOptions::default(), Handshake { ts: false, ..Handshake::default() });
    let meta = RxMeta { gso_size: 1460, hdr_len: 54, csum_ok: true };
    let (seen, segs) = (r.count("TcpInSegs"), r.info().segs_in);
    let f = r.forge(0, 5000, ACK);
    r.push_meta(f, meta);
    assert_eq!((r.count("TcpInSegs") - seen, r.info().segs_in - segs, r.info().rcv_mss), (1, 1, 1460));
}

#[test]
fn what_is_out_of_order_stays_charged_after_a_reset() {
    let mut r = rig("linux-6.1");
    r.data(5000, 100);
    let charged = r.info().mem.rmem_alloc;
    r.inject(0, 0, TcpFlags::RST);
    assert_eq!((r.info().state, r.info().mem.rmem_alloc, charged > 0), (State::Closed, charged, true));
    r.stack.close(r.now, r.id).unwrap();
    assert_eq!(r.stack.memory().0, 0);
}

#[test]
fn an_error_is_told_once_and_a_reset_is_no_drop() {
    let mut r = rig("linux-6.18");
    r.data(0, 100);
    r.inject(100, 0, TcpFlags::RST);
    assert_eq!(r.info().mem.drops, 0);
    r.stack.set_option(r.now, r.id, SocketOption::WindowClamp(0)).unwrap();
    assert_eq!(r.info().window_clamp, 0);
    assert_eq!(r.stack.shutdown(r.now, r.id), Err(SocketError::NotConnected));
    assert_eq!(r.read(1 << 20).len(), 100);
    let mut one = [0u8; 1];
    assert_eq!(r.stack.recv(r.now, r.id, &mut one), Err(SocketError::Reset));
    assert_eq!(r.stack.recv(r.now, r.id, &mut one), Ok(0));
    assert_eq!(r.stack.send(r.now, r.id, &bytes::Bytes::from_static(b"x")), Err(SocketError::BrokenPipe));
}

#[test]
fn what_comes_in_time_wait_is_not_this_sockets() {
    let mut r = rig("linux-6.18");
    r.stack.shutdown(r.now, r.id).unwrap();
    r.acked = 1;
    r.inject(0, 0, ACK | TcpFlags::FIN);
    let i = r.info();
    assert_eq!(i.state, State::TimeWait);
    r.sent();
    r.inject(0, 0, ACK | TcpFlags::FIN);
    assert_eq!((r.info().segs_in, r.info().segs_out), (i.segs_in, i.segs_out));
}

/// Overlapping out-of-order buffers, collapsed twice: what the first collapse had no need of stays beside its copies, and
/// the second makes one that begins where another does. Found on 6.18.44; with one key for both, bytes were lost.
#[test]
fn collapsed_buffers_may_begin_at_the_same_place() {
    let mut options = ListenOptions::default();
    options.set(SocketOption::RcvBuf(8000)).unwrap();
    let mut c = config(Profile::linux_6_18(), Driver::TapBuild);
    c.mtu = 1280;
    let mut r = Rig::new(c, options, Handshake::default());
    r.window = 65_535;
    let early =
        [(0u32.wrapping_sub(1460), 2907), (5827, 1385), (1448, 1297), (1447, 800), (7212, 200), (2745, 200)];
    let overlapping = [(7412, 1460), (8142, 1460), (8872, 1460), (9602, 1460)];
    for (at, len) in early.into_iter().chain(overlapping).chain([(2945, 1460), (4405, 1460)]) {
        r.data(at, len);
        r.stack.audit().unwrap();
        if !overlapping.contains(&(at, len)) {
            r.pass(Duration::from_millis(4));
        }
    }
    assert_eq!(r.info().recv_q, 11_062);
    let expected: Vec<u8> = rig::pattern(0, 11_062).to_vec();
    assert_eq!(r.read(1 << 20), expected);
}
