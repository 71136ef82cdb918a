//! From what the stack wants to say to bytes: TCP segments and the IP packets around them.
//!
//! Answers to Linux 6.18 `__tcp_transmit_skb` (header fields), `tcp_options_write` (through [`OutOptions`]),
//! `ip_build_and_send_pkt`, `tcp_v4_send_reset`; RFC 9293 §3.1 and §3.10.7.1.
//!
//! Every packet leaves unfragmentable (IPv4: DF set). The IPv4 identification is the caller's choice and 0 by default:
//! RFC 6864 §4.1 lets it be anything on an atomic datagram, Linux sends 0 on a SYN-ACK, and a constant does not keep
//! the receiver from merging segments. IPv6 flow labels are 0.

use core::net::{IpAddr, SocketAddr};

use arrayvec::ArrayVec;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use smoltcp::wire::{EthernetProtocol, IpProtocol, Ipv6Packet};

use super::{
    Link, MacAddr, OutOptions, TcpFlags, TcpSegment, Words,
    checksum::{self, Sum},
    ingress::ETHERNET_HEADER_LEN,
    options::MAX_OPTION_BYTES,
    patch,
};
use crate::units::Seq;

/// Why something cannot be put on the wire. Always the caller's doing, never the peer's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EgressError {
    /// Source and destination are of different IP versions.
    #[error("source and destination are of different IP versions")]
    MixedFamilies,
    /// The packet does not fit the IP length field.
    #[error("packet of {len} bytes does not fit an IP length field")]
    TooLong {
        /// Bytes behind the IP header.
        len: usize,
    },
}

/// A TCP segment to send; [`SegmentOut::new`] makes one to fill in.
#[derive(Clone, Debug)]
pub struct SegmentOut<'a> {
    /// Us.
    pub src: SocketAddr,
    /// The peer.
    pub dst: SocketAddr,
    /// Sequence number of the first payload byte, or of the SYN.
    pub seq: Seq,
    /// Acknowledgment number; written as it is, ACK flag or not.
    pub ack: Seq,
    /// Control bits.
    pub flags: TcpFlags,
    /// The window field, scaled already.
    pub window: u16,
    /// The urgent pointer.
    pub urgent: u16,
    /// Options.
    pub options: OutOptions,
    /// Payload, in as many pieces as it lies in.
    pub payload: &'a [Bytes],
    /// TOS byte or traffic class, ECN bits included.
    pub ds_field: u8,
    /// TTL or hop limit.
    pub ttl: u8,
    /// IPv4 identification; unused with IPv6.
    pub ip_id: u16,
}

impl SegmentOut<'_> {
    /// A segment without flags, options and payload.
    #[must_use]
    pub fn new(src: SocketAddr, dst: SocketAddr) -> Self {
        SegmentOut {
            src,
            dst,
            seq: Seq(0),
            ack: Seq(0),
            flags: TcpFlags::empty(),
            window: 0,
            urgent: 0,
            options: OutOptions::default(),
            payload: &[],
            ds_field: 0,
            ttl: DEFAULT_TTL,
            ip_id: 0,
        }
    }

    /// The IP packet.
    ///
    /// # Errors
    ///
    /// [`EgressError`] if it cannot be one.
    pub fn build(&self) -> Result<IpPacket, EgressError> {
        self.build_in(&mut BytesMut::new())
    }

    /// The IP packet, cut from `chunk`.
    pub(crate) fn build_in(&self, chunk: &mut BytesMut) -> Result<IpPacket, EgressError> {
        let options = self.options.to_bytes();
        let payload_len = self.payload.iter().map(Bytes::len).fold(0usize, usize::saturating_add);
        let spec = IpSpec {
            src: self.src.ip(),
            dst: self.dst.ip(),
            protocol: IpProtocol::Tcp.into(),
            ds_field: self.ds_field,
            ttl: self.ttl,
            ip_id: self.ip_id,
        };
        let mut header = tcp_words(self, options.len());
        let tcp_len = payload_len.saturating_add(TCP_HEADER_LEN).saturating_add(options.len());
        if payload_len == 0 {
            // Nearly all a receiver says: the checksum is known before anything is written.
            let sum = Sum::default().pseudo(spec.src, spec.dst, spec.protocol, tcp_len).add(&options);
            let sum = !sum.add_words(&header).finish();
            let [.., last] = &mut header;
            *last |= u32::from(sum) << 16;
        }
        spec.begin(chunk, tcp_len)?;
        chunk.put_slice(header.map(u32::to_be_bytes).as_flattened());
        chunk.put_slice(&options);
        if payload_len == 0 {
            return Ok(spec.packet(chunk));
        }
        for piece in self.payload {
            chunk.put_slice(piece);
        }
        let mut packet = spec.packet(chunk);
        packet.fill_checksum(&spec, TCP_CHECKSUM_AT);
        Ok(packet)
    }
}

