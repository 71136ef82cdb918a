//! What each collapse policy does to memory, to copying and to the work of one arrival.

mod rig;

use rig::{Handshake, Rig, config, pattern};
use rightedge_stack::{
    ListenOptions,
    decision::{CollapseOutcome, Decision, QueueKind},
    nic::Driver,
    profile::Profile,
    time::Duration,
};

fn rig(policy: &str, driver: Driver, rcvbuf: i32) -> Rig {
    let mut c = config(Profile::parse(policy).unwrap(), driver);
    c.sysctls.rmem_max = 64 << 20;
    let options = ListenOptions { rcvbuf: Some(rcvbuf), ..ListenOptions::default() };
    Rig::new(c, options, Handshake::default())
}

/// One [`Decision::Collapsed`].
#[derive(Clone, Copy, Debug)]
struct Did {
    queue: QueueKind,
    outcome: CollapseOutcome,
    freed: u32,
    made: u32,
    copied: u64,
    before: i32,
    after: i32,
}

fn collapses(rig: &Rig) -> Vec<Did> {
    let did = |d: &Decision| match *d {
        Decision::Collapsed { queue, outcome, freed, made, copied, sk_rmem_alloc_before, sk_rmem_alloc } => {
            let (before, after) = (sk_rmem_alloc_before, sk_rmem_alloc);
            Some(Did { queue, outcome, freed, made, copied, before, after })
        }
        _ => None,
    };
    rig.records.iter().filter_map(|r| did(&r.decision)).collect()
}

/// Segments of `len` bytes that nobody reads, `gap` bytes behind the next expected one, until `stop` says so.
fn fill(rig: &mut Rig, len: u32, gap: u32, most: u32, stop: impl Fn(&Rig) -> bool) -> u32 {
    for n in 0..most {
        rig.pass(Duration::from_millis(4));
        rig.data(gap + n * len, len as usize);
        rig.stack.audit().unwrap();
        if stop(rig) {
            return n + 1;
        }
    }
    most
}

fn until_pruned(rig: &Rig) -> bool {
    rig.count("TcpExtPruneCalled") > 0
}

/// All that was taken can be read, and is what was sent.
fn reads_right(rig: &mut Rig) -> usize {
    let mut at = 0;
    loop {
        let bytes = rig.read(100_000);
        if bytes.is_empty() {
            return at;
        }
        assert_eq!(bytes, pattern(at as u32, bytes.len()));
        at += bytes.len();
        rig.stack.audit().unwrap();
    }
}

/// The first collapse of a receive queue of 200-byte segments in slab heads of 1280 bytes, two in each; sk_rcvbuf 400 000.
fn first(policy: &str, driver: Driver) -> (Did, Rig) {
    let mut rig = rig(policy, driver, 200_000);
    fill(&mut rig, 200, 0, 1000, until_pruned);
    let did = collapses(&rig).into_iter().find(|d| d.queue == QueueKind::Receive).unwrap();
    (did, rig)
}

#[test]
fn large_targets_free_more_than_pages() {
    let (on, mut a) = first("linux-6.1", Driver::Tun);
    let (large, mut b) = first("linux-6.1,collapse=large", Driver::Tun);
    assert_eq!((on.before, on.freed, on.copied), (large.before, large.freed, large.copied));
    // 625 segments: 33 pages of 3776 and 392 bytes more, or three of 32 448, one of 16 064, one of 7872 and 3720.
    assert_eq!(on.copied, 125_000);
    assert_eq!((on.made, on.after), (34, 33 * 4352 + 1280));
    assert_eq!((large.made, large.after), (6, 3 * 33_024 + 16_640 + 8448 + 4352));
    assert_eq!(reads_right(&mut a), reads_right(&mut b));
}

#[test]
fn large_targets_serve_the_queue_out_of_order_too() {
    let run = |policy: &str| {
        let mut rig = rig(policy, Driver::Tun, 200_000);
        fill(&mut rig, 200, 1, 1000, until_pruned);
        let did = collapses(&rig).into_iter().find(|d| d.queue == QueueKind::OutOfOrder).unwrap();
        rig.data(0, 1);
        reads_right(&mut rig);
        did
    };
    let (on, large) = (run("linux-6.1"), run("linux-6.1,collapse=large"));
    assert!(large.made * 4 < on.made && large.after < on.after, "{on:?} {large:?}");
}

