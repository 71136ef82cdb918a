//! One connection: its variables, grouped by concern, and the steps that work on them.
//!
//! | module | decides |
//! |---|---|
//! | `input` | what a segment means: header prediction, acceptability, the order of the steps |
//! | `queue` | where its bytes go: in order, out of order, twice, nowhere |
//! | `ofo` | the order of what arrived out of order |
//! | `prune` | what gives way when memory runs out |
//! | `collapse` | how queues are rewritten to take less memory, by each policy |
//! | `estimate` | the peer's segment size, the round trip, the growth of rcv_ssthresh |
//! | `autotune` | the receive buffer's size from what the reader takes |
//! | `ack` | when an ACK goes out, with which window |
//! | `sack` | what SACK and D-SACK report |
//! | `send` | the little sending a receiver does, and retransmission |
//! | `state` | opening and closing |
//! | `user` | the application's calls |

mod ack;
mod autotune;
mod collapse;
mod estimate;
mod input;
mod ofo;
mod prune;
mod queue;
mod sack;
mod send;
mod state;
#[cfg(test)]
mod tests;
mod user;

pub(crate) use ofo::OFO_TIES;

use core::net::SocketAddr;
use std::collections::VecDeque;

pub(crate) use self::{
    ack::{AckFlags, AckState},
    collapse::Cursor,
    input::Prediction,
    ofo::OfoQueue,
    sack::SackState,
    send::SendState,
    state::{HandshakeOutcome, first_window},
    user::{PendingClose, doubled_rcvbuf},
};
use crate::{
    SocketId,
    counters::{Counter, Counters},
    decision::{Decision, DropReason},
    mem::{GlobalMem, MemCtx, SockMem},
    profile::{SpaceModel, SpaceRule},
    skb::Skb,
    stack::Shared,
    time::Instant,
    units::Seq,
    window,
    wire::{AckForm, TcpSegment},
};

/// The state of a connection, named as `ss` prints it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "kebab-case"))]
#[allow(missing_docs, reason = "RFC 9293 §3.3.2 names them")]
pub enum State {
    SynSent,
    Established,
    FinWait1,
    FinWait2,
    CloseWait,
    Closing,
    LastAck,
    TimeWait,
    Closed,
}

impl State {
    /// The name `ss` prints.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            State::SynSent => "SYN-SENT",
            State::Established => "ESTAB",
            State::FinWait1 => "FIN-WAIT-1",
            State::FinWait2 => "FIN-WAIT-2",
            State::CloseWait => "CLOSE-WAIT",
            State::Closing => "CLOSING",
            State::LastAck => "LAST-ACK",
            State::TimeWait => "TIME-WAIT",
            State::Closed => "CLOSED",
        }
    }
}

/// Everything outside the connection that a step may look at or change.
pub(crate) struct Cx<'a> {
    pub(crate) now: Instant,
    pub(crate) shared: &'a mut Shared,
}

impl Cx<'_> {
    #[inline(always)]
    pub(crate) fn mem(&mut self) -> MemCtx<'_> {
        let s = &mut *self.shared;
        MemCtx {
            now: self.now,
            profile: &s.profile,
            sysctl: &s.sysctl,
            global: &mut s.mem,
            counters: &mut s.counters,
        }
    }

    pub(crate) fn count(&mut self, c: Counter) {
        self.shared.counters.inc(c);
    }

    /// This instant in jiffies (`tcp_jiffies32`).
    #[inline]
    pub(crate) fn jiffies(&self) -> u64 {
        self.shared.jiffies(self.now)
    }

    pub(crate) fn global(&self) -> &GlobalMem {
        &self.shared.mem
    }

    pub(crate) fn counters(&mut self) -> &mut Counters {
        &mut self.shared.counters
    }
}

