//! Several sockets and several stacks: shared memory, groups, a lossy link.

mod rig;

use std::net::SocketAddr;

use rig::{PEER_IP, STACK_IP, config, pattern};
use rightedge_stack::{
    GroupId, ListenOptions, SocketId, SocketOption, Stack, StackConfig, State,
    nic::Driver,
    profile::Profile,
    time::{Duration, Instant},
    units::Seq,
    wire::{self, Medium, OutOptions, Packet, RxMeta, TcpFlags, TcpSegment, forge::Forge},
};

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

fn frames(stack: &mut Stack) -> Vec<TcpSegment> {
    std::iter::from_fn(|| stack.poll_transmit())
        .filter_map(|t| match wire::parse(Medium::Ip, &t.frame, RxMeta::default()) {
            Ok(Packet::Tcp(s)) => Some(s),
            _ => None,
        })
        .collect()
}

/// Everything the stack's sockets use together, when `n` peers each send `bytes` that nobody reads.
struct Crowd {
    stack: Stack,
    now: Instant,
    peers: Vec<(SocketId, Forge, u32)>,
}

impl Crowd {
    fn new(n: u16, setup: impl FnOnce(&mut StackConfig)) -> Self {
        let mut c = config(Profile::linux_6_18(), Driver::Tun);
        setup(&mut c);
        let mut stack = Stack::new(c).unwrap();
        let now = Instant::from_millis(1000);
        let local = SocketAddr::new(STACK_IP, 80);
        let l = stack.listen(local, ListenOptions::default()).unwrap();
        let mut peers = Vec::new();
        for port in 1..=n {
            let f = Forge::new(SocketAddr::new(PEER_IP, port), local);
            let options = OutOptions {
                mss: Some(1460),
                wscale: Some(7),
                sack_permitted: true,
                ..OutOptions::default()
            };
            stack.ingress(now, &f.clone().flags(TcpFlags::SYN).options(&options).build(), RxMeta::default());
            let s = frames(&mut stack).pop().unwrap();
            let f = f.seq_ack(Seq(1), s.seq + 1);
            stack.ingress(now, &f.build(), RxMeta::default());
            peers.push((stack.accept(l).unwrap(), f, 0));
        }
        Crowd { stack, now, peers }
    }

    /// One segment from one peer. True if it was taken.
    fn send(&mut self, who: usize) -> bool {
        self.now = self.now + ms(1);
        let (id, f, at) = &mut self.peers[who];
        let f = f.clone().seq_ack(Seq(1 + *at), f.ack).payload(pattern(*at, 1460));
        let before = self.stack.info(*id).unwrap().rcv_nxt;
        self.stack.ingress(self.now, &f.build(), RxMeta::default());
        let taken = self.stack.info(*id).unwrap().rcv_nxt != before;
        *at += if taken { 1460 } else { 0 };
        frames(&mut self.stack);
        self.stack.audit().unwrap();
        taken
    }

    fn read(&mut self, who: usize) -> usize {
        self.stack.recv(self.now, self.peers[who].0, &mut vec![0; 1 << 20]).unwrap_or(0)
    }
}

#[test]
fn tcp_mem_presses_refuses_and_relaxes() {
    // 50, 100 and 150 pages; this CPU keeps at most one page to itself.
    let mut crowd = Crowd::new(10, |c| {
        c.sysctls.tcp_mem = [50, 100, 150];
        c.sysctls.mem_pcpu_rsv = 1;
    });
    let mut pressed_at = None;
    let mut refused = 0;
    for round in 0..60 {
        for who in 0..10 {
            if !crowd.send(who) {
                refused += 1;
            }
            let (pages, pressed) = crowd.stack.memory();
            // Forced memory goes beyond the mark by at most a page for each empty queue.
            assert!(pages <= 151, "{pages} pages");
            if pressed && pressed_at.is_none() {
                pressed_at = Some((round, pages));
            }
        }
    }
    // 2304 bytes for each segment: the tenth round brings 230 400 bytes, the 18th passes 100 pages.
    assert_eq!(pressed_at.map(|(_, pages)| pages), Some(101));
    assert!(refused > 0);
    assert_eq!(crowd.stack.counters().by_name("TcpExtTCPMemoryPressures"), Some(1));
    for who in 0..10 {
        assert!(crowd.read(who) > 0);
    }
    assert_eq!(crowd.stack.memory(), (0, false));
    assert!(crowd.send(3) || crowd.send(3), "it goes on");
}

