use std::{fs, io::Write as _};

use rightedge_stack::{
    decision::{AckNow, Cause, Decision, Record},
    time::Instant,
    units::Seq,
};
use serde_json::json;

use super::*;

fn record(cause: Cause, tx: Option<u64>, decision: Decision) -> Record {
    Record { at: Instant::from_micros(5), socket: None, cause, tx, decision }
}

fn frame(len: usize) -> bytes::Bytes {
    vec![0; len].into()
}

fn arrived(n: u64) -> Record {
    record(
        Cause::Frame(n),
        None,
        Decision::Arrived { seq: Seq(1), len: 1448, truesize: 2304, gso_size: 0, predicted: true },
    )
}

fn ack(n: u64, tx: u64) -> Record {
    record(Cause::Frame(n), Some(tx), Decision::AckNow { why: AckNow::MoreThanOneMss, ack: Seq(9) })
}

#[test]
fn a_whole_run_reads_back() {
    let tmp = tempfile::tempdir().unwrap();
    let dir = tmp.path().join("a/b");
    let mut run = RunDir::create(&dir, Options::default()).unwrap();
    assert_eq!(load_json(&dir, names::SUMMARY).unwrap()["status"], "running");
    run.write_plan(&json!({"scenario": "x"})).unwrap();
    assert_eq!(run.arrived(1, 10, &frame(60), [arrived(1), ack(1, 1)]).unwrap(), 1);
    assert_eq!(run.departed(1, 11, &frame(54), []).unwrap(), 2);
    let sample = Sample {
        packet: 1,
        tx_ack: Some(-3),
        rx_flags: "P.".chars().collect(),
        pcap_packet: Some(2),
        event: Event::Tx,
        scaling_ratio: Some(128),
        ..Default::default()
    };
    run.sample(sample.clone()).unwrap();
    run.sample(Sample::default()).unwrap();
    assert_eq!(run.finish(Status::Complete, &json!({"verdict": "ok"})).unwrap(), dir);

    assert_eq!(load_samples(&dir).unwrap(), [sample.clone(), Sample::default()]);
    let json_lines = fs::read_to_string(dir.join(names::SAMPLES_JSONL)).unwrap();
    let first: Sample = serde_json::from_str(json_lines.lines().next().unwrap()).unwrap();
    assert_eq!(first, sample);
    let summary = load_json(&dir, names::SUMMARY).unwrap();
    assert_eq!((&summary["status"], &summary["verdict"]), (&json!("complete"), &json!("ok")));
    assert!(summary.get("decisions_truncated").is_none());

    let mut lines = DecisionLines::open(&dir).unwrap();
    let head = lines.next_head().unwrap().unwrap();
    assert_eq!((head.packet, head.cause_packet, head.tx), (Some(1), Some(1), None));
    assert_eq!(lines.full().unwrap().kind(), "arrived");
    let head = lines.next_head().unwrap().unwrap();
    assert_eq!((head.packet, head.cause_packet, head.tx), (Some(2), Some(1), Some(1)));
    assert_eq!(lines.full().unwrap().function, "__tcp_ack_snd_check");
    assert!(lines.next_head().unwrap().is_none());

    let mut wire = WireReader::open(&dir.join(names::WIRE)).unwrap();
    let frame = wire.next_frame().unwrap().unwrap();
    assert_eq!((frame.t_ns, frame.direction), (10, Some(Direction::In)));
    assert_eq!(
        frame.comments,
        ["arrived 1+1448, truesize 2304, as predicted [tcp_rcv_established (header prediction)]"]
    );
    let frame = wire.next_frame().unwrap().unwrap();
    assert_eq!(frame.comments, ["ACK 9 now: more than one rcv_mss unacknowledged [__tcp_ack_snd_check]"]);
}

#[test]
fn a_dropped_run_says_interrupted_and_keeps_its_records() {
    let tmp = tempfile::tempdir().unwrap();
    let mut run = RunDir::create(tmp.path(), Options::default()).unwrap();
    run.sample(Sample::default()).unwrap();
    run.decisions([ack(1, 7)]).unwrap();
    drop(run);
    assert_eq!(load_json(tmp.path(), names::SUMMARY).unwrap()["status"], "interrupted");
    assert_eq!(load_samples(tmp.path()).unwrap().len(), 1);
    assert!(fs::read_to_string(tmp.path().join(names::DECISIONS)).unwrap().contains("\"packet\":null"));
}

