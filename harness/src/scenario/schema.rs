//! The tables of a scenario file. Unknown keys are refused everywhere.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize, de};

use super::expect::Expect;
use super::reader::ReadPattern;
use super::units::{Size, Span};
use crate::link::LinkSpec;
use crate::sender::{End, Role};

/// A scenario: what is run, how it is judged, and why.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// Its name: lower-case letters, digits and hyphens.
    pub name: String,
    /// One line for a list.
    pub about: String,
    /// The experiment it reproduces, such as `C1`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub experiment: Option<String>,
    /// A paragraph for people: what happens and why.
    #[serde(default)]
    pub explain: String,
    /// Clauses of standards it bears on, such as `RFC 9293 SHLD-14`.
    #[serde(default)]
    pub clauses: Vec<String>,
    /// Policies it runs under when none is asked for: profile names with switches.
    pub policies: Vec<String>,
    /// The receiving side.
    pub receiver: Receiver,
    /// The sending side.
    pub sender: Sender,
    /// Metrics of the route between them.
    #[serde(default)]
    pub route: Route,
    /// The link emulator's specification; empty for none.
    #[serde(default, skip_serializing_if = "LinkSpec::is_off")]
    pub link: LinkSpec,
    /// When a run ends.
    pub limits: Limits,
    /// What differs when a run takes real time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub real_time: Option<RealTime>,
    /// How a run is judged.
    #[serde(default)]
    pub expect: Vec<Expect>,
}

/// The receiving side: our stack, or the kernel as oracle.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Receiver {
    /// `server`: it listens. `client`: it connects to the sender.
    #[serde(default)]
    pub role: Role,
    /// When its application reads how much.
    pub read: ReadPattern,
    /// SO_RCVBUF as given to setsockopt; the kernel doubles it and stops tuning it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub so_rcvbuf: Option<Size>,
    /// Sysctls by name; a bare name means `net.ipv4.`. Several numbers are one text with blanks.
    #[serde(default)]
    pub sysctls: BTreeMap<String, SysctlValue>,
    /// Options of its socket.
    #[serde(default)]
    pub options: SocketOptions,
    /// How an arriving frame becomes memory.
    #[serde(default)]
    pub driver: DriverSpec,
}

/// The value of a sysctl: a number, or numbers in a text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(
    untagged,
    expecting = "a sysctl takes a number, or numbers in one text such as \"4096 131072 6291456\""
)]
pub enum SysctlValue {
    /// One number.
    Number(i64),
    /// As `sysctl -w` takes it.
    Text(String),
}

/// Options of the receiving socket.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SocketOptions {
    /// SO_RCVLOWAT.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rcvlowat: Option<Size>,
    /// TCP_WINDOW_CLAMP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window_clamp: Option<Size>,
    /// TCP_MAXSEG.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub maxseg: Option<u16>,
    /// TCP_QUICKACK.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quickack: Option<bool>,
    /// TCP_NODELAY.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nodelay: Option<bool>,
}

/// The driver model and its knobs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DriverSpec {
    /// Name of a model of the stack, such as `tap`, `veth`, `virtio`.
    pub model: String,
    /// Charge every frame exactly this, whatever the model says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub truesize: Option<Size>,
    /// Charge every frame so much more than the model says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub extra: Option<Size>,
}

/// The sending side: the model, or a kernel.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sender {
    /// The opposite of the receiver's; may be left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<Role>,
    /// Sizes of successive writes, used in turn; one write is one segment with `nodelay` as long as the window lets it.
    pub write: OneOrMany,
    /// Time between writes; none writes whenever there is room.
    #[serde(default)]
    pub pace: Span,
    /// TCP_NODELAY.
    #[serde(default)]
    pub nodelay: bool,
    /// Congestion control, by the kernel's name. The model sender has `reno`.
    #[serde(default = "reno")]
    pub congestion: String,
    /// Largest segment announced and sent, options included as the MSS option counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mss: Option<u16>,
    /// Timestamps (RFC 7323).
    #[serde(default = "yes")]
    pub timestamps: bool,
    /// Selective acknowledgements.
    #[serde(default = "yes")]
    pub sack: bool,
    /// Window scale the sender offers for its own receive side; 0 still switches scaling on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wscale: Option<u8>,
    /// SO_SNDBUF as given to setsockopt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub so_sndbuf: Option<Size>,
    /// TCP_NOTSENT_LOWAT.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub notsent_lowat: Option<Size>,
    /// Largest super-segment; none sends one frame per segment.
    #[serde(default)]
    pub gso_max: Size,
    /// Bytes to send in all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total: Option<Size>,
    /// Connections.
    #[serde(default = "one")]
    pub connections: u32,
    /// What happens after the last byte.
    #[serde(default)]
    pub end: End,
    /// Sysctls of the sender's namespace, for a kernel sender.
    #[serde(default)]
    pub sysctls: BTreeMap<String, SysctlValue>,
}

