//! The model against a small scripted receiver, over the link emulator, in virtual time.

use std::net::Ipv4Addr;

use super::wire::{Frame, Out, Segment, flag};
use super::*;
use crate::link::{Dir, Link, LinkSpec, Meta};

const MAC: Mac = [2, 0, 0, 0, 0, 2];

/// A receiver that keeps right edge and answers under the test's control.
struct Receiver {
    ends: Ends,
    iss: u32,
    irs: u32,
    nxt: u32,
    /// Bytes in order, counted from 0.
    got: u64,
    ofo: Vec<(u32, u32)>,
    /// The window to advertise, in bytes.
    window: u32,
    /// The window stays where it is while bytes arrive: the edge is fixed.
    fixed_edge: Option<u64>,
    wscale: u8,
    silent: bool,
    ts: bool,
    ts_recent: u32,
    sack: bool,
    log: Vec<(Instant, Segment)>,
    violations: u64,
    edge_max: u64,
    fin: bool,
    log_on: bool,
    /// Takes one segment in this time and drops the others in silence.
    crawl: Option<Duration>,
    taken: Instant,
}

impl Receiver {
    fn new(cfg: &ModelConfig) -> Self {
        let ends = Ends {
            mac: MAC,
            peer_mac: cfg.mac,
            addr: Ipv4Addr::new(10, 0, 0, 2),
            peer_addr: cfg.addr,
            port: if cfg.role == Role::Server { 40_000 } else { cfg.peer_port },
            peer_port: cfg.port,
        };
        Receiver {
            ends,
            iss: 77,
            irs: 0,
            nxt: 0,
            got: 0,
            ofo: Vec::new(),
            window: 1 << 20,
            fixed_edge: None,
            wscale: 7,
            silent: false,
            ts: cfg.timestamps,
            ts_recent: 0,
            sack: cfg.sack,
            log: Vec::new(),
            violations: 0,
            edge_max: 0,
            fin: false,
            log_on: true,
            crawl: None,
            taken: Instant::ZERO,
        }
    }

    fn out(&self, now: Instant, flags: u8) -> Out<'_> {
        let win = self.fixed_edge.map_or(u64::from(self.window), |e| e.saturating_sub(self.got));
        Out {
            seq: self.iss + 1,
            ack: self.nxt,
            flags,
            window: u16::try_from(win >> self.wscale).unwrap_or(u16::MAX),
            timestamps: self.ts.then(|| (now.as_millis() as u32, self.ts_recent)),
            sack: if self.sack { &self.ofo } else { &[] },
            ..Out::default()
        }
    }

    fn ack(&mut self, now: Instant) -> Bytes {
        let out = self.out(now, flag::ACK);
        let edge = self.got + (u64::from(out.window) << self.wscale);
        let f = wire::build(&self.ends, 0, &out);
        self.edge_max = self.edge_max.max(edge);
        f
    }

    fn syn(&mut self, ack: bool) -> Bytes {
        let out = Out {
            seq: self.iss,
            ack: self.nxt,
            flags: if ack { flag::SYN | flag::ACK } else { flag::SYN },
            window: u16::try_from(self.window).unwrap_or(u16::MAX),
            mss: Some(1460),
            wscale: Some(self.wscale),
            sack_ok: self.sack,
            timestamps: self.ts.then_some((1, self.ts_recent)),
            ..Out::default()
        };
        wire::build(&self.ends, 0, &out)
    }

    fn on_frame(&mut self, now: Instant, f: &Bytes) -> Option<Bytes> {
        let Frame::Tcp(s) = wire::parse(f) else { panic!("{:?}", wire::parse(f)) };
        if self.log_on {
            self.log.push((now, s.clone()));
        }
        if s.flags & flag::SYN != 0 {
            self.irs = s.seq;
            self.nxt = s.seq.wrapping_add(1);
            self.ts_recent = s.timestamps.map_or(0, |t| t.0);
            self.edge_max = u64::from(self.window.min(65_535));
            return (!self.silent)
                .then(|| if s.flags & flag::ACK != 0 { self.ack(now) } else { self.syn(true) });
        }
        if self.silent {
            return None;
        }
        if let Some(gap) = self.crawl {
            if s.seq != self.nxt || now.since(self.taken) < gap {
                return None;
            }
            self.taken = now;
        }
        let offset = u64::from(s.seq.wrapping_sub(self.irs.wrapping_add(1)));
        if s.payload > 0 {
            let data = &f[f.len() - s.payload as usize..];
            assert_eq!(crate::sender::first_mismatch(offset, data), None);
            if offset + u64::from(s.payload) > self.edge_max {
                self.violations += 1;
            }
        }
        let probe = s.payload == 0 && s.flags & flag::FIN == 0;
        if probe && s.seq == self.nxt {
            return None;
        }
        let room =
            self.fixed_edge.unwrap_or(u64::MAX).min(if self.window == 0 { self.got } else { u64::MAX });
        if offset + u64::from(s.payload) <= room {
            self.accept(s.seq, s.seq.wrapping_add(s.payload));
            if s.seq == self.ts_seq() || s.timestamps.is_some() {
                self.ts_recent = s.timestamps.map_or(0, |t| t.0);
            }
            if s.flags & flag::FIN != 0 && s.seq.wrapping_add(s.payload) == self.nxt {
                self.nxt = self.nxt.wrapping_add(1);
                self.fin = true;
            }
        }
        Some(self.ack(now))
    }

    fn ts_seq(&self) -> u32 {
        self.nxt
    }

    fn accept(&mut self, a: u32, b: u32) {
        if b.wrapping_sub(self.nxt) as i32 <= 0 {
            return;
        }
        self.ofo.push((a, b));
        self.ofo.sort_by_key(|r| r.0.wrapping_sub(self.nxt) as i32);
        let mut merged: Vec<(u32, u32)> = Vec::new();
        for &(a, b) in &self.ofo {
            match merged.last_mut() {
                Some(m) if a.wrapping_sub(m.1) as i32 <= 0 => {
                    if b.wrapping_sub(m.1) as i32 > 0 {
                        m.1 = b;
                    }
                }
                _ => merged.push((a, b)),
            }
        }
        if let Some(&(a, b)) = merged.first().filter(|r| r.0.wrapping_sub(self.nxt) as i32 <= 0) {
            let _ = a;
            self.got += u64::from(b.wrapping_sub(self.nxt));
            self.nxt = b;
            merged.remove(0);
        }
        self.ofo = merged;
    }

    fn data(&self) -> impl Iterator<Item = &(Instant, Segment)> {
        self.log.iter().filter(|(_, s)| s.payload > 0)
    }
}

