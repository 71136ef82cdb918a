//! smoltcp's own TCP socket at the same device.
//!
//! It verifies TCP checksums on the plain device, as the stack does, and not on the offloaded one, where they are unfinished.
//! It does not mind frames larger than its MTU, so super-segments reach it as they reach the others.

use std::ops::Range;

use anyhow::{Result, anyhow};
use rightedge_stack::{time::Instant, wire::RxMeta};
use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{Checksum, Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::tcp;
use smoltcp::time::Instant as Time;
use smoltcp::wire::{EthernetAddress, IpCidr};

use super::WINDOW;
use super::port::{Port, Receiver, frame_room};
use crate::run::wire::{PORT, STACK_IP, STACK_MAC};

/// The stack and its reader.
pub(super) struct Rival {
    iface: Interface,
    sockets: SocketSet<'static>,
    handle: SocketHandle,
    buffer: Vec<u8>,
    offload: bool,
    read: u64,
}

impl Rival {
    /// A socket that listens.
    ///
    /// # Errors
    /// smoltcp refuses the address.
    pub(super) fn new(offload: bool) -> Result<Self> {
        let mac = EthernetAddress(STACK_MAC.0);
        let mut link = Link { port: None, frame: None, offload };
        let mut iface = Interface::new(Config::new(mac.into()), &mut link, Time::ZERO);
        iface.update_ip_addrs(|addrs| {
            // One address, and there is room for it.
            let _ = addrs.push(IpCidr::new(STACK_IP.into(), 24));
        });
        let receive = tcp::SocketBuffer::new(vec![0; WINDOW]);
        let mut socket = tcp::Socket::new(receive, tcp::SocketBuffer::new(vec![0; 4096]));
        socket.listen(PORT).map_err(|e| anyhow!("smoltcp cannot listen: {e}"))?;
        let mut sockets = SocketSet::new(Vec::new());
        let handle = sockets.add(socket);
        Ok(Rival { iface, sockets, handle, buffer: vec![0; frame_room(offload)], offload, read: 0 })
    }
}

impl Receiver for Rival {
    fn buffer(&mut self) -> &mut [u8] {
        &mut self.buffer
    }

    fn arrived(&mut self, now: Instant, frame: Range<usize>, _: RxMeta, port: &Port) -> Result<()> {
        let mut link = Link { port: Some(port), frame: self.buffer.get(frame), offload: self.offload };
        self.iface.poll_ingress_single(time(now), &mut link, &mut self.sockets);
        Ok(())
    }

    fn settle(&mut self, now: Instant, port: &Port) -> Result<()> {
        let socket = self.sockets.get_mut::<tcp::Socket<'_>>(self.handle);
        while socket.can_recv() {
            let Ok(n) = socket.recv(|data| (data.len(), std::hint::black_box(&*data).len())) else { break };
            self.read += n as u64;
        }
        let mut link = Link { port: Some(port), frame: None, offload: self.offload };
        self.iface.poll(time(now), &mut link, &mut self.sockets);
        Ok(())
    }

    fn due(&mut self, now: Instant) -> Option<Instant> {
        let at = self.iface.poll_at(time(now), &self.sockets)?;
        Some(Instant::from_nanos(u64::try_from(at.total_micros()).unwrap_or(0).saturating_mul(1_000)))
    }

    fn read(&self) -> u64 {
        self.read
    }
}

fn time(now: Instant) -> Time {
    Time::from_micros(i64::try_from(now.as_micros()).unwrap_or(i64::MAX))
}

/// The device with at most one frame that has come.
struct Link<'a> {
    port: Option<&'a Port>,
    frame: Option<&'a [u8]>,
    offload: bool,
}

impl Device for Link<'_> {
    type RxToken<'t>
        = Arrived<'t>
    where
        Self: 't;
    type TxToken<'t>
        = Leaving<'t>
    where
        Self: 't;

    fn receive(&mut self, _: Time) -> Option<(Arrived<'_>, Leaving<'_>)> {
        Some((Arrived(self.frame.take()?), Leaving(self.port)))
    }

    fn transmit(&mut self, _: Time) -> Option<Leaving<'_>> {
        Some(Leaving(self.port))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut c = DeviceCapabilities::default();
        c.medium = Medium::Ethernet;
        c.max_transmission_unit = 1514;
        if self.offload {
            c.checksum.tcp = Checksum::Tx;
        }
        c
    }
}

struct Arrived<'a>(&'a [u8]);

impl RxToken for Arrived<'_> {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(self.0)
    }
}

struct Leaving<'a>(Option<&'a Port>);

impl TxToken for Leaving<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let mut room = [0; 1514];
        let frame = room.get_mut(..len).unwrap_or_default();
        let result = f(frame);
        if let Some(port) = self.0 {
            // A device that fails fails at the next read too, and is reported there.
            let _ = port.send(frame);
        }
        result
    }
}
