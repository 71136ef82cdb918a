//! Hostile frames beside a real transfer: nothing panics, every byte arrives, and no window is wrong.
#![allow(clippy::unwrap_used)]

use std::cell::RefCell;
use std::net::IpAddr;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};
use std::time::Duration;

use pnet::datalink::{self, Channel};
use rightedge::observer::{Expectation, Observer, Party, Verdict};
use rightedge::record::{Options, RunDir};
use rightedge::run::RunSpec;
use rightedge::run::engine::{ConnectionEnd, EndReason, Engine};
use rightedge::run::wire::tap::TapWire;
use rightedge::run::wire::{ModelWire, SENDER_IP, Wire};
use rightedge::scenario::{Clock, Scenario};
use rightedge_tapctl::netns;
use rightedge_tapctl::rights::{Need, require};
use rightedge_tests::hostile::{Forger, LastReal, Watched};
use rightedge_tests::{How, transfer};

const TOTAL: u64 = 1 << 20;

fn scratch() -> tempfile::TempDir {
    rightedge_tests::scratch(env!("CARGO_TARGET_TMPDIR"))
}

/// Runs `wire` to its end, expects the one real connection to have delivered everything, and tells of the forgeries.
fn survive<W: Wire>(spec: &RunSpec, wire: Watched<W>, dir: &Path) -> Verdict {
    let (observer, forgeries): (Rc<RefCell<Observer>>, _) = (wire.observer(), wire.forgeries());
    let dir = RunDir::create(dir, Options::default()).unwrap();
    let mut engine = Engine::new(spec, wire, dir, Arc::new(AtomicBool::new(false))).unwrap();
    assert_eq!(engine.run().unwrap(), EndReason::SenderDone);
    let whole = |c: &ConnectionEnd| c.delivered == TOTAL && c.read == TOTAL && c.corrupt_at.is_none();
    let ends = engine.endings();
    assert_eq!(ends.iter().filter(|c| whole(c)).count(), 1, "{ends:#?}");
    assert_eq!(ends.len(), 1, "a forgery became a connection: {ends:#?}");
    let observer = observer.borrow();
    let findings = observer
        .check(Expectation { shrink_allowed: spec.policy.contains("shrink"), ..Expectation::default() });
    // How the stack answers strangers, of whom the observer sees one side only, is not judged here.
    let findings: Vec<_> = findings.iter().filter(|f| f.party != Party::Observer).collect();
    assert!(findings.is_empty(), "{findings:#?}");
    let real: Vec<_> =
        observer.verdict().connections.into_iter().filter(|c| c.handshake && c.bytes_sent > 0).collect();
    assert_eq!((real.len(), real[0].bytes_sent, real[0].acked), (1, TOTAL, TOTAL as i64 + 1));
    forgeries.borrow().verdict()
}

#[test]
fn forgeries_between_the_segments_of_the_model_change_nothing() {
    for (role, policy) in
        [("server", "linux-6.1"), ("client", "linux-6.1"), ("server", "linux-6.18,shrink=merged")]
    {
        let scenario = Scenario::parse("transfer", &transfer(role, "1MiB", "")).unwrap();
        let spec = How::model(policy).spec(&scenario);
        for seed in 0..4 {
            let dir = scratch();
            let forger = Some((Forger::new(seed), 8));
            let wire = Watched::new(ModelWire::of(&spec.scenario, Clock::Virtual), forger, || false);
            let seen = survive(&spec, wire, dir.path());
            assert!(
                seen.frames > 5000 && seen.malformed > 500 && seen.not_tcp > 500 && seen.fragments > 50,
                "{seen:?}"
            );
        }
    }
}

/// How many frames are forged on the device.
const FORGED: u32 = 4000;

/// Sends forgeries into the device from the kernel's side, as another process there could.
fn attack(last: &LastReal, sent: &AtomicU32, over: &AtomicBool) {
    let device =
        datalink::interfaces().into_iter().find(|i| i.ips.iter().any(|a| a.ip() == IpAddr::V4(SENDER_IP)));
    let Ok(Channel::Ethernet(mut tx, _rx)) = datalink::channel(&device.unwrap(), Default::default()) else {
        panic!("no channel to the device");
    };
    let mut forger = Forger::new(11);
    while !over.load(SeqCst) && sent.load(SeqCst) < FORGED {
        std::thread::sleep(Duration::from_millis(1));
        let real = last.lock().unwrap().clone();
        for _ in 0..if real.is_empty() { 0 } else { 20 } {
            // A full queue loses frames, as it may.
            if tx.send_to(&forger.forge(&real), None).is_some_and(|r| r.is_ok()) {
                sent.fetch_add(1, SeqCst);
            }
        }
    }
}

/// A transfer over TAP, attacked from its own namespace.
fn attacked(role: &str, offload: bool) {
    let scenario = Scenario::parse("transfer", &transfer(role, "1MiB", "pace = \"2ms\"")).unwrap();
    let spec = How { offload, ..How::kernel("linux-6.1") }.spec(&scenario);
    let dir = scratch();
    let verdict = netns::run_in_new_netns(|| {
        let sent = Arc::new(AtomicU32::new(0));
        let over = Arc::new(AtomicBool::new(false));
        let counted = Arc::clone(&sent);
        let wire = TapWire::new(&spec.scenario, offload).unwrap();
        let wire = Watched::new(wire, None, move || counted.load(SeqCst) < FORGED);
        let last = wire.last();
        std::thread::scope(|s| {
            let attacker = s.spawn(|| attack(&last, &sent, &over));
            // However the run ends, the attacker must.
            let result =
                std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| survive(&spec, wire, dir.path())));
            over.store(true, SeqCst);
            attacker.join().unwrap();
            result.unwrap_or_else(|e| std::panic::resume_unwind(e))
        })
    });
    let seen = verdict.unwrap();
    // Those behind the end of the connection are not counted.
    assert!(seen.frames > 100 && seen.malformed > 0 && seen.not_tcp > 0, "{seen:?}");
}

#[test]
fn a_transfer_over_tap_survives_forgeries_from_its_own_namespace() {
    if !require("hostile_tap", &[Need::TunNode, Need::Netns, Need::Tap, Need::Packet]) {
        return;
    }
    attacked("server", false);
    attacked("client", false);
}

#[test]
fn a_transfer_over_an_offloading_tap_survives_forgeries_from_its_own_namespace() {
    if !require("hostile_offload", &[Need::TunNode, Need::Netns, Need::Tap, Need::VnetHdr, Need::Packet]) {
        return;
    }
    attacked("server", true);
}
