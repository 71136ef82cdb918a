use super::*;
use crate::scenario::units::{Size, Span};
use crate::sender::Role;
use rightedge_stack::time::Duration;

const MINIMAL: &str = r#"
name = "mine"
about = "one line"
policies = ["linux-6.1"]
[receiver]
read = { pattern = "never" }
[sender]
write = "64KiB"
[limits]
time = "1s"
"#;

fn load(name: &str) -> Scenario {
    Scenario::load(name).unwrap_or_else(|e| panic!("{e}"))
}

#[test]
fn every_built_in_scenario_loads_and_is_called_what_its_file_is() {
    for (name, _) in BUILT_IN {
        let s = load(name);
        assert_eq!(s.name, name);
        assert!(s.explain.len() > 200 && !s.expect.is_empty() && s.experiment.is_some(), "{name}");
    }
    assert_eq!(Scenario::list().len(), BUILT_IN.len());
}

#[test]
fn the_built_in_scenarios_say_what_the_experiments_say() {
    for (name, aws) in [("fill-64k-aws0", "0"), ("fill-64k-aws1", "1")] {
        let s = load(name);
        assert_eq!(s.receiver.so_rcvbuf, Some(Size(32 << 10)));
        assert_eq!(s.receiver.sysctls["tcp_adv_win_scale"].to_string(), aws);
        assert_eq!((s.sender.mss, s.sender.timestamps), (Some(1024), false));
        assert!(s.route.initcwnd >= Some(1024));
        assert_eq!(s.receiver.read, ReadPattern::Never {});
    }
    let a1 = load("unbounded-wscale13");
    assert_eq!((a1.receiver.role, a1.sender_role()), (Role::Client, Role::Server));
    assert_eq!(a1.receiver.sysctls["tcp_rmem"].to_string(), "4096 131072 268435456");
    assert_eq!(a1.receiver.sysctls["tcp_adv_win_scale"].to_string(), "-2");
    let ms = Span(Duration::from_millis(1));
    assert_eq!(a1.receiver.read, ReadPattern::Paced { bytes: Size(1), every: ms });
    assert_eq!((a1.sender.write.sizes(), a1.sender.pace), (vec![1448], ms));
    assert_eq!(a1.for_clock(Clock::Real).limits.time, Some(Span(Duration::from_secs(60))));
    assert!(a1.for_clock(Clock::Virtual).limits.time > Some(Span(Duration::from_secs(1100))));
    let a4 = load("never-reads");
    assert_eq!((a4.sender.write.sizes(), a4.sender.pace, a4.sender.nodelay), (vec![4], ms, true));
    let fast = a4.for_clock(Clock::Real);
    assert_eq!((fast.sender.pace, fast.route.quickack), (Span(Duration::from_micros(200)), true));
    assert_eq!(a4.policies, ["linux-6.1", "linux-6.1,shrink=merged"]);
}

#[test]
fn a_minimal_file_has_sensible_defaults_and_survives_being_written() {
    let s = Scenario::parse("mine.toml", MINIMAL).unwrap();
    assert_eq!((s.receiver.role, s.sender_role()), (Role::Server, Role::Client));
    assert!(s.sender.timestamps && s.sender.sack && !s.sender.nodelay && s.link.is_off());
    assert_eq!(s.for_clock(Clock::Real), s);
    for (name, _) in BUILT_IN {
        let s = load(name);
        let again = Scenario::parse("again", &toml::to_string(&s).unwrap());
        assert_eq!(again.unwrap_or_else(|e| panic!("{name}: {e}")), s);
    }
}

#[test]
fn files_are_loaded_by_path() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("mine.toml");
    std::fs::write(&path, MINIMAL).unwrap();
    assert_eq!(Scenario::load(path.to_str().unwrap()).unwrap().name, "mine");
    let gone = dir.path().join("gone.toml");
    assert!(matches!(Scenario::load(gone.to_str().unwrap()), Err(ScenarioError::Read { .. })));
    std::fs::write(&path, vec![b'#'; 2 << 20]).unwrap();
    assert!(matches!(Scenario::load(path.to_str().unwrap()), Err(ScenarioError::TooLarge { .. })));
    let e = Scenario::load("fill-64k-aws2").unwrap_err().to_string();
    assert!(e.contains("there are fill-64k-aws") && e.contains(".toml"), "{e}");
}

