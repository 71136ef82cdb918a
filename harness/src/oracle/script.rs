//! What to do to a receiver, as data: one JSON object that any program can write.
//!
//! A script is kept as it was read, unknown keys included, beside its typed view. The format is documented in
//! `docs/oracle.md`.

mod values;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

pub use values::{Base, Flags, Position};

/// Steps a script may have once `repeat` and `reads` are written out.
pub const MAX_STEPS: usize = 20_000;
/// Bytes of payload that one segment may carry.
pub const MAX_SEGMENT: u32 = 65_000;
/// Segments of one `burst` or `fill`.
pub const MAX_BURST: u32 = 4_096;
/// The longest sleep or settling time, milliseconds.
pub const MAX_SLEEP_MS: u64 = 3_600_000;
/// How far from the first byte a position may be, either way.
pub const MAX_POSITION: i64 = 1 << 30;

/// Why a script was refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ScriptError {
    /// The file.
    #[error("{}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Not JSON, or not an object.
    #[error("{what}:{line}: not a JSON object ({why}); a script is one JSON object, or one per line")]
    Json {
        /// The file or what else it is.
        what: String,
        /// Line, from one.
        line: usize,
        /// What is wrong.
        why: String,
    },
    /// A value.
    #[error("script {script}: {place}: {why}")]
    Value {
        /// Name of the script, or its file and line.
        script: String,
        /// The key, as in `ops[3]`.
        place: String,
        /// What is wrong and what would be right.
        why: String,
    },
}

/// How the TAP device is opened, which decides the memory layout of arriving frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RxPath {
    /// TAP, blocking descriptor: slab heads.
    #[default]
    Linear,
    /// TAP, non-blocking descriptor: page-fragment heads.
    Frag,
    /// TAP with virtio headers: headers linear, payload in pages.
    Vnet,
    /// TAP with NAPI: generic receive offload looks at the frames.
    Napi,
    /// TAP with NAPI fragments: payload as exact fragments. Needs rights in the initial user namespace.
    NapiFrags,
    /// TUN: bare IP packets, slab heads.
    Tun,
}

impl RxPath {
    /// All of them, as scripts spell them.
    pub const ALL: &'static [(RxPath, &'static str)] = &[
        (RxPath::Linear, "linear"),
        (RxPath::Frag, "frag"),
        (RxPath::Vnet, "vnet"),
        (RxPath::Napi, "napi"),
        (RxPath::NapiFrags, "napi_frags"),
        (RxPath::Tun, "tun"),
    ];
}

impl fmt::Display for RxPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(Self::ALL.iter().find(|(p, _)| p == self).map_or("?", |(_, n)| n))
    }
}

/// What happens between an operation and its observation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Settle {
    /// A pending delayed ACK is waited out.
    #[default]
    Ack,
    /// Nothing: observed at once.
    None,
    /// So many milliseconds pass.
    #[serde(untagged)]
    Ms(u64),
}

/// What the peer echoes in its timestamps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TsEcr {
    /// The last value it saw.
    #[default]
    Echo,
    /// The value of the SYN-ACK, for ever.
    Frozen,
    /// 0.
    Zero,
}

/// What the peer offers when it opens the connection.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Handshake {
    /// MSS option, bytes; `null`: not offered.
    pub mss: Option<u16>,
    /// Window scale option; `null`: not offered.
    pub wscale: Option<u8>,
    /// SACK permitted.
    pub sack: bool,
    /// Timestamps.
    pub ts: bool,
    /// Window of the SYN and the ACK, raw.
    pub win: u16,
    /// Time between SYN-ACK and ACK, milliseconds.
    pub ack_delay_ms: u64,
}

impl Default for Handshake {
    fn default() -> Self {
        Handshake { mss: Some(1460), wscale: Some(7), sack: true, ts: false, win: 65_535, ack_delay_ms: 0 }
    }
}

