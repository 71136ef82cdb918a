//! Whole-run tests of Rightedge: what they share.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a helper that fails fails its test")]

pub mod hostile;
pub mod library;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use rightedge::record::{Direction, WireReader, load_json, names};
use rightedge::run::{RunSpec, SenderKind, report::RunReport, run_one};
use rightedge::scenario::{Clock, Outcome, Scenario, units::Span};
use rightedge_stack::time::Duration;

/// A directory that goes away with the value. `place` is the target directory's `tmp`: runs can be too large for a
/// `/tmp` in memory.
#[must_use]
pub fn scratch(place: &str) -> tempfile::TempDir {
    tempfile::Builder::new().prefix("run-").tempdir_in(place).unwrap()
}

/// A built-in scenario.
#[must_use]
pub fn built_in(name: &str) -> Scenario {
    Scenario::load(name).unwrap()
}

/// A scenario of our own: `total` bytes as fast as they go, an eager reader, and a FIN behind the last byte.
///
/// `role` is the receiver's; `more` is appended to the sender's table.
#[must_use]
pub fn transfer(role: &str, total: &str, more: &str) -> String {
    format!(
        r#"
name = "transfer"
about = "Some bytes, an eager reader, an orderly end"
policies = ["linux-6.1"]

[receiver]
role = "{role}"
read = {{ pattern = "flat_out", size = "64KiB" }}

[limits]
time = "60s"

[sender]
write = "16KiB"
total = "{total}"
end = "close"
{more}
"#
    )
}

/// What is to be run: the policy of the receiver, the sender, and for how long at most.
#[derive(Clone, Copy)]
pub struct How<'a> {
    /// The policy.
    pub policy: &'a str,
    /// Who sends.
    pub sender: SenderKind,
    /// A shorter limit of time, seconds.
    pub seconds: Option<u64>,
    /// A TAP device with offload.
    pub offload: bool,
    /// The stack's seed.
    pub seed: u64,
}

impl<'a> How<'a> {
    /// The model sender in virtual time.
    #[must_use]
    pub fn model(policy: &'a str) -> Self {
        How { policy, sender: SenderKind::Model, seconds: None, offload: false, seed: 1 }
    }

    /// This machine's kernel.
    #[must_use]
    pub fn kernel(policy: &'a str) -> Self {
        How { sender: SenderKind::Kernel, ..How::model(policy) }
    }

    /// With a limit of time.
    #[must_use]
    pub fn seconds(self, seconds: u64) -> Self {
        How { seconds: Some(seconds), ..self }
    }

    /// Every choice made.
    #[must_use]
    pub fn spec(self, scenario: &Scenario) -> RunSpec {
        let clock = if self.sender == SenderKind::Model { Clock::Virtual } else { Clock::Real };
        let mut spec = RunSpec::new(scenario, self.policy, &[], self.sender, clock, self.offload).unwrap();
        if let Some(s) = self.seconds {
            spec.scenario.limits.time = Some(Span(Duration::from_secs(s)));
        }
        spec.seed = self.seed;
        spec
    }

    /// Runs it, recorded in `dir`.
    #[must_use]
    pub fn run(self, scenario: &Scenario, dir: &Path) -> RunReport {
        run_one(&self.spec(scenario), dir, false, &Arc::new(AtomicBool::new(false))).unwrap()
    }
}

/// Fails with the whole report if a byte, the observer or a rule of the scenario objects.
pub fn assert_ok(report: &RunReport) {
    assert!(report.ok(), "{}", report.text());
    assert!(report.findings.is_empty(), "{}", report.text());
    let unmet =
        report.judged.iter().filter(|j| matches!(j.outcome, Outcome::Missed | Outcome::Absent)).count();
    assert_eq!(unmet, 0, "{}", report.text());
}

/// A figure of the only connection that the observer saw.
#[must_use]
pub fn observed(dir: &Path, figure: &str) -> u64 {
    let all = load_json(dir, names::OBSERVER).unwrap();
    let connections = all["verdict"]["connections"].as_array().unwrap();
    assert_eq!(connections.len(), 1);
    connections[0][figure].as_u64().unwrap_or_else(|| panic!("no number {figure} in {}", connections[0]))
}

/// Frames of a capture by direction, and whether it ends in the middle of a block.
#[must_use]
pub fn frames(dir: &Path) -> (u64, u64, bool) {
    let mut r = WireReader::open(&dir.join(names::WIRE)).unwrap();
    let (mut arrived, mut departed) = (0, 0);
    while let Some(f) = r.next_frame().unwrap() {
        match f.direction {
            Some(Direction::In) => arrived += 1,
            Some(Direction::Out) => departed += 1,
            None => panic!("packet {} went nowhere", f.packet),
        }
    }
    (arrived, departed, r.cut_short())
}
