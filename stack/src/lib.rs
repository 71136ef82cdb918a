//! A sans-I/O TCP receive path that decides what Linux decides about receive memory and the receive window.
//!
//! This crate has no clock, no socket, no thread and no system call. Frames, instants and calls go in; frames, wake-ups
//! and typed decisions come out. So the same engine runs in real time on a TAP device, in virtual time for a 35-minute
//! experiment in a second, under a fuzzer, or inside another program. See [`Stack`] for how it is driven.
//!
//! # Map
//! | module | one line |
//! |---|---|
//! | [`wire`] | frames to typed segments and back |
//! | [`iface`] | a host's ARP, neighbour discovery, ICMP echo and RSTs |
//! | [`nic`] | what a frame costs in memory: driver models |
//! | [`profile`] | kernel generations as data, every behaviour a switch |
//! | [`sysctl`] | settings under their Linux names |
//! | `mem` | charge, refund, tcp_mem, groups |
//! | `skb` | a queued buffer, coalescing |
//! | `window` | the arithmetic of the receive window |
//! | `tcb` | one connection, one module per decision |
//! | [`decision`] | everything decided, as data |
//! | [`counters`] | `nstat`'s names |
//!
//! # What nothing can do
//! No frame, option, setting or order of calls makes it panic or grow without bound: queues are bounded by the memory
//! they are charged for, half-open connections by the listener's backlog, pending decisions by a fixed number.
//!
//! ```
//! use rightedge_stack::{Stack, StackConfig, ListenOptions, profile::Profile};
//! let config = StackConfig::ip(Profile::linux_6_18(), [10, 0, 0, 2].into(), 24);
//! let mut stack = Stack::new(config)?;
//! let listener = stack.listen(([10, 0, 0, 2], 5001).into(), ListenOptions::default())?;
//! assert!(stack.accept(listener).is_none());
//! assert!(stack.poll_transmit().is_none() && stack.poll_timeout().is_none());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![forbid(unsafe_code)]
#![cfg_attr(
    not(test),
    deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::unreachable, clippy::string_slice)
)]

pub mod counters;
pub mod decision;
pub mod iface;
mod info;
mod log;
mod mem;
pub mod nic;
pub mod profile;
mod skb;
mod socket;
mod stack;
pub mod sysctl;
mod tcb;
pub mod time;
pub mod units;
mod window;
pub mod wire;

pub use self::{
    info::{Info, MemInfo},
    mem::GroupId,
    socket::{Event, SocketError, SocketId, SocketOption, Steering},
    stack::{ConfigError, ListenOptions, Route, Stack, StackConfig, Transmit},
    tcb::State,
};
