//! When an ACK goes out, and with which window.
//!
//! Answers to (Linux 6.1 and 6.18): `__tcp_ack_snd_check`, `tcp_send_delayed_ack`, `tcp_delack_timer_handler`,
//! `tcp_compressed_ack_kick`, `tcp_event_data_recv` (the ATO part), `tcp_incr_quickack`, `tcp_select_window`,
//! `__tcp_select_window`, `tcp_oow_rate_limited`, `tcp_send_challenge_ack`, `__tcp_cleanup_rbuf`.
//! RFC 9293 §3.8.6.3 and RFC 5681 §4.2 bound what a receiver may do.

use super::{Cx, Tcb, Timer};
use crate::{
    counters::Counter,
    decision::{AckNow, Decision, WindowChoice, WindowLimit},
    profile::{AtoCap, AtoWidth, BacklogAck, DelackMax, NoMemoryWindow, SackDelay},
    stack::Shared,
    time::Duration,
    units::Seq,
    window::{self, RawChoice, RawInputs},
    wire::{TcpFlags, TcpSegment},
};

bitflags::bitflags! {
    /// What is pending about ACKs (`icsk_ack.pending`).
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub(crate) struct AckFlags: u8 {
        /// An ACK is owed.
        const SCHED = 1;
        /// The delayed-ACK timer is armed.
        const TIMER = 2;
        /// A short or pushed segment arrived since the last ACK.
        const PUSHED = 4;
        /// A second one.
        const PUSHED2 = 8;
        /// The next check sends at once.
        const NOW = 16;
        /// No memory was found: the next window is zero.
        const NOMEM = 32;
        /// Put off to the end of the backlog drain.
        const DEFERRED = 64;
    }
}

/// Acknowledgment state. Names as in `icsk_ack` and `struct tcp_sock`.
#[derive(Clone, Debug, Default)]
pub(crate) struct AckState {
    pub(crate) flags: AckFlags,
    /// Immediate ACKs left.
    pub(crate) quick: u8,
    pub(crate) pingpong: u8,
    /// Predicted time between data segments, jiffies.
    pub(crate) ato: u32,
    /// The longest delay of an ACK, jiffies.
    pub(crate) delay_cap: u64,
    /// Jiffy of the last data segment.
    pub(crate) lrcvtime: u64,
    /// Jiffy at which the delayed ACK is due.
    pub(crate) timeout: u64,
    /// Duplicate ACKs held back.
    pub(crate) compressed: u8,
    pub(crate) compressed_rcv_nxt: Seq,
    pub(crate) dup_acks: u8,
    /// TCP_QUICKACK or the route ask for immediate ACKs always.
    pub(crate) route_quickack: bool,
}

/// Quick ACKs after connecting or trouble.
pub(crate) const MAX_QUICKACKS: u32 = 16;
/// Duplicate ACKs that are never held back (RFC 5681 §3.2 counts three).
const FAST_RETRANSMIT: u8 = 3;

impl Tcb {
    fn ato_min(cx: &Cx<'_>) -> u64 {
        u64::from(cx.shared.tick.hz()) / 25
    }

    #[inline(always)]
    fn store_ato(&mut self, cx: &Cx<'_>, jiffies: u64) {
        self.ack.ato = match cx.shared.profile.ato_width {
            AtoWidth::Wide => jiffies.min(u64::from(u32::MAX)) as u32,
            AtoWidth::Byte => (jiffies & 0xff) as u32,
        };
    }

    fn set_ato_min(&mut self, cx: &Cx<'_>) {
        let min = Self::ato_min(cx);
        self.store_ato(cx, min);
    }

    #[inline(always)]
    pub(crate) fn in_pingpong(&self, cx: &Cx<'_>) -> bool {
        self.ack.pingpong >= cx.shared.sysctl.tcp_pingpong_thresh
    }

    pub(crate) fn enter_pingpong(&mut self, cx: &Cx<'_>) {
        self.ack.pingpong = cx.shared.sysctl.tcp_pingpong_thresh;
    }

