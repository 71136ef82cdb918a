//! What each command does.

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anyhow::{Context as _, Result, bail};
use clap::CommandFactory as _;
use rightedge_stack::{nic::Driver, profile::Profile, time::Duration};

use crate::cli::{Cli, ClockArg, Command, RunArgs};
use crate::link::LinkSpec;
use crate::record::{self, names};
use crate::run::{self, RunSpec, SenderKind, engine::EndReason, report::RunReport};
use crate::scenario::{Clock, Scenario, units};
use crate::{bench, doctor, explain, interop, oracle, views};

/// Done, and everything checked holds.
pub(crate) const DONE: u8 = 0;
/// Done, but a check failed.
pub(crate) const CHECK_FAILED: u8 = 1;
/// Could not run.
const COULD_NOT_RUN: u8 = 2;
/// Rights are missing.
const RIGHTS_MISSING: u8 = 3;
/// Interrupted, as a shell reports SIGINT.
pub(crate) const INTERRUPTED: u8 = 130;

/// Does what was typed; errors go to standard error with all their causes.
#[must_use]
pub fn main(cli: Cli) -> ExitCode {
    match act(cli.command) {
        Ok(code) => ExitCode::from(code),
        Err(e) if is_broken_pipe(&e) => ExitCode::from(DONE),
        Err(e) => {
            anstream::eprintln!("{}error:{} {}", RED, RESET, in_one_line(&e));
            ExitCode::from(if rights_missing(&e) { RIGHTS_MISSING } else { COULD_NOT_RUN })
        }
    }
}

const RED: &str = "\x1b[1;31m";
const RESET: &str = "\x1b[0m";

fn act(command: Command) -> Result<u8> {
    match command {
        Command::Run(args) => run(&args),
        Command::List { long, json } => list(long, json),
        Command::Explain { dir, packet, json } => explain_packet(&dir, packet, json),
        Command::Show { dir, ss, nstat, json } => show(&dir, ss, nstat, json),
        Command::Replay(args) => oracle::command::replay(&args),
        Command::Interop(args) => interop::command::main(&args),
        Command::Bench(args) => bench::command::main(&args),
        Command::Peers { json } => interop::command::list_peers(json),
        Command::Oracle(command) => oracle::command::main(&command),
        Command::Policies { policy } => policies(policy.as_deref()),
        Command::Drivers => {
            let mut out = io::stdout().lock();
            for (_, name, about) in Driver::ALL {
                writeln!(out, "{name:<14} {about}")?;
            }
            Ok(DONE)
        }
        Command::Doctor { json } => {
            let findings = doctor::examine();
            if json {
                print_json(&findings)?
            } else {
                print_text(&doctor::text(&findings))?
            }
            Ok(if findings.iter().any(|f| f.needed && !f.ok) { RIGHTS_MISSING } else { DONE })
        }
        Command::Man { command } => man(command.as_deref()),
        Command::Completions { shell } => {
            // Into memory first: the generator panics if it cannot write.
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "rightedge", &mut script);
            io::stdout().lock().write_all(&script)?;
            Ok(DONE)
        }
    }
}

/// Set by SIGINT, SIGTERM and SIGHUP. The second signal ends the process at once: the first may be stuck behind a slow disk.
pub(crate) fn stop_flag() -> Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM, signal_hook::consts::SIGHUP] {
        signal_hook::flag::register_conditional_shutdown(signal, i32::from(INTERRUPTED), Arc::clone(&stop))
            .context("cannot handle signals")?;
        signal_hook::flag::register(signal, Arc::clone(&stop)).context("cannot handle signals")?;
    }
    Ok(stop)
}

// ---- run -----------------------------------------------------------------------------------------------------------

