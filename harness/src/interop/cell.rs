//! One peer in one situation: the loop between its wire and the receiver, and what is written down of it.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration as StdDuration;

use anyhow::{Context as _, Result};
use bytes::Bytes;
use rightedge_stack::{
    Event, ListenOptions, SocketId, SocketOption, Stack, StackConfig, State, Steering,
    decision::Record,
    iface::{IfaceConfig, Prefix},
    profile::Profile,
    time::{Duration, Instant},
    wire::RxMeta,
};
use sha2::{Digest as _, Sha256};

use super::capture::Capture;
use super::director::{Director, Facts};
use super::judge::End;
use super::situation::{Answers, Data, Situation, WindowIs};
use super::trace::{Content, Trace, Watch, Way};
use crate::link::{Dir, FrameMeta, Link};
use crate::observer::segment::{self, FIN, RST, SYN};
use crate::run::receiver_config;
use crate::run::wire::{PORT, STACK_IP, STACK_MAC, SenderReport, Wire};
use crate::scenario::{Clock, ReadSchedule};

/// A cell to be run.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The situation, at the scale it shall have.
    pub situation: Situation,
    /// Which clock its wire has.
    pub clock: Clock,
    /// The receiver's interface.
    pub iface: IfaceConfig,
    /// Where the receiver listens.
    pub receiver: SocketAddr,
    /// What the peer sends.
    pub content: Content,
    /// How many bytes of it, if that is known.
    pub total: Option<u64>,
    /// So many bytes are enough, if the peer may have more than the situation needs.
    pub enough: Option<u64>,
    /// How long it may take to a connection.
    pub connect: Duration,
    /// Seed of the receiver's numbers and of the link.
    pub seed: u64,
}

impl Plan {
    /// A cell for a peer of ours, which sends the pattern.
    #[must_use]
    pub fn new(situation: Situation, clock: Clock) -> Self {
        Plan {
            total: Some(situation.bytes.0),
            situation,
            clock,
            iface: IfaceConfig::ethernet(STACK_MAC, [Prefix::new(STACK_IP.into(), 24)]),
            receiver: SocketAddr::new(STACK_IP.into(), PORT),
            content: Content::Pattern,
            enough: None,
            connect: Duration::from_secs(30),
            seed: 1,
        }
    }

    /// The stack of its receiver.
    ///
    /// # Errors
    /// The situation names something that does not exist.
    pub fn stack(&self) -> Result<StackConfig> {
        let r = &self.situation.receiver;
        let profile = Profile::parse(&r.policy)?;
        let mut c = receiver_config(&profile, &r.sysctls, &r.driver)?;
        c.seed = self.seed;
        c.iface = self.iface.clone();
        Ok(c)
    }

    fn listen(&self) -> Result<ListenOptions> {
        let r = &self.situation.receiver;
        let mut o = ListenOptions {
            steering: r.window.map(|w| Steering::Window(w.as_u32())),
            wscale: r.wscale,
            ..ListenOptions::default()
        };
        o.set(SocketOption::MaxSeg(r.mss))?;
        if let Some(v) = r.so_rcvbuf {
            o.set(SocketOption::RcvBuf(i32::try_from(v.0).unwrap_or(i32::MAX)))?;
        }
        Ok(o)
    }
}

/// What came of it.
#[derive(Clone, Debug)]
pub struct Ran {
    /// What was on the wire.
    pub trace: Trace,
    /// How it ended.
    pub end: End,
    /// When, on the wire's clock, nanoseconds.
    pub ended_at: u64,
    /// The peer's account.
    pub sender: SenderReport,
    /// Steps that did not come to what they waited for.
    pub missed: Vec<String>,
    /// SHA-256 of what the application read, in hexadecimal.
    pub sha256: String,
    /// Bytes it read.
    pub read: u64,
}

/// Frames of the peer that are still looked at; a sender in any of the situations needs a fraction.
const MOST_FRAMES: u64 = 150_000;
/// Bytes that may be held back.
const MOST_HELD: usize = 64 << 20;
/// Frames and reads handled in one turn.
const BATCH: usize = 64;
/// The longest sleep: signals and limits are looked at this often.
const MAX_NAP: StdDuration = StdDuration::from_millis(100);
/// How long we wait for the last words after the end.
const LAST_WORDS: Duration = Duration::from_millis(500);
/// How long the closing may take once both have said so.
const CLOSING: Duration = Duration::from_secs(5);