    /// Quick-ACK mode: every check sends at once.
    #[inline(always)]
    fn in_quickack(&self, cx: &Cx<'_>) -> bool {
        self.ack.route_quickack || (self.ack.quick > 0 && !self.in_pingpong(cx))
    }

    /// Raises the number of immediate ACKs to half a window's worth, at most `max`.
    pub(crate) fn incr_quickack(&mut self, max: u32) {
        let mut quick = self.win.rcv_wnd / (2 * self.rcv_mss.max(1));
        if quick == 0 {
            quick = 2;
        }
        let quick = quick.min(max).min(255) as u8;
        self.ack.quick = self.ack.quick.max(quick);
    }

    pub(crate) fn enter_quickack(&mut self, cx: &Cx<'_>, max: u32) {
        self.incr_quickack(max);
        self.ack.pingpong = 0;
        self.set_ato_min(cx);
    }

    /// Data arrived: the expected time to the next segment follows.
    #[inline(always)]
    pub(crate) fn update_ato(&mut self, cx: &mut Cx<'_>) {
        let now = cx.jiffies();
        let min = Self::ato_min(cx);
        if self.ack.ato == 0 {
            // The first data of the connection: the sender is in slow start and wants ACKs.
            self.incr_quickack(MAX_QUICKACKS);
            self.store_ato(cx, min);
        } else {
            let gap = now.saturating_sub(self.ack.lrcvtime);
            let ato = u64::from(self.ack.ato);
            if gap <= min / 2 {
                self.store_ato(cx, (ato >> 1) + min / 2);
            } else if gap < ato {
                let rto = self.rto_jiffies(cx);
                let mut new = ((ato >> 1) + gap).min(rto);
                if cx.shared.profile.ato_cap == AtoCap::DelackMax {
                    new = new.min(Self::delack_most(cx.shared));
                }
                self.store_ato(cx, new);
            } else if gap > self.rto_jiffies(cx) {
                // The sender paused for longer than its own timer: it starts anew.
                self.incr_quickack(MAX_QUICKACKS);
            }
        }
        self.ack.lrcvtime = now;
    }

    /// 200 ms in jiffies (TCP_DELACK_MAX).
    fn delack_most(shared: &Shared) -> u64 {
        u64::from(shared.tick.hz()) / 5
    }

    /// The longest delay of an ACK, jiffies. It never changes.
    pub(crate) fn delack_cap(shared: &Shared, rto_min_us: u64) -> u64 {
        let most = Self::delack_most(shared);
        match shared.profile.delack_max {
            DelackMax::Fixed => most,
            DelackMax::BelowRtoMin => most.min(shared.tick.from_micros(rto_min_us).max(2) - 1),
        }
    }

    /// The ATO that TCP_INFO shows, jiffies: later kernels hide what exceeds the longest delay.
    pub(crate) fn shown_ato(&self, shared: &Shared) -> u32 {
        match shared.profile.delack_max {
            DelackMax::Fixed => self.ack.ato,
            DelackMax::BelowRtoMin => self.ack.ato.min(self.ack.delay_cap as u32),
        }
    }

