//! The usual next segment of a flow, read against the one before it: what they share is compared, not read again.
//!
//! [`super::parse`] says the same of every frame that is read here, and alone speaks of all others.

use core::{net::SocketAddr, ops::Range};

use bytes::Bytes;

use super::{
    Link, MacAddr, Medium, RxMeta, TcpFlags, TcpSegment, Timestamps,
    ack::ALIGNED_TIMESTAMPS,
    checksum::{self, Sum},
    ingress::{ETHERNET_HEADER_LEN, halves, words},
};
use crate::units::Seq;

/// A segment that was read by [`super::parse`], and what the next one of its flow has in common with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Flow {
    /// Its Ethernet header; of no meaning on [`Medium::Ip`].
    link: [u8; ETHERNET_HEADER_LEN],
    /// Its addresses and ports as they were on the wire.
    ends: [[u8; 4]; 3],
    segment: TcpSegment,
}

impl Flow {
    /// The flow that `segment` leads, if it leads one.
    pub(crate) fn of(mut segment: TcpSegment) -> Option<Self> {
        let (link, ends) = common(&segment)?;
        segment.payload = Bytes::new();
        Some(Flow { link, ends, segment })
    }

    /// From now on this is the flow that `segment` leads; it is taken. `false` if it leads none, and nothing changes then.
    pub(crate) fn lead(&mut self, segment: &mut TcpSegment) -> bool {
        let Some((link, ends)) = common(segment) else { return false };
        (self.link, self.ends) = (link, ends);
        segment.payload = Bytes::new();
        core::mem::swap(&mut self.segment, segment);
        true
    }

    /// The segment that was read last, without its payload.
    pub(crate) fn segment(&self) -> &TcpSegment {
        &self.segment
    }

    /// Reads `frame` as the next segment of the flow: same stations, addresses and ports, the same header layout, ACK and
    /// perhaps PSH, one segment. Returns where in the frame its payload lies.
    ///
    /// `None` says nothing but that [`super::parse`] must look; nothing has changed then.
    #[inline(always)]
    pub(crate) fn next(&mut self, medium: Medium, frame: &Bytes, meta: RxMeta) -> Option<Range<usize>> {
        let at = match medium {
            Medium::Ip => 0,
            Medium::Ethernet if frame.first_chunk() == Some(&self.link) => ETHERNET_HEADER_LEN,
            Medium::Ethernet => return None,
        };
        let last = &mut self.segment;
        let data = frame.get(at..)?;
        let (raw, _) = data.as_chunks::<4>();
        let &[first, second, third, src, dst, ports, seq, ack, control, tail] = raw.first_chunk::<10>()?;
        if [src, dst, ports] != self.ends {
            return None;
        }
        let [first, second, third, src, dst, seq, ack, control, tail] =
            [first, second, third, src, dst, seq, ack, control, tail].map(u32::from_be_bytes);
        let (shape, total) = halves(first);
        let (life, _) = halves(third);
        let (control, window) = halves(control);
        let flags = TcpFlags::from_bits_truncate(control);
        let header_len = usize::from(last.header_len);
        let (total, payload_at) = (usize::from(total), 20 + header_len);
        let sum = [first, second, third, src, dst].iter().fold(0, |sum, word| sum + u64::from(*word));
        // The addresses were judged with the last segment; what this one says besides is judged here.
        let usual = shape >> 8 == 0x45
            && life & 0xff == 6
            && second & 0x3fff == 0
            && usize::from(control >> 12 << 2) == header_len
            && flags - TcpFlags::PSH == TcpFlags::ACK
            && meta.gso_size == 0
            && (payload_at..=data.len()).contains(&total)
            && checksum::fold(sum) == checksum::INTACT;
        if !usual {
            return None;
        }
        if !meta.csum_ok {
            let tcp = data.get(20..total)?;
            let pseudo = Sum::default().pseudo(last.src.ip(), last.dst.ip(), 6, tcp.len());
            if pseudo.add(tcp).finish() != checksum::INTACT {
                return None;
            }
        }
        if header_len != 20 {
            let raw = data.get(40..)?.first_chunk::<12>()?;
            let [ALIGNED_TIMESTAMPS, tsval, tsecr] = words::<3>(raw)? else { return None };
            *last.options.raw.first_chunk_mut::<12>()? = *raw;
            last.options.timestamps = Some(Timestamps { tsval, tsecr });
        }
        last.seq = Seq(seq);
        last.ack = Seq(ack);
        last.flags = flags;
        last.window = window;
        last.urgent = halves(tail).1;
        last.ds_field = shape as u8;
        last.ttl = (life >> 8) as u8;
        last.ip_len = total as u32;
        last.frame_len = u32::try_from(frame.len()).unwrap_or(u32::MAX);
        last.gso_size = 0;
        last.gso_segs = 1;
        last.meta = meta;
        last.payload_len = (total - payload_at) as u32;
        Some(at + payload_at..at + total)
    }
}

