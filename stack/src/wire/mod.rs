//! Bytes in, typed packets out, and back: Ethernet, IPv4, IPv6, TCP and the little ICMP, ARP and ND a host needs.
//!
//! [`parse`] turns a frame into a [`Packet`] or says why the frame is dropped; nothing in a frame can make it panic.
//! Headers are read through smoltcp's checked views; the TCP option walk is our own ([`TcpOptions`]) because Linux
//! keeps what it found before a broken option instead of refusing the segment. Payload is never copied: it is a slice
//! of the frame's [`Bytes`].
//!
//! [`SegmentOut`] is the way out, in the option layout that Linux 6.18's `tcp_options_write` produces. [`forge`] builds
//! frames no decent sender would send, for tests and model senders.
//!
//! What is said most takes a shorter way to the same: `follow` reads the next segment of a flow against the last one, and
//! `ack` fills in the few fields in which the ACKs of a connection differ.
//!
//! Left out: VLAN tags, IP reassembly, IPsec, source routing, VNET header decoding (the caller hands in [`RxMeta`]).
#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing,
        clippy::unreachable
    )
)]

mod ack;
mod checksum;
mod egress;
mod follow;
pub mod forge;
pub(crate) mod icmp;
mod ingress;
mod ip;
mod options;
#[cfg(test)]
mod tests;

use core::{fmt, net::IpAddr, net::Ipv6Addr, net::SocketAddr};

use bytes::Bytes;

pub use self::egress::{EgressError, IpPacket, SegmentOut, reset_for};
pub use self::ingress::{Damaged, ParseError, parse};
pub use self::options::{MAX_SACK_BLOCKS, OutOptions, TcpOptions, Timestamps};
pub(crate) use self::{
    ack::{AckForm, Words},
    checksum::patch,
    egress::IpSpec,
    follow::Flow,
};

use crate::units::Seq;

/// What a network interface carries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "kebab-case"))]
pub enum Medium {
    /// Ethernet frames (TAP).
    #[default]
    Ethernet,
    /// Bare IP packets (TUN).
    Ip,
}

/// What the device said about an arriving frame, taken from its virtio-net header. `default()` says nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct RxMeta {
    /// Payload bytes of each segment merged into the frame; 0 if the frame is one segment.
    pub gso_size: u16,
    /// The header's own idea of where the payload starts, counted from the frame's first byte; 0 if unknown.
    pub hdr_len: u16,
    /// `NEEDS_CSUM` or `DATA_VALID`: the transport checksum is unfinished or known to be right, so it is not verified.
    pub csum_ok: bool,
}

/// A 48-bit Ethernet address.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(transparent))]
pub struct MacAddr(pub [u8; 6]);

impl MacAddr {
    /// All ones.
    pub const BROADCAST: MacAddr = MacAddr([0xff; 6]);

    /// Broadcast or multicast: the group bit is set.
    #[must_use]
    pub const fn is_group(self) -> bool {
        let [first, ..] = self.0;
        first & 1 != 0
    }

    /// Names one station: neither a group nor zero.
    #[must_use]
    pub fn is_unicast(self) -> bool {
        !self.is_group() && self.0 != [0; 6]
    }

    /// The group address that an IPv6 multicast address maps to (RFC 2464 §7).
    #[must_use]
    pub const fn for_ipv6_multicast(group: Ipv6Addr) -> MacAddr {
        let [.., a, b, c, d] = group.octets();
        MacAddr([0x33, 0x33, a, b, c, d])
    }
}

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The two addresses of an Ethernet header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Link {
    /// Who sent the frame.
    pub src: MacAddr,
    /// Whom the frame is for.
    pub dst: MacAddr,
}

bitflags::bitflags! {
    /// The control bits of a TCP header, at the places they have on the wire. `Display` writes them like tcpdump.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    #[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
    pub struct TcpFlags: u16 {
        /// No more data from the sender.
        const FIN = 1;
        /// Synchronise sequence numbers.
        const SYN = 2;
        /// Reset the connection.
        const RST = 4;
        /// Push.
        const PSH = 8;
        /// The acknowledgment field counts.
        const ACK = 16;
        /// The urgent pointer counts.
        const URG = 32;
        /// ECN echo.
        const ECE = 64;
        /// Congestion window reduced.
        const CWR = 128;
        /// Accurate ECN (once called NS).
        const AE = 256;
    }
}

impl fmt::Display for TcpFlags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return f.write_str("none");
        }
        // tcpdump's letters in tcpdump's order.
        for (flag, letter) in [
            (TcpFlags::FIN, "F"),
            (TcpFlags::SYN, "S"),
            (TcpFlags::RST, "R"),
            (TcpFlags::PSH, "P"),
            (TcpFlags::ACK, "."),
            (TcpFlags::URG, "U"),
            (TcpFlags::ECE, "E"),
            (TcpFlags::CWR, "W"),
            (TcpFlags::AE, "e"),
        ] {
            if self.contains(flag) {
                f.write_str(letter)?;
            }
        }
        Ok(())
    }
}

