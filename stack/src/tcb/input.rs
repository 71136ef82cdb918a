//! What an arriving segment means: header prediction, acceptability, and the order of the steps.
//!
//! Answers to (Linux 6.1 and 6.18): `tcp_rcv_established`, `tcp_validate_incoming`, `tcp_sequence`,
//! `tcp_rcv_state_process`, `tcp_fast_path_check`. RFC 9293 §3.10.7.4, RFC 7323 §5 (PAWS), RFC 5961 §3–5.

use core::ops::Range;

use bytes::Bytes;

use super::{Cx, State, Tcb, send::AckVerdict};
use crate::{
    counters::Counter,
    decision::{AckNow, Decision, DropReason},
    nic::FrameShape,
    profile::{Acceptance, FutureAck, PawsOldAck, PredictedAck},
    skb::Skb,
    units::Seq,
    wire::{TcpFlags, TcpSegment, share},
};

/// The header a well-behaved next segment will have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Prediction {
    pub(crate) header_len: u8,
    pub(crate) window: u16,
}

/// PAWS gives up on a timestamp older than this many seconds (24 days).
const PAWS_24_DAYS: u64 = 24 * 24 * 3600;

impl Tcb {
    /// The buffer that the driver model makes of a segment.
    #[inline(always)]
    fn build_skb(cx: &mut Cx<'_>, seg: &TcpSegment, frame: &Bytes, payload: Range<usize>) -> Skb {
        let shape = FrameShape {
            frame: seg.frame_len,
            headers: seg.headers_len,
            payload: seg.payload_len(),
            vnet_hdr_len: u32::from(seg.meta.hdr_len),
        };
        let layout = cx.shared.layout(shape);
        let payload = share(frame, payload.start, payload.end).unwrap_or_default();
        Skb::new(seg.seq, seg.flags, payload, layout, (seg.gso_size, seg.gso_segs))
    }

    /// A segment with a wrong checksum, long enough that only the socket found out. In ESTAB it counts as dropped there.
    pub(crate) fn on_damaged(&mut self, segments: u16, len: u32) {
        if matches!(self.state, State::TimeWait | State::Closed) {
            return;
        }
        let n = u32::from(segments.max(1));
        self.stats.segs_in = self.stats.segs_in.wrapping_add(n);
        if len > 0 {
            self.stats.data_segs_in = self.stats.data_segs_in.wrapping_add(n);
        }
        if self.state == State::Established {
            self.mem.sk_drops = self.mem.sk_drops.wrapping_add(n);
        }
    }

    /// A segment for this connection, whose payload is in that range of `frame`.
    pub(crate) fn on_segment(
        &mut self,
        cx: &mut Cx<'_>,
        seg: &TcpSegment,
        frame: &Bytes,
        payload: Range<usize>,
    ) {
        if self.state == State::TimeWait {
            // In Linux the application's socket is closed by now, and what comes is another's affair.
            self.rcv_time_wait(cx, seg);
            return;
        }
        self.stats.segs_in = self.stats.segs_in.wrapping_add(u32::from(seg.gso_segs.max(1)));
        if seg.payload_len() > 0 {
            self.stats.data_segs_in = self.stats.data_segs_in.wrapping_add(u32::from(seg.gso_segs.max(1)));
        }
        let mut skb = Self::build_skb(cx, seg, frame, payload);
        if self.owned {
            self.add_backlog(cx, &mut skb, seg);
        } else {
            self.process(cx, &mut skb, seg);
        }
        if skb.is_bare() {
            // The usual end, and then there is nothing to take apart.
            core::mem::forget(skb);
        }
    }

    /// A segment from the wire or from the backlog.
    #[inline(always)]
    pub(crate) fn process(&mut self, cx: &mut Cx<'_>, skb: &mut Skb, seg: &TcpSegment) {
        self.clock = cx.now;
        if self.state == State::Established {
            self.rcv_established(cx, skb, seg);
            return;
        }
        match self.state {
            State::SynSent => self.rcv_syn_sent(cx, seg),
            State::TimeWait => self.rcv_time_wait(cx, seg),
            State::Closed => {}
            _ => self.rcv_closing(cx, skb, seg),
        }
    }

