//! A live kernel as the judge of the stack: the same frames into both, and everything that can be observed compared.
//!
//! | module | one line |
//! |---|---|
//! | [`command`] | what can be typed |
//! | [`script`] | what to do to a receiver, as data |
//! | [`trace`] | what a receiver was seen to do, as data |
//! | [`payload`] | the bytes that scripts carry |
//! | [`vnet`] | what a frame says of itself to the device |
//! | [`facts`] | what a kernel's configuration changes |
//! | [`recorder`] | which kernels there are, and recording on any of them |
//! | [`live`] | scripts played to the kernel we run on |
//! | [`guest`] | the same inside a kernel that is booted for it |
//! | [`replay`] | a trace played to the stack, in virtual time |
//! | [`diff`] | what is compared, and the first thing that differs |
//! | [`fuzz`] | random scripts, and small ones that still tell a difference |

pub mod command;
pub mod diff;
pub mod facts;
pub mod fuzz;
pub mod guest;
pub mod live;
pub mod payload;
pub mod recorder;
pub mod replay;
pub mod script;
pub mod trace;
pub mod vnet;
