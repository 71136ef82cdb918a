//! A decision in `decisions.jsonl` and as a packet comment: its words are rendered once for both.

use std::fmt::Write as _;
use std::ops::Range;

use anyhow::{Context as _, Result};
use rightedge_stack::decision::{Decision, Record};
use rightedge_stack::time::Instant;
use serde::Serialize;

/// Comments of one packet, one behind the other.
#[derive(Default)]
pub(super) struct Words {
    text: String,
    comments: Vec<Range<usize>>,
}

impl Words {
    pub(super) fn clear(&mut self) {
        self.text.clear();
        self.comments.clear();
    }

    /// Puts a decision into words; if it is to be a comment of the packet in hand, it is kept for that.
    pub(super) fn say(&mut self, decision: &Decision, comment: bool) -> &str {
        let start = match self.comments.last() {
            Some(last) => last.end,
            None => 0,
        };
        // What was said last and is no comment.
        self.text.truncate(start);
        // A String takes everything.
        let _ = write!(self.text, "{decision}");
        let end = self.text.len();
        if comment {
            self.text.push_str(" [");
            self.text.push_str(decision.kernel_function());
            self.text.push(']');
            self.comments.push(start..self.text.len());
        }
        self.text.get(start..end).unwrap_or_default()
    }

    /// The comments in order.
    pub(super) fn comments(&self) -> impl Iterator<Item = &str> + Clone {
        self.comments.iter().map(|range| self.text.get(range.clone()).unwrap_or_default())
    }
}

/// Appends the line of a decision.
///
/// # Errors
/// It cannot be turned into JSON.
pub(super) fn write(
    out: &mut Vec<u8>,
    packet: Option<u64>,
    cause_packet: Option<u64>,
    record: &Record,
    words: &str,
) -> Result<()> {
    out.extend_from_slice(b"{\"packet\":");
    number(out, packet);
    out.extend_from_slice(b",\"cause_packet\":");
    number(out, cause_packet);
    // The record's fields are fields of the line: its braces go.
    let start = out.len();
    serde_json::to_writer(&mut *out, record).context("cannot turn a decision into JSON")?;
    if let Some(brace) = out.get_mut(start) {
        *brace = b',';
    }
    out.pop();
    out.extend_from_slice(b",\"function\":");
    text(out, record.decision.kernel_function())?;
    out.extend_from_slice(b",\"words\":");
    text(out, words)?;
    out.extend_from_slice(b"}\n");
    Ok(())
}

/// Appends the line that says that no more follow.
///
/// # Errors
/// It cannot be turned into JSON.
pub(super) fn write_truncated(out: &mut Vec<u8>, limit_bytes: u64, at: Instant) -> Result<()> {
    #[derive(Serialize)]
    struct Truncated {
        at: Instant,
        limit_bytes: u64,
        note: &'static str,
    }
    serde_json::to_writer(&mut *out, &Truncated { at, limit_bytes, note: "truncated" })
        .context("cannot turn a decision into JSON")?;
    out.push(b'\n');
    Ok(())
}

fn number(out: &mut Vec<u8>, n: Option<u64>) {
    match n {
        Some(n) => out.extend_from_slice(itoa::Buffer::new().format(n).as_bytes()),
        None => out.extend_from_slice(b"null"),
    }
}

/// A string, quickly if nothing in it needs an escape.
fn text(out: &mut Vec<u8>, s: &str) -> Result<()> {
    // Not `all`: without a way out in the middle the compiler looks at many bytes at once.
    let plain = s.bytes().fold(true, |plain, b| plain & (b >= 0x20) & (b != b'"') & (b != b'\\'));
    if plain {
        out.push(b'"');
        out.extend_from_slice(s.as_bytes());
        out.push(b'"');
        return Ok(());
    }
    serde_json::to_writer(&mut *out, s).context("cannot turn a decision into JSON")
}

#[cfg(test)]
mod tests {
    use rightedge_stack::decision::Cause;
    use serde_json::Value;

    use super::*;

    #[test]
    fn a_line_is_what_a_serializer_makes_of_it() {
        #[derive(Serialize)]
        struct Line<'a> {
            packet: Option<u64>,
            cause_packet: Option<u64>,
            #[serde(flatten)]
            record: &'a Record,
            function: &'a str,
            words: String,
        }
        let decisions = [
            Decision::Forced { truesize: -3 },
            Decision::State { from: "a", to: "b" },
            Decision::Setting {
                name: "quo\"te\u{1}\\ µ".into(),
                value: 1,
                sk_rcvbuf: 2,
                window_clamp: 3,
                rcv_ssthresh: 4,
            },
        ];
        let mut words = Words::default();
        for (i, decision) in decisions.into_iter().enumerate() {
            let record = Record {
                at: Instant::from_nanos(5),
                socket: None,
                cause: Cause::Frame(3),
                tx: (i == 1).then_some(7),
                decision,
            };
            let line = Line {
                packet: Some(9),
                cause_packet: None,
                record: &record,
                function: record.decision.kernel_function(),
                words: record.decision.to_string(),
            };
            let mut out = Vec::new();
            write(&mut out, Some(9), None, &record, words.say(&record.decision, i > 0)).unwrap();
            assert_eq!(String::from_utf8(out).unwrap(), serde_json::to_string(&line).unwrap() + "\n");
        }
        let comments: Vec<_> = words.comments().collect();
        assert_eq!(comments.len(), 2);
        assert_eq!(comments[0], "a to b [tcp_set_state]");
        assert!(comments[1].starts_with("quo\"te\u{1}\\ µ = 1: ") && comments[1].ends_with(']'));
        let mut out = Vec::new();
        write_truncated(&mut out, 7, Instant::from_nanos(1)).unwrap();
        let value: Value = serde_json::from_slice(&out).unwrap();
        assert_eq!(value, serde_json::json!({"note": "truncated", "limit_bytes": 7, "at": 1}));
    }
}
