//! Listeners, and connections that are not open yet.
//!
//! Answers to (Linux 6.1 and 6.18): `tcp_conn_request`, `tcp_openreq_init_rwin`, `tcp_check_req`,
//! `tcp_v4_syn_recv_sock`. A half-open connection costs a request, not a socket; SYN cookies are not modelled.

use core::net::SocketAddr;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::{Shared, Slot, Stack};
use crate::{
    SocketError, SocketId, SocketOption, Steering,
    counters::Counter,
    decision::{Decision, DropReason},
    mem::{GroupId, SockMem},
    profile::{RcvbufClamp, SpaceModel},
    tcb::{Cx, HandshakeOutcome, Negotiated, Tcb, doubled_rcvbuf, first_window},
    time::{Duration, Instant},
    units::Seq,
    window::{self, InitialChoice},
    wire::{OutOptions, SegmentOut, TcpFlags, TcpSegment, Timestamps},
};

/// scaling_ratio of a socket that received nothing yet.
const FIRST_RATIO: u8 = 128;

/// Options of a socket before it is connected; connections of a listener inherit them.
#[derive(Clone, Debug)]
pub struct ListenOptions {
    /// SO_RCVBUF as given (it is doubled), if set.
    pub rcvbuf: Option<i32>,
    /// SO_RCVLOWAT.
    pub rcvlowat: i32,
    /// TCP_WINDOW_CLAMP; 0 for none.
    pub window_clamp: u32,
    /// TCP_MAXSEG; 0 for none.
    pub maxseg: u32,
    /// TCP_NODELAY.
    pub nodelay: bool,
    /// Length of the accept queue; capped by net.core.somaxconn.
    pub backlog: u32,
    /// The group whose memory limit applies.
    pub group: Option<GroupId>,
    /// The window is said from outside, from the handshake on.
    pub steering: Option<Steering>,
    /// The scale to offer, 0…14, instead of the one that follows from the buffer's limits.
    pub wscale: Option<u8>,
}

impl Default for ListenOptions {
    fn default() -> Self {
        ListenOptions {
            rcvbuf: None,
            rcvlowat: 1,
            window_clamp: 0,
            maxseg: 0,
            nodelay: false,
            backlog: 4096,
            group: None,
            steering: None,
            wscale: None,
        }
    }
}

impl ListenOptions {
    pub(crate) fn memory(&self, shared: &Shared) -> SockMem {
        let mut mem = SockMem::new(&shared.sysctl);
        mem.group = self.group;
        if let Some(v) = self.rcvbuf {
            mem.rcvbuf_locked = true;
            mem.sk_rcvbuf = doubled_rcvbuf(v, shared.sysctl.rmem_max);
        }
        mem
    }

    /// What the kernel makes of the options before anything is connected: SO_RCVBUF may set the clamp; SO_RCVLOWAT is
    /// capped by the buffer, and raises a buffer that is not locked, and the clamp with it.
    pub(crate) fn settled(mut self, shared: &Shared) -> (Self, SockMem) {
        let mut mem = self.memory(shared);
        if mem.rcvbuf_locked && self.window_clamp == 0 && shared.profile.rcvbuf_clamp == RcvbufClamp::Moves {
            let rule = window::space_rule(shared.profile.space, shared.sysctl.tcp_adv_win_scale, FIRST_RATIO);
            self.window_clamp = rule.window_from_space(mem.sk_rcvbuf).max(1152).unsigned_abs();
        }
        if self.rcvlowat <= 1 {
            return (self, mem);
        }
        let cap = if mem.rcvbuf_locked { mem.sk_rcvbuf >> 1 } else { shared.sysctl.tcp_rmem[2] >> 1 };
        let lowat = self.rcvlowat.min(cap);
        self.rcvlowat = lowat.max(1);
        if !mem.rcvbuf_locked {
            let rule = window::space_rule(shared.profile.space, shared.sysctl.tcp_adv_win_scale, FIRST_RATIO);
            let need = match shared.profile.space {
                SpaceModel::AdvWinScale => lowat.saturating_mul(2),
                SpaceModel::ScalingRatio => rule.space_from_window(lowat),
            };
            if need > mem.sk_rcvbuf {
                mem.sk_rcvbuf = need;
                match shared.profile.space {
                    SpaceModel::AdvWinScale => self.window_clamp = rule.window_from_space(need) as u32,
                    SpaceModel::ScalingRatio if self.window_clamp > 0 => {
                        self.window_clamp = self.window_clamp.max(lowat.unsigned_abs());
                    }
                    SpaceModel::ScalingRatio => {}
                }
            }
        }
        (self, mem)
    }

