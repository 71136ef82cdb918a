//! One script on one connection.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use rightedge_stack::units::Seq;
use rightedge_stack::wire::forge::{Checksum, Forge};
use rightedge_stack::wire::{OutOptions, TcpFlags, TcpSegment, Timestamps};
use rightedge_tapctl::observe::{self, KernelSocketView};
use rightedge_tapctl::sysctl::SysctlError;
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, Shutdown, SocketFlags, SocketType, ipproto, sockopt};
use serde_json::{Map, Value, json};

use super::super::payload::{self, PERIOD};
use super::super::recorder::Options;
use super::super::script::{
    Amount, Base, Flags, How, Inject, MAX_BURST, Op, Position, ProbeKind, ReadFlag, Script, Settle, SockOpt,
    Step, TsEcr,
};
use super::super::trace::{FORMAT, Footer, Header, Record, Ret, Segment, Trace};
use super::super::vnet::{VnetPlan, vnet_plan};
use super::clock::{self, ms};
use super::cursor::{self, Cursor, absolute, distance};
use super::{Bench, RecordError, device, watch};

/// TSval of the peer at the beginning of the trace's clock.
const TSVAL: i64 = 5_000_000;
/// Microseconds behind its tick at which a connection opens.
const PHASE_US: u32 = 250;
/// The round trip of a handshake with a delay is this much more than whole milliseconds, lest it fall on an edge.
const OFF_EDGE: i64 = 750_000;
/// How late an operation may begin.
const LATE: i64 = 300_000;
/// The longest a delayed ACK takes, and some more.
const DELAYED_ACK: i64 = 300_000_000;
/// How long a SYN-ACK may take on a slow machine.
const SYN_ACK: i64 = 20_000_000;
/// A moment that is always over.
const NOW: i64 = i64::MIN;

/// Why a try came to nothing.
#[derive(Debug)]
pub(super) enum Fail {
    /// Operations left their ticks.
    Slips(u64),
    /// It was asked to end.
    Stopped,
    /// It will not work another time either.
    Error(RecordError),
}

impl<E: Into<RecordError>> From<E> for Fail {
    fn from(e: E) -> Self {
        Fail::Error(e.into())
    }
}

fn device_error(e: std::io::Error) -> RecordError {
    RecordError::io("a frame on the TAP device")(e)
}

/// A script being played.
pub(super) struct Play<'b> {
    bench: &'b mut Bench,
    script: &'b Script,
    options: &'b Options,
    cursor: Cursor,
    /// The peer's port.
    port: u16,
    /// The smaller of the MSS both sides offered.
    mss: u16,
    socket: Option<OwnedFd>,
    /// The tick in which things happen.
    at: i64,
    slips: u64,
    counters: BTreeMap<String, i64>,
    /// Bytes that were read.
    read: i64,
    /// Bytes that the application has sent.
    written: i64,
    records: Vec<Record>,
}

impl<'b> Play<'b> {
    /// Plays the whole script once.
    pub(super) fn run(bench: &'b mut Bench, script: &'b Script, options: &'b Options) -> Result<Trace, Fail> {
        let (mut play, header) = Play::open(bench, script, options)?;
        let played = play.steps();
        // Whatever happened: nothing must send into the next script.
        play.finish();
        played?;
        if play.slips > 0 {
            return Err(Fail::Slips(play.slips));
        }
        let footer = Footer { records: play.records.len() as u64, slips: 0, extra: Map::new() };
        Ok(Trace { header, records: play.records, footer: Some(footer) })
    }

    /// Sets everything up and opens the connection.
    pub(super) fn open(
        bench: &'b mut Bench,
        script: &'b Script,
        options: &'b Options,
    ) -> Result<(Self, Header), Fail> {
        bench.devices.switch_to(script.rx_path, script.mtu, script.route.as_ref())?;
        let pinned = bench.pins.set(script);
        let header = header(bench, script, options, pinned);
        let listener = listen(script)?;
        let port = bench.next_port();
        let counters = watch::counters()?;
        let mut play = Play {
            bench,
            script,
            options,
            cursor: Cursor { isn: script.isn, ..Cursor::default() },
            port,
            mss: script.handshake.mss.unwrap_or(536),
            socket: None,
            at: 0,
            slips: 0,
            counters,
            read: 0,
            written: 0,
            records: Vec::new(),
        };
        let opened = play.handshake(&listener);
        if opened.is_err() {
            play.finish();
        }
        opened.map(|()| (play, header))
    }

