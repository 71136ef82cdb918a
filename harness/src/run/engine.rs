//! The run loop: one wire, one link, one stack, its readers, and everything that watches.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration as StdDuration;

use anyhow::{Context as _, Result};
use bytes::Bytes;
use rightedge_stack::{
    Event, Info, ListenOptions, SocketId, SocketOption, Stack, State,
    time::{Duration, Instant},
    units::Seq,
    wire::RxMeta,
};

use super::RunSpec;
use super::tally::Tally;
use super::wire::{PORT, SENDER_IP, STACK_IP, Wire};
use crate::link::{Dir, FrameMeta, Link};
use crate::observer::{
    Observer,
    segment::{self, NotTcp, Segment},
};
use crate::record::{Direction, Event as SampleEvent, RunDir, Sample, names};
use crate::scenario::ReadSchedule;
use crate::sender::{Role, first_mismatch};

/// What the link carries along with a frame.
#[derive(Clone, Copy, Debug, Default)]
struct Carried {
    meta: RxMeta,
}

impl FrameMeta for Carried {
    fn gso_size(&self) -> u16 {
        self.meta.gso_size
    }
}

/// One connection's reader and what was checked.
struct Reader {
    index: u32,
    schedule: ReadSchedule,
    read: u64,
    corrupt_at: Option<u64>,
    open: bool,
    /// At the last recorded sample, and at the last one tallied.
    seen: Marks,
    tallied: Marks,
    info: Info,
}

/// Per-socket statistics at the last sample: the next one shows what was added.
#[derive(Clone, Copy, Default)]
struct Marks {
    coalesced: u32,
    collapses: u32,
    prunes: u32,
    dropped: u32,
    memory_drops: u32,
    clamps: u32,
}

impl Marks {
    fn of(i: &Info) -> Self {
        Marks {
            coalesced: i.coalesced,
            collapses: i.collapses,
            prunes: i.prunes,
            dropped: i.memory_drops.wrapping_add(i.window_drops),
            memory_drops: i.memory_drops,
            clamps: i.clamps,
        }
    }
}

/// Why a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum EndReason {
    /// A limit of the scenario.
    TimeLimit,
    /// A limit of the scenario.
    PacketLimit,
    /// A limit of the scenario.
    ByteLimit,
    /// The sender's connections are over and everything was read.
    SenderDone,
    /// Ctrl-C or a termination signal.
    Interrupted,
}

/// What a connection came to.
#[derive(Clone, Debug, serde::Serialize)]
pub struct ConnectionEnd {
    /// Number of the connection.
    pub conn: u32,
    /// Its last view.
    pub info: Info,
    /// Payload bytes received in order.
    pub delivered: u64,
    /// Payload bytes read.
    pub read: u64,
    /// Offset of the first byte that was not what the sender wrote, read or unread.
    pub corrupt_at: Option<u64>,
}

/// Arrivals and reads that are recorded in full; from there on every second, and with each doubling half as many.
const FULL_RECORDS: u64 = 150_000;

/// Decides which events are recorded: all at first, then ever fewer, so that a run of hours stays readable.
struct Thinning {
    events: u64,
    step: u64,
}

impl Thinning {
    fn wants(&mut self) -> bool {
        self.events += 1;
        if self.events > FULL_RECORDS * self.step {
            self.step *= 2;
        }
        self.events.is_multiple_of(self.step)
    }
}

/// A run under way.
pub struct Engine<'a, W: Wire> {
    spec: &'a RunSpec,
    pub(super) wire: W,
    pub(super) stack: Stack,
    link: Link<Carried>,
    link_log: Option<BufWriter<File>>,
    pub(super) dir: RunDir,
    pub(super) observer: Observer,
    pub(super) tally: Tally,
    readers: BTreeMap<SocketId, Reader>,
    listener: Option<SocketId>,
    stop: Arc<AtomicBool>,
    started: Option<Instant>,
    frames: u64,
    packets: u64,
    cwnd: u32,
    cwnd_at: Instant,
    pub(super) sender_error_at: Option<f64>,
    thinning: Thinning,
    recording: bool,
    next_conn: u32,
    /// Kept to be filled anew in every turn.
    ids: Vec<SocketId>,
    answered: bool,
    link_flushed: std::time::Instant,
}