fn run(args: &RunArgs) -> Result<u8> {
    let mut scenario = Scenario::load(&args.scenario)?;
    if let Some(link) = &args.link {
        scenario.link = LinkSpec::parse(link)?;
    }
    if let Some(driver) = &args.driver {
        scenario.receiver.driver.model.clone_from(driver);
    }
    let (sender, clock) = sender_and_clock(args)?;
    let sysctls = args.sysctl.iter().map(|t| setting(t)).collect::<Result<Vec<_>>>()?;
    let policies = if args.policy.is_empty() { scenario.policies.clone() } else { args.policy.clone() };
    let mut specs = Vec::new();
    for policy in &policies {
        let mut spec = RunSpec::new(&scenario, policy, &sysctls, sender, clock, args.offload)?;
        spec.seed = args.seed;
        // 0 is the whole frame, as tcpdump has it.
        spec.snaplen = args.snaplen.filter(|n| *n > 0);
        if spec.scenario.link.seed == 0 {
            spec.scenario.link.seed = args.seed;
        }
        if let Some(time) = &args.time {
            let limit = units::parse_duration(time).context("--time")?;
            if limit == Duration::ZERO {
                bail!("--time {time} is no time to run in; write for example 30s");
            }
            spec.scenario.limits.time = Some(units::Span(limit));
        }
        specs.push(spec);
    }
    let out = match &args.out {
        Some(dir) => dir.clone(),
        None => run::free_directory(&scenario.name)?,
    };
    let stop = stop_flag()?;
    let mut reports = Vec::new();
    for spec in &specs {
        let dir = if specs.len() == 1 { out.clone() } else { out.join(run::slug(&spec.policy)) };
        let progress = progress(spec, args.json);
        let report = run::run_one(spec, &dir, args.force, &stop);
        progress.finish_and_clear();
        let report = report?;
        let interrupted = report.end == EndReason::Interrupted;
        if !args.json {
            print_text(&report.text())?;
            print_extras(args, &report)?;
        }
        reports.push((dir, report));
        if interrupted {
            break;
        }
    }
    if reports.len() > 1 {
        compare(&out, &scenario, &reports, args.json)?;
    }
    if args.json {
        let all: Vec<_> = reports
            .iter()
            .map(|(dir, r)| serde_json::json!({ "dir": dir, "report": r, "ok": r.ok() }))
            .collect();
        print_json(&all)?;
    } else {
        point_at(&out, &reports)?;
    }
    Ok(if reports.iter().any(|(_, r)| r.end == EndReason::Interrupted) {
        INTERRUPTED
    } else if reports.iter().all(|(_, r)| r.ok()) {
        DONE
    } else {
        CHECK_FAILED
    })
}

/// The sender asked for, or the best there is; says so when it is not the kernel.
fn sender_and_clock(args: &RunArgs) -> Result<(SenderKind, Clock)> {
    let sender = match (args.sender, args.clock) {
        (Some(SenderKind::Kernel), Some(ClockArg::Virtual)) => {
            bail!("a kernel sender lives in real time; use --sender model with --clock virtual")
        }
        (Some(s), _) => s,
        (None, Some(ClockArg::Virtual)) => SenderKind::Model,
        (None, _) => match doctor::kernel_sender() {
            Ok(()) => SenderKind::Kernel,
            Err(why) => {
                anstream::eprintln!(
                    "note: no kernel sender here ({why}); running the model sender in virtual time instead"
                );
                SenderKind::Model
            }
        },
    };
    let clock = match (sender, args.clock) {
        (SenderKind::Kernel, _) | (SenderKind::Model, Some(ClockArg::Real)) => Clock::Real,
        (SenderKind::Model, _) => Clock::Virtual,
    };
    if sender == SenderKind::Model && args.offload {
        bail!(
            "--offload is about the TAP device of a kernel sender; with the model, set sender.gso_max in the scenario"
        );
    }
    Ok((sender, clock))
}

fn setting(text: &str) -> Result<(String, String)> {
    match text.split_once('=') {
        Some((name, value)) if !name.trim().is_empty() => {
            Ok((name.trim().to_owned(), value.trim().to_owned()))
        }
        _ => bail!(
            "'{text}' is not a sysctl; write NAME=VALUE, as in net.ipv4.tcp_rmem=\"4096 131072 6291456\""
        ),
    }
}

fn progress(spec: &RunSpec, quiet: bool) -> indicatif::ProgressBar {
    if quiet {
        return indicatif::ProgressBar::hidden();
    }
    let bar = indicatif::ProgressBar::new_spinner();
    let limit = spec.scenario.limits.time.map(|t| format!(", at most {t}")).unwrap_or_default();
    bar.set_message(format!("{} under {}{limit}", spec.scenario.name, spec.policy));
    bar.enable_steady_tick(std::time::Duration::from_millis(100));
    bar
}

fn print_extras(args: &RunArgs, report: &RunReport) -> Result<()> {
    if args.ss {
        print_text(report.ss())?;
    }
    if args.nstat {
        print_text(report.nstat())?;
    }
    Ok(())
}

