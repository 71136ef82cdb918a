//! An embedded Linux-like TCP sender, sans-I/O over Ethernet frames: for runs without a TAP and in virtual time.
//!
//! It shares no code with the receiving stack. It models what decides how a window is used: congestion window, Nagle,
//! the test whether a segment fits the window, retransmission and its time-outs, zero-window probes, the send buffer
//! that blocks the writer. Behaviour follows Linux 6.18 unless said otherwise:
//!
//! - A segment is sent only if it fits the window whole; a window smaller than that is used by the probe timer
//!   (`tcp_snd_wnd_test`, `tcp_write_wakeup`). New data never goes beyond the right edge.
//! - A window is taken over when the acknowledgement or its sequence number advances, when it grows, or when it becomes
//!   zero (`tcp_may_update_window`); with `smaller_window` always, as RFC 9293 §3.10.7.4 has it. When the edge has moved left no new data goes out; old data is retransmitted
//!   inside the edge, and the first unacknowledged segment even into a window of zero.
//! - Zero-window probes carry no data and the sequence number before the first unacknowledged byte. Every answer resets
//!   their count; unanswered they end the connection with ETIMEDOUT (`tcp_probe_timer`).
//! - Giving up is a matter of time since the first retransmission: 924.6 s for tcp_retries2 = 15, looked at when a second
//!   time-out follows the first. The clock starts over only when everything sent before the loss is acknowledged, not
//!   with every bit of progress. With a window of zero and data outstanding it is 240 s of silence from the peer instead.
//!
//! - After a time-out it tries new data before it retransmits the rest (forward RTO recovery). With a receiver that drops in
//!   silence this keeps the loss open: new data goes out as fast as old data is repaired, and patience runs out.
//!
//! Left out: CUBIC, PRR, tail loss probes, undo by DSACK or timestamps, pacing, ECN, urgent data, IPv6, small-queue limits. One
//! connection per model.

mod config;
mod input;
mod output;
mod queue;
mod rtt;
#[cfg(test)]
mod tests;
mod wire;

use std::collections::VecDeque;

use bytes::Bytes;

use rightedge_stack::time::{Duration, Instant};

pub use config::{AppModel, Congestion, ModelConfig, ModelState, ModelStats, SndBuf};
pub use wire::Mac;

use super::{End, Role, WriteSizes};
use queue::{Queue, SKB_OVERHEAD};
use rtt::Rtt;
use wire::Ends;

/// The model sender. Drive it like this, always draining [`ModelSender::poll_transmit`] after an input:
///
/// ```text
/// loop { on_frame(…) | handle_timeout(now); while let Some(f) = poll_transmit(now) { … } wait until poll_timeout() }
/// ```
#[derive(Debug)]
pub struct ModelSender {
    cfg: ModelConfig,
    ends: Ends,
    origin: Instant,
    state: ModelState,
    error: Option<&'static str>,
    ip_id: u16,

    // Sending. Stream offsets: byte 0 has sequence number iss + 1, the FIN comes behind the last byte.
    write_seq: u64,
    fin_queued: bool,
    snd_nxt: u64,
    snd_una: u64,
    snd_wnd: u32,
    snd_wl1: u32,
    max_window: u32,
    /// End of the last segment smaller than the MSS (Minshall's form of Nagle).
    snd_sml: u64,
    queue: Queue,

    // Receiving.
    irs: u32,
    rcv_nxt: u32,
    ack_pending: bool,
    control: VecDeque<Bytes>,

    // Options in force.
    mss: u32,
    timestamps: bool,
    sack: bool,
    snd_wscale: u8,
    rcv_wscale: u8,
    /// The peer's SYN carried a window scale.
    peer_wscale: bool,
    ts_recent: u32,

    // Congestion and loss.
    ca: CaState,
    cwnd: u32,
    cwnd_count: u32,
    ssthresh: u32,
    high_seq: u64,
    dup_acks: u32,
    force_retransmit: bool,
    frto: Frto,
    /// Congestion window and threshold before the time-out, should it turn out to have been none.
    prior: (u32, u32),
    usage: CwndUsage,

    // Timers.
    rtt: Rtt,
    timer: Timer,
    backoff: u32,
    retransmits: u32,
    retrans_stamp: Option<Instant>,
    probes_out: u32,
    /// When the peer was last heard of.
    rcv_tstamp: Instant,
    last_sent: Instant,

    app: App,
    count: Counts,
}

