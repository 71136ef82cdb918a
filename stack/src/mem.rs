//! Memory accounts: what a socket is charged, what it holds in advance, and the limits all sockets share.
//!
//! Answers to (Linux 6.1 and 6.18): `skb_set_owner_r`, `sock_rfree`, `sk_rmem_schedule`, `sk_forced_mem_schedule`,
//! `__sk_mem_raise_allocated`, `__sk_mem_reduce_allocated`. Charge once, remember, refund the same: whoever frees a
//! buffer refunds the truesize that the buffer carries.

use std::collections::BTreeMap;

use crate::{
    counters::{Counter, Counters},
    decision::MemoryLimit,
    profile::{FairShare, Profile},
    sysctl::Sysctls,
    time::Instant,
};

const PAGE_SHIFT: u32 = 12;

/// The memory of one socket. Fields are named as the kernel's.
#[derive(Clone, Debug)]
pub(crate) struct SockMem {
    pub(crate) sk_rmem_alloc: i32,
    pub(crate) sk_rcvbuf: i32,
    pub(crate) sk_forward_alloc: i32,
    pub(crate) backlog_len: i32,
    pub(crate) sk_wmem_queued: i32,
    pub(crate) sk_sndbuf: i32,
    pub(crate) sk_drops: u32,
    /// SO_RCVBUF was set: autotuning and clamping leave sk_rcvbuf alone.
    pub(crate) rcvbuf_locked: bool,
    pub(crate) group: Option<GroupId>,
}

/// A group of sockets with one limit, as a memory cgroup gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct GroupId(pub u32);

#[derive(Clone, Debug)]
struct Group {
    limit: i64,
    allocated: i64,
    /// Pressure lasts until then: a second after the last refusal, as vmpressure keeps it.
    pressure_until: Instant,
}

/// The account all sockets of a stack share (`tcp_mem`), and the groups.
#[derive(Clone, Debug, Default)]
pub(crate) struct GlobalMem {
    /// Pages on the global account.
    allocated: i64,
    /// Pages this CPU has not folded into it yet.
    cached: i64,
    pressure_since: Option<Instant>,
    pub(crate) sockets: i64,
    groups: BTreeMap<GroupId, Group>,
    /// Set when pressure began or ended since last asked.
    pub(crate) pressure_changed: Option<bool>,
}

/// Everything a memory decision looks at besides the socket.
pub(crate) struct MemCtx<'a> {
    pub(crate) now: Instant,
    pub(crate) profile: &'a Profile,
    pub(crate) sysctl: &'a Sysctls,
    pub(crate) global: &'a mut GlobalMem,
    pub(crate) counters: &'a mut Counters,
}

/// A refusal and the account that refused.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Refused {
    pub(crate) limit: MemoryLimit,
    pub(crate) pages: i64,
    pub(crate) allocated: i64,
}

fn pages_of(bytes: i32) -> i64 {
    i64::from(bytes).max(0).saturating_add((1 << PAGE_SHIFT) - 1) >> PAGE_SHIFT
}

fn bytes_of(pages: i64) -> i32 {
    (pages << PAGE_SHIFT) as i32
}

impl GlobalMem {
    /// Pages charged to the global account, as comparisons with tcp_mem see them.
    pub(crate) fn allocated(&self) -> i64 {
        self.allocated
    }

    /// Pages in use including what is not folded yet.
    pub(crate) fn in_use(&self) -> i64 {
        self.allocated + self.cached
    }

    #[inline(always)]
    pub(crate) fn under_pressure(&self) -> bool {
        self.pressure_since.is_some()
    }

    pub(crate) fn set_group_limit(&mut self, id: GroupId, bytes: u64) {
        let limit = i64::try_from(bytes >> PAGE_SHIFT).unwrap_or(i64::MAX);
        self.groups.entry(id).and_modify(|g| g.limit = limit).or_insert(Group {
            limit,
            allocated: 0,
            pressure_until: Instant::ZERO,
        });
    }

    pub(crate) fn group_usage(&self, id: GroupId) -> Option<(i64, i64)> {
        self.groups.get(&id).map(|g| (g.allocated, g.limit))
    }

    #[inline]
    fn group_mut(&mut self, id: Option<GroupId>) -> Option<&mut Group> {
        match id {
            None => None,
            Some(id) => Some(self.group(id)),
        }
    }

