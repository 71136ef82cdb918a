//! A live kernel as the judge of the stack: the same frames into both, and everything that can be observed compared.
//!
//! | module | one line |
//! |---|---|
//! | [`script`] | what to do to a receiver, as data |
//! | [`trace`] | what a receiver was seen to do, as data |
//! | [`payload`] | the bytes that scripts carry |
//! | [`facts`] | what a kernel's configuration changes |
//! | [`vnet`] | what stands in virtio headers |
//! | [`live`] | playing scripts to the kernel we run on |
//! | [`guest`] | the same inside a kernel that is booted for it |
//! | [`recorder`] | which kernels there are, and recording on any of them |

pub mod facts;
pub mod guest;
pub mod live;
pub mod payload;
pub mod recorder;
pub mod script;
pub mod trace;
pub mod vnet;