/// Metrics of the host route to the peer, named as `ip route` names them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct RouteMetrics {
    /// Acknowledge every segment at once.
    pub quickack: bool,
    /// First receive window, segments.
    pub initrwnd: u32,
    /// Cap of the window, bytes.
    pub window: u32,
    /// Advertised MSS, bytes.
    pub advmss: u32,
    /// MTU, bytes.
    pub mtu: u32,
    /// Smallest retransmission timeout, milliseconds.
    pub rto_min: u32,
    /// Feature bits.
    pub features: u32,
}

/// One segment to inject.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default)]
pub struct Inject {
    /// Where it begins.
    pub seq: Position,
    /// Payload bytes.
    pub len: u32,
    /// Flags.
    pub flags: Flags,
    /// Acknowledgement, relative to our first byte; all that was seen unless said.
    pub ack: Option<i64>,
    /// Raw window; that of the handshake unless said.
    pub win: Option<u16>,
    /// TSval, absolute; the peer's clock unless said.
    pub tsval: Option<u32>,
    /// Added to the TSval of the peer's clock.
    pub tsadd: i64,
    /// TSecr, relative to the TSval of the SYN-ACK; as `tsecr` of the script says unless said.
    pub tsecr: Option<i64>,
    /// Without the timestamps option.
    pub no_ts: bool,
    /// Complemented payload.
    pub alt: bool,
    /// With a wrong checksum.
    pub bad_sum: bool,
    /// Leaves `next` alone.
    pub aside: bool,
}

impl Default for Inject {
    fn default() -> Self {
        Inject {
            seq: Position::NEXT,
            len: 0,
            flags: Flags::ACK,
            ack: None,
            win: None,
            tsval: None,
            tsadd: 0,
            tsecr: None,
            no_ts: false,
            alt: false,
            bad_sum: false,
            aside: false,
        }
    }
}

/// How much to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Amount {
    /// Everything there is.
    All,
    /// At most so many bytes.
    Bytes(u32),
}

impl<'de> Deserialize<'de> for Amount {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        match Value::deserialize(d)? {
            Value::String(s) if s == "all" => Ok(Amount::All),
            Value::Number(n) => n
                .as_u64()
                .and_then(|n| u32::try_from(n).ok())
                .filter(|n| *n <= i32::MAX as u32)
                .map(Amount::Bytes)
                .ok_or_else(|| serde::de::Error::custom(format!("{n}: give 0 to 2147483647 or \"all\""))),
            v => Err(serde::de::Error::custom(format!("{v}: give a number of bytes or \"all\""))),
        }
    }
}

/// Flags of a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReadFlag {
    /// MSG_PEEK.
    Peek,
    /// MSG_TRUNC: bytes are discarded, not copied.
    Trunc,
    /// MSG_WAITALL.
    Waitall,
}

/// The three kinds of zero-window probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProbeKind {
    /// No data, one byte back.
    Keepalive,
    /// The last byte that was acknowledged, again.
    Old,
    /// The next byte.
    Byte,
}

/// What a shutdown ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum How {
    /// Receiving.
    Rd,
    /// Sending.
    #[default]
    Wr,
    /// Both.
    Rdwr,
}

