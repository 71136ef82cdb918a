//! What stands in the virtio header of an injected segment: decided by the segment and the handshake alone, so that a
//! replay can give the stack the same.

use rightedge_stack::wire::RxMeta;

/// The parts of a virtio header that change what the receiver does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VnetPlan {
    /// Bytes in front of the payload: Ethernet, IP and TCP header with its options. Always stated.
    pub hdr_len: u16,
    /// Payload bytes of each segment of a super-segment; 0 for a frame of one segment.
    pub gso_size: u16,
    /// The checksum needs no look: unfinished (`NEEDS_CSUM`, which a super-segment must have) or declared right
    /// (`DATA_VALID`).
    pub csum_ok: bool,
}

impl VnetPlan {
    /// The same for the stack.
    #[must_use]
    pub fn meta(self) -> RxMeta {
        RxMeta { gso_size: self.gso_size, hdr_len: self.hdr_len, csum_ok: self.csum_ok }
    }
}

/// The virtio header of a frame with `headers` bytes in front of `payload` bytes.
///
/// `mss` is the one the peer may use, without room for options: the smaller of what the two SYNs offered. The options of
/// this frame count against it, as they do for a sender that segments. A segment with more payload than that becomes a
/// super-segment over TCPV4 with an unfinished checksum; a smaller one is a plain frame with its checksum declared right.
/// A segment with a wrong checksum (`bad_sum`) is plain whatever its size and declares nothing, or nobody would look at
/// the checksum.
#[must_use]
pub fn vnet_plan(headers: u32, payload: u32, mss: u16, options: u32, bad_sum: bool) -> VnetPlan {
    let hdr_len = u16::try_from(headers).unwrap_or(u16::MAX);
    let room = u32::from(mss).saturating_sub(options).max(1);
    let gso_size = if payload > room && !bad_sum { u16::try_from(room).unwrap_or(u16::MAX) } else { 0 };
    VnetPlan { hdr_len, gso_size, csum_ok: !bad_sum }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn super_segments_are_those_larger_than_the_mss() {
        assert_eq!(vnet_plan(54, 1460, 1460, 0, false), VnetPlan { hdr_len: 54, gso_size: 0, csum_ok: true });
        assert_eq!(
            vnet_plan(54, 1461, 1460, 0, false),
            VnetPlan { hdr_len: 54, gso_size: 1460, csum_ok: true }
        );
        assert_eq!(vnet_plan(66, 1449, 1460, 12, false).gso_size, 1448);
        assert_eq!(vnet_plan(54, 9000, 1460, 0, true), VnetPlan { hdr_len: 54, gso_size: 0, csum_ok: false });
        assert_eq!(vnet_plan(u32::MAX, 2, 0, 40, false).gso_size, 1);
    }
}
