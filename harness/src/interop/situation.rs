//! Situations: what a receiver does to its peer, as data.
//!
//! A situation is a list of steps. Each says what the window is, what becomes of what the peer sends, whether it is answered,
//! and when the next step begins. The built-in ones are the files of `situations/`, compiled in; any other is given by its
//! path. Sizes are bytes; with a large window scale they are stretched, so that a unit of the scale stays small beside them.

mod check;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use rightedge_stack::time::Duration;
use serde::{Deserialize, Deserializer, Serialize, de};

use crate::datafile;
use crate::link::LinkSpec;
use crate::scenario::units::{Size, Span};
use crate::scenario::{DriverSpec, ReadPattern, SysctlValue};

/// A situation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Situation {
    /// Its name: lower-case letters, digits and hyphens.
    pub name: String,
    /// One line for a list.
    pub about: String,
    /// A paragraph for people: what happens and what is asked by it.
    #[serde(default)]
    pub explain: String,
    /// Clauses that it is made to put to the test.
    #[serde(default)]
    pub clauses: Vec<String>,
    /// The situation whose goodput it is compared with; `plain` unless said.
    #[serde(default = "plain")]
    pub against: String,
    /// Part of the short form.
    #[serde(default)]
    pub short: bool,
    /// Bytes that the peer sends.
    #[serde(default = "default_bytes")]
    pub bytes: Size,
    /// The receiver.
    #[serde(default)]
    pub receiver: Receiver,
    /// What the network does to what the peer sends; empty for nothing.
    #[serde(default, skip_serializing_if = "LinkSpec::is_off")]
    pub link: LinkSpec,
    /// The steps. Behind the last one the connection goes on as that left it.
    #[serde(default, rename = "step")]
    pub steps: Vec<Step>,
    /// How long after the beginning of the last step the peer may take to the end.
    #[serde(default = "default_patience")]
    pub patience: Span,
}

/// The receiver of a situation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Receiver {
    /// Its policy: a kernel profile with switches.
    pub policy: String,
    /// The largest segment it announces, bytes.
    pub mss: u16,
    /// Its window, bytes, from the handshake on, as long as no step says otherwise; none lets the policy decide.
    pub window: Option<Size>,
    /// Its window scale; none lets the policy decide.
    pub wscale: Option<u8>,
    /// SO_RCVBUF as given to setsockopt.
    pub so_rcvbuf: Option<Size>,
    /// Sysctls by name; a bare name means `net.ipv4.`.
    pub sysctls: BTreeMap<String, SysctlValue>,
    /// How an arriving frame becomes memory.
    pub driver: DriverSpec,
    /// When its application reads.
    pub read: ReadPattern,
}

impl Default for Receiver {
    fn default() -> Self {
        Receiver {
            policy: "linux-6.1".to_owned(),
            mss: 1000,
            window: None,
            wscale: None,
            so_rcvbuf: None,
            sysctls: BTreeMap::new(),
            driver: DriverSpec { model: "tap".to_owned(), truesize: None, extra: None },
            read: ReadPattern::FlatOut { size: Size(65_536) },
        }
    }
}

/// A step: what is done when it begins, what holds while it lasts, and when it is over.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    /// Its name, for the report.
    pub name: String,
    /// The window from now on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window: Option<WindowIs>,
    /// The right edge stays so many bytes behind what is acknowledged now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub edge: Option<Size>,
    /// Of the data held back by the step before, so many bytes reach the receiver; the rest are lost unless they are still
    /// held.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deliver: Option<Size>,
    /// Whether an acknowledgement leaves at the beginning; it does if the window changes or something is delivered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ack: Option<bool>,
    /// What becomes of the data that the peer sends.
    #[serde(default)]
    pub data: Data,
    /// Numbers of data segments, from 1 in this step, that are lost although others are taken.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lose: Vec<u32>,
    /// What becomes of what the receiver sends.
    #[serde(default)]
    pub answers: Answers,
    /// The step is over when any of these holds.
    #[serde(default)]
    pub until: Until,
    /// And at the latest after this time, if it is not a matter of time: the situation is then not the one that was meant.
    #[serde(default = "default_at_most")]
    pub at_most: Span,
}