/// One operation.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub enum Op {
    /// One segment.
    Inject(Inject),
    /// Segments back to back.
    Burst {
        /// The segments; `seq`, `len`, `count` and `stride` make them otherwise.
        #[serde(default)]
        segs: Vec<Inject>,
        /// Where the first begins.
        seq: Option<Position>,
        /// Payload of each.
        #[serde(default)]
        len: u32,
        /// How many.
        #[serde(default)]
        count: u32,
        /// From the beginning of one to that of the next; `len` unless said.
        stride: Option<i64>,
    },
    /// In order while the window has room.
    Fill {
        /// Payload of each segment.
        len: u32,
        /// Segments at most.
        max: Option<u32>,
        /// The last one is cut to what is left of the window.
        #[serde(default)]
        partial: bool,
        /// Only answers to the last segment are recorded.
        #[serde(default)]
        quiet: bool,
    },
    /// A zero-window probe.
    Probe {
        /// Which.
        kind: ProbeKind,
    },
    /// One read.
    Read {
        /// How much.
        n: Amount,
        /// How.
        #[serde(default)]
        flags: Vec<ReadFlag>,
    },
    /// The application sends.
    Write {
        /// Bytes.
        n: u32,
    },
    /// The peer acknowledges everything that was sent to it.
    Ackall,
    /// Time passes.
    Sleep {
        /// Milliseconds.
        ms: u64,
    },
    /// `next` goes back to `ack`.
    Rewind,
    /// An option of the socket.
    Setsockopt {
        /// Its name.
        name: SockOpt,
        /// Its value.
        value: i64,
    },
    /// A sysctl of the namespace.
    Sysctl {
        /// Its name; a bare one means net.ipv4.
        name: String,
        /// Its value.
        value: Value,
    },
    /// Half-close.
    Shutdown {
        /// Which half.
        #[serde(default)]
        how: How,
    },
    /// The application closes the socket.
    Close,
    /// A list, over and over. Written out before anything runs.
    Repeat {
        /// How often.
        n: u32,
        /// The list.
        ops: Vec<Value>,
    },
    /// `count` reads of `n` bytes, each a tick after the other. Written out before anything runs.
    Reads {
        /// Bytes of each.
        n: Amount,
        /// How many.
        count: u32,
    },
}

/// A socket option that scripts may set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(non_camel_case_types, reason = "spelled as setsockopt(2) spells them")]
#[allow(missing_docs, reason = "documented by setsockopt(2) and tcp(7)")]
pub enum SockOpt {
    SO_RCVBUF,
    SO_RCVBUFFORCE,
    SO_RCVLOWAT,
    SO_KEEPALIVE,
    TCP_WINDOW_CLAMP,
    TCP_MAXSEG,
    TCP_QUICKACK,
    TCP_NODELAY,
}

/// An operation with when it happens.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// What happens.
    pub op: Op,
    /// What passes before it is observed.
    pub settle: Settle,
    /// Ticks since the operation before.
    pub gap: u32,
    /// Microseconds behind its tick.
    pub phase_us: u32,
    /// As it was written.
    pub raw: Value,
}

/// A script.
#[derive(Clone, Debug, PartialEq)]
pub struct Script {
    /// As it was read, `base` resolved.
    pub raw: Map<String, Value>,
    /// Its name.
    pub name: String,
    /// Sysctls by full name.
    pub sysctl: BTreeMap<String, String>,
    /// How the device is opened.
    pub rx_path: RxPath,
    /// MTU of the device, bytes.
    pub mtu: u32,
    /// The peer's initial sequence number: that of its first payload byte.
    pub isn: u32,
    /// Metrics of the route, if there are any.
    pub route: Option<RouteMetrics>,
    /// Options set before listen, in order.
    pub listener: Vec<(SockOpt, i64)>,
    /// How the connection opens.
    pub handshake: Handshake,
    /// What the peer echoes.
    pub tsecr: TsEcr,
    /// The operations, written out.
    pub steps: Vec<Step>,
}

/// The full name of a sysctl: bare names mean net.ipv4.
#[must_use]
pub fn sysctl_name(name: &str) -> String {
    if name.contains('.') { name.to_owned() } else { format!("net.ipv4.{name}") }
}

/// The value of a sysctl: a number, a string, or a list of numbers.
fn sysctl_value(value: &Value) -> Option<String> {
    match value {
        Value::String(s) => Some(s.split_whitespace().collect::<Vec<_>>().join(" ")),
        Value::Number(n) => Some(n.to_string()),
        Value::Bool(b) => Some(u8::from(*b).to_string()),
        Value::Array(a) => a.iter().map(sysctl_value).collect::<Option<Vec<_>>>().map(|v| v.join(" ")),
        _ => None,
    }
}

