//! Why did this packet carry that window, and what became of that one? Answers from a run directory alone.
//!
//! A departing packet is explained by the window choice recorded for it, computed again step by step, and by the
//! decisions of its socket since the departing packet before it. An arriving packet is explained by the decisions it
//! caused and by the next packet that answered.

use std::{collections::HashMap, fmt, path::Path};

use anyhow::{Result, bail};
use serde::Serialize;

use crate::{
    observer::segment::{self, NotTcp, SYN, Segment},
    record::{DecisionLine, DecisionLines, Direction, WireFrame, WireReader, load_json, names},
};

#[cfg(test)]
mod tests;
mod window;

pub use window::{Step, WindowExplanation};

/// A decision, in words.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Item {
    /// When, nanoseconds.
    pub t_ns: u64,
    /// The packet it belongs to.
    pub packet: Option<u64>,
    /// What was decided.
    pub words: String,
    /// The kernel function that decides it.
    pub function: String,
}

/// The packet that answered an arriving one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Answer {
    /// Its number.
    pub packet: u64,
    /// When.
    pub t_ns: u64,
    /// Why it was sent then, if recorded.
    pub why: Option<String>,
    /// Its window, and why.
    pub window: WindowExplanation,
}

/// Everything there is to say about one packet. `Display` says it to people, serde to programs.
#[derive(Clone, Debug, Serialize)]
pub struct Explanation {
    /// The packet's number in `wire.pcapng`.
    pub packet: u64,
    /// Which way it went.
    pub direction: Option<Direction>,
    /// When, nanoseconds.
    pub t_ns: u64,
    /// The segment, read by the observer's parser; missing if the capture ended before it.
    pub segment: Option<Segment>,
    /// The answer in one sentence.
    pub headline: String,
    /// What was decided about this very packet.
    pub decided: Vec<Item>,
    /// The window it carries, for a departing packet.
    pub window: Option<WindowExplanation>,
    /// What led here: the socket's decisions since the departing packet before.
    pub led_here: Vec<Item>,
    /// How many of these are left out in the middle.
    pub left_out: usize,
    /// What answered it, for an arriving packet.
    pub answer: Option<Answer>,
    /// What could not be said, or does not fit together.
    pub notes: Vec<String>,
}

/// Most decisions kept of those that led to a packet: the first half and the last half of a longer story.
const MOST_LED: usize = 40;

/// Explains packet `packet` of the run in `dir`.
///
/// # Errors
/// The packet is not in the run or is not TCP, or a file of the run cannot be read.
pub fn explain(dir: &Path, packet: u64) -> Result<Explanation> {
    let frame = find_frame(dir, packet)?;
    let segment = match &frame {
        Some(frame) => match segment::parse_cut(&frame.data, frame.original_len as usize) {
            Ok(segment) => Some(segment),
            Err(NotTcp::Cut) => None,
            Err(why) => {
                bail!("packet {packet} has no window to explain: {}; choose a TCP packet", why.in_words())
            }
        },
        None => None,
    };
    let mut out = Explanation {
        packet,
        direction: frame.as_ref().and_then(|f| f.direction),
        t_ns: frame.as_ref().map_or(0, |f| f.t_ns),
        segment,
        headline: String::new(),
        decided: Vec::new(),
        window: None,
        led_here: Vec::new(),
        left_out: 0,
        answer: None,
        notes: Vec::new(),
    };
    if frame.is_none() {
        out.notes.push(format!("{} was ended before this packet, so only decisions are known", names::WIRE));
    }
    if let Some(frame) = &frame
        && out.segment.is_none()
    {
        let (kept, whole) = (frame.data.len(), frame.original_len);
        out.notes.push(format!(
            "{} holds {kept} of its {whole} bytes, not all of its headers, so only decisions are known",
            names::WIRE
        ));
    }
    let found = gather(dir, packet)?;
    if let Some(at) = found.own.first().map(|l| l.at)
        && frame.is_none()
    {
        out.t_ns = at;
    }
    let departing = match out.direction {
        Some(direction) => direction == Direction::Out,
        None => found.own.iter().any(|l| l.tx.is_some()),
    };
    out.direction = Some(if departing { Direction::Out } else { Direction::In });
    out.decided = found.own.iter().filter(|l| l.kind() != "window").map(item).collect();
    if departing {
        departure(&mut out, &found);
    } else {
        arrival(&mut out, &found);
    }
    if found.truncated {
        out.notes.push(format!("{} reached its size limit and ends early", names::DECISIONS));
    }
    Ok(out)
}