    fn handshake(&mut self, listener: &OwnedFd) -> Result<(), Fail> {
        let none =
            |why: &str| RecordError::NoConnection { script: self.script.name.clone(), why: why.to_owned() };
        let (no_answer, not_accepted) = (none("no SYN-ACK"), none("the ACK was not accepted"));
        let h = self.script.handshake.clone();
        let mut rec = Record { op: json!({"op": "open"}), ..Record::default() };
        self.at = self.bench.clock.ticks() + 1;
        let began = self.begin(1, PHASE_US, &mut rec)?;
        rec.rx.clear();
        rec.vol = super::super::trace::Volatile { t_ms: ms(began), ..Default::default() };
        rec.vol.anchor = self.bench.clock.tick_of(began).unsigned_abs();

        let tsval = h.ts.then(|| self.peer_clock(began));
        let options = OutOptions {
            mss: h.mss,
            wscale: h.wscale,
            sack_permitted: h.sack,
            timestamps: tsval.map(|tsval| Timestamps { tsval, tsecr: 0 }),
            ..OutOptions::default()
        };
        let syn = Segment {
            mss: h.mss,
            wscale: h.wscale,
            sackok: h.sack,
            tsval,
            ..segment(-1, 0, Flags(TcpFlags::SYN), 0, h.win)
        };
        self.send(&mut rec, syn, &options, 0)?;
        let until = clock::now() + SYN_ACK;
        let answer = self.bench.devices.read(self.port, until).map_err(device_error)?.ok_or(no_answer)?;
        if !answer.flags.contains(TcpFlags::SYN | TcpFlags::ACK) {
            return Err(Fail::Error(none(&format!("{} instead of a SYN-ACK", Flags(answer.flags)))));
        }
        self.mss = self.mss.min(answer.options.mss.unwrap_or(536));
        self.cursor.ts = h.ts && answer.options.timestamps.is_some();
        self.push(&mut rec, &answer, Some(0), false);
        self.cursor.wscale = if h.wscale.is_some() { answer.options.wscale.unwrap_or(0) } else { 0 };

        if h.ack_delay_ms > 0 {
            let delay = i64::try_from(h.ack_delay_ms).unwrap_or(i64::MAX).saturating_mul(1_000_000);
            self.pass(&mut rec, began.saturating_add(delay).saturating_add(OFF_EDGE))?;
            self.at = self.bench.clock.ticks();
        }
        let ack = Inject { seq: Position { base: Base::First, offset: 0 }, ..Inject::default() };
        self.inject(&mut rec, &ack)?;
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let accepted = rustix::net::accept_with(listener, flags);
        self.socket = Some(accepted.map_err(|_| not_accepted)?);
        self.in_tick();
        self.observe(&mut rec)?;
        self.records.push(rec);
        Ok(())
    }

    fn steps(&mut self) -> Result<(), Fail> {
        let script = self.script;
        for step in &script.steps {
            if self.options.stop.load(Ordering::Relaxed) {
                return Err(Fail::Stopped);
            }
            self.step(step)?;
        }
        Ok(())
    }

    fn step(&mut self, step: &Step) -> Result<(), Fail> {
        let i = self.records.len() as u64;
        let mut rec = Record { i, op: step.raw.clone(), ..Record::default() };
        let began = self.begin(step.gap, step.phase_us, &mut rec)?;
        rec.vol.t_ms = ms(began);
        rec.vol.anchor = self.bench.clock.tick_of(began).unsigned_abs();
        let looked_at = self.act(step, began, &mut rec)?;
        self.in_tick();
        self.settle(step.settle, began, &mut rec)?;
        self.observe(&mut rec)?;
        // Only now, because it takes its time.
        if let (Some((from, n)), Some(ret)) = (looked_at, &mut rec.ret) {
            let bytes = self.bench.buf.get(..n).unwrap_or_default();
            (ret.alt, ret.corrupt) = inspect(&self.bench.pattern, from, bytes);
        }
        self.records.push(rec);
        Ok(())
    }

