//! What gives way when memory runs out: clamp, collapse out of order, collapse in order, prune, refuse.
//!
//! Answers to (Linux 6.1 and 6.18): `tcp_try_rmem_schedule`, `tcp_prune_queue`, `tcp_clamp_window`, `tcp_collapse`,
//! `tcp_collapse_ofo_queue`, `tcp_prune_ofo_queue`; and to the published `tcp_collapse_max_bytes` patch.

use std::collections::VecDeque;

use super::{Cx, OfoQueue, Tcb};
use crate::{
    counters::Counter,
    decision::{CollapseOutcome, Decision, DropReason, QueueKind},
    mem::Refused,
    nic,
    profile::{Admission, ClampRaise, Collapse, OfoPrune, Profile, PruneEntry, SpaceRule},
    skb::Skb,
    units::Seq,
    wire::TcpFlags,
};

/// The segment that memory is wanted for.
#[derive(Clone, Copy)]
pub(crate) struct Wanted {
    pub(crate) truesize: i32,
    pub(crate) len: u32,
    pub(crate) seq: Seq,
}

impl Wanted {
    pub(crate) fn of(skb: &Skb) -> Self {
        Wanted { truesize: skb.truesize, len: skb.len, seq: skb.seq }
    }
}

impl Tcb {
    /// Makes room for one segment, or fails (`tcp_try_rmem_schedule`).
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
    fn admits(&self, cx: &Cx<'_>, want: Wanted) -> bool {
        let extra = match cx.shared.profile.admission {
            Admission::Charged => 0,
            Admission::ChargedPlusLen => want.len as i32,
            Admission::ChargedPlusTruesize => want.truesize,
        };
        self.mem.sk_rmem_alloc.wrapping_add(extra) <= self.mem.sk_rcvbuf
    }

