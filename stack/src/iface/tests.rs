//! The expected bytes were made by a script that knows only RFC header diagrams, not by this crate.

use core::net::IpAddr;

use bytes::Bytes;
use proptest::{collection::vec, prelude::*};

use super::*;
use crate::{
    time::Duration,
    units::Seq,
    wire::{RxMeta, TcpFlags, forge::Forge, parse},
};

const US: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
const PEER: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);

const ARP_REQUEST: &str =
    "ffffffffffff020000000002080600010800060400010200000000020a0000020000000000000a000001";
const ARP_REPLY: &str =
    "020000000002020000000001080600010800060400020200000000010a0000010200000000020a000002";
const ARP_OURS: &str = "ffffffffffff020000000001080600010800060400010200000000010a0000010000000000000a000002";
const ARP_ANSWER: &str =
    "020000000001020000000002080600010800060400020200000000020a0000020200000000010a000001";
const ECHO_V4: &str = "4510002100094000400126c10a0000020a0000010800e5f31234000770696e6721";
const ECHO_V4_REPLY: &str = "4510002100004000400126ca0a0000010a0000020000edf31234000770696e6721";
const ECHO_V6: &str = "60000000000d3a40fd000000000000000000000000000002fd000000000000000000000000000001\
    800073a71234000770696e6721";
const ECHO_V6_REPLY: &str = "60000000000d3a40fd000000000000000000000000000001fd000000000000000000000000000002\
    810072a71234000770696e6721";
const UDP: &str = "4500001d00004000401126ce0a0000020a000001000500350009000078";
const UDP_UNREACHABLE: &str = "4500003900004000400126c20a0000010a000002030384b900000000\
    4500001d00004000401126ce0a0000020a000001000500350009000078";
const SOLICIT: &str = "6000000000203afffd000000000000000000000000000002ff0200000000000000000001ff000001\
    87007d9700000000fd0000000000000000000000000000010101020000000002";
const ADVERT: &str = "6000000000203afffd000000000000000000000000000001fd000000000000000000000000000002\
    88001c9c60000000fd0000000000000000000000000000010201020000000001";
const ADVERT_TO_ALL: &str = "6000000000203afffd000000000000000000000000000001ff020000000000000000000000000001\
    88005a9b20000000fd0000000000000000000000000000010201020000000001";
const SOLICIT_OURS: &str = "6000000000203afffd000000000000000000000000000001ff0200000000000000000001ff000002\
    87007d9700000000fd0000000000000000000000000000020101020000000001";

fn hex(s: &str) -> Vec<u8> {
    (0..s.len()).step_by(2).map(|i| u8::from_str_radix(&s[i..i + 2], 16).unwrap()).collect()
}

fn ip(s: &str) -> IpAddr {
    s.parse().unwrap()
}

fn at(ms: u64) -> Instant {
    Instant::from_millis(ms)
}

fn prefixes() -> [Prefix; 2] {
    ["10.0.0.1/24".parse().unwrap(), "fd00::1/64".parse().unwrap()]
}

fn ethernet() -> Iface {
    Iface::new(IfaceConfig::ethernet(US, prefixes()))
}

/// An Ethernet header and `body`.
fn framed(dst: MacAddr, src: MacAddr, ethertype: [u8; 2], body: &[u8]) -> Vec<u8> {
    [&dst.0[..], &src.0, &ethertype, body].concat()
}

fn receive(iface: &mut Iface, now: Instant, frame: impl Into<Bytes>) -> Verdict {
    let packet = parse(iface.config().medium, &frame.into(), RxMeta::default()).expect("parses");
    iface.on_packet(now, packet)
}

fn frames(iface: &mut Iface) -> Vec<Vec<u8>> {
    core::iter::from_fn(|| iface.poll_transmit()).map(|out| out.frame.to_vec()).collect()
}

fn packet_to(dst: &str, tag: u64) -> IpPacket {
    let dst = ip(dst);
    let src = if dst.is_ipv4() { "10.0.0.1:80" } else { "[fd00::1]:80" };
    SegmentOut::new(src.parse().unwrap(), (dst, 9).into()).build().unwrap().with_tag(tag)
}

