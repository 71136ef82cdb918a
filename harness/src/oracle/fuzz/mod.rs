//! Random scripts against a kernel: making them, making those that tell a difference small, and running many.
//!
//! | module | one line |
//! |---|---|
//! | [`generate`] | a seed and an index make a script |
//! | [`shrink`] | a failing script becomes a small one |
//! | [`mod@bench`] | a script through a live kernel and through the stack |
//! | [`campaign`] | many scripts on several benches, resumable |

pub mod bench;
pub mod campaign;
pub mod generate;
pub mod shrink;
