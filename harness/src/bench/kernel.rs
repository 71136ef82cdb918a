//! The live kernel's own collapse: how long the write into a TAP device takes that calls for it.
//!
//! A socket of this machine's kernel, in a private namespace, whose application does not read; we are its peer. A TAP device
//! hands a written frame to TCP before the write returns, so the write that finds the buffer full takes as long as an
//! ordinary one and the collapse. What an ordinary one takes is subtracted.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use bytes::Bytes;
use rightedge_stack::units::Seq;
use rightedge_stack::wire::{
    self, Link, MacAddr, Medium, OutOptions, Packet, RxMeta, TcpFlags, TcpSegment, forge::Forge,
};
use rightedge_tapctl::link::{Cidr, Mac, Netlink};
use rightedge_tapctl::netns;
use rightedge_tapctl::observe::MemInfo;
use rightedge_tapctl::tap::{IoMode, MAX_FRAME_LEN, Tap, wait_readable};

use super::measure::quantile;

const HOST: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 2);
const PEER: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 1);
const PORT: u16 = 5001;
const HOST_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);
const PEER_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
const DEVICE: &str = "bench0";

/// What the kernel's collapse took.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct KernelCollapse {
    /// The write that called for it, less an ordinary one, nanoseconds.
    pub nanoseconds: f64,
    /// An ordinary write, nanoseconds.
    pub ordinary: f64,
    /// What was charged before, bytes.
    pub charged: u32,
    /// What is charged afterwards, bytes.
    pub left: u32,
    /// Payload in the queue, bytes.
    pub payload: u64,
}

/// Fills a kernel's receive buffer of `sk_rcvbuf` bytes with segments of `segment` bytes over a TAP descriptor that blocks
/// or does not, until it collapses. `None` if it never does.
///
/// # Errors
/// No TAP device, namespace or connection.
pub fn collapse(sk_rcvbuf: u32, segment: u32, io: IoMode) -> Result<Option<KernelCollapse>> {
    netns::run_in_new_netns(move || Filling::begin(sk_rcvbuf, io)?.run(segment))?
}

struct Filling {
    tap: Tap,
    socket: std::net::TcpStream,
    iss: Seq,
    buf: Vec<u8>,
}

/// Where our stream begins.
const ISN: Seq = Seq(1_000_000);

fn ends() -> (SocketAddr, SocketAddr) {
    (SocketAddrV4::new(PEER, 40_000).into(), SocketAddrV4::new(HOST, PORT).into())
}

fn forge() -> Forge {
    let (peer, host) = ends();
    let mut f = Forge::new(peer, host).window(65_535);
    f.link = Some(Link { src: PEER_MAC, dst: HOST_MAC });
    f
}

impl Filling {
    fn begin(sk_rcvbuf: u32, io: IoMode) -> Result<Self> {
        let tap = Tap::plain(DEVICE, io).context("cannot make the TAP device")?;
        let mut link = Netlink::open()?;
        link.set_mac(DEVICE, Mac(HOST_MAC.0))?;
        link.set_up(DEVICE)?;
        link.add_address(DEVICE, Cidr::new(HOST.into(), 24).context("an address")?)?;
        link.add_neighbour(DEVICE, PEER.into(), Mac(PEER_MAC.0))?;
        let listener = TcpListener::bind(ends().1).context("cannot listen")?;
        // SO_RCVBUF is doubled; before the handshake, so that the window scale suits it.
        let half = (sk_rcvbuf / 2) as usize;
        rustix::net::sockopt::set_socket_recv_buffer_size_force(&listener, half)
            .or_else(|_| rustix::net::sockopt::set_socket_recv_buffer_size(&listener, half))
            .context("cannot set SO_RCVBUF")?;
        let options =
            OutOptions { mss: Some(1460), wscale: Some(7), sack_permitted: true, ..OutOptions::default() };
        let syn = forge().flags(TcpFlags::SYN).seq_ack(ISN - 1, Seq(0)).options(&options);
        tap.send(&syn.build()).context("cannot write a SYN")?;
        let mut buf = vec![0; MAX_FRAME_LEN];
        let syn_ack = answer(&tap, &mut buf)?;
        let iss = syn_ack.seq;
        tap.send(&forge().seq_ack(ISN, iss + 1).build()).context("cannot write an ACK")?;
        let (socket, _) = listener.accept().context("no connection")?;
        let m = MemInfo::of(&socket).context("no SO_MEMINFO")?;
        if m.rcvbuf < sk_rcvbuf {
            bail!(
                "the kernel gave a buffer of {} bytes instead of {sk_rcvbuf}: that needs CAP_NET_ADMIN",
                m.rcvbuf
            );
        }
        Ok(Filling { tap, socket, iss, buf })
    }

    fn run(mut self, segment: u32) -> Result<Option<KernelCollapse>> {
        let content = Bytes::from(vec![0x5a; segment as usize]);
        let (mut at, mut ordinary, mut still) = (0u32, Vec::new(), 0u32);
        loop {
            let frame = forge().seq_ack(ISN + at, self.iss + 1).payload(content.clone()).build();
            let before = MemInfo::of(&self.socket)?.rmem_alloc;
            let begun = Instant::now();
            self.tap.send(&frame).context("cannot write a segment")?;
            let took = begun.elapsed().as_secs_f64() * 1e9;
            let after = MemInfo::of(&self.socket)?.rmem_alloc;
            self.drain()?;
            if after < before {
                let ordinary = quantile(&ordinary, 0.5);
                return Ok(Some(KernelCollapse {
                    nanoseconds: (took - ordinary).max(0.0),
                    ordinary,
                    charged: before,
                    left: after,
                    payload: u64::from(at),
                }));
            }
            // Not taken any more, and nothing gave way.
            still = if after == before { still + 1 } else { 0 };
            if still > 100 {
                return Ok(None);
            }
            if after > before || still == 0 {
                ordinary.push(took);
            }
            at = at.wrapping_add(segment);
        }
    }

    /// Takes what the kernel answers, so that its queue does not fill.
    fn drain(&mut self) -> Result<()> {
        while wait_readable(&self.tap, Some(Duration::ZERO))? {
            self.tap.recv(&mut self.buf)?;
        }
        Ok(())
    }
}

/// The first segment that comes.
fn answer(tap: &Tap, buf: &mut [u8]) -> Result<TcpSegment> {
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(5) {
        if !wait_readable(tap, Some(Duration::from_millis(100)))? {
            continue;
        }
        let n = tap.recv(buf)?;
        let frame = Bytes::copy_from_slice(buf.get(..n).unwrap_or_default());
        let medium = Medium::Ethernet;
        if let Ok(Packet::Tcp(s)) = wire::parse(medium, &frame, RxMeta { csum_ok: true, ..RxMeta::default() })
        {
            return Ok(s);
        }
    }
    bail!("the kernel did not answer the SYN")
}

#[cfg(test)]
mod tests {
    use super::*;
    use rightedge_tapctl::rights::{Need, require};

    #[test]
    fn the_kernel_collapses_small_segments_in_slab_heads() {
        if !require("bench_kernel_collapse", &[Need::TunNode, Need::Netns, Need::Tap]) {
            return;
        }
        let c = collapse(256 << 10, 100, IoMode::Blocking).unwrap().unwrap();
        assert!(c.left < c.charged / 2 && c.payload > 10_000 && c.nanoseconds > 0.0, "{c:?}");
    }
}