/// The receive window. Names as in `struct tcp_sock`.
#[derive(Clone, Debug)]
pub(crate) struct WindowVars {
    pub(crate) rcv_wnd: u32,
    pub(crate) rcv_wup: Seq,
    pub(crate) window_clamp: u32,
    pub(crate) rcv_ssthresh: u32,
    pub(crate) rcv_wscale: u8,
    pub(crate) scaling_ratio: u8,
    /// The furthest right edge ever offered.
    pub(crate) furthest_edge: Seq,
    /// The highest the wire has seen, for explanations (unscaled edge of the last ACK).
    pub(crate) last_edge: Seq,
}

/// Receiver-side round-trip estimate (`rcv_rtt_est`).
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct RcvRtt {
    /// Microseconds times eight; 0 for none yet.
    pub(crate) rtt_us8: u32,
    pub(crate) seq: Seq,
    pub(crate) since: Option<Instant>,
    pub(crate) last_tsecr: u32,
}

/// Autotuning's measurement (`rcvq_space`).
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct RcvqSpace {
    pub(crate) space: u32,
    pub(crate) seq: Seq,
    pub(crate) since: Instant,
}

/// What the handshake settled.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Negotiated {
    pub(crate) sack: bool,
    pub(crate) timestamps: bool,
    pub(crate) wscale: bool,
    pub(crate) snd_wscale: u8,
    /// 20 or 32: the header every segment has.
    pub(crate) header_len: u8,
    pub(crate) ts_recent: u32,
    /// When ts_recent was stored, s.
    pub(crate) ts_recent_stamp: u64,
    /// Added to the millisecond clock in our timestamps.
    pub(crate) ts_offset: u32,
}

/// Timers of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Timer {
    DelayedAck,
    SackCompression,
    Retransmit,
    /// TIME-WAIT or FIN-WAIT-2 running out.
    Linger,
}

const TIMERS: usize = 4;

/// Where [`Tcb::rcv_nxt64`] begins: half the space on either side, so that keys below rcv_nxt stay positive.
const STREAM_BASE: u64 = 1 << 40;

/// A connection.
#[derive(Debug)]
pub(crate) struct Tcb {
    pub(crate) id: SocketId,
    pub(crate) state: State,
    pub(crate) local: SocketAddr,
    pub(crate) remote: SocketAddr,
    /// What its ACKs have in common.
    pub(crate) ack_form: Option<AckForm>,
    pub(crate) mem: SockMem,
    pub(crate) opts: Negotiated,
    pub(crate) pred: Option<Prediction>,

    pub(crate) irs: Seq,
    pub(crate) rcv_nxt: Seq,
    pub(crate) copied_seq: Seq,
    /// rcv_nxt as a 64-bit count from [`STREAM_BASE`], to key the out-of-order queue without wrapping.
    pub(crate) rcv_nxt64: u64,
    pub(crate) queue: VecDeque<Skb>,
    pub(crate) ofo: OfoQueue,
    pub(crate) ofo_bytes: u64,
    /// Where a collapse in portions goes on.
    pub(crate) cursor: Cursor,
    pub(crate) backlog: VecDeque<(Skb, TcpSegment)>,

    pub(crate) win: WindowVars,
    pub(crate) steering: Option<crate::Steering>,
    pub(crate) advmss: u32,
    pub(crate) rcv_mss: u32,
    pub(crate) last_seg_size: u32,
    pub(crate) user_mss: u32,
    pub(crate) rtt: RcvRtt,
    pub(crate) rcvq: RcvqSpace,
    /// The connection's own clock (`tcp_mstamp`): the last segment in, data out or delayed ACK.
    pub(crate) clock: Instant,
    pub(crate) ack: AckState,
    pub(crate) sack: SackState,
    pub(crate) snd: SendState,

    pub(crate) rcvlowat: i32,
    pub(crate) rcv_shutdown: bool,
    pub(crate) snd_shutdown: bool,
    pub(crate) fin_received: bool,
    pub(crate) owned: bool,
    pub(crate) accepted: bool,
    pub(crate) orphan: bool,
    pub(crate) error: Option<crate::SocketError>,
    pub(crate) pending_close: PendingClose,
    pub(crate) last_oow_ack: Option<u64>,
    pub(crate) timers: [Option<Instant>; TIMERS],
    /// The stack's timer queue must be looked at; most segments leave the timers as they are.
    pub(crate) timers_moved: bool,
    /// What the stack's timer queue holds for this connection.
    pub(crate) scheduled: Option<Instant>,
    pub(crate) readable_signalled: bool,
    pub(crate) stats: Stats,
}

