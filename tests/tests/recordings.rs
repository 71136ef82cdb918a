//! The library of recordings: what live kernels did, and the stack does the same.
//!
//! `RIGHTEDGE_BLESS=1` writes the figures and the table that the docs show instead of comparing them.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use rightedge::oracle::diff::{self, EXCLUDED};
use rightedge::oracle::replay::{profile_for, profile_of, replay};
use rightedge::oracle::script::Script;
use rightedge::oracle::trace::Trace;
use rightedge_tests::library::{self, root};

/// Directory of recordings and the profile that stands for its kernel.
const GENERATIONS: [(&str, &str); 4] = [
    ("linux-6.1.176-uml", "linux-6.1"),
    ("linux-6.12.117-uml", "linux-6.12"),
    ("linux-6.18.44", "linux-6.18"),
    ("linux-7.3.4-uml", "linux-7"),
];

fn below(dir: &str, ending: &str) -> Vec<PathBuf> {
    let mut all: Vec<PathBuf> =
        std::fs::read_dir(root().join(dir)).unwrap().map(|e| e.unwrap().path()).collect();
    all.retain(|p| p.to_str().unwrap().ends_with(ending));
    all.sort();
    assert!(!all.is_empty(), "no *{ending} in {dir}");
    all
}

/// Every recording with the file that it is in.
fn recordings() -> Vec<(PathBuf, Trace)> {
    library::files(&root().join("tests/recordings"))
        .unwrap()
        .into_iter()
        .flat_map(|f| Trace::load(&f).unwrap().into_iter().map(move |t| (f.clone(), t)))
        .collect()
}

#[test]
fn the_stack_does_what_each_kernel_did() {
    let check = library::check(&root().join("tests/recordings")).unwrap();
    assert!(check.differing.is_empty(), "{}", check.text());
}

#[test]
fn all_generations_are_there_with_what_a_reader_must_know() {
    let mut scripts: BTreeMap<PathBuf, Vec<String>> = BTreeMap::new();
    for f in below("tests/scripts", ".jsonl") {
        scripts.insert(f.clone(), Script::load(&f).unwrap().into_iter().map(|s| s.name).collect());
    }
    let mut seen: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (file, t) in recordings() {
        let at = format!("{}: {}", file.display(), t.name());
        let dir = file.parent().unwrap().file_name().unwrap().to_str().unwrap().to_owned();
        let (_, profile) = GENERATIONS.iter().find(|(d, _)| *d == dir).unwrap_or_else(|| panic!("{at}"));
        let h = &t.header;
        assert_eq!(profile_for(&h.kernel), Some(*profile), "{at}: {}", h.kernel);
        let release = dir.trim_start_matches("linux-").trim_end_matches("-uml");
        assert!(h.kernel.starts_with(release), "{at}: {}", h.kernel);
        let c = h.config.as_ref().unwrap_or_else(|| panic!("{at}: no config"));
        for (name, known) in [
            ("hz", c.hz.is_some()),
            ("max_header", c.max_header.is_some()),
            ("net_ip_align", c.net_ip_align.is_some()),
            ("max_skb_frags", c.max_skb_frags.is_some()),
        ] {
            assert!(known && c.from.contains_key(name), "{at}: config says nothing of {name}");
        }
        assert_eq!(c.hz, Some(t.hz()), "{at}");
        // What records it again names a file of scripts that holds it.
        let command = h.command.as_deref().unwrap_or_default();
        let script = command
            .strip_prefix("rightedge oracle record ")
            .and_then(|rest| rest.split(' ').next())
            .unwrap_or_else(|| panic!("{at}: command {command:?}"));
        let names =
            scripts.get(&root().join(script)).unwrap_or_else(|| panic!("{at}: {script} is not there"));
        assert!(names.iter().any(|n| n == t.name()), "{at}: not in {script}");
        let wanted = if dir.ends_with("-uml") { " --kernel uml" } else { " --kernel host" };
        assert!(command.contains(wanted), "{at}: {command}");
        // Complete, and every operation began in its tick.
        assert_eq!(t.footer.as_ref().map(|f| f.slips), Some(0), "{at}");
        assert_eq!(t.records.len(), t.script().unwrap().steps.len() + 1, "{at}");
        seen.entry(dir).or_default().push(t.name().to_owned());
    }
    assert_eq!(seen.keys().map(String::as_str).collect::<Vec<_>>(), GENERATIONS.map(|(d, _)| d));
    // Every script that was written by hand was played to each of them; the random ones to those they are for.
    for (file, names) in scripts.iter().filter(|(f, _)| !f.to_str().unwrap().contains("random")) {
        for (dir, all) in &seen {
            for name in names {
                let n = all.iter().filter(|n| *n == name).count();
                assert_eq!(n, 1, "{}: {name} in {dir}", file.display());
            }
        }
    }
}