    /// Waits for the moment of the next operation; frames that come before it are late ones.
    fn begin(&mut self, gap: u32, phase_us: u32, rec: &mut Record) -> Result<i64, Fail> {
        let clock = self.bench.clock;
        let phase = i64::from(phase_us).saturating_add(self.options.phase_us.into()).saturating_mul(1000);
        let target = self
            .at
            .saturating_add(gap.into())
            .saturating_mul(clock.tick)
            .saturating_add(phase)
            .saturating_add(clock.margin());
        // A phase of more than a tick is one of a later tick.
        self.at = clock.tick_of(target);
        if clock.t() > target.saturating_add(LATE).saturating_add(clock.margin() / 2) {
            self.slips += 1;
        }
        self.pass(rec, target)?;
        Ok(clock.t())
    }

    /// Counts a slip if this is no longer the tick it should be.
    fn in_tick(&mut self) {
        if self.bench.clock.ticks() != self.at {
            self.slips += 1;
        }
    }

    /// Lets the time pass until then, on the scale of the trace.
    fn pass(&mut self, rec: &mut Record, until: i64) -> Result<(), Fail> {
        let until = self.bench.clock.monotonic(until);
        self.drain(rec, until, None, true)?;
        // Poll may end a little early.
        clock::sleep_until(until);
        Ok(())
    }

    /// The next frame until then (monotonic). Looks up every other tick: a machine that stood still meanwhile, its host busy
    /// elsewhere, ran its timers late, and that is a slip.
    fn watch(&mut self, until: i64) -> Result<Option<TcpSegment>, Fail> {
        let tick = self.bench.clock.tick;
        loop {
            let began = clock::now();
            let slice = until.min(began.saturating_add(tick.saturating_mul(2)));
            let seen = self.bench.devices.read(self.port, slice).map_err(device_error)?;
            if clock::now().saturating_sub(slice.max(began)) > tick {
                self.slips += 1;
            }
            if seen.is_some() || slice >= until {
                return Ok(seen);
            }
        }
    }

    /// Writes down frames until then (monotonic), or only those that are there already.
    fn drain(&mut self, rec: &mut Record, until: i64, at: Option<u32>, late: bool) -> Result<(), Fail> {
        while let Some(s) = self.watch(until)? {
            if self.options.stop.load(Ordering::Relaxed) {
                return Err(Fail::Stopped);
            }
            self.push(rec, &s, at, late);
        }
        Ok(())
    }

    fn push(&mut self, rec: &mut Record, s: &TcpSegment, at: Option<u32>, late: bool) {
        rec.vol.rx_ms.push(ms(self.bench.clock.t()));
        let mut frame = self.cursor.see(s);
        (frame.at, frame.late) = (at, late);
        if self.cursor.ts {
            let tsval = s.options.timestamps.map_or(0, |t| distance(t.tsval, self.cursor.ts0));
            rec.vol.rx_tsval.push(tsval);
        }
        rec.rx.push(frame);
    }

