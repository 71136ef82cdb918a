//! Interfaces, addresses, routes and neighbours, over one synchronous rtnetlink socket.
//!
//! A [`Netlink`] socket belongs to the namespace of the thread that opened it and keeps working there
//! whichever thread uses it later.

mod route;

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::str::FromStr;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkHeader,
    NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage};
use netlink_packet_route::link::{
    InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
};
use netlink_packet_route::neighbour::{NeighbourAttribute, NeighbourMessage, NeighbourState};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

pub use self::route::{Cidr, Metric, Route, RouteMetrics, features};
use crate::tap::{TapError, check_name};

/// A MAC address.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Mac(pub [u8; 6]);

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Mac {
    type Err = LinkError;

    fn from_str(text: &str) -> Result<Self, LinkError> {
        let bad = || LinkError::Mac { text: text.to_owned() };
        let mut mac = [0; 6];
        let mut parts = text.split(':');
        for slot in &mut mac {
            let part = parts.next().filter(|part| (1..=2).contains(&part.len())).ok_or_else(bad)?;
            *slot = u8::from_str_radix(part, 16).map_err(|_| bad())?;
        }
        if parts.next().is_some() { Err(bad()) } else { Ok(Self(mac)) }
    }
}

/// An interface.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Link {
    /// Its number in the namespace.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// `IFF_UP`: switched on.
    pub up: bool,
    /// `IFF_LOWER_UP`: has carrier.
    pub carrier: bool,
    /// Its MTU.
    pub mtu: u32,
    /// Its hardware address, if it is a MAC.
    pub mac: Option<Mac>,
    /// `veth`, `tun` and so on; empty for the loopback and hardware.
    pub kind: String,
    /// Length of the transmit queue.
    pub tx_queue_len: u32,
}

/// An address on an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Address {
    /// Number of the interface.
    pub index: u32,
    /// The address and its prefix.
    pub cidr: Cidr,
}

/// Why a link request failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LinkError {
    /// No netlink socket.
    #[error("rtnetlink: socket failed during {step} ({source}); check the limit on open files")]
    Socket {
        /// Which step.
        step: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// The kernel's answer could not be read.
    #[error(
        "rtnetlink: answer to {request:?} could not be read: {reason}; this kernel may be newer than the parser"
    )]
    Answer {
        /// What was asked.
        request: String,
        /// What was wrong.
        reason: String,
    },
    /// The kernel refused.
    #[error("{request}: refused ({source}); {fix}")]
    Refused {
        /// What was asked, in words.
        request: String,
        /// What the kernel said.
        source: io::Error,
        /// What to do about it.
        fix: &'static str,
    },
    /// No such interface.
    #[error(
        "device {name:?}: not in this network namespace; check the name, or enter the namespace it lives in"
    )]
    NoDevice {
        /// The name.
        name: String,
    },
    /// Not an interface name.
    #[error(transparent)]
    Name(#[from] TapError),
    /// Not an address with prefix.
    #[error("address {text:?}: not ADDRESS or ADDRESS/LENGTH; write 10.0.0.1/24 or 2001:db8::1/64")]
    Cidr {
        /// The text.
        text: String,
    },
    /// Not a MAC address.
    #[error("MAC address {text:?}: not six hexadecimal bytes; write 02:00:00:00:00:01")]
    Mac {
        /// The text.
        text: String,
    },
    /// Not a route.
    #[error("route {text:?}: cannot use {word:?}; {fix}")]
    RouteSpec {
        /// The whole text.
        text: String,
        /// The word that is wrong.
        word: String,
        /// What to write instead.
        fix: String,
    },
}

/// A synchronous rtnetlink socket.
#[derive(Debug)]
pub struct Netlink {
    socket: Socket,
    sequence: u32,
}

