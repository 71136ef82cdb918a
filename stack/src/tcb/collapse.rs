//! Queues rewritten so that they take less memory: as the kernel does it, and in other ways.
//!
//! | policy | rewrites into | work per call | copies |
//! |---|---|---|---|
//! | `on`, a threshold | objects of one page | the whole queue | all from the first bloated buffer on |
//! | `large` | objects of up to 32 KiB | the whole queue | all from the first bloated buffer on |
//! | `bounded` | objects of one page | a portion, the next call goes on | the portion |
//! | `frags` | the buffers themselves | the whole queue | nothing |
//!
//! Answers to (Linux 6.1 and 6.18): `tcp_collapse`, `tcp_collapse_ofo_queue`. The other policies are in no kernel.

use std::collections::VecDeque;

use super::{Cx, OfoQueue, Tcb};
use crate::{
    counters::Counter,
    decision::{CollapseOutcome, QueueKind},
    nic,
    profile::{Collapse, KernelBuild, Profile, SpaceRule},
    skb::{Skb, Spare},
    units::Seq,
    wire::TcpFlags,
};

/// Where a collapse in portions goes on. A hint and no more: wherever it points, whole buffers are looked at from there
/// on, so reads, pruning and merges may happen in between.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Cursor {
    /// In the receive queue: what ends here or before has been dealt with.
    receive: Option<Seq>,
    /// In the out-of-order queue: the next key.
    ofo: Option<u64>,
}

/// What a collapse did.
#[derive(Default)]
pub(super) struct Work {
    pub(super) freed: u32,
    /// Buffers made, or joined onto.
    pub(super) made: u32,
    pub(super) copied: u64,
    /// Buffers became fragments.
    joined: bool,
    /// Where buffers began that were freed, in order; only if somebody asked.
    gone: Option<Vec<Seq>>,
    /// Place of the first new one in the list.
    first_made: usize,
}

impl Work {
    fn add(&mut self, other: &Work) {
        self.freed += other.freed;
        self.made += other.made;
        self.copied += other.copied;
    }

    pub(super) fn outcome(&self) -> CollapseOutcome {
        match self.made + self.freed {
            0 => CollapseOutcome::NothingBloated,
            _ if self.joined => CollapseOutcome::Joined,
            _ => CollapseOutcome::Rewritten,
        }
    }
}

/// What looking at one buffer costs beside its bytes, as so many bytes: a descriptor is one or two cache lines.
const LOOK: u64 = 64;

/// How much one call may still do, bytes copied and [`LOOK`] for each buffer.
struct Budget {
    left: u64,
    whole: u64,
}

impl Budget {
    const fn of(bytes: u64) -> Self {
        Budget { left: bytes, whole: bytes }
    }

    fn spend(&mut self, work: u64) -> bool {
        let enough = work <= self.left;
        if enough {
            self.left -= work;
        }
        enough
    }

    /// A buffer that no call could ever rewrite.
    fn exceeded_by(&self, skb: &Skb) -> bool {
        Self::cost(skb) > self.whole
    }

    fn cost(skb: &Skb) -> u64 {
        LOOK + u64::from(skb.len)
    }
}

fn is_control(skb: &Skb) -> bool {
    skb.flags.intersects(TcpFlags::SYN | TcpFlags::FIN)
}

/// More memory is charged than its payload is worth, or part of it is not needed any more.
fn is_bloated(skb: &Skb, rule: SpaceRule, start: Seq) -> bool {
    rule.window_from_space(skb.truesize) > skb.len as i32 || skb.seq.before(start)
}

/// Payload of the next buffer that `left` bytes go into. One page at most; with large targets the largest object of up
/// to eight pages that is filled, so that the allocator's size classes waste nothing.
fn chunk_room(profile: &Profile, left: u32) -> u32 {
    const ORDERS: [u32; 3] = [32_768, 16_384, 8192];
    let build = &profile.build;
    if profile.collapse == Collapse::Large {
        for object in ORDERS {
            let room = object - build.shared_info();
            if left >= room {
                return room;
            }
        }
    }
    build.page_room().min(left)
}

fn new_chunk(profile: &Profile, start: Seq, flags: TcpFlags, room: u32) -> Skb {
    let (end, truesize) = nic::slab_head(profile, room);
    Skb::for_collapse(start, flags, end, truesize, room)
}

