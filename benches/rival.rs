//! smoltcp's TCP socket doing the same: it is handed the same frames, and an application reads from it in place.

use bytes::Bytes;
use rightedge_stack::units::Seq;
use smoltcp::iface::{Config, Interface, PollIngressSingleResult, SocketHandle, SocketSet};
use smoltcp::phy::{Checksum, Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::tcp;
use smoltcp::time::Instant;
use smoltcp::wire::{HardwareAddress, IpAddress, IpCidr, TcpPacket};

use crate::Receiver;
use crate::connection::Forger;

/// A smoltcp interface with one open connection.
pub struct Rival {
    iface: Interface,
    device: OneFrame,
    sockets: SocketSet<'static>,
    handle: SocketHandle,
    /// The other end.
    pub peer: Forger,
    now: Instant,
}

impl Rival {
    /// A connection whose receive buffer has `buffer` bytes.
    ///
    /// # Panics
    /// When the handshake does not come about.
    #[must_use]
    pub fn new(buffer: usize) -> Self {
        let mut device = OneFrame::default();
        let now = Instant::from_millis(1);
        let mut iface = Interface::new(Config::new(HardwareAddress::Ip), &mut device, now);
        iface.update_ip_addrs(|addrs| {
            let _ = addrs.push(IpCidr::new(IpAddress::v4(10, 0, 0, 2), 8));
        });
        let ring = |n| tcp::SocketBuffer::new(vec![0; n]);
        let mut socket = tcp::Socket::new(ring(buffer), ring(4096));
        socket.listen(5001).expect("listen");
        let mut sockets = SocketSet::new(Vec::new());
        let handle = sockets.add(socket);
        let mut r = Rival { iface, device, sockets, handle, peer: Forger::new(0), now };
        r.arrive(&r.peer.syn());
        r.peer.iss = Seq(r.device.last_seq);
        r.arrive(&r.peer.segment(0, Bytes::new()));
        assert_eq!(r.sockets.get::<tcp::Socket<'_>>(handle).state(), tcp::State::Established);
        r
    }
}

impl Receiver for Rival {
    fn arrive(&mut self, frame: &Bytes) -> usize {
        self.device.incoming = Some(frame.clone());
        let sent = self.device.sent;
        // What one segment asks of an interface, and no more: it is taken, and what it calls for leaves.
        while self.iface.poll_ingress_single(self.now, &mut self.device, &mut self.sockets)
            != PollIngressSingleResult::None
        {}
        self.iface.poll_egress(self.now, &mut self.device, &mut self.sockets);
        self.device.sent - sent
    }

    fn drain(&mut self) -> usize {
        let socket = self.sockets.get_mut::<tcp::Socket<'_>>(self.handle);
        let mut read = 0;
        while let Ok(n @ 1..) = socket.recv(|data| (data.len(), data.len())) {
            read += n;
        }
        self.iface.poll_egress(self.now, &mut self.device, &mut self.sockets);
        read
    }
}

/// A device with room for one arriving frame; what leaves is counted.
#[derive(Default)]
struct OneFrame {
    incoming: Option<Bytes>,
    sent: usize,
    last_seq: u32,
    buffer: Vec<u8>,
}

struct Arrived(Bytes);
struct Leaving<'a>(&'a mut OneFrame);

impl Device for OneFrame {
    type RxToken<'a> = Arrived;
    type TxToken<'a> = Leaving<'a>;

    fn receive(&mut self, _: Instant) -> Option<(Arrived, Leaving<'_>)> {
        let frame = self.incoming.take()?;
        Some((Arrived(frame), Leaving(self)))
    }

    fn transmit(&mut self, _: Instant) -> Option<Leaving<'_>> {
        Some(Leaving(self))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut c = DeviceCapabilities::default();
        c.medium = Medium::Ip;
        c.max_transmission_unit = 1500;
        // Arriving checksums are not looked at; departing ones are made, as ours are.
        c.checksum.ipv4 = Checksum::Tx;
        c.checksum.tcp = Checksum::Tx;
        c
    }
}

impl RxToken for Arrived {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

impl TxToken for Leaving<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        self.0.buffer.resize(len, 0);
        let r = f(&mut self.0.buffer);
        self.0.sent += 1;
        if let Ok(tcp) = TcpPacket::new_checked(&self.0.buffer[20..]) {
            self.0.last_seq = tcp.seq_number().0.cast_unsigned();
        }
        r
    }
}