    /// Sets one option.
    ///
    /// # Errors
    /// Names the option, the value and what it takes.
    pub fn set(&mut self, option: SocketOption) -> Result<(), SocketError> {
        option.check()?;
        match option {
            SocketOption::RcvBuf(v) => self.rcvbuf = Some(v),
            SocketOption::RcvLowat(v) => self.rcvlowat = if v < 0 { i32::MAX } else { v.max(1) },
            SocketOption::WindowClamp(v) => self.window_clamp = if v == 0 { 0 } else { v.max(1152) },
            SocketOption::MaxSeg(v) => self.maxseg = u32::from(v),
            SocketOption::NoDelay(on) => self.nodelay = on,
            // Quick-ACK mode is a state of a connection; a listener has none to inherit.
            SocketOption::QuickAck(_) => {}
            SocketOption::Group(g) => self.group = g,
            SocketOption::Steer(s) => self.steering = s,
        }
        Ok(())
    }
}

pub(crate) struct Listener {
    pub(crate) options: ListenOptions,
    pub(crate) mem: SockMem,
    pub(crate) ready: VecDeque<SocketId>,
}

impl Listener {
    pub(crate) fn new(shared: &Shared, options: ListenOptions) -> Self {
        let (options, mem) = options.settled(shared);
        Listener { mem, options, ready: VecDeque::new() }
    }
}

#[derive(Clone, Debug)]
struct Request {
    listener: SocketId,
    irs: Seq,
    iss: Seq,
    peer_mss: u32,
    opts: Negotiated,
    first: InitialChoice,
    advmss: u32,
    sent_at: Instant,
    retransmits: u8,
    due: Instant,
}

type Tuple = (SocketAddr, SocketAddr);

/// Half-open connections, bounded by the listeners' backlogs.
#[derive(Default)]
pub(crate) struct Requests {
    open: BTreeMap<Tuple, Request>,
    /// How many each listener has: a flood at one does not close the others.
    counts: BTreeMap<SocketId, usize>,
    timers: BTreeSet<(Instant, Tuple)>,
}

/// The first SYN-ACK timeout; it doubles.
const SYN_ACK_TIMEOUT: Duration = Duration::from_secs(1);

impl Requests {
    pub(crate) fn next_timeout(&self) -> Option<Instant> {
        self.timers.first().map(|(t, _)| *t)
    }

    fn insert(&mut self, tuple: Tuple, r: Request) {
        self.timers.insert((r.due, tuple));
        *self.counts.entry(r.listener).or_default() += 1;
        self.open.insert(tuple, r);
    }

    fn of(&self, listener: SocketId) -> usize {
        self.counts.get(&listener).copied().unwrap_or(0)
    }

    fn remove(&mut self, tuple: &Tuple) -> Option<Request> {
        let r = self.open.remove(tuple)?;
        self.timers.remove(&(r.due, *tuple));
        if let Some(n) = self.counts.get_mut(&r.listener) {
            *n = n.saturating_sub(1);
        }
        Some(r)
    }

    pub(crate) fn forget_listener(&mut self, id: SocketId) {
        self.open.retain(|_, r| r.listener != id);
        self.counts.remove(&id);
        let open = &self.open;
        self.timers.retain(|(_, tuple)| open.contains_key(tuple));
    }
}