/// What the link carries along with a frame.
#[derive(Clone, Copy, Debug, Default)]
struct Carried {
    meta: RxMeta,
    packet: u64,
}

impl FrameMeta for Carried {
    fn gso_size(&self) -> u16 {
        self.meta.gso_size
    }
}

struct Connection {
    id: SocketId,
    reader: ReadSchedule,
    director: Director,
    shut: bool,
}

struct Cell<'a, W: ?Sized> {
    plan: &'a Plan,
    wire: &'a mut W,
    stack: Stack,
    listener: SocketId,
    link: Link<Carried>,
    watch: Watch,
    capture: &'a mut Capture,
    stop: &'a AtomicBool,
    conn: Option<Connection>,
    held: VecDeque<(Bytes, Carried, u32)>,
    held_bytes: usize,
    frames: u64,
    segments: u64,
    last_segment: Instant,
    /// Data segments seen in the step that holds, for `lose`.
    data_in_step: u32,
    sent: i64,
    acked: i64,
    hash: Sha256,
    read: u64,
    records: Vec<Record>,
    began: Instant,
    /// The end that is settled, and when nothing more is waited for.
    ending: Option<(End, Instant)>,
}

/// Runs a cell on a wire. What is on the wire goes to `capture` as it comes.
///
/// # Errors
/// The wire or the capture failed, or the situation cannot be set up. What a peer does is never an error.
pub fn run<W: Wire + ?Sized>(
    plan: &Plan,
    wire: &mut W,
    capture: &mut Capture,
    stop: &Arc<AtomicBool>,
) -> Result<Ran> {
    let mut stack = Stack::new(plan.stack()?)?;
    stack.set_tracing(capture.is_on());
    let listener = stack.listen(plan.receiver, plan.listen()?).context("the receiver cannot listen")?;
    let mut link = plan.situation.link.clone();
    if link.seed == 0 {
        link.seed = plan.seed;
    }
    let began = wire.now();
    let mut cell = Cell {
        plan,
        wire,
        stack,
        listener,
        link: Link::new(&link),
        watch: Watch::new(plan.content),
        capture,
        stop,
        conn: None,
        held: VecDeque::new(),
        held_bytes: 0,
        frames: 0,
        segments: 0,
        last_segment: began,
        data_in_step: 0,
        sent: 0,
        acked: 0,
        hash: Sha256::new(),
        read: 0,
        records: Vec::new(),
        began,
        ending: None,
    };
    cell.link.set_record(false);
    let end = cell.go()?;
    let ended_at = cell.wire.now().min(Instant::from_nanos(u64::MAX >> 1));
    let sender = cell.wire.sender();
    cell.wire.stop(ended_at);
    cell.capture.flush()?;
    let missed = cell.conn.as_ref().map_or_else(Vec::new, |c| c.director.missed().to_vec());
    Ok(Ran {
        trace: cell.watch.into_trace(),
        end,
        ended_at: ended_at.as_nanos(),
        sender,
        missed,
        sha256: cell.hash.finalize().iter().map(|b| format!("{b:02x}")).collect(),
        read: cell.read,
    })
}

