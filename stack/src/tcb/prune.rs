//! What gives way when memory runs out: clamp, collapse out of order, collapse in order, prune, refuse.
//!
//! Answers to (Linux 6.1 and 6.18): `tcp_try_rmem_schedule`, `tcp_prune_queue`, `tcp_clamp_window`,
//! `tcp_prune_ofo_queue`; and to the published `tcp_collapse_max_bytes` patch. What a collapse does is in `collapse`.

use super::{Cx, Tcb, collapse::Work};
use crate::{
    counters::Counter,
    decision::{CollapseOutcome, Decision, DropReason, QueueKind},
    mem::Refused,
    profile::{Admission, ClampRaise, Collapse, OfoPrune, PruneEntry},
    skb::Skb,
    units::Seq,
};

/// The segment that memory is wanted for.
#[derive(Clone, Copy)]
pub(crate) struct Wanted {
    pub(crate) truesize: i32,
    pub(crate) len: u32,
    pub(crate) seq: Seq,
}

impl Wanted {
    #[inline(always)]
    pub(crate) fn of(skb: &Skb) -> Self {
        Wanted { truesize: skb.truesize, len: skb.len, seq: skb.seq }
    }
}

impl Tcb {
    /// Makes room for one segment, or fails (`tcp_try_rmem_schedule`).
    #[inline(always)]
    pub(crate) fn try_rmem_schedule(&mut self, cx: &mut Cx<'_>, want: Wanted) -> bool {
        if self.admits(cx, want) && self.schedule(cx, want.truesize) {
            return true;
        }
        if !self.prune_queue(cx, want) {
            return false;
        }
        while !self.schedule(cx, want.truesize) {
            if !self.prune_ofo_queue(cx, want.seq) {
                return false;
            }
        }
        true
    }

    /// Is what is charged within the buffer? Equality is.
    #[inline(always)]
    fn admits(&self, cx: &Cx<'_>, want: Wanted) -> bool {
        let extra = match cx.shared.profile.admission {
            Admission::Charged => 0,
            Admission::ChargedPlusLen => want.len as i32,
            Admission::ChargedPlusTruesize => want.truesize,
        };
        self.mem.sk_rmem_alloc.wrapping_add(extra) <= self.mem.sk_rcvbuf
    }

    /// `sk_rmem_schedule`, with its refusal and a change of pressure reported.
    #[inline(always)]
    pub(crate) fn schedule(&mut self, cx: &mut Cx<'_>, size: i32) -> bool {
        let verdict = self.mem.schedule(&mut cx.mem(), size);
        cx.shared.note_pressure(cx.now);
        if let Err(Refused { limit, pages, allocated }) = verdict {
            self.decide(cx, move || Decision::MemoryRefused { limit, pages, allocated });
        }
        verdict.is_ok()
    }

    /// The ladder. True if what is charged fits the buffer afterwards.
    fn prune_queue(&mut self, cx: &mut Cx<'_>, want: Wanted) -> bool {
        let entry = cx.shared.profile.prune_entry;
        if entry == PruneEntry::AboveLimit && self.mem.sk_rmem_alloc == 0 {
            return false;
        }
        cx.count(Counter::TcpExtPruneCalled);
        self.stats.prunes = self.stats.prunes.wrapping_add(1);
        let (sk_rmem_alloc, sk_rcvbuf) = (self.mem.sk_rmem_alloc, self.mem.sk_rcvbuf);
        self.decide(cx, move || Decision::PruneCalled { sk_rmem_alloc, sk_rcvbuf, asked: want.truesize });
        let full = match entry {
            PruneEntry::AtLimit => sk_rmem_alloc >= sk_rcvbuf,
            PruneEntry::AboveLimit => sk_rmem_alloc > sk_rcvbuf,
        };
        if full {
            self.clamp_window(cx);
        } else if self.under_pressure(cx) {
            self.cut_ssthresh(4 * self.advmss);
        }
        if self.fits() {
            return true;
        }
        if self.may_collapse(cx) {
            self.collapse_queues(cx);
            if self.fits() {
                return true;
            }
            self.prune_ofo_queue(cx, want.seq);
            if self.fits() {
                return true;
            }
        }
        cx.count(Counter::TcpExtRcvPruned);
        self.pred = None;
        let (sk_rmem_alloc, sk_rcvbuf) = (self.mem.sk_rmem_alloc, self.mem.sk_rcvbuf);
        self.decide(cx, move || Decision::PruneFailed { sk_rmem_alloc, sk_rcvbuf });
        false
    }

    /// The policy that never collapses slows the sender before memory is full: from seven eighths of sk_rcvbuf on, no
    /// more than two segments are offered beyond what has been promised.
    #[inline(always)]
    pub(crate) fn slow_early(&mut self, cx: &mut Cx<'_>) {
        let (sk_rcvbuf, sk_rmem_alloc) = (self.mem.sk_rcvbuf, self.mem.sk_rmem_alloc);
        let before = self.win.rcv_ssthresh;
        if cx.shared.profile.collapse != Collapse::Refuse || sk_rmem_alloc <= sk_rcvbuf - (sk_rcvbuf >> 3) {
            return;
        }
        self.cut_ssthresh(self.win.window_clamp.min(2 * self.advmss));
        let rcv_ssthresh = self.win.rcv_ssthresh;
        if rcv_ssthresh != before {
            self.stats.clamps = self.stats.clamps.wrapping_add(1);
            self.decide(cx, move || Decision::Clamped {
                sk_rcvbuf_before: sk_rcvbuf,
                sk_rcvbuf,
                sk_rmem_alloc,
                rcv_ssthresh_before: before,
                rcv_ssthresh,
            });
        }
    }

