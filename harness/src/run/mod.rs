//! Runs: a scenario under one policy or several, on a real kernel sender or the model, recorded and judged.

pub mod engine;
pub mod report;
pub mod tally;
pub mod wire;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anyhow::{Context as _, Result, bail};
use rightedge_stack::{
    ListenOptions, Route, SocketOption, StackConfig, nic::Driver, profile::Profile, sysctl::Sysctls,
    time::Instant,
};
use rightedge_tapctl::netns;

use self::engine::Engine;
use self::report::RunReport;
use self::wire::{ModelWire, STACK_IP, STACK_MAC, Wire, tap::TapWire};
use crate::record::{self, RunDir, Status, WireInfo};
use crate::scenario::{Clock, DriverSpec, Scenario, SysctlValue};

/// Who sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum SenderKind {
    /// This machine's kernel, over a TAP device in a private namespace.
    Kernel,
    /// The embedded model sender.
    Model,
}

/// One run, every choice made.
#[derive(Clone, Debug, serde::Serialize)]
pub struct RunSpec {
    /// The scenario with the values that hold under `clock`.
    pub scenario: Scenario,
    /// The policy as it was asked for.
    pub policy: String,
    /// The profile it stands for.
    pub profile: Profile,
    /// Sysctls from the command line, after the scenario's.
    pub sysctls: Vec<(String, String)>,
    /// Who sends.
    pub sender: SenderKind,
    /// Which clock.
    pub clock: Clock,
    /// TAP with virtio headers and segmentation offload.
    pub offload: bool,
    /// Seed of the stack's initial sequence numbers.
    pub seed: u64,
    /// Most bytes of each frame that the capture holds; all of them unless said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub snaplen: Option<u32>,
}

impl RunSpec {
    /// A run of `scenario` under `policy`. Everything that can be wrong is found here, before anything is started.
    ///
    /// # Errors
    /// Names the policy, switch, sysctl or driver that is wrong, and what would be right.
    pub fn new(
        scenario: &Scenario,
        policy: &str,
        sysctls: &[(String, String)],
        sender: SenderKind,
        clock: Clock,
        offload: bool,
    ) -> Result<Self> {
        let profile = Profile::parse(policy)?;
        let spec = RunSpec {
            scenario: scenario.for_clock(clock),
            policy: policy.to_owned(),
            profile,
            sysctls: sysctls.to_vec(),
            sender,
            clock,
            offload,
            seed: 1,
            snaplen: None,
        };
        spec.stack_config()?.check()?;
        spec.listen_options()?;
        Ok(spec)
    }

    /// The stack that the run needs.
    ///
    /// # Errors
    /// Names the sysctl or driver that is wrong.
    pub fn stack_config(&self) -> Result<StackConfig> {
        let r = &self.scenario.receiver;
        let mut c = receiver_config(&self.profile, &r.sysctls, &r.driver)?;
        for (name, value) in &self.sysctls {
            c.sysctls.set(&self.profile, name, value)?;
        }
        c.mtu = self.scenario.route.mtu.unwrap_or(1500);
        let route = &self.scenario.route;
        c.route = Route {
            initrwnd: route.initrwnd.unwrap_or(0),
            quickack: route.quickack,
            advmss: u32::from(route.advmss.unwrap_or(0)),
            ..Route::default()
        };
        c.seed = self.seed;
        Ok(c)
    }

    /// The receiving socket's options.
    ///
    /// # Errors
    /// Names the option that is wrong.
    pub fn listen_options(&self) -> Result<ListenOptions> {
        let r = &self.scenario.receiver;
        let mut o = ListenOptions::default();
        if let Some(v) = r.so_rcvbuf {
            o.set(SocketOption::RcvBuf(i32::try_from(v.0).unwrap_or(i32::MAX)))?;
        }
        if let Some(v) = r.options.rcvlowat {
            o.set(SocketOption::RcvLowat(i32::try_from(v.0).unwrap_or(i32::MAX)))?;
        }
        if let Some(v) = r.options.window_clamp {
            o.set(SocketOption::WindowClamp(v.as_u32()))?;
        }
        if let Some(v) = r.options.maxseg {
            o.set(SocketOption::MaxSeg(v))?;
        }
        if let Some(v) = r.options.nodelay {
            o.set(SocketOption::NoDelay(v))?;
        }
        Ok(o)
    }
}

