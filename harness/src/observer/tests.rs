use std::net::{Ipv4Addr, Ipv6Addr};

use pnet::packet::{
    MutablePacket as _,
    ethernet::{EtherTypes, MutableEthernetPacket},
    ip::IpNextHeaderProtocols,
    ipv4::MutableIpv4Packet,
    ipv6::MutableIpv6Packet,
    tcp::{MutableTcpPacket, TcpOption},
};

use super::*;

const ISN: u32 = u32::MAX - 5_000;
const PSH: u8 = segment::PSH;

#[derive(Clone, Copy)]
pub(crate) struct Tcp<'a> {
    pub(crate) from_stack: bool,
    pub(crate) seq: u32,
    pub(crate) ack: u32,
    pub(crate) flags: u8,
    pub(crate) window: u16,
    pub(crate) options: &'a [TcpOption],
    pub(crate) payload: usize,
    pub(crate) v6: bool,
}

pub(crate) fn build(t: Tcp<'_>) -> Vec<u8> {
    let options: usize = t.options.iter().map(pnet::packet::tcp::TcpOptionPacket::packet_size).sum();
    let header = 20 + options.div_ceil(4) * 4;
    let ip = if t.v6 { 40 } else { 20 };
    let mut frame = vec![0; 14 + ip + header + t.payload];
    let mut eth = MutableEthernetPacket::new(&mut frame).unwrap();
    eth.set_ethertype(if t.v6 { EtherTypes::Ipv6 } else { EtherTypes::Ipv4 });
    let fill = |bytes: &mut [u8]| {
        let mut tcp = MutableTcpPacket::new(bytes).unwrap();
        let (source, destination) = if t.from_stack { (80, 4000) } else { (4000, 80) };
        tcp.set_source(source);
        tcp.set_destination(destination);
        tcp.set_sequence(t.seq);
        tcp.set_acknowledgement(t.ack);
        tcp.set_data_offset((header / 4) as u8);
        tcp.set_flags(t.flags);
        tcp.set_window(t.window);
        tcp.set_options(t.options);
    };
    let (a, b) = if t.from_stack { (1, 2) } else { (2, 1) };
    if t.v6 {
        let mut ip = MutableIpv6Packet::new(eth.payload_mut()).unwrap();
        ip.set_version(6);
        ip.set_payload_length(u16::try_from(header + t.payload).unwrap_or(0));
        ip.set_next_header(IpNextHeaderProtocols::Tcp);
        ip.set_source(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, a));
        ip.set_destination(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, b));
        fill(ip.payload_mut());
    } else {
        let mut ip = MutableIpv4Packet::new(eth.payload_mut()).unwrap();
        ip.set_version(4);
        ip.set_header_length(5);
        ip.set_total_length(u16::try_from(20 + header + t.payload).unwrap_or(0));
        ip.set_next_level_protocol(IpNextHeaderProtocols::Tcp);
        ip.set_source(Ipv4Addr::new(10, 0, 0, a as u8));
        ip.set_destination(Ipv4Addr::new(10, 0, 0, b as u8));
        fill(ip.payload_mut());
    }
    frame
}

/// Plays a connection into an observer, with positions counted from the first payload byte.
struct Play {
    observer: Observer,
    packet: u64,
    v6: bool,
}

impl Play {
    fn start(wscale: u8) -> Self {
        let mut play = Play { observer: Observer::new(), packet: 0, v6: false };
        play.shake(ISN, wscale);
        play
    }

    fn shake(&mut self, isn: u32, wscale: u8) {
        let options = [TcpOption::mss(1460), TcpOption::nop(), TcpOption::wscale(wscale)];
        let base = Tcp {
            from_stack: false,
            seq: isn,
            ack: 0,
            flags: SYN,
            window: 64240,
            options: &options,
            payload: 0,
            v6: self.v6,
        };
        self.put(base);
        self.put(Tcp {
            from_stack: true,
            seq: 7,
            ack: isn.wrapping_add(1),
            flags: SYN | ACK,
            window: 65160,
            ..base
        });
    }

    fn put(&mut self, t: Tcp<'_>) {
        self.packet += 1;
        let direction = if t.from_stack { Direction::Out } else { Direction::In };
        self.observer.frame(self.packet, self.packet * 1000, direction, &build(t));
    }

    fn data(&mut self, at: i64, payload: usize) {
        let seq = ISN.wrapping_add(1).wrapping_add(at as u32);
        self.put(Tcp {
            from_stack: false,
            seq,
            ack: 8,
            flags: ACK | PSH,
            window: 500,
            options: &[],
            payload,
            v6: self.v6,
        });
    }

