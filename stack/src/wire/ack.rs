//! ACKs without payload and SACK blocks, nearly all a receiver says: a form for each connection, of which little is left
//! to fill in. The bytes are those that [`super::SegmentOut`] builds.

use core::net::SocketAddr;

use super::{
    TcpFlags, Timestamps, checksum,
    egress::{DEFAULT_TTL, DONT_FRAGMENT},
};
use crate::units::Seq;

/// An IPv4 packet in words as they go onto the wire.
pub(crate) type Words<const N: usize> = [[u8; 4]; N];

/// What all ACKs of a connection have in common.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AckForm {
    src: u32,
    dst: u32,
    ports: u32,
    /// Everything in the IP header but the length, summed.
    ip_sum: u64,
    /// Pseudo header, ports and flags but the lengths, summed.
    tcp_sum: u64,
}

impl AckForm {
    /// The form for ACKs from `src` to `dst`, if both have IPv4 addresses.
    pub(crate) fn new(src: SocketAddr, dst: SocketAddr) -> Option<Self> {
        let (SocketAddr::V4(src), SocketAddr::V4(dst)) = (src, dst) else { return None };
        let ports = u32::from(src.port()) << 16 | u32::from(dst.port());
        let (src, dst) = (src.ip().to_bits(), dst.ip().to_bits());
        let addresses = u64::from(src) + u64::from(dst);
        Some(AckForm {
            src,
            dst,
            ports,
            ip_sum: addresses + u64::from(VERSION) + u64::from(DONT_FRAGMENT) + u64::from(LIFE),
            tcp_sum: addresses + u64::from(TCP) + u64::from(ports) + u64::from(FLAGS),
        })
    }

    /// The IP header and the fixed part of the TCP header of a packet of `words` words; `more` is the sum of the options.
    #[inline(always)]
    fn words(&self, words: u32, seq: Seq, ack: Seq, window: u16, more: u64) -> [u32; 10] {
        let len = words * 4;
        let control = (words - 5) << 28 | u32::from(window);
        let ip_sum = !checksum::fold(self.ip_sum + u64::from(len));
        let said = u64::from(seq.0) + u64::from(ack.0) + u64::from(control) + u64::from(len - 20);
        let tcp_sum = !checksum::fold(self.tcp_sum + said + more);
        [
            VERSION | len,
            DONT_FRAGMENT,
            LIFE | u32::from(ip_sum),
            self.src,
            self.dst,
            self.ports,
            seq.0,
            ack.0,
            control | FLAGS,
            u32::from(tcp_sum) << 16,
        ]
    }

    /// The packet without options.
    #[inline]
    pub(crate) fn plain(&self, seq: Seq, ack: Seq, window: u16) -> Words<10> {
        self.words(10, seq, ack, window, 0).map(u32::to_be_bytes)
    }

    /// The packet with timestamps.
    #[inline]
    pub(crate) fn stamped(&self, seq: Seq, ack: Seq, window: u16, ts: Timestamps) -> Words<13> {
        let more = u64::from(ALIGNED_TIMESTAMPS) + u64::from(ts.tsval) + u64::from(ts.tsecr);
        let [a, b, c, d, e, f, g, h, i, j] = self.words(13, seq, ack, window, more);
        [a, b, c, d, e, f, g, h, i, j, ALIGNED_TIMESTAMPS, ts.tsval, ts.tsecr].map(u32::to_be_bytes)
    }
}

/// Version 4 and a header of five words.
const VERSION: u32 = 0x4500_0000;
const TCP: u32 = 6;
const LIFE: u32 = (DEFAULT_TTL as u32) << 24 | TCP << 16;
const FLAGS: u32 = (TcpFlags::ACK.bits() as u32) << 16;
/// NOP, NOP, the option's number and its length.
pub(super) const ALIGNED_TIMESTAMPS: u32 = 0x0101_080a;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{OutOptions, SegmentOut};
    use proptest::prelude::*;

    fn built(
        src: SocketAddr,
        dst: SocketAddr,
        said: (u32, u32, u16),
        timestamps: Option<Timestamps>,
    ) -> Vec<u8> {
        let out = SegmentOut {
            seq: Seq(said.0),
            ack: Seq(said.1),
            flags: TcpFlags::ACK,
            window: said.2,
            options: OutOptions { timestamps, ..OutOptions::default() },
            ..SegmentOut::new(src, dst)
        };
        out.build().unwrap().as_bytes().to_vec()
    }

    proptest! {
        #[test]
        fn the_form_says_what_is_built(
            src in any::<([u8; 4], u16)>(), dst in any::<([u8; 4], u16)>(),
            seq in any::<u32>(), ack in any::<u32>(), window in any::<u16>(),
            tsval in any::<u32>(), tsecr in any::<u32>(),
        ) {
            let (src, dst) = (SocketAddr::from(src), SocketAddr::from(dst));
            let form = AckForm::new(src, dst).unwrap();
            let (said, ts) = ((seq, ack, window), Timestamps { tsval, tsecr });
            let plain = form.plain(Seq(seq), Seq(ack), window);
            prop_assert_eq!(plain.as_flattened(), built(src, dst, said, None));
            let stamped = form.stamped(Seq(seq), Seq(ack), window, ts);
            prop_assert_eq!(stamped.as_flattened(), built(src, dst, said, Some(ts)));
        }
    }

    #[test]
    fn extremes_are_summed_alike() {
        for (ip, port) in [([0; 4], 0), ([255; 4], 65_535)] {
            let addr = SocketAddr::from((ip, port));
            let form = AckForm::new(addr, addr).unwrap();
            for n in [0, 1, u32::MAX] {
                let plain = form.plain(Seq(n), Seq(n), n as u16);
                assert_eq!(plain.as_flattened(), built(addr, addr, (n, n, n as u16), None));
            }
        }
        let v6 = SocketAddr::from(([0u16; 8], 1));
        assert!(AckForm::new(v6, v6).is_none());
    }
}
