//! Frames of the model sender: Ethernet, ARP and IPv4/TCP, built and read by hand.
//!
//! Own code on purpose: the receiving stack's parser must not check itself.

use std::net::Ipv4Addr;

use bytes::{Bytes, BytesMut};

/// A hardware address.
pub type Mac = [u8; 6];

/// TCP flag bits.
pub(super) mod flag {
    pub(crate) const FIN: u8 = 0x01;
    pub(crate) const SYN: u8 = 0x02;
    pub(crate) const RST: u8 = 0x04;
    pub(crate) const PSH: u8 = 0x08;
    pub(crate) const ACK: u8 = 0x10;
}

/// What a frame turned out to be.
#[derive(Debug, PartialEq)]
pub(super) enum Frame {
    /// A request for the hardware address of `target`.
    ArpRequest { sender_mac: Mac, sender: Ipv4Addr, target: Ipv4Addr },
    /// A TCP segment with a good checksum.
    Tcp(Segment),
    /// A frame that is damaged: what is wrong.
    Bad(&'static str),
    /// Something the model has no use for.
    Other,
}

/// A received segment; payload is counted, not kept.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Segment {
    pub(super) src: [u8; 4],
    pub(super) dst: [u8; 4],
    pub(super) src_port: u16,
    pub(super) dst_port: u16,
    pub(super) seq: u32,
    pub(super) ack: u32,
    pub(super) flags: u8,
    pub(super) window: u16,
    pub(super) payload: u32,
    pub(super) mss: Option<u16>,
    pub(super) wscale: Option<u8>,
    pub(super) sack_ok: bool,
    pub(super) timestamps: Option<(u32, u32)>,
    pub(super) sack: [(u32, u32); 4],
    pub(super) sack_len: usize,
}

/// What goes into an outgoing segment.
#[derive(Clone, Debug, Default)]
pub(super) struct Out<'a> {
    pub(super) seq: u32,
    pub(super) ack: u32,
    pub(super) flags: u8,
    pub(super) window: u16,
    pub(super) mss: Option<u16>,
    pub(super) wscale: Option<u8>,
    pub(super) sack_ok: bool,
    pub(super) timestamps: Option<(u32, u32)>,
    /// Selective acknowledgements; the model has none to give, a test receiver has.
    pub(super) sack: &'a [(u32, u32)],
    pub(super) payload: &'a [u8],
}

/// The two ends of the connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ends {
    pub(super) mac: Mac,
    pub(super) peer_mac: Mac,
    pub(super) addr: Ipv4Addr,
    pub(super) peer_addr: Ipv4Addr,
    pub(super) port: u16,
    pub(super) peer_port: u16,
}

const ETH: usize = 14;
const IP: usize = 20;
const TCP: usize = 20;

/// Reads a frame.
pub(super) fn parse(frame: &[u8]) -> Frame {
    match be16(frame, 12) {
        Some(0x0806) => parse_arp(frame),
        Some(0x0800) => parse_ip(frame),
        Some(_) => Frame::Other,
        None => Frame::Bad("shorter than an Ethernet header"),
    }
}

fn parse_arp(frame: &[u8]) -> Frame {
    // Ethernet, IPv4, six and four bytes, request.
    if frame.get(14..22) != Some(&[0, 1, 8, 0, 6, 4, 0, 1]) {
        return Frame::Other;
    }
    match (array(frame, 22), array(frame, 28), array(frame, 38)) {
        (Some(sender_mac), Some(sender), Some(target)) => {
            Frame::ArpRequest { sender_mac, sender: Ipv4Addr::from(sender), target: Ipv4Addr::from(target) }
        }
        _ => Frame::Bad("ARP request cut short"),
    }
}