impl<'a, W: Wire> Engine<'a, W> {
    /// A run ready to start.
    ///
    /// # Errors
    /// The stack refuses its configuration or its listener.
    pub fn new(spec: &'a RunSpec, wire: W, dir: RunDir, stop: Arc<AtomicBool>) -> Result<Self> {
        let mut stack = Stack::new(spec.stack_config()?)?;
        stack.set_tracing(true);
        if spec.sender == super::SenderKind::Model {
            // The model does not ask for addresses; a kernel's device has one of its own choosing and is asked.
            stack.add_neighbour(SENDER_IP.into(), super::wire::SENDER_MAC);
        }
        let link_log = match spec.scenario.link.is_off() {
            true => None,
            false => {
                let path = dir.path().join(names::LINK);
                let file = File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
                Some(BufWriter::new(file))
            }
        };
        let mut engine = Engine {
            link_log,
            link: Link::new(&spec.scenario.link),
            tally: Tally::new(&spec.scenario.expect),
            spec,
            wire,
            stack,
            dir,
            observer: Observer::new(),
            readers: BTreeMap::new(),
            listener: None,
            stop,
            started: None,
            frames: 0,
            packets: 0,
            cwnd: 0,
            cwnd_at: Instant::ZERO,
            sender_error_at: None,
            thinning: Thinning { events: 0, step: 1 },
            recording: true,
            next_conn: 0,
            ids: Vec::new(),
            answered: false,
            link_flushed: std::time::Instant::now(),
        };
        let now = engine.wire.now();
        let options = engine.spec.listen_options()?;
        match spec.scenario.receiver.role {
            Role::Server => {
                let local = SocketAddr::new(STACK_IP.into(), PORT);
                engine.listener = Some(engine.stack.listen(local, options)?);
            }
            Role::Client => {
                let remote = SocketAddr::new(SENDER_IP.into(), PORT);
                for _ in 0..spec.scenario.sender.connections {
                    engine.connect(now, remote, &options)?;
                }
            }
        }
        Ok(engine)
    }

    fn connect(&mut self, now: Instant, remote: SocketAddr, options: &ListenOptions) -> Result<()> {
        self.stack.connect(now, remote, 0, options).context("cannot connect to the sender")?;
        self.settle(now, SampleEvent::Timer, None)
    }

    /// Runs until a limit, the sender's end, or a signal.
    ///
    /// # Errors
    /// A device or a file failed; what was recorded so far is on disk.
    pub fn run(&mut self) -> Result<EndReason> {
        loop {
            let now = self.wire.now();
            let busy = self.turn(now)?;
            if let Some(end) = self.end_reason(now) {
                self.log_link(Instant::FAR_FUTURE)?;
                self.dir.flush()?;
                return Ok(end);
            }
            self.log_link(now)?;
            let due = self.dir.tick()?;
            if !busy {
                let at_most = due.unwrap_or(MAX_NAP).min(MAX_NAP);
                let until = self.next_deadline(now);
                self.wire.wait(until, at_most)?;
            }
        }
    }

    /// Writes down what the link did; on disk within the flush interval, and at the end (`now` in the far future).
    fn log_link(&mut self, now: Instant) -> Result<()> {
        let Some(log) = &mut self.link_log else { return Ok(()) };
        for event in self.link.drain_events() {
            serde_json::to_writer(&mut *log, &event).context("cannot write link.jsonl")?;
            log.write_all(b"\n").context("cannot write link.jsonl")?;
        }
        if now == Instant::FAR_FUTURE || self.link_flushed.elapsed() >= StdDuration::from_millis(200) {
            self.link_flushed = std::time::Instant::now();
            log.flush().context("cannot write link.jsonl")?;
        }
        Ok(())
    }

    /// One turn: what has arrived, what is due, what can be read. True if there may be more at once.
    fn turn(&mut self, now: Instant) -> Result<bool> {
        // Whatever is handed to the sender may make it answer at this very instant.
        self.answered = false;
        let mut busy = false;
        for _ in 0..BATCH {
            let Some((frame, meta)) = self.wire.recv(now)? else { break };
            busy = true;
            self.link.push(now, Dir::Down, frame, Carried { meta });
            self.deliver(now)?;
        }
        self.deliver(now)?;
        if self.stack.poll_timeout().is_some_and(|t| t <= now) {
            self.stack.handle_timeout(now);
            self.settle(now, SampleEvent::Timer, None)?;
        }
        self.read(now)?;
        if now.since(self.cwnd_at) >= Duration::from_millis(100) {
            self.cwnd_at = now;
            self.look_at_sender(now);
        }
        Ok(busy || self.answered)
    }

