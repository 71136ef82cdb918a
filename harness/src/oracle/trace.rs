//! What a receiver was seen to do, as data: JSON Lines with a header, one record per operation, and a footer.
//!
//! Kernels and the stack write the same format, so that two traces can be laid side by side. Positions are relative: `seq`
//! of the peer's segments and everything the receiver acknowledges to the peer's first payload byte; `seq` of the
//! receiver and what the peer acknowledges to the receiver's. The format is documented in `docs/oracle.md`.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Read as _, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::facts::BuildFacts;
use super::script::{Flags, RxPath, Script};

/// The `format` of traces written by this version.
pub const FORMAT: &str = "rightedge-trace/1";
/// The longest line of a trace, bytes.
const MAX_LINE: u64 = 32 << 20;

/// Why a trace was refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TraceError {
    /// The file.
    #[error("{}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A line.
    #[error("{what}:{line}: {why}")]
    Line {
        /// The file or what else it is.
        what: String,
        /// Line, from one.
        line: usize,
        /// What is wrong, and what would be right.
        why: String,
    },
}

/// What was recorded, and on what.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Header {
    /// Which format this is.
    #[serde(default)]
    pub format: String,
    /// The script.
    pub script: Map<String, Value>,
    /// Release of the kernel, or name of the stack and its profile.
    pub kernel: String,
    /// How the device was opened.
    #[serde(default)]
    pub rx_path: RxPath,
    /// MTU of the device, bytes.
    #[serde(default = "default_mtu")]
    pub mtu: u32,
    /// Sysctls as they were when the connection opened.
    #[serde(default)]
    pub sysctl: BTreeMap<String, String>,
    /// Sysctls the script or the baseline names and this kernel does not have.
    #[serde(default)]
    pub missing_sysctl: Vec<String>,
    /// What holds for the whole machine: net.core.rmem_max, tcp_mem and their kin.
    #[serde(default)]
    pub limits: BTreeMap<String, String>,
    /// Length of a tick, milliseconds.
    pub tick_ms: f64,
    /// What the kernel's configuration decides.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<BuildFacts>,
    /// The command that records this again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<String>,
    /// Everything else.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "the signature that serde calls")]
fn is_false(b: &bool) -> bool {
    !*b
}

fn default_mtu() -> u32 {
    1500
}

/// One segment that was injected.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Segment {
    /// Where it begins.
    pub seq: i64,
    /// Payload bytes.
    #[serde(default)]
    pub len: u32,
    /// Flags.
    pub flags: Flags,
    /// Acknowledgement.
    #[serde(default)]
    pub ack: i64,
    /// Raw window.
    #[serde(default)]
    pub win: u16,
    /// TSval, absolute; absent without timestamps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tsval: Option<u32>,
    /// TSecr, relative to the TSval of the SYN-ACK.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tsecr: Option<i64>,
    /// The MSS offered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mss: Option<u16>,
    /// The window scale offered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wscale: Option<u8>,
    /// SACK permitted.
    #[serde(default, skip_serializing_if = "is_false")]
    pub sackok: bool,
    /// Complemented payload.
    #[serde(default, skip_serializing_if = "is_false")]
    pub alt: bool,
    /// With a wrong checksum.
    #[serde(default, skip_serializing_if = "is_false")]
    pub bad_sum: bool,
    /// Everything else.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// One frame the receiver emitted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Frame {
    /// Flags.
    pub flags: Flags,
    /// Where it begins.
    #[serde(default)]
    pub seq: i64,
    /// Payload bytes.
    #[serde(default)]
    pub len: u32,
    /// Acknowledgement.
    #[serde(default)]
    pub ack: i64,
    /// Raw window.
    #[serde(default)]
    pub win: u16,
    /// The window, scaled, bytes.
    #[serde(default)]
    pub wnd: u64,
    /// The right edge: `ack` + `wnd`.
    #[serde(default)]
    pub edge: i64,
    /// SACK blocks.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sack: Vec<[i64; 2]>,
    /// The MSS offered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mss: Option<u16>,
    /// The window scale offered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wscale: Option<u8>,
    /// SACK permitted.
    #[serde(default, skip_serializing_if = "is_false")]
    pub sackok: bool,
    /// TSecr: a TSval of the peer, absolute.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tsecr: Option<u32>,
    /// Index of the injected segment that provoked it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<u32>,
    /// It came while time passed: before the operation, while settling, or while sleeping.
    #[serde(default, skip_serializing_if = "is_false")]
    pub late: bool,
    /// Everything else.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// What a call returned.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Ret {
    /// A number of bytes, or 0 for success.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub n: Option<i64>,
    /// An error, as errno(3) names it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub err: Option<String>,
    /// Stretches of what was read that are complements, `[from, to)` from its first byte.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub alt: Vec<[u64; 2]>,
    /// Stretches that nobody sent.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub corrupt: Vec<[u64; 2]>,
}