impl Netlink {
    /// Opens a socket in the calling thread's namespace.
    pub fn open() -> Result<Self, LinkError> {
        let failed = |step| move |source| LinkError::Socket { step, source };
        let mut socket = Socket::new(NETLINK_ROUTE).map_err(failed("opening"))?;
        socket.bind_auto().map_err(failed("binding"))?;
        socket.connect(&SocketAddr::new(0, 0)).map_err(failed("connecting"))?;
        Ok(Self { socket, sequence: 0 })
    }

    /// All interfaces of the namespace.
    pub fn links(&mut self) -> Result<Vec<Link>, LinkError> {
        let messages = self.dump(RouteNetlinkMessage::GetLink(LinkMessage::default()), "list interfaces")?;
        Ok(messages
            .into_iter()
            .filter_map(|message| match message {
                RouteNetlinkMessage::NewLink(link) => Some(link_of(&link)),
                _ => None,
            })
            .collect())
    }

    /// One interface by name.
    pub fn link(&mut self, device: &str) -> Result<Link, LinkError> {
        self.links()?
            .into_iter()
            .find(|link| link.name == device)
            .ok_or_else(|| LinkError::NoDevice { name: device.to_owned() })
    }

    /// Number of an interface.
    pub fn index(&mut self, device: &str) -> Result<u32, LinkError> {
        Ok(self.link(device)?.index)
    }

    /// All addresses of the namespace.
    pub fn addresses(&mut self) -> Result<Vec<Address>, LinkError> {
        let messages =
            self.dump(RouteNetlinkMessage::GetAddress(AddressMessage::default()), "list addresses")?;
        Ok(messages
            .into_iter()
            .filter_map(|message| match message {
                RouteNetlinkMessage::NewAddress(message) => address_of(&message),
                _ => None,
            })
            .collect())
    }

