//! What can be typed about recordings and live kernels, and what it does.

use std::collections::BTreeMap;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use std::sync::Arc;
use std::sync::atomic::Ordering;

use anyhow::{Context as _, Result, bail};
use clap::{Args, Subcommand};
use flate2::Compression;
use flate2::write::GzEncoder;

use super::diff;
use super::fuzz::bench::{self, KernelBench, RxPaths};
use super::fuzz::campaign;
use super::fuzz::generate::{self, Space, Target};
use super::recorder::{self, Options};
use super::replay::{self, profile_of};
use super::script::Script;
use super::trace::Trace;
use crate::commands::{CHECK_FAILED, DONE, INTERRUPTED, stop_flag};
use crate::guest::Kernel;

/// The commands of `rightedge oracle`.
#[derive(Debug, Subcommand)]
pub enum OracleCommand {
    /// Say whether a recording and the stack, or two recordings, are equal, and where they first differ
    ///
    /// With one trace: it is replayed on the stack and compared. With two: they are compared with each other. Exit code 0
    /// means equal in every compared field, 1 that something differs.
    Diff(DiffArgs),
    /// Play scripts to a live kernel and write down what its receiver does
    ///
    /// The kernel receives on a TAP device in a namespace of its own; its peer is forged. Exit code 1 means that some script
    /// could not be recorded.
    Record(RecordArgs),
    /// Print the random scripts that a campaign plays, one per line
    Scripts(ScriptsArgs),
    /// Look for scripts that a live kernel and the stack answer differently
    ///
    /// Scripts are random, a function of the seed and their index. Each is recorded, replayed and compared; one that differs
    /// is made as small as it can be and saved with its trace and a report. An interrupted campaign goes on with --resume.
    /// Exit code 1 means that something differs.
    Fuzz(FuzzArgs),
    /// Replay many recordings and say which differ from the stack
    Check(CheckArgs),
}

/// Arguments of `rightedge replay`.
#[derive(Debug, Args)]
pub struct ReplayArgs {
    /// The recording: a trace in JSON Lines (.jsonl, or packed .jsonl.gz)
    pub trace: PathBuf,
    /// Profile to replay under, NAME[,switch=value]…; the one that stands for the recorded kernel unless said
    #[arg(long, short = 'p', value_name = "NAME[,SWITCH=VALUE]…")]
    pub profile: Option<String>,
    /// Write the trace there instead of to standard output
    #[arg(long, short = 'o', value_name = "FILE")]
    pub out: Option<PathBuf>,
}

/// Arguments of `rightedge oracle diff`.
#[derive(Debug, Args)]
pub struct DiffArgs {
    /// The recording
    pub trace: PathBuf,
    /// Another trace of the same script, to compare with instead of a replay
    pub trace2: Option<PathBuf>,
    /// Profile to replay under; the one that stands for the recorded kernel unless said
    #[arg(long, short = 'p', value_name = "NAME[,SWITCH=VALUE]…", conflicts_with = "trace2")]
    pub profile: Option<String>,
    /// For programs: every difference, a line each
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `rightedge oracle record`.
#[derive(Debug, Args)]
pub struct RecordArgs {
    /// Scripts: files with one JSON object, or one per line
    #[arg(required = true)]
    pub scripts: Vec<PathBuf>,
    /// The kernel: host, uml (Debian's user-mode-linux), uml:BINARY or qemu:IMAGE
    #[arg(long, short = 'k', default_value = "host")]
    pub kernel: Kernel,
    /// Directory for the traces, one file per script
    #[arg(long, short = 'o', value_name = "DIR", default_value = "recordings")]
    pub out: PathBuf,
    /// One packed file (.jsonl.gz) for each file of scripts instead
    #[arg(long)]
    pub pack: bool,
    /// Play a script that slipped past its ticks so often
    #[arg(long, value_name = "N", default_value_t = 8)]
    pub tries: u32,
}

/// What random scripts may use.
#[derive(Debug, Args)]
pub struct MayUse {
    /// Ways of opening the device, as in linear,frag,vnet
    #[arg(long, value_name = "LIST", default_value = "linear,frag,tun")]
    pub rx_paths: RxPaths,
    /// Scripts in which the application also sends
    #[arg(long)]
    pub writes: bool,
    /// Scripts with metrics on the route to the peer
    #[arg(long)]
    pub routes: bool,
}

/// Arguments of `rightedge oracle scripts`.
#[derive(Debug, Args)]
pub struct ScriptsArgs {
    /// Seed of the scripts
    #[arg(long, value_name = "S", default_value_t = 1)]
    pub seed: u64,
    /// Index of the first
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub from: u64,
    /// How many
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub count: u64,
    /// Ticks per second of the kernel that they are for
    #[arg(long, value_name = "HZ", default_value_t = 250, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub hz: u32,
    /// For a kernel with tcp_adv_win_scale (6.1) instead of scaling_ratio
    #[arg(long)]
    pub adv_win_scale: bool,
    /// What they may use
    #[command(flatten)]
    pub may: MayUse,
}

/// Arguments of `rightedge oracle fuzz`.
#[derive(Debug, Args)]
pub struct FuzzArgs {
    /// The kernel: host, uml (Debian's user-mode-linux), uml:BINARY or qemu:IMAGE
    #[arg(long, short = 'k', default_value = "host")]
    pub kernel: Kernel,
    /// How many scripts
    #[arg(long, value_name = "N", default_value_t = 100)]
    pub runs: u64,
    /// Seed of the scripts
    #[arg(long, value_name = "S", default_value_t = 1)]
    pub seed: u64,
    /// Directory for the campaign's state and what it finds; fuzz/KERNEL-SEED unless said
    #[arg(long, short = 'o', value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Go on with the campaign in that directory
    #[arg(long)]
    pub resume: bool,
    /// Recorders beside each other, each in its own namespace or guest
    #[arg(long, short = 'j', value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=32))]
    pub jobs: u8,
    /// Scripts handed to a recorder, or a guest, at once
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u16).range(1..=10_000))]
    pub batch: u16,
    /// What they may use
    #[command(flatten)]
    pub may: MayUse,
    /// Profile to replay under; the one that stands for the kernel unless said
    #[arg(long, short = 'p', value_name = "NAME[,SWITCH=VALUE]…")]
    pub profile: Option<String>,
    /// Play a script that slipped past its ticks so often
    #[arg(long, value_name = "N", default_value_t = 5)]
    pub tries: u32,
    /// Without progress on standard error
    #[arg(long, short = 'q')]
    pub quiet: bool,
}

