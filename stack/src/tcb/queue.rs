//! Where the bytes of an acceptable segment go: in order, out of order, twice, nowhere.
//!
//! Answers to (Linux 6.1 and 6.18): `tcp_data_queue`, `tcp_queue_rcv`, `tcp_try_coalesce`, `tcp_data_queue_ofo`,
//! `tcp_ofo_queue`, `tcp_add_backlog`.

use super::{AckFlags, Cx, Tcb, ack::MAX_QUICKACKS, estimate::Truesize, prune::Wanted};
use crate::{
    counters::Counter,
    decision::{Decision, DropReason, QueueKind},
    mem::SockMem,
    profile::{BareFin, Coalesce, EmptyQueue, NoMemoryWindow, OfoGrow, OfoMeasure, OverWindow, SpaceModel},
    skb::{Seen, Skb},
    units::Seq,
    wire::{TcpFlags, TcpSegment},
};

/// Joins `from` onto `to` if policy and buffers allow, and charges the difference (`tcp_try_coalesce`).
#[inline(always)]
fn coalesce(
    cx: &mut Cx<'_>,
    mem: &mut SockMem,
    id: crate::SocketId,
    queue: QueueKind,
    to: &mut Skb,
    from: &mut Skb,
) -> bool {
    let verdict = match cx.shared.profile.coalesce {
        Coalesce::Off => Err(crate::decision::CoalesceRefusal::SwitchedOff),
        Coalesce::On => {
            let shared = &mut *cx.shared;
            to.try_coalesce(from, &shared.profile.build, &mut shared.spare)
        }
    };
    match verdict {
        Ok(merge) => {
            mem.charge(merge.delta);
            cx.count(Counter::TcpExtTCPRcvCoalesce);
            let (how, delta, len, total_len) = (merge.how, merge.delta, from.len, to.len);
            if cx.shared.log.listening() {
                let joined = move || Decision::Coalesced { queue, how, len, delta, total_len };
                cx.shared.log.push(cx.now, Some(id), joined);
            }
            true
        }
        Err(why) => {
            if cx.shared.log.listening() {
                cx.shared.log.push(cx.now, Some(id), move || Decision::NotCoalesced { queue, why });
            }
            false
        }
    }
}

impl Tcb {
    #[inline(always)]
    fn note_charge(&self, cx: &mut Cx<'_>, queue: QueueKind, truesize: i32) {
        let m = &self.mem;
        let (sk_rmem_alloc, sk_rcvbuf, sk_forward_alloc) = (m.sk_rmem_alloc, m.sk_rcvbuf, m.sk_forward_alloc);
        self.decide(cx, move || Decision::Charged {
            queue,
            truesize,
            sk_rmem_alloc,
            sk_rcvbuf,
            sk_forward_alloc,
        });
    }

    /// `tcp_queue_rcv`: the segment joins the tail of the receive queue or is queued and charged. Returns what
    /// the estimators look at afterwards.
    #[inline(always)]
    pub(crate) fn queue_rcv(&mut self, cx: &mut Cx<'_>, skb: &mut Skb) -> Seen {
        let seen = skb.seen();
        let end_seq = skb.end_seq;
        let acked = self.win.rcv_wup;
        let joined = match self.queue.back_mut() {
            Some(tail) => {
                tail.forget_clone(acked);
                coalesce(cx, &mut self.mem, self.id, QueueKind::Receive, tail, skb)
            }
            None => false,
        };
        self.advance_rcv_nxt(end_seq);
        self.stats.coalesced = self.stats.coalesced.wrapping_add(u32::from(joined));
        if joined {
            return seen;
        }
        self.mem.charge(skb.truesize);
        self.note_charge(cx, QueueKind::Receive, skb.truesize);
        skb.settle(&mut cx.shared.spare);
        self.queue.push_back(skb.take());
        seen
    }

    /// The receive window is closed to it, or it is old: an ACK is owed and quick-ACK mode begins.
    fn out_of_window(&mut self, cx: &mut Cx<'_>, skb: &Skb, reason: DropReason) {
        self.enter_quickack(cx, MAX_QUICKACKS);
        self.ack.flags |= AckFlags::SCHED;
        self.drop_skb(cx, skb, reason);
    }