    #[inline(always)]
    fn note_arrival(&self, cx: &mut Cx<'_>, skb: &Skb, predicted: bool) {
        let (seq, len, truesize, gso_size) = (skb.seq, skb.len, skb.truesize, skb.gso_size);
        self.decide(cx, move || Decision::Arrived { seq, len, truesize, gso_size, predicted });
    }

    /// `tcp_rcv_established`: the predicted header takes the short way.
    #[inline(always)]
    fn rcv_established(&mut self, cx: &mut Cx<'_>, skb: &mut Skb, seg: &TcpSegment) {
        let mut known = false;
        if self.predicted(cx, seg) {
            if seg.payload_len() == 0 {
                self.note_arrival(cx, skb, true);
                self.store_ts_if_current(cx, seg);
                self.rtt.last_tsecr = seg.options.timestamps.map_or(self.rtt.last_tsecr, |t| t.tsecr);
                let verdict = self.on_ack(cx, seg, true);
                self.challenge_ack(cx, verdict);
                self.push_pending(cx);
                return;
            }
            let beyond = cx.shared.profile.acceptance != Acceptance::StartInside
                && skb.end_seq.after(self.rcv_nxt + self.receive_window());
            if !beyond {
                if skb.truesize <= self.mem.sk_forward_alloc {
                    if self.take_predicted(cx, skb, seg) {
                        self.ack_check(cx, false);
                    }
                    self.signal_readable(cx);
                    return;
                }
                // Memory must be asked for, but the header is known to be acceptable.
                known = true;
            }
        }
        self.note_arrival(cx, skb, false);
        if !known {
            if !seg.flags.intersects(TcpFlags::ACK | TcpFlags::RST | TcpFlags::SYN) {
                self.drop_skb(cx, skb, DropReason::NoAckFlag);
                return;
            }
            if !self.validate(cx, skb, seg) {
                return;
            }
        }
        self.after_validation(cx, skb, seg);
    }

    #[inline(always)]
    fn predicted(&self, cx: &Cx<'_>, seg: &TcpSegment) -> bool {
        let Some(p) = self.pred else { return false };
        let old_ack = cx.shared.profile.predicted_ack == PredictedAck::NotBeyond;
        if seg.header_len != p.header_len
            || seg.window != p.window
            || seg.flags - TcpFlags::PSH != TcpFlags::ACK
            || seg.seq != self.rcv_nxt
            || seg.ack.after(self.snd.snd_nxt)
            || (!old_ack && seg.ack.before(self.snd.snd_una))
        {
            return false;
        }
        if p.header_len == 20 {
            return true;
        }
        match seg.options.timestamps {
            Some(ts) if seg.options.aligned_timestamps => {
                ts.tsval.wrapping_sub(self.opts.ts_recent) as i32 >= 0
            }
            _ => false,
        }
    }

    /// True if there may be something to acknowledge.
    #[inline(always)]
    fn take_predicted(&mut self, cx: &mut Cx<'_>, skb: &mut Skb, seg: &TcpSegment) -> bool {
        self.note_arrival(cx, skb, true);
        self.store_ts_if_current(cx, seg);
        self.measure_rtt_by_timestamp(cx, seg);
        cx.count(Counter::TcpExtTCPHPHits);
        let seen = self.queue_rcv(cx, skb);
        self.on_data(cx, &seen, seg);
        if seg.ack == self.snd.snd_una {
            self.snd.snd_wl1 = seg.seq;
            return true;
        }
        let verdict = self.on_ack(cx, seg, true);
        self.challenge_ack(cx, verdict);
        self.push_pending(cx);
        self.ack.flags.contains(super::AckFlags::SCHED)
    }

    #[inline(always)]
    fn after_validation(&mut self, cx: &mut Cx<'_>, skb: &mut Skb, seg: &TcpSegment) {
        match self.on_ack(cx, seg, false) {
            AckVerdict::New | AckVerdict::Old => {}
            verdict => {
                self.challenge_ack(cx, verdict);
                self.drop_skb(cx, skb, DropReason::AckUnsentData);
                return;
            }
        }
        self.measure_rtt_by_timestamp(cx, seg);
        if seg.flags.contains(TcpFlags::URG) {
            self.pred = None;
        }
        self.data_queue(cx, skb, seg);
        self.push_pending(cx);
        self.ack_check(cx, true);
    }

