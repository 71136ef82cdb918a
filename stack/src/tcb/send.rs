//! The little sending a receiver does: requests, FIN, retransmission, the peer's window, zero-window probes.
//!
//! It obeys the peer (RFC 9293 §3.8, RFC 6298) and charges memory as Linux does, so that sk_forward_alloc agrees; it is
//! not a model of Linux' congestion control. Slow start and one reduction per loss keep it polite (RFC 5681).

use std::collections::VecDeque;

use bytes::Bytes;

use super::{Cx, State, Tcb, Timer};
use crate::{
    counters::Counter,
    decision::Decision,
    nic,
    time::{Duration, Instant},
    units::Seq,
    window::RawChoice,
    wire::{OutOptions, SegmentOut, TcpFlags, TcpSegment, Timestamps},
};

/// One queued segment of this side.
#[derive(Clone, Debug)]
pub(crate) struct TxSegment {
    seq: Seq,
    payload: Bytes,
    fin: bool,
    /// The last piece of a write: the peer should hand it over at once.
    push: bool,
    truesize: i32,
    sent_at: Option<Instant>,
    retransmitted: bool,
}

/// What an acknowledgement is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AckVerdict {
    /// At least what was known.
    New,
    /// Less than was known.
    Old,
    /// Less than can be explained by reordering.
    TooOld,
    /// More than was sent.
    Future,
}

impl TxSegment {
    fn end(&self) -> Seq {
        self.seq + self.payload.len() as u32 + u32::from(self.fin)
    }
}

/// The send half. Names as in `struct tcp_sock`.
#[derive(Clone, Debug)]
pub(crate) struct SendState {
    pub(crate) iss: Seq,
    /// When the first SYN went out.
    pub(crate) syn_sent_at: Option<Instant>,
    pub(crate) snd_una: Seq,
    pub(crate) snd_nxt: Seq,
    pub(crate) snd_wnd: u32,
    pub(crate) max_window: u32,
    pub(crate) snd_wl1: Seq,
    pub(crate) mss_cache: u32,
    pub(crate) mss_clamp: u32,
    /// Behind the last segment that was sent short of a full one.
    short_end: Seq,
    pub(crate) queue: VecDeque<TxSegment>,
    /// First segment of `queue` that was not sent yet.
    unsent: usize,
    pub(crate) fin_queued: bool,
    pub(crate) nodelay: bool,
    cwnd: u32,
    ssthresh: u32,
    /// Segments acknowledged since cwnd last grew beyond ssthresh.
    cwnd_credit: u32,
    /// What was sent when a loss was noticed: up to there each partial ACK shows another hole (RFC 6582).
    recover: Option<Seq>,
    dup_acks: u8,
    pub(crate) backoff: u8,
    /// Probes of a closed window that were not answered.
    probes: u8,
    /// Doublings of the time between probes: an answer that keeps the window closed does not end them.
    probe_backoff: u8,
    /// A write was cut short: the application wants to know when there is room.
    blocked: bool,
    first_failure: Option<Instant>,
    /// Smoothed round trip, µs times eight; 0 for none.
    pub(crate) srtt_us8: u32,
    mdev_us4: u32,
    rttvar_us4: u32,
    pub(crate) rto_us: u64,
    pub(crate) rto_min_us: u64,
}

/// Initial and largest retransmission timeouts (RFC 6298 §2).
const RTO_INIT_US: u64 = 1_000_000;
const RTO_MAX_US: u64 = 120_000_000;

impl SendState {
    /// Segments that the first congestion window is taken to hold, for sizing the send buffer.
    pub(crate) fn initial_segments(&self) -> u32 {
        self.cwnd.max(10)
    }

