//! From a frame to a [`Packet`], or to the reason for dropping it.
//!
//! Answers to Linux 6.18 `eth_type_trans`, `tcp_v4_rcv`, `tcp_v6_rcv`, `icmp_rcv`, `icmpv6_rcv`, `ndisc_rcv`,
//! `arp_process` up to the point where state is needed; RFC 9293 §3.1, RFC 792, RFC 4443, RFC 4861 §7.1, RFC 826.

use core::net::{IpAddr, Ipv4Addr, SocketAddr};

use bytes::Bytes;
use smoltcp::wire::{
    ArpOperation, ArpPacket as ArpView, ArpRepr, EthernetProtocol, Icmpv4Message, Icmpv4Packet,
    Icmpv6Message, Icmpv6Packet, IpProtocol, NdiscNeighborFlags, NdiscRepr, UdpPacket,
};

use super::{
    ArpPacket, EchoRequest, Link, MacAddr, Medium, NeighbourAdvert, NeighbourSolicit, Packet, RxMeta,
    TcpFlags, TcpOptions, TcpSegment, Unserved, checksum, ip, ip::IpHeader, share,
};
use crate::{decision::DropReason, units::Seq};

/// Why a frame is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what}")]
pub struct ParseError {
    /// The reason to count.
    pub reason: DropReason,
    /// What exactly was wrong, in words.
    pub what: &'static str,
    /// The sequence number, if it is a TCP segment and its header could be read; else 0.
    pub seq: Seq,
    /// The payload bytes lost, under the same condition.
    pub len: u32,
    /// The TCP segment whose checksum is wrong.
    pub damaged: Option<Damaged>,
}

/// What can be said of a TCP segment with a wrong checksum. Its ports may be damaged too; Linux believes them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Damaged {
    /// Where it says it comes from.
    pub src: SocketAddr,
    /// Where it says it goes.
    pub dst: SocketAddr,
    /// Bytes of TCP header and payload.
    pub tcp_len: u32,
    /// Segments it stands for.
    pub segments: u16,
}

impl ParseError {
    pub(super) fn new(reason: DropReason, what: &'static str) -> Self {
        ParseError { reason, what, seq: Seq(0), len: 0, damaged: None }
    }
}

pub(super) fn malformed(what: &'static str) -> ParseError {
    ParseError::new(DropReason::Malformed, what)
}

pub(super) fn not_for_us(what: &'static str) -> ParseError {
    ParseError::new(DropReason::NotForUs, what)
}

pub(super) fn fragment() -> ParseError {
    ParseError::new(DropReason::Fragment, "IP fragment")
}

/// Reads one frame as it came from a device, without the virtio-net header, of which `meta` is what counts.
///
/// The transport checksum is not verified if `meta.csum_ok`; that of the IPv4 header always is. Whether the packet's
/// addresses are *ours* is not known here; [`crate::iface::Iface::on_packet`] judges that.
///
/// # Errors
///
/// What a host drops on sight, with the reason to count.
pub fn parse(medium: Medium, frame: &Bytes, meta: RxMeta) -> Result<Packet, ParseError> {
    match medium {
        Medium::Ip => match frame.first().map(|b| b >> 4) {
            Some(4) => v4(frame, 0, None, meta),
            Some(6) => v6(frame, 0, None, meta),
            _ => Err(malformed("neither IPv4 nor IPv6")),
        },
        Medium::Ethernet => {
            let Some(&[d0, d1, d2, d3, d4, d5, s0, s1, s2, s3, s4, s5, t0, t1]) =
                frame.first_chunk::<ETHERNET_HEADER_LEN>()
            else {
                return Err(malformed("Ethernet header cut short"));
            };
            let src = MacAddr([s0, s1, s2, s3, s4, s5]);
            let link = Link { src, dst: MacAddr([d0, d1, d2, d3, d4, d5]) };
            match u16::from_be_bytes([t0, t1]).into() {
                EthernetProtocol::Ipv4 => v4(frame, ETHERNET_HEADER_LEN, Some(link), meta),
                EthernetProtocol::Ipv6 => v6(frame, ETHERNET_HEADER_LEN, Some(link), meta),
                EthernetProtocol::Arp => arp(frame.get(ETHERNET_HEADER_LEN..).unwrap_or_default(), link),
                EthernetProtocol::Unknown(_) => Ok(Packet::Ignored("EtherType")),
            }
        }
    }
}

