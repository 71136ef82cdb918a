//! One network interface: which packets are for us, what a host answers by itself, and where departing packets go.
//!
//! Answers to Linux 6.18 `arp_process`, `ndisc_recv_ns`, `ndisc_recv_na`, `icmp_echo`, `icmpv6_echo_reply`, and, as far
//! as one link with at most one gateway for each IP version needs it, `ip_route_output_key_hash` and `neigh_output`;
//! RFC 826, RFC 1122 §3.2.1.3, RFC 4861 §7, RFC 9293 §3.10.7.1 (through [`crate::wire::reset_for`]).
//!
//! Everything is bounded: neighbours (1024), addresses asked for at one time (64), packets waiting for each (8), frames
//! waiting to be taken ([`Iface::poll_transmit`], 4096), ICMP answers a second (1000).
//!
//! Left out: duplicate address detection and link-local addresses of our own, router discovery, MLD and IGMP reports,
//! redirects, path MTU, sending to ourselves.
//!
//! ```text
//!   frame ─▶ wire::parse ─▶ Iface::on_packet ─▶ Verdict::Deliver(TcpSegment) ─▶ the stack
//!                                │ answers
//!   frame ◀─ Iface::poll_transmit ◀─ neighbours ◀─ Iface::transmit ◀─ SegmentOut::build
//! ```
#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing,
        clippy::unreachable
    )
)]

mod neigh;
mod prefix;
mod rate;
#[cfg(test)]
mod tests;

use core::net::{IpAddr, Ipv6Addr};
use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};

pub use self::prefix::{Prefix, PrefixError};
use self::{
    neigh::{Due, Lookup, Neighbours},
    rate::Rate,
};
use crate::{
    decision::DropReason,
    time::Instant,
    wire::{
        ArpPacket, EchoRequest, EgressError, IpPacket, Link, MacAddr, Medium, NeighbourAdvert,
        NeighbourSolicit, Packet, SegmentOut, TcpSegment, Unserved, Words, icmp, reset_for,
    },
};

/// Whom to believe about hardware addresses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "kebab-case"))]
pub enum Learning {
    /// ARP and ND only, as hosts do.
    #[default]
    Protocol,
    /// Also the Ethernet header of TCP segments: replies go where the segment came from, without asking first.
    Reflexive,
}

/// What an interface is like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IfaceConfig {
    /// What it carries.
    pub medium: Medium,
    /// Our hardware address; of no meaning on [`Medium::Ip`].
    pub mac: MacAddr,
    /// Our addresses and their networks.
    pub addrs: Vec<Prefix>,
    /// Where packets for other networks go; the first of each IP version counts. On [`Medium::Ip`] everything can be
    /// reached without.
    pub gateways: Vec<IpAddr>,
    /// Whom to believe about hardware addresses.
    pub learning: Learning,
}

impl IfaceConfig {
    /// An Ethernet interface without a gateway.
    #[must_use]
    pub fn ethernet(mac: MacAddr, addrs: impl IntoIterator<Item = Prefix>) -> Self {
        IfaceConfig {
            medium: Medium::Ethernet,
            mac,
            addrs: addrs.into_iter().collect(),
            gateways: Vec::new(),
            learning: Learning::default(),
        }
    }

    /// An interface that carries bare IP packets.
    #[must_use]
    pub fn ip(addrs: impl IntoIterator<Item = Prefix>) -> Self {
        IfaceConfig { medium: Medium::Ip, ..Self::ethernet(MacAddr::default(), addrs) }
    }

    /// With another gateway.
    #[must_use]
    pub fn gateway(mut self, gateway: IpAddr) -> Self {
        self.gateways.push(gateway);
        self
    }

    /// With another opinion on whom to believe.
    #[must_use]
    pub fn learning(mut self, learning: Learning) -> Self {
        self.learning = learning;
        self
    }
}