    /// A group keeps its account from its first socket on, with or without a limit.
    #[inline(never)]
    fn group(&mut self, id: GroupId) -> &mut Group {
        let unlimited = Group { limit: i64::MAX, allocated: 0, pressure_until: Instant::ZERO };
        self.groups.entry(id).or_insert(unlimited)
    }

    #[inline(always)]
    fn group_pressure(&self, id: Option<GroupId>, now: Instant) -> bool {
        id.and_then(|id| self.groups.get(&id)).is_some_and(|g| now < g.pressure_until)
    }

    /// Are sockets of `group` short of memory now?
    #[inline]
    pub(crate) fn presses(&self, group: Option<GroupId>, now: Instant) -> bool {
        self.group_pressure(group, now) || self.under_pressure()
    }

    #[inline(always)]
    fn fold(&mut self, pages: i64, reserve: i64) {
        self.cached += pages;
        if self.cached.abs() >= reserve {
            self.allocated += self.cached;
            self.cached = 0;
        }
    }

    fn enter_pressure(&mut self, now: Instant, counters: &mut Counters) {
        if self.pressure_since.is_none() {
            self.pressure_since = Some(now);
            self.pressure_changed = Some(true);
            counters.inc(Counter::TcpExtTCPMemoryPressures);
        }
    }

    fn leave_pressure(&mut self, now: Instant, counters: &mut Counters) {
        if let Some(since) = self.pressure_since.take() {
            self.pressure_changed = Some(false);
            counters.add(Counter::TcpExtTCPMemoryPressuresChrono, now.since(since).as_millis());
        }
    }
}

impl SockMem {
    pub(crate) fn new(sysctl: &Sysctls) -> Self {
        SockMem {
            sk_rmem_alloc: 0,
            sk_rcvbuf: sysctl.tcp_rmem[1],
            sk_forward_alloc: 0,
            backlog_len: 0,
            sk_wmem_queued: 0,
            sk_sndbuf: sysctl.tcp_wmem[1],
            sk_drops: 0,
            rcvbuf_locked: false,
            group: None,
        }
    }

    /// Free receive memory; may be negative.
    #[inline(always)]
    pub(crate) fn unused(&self) -> i32 {
        self.sk_rcvbuf.wrapping_sub(self.backlog_len).wrapping_sub(self.sk_rmem_alloc)
    }

    /// `tcp_under_memory_pressure`.
    #[inline]
    pub(crate) fn under_pressure(&self, cx: &MemCtx<'_>) -> bool {
        cx.global.presses(self.group, cx.now)
    }

    /// `skb_set_owner_r`: charges received memory.
    #[inline(always)]
    pub(crate) fn charge(&mut self, truesize: i32) {
        self.sk_rmem_alloc = self.sk_rmem_alloc.wrapping_add(truesize);
        self.sk_forward_alloc = self.sk_forward_alloc.wrapping_sub(truesize);
    }

    /// `sock_rfree`: refunds it, and gives whole pages back at once.
    pub(crate) fn refund(&mut self, cx: &mut MemCtx<'_>, truesize: i32) {
        self.sk_rmem_alloc = self.sk_rmem_alloc.wrapping_sub(truesize);
        self.uncharge(cx, truesize);
    }

    /// Moves the socket, with all it holds, to another group.
    pub(crate) fn set_group(&mut self, cx: &mut MemCtx<'_>, group: Option<GroupId>) {
        let held = self.sk_rmem_alloc.wrapping_add(self.sk_forward_alloc).wrapping_add(self.sk_wmem_queued);
        let pages = i64::from(held) >> PAGE_SHIFT;
        if let Some(g) = cx.global.group_mut(self.group) {
            g.allocated -= pages;
        }
        self.group = group;
        if let Some(g) = cx.global.group_mut(group) {
            g.allocated += pages;
        }
    }

    /// `sk_mem_charge` for the send side.
    pub(crate) fn charge_send(&mut self, truesize: i32) {
        self.sk_wmem_queued = self.sk_wmem_queued.wrapping_add(truesize);
        self.sk_forward_alloc = self.sk_forward_alloc.wrapping_sub(truesize);
    }

    /// Refunds memory of the send queue.
    pub(crate) fn refund_send(&mut self, cx: &mut MemCtx<'_>, truesize: i32) {
        self.sk_wmem_queued = self.sk_wmem_queued.wrapping_sub(truesize);
        self.uncharge(cx, truesize);
    }

