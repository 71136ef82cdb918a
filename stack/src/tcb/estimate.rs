//! What the receiver learns from arriving data: the peer's segment size, the memory it costs, the round trip, and how
//! far rcv_ssthresh may grow.
//!
//! Answers to (Linux 6.1 and 6.18): `tcp_measure_rcv_mss`, `tcp_grow_window`, `tcp_initialize_rcv_mss`,
//! `tcp_rcv_rtt_measure`, `tcp_rcv_rtt_measure_ts`, `tcp_init_buffer_space`.

use super::{AckFlags, Cx, Tcb};
use crate::{
    decision::{Decision, Growth},
    profile::{RatioClamp, RttAverage, RttZero, SKB_DESCRIPTOR, SpaceModel},
    skb::Seen,
    wire::{TcpFlags, TcpSegment},
};

/// The smallest segment size a peer is believed to have (TCP_MIN_MSS).
pub(crate) const MIN_MSS: u32 = 88;
/// The default segment size of RFC 1122.
pub(crate) const DEFAULT_MSS: u32 = 536;
/// Shorter segments tell nothing about how well payload is packed.
const GROW_FROM_LEN: u32 = 128;

/// Whether a segment that arrived without payload in its head counts only for its fragments in growth.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Truesize {
    Adjusted,
    Whole,
}

impl Tcb {
    /// The first estimate of the peer's segment size.
    pub(crate) fn initialize_rcv_mss(&mut self) {
        let hint = self.advmss.min(self.snd.mss_cache).min(self.win.rcv_wnd / 2).min(DEFAULT_MSS);
        self.rcv_mss = hint.max(MIN_MSS);
    }

    /// Settles window_clamp, rcv_ssthresh and autotuning's start when the connection is established.
    pub(crate) fn init_buffer_space(&mut self, cx: &mut Cx<'_>) {
        let app = u32::from(cx.shared.sysctl.tcp_app_win);
        let max = self.full_space(cx) as u32;
        let advmss = self.advmss;
        self.clock = cx.now;
        self.rcvq.since = cx.now;
        self.rcvq.seq = self.copied_seq;
        if self.win.window_clamp >= max {
            self.win.window_clamp = max;
            if app > 0 && max > 4 * advmss {
                self.win.window_clamp = max.wrapping_sub(max >> app).max(4 * advmss);
            }
        }
        let clamp = self.win.window_clamp;
        // Keep one segment of the buffer for the application, unless the window is tiny.
        if app > 0 && clamp > 2 * advmss && clamp.wrapping_add(advmss) > max {
            self.win.window_clamp = max.wrapping_sub(advmss).max(2 * advmss);
        }
        self.cut_ssthresh(self.win.window_clamp);
        self.rcvq.space = self.win.rcv_ssthresh.min(self.win.rcv_wnd).min(10 * advmss);
        self.expand_sndbuf(cx);
    }

    /// Room to send two windows of ten segments, each at the price of a whole head (`tcp_sndbuf_expand`). What the backlog
    /// may hold depends on it.
    fn expand_sndbuf(&mut self, cx: &Cx<'_>) {
        let build = &cx.shared.profile.build;
        let mss = self.snd.mss_clamp.max(self.snd.mss_cache);
        let head = (mss + build.max_tcp_header() + build.shared_info()).next_power_of_two();
        let room = (head + SKB_DESCRIPTOR).saturating_mul(2 * self.snd.initial_segments());
        let room = i32::try_from(room).unwrap_or(i32::MAX).min(cx.shared.sysctl.tcp_wmem[2]);
        self.mem.sk_sndbuf = self.mem.sk_sndbuf.max(room);
    }