/// Model, link and receiver in virtual time.
struct World {
    now: Instant,
    m: ModelSender,
    r: Receiver,
    link: Link,
    /// Acknowledgements held up instead of delivered.
    held: Option<Vec<Bytes>>,
}

impl World {
    fn new(cfg: ModelConfig, link: &str) -> Self {
        World::with(cfg, link, |_| {})
    }

    fn with(cfg: ModelConfig, link: &str, f: impl FnOnce(&mut Receiver)) -> Self {
        let mut r = Receiver::new(&cfg);
        f(&mut r);
        let mut w = World {
            now: Instant::ZERO,
            m: ModelSender::new(cfg, Instant::ZERO),
            r,
            link: Link::new(&LinkSpec::parse(link).unwrap()),
            held: None,
        };
        if w.m.cfg.role == Role::Server {
            let syn = w.r.syn(false);
            w.link.push(w.now, Dir::Up, syn, Meta::default());
        }
        w
    }

    fn up(&mut self, f: Bytes) {
        self.link.push(self.now, Dir::Up, f, Meta::default());
    }

    fn announce(&mut self) {
        let f = self.r.ack(self.now);
        self.up(f);
    }

    fn run(&mut self, until: Instant) {
        loop {
            while let Some((dir, f, _)) = self.link.poll(self.now) {
                match dir {
                    Dir::Down => {
                        if let Some(reply) = self.r.on_frame(self.now, &f) {
                            self.link.push(self.now, Dir::Up, reply, Meta::default());
                        }
                    }
                    Dir::Up => {
                        if let Some(held) = &mut self.held {
                            held.push(f);
                            continue;
                        }
                        self.m.on_frame(self.now, &f);
                        self.flush();
                    }
                }
            }
            self.m.handle_timeout(self.now);
            self.flush();
            if self.link.poll_timeout().is_some_and(|t| t <= self.now) {
                continue;
            }
            let next = [self.link.poll_timeout(), self.m.poll_timeout()].into_iter().flatten().min();
            match next {
                Some(t) if t <= until => {
                    assert!(t > self.now, "no progress at {:?}", self.now);
                    self.now = t;
                }
                _ => break,
            }
        }
        self.now = self.now.max(until.min(Instant::from_millis(u64::MAX / 4_000_000)));
    }

