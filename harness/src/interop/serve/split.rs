//! Takes apart what GRO or a virtual neighbour's TSO has merged: what the judge sees is what the peer's stack sent.

use bytes::Bytes;
use smoltcp::wire::{EthernetFrame, EthernetProtocol, IpProtocol, Ipv4Packet, TcpPacket, TcpSeqNumber};

/// The segments of a super-segment of TCP over IPv4 whose pieces have `size` bytes of payload; `None` if it is none.
pub(super) fn split(frame: &[u8], size: usize) -> Option<Vec<Bytes>> {
    let ethernet = EthernetFrame::new_checked(frame).ok()?;
    if size == 0 || ethernet.ethertype() != EthernetProtocol::Ipv4 {
        return None;
    }
    let ip_at = EthernetFrame::<&[u8]>::header_len();
    let ip = Ipv4Packet::new_checked(frame.get(ip_at..)?).ok()?;
    if ip.next_header() != IpProtocol::Tcp {
        return None;
    }
    let tcp_at = ip_at + usize::from(ip.header_len());
    let end = ip_at + usize::from(ip.total_len());
    let tcp = TcpPacket::new_checked(frame.get(tcp_at..end)?).ok()?;
    let headers = tcp_at + usize::from(tcp.header_len());
    let payload = frame.get(headers..end)?;
    let (source, destination) = (ip.src_addr().into(), ip.dst_addr().into());
    let mut pieces = Vec::with_capacity(payload.len().div_ceil(size).max(1));
    let last = payload.len().saturating_sub(1) / size;
    for i in 0..=last {
        let part = payload.get(i * size..payload.len().min((i + 1) * size))?;
        let mut piece = Vec::with_capacity(headers + part.len());
        piece.extend_from_slice(frame.get(..headers)?);
        piece.extend_from_slice(part);
        let mut out = Ipv4Packet::new_unchecked(piece.get_mut(ip_at..)?);
        out.set_total_len(u16::try_from(headers - ip_at + part.len()).ok()?);
        out.set_ident(ip.ident().wrapping_add(i as u16));
        out.fill_checksum();
        let mut out = TcpPacket::new_unchecked(piece.get_mut(tcp_at..)?);
        out.set_seq_number(TcpSeqNumber(tcp.seq_number().0.wrapping_add((i * size) as i32)));
        // What speaks of the end belongs to the last (RFC 9293 §3.9.1.2), what speaks of the window's halving to the first
        // (RFC 3168 §6.1.2).
        out.set_fin(tcp.fin() && i == last);
        out.set_psh(tcp.psh() && i == last);
        out.set_cwr(tcp.cwr() && i == 0);
        out.fill_checksum(&source, &destination);
        pieces.push(piece.into());
    }
    Some(pieces)
}

#[cfg(test)]
mod tests {
    use smoltcp::wire::{TcpControl, TcpRepr};

    use super::*;
    use crate::interop::testing::{frame, plain, stamps};
    use crate::interop::trace::{Content, Watch, Way};
    use crate::observer::segment::{self, FIN, PSH};

    /// A frame with `payload` bytes at sequence number 1000.
    fn super_segment(payload: usize, fin: bool) -> Vec<u8> {
        let data: Vec<u8> = (0..payload).map(|i| (i % 251) as u8).collect();
        frame(&TcpRepr {
            control: if fin { TcpControl::Fin } else { TcpControl::Psh },
            seq_number: TcpSeqNumber(1000),
            ack_number: Some(TcpSeqNumber(7)),
            window_len: 100,
            timestamp: stamps(1, 2),
            payload: &data,
            ..plain()
        })
    }

    #[test]
    fn pieces_are_segments_with_right_numbers_flags_and_checksums() {
        let whole = super_segment(2500, true);
        let pieces = split(&whole, 1000).unwrap();
        let segments: Vec<_> = pieces.iter().map(|p| segment::parse(p).unwrap()).collect();
        let told: Vec<_> = segments.iter().map(|s| (s.seq, s.payload, s.has(FIN))).collect();
        assert_eq!(told, [(1000, 1000, false), (2000, 1000, false), (3000, 500, true)]);
        assert!(segments.iter().all(|s| s.ack == 7 && s.window == 100));
        let joined: Vec<u8> = pieces.iter().flat_map(|p| p[66..].to_vec()).collect();
        assert_eq!(joined, whole[66..]);
        // A wrong checksum would make the watch count it as damaged.
        let mut w = Watch::new(Content::Consistent);
        for p in &pieces {
            w.frame(1, 0, Way::FromPeer, false, p);
        }
        assert_eq!(w.trace().damaged, 0);
    }

    #[test]
    fn what_is_whole_stays_whole() {
        let pieces = split(&super_segment(700, false), 1000).unwrap();
        assert_eq!(pieces, [super_segment(700, false)]);
        assert!(segment::parse(&pieces[0]).unwrap().has(PSH));
        assert_eq!(split(&super_segment(0, true), 1000).unwrap().len(), 1);
    }

    #[test]
    fn other_frames_are_left_alone() {
        let mut arp = super_segment(10, false);
        arp[12..14].copy_from_slice(&[8, 6]);
        assert!(split(&arp, 1000).is_none());
        let mut udp = super_segment(10, false);
        udp[23] = 17;
        assert!(split(&udp, 1000).is_none());
        assert!(split(&super_segment(10, false), 0).is_none());
        let whole = super_segment(100, false);
        for n in 0..whole.len() {
            let _ = split(&whole[..n], 10);
        }
    }
}
