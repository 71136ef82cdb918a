//! TAP devices, private network namespaces, sysctls and the kernel's own view of its sockets.
//!
//! This crate is the plumbing under Rightedge: it builds the place where a real kernel and the stack under
//! study meet, and reads what the kernel thinks. One thread, plain descriptors, no runtime.
//!
//! ```no_run
//! use rightedge_tapctl::link::{Cidr, Netlink};
//! use rightedge_tapctl::netns::PrivateNet;
//! use rightedge_tapctl::tap::{IoMode, MAX_FRAME_LEN, Tap};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! // Once, early in main: without root this enters a user namespace of our own.
//! rightedge_tapctl::netns::prepare_process()?;
//! let net = PrivateNet::new()?;
//! net.run(|| -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
//!     let tap = Tap::plain("re0", IoMode::Blocking)?;
//!     let mut links = Netlink::open()?;
//!     links.add_address("re0", "10.0.0.1/24".parse::<Cidr>()?)?;
//!     links.set_up("re0")?;
//!     let mut frame = vec![0; MAX_FRAME_LEN];
//!     let len = tap.recv(&mut frame)?;
//!     println!("the kernel sent {len} bytes");
//!     Ok(())
//! })?
//! .map_err(|error| error.to_string())?;
//! // Device, addresses and namespace are gone with `net`, whatever ends the process.
//! # Ok(())
//! # }
//! ```
//!
//! | module | one line |
//! | --- | --- |
//! | [`netns`] | network namespaces that vanish with the process, and named ones that stay |
//! | [`tap`] | plain and offloaded TAP/TUN devices |
//! | [`vnet`] | the virtio header in front of offloaded frames |
//! | [`link`] | interfaces, addresses, routes with metrics, neighbours, veth |
//! | [`ethtool`] | a device's own offload switches |
//! | [`sysctl`] | read, write and restore, in the thread's namespace |
//! | [`observe`] | `TCP_INFO`, `SO_MEMINFO`, nstat counters, sockets |
//! | [`capture`] | an independent `AF_PACKET` observer |
//! | [`port`] | frames in and out of an interface, beside the kernel's own stack |
//! | [`process`] | children that cannot outlive their purpose |
//! | [`rights`] | what this machine allows, and the fix for what it does not |
#![deny(unsafe_code, missing_docs)]
#![warn(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic))]

pub mod capture;
pub mod ethtool;
pub mod link;
pub mod netns;
pub mod observe;
pub mod port;
pub mod process;
pub mod rights;
mod sys;
pub mod sysctl;
pub mod tap;
pub mod vnet;
