//! Plays scripts to the kernel we run on and writes down what it does.
//!
//! Everything happens on one fresh thread in a network namespace of its own: devices, sockets, sysctls and counters belong
//! to nobody else. `write(2)` on a TAP runs the kernel's receive path before it returns, so after each operation the
//! answers are there to be read.
//!
//! | module | one line |
//! |---|---|
//! | `clock` | trace time: whole ticks are jiffies |
//! | `device` | TAP and TUN devices, addresses, routes |
//! | `pins` | sysctls |
//! | `play` | one script on one connection |
//! | `cursor` | where the peer's next segment goes |
//! | `watch` | what the kernel tells about the socket |
//! | `ladder` | constants of the build, measured |

mod clock;
mod cursor;
mod device;
mod ladder;
mod pins;
mod play;
mod watch;

use std::collections::BTreeMap;
use std::error::Error;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};

use rightedge_tapctl::link::LinkError;
use rightedge_tapctl::netns::{NetnsError, run_in_new_netns};
use rightedge_tapctl::observe::ObserveError;
use rightedge_tapctl::process;
use rightedge_tapctl::sysctl::{self, SysctlError};
use rightedge_tapctl::tap::TapError;

use super::facts::BuildFacts;
use super::recorder::Options;
use super::script::Script;
use super::trace::Trace;

use clock::Clock;
use device::Devices;
use pins::Pins;
use play::{Fail, Play};

/// Priority among real-time threads: below what keeps the machine alive.
const PRIORITY: u8 = 40;

/// Why a script was not recorded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecordError {
    /// No namespace.
    #[error(transparent)]
    Netns(#[from] NetnsError),
    /// No device.
    #[error(transparent)]
    Tap(#[from] TapError),
    /// Addresses, routes.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// A sysctl without which nothing works.
    #[error(transparent)]
    Sysctl(#[from] SysctlError),
    /// The socket or its counters could not be looked at.
    #[error(transparent)]
    Observe(#[from] ObserveError),
    /// Something in the script that this kernel, or these rights, do not allow.
    #[error(
        "script {script}: this kernel does not take {what} ({source}); leave it out, or record on another kernel"
    )]
    CannotTake {
        /// Name of the script.
        script: String,
        /// The key and its value.
        what: String,
        /// What the kernel said.
        source: Box<dyn Error + Send + Sync>,
    },
    /// The connection did not open.
    #[error("script {script}: no connection: {why}; check handshake, listener and sysctl")]
    NoConnection {
        /// Name of the script.
        script: String,
        /// What did not come.
        why: String,
    },
    /// Every try slipped.
    #[error(
        "script {script}: {slips} operations past their tick in the best of {tries} tries; record on a quieter machine, with real-time rights, or give the operations a wider gap"
    )]
    Slips {
        /// Name of the script.
        script: String,
        /// How often it was played.
        tries: u32,
        /// Slips of the best try.
        slips: u64,
    },
    /// Anything else.
    #[error("{what}: {source}; `tapctl doctor` shows what this machine allows")]
    Io {
        /// What was done.
        what: String,
        /// What the kernel said.
        source: io::Error,
    },
}

impl RecordError {
    fn cannot(what: String, source: impl Error + Send + Sync + 'static) -> Self {
        RecordError::CannotTake { script: String::new(), what, source: Box::new(source) }
    }

    fn io(what: &str) -> impl Fn(io::Error) -> Self {
        let what = what.to_owned();
        move |source| RecordError::Io { what: what.clone(), source }
    }

    /// The same, about this script.
    fn of(mut self, name: &str) -> Self {
        if let RecordError::CannotTake { script, .. } = &mut self {
            name.clone_into(script);
        }
        self
    }
}

/// Everything that lasts longer than one script.
struct Bench {
    clock: Clock,
    devices: Devices,
    pins: Pins,
    limits: BTreeMap<String, String>,
    facts: BuildFacts,
    release: String,
    /// Source port of the next connection: no two in a row share one.
    port: u16,
    fifo: bool,
    /// How long segments with their answers took when the ladder was measured, nanoseconds.
    took: Vec<i64>,
    /// The pattern and then some of it again, so that any stretch of payload is a slice of it.
    pattern: Vec<u8>,
    buf: Vec<u8>,
}

/// Plays every script in turn and hands over its trace, or why there is none.
///
/// The scripts run in a new network namespace, on one thread, which takes real-time priority if it may. A script with
/// operations that slipped past their ticks is played again, up to `options.tries` times. Ends early, without a word, when
/// `options.stop` is set.
///
/// # Errors
/// What keeps all scripts from being recorded; [`rightedge_tapctl::rights::is_missing_right`] tells missing rights apart.
pub fn record_batch(
    scripts: &[Script],
    options: &Options,
    each: &mut (dyn FnMut(usize, Result<Trace, RecordError>) + Send),
) -> Result<(), RecordError> {
    // Some exist in the first namespace only.
    let outside = limits();
    run_in_new_netns(|| {
        let mut limits = limits();
        limits.extend(outside);
        let mut bench = Bench::new(limits, options)?;
        for (i, script) in scripts.iter().enumerate() {
            match bench.record(script, options) {
                Some(result) => each(i, result),
                None => break,
            }
        }
        Ok(())
    })?
}