/// The answer to a segment that no socket wants, or `None` if it gets none.
///
/// RFC 9293 §3.10.7.1: never answer a RST with a RST; one with an ACK gets a RST at the number it acknowledges, one
/// without gets a RST at zero that acknowledges it. Linux 6.18 `tcp_v4_send_reset` keeps the TOS without its ECN bits.
#[must_use]
pub fn reset_for(segment: &TcpSegment) -> Option<SegmentOut<'static>> {
    if segment.flags.contains(TcpFlags::RST) {
        return None;
    }
    let mut reset = SegmentOut::new(segment.dst, segment.src);
    reset.ds_field = segment.ds_field & !ECN_BITS;
    if segment.flags.contains(TcpFlags::ACK) {
        reset.seq = segment.ack;
        reset.flags = TcpFlags::RST;
    } else {
        reset.ack = segment.end_seq();
        reset.flags = TcpFlags::RST | TcpFlags::ACK;
    }
    Some(reset)
}

/// A finished IP packet with room in front for an Ethernet header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IpPacket {
    /// [`ETHERNET_HEADER_LEN`] bytes of room, then the packet.
    buf: BytesMut,
    dst: IpAddr,
    tag: u64,
}

impl IpPacket {
    /// A packet to `dst` of these words, cut from `chunk`.
    pub(crate) fn of_words<const N: usize>(chunk: &mut BytesMut, dst: IpAddr, words: &Words<N>) -> Self {
        chunk.reserve(ETHERNET_HEADER_LEN + size_of_val(words));
        chunk.put_slice(&[0; ETHERNET_HEADER_LEN]);
        chunk.put_slice(words.as_flattened());
        IpPacket { buf: chunk.split(), dst, tag: 0 }
    }

    /// Where it goes.
    #[must_use]
    pub fn dst(&self) -> IpAddr {
        self.dst
    }

    /// The packet, from the IP header on.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        self.buf.get(ETHERNET_HEADER_LEN..).unwrap_or_default()
    }

    /// A number of the caller's that stays with the packet until it leaves; 0 unless set.
    #[must_use]
    pub fn tag(&self) -> u64 {
        self.tag
    }

    /// Sets the number that stays with the packet.
    #[must_use]
    pub fn with_tag(mut self, tag: u64) -> Self {
        self.tag = tag;
        self
    }

    /// The frame: with an Ethernet header if there is a link, bare otherwise.
    #[must_use]
    pub fn into_frame(mut self, link: Option<Link>) -> Bytes {
        let Some(link) = link else {
            self.buf.advance(ETHERNET_HEADER_LEN.min(self.buf.len()));
            return self.buf.freeze();
        };
        let ethertype = if self.dst.is_ipv4() { EthernetProtocol::Ipv4 } else { EthernetProtocol::Ipv6 };
        ethernet_header(&mut self.buf, link, ethertype);
        self.buf.freeze()
    }

    /// Puts the checksum over everything behind the IP header at `at`, counted from there.
    pub(super) fn fill_checksum(&mut self, spec: &IpSpec, at: usize) {
        let Some(body) = self.buf.get_mut(ETHERNET_HEADER_LEN + spec.header_len()..) else { return };
        patch(body, at, 0);
        let sum = checksum::transport(spec.src, spec.dst, spec.protocol, body);
        patch(body, at, !sum);
    }
}

/// What an IP header says.
#[derive(Clone, Copy, Debug)]
pub(crate) struct IpSpec {
    pub(crate) src: IpAddr,
    pub(crate) dst: IpAddr,
    pub(crate) protocol: u8,
    pub(crate) ds_field: u8,
    pub(crate) ttl: u8,
    pub(crate) ip_id: u16,
}

impl IpSpec {
    fn header_len(&self) -> usize {
        if self.src.is_ipv4() { IPV4_HEADER_LEN } else { IPV6_HEADER_LEN }
    }

    /// A packet with everything but its `len` bytes of body.
    pub(super) fn start(&self, len: usize) -> Result<IpPacket, EgressError> {
        let mut buf = BytesMut::new();
        self.begin(&mut buf, len)?;
        Ok(IpPacket { buf, dst: self.dst, tag: 0 })
    }

