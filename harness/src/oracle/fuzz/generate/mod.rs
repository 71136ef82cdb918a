//! Random scripts: a seed and an index make one, its flavour decides what is in it.
//!
//! **A script has to repeat on the kernel itself.** Autotuning compares the time between two reads with the round trip,
//! and the round trip is measured from arrival to arrival; where both are a whole number of ticks, noise of a
//! microsecond decides. Hence arrivals all lie [`ARRIVAL_US`] behind their tick, and every read lies at another phase
//! than the ones before it, at none that differs from an arrival's by a whole millisecond (timestamps count those).

mod dice;
mod ops;
mod settings;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use self::dice::Dice;
use self::ops::Maker;
use self::settings::Settings;
use super::super::script::{RxPath, Script, ScriptError};

/// Which generator this is: with another one the same seed and index make another script.
pub const VERSION: u32 = 1;

/// How far behind its tick everything happens but reads, microseconds. What scripts mean when they say nothing.
pub const ARRIVAL_US: u32 = 250;

/// How a kernel computes its window from memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Space {
    /// By tcp_adv_win_scale (Linux up to 6.5).
    AdvWinScale,
    /// By a ratio that is measured.
    #[default]
    ScalingRatio,
}

/// What scripts are made for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Target {
    /// Ticks per second.
    pub hz: u32,
    /// How windows come from memory.
    pub space: Space,
    /// Ways of opening the device that may be used; none means the plain one.
    pub rx_paths: Vec<RxPath>,
    /// Whether the application may send.
    pub writes: bool,
    /// Whether the route to the peer may have metrics.
    pub routes: bool,
}

impl Default for Target {
    fn default() -> Self {
        Target {
            hz: 250,
            space: Space::default(),
            rx_paths: vec![RxPath::Linear, RxPath::Frag, RxPath::Tun],
            writes: false,
            routes: false,
        }
    }
}

impl Target {
    fn tick_us(&self) -> u32 {
        1_000_000 / self.hz.max(1)
    }

    /// Segments that fit into a tick: user-mode-linux is slow, and a tick of a millisecond is short.
    fn max_burst(&self) -> u32 {
        if (200..=300).contains(&self.hz) { 40 } else { 15 }
    }

    /// The same for segments of `len` bytes, which have to be copied.
    fn max_segments(&self, len: u32) -> u32 {
        self.max_burst().min((300_000 / len.max(1)).max(2))
    }
}

/// What an operation of a flavour is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// A segment in order.
    Data,
    /// Segments back to back.
    Burst,
    /// A segment beyond a hole.
    Hole,
    /// A segment behind the last new one, hole or not.
    Cont,
    /// A segment that overlaps others.
    Over,
    /// A segment that was received before.
    Dup,
    /// A segment at the right edge of the window.
    Edge,
    /// As much as the window takes.
    Fill,
    /// A FIN.
    Fin,
    /// No data.
    Pure,
    /// A zero-window probe.
    Probe,
    /// A timestamp that is not the clock's.
    Paws,
    /// A segment that a receiver should not believe.
    Odd,
    /// A wrong checksum.
    BadSum,
    /// One read.
    Read,
    /// Reads in a row.
    Reads,
    /// A read that leaves or throws away bytes.
    Peek,
    /// A burst, and a read one tick later.
    Round,
    /// A socket option or a sysctl.
    Opt,
    /// Time passes.
    Sleep,
    /// The next new byte is the first unacknowledged one again.
    Rewind,
    /// A short list a few times.
    Repeat,
    /// The application sends and the peer acknowledges.
    Write,
    /// The application closes its side, or all; at the end only.
    Shut,
}

/// A kind of script.
#[derive(Debug)]
struct Flavour {
    name: &'static str,
    /// How often, relative to the others.
    share: u32,
    /// What its operations are about, and how often.
    kinds: &'static [(Kind, u32)],
}

use Kind::{
    BadSum, Burst, Cont, Data, Dup, Edge, Fill, Fin, Hole, Odd, Opt, Over, Paws, Peek, Probe, Pure, Read,
    Reads, Repeat, Rewind, Round, Shut, Sleep, Write,
};

