//! What can be typed: `rightedge bench`.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use clap::{Args, Subcommand, ValueEnum};
use rightedge_benches::queue::{Shape, Which};
use rightedge_stack::nic::Driver;
use rightedge_stack::profile::Profile;
use rightedge_tapctl::tap::IoMode;

use super::measure::{Effort, Measured, Unit};
use super::report::{KernelPoint, Report};
use super::{collapse, instructions, kernel, scale, segment};
use crate::commands::{CHECK_FAILED, DONE, INTERRUPTED, print_json, stop_flag};
use crate::run::{RunSpec, SenderKind, free_directory, run_one};
use crate::scenario::{Clock, Scenario, units::Span};

/// Arguments of `rightedge bench`.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct BenchArgs {
    /// Another thing to do than to measure.
    #[command(subcommand)]
    pub command: Option<BenchCommand>,
    /// What to measure.
    #[command(flatten)]
    pub measure: MeasureArgs,
}

/// The commands of `rightedge bench`.
#[derive(Debug, Subcommand)]
pub enum BenchCommand {
    /// Compare two results, figure by figure
    Compare {
        /// The earlier: its directory, or its bench.json
        before: PathBuf,
        /// The later
        after: PathBuf,
    },
    /// Does the work of a path, for a counter of instructions
    #[command(hide = true)]
    Path {
        /// Which
        path: String,
    },
    /// Says how much resident memory so many idle connections take, bytes each
    #[command(hide = true)]
    Idle {
        /// How many
        connections: u32,
    },
}

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum What {
    /// The path of one segment, beside smoltcp's
    Segment,
    /// Collapses against the size of the queue, beside a plain copy and the live kernel's
    Collapse,
    /// Collapse policies on the same arrivals
    Policies,
    /// Many connections, idle memory, an attack
    Scale,
    /// Half an hour of a slow reader in virtual time
    Virtual,
    /// Instructions per segment, counted by valgrind
    Instructions,
    /// From a kernel's sender over TAP to the application, beside a sink, smoltcp and the kernel itself
    Wire,
}

/// Arguments of a measurement.
#[derive(Debug, Args)]
pub struct MeasureArgs {
    /// What to measure; everything unless said
    #[arg(value_enum)]
    pub what: Vec<What>,
    /// Rounds that count; cases take turns within each
    #[arg(long, default_value_t = 15, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub rounds: u32,
    /// Rounds before the first that counts
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(0..=1_000))]
    pub warm_up: u32,
    /// The largest queue that is collapsed, MiB charged
    #[arg(long, default_value_t = 64, value_name = "MIB", value_parser = clap::value_parser!(u32).range(1..=512))]
    pub largest: u32,
    /// Of segments and instructions only these groups, as in in-order-1448 or holes
    #[arg(long = "group", value_name = "NAME", value_parser = segment::GROUPS)]
    pub groups: Vec<String>,
    /// The most connections
    #[arg(long, default_value_t = 100_000, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=500_000))]
    pub connections: u32,
    /// Seconds of each round over the wire
    #[arg(long, default_value_t = 1.0, value_name = "S", value_parser = seconds)]
    pub seconds: f64,
    /// Who receives over the wire; everybody unless said
    #[arg(long = "receiver", value_enum, value_name = "NAME")]
    pub receivers: Vec<super::wire::Receiver>,
    /// Directory for the results; the first free runs/bench-N unless said
    #[arg(long, short = 'o', value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Fail if a target is missed
    #[arg(long)]
    pub strict: bool,
    /// Print the results for programs, and nothing else on standard output
    #[arg(long)]
    pub json: bool,
}

/// Between a tenth of a second and a minute.
fn seconds(text: &str) -> std::result::Result<f64, String> {
    let s: f64 = text.parse().map_err(|_| format!("'{text}' is no number of seconds; try 1.0"))?;
    if (0.1..=60.0).contains(&s) { Ok(s) } else { Err(format!("{s} s: between 0.1 and 60")) }
}