    /// Does what the operation says; a read tells which bytes are to be looked at.
    fn act(&mut self, step: &Step, began: i64, rec: &mut Record) -> Result<Option<(i64, usize)>, Fail> {
        let aside = |base, offset, len| Inject {
            seq: Position { base, offset },
            len,
            aside: true,
            ..Inject::default()
        };
        match &step.op {
            Op::Inject(x) => self.inject_and_drain(rec, x)?,
            Op::Burst { segs, seq, len, count, stride } => {
                let many = shorthand(&self.cursor, *seq, *len, *count, *stride);
                for x in segs.iter().chain(&many) {
                    self.pace(step, rec)?;
                    self.inject_and_drain(rec, x)?;
                }
            }
            Op::Fill { len, max, partial, quiet } => {
                for _ in 0..max.unwrap_or(MAX_BURST).min(MAX_BURST) {
                    let room = u32::try_from(self.cursor.edge.saturating_sub(self.cursor.next)).unwrap_or(0);
                    let len = if *partial { (*len).min(room) } else { *len };
                    if len == 0 || len > room {
                        break;
                    }
                    self.pace(step, rec)?;
                    if *quiet {
                        forget_answers(rec);
                    }
                    self.inject_and_drain(rec, &Inject { len, ..Inject::default() })?;
                }
            }
            Op::Probe { kind } => {
                let x = match kind {
                    ProbeKind::Keepalive => aside(Base::Ack, -1, 0),
                    ProbeKind::Old => aside(Base::Ack, -1, 1),
                    ProbeKind::Byte => aside(Base::Ack, 0, 1),
                };
                self.inject_and_drain(rec, &x)?;
            }
            Op::Ackall => self.inject_and_drain(rec, &aside(Base::Next, 0, 0))?,
            Op::Rewind => self.cursor.next = self.cursor.ack,
            Op::Sleep { ms } => {
                let time = i64::try_from(*ms).unwrap_or(i64::MAX).saturating_mul(1_000_000);
                self.pass(rec, began.saturating_add(time))?;
                self.at = self.bench.clock.ticks();
            }
            Op::Sysctl { name, value } => {
                let name = super::super::script::sysctl_name(name);
                let done = self.bench.pins.write(&name, &Op::sysctl_text(value));
                rec.ret = Some(returned(done.map(|()| 0).map_err(|e| sysctl_errno(&e))));
            }
            op => {
                let (ret, looked_at) = self.call(op);
                rec.ret = ret;
                self.drain(rec, NOW, None, false)?;
                return Ok(looked_at);
            }
        }
        Ok(None)
    }