/// What hangs on the clock. Not compared, but it drives a replay.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Volatile {
    /// When the operation began, milliseconds on the scale whose whole ticks are jiffies.
    pub t_ms: f64,
    /// When it had been observed.
    pub end_ms: f64,
    /// When each segment was injected.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tx_ms: Vec<f64>,
    /// When each frame was seen.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub rx_ms: Vec<f64>,
    /// TSval of each frame, relative to that of the SYN-ACK.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub rx_tsval: Vec<i64>,
    /// How long each write to the device took, nanoseconds.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub write_ns: Vec<u64>,
    /// Tick in which it was observed.
    pub tick: u64,
    /// Tick in which it began.
    pub anchor: u64,
    /// TCP_INFO that hangs on the clock.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub info: BTreeMap<String, u64>,
    /// Everything else.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// One operation and what was seen after it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// Its number, from zero.
    pub i: u64,
    /// The operation as written; `{"op":"open"}` for the handshake.
    pub op: Value,
    /// Segments injected.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tx: Vec<Segment>,
    /// Frames emitted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rx: Vec<Frame>,
    /// What the call returned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ret: Option<Ret>,
    /// FIONREAD, bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inq: Option<u64>,
    /// TCP_WINDOW_CLAMP, bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clamp: Option<u64>,
    /// TCP_INFO that does not hang on the clock.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub info: BTreeMap<String, u64>,
    /// SO_MEMINFO.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub mem: BTreeMap<String, u64>,
    /// Changes of Tcp and TcpExt counters.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub cnt: BTreeMap<String, i64>,
    /// What hangs on the clock.
    #[serde(default)]
    pub vol: Volatile,
    /// Everything else.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

impl Record {
    /// The operation's name.
    #[must_use]
    pub fn op_name(&self) -> &str {
        self.op.get("op").and_then(Value::as_str).unwrap_or("?")
    }
}

/// The end of a trace. Without it, the recording was interrupted.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Footer {
    /// Records between header and footer.
    pub records: u64,
    /// Operations that slipped past their tick.
    pub slips: u64,
    /// Everything else.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// A whole trace.
#[derive(Clone, Debug, PartialEq)]
pub struct Trace {
    /// What was recorded, and on what.
    pub header: Header,
    /// The operations.
    pub records: Vec<Record>,
    /// Its end, if it came to one.
    pub footer: Option<Footer>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(clippy::large_enum_variant, reason = "there is one at a time")]
enum Frameline {
    Header(Header),
    Footer(Footer),
}

impl Trace {
    /// Name of the script.
    #[must_use]
    pub fn name(&self) -> &str {
        self.header.script.get("name").and_then(Value::as_str).unwrap_or("unnamed")
    }

    /// The script, typed.
    ///
    /// # Errors
    /// As [`Script::from_map`].
    pub fn script(&self) -> Result<Script, super::script::ScriptError> {
        Script::from_map(self.header.script.clone())
    }