fn segment_from(src: &str, dst: &str) -> Bytes {
    let link = Link { src: PEER, dst: US };
    Forge::new(src.parse().unwrap(), dst.parse().unwrap()).link(link).build()
}

#[test]
fn who_asks_about_us_is_answered_and_remembered() {
    let mut iface = ethernet();
    assert_eq!(receive(&mut iface, at(0), hex(ARP_REQUEST)), Verdict::Consumed);
    assert_eq!(frames(&mut iface), [hex(ARP_REPLY)]);
    assert_eq!(iface.resolve(at(0), ip("10.0.0.2")), Resolution::Ready(Some(PEER)));
    assert!(frames(&mut iface).is_empty());
}

#[test]
fn a_packet_waits_for_its_neighbour() {
    let mut iface = ethernet();
    assert_eq!(iface.transmit(at(0), packet_to("10.0.0.2", 7)), Sent::Waiting);
    assert_eq!(iface.transmit(at(0), packet_to("10.0.0.2", 8)), Sent::Waiting);
    assert_eq!(frames(&mut iface), [hex(ARP_OURS)]);
    assert_eq!(receive(&mut iface, at(1), hex(ARP_ANSWER)), Verdict::Consumed);
    let out: Vec<_> = core::iter::from_fn(|| iface.poll_transmit()).collect();
    assert_eq!(out.iter().map(|out| out.tag).collect::<Vec<_>>(), [7, 8]);
    assert_eq!(out[0].frame[..], framed(PEER, US, [8, 0], packet_to("10.0.0.2", 0).as_bytes()));
    assert_eq!(iface.poll_timeout(), None);
    assert_eq!(iface.transmit(at(2), packet_to("10.0.0.2", 9)), Sent::Ready);
}

#[test]
fn three_questions_a_second_apart_then_silence() {
    let mut iface = ethernet();
    for tag in 0..10 {
        iface.transmit(at(0), packet_to("10.0.0.2", tag));
    }
    assert_eq!(iface.counters().waiting_dropped, 2);
    let mut asked = frames(&mut iface).len();
    while let Some(now) = iface.poll_timeout() {
        assert_eq!(now, at(1000 * asked as u64));
        iface.handle_timeout(now);
        asked += frames(&mut iface).len();
        if asked == 3 && iface.poll_timeout() == Some(at(3000)) {
            iface.handle_timeout(at(3000));
        }
    }
    assert_eq!((asked, iface.counters().neighbours_failed, iface.counters().waiting_dropped), (3, 1, 10));
    assert_eq!(iface.transmit(at(4000), packet_to("10.0.0.2", 0)), Sent::Waiting);
    assert_eq!(frames(&mut iface), [hex(ARP_OURS)]);
}

#[test]
fn the_packets_that_waited_longest_are_dropped_first() {
    let mut iface = ethernet();
    for tag in 0..10 {
        iface.transmit(at(0), packet_to("10.0.0.2", tag));
    }
    frames(&mut iface);
    receive(&mut iface, at(1), hex(ARP_ANSWER));
    let tags: Vec<_> = core::iter::from_fn(|| iface.poll_transmit()).map(|out| out.tag).collect();
    assert_eq!(tags, [2, 3, 4, 5, 6, 7, 8, 9]);
}

#[test]
fn a_stale_neighbour_is_used_while_it_is_asked_in_person() {
    let mut iface = ethernet();
    receive(&mut iface, at(0), hex(ARP_REQUEST));
    frames(&mut iface);
    assert_eq!(iface.transmit(at(60_000), packet_to("10.0.0.2", 1)), Sent::Ready);
    let out = frames(&mut iface);
    assert_eq!(out.len(), 2);
    assert_eq!(out[0][..6], PEER.0);
    assert_eq!(iface.transmit(at(60_001), packet_to("10.0.0.2", 1)), Sent::Ready);
    assert_eq!(frames(&mut iface).len(), 1);
    for s in 61..=63 {
        iface.handle_timeout(at(s * 1000));
    }
    assert_eq!((iface.neighbours(), iface.counters().neighbours_failed), (0, 1));
}

