//! The internet checksum (RFC 1071) over whatever length a super-segment has, on top of smoltcp's.

use core::net::IpAddr;

use smoltcp::wire::checksum as inet;

/// What a sum over intact data, checksum included, comes to.
pub(super) const INTACT: u16 = 0xffff;

/// The one's complement sum of `data`, not complemented.
///
/// In pieces, because smoltcp's 32-bit accumulator is only wide enough for 128 KiB.
pub(super) fn sum(data: &[u8]) -> u16 {
    data.chunks(PIECE).fold(0, |acc, piece| inet::combine(&[acc, inet::data(piece)]))
}

/// The sum over the pseudo header of `len` bytes of `protocol`.
///
/// Not smoltcp's: that one keeps 16 bits of the length, which is wrong beyond 64 KiB (RFC 8200 §8.1 has 32).
pub(super) fn pseudo(src: IpAddr, dst: IpAddr, protocol: u8, len: usize) -> u16 {
    let address = |a: IpAddr| match a {
        IpAddr::V4(a) => inet::data(&a.octets()),
        IpAddr::V6(a) => inet::data(&a.octets()),
    };
    let len = u32::try_from(len).unwrap_or(u32::MAX);
    inet::combine(&[address(src), address(dst), u16::from(protocol), inet::data(&len.to_be_bytes())])
}

/// The sum over pseudo header and `data`, not complemented; [`INTACT`] if `data` holds the right checksum.
pub(super) fn transport(src: IpAddr, dst: IpAddr, protocol: u8, data: &[u8]) -> u16 {
    inet::combine(&[pseudo(src, dst, protocol, data.len()), sum(data)])
}

/// Writes `value` at `at`; does nothing if there is no room.
pub(crate) fn patch(buf: &mut [u8], at: usize, value: u16) {
    if let Some(field) = buf.get_mut(at..).and_then(|b| b.first_chunk_mut::<2>()) {
        *field = value.to_be_bytes();
    }
}

/// Even, so that pieces can be added.
const PIECE: usize = 1 << 16;
