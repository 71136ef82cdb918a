use std::{fs, path::PathBuf};

use rightedge_stack::{
    SocketId,
    decision::{
        AckNow, Cause, CoalesceHow, Decision, DropReason, QueueKind, Record, WindowChoice, WindowLimit,
    },
    profile::{ShrinkPolicy, SpaceRule},
    time::Instant,
    units::Seq,
};
use serde_json::json;

use super::*;
use crate::{
    observer::{
        segment::{ACK, PSH},
        tests::{Tcp, build},
    },
    record::{Options, RunDir, Status},
};

fn socket() -> Option<SocketId> {
    serde_json::from_value(json!({"index": 0, "generation": 1})).unwrap()
}

fn record(cause: Cause, tx: Option<u64>, decision: Decision) -> Record {
    Record { at: Instant::from_micros(250), socket: socket(), cause, tx, decision }
}

fn segment(from_stack: bool, seq: u32, ack: u32, window: u16, payload: usize) -> bytes::Bytes {
    build(Tcp { from_stack, seq, ack, flags: ACK | PSH, window, options: &[], payload, v6: false }).into()
}

/// Free memory 60 000 of 131 072 at ratio 128: worth 30 000, of 65 536.
fn choice() -> WindowChoice {
    WindowChoice {
        sk_rcvbuf: 131_072,
        sk_rmem_alloc: 71_072,
        backlog_len: 0,
        space_rule: SpaceRule::ScalingRatio(128),
        free_space: 30_000,
        full_space: 65_536,
        window_clamp: 65_536,
        rcv_ssthresh: 64_000,
        rcv_mss: 1448,
        rcv_wscale: 7,
        shrink: ShrinkPolicy::Never,
        raw_window: 29_952,
        limit: WindowLimit::FreeSpace,
        rcv_nxt: Seq(1449),
        old_window: 40_001,
        old_rcv_wnd: 41_450,
        edge_kept: true,
        rcv_wnd: 40_064,
        field: 313,
        edge_moved: 63,
    }
}

/// Two data segments, one dropped, one ACK for both, and an ACK in between of another socket.
fn run(window: WindowChoice) -> (tempfile::TempDir, PathBuf) {
    let tmp = tempfile::tempdir().unwrap();
    let dir = tmp.path().join("run");
    let mut run = RunDir::create(&dir, Options::default()).unwrap();
    let other = |tx| Record {
        socket: serde_json::from_value(json!({"index": 9, "generation": 1})).unwrap(),
        ..record(Cause::Timer, Some(tx), Decision::Window(choice()))
    };
    let merged = Decision::Coalesced {
        queue: QueueKind::Receive,
        how: CoalesceHow::HeadStolen,
        len: 1448,
        delta: 2048,
        total_len: 2896,
    };
    let arrived =
        |seq| Decision::Arrived { seq: Seq(seq), len: 1448, truesize: 2304, gso_size: 0, predicted: true };
    run.arrived(
        1,
        100,
        &segment(false, 1, 1, 500, 1448),
        [record(Cause::Frame(1), None, arrived(1)), record(Cause::Frame(1), None, merged)],
    )
    .unwrap();
    run.departed(1, 150, &segment(true, 5, 5, 1, 0), [other(1)]).unwrap();
    let dropped = Decision::Dropped { reason: DropReason::RcvQueueFull, seq: Seq(1449), len: 1448 };
    run.arrived(
        2,
        200,
        &segment(false, 1449, 1, 500, 1448),
        [
            record(Cause::Frame(2), None, arrived(1449)),
            record(Cause::Frame(2), None, dropped),
            record(Cause::Frame(2), Some(2), Decision::Window(window)),
            record(
                Cause::Frame(2),
                Some(2),
                Decision::AckNow { why: AckNow::MoreThanOneMss, ack: Seq(1449) },
            ),
        ],
    )
    .unwrap();
    run.departed(2, 250, &segment(true, 1, 1449, window.field, 0), []).unwrap();
    run.arrived(3, 300, &vec![0; 60].into(), []).unwrap();
    run.finish(Status::Complete, &json!({})).unwrap();
    (tmp, dir)
}