    fn flush(&mut self) {
        while let Some((f, gso)) = self.m.poll_transmit(self.now) {
            self.link.push(self.now, Dir::Down, f, Meta { gso_size: gso, tag: 0 });
        }
    }
}

fn secs(s: u64) -> Instant {
    Instant::from_millis(s * 1000)
}

fn total(bytes: u64) -> ModelConfig {
    ModelConfig { app: AppModel { total: Some(bytes), ..AppModel::default() }, ..ModelConfig::default() }
}

#[test]
fn a_server_and_a_client_deliver_everything_and_close() {
    for role in [Role::Server, Role::Client] {
        for (ts, sack) in [(true, true), (false, false)] {
            let mut w =
                World::new(ModelConfig { role, timestamps: ts, sack, ..total(3_000_000) }, "both:delay=10ms");
            w.run(secs(20));
            let s = w.m.stats();
            assert_eq!((w.r.got, s.bytes_acked, s.bytes_retransmitted), (3_000_000, 3_000_000, 0), "{s:?}");
            assert!(w.r.fin);
            assert_eq!(s.state, ModelState::FinWait2);
            assert_eq!(w.r.violations, 0);
            assert_eq!(s.mss, if ts { 1448 } else { 1460 });
            assert_eq!(s.srtt.map(|d| d.as_millis()), Some(20));
        }
    }
}

#[test]
fn every_loss_is_repaired() {
    for sack in [true, false] {
        for seed in 1..6 {
            let cfg = ModelConfig { sack, ..total(2_000_000) };
            let mut w = World::new(
                cfg,
                &format!(
                    "down:delay=5ms,loss=0.02,reorder=0.05/2ms,dup=0.01;up:delay=5ms,loss=0.05;seed={seed}"
                ),
            );
            for tries in 1..10 {
                w.run(secs(tries));
                if w.m.stats().state == ModelState::Listen {
                    let syn = w.r.syn(false);
                    w.up(syn);
                }
            }
            w.run(secs(300));
            let s = w.m.stats();
            assert_eq!(w.r.got, 2_000_000, "sack {sack} seed {seed} {s:?}");
            assert!(s.retransmits > 0 && s.bytes_retransmitted < 600_000, "{s:?}");
        }
    }
}

#[test]
fn a_single_loss_costs_one_retransmission_and_half_the_window() {
    // Frame 1 is the SYN-ACK, 2 the first data.
    let mut w = World::new(
        total(400_000),
        "both:delay=10ms;down:lose=20"
            .replace("both:delay=10ms;down:", "up:delay=10ms;down:delay=10ms,")
            .as_str(),
    );
    w.run(secs(5));
    let s = w.m.stats();
    assert_eq!((s.retransmits, s.rtos, s.recoveries, w.r.got), (1, 0, 1, 400_000), "{s:?}");
    assert!(s.ssthresh < 40);
}

#[test]
fn a_silent_peer_is_given_up_after_the_published_quarter_of_an_hour() {
    let cfg = ModelConfig {
        app: AppModel { write_sizes: vec![1448], pace: Duration::from_millis(1), ..AppModel::default() },
        ..ModelConfig::default()
    };
    let mut w = World::new(cfg, "both:delay=1ms");
    w.run(secs(1));
    w.r.silent = true;
    w.run(secs(2000));
    let s = w.m.stats();
    assert_eq!((s.error, s.state), (Some("ETIMEDOUT"), ModelState::Closed));
    assert!(w.m.poll_timeout().is_none());
    let retries: Vec<f64> = w.r.log.iter().rev().take(3).map(|(t, _)| t.as_secs_f64()).collect();
    assert!((retries[0] - retries[1] - 120.0).abs() < 0.01, "{retries:?}");
    // The first time-out past 924.6 s gives up; the last retransmission came before it.
    assert!(s.rtos >= 14 && retries[0] > 700.0 && retries[0] < 930.0, "{s:?} {retries:?}");
    assert!(s.blocked, "the paced writer must block on its send buffer");
}

