//! Our stack with open connections, and a forger of segments for them.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use bytes::{Bytes, BytesMut};
use rightedge_stack::nic::Driver;
use rightedge_stack::profile::Profile;
use rightedge_stack::time::{Duration, Instant};
use rightedge_stack::units::Seq;
use rightedge_stack::wire::{self, Medium, OutOptions, Packet, RxMeta, TcpFlags, forge::Forge};
use rightedge_stack::{ListenOptions, SocketId, SocketOption, Stack, StackConfig};

use crate::Receiver;

/// Sequence number of the peer's SYN, plus one: the stream begins here.
pub const ISN: Seq = Seq(1_000_000);
/// What the device says of every frame: its checksum is right. Both stacks then do not look.
pub const CHECKED: RxMeta = RxMeta { gso_size: 0, hdr_len: 0, csum_ok: true };

/// How the receiver is set up.
#[derive(Clone, Debug)]
pub struct Setup {
    /// The kernel generation with its switches.
    pub profile: Profile,
    /// The driver model.
    pub driver: Driver,
    /// SO_RCVBUF as an application gives it, bytes; the kernel doubles it. `None`: autotuning.
    pub rcvbuf: Option<i32>,
    /// Decisions are collected and thrown away.
    pub decisions: bool,
    /// All connections together use more than tcp_mem's pressure mark.
    pub pressure: bool,
}

impl Setup {
    /// Linux 6.18 on a TAP with a buffer of 32 MiB.
    #[must_use]
    pub fn usual() -> Self {
        Setup {
            profile: Profile::linux_6_18(),
            driver: Driver::TapBuild,
            rcvbuf: Some(16 << 20),
            decisions: false,
            pressure: false,
        }
    }
}

/// Makes the segments of a peer.
#[derive(Clone, Copy, Debug)]
pub struct Forger {
    local: SocketAddr,
    peer: SocketAddr,
    /// The receiver's initial sequence number.
    pub iss: Seq,
}

/// Where receivers listen.
pub const LOCAL: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2)), 5001);

impl Forger {
    /// The peer with that number. What the receiver's initial sequence number is shows in its SYN-ACK.
    ///
    /// # Panics
    /// For a number beyond a million.
    #[must_use]
    pub fn new(n: u32) -> Self {
        // 28 000 ports of each address.
        let [a, b] = u16::try_from(n / 28_000 + 256).expect("not that many").to_be_bytes();
        let port = u16::try_from(32_768 + n % 28_000).expect("a port");
        let peer = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 1, a, b)), port);
        Forger { local: LOCAL, peer, iss: Seq(0) }
    }

    /// Its SYN: an MSS of 1460, a window scale of 7, SACK.
    #[must_use]
    pub fn syn(&self) -> Bytes {
        let options =
            OutOptions { mss: Some(1460), wscale: Some(7), sack_permitted: true, ..OutOptions::default() };
        let syn = Forge::new(self.peer, self.local).flags(TcpFlags::SYN).seq_ack(ISN - 1, Seq(0));
        syn.window(65_535).options(&options).build()
    }

    /// A segment with that payload at offset `at` of its stream.
    #[must_use]
    pub fn segment(&self, at: u32, payload: Bytes) -> Bytes {
        Forge::new(self.peer, self.local)
            .flags(TcpFlags::ACK)
            .seq_ack(ISN + at, self.iss + 1)
            .window(512)
            .payload(payload)
            .build()
    }

    /// Segments of `len` bytes at these offsets, side by side in one piece of memory, as a device's ring would have them.
    #[must_use]
    pub fn segments(&self, offsets: impl IntoIterator<Item = u32>, len: usize) -> Vec<Bytes> {
        let payload = Bytes::from(vec![0x5a; len]);
        let built: Vec<Bytes> = offsets.into_iter().map(|at| self.segment(at, payload.clone())).collect();
        let mut ring = BytesMut::with_capacity(built.iter().map(Bytes::len).sum());
        for frame in &built {
            ring.extend_from_slice(frame);
        }
        let mut ring = ring.freeze();
        built.iter().map(|f| ring.split_to(f.len())).collect()
    }
}

/// A stack on a TUN device with open connections.
pub struct Connections {
    /// The stack.
    pub stack: Stack,
    /// The connections, and where their streams are.
    pub all: Vec<SocketId>,
    /// Their peers.
    pub peers: Vec<Forger>,
    /// The time, which only tests move.
    pub now: Instant,
    meta: RxMeta,
}

impl Connections {
    /// So many connections.
    ///
    /// # Panics
    /// When a handshake does not come about, which is a bug.
    #[must_use]
    pub fn new(setup: &Setup, count: u32) -> Self {
        let mut config = StackConfig::ip(setup.profile.clone(), LOCAL.ip(), 8);
        config.driver = setup.driver;
        config.sysctls.rmem_max = i32::MAX / 2;
        config.sysctls.tcp_rmem[2] = i32::MAX / 2;
        if setup.pressure {
            // In pages: beyond the second from the first segment on, and never near the third.
            config.sysctls.tcp_mem = [1, 2, config.sysctls.tcp_mem[2]];
        }
        let mut stack = Stack::new(config).expect("config");
        let options = ListenOptions::default();
        let listener = stack.listen(LOCAL, options).expect("listen");
        let mut c = Connections {
            stack,
            all: Vec::new(),
            peers: Vec::new(),
            now: Instant::from_millis(1),
            meta: CHECKED,
        };
        for n in 0..count {
            c.open(listener, n);
            if let Some(rcvbuf) = setup.rcvbuf {
                let id = c.all[n as usize];
                c.stack.set_option(c.now, id, SocketOption::RcvBuf(rcvbuf)).expect("SO_RCVBUF");
            }
        }
        c.stack.set_tracing(setup.decisions);
        c
    }

    fn open(&mut self, listener: SocketId, n: u32) {
        let mut peer = Forger::new(n);
        self.stack.ingress(self.now, &peer.syn(), CHECKED);
        let frame = self.stack.poll_transmit().expect("SYN-ACK").frame;
        let Ok(Packet::Tcp(syn_ack)) = wire::parse(Medium::Ip, &frame, CHECKED) else {
            panic!("SYN-ACK expected")
        };
        peer.iss = syn_ack.seq;
        self.arrive(&peer.segment(0, Bytes::new()));
        self.all.push(self.stack.accept(listener).expect("connection"));
        self.peers.push(peer);
    }

    /// What the device says of the frames from now on.
    pub fn with_meta(&mut self, meta: RxMeta) {
        self.meta = meta;
    }

    /// The application of connection `n` reads everything; the bytes are not copied out.
    pub fn drain_of(&mut self, n: usize) -> usize {
        let mut read = 0;
        while let Ok(got @ 1..) = self.stack.recv_with(self.now, self.all[n], 1 << 20, &mut |_| {}) {
            read += got;
        }
        self.settle();
        read
    }

    /// Time passes, and what is due happens.
    pub fn pass(&mut self, by: Duration) {
        self.now = self.now + by;
        self.stack.handle_timeout(self.now);
        self.settle();
    }

    fn settle(&mut self) -> usize {
        let mut frames = 0;
        while self.stack.poll_transmit().is_some() {
            frames += 1;
        }
        while self.stack.poll_event().is_some() {}
        while self.stack.poll_decision().is_some() {}
        frames
    }
}

impl Receiver for Connections {
    fn arrive(&mut self, frame: &Bytes) -> usize {
        self.stack.ingress(self.now, frame, self.meta);
        self.settle()
    }

    fn drain(&mut self) -> usize {
        self.drain_of(0)
    }
}