#[test]
fn errors_name_file_key_value_and_fix() {
    let with = |from: &str, to: &str| {
        assert!(MINIMAL.contains(from), "{from}");
        Scenario::parse("mine.toml", &MINIMAL.replace(from, to)).unwrap_err().to_string()
    };
    let cases = [
        ("name = \"mine\"", "name = \"My Own\"", vec!["name", "My Own", "fill-64k-aws0"]),
        ("[\"linux-6.1\"]", "[]", vec!["policies", "linux-6.1"]),
        ("[\"linux-6.1\"]", "[\"linux-9\"]", vec!["policies", "linux-9", "shrink=merged"]),
        ("[\"linux-6.1\"]", "[\"linux-6.1,shrink=maybe\"]", vec!["policies", "maybe", "merged"]),
        ("\"never\"", "\"sometimes\"", vec!["sometimes", "never"]),
        ("{ pattern = \"never\" }", "{ pattern = \"paced\", bytes = 1 }", vec!["every"]),
        (
            "{ pattern = \"never\" }",
            "{ pattern = \"paced\", bytes = 1, every = \"0\" }",
            vec!["receiver.read.every", "1ms"],
        ),
        (
            "{ pattern = \"never\" }",
            "{ pattern = \"oscillating\", phases = [] }",
            vec!["receiver.read.phases", "duration"],
        ),
        ("\"64KiB\"", "\"64K\"", vec!["64K", "64KiB or 64kB", "write"]),
        ("\"64KiB\"", "0", vec!["sender.write", "1B to 1GiB"]),
        ("\"64KiB\"", "1\nmss = 20", vec!["sender.mss", "20", "88 to 32767"]),
        ("\"64KiB\"", "1\nwscale = 15", vec!["sender.wscale", "15", "0 to 14"]),
        ("\"64KiB\"", "1\nrole = \"server\"", vec!["sender.role", "server", "opposite"]),
        ("\"64KiB\"", "1\nspeed = 3", vec!["speed", "unknown field", "pace"]),
        ("time = \"1s\"", "", vec!["limits", "limits.time"]),
        ("time = \"1s\"", "time = 5", vec!["time", "duration", "1ms"]),
        ("time = \"1s\"", "time = \"99d\"", vec!["limits.time", "7d"]),
        (
            "[sender]",
            "driver = { model = \"nic\" }\n[sender]",
            vec!["receiver.driver.model", "nic", "virtio"],
        ),
        (
            "[sender]",
            "sysctls = { tcp_rmem = \"1 2\" }\n[sender]",
            vec!["receiver.sysctls.tcp_rmem", "1 2", "3 number"],
        ),
        (
            "[sender]",
            "sysctls = { tcp_nosuch = 1 }\n[sender]",
            vec!["receiver.sysctls.tcp_nosuch", "tcp_rmem"],
        ),
        ("[sender]", "sysctls = { tcp_rmem = [1, 2, 3] }\n[sender]", vec!["4096 131072 6291456"]),
        ("policies", "link = \"down:loss=2\"\npolicies", vec!["loss=2", "0.01"]),
        (
            "[limits]",
            "[[expect]]\nmetric = \"happiness\"\neffect = \"x\"\n[limits]",
            vec!["expect[0].metric", "happiness", "recv_q"],
        ),
        (
            "[limits]",
            "[[expect]]\nmetric = \"drops\"\neffect = \"x\"\nnear = 5\n[limits]",
            vec!["expect[0].near", "tolerance"],
        ),
        (
            "[limits]",
            "[[expect]]\nmetric = \"drops\"\neffect = \"x\"\npolicies = [\"linux-6.18\"]\n[limits]",
            vec!["linux-6.18", "linux-6.1"],
        ),
        ("[limits]", "[real_time]\nwhy = \"\"\n[limits]", vec!["real_time.why"]),
    ];
    for (from, to, words) in cases {
        let e = with(from, to);
        assert!(e.contains("mine.toml"), "{e}");
        for w in words {
            assert!(e.contains(w), "{to}: `{e}` lacks `{w}`");
        }
    }
}
