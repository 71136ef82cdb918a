//! The expected bytes were made by a script that knows only RFC header diagrams, not by this crate.

use core::net::{IpAddr, SocketAddr};

use arrayvec::ArrayVec;
use bytes::Bytes;
use proptest::{collection::vec, prelude::*};

use super::{
    forge::{Checksum, Forge},
    *,
};
use crate::{decision::DropReason, units::SeqRange};

const SYN_ACK_V4: &str = "4500003c00004000400626ba0a0000010a000002\
    00500fa001020304a0b0c0d0a012fe88bfec0000020405b40402080a000000010000000001030307";
const DATA_V6: &str = "6b90000000170640fd000000000000000000000000000001fd000000000000000000000000000002\
    00500fa0fffffff00000000551d90001deb80102616263";
const RESET_V4: &str = "4500002800004000400626ce0a0000010a00000200500fa00000000000000101501400008add0000";

fn hex(s: &str) -> Vec<u8> {
    (0..s.len()).step_by(2).map(|i| u8::from_str_radix(&s[i..i + 2], 16).unwrap()).collect()
}

fn addr(s: &str) -> SocketAddr {
    s.parse().unwrap()
}

fn link() -> Link {
    Link { src: MacAddr([2, 0, 0, 0, 0, 2]), dst: MacAddr([2, 0, 0, 0, 0, 1]) }
}

fn tcp(medium: Medium, frame: &Bytes, meta: RxMeta) -> TcpSegment {
    match parse(medium, frame, meta) {
        Ok(Packet::Tcp(segment)) => segment,
        other => panic!("not TCP: {other:?}"),
    }
}

fn refused(frame: &Bytes) -> DropReason {
    parse(Medium::Ip, frame, RxMeta::default()).unwrap_err().reason
}

fn v4() -> Forge {
    Forge::new(addr("10.0.0.2:4000"), addr("10.0.0.1:80"))
}

fn v6() -> Forge {
    Forge::new(addr("[fd00::2]:4000"), addr("[fd00::1]:80"))
}

fn blocks(n: u32) -> ArrayVec<SeqRange, MAX_SACK_BLOCKS> {
    (0..n).map(|i| SeqRange::new(Seq(i * 16), Seq(i * 16 + 1))).collect()
}

#[test]
fn a_syn_ack_leaves_with_options_packed_as_linux_packs_them() {
    let segment = SegmentOut {
        seq: Seq(0x0102_0304),
        ack: Seq(0xa0b0_c0d0),
        flags: TcpFlags::SYN | TcpFlags::ACK,
        window: 0xfe88,
        options: OutOptions {
            mss: Some(1460),
            wscale: Some(7),
            sack_permitted: true,
            timestamps: Some(Timestamps { tsval: 1, tsecr: 0 }),
            ..OutOptions::default()
        },
        ..SegmentOut::new(addr("10.0.0.1:80"), addr("10.0.0.2:4000"))
    };
    assert_eq!(segment.build().unwrap().as_bytes(), hex(SYN_ACK_V4));
}

#[test]
fn data_in_pieces_of_odd_length_is_summed_as_one() {
    let segment = SegmentOut {
        seq: Seq(0xffff_fff0),
        ack: Seq(5),
        flags: TcpFlags::AE | TcpFlags::CWR | TcpFlags::ECE | TcpFlags::ACK | TcpFlags::PSH | TcpFlags::FIN,
        window: 1,
        urgent: 0x0102,
        payload: &[Bytes::from_static(b"a"), Bytes::from_static(b"bc")],
        ds_field: 0xb9,
        ..SegmentOut::new(addr("[fd00::1]:80"), addr("[fd00::2]:4000"))
    };
    assert_eq!(segment.build().unwrap().as_bytes(), hex(DATA_V6));
}

