//! TCP options in and out.
//!
//! Answers to Linux 6.18 `tcp_parse_options`, `tcp_parse_aligned_timestamp` and `tcp_options_write`; RFC 9293 §3.1,
//! RFC 7323 §2.2 and §3.2, RFC 2018. Options Linux ignores in its default build (MD5, AO, Fast Open) are skipped.

use arrayvec::ArrayVec;

use crate::units::{Seq, SeqRange};

/// SACK blocks that fit into the 40 bytes of a TCP header's options.
pub const MAX_SACK_BLOCKS: usize = 4;

/// The timestamps option (RFC 7323 §3.2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Timestamps {
    /// The sender's clock.
    pub tsval: u32,
    /// Our clock, echoed.
    pub tsecr: u32,
}

/// What was understood of an arriving header's options. When an option comes twice, the later one counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TcpOptions {
    /// Maximum segment size; only on a SYN, and never zero.
    pub mss: Option<u16>,
    /// Window scale; only on a SYN, and at most 14.
    pub wscale: Option<u8>,
    /// SACK permitted; only on a SYN.
    pub sack_permitted: bool,
    /// Timestamps.
    pub timestamps: Option<Timestamps>,
    /// SACK blocks in the order they were sent; never on a SYN. Nothing is known of the numbers in them.
    pub sack: ArrayVec<SeqRange, MAX_SACK_BLOCKS>,
    /// The options are just NOP, NOP, timestamps: the only layout that header prediction accepts with timestamps on.
    pub aligned_timestamps: bool,
    /// The option bytes as they came, to tell whether two segments may be merged.
    pub raw: ArrayVec<u8, MAX_OPTION_BYTES>,
}

impl TcpOptions {
    /// Walks `bytes`, the options of a segment that has the SYN flag or not. What does not make sense is left out;
    /// what came before it is kept.
    #[must_use]
    pub fn parse(bytes: &[u8], syn: bool) -> Self {
        let mut options = Self::default();
        if bytes.is_empty() {
            return options;
        }
        let bytes = bytes.get(..MAX_OPTION_BYTES).unwrap_or(bytes);
        // Cannot fail: cut to the capacity above.
        let _ = options.raw.try_extend_from_slice(bytes);
        // Linux 6.18 tcp_fast_parse_options: the data offset leaves room for just these twelve bytes.
        if let &[NOP, NOP, TIMESTAMPS, 10, a, b, c, d, e, f, g, h] = bytes {
            options.timestamps = Some(Timestamps {
                tsval: u32::from_be_bytes([a, b, c, d]),
                tsecr: u32::from_be_bytes([e, f, g, h]),
            });
            options.aligned_timestamps = true;
            return options;
        }
        let mut rest = bytes;
        while let Some((&kind, behind)) = rest.split_first() {
            match kind {
                END => break,
                NOP => {
                    rest = behind;
                    continue;
                }
                _ => {}
            }
            // Linux 6.18 tcp_parse_options: a length that is too small or points behind the header ends the walk.
            let Some(&len) = behind.first() else { break };
            let Some((option, next)) = rest.split_at_checked(usize::from(len)) else { break };
            let Some(value) = option.get(2..) else { break };
            rest = next;
            options.take(kind, value, syn);
        }
        options
    }

    /// One option; a wrong length makes it count as unknown.
    fn take(&mut self, kind: u8, value: &[u8], syn: bool) {
        match (kind, value) {
            (MSS, &[a, b]) if syn => {
                let mss = u16::from_be_bytes([a, b]);
                if mss != 0 {
                    self.mss = Some(mss);
                }
            }
            // RFC 7323 §2.3: a shift above 14 is taken as 14.
            (WINDOW_SCALE, &[shift]) if syn => self.wscale = Some(shift.min(MAX_WSCALE)),
            (SACK_PERMITTED, &[]) if syn => self.sack_permitted = true,
            (TIMESTAMPS, &[a, b, c, d, e, f, g, h]) => {
                self.timestamps = Some(Timestamps {
                    tsval: u32::from_be_bytes([a, b, c, d]),
                    tsecr: u32::from_be_bytes([e, f, g, h]),
                });
            }
            (SACK, blocks) if !syn && !blocks.is_empty() => {
                let (blocks, []) = blocks.as_chunks::<8>() else { return };
                self.sack = blocks
                    .iter()
                    .take(MAX_SACK_BLOCKS)
                    .map(|&[a, b, c, d, e, f, g, h]| {
                        let start = Seq(u32::from_be_bytes([a, b, c, d]));
                        SeqRange::new(start, Seq(u32::from_be_bytes([e, f, g, h])))
                    })
                    .collect();
            }
            _ => {}
        }
    }
}

