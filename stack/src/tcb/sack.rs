//! What SACK and D-SACK report: at most four blocks, the newest first (RFC 2018 §4, RFC 2883 §4).
//!
//! Answers to (Linux 6.1 and 6.18): `tcp_sack_new_ofo_skb`, `tcp_sack_remove`, `tcp_dsack_set`, `tcp_dsack_extend`.

use arrayvec::ArrayVec;

use super::{Cx, Tcb};
use crate::{
    counters::Counter,
    decision::Decision,
    profile::DuplicateRehash,
    units::{Seq, SeqRange},
};

const BLOCKS: usize = 4;
/// Blocks that any peer is sure to see in every ACK; touching a later one flushes compressed ACKs.
const EXPECTED: usize = 2;

/// The blocks to report.
#[derive(Clone, Debug, Default)]
pub(crate) struct SackState {
    pub(crate) blocks: ArrayVec<SeqRange, BLOCKS>,
    /// Data received twice, reported once.
    pub(crate) duplicate: Option<SeqRange>,
    /// Keeps its value after it was sent: a later extension may grow it.
    last_duplicate: SeqRange,
}

/// Grows `block` by a range that touches or overlaps it.
fn extend(block: &mut SeqRange, start: Seq, end: Seq) -> bool {
    if start.after(block.end) || block.start.after(end) {
        return false;
    }
    block.start = block.start.min(start);
    block.end = block.end.max(end);
    true
}

impl SackState {
    /// Forgets all blocks (the out-of-order queue was pruned or purged).
    pub(crate) fn reset(&mut self) {
        self.blocks.clear();
        self.duplicate = None;
    }

    /// Grows the first block that touches or overlaps `start..end`, where it stands. Returns its index.
    fn touch(&mut self, start: Seq, end: Seq) -> Option<usize> {
        self.blocks.iter_mut().position(|b| extend(b, start, end))
    }

    /// Moves a block to the front and joins others to it.
    fn bring_forward(&mut self, index: usize) {
        if let Some(prefix) = self.blocks.get_mut(..=index) {
            prefix.rotate_right(1);
        }
        self.absorb();
    }

    /// Puts a new block in front; the fifth pushes out the oldest.
    fn add(&mut self, start: Seq, end: Seq) {
        if self.blocks.is_full() {
            self.blocks.pop();
        }
        self.blocks.insert(0, SeqRange::new(start, end));
    }

    /// Joins blocks that now touch the first one.
    fn absorb(&mut self) {
        let Some((&first, _)) = self.blocks.split_first() else { return };
        let mut first = first;
        let mut index = 0;
        self.blocks.retain(|b| {
            index += 1;
            index == 1 || !extend(&mut first, b.start, b.end)
        });
        if let Some(slot) = self.blocks.first_mut() {
            *slot = first;
        }
    }
}

impl Tcb {
    /// `tcp_sack_new_ofo_skb`: data at `start..end` is held out of order.
    pub(crate) fn sack_hold(&mut self, cx: &mut Cx<'_>, start: Seq, end: Seq) {
        let touched = self.sack.touch(start, end);
        if touched.unwrap_or(self.sack.blocks.len()) >= EXPECTED {
            // Peers must not miss this block: ACKs held back go out first, with the list in its old order.
            self.flush_compressed(cx);
        }
        match touched {
            Some(index) => self.sack.bring_forward(index),
            None => self.sack.add(start, end),
        }
        self.decide(cx, move || Decision::Sack { start, end, duplicate: false });
    }

    /// `tcp_sack_remove`: blocks below rcv_nxt are no longer news.
    pub(crate) fn sack_remove(&mut self) {
        if self.ofo.is_empty() {
            self.sack.blocks.clear();
            return;
        }
        let rcv_nxt = self.rcv_nxt;
        self.sack.blocks.retain(|b| rcv_nxt.before(b.start));
    }

    /// `tcp_dsack_set`: `start..end` arrived twice.
    pub(crate) fn dsack_set(&mut self, cx: &mut Cx<'_>, start: Seq, end: Seq) {
        if !self.opts.sack || !cx.shared.sysctl.tcp_dsack {
            return;
        }
        cx.count(if start.before(self.rcv_nxt) {
            Counter::TcpExtTCPDSACKOldSent
        } else {
            Counter::TcpExtTCPDSACKOfoSent
        });
        self.sack.last_duplicate = SeqRange::new(start, end);
        self.sack.duplicate = Some(self.sack.last_duplicate);
        self.decide(cx, move || Decision::Sack { start, end, duplicate: true });
    }

    /// `tcp_rcv_spurious_retrans`: the same old data once more may mean that our ACKs do not get through, and that another
    /// path should be tried. Nothing but the counter is modelled.
    pub(crate) fn note_old_data(&mut self, cx: &mut Cx<'_>, start: Seq) {
        if cx.shared.profile.duplicate_rehash == DuplicateRehash::SameStart
            && start == self.sack.last_duplicate.start
        {
            cx.count(Counter::TcpExtTcpDuplicateDataRehash);
        }
    }

    /// `tcp_dsack_extend`: as [`Tcb::dsack_set`], joined to what is to be reported already.
    pub(crate) fn dsack_extend(&mut self, cx: &mut Cx<'_>, start: Seq, end: Seq) {
        match &mut self.sack.duplicate {
            Some(d) => {
                extend(d, start, end);
                self.sack.last_duplicate = *d;
            }
            None => self.dsack_set(cx, start, end),
        }
    }

    /// The blocks of the next segment: the duplicate first, then as many as fit.
    pub(crate) fn sack_blocks(&self, room: usize) -> ArrayVec<SeqRange, BLOCKS> {
        if self.sack.duplicate.is_none() && self.sack.blocks.is_empty() {
            return ArrayVec::new();
        }
        self.sack
            .duplicate
            .into_iter()
            .chain(self.sack.blocks.iter().copied())
            .take(room.min(BLOCKS))
            .collect()
    }
}

#[cfg(test)]
mod unit {
    use super::*;

    impl SackState {
        fn hold(&mut self, start: Seq, end: Seq) {
            match self.touch(start, end) {
                Some(index) => self.bring_forward(index),
                None => self.add(start, end),
            }
        }
    }

    fn list(s: &SackState) -> Vec<(u32, u32)> {
        s.blocks.iter().map(|b| (b.start.0, b.end.0)).collect()
    }

    #[test]
    fn the_newest_block_comes_first_and_the_fifth_pushes_out_the_oldest() {
        let mut s = SackState::default();
        for i in 0..5u32 {
            s.hold(Seq(100 * i), Seq(100 * i + 10));
        }
        assert_eq!(list(&s), [(400, 410), (300, 310), (200, 210), (100, 110)]);
    }

    #[test]
    fn an_extended_block_moves_to_the_front_and_swallows_others() {
        let mut s = SackState::default();
        for start in [100, 200, 300] {
            s.hold(Seq(start), Seq(start + 10));
        }
        s.hold(Seq(110), Seq(200));
        assert_eq!(list(&s), [(100, 210), (300, 310)]);
        s.hold(Seq(310), Seq(320));
        assert_eq!(list(&s), [(300, 320), (100, 210)]);
    }

    #[test]
    fn blocks_join_across_the_wrap() {
        let mut s = SackState::default();
        s.hold(Seq(u32::MAX - 9), Seq(0));
        s.hold(Seq(0), Seq(10));
        assert_eq!(list(&s), [(u32::MAX - 9, 10)]);
    }
}
