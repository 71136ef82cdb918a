//! Whole runs on the model sender in virtual time: they need no rights and repeat to the byte.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;

use rightedge::explain::explain;
use rightedge::link::LinkSpec;
use rightedge::record::{DecisionLines, load_samples, names};
use rightedge::run::engine::EndReason;
use rightedge::run::report::RunReport;
use rightedge::scenario::Scenario;
use rightedge_tests::{How, assert_ok, built_in, frames, observed, transfer};

const NEVER: &str = "linux-6.1";
const MERGED: &str = "linux-6.1,shrink=merged";

fn scratch() -> tempfile::TempDir {
    rightedge_tests::scratch(env!("CARGO_TARGET_TMPDIR"))
}

fn counter(r: &RunReport, name: &str) -> u64 {
    r.counters.get(name).copied().unwrap_or(0)
}

/// The budget went far beyond its default of 128 KiB although nobody set it and next to nothing was read.
fn assert_runaway(r: &RunReport, dir: &Path) {
    assert!(r.peak.skmem_rb > 4 << 20, "{}", r.text());
    assert_eq!(r.left_moves, (0, 0));
    assert_eq!((observed(dir, "left_moves_total"), observed(dir, "zero_window_acks")), (0, 0));
    assert!(observed(dir, "acks") > 1000);
    assert!(r.findings.is_empty() && r.intact, "{}", r.text());
}

/// The budget stayed what it was and was not overrun, and zero windows stopped the sender.
fn assert_bounded(r: &RunReport, dir: &Path) {
    assert_eq!(r.peak.skmem_rb, 131_072);
    assert!(r.peak.over_budget <= 0, "{}", r.text());
    assert!(observed(dir, "zero_windows") > 0);
    assert!(observed(dir, "left_moves_total") > 0 && r.left_moves.0 > 0);
    assert_eq!((r.sender.retransmits, r.sender.error.as_deref()), (0, None));
    assert!(r.findings.is_empty() && r.intact, "{}", r.text());
}

#[test]
fn a_paced_reader_does_not_keep_the_budget_from_running_away_without_shrinking() {
    let dir = scratch();
    let r = How::model(NEVER).seconds(20).run(&built_in("unbounded-wscale13"), dir.path());
    assert_runaway(&r, dir.path());
    assert_eq!(r.end, EndReason::TimeLimit);
    // One byte a millisecond is all that was asked for.
    let read = r.connections[0].read;
    assert!((19_000..=20_001).contains(&read), "{read}");
}

#[test]
fn shrinking_keeps_a_slow_reader_within_its_budget() {
    let dir = scratch();
    let r = How::model(MERGED).seconds(20).run(&built_in("unbounded-wscale13"), dir.path());
    assert_bounded(&r, dir.path());
    assert_ok(&r);
}

#[test]
fn nobody_reading_fills_memory_to_the_maximum_without_shrinking() {
    let dir = scratch();
    let r = How::model(NEVER).run(&built_in("never-reads"), dir.path());
    assert_runaway(&r, dir.path());
    assert_ok(&r);
    assert_eq!(r.connections[0].read, 0);
    // Its window open, its memory gone: segments were dropped in silence until the sender gave up.
    assert_eq!(r.sender.error.as_deref(), Some("ETIMEDOUT"));
    assert!(counter(&r, "TcpExtTCPRcvQDrop") > 0);
}

#[test]
fn shrinking_stops_the_sender_early_when_nobody_reads() {
    let dir = scratch();
    let r = How::model(MERGED).run(&built_in("never-reads"), dir.path());
    assert_bounded(&r, dir.path());
    assert_ok(&r);
}

#[test]
fn a_budget_offered_in_full_ends_on_the_published_bytes() {
    let dir = scratch();
    let r = How::model(NEVER).run(&built_in("fill-64k-aws0"), dir.path());
    assert_ok(&r);
    let info = &r.connections[0].info;
    assert_eq!((info.recv_q, info.mem.rmem_alloc, info.mem.rcvbuf), (62_464, 73_984, 65_536));
    assert!(counter(&r, "TcpExtTCPRcvCollapsed") > 0 && counter(&r, "TcpExtTCPRcvQDrop") > 0);
    assert_eq!((r.left_moves.0, observed(dir.path(), "zero_window_acks")), (0, 0));
}