#[test]
fn a_receiver_that_crawls_on_is_given_up_all_the_same() {
    let app = AppModel { write_sizes: vec![1448], pace: Duration::from_millis(1), ..AppModel::default() };
    let mut w =
        World::with(ModelConfig { app, ..ModelConfig::default() }, "both:delay=100us", |r| r.window = 32_768);
    w.run(secs(10));
    w.r.crawl = Some(Duration::from_millis(3776));
    w.run(secs(5000));
    let (s, got) = (w.m.stats(), w.r.got);
    assert_eq!(s.error, Some("ETIMEDOUT"), "{s:?}");
    assert!((930.0..1100.0).contains(&w.now.as_secs_f64()) || w.r.taken < secs(1100), "{:?}", w.r.taken);
    assert!(got > 10_000 * 1448 + 100_000, "it did make progress: {got}");
}

#[test]
fn a_time_out_that_was_none_is_taken_back() {
    let mut w = World::new(ModelConfig { initcwnd: 20, ..total(10_000_000) }, "both:delay=10ms");
    w.run(Instant::from_millis(150));
    let before = w.m.stats();
    // Acknowledgements are held up until after the time-out, then all come.
    w.held = Some(Vec::new());
    w.run(Instant::from_millis(450));
    assert_eq!(w.m.stats().rtos, 1);
    for f in w.held.take().unwrap() {
        w.up(f);
    }
    w.run(secs(3));
    let s = w.m.stats();
    assert_eq!((s.rtos, s.retransmits, s.ssthresh), (1, 1, u32::MAX), "{s:?}");
    assert!(s.cwnd >= before.cwnd, "{s:?}");
}

#[test]
fn a_zero_window_is_probed_without_data_and_never_given_up_while_answered() {
    let mut w = World::with(ModelConfig::default(), "both:delay=1ms", |r| {
        r.fixed_edge = Some(50_048);
        r.wscale = 0;
    });
    w.run(secs(3000));
    let s = w.m.stats();
    assert_eq!((s.error, s.state, w.r.violations), (None, ModelState::Established, 0), "{s:?}");
    assert!(s.probes > 20 && s.probes_out == 0, "{s:?}");
    // 50 048 is 34 segments and a bit; the bit is sent by the probe timer.
    assert_eq!(w.r.got, 50_048);
    let probes: Vec<&(Instant, Segment)> =
        w.r.log.iter().filter(|(_, s)| s.payload == 0 && s.seq != w.r.nxt).skip(2).collect();
    assert!(probes.iter().all(|(_, s)| s.seq == w.r.nxt.wrapping_sub(1)), "{:?}", probes[0]);
    let gaps: Vec<u64> = probes.windows(2).map(|p| p[1].0.since(p[0].0).as_millis()).collect();
    assert!(
        gaps[1] > gaps[0] * 3 / 2 && gaps.last().is_some_and(|&g| (119_000..=121_000).contains(&g)),
        "{gaps:?}"
    );
    // Reopened, the transfer goes on at once.
    w.r.fixed_edge = None;
    w.announce();
    let before = w.r.got;
    w.run(Instant::from_millis(w.now.as_millis() + 500));
    assert!(w.r.got > before + 100_000);
}

#[test]
fn unanswered_probes_end_in_a_time_out() {
    let mut w = World::with(ModelConfig::default(), "both:delay=1ms", |r| r.fixed_edge = Some(64_000));
    w.run(secs(5));
    w.r.silent = true;
    w.run(secs(4000));
    let s = w.m.stats();
    assert_eq!(s.error, Some("ETIMEDOUT"), "{s:?}");
    assert!(w.m.stats().probes >= 15);
}

#[test]
fn a_retracted_window_stops_new_data_but_not_the_connection() {
    let mut w =
        World::with(ModelConfig { initcwnd: 100, ..ModelConfig::default() }, "both:delay=20ms", |r| {
            r.fixed_edge = Some(40_064);
            r.wscale = 0;
        });
    w.run(Instant::from_millis(45));
    // Everything is in flight, nothing acknowledged; now the edge moves left to 10 000, then to nothing.
    w.r.fixed_edge = Some(10_112);
    w.run(secs(30));
    let s = w.m.stats();
    assert_eq!((s.error, w.r.got), (None, 10_112), "{s:?}");
    assert!(s.edge_shrinks >= 1 && s.edge_shrink_max > 20_000, "{s:?}");
    assert_eq!(s.bytes_sent, 40_064 / 1448 * 1448);
    let sent = s.bytes_sent;
    // Held shut and answering: no death, and no new data.
    w.run(secs(1500));
    let s = w.m.stats();
    assert_eq!((s.error, s.bytes_sent), (None, sent), "{s:?}");
    w.r.fixed_edge = None;
    w.announce();
    w.run(secs(1700));
    assert!(w.r.got > 1_000_000, "{:?}", w.m.stats());
}