impl Stack {
    /// A segment without a connection: a SYN for a listener, or what follows one. False if nobody wants it.
    pub(super) fn on_handshake(&mut self, now: Instant, seg: &TcpSegment) -> bool {
        let tuple = (seg.dst, seg.src);
        if self.requests.open.contains_key(&tuple) {
            self.on_request(now, tuple, seg);
            return true;
        }
        let any = SocketAddr::new(
            if seg.dst.is_ipv4() {
                core::net::Ipv4Addr::UNSPECIFIED.into()
            } else {
                core::net::Ipv6Addr::UNSPECIFIED.into()
            },
            seg.dst.port(),
        );
        let Some(&index) = self.listeners.get(&seg.dst).or_else(|| self.listeners.get(&any)) else {
            return false;
        };
        if seg.flags.contains(TcpFlags::RST) {
            return true;
        }
        if seg.flags.contains(TcpFlags::ACK) || !seg.flags.contains(TcpFlags::SYN) {
            return !seg.flags.contains(TcpFlags::ACK);
        }
        if seg.flags.contains(TcpFlags::FIN) {
            return true;
        }
        let Some(generation) = self.sockets.get(index as usize).map(|e| e.generation) else { return false };
        self.on_syn(now, SocketId { index, generation }, tuple, seg);
        true
    }

    fn on_syn(&mut self, now: Instant, listener: SocketId, tuple: Tuple, seg: &TcpSegment) {
        let Some((mem, options)) = self.listener_memory(listener) else { return };
        let limit = options.backlog.min(self.shared.sysctl.somaxconn) as usize;
        let waiting = match self.entry_mut(listener) {
            Ok(Slot::Listener(l)) => l.ready.len(),
            _ => return,
        };
        if waiting > limit || self.requests.of(listener) > limit.max(1) {
            self.overflow(now, seg);
            return;
        }
        let (local, remote) = tuple;
        let s = &self.shared.sysctl;
        let o = &seg.options;
        let timestamps = o.timestamps.is_some() && s.tcp_timestamps;
        let wscale = o.wscale.is_some() && s.tcp_window_scaling;
        let sack = o.sack_permitted && s.tcp_sack;
        let route = self.shared.route.clone();
        let advmss = route.advmss(self.shared.mtu, local.is_ipv4(), options.maxseg);
        let mss = advmss.saturating_sub(if timestamps { 12 } else { 0 });
        let cx = Cx { now, shared: &mut self.shared };
        let first = first_window(&cx, &mem, &options, mss, wscale, &route);
        let peer_mss = u32::from(o.mss.unwrap_or(536)).max(1);
        // TCP_MAXSEG caps what the peer offers, not what is assumed when it offers nothing.
        let offered = options.maxseg > 0 && seg.options.mss.is_some();
        let peer_mss = if offered { peer_mss.min(options.maxseg) } else { peer_mss };
        let request = Request {
            listener,
            irs: seg.seq,
            iss: self.shared.initial_seq(local, remote),
            peer_mss,
            opts: Negotiated {
                sack,
                timestamps,
                wscale,
                snd_wscale: if wscale { o.wscale.unwrap_or(0).min(window::MAX_WSCALE) } else { 0 },
                header_len: if timestamps { 32 } else { 20 },
                ts_recent: o.timestamps.map_or(0, |t| t.tsval),
                ts_recent_stamp: now.as_nanos() / 1_000_000_000,
                ts_offset: self.shared.ts_offset(local, remote),
            },
            first,
            advmss,
            sent_at: now,
            retransmits: 0,
            due: now + SYN_ACK_TIMEOUT,
        };
        self.send_syn_ack(now, tuple, &request);
        self.requests.insert(tuple, request);
    }

    fn overflow(&mut self, now: Instant, seg: &TcpSegment) {
        self.shared.counters.inc(Counter::TcpExtListenOverflows);
        self.shared.counters.inc(Counter::TcpExtListenDrops);
        self.shared.log.push(now, None, move || Decision::Dropped {
            reason: DropReason::ListenOverflow,
            seq: seg.seq,
            len: seg.payload_len(),
        });
    }

