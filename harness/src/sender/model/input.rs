//! What the model does with a frame: handshake, acknowledgements, windows, the peer's FIN and RST.

use bytes::Bytes;

use rightedge_stack::time::{Duration, Instant};

use super::queue::Sacked;
use super::wire::{self, Frame, Segment, flag};
use super::{CaState, Congestion, Frto, ModelSender, ModelState, Timer};

impl ModelSender {
    pub(super) fn input(&mut self, now: Instant, frame: &Bytes) {
        match wire::parse(frame) {
            Frame::ArpRequest { sender_mac, sender, target } => {
                if target == self.cfg.addr {
                    let reply = wire::arp_reply(self.cfg.mac, target, sender_mac, sender);
                    self.control(reply);
                }
            }
            Frame::Tcp(s) => self.segment_arrives(now, &s),
            Frame::Bad(why) => {
                self.count.bad += 1;
                self.count.last_bad = Some(why);
            }
            Frame::Other => {}
        }
    }

    fn segment_arrives(&mut self, now: Instant, s: &Segment) {
        let for_us = s.dst == self.cfg.addr.octets() && s.dst_port == self.cfg.port;
        if !for_us || self.state == ModelState::Closed {
            return;
        }
        if self.state == ModelState::Listen {
            return self.on_listen(now, s);
        }
        if s.src != self.ends.peer_addr.octets() || s.src_port != self.ends.peer_port {
            return;
        }
        match self.state {
            ModelState::SynSent => self.on_syn_sent(now, s),
            ModelState::SynReceived => self.on_syn_received(now, s),
            _ => self.on_connected(now, s),
        }
    }

    fn on_listen(&mut self, now: Instant, s: &Segment) {
        if s.flags & (flag::SYN | flag::ACK | flag::RST) != flag::SYN {
            return;
        }
        self.ends.peer_addr = s.src.into();
        self.ends.peer_port = s.src_port;
        (self.retransmits, self.retrans_stamp) = (0, None);
        self.take_options(s);
        self.state = ModelState::SynReceived;
        self.send_syn(now);
    }

    fn on_syn_received(&mut self, now: Instant, s: &Segment) {
        if s.flags & flag::RST != 0 {
            if s.seq == self.rcv_nxt {
                self.state = ModelState::Listen;
                self.timer = Timer::Off;
            }
            return;
        }
        if s.flags & flag::SYN != 0 {
            // Our answer was lost.
            if s.seq == self.irs {
                self.send_syn(now);
            }
            return;
        }
        if s.flags & flag::ACK == 0 || s.ack != self.seq(0) {
            return;
        }
        if let Some((val, ecr)) = s.timestamps.filter(|_| self.timestamps) {
            self.ts_recent = val;
            self.measure_timestamp(now, ecr);
        } else if self.retransmits == 0 {
            self.rtt.measure(now.since(self.last_sent));
        }
        self.established(now);
        // The window of this segment is the first that is scaled.
        self.snd_wl1 = s.seq;
        self.snd_wnd = u32::from(s.window) << self.snd_wscale;
        self.max_window = self.max_window.max(self.snd_wnd);
        self.on_connected(now, s);
    }

    fn on_syn_sent(&mut self, now: Instant, s: &Segment) {
        let ack_ok = s.flags & flag::ACK != 0 && s.ack == self.seq(0);
        if s.flags & flag::RST != 0 {
            if ack_ok {
                self.die(Some("ECONNREFUSED"));
            }
            return;
        }
        if s.flags & flag::SYN == 0 || !ack_ok {
            return;
        }
        self.take_options(s);
        if self.retransmits == 0 {
            self.rtt.measure(now.since(self.last_sent));
        } else if let Some((_, ecr)) = s.timestamps.filter(|_| self.timestamps) {
            self.measure_timestamp(now, ecr);
        }
        self.established(now);
        self.snd_wl1 = s.seq;
        self.rcv_tstamp = now;
        self.ack_pending = true;
    }