    /// Ticks per second.
    #[must_use]
    pub fn hz(&self) -> u32 {
        (1000.0 / self.header.tick_ms).round() as u32
    }

    /// Reads one trace or several, one after another.
    ///
    /// # Errors
    /// Names the line that is malformed and what it should be.
    pub fn read_all(what: &str, input: impl BufRead) -> Result<Vec<Self>, TraceError> {
        let mut traces: Vec<Trace> = Vec::new();
        for line in Lines::new(what, input) {
            let (line, text) = line?;
            let bad = |why: String| TraceError::Line { what: what.to_owned(), line, why };
            let value: Value = serde_json::from_str(&text).map_err(|e| bad(format!("not JSON: {e}")))?;
            let Value::Object(map) = &value else {
                return Err(bad("not an object; a trace has one JSON object per line".to_owned()));
            };
            if map.contains_key("header") || map.contains_key("footer") {
                match serde_json::from_value(value).map_err(|e| bad(e.to_string()))? {
                    Frameline::Header(header) => {
                        check(&header).map_err(bad)?;
                        traces.push(Trace { header, records: Vec::new(), footer: None });
                    }
                    Frameline::Footer(footer) => {
                        let last = traces.last_mut().filter(|t| t.footer.is_none());
                        let t = last.ok_or_else(|| bad("a footer without its header".to_owned()))?;
                        if footer.records != t.records.len() as u64 {
                            let n = t.records.len();
                            return Err(bad(format!(
                                "the footer counts {} records, there are {n}",
                                footer.records
                            )));
                        }
                        t.footer = Some(footer);
                    }
                }
                continue;
            }
            let last = traces.last_mut().filter(|t| t.footer.is_none());
            let t = last.ok_or_else(|| bad("a record without a header before it".to_owned()))?;
            let record: Record = serde_json::from_value(value).map_err(|e| bad(e.to_string()))?;
            if record.i != t.records.len() as u64 {
                return Err(bad(format!("record {} where {} is due", record.i, t.records.len())));
            }
            t.records.push(record);
        }
        Ok(traces)
    }

    /// Reads the traces of a file; one ending in .gz is unpacked.
    ///
    /// # Errors
    /// As [`Trace::read_all`], or that the file cannot be read or holds none.
    pub fn load(path: &Path) -> Result<Vec<Self>, TraceError> {
        let file = File::open(path).map_err(|source| TraceError::Read { path: path.to_owned(), source })?;
        let what = path.display().to_string();
        let traces = if path.extension().is_some_and(|e| e == "gz") {
            Self::read_all(&what, BufReader::new(flate2::read::MultiGzDecoder::new(file)))?
        } else {
            Self::read_all(&what, BufReader::new(file))?
        };
        if traces.is_empty() {
            return Err(TraceError::Line { what, line: 1, why: "no trace in it".to_owned() });
        }
        Ok(traces)
    }

    /// Writes the trace, a line each.
    ///
    /// # Errors
    /// What the writer said.
    pub fn write(&self, mut out: impl Write) -> std::io::Result<()> {
        put(&mut out, &Frameline::Header(self.header.clone()))?;
        for r in &self.records {
            put(&mut out, r)?;
        }
        if let Some(f) = &self.footer {
            put(&mut out, &Frameline::Footer(f.clone()))?;
        }
        Ok(())
    }
}

fn put(out: &mut impl Write, line: &impl Serialize) -> std::io::Result<()> {
    serde_json::to_writer(&mut *out, line)?;
    out.write_all(b"\n")
}

fn check(header: &Header) -> Result<(), String> {
    let h = header.tick_ms;
    if !(0.1..=1000.0).contains(&h) {
        return Err(format!("tick_ms {h}: give 0.1 to 1000 milliseconds"));
    }
    if !header.format.is_empty() && header.format != FORMAT {
        return Err(format!("format '{}': this version reads {FORMAT}", header.format));
    }
    Ok(())
}

