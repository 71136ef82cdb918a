//! This machine's kernel: a TAP device in a namespace of its own, and ordinary sockets.

use std::time::Duration;

use anyhow::Result;

use super::Job;
use super::spec::Options;
use crate::run::wire::tap::{KernelSide, TapWire, kernel_end, kernel_name};
use crate::sender::{Role, kernel::KernelConfig};

/// The wire; the thread must be in a namespace of its own.
pub(super) fn wire(options: &Options, job: Job) -> Result<TapWire> {
    let side = KernelSide { sysctls: sysctls(options), ..KernelSide::default() };
    TapWire::open(&side, sender(options, job.bytes), kernel_name(), false)
}

/// The sysctls that options stand for.
pub(super) fn sysctls(options: &Options) -> Vec<(String, String)> {
    let mut all = Vec::new();
    for (option, name) in [("sack", "net.ipv4.tcp_sack"), ("timestamps", "net.ipv4.tcp_timestamps")] {
        all.push((name.to_owned(), u8::from(!options.is_off(option)).to_string()));
    }
    all.extend(options.sysctls().map(|(n, v)| (n.to_owned(), v.to_owned())));
    all
}

/// A kernel's sender in a cell: it connects, sends, and waits for the end as long as the kernel does.
pub(super) fn sender(options: &Options, bytes: u64) -> KernelConfig {
    const FOR_EVER: Duration = Duration::from_secs(86_400);
    // Without Nagle every write is a segment, so writes below a segment's size make a difference.
    let write = if options.has("nodelay") { 600 } else { 65_536 };
    KernelConfig {
        write_sizes: vec![write],
        nodelay: options.has("nodelay"),
        congestion: options.get("cc").map(str::to_owned),
        total: Some(bytes),
        connect_timeout: FOR_EVER,
        close_wait: FOR_EVER,
        ..kernel_end(Role::Client)
    }
}