impl Tcb {
    /// Collapses both queues by the policy of the profile: what arrived out of order first.
    pub(super) fn collapse_queues(&mut self, cx: &mut Cx<'_>) {
        match cx.shared.profile.collapse {
            Collapse::Off | Collapse::Refuse => {}
            Collapse::On | Collapse::Below(_) | Collapse::Large => {
                self.collapse_ofo_queue(cx, &mut Budget::of(u64::MAX));
                self.collapse_receive_queue(cx);
            }
            Collapse::Bounded(bytes) => {
                // Neither queue may keep the other from its turn.
                let shared = !self.ofo.is_empty() && !self.queue.is_empty();
                let share = u64::from(bytes) >> u32::from(shared);
                let mut budget = Budget::of(share);
                self.collapse_ofo_queue(cx, &mut budget);
                budget.left += u64::from(bytes) - share;
                self.collapse_portion(cx, &mut budget);
            }
            Collapse::Frags => {
                self.join_ofo_queue(cx);
                self.join_receive_queue(cx);
            }
        }
    }

    fn collapse_receive_queue(&mut self, cx: &mut Cx<'_>) {
        if self.queue.is_empty() {
            return;
        }
        let before = self.mem.sk_rmem_alloc;
        let rule = self.space_rule(cx);
        let list = core::mem::take(&mut self.queue);
        let (list, work) = self.rewrite(cx, list, rule, (self.copied_seq, self.rcv_nxt), Work::default());
        self.queue = list;
        self.note_work(cx, QueueKind::Receive, &work, before);
    }

    /// One portion of the receive queue, from where the last one ended. Only its own buffers are touched; the others
    /// are moved out of the way, the shorter side of them.
    fn collapse_portion(&mut self, cx: &mut Cx<'_>, budget: &mut Budget) {
        if self.queue.is_empty() {
            return;
        }
        let before = self.mem.sk_rmem_alloc;
        let rule = self.space_rule(cx);
        let mut work = Work::default();
        if let Some((at, count, start, end)) = self.portion(rule, budget) {
            self.queue.rotate_left(at);
            let list = self.queue.drain(..count.min(self.queue.len())).collect();
            let (list, done) = self.rewrite(cx, list, rule, (start, end), work);
            work = done;
            // The last buffer made may have room for what comes next. Without this condition a single one could be
            // rewritten again and again.
            let last = (work.first_made + work.made as usize).checked_sub(1).and_then(|i| list.get(i));
            let page = cx.shared.profile.build.page_room();
            let goes_on = last.filter(|s| work.made > 0 && work.made < work.freed && s.len < page);
            self.cursor.receive = Some(goes_on.map_or(end, |s| s.seq));
            for skb in list.into_iter().rev() {
                self.queue.push_front(skb);
            }
            self.queue.rotate_right(at.min(self.queue.len()));
        }
        self.note_work(cx, QueueKind::Receive, &work, before);
    }

    /// The buffers of the next portion: place and number of them, and the bytes that they are rewritten for. Moves the
    /// cursor over what is fine as it is.
    fn portion(&mut self, rule: SpaceRule, budget: &mut Budget) -> Option<(usize, usize, Seq, Seq)> {
        let valid = |c: &Seq| c.at_or_after(self.copied_seq) && !c.after(self.rcv_nxt);
        let done = self.cursor.receive.filter(valid).unwrap_or(self.copied_seq);
        let mut at = self.queue.partition_point(|s| s.end_seq.at_or_before(done));
        if at == self.queue.len() {
            at = 0;
        }
        // What the buffer in front ends with, not the cursor: the tail may have grown since it was passed.
        let front = at.checked_sub(1).and_then(|i| self.queue.get(i));
        let mut start = front.map_or(self.copied_seq, |s| s.end_seq.max(self.copied_seq));
        loop {
            self.cursor.receive = Some(start);
            let skb = self.queue.get(at)?;
            let hole = self.queue.get(at + 1).is_some_and(|next| next.seq != skb.end_seq);
            let fine = is_control(skb) || !is_bloated(skb, rule, start) && !hole;
            // What was read in full only goes.
            if skb.end_seq.after(start) && (fine || budget.exceeded_by(skb)) {
                if !budget.spend(LOOK) {
                    return None;
                }
                start = skb.end_seq;
                at += 1;
            } else {
                break;
            }
        }
        let (mut count, mut end) = (0, start);
        for skb in self.queue.range(at..) {
            if is_control(skb) || !budget.spend(Budget::cost(skb)) {
                break;
            }
            count += 1;
            end = end.max(skb.end_seq);
        }
        (count > 0).then_some((at, count, start, end))
    }