    fn send_syn_ack(&mut self, now: Instant, (local, remote): Tuple, r: &Request) {
        let id = self.shared.log.begin_tx();
        let mut out = SegmentOut::new(local, remote);
        out.seq = r.iss;
        out.ack = r.irs + 1;
        out.flags = TcpFlags::SYN | TcpFlags::ACK;
        out.window = r.first.rcv_wnd.min(window::MAX_FIELD) as u16;
        out.options = OutOptions {
            mss: Some(r.advmss.min(65_535) as u16),
            wscale: r.opts.wscale.then_some(r.first.wscale),
            sack_permitted: r.opts.sack,
            timestamps: r.opts.timestamps.then(|| Timestamps {
                tsval: (now.as_millis() as u32).wrapping_add(r.opts.ts_offset),
                tsecr: r.opts.ts_recent,
            }),
            ..OutOptions::default()
        };
        self.shared.emit(now, &out, id);
        self.shared.log.end_tx();
        self.shared.counters.inc(Counter::TcpOutSegs);
    }

    /// A segment for a half-open connection (`tcp_check_req`).
    fn on_request(&mut self, now: Instant, tuple: Tuple, seg: &TcpSegment) {
        let Some(r) = self.requests.open.get(&tuple).cloned() else { return };
        if seg.flags.contains(TcpFlags::RST) {
            if seg.seq == r.irs + 1 {
                self.requests.remove(&tuple);
                self.shared.counters.inc(Counter::TcpAttemptFails);
            }
            return;
        }
        if seg.flags.contains(TcpFlags::SYN) {
            if seg.seq == r.irs && !seg.flags.contains(TcpFlags::ACK) {
                self.send_syn_ack(now, tuple, &r);
            }
            return;
        }
        if !seg.flags.contains(TcpFlags::ACK) {
            return;
        }
        if seg.ack != r.iss + 1 {
            self.shared.reset(now, seg);
            return;
        }
        // What the SYN-ACK could say of the window counts, not what the connection begins with (`tcp_synack_window`).
        let edge = r.irs + 1 + r.first.rcv_wnd.min(window::MAX_FIELD);
        if seg.seq.before(r.irs + 1) || seg.end_seq().after(edge) {
            return;
        }
        let Some((mem, options)) = self.listener_memory(r.listener) else { return };
        let limit = options.backlog.min(self.shared.sysctl.somaxconn) as usize;
        if matches!(self.entry_mut(r.listener), Ok(Slot::Listener(l)) if l.ready.len() > limit) {
            self.overflow(now, seg);
            return;
        }
        self.requests.remove(&tuple);
        let route = self.shared.route.clone();
        let outcome = HandshakeOutcome {
            irs: r.irs,
            iss: r.iss,
            peer_mss: r.peer_mss,
            opts: r.opts,
            first: r.first,
            advmss: r.advmss,
            synack_rtt_us: (r.retransmits == 0).then(|| now.since(r.sent_at).as_micros()),
        };
        let id = SocketId { index: u32::MAX, generation: 0 };
        let mut cx = Cx { now, shared: &mut self.shared };
        let t = Tcb::from_handshake(&mut cx, id, tuple.0, tuple.1, &options, mem, outcome, &route, seg);
        self.adopt(now, r.listener, t, seg);
    }

    pub(super) fn retransmit_syn_acks(&mut self, now: Instant) {
        while let Some(&(at, tuple)) = self.requests.timers.first() {
            if at > now {
                break;
            }
            let Some(mut r) = self.requests.remove(&tuple) else {
                self.requests.timers.pop_first();
                continue;
            };
            if r.retransmits >= self.shared.sysctl.tcp_synack_retries {
                self.shared.counters.inc(Counter::TcpAttemptFails);
                continue;
            }
            r.retransmits += 1;
            r.due = now + Duration::from_nanos(SYN_ACK_TIMEOUT.as_nanos() << r.retransmits.min(7));
            self.shared.counters.inc(Counter::TcpRetransSegs);
            self.send_syn_ack(now, tuple, &r);
            self.requests.insert(tuple, r);
        }
    }
}