    /// Sends, delays or holds back the ACK that is owed, if one is. `ofo_possible` is false after header prediction.
    pub(crate) fn ack_check(&mut self, cx: &mut Cx<'_>, ofo_possible: bool) {
        if !self.ack.flags.contains(AckFlags::SCHED) {
            return;
        }
        let unacked = self.rcv_nxt.0.wrapping_sub(self.win.rcv_wup.0);
        // Choosing twice without anything in between is choosing once: the ACK takes what was chosen here.
        let mut chosen = None;
        let now = if unacked > self.rcv_mss
            && ((self.rcv_nxt.since(self.copied_seq)) < self.rcvlowat
                || chosen.insert(self.raw_window(cx)).window >= self.win.rcv_wnd)
        {
            Some(AckNow::MoreThanOneMss)
        } else if self.in_quickack(cx) {
            Some(AckNow::QuickAck)
        } else if self.ack.flags.contains(AckFlags::NOW) {
            Some(AckNow::Marked)
        } else {
            None
        };
        if let Some(why) = now {
            let defer = self.owned
                && cx.shared.profile.backlog_ack == BacklogAck::Deferred
                && cx.shared.sysctl.tcp_backlog_ack_defer;
            if defer {
                self.ack.flags |= AckFlags::DEFERRED;
            } else {
                self.send_chosen(cx, why, chosen);
            }
            return;
        }
        if !ofo_possible || self.ofo.is_empty() {
            self.send_delayed_ack(cx);
            return;
        }
        if !self.opts.sack || self.ack.compressed >= cx.shared.sysctl.tcp_comp_sack_nr {
            self.send_ack(cx, AckNow::DuplicateAck);
            return;
        }
        if self.ack.compressed_rcv_nxt != self.rcv_nxt {
            self.ack.compressed_rcv_nxt = self.rcv_nxt;
            self.ack.dup_acks = 0;
        }
        if self.ack.dup_acks < FAST_RETRANSMIT {
            self.ack.dup_acks += 1;
            self.send_ack(cx, AckNow::DuplicateAck);
            return;
        }
        self.ack.compressed = self.ack.compressed.saturating_add(1);
        let until = match self.timer(Timer::SackCompression) {
            Some(t) => t,
            None => {
                let t = cx.now + self.compression_delay(cx);
                self.set_timer(Timer::SackCompression, Some(t));
                t
            }
        };
        let held = self.ack.compressed;
        self.decide(cx, move || Decision::AckCompressed { held, until });
    }

    fn compression_delay(&self, cx: &Cx<'_>) -> Duration {
        let s = &cx.shared.sysctl;
        let mut rtt = u64::from(self.rtt.rtt_us8);
        let srtt = u64::from(self.snd.srtt_us8);
        if srtt > 0 && srtt < rtt {
            rtt = srtt;
        }
        let share = match cx.shared.profile.sack_delay {
            SackDelay::FivePercent => rtt * 125 / 20,
            SackDelay::RttPercent => (rtt + rtt / 4).saturating_mul(u64::from(s.tcp_comp_sack_rtt_percent)),
        };
        Duration::from_nanos(share.min(s.tcp_comp_sack_delay_ns))
    }

    /// SACK-compression timer, or a block that peers must not miss: what was held back goes out as one ACK.
    pub(crate) fn flush_compressed(&mut self, cx: &mut Cx<'_>) {
        self.set_timer(Timer::SackCompression, None);
        if self.ack.compressed == 0 {
            return;
        }
        // One ACK goes out after all: it is not among the saved ones.
        self.ack.compressed -= 1;
        let saved = u64::from(core::mem::take(&mut self.ack.compressed));
        cx.counters().add(Counter::TcpExtTCPAckCompressed, saved);
        self.send_ack(cx, AckNow::SackTimer);
    }

    fn send_delayed_ack(&mut self, cx: &mut Cx<'_>) {
        let hz = u64::from(cx.shared.tick.hz());
        let min = Self::ato_min(cx);
        let now = cx.jiffies();
        let mut ato = u64::from(self.ack.ato);
        if ato > min {
            let mut most = if self.in_pingpong(cx) || self.ack.flags.contains(AckFlags::PUSHED) {
                hz / 5
            } else {
                hz / 2
            };
            if self.snd.srtt_us8 > 0 {
                let rtt = cx.shared.tick.from_micros(u64::from(self.snd.srtt_us8 >> 3)).max(min);
                most = most.min(rtt);
            }
            ato = ato.min(most);
        }
        ato = ato.min(self.ack.delay_cap);
        let mut timeout = now + ato;
        if self.ack.flags.contains(AckFlags::TIMER) {
            if self.ack.timeout <= now + (ato >> 2) {
                self.send_ack(cx, AckNow::DelackTimer);
                return;
            }
            timeout = timeout.min(self.ack.timeout);
        }
        self.ack.flags |= AckFlags::SCHED | AckFlags::TIMER;
        // A timer that is set again for the same tick stays where the wheel has it.
        let until = match self.timer(Timer::DelayedAck) {
            Some(until) if self.ack.timeout == timeout => until,
            _ => cx.shared.timer_instant(cx.now, timeout),
        };
        self.ack.timeout = timeout;
        self.set_timer(Timer::DelayedAck, Some(until));
        let ato = self.ack.ato;
        self.decide(cx, move || Decision::AckDelayed { until, ato });
    }

