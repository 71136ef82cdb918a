//! Whole runs on this machine's own kernel as sender, over a TAP device in a private namespace.
#![allow(clippy::unwrap_used)]

use rightedge::run::engine::EndReason;
use rightedge::run::report::RunReport;
use rightedge::scenario::Scenario;
use rightedge_tapctl::rights::{Need, require};
use rightedge_tests::{How, built_in, frames, observed, transfer};

const NEEDS: [Need; 3] = [Need::TunNode, Need::Netns, Need::Tap];

fn scratch() -> tempfile::TempDir {
    rightedge_tests::scratch(env!("CARGO_TARGET_TMPDIR"))
}

/// 2 MiB to an eager reader, `role` being the receiver's, and an orderly end.
fn whole_transfer(role: &str, offload: bool, policy: &str) {
    let dir = scratch();
    let scenario = Scenario::parse("transfer", &transfer(role, "2MiB", "")).unwrap();
    let r = How { offload, ..How::kernel(policy) }.run(&scenario, dir.path());
    assert_eq!((r.end, r.complete, r.intact), (EndReason::SenderDone, Some(true), true), "{}", r.text());
    assert!(r.findings.is_empty(), "{}", r.text());
    assert_eq!((r.connections[0].read, r.sender.written), (2 << 20, 2 << 20));
    assert_eq!(observed(dir.path(), "bytes_sent"), 2 << 20);
    assert_eq!((r.left_moves, observed(dir.path(), "left_moves_total")), ((0, 0), 0));
    let (arrived, departed, cut) = frames(dir.path());
    assert_eq!((arrived + departed, cut), (r.packets, false));
    assert!(r.sender.what.starts_with("Linux "), "{}", r.sender.what);
    // Without offload every segment is a frame.
    assert!(offload || arrived > (2 << 20) / 1500, "{arrived}");
}

#[test]
fn a_transfer_over_tap_arrives_whole() {
    if require("kernel_transfer", &NEEDS) {
        whole_transfer("server", false, "linux-6.1");
        whole_transfer("server", false, "linux-6.18");
    }
}

#[test]
fn a_transfer_over_tap_arrives_whole_when_the_receiver_connects() {
    if require("kernel_transfer_client", &NEEDS) {
        whole_transfer("client", false, "linux-6.1");
    }
}

#[test]
fn a_transfer_over_an_offloading_tap_arrives_whole() {
    if require("kernel_transfer_offload", &[Need::TunNode, Need::Netns, Need::Tap, Need::VnetHdr]) {
        whole_transfer("server", true, "linux-6.1");
        whole_transfer("client", true, "linux-6.18");
    }
}

#[test]
fn a_lossy_link_before_a_kernel_sender_costs_no_byte() {
    if !require("kernel_link", &NEEDS) {
        return;
    }
    let dir = scratch();
    let mut scenario = Scenario::parse("transfer", &transfer("server", "200KiB", "")).unwrap();
    let link = "down:delay=3ms,loss=0.02,reorder=0.05/2ms;up:delay=3ms,loss=0.02;seed=7";
    scenario.link = link.parse().unwrap();
    let r = How::kernel("linux-6.1").run(&scenario, dir.path());
    assert_eq!((r.end, r.complete, r.intact), (EndReason::SenderDone, Some(true), true), "{}", r.text());
    assert!(r.findings.is_empty(), "{}", r.text());
    assert_eq!(r.connections[0].read, 200 << 10);
}

/// Two seconds of a scenario in which nobody reads, or hardly, under a policy that must not shrink.
fn edge_holds(scenario: &str, offload: bool) -> RunReport {
    let dir = scratch();
    let how = How { offload, ..How::kernel("linux-6.1") }.seconds(2);
    let r = how.run(&built_in(scenario), dir.path());
    assert!(r.intact && r.findings.is_empty(), "{}", r.text());
    assert_eq!((r.left_moves, observed(dir.path(), "left_moves_total")), ((0, 0), 0));
    assert!(r.connections[0].delivered > 32_768 && observed(dir.path(), "acks") > 5, "{}", r.text());
    r
}

#[test]
fn the_edge_does_not_move_left_while_a_real_kernel_fills_a_fixed_budget() {
    if require("kernel_fill", &NEEDS) {
        let r = edge_holds("fill-64k-aws0", false);
        assert_eq!((r.connections[0].read, r.peak.skmem_rb), (0, 65_536));
        let r = edge_holds("fill-64k-aws1", false);
        assert_eq!((r.connections[0].read, r.peak.skmem_rb), (0, 65_536));
    }
}

#[test]
fn the_edge_does_not_move_left_while_a_real_kernel_drags_the_budget_up() {
    if require("kernel_runaway", &NEEDS) {
        let r = edge_holds("unbounded-wscale13", false);
        assert!(r.peak.skmem_rb > 131_072, "{}", r.text());
        let r = edge_holds("never-reads", false);
        assert!(r.peak.skmem_rb > 131_072, "{}", r.text());
    }
}

#[test]
fn the_edge_does_not_move_left_on_an_offloading_tap() {
    if require("kernel_runaway_offload", &[Need::TunNode, Need::Netns, Need::Tap, Need::VnetHdr]) {
        let _ = edge_holds("unbounded-wscale13", true);
    }
}

#[test]
fn a_shrinking_window_stops_a_real_kernel_and_is_no_offence() {
    if !require("kernel_shrink", &NEEDS) {
        return;
    }
    let dir = scratch();
    let r =
        How::kernel("linux-6.1,shrink=merged").seconds(3).run(&built_in("unbounded-wscale13"), dir.path());
    assert!(r.ok() && r.findings.is_empty(), "{}", r.text());
    assert!(observed(dir.path(), "left_moves_total") > 0 && observed(dir.path(), "zero_windows") > 0);
    assert_eq!(r.peak.skmem_rb, 131_072);
    assert!(r.peak.over_budget <= 0 && r.sender.error.is_none(), "{}", r.text());
}
