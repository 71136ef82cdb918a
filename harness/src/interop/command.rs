//! What can be typed: `rightedge interop` and `rightedge peers`.

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use clap::{Args, Subcommand, ValueEnum};

use super::baseline::{Baseline, Comparison};
use super::judge::{Outcome, clauses::Level};
use super::matrix::{self, CellState, Progress, Request};
use super::peer::spec::{Kind, PeerSpec};
use super::peer::{Shop, drivers, inventory};
use super::results::{Results, glyph, names, write_cell};
use super::serve::{self, ServeArgs};
use super::situation::Situation;
use super::trace::Content;
use super::{junit, page, text};
use crate::cli::ClockArg;
use crate::commands::{CHECK_FAILED, DONE, INTERRUPTED, print_json, stop_flag};
use crate::run::free_directory;
use crate::scenario::Clock;

/// Arguments of `rightedge interop`.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct InteropArgs {
    /// Another thing to do than to run the matrix.
    #[command(subcommand)]
    pub command: Option<InteropCommand>,
    /// The matrix.
    #[command(flatten)]
    pub matrix: MatrixArgs,
}

/// The commands of `rightedge interop`.
#[derive(Debug, Subcommand)]
pub enum InteropCommand {
    /// Let any device or machine be the peer: it connects to an address on an interface or a bridge, and sends
    Serve(ServeArgs),
    /// List the situations, a line each
    Situations {
        /// With the whole explanation of each
        #[arg(long)]
        long: bool,
        /// For programs
        #[arg(long)]
        json: bool,
    },
    /// Judge the capture of a cell again
    Judge {
        /// A capture that `rightedge interop` or `rightedge interop serve` left
        capture: PathBuf,
        /// How many bytes the peer was to send, if the cell's file is not beside the capture
        #[arg(long, value_name = "N")]
        bytes: Option<u64>,
        /// The peer sent something else than the pattern of our own peers, if the cell's file is not beside the capture
        #[arg(long)]
        any_content: bool,
        /// For programs
        #[arg(long)]
        json: bool,
    },
    /// Make the page, the JUnit file and the matrix again, out of what a matrix left
    Report {
        /// The directory of the matrix
        dir: PathBuf,
        /// Compare it with this baseline
        #[arg(long, value_name = "FILE")]
        baseline: Option<PathBuf>,
    },
}

/// What makes `rightedge interop` fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum FailOn {
    /// A MUST that is broken.
    Must,
    /// A SHOULD that is broken, too.
    Should,
}

/// Arguments of the matrix.
#[derive(Debug, Args)]
pub struct MatrixArgs {
    /// A peer, as in linux,cc=bbr or qemu:IMAGE or exec:COMMAND; several give several rows; all installed ones, the kernels in
    /// several variants, unless said (see `rightedge peers`)
    #[arg(long, short = 'p', value_name = "PEER[,OPTION[=VALUE]]…")]
    pub peer: Vec<PeerSpec>,
    /// A situation by name, or the path of a file ending in .toml; all built-in ones unless said
    #[arg(long, short = 's', value_name = "NAME|FILE")]
    pub situation: Vec<String>,
    /// The short form: five peers in the situations that tell most
    #[arg(long)]
    pub short: bool,
    /// Directory for the results; the first free runs/interop-N unless said
    #[arg(long, short = 'o', value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Overwrite earlier results in that directory
    #[arg(long)]
    pub force: bool,
    /// Cells beside each other; most of the time a cell waits
    #[arg(long, short = 'j', value_name = "N", default_value_t = 30, value_parser = clap::value_parser!(u16).range(1..=500))]
    pub jobs: u16,
    /// Which clock peers have that can live in virtual time; virtual unless said
    #[arg(long, value_enum)]
    pub clock: Option<ClockArg>,
    /// Seed of the receiver's numbers and of the loss in the situations
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Compare with what was found before; a change makes the command fail
    #[arg(long, value_name = "FILE")]
    pub baseline: Option<PathBuf>,
    /// Write what was found, to be compared with later; cells that were not run stay as they are in it
    #[arg(long, value_name = "FILE")]
    pub write_baseline: Option<PathBuf>,
    /// Add what was found to a baseline: of a cell that comes out now in one way, now in another, both are then as before
    #[arg(long, value_name = "FILE", conflicts_with = "write_baseline")]
    pub widen_baseline: Option<PathBuf>,
    /// Fail if a clause of this level, or a higher one, is broken
    #[arg(long, value_enum, value_name = "LEVEL")]
    pub fail_on: Option<FailOn>,
    /// Print the results for programs, and nothing else on standard output
    #[arg(long)]
    pub json: bool,
}

