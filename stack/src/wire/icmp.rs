//! ICMP, ICMPv6, ARP and ND messages on the way out, and nothing but their bytes; when to send them is
//! [`crate::iface`]'s business.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use bytes::Bytes;
use smoltcp::{
    phy::ChecksumCapabilities,
    wire::{
        ArpOperation, ArpPacket as ArpView, ArpRepr, EthernetAddress, EthernetProtocol, Icmpv4Packet,
        Icmpv4Repr, Icmpv6Packet, Icmpv6Repr, IpProtocol, NdiscNeighborFlags, NdiscRepr, RawHardwareAddress,
    },
};

use super::{
    EchoRequest, IpPacket, IpSpec, Link, MacAddr, Unserved, checksum,
    egress::{DEFAULT_TTL, ethernet},
    patch,
};

/// The same data back to who sent it.
pub(crate) fn echo_reply(request: &EchoRequest) -> Option<IpPacket> {
    let spec = IpSpec {
        src: request.dst,
        dst: request.src,
        protocol: icmp_of(request.dst),
        ds_field: request.ds_field,
        ttl: DEFAULT_TTL,
        ip_id: 0,
    };
    let (ident, seq_no, data) = (request.ident, request.seq_no, request.data.as_ref());
    match (request.dst, request.src) {
        (IpAddr::V4(_), IpAddr::V4(_)) => {
            let repr = Icmpv4Repr::EchoReply { ident, seq_no, data };
            let mut body = vec![0; repr.buffer_len()];
            repr.emit(&mut Icmpv4Packet::new_unchecked(&mut body[..]), &ChecksumCapabilities::default());
            spec.around(&body).ok()
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            icmpv6(&spec, src, dst, &Icmpv6Repr::EchoReply { ident, seq_no, data })
        }
        _ => None,
    }
}

/// The error a host sends about a packet it has no taker for.
///
/// RFC 1122 §3.2.2.1: port unreachable for UDP, protocol unreachable for the rest. RFC 4443 §3.1 and §3.4: port
/// unreachable, and an unrecognised next header, pointed at. As much of the packet comes along as Linux sends.
pub(crate) fn unreachable(about: &Unserved) -> Option<IpPacket> {
    let is_udp = about.protocol == u8::from(IpProtocol::Udp);
    let (kind, code, pointer, room) = match (about.dst, is_udp) {
        (IpAddr::V4(_), true) => (3, 3, 0, ICMPV4_ERROR_ROOM),
        (IpAddr::V4(_), false) => (3, 2, 0, ICMPV4_ERROR_ROOM),
        (IpAddr::V6(_), true) => (1, 4, 0, ICMPV6_ERROR_ROOM),
        (IpAddr::V6(_), false) => (4, 1, about.protocol_at, ICMPV6_ERROR_ROOM),
    };
    let original = about.original.get(..room).unwrap_or(&about.original);
    let mut body = vec![kind, code, 0, 0];
    body.extend_from_slice(&pointer.to_be_bytes());
    body.extend_from_slice(original);
    let spec = IpSpec {
        src: about.dst,
        dst: about.src,
        protocol: icmp_of(about.dst),
        ds_field: 0,
        ttl: DEFAULT_TTL,
        ip_id: 0,
    };
    let sum = match about.dst {
        IpAddr::V4(_) => checksum::sum(&body),
        IpAddr::V6(_) => checksum::transport(spec.src, spec.dst, spec.protocol, &body),
    };
    patch(&mut body, 2, !sum);
    spec.around(&body).ok()
}

/// "Who has `target`?" To everybody, or to `known` alone to see whether it is still there.
pub(crate) fn arp_request(src: MacAddr, src_ip: Ipv4Addr, target: Ipv4Addr, known: Option<MacAddr>) -> Bytes {
    let link = Link { src, dst: known.unwrap_or(MacAddr::BROADCAST) };
    arp(link, ArpOperation::Request, src_ip, MacAddr::default(), target)
}

