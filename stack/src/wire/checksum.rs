//! The internet checksum (RFC 1071) over whatever length a super-segment has.

use core::net::IpAddr;

/// What a sum over intact data, checksum included, comes to.
pub(super) const INTACT: u16 = 0xffff;

/// A one's complement sum in the making.
///
/// Words are added as they lie in memory and swapped once at the end (RFC 1071 §2 B), four bytes at a time (§2 C):
/// 64 bits hold the carries of 16 GiB.
#[derive(Clone, Copy, Default)]
pub(super) struct Sum(u64);

impl Sum {
    /// Adds `data`; only the last one may be of odd length.
    #[inline]
    pub(super) fn add(self, data: &[u8]) -> Sum {
        let (words, rest) = data.as_chunks::<4>();
        let sum = words.iter().fold(self.0, |sum, word| sum + u64::from(u32::from_ne_bytes(*word)));
        let last = match *rest {
            [a, b, c] => [a, b, c, 0],
            [a, b] => [a, b, 0, 0],
            [a] => [a, 0, 0, 0],
            _ => return Sum(sum),
        };
        Sum(sum + u64::from(u32::from_ne_bytes(last)))
    }

    /// Adds words that are about to be written.
    #[inline]
    pub(super) fn add_words(self, words: &[u32]) -> Sum {
        Sum(words.iter().fold(self.0, |sum, word| sum + u64::from(word.to_be())))
    }

    /// Adds the pseudo header of `len` bytes of `protocol`, with all 32 bits of the length (RFC 8200 §8.1).
    #[inline]
    pub(super) fn pseudo(self, src: IpAddr, dst: IpAddr, protocol: u8, len: usize) -> Sum {
        let len = u32::try_from(len).unwrap_or(u32::MAX);
        let addresses = match (src, dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => self.add_words(&[src.to_bits(), dst.to_bits()]),
            _ => {
                let address = |sum: Sum, a: IpAddr| match a {
                    IpAddr::V4(a) => sum.add(&a.octets()),
                    IpAddr::V6(a) => sum.add(&a.octets()),
                };
                address(address(self, src), dst)
            }
        };
        addresses.add_words(&[protocol.into(), len])
    }

    /// The sum, not complemented: 0 only if all that was added is 0.
    #[inline]
    pub(super) fn finish(self) -> u16 {
        u16::from_be(fold(self.0))
    }
}

/// 64 bits to 33, to 18, to 17, to 16.
#[inline]
pub(super) fn fold(mut sum: u64) -> u16 {
    sum = (sum >> 32) + (sum & 0xffff_ffff);
    sum = (sum >> 16) + (sum & 0xffff);
    sum = (sum >> 16) + (sum & 0xffff);
    sum = (sum >> 16) + (sum & 0xffff);
    sum as u16
}

/// The one's complement sum of `data`, not complemented.
pub(super) fn sum(data: &[u8]) -> u16 {
    Sum::default().add(data).finish()
}

/// The sum over the pseudo header of `len` bytes of `protocol`.
pub(super) fn pseudo(src: IpAddr, dst: IpAddr, protocol: u8, len: usize) -> u16 {
    Sum::default().pseudo(src, dst, protocol, len).finish()
}

/// The sum over pseudo header and `data`, not complemented; [`INTACT`] if `data` holds the right checksum.
pub(super) fn transport(src: IpAddr, dst: IpAddr, protocol: u8, data: &[u8]) -> u16 {
    Sum::default().pseudo(src, dst, protocol, data.len()).add(data).finish()
}

/// Writes `value` at `at`; does nothing if there is no room.
pub(crate) fn patch(buf: &mut [u8], at: usize, value: u16) {
    if let Some(field) = buf.get_mut(at..).and_then(|b| b.first_chunk_mut::<2>()) {
        *field = value.to_be_bytes();
    }
}