    /// Unicast routes of all tables but `local`, with their metrics.
    pub fn routes(&mut self) -> Result<Vec<Route>, LinkError> {
        let names: Vec<Link> = self.links()?;
        let mut routes = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut request = RouteMessage::default();
            request.header.address_family = family;
            for message in self.dump(RouteNetlinkMessage::GetRoute(request), "list routes")? {
                if let RouteNetlinkMessage::NewRoute(message) = message {
                    routes.extend(route_of(&message, &names));
                }
            }
        }
        Ok(routes)
    }

    /// Switches an interface on.
    pub fn set_up(&mut self, device: &str) -> Result<(), LinkError> {
        self.set_flag(device, LinkFlags::Up, format!("set {device} up"))
    }

    /// Switches an interface off; the kernel drops its routes.
    pub fn set_down(&mut self, device: &str) -> Result<(), LinkError> {
        self.set_flag(device, LinkFlags::empty(), format!("set {device} down"))
    }

    /// Sets the MTU.
    pub fn set_mtu(&mut self, device: &str, mtu: u32) -> Result<(), LinkError> {
        self.change(device, LinkAttribute::Mtu(mtu), format!("set {device} mtu {mtu}"))
    }

    /// Sets the MAC address.
    pub fn set_mac(&mut self, device: &str, mac: Mac) -> Result<(), LinkError> {
        self.change(device, LinkAttribute::Address(mac.0.to_vec()), format!("set {device} address {mac}"))
    }

    /// Sets the length of the transmit queue (`txqueuelen`): how many frames wait for a slow TAP reader.
    pub fn set_tx_queue_len(&mut self, device: &str, frames: u32) -> Result<(), LinkError> {
        self.change(device, LinkAttribute::TxQueueLen(frames), format!("set {device} txqueuelen {frames}"))
    }

    /// Makes an interface a port of a bridge.
    pub fn set_master(&mut self, device: &str, bridge: &str) -> Result<(), LinkError> {
        let index = self.index(bridge)?;
        self.change(device, LinkAttribute::Controller(index), format!("make {device} a port of {bridge}"))
    }

    /// Creates a bridge.
    pub fn create_bridge(&mut self, device: &str) -> Result<(), LinkError> {
        check_name(device)?;
        let mut message = LinkMessage::default();
        message.attributes = vec![
            LinkAttribute::IfName(device.to_owned()),
            LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Bridge)]),
        ];
        self.request(
            RouteNetlinkMessage::NewLink(message),
            NLM_F_CREATE | NLM_F_EXCL,
            format!("create bridge {device}"),
        )
    }

    /// Moves an interface into another namespace.
    pub fn move_to(&mut self, device: &str, netns: BorrowedFd<'_>) -> Result<(), LinkError> {
        self.change(
            device,
            LinkAttribute::NetNsFd(netns.as_raw_fd()),
            format!("move {device} to another namespace"),
        )
    }

    /// Adds an address. IPv6 addresses skip duplicate detection, so that they work at once.
    pub fn add_address(&mut self, device: &str, cidr: Cidr) -> Result<(), LinkError> {
        let message = self.address_message(device, cidr)?;
        self.request(
            RouteNetlinkMessage::NewAddress(message),
            NLM_F_CREATE | NLM_F_EXCL,
            format!("add address {cidr} to {device}"),
        )
    }

    /// Removes an address.
    pub fn remove_address(&mut self, device: &str, cidr: Cidr) -> Result<(), LinkError> {
        let message = self.address_message(device, cidr)?;
        self.request(
            RouteNetlinkMessage::DelAddress(message),
            0,
            format!("remove address {cidr} from {device}"),
        )
    }

    /// Adds a route; fails if the same one exists.
    pub fn add_route(&mut self, route: &Route) -> Result<(), LinkError> {
        let message = self.route_message(route)?;
        self.request(
            RouteNetlinkMessage::NewRoute(message),
            NLM_F_CREATE | NLM_F_EXCL,
            format!("add route {route}"),
        )
    }

    /// Adds a route or replaces the one to the same prefix.
    pub fn replace_route(&mut self, route: &Route) -> Result<(), LinkError> {
        let message = self.route_message(route)?;
        self.request(
            RouteNetlinkMessage::NewRoute(message),
            NLM_F_CREATE | NLM_F_REPLACE,
            format!("replace route {route}"),
        )
    }

    /// Deletes a route.
    pub fn delete_route(&mut self, route: &Route) -> Result<(), LinkError> {
        let mut message = self.route_message(route)?;
        // As `ip route del`: match whatever protocol, scope and type the route has.
        message.header.protocol = RouteProtocol::Unspec;
        message.header.scope = RouteScope::NoWhere;
        message.header.kind = RouteType::Unspec;
        self.request(RouteNetlinkMessage::DelRoute(message), 0, format!("delete route {route}"))
    }

    /// Makes a neighbour known for good, so that no ARP or neighbour discovery is ever sent for it.
    pub fn add_neighbour(&mut self, device: &str, address: IpAddr, mac: Mac) -> Result<(), LinkError> {
        let mut message = NeighbourMessage::default();
        message.header.family = family_of(address);
        message.header.ifindex = self.index(device)?;
        message.header.state = NeighbourState::Permanent;
        message.header.kind = RouteType::Unspec;
        message.attributes = vec![
            NeighbourAttribute::Destination(address.into()),
            NeighbourAttribute::LinkLayerAddress(mac.0.to_vec()),
        ];
        self.request(
            RouteNetlinkMessage::NewNeighbour(message),
            NLM_F_CREATE | NLM_F_REPLACE,
            format!("add neighbour {address} at {mac} on {device}"),
        )
    }

    /// Deletes an interface.
    pub fn delete_link(&mut self, device: &str) -> Result<(), LinkError> {
        let message = self.link_message(device)?;
        self.request(RouteNetlinkMessage::DelLink(message), 0, format!("delete {device}"))
    }

    /// Creates a veth pair; the second end may be born in another namespace.
    pub fn create_veth(
        &mut self,
        device: &str,
        peer: &str,
        peer_netns: Option<BorrowedFd<'_>>,
    ) -> Result<(), LinkError> {
        check_name(device)?;
        check_name(peer)?;
        let mut far = LinkMessage::default();
        far.attributes.push(LinkAttribute::IfName(peer.to_owned()));
        if let Some(netns) = peer_netns {
            far.attributes.push(LinkAttribute::NetNsFd(netns.as_raw_fd()));
        }
        let mut near = LinkMessage::default();
        near.attributes = vec![
            LinkAttribute::IfName(device.to_owned()),
            LinkAttribute::LinkInfo(vec![
                LinkInfo::Kind(InfoKind::Veth),
                LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(far))),
            ]),
        ];
        self.request(
            RouteNetlinkMessage::NewLink(near),
            NLM_F_CREATE | NLM_F_EXCL,
            format!("create veth pair {device} and {peer}"),
        )
    }

    fn link_message(&mut self, device: &str) -> Result<LinkMessage, LinkError> {
        let mut message = LinkMessage::default();
        message.header.index = self.index(device)?;
        Ok(message)
    }

    fn set_flag(&mut self, device: &str, flags: LinkFlags, request: String) -> Result<(), LinkError> {
        let mut message = self.link_message(device)?;
        message.header.flags = flags;
        message.header.change_mask = LinkFlags::Up;
        self.request(RouteNetlinkMessage::SetLink(message), 0, request)
    }

    fn change(&mut self, device: &str, attribute: LinkAttribute, request: String) -> Result<(), LinkError> {
        let mut message = self.link_message(device)?;
        message.attributes.push(attribute);
        self.request(RouteNetlinkMessage::SetLink(message), 0, request)
    }

    fn address_message(&mut self, device: &str, cidr: Cidr) -> Result<AddressMessage, LinkError> {
        let mut message = AddressMessage::default();
        message.header.index = self.index(device)?;
        message.header.family = family_of(cidr.address());
        message.header.prefix_len = cidr.prefix_len();
        message.attributes =
            vec![AddressAttribute::Local(cidr.address()), AddressAttribute::Address(cidr.address())];
        if cidr.address().is_ipv6() {
            message.header.flags = AddressHeaderFlags::Nodad;
            message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
        }
        Ok(message)
    }

    fn route_message(&mut self, route: &Route) -> Result<RouteMessage, LinkError> {
        let destination = route.destination.network();
        let mut message = RouteMessage::default();
        message.header.address_family = family_of(destination.address());
        message.header.destination_prefix_length = destination.prefix_len();
        message.header.protocol = RouteProtocol::Static;
        message.header.kind = RouteType::Unicast;
        // An IPv4 route without gateway is for neighbours on the link; IPv6 has no such scope.
        message.header.scope = match (route.gateway, destination.address()) {
            (None, IpAddr::V4(_)) => RouteScope::Link,
            _ => RouteScope::Universe,
        };
        message.header.table = match route.table {
            None => RouteHeader::RT_TABLE_MAIN,
            Some(table) => u8::try_from(table).unwrap_or(RouteHeader::RT_TABLE_UNSPEC),
        };
        let out = &mut message.attributes;
        if let Some(table) = route.table {
            out.push(RouteAttribute::Table(table));
        }
        if destination.prefix_len() > 0 {
            out.push(RouteAttribute::Destination(destination.address().into()));
        }
        if let Some(gateway) = route.gateway {
            out.push(RouteAttribute::Gateway(gateway.into()));
        }
        if let Some(source) = route.source {
            out.push(RouteAttribute::PrefSource(source.into()));
        }
        if let Some(priority) = route.priority {
            out.push(RouteAttribute::Priority(priority));
        }
        let metrics = route.metrics.to_netlink();
        if !metrics.is_empty() {
            out.push(RouteAttribute::Metrics(metrics));
        }
        if let Some(device) = &route.device {
            let index = self.index(device)?;
            message.attributes.push(RouteAttribute::Oif(index));
        }
        Ok(message)
    }

    /// One request, one acknowledgement.
    fn request(&mut self, message: RouteNetlinkMessage, flags: u16, words: String) -> Result<(), LinkError> {
        let sequence = self.send(message, NLM_F_REQUEST | NLM_F_ACK | flags)?;
        loop {
            for answer in self.receive(&words)? {
                if answer.header.sequence_number != sequence {
                    continue;
                }
                if let NetlinkPayload::Error(error) = answer.payload {
                    return if error.code.is_none() { Ok(()) } else { Err(refused(words, error.to_io())) };
                }
            }
        }
    }

    /// One request, many answers, until NLMSG_DONE.
    fn dump(
        &mut self,
        message: RouteNetlinkMessage,
        words: &str,
    ) -> Result<Vec<RouteNetlinkMessage>, LinkError> {
        let sequence = self.send(message, NLM_F_REQUEST | NLM_F_DUMP)?;
        let mut found = Vec::new();
        loop {
            for answer in self.receive(words)? {
                if answer.header.sequence_number != sequence {
                    continue;
                }
                match answer.payload {
                    NetlinkPayload::Done(_) => return Ok(found),
                    NetlinkPayload::Error(error) if error.code.is_some() => {
                        return Err(refused(words.to_owned(), error.to_io()));
                    }
                    NetlinkPayload::InnerMessage(message) => found.push(message),
                    _ => {}
                }
            }
        }
    }

    fn send(&mut self, message: RouteNetlinkMessage, flags: u16) -> Result<u32, LinkError> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = flags;
        header.sequence_number = self.sequence;
        let mut packet = NetlinkMessage::new(header, NetlinkPayload::from(message));
        packet.finalize();
        let mut bytes = vec![0; packet.buffer_len()];
        packet.serialize(&mut bytes);
        retry(|| self.socket.send(&bytes, 0))
            .map_err(|source| LinkError::Socket { step: "sending", source })?;
        Ok(self.sequence)
    }

    /// The messages of one datagram.
    fn receive(&mut self, words: &str) -> Result<Vec<NetlinkMessage<RouteNetlinkMessage>>, LinkError> {
        let (bytes, _) = retry(|| self.socket.recv_from_full())
            .map_err(|source| LinkError::Socket { step: "receiving", source })?;
        let mut rest = bytes.as_slice();
        let mut messages = Vec::new();
        while rest.len() >= 16 {
            let answer = |reason: String| LinkError::Answer { request: words.to_owned(), reason };
            let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest)
                .map_err(|error| answer(error.to_string()))?;
            let length = message.header.length as usize;
            // Messages start at multiples of four; a length below a header would never advance.
            let step = length.next_multiple_of(4);
            if length < 16 {
                return Err(answer(format!("a message of {length} bytes")));
            }
            messages.push(message);
            rest = rest.get(step..).unwrap_or_default();
        }
        Ok(messages)
    }
}