    /// A call of the application.
    fn call(&mut self, op: &Op) -> (Option<Ret>, Option<(i64, usize)>) {
        let Some(socket) = &self.socket else {
            return (Some(returned(Err(Errno::BADF))), None);
        };
        let done = match op {
            Op::Read { n, flags } => {
                let (n, from) = self.read(*n, flags);
                let discards = flags.contains(&ReadFlag::Trunc);
                let looked_at = n.ok().filter(|_| !discards).map(|n| (from, n));
                return (Some(returned(n)), looked_at);
            }
            Op::Write { n } => {
                let from = usize::try_from(self.written.rem_euclid(PERIOD as i64)).unwrap_or(0);
                let bytes: Vec<u8> = self
                    .bench
                    .pattern
                    .iter()
                    .take(PERIOD)
                    .cycle()
                    .skip(from)
                    .take(*n as usize)
                    .copied()
                    .collect();
                let sent = rustix::net::send(socket, &bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
                self.written = self.written.saturating_add(sent.map_or(0, |n| n as i64));
                sent
            }
            Op::Setsockopt { name, value } => set_option(socket, *name, *value).map(|()| 0),
            Op::Shutdown { how } => {
                let how = match how {
                    How::Rd => Shutdown::Read,
                    How::Wr => Shutdown::Write,
                    How::Rdwr => Shutdown::Both,
                };
                rustix::net::shutdown(socket, how).map(|()| 0)
            }
            Op::Close => {
                self.socket = None;
                Ok(0)
            }
            // The others are no calls; repeat and reads have been written out.
            _ => return (None, None),
        };
        (Some(returned(done)), None)
    }

    /// Reads; gives how much and from which position.
    fn read(&mut self, n: Amount, flags: &[ReadFlag]) -> (Result<usize, Errno>, i64) {
        let from = self.read;
        let Some(socket) = &self.socket else { return (Err(Errno::BADF), from) };
        // A longer buffer than there can be bytes for changes nothing but the time it takes.
        let queued = rustix::io::ioctl_fionread(socket).map_or(0, |n| usize::try_from(n).unwrap_or(0));
        let most = queued.saturating_add(1 << 16);
        let len = match n {
            Amount::All => most,
            Amount::Bytes(n) => most.min(n as usize),
        };
        if self.bench.buf.len() < len {
            self.bench.buf.resize(len, 0);
        }
        let mut bits = RecvFlags::DONTWAIT;
        for flag in flags {
            bits |= match flag {
                ReadFlag::Peek => RecvFlags::PEEK,
                ReadFlag::Trunc => RecvFlags::TRUNC,
                ReadFlag::Waitall => RecvFlags::WAITALL,
            };
        }
        let done = rustix::net::recv(socket, self.bench.buf.get_mut(..len).unwrap_or_default(), bits);
        let n = done.map(|(_, n)| n);
        if !flags.contains(&ReadFlag::Peek) {
            self.read = self.read.saturating_add(n.map_or(0, |n| n as i64));
        }
        (n, from)
    }

    /// A tick has room for so many segments; the next one goes on at the same phase.
    fn pace(&mut self, step: &Step, rec: &mut Record) -> Result<(), Fail> {
        let room = self.bench.segments_per_tick();
        let sent = i64::try_from(rec.tx.len()).unwrap_or(i64::MAX);
        if sent > 0 && sent % room == 0 {
            self.in_tick();
            self.begin(1, step.phase_us.min(500), rec)?;
        }
        Ok(())
    }

    fn inject_and_drain(&mut self, rec: &mut Record, x: &Inject) -> Result<(), Fail> {
        let at = u32::try_from(rec.tx.len()).unwrap_or(u32::MAX);
        self.inject(rec, x)?;
        self.drain(rec, NOW, Some(at), false)
    }

    /// One segment.
    fn inject(&mut self, rec: &mut Record, x: &Inject) -> Result<(), Fail> {
        let c = &self.cursor;
        let seq = c.resolve(x.seq);
        let ack = x.ack.unwrap_or(c.snd);
        let win = x.win.unwrap_or(self.script.handshake.win);
        let stamps = (c.ts && !x.no_ts).then(|| Timestamps {
            tsval: x.tsval.unwrap_or_else(|| {
                // Modulo 2^32, as timestamps are.
                self.peer_clock(self.bench.clock.t()).wrapping_add(x.tsadd as u32)
            }),
            tsecr: match (x.tsecr, self.script.tsecr) {
                (Some(relative), _) => absolute(c.ts0, relative),
                (None, TsEcr::Echo) => c.tsval,
                (None, TsEcr::Frozen) => c.ts0,
                (None, TsEcr::Zero) => 0,
            },
        });
        let mut seg = Segment {
            len: x.len,
            alt: x.alt,
            bad_sum: x.bad_sum,
            tsval: stamps.map(|t| t.tsval),
            tsecr: stamps.map(|t| distance(t.tsecr, c.ts0)),
            ..segment(seq, 0, x.flags, ack, win)
        };
        if stamps.is_some_and(|t| t.tsecr == 0) {
            // Nothing echoed is no point in time, so a position relative to one would not do.
            seg.extra.insert("tsecr_zero".to_owned(), Value::Bool(true));
        }
        let fin = i64::from(x.flags.0.contains(TcpFlags::FIN));
        let end = seq.saturating_add(x.len.into()).saturating_add(fin);
        self.send(rec, seg, &OutOptions { timestamps: stamps, ..OutOptions::default() }, x.len)?;
        if !x.aside {
            self.cursor.next = self.cursor.next.max(end);
        }
        Ok(())
    }

    fn send(&mut self, rec: &mut Record, seg: Segment, options: &OutOptions, len: u32) -> Result<(), Fail> {
        let (c, devices) = (&self.cursor, &self.bench.devices);
        let options_len = u32::try_from(options.to_bytes().len()).unwrap_or(40);
        let headers = if devices.has_ethernet() { 54 } else { 40 } + options_len;
        let plan = vnet_plan(headers, len, self.mss, options_len, seg.bad_sum);
        let checksum = match (seg.bad_sum, plan) {
            (true, _) => Checksum::Wrong,
            (false, VnetPlan { gso_size: 1.., .. }) if devices.has_vnet() => Checksum::Unfinished,
            _ => Checksum::Right,
        };
        // Before the handshake nothing is known of the other side, and nothing acknowledged.
        let ack = if seg.flags.0.contains(TcpFlags::ACK) { absolute(c.irs, seg.ack) } else { 0 };
        let forge = Forge::new(device::peer(self.port), device::host())
            .flags(seg.flags.0)
            .seq_ack(Seq(absolute(c.isn, seg.seq)), Seq(ack))
            .window(seg.win)
            .options(options)
            .payload(stretch(&self.bench.pattern, seg.seq, len, seg.alt))
            .tcp_checksum(checksum);
        let frame = devices.frame(forge);
        let before = clock::now();
        devices.write(&frame, plan).map_err(|e| {
            RecordError::io(&format!("a frame of {} bytes into rx_path {}", frame.len(), self.script.rx_path))(e)
        })?;
        rec.vol.write_ns.push(clock::now().saturating_sub(before).unsigned_abs());
        rec.vol.tx_ms.push(ms(self.bench.clock.at(before)));
        rec.tx.push(seg);
        Ok(())
    }

    fn peer_clock(&self, t: i64) -> u32 {
        // Modulo 2^32, as timestamps are.
        TSVAL.saturating_add(t.div_euclid(1_000_000)) as u32
    }

    fn settle(&mut self, settle: Settle, began: i64, rec: &mut Record) -> Result<(), Fail> {
        match settle {
            Settle::None => {}
            Settle::Ms(ms) => {
                let time = i64::try_from(ms).unwrap_or(i64::MAX).saturating_mul(1_000_000);
                self.pass(rec, began.saturating_add(time))?;
            }
            Settle::Ack => {
                let until = clock::now().saturating_add(DELAYED_ACK);
                while let Some(socket) = &self.socket {
                    let (state, received) = watch::progress(socket)?;
                    if !self.cursor.owes(state, received) {
                        break;
                    }
                    match self.watch(until)? {
                        Some(s) => self.push(rec, &s, None, true),
                        None => break,
                    }
                }
            }
        }
        Ok(())
    }

    fn observe(&mut self, rec: &mut Record) -> Result<(), Fail> {
        let tick = self.bench.clock.ticks();
        if let Some(socket) = &self.socket {
            watch::fill(rec, &KernelSocketView::of(socket)?);
            if let Some(&received) = rec.info.get("bytes_received") {
                // The counter has 64 bits, positions wrap.
                self.cursor.rcv = distance(received as u32, 0);
            }
        }
        let counters = watch::counters()?;
        rec.cnt = cursor::changes(&self.counters, counters.iter());
        self.counters = counters;
        let end = self.bench.clock.t();
        self.at = self.bench.clock.tick_of(end);
        if self.at != tick {
            self.slips += 1;
        }
        (rec.vol.tick, rec.vol.end_ms) = (tick.unsigned_abs(), ms(end));
        Ok(())
    }

    /// Charged memory of one segment in an empty queue; `None` if it cannot be told. For measuring, not for recording.
    pub(super) fn charge(&mut self, len: u32) -> Result<Option<u32>, Fail> {
        let mut rec = Record::default();
        let began = clock::now();
        self.inject_and_drain(&mut rec, &Inject { len, ..Inject::default() })?;
        let took = clock::now().saturating_sub(began);
        self.bench.took.push(took);
        let Some(socket) = &self.socket else { return Ok(None) };
        let charged = observe::MemInfo::of(socket)?.rmem_alloc;
        let (n, _) = self.read(Amount::All, &[]);
        self.drain(&mut rec, NOW, None, false)?;
        Ok((n == Ok(len as usize)).then_some(charged))
    }

    /// Ends the connection and forgets it. Best effort: the next one has another port.
    pub(super) fn finish(&mut self) {
        let mut rec = Record::default();
        let flags = Flags(TcpFlags::RST | TcpFlags::ACK);
        for seq in [self.cursor.rcv, self.cursor.ack] {
            let reset = segment(seq, 0, flags, self.cursor.snd, 0);
            let _ = self.send(&mut rec, reset, &OutOptions::default(), 0);
        }
        if let Some(socket) = self.socket.take() {
            let _ = sockopt::set_socket_linger(&socket, Some(Duration::ZERO));
        }
        let _ = self.drain(&mut rec, NOW, None, false);
    }
}

fn header(bench: &Bench, script: &Script, options: &Options, pinned: super::pins::Pinned) -> Header {
    let mut extra = Map::new();
    let settle = script.raw.get("settle").cloned().unwrap_or_else(|| Value::from("ack"));
    extra.insert("settle".to_owned(), settle);
    let jiffies = if bench.clock.jiffies_known { "timer_list" } else { "unknown" };
    extra.insert("jiffies".to_owned(), Value::from(jiffies));
    extra.insert("ticks_behind_us".to_owned(), Value::from(bench.clock.behind / 1000));
    extra.insert("segments_per_tick".to_owned(), Value::from(bench.segments_per_tick()));
    extra.insert("scheduling".to_owned(), Value::from(if bench.fifo { "fifo" } else { "ordinary" }));
    Header {
        format: FORMAT.to_owned(),
        script: script.raw.clone(),
        kernel: bench.release.clone(),
        rx_path: script.rx_path,
        mtu: script.mtu,
        sysctl: pinned.values,
        missing_sysctl: pinned.missing,
        limits: bench.limits.clone(),
        tick_ms: bench.clock.tick_ms(),
        config: Some(bench.facts.clone()),
        command: options.command.clone(),
        extra,
    }
}

fn listen(script: &Script) -> Result<OwnedFd, Fail> {
    let failed = |e: Errno| RecordError::io(&format!("listening on {}", device::host()))(e.into());
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let (family, kind) = (AddressFamily::INET, SocketType::STREAM);
    let fd = rustix::net::socket_with(family, kind, flags, Some(ipproto::TCP)).map_err(failed)?;
    sockopt::set_socket_reuseaddr(&fd, true).map_err(failed)?;
    for (name, value) in &script.listener {
        set_option(&fd, *name, *value).map_err(|e| {
            RecordError::cannot(format!("listener {name:?} = {value}"), std::io::Error::from(e))
        })?;
    }
    rustix::net::bind(&fd, &device::host()).map_err(failed)?;
    rustix::net::listen(&fd, 8).map_err(failed)?;
    Ok(fd)
}

fn set_option(socket: &OwnedFd, name: SockOpt, value: i64) -> Result<(), Errno> {
    let (level, option) = match name {
        SockOpt::SO_RCVBUF => (libc::SOL_SOCKET, libc::SO_RCVBUF),
        SockOpt::SO_RCVBUFFORCE => (libc::SOL_SOCKET, libc::SO_RCVBUFFORCE),
        SockOpt::SO_RCVLOWAT => (libc::SOL_SOCKET, libc::SO_RCVLOWAT),
        SockOpt::SO_KEEPALIVE => (libc::SOL_SOCKET, libc::SO_KEEPALIVE),
        SockOpt::TCP_WINDOW_CLAMP => (libc::IPPROTO_TCP, libc::TCP_WINDOW_CLAMP),
        SockOpt::TCP_MAXSEG => (libc::IPPROTO_TCP, libc::TCP_MAXSEG),
        SockOpt::TCP_QUICKACK => (libc::IPPROTO_TCP, libc::TCP_QUICKACK),
        SockOpt::TCP_NODELAY => (libc::IPPROTO_TCP, libc::TCP_NODELAY),
    };
    let value = i32::try_from(value).map_err(|_| Errno::INVAL)?;
    observe::set_socket_option(socket, level, option, value).map_err(|e| errno(&e))
}

fn segment(seq: i64, len: u32, flags: Flags, ack: i64, win: u16) -> Segment {
    Segment {
        seq,
        len,
        flags,
        ack,
        win,
        tsval: None,
        tsecr: None,
        mss: None,
        wscale: None,
        sackok: false,
        alt: false,
        bad_sum: false,
        extra: Map::new(),
    }
}

/// Segments of a burst that is given by its first one.
fn shorthand(c: &Cursor, seq: Option<Position>, len: u32, count: u32, stride: Option<i64>) -> Vec<Inject> {
    let first = c.resolve(seq.unwrap_or(Position::NEXT));
    let stride = stride.unwrap_or_else(|| len.into());
    let place = |i: u32| first.saturating_add(stride.saturating_mul(i.into()));
    let inject =
        |i| Inject { seq: Position { base: Base::First, offset: place(i) }, len, ..Inject::default() };
    (0..count.min(MAX_BURST)).map(inject).collect()
}

/// Leaves only what came late.
fn forget_answers(rec: &mut Record) {
    let keep: Vec<bool> = rec.rx.iter().map(|f| f.late).collect();
    if keep.iter().all(|k| *k) {
        return;
    }
    let kept = |i: usize| keep.get(i).copied().unwrap_or(false);
    let mut i = 0;
    rec.rx.retain(|_| (kept(i), i += 1).0);
    i = 0;
    rec.vol.rx_ms.retain(|_| (kept(i), i += 1).0);
    i = 0;
    rec.vol.rx_tsval.retain(|_| (kept(i), i += 1).0);
}

/// Payload from a position of the stream on.
fn stretch(pattern: &[u8], seq: i64, len: u32, alt: bool) -> Bytes {
    let from = usize::try_from(seq.rem_euclid(PERIOD as i64)).unwrap_or(0);
    let bytes: Cow<'_, [u8]> = match pattern.get(from..from.saturating_add(len as usize)) {
        Some(b) => b.into(),
        None => payload::bytes_at(seq, len as usize, false).into(),
    };
    if alt { bytes.iter().map(|b| !b).collect() } else { Bytes::copy_from_slice(&bytes) }
}

