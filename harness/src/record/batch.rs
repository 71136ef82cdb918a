//! What the run loop hands over to be written: frames, decisions and samples as they came, not yet put into words.

use bytes::Bytes;
use rightedge_stack::decision::Record;

use super::{Direction, Sample};

/// So much, in bytes, is handed over at once: seldom enough that waking the other side costs nothing.
const FULL: usize = 512 << 10;
/// Frames up to this length are copied: cheaper than memory that one thread takes and another gives back.
const COPIED: usize = 2048;

/// A frame and how many of the batch's records came with it.
#[derive(Debug)]
pub(super) struct Frame {
    pub(super) direction: Direction,
    /// As the stack numbers it.
    pub(super) number: u64,
    /// As the run numbers it.
    pub(super) packet: u64,
    pub(super) t_ns: u64,
    /// Its length on the wire, bytes.
    pub(super) original_len: usize,
    data: Data,
    pub(super) records: usize,
}

#[derive(Debug)]
enum Data {
    Held(Bytes),
    /// So many bytes of the batch's own.
    Copied(usize),
}

#[derive(Debug)]
pub(super) enum Entry {
    Frame(Frame),
    /// So many records that came without a frame.
    Decisions(usize),
}

/// A piece of a run, in the order in which it happened.
#[derive(Debug, Default)]
pub(super) struct Batch {
    entries: Vec<Entry>,
    records: Vec<Record>,
    samples: Vec<Sample>,
    bytes: Vec<u8>,
    held: usize,
}

impl Batch {
    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty() && self.samples.is_empty()
    }

    /// It is time to hand it over.
    pub(super) fn is_full(&self) -> bool {
        self.held
            + self.bytes.len()
            + self.records.len() * size_of::<Record>()
            + self.samples.len() * size_of::<Sample>()
            >= FULL
    }

    /// Takes a frame of which at most `snaplen` bytes are kept, with the records drained since.
    #[expect(clippy::too_many_arguments, reason = "a frame has as many properties")]
    pub(super) fn frame(
        &mut self,
        direction: Direction,
        number: u64,
        packet: u64,
        t_ns: u64,
        frame: &Bytes,
        snaplen: usize,
        records: impl IntoIterator<Item = Record>,
    ) {
        let kept = frame.len().min(snaplen);
        let data = if kept <= COPIED {
            self.bytes.extend_from_slice(frame.get(..kept).unwrap_or_default());
            Data::Copied(kept)
        } else {
            self.held += frame.len();
            Data::Held(frame.slice(..kept))
        };
        let records = self.take(records);
        let original_len = frame.len();
        let frame = Frame { direction, number, packet, t_ns, original_len, data, records };
        self.entries.push(Entry::Frame(frame));
    }

    /// Takes records that belong to no frame in hand.
    pub(super) fn decisions(&mut self, records: impl IntoIterator<Item = Record>) {
        let records = self.take(records);
        if records > 0 {
            self.entries.push(Entry::Decisions(records));
        }
    }

    pub(super) fn sample(&mut self, sample: Sample) {
        self.samples.push(sample);
    }

    fn take(&mut self, records: impl IntoIterator<Item = Record>) -> usize {
        let before = self.records.len();
        self.records.extend(records);
        self.records.len() - before
    }

    /// Gives everything out in order, frames with their bytes, and is empty afterwards.
    ///
    /// # Errors
    /// The first of `on`'s.
    pub(super) fn drain<E>(
        &mut self,
        mut on: impl FnMut(Piece<'_, &mut dyn Iterator<Item = Record>>) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut records = self.records.drain(..);
        let mut bytes = self.bytes.as_slice();
        for entry in self.entries.drain(..) {
            match entry {
                Entry::Decisions(n) => on(Piece::Decisions(&mut records.by_ref().take(n)))?,
                Entry::Frame(frame) => {
                    let data = match &frame.data {
                        Data::Held(data) => data,
                        Data::Copied(n) => {
                            let (mine, rest) = bytes.split_at_checked(*n).unwrap_or_default();
                            bytes = rest;
                            mine
                        }
                    };
                    on(Piece::Frame(&frame, data, &mut records.by_ref().take(frame.records)))?;
                }
            }
        }
        drop(records);
        for sample in self.samples.drain(..) {
            on(Piece::Sample(&sample))?;
        }
        self.bytes.clear();
        self.held = 0;
        Ok(())
    }
}

/// A part of a batch.
pub(super) enum Piece<'a, R> {
    /// A frame, what is kept of it, and its records.
    Frame(&'a Frame, &'a [u8], R),
    Decisions(R),
    Sample(&'a Sample),
}