#[test]
fn an_ack_is_explained_step_by_step() {
    let (_tmp, dir) = run(choice());
    let e = explain(&dir, 4).unwrap();
    assert_eq!(e.notes, [""; 0], "{e}");
    let text = e.to_string();
    for words in [
        "packet 4, departing at 0.000000250 s",
        "sk_rcvbuf 131072 − sk_rmem_alloc 71072 − backlog 0 = 60000  [tcp_space]",
        "60000 × scaling_ratio 128 >> 8 = 30000",
        "30000 is less than half of 65536, so small windows are tested for; rounded down to units of 128: 29952",
        "at least 4096 (1/16 of the full space) and 1448 (one segment): kept",
        "29952 is not above rcv_ssthresh 64000",
        "29952 is less than the 40001 still open",
        "40001 rounded up to 40064: the right edge creeps 63 to the right",
        "min(40064, 65535·2^7) >> 7 = 313",
        "The window is 40064 bytes although only 29952 bytes would be justified now",
        "coalesced 1448 bytes in the receive queue (head stolen)",
        "DROPPED 1449+1448: no memory in the receive buffer  [tcp_data_queue]",
        "ACK 1449 now",
    ] {
        assert!(text.contains(words), "{words}\n{text}");
    }
    assert_eq!(e.led_here.len(), 4);
    let json = serde_json::to_value(&e).unwrap();
    assert_eq!((&json["direction"], &json["window"]["field"]), (&json!("out"), &json!(313)));
}

#[test]
fn an_arriving_packet_is_explained_with_its_answer() {
    let (_tmp, dir) = run(choice());
    let e = explain(&dir, 1).unwrap();
    assert_eq!(
        e.headline,
        "accepted: coalesced 1448 bytes in the receive queue (head stolen): +2048, now 2896 bytes"
    );
    let answer = e.answer.clone().unwrap();
    assert_eq!((answer.packet, answer.window.field), (4, 313));
    assert!(e.to_string().contains("Answered by packet 4"), "{e}");
    let e = explain(&dir, 3).unwrap();
    assert!(e.headline.starts_with("DROPPED 1449+1448"), "{e}");
    assert_eq!(e.answer.unwrap().why.unwrap(), "ACK 1449 now: more than one rcv_mss unacknowledged");
}

#[test]
fn every_rule_is_computed_again_as_recorded() {
    let base = WindowChoice { old_window: 0, edge_kept: false, edge_moved: 1, ..choice() };
    let cases = [
        WindowChoice { raw_window: 29_952, rcv_wnd: 29_952, field: 234, ..base },
        // Shrinking rounds down and takes less than what is open.
        WindowChoice {
            shrink: ShrinkPolicy::Merged,
            free_space: 30_070,
            sk_rmem_alloc: 70_932,
            raw_window: 29_952,
            old_window: 40_000,
            rcv_wnd: 29_952,
            field: 234,
            ..base
        },
        // Below a sixteenth.
        WindowChoice {
            sk_rmem_alloc: 131_072 - 8000,
            free_space: 4000,
            raw_window: 0,
            limit: WindowLimit::BelowSixteenth,
            rcv_wnd: 0,
            field: 0,
            ..base
        },
        // Capped by rcv_ssthresh, and adv_win_scale.
        WindowChoice {
            space_rule: SpaceRule::AdvWinScale(1),
            sk_rmem_alloc: 0,
            free_space: 65_536,
            rcv_ssthresh: 50_000,
            raw_window: 50_048,
            limit: WindowLimit::RcvSsthresh,
            rcv_wnd: 50_048,
            field: 391,
            ..base
        },
        // A negative scale, negative space.
        WindowChoice {
            space_rule: SpaceRule::AdvWinScale(-2),
            sk_rmem_alloc: 131_172,
            free_space: -25,
            full_space: 32_768,
            raw_window: 0,
            limit: WindowLimit::BelowSixteenth,
            rcv_wnd: 0,
            field: 0,
            ..base
        },
        // Without scaling.
        WindowChoice {
            rcv_wscale: 0,
            raw_window: 28_960,
            limit: WindowLimit::WholeSegments,
            rcv_wnd: 28_960,
            field: 28_960,
            ..base
        },
        // No memory: zero wherever the edge was.
        WindowChoice {
            raw_window: 0,
            limit: WindowLimit::NoMemory,
            old_window: 5000,
            rcv_wnd: 0,
            field: 0,
            edge_moved: -5000,
            ..base
        },
    ];
    for c in cases {
        let (_tmp, dir) = run(c);
        let e = explain(&dir, 4).unwrap();
        assert_eq!(e.notes, [""; 0], "{c:?}\n{e}");
    }
    let (_tmp, dir) = run(WindowChoice { raw_window: 7, ..base });
    let e = explain(&dir, 4).unwrap();
    assert!(e.to_string().contains("the stack recorded 7"), "{e}");
}

#[test]
fn wrong_numbers_get_an_answer_that_helps() {
    let (_tmp, dir) = run(choice());
    for n in [0, 6, u64::MAX] {
        let error = explain(&dir, n).unwrap_err().to_string();
        assert_eq!(error, format!("packet {n} does not exist: the run has packets 1 to 5"));
    }
    let error = explain(&dir, 5).unwrap_err().to_string();
    assert_eq!(error, "packet 5 has no window to explain: it is not TCP; choose a TCP packet");
    let error = explain(&dir.join("nowhere"), 1).unwrap_err();
    assert!(format!("{error:#}").contains("wire.pcapng"), "{error:#}");
}

