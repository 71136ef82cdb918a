//! What a guest says, as lines: marks, which begin with `=`, and traces between them. What is not about traces comes
//! from [`crate::guest`].
//!
//! ```text
//! =ready 6.1.176              the kernel is up and recording begins
//! =trace 3                    the trace of script 3
//! {"header":…}
//! …
//! =end 3
//! =failed 4 "why"             script 4 could not be recorded
//! =error "why"                the guest gives up
//! =done                       the guest has tried them all
//! ```
//!
//! The reader believes nothing: what comes back is as large and as wrong as a broken guest can make it.

use std::io::{self, Write};

use crate::oracle::trace::Trace;

/// The longest line, bytes: that of a trace.
const MAX_LINE: usize = 32 << 20;
/// The largest trace, bytes.
const MAX_TRACE: usize = 256 << 20;

/// What a guest said.
#[derive(Debug, PartialEq)]
pub(super) enum Event {
    /// The kernel is up and recording begins.
    Ready(String),
    /// A script's trace.
    Trace(usize, Box<Trace>),
    /// Why a script could not be recorded.
    Failed(usize, String),
    /// Why the guest gives up.
    Error(String),
    /// It has tried them all.
    Done,
}

/// Hands over a trace.
pub(super) fn trace(out: impl Write, number: usize, trace: &Trace) -> io::Result<()> {
    let mut text = format!("\n=trace {number}\n").into_bytes();
    trace.write(&mut text)?;
    text.extend_from_slice(format!("=end {number}\n").as_bytes());
    whole(out, text)
}

/// Says why a script could not be recorded.
pub(super) fn failed(out: impl Write, number: usize, why: &str) -> io::Result<()> {
    whole(out, format!("\n=failed {number} {}\n", serde_json::Value::from(why)).into_bytes())
}

/// In one piece, so that marks do not break into each other.
fn whole(mut out: impl Write, text: Vec<u8>) -> io::Result<()> {
    out.write_all(&text)?;
    out.flush()
}

/// Takes what a guest says piece by piece.
#[derive(Debug, Default)]
pub(super) struct Reader {
    line: Vec<u8>,
    open: Option<(usize, Vec<u8>)>,
}

impl Reader {
    /// Takes a piece; what came to an end in it goes to `events`.
    ///
    /// # Errors
    /// What no guest of ours would have said; there is no use in reading on.
    pub(super) fn feed(&mut self, mut bytes: &[u8], events: &mut Vec<Event>) -> Result<(), String> {
        while let Some(end) = bytes.iter().position(|b| *b == b'\n') {
            let (head, tail) = bytes.split_at(end);
            bytes = tail.get(1..).unwrap_or_default();
            self.grow(head)?;
            let mut line = std::mem::take(&mut self.line);
            // A serial line turns \n into \r\n.
            if line.last() == Some(&b'\r') {
                line.pop();
            }
            self.take(&line, events)?;
        }
        self.grow(bytes)
    }

    fn grow(&mut self, bytes: &[u8]) -> Result<(), String> {
        if self.line.len().saturating_add(bytes.len()) > MAX_LINE {
            return Err(format!("a line of more than {MAX_LINE} bytes"));
        }
        self.line.extend_from_slice(bytes);
        Ok(())
    }

    fn take(&mut self, line: &[u8], events: &mut Vec<Event>) -> Result<(), String> {
        let strange = || format!("a line that begins with {:?}", beginning(line));
        if line.is_empty() {
            return Ok(());
        }
        let Some(mark) = line.strip_prefix(b"=") else {
            let (number, text) = self.open.as_mut().ok_or_else(strange)?;
            if text.len().saturating_add(line.len()) > MAX_TRACE {
                return Err(format!("trace {number} has more than {MAX_TRACE} bytes"));
            }
            text.extend_from_slice(line);
            text.push(b'\n');
            return Ok(());
        };
        let mark = std::str::from_utf8(mark).map_err(|_| strange())?;
        let (word, rest) = mark.split_once(' ').unwrap_or((mark, ""));
        let number = |text: &str| text.parse::<usize>().map_err(|_| strange());
        let why = |text: &str| serde_json::from_str::<String>(text).map_err(|_| strange());
        match word {
            "ready" => events.push(Event::Ready(rest.to_owned())),
            "trace" => self.open = Some((number(rest)?, Vec::new())),
            "end" => {
                let n = number(rest)?;
                let (_, text) = self.open.take().filter(|(open, _)| *open == n).ok_or_else(strange)?;
                let mut traces =
                    Trace::read_all(&format!("trace {n}"), text.as_slice()).map_err(|e| e.to_string())?;
                match (traces.pop(), traces.is_empty()) {
                    (Some(t), true) => events.push(Event::Trace(n, Box::new(t))),
                    _ => return Err(format!("trace {n} is not one trace")),
                }
            }
            "failed" => {
                let (n, text) = rest.split_once(' ').ok_or_else(strange)?;
                events.push(Event::Failed(number(n)?, why(text)?));
            }
            "error" => events.push(Event::Error(why(rest)?)),
            "done" => events.push(Event::Done),
            _ => return Err(strange()),
        }
        Ok(())
    }
}