/// As [`payload::inspect`], but quick where everything is as it should be.
fn inspect(pattern: &[u8], from: i64, bytes: &[u8]) -> (Vec<[u64; 2]>, Vec<[u64; 2]>) {
    let mut at = usize::try_from(from.rem_euclid(PERIOD as i64)).unwrap_or(0);
    let mut left = bytes;
    while !left.is_empty() {
        let n = left.len().min(PERIOD.saturating_sub(at));
        let Some((head, tail)) = left.split_at_checked(n) else { break };
        if pattern.get(at..at.saturating_add(n)) != Some(head) {
            return payload::inspect(from, bytes);
        }
        (left, at) = (tail, 0);
    }
    (Vec::new(), Vec::new())
}

fn returned(done: Result<usize, Errno>) -> Ret {
    match done {
        Ok(n) => Ret { n: i64::try_from(n).ok(), ..Ret::default() },
        Err(e) => Ret { err: Some(errno_name(e)), ..Ret::default() },
    }
}

fn errno(e: &std::io::Error) -> Errno {
    Errno::from_io_error(e).unwrap_or(Errno::IO)
}

fn sysctl_errno(e: &SysctlError) -> Errno {
    match e {
        SysctlError::Missing { .. } => Errno::NOENT,
        SysctlError::Denied { .. } => Errno::ACCESS,
        SysctlError::Refused { source, .. } | SysctlError::Io { source, .. } => errno(source),
        _ => Errno::INVAL,
    }
}