/// A stack at the usual address, with a profile, sysctls and a driver model.
///
/// # Errors
/// Names the sysctl or driver that is wrong.
pub fn receiver_config(
    profile: &Profile,
    sysctls: &BTreeMap<String, SysctlValue>,
    driver: &DriverSpec,
) -> Result<StackConfig> {
    let mut c = StackConfig::ethernet(profile.clone(), STACK_MAC, STACK_IP.into(), 24);
    c.sysctls = Sysctls::defaults(profile, memory_bytes());
    for (name, value) in sysctls {
        c.sysctls.set(profile, name, &value.to_string())?;
    }
    c.driver = Driver::named(&driver.model).with_context(|| {
        let known: Vec<_> = Driver::ALL.iter().map(|(_, n, _)| *n).collect();
        format!("unknown driver model '{}'; known models are {}", driver.model, known.join(", "))
    })?;
    c.truesize = driver.truesize.map(|s| s.as_u32());
    c.truesize_extra = driver.extra.map_or(0, |s| s.as_u32());
    Ok(c)
}

/// The machine whose memory the sysctl defaults are computed from: a fixed one, so that runs repeat elsewhere.
fn memory_bytes() -> u64 {
    16 << 30
}

/// Runs one spec and records it in `path`.
///
/// # Errors
/// The directory cannot be written, a device cannot be made, or the run failed; what was recorded stays readable.
pub fn run_one(spec: &RunSpec, path: &Path, force: bool, stop: &Arc<AtomicBool>) -> Result<RunReport> {
    let epoch_ns = match spec.clock {
        Clock::Virtual => 0,
        Clock::Real => std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .map_or(0, |d| u64::try_from(d.as_nanos()).unwrap_or(0)),
    };
    let options = record::Options {
        force,
        decision_limit: Some(RECORD_LIMIT),
        wire_limit: Some(RECORD_LIMIT),
        snaplen: spec.snaplen,
        wire: WireInfo {
            description: format!("receive stack, policy {}", spec.policy),
            epoch_ns,
            ..WireInfo::default()
        },
        ..record::Options::default()
    };
    let dir = RunDir::create(path, options)?;
    dir.write_plan(&serde_json::json!({ "version": env!("CARGO_PKG_VERSION"), "plan": spec }))?;
    match spec.sender {
        SenderKind::Model => drive(spec, ModelWire::of(&spec.scenario, spec.clock), dir, stop),
        SenderKind::Kernel => {
            // The namespace ends with the thread, and the device with it, whatever ends the process.
            let result = netns::run_in_new_netns(|| {
                let wire = TapWire::new(&spec.scenario, spec.offload)?;
                drive(spec, wire, dir, stop)
            });
            result.context("cannot make a private network namespace")?
        }
    }
}

/// Most bytes of captured frames, and of decisions, that one run leaves.
const RECORD_LIMIT: u64 = 1 << 30;

fn drive<W: Wire>(spec: &RunSpec, wire: W, dir: RunDir, stop: &Arc<AtomicBool>) -> Result<RunReport> {
    let started = std::time::Instant::now();
    let mut engine = Engine::new(spec, wire, dir, Arc::clone(stop))?;
    let end = engine.run()?;
    let now = engine.wire.now();
    let sender = engine.wire.sender();
    let connections = engine.endings();
    engine.wire.stop(now.min(Instant::from_nanos(u64::MAX >> 1)));
    let report = report::conclude(spec, &mut engine, end, &sender, connections, now, started.elapsed());
    let Engine { dir, .. } = engine;
    report.write(spec, dir)
}

/// Where a run goes if nobody says: the first free `runs/NAME-N`.
///
/// # Errors
/// There are more than ten thousand already.
pub fn free_directory(name: &str) -> Result<PathBuf> {
    for n in 1..10_000 {
        let path = PathBuf::from("runs").join(format!("{name}-{n}"));
        if !path.exists() {
            return Ok(path);
        }
    }
    bail!("runs/{name}-1 to -9999 all exist; remove some, or give a directory with --out")
}

/// A policy as a directory name.
#[must_use]
pub fn slug(policy: &str) -> String {
    policy.chars().map(|c| if c.is_ascii_alphanumeric() || ".-=_".contains(c) { c } else { '_' }).collect()
}

/// The status that a run directory gets.
#[must_use]
pub fn status(end: engine::EndReason) -> Status {
    if end == engine::EndReason::Interrupted { Status::Interrupted } else { Status::Complete }
}