    /// A segment that passed validation and acknowledgment processing (`tcp_data_queue`).
    #[inline(always)]
    pub(crate) fn data_queue(&mut self, cx: &mut Cx<'_>, skb: &mut Skb, seg: &TcpSegment) {
        if skb.seq == skb.end_seq {
            return;
        }
        self.sack.duplicate = None;
        let window = self.receive_window();
        if skb.seq == self.rcv_nxt {
            if window == 0 {
                let bare_fin = skb.len == 0 && skb.flags.contains(TcpFlags::FIN);
                if !(bare_fin && cx.shared.profile.bare_fin == BareFin::LetIn) {
                    cx.count(Counter::TcpExtTCPZeroWindowDrop);
                    self.out_of_window(cx, skb, DropReason::ZeroWindow);
                    return;
                }
            }
            self.take_in_order(cx, skb, seg);
        } else if !skb.end_seq.after(self.rcv_nxt) {
            self.note_old_data(cx, skb.seq);
            cx.count(Counter::TcpExtDelayedACKLost);
            self.dsack_set(cx, skb.seq, skb.end_seq);
            self.out_of_window(cx, skb, DropReason::OldData);
        } else if !skb.seq.before(self.rcv_nxt + window) {
            if cx.shared.profile.over_window == OverWindow::Counted {
                cx.count(Counter::TcpExtBeyondWindow);
            }
            self.out_of_window(cx, skb, DropReason::OverWindow);
        } else if skb.seq.before(self.rcv_nxt) {
            let upto = self.rcv_nxt;
            self.dsack_set(cx, skb.seq, upto);
            if window == 0 {
                cx.count(Counter::TcpExtTCPZeroWindowDrop);
                self.out_of_window(cx, skb, DropReason::ZeroWindow);
                return;
            }
            self.take_in_order(cx, skb, seg);
        } else {
            self.data_queue_ofo(cx, skb, seg);
        }
    }

    /// Memory for an in-order segment. An empty queue always gets one in, or the connection could not move.
    #[inline(always)]
    fn admit_in_order(&mut self, cx: &mut Cx<'_>, skb: &Skb) -> bool {
        let want = Wanted::of(skb);
        match cx.shared.profile.empty_queue {
            EmptyQueue::ForcedFirst if self.queue.is_empty() => {
                self.mem.schedule_forced(&mut cx.mem(), skb.truesize);
                return true;
            }
            EmptyQueue::ForcedFirst | EmptyQueue::TryThenForce => {}
        }
        if self.try_rmem_schedule(cx, want) {
            return true;
        }
        if cx.shared.profile.no_memory_window == NoMemoryWindow::Zero {
            self.ack.flags |= AckFlags::NOMEM | AckFlags::NOW | AckFlags::SCHED;
        }
        self.signal_readable(cx);
        let let_in = cx.shared.profile.bare_fin == BareFin::LetIn && skb.len == 0;
        let may_force = cx.shared.profile.empty_queue == EmptyQueue::TryThenForce;
        if may_force && (self.queue.is_empty() || let_in) {
            let truesize = skb.truesize;
            self.mem.schedule_forced(&mut cx.mem(), truesize);
            self.decide(cx, move || Decision::Forced { truesize });
            return true;
        }
        cx.count(Counter::TcpExtTCPRcvQDrop);
        self.drop_skb(cx, skb, DropReason::RcvQueueFull);
        false
    }

    #[inline(always)]
    fn take_in_order(&mut self, cx: &mut Cx<'_>, skb: &mut Skb, seg: &TcpSegment) {
        if !self.admit_in_order(cx, skb) {
            return;
        }
        let fin = skb.flags.contains(TcpFlags::FIN);
        let seen = self.queue_rcv(cx, skb);
        if seen.len > 0 {
            self.on_data(cx, &seen, seg);
        }
        if fin {
            self.on_fin(cx);
        }
        if !self.ofo.is_empty() {
            self.drain_ofo(cx);
            if self.ofo.is_empty() {
                // The hole is filled: the peer wants to know (RFC 5681 §4.2).
                self.ack.flags |= AckFlags::NOW;
            }
        }
        if !self.sack.blocks.is_empty() {
            self.sack_remove();
        }
        self.fast_path_check();
        self.signal_readable(cx);
    }

