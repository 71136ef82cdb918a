use super::*;
use crate::record::Event;

/// The fill of a 64 KiB buffer that nobody reads, roughly as the published run shows it.
fn fill(policy: u32) -> Vec<Sample> {
    let mut out = Vec::new();
    let (mut r, mut q, mut rb) = (0i64, 0i64, 65_536i64);
    let mut ssthresh = 32_768i64;
    for n in 1..=75u64 {
        let mut s = Sample { packet: n, t_ns: n * 900_000, rx_len: 1024, ..Default::default() };
        if r + 2304 > rb && policy == 0 {
            if r < 73_000 {
                s.pruned = 1;
                s.clamped = 1;
                rb = r + 2304;
                r += 1300;
                q += 1024;
            } else if n % 3 == 0 {
                s.collapsed = 1;
                r -= 600;
            } else {
                s.dropped = 1;
            }
        } else if r + 2304 <= rb {
            q += 1024;
            if n % 3 == 0 {
                s.coalesced = 1;
                r += 700;
            } else {
                r += 1280;
            }
        }
        ssthresh = (ssthresh + 2048).min(65_536 - 8448);
        s.skmem_rb = rb;
        s.skmem_r = r;
        s.recv_q = q;
        s.rcv_ssthresh = ssthresh;
        s.rcv_win = (62_464 - q).clamp(0, ssthresh);
        s.acked = q - q % 2048;
        s.right_edge = s.acked + s.rcv_win;
        out.push(s);
        if n % 2 == 0 {
            let before = out.last().cloned().unwrap();
            out.push(Sample {
                event: Event::Tx,
                coalesced: 0,
                collapsed: 0,
                pruned: 0,
                dropped: 0,
                clamped: 0,
                ..before
            });
        }
    }
    out
}

/// A long run whose stream is far larger than the buffer.
fn long(n: u64, seed: u64) -> Vec<Sample> {
    let mut x = seed;
    (1..=n)
        .map(|i| {
            x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let wave = ((i as f64 / n as f64) * 9.0).sin().abs();
            let noise = (x >> 40) as f64 / (1u64 << 24) as f64;
            Sample {
                packet: i,
                t_ns: i * 12_000,
                skmem_rb: 6_291_456,
                skmem_r: (6e6 * wave * (0.9 + 0.1 * noise)) as i64,
                recv_q: (4e6 * wave * (0.9 + 0.1 * noise)) as i64,
                rcv_win: (3.1e6 * (1.0 - wave) + 1e5 * noise) as i64,
                rcv_ssthresh: 3_100_000,
                acked: i as i64 * 1448,
                coalesced: u32::from(x >> 60 < 4),
                collapsed: u32::from(wave > 0.995 && x >> 58 == 0),
                pruned: u32::from(wave > 0.99 && x >> 59 == 0),
                ..Default::default()
            }
        })
        .collect()
}

fn keep(name: &str, svg: &str) {
    // For looking at: RIGHTEDGE_CHARTS=DIR cargo test chart
    if let Some(dir) = std::env::var_os("RIGHTEDGE_CHARTS") {
        let dir = std::path::Path::new(&dir);
        std::fs::write(dir.join(format!("{name}.svg")), svg).unwrap();
        std::fs::write(dir.join(format!("{name}.png")), png(svg, 1.0).unwrap()).unwrap();
    }
}

fn counters() -> Vec<(String, u64)> {
    [
        ("TCPRcvCoalesce", 24),
        ("PruneCalled", 13),
        ("TCPRcvCollapsed", 58),
        ("TCPRcvQDrop", 13),
        ("OfoPruned", 0),
    ]
    .map(|(n, v)| (n.to_owned(), v))
    .to_vec()
}

#[test]
fn a_short_run_has_every_line_and_mark() {
    let options = Options {
        title: "fill-64k-aws0".into(),
        subtitle: "policy kernel 6.1, shrink never · verdict: reproduced (recv-q 62464, skmem_r 73984, 8448 over budget)".into(),
        counters: counters(),
        right_edge: true,
        ..Default::default()
    };
    let svg = svg(&fill(0), &options).unwrap();
    keep("short", &svg);
    for word in [
        "skmem_rb",
        "skmem_r",
        "recv-q",
        "rcv_win",
        "rcv_ssthresh",
        "ACKed bytes",
        "right edge",
        "coalesce",
        "collapse",
        "prune",
        "drop",
        "clamp",
        "arriving packet",
        "64 KiB",
        "fill-64k-aws0",
        "TCPRcvQDrop 13",
    ] {
        assert!(svg.contains(word), "{word}");
    }
    assert!(!svg.contains("OfoPruned") && svg.contains("stroke-dasharray"));
    let image = png(&svg, 1.0).unwrap();
    assert_eq!(&image[..8], b"\x89PNG\r\n\x1a\n");
    assert_eq!(image[16..24], [0, 0, 4, 176, 0, 0, 2, 208]);
}