/// A packet on its way up, one IP header read.
#[derive(Clone, Copy)]
struct Arrival<'a> {
    frame: &'a Bytes,
    ip: IpHeader,
    link: Option<Link>,
    meta: RxMeta,
    /// What the IP header carries.
    body: &'a [u8],
}

impl<'a> Arrival<'a> {
    fn new(frame: &'a Bytes, ip: IpHeader, link: Option<Link>, meta: RxMeta) -> Result<Self, ParseError> {
        match frame.get(ip.payload_at..ip.end) {
            Some(body) => Ok(Arrival { frame, ip, link, meta, body }),
            None => Err(malformed("IP header lengths disagree")),
        }
    }

    /// Sent to one host, by one host, in a frame for one station (the kernel's `PACKET_HOST`).
    fn is_unicast(&self) -> bool {
        self.ip.dst_is_one_host()
            && self.ip.src_is_one_host()
            && self.link.is_none_or(|link| !link.dst.is_group())
    }

    #[inline(always)]
    fn checksum_is_right(&self) -> bool {
        self.meta.csum_ok
            || checksum::transport(self.ip.src, self.ip.dst, self.ip.protocol, self.body) == checksum::INTACT
    }

    /// The part of the frame behind the first `skip` bytes of the body.
    fn payload(&self, skip: usize) -> Bytes {
        share(self.frame, self.ip.payload_at.saturating_add(skip), self.ip.end).unwrap_or_default()
    }

    fn tcp(&self) -> Result<Packet, ParseError> {
        if !self.is_unicast() {
            return Err(not_for_us("TCP to or from no single host"));
        }
        self.segment()
    }

    /// A TCP segment between two single hosts.
    #[inline(always)]
    fn segment(&self) -> Result<Packet, ParseError> {
        let Some([ports, seq, ack, control, last]) = words::<5>(self.body) else {
            return Err(malformed("TCP header cut short"));
        };
        let (src_port, dst_port) = halves(ports);
        let (control, window) = halves(control);
        let (_, urgent) = halves(last);
        let header_len = (control >> 12 << 2) as u8;
        let Some(options) = self.body.get(20..usize::from(header_len)) else {
            return Err(malformed("TCP header cut short"));
        };
        let src = SocketAddr::new(self.ip.src, src_port);
        let dst = SocketAddr::new(self.ip.dst, dst_port);
        let payload_len = self.body.len().saturating_sub(usize::from(header_len));
        // A size on a frame that holds no more than one segment means nothing was merged.
        let gso_segs = match self.meta.gso_size {
            0 => 1,
            size => u16::try_from(payload_len.div_ceil(usize::from(size))).unwrap_or(u16::MAX).max(1),
        };
        if !self.checksum_is_right() {
            let tcp_len = to_u32(self.body.len());
            return Err(ParseError {
                seq: Seq(seq),
                len: to_u32(payload_len),
                damaged: Some(Damaged { src, dst, tcp_len, segments: gso_segs }),
                ..ParseError::new(DropReason::BadChecksum, "TCP checksum")
            });
        }
        // The flags have the places they have on the wire; the three bits above are reserved.
        let flags = TcpFlags::from_bits_truncate(control);
        let syn = flags.contains(TcpFlags::SYN);
        Ok(Packet::Tcp(TcpSegment {
            link: self.link,
            src,
            dst,
            seq: Seq(seq),
            ack: Seq(ack),
            flags,
            window,
            urgent,
            options: if options.is_empty() { TcpOptions::default() } else { TcpOptions::parse(options, syn) },
            header_len,
            ds_field: self.ip.ds_field,
            ttl: self.ip.ttl,
            ip_len: to_u32(self.ip.end.saturating_sub(self.ip.at)),
            frame_len: to_u32(self.frame.len()),
            headers_len: to_u32(self.ip.payload_at.saturating_add(usize::from(header_len))),
            gso_size: self.meta.gso_size,
            gso_segs,
            meta: self.meta,
            payload: self.payload(usize::from(header_len)),
            payload_len: to_u32(payload_len),
        }))
    }

