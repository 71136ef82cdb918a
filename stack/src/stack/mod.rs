//! The stack: its interface, its sockets, its timers. Frames, time and calls in; frames, wake-ups and decisions out.

mod audit;
mod config;
mod handshake;
mod shared;
#[cfg(test)]
mod tests;
mod timers;

use core::net::SocketAddr;
use std::collections::VecDeque;

use bytes::Bytes;
use rustc_hash::{FxHashMap, FxHashSet};
use slab::Slab;

pub(crate) use self::shared::Shared;
pub use self::{
    config::{ConfigError, Route, StackConfig},
    handshake::ListenOptions,
};
use self::{
    handshake::{Listener, Requests},
    timers::Timers,
};
use crate::{
    Event, Info, SocketError, SocketId, SocketOption,
    counters::{Counter, Counters},
    decision::{AckNow, Cause, Decision, DropReason, Record},
    iface::Verdict,
    mem::{GroupId, SockMem},
    profile::Profile,
    sysctl::{SysctlError, Sysctls},
    tcb::{Cx, State, Tcb, Timer},
    time::Instant,
    units::Seq,
    wire::{self, Damaged, Flow, Packet, RxMeta, TcpFlags, TcpSegment},
};

/// A frame to send.
#[derive(Clone, Debug)]
pub struct Transmit {
    /// The frame, without a virtio header; checksums are complete.
    pub frame: Bytes,
    /// The number that decisions about it carry ([`Record::tx`]); 0 for ARP, ND, ICMP and RSTs without a socket.
    pub id: u64,
}

/// Wake-ups beyond a few for each socket that may wait before repetitions are dropped.
const EVENTS: usize = 1024;

/// What is behind a [`SocketId`].
enum Slot {
    Listener(Listener),
    Connection(Box<Tcb>),
}

struct Entry {
    generation: u32,
    slot: Slot,
}

/// A TCP receive stack with its own interface, sysctls, memory account and sockets: one network namespace.
///
/// # Driving it
/// 1. Hand it frames with [`Stack::ingress`], calls of the application (`recv`, `connect` …), and, when the instant
///    that [`Stack::poll_timeout`] names has come, [`Stack::handle_timeout`]. Times must not run backwards.
/// 2. After each, take frames from [`Stack::poll_transmit`] until there are none, then wake-ups from
///    [`Stack::poll_event`] and, if tracing is on, decisions from [`Stack::poll_decision`].
///
/// Several frames may be handed in before anything is taken out, as a kernel may receive several before it sends.
pub struct Stack {
    shared: Shared,
    sockets: Slab<Entry>,
    next_generation: u32,
    by_tuple: FxHashMap<(SocketAddr, SocketAddr), u32>,
    listeners: FxHashMap<SocketAddr, u32>,
    requests: Requests,
    timers: Timers,
    /// The flow of the last segment that was for a connection, and that connection; the next segment usually is of the
    /// same.
    latest: Option<Box<(SocketId, Flow)>>,
    next_port: u16,
    frames_in: u64,
}

/// TCP header and payload up to which the checksum is verified on arrival.
const CHECKED_AT_ONCE: u32 = 76;

/// A sink that fills `buf` from its beginning.
fn filler(buf: &mut [u8]) -> impl FnMut(&[u8]) {
    let mut at = 0;
    move |piece| {
        if let Some(to) = buf.get_mut(at..at + piece.len()) {
            to.copy_from_slice(piece);
        }
        at += piece.len();
    }
}

impl Stack {
    /// A stack as configured.
    ///
    /// # Errors
    /// Names what in the configuration is impossible.
    pub fn new(config: StackConfig) -> Result<Self, ConfigError> {
        Ok(Stack {
            shared: Shared::new(config)?,
            sockets: Slab::new(),
            next_generation: 1,
            by_tuple: FxHashMap::default(),
            listeners: FxHashMap::default(),
            requests: Requests::default(),
            timers: Timers::default(),
            latest: None,
            next_port: 32_768,
            frames_in: 0,
        })
    }