    fn uncharge(&mut self, cx: &mut MemCtx<'_>, truesize: i32) {
        self.sk_forward_alloc = self.sk_forward_alloc.wrapping_add(truesize);
        let pages = i64::from(self.sk_forward_alloc) >> PAGE_SHIFT;
        if pages > 0 {
            self.sk_forward_alloc = self.sk_forward_alloc.wrapping_sub(bytes_of(pages));
            self.give_back(cx, pages);
        }
    }

    fn give_back(&self, cx: &mut MemCtx<'_>, pages: i64) {
        cx.global.fold(-pages, cx.sysctl.mem_pcpu_rsv);
        if let Some(g) = cx.global.group_mut(self.group) {
            g.allocated -= pages;
        }
        if cx.global.under_pressure() && cx.global.allocated < cx.sysctl.tcp_mem[0] {
            cx.global.leave_pressure(cx.now, cx.counters);
        }
    }

    /// `sk_rmem_schedule`: makes sure that `size` bytes are held in advance.
    #[inline(always)]
    pub(crate) fn schedule(&mut self, cx: &mut MemCtx<'_>, size: i32) -> Result<(), Refused> {
        let need = size.wrapping_sub(self.sk_forward_alloc);
        if need <= 0 {
            return Ok(());
        }
        let pages = pages_of(need);
        self.sk_forward_alloc = self.sk_forward_alloc.wrapping_add(bytes_of(pages));
        let verdict = self.raise_allocated(cx, pages);
        if verdict.is_err() {
            self.sk_forward_alloc = self.sk_forward_alloc.wrapping_sub(bytes_of(pages));
        }
        verdict
    }

    /// `sk_forced_mem_schedule`: the same without asking any limit.
    pub(crate) fn schedule_forced(&mut self, cx: &mut MemCtx<'_>, size: i32) {
        let need = size.wrapping_sub(self.sk_forward_alloc);
        if need <= 0 {
            return;
        }
        let pages = pages_of(need);
        self.sk_forward_alloc = self.sk_forward_alloc.wrapping_add(bytes_of(pages));
        cx.global.fold(pages, cx.sysctl.mem_pcpu_rsv);
        if let Some(g) = cx.global.group_mut(self.group) {
            g.allocated += pages;
        }
    }

    /// `__sk_mem_raise_allocated`; the order of the tests is observable.
    #[inline(always)]
    fn raise_allocated(&mut self, cx: &mut MemCtx<'_>, pages: i64) -> Result<(), Refused> {
        let [low, pressure, high] = cx.sysctl.tcp_mem;
        cx.global.fold(pages, cx.sysctl.mem_pcpu_rsv);
        let group_allocated = match cx.global.group_mut(self.group) {
            Some(g) => {
                if g.allocated.saturating_add(pages) > g.limit {
                    g.pressure_until = cx.now + crate::time::Duration::from_secs(1);
                    let allocated = g.allocated;
                    cx.global.fold(-pages, cx.sysctl.mem_pcpu_rsv);
                    return Err(Refused { limit: MemoryLimit::Group, pages, allocated });
                }
                g.allocated += pages;
                true
            }
            None => false,
        };
        let allocated = cx.global.allocated;
        if allocated <= low {
            cx.global.leave_pressure(cx.now, cx.counters);
            return Ok(());
        }
        if allocated > pressure {
            cx.global.enter_pressure(cx.now, cx.counters);
        }
        let refusal = if allocated > high {
            Some(MemoryLimit::TcpMemHigh)
        } else if self.sk_rmem_alloc < cx.sysctl.tcp_rmem[0] {
            None
        } else {
            let pressed = match cx.profile.fair_share {
                FairShare::GroupOrGlobal => self.under_pressure(cx),
                FairShare::GlobalOnly => cx.global.under_pressure(),
            };
            let mine = pages_of(
                self.sk_wmem_queued.wrapping_add(self.sk_rmem_alloc).wrapping_add(self.sk_forward_alloc),
            );
            (pressed && high <= cx.global.sockets.saturating_mul(mine)).then_some(MemoryLimit::FairShare)
        };
        let Some(limit) = refusal else { return Ok(()) };
        cx.global.fold(-pages, cx.sysctl.mem_pcpu_rsv);
        if group_allocated && let Some(g) = cx.global.group_mut(self.group) {
            g.allocated -= pages;
        }
        Err(Refused { limit, pages, allocated })
    }