    /// Moves what has become contiguous to the receive queue (`tcp_ofo_queue`).
    pub(crate) fn drain_ofo(&mut self, cx: &mut Cx<'_>) {
        let dsack_high = self.rcv_nxt;
        while let Some((key, first)) = self.ofo.first() {
            if first.seq.after(self.rcv_nxt) {
                break;
            }
            let Some(mut skb) = self.ofo.remove(key) else { break };
            self.ofo_bytes = self.ofo_bytes.saturating_sub(u64::from(skb.len));
            if skb.seq.before(dsack_high) {
                // Only what this segment itself brought twice, and only up to where the drain began.
                let high = dsack_high.min(skb.end_seq);
                self.dsack_extend(cx, skb.seq, high);
            }
            if !skb.end_seq.after(self.rcv_nxt) {
                self.drop_skb(cx, &skb, DropReason::OldData);
                self.mem.refund(&mut cx.mem(), skb.truesize);
                continue;
            }
            let (truesize, fin, end_seq) = (skb.truesize, skb.flags.contains(TcpFlags::FIN), skb.end_seq);
            let joined = match self.queue.back_mut() {
                Some(tail) => coalesce(cx, &mut self.mem, self.id, QueueKind::Receive, tail, &mut skb),
                None => false,
            };
            self.advance_rcv_nxt(end_seq);
            self.stats.coalesced = self.stats.coalesced.wrapping_add(u32::from(joined));
            if joined {
                // It was charged in full when it was queued out of order.
                self.mem.refund(&mut cx.mem(), truesize);
            } else {
                self.queue.push_back(skb);
            }
            if fin {
                self.on_fin(cx);
                break;
            }
        }
    }

    /// A segment beyond rcv_nxt (`tcp_data_queue_ofo`).
    fn data_queue_ofo(&mut self, cx: &mut Cx<'_>, skb: &mut Skb, seg: &TcpSegment) {
        if !self.try_rmem_schedule(cx, Wanted::of(skb)) {
            cx.count(Counter::TcpExtTCPOFODrop);
            self.signal_readable(cx);
            self.drop_skb(cx, skb, DropReason::OfoNoMemory);
            return;
        }
        if cx.shared.profile.ofo_measure == OfoMeasure::Yes {
            self.measure_rcv_mss(cx, &skb.seen(), seg);
        }
        self.pred = None;
        self.ack.flags |= AckFlags::SCHED;
        self.stats.rcv_ooopack = self.stats.rcv_ooopack.wrapping_add(skb.segments());
        cx.count(Counter::TcpExtTCPOFOQueue);
        self.insert_ofo(cx, skb);
        if cx.shared.profile.ofo_grow == OfoGrow::Yes
            && self.accepted
            && cx.shared.profile.space == SpaceModel::ScalingRatio
        {
            let space = self.rcvq.space;
            self.grow_plain(cx, space);
        }
        self.slow_early(cx);
    }

    fn insert_ofo(&mut self, cx: &mut Cx<'_>, skb: &mut Skb) {
        let (seq, end_seq) = (skb.seq, skb.end_seq);
        let key = self.ofo_key(seq);
        let last = self.ofo.last().map(|(k, s)| (k, s.end_seq));
        let Some((last_key, last_end)) = last else {
            self.sack.blocks.clear();
            self.sack_new(cx, seq, end_seq);
            self.add_ofo(cx, key, skb);
            return;
        };
        // The common case: more behind the last one.
        if seq == last_end && self.join_ofo(cx, last_key, skb) {
            self.sack_new(cx, seq, end_seq);
            return;
        }
        if seq.before(last_end) {
            match self.overlap_left(cx, key, skb) {
                Insert::Done => {
                    self.sack_new(cx, seq, end_seq);
                    return;
                }
                Insert::Dropped => {
                    self.sack_new(cx, seq, end_seq);
                    self.drop_skb(cx, skb, DropReason::OfoCovered);
                    return;
                }
                Insert::Queue => {}
            }
        }
        self.ofo.place(key);
        self.overlap_right(cx, key, skb);
        self.sack_new(cx, seq, end_seq);
        self.add_ofo(cx, key, skb);
    }