#[test]
fn a_budget_offered_by_half_closes_in_good_order() {
    let dir = scratch();
    let r = How::model(NEVER).run(&built_in("fill-64k-aws1"), dir.path());
    assert_ok(&r);
    assert_eq!(r.connections[0].info.recv_q, 57_344);
    for name in ["TcpExtTCPRcvCollapsed", "TcpExtTCPRcvQDrop", "TcpExtPruneCalled"] {
        assert_eq!(counter(&r, name), 0, "{name}");
    }
    assert!(observed(dir.path(), "zero_windows") > 0);
    assert_eq!((r.left_moves.0, r.sender.error.as_deref()), (0, None));
}

#[test]
fn segments_that_defeat_coalescing_are_collapsed_again_and_again() {
    let dir = scratch();
    assert_ok(&How::model(NEVER).run(&built_in("spaghetti"), dir.path()));
}

#[test]
fn every_profile_runs_every_scenario_without_moving_the_edge_it_may_not_move() {
    for policy in ["linux-6.1", "linux-6.18", "linux-6.1,shrink=first", "linux-6.18,shrink=merged"] {
        for scenario in Scenario::list() {
            let dir = scratch();
            let r = How::model(policy).seconds(4).run(&scenario, dir.path());
            assert!(r.intact && r.findings.is_empty(), "{policy}: {}", r.text());
            assert!(r.connections[0].delivered > 0);
        }
    }
}

#[test]
fn the_same_seed_gives_the_same_bytes() {
    let link = "down:delay=5ms,loss=0.02,reorder=0.05/3ms;up:delay=5ms,jitter=1ms;seed=3";
    let mut lossy = Scenario::parse("transfer", &transfer("server", "200KiB", "")).unwrap();
    lossy.link = LinkSpec::parse(link).unwrap();
    let cases = [
        (built_in("fill-64k-aws0"), NEVER),
        (built_in("unbounded-wscale13"), NEVER),
        (built_in("unbounded-wscale13"), MERGED),
        (lossy, NEVER),
    ];
    for (scenario, policy) in cases {
        let [a, b, c] = [1, 1, 2].map(|seed| {
            let dir = scratch();
            let how = How { seed, ..How::model(policy).seconds(3) };
            let r = how.run(&scenario, dir.path());
            assert!(r.packets > 50);
            dir
        });
        let same =
            |x: &Path, y: &Path, name| fs::read(x.join(name)).unwrap() == fs::read(y.join(name)).unwrap();
        for name in [names::SAMPLES_CSV, names::SAMPLES_JSONL, names::DECISIONS, names::WIRE] {
            assert!(same(a.path(), b.path(), name), "{} under {policy}: {name}", scenario.name);
        }
        // Another seed means other sequence numbers.
        assert!(!same(a.path(), c.path(), names::WIRE));
    }
}

#[test]
fn explain_names_the_cause_of_a_runaway_window() {
    let dir = scratch();
    let r = How::model(NEVER).seconds(4).run(&built_in("unbounded-wscale13"), dir.path());
    assert!(r.peak.skmem_rb > 1 << 20, "{}", r.text());
    // The arrivals that raised the budget; one of the middle has been answered.
    let mut lines = DecisionLines::open(dir.path()).unwrap();
    let mut raised = Vec::new();
    while let Some(head) = lines.next_head().unwrap() {
        if lines.full().unwrap().kind() == "clamped" {
            raised.extend(head.packet);
        }
    }
    assert!(raised.len() > 100, "{} raises", raised.len());
    let arrival = explain(dir.path(), raised[raised.len() / 2]).unwrap();
    let answer = arrival.answer.as_ref().unwrap().packet;
    let text = arrival.to_string();
    assert!(text.contains("skmem_rb raised") && text.contains("what is charged"), "{text}");
    let text = explain(dir.path(), answer).unwrap().to_string();
    for cause in
        ["the old right edge is kept", "must not move left", "the right edge creeps", "skmem_rb raised"]
    {
        assert!(text.contains(cause), "{cause}: {text}");
    }
}

