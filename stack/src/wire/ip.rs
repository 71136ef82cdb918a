//! The IP layer of an arriving packet, both versions made alike.
//!
//! Answers to Linux 6.18 `ip_rcv_core`, `ip_rcv_options`, `ip_route_input_slow` (addresses no host may use), and
//! `ip6_rcv_core`, `ip6_protocol_deliver_rcu`; RFC 791, RFC 1122 §3.2.1, RFC 8200, RFC 2675.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use smoltcp::wire::{IpProtocol, Ipv6ExtHeader, Ipv6FragmentHeader, Ipv6Packet};

use super::{
    RxMeta, checksum,
    ingress::{ParseError, fragment, halves, malformed, not_for_us, words},
};
use crate::decision::DropReason;

/// What the layers above need to know of an IP header. Offsets count from the start of the frame.
#[derive(Clone, Copy, Debug)]
pub(super) struct IpHeader {
    pub(super) src: IpAddr,
    pub(super) dst: IpAddr,
    /// The protocol behind all extension headers.
    pub(super) protocol: u8,
    /// Where the byte stands that names the protocol.
    pub(super) protocol_at: usize,
    pub(super) ds_field: u8,
    pub(super) ttl: u8,
    /// Start of the IP header.
    pub(super) at: usize,
    /// Start of what `protocol` names.
    pub(super) payload_at: usize,
    /// End of the IP packet; what follows in the frame is padding.
    pub(super) end: usize,
}

impl IpHeader {
    /// For one host, not for a group or everybody.
    pub(super) fn dst_is_one_host(&self) -> bool {
        match self.dst {
            IpAddr::V4(dst) => !dst.is_multicast() && !dst.is_broadcast(),
            IpAddr::V6(dst) => !dst.is_multicast(),
        }
    }

    /// From somebody who could be answered.
    pub(super) fn src_is_one_host(&self) -> bool {
        !self.src.is_unspecified()
    }
}

/// The header of the usual packet: whole, without options, TCP from one host to one host. `None` says nothing but that
/// [`v4`] must look.
#[inline(always)]
pub(super) fn v4_plain_tcp(frame: &[u8], at: usize) -> Option<IpHeader> {
    let data = frame.get(at..)?;
    let [first, second, third, src, dst] = words::<5>(data)?;
    let (shape, total) = halves(first);
    let (ttl_and_protocol, _) = halves(third);
    let total = usize::from(total);
    let sum = [first, second, third, src, dst].iter().fold(0, |sum, word| sum + u64::from(*word));
    let plain = shape >> 8 == 0x45
        && ttl_and_protocol & 0xff == 6
        && second & 0x3fff == 0
        && (20..=data.len()).contains(&total)
        // All ones in any order of bytes (RFC 1071 §2 B).
        && checksum::fold(sum) == checksum::INTACT;
    let (src, dst) = (Ipv4Addr::from_bits(src), Ipv4Addr::from_bits(dst));
    if !plain || v4_addresses(src, dst).is_err() || dst.is_multicast() || dst.is_broadcast() {
        return None;
    }
    Some(IpHeader {
        src: src.into(),
        dst: dst.into(),
        protocol: 6,
        protocol_at: at + 9,
        ds_field: shape as u8,
        ttl: (ttl_and_protocol >> 8) as u8,
        at,
        payload_at: at + 20,
        end: at + total,
    })
}