fn parse_ip(frame: &[u8]) -> Frame {
    let ip = frame.get(ETH..).unwrap_or(&[]);
    let Some(&first) = ip.first() else { return Frame::Bad("no IP header") };
    let header = usize::from(first & 0xf) * 4;
    let total = usize::from(be16(ip, 2).unwrap_or(0));
    if first >> 4 != 4 || header < IP || total < header || ip.len() < total {
        return Frame::Bad("IPv4 lengths contradict each other");
    }
    if ip.get(9) != Some(&6) {
        return Frame::Other;
    }
    if be16(ip, 6).is_some_and(|f| f & 0x3fff != 0) {
        return Frame::Bad("IP fragment");
    }
    if fold(sum(0, ip.get(..header).unwrap_or(&[]))) != 0xffff {
        return Frame::Bad("IP checksum");
    }
    let (Some(src), Some(dst), Some(tcp)) = (array(ip, 12), array(ip, 16), ip.get(header..total)) else {
        return Frame::Bad("IPv4 header cut short");
    };
    let pseudo = pseudo_sum(src, dst, tcp.len());
    if tcp.len() < TCP || fold(sum(pseudo, tcp)) != 0xffff {
        return Frame::Bad("TCP checksum or length");
    }
    match parse_tcp(tcp, src, dst) {
        Some(s) => Frame::Tcp(s),
        None => Frame::Bad("TCP data offset"),
    }
}

fn parse_tcp(tcp: &[u8], src: [u8; 4], dst: [u8; 4]) -> Option<Segment> {
    let header = usize::from(tcp.get(12)? >> 4) * 4;
    if header < TCP {
        return None;
    }
    let mut s = Segment {
        src,
        dst,
        src_port: be16(tcp, 0)?,
        dst_port: be16(tcp, 2)?,
        seq: be32(tcp, 4)?,
        ack: be32(tcp, 8)?,
        flags: *tcp.get(13)?,
        window: be16(tcp, 14)?,
        payload: u32::try_from(tcp.len().checked_sub(header)?).ok()?,
        ..Segment::default()
    };
    let mut opts = tcp.get(TCP..header)?;
    while let Some(&kind) = opts.first() {
        let len = match kind {
            0 => break,
            1 => 1,
            _ => usize::from(opts.get(1).copied().unwrap_or(0)),
        };
        // A length that is too short or runs over the header ends the walk; what was read counts.
        let Some((opt, rest)) = (len > 0).then(|| opts.split_at_checked(len)).flatten() else { break };
        match (kind, len) {
            (2, 4) => s.mss = be16(opt, 2),
            (3, 3) => s.wscale = opt.get(2).map(|w| (*w).min(14)),
            (4, 2) => s.sack_ok = true,
            (8, 10) => s.timestamps = be32(opt, 2).zip(be32(opt, 6)),
            (5, 10 | 18 | 26 | 34) => {
                s.sack_len = (len - 2) / 8;
                for (i, block) in s.sack.iter_mut().enumerate().take(s.sack_len) {
                    *block = (be32(opt, 2 + 8 * i)?, be32(opt, 6 + 8 * i)?);
                }
            }
            (_, 1) if kind != 1 => break,
            _ => {}
        }
        opts = rest;
    }
    Some(s)
}