impl Op {
    /// The value of a `sysctl` operation as text.
    #[must_use]
    pub fn sysctl_text(value: &Value) -> String {
        sysctl_value(value).unwrap_or_default()
    }
}

impl Script {
    /// From one JSON object whose `base` is resolved.
    ///
    /// # Errors
    /// Names the script, the key and what it takes.
    pub fn from_map(raw: Map<String, Value>) -> Result<Self, ScriptError> {
        let name = match raw.get("name") {
            None => "unnamed".to_owned(),
            Some(Value::String(s)) if s.len() <= 200 => s.clone(),
            Some(v) => {
                return Err(fault("unnamed", "name", format!("{v} is not a text of at most 200 bytes")));
            }
        };
        let bad = |place: &str, why: String| fault(&name, place, why);
        let get = |key: &str| raw.get(key).filter(|v| !v.is_null()).cloned();
        fn typed<T: for<'de> Deserialize<'de>>(
            name: &str,
            key: &str,
            v: Option<Value>,
        ) -> Result<Option<T>, ScriptError> {
            v.map(serde_json::from_value).transpose().map_err(|e| fault(name, key, e.to_string()))
        }
        let mut sysctl = BTreeMap::new();
        for (k, v) in typed::<Map<String, Value>>(&name, "sysctl", get("sysctl"))?.unwrap_or_default() {
            let text = sysctl_value(&v).ok_or_else(|| {
                bad("sysctl", format!("{k} = {v}: give a number, a text or a list of numbers"))
            })?;
            sysctl.insert(checked_name(&name, "sysctl", &k)?, text);
        }
        let handshake: Handshake = typed(&name, "handshake", get("handshake"))?.unwrap_or_default();
        let limit = |place: &str, n: u64, max: u64| {
            if n <= max { Ok(()) } else { Err(bad(place, format!("{n} is too much; at most {max}"))) }
        };
        limit("handshake.ack_delay_ms", handshake.ack_delay_ms, 10_000)?;
        limit("handshake.wscale", handshake.wscale.unwrap_or(0).into(), 255)?;
        let mtu = typed(&name, "mtu", get("mtu"))?.unwrap_or(1500u32);
        if !(576..=65_535).contains(&mtu) {
            return Err(bad("mtu", format!("{mtu} is outside 576…65535")));
        }
        let mut script = Script {
            sysctl,
            rx_path: typed(&name, "rx_path", get("rx_path"))?.unwrap_or_default(),
            mtu,
            isn: typed(&name, "isn", get("isn"))?.unwrap_or(1_000_000),
            route: typed(&name, "route", get("route"))?,
            listener: typed(&name, "listener", get("listener"))?.unwrap_or_default(),
            handshake,
            tsecr: typed(&name, "tsecr", get("tsecr"))?.unwrap_or_default(),
            steps: Vec::new(),
            name,
            raw,
        };
        let defaults = Defaults {
            settle: typed(&script.name, "settle", script.raw.get("settle").cloned())?.unwrap_or_default(),
            gap: typed(&script.name, "gap", script.raw.get("gap").cloned())?.unwrap_or(1),
        };
        let ops: Vec<Value> = typed(&script.name, "ops", script.raw.get("ops").cloned())?.unwrap_or_default();
        write_out(&script.name, "ops", &ops, &defaults, 0, &mut script.steps)?;
        Ok(script)
    }