/// Arguments of `rightedge oracle check`.
#[derive(Debug, Args)]
pub struct CheckArgs {
    /// Recordings, or directories of them
    #[arg(required = true)]
    pub traces: Vec<PathBuf>,
    /// Profile to replay under; the one that stands for each recorded kernel unless said
    #[arg(long, short = 'p', value_name = "NAME[,SWITCH=VALUE]…")]
    pub profile: Option<String>,
    /// Show the whole report of each that differs
    #[arg(long)]
    pub long: bool,
}

/// Does what was typed after `rightedge oracle`.
///
/// # Errors
/// What could not be read, recorded or replayed, and what to do about it.
pub fn main(command: &OracleCommand) -> Result<u8> {
    match command {
        OracleCommand::Diff(args) => compare(args),
        OracleCommand::Check(args) => check(args),
        OracleCommand::Record(args) => record(args),
        OracleCommand::Fuzz(args) => fuzz(args),
        OracleCommand::Scripts(args) => scripts(args),
    }
}

/// `rightedge replay`.
///
/// # Errors
/// That the trace cannot be read or asks for what the stack does not have.
pub fn replay(args: &ReplayArgs) -> Result<u8> {
    let mut out: Box<dyn io::Write> = match &args.out {
        Some(path) => {
            let file = std::fs::File::create(path).with_context(|| format!("--out {}", path.display()))?;
            Box::new(io::BufWriter::new(file))
        }
        None => Box::new(io::BufWriter::new(io::stdout().lock())),
    };
    for trace in Trace::load(&args.trace)? {
        let profile = profile_of(&trace, args.profile.as_deref())?;
        replay::replay(&trace, &profile, false)
            .with_context(|| format!("{}: {}", args.trace.display(), trace.name()))?
            .trace
            .write(&mut out)?;
    }
    out.flush()?;
    Ok(DONE)
}

