//! The virtio network header that travels in front of each frame of an offloaded device.
//!
//! It says what the sender left undone: a checksum still partial (`VIRTIO_NET_HDR_F_NEEDS_CSUM`), a segment
//! still larger than the wire allows (`gso_type`, `gso_size`). Answers to `include/uapi/linux/virtio_net.h`
//! and `include/linux/virtio_net.h` of Linux 6.18. Fields are little-endian because this crate asks for that
//! with `TUNSETVNETLE`, so recordings mean the same on every machine.

use std::fmt;

use zerocopy::little_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// `VIRTIO_NET_HDR_F_NEEDS_CSUM`: the transport checksum holds only the pseudo-header sum.
pub const F_NEEDS_CSUM: u8 = 1;
/// `VIRTIO_NET_HDR_F_DATA_VALID`: the checksum has been verified.
pub const F_DATA_VALID: u8 = 2;
/// `VIRTIO_NET_HDR_GSO_ECN`: a flag bit inside `gso_type`.
pub const GSO_ECN: u8 = 0x80;

/// How many header bytes precede a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum VnetHdrSize {
    /// The original header.
    #[default]
    Ten,
    /// With `num_buffers` at the end (virtio 1.0 and mergeable buffers).
    Twelve,
}

impl VnetHdrSize {
    /// The size in bytes.
    pub const fn bytes(self) -> usize {
        match self {
            Self::Ten => 10,
            Self::Twelve => 12,
        }
    }
}

/// `gso_type` without its ECN bit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum GsoType {
    /// `VIRTIO_NET_HDR_GSO_NONE`: an ordinary frame.
    None,
    /// `VIRTIO_NET_HDR_GSO_TCPV4`: a TCP super-segment over IPv4.
    TcpV4,
    /// `VIRTIO_NET_HDR_GSO_UDP`: IPv4 UDP fragmentation (historic).
    Udp,
    /// `VIRTIO_NET_HDR_GSO_TCPV6`: a TCP super-segment over IPv6.
    TcpV6,
    /// `VIRTIO_NET_HDR_GSO_UDP_L4`: UDP segmentation.
    UdpL4,
    /// Anything this crate does not know, tunnels among them.
    Other(u8),
}

impl GsoType {
    /// From the raw byte; the ECN bit is ignored.
    pub const fn from_byte(byte: u8) -> Self {
        match byte & !GSO_ECN {
            0 => Self::None,
            1 => Self::TcpV4,
            3 => Self::Udp,
            4 => Self::TcpV6,
            5 => Self::UdpL4,
            other => Self::Other(other),
        }
    }

    /// The raw byte, without the ECN bit.
    pub const fn byte(self) -> u8 {
        match self {
            Self::None => 0,
            Self::TcpV4 => 1,
            Self::Udp => 3,
            Self::TcpV6 => 4,
            Self::UdpL4 => 5,
            Self::Other(other) => other & !GSO_ECN,
        }
    }
}

/// `struct virtio_net_hdr`, the ten bytes both sizes share.
#[derive(Clone, Copy, PartialEq, Eq, Default, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct VnetHdr {
    /// [`F_NEEDS_CSUM`], [`F_DATA_VALID`].
    pub flags: u8,
    /// See [`VnetHdr::gso`]; may carry [`GSO_ECN`].
    pub gso_type: u8,
    /// Bytes of link, network and transport header (a hint for the linear part of the `sk_buff`).
    pub hdr_len: U16,
    /// Payload bytes per wire segment when `gso_type` is set.
    pub gso_size: U16,
    /// Where checksumming starts, from the beginning of the frame.
    pub csum_start: U16,
    /// Where the checksum is stored, from `csum_start`.
    pub csum_offset: U16,
}

const _: () = assert!(size_of::<VnetHdr>() == 10);

/// A header that contradicts itself or the frame behind it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum VnetError {
    /// Fewer bytes than a header has.
    #[error(
        "virtio header: {len} bytes read, {needed} needed; open the device and the reader with one header size"
    )]
    Short {
        /// Bytes at hand.
        len: usize,
        /// Bytes a header takes.
        needed: usize,
    },
    /// The checksum field lies outside the frame.
    #[error(
        "virtio header: csum_start {start} + csum_offset {offset} lies outside a frame of {frame_len} bytes; drop the frame"
    )]
    ChecksumOutside {
        /// `csum_start`.
        start: u16,
        /// `csum_offset`.
        offset: u16,
        /// Length of the frame.
        frame_len: usize,
    },
    /// A super-segment without a segment size.
    #[error("virtio header: gso_type {gso_type:#04x} with gso_size 0; drop the frame")]
    GsoSizeZero {
        /// The raw type byte.
        gso_type: u8,
    },
    /// `hdr_len` beyond the frame.
    #[error("virtio header: hdr_len {hdr_len} exceeds a frame of {frame_len} bytes; drop the frame")]
    HeaderOutside {
        /// `hdr_len`.
        hdr_len: u16,
        /// Length of the frame.
        frame_len: usize,
    },
}