#[test]
fn foreign_bytes_are_read() {
    let segment = tcp(Medium::Ip, &Bytes::from(hex(DATA_V6)), RxMeta::default());
    assert_eq!((segment.src, segment.dst), (addr("[fd00::1]:80"), addr("[fd00::2]:4000")));
    assert_eq!((segment.seq, segment.ack), (Seq(0xffff_fff0), Seq(5)));
    assert_eq!(segment.flags.to_string(), "FP.EWe");
    assert_eq!((segment.window, segment.urgent, segment.ds_field, segment.ttl), (1, 0x0102, 0xb9, 64));
    assert_eq!(segment.payload, "abc");
    assert_eq!(
        (segment.ip_len, segment.frame_len, segment.headers_len, segment.header_len),
        (63, 63, 60, 20)
    );
    assert_eq!((segment.gso_size, segment.gso_segs), (0, 1));
    assert_eq!(segment.end_seq(), Seq(0xffff_fff4));

    let segment = tcp(Medium::Ip, &Bytes::from(hex(SYN_ACK_V4)), RxMeta::default());
    assert_eq!(segment.options.mss, Some(1460));
    assert_eq!(segment.options.wscale, Some(7));
    assert!(segment.options.sack_permitted && !segment.options.aligned_timestamps);
    assert_eq!(segment.options.timestamps, Some(Timestamps { tsval: 1, tsecr: 0 }));
    assert_eq!(segment.flags.to_string(), "S.");
}

#[test]
fn every_single_wrong_bit_in_a_segment_is_noticed() {
    for good in [hex(SYN_ACK_V4), hex(DATA_V6)] {
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            // The IPv6 header has no checksum of its own: class, flow label and hop limit are anybody's.
            let unprotected = good[0] >> 4 == 6 && (bit / 8 < 4 || bit / 8 == 7);
            if let Ok(packet) = parse(Medium::Ip, &Bytes::from(bad), RxMeta::default()) {
                assert!(unprotected || !matches!(packet, Packet::Tcp(_)), "bit {bit} went unnoticed");
            }
        }
    }
}

#[test]
fn data_and_sack_options_as_linux_lays_them_out() {
    let timestamps = Some(Timestamps { tsval: 0x0a0b_0c0d, tsecr: 0x0102_0304 });
    let aligned = OutOptions { timestamps, ..OutOptions::default() };
    assert_eq!(aligned.to_bytes()[..], hex("0101080a0a0b0c0d01020304"));

    let sack = OutOptions { sack: blocks(4), ..OutOptions::default() };
    assert_eq!(
        sack.to_bytes()[..],
        hex("010105220000000000000001000000100000001100000020000000210000003000000031")
    );
    let both = OutOptions { timestamps, sack: blocks(4), ..OutOptions::default() };
    assert_eq!(both.sack_room(), 3);
    assert_eq!(
        both.to_bytes()[..],
        hex("0101080a0a0b0c0d010203040101051a000000000000000100000010000000110000002000000021")
    );
    let syn = OutOptions { mss: Some(536), sack_permitted: true, wscale: Some(14), ..OutOptions::default() };
    assert_eq!(syn.to_bytes()[..], hex("02040218010104020103030e"));
    assert_eq!(OutOptions { mss: Some(1), ..OutOptions::default() }.to_bytes()[..], hex("02040001"));
    assert!(OutOptions::default().to_bytes().is_empty());
}

#[test]
fn the_option_walk_keeps_what_came_before_the_damage() {
    let o = |s: &str, syn| TcpOptions::parse(&hex(s), syn);
    // A length of zero, of one, and one beyond the end.
    assert_eq!(o("020405b404000303", true).mss, Some(1460));
    assert_eq!(o("020405b40401030307", true).wscale, None);
    assert_eq!(o("020405b40305ff", true).mss, Some(1460));
    assert_eq!(o("020405b40305ff", true).wscale, None);
    // A kind without a length byte.
    assert_eq!(o("03030702", true).wscale, Some(7));
    // Nothing behind the end mark counts.
    assert_eq!(o("00020405b4", true).mss, None);
    // Unknown kinds are skipped; so are known kinds of the wrong length.
    assert_eq!(o("fe04000002030503040005020405b4", true).mss, Some(1460));
    // SYN-only options elsewhere, an MSS of zero, a shift beyond 14.
    assert_eq!(
        o("020405b4030307", false),
        TcpOptions { raw: o("020405b4030307", false).raw, ..Default::default() }
    );
    assert_eq!(o("02040000", true).mss, None);
    assert_eq!(o("0303ff", true).wscale, Some(14));
    // The later of two counts.
    assert_eq!(o("020405b402040200", true).mss, Some(512));
}

