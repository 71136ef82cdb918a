//! Random scripts against a kernel: making them, making those that tell a difference small, and running many.
//!
//! | module | one line |
//! |---|---|
//! | [`generate`] | a seed and an index make a script |

pub mod generate;
