//! `rightedge bench` as people use it. How fast anything is, is not tested: the machine that tests may be busy.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::process::{Command, Output, Stdio};

use assert_cmd::cargo::cargo_bin;
use rightedge_tapctl::rights::require_nothing_of;
use serde_json::Value;

fn bench(cwd: &Path, args: &[&str]) -> Output {
    let mut c = Command::new(cargo_bin!("rightedge"));
    c.current_dir(cwd).stdin(Stdio::null()).env("NO_COLOR", "1").arg("bench").args(args).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn scratch() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

fn json(cwd: &Path, args: &[&str]) -> Value {
    let o = bench(cwd, &[args, &["--json", "--rounds", "2", "--warm-up", "0"]].concat());
    serde_json::from_slice(&o.stdout).unwrap_or_else(|e| panic!("{args:?}: {e}: {}", text(&o.stderr)))
}

fn median(report: &Value, group: &str, case: &str) -> f64 {
    let all = report["measured"].as_array().unwrap();
    let m = all.iter().find(|m| m["group"] == group && m["case"] == case);
    let m = m.unwrap_or_else(|| panic!("no {group} {case} in {report:#}"));
    let mut rounds: Vec<f64> = m["rounds"].as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect();
    rounds.sort_by(f64::total_cmp);
    rounds[rounds.len() / 2]
}

#[test]
fn segments_are_measured_beside_the_rival_and_two_results_are_compared() {
    let cwd = scratch();
    let r = json(cwd.path(), &["segment", "--out", "a"]);
    for case in ["rightedge", "smoltcp", "rightedge, decisions on"] {
        assert!(median(&r, "segment/in-order-1448", case) > 0.0);
    }
    assert!(median(&r, "segment/holes", "100000") > 0.0);
    assert!(r["machine"].as_str().unwrap().contains("Linux") && r["complete"] == true);
    assert!(r["targets"].as_array().unwrap().len() >= 3, "{r:#}");
    let table = std::fs::read_to_string(cwd.path().join("a/bench.txt")).unwrap();
    assert!(table.contains("segment/in-order-1448") && table.contains("target"), "{table}");
    let o = bench(cwd.path(), &["compare", "a", "a/bench.json"]);
    assert_eq!(o.status.code(), Some(0), "{}", text(&o.stderr));
    assert!(text(&o.stdout).contains("as before") && !text(&o.stdout).contains("WORSE"));
}

#[test]
fn collapses_policies_and_crowds_are_measured() {
    let cwd = scratch();
    let r = json(
        cwd.path(),
        &["collapse", "policies", "scale", "--largest", "1", "--connections", "1000", "--out", "b"],
    );
    assert!(r["collapse"].as_array().unwrap().len() >= 14, "{}", r["collapse"]);
    let policy = |name: &str| -> Value {
        let all = r["policies"].as_array().unwrap();
        all.iter().find(|p| p["policy"] == name).unwrap_or_else(|| panic!("no {name}")).clone()
    };
    let taken = |name: &str| policy(name)["taken"].as_u64().unwrap();
    // Collapsing makes room; so do the ways to do it differently. Refusing does not.
    assert!(taken("on") > taken("off") && taken("large") >= taken("on") && taken("bounded") > taken("off"));
    assert!(policy("on")["charged"].as_u64().unwrap() <= (16 << 20) + 8192);
    // A crowd is idle somewhere.
    assert!(median(&r, "scale/idle", "1000") > 0.0 && median(&r, "scale/attack", "behind 100000") > 0.0);
    for file in ["b/bench.json", "b/bench.txt"] {
        assert!(cwd.path().join(file).is_file(), "{file}");
    }
    if cfg!(feature = "charts") {
        let png = std::fs::read(cwd.path().join("b/collapse.png")).unwrap();
        assert!(png.starts_with(b"\x89PNG"));
    }
}

/// Instructions are the same on a busy machine as on an idle one, so they may be held against a limit.
#[test]
fn a_segment_takes_no_more_instructions_than_it_did() {
    let valgrind = Command::new("valgrind").arg("--version").output().is_ok();
    let missing = ("valgrind".to_owned(), "not installed".to_owned(), "apt-get install valgrind".to_owned());
    if !require_nothing_of("bench_instructions", &if valgrind { vec![] } else { vec![missing] }) {
        return;
    }
    let cwd = scratch();
    let groups = ["--group", "in-order-1", "--group", "in-order-1448"];
    let r = json(cwd.path(), &[&["instructions", "--out", "c"][..], &groups].concat());
    for len in [1, 1448] {
        let of = |case: &str| median(&r, &format!("instructions/in-order-{len}"), case);
        let (ours, rival) = (of("rightedge"), of("smoltcp"));
        println!("{len} B: {ours:.0} instructions, smoltcp {rival:.0}");
        assert!(ours < LIMIT, "{len} B: {ours} instructions per segment; it was below {LIMIT}");
    }
}

/// Instructions per segment in the profile that tests are built with, and a tenth for another compiler.
const LIMIT: f64 = 2_100.0;

#[test]
fn what_is_typed_wrong_is_answered_with_what_is_right() {
    let cwd = scratch();
    for (args, words) in [
        (&["speed"][..], &["speed", "segment"][..]),
        (&["segment", "--rounds", "0"], &["--rounds", "1"]),
        (&["compare", "none", "none"], &["none"]),
        (&["path", "sideways:rightedge"], &["sideways", "in-order-1448"]),
    ] {
        let o = bench(cwd.path(), args);
        let said = text(&o.stderr);
        assert_eq!(o.status.code(), Some(2), "{args:?}: {said}");
        for word in words {
            assert!(said.contains(word), "{args:?}: no {word:?} in {said}");
        }
    }
}