#[test]
fn a_long_run_is_thinned_out_and_gets_a_second_axis() {
    let samples = long(300_000, 3);
    let options = Options {
        title: "oscil — 300 000 packets".into(),
        subtitle: "shrink as merged".into(),
        x: XAxis::Time,
        ..Default::default()
    };
    let svg = svg(&samples, &options).unwrap();
    keep("long", &svg);
    assert!(svg.contains("ACKed bytes (right axis)"));
    assert!(svg.len() < 1_500_000, "{}", svg.len());
}

#[test]
fn thinning_keeps_extremes() {
    let mut samples = long(50_000, 1);
    samples[31_234].skmem_r = 9_000_000;
    samples[11_111].rcv_win = 0;
    let panel = Panel::new("", &samples, &Options::default());
    let axes = panel::Axes::shared(std::slice::from_ref(&panel));
    assert!(!axes.series.is_empty());
    let svg = svg(&samples, &Options::default()).unwrap();
    // 9 000 000 is the largest value by far, so some line must come close to the top of a 9 or 10 MiB axis.
    assert!(svg.contains("8 MiB"), "the spike was lost");
}

#[test]
fn runs_of_nothing_and_of_one_sample_say_so() {
    let options = Options { title: "empty".into(), ..Default::default() };
    let empty = svg(&[], &options).unwrap();
    keep("empty", &empty);
    assert!(empty.contains("no samples"));
    let one = svg(&fill(0)[..1], &Options { title: "one".into(), ..Default::default() }).unwrap();
    keep("one", &one);
    assert!(one.contains("one sample only"));
    let other = svg(&fill(0), &Options { conn: Some(9), ..Default::default() }).unwrap();
    assert!(other.contains("connection 9 has no samples"));
    png(&other, 0.5).unwrap();
}

#[test]
fn policies_stand_side_by_side() {
    let (a, b, c) = (fill(0), fill(1), long(60_000, 5));
    let options = Options {
        title: "never-reads: three policies".into(),
        subtitle: "same sender, same link, same seed".into(),
        ..Default::default()
    };
    let two = comparison(&[("shrink never", &a), ("shrink as merged", &b)], &options).unwrap();
    keep("two", &two);
    let wide = Options { size: (1500, 900), x: XAxis::Time, ..options.clone() };
    let d = long(30_000, 9);
    let four =
        comparison(&[("never", &c), ("first form", &d), ("as merged", &c), ("nothing", &[])], &wide).unwrap();
    keep("four", &four);
    assert!(comparison(&[], &options).is_err());
    let many: Vec<(&str, &[Sample])> = vec![("x", &a); 30];
    let error = comparison(&many, &options).unwrap_err().to_string();
    assert!(error.contains("cannot hold 30 panels"), "{error}");
}

#[test]
fn hostile_samples_and_texts_are_drawn_without_harm() {
    let wild = |v| Sample {
        packet: u64::MAX,
        t_ns: u64::MAX,
        skmem_rb: v,
        skmem_r: v,
        recv_q: v,
        rcv_win: v,
        rcv_ssthresh: v,
        acked: v,
        right_edge: v,
        dropped: u32::MAX,
        ..Default::default()
    };
    let samples = [wild(i64::MIN), wild(i64::MAX), Sample::default()];
    for x in [XAxis::Packet, XAxis::Time] {
        let options = Options {
            title: "<script>&\"'".repeat(50),
            subtitle: "x".repeat(3000),
            right_edge: true,
            x,
            ..Default::default()
        };
        let svg = svg(&samples, &options).unwrap();
        assert!(!svg.contains("<script>"));
        png(&svg, 0.25).unwrap();
    }
    assert!(svg(&samples, &Options { size: (10, 10), ..Default::default() }).is_err());
    assert!(png("nonsense", 1.0).is_err());
    assert!(png(&svg(&[], &Options::default()).unwrap(), 1e9).is_err());
}