#[test]
fn strangers_and_impostors_are_not_remembered() {
    let mut iface = ethernet();
    // An answer nobody asked for.
    receive(&mut iface, at(0), hex(ARP_ANSWER));
    // A probe has no address yet: answered, not remembered.
    let mut probe = hex(ARP_REQUEST);
    probe[28..32].fill(0);
    receive(&mut iface, at(0), probe);
    // From another network; about another host; in our name.
    let mut other = hex(ARP_REQUEST);
    other[28..32].copy_from_slice(&[192, 168, 0, 1]);
    receive(&mut iface, at(0), other);
    let mut other = hex(ARP_REQUEST);
    other[41] = 77;
    receive(&mut iface, at(0), other);
    assert_eq!(frames(&mut iface).len(), 2);
    let mut ours = hex(ARP_REQUEST);
    ours[31] = 1;
    assert_eq!(receive(&mut iface, at(0), ours), Verdict::Dropped(DropReason::NotForUs));
    assert_eq!((frames(&mut iface).len(), iface.neighbours()), (0, 0));
}

#[test]
fn pings_come_back() {
    let mut iface = Iface::new(IfaceConfig::ip(prefixes()));
    receive(&mut iface, at(0), hex(ECHO_V4));
    receive(&mut iface, at(0), hex(ECHO_V6));
    assert_eq!(frames(&mut iface), [hex(ECHO_V4_REPLY), hex(ECHO_V6_REPLY)]);
}

#[test]
fn a_flood_of_pings_is_not_doubled() {
    let mut iface = Iface::new(IfaceConfig::ip(prefixes()));
    for _ in 0..5000 {
        receive(&mut iface, at(0), hex(ECHO_V4));
    }
    assert_eq!((iface.counters().echo_replies, iface.counters().rate_limited), (1000, 4000));
    receive(&mut iface, at(1), hex(ECHO_V4));
    assert_eq!(iface.counters().echo_replies, 1001);
}

#[test]
fn what_nobody_serves_is_unreachable() {
    let mut iface = Iface::new(IfaceConfig::ip(prefixes()));
    receive(&mut iface, at(0), hex(UDP));
    assert_eq!(frames(&mut iface), [hex(UDP_UNREACHABLE)]);
    let sctp =
        Forge { protocol: 132, ..Forge::new("[fd00::2]:1".parse().unwrap(), "[fd00::1]:1".parse().unwrap()) };
    receive(&mut iface, at(0), sctp.build());
    let error = &frames(&mut iface)[0];
    assert_eq!((error[6], &error[40..42], &error[44..48]), (58, &[4, 1][..], &[0, 0, 0, 6][..]));
    assert!(matches!(
        parse(Medium::Ip, &Bytes::from(error.clone()), RxMeta::default()),
        Ok(Packet::Ignored(_))
    ));
    // Long packets come back in part: 576 bytes over IPv4, 1280 over IPv6.
    for (src, dst, len) in [("10.0.0.2:1", "10.0.0.1:1", 576), ("[fd00::2]:1", "[fd00::1]:1", 1280)] {
        let long = Forge::new(src.parse().unwrap(), dst.parse().unwrap()).payload(vec![0; 1400]);
        receive(&mut iface, at(0), Forge { protocol: 132, ..long }.build());
        assert_eq!(frames(&mut iface)[0].len(), len);
    }
    for _ in 0..100 {
        receive(&mut iface, at(0), hex(UDP));
    }
    assert_eq!(iface.counters().icmp_errors, 50);
}

#[test]
fn solicitations_are_answered_and_learned_from() {
    let mut iface = ethernet();
    let group = MacAddr([0x33, 0x33, 0xff, 0, 0, 1]);
    receive(&mut iface, at(0), framed(group, PEER, [0x86, 0xdd], &hex(SOLICIT)));
    assert_eq!(frames(&mut iface), [framed(PEER, US, [0x86, 0xdd], &hex(ADVERT))]);
    assert_eq!(iface.resolve(at(0), ip("fd00::2")), Resolution::Ready(Some(PEER)));
}

