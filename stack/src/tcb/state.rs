//! Opening and closing.
//!
//! Answers to (Linux 6.1 and 6.18): `tcp_create_openreq_child`, `tcp_connect_init`, `tcp_rcv_synsent_state_process`,
//! `tcp_finish_connect`, `tcp_fin`, `tcp_reset`, `__tcp_close`, `tcp_time_wait`. RFC 9293 §3.10.

use std::collections::VecDeque;

use core::net::SocketAddr;

use super::{
    AckState, Cx, Negotiated, PendingClose, RcvRtt, RcvqSpace, SackState, SendState, State, Stats, Tcb,
    Timer, WindowVars,
};
use crate::{
    Event, SocketError, SocketId,
    counters::Counter,
    decision::{AckNow, Decision},
    mem::SockMem,
    profile::InitrwndSsthresh,
    stack::{ListenOptions, Route},
    time::{Duration, Instant},
    units::Seq,
    window::{self, InitialChoice, InitialInputs},
    wire::{AckForm, TcpFlags, TcpSegment},
};

/// The ratio before anything was measured: half of memory is payload.
const FIRST_RATIO: u8 = 128;
const TIME_WAIT: Duration = Duration::from_secs(60);

/// What the passive handshake settled before there was a connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HandshakeOutcome {
    pub(crate) irs: Seq,
    pub(crate) iss: Seq,
    pub(crate) peer_mss: u32,
    pub(crate) opts: Negotiated,
    pub(crate) first: InitialChoice,
    pub(crate) advmss: u32,
    pub(crate) synack_rtt_us: Option<u64>,
}

/// The first window of a passive or active open.
pub(crate) fn first_window(
    cx: &Cx<'_>,
    mem: &SockMem,
    options: &ListenOptions,
    mss: u32,
    scaling: bool,
    route: &Route,
) -> InitialChoice {
    let clamp = options.window_clamp;
    let s = &cx.shared.sysctl;
    let p = &cx.shared.profile;
    let space =
        window::space_rule(p.space, s.tcp_adv_win_scale, FIRST_RATIO).window_from_space(mem.sk_rcvbuf);
    let mut clamp = if clamp > 0 { clamp } else { route.window };
    if mem.rcvbuf_locked && (clamp > space.max(0).unsigned_abs() || clamp == 0) {
        clamp = space.max(0).unsigned_abs();
    }
    let mut first = window::initial(&InitialInputs {
        space,
        mss,
        clamp,
        scaling,
        initrwnd: route.initrwnd,
        rule: p.initial_window,
        signed_workaround: s.tcp_workaround_signed_windows,
        rmem2: s.tcp_rmem[2],
        rmem_max: s.rmem_max,
    });
    if let Some(wscale) = options.wscale.filter(|_| scaling) {
        first.wscale = wscale.min(window::MAX_WSCALE);
        first.window_clamp = window::MAX_FIELD << first.wscale;
    }
    if let Some(steering) = options.steering {
        // The window of a SYN is never scaled.
        first.rcv_wnd = steering.window(0).min(window::MAX_FIELD);
    }
    first
}

impl Tcb {
    fn blank(
        id: SocketId,
        local: SocketAddr,
        remote: SocketAddr,
        mem: SockMem,
        iss: Seq,
        route: &Route,
        state: State,
    ) -> Self {
        Tcb {
            id,
            state,
            local,
            remote,
            ack_form: AckForm::new(local, remote),
            mem,
            opts: Negotiated {
                sack: false,
                timestamps: false,
                wscale: false,
                snd_wscale: 0,
                header_len: 20,
                ts_recent: 0,
                ts_recent_stamp: 0,
                ts_offset: 0,
            },
            pred: None,
            irs: Seq(0),
            rcv_nxt: Seq(0),
            copied_seq: Seq(0),
            rcv_nxt64: super::STREAM_BASE,
            queue: VecDeque::new(),
            ofo: super::OfoQueue::default(),
            ofo_bytes: 0,
            cursor: super::Cursor::default(),
            backlog: VecDeque::new(),
            win: WindowVars {
                rcv_wnd: 0,
                rcv_wup: Seq(0),
                window_clamp: 0,
                rcv_ssthresh: 0,
                rcv_wscale: 0,
                scaling_ratio: FIRST_RATIO,
                furthest_edge: Seq(0),
                last_edge: Seq(0),
            },
            steering: None,
            advmss: 536,
            rcv_mss: 536,
            last_seg_size: 0,
            user_mss: 0,
            rtt: RcvRtt::default(),
            rcvq: RcvqSpace::default(),
            clock: Instant::ZERO,
            ack: AckState { route_quickack: route.quickack, ..AckState::default() },
            sack: SackState::default(),
            snd: SendState::new(iss, route.rto_min_us(), route.initcwnd()),
            rcvlowat: 1,
            rcv_shutdown: false,
            snd_shutdown: false,
            fin_received: false,
            owned: false,
            accepted: false,
            orphan: false,
            error: None,
            pending_close: PendingClose::default(),
            last_oow_ack: None,
            timers: [None; 4],
            timers_moved: true,
            scheduled: None,
            readable_signalled: false,
            stats: Stats::default(),
        }
    }

