//! The devices of a recording, one per way of opening them, and whichever of them has the address.

use std::io::{self, IoSlice};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};

use bytes::Bytes;
use rightedge_stack::wire::{self, Link, MacAddr, Medium, Packet, RxMeta, TcpSegment, forge::Forge};
use rightedge_tapctl::link::{Cidr, LinkError, Mac, Metric, Netlink, Route, RouteMetrics};
use rightedge_tapctl::sysctl;
use rightedge_tapctl::tap::{
    IoMode, Layer, MAX_FRAME_LEN, Napi, OffloadOptions, Offloads, Queues, Tap, TapError,
};
use rightedge_tapctl::vnet::{F_DATA_VALID, GsoType, VnetHdr, VnetHdrSize};

use super::super::script::{self, RxPath};
use super::super::vnet::VnetPlan;
use super::RecordError;

/// The receiver's address.
pub(super) const HOST: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 2);
/// The peer's, which we play.
pub(super) const PEER: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 1);
/// The receiver's port.
pub(super) const PORT: u16 = 5001;
const HOST_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
const PEER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
/// Ethernet and IPv4 headers; TCP's checksum begins behind them.
const ETHERNET: u16 = 14;
const IPV4: u16 = 20;
const PAGE: usize = 4096;

/// The receiver.
pub(super) fn host() -> SocketAddr {
    SocketAddrV4::new(HOST, PORT).into()
}

/// The peer at a port.
pub(super) fn peer(port: u16) -> SocketAddr {
    SocketAddrV4::new(PEER, port).into()
}

/// One device.
#[derive(Debug)]
struct Device {
    path: RxPath,
    tap: Tap,
    mtu: u32,
}

/// All devices opened so far.
#[derive(Debug)]
pub(super) struct Devices {
    links: Netlink,
    devices: Vec<Device>,
    /// Index of the one that has the address.
    current: Option<usize>,
    routed: bool,
    buf: Vec<u8>,
}

fn name_of(path: RxPath) -> &'static str {
    match path {
        RxPath::Linear => "judge0",
        RxPath::Frag => "judge1",
        RxPath::Vnet => "judge2",
        RxPath::Napi => "judge3",
        RxPath::NapiFrags => "judge4",
        RxPath::Tun => "judge5",
    }
}

fn open(path: RxPath) -> Result<Tap, TapError> {
    let name = name_of(path);
    let blocking = OffloadOptions {
        layer: Layer::Ethernet,
        io: IoMode::Blocking,
        vnet_hdr: None,
        // What comes out is complete and of wire size; that says nothing about what may go in.
        offloads: Offloads::NONE,
        napi: Napi::Off,
        queues: Queues::Single,
        sndbuf: None,
    };
    match path {
        RxPath::Linear => Tap::plain(name, IoMode::Blocking),
        RxPath::Frag => Tap::plain(name, IoMode::NonBlocking),
        RxPath::Tun => Tap::tun(name, IoMode::Blocking),
        RxPath::Vnet => Tap::offload(name, OffloadOptions { vnet_hdr: Some(VnetHdrSize::Ten), ..blocking }),
        RxPath::Napi => Tap::offload(name, OffloadOptions { napi: Napi::On, ..blocking }),
        RxPath::NapiFrags => Tap::offload(name, OffloadOptions { napi: Napi::Frags, ..blocking }),
    }
}

impl Devices {
    pub(super) fn new() -> Result<Self, RecordError> {
        Ok(Devices {
            links: Netlink::open()?,
            devices: Vec::new(),
            current: None,
            routed: false,
            buf: vec![0; MAX_FRAME_LEN],
        })
    }

    /// Makes the device of this path the one that has the address.
    pub(super) fn switch_to(
        &mut self,
        path: RxPath,
        mtu: u32,
        route: Option<&script::RouteMetrics>,
    ) -> Result<(), RecordError> {
        let index = match self.devices.iter().position(|d| d.path == path) {
            Some(index) => index,
            None => self.create(path)?,
        };
        let net = Cidr::new(HOST.into(), 24)?;
        if self.current != Some(index) {
            if let Some(old) = self.current.take().and_then(|i| self.devices.get(i)) {
                // The routes over it go as well.
                self.links.remove_address(old.tap.name(), net)?;
                self.routed = false;
            }
            self.links.add_address(name_of(path), net)?;
            if path != RxPath::Tun {
                self.links.add_neighbour(name_of(path), PEER.into(), Mac(PEER_MAC))?;
            }
            self.current = Some(index);
        }
        if let Some(device) = self.devices.get_mut(index).filter(|d| d.mtu != mtu) {
            let refused = |source: LinkError| RecordError::cannot(format!("mtu {mtu}"), source);
            self.links.set_mtu(device.tap.name(), mtu).map_err(refused)?;
            device.mtu = mtu;
        }
        self.set_route(name_of(path), route)
    }