#[test]
fn sack_blocks_come_whole_and_never_on_a_syn() {
    let bytes = OutOptions { sack: blocks(4), ..OutOptions::default() }.to_bytes();
    assert_eq!(TcpOptions::parse(&bytes, false).sack, blocks(4));
    assert!(TcpOptions::parse(&bytes, true).sack.is_empty());
    assert!(TcpOptions::parse(&hex("050c00000001000000020000"), false).sack.is_empty());
    assert!(TcpOptions::parse(&hex("0502"), false).sack.is_empty());
    // Ends before it begins: kept, the caller judges numbers.
    let inverted = TcpOptions::parse(&hex("050a0000000900000002"), false).sack;
    assert_eq!(inverted[..], [SeqRange::new(Seq(9), Seq(2))]);
}

#[test]
fn only_the_layout_of_the_fast_path_is_aligned() {
    let aligned = |s: &str| TcpOptions::parse(&hex(s), false).aligned_timestamps;
    assert!(aligned("0101080a0000000100000002"));
    assert!(!aligned("080a00000001000000020101"));
    assert!(!aligned("0101080a00000001000000020101050a0000000100000002"));
    assert!(!aligned("0101080a"));
    assert!(!aligned(""));
}

#[test]
fn padding_is_trimmed_and_frames_are_measured() {
    let frame = Forge { padding: 3, ..v4().link(link()).payload("xyz") }.build();
    let segment = tcp(Medium::Ethernet, &frame, RxMeta::default());
    assert_eq!(segment.payload, "xyz");
    assert_eq!((segment.frame_len, segment.headers_len, segment.ip_len), (60, 54, 43));
    assert_eq!(segment.link, Some(link()));
    assert_eq!(segment.payload.as_ptr(), frame[54..].as_ptr(), "the payload was copied");
}

#[test]
fn checksums_count_unless_the_device_vouches() {
    for forge in [v4(), v6()] {
        for checksum in [Checksum::Wrong, Checksum::Unfinished, Checksum::Literal(7)] {
            let frame = forge.clone().seq_ack(Seq(9), Seq(0)).payload("xyz").tcp_checksum(checksum).build();
            let error = parse(Medium::Ip, &frame, RxMeta::default()).unwrap_err();
            assert_eq!((error.reason, error.seq, error.len), (DropReason::BadChecksum, Seq(9), 3));
            tcp(Medium::Ip, &frame, RxMeta { csum_ok: true, ..RxMeta::default() });
        }
    }
    let frame = Forge { ip_checksum: Checksum::Wrong, ..v4() }.build();
    let error = parse(Medium::Ip, &frame, RxMeta { csum_ok: true, ..RxMeta::default() }).unwrap_err();
    assert_eq!(error.reason, DropReason::BadChecksum);
}