    pub(crate) fn new(iss: Seq, rto_min_us: u64, cwnd: u32) -> Self {
        SendState {
            iss,
            syn_sent_at: None,
            snd_una: iss,
            snd_nxt: iss,
            short_end: iss,
            snd_wnd: 0,
            max_window: 0,
            snd_wl1: Seq(0),
            mss_cache: 536,
            mss_clamp: 536,
            queue: VecDeque::new(),
            unsent: 0,
            fin_queued: false,
            nodelay: false,
            cwnd,
            ssthresh: u32::MAX,
            cwnd_credit: 0,
            recover: None,
            dup_acks: 0,
            backoff: 0,
            probes: 0,
            probe_backoff: 0,
            blocked: false,
            first_failure: None,
            srtt_us8: 0,
            mdev_us4: 0,
            rttvar_us4: 0,
            rto_us: RTO_INIT_US,
            rto_min_us,
        }
    }

    /// A round-trip sample (RFC 6298 with Linux' floor under the variance).
    pub(crate) fn rtt_sample(&mut self, us: u64) {
        let us = us.clamp(1, 60_000_000) as i64;
        if self.srtt_us8 == 0 {
            self.srtt_us8 = (us << 3) as u32;
            self.mdev_us4 = (us << 1) as u32;
            self.rttvar_us4 = self.mdev_us4.max(self.rto_min_us as u32);
        } else {
            let error = us - i64::from(self.srtt_us8 >> 3);
            self.srtt_us8 = (i64::from(self.srtt_us8) + error).max(1) as u32;
            let deviation = error.abs() - i64::from(self.mdev_us4 >> 2);
            self.mdev_us4 = (i64::from(self.mdev_us4) + deviation).max(1) as u32;
            self.rttvar_us4 = self.mdev_us4.max(self.rto_min_us as u32);
        }
        self.rto_us = (u64::from(self.srtt_us8 >> 3) + u64::from(self.rttvar_us4)).min(RTO_MAX_US);
    }

    fn in_flight(&self) -> u32 {
        self.snd_nxt.since(self.snd_una).max(0).unsigned_abs()
    }

    pub(crate) fn fin_acked(&self) -> bool {
        self.fin_queued && self.queue.is_empty() && self.snd_una == self.snd_nxt
    }

    pub(crate) fn queued_truesize(&self) -> i64 {
        self.queue.iter().map(|s| i64::from(s.truesize)).sum()
    }

    fn window_end(&self) -> Seq {
        self.snd_una + self.snd_wnd
    }
}

impl Tcb {
    pub(crate) fn rto_jiffies(&self, cx: &Cx<'_>) -> u64 {
        cx.shared.tick.from_micros(self.snd.rto_us)
    }

    /// The clock in our timestamps: milliseconds with a per-connection offset.
    pub(crate) fn timestamp(&self, cx: &Cx<'_>) -> u32 {
        (cx.now.as_millis() as u32).wrapping_add(self.opts.ts_offset)
    }

    /// The segment size that the path, the peer and its largest window allow.
    pub(crate) fn sync_mss(&mut self, mtu: u32) {
        let ip = if self.local.is_ipv4() { 20 } else { 40 };
        let mut mss = mtu.saturating_sub(ip + 20).min(self.snd.mss_clamp).max(48);
        mss = mss.saturating_sub(u32::from(self.opts.header_len) - 20);
        let largest = self.snd.max_window;
        if largest > 0 {
            let cutoff = if largest > 536 { largest >> 1 } else { largest };
            if mss > cutoff {
                mss = cutoff.max(68 - u32::from(self.opts.header_len));
            }
        }
        self.snd.mss_cache = mss.max(1);
    }

    /// Sequence number for a segment without data: the next one, or the window's end if the peer took it back.
    #[inline(always)]
    pub(crate) fn acceptable_seq(&self) -> Seq {
        let end = self.snd.window_end();
        let slack = self.snd.snd_nxt.since(end);
        if !end.before(self.snd.snd_nxt)
            || (self.opts.wscale && slack >= 0 && slack.unsigned_abs() < 1 << self.win.rcv_wscale)
        {
            self.snd.snd_nxt
        } else {
            end
        }
    }

