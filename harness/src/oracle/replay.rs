//! A trace played to the stack, in virtual time: the same segments, calls and ticks in, a trace of the same form out.
//!
//! Positions and times come from the recording and are never resolved again. A replay has no clock and no chance in it:
//! twice the same trace gives twice the same bytes.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use bytes::Bytes;
use rightedge_stack::{
    ConfigError, ListenOptions, Route, SocketError, SocketId, SocketOption, Stack, StackConfig, State,
    nic::Driver,
    profile::{Profile, ProfileError},
    time::Instant,
    units::Seq,
    wire::{
        self, Link, MacAddr, Medium, OutOptions, Packet, RxMeta, TcpFlags, Timestamps,
        forge::{Checksum, Forge},
    },
};
use serde_json::{Map, Value};

use super::payload;
use super::script::{self, Amount, Op, ReadFlag, RxPath, Script, ScriptError, SockOpt, TsEcr};
use super::trace::{FORMAT, Footer, Frame, Header, Record, Ret, Segment, Trace, Volatile};
use super::vnet::vnet_plan;

/// Address of the receiver under test.
pub const RECEIVER: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 9, 0, 2)), 5001);
/// Address of the peer that the bench plays.
pub const PEER: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 9, 0, 1)), 40_000);
/// Hardware address of the receiver's device.
pub const RECEIVER_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);
/// Hardware address of the peer.
pub const PEER_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);