/// Does what was typed.
///
/// # Errors
/// What cannot be done, and why.
pub fn main(args: &BenchArgs) -> Result<u8> {
    match &args.command {
        None => measure(&args.measure),
        Some(BenchCommand::Compare { before, after }) => {
            let (before, after) = (Report::read(before)?, Report::read(after)?);
            write!(anstream::stdout().lock(), "{}", before.compare(&after))?;
            Ok(DONE)
        }
        Some(BenchCommand::Idle { connections }) => {
            let bytes = scale::idle((*connections).clamp(1, 500_000)).context("no /proc/self/statm")?;
            writeln!(anstream::stdout().lock(), "{bytes:.0}")?;
            Ok(DONE)
        }
        Some(BenchCommand::Path { path }) => {
            writeln!(anstream::stdout().lock(), "{}", instructions::work(path)?)?;
            Ok(DONE)
        }
    }
}

fn measure(args: &MeasureArgs) -> Result<u8> {
    let out = match &args.out {
        Some(dir) => dir.clone(),
        None => free_directory("bench")?,
    };
    std::fs::create_dir_all(&out).with_context(|| format!("cannot make {}", out.display()))?;
    let all = [
        What::Segment,
        What::Instructions,
        What::Collapse,
        What::Policies,
        What::Scale,
        What::Virtual,
        What::Wire,
    ];
    let wanted: Vec<What> = if args.what.is_empty() { all.to_vec() } else { args.what.clone() };
    let effort = Effort { warm_up: args.warm_up, rounds: args.rounds };
    let stop = stop_flag()?;
    let bar =
        if args.json { indicatif::ProgressBar::hidden() } else { indicatif::ProgressBar::new_spinner() };
    if let Ok(style) =
        indicatif::ProgressStyle::with_template("{elapsed_precise} {spinner} {pos} rounds  {wide_msg}")
    {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(200));
    let mut each = |what: &str| {
        bar.inc(1);
        bar.set_message(what.to_owned());
    };
    let mut report = Report::new(effort);
    for what in wanted {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        one(what, args, effort, &stop, &mut report, &mut each)?;
        // What is there is kept, whatever happens to the rest.
        report.write(&out)?;
    }
    bar.finish_and_clear();
    report.complete = !stop.load(Ordering::Relaxed);
    report.judge();
    report.write(&out)?;
    let text = report.text();
    std::fs::write(out.join("bench.txt"), &text).with_context(|| out.display().to_string())?;
    charts(&report, &out)?;
    if args.json {
        print_json(&report)?;
    } else {
        let mut o = anstream::stdout().lock();
        writeln!(o, "{text}\n{}", out.display())?;
    }
    if !report.complete {
        return Ok(INTERRUPTED);
    }
    let missed = report.targets.iter().any(|t| !t.met());
    Ok(if args.strict && missed { CHECK_FAILED } else { DONE })
}

fn one(
    what: What,
    args: &MeasureArgs,
    effort: Effort,
    stop: &AtomicBool,
    report: &mut Report,
    each: &mut dyn FnMut(&str),
) -> Result<()> {
    match what {
        What::Segment => {
            for group in segment::GROUPS.into_iter().filter(|g| wanted(args, g)) {
                let effort = if group.starts_with("holes") { fewer(effort) } else { effort };
                report.measured.extend(segment::measure(group, effort, each));
            }
        }
        What::Collapse => {
            report.collapse = collapse::by_size(fewer(effort), args.largest << 20, stop, each);
            report.kernel = beside_the_kernel(fewer(effort), each)?;
        }
        What::Policies => {
            report.policies = collapse::policies(fewer(effort), 16 << 20, each)?;
        }
        What::Scale => {
            report.measured.extend(scale::connections(fewer(effort), args.connections, each));
            report.measured.extend(segment::pressure(effort, each));
            report.measured.extend(scale::attack(fewer(effort), each));
            report.measured.extend(scale::idle_memory(args.connections));
        }
        What::Instructions => match instructions::count(&|group| wanted(args, group), each) {
            Ok(counted) => report.measured.extend(counted),
            Err(e) => anstream::eprintln!("note: without instructions: {e:#}"),
        },
        What::Wire => {
            let everybody = super::wire::Receiver::ALL.as_slice();
            let who = if args.receivers.is_empty() { everybody } else { &args.receivers };
            match super::wire::run(who, fewer(effort), args.seconds, stop, each) {
                Ok(measured) => report.measured.extend(measured),
                Err(e) => anstream::eprintln!("note: without the wire: {e:#}"),
            }
        }
        What::Virtual => report.measured.push(in_virtual_time(each)?),
    }
    Ok(())
}