/// Lines with their numbers, none of them longer than is good.
struct Lines<R> {
    what: String,
    input: R,
    line: usize,
}

impl<R: BufRead> Lines<R> {
    fn new(what: &str, input: R) -> Self {
        Lines { what: what.to_owned(), input, line: 0 }
    }
}

impl<R: BufRead> Iterator for Lines<R> {
    type Item = Result<(usize, String), TraceError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            self.line += 1;
            let bad = |why: String| TraceError::Line { what: self.what.clone(), line: self.line, why };
            let mut bytes = Vec::new();
            match (&mut self.input).take(MAX_LINE).read_until(b'\n', &mut bytes) {
                Ok(0) => return None,
                Ok(n) if n as u64 >= MAX_LINE => {
                    return Some(Err(bad(format!("longer than {MAX_LINE} bytes"))));
                }
                Ok(_) => {}
                Err(e) => return Some(Err(bad(e.to_string()))),
            }
            match String::from_utf8(bytes) {
                Ok(text) if text.trim().is_empty() => {}
                Ok(text) => return Some(Ok((self.line, text))),
                Err(_) => return Some(Err(bad("not UTF-8".to_owned()))),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: &str = r#"{"header":{"format":"rightedge-trace/1","script":{"name":"t"},"kernel":"6.18","tick_ms":4.0,"moon":"full"}}"#;

    fn read(text: &str) -> Result<Vec<Trace>, TraceError> {
        Trace::read_all("t", text.as_bytes())
    }

    #[test]
    fn unknown_fields_survive() {
        let text = format!(
            "{HEADER}\n{}\n{}\n",
            r#"{"i":0,"op":{"op":"inject","x":1},"tx":[{"seq":0,"flags":"A","y":[2]}],"rx":[{"flags":"AP","win":3,"z":{}}],"vol":{"t_ms":1.5,"w":4},"more":"yes"}"#,
            r#"{"footer":{"records":1,"slips":0,"end":true}}"#
        );
        let t = read(&text).unwrap().remove(0);
        let mut out = Vec::new();
        t.write(&mut out).unwrap();
        let again = read(std::str::from_utf8(&out).unwrap()).unwrap().remove(0);
        assert_eq!(t, again);
        let out = String::from_utf8(out).unwrap();
        for kept in ["moon", "\"x\":1", "\"y\":[2]", "\"z\":{}", "\"w\":4", "more", "\"end\":true"] {
            assert!(out.contains(kept), "{kept}");
        }
    }

    #[test]
    fn malformed_lines_are_named() {
        let say = |t: &str| read(t).unwrap_err().to_string();
        assert!(say("{\"i\":0,\"op\":{}}").contains("t:1: a record without a header"));
        assert!(say(&format!("{HEADER}\nnonsense")).contains("t:2: not JSON"));
        assert!(say(&format!("{HEADER}\n[1]")).contains("t:2: not an object"));
        assert!(say(&format!("{HEADER}\n{{\"i\":1,\"op\":{{}}}}")).contains("record 1 where 0 is due"));
        assert!(say(&format!("{HEADER}\n{{\"footer\":{{\"records\":3,\"slips\":0}}}}")).contains("counts 3"));
        assert!(
            say(&format!("{HEADER}\n{{\"i\":0,\"op\":{{}},\"tx\":[{{\"seq\":0,\"flags\":\"Z\"}}]}}"))
                .contains("FSRPAUEC")
        );
        assert!(say(&HEADER.replace("4.0", "0")).contains("tick_ms"));
        assert!(say(&HEADER.replace("trace/1", "trace/9")).contains("rightedge-trace/1"));
    }

    #[test]
    fn an_interrupted_trace_is_readable() {
        let t = read(&format!("{HEADER}\n{{\"i\":0,\"op\":{{\"op\":\"open\"}}}}\n")).unwrap().remove(0);
        assert!(t.footer.is_none() && t.records.len() == 1 && t.hz() == 250);
    }
}