    /// The delayed-ACK timer fired.
    pub(crate) fn on_delack_timer(&mut self, cx: &mut Cx<'_>) {
        self.set_timer(Timer::DelayedAck, None);
        if self.ack.compressed > 0 {
            self.flush_compressed(cx);
            return;
        }
        if !self.ack.flags.contains(AckFlags::TIMER) {
            return;
        }
        if self.owned {
            cx.count(Counter::TcpExtDelayedACKLocked);
            self.ack.flags |= AckFlags::DEFERRED;
            return;
        }
        self.ack.flags -= AckFlags::TIMER;
        if self.ack.flags.contains(AckFlags::SCHED) {
            if self.in_pingpong(cx) {
                // The delay did not help to piggyback: the peer is waiting for us.
                self.ack.pingpong = 0;
                self.set_ato_min(cx);
            } else {
                let mut ato = (u64::from(self.ack.ato) << 1).min(self.rto_jiffies(cx));
                if cx.shared.profile.ato_cap == AtoCap::DelackMax {
                    ato = ato.min(Self::delack_most(cx.shared));
                }
                self.store_ato(cx, ato);
            }
            self.clock = cx.now;
            cx.count(Counter::TcpExtDelayedACKs);
            self.send_ack(cx, AckNow::DelackTimer);
        }
    }

    /// Sends an ACK now.
    pub(crate) fn send_ack(&mut self, cx: &mut Cx<'_>, why: AckNow) {
        self.send_chosen(cx, why, None);
    }

    #[inline(always)]
    fn send_chosen(&mut self, cx: &mut Cx<'_>, why: AckNow, chosen: Option<RawChoice>) {
        let ack = self.rcv_nxt;
        self.decide(cx, move || Decision::AckNow { why, ack });
        self.transmit_ack(cx, chosen);
    }

    /// An ACK for something unacceptable, with D-SACK if it was old data (`tcp_send_dupack`).
    pub(crate) fn send_dupack(&mut self, cx: &mut Cx<'_>, seg: &TcpSegment, why: AckNow) {
        let (seq, end) = (seg.seq, seg.end_seq());
        if end != seq && seq.before(self.rcv_nxt) {
            cx.count(Counter::TcpExtDelayedACKLost);
            self.enter_quickack(cx, MAX_QUICKACKS);
            let upto = end.min(self.rcv_nxt);
            if self.opts.sack && cx.shared.sysctl.tcp_dsack {
                self.note_old_data(cx, seq);
            }
            self.dsack_set(cx, seq, upto);
        }
        self.send_ack(cx, why);
    }

    /// May a segment that takes no sequence numbers be answered now, or was one answered within tcp_invalid_ratelimit?
    pub(crate) fn rate_limited(
        &mut self,
        cx: &mut Cx<'_>,
        seg: Option<&TcpSegment>,
        counter: Counter,
    ) -> bool {
        if let Some(seg) = seg
            && seg.seq_len() > 0
            && !seg.flags.contains(TcpFlags::SYN)
        {
            return false;
        }
        let now = cx.jiffies();
        let limit = cx.shared.tick.from_millis(u64::from(cx.shared.sysctl.tcp_invalid_ratelimit));
        if let Some(last) = self.last_oow_ack
            && now.saturating_sub(last) < limit
        {
            cx.count(counter);
            self.decide(cx, move || Decision::AckSkipped { counter: counter.name() });
            return true;
        }
        self.last_oow_ack = Some(now);
        false
    }

