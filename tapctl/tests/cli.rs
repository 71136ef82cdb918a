//! The program as people use it: private runs, named namespaces, being killed, having no rights.
#![allow(clippy::unwrap_used, missing_docs)]

use std::fs;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use rightedge_tapctl::link::Netlink;
use rightedge_tapctl::netns;
use rightedge_tapctl::rights::{Need, require};

fn tapctl() -> Command {
    Command::new(env!("CARGO_BIN_EXE_tapctl"))
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn run(arguments: &[&str]) -> Output {
    tapctl().args(arguments).stdin(Stdio::null()).output().unwrap()
}

/// Processes whose command line contains a marker.
fn processes_with(marker: &str) -> Vec<String> {
    fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| {
            let path = entry.ok()?.path();
            let line = text(&fs::read(path.join("cmdline")).ok()?);
            // A zombie has an empty command line, so what is found here really lives.
            line.contains(marker).then(|| format!("{} {line}", path.display()))
        })
        .collect()
}

fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < Duration::from_secs(10), "{what}: not within ten seconds");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn host_has(device: &str) -> bool {
    Netlink::open().unwrap().links().unwrap().iter().any(|link| link.name == device)
}

#[test]
fn run_builds_everything_and_returns_the_code_of_its_command() {
    if !require("cli_run", &[Need::Tap]) {
        return;
    }
    let inner = format!(
        "{} show; echo name=$TAPCTL_IFACE; cat /proc/sys/net/ipv4/tcp_rmem; exit 7",
        env!("CARGO_BIN_EXE_tapctl")
    );
    let output = run(&[
        "run",
        "--name",
        "rerun0",
        "--addr",
        "10.0.0.1/24",
        "--mtu",
        "1400",
        "--no-ipv6",
        "--route",
        "10.1.0.0/16 via 10.0.0.2 initcwnd 20 initrwnd 40",
        "--neigh",
        "10.0.0.2=02:00:00:00:00:02",
        "--sysctl",
        "tcp_rmem=4096 100000 200000",
        "--offload",
        "tso",
        "--",
        "sh",
        "-c",
        &inner,
    ]);
    let out = text(&output.stdout);
    assert_eq!(output.status.code(), Some(7), "{out}{}", text(&output.stderr));
    for part in [
        "rerun0 tun: up",
        "mtu 1400",
        "10.0.0.1/24",
        "initcwnd 20 initrwnd 40",
        "name=rerun0",
        "4096\t100000\t200000",
    ] {
        assert!(out.contains(part), "{part} missing in {out}");
    }
    assert!(!host_has("rerun0"));
}

#[test]
fn a_signal_becomes_128_and_its_number() {
    if !require("cli_signal", &[Need::Tap]) {
        return;
    }
    assert_eq!(run(&["run", "--", "sh", "-c", "kill -9 $$"]).status.code(), Some(137));
}

#[test]
fn nothing_is_left_after_sigkill() {
    if !require("cli_sigkill", &[Need::Tap]) {
        return;
    }
    let marker = format!("86399.{}", std::process::id());
    // One child in the foreground and a daemon in a session of its own.
    let script = format!("setsid sleep {marker} & exec sleep {marker}");
    let mut child = tapctl()
        .args(["run", "--name", "rekill0", "--addr", "10.0.0.1/24", "--", "sh", "-c", &script])
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    // Both sleeps, besides tapctl and its init, whose command lines carry the marker too.
    let sleeps = || processes_with(&marker).iter().filter(|line| line.contains(" sleep\0")).count();
    wait_until("two sleeping processes", || sleeps() == 2);
    assert!(!host_has("rekill0"), "the device must not be in the host's namespace");
    child.kill().unwrap();
    child.wait().unwrap();
    wait_until("all gone", || processes_with(&marker).is_empty());
    assert!(!host_has("rekill0"));
}

