//! The interoperability matrix as people use it: real stacks, hostile peers, other machines, and what is left behind.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use assert_cmd::cargo::cargo_bin;
use rightedge::interop::peer::inventory;
use rightedge_tapctl::link::{Cidr, Netlink};
use rightedge_tapctl::netns::PrivateNet;
use rightedge_tapctl::rights::{Need, require, require_nothing_of};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

fn rightedge(cwd: &Path) -> Command {
    let mut c = Command::new(cargo_bin!("rightedge"));
    c.current_dir(cwd).stdin(Stdio::null()).env_remove("RIGHTEDGE_LOG").env("NO_COLOR", "1");
    c
}

fn scratch() -> TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

fn interop(cwd: &Path, args: &[&str]) -> Output {
    rightedge(cwd).arg("interop").args(args).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// The results of `rightedge interop --json` with these arguments, into `out`.
fn matrix(cwd: &Path, args: &[&str]) -> Value {
    let o = interop(cwd, &[args, &["--json", "--out", "out"]].concat());
    serde_json::from_slice(&o.stdout).unwrap_or_else(|e| panic!("{args:?}: {e}: {}", text(&o.stderr)))
}

fn cell<'a>(results: &'a Value, peer: &str, situation: &str) -> &'a Value {
    let mut cells = results["cells"].as_array().unwrap().iter();
    cells
        .find(|c| c["peer"] == peer && c["situation"] == situation)
        .unwrap_or_else(|| panic!("no cell {peer} {situation} in {results:#}"))
}

/// The clauses of a cell that came out so.
fn clauses(cell: &Value, outcome: &str) -> BTreeSet<String> {
    let verdicts = cell["verdicts"].as_array().unwrap_or_else(|| panic!("not judged: {cell:#}"));
    let mut these = BTreeSet::new();
    for v in verdicts.iter().filter(|v| v["outcome"] == outcome) {
        these.insert(v["clause"].as_str().unwrap().to_owned());
    }
    these
}

fn broken(cell: &Value) -> BTreeSet<String> {
    clauses(cell, "broken")
}

fn these(ids: &[&str]) -> BTreeSet<String> {
    ids.iter().map(|id| (*id).to_owned()).collect()
}

/// Are these peers installed? If not, says so aloud.
fn peers_are_here(test: &str, peers: &[&str]) -> bool {
    let lacks = |name: &&str| {
        let why = inventory::check(&name.parse().unwrap()).err()?;
        let (detail, fix) = why.split_once("; to get it: ").unwrap_or((why.as_str(), ""));
        Some((format!("peer {name}"), detail.to_owned(), fix.to_owned()))
    };
    require_nothing_of(test, &peers.iter().filter_map(lacks).collect::<Vec<_>>())
}

/// Command lines of processes that hold `mark`, other than those of our own.
fn running(mark: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        if line.contains(mark) && !line.contains("interop") {
            found.push(line);
        }
    }
    found
}