fn compare(args: &DiffArgs) -> Result<u8> {
    let left = Trace::load(&args.trace)?;
    let right = args.trace2.as_deref().map(Trace::load).transpose()?;
    if let Some(right) = &right
        && right.len() != left.len()
    {
        bail!(
            "{} holds {} traces and {} holds {}; compare files with as many",
            args.trace.display(),
            left.len(),
            args.trace2.as_deref().unwrap_or(Path::new("")).display(),
            right.len()
        );
    }
    let mut out = io::stdout().lock();
    let mut code = DONE;
    for (i, a) in left.iter().enumerate() {
        let replayed;
        let (b, decisions) = match right.as_ref().and_then(|r| r.get(i)) {
            Some(b) => (b, Vec::new()),
            None => {
                replayed = replay::replay(a, &profile_of(a, args.profile.as_deref())?, true)?;
                (&replayed.trace, replayed.decisions)
            }
        };
        let all = diff::compare(a, b);
        if !all.is_empty() {
            code = CHECK_FAILED;
        }
        if args.json {
            for d in &all {
                let v = serde_json::json!({
                    "trace": a.name(), "record": d.record, "field": d.field, "left": d.left, "right": d.right,
                });
                writeln!(out, "{v}")?;
            }
        } else {
            write!(out, "{}", diff::report(a, b, &all, &decisions))?;
        }
    }
    Ok(code)
}

fn record(args: &RecordArgs) -> Result<u8> {
    std::fs::create_dir_all(&args.out).with_context(|| format!("--out {}", args.out.display()))?;
    let stop = stop_flag()?;
    let (mut done, mut failed) = (0u64, 0u64);
    for file in &args.scripts {
        let scripts = Script::load(file)?;
        let pack = if args.pack { " --pack" } else { "" };
        let command = format!("rightedge oracle record {} --kernel {}{pack}", file.display(), args.kernel);
        let options = Options {
            tries: args.tries,
            command: Some(command),
            stop: Arc::clone(&stop),
            ..Options::default()
        };
        let stem = file.file_stem().and_then(|s| s.to_str()).unwrap_or("scripts").to_owned();
        let mut traces: Vec<Option<Trace>> = vec![None; scripts.len()];
        let mut trouble: Option<anyhow::Error> = None;
        recorder::record(&args.kernel, &scripts, &options, &mut |i, result| match result {
            Ok(trace) => {
                done += 1;
                if !args.pack
                    && trouble.is_none()
                    && let Err(e) = write_trace(&args.out, &trace)
                {
                    trouble = Some(e);
                    stop.store(true, Ordering::Relaxed);
                }
                if let Some(slot) = traces.get_mut(i) {
                    *slot = Some(trace);
                }
            }
            Err(e) => {
                failed += 1;
                anstream::eprintln!("{}: {e}", file.display());
            }
        })?;
        if let Some(e) = trouble {
            return Err(e);
        }
        if args.pack {
            let path = args.out.join(format!("{stem}.jsonl.gz"));
            let pack = || -> io::Result<()> {
                let mut out = GzEncoder::new(std::fs::File::create(&path)?, Compression::best());
                for t in traces.iter().flatten() {
                    t.write(&mut out)?;
                }
                out.finish().map(|_| ())
            };
            pack().with_context(|| path.display().to_string())?;
        }
        if stop.load(Ordering::Relaxed) {
            break;
        }
    }
    anstream::eprintln!("{done} recorded in {}, {failed} not", args.out.display());
    Ok(if stop.load(Ordering::Relaxed) { INTERRUPTED } else { u8::from(failed > 0) })
}

/// One trace in a file named after its script, complete or not there at all.
fn write_trace(dir: &Path, trace: &Trace) -> Result<()> {
    let name: String = trace
        .name()
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '-' })
        .collect();
    let path = dir.join(format!("{name}.jsonl"));
    let put = || -> io::Result<()> {
        let mut file = tempfile::NamedTempFile::new_in(dir)?;
        trace.write(io::BufWriter::new(&mut file))?;
        file.persist(&path)?;
        Ok(())
    };
    put().with_context(|| path.display().to_string())
}

fn scripts(args: &ScriptsArgs) -> Result<u8> {
    let space = if args.adv_win_scale { Space::AdvWinScale } else { Space::ScalingRatio };
    let may = &args.may;
    let rx_paths = may.rx_paths.0.clone();
    let target = Target { hz: args.hz, space, rx_paths, writes: may.writes, routes: may.routes };
    let mut out = io::BufWriter::new(io::stdout().lock());
    for index in args.from..args.from.saturating_add(args.count) {
        serde_json::to_writer(&mut out, &generate::script(args.seed, index, &target)?.raw)?;
        writeln!(out)?;
    }
    out.flush()?;
    Ok(DONE)
}