fn departure(out: &mut Explanation, found: &Found) {
    let syn = out.segment.as_ref().is_some_and(|s| s.has(SYN));
    let Some(line) = found.own.iter().rev().find(|l| l.kind() == "window") else {
        out.headline = match &out.segment {
            Some(s) if s.has(segment::RST) => "a reset: its window field offers nothing".into(),
            Some(s) if s.has(SYN) => format!("a SYN: its window of {} is the initial one", s.window),
            _ => "no window choice was recorded for it; was the run made with decisions switched on?".into(),
        };
        out.led_here = found.led.items();
        out.left_out = found.led.left_out;
        return;
    };
    let window = window::explain(line, syn);
    if let Some(s) = &out.segment
        && i64::from(s.window) != window.field
    {
        out.notes.push(format!(
            "the field on the wire is {}, the stack recorded {}: they must agree",
            s.window, window.field
        ));
    }
    out.headline = window.because.clone();
    out.notes.extend(window.notes.iter().cloned());
    out.window = Some(window);
    out.led_here = found.led.items();
    out.left_out = found.led.left_out;
}

fn arrival(out: &mut Explanation, found: &Found) {
    let kept = |kinds: &[&str]| found.own.iter().rev().find(|l| kinds.contains(&l.kind()));
    out.headline = if found.own.is_empty() {
        "no decision was recorded for it".into()
    } else if let Some(l) = kept(&["dropped"]) {
        l.words.clone()
    } else if let Some(l) = kept(&["coalesced", "not-coalesced", "charged"]) {
        format!("accepted: {}", l.words)
    } else {
        "accepted; it brought nothing to queue".into()
    };
    if let Some((line, why)) = &found.answer {
        let window = window::explain(line, false);
        out.answer =
            Some(Answer { packet: line.packet.unwrap_or(0), t_ns: line.at, why: why.clone(), window });
    } else if !found.own.is_empty() {
        out.notes.push(
            "no later packet of this socket carries a window: it was not answered before the run ended"
                .into(),
        );
    }
}

fn item(line: &DecisionLine) -> Item {
    Item { t_ns: line.at, packet: line.packet, words: line.words.clone(), function: line.function.clone() }
}

/// The frame, or `None` if the capture was ended by its limit before it although the run numbered it.
fn find_frame(dir: &Path, packet: u64) -> Result<Option<WireFrame>> {
    let mut wire = WireReader::open(&dir.join(names::WIRE))?;
    let mut last = 0;
    while let Some(frame) = wire.next_frame()? {
        last = frame.packet;
        if last == packet {
            return Ok(Some(frame));
        }
    }
    let numbered =
        load_json(dir, names::SUMMARY).ok().and_then(|s| s.get("packets")?.as_u64()).unwrap_or(0).max(last);
    if packet >= 1 && packet <= numbered {
        return Ok(None);
    }
    if numbered == 0 {
        bail!("packet {packet} does not exist: the run recorded no packets");
    }
    bail!("packet {packet} does not exist: the run has packets 1 to {numbered}");
}

/// The lines that matter for one packet.
#[derive(Default)]
struct Found {
    own: Vec<DecisionLine>,
    led: Story,
    /// The window choice that answered, and why it was sent.
    answer: Option<(DecisionLine, Option<String>)>,
    truncated: bool,
}

/// The beginning and the end of what happened to a socket since its last departing packet.
#[derive(Clone, Default)]
struct Story {
    first: Vec<DecisionLine>,
    last: std::collections::VecDeque<DecisionLine>,
    left_out: usize,
}

impl Story {
    fn push(&mut self, line: DecisionLine) {
        if self.first.len() < MOST_LED / 2 {
            self.first.push(line);
            return;
        }
        if self.last.len() == MOST_LED / 2 {
            self.last.pop_front();
            self.left_out += 1;
        }
        self.last.push_back(line);
    }

    fn items(&self) -> Vec<Item> {
        self.first.iter().chain(&self.last).map(item).collect()
    }
}

