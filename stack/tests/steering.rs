//! A window that is said from outside: it goes where it is told, and nothing else about the receiver changes.

mod rig;

use rig::{Handshake, Rig, config, pattern};
use rightedge_stack::{
    ListenOptions, SocketError, SocketOption, Steering,
    decision::{Decision, WindowLimit},
    nic::Driver,
    profile::Profile,
};

fn steered(policy: &str, steering: Steering, wscale: u8) -> Rig {
    let options =
        ListenOptions { steering: Some(steering), wscale: Some(wscale), ..ListenOptions::default() };
    Rig::new(config(Profile::parse(policy).unwrap(), Driver::TapBuild), options, Handshake::default())
}

fn steer(rig: &mut Rig, steering: Option<Steering>) -> u32 {
    rig.stack.set_option(rig.now, rig.id, SocketOption::Steer(steering)).unwrap();
    rig.stack.send_ack(rig.now, rig.id).unwrap();
    rig.sent().pop().unwrap().window
}

#[test]
fn the_first_window_and_its_scale_are_said_too() {
    for policy in Profile::NAMES {
        for wscale in 0..=14 {
            let rig = steered(policy, Steering::Window(20_000), wscale);
            // The window of a SYN is never scaled.
            assert_eq!((rig.syn_ack.window, rig.syn_ack.options.wscale), (20_000, Some(wscale)), "{policy}");
        }
    }
    let wide = steered("linux-6.1", Steering::Window(1 << 20), 7);
    assert_eq!(wide.syn_ack.window, 65_535);
}

#[test]
fn the_edge_moves_left_under_a_policy_that_forbids_it() {
    for policy in Profile::NAMES {
        let mut rig = steered(policy, Steering::Window(20_000), 3);
        rig.data(0, 4000);
        assert_eq!(steer(&mut rig, Some(Steering::Window(5000))), 5000, "{policy}");
        assert_eq!(steer(&mut rig, Some(Steering::Window(0))), 0);
        // Data beyond what was offered last are not taken, and what was offered last is said again.
        let sent = rig.data(4000, 1000);
        assert_eq!((rig.info().bytes_received, sent.last().unwrap().window), (4000, 0), "{policy}");
        assert_eq!(steer(&mut rig, Some(Steering::Window(30_000))), 30_000);
        rig.data(4000, 1000);
        assert_eq!(rig.read(100_000), pattern(0, 5000));
    }
}

#[test]
fn a_pinned_edge_stays_and_its_rounding_moves_it_by_less_than_a_unit() {
    let mut rig = steered("linux-6.1", Steering::Edge(20_000), 7);
    let mut edges = Vec::new();
    for i in 0..5 {
        rig.data(i * 1001, 1001);
        rig.stack.send_ack(rig.now, rig.id).unwrap();
        let sent = rig.sent().pop().unwrap();
        edges.push(sent.ack + sent.window);
    }
    assert_eq!(edges, [19_945, 19_922, 19_899, 19_876, 19_981], "20 000 less what 128 does not divide");
    rig.data(5005, 20_000 - 5005);
    assert_eq!(steer(&mut rig, Some(Steering::Edge(20_000))), 0);
}

#[test]
fn the_stack_decides_again_when_nobody_steers() {
    let mut rig = steered("linux-6.18", Steering::Window(5000), 7);
    let natural = steer(&mut rig, None);
    assert!(natural > 60_000, "{natural}");
    // And it keeps the edge that it then has.
    let sent = rig.data(0, 1000).pop().unwrap();
    assert!(sent.ack + sent.window >= natural);
}

#[test]
fn decisions_name_the_limit_and_ids_are_checked() {
    let mut rig = steered("linux-6.1", Steering::Window(20_000), 0);
    steer(&mut rig, Some(Steering::Window(7)));
    let said = rig.records.iter().rev().find_map(|r| match &r.decision {
        Decision::Window(w) => Some((w.limit, w.rcv_wnd, w.edge_moved)),
        _ => None,
    });
    assert_eq!(said, Some((WindowLimit::Steered, 7, -19_993)));
    let id = rig.id;
    rig.stack.abort(rig.now, id).unwrap();
    assert_eq!(rig.stack.send_ack(rig.now, id), Err(SocketError::BadId));
}