#[test]
fn a_hoarding_group_does_not_hurt_its_neighbour() {
    let run = |groups: bool| {
        let mut crowd = Crowd::new(9, |c| {
            c.sysctls.tcp_mem = [50, 100, 150];
            c.sysctls.mem_pcpu_rsv = 1;
        });
        if groups {
            crowd.stack.set_group_limit(GroupId(1), 40 * 4096);
            for who in 0..8 {
                let id = crowd.peers[who].0;
                crowd.stack.set_option(crowd.now, id, SocketOption::Group(Some(GroupId(1)))).unwrap();
            }
        }
        let (mut good, mut bad) = (0, 0);
        for _ in 0..10 {
            for who in [0, 1, 2, 3, 4, 5, 6, 7].repeat(5) {
                bad += u32::from(crowd.send(who));
            }
            // The neighbour reads whenever it has 40 segments: more than a ninth of all there is.
            for _ in 0..40 {
                good += u32::from(crowd.send(8));
            }
            crowd.read(8);
        }
        (good, bad, crowd.stack.group_usage(GroupId(1)), crowd.stack.memory())
    };
    let (good, _, usage, (_, pressed)) = run(false);
    assert!(good < 360 && pressed && usage.is_none(), "{good} of 400 taken");
    let (good, bad, usage, (pages, pressed)) = run(true);
    assert_eq!((good, pressed), (400, false));
    // 40 pages hold 71 segments of 2304 bytes; each empty queue may have forced one.
    assert!((64..=80).contains(&bad) && pages <= 48, "{bad} segments, {pages} pages");
    assert_eq!(usage.map(|u| u.1), Some(40));
}

#[test]
fn a_group_takes_over_what_its_socket_holds() {
    let mut crowd = Crowd::new(1, |_| {});
    for _ in 0..10 {
        crowd.send(0);
    }
    crowd.stack.set_group_limit(GroupId(1), 1 << 20);
    crowd.stack.set_option(crowd.now, crowd.peers[0].0, SocketOption::Group(Some(GroupId(1)))).unwrap();
    crowd.read(0);
    assert_eq!(crowd.stack.group_usage(GroupId(1)), Some((0, 256)));
}

/// Two stacks with 5 ms between them, in virtual time. Returns when the last byte was read, ms, and frames lost.
fn transfer(profiles: [&str; 2], bytes: usize, loss_percent: u64, seed: u64) -> (u64, u32) {
    let ips: [std::net::IpAddr; 2] = [PEER_IP, STACK_IP];
    let mut stacks = [0, 1].map(|i| {
        let mut c = StackConfig::ip(Profile::parse(profiles[i]).unwrap(), ips[i], 24);
        c.sysctls.tcp_wmem = [4096, 1 << 20, 4 << 20];
        Stack::new(c).unwrap()
    });
    let mut now = Instant::from_millis(1000);
    let to = SocketAddr::new(STACK_IP, 80);
    let l = stacks[1].listen(to, ListenOptions::default()).unwrap();
    let client = stacks[0].connect(now, to, 0, &ListenOptions::default()).unwrap();
    let mut server = None;
    let (mut offered, mut read, mut lost, mut draw, mut order) = (0, 0u32, 0, seed, 0u64);
    let mut air = std::collections::BTreeMap::new();
    let mut done = 0;
    for _ in 0..4_000_000 {
        for (i, stack) in stacks.iter_mut().enumerate() {
            while let Some(t) = stack.poll_transmit() {
                draw = draw.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                order += 1;
                if (draw >> 33) % 100 < loss_percent {
                    lost += 1;
                } else {
                    air.insert((now + ms(5), order), (1 - i, t.frame));
                }
            }
            while stack.poll_event().is_some() {}
        }
        if stacks[0].info(client).is_ok_and(|i| i.state == State::Established) && offered < bytes {
            let n = (bytes - offered).min(100_000);
            offered += stacks[0].send(now, client, &pattern(offered as u32, n)).unwrap();
            if offered == bytes {
                stacks[0].close(now, client).unwrap();
            }
        }
        server = server.or_else(|| stacks[1].accept(l));
        if let Some(id) = server {
            let mut at = read;
            match stacks[1].recv_with(now, id, 1 << 20, &mut |piece| {
                assert_eq!(piece, pattern(at, piece.len()), "at {at}");
                at += piece.len() as u32;
            }) {
                Ok(0) if read as usize == bytes && done == 0 => {
                    done = now.as_millis() - 1000;
                    stacks[1].close(now, id).unwrap();
                }
                Ok(_) | Err(_) => read = at,
            }
        }
        let next = [air.keys().next().map(|k| k.0), stacks[0].poll_timeout(), stacks[1].poll_timeout()];
        let Some(next) = next.into_iter().flatten().min() else { break };
        now = next.max(now);
        while let Some(e) = air.first_entry().filter(|e| e.key().0 <= now) {
            let (i, frame) = e.remove();
            stacks[i].ingress(now, &frame, RxMeta::default());
        }
        for s in &mut stacks {
            s.handle_timeout(now);
        }
    }
    assert_eq!(read as usize, bytes);
    for s in &stacks {
        s.audit().unwrap();
        assert_eq!((s.connections().count(), s.memory().0), (0, 0), "nothing is left");
    }
    (done, lost)
}

#[test]
fn ten_megabytes_between_two_stacks_with_loss() {
    let all = [["linux-6.1", "linux-6.18"], ["linux-6.18", "linux-6.1"], ["linux-6.12", "linux-7"]];
    for profiles in all {
        for (loss, most) in [(0, 2_000), (1, 30_000), (5, 150_000)] {
            let (took, lost) = transfer(profiles, 10_000_000, loss, 7);
            eprintln!("{profiles:?}: 10 MB with {loss} % loss in {took} ms, {lost} frames lost");
            assert!(took > 0 && took < most, "{took} ms");
            assert_eq!(lost > 0, loss > 0);
        }
    }
}