#[test]
fn super_segments_may_be_longer_than_their_length_field() {
    let meta = RxMeta { gso_size: 1448, ..RxMeta::default() };
    let payload = Bytes::from(vec![0xa5; 200_001]);
    for forge in [v4(), v6()] {
        let frame = forge.payload(payload.clone()).build();
        let segment = tcp(Medium::Ip, &frame, meta);
        assert_eq!((segment.payload.len(), segment.gso_segs), (200_001, 139));
        // Without a device that says so it is a lie.
        assert_eq!(refused(&frame), DropReason::Malformed);
    }
    // RFC 2675: a hop-by-hop header with the true length.
    let len = 8 + 20 + payload.len() as u32;
    let mut ip_extra = vec![6, 0, 0xc2, 4];
    ip_extra.extend_from_slice(&len.to_be_bytes());
    let frame = Forge { ip_extra, protocol: 0, ..v6().payload(payload) }.build();
    assert_eq!(tcp(Medium::Ip, &frame, RxMeta::default()).payload.len(), 200_001);
    assert_eq!(tcp(Medium::Ip, &v4().payload("x").build(), meta).gso_segs, 1);
    // A jumbo length that the ordinary field could have said does not count.
    let short = Forge {
        ip_extra: vec![6, 0, 0xc2, 4, 0, 0, 0, 29],
        protocol: 0,
        ip_length: Some(0),
        ..v6().payload("x")
    };
    assert_eq!(refused(&short.build()), DropReason::Malformed);
}

#[test]
fn neighbour_discovery_is_believed_only_in_its_proper_form() {
    let nd = |src: &str, dst: &str, message: &[u8]| {
        let (src, dst) = (addr(src).ip(), addr(dst).ip());
        let spec = IpSpec { src, dst, protocol: 58, ds_field: 0, ttl: 255, ip_id: 0 };
        let mut packet = spec.around(message).unwrap();
        packet.fill_checksum(&spec, 2);
        parse(Medium::Ip, &packet.into_frame(None), RxMeta::default())
    };
    let target = hex("fd000000000000000000000000000001");
    let option = [1, 1, 2, 0, 0, 0, 0, 2];
    let solicit = [&[135, 0, 0, 0, 0, 0, 0, 0][..], &target].concat();
    // An asker without address asks the group and gives no address.
    let (group, peer, us) = ("[ff02::1:ff00:1]:0", "[fd00::2]:0", "[fd00::1]:0");
    let Ok(Packet::NeighbourSolicit(probe)) = nd("[::]:0", group, &solicit) else { panic!() };
    assert_eq!((probe.target, probe.source_mac), ("fd00::1".parse().unwrap(), None));
    let named = [&solicit[..], &option].concat();
    assert!(nd("[::]:0", group, &named).is_err());
    assert!(nd("[::]:0", us, &solicit).is_err());
    let Ok(Packet::NeighbourSolicit(asked)) = nd(peer, us, &named) else { panic!() };
    assert_eq!(asked.source_mac, Some(MacAddr([2, 0, 0, 0, 0, 2])));
    // An option of no length, a group as target, another code, cut short.
    assert!(nd(peer, us, &[&solicit[..], &[1, 0, 2, 0, 0, 0, 0, 2]].concat()).is_err());
    assert!(nd(peer, us, &[&solicit[..8], &hex("ff020000000000000000000000000001")].concat()).is_err());
    assert!(nd(peer, us, &[&[135, 1][..], &solicit[2..]].concat()).is_err());
    assert!(nd(peer, us, &solicit[..23]).is_err());
    // What was asked for is answered to one; what is told to all was not asked for.
    let advert = |flags: u8| [&[136, 0, 0, 0, flags, 0, 0, 0][..], &target].concat();
    assert!(nd(us, "[ff02::1]:0", &advert(0x60)).is_err());
    assert!(nd(us, "[ff02::1]:0", &advert(0x20)).is_ok());
    assert!(nd("[::]:0", peer, &advert(0x20)).is_err());
    assert!(nd(us, peer, &advert(0x60)).is_ok());
}

#[test]
fn ipv4_options_are_stepped_over_unless_they_are_broken() {
    let with = |ip_extra: &[u8]| Forge { ip_extra: ip_extra.to_vec(), ..v4().payload("x") }.build();
    // Router alert; record route; a source route that is used up.
    for fine in [&[148, 4, 0, 0][..], &[7, 7, 4, 0, 0, 0, 0, 0], &[131, 7, 8, 1, 1, 1, 1, 1], &[1, 1, 1, 0]] {
        assert_eq!(tcp(Medium::Ip, &with(fine), RxMeta::default()).payload, "x");
    }
    assert_eq!(refused(&with(&[148, 1, 0, 0])), DropReason::Malformed);
    assert_eq!(refused(&with(&[148, 9, 0, 0])), DropReason::Malformed);
    assert_eq!(refused(&with(&[137, 7, 4, 1, 1, 1, 1, 0])), DropReason::NotForUs);
}

