//! From a frame to a TCP segment, by way of pnet's packet views. Nothing here is shared with the stack's parser.

use std::net::{IpAddr, SocketAddr};

use pnet::packet::{ethernet::EthernetPacket, ipv4::Ipv4Packet, ipv6::Ipv6Packet, tcp::TcpPacket};
use serde::Serialize;

/// FIN.
pub const FIN: u8 = 0x01;
/// SYN.
pub const SYN: u8 = 0x02;
/// RST.
pub const RST: u8 = 0x04;
/// PSH.
pub const PSH: u8 = 0x08;
/// ACK.
pub const ACK: u8 = 0x10;

/// A TCP segment as it was on the wire.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Segment {
    /// Where it came from.
    pub source: SocketAddr,
    /// Where it went.
    pub destination: SocketAddr,
    /// Sequence number.
    pub seq: u32,
    /// Acknowledgement number.
    pub ack: u32,
    /// The eight flag bits.
    pub flags: u8,
    /// The window field, unscaled.
    pub window: u16,
    /// Payload bytes.
    pub payload: u32,
    /// Window scale option.
    pub wscale: Option<u8>,
    /// Maximum segment size option.
    pub mss: Option<u16>,
    /// SACK-permitted option.
    pub sack_permitted: bool,
    /// SACK blocks.
    pub sack: Vec<(u32, u32)>,
    /// Timestamps option: TSval and TSecr.
    pub timestamps: Option<(u32, u32)>,
}

impl Segment {
    /// Whether all of `bits` are set.
    #[must_use]
    pub const fn has(&self, bits: u8) -> bool {
        self.flags & bits == bits
    }

    /// The flags as letters, in tcpdump's manner.
    pub fn letters(&self) -> impl Iterator<Item = char> {
        let letters = [
            (SYN, 'S'),
            (FIN, 'F'),
            (RST, 'R'),
            (PSH, 'P'),
            (0x20, 'U'),
            (0x40, 'E'),
            (0x80, 'C'),
            (ACK, '.'),
        ];
        letters.into_iter().filter(|(bit, _)| self.has(*bit)).map(|(_, c)| c)
    }

    /// The same, together.
    #[must_use]
    pub fn flag_letters(&self) -> String {
        self.letters().collect()
    }
}

/// Why a frame is not a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum NotTcp {
    /// Another protocol.
    Other,
    /// A fragment of a packet.
    Fragment,
    /// Lengths that disagree, or too short.
    Malformed,
    /// The capture holds too little of it to tell.
    Cut,
}

impl NotTcp {
    /// In words.
    #[must_use]
    pub const fn in_words(self) -> &'static str {
        match self {
            NotTcp::Other => "it is not TCP",
            NotTcp::Fragment => "it is a fragment",
            NotTcp::Malformed => "it is malformed",
            NotTcp::Cut => "the capture holds too little of it",
        }
    }
}

/// Takes apart what a capture holds, `data`, of an Ethernet frame that was `original_len` bytes long.
///
/// # Errors
/// The frame carried no whole TCP segment, or its headers are not all there.
pub fn parse_cut(data: &[u8], original_len: usize) -> Result<Segment, NotTcp> {
    /// More than any frame has: what says otherwise is no capture of this program.
    const MOST: usize = 1 << 20;
    /// Ethernet, IPv4 and TCP without options.
    const SHORTEST: usize = 54;
    if data.len() >= original_len {
        return parse(data);
    }
    if original_len > MOST {
        return Err(NotTcp::Cut);
    }
    // Only headers are looked at, and these must be there: two different fillings then come to the same. What is no TCP
    // under both may still have been.
    let filled = |with: u8| {
        let mut frame = data.to_vec();
        frame.resize(original_len, with);
        parse(&frame)
    };
    let result = filled(0);
    if result != filled(0xff) || result.is_err() && data.len() < SHORTEST {
        return Err(NotTcp::Cut);
    }
    result
}

/// Takes an Ethernet frame apart.
///
/// # Errors
/// The frame carries no whole TCP segment.
pub fn parse(frame: &[u8]) -> Result<Segment, NotTcp> {
    let eth = EthernetPacket::new(frame).ok_or(NotTcp::Malformed)?;
    let mut ethertype = eth.get_ethertype().0;
    let mut at = 14;
    // Up to two VLAN tags.
    for _ in 0..2 {
        if !matches!(ethertype, 0x8100 | 0x88a8) {
            break;
        }
        let tag = frame.get(at + 2..at + 4).ok_or(NotTcp::Malformed)?;
        ethertype = u16::from_be_bytes([tag[0], tag[1]]);
        at += 4;
    }
    let packet = frame.get(at..).ok_or(NotTcp::Malformed)?;
    match ethertype {
        0x0800 => ipv4(packet),
        0x86dd => ipv6(packet),
        _ => Err(NotTcp::Other),
    }
}