    fn ack(&mut self, at: i64, field: u16) {
        let ack = ISN.wrapping_add(1).wrapping_add(at as u32);
        self.put(Tcp {
            from_stack: true,
            seq: 8,
            ack,
            flags: ACK,
            window: field,
            options: &[],
            payload: 0,
            v6: self.v6,
        });
    }

    fn only(&self) -> ConnectionVerdict {
        let v = self.observer.verdict();
        assert_eq!(v.connections.len(), 1);
        v.connections[0].clone()
    }

    fn rules(&self, expected: Expectation) -> Vec<&'static str> {
        self.observer.check(expected).iter().map(|f| f.rule).collect()
    }
}

#[test]
fn a_well_behaved_connection_has_no_findings_across_the_wrap() {
    for v6 in [false, true] {
        let mut p = Play { observer: Observer::new(), packet: 0, v6 };
        p.shake(ISN, 7);
        let mut at = 0;
        for n in 0..40 {
            let len = if n % 5 == 0 { 65_000 } else { 1448 };
            p.data(at, len);
            at += len as i64;
            p.ack(at, 800);
        }
        let c = p.only();
        assert!(c.handshake);
        assert_eq!((c.wscale, c.peer_wscale), (Some(7), Some(7)));
        assert_eq!((c.bytes_sent, c.retransmitted_bytes, c.highest_seq), (at as u64, 0, at));
        assert_eq!(c.furthest_edge, Some(at + (800 << 7)));
        assert_eq!(p.rules(Expectation::default()), [""; 0]);
        assert!(p.observer.verdict().no_left_move);
    }
}

#[test]
fn a_move_to_the_left_is_found_with_its_size() {
    let mut p = Play::start(7);
    p.ack(0, 1000);
    p.data(0, 1448);
    p.data(1448, 1448);
    p.ack(1448, 5);
    p.ack(1448, 0);
    p.ack(1448, 1000);
    let c = p.only();
    assert_eq!(c.left_moves_total, 2);
    let m = c.left_moves[0];
    assert_eq!((m.packet, m.by, m.edge), (6, 128_000 - 1448 - 640, 1448 + 640));
    assert_eq!((m.zero_window, m.sent_beyond, m.below_unit), (false, 2896 - 2088, false));
    let m = c.left_moves[1];
    assert_eq!((m.by, m.zero_window, m.behind_furthest), (640, true, 128_000 - 1448));
    assert_eq!((c.zero_windows, c.window_updates), (1, 2));
    assert_eq!(p.rules(Expectation::default()), ["edge-moved-left"]);
    assert_eq!(p.rules(Expectation { nomem_zero_allowed: true, ..Default::default() }), ["edge-moved-left"]);
    assert!(p.rules(Expectation { shrink_allowed: true, ..Default::default() }).is_empty());
}

#[test]
fn rounding_counts_and_says_so() {
    let mut p = Play::start(13);
    p.ack(0, 100);
    p.data(0, 100);
    p.ack(100, 99);
    let m = p.only().left_moves[0];
    assert_eq!((m.by, m.below_unit), (8192 - 100, true));
    let found = p.observer.check(Expectation::default());
    assert!(found[0].words.contains("less than one unit"), "{}", found[0].words);
}

#[test]
fn a_zero_window_for_want_of_memory_can_be_allowed() {
    let mut p = Play::start(7);
    p.ack(0, 1000);
    p.ack(0, 0);
    assert_eq!(p.rules(Expectation::default()), ["edge-moved-left"]);
    assert!(p.rules(Expectation { nomem_zero_allowed: true, ..Default::default() }).is_empty());
}

#[test]
fn data_beyond_every_window_is_the_senders_fault_but_a_probe_is_not() {
    let mut p = Play::start(0);
    p.ack(0, 1000);
    p.data(0, 1000);
    p.ack(1000, 0);
    p.data(1000, 1);
    p.data(999, 0);
    let c = p.only();
    assert_eq!((c.probes, c.beyond_total), (2, 0));
    // 65160 was offered in the SYN-ACK and stays the furthest edge.
    assert_eq!(c.furthest_edge, Some(65160));
    p.data(1000, 65_000);
    let c = p.only();
    assert_eq!((c.beyond_total, c.beyond[0].by), (1, 66_000 - 65_160));
    assert!(
        p.rules(Expectation { shrink_allowed: true, ..Default::default() }).contains(&"sent-beyond-window")
    );
}

#[test]
fn retransmissions_are_counted_by_bytes_in_any_order() {
    let mut p = Play::start(7);
    p.ack(0, 1000);
    for (at, len) in [(0, 100), (200, 100), (400, 100), (150, 300), (0, 600), (700, 50), (600, 200)] {
        p.data(at, len);
    }
    let c = p.only();
    assert_eq!(c.bytes_sent, 800);
    assert_eq!(c.retransmitted_bytes, (100 + 100 + 100 + 300 + 600 + 50 + 200) - 800);
}