/// Per-connection statistics, as TCP_INFO reports them.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Stats {
    pub(crate) bytes_received: u64,
    pub(crate) segs_in: u32,
    pub(crate) segs_out: u32,
    pub(crate) data_segs_in: u32,
    pub(crate) data_segs_out: u32,
    pub(crate) rcv_ooopack: u32,
    pub(crate) bytes_acked: u64,
    pub(crate) bytes_sent: u64,
    pub(crate) total_retrans: u32,
    pub(crate) coalesced: u32,
    pub(crate) collapses: u32,
    pub(crate) prunes: u32,
    pub(crate) clamps: u32,
    pub(crate) memory_drops: u32,
    pub(crate) window_drops: u32,
}

impl Tcb {
    #[inline(always)]
    pub(crate) fn timer(&self, t: Timer) -> Option<Instant> {
        self.timers.get(t as usize).copied().flatten()
    }

    #[inline(always)]
    pub(crate) fn set_timer(&mut self, t: Timer, at: Option<Instant>) {
        if let Some(slot) = self.timers.get_mut(t as usize)
            && *slot != at
        {
            *slot = at;
            self.timers_moved = true;
        }
    }

    pub(crate) fn stop_timers(&mut self) {
        self.timers = [None; TIMERS];
        self.timers_moved = true;
    }

    /// When it wants to be called from now on, if that is not what the stack's timer queue holds.
    #[inline(always)]
    pub(crate) fn reschedule(&mut self) -> Option<Option<Instant>> {
        self.timers_moved = false;
        let next = self.next_timer();
        if self.scheduled == next {
            return None;
        }
        self.scheduled = next;
        Some(next)
    }

    /// The earliest of its timers.
    #[inline(always)]
    pub(crate) fn next_timer(&self) -> Option<Instant> {
        let [a, b, c, d] = self.timers.map(|at| at.unwrap_or(Instant::FAR_FUTURE));
        let first = a.min(b).min(c.min(d));
        // Nearly always something is earlier; else it makes a difference whether one is set.
        (first < Instant::FAR_FUTURE || self.timers.iter().any(Option::is_some)).then_some(first)
    }

    /// Reports a decision; the closure runs only while somebody listens.
    #[inline(always)]
    pub(crate) fn decide(&self, cx: &mut Cx<'_>, f: impl FnOnce() -> Decision) {
        if cx.shared.log.listening() {
            cx.shared.log.push(cx.now, Some(self.id), f);
        }
    }

    pub(crate) fn note_drop(&mut self, cx: &mut Cx<'_>, reason: DropReason, seq: Seq, len: u32) {
        self.decide(cx, move || Decision::Dropped { reason, seq, len });
    }

    /// A received segment is thrown away: the socket's drop count grows by the segments it stands for.
    pub(crate) fn drop_skb(&mut self, cx: &mut Cx<'_>, skb: &Skb, reason: DropReason) {
        self.mem.sk_drops = self.mem.sk_drops.wrapping_add(skb.segments());
        match reason {
            DropReason::RcvQueueFull
            | DropReason::OfoNoMemory
            | DropReason::OfoPruned
            | DropReason::BacklogFull => self.stats.memory_drops = self.stats.memory_drops.wrapping_add(1),
            DropReason::ZeroWindow | DropReason::BeyondWindow | DropReason::OverWindow => {
                self.stats.window_drops = self.stats.window_drops.wrapping_add(1);
            }
            _ => {}
        }
        self.note_drop(cx, reason, skb.seq, skb.len);
    }

    /// How memory becomes window for this socket right now.
    #[inline(always)]
    pub(crate) fn space_rule(&self, cx: &Cx<'_>) -> SpaceRule {
        window::space_rule(
            cx.shared.profile.space,
            cx.shared.sysctl.tcp_adv_win_scale,
            self.win.scaling_ratio,
        )
    }

