//! Reading a run directory again. What is read may be cut short, or come from anywhere.

use std::{
    fs::File,
    io::{BufRead, BufReader, Read as _, Seek as _, SeekFrom, Take},
    path::Path,
};

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;
use serde_json::Value;

use super::{Sample, names};

/// Reads `samples.csv`. A last line without its end is left out.
///
/// # Errors
/// The file cannot be read, or a line inside it is no sample.
pub fn load_samples(dir: &Path) -> Result<Vec<Sample>> {
    let path = dir.join(names::SAMPLES_CSV);
    let mut table = csv::Reader::from_reader(whole_lines(&path)?);
    let columns = table.headers().with_context(|| format!("{} line 1", path.display()))?.clone();
    // In our own order they need not be looked up by name, row after row.
    let columns = (columns != *Sample::COLUMNS.as_slice()).then_some(columns);
    let mut out = Vec::new();
    let mut row = csv::StringRecord::new();
    loop {
        let line = || format!("{} line {} is no sample", path.display(), out.len() + 2);
        if !table.read_record(&mut row).with_context(line)? {
            return Ok(out);
        }
        let sample = row.deserialize(columns.as_ref()).with_context(line)?;
        out.push(sample);
    }
}

/// Reads one of the small JSON files.
///
/// # Errors
/// The file cannot be read or is no JSON.
pub fn load_json(dir: &Path, name: &str) -> Result<Value> {
    let path = dir.join(name);
    let file = File::open(&path).with_context(|| format!("cannot open {}", path.display()))?;
    serde_json::from_reader(BufReader::new(file)).with_context(|| format!("{} is not JSON", path.display()))
}

/// What is needed of every line to know whether it matters.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct DecisionHead {
    /// The packet whose comment it is: the departing one it went into, else the arriving one that caused it.
    #[serde(default)]
    pub packet: Option<u64>,
    /// The arriving packet that caused it.
    #[serde(default)]
    pub cause_packet: Option<u64>,
    /// The socket, as a key to compare.
    #[serde(default)]
    pub socket: Option<Value>,
    /// The departing frame it went into.
    #[serde(default)]
    pub tx: Option<u64>,
    /// Set on a line that is no decision.
    #[serde(default)]
    pub note: Option<String>,
}

/// A line in full. Fields of a kind unknown to this program stay in `decision`.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct DecisionLine {
    /// When, nanoseconds.
    #[serde(default)]
    pub at: u64,
    /// The packet whose comment it is.
    #[serde(default)]
    pub packet: Option<u64>,
    /// The arriving packet that caused it.
    #[serde(default)]
    pub cause_packet: Option<u64>,
    /// The socket.
    #[serde(default)]
    pub socket: Option<Value>,
    /// What made the stack act: a frame, a call or a timer.
    #[serde(default)]
    pub cause: Value,
    /// The departing frame it went into.
    #[serde(default)]
    pub tx: Option<u64>,
    /// The kernel function that takes this decision.
    #[serde(default)]
    pub function: String,
    /// The decision in words.
    #[serde(default)]
    pub words: String,
    /// The decision with its numbers.
    #[serde(default)]
    pub decision: Value,
}

impl DecisionLine {
    /// The kind of decision, `"?"` if the line does not say.
    #[must_use]
    pub fn kind(&self) -> &str {
        self.decision.get("kind").and_then(Value::as_str).unwrap_or("?")
    }

    /// A number of the decision.
    #[must_use]
    pub fn number(&self, field: &str) -> Option<i64> {
        self.decision.get(field).and_then(Value::as_i64)
    }
}

/// Walks over `decisions.jsonl` without holding it in memory.
pub struct DecisionLines {
    reader: BufReader<Take<File>>,
    name: String,
    line: u64,
    text: String,
}

impl DecisionLines {
    /// Opens the file of a run directory.
    ///
    /// # Errors
    /// The file cannot be opened.
    pub fn open(dir: &Path) -> Result<Self> {
        let path = dir.join(names::DECISIONS);
        let reader = BufReader::new(whole_lines(&path)?);
        Ok(DecisionLines { reader, name: path.display().to_string(), line: 0, text: String::new() })
    }

    /// The next line's head; [`DecisionLines::full`] gives the rest of the same line.
    ///
    /// # Errors
    /// The file cannot be read, or the line is no decision.
    pub fn next_head(&mut self) -> Result<Option<DecisionHead>> {
        const LONGEST: u64 = 1 << 20;
        self.text.clear();
        self.line += 1;
        let n = (&mut self.reader)
            .take(LONGEST)
            .read_line(&mut self.text)
            .with_context(|| format!("cannot read {} line {}", self.name, self.line))?;
        if n == 0 {
            return Ok(None);
        }
        if n as u64 == LONGEST {
            bail!(
                "{} line {} is longer than {LONGEST} bytes: this is no file of a run",
                self.name,
                self.line
            );
        }
        let head = serde_json::from_str(&self.text)
            .with_context(|| format!("{} line {} is no decision", self.name, self.line))?;
        Ok(Some(head))
    }

    /// The current line in full.
    ///
    /// # Errors
    /// The line is no decision.
    pub fn full(&self) -> Result<DecisionLine> {
        serde_json::from_str(&self.text)
            .with_context(|| format!("{} line {} is no decision", self.name, self.line))
    }
}

/// Opens a file up to its last end of line: what follows was cut off while it was written.
fn whole_lines(path: &Path) -> Result<Take<File>> {
    const STEP: u64 = 4096;
    let context = || format!("cannot read {}", path.display());
    let mut file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    let mut end = file.seek(SeekFrom::End(0)).with_context(context)?;
    let mut block = Vec::new();
    while end > 0 {
        let from = end.saturating_sub(STEP);
        file.seek(SeekFrom::Start(from)).with_context(context)?;
        block.clear();
        (&file).take(end - from).read_to_end(&mut block).with_context(context)?;
        if let Some(at) = block.iter().rposition(|b| *b == b'\n') {
            end = from + at as u64 + 1;
            break;
        }
        end = from;
    }
    file.rewind().with_context(context)?;
    Ok(file.take(end))
}
