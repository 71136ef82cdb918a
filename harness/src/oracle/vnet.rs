//! What a frame says of itself to the device it is written to.

use super::script::RxPath;

/// The virtio header of a frame, as far as the receiver looks at it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Bytes of headers, from the first byte of the frame; 0: not said.
    pub hdr_len: u16,
    /// Payload bytes of each segment merged into the frame; 0: one segment.
    pub gso_size: u16,
    /// The transport checksum need not be verified.
    pub csum_ok: bool,
}

/// What is said of a segment of `len` bytes. Only `vnet` has a header to say it in: a segment longer than what fits into
/// one of `mss` bytes is announced as a super-segment with its headers' length, everything else as plain.
#[must_use]
pub fn plan(path: RxPath, len: u32, mss: u16, timestamps: bool) -> Plan {
    let options: u16 = if timestamps { 12 } else { 0 };
    let per = mss.saturating_sub(options).max(1);
    if path != RxPath::Vnet || len <= u32::from(per) {
        return Plan::default();
    }
    Plan { hdr_len: 14 + 20 + 20 + options, gso_size: per, csum_ok: true }
}