/// What became of an arriving packet.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::large_enum_variant, reason = "delivery is the usual case; a box would cost each segment")]
pub enum Verdict {
    /// TCP for us.
    Deliver(TcpSegment),
    /// The interface dealt with it; there may be an answer in [`Iface::poll_transmit`].
    Consumed,
    /// Dropped.
    Dropped(DropReason),
}

/// What became of a departing packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// A frame is ready to be taken.
    Ready,
    /// It waits until its neighbour has been found.
    Waiting,
    /// Dropped: no network of ours, no gateway, or no single host.
    NoRoute,
    /// Dropped: too many frames have not been taken.
    QueueFull,
}

/// Where packets for an address go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resolution {
    /// To this station; nowhere in particular on [`Medium::Ip`].
    Ready(Option<MacAddr>),
    /// Somebody has been asked.
    Pending,
    /// Nowhere.
    NoRoute,
}

/// A frame that leaves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outgoing {
    /// The frame, without a virtio-net header; all checksums are complete.
    pub frame: Bytes,
    /// The tag of the packet in it ([`IpPacket::with_tag`]); 0 for what the interface says by itself.
    pub tag: u64,
}

/// What an interface has seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct IfaceCounters {
    /// TCP segments delivered.
    pub delivered: u64,
    /// Packets for somebody else.
    pub not_for_us: u64,
    /// Well-formed packets nobody answers.
    pub ignored: u64,
    /// Questions about neighbours sent, ARP and ND, repetitions included.
    pub neighbour_requests: u64,
    /// Questions about us answered.
    pub neighbour_replies: u64,
    /// Neighbours given up on.
    pub neighbours_failed: u64,
    /// Echo replies sent.
    pub echo_replies: u64,
    /// ICMP errors sent.
    pub icmp_errors: u64,
    /// ICMP answers not sent because there were too many.
    pub rate_limited: u64,
    /// RSTs sent for segments without a socket.
    pub resets: u64,
    /// Packets dropped while they waited for their neighbour.
    pub waiting_dropped: u64,
    /// Packets dropped because there is no route.
    pub no_route: u64,
    /// Frames dropped because too many had not been taken.
    pub queue_full: u64,
    /// Frames taken.
    pub transmitted: u64,
}

/// A network interface.
#[derive(Debug)]
pub struct Iface {
    config: IfaceConfig,
    neighbours: Neighbours,
    out: VecDeque<Outgoing>,
    /// Where segments are built: once all frames cut from it are gone, its memory is used again.
    chunk: BytesMut,
    echo_rate: Rate,
    error_rate: Rate,
    counters: IfaceCounters,
}

impl Iface {
    /// An interface that knows nobody yet.
    #[must_use]
    pub fn new(config: IfaceConfig) -> Self {
        Iface {
            config,
            neighbours: Neighbours::default(),
            out: VecDeque::new(),
            chunk: BytesMut::with_capacity(CHUNK),
            echo_rate: Rate::new(ICMP_PER_SECOND, ECHO_BURST),
            error_rate: Rate::new(ICMP_PER_SECOND, ERROR_BURST),
            counters: IfaceCounters::default(),
        }
    }

    /// How it was configured.
    #[must_use]
    pub fn config(&self) -> &IfaceConfig {
        &self.config
    }

    /// What it has seen.
    #[must_use]
    pub fn counters(&self) -> &IfaceCounters {
        &self.counters
    }

    /// One of our addresses.
    #[must_use]
    pub fn owns(&self, ip: IpAddr) -> bool {
        self.config.addrs.iter().any(|prefix| prefix.addr() == ip)
    }

    /// The address of ours to speak to `dst` from: one in the same network, else the first of the same IP version.
    #[must_use]
    pub fn source_for(&self, dst: IpAddr) -> Option<IpAddr> {
        let near = self.config.addrs.iter().find(|prefix| prefix.contains(dst));
        near.or_else(|| self.config.addrs.iter().find(|prefix| prefix.addr().is_ipv4() == dst.is_ipv4()))
            .map(Prefix::addr)
    }

