//! What the model sends: new data, retransmissions, probes, handshake and answers; and its timers.

use bytes::Bytes;

use rightedge_stack::time::Instant;

use super::queue::{Sent, packets};
use super::wire::{self, Out, flag};
use super::{CaState, Congestion, Frto, ModelSender, ModelState, Timer, silence_limit};
use crate::sender::{PATTERN_CHUNK, Role, pattern};

/// Answers waiting to be sent; more than this means the caller does not drain them.
const MAX_CONTROL: usize = 64;

impl ModelSender {
    /// New data, or the FIN, if window, congestion window and Nagle's rule let it go.
    pub(super) fn next_new(&mut self, now: Instant) -> Option<(Bytes, u16)> {
        let unsent = self.write_seq.saturating_sub(self.snd_nxt);
        if unsent == 0 {
            return self.next_fin(now);
        }
        let mss = self.effective_mss();
        self.restart_after_idle(now);
        let quota = self.cwnd.saturating_sub(self.queue.in_flight());
        if quota == 0 {
            self.note_usage(true);
            return None;
        }
        let room = self.edge().saturating_sub(self.snd_nxt);
        let first = unsent.min(u64::from(mss));
        if room < first || (first < u64::from(mss) && self.nagle_holds()) {
            return None;
        }
        let len = self.burst(unsent, room, mss, quota);
        let start = self.snd_nxt;
        let was_empty = self.queue.is_empty();
        self.snd_nxt += u64::from(len);
        if !len.is_multiple_of(mss) {
            self.snd_sml = self.snd_nxt;
        }
        self.queue.push(Sent::new(start, len, packets(len, mss), now, false));
        self.count.sent += u64::from(len);
        self.last_sent = now;
        self.note_usage(false);
        if was_empty || !matches!(self.timer, Timer::Rto(_)) {
            self.arm_rto(now);
        }
        Some(self.data_frame(now, start, len, false, mss))
    }

    /// How many bytes go into one frame: one segment, or a super-segment of whole segments.
    fn burst(&self, unsent: u64, room: u64, mss: u32, quota: u32) -> u32 {
        let most = match self.cfg.gso_max {
            0 => mss,
            n => n.min(MAX_PAYLOAD).max(mss),
        };
        let by_cwnd = u64::from(mss) * u64::from(quota);
        // At most `most`, which is 32 bits.
        let take = unsent.min(room).min(by_cwnd).min(u64::from(most)) as u32;
        let tail = take % mss;
        let cut = u64::from(take) < unsent;
        // A tail that only a limit has made short waits for its rest, and so does one that Nagle holds back.
        let drop_tail = tail != 0 && take > mss && (cut && !self.cfg.app.nodelay || self.nagle_holds());
        if drop_tail { take - tail } else { take }
    }

    fn next_fin(&mut self, now: Instant) -> Option<(Bytes, u16)> {
        let fin_at = self.write_seq;
        if !self.fin_queued || self.snd_nxt != fin_at || self.edge() <= fin_at {
            return None;
        }
        self.snd_nxt += 1;
        self.queue.push(Sent::new(fin_at, 1, 1, now, true));
        if !matches!(self.timer, Timer::Rto(_)) {
            self.arm_rto(now);
        }
        Some(self.data_frame(now, fin_at, 0, true, 1))
    }

    /// The next retransmission, if one is due and allowed.
    pub(super) fn next_retransmit(&mut self, now: Instant) -> Option<(Bytes, u16)> {
        let force = core::mem::take(&mut self.force_retransmit);
        if !force && self.queue.in_flight() >= self.cwnd {
            return None;
        }
        if self.frto == Frto::Trying && !force {
            return None;
        }
        let (index, start) = match self.queue.next_lost() {
            Some((i, s)) => (i, s.start),
            None if force => (0, self.queue.head()?.start),
            None => return None,
        };
        if start >= self.edge() && start != self.snd_una {
            return None;
        }
        self.retransmit(now, index)
    }

    fn retransmit(&mut self, now: Instant, index: usize) -> Option<(Bytes, u16)> {
        let mss = self.effective_mss();
        let start = self.queue.peek(index)?.start;
        // What fits the window goes; the first segment goes whole when nothing fits.
        let room = u32::try_from(self.edge().saturating_sub(start)).unwrap_or(u32::MAX);
        let len = if room == 0 { mss } else { room.min(mss) };
        self.queue.split(index, len, mss);
        self.queue.retransmitted(index, now);
        let (len, fin) = self.queue.peek(index).map(|s| (s.len, s.fin))?;
        self.count.retransmits += 1;
        let payload = if fin { 0 } else { len };
        self.count.retransmitted += u64::from(payload);
        let end = start + u64::from(payload);
        self.count.beyond_edge += end.saturating_sub(self.edge().max(start));
        self.retrans_stamp.get_or_insert(now);
        self.last_sent = now;
        if !matches!(self.timer, Timer::Rto(_)) {
            self.arm_rto(now);
        }
        Some(self.data_frame(now, start, payload, fin, mss))
    }