    fn take_options(&mut self, s: &Segment) {
        self.irs = s.seq;
        self.rcv_nxt = s.seq.wrapping_add(1);
        // RFC 9293 §3.7.1: without the option the peer takes 536.
        let theirs = u32::from(s.mss.unwrap_or(536)).max(48);
        self.mss = u32::from(self.cfg.mss.clamp(88, 65_000)).min(theirs);
        self.timestamps = self.cfg.timestamps && s.timestamps.is_some();
        self.sack = self.cfg.sack && s.sack_ok;
        let ours = self.cfg.wscale.map(|w| w.min(14));
        (self.snd_wscale, self.rcv_wscale) = ours.zip(s.wscale).map_or((0, 0), |(o, t)| (t, o));
        self.peer_wscale = s.wscale.is_some();
        if let Some((val, _)) = s.timestamps {
            self.ts_recent = val;
        }
        self.snd_wnd = u32::from(s.window); // never scaled in a SYN
        self.max_window = self.snd_wnd;
    }

    pub(super) fn peer_scales(&self) -> bool {
        self.peer_wscale
    }

    fn on_connected(&mut self, now: Instant, s: &Segment) {
        let fin = u32::from(s.flags & flag::FIN != 0);
        let rst = s.flags & flag::RST != 0;
        if let Some((val, _)) = s.timestamps.filter(|_| self.timestamps && !rst) {
            let age = self.ts_recent.wrapping_sub(val) as i32;
            if age > 0 {
                // RFC 7323 §5: an old duplicate.
                self.ack_pending = true;
                return;
            }
        }
        let ahead = s.seq.wrapping_sub(self.rcv_nxt) as i32;
        let end = i64::from(ahead) + i64::from(s.payload) + i64::from(fin);
        if end < 0 || i64::from(ahead) > i64::from(self.cfg.rcv_wnd) {
            self.ack_pending |= !rst;
            return;
        }
        if rst {
            // RFC 5961 §3: only the exact number resets.
            if ahead == 0 {
                let errno = if self.state == ModelState::CloseWait { "EPIPE" } else { "ECONNRESET" };
                self.die(Some(errno));
            } else {
                self.ack_pending = true;
            }
            return;
        }
        if s.flags & flag::SYN != 0 {
            self.ack_pending = true;
            return;
        }
        if s.flags & flag::ACK == 0 || !self.on_ack(now, s) {
            return;
        }
        if let Some((val, _)) = s.timestamps.filter(|_| self.timestamps && ahead <= 0) {
            self.ts_recent = val;
        }
        self.on_payload(now, s, ahead, fin != 0);
    }

    /// Payload is counted and thrown away; only the FIN means something to us.
    fn on_payload(&mut self, now: Instant, s: &Segment, ahead: i32, fin: bool) {
        if s.payload == 0 && !fin {
            return;
        }
        self.ack_pending = true;
        let closed = matches!(
            self.state,
            ModelState::CloseWait | ModelState::Closing | ModelState::LastAck | ModelState::TimeWait
        );
        if ahead > 0 || closed {
            return;
        }
        self.rcv_nxt = s.seq.wrapping_add(s.payload);
        if !fin {
            return;
        }
        self.rcv_nxt = self.rcv_nxt.wrapping_add(1);
        self.state = match self.state {
            ModelState::Established => ModelState::CloseWait,
            ModelState::FinWait1 => ModelState::Closing,
            _ => {
                self.timer = Timer::TimeWait(now + TIME_WAIT);
                ModelState::TimeWait
            }
        };
    }