    /// Turns the collection of decisions on or off; off costs nothing.
    pub fn set_tracing(&mut self, on: bool) {
        self.shared.log.listen(on);
    }

    /// The next decision, oldest first.
    #[inline]
    pub fn poll_decision(&mut self) -> Option<Record> {
        self.shared.log.take()
    }

    /// Decisions that were thrown away because nobody took them in time.
    #[must_use]
    pub fn decisions_lost(&self) -> u64 {
        self.shared.log.lost
    }

    /// The next frame to send.
    #[inline]
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        self.shared.iface.poll_transmit().map(|o| Transmit { frame: o.frame, id: o.tag })
    }

    /// The next wake-up. A wake-up says that something is so, not how often: accept, read and write until there is
    /// nothing more. If nobody asks for long, repetitions and wake-ups of closed sockets are dropped.
    #[inline]
    pub fn poll_event(&mut self) -> Option<Event> {
        self.shared.events.pop_front()
    }

    /// When the stack next wants [`Stack::handle_timeout`].
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let socket = self.timers.first().map(|(t, _)| t);
        [socket, self.requests.next_timeout(), self.shared.iface.poll_timeout()].into_iter().flatten().min()
    }

    /// A frame arrived. Its number is one more than the last frame's; the first is 1.
    pub fn ingress(&mut self, now: Instant, frame: &Bytes, meta: RxMeta) -> u64 {
        self.frames_in += 1;
        self.shared.log.cause = Cause::Frame(self.frames_in);
        if !self.follow(now, frame, meta) {
            self.arrive(now, frame, meta);
        }
        self.shared.log.cause = Cause::Call;
        self.frames_in
    }

    /// The frame that usually comes: the next segment for the connection that the last one was for. `false` if it is
    /// another; nothing has happened then.
    #[inline]
    fn follow(&mut self, now: Instant, frame: &Bytes, meta: RxMeta) -> bool {
        let Some((id, flow)) = self.latest.as_deref_mut() else { return false };
        let Some(Entry { slot: Slot::Connection(t), generation }) = self.sockets.get_mut(id.index as usize)
        else {
            return false;
        };
        // An open connection has its addresses for itself, so that its word counts as much as the table's.
        if *generation != id.generation || t.state == State::Closed {
            return false;
        }
        let Some(payload) = flow.next(self.shared.medium(), frame, meta) else { return false };
        let segment = flow.segment();
        self.shared.iface.on_next(now, segment);
        self.shared.counters.inc(Counter::TcpInSegs);
        self.shared.enter(now);
        t.on_segment(&mut Cx { now, shared: &mut self.shared }, segment, frame, payload);
        let (index, closed) = (id.index, t.state == State::Closed);
        if t.timers_moved
            && let Some(next) = t.reschedule()
        {
            self.timers.set(index, next);
        }
        self.leave(now, index, closed);
        true
    }

    /// Any frame.
    #[inline(never)]
    fn arrive(&mut self, now: Instant, frame: &Bytes, meta: RxMeta) {
        match wire::parse(self.shared.medium(), frame, meta) {
            // By reference: a segment is large.
            Ok(Packet::Tcp(ref mut segment)) => {
                if self.shared.iface.on_tcp(now, segment) {
                    self.on_segment(now, segment);
                } else {
                    self.on_bad_frame(now, DropReason::NotForUs);
                }
            }
            Ok(packet) => self.on_packet(now, packet),
            Err(e) => {
                if let Some(damaged) = e.damaged {
                    self.on_damaged(now, damaged, e.len);
                }
                self.on_bad_frame(now, e.reason);
            }
        }
    }

    fn on_bad_frame(&mut self, now: Instant, reason: DropReason) {
        self.shared.log.push(now, None, move || Decision::Dropped { reason, seq: Seq(0), len: 0 });
    }

    /// A TCP segment with a wrong checksum. A short one is checked before its socket is looked for; a longer one is counted
    /// there first (`tcp_v4_rcv`, `skb_checksum_init`).
    fn on_damaged(&mut self, now: Instant, mut damaged: Damaged, len: u32) {
        if self.shared.driver.hides_segments() {
            damaged.segments = 1;
        }
        self.shared.counters.add(Counter::TcpInSegs, u64::from(damaged.segments));
        self.shared.counters.inc(Counter::TcpInCsumErrors);
        self.shared.counters.inc(Counter::TcpInErrs);
        if damaged.tcp_len > CHECKED_AT_ONCE
            && let Some(&index) = self.by_tuple.get(&(damaged.dst, damaged.src))
        {
            self.with(now, index, |t, _| t.on_damaged(damaged.segments, len));
        }
    }

    fn on_packet(&mut self, now: Instant, packet: Packet) {
        match self.shared.iface.on_packet(now, packet) {
            Verdict::Deliver(mut segment) => self.on_segment(now, &mut segment),
            Verdict::Dropped(reason) => self.on_bad_frame(now, reason),
            Verdict::Consumed => {}
        }
    }

    fn on_segment(&mut self, now: Instant, seg: &mut TcpSegment) {
        if self.shared.driver.hides_segments() {
            seg.gso_segs = 1;
        }
        self.shared.counters.add(Counter::TcpInSegs, u64::from(seg.gso_segs.max(1)));
        if let Some(&index) = self.by_tuple.get(&(seg.dst, seg.src)) {
            let reuse = seg.flags.contains(TcpFlags::SYN)
                && !seg.flags.intersects(TcpFlags::ACK | TcpFlags::RST)
                && self.connection(index).is_some_and(|t| t.reusable(seg));
            if !reuse {
                let payload = core::mem::take(&mut seg.payload);
                self.with(now, index, |t, cx| t.on_segment(cx, seg, &payload, 0..payload.len()));
                self.remember(index, seg);
                return;
            }
            // The addresses are free again; what the old connection received can still be read.
            self.with(now, index, |t, cx| t.done(cx));
        }
        if self.on_handshake(now, seg) {
            return;
        }
        let (seq, len) = (seg.seq, seg.payload_len());
        self.shared.log.push(now, None, move || Decision::Dropped { reason: DropReason::NoSocket, seq, len });
        self.shared.reset(now, seg);
    }

    /// Others may follow this segment. It is taken.
    fn remember(&mut self, index: u32, seg: &mut TcpSegment) {
        let Some(Entry { generation, .. }) = self.sockets.get(index as usize) else { return };
        let id = SocketId { index, generation: *generation };
        match self.latest.as_deref_mut() {
            Some((latest, flow)) => {
                if flow.lead(seg) {
                    *latest = id;
                }
            }
            None => self.latest = Flow::of(seg.clone()).map(|flow| Box::new((id, flow))),
        }
    }

    /// The instant named by [`Stack::poll_timeout`] has come.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.shared.log.cause = Cause::Timer;
        self.shared.iface.handle_timeout(now);
        self.retransmit_syn_acks(now);
        while let Some((at, index)) = self.timers.first() {
            if at > now {
                break;
            }
            self.timers.set(index, None);
            if let Some(t) = self.connection_mut(index) {
                t.scheduled = None;
                t.timers_moved = true;
            }
            self.with(now, index, |t, cx| {
                for timer in [Timer::DelayedAck, Timer::SackCompression, Timer::Retransmit, Timer::Linger] {
                    if t.timer(timer).is_some_and(|at| at <= cx.now) {
                        match timer {
                            Timer::DelayedAck => t.on_delack_timer(cx),
                            Timer::SackCompression => t.flush_compressed(cx),
                            Timer::Retransmit => t.on_retransmit_timer(cx),
                            Timer::Linger => t.on_linger_timer(cx),
                        }
                    }
                }
            });
        }
        self.shared.log.cause = Cause::Call;
    }

    // ---- sockets -------------------------------------------------------------------------------------------------

    /// Opens a listener on `local`.
    ///
    /// # Errors
    /// [`SocketError::AddressInUse`] if there is one, [`SocketError::Invalid`] if the address is not this stack's.
    pub fn listen(&mut self, local: SocketAddr, options: ListenOptions) -> Result<SocketId, SocketError> {
        if !local.ip().is_unspecified() && !self.shared.iface.owns(local.ip()) {
            return Err(SocketError::NoSuchAddress);
        }
        if self.listeners.contains_key(&local) {
            return Err(SocketError::AddressInUse);
        }
        let listener = Listener::new(&self.shared, options);
        let id = self.insert(Slot::Listener(listener));
        self.listeners.insert(local, id.index);
        Ok(id)
    }

    /// Connects to `remote`; [`Event::Connected`] or [`Event::Closed`] follows. `local_port` 0 chooses one.
    ///
    /// # Errors
    /// [`SocketError::NoSuchAddress`] without an address of the right family, [`SocketError::AddressInUse`] if the
    /// pair of addresses is taken.
    pub fn connect(
        &mut self,
        now: Instant,
        remote: SocketAddr,
        local_port: u16,
        options: &ListenOptions,
    ) -> Result<SocketId, SocketError> {
        let ip = self.shared.iface.source_for(remote.ip()).ok_or(SocketError::NoSuchAddress)?;
        let port = if local_port == 0 { self.free_port(ip, remote)? } else { local_port };
        let local = SocketAddr::new(ip, port);
        if self.by_tuple.contains_key(&(local, remote)) {
            return Err(SocketError::AddressInUse);
        }
        let (options, mem) = options.clone().settled(&self.shared);
        let generation = self.next_generation;
        let index = self.sockets.vacant_key() as u32;
        let id = SocketId { index, generation };
        let iss = self.shared.initial_seq(local, remote);
        let route = self.shared.route.clone();
        let mut cx = Cx { now, shared: &mut self.shared };
        let t = Tcb::connect(&mut cx, id, local, remote, &options, mem, iss, &route);
        let id = self.insert(Slot::Connection(Box::new(t)));
        self.by_tuple.insert((local, remote), id.index);
        self.shared.mem.sockets += 1;
        // Its timers are news.
        self.with(now, id.index, |_, _| ());
        Ok(id)
    }

    fn free_port(&mut self, ip: core::net::IpAddr, remote: SocketAddr) -> Result<u16, SocketError> {
        for _ in 0..28_232 {
            let port = self.next_port;
            self.next_port = if port >= 60_999 { 32_768 } else { port + 1 };
            if !self.by_tuple.contains_key(&(SocketAddr::new(ip, port), remote)) {
                return Ok(port);
            }
        }
        Err(SocketError::AddressInUse)
    }

    /// Takes a connection that a listener completed.
    pub fn accept(&mut self, listener: SocketId) -> Option<SocketId> {
        let id = match self.entry_mut(listener).ok()? {
            Slot::Listener(l) => l.ready.pop_front()?,
            Slot::Connection(_) => return None,
        };
        if let Some(t) = self.connection_mut(id.index) {
            t.accepted = true;
        }
        Some(id)
    }

    /// Reads up to `max` bytes, handing them to `sink` in pieces. `Ok(0)` is the end of the stream.
    ///
    /// # Errors
    /// [`SocketError::WouldBlock`] if there is nothing yet; the connection's error once it failed.
    pub fn recv_with(
        &mut self,
        now: Instant,
        id: SocketId,
        max: usize,
        sink: &mut dyn FnMut(&[u8]),
    ) -> Result<usize, SocketError> {
        self.call(now, id, |t, cx| t.recv(cx, max, sink))?
    }

    /// Reads into `buf`. `Ok(0)` is the end of the stream.
    ///
    /// # Errors
    /// As [`Stack::recv_with`].
    pub fn recv(&mut self, now: Instant, id: SocketId, buf: &mut [u8]) -> Result<usize, SocketError> {
        let max = buf.len();
        self.recv_with(now, id, max, &mut filler(buf))
    }

    /// Copies up to `buf.len()` unread bytes without taking them (MSG_PEEK). As in Linux, an ACK that is owed may go out as
    /// after a read of so much.
    ///
    /// # Errors
    /// As [`Stack::recv_with`].
    pub fn peek(&mut self, now: Instant, id: SocketId, buf: &mut [u8]) -> Result<usize, SocketError> {
        let max = buf.len();
        self.call(now, id, |t, cx| t.peek(cx, max, &mut filler(buf)))?
    }

    /// Copies up to `buf.len()` unread bytes for somebody who only looks: unlike [`Stack::peek`], nothing comes of it.
    ///
    /// # Errors
    /// [`SocketError::BadId`] for a socket that is gone or listens.
    pub fn unread(&self, id: SocketId, buf: &mut [u8]) -> Result<usize, SocketError> {
        let max = buf.len();
        Ok(self.tcb(id)?.look(max, &mut filler(buf)) as usize)
    }

    /// Says that nothing more will be read: once what is there has been read, the stream ends. What still arrives is
    /// queued as before (`shutdown(2)` with SHUT_RD).
    ///
    /// # Errors
    /// [`SocketError::BadId`] for a socket that is gone or listens, [`SocketError::NotConnected`] once the connection is over.
    pub fn shutdown_read(&mut self, now: Instant, id: SocketId) -> Result<(), SocketError> {
        self.call(now, id, |t, _| {
            t.rcv_shutdown = true;
            if t.is_open() { Ok(()) } else { Err(SocketError::NotConnected) }
        })?
    }

    /// Queues data to send. Returns how much was taken; less than all of it when the send buffer is full.
    ///
    /// # Errors
    /// [`SocketError::NotConnected`] before the handshake is done, [`SocketError::BrokenPipe`] after shutdown.
    pub fn send(&mut self, now: Instant, id: SocketId, data: &Bytes) -> Result<usize, SocketError> {
        self.call(now, id, |t, cx| match t.state {
            State::SynSent => Err(SocketError::NotConnected),
            State::Established | State::CloseWait if !t.snd_shutdown => Ok(t.queue_data(cx, data)),
            _ => Err(t.error.take().unwrap_or(SocketError::BrokenPipe)),
        })?
    }

    /// Says that nothing more will be sent; what arrives can still be read.
    ///
    /// # Errors
    /// [`SocketError::BadId`] for a socket that is gone or listens, [`SocketError::NotConnected`] once the connection is over.
    pub fn shutdown(&mut self, now: Instant, id: SocketId) -> Result<(), SocketError> {
        self.call(now, id, |t, cx| {
            let open = t.is_open();
            t.shutdown_send(cx);
            if open { Ok(()) } else { Err(SocketError::NotConnected) }
        })?
    }

    /// Closes a socket. Unread data turns this into a reset, as in Linux. The id is void afterwards.
    ///
    /// # Errors
    /// [`SocketError::BadId`] for a socket that is gone.
    pub fn close(&mut self, now: Instant, id: SocketId) -> Result<(), SocketError> {
        if let Slot::Listener(l) = self.entry_mut(id)? {
            let ready: VecDeque<SocketId> = core::mem::take(&mut l.ready);
            self.listeners.retain(|_, index| *index != id.index);
            self.requests.forget_listener(id);
            self.sockets.try_remove(id.index as usize);
            for child in ready {
                // Nobody will ever speak for it: the peer is told at once (`inet_csk_listen_stop`).
                let _ = self.abort(now, child);
            }
            return Ok(());
        }
        self.call(now, id, Tcb::close)
    }

    /// Ends a connection with a RST. The id is void afterwards.
    ///
    /// # Errors
    /// [`SocketError::BadId`] for a socket that is gone or listens.
    pub fn abort(&mut self, now: Instant, id: SocketId) -> Result<(), SocketError> {
        self.call(now, id, |t, cx| {
            t.pending_close.closed = true;
            t.abort(cx);
        })
    }

    /// A reader takes hold of the socket: segments go to its backlog until [`Stack::release`].
    ///
    /// # Errors
    /// [`SocketError::BadId`] for a socket that is gone or listens.
    pub fn hold(&mut self, now: Instant, id: SocketId) -> Result<(), SocketError> {
        self.call(now, id, |t, _| t.owned = true)
    }

    /// The reader lets go of the socket: the backlog is processed.
    ///
    /// # Errors
    /// [`SocketError::BadId`] for a socket that is gone or listens.
    pub fn release(&mut self, now: Instant, id: SocketId) -> Result<(), SocketError> {
        self.call(now, id, Tcb::release)
    }

    /// Sets a socket option on a connection.
    ///
    /// # Errors
    /// Names the option, the value and what it takes.
    pub fn set_option(
        &mut self,
        now: Instant,
        id: SocketId,
        option: SocketOption,
    ) -> Result<(), SocketError> {
        let forget_clamp = matches!(option, SocketOption::RcvBuf(_))
            && self.shared.profile.rcvbuf_clamp == crate::profile::RcvbufClamp::Moves;
        if let Slot::Listener(l) = self.entry_mut(id)? {
            l.options.set(option)?;
            if forget_clamp {
                // The buffer's own clamp takes the place of an earlier TCP_WINDOW_CLAMP.
                l.options.window_clamp = 0;
            }
            let (options, mem) = l.options.clone().settled(&self.shared);
            if let Slot::Listener(l) = self.entry_mut(id)? {
                l.options = options;
                l.mem = mem;
            }
            return Ok(());
        }
        self.call(now, id, |t, cx| match option {
            SocketOption::RcvBuf(v) => {
                t.set_rcvbuf(cx, v);
                Ok(())
            }
            SocketOption::RcvLowat(v) => {
                t.set_rcvlowat(cx, v);
                Ok(())
            }
            SocketOption::WindowClamp(v) => t.set_clamp_option(cx, v),
            SocketOption::QuickAck(on) => {
                t.set_quickack(cx, on);
                Ok(())
            }
            SocketOption::NoDelay(on) => {
                t.snd.nodelay = on;
                t.push_pending(cx);
                Ok(())
            }
            SocketOption::MaxSeg(v) => {
                option.check()?;
                t.user_mss = u32::from(v);
                t.snd.mss_clamp = t.snd.mss_clamp.min(u32::from(v));
                t.sync_mss(cx.shared.mtu);
                Ok(())
            }
            SocketOption::Group(g) => {
                t.mem.set_group(&mut cx.mem(), g);
                Ok(())
            }
            SocketOption::Steer(s) => {
                t.steering = s;
                Ok(())
            }
        })?
    }

    /// Makes an ACK leave now, with the window of the moment.
    ///
    /// # Errors
    /// [`SocketError::BadId`] for a socket that is gone or listens, [`SocketError::NotConnected`] before the handshake is
    /// done and once the connection is over.
    pub fn send_ack(&mut self, now: Instant, id: SocketId) -> Result<(), SocketError> {
        self.call(now, id, |t, cx| match t.state {
            State::SynSent | State::TimeWait | State::Closed => Err(SocketError::NotConnected),
            _ => {
                t.send_ack(cx, AckNow::Asked);
                Ok(())
            }
        })?
    }

    /// Largest IP packet, bytes.
    #[must_use]
    pub fn mtu(&self) -> u32 {
        self.shared.mtu
    }

    /// What the socket shows of itself.
    ///
    /// # Errors
    /// [`SocketError::BadId`] for a socket that is gone or listens.
    pub fn info(&self, id: SocketId) -> Result<Info, SocketError> {
        self.tcb(id).map(|t| Info::of(t, &self.shared))
    }

    /// Local and remote address of a connection.
    ///
    /// # Errors
    /// [`SocketError::BadId`] for a socket that is gone or listens.
    pub fn addresses(&self, id: SocketId) -> Result<(SocketAddr, SocketAddr), SocketError> {
        self.tcb(id).map(|t| (t.local, t.remote))
    }

    /// Ids of all connections.
    pub fn connections(&self) -> impl Iterator<Item = SocketId> + '_ {
        self.sockets.iter().filter_map(|(index, e)| match &e.slot {
            Slot::Connection(_) => Some(SocketId { index: index as u32, generation: e.generation }),
            Slot::Listener(_) => None,
        })
    }

    // ---- namespace ------------------------------------------------------------------------------------------------

    /// The counters of this stack.
    #[must_use]
    pub fn counters(&self) -> &Counters {
        &self.shared.counters
    }

    /// The profile in force.
    #[must_use]
    pub fn profile(&self) -> &Profile {
        &self.shared.profile
    }

    /// The sysctls in force.
    #[must_use]
    pub fn sysctls(&self) -> &Sysctls {
        &self.shared.sysctl
    }

    /// Sets a sysctl, as `sysctl -w` would.
    ///
    /// # Errors
    /// Names the sysctl, the value and the range.
    pub fn set_sysctl(&mut self, now: Instant, name: &str, value: &str) -> Result<(), SysctlError> {
        self.shared.sysctl.set(&self.shared.profile, name, value)?;
        let (name, number) = (name.to_owned(), value.split_whitespace().next().and_then(|w| w.parse().ok()));
        self.shared.log.push(now, None, move || Decision::Setting {
            name: name.into(),
            value: number.unwrap_or(0),
            sk_rcvbuf: 0,
            window_clamp: 0,
            rcv_ssthresh: 0,
        });
        Ok(())
    }

    /// Limits the receive and send memory of a group of sockets, as a memory cgroup does. Bytes, whole pages.
    pub fn set_group_limit(&mut self, group: GroupId, bytes: u64) {
        self.shared.mem.set_group_limit(group, bytes);
    }

    /// Pages that a group uses and its limit in pages, if the group has one.
    #[must_use]
    pub fn group_usage(&self, group: GroupId) -> Option<(i64, i64)> {
        self.shared.mem.group_usage(group)
    }

    /// Pages of 4096 bytes that all sockets use together, and whether there is pressure.
    #[must_use]
    pub fn memory(&self) -> (i64, bool) {
        (self.shared.mem.in_use(), self.shared.mem.under_pressure())
    }

    /// Adds a neighbour by hand: no ARP or ND is sent for it.
    pub fn add_neighbour(&mut self, ip: core::net::IpAddr, mac: wire::MacAddr) -> bool {
        self.shared.iface.add_neighbour(ip, mac)
    }

    // ---- plumbing -------------------------------------------------------------------------------------------------

    fn insert(&mut self, slot: Slot) -> SocketId {
        let generation = self.next_generation;
        self.next_generation = self.next_generation.wrapping_add(1);
        let index = self.sockets.insert(Entry { generation, slot }) as u32;
        SocketId { index, generation }
    }

    fn entry_mut(&mut self, id: SocketId) -> Result<&mut Slot, SocketError> {
        match self.sockets.get_mut(id.index as usize) {
            Some(e) if e.generation == id.generation => Ok(&mut e.slot),
            _ => Err(SocketError::BadId),
        }
    }

    fn tcb(&self, id: SocketId) -> Result<&Tcb, SocketError> {
        match self.sockets.get(id.index as usize) {
            Some(Entry { generation, slot: Slot::Connection(t) }) if *generation == id.generation => Ok(t),
            _ => Err(SocketError::BadId),
        }
    }

    fn connection(&self, index: u32) -> Option<&Tcb> {
        match self.sockets.get(index as usize) {
            Some(Entry { slot: Slot::Connection(t), .. }) => Some(t),
            _ => None,
        }
    }

    fn connection_mut(&mut self, index: u32) -> Option<&mut Tcb> {
        match self.sockets.get_mut(index as usize) {
            Some(Entry { slot: Slot::Connection(t), .. }) => Some(t),
            _ => None,
        }
    }

    /// Runs a call of the application on a connection.
    fn call<R>(
        &mut self,
        now: Instant,
        id: SocketId,
        f: impl FnOnce(&mut Tcb, &mut Cx<'_>) -> R,
    ) -> Result<R, SocketError> {
        self.tcb(id)?;
        self.with(now, id.index, f).ok_or(SocketError::BadId)
    }

    /// Runs `f` on a connection, then brings timers and slots up to date.
    fn with<R>(&mut self, now: Instant, index: u32, f: impl FnOnce(&mut Tcb, &mut Cx<'_>) -> R) -> Option<R> {
        self.shared.enter(now);
        let Some(Entry { slot: Slot::Connection(t), .. }) = self.sockets.get_mut(index as usize) else {
            return None;
        };
        let r = f(t, &mut Cx { now, shared: &mut self.shared });
        let (closed, moved) = (t.state == State::Closed, t.timers_moved);
        if moved {
            self.reschedule(index);
        }
        self.leave(now, index, closed);
        Some(r)
    }

    /// Brings the timer queue up to date.
    fn reschedule(&mut self, index: u32) {
        let Some(Entry { slot: Slot::Connection(t), .. }) = self.sockets.get_mut(index as usize) else {
            return;
        };
        if let Some(next) = t.reschedule() {
            self.timers.set(index, next);
        }
    }

    /// Something happened to a connection, which is `closed` now or not.
    #[inline(always)]
    fn leave(&mut self, now: Instant, index: u32, closed: bool) {
        if self.shared.events.len() > EVENTS + 8 * self.sockets.len() {
            self.trim_events();
        }
        if closed {
            self.on_closed(now, index);
        }
    }

    /// Leaves one wake-up of each kind for each socket there is.
    #[cold]
    fn trim_events(&mut self) {
        let mut seen = FxHashSet::default();
        let sockets = &self.sockets;
        self.shared.events.retain(|event| {
            let id = event.socket();
            let exists = sockets.get(id.index as usize).is_some_and(|e| e.generation == id.generation);
            exists && seen.insert((id, core::mem::discriminant(event)))
        });
    }

    /// A closed connection no longer answers for its addresses; it goes once the application has let go of it.
    #[cold]
    fn on_closed(&mut self, now: Instant, index: u32) {
        let Some(t) = self.connection(index) else { return };
        let tuple = (t.local, t.remote);
        if t.pending_close.closed {
            self.remove(now, index);
        } else if self.by_tuple.get(&tuple) == Some(&index) {
            self.by_tuple.remove(&tuple);
        }
    }

    #[cold]
    fn remove(&mut self, now: Instant, index: u32) {
        let Some(Entry { slot: Slot::Connection(mut t), .. }) = self.sockets.try_remove(index as usize)
        else {
            return;
        };
        self.timers.set(index, None);
        let tuple = (t.local, t.remote);
        if self.by_tuple.get(&tuple) == Some(&index) {
            self.by_tuple.remove(&tuple);
        }
        let mut cx = Cx { now, shared: &mut self.shared };
        t.purge_send(&mut cx);
        t.purge_ofo(&mut cx);
        for skb in core::mem::take(&mut t.queue) {
            t.mem.refund(&mut cx.mem(), skb.truesize);
        }
        t.mem.release_all(&mut cx.mem());
        debug_assert_eq!(t.mem.sk_rmem_alloc, 0, "charge and refund must balance");
        self.shared.mem.sockets -= 1;
    }

    pub(crate) fn adopt(&mut self, now: Instant, listener: SocketId, t: Tcb, seg: &TcpSegment) {
        let tuple = (t.local, t.remote);
        let id = self.insert(Slot::Connection(Box::new(t)));
        if let Some(t) = self.connection_mut(id.index) {
            t.id = id;
        }
        self.by_tuple.insert(tuple, id.index);
        self.shared.mem.sockets += 1;
        self.shared.counters.inc(Counter::TcpPassiveOpens);
        if let Ok(Slot::Listener(l)) = self.entry_mut(listener) {
            l.ready.push_back(id);
        }
        self.shared.log.push(now, Some(id), move || Decision::State { from: "SYN-RECV", to: "ESTAB" });
        self.shared.events.push_back(Event::Acceptable(listener));
        self.with(now, id.index, |t, cx| t.data_after_handshake(cx, seg));
    }

    /// A fresh memory account, for a connection of `group`.
    pub(crate) fn listener_memory(&self, id: SocketId) -> Option<(SockMem, ListenOptions)> {
        match self.sockets.get(id.index as usize) {
            Some(Entry { slot: Slot::Listener(l), .. }) => Some((l.mem.clone(), l.options.clone())),
            _ => None,
        }
    }
}