#[test]
fn scripts_have_names_of_their_own_and_say_what_they_are_about() {
    for f in below("tests/scripts", ".jsonl") {
        let mut names: Vec<String> = Vec::new();
        for s in Script::load(&f).unwrap() {
            let random = f.file_name().unwrap().to_str().unwrap().starts_with("random");
            assert!(
                random || s.raw.get("about").is_some_and(|a| a.as_str().unwrap().len() > 10),
                "{}",
                s.name
            );
            assert!(!names.contains(&s.name), "{}: {} twice", f.display(), s.name);
            names.push(s.name);
        }
    }
}

#[test]
fn a_replay_twice_gives_the_same_bytes() {
    for (file, t) in recordings() {
        let once = || {
            let mut out = Vec::new();
            replay(&t, &profile_of(&t, None).unwrap(), false).unwrap().trace.write(&mut out).unwrap();
            out
        };
        assert!(once() == once(), "{}: {}", file.display(), t.name());
    }
}

#[test]
fn the_library_is_small() {
    let bytes: u64 = library::files(&root().join("tests/recordings"))
        .unwrap()
        .iter()
        .map(|f| std::fs::metadata(f).unwrap().len())
        .sum();
    assert!(bytes < 5 << 20, "{bytes} bytes of recordings");
}

/// Compares what a file of docs shows between two marks, or writes it.
fn shown(file: &Path, mark: &str, wanted: &str) {
    let path = root().join(file);
    let text = std::fs::read_to_string(&path).unwrap();
    let (begin, end) = (format!("<!-- {mark}:begin -->\n"), format!("<!-- {mark}:end -->"));
    let from = text.find(&begin).unwrap_or_else(|| panic!("{}: no {begin}", file.display())) + begin.len();
    let to = from + text[from..].find(&end).unwrap_or_else(|| panic!("{}: no {end}", file.display()));
    if std::env::var_os("RIGHTEDGE_BLESS").is_some() {
        std::fs::write(&path, format!("{}{wanted}{}", &text[..from], &text[to..])).unwrap();
        return;
    }
    assert_eq!(&text[from..to], wanted, "{}: {mark}; RIGHTEDGE_BLESS=1 writes it", file.display());
}

#[test]
fn the_docs_show_what_is_not_compared_and_how_much_is() {
    let rows: String = EXCLUDED.iter().map(|(field, why)| format!("| `{field}` | {why} |\n")).collect();
    shown(Path::new("docs/oracle.md"), "excluded", &format!("| field | why |\n|---|---|\n{rows}"));
    let check = library::check(&root().join("tests/recordings")).unwrap();
    let count = format!("{}\n", check.count());
    for file in ["docs/oracle.md", "README.md"] {
        shown(Path::new(file), "count", &count);
    }
}

#[test]
fn a_changed_number_is_found() {
    let (_, t) = recordings().remove(0);
    let ours = replay(&t, &profile_of(&t, None).unwrap(), false).unwrap().trace;
    let same = diff::compare(&t, &ours).len();
    let mut changed = ours.clone();
    let last = changed.records.last_mut().unwrap();
    *last.mem.get_mut("rmem_alloc").unwrap() += 1;
    let all = diff::compare(&t, &changed);
    assert_eq!(all.len(), same + 1);
    assert!(all.iter().any(|d| d.field == "mem.rmem_alloc" && d.record == t.records.len() as u64 - 1));
}
