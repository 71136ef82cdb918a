//! Frames as no decent sender would send them: any flags, options and lengths, checksums right or not.
//!
//! For tests and model senders. Unlike [`super::SegmentOut`] nothing is checked and nothing refused.

use core::net::{IpAddr, SocketAddr};

use bytes::{BufMut, Bytes, BytesMut};
use smoltcp::wire::{EthernetProtocol, Ipv4Packet, Ipv6Packet};

use super::{
    Link, OutOptions, SegmentOut, TcpFlags, checksum,
    egress::{DEFAULT_TTL, TCP_CHECKSUM_AT, ethernet},
    patch,
};
use crate::units::Seq;

/// What to put where a checksum belongs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Checksum {
    /// The right one.
    #[default]
    Right,
    /// One that is wrong by a bit.
    Wrong,
    /// Only the pseudo header summed, as on a frame with `NEEDS_CSUM`. For an IPv4 header: zero.
    Unfinished,
    /// This one.
    Literal(u16),
}

impl Checksum {
    fn field(self, right: u16, unfinished: u16) -> u16 {
        match self {
            Checksum::Right => right,
            // Not the complement: 0x0000 and 0xffff are one value in one's complement.
            Checksum::Wrong => right ^ 1,
            Checksum::Unfinished => unfinished,
            Checksum::Literal(value) => value,
        }
    }
}

/// A TCP frame to be. Set what matters, then [`Forge::build`].
///
/// ```
/// use bytes::Bytes;
/// use rightedge_stack::wire::{Medium, Packet, RxMeta, TcpFlags, forge::Forge, parse};
///
/// let forge = Forge::new("10.0.0.2:4000".parse().unwrap(), "10.0.0.1:80".parse().unwrap())
///     .flags(TcpFlags::PSH | TcpFlags::ACK)
///     .payload(Bytes::from_static(b"hello"));
/// let Ok(Packet::Tcp(segment)) = parse(Medium::Ip, &forge.build(), RxMeta::default()) else { panic!() };
/// assert_eq!(segment.flags.to_string(), "P.");
/// assert_eq!(segment.payload, "hello");
/// ```
#[derive(Clone, Debug)]
pub struct Forge {
    /// An Ethernet header with these addresses, or none.
    pub link: Option<Link>,
    /// Source.
    pub src: SocketAddr,
    /// Destination. If it is of another IP version than the source, both become IPv6 (`::ffff:a.b.c.d`).
    pub dst: SocketAddr,
    /// Sequence number.
    pub seq: Seq,
    /// Acknowledgment number.
    pub ack: Seq,
    /// Control bits.
    pub flags: TcpFlags,
    /// Window field.
    pub window: u16,
    /// Urgent pointer.
    pub urgent: u16,
    /// Option bytes, padded with zeros to a multiple of four; only the first forty are used.
    pub options: Vec<u8>,
    /// Payload.
    pub payload: Bytes,
    /// TOS byte or traffic class.
    pub ds_field: u8,
    /// TTL or hop limit.
    pub ttl: u8,
    /// IPv4 identification.
    pub ip_id: u16,
    /// IPv4 flags and fragment offset, as the 16 bits on the wire.
    pub fragment_field: u16,
    /// IPv4 options (padded with zeros to a multiple of four, only the first forty used) or IPv6 extension headers.
    pub ip_extra: Vec<u8>,
    /// Protocol or next header in the fixed IP header.
    pub protocol: u8,
    /// Instead of the right IPv4 total length or IPv6 payload length. The right one of a super-segment beyond
    /// 65,535 bytes is zero.
    pub ip_length: Option<u16>,
    /// Instead of the right data offset, in words.
    pub data_offset: Option<u8>,
    /// The IPv4 header's checksum.
    pub ip_checksum: Checksum,
    /// The TCP checksum.
    pub tcp_checksum: Checksum,
    /// Zero bytes behind the IP packet.
    pub padding: usize,
}

impl Forge {
    /// A right and proper ACK without payload, as a bare IP packet.
    #[must_use]
    pub fn new(src: SocketAddr, dst: SocketAddr) -> Self {
        Forge {
            link: None,
            src,
            dst,
            seq: Seq(0),
            ack: Seq(0),
            flags: TcpFlags::ACK,
            window: u16::MAX,
            urgent: 0,
            options: Vec::new(),
            payload: Bytes::new(),
            ds_field: 0,
            ttl: DEFAULT_TTL,
            ip_id: 0,
            fragment_field: DONT_FRAGMENT,
            ip_extra: Vec::new(),
            protocol: 6,
            ip_length: None,
            data_offset: None,
            ip_checksum: Checksum::Right,
            tcp_checksum: Checksum::Right,
            padding: 0,
        }
    }

    /// In an Ethernet frame.
    #[must_use]
    pub fn link(mut self, link: Link) -> Self {
        self.link = Some(link);
        self
    }

    /// With these control bits.
    #[must_use]
    pub fn flags(mut self, flags: TcpFlags) -> Self {
        self.flags = flags;
        self
    }