fn beginning(line: &[u8]) -> String {
    String::from_utf8_lossy(line.get(..60).unwrap_or(line)).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "{\"header\":{\"script\":{\"name\":\"t\"},\"kernel\":\"6.1\",\"tick_ms\":10.0}}\n{\"i\":0,\"op\":{\"op\":\"open\"}}\n{\"footer\":{\"records\":1,\"slips\":0}}\n";

    fn all(text: &[u8]) -> Result<Vec<Event>, String> {
        let mut events = Vec::new();
        Reader::default().feed(text, &mut events)?;
        Ok(events)
    }

    #[test]
    fn what_is_written_is_read_in_pieces_of_any_size() {
        let t = Trace::read_all("t", TRACE.as_bytes()).unwrap().remove(0);
        let mut text = Vec::new();
        text.extend_from_slice(b"\n=ready 6.1.176\n");
        trace(&mut text, 3, &t).unwrap();
        failed(&mut text, 4, "no \"luck\"\nat all").unwrap();
        text.extend_from_slice(b"\n=done\n");
        let events = all(&text).unwrap();
        assert_eq!(
            events,
            [
                Event::Ready("6.1.176".to_owned()),
                Event::Trace(3, Box::new(t)),
                Event::Failed(4, "no \"luck\"\nat all".to_owned()),
                Event::Done
            ]
        );
        for size in [1, 2, 7, 64] {
            let (mut r, mut pieces) = (Reader::default(), Vec::new());
            for piece in text.chunks(size) {
                r.feed(piece, &mut pieces).unwrap();
            }
            assert_eq!(pieces, events);
        }
        let serial = String::from_utf8(text).unwrap().replace('\n', "\r\n");
        assert_eq!(all(serial.as_bytes()).unwrap(), events);
    }

    #[test]
    fn an_error_in_the_middle_of_a_line_is_heard() {
        let mut text = b"\n=trace 0\n{\"header\":{\"scr".to_vec();
        text.extend_from_slice(b"\n=error \"out of memory\"\n");
        assert_eq!(all(&text).unwrap(), [Event::Error("out of memory".to_owned())]);
        assert_eq!(all(b"=trace 0\n{\"header\":").unwrap(), []);
    }

    #[test]
    fn nonsense_is_refused() {
        for text in [
            &b"hello\n"[..],
            b"=hello\n",
            b"=trace\n",
            b"=trace -1\n",
            b"=trace 99999999999999999999999\n",
            b"=end 0\n",
            b"=trace 1\n=end 2\n",
            b"=trace 1\n=end 1\n",
            b"=trace 1\nnot json\n=end 1\n",
            b"=failed 1\n",
            b"=failed 1 bare\n",
            b"=error \"unended\n",
            b"=\xff\n",
            b"\0\0\0\n",
        ] {
            assert!(all(text).is_err(), "{:?}", String::from_utf8_lossy(text));
        }
        let two = format!("=trace 1\n{TRACE}{TRACE}=end 1\n");
        assert!(all(two.as_bytes()).unwrap_err().contains("not one trace"));
        let mut r = Reader::default();
        let piece = vec![b'x'; 1 << 20];
        let said = (0..40).find_map(|_| r.feed(&piece, &mut Vec::new()).err()).unwrap();
        assert!(said.contains("a line of more than"));
    }
}