/// One number, or several used in turn.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum OneOrMany {
    /// Always the same.
    One(Size),
    /// In turn.
    Many(Vec<Size>),
}

/// Metrics of the route: the congestion window is the sender's, the rest the receiver's.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Route {
    /// The sender's first congestion window, in segments.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub initcwnd: Option<u32>,
    /// The receiver's first window, in segments.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub initrwnd: Option<u32>,
    /// The receiver acknowledges at once.
    #[serde(default)]
    pub quickack: bool,
    /// MTU of the link.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
    /// MSS the receiver announces.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub advmss: Option<u16>,
}

/// When a run ends, at the latest; also when the sender's connection is over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// Time since the handshake.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time: Option<Span>,
    /// Frames that arrived at the receiver.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub packets: Option<u64>,
    /// Payload bytes that arrived at the receiver.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<Size>,
}

/// What differs when a run takes real time: values given here take the place of the scenario's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RealTime {
    /// Why, and what it does to the comparison; printed beside the result.
    pub why: String,
    /// Limit of time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time: Option<Span>,
    /// Limit of frames.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub packets: Option<u64>,
    /// Limit of bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<Size>,
    /// Time between the sender's writes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pace: Option<Span>,
    /// Sizes of the sender's writes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub write: Option<OneOrMany>,
    /// The receiver's reading.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub read: Option<ReadPattern>,
    /// The receiver acknowledges at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quickack: Option<bool>,
    /// The sender's first congestion window, in segments.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub initcwnd: Option<u32>,
}

/// Which clock a run goes by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Clock {
    /// Virtual time: the published values, however long they take.
    Virtual,
    /// Real time: with the overrides of `real_time`.
    Real,
}

impl Scenario {
    /// The scenario with the values that hold under `clock`.
    #[must_use]
    pub fn for_clock(&self, clock: Clock) -> Scenario {
        let mut s = self.clone();
        let Some(r) = self.real_time.clone().filter(|_| clock == Clock::Real) else { return s };
        let RealTime { why: _, time, packets, bytes, pace, write, read, quickack, initcwnd } = r;
        s.limits.time = time.or(s.limits.time);
        s.limits.packets = packets.or(s.limits.packets);
        s.limits.bytes = bytes.or(s.limits.bytes);
        s.sender.pace = pace.unwrap_or(s.sender.pace);
        s.sender.write = write.unwrap_or(s.sender.write);
        s.receiver.read = read.unwrap_or(s.receiver.read);
        s.route.quickack = quickack.unwrap_or(s.route.quickack);
        s.route.initcwnd = initcwnd.or(s.route.initcwnd);
        s
    }

    /// Which side the sender is: the receiver's opposite.
    #[must_use]
    pub fn sender_role(&self) -> Role {
        match self.receiver.role {
            Role::Server => Role::Client,
            Role::Client => Role::Server,
        }
    }
}

impl OneOrMany {
    /// The sizes as 32-bit numbers.
    #[must_use]
    pub fn sizes(&self) -> Vec<u32> {
        match self {
            OneOrMany::One(s) => vec![s.as_u32()],
            OneOrMany::Many(all) => all.iter().map(|s| s.as_u32()).collect(),
        }
    }
}

/// By hand, so that a wrong size says what is wrong with it.
impl<'de> Deserialize<'de> for OneOrMany {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct V;
        impl<'de> de::Visitor<'de> for V {
            type Value = OneOrMany;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a size such as 1448 or \"64KiB\", or a list of sizes")
            }
            fn visit_str<E: de::Error>(self, v: &str) -> Result<OneOrMany, E> {
                v.parse().map(OneOrMany::One).map_err(E::custom)
            }
            fn visit_i64<E: de::Error>(self, v: i64) -> Result<OneOrMany, E> {
                let size = u64::try_from(v)
                    .map_err(|_| E::custom(format!("a size cannot be negative ({v}); write 1 or more")))?;
                Ok(OneOrMany::One(Size(size)))
            }
            fn visit_u64<E: de::Error>(self, v: u64) -> Result<OneOrMany, E> {
                Ok(OneOrMany::One(Size(v)))
            }
            fn visit_seq<A: de::SeqAccess<'de>>(self, mut seq: A) -> Result<OneOrMany, A::Error> {
                let mut all = Vec::new();
                while let Some(size) = seq.next_element()? {
                    all.push(size);
                }
                Ok(OneOrMany::Many(all))
            }
        }
        d.deserialize_any(V)
    }
}

impl std::fmt::Display for SysctlValue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            SysctlValue::Number(n) => n.fmt(f),
            SysctlValue::Text(t) => f.write_str(t),
        }
    }
}

impl Default for DriverSpec {
    fn default() -> Self {
        DriverSpec { model: "tap".to_owned(), truesize: None, extra: None }
    }
}

fn reno() -> String {
    "reno".to_owned()
}

fn yes() -> bool {
    true
}

fn one() -> u32 {
    1
}
