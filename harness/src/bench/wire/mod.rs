//! Wire to application: what a receiver makes of a kernel's sender, in goodput and in CPU time per byte.
//!
//! | module | one line |
//! |---|---|
//! | `port` | the TAP device, the sender behind it, and the loop that drives a receiver |
//! | `meter` | from when to when a round counts |
//! | `null` | a receiver that only acknowledges |
//! | `ours` | the stack, with and without decisions |
//! | `recorded` | the run loop of `rightedge run` |
//! | `rival` | smoltcp |
//! | `veth` | the kernel's own receiver |
//!
//! # What is the same for all
//! The sender: this machine's kernel, 64 KiB writes, cubic, no timestamps, buffers that tune themselves up to 32 MiB, in a
//! namespace of its own that is made for the round. The MTU of 1500 bytes. A window of 4 MiB at the most, at a scale of 7 or
//! more; the null sink and smoltcp offer all of it from the start, the stack and the kernel let it grow as Linux does. The
//! application reads everything at once. The user-space receivers but the recorded one share device settings, loop and batches,
//! and differ in nothing but what they do with a frame and where they let it be read to.
//!
//! # How often they acknowledge
//! That belongs to the receiver. The null sink and smoltcp do so once for all frames that were there to be read, 48 KiB at the
//! most; the stack and the kernel where Linux does, which is at every second segment while the window grows.
//!
//! # Checksums
//! What the device says is valid is verified by nobody: on the offloaded TAP no receiver sums. On the plain TAP the stack
//! and smoltcp verify every segment; the null sink never does. Over veth the same is set up with the pair's switches: unsummed
//! super-segments, or single segments whose sums the receiving kernel verifies.
//!
//! # What CPU time means
//! That of the thread that receives, system calls included. A written ACK is worked off by the kernel in the writer's thread,
//! and so is what the sender sends because of it: part of the sender's work counts here, for all receivers over TAP
//! alike. Over veth much of the receiver's work is done in the sender's thread; its figure is what the reader paid.

mod meter;
mod null;
mod ours;
mod port;
mod recorded;
mod rival;
#[cfg(test)]
mod tests;
mod veth;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use rightedge_tapctl::{
    netns,
    tap::{TUN_NODE, TapError},
};

use self::meter::{Meter, Round};
use self::port::Port;
use super::measure::{Effort, Measured, Unit};
use crate::run::wire::tap::{KernelSide, kernel_end};
use crate::sender::{Role, kernel::KernelConfig};

/// `net.ipv4.tcp_rmem` of every receiver: a budget of 8 MiB at once, up to 32 MiB.
const TCP_RMEM: &str = "4096 8388608 33554432";
/// `net.ipv4.tcp_wmem` of the sender.
const TCP_WMEM: &str = "4096 4194304 33554432";
/// The largest window, bytes, the same for all: none is given more room than another.
const WINDOW: usize = 4 << 20;
/// The share of a round's length that passes before it counts.
const RAMP: f64 = 0.2;

/// Who receives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Receiver {
    /// A sink that only acknowledges, as seldom as it can
    Null,
    /// The same sink, acknowledging every second segment as Linux does
    NullEverySecond,
    /// The stack
    Rightedge,
    /// smoltcp's socket
    Smoltcp,
    /// The kernel's own receiver, over veth
    Kernel,
    /// The stack, its decisions taken and thrown away
    Decisions,
    /// The run loop of `rightedge run` with its recording, of each frame the headers
    Recorded,
    /// The same, and of each frame all
    RecordedWhole,
}

impl Receiver {
    /// Everybody, in the order of a round.
    pub const ALL: [Receiver; 8] = [
        Receiver::Null,
        Receiver::NullEverySecond,
        Receiver::Rightedge,
        Receiver::Smoltcp,
        Receiver::Kernel,
        Receiver::Decisions,
        Receiver::Recorded,
        Receiver::RecordedWhole,
    ];

