use super::*;

fn link(spec: &str) -> Link {
    Link::new(&LinkSpec::parse(spec).unwrap())
}

fn frame(n: u64, len: usize) -> Bytes {
    let mut v = vec![0u8; len.max(8)];
    v[..8].copy_from_slice(&n.to_be_bytes());
    Bytes::from(v)
}

fn number(f: &Bytes) -> u64 {
    u64::from_be_bytes(f[..8].try_into().unwrap())
}

fn drain(l: &mut Link) -> Vec<(Instant, Dir, u64)> {
    let mut out = Vec::new();
    while let Some(t) = l.poll_timeout() {
        while let Some((d, f, _)) = l.poll(t) {
            out.push((t, d, number(&f)));
        }
    }
    out
}

#[test]
fn off_by_default_and_instant() {
    let mut l = link("");
    assert!(LinkSpec::default().is_off());
    l.push(Instant::from_millis(3), Dir::Down, frame(1, 60), Meta { gso_size: 0, tag: 9 });
    assert_eq!(l.poll_timeout(), Some(Instant::from_millis(3)));
    let (dir, _, meta) = l.poll(Instant::from_millis(3)).unwrap();
    assert_eq!((dir, meta.tag), (Dir::Down, 9));
    assert!(l.poll(Instant::FAR_FUTURE).is_none());
    assert_eq!(l.held(), 0);
    assert_eq!(l.drain_events().count(), 0);
}

#[test]
fn the_same_seed_gives_the_same_fates_and_another_does_not() {
    let run = |seed: u64| {
        let mut l = link(&format!(
            "both:delay=5ms,jitter=2ms,loss=0.1,reorder=0.1/3ms,dup=0.05,corrupt=0.05;seed={seed}"
        ));
        for i in 0..2000u64 {
            let dir = if i % 3 == 0 { Dir::Up } else { Dir::Down };
            l.push(Instant::from_micros(i * 50), dir, frame(i, 100), Meta::default());
        }
        (l.drain_events().collect::<Vec<_>>(), drain(&mut l))
    };
    assert_eq!(run(7), run(7));
    assert_ne!(run(7).0, run(8).0);
}

#[test]
fn other_knobs_do_not_change_which_packets_are_lost() {
    let lost = |extra: &str| {
        let mut l = link(&format!("down:delay=5ms,loss=0.2{extra};seed=3"));
        for i in 0..500u64 {
            l.push(Instant::from_millis(i), Dir::Down, frame(i, 100), Meta::default());
        }
        l.drain_events().filter(|e| matches!(e.fate, Fate::Drop { .. })).map(|e| e.number).collect::<Vec<_>>()
    };
    assert_eq!(lost(""), lost(",jitter=4ms,dup=0.5,reorder=0.5/9ms,corrupt=0.3"));
}

#[test]
fn probabilities_come_out_in_the_mean() {
    let mut l = link("down:loss=0.1,dup=0.02,reorder=0.3/1ms,corrupt=5%;seed=11");
    let n = 100_000u64;
    for i in 0..n {
        l.push(Instant::from_micros(i), Dir::Down, frame(i, 200), Meta::default());
        while l.poll(Instant::from_micros(i)).is_some() {}
    }
    drain(&mut l);
    let s = l.stats(Dir::Down);
    let share = |x: u64| x as f64 / n as f64;
    // Four standard deviations of a binomial at n = 100 000.
    let near = |got: f64, p: f64| (got - p).abs() < 4.0 * (p * (1.0 - p) / n as f64).sqrt();
    assert!(near(share(s.lost), 0.1), "{s:?}");
    assert!(near(share(s.duplicated), 0.02 * 0.9), "{s:?}");
    assert!(near(share(s.reordered), 0.3 * 0.9), "{s:?}");
    assert!(near(share(s.corrupted), 0.05 * 0.9), "{s:?}");
    assert_eq!(s.delivered, n - s.lost + s.duplicated);
    assert!(l.events_lost() > 0, "100 000 records do not fit");
}

#[test]
fn the_rate_is_exact_over_many_frames() {
    // 8 bits × 1513 bytes at 100 Mbit/s are 121.04 µs each; a thousand of them are 121.04 ms exactly.
    let mut l = link("down:rate=100mbit,queue=1000p");
    for i in 0..1000 {
        l.push(Instant::ZERO, Dir::Down, frame(i, 1513), Meta::default());
    }
    let out = drain(&mut l);
    assert_eq!(out.len(), 1000);
    assert_eq!(out[0].0, Instant::from_nanos(121_040));
    assert_eq!(out[999].0, Instant::from_nanos(121_040_000));
    // A rate that does not divide: 3 bit/s, one byte takes 8/3 s; three bytes one after another take 8 s.
    let mut l = link("down:rate=3bit");
    for i in 0..3 {
        l.push(Instant::ZERO, Dir::Down, frame(i, 8), Meta::default());
    }
    assert_eq!(drain(&mut l)[2].0, Instant::from_nanos(64_000_000_000));
}

#[test]
fn the_queue_drops_what_does_not_fit() {
    let mut l = link("down:rate=8kbit,queue=2500B");
    for i in 0..5 {
        l.push(Instant::ZERO, Dir::Down, frame(i, 1000), Meta::default());
    }
    let causes: Vec<bool> = l.drain_events().map(|e| matches!(e.fate, Fate::Drop { .. })).collect();
    assert_eq!(causes, [false, false, true, true, true]);
    // One second later the first is out and there is room again.
    l.push(Instant::from_millis(1000), Dir::Down, frame(9, 1000), Meta::default());
    assert_eq!(l.stats(Dir::Down).queue_drops, 3);
    assert_eq!(drain(&mut l).last().map(|o| (o.0, o.2)), Some((Instant::from_millis(3000), 9)));
    // A frame larger than the queue passes when it is alone.
    let mut l = link("down:rate=1gbit,queue=1KiB");
    l.push(Instant::ZERO, Dir::Down, frame(0, 60_000), Meta::default());
    assert_eq!(drain(&mut l).len(), 1);
}