/// What holds for the whole machine.
fn limits() -> BTreeMap<String, String> {
    ["net.core.rmem_max", "net.core.wmem_max", "net.ipv4.tcp_mem"]
        .into_iter()
        .filter_map(|name| Some((name.to_owned(), sysctl::read(name).ok()?)))
        .collect()
}

/// Ahead of everything else, and on one CPU: a timer then runs where its tick is counted, or always beside it.
fn take_cpu() -> bool {
    static RECORDERS: AtomicUsize = AtomicUsize::new(0);
    let fifo = process::schedule_fifo(PRIORITY).is_ok();
    if let Ok(allowed) = rustix::thread::sched_getaffinity(None) {
        let cpus: Vec<usize> =
            (0..rustix::thread::CpuSet::MAX_CPU).filter(|&cpu| allowed.is_set(cpu)).collect();
        // Recorders beside each other take turns. Without priority the scheduler knows better.
        let turn = RECORDERS.fetch_add(1, Ordering::Relaxed);
        if let Some(&cpu) = turn.checked_rem(cpus.len()).and_then(|i| cpus.get(i)).filter(|_| fifo) {
            let mut one = rustix::thread::CpuSet::new();
            one.set(cpu);
            // It only helps.
            let _ = rustix::thread::sched_setaffinity(None, &one);
        }
    }
    fifo
}

impl Bench {
    fn new(limits: BTreeMap<String, String>, options: &Options) -> Result<Self, RecordError> {
        let fifo = take_cpu();
        let release = rustix::system::uname().release().to_string_lossy().into_owned();
        let length = super::payload::PERIOD + super::script::MAX_SEGMENT as usize;
        let mut bench = Bench {
            clock: Clock::detect(),
            devices: Devices::new()?,
            pins: Pins::default(),
            limits,
            facts: match (BuildFacts::detect(), &options.config) {
                (facts, Some((file, text))) if facts == BuildFacts::default() => {
                    BuildFacts::from_config(text, &release, file)
                }
                (facts, _) => facts,
            },
            release: release.clone(),
            // Recorders in namespaces of their own cannot meet, so any beginning will do.
            port: 20_000,
            fifo,
            took: Vec::new(),
            pattern: super::payload::bytes_at(0, length, false),
            buf: vec![0; 4 << 20],
        };
        let clock_hz = bench.clock.hz;
        let measured = ladder::measure(&mut bench);
        bench.facts.measured(clock_hz, &measured);
        bench.took.sort_unstable();
        Ok(bench)
    }

    /// How many segments of a burst go into one tick. Coarse steps, so that recordings on one machine agree.
    fn segments_per_tick(&self) -> i64 {
        segments_per_tick(self.clock.tick, self.took.get(self.took.len() * 3 / 4).copied())
    }

    fn next_port(&mut self) -> u16 {
        self.port = if self.port >= 60_000 { 20_001 } else { self.port + 1 };
        self.port
    }

    /// Plays until nothing slips; `None` if it was stopped.
    fn record(&mut self, script: &Script, options: &Options) -> Option<Result<Trace, RecordError>> {
        let tries = options.tries.max(1);
        let mut least: Option<u64> = None;
        for _ in 0..tries {
            if options.stop.load(Ordering::Relaxed) {
                return None;
            }
            match Play::run(self, script, options) {
                Ok(trace) => return Some(Ok(trace)),
                Err(Fail::Stopped) => return None,
                Err(Fail::Slips(n)) => least = Some(least.map_or(n, |l| l.min(n))),
                Err(Fail::Error(e)) => return Some(Err(e.of(&script.name))),
            }
        }
        let slips = least.unwrap_or(0);
        Some(Err(RecordError::Slips { script: script.name.clone(), tries, slips }))
    }
}

/// For segments that mostly take no longer than this: a power of two that leaves a third of the tick for what is observed after a burst.
fn segments_per_tick(tick: i64, segment_ns: Option<i64>) -> i64 {
    let room = segment_ns.and_then(|ns| (tick / 3 * 2).checked_div(ns)).unwrap_or(16);
    [64, 32, 16, 8].into_iter().find(|n| *n <= room).unwrap_or(4)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slow_kernels_get_fewer_segments_into_a_tick() {
        assert_eq!(segments_per_tick(4_000_000, Some(9_000)), 64);
        assert_eq!(segments_per_tick(1_000_000, Some(9_000)), 64);
        assert_eq!(segments_per_tick(10_000_000, Some(550_000)), 8);
        assert_eq!(segments_per_tick(4_000_000, Some(5_000_000)), 4);
        assert_eq!((segments_per_tick(4_000_000, None), segments_per_tick(4_000_000, Some(0))), (16, 16));
    }

    #[test]
    fn scripts_are_named_in_what_they_cannot_have() {
        let e = RecordError::cannot("mtu 7".to_owned(), io::Error::other("too small")).of("x");
        assert!(e.to_string().starts_with("script x: this kernel does not take mtu 7 (too small)"), "{e}");
        let e = RecordError::cannot("rx_path napi_frags".to_owned(), TapError::NodeMissing);
        assert!(rightedge_tapctl::rights::is_missing_right(&e));
    }
}