#[test]
fn ipv6_extension_headers_are_stepped_over_within_reason() {
    let with = |protocol, ip_extra: &[u8]| {
        Forge { protocol, ip_extra: ip_extra.to_vec(), ..v6().payload("x") }.build()
    };
    let dest = |next| [next, 0, 1, 4, 0, 0, 0, 0];
    let both = [dest(60), dest(6)].concat();
    let segment = tcp(Medium::Ip, &with(0, &both), RxMeta::default());
    assert_eq!((segment.payload.as_ref(), segment.headers_len), (&b"x"[..], 40 + 16 + 20));
    // Hop-by-hop not first; too many; an option that must be understood; an atomic and a true fragment.
    assert_eq!(refused(&with(60, &[dest(0), dest(6)].concat())), DropReason::Malformed);
    assert_eq!(
        refused(&with(60, &[[dest(60); 9].concat(), dest(6).to_vec()].concat())),
        DropReason::Malformed
    );
    assert_eq!(refused(&with(60, &[6, 0, 0x42, 4, 0, 0, 0, 0])), DropReason::Malformed);
    tcp(Medium::Ip, &with(44, &[6, 0xee, 0, 0, 1, 2, 3, 4]), RxMeta::default());
    assert_eq!(refused(&with(44, &[6, 0, 0, 1, 1, 2, 3, 4])), DropReason::Fragment);
    assert_eq!(refused(&with(44, &[6, 0, 0, 8, 1, 2, 3, 4])), DropReason::Fragment);
    // A route with a hop left, and one without.
    assert_eq!(refused(&with(43, &[6, 0, 2, 1, 0, 0, 0, 0])), DropReason::NotForUs);
    tcp(Medium::Ip, &with(43, &[6, 0, 2, 0, 0, 0, 0, 0]), RxMeta::default());
}

#[test]
fn fragments_and_lengths_that_disagree_are_dropped() {
    assert_eq!(refused(&Forge { fragment_field: 0x2000, ..v4() }.build()), DropReason::Fragment);
    assert_eq!(refused(&Forge { fragment_field: 1, ..v4() }.build()), DropReason::Fragment);
    for data_offset in [0, 4, 6, 15] {
        assert_eq!(refused(&Forge { data_offset: Some(data_offset), ..v4() }.build()), DropReason::Malformed);
    }
    for ip_length in [0, 19, 20, 39, 41, 65_535] {
        assert_eq!(refused(&Forge { ip_length: Some(ip_length), ..v4() }.build()), DropReason::Malformed);
    }
    for ip_length in [0, 19, 21, 65_535] {
        assert_eq!(refused(&Forge { ip_length: Some(ip_length), ..v6() }.build()), DropReason::Malformed);
    }
    assert_eq!(refused(&Bytes::new()), DropReason::Malformed);
    assert_eq!(refused(&Bytes::from_static(&[0x50; 40])), DropReason::Malformed);
}

#[test]
fn addresses_no_host_may_have_are_dropped() {
    for src in ["0.0.0.0:1", "0.1.2.3:1", "127.0.0.1:1", "224.0.0.1:1", "255.255.255.255:1"] {
        assert_eq!(refused(&Forge { src: addr(src), ..v4() }.build()), DropReason::NotForUs, "{src}");
    }
    for dst in ["0.0.0.0:1", "127.0.0.1:1", "224.0.0.1:1", "255.255.255.255:1"] {
        assert_eq!(refused(&Forge { dst: addr(dst), ..v4() }.build()), DropReason::NotForUs, "{dst}");
    }
    for src in ["[::]:1", "[::1]:1", "[ff02::1]:1", "[::ffff:10.0.0.1]:1"] {
        assert_eq!(refused(&Forge { src: addr(src), ..v6() }.build()), DropReason::NotForUs, "{src}");
    }
    for dst in ["[::]:1", "[::1]:1", "[ff02::1]:1"] {
        assert_eq!(refused(&Forge { dst: addr(dst), ..v6() }.build()), DropReason::NotForUs, "{dst}");
    }
    let to_all = v4().link(Link { dst: MacAddr::BROADCAST, ..link() }).build();
    let error = parse(Medium::Ethernet, &to_all, RxMeta::default()).unwrap_err();
    assert_eq!(error.reason, DropReason::NotForUs);
}

