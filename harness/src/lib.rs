//! The program people run: scenarios, kernel and model senders, the run loop, and everything that shows what happened.
//!
//! | module | one line |
//! |---|---|
//! | [`cli`], [`commands`] | what can be typed, and what it does |
//! | [`datafile`] | finding and reading what is data |
//! | [`scenario`] | experiments as data files |
//! | [`run`] | a scenario under policies: wire, loop, figures, report |
//! | [`link`] | delay, rate, loss and reordering between sender and stack |
//! | [`sender`] | the kernel's TCP and the model sender |
//! | [`record`] | the run directory |
//! | [`observer`] | a second pair of eyes on the wire that shares no parser with the stack |
//! | [`contained`] | child processes that leave nothing behind |
//! | [`guest`] | kernels booted for one task |
//! | [`interop`] | real stacks that send against a window that shrinks |
//! | [`mod@bench`] | what a segment, a collapse and a policy cost |
//! | [`oracle`] | live kernels as judges of the stack |
//! | [`explain`] | why a packet carried its window, in words |
//! | [`chart`], [`views`] | pictures and tables |
//! | [`doctor`] | what this machine can do |
#![forbid(unsafe_code)]

pub mod bench;
#[cfg(feature = "charts")]
pub mod chart;
pub mod cli;
pub mod commands;
pub mod contained;
pub mod datafile;
pub mod doctor;
pub mod explain;
pub mod guest;
pub mod interop;
pub mod link;
pub mod observer;
pub mod oracle;
pub mod record;
pub mod run;
pub mod scenario;
pub mod sender;
pub mod views;
