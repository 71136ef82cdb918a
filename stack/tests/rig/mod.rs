//! A scripted peer: frames in, windows and figures out, one virtual clock.
#![allow(dead_code, unreachable_pub, reason = "each test file uses its part")]

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use bytes::Bytes;
use rightedge_stack::{
    Info, ListenOptions, SocketId, Stack, StackConfig,
    decision::Record,
    nic::Driver,
    profile::Profile,
    time::{Duration, Instant},
    units::Seq,
    wire::{
        self, Link, MacAddr, Medium, OutOptions, Packet, RxMeta, TcpFlags, TcpSegment, Timestamps,
        forge::Forge,
    },
};

pub const STACK_IP: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2));
pub const PEER_IP: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));
pub const STACK_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);
pub const PEER_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);

/// How the peer shakes hands.
#[derive(Clone, Copy)]
pub struct Handshake {
    pub mss: u16,
    pub wscale: Option<u8>,
    pub sack: bool,
    pub ts: bool,
    pub delay: Duration,
    /// Number of the peer's first payload byte.
    pub isn: u32,
}

impl Default for Handshake {
    fn default() -> Self {
        Handshake { mss: 1460, wscale: Some(7), sack: true, ts: true, delay: Duration::ZERO, isn: 1_000_000 }
    }
}

/// The stack with one scripted peer.
pub struct Rig {
    pub stack: Stack,
    pub now: Instant,
    pub id: SocketId,
    pub medium: Medium,
    pub shake: Handshake,
    pub isn: Seq,
    pub iss: Seq,
    pub wscale: u8,
    pub tsecr: u32,
    pub syn_ack: TcpSegment,
    pub records: Vec<Record>,
    /// Bytes of the stack's that the peer acknowledges from now on.
    pub acked: u32,
    /// The window field that the peer sends.
    pub window: u16,
    /// Everything the stack ever sent.
    pub all: Vec<Sent>,
    pub peer: SocketAddr,
    pub local: SocketAddr,
}

/// One segment that the stack sent, numbers relative to the peer's first payload byte.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sent {
    pub ack: u32,
    pub window: u32,
    pub flags: TcpFlags,
    pub sack: Vec<(u32, u32)>,
    pub len: usize,
}

pub fn config(profile: Profile, driver: Driver) -> StackConfig {
    let mut c = if driver == Driver::Tun {
        StackConfig::ip(profile, STACK_IP, 24)
    } else {
        StackConfig::ethernet(profile, STACK_MAC, STACK_IP, 24)
    };
    c.driver = driver;
    c
}

impl Rig {
    pub fn new(config: StackConfig, options: ListenOptions, shake: Handshake) -> Self {
        let medium = config.iface.medium;
        let mut stack = Stack::new(config).expect("config");
        stack.add_neighbour(PEER_IP, PEER_MAC);
        stack.set_tracing(true);
        let local = SocketAddr::new(STACK_IP, 5001);
        let peer = SocketAddr::new(PEER_IP, 40_000);
        let listener = stack.listen(local, options).expect("listen");
        let isn = Seq(shake.isn);
        let now = Instant::from_millis(1_000);
        let mut rig = Rig {
            stack,
            now,
            id: listener,
            medium,
            shake,
            isn,
            iss: Seq(0),
            wscale: 0,
            tsecr: 0,
            syn_ack: empty(local, peer),
            records: Vec::new(),
            acked: 0,
            window: 512,
            all: Vec::new(),
            peer,
            local,
        };
        let options = OutOptions {
            mss: Some(shake.mss),
            wscale: shake.wscale,
            sack_permitted: shake.sack,
            timestamps: shake.ts.then(|| Timestamps { tsval: rig.tsval(), tsecr: 0 }),
            ..OutOptions::default()
        };
        let syn = Forge::new(peer, local)
            .flags(TcpFlags::SYN)
            .seq_ack(isn - 1, Seq(0))
            .window(65_535)
            .options(&options);
        rig.push(syn);
        let syn_ack = rig.segments().pop().expect("SYN-ACK");
        rig.iss = syn_ack.seq;
        rig.wscale = if shake.wscale.is_some() { syn_ack.options.wscale.unwrap_or(0) } else { 0 };
        rig.tsecr = syn_ack.options.timestamps.map_or(0, |t| t.tsval);
        rig.syn_ack = syn_ack;
        rig.now = rig.now + shake.delay;
        rig.inject(0, 0, TcpFlags::ACK);
        rig.id = rig.stack.accept(listener).expect("connection");
        rig
    }

