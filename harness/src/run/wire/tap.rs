//! A TAP device with the kernel's own TCP behind it.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration as StdDuration;

use anyhow::{Context as _, Result};
use bytes::Bytes;
use rightedge_stack::{time::Instant, wire::RxMeta};
use rightedge_tapctl::{
    link::{Cidr, Metric, Netlink, Route, RouteMetrics},
    observe::KernelSocketView,
    sysctl,
    tap::{IoMode, MAX_FRAME_LEN, OffloadOptions, Tap},
    vnet::{GsoType, VnetHdr, VnetHdrSize},
};

use super::{PORT, SENDER_IP, STACK_IP, SenderReport, Wire, buffers::Buffers, nap, since};
use crate::scenario::Scenario;
use crate::sender::{
    End, Role,
    kernel::{KernelConfig, KernelHooks, KernelSender, TcpOption, TcpSample},
};

/// The device in the run's own namespace.
const DEVICE: &str = "rightedge0";

/// A TAP device in the current thread's network namespace, with the kernel's own TCP behind it.
pub struct TapWire {
    tap: Tap,
    header: usize,
    sender: Option<KernelSender>,
    started: std::time::Instant,
    buffers: Buffers,
    last: Option<TcpSample>,
    what: String,
}

/// The kernel's side of a TAP device.
#[derive(Clone, Debug, Default)]
pub struct KernelSide {
    /// Sysctls of its namespace, in this order.
    pub sysctls: Vec<(String, String)>,
    /// MTU of the device, bytes; 1500 unless set.
    pub mtu: Option<u32>,
    /// First congestion window on the route to the stack, segments.
    pub initcwnd: Option<u32>,
}

impl KernelSide {
    /// What the largest frame of the device needs, bytes.
    fn frame_room(&self) -> usize {
        let mtu = self.mtu.map_or(1500, |m| m as usize);
        (mtu + 64).min(MAX_FRAME_LEN)
    }

    fn of(s: &Scenario) -> Self {
        let flag = |name: &str, on: bool| (name.to_owned(), u8::from(on).to_string());
        let mut sysctls = vec![
            flag("net.ipv4.tcp_timestamps", s.sender.timestamps),
            flag("net.ipv4.tcp_sack", s.sender.sack),
        ];
        sysctls.extend(s.sender.sysctls.iter().map(|(name, value)| (name.clone(), value.to_string())));
        KernelSide { sysctls, mtu: s.route.mtu, initcwnd: s.route.initcwnd }
    }

    /// Sets up device `name` in the namespace of the calling thread.
    ///
    /// # Errors
    /// Names the address, route or sysctl that was refused.
    pub fn apply(&self, name: &str) -> Result<()> {
        let mut nl = Netlink::open().context("cannot talk to rtnetlink")?;
        sysctl::disable_ipv6(name)?;
        // One run must not teach the next one's route its congestion window.
        sysctl::write("net.ipv4.tcp_no_metrics_save", 1)?;
        for (name, value) in &self.sysctls {
            sysctl::write(name, value).with_context(|| format!("sender sysctl {name}"))?;
        }
        let prefix = 24;
        nl.add_address(name, Cidr::new(IpAddr::V4(SENDER_IP), prefix)?)?;
        if let Some(mtu) = self.mtu {
            nl.set_mtu(name, mtu)?;
        }
        // A first flight of a thousand segments must fit the device's queue.
        nl.set_tx_queue_len(name, 20_000)?;
        nl.set_up(name)?;
        if let Some(cwnd) = self.initcwnd {
            let metrics = RouteMetrics::default().with(Metric::InitCwnd, cwnd);
            let host = Cidr::new(IpAddr::V4(STACK_IP), 32)?;
            nl.replace_route(&Route::to(host).dev(name).metrics(metrics))?;
        }
        Ok(())
    }
}

impl TapWire {
    /// Makes the device and starts the sender that `scenario` describes. The thread must be in a namespace of its own.
    ///
    /// # Errors
    /// The device, an address, a sysctl or the sender was refused.
    pub fn new(scenario: &Scenario, offload: bool) -> Result<Self> {
        let (cfg, what) = kernel_config(scenario);
        Self::open(&KernelSide::of(scenario), cfg, what, offload)
    }

    /// Makes the device and starts a sender, which reports as `what`. The thread must be in a namespace of its own.
    ///
    /// # Errors
    /// The device, an address, a sysctl or the sender was refused.
    pub fn open(side: &KernelSide, cfg: KernelConfig, what: String, offload: bool) -> Result<Self> {
        let tap = if offload {
            let options = OffloadOptions { vnet_hdr: Some(VnetHdrSize::Ten), ..OffloadOptions::default() };
            Tap::offload(DEVICE, options).context("cannot make the TAP device")?
        } else {
            Tap::plain(DEVICE, IoMode::NonBlocking).context("cannot make the TAP device")?
        };
        let header = tap.vnet_hdr().map_or(0, VnetHdrSize::bytes);
        side.apply(DEVICE)?;
        let started = std::time::Instant::now();
        let sender = KernelSender::start(cfg, KERNEL_HOOKS)?;
        let buffers = Buffers::new(if offload { MAX_FRAME_LEN } else { 2048.max(side.frame_room()) });
        Ok(TapWire { tap, header, sender: Some(sender), started, buffers, last: None, what })
    }
}

/// What a kernel sender needs of this crate's neighbours.
pub const KERNEL_HOOKS: KernelHooks = KernelHooks { set_option: Some(set_option), sample: Some(sample) };

