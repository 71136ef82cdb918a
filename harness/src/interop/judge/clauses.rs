//! The clauses that verdicts cite: what each asks of a sender, in our own words.
//!
//! Numbers and sections were checked against the text of RFC 9293 (August 2022), RFC 7323 §2.4 and RFC 6298 §5.

use serde::Serialize;

/// How binding a clause is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Level {
    /// Permitted: neither doing nor leaving it is wrong.
    May,
    /// To be done unless there is a good reason.
    Should,
    /// Required.
    Must,
}

impl Level {
    /// The word of RFC 2119.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Level::May => "MAY",
            Level::Should => "SHOULD",
            Level::Must => "MUST",
        }
    }
}

/// A clause of a standard.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Clause {
    /// Short name: the number RFC 9293 gives it, or the section.
    pub id: &'static str,
    /// How binding it is.
    pub level: Level,
    /// Where it stands.
    pub source: &'static str,
    /// What it asks of a sender, in our own words.
    pub duty: &'static str,
}

macro_rules! clauses {
    ($($name:ident = $id:literal $level:ident $source:literal $duty:literal;)*) => {
        $(#[doc = $duty] pub static $name: Clause = Clause { id: $id, level: Level::$level, source: $source, duty: $duty };)*
        /// All of them, in the order of the table in the docs.
        pub static ALL: &[&Clause] = &[$(&$name),*];
    };
}

clauses! {
    DATA = "data" Must "RFC 9293 §3.8"
        "Every byte arrives, once, in order and as it was sent; a byte that is sent again is the same byte.";
    WINDOW = "in-window" Must "RFC 7323 §2.4 (3), RFC 9293 §3.8.6"
        "New data lie within the window that the latest acknowledgement offers.";
    MUST_34 = "MUST-34" Must "RFC 9293 §3.8.6; RFC 1122 §4.2.2.16"
        "A sender survives a window that shrinks, although its usable window becomes negative.";
    SHLD_15 = "SHLD-15" Should "RFC 9293 §3.8.6; RFC 1122 §4.2.2.16"
        "After the window shrank no new data are sent beyond its right edge.";
    SHLD_16 = "SHLD-16" Should "RFC 9293 §3.8.6; RFC 1122 §4.2.2.16"
        "Old data between SND.UNA and SND.UNA+SND.WND are retransmitted as usual.";
    MAY_7 = "MAY-7" May "RFC 9293 §3.8.6"
        "Old data beyond SND.UNA+SND.WND may be retransmitted too (RFC 7323 §2.4 (5) would have only the first retransmission go there).";
    SHLD_17 = "SHLD-17" Should "RFC 9293 §3.8.6; RFC 1122 §4.2.2.16"
        "A connection is not timed out because data beyond the right edge stay unacknowledged.";
    MUST_35 = "MUST-35" Must "RFC 9293 §3.8.6, §3.8.6.1"
        "A window that shrank to zero is probed like any zero window.";
    MUST_36 = "MUST-36" Must "RFC 9293 §3.8.6.1; RFC 1122 §4.2.2.17"
        "A zero window is probed.";
    SHLD_29 = "SHLD-29" Should "RFC 9293 §3.8.6.1; RFC 1122 §4.2.2.17"
        "The first probe goes out when the window has been zero for the retransmission time-out.";
    SHLD_30 = "SHLD-30" Should "RFC 9293 §3.8.6.1; RFC 1122 §4.2.2.17"
        "The interval between probes grows exponentially.";
    MUST_37 = "MUST-37" Must "RFC 9293 §3.8.6.1; RFC 1122 §4.2.2.17"
        "As long as probes are acknowledged the connection stays open, however long the window is closed.";
    MUST_19 = "MUST-19" Must "RFC 9293 §3.8.2; RFC 6298 §5.5"
        "The retransmission time-out doubles each time the same data are sent again, and nothing is sent again without a sign of loss.";
    SHLD_11 = "SHLD-11" Should "RFC 9293 §3.8.3 (R2)"
        "A connection without any answer is kept for at least 100 seconds.";
    ACKED = "acked" Must "RFC 9293 §3.10.7.4"
        "An acknowledgement of data that were sent counts, also beyond the right edge last offered.";
}

/// The clause of that name.
#[must_use]
pub fn named(id: &str) -> Option<&'static Clause> {
    ALL.iter().find(|c| c.id == id).copied()
}