    /// Header prediction comes back when nothing unusual is pending (`tcp_fast_path_check`).
    #[inline(always)]
    pub(crate) fn fast_path_check(&mut self) {
        if self.ofo.is_empty() && self.win.rcv_wnd > 0 && self.mem.sk_rmem_alloc < self.mem.sk_rcvbuf {
            self.fast_path_on();
        }
    }

    #[inline(always)]
    pub(crate) fn fast_path_on(&mut self) {
        let window = (self.snd.snd_wnd >> self.opts.snd_wscale) as u16;
        self.pred = Some(Prediction { header_len: self.opts.header_len, window });
    }

    /// The peer's timestamp is remembered if the segment starts at or before what was acknowledged (RFC 7323 §4.3).
    #[inline(always)]
    fn store_ts_if_current(&mut self, cx: &Cx<'_>, seg: &TcpSegment) {
        if self.rcv_nxt == self.win.rcv_wup {
            self.store_ts_recent(cx, seg);
        }
    }

    #[inline(always)]
    pub(crate) fn store_ts_recent(&mut self, cx: &Cx<'_>, seg: &TcpSegment) {
        if let Some(ts) = seg.options.timestamps.filter(|_| self.opts.timestamps) {
            self.opts.ts_recent = ts.tsval;
            self.opts.ts_recent_stamp = cx.now.as_nanos() / 1_000_000_000;
        }
    }

    /// The slow path's rule: only a segment that is not ahead of the last ACK, and not older, moves ts_recent.
    #[inline(always)]
    pub(crate) fn replace_ts_recent(&mut self, cx: &Cx<'_>, seg: &TcpSegment) {
        let Some(ts) = seg.options.timestamps else { return };
        if !seg.seq.after(self.win.rcv_wup) && self.paws_ok(cx, ts.tsval, 0) {
            self.store_ts_recent(cx, seg);
        }
    }

    fn paws_ok(&self, cx: &Cx<'_>, tsval: u32, slack: i32) -> bool {
        let age = self.opts.ts_recent.wrapping_sub(tsval) as i32;
        age <= slack
            || (cx.now.as_nanos() / 1_000_000_000).saturating_sub(self.opts.ts_recent_stamp) >= PAWS_24_DAYS
            || self.opts.ts_recent == 0
    }

    /// An old timestamp on a pure ACK that repeats what is known: reordering, not an old incarnation.
    fn reordered_ack(&self, cx: &Cx<'_>, seg: &TcpSegment, tsval: u32) -> bool {
        let window = u32::from(seg.window) << self.opts.snd_wscale;
        let updates_window = seg.ack.after(self.snd.snd_una)
            || seg.seq.after(self.snd.snd_wl1)
            || (seg.seq == self.snd.snd_wl1 && (window > self.snd.snd_wnd || window == 0));
        let replay = self.rto_jiffies(cx).saturating_mul(1200) / u64::from(cx.shared.tick.hz());
        let age = i64::from(self.opts.ts_recent.wrapping_sub(tsval) as i32);
        seg.flags.contains(TcpFlags::ACK)
            && seg.seq_len() == 0
            && seg.seq == self.rcv_nxt
            && seg.ack == self.snd.snd_una
            && !updates_window
            && age <= replay as i64
    }