    /// The connection that a completed passive handshake makes.
    #[allow(clippy::too_many_arguments, reason = "called once")]
    pub(crate) fn from_handshake(
        cx: &mut Cx<'_>,
        id: SocketId,
        local: SocketAddr,
        remote: SocketAddr,
        listener: &ListenOptions,
        mem: SockMem,
        h: HandshakeOutcome,
        route: &Route,
        seg: &TcpSegment,
    ) -> Self {
        let mut t = Self::blank(id, local, remote, mem, h.iss, route, State::Established);
        t.ack.delay_cap = Self::delack_cap(cx.shared, t.snd.rto_min_us);
        t.opts = h.opts;
        t.irs = h.irs;
        t.rcv_nxt = h.irs + 1;
        t.copied_seq = t.rcv_nxt;
        t.win.rcv_wup = t.rcv_nxt;
        t.win.rcv_wnd = h.first.rcv_wnd;
        t.win.rcv_ssthresh = h.first.rcv_ssthresh;
        t.win.window_clamp = h.first.window_clamp;
        t.win.rcv_wscale = h.first.wscale;
        t.win.furthest_edge = t.rcv_nxt + t.win.rcv_wnd;
        t.win.last_edge = t.rcv_nxt + t.win.rcv_wnd.min(window::MAX_FIELD);
        t.lift_ssthresh(cx, h.advmss, route);
        if !t.opts.wscale {
            t.win.rcv_wscale = 0;
            t.opts.snd_wscale = 0;
            t.win.window_clamp = t.win.window_clamp.min(window::MAX_FIELD);
        }
        t.rcvlowat = listener.rcvlowat;
        t.steering = listener.steering;
        t.user_mss = listener.maxseg;
        t.snd.nodelay = listener.nodelay;
        t.snd.snd_nxt = h.iss + 1;
        t.snd.snd_una = h.iss + 1;
        t.snd.snd_wnd = u32::from(seg.window) << t.opts.snd_wscale;
        t.snd.max_window = t.snd.snd_wnd;
        t.snd.snd_wl1 = seg.seq;
        t.snd.mss_clamp = h.peer_mss;
        t.sync_mss(cx.shared.mtu);
        t.advmss = h.advmss;
        if t.opts.timestamps {
            t.advmss = t.advmss.saturating_sub(12);
        }
        t.ack.lrcvtime = cx.jiffies();
        if let Some(us) = h.synack_rtt_us {
            t.snd.rtt_sample(us);
        }
        t.replace_ts_recent(cx, seg);
        if seg.seq_len() == 0 {
            cx.count(Counter::TcpExtTCPPureAcks);
        }
        t.init_buffer_space(cx);
        t.initialize_rcv_mss();
        t.fast_path_on();
        t
    }

    /// The published patch that lifts rcv_ssthresh with the route's initrwnd.
    fn lift_ssthresh(&mut self, cx: &Cx<'_>, advmss: u32, route: &Route) {
        if cx.shared.profile.initrwnd_ssthresh == InitrwndSsthresh::On && route.initrwnd > 0 {
            let mss = advmss.saturating_sub(if self.opts.timestamps { 12 } else { 0 });
            self.win.rcv_ssthresh = self.win.rcv_ssthresh.max(route.initrwnd.saturating_mul(mss));
        }
    }

    /// Begins an active open: chooses the first window and sends the SYN.
    #[allow(clippy::too_many_arguments, reason = "called once")]
    pub(crate) fn connect(
        cx: &mut Cx<'_>,
        id: SocketId,
        local: SocketAddr,
        remote: SocketAddr,
        options: &ListenOptions,
        mem: SockMem,
        iss: Seq,
        route: &Route,
    ) -> Self {
        let mut t = Self::blank(id, local, remote, mem, iss, route, State::SynSent);
        t.ack.delay_cap = Self::delack_cap(cx.shared, t.snd.rto_min_us);
        let s = &cx.shared.sysctl;
        let scaling = s.tcp_window_scaling;
        t.opts.timestamps = s.tcp_timestamps;
        t.opts.sack = s.tcp_sack;
        t.opts.ts_offset = cx.shared.ts_offset(local, remote);
        t.advmss = route.advmss(cx.shared.mtu, local.is_ipv4(), options.maxseg);
        t.user_mss = options.maxseg;
        let first = first_window(cx, &t.mem, options, t.advmss, scaling, route);
        t.win.rcv_wnd = first.rcv_wnd;
        t.win.rcv_ssthresh = first.rcv_ssthresh;
        t.win.window_clamp = first.window_clamp;
        t.win.rcv_wscale = first.wscale;
        t.rcvlowat = options.rcvlowat;
        t.steering = options.steering;
        t.snd.nodelay = options.nodelay;
        t.accepted = true;
        if cx.shared.profile.initrwnd_ssthresh == InitrwndSsthresh::On {
            t.lift_ssthresh(cx, t.advmss, route);
        }
        cx.count(Counter::TcpActiveOpens);
        t.send_syn(cx);
        t.rearm(cx);
        t
    }

