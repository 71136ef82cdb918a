//! The kernel's own receiver: a thread that reads from a socket, behind a veth pair between two private namespaces.
//!
//! Offloaded, the pair passes super-segments on, unsummed. Plain, segmentation is switched off at the sender's end, so that
//! single segments cross it, and checksums too, so that they are summed there; the receiving end does not merge them (no GRO)
//! and does not believe the pair that sums are right.

use std::io::{self, Read as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use rightedge_tapctl::{
    ethtool::{self, Feature},
    link::{Cidr, Netlink},
    netns::PrivateNet,
    observe::set_socket_option,
    sysctl,
};

use super::meter::{Meter, Round};
use super::{TCP_RMEM, WINDOW, kernel_side, sender};
use crate::run::wire::{PORT, STACK_IP, tap::KERNEL_HOOKS};
use crate::sender::{End, kernel::KernelSender};

/// The sender's end, and the receiver's.
const ENDS: [&str; 2] = ["rightedge0", "rightedge1"];
/// What the application reads at most at once, bytes.
const READ: usize = 256 << 10;

/// One round. The thread must be in a namespace of its own, which is the sender's.
///
/// # Errors
/// The pair, an address or a sysctl was refused, or nothing came.
pub(super) fn round(offload: bool, meter: Meter, stop: &AtomicBool) -> Result<Round> {
    let far = PrivateNet::new()?;
    Netlink::open()?.create_veth(ENDS[0], ENDS[1], Some(far.as_fd()))?;
    if !offload {
        for feature in [Feature::Tso, Feature::Gso, Feature::TxCsum] {
            ethtool::set(ENDS[0], feature, false)?;
        }
    }
    let listener = far.run(|| listen(offload))??;
    kernel_side().apply(ENDS[0])?;
    let sender = KernelSender::start(sender(), KERNEL_HOOKS)?;
    let round = far.run(|| receive(&listener, meter, stop))?;
    drop(sender.stop(End::Abort));
    round
}

fn listen(offload: bool) -> Result<TcpListener> {
    if !offload {
        // Otherwise the pair vouches for every sum.
        ethtool::set(ENDS[1], Feature::RxCsum, false)?;
    }
    let mut links = Netlink::open()?;
    sysctl::disable_ipv6(ENDS[1])?;
    sysctl::write("net.ipv4.tcp_rmem", TCP_RMEM)?;
    links.add_address(ENDS[1], Cidr::new(STACK_IP.into(), 24)?)?;
    links.set_up(ENDS[1])?;
    let listener = TcpListener::bind(SocketAddr::new(STACK_IP.into(), PORT))
        .context("cannot listen behind the veth pair")?;
    let window = i32::try_from(WINDOW)?;
    set_socket_option(&listener, libc::IPPROTO_TCP, libc::TCP_WINDOW_CLAMP, window)?;
    Ok(listener)
}

fn receive(listener: &TcpListener, mut meter: Meter, stop: &AtomicBool) -> Result<Round> {
    let mut stream = accept(listener, &mut meter, stop)?;
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(Duration::from_millis(20)))?;
    let mut buffer = vec![0; READ];
    let mut bytes = 0;
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => bail!("the sender closed the connection"),
            Ok(n) => bytes += n as u64,
            Err(e) if is_nothing(&e) => {}
            Err(e) => return Err(e).context("cannot read behind the veth pair"),
        }
        if let Some(round) = meter.look(bytes)? {
            return Ok(round);
        }
        if stop.load(Ordering::Relaxed) {
            bail!("interrupted");
        }
    }
}

fn accept(listener: &TcpListener, meter: &mut Meter, stop: &AtomicBool) -> Result<TcpStream> {
    listener.set_nonblocking(true)?;
    loop {
        match listener.accept() {
            Ok((stream, _)) => return Ok(stream),
            Err(e) if is_nothing(&e) => std::thread::sleep(Duration::from_millis(1)),
            Err(e) => return Err(e).context("cannot accept behind the veth pair"),
        }
        meter.look(0)?;
        if stop.load(Ordering::Relaxed) {
            bail!("interrupted");
        }
    }
}

fn is_nothing(e: &io::Error) -> bool {
    matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted)
}