    /// From text: one object over many lines, or one per line. `near` is where `base` files lie.
    ///
    /// # Errors
    /// Names the line and what is wrong.
    pub fn parse_all(what: &str, text: &str, near: Option<&Path>) -> Result<Vec<Self>, ScriptError> {
        let json = |line: usize, e: &dyn fmt::Display| ScriptError::Json {
            what: what.to_owned(),
            line,
            why: e.to_string(),
        };
        let mut maps = Vec::new();
        let mut stream = serde_json::Deserializer::from_str(text).into_iter::<Map<String, Value>>();
        while let Some(map) = stream.next() {
            let line = text.get(..stream.byte_offset()).map_or(1, |t| t.matches('\n').count() + 1);
            maps.push((line, map.map_err(|e| json(if e.line() > 0 { e.line() } else { line }, &e))?));
        }
        if maps.is_empty() {
            return Err(json(1, &"nothing in it"));
        }
        maps.into_iter()
            .map(|(line, map)| {
                let map = with_base(map, near, &mut BTreeSet::new())?;
                Script::from_map(map).map_err(|e| match e {
                    ScriptError::Value { script, place, why } => {
                        ScriptError::Value { script: format!("{script} ({what}:{line})"), place, why }
                    }
                    e => e,
                })
            })
            .collect()
    }

    /// All scripts of a file.
    ///
    /// # Errors
    /// Names the file, the line and what is wrong.
    pub fn load(path: &Path) -> Result<Vec<Self>, ScriptError> {
        Self::parse_all(&path.display().to_string(), &read(path)?, path.parent())
    }

    /// The same script with other operations.
    ///
    /// # Errors
    /// Names the operation that is wrong.
    pub fn with_ops(&self, ops: Vec<Value>) -> Result<Self, ScriptError> {
        let mut raw = self.raw.clone();
        raw.insert("ops".to_owned(), Value::Array(ops));
        Self::from_map(raw)
    }
}

struct Defaults {
    settle: Settle,
    gap: u32,
}

fn fault(script: &str, place: &str, why: String) -> ScriptError {
    ScriptError::Value { script: script.to_owned(), place: place.to_owned(), why }
}

fn read(path: &Path) -> Result<String, ScriptError> {
    std::fs::read_to_string(path).map_err(|source| ScriptError::Read { path: path.to_owned(), source })
}

/// A sysctl name that stays within net.
fn checked_name(script: &str, place: &str, name: &str) -> Result<String, ScriptError> {
    let full = sysctl_name(name);
    let plain = full.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c));
    if full.starts_with("net.") && plain && !full.contains("..") {
        Ok(full)
    } else {
        Err(fault(script, place, format!("'{name}' is no sysctl of net.*")))
    }
}

/// The script with that of its `base` below it, key by key.
fn with_base(
    mut map: Map<String, Value>,
    near: Option<&Path>,
    seen: &mut BTreeSet<PathBuf>,
) -> Result<Map<String, Value>, ScriptError> {
    let Some(base) = map.remove("base") else { return Ok(map) };
    let name = map.get("name").and_then(Value::as_str).unwrap_or("unnamed").to_owned();
    let Value::String(file) = base else {
        return Err(fault(&name, "base", format!("{base} is not the name of a file")));
    };
    let path = near.map_or_else(|| PathBuf::from(&file), |d| d.join(&file));
    if seen.len() > 16 || !seen.insert(path.clone()) {
        return Err(fault(&name, "base", format!("{file} leads back to itself")));
    }
    let text = read(&path)?;
    let below: Map<String, Value> = serde_json::from_str(&text).map_err(|e| ScriptError::Json {
        what: path.display().to_string(),
        line: e.line(),
        why: e.to_string(),
    })?;
    let mut below = with_base(below, path.parent(), seen)?;
    below.extend(map);
    Ok(below)
}

