//! The link specification: `down:delay=50ms,rate=100mbit,queue=256KiB;up:delay=50ms;seed=7`.
//!
//! Parts are separated by `;`: `down:`, `up:` or `both:` with a list of `key=value`, and `seed=N`. Keys:
//!
//! | key | value | meaning |
//! |---|---|---|
//! | `delay` | duration | one-way delay |
//! | `jitter` | duration | the delay varies evenly by ± this much; order is kept |
//! | `rate` | bits per second | serialisation at this rate |
//! | `queue` | size, or packets as `100p` | what may wait for the rate limiter (default `1000p`) |
//! | `loss` | probability, or `1%` | independent random loss |
//! | `lose` | `3+7+10-12` | packets lost by number, from 1 |
//! | `reorder` | `0.1/5ms` | with this probability a packet comes that much later and may be overtaken |
//! | `dup` | probability | the packet comes twice |
//! | `corrupt` | probability | one bit behind the Ethernet header is flipped |

use core::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use rightedge_stack::time::Duration;

use crate::scenario::units::{Size, Span, UnitError, parse_duration, parse_rate, parse_size};

/// Both directions and the seed. The default does nothing at all.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LinkSpec {
    /// Toward the receiving stack.
    pub down: DirSpec,
    /// From the receiving stack.
    pub up: DirSpec,
    /// Seed of every random decision.
    pub seed: u64,
}

/// What one direction does.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DirSpec {
    /// One-way delay.
    pub delay: Duration,
    /// Even variation of the delay to either side.
    pub jitter: Duration,
    /// Bits per second; `None` for no limit.
    pub rate: Option<u64>,
    /// What may wait before the rate limiter.
    pub queue: Option<QueueLimit>,
    /// Probability of loss.
    pub loss: f64,
    /// Packets to lose by number, from 1: inclusive ranges, in order, not overlapping.
    pub lose: Vec<(u64, u64)>,
    /// Probability of the extra delay.
    pub reorder: f64,
    /// The extra delay.
    pub reorder_extra: Duration,
    /// Probability of a duplicate.
    pub dup: f64,
    /// Probability of a flipped bit.
    pub corrupt: f64,
}

/// The limit of a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueueLimit {
    /// Bytes on the wire.
    Bytes(u64),
    /// Packets; a super-segment counts once.
    Packets(u64),
}

/// A specification that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LinkSpecError {
    /// A part is neither a direction nor the seed.
    #[error("link: `{part}` is no part of a link; start it with down:, up: or both:, or write seed=7")]
    Part {
        /// The part as written.
        part: String,
    },
    /// A direction was given twice.
    #[error("link: `{dir}` appears twice; put all its keys behind one `{dir}:`, separated by commas")]
    Twice {
        /// `down`, `up` or `seed`.
        dir: &'static str,
    },
    /// A key that is not known.
    #[error(
        "link: {dir}: unknown key `{key}`; use delay, jitter, rate, queue, loss, lose, reorder, dup or corrupt"
    )]
    Key {
        /// The direction.
        dir: &'static str,
        /// The key as written.
        key: String,
    },
    /// A value that cannot be used.
    #[error("link: {dir}: {key}={value}: {why}; write {fix}")]
    Value {
        /// The direction.
        dir: &'static str,
        /// The key.
        key: String,
        /// The value as written.
        value: String,
        /// What is wrong.
        why: String,
        /// What would be right.
        fix: String,
    },
}

impl LinkSpec {
    /// Reads a specification; an empty text is a link that does nothing.
    ///
    /// # Errors
    /// Names the direction, the key, the value and something that would be accepted.
    pub fn parse(text: &str) -> Result<LinkSpec, LinkSpecError> {
        let mut spec = LinkSpec::default();
        let (mut down_seen, mut up_seen, mut seed_seen) = (false, false, false);
        for part in text.split(';').map(str::trim).filter(|p| !p.is_empty()) {
            if let Some(value) = part.strip_prefix("seed=") {
                if core::mem::replace(&mut seed_seen, true) {
                    return Err(LinkSpecError::Twice { dir: "seed" });
                }
                spec.seed = value.trim().parse().map_err(|_| {
                    wrong("seed", "seed", value, "not a number from 0 to 18446744073709551615", "seed=7")
                })?;
                continue;
            }
            let (name, keys) =
                part.split_once(':').ok_or_else(|| LinkSpecError::Part { part: part.to_owned() })?;
            let (down, up) = match name.trim() {
                "down" => (true, false),
                "up" => (false, true),
                "both" => (true, true),
                _ => return Err(LinkSpecError::Part { part: part.to_owned() }),
            };
            if down && core::mem::replace(&mut down_seen, true) {
                return Err(LinkSpecError::Twice { dir: "down" });
            }
            if up && core::mem::replace(&mut up_seen, true) {
                return Err(LinkSpecError::Twice { dir: "up" });
            }
            let dir = if down { "down" } else { "up" };
            let one = DirSpec::parse(dir, keys)?;
            if up {
                spec.up = one.clone();
            }
            if down {
                spec.down = one;
            }
        }
        Ok(spec)
    }