/// Phases of loss handling.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum CaState {
    Open,
    Recovery,
    Loss,
}

/// Was the time-out real? Forward RTO recovery (RFC 5682) tries new data before it retransmits the rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Frto {
    Off,
    /// The first segment was retransmitted; nothing has been heard yet.
    Asked,
    /// It was acknowledged: new data goes out, what is lost waits.
    Trying,
}

/// The one retransmission timer, as Linux has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Timer {
    Off,
    Rto(Instant),
    Probe(Instant),
    TimeWait(Instant),
}

/// Was the congestion window the limit? Linux lets it grow only then.
#[derive(Clone, Copy, Debug, Default)]
struct CwndUsage {
    max_out: u32,
    limited: bool,
    until: u64,
}

#[derive(Clone, Debug)]
struct App {
    sizes: WriteSizes,
    /// Written of the write under way.
    partial: u32,
    next_write: Instant,
    started: Option<Instant>,
    blocked: bool,
    done: bool,
    sndbuf: u64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    sent: u64,
    retransmitted: u64,
    frames: u64,
    retransmits: u64,
    rtos: u64,
    recoveries: u64,
    probes: u64,
    edge_shrinks: u64,
    edge_shrink_max: u64,
    zero_windows: u64,
    beyond_edge: u64,
    bad: u64,
    last_bad: Option<&'static str>,
}

impl ModelSender {
    /// A sender that listens, or that sends its SYN at the first [`ModelSender::poll_transmit`].
    #[must_use]
    pub fn new(cfg: ModelConfig, now: Instant) -> Self {
        let mss = u32::from(cfg.mss.clamp(88, 65_000));
        let ends = Ends {
            mac: cfg.mac,
            peer_mac: cfg.peer_mac,
            addr: cfg.addr,
            peer_addr: cfg.peer_addr,
            port: cfg.port,
            peer_port: cfg.peer_port,
        };
        let mut s = ModelSender {
            ends,
            origin: now,
            state: ModelState::Listen,
            error: None,
            ip_id: 1,
            write_seq: 0,
            fin_queued: false,
            snd_nxt: 0,
            snd_una: 0,
            snd_wnd: 0,
            snd_wl1: 0,
            max_window: 0,
            snd_sml: 0,
            queue: Queue::default(),
            irs: 0,
            rcv_nxt: 0,
            ack_pending: false,
            control: VecDeque::new(),
            mss,
            timestamps: cfg.timestamps,
            sack: cfg.sack,
            snd_wscale: 0,
            rcv_wscale: 0,
            peer_wscale: false,
            ts_recent: 0,
            ca: CaState::Open,
            cwnd: cfg.initcwnd.max(1),
            cwnd_count: 0,
            ssthresh: u32::MAX,
            high_seq: 0,
            dup_acks: 0,
            force_retransmit: false,
            frto: Frto::Off,
            prior: (0, 0),
            usage: CwndUsage::default(),
            rtt: Rtt::new(cfg.rto_min, cfg.rto_max),
            timer: Timer::Off,
            backoff: 0,
            retransmits: 0,
            retrans_stamp: None,
            probes_out: 0,
            rcv_tstamp: now,
            last_sent: now,
            app: App {
                sizes: WriteSizes::new(&cfg.app.write_sizes),
                partial: 0,
                next_write: now,
                started: None,
                blocked: false,
                done: false,
                sndbuf: 0,
            },
            count: Counts::default(),
            cfg,
        };
        if let Congestion::Fixed(n) = s.cfg.congestion {
            s.cwnd = n.max(1);
        }
        s.app.sndbuf = match s.cfg.sndbuf {
            SndBuf::Fixed(n) => n,
            SndBuf::Auto(max) => s.sndbuf_for(10).min(max),
        };
        if s.cfg.role == Role::Client {
            s.state = ModelState::SynSent;
            s.send_syn(now);
        }
        s
    }

    /// Takes a frame from the link in. Damaged and foreign frames are counted and ignored.
    pub fn on_frame(&mut self, now: Instant, frame: &Bytes) {
        self.input(now, frame);
    }

    /// The next frame to send, with the segment size if it is a super-segment (0 otherwise). Runs the application.
    /// Call until `None` after every input and time-out.
    pub fn poll_transmit(&mut self, now: Instant) -> Option<(Bytes, u16)> {
        loop {
            if let Some(frame) = self.control.pop_front() {
                return Some((frame, 0));
            }
            if self.can_send() {
                if let Some(out) = self.next_retransmit(now).or_else(|| self.next_new(now)) {
                    return Some(out);
                }
                if self.run_app(now) || self.give_up_trying() {
                    continue;
                }
                self.check_probe_timer(now);
            }
            if core::mem::take(&mut self.ack_pending) {
                self.send_ack(now);
                continue;
            }
            return None;
        }
    }

