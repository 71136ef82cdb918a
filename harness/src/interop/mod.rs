//! Do real peers survive a window that shrinks? Stacks of all kinds send to our receiver while it retracts its window in
//! every way that can happen, and every clause of the RFCs that is put to the test gets a verdict.
//!
//! ```text
//!  peer ── wire ──▶ cell ──▶ receive stack          one peer in one situation
//!                    │  ▲
//!                    ▼  │ steps
//!                 trace  director ◀── situation      what was on the wire; what the receiver does to it
//!                    │
//!                    ▼
//!                  judge ──▶ verdicts ──▶ report     clause by clause, with packet numbers
//! ```
//!
//! | module | one line |
//! |---|---|
//! | [`situation`] | what a receiver does to its peer, as data |
//! | [`director`] | which step of a situation it is |
//! | [`peer`] | real stacks that send |
//! | [`cell`] | one peer in one situation |
//! | [`capture`] | the capture of a cell, with comments |
//! | [`trace`] | what was on the wire, in positions of the stream |
//! | [`judge`] | verdicts, clause by clause |
//! | [`matrix`] | many peers in many situations |
//! | [`sequence`] | what a time–sequence diagram shows |
//! | [`results`] | what a matrix leaves |
//! | [`baseline`] | what was found before, and what has changed |
//! | [`text`], [`page`], [`junit`] | for terminals, browsers and CI servers |
//! | [`serve`] | any device that connects is the peer |
//! | [`command`] | what can be typed |

pub mod baseline;
pub mod capture;
pub mod cell;
pub mod command;
pub mod director;
pub mod judge;
pub mod junit;
pub mod matrix;
pub mod page;
pub mod peer;
pub mod results;
pub mod sequence;
pub mod serve;
pub mod situation;
#[cfg(test)]
mod testing;
pub mod text;
pub mod trace;