/// As errno(3) spells it; a rare one by its number.
fn errno_name(e: Errno) -> String {
    let known = [
        (Errno::AGAIN, "EAGAIN"),
        (Errno::CONNRESET, "ECONNRESET"),
        (Errno::PIPE, "EPIPE"),
        (Errno::NOTCONN, "ENOTCONN"),
        (Errno::TIMEDOUT, "ETIMEDOUT"),
        (Errno::CONNREFUSED, "ECONNREFUSED"),
        (Errno::CONNABORTED, "ECONNABORTED"),
        (Errno::INVAL, "EINVAL"),
        (Errno::BADF, "EBADF"),
        (Errno::PERM, "EPERM"),
        (Errno::ACCESS, "EACCES"),
        (Errno::NOENT, "ENOENT"),
        (Errno::RANGE, "ERANGE"),
        (Errno::NOBUFS, "ENOBUFS"),
        (Errno::NOMEM, "ENOMEM"),
        (Errno::INTR, "EINTR"),
        (Errno::NOPROTOOPT, "ENOPROTOOPT"),
        (Errno::OPNOTSUPP, "EOPNOTSUPP"),
        (Errno::FAULT, "EFAULT"),
        (Errno::IO, "EIO"),
        (Errno::HOSTUNREACH, "EHOSTUNREACH"),
        (Errno::NETUNREACH, "ENETUNREACH"),
        (Errno::PROTO, "EPROTO"),
        (Errno::ISCONN, "EISCONN"),
    ];
    let name = known.iter().find(|(k, _)| *k == e).map(|(_, n)| (*n).to_owned());
    name.unwrap_or_else(|| format!("E{}", e.raw_os_error()))
}