    fn icmpv4(&self) -> Result<Packet, ParseError> {
        let Ok(view) = Icmpv4Packet::new_checked(self.body) else {
            return Err(malformed("ICMP header cut short"));
        };
        if !self.meta.csum_ok && checksum::sum(self.body) != checksum::INTACT {
            return Err(ParseError::new(DropReason::BadChecksum, "ICMP checksum"));
        }
        match view.msg_type() {
            // RFC 1122 §3.2.2.6 lets a host ignore pings to a group; Linux does by default.
            Icmpv4Message::EchoRequest if self.is_unicast() => {
                Ok(self.echo(view.echo_ident(), view.echo_seq_no()))
            }
            _ => Ok(Packet::Ignored("ICMP")),
        }
    }

    fn icmpv6(&self) -> Result<Packet, ParseError> {
        if self.body.len() < 4 {
            return Err(malformed("ICMPv6 header cut short"));
        }
        if !self.checksum_is_right() {
            return Err(ParseError::new(DropReason::BadChecksum, "ICMPv6 checksum"));
        }
        // The checked view knows only some message types; the others are none of our business.
        let kind = self.body.first().copied().map(Icmpv6Message::from);
        match kind {
            Some(Icmpv6Message::EchoRequest) => match Icmpv6Packet::new_checked(self.body) {
                Ok(view) if self.is_unicast() => Ok(self.echo(view.echo_ident(), view.echo_seq_no())),
                Ok(_) => Ok(Packet::Ignored("ICMPv6 echo to a group")),
                Err(_) => Err(malformed("ICMPv6 echo cut short")),
            },
            Some(Icmpv6Message::NeighborSolicit | Icmpv6Message::NeighborAdvert) => {
                self.neighbour_discovery()
            }
            _ => Ok(Packet::Ignored("ICMPv6")),
        }
    }

    /// RFC 4861 §7.1: what a node must check before it believes a neighbour.
    fn neighbour_discovery(&self) -> Result<Packet, ParseError> {
        let (IpAddr::V6(src), IpAddr::V6(dst)) = (self.ip.src, self.ip.dst) else {
            return Err(malformed("ND over IPv4"));
        };
        // No router lowers the hop limit from 255 to 255: the sender is on this link.
        if self.ip.ttl != 255 || self.body.get(1) != Some(&0) {
            return Err(malformed("ND from beyond the link"));
        }
        let repr = Icmpv6Packet::new_checked(self.body).and_then(|view| NdiscRepr::parse(&view));
        let mac = |raw: Option<smoltcp::wire::RawHardwareAddress>| {
            raw.and_then(|raw| raw.as_bytes().first_chunk::<6>().copied())
                .map(MacAddr)
                .filter(|mac| mac.is_unicast())
        };
        match repr {
            Ok(NdiscRepr::NeighborSolicit { target_addr, lladdr }) => {
                let probe_is_odd = src.is_unspecified() && (lladdr.is_some() || !is_solicited_node(dst));
                if target_addr.is_multicast() || probe_is_odd {
                    return Err(malformed("neighbour solicitation"));
                }
                let source_mac = mac(lladdr);
                Ok(Packet::NeighbourSolicit(NeighbourSolicit {
                    link: self.link,
                    src,
                    dst,
                    target: target_addr,
                    source_mac,
                }))
            }
            Ok(NdiscRepr::NeighborAdvert { flags, target_addr, lladdr }) => {
                let solicited = flags.contains(NdiscNeighborFlags::SOLICITED);
                if target_addr.is_multicast() || src.is_unspecified() || (dst.is_multicast() && solicited) {
                    return Err(malformed("neighbour advertisement"));
                }
                Ok(Packet::NeighbourAdvert(NeighbourAdvert {
                    link: self.link,
                    target: target_addr,
                    target_mac: mac(lladdr),
                    override_known: flags.contains(NdiscNeighborFlags::OVERRIDE),
                }))
            }
            _ => Err(malformed("ND message")),
        }
    }

    fn echo(&self, ident: u16, seq_no: u16) -> Packet {
        Packet::Echo(EchoRequest {
            link: self.link,
            src: self.ip.src,
            dst: self.ip.dst,
            ds_field: self.ip.ds_field,
            ident,
            seq_no,
            data: self.payload(ICMP_ECHO_HEADER_LEN),
        })
    }

    fn udp(&self) -> Result<Packet, ParseError> {
        let Ok(view) = UdpPacket::new_checked(self.body) else {
            return Err(malformed("UDP header cut short"));
        };
        // RFC 768: zero means the sender made no checksum; RFC 8200 §8.1 does not allow that.
        let unsummed = view.checksum() == 0 && self.ip.src.is_ipv4();
        if !unsummed && !self.checksum_is_right() {
            return Err(ParseError::new(DropReason::BadChecksum, "UDP checksum"));
        }
        Ok(self.unserved())
    }