    /// Nothing is delayed, limited or lost.
    #[must_use]
    pub fn is_off(&self) -> bool {
        self.down == DirSpec::default() && self.up == DirSpec::default()
    }

    /// The round trip without queueing.
    #[must_use]
    pub fn rtt(&self) -> Duration {
        Duration::from_nanos(self.down.delay.as_nanos().saturating_add(self.up.delay.as_nanos()))
    }
}

impl DirSpec {
    fn parse(dir: &'static str, keys: &str) -> Result<DirSpec, LinkSpecError> {
        let mut spec = DirSpec::default();
        for pair in keys.split(',').map(str::trim).filter(|p| !p.is_empty()) {
            let (key, value) = pair.split_once('=').ok_or_else(|| {
                wrong(dir, pair, "", "the value is missing", "key=value, such as delay=50ms")
            })?;
            let (key, value) = (key.trim(), value.trim());
            let unit = |e: UnitError| wrong(dir, key, value, &e.why, &e.fix);
            match key {
                "delay" => spec.delay = parse_duration(value).map_err(unit)?,
                "jitter" => spec.jitter = parse_duration(value).map_err(unit)?,
                "rate" => spec.rate = Some(parse_rate(value).map_err(unit)?),
                "queue" => spec.queue = Some(parse_queue(dir, value)?),
                "loss" => spec.loss = probability(dir, key, value)?,
                "lose" => spec.lose = parse_list(dir, value)?,
                "dup" => spec.dup = probability(dir, key, value)?,
                "corrupt" => spec.corrupt = probability(dir, key, value)?,
                "reorder" => {
                    let (p, extra) = value.split_once('/').ok_or_else(|| {
                        wrong(dir, key, value, "the extra delay is missing", "reorder=0.1/5ms")
                    })?;
                    spec.reorder = probability(dir, key, p)?;
                    spec.reorder_extra = parse_duration(extra).map_err(unit)?;
                }
                _ => return Err(LinkSpecError::Key { dir, key: key.to_owned() }),
            }
        }
        spec.check(dir)?;
        Ok(spec)
    }

    fn check(&self, dir: &'static str) -> Result<(), LinkSpecError> {
        if let (Some(queue), None) = (self.queue, self.rate) {
            return Err(wrong(
                dir,
                "queue",
                &queue.to_string(),
                "nothing waits in a queue when there is no rate",
                "a rate beside it, such as rate=100mbit",
            ));
        }
        if self.jitter > self.delay {
            return Err(wrong(
                dir,
                "jitter",
                &Span(self.jitter).to_string(),
                "larger than the delay it varies",
                &format!("delay={} or more", Span(self.jitter)),
            ));
        }
        if self.delay > MAX_DELAY || self.reorder_extra > MAX_DELAY {
            return Err(wrong(
                dir,
                "delay",
                &Span(self.delay.max(self.reorder_extra)).to_string(),
                "longer than an hour",
                "1h or less",
            ));
        }
        Ok(())
    }
}

/// The longest delay accepted.
const MAX_DELAY: Duration = Duration::from_secs(3600);

fn parse_queue(dir: &'static str, value: &str) -> Result<QueueLimit, LinkSpecError> {
    let bad = || {
        wrong(
            dir,
            "queue",
            value,
            "neither a size nor a number of packets",
            "a size such as 256KiB, or packets such as 100p",
        )
    };
    let limit = match value.strip_suffix('p') {
        Some(n) => QueueLimit::Packets(n.trim().parse().map_err(|_| bad())?),
        None => QueueLimit::Bytes(parse_size(value).map_err(|_| bad())?),
    };
    if matches!(limit, QueueLimit::Bytes(0) | QueueLimit::Packets(0)) {
        return Err(wrong(dir, "queue", value, "an empty queue passes nothing", "queue=1p or more"));
    }
    Ok(limit)
}