    /// Looks at one arriving segment's size, and at what it costs per byte.
    #[inline(always)]
    pub(crate) fn measure_rcv_mss(&mut self, cx: &mut Cx<'_>, skb: &Seen, seg: &TcpSegment) {
        let previous = core::mem::take(&mut self.last_seg_size);
        let size = if skb.gso_size > 0 { u32::from(skb.gso_size) } else { skb.len };
        let before = self.rcv_mss;
        if size >= before {
            if size != before && cx.shared.profile.space == SpaceModel::ScalingRatio {
                self.measure_ratio(cx, skb);
            }
            self.rcv_mss = size.min(self.advmss) & 0xffff;
            if seg.flags.contains(TcpFlags::PSH) {
                self.ack.flags |= AckFlags::PUSHED;
            }
        } else {
            let with_header = size + u32::from(seg.header_len);
            let marks = TcpFlags::FIN | TcpFlags::SYN | TcpFlags::PSH | TcpFlags::URG;
            if with_header >= DEFAULT_MSS + 20
                || (with_header >= MIN_MSS + 20 && !seg.flags.intersects(marks))
            {
                let this = with_header.wrapping_sub(u32::from(self.opts.header_len)) & 0xffff;
                self.last_seg_size = this;
                if this == previous {
                    self.rcv_mss = this;
                    self.note_rcv_mss(cx, before);
                    return;
                }
            }
            if self.ack.flags.contains(AckFlags::PUSHED) {
                self.ack.flags |= AckFlags::PUSHED2;
            }
            self.ack.flags |= AckFlags::PUSHED;
        }
        self.note_rcv_mss(cx, before);
    }

    #[inline(always)]
    fn note_rcv_mss(&self, cx: &mut Cx<'_>, before: u32) {
        let after = self.rcv_mss;
        if before != after {
            self.decide(cx, move || Decision::RcvMss { before, after });
        }
    }

    /// A segment larger than any before: what share of its memory is payload?
    fn measure_ratio(&mut self, cx: &mut Cx<'_>, skb: &Seen) {
        let share = (u64::from(skb.len) << 8) / u64::from(skb.truesize.max(1).unsigned_abs());
        let before = self.win.scaling_ratio;
        let after = if share == 0 { 1 } else { (share & 0xff) as u8 };
        self.win.scaling_ratio = after;
        if before == after {
            return;
        }
        let clamp = self.full_space(cx) as u32;
        match cx.shared.profile.ratio_clamp {
            RatioClamp::WindowClampOption => self.set_window_clamp(clamp),
            RatioClamp::PlainStore => self.win.window_clamp = clamp,
        }
        if self.win.window_clamp < self.rcvq.space {
            self.rcvq.space = self.win.window_clamp.max(1);
        }
        let (len, truesize) = (skb.len, skb.truesize);
        let (window_clamp, rcv_ssthresh) = (self.win.window_clamp, self.win.rcv_ssthresh);
        self.decide(cx, move || Decision::ScalingRatio {
            before,
            after,
            len,
            truesize,
            window_clamp,
            rcv_ssthresh,
        });
    }

    /// Everything that in-order data sets in motion besides being queued (`tcp_event_data_recv`).
    #[inline(always)]
    pub(crate) fn on_data(&mut self, cx: &mut Cx<'_>, skb: &Seen, seg: &TcpSegment) {
        self.ack.flags |= AckFlags::SCHED;
        self.measure_rcv_mss(cx, skb, seg);
        self.measure_rtt_by_window(cx);
        self.update_ato(cx);
        if skb.len >= GROW_FROM_LEN {
            self.grow_ssthresh(cx, skb, Truesize::Adjusted);
        }
        self.slow_early(cx);
    }

    /// rcv_ssthresh grows with well-packed segments (`tcp_grow_window`).
    #[inline(always)]
    pub(crate) fn grow_ssthresh(&mut self, cx: &mut Cx<'_>, skb: &Seen, which: Truesize) {
        let before = self.win.rcv_ssthresh;
        let room = (self.win.window_clamp as i32).min(self.free_space(cx)).wrapping_sub(before as i32);
        let growth = self.grow_step(cx, skb, which, room);
        let (after, window_clamp) = (self.win.rcv_ssthresh, self.win.window_clamp);
        self.decide(cx, move || Decision::Ssthresh { growth, before, after, room, window_clamp });
    }

