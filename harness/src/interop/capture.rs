//! `wire.pcapng` of a cell: every frame, what became of it, and what the receiver decided, as packet comments.

use std::io::Write as _;
use std::path::Path;
use std::time::{Instant as Clock, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result};
use rightedge_stack::decision::Record;
use rightedge_stack::time::Instant;

use crate::record::{Direction, RecordFile, WireInfo, WireWriter};

/// Bytes of a capture; frames behind it are numbered but left out.
const MOST: u64 = 256 << 20;
/// How often it reaches the disk.
const FLUSH: std::time::Duration = std::time::Duration::from_millis(200);

/// Writes a capture, or only counts.
pub struct Capture {
    out: Option<WireWriter<RecordFile>>,
    packets: u64,
    left_out: u64,
    remarks: Vec<String>,
    waiting: Vec<Record>,
    flushed: Clock,
}

impl Capture {
    /// One that writes nothing.
    #[must_use]
    pub fn none() -> Self {
        Capture {
            out: None,
            packets: 0,
            left_out: 0,
            remarks: Vec::new(),
            waiting: Vec::new(),
            flushed: Clock::now(),
        }
    }

    /// One into a file. `description` says what was captured; times are those of the world with `real_time`.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn create(path: &Path, description: &str, real_time: bool) -> Result<Self> {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let info = WireInfo {
            description: description.to_owned(),
            epoch_ns: if real_time { u64::try_from(since.as_nanos()).unwrap_or(0) } else { 0 },
            ..WireInfo::default()
        };
        let file = RecordFile::create(path)?;
        let out = WireWriter::new(file, &info).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(Capture { out: Some(out), ..Self::none() })
    }

    /// Does it write anything?
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.out.is_some()
    }

    /// Frames so far.
    #[must_use]
    pub fn packets(&self) -> u64 {
        self.packets
    }

    /// The number the next frame gets.
    #[must_use]
    pub fn next_packet(&self) -> u64 {
        self.packets + 1
    }

    /// Frames that did not fit.
    #[must_use]
    pub fn left_out(&self) -> u64 {
        self.left_out
    }

    /// A remark that the next frame carries.
    pub fn remark(&mut self, text: String) {
        if self.is_on() {
            self.remarks.push(text);
        }
    }

    /// Decisions that belong to no frame in hand; what a departing frame carries waits for it.
    pub fn decisions(&mut self, records: &[Record]) {
        if !self.is_on() {
            return;
        }
        for r in records {
            match r.tx {
                Some(_) => self.waiting.push(r.clone()),
                None => self.remarks.push(comment(r)),
            }
        }
    }

    /// A frame from the peer, with what it made the receiver decide, and a note of its fate.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn arrived(
        &mut self,
        now: Instant,
        frame: &[u8],
        records: &[Record],
        note: Option<&str>,
    ) -> Result<()> {
        self.note(note);
        self.decisions(records);
        self.write(now, Direction::In, frame)
    }

    /// A frame of the receiver, numbered `tx` by the stack.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn departed(
        &mut self,
        now: Instant,
        tx: u64,
        frame: &[u8],
        records: &[Record],
        note: Option<&str>,
    ) -> Result<()> {
        self.note(note);
        self.decisions(records);
        let mine: Vec<String> = self.waiting.iter().filter(|r| r.tx == Some(tx)).map(comment).collect();
        self.remarks.extend(mine);
        self.waiting.retain(|r| r.tx.is_some_and(|n| n > tx));
        self.write(now, Direction::Out, frame)
    }

    fn note(&mut self, note: Option<&str>) {
        if let Some(note) = note.filter(|_| self.is_on()) {
            self.remarks.insert(0, note.to_owned());
        }
    }

    fn write(&mut self, now: Instant, direction: Direction, frame: &[u8]) -> Result<()> {
        self.packets += 1;
        let Some(out) = &mut self.out else { return Ok(()) };
        let remarks = std::mem::take(&mut self.remarks);
        if out.sink().total() > MOST {
            self.left_out += 1;
            return Ok(());
        }
        out.write_frame(now.as_nanos(), direction, frame, &remarks)
            .with_context(|| format!("cannot write {}", out.sink().path().display()))?;
        Ok(())
    }

    /// To the disk, if it is time.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn tick(&mut self) -> Result<()> {
        if self.flushed.elapsed() >= FLUSH { self.flush() } else { Ok(()) }
    }

    /// To the disk.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn flush(&mut self) -> Result<()> {
        self.flushed = Clock::now();
        let Some(out) = &mut self.out else { return Ok(()) };
        out.sink_mut().flush().with_context(|| format!("cannot write {}", out.sink().path().display()))
    }
}

fn comment(record: &Record) -> String {
    format!("{} [{}]", record.decision, record.decision.kernel_function())
}