    /// `tcp_send_challenge_ack`: RFC 5961 §7 limits how many per second a stack gives away.
    pub(crate) fn send_challenge(&mut self, cx: &mut Cx<'_>) {
        if self.rate_limited(cx, None, Counter::TcpExtTCPACKSkippedChallenge)
            || !cx.shared.challenge_allowed(cx.now)
        {
            return;
        }
        cx.count(Counter::TcpExtTCPChallengeACK);
        self.send_ack(cx, AckNow::Challenge);
    }

    /// After a read of `copied` bytes: is the ACK that is owed, or a window update, worth sending now?
    pub(crate) fn ack_after_read(&mut self, cx: &mut Cx<'_>, copied: u32) {
        if self.ack.flags.contains(AckFlags::SCHED) {
            let unacked = self.rcv_nxt.0.wrapping_sub(self.win.rcv_wup.0);
            let pushed = self.ack.flags.contains(AckFlags::PUSHED2)
                || (self.ack.flags.contains(AckFlags::PUSHED) && !self.in_pingpong(cx));
            if unacked > self.rcv_mss || (copied > 0 && pushed && self.mem.sk_rmem_alloc == 0) {
                self.clock = cx.now;
                self.send_ack(cx, AckNow::AfterRead);
                return;
            }
        }
        if copied > 0 && !self.rcv_shutdown {
            let current = self.receive_window();
            if 2 * u64::from(current) <= u64::from(self.win.window_clamp) {
                let choice = self.raw_window(cx);
                let new = choice.window;
                if new > 0 && u64::from(new) >= 2 * u64::from(current) {
                    self.clock = cx.now;
                    self.send_chosen(cx, AckNow::WindowUpdate, Some(choice));
                }
            }
        }
    }

    /// `__tcp_select_window`. Choosing has side effects even when nothing is sent: with little space, quick-ACK mode
    /// ends and, under pressure, rcv_ssthresh is cut.
    #[inline(always)]
    pub(crate) fn raw_window(&mut self, cx: &mut Cx<'_>) -> RawChoice {
        if let Some(steering) = self.steering {
            let window = steering.window(self.received());
            return RawChoice { window, limit: WindowLimit::Steered, low_space: false };
        }
        let pressed = self.under_pressure(cx);
        let choice = window::raw(&RawInputs {
            rcv_mss: self.rcv_mss,
            free_space: self.free_space(cx),
            full_space: self.full_space(cx),
            window_clamp: self.win.window_clamp,
            rcv_ssthresh: self.win.rcv_ssthresh,
            pressed_ssthresh: pressed.then(|| self.win.rcv_ssthresh.min(4 * self.advmss)),
            rcv_wnd: self.win.rcv_wnd,
            wscale: self.win.rcv_wscale,
            shrink: cx.shared.sysctl.shrink(&cx.shared.profile),
        });
        if choice.low_space {
            self.ack.quick = 0;
            if pressed {
                self.cut_ssthresh(4 * self.advmss);
            }
        }
        choice
    }