    #[inline(always)]
    fn grow_step(&mut self, cx: &mut Cx<'_>, skb: &Seen, which: Truesize, room: i32) -> Growth {
        if room <= 0 {
            return Growth::NoRoom;
        }
        if self.under_pressure(cx) {
            self.cut_ssthresh(4 * self.advmss);
            return Growth::UnderPressure;
        }
        let len = skb.len as i32;
        let mut cost = skb.truesize;
        if which == Truesize::Adjusted && skb.headlen == 0 {
            // Without payload in it, the head is overhead that coalescing saves.
            let frags = cost.wrapping_sub(cx.shared.profile.build.truesize(skb.end) as i32);
            if frags >= len {
                cost = frags;
            }
        }
        let worth = self.window_from_space(cx, cost);
        let step = if worth <= len { 2 * self.advmss } else { self.patient_step(cx, worth, len) };
        if step == 0 {
            return Growth::PoorlyPacked;
        }
        let step = step.max(2 * skb.len) as i32;
        self.win.rcv_ssthresh = self.win.rcv_ssthresh.wrapping_add(room.min(step) as u32);
        self.ack.quick |= 1;
        if step > room { Growth::CutByRoom } else { Growth::Grew }
    }

    /// A poorly packed segment still lets the window grow while rcv_ssthresh is far below what the buffer may become:
    /// each halving of the distance forgives a doubling of the overhead.
    fn patient_step(&self, cx: &Cx<'_>, worth: i32, len: i32) -> u32 {
        let mut worth = worth >> 1;
        let mut most = self.window_from_space(cx, cx.shared.sysctl.tcp_rmem[2]) >> 1;
        while most > 0 && i64::from(self.win.rcv_ssthresh) <= i64::from(most) {
            if worth <= len {
                return 2 * self.rcv_mss;
            }
            worth >>= 1;
            most >>= 1;
        }
        0
    }

    /// A round trip is at least the time a full window takes to arrive.
    #[inline(always)]
    fn measure_rtt_by_window(&mut self, cx: &Cx<'_>) {
        if let Some(since) = self.rtt.since {
            if self.rcv_nxt.before(self.rtt.seq) {
                return;
            }
            let us = cx.now.since(since).as_micros().max(1);
            self.update_rcv_rtt(cx, us, true);
        }
        self.rtt.seq = self.rcv_nxt + self.win.rcv_wnd;
        self.rtt.since = Some(cx.now);
    }

    /// A round trip by the timestamp that the peer echoes.
    #[inline(always)]
    pub(crate) fn measure_rtt_by_timestamp(&mut self, cx: &Cx<'_>, seg: &TcpSegment) {
        let Some(ts) = seg.options.timestamps.filter(|_| self.opts.timestamps) else { return };
        if ts.tsecr == self.rtt.last_tsecr {
            return;
        }
        self.rtt.last_tsecr = ts.tsecr;
        if seg.seq_len() < self.rcv_mss {
            return;
        }
        let ms = self.timestamp(cx).wrapping_sub(ts.tsecr);
        // Further back than the microsecond clock can express: no sample.
        if ms >= i32::MAX as u32 / 1000 {
            return;
        }
        let ms = match cx.shared.profile.rtt_zero {
            RttZero::OneMillisecond => ms.max(1),
            RttZero::Ignored if ms == 0 => return,
            RttZero::Ignored => ms,
        };
        self.update_rcv_rtt(cx, u64::from(ms) * 1000, false);
    }

    fn update_rcv_rtt(&mut self, cx: &Cx<'_>, us: u64, by_window: bool) {
        let sample = u32::try_from(us).unwrap_or(u32::MAX);
        let m = sample.wrapping_shl(3);
        let old = self.rtt.rtt_us8;
        self.rtt.rtt_us8 = if old == 0 || m < old {
            m
        } else if by_window {
            // The window may not have been full: only smaller values mean something.
            old
        } else if cx.shared.profile.rtt_average == RttAverage::OnlyWhenDrained
            && self.rcv_nxt != self.copied_seq
        {
            old
        } else {
            (old - (old >> 3)).wrapping_add(sample)
        };
    }
}