    /// Configures a neighbour that is never asked for; `false` if 1024 are configured already.
    pub fn add_neighbour(&mut self, ip: IpAddr, mac: MacAddr) -> bool {
        self.neighbours.add_static(ip, mac)
    }

    /// How many neighbours are known.
    #[must_use]
    pub fn neighbours(&self) -> usize {
        self.neighbours.len()
    }

    /// Judges an arriving packet, and answers it if a host answers such packets by itself.
    pub fn on_packet(&mut self, now: Instant, packet: Packet) -> Verdict {
        let verdict = match packet {
            Packet::Tcp(segment) if self.on_tcp(now, &segment) => Verdict::Deliver(segment),
            Packet::Tcp(_) => return Verdict::Dropped(DropReason::NotForUs),
            Packet::Arp(arp) => self.on_arp(now, arp),
            Packet::Echo(echo) => self.on_echo(now, &echo),
            Packet::NeighbourSolicit(solicit) => self.on_solicit(now, solicit),
            Packet::NeighbourAdvert(advert) => self.on_advert(now, advert),
            Packet::Unserved(unserved) => self.on_unserved(now, &unserved),
            Packet::Ignored(_) => {
                self.counters.ignored += 1;
                Verdict::Consumed
            }
        };
        if let Verdict::Dropped(DropReason::NotForUs) = verdict {
            self.counters.not_for_us += 1;
        }
        verdict
    }

    /// Sends a packet, now or when its neighbour has been found.
    pub fn transmit(&mut self, now: Instant, packet: IpPacket) -> Sent {
        if self.config.medium == Medium::Ip {
            return self.push(packet, None);
        }
        if let IpAddr::V6(group) = packet.dst()
            && group.is_multicast()
        {
            return self.push(packet, Some(MacAddr::for_ipv6_multicast(group)));
        }
        let Some(hop) = self.next_hop(packet.dst()) else {
            self.counters.no_route += 1;
            return Sent::NoRoute;
        };
        match self.find(now, hop) {
            Some(mac) => self.push(packet, Some(mac)),
            None => {
                let dropped = self.neighbours.wait(hop, packet);
                self.counters.waiting_dropped += dropped as u64;
                Sent::Waiting
            }
        }
    }

    /// Builds and sends a segment; `tag` comes back in [`Outgoing::tag`].
    ///
    /// # Errors
    ///
    /// [`EgressError`] if it cannot be built.
    pub fn send(&mut self, now: Instant, segment: &SegmentOut<'_>, tag: u64) -> Result<Sent, EgressError> {
        let packet = segment.build_in(&mut self.chunk)?.with_tag(tag);
        Ok(self.transmit(now, packet))
    }

    /// Sends a packet to `dst` that is there in words; `tag` comes back in [`Outgoing::tag`].
    #[inline]
    pub(crate) fn send_words<const N: usize>(
        &mut self,
        now: Instant,
        dst: IpAddr,
        words: &Words<N>,
        tag: u64,
    ) -> Sent {
        if self.config.medium == Medium::Ip {
            self.chunk.extend_from_slice(words.as_flattened());
            let frame = self.chunk.split().freeze();
            return self.enqueue(Outgoing { frame, tag });
        }
        let packet = IpPacket::of_words(&mut self.chunk, dst, words).with_tag(tag);
        self.transmit(now, packet)
    }

    /// Answers a segment that no socket wants with a RST; `false` if it gets none.
    pub fn reset(&mut self, now: Instant, segment: &TcpSegment, tag: u64) -> bool {
        let Some(Ok(packet)) = reset_for(segment).map(|reset| reset.build()) else { return false };
        self.counters.resets += 1;
        self.transmit(now, packet.with_tag(tag));
        true
    }