    /// RFC 1122 §3.2.2: no ICMP errors about what was sent to a group or by nobody.
    fn unserved(&self) -> Packet {
        if !self.is_unicast() {
            return Packet::Ignored("not TCP, to or from no single host");
        }
        Packet::Unserved(Unserved {
            link: self.link,
            src: self.ip.src,
            dst: self.ip.dst,
            protocol: self.ip.protocol,
            protocol_at: to_u32(self.ip.protocol_at.saturating_sub(self.ip.at)),
            original: share(self.frame, self.ip.at, self.ip.end).unwrap_or_default(),
        })
    }
}

fn v4(frame: &Bytes, at: usize, link: Option<Link>, meta: RxMeta) -> Result<Packet, ParseError> {
    if let Some(ip) = ip::v4_plain_tcp(frame, at)
        && let Some(body) = frame.get(ip.payload_at..ip.end)
        && link.is_none_or(|link| !link.dst.is_group())
    {
        return Arrival { frame, ip, link, meta, body }.segment();
    }
    let arrival = Arrival::new(frame, ip::v4(frame, at, meta)?, link, meta)?;
    match IpProtocol::from(arrival.ip.protocol) {
        IpProtocol::Tcp => arrival.tcp(),
        IpProtocol::Udp => arrival.udp(),
        IpProtocol::Icmp => arrival.icmpv4(),
        IpProtocol::Igmp => Ok(Packet::Ignored("IGMP")),
        _ => Ok(arrival.unserved()),
    }
}

fn v6(frame: &Bytes, at: usize, link: Option<Link>, meta: RxMeta) -> Result<Packet, ParseError> {
    let arrival = Arrival::new(frame, ip::v6(frame, at, meta)?, link, meta)?;
    match IpProtocol::from(arrival.ip.protocol) {
        IpProtocol::Tcp => arrival.tcp(),
        IpProtocol::Udp => arrival.udp(),
        IpProtocol::Icmpv6 => arrival.icmpv6(),
        IpProtocol::Ipv6NoNxt => Ok(Packet::Ignored("nothing behind the IPv6 header")),
        _ => Ok(arrival.unserved()),
    }
}

fn arp(body: &[u8], link: Link) -> Result<Packet, ParseError> {
    let repr = ArpView::new_checked(body).and_then(|view| ArpRepr::parse(&view));
    let Ok(ArpRepr::EthernetIpv4 {
        operation,
        source_hardware_addr,
        source_protocol_addr,
        target_protocol_addr,
        ..
    }) = repr
    else {
        return Err(malformed("ARP packet"));
    };
    let request = match operation {
        ArpOperation::Request => true,
        ArpOperation::Reply => false,
        ArpOperation::Unknown(_) => return Ok(Packet::Ignored("ARP operation")),
    };
    let no_host = |a: Ipv4Addr| a.is_multicast() || a.is_broadcast() || a.is_loopback();
    if no_host(source_protocol_addr) || no_host(target_protocol_addr) {
        return Err(malformed("ARP for an address no host may have"));
    }
    Ok(Packet::Arp(ArpPacket {
        link,
        request,
        sender_mac: MacAddr(source_hardware_addr.0),
        sender_ip: source_protocol_addr,
        target_ip: target_protocol_addr,
    }))
}

/// One of the groups in which the owners of unicast addresses listen for solicitations (RFC 4291 §2.7.1).
fn is_solicited_node(group: core::net::Ipv6Addr) -> bool {
    group.octets().starts_with(&[0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff])
}

/// The first `N` words of `data`.
#[inline(always)]
pub(super) fn words<const N: usize>(data: &[u8]) -> Option<[u32; N]> {
    let (words, _) = data.as_chunks::<4>();
    words.first_chunk::<N>().map(|words| words.map(u32::from_be_bytes))
}

/// The two fields of 16 bits in a word.
#[inline(always)]
pub(super) fn halves(word: u32) -> (u16, u16) {
    ((word >> 16) as u16, word as u16)
}

fn to_u32(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

pub(super) const ETHERNET_HEADER_LEN: usize = 14;
const ICMP_ECHO_HEADER_LEN: usize = 8;
