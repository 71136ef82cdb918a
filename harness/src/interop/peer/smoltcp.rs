//! smoltcp as a sender, in this program: virtual time or real.

use std::collections::VecDeque;

use bytes::Bytes;
use rightedge_stack::time::{Duration, Instant};
use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::tcp::{self, State};
use smoltcp::time::Instant as Time;
use smoltcp::wire::{EthernetAddress, IpCidr};

use super::Job;
use super::spec::Options;
use crate::run::wire::{PORT, SENDER_IP, SENDER_MAC, STACK_IP, SenderReport, embedded::SansIo};
use crate::sender::pattern;

/// The version that is built in; a test holds it against the lock file.
pub(super) const VERSION: &str = "0.14.0";
/// Its send buffer: what is in flight at most.
const BUFFER: usize = 1 << 20;

/// A smoltcp sender.
pub(super) struct Smoltcp {
    iface: Interface,
    device: Queue,
    sockets: SocketSet<'static>,
    handle: SocketHandle,
    bytes: u64,
    written: u64,
    connected: bool,
    closed: bool,
    error: Option<&'static str>,
}

impl Smoltcp {
    pub(super) fn new(options: &Options, job: Job) -> Self {
        let mut device = Queue::default();
        let mac = EthernetAddress(SENDER_MAC.0);
        let mut iface = Interface::new(Config::new(mac.into()), &mut device, Time::ZERO);
        iface.update_ip_addrs(|addrs| {
            // One address, and there is room for it.
            let _ = addrs.push(IpCidr::new(SENDER_IP.into(), 24));
        });
        let buffer = || tcp::SocketBuffer::new(vec![0; BUFFER]);
        let mut socket = tcp::Socket::new(buffer(), buffer());
        socket.set_nagle_enabled(!options.has("nodelay"));
        let mut sockets = SocketSet::new(Vec::new());
        let connecting = socket.connect(iface.context(), (STACK_IP, PORT), 40_000).is_err();
        let handle = sockets.add(socket);
        Smoltcp {
            iface,
            device,
            sockets,
            handle,
            bytes: job.bytes,
            written: 0,
            connected: false,
            closed: false,
            error: connecting.then_some("EADDRNOTAVAIL"),
        }
    }

    fn poll(&mut self, now: Instant) {
        // The interface looks at what came, the application writes, and the interface sends it.
        for _ in 0..2 {
            self.iface.poll(time(now), &mut self.device, &mut self.sockets);
            self.write();
        }
        self.iface.poll(time(now), &mut self.device, &mut self.sockets);
    }

    fn write(&mut self) {
        let socket = self.sockets.get_mut::<tcp::Socket<'_>>(self.handle);
        self.connected |= socket.may_send();
        while socket.can_send() && self.written < self.bytes {
            let most = usize::try_from(self.bytes - self.written).unwrap_or(usize::MAX);
            match socket.send_slice(pattern(self.written, most)) {
                Ok(n) if n > 0 => self.written += n as u64,
                _ => break,
            }
        }
        if self.connected && self.written == self.bytes && !self.closed {
            self.closed = true;
            socket.close();
        }
        if self.connected && socket.state() == State::Closed && !self.closed {
            self.error = Some("ECONNRESET");
        }
        // The receiver closes behind us: what it may say is thrown away.
        while socket.can_recv() && socket.recv(|data| (data.len(), ())).is_ok() {}
    }
}

impl SansIo for Smoltcp {
    fn on_frame(&mut self, now: Instant, frame: &Bytes) {
        self.device.incoming.push_back(frame.clone());
        self.poll(now);
    }

    fn poll_transmit(&mut self, now: Instant) -> Option<(Bytes, u16)> {
        if self.device.outgoing.is_empty() {
            self.poll(now);
        }
        self.device.outgoing.pop_front().map(|f| (f, 0))
    }

    fn poll_timeout(&mut self, now: Instant) -> Option<Instant> {
        let at = self.iface.poll_at(time(now), &self.sockets)?;
        let at = Instant::from_nanos(u64::try_from(at.total_micros()).unwrap_or(0).saturating_mul(1_000));
        // Its clock has microseconds: what is due within one is due.
        Some(at.max(now + Duration::from_micros(1)))
    }

    fn handle_timeout(&mut self, now: Instant) {
        self.poll(now);
    }

    fn is_over(&self) -> bool {
        let state = self.sockets.get::<tcp::Socket<'_>>(self.handle).state();
        self.error.is_some() || self.connected && matches!(state, State::Closed | State::TimeWait)
    }

    fn report(&self) -> SenderReport {
        SenderReport {
            what: format!("smoltcp {VERSION}"),
            written: self.written,
            error: self.error.map(str::to_owned),
            ..SenderReport::default()
        }
    }

    fn stop(&mut self, now: Instant) {
        self.sockets.get_mut::<tcp::Socket<'_>>(self.handle).abort();
        self.poll(now);
    }
}

fn time(now: Instant) -> Time {
    Time::from_micros(i64::try_from(now.as_micros()).unwrap_or(i64::MAX))
}

/// A device of two queues.
#[derive(Default)]
struct Queue {
    incoming: VecDeque<Bytes>,
    outgoing: VecDeque<Bytes>,
}

/// Frames that wait to be sent; a stack that never stops does not get more.
const MOST_WAITING: usize = 4_096;

impl Device for Queue {
    type RxToken<'a> = Arrived;
    type TxToken<'a> = Leaving<'a>;

    fn receive(&mut self, _: Time) -> Option<(Arrived, Leaving<'_>)> {
        let frame = self.incoming.pop_front()?;
        Some((Arrived(frame), Leaving(&mut self.outgoing)))
    }

    fn transmit(&mut self, _: Time) -> Option<Leaving<'_>> {
        (self.outgoing.len() < MOST_WAITING).then_some(Leaving(&mut self.outgoing))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut c = DeviceCapabilities::default();
        c.medium = Medium::Ethernet;
        c.max_transmission_unit = 1514;
        c
    }
}

struct Arrived(Bytes);

impl RxToken for Arrived {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

struct Leaving<'a>(&'a mut VecDeque<Bytes>);

impl TxToken for Leaving<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let mut frame = vec![0; len];
        let result = f(&mut frame);
        self.0.push_back(frame.into());
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_the_one_in_the_lock_file() {
        let lock = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.lock")).unwrap();
        assert!(lock.contains(&format!("name = \"smoltcp\"\nversion = \"{VERSION}\"")));
    }
}
