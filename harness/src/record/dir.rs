//! Writing a run directory.

use std::{
    collections::VecDeque,
    fs,
    io::{self, Write as _},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use rightedge_stack::decision::{Cause, Record};
use serde::Serialize;
use serde_json::{Value, json};

use super::{
    Direction, Sample, WireInfo, WireWriter,
    file::{RecordFile, write_json},
    names,
};

/// How a run directory is made.
#[derive(Clone, Debug)]
pub struct Options {
    /// Overwrite the files of an earlier run in the same directory. Files that no run writes are never touched.
    pub force: bool,
    /// How long a record may wait in memory. 200 ms unless told.
    pub flush_every: Duration,
    /// Most bytes of `decisions.jsonl`; behind that, decisions are counted but not written, and file and summary say so.
    pub decision_limit: Option<u64>,
    /// Most bytes of `wire.pcapng`; behind that, frames are numbered but not written, and the summary says so.
    pub wire_limit: Option<u64>,
    /// What the capture says about where it was taken.
    pub wire: WireInfo,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            force: false,
            flush_every: Duration::from_millis(200),
            decision_limit: None,
            wire_limit: None,
            wire: WireInfo::default(),
        }
    }
}

/// How far a run came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Under way, or killed without a chance to say so.
    Running,
    /// Ended as planned.
    Complete,
    /// Ended early, by Ctrl-C or an error.
    Interrupted,
}

/// A run directory that is being written.
///
/// Per arriving frame: hand it to the stack, drain the stack's records, call [`RunDir::arrived`] with both; then call
/// [`RunDir::departed`] for each frame the stack gives out. Records about a departing frame wait inside until that
/// frame is known, so they may be handed in early.
pub struct RunDir {
    path: PathBuf,
    samples_csv: csv::Writer<RecordFile>,
    samples_jsonl: RecordFile,
    decisions: RecordFile,
    wire: WireWriter<RecordFile>,
    /// Packets numbered, including those behind the limit of the capture.
    packets: u64,
    arrivals: Numbers,
    departures: Numbers,
    waiting: Vec<Record>,
    left_out: LeftOut,
    options: Options,
    dirty_since: Option<Instant>,
    unflushed: usize,
    finished: bool,
}

#[derive(Default)]
struct LeftOut {
    decisions: u64,
    frames: u64,
}

/// A line of `decisions.jsonl`.
#[derive(Serialize)]
struct Line<'a> {
    packet: Option<u64>,
    cause_packet: Option<u64>,
    #[serde(flatten)]
    record: &'a Record,
    function: &'a str,
    words: String,
}

impl RunDir {
    /// Makes the directory and every file in it, so that a long run cannot fail at its end for want of rights.
    ///
    /// # Errors
    /// The directory cannot be written, or holds something already and `force` is not set.
    pub fn create(path: &Path, options: Options) -> Result<Self> {
        prepare(path, options.force)?;
        let file = |name: &str| RecordFile::create(&path.join(name));
        let mut samples_csv =
            csv::WriterBuilder::new().has_headers(false).from_writer(file(names::SAMPLES_CSV)?);
        samples_csv.write_record(Sample::COLUMNS).context("cannot write the header of samples.csv")?;
        let wire = WireWriter::new(file(names::WIRE)?, &options.wire)
            .with_context(|| format!("cannot write {}", path.join(names::WIRE).display()))?;
        let mut run = RunDir {
            samples_csv,
            samples_jsonl: file(names::SAMPLES_JSONL)?,
            decisions: file(names::DECISIONS)?,
            wire,
            packets: 0,
            arrivals: Numbers::default(),
            departures: Numbers::default(),
            waiting: Vec::new(),
            left_out: LeftOut::default(),
            options,
            dirty_since: None,
            unflushed: 0,
            finished: false,
            path: path.to_owned(),
        };
        run.flush()?;
        run.write_summary(Status::Running, json!({}))?;
        Ok(run)
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Packets numbered so far.
    #[must_use]
    pub fn packets(&self) -> u64 {
        self.packets
    }

    /// Writes `plan.json`.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write_plan(&self, plan: &impl Serialize) -> Result<()> {
        self.write_whole(names::PLAN, plan)
    }