fn ipv4(bytes: &[u8]) -> Result<Segment, NotTcp> {
    let ip = Ipv4Packet::new(bytes).ok_or(NotTcp::Malformed)?;
    let header = usize::from(ip.get_header_length()) * 4;
    // Segmentation offload may leave the length zero: the frame then says it.
    let total = match usize::from(ip.get_total_length()) {
        0 => bytes.len(),
        n => n,
    };
    if ip.get_version() != 4 || header < 20 {
        return Err(NotTcp::Malformed);
    }
    if ip.get_next_level_protocol().0 != 6 {
        return Err(NotTcp::Other);
    }
    // Bit 0 of pnet's flags is "more fragments".
    if ip.get_fragment_offset() != 0 || ip.get_flags() & 1 != 0 {
        return Err(NotTcp::Fragment);
    }
    let payload = bytes.get(header..total).ok_or(NotTcp::Malformed)?;
    tcp(payload, ip.get_source().into(), ip.get_destination().into())
}

fn ipv6(bytes: &[u8]) -> Result<Segment, NotTcp> {
    let ip = Ipv6Packet::new(bytes).ok_or(NotTcp::Malformed)?;
    if ip.get_version() != 6 {
        return Err(NotTcp::Malformed);
    }
    let total = match usize::from(ip.get_payload_length()) {
        0 => bytes.len(),
        n => 40 + n,
    };
    let mut next = ip.get_next_header().0;
    let mut at = 40;
    for _ in 0..8 {
        match next {
            6 => {
                let payload = bytes.get(at..total).ok_or(NotTcp::Malformed)?;
                return tcp(payload, ip.get_source().into(), ip.get_destination().into());
            }
            // Hop-by-hop, routing and destination options share one shape.
            0 | 43 | 60 => {
                let head = bytes.get(at..at + 2).ok_or(NotTcp::Malformed)?;
                next = head[0];
                at += 8 + usize::from(head[1]) * 8;
            }
            44 => return Err(NotTcp::Fragment),
            _ => return Err(NotTcp::Other),
        }
    }
    Err(NotTcp::Malformed)
}

fn tcp(bytes: &[u8], source: IpAddr, destination: IpAddr) -> Result<Segment, NotTcp> {
    let tcp = TcpPacket::new(bytes).ok_or(NotTcp::Malformed)?;
    let header = usize::from(tcp.get_data_offset()) * 4;
    let options = bytes.get(20..header).ok_or(NotTcp::Malformed)?;
    let payload = u32::try_from(bytes.len() - header).map_err(|_| NotTcp::Malformed)?;
    let mut segment = Segment {
        source: SocketAddr::new(source, tcp.get_source()),
        destination: SocketAddr::new(destination, tcp.get_destination()),
        seq: tcp.get_sequence(),
        ack: tcp.get_acknowledgement(),
        flags: tcp.get_flags(),
        window: tcp.get_window(),
        payload,
        wscale: None,
        mss: None,
        sack_permitted: false,
        sack: Vec::new(),
        timestamps: None,
    };
    walk(options, &mut segment);
    Ok(segment)
}

/// Reads the options that matter here. A malformed one ends the walk; the segment still counts, as RFC 9293 §3.1 asks.
fn walk(mut options: &[u8], segment: &mut Segment) {
    while let Some((&kind, rest)) = options.split_first() {
        if kind == 0 {
            return;
        }
        if kind == 1 {
            options = rest;
            continue;
        }
        let Some(&len) = rest.first() else { return };
        let Some(body) = options.get(2..usize::from(len)) else { return };
        match (kind, body) {
            (2, &[a, b]) => segment.mss = Some(u16::from_be_bytes([a, b])),
            (3, &[shift]) => segment.wscale = Some(shift),
            (4, &[]) => segment.sack_permitted = true,
            (8, &[a, b, c, d, e, f, g, h]) => {
                segment.timestamps =
                    Some((u32::from_be_bytes([a, b, c, d]), u32::from_be_bytes([e, f, g, h])));
            }
            (5, blocks) => {
                for block in blocks.chunks_exact(8) {
                    let number =
                        |i: usize| u32::from_be_bytes([block[i], block[i + 1], block[i + 2], block[i + 3]]);
                    segment.sack.push((number(0), number(4)));
                }
            }
            _ => {}
        }
        options = options.get(usize::from(len)..).unwrap_or(&[]);
    }
}