    /// Queues application data. Returns how much was taken.
    pub(crate) fn queue_data(&mut self, cx: &mut Cx<'_>, data: &Bytes) -> usize {
        let mut taken = 0;
        let mss = self.snd.mss_cache as usize;
        let (_, head) = nic::slab_head(&cx.shared.profile, cx.shared.profile.build.max_tcp_header());
        while taken < data.len() && self.mem.sk_wmem_queued < self.mem.sk_sndbuf {
            let left = data.len() - taken;
            // Small writes share a segment while it waits.
            let room = match self.snd.queue.back() {
                Some(last) if self.snd.unsent < self.snd.queue.len() => {
                    mss.saturating_sub(last.payload.len())
                }
                _ => 0,
            };
            let n = if room > 0 { room } else { mss }.min(left);
            // The pieces of one write share a head: Linux cuts only what it sends.
            let own_head = room == 0 && taken == 0;
            let truesize = if own_head { head as usize } else { 0 }.saturating_add(n).min(1 << 24) as i32;
            if self.snd.queue.is_empty() {
                // The first segment always finds memory, or nobody would ever say that there is some again.
                self.mem.schedule_forced(&mut cx.mem(), truesize);
            } else if !self.schedule(cx, truesize) {
                break;
            }
            self.mem.charge_send(truesize);
            let piece = data.slice(taken..taken + n);
            taken += n;
            if room > 0
                && let Some(last) = self.snd.queue.back_mut()
            {
                last.payload = [&last.payload[..], &piece[..]].concat().into();
                last.push |= taken == data.len();
                last.truesize += truesize;
                continue;
            }
            let seq = self.snd.queue.back().map_or(self.snd.snd_nxt, TxSegment::end);
            self.snd.queue.push_back(TxSegment {
                seq,
                payload: piece,
                fin: false,
                push: taken == data.len(),
                truesize,
                sent_at: None,
                retransmitted: false,
            });
        }
        self.snd.blocked |= taken < data.len();
        self.push_pending(cx);
        taken
    }

    /// Queues a FIN: on the last unsent segment if there is one, else on its own.
    pub(crate) fn queue_fin(&mut self, cx: &mut Cx<'_>) {
        if self.snd.fin_queued {
            return;
        }
        self.snd.fin_queued = true;
        if self.snd.unsent < self.snd.queue.len()
            && let Some(last) = self.snd.queue.back_mut()
        {
            last.fin = true;
        } else {
            let (_, head) = nic::slab_head(&cx.shared.profile, cx.shared.profile.build.max_tcp_header());
            self.mem.schedule_forced(&mut cx.mem(), head as i32);
            self.mem.charge_send(head as i32);
            let seq = self.snd.queue.back().map_or(self.snd.snd_nxt, TxSegment::end);
            self.snd.queue.push_back(TxSegment {
                seq,
                payload: Bytes::new(),
                fin: true,
                push: false,
                truesize: head as i32,
                sent_at: None,
                retransmitted: false,
            });
        }
        self.push_pending(cx);
    }

    /// Sends what the peer's window, Nagle and slow start allow.
    #[inline(always)]
    pub(crate) fn push_pending(&mut self, cx: &mut Cx<'_>) {
        while let Some(next) = self.snd.queue.get(self.snd.unsent) {
            let (end, len, fin) = (next.end(), next.payload.len() as u32, next.fin);
            let only_fin = len == 0 && fin;
            let fits = !end.after(self.snd.window_end()) || (only_fin && self.snd.snd_wnd > 0);
            if !fits || self.snd.in_flight() >= self.snd.cwnd.saturating_mul(self.snd.mss_cache) {
                break;
            }
            let last = self.snd.unsent + 1 == self.snd.queue.len();
            let partial = len < self.snd.mss_cache && !fin;
            if partial
                && last
                && !self.snd.nodelay
                && self.snd.in_flight() > 0
                && self.snd.short_end.after(self.snd.snd_una)
            {
                break;
            }
            if partial {
                self.snd.short_end = end;
            }
            self.send_segment(cx, self.snd.unsent);
            self.snd.unsent += 1;
        }
        self.rearm(cx);
    }