    /// Writes `counters.json`; may be called as often as wanted.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write_counters(&self, counters: &impl Serialize) -> Result<()> {
        self.write_whole(names::COUNTERS, counters)
    }

    /// Writes `observer.json`; may be called as often as wanted.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write_observer(&self, verdict: &impl Serialize) -> Result<()> {
        self.write_whole(names::OBSERVER, verdict)
    }

    /// Writes any further file of the run, for example a chart.
    ///
    /// # Errors
    /// The file cannot be written, or `name` is not a plain file name.
    pub fn write_file(&self, name: &str, content: &[u8]) -> Result<PathBuf> {
        if name.contains(['/', '\\']) || name.starts_with('.') || name.is_empty() {
            bail!("'{name}' is not a plain file name; give a name without directories");
        }
        let path = self.path.join(name);
        fs::write(&path, content).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(path)
    }

    /// Records an arriving frame, numbered as the stack numbers it, and the decisions it caused. Returns its packet
    /// number.
    ///
    /// # Errors
    /// A file cannot be written.
    pub fn arrived(&mut self, frame_no: u64, t_ns: u64, frame: &[u8], records: &[Record]) -> Result<u64> {
        let comments: Vec<String> = records.iter().filter(|r| r.tx.is_none()).map(comment).collect();
        let packet = self.frame(t_ns, Direction::In, frame, &comments)?;
        self.arrivals.note(frame_no, packet);
        self.decide(records)?;
        Ok(packet)
    }

    /// Records a departing frame, numbered as the stack numbers it, and decisions drained since. Returns its packet
    /// number.
    ///
    /// # Errors
    /// A file cannot be written.
    pub fn departed(&mut self, tx: u64, t_ns: u64, frame: &[u8], records: &[Record]) -> Result<u64> {
        self.decide(records)?;
        let (mine, rest): (Vec<Record>, Vec<Record>) =
            std::mem::take(&mut self.waiting).into_iter().partition(|r| r.tx.is_some_and(|n| n <= tx));
        self.waiting = rest;
        let comments: Vec<String> = mine.iter().filter(|r| r.tx == Some(tx)).map(comment).collect();
        let packet = self.frame(t_ns, Direction::Out, frame, &comments)?;
        self.departures.note(tx, packet);
        for record in &mine {
            self.line(record)?;
        }
        Ok(packet)
    }

    /// Records decisions that belong to no frame in hand: those of calls and timers.
    ///
    /// # Errors
    /// A file cannot be written.
    pub fn decisions(&mut self, records: &[Record]) -> Result<()> {
        self.decide(records)
    }

    /// Appends a sample.
    ///
    /// # Errors
    /// A file cannot be written.
    pub fn sample(&mut self, sample: &Sample) -> Result<()> {
        self.samples_csv.serialize(sample).context("cannot write samples.csv")?;
        serde_json::to_writer(&mut self.samples_jsonl, sample).context("cannot write samples.jsonl")?;
        self.samples_jsonl.write_all(b"\n")?;
        self.wrote(400)
    }

    /// Flushes if something has waited for [`Options::flush_every`]. Call it once per turn of the run loop.
    ///
    /// # Errors
    /// A file cannot be written.
    pub fn tick(&mut self) -> Result<()> {
        match self.next_flush() {
            Some(wait) if wait.is_zero() => self.flush(),
            _ => Ok(()),
        }
    }

    /// How long the run loop may sleep before it should call [`RunDir::tick`]; `None` if nothing waits.
    #[must_use]
    pub fn next_flush(&self) -> Option<Duration> {
        self.dirty_since.map(|t| self.options.flush_every.saturating_sub(t.elapsed()))
    }

    /// Hands everything recorded so far to the operating system.
    ///
    /// # Errors
    /// A file cannot be written.
    pub fn flush(&mut self) -> Result<()> {
        self.dirty_since = None;
        self.unflushed = 0;
        // The capture first: whatever refers to a packet number shall find it there.
        flush(self.wire.sink_mut())?;
        flush(&mut self.decisions)?;
        flush(&mut self.samples_jsonl)?;
        self.samples_csv
            .flush()
            .with_context(|| format!("cannot write {}", self.path.join(names::SAMPLES_CSV).display()))
    }

    /// Ends the run: writes what waits, and `summary.json` with `status` and the fields of `summary`.
    ///
    /// # Errors
    /// A file cannot be written.
    pub fn finish(mut self, status: Status, summary: &impl Serialize) -> Result<PathBuf> {
        let summary = serde_json::to_value(summary).context("cannot turn the summary into JSON")?;
        self.end(status, summary)?;
        Ok(self.path.clone())
    }

    fn end(&mut self, status: Status, summary: Value) -> Result<()> {
        self.finished = true;
        for record in std::mem::take(&mut self.waiting) {
            self.line(&record)?;
        }
        self.flush()?;
        self.write_summary(status, summary)
    }

    fn frame(&mut self, t_ns: u64, direction: Direction, frame: &[u8], comments: &[String]) -> Result<u64> {
        self.packets += 1;
        let full = self.options.wire_limit.is_some_and(|most| {
            self.wire.sink().total().saturating_add(frame.len() as u64) > most || self.left_out.frames > 0
        });
        if full {
            self.left_out.frames += 1;
            return Ok(self.packets);
        }
        self.wire
            .write_frame(t_ns, direction, frame, comments)
            .with_context(|| format!("cannot write {}", self.wire.sink().path().display()))?;
        self.wrote(frame.len())?;
        Ok(self.packets)
    }

    fn decide(&mut self, records: &[Record]) -> Result<()> {
        for record in records {
            match record.tx {
                Some(tx) if tx > self.departures.last() => self.waiting.push(record.clone()),
                _ => self.line(record)?,
            }
        }
        Ok(())
    }

    fn line(&mut self, record: &Record) -> Result<()> {
        if self.left_out.decisions > 0 {
            self.left_out.decisions += 1;
            return Ok(());
        }
        let cause_packet = match record.cause {
            Cause::Frame(n) => self.arrivals.find(n),
            Cause::Call | Cause::Timer => None,
        };
        let packet = match record.tx {
            Some(tx) => self.departures.find(tx),
            None => cause_packet,
        };
        let line = Line {
            packet,
            cause_packet,
            record,
            function: record.decision.kernel_function(),
            words: record.decision.to_string(),
        };
        let mut text = serde_json::to_vec(&line).context("cannot turn a decision into JSON")?;
        text.push(b'\n');
        if let Some(most) = self.options.decision_limit
            && self.decisions.total().saturating_add(text.len() as u64) > most
        {
            self.left_out.decisions = 1;
            text =
                json!({"note": "truncated", "limit_bytes": most, "at": record.at}).to_string().into_bytes();
            text.push(b'\n');
        }
        self.decisions.write_all(&text)?;
        self.wrote(text.len())
    }

    fn wrote(&mut self, bytes: usize) -> Result<()> {
        const MOST_PENDING: usize = 4 << 20;
        self.unflushed = self.unflushed.saturating_add(bytes);
        if self.unflushed > MOST_PENDING {
            return self.flush();
        }
        match self.dirty_since {
            None => {
                self.dirty_since = Some(Instant::now());
                Ok(())
            }
            Some(_) => self.tick(),
        }
    }

    fn write_whole(&self, name: &str, value: &impl Serialize) -> Result<()> {
        let value = serde_json::to_value(value).with_context(|| format!("cannot turn {name} into JSON"))?;
        write_json(&self.path.join(name), &value)
    }

    fn write_summary(&self, status: Status, summary: Value) -> Result<()> {
        let mut fields = match summary {
            Value::Object(fields) => fields,
            Value::Null => serde_json::Map::new(),
            other => serde_json::Map::from_iter([("result".to_owned(), other)]),
        };
        fields.insert("status".into(), json!(status));
        if status != Status::Running {
            fields.insert("packets".into(), json!(self.packets));
        }
        if self.left_out.decisions > 0 {
            fields.insert(
                "decisions_truncated".into(),
                json!({
                    "limit_bytes": self.options.decision_limit, "left_out": self.left_out.decisions,
                }),
            );
        }
        if self.left_out.frames > 0 {
            fields.insert(
                "wire_truncated".into(),
                json!({
                    "limit_bytes": self.options.wire_limit, "left_out": self.left_out.frames,
                }),
            );
        }
        write_json(&self.path.join(names::SUMMARY), &Value::Object(fields))
    }
}