#[test]
fn whoever_tests_our_address_hears_it_is_taken() {
    let mut iface = ethernet();
    let verdict = iface.on_packet(
        at(0),
        Packet::NeighbourSolicit(NeighbourSolicit {
            link: Some(Link { src: PEER, dst: MacAddr([0x33, 0x33, 0xff, 0, 0, 1]) }),
            src: Ipv6Addr::UNSPECIFIED,
            dst: "ff02::1:ff00:1".parse().unwrap(),
            target: "fd00::1".parse().unwrap(),
            source_mac: None,
        }),
    );
    assert_eq!(verdict, Verdict::Consumed);
    let all = MacAddr([0x33, 0x33, 0, 0, 0, 1]);
    assert_eq!(frames(&mut iface), [framed(all, US, [0x86, 0xdd], &hex(ADVERT_TO_ALL))]);
    assert_eq!(iface.neighbours(), 0);
}

#[test]
fn ipv6_neighbours_are_found_by_two_interfaces_talking() {
    let mut us = ethernet();
    let mut peer = Iface::new(IfaceConfig::ethernet(PEER, ["fd00::2/64".parse().unwrap()]));
    assert_eq!(us.transmit(at(0), packet_to("fd00::2", 1)), Sent::Waiting);
    let asked = frames(&mut us);
    assert_eq!(asked, [framed(MacAddr([0x33, 0x33, 0xff, 0, 0, 2]), US, [0x86, 0xdd], &hex(SOLICIT_OURS))]);
    receive(&mut peer, at(0), asked[0].clone());
    let answer = frames(&mut peer).remove(0);
    receive(&mut us, at(0), answer.clone());
    let sent = frames(&mut us);
    assert!(matches!(receive(&mut peer, at(0), sent[0].clone()), Verdict::Deliver(_)));
    // Somebody else claims the address without the right to override.
    let Ok(Packet::NeighbourAdvert(mut advert)) = parse(Medium::Ethernet, &answer.into(), RxMeta::default())
    else {
        panic!()
    };
    advert.override_known = false;
    advert.target_mac = Some(MacAddr([2, 0, 0, 0, 0, 9]));
    us.on_packet(at(0), Packet::NeighbourAdvert(advert));
    assert_eq!(us.resolve(at(0), ip("fd00::2")), Resolution::Ready(Some(PEER)));
}

#[test]
fn nd_from_beyond_the_link_is_refused() {
    let mut bad = hex(SOLICIT);
    bad[7] = 64;
    let error = parse(Medium::Ip, &bad.into(), RxMeta::default()).unwrap_err();
    assert_eq!(error.reason, DropReason::Malformed);
}

#[test]
fn segments_for_others_are_not_delivered() {
    let mut iface = ethernet();
    let deliver = |iface: &mut Iface, frame| matches!(receive(iface, at(0), frame), Verdict::Deliver(_));
    assert!(deliver(&mut iface, segment_from("10.0.0.2:1", "10.0.0.1:80")));
    assert!(deliver(&mut iface, segment_from("[fd00::2]:1", "[fd00::1]:80")));
    assert!(!deliver(&mut iface, segment_from("10.0.0.2:1", "10.0.0.9:80")));
    assert!(!deliver(&mut iface, segment_from("10.0.0.1:1", "10.0.0.1:80")), "from ourselves");
    assert!(!deliver(&mut iface, segment_from("10.0.0.255:1", "10.0.0.1:80")), "from a broadcast address");
    let mut other = segment_from("10.0.0.2:1", "10.0.0.1:80").to_vec();
    other[5] = 9;
    assert!(!deliver(&mut iface, other.into()), "for another station");
    assert_eq!((iface.counters().delivered, iface.counters().not_for_us), (2, 4));
    assert_eq!(iface.neighbours(), 0);
}

#[test]
fn a_reflexive_interface_answers_where_it_came_from() {
    let mut iface = Iface::new(IfaceConfig::ethernet(US, prefixes()).learning(Learning::Reflexive));
    for (src, dst, back) in
        [("10.0.0.2:1", "10.0.0.1:80", "10.0.0.2"), ("192.0.2.5:1", "10.0.0.1:80", "192.0.2.5")]
    {
        let Verdict::Deliver(segment) = receive(&mut iface, at(0), segment_from(src, dst)) else { panic!() };
        assert!(iface.reset(at(0), &segment, 5));
        let out = iface.poll_transmit().unwrap();
        assert_eq!((&out.frame[..6], out.tag), (&PEER.0[..], 5));
        assert_eq!(iface.resolve(at(0), ip(back)), Resolution::Ready(Some(PEER)));
    }
}

