//! Verdicts: what a peer did, clause by clause, with the packets that show it.
//!
//! The judge sees the wire and how it ended, nothing of the peer's or the receiver's insides. It is pure: the same trace
//! gives the same verdicts. Each rule is a module of a few lines and speaks only of what the trace gave an occasion for.
//!
//! | module | clauses |
//! |---|---|
//! | [`clauses`] | what is asked |
//! | `view` | what the peer could know when |
//! | `stream` | data; acked |
//! | `edge` | in-window, SHLD-15, MAY-7 |
//! | `retransmit` | SHLD-16, MUST-19 |
//! | `probe` | MUST-35, MUST-36, SHLD-29, SHLD-30 |
//! | `ending` | MUST-34, MUST-37, SHLD-17, SHLD-11 |
//! | `figures` | how fast it came back |

pub mod clauses;
mod edge;
mod ending;
mod figures;
mod probe;
mod retransmit;
mod stream;
#[cfg(test)]
mod tests;
mod view;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::trace::Trace;
use clauses::{Clause, Level};
pub use figures::Figures;
use view::View;

/// One second in the trace's unit.
pub const SECOND: u64 = 1_000_000_000;

/// What a verdict says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// As the clause asks.
    Kept,
    /// What a MAY permits was not done.
    NotTaken,
    /// What a MAY permits was done.
    Taken,
    /// There was an occasion, but what was seen does not settle it.
    Inconclusive,
    /// Not as the clause asks.
    Broken,
}

/// One clause judged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// The clause.
    #[serde(serialize_with = "by_id", deserialize_with = "from_id")]
    pub clause: &'static Clause,
    /// What was found.
    pub outcome: Outcome,
    /// Why, with the numbers.
    pub words: String,
    /// Packets that show it, by their numbers in the capture; the first is the one to look at.
    pub packets: Vec<u64>,
}

fn by_id<S: Serializer>(clause: &&'static Clause, s: S) -> Result<S::Ok, S::Error> {
    s.serialize_str(clause.id)
}

fn from_id<'de, D: Deserializer<'de>>(d: D) -> Result<&'static Clause, D::Error> {
    let id = String::deserialize(d)?;
    clauses::named(&id)
        .ok_or_else(|| serde::de::Error::custom(format!("'{id}' is no clause that is judged here")))
}

/// How a connection in a situation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum End {
    /// Everything was sent, acknowledged and closed.
    Complete,
    /// The situation was over and the peer still sending: no more was needed.
    Enough,
    /// The peer reset it.
    Reset,
    /// The peer gave it up, by its own account, without a reset.
    GaveUp,
    /// The peer's process ended or died before it was done.
    PeerGone,
    /// The time for the situation was over.
    TimeLimit,
    /// More frames than a sender could need.
    Flood,
    /// It never came to a connection.
    NoConnection,
    /// Interrupted from outside.
    Interrupted,
}

impl End {
    /// The peer came through.
    #[must_use]
    pub fn is_well(self) -> bool {
        matches!(self, End::Complete | End::Enough)
    }
}

/// What is judged.
#[derive(Clone, Copy, Debug)]
pub struct Case<'a> {
    /// What was on the wire.
    pub trace: &'a Trace,
    /// How it ended.
    pub end: End,
    /// When, on the trace's clock, nanoseconds.
    pub ended_at: u64,
    /// What the peer says went wrong, as an errno name.
    pub error: Option<&'a str>,
    /// Bytes that the peer was to send, if that is known.
    pub total: Option<u64>,
    /// How long what is under way may cross an acknowledgement, nanoseconds: 0 in virtual time.
    pub grace: u64,
}

/// Judges a case: the verdicts in the order of the clauses.
#[must_use]
pub fn judge(case: &Case<'_>) -> Vec<Verdict> {
    if case.end == End::NoConnection {
        return Vec::new();
    }
    let view = View::new(case.trace, case.grace, case.ended_at);
    let mut verdicts = Vec::new();
    for rule in [stream::judge, edge::judge, retransmit::judge, probe::judge, ending::judge] {
        rule(case, &view, &mut verdicts);
    }
    verdicts.sort_by_key(|v| clauses::ALL.iter().position(|c| *c == v.clause));
    verdicts
}

/// How fast the peer was and came back.
#[must_use]
pub fn figures(case: &Case<'_>) -> Figures {
    figures::of(case, &View::new(case.trace, case.grace, case.ended_at))
}

/// The whole of a cell in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Overall {
    /// Every clause that was put to the test was kept.
    Clean,
    /// Something could not be settled.
    Inconclusive,
    /// A SHOULD was broken.
    Should,
    /// A MUST was broken.
    Must,
}

impl Overall {
    /// Of these verdicts.
    #[must_use]
    pub fn of(verdicts: &[Verdict]) -> Self {
        let one = |v: &Verdict| match (v.outcome, v.clause.level) {
            (Outcome::Broken, Level::Must) => Overall::Must,
            (Outcome::Broken, Level::Should | Level::May) => Overall::Should,
            (Outcome::Inconclusive, _) => Overall::Inconclusive,
            (Outcome::Kept | Outcome::Taken | Outcome::NotTaken, _) => Overall::Clean,
        };
        verdicts.iter().map(one).max().unwrap_or(Overall::Inconclusive)
    }
}

/// Adds a verdict.
fn say(
    out: &mut Vec<Verdict>,
    clause: &'static Clause,
    outcome: Outcome,
    words: impl Into<String>,
    packets: impl IntoIterator<Item = u64>,
) {
    /// Packets that a verdict names.
    const MOST: usize = 20;
    out.push(Verdict {
        clause,
        outcome,
        words: words.into(),
        packets: packets.into_iter().take(MOST).collect(),
    });
}

/// Nanoseconds as people write them.
#[must_use]
pub fn span(ns: u64) -> String {
    let s = ns as f64 / SECOND as f64;
    if s < 0.001 {
        format!("{:.0} µs", s * 1e6)
    } else if s < 1.0 {
        format!("{:.0} ms", s * 1e3)
    } else if s < 100.0 {
        format!("{s:.1} s")
    } else {
        format!("{s:.0} s")
    }
}

/// "1 segment", "2 segments".
fn count(n: usize, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}