/// Reads the IPv4 header at `at`.
pub(super) fn v4(frame: &[u8], at: usize, meta: RxMeta) -> Result<IpHeader, ParseError> {
    let data = frame.get(at..).unwrap_or_default();
    let Some(fixed) = data.first_chunk::<20>() else {
        return Err(malformed("IPv4 header cut short"));
    };
    let &[first, ds_field, l, m, _, _, f, g, ttl, protocol, _, _, s0, s1, s2, s3, d0, d1, d2, d3] = fixed;
    let header_len = usize::from(first & 0x0f) * 4;
    if first >> 4 != 4 {
        return Err(malformed("IP version is not 4"));
    }
    let Some((header, options)) = data.get(..header_len).and_then(|h| Some((h, h.get(20..)?))) else {
        return Err(malformed("IPv4 header length"));
    };
    if checksum::sum(header) != checksum::INTACT {
        return Err(ParseError::new(DropReason::BadChecksum, "IPv4 header checksum"));
    }
    // Linux 6.18 iph_totlen: a super-segment too long for the field says zero and the frame's length counts.
    let total = match u16::from_be_bytes([l, m]) {
        0 if meta.gso_size != 0 => data.len(),
        n => usize::from(n),
    };
    if total > data.len() {
        return Err(malformed("IPv4 packet cut short"));
    }
    if total < header_len {
        return Err(malformed("IPv4 total length below header length"));
    }
    let (src, dst) = (Ipv4Addr::new(s0, s1, s2, s3), Ipv4Addr::new(d0, d1, d2, d3));
    v4_addresses(src, dst)?;
    v4_options(options)?;
    // More fragments, or not the first one.
    if u16::from_be_bytes([f, g]) & 0x3fff != 0 {
        return Err(fragment());
    }
    Ok(IpHeader {
        src: src.into(),
        dst: dst.into(),
        protocol,
        protocol_at: at + 9,
        ds_field,
        ttl,
        at,
        payload_at: at + header_len,
        end: at + total,
    })
}

/// Reads the IPv6 header at `at` and the extension headers behind it.
pub(super) fn v6(frame: &[u8], at: usize, meta: RxMeta) -> Result<IpHeader, ParseError> {
    let data = frame.get(at..).unwrap_or_default();
    if data.len() < V6_HEADER_LEN {
        return Err(malformed("IPv6 header cut short"));
    }
    // Unchecked, because the checked view refuses the length of zero that a super-segment may have. Only accessors of the
    // forty fixed bytes are used.
    let view = Ipv6Packet::new_unchecked(data);
    if view.version() != 6 {
        return Err(malformed("IP version is not 6"));
    }
    let (src, dst) = (view.src_addr(), view.dst_addr());
    v6_addresses(src, dst)?;
    let first = view.next_header();
    let body = data.get(V6_HEADER_LEN..).unwrap_or_default();
    let len = match usize::from(view.payload_len()) {
        // RFC 2675 §2: the true length is in a hop-by-hop option. Newer senders of super-segments leave that out.
        0 => match jumbo_len(first, body) {
            Some(len) => len,
            None if meta.gso_size != 0 => body.len(),
            None => 0,
        },
        n => n,
    };
    let Some(body) = body.get(..len) else {
        return Err(malformed("IPv6 packet cut short"));
    };
    let chain = v6_chain(first, body)?;
    Ok(IpHeader {
        src: src.into(),
        dst: dst.into(),
        protocol: chain.protocol.into(),
        protocol_at: chain.named_at.map_or(at + 6, |named_at| at + V6_HEADER_LEN + named_at),
        ds_field: view.traffic_class(),
        ttl: view.hop_limit(),
        at,
        payload_at: at + V6_HEADER_LEN + chain.len,
        end: at + V6_HEADER_LEN + len,
    })
}

/// Where the extension headers of a packet lead.
struct Chain {
    protocol: IpProtocol,
    /// Offset in the body of the byte that names `protocol`; `None` if the fixed header does.
    named_at: Option<usize>,
    /// Bytes of extension headers.
    len: usize,
}

fn v6_chain(first: IpProtocol, body: &[u8]) -> Result<Chain, ParseError> {
    let mut chain = Chain { protocol: first, named_at: None, len: 0 };
    for position in 0..=MAX_EXTENSION_HEADERS {
        let rest = body.get(chain.len..).unwrap_or_default();
        let is_options = match chain.protocol {
            // RFC 8200 §4.1: hop-by-hop options come first or not at all.
            IpProtocol::HopByHop if position != 0 => {
                return Err(malformed("hop-by-hop options out of place"));
            }
            IpProtocol::HopByHop | IpProtocol::Ipv6Opts => true,
            IpProtocol::Ipv6Route | IpProtocol::Ipv6Frag => false,
            _ => return Ok(chain),
        };
        if chain.protocol == IpProtocol::Ipv6Frag {
            let Some([next, _, fields @ ..]) = rest.first_chunk::<8>() else {
                return Err(malformed("IPv6 fragment header cut short"));
            };
            let view = Ipv6FragmentHeader::new_unchecked(fields);
            // RFC 6946: a fragment that is the whole packet is no fragment.
            if view.more_frags() || view.frag_offset() != 0 {
                return Err(fragment());
            }
            chain = Chain { protocol: (*next).into(), named_at: Some(chain.len), len: chain.len + 8 };
            continue;
        }
        let Ok(ext) = Ipv6ExtHeader::new_checked(rest) else {
            return Err(malformed("IPv6 extension header cut short"));
        };
        if is_options {
            v6_options(ext.payload())?;
        } else if ext.payload().get(1) != Some(&0) {
            // RFC 8200 §4.4: with segments left we are a hop, not the destination.
            return Err(not_for_us("source-routed packet"));
        }
        chain = Chain {
            protocol: ext.next_header(),
            named_at: Some(chain.len),
            len: chain.len + 8 * (usize::from(ext.header_len()) + 1),
        };
    }
    Err(malformed("too many IPv6 extension headers"))
}