#[test]
fn acknowledging_the_future_and_going_back_are_found() {
    let mut p = Play::start(7);
    p.ack(0, 100);
    p.data(0, 100);
    p.ack(101, 100);
    p.ack(50, 200);
    let rules = p.rules(Expectation { shrink_allowed: true, ..Default::default() });
    assert_eq!(rules, ["acked-unsent", "ack-went-back"]);
    assert_eq!((p.only().acked_unsent, p.only().ack_went_back), (Some(5), Some(6)));
}

#[test]
fn without_the_handshake_nothing_is_claimed() {
    let mut p = Play { observer: Observer::new(), packet: 0, v6: false };
    p.data(0, 1448);
    p.ack(1448, 10);
    p.ack(1448, 0);
    let c = p.only();
    assert_eq!((c.wscale, c.left_moves_total, c.bytes_sent), (None, 0, 1448));
    assert_eq!(p.rules(Expectation::default()), ["handshake-unseen"]);
}

#[test]
fn the_same_ports_can_serve_twice_but_a_stray_syn_changes_nothing() {
    let mut p = Play::start(7);
    p.ack(0, 1000);
    p.data(0, 1000);
    p.put(Tcp {
        from_stack: false,
        seq: 99,
        ack: 0,
        flags: SYN,
        window: 1,
        options: &[],
        payload: 0,
        v6: false,
    });
    p.ack(1000, 1000);
    assert_eq!(p.only().acks, 3);
    p.put(Tcp {
        from_stack: false,
        seq: 5,
        ack: 8,
        flags: RST,
        window: 0,
        options: &[],
        payload: 0,
        v6: false,
    });
    p.shake(12345, 4);
    let v = p.observer.verdict();
    assert_eq!(v.connections.len(), 2);
    assert_eq!((v.connections[0].resets_from_peer, v.connections[1].wscale), (1, Some(4)));
}

#[test]
fn four_gigabytes_and_more_are_followed() {
    let mut p = Play::start(14);
    let mut at = 0i64;
    while at < 9 << 30 {
        p.ack(at, 4096);
        p.data(at, 64_000);
        // Skip ahead as if the bytes between had been seen: the acknowledgement carries the position.
        at += 64_000;
        if at % 640_000 == 0 {
            let c = &mut p.observer.connections[0];
            c.received.low = at + 50_000_000;
            c.seen.highest_seq = at + 50_000_000;
            at += 50_000_000;
        }
    }
    let c = p.only();
    assert!(c.acked > 8 << 30 && c.left_moves_total == 0, "{c:?}");
    assert_eq!((c.acked_unsent, c.beyond_total), (None, 0));
}

#[test]
fn hostile_bytes_do_no_harm() {
    let good = build(Tcp {
        from_stack: false,
        seq: 1,
        ack: 1,
        flags: ACK,
        window: 1,
        options: &[TcpOption::mss(1), TcpOption::selective_ack(&[1, 2]), TcpOption::nop(), TcpOption::nop()],
        payload: 9,
        v6: false,
    });
    let mut observer = Observer::new();
    let mut seed = 42u32;
    let mut random = || {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        seed >> 8
    };
    for n in 0..60_000u64 {
        let mut frame =
            if n % 3 == 0 { (0..random() % 90).map(|_| random() as u8).collect() } else { good.clone() };
        if !frame.is_empty() {
            for _ in 0..random() % 5 {
                let at = random() as usize % frame.len();
                frame[at] = random() as u8;
            }
            frame.truncate(random() as usize % (frame.len() + 9));
        }
        let direction = if random() % 2 == 0 { Direction::In } else { Direction::Out };
        observer.frame(n, n, direction, &frame);
    }
    let v = observer.verdict();
    assert_eq!(v.frames, 60_000);
    assert!(observer.check(Expectation::default()).len() < 60_000);
    serde_json::to_string(&v).unwrap();
}

#[test]
fn sack_blocks_and_flags_are_read() {
    let frame = build(Tcp {
        from_stack: true,
        seq: 1,
        ack: 2,
        flags: ACK | FIN | PSH,
        window: 3,
        options: &[TcpOption::nop(), TcpOption::nop(), TcpOption::selective_ack(&[5, 9, 20, 30])],
        payload: 0,
        v6: true,
    });
    let s = segment::parse(&frame).unwrap();
    assert_eq!(s.sack, [(5, 9), (20, 30)]);
    assert_eq!(s.flag_letters(), "FP.");
    assert_eq!(segment::parse(&[0; 60]), Err(NotTcp::Other));
    assert_eq!(segment::parse(&frame[..40]), Err(NotTcp::Malformed));
}