impl VnetHdr {
    /// Nothing left undone: an ordinary, fully checksummed frame.
    pub fn none() -> Self {
        Self::default()
    }

    /// A frame whose transport checksum the receiver is asked to complete.
    pub fn needs_checksum(csum_start: u16, csum_offset: u16) -> Self {
        Self {
            flags: F_NEEDS_CSUM,
            csum_start: U16::new(csum_start),
            csum_offset: U16::new(csum_offset),
            ..Self::default()
        }
    }

    /// A super-segment; `hdr_len` counts all headers, the transport header starts at `csum_start`.
    pub fn super_segment(gso: GsoType, hdr_len: u16, gso_size: u16, csum_start: u16) -> Self {
        let csum_offset = if matches!(gso, GsoType::Udp | GsoType::UdpL4) { 6 } else { 16 };
        Self {
            flags: F_NEEDS_CSUM,
            gso_type: gso.byte(),
            hdr_len: U16::new(hdr_len),
            gso_size: U16::new(gso_size),
            csum_start: U16::new(csum_start),
            csum_offset: U16::new(csum_offset),
        }
    }

    /// Splits what was read from the device into header and frame.
    pub fn parse(bytes: &[u8], size: VnetHdrSize) -> Result<(Self, &[u8]), VnetError> {
        let short = VnetError::Short { len: bytes.len(), needed: size.bytes() };
        let (head, frame) = bytes.split_at_checked(size.bytes()).ok_or(short.clone())?;
        let (header, _num_buffers) = Self::read_from_prefix(head).map_err(|_| short)?;
        Ok((header, frame))
    }

    /// Writes the header to the front of `out`; returns the bytes used. `num_buffers` is written as zero,
    /// as the driver side must.
    pub fn emit(&self, size: VnetHdrSize, out: &mut [u8]) -> Result<usize, VnetError> {
        let len = out.len();
        let Some(slot) = out.get_mut(..size.bytes()) else {
            return Err(VnetError::Short { len, needed: size.bytes() });
        };
        slot.fill(0);
        if let Some(head) = slot.first_chunk_mut::<10>() {
            head.copy_from_slice(self.as_bytes());
        }
        Ok(size.bytes())
    }

    /// Is the transport checksum still partial?
    pub fn needs_csum(&self) -> bool {
        self.flags & F_NEEDS_CSUM != 0
    }

    /// Has the checksum been verified already?
    pub fn data_valid(&self) -> bool {
        self.flags & F_DATA_VALID != 0
    }

    /// What kind of super-segment this is.
    pub fn gso(&self) -> GsoType {
        GsoType::from_byte(self.gso_type)
    }

    /// Does the super-segment carry CWR semantics (`VIRTIO_NET_HDR_GSO_ECN`)?
    pub fn gso_ecn(&self) -> bool {
        self.gso_type & GSO_ECN != 0
    }

    /// How many wire segments `payload_len` transport bytes stand for; an ordinary frame is one.
    pub fn segments(&self, payload_len: usize) -> usize {
        let gso_size = usize::from(self.gso_size.get());
        if self.gso() == GsoType::None || gso_size == 0 { 1 } else { payload_len.div_ceil(gso_size).max(1) }
    }

    /// Checks the header against the frame behind it.
    pub fn validate(&self, frame_len: usize) -> Result<(), VnetError> {
        if self.needs_csum() {
            self.checksum_field(frame_len)?;
        }
        if self.gso() != GsoType::None && self.gso_size.get() == 0 {
            return Err(VnetError::GsoSizeZero { gso_type: self.gso_type });
        }
        if usize::from(self.hdr_len.get()) > frame_len {
            return Err(VnetError::HeaderOutside { hdr_len: self.hdr_len.get(), frame_len });
        }
        Ok(())
    }

    /// Completes a partial checksum in place, as the device would. Does nothing without [`F_NEEDS_CSUM`].
    ///
    /// The field holds the folded pseudo-header sum; the result is the complement of the sum from
    /// `csum_start` to the end. A UDP result of zero is stored as 0xffff.
    pub fn complete_checksum(&self, frame: &mut [u8]) -> Result<(), VnetError> {
        if !self.needs_csum() {
            return Ok(());
        }
        let (start, at) = self.checksum_field(frame.len())?;
        let sum = !fold(sum_words(frame.get(start..).unwrap_or_default()));
        let is_udp = self.csum_offset.get() == 6;
        let stored = if is_udp && sum == 0 { 0xffff } else { sum };
        if let Some(field) = frame.get_mut(at..).and_then(|rest| rest.first_chunk_mut::<2>()) {
            *field = stored.to_be_bytes();
        }
        Ok(())
    }