#[test]
fn explain_says_that_the_window_shrank_under_a_shrinking_policy() {
    let dir = scratch();
    let r = How::model(MERGED).seconds(2).run(&built_in("unbounded-wscale13"), dir.path());
    assert!(r.left_moves.0 > 0);
    let samples = load_samples(dir.path()).unwrap();
    let zero = samples.iter().find(|s| s.tx_win_field == Some(0)).and_then(|s| s.pcap_packet).unwrap();
    let text = explain(dir.path(), zero).unwrap().to_string();
    assert!(text.contains("window field 0"), "{text}");
    assert!(!text.contains("the old right edge is kept"), "{text}");
}

#[test]
fn a_run_leaves_a_chart() {
    let dir = scratch();
    let _ = How::model(NEVER).run(&built_in("fill-64k-aws0"), dir.path());
    let png = fs::read(dir.path().join(names::CHART_PNG)).unwrap();
    assert!(png.starts_with(b"\x89PNG\r\n\x1a\n") && png.len() > 10_000, "{} bytes", png.len());
    let svg = fs::read_to_string(dir.path().join(names::CHART_SVG)).unwrap();
    assert!(svg.contains("<svg") && svg.trim_end().ends_with("</svg>") && svg.contains("fill-64k-aws0"));
}

#[test]
fn a_capture_holds_every_packet_of_the_run() {
    let dir = scratch();
    let r = How::model(NEVER).run(&built_in("fill-64k-aws0"), dir.path());
    let (arrived, departed, cut) = frames(dir.path());
    assert_eq!((arrived + departed, cut), (r.packets, false));
    assert!(arrived > 60 && departed > 5);
    let samples = load_samples(dir.path()).unwrap();
    assert_eq!(samples.last().unwrap().recv_q, 62_464);
}

/// Runs 200 KiB over a link, `role` being the receiver's, and expects every byte to arrive.
fn over_link(link: &str, role: &str, policy: &str) -> RunReport {
    let dir = scratch();
    let file = dir.path().join("own.toml");
    fs::write(&file, transfer(role, "200KiB", "")).unwrap();
    let mut scenario = Scenario::load(file.to_str().unwrap()).unwrap();
    scenario.link = LinkSpec::parse(link).unwrap();
    let r = How::model(policy).run(&scenario, &dir.path().join("run"));
    assert_eq!((r.end, r.complete, r.intact), (EndReason::SenderDone, Some(true), true), "{}", r.text());
    assert!(r.findings.is_empty() && r.ok(), "{}", r.text());
    assert_eq!((r.connections[0].delivered, r.connections[0].read), (200 << 10, 200 << 10));
    r
}

#[test]
fn loss_and_reordering_cost_no_byte() {
    let link = "down:delay=10ms,loss=0.03,reorder=0.1/5ms;up:delay=10ms,loss=0.03;seed=7";
    for policy in ["linux-6.1", "linux-6.18", "linux-6.18,shrink=merged"] {
        for role in ["server", "client"] {
            let r = over_link(link, role, policy);
            assert!(r.sender.retransmits > 0, "nothing was lost: {}", r.text());
            let down = &r.link.as_ref().unwrap()["down"];
            let any = |what: &str| {
                down.as_object().unwrap().iter().any(|(k, v)| k.contains(what) && v.as_u64() > Some(0))
            };
            assert!(any("los") && any("reorder"), "{down}");
        }
    }
}

#[test]
fn duplicates_cost_no_byte() {
    let r = over_link("both:delay=2ms,dup=0.2;seed=5", "server", "linux-6.1");
    assert!(r.link.unwrap()["down"].to_string().contains("dup"));
}

#[test]
fn flipped_bits_cost_no_byte() {
    let r = over_link("both:delay=2ms,corrupt=0.05;seed=5", "server", "linux-6.1");
    assert!(counter(&r, "TcpInCsumErrors") > 0, "{:?}", r.counters);
}

#[test]
fn half_an_hour_of_virtual_time_takes_moments() {
    let dir = scratch();
    let r = How::model(MERGED).run(&built_in("unbounded-wscale13"), dir.path());
    assert_ok(&r);
    assert!(r.duration >= 2100.0);
    eprintln!("2100 s of unbounded-wscale13 under {MERGED}: {:.1} s on the wall", r.wall);
    // Far from what it takes, but on a machine that does ten other things too.
    assert!(r.wall * 10.0 < r.duration, "{} s", r.wall);
}