    fn send_segment(&mut self, cx: &mut Cx<'_>, index: usize) {
        let now = cx.now;
        self.clock = now;
        let Some(s) = self.snd.queue.get_mut(index) else { return };
        let again = s.sent_at.is_some();
        s.retransmitted |= again;
        s.sent_at = Some(now);
        let (seq, payload, fin, push, end) = (s.seq, s.payload.clone(), s.fin, s.push, s.end());
        let mut flags = TcpFlags::ACK;
        if fin {
            flags |= TcpFlags::FIN;
        }
        if push {
            flags |= TcpFlags::PSH;
        }
        if !payload.is_empty() {
            self.stats.data_segs_out = self.stats.data_segs_out.wrapping_add(1);
            self.stats.bytes_sent += payload.len() as u64;
        }
        self.snd.snd_nxt = self.snd.snd_nxt.max(end);
        self.put_on_wire(cx, seq, flags, std::slice::from_ref(&payload));
        if !again {
            cx.count(Counter::TcpOutSegs);
        }
    }

    /// Sends a segment that is no retransmission.
    pub(crate) fn transmit(&mut self, cx: &mut Cx<'_>, seq: Seq, flags: TcpFlags, payload: &[Bytes]) {
        self.put_on_wire(cx, seq, flags, payload);
        cx.count(Counter::TcpOutSegs);
    }

    /// Sends an ACK and nothing else, with the window that was `chosen` just now, if one was.
    #[inline(always)]
    pub(crate) fn transmit_ack(&mut self, cx: &mut Cx<'_>, chosen: Option<RawChoice>) {
        let seq = self.acceptable_seq();
        let id = cx.shared.log.begin_tx();
        let window = self.commit_window(cx, chosen);
        match &self.ack_form {
            Some(form) if self.sack.blocks.is_empty() && self.sack.duplicate.is_none() => {
                let (now, dst) = (cx.now, self.remote.ip());
                let iface = &mut cx.shared.iface;
                if self.opts.timestamps {
                    let tsval = (now.as_millis() as u32).wrapping_add(self.opts.ts_offset);
                    let ts = Timestamps { tsval, tsecr: self.opts.ts_recent };
                    iface.send_words(now, dst, &form.stamped(seq, self.rcv_nxt, window, ts), id);
                } else {
                    iface.send_words(now, dst, &form.plain(seq, self.rcv_nxt, window), id);
                }
            }
            _ => self.build(cx, id, seq, TcpFlags::ACK, window, &[]),
        }
        self.sent(cx, true);
        cx.count(Counter::TcpOutSegs);
    }

    /// Builds one segment with the window of this moment and hands it to the interface (`__tcp_transmit_skb`).
    fn put_on_wire(&mut self, cx: &mut Cx<'_>, seq: Seq, flags: TcpFlags, payload: &[Bytes]) {
        let id = cx.shared.log.begin_tx();
        let window = if flags.contains(TcpFlags::SYN) {
            self.win.rcv_wnd.min(crate::window::MAX_FIELD) as u16
        } else {
            self.commit_window(cx, None)
        };
        self.build(cx, id, seq, flags, window, payload);
        self.sent(cx, flags.contains(TcpFlags::ACK));
        if payload.iter().any(|piece| !piece.is_empty()) {
            // Data that answers data within the ATO: the application talks back and forth.
            let gap = cx.jiffies().saturating_sub(self.ack.lrcvtime);
            if gap < u64::from(self.ack.ato) {
                self.ack.pingpong = self.ack.pingpong.saturating_add(1);
            }
        }
    }

    fn build(&mut self, cx: &mut Cx<'_>, id: u64, seq: Seq, flags: TcpFlags, window: u16, payload: &[Bytes]) {
        let mut out = SegmentOut::new(self.local, self.remote);
        out.seq = seq;
        out.flags = flags;
        out.window = window;
        out.payload = payload;
        if flags.contains(TcpFlags::ACK) {
            out.ack = self.rcv_nxt;
        }
        let syn = flags.contains(TcpFlags::SYN);
        out.options = if syn { self.syn_options(cx) } else { self.options(cx) };
        if !out.options.sack.is_empty() {
            self.sack.duplicate = None;
        }
        cx.shared.emit(cx.now, &out, id);
    }