    fn create(&mut self, path: RxPath) -> Result<usize, RecordError> {
        let tap = open(path).map_err(|e| match e {
            TapError::NapiFragsDenied { .. } | TapError::Mismatch { .. } | TapError::Setting { .. } => {
                RecordError::cannot(format!("rx_path {path}"), e)
            }
            e => e.into(),
        })?;
        let name = tap.name().to_owned();
        sysctl::disable_ipv6(&name)?;
        if path != RxPath::Tun {
            self.links.set_mac(&name, Mac(HOST_MAC))?;
        }
        // Every answer to the longest burst has room.
        self.links.set_tx_queue_len(&name, 8192)?;
        self.links.set_up(&name)?;
        let mtu = self.links.link(&name)?.mtu;
        self.devices.push(Device { path, tap, mtu });
        Ok(self.devices.len() - 1)
    }

    fn set_route(&mut self, name: &str, wanted: Option<&script::RouteMetrics>) -> Result<(), RecordError> {
        let mut route = Route::to(Cidr::new(PEER.into(), 32)?).dev(name);
        let Some(w) = wanted else {
            if std::mem::take(&mut self.routed) {
                self.links.delete_route(&route)?;
            }
            return Ok(());
        };
        let all = [
            (Metric::QuickAck, u32::from(w.quickack)),
            (Metric::InitRwnd, w.initrwnd),
            (Metric::Window, w.window),
            (Metric::Advmss, w.advmss),
            (Metric::Mtu, w.mtu),
            (Metric::RtoMin, w.rto_min),
            (Metric::Features, w.features),
        ];
        let set = all.into_iter().filter(|(_, v)| *v != 0);
        route = route.metrics(set.fold(RouteMetrics::new(), |m, (metric, v)| m.with(metric, v)));
        let refused = |source: LinkError| RecordError::cannot(format!("route {route}"), source);
        self.links.replace_route(&route).map_err(refused)?;
        self.routed = true;
        Ok(())
    }

    fn device(&self) -> io::Result<&Device> {
        let none = || io::Error::other("no device has the address");
        self.current.and_then(|i| self.devices.get(i)).ok_or_else(none)
    }

    /// Is anything in front of the IP header?
    pub(super) fn has_ethernet(&self) -> bool {
        self.device().is_ok_and(|d| d.path != RxPath::Tun)
    }

    /// The frame that [`Devices::write`] wants for this segment.
    pub(super) fn frame(&self, forge: Forge) -> Bytes {
        if self.has_ethernet() {
            forge.link(Link { src: MacAddr(PEER_MAC), dst: MacAddr(HOST_MAC) }).build()
        } else {
            forge.build()
        }
    }

    /// Whether frames carry a virtio header.
    pub(super) fn has_vnet(&self) -> bool {
        self.device().is_ok_and(|d| d.path == RxPath::Vnet)
    }

    /// Gives a frame to the kernel; returns when the kernel's receive path has run for it.
    pub(super) fn write(&self, frame: &[u8], plan: VnetPlan) -> io::Result<()> {
        let d = self.device()?;
        match d.path {
            RxPath::Vnet => {
                let mut header = if plan.gso_size > 0 {
                    VnetHdr::super_segment(GsoType::TcpV4, plan.hdr_len, plan.gso_size, ETHERNET + IPV4)
                } else {
                    VnetHdr { flags: if plan.csum_ok { F_DATA_VALID } else { 0 }, ..VnetHdr::none() }
                };
                header.hdr_len = plan.hdr_len.into();
                let mut out = [0; 10];
                header.emit(VnetHdrSize::Ten, &mut out).map_err(io::Error::other)?;
                d.tap.send_vectored(&[IoSlice::new(&out), IoSlice::new(frame)])?;
            }
            RxPath::NapiFrags => {
                let (headers, payload) = frame.split_at_checked(plan.hdr_len.into()).unwrap_or((frame, &[]));
                let parts: Vec<IoSlice<'_>> =
                    std::iter::once(headers).chain(payload.chunks(PAGE)).map(IoSlice::new).collect();
                d.tap.send_vectored(&parts)?;
            }
            _ => {
                d.tap.send(frame)?;
            }
        }
        Ok(())
    }

    /// The next segment for `port` that the kernel has emitted, if one comes until then (monotonic nanoseconds).
    pub(super) fn read(&mut self, port: u16, until: i64) -> io::Result<Option<TcpSegment>> {
        loop {
            let left = until.saturating_sub(super::clock::now()).max(0);
            let index = self.current.unwrap_or(usize::MAX);
            let Some(d) = self.devices.get(index) else { return Ok(None) };
            let wait = std::time::Duration::from_nanos(left.unsigned_abs());
            if !d.tap.wait_readable(Some(wait))? {
                return Ok(None);
            }
            let n = match d.tap.recv(&mut self.buf) {
                Ok(n) => n,
                Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
                    continue;
                }
                Err(e) => return Err(e),
            };
            let skip = d.tap.vnet_hdr().map_or(0, VnetHdrSize::bytes);
            let medium = if d.path == RxPath::Tun { Medium::Ip } else { Medium::Ethernet };
            let frame = Bytes::copy_from_slice(self.buf.get(skip..n).unwrap_or_default());
            if let Ok(Packet::Tcp(s)) = wire::parse(medium, &frame, RxMeta::default())
                && s.dst == peer(port)
            {
                return Ok(Some(s));
            }
        }
    }
}
