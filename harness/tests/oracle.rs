//! What can be typed about recordings: replay, diff, check, scripts; and how malformed ones are refused.

use std::fs;
use std::path::{Path, PathBuf};

use assert_cmd::Command;

fn rightedge() -> Command {
    Command::new(assert_cmd::cargo::cargo_bin!("rightedge"))
}

/// Exit code, standard output, standard error.
fn run(args: &[&str]) -> (i32, String, String) {
    let out = rightedge().args(args).output().unwrap();
    let text = |b: Vec<u8>| String::from_utf8(b).unwrap();
    (out.status.code().unwrap_or(-1), text(out.stdout), text(out.stderr))
}

/// A trace as another program might write it: no handshake recorded, unknown fields, one segment, one read.
const FOREIGN: &str = r#"{"header":{"script":{"name":"foreign","listener":[["SO_RCVBUF",32768]],"colour":"red"},"kernel":"6.18.44","rx_path":"linear","tick_ms":4,"moon":1}}
{"i":0,"op":{"op":"inject","len":1448},"tx":[{"seq":0,"len":1448,"flags":"A","ack":0,"win":512}],"vol":{"t_ms":4000.25,"end_ms":4000.5,"tx_ms":[4000.3]}}
{"i":1,"op":{"op":"read","n":"all"},"vol":{"t_ms":4004.25,"end_ms":4004.5}}
{"footer":{"records":2,"slips":0}}
"#;

struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        Place(tempfile::tempdir().unwrap())
    }

    fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.path().join(name);
        fs::write(&path, text).unwrap();
        path
    }
}

fn s(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn a_replay_is_deterministic_and_keeps_what_it_does_not_know() {
    let place = Place::new();
    let trace = place.file("foreign.jsonl", FOREIGN);
    let (code, first, _) = run(&["replay", s(&trace), "--profile", "linux-6.18"]);
    let (_, second, _) = run(&["replay", s(&trace), "--profile", "linux-6.18"]);
    assert_eq!((code, &first), (0, &second));
    // As live 6.18.44 answered: the window is 34752 bytes, one segment costs 2304.
    assert!(first.contains(r#""ack":1448,"win":34752"#), "{first}");
    assert!(first.contains(r#""rmem_alloc":2304"#) && first.contains(r#""fwd_alloc":1792"#), "{first}");
    assert!(first.contains(r#""ret":{"n":1448}"#), "{first}");
    assert!(first.contains(r#""colour":"red""#) && first.contains(r#""moon":1"#), "{first}");
}

#[test]
fn diff_says_equal_or_where_it_begins_and_why() {
    let place = Place::new();
    let foreign = place.file("foreign.jsonl", FOREIGN);
    let (_, replayed, _) = run(&["replay", s(&foreign)]);
    let good = place.file("good.jsonl", &replayed);
    let (code, out, _) = run(&["oracle", "diff", s(&good), "--profile", "linux-6.18"]);
    assert_eq!(code, 0, "{out}");
    assert!(out.contains("foreign: equal, 2 records"), "{out}");
    let bad = place.file("bad.jsonl", &replayed.replacen(r#""rmem_alloc":2304"#, r#""rmem_alloc":2305"#, 1));
    for args in
        [vec!["oracle", "diff", s(&bad), "-p", "linux-6.18"], vec!["oracle", "diff", s(&bad), s(&good)]]
    {
        let (code, out, _) = run(&args);
        assert_eq!(code, 1, "{out}");
        assert!(out.contains("differs from record 0") && out.contains("mem.rmem_alloc"), "{out}");
        assert!(out.contains("2305") && out.contains("2304"), "{out}");
    }
    let (_, out, _) = run(&["oracle", "diff", s(&bad), "-p", "linux-6.18"]);
    assert!(out.contains("charged +2304 for the receive queue"), "the stack's reasons: {out}");
    let (code, out, _) = run(&["oracle", "check", s(&good), s(&bad), "-p", "linux-6.18"]);
    assert_eq!(code, 1);
    assert!(out.contains("1 of 2 recordings equal"), "{out}");
}

#[test]
fn what_is_malformed_is_refused_with_its_line() {
    let place = Place::new();
    let say = |text: &str, args: &[&str]| {
        let path = place.file("x.jsonl", text);
        let mut all = args.to_vec();
        all.push(s(&path));
        let (code, _, err) = run(&all);
        assert_eq!(code, 2, "{err}");
        err
    };
    assert!(say("{\"i\":0,\"op\":{}}\n", &["replay"]).contains("x.jsonl:1: a record without a header"));
    assert!(
        say(&FOREIGN.replace("\"i\":1", "\"i\":7"), &["replay"])
            .contains("x.jsonl:3: record 7 where 1 is due")
    );
    assert!(say(&FOREIGN.replace("6.18.44", "2.4.0"), &["oracle", "diff"]).contains("--profile linux-6.18"));
    assert!(say("", &["oracle", "check"]).contains("no trace in it"));
    assert!(say(&FOREIGN.replace("\"n\":\"all\"", "\"n\":-1"), &["replay"]).contains("give 0 to 2147483647"));
    assert!(
        say("{\"name\":\"a\"}\n{\"ops\":[{\"op\":\"fly\"}]}\n", &["oracle", "record"]).contains("ops[0]")
    );
    let (code, _, err) = run(&["oracle", "record", "/nowhere/x.json", "--kernel", "bsd"]);
    assert!(code == 2 && err.contains("give host, uml, uml:BINARY or qemu:IMAGE"), "{err}");
    let (code, _, err) = run(&["oracle", "fuzz", "--rx-paths", "linear,fast"]);
    assert!(code == 2 && err.contains("'fast'") && err.contains("napi_frags"), "{err}");
}

#[test]
fn scripts_are_a_function_of_seed_and_index() {
    let (code, all, _) = run(&["oracle", "scripts", "--seed", "9", "--count", "4"]);
    let (_, third, _) = run(&["oracle", "scripts", "--seed", "9", "--from", "2"]);
    assert_eq!(code, 0);
    assert_eq!(all.lines().nth(2), third.lines().next());
    assert_eq!(all.lines().count(), 4);
}
