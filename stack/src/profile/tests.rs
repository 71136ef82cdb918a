use super::*;

#[test]
fn adv_win_scale_rounds_as_the_shift_does() {
    let w = |a, x| SpaceRule::AdvWinScale(a).window_from_space(x);
    assert_eq!(w(1, 131_072), 65_536);
    assert_eq!(w(0, 131_072), 131_072);
    assert_eq!(w(-2, 131_072), 32_768);
    assert_eq!(w(2, 1001), 1001 - 250);
    assert_eq!(w(31, 77), 77);
    assert_eq!(w(-31, 77), 0);
    // The shift floors, so what is subtracted from a negative space is rounded away from zero.
    assert_eq!(w(1, -1), 0);
    assert_eq!(w(1, -3), -1);
    assert_eq!(w(-1, -1), -1);
}

#[test]
fn scaling_ratio_floors_and_inverts() {
    let r = SpaceRule::ScalingRatio(160);
    assert_eq!(r.window_from_space(131_072), 81_920);
    assert_eq!(r.window_from_space(-1), -1);
    assert_eq!(SpaceRule::ScalingRatio(128).space_from_window(65_160), 130_320);
    assert_eq!(r.space_from_window(81_920), 131_072);
}

#[test]
fn constants_of_measured_builds() {
    let b = Profile::linux_6_18().build;
    assert_eq!((b.max_tcp_header(), b.small_head(), b.shared_info(), b.truesize(256)), (192, 576, 320, 832));
    assert_eq!(Profile::linux_6_1().build.max_tcp_header(), 256);
    let debian = KernelBuild::DISTRIBUTION;
    assert_eq!((debian.max_tcp_header(), debian.small_head(), debian.page_room()), (320, 704, 3776));
}

#[test]
fn policies_parse_and_refuse_with_the_fix() {
    let p = Profile::parse("linux-6.1, shrink=merged,collapse=6291456").unwrap();
    assert_eq!((p.shrink, p.collapse), (ShrinkPolicy::Merged, Collapse::Below(6_291_456)));
    let say = |t: &str| Profile::parse(t).unwrap_err().to_string();
    assert!(say("linux-2.4").contains("linux-6.1, linux-6.12, linux-6.18, linux-7"));
    assert!(say("linux-6.1,shrink").contains("switch=value"));
    assert!(say("linux-6.1,shrink=perhaps").contains("never, first, merged"));
    assert!(say("linux-6.1,bogus=1").contains("coalesce"));
    assert!(say("linux-6.1,hz=0").contains("1 to 10000"));
}

/// The switches in which `a` and `b` differ, with their values in `a`.
fn differences(a: &str, b: &str) -> Vec<String> {
    let list = |name| Profile::named(name).unwrap().switches();
    let differing = list(a).into_iter().zip(list(b)).filter(|(x, y)| x.value != y.value);
    differing.map(|(x, _)| format!("{}={}", x.name, x.value)).collect()
}

#[test]
fn what_generations_differ_in() {
    assert_eq!(
        differences("linux-6.12", "linux-6.18"),
        [
            "ratio_clamp=plain",
            "acceptance=start",
            "predicted_ack=within",
            "prune_entry=at-limit",
            "ofo_grow=no",
            "autotune=cushioned-ratio",
            "rtt_average=always",
            "ato_cap=delack-max",
            "paws_old_ack=answered",
            "napi_head=fragment",
            "future_ack=silent",
            "max_header=176",
        ]
    );
    assert_eq!(
        differences("linux-7", "linux-6.18"),
        [
            "ratio_clamp=plain",
            "acceptance=furthest",
            "over_window=counted",
            "predicted_ack=within",
            "autotune=low-rtt",
            "autotune_clock=segment",
            "ato_cap=delack-max",
            "sack_delay=percent",
            "rcvbuf_clamp=moves",
            "max_header=176",
        ]
    );
    let defaults = |p: &Profile| (p.tcp_rmem_max, p.rmem_max, p.tcp_rmem_floor, p.comp_sack_slack_ns);
    assert_eq!(defaults(&Profile::linux_6_1()), (6 << 20, 212_992, 1, 100_000));
    assert_eq!(defaults(&Profile::linux_6_12()), (6 << 20, 212_992, 4096, 100_000));
    assert_eq!(defaults(&Profile::linux_6_18()), (32 << 20, 4 << 20, 1, 100_000));
    assert_eq!(defaults(&Profile::linux_7()), (32 << 20, 4 << 20, 4096, 10_000));
}

#[test]
fn every_listed_switch_takes_its_own_value() {
    for name in Profile::NAMES {
        let mut p = Profile::named(name).unwrap();
        for s in p.switches() {
            p.set(s.name, &s.value).unwrap();
        }
        assert_eq!(p, Profile::named(name).unwrap());
    }
}