#[test]
fn a_portion_is_bounded_and_the_next_call_goes_on() {
    const PORTION: u64 = 16_384;
    let mut rig = rig("linux-6.1,collapse=bounded:16384", Driver::Tun, 1 << 20);
    fill(&mut rig, 200, 0, 8000, |r| r.info().rcv_win < 200);
    let did = collapses(&rig);
    let rewritten: Vec<_> = did.iter().filter(|d| d.outcome == CollapseOutcome::Rewritten).collect();
    assert!(rewritten.len() > 8, "{} portions", rewritten.len());
    for d in &did {
        assert!(d.copied + 64 * u64::from(d.freed) <= PORTION, "{d:?}");
    }
    // Every portion goes on behind the last: but for a last buffer that is filled up, nothing is copied twice.
    let copied: u64 = rewritten.iter().map(|d| d.copied).sum();
    let held = u64::from(rig.info().recv_q);
    assert!(copied <= held + rewritten.len() as u64 * 3776, "{copied} copied, {held} held");
    assert_eq!((rig.count("TcpExtTCPRcvQDrop"), reads_right(&mut rig) as u64), (0, held));
    // And each made room for many segments.
    assert!(rewritten.iter().all(|d| d.before - d.after > 20 * 1280), "{rewritten:?}");
}

#[test]
fn a_portion_survives_reads_and_holes_in_between() {
    let mut rig = rig("linux-6.18,collapse=bounded:16384", Driver::Tun, 100_000);
    let (mut read, mut seed) = (0u32, 1u32);
    for _ in 0..20_000 {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let next = rig.info().rcv_nxt.since(rig.isn) as u32;
        let at = match seed >> 29 {
            0..3 => next + 200 * (1 + (seed >> 20) % 300),
            3 => next.saturating_sub(100),
            _ => next,
        };
        rig.data(at, 1 + (seed >> 16) as usize % 300);
        if (seed >> 8) % 512 == 0 {
            let bytes = rig.read((seed >> 12) as usize % 60_000);
            assert_eq!(bytes, pattern(read, bytes.len()));
            read += bytes.len() as u32;
        }
        rig.pass(Duration::from_millis(1));
        rig.stack.audit().unwrap();
    }
    let rewritten = |q| {
        let is = |d: &Did| d.queue == q && d.outcome == CollapseOutcome::Rewritten;
        collapses(&rig).iter().filter(|d| is(d)).count()
    };
    let (receive, ofo) = (rewritten(QueueKind::Receive), rewritten(QueueKind::OutOfOrder));
    assert!(receive > 5 && ofo > 5, "{receive} and {ofo} portions");
    assert!(collapses(&rig).iter().all(|d| d.copied <= 16_384));
}

/// What joining frees of a queue whose buffers did not coalesce on arrival, and how many buffers it leaves.
fn joined(driver: Driver, len: u32) -> (Did, u32) {
    let mut rig = rig("linux-6.18,collapse=frags,coalesce=off", driver, 200_000);
    fill(&mut rig, len, 0, 2000, until_pruned);
    let did = collapses(&rig).into_iter().find(|d| d.queue == QueueKind::Receive).unwrap();
    let left = rig.info().rcvq_skbs;
    reads_right(&mut rig);
    (did, left as u32)
}