    /// Where packets for `dst` go. Asks if nobody knows; an answer to [`Resolution::Pending`] is not reported, ask
    /// again.
    pub fn resolve(&mut self, now: Instant, dst: IpAddr) -> Resolution {
        if self.config.medium == Medium::Ip {
            return Resolution::Ready(None);
        }
        let Some(hop) = self.next_hop(dst) else { return Resolution::NoRoute };
        match self.find(now, hop) {
            Some(mac) => Resolution::Ready(Some(mac)),
            None => Resolution::Pending,
        }
    }

    /// The next frame to put on the wire. To be called until it returns `None` after every other call that takes `now`.
    #[inline]
    pub fn poll_transmit(&mut self) -> Option<Outgoing> {
        let outgoing = self.out.pop_front()?;
        self.counters.transmitted += 1;
        Some(outgoing)
    }

    /// When [`Iface::handle_timeout`] wants to be called.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.neighbours.deadline()
    }

    /// Repeats questions that were not answered, and gives up on those asked often enough.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some(due) = self.neighbours.due(now) {
            match due {
                Due::Ask(ip, known) => self.ask(ip, known),
                Due::Failed { dropped } => {
                    self.counters.neighbours_failed += 1;
                    self.counters.waiting_dropped += dropped as u64;
                }
            }
        }
    }

    /// Judges a TCP segment where it lies: is it for us? [`Iface::on_packet`] hands it through instead.
    pub fn on_tcp(&mut self, now: Instant, segment: &TcpSegment) -> bool {
        let (src, dst) = (segment.src.ip(), segment.dst.ip());
        if !self.is_for_us(segment.link, src, dst) {
            self.counters.not_for_us += 1;
            return false;
        }
        if let (Learning::Reflexive, Some(link)) = (self.config.learning, segment.link)
            && let Some(hop) = self.next_hop(src)
        {
            self.learn(now, hop, link.src);
        }
        self.counters.delivered += 1;
        true
    }

    /// Another segment between the stations and addresses of one that [`Iface::on_tcp`] found to be for us.
    #[inline]
    pub(crate) fn on_next(&mut self, now: Instant, segment: &TcpSegment) {
        if self.config.learning == Learning::Reflexive {
            self.on_tcp(now, segment);
        } else {
            self.counters.delivered += 1;
        }
    }

    /// Linux 6.18 `arp_process`: who asks about us is worth knowing; others only if we know them already.
    fn on_arp(&mut self, now: Instant, arp: ArpPacket) -> Verdict {
        let (sender, target) = (IpAddr::V4(arp.sender_ip), IpAddr::V4(arp.target_ip));
        if !self.is_for_our_station(Some(arp.link)) || self.owns(sender) {
            return Verdict::Dropped(DropReason::NotForUs);
        }
        let asks_us = arp.request && self.owns(target);
        if self.neighbours.is_of_interest(sender) || (asks_us && self.is_on_link(sender)) {
            self.learn(now, sender, arp.sender_mac);
        }
        if asks_us && arp.sender_mac.is_unicast() {
            self.counters.neighbour_replies += 1;
            self.push_raw(icmp::arp_reply(self.config.mac, arp.target_ip, arp.sender_mac, arp.sender_ip));
        }
        Verdict::Consumed
    }

    /// RFC 4861 §7.2.3 and §7.2.4.
    fn on_solicit(&mut self, now: Instant, solicit: NeighbourSolicit) -> Verdict {
        let target = IpAddr::V6(solicit.target);
        let here = solicit.dst == solicit.target || solicit.dst == icmp::solicited_node(solicit.target);
        if !self.is_for_our_station(solicit.link)
            || !self.owns(target)
            || !here
            || self.owns(solicit.src.into())
        {
            return Verdict::Dropped(DropReason::NotForUs);
        }
        // There is nobody to tell on a link without stations.
        if self.config.medium == Medium::Ip {
            return Verdict::Consumed;
        }
        let asker = (!solicit.src.is_unspecified()).then_some(solicit.src);
        if let (Some(asker), Some(mac)) = (asker, solicit.source_mac)
            && self.is_on_link(asker.into())
        {
            self.learn(now, asker.into(), mac);
        }
        let to = asker.unwrap_or(ALL_NODES);
        let advert = icmp::neighbour_advert(self.config.mac, solicit.target, to, asker.is_some());
        self.counters.neighbour_replies += 1;
        self.send_own(now, advert);
        Verdict::Consumed
    }

    /// RFC 4861 §7.2.5: news of somebody we never wanted to know is no news.
    fn on_advert(&mut self, now: Instant, advert: NeighbourAdvert) -> Verdict {
        let target = IpAddr::V6(advert.target);
        if !self.is_for_our_station(advert.link) || self.owns(target) {
            return Verdict::Dropped(DropReason::NotForUs);
        }
        let known = self.neighbours.known(target);
        let mac = match (advert.target_mac, known) {
            // Without the override flag a different address does not replace one we have.
            (Some(mac), Some(old)) if mac != old && !advert.override_known => None,
            (Some(mac), _) => Some(mac),
            (None, old) => old,
        };
        if let Some(mac) = mac
            && self.neighbours.is_of_interest(target)
        {
            self.learn(now, target, mac);
        }
        Verdict::Consumed
    }

    fn on_echo(&mut self, now: Instant, echo: &EchoRequest) -> Verdict {
        if !self.is_for_us(echo.link, echo.src, echo.dst) {
            return Verdict::Dropped(DropReason::NotForUs);
        }
        if self.echo_rate.allow(now) {
            self.counters.echo_replies += 1;
            self.send_own(now, icmp::echo_reply(echo));
        } else {
            self.counters.rate_limited += 1;
        }
        Verdict::Consumed
    }

    fn on_unserved(&mut self, now: Instant, unserved: &Unserved) -> Verdict {
        if !self.is_for_us(unserved.link, unserved.src, unserved.dst) {
            return Verdict::Dropped(DropReason::NotForUs);
        }
        if self.error_rate.allow(now) {
            self.counters.icmp_errors += 1;
            self.send_own(now, icmp::unreachable(unserved));
        } else {
            self.counters.rate_limited += 1;
        }
        Verdict::Consumed
    }

    /// For an address of ours, in a frame for our station, and from somebody who is not us.
    fn is_for_us(&self, link: Option<Link>, src: IpAddr, dst: IpAddr) -> bool {
        if !self.is_for_our_station(link) {
            return false;
        }
        let mut ours = false;
        for prefix in &self.config.addrs {
            // Linux 6.18 __fib_validate_source: our own address cannot arrive from outside, nor can a broadcast address.
            if prefix.addr() == src || prefix.is_broadcast(src) {
                return false;
            }
            ours |= prefix.addr() == dst;
        }
        ours
    }

    /// The frame was addressed to us, to everybody, or to a group; a bare packet always is.
    fn is_for_our_station(&self, link: Option<Link>) -> bool {
        link.is_none_or(|link| link.dst == self.config.mac || link.dst.is_group())
    }

    fn is_on_link(&self, ip: IpAddr) -> bool {
        let link_local = matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local());
        let near = self.config.addrs.iter().any(|prefix| prefix.contains(ip) && !prefix.is_broadcast(ip));
        !ip.is_unspecified() && (link_local || near)
    }

    /// The neighbour that packets for `dst` are handed to.
    fn next_hop(&self, dst: IpAddr) -> Option<IpAddr> {
        let group = match dst {
            IpAddr::V4(dst) => dst.is_broadcast() || dst.is_multicast(),
            IpAddr::V6(dst) => dst.is_multicast(),
        };
        let broadcast = self.config.addrs.iter().any(|prefix| prefix.is_broadcast(dst));
        if group || broadcast || dst.is_unspecified() || self.owns(dst) {
            return None;
        }
        if self.is_on_link(dst) {
            return Some(dst);
        }
        let gateway = self.config.gateways.iter().find(|gateway| gateway.is_ipv4() == dst.is_ipv4()).copied();
        // Replies to wherever the segment came from need no route.
        gateway.or((self.config.learning == Learning::Reflexive).then_some(dst))
    }

    /// The station of a neighbour; asks if it is unknown or has not been heard of for long.
    fn find(&mut self, now: Instant, hop: IpAddr) -> Option<MacAddr> {
        let known = match self.neighbours.lookup(now, hop) {
            Lookup::Fresh(mac) => return Some(mac),
            Lookup::Stale(mac) => Some(mac),
            Lookup::Unknown => None,
        };
        let (new, dropped) = self.neighbours.ask(now, hop);
        self.counters.waiting_dropped += dropped as u64;
        if new {
            self.ask(hop, known);
        }
        known
    }

    /// Puts a question about `ip` on the wire.
    fn ask(&mut self, ip: IpAddr, known: Option<MacAddr>) {
        let frame = match (ip, self.source_for(ip)) {
            (IpAddr::V4(target), Some(IpAddr::V4(source))) => {
                Some(icmp::arp_request(self.config.mac, source, target, known))
            }
            (IpAddr::V6(target), Some(IpAddr::V6(source))) => {
                let group = icmp::solicited_node(target);
                let (dst, mac) = match known {
                    Some(mac) => (target, mac),
                    None => (group, MacAddr::for_ipv6_multicast(group)),
                };
                let link = Link { src: self.config.mac, dst: mac };
                icmp::neighbour_solicit(self.config.mac, source, target, dst)
                    .map(|p| p.into_frame(Some(link)))
            }
            // Without an address of this IP version there is nobody to answer to.
            _ => None,
        };
        if let Some(frame) = frame {
            self.counters.neighbour_requests += 1;
            self.push_raw(frame);
        }
    }

    /// Takes a neighbour up and sends what waited for it.
    fn learn(&mut self, now: Instant, ip: IpAddr, mac: MacAddr) {
        if !mac.is_unicast() || mac == self.config.mac {
            return;
        }
        for packet in self.neighbours.learn(now, ip, mac) {
            // The static entry wins over what was learned, if there is one.
            let mac = self.neighbours.known(ip).unwrap_or(mac);
            self.push(packet, Some(mac));
        }
    }

    fn send_own(&mut self, now: Instant, packet: Option<IpPacket>) {
        if let Some(packet) = packet {
            self.transmit(now, packet);
        }
    }

    fn push(&mut self, packet: IpPacket, dst: Option<MacAddr>) -> Sent {
        let tag = packet.tag();
        let link = dst.map(|dst| Link { src: self.config.mac, dst });
        self.enqueue(Outgoing { frame: packet.into_frame(link), tag })
    }

    fn push_raw(&mut self, frame: Bytes) {
        self.enqueue(Outgoing { frame, tag: 0 });
    }

    fn enqueue(&mut self, outgoing: Outgoing) -> Sent {
        if self.out.len() >= MAX_OUT {
            self.counters.queue_full += 1;
            return Sent::QueueFull;
        }
        self.out.push_back(outgoing);
        Sent::Ready
    }
}

const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
/// Frames that may wait to be taken.
const MAX_OUT: usize = 4096;
/// Some seventy ACKs. A frame that somebody keeps keeps this much.
const CHUNK: usize = 4096;
/// Linux's `icmp_msgs_per_sec`.
const ICMP_PER_SECOND: u32 = 1000;
/// Linux's `icmp_msgs_burst`.
const ERROR_BURST: u32 = 50;
/// Linux does not limit echo replies; this only keeps a flood from becoming two.
const ECHO_BURST: u32 = 1000;