    /// An acknowledgement; false if the segment deserves nothing more.
    fn on_ack(&mut self, now: Instant, s: &Segment) -> bool {
        let ack = self.offset(s.ack);
        if ack > self.snd_nxt as i64 {
            self.ack_pending = true; // acknowledges what was never sent
            return false;
        }
        self.rcv_tstamp = now;
        self.probes_out = 0;
        let old = ack < self.snd_una as i64;
        let una = if old { self.snd_una } else { ack as u64 };
        let advanced = una > self.snd_una;
        let had_flight = !self.queue.is_empty();
        let window = u32::from(s.window) << self.snd_wscale;

        let newer = (s.seq.wrapping_sub(self.snd_wl1) as i32) > 0;
        let same = s.seq == self.snd_wl1;
        let changed = window != self.snd_wnd;
        let counts = window > self.snd_wnd || window == 0 || self.cfg.smaller_window;
        if !old && (advanced || newer || (same && counts)) {
            self.snd_wl1 = s.seq;
            self.take_window(window, una);
        }
        let sacked = if self.sack { self.take_sack(s) } else { Sacked::default() };
        let news = sacked.news;
        if old {
            if news {
                self.detect_loss(0);
            }
            return true;
        }
        if advanced {
            self.on_advance(now, una, s, sacked);
        } else if had_flight && s.payload == 0 && !changed && s.flags & flag::FIN == 0 {
            self.dup_acks += 1;
            self.judge_timeout(false, true, sacked.original);
            if !self.sack {
                self.queue.count_duplicate();
            }
            self.detect_loss(0);
        } else if news {
            self.judge_timeout(false, true, sacked.original);
            self.detect_loss(0);
        }
        if !had_flight {
            self.on_probe_answer(now);
        }
        self.expand_if_blocked();
        true
    }

    /// After a time-out: was it real, and what is sent next?
    fn judge_timeout(&mut self, advanced: bool, duplicate: bool, original: bool) {
        if self.ca != CaState::Loss || self.frto == Frto::Off {
            return;
        }
        if original {
            // It had arrived before we sent it again: nothing was lost.
            self.queue.unmark_lost();
            self.cwnd = self.cwnd.max(self.prior.0);
            self.ssthresh = self.ssthresh.max(self.prior.1);
            self.end_recovery();
            return;
        }
        if self.snd_nxt > self.high_seq {
            if duplicate {
                self.frto = Frto::Off;
            }
        } else if advanced {
            self.high_seq = self.snd_nxt;
            self.frto = Frto::Trying;
        }
    }

    fn on_advance(&mut self, now: Instant, una: u64, s: &Segment, sacked: Sacked) {
        let limited = self.cwnd_limited();
        self.snd_una = una;
        let acked = self.queue.ack(una, self.effective_mss(), self.high_seq);
        if !self.sack {
            self.queue.clear_duplicates(acked.packets);
        }
        self.dup_acks = 0;
        self.retransmits = 0;
        self.backoff = 0;
        if let Some(sent) = acked.clean_sent_at {
            self.rtt.measure(now.since(sent));
        } else if let Some((_, ecr)) = s.timestamps.filter(|_| self.timestamps) {
            self.measure_timestamp(now, ecr);
        }
        if una < self.high_seq {
            self.judge_timeout(true, sacked.news, sacked.original || acked.original);
        }
        match self.ca {
            CaState::Open => self.retrans_stamp = None,
            _ if una >= self.high_seq => self.end_recovery(),
            CaState::Recovery if !self.sack => self.queue.mark_head_lost(),
            _ => {}
        }
        self.detect_loss(acked.packets);
        if self.ca != CaState::Recovery && (limited || self.ca == CaState::Loss) {
            self.grow(acked.packets);
        }
        if self.queue.is_empty() {
            self.timer = Timer::Off;
        } else {
            self.arm_rto(now);
        }
        self.on_fin_acked(now);
    }

    fn on_fin_acked(&mut self, now: Instant) {
        if !self.fin_queued || self.snd_una <= self.write_seq {
            return;
        }
        match self.state {
            ModelState::FinWait1 => self.state = ModelState::FinWait2,
            ModelState::Closing => {
                self.state = ModelState::TimeWait;
                self.timer = Timer::TimeWait(now + TIME_WAIT);
            }
            ModelState::LastAck => self.die(None),
            _ => {}
        }
    }

    /// An answer while nothing was in flight: a probe's, or a window update.
    fn on_probe_answer(&mut self, now: Instant) {
        if self.snd_nxt >= self.limit() {
            return;
        }
        if self.snd_nxt + self.first_unsent() <= self.edge() {
            self.backoff = 0;
            self.timer = Timer::Off;
        } else if matches!(self.timer, Timer::Probe(_)) {
            self.timer = Timer::Probe(now + self.rtt.probe_interval(self.backoff));
        }
    }