    pub(crate) fn send_syn(&mut self, cx: &mut Cx<'_>) {
        let iss = self.snd.iss;
        self.snd.snd_nxt = iss + 1;
        self.snd.syn_sent_at.get_or_insert(cx.now);
        self.transmit(cx, iss, TcpFlags::SYN, &[]);
    }

    /// An answer to our SYN.
    pub(crate) fn rcv_syn_sent(&mut self, cx: &mut Cx<'_>, seg: &TcpSegment) {
        let acks_syn = seg.flags.contains(TcpFlags::ACK) && seg.ack == self.snd.snd_nxt;
        if seg.flags.contains(TcpFlags::ACK) && !acks_syn {
            if !seg.flags.contains(TcpFlags::RST) {
                cx.shared.reset(cx.now, seg);
            }
            return;
        }
        if seg.flags.contains(TcpFlags::RST) {
            if acks_syn {
                cx.count(Counter::TcpAttemptFails);
                self.fail(cx, SocketError::Refused);
            }
            return;
        }
        // A SYN without ACK would be a simultaneous open, which this receiver does not take part in.
        if !acks_syn || !seg.flags.contains(TcpFlags::SYN) {
            return;
        }
        if self.snd.backoff == 0
            && let Some(sent) = self.snd.syn_sent_at
        {
            self.snd.rtt_sample(cx.now.since(sent).as_micros());
        }
        self.set_timer(Timer::Retransmit, None);
        self.snd.backoff = 0;
        let o = &seg.options;
        let s = &cx.shared.sysctl;
        self.opts.sack = o.sack_permitted && s.tcp_sack;
        self.opts.timestamps = o.timestamps.is_some() && s.tcp_timestamps;
        self.opts.wscale = o.wscale.is_some() && s.tcp_window_scaling;
        self.opts.snd_wscale =
            if self.opts.wscale { o.wscale.unwrap_or(0).min(window::MAX_WSCALE) } else { 0 };
        self.irs = seg.seq;
        self.rcv_nxt = seg.seq + 1;
        self.copied_seq = self.rcv_nxt;
        self.win.rcv_wup = self.rcv_nxt;
        self.win.furthest_edge = self.rcv_nxt + self.win.rcv_wnd;
        self.win.last_edge = self.rcv_nxt + self.win.rcv_wnd.min(window::MAX_FIELD);
        self.snd.snd_una = seg.ack;
        self.stats.bytes_acked = 1;
        self.snd.snd_wnd = u32::from(seg.window);
        self.snd.max_window = self.snd.snd_wnd;
        self.snd.snd_wl1 = seg.seq;
        self.snd.mss_clamp = u32::from(o.mss.unwrap_or(536));
        if self.user_mss > 0 {
            self.snd.mss_clamp = self.snd.mss_clamp.min(self.user_mss);
        }
        if !self.opts.wscale {
            self.win.rcv_wscale = 0;
            self.win.window_clamp = self.win.window_clamp.min(window::MAX_FIELD);
        }
        if self.opts.timestamps {
            self.opts.header_len = 32;
            self.advmss = self.advmss.saturating_sub(12);
            self.store_ts_recent(cx, seg);
        }
        self.sync_mss(cx.shared.mtu);
        self.initialize_rcv_mss();
        self.ack.lrcvtime = cx.jiffies();
        self.init_buffer_space(cx);
        self.pred = None;
        if self.opts.snd_wscale == 0 {
            self.fast_path_on();
        }
        self.set_state(cx, State::Established);
        cx.shared.events.push_back(Event::Connected(self.id));
        self.send_ack(cx, AckNow::Handshake);
        self.push_pending(cx);
    }

    pub(crate) fn set_state(&mut self, cx: &mut Cx<'_>, to: State) {
        let from = self.state;
        if from == to {
            return;
        }
        self.state = to;
        self.decide(cx, move || Decision::State { from: from.as_str(), to: to.as_str() });
    }