    /// Gives everything held in advance back (the socket dies).
    pub(crate) fn release_all(&mut self, cx: &mut MemCtx<'_>) {
        let pages = pages_of(self.sk_forward_alloc);
        self.sk_forward_alloc = 0;
        if pages > 0 {
            self.give_back(cx, pages);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Rig {
        profile: Profile,
        sysctl: Sysctls,
        global: GlobalMem,
        counters: Counters,
    }

    impl Rig {
        fn new() -> Self {
            let profile = Profile::linux_6_18();
            let mut sysctl = Sysctls::defaults(&profile, 16 << 30);
            sysctl.mem_pcpu_rsv = 1;
            Rig {
                profile,
                sysctl,
                global: GlobalMem { sockets: 1, ..GlobalMem::default() },
                counters: Counters::default(),
            }
        }

        fn cx(&mut self) -> MemCtx<'_> {
            MemCtx {
                now: Instant::ZERO,
                profile: &self.profile,
                sysctl: &self.sysctl,
                global: &mut self.global,
                counters: &mut self.counters,
            }
        }
    }

    #[test]
    fn page_rounding_and_immediate_reclaim() {
        let mut rig = Rig::new();
        let mut m = SockMem::new(&rig.sysctl);
        // Golden trace T1: 2304-byte buffers leave 1792, 3584, then 1280 without asking.
        for (after, asked) in [(1792, true), (3584, true), (1280, false), (3072, true)] {
            if m.sk_forward_alloc < 2304 {
                m.schedule(&mut rig.cx(), 2304).unwrap();
                assert!(asked);
            }
            m.charge(2304);
            assert_eq!(m.sk_forward_alloc, after);
        }
        for _ in 0..4 {
            m.refund(&mut rig.cx(), 2304);
            assert!(m.sk_forward_alloc < 4096);
        }
        assert_eq!((m.sk_rmem_alloc, m.sk_forward_alloc, rig.global.in_use()), (0, 0, 0));
    }

    #[test]
    fn tcp_mem_marks_enter_refuse_and_leave() {
        let mut rig = Rig::new();
        rig.sysctl.tcp_mem = [10, 20, 30];
        let mut m = SockMem::new(&rig.sysctl);
        let mut got = 0;
        while m.schedule(&mut rig.cx(), 4096).is_ok() {
            m.charge(4096);
            got += 1;
            assert_eq!(rig.global.under_pressure(), got > 20);
            assert!(got < 100);
        }
        // One socket's fair share under pressure is all of tcp_mem[2], so the hard limit decides.
        assert_eq!(got, 29);
        m.refund(&mut rig.cx(), 4096 * 15);
        assert!(rig.global.under_pressure(), "kept between low and pressure");
        m.refund(&mut rig.cx(), 4096 * 10);
        assert!(!rig.global.under_pressure());
        assert_eq!(rig.counters.get(Counter::TcpExtTCPMemoryPressures), 1);
    }

    #[test]
    fn a_group_refuses_before_the_global_limit() {
        let mut rig = Rig::new();
        rig.global.set_group_limit(GroupId(1), 8 * 4096);
        let mut m = SockMem::new(&rig.sysctl);
        m.group = Some(GroupId(1));
        for _ in 0..8 {
            m.schedule(&mut rig.cx(), 4096).unwrap();
            m.charge(4096);
        }
        let r = m.schedule(&mut rig.cx(), 1).unwrap_err();
        assert_eq!((r.limit, r.allocated), (MemoryLimit::Group, 8));
        assert!(m.under_pressure(&rig.cx()));
        assert_eq!(m.sk_forward_alloc, 0);
        m.schedule_forced(&mut rig.cx(), 1);
        assert_eq!(m.sk_forward_alloc, 4096);
    }

    #[test]
    fn per_cpu_folding_blurs_the_marks() {
        let mut rig = Rig::new();
        rig.sysctl.mem_pcpu_rsv = 256;
        let mut m = SockMem::new(&rig.sysctl);
        m.schedule(&mut rig.cx(), 255 * 4096).unwrap();
        assert_eq!((rig.global.allocated(), rig.global.in_use()), (0, 255));
        m.schedule(&mut rig.cx(), 256 * 4096).unwrap();
        assert_eq!((rig.global.allocated(), rig.global.in_use()), (256, 256));
    }
}