#[test]
fn other_networks_are_behind_the_gateway() {
    let mut iface = ethernet();
    assert_eq!(iface.transmit(at(0), packet_to("192.0.2.5", 0)), Sent::NoRoute);
    assert_eq!(iface.resolve(at(0), ip("10.0.0.255")), Resolution::NoRoute);
    assert_eq!(iface.resolve(at(0), ip("10.0.0.1")), Resolution::NoRoute);
    let config = IfaceConfig::ethernet(US, prefixes()).gateway(ip("10.0.0.2")).gateway(ip("fd00::2"));
    let mut iface = Iface::new(config);
    assert!(iface.add_neighbour(ip("10.0.0.2"), PEER));
    assert_eq!(iface.transmit(at(0), packet_to("192.0.2.5", 0)), Sent::Ready);
    assert_eq!(iface.resolve(at(0), ip("2001:db8::1")), Resolution::Pending);
    assert_eq!(frames(&mut iface).len(), 2);
    for nobody in ["10.0.0.255", "255.255.255.255", "224.0.0.1", "0.0.0.0", "ff02::1", "fd00::1"] {
        assert_eq!(iface.resolve(at(0), ip(nobody)), Resolution::NoRoute, "{nobody}");
    }
    assert_eq!(iface.source_for(ip("2001:db8::1")), Some(ip("fd00::1")));
}

#[test]
fn a_static_neighbour_stays() {
    let mut iface = ethernet();
    iface.add_neighbour(ip("10.0.0.2"), MacAddr([2, 0, 0, 0, 0, 7]));
    receive(&mut iface, at(0), hex(ARP_REQUEST));
    assert_eq!(
        iface.resolve(at(1_000_000), ip("10.0.0.2")),
        Resolution::Ready(Some(MacAddr([2, 0, 0, 0, 0, 7])))
    );
}

#[test]
fn tables_and_queues_have_an_end() {
    let mut iface = Iface::new(IfaceConfig::ethernet(US, ["10.0.0.1/8".parse().unwrap()]));
    iface.add_neighbour(ip("10.0.0.2"), PEER);
    for i in 0..3000u32 {
        let mut request = hex(ARP_REQUEST);
        request[28..32].copy_from_slice(&(0x0a01_0000 + i).to_be_bytes());
        receive(&mut iface, at(0), request);
        iface.transmit(at(0), packet_to(&format!("10.9.{}.{}", i >> 8, i & 255), 0));
    }
    assert_eq!(iface.neighbours(), 1024);
    // Asked: 3000. Kept: the last 64. The address 10.9.0.0 is no broadcast in 10/8.
    assert_eq!(iface.counters().waiting_dropped, 3000 - 64);
    assert_eq!(iface.counters().queue_full, 6000 - 4096);
    assert_eq!(iface.resolve(at(0), ip("10.0.0.2")), Resolution::Ready(Some(PEER)), "thrown out");
    assert_eq!(frames(&mut iface).len(), 4096);
    iface.handle_timeout(at(10_000));
    assert_eq!(frames(&mut iface).len(), 64);
}

#[test]
fn the_least_recently_used_neighbour_goes() {
    let mut iface = Iface::new(IfaceConfig::ethernet(US, ["10.0.0.1/8".parse().unwrap()]));
    for i in 0..1025u32 {
        let mut request = hex(ARP_REQUEST);
        request[28..32].copy_from_slice(&(0x0a01_0000 + i).to_be_bytes());
        receive(&mut iface, at(0), request);
        iface.resolve(at(0), ip("10.1.0.0"));
        frames(&mut iface);
    }
    assert_eq!(iface.resolve(at(0), ip("10.1.0.0")), Resolution::Ready(Some(PEER)));
    assert_eq!(iface.resolve(at(0), ip("10.1.0.1")), Resolution::Pending);
}