impl Drop for RunDir {
    fn drop(&mut self) {
        if !self.finished
            && let Err(e) = self.end(Status::Interrupted, json!({}))
        {
            tracing::warn!("{}: {e:#}", self.path.display());
        }
    }
}

/// What a packet comment says of a decision.
fn comment(record: &Record) -> String {
    format!("{} [{}]", record.decision, record.decision.kernel_function())
}

fn flush(file: &mut RecordFile) -> Result<()> {
    if file.pending() == 0 {
        return Ok(());
    }
    file.flush().with_context(|| format!("cannot write {}", file.path().display()))
}

/// The packet numbers of the last frames of one direction.
#[derive(Default)]
struct Numbers(VecDeque<(u64, u64)>);

impl Numbers {
    fn note(&mut self, frame: u64, packet: u64) {
        const MOST: usize = 4096;
        if self.0.len() == MOST {
            self.0.pop_front();
        }
        self.0.push_back((frame, packet));
    }

    fn find(&self, frame: u64) -> Option<u64> {
        self.0.iter().rev().find(|(f, _)| *f <= frame).filter(|(f, _)| *f == frame).map(|(_, p)| *p)
    }

    fn last(&self) -> u64 {
        self.0.back().map_or(0, |(f, _)| *f)
    }
}

fn prepare(path: &Path, force: bool) -> Result<()> {
    let shown = path.display();
    match fs::metadata(path) {
        Ok(m) if !m.is_dir() => {
            bail!("run directory {shown} is a file; name a directory that is empty or does not exist yet")
        }
        Ok(_) => {}
        Err(e) if e.kind() == io::ErrorKind::NotFound => fs::create_dir_all(path).with_context(|| {
            format!("cannot create run directory {shown}; choose a place you may write to")
        })?,
        Err(e) => return Err(e).with_context(|| format!("cannot look at run directory {shown}")),
    }
    let probe = tempfile::Builder::new().prefix(".rightedge-").tempfile_in(path);
    drop(probe.with_context(|| {
        format!("run directory {shown} is not writable; choose another or change its rights")
    })?);
    let mut found = Vec::new();
    for entry in fs::read_dir(path).with_context(|| format!("cannot list run directory {shown}"))? {
        let entry = entry.with_context(|| format!("cannot list run directory {shown}"))?;
        found.push(entry.file_name().to_string_lossy().into_owned());
    }
    found.sort();
    if found.is_empty() {
        return Ok(());
    }
    if !force {
        let more = if found.len() > 3 { ", …" } else { "" };
        let some = found.iter().take(3).map(String::as_str).collect::<Vec<_>>().join(", ");
        bail!(
            "run directory {shown} is not empty ({some}{more}); choose another, or overwrite its run with --force"
        );
    }
    for name in names::ALL {
        match fs::remove_file(path.join(name)) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                return Err(e).with_context(|| format!("cannot replace {}", path.join(name).display()));
            }
            _ => {}
        }
    }
    Ok(())
}