/// Is this group of segments asked for?
fn wanted(args: &MeasureArgs, group: &str) -> bool {
    args.groups.is_empty() || args.groups.iter().any(|g| g == group)
}

/// What takes long for every round gets a third of them.
fn fewer(effort: Effort) -> Effort {
    Effort { warm_up: effort.warm_up.min(1), rounds: effort.rounds.div_ceil(3) }
}

/// The live kernel's collapse and ours of the same queue, in turn.
fn beside_the_kernel(effort: Effort, each: &mut dyn FnMut(&str)) -> Result<Vec<KernelPoint>> {
    let needs = [rightedge_tapctl::rights::Need::TunNode, rightedge_tapctl::rights::Need::Tap];
    for need in needs {
        let right = need.probe();
        if !right.ok {
            anstream::eprintln!("note: without the live kernel's collapse: {}", right.detail);
            return Ok(Vec::new());
        }
    }
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let Some(name) = crate::oracle::replay::profile_for(&release) else {
        anstream::eprintln!("note: without the live kernel's collapse: no profile stands for {release}");
        return Ok(Vec::new());
    };
    let profile = Profile::parse(name)?;
    let mut points = Vec::new();
    for (segment, charged) in [(100u32, 256u32 << 10), (100, 4 << 20), (536, 4 << 20), (1448, 4 << 20)] {
        let empty = |case: &str| Measured {
            group: "collapse/kernel".to_owned(),
            case: case.to_owned(),
            unit: Unit::Nanoseconds,
            per: "call".to_owned(),
            rounds: Vec::new(),
        };
        let (mut theirs, mut ours) = (empty("kernel"), empty("rightedge"));
        let mut payload = 0;
        let shape = Shape {
            profile: profile.clone(),
            driver: Driver::TapAlloc,
            charged,
            segment,
            which: Which::InOrder,
            partly_read: false,
        };
        for round in 0..effort.warm_up + effort.rounds {
            each("collapse/kernel");
            let Some(k) = kernel::collapse(charged, segment, IoMode::Blocking)? else { break };
            let mine = collapse::once(&shape);
            if round >= effort.warm_up {
                payload = k.payload;
                theirs.rounds.push(k.nanoseconds);
                ours.rounds.push(mine);
            }
        }
        if !theirs.rounds.is_empty() {
            let what = format!("{segment} B, {}, in order", Driver::TapAlloc.name());
            points.push(KernelPoint { what, charged, payload, kernel: theirs, ours });
        }
    }
    Ok(points)
}

/// A reader of a byte a millisecond for 2100 s under a maximum of 8 MiB, in virtual time, recorded as any run is.
fn in_virtual_time(each: &mut dyn FnMut(&str)) -> Result<Measured> {
    each("virtual");
    let scenario = Scenario::load("unbounded-wscale13")?;
    let settings = [("net.ipv4.tcp_rmem".to_owned(), "4096 131072 8388608".to_owned())];
    let mut spec = RunSpec::new(&scenario, "linux-6.1", &settings, SenderKind::Model, Clock::Virtual, false)?;
    spec.scenario.limits.time = Some(Span(rightedge_stack::time::Duration::from_secs(2100)));
    let dir = tempfile::tempdir().context("no directory for a run")?;
    let begun = std::time::Instant::now();
    let report = run_one(&spec, dir.path(), false, &Arc::new(AtomicBool::new(false)))?;
    let seconds = begun.elapsed().as_secs_f64();
    if !report.intact {
        bail!("the run in virtual time was damaged: {}", report.text());
    }
    Ok(Measured {
        group: "virtual".to_owned(),
        case: "2100 s".to_owned(),
        unit: Unit::Nanoseconds,
        per: "run".to_owned(),
        rounds: vec![seconds * 1e9],
    })
}

#[cfg(feature = "charts")]
fn charts(report: &Report, out: &Path) -> Result<()> {
    if report.collapse.is_empty() {
        return Ok(());
    }
    let svg = super::chart::collapse(report)?;
    let put = |name: &str, bytes: &[u8]| {
        let path = out.join(name);
        std::fs::write(&path, bytes).with_context(|| format!("cannot write {}", path.display()))
    };
    put("collapse.svg", svg.as_bytes())?;
    put("collapse.png", &crate::chart::png(&svg, 1.0)?)
}

#[cfg(not(feature = "charts"))]
fn charts(_: &Report, _: &Path) -> Result<()> {
    Ok(())
}