    fn fits(&self) -> bool {
        self.mem.sk_rmem_alloc <= self.mem.sk_rcvbuf
    }

    /// The collapse switches: off, and the threshold of the published patch (which skips all of the ladder's rest). Our
    /// own policies stay below that threshold too.
    fn may_collapse(&self, cx: &mut Cx<'_>) -> bool {
        let charged = self.mem.sk_rmem_alloc;
        let limit = match (cx.shared.profile.collapse, cx.shared.sysctl.tcp_collapse_max_bytes) {
            (Collapse::Off | Collapse::Refuse, _) => Err(CollapseOutcome::SwitchedOff),
            (Collapse::Below(n), _) | (_, n @ 1..) => Ok(Some(n)),
            (_, 0) => Ok(None),
        };
        let outcome = match limit {
            Ok(Some(n)) if charged as u32 > n => CollapseOutcome::AboveThreshold,
            Ok(_) => return true,
            Err(outcome) => outcome,
        };
        self.note_collapse(cx, QueueKind::Receive, outcome, &Work::default(), charged);
        false
    }

    pub(super) fn note_work(&mut self, cx: &mut Cx<'_>, queue: QueueKind, work: &Work, before: i32) {
        let outcome = work.outcome();
        if outcome != CollapseOutcome::NothingBloated {
            self.stats.collapses = self.stats.collapses.wrapping_add(1);
        }
        self.note_collapse(cx, queue, outcome, work, before);
    }

    fn note_collapse(
        &self,
        cx: &mut Cx<'_>,
        queue: QueueKind,
        outcome: CollapseOutcome,
        work: &Work,
        before: i32,
    ) {
        let (freed, made, copied, sk_rmem_alloc) =
            (work.freed, work.made, work.copied, self.mem.sk_rmem_alloc);
        self.decide(cx, move || Decision::Collapsed {
            queue,
            outcome,
            freed,
            made,
            copied,
            sk_rmem_alloc_before: before,
            sk_rmem_alloc,
        });
    }

    /// `tcp_clamp_window`: the buffer may grow to what is charged already; if that is not enough, rcv_ssthresh is cut.
    fn clamp_window(&mut self, cx: &mut Cx<'_>) {
        self.ack.quick = 0;
        let (before, ssthresh_before) = (self.mem.sk_rcvbuf, self.win.rcv_ssthresh);
        let rmem2 = cx.shared.sysctl.tcp_rmem[2];
        if before < rmem2
            && !self.mem.rcvbuf_locked
            && cx.shared.profile.clamp_raise == ClampRaise::On
            && !self.under_pressure(cx)
            && cx.global().allocated() < cx.shared.sysctl.tcp_mem[0]
        {
            self.mem.sk_rcvbuf = self.mem.sk_rmem_alloc.min(rmem2);
        }
        if self.mem.sk_rmem_alloc > self.mem.sk_rcvbuf {
            self.win.rcv_ssthresh = self.win.window_clamp.min(2 * self.advmss);
        }
        let (sk_rcvbuf, sk_rmem_alloc, rcv_ssthresh) =
            (self.mem.sk_rcvbuf, self.mem.sk_rmem_alloc, self.win.rcv_ssthresh);
        if sk_rcvbuf != before || rcv_ssthresh != ssthresh_before {
            self.stats.clamps = self.stats.clamps.wrapping_add(1);
        }
        self.decide(cx, move || Decision::Clamped {
            sk_rcvbuf_before: before,
            sk_rcvbuf,
            sk_rmem_alloc,
            rcv_ssthresh_before: ssthresh_before,
            rcv_ssthresh,
        });
    }

    /// Throws out-of-order data away, the furthest first, until the buffer fits. False if nothing went.
    fn prune_ofo_queue(&mut self, cx: &mut Cx<'_>, arriving: Seq) -> bool {
        if self.ofo.is_empty() {
            return false;
        }
        let spare = cx.shared.profile.ofo_prune == OfoPrune::SparesOlder;
        let share = self.mem.sk_rcvbuf >> 3;
        let mut goal = share;
        let (mut dropped, mut bytes) = (0u32, 0u64);
        while let Some((key, last)) = self.ofo.last() {
            if spare && arriving.after(last.seq) {
                // Room for something further out is not made at the cost of something nearer.
                break;
            }
            let Some(skb) = self.ofo.remove(key) else { break };
            dropped += 1;
            bytes += u64::from(skb.len);
            self.ofo_bytes = self.ofo_bytes.saturating_sub(u64::from(skb.len));
            goal = goal.wrapping_sub(skb.truesize);
            self.drop_skb(cx, &skb, DropReason::OfoPruned);
            self.mem.refund(&mut cx.mem(), skb.truesize);
            if self.ofo.is_empty() || goal <= 0 {
                if self.fits() && !self.under_pressure(cx) {
                    break;
                }
                goal = share;
            }
        }
        let counts = dropped > 0 || !spare;
        if counts {
            cx.count(Counter::TcpExtOfoPruned);
            // What was reported as held is gone: the peer must not believe the old blocks (RFC 2018 §8).
            if self.opts.sack {
                self.sack.reset();
            }
        }
        let sk_rmem_alloc = self.mem.sk_rmem_alloc;
        self.decide(cx, move || Decision::OfoPruned { dropped, bytes, sk_rmem_alloc });
        counts
    }
}