fn write_out(
    script: &str,
    place: &str,
    ops: &[Value],
    defaults: &Defaults,
    depth: u32,
    steps: &mut Vec<Step>,
) -> Result<(), ScriptError> {
    if depth > 8 {
        return Err(fault(
            script,
            place,
            "repeat inside repeat, more than 8 deep; write it flatter".to_owned(),
        ));
    }
    for (i, raw) in ops.iter().enumerate() {
        let place = format!("{place}[{i}]");
        let bad = |why: String| fault(script, &place, why);
        let Value::Object(map) = raw else { return Err(bad(format!("{raw} is not an object"))) };
        let op: Op = serde_json::from_value(raw.clone()).map_err(|e| bad(e.to_string()))?;
        let part = |key: &str| map.get(key).filter(|v| !v.is_null()).cloned();
        let number = |key: &str, default: u32, max: u32| match part(key) {
            None => Ok(default),
            Some(v) => v
                .as_u64()
                .and_then(|n| u32::try_from(n).ok())
                .filter(|n| *n <= max)
                .ok_or_else(|| bad(format!("{key} {v}: give 0 to {max}"))),
        };
        let settle: Settle = match part("settle") {
            None => defaults.settle,
            Some(v) => serde_json::from_value(v.clone())
                .map_err(|_| bad(format!("settle {v}: give \"ack\", \"none\" or milliseconds")))?,
        };
        if matches!(settle, Settle::Ms(ms) if ms > MAX_SLEEP_MS) {
            return Err(bad(format!("settle: at most {MAX_SLEEP_MS} ms")));
        }
        let gap = number("gap", defaults.gap, 1_000_000)?.max(1);
        let phase_us = number("ph", 250, 1_000_000)?;
        check(&op).map_err(bad)?;
        match op {
            Op::Repeat { n, ref ops } => {
                for _ in 0..n {
                    write_out(script, &place, ops, defaults, depth + 1, steps)?;
                }
            }
            Op::Reads { n, count } => {
                let mut one = map.clone();
                one.insert("op".to_owned(), Value::from("read"));
                one.remove("count");
                for _ in 0..count.min(MAX_STEPS as u32 + 1) {
                    let (op, raw) = (Op::Read { n, flags: Vec::new() }, Value::Object(one.clone()));
                    steps.push(Step { op, settle, gap, phase_us, raw });
                }
            }
            op => steps.push(Step { op, settle, gap, phase_us, raw: raw.clone() }),
        }
        if steps.len() > MAX_STEPS {
            return Err(fault(script, &place, format!("more than {MAX_STEPS} operations once written out")));
        }
    }
    Ok(())
}

fn check(op: &Op) -> Result<(), String> {
    let len =
        |n: u32| if n <= MAX_SEGMENT { Ok(()) } else { Err(format!("len {n}: at most {MAX_SEGMENT} bytes")) };
    let count = |n: usize| {
        if n <= MAX_BURST as usize { Ok(()) } else { Err(format!("{n} segments: at most {MAX_BURST}")) }
    };
    match op {
        Op::Inject(x) => len(x.len),
        Op::Burst { segs, len: l, count: c, stride, .. } => {
            segs.iter().try_for_each(|x| len(x.len))?;
            len(*l)?;
            count(segs.len())?;
            count(*c as usize)?;
            match stride {
                Some(s) if s.unsigned_abs() > 1 << 20 => Err(format!("stride {s}: at most 2^20 either way")),
                _ => Ok(()),
            }
        }
        Op::Fill { len: 0, .. } => Err("len 0 fills nothing".to_owned()),
        Op::Fill { len: l, max, .. } => {
            len(*l)?;
            count(max.unwrap_or(0) as usize)
        }
        Op::Write { n } if *n > 1 << 20 => Err(format!("write of {n} bytes: at most 2^20")),
        Op::Sleep { ms } if *ms > MAX_SLEEP_MS => Err(format!("sleep of {ms} ms: at most {MAX_SLEEP_MS}")),
        Op::Setsockopt { value, .. } if i32::try_from(*value).is_err() => {
            Err(format!("value {value}: give 32 bits"))
        }
        Op::Sysctl { name, value } => {
            checked_name("", "", name).map_err(|_| format!("'{name}' is no sysctl of net.*"))?;
            sysctl_value(value).map(|_| ()).ok_or_else(|| format!("{value} is no value of a sysctl"))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
