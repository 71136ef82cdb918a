//! Values that scripts and traces spell their own way: positions in the stream, TCP flags.

use std::fmt;

use rightedge_stack::wire::TcpFlags;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::MAX_POSITION;

/// A position in the peer's stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// What it is relative to.
    pub base: Base,
    /// What is added.
    pub offset: i64,
}

/// What a position is relative to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Base {
    /// The first payload byte.
    First,
    /// The next new byte.
    Next,
    /// The highest acknowledgement seen.
    Ack,
    /// The right edge of the last window seen.
    Edge,
    /// What the receiver has in order (`tcpi_bytes_received`).
    Rcv,
}

impl Position {
    /// The next new byte.
    pub const NEXT: Position = Position { base: Base::Next, offset: 0 };

    pub(super) fn parse(text: &str) -> Option<Self> {
        let at = text.find(['+', '-']).unwrap_or(text.len());
        let base = match text.get(..at)? {
            "next" => Base::Next,
            "ack" => Base::Ack,
            "edge" => Base::Edge,
            "rcv" => Base::Rcv,
            _ => return None,
        };
        let rest = text.get(at..)?;
        let offset = if rest.is_empty() { 0 } else { rest.parse().ok()? };
        (-MAX_POSITION..=MAX_POSITION).contains(&offset).then_some(Position { base, offset })
    }
}

impl<'de> Deserialize<'de> for Position {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        use serde::de::Error as _;
        let takes = "a position is a number, or next, ack, edge or rcv with +n or -n, within 2^30";
        match Value::deserialize(d)? {
            Value::String(s) => {
                Position::parse(&s).ok_or_else(|| D::Error::custom(format!("'{s}': {takes}")))
            }
            Value::Number(n) => n
                .as_i64()
                .filter(|n| (-MAX_POSITION..=MAX_POSITION).contains(n))
                .map(|offset| Position { base: Base::First, offset })
                .ok_or_else(|| D::Error::custom(format!("{n}: {takes}"))),
            v => Err(D::Error::custom(format!("{v}: {takes}"))),
        }
    }
}

/// TCP flags as letters of FSRPAUEC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flags(pub TcpFlags);

const LETTERS: [(char, TcpFlags); 8] = [
    ('F', TcpFlags::FIN),
    ('S', TcpFlags::SYN),
    ('R', TcpFlags::RST),
    ('P', TcpFlags::PSH),
    ('A', TcpFlags::ACK),
    ('U', TcpFlags::URG),
    ('E', TcpFlags::ECE),
    ('C', TcpFlags::CWR),
];

impl Flags {
    /// A plain ACK.
    pub const ACK: Flags = Flags(TcpFlags::ACK);

    /// From letters; `None` if one of them is none of FSRPAUEC.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut flags = TcpFlags::empty();
        for c in text.chars() {
            flags |= LETTERS.iter().find(|(l, _)| *l == c)?.1;
        }
        Some(Flags(flags))
    }
}

impl fmt::Display for Flags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        LETTERS.iter().filter(|(_, x)| self.0.contains(*x)).try_for_each(|(l, _)| write!(f, "{l}"))
    }
}

impl Serialize for Flags {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Flags {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = String::deserialize(d)?;
        Flags::parse(&text)
            .ok_or_else(|| serde::de::Error::custom(format!("flags '{text}': use letters of FSRPAUEC")))
    }
}