#[test]
fn fragments_copy_nothing_and_free_what_really_goes() {
    // Page-fragment heads: 17 of 18 give up their descriptor, the areas stay.
    let (d, _) = joined(Driver::TapBuild, 200);
    assert_eq!((d.outcome, d.copied), (CollapseOutcome::Joined, 0));
    assert_eq!(d.made, (d.freed + d.made).div_ceil(18));
    assert_eq!(d.before - d.after, d.freed as i32 * 256);
    // Payload in fragments: the small head goes too.
    let (d, _) = joined(Driver::NapiFrags, 200);
    assert_eq!((d.outcome, d.copied), (CollapseOutcome::Joined, 0));
    assert_eq!(d.before - d.after, d.freed as i32 * 832);
    // A slab head with payload cannot be a fragment: nothing goes.
    let (d, _) = joined(Driver::Tun, 200);
    assert_eq!((d.outcome, d.freed, d.before), (CollapseOutcome::NothingBloated, 0, d.after));
    // Bloated buffers stay as bloated as they were but for 256 bytes.
    let (d, _) = joined(Driver::Buf16K, 200);
    assert_eq!(d.before - d.after, d.freed as i32 * 256);
    assert!(f64::from(d.after) > 0.98 * f64::from(d.before));
}

#[test]
fn fragments_out_of_order_keep_the_bytes() {
    let mut rig = rig("linux-6.18,collapse=frags,coalesce=off", Driver::NapiFrags, 200_000);
    fill(&mut rig, 200, 1, 2000, until_pruned);
    let did = collapses(&rig).into_iter().find(|d| d.queue == QueueKind::OutOfOrder).unwrap();
    assert_eq!((did.outcome, did.copied), (CollapseOutcome::Joined, 0));
    assert_eq!(did.before - did.after, did.freed as i32 * 832);
    rig.data(0, 1);
    assert!(reads_right(&mut rig) > 50_000);
}

#[test]
fn refusing_early_never_collapses_and_slows_the_sender_before() {
    let run = |policy: &str| {
        let mut rig = rig(policy, Driver::Tun, 50_000);
        // The sender obeys the window.
        let (mut at, mut edge) = (0, rig.info().rcv_win);
        for _ in 0..400 {
            let mut sent = Vec::new();
            if at + 200 <= edge {
                sent = rig.data(at, 200);
                at = rig.info().rcv_nxt.since(rig.isn) as u32;
            }
            sent.extend(rig.pass(Duration::from_millis(50)));
            if let Some(s) = sent.last() {
                edge = s.ack + s.window;
            }
            rig.stack.audit().unwrap();
        }
        let early = rig.records.iter().find_map(|r| match r.decision {
            Decision::Clamped { sk_rmem_alloc, sk_rcvbuf, rcv_ssthresh, .. } => {
                Some((sk_rmem_alloc, sk_rcvbuf, rcv_ssthresh))
            }
            _ => None,
        });
        let collapsed = (rig.count("TcpExtTCPRcvCollapsed"), collapses(&rig).iter().map(|d| d.copied).sum());
        let read = reads_right(&mut rig);
        (early, collapsed, read)
    };
    let (early, collapsed, read) = run("linux-6.18,collapse=refuse");
    let (on, some, more) = run("linux-6.18");
    assert_eq!(collapsed, (0, 0u64));
    let (charged, rcvbuf, ssthresh) = early.unwrap();
    assert!(charged <= rcvbuf && charged > rcvbuf / 8 * 7, "{charged} of {rcvbuf}");
    assert_eq!(ssthresh, 2 * 1448);
    // The kernel's cuts when memory is full, and holds more bytes in it for copying them.
    assert!(on.is_none_or(|(charged, rcvbuf, _)| charged > rcvbuf));
    assert!(some.0 > 0 && more > read, "{some:?}, {more} and {read} bytes");
}

#[test]
fn the_policies_parse_and_print() {
    for (given, shown) in [
        ("large", "large"),
        ("bounded", "bounded:262144"),
        ("bounded:16384", "bounded:16384"),
        ("frags", "frags"),
        ("refuse", "refuse"),
        ("6291456", "6291456"),
    ] {
        let p = Profile::parse(&format!("linux-6.1,collapse={given}")).unwrap();
        let value = p.switches().into_iter().find(|s| s.name == "collapse").map(|s| s.value);
        assert_eq!(value.as_deref(), Some(shown));
    }
    for bad in ["bounded:", "bounded:16383", "bounded:x", "0", "-1", "larger"] {
        let e = Profile::parse(&format!("linux-6.1,collapse={bad}")).unwrap_err().to_string();
        assert!(e.contains("large, bounded:BYTES (at least 16384), frags or refuse"), "{e}");
    }
}