    /// `tcp_win_from_space`.
    #[inline(always)]
    pub(crate) fn window_from_space(&self, cx: &Cx<'_>, space: i32) -> i32 {
        match cx.shared.profile.space {
            SpaceModel::ScalingRatio => {
                SpaceRule::ScalingRatio(self.win.scaling_ratio).window_from_space(space)
            }
            SpaceModel::AdvWinScale => self.space_rule(cx).window_from_space(space),
        }
    }

    /// `tcp_space`: may be negative.
    #[inline(always)]
    pub(crate) fn free_space(&self, cx: &Cx<'_>) -> i32 {
        self.window_from_space(cx, self.mem.unused())
    }

    /// `tcp_full_space`.
    #[inline(always)]
    pub(crate) fn full_space(&self, cx: &Cx<'_>) -> i32 {
        self.window_from_space(cx, self.mem.sk_rcvbuf)
    }

    /// `tcp_receive_window`: what the peer may still send.
    #[inline(always)]
    pub(crate) fn receive_window(&self) -> u32 {
        let edge = self.win.rcv_wup + self.win.rcv_wnd;
        edge.since(self.rcv_nxt).max(0).unsigned_abs()
    }

    /// `tcp_max_receive_window`: the same against the furthest edge ever offered.
    #[inline(always)]
    pub(crate) fn furthest_window(&self) -> u32 {
        self.win.furthest_edge.since(self.rcv_nxt).max(0).unsigned_abs()
    }

    /// `tcp_under_memory_pressure`.
    #[inline(always)]
    pub(crate) fn under_pressure(&self, cx: &Cx<'_>) -> bool {
        cx.shared.mem.presses(self.mem.group, cx.now)
    }

    /// Unread bytes that the reader could take now.
    pub(crate) fn unread(&self) -> u32 {
        let fin = u32::from(self.fin_received && self.rcv_nxt.after(self.copied_seq));
        self.rcv_nxt.since(self.copied_seq).max(0).unsigned_abs().saturating_sub(fin)
    }

    /// Bytes of the peer's stream that are there in order.
    pub(crate) fn received(&self) -> u64 {
        self.rcv_nxt64.saturating_sub(STREAM_BASE)
    }

    /// First key of a sequence number in the out-of-order queue: buffers that begin at the same place have one each.
    pub(crate) fn ofo_key(&self, seq: Seq) -> u64 {
        self.rcv_nxt64.wrapping_add_signed(i64::from(seq.since(self.rcv_nxt))) << OFO_TIES
    }

    /// Moves rcv_nxt to `seq` (`tcp_rcv_nxt_update`).
    #[inline(always)]
    pub(crate) fn advance_rcv_nxt(&mut self, seq: Seq) {
        let delta = seq.since(self.rcv_nxt).max(0).unsigned_abs();
        self.stats.bytes_received += u64::from(delta);
        self.rcv_nxt64 = self.rcv_nxt64.wrapping_add(u64::from(delta));
        self.rcv_nxt = seq;
    }

    /// Lowers rcv_ssthresh to `limit` if it is above (`tcp_adjust_rcv_ssthresh`).
    pub(crate) fn cut_ssthresh(&mut self, limit: u32) {
        self.win.rcv_ssthresh = self.win.rcv_ssthresh.min(limit);
    }

    /// `tcp_set_window_clamp` for an open connection: the clamp moves and takes rcv_ssthresh along.
    pub(crate) fn set_window_clamp(&mut self, value: u32) {
        // Half of the smallest receive buffer.
        const SMALLEST: u32 = 2304 / 2;
        let clamp = value.max(SMALLEST);
        let old = self.win.window_clamp;
        if clamp == old {
            return;
        }
        self.win.window_clamp = clamp;
        if clamp < old {
            self.cut_ssthresh(clamp);
        } else {
            self.win.rcv_ssthresh = self.win.rcv_ssthresh.max(self.win.rcv_wnd.min(clamp));
        }
    }
}
