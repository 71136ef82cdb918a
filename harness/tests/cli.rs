//! The program as people and scripts use it: what it prints, where, and with which exit code; and how it is stopped.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use assert_cmd::cargo::cargo_bin;
use rightedge::record::{DecisionLines, WireReader, load_json, load_samples, names};
use rightedge_tapctl::rights::{Need, require};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

/// The program, in a directory of its own so that nothing is left in the source tree.
fn rightedge(cwd: &Path) -> Command {
    let mut c = Command::new(cargo_bin!("rightedge"));
    c.current_dir(cwd).stdin(Stdio::null()).env_remove("RIGHTEDGE_LOG").env("NO_COLOR", "1");
    c
}

fn scratch() -> TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

fn run_in(cwd: &Path, args: &[&str]) -> Output {
    rightedge(cwd).args(args).output().unwrap()
}

fn run(args: &[&str]) -> Output {
    run_in(scratch().path(), args)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// Standard output of a command that must succeed and keep quiet on standard error.
fn said(args: &[&str]) -> String {
    let o = run(args);
    assert_eq!((o.status.code(), text(&o.stderr)), (Some(0), String::new()), "{args:?}");
    text(&o.stdout)
}

/// The command must end with code 2, say nothing on standard output, and name all of `words` on standard error.
fn refused_in(cwd: &Path, args: &[&str], words: &[&str]) {
    let o = run_in(cwd, args);
    let stderr = text(&o.stderr);
    assert_eq!((o.status.code(), text(&o.stdout)), (Some(2), String::new()), "{args:?}: {stderr}");
    assert!(stderr.starts_with("error:"), "{args:?}: {stderr}");
    for word in words {
        assert!(stderr.contains(word), "{args:?}: no {word:?} in {stderr}");
    }
}

fn refused(args: &[&str], words: &[&str]) {
    refused_in(scratch().path(), args, words);
}

/// A short run of the model sender, recorded in `run`.
fn recorded(cwd: &Path, more: &[&str]) -> Output {
    run_in(cwd, &[&["run", "fill-64k-aws0", "--sender", "model", "--out", "run"], more].concat())
}

#[test]
fn help_names_every_command_and_the_exit_codes() {
    let help = said(&["--help"]);
    for word in
        ["run", "list", "explain", "show", "policies", "drivers", "doctor", "man", "completions", "130"]
    {
        assert!(help.contains(word), "{word}: {help}");
    }
    let help = said(&["run", "--help"]);
    for word in
        ["--policy", "--sysctl", "--out", "--force", "--sender", "--clock", "--time", "--link", "--offload"]
    {
        assert!(help.contains(word), "{word}: {help}");
    }
}

#[test]
fn list_shows_every_scenario() {
    let short = said(&["list"]);
    for name in ["fill-64k-aws0", "fill-64k-aws1", "spaghetti", "never-reads", "unbounded-wscale13"] {
        assert_eq!(short.lines().filter(|l| l.split(' ').next() == Some(name)).count(), 1, "{name}: {short}");
    }
    let long = said(&["list", "--long"]);
    assert!(long.contains("policies: linux-6.1") && long.len() > 2 * short.len());
}

#[test]
fn policies_and_drivers_are_listed() {
    let profiles = said(&["policies"]);
    for name in ["linux-6.1", "linux-6.12", "linux-6.18", "linux-7"] {
        assert!(profiles.lines().any(|l| l == name), "{name}: {profiles}");
    }
    let switches = said(&["policies", "linux-6.1,shrink=merged"]);
    let shrink = switches.lines().find(|l| l.starts_with("shrink ")).unwrap();
    assert_eq!(shrink.split_whitespace().nth(1), Some("merged"));
    let drivers = said(&["drivers"]);
    assert!(
        ["tap", "veth", "virtio"].iter().all(|d| drivers.lines().any(|l| l.split(' ').next() == Some(d)))
    );
}

#[test]
fn completions_and_man_page_come_out() {
    for shell in ["bash", "zsh", "fish"] {
        assert!(said(&["completions", shell]).contains("rightedge"), "{shell}");
    }
    assert!(said(&["completions", "bash"]).contains("complete -F _rightedge"));
    let man = said(&["man"]);
    assert!(man.contains(".TH rightedge 1") && man.contains("Exit codes"));
}

#[test]
fn wrong_arguments_are_refused_with_value_and_fix() {
    let run = |more: &[&'static str]| [&["run", "fill-64k-aws0"], more].concat();
    refused(&["run", "fill-64k-aws7"], &["`fill-64k-aws7`", "fill-64k-aws0", ".toml"]);
    refused(&["run", "./none.toml"], &["./none.toml", "check the path"]);
    refused(&run(&["-p", "linux-9"]), &["'linux-9'", "linux-6.1", "linux-6.18"]);
    refused(&run(&["-p", "linux-6.1,shrnk=merged"]), &["'shrnk'", "shrink"]);
    refused(&run(&["-p", "linux-6.1,shrink=maybe"]), &["'maybe'", "never, first, merged"]);
    refused(&run(&["-w", "tcp_rmem"]), &["'tcp_rmem'", "NAME=VALUE"]);
    refused(&run(&["-w", "=3"]), &["'=3'", "NAME=VALUE"]);
    refused(&run(&["-w", "tcp_rmem=abc"]), &["'tcp_rmem'", "'abc'", "3 number"]);
    refused(&run(&["-w", "tcp_nope=1"]), &["'tcp_nope'", "tcp_rmem"]);
    refused(&run(&["-w", "tcp_adv_win_scale=99"]), &["tcp_adv_win_scale", "99", "-31…31"]);
    // More than any window scale could offer.
    refused(&run(&["-w", "tcp_rmem=4096 131072 99999999999"]), &["tcp_rmem", "99999999999", "2147483647"]);
    refused(&run(&["--driver", "e1000"]), &["'e1000'", "virtio"]);
    refused(&run(&["--link", "sideways:delay=1ms"]), &["sideways", "down:"]);
    refused(&run(&["--link", "down:loss=3"]), &["loss=3", "between 0 and 1", "0.01"]);
    refused(&run(&["--link", "down:dlay=1ms"]), &["`dlay`", "delay"]);
    refused(&run(&["--time", "3parsecs"]), &["`3parsecs`", "2m 5s"]);
    refused(&run(&["--time", "0s"]), &["0s", "30s"]);
    refused(&run(&["--sender", "kernel", "--clock", "virtual"]), &["kernel sender", "--sender model"]);
    refused(&run(&["--sender", "model", "--offload"]), &["--offload", "gso_max"]);
    refused(&run(&["--sender", "carrier-pigeon"]), &["'carrier-pigeon'", "kernel, model"]);
    refused(&["policies", "linux-9"], &["'linux-9'", "linux-6.1"]);
    refused(&["no-such-command"], &["'no-such-command'"]);
}

#[test]
fn a_refused_run_leaves_no_directory() {
    let cwd = scratch();
    refused_in(cwd.path(), &["run", "fill-64k-aws0", "--out", "new", "-p", "linux-9"], &["linux-9"]);
    refused_in(cwd.path(), &["run", "fill-64k-aws0", "--out", "new", "-w", "tcp_rmem=1"], &["tcp_rmem"]);
    assert_eq!(fs::read_dir(cwd.path()).unwrap().count(), 0);
}

#[test]
fn an_output_directory_that_cannot_be_used_is_refused() {
    let cwd = scratch();
    let dir = cwd.path();
    let to = |out: &'static str| ["run", "fill-64k-aws0", "--sender", "model", "--out", out];
    fs::write(dir.join("file"), "mine").unwrap();
    fs::create_dir(dir.join("full")).unwrap();
    fs::write(dir.join("full/notes"), "mine").unwrap();
    refused_in(dir, &to("file"), &["file", "is a file"]);
    refused_in(dir, &to("file/below"), &["file/below"]);
    // Nobody can make a directory there.
    refused_in(dir, &to("/proc/rightedge"), &["/proc/rightedge", "choose a place you may write to"]);
    refused_in(dir, &to("full"), &["full", "not empty", "--force"]);
    assert_eq!(fs::read_to_string(dir.join("full/notes")).unwrap(), "mine");
    assert_eq!(fs::read_dir(dir.join("full")).unwrap().count(), 1);
}

#[test]
fn force_overwrites_a_run_and_nothing_else() {
    let cwd = scratch();
    assert_eq!(recorded(cwd.path(), &[]).status.code(), Some(0));
    fs::write(cwd.path().join("run/notes"), "mine").unwrap();
    let o = recorded(cwd.path(), &[]);
    assert_eq!(o.status.code(), Some(2), "{}", text(&o.stderr));
    assert_eq!(recorded(cwd.path(), &["--force"]).status.code(), Some(0));
    assert_eq!(fs::read_to_string(cwd.path().join("run/notes")).unwrap(), "mine");
}

#[test]
fn a_run_without_a_directory_takes_the_first_free_one() {
    let cwd = scratch();
    for n in 1..=2 {
        let o = run_in(cwd.path(), &["run", "fill-64k-aws0", "--sender", "model"]);
        assert_eq!(o.status.code(), Some(0));
        let dir = format!("runs/fill-64k-aws0-{n}");
        assert!(text(&o.stdout).contains(&dir) && cwd.path().join(dir).join(names::SUMMARY).is_file());
    }
}

#[test]
fn a_missed_rule_is_exit_code_1() {
    let cwd = scratch();
    let args =
        ["run", "unbounded-wscale13", "-p", "linux-6.1", "--sender", "model", "--time", "1s", "--out", "run"];
    let o = run_in(cwd.path(), &args);
    assert_eq!(o.status.code(), Some(1));
    assert!(text(&o.stdout).contains("MISSED"));
}

#[test]
fn a_recorded_run_can_be_shown_and_explained() {
    let cwd = scratch();
    let o = recorded(cwd.path(), &["--ss", "--nstat"]);
    let out = text(&o.stdout);
    assert!(out.contains("skmem:(r73984,rb65536") && out.contains("TcpExtTCPRcvQDrop"), "{out}");
    // The hint at the end must work as it is printed.
    let hint = out.lines().find_map(|l| l.trim().strip_prefix("ask why:")).unwrap();
    let words: Vec<&str> = hint.split_whitespace().skip(1).collect();
    let o = run_in(cwd.path(), &words);
    assert!(o.status.success() && text(&o.stdout).starts_with("packet "), "{hint}");
    let o = run_in(cwd.path(), &["show", "run", "--ss"]);
    assert!(o.status.success() && text(&o.stdout).contains("skmem:(r73984,rb65536"));
    let o = run_in(cwd.path(), &["show", "run", "--nstat"]);
    assert!(o.status.success() && text(&o.stdout).contains("TcpExtTCPRcvQDrop"));
    refused_in(cwd.path(), &["explain", "run", "--packet", "0"], &["packet 0", "1 to "]);
    refused_in(cwd.path(), &["explain", "run", "--packet", "99999"], &["packet 99999", "1 to "]);
    refused_in(cwd.path(), &["explain", "run", "--packet", "x"], &["'x'", "--packet"]);
    refused_in(cwd.path(), &["explain", "nowhere", "--packet", "1"], &["nowhere"]);
    refused_in(cwd.path(), &["explain", ".", "--packet", "1"], &["wire.pcapng"]);
    refused_in(cwd.path(), &["show", "nowhere"], &["nowhere"]);
}

/// The whole standard output as JSON; standard error must be empty.
fn json(cwd: &Path, args: &[&str]) -> Value {
    let o = run_in(cwd, args);
    assert_eq!((o.status.code(), text(&o.stderr)), (Some(0), String::new()), "{args:?}");
    serde_json::from_slice(&o.stdout).unwrap_or_else(|e| panic!("{args:?}: {e}: {}", text(&o.stdout)))
}

#[test]
fn json_is_all_there_is_on_standard_output() {
    let cwd = scratch();
    let dir = cwd.path();
    assert!(json(dir, &["list", "--json"]).as_array().unwrap().iter().any(|s| s["name"] == "spaghetti"));
    let run = json(dir, &["run", "fill-64k-aws0", "--sender", "model", "--out", "run", "--json"]);
    assert_eq!(run.as_array().unwrap().len(), 1);
    assert_eq!(
        (&run[0]["ok"], &run[0]["report"]["intact"], &run[0]["dir"]),
        (&true.into(), &true.into(), &"run".into())
    );
    assert_eq!(run[0]["report"]["connections"][0]["delivered"], 62_464);
    assert_eq!(json(dir, &["show", "run", "--json"])["status"], "complete");
    let packet = run[0]["report"]["packets"].to_string();
    assert_eq!(json(dir, &["explain", "run", "-n", &packet, "--json"])["packet"].to_string(), packet);
    let o = run_in(dir, &["doctor", "--json"]);
    let findings: Value = serde_json::from_slice(&o.stdout).unwrap();
    assert!(findings.as_array().unwrap().iter().any(|f| f["name"] == "tap" && f["needed"] == true));
}

#[test]
fn several_policies_give_a_comparison() {
    let cwd = scratch();
    let args = ["run", "never-reads", "--sender", "model", "--time", "5s", "--out", "run", "--json"];
    let o = run_in(cwd.path(), &args);
    let all: Value = serde_json::from_slice(&o.stdout).unwrap();
    assert_eq!(all.as_array().unwrap().len(), 2);
    assert_eq!(all[1]["report"]["policy"], "linux-6.1,shrink=merged");
    let table = fs::read_to_string(cwd.path().join("run/comparison.txt")).unwrap();
    assert!(table.contains("linux-6.1,shrink=merged") && table.contains("right edge moved left"));
    assert!(fs::read(cwd.path().join("run/comparison.png")).unwrap().starts_with(b"\x89PNG\r\n\x1a\n"));
    for r in all.as_array().unwrap() {
        assert!(cwd.path().join(r["dir"].as_str().unwrap()).join(names::SUMMARY).is_file());
    }
}

#[test]
fn the_seed_is_the_links_too_unless_the_link_has_its_own() {
    let cwd = scratch();
    let own = "name = \"own\"\nabout = \"x\"\npolicies = [\"linux-6.1\"]\nlimits = { time = \"60s\" }\n\
        receiver = { read = { pattern = \"flat_out\", size = \"64KiB\" } }\n\
        sender = { write = 16384, total = \"200KiB\" }\n";
    fs::write(cwd.path().join("own.toml"), own).unwrap();
    let link = |spec: &str, seed: &str| {
        let o = run_in(
            cwd.path(),
            &[
                "run", "own.toml", "--sender", "model", "--force", "--out", "r", "--json", "--link", spec,
                "--seed", seed,
            ],
        );
        let all: Value = serde_json::from_slice(&o.stdout).unwrap_or_else(|_| panic!("{}", text(&o.stderr)));
        all[0]["report"]["link"].to_string()
    };
    let spec = "down:delay=1ms,loss=0.1";
    assert_eq!(link(spec, "1"), link(spec, "1"));
    assert_ne!(link(spec, "1"), link(spec, "2"));
    let spec = "down:delay=1ms,loss=0.1;seed=9";
    assert_eq!(link(spec, "1"), link(spec, "2"));
}

#[test]
fn a_closed_pipe_is_no_error() {
    let cwd = scratch();
    let model = ["run", "fill-64k-aws0", "--sender", "model", "--force", "--out", "run"];
    let with_json = [&model[..], &["--json"]].concat();
    let commands: [&[&str]; 12] = [
        &["list", "--long"],
        &["list", "--json"],
        &["policies"],
        &["policies", "linux-6.1"],
        &["drivers"],
        &["doctor"],
        &["doctor", "--json"],
        &["man"],
        &["completions", "bash"],
        &["--help"],
        &model,
        &with_json,
    ];
    for args in commands {
        // Nobody will ever read, so the very first write fails.
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let o = rightedge(cwd.path()).args(args).stdout(writer).stderr(Stdio::piped()).output().unwrap();
        assert_eq!((o.status.code(), text(&o.stderr)), (Some(0), String::new()), "{args:?}");
    }
}

#[test]
fn the_doctor_gives_a_verdict() {
    let o = run(&["doctor"]);
    let out = text(&o.stdout);
    match o.status.code() {
        Some(0) => assert!(out.contains("Real kernel senders can be run here.")),
        Some(3) => assert!(out.contains("cannot be run here") && out.contains("to get it:")),
        other => panic!("{other:?}: {out}"),
    }
}

// ---- being stopped -------------------------------------------------------------------------------------------------

/// A run of a minute, in a process group of its own; killed at the latest when the test ends.
struct Running {
    child: Child,
    dir: PathBuf,
    _cwd: TempDir,
}

impl Running {
    fn start(how: &[&str]) -> Self {
        let cwd = scratch();
        let dir = cwd.path().join("run");
        let child = rightedge(cwd.path())
            .args(["run", "never-reads", "-p", "linux-6.1", "--time", "60s", "--out", "run"])
            .args(how)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .unwrap();
        let mut run = Running { child, dir, _cwd: cwd };
        // Some flushes have happened.
        run.until("samples", |run| {
            fs::metadata(run.dir.join(names::SAMPLES_CSV)).is_ok_and(|m| m.len() > 50_000)
        });
        run
    }

    fn until(&mut self, what: &str, mut done: impl FnMut(&mut Self) -> bool) {
        let start = Instant::now();
        while !done(self) {
            assert!(start.elapsed() < Duration::from_secs(30), "{what}: not within half a minute");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn signal(&mut self, signal: Signal) -> ExitStatus {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
        let mut status = None;
        self.until("its end", |run| {
            status = run.child.try_wait().unwrap();
            status.is_some()
        });
        status.unwrap()
    }

    /// What was recorded is readable, and says how the run ended.
    fn assert_readable(&self, status: &str) {
        assert_eq!(load_json(&self.dir, names::SUMMARY).unwrap()["status"], status);
        assert!(load_samples(&self.dir).unwrap().len() > 100);
        let mut wire = WireReader::open(&self.dir.join(names::WIRE)).unwrap();
        let mut frames = 0;
        while let Some(f) = wire.next_frame().unwrap() {
            frames = f.packet;
        }
        assert!(frames > 100);
        let mut lines = DecisionLines::open(&self.dir).unwrap();
        let mut decisions = 0;
        while lines.next_head().unwrap().is_some() {
            decisions += 1;
        }
        assert!(decisions > 100);
        let dir = self.dir.to_str().unwrap();
        let o = run(&["explain", dir, "-n", &(frames / 2).to_string()]);
        assert!(o.status.success(), "{}", text(&o.stderr));
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Network namespaces of all threads of a process.
fn namespaces(process: &Path) -> Vec<PathBuf> {
    let tasks = fs::read_dir(process.join("task")).into_iter().flatten().flatten();
    tasks.filter_map(|t| fs::read_link(t.path().join("ns/net")).ok()).collect()
}

fn processes() -> Vec<PathBuf> {
    let is_number =
        |p: &PathBuf| p.file_name().is_some_and(|n| n.as_encoded_bytes().iter().all(u8::is_ascii_digit));
    fs::read_dir("/proc").unwrap().filter_map(|e| Some(e.ok()?.path())).filter(is_number).collect()
}

/// The process group, from behind the last bracket of `stat`: a name may contain anything.
fn group(process: &Path) -> Option<u32> {
    let stat = fs::read_to_string(process.join("stat")).ok()?;
    stat.rsplit_once(')')?.1.split_whitespace().nth(2)?.parse().ok()
}

fn host_has_the_device() -> bool {
    Path::new("/sys/class/net/rightedge0").exists()
}

#[test]
fn a_killed_run_leaves_nothing_behind_but_a_readable_record() {
    if !require("killed_run", &[Need::TunNode, Need::Netns, Need::Tap]) {
        return;
    }
    let mut run = Running::start(&["--sender", "kernel"]);
    let (host, id) = (namespaces(Path::new("/proc/self")), run.child.id());
    let mut private = namespaces(&PathBuf::from(format!("/proc/{id}")));
    private.retain(|ns| !host.contains(ns));
    assert!(!private.is_empty(), "the run has no namespace of its own");
    assert!(!host_has_the_device());
    assert_eq!(run.signal(Signal::KILL).signal(), Some(9));
    assert!(!host_has_the_device());
    let left: Vec<_> = processes().into_iter().filter(|p| group(p) == Some(id)).collect();
    assert!(left.is_empty(), "{left:?}");
    let inside: Vec<_> =
        processes().into_iter().filter(|p| namespaces(p).iter().any(|ns| private.contains(ns))).collect();
    assert!(inside.is_empty(), "{inside:?}");
    run.assert_readable("running");
}

#[test]
fn ctrl_c_ends_a_run_of_a_real_kernel_with_130_and_a_whole_record() {
    if !require("interrupted_run", &[Need::TunNode, Need::Netns, Need::Tap]) {
        return;
    }
    let mut run = Running::start(&["--sender", "kernel"]);
    assert_eq!(run.signal(Signal::INT).code(), Some(130));
    assert!(!host_has_the_device());
    run.assert_readable("interrupted");
    assert!(run.dir.join(names::CHART_PNG).is_file());
}

#[test]
fn a_termination_signal_ends_a_run_of_the_model_likewise() {
    let mut run = Running::start(&["--sender", "model", "--clock", "real"]);
    assert_eq!(run.signal(Signal::TERM).code(), Some(130));
    run.assert_readable("interrupted");
}