impl<W: Wire + ?Sized> Cell<'_, W> {
    fn go(&mut self) -> Result<End> {
        loop {
            let now = self.wire.now();
            let busy = self.turn(now)?;
            self.look_for_the_end(now)?;
            if let Some((end, at)) = self.ending
                && now >= at
            {
                return Ok(end);
            }
            self.capture.tick()?;
            if !busy {
                let until = self.next_deadline(now);
                self.wire.wait(until, MAX_NAP)?;
            }
        }
    }

    /// Everything that is to do now; true if something was.
    fn turn(&mut self, now: Instant) -> Result<bool> {
        let mut busy = false;
        for _ in 0..BATCH {
            let Some((frame, meta)) = self.wire.recv(now)? else {
                self.watch.nothing(now.as_nanos().saturating_sub(self.wire.lag().as_nanos()));
                break;
            };
            busy = true;
            self.on_peer(now, frame, meta)?;
            // The next frame may belong to the next step.
            self.advance(now)?;
        }
        self.deliver(now)?;
        if self.stack.poll_timeout().is_some_and(|t| t <= now) {
            self.stack.handle_timeout(now);
            self.settle(now, None)?;
        }
        self.read(now)?;
        self.advance(now)?;
        Ok(busy)
    }

    // ---- what comes from the peer ----------------------------------------------------------------------------------

    fn on_peer(&mut self, now: Instant, frame: Bytes, meta: RxMeta) -> Result<()> {
        self.frames += 1;
        let packet = self.capture.next_packet();
        let fate = self.fate(&frame);
        let seen = self.watch.frame(packet, now.as_nanos(), Way::FromPeer, fate != Fate::Passes, &frame);
        let Some(seen) = seen else {
            // ARP and the like, and segments of other connections: they are the receiver's business.
            return self.take(now, &frame, Carried { meta, packet }, true);
        };
        self.segments += 1;
        self.last_segment = now;
        let (len, is_reset) = (seen.len, seen.has(RST));
        if seen.is_data() {
            self.sent = self.sent.max(seen.end() + i64::from(seen.has(FIN)));
        }
        let carried = Carried { meta, packet };
        match fate {
            Fate::Passes if self.plan.situation.link.is_off() || len == 0 => {
                self.take(now, &frame, carried, true)?;
            }
            Fate::Passes => {
                self.capture.arrived(now, &frame, &[], None)?;
                self.link.push(now, Dir::Down, frame, carried);
            }
            Fate::Held => {
                self.capture.arrived(now, &frame, &[], Some("HELD BACK by the situation"))?;
                self.held_bytes += frame.len();
                self.held.push_back((frame, carried, len));
            }
            Fate::Lost => {
                self.capture.arrived(now, &frame, &[], Some("LOST by the situation"))?;
            }
            Fate::Refused => {
                self.capture.arrived(now, &frame, &[], Some("REFUSED by the situation"))?;
                if let Some(id) = self.conn.as_ref().map(|c| c.id)
                    && self.stack.send_ack(now, id).is_ok()
                {
                    self.settle(now, None)?;
                }
            }
        }
        if is_reset {
            self.end(End::Reset, now + LAST_WORDS);
        }
        Ok(())
    }

    /// What the step that holds does with a frame. Only data are its business.
    fn fate(&mut self, frame: &[u8]) -> Fate {
        let Some(step) = self.conn.as_ref().and_then(|c| c.director.step()) else { return Fate::Passes };
        let data =
            segment::parse(frame).is_ok_and(|s| (s.payload > 0 || s.has(FIN)) && !s.has(SYN) && !s.has(RST));
        if !data {
            return Fate::Passes;
        }
        self.data_in_step += 1;
        match step.data {
            Data::Take if step.lose.contains(&self.data_in_step) => Fate::Lost,
            Data::Take => Fate::Passes,
            Data::Hold if self.held_bytes < MOST_HELD => Fate::Held,
            Data::Hold | Data::Lose => Fate::Lost,
            Data::Refuse => Fate::Refused,
        }
    }

    /// Hands over what the link lets out.
    fn deliver(&mut self, now: Instant) -> Result<()> {
        while let Some((_, frame, carried)) = self.link.poll(now) {
            self.take(now, &frame, carried, false)?;
        }
        Ok(())
    }

    /// The receiver gets a frame; `fresh` if it has just come and is not in the capture yet.
    fn take(&mut self, now: Instant, frame: &Bytes, carried: Carried, fresh: bool) -> Result<()> {
        self.stack.ingress(now, frame, carried.meta);
        self.settle(now, Some((frame, fresh, carried.packet)))
    }

    // ---- what the receiver says ------------------------------------------------------------------------------------

    /// After anything happened to the stack: it is written down, and what it sends is sent.
    fn settle(&mut self, now: Instant, arrived: Option<(&Bytes, bool, u64)>) -> Result<()> {
        self.take_records();
        match arrived {
            Some((frame, true, _)) => self.capture.arrived(now, frame, &self.records, None)?,
            Some((_, false, packet)) => {
                self.capture.remark(format!("packet {packet} reaches the receiver"));
                self.capture.decisions(&self.records);
            }
            None => self.capture.decisions(&self.records),
        }
        self.welcome(now)?;
        while let Some(tx) = self.stack.poll_transmit() {
            self.take_records();
            let packet = self.capture.next_packet();
            let answers =
                self.conn.as_ref().and_then(|c| c.director.step()).map_or(Answers::Send, |s| s.answers);
            let is_tcp = segment::parse(&tx.frame).is_ok();
            let withheld = is_tcp && answers == Answers::Lose;
            let crowded = !withheld && !self.wire.send(now, &tx.frame)?;
            let lost = withheld || crowded;
            let seen = self.watch.frame(packet, now.as_nanos(), Way::ToPeer, lost, &tx.frame);
            if let Some(ack) = seen.and_then(|s| s.ack).filter(|_| !lost) {
                self.acked = self.acked.max(ack);
            }
            let note = match (withheld, crowded) {
                (true, _) => Some("LOST by the situation"),
                (_, true) => Some("LOST: the peer makes no room for it"),
                _ => None,
            };
            self.capture.departed(now, tx.id, &tx.frame, &self.records, note)?;
        }
        Ok(())
    }

    fn take_records(&mut self) {
        self.records.clear();
        while let Some(r) = self.stack.poll_decision() {
            self.records.push(r);
        }
    }

    /// The first connection is the one; further ones are shown the door.
    fn welcome(&mut self, now: Instant) -> Result<()> {
        while let Some(event) = self.stack.poll_event() {
            if let Event::Acceptable(_) = event {
                while let Some(id) = self.stack.accept(self.listener) {
                    if self.conn.is_some() {
                        let _ = self.stack.abort(now, id);
                        continue;
                    }
                    let virtual_clock = self.plan.clock == Clock::Virtual;
                    self.conn = Some(Connection {
                        id,
                        reader: ReadSchedule::new(self.plan.situation.receiver.read.clone(), now),
                        director: Director::new(&self.plan.situation, virtual_clock, now),
                        shut: false,
                    });
                    self.begin_step(now)?;
                }
            }
        }
        Ok(())
    }

    // ---- the situation ---------------------------------------------------------------------------------------------

    fn advance(&mut self, now: Instant) -> Result<()> {
        loop {
            let Some(c) = &mut self.conn else { return Ok(()) };
            let received = self.stack.info(c.id).map_or(0, |i| i.bytes_received);
            let position = |n: i64| u64::try_from(n).unwrap_or(0);
            let facts = Facts {
                now,
                received,
                sent: position(self.sent),
                acked: position(self.acked),
                segments: self.segments,
                last_segment: self.last_segment,
            };
            if c.director.advance(&facts).is_none() {
                return Ok(());
            }
            self.begin_step(now)?;
        }
    }

    fn begin_step(&mut self, now: Instant) -> Result<()> {
        self.data_in_step = 0;
        let Some((id, step)) = self.conn.as_ref().and_then(|c| Some((c.id, c.director.step()?.clone())))
        else {
            return Ok(());
        };
        self.watch.mark(now.as_nanos(), self.capture.packets(), &step.name);
        self.capture.remark(format!("STEP {}", step.name));
        // What is delivered and what is offered go out together, so the window is said first.
        let mut deliver = Vec::new();
        let mut room = step.deliver.map_or(0, |d| d.0);
        while let Some((_, _, len)) = self.held.front() {
            if u64::from(*len) > room {
                break;
            }
            room -= u64::from(*len);
            deliver.extend(self.held.pop_front());
        }
        if step.data != Data::Hold {
            self.held.clear();
        }
        self.held_bytes = self.held.iter().map(|(f, _, _)| f.len()).sum();
        let arriving: u64 = deliver.iter().map(|(_, _, len)| u64::from(*len)).sum();
        let received = self.stack.info(id).map_or(0, |i| i.bytes_received);
        let steering = match (step.window, step.edge) {
            (Some(WindowIs::Bytes(w)), _) => Some(Some(Steering::Window(w.as_u32()))),
            (Some(WindowIs::Natural), _) => Some(None),
            (None, Some(e)) => Some(Some(Steering::Edge(received + arriving + e.0))),
            (None, None) => None,
        };
        if let Some(steering) = steering {
            // A connection that is over cannot be steered any more; that it is over shows.
            let _ = self.stack.set_option(now, id, SocketOption::Steer(steering));
        }
        for (frame, carried, _) in &deliver {
            self.watch.reaches(carried.packet);
            self.take(now, frame, *carried, false)?;
        }
        if step.ack.unwrap_or(steering.is_some() || !deliver.is_empty())
            && self.stack.send_ack(now, id).is_ok()
        {
            self.settle(now, None)?;
        }
        Ok(())
    }

    fn read(&mut self, now: Instant) -> Result<()> {
        for _ in 0..BATCH {
            let Some(c) = &mut self.conn else { return Ok(()) };
            let id = c.id;
            let Ok(info) = self.stack.info(id) else { return Ok(()) };
            if info.state == State::CloseWait && info.recv_q == 0 {
                if !c.shut {
                    c.shut = true;
                    // Over already: there is nothing to shut.
                    let _ = self.stack.shutdown(now, id);
                    self.settle(now, None)?;
                }
                return Ok(());
            }
            let Some(want) = c.reader.poll(now, u64::from(info.recv_q)) else { return Ok(()) };
            let (hash, read) = (&mut self.hash, &mut self.read);
            let got = self.stack.recv_with(now, id, want as usize, &mut |piece| {
                hash.update(piece);
                *read += piece.len() as u64;
            });
            if got.is_err() {
                return Ok(());
            }
            self.settle(now, None)?;
        }
        Ok(())
    }

    // ---- the end ---------------------------------------------------------------------------------------------------

    fn end(&mut self, end: End, at: Instant) {
        if self.ending.is_none() {
            self.ending = Some((end, at));
        }
    }

    fn look_for_the_end(&mut self, now: Instant) -> Result<()> {
        if self.stop.load(Ordering::Relaxed) {
            self.ending = Some((End::Interrupted, now));
            return Ok(());
        }
        if self.ending.is_none() {
            self.settled(now);
        }
        match (self.ending, &self.conn) {
            // Both have closed, and the last acknowledgement has come.
            (Some((End::Complete, _)), Some(c)) if self.is_over(c.id) => {
                self.ending = Some((End::Complete, now));
            }
            (Some((End::Enough, _)), Some(c)) => {
                // Over already: there is nothing to abort.
                let _ = self.stack.abort(now, c.id);
                self.settle(now, None)?;
            }
            _ => {}
        }
        Ok(())
    }

    fn is_over(&self, id: SocketId) -> bool {
        let state = self.stack.info(id).map_or(State::Closed, |i| i.state);
        matches!(state, State::Closed | State::TimeWait) || self.wire.sender_done()
    }

    /// Is it settled how it ends?
    fn settled(&mut self, now: Instant) {
        if self.frames > MOST_FRAMES {
            return self.end(End::Flood, now);
        }
        let Some(c) = &self.conn else {
            if now == Instant::FAR_FUTURE
                || now.since(self.began) >= self.plan.connect
                || self.wire.sender_done()
            {
                self.end(End::NoConnection, now);
            }
            return;
        };
        if c.shut {
            // The last acknowledgement may be on its way.
            return self.end(End::Complete, now + CLOSING);
        }
        if let Some(enough) = self.plan.enough
            && c.director.is_last()
            && self.stack.info(c.id).is_ok_and(|i| i.bytes_received >= enough)
        {
            return self.end(End::Enough, now);
        }
        if self.wire.sender_done() {
            let gave_up = self.wire.sender().error.is_some();
            let end = if gave_up { End::GaveUp } else { End::PeerGone };
            return self.end(end, now + LAST_WORDS);
        }
        let late = match c.director.step() {
            None => now.since(c.director.began()) >= self.plan.situation.patience.0,
            Some(_) if c.director.is_last() => {
                now.since(c.director.began()) >= self.plan.situation.patience.0
            }
            Some(_) => false,
        };
        if late || now == Instant::FAR_FUTURE {
            self.end(End::TimeLimit, now);
        }
    }

    fn next_deadline(&self, now: Instant) -> Option<Instant> {
        let mut all =
            vec![self.stack.poll_timeout(), self.link.poll_timeout(), self.ending.map(|(_, at)| at)];
        match &self.conn {
            None => all.push(Some(self.began + self.plan.connect)),
            Some(c) => {
                all.push(c.reader.next_at(now));
                all.push(c.director.next_at(self.last_segment));
                if c.director.is_last() {
                    all.push(Some(c.director.began() + self.plan.situation.patience.0));
                }
            }
        }
        all.into_iter().flatten().min()
    }
}

/// What becomes of a frame of the peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Passes,
    Held,
    Lost,
    Refused,
}
