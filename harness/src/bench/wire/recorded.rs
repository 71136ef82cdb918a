//! The stack in the run loop of `rightedge run`, recorded to a run directory.
//!
//! What it is compared with is the stack in this benchmark's own loop with decisions off. So the ratio holds everything that
//! a recorded run does more: decisions, samples, capture, the second parser, the check of every byte against the pattern,
//! what is captured of every frame, and the figures for the report; behind the first 150 000 events thinned as any run is.
//! There is no such loop without a recording to compare with. The whole run counts, handshake and the last flush included.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use anyhow::Result;
use rightedge_stack::time::Duration as Span;

use super::meter::Round;
use super::{TCP_RMEM, kernel_side, sender};
use crate::bench::measure::cpu_time;
use crate::record::{Options, RunDir, WireInfo};
use crate::run::{RunSpec, SenderKind, engine::Engine, wire::tap::TapWire};
use crate::scenario::{Clock, Scenario, SysctlValue, units};

/// As `rightedge run` has it: most bytes of captured frames, and of decisions.
const RECORD_LIMIT: u64 = 1 << 30;

/// Bytes kept of each frame where not all are: every header, as those who capture at such rates have it.
pub(super) const SNAPLEN: u32 = 256;

const SCENARIO: &str = r#"
name = "bench-wire"
about = "An eager reader behind a large window"
policies = ["linux-6.18"]
receiver = { role = "server", read = { pattern = "flat_out", size = "16MiB" }, options = { window_clamp = "4MiB" } }
sender = { write = "64KiB", congestion = "cubic", timestamps = false, end = "keep" }
limits = { time = "1s" }
"#;

/// One round of `length`, with at most `snaplen` bytes of each frame in the capture. The thread must be in a namespace of its own.
///
/// # Errors
/// The device, the sender or the directory failed.
pub(super) fn round(offload: bool, length: Duration, snaplen: Option<u32>) -> Result<Round> {
    let mut scenario = Scenario::parse("bench-wire", SCENARIO)?;
    let nanos = u64::try_from(length.as_nanos()).unwrap_or(u64::MAX);
    scenario.limits.time = Some(units::Span(Span::from_nanos(nanos)));
    scenario.receiver.sysctls.insert("tcp_rmem".to_owned(), SysctlValue::Text(TCP_RMEM.to_owned()));
    scenario.receiver.driver.model = if offload { "tap-vnet" } else { "tap" }.to_owned();
    let spec = RunSpec::new(&scenario, "linux-6.18", &[], SenderKind::Kernel, Clock::Real, offload)?;
    let folder = tempfile::tempdir()?;
    let options = Options {
        decision_limit: Some(RECORD_LIMIT),
        wire_limit: Some(RECORD_LIMIT),
        snaplen,
        wire: WireInfo { description: "receive stack, policy linux-6.18".to_owned(), ..WireInfo::default() },
        ..Options::default()
    };
    let dir = RunDir::create(&folder.path().join("run"), options)?;
    let wire = TapWire::open(&kernel_side(), sender(), String::new(), offload)?;
    let mut engine = Engine::new(&spec, wire, dir, Arc::new(AtomicBool::new(false)))?;
    let (begun, cpu) = (Instant::now(), cpu_time());
    engine.run()?;
    let (seconds, cpu) = (begun.elapsed().as_secs_f64(), cpu_time().saturating_sub(cpu));
    let bytes = engine.endings().iter().map(|c| c.read).sum();
    Ok(Round { seconds, bytes, cpu })
}