    fn look_at_sender(&mut self, now: Instant) {
        let report = self.wire.sender();
        self.cwnd = report.cwnd;
        if report.error.is_some() && self.sender_error_at.is_none() {
            self.sender_error_at = Some(now.as_secs_f64());
        }
    }

    /// Hands over what the link lets out.
    fn deliver(&mut self, now: Instant) -> Result<()> {
        while let Some((dir, frame, carried)) = self.link.poll(now) {
            match dir {
                Dir::Down => self.arrive(now, &frame, carried.meta)?,
                Dir::Up => self.send_up(now, &frame)?,
            }
        }
        Ok(())
    }

    fn send_up(&mut self, now: Instant, frame: &Bytes) -> Result<()> {
        self.answered = true;
        self.wire.send(now, frame)?;
        Ok(())
    }

    fn arrive(&mut self, now: Instant, frame: &Bytes, meta: RxMeta) -> Result<()> {
        self.recording = self.thinning.wants();
        self.stack.set_tracing(self.recording);
        self.frames += 1;
        let number = self.stack.ingress(now, frame, meta);
        // The observer's parser supplies the figures in samples, so that they do not depend on the stack's.
        let arrival = segment::parse(frame);
        self.settle(now, SampleEvent::Rx, Some((number, frame, arrival)))
    }

    /// After anything happened: record it, send what is to be sent, welcome new connections.
    fn settle(
        &mut self,
        now: Instant,
        event: SampleEvent,
        arrived: Option<(u64, &Bytes, Result<Segment, NotTcp>)>,
    ) -> Result<()> {
        let t = now.as_nanos();
        let mut pcap = None;
        if let Some((number, frame, arrival)) = &arrived {
            let packet = if self.recording {
                let records = std::iter::from_fn(|| self.stack.poll_decision());
                self.dir.arrived(*number, t, frame, records)?
            } else {
                self.dir.packets()
            };
            pcap = self.recording.then_some(packet);
            self.observer.parsed(packet, t, Direction::In, arrival.as_ref());
        } else if self.recording {
            self.dir.decisions(std::iter::from_fn(|| self.stack.poll_decision()))?;
        }
        self.welcome(now)?;
        if let Some((_, _, arrival)) = &arrived {
            self.packets += u64::from(arrival.is_ok());
            self.sample(now, event, pcap, arrival.as_ref().ok(), None)?;
        } else if event == SampleEvent::Read {
            self.sample(now, event, None, None, None)?;
        }
        while let Some(tx) = self.stack.poll_transmit() {
            let packet = if self.recording {
                let records = std::iter::from_fn(|| self.stack.poll_decision());
                self.dir.departed(tx.id, t, &tx.frame, records)?
            } else {
                self.dir.packets()
            };
            let departure = segment::parse(&tx.frame);
            self.observer.parsed(packet, t, Direction::Out, departure.as_ref());
            if let Ok(out) = departure {
                self.sample(now, SampleEvent::Tx, self.recording.then_some(packet), None, Some(&out))?;
            }
            self.link.push(now, Dir::Up, tx.frame, Carried::default());
        }
        while let Some((dir, frame, carried)) = self.link.poll(now) {
            match dir {
                Dir::Up => self.send_up(now, &frame)?,
                // A frame that the link let out at this very instant is handled in its turn.
                Dir::Down => {
                    self.link.push(now, Dir::Down, frame, carried);
                    break;
                }
            }
        }
        Ok(())
    }

    /// New connections get a reader; closed ones lose theirs.
    fn welcome(&mut self, now: Instant) -> Result<()> {
        while let Some(event) = self.stack.poll_event() {
            match event {
                Event::Acceptable(listener) => {
                    while let Some(id) = self.stack.accept(listener) {
                        self.open(now, id)?;
                    }
                }
                Event::Connected(id) => self.open(now, id)?,
                Event::Closed(id, error) => {
                    if let Some(r) = self.readers.get_mut(&id) {
                        r.open = false;
                    } else if let Some(e) = error {
                        anyhow::bail!("the connection to the sender failed: {e}");
                    }
                }
                Event::Readable(_) | Event::Writable(_) | Event::PeerClosed(_) => {}
            }
        }
        Ok(())
    }

    fn open(&mut self, now: Instant, id: SocketId) -> Result<()> {
        self.started.get_or_insert(now);
        let options = &self.spec.scenario.receiver.options;
        if let Some(on) = options.quickack {
            self.stack.set_option(now, id, SocketOption::QuickAck(on))?;
        }
        let index = self.next_conn;
        self.next_conn += 1;
        let info = self.stack.info(id)?;
        let schedule = ReadSchedule::new(self.spec.scenario.receiver.read.clone(), now);
        self.readers.insert(
            id,
            Reader {
                index,
                schedule,
                read: 0,
                corrupt_at: None,
                open: true,
                seen: Marks::of(&info),
                tallied: Marks::of(&info),
                info,
            },
        );
        Ok(())
    }