#[test]
fn other_protocols_are_told_apart() {
    let other = |protocol| parse(Medium::Ip, &Forge { protocol, ..v4() }.build(), RxMeta::default());
    let Ok(Packet::Unserved(unserved)) = other(132) else { panic!() };
    assert_eq!((unserved.protocol, unserved.protocol_at, unserved.original.len()), (132, 9, 40));
    assert_eq!(other(2), Ok(Packet::Ignored("IGMP")));
    let Ok(Packet::Unserved(unserved)) = parse(
        Medium::Ip,
        &Forge { protocol: 60, ip_extra: vec![132, 0, 1, 4, 0, 0, 0, 0], ..v6() }.build(),
        RxMeta::default(),
    ) else {
        panic!()
    };
    assert_eq!((unserved.protocol, unserved.protocol_at), (132, 40));
    let nothing = parse(Medium::Ip, &Forge { protocol: 59, ..v6() }.build(), RxMeta::default());
    assert!(matches!(nothing, Ok(Packet::Ignored(_))));
    let mut lldp = vec![0; 14];
    lldp[12..].copy_from_slice(&[0x88, 0xcc]);
    assert!(matches!(parse(Medium::Ethernet, &lldp.into(), RxMeta::default()), Ok(Packet::Ignored(_))));
}

#[test]
fn a_reset_has_numbers_the_peer_will_believe() {
    let of = |forge: Forge| reset_for(&tcp(Medium::Ip, &forge.build(), RxMeta::default()));
    // SYN and three bytes and FIN take five numbers.
    let syn = v4().flags(TcpFlags::SYN | TcpFlags::FIN).seq_ack(Seq(0xfc), Seq(77)).payload("abc");
    let reset = of(Forge { ds_field: 3, ..syn }).unwrap();
    assert_eq!(reset.build().unwrap().as_bytes(), hex(RESET_V4));
    let reset = of(v4().seq_ack(Seq(5), Seq(77))).unwrap();
    assert_eq!((reset.seq, reset.ack, reset.flags), (Seq(77), Seq(0), TcpFlags::RST));
    assert!(of(v4().flags(TcpFlags::RST)).is_none());
    assert!(of(v4().flags(TcpFlags::RST | TcpFlags::ACK)).is_none());
}

#[test]
fn what_cannot_be_sent_is_an_error() {
    let mixed = SegmentOut::new(addr("10.0.0.1:80"), addr("[fd00::2]:1"));
    assert_eq!(mixed.build(), Err(EgressError::MixedFamilies));
    let long = [Bytes::from(vec![0; 65_496])];
    let long = SegmentOut { payload: &long, ..SegmentOut::new(addr("10.0.0.1:80"), addr("10.0.0.2:1")) };
    assert_eq!(long.build(), Err(EgressError::TooLong { len: 65_516 }));
}

#[test]
fn flags_read_like_tcpdump() {
    assert_eq!(TcpFlags::SYN.to_string(), "S");
    assert_eq!((TcpFlags::PSH | TcpFlags::ACK).to_string(), "P.");
    assert_eq!(TcpFlags::empty().to_string(), "none");
}

