//! From batches to the growing files: who refers to which packet, what is said of it, and where the files end.

use std::collections::VecDeque;
use std::io::Write as _;
use std::path::Path;

use anyhow::{Context as _, Result};
use rightedge_stack::decision::{Cause, Record};

use super::batch::{Batch, Frame, Piece};
use super::line::{self, Words};
use super::writer::Sink;
use super::{Direction, Options, RecordFile, Sample, WireWriter, names, row};

/// Flushed at this many bytes, even if it is not time: what was just written is still in the cache.
const MOST_PENDING: usize = 1 << 20;

/// The files that grow with the run.
pub(super) struct Scribe {
    samples_csv: RecordFile,
    samples_jsonl: RecordFile,
    decisions: RecordFile,
    wire: WireWriter<RecordFile>,
    arrivals: Numbers,
    departures: Numbers,
    /// About frames that have not departed yet.
    waiting: Vec<Record>,
    kept_waiting: Vec<Record>,
    words: Words,
    line: Vec<u8>,
    left_out: LeftOut,
    decision_limit: Option<u64>,
    wire_limit: Option<u64>,
}

/// What the limits cost.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct LeftOut {
    pub(super) decisions: u64,
    pub(super) frames: u64,
}

impl Scribe {
    /// Creates the files, with what every one begins with.
    ///
    /// # Errors
    /// One of them cannot be written.
    pub(super) fn create(dir: &Path, options: &Options) -> Result<Self> {
        let file = |name: &str| RecordFile::create(&dir.join(name));
        let mut samples_csv = file(names::SAMPLES_CSV)?;
        samples_csv.append(row::header);
        let wire = WireWriter::with_snaplen(file(names::WIRE)?, &options.wire, options.snaplen)
            .with_context(|| format!("cannot write {}", dir.join(names::WIRE).display()))?;
        let mut scribe = Scribe {
            samples_csv,
            samples_jsonl: file(names::SAMPLES_JSONL)?,
            decisions: file(names::DECISIONS)?,
            wire,
            arrivals: Numbers::default(),
            departures: Numbers::default(),
            waiting: Vec::new(),
            kept_waiting: Vec::new(),
            words: Words::default(),
            line: Vec::new(),
            left_out: LeftOut::default(),
            decision_limit: options.decision_limit,
            wire_limit: options.wire_limit,
        };
        scribe.flush()?;
        Ok(scribe)
    }

    fn frame(&mut self, frame: &Frame, data: &[u8], records: &mut dyn Iterator<Item = Record>) -> Result<()> {
        self.words.clear();
        match frame.direction {
            Direction::In => {
                self.arrivals.note(frame.number, frame.packet);
                for record in records {
                    let comment = record.tx.is_none();
                    self.decide(record, comment)?;
                }
            }
            Direction::Out => {
                for record in records {
                    self.decide(record, false)?;
                }
                self.departures.note(frame.number, frame.packet);
                let mut all = std::mem::replace(&mut self.waiting, std::mem::take(&mut self.kept_waiting));
                for record in all.drain(..) {
                    if record.tx.is_some_and(|n| n <= frame.number) {
                        self.line(&record, record.tx == Some(frame.number))?;
                    } else {
                        self.waiting.push(record);
                    }
                }
                self.kept_waiting = all;
            }
        }
        let full = self.wire_limit.is_some_and(|most| {
            self.wire.sink().total().saturating_add(data.len() as u64) > most || self.left_out.frames > 0
        });
        if full {
            self.left_out.frames += 1;
            return Ok(());
        }
        self.wire
            .write_cut(frame.t_ns, frame.direction, data, frame.original_len, self.words.comments())
            .with_context(|| format!("cannot write {}", self.wire.sink().path().display()))?;
        Ok(())
    }

    /// Writes a record down, or keeps it until the frame is known that it went into.
    fn decide(&mut self, record: Record, comment: bool) -> Result<()> {
        match record.tx {
            Some(tx) if tx > self.departures.last() => self.waiting.push(record),
            _ => self.line(&record, comment)?,
        }
        Ok(())
    }

    fn line(&mut self, record: &Record, comment: bool) -> Result<()> {
        let comment = comment && self.left_out.frames == 0;
        if self.left_out.decisions > 0 {
            self.left_out.decisions += 1;
            if comment {
                self.words.say(&record.decision, true);
            }
            return Ok(());
        }
        let cause = match record.cause {
            Cause::Frame(n) => self.arrivals.find(n),
            Cause::Call | Cause::Timer => None,
        };
        let packet = match record.tx {
            Some(tx) => self.departures.find(tx),
            None => cause,
        };
        let words = self.words.say(&record.decision, comment);
        self.line.clear();
        line::write(&mut self.line, packet, cause, record, words)?;
        if let Some(most) = self.decision_limit
            && self.decisions.total().saturating_add(self.line.len() as u64) > most
        {
            self.left_out.decisions = 1;
            self.line.clear();
            line::write_truncated(&mut self.line, most, record.at)?;
        }
        self.decisions.write_all(&self.line)?;
        Ok(())
    }

    fn sample(&mut self, sample: &Sample) {
        let csv = &mut self.samples_csv;
        self.samples_jsonl.append(|json| csv.append(|csv| row::write(sample, csv, json)));
    }

    fn pending(&self) -> usize {
        self.wire.sink().pending()
            + self.decisions.pending()
            + self.samples_csv.pending()
            + self.samples_jsonl.pending()
    }
}

impl Sink for Scribe {
    type Batch = Batch;
    type End = LeftOut;

    fn take(&mut self, batch: &mut Batch) -> Result<()> {
        batch.drain(|piece| {
            match piece {
                Piece::Frame(frame, data, records) => self.frame(frame, data, records)?,
                Piece::Decisions(records) => {
                    self.words.clear();
                    for record in records {
                        self.decide(record, false)?;
                    }
                }
                Piece::Sample(sample) => self.sample(sample),
            }
            if self.pending() > MOST_PENDING { self.flush() } else { Ok(()) }
        })
    }

    fn flush(&mut self) -> Result<()> {
        // The capture first: whatever refers to a packet number shall find it there.
        flush(self.wire.sink_mut())?;
        flush(&mut self.decisions)?;
        flush(&mut self.samples_jsonl)?;
        flush(&mut self.samples_csv)
    }

    fn end(mut self) -> Result<LeftOut> {
        for record in std::mem::take(&mut self.waiting) {
            self.words.clear();
            self.line(&record, false)?;
        }
        self.flush()?;
        Ok(self.left_out)
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    /// A disk that is full from the start.
    #[test]
    fn a_file_that_cannot_be_written_is_named() {
        for name in [names::WIRE, names::SAMPLES_JSONL] {
            let tmp = tempfile::tempdir().unwrap();
            let mut scribe = Scribe::create(tmp.path(), &Options::default()).unwrap();
            let full = tmp.path().join("full");
            std::os::unix::fs::symlink("/dev/full", &full).unwrap();
            let full = RecordFile::create(&full).unwrap();
            if name == names::WIRE {
                *scribe.wire.sink_mut() = full;
            } else {
                scribe.samples_jsonl = full;
            }
            let mut batch = Batch::default();
            batch.sample(Sample::default());
            batch.frame(Direction::In, 1, 1, 1, &vec![0; 60].into(), usize::MAX, []);
            scribe.take(&mut batch).unwrap();
            let error = format!("{:#}", scribe.end().unwrap_err());
            assert!(error.contains("full") && error.contains("No space left"), "{error}");
        }
    }
}