/// A window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WindowIs {
    /// So many bytes.
    Bytes(Size),
    /// What the policy decides.
    Natural,
}

/// What becomes of the data that the peer sends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Data {
    /// They reach the receiver.
    #[default]
    Take,
    /// They are held back in the network.
    Hold,
    /// They are lost.
    Lose,
    /// The receiver does not take them, and answers each with what it has acknowledged and offered.
    Refuse,
}

/// What becomes of what the receiver sends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Answers {
    /// It reaches the peer.
    #[default]
    Send,
    /// It is lost.
    Lose,
}

/// When a step is over: as soon as one of these holds. Without any, never.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Until {
    /// So many bytes of the stream have arrived in order.
    pub received: Option<Size>,
    /// So many bytes are on their way: sent and not acknowledged.
    pub flight: Option<Size>,
    /// So many bytes of the stream have been sent, the end counting as one.
    pub sent: Option<Size>,
    /// So many segments have come from the peer in this step.
    pub segments: Option<u32>,
    /// Nothing has come from the peer for so long.
    pub quiet: Option<Span>,
    /// So much time has passed.
    pub time: Option<Span>,
    /// The same in virtual time, where minutes cost nothing.
    pub virtual_time: Option<Span>,
}

/// The built-in situations, in the order of the matrix.
pub const BUILT_IN: &[(&str, &str)] = &[
    ("plain", include_str!("../../../situations/plain.toml")),
    ("shrink-in-flight", include_str!("../../../situations/shrink-in-flight.toml")),
    ("shrink-in-duplicates", include_str!("../../../situations/shrink-in-duplicates.toml")),
    ("shrink-below-segment", include_str!("../../../situations/shrink-below-segment.toml")),
    ("window-one", include_str!("../../../situations/window-one.toml")),
    ("edge-left", include_str!("../../../situations/edge-left.toml")),
    ("zero-in-flight", include_str!("../../../situations/zero-in-flight.toml")),
    ("zero-silent", include_str!("../../../situations/zero-silent.toml")),
    ("zero-long", include_str!("../../../situations/zero-long.toml")),
    ("zero-ordinary", include_str!("../../../situations/zero-ordinary.toml")),
    ("hold-at-edge", include_str!("../../../situations/hold-at-edge.toml")),
    ("update-lost", include_str!("../../../situations/update-lost.toml")),
    ("retract-after-probe", include_str!("../../../situations/retract-after-probe.toml")),
    ("reopen-wider", include_str!("../../../situations/reopen-wider.toml")),
    ("saw", include_str!("../../../situations/saw.toml")),
    ("series", include_str!("../../../situations/series.toml")),
    ("ack-beyond-edge", include_str!("../../../situations/ack-beyond-edge.toml")),
    ("shrink-loss", include_str!("../../../situations/shrink-loss.toml")),
    ("shrink-reorder", include_str!("../../../situations/shrink-reorder.toml")),
    ("slow-start", include_str!("../../../situations/slow-start.toml")),
    ("recovery", include_str!("../../../situations/recovery.toml")),
    ("fin-in-flight", include_str!("../../../situations/fin-in-flight.toml")),
    ("scale-boundary", include_str!("../../../situations/scale-boundary.toml")),
    ("natural", include_str!("../../../situations/natural.toml")),
    ("natural-unscaled", include_str!("../../../situations/natural-unscaled.toml")),
    ("natural-control", include_str!("../../../situations/natural-control.toml")),
];

/// Why a situation cannot be used.
pub use crate::datafile::DataFileError as SituationError;

impl Situation {
    /// The built-in situations.
    #[must_use]
    pub fn list() -> Vec<Situation> {
        BUILT_IN.iter().filter_map(|(name, text)| Situation::parse(name, text).ok()).collect()
    }

    /// Loads a built-in situation by name, or a file by its path (anything with a `/`, or ending in `.toml`).
    ///
    /// # Errors
    /// When there is none, it cannot be read, or it is wrong.
    pub fn load(name_or_path: &str) -> Result<Situation, SituationError> {
        let (file, text) = datafile::find("situation", BUILT_IN, name_or_path)?;
        Situation::parse(&file, &text)
    }

