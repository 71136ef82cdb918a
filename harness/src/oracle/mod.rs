//! A live kernel as the judge of the stack: the same frames into both, and everything that can be observed compared.
//!
//! | module | one line |
//! |---|---|
//! | [`script`] | what to do to a receiver, as data |
//! | [`trace`] | what a receiver was seen to do, as data |
//! | [`payload`] | the bytes that scripts carry |
//! | [`facts`] | what a kernel's configuration changes |
//! | [`recorder`] | which kernels there are, and recording on any of them |
//! | [`fuzz`] | random scripts, and small ones that still tell a difference |

pub mod facts;
pub mod fuzz;
pub mod payload;
pub mod recorder;
pub mod script;
pub mod trace;