    /// A segment left, one with the ACK flag if `ack`.
    #[inline]
    fn sent(&mut self, cx: &mut Cx<'_>, ack: bool) {
        cx.shared.log.end_tx();
        if self.state != State::TimeWait {
            self.stats.segs_out = self.stats.segs_out.wrapping_add(1);
        }
        if ack {
            self.on_ack_sent(cx);
        }
    }

    fn options(&self, cx: &Cx<'_>) -> OutOptions {
        let mut o = OutOptions::default();
        if self.opts.timestamps {
            o.timestamps = Some(Timestamps { tsval: self.timestamp(cx), tsecr: self.opts.ts_recent });
        }
        if self.opts.sack {
            o.sack = self.sack_blocks(o.sack_room());
        }
        o
    }

    fn syn_options(&self, cx: &Cx<'_>) -> OutOptions {
        let s = &cx.shared.sysctl;
        OutOptions {
            mss: Some(self.advmss.min(65_535) as u16),
            wscale: s.tcp_window_scaling.then_some(self.win.rcv_wscale),
            sack_permitted: s.tcp_sack,
            timestamps: s
                .tcp_timestamps
                .then(|| Timestamps { tsval: self.timestamp(cx), tsecr: self.opts.ts_recent }),
            ..OutOptions::default()
        }
    }

    /// What a segment acknowledges, and the window it offers us (`tcp_ack`).
    #[inline(always)]
    pub(crate) fn on_ack(&mut self, cx: &mut Cx<'_>, seg: &TcpSegment, pure: bool) -> AckVerdict {
        if !seg.flags.contains(TcpFlags::ACK) {
            return AckVerdict::New;
        }
        if seg.ack.before(self.snd.snd_una) {
            // Nobody can acknowledge what was never sent: the window counts only as far as that (RFC 5961 §5.2).
            let sent = u32::try_from(self.stats.bytes_acked).unwrap_or(u32::MAX);
            if seg.ack.before(self.snd.snd_una - self.snd.max_window.min(sent)) {
                return AckVerdict::TooOld;
            }
            return AckVerdict::Old;
        }
        if seg.ack.after(self.snd.snd_nxt) {
            return AckVerdict::Future;
        }
        self.replace_ts_recent(cx, seg);
        let window_moved = self.update_peer_window(cx, seg);
        if pure {
            cx.count(if seg.ack.after(self.snd.snd_una) {
                Counter::TcpExtTCPHPAcks
            } else {
                Counter::TcpExtTCPPureAcks
            });
        } else if seg.seq_len() == 0 {
            cx.count(Counter::TcpExtTCPPureAcks);
        }
        self.snd.probes = 0;
        if seg.ack.after(self.snd.snd_una) {
            self.acked(cx, seg);
        } else if seg.seq_len() == 0 && !window_moved && self.snd.in_flight() > 0 {
            self.duplicate_ack(cx);
        }
        self.rearm(cx);
        AckVerdict::New
    }

    /// True if the window is another one now.
    #[inline(always)]
    fn update_peer_window(&mut self, cx: &Cx<'_>, seg: &TcpSegment) -> bool {
        let scale = if seg.flags.contains(TcpFlags::SYN) { 0 } else { self.opts.snd_wscale };
        let window = u32::from(seg.window) << scale;
        let newer = seg.ack.after(self.snd.snd_una)
            || seg.seq.after(self.snd.snd_wl1)
            || (seg.seq == self.snd.snd_wl1 && (window > self.snd.snd_wnd || window == 0));
        if !newer {
            return false;
        }
        self.snd.snd_wl1 = seg.seq;
        let moved = self.snd.snd_wnd != window;
        if moved {
            if window > self.snd.snd_wnd {
                self.snd.probe_backoff = 0;
            }
            self.snd.snd_wnd = window;
            if window > self.snd.max_window {
                // Half of the largest window bounds a segment.
                self.snd.max_window = window;
                self.sync_mss(cx.shared.mtu);
            }
            self.pred = None;
            self.fast_path_check();
        }
        moved
    }

