//! Fresh random scripts on live kernels: nothing may differ. Other scripts at every run; the seed is printed.
#![allow(clippy::unwrap_used)]

use std::io::Write as _;
use std::time::{SystemTime, UNIX_EPOCH};

use assert_cmd::Command;
use rightedge::oracle::replay::profile_for;
use rightedge_tapctl::rights::{Need, require};

/// Set to a seed to play the scripts of an earlier run.
const SEED: &str = "RIGHTEDGE_SEED";

/// A small campaign on `kernel` through the program as it is typed.
fn nothing_differs(kernel: &str, runs: u32) {
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs().to_string();
    let seed = std::env::var(SEED).unwrap_or_else(|_| now());
    // Past the capture of the test harness: what fails must be repeatable.
    let _ = writeln!(
        std::io::stderr(),
        "fuzz {kernel}: seed {seed}, {runs} scripts; {SEED}={seed} plays them again"
    );
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let out = Command::new(assert_cmd::cargo::cargo_bin!("rightedge"))
        .args(["oracle", "fuzz", "--quiet", "--kernel", kernel, "--seed", &seed])
        .args(["--runs", &runs.to_string(), "--out", dir.path().join("campaign").to_str().unwrap()])
        .output()
        .unwrap();
    let said = String::from_utf8(out.stdout).unwrap();
    let trouble = String::from_utf8_lossy(&out.stderr);
    assert_eq!(out.status.code(), Some(0), "seed {seed}\n{said}{trouble}{}", reports(dir.path()));
    // A busy machine makes some scripts slip past their ticks, but not most of them.
    let equal = said.split_once(" scripts equal").and_then(|(l, _)| l.rsplit(' ').next());
    let equal: u32 = equal.and_then(|n| n.parse().ok()).unwrap_or_else(|| panic!("{said}"));
    assert!(equal > runs / 2, "seed {seed}: only {equal} of {runs} were recorded\n{said}{trouble}");
}

/// What the campaign wrote about each difference.
fn reports(dir: &std::path::Path) -> String {
    let mut all = String::new();
    for e in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = e.path();
        let text = path.extension().is_some_and(|x| x == "txt" || x == "md");
        if path.is_dir() {
            all.push_str(&reports(&path));
        } else if text {
            all.push_str(&std::fs::read_to_string(path).unwrap_or_default());
        }
    }
    all
}

#[test]
fn nothing_differs_from_the_kernel_of_this_machine() {
    if !require("fuzz_host", &[Need::TunNode, Need::Netns, Need::Tap]) {
        return;
    }
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    if profile_for(release.trim()).is_none() {
        let _ = writeln!(std::io::stderr(), "NOT JUDGED fuzz_host: no profile stands for {}", release.trim());
        return;
    }
    nothing_differs("host", 60);
}

#[test]
fn nothing_differs_from_user_mode_linux() {
    if require("fuzz_uml", &[Need::Uml]) {
        nothing_differs("uml", 60);
    }
}