#[test]
fn order_is_kept_with_jitter_and_broken_by_reordering_only() {
    let order = |spec: &str| {
        let mut l = link(spec);
        for i in 0..1000u64 {
            l.push(Instant::from_micros(i * 10), Dir::Down, frame(i, 100), Meta::default());
        }
        drain(&mut l).into_iter().map(|o| o.2).collect::<Vec<_>>()
    };
    assert!(order("down:delay=10ms,jitter=9ms;seed=1").is_sorted());
    let shuffled = order("down:delay=10ms,reorder=0.1/5ms;seed=1");
    assert!(!shuffled.is_sorted());
    assert_eq!(shuffled.len(), 1000);
}

#[test]
fn listed_packets_are_lost_by_number_and_direction() {
    let mut l = link("down:lose=3+5-6+6-7");
    for i in 1..=9 {
        l.push(Instant::ZERO, Dir::Down, frame(i, 60), Meta::default());
        l.push(Instant::ZERO, Dir::Up, frame(100 + i, 60), Meta::default());
    }
    let got: Vec<u64> = drain(&mut l).into_iter().filter(|o| o.1 == Dir::Down).map(|o| o.2).collect();
    assert_eq!(got, [1, 2, 4, 8, 9]);
    assert_eq!(l.stats(Dir::Up).lost, 0);
}

#[test]
fn corruption_flips_one_bit_behind_the_ethernet_header() {
    let mut l = link("down:corrupt=1;seed=5");
    let clean = frame(77, 300);
    l.push(Instant::ZERO, Dir::Down, clean.clone(), Meta::default());
    let (_, dirty, _) = l.poll(Instant::ZERO).unwrap();
    let differ: u32 = clean.iter().zip(&dirty).map(|(a, b)| (a ^ b).count_ones()).sum();
    assert_eq!((differ, &clean[..14]), (1, &dirty[..14]));
}

#[test]
fn a_super_segment_costs_the_bytes_of_its_segments() {
    let mut f = vec![0u8; 14 + 20 + 32 + 3 * 1448];
    (f[12], f[13], f[14], f[14 + 20 + 12]) = (8, 0, 0x45, 0x80);
    assert_eq!(wire_len(&f, 1448), 3 * (66 + 1448));
    assert_eq!(wire_len(&f, 0), 66 + 3 * 1448);
    assert_eq!(wire_len(&f[..20], 1448), 20);
}

#[test]
fn memory_is_bounded() {
    let mut l = link("down:delay=1h");
    l.set_limit(10_000);
    for i in 0..100 {
        l.push(Instant::ZERO, Dir::Down, frame(i, 1000), Meta::default());
    }
    assert_eq!(l.held(), 10_000);
    assert_eq!(l.stats(Dir::Down).overflow_drops, 90);
}

#[test]
fn specifications_read_back_as_written() {
    let text =
        "down:delay=50ms,rate=100mbit,queue=256KiB,loss=0.01,reorder=0.1/5ms,dup=0.001;up:delay=50ms;seed=7";
    let spec = LinkSpec::parse(text).unwrap();
    assert_eq!(spec.rtt(), Duration::from_millis(100));
    assert_eq!(spec.down.queue, Some(QueueLimit::Bytes(262_144)));
    assert_eq!(LinkSpec::parse(&spec.to_string()), Ok(spec));
    let both = LinkSpec::parse("both: delay=1ms, lose=1-3+9 ; seed=2").unwrap();
    assert_eq!(both.down, both.up);
    assert_eq!(LinkSpec::parse(&both.to_string()), Ok(both));
}

#[test]
fn errors_name_the_key_the_value_and_a_fix() {
    for (text, words) in [
        ("down:loss=1.5", ["down", "loss=1.5", "0.01"]),
        ("down:loss=NaN", ["down", "loss=NaN", "0.01"]),
        ("down:delay=50", ["down", "delay=50", "1ms"]),
        ("up:rate=10MB", ["up", "rate=10MB", "100mbit"]),
        ("down:rate=1gbit,queue=x", ["down", "queue=x", "100p"]),
        ("down:queue=5p", ["down", "queue=5p", "rate=100mbit"]),
        ("down:delay=1ms,jitter=2ms", ["down", "jitter=2ms", "delay=2ms"]),
        ("down:reorder=0.1", ["down", "reorder=0.1", "0.1/5ms"]),
        ("down:lose=0", ["down", "lose=0", "from 1"]),
        ("down:lose=5-3", ["down", "lose=5-3", "10-12"]),
        ("down:latency=1ms", ["down", "latency", "delay"]),
        ("down:delay", ["down", "delay", "key=value"]),
        ("sideways:delay=1ms", ["sideways", "down:", "up:"]),
        ("down:delay=1ms;both:delay=1ms", ["down", "twice", "commas"]),
        ("seed=-1", ["seed", "-1", "seed=7"]),
        ("down:delay=2h", ["down", "delay=2h", "1h"]),
    ] {
        let e = LinkSpec::parse(text).unwrap_err().to_string();
        for w in words {
            assert!(e.contains(w), "{text}: `{e}` lacks `{w}`");
        }
    }
}