    fn take_window(&mut self, window: u32, una: u64) {
        let edge = una + u64::from(window);
        let before = self.edge();
        if edge < before {
            self.count.edge_shrinks += 1;
            self.count.edge_shrink_max = self.count.edge_shrink_max.max(before - edge);
        }
        if window == 0 && self.snd_wnd != 0 {
            self.count.zero_windows += 1;
        }
        self.snd_wnd = window;
        self.max_window = self.max_window.max(window);
    }

    fn take_sack(&mut self, s: &Segment) -> Sacked {
        let mut out = Sacked::default();
        for &(a, b) in s.sack.iter().take(s.sack_len) {
            let (a, b) = (self.offset(a), self.offset(b));
            // A duplicate report (RFC 2883) lies below; anything else out of range is nonsense.
            if a >= self.snd_una as i64 && a < b && b <= self.snd_nxt as i64 {
                let one = self.queue.sack(a as u64, b as u64, self.high_seq);
                out.news |= one.news;
                out.original |= one.original;
            }
        }
        out
    }

    fn detect_loss(&mut self, acked: u32) {
        let lost = if self.sack {
            self.queue.sacked_out() > 0 && self.queue.mark_lost(self.rtt.reordering())
        } else {
            let third = acked == 0 && self.dup_acks == super::queue::DUP_THRESH && self.ca == CaState::Open;
            if third {
                self.queue.mark_head_lost();
            }
            third
        };
        if lost && self.ca == CaState::Open {
            self.count.recoveries += 1;
            self.ca = CaState::Recovery;
            self.high_seq = self.snd_nxt;
            if self.ssthresh_may_fall() {
                self.ssthresh = (self.cwnd / 2).max(2);
                self.cwnd = self.ssthresh;
            }
            self.cwnd_count = 0;
            self.force_retransmit = true;
        }
    }

    /// Everything sent before the loss is acknowledged. Only now does Linux forget when it first retransmitted: a
    /// connection that crawls on in loss is given up all the same when its patience is over.
    fn end_recovery(&mut self) {
        self.ca = CaState::Open;
        self.frto = Frto::Off;
        self.retrans_stamp = None;
        if let Congestion::Fixed(n) = self.cfg.congestion {
            self.cwnd = n.max(1);
        }
    }

    /// Slow start and congestion avoidance (RFC 5681 §3.1), counted in segments.
    fn grow(&mut self, acked: u32) {
        if self.ca != CaState::Loss && matches!(self.cfg.congestion, Congestion::Fixed(_)) {
            return;
        }
        if self.cwnd < self.ssthresh {
            let step = acked.min(self.ssthresh - self.cwnd);
            self.cwnd = self.cwnd.saturating_add(step).min(MAX_CWND);
            return;
        }
        self.cwnd_count = self.cwnd_count.saturating_add(acked);
        if self.cwnd_count >= self.cwnd {
            self.cwnd_count -= self.cwnd;
            self.cwnd = (self.cwnd + 1).min(MAX_CWND);
        }
    }

    fn expand_if_blocked(&mut self) {
        if self.app.blocked && self.queue.in_flight() < self.cwnd {
            self.expand_sndbuf();
        }
    }

    fn measure_timestamp(&mut self, now: Instant, ecr: u32) {
        let ms = self.ts_now(now).wrapping_sub(ecr);
        // Nothing lives a day; a larger difference is an echo of something else.
        if ecr != 0 && ms < 86_400_000 {
            self.rtt.measure(Duration::from_millis(u64::from(ms.max(1))));
        }
    }
}

/// Two maximum segment lifetimes, Linux's fixed 60 s.
const TIME_WAIT: Duration = Duration::from_secs(60);

/// Upper bound of the congestion window in segments; keeps sums within 32 bits.
const MAX_CWND: u32 = 1 << 24;