    /// Reads and checks a situation; `file` is for the messages.
    ///
    /// # Errors
    /// When the text is not a situation, or a value cannot be used.
    pub fn parse(file: &str, text: &str) -> Result<Situation, SituationError> {
        let s: Situation = datafile::parse(file, text)?;
        check::check(file, &s)?;
        Ok(s)
    }

    /// The same for a window scale of `wscale`: sizes are stretched so that a unit of the scale is as small beside them as
    /// one of the usual scale of 9 is.
    ///
    /// # Errors
    /// Says why the situation cannot be had at that scale.
    pub fn at_scale(&self, wscale: u8) -> Result<Situation, String> {
        let factor = 1u64 << wscale.saturating_sub(STEADY);
        let unit = 1u64 << wscale;
        let mut s = self.clone();
        s.receiver.wscale = Some(wscale);
        let stretch = |size: &mut Size| size.0 = size.0.saturating_mul(factor);
        stretch(&mut s.bytes);
        let mut windows = Vec::new();
        if let Some(w) = &mut s.receiver.window {
            stretch(w);
            windows.push(("the window", *w));
        }
        for step in &mut s.steps {
            if let Some(WindowIs::Bytes(w)) = &mut step.window {
                stretch(w);
                windows.push((step.name.as_str(), *w));
            }
            for size in [&mut step.edge, &mut step.deliver].into_iter().flatten() {
                stretch(size);
            }
            if let Some(e) = step.edge {
                windows.push((step.name.as_str(), e));
            }
            for size in
                [&mut step.until.received, &mut step.until.flight, &mut step.until.sent].into_iter().flatten()
            {
                stretch(size);
            }
        }
        for (name, w) in windows {
            if w.0 > 0 && w.0 < unit {
                return Err(format!("{name}: {} bytes cannot be said in units of {unit}", w.0));
            }
            if w.0 > 65_535 << wscale {
                return Err(format!(
                    "{name}: {} bytes are more than a window of scale {wscale} can say",
                    w.0
                ));
            }
        }
        Ok(s)
    }

    /// How long it takes at the most, apart from the peer's own start.
    #[must_use]
    pub fn longest(&self, virtual_clock: bool) -> Duration {
        let steps = self.steps.iter().map(|s| s.until.time(virtual_clock).unwrap_or(s.at_most.0));
        steps
            .fold(self.patience.0, |all, t| Duration::from_nanos(all.as_nanos().saturating_add(t.as_nanos())))
    }
}

/// Scales up to this one need no stretching: a unit is 512 bytes.
const STEADY: u8 = 9;

impl Until {
    /// The time after which the step is over, if it is a matter of time.
    #[must_use]
    pub fn time(&self, virtual_clock: bool) -> Option<Duration> {
        let virtual_time = self.virtual_time.filter(|_| virtual_clock);
        virtual_time.or(self.time).map(|s| s.0)
    }
}

fn plain() -> String {
    "plain".to_owned()
}

fn default_bytes() -> Size {
    Size(150_000)
}

fn default_patience() -> Span {
    Span(Duration::from_secs(150))
}

fn default_at_most() -> Span {
    Span(Duration::from_secs(30))
}

impl Serialize for WindowIs {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        match self {
            WindowIs::Bytes(b) => b.serialize(s),
            WindowIs::Natural => s.serialize_str("natural"),
        }
    }
}

impl<'de> Deserialize<'de> for WindowIs {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged, expecting = "a window is a number of bytes, or \"natural\"")]
        enum Either {
            Bytes(u64),
            Text(String),
        }
        match Either::deserialize(d)? {
            Either::Bytes(b) => Ok(WindowIs::Bytes(Size(b))),
            Either::Text(t) if t == "natural" => Ok(WindowIs::Natural),
            Either::Text(t) => t.parse().map(WindowIs::Bytes).map_err(de::Error::custom),
        }
    }
}