/// Builds a frame with its checksums.
pub(super) fn build(ends: &Ends, ip_id: u16, out: &Out<'_>) -> Bytes {
    let mut opts = [0u8; 40];
    let n = options(out, &mut opts);
    let header = TCP + n;
    let tcp_len = header + out.payload.len();
    let mut f = BytesMut::with_capacity(ETH + IP + tcp_len);
    f.extend_from_slice(&ends.peer_mac);
    f.extend_from_slice(&ends.mac);
    f.extend_from_slice(&[0x08, 0x00, 0x45, 0]);
    // A super-segment is kept below 64 KiB by its builder; the clamp only guards the field.
    f.extend_from_slice(&u16::try_from(IP + tcp_len).unwrap_or(u16::MAX).to_be_bytes());
    f.extend_from_slice(&ip_id.to_be_bytes());
    f.extend_from_slice(&[0x40, 0, 64, 6, 0, 0]);
    f.extend_from_slice(&ends.addr.octets());
    f.extend_from_slice(&ends.peer_addr.octets());
    f.extend_from_slice(&ends.port.to_be_bytes());
    f.extend_from_slice(&ends.peer_port.to_be_bytes());
    f.extend_from_slice(&out.seq.to_be_bytes());
    f.extend_from_slice(&out.ack.to_be_bytes());
    f.extend_from_slice(&[(header as u8 / 4) << 4, out.flags]);
    f.extend_from_slice(&out.window.to_be_bytes());
    f.extend_from_slice(&[0; 4]);
    f.extend_from_slice(opts.get(..n).unwrap_or(&[]));
    f.extend_from_slice(out.payload);

    let ip_sum = !fold(sum(0, f.get(ETH..ETH + IP).unwrap_or(&[])));
    put16(&mut f, ETH + 10, ip_sum);
    let pseudo = pseudo_sum(ends.addr.octets(), ends.peer_addr.octets(), tcp_len);
    let tcp_sum = !fold(sum(pseudo, f.get(ETH + IP..).unwrap_or(&[])));
    put16(&mut f, ETH + IP + 16, tcp_sum);
    f.freeze()
}

/// An ARP answer from `mac`/`addr` to whoever asked.
pub(super) fn arp_reply(mac: Mac, addr: Ipv4Addr, to_mac: Mac, to: Ipv4Addr) -> Bytes {
    let mut f = BytesMut::with_capacity(42);
    f.extend_from_slice(&to_mac);
    f.extend_from_slice(&mac);
    f.extend_from_slice(&[8, 6, 0, 1, 8, 0, 6, 4, 0, 2]);
    f.extend_from_slice(&mac);
    f.extend_from_slice(&addr.octets());
    f.extend_from_slice(&to_mac);
    f.extend_from_slice(&to.octets());
    f.freeze()
}

fn options(out: &Out<'_>, buf: &mut [u8; 40]) -> usize {
    let mut n = 0;
    let mut put = |bytes: &[u8]| {
        if let Some(d) = buf.get_mut(n..n + bytes.len()) {
            d.copy_from_slice(bytes);
            n += bytes.len();
        }
    };
    if let Some(mss) = out.mss {
        let [a, b] = mss.to_be_bytes();
        put(&[2, 4, a, b]);
    }
    if out.sack_ok {
        put(&[1, 1, 4, 2]);
    }
    if let Some((val, ecr)) = out.timestamps {
        put(&[1, 1, 8, 10]);
        put(&val.to_be_bytes());
        put(&ecr.to_be_bytes());
    }
    if let Some(ws) = out.wscale {
        put(&[1, 3, 3, ws]);
    }
    if !out.sack.is_empty() {
        let blocks = out.sack.iter().take(if out.timestamps.is_some() { 3 } else { 4 });
        put(&[1, 1, 5, 2 + 8 * blocks.len() as u8]); // at most 34
        for (a, b) in blocks {
            put(&a.to_be_bytes());
            put(&b.to_be_bytes());
        }
    }
    n
}

fn pseudo_sum(src: [u8; 4], dst: [u8; 4], tcp_len: usize) -> u64 {
    sum(sum(6 + tcp_len as u64, &src), &dst)
}

/// The one's-complement sum of big-endian 16-bit words, eight bytes at a time, not folded.
fn sum(start: u64, data: &[u8]) -> u64 {
    let mut s = start;
    let mut chunks = data.chunks_exact(4);
    for c in &mut chunks {
        let word = u32::from_be_bytes([c[0], c[1], c[2], c[3]]);
        s += u64::from(word);
    }
    let mut last = [0u8; 4];
    let rest = chunks.remainder();
    last[..rest.len()].copy_from_slice(rest);
    s + u64::from(u32::from_be_bytes(last))
}