    /// With these numbers.
    #[must_use]
    pub fn seq_ack(mut self, seq: Seq, ack: Seq) -> Self {
        (self.seq, self.ack) = (seq, ack);
        self
    }

    /// With this window field.
    #[must_use]
    pub fn window(mut self, window: u16) -> Self {
        self.window = window;
        self
    }

    /// With these options, laid out as Linux does.
    #[must_use]
    pub fn options(mut self, options: &OutOptions) -> Self {
        self.options = options.to_bytes().to_vec();
        self
    }

    /// With these option bytes, whatever they mean.
    #[must_use]
    pub fn raw_options(mut self, options: &[u8]) -> Self {
        self.options = options.to_vec();
        self
    }

    /// With this payload.
    #[must_use]
    pub fn payload(mut self, payload: impl Into<Bytes>) -> Self {
        self.payload = payload.into();
        self
    }

    /// With this TCP checksum.
    #[must_use]
    pub fn tcp_checksum(mut self, checksum: Checksum) -> Self {
        self.tcp_checksum = checksum;
        self
    }

    /// The frame.
    #[must_use]
    pub fn build(&self) -> Bytes {
        let (src, dst) = match (self.src.ip(), self.dst.ip()) {
            (IpAddr::V4(src), IpAddr::V6(dst)) => (src.to_ipv6_mapped().into(), dst.into()),
            (IpAddr::V6(src), IpAddr::V4(dst)) => (src.into(), dst.to_ipv6_mapped().into()),
            same => same,
        };
        let tcp = self.tcp(src, dst);
        let mut packet = self.ip(src, dst, tcp.len());
        packet.put_slice(&tcp);
        packet.put_bytes(0, self.padding);
        let ethertype = if src.is_ipv4() { EthernetProtocol::Ipv4 } else { EthernetProtocol::Ipv6 };
        match self.link {
            Some(link) => ethernet(link, ethertype, &packet),
            None => packet.freeze(),
        }
    }

    fn tcp(&self, src: IpAddr, dst: IpAddr) -> Vec<u8> {
        let options = padded(&self.options);
        let header = super::egress::tcp_header(
            &SegmentOut {
                seq: self.seq,
                ack: self.ack,
                flags: self.flags,
                window: self.window,
                urgent: self.urgent,
                ..SegmentOut::new(self.src, self.dst)
            },
            &options,
        );
        let mut tcp = Vec::with_capacity(header.len() + self.payload.len());
        tcp.extend_from_slice(&header);
        tcp.extend_from_slice(&self.payload);
        if let (Some(words), Some(field)) = (self.data_offset, tcp.get_mut(12)) {
            *field = words << 4 | *field & 0x0f;
        }
        let right = !checksum::transport(src, dst, TCP, &tcp);
        let unfinished = checksum::pseudo(src, dst, TCP, tcp.len());
        patch(&mut tcp, TCP_CHECKSUM_AT, self.tcp_checksum.field(right, unfinished));
        tcp
    }

    fn ip(&self, src: IpAddr, dst: IpAddr, body: usize) -> BytesMut {
        let mut header = vec![0; if src.is_ipv4() { 20 } else { 40 }];
        match (src, dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                header.extend_from_slice(&padded(&self.ip_extra));
                let len = header.len();
                let total = u16::try_from(len + body).unwrap_or(0);
                let mut view = Ipv4Packet::new_unchecked(&mut header[..]);
                view.set_version(4);
                view.set_header_len(u8::try_from(len).unwrap_or(60));
                view.set_dscp(self.ds_field >> 2);
                view.set_ecn(self.ds_field & 3);
                view.set_total_len(self.ip_length.unwrap_or(total));
                view.set_ident(self.ip_id);
                view.set_hop_limit(self.ttl);
                view.set_next_header(self.protocol.into());
                view.set_src_addr(src);
                view.set_dst_addr(dst);
                patch(&mut header, 6, self.fragment_field);
                let right = !checksum::sum(&header);
                patch(&mut header, 10, self.ip_checksum.field(right, 0));
            }
            (IpAddr::V6(src), IpAddr::V6(dst)) => {
                let len = u16::try_from(self.ip_extra.len() + body).unwrap_or(0);
                let mut view = Ipv6Packet::new_unchecked(&mut header[..]);
                view.set_version(6);
                view.set_traffic_class(self.ds_field);
                view.set_payload_len(self.ip_length.unwrap_or(len));
                view.set_next_header(self.protocol.into());
                view.set_hop_limit(self.ttl);
                view.set_src_addr(src);
                view.set_dst_addr(dst);
                header.extend_from_slice(&self.ip_extra);
            }
            // `build` has made them alike.
            _ => {}
        }
        BytesMut::from(&header[..])
    }
}

/// At most forty bytes, and zeros up to a multiple of four.
fn padded(bytes: &[u8]) -> Vec<u8> {
    let mut padded = bytes.get(..40).unwrap_or(bytes).to_vec();
    padded.resize(padded.len().next_multiple_of(4), 0);
    padded
}

const DONT_FRAGMENT: u16 = 0x4000;
const TCP: u8 = 6;