    /// Lets every reader read that is due.
    fn read(&mut self, now: Instant) -> Result<()> {
        let mut ids = std::mem::take(&mut self.ids);
        ids.clear();
        ids.extend(self.readers.keys());
        let result = ids.iter().try_for_each(|id| self.read_from(now, *id));
        self.ids = ids;
        result
    }

    fn read_from(&mut self, now: Instant, id: SocketId) -> Result<()> {
        for _ in 0..BATCH {
            let Ok(info) = self.stack.info(id) else { break };
            if info.state == State::CloseWait && info.recv_q == 0 {
                // The reader has come to the end of the stream: it closes its side, as a program would.
                // Over already: there is nothing to shut.
                let _ = self.stack.shutdown(now, id);
                self.settle(now, SampleEvent::Timer, None)?;
                break;
            }
            let Some(r) = self.readers.get_mut(&id) else { break };
            let Some(want) = r.schedule.poll(now, u64::from(info.recv_q)) else { break };
            self.recording = self.thinning.wants();
            self.stack.set_tracing(self.recording);
            let (mut at, mut bad) = (r.read, None);
            let got = self.stack.recv_with(now, id, want as usize, &mut |piece| {
                bad = bad.or_else(|| first_mismatch(at, piece));
                at += piece.len() as u64;
            });
            r.corrupt_at = r.corrupt_at.or(bad);
            r.read = at;
            if got.is_err() {
                break;
            }
            self.settle(now, SampleEvent::Read, None)?;
        }
        Ok(())
    }

    /// One sample per connection concerned: the one whose figures changed last.
    fn sample(
        &mut self,
        now: Instant,
        event: SampleEvent,
        pcap: Option<u64>,
        arrived: Option<&Segment>,
        departed: Option<&Segment>,
    ) -> Result<()> {
        let port = arrived.map(|a| a.source.port()).or_else(|| departed.map(|d| d.destination.port()));
        for (&id, r) in &mut self.readers {
            if ids_differ(self.next_conn, port, || self.stack.addresses(id).ok().map(|(_, r)| r.port())) {
                continue;
            }
            let Ok(info) = self.stack.info(id) else { continue };
            if event == SampleEvent::Read && info.copied_seq == r.info.copied_seq {
                continue;
            }
            let now_marks = Marks::of(&info);
            let first = info.irs + 1;
            let near = info.bytes_received;
            let rel = |s: Seq| unwrap(s.since(first), near);
            let rcv_nxt = near as i64;
            let edge = info.rcv_wup + info.rcv_wnd;
            let s = Sample {
                packet: self.packets,
                t_ns: now.as_nanos(),
                event,
                conn: r.index,
                rx_seq: arrived.map_or(0, |a| rel(Seq(a.seq))),
                rx_len: arrived.map_or(0, |a| a.payload),
                rx_flags: arrived.or(departed).map(|a| a.letters().collect()).unwrap_or_default(),
                tx_ack: departed.map(|d| rel(Seq(d.ack))),
                tx_win_field: departed.map(|d| d.window),
                tx_wnd: departed.map(|d| u32::from(d.window) << info.rcv_wscale),
                right_edge: rel(edge),
                skmem_rb: i64::from(info.mem.rcvbuf),
                skmem_r: i64::from(info.mem.rmem_alloc),
                skmem_f: i64::from(info.mem.fwd_alloc as i32),
                skmem_bl: i64::from(info.mem.backlog),
                recv_q: i64::from(info.recv_q),
                ofo_bytes: info.ofo_bytes as i64,
                rcv_win: i64::from(info.rcv_win),
                rcv_ssthresh: i64::from(info.rcv_ssthresh),
                window_clamp: i64::from(info.window_clamp),
                rcv_wnd: i64::from(info.rcv_wnd),
                rcv_mss: i64::from(info.rcv_mss),
                scaling_ratio: matches!(
                    self.stack.profile().space,
                    rightedge_stack::profile::SpaceModel::ScalingRatio
                )
                .then_some(info.scaling_ratio),
                rcv_nxt,
                acked: rel(info.rcv_wup),
                copied: r.read as i64,
                coalesced: now_marks.coalesced.wrapping_sub(r.seen.coalesced),
                collapsed: now_marks.collapses.wrapping_sub(r.seen.collapses),
                pruned: now_marks.prunes.wrapping_sub(r.seen.prunes),
                dropped: now_marks.dropped.wrapping_sub(r.seen.dropped),
                clamped: now_marks.clamps.wrapping_sub(r.seen.clamps),
                pcap_packet: pcap,
            };
            self.tally.collapses += u64::from(now_marks.collapses.wrapping_sub(r.tallied.collapses));
            let drops = now_marks.memory_drops.wrapping_sub(r.tallied.memory_drops);
            self.tally.note_drops(u64::from(drops), self.packets);
            self.tally.add(&s, self.cwnd);
            r.tallied = now_marks;
            r.info = info;
            if self.recording {
                // Figures of events that are not recorded go into the next one that is.
                self.dir.sample(s)?;
                r.seen = now_marks;
            }
        }
        Ok(())
    }