/// A segment that is right in every way, over either IP version and either medium.
fn any_forge() -> impl Strategy<Value = Forge> {
    let numbers = (any::<u32>(), any::<u32>(), 0u16..512, any::<u16>(), any::<u16>(), any::<u8>());
    (any::<bool>(), any::<bool>(), numbers, vec(any::<u8>(), 0..=40), vec(any::<u8>(), 0..2000)).prop_map(
        |(six, ethernet, (seq, ack, flags, window, urgent, ds_field), options, payload)| Forge {
            link: ethernet.then(link),
            flags: TcpFlags::from_bits_truncate(flags),
            window,
            urgent,
            ds_field,
            options,
            payload: payload.into(),
            ..if six { v6() } else { v4() }.seq_ack(Seq(seq), Seq(ack))
        },
    )
}

fn any_meta() -> impl Strategy<Value = RxMeta> {
    (prop_oneof![Just(0), Just(1448), any::<u16>()], any::<u16>(), any::<bool>())
        .prop_map(|(gso_size, hdr_len, csum_ok)| RxMeta { gso_size, hdr_len, csum_ok })
}

/// Makes the IPv4 header checksum right again, so that damage gets past it.
fn repair(frame: &mut [u8], at: usize) {
    let Some(packet) = frame.get_mut(at..) else { return };
    let len = packet.first().map_or(0, |b| usize::from(b & 15) * 4);
    let Some(header) = packet.get_mut(..len) else { return };
    patch(header, 10, 0);
    let sum = super::checksum::sum(header);
    patch(header, 10, !sum);
}

/// What must hold of anything that was let in.
fn check(packet: &Packet, frame: &Bytes) {
    if let Packet::Tcp(segment) = packet {
        assert_eq!(segment.frame_len as usize, frame.len());
        assert_eq!(
            (segment.headers_len + segment.payload_len()) - if segment.link.is_some() { 14 } else { 0 },
            segment.ip_len
        );
        assert!((20..=60).contains(&segment.header_len) && segment.gso_segs > 0);
        assert!(segment.options.wscale.is_none_or(|w| w <= 14) && segment.options.mss != Some(0));
        assert_eq!(segment.options.raw.len() + 20, usize::from(segment.header_len));
        let _ = (reset_for(segment).map(|r| r.build()), segment.end_seq(), segment.flags.to_string());
    }
}

