//! Following a flow and reading every frame anew are the same to everybody.

use proptest::{collection::vec, prelude::*};

use super::*;
use crate::{
    decision::Record,
    time::Duration,
    wire::{Medium, OutOptions, Timestamps, forge::Checksum, forge::Forge},
};

const ISN: Seq = Seq(u32::MAX - 3000);
const PEERS: [&str; 2] = ["10.0.0.1:40000", "10.0.0.3:40000"];

/// All that can be seen of a stack: decisions, frames with their numbers, wake-ups, and when it wants to be called.
type Seen = (Vec<Record>, Vec<(Bytes, u64)>, Vec<Event>, Option<Instant>);

/// A stack with a connection to each peer.
struct Side {
    stack: Stack,
    ids: Vec<SocketId>,
    iss: Vec<Seq>,
    /// Every frame is read by the parser, whatever came before.
    anew: bool,
}

fn forge(peer: usize, flags: TcpFlags, seq: Seq, ack: Seq, stamp: Option<u32>) -> Forge {
    let options =
        OutOptions { timestamps: stamp.map(|tsval| Timestamps { tsval, tsecr: 0 }), ..OutOptions::default() };
    let local = "10.0.0.2:5001".parse().unwrap();
    Forge::new(PEERS[peer].parse().unwrap(), local)
        .flags(flags)
        .seq_ack(seq, ack)
        .window(512)
        .options(&options)
}

impl Side {
    fn new(timestamps: bool, anew: bool) -> Self {
        let mut stack = Stack::new(StackConfig::ip(Profile::linux_6_18(), [10, 0, 0, 2].into(), 24)).unwrap();
        stack.set_tracing(true);
        let listener = stack.listen("10.0.0.2:5001".parse().unwrap(), ListenOptions::default()).unwrap();
        let (mut ids, mut iss) = (Vec::new(), Vec::new());
        for peer in 0..PEERS.len() {
            let stamp = timestamps.then_some(1);
            let syn = OutOptions {
                mss: Some(1460),
                wscale: Some(7),
                sack_permitted: true,
                timestamps: stamp.map(|tsval| Timestamps { tsval, tsecr: 0 }),
                ..OutOptions::default()
            };
            let syn = forge(peer, TcpFlags::SYN, ISN - 1, Seq(0), None).options(&syn).build();
            stack.ingress(Instant::ZERO, &syn, RxMeta::default());
            let frame = stack.poll_transmit().unwrap().frame;
            let Ok(Packet::Tcp(syn_ack)) = wire::parse(Medium::Ip, &frame, RxMeta::default()) else {
                panic!()
            };
            let ack = forge(peer, TcpFlags::ACK, ISN, syn_ack.seq + 1, stamp).build();
            stack.ingress(Instant::ZERO, &ack, RxMeta::default());
            ids.push(stack.accept(listener).unwrap());
            iss.push(syn_ack.seq);
        }
        Side { stack, ids, iss, anew }
    }

    fn arrive(&mut self, now: Instant, frame: &Bytes) {
        if self.anew {
            self.stack.latest = None;
        }
        self.stack.ingress(now, frame, RxMeta::default());
    }

    fn seen(&mut self) -> Seen {
        let sent = core::iter::from_fn(|| self.stack.poll_transmit()).map(|t| (t.frame, t.id)).collect();
        let events = core::iter::from_fn(|| self.stack.poll_event()).collect();
        let decisions = core::iter::from_fn(|| self.stack.poll_decision()).collect();
        (decisions, sent, events, self.stack.poll_timeout())
    }
}

#[derive(Clone, Debug)]
struct Step {
    peer: usize,
    /// Where it begins, from the next number on.
    off: i32,
    len: usize,
    flags: u16,
    damaged: bool,
    stamped: bool,
    read: usize,
    wait_us: u64,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let off = prop_oneof![8 => Just(0), 1 => -1500..1500];
    let len = prop_oneof![Just(0usize), Just(1), Just(100), Just(1448), 0..1461usize];
    let flags = prop_oneof![8 => Just(16u16), 3 => Just(24), 1 => 0..512u16];
    let wait = prop_oneof![4 => 0..50u64, 1 => 0..60_000u64];
    let step = (
        0..10usize,
        off,
        len,
        flags,
        prop::bool::weighted(0.05),
        prop::bool::weighted(0.9),
        0..5000usize,
        wait,
    );
    let step = step.prop_map(|(peer, off, len, flags, damaged, stamped, read, wait_us)| Step {
        peer: peer / 8,
        off,
        len,
        flags,
        damaged,
        stamped,
        read: read.saturating_sub(3000),
        wait_us,
    });
    vec(step, 1..60)
}

proptest! {
    #[test]
    fn a_flow_that_is_followed_is_treated_as_any(timestamps in any::<bool>(), steps in steps()) {
        let (mut fast, mut slow) = (Side::new(timestamps, false), Side::new(timestamps, true));
        let (mut now, mut next) = (Instant::ZERO, [ISN; 2]);
        prop_assert_eq!(fast.seen(), slow.seen());
        for s in steps {
            now = now + Duration::from_micros(s.wait_us);
            let seq = if s.off < 0 { next[s.peer] - s.off.unsigned_abs() } else { next[s.peer] + s.off.unsigned_abs() };
            let stamp = (timestamps == s.stamped).then_some(1 + now.as_millis() as u32);
            let mut f = forge(s.peer, TcpFlags::from_bits_truncate(s.flags), seq, fast.iss[s.peer] + 1, stamp);
            f = f.payload(vec![0x5a; s.len]);
            if s.damaged {
                f = f.tcp_checksum(Checksum::Wrong);
            }
            let frame = f.build();
            for side in [&mut fast, &mut slow] {
                if side.stack.poll_timeout().is_some_and(|at| at <= now) {
                    side.stack.handle_timeout(now);
                }
                side.arrive(now, &frame);
                let mut buf = vec![0; s.read];
                let _ = side.stack.recv(now, side.ids[s.peer], &mut buf);
            }
            if s.off == 0 && !s.damaged {
                next[s.peer] += s.len as u32;
            }
            prop_assert_eq!(fast.seen(), slow.seen());
            prop_assert_eq!(fast.stack.counters(), slow.stack.counters());
            prop_assert_eq!(fast.stack.shared.iface.counters(), slow.stack.shared.iface.counters());
        }
        for (a, b) in fast.ids.iter().zip(&slow.ids) {
            prop_assert_eq!(format!("{:?}", fast.stack.info(*a)), format!("{:?}", slow.stack.info(*b)));
        }
    }
}