    /// What the search for its place meets at or below the new segment: it may be covered, joined or partly repeated.
    fn overlap_left(&mut self, cx: &mut Cx<'_>, key: u64, skb: &mut Skb) -> Insert {
        for at in self.ofo.path(key) {
            let Some((met_seq, met_end)) = self.ofo.get(at).map(|s| (s.seq, s.end_seq)) else { continue };
            if skb.seq.before(met_seq) {
                continue;
            }
            if skb.seq.before(met_end) {
                if !skb.end_seq.after(met_end) {
                    cx.count(Counter::TcpExtTCPOFOMerge);
                    self.dsack_set(cx, skb.seq, skb.end_seq);
                    return Insert::Dropped;
                }
                if skb.seq == met_seq {
                    // The same start and more behind it: the new one takes the old one's place.
                    self.dsack_extend(cx, met_seq, met_end);
                    cx.count(Counter::TcpExtTCPOFOMerge);
                    let old = self.ofo.vacate(at);
                    if at != key {
                        self.ofo.forget(at);
                    }
                    self.free_covered(cx, old);
                    break;
                }
                self.dsack_set(cx, skb.seq, met_end);
            } else if skb.seq == met_end && self.join_ofo(cx, at, skb) {
                return Insert::Done;
            }
        }
        Insert::Queue
    }

    /// What lies above and is now covered goes; a partial overlap is reported.
    fn overlap_right(&mut self, cx: &mut Cx<'_>, key: u64, skb: &Skb) {
        while let Some((at, seq, end)) = self.ofo.at_or_above(key).map(|(k, s)| (k, s.seq, s.end_seq)) {
            if !skb.end_seq.after(seq) {
                break;
            }
            if skb.end_seq.before(end) {
                self.dsack_extend(cx, seq, skb.end_seq);
                break;
            }
            self.dsack_extend(cx, seq, end);
            cx.count(Counter::TcpExtTCPOFOMerge);
            let old = self.ofo.remove(at);
            self.free_covered(cx, old);
        }
    }

    /// Gives back the memory of a segment that another one covers.
    fn free_covered(&mut self, cx: &mut Cx<'_>, old: Option<Skb>) {
        if let Some(old) = old {
            self.ofo_bytes = self.ofo_bytes.saturating_sub(u64::from(old.len));
            self.drop_skb(cx, &old, DropReason::OfoCovered);
            self.mem.refund(&mut cx.mem(), old.truesize);
        }
    }

    /// Joins a segment onto the queued one at `key`.
    fn join_ofo(&mut self, cx: &mut Cx<'_>, key: u64, skb: &mut Skb) -> bool {
        let Some(to) = self.ofo.get_mut(key) else { return false };
        let seen = skb.seen();
        let segments = to.gso_segs.max(1).saturating_add(skb.gso_segs.max(1));
        if !coalesce(cx, &mut self.mem, self.id, QueueKind::OutOfOrder, to, skb) {
            return false;
        }
        // Out of order, a buffer remembers how many segments it stands for, should they all be dropped.
        to.gso_segs = segments;
        self.stats.coalesced = self.stats.coalesced.wrapping_add(1);
        self.ofo_bytes += u64::from(seen.len);
        if self.opts.sack {
            self.grow_ssthresh(cx, &seen, Truesize::Adjusted);
        }
        true
    }

    fn add_ofo(&mut self, cx: &mut Cx<'_>, key: u64, skb: &mut Skb) {
        // Without SACK, out-of-order data says nothing about how the sender uses the window.
        if self.opts.sack {
            self.grow_ssthresh(cx, &skb.seen(), Truesize::Whole);
        }
        skb.condense(&cx.shared.profile.build);
        self.mem.charge(skb.truesize);
        self.note_charge(cx, QueueKind::OutOfOrder, skb.truesize);
        self.ofo_bytes += u64::from(skb.len);
        skb.settle(&mut cx.shared.spare);
        self.ofo.insert(key, skb.take());
    }

    fn sack_new(&mut self, cx: &mut Cx<'_>, seq: Seq, end_seq: Seq) {
        if self.opts.sack {
            self.sack_hold(cx, seq, end_seq);
        }
    }

