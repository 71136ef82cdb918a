//! The wire to a device that is not ours: an address of ours on an interface or a bridge.

use std::collections::VecDeque;
use std::io;
use std::net::Ipv4Addr;
use std::time::Duration as StdDuration;

use anyhow::{Context as _, Result, bail};
use bytes::Bytes;
use rightedge_stack::time::Instant;
use rightedge_stack::wire::{MacAddr, RxMeta};
use rightedge_tapctl::link::{Mac, Netlink};
use rightedge_tapctl::port::Port;
use rightedge_tapctl::tap::{IoMode, MAX_FRAME_LEN, Tap};
use rightedge_tapctl::vnet::GsoType;
use smoltcp::wire::{ArpOperation, ArpPacket, ArpRepr, EthernetAddress, EthernetFrame, EthernetProtocol};

use super::split::split;
use crate::run::wire::{SenderReport, Wire, nap, since};

/// Where the device is to be found.
#[derive(Clone, Debug)]
pub(super) enum Place {
    /// On this interface, which its owner goes on using.
    Interface(String),
    /// On this bridge, which gets a port for us.
    Bridge(String),
}

#[derive(Debug)]
enum Attached {
    Port(Port),
    Tap(Tap),
}

/// The wire.
#[derive(Debug)]
pub(super) struct Outside {
    device: Attached,
    started: std::time::Instant,
    buffer: Vec<u8>,
    /// Read, and not yet handed on.
    waiting: VecDeque<Bytes>,
    what: String,
}

/// Bytes that may queue before we read.
const QUEUE: i32 = 8 << 20;

impl Outside {
    /// Attaches to `place` with a hardware address.
    pub(super) fn open(place: &Place, mac: MacAddr) -> Result<Self> {
        let device = match place {
            Place::Interface(name) => {
                let link = Netlink::open().context("cannot talk to rtnetlink")?.link(name)?;
                if link.mac.is_none() {
                    bail!("{name} carries no Ethernet frames; name an Ethernet interface or a bridge");
                }
                if !link.up {
                    bail!("{name} is down; `ip link set {name} up` changes that");
                }
                let port = Port::open(name, Mac(mac.0))?;
                // A smaller queue is no reason to give up.
                let _ = port.set_rcvbuf(QUEUE);
                Attached::Port(port)
            }
            Place::Bridge(name) => {
                let mut links = Netlink::open().context("cannot talk to rtnetlink")?;
                let link = links.link(name)?;
                if link.kind != "bridge" {
                    bail!("{name} is no bridge; give an interface with --interface");
                }
                // The device goes with the descriptor, whatever ends the process.
                let tap =
                    Tap::plain("rightedge%d", IoMode::NonBlocking).context("cannot make a TAP device")?;
                links.set_master(tap.name(), name)?;
                links.set_tx_queue_len(tap.name(), 20_000)?;
                links.set_up(tap.name())?;
                Attached::Tap(tap)
            }
        };
        Ok(Outside {
            device,
            started: std::time::Instant::now(),
            buffer: vec![0; MAX_FRAME_LEN],
            waiting: VecDeque::new(),
            what: String::new(),
        })
    }

    /// A connection begins, of a device that is called `what` in reports; the clock starts anew.
    pub(super) fn begin(&mut self, what: String) {
        self.what = what;
        self.started = std::time::Instant::now();
    }

    /// Hands a frame back: it comes again, before all others.
    pub(super) fn give_back(&mut self, frame: Bytes) {
        self.waiting.push_front(frame);
    }

    /// Who already has an address, asked as RFC 5227 §2.1.1 asks.
    pub(super) fn owner(&mut self, ip: Ipv4Addr, mac: MacAddr) -> Result<Option<EthernetAddress>> {
        const TIMES: u32 = 3;
        const PAUSE: StdDuration = StdDuration::from_millis(200);
        let ask = probe(ip, mac);
        for _ in 0..TIMES {
            let now = self.now();
            self.send(now, &ask)?;
            let until = std::time::Instant::now() + PAUSE;
            while let Some(left) = until.checked_duration_since(std::time::Instant::now()) {
                let now = self.now();
                while let Some((frame, _)) = self.recv(now)? {
                    if let Some(owner) = claims(&frame, ip) {
                        return Ok(Some(owner));
                    }
                }
                self.wait(None, left)?;
            }
        }
        Ok(None)
    }