#[test]
fn a_reset_answers_a_segment_without_a_socket() {
    let mut iface = Iface::new(IfaceConfig::ip(prefixes()));
    let forge = Forge::new("10.0.0.2:4000".parse().unwrap(), "10.0.0.1:80".parse().unwrap());
    let Verdict::Deliver(segment) = receive(&mut iface, at(0), forge.flags(TcpFlags::SYN).build()) else {
        panic!()
    };
    assert!(iface.reset(at(0), &segment, 0));
    let frame = iface.poll_transmit().unwrap().frame;
    let Ok(Packet::Tcp(reset)) = parse(Medium::Ip, &frame, RxMeta::default()) else { panic!() };
    assert_eq!((reset.flags.to_string().as_str(), reset.seq, reset.ack), ("R.", Seq(0), Seq(1)));
}

#[test]
fn prefixes_in_words_and_bits() {
    let p = |s: &str| s.parse::<Prefix>();
    assert_eq!(p("10.0.0.1/24").unwrap().to_string(), "10.0.0.1/24");
    assert_eq!(p("fd00::1").unwrap().prefix_len(), 128);
    assert_eq!(p("10.0.0.1/33"), Err(PrefixError("10.0.0.1/33".into())));
    assert!(p("10.0.0.1/x").is_err() && p("").is_err() && p("/24").is_err());
    let all = p("0.0.0.0/0").unwrap();
    assert!(all.contains(ip("1.2.3.4")) && !all.contains(ip("::1")));
    assert!(p("10.0.0.1/32").unwrap().contains(ip("10.0.0.1")));
    assert!(!p("10.0.0.1/32").unwrap().contains(ip("10.0.0.0")));
    let pair = p("10.0.0.0/31").unwrap();
    assert!(pair.contains(ip("10.0.0.1")) && !pair.is_broadcast(ip("10.0.0.1")));
    assert!(p("10.0.0.1/30").unwrap().is_broadcast(ip("10.0.0.3")));
}

#[test]
fn permissions_come_back_with_time() {
    let mut rate = Rate::new(10, 2);
    assert!(rate.allow(at(5)) && rate.allow(at(5)) && !rate.allow(at(5)));
    assert!(!rate.allow(at(104)) && rate.allow(at(105)) && !rate.allow(at(105)));
    assert!(!rate.allow(at(0)), "a clock that goes back gives nothing");
    assert!(!rate.allow(at(105)), "nor when it comes forward again");
}

proptest! {
    #[test]
    fn no_frame_makes_an_interface_panic(
        seeds in vec((0usize..5, vec((any::<prop::sample::Index>(), any::<u8>()), 0..4), 0u64..100_000), 1..40),
        reflexive: bool,
    ) {
        let learning = if reflexive { Learning::Reflexive } else { Learning::Protocol };
        let config = IfaceConfig::ethernet(US, prefixes()).gateway(ip("10.0.0.254")).learning(learning);
        let mut iface = Iface::new(config);
        let mut now = Instant::ZERO;
        let valid = [
            hex(ARP_REQUEST),
            framed(US, PEER, [8, 0], &hex(ECHO_V4)),
            framed(US, PEER, [0x86, 0xdd], &hex(SOLICIT)),
            framed(US, PEER, [0x86, 0xdd], &hex(ADVERT)),
            segment_from("10.0.0.2:1", "10.0.0.1:80").to_vec(),
        ];
        for (which, damage, ms) in seeds {
            let mut frame = valid[which].clone();
            for (at, value) in damage {
                let at = at.index(frame.len());
                frame[at] = value;
            }
            now = now + Duration::from_millis(ms);
            let meta = RxMeta { csum_ok: true, ..RxMeta::default() };
            if let Ok(packet) = parse(Medium::Ethernet, &frame.into(), meta)
                && let Verdict::Deliver(segment) = iface.on_packet(now, packet)
            {
                iface.reset(now, &segment, 1);
            }
            iface.transmit(now, packet_to("fd00::77", 0));
            iface.handle_timeout(now);
            prop_assert!(iface.poll_timeout().is_none_or(|at| at > now));
            while let Some(out) = iface.poll_transmit() {
                // Whatever we say, we would accept.
                prop_assert!(parse(Medium::Ethernet, &out.frame, RxMeta::default()).is_ok());
            }
        }
    }
}