/// The Ethernet header, addresses and ports that the flow led by this segment has: IPv4, with no options or just aligned
/// timestamps.
fn common(segment: &TcpSegment) -> Option<([u8; ETHERNET_HEADER_LEN], [[u8; 4]; 3])> {
    let (SocketAddr::V4(src), SocketAddr::V4(dst)) = (segment.src, segment.dst) else { return None };
    if segment.header_len != 20 && !(segment.header_len == 32 && segment.options.aligned_timestamps) {
        return None;
    }
    let Link { src: MacAddr([g, h, i, j, k, l]), dst: MacAddr([a, b, c, d, e, f]) } =
        segment.link.unwrap_or_default();
    let ([m, n], [o, p]) = (src.port().to_be_bytes(), dst.port().to_be_bytes());
    let link = [a, b, c, d, e, f, g, h, i, j, k, l, 8, 0];
    Some((link, [src.ip().octets(), dst.ip().octets(), [m, n, o, p]]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{OutOptions, Packet, forge::Checksum, forge::Forge, parse};
    use proptest::{collection::vec, prelude::*};

    const LINK: Link = Link { src: MacAddr([2, 0, 0, 0, 0, 2]), dst: MacAddr([2, 0, 0, 0, 0, 1]) };

    fn forge(medium: Medium, timestamps: Option<Timestamps>) -> Forge {
        let f = Forge::new("10.0.0.2:4000".parse().unwrap(), "10.0.0.1:80".parse().unwrap());
        let f = f.options(&OutOptions { timestamps, ..OutOptions::default() }).flags(TcpFlags::ACK);
        if medium == Medium::Ethernet { f.link(LINK) } else { f }
    }

    fn parsed(medium: Medium, frame: &Bytes, meta: RxMeta) -> Option<TcpSegment> {
        match parse(medium, frame, meta) {
            Ok(Packet::Tcp(segment)) => Some(segment),
            _ => None,
        }
    }

    /// What is followed is what is parsed, and what is not leaves the last segment alone. Returns whether it was.
    fn agree(medium: Medium, lead: &TcpSegment, frame: &Bytes, meta: RxMeta) -> bool {
        let before = Flow::of(lead.clone()).unwrap();
        // What led before does not matter.
        let mut flow = Flow::of(parsed(medium, &forge(medium, None).build(), meta).unwrap()).unwrap();
        assert!(flow.lead(&mut lead.clone()));
        assert_eq!(flow, before);
        let Some(payload) = flow.next(medium, frame, meta) else {
            assert_eq!(flow, before);
            return false;
        };
        let segment = TcpSegment { payload: frame.slice(payload), ..flow.segment().clone() };
        assert_eq!(Some(segment), parsed(medium, frame, meta));
        true
    }

    fn lead(medium: Medium, timestamps: bool) -> TcpSegment {
        let stamps = timestamps.then_some(Timestamps { tsval: 1, tsecr: 2 });
        parsed(medium, &forge(medium, stamps).payload("lead").build(), RxMeta::default()).unwrap()
    }

    const KINDS: [(Medium, bool); 4] =
        [(Medium::Ip, false), (Medium::Ip, true), (Medium::Ethernet, false), (Medium::Ethernet, true)];

    fn stamped(on: bool) -> Option<Timestamps> {
        on.then_some(Timestamps { tsval: 0xdead_beef, tsecr: 0x0102_0304 })
    }

    #[test]
    fn the_usual_next_segment_is_followed() {
        for (medium, timestamps) in KINDS {
            for len in [0usize, 1, 100, 1448, 9000] {
                let mut f = forge(medium, stamped(timestamps)).payload(vec![7; len]);
                f.flags |= TcpFlags::PSH;
                f.ttl = 3;
                f.ds_field = 0x2a;
                f.urgent = 77;
                let frame = f.build();
                assert!(agree(medium, &lead(medium, timestamps), &frame, RxMeta::default()));
                // Padding behind the packet is no payload.
                let padded = Bytes::from([&frame[..], &[9; 30]].concat());
                assert!(agree(medium, &lead(medium, timestamps), &padded, RxMeta::default()));
                let wrong = f.tcp_checksum(Checksum::Wrong).build();
                assert!(!agree(medium, &lead(medium, timestamps), &wrong, RxMeta::default()));
                let checked = RxMeta { csum_ok: true, hdr_len: 54, gso_size: 0 };
                assert!(agree(medium, &lead(medium, timestamps), &wrong, checked));
            }
        }
    }

    #[test]
    fn any_other_bit_is_judged_alike() {
        for (medium, timestamps) in KINDS {
            let good = forge(medium, stamped(timestamps)).payload("payload").build();
            for csum_ok in [false, true] {
                let meta = RxMeta { csum_ok, ..RxMeta::default() };
                for bit in 0..good.len() * 8 {
                    let mut bad = good.to_vec();
                    bad[bit / 8] ^= 1 << (bit % 8);
                    agree(medium, &lead(medium, timestamps), &bad.into(), meta);
                }
                for len in 0..good.len() {
                    agree(medium, &lead(medium, timestamps), &good.slice(..len), meta);
                }
            }
        }
    }

    #[test]
    fn other_flows_and_layouts_are_not_followed() {
        for (medium, timestamps) in KINDS {
            let lead = lead(medium, timestamps);
            let usual = || forge(medium, stamped(timestamps));
            let mut others = vec![
                forge(medium, stamped(!timestamps)),
                usual().flags(TcpFlags::SYN),
                usual().flags(TcpFlags::ACK | TcpFlags::FIN),
                usual().flags(TcpFlags::ACK | TcpFlags::ECE),
                usual().flags(TcpFlags::ACK | TcpFlags::AE),
                usual().flags(TcpFlags::empty()),
                usual().raw_options(&[1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1]),
            ];
            for (src, dst) in [
                ("10.0.0.3:4000", "10.0.0.1:80"),
                ("10.0.0.2:4001", "10.0.0.1:80"),
                ("10.0.0.2:4000", "10.0.0.3:80"),
                ("10.0.0.2:4000", "10.0.0.1:81"),
                ("[fd00::2]:4000", "[fd00::1]:80"),
            ] {
                others.push(Forge { src: src.parse().unwrap(), dst: dst.parse().unwrap(), ..usual() });
            }
            others.push(Forge { link: Some(Link { src: LINK.dst, dst: LINK.src }), ..usual() });
            for other in others {
                assert!(!agree(medium, &lead, &other.build(), RxMeta::default()), "{other:?}");
            }
            let other = forge(medium, None).raw_options(&[1, 1, 1, 1]).build();
            assert!(Flow::of(parsed(medium, &other, RxMeta::default()).unwrap()).is_none());
            let merged = RxMeta { gso_size: 100, ..RxMeta::default() };
            assert!(!agree(medium, &lead, &usual().payload(vec![1; 300]).build(), merged));
        }
    }

    proptest! {
        #[test]
        fn whatever_comes_is_judged_alike(
            kind in 0usize..4, flags in any::<u16>(), options in vec(0u8..12, 0..16), payload in vec(any::<u8>(), 0..64),
            changes in vec((0usize..80, any::<u8>()), 0..3), csum_ok in any::<bool>(), plain in any::<bool>(),
        ) {
            let (medium, timestamps) = KINDS[kind];
            let mut f = forge(medium, stamped(timestamps)).payload(payload);
            if !plain {
                f = f.flags(TcpFlags::from_bits_truncate(flags)).raw_options(&options);
            }
            let mut frame = f.build().to_vec();
            for (at, byte) in changes {
                if let Some(b) = frame.get_mut(at) {
                    *b = byte;
                }
            }
            agree(medium, &lead(medium, timestamps), &frame.into(), RxMeta { csum_ok, ..RxMeta::default() });
        }
    }
}