/// Several policies: one table, one picture.
fn compare(out: &Path, scenario: &Scenario, reports: &[(PathBuf, RunReport)], quiet: bool) -> Result<()> {
    let names: Vec<&str> = reports.iter().map(|(_, r)| r.policy.as_str()).collect();
    let column = |f: &dyn Fn(&RunReport) -> String| reports.iter().map(|(_, r)| f(r)).collect::<Vec<_>>();
    let counter = |name: &'static str| {
        (
            name.trim_start_matches("TcpExt").to_owned(),
            column(&|r: &RunReport| r.counters.get(name).copied().unwrap_or(0).to_string()),
        )
    };
    let mut rows = vec![
        ("duration".to_owned(), column(&|r| format!("{:.3} s", r.duration))),
        ("skmem_rb, most".to_owned(), column(&|r| views::bytes(r.peak.skmem_rb))),
        ("skmem_r, most".to_owned(), column(&|r| views::bytes(r.peak.skmem_r))),
        ("over budget, most".to_owned(), column(&|r| views::bytes(r.peak.over_budget.max(0)))),
        ("recv-q, most".to_owned(), column(&|r| views::bytes(r.peak.recv_q))),
        ("rcv_win, most".to_owned(), column(&|r| views::bytes(r.peak.rcv_win))),
        ("sender wrote".to_owned(), column(&|r| views::bytes(r.sender.written as i64))),
        (
            "sender's error".to_owned(),
            column(&|r| r.sender.error.clone().unwrap_or_else(|| "none".to_owned())),
        ),
        ("retransmits".to_owned(), column(&|r| r.sender.retransmits.to_string())),
        ("right edge moved left".to_owned(), column(&|r| r.left_moves.0.to_string())),
        ("checks".to_owned(), column(&|r| if r.ok() { "ok" } else { "MISSED" }.to_owned())),
    ];
    for name in [
        "TcpExtTCPRcvCoalesce",
        "TcpExtPruneCalled",
        "TcpExtTCPRcvCollapsed",
        "TcpExtRcvPruned",
        "TcpExtTCPRcvQDrop",
        "TcpExtTCPZeroWindowDrop",
        "TcpExtTCPToZeroWindowAdv",
        "TcpExtTCPWantZeroWindowAdv",
        "TcpExtDelayedACKs",
    ] {
        rows.push(counter(name));
    }
    let table = views::comparison(&names, &rows);
    std::fs::write(out.join("comparison.txt"), format!("{table}\n"))
        .with_context(|| format!("cannot write {}", out.join("comparison.txt").display()))?;
    if !quiet {
        print_text(&format!("{table}\n"))?;
    }
    draw_comparison(out, scenario, reports)
}

#[cfg(feature = "charts")]
fn draw_comparison(out: &Path, scenario: &Scenario, reports: &[(PathBuf, RunReport)]) -> Result<()> {
    use crate::chart;
    let samples: Vec<_> =
        reports.iter().map(|(dir, _)| record::load_samples(dir)).collect::<Result<Vec<_>>>()?;
    let runs: Vec<(&str, &[record::Sample])> =
        reports.iter().zip(&samples).map(|((_, r), s)| (r.policy.as_str(), s.as_slice())).collect();
    // Runs of very different length share only the time axis.
    let lengths = reports.iter().map(|(_, r)| r.packets.max(1));
    let uneven = lengths.clone().max().unwrap_or(1) > 4 * lengths.min().unwrap_or(1);
    let options = chart::Options {
        x: if uneven { chart::XAxis::Time } else { chart::XAxis::Packet },
        title: scenario.name.clone(),
        subtitle: scenario.about.clone(),
        size: (700 * u32::try_from(runs.len()).unwrap_or(2).min(4), 720),
        ..chart::Options::default()
    };
    let svg = chart::comparison(&runs, &options)?;
    std::fs::write(out.join("comparison.png"), chart::png(&svg, 1.5)?)?;
    std::fs::write(out.join("comparison.svg"), svg)?;
    Ok(())
}

#[cfg(not(feature = "charts"))]
fn draw_comparison(_: &Path, _: &Scenario, _: &[(PathBuf, RunReport)]) -> Result<()> {
    Ok(())
}

/// Where to look next.
fn point_at(out: &Path, reports: &[(PathBuf, RunReport)]) -> Result<()> {
    let mut o = io::stdout().lock();
    if reports.len() > 1 {
        writeln!(o, "comparison:  {}", out.join("comparison.png").display())?;
    }
    for (dir, r) in reports {
        writeln!(o, "recorded in: {}", dir.display())?;
        if cfg!(feature = "charts") {
            writeln!(o, "  chart:     {}", dir.join(names::CHART_PNG).display())?;
        }
        writeln!(o, "  capture:   {} (every packet carries its decisions)", dir.join(names::WIRE).display())?;
        writeln!(o, "  ask why:   rightedge explain {} --packet {}", dir.display(), r.packets)?;
    }
    Ok(())
}