fn fold(mut s: u64) -> u16 {
    while s >> 16 != 0 {
        s = (s & 0xffff) + (s >> 16);
    }
    s as u16 // folded above
}

fn put16(buf: &mut [u8], at: usize, v: u16) {
    if let Some(d) = buf.get_mut(at..at + 2) {
        d.copy_from_slice(&v.to_be_bytes());
    }
}

fn array<const N: usize>(b: &[u8], at: usize) -> Option<[u8; N]> {
    b.get(at..at + N)?.try_into().ok()
}

fn be16(b: &[u8], at: usize) -> Option<u16> {
    array(b, at).map(u16::from_be_bytes)
}

fn be32(b: &[u8], at: usize) -> Option<u32> {
    array(b, at).map(u32::from_be_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ends() -> Ends {
        Ends {
            mac: [2, 0, 0, 0, 0, 1],
            peer_mac: [2, 0, 0, 0, 0, 2],
            addr: Ipv4Addr::new(10, 0, 0, 1),
            peer_addr: Ipv4Addr::new(10, 0, 0, 2),
            port: 5001,
            peer_port: 40_000,
        }
    }

    #[test]
    fn what_is_built_reads_back() {
        for len in [0usize, 1, 2, 3, 1447, 1448] {
            let payload = crate::sender::pattern(9, len);
            let out = Out {
                seq: 0xffff_fff0,
                ack: 7,
                flags: flag::ACK | flag::PSH,
                window: 1234,
                mss: Some(1460),
                wscale: Some(7),
                sack_ok: true,
                timestamps: Some((5, 6)),
                sack: &[],
                payload,
            };
            let f = build(&ends(), 3, &out);
            let Frame::Tcp(s) = parse(&f) else { panic!("{:?}", parse(&f)) };
            assert_eq!((s.seq, s.ack, s.window, s.payload), (0xffff_fff0, 7, 1234, len as u32));
            assert_eq!((s.mss, s.wscale, s.sack_ok, s.timestamps), (Some(1460), Some(7), true, Some((5, 6))));
        }
    }

    #[test]
    fn another_parser_agrees_with_our_frames() {
        // The independent judge is pnet's parser, which the harness has anyway.
        use pnet::packet::{Packet as _, ipv4, tcp};
        let out = Out { flags: flag::ACK, payload: crate::sender::pattern(0, 777), ..Out::default() };
        let f = build(&ends(), 3, &out);
        let ip = ipv4::Ipv4Packet::new(&f[14..]).unwrap();
        assert_eq!(ipv4::checksum(&ip), ip.get_checksum());
        let t = tcp::TcpPacket::new(ip.payload()).unwrap();
        assert_eq!(tcp::ipv4_checksum(&t, &ip.get_source(), &ip.get_destination()), t.get_checksum());
        assert_eq!(t.payload(), crate::sender::pattern(0, 777));
    }

    #[test]
    fn damage_and_nonsense_are_told_apart_and_never_panic() {
        let out = Out { flags: flag::ACK, payload: &[1, 2, 3], wscale: Some(3), ..Out::default() };
        let f = build(&ends(), 3, &out);
        for cut in 0..f.len() {
            let _ = parse(&f[..cut]);
        }
        for bit in 14 * 8..f.len() * 8 {
            let mut g = f.to_vec();
            g[bit / 8] ^= 1 << (bit % 8);
            assert!(!matches!(parse(&g), Frame::Tcp(_)), "bit {bit}");
        }
        assert_eq!(parse(&[]), Frame::Bad("shorter than an Ethernet header"));
    }

    #[test]
    fn arp_is_answered_to_the_asker() {
        let e = ends();
        let f = arp_reply(e.mac, e.addr, e.peer_mac, e.peer_addr);
        assert_eq!(f.len(), 42);
        let mut request = f.to_vec();
        request[21] = 1;
        assert_eq!(
            parse(&request),
            Frame::ArpRequest { sender_mac: e.mac, sender: e.addr, target: e.peer_addr }
        );
    }
}