    /// The next frame of the device, into the buffer.
    fn read(&mut self) -> Result<bool> {
        match &self.device {
            Attached::Tap(tap) => match tap.recv(&mut self.buffer) {
                Ok(n) => {
                    self.waiting.extend(self.buffer.get(..n).map(Bytes::copy_from_slice));
                    Ok(true)
                }
                Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
                    Ok(false)
                }
                Err(e) => Err(e).context("cannot read from the TAP device"),
            },
            Attached::Port(port) => {
                let Some((header, frame)) = port
                    .recv(&mut self.buffer)
                    .with_context(|| format!("cannot read from {}", port.device()))?
                else {
                    return Ok(false);
                };
                let merged = header.gso() != GsoType::None;
                match split(frame, usize::from(header.gso_size.get())).filter(|_| merged) {
                    Some(pieces) => self.waiting.extend(pieces),
                    None => {
                        let mut frame = frame.to_vec();
                        // What the header says of a place outside the frame is passed over: the checksum is wrong then.
                        let _ = header.complete_checksum(&mut frame);
                        self.waiting.push_back(frame.into());
                    }
                }
                Ok(true)
            }
        }
    }
}

impl Wire for Outside {
    fn now(&mut self) -> Instant {
        since(self.started)
    }

    fn recv(&mut self, _now: Instant) -> Result<Option<(Bytes, RxMeta)>> {
        if self.waiting.is_empty() {
            self.read()?;
        }
        Ok(self.waiting.pop_front().map(|f| (f, RxMeta::default())))
    }

    fn send(&mut self, _now: Instant, frame: &Bytes) -> Result<bool> {
        match &self.device {
            Attached::Port(port) => {
                port.send(frame).with_context(|| format!("cannot write to {}", port.device()))
            }
            Attached::Tap(tap) => match tap.send(frame) {
                Ok(_) => Ok(true),
                Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
                    Ok(false)
                }
                Err(e) => Err(e).context("cannot write to the TAP device"),
            },
        }
    }

    fn wait(&mut self, until: Option<Instant>, at_most: StdDuration) -> Result<()> {
        if !self.waiting.is_empty() {
            return Ok(());
        }
        let nap = Some(nap(since(self.started), until, at_most));
        let waited = match &self.device {
            Attached::Port(port) => port.wait_readable(nap),
            Attached::Tap(tap) => tap.wait_readable(nap),
        };
        match waited {
            Ok(_) => Ok(()),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => Ok(()),
            Err(e) => Err(e).context("cannot wait for the device"),
        }
    }

    /// Nobody tells.
    fn sender_done(&self) -> bool {
        false
    }

    fn sender(&mut self) -> SenderReport {
        SenderReport { what: self.what.clone(), ..SenderReport::default() }
    }

    fn stop(&mut self, _now: Instant) {}
}

/// Asks who has an address without claiming it.
fn probe(ip: Ipv4Addr, mac: MacAddr) -> Bytes {
    let repr = ArpRepr::EthernetIpv4 {
        operation: ArpOperation::Request,
        source_hardware_addr: EthernetAddress(mac.0),
        source_protocol_addr: Ipv4Addr::UNSPECIFIED,
        target_hardware_addr: EthernetAddress([0; 6]),
        target_protocol_addr: ip,
    };
    let at = EthernetFrame::<&[u8]>::header_len();
    let mut frame = vec![0; at + repr.buffer_len()];
    let mut ethernet = EthernetFrame::new_unchecked(&mut frame);
    ethernet.set_src_addr(EthernetAddress(mac.0));
    ethernet.set_dst_addr(EthernetAddress::BROADCAST);
    ethernet.set_ethertype(EthernetProtocol::Arp);
    repr.emit(&mut ArpPacket::new_unchecked(ethernet.payload_mut()));
    frame.into()
}

/// Whoever says by ARP that an address is theirs.
fn claims(frame: &[u8], ip: Ipv4Addr) -> Option<EthernetAddress> {
    let ethernet = EthernetFrame::new_checked(frame).ok()?;
    if ethernet.ethertype() != EthernetProtocol::Arp {
        return None;
    }
    let packet = ArpPacket::new_checked(ethernet.payload()).ok()?;
    match ArpRepr::parse(&packet).ok()? {
        ArpRepr::EthernetIpv4 { source_hardware_addr, source_protocol_addr, .. }
            if source_protocol_addr == ip =>
        {
            Some(source_hardware_addr)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn asking_claims_nothing_and_an_answer_is_heard() {
        let ip = Ipv4Addr::new(192, 0, 2, 9);
        let mac = MacAddr([2, 0x52, 192, 0, 2, 9]);
        assert_eq!(claims(&probe(ip, mac), ip), None);
        let mut answer = probe(ip, mac).to_vec();
        // Operation 2, and the sender's address is the one in question.
        answer[21] = 2;
        answer[28..32].copy_from_slice(&ip.octets());
        assert_eq!(claims(&answer, ip), Some(EthernetAddress(mac.0)));
        for n in 0..answer.len() {
            assert_eq!(claims(&answer[..n], ip), None);
        }
    }
}