/// Waits until nothing with `mark` runs any more.
fn ends(mark: &str) {
    let start = Instant::now();
    while !running(mark).is_empty() {
        assert!(start.elapsed() < Duration::from_secs(10), "still running: {:?}", running(mark));
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

#[test]
fn the_short_form_comes_out_as_the_baseline_says() {
    if !peers_are_here("interop_short", &inventory::SHORT) {
        return;
    }
    let cwd = scratch();
    let baseline = repository().join("tests/interop/baseline.json");
    let o = interop(cwd.path(), &["--short", "--out", "out", "--baseline", baseline.to_str().unwrap()]);
    assert_eq!(o.status.code(), Some(0), "{}{}", text(&o.stdout), text(&o.stderr));
    assert!(text(&o.stderr).contains("baseline: 40 as before, 0 changed, 0 new"), "{}", text(&o.stderr));

    let results: Value =
        serde_json::from_slice(&fs::read(cwd.path().join("out/results.json")).unwrap()).unwrap();
    assert_eq!((&results["complete"], &results["format"]), (&true.into(), &1.into()));
    let stacks: BTreeSet<&str> =
        results["cells"].as_array().unwrap().iter().filter_map(|c| c["stack"].as_str()).collect();
    assert_eq!(stacks.len(), 5, "{stacks:?}");
    // Linux takes a smaller window only with an acknowledgement of something new. That it shows needs a recovery without a
    // time-out, which a busy machine can prevent, but hardly for both kernels.
    let stubborn = |peer: &str| broken(cell(&results, peer, "shrink-in-duplicates"));
    let found = these(&["SHLD-15", "in-window"]);
    assert!(stubborn("linux") == found || stubborn("uml") == found, "{results:#}");
    for peer in inventory::SHORT {
        // Every capture of the row gives the same verdicts again.
        for c in results["cells"].as_array().unwrap().iter().filter(|c| c["peer"] == peer) {
            let capture = cwd.path().join("out").join(c["capture"].as_str().unwrap());
            let o = interop(cwd.path(), &["judge", "--json", capture.to_str().unwrap()]);
            let again: Value = serde_json::from_slice(&o.stdout).unwrap();
            assert_eq!(again["verdicts"], c["verdicts"], "{}", capture.display());
        }
    }
    // The shrinking policy of the receiver itself is one of the situations, and it did move the edge.
    assert!(cell(&results, "linux", "natural")["figures"]["retractions"].as_u64().unwrap() > 0);
    assert_eq!(cell(&results, "linux", "natural-control")["figures"]["retractions"], 0);
    // Another baseline, and the change shows.
    let mut other: Value = serde_json::from_slice(&fs::read(&baseline).unwrap()).unwrap();
    other["cells"]["lwip"]["plain"] = serde_json::json!([{"end": "reset", "broken": ["SHLD-17"]}]);
    fs::write(cwd.path().join("other.json"), other.to_string()).unwrap();
    let o = interop(cwd.path(), &["report", "out", "--baseline", "other.json"]);
    let said = text(&o.stderr);
    assert_eq!(o.status.code(), Some(1), "{said}");
    assert!(said.contains("lwip / plain\n  - reset, broken: SHLD-17\n  + complete\n"), "{said}");
    assert!(fs::read_to_string(cwd.path().join("out/junit.xml")).unwrap().contains("failures=\"1\""));
}

#[test]
fn what_is_known_of_other_stacks_comes_out() {
    let peers = ["gvisor", "slirp", "passt", "smoltcp", "lwip"];
    if !peers_are_here("interop_known", &peers) {
        return;
    }
    let cwd = scratch();
    let mut args: Vec<&str> = peers.iter().flat_map(|p| ["-p", p]).collect();
    args.extend(["window-one", "zero-silent", "hold-at-edge"].iter().flat_map(|s| ["-s", s]));
    let results = matrix(cwd.path(), &args);
    let broken_in = |peer: &str, situation: &str| broken(cell(&results, peer, situation));
    // gVisor keeps silent while the window is open and smaller than its segment.
    assert_eq!(broken_in("gvisor", "window-one"), these(&["SHLD-16"]));
    assert_eq!(broken_in("gvisor", "zero-silent"), these(&[]));
    // smoltcp does not probe while data are in flight.
    assert!(broken_in("smoltcp", "zero-silent").contains("MUST-35"));
    assert_eq!(broken_in("smoltcp", "window-one"), these(&[]));
    // libslirp does not probe a window that closed at an edge it had moved to.
    assert!(broken_in("slirp", "hold-at-edge").contains("MUST-35"));
    // passt gives a closed window sixteen seconds.
    assert!(broken_in("passt", "hold-at-edge").contains("MUST-35"));
    for situation in ["window-one", "zero-silent", "hold-at-edge"] {
        assert_eq!(broken_in("lwip", situation), these(&[]), "{situation}");
    }
}

#[test]
fn a_kernel_that_gives_up_early_is_found_out_and_said_to_be_patient_it_is_not() {
    if !peers_are_here("interop_retries", &["linux"]) {
        return;
    }
    let cwd = scratch();
    let results =
        matrix(cwd.path(), &["-p", "linux,net.ipv4.tcp_retries2=5", "-p", "linux", "-s", "edge-left"]);
    assert_eq!(
        broken(cell(&results, "linux,net.ipv4.tcp_retries2=5", "edge-left")),
        these(&["SHLD-17"]),
        "{results:#}"
    );
    assert_eq!(broken(cell(&results, "linux", "edge-left")), these(&[]), "{results:#}");
}

#[test]
fn the_exit_code_says_what_was_asked_for() {
    let cwd = scratch();
    let run = |peer: &str, situation: &str, more: &[&str]| {
        let args = ["-p", peer, "-s", situation, "--out", "out", "--force"];
        interop(cwd.path(), &[&args, more].concat()).status.code()
    };
    assert_eq!(run("bad:never-probes", "zero-silent", &[]), Some(0));
    assert_eq!(run("bad:never-probes", "zero-silent", &["--fail-on", "must"]), Some(1));
    assert_eq!(run("bad:probes-steadily", "zero-silent", &["--fail-on", "must"]), Some(0));
    assert_eq!(run("bad:probes-steadily", "zero-silent", &["--fail-on", "should"]), Some(1));
    assert_eq!(run("model", "zero-silent", &["--fail-on", "should"]), Some(0));
    // A capture is judged with the same code.
    let judged = |file: &str| interop(cwd.path(), &["judge", file]).status.code();
    assert_eq!(judged("out/model/zero-silent.pcapng"), Some(0));
    assert_eq!(judged("out/bad_never-probes/zero-silent.pcapng"), Some(1));
    // A baseline that allows two outcomes is made by widening.
    assert_eq!(run("bad:resets", "zero-silent", &["--write-baseline", "b.json"]), Some(0));
    assert_eq!(run("bad:resets", "zero-silent", &["--baseline", "b.json"]), Some(0));
}

/// A program that is a peer only by name.
fn program(dir: &Path, name: &str, script: &str) -> String {
    let path = dir.join(name);
    fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    format!("exec:{}", path.display())
}

#[test]
fn peers_that_hang_die_or_flood_are_contained() {
    let cwd = scratch();
    let dir = cwd.path();
    // Each leaves a helper behind that would outlive it.
    let helper = |seconds: u32| format!("setsid sleep {seconds} </dev/null >/dev/null 2>&1 &");
    let peers = [
        ("hangs", program(dir, "hangs", &format!("{}\nexec sleep 7654321", helper(7654322)))),
        (
            "dies",
            program(dir, "dies", &format!("{}\necho 'my stack crashed' >&2\nkill -9 $$", helper(7654323))),
        ),
        ("chatters", program(dir, "chatters", "exec yes 7654324")),
        ("eats", program(dir, "eats", &format!("{}\nexec tail /dev/zero", helper(7654325)))),
        (
            "floods",
            program(
                dir,
                "floods",
                &format!("{}\nwhile printf garbagegarbagegarbage >&0; do :; done", helper(7654326)),
            ),
        ),
        ("absent", "exec:./no-such-program".to_owned()),
    ];
    let mut args: Vec<&str> = peers.iter().flat_map(|(_, p)| ["-p", p.as_str()]).collect();
    args.extend(["-s", "plain"]);
    let began = Instant::now();
    let results = matrix(dir, &args);
    assert!(began.elapsed() < Duration::from_secs(60), "{:?}", began.elapsed());
    let why = |name: &str| {
        let (_, peer) = peers.iter().find(|(n, _)| *n == name).unwrap();
        let c = cell(&results, peer, "plain");
        assert_eq!(c["state"], "failed", "{c:#}");
        c["why"].as_str().unwrap().to_owned()
    };
    assert!(why("hangs").contains("never came"), "{}", why("hangs"));
    assert!(why("dies").contains("my stack crashed"), "{}", why("dies"));
    assert!(why("chatters").contains("no connection"), "{}", why("chatters"));
    assert!(why("eats").contains("memory"), "{}", why("eats"));
    assert!(why("floods").contains("frame upon frame"), "{}", why("floods"));
    assert!(why("absent").contains("./no-such-program"), "{}", why("absent"));
    ends("765432");
}

/// Starts a matrix with a peer that hangs, and waits until that runs.
fn started(dir: &Path, mark: u32) -> std::process::Child {
    let peer = program(dir, "hangs", &format!("exec sleep {mark}"));
    let child = rightedge(dir)
        .args(["interop", "-p", "model", "-p", &peer, "-s", "plain", "--out", "out"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let start = Instant::now();
    while running(&mark.to_string()).is_empty() || !dir.join("out/model/plain.json").is_file() {
        assert!(start.elapsed() < Duration::from_secs(20), "it did not start");
        std::thread::sleep(Duration::from_millis(20));
    }
    child
}

#[test]
fn an_interrupted_matrix_leaves_its_results_and_nothing_running() {
    let cwd = scratch();
    let mut child = started(cwd.path(), 8_765_431);
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130));
    ends("8765431");
    let results: Value =
        serde_json::from_slice(&fs::read(cwd.path().join("out/results.json")).unwrap()).unwrap();
    assert_eq!(results["complete"], false);
    assert_eq!(cell(&results, "model", "plain")["overall"], "clean");
}

#[test]
fn a_killed_matrix_leaves_its_cells_and_nothing_running() {
    let cwd = scratch();
    let mut child = started(cwd.path(), 8_765_432);
    kill_process(Pid::from_child(&child), Signal::KILL).unwrap();
    child.wait().unwrap();
    ends("8765432");
    assert!(!cwd.path().join("out/results.json").exists());
    let o = interop(cwd.path(), &["report", "out"]);
    assert_eq!(o.status.code(), Some(0), "{}", text(&o.stderr));
    assert!(text(&o.stdout).contains("model"), "{}", text(&o.stdout));
    assert!(fs::read_to_string(cwd.path().join("out/report.html")).unwrap().contains("plain"));
}

/// Connects to `to` as soon as somebody answers, and sends zeros: `bytes` of them and the end, or until it is told to stop.
fn send(to: SocketAddr, bytes: Option<usize>) {
    let start = Instant::now();
    let mut stream = loop {
        match TcpStream::connect_timeout(&to, Duration::from_secs(2)) {
            Ok(s) => break s,
            Err(e) => assert!(start.elapsed() < Duration::from_secs(20), "{to}: {e}"),
        }
        std::thread::sleep(Duration::from_millis(50));
    };
    stream.set_write_timeout(Some(Duration::from_secs(60))).unwrap();
    let mut left = bytes.unwrap_or(usize::MAX);
    while left > 0 {
        match stream.write(&[0; 4096][..left.min(4096)]) {
            Ok(n) => left -= n,
            Err(_) if bytes.is_none() => return,
            Err(e) => panic!("{to}: {e}"),
        }
    }
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let _ = stream.read(&mut [0; 1]);
}

/// `rightedge interop serve` in a namespace with a cable to another one, where a kernel sends.
fn serve(place: &str, prepare: impl FnOnce(&mut Netlink) + Send) -> (TempDir, Output) {
    let cwd = scratch();
    let (ours, theirs) = (PrivateNet::new().unwrap(), PrivateNet::new().unwrap());
    ours.run(|| {
        let mut link = Netlink::open().unwrap();
        link.create_veth("cable", "device", Some(std::os::fd::AsFd::as_fd(&theirs))).unwrap();
        link.set_up("cable").unwrap();
        prepare(&mut link);
    })
    .unwrap();
    theirs
        .run(|| {
            let mut link = Netlink::open().unwrap();
            link.add_address("device", "192.0.2.1/24".parse::<Cidr>().unwrap()).unwrap();
            link.set_up("device").unwrap();
        })
        .unwrap();
    let mut command = rightedge(cwd.path());
    command
        .args(["interop", "serve", "--address", "192.0.2.9/24", "--name", "a kernel", "--out", "out"])
        .args(["-s", "plain", "-s", "shrink-in-flight", "-s", "zero-in-flight", "--wait", "20s"])
        .args(place.split(' '))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let child = ours.spawn(&mut command).unwrap();
    theirs
        .run(|| {
            // In turn; then a situation by its own port; the last of them never stops by itself.
            send("192.0.2.9:5001".parse().unwrap(), Some(60_000));
            send("192.0.2.9:5004".parse().unwrap(), None);
            send("192.0.2.9:5001".parse().unwrap(), Some(300_000));
        })
        .unwrap();
    let o = child.wait_with_output().unwrap();
    (cwd, o)
}

fn served(cwd: &Path, o: &Output) {
    assert_eq!(o.status.code(), Some(0), "{}{}", text(&o.stdout), text(&o.stderr));
    let results: Value = serde_json::from_slice(&fs::read(cwd.join("out/results.json")).unwrap()).unwrap();
    for (situation, end) in
        [("plain", "complete"), ("shrink-in-flight", "enough"), ("zero-in-flight", "enough")]
    {
        let c = cell(&results, "a kernel", situation);
        assert_eq!((&c["overall"], &c["end"]), (&"clean".into(), &end.into()), "{c:#}");
        let capture = cwd.join("out").join(c["capture"].as_str().unwrap());
        assert!(fs::metadata(capture).unwrap().len() > 10_000);
    }
    assert!(cell(&results, "a kernel", "shrink-in-flight")["figures"]["retractions"].as_u64().unwrap() > 0);
}

const NEEDS: [Need; 2] = [Need::Netns, Need::Packet];

#[test]
fn a_machine_behind_an_interface_is_served() {
    if !require("interop_serve_interface", &NEEDS) {
        return;
    }
    let (cwd, o) = serve("--interface cable", |_| ());
    served(cwd.path(), &o);
}

#[test]
fn a_machine_on_a_bridge_is_served() {
    if !require("interop_serve_bridge", &NEEDS) {
        return;
    }
    let (cwd, o) = serve("--bridge br", |link| {
        link.create_bridge("br").unwrap();
        link.set_master("cable", "br").unwrap();
        link.set_up("br").unwrap();
    });
    served(cwd.path(), &o);
}

#[test]
fn what_is_typed_wrong_is_answered_with_what_is_right() {
    let cwd = scratch();
    fs::write(
        cwd.path().join("no.toml"),
        "name = \"no\"\nabout = \"x\"\nstep = [{ name = \"a\", windw = 3 }]\n",
    )
    .unwrap();
    fs::create_dir(cwd.path().join("full")).unwrap();
    fs::write(cwd.path().join("full/file"), "").unwrap();
    fs::write(cwd.path().join("noise.pcapng"), [7; 4096]).unwrap();
    let refused = |args: &[&str], words: &[&str]| {
        let o = interop(cwd.path(), args);
        let said = text(&o.stderr);
        assert_eq!((o.status.code(), text(&o.stdout)), (Some(2), String::new()), "{args:?}: {said}");
        for word in words {
            assert!(said.contains(word), "{args:?}: no {word:?} in {said}");
        }
    };
    refused(&["-p", "windows"], &["windows", "linux", "exec:COMMAND"]);
    refused(&["-p", "linux,cc"], &["cc"]);
    refused(&["-p", "smoltcp,sack=off"], &["sack", "smoltcp"]);
    refused(&["-p", "model,wscale=15"], &["wscale", "15"]);
    refused(&["-p", "bad:manners"], &["manners", "never-probes"]);
    refused(&["-p", "qemu:/no/such/image"], &["/no/such/image"]);
    refused(&["-p", "model", "-s", "quiet"], &["quiet", "plain"]);
    refused(&["-p", "model", "-s", "no.toml"], &["no.toml", "windw"]);
    refused(&["-p", "model", "-s", "plain", "-s", "plain"], &["twice"]);
    refused(&["-p", "model", "--out", "full"], &["full", "--force"]);
    refused(&["-p", "model", "--baseline", "none.json"], &["none.json", "--write-baseline"]);
    refused(&["-p", "model", "--write-baseline", "a", "--widen-baseline", "b"], &["cannot be used"]);
    refused(&["judge", "noise.pcapng"], &["noise.pcapng"]);
    refused(&["report", "full"], &["full", "no results"]);
    refused(&["serve", "-i", "none0", "-a", "192.0.2.9/24"], &["none0"]);
    refused(&["serve", "-i", "lo", "-b", "br0", "-a", "192.0.2.9/24"], &["cannot be used"]);
    refused(&["serve", "-i", "lo", "-a", "2001:db8::1/64"], &["2001:db8::1", "IPv4"]);
}

#[test]
fn lists_are_for_people_and_for_programs() {
    let cwd = scratch();
    let json = |args: &[&str]| -> Value {
        let o = rightedge(cwd.path()).args(args).output().unwrap();
        assert_eq!(o.status.code(), Some(0), "{}", text(&o.stderr));
        serde_json::from_slice(&o.stdout).unwrap()
    };
    let situations = json(&["interop", "situations", "--json"]);
    let situations = situations.as_array().unwrap();
    assert!(situations.len() >= 20 && situations.iter().all(|s| s["about"].is_string()));
    let peers = json(&["peers", "--json"]);
    for p in peers.as_array().unwrap() {
        // What is not there has a reason and a remedy.
        assert!(p["version"].is_string() || (p["missing"].is_string() && p["fix"].is_string()), "{p}");
    }
    assert!(peers.as_array().unwrap().iter().any(|p| p["peer"] == "smoltcp" && p["version"].is_string()));
    let o = rightedge(cwd.path()).args(["interop", "situations", "--long"]).output().unwrap();
    assert!(text(&o.stdout).contains("shrink-in-duplicates") && text(&o.stdout).contains("for MUST-34"));
}