    /// New data was to be tried and there is none, or no room for it: back to what is lost.
    pub(super) fn give_up_trying(&mut self) -> bool {
        let idle = self.frto == Frto::Trying && self.snd_nxt <= self.high_seq;
        if idle {
            self.frto = Frto::Off;
        }
        idle
    }

    /// The retransmission timer ran out.
    pub(super) fn on_rto(&mut self, now: Instant) {
        if matches!(self.state, ModelState::SynSent | ModelState::SynReceived) {
            return self.on_syn_timeout(now);
        }
        if self.queue.is_empty() {
            self.timer = Timer::Off;
            return;
        }
        let late = |limit, since: Instant| now.since(since) >= limit;
        if self.snd_wnd == 0 {
            // The window was shrunk to zero over data in flight: the peer may keep it so as long as it answers.
            let limit = silence_limit(self.cfg.rto_max);
            if late(limit, self.rcv_tstamp) && self.retrans_stamp.is_some_and(|t| late(limit, t)) {
                return self.die(Some("ETIMEDOUT"));
            }
        } else {
            let patience = self.rtt.patience(self.cfg.retries2);
            if self.retransmits > 0 && self.retrans_stamp.is_some_and(|t| late(patience, t)) {
                return self.die(Some("ETIMEDOUT"));
            }
            self.retransmits += 1;
        }
        self.count.rtos += 1;
        self.enter_loss();
        self.rtt.back_off();
        self.backoff += 1;
        self.arm_rto(now);
        self.force_retransmit = true;
    }

    fn enter_loss(&mut self) {
        // Anew in a fresh loss, or when nothing moved since the last time-out.
        let worth_trying = self.ca == CaState::Open || self.retransmits > 1;
        self.frto = if self.sack && worth_trying { Frto::Asked } else { Frto::Off };
        if self.ca != CaState::Loss {
            self.prior = (self.cwnd, self.ssthresh);
            if self.ssthresh_may_fall() {
                self.ssthresh = (self.cwnd / 2).max(2);
            }
        }
        self.queue.mark_all_lost();
        self.ca = CaState::Loss;
        self.cwnd = 1;
        self.cwnd_count = 0;
        self.dup_acks = 0;
        self.high_seq = self.snd_nxt;
    }

    pub(super) fn ssthresh_may_fall(&self) -> bool {
        matches!(self.cfg.congestion, Congestion::Reno)
    }

    /// Data waits, nothing is in flight, and the window does not let it go: the probe timer takes over.
    pub(super) fn check_probe_timer(&mut self, now: Instant) {
        if self.timer == Timer::Off && self.queue.is_empty() && self.snd_nxt < self.limit() {
            let blocked = self.edge() < self.snd_nxt + self.first_unsent();
            if blocked {
                self.backoff = 0;
                self.timer = Timer::Probe(now + self.rtt.probe_interval(0));
            }
        }
    }

    /// Bytes the next new segment would take.
    pub(super) fn first_unsent(&self) -> u64 {
        (self.limit().saturating_sub(self.snd_nxt)).min(u64::from(self.effective_mss()))
    }

    pub(super) fn on_probe_timer(&mut self, now: Instant) {
        if !self.queue.is_empty() || self.snd_nxt >= self.limit() {
            self.timer = Timer::Off;
            self.probes_out = 0;
            return;
        }
        if self.probes_out >= self.cfg.retries2 {
            return self.die(Some("ETIMEDOUT"));
        }
        self.probes_out += 1;
        self.count.probes += 1;
        let room = self.edge().saturating_sub(self.snd_nxt);
        if room > 0 {
            // The window is open but too small for a whole segment: send what fits.
            let unsent = self.write_seq.saturating_sub(self.snd_nxt);
            let len = u32::try_from(room.min(unsent)).unwrap_or(u32::MAX).min(self.effective_mss());
            if len > 0 {
                let start = self.snd_nxt;
                self.snd_nxt += u64::from(len);
                self.snd_sml = self.snd_nxt;
                self.queue.push(Sent::new(start, len, 1, now, false));
                self.count.sent += u64::from(len);
                let (frame, _) = self.data_frame(now, start, len, false, len);
                self.control(frame);
                return self.arm_rto(now);
            }
        }
        if self.backoff < self.cfg.retries2 {
            self.backoff += 1;
        }
        let seq = self.seq(self.snd_una).wrapping_sub(1);
        let frame = self.segment(now, seq, flag::ACK, &[]);
        self.control(frame);
        self.timer = Timer::Probe(now + self.rtt.probe_interval(self.backoff));
    }

    // --- handshake -------------------------------------------------------------------------------------------

    pub(super) fn send_syn(&mut self, now: Instant) {
        let answer = self.cfg.role == Role::Server;
        let wscale = self.cfg.wscale.map(|w| w.min(14));
        let out = Out {
            seq: self.cfg.iss,
            ack: if answer { self.rcv_nxt } else { 0 },
            flags: if answer { flag::SYN | flag::ACK } else { flag::SYN },
            window: u16::try_from(self.cfg.rcv_wnd).unwrap_or(u16::MAX),
            mss: Some(self.cfg.mss.clamp(88, 65_000)),
            wscale: if answer { wscale.filter(|_| self.peer_scales()) } else { wscale },
            sack_ok: self.sack,
            timestamps: self.timestamps.then(|| (self.ts_now(now), self.ts_recent)),
            sack: &[],
            payload: &[],
        };
        let frame = wire::build(&self.ends, self.ip_id, &out);
        self.ip_id = self.ip_id.wrapping_add(1);
        self.count.frames += 1;
        self.last_sent = now;
        self.control(frame);
        self.arm_rto(now);
    }

