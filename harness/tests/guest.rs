//! Recording inside kernels booted for it.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use assert_cmd::cargo::cargo_bin;
use rightedge::guest::{GuestError, Kernel, Program};
use rightedge::oracle::guest::record_batch_as;
use rightedge::oracle::recorder::Options;
use rightedge::oracle::script::Script;
use rightedge::oracle::trace::Trace;
use rightedge_tapctl::rights::{Need, require};

const SCRIPTS: &str = r#"
{"name":"one","about":"A segment and a read","ops":[{"op":"inject","len":1000},{"op":"read","n":"all"}]}
{"name":"two","about":"Two segments","ops":[{"op":"inject","len":100},{"op":"inject","len":200}]}
"#;

type Results = BTreeMap<usize, Result<Trace, GuestError>>;

fn record(kernel: &Kernel, options: &Options) -> (Results, Result<(), GuestError>) {
    let program = Program::at(cargo_bin!("rightedge"));
    let scripts = Script::parse_all("test", SCRIPTS, None).unwrap();
    let mut results = BTreeMap::new();
    let end = record_batch_as(&program, kernel, &scripts, options, &mut |n, r| {
        assert!(results.insert(n, r).is_none(), "script {n} was reported twice");
    });
    (results, end)
}

/// Both scripts come back with a trace each.
fn both_are_recorded(kernel: &Kernel) {
    // The machine may be busy with other tests.
    let options = Options { command: Some("a test".to_owned()), tries: 30, ..Options::default() };
    let (mut results, end) = record(kernel, &options);
    end.unwrap();
    for (n, name) in [(0, "one"), (1, "two")] {
        let t = results.remove(&n).unwrap().unwrap();
        assert_eq!(t.name(), name);
        assert!(t.footer.is_some() && !t.records.is_empty());
        assert!(t.header.kernel.starts_with(|c: char| c.is_ascii_digit()), "{}", t.header.kernel);
        assert_eq!(t.header.command.as_deref(), Some("a test"));
    }
}

fn uml() -> Kernel {
    "uml".parse().unwrap()
}

#[test]
fn scripts_are_recorded_under_user_mode_linux() {
    if require("guest_uml", &[Need::Uml]) {
        both_are_recorded(&uml());
    }
}

#[test]
fn several_guests_run_beside_each_other() {
    if !require("guest_uml_several", &[Need::Uml]) {
        return;
    }
    let one = || {
        let (results, end) = record(&uml(), &Options::default());
        end.unwrap();
        assert_eq!(results.len(), 2);
        for result in results.into_values() {
            // There may be fewer processors than guests: then operations come late, and nothing worse.
            match result {
                Ok(t) => assert!(t.footer.is_some()),
                Err(e) => assert!(matches!(e, GuestError::Script { .. }), "{e}"),
            }
        }
    };
    std::thread::scope(|s| {
        for _ in 0..3 {
            s.spawn(one);
        }
    });
}

#[test]
fn a_guest_is_stopped_in_the_middle_of_a_script() {
    if !require("guest_uml_stop", &[Need::Uml]) {
        return;
    }
    let text = r#"{"name":"short"}{"name":"long","ops":[{"op":"sleep","ms":1000000}]}"#;
    let scripts = Script::parse_all("test", text, None).unwrap();
    let (options, program) = (Options::default(), Program::at(cargo_bin!("rightedge")));
    let begun = Instant::now();
    let mut heard = Vec::new();
    let end = record_batch_as(&program, &uml(), &scripts, &options, &mut |n, _| {
        heard.push(n);
        options.stop.store(true, Ordering::Relaxed);
    });
    assert!(end.is_ok() && heard == [0], "{end:?} {heard:?}");
    assert!(begun.elapsed() < Duration::from_secs(60));
}

#[test]
fn a_guest_that_does_not_boot_is_no_riddle() {
    let begun = Instant::now();
    let (results, end) = record(&Kernel::Uml(PathBuf::from("/bin/false")), &Options::default());
    let said = end.unwrap_err().to_string();
    assert!(
        results.is_empty() && said.contains("uml:/bin/false") && said.contains("exit status: 1"),
        "{said}"
    );
    assert!(begun.elapsed() < Duration::from_secs(10));
}

/// The image of the running kernel, if this machine keeps it readable.
fn image() -> Option<PathBuf> {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let named = std::env::var_os("RIGHTEDGE_TEST_IMAGE").map(PathBuf::from);
    let own = Path::new("/boot").join(format!("vmlinuz-{release}"));
    named.or(Some(own)).filter(|p| std::fs::File::open(p).is_ok())
}

#[test]
fn scripts_are_recorded_under_qemu() {
    if !require("guest_qemu", &[Need::Qemu]) {
        return;
    }
    match image() {
        Some(image) => both_are_recorded(&Kernel::Qemu(image)),
        // The test harness captures print macros but not the stream itself.
        None => {
            let why = "no readable kernel image in /boot; set RIGHTEDGE_TEST_IMAGE to one";
            writeln!(std::io::stderr(), "SKIPPED guest_qemu: {why}").unwrap();
        }
    }
}