/// Does what was typed.
///
/// # Errors
/// What cannot be done, and why.
pub fn main(args: &InteropArgs) -> Result<u8> {
    match &args.command {
        None => run(&args.matrix),
        Some(InteropCommand::Serve(args)) => serve::main(args),
        Some(InteropCommand::Situations { long, json }) => situations(*long, *json),
        Some(InteropCommand::Judge { capture, bytes, any_content, json }) => {
            let content = if *any_content { Content::Consistent } else { Content::Pattern };
            judge(capture, *bytes, content, *json)
        }
        Some(InteropCommand::Report { dir, baseline }) => report(dir, baseline.as_deref()),
    }
}

fn run(args: &MatrixArgs) -> Result<u8> {
    let peers = peers(args)?;
    let situations = situations_named(&args.situation, args.short)?;
    // What is to be compared with is read first: a wrong path is not found out after ten minutes.
    let baseline = args.baseline.as_deref().map(Baseline::read).transpose()?;
    for path in args.write_baseline.iter().chain(&args.widen_baseline).filter(|p| p.is_file()) {
        let _ = Baseline::read(path)?;
    }
    let out = directory(args.out.as_deref(), args.force)?;
    let wanted: Vec<_> =
        peers.iter().filter_map(|p| if let Kind::Driver(d) = p.kind { Some(d) } else { None }).collect();
    let built = drivers::build(&wanted, &mut |s| anstream::eprintln!("{s}"))?;
    let request = Request {
        peers,
        situations,
        jobs: args.jobs.into(),
        out: out.clone(),
        clock: args.clock.map(|c| if c == ClockArg::Real { Clock::Real } else { Clock::Virtual }),
        seed: args.seed,
        shop: Shop { drivers: built, program: None },
    };
    let stop = stop_flag()?;
    let mut results = Results::new(&request.situations, request.seed);
    let begun = Instant::now();
    let watch = Watch::new(&request, &out, args.json);
    results.cells = matrix::run(&request, &stop, &|p| watch.see(p))?;
    watch.finish()?;
    results.seconds = begun.elapsed().as_secs_f64();
    results.complete = !stop.load(std::sync::atomic::Ordering::Relaxed);
    let comparison = baseline.as_ref().map(|b| b.compare(&Baseline::of(&results)));
    write(&results, &out, comparison.as_ref())?;
    conclude_run(&results, &out, args.json)?;
    if let Some(path) = args.write_baseline.as_ref().or(args.widen_baseline.as_ref()) {
        let older = if path.is_file() { Baseline::read(path)? } else { Baseline::default() };
        let now = Baseline::of(&results);
        let all = if args.widen_baseline.is_some() { now.widened(older) } else { now.with(older) };
        all.write(path)?;
    }
    if !results.complete {
        return Ok(INTERRUPTED);
    }
    let mut code = DONE;
    if let Some(c) = &comparison {
        code = code.max(say_changes(c)?);
    }
    Ok(code.max(broken(&results, args.fail_on)))
}

/// The exit code of results: a cell that could not be run is a failure, and so is a broken clause of the level asked for.
pub(super) fn broken(results: &Results, fail_on: Option<FailOn>) -> u8 {
    let failed = results.cells.iter().any(|c| matches!(c.state, CellState::Failed { .. }));
    let least = fail_on.map(|f| if f == FailOn::Must { Level::Must } else { Level::Should });
    let broken = least.is_some_and(|least| results.findings().any(|(_, _, v)| v.clause.level >= least));
    if failed || broken { CHECK_FAILED } else { DONE }
}