    /// Is the segment acceptable? If not, it has been answered as it must be (`tcp_validate_incoming`).
    fn validate(&mut self, cx: &mut Cx<'_>, skb: &Skb, seg: &TcpSegment) -> bool {
        let rst = seg.flags.contains(TcpFlags::RST);
        let syn = seg.flags.contains(TcpFlags::SYN);
        if self.opts.timestamps
            && let Some(ts) = seg.options.timestamps
            && !self.paws_ok(cx, ts.tsval, 1)
        {
            let old_ack = self.reordered_ack(cx, seg, ts.tsval);
            let overtaken =
                seg.flags.contains(TcpFlags::ACK) && seg.seq_len() == 0 && seg.seq.before(self.rcv_nxt);
            if overtaken && cx.shared.profile.paws_old_ack == PawsOldAck::Silent && !rst {
                cx.count(Counter::TcpExtPAWSOldAck);
                self.drop_skb(cx, skb, DropReason::PawsOldAck);
                return false;
            }
            if !old_ack && !rst {
                cx.count(Counter::TcpExtPAWSEstab);
                if syn {
                    return self.challenge_syn(cx, skb);
                }
                if !self.rate_limited(cx, Some(seg), Counter::TcpExtTCPACKSkippedPAWS) {
                    self.send_dupack(cx, seg, AckNow::OutOfWindow);
                }
                self.drop_skb(cx, skb, DropReason::Paws);
                return false;
            }
        }
        if let Err(reason) = self.acceptable(cx, skb) {
            if reason == DropReason::BeyondWindow && !rst && !syn {
                cx.count(Counter::TcpExtBeyondWindow);
            }
            if rst {
                if self.reset_matches_fin(seg) {
                    self.on_reset(cx);
                    self.note_drop(cx, DropReason::Reset, skb.seq, skb.len);
                    return false;
                }
            } else if syn {
                return self.challenge_syn(cx, skb);
            } else if !self.rate_limited(cx, Some(seg), Counter::TcpExtTCPACKSkippedSeq) {
                self.send_dupack(
                    cx,
                    seg,
                    if seg.payload_len() == 0 { AckNow::Probe } else { AckNow::OutOfWindow },
                );
            }
            self.drop_skb(cx, skb, reason);
            return false;
        }
        if rst {
            // RFC 5961 §3.2: only the exact next number resets; with SACK, also the end of what was reported.
            let sacked = self.sack.blocks.iter().map(|b| b.end).reduce(Seq::max);
            if seg.seq == self.rcv_nxt || self.reset_matches_fin(seg) || sacked == Some(seg.seq) {
                self.on_reset(cx);
                self.note_drop(cx, DropReason::Reset, skb.seq, skb.len);
            } else {
                self.send_challenge(cx);
                self.drop_skb(cx, skb, DropReason::Challenged);
            }
            return false;
        }
        if syn {
            return self.challenge_syn(cx, skb);
        }
        true
    }

    /// Answers an acknowledgement that cannot be (RFC 5961 §5.2), in ESTAB.
    fn challenge_ack(&mut self, cx: &mut Cx<'_>, verdict: AckVerdict) {
        let challenged = match verdict {
            AckVerdict::TooOld => true,
            AckVerdict::Future => cx.shared.profile.future_ack == FutureAck::Challenged,
            AckVerdict::New | AckVerdict::Old => false,
        };
        if challenged {
            self.send_challenge(cx);
        }
    }

    fn challenge_syn(&mut self, cx: &mut Cx<'_>, skb: &Skb) -> bool {
        if self.state == State::Established {
            cx.count(Counter::TcpInErrs);
        }
        cx.count(Counter::TcpExtTCPSYNChallenge);
        self.send_challenge(cx);
        self.drop_skb(cx, skb, DropReason::Challenged);
        false
    }

    /// Some stacks send the RST that follows their FIN one number early.
    fn reset_matches_fin(&self, seg: &TcpSegment) -> bool {
        seg.seq == self.rcv_nxt - 1
            && matches!(self.state, State::CloseWait | State::LastAck | State::Closing)
    }

    /// `tcp_sequence`.
    fn acceptable(&self, cx: &Cx<'_>, skb: &Skb) -> Result<(), DropReason> {
        if skb.end_seq.before(self.win.rcv_wup) {
            return Err(DropReason::BadSequence);
        }
        let limit = match cx.shared.profile.acceptance {
            Acceptance::StartInside => {
                let edge = self.rcv_nxt + self.receive_window();
                return if skb.seq.after(edge) { Err(DropReason::BadSequence) } else { Ok(()) };
            }
            Acceptance::WholeInside => self.rcv_nxt + self.receive_window(),
            Acceptance::FurthestEdge => self.rcv_nxt + self.furthest_window(),
        };
        if !skb.end_seq.after(limit) {
            return Ok(());
        }
        let without_fin = skb.end_seq - u32::from(skb.flags.contains(TcpFlags::FIN));
        if skb.flags.contains(TcpFlags::FIN) && !without_fin.after(limit) {
            return Ok(());
        }
        if skb.seq.after(limit) || !self.queue.is_empty() {
            return Err(DropReason::BeyondWindow);
        }
        Ok(())
    }