fn gather(dir: &Path, packet: u64) -> Result<Found> {
    /// Sockets whose story is remembered at a time; a file with more is read, but tells less.
    const MOST_SOCKETS: usize = 20_000;
    let mut found = Found::default();
    let mut stories: HashMap<String, Story> = HashMap::new();
    let mut socket: Option<String> = None;
    let mut why: Option<(Option<u64>, String)> = None;
    let mut lines = DecisionLines::open(dir)?;
    while let Some(head) = lines.next_head()? {
        if head.note.is_some() {
            found.truncated = true;
            continue;
        }
        let key = head.socket.as_ref().map(ToString::to_string);
        if head.packet == Some(packet) {
            let line = lines.full()?;
            if socket.is_none()
                && let Some(key) = key
            {
                found.led = stories.remove(&key).unwrap_or_default();
                socket = Some(key);
            }
            found.own.push(line);
            continue;
        }
        let mine = key.is_some() && key == socket;
        if head.tx.is_none() {
            // Before the packet was met, anything of any socket may turn out to be its story.
            if socket.is_none()
                && let Some(key) = key
                && (stories.len() < MOST_SOCKETS || stories.contains_key(&key))
            {
                stories.entry(key).or_default().push(lines.full()?);
            }
            continue;
        }
        if !found.own.is_empty() {
            if mine && found.answer.is_none() {
                let line = lines.full()?;
                match line.kind() {
                    "window" if line.packet > Some(packet) => {
                        let reason = why.take().filter(|(p, _)| *p == line.packet).map(|(_, w)| w);
                        found.answer = Some((line, reason));
                    }
                    "ack-now" => why = Some((line.packet, line.words)),
                    _ => {}
                }
            } else if let Some((answer, reason)) = &mut found.answer
                && head.packet == answer.packet
                && reason.is_none()
            {
                let line = lines.full()?;
                if line.kind() == "ack-now" {
                    *reason = Some(line.words);
                }
            } else if found.answer.as_ref().is_some_and(|(a, _)| head.packet > a.packet) && mine {
                // Everything about the packet and its answer has been read.
                break;
            }
        } else if let Some(key) = key {
            stories.remove(&key);
        }
    }
    Ok(found)
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let direction = match self.direction {
            Some(Direction::In) => "arriving",
            Some(Direction::Out) => "departing",
            None => "",
        };
        writeln!(f, "packet {}, {direction} at {}", self.packet, seconds(self.t_ns))?;
        if let Some(s) = &self.segment {
            writeln!(
                f,
                "  {} → {}  [{}] seq {} len {} ack {} window field {}",
                s.source,
                s.destination,
                s.flag_letters(),
                s.seq,
                s.payload,
                s.ack,
                s.window
            )?;
        }
        writeln!(f, "\n{}.", sentence(&self.headline))?;
        if let Some(w) = &self.window {
            writeln!(f, "\nHow the window was computed:")?;
            steps(f, w)?;
        }
        list(f, "Decided for this packet:", &self.decided)?;
        if self.direction == Some(Direction::Out) {
            list(f, "What led here, since the departing packet before:", &self.led_here)?;
            if self.left_out > 0 {
                writeln!(f, "  ({} more in the middle left out)", self.left_out)?;
            }
        }
        if let Some(a) = &self.answer {
            let why = a.why.as_ref().map_or_else(String::new, |w| format!(" ({w})"));
            writeln!(f, "\nAnswered by packet {} at {}{why}:", a.packet, seconds(a.t_ns))?;
            writeln!(f, "  {}.", a.window.because)?;
        }
        for note in &self.notes {
            writeln!(f, "\nNote: {note}.")?;
        }
        Ok(())
    }
}

fn steps(f: &mut fmt::Formatter<'_>, w: &WindowExplanation) -> fmt::Result {
    for (n, step) in w.steps.iter().enumerate() {
        writeln!(f, "  {}. {}: {}  [{}]", n + 1, step.what, step.numbers, step.function)?;
    }
    Ok(())
}

fn list(f: &mut fmt::Formatter<'_>, title: &str, items: &[Item]) -> fmt::Result {
    if items.is_empty() {
        return Ok(());
    }
    writeln!(f, "\n{title}")?;
    let mut before = None;
    for i in items {
        // The packet is named once, not on each of its lines.
        let packet = match i.packet {
            Some(p) if before != i.packet => format!("packet {p}"),
            Some(_) => String::new(),
            None => seconds(i.t_ns),
        };
        before = i.packet;
        writeln!(f, "  {packet:<12} {}  [{}]", i.words, i.function)?;
    }
    Ok(())
}

fn seconds(t_ns: u64) -> String {
    format!("{}.{:09} s", t_ns / 1_000_000_000, t_ns % 1_000_000_000)
}

fn sentence(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |c| c.to_uppercase().chain(chars).collect())
}