    fn name(self) -> &'static str {
        match self {
            Receiver::Null => "null sink",
            Receiver::NullEverySecond => "null sink, every second segment",
            Receiver::Rightedge => "rightedge",
            Receiver::Smoltcp => "smoltcp",
            Receiver::Kernel => "kernel over veth",
            Receiver::Decisions => "rightedge, decisions on",
            Receiver::Recorded => "rightedge, recorded",
            Receiver::RecordedWhole => "rightedge, recorded, whole frames",
        }
    }

    /// One round. The calling thread must be in a namespace of its own.
    fn round(self, offload: bool, length: Duration, stop: &AtomicBool) -> Result<Round> {
        let meter = Meter::new(length.mul_f64(RAMP), length);
        match self {
            Receiver::Null => {
                Port::open(offload)?.drive(&mut null::NullSink::new(offload, u32::MAX), meter, stop)
            }
            Receiver::NullEverySecond => {
                let every = 2 * u32::from(null::MSS);
                Port::open(offload)?.drive(&mut null::NullSink::new(offload, every), meter, stop)
            }
            Receiver::Rightedge => {
                Port::open(offload)?.drive(&mut ours::Ours::new(offload, false)?, meter, stop)
            }
            Receiver::Decisions => {
                Port::open(offload)?.drive(&mut ours::Ours::new(offload, true)?, meter, stop)
            }
            Receiver::Smoltcp => Port::open(offload)?.drive(&mut rival::Rival::new(offload)?, meter, stop),
            Receiver::Kernel => veth::round(offload, meter, stop),
            Receiver::Recorded => recorded::round(offload, length, Some(recorded::SNAPLEN)),
            Receiver::RecordedWhole => recorded::round(offload, length, None),
        }
    }
}

/// What is measured over a TAP device, round by round.
///
/// Goodput in the groups `wire/plain` and `wire/offload`, CPU time per byte in `wire/plain-cpu` and `wire/offload-cpu`. A
/// round counts for `seconds_per_round`, after a fifth of that and 64 MiB for slow start. `each` hears of every round. When `stop` is
/// set, the rounds that were completed are returned.
///
/// # Errors
/// The device node or a namespace is not to be had, or a receiver got no data.
pub fn run(
    receivers: &[Receiver],
    effort: Effort,
    seconds_per_round: f64,
    stop: &AtomicBool,
    each: &mut dyn FnMut(&str),
) -> Result<Vec<Measured>> {
    if !std::path::Path::new(TUN_NODE).exists() {
        return Err(TapError::NodeMissing.into());
    }
    let length = Duration::try_from_secs_f64(seconds_per_round)
        .ok()
        .filter(|d| (Duration::from_millis(10)..=Duration::from_secs(3600)).contains(d));
    let Some(length) = length else { bail!("{seconds_per_round} s per round: give 0.01 to 3600") };
    let mut all = Vec::new();
    for (group, offload) in [("wire/plain", false), ("wire/offload", true)] {
        let each_of = |group: &str, unit, per| -> Vec<_> {
            receivers.iter().map(|&r| empty(group, r, unit, per)).collect()
        };
        let mut goodput = each_of(group, Unit::BytesPerSecond, "second");
        let mut cpu = each_of(&format!("{group}-cpu"), Unit::Nanoseconds, "byte");
        for n in 0..effort.warm_up + effort.rounds {
            let mut rounds = Vec::new();
            for &receiver in receivers {
                let round = netns::run_in_new_netns(|| receiver.round(offload, length, stop))
                    .context("cannot make a private network namespace")?;
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                let round = round.with_context(|| format!("{group}, {}", receiver.name()))?;
                each(&format!("{group} {}", receiver.name()));
                rounds.push(round);
            }
            // Ratios are of rounds that all have taken part in.
            if n < effort.warm_up || rounds.len() < receivers.len() {
                continue;
            }
            for ((round, g), c) in rounds.iter().zip(&mut goodput).zip(&mut cpu) {
                g.rounds.push(round.goodput());
                c.rounds.push(round.cpu_per_byte());
            }
        }
        all.extend(goodput);
        all.extend(cpu);
    }
    Ok(all)
}

fn empty(group: &str, receiver: Receiver, unit: Unit, per: &str) -> Measured {
    Measured {
        group: group.to_owned(),
        case: receiver.name().to_owned(),
        unit,
        per: per.to_owned(),
        rounds: Vec::new(),
    }
}

/// The sender's namespace.
fn kernel_side() -> KernelSide {
    let sysctls = [("net.ipv4.tcp_timestamps", "0"), ("net.ipv4.tcp_wmem", TCP_WMEM)];
    KernelSide { sysctls: sysctls.map(|(n, v)| (n.to_owned(), v.to_owned())).into(), ..KernelSide::default() }
}

/// The sender: writes until it is stopped.
fn sender() -> KernelConfig {
    KernelConfig { congestion: Some("cubic".to_owned()), ..kernel_end(Role::Client) }
}