    /// The peer's FIN is in order (`tcp_fin`).
    pub(crate) fn on_fin(&mut self, cx: &mut Cx<'_>) {
        self.ack.flags |= super::AckFlags::SCHED;
        self.rcv_shutdown = true;
        self.fin_received = true;
        match self.state {
            State::Established => {
                self.set_state(cx, State::CloseWait);
                self.enter_pingpong(cx);
            }
            State::FinWait1 => {
                self.send_ack(cx, AckNow::Handshake);
                self.set_state(cx, State::Closing);
            }
            State::FinWait2 => {
                self.send_ack(cx, AckNow::Handshake);
                self.enter_time_wait(cx);
            }
            State::CloseWait
            | State::Closing
            | State::LastAck
            | State::TimeWait
            | State::SynSent
            | State::Closed => {}
        }
        self.purge_ofo(cx);
        cx.shared.events.push_back(Event::PeerClosed(self.id));
    }

    /// A valid RST (`tcp_reset`).
    pub(crate) fn on_reset(&mut self, cx: &mut Cx<'_>) {
        let error = if self.state == State::CloseWait { SocketError::BrokenPipe } else { SocketError::Reset };
        self.fail(cx, error);
    }

    /// The connection is over with an error. What was received stays readable.
    pub(crate) fn fail(&mut self, cx: &mut Cx<'_>, error: SocketError) {
        self.error = Some(error);
        self.purge_send(cx);
        self.done(cx);
    }

    /// Nothing more will happen on the wire. What is queued stays charged until the application closes the socket, also
    /// what nobody can read any more (`tcp_reset`, `tcp_done`).
    pub(crate) fn done(&mut self, cx: &mut Cx<'_>) {
        if self.state == State::Closed {
            return;
        }
        // Not only resets: every way out of these two (`tcp_set_state`).
        if matches!(self.state, State::Established | State::CloseWait) {
            cx.count(Counter::TcpEstabResets);
        }
        self.set_state(cx, State::Closed);
        self.stop_timers();
        cx.shared.events.push_back(Event::Closed(self.id, self.error));
    }

    pub(crate) fn enter_time_wait(&mut self, cx: &mut Cx<'_>) {
        self.set_state(cx, State::TimeWait);
        if self.timer(Timer::Linger).is_none() {
            cx.count(Counter::TcpExtTW);
        }
        self.stop_timers();
        self.set_timer(Timer::Linger, Some(cx.now + TIME_WAIT));
    }

    /// Nobody reads any more: the peer's FIN is waited for, but not for ever. Linux does that as it does TIME-WAIT, in place
    /// of the socket, and counts it as such, unless the wait is longer.
    pub(crate) fn start_fin_timeout(&mut self, cx: &mut Cx<'_>) {
        let timeout = Duration::from_secs(u64::from(cx.shared.sysctl.tcp_fin_timeout));
        if timeout > TIME_WAIT {
            return self.set_timer(Timer::Linger, Some(cx.now + timeout));
        }
        cx.count(Counter::TcpExtTW);
        self.set_timer(Timer::Linger, Some(cx.now + timeout));
    }

    /// Old segments in TIME-WAIT are acknowledged; a retransmitted FIN starts the wait anew (RFC 9293 §3.10.7.4).
    pub(crate) fn rcv_time_wait(&mut self, cx: &mut Cx<'_>, seg: &TcpSegment) {
        if seg.flags.contains(TcpFlags::RST) {
            if seg.seq == self.rcv_nxt {
                self.done(cx);
            }
            return;
        }
        if seg.seq_len() > 0 {
            if seg.flags.contains(TcpFlags::FIN) {
                self.set_timer(Timer::Linger, Some(cx.now + TIME_WAIT));
            }
            self.send_ack(cx, AckNow::OutOfWindow);
        }
    }

    /// May a new SYN have the addresses of this TIME-WAIT (`tcp_timewait_state_process`)? RFC 6191 §2.
    pub(crate) fn reusable(&self, seg: &TcpSegment) -> bool {
        let later = match seg.options.timestamps.filter(|_| self.opts.timestamps) {
            Some(ts) => {
                let ahead = ts.tsval.wrapping_sub(self.opts.ts_recent) as i32;
                ahead > 0 || (ahead == 0 && seg.seq.after(self.rcv_nxt))
            }
            None => seg.seq.after(self.rcv_nxt),
        };
        self.state == State::TimeWait && later
    }

    /// Ends the connection with a RST.
    pub(crate) fn abort(&mut self, cx: &mut Cx<'_>) {
        if !matches!(self.state, State::Closed | State::TimeWait | State::SynSent) {
            let seq = self.acceptable_seq();
            cx.count(Counter::TcpOutRsts);
            self.transmit(cx, seq, TcpFlags::RST | TcpFlags::ACK, &[]);
        }
        self.purge_send(cx);
        self.done(cx);
    }

    /// The timer of TIME-WAIT or of an orphan in FIN-WAIT-2.
    pub(crate) fn on_linger_timer(&mut self, cx: &mut Cx<'_>) {
        self.set_timer(Timer::Linger, None);
        self.done(cx);
    }
}
