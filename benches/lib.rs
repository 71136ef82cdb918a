//! What the benchmarks share: a stack with one connection and a forger of segments for it.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use bytes::Bytes;
use rightedge_stack::{
    ListenOptions, SocketId, SocketOption, Stack, StackConfig,
    nic::Driver,
    profile::Profile,
    time::Instant,
    units::Seq,
    wire::{self, Medium, OutOptions, Packet, RxMeta, TcpFlags, forge::Forge},
};

/// A stack on a TUN device with one open connection.
pub struct Bench {
    /// The stack.
    pub stack: Stack,
    /// The connection.
    pub id: SocketId,
    local: SocketAddr,
    peer: SocketAddr,
    iss: Seq,
    now: Instant,
}

const ISN: Seq = Seq(1_000_000);

impl Bench {
    /// A connection under `profile` whose receive buffer holds `rcvbuf` bytes (as SO_RCVBUF takes it: it is doubled).
    ///
    /// # Panics
    /// When the handshake does not come about, which is a bug.
    #[must_use]
    pub fn new(profile: Profile, driver: Driver, rcvbuf: i32) -> Self {
        let ip = |last| IpAddr::V4(Ipv4Addr::new(10, 0, 0, last));
        let (local, peer) = (SocketAddr::new(ip(2), 5001), SocketAddr::new(ip(1), 40_000));
        let mut config = StackConfig::ip(profile, ip(2), 24);
        config.driver = driver;
        config.sysctls.rmem_max = i32::MAX / 2;
        config.sysctls.tcp_rmem[2] = i32::MAX / 2;
        let mut stack = Stack::new(config).expect("config");
        let listener = stack.listen(local, ListenOptions::default()).expect("listen");
        let options =
            OutOptions { mss: Some(1460), wscale: Some(7), sack_permitted: true, ..OutOptions::default() };
        let syn = Forge::new(peer, local)
            .flags(TcpFlags::SYN)
            .seq_ack(ISN - 1, Seq(0))
            .window(65_535)
            .options(&options);
        let now = Instant::from_millis(1);
        stack.ingress(now, &syn.build(), RxMeta::default());
        let frame = stack.poll_transmit().expect("SYN-ACK").frame;
        let Ok(Packet::Tcp(syn_ack)) = wire::parse(Medium::Ip, &frame, RxMeta::default()) else {
            panic!("SYN-ACK expected")
        };
        let mut b = Bench { stack, id: listener, local, peer, iss: syn_ack.seq, now };
        let ack = b.segment(0, 0);
        b.arrive(&ack);
        b.id = b.stack.accept(listener).expect("connection");
        b.stack.set_option(now, b.id, SocketOption::RcvBuf(rcvbuf)).expect("SO_RCVBUF");
        b
    }

    /// A segment of `len` bytes at stream offset `at`.
    #[must_use]
    pub fn segment(&self, at: u32, len: usize) -> Bytes {
        Forge::new(self.peer, self.local)
            .flags(TcpFlags::ACK)
            .seq_ack(ISN + at, self.iss + 1)
            .window(512)
            .payload(Bytes::from(vec![0x5a; len]))
            .build()
    }

    /// Hands a frame to the stack and throws away what it answers.
    pub fn arrive(&mut self, frame: &Bytes) {
        self.stack.ingress(self.now, frame, RxMeta::default());
        while self.stack.poll_transmit().is_some() {}
        while self.stack.poll_event().is_some() {}
    }

    /// Reads everything there is; the bytes are not copied out.
    pub fn drain(&mut self) -> usize {
        let mut n = 0;
        while let Ok(got @ 1..) = self.stack.recv_with(self.now, self.id, 1 << 20, &mut |_| {}) {
            n += got;
        }
        while self.stack.poll_transmit().is_some() {}
        n
    }
}
