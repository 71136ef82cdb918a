//! A stream that is read as it comes costs no memory but what it is stored in: once the first segments are through, no
//! segment, no ACK and no read allocates anything.

use std::net::SocketAddr;

use bytes::{Bytes, BytesMut};
use rightedge_stack::{
    ListenOptions, SocketId, SocketOption, Stack, StackConfig,
    nic::Driver,
    profile::Profile,
    time::{Duration, Instant},
    units::Seq,
    wire::{self, Medium, OutOptions, Packet, RxMeta, TcpFlags, Timestamps, forge::Forge},
};

const META: RxMeta = RxMeta { gso_size: 0, hdr_len: 0, csum_ok: false };
const ISN: Seq = Seq(0xffff_0000);
const WARM_UP: u32 = 2_000;
const MEASURED: u32 = 10_000;
const READ_EVERY: usize = 32;

/// A connection and the peer that speaks to it.
struct Rig {
    stack: Stack,
    /// The connection, once it is accepted.
    id: SocketId,
    now: Instant,
    local: SocketAddr,
    peer: SocketAddr,
    /// The next number of the receiver, for the peer to acknowledge.
    ack: Seq,
    timestamps: bool,
}

impl Rig {
    fn new(driver: Driver, timestamps: bool) -> Self {
        let (local, peer) = ("10.0.0.2:5001".parse().unwrap(), "10.0.0.1:40000".parse().unwrap());
        let mut config = StackConfig::ip(Profile::linux_6_18(), [10, 0, 0, 2].into(), 24);
        config.driver = driver;
        // A window that this peer, which does not look at it, never fills.
        config.sysctls.rmem_max = 64 << 20;
        config.sysctls.tcp_rmem[2] = 64 << 20;
        let mut stack = Stack::new(config).unwrap();
        let listener = stack.listen(local, ListenOptions::default()).unwrap();
        let now = Instant::from_millis(1);
        let mut rig = Rig { stack, id: listener, now, local, peer, ack: Seq(0), timestamps };
        let syn = OutOptions {
            mss: Some(1460),
            wscale: Some(7),
            sack_permitted: true,
            timestamps: rig.stamps(),
            ..OutOptions::default()
        };
        let syn = rig.forge(TcpFlags::SYN, ISN - 1).options(&syn).build();
        rig.stack.ingress(now, &syn, META);
        let frame = rig.stack.poll_transmit().unwrap().frame;
        let Ok(Packet::Tcp(syn_ack)) = wire::parse(Medium::Ip, &frame, META) else {
            panic!("SYN-ACK expected")
        };
        rig.ack = syn_ack.seq + 1;
        let ack = rig.segment(0, 0);
        rig.stack.ingress(now, &ack, META);
        rig.id = rig.stack.accept(listener).unwrap();
        rig.stack.set_option(now, rig.id, SocketOption::RcvBuf(16 << 20)).unwrap();
        rig
    }

    fn stamps(&self) -> Option<Timestamps> {
        self.timestamps.then_some(Timestamps { tsval: 1000, tsecr: 0 })
    }

    fn forge(&self, flags: TcpFlags, seq: Seq) -> Forge {
        Forge::new(self.peer, self.local).flags(flags).seq_ack(seq, self.ack).window(512)
    }

    fn segment(&self, at: u32, len: usize) -> Bytes {
        let options = OutOptions { timestamps: self.stamps(), ..OutOptions::default() };
        self.forge(TcpFlags::ACK, ISN + at).options(&options).payload(vec![0x5a; len]).build()
    }

    /// Segments side by side in one piece of memory, as a device's ring would have them.
    fn ring(&self, count: u32, len: usize) -> Vec<Bytes> {
        let mut ring = BytesMut::new();
        let lens: Vec<usize> = (0..count)
            .map(|n| {
                let frame = self.segment(n * len as u32, len);
                ring.extend_from_slice(&frame);
                frame.len()
            })
            .collect();
        let mut ring = ring.freeze();
        lens.into_iter().map(|len| ring.split_to(len)).collect()
    }

    /// The frames arrive a microsecond apart, whatever is answered is thrown away, and the application reads. Returns how
    /// much it read.
    fn feed(&mut self, frames: &[Bytes]) -> usize {
        let mut read = 0;
        for batch in frames.chunks(READ_EVERY) {
            for frame in batch {
                self.now = self.now + Duration::from_micros(1);
                if self.stack.poll_timeout().is_some_and(|t| t <= self.now) {
                    self.stack.handle_timeout(self.now);
                }
                self.stack.ingress(self.now, frame, META);
                while self.stack.poll_transmit().is_some() {}
                while self.stack.poll_event().is_some() {}
            }
            while let Ok(n @ 1..) = self.stack.recv_with(self.now, self.id, 1 << 20, &mut |_| {}) {
                read += n;
            }
        }
        read
    }
}

/// Allocations while [`MEASURED`] segments of `len` bytes arrive in order.
fn allocations(driver: Driver, timestamps: bool, len: usize) -> u64 {
    let mut rig = Rig::new(driver, timestamps);
    let frames = rig.ring(WARM_UP + MEASURED, len);
    let (first, then) = frames.split_at(WARM_UP as usize);
    let (before, after) = first.split_at(first.len() / 2);
    assert_eq!(rig.feed(before), before.len() * len);
    // Until now every ACK may have gone out at once; from now on they are delayed, and the timer queue has entries.
    rig.stack.set_option(rig.now, rig.id, SocketOption::QuickAck(false)).unwrap();
    assert_eq!(rig.feed(after), after.len() * len);
    let mut read = 0;
    let seen = allocation_counter::measure(|| read = rig.feed(then));
    assert_eq!(read, then.len() * len);
    rig.stack.audit().unwrap();
    seen.count_total
}

#[test]
fn full_segments_allocate_nothing() {
    for driver in [Driver::TapBuild, Driver::Tun, Driver::Virtio, Driver::HeaderSplit] {
        for timestamps in [false, true] {
            assert_eq!(allocations(driver, timestamps, 1448), 0, "{} {timestamps}", driver.name());
        }
    }
}

#[test]
fn small_segments_allocate_nothing() {
    for len in [1, 100, 256, 257, 536] {
        assert_eq!(allocations(Driver::TapBuild, true, len), 0, "{len} bytes");
        assert_eq!(allocations(Driver::TapAlloc, false, len), 0, "{len} bytes");
    }
}