#[test]
fn a_window_smaller_than_a_segment_is_left_to_the_probe_timer() {
    let mut w =
        World::with(ModelConfig { timestamps: false, ..ModelConfig::default() }, "both:delay=1ms", |r| {
            r.fixed_edge = Some(3000);
            r.wscale = 0;
        });
    w.run(Instant::from_millis(150));
    assert_eq!(w.r.got, 2920);
    w.run(secs(2));
    assert_eq!((w.r.got, w.r.violations), (3000, 0));
}

#[test]
fn nagle_gathers_and_nodelay_does_not() {
    let sizes = |nodelay| {
        let app = AppModel {
            write_sizes: vec![4],
            pace: Duration::from_millis(1),
            nodelay,
            total: Some(400),
            ..AppModel::default()
        };
        let mut w = World::new(ModelConfig { app, ..ModelConfig::default() }, "both:delay=50ms");
        w.run(secs(10));
        assert_eq!(w.r.got, 400);
        w.r.data().map(|(_, s)| s.payload).collect::<Vec<_>>()
    };
    assert_eq!(sizes(true)[..5], [4, 4, 4, 4, 4]);
    let gathered = sizes(false);
    assert_eq!(gathered[0], 4);
    assert!(gathered.len() < 8 && gathered[1] > 300 / 4, "{gathered:?}");
}

#[test]
fn writes_of_changing_size_become_segments_of_changing_size() {
    let app = AppModel {
        write_sizes: vec![1, 700, 30],
        nodelay: true,
        total: Some(731 * 3),
        ..AppModel::default()
    };
    let mut w = World::new(ModelConfig { app, initcwnd: 1024, ..ModelConfig::default() }, "");
    w.run(secs(2));
    let got: Vec<u32> = w.r.data().map(|(_, s)| s.payload).collect();
    assert_eq!(got, [1, 700, 30, 1, 700, 30, 1, 700, 30]);
}

#[test]
fn super_segments_say_their_segment_size() {
    let mut m = ModelSender::new(
        ModelConfig { gso_max: 65_536, initcwnd: 20, ..ModelConfig::default() },
        Instant::ZERO,
    );
    let mut r = Receiver::new(&m.cfg);
    let syn = r.syn(false);
    m.on_frame(Instant::ZERO, &syn);
    let (synack, _) = m.poll_transmit(Instant::ZERO).unwrap();
    let ack = r.on_frame(Instant::ZERO, &synack).unwrap();
    m.on_frame(Instant::ZERO, &ack);
    let out: Vec<(usize, u16)> =
        std::iter::from_fn(|| m.poll_transmit(Instant::ZERO)).map(|(f, g)| (f.len() - 66, g)).collect();
    // Twenty segments, from a first write of 64 KiB; the tail of a write is not pushed out half full by a limit.
    assert_eq!(out, [(20 * 1448, 1448)]);
    assert_eq!(m.stats().in_flight, 20);
}

#[test]
fn the_send_buffer_bounds_the_writer() {
    let cfg = ModelConfig { sndbuf: SndBuf::Fixed(100_000), ..ModelConfig::default() };
    let mut w = World::with(cfg, "both:delay=1ms", |r| r.fixed_edge = Some(0));
    w.run(secs(3));
    let s = w.m.stats();
    assert!(s.blocked && s.wmem_queued >= 100_000 && s.wmem_queued < 103_000, "{s:?}");
    let auto = ModelSender::new(ModelConfig::default(), Instant::ZERO).stats().sndbuf;
    assert_eq!(auto, 87_040, "what Linux starts with at an MSS of 1460");
}

#[test]
fn resets_count_only_when_exact() {
    let mut w = World::new(ModelConfig::default(), "both:delay=1ms");
    w.run(Instant::from_millis(20));
    let mut rst = w.r.out(w.now, flag::RST | flag::ACK);
    rst.seq += 5;
    let wrong = wire::build(&w.r.ends, 0, &rst);
    w.up(wrong);
    w.run(Instant::from_millis(30));
    assert_eq!(w.m.stats().error, None);
    let out = w.r.out(w.now, flag::RST | flag::ACK);
    let right = wire::build(&w.r.ends, 0, &out);
    w.up(right);
    w.run(Instant::from_millis(40));
    assert_eq!(w.m.stats().error, Some("ECONNRESET"));
    assert!(w.m.is_closed());
}