    fn acked(&mut self, cx: &mut Cx<'_>, seg: &TcpSegment) {
        let mut sample = None;
        while let Some(first) = self.snd.queue.front() {
            if first.end().after(seg.ack) || self.snd.unsent == 0 {
                break;
            }
            if let (Some(at), false) = (first.sent_at, first.retransmitted) {
                sample = Some(cx.now.since(at).as_micros());
            }
            let truesize = first.truesize;
            self.snd.queue.pop_front();
            self.snd.unsent -= 1;
            self.mem.refund_send(&mut cx.mem(), truesize);
            self.grow_cwnd();
        }
        // SYN and FIN count like bytes (`tcp_snd_una_update`).
        self.stats.bytes_acked += u64::from(seg.ack.since(self.snd.snd_una).max(0).unsigned_abs());
        self.snd.snd_una = seg.ack;
        if let Some(us) = sample {
            self.snd.rtt_sample(us);
        }
        self.snd.dup_acks = 0;
        self.snd.backoff = 0;
        self.snd.first_failure = None;
        self.set_timer(Timer::Retransmit, None);
        if let Some(recover) = self.snd.recover {
            if self.snd.snd_una.before(recover) {
                self.retransmit_first(cx);
            } else {
                self.snd.recover = None;
            }
        }
        if self.snd.blocked && self.mem.sk_wmem_queued < self.mem.sk_sndbuf && !self.orphan {
            self.snd.blocked = false;
            cx.shared.events.push_back(crate::Event::Writable(self.id));
        }
    }

    /// One segment was acknowledged: slow start, or one more for each window (RFC 5681 §3.1).
    fn grow_cwnd(&mut self) {
        if self.snd.cwnd < self.snd.ssthresh {
            self.snd.cwnd = self.snd.cwnd.saturating_add(1);
            return;
        }
        self.snd.cwnd_credit += 1;
        if self.snd.cwnd_credit >= self.snd.cwnd {
            self.snd.cwnd_credit = 0;
            self.snd.cwnd = self.snd.cwnd.saturating_add(1);
        }
    }

    fn duplicate_ack(&mut self, cx: &mut Cx<'_>) {
        self.snd.dup_acks = self.snd.dup_acks.saturating_add(1);
        if self.snd.dup_acks == 3 && self.snd.recover.is_none() {
            self.snd.recover = Some(self.snd.snd_nxt);
            cx.count(Counter::TcpExtTCPFastRetrans);
            self.snd.ssthresh = (self.snd.cwnd / 2).max(2);
            self.snd.cwnd = self.snd.ssthresh;
            self.retransmit_first(cx);
        }
    }

    fn retransmit_first(&mut self, cx: &mut Cx<'_>) {
        if self.snd.unsent == 0 {
            return;
        }
        let backoff = self.snd.backoff;
        if let Some(s) = self.snd.queue.front() {
            let (seq, len) = (s.seq, s.payload.len() as u32);
            self.decide(cx, move || Decision::Retransmitted { seq, len, backoff });
        }
        cx.count(Counter::TcpRetransSegs);
        self.stats.total_retrans = self.stats.total_retrans.wrapping_add(1);
        self.send_segment(cx, 0);
    }

    /// Arms the retransmission or probe timer if something waits for the peer.
    #[inline(always)]
    pub(crate) fn rearm(&mut self, cx: &Cx<'_>) {
        let waits = self.state == State::SynSent || !self.snd.queue.is_empty();
        if !waits || matches!(self.state, State::Closed | State::TimeWait) {
            self.set_timer(Timer::Retransmit, None);
            return;
        }
        if self.timer(Timer::Retransmit).is_none() {
            let backoff = self.snd.backoff.max(self.snd.probe_backoff).min(30);
            // Whole ticks, doubled as such, then the wheel, as for every timer of the kernel.
            let hz = u64::from(cx.shared.tick.hz());
            let in_ticks = |us: u64| us.saturating_mul(hz).div_ceil(1_000_000);
            let ticks = in_ticks(self.snd.rto_us).saturating_mul(1 << backoff).min(in_ticks(RTO_MAX_US));
            let due = cx.shared.timer_instant(cx.now, cx.jiffies() + ticks);
            self.set_timer(Timer::Retransmit, Some(due));
        }
    }

