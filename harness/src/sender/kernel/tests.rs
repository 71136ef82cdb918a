//! The kernel sender over the loopback interface.

use std::io::Read as _;
use std::net::TcpStream;

use super::*;
use crate::sender::first_mismatch;

fn local() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

fn wait_until(what: &str, mut f: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(10);
    while !f() {
        assert!(Instant::now() < end, "waited ten seconds for: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn read_all(mut s: TcpStream) -> u64 {
    let (mut buf, mut at) = (vec![0u8; 65_536], 0u64);
    loop {
        match s.read(&mut buf) {
            Ok(0) => return at,
            Ok(n) => {
                assert_eq!(first_mismatch(at, &buf[..n]), None);
                at += n as u64;
            }
            Err(e) => panic!("after {at}: {e}"),
        }
    }
}

#[test]
fn a_server_sends_the_pattern_on_every_connection_and_closes() {
    let cfg = KernelConfig {
        local: local(),
        connections: 3,
        write_sizes: vec![1000, 50_000, 7],
        total: Some(1_000_000),
        nodelay: true,
        congestion: Some("reno".to_owned()),
        ..KernelConfig::default()
    };
    let s = KernelSender::start(cfg, KernelHooks::default()).unwrap();
    let readers: Vec<_> = (0..3)
        .map(|_| TcpStream::connect(s.local_addr()).unwrap())
        .map(|c| std::thread::spawn(|| read_all(c)))
        .collect();
    for r in readers {
        assert_eq!(r.join().unwrap(), 1_000_000);
    }
    wait_until("the end", || s.is_finished());
    let stats = s.stats();
    assert_eq!(stats.connections.len(), 3);
    assert!(stats.connections.iter().all(|c| c.written == 1_000_000 && c.first_error.is_none()), "{stats:?}");
}

#[test]
fn a_client_connects_and_writes_at_its_pace() {
    let l = TcpListener::bind(local()).unwrap();
    let cfg = KernelConfig {
        role: Role::Client,
        remote: l.local_addr().unwrap(),
        write_sizes: vec![100],
        pace: Duration::from_millis(1),
        time_limit: Some(Duration::from_millis(300)),
        ..KernelConfig::default()
    };
    let s = KernelSender::start(cfg, KernelHooks::default()).unwrap();
    let got = read_all(l.accept().unwrap().0);
    // Absolute pacing: no more than 301 writes; nearly all even on a busy machine, since missed ones are made up for.
    assert!((20_000..=30_100).contains(&got), "{got}");
    assert_eq!(s.stop(End::Close).connections[0].written, got);
}

#[test]
fn a_reader_that_never_reads_blocks_the_writer_but_not_the_end() {
    let cfg = KernelConfig { local: local(), sndbuf: Some(20_000), ..KernelConfig::default() };
    let s = KernelSender::start(cfg, KernelHooks::default()).unwrap();
    let mut c = TcpStream::connect(s.local_addr()).unwrap();
    wait_until("a full buffer", || s.stats().connections.first().is_some_and(|c| c.is_blocked));
    let t = Instant::now();
    let stats = s.stop(End::Abort);
    assert!(t.elapsed() < Duration::from_secs(2));
    assert!(stats.finished && stats.connections[0].blocked > 0);
    let mut sink = Vec::new();
    assert!(c.read_to_end(&mut sink).is_err(), "an abort is a reset");
}

#[test]
fn errors_carry_their_names() {
    let cfg = KernelConfig {
        local: local(),
        pace: Duration::from_millis(1),
        write_sizes: vec![10],
        ..KernelConfig::default()
    };
    let s = KernelSender::start(cfg, KernelHooks::default()).unwrap();
    let c = TcpStream::connect(s.local_addr()).unwrap();
    sockopt::set_socket_linger(&c, Some(Duration::ZERO)).unwrap();
    wait_until("something written", || s.stats().connections.first().is_some_and(|c| c.written > 0));
    drop(c);
    wait_until("the reset", || s.is_finished());
    let stats = s.stats();
    assert_eq!(stats.connections[0].first_error.as_deref(), Some("ECONNRESET"), "{stats:?}");

    let free = TcpListener::bind(local()).unwrap().local_addr().unwrap();
    let cfg = KernelConfig { role: Role::Client, remote: free, ..KernelConfig::default() };
    match KernelSender::start(cfg, KernelHooks::default()) {
        Ok(s) => {
            wait_until("the refusal", || s.is_finished());
            assert_eq!(s.stats().connections[0].first_error.as_deref(), Some("ECONNREFUSED"));
        }
        Err(e) => assert!(e.to_string().contains("refused"), "{e}"),
    }
}

#[test]
fn what_cannot_be_set_is_said_with_its_value_and_a_fix() {
    let with = |f: fn(&mut KernelConfig)| {
        let mut cfg = KernelConfig { local: local(), ..KernelConfig::default() };
        f(&mut cfg);
        KernelSender::start(cfg, KernelHooks::default()).unwrap_err().to_string()
    };
    let e = with(|c| c.congestion = Some("nosuch".to_owned()));
    assert!(e.contains("TCP_CONGESTION=nosuch") && e.contains("reno"), "{e}");
    let e = with(|c| c.maxseg = Some(1000));
    assert!(e.contains("TCP_MAXSEG=1000"), "{e}");
    let e = with(|c| c.connections = 0);
    assert!(e.contains("connections=0"), "{e}");
    let e = with(|c| c.local = SocketAddr::from(([192, 0, 2, 1], 0)));
    assert!(e.contains("192.0.2.1"), "{e}");
}

#[test]
fn hooks_are_called_and_samples_collected() {
    fn sample(_: BorrowedFd<'_>) -> io::Result<TcpSample> {
        Ok(TcpSample { snd_cwnd: 10, ..TcpSample::default() })
    }
    fn set(_: BorrowedFd<'_>, o: TcpOption) -> io::Result<()> {
        assert_eq!(o, TcpOption::MaxSeg(1000));
        Ok(())
    }
    let cfg = KernelConfig {
        local: local(),
        maxseg: Some(1000),
        pace: Duration::from_millis(5),
        sample_every: Duration::from_millis(5),
        ..KernelConfig::default()
    };
    let s = KernelSender::start(cfg, KernelHooks { set_option: Some(set), sample: Some(sample) }).unwrap();
    let _c = TcpStream::connect(s.local_addr()).unwrap();
    let mut n = 0;
    wait_until("samples", || {
        n += s.drain_samples().len();
        n > 3
    });
}