    fn checksum_field(&self, frame_len: usize) -> Result<(usize, usize), VnetError> {
        let (start, offset) = (usize::from(self.csum_start.get()), usize::from(self.csum_offset.get()));
        let at = start.saturating_add(offset);
        if at.saturating_add(2) > frame_len {
            return Err(VnetError::ChecksumOutside {
                start: self.csum_start.get(),
                offset: self.csum_offset.get(),
                frame_len,
            });
        }
        Ok((start, at))
    }
}

impl fmt::Debug for VnetHdr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VnetHdr")
            .field("flags", &self.flags)
            .field("gso", &self.gso())
            .field("gso_ecn", &self.gso_ecn())
            .field("hdr_len", &self.hdr_len.get())
            .field("gso_size", &self.gso_size.get())
            .field("csum_start", &self.csum_start.get())
            .field("csum_offset", &self.csum_offset.get())
            .finish()
    }
}

/// The folded pseudo-header sum a `NEEDS_CSUM` sender puts into the checksum field.
pub fn pseudo_header_sum(
    source: std::net::IpAddr,
    destination: std::net::IpAddr,
    protocol: u8,
    len: u32,
) -> u16 {
    let mut sum = u64::from(protocol) + u64::from(len >> 16) + u64::from(len & 0xffff);
    for address in [source, destination] {
        sum += match address {
            std::net::IpAddr::V4(v4) => sum_words(&v4.octets()),
            std::net::IpAddr::V6(v6) => sum_words(&v6.octets()),
        };
    }
    fold(sum)
}

/// Sum of big-endian 16-bit words; an odd last byte counts as the high half.
fn sum_words(bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<2>();
    let sum: u64 = words.iter().map(|word| u64::from(u16::from_be_bytes(*word))).sum();
    sum + rest.first().map_or(0, |&last| u64::from(last) << 8)
}

fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    // Folded below 2^16 by the loop.
    sum as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_is_little_endian_on_every_machine() {
        let header = VnetHdr::super_segment(GsoType::TcpV4, 66, 1448, 34);
        let mut out = [0xaa; 12];
        assert_eq!(header.emit(VnetHdrSize::Twelve, &mut out), Ok(12));
        assert_eq!(out, [1, 1, 66, 0, 0xa8, 0x05, 34, 0, 16, 0, 0, 0]);
        let (parsed, frame) = VnetHdr::parse(&out, VnetHdrSize::Ten).unwrap();
        assert_eq!(parsed, header);
        assert_eq!(frame, [0, 0]);
    }

    #[test]
    fn short_or_contradictory_headers_are_errors_not_panics() {
        assert!(VnetHdr::parse(&[0; 9], VnetHdrSize::Ten).is_err());
        assert!(VnetHdr::none().emit(VnetHdrSize::Twelve, &mut [0; 11]).is_err());
        let header = VnetHdr::needs_checksum(u16::MAX, u16::MAX);
        assert!(header.complete_checksum(&mut [0; 60]).is_err());
        assert!(header.validate(60).is_err());
        let mut gso = VnetHdr::super_segment(GsoType::TcpV6, 10, 0, 4);
        assert_eq!(gso.validate(60), Err(VnetError::GsoSizeZero { gso_type: 4 }));
        gso.gso_size = U16::new(100);
        gso.hdr_len = U16::new(61);
        assert_eq!(gso.validate(60), Err(VnetError::HeaderOutside { hdr_len: 61, frame_len: 60 }));
    }

    #[test]
    fn segments_count_the_wire() {
        let header = VnetHdr::super_segment(GsoType::TcpV4, 66, 1000, 34);
        assert_eq!([0, 1, 1000, 1001, 64000].map(|len| header.segments(len)), [1, 1, 1, 2, 64]);
        assert_eq!(VnetHdr::none().segments(64000), 1);
    }

    #[test]
    fn ecn_bit_is_apart_from_the_type() {
        let mut header = VnetHdr::super_segment(GsoType::TcpV6, 86, 1428, 54);
        header.gso_type |= GSO_ECN;
        assert_eq!(header.gso(), GsoType::TcpV6);
        assert!(header.gso_ecn());
    }

    #[test]
    fn completed_checksum_verifies() {
        // UDP 10.0.0.1:1 -> 10.0.0.2:2, three payload bytes (odd length on purpose).
        let mut datagram = vec![0, 1, 0, 2, 0, 11, 0, 0, b'a', b'b', b'c'];
        let (source, destination) = ("10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap());
        let partial = pseudo_header_sum(source, destination, 17, 11);
        datagram[6..8].copy_from_slice(&partial.to_be_bytes());
        VnetHdr::needs_checksum(0, 6).complete_checksum(&mut datagram).unwrap();
        // By hand: 0a00+0001+0a00+0002+0011+000b = 141f; 0001+0002+000b+6162+6300 = c470; ~(141f+c470).
        assert_eq!(datagram[6..8], (!0xd88f_u16).to_be_bytes());
    }
}