    /// Ranges without holes are collapsed one by one; many small ranges that would gain nothing end the attempt.
    fn collapse_ofo_queue(&mut self, cx: &mut Cx<'_>, budget: &mut Budget) {
        if self.ofo.is_empty() {
            return;
        }
        let before = self.mem.sk_rmem_alloc;
        let rule = self.space_rule(cx);
        let mut total = Work::default();
        // Only what will be rewritten is touched: with many small ranges nothing is, and looking must stay cheap.
        let chunk = cx.shared.profile.build.page_room();
        let patience = i64::from(self.mem.sk_rcvbuf >> 3);
        let ranges = match cx.shared.profile.collapse {
            Collapse::Bounded(_) => {
                let from = self.cursor.ofo.unwrap_or(0);
                let (ranges, next) = next_portion(&self.ofo, (patience, chunk), rule, budget, from);
                self.cursor.ofo = next;
                ranges
            }
            _ => worthwhile(&self.ofo, patience, chunk),
        };
        for Range { first, last, start, end } in ranges {
            let keys: Vec<u64> = self.ofo.keys(first..=last).collect();
            let list: VecDeque<Skb> = keys.iter().filter_map(|k| self.ofo.vacate(*k)).collect();
            let mut staying: VecDeque<(Seq, u64)> = list.iter().map(|s| s.seq).zip(keys).collect();
            let bytes = |list: &VecDeque<Skb>| list.iter().map(|s| u64::from(s.len)).sum::<u64>();
            let held = bytes(&list);
            let noting = Work { gone: Some(Vec::with_capacity(list.len())), ..Work::default() };
            let (list, work) = self.rewrite(cx, list, rule, (start, end), noting);
            self.ofo_bytes = (self.ofo_bytes + bytes(&list)).saturating_sub(held);
            total.add(&work);
            for seq in work.gone.iter().flatten() {
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
        mut list: VecDeque<Skb>,
        rule: SpaceRule,
        (mut start, end): (Seq, Seq),
        mut work: Work,
    ) -> (VecDeque<Skb>, Work) {
        // Phase one: what is fine stays where it is; what was read in full goes.
        let mut passed: VecDeque<Skb> = VecDeque::new();
        let mut keep = 0;
        let begins = loop {
            let Some(skb) = list.get(keep) else { break false };
            if skb.end_seq.at_or_before(start) {
                // To the front with it: taking one out of the middle moves all the others.
                passed.extend(list.drain(..keep));
                keep = 0;
                if let Some(skb) = list.pop_front() {
                    self.free_collapsed(cx, &skb, &mut work);
                }
                continue;
            }
            let bloated = is_bloated(skb, rule, start);
            let hole = list.get(keep + 1).is_some_and(|next| next.seq != skb.end_seq);
            if bloated && !is_control(skb) || hole {
                break !is_control(skb);
            }
            start = skb.end_seq;
            keep += 1;
        };
        if !passed.is_empty() {
            keep += passed.len();
            passed.append(&mut list);
            list = passed;
        }
        if !begins {
            return (list, work);
        }
        // Phase two: copy everything that follows, chunk by chunk. The list goes round: what is copied leaves it in front,
        // what is made joins it at the back, in the room that the others left.
        list.rotate_left(keep);
        let mut rest = list.len() - keep;
        work.first_made = keep;
        while start.before(end) && rest > 0 {
            let flags = list.front().map(|s| s.flags).unwrap_or_default();
            let room = chunk_room(&cx.shared.profile, end.since(start).unsigned_abs());
            let mut fresh = new_chunk(&cx.shared.profile, start, flags, room);
            self.mem.charge(fresh.truesize);
            work.made += 1;
            let mut left = room;
            let (mut done, mut over) = (0, false);
            while let Some(skb) = list.get(done).filter(|_| done < rest) {
                let offset = start.since(skb.seq).max(0).unsigned_abs();
                let n = fresh.append_copy(skb, offset, left);
                start += n;
                left -= n;
                work.copied += u64::from(n);
                let exhausted = !start.before(skb.end_seq);
                if exhausted {
                    self.free_collapsed(cx, skb, &mut work);
                    done += 1;
                    over = done == rest || list.get(done).is_none_or(is_control);
                }
                if over || left == 0 || (n == 0 && !exhausted) {
                    break;
                }
            }
            list.drain(..done);
            rest -= done;
            list.push_back(fresh);
            if over {
                break;
            }
        }
        list.rotate_left(rest);
        (list, work)
    }

    fn free_collapsed(&mut self, cx: &mut Cx<'_>, skb: &Skb, work: &mut Work) {
        cx.count(Counter::TcpExtTCPRcvCollapsed);
        work.freed += 1;
        if let Some(gone) = &mut work.gone {
            gone.push(skb.seq);
        }
        self.mem.refund(&mut cx.mem(), skb.truesize);
    }

    /// Neighbours in the receive queue become fragments of one buffer where they can.
    fn join_receive_queue(&mut self, cx: &mut Cx<'_>) {
        if self.queue.is_empty() {
            return;
        }
        let (before, acked) = (self.mem.sk_rmem_alloc, self.win.rcv_wup);
        let build = cx.shared.profile.build;
        let mut work = Work { joined: true, ..Work::default() };
        for skb in &mut self.queue {
            skb.forget_clone(acked);
        }
        let pairs = self.queue.iter().zip(self.queue.iter().skip(1));
        if let Some(first) = pairs.into_iter().position(|(to, from)| can_join(to, from, &build)) {
            let rest = self.queue.split_off(first);
            let mut onto = None;
            for mut skb in rest {
                let at = self.queue.len();
                match self.queue.back_mut().filter(|to| at > first && can_join(to, &skb, &build)) {
                    Some(to) => {
                        let grown = to_join(to, &mut skb, &build, &mut cx.shared.spare);
                        self.work_of_join(cx, grown, &skb, &mut work);
                        if onto != Some(at) {
                            onto = Some(at);
                            work.made += 1;
                        }
                    }
                    None => self.queue.push_back(skb),
                }
            }
        }
        self.note_work(cx, QueueKind::Receive, &work, before);
    }

    /// The same out of order; the buffer joined onto keeps its place in the tree.
    fn join_ofo_queue(&mut self, cx: &mut Cx<'_>) {
        let Some((mut at, _)) = self.ofo.first() else { return };
        let before = self.mem.sk_rmem_alloc;
        let build = cx.shared.profile.build;
        let mut work = Work { joined: true, ..Work::default() };
        let mut onto = None;
        loop {
            let next = self
                .ofo
                .from(at)
                .nth(1)
                .map(|(key, from)| (key, self.ofo.get(at).is_some_and(|to| can_join(to, from, &build))));
            let Some((next, joins)) = next else { break };
            if !joins {
                at = next;
                continue;
            }
            let Some(mut skb) = self.ofo.remove(next) else { break };
            let Some(to) = self.ofo.get_mut(at) else { break };
            let grown = to_join(to, &mut skb, &build, &mut cx.shared.spare);
            self.work_of_join(cx, grown, &skb, &mut work);
            if onto != Some(at) {
                onto = Some(at);
                work.made += 1;
            }
        }
        self.note_work(cx, QueueKind::OutOfOrder, &work, before);
    }

    /// What was charged for a buffer that was joined, and is not charged for the one joined onto, is free.
    fn work_of_join(&mut self, cx: &mut Cx<'_>, grown: i32, skb: &Skb, work: &mut Work) {
        cx.count(Counter::TcpExtTCPRcvCollapsed);
        work.freed += 1;
        self.mem.refund(&mut cx.mem(), skb.truesize.wrapping_sub(grown));
    }
}

fn can_join(to: &Skb, from: &Skb, build: &KernelBuild) -> bool {
    !is_control(to) && !is_control(from) && to.joins(from, build)
}

/// Joins what can be joined; by how much the charge of `to` grows.
fn to_join(to: &mut Skb, from: &mut Skb, build: &KernelBuild, spare: &mut Spare) -> i32 {
    to.join(from, build, spare).unwrap_or(0)
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

/// The runs for one portion, from the key `from` on, and the key to go on from; none once the end was reached. Unlike
/// [`worthwhile`] it passes over the beginning of a run that is fine, and ends a run where the budget does.
fn next_portion(
    ofo: &OfoQueue,
    (patience, chunk): (i64, u32),
    rule: SpaceRule,
    budget: &mut Budget,
    from: u64,
) -> (Vec<Range>, Option<u64>) {
    let mut found = Vec::new();
    let mut tiny = 0i64;
    let mut rest = ofo.from(from).peekable();
    while let Some((first, skb)) = rest.next() {
        let leave = is_control(skb) || !is_bloated(skb, rule, skb.seq) || budget.exceeded_by(skb);
        if !budget.spend(if leave { LOOK } else { Budget::cost(skb) }) {
            return (found, Some(first));
        }
        if leave {
            continue;
        }
        let (start, mut end, mut last) = (skb.seq, skb.end_seq, first);
        while let Some((key, next)) =
            rest.next_if(|(_, n)| !n.seq.after(end) && !is_control(n) && budget.spend(Budget::cost(n)))
        {
            (last, end) = (key, end.max(next.end_seq));
        }
        if last != first || end.since(start) >= chunk as i32 {
            found.push(Range { first, last, start, end });
        } else {
            tiny += i64::from(skb.truesize);
            if tiny > patience {
                break;
            }
        }
    }
    (found, None)
}