    /// When to call [`ModelSender::handle_timeout`] next.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let timer = match self.timer {
            Timer::Off => None,
            Timer::Rto(t) | Timer::Probe(t) | Timer::TimeWait(t) => Some(t),
        };
        let writing = self.app_running();
        let write = (writing && !self.app.blocked).then_some(self.app.next_write);
        let stop = self.stop_at().filter(|_| writing);
        [timer, write, stop].into_iter().flatten().min()
    }

    /// Runs what is due at `now`. Calling early does no harm. Drain [`ModelSender::poll_transmit`] afterwards.
    pub fn handle_timeout(&mut self, now: Instant) {
        match self.timer {
            Timer::Rto(t) if t <= now => self.on_rto(now),
            Timer::Probe(t) if t <= now => self.on_probe_timer(now),
            Timer::TimeWait(t) if t <= now => {
                self.timer = Timer::Off;
                self.state = ModelState::Closed;
            }
            _ => {}
        }
    }

    /// Ends the application now, as its configuration would at its limit, but with `end`.
    pub fn stop(&mut self, now: Instant, end: End) {
        self.cfg.app.end = end;
        self.finish(now);
    }

    /// Nothing more will happen: closed, or died.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.state == ModelState::Closed
    }

    /// Both sides have closed in order, or it died: no data comes any more.
    #[must_use]
    pub fn is_over(&self) -> bool {
        matches!(self.state, ModelState::Closed | ModelState::TimeWait)
    }

    /// What happened so far.
    #[must_use]
    pub fn stats(&self) -> ModelStats {
        let c = &self.count;
        ModelStats {
            state: self.state,
            error: self.error,
            bytes_written: self.write_seq,
            bytes_sent: c.sent,
            bytes_acked: self.snd_una.min(self.write_seq),
            bytes_retransmitted: c.retransmitted,
            frames_sent: c.frames,
            retransmits: c.retransmits,
            rtos: c.rtos,
            recoveries: c.recoveries,
            probes: c.probes,
            probes_out: self.probes_out,
            snd_wnd: self.snd_wnd,
            edge_shrinks: c.edge_shrinks,
            edge_shrink_max: c.edge_shrink_max,
            zero_windows: c.zero_windows,
            bytes_beyond_edge: c.beyond_edge,
            cwnd: self.cwnd,
            ssthresh: self.ssthresh,
            in_flight: self.queue.in_flight(),
            mss: self.effective_mss(),
            srtt: self.rtt.srtt(),
            rto: self.rtt.rto(),
            wmem_queued: self.wmem(),
            sndbuf: self.app.sndbuf,
            blocked: self.app.blocked,
            bad_frames: c.bad,
            last_bad: c.last_bad,
        }
    }

    fn can_send(&self) -> bool {
        use ModelState as S;
        matches!(self.state, S::Established | S::CloseWait | S::FinWait1 | S::Closing | S::LastAck)
    }

    fn app_running(&self) -> bool {
        !self.app.done && matches!(self.state, ModelState::Established | ModelState::CloseWait)
    }

    fn stop_at(&self) -> Option<Instant> {
        self.app.started.zip(self.cfg.app.stop_after).map(|(t, d)| t + d)
    }

    /// One step of the application; true if it did something.
    fn run_app(&mut self, now: Instant) -> bool {
        if !self.app_running() {
            return false;
        }
        let left = self.cfg.app.total.map_or(u64::MAX, |t| t.saturating_sub(self.write_seq));
        if left == 0 || self.stop_at().is_some_and(|t| t <= now) {
            self.finish(now);
            return true;
        }
        if now < self.app.next_write {
            return false;
        }
        let used = self.wmem();
        if self.app.blocked {
            // A blocked writer wakes when a third of the buffer is free (sk_stream_is_writeable).
            if self.app.sndbuf.saturating_sub(used) < used / 2 {
                return false;
            }
            self.app.blocked = false;
            // The time spent blocked is not owed.
            self.app.next_write = now;
        }
        if used >= self.app.sndbuf {
            self.app.blocked = true;
            return true;
        }
        let size = self.app.sizes.peek();
        // Payload that fits, each segment with its overhead; never less than one segment.
        let mss = u64::from(self.effective_mss());
        let room = ((self.app.sndbuf - used) / (mss + SKB_OVERHEAD)).saturating_mul(mss).max(mss);
        let n = u64::from(size - self.app.partial.min(size)).min(room).min(left);
        self.write_seq += n;
        self.app.partial += n as u32; // at most `size`
        if self.app.partial >= size || n == left {
            self.app.partial = 0;
            self.app.sizes.advance();
            self.app.next_write = self.app.next_write + self.cfg.app.pace;
        }
        true
    }

    fn finish(&mut self, now: Instant) {
        if core::mem::replace(&mut self.app.done, true) {
            return;
        }
        match self.cfg.app.end {
            End::Keep => {}
            End::Abort => {
                if self.can_send() {
                    self.send_rst(now);
                }
                self.die(None);
            }
            End::Close => match self.state {
                ModelState::Established => {
                    self.fin_queued = true;
                    self.state = ModelState::FinWait1;
                }
                ModelState::CloseWait => {
                    self.fin_queued = true;
                    self.state = ModelState::LastAck;
                }
                _ => self.die(None),
            },
        }
    }

    fn die(&mut self, error: Option<&'static str>) {
        self.error = self.error.or(error);
        self.state = ModelState::Closed;
        self.timer = Timer::Off;
        self.app.done = true;
        self.queue = Queue::default();
    }

    fn established(&mut self, now: Instant) {
        self.state = ModelState::Established;
        self.app.started = Some(now);
        self.app.next_write = now;
        self.timer = Timer::Off;
        self.backoff = 0;
        self.retransmits = 0;
        self.retrans_stamp = None;
        self.expand_sndbuf();
    }

    /// Payload bytes per segment: the MSS less the options in every segment, and no more than half the largest window
    /// ever offered (`tcp_bound_to_half_wnd`).
    fn effective_mss(&self) -> u32 {
        let options = if self.timestamps { 12 } else { 0 };
        let half = if self.max_window > 536 { self.max_window / 2 } else { self.max_window };
        let mss = self.mss - options.min(self.mss);
        if half > 0 && mss > half { half.max(68 - 20 - options) } else { mss }.max(1)
    }

    fn wmem(&self) -> u64 {
        let unsent = self.write_seq.saturating_sub(self.snd_nxt);
        let mss = u64::from(self.effective_mss());
        self.queue.wmem() + unsent + unsent.div_ceil(mss) * SKB_OVERHEAD
    }

    /// Send buffer for a congestion window: twice the window in segments, each at its rounded-up size (87 040 bytes for
    /// ten Ethernet segments).
    fn sndbuf_for(&self, cwnd: u32) -> u64 {
        let per_segment = u64::from(self.mss + 640).next_power_of_two() + 256;
        2 * per_segment * u64::from(cwnd.max(10))
    }

    fn expand_sndbuf(&mut self) {
        if let SndBuf::Auto(max) = self.cfg.sndbuf {
            self.app.sndbuf = self.app.sndbuf.max(self.sndbuf_for(self.cwnd).min(max));
        }
    }

    /// Our timestamp clock: milliseconds, never zero at the start.
    fn ts_now(&self, now: Instant) -> u32 {
        (now.since(self.origin).as_millis() as u32).wrapping_add(1000) // wraps as RFC 7323 means it to
    }

    fn seq(&self, offset: u64) -> u32 {
        // Sequence numbers are the offset modulo 2³².
        self.cfg.iss.wrapping_add(1).wrapping_add(offset as u32)
    }

    /// The stream offset that `seq` means, nearest to the first unacknowledged byte.
    fn offset(&self, seq: u32) -> i64 {
        self.snd_una as i64 + i64::from(seq.wrapping_sub(self.seq(self.snd_una)) as i32)
    }

    fn edge(&self) -> u64 {
        self.snd_una + u64::from(self.snd_wnd)
    }

    /// End of what may ever be sent: written bytes and the FIN.
    fn limit(&self) -> u64 {
        self.write_seq + u64::from(self.fin_queued)
    }

    fn arm_rto(&mut self, now: Instant) {
        self.timer = Timer::Rto(now + self.rtt.rto());
    }
}

/// How long the peer may be silent while its window is zero and data is outstanding: twice the largest time-out.
fn silence_limit(rto_max: Duration) -> Duration {
    Duration::from_nanos(rto_max.as_nanos().saturating_mul(2))
}