/// The end of a run on standard output.
pub(super) fn conclude_run(results: &Results, out: &Path, json: bool) -> Result<()> {
    if json {
        return print_json(&results.to_json()?);
    }
    let mut o = anstream::stdout().lock();
    writeln!(o, "{}\n{}", text::matrix(results), text::findings(results))?;
    let shown = out.display();
    writeln!(
        o,
        "{} cells in {:.0} s\n{shown}/{}   the page, with a diagram of every cell\n{shown}/{}   for programs; {} for CI servers\n{shown}/PEER/SITUATION.pcapng",
        results.cells.len(),
        results.seconds,
        names::HTML,
        names::RESULTS,
        names::JUNIT
    )?;
    Ok(())
}

fn say_changes(c: &Comparison) -> Result<u8> {
    let mut o = io::stderr().lock();
    for change in &c.changes {
        write!(o, "{change}")?;
    }
    writeln!(o, "baseline: {} as before, {} changed, {} new", c.same, c.changes.len(), c.new)?;
    Ok(if c.changes.is_empty() { DONE } else { CHECK_FAILED })
}

/// Everything that is made of results.
pub(super) fn write(results: &Results, dir: &Path, comparison: Option<&Comparison>) -> Result<()> {
    results.write(dir)?;
    let put = |name: &str, text: &str| {
        let path = dir.join(name);
        std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
    };
    put(names::HTML, &page::render(results)?)?;
    put(names::JUNIT, &junit::render(results, comparison)?)?;
    let plain = format!("{}\n{}", text::matrix(results), text::findings(results));
    put(names::TEXT, &anstream::adapter::strip_str(&plain).to_string())
}

fn report(dir: &Path, baseline: Option<&Path>) -> Result<u8> {
    let results = Results::read(dir)?;
    let baseline = baseline.map(Baseline::read).transpose()?;
    let comparison = baseline.as_ref().map(|b| b.compare(&Baseline::of(&results)));
    write(&results, dir, comparison.as_ref())?;
    writeln!(anstream::stdout().lock(), "{}\n{}", text::matrix(&results), text::findings(&results))?;
    comparison.as_ref().map_or(Ok(DONE), say_changes)
}

fn judge(capture: &Path, bytes: Option<u64>, content: Content, json: bool) -> Result<u8> {
    let judged = matrix::judge_capture(capture, bytes, content)?;
    if json {
        print_json(&judged)?;
    } else {
        write!(anstream::stdout().lock(), "{}", text::judged(&judged))?;
    }
    let broken = judged.verdicts.iter().any(|v| v.outcome == Outcome::Broken);
    Ok(if broken { CHECK_FAILED } else { DONE })
}

fn situations(long: bool, json: bool) -> Result<u8> {
    let all = Situation::list();
    if json {
        print_json(&all)?;
        return Ok(DONE);
    }
    let mut o = io::stdout().lock();
    for s in &all {
        writeln!(o, "{:<22} {}", s.name, s.about)?;
        if long {
            for line in s.explain.trim().lines() {
                writeln!(o, "    {line}")?;
            }
            if !s.clauses.is_empty() {
                writeln!(o, "    for {}", s.clauses.join(", "))?;
            }
            writeln!(o)?;
        }
    }
    Ok(DONE)
}

/// `rightedge peers`.
///
/// # Errors
/// Standard output cannot be written.
pub fn list_peers(json: bool) -> Result<u8> {
    let all = inventory::all();
    if json {
        print_json(&all)?;
        return Ok(DONE);
    }
    let mut o = io::stdout().lock();
    for e in &all {
        match (&e.version, &e.missing) {
            (Some(version), _) => writeln!(o, "ok     {:<28} {} [{version}]", e.peer, e.about)?,
            (None, missing) => {
                writeln!(o, "no     {:<28} {}: {}", e.peer, e.about, missing.as_deref().unwrap_or_default())?;
                writeln!(o, "       {:<28} to get it: {}", "", e.fix.as_deref().unwrap_or_default())?;
            }
        }
    }
    writeln!(o, "\nOptions, behind commas:")?;
    for (peer, kind) in [("linux, uml, qemu", Kind::Host), ("smoltcp", Kind::Smoltcp)] {
        for (name, what) in kind.takes() {
            writeln!(o, "       {peer:<17} {name:<12} {what}")?;
        }
    }
    for d in drivers::Driver::ALL {
        for (name, what) in d.takes() {
            writeln!(o, "       {:<17} {name:<12} {what}", d.name())?;
        }
    }
    writeln!(
        o,
        "\nexec:COMMAND is any program that keeps to the peer contract; bad:FAULT is our model with a fault."
    )?;
    Ok(DONE)
}