// ---- the rest ------------------------------------------------------------------------------------------------------

fn list(long: bool, json: bool) -> Result<u8> {
    let all = Scenario::list();
    if json {
        print_json(&all)?;
        return Ok(DONE);
    }
    let mut o = io::stdout().lock();
    for s in &all {
        let id = s.experiment.as_deref().unwrap_or("");
        writeln!(o, "{:<20} {id:<3} {}", s.name, s.about)?;
        if long {
            for line in s.explain.trim().lines() {
                writeln!(o, "    {line}")?;
            }
            writeln!(o, "    policies: {}\n", s.policies.join("  "))?;
        }
    }
    Ok(DONE)
}

fn explain_packet(dir: &Path, packet: u64, json: bool) -> Result<u8> {
    let e = explain::explain(dir, packet)?;
    if json {
        print_json(&e)?
    } else {
        print_text(&e.to_string())?
    }
    Ok(DONE)
}

fn show(dir: &Path, ss: bool, nstat: bool, json: bool) -> Result<u8> {
    let file = |name: &str| {
        let path = dir.join(name);
        std::fs::read_to_string(&path)
            .with_context(|| format!("cannot read {}; give the directory of a finished run", path.display()))
    };
    if json || !(ss || nstat) {
        let summary: serde_json::Value = record::load_json(dir, names::SUMMARY)?;
        print_json(&summary)?;
    }
    if ss {
        print_text(&file(names::SS)?)?;
    }
    if nstat {
        print_text(&file(names::NSTAT)?)?;
    }
    Ok(DONE)
}

fn man(command: Option<&str>) -> Result<u8> {
    // Building sets the full names, as in rightedge-run(1).
    let mut all = Cli::command();
    all.build();
    let page = match command {
        None => all,
        Some(name) => match all.find_subcommand(name) {
            Some(c) => c.clone(),
            None => {
                let known: Vec<_> = all.get_subcommands().map(clap::Command::get_name).collect();
                bail!("no command '{name}'; there are {}", known.join(", "))
            }
        },
    };
    clap_mangen::Man::new(page).render(&mut io::stdout().lock())?;
    Ok(DONE)
}

fn policies(policy: Option<&str>) -> Result<u8> {
    let mut o = io::stdout().lock();
    let Some(policy) = policy else {
        for name in Profile::NAMES {
            writeln!(o, "{name}")?;
        }
        writeln!(o, "\nA policy is a profile with switches: linux-6.1,shrink=merged,collapse=6291456")?;
        writeln!(o, "`rightedge policies NAME` lists the switches with their values there.")?;
        return Ok(DONE);
    };
    let p = Profile::parse(policy)?;
    for s in p.switches() {
        writeln!(o, "{:<18} {:<16} {}", s.name, s.value, s.takes)?;
    }
    Ok(DONE)
}

pub(crate) fn print_json(value: &impl serde::Serialize) -> Result<()> {
    let mut o = io::stdout().lock();
    // As an I/O error, so that a closed pipe is known for one.
    serde_json::to_writer_pretty(&mut o, value).map_err(io::Error::from)?;
    writeln!(o)?;
    Ok(())
}

fn print_text(text: &str) -> Result<()> {
    let mut o = io::stdout().lock();
    o.write_all(text.as_bytes())?;
    if !text.ends_with('\n') {
        writeln!(o)?;
    }
    Ok(())
}

/// An error with its causes, each said once.
fn in_one_line(e: &anyhow::Error) -> String {
    let mut said = String::new();
    for cause in e.chain() {
        let words = cause.to_string();
        if !said.contains(&words) {
            if !said.is_empty() {
                said.push_str(": ");
            }
            said.push_str(&words);
        }
    }
    said
}

fn is_broken_pipe(e: &anyhow::Error) -> bool {
    e.chain().filter_map(|c| c.downcast_ref::<io::Error>()).any(|e| e.kind() == io::ErrorKind::BrokenPipe)
}

fn rights_missing(e: &anyhow::Error) -> bool {
    e.chain().any(rightedge_tapctl::rights::is_missing_right)
}
