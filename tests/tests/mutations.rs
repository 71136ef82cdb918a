//! The bench itself is tested: rules that are wrong on purpose, each of which the recordings must catch.
//!
//! Each mutation is applied to a copy of the stack, built with the parts of the harness that replay, and the library is
//! replayed: some minutes in all, so it is done on request, with `RIGHTEDGE_MUTATIONS=1`.
#![allow(clippy::unwrap_used)]

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use rightedge_tests::library::root;
use serde::Deserialize;
use serde_json::Value;

/// Set to 1 to run what takes minutes.
const ASKED: &str = "RIGHTEDGE_MUTATIONS";

#[derive(Deserialize)]
struct Mutations {
    mutation: Vec<Mutation>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Mutation {
    name: String,
    file: PathBuf,
    from: String,
    to: String,
    breaks: String,
}

impl Mutation {
    fn applied(&self) -> String {
        let path = root().join("stack/src").join(&self.file);
        let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let n = text.matches(&self.from).count();
        assert_eq!(n, 1, "{}: its text occurs {n} times in {}", self.name, self.file.display());
        text.replace(&self.from, &self.to)
    }
}

fn mutations() -> Vec<Mutation> {
    let text = std::fs::read_to_string(root().join("tests/mutations.toml")).unwrap();
    toml::from_str::<Mutations>(&text).unwrap().mutation
}

#[test]
fn each_mutation_still_applies() {
    let all = mutations();
    assert!(all.len() >= 10, "{} mutations", all.len());
    for (i, m) in all.iter().enumerate() {
        assert!(m.from != m.to && !m.breaks.is_empty(), "{}", m.name);
        assert!(all[..i].iter().all(|other| other.name != m.name), "{} twice", m.name);
        m.applied();
    }
}

/// A workspace with a copy of the stack and a program that replays; built again and again in one target directory.
struct Scratch {
    dir: PathBuf,
    round: u64,
}

impl Scratch {
    fn new() -> Self {
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("mutations");
        let target = dir.join("target");
        // What was built stays: only the sources are new.
        for old in std::fs::read_dir(&dir).into_iter().flatten().map(|e| e.unwrap().path()) {
            if old != target {
                if old.is_dir() { std::fs::remove_dir_all(old) } else { std::fs::remove_file(old) }.unwrap();
            }
        }
        copy(&root().join("stack/src"), &dir.join("stack/src"));
        copy(&root().join("stack/Cargo.toml"), &dir.join("stack/Cargo.toml"));
        for file in ["Cargo.toml", "lib.rs", "check.rs"] {
            copy(&root().join("tests/mutants").join(file), &dir.join("mutants").join(file));
        }
        copy(&root().join("tests/library.rs"), &dir.join("mutants/library.rs"));
        for module in ["diff", "facts", "payload", "replay", "script", "trace", "vnet"] {
            let file = format!("oracle/{module}.rs");
            copy(&root().join("harness/src").join(&file), &dir.join("mutants").join(&file));
        }
        copy(&root().join("harness/src/oracle/script"), &dir.join("mutants/oracle/script"));
        copy(&root().join("Cargo.lock"), &dir.join("Cargo.lock"));
        let workspace = std::fs::read_to_string(root().join("Cargo.toml")).unwrap();
        let workspace: String = workspace
            .lines()
            .filter(|l| !l.starts_with("default-members"))
            .map(|l| if l.starts_with("members") { "members = [\"stack\", \"mutants\"]" } else { l })
            .map(|l| format!("{l}\n"))
            .collect();
        std::fs::write(dir.join("Cargo.toml"), workspace).unwrap();
        Scratch { dir, round: 0 }
    }

    fn put(&mut self, file: &Path, text: &str) {
        let path = self.dir.join("stack/src").join(file);
        std::fs::write(&path, text).unwrap();
        // A clock may be coarser than two builds are apart.
        self.round += 1;
        let later = SystemTime::now() + Duration::from_secs(self.round);
        std::fs::File::open(&path).unwrap().set_modified(later).unwrap();
    }

    /// Builds and replays. What differs: name of the recording and first field.
    fn check(&self) -> Vec<(String, String)> {
        let out = Command::new(env!("CARGO"))
            .args(["run", "--offline", "--quiet", "--bin", "check", "--"])
            .arg(root().join("tests/recordings"))
            .current_dir(&self.dir)
            .env("CARGO_TARGET_DIR", self.dir.join("target"))
            .env("RUSTFLAGS", "--cap-lints allow")
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&out.stderr);
        assert!(out.status.success(), "{said}");
        let text = String::from_utf8(out.stdout).unwrap();
        let mut lines: Vec<Value> = text.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
        let last = lines.pop().unwrap();
        assert!(last["recordings"].as_u64().unwrap() > 100, "{last}");
        lines
            .iter()
            .map(|l| (l["name"].as_str().unwrap().to_owned(), l["first"].as_str().unwrap().to_owned()))
            .collect()
    }
}

fn copy(from: &Path, to: &Path) {
    if from.is_dir() {
        for e in std::fs::read_dir(from).unwrap().map(|e| e.unwrap()) {
            copy(&e.path(), &to.join(e.file_name()));
        }
        return;
    }
    std::fs::create_dir_all(to.parent().unwrap()).unwrap();
    std::fs::copy(from, to).unwrap_or_else(|e| panic!("{}: {e}", from.display()));
}

/// Past the capture of the test harness.
fn say(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

#[test]
fn each_mutation_is_caught() {
    if std::env::var(ASKED).as_deref() != Ok("1") {
        say(&format!("NOT ASKED FOR: each_mutation_is_caught takes minutes; {ASKED}=1 runs it"));
        return;
    }
    let mut scratch = Scratch::new();
    let before = scratch.check();
    if !before.is_empty() {
        say(&format!("{} recordings differ without a mutation already and do not count", before.len()));
    }
    say("| wrong rule | recordings that differ | first field |\n|---|---|---|");
    let mut missed = Vec::new();
    for m in mutations() {
        let original = std::fs::read_to_string(root().join("stack/src").join(&m.file)).unwrap();
        scratch.put(&m.file, &m.applied());
        let mut differ = scratch.check();
        differ.retain(|d| !before.contains(d));
        scratch.put(&m.file, &original);
        // As in `window-linear: rx[0].win`.
        let first = differ.first().map_or_else(
            || "none".to_owned(),
            |(name, first)| format!("`{}` in {name}", first.split(':').next().unwrap_or_default()),
        );
        say(&format!("| {} | {} | {first} |", m.name, differ.len()));
        if differ.is_empty() {
            missed.push(format!("{}: {}", m.name, m.breaks));
        }
    }
    assert!(missed.is_empty(), "not caught: {missed:#?}");
}