fn peers(args: &MatrixArgs) -> Result<Vec<PeerSpec>> {
    let named = |list: &[&str]| -> Result<Vec<PeerSpec>> {
        list.iter().map(|p| p.parse::<PeerSpec>().map_err(anyhow::Error::msg)).collect()
    };
    let (peers, must) = match (args.peer.is_empty(), args.short) {
        (false, _) => (args.peer.clone(), true),
        (true, true) => (named(&inventory::SHORT)?, false),
        (true, false) => (inventory::default_peers(), false),
    };
    let mut there = Vec::new();
    for p in peers {
        match inventory::check(&p) {
            Ok(_) => there.push(p),
            Err(why) if must => bail!("peer {p}: {why}"),
            Err(why) => anstream::eprintln!("note: without {p}: {why}"),
        }
    }
    if there.is_empty() {
        bail!("no peer is installed; `rightedge peers` says how to get some");
    }
    Ok(there)
}

/// The situations that were typed, or the built-in ones, or those of the short form.
pub(super) fn situations_named(typed: &[String], short: bool) -> Result<Vec<Situation>> {
    if typed.is_empty() {
        return Ok(Situation::list().into_iter().filter(|s| s.short || !short).collect());
    }
    let mut all: Vec<Situation> = Vec::new();
    for name in typed {
        let s = Situation::load(name)?;
        if all.iter().any(|other| other.name == s.name) {
            bail!("situation {} is given twice; leave one out", s.name);
        }
        all.push(s);
    }
    Ok(all)
}

/// Where results go: a directory that is new or empty, or whose results may be overwritten.
pub(super) fn directory(out: Option<&Path>, force: bool) -> Result<PathBuf> {
    let out = match out {
        Some(dir) => dir.to_owned(),
        None => free_directory("interop")?,
    };
    std::fs::create_dir_all(&out).with_context(|| format!("cannot make {}", out.display()))?;
    let occupied = std::fs::read_dir(&out).with_context(|| out.display().to_string())?.next().is_some();
    if occupied && !force {
        bail!(
            "{} is not empty; --force overwrites earlier results in it, or give another with --out",
            out.display()
        );
    }
    // Found out now and not after the last cell.
    let probe = out.join(names::TEXT);
    std::fs::write(&probe, "").with_context(|| format!("cannot write {}", probe.display()))?;
    Ok(out)
}

/// Shows how far it is, and writes every cell down.
struct Watch {
    out: PathBuf,
    bar: indicatif::ProgressBar,
    failed: Mutex<Option<anyhow::Error>>,
}

impl Watch {
    fn new(request: &Request, out: &Path, quiet: bool) -> Self {
        let total = request.peers.len() * request.situations.len();
        let bar =
            if quiet { indicatif::ProgressBar::hidden() } else { indicatif::ProgressBar::new(total as u64) };
        let style = indicatif::ProgressStyle::with_template(
            "{elapsed_precise} {bar:30} {pos}/{len} cells  {wide_msg}",
        );
        if let Ok(style) = style {
            bar.set_style(style);
        }
        bar.enable_steady_tick(Duration::from_millis(200));
        Watch { out: out.to_owned(), bar, failed: Mutex::new(None) }
    }

    fn see(&self, progress: Progress<'_>) {
        let Progress::Over { report } = progress else { return };
        self.bar.inc(1);
        self.bar.set_message(format!("{} {} in {}", glyph(&report.state), report.peer, report.situation));
        if let Err(e) = write_cell(&self.out, report) {
            let mut failed = self.failed.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            failed.get_or_insert(e);
        }
    }

    fn finish(self) -> Result<()> {
        self.bar.finish_and_clear();
        let failed = self.failed.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
        failed.map_or(Ok(()), Err)
    }
}