/// The options to put into a departing header.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OutOptions {
    /// Maximum segment size (SYN only).
    pub mss: Option<u16>,
    /// Window scale (SYN only).
    pub wscale: Option<u8>,
    /// SACK permitted (SYN only).
    pub sack_permitted: bool,
    /// Timestamps.
    pub timestamps: Option<Timestamps>,
    /// SACK blocks, most important first; those that do not fit are not sent ([`OutOptions::sack_room`]).
    pub sack: ArrayVec<SeqRange, MAX_SACK_BLOCKS>,
}

impl OutOptions {
    /// How many SACK blocks fit beside the other options: 4 alone, 3 with timestamps.
    #[must_use]
    pub fn sack_room(&self) -> usize {
        let left = MAX_OPTION_BYTES.saturating_sub(self.fixed_len());
        (left.saturating_sub(4) / 8).min(MAX_SACK_BLOCKS)
    }

    /// The option bytes: a multiple of four, at most forty.
    ///
    /// Linux 6.18 `tcp_options_write`: MSS; timestamps, whose two bytes of padding become SACK-permitted when both are
    /// sent; window scale behind a NOP; SACK blocks behind two NOPs.
    #[must_use]
    pub fn to_bytes(&self) -> ArrayVec<u8, MAX_OPTION_BYTES> {
        let mut out = self.fixed();
        if self.sack.is_empty() {
            return out;
        }
        let blocks = self.sack.get(..self.sack_room()).unwrap_or(&self.sack);
        if let (1.., Ok(n)) = (blocks.len(), u8::try_from(blocks.len())) {
            put(&mut out, &[NOP, NOP, SACK, n.saturating_mul(8).saturating_add(2)]);
            for block in blocks {
                put(&mut out, &block.start.0.to_be_bytes());
                put(&mut out, &block.end.0.to_be_bytes());
            }
        }
        out
    }

    /// How many bytes [`OutOptions::fixed`] are.
    fn fixed_len(&self) -> usize {
        let mss = if self.mss.is_some() { 4 } else { 0 };
        let timestamps = if self.timestamps.is_some() { 12 } else { 0 };
        let sack_permitted = if self.sack_permitted && self.timestamps.is_none() { 4 } else { 0 };
        let wscale = if self.wscale.is_some() { 4 } else { 0 };
        mss + timestamps + sack_permitted + wscale
    }

    /// Everything but the SACK blocks.
    fn fixed(&self) -> ArrayVec<u8, MAX_OPTION_BYTES> {
        let mut out = ArrayVec::new();
        if self.mss.is_none() && !self.sack_permitted && self.wscale.is_none() {
            // All segments behind the handshake.
            if let Some(ts) = self.timestamps {
                let ([a, b, c, d], [e, f, g, h]) = (ts.tsval.to_be_bytes(), ts.tsecr.to_be_bytes());
                put(&mut out, &[NOP, NOP, TIMESTAMPS, 10, a, b, c, d, e, f, g, h]);
            }
            return out;
        }
        if let Some(mss) = self.mss {
            put(&mut out, &[MSS, 4]);
            put(&mut out, &mss.to_be_bytes());
        }
        if let Some(ts) = self.timestamps {
            put(&mut out, if self.sack_permitted { &[SACK_PERMITTED, 2] } else { &[NOP, NOP] });
            put(&mut out, &[TIMESTAMPS, 10]);
            put(&mut out, &ts.tsval.to_be_bytes());
            put(&mut out, &ts.tsecr.to_be_bytes());
        } else if self.sack_permitted {
            put(&mut out, &[NOP, NOP, SACK_PERMITTED, 2]);
        }
        if let Some(shift) = self.wscale {
            put(&mut out, &[NOP, WINDOW_SCALE, 3, shift]);
        }
        out
    }
}

/// Appends; all options together are at most 4 + 12 + 4 bytes before the SACK blocks, which are cut to fit.
fn put(out: &mut ArrayVec<u8, MAX_OPTION_BYTES>, bytes: &[u8]) {
    let fitted = out.try_extend_from_slice(bytes);
    debug_assert!(fitted.is_ok(), "options longer than the header allows");
}

/// The largest data offset (15 words) leaves this much behind the fixed header.
pub(super) const MAX_OPTION_BYTES: usize = 40;
const MAX_WSCALE: u8 = 14;

const END: u8 = 0;
const NOP: u8 = 1;
const MSS: u8 = 2;
const WINDOW_SCALE: u8 = 3;
const SACK_PERMITTED: u8 = 4;
const SACK: u8 = 5;
const TIMESTAMPS: u8 = 8;