proptest! {
    #[test]
    fn what_was_forged_is_what_is_read(forge in any_forge()) {
        let medium = if forge.link.is_some() { Medium::Ethernet } else { Medium::Ip };
        let frame = forge.build();
        let segment = tcp(medium, &frame, RxMeta::default());
        check(&Packet::Tcp(segment.clone()), &frame);
        prop_assert_eq!((segment.src, segment.dst, segment.link), (forge.src, forge.dst, forge.link));
        prop_assert_eq!((segment.seq, segment.ack, segment.flags), (forge.seq, forge.ack, forge.flags));
        prop_assert_eq!((segment.window, segment.urgent, segment.ds_field), (forge.window, forge.urgent, forge.ds_field));
        prop_assert_eq!(segment.payload, forge.payload);
        prop_assert!(segment.options.raw.starts_with(&forge.options));
    }

    #[test]
    fn what_is_sent_is_what_is_read(
        six: bool, mss: Option<u16>, wscale in proptest::option::of(0u8..=14), sack_permitted: bool,
        ts: Option<(u32, u32)>, n in 0u32..=4, syn: bool, pieces in vec(vec(any::<u8>(), 0..50), 0..4),
    ) {
        let options = OutOptions {
            mss: mss.filter(|_| syn), wscale: wscale.filter(|_| syn), sack_permitted: sack_permitted && syn,
            timestamps: ts.map(|(tsval, tsecr)| Timestamps { tsval, tsecr }),
            sack: if syn { ArrayVec::new() } else { blocks(n) },
        };
        let payload: Vec<Bytes> = pieces.into_iter().map(Bytes::from).collect();
        let (src, dst) = if six { ("[fd00::1]:80", "[fd00::2]:9") } else { ("10.0.0.1:80", "10.0.0.2:9") };
        let out = SegmentOut {
            flags: if syn { TcpFlags::SYN } else { TcpFlags::ACK }, options: options.clone(), payload: &payload,
            ..SegmentOut::new(addr(src), addr(dst))
        };
        let packet = out.build().unwrap();
        prop_assert_eq!(packet.dst(), addr(dst).ip());
        prop_assert_eq!(options.to_bytes().len() % 4, 0);
        let segment = tcp(Medium::Ethernet, &packet.clone().into_frame(Some(link())), RxMeta::default());
        prop_assert_eq!(tcp(Medium::Ip, &packet.into_frame(None), RxMeta::default()).payload, payload.concat());
        prop_assert_eq!(segment.options.mss, options.mss.filter(|&mss| mss != 0));
        prop_assert_eq!(segment.options.wscale, options.wscale);
        prop_assert_eq!(segment.options.sack_permitted, options.sack_permitted);
        prop_assert_eq!(segment.options.timestamps, options.timestamps);
        prop_assert_eq!(&segment.options.sack[..], &options.sack[..options.sack.len().min(options.sack_room())]);
    }

    #[test]
    fn random_bytes_never_panic(bytes in vec(any::<u8>(), 0..200), meta in any_meta(), kind in 0usize..4) {
        let mut bytes = bytes;
        // Usually far enough in to be interesting.
        if let (Some(ethertype), Some(kind)) = (bytes.get_mut(12..14), [[8, 0], [8, 6], [0x86, 0xdd]].get(kind)) {
            ethertype.copy_from_slice(kind);
        }
        let frame = Bytes::from(bytes);
        for medium in [Medium::Ethernet, Medium::Ip] {
            if let Ok(packet) = parse(medium, &frame, meta) {
                check(&packet, &frame);
            }
        }
    }

    #[test]
    fn damaged_frames_never_panic(
        forge in any_forge(), meta in any_meta(), damage in vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        cut in any::<prop::sample::Index>(), cuts: bool, protocol in prop_oneof![4 => Just(6u8), 1 => prop::sample::select(vec![0u8, 1, 17, 43, 44, 58, 60])],
        extra in prop_oneof![3 => Just(vec![]), 1 => vec(any::<u8>(), 0..64)],
    ) {
        let forge = Forge { protocol, ip_extra: extra, padding: 3, ..forge };
        let mut bytes = forge.build().to_vec();
        for (at, value) in damage {
            // Mostly in the headers.
            let at = at.index(bytes.len().min(160));
            bytes[at] = value;
        }
        repair(&mut bytes, if forge.link.is_some() { 14 } else { 0 });
        if cuts {
            bytes.truncate(cut.index(bytes.len()));
        }
        let frame = Bytes::from(bytes);
        let medium = if forge.link.is_some() { Medium::Ethernet } else { Medium::Ip };
        if let Ok(packet) = parse(medium, &frame, meta) {
            check(&packet, &frame);
        }
    }

    #[test]
    fn any_options_are_walked(bytes in vec(any::<u8>(), 0..80), syn: bool) {
        let options = TcpOptions::parse(&bytes, syn);
        prop_assert_eq!(&options.raw[..], &bytes[..bytes.len().min(40)]);
    }

    #[test]
    fn long_sums_agree_with_the_definition(bytes in vec(any::<u8>(), 0..1000), times in 1usize..400) {
        let long = bytes.repeat(times);
        let mut sum: u64 = long.chunks(2).map(|c| u64::from(c[0]) << 8 | u64::from(c.get(1).copied().unwrap_or(0))).sum();
        while sum > 0xffff {
            sum = (sum >> 16) + (sum & 0xffff);
        }
        prop_assert_eq!(u64::from(super::checksum::sum(&long)), sum);
        let ip: IpAddr = "10.0.0.1".parse().unwrap();
        prop_assert_eq!(super::checksum::transport(ip, ip, 6, &[]), super::checksum::pseudo(ip, ip, 6, 0));
    }
}
