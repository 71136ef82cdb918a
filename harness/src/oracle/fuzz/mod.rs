//! Random scripts against a kernel: making them, making those that tell a difference small, and running many.
//!
//! | module | one line |
//! |---|---|
//! | [`generate`] | a seed and an index make a script |
//! | [`shrink`] | a failing script becomes a small one |
//! | [`campaign`] | many scripts on several benches, resumable |

pub mod campaign;
pub mod generate;
pub mod shrink;