#[test]
fn a_client_without_an_answer_gives_up_after_six_retries() {
    let mut w =
        World::with(ModelConfig { role: Role::Client, ..ModelConfig::default() }, "", |r| r.silent = true);
    w.run(secs(500));
    assert_eq!(w.m.stats().error, Some("ETIMEDOUT"));
    let times: Vec<u64> = w.r.log.iter().map(|(t, _)| t.as_millis() / 1000).collect();
    assert_eq!(times, [0, 1, 3, 7, 15, 31, 63]);
}

#[test]
fn arp_for_our_address_is_answered() {
    let mut m = ModelSender::new(ModelConfig::default(), Instant::ZERO);
    let mut ask = wire::arp_reply(MAC, Ipv4Addr::new(10, 0, 0, 2), [0xff; 6], m.cfg.addr).to_vec();
    ask[21] = 1;
    m.on_frame(Instant::ZERO, &Bytes::from(ask));
    let (reply, _) = m.poll_transmit(Instant::ZERO).unwrap();
    assert_eq!((&reply[..6], &reply[6..12]), (&MAC[..], &m.cfg.mac[..]));
}

#[test]
fn a_lifted_window_sends_all_at_once_and_the_default_ten_segments() {
    for (initcwnd, frames) in [(10, 10), (1024, 60)] {
        let cfg = ModelConfig { mss: 1024, timestamps: false, initcwnd, ..ModelConfig::default() };
        let mut w = World::with(cfg, "both:delay=100ms", |r| r.window = 61_440);
        w.run(Instant::from_millis(450));
        assert_eq!(w.r.data().count(), frames);
        assert!(w.r.data().all(|(_, s)| s.payload == 1024));
    }
}

#[test]
fn a_long_run_is_fast() {
    let app = AppModel {
        write_sizes: vec![1448],
        pace: Duration::from_millis(1),
        nodelay: true,
        ..AppModel::default()
    };
    let mut w = World::new(ModelConfig { app, ..ModelConfig::default() }, "");
    w.r.log_on = false;
    let t = std::time::Instant::now();
    w.run(secs(2100));
    let took = t.elapsed();
    eprintln!("2100 s at 1000 segments/s took {took:?}");
    assert_eq!(w.m.stats().bytes_sent, 2_100_000 * 1448 + 1448);
    assert!(took.as_secs() < 60, "{took:?}");
}

#[test]
fn the_same_run_twice_sends_the_same_segments() {
    let run = || {
        let mut w = World::new(total(500_000), "down:delay=5ms,jitter=1ms,loss=0.03;up:delay=5ms;seed=9");
        w.run(secs(60));
        w.r.log
    };
    assert_eq!(run(), run());
}

#[test]
fn hostile_frames_do_not_panic() {
    use rand::{RngExt as _, SeedableRng as _};
    for seed in 0..200 {
        let mut rng = rand_pcg::Pcg32::seed_from_u64(seed);
        let mut m = ModelSender::new(total(100_000), Instant::ZERO);
        let mut r = Receiver::new(&m.cfg);
        let syn = r.syn(false);
        let mut now = Instant::ZERO;
        m.on_frame(now, &syn);
        for step in 0..300 {
            now = now + Duration::from_millis(rng.random_range(0..400));
            while let Some((f, _)) = m.poll_transmit(now) {
                if rng.random_bool(0.5) {
                    let _ = r.on_frame(now, &f);
                }
            }
            m.handle_timeout(now);
            let near = |rng: &mut rand_pcg::Pcg32, x: u32| match rng.random_range(0..4) {
                0 => x,
                1 => x.wrapping_add(rng.random_range(0..200_000)),
                2 => x.wrapping_sub(rng.random_range(0..200_000)),
                _ => rng.random(),
            };
            let sack: Vec<(u32, u32)> =
                (0..rng.random_range(0..5)).map(|_| (near(&mut rng, r.nxt), near(&mut rng, r.nxt))).collect();
            let flags = if step % 17 == 0 { rng.random() } else { flag::ACK };
            let out = Out {
                seq: near(&mut rng, 78),
                ack: near(&mut rng, r.nxt),
                flags: flags & !flag::RST,
                window: rng.random(),
                timestamps: rng.random_bool(0.5).then_some((step, rng.random())),
                sack: &sack,
                payload: crate::sender::pattern(0, rng.random_range(0..3)),
                ..Out::default()
            };
            m.on_frame(now, &wire::build(&r.ends, 0, &out));
            let _ = m.stats();
        }
    }
}