fn probability(dir: &'static str, key: &str, value: &str) -> Result<f64, LinkSpecError> {
    let (text, scale) = match value.strip_suffix('%') {
        Some(t) => (t.trim(), 100.0),
        None => (value, 1.0),
    };
    match text.parse::<f64>() {
        Ok(p) if (0.0..=1.0).contains(&(p / scale)) => Ok(p / scale),
        _ => Err(wrong(dir, key, value, "a probability lies between 0 and 1", "for example 0.01, or 1%")),
    }
}

fn parse_list(dir: &'static str, value: &str) -> Result<Vec<(u64, u64)>, LinkSpecError> {
    let bad = |why: &str| wrong(dir, "lose", value, why, "packet numbers from 1, such as 3+7+10-12");
    let mut list = Vec::new();
    for item in value.split('+').map(str::trim) {
        let (a, b) = item.split_once('-').unwrap_or((item, item));
        let (a, b): (u64, u64) = match (a.trim().parse(), b.trim().parse()) {
            (Ok(a), Ok(b)) => (a, b),
            _ => return Err(bad("not a list of packet numbers")),
        };
        if a == 0 {
            return Err(bad("packets are counted from 1"));
        }
        if b < a {
            return Err(bad("a range that ends before it begins"));
        }
        list.push((a, b));
    }
    list.sort_unstable();
    let mut merged: Vec<(u64, u64)> = Vec::with_capacity(list.len());
    for (a, b) in list {
        match merged.last_mut() {
            Some(last) if a <= last.1 => last.1 = last.1.max(b),
            _ => merged.push((a, b)),
        }
    }
    Ok(merged)
}

fn wrong(dir: &'static str, key: &str, value: &str, why: &str, fix: &str) -> LinkSpecError {
    LinkSpecError::Value {
        dir,
        key: key.to_owned(),
        value: value.to_owned(),
        why: why.to_owned(),
        fix: fix.to_owned(),
    }
}

impl fmt::Display for QueueLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            QueueLimit::Bytes(b) => Size(*b).fmt(f),
            QueueLimit::Packets(p) => write!(f, "{p}p"),
        }
    }
}

impl fmt::Display for DirSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut keys = Vec::new();
        if self.delay != Duration::ZERO {
            keys.push(format!("delay={}", Span(self.delay)));
        }
        if self.jitter != Duration::ZERO {
            keys.push(format!("jitter={}", Span(self.jitter)));
        }
        if let Some(rate) = self.rate {
            keys.push(format!("rate={rate}bit"));
        }
        if let Some(queue) = self.queue {
            keys.push(format!("queue={queue}"));
        }
        if self.loss > 0.0 {
            keys.push(format!("loss={}", self.loss));
        }
        if !self.lose.is_empty() {
            let list: Vec<String> = self
                .lose
                .iter()
                .map(|&(a, b)| if a == b { a.to_string() } else { format!("{a}-{b}") })
                .collect();
            keys.push(format!("lose={}", list.join("+")));
        }
        if self.reorder > 0.0 {
            keys.push(format!("reorder={}/{}", self.reorder, Span(self.reorder_extra)));
        }
        if self.dup > 0.0 {
            keys.push(format!("dup={}", self.dup));
        }
        if self.corrupt > 0.0 {
            keys.push(format!("corrupt={}", self.corrupt));
        }
        f.write_str(&keys.join(","))
    }
}

impl fmt::Display for LinkSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = Vec::new();
        if self.down != DirSpec::default() {
            parts.push(format!("down:{}", self.down));
        }
        if self.up != DirSpec::default() {
            parts.push(format!("up:{}", self.up));
        }
        if self.seed != 0 {
            parts.push(format!("seed={}", self.seed));
        }
        f.write_str(&parts.join(";"))
    }
}

impl core::str::FromStr for LinkSpec {
    type Err = LinkSpecError;
    fn from_str(s: &str) -> Result<Self, LinkSpecError> {
        LinkSpec::parse(s)
    }
}

impl Serialize for LinkSpec {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for LinkSpec {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = String::deserialize(d)?;
        LinkSpec::parse(&text).map_err(de::Error::custom)
    }
}