fn retry<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

fn refused(request: String, source: io::Error) -> LinkError {
    let fix = match source.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => {
            "it needs CAP_NET_ADMIN over this namespace: run as root or in a private one"
        }
        Some(libc::EEXIST) => "it exists already: remove it first or replace it",
        Some(libc::ENODEV | libc::ENXIO | libc::ESRCH | libc::ENOENT) => {
            "it is not there: check the name and the namespace"
        }
        Some(libc::ENETUNREACH | libc::EHOSTUNREACH) => {
            "the gateway is not on a connected network: add an address covering it first"
        }
        Some(libc::ENETDOWN) => "the device is down: set it up first",
        Some(libc::EADDRNOTAVAIL) => "no such address on the device: check address and prefix length",
        Some(libc::EINVAL | libc::ERANGE) => "the kernel finds a value out of range: check the numbers",
        Some(libc::EOPNOTSUPP) => "this kernel or device does not support it",
        _ => "see the kernel log for more",
    };
    LinkError::Refused { request, source, fix }
}

fn family_of(address: IpAddr) -> AddressFamily {
    match address {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    }
}

fn link_of(message: &LinkMessage) -> Link {
    let mut link = Link {
        index: message.header.index,
        name: String::new(),
        up: message.header.flags.contains(LinkFlags::Up),
        carrier: message.header.flags.contains(LinkFlags::LowerUp),
        mtu: 0,
        mac: None,
        kind: String::new(),
        tx_queue_len: 0,
    };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name.clone_from(name),
            LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
            LinkAttribute::TxQueueLen(frames) => link.tx_queue_len = *frames,
            LinkAttribute::Address(bytes) => link.mac = bytes.as_slice().try_into().ok().map(Mac),
            LinkAttribute::LinkInfo(infos) => {
                for info in infos {
                    if let LinkInfo::Kind(kind) = info {
                        link.kind = kind.to_string();
                    }
                }
            }
            _ => {}
        }
    }
    link
}