/// One TCP segment as it arrived, addresses and checksums already judged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TcpSegment {
    /// The Ethernet addresses it came with; `None` on [`Medium::Ip`].
    pub link: Option<Link>,
    /// The peer.
    pub src: SocketAddr,
    /// Us, if the address is ours ([`crate::iface::Iface`] knows).
    pub dst: SocketAddr,
    /// Sequence number of the first payload byte, or of the SYN.
    pub seq: Seq,
    /// Acknowledgment number; means nothing without the ACK flag.
    pub ack: Seq,
    /// Control bits.
    pub flags: TcpFlags,
    /// The window field, not scaled.
    pub window: u16,
    /// The urgent pointer; means nothing without the URG flag.
    pub urgent: u16,
    /// The options that could be read.
    pub options: TcpOptions,
    /// Length of the TCP header with options in bytes (data offset × 4): 20…60.
    pub header_len: u8,
    /// The payload, a slice of the frame.
    pub payload: Bytes,
    /// Its length, also when the payload itself has gone to its queue.
    pub(crate) payload_len: u32,
    /// TOS byte or traffic class, ECN bits included.
    pub ds_field: u8,
    /// TTL or hop limit.
    pub ttl: u8,
    /// From the first byte of the IP header to the end of the IP packet.
    pub ip_len: u32,
    /// The whole frame, Ethernet header and padding included.
    pub frame_len: u32,
    /// Everything in front of the payload, Ethernet header included.
    pub headers_len: u32,
    /// Payload bytes of each segment merged into this one; 0 if it is a single one.
    pub gso_size: u16,
    /// How many segments were merged into this one; at least 1.
    pub gso_segs: u16,
    /// What the device said.
    pub meta: RxMeta,
}

impl TcpSegment {
    /// Sequence space it takes: payload, plus one each for SYN and FIN.
    #[must_use]
    pub fn seq_len(&self) -> u32 {
        let flags =
            u32::from(self.flags.contains(TcpFlags::SYN)) + u32::from(self.flags.contains(TcpFlags::FIN));
        self.payload_len().wrapping_add(flags)
    }

    /// The sequence number behind it.
    #[must_use]
    pub fn end_seq(&self) -> Seq {
        self.seq + self.seq_len()
    }

    /// Payload bytes.
    #[must_use]
    pub fn payload_len(&self) -> u32 {
        self.payload_len
    }
}

/// An ARP packet for Ethernet and IPv4.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ArpPacket {
    /// The Ethernet addresses it came with.
    pub link: Link,
    /// A request; otherwise a reply.
    pub request: bool,
    /// The sender's hardware address, as the ARP body has it.
    pub sender_mac: MacAddr,
    /// The sender's address; `0.0.0.0` in a probe.
    pub sender_ip: core::net::Ipv4Addr,
    /// The address asked for (request), or ours (reply).
    pub target_ip: core::net::Ipv4Addr,
}

/// An ICMP or ICMPv6 echo request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EchoRequest {
    /// The Ethernet addresses it came with; `None` on [`Medium::Ip`].
    pub link: Option<Link>,
    /// Who asks.
    pub src: IpAddr,
    /// Who is asked.
    pub dst: IpAddr,
    /// TOS byte or traffic class.
    pub ds_field: u8,
    /// Identifier, given back unchanged.
    pub ident: u16,
    /// Sequence number, given back unchanged.
    pub seq_no: u16,
    /// Data, given back unchanged; a slice of the frame.
    pub data: Bytes,
}

/// A neighbour solicitation, already checked by the rules of RFC 4861 §7.1.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NeighbourSolicit {
    /// The Ethernet addresses it came with; `None` on [`Medium::Ip`].
    pub link: Option<Link>,
    /// Who asks; unspecified while the asker is testing the address.
    pub src: Ipv6Addr,
    /// Where it was sent: a solicited-node group, or the target itself.
    pub dst: Ipv6Addr,
    /// The address asked for.
    pub target: Ipv6Addr,
    /// The asker's hardware address, if given.
    pub source_mac: Option<MacAddr>,
}

/// A neighbour advertisement, already checked by the rules of RFC 4861 §7.1.2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NeighbourAdvert {
    /// The Ethernet addresses it came with; `None` on [`Medium::Ip`].
    pub link: Option<Link>,
    /// The address it speaks of.
    pub target: Ipv6Addr,
    /// The hardware address of `target`, if given.
    pub target_mac: Option<MacAddr>,
    /// It may replace what is already known.
    pub override_known: bool,
}

/// An intact packet for a protocol nobody here serves; a host answers it with an ICMP error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unserved {
    /// The Ethernet addresses it came with; `None` on [`Medium::Ip`].
    pub link: Option<Link>,
    /// Who sent it.
    pub src: IpAddr,
    /// Whom it was for.
    pub dst: IpAddr,
    /// IP protocol number; 17 is UDP.
    pub protocol: u8,
    /// Where in `original` the byte that names the protocol stands.
    pub protocol_at: u32,
    /// The IP packet, header included; a slice of the frame.
    pub original: Bytes,
}

/// What a frame turned out to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Packet {
    /// A TCP segment.
    Tcp(TcpSegment),
    /// ARP for IPv4.
    Arp(ArpPacket),
    /// An echo request over IPv4 or IPv6.
    Echo(EchoRequest),
    /// A neighbour solicitation.
    NeighbourSolicit(NeighbourSolicit),
    /// A neighbour advertisement.
    NeighbourAdvert(NeighbourAdvert),
    /// For a protocol nobody here serves.
    Unserved(Unserved),
    /// Well formed and of no concern to us; says what it is.
    Ignored(&'static str),
}

/// A slice of `bytes`, or `None` where [`Bytes::slice`] would panic. Shares the memory.
#[inline]
pub(crate) fn share(bytes: &Bytes, from: usize, to: usize) -> Option<Bytes> {
    (from <= to && to <= bytes.len()).then(|| bytes.slice(from..to))
}