    fn on_syn_timeout(&mut self, now: Instant) {
        // A server gives up after five SYN-ACKs (tcp_synack_retries) and listens again.
        let server = self.cfg.role == Role::Server;
        let most = if server { 5 } else { self.cfg.syn_retries };
        if self.retransmits >= most {
            if server {
                self.state = ModelState::Listen;
                self.timer = Timer::Off;
                return;
            }
            return self.die(Some("ETIMEDOUT"));
        }
        self.retransmits += 1;
        self.retrans_stamp.get_or_insert(now);
        self.count.retransmits += 1;
        self.rtt.back_off();
        // RFC 6298 §5.7 and Linux: a lost SYN means a cautious start.
        if self.cfg.congestion == Congestion::Reno {
            self.cwnd = 1;
        }
        self.send_syn(now);
    }

    // --- answers ---------------------------------------------------------------------------------------------

    pub(super) fn send_ack(&mut self, now: Instant) {
        let seq = self.seq(self.snd_nxt);
        let frame = self.segment(now, seq, flag::ACK, &[]);
        self.control(frame);
    }

    pub(super) fn send_rst(&mut self, now: Instant) {
        let seq = self.seq(self.snd_nxt);
        let frame = self.segment(now, seq, flag::RST | flag::ACK, &[]);
        self.control(frame);
    }

    pub(super) fn control(&mut self, frame: Bytes) {
        if self.control.len() < MAX_CONTROL {
            self.control.push_back(frame);
        }
    }

    fn data_frame(&mut self, now: Instant, start: u64, len: u32, fin: bool, mss: u32) -> (Bytes, u16) {
        let end = start + u64::from(len);
        let push = len > 0 && end == self.write_seq;
        let mut flags = flag::ACK;
        if push {
            flags |= flag::PSH;
        }
        if fin {
            flags |= flag::FIN;
        }
        self.ack_pending = false;
        self.count.frames += 1;
        let seq = self.seq(start);
        let frame = self.segment(now, seq, flags, pattern(start, len as usize));
        let gso = if len > mss { u16::try_from(mss).unwrap_or(u16::MAX) } else { 0 };
        // Every segment of a super-segment takes an IP identification of its own.
        self.ip_id = self.ip_id.wrapping_add(packets(len, mss) as u16);
        (frame, gso)
    }

    fn segment(&mut self, now: Instant, seq: u32, flags: u8, payload: &[u8]) -> Bytes {
        let window = self.cfg.rcv_wnd >> self.rcv_wscale;
        let out = Out {
            seq,
            ack: self.rcv_nxt,
            flags,
            window: u16::try_from(window).unwrap_or(u16::MAX),
            timestamps: self.timestamps.then(|| (self.ts_now(now), self.ts_recent)),
            payload,
            ..Out::default()
        };
        wire::build(&self.ends, self.ip_id, &out)
    }

    // --- congestion window -----------------------------------------------------------------------------------

    fn nagle_holds(&self) -> bool {
        // A short segment waits while an earlier short one is unacknowledged; closing overrides.
        !self.cfg.app.nodelay && !self.fin_queued && self.snd_sml > self.snd_una && !self.queue.is_empty()
    }

    fn note_usage(&mut self, limited: bool) {
        let out = self.queue.packets_out();
        let u = &mut self.usage;
        if self.snd_una >= u.until || out > u.max_out || (limited && !u.limited) {
            u.max_out = out;
            u.limited = limited;
            u.until = self.snd_nxt;
        }
    }

    pub(super) fn cwnd_limited(&self) -> bool {
        let in_slow_start = self.cwnd < self.ssthresh;
        self.usage.limited || (in_slow_start && self.cwnd < 2 * self.usage.max_out)
    }

    fn restart_after_idle(&mut self, now: Instant) {
        if !self.cfg.slow_start_after_idle
            || !self.queue.is_empty()
            || self.cfg.congestion != Congestion::Reno
        {
            return;
        }
        let rto = self.rtt.rto().as_nanos().max(1);
        let mut idle = now.since(self.last_sent).as_nanos();
        if idle <= rto {
            return;
        }
        self.ssthresh = self.ssthresh.max(self.cwnd / 4 * 3);
        let floor = self.cfg.initcwnd.clamp(1, self.cwnd);
        while idle > rto && self.cwnd > floor {
            idle -= rto;
            self.cwnd /= 2;
        }
        self.cwnd = self.cwnd.max(floor);
    }
}

/// The most payload a super-segment carries: the IP length field, less the largest headers.
const MAX_PAYLOAD: u32 = 65_535 - 20 - 60;
const _: () = assert!(MAX_PAYLOAD as usize <= PATTERN_CHUNK);