    fn next_deadline(&self, now: Instant) -> Option<Instant> {
        let reads = self.readers.values().filter_map(|r| r.schedule.next_at(now));
        let limit = self.spec.scenario.limits.time.zip(self.started).map(|(t, s)| s + t.0);
        reads.chain(limit).chain(self.stack.poll_timeout()).chain(self.link.poll_timeout()).min()
    }

    fn end_reason(&mut self, now: Instant) -> Option<EndReason> {
        if self.stop.load(Ordering::Relaxed) {
            return Some(EndReason::Interrupted);
        }
        let limits = &self.spec.scenario.limits;
        let since = self.started.map_or(now.since(Instant::ZERO), |s| now.since(s));
        if now == Instant::FAR_FUTURE || limits.time.is_some_and(|t| since >= t.0) {
            return Some(EndReason::TimeLimit);
        }
        if limits.packets.is_some_and(|p| self.packets >= p) {
            return Some(EndReason::PacketLimit);
        }
        if limits.bytes.is_some_and(|b| self.delivered() >= b.0) {
            return Some(EndReason::ByteLimit);
        }
        if !self.wire.sender_done() || self.link.poll_timeout().is_some() {
            return None;
        }
        self.look_at_sender(now);
        // A sender that failed sends no more; what it left unread is kept for the report.
        let unread = self.sender_error_at.is_none()
            && self
                .readers
                .values()
                .any(|r| r.open && r.info.recv_q > 0 && r.schedule.next_at(now).is_some());
        (!unread).then_some(EndReason::SenderDone)
    }

    fn delivered(&self) -> u64 {
        self.readers.values().map(|r| r.info.bytes_received).sum()
    }

    /// The last state of all connections; unread bytes are checked too.
    pub fn endings(&mut self) -> Vec<ConnectionEnd> {
        let mut all = Vec::new();
        for (id, r) in &self.readers {
            let info = self.stack.info(*id).unwrap_or_else(|_| r.info.clone());
            let mut unread = vec![0; info.recv_q as usize];
            let n = self.stack.unread(*id, &mut unread).unwrap_or(0);
            let corrupt = first_mismatch(r.read, unread.get(..n).unwrap_or_default());
            all.push(ConnectionEnd {
                conn: r.index,
                delivered: r.read + u64::from(info.recv_q),
                info,
                read: r.read,
                corrupt_at: r.corrupt_at.or(corrupt),
            });
        }
        all.sort_by_key(|c| c.conn);
        all
    }

    /// How much of the run was recorded: 1 for all of it, else every n-th event at the end.
    pub fn thinned(&self) -> u64 {
        self.thinning.step
    }

    /// Link statistics, if there is a link.
    pub fn link_stats(&self) -> Option<serde_json::Value> {
        (!self.spec.scenario.link.is_off()).then(
            || serde_json::json!({ "down": self.link.stats(Dir::Down), "up": self.link.stats(Dir::Up) }),
        )
    }
}

/// Frames and reads handled in one turn.
const BATCH: usize = 64;
/// The longest sleep: signals and limits are looked at this often.
const MAX_NAP: StdDuration = StdDuration::from_millis(100);

/// Is the connection another one than the frame belongs to? With a single connection there is no question.
fn ids_differ(connections: u32, port: Option<u16>, remote: impl FnOnce() -> Option<u16>) -> bool {
    connections > 1 && port.is_some() && port != remote()
}

/// A signed 32-bit distance near a 64-bit position.
fn unwrap(distance: i32, near: u64) -> i64 {
    let near = near as i64;
    near + i64::from(distance.wrapping_sub(near as i32))
}
