//! Writing a run directory.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use bytes::Bytes;
use rightedge_stack::decision::Record;
use serde::Serialize;
use serde_json::{Value, json};

use super::{
    Direction, Sample, WireInfo,
    batch::Batch,
    file::write_json,
    names,
    scribe::{LeftOut, Scribe},
    writer::Writer,
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
    /// Most bytes of each frame that `wire.pcapng` holds; all of them unless told. Lengths and numbers stay those of the
    /// whole frame.
    pub snaplen: Option<u32>,
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
            snaplen: None,
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
/// Per arriving frame: hand it to the stack, drain the stack's records into [`RunDir::arrived`]; then call
/// [`RunDir::departed`] for each frame the stack gives out. Records about a departing frame wait inside until that
/// frame is known, so they may be handed in early.
///
/// The caller only collects. A thread puts what is collected into words and writes it, in order; an error of its meets
/// the next call.
pub struct RunDir {
    path: PathBuf,
    batch: Batch,
    writer: Writer<Scribe>,
    /// Packets numbered, including those behind the limit of the capture.
    packets: u64,
    options: Options,
    snaplen: usize,
    dirty_since: Option<Instant>,
    finished: bool,
}

impl RunDir {
    /// Makes the directory and every file in it, so that a long run cannot fail at its end for want of rights.
    ///
    /// # Errors
    /// The directory cannot be written, or holds something already and `force` is not set.
    pub fn create(path: &Path, options: Options) -> Result<Self> {
        prepare(path, options.force)?;
        let run = RunDir {
            batch: Batch::default(),
            writer: Writer::start(Scribe::create(path, &options)?)?,
            packets: 0,
            snaplen: options.snaplen.map_or(usize::MAX, |n| n as usize),
            options,
            dirty_since: None,
            finished: false,
            path: path.to_owned(),
        };
        run.write_summary(Status::Running, json!({}), LeftOut::default())?;
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
    pub fn arrived(
        &mut self,
        frame_no: u64,
        t_ns: u64,
        frame: &Bytes,
        records: impl IntoIterator<Item = Record>,
    ) -> Result<u64> {
        self.frame(Direction::In, frame_no, t_ns, frame, records)
    }

    /// Records a departing frame, numbered as the stack numbers it, and decisions drained since. Returns its packet
    /// number.
    ///
    /// # Errors
    /// A file cannot be written.
    pub fn departed(
        &mut self,
        tx: u64,
        t_ns: u64,
        frame: &Bytes,
        records: impl IntoIterator<Item = Record>,
    ) -> Result<u64> {
        self.frame(Direction::Out, tx, t_ns, frame, records)
    }

    /// Records decisions that belong to no frame in hand: those of calls and timers.
    ///
    /// # Errors
    /// A file cannot be written.
    pub fn decisions(&mut self, records: impl IntoIterator<Item = Record>) -> Result<()> {
        self.batch.decisions(records);
        self.collected()
    }

    /// Appends a sample.
    ///
    /// # Errors
    /// A file cannot be written.
    pub fn sample(&mut self, sample: Sample) -> Result<()> {
        self.batch.sample(sample);
        self.collected()
    }

    /// Sees to it that nothing waits for longer than [`Options::flush_every`]. Call it once per turn of the run loop, and
    /// again within the time it gives; `None` if nothing waits.
    ///
    /// # Errors
    /// A file cannot be written.
    pub fn tick(&mut self) -> Result<Option<Duration>> {
        let Some(since) = self.dirty_since else { return Ok(None) };
        // The other half is the writer's.
        let left = (self.options.flush_every / 2).saturating_sub(since.elapsed());
        if !left.is_zero() {
            return Ok(Some(left));
        }
        self.dirty_since = None;
        self.hand_over()?;
        self.writer.flush()?;
        Ok(None)
    }

    /// Hands everything recorded so far to the operating system.
    ///
    /// # Errors
    /// A file cannot be written.
    pub fn flush(&mut self) -> Result<()> {
        self.dirty_since = None;
        self.hand_over()?;
        self.writer.flush_and_wait()
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
        match self.hand_over().and_then(|()| self.writer.end()) {
            Ok(left_out) => self.write_summary(status, summary, left_out),
            Err(e) => {
                // The run is not under way any more, and may yet be able to say so.
                let _ = self.write_summary(Status::Interrupted, summary, LeftOut::default());
                Err(e)
            }
        }
    }

    fn frame(
        &mut self,
        direction: Direction,
        number: u64,
        t_ns: u64,
        frame: &Bytes,
        records: impl IntoIterator<Item = Record>,
    ) -> Result<u64> {
        self.packets += 1;
        self.batch.frame(direction, number, self.packets, t_ns, frame, self.snaplen, records);
        self.collected()?;
        Ok(self.packets)
    }

    fn collected(&mut self) -> Result<()> {
        if self.dirty_since.is_none() {
            self.dirty_since = Some(Instant::now());
        }
        if self.batch.is_full() { self.hand_over() } else { Ok(()) }
    }

    fn hand_over(&mut self) -> Result<()> {
        if self.batch.is_empty() { Ok(()) } else { self.writer.hand_over(&mut self.batch) }
    }

    fn write_whole(&self, name: &str, value: &impl Serialize) -> Result<()> {
        let value = serde_json::to_value(value).with_context(|| format!("cannot turn {name} into JSON"))?;
        write_json(&self.path.join(name), &value)
    }

    fn write_summary(&self, status: Status, summary: Value, left_out: LeftOut) -> Result<()> {
        let mut fields = match summary {
            Value::Object(fields) => fields,
            Value::Null => serde_json::Map::new(),
            other => serde_json::Map::from_iter([("result".to_owned(), other)]),
        };
        fields.insert("status".into(), json!(status));
        if status != Status::Running {
            fields.insert("packets".into(), json!(self.packets));
        }
        if left_out.decisions > 0 {
            fields.insert(
                "decisions_truncated".into(),
                json!({
                    "limit_bytes": self.options.decision_limit, "left_out": left_out.decisions,
                }),
            );
        }
        if left_out.frames > 0 {
            fields.insert(
                "wire_truncated".into(),
                json!({
                    "limit_bytes": self.options.wire_limit, "left_out": left_out.frames,
                }),
            );
        }
        write_json(&self.path.join(names::SUMMARY), &Value::Object(fields))
    }
}

impl Drop for RunDir {
    fn drop(&mut self) {
        // An error that was met before has been told before.
        let told = self.writer.is_over();
        if !self.finished
            && let Err(e) = self.end(Status::Interrupted, json!({}))
            && !told
        {
            tracing::warn!("{}: {e:#}", self.path.display());
        }
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