    /// The closing states (`tcp_rcv_state_process`).
    fn rcv_closing(&mut self, cx: &mut Cx<'_>, skb: &mut Skb, seg: &TcpSegment) {
        self.note_arrival(cx, skb, false);
        if !seg.flags.intersects(TcpFlags::ACK | TcpFlags::RST | TcpFlags::SYN) {
            self.drop_skb(cx, skb, DropReason::NoAckFlag);
            return;
        }
        if !self.validate(cx, skb, seg) {
            return;
        }
        match self.on_ack(cx, seg, false) {
            AckVerdict::New | AckVerdict::Old => {}
            AckVerdict::TooOld | AckVerdict::Future => {
                self.send_challenge(cx);
                self.drop_skb(cx, skb, DropReason::AckUnsentData);
                return;
            }
        }
        if self.snd.fin_acked() {
            match self.state {
                State::FinWait1 => {
                    self.set_state(cx, State::FinWait2);
                    self.snd_shutdown = true;
                    // A FIN ends the wait at once, and new data ends the connection: see below.
                    let fin = seg.flags.contains(TcpFlags::FIN);
                    if self.orphan && !fin && !(skb.len > 0 && skb.end_seq.after(self.rcv_nxt)) {
                        self.start_fin_timeout(cx);
                    }
                }
                State::Closing => {
                    self.enter_time_wait(cx);
                    return;
                }
                State::LastAck => {
                    self.done(cx);
                    return;
                }
                _ => {}
            }
        }
        let nothing_can_follow = matches!(self.state, State::CloseWait | State::Closing | State::LastAck)
            && !seg.seq.before(self.rcv_nxt);
        if nothing_can_follow {
            self.finish_closing(cx);
            self.drop_skb(cx, skb, DropReason::AfterClose);
            return;
        }
        let fin = u32::from(seg.flags.contains(TcpFlags::FIN));
        if self.rcv_shutdown && seg.seq_len() > 0 && (skb.end_seq - fin).after(self.rcv_nxt) {
            // New data for a reader that is gone or behind the peer's own FIN: the answer is a RST, as to a segment
            // for nobody (RFC 1122 §4.2.2.13).
            // While the peer's FIN is waited for in place of the socket, there is no connection to abort.
            if self.timer(super::Timer::Linger).is_none() {
                cx.count(Counter::TcpExtTCPAbortOnData);
            }
            self.note_drop(cx, DropReason::AfterClose, skb.seq, skb.len);
            self.on_reset(cx);
            cx.shared.reset(cx.now, seg);
            return;
        }
        self.data_queue(cx, skb, seg);
        self.finish_closing(cx);
    }

    fn finish_closing(&mut self, cx: &mut Cx<'_>) {
        if !matches!(self.state, State::Closed | State::TimeWait) {
            self.push_pending(cx);
            self.ack_check(cx, true);
        }
    }

    /// The reader lets go of the socket: what arrived meanwhile is processed (`release_sock`).
    pub(crate) fn release(&mut self, cx: &mut Cx<'_>) {
        if !self.owned {
            return;
        }
        while let Some((mut skb, seg)) = self.backlog.pop_front() {
            // The backlog's length stays charged against the window until all of it is through.
            self.process(cx, &mut skb, &seg);
        }
        self.mem.backlog_len = 0;
        self.owned = false;
        if self.timer(super::Timer::DelayedAck).is_none() && self.ack.flags.contains(super::AckFlags::TIMER) {
            self.ack.flags -= super::AckFlags::TIMER;
        }
        self.release_deferred_ack(cx);
    }

    /// Data that came with the ACK that completed the handshake.
    pub(crate) fn data_after_handshake(&mut self, cx: &mut Cx<'_>, seg: &TcpSegment) {
        // The SYN was counted by nobody yet: the connection begins with one segment received.
        self.stats.segs_in = 1 + u32::from(seg.gso_segs.max(1));
        if seg.payload_len() > 0 {
            self.stats.data_segs_in = u32::from(seg.gso_segs.max(1));
        }
        let skb = &mut Self::build_skb(cx, seg, &seg.payload, 0..seg.payload.len());
        if skb.seq == skb.end_seq {
            return;
        }
        self.note_arrival(cx, skb, false);
        self.data_queue(cx, skb, seg);
        self.push_pending(cx);
        self.ack_check(cx, true);
    }
}