/// "`src_ip` is at `src`", to the one who asked.
pub(crate) fn arp_reply(src: MacAddr, src_ip: Ipv4Addr, dst: MacAddr, dst_ip: Ipv4Addr) -> Bytes {
    arp(Link { src, dst }, ArpOperation::Reply, src_ip, dst, dst_ip)
}

fn arp(
    link: Link,
    operation: ArpOperation,
    source: Ipv4Addr,
    target_hardware_addr: MacAddr,
    target: Ipv4Addr,
) -> Bytes {
    let repr = ArpRepr::EthernetIpv4 {
        operation,
        source_hardware_addr: EthernetAddress(link.src.0),
        source_protocol_addr: source,
        target_hardware_addr: EthernetAddress(target_hardware_addr.0),
        target_protocol_addr: target,
    };
    let mut body = vec![0; repr.buffer_len()];
    repr.emit(&mut ArpView::new_unchecked(&mut body[..]));
    ethernet(link, EthernetProtocol::Arp, &body)
}

/// Asks for `target`: its solicited-node group, or the neighbour itself to see whether it is still there.
pub(crate) fn neighbour_solicit(
    mac: MacAddr,
    src: Ipv6Addr,
    target: Ipv6Addr,
    dst: Ipv6Addr,
) -> Option<IpPacket> {
    let lladdr = Some(RawHardwareAddress::from_bytes(&mac.0));
    ndisc(src, dst, NdiscRepr::NeighborSolicit { target_addr: target, lladdr })
}

/// Says that we have `target`. `solicited` is off when the asker has no address yet.
pub(crate) fn neighbour_advert(
    mac: MacAddr,
    target: Ipv6Addr,
    dst: Ipv6Addr,
    solicited: bool,
) -> Option<IpPacket> {
    let mut flags = NdiscNeighborFlags::OVERRIDE;
    flags.set(NdiscNeighborFlags::SOLICITED, solicited);
    let lladdr = Some(RawHardwareAddress::from_bytes(&mac.0));
    ndisc(target, dst, NdiscRepr::NeighborAdvert { flags, target_addr: target, lladdr })
}

fn ndisc(src: Ipv6Addr, dst: Ipv6Addr, repr: NdiscRepr<'_>) -> Option<IpPacket> {
    // RFC 4861 §7.1: the receiver must see a hop limit of 255.
    let spec = IpSpec {
        src: src.into(),
        dst: dst.into(),
        protocol: IpProtocol::Icmpv6.into(),
        ds_field: 0,
        ttl: 255,
        ip_id: 0,
    };
    icmpv6(&spec, src, dst, &Icmpv6Repr::Ndisc(repr))
}

fn icmpv6(spec: &IpSpec, src: Ipv6Addr, dst: Ipv6Addr, repr: &Icmpv6Repr<'_>) -> Option<IpPacket> {
    let mut body = vec![0; repr.buffer_len()];
    repr.emit(&src, &dst, &mut Icmpv6Packet::new_unchecked(&mut body[..]), &ChecksumCapabilities::default());
    spec.around(&body).ok()
}

/// The group in which the owner of `target` listens for solicitations (RFC 4291 §2.7.1).
pub(crate) fn solicited_node(target: Ipv6Addr) -> Ipv6Addr {
    let [.., a, b, c] = target.octets();
    Ipv6Addr::from_octets([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, a, b, c])
}

fn icmp_of(ours: IpAddr) -> u8 {
    if ours.is_ipv4() { IpProtocol::Icmp.into() } else { IpProtocol::Icmpv6.into() }
}

/// Linux 6.18 `__icmp_send`: 576 bytes with both headers.
const ICMPV4_ERROR_ROOM: usize = 576 - 20 - 8;
/// RFC 4443 §2.4 (c): the error fits the smallest MTU.
const ICMPV6_ERROR_ROOM: usize = 1280 - 40 - 8;