fn kernel_config(s: &Scenario) -> (KernelConfig, String) {
    let role = s.sender_role();
    let cfg =
        s.kernel_config(KernelConfig { sample_every: StdDuration::from_millis(100), ..kernel_end(role) });
    (cfg, format!("{}, {}", kernel_name(), s.sender.congestion))
}

/// The addresses of a kernel's sender.
#[must_use]
pub fn kernel_end(role: Role) -> KernelConfig {
    let port = if role == Role::Server { PORT } else { 0 };
    KernelConfig {
        role,
        local: SocketAddr::new(SENDER_IP.into(), port),
        remote: SocketAddr::new(STACK_IP.into(), PORT),
        ..KernelConfig::default()
    }
}

/// This machine's kernel as a sender, in words.
#[must_use]
pub fn kernel_name() -> String {
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!("Linux {} kernel sender", kernel.trim())
}

fn set_option(fd: std::os::fd::BorrowedFd<'_>, option: TcpOption) -> io::Result<()> {
    let (name, value) = match option {
        TcpOption::MaxSeg(v) => (libc::TCP_MAXSEG, i32::from(v)),
        TcpOption::NotsentLowat(v) => (libc::TCP_NOTSENT_LOWAT, i32::try_from(v).unwrap_or(i32::MAX)),
    };
    rightedge_tapctl::observe::set_socket_option(&fd, libc::IPPROTO_TCP, name, value)
        .map_err(io::Error::other)
}

fn sample(fd: std::os::fd::BorrowedFd<'_>) -> io::Result<TcpSample> {
    let view = KernelSocketView::of(&fd).map_err(io::Error::other)?;
    let get = |name: &str| view.tcp_info.get(name).unwrap_or(0);
    let small = |name: &str| u32::try_from(get(name)).unwrap_or(u32::MAX);
    Ok(TcpSample {
        snd_cwnd: small("tcpi_snd_cwnd"),
        snd_ssthresh: small("tcpi_snd_ssthresh"),
        rtt_us: small("tcpi_rtt"),
        rto_us: small("tcpi_rto"),
        unacked: small("tcpi_unacked"),
        retrans: small("tcpi_retrans"),
        total_retrans: small("tcpi_total_retrans"),
        snd_wnd: small("tcpi_snd_wnd"),
        snd_mss: small("tcpi_snd_mss"),
        probes: small("tcpi_probes"),
        notsent_bytes: small("tcpi_notsent_bytes"),
        bytes_acked: get("tcpi_bytes_acked"),
        bytes_retrans: get("tcpi_bytes_retrans"),
        ..TcpSample::default()
    })
}

impl Wire for TapWire {
    fn now(&mut self) -> Instant {
        since(self.started)
    }

    fn recv(&mut self, _now: Instant) -> Result<Option<(Bytes, RxMeta)>> {
        let n = match self.tap.recv(self.buffers.next()) {
            Ok(n) => n,
            Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
                return Ok(None);
            }
            Err(e) => return Err(e).context("cannot read from the TAP device"),
        };
        let data = self.buffers.next().get(..n).unwrap_or_default();
        let mut meta = RxMeta::default();
        let mut start = 0;
        if let Some(size) = self.tap.vnet_hdr() {
            let (h, _) = VnetHdr::parse(data, size).context("virtio header of a frame from the kernel")?;
            meta = RxMeta {
                gso_size: if h.gso() == GsoType::None { 0 } else { h.gso_size.get() },
                hdr_len: h.hdr_len.get(),
                csum_ok: h.needs_csum() || h.data_valid(),
            };
            start = self.header;
        }
        Ok(Some((self.buffers.take(start..n), meta)))
    }

    fn send(&mut self, _now: Instant, frame: &Bytes) -> Result<bool> {
        let sent = if self.header > 0 {
            let header = [0u8; 12];
            let header = header.get(..self.header).unwrap_or_default();
            self.tap.send_vectored(&[io::IoSlice::new(header), io::IoSlice::new(frame)])
        } else {
            self.tap.send(frame)
        };
        match sent {
            Ok(_) => Ok(true),
            // A full queue loses the frame, as any link may.
            Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => Ok(false),
            Err(e) => Err(e).context("cannot write to the TAP device"),
        }
    }

    fn wait(&mut self, until: Option<Instant>, at_most: StdDuration) -> Result<()> {
        match self.tap.wait_readable(Some(nap(since(self.started), until, at_most))) {
            Ok(_) => Ok(()),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => Ok(()),
            Err(e) => Err(e).context("cannot wait for the TAP device"),
        }
    }

    fn sender_done(&self) -> bool {
        self.sender.as_ref().is_none_or(KernelSender::is_finished)
    }

    fn sender(&mut self) -> SenderReport {
        let Some(sender) = &self.sender else { return SenderReport::default() };
        if let Some(last) = sender.drain_samples().into_iter().last() {
            self.last = Some(last);
        }
        let stats = sender.stats();
        let last = self.last.unwrap_or_default();
        SenderReport {
            what: self.what.clone(),
            written: stats.connections.iter().map(|c| c.written).sum(),
            error: stats
                .connections
                .iter()
                .find_map(|c| c.first_error.clone())
                .or_else(|| stats.error.clone()),
            retransmits: u64::from(last.total_retrans),
            cwnd: last.snd_cwnd,
            rtt_us: u64::from(last.rtt_us),
            detail: serde_json::json!({ "connections": stats.connections, "tcp_info": last }),
        }
    }

    fn stop(&mut self, _now: Instant) {
        if let Some(sender) = self.sender.take() {
            let _ = sender.stop(End::Abort);
        }
    }
}