    /// The retransmission timer fired: something was not acknowledged, or the peer's window is closed.
    pub(crate) fn on_retransmit_timer(&mut self, cx: &mut Cx<'_>) {
        self.set_timer(Timer::Retransmit, None);
        let first = *self.snd.first_failure.get_or_insert(cx.now);
        let retries = match self.state {
            State::SynSent => cx.shared.sysctl.tcp_syn_retries,
            _ => cx.shared.sysctl.tcp_retries2,
        };
        let tries = self.snd.backoff.max(self.snd.probes);
        let gone = cx.now.since(first);
        if tries >= retries
            && (self.state == State::SynSent || gone >= Duration::from_secs(u64::from(retries)))
        {
            if self.snd.unsent > 0 || self.state == State::SynSent {
                cx.count(Counter::TcpExtTCPTimeouts);
            }
            cx.count(Counter::TcpExtTCPAbortOnTimeout);
            self.fail(cx, crate::SocketError::TimedOut);
            return;
        }
        if self.state == State::SynSent {
            self.snd.backoff = self.snd.backoff.saturating_add(1);
            cx.count(Counter::TcpExtTCPTimeouts);
            cx.count(Counter::TcpRetransSegs);
            self.send_syn(cx);
        } else if self.snd.unsent == 0 {
            self.snd.probes = self.snd.probes.saturating_add(1);
            self.snd.probe_backoff = self.snd.probe_backoff.saturating_add(1);
            if self.snd.window_end().after(self.snd.snd_nxt) {
                self.send_what_fits(cx);
            } else {
                // Everything sent is acknowledged and the window is closed: an old number draws an answer.
                let seq = self.snd.snd_una - 1;
                self.transmit(cx, seq, TcpFlags::ACK, &[]);
            }
        } else {
            self.snd.backoff = self.snd.backoff.saturating_add(1);
            self.snd.ssthresh = (self.snd.cwnd / 2).max(2);
            self.snd.cwnd = 1;
            self.snd.recover = Some(self.snd.snd_nxt);
            cx.count(Counter::TcpExtTCPTimeouts);
            cx.count(Counter::TcpExtTcpTimeoutRehash);
            self.retransmit_first(cx);
        }
        self.rearm(cx);
    }

    /// The window has stayed open by less than a segment: what fits goes out (RFC 9293 §3.8.6.2.1, the override).
    fn send_what_fits(&mut self, cx: &mut Cx<'_>) {
        let room = self.snd.window_end().since(self.snd.snd_nxt).max(0).unsigned_abs() as usize;
        let Some(first) = self.snd.queue.get_mut(self.snd.unsent) else { return };
        if room < first.payload.len() {
            let (_, head) = nic::slab_head(&cx.shared.profile, cx.shared.profile.build.max_tcp_header());
            let rest = first.payload.split_off(room);
            let moved = rest.len().min(1 << 24) as i32;
            let back = TxSegment {
                seq: first.seq + room as u32,
                payload: rest,
                fin: core::mem::take(&mut first.fin),
                push: core::mem::take(&mut first.push),
                truesize: head as i32 + moved,
                sent_at: None,
                retransmitted: false,
            };
            first.truesize -= moved;
            self.snd.queue.insert(self.snd.unsent + 1, back);
            self.mem.schedule_forced(&mut cx.mem(), head as i32);
            self.mem.charge_send(head as i32);
        }
        self.send_segment(cx, self.snd.unsent);
        self.snd.unsent += 1;
    }

    /// Gives the memory of everything unsent or unacknowledged back.
    pub(crate) fn purge_send(&mut self, cx: &mut Cx<'_>) {
        for s in core::mem::take(&mut self.snd.queue) {
            self.mem.refund_send(&mut cx.mem(), s.truesize);
        }
        self.snd.unsent = 0;
        self.set_timer(Timer::Retransmit, None);
    }
}