/// Why a trace cannot be replayed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReplayError {
    /// No profile for this kernel.
    #[error("no profile stands for kernel {0}; give one with --profile, as in --profile linux-6.18")]
    NoProfile(String),
    /// The profile.
    #[error(transparent)]
    Profile(#[from] ProfileError),
    /// The script in the header.
    #[error(transparent)]
    Script(#[from] ScriptError),
    /// The route or MTU of the script.
    #[error("the stack cannot be set up as recorded: {0}")]
    Config(#[from] ConfigError),
    /// An option of the listener.
    #[error("listener: {option:?} = {value}: {source}")]
    Listener {
        /// The option.
        option: SockOpt,
        /// Its value.
        value: i64,
        /// Why not.
        source: SocketError,
    },
    /// The operation of a record.
    #[error("record {record}: {why}")]
    Record {
        /// Which.
        record: u64,
        /// What is wrong.
        why: String,
    },
}

/// A replayed trace with the stack's reasons.
#[derive(Clone, Debug)]
pub struct Replayed {
    /// The stack's own trace.
    pub trace: Trace,
    /// Its decisions in words, per record; empty unless asked for.
    pub decisions: Vec<Vec<String>>,
}

/// The profile that stands for a kernel release.
#[must_use]
pub fn profile_for(kernel: &str) -> Option<&'static str> {
    let mut parts = kernel.split(['.', '-']).map(|p| p.parse::<u32>().unwrap_or(0));
    match (parts.next()?, parts.next().unwrap_or(0)) {
        (6, 1) => Some("linux-6.1"),
        (6, 12) => Some("linux-6.12"),
        (6, 18) => Some("linux-6.18"),
        (7, _) => Some("linux-7"),
        _ => None,
    }
}

/// The profile for a trace: the one named, or the one that stands for its kernel, with what the recording says of the
/// kernel's build. Switches in `name` come last and win.
///
/// # Errors
/// That there is no such profile, or none for this kernel.
pub fn profile_of(trace: &Trace, name: Option<&str>) -> Result<Profile, ReplayError> {
    let kernel = &trace.header.kernel;
    let name = match name {
        Some(name) => name,
        None => profile_for(kernel).ok_or_else(|| ReplayError::NoProfile(kernel.clone()))?,
    };
    // Refuses what is misspelt, with the fix.
    let parsed = Profile::parse(name)?;
    let mut parts = name.split(',').map(str::trim);
    let mut profile = Profile::named(parts.next().unwrap_or_default())?;
    profile.build.hz = trace.hz();
    if let Some(facts) = &trace.header.config {
        profile.build = facts.apply(profile.build);
    }
    for (switch, value) in parts.filter_map(|p| p.split_once('=')) {
        profile.set(switch.trim(), value.trim())?;
    }
    profile.name = parsed.name;
    // Values come as the recorded kernel had them: what it took need not pass our floor.
    profile.tcp_rmem_floor = 1;
    Ok(profile)
}

/// Plays `trace` to a stack of this profile.
///
/// # Errors
/// That the trace asks for something the stack does not have; never that it behaves differently.
pub fn replay(trace: &Trace, profile: &Profile, with_decisions: bool) -> Result<Replayed, ReplayError> {
    let script = trace.script()?;
    let mut rig = Rig::new(trace, &script, profile, with_decisions)?;
    let mut records: Vec<Record> = Vec::new();
    let mut decisions = Vec::new();
    let opened = trace.records.first().is_some_and(|r| r.op_name() == "open");
    if !opened {
        rig.open_unrecorded(&script, trace.records.first());
    }
    for rec in &trace.records {
        let why = |why: String| ReplayError::Record { record: rec.i, why };
        let call = call(rec).map_err(why)?;
        records.push(rig.play(rec, call.as_ref()).map_err(why)?);
        decisions.push(rig.take_decisions());
    }
    let footer = Footer { records: records.len() as u64, slips: 0, extra: Map::new() };
    Ok(Replayed {
        trace: Trace { header: rig.header(trace, profile), records, footer: Some(footer) },
        decisions,
    })
}

/// The call that the application makes in this record; everything else is in `tx` and the times.
fn call(rec: &Record) -> Result<Option<Op>, String> {
    match rec.op_name() {
        "read" | "write" | "setsockopt" | "sysctl" | "shutdown" | "close" => {
            serde_json::from_value(rec.op.clone()).map(Some).map_err(|e| format!("operation {}: {e}", rec.op))
        }
        _ => Ok(None),
    }
}

fn relative(value: Seq, base: Seq) -> i64 {
    i64::from(value.0.wrapping_sub(base.0) as i32)
}

fn absolute(base: Seq, offset: i64) -> Seq {
    Seq(base.0.wrapping_add(offset as u32))
}

fn ns(ms: f64) -> u64 {
    // Beyond what a clock can show (or NaN) saturates; the stack's own arithmetic saturates too.
    (ms * 1e6).round().clamp(0.0, 9e18) as u64
}

fn ms(ns: u64) -> f64 {
    (ns / 1000) as f64 / 1000.0
}

/// A stack and a peer on one virtual wire.
struct Rig {
    stack: Stack,
    listener: SocketId,
    id: Option<SocketId>,
    medium: Medium,
    path: RxPath,
    isn: Seq,
    iss: Seq,
    wscale: u8,
    /// What a segment may carry: the smaller of what both sides offered.
    mss: u16,
    tsecr: TsEcr,
    /// TSval of the SYN-ACK, and the last one seen.
    ts0: Option<u32>,
    ts_last: u32,
    now: u64,
    tick: u64,
    read_at: i64,
    counters: BTreeMap<&'static str, u64>,
    ignored: Vec<String>,
}

/// Frames that a record has come up with so far.
#[derive(Default)]
struct Out {
    frames: Vec<Frame>,
    at_ns: Vec<u64>,
    tsval: Vec<i64>,
}

impl Out {
    fn keep(&mut self, wanted: impl Fn(&Frame) -> bool) {
        let keep: Vec<bool> = self.frames.iter().map(wanted).collect();
        let mut at = keep.iter();
        self.frames.retain(|_| *at.next().unwrap_or(&true));
        let mut at = keep.iter();
        self.at_ns.retain(|_| *at.next().unwrap_or(&true));
        self.tsval.clear();
    }
}

/// When the kernel sent what it sent by itself, in one record.
struct Lags {
    ticks: Vec<u64>,
    taken: usize,
}

impl Rig {
    fn new(trace: &Trace, script: &Script, profile: &Profile, tracing: bool) -> Result<Self, ReplayError> {
        let h = &trace.header;
        let (medium, driver) = match h.rx_path {
            RxPath::Linear | RxPath::Napi => (Medium::Ethernet, Driver::TapAlloc),
            RxPath::Frag => (Medium::Ethernet, Driver::TapBuild),
            RxPath::Vnet => (Medium::Ethernet, Driver::TapVnet),
            RxPath::NapiFrags => (Medium::Ethernet, Driver::NapiFrags),
            RxPath::Tun => (Medium::Ip, Driver::Tun),
        };
        let mut config = match medium {
            Medium::Ip => StackConfig::ip(profile.clone(), RECEIVER.ip(), 24),
            Medium::Ethernet => StackConfig::ethernet(profile.clone(), RECEIVER_MAC, RECEIVER.ip(), 24),
        };
        config.driver = driver;
        config.mtu = h.mtu;
        if let Some(r) = &script.route {
            config.route = Route {
                initrwnd: r.initrwnd,
                quickack: r.quickack,
                mtu: r.mtu,
                advmss: r.advmss,
                window: r.window,
                rto_min_ms: r.rto_min,
                ..Route::default()
            };
        }
        let mut ignored = Vec::new();
        for (name, value) in h.limits.iter().chain(&h.sysctl) {
            if config.sysctls.set(profile, &script::sysctl_name(name), value).is_err() {
                ignored.push(format!("{name}={value}"));
            }
        }
        let mut stack = Stack::new(config)?;
        stack.add_neighbour(PEER.ip(), PEER_MAC);
        stack.set_tracing(tracing);
        let mut options = ListenOptions::default();
        for (option, value) in &script.listener {
            if let Some(o) = socket_option(*option, *value) {
                options.set(o).map_err(|source| ReplayError::Listener {
                    option: *option,
                    value: *value,
                    source,
                })?;
            } else {
                ignored.push(format!("{option:?}={value}"));
            }
        }
        let listener = stack.listen(RECEIVER, options).map_err(|source| ReplayError::Listener {
            option: SockOpt::SO_RCVBUF,
            value: 0,
            source,
        })?;
        Ok(Rig {
            stack,
            listener,
            id: None,
            medium,
            path: h.rx_path,
            isn: Seq(script.isn),
            iss: Seq(0),
            wscale: 0,
            mss: script.handshake.mss.unwrap_or(536),
            tsecr: script.tsecr,
            ts0: None,
            ts_last: 0,
            now: 0,
            tick: ns(h.tick_ms).max(1),
            read_at: 0,
            counters: BTreeMap::new(),
            ignored,
        })
    }

    fn at(&self) -> Instant {
        Instant::from_nanos(self.now)
    }

    fn take_decisions(&mut self) -> Vec<String> {
        let mut words = Vec::new();
        while let Some(d) = self.stack.poll_decision() {
            words.push(d.decision.to_string());
        }
        words
    }

    /// What the stack wants on the wire now.
    fn emitted(&mut self, out: &mut Out, at: Option<u32>) {
        while let Some(t) = self.stack.poll_transmit() {
            let Ok(Packet::Tcp(s)) = wire::parse(self.medium, &t.frame, RxMeta::default()) else { continue };
            let syn = s.flags.contains(TcpFlags::SYN);
            if syn {
                self.iss = s.seq + 1;
                self.wscale = s.options.wscale.unwrap_or(0).min(14);
                self.ts0 = s.options.timestamps.map(|t| t.tsval);
                self.mss = self.mss.min(s.options.mss.unwrap_or(536));
            }
            if let Some(t) = s.options.timestamps {
                self.ts_last = t.tsval;
            }
            let ack = if s.flags.contains(TcpFlags::ACK) { relative(s.ack, self.isn) } else { 0 };
            let wnd = u64::from(s.window) << if syn { 0 } else { self.wscale };
            let sack = s.options.sack.iter();
            out.frames.push(Frame {
                flags: script::Flags(s.flags),
                seq: relative(s.seq, self.iss),
                len: s.payload_len(),
                ack,
                win: s.window,
                wnd,
                edge: ack + wnd as i64,
                sack: sack.map(|b| [relative(b.start, self.isn), relative(b.end, self.isn)]).collect(),
                mss: s.options.mss,
                wscale: s.options.wscale,
                sackok: s.options.sack_permitted,
                tsecr: s.options.timestamps.map(|t| t.tsecr),
                at,
                late: at.is_none(),
                extra: Map::new(),
            });
            out.at_ns.push(self.now);
            let ts0 = self.ts0.unwrap_or(0);
            out.tsval.extend(s.options.timestamps.map(|t| relative(Seq(t.tsval), Seq(ts0))));
        }
    }

    /// Runs timers up to `until`, as late as the recording says they were run: a timer may run one tick late, because the
    /// CPU that runs it need not be the one that counts ticks, and which of a timer and an operation in the same tick
    /// comes first is not determined.
    fn pass(&mut self, until: u64, lags: &mut Lags, out: &mut Out) {
        while let Some(due) = self.stack.poll_timeout().map(Instant::as_nanos).filter(|d| *d <= until) {
            let mut when = due;
            if due % self.tick == 0 {
                let due_tick = due / self.tick;
                match lags.next() {
                    Some(t) if t == due_tick + 1 => when = t * self.tick,
                    None if due_tick == until / self.tick => break,
                    _ => {}
                }
                if when > until {
                    break;
                }
            }
            self.now = self.now.max(when);
            self.stack.handle_timeout(self.at());
            let before = out.frames.len();
            self.emitted(out, None);
            lags.taken += out.frames.len() - before;
        }
        self.now = self.now.max(until);
    }

    fn inject(&mut self, x: &Segment) {
        let options = OutOptions {
            mss: x.mss,
            wscale: x.wscale,
            sack_permitted: x.sackok,
            timestamps: x.tsval.map(|tsval| {
                let base = self.ts0.unwrap_or(0);
                let tsecr = match (x.tsecr, self.tsecr) {
                    // The SYN comes before there is anything to echo.
                    _ if x.flags.0.contains(TcpFlags::SYN) => 0,
                    _ if x.extra.get("tsecr_zero") == Some(&Value::Bool(true)) => 0,
                    (Some(r), _) => base.wrapping_add(r as u32),
                    (None, TsEcr::Echo) => self.ts_last,
                    (None, TsEcr::Frozen) => base,
                    (None, TsEcr::Zero) => 0,
                };
                Timestamps { tsval, tsecr }
            }),
            ..OutOptions::default()
        };
        let options_len = u32::try_from(options.to_bytes().len()).unwrap_or(40);
        let headers = if self.medium == Medium::Ethernet { 54 } else { 40 } + options_len;
        let meta = match self.path {
            RxPath::Vnet => vnet_plan(headers, x.len, self.mss, options_len, x.bad_sum).meta(),
            _ => RxMeta::default(),
        };
        let mut f = Forge::new(PEER, RECEIVER)
            .flags(x.flags.0)
            .seq_ack(absolute(self.isn, x.seq), absolute(self.iss, x.ack))
            .window(x.win)
            .options(&options)
            .payload(payload::bytes_at(x.seq, x.len.min(script::MAX_SEGMENT) as usize, x.alt));
        if x.flags.0.contains(TcpFlags::SYN) {
            f = f.seq_ack(absolute(self.isn, x.seq), Seq(0));
        }
        if x.bad_sum {
            f = f.tcp_checksum(Checksum::Wrong);
        }
        if self.medium == Medium::Ethernet {
            f = f.link(Link { src: PEER_MAC, dst: RECEIVER_MAC });
        }
        self.stack.ingress(self.at(), &f.build(), meta);
    }

    /// A handshake that the recording does not show: the script's, one tick before the first operation.
    fn open_unrecorded(&mut self, script: &Script, first: Option<&Record>) {
        let t = first.map_or(2 * self.tick, |r| ns(r.vol.t_ms));
        let delay = script.handshake.ack_delay_ms.saturating_mul(1_000_000);
        self.now = t.saturating_sub(self.tick).saturating_sub(delay);
        let tsval = |now: u64| script.handshake.ts.then(|| 5_000_000 + (now / 1_000_000) as u32);
        let mut out = Out::default();
        let syn = Segment {
            seq: -1,
            len: 0,
            flags: script::Flags(TcpFlags::SYN),
            ack: 0,
            win: script.handshake.win,
            tsval: tsval(self.now),
            tsecr: None,
            mss: script.handshake.mss,
            wscale: script.handshake.wscale,
            sackok: script.handshake.sack,
            alt: false,
            bad_sum: false,
            extra: Map::new(),
        };
        self.inject(&syn);
        self.emitted(&mut out, Some(0));
        self.now += delay;
        let ack =
            Segment { seq: 0, flags: script::Flags::ACK, mss: None, wscale: None, sackok: false, ..syn };
        let ack = Segment { tsval: tsval(self.now), ..ack };
        self.inject(&ack);
        self.id = self.stack.accept(self.listener);
        self.counters = self.stack.counters().iter().collect();
    }

    /// One record of the recording, played; what the stack makes of it.
    fn play(&mut self, rec: &Record, op: Option<&Op>) -> Result<Record, String> {
        let mut out = Out::default();
        let start = ns(rec.vol.t_ms);
        let end = ns(rec.vol.end_ms).max(start);
        let late = |from: u64, to: u64| {
            let times = rec.rx.iter().zip(rec.vol.rx_ms.iter().map(|t| ns(*t)));
            let ticks = times.filter(|(f, t)| f.late && (from..to).contains(t)).map(|(_, t)| t / self.tick);
            Lags { ticks: ticks.collect(), taken: 0 }
        };
        let (mut before, mut after) = (late(0, start), late(start, u64::MAX));
        self.pass(start, &mut before, &mut out);
        let mut ret = None;
        for (i, x) in rec.tx.iter().enumerate() {
            let t = rec.vol.tx_ms.get(i).map_or(start, |t| ns(*t));
            self.pass(t, &mut after, &mut out);
            self.inject(x);
            self.emitted(&mut out, Some(i as u32));
        }
        if self.id.is_none() && rec.op_name() == "open" {
            self.id = self.stack.accept(self.listener);
        }
        let now = self.at();
        match (op, self.id) {
            (Some(Op::Read { n, flags }), Some(id)) => {
                let max = match n {
                    Amount::All => 1 << 22,
                    Amount::Bytes(n) => *n as usize,
                };
                let mut bytes = Vec::new();
                let peek = flags.contains(&ReadFlag::Peek);
                let trunc = flags.contains(&ReadFlag::Trunc);
                let result = if peek {
                    bytes.resize(max, 0);
                    let n = self.stack.peek(now, id, &mut bytes);
                    bytes.truncate(n.unwrap_or(0));
                    n
                } else {
                    self.stack.recv_with(now, id, max, &mut |b| bytes.extend_from_slice(b))
                };
                let (alt, corrupt) =
                    if trunc { Default::default() } else { payload::inspect(self.read_at, &bytes) };
                ret = Some(Ret { alt, corrupt, ..returned(result) });
                if !peek {
                    self.read_at += bytes.len() as i64;
                }
            }
            (Some(Op::Write { n }), Some(id)) => {
                let data = Bytes::from(payload::bytes_at(0, *n as usize, false));
                ret = Some(returned(self.stack.send(now, id, &data)));
            }
            (Some(Op::Setsockopt { name, value }), Some(id)) => match socket_option(*name, *value) {
                Some(o) => ret = Some(returned(self.stack.set_option(now, id, o).map(|()| 0))),
                None => return Err(format!("the stack has no {name:?}")),
            },
            (Some(Op::Sysctl { name, value }), _) => {
                // A kernel that refused it went on without; so do we.
                if rec.ret.as_ref().is_none_or(|r| r.err.is_none()) {
                    let text = Op::sysctl_text(value);
                    let name = script::sysctl_name(name);
                    ret = match self.stack.set_sysctl(now, &name, &text) {
                        Ok(()) => Some(Ret { n: Some(0), ..Ret::default() }),
                        Err(e) => return Err(e.to_string()),
                    };
                } else {
                    ret.clone_from(&rec.ret);
                }
            }
            (Some(Op::Shutdown { how: script::How::Wr }), Some(id)) => {
                ret = Some(returned(self.stack.shutdown(now, id).map(|()| 0)));
            }
            (Some(Op::Shutdown { how }), Some(id)) => {
                let mut result = self.stack.shutdown_read(now, id);
                if *how == script::How::Rdwr {
                    result = result.and_then(|()| self.stack.shutdown(now, id));
                }
                ret = Some(returned(result.map(|()| 0)));
            }
            (Some(Op::Close), Some(id)) => {
                ret = Some(returned(self.stack.close(now, id).map(|()| 0)));
                self.id = None;
            }
            // The call is on a socket that was closed, or never was.
            (Some(_), None) => ret = Some(Ret { err: Some("EBADF".to_owned()), ..Ret::default() }),
            _ => {}
        }
        let calls = op.is_some();
        let mark = out.frames.len();
        self.emitted(&mut out, None);
        if calls {
            // What a call provokes at once is no late frame.
            out.frames.iter_mut().skip(mark).for_each(|f| f.late = false);
        }
        self.pass(end, &mut after, &mut out);
        if rec.op.get("quiet") == Some(&Value::Bool(true)) {
            // Only answers to the last segment were recorded.
            let last = rec.tx.len().checked_sub(1).map(|n| n as u32);
            out.keep(|f| f.late || f.at == last);
        }
        Ok(self.observed(rec, out, ret))
    }

    fn observed(&mut self, rec: &Record, out: Out, ret: Option<Ret>) -> Record {
        let now: BTreeMap<&'static str, u64> = self.stack.counters().iter().collect();
        let mut cnt = BTreeMap::new();
        for (name, v) in &now {
            let change = v.wrapping_sub(self.counters.get(name).copied().unwrap_or(0)) as i64;
            if change != 0 {
                cnt.insert((*name).to_owned(), change);
            }
        }
        self.counters = now;
        let mut r = Record {
            i: rec.i,
            op: rec.op.clone(),
            tx: rec.tx.clone(),
            rx: out.frames,
            ret,
            cnt,
            vol: Volatile {
                t_ms: rec.vol.t_ms,
                end_ms: rec.vol.end_ms,
                tx_ms: rec.vol.tx_ms.clone(),
                rx_ms: out.at_ns.iter().map(|t| ms(*t)).collect(),
                rx_tsval: out.tsval,
                tick: rec.vol.tick,
                anchor: rec.vol.anchor,
                ..Volatile::default()
            },
            ..Record::default()
        };
        let Some(Ok(s)) = self.id.map(|id| self.stack.info(id)) else { return r };
        r.inq = Some(s.recv_q.into());
        r.clamp = Some(s.window_clamp.into());
        let m = s.mem;
        let mem = [
            ("rmem_alloc", m.rmem_alloc),
            ("rcvbuf", m.rcvbuf),
            ("wmem_alloc", m.wmem_alloc),
            ("sndbuf", m.sndbuf),
            ("fwd_alloc", m.fwd_alloc),
            ("wmem_queued", m.wmem_queued),
            ("optmem", m.optmem),
            ("backlog", m.backlog),
            ("drops", m.drops),
        ];
        r.mem = mem.into_iter().map(|(n, v)| (n.to_owned(), v.into())).collect();
        let options = u64::from(s.timestamps) | u64::from(s.sack) << 1 | u64::from(s.wscale) << 2;
        let info: [(&str, u64); 19] = [
            ("state", state_number(s.state)),
            ("options", options),
            ("snd_wscale", s.snd_wscale.into()),
            ("rcv_wscale", s.rcv_wscale.into()),
            ("ato", s.ato_us.into()),
            ("snd_mss", s.snd_mss.into()),
            ("rcv_mss", s.rcv_mss.into()),
            ("rcv_ssthresh", s.rcv_ssthresh.into()),
            ("advmss", s.advmss.into()),
            ("rcv_space", s.rcv_space.into()),
            ("bytes_acked", s.bytes_acked),
            ("bytes_received", s.bytes_received),
            ("segs_out", s.segs_out.into()),
            ("segs_in", s.segs_in.into()),
            ("data_segs_in", s.data_segs_in.into()),
            ("rcv_ooopack", s.rcv_ooopack.into()),
            ("rcv_wnd", s.rcv_wnd.into()),
            ("total_retrans", s.total_retrans.into()),
            ("pmtu", self.mtu()),
        ];
        r.info = info.into_iter().map(|(n, v)| (n.to_owned(), v)).collect();
        let vol = [("rtt", u64::from(s.rtt_us)), ("rto", s.rto_us), ("rcv_rtt", s.rcv_rtt_us.into())];
        r.vol.info = vol.into_iter().map(|(n, v)| (n.to_owned(), v)).collect();
        r
    }

    fn mtu(&self) -> u64 {
        self.stack.mtu().into()
    }

    fn header(&self, trace: &Trace, profile: &Profile) -> Header {
        let mut extra = trace.header.extra.clone();
        if !self.ignored.is_empty() {
            extra.insert(
                "not_modelled".to_owned(),
                self.ignored.iter().map(|s| Value::from(s.as_str())).collect(),
            );
        }
        Header {
            format: FORMAT.to_owned(),
            kernel: format!("rightedge-{} {}", env!("CARGO_PKG_VERSION"), profile.name),
            command: None,
            extra,
            ..trace.header.clone()
        }
    }
}

impl Lags {
    /// Tick of the next frame that the recording has and the replay has not sent yet.
    fn next(&self) -> Option<u64> {
        self.ticks.get(self.taken).copied()
    }
}

/// A socket option as the stack takes it; `None` for one that it does not have and that nothing observable hangs on here.
fn socket_option(name: SockOpt, value: i64) -> Option<SocketOption> {
    Some(match name {
        SockOpt::SO_RCVBUF => SocketOption::RcvBuf(value as i32),
        SockOpt::SO_RCVLOWAT => SocketOption::RcvLowat(value as i32),
        SockOpt::TCP_WINDOW_CLAMP => SocketOption::WindowClamp(value as u32),
        SockOpt::TCP_QUICKACK => SocketOption::QuickAck(value != 0),
        SockOpt::TCP_MAXSEG => SocketOption::MaxSeg(value.clamp(0, 65_535) as u16),
        SockOpt::TCP_NODELAY => SocketOption::NoDelay(value != 0),
        SockOpt::SO_RCVBUFFORCE | SockOpt::SO_KEEPALIVE => return None,
    })
}

fn returned(result: Result<usize, SocketError>) -> Ret {
    match result {
        Ok(n) => Ret { n: Some(n as i64), ..Ret::default() },
        Err(e) => Ret { err: Some(errno(e).to_owned()), ..Ret::default() },
    }
}

/// The name that errno(3) has for it.
fn errno(e: SocketError) -> &'static str {
    match e {
        SocketError::BadId => "EBADF",
        SocketError::WouldBlock => "EAGAIN",
        SocketError::NotConnected => "ENOTCONN",
        SocketError::Refused => "ECONNREFUSED",
        SocketError::Reset => "ECONNRESET",
        SocketError::BrokenPipe => "EPIPE",
        SocketError::TimedOut => "ETIMEDOUT",
        SocketError::AddressInUse => "EADDRINUSE",
        SocketError::NoSuchAddress => "EADDRNOTAVAIL",
        SocketError::Invalid { .. } => "EINVAL",
        _ => "EIO",
    }
}

/// As TCP_INFO numbers states.
fn state_number(s: State) -> u64 {
    match s {
        State::Established => 1,
        State::SynSent => 2,
        State::FinWait1 => 4,
        State::FinWait2 => 5,
        // TIME-WAIT is not this socket's: the application's is closed.
        State::TimeWait | State::Closed => 7,
        State::CloseWait => 8,
        State::LastAck => 9,
        State::Closing => 11,
    }
}