/// RFC 8200 §4.2: an unknown option whose type does not start with two zero bits forbids delivery.
fn v6_options(mut rest: &[u8]) -> Result<(), ParseError> {
    while let Some((&kind, behind)) = rest.split_first() {
        if kind == 0 {
            rest = behind;
            continue;
        }
        let next = behind.first().and_then(|&len| behind.get(usize::from(len) + 1..));
        let Some(next) = next else {
            return Err(malformed("IPv6 option cut short"));
        };
        if kind != OPTION_JUMBO && kind & 0xc0 != 0 {
            return Err(malformed("IPv6 option that must be understood"));
        }
        rest = next;
    }
    Ok(())
}

/// The length in a jumbo payload option, where Linux puts it: first in the hop-by-hop header. It counts only above
/// 65,535 (RFC 2675 §3).
fn jumbo_len(first: IpProtocol, body: &[u8]) -> Option<usize> {
    if first != IpProtocol::HopByHop {
        return None;
    }
    let &[_, _, OPTION_JUMBO, 4, a, b, c, d] = body.first_chunk::<8>()? else { return None };
    let len = u32::from_be_bytes([a, b, c, d]);
    (len > 65_535).then_some(len as usize)
}

/// Linux 6.18 `ip_route_input_slow`: sources and destinations that never arrive from outside. Multicast and broadcast
/// destinations are for the layer above to refuse.
fn v4_addresses(src: Ipv4Addr, dst: Ipv4Addr) -> Result<(), ParseError> {
    let zero = |a: Ipv4Addr| a.octets().first() == Some(&0);
    if src.is_multicast() || src.is_broadcast() || src.is_loopback() || zero(src) {
        return Err(not_for_us("IPv4 source no host may have"));
    }
    if dst.is_loopback() || zero(dst) {
        return Err(not_for_us("IPv4 destination no host may have"));
    }
    Ok(())
}

/// Linux 6.18 `ip6_rcv_core`. An unspecified source is for the layer above to refuse.
fn v6_addresses(src: Ipv6Addr, dst: Ipv6Addr) -> Result<(), ParseError> {
    if src.is_multicast() || src.is_loopback() || src.to_ipv4_mapped().is_some() {
        return Err(not_for_us("IPv6 source no host may have"));
    }
    if dst.is_loopback() || dst.is_unspecified() {
        return Err(not_for_us("IPv6 destination no host may have"));
    }
    Ok(())
}

/// Broken options condemn the packet; a source route that is not yet used up is not for us. The rest is skipped.
fn v4_options(mut rest: &[u8]) -> Result<(), ParseError> {
    while let Some((&kind, behind)) = rest.split_first() {
        match kind {
            0 => break,
            1 => {
                rest = behind;
                continue;
            }
            _ => {}
        }
        let len = behind.first().map_or(0, |&len| usize::from(len));
        let Some((option, next)) = rest.split_at_checked(len).filter(|(o, _)| o.len() >= 2) else {
            return Err(malformed("IPv4 option length"));
        };
        if matches!(kind, LOOSE_ROUTE | STRICT_ROUTE)
            && option.get(2).is_none_or(|&at| usize::from(at) <= len)
        {
            return Err(not_for_us("source-routed packet"));
        }
        rest = next;
    }
    Ok(())
}

const V6_HEADER_LEN: usize = 40;
/// More than any sane packet has, few enough that walking them is no work.
const MAX_EXTENSION_HEADERS: usize = 8;
const OPTION_JUMBO: u8 = 0xc2;
const LOOSE_ROUTE: u8 = 131;
const STRICT_ROUTE: u8 = 137;