    /// `sk_rmem_schedule`, with its refusal and a change of pressure reported.
    pub(crate) fn schedule(&mut self, cx: &mut Cx<'_>, size: i32) -> bool {
        let verdict = self.mem.schedule(&mut cx.mem(), size);
        cx.shared.note_pressure(cx.now);
        if let Err(Refused { limit, pages, allocated }) = verdict {
            self.decide(cx, || Decision::MemoryRefused { limit, pages, allocated });
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
        self.decide(cx, || Decision::PruneCalled { sk_rmem_alloc, sk_rcvbuf, asked: want.truesize });
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
            self.collapse_ofo_queue(cx);
            self.collapse_receive_queue(cx);
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
        self.decide(cx, || Decision::PruneFailed { sk_rmem_alloc, sk_rcvbuf });
        false
    }

    fn fits(&self) -> bool {
        self.mem.sk_rmem_alloc <= self.mem.sk_rcvbuf
    }

    /// The collapse switches: off, and the threshold of the published patch (which skips all of the ladder's rest).
    fn may_collapse(&self, cx: &mut Cx<'_>) -> bool {
        let charged = self.mem.sk_rmem_alloc;
        let limit = match (cx.shared.profile.collapse, cx.shared.sysctl.tcp_collapse_max_bytes) {
            (Collapse::Off, _) => Err(CollapseOutcome::SwitchedOff),
            (Collapse::Below(n), _) | (Collapse::On, n @ 1..) => Ok(Some(n)),
            (Collapse::On, 0) => Ok(None),
        };
        let outcome = match limit {
            Ok(Some(n)) if charged as u32 > n => CollapseOutcome::AboveThreshold,
            Ok(_) => return true,
            Err(outcome) => outcome,
        };
        self.note_collapse(cx, QueueKind::Receive, outcome, &Work::default(), charged);
        false
    }

    fn note_work(&mut self, cx: &mut Cx<'_>, queue: QueueKind, work: &Work, before: i32) {
        let outcome = work.outcome();
        if outcome == CollapseOutcome::Rewritten {
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
        self.decide(cx, || Decision::Collapsed {
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
        self.decide(cx, || Decision::Clamped {
            sk_rcvbuf_before: before,
            sk_rcvbuf,
            sk_rmem_alloc,
            rcv_ssthresh_before: ssthresh_before,
            rcv_ssthresh,
        });
    }

    fn collapse_receive_queue(&mut self, cx: &mut Cx<'_>) {
        if self.queue.is_empty() {
            return;
        }
        let before = self.mem.sk_rmem_alloc;
        let rule = self.space_rule(cx);
        let list = core::mem::take(&mut self.queue);
        let (list, work) = self.rewrite(cx, list, rule, self.copied_seq, self.rcv_nxt);
        self.queue = list;
        self.note_work(cx, QueueKind::Receive, &work, before);
    }

    /// Ranges without holes are collapsed one by one; many small ranges that would gain nothing end the attempt.
    fn collapse_ofo_queue(&mut self, cx: &mut Cx<'_>) {
        if self.ofo.is_empty() {
            return;
        }
        let before = self.mem.sk_rmem_alloc;
        let rule = self.space_rule(cx);
        let mut total = Work::default();
        // Only what will be rewritten is touched: with many small ranges nothing is, and looking must stay cheap.
        let chunk = cx.shared.profile.build.page_room();
        let patience = i64::from(self.mem.sk_rcvbuf >> 3);
        for Range { first, last, start, end } in worthwhile(&self.ofo, patience, chunk) {
            let keys: Vec<u64> = self.ofo.keys(first..=last).collect();
            let list: VecDeque<Skb> = keys.iter().filter_map(|k| self.ofo.vacate(*k)).collect();
            let mut staying: VecDeque<(Seq, u64)> = list.iter().map(|s| s.seq).zip(keys).collect();
            let bytes = |list: &VecDeque<Skb>| list.iter().map(|s| u64::from(s.len)).sum::<u64>();
            let held = bytes(&list);
            let (list, work) = self.rewrite(cx, list, rule, start, end);
            self.ofo_bytes = (self.ofo_bytes + bytes(&list)).saturating_sub(held);
            total.add(&work);
            for seq in &work.gone {
                let at = staying.iter().position(|(s, _)| s == seq);
                if let Some((_, key)) = at.and_then(|at| staying.remove(at)) {
                    self.ofo.forget(key);
                }
            }
            // Linux links what it made when all that it copied from is unlinked.
            let (mut made, mut kept) = (Vec::new(), staying.into_iter());
            for (i, skb) in list.into_iter().enumerate() {
                if (work.first_made..work.first_made + work.made as usize).contains(&i) {
                    made.push(skb);
                } else if let Some((_, key)) = kept.next() {
                    self.ofo.insert(key, skb);
                }
            }
            for skb in made {
                let key = self.ofo.free_key(self.ofo_key(skb.seq));
                self.ofo.insert(key, skb);
            }
        }
        self.note_work(cx, QueueKind::OutOfOrder, &total, before);
    }

    /// `tcp_collapse`: rewrites a list into tight buffers from the first place where it pays.
    fn rewrite(
        &mut self,
        cx: &mut Cx<'_>,
        mut old: VecDeque<Skb>,
        rule: SpaceRule,
        mut start: Seq,
        end: Seq,
    ) -> (VecDeque<Skb>, Work) {
        let mut work = Work::default();
        // Phase one: what is fine stays; what was read in full goes.
        let mut keep = 0;
        let begin = loop {
            let Some(skb) = old.get(keep) else { break None };
            if skb.end_seq.at_or_before(start) {
                if let Some(skb) = old.remove(keep) {
                    self.free_collapsed(cx, skb, &mut work);
                }
                continue;
            }
            let bloated = rule.window_from_space(skb.truesize) > skb.len as i32 || skb.seq.before(start);
            let hole = old.get(keep + 1).is_some_and(|next| next.seq != skb.end_seq);
            if bloated && !is_control(skb) || hole {
                break (!is_control(skb)).then_some(keep);
            }
            start = skb.end_seq;
            keep += 1;
        };
        let Some(begin) = begin else { return (old, work) };
        let mut new: VecDeque<Skb> = old.drain(..begin).collect();
        work.first_made = new.len();
        // Phase two: copy everything that follows, chunk by chunk.
        let mut current = old.pop_front();
        'chunks: while start.before(end) {
            let Some(flags) = current.as_ref().map(|s| s.flags) else { break };
            // A collapsed buffer fills a page at most.
            let room = cx.shared.profile.build.page_room().min(end.since(start).unsigned_abs());
            let mut fresh = new_chunk(&cx.shared.profile, start, flags, room);
            self.mem.charge(fresh.truesize);
            work.made += 1;
            let mut left = room;
            while let Some(skb) = current.as_ref() {
                let offset = start.since(skb.seq).max(0).unsigned_abs();
                let n = fresh.append_copy(skb, offset, left);
                start += n;
                left -= n;
                work.copied += u64::from(n);
                let exhausted = !start.before(skb.end_seq);
                if exhausted {
                    if let Some(skb) = current.take() {
                        self.free_collapsed(cx, skb, &mut work);
                    }
                    current = old.pop_front();
                    if current.as_ref().is_none_or(is_control) {
                        new.push_back(fresh);
                        break 'chunks;
                    }
                }
                if left == 0 || (n == 0 && !exhausted) {
                    break;
                }
            }
            new.push_back(fresh);
        }
        if let Some(skb) = current {
            new.push_back(skb);
        }
        new.append(&mut old);
        (new, work)
    }

    fn free_collapsed(&mut self, cx: &mut Cx<'_>, skb: Skb, work: &mut Work) {
        cx.count(Counter::TcpExtTCPRcvCollapsed);
        work.freed += 1;
        work.gone.push(skb.seq);
        self.mem.refund(&mut cx.mem(), skb.truesize);
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
        self.decide(cx, || Decision::OfoPruned { dropped, bytes, sk_rmem_alloc });
        counts
    }
}

/// What a collapse did.
#[derive(Default)]
struct Work {
    freed: u32,
    made: u32,
    copied: u64,
    /// Where buffers began that were freed, in order.
    gone: Vec<Seq>,
    /// Place of the first new one in the list.
    first_made: usize,
}

impl Work {
    fn add(&mut self, other: &Work) {
        self.freed += other.freed;
        self.made += other.made;
        self.copied += other.copied;
    }

    fn outcome(&self) -> CollapseOutcome {
        if self.made + self.freed > 0 { CollapseOutcome::Rewritten } else { CollapseOutcome::NothingBloated }
    }
}

fn is_control(skb: &Skb) -> bool {
    skb.flags.intersects(TcpFlags::SYN | TcpFlags::FIN)
}

fn new_chunk(profile: &Profile, start: Seq, flags: TcpFlags, room: u32) -> Skb {
    let (end, truesize) = nic::slab_head(profile, room);
    Skb::for_collapse(start, flags, end, truesize, room)
}

/// A maximal run of out-of-order buffers without a hole.
struct Range {
    first: u64,
    last: u64,
    start: Seq,
    end: Seq,
}

/// The runs that a collapse rewrites: more than one buffer, or one of at least `chunk` bytes. Once the memory of the
/// others exceeds `patience`, the search ends.
fn worthwhile(ofo: &OfoQueue, patience: i64, chunk: u32) -> Vec<Range> {
    let mut found = Vec::new();
    let mut tiny = 0i64;
    let mut rest = ofo.iter().peekable();
    while let Some((first, skb)) = rest.next() {
        let (start, mut end, mut last) = (skb.seq, skb.end_seq, first);
        let alone = i64::from(skb.truesize);
        let mut sum = alone;
        while let Some((key, next)) = rest.next_if(|(_, n)| !n.seq.after(end) && !n.end_seq.before(start)) {
            (last, end) = (key, end.max(next.end_seq));
            sum += i64::from(next.truesize);
        }
        if sum != alone || end.since(start) >= chunk as i32 {
            found.push(Range { first, last, start, end });
        } else {
            tiny += sum;
            if tiny > patience {
                break;
            }
        }
    }
    found
}