#[test]
fn without_the_frame_the_decisions_still_speak() {
    let (_tmp, dir) = run(choice());
    let wire = dir.join(names::WIRE);
    let bytes = fs::read(&wire).unwrap();
    fs::write(&wire, &bytes[..bytes.len() / 2]).unwrap();
    let e = explain(&dir, 4).unwrap();
    assert_eq!(e.direction, Some(Direction::Out));
    assert!(e.segment.is_none() && e.window.is_some() && e.notes[0].contains("wire.pcapng"));
}

#[test]
fn unknown_kinds_and_hostile_numbers_are_told_as_they_are() {
    let (_tmp, dir) = run(choice());
    let path = dir.join(names::DECISIONS);
    let text = fs::read_to_string(&path).unwrap();
    let strange = "{\"packet\":1,\"tx\":null,\"socket\":{\"index\":0,\"generation\":1},\"words\":\"a thing of tomorrow\",\"decision\":{\"kind\":\"new\",\"x\":[1]}}\n";
    fs::write(&path, format!("{strange}{text}")).unwrap();
    assert!(explain(&dir, 1).unwrap().to_string().contains("a thing of tomorrow"));

    for number in ["9223372036854775807", "-9223372036854775808", "1e300", "\"x\"", "null"] {
        let mut hostile = text.clone();
        for field in [
            "sk_rcvbuf",
            "sk_rmem_alloc",
            "backlog_len",
            "free_space",
            "full_space",
            "window_clamp",
            "rcv_ssthresh",
            "rcv_mss",
            "rcv_wscale",
            "raw_window",
            "rcv_nxt",
            "old_window",
            "rcv_wnd",
            "field",
            "edge_moved",
            "scaling_ratio",
        ] {
            let from = format!("\"{field}\":");
            hostile = hostile
                .lines()
                .map(|l| match l.split_once(&from) {
                    Some((a, b)) => {
                        let end = b.find([',', '}']).unwrap();
                        format!("{a}{from}{number}{}\n", &b[end..])
                    }
                    None => format!("{l}\n"),
                })
                .collect();
        }
        fs::write(&path, hostile).unwrap();
        let e = explain(&dir, 4).unwrap();
        assert!(!e.to_string().is_empty());
    }
}

#[test]
fn a_cut_frame_is_explained_from_what_is_there() {
    for (snaplen, whole_headers) in [(54, true), (1, false), (40, false)] {
        let tmp = tempfile::tempdir().unwrap();
        let options = Options { snaplen: Some(snaplen), ..Options::default() };
        let mut run = RunDir::create(&tmp.path().join("r"), options).unwrap();
        let dir = run.path().to_owned();
        let d = Decision::Refunded { truesize: 1, sk_rmem_alloc: 7 };
        run.arrived(1, 5, &segment(false, 1, 1, 1, 1448), [record(Cause::Frame(1), None, d)]).unwrap();
        drop(run);
        let e = explain(&dir, 1).unwrap();
        assert_eq!((e.t_ns, e.direction, e.decided.len()), (5, Some(Direction::In), 1));
        assert_eq!(e.segment.as_ref().map(|s| s.payload), whole_headers.then_some(1448));
        let note = format!("holds {snaplen} of its 1502 bytes");
        assert_eq!(e.notes.iter().any(|n| n.contains(&note)), !whole_headers, "{:?}", e.notes);
    }
}

#[test]
fn a_long_story_is_cut_in_the_middle() {
    let tmp = tempfile::tempdir().unwrap();
    let mut run = RunDir::create(&tmp.path().join("r"), Options::default()).unwrap();
    let dir = run.path().to_owned();
    for n in 1..=100 {
        let d = Decision::Refunded { truesize: 1, sk_rmem_alloc: n };
        run.arrived(n as u64, 1, &segment(false, 1, 1, 1, 1), [record(Cause::Frame(n as u64), None, d)])
            .unwrap();
    }
    run.departed(
        1,
        2,
        &segment(true, 1, 1, 313, 0),
        [record(Cause::Timer, Some(1), Decision::Window(choice()))],
    )
    .unwrap();
    drop(run);
    let e = explain(&dir, 101).unwrap();
    assert_eq!((e.led_here.len(), e.left_out), (40, 60));
    assert!(e.to_string().contains("(60 more in the middle left out)"));
    assert_eq!(e.led_here.last().unwrap().packet, Some(100));
}
