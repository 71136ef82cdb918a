use super::*;
use rightedge_tapctl::rights::{Need, require};

#[test]
fn every_receiver_gets_bytes() {
    if !require("bench::wire", &[Need::TunNode, Need::Netns, Need::Tap, Need::VnetHdr]) {
        return;
    }
    let mut heard = 0;
    let effort = Effort { warm_up: 0, rounds: 1 };
    let all = run(&Receiver::ALL, effort, 0.1, &AtomicBool::new(false), &mut |_| heard += 1).unwrap();
    assert_eq!((all.len(), heard), (32, 16));
    for m in &all {
        // More than a first window, so the receivers acknowledge.
        assert!(m.median() > if m.unit == Unit::BytesPerSecond { 1e6 } else { 0.0 }, "{m:?}");
    }
}

#[test]
fn a_stop_ends_it_at_once() {
    if !require("bench::wire", &[Need::TunNode, Need::Netns, Need::Tap]) {
        return;
    }
    let effort = Effort { warm_up: 0, rounds: 1 };
    let all = run(&Receiver::ALL, effort, 60.0, &AtomicBool::new(true), &mut |_| ()).unwrap();
    assert!(all.iter().all(|m| m.rounds.is_empty()));
}
