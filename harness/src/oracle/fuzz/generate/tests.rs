use std::collections::BTreeMap;

use super::*;
use crate::oracle::script::{Amount, Op, Settle};

fn target() -> Target {
    Target { rx_paths: RxPath::ALL.iter().map(|(p, _)| *p).collect(), ..Target::default() }
}

fn slow() -> Target {
    Target { hz: 100, space: Space::AdvWinScale, ..Target::default() }
}

fn ticks(s: &Script, hz: u32) -> u64 {
    let gaps: u64 = s.steps.iter().map(|x| u64::from(x.gap)).sum();
    let sleeps: u64 = s.steps.iter().map(|x| if let Op::Sleep { ms } = x.op { ms } else { 0 }).sum();
    gaps + (sleeps + s.handshake.ack_delay_ms) * u64::from(hz) / 1000
}

#[test]
fn a_seed_and_an_index_are_a_script() {
    let t = target();
    for i in 0..200 {
        let (a, b) = (script(7, i, &t).unwrap(), script(7, i, &t).unwrap());
        assert_eq!(a.raw, b.raw);
        assert!(a.name.ends_with(&format!("/7/{i}")), "{}", a.name);
        assert_ne!(a.raw["ops"], script(8, i, &t).unwrap().raw["ops"]);
    }
    // A published finding is named by seed and index: what they mean must not change unnoticed. If this fails on
    // purpose, count VERSION up.
    let text: String =
        (0..50).map(|i| Value::Object(script(1, i, &Target::default()).unwrap().raw).to_string()).collect();
    let sum = text
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0000_0100_0000_01b3));
    assert_eq!((VERSION, sum), (1, 7_480_345_843_744_061_164));
}

#[test]
fn every_script_is_readable_and_every_flavour_comes() {
    let mut seen = BTreeMap::new();
    for t in
        [target(), slow(), Target { writes: true, routes: true, ..target() }, Target { hz: 1000, ..target() }]
    {
        for i in 0..4000 {
            let s = script(3, i, &t).unwrap();
            let flavour = s.name.split('/').next().unwrap().to_owned();
            *seen.entry(flavour).or_insert(0) += 1;
            assert!((10..=120).contains(&s.steps.len()), "{}: {}", s.name, s.steps.len());
            let writes = s.steps.iter().any(|x| matches!(x.op, Op::Write { .. }));
            assert!(!writes || t.writes, "{}", s.name);
            for x in &s.steps {
                if let Op::Burst { segs, count, .. } = &x.op {
                    assert!(segs.len() as u32 <= t.max_burst() && *count <= t.max_burst(), "{}", s.name);
                }
            }
        }
    }
    assert_eq!(seen.len(), FLAVOURS.len(), "{seen:?}");
    assert_eq!(flavours().count(), FLAVOURS.len());
}

#[test]
fn scripts_are_short() {
    for (t, most_ms) in [(target(), 180), (slow(), 380)] {
        let mut all: Vec<u64> = (0..2000).map(|i| ticks(&script(5, i, &t).unwrap(), t.hz)).collect();
        all.sort_unstable();
        let ms = |k: usize| all[k] * 1000 / u64::from(t.hz);
        assert!(ms(1000) <= most_ms, "median {} ms at HZ {}", ms(1000), t.hz);
        assert!(ms(1999) <= 5 * most_ms, "longest {} ms at HZ {}", ms(1999), t.hz);
    }
}

#[test]
fn reads_that_are_measured_never_lie_on_a_round_trip() {
    for i in 0..4000 {
        let s = script(11, i, &target()).unwrap();
        let fixed = s.listener.iter().any(|(n, _)| format!("{n:?}") == "SO_RCVBUF")
            || s.sysctl.get("net.ipv4.tcp_moderate_rcvbuf").is_some_and(|v| v == "0");
        let reads = |x: &&crate::oracle::script::Step| matches!(x.op, Op::Read { .. });
        if fixed {
            continue;
        }
        for x in s.steps.iter().filter(|x| !reads(x)) {
            assert_eq!(x.phase_us, ARRIVAL_US, "{}", s.name);
        }
        let phases: Vec<u32> = s.steps.iter().filter(reads).map(|x| x.phase_us).collect();
        for (k, a) in phases.iter().enumerate() {
            for b in phases[k + 1..].iter().take(5).chain([&ARRIVAL_US]) {
                let apart = a.abs_diff(*b) % 1000;
                assert!((100..=900).contains(&apart), "{}: {a} and {b}", s.name);
            }
        }
    }
}

#[test]
fn waiting_and_compression_end_within_their_tick() {
    for i in 0..4000 {
        let s = script(13, i, &target()).unwrap();
        for x in &s.steps {
            if let Settle::Ms(ms) = x.settle {
                assert!(u64::from(x.phase_us) + ms * 1000 < 3500, "{}", s.name);
            }
        }
        let waits = s.raw["settle"] == "ack";
        assert!(!waits || s.raw["ops"].as_array().unwrap().len() <= 16, "{}", s.name);
    }
}

#[test]
fn what_was_asked_for_is_in_them() {
    let all: Vec<Script> = (0..3000).map(|i| script(17, i, &target()).unwrap()).collect();
    let some = |what: &str, f: &dyn Fn(&Script) -> bool| {
        assert!(all.iter().any(f), "no script with {what}");
    };
    let inject = |s: &Script, f: &dyn Fn(&crate::oracle::script::Inject) -> bool| {
        s.steps.iter().any(|x| matches!(&x.op, Op::Inject(i) if f(i)))
    };
    some("alt", &|s| inject(s, &|i| i.alt));
    some("a wrong checksum", &|s| inject(s, &|i| i.bad_sum));
    some("a huge segment", &|s| inject(s, &|i| i.len >= 32_000));
    some("one byte", &|s| inject(s, &|i| i.len == 1));
    some("wrap", &|s| s.isn > u32::MAX - 100_000);
    some("repeat", &|s| s.raw["ops"].to_string().contains("\"repeat\""));
    some("reads", &|s| s.raw["ops"].to_string().contains("\"reads\""));
    some("close", &|s| s.steps.iter().any(|x| x.op == Op::Close));
    some("reading all", &|s| s.steps.iter().any(|x| matches!(x.op, Op::Read { n: Amount::All, .. })));
    for (path, name) in RxPath::ALL {
        some(name, &|s| s.rx_path == *path);
    }
    for name in [
        "adv_win_scale",
        "app_win",
        "shrink_window",
        "rmem",
        "moderate_rcvbuf",
        "workaround_signed_windows",
        "dsack",
        "invalid_ratelimit",
    ] {
        some(name, &|s| s.sysctl.contains_key(&format!("net.ipv4.tcp_{name}")));
    }
    let old = |i| script(17, i, &slow()).unwrap();
    assert!(!(0..2000).any(|i| Value::Object(old(i).raw).to_string().contains("shrink_window")));
}
