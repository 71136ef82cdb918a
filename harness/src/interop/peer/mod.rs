//! Peers: real stacks that send, each behind a [`Wire`].
//!
//! | module | which |
//! |---|---|
//! | [`spec`] | what can be typed |
//! | [`inventory`] | which are installed, and how to get the rest |
//! | `host` | this machine's kernel, over a TAP device |
//! | [`guest`] | kernels in a process or under QEMU |
//! | `child` | programs that get a descriptor of Ethernet frames: the peer contract |
//! | [`drivers`] | programs of ours around lwIP, gVisor, libslirp, passt and PyTCP |
//! | `smoltcp` | smoltcp, in this program |
//! | [`bad`] | senders that misbehave on purpose |
//! | `frames` | a socket that carries a frame in each message |

pub mod bad;
mod child;
pub mod drivers;
mod frames;
pub mod guest;
mod host;
pub mod inventory;
mod smoltcp;
pub mod spec;

use anyhow::{Context as _, Result};
use rightedge_stack::profile::Profile;
use rightedge_stack::time::{Duration, Instant};
use rightedge_stack::{Stack, StackConfig};
use rightedge_tapctl::netns;

use self::spec::{Kind, PeerSpec};
use crate::run::wire::{PORT, STACK_IP, STACK_MAC, Wire, embedded::Embedded, model_end};
use crate::scenario::Clock;
use crate::sender::{End, Role, model::AppModel, model::ModelConfig, model::ModelSender};

/// How long a frame takes to and from a peer in this program. With no time at all it could not be told what a peer had
/// heard before it spoke.
pub const LATENCY: Duration = Duration::from_millis(1);

/// What a peer is to do.
#[derive(Clone, Copy, Debug)]
pub struct Job {
    /// Bytes to send.
    pub bytes: u64,
    /// Which clock is wanted: only peers in this program have a virtual one.
    pub clock: Clock,
}

/// What the machine offers, looked up once.
#[derive(Clone, Debug, Default)]
pub struct Shop {
    /// Where drivers were built.
    pub drivers: drivers::Built,
    /// The program that is the init of guests.
    pub program: Option<crate::guest::Program>,
}

impl PeerSpec {
    /// The clock such a peer has.
    #[must_use]
    pub fn clock(&self, wanted: Option<Clock>) -> Clock {
        match self.kind {
            Kind::Smoltcp | Kind::Model | Kind::Bad(_) => wanted.unwrap_or(Clock::Virtual),
            _ => Clock::Real,
        }
    }

    /// Starts the peer and lets `f` have the wire to it. Whatever happens, nothing of the peer is left afterwards.
    ///
    /// # Errors
    /// The peer cannot be started, or `f` failed.
    pub fn with_wire<R: Send>(
        &self,
        job: Job,
        shop: &Shop,
        f: impl FnOnce(&mut dyn Wire) -> Result<R> + Send,
    ) -> Result<R> {
        match &self.kind {
            Kind::Host => {
                // The namespace ends with the thread, and the device with it, whatever ends the process.
                let ran = netns::run_in_new_netns(|| f(&mut host::wire(&self.options, job)?));
                ran.context("cannot make a private network namespace")?
            }
            Kind::Guest(kernel) => {
                let mut row = guest::Row::start(kernel, &self.options, vec![(PORT, job.bytes)], shop)?;
                let mut wire = row.wire(PORT).context("a guest without a connection")?;
                f(&mut wire)
            }
            Kind::Driver(driver) => {
                let command = drivers::command(*driver, &shop.drivers, &self.options)?;
                f(&mut child::ChildWire::start(command, &self.options, job)?)
            }
            Kind::Exec(words) => f(&mut child::ChildWire::start(child::exec(words), &self.options, job)?),
            Kind::Smoltcp => {
                let smoltcp = smoltcp::Smoltcp::new(&self.options, job);
                f(&mut Embedded::new(smoltcp, job.clock).with_latency(LATENCY))
            }
            Kind::Model => f(&mut Embedded::new(model(job), job.clock).with_latency(LATENCY)),
            Kind::Bad(how) => {
                let bad = bad::Bad::new(model(job), *how, job.bytes);
                f(&mut Embedded::new(bad, job.clock).with_latency(LATENCY))
            }
        }
    }
}

/// A stack that has the receiver's address and no socket: it answers who has the address.
fn answering_machine() -> Result<Stack> {
    let profile = Profile::parse("linux-6.1")?;
    Ok(Stack::new(StackConfig::ethernet(profile, STACK_MAC, STACK_IP.into(), 24))?)
}

/// The model sender as a peer, by the letter of the RFCs.
#[must_use]
pub fn model(job: Job) -> ModelSender {
    let app = AppModel {
        write_sizes: vec![65_536],
        pace: Duration::ZERO,
        nodelay: false,
        total: Some(job.bytes),
        stop_after: None,
        end: End::Close,
    };
    let cfg = ModelConfig {
        mss: 1460,
        timestamps: true,
        sack: true,
        wscale: Some(7),
        smaller_window: true,
        app,
        ..model_end(Role::Client)
    };
    ModelSender::new(cfg, Instant::ZERO)
}