#[test]
fn a_named_namespace_stays_until_it_is_taken_down() {
    if !require("cli_named", &[Need::Tap, Need::NamedNetns]) {
        return;
    }
    let ns = format!("re-test-{}", std::process::id());
    let up = run(&["up", "rens0", "--ns", &ns, "--addr", "10.0.0.1/24", "--route", "10.9.0.0/16 initrwnd 9"]);
    assert!(up.status.success(), "{}", text(&up.stderr));
    let again = run(&["up", "rens1", "--ns", &ns]);
    assert!(again.status.success(), "{}", text(&again.stderr));
    let shown = text(&run(&["show", "--ns", &ns]).stdout);
    assert!(shown.contains("10.0.0.1/24") && shown.contains("10.9.0.0/16 dev rens0 initrwnd 9"), "{shown}");
    assert!(run(&["sockets", "--ns", &ns]).status.success());
    assert!(!host_has("rens0"));
    assert_eq!(run(&["down", "lo", "--ns", &ns]).status.code(), Some(2));
    assert!(run(&["down", "rens1", "--ns", &ns]).status.success());
    assert!(netns::list_named().contains(&ns));
    assert!(run(&["down", "rens0", "--ns", &ns]).status.success());
    assert!(!netns::list_named().contains(&ns));
    // A failed start leaves no namespace behind.
    let failed = run(&["up", "rens0", "--ns", &ns, "--route", "10.0.0.0/8 via 192.0.2.1"]);
    assert_eq!(failed.status.code(), Some(2));
    assert!(text(&failed.stderr).contains("add an address covering it first"), "{}", text(&failed.stderr));
    assert!(!netns::list_named().contains(&ns));
}

#[test]
fn bad_usage_is_two_and_says_what_to_write() {
    for (arguments, part) in [
        (&["run", "--addr", "10.0.0.1/99", "--", "true"][..], "write 10.0.0.1/24"),
        (&["run", "--route", "10.0.0.0/8 frob 1", "--", "true"], "frob"),
        (&["run", "--sysctl", "kernel.panic=1", "--", "true"], "whole machine"),
        (&["run", "--offload", "lro", "--", "true"], "csum,tso4,tso6,ecn,uso"),
        (&["run"], "COMMAND"),
        (&["show", "--ns", "../x"], "choose another"),
        (&["show", "--ns", "re-none"], "not found"),
    ] {
        let output = run(arguments);
        let error = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {error}");
        assert!(error.contains(part), "{arguments:?}: {error}");
    }
}

/// As an ordinary user: works where /dev/net/tun is open to all, and says precisely what is missing elsewhere.
#[test]
fn without_root() {
    if !require("cli_unprivileged", &[Need::NamedNetns]) {
        return;
    }
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
    // The build folder may be closed to others, so the program goes where anybody can run it.
    let folder = std::env::temp_dir().join(format!("re-tapctl-{}", std::process::id()));
    fs::create_dir(&folder).unwrap();
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).unwrap();
    let program = folder.join("tapctl");
    fs::copy(env!("CARGO_BIN_EXE_tapctl"), &program).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let as_nobody = |arguments: &[&str]| {
        let mut command = Command::new("setpriv");
        command
            .args(["--reuid=65534", "--regid=65534", "--clear-groups", "--"])
            .arg(&program)
            .args(arguments);
        command.current_dir("/").stdin(Stdio::null()).output().unwrap()
    };
    let (ran, doctor) = (as_nobody(&["run", "--", "true"]), as_nobody(&["doctor"]));
    let named = as_nobody(&["up", "re0", "--ns", "re-nobody"]);
    fs::remove_dir_all(&folder).unwrap();
    let report = text(&doctor.stdout);
    assert_eq!(named.status.code(), Some(3), "{}", text(&named.stderr));
    if fs::metadata("/dev/net/tun").unwrap().mode() & 0o006 == 0o006 {
        assert!(ran.status.success(), "{}{report}", text(&ran.stderr));
        assert!(doctor.status.success(), "{report}");
    } else {
        let error = text(&ran.stderr);
        assert_eq!((ran.status.code(), doctor.status.code()), (Some(3), Some(3)), "{error}{report}");
        assert!(
            error.contains("chmod 666 /dev/net/tun") && report.contains("chmod 666 /dev/net/tun"),
            "{error}{report}"
        );
    }
}