    /// Everything out of order is thrown away (a FIN arrived in order, or the connection ends).
    pub(crate) fn purge_ofo(&mut self, cx: &mut Cx<'_>) {
        for (_, skb) in self.ofo.take_all() {
            self.mem.refund(&mut cx.mem(), skb.truesize);
        }
        self.ofo_bytes = 0;
        if self.opts.sack {
            self.sack.reset();
        }
    }

    /// A segment for a socket that a reader owns (`tcp_add_backlog`).
    pub(crate) fn add_backlog(&mut self, cx: &mut Cx<'_>, skb: &mut Skb, seg: &TcpSegment) {
        skb.condense(&cx.shared.profile.build);
        if let Some((tail, last)) = self.backlog.back_mut() {
            let refuse = TcpFlags::SYN | TcpFlags::RST | TcpFlags::URG;
            let echo = TcpFlags::ECE | TcpFlags::CWR | TcpFlags::AE;
            let same = tail.end_seq == skb.seq
                && last.ds_field == seg.ds_field
                && !(last.flags | seg.flags).intersects(refuse)
                && (last.flags & seg.flags).contains(TcpFlags::ACK)
                && last.flags & echo == seg.flags & echo
                && last.header_len == seg.header_len
                && last.options.raw == seg.options.raw;
            let segment = |s: &Skb| if s.gso_size > 0 { s.gso_size } else { s.len.min(0xffff) as u16 };
            let gso_size = segment(tail).max(segment(skb));
            if same
                && let shared = &mut *cx.shared
                && let Ok(merge) = tail.try_coalesce(skb, &shared.profile.build, &mut shared.spare)
            {
                tail.gso_size = gso_size;
                tail.gso_segs = tail.gso_segs.max(1).saturating_add(skb.gso_segs.max(1));
                last.window = seg.window;
                last.ack = last.ack.max(seg.ack);
                last.flags |= seg.flags & (TcpFlags::FIN | TcpFlags::PSH);
                self.mem.backlog_len = self.mem.backlog_len.wrapping_add(merge.delta);
                cx.count(Counter::TcpExtTCPBacklogCoalesce);
                let (how, delta, len, total_len) = (merge.how, merge.delta, skb.len, tail.len);
                self.decide(cx, move || Decision::Coalesced {
                    queue: QueueKind::Backlog,
                    how,
                    len,
                    delta,
                    total_len,
                });
                return;
            }
        }
        let limit = (i64::from(self.mem.sk_rcvbuf) * 2 + i64::from(self.mem.sk_sndbuf >> 1) + 65_536)
            .min(i64::from(u32::MAX));
        if i64::from(self.mem.backlog_len) + i64::from(self.mem.sk_rmem_alloc) > limit {
            cx.count(Counter::TcpExtTCPBacklogDrop);
            self.drop_skb(cx, skb, DropReason::BacklogFull);
            return;
        }
        self.mem.backlog_len = self.mem.backlog_len.wrapping_add(skb.truesize);
        self.note_charge(cx, QueueKind::Backlog, skb.truesize);
        skb.settle(&mut cx.shared.spare);
        self.backlog.push_back((skb.take(), seg.clone()));
    }

    /// `tcp_data_ready`: wakes the reader when there is enough, or when waiting longer would be wrong.
    #[inline(always)]
    pub(crate) fn signal_readable(&mut self, cx: &mut Cx<'_>) {
        let available = self.rcv_nxt.since(self.copied_seq);
        let charged = self.mem.sk_rmem_alloc;
        let ready = available >= self.rcvlowat
            || charged > self.mem.sk_rcvbuf - (self.mem.sk_rcvbuf >> 3)
            || self.receive_window() <= self.rcv_mss
            || self.fin_received
            || self.under_pressure(cx);
        if available > 0 && ready && !self.readable_signalled {
            self.readable_signalled = true;
            cx.shared.events.push_back(crate::Event::Readable(self.id));
        }
    }
}

/// What is left to do with a segment after looking at its lower neighbour.
enum Insert {
    /// It was joined to the neighbour.
    Done,
    /// The neighbour covers it.
    Dropped,
    /// It must be queued on its own.
    Queue,
}