#[test]
fn what_waited_long_enough_is_in_the_files_before_the_end() {
    let tmp = tempfile::tempdir().unwrap();
    let options = Options { flush_every: std::time::Duration::ZERO, ..Default::default() };
    let mut run = RunDir::create(tmp.path(), options).unwrap();
    run.arrived(1, 1, &frame(60), [arrived(1)]).unwrap();
    run.sample(Sample::default()).unwrap();
    assert!(run.tick().unwrap().is_none());
    // The writer has it now and flushes without further calls.
    let begun = std::time::Instant::now();
    while load_samples(tmp.path()).unwrap().is_empty() {
        assert!(begun.elapsed() < std::time::Duration::from_secs(10));
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    assert!(WireReader::open(&tmp.path().join(names::WIRE)).unwrap().next_frame().unwrap().is_some());
    // A kill now: nothing runs any more.
    std::mem::forget(run);
    assert_eq!(load_json(tmp.path(), names::SUMMARY).unwrap()["status"], "running");
}

#[test]
fn limits_are_kept_and_named() {
    let tmp = tempfile::tempdir().unwrap();
    let options = Options { decision_limit: Some(600), wire_limit: Some(2_000), ..Default::default() };
    let mut run = RunDir::create(tmp.path(), options).unwrap();
    for n in 1..=20 {
        assert_eq!(run.arrived(n, n, &frame(200), [arrived(n)]).unwrap(), n);
    }
    run.finish(Status::Complete, &json!(null)).unwrap();
    let text = fs::read_to_string(tmp.path().join(names::DECISIONS)).unwrap();
    assert!(text.len() < 700 && text.ends_with("\"note\":\"truncated\"}\n"), "{text}");
    let kept = text.lines().count() as u64 - 1;
    let summary = load_json(tmp.path(), names::SUMMARY).unwrap();
    assert_eq!(summary["decisions_truncated"]["left_out"], 20 - kept);
    assert!(summary["wire_truncated"]["left_out"].as_u64().unwrap() > 5);
    assert_eq!(summary["packets"], 20);
}

#[test]
fn frames_are_cut_to_the_snaplen_and_large_ones_survive_whole() {
    let tmp = tempfile::tempdir().unwrap();
    for (snaplen, kept) in [(Some(100), [100, 54]), (None, [70_000, 54]), (Some(3_000), [3_000, 54])] {
        let options = Options { force: true, snaplen, wire_limit: Some(80_000), ..Default::default() };
        let mut run = RunDir::create(tmp.path(), options).unwrap();
        let large: bytes::Bytes = (0..70_000u32).map(|n| n as u8).collect::<Vec<_>>().into();
        run.arrived(1, 1, &large, [arrived(1)]).unwrap();
        run.departed(1, 2, &frame(54), []).unwrap();
        run.finish(Status::Complete, &json!(null)).unwrap();
        let mut wire = WireReader::open(&tmp.path().join(names::WIRE)).unwrap();
        for (kept, whole) in kept.into_iter().zip([70_000, 54]) {
            let f = wire.next_frame().unwrap().unwrap();
            assert_eq!((f.data.len(), f.original_len), (kept, whole));
            if whole > 54 {
                assert!(f.data.iter().enumerate().all(|(n, b)| *b == n as u8));
            }
        }
    }
}

#[test]
fn the_order_of_calls_is_the_order_of_the_files_over_many_batches() {
    let tmp = tempfile::tempdir().unwrap();
    let mut run = RunDir::create(tmp.path(), Options::default()).unwrap();
    for n in 1..=5_000 {
        assert_eq!(run.arrived(n, n, &frame(1_514), [arrived(n), ack(n, n)]).unwrap(), 2 * n - 1);
        run.sample(Sample { packet: n, ..Default::default() }).unwrap();
        assert_eq!(run.departed(n, n, &frame(54), []).unwrap(), 2 * n);
    }
    run.flush().unwrap();
    assert!(run.tick().unwrap().is_none());
    let samples = load_samples(tmp.path()).unwrap();
    assert!(samples.iter().map(|s| s.packet).eq(1..=5_000));
    let mut lines = DecisionLines::open(tmp.path()).unwrap();
    for n in 1..=10_000 {
        assert_eq!(lines.next_head().unwrap().unwrap().packet, Some(n));
    }
    drop(run);
}

#[test]
fn a_directory_in_use_is_refused_and_force_spares_foreign_files() {
    let tmp = tempfile::tempdir().unwrap();
    fs::write(tmp.path().join("thesis.tex"), "precious").unwrap();
    fs::write(tmp.path().join(names::CHART_PNG), "old").unwrap();
    let error = RunDir::create(tmp.path(), Options::default()).err().unwrap().to_string();
    assert!(error.contains("chart.png, thesis.tex") && error.contains("--force"), "{error}");
    drop(RunDir::create(tmp.path(), Options { force: true, ..Default::default() }).unwrap());
    assert_eq!(fs::read_to_string(tmp.path().join("thesis.tex")).unwrap(), "precious");
    assert!(!tmp.path().join(names::CHART_PNG).exists());

    let error = RunDir::create(&tmp.path().join("thesis.tex"), Options::default()).err().unwrap();
    assert!(error.to_string().contains("is a file"), "{error}");
    let error = RunDir::create(&tmp.path().join("thesis.tex/x"), Options::default()).err().unwrap();
    assert!(format!("{error:#}").contains("thesis.tex/x"), "{error:#}");
}

#[test]
fn a_cut_last_line_is_left_out_but_a_bad_one_inside_is_named() {
    let tmp = tempfile::tempdir().unwrap();
    let mut run = RunDir::create(tmp.path(), Options::default()).unwrap();
    for n in 1..=3 {
        run.sample(Sample { packet: n, ..Default::default() }).unwrap();
        run.decisions([arrived(n)]).unwrap();
    }
    drop(run);
    let csv = tmp.path().join(names::SAMPLES_CSV);
    let text = fs::read_to_string(&csv).unwrap();
    fs::write(&csv, &text[..text.len() - 2]).unwrap();
    assert_eq!(load_samples(tmp.path()).unwrap().len(), 2);
    fs::write(&csv, "").unwrap();
    assert_eq!(load_samples(tmp.path()).unwrap().len(), 0);
    fs::write(&csv, text.replace("\n2,", "\nx,")).unwrap();
    let error = load_samples(tmp.path()).unwrap_err().to_string();
    assert!(error.contains("line 3"), "{error}");

    let path = tmp.path().join(names::DECISIONS);
    let mut file = fs::OpenOptions::new().append(true).open(&path).unwrap();
    file.write_all(b"{\"packet\":1,\"a").unwrap();
    let mut lines = DecisionLines::open(tmp.path()).unwrap();
    let mut n = 0;
    while lines.next_head().unwrap().is_some() {
        n += 1;
    }
    assert_eq!(n, 3);
    fs::write(&path, "[]\nnonsense\n").unwrap();
    let mut lines = DecisionLines::open(tmp.path()).unwrap();
    assert!(lines.next_head().is_err() || lines.next_head().is_err());
}