#[rustfmt::skip]
const FLAVOURS: &[Flavour] = &[
    Flavour { name: "mixed", share: 14, kinds: &[(Data, 50), (Burst, 8), (Hole, 10), (Over, 6), (Dup, 5), (Edge, 5),
        (Read, 8), (Peek, 1), (Opt, 4), (Fin, 1), (Pure, 2), (Probe, 2), (BadSum, 1), (Fill, 1), (Sleep, 1),
        (Rewind, 1), (Repeat, 1), (Shut, 1)] },
    Flavour { name: "inorder", share: 7, kinds: &[(Data, 70), (Burst, 20), (Read, 10), (Repeat, 3), (Sleep, 1)] },
    Flavour { name: "small", share: 8, kinds: &[(Data, 60), (Burst, 30), (Hole, 5), (Read, 5)] },
    Flavour { name: "super", share: 8, kinds: &[(Data, 60), (Burst, 10), (Hole, 10), (Over, 5), (Read, 10)] },
    Flavour { name: "ofo", share: 13, kinds: &[(Data, 15), (Burst, 3), (Hole, 45), (Over, 15), (Dup, 8), (Read, 6),
        (Edge, 4), (Cont, 15), (Rewind, 1)] },
    Flavour { name: "pressure", share: 13, kinds: &[(Data, 40), (Burst, 20), (Hole, 15), (Over, 5), (Edge, 12),
        (Read, 6), (Opt, 5), (Fin, 1), (Probe, 6), (Pure, 4), (Cont, 5), (Fill, 3)] },
    Flavour { name: "zero", share: 8, kinds: &[(Fill, 22), (Probe, 18), (Edge, 15), (Read, 15), (Reads, 5),
        (Data, 15), (Pure, 6), (Dup, 4), (Sleep, 2)] },
    Flavour { name: "opts", share: 8, kinds: &[(Data, 40), (Burst, 10), (Hole, 5), (Read, 12), (Opt, 30), (Fill, 3)] },
    Flavour { name: "tune", share: 10, kinds: &[(Data, 10), (Burst, 15), (Read, 10), (Round, 50), (Opt, 1)] },
    Flavour { name: "reader", share: 6, kinds: &[(Data, 35), (Burst, 15), (Hole, 5), (Over, 4), (Read, 15),
        (Reads, 12), (Peek, 15), (Fill, 3), (Opt, 3), (Fin, 1)] },
    Flavour { name: "fin", share: 7, kinds: &[(Data, 30), (Hole, 12), (Over, 6), (Fin, 10), (Read, 15), (Edge, 5),
        (Probe, 5), (Pure, 3), (Cont, 5), (Shut, 4)] },
    Flavour { name: "paws", share: 6, kinds: &[(Data, 40), (Hole, 5), (Read, 5), (Paws, 30), (Pure, 5), (BadSum, 1)] },
    Flavour { name: "odd", share: 3, kinds: &[(Data, 45), (Hole, 8), (Read, 8), (Odd, 14), (BadSum, 8), (Dup, 5),
        (Edge, 5), (Pure, 5)] },
    Flavour { name: "comp", share: 6, kinds: &[(Data, 15), (Hole, 40), (Cont, 20), (Over, 10), (Read, 5), (Burst, 10)] },
    Flavour { name: "write", share: 2, kinds: &[(Data, 50), (Read, 15), (Write, 25), (Burst, 5), (Hole, 5), (Pure, 3)] },
];

impl Flavour {
    /// Whether the target has what it takes.
    fn suits(&self, target: &Target) -> bool {
        match self.name {
            "write" => target.writes,
            // What compression puts off has to come within the tick of its operation.
            "comp" => target.tick_us() >= 4000,
            _ => true,
        }
    }
}

/// The names of all flavours.
pub fn flavours() -> impl Iterator<Item = &'static str> {
    FLAVOURS.iter().map(|f| f.name)
}

/// The script that belongs to a seed and an index. Its name is its flavour, the seed and the index.
///
/// # Errors
/// None is known; what the script reader would say of a script that it refuses.
pub fn script(seed: u64, index: u64, target: &Target) -> Result<Script, ScriptError> {
    let mut d = Dice::new(seed, index);
    let list: Vec<(&Flavour, u32)> =
        FLAVOURS.iter().filter(|f| f.suits(target)).map(|f| (f, f.share)).collect();
    match d.weighted(&list) {
        Some(flavour) => of(flavour, d, seed, index, target),
        None => Script::from_map(Map::new()),
    }
}

fn of(flavour: &Flavour, mut d: Dice, seed: u64, index: u64, target: &Target) -> Result<Script, ScriptError> {
    let d = &mut d;
    let mut s = Settings::random(d, target);
    adapt(flavour.name, &mut s, d, target);
    let settle: Value = match flavour.name {
        "comp" => 3.into(),
        _ if d.percent(8) => "ack".into(),
        _ => "none".into(),
    };
    let waits = settle == "ack";
    let ops = Maker::new(flavour, &s, d, target, waits).ops();
    let Settings { sysctl, listener, handshake, rest: mut raw } = s;
    for (key, part) in [("sysctl", sysctl), ("handshake", handshake)] {
        if !part.is_empty() {
            raw.insert(key.to_owned(), Value::Object(part));
        }
    }
    if !listener.is_empty() {
        raw.insert("listener".to_owned(), Value::Array(listener));
    }
    raw.insert("name".to_owned(), Value::from(format!("{}/{seed}/{index}", flavour.name)));
    raw.insert("settle".to_owned(), settle);
    raw.insert("ops".to_owned(), Value::Array(ops));
    Script::from_map(raw)
}

/// What a flavour cannot do without.
fn adapt(flavour: &str, s: &mut Settings, d: &mut Dice, target: &Target) {
    let set = |map: &mut Map<String, Value>, key: &str, v: Value| {
        map.insert(key.to_owned(), v);
    };
    match flavour {
        "pressure" | "ofo" | "zero" if s.listener.is_empty() => {
            let n = d.pick(&[2304, 3000, 5000, 8000, 16_384, 30_000]);
            s.listener.push(serde_json::json!(["SO_RCVBUF", n]));
        }
        // A buffer that was set is never tuned.
        "tune" if d.percent(90) => {
            s.listener.retain(|o| o.get(0).is_none_or(|n| n != "SO_RCVBUF"));
            s.sysctl.remove("tcp_moderate_rcvbuf");
            set(&mut s.handshake, "ack_delay_ms", settings::ack_delay(d, target).into());
        }
        "paws" => {
            set(&mut s.handshake, "ts", true.into());
            s.sysctl.remove("tcp_timestamps");
        }
        "comp" => {
            set(&mut s.sysctl, "tcp_comp_sack_nr", d.pick(&["44", "44", "5"]).into());
            set(&mut s.sysctl, "tcp_comp_sack_delay_ns", d.pick(&["1000000", "1000000", "600000"]).into());
            set(&mut s.sysctl, "tcp_comp_sack_slack_ns", "0".into());
            s.sysctl.remove("tcp_sack");
            s.handshake.remove("sack");
            // A twentieth of the round trip is the other bound: long enough for the first one to decide.
            set(&mut s.handshake, "ack_delay_ms", d.pick(&[41, 121]).into());
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests;
