//! The run directory: what a run leaves behind, and how it is read again.
//!
//! | file | content |
//! |---|---|
//! | `plan.json` | what was asked for, with every default filled in |
//! | `samples.csv`, `samples.jsonl` | one [`Sample`] per event |
//! | `decisions.jsonl` | one decision of the stack per line, with the packet it belongs to |
//! | `wire.pcapng` | every frame, the decisions as packet comments |
//! | `link.jsonl` | what the link did with each packet, if there is a link |
//! | `ss.txt`, `nstat.txt` | sockets and counters at the end, as those programs print them |
//! | `counters.json` | the SNMP-like counters at the end |
//! | `observer.json` | the verdict of the independent observer |
//! | `summary.json` | `status` ("running", "complete" or "interrupted"), results, notes on anything left out |
//!
//! The growing files are appended to in whole records, at the latest [`Options::flush_every`] after they were made as
//! long as the run loop calls [`RunDir::tick`] and the disk keeps up. So even after SIGKILL every file is readable and
//! lacks at most the records of that interval; the status then still says "running".
//!
//! | module | one line |
//! |---|---|
//! | `dir` | the directory as the run loop sees it: numbers packets, collects, writes the small files |
//! | `batch` | what is collected until it is handed over |
//! | `writer` | the thread that it is handed to: order, back-pressure, errors |
//! | `scribe` | what that thread does: references between packets and decisions, limits, the growing files |
//! | `line`, `row`, `pcapng` | how a decision, a sample and a frame are written |
//! | `file` | a file that grows by whole records |
//! | `read` | reading it all again |

mod batch;
mod dir;
mod file;
mod line;
mod pcapng;
mod read;
mod row;
mod sample;
mod scribe;
mod writer;

pub use self::{
    dir::{Options, RunDir, Status},
    file::{RecordFile, write_json},
    pcapng::{Direction, WireFrame, WireInfo, WireReader, WireWriter},
    read::{DecisionHead, DecisionLine, DecisionLines, load_json, load_samples},
    sample::{Event, FlagLetters, Sample},
};

/// File names inside a run directory.
pub mod names {
    /// What was asked for.
    pub const PLAN: &str = "plan.json";
    /// Samples as a table.
    pub const SAMPLES_CSV: &str = "samples.csv";
    /// Samples as JSON lines.
    pub const SAMPLES_JSONL: &str = "samples.jsonl";
    /// Decisions as JSON lines.
    pub const DECISIONS: &str = "decisions.jsonl";
    /// The capture.
    pub const WIRE: &str = "wire.pcapng";
    /// Status and results.
    pub const SUMMARY: &str = "summary.json";
    /// Counters.
    pub const COUNTERS: &str = "counters.json";
    /// The observer's verdict.
    pub const OBSERVER: &str = "observer.json";
    /// What the link did with each packet, if there is a link.
    pub const LINK: &str = "link.jsonl";
    /// Sockets at the end, like `ss -tmi`.
    pub const SS: &str = "ss.txt";
    /// Counters at the end, like `nstat`.
    pub const NSTAT: &str = "nstat.txt";
    /// The chart as SVG.
    pub const CHART_SVG: &str = "chart.svg";
    /// The chart as PNG.
    pub const CHART_PNG: &str = "chart.png";

    /// Every file that this program may put into a run directory.
    pub const ALL: [&str; 13] = [
        LINK,
        SS,
        NSTAT,
        PLAN,
        SAMPLES_CSV,
        SAMPLES_JSONL,
        DECISIONS,
        WIRE,
        SUMMARY,
        COUNTERS,
        OBSERVER,
        CHART_SVG,
        CHART_PNG,
    ];
}

#[cfg(test)]
mod tests;