    /// Chooses and commits the window of a departing segment (`tcp_select_window`). Returns the field.
    /// `chosen` is what [`Tcb::raw_window`] said just now, if it was asked.
    #[inline(always)]
    pub(crate) fn commit_window(&mut self, cx: &mut Cx<'_>, chosen: Option<RawChoice>) -> u16 {
        let old_window = self.receive_window();
        let old_rcv_wnd = self.win.rcv_wnd;
        let out_of_memory = self.ack.flags.contains(AckFlags::NOMEM)
            && cx.shared.profile.no_memory_window == NoMemoryWindow::Zero;
        let shrink = cx.shared.sysctl.shrink(&cx.shared.profile);
        let (raw, offer) = if out_of_memory {
            (
                RawChoice { window: 0, limit: WindowLimit::NoMemory, low_space: false },
                window::Offer { rcv_wnd: 0, field: 0, edge_kept: false },
            )
        } else if self.steering.is_some() {
            let raw = chosen.unwrap_or_else(|| self.raw_window(cx));
            (raw, window::steered(raw.window, self.win.rcv_wscale))
        } else {
            let raw = chosen.unwrap_or_else(|| self.raw_window(cx));
            let workaround = cx.shared.sysctl.tcp_workaround_signed_windows;
            (raw, window::offer(raw.window, old_window, self.win.rcv_wscale, shrink, workaround))
        };
        self.win.rcv_wnd = offer.rcv_wnd;
        self.win.rcv_wup = self.rcv_nxt;
        let edge = self.rcv_nxt + offer.rcv_wnd;
        self.win.furthest_edge = self.win.furthest_edge.max(edge);
        if out_of_memory {
            self.pred = None;
        } else {
            if offer.edge_kept && raw.window == 0 {
                cx.count(Counter::TcpExtTCPWantZeroWindowAdv);
            }
            if offer.field == 0 {
                self.pred = None;
                if old_rcv_wnd != 0 {
                    cx.count(Counter::TcpExtTCPToZeroWindowAdv);
                }
            } else if old_rcv_wnd == 0 {
                cx.count(Counter::TcpExtTCPFromZeroWindowAdv);
            }
        }
        let on_wire = self.rcv_nxt + (u32::from(offer.field) << self.win.rcv_wscale);
        let edge_moved = i64::from(on_wire.since(self.win.last_edge));
        self.win.last_edge = on_wire;
        if cx.shared.log.listening() {
            let choice = WindowChoice {
                sk_rcvbuf: self.mem.sk_rcvbuf,
                sk_rmem_alloc: self.mem.sk_rmem_alloc,
                backlog_len: self.mem.backlog_len,
                space_rule: self.space_rule(cx),
                free_space: self.free_space(cx),
                full_space: self.full_space(cx),
                window_clamp: self.win.window_clamp,
                rcv_ssthresh: self.win.rcv_ssthresh,
                rcv_mss: self.rcv_mss,
                rcv_wscale: self.win.rcv_wscale,
                shrink,
                raw_window: raw.window,
                limit: raw.limit,
                rcv_nxt: self.rcv_nxt,
                old_window,
                old_rcv_wnd,
                edge_kept: offer.edge_kept,
                rcv_wnd: offer.rcv_wnd,
                field: offer.field,
                edge_moved,
            };
            self.decide(cx, move || Decision::Window(choice));
        }
        offer.field
    }

    /// A segment with the ACK flag left: nothing is owed any more.
    #[inline(always)]
    pub(crate) fn on_ack_sent(&mut self, cx: &mut Cx<'_>) {
        if self.ack.compressed > 0 {
            let saved = u64::from(core::mem::take(&mut self.ack.compressed));
            cx.counters().add(Counter::TcpExtTCPAckCompressed, saved);
            self.set_timer(Timer::SackCompression, None);
        }
        if self.ack.quick > 0 {
            let used = u8::from(self.ack.flags.contains(AckFlags::SCHED));
            if used >= self.ack.quick {
                self.ack.quick = 0;
                self.set_ato_min(cx);
            } else {
                self.ack.quick -= used;
            }
        }
        self.ack.flags = AckFlags::empty();
        self.set_timer(Timer::DelayedAck, None);
    }

    /// The batch from the backlog is done: the ACK that was put off goes out if it is still owed.
    pub(crate) fn release_deferred_ack(&mut self, cx: &mut Cx<'_>) {
        if self.ack.flags.contains(AckFlags::DEFERRED) {
            self.ack.flags -= AckFlags::DEFERRED;
            if self.ack.flags.contains(AckFlags::SCHED) {
                self.send_ack(cx, AckNow::Deferred);
            }
        }
    }
}