    /// Writes everything in front of a body of `len` bytes to `chunk`, and makes room there for the body.
    fn begin(&self, chunk: &mut BytesMut, len: usize) -> Result<(), EgressError> {
        let too_long = EgressError::TooLong { len };
        match (self.src, self.dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                let total = len.checked_add(IPV4_HEADER_LEN).ok_or(too_long)?;
                let total_len = u16::try_from(total).map_err(|_| too_long)?;
                let mut header = [
                    0x4500_0000 | u32::from(self.ds_field) << 16 | u32::from(total_len),
                    u32::from(self.ip_id) << 16 | DONT_FRAGMENT,
                    u32::from(self.ttl) << 24 | u32::from(self.protocol) << 16,
                    src.to_bits(),
                    dst.to_bits(),
                ];
                let sum = !Sum::default().add_words(&header).finish();
                let [_, _, third, ..] = &mut header;
                *third |= u32::from(sum);
                chunk.reserve(ETHERNET_HEADER_LEN + total);
                chunk.put_slice(&[0; ETHERNET_HEADER_LEN]);
                chunk.put_slice(header.map(u32::to_be_bytes).as_flattened());
            }
            (IpAddr::V6(src), IpAddr::V6(dst)) => {
                let payload_len = u16::try_from(len).map_err(|_| too_long)?;
                let mut header = [0; IPV6_HEADER_LEN];
                let mut view = Ipv6Packet::new_unchecked(&mut header);
                view.set_version(6);
                view.set_traffic_class(self.ds_field);
                view.set_payload_len(payload_len);
                view.set_next_header(self.protocol.into());
                view.set_hop_limit(self.ttl);
                view.set_src_addr(src);
                view.set_dst_addr(dst);
                chunk.reserve(ETHERNET_HEADER_LEN + header.len() + len);
                chunk.put_slice(&[0; ETHERNET_HEADER_LEN]);
                chunk.put_slice(&header);
            }
            _ => return Err(EgressError::MixedFamilies),
        }
        Ok(())
    }

    /// What was written to `chunk`, as a packet; the chunk keeps its free end.
    fn packet(&self, chunk: &mut BytesMut) -> IpPacket {
        IpPacket { buf: chunk.split(), dst: self.dst, tag: 0 }
    }

    /// A packet around `body`.
    pub(crate) fn around(&self, body: &[u8]) -> Result<IpPacket, EgressError> {
        let mut packet = self.start(body.len())?;
        packet.buf.put_slice(body);
        Ok(packet)
    }
}

/// An Ethernet frame around `body`.
pub(super) fn ethernet(link: Link, ethertype: EthernetProtocol, body: &[u8]) -> Bytes {
    let mut buf = BytesMut::with_capacity(ETHERNET_HEADER_LEN + body.len());
    buf.put_bytes(0, ETHERNET_HEADER_LEN);
    ethernet_header(&mut buf, link, ethertype);
    buf.put_slice(body);
    buf.freeze()
}

fn ethernet_header(buf: &mut [u8], link: Link, ethertype: EthernetProtocol) {
    if let Some(header) = buf.first_chunk_mut::<ETHERNET_HEADER_LEN>() {
        let MacAddr([d0, d1, d2, d3, d4, d5]) = link.dst;
        let MacAddr([s0, s1, s2, s3, s4, s5]) = link.src;
        let [t0, t1] = u16::from(ethertype).to_be_bytes();
        *header = [d0, d1, d2, d3, d4, d5, s0, s1, s2, s3, s4, s5, t0, t1];
    }
}

/// The header with a checksum of zero.
pub(super) fn tcp_header(segment: &SegmentOut<'_>, options: &[u8]) -> ArrayVec<u8, MAX_TCP_HEADER_LEN> {
    let mut header = ArrayVec::new();
    // Cannot fail: 20 bytes and at most 40 of options.
    let _ =
        header.try_extend_from_slice(tcp_words(segment, options.len()).map(u32::to_be_bytes).as_flattened());
    let _ = header.try_extend_from_slice(options);
    header
}

/// The same without options: the checksum is the upper half of the last word.
#[inline]
fn tcp_words(segment: &SegmentOut<'_>, options: usize) -> [u32; TCP_HEADER_LEN / 4] {
    let words = 5 + u16::try_from(options / 4).unwrap_or(0);
    let pair = |a: u16, b: u16| u32::from(a) << 16 | u32::from(b);
    [
        pair(segment.src.port(), segment.dst.port()),
        segment.seq.0,
        segment.ack.0,
        pair(words << 12 | segment.flags.bits() & 0x0fff, segment.window),
        u32::from(segment.urgent),
    ]
}

pub(super) const DEFAULT_TTL: u8 = 64;
pub(super) const TCP_CHECKSUM_AT: usize = 16;
pub(super) const MAX_TCP_HEADER_LEN: usize = TCP_HEADER_LEN + MAX_OPTION_BYTES;
const TCP_HEADER_LEN: usize = 20;
const IPV4_HEADER_LEN: usize = 20;
const IPV6_HEADER_LEN: usize = 40;
const ECN_BITS: u8 = 3;
pub(super) const DONT_FRAGMENT: u32 = 0x4000;