fn fuzz(args: &FuzzArgs) -> Result<u8> {
    let stop = stop_flag()?;
    let header = bench::introduce(&args.kernel, &stop)?;
    if args.profile.is_none() && replay::profile_for(&header.kernel).is_none() {
        return Err(replay::ReplayError::NoProfile(header.kernel).into());
    }
    let target = Target {
        writes: args.may.writes,
        routes: args.may.routes,
        ..bench::target(&header, args.may.rx_paths.0.clone())
    };
    let out_dir = args.out.clone().unwrap_or_else(|| {
        let name: String = header.kernel.chars().map(|c| if c == '/' { '-' } else { c }).collect();
        PathBuf::from("fuzz").join(format!("{name}-{}", args.seed))
    });
    let config = campaign::Config {
        kernel: header.kernel.clone(),
        target,
        runs: args.runs,
        seed: args.seed,
        batch: args.batch.into(),
        jobs: args.jobs.into(),
        out_dir: out_dir.clone(),
        resume: args.resume,
        quiet: args.quiet,
    };
    let summary = campaign::run(&config, &stop, &|_| {
        Ok(KernelBench {
            kernel: args.kernel.clone(),
            profile: args.profile.clone(),
            options: Options { tries: args.tries, stop: Arc::clone(&stop), ..Options::default() },
        })
    })?;
    let mut out = io::stdout().lock();
    writeln!(
        out,
        "{}, seed {}: {} scripts equal ({} operations), {} differ, {} not recorded; in {}",
        summary.kernel,
        summary.seed,
        summary.clean,
        summary.operations,
        summary.differs,
        summary.not_recorded,
        out_dir.display()
    )?;
    for k in &summary.kinds {
        writeln!(
            out,
            "  {:5} × {} (first: {:?})",
            k.count,
            k.what,
            k.indexes.iter().take(5).collect::<Vec<_>>()
        )?;
    }
    for (why, n) in &summary.reasons {
        writeln!(out, "  {n:5} not recorded: {why}")?;
    }
    Ok(match (summary.complete, summary.differs) {
        (false, _) => INTERRUPTED,
        (true, 0) => DONE,
        (true, _) => CHECK_FAILED,
    })
}

fn check(args: &CheckArgs) -> Result<u8> {
    let mut files = Vec::new();
    for path in &args.traces {
        gather(path, &mut files)?;
    }
    if files.is_empty() {
        bail!("no recording (*.jsonl, *.jsonl.gz) below {}", args.traces[0].display());
    }
    let mut out = io::stdout().lock();
    let mut kinds: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut kernels: BTreeMap<String, (u64, u64)> = BTreeMap::new();
    let (mut clean, mut total, mut records) = (0u64, 0u64, 0u64);
    for file in &files {
        for trace in Trace::load(file)? {
            let profile = profile_of(&trace, args.profile.as_deref())?;
            total += 1;
            records += trace.records.len() as u64;
            let of = kernels.entry(trace.header.kernel.clone()).or_default();
            of.0 += 1;
            let r = match replay::replay(&trace, &profile, args.long) {
                Ok(r) => r,
                Err(e) => {
                    let at = format!("{} in {}", trace.name(), file.display());
                    kinds.entry(format!("not replayed: {e}")).or_default().push(at);
                    continue;
                }
            };
            let all = diff::compare(&trace, &r.trace);
            let Some(first) = all.first() else {
                clean += 1;
                of.1 += 1;
                continue;
            };
            let at = format!("{} in {}, {first}", trace.name(), file.display());
            kinds.entry(diff::key(&all)).or_default().push(format!("{at} (record {})", first.record));
            if args.long {
                writeln!(out, "{}", diff::report(&trace, &r.trace, &all, &r.decisions))?;
            }
        }
    }
    let mut kinds: Vec<_> = kinds.into_iter().collect();
    kinds.sort_by_key(|(_, v)| std::cmp::Reverse(v.len()));
    for (kind, which) in &kinds {
        writeln!(out, "{:5} × {kind}", which.len())?;
        for w in which.iter().take(3) {
            writeln!(out, "        {w}")?;
        }
    }
    for (kernel, (n, c)) in &kernels {
        writeln!(out, "{kernel}: {c} of {n} equal")?;
    }
    writeln!(out, "{clean} of {total} recordings equal in every compared field, {records} records")?;
    Ok(if clean == total { DONE } else { CHECK_FAILED })
}

fn gather(path: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    if !path.is_dir() {
        files.push(path.to_owned());
        return Ok(());
    }
    let list = std::fs::read_dir(path).with_context(|| format!("cannot list {}", path.display()))?;
    let mut below = list.map(|e| e.map(|e| e.path())).collect::<io::Result<Vec<_>>>()?;
    below.sort();
    for p in below {
        let name = p.file_name().and_then(|n| n.to_str()).unwrap_or_default();
        if p.is_dir() || name.ends_with(".jsonl") || name.ends_with(".jsonl.gz") {
            gather(&p, files)?;
        }
    }
    Ok(())
}