    fn tsval(&self) -> u32 {
        5_000_000 + self.now.as_millis() as u32
    }

    pub fn forge(&self, at: u32, len: usize, flags: TcpFlags) -> Forge {
        let options = OutOptions {
            timestamps: self.shake.ts.then(|| Timestamps { tsval: self.tsval(), tsecr: self.tsecr }),
            ..OutOptions::default()
        };
        Forge::new(self.peer, self.local)
            .flags(flags)
            .seq_ack(self.isn + at, self.iss + 1 + self.acked)
            .window(self.window)
            .options(&options)
            .payload(pattern(at, len))
    }

    pub fn push(&mut self, forge: Forge) {
        self.push_meta(forge, RxMeta::default());
    }

    /// With what the device says about the frame.
    pub fn push_meta(&mut self, forge: Forge, meta: RxMeta) {
        let forge = if self.medium == Medium::Ethernet {
            forge.link(Link { src: PEER_MAC, dst: STACK_MAC })
        } else {
            forge
        };
        let frame: Bytes = forge.build();
        self.stack.ingress(self.now, &frame, meta);
    }

    /// One data segment; returns what the stack sent in answer.
    pub fn inject(&mut self, at: u32, len: usize, flags: TcpFlags) -> Vec<Sent> {
        let f = self.forge(at, len, flags);
        self.push(f);
        self.sent()
    }

    pub fn data(&mut self, at: u32, len: usize) -> Vec<Sent> {
        self.inject(at, len, TcpFlags::ACK)
    }

    pub fn segments(&mut self) -> Vec<TcpSegment> {
        let mut out = Vec::new();
        while let Some(t) = self.stack.poll_transmit() {
            if let Ok(Packet::Tcp(s)) = wire::parse(self.medium, &t.frame, RxMeta::default()) {
                if let Some(ts) = s.options.timestamps {
                    self.tsecr = ts.tsval;
                }
                out.push(s);
            }
        }
        while let Some(r) = self.stack.poll_decision() {
            self.records.push(r);
        }
        out
    }

    pub fn sent(&mut self) -> Vec<Sent> {
        let (isn, wscale) = (self.isn, self.wscale);
        let sent: Vec<Sent> = self
            .segments()
            .iter()
            .map(|s| Sent {
                ack: s.ack.since(isn) as u32,
                window: u32::from(s.window) << wscale,
                flags: s.flags,
                sack: s
                    .options
                    .sack
                    .iter()
                    .map(|b| (b.start.since(isn) as u32, b.end.since(isn) as u32))
                    .collect(),
                len: s.payload.len(),
            })
            .collect();
        self.all.extend(sent.iter().cloned());
        sent
    }

    /// Lets time pass, timers fire; returns what was sent meanwhile.
    pub fn pass(&mut self, d: Duration) -> Vec<Sent> {
        let until = self.now + d;
        let mut out = Vec::new();
        while let Some(t) = self.stack.poll_timeout().filter(|t| *t <= until) {
            self.now = t.max_of(self.now);
            self.stack.handle_timeout(self.now);
            out.append(&mut self.sent());
        }
        self.now = until;
        out
    }

    pub fn info(&self) -> Info {
        self.stack.info(self.id).expect("info")
    }

    pub fn count(&self, name: &str) -> u64 {
        self.stack.counters().by_name(name).unwrap_or_else(|| panic!("no counter {name}"))
    }

    pub fn read(&mut self, max: usize) -> Vec<u8> {
        let mut buf = vec![0; max];
        let n = self.stack.recv(self.now, self.id, &mut buf).unwrap_or(0);
        buf.truncate(n);
        buf
    }
}

trait MaxOf {
    fn max_of(self, other: Self) -> Self;
}

impl MaxOf for Instant {
    fn max_of(self, other: Self) -> Self {
        self.max(other)
    }
}

/// The byte pattern of all traffic: position tells content.
pub fn pattern(at: u32, len: usize) -> Bytes {
    (0..len as u32).map(|i| byte_at(at.wrapping_add(i))).collect::<Vec<u8>>().into()
}

pub fn byte_at(offset: u32) -> u8 {
    let i = offset % 65_521;
    (7 * i + 13 * (i >> 8) + (i >> 3)) as u8
}

fn empty(src: SocketAddr, dst: SocketAddr) -> TcpSegment {
    let frame = Forge::new(src, dst).build();
    match wire::parse(Medium::Ip, &frame, RxMeta::default()) {
        Ok(Packet::Tcp(s)) => s,
        other => panic!("{other:?}"),
    }
}