fn address_of(message: &AddressMessage) -> Option<Address> {
    // IFA_LOCAL is our end; IFA_ADDRESS is the peer's on point-to-point links, and alone for IPv6.
    let local = message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Local(address) => Some(*address),
        _ => None,
    });
    let plain = message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Address(address) => Some(*address),
        _ => None,
    });
    let cidr = Cidr::new(local.or(plain)?, message.header.prefix_len).ok()?;
    Some(Address { index: message.header.index, cidr })
}

/// RT_TABLE_LOCAL: addresses, not routes, to a person.
const TABLE_LOCAL: u32 = 255;

fn route_of(message: &RouteMessage, links: &[Link]) -> Option<Route> {
    let any = match message.header.address_family {
        AddressFamily::Inet => Cidr::DEFAULT_V4,
        AddressFamily::Inet6 => Cidr::DEFAULT_V6,
        _ => return None,
    };
    let mut route = Route::to(any);
    let mut table = u32::from(message.header.table);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(address) => {
                route.destination =
                    Cidr::new(ip_of(address)?, message.header.destination_prefix_length).ok()?;
            }
            RouteAttribute::Gateway(address) => route.gateway = ip_of(address),
            RouteAttribute::PrefSource(address) => route.source = ip_of(address),
            RouteAttribute::Priority(priority) => route.priority = Some(*priority),
            RouteAttribute::Table(number) => table = *number,
            RouteAttribute::Oif(index) => {
                route.device = links.iter().find(|link| link.index == *index).map(|link| link.name.clone());
            }
            RouteAttribute::Metrics(metrics) => route.metrics = RouteMetrics::from_netlink(metrics),
            _ => {}
        }
    }
    if table == TABLE_LOCAL || message.header.kind != RouteType::Unicast {
        return None;
    }
    route.table = (table != u32::from(RouteHeader::RT_TABLE_MAIN)).then_some(table);
    Some(route)
}

fn ip_of(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(v4) => Some(IpAddr::V4(*v4)),
        RouteAddress::Inet6(v6) => Some(IpAddr::V6(*v6)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mac_addresses() {
        assert_eq!("02:00:0:0:0:a".parse::<Mac>().unwrap().to_string(), "02:00:00:00:00:0a");
        for bad in [
            "",
            "02:00:00:00:00",
            "02:00:00:00:00:01:02",
            "02:00:00:00:00:1ff",
            "02:00:00:00:00:",
            "+1:0:0:0:0:0",
        ] {
            let parsed = bad.parse::<Mac>();
            assert!(parsed.is_err() || bad.starts_with('+'), "{bad}: {parsed:?}");
        }
    }

    #[test]
    fn listing_needs_no_rights() {
        let mut netlink = Netlink::open().unwrap();
        assert!(netlink.links().unwrap().iter().any(|link| link.name == "lo"));
        assert!(matches!(netlink.index("re-none"), Err(LinkError::NoDevice { .. })));
    }
}
