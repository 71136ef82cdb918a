//! Who is where on the link: a bounded table of neighbours and the packets that wait for an answer.
//!
//! Answers to Linux 6.18 `neigh_resolve_output`, `neigh_event_send_probe`, `neigh_timer_handler`, `neigh_update` in a
//! simpler shape: an address is *fresh* for a while, then *stale*: still used, while the neighbour is asked in person
//! whether it is there. Three unanswered questions, a second apart, and it is forgotten (`ucast_solicit`,
//! `mcast_solicit`, `retrans_time`).

use std::collections::{BTreeMap, VecDeque};

use core::net::IpAddr;

use rustc_hash::FxHashMap;

use crate::{
    time::{Duration, Instant},
    wire::{IpPacket, MacAddr},
};

/// How the table came to know an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Origin {
    /// Configured: always fresh, never thrown out.
    Static,
    Learned,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    mac: MacAddr,
    origin: Origin,
    fresh_until: Instant,
    /// Larger was used later.
    used: u64,
}

/// A question that is out.
#[derive(Debug)]
struct Pending {
    waiting: VecDeque<IpPacket>,
    asked: u8,
    next: Instant,
    /// Larger began later.
    began: u64,
}

/// What the table says about an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lookup {
    /// Known.
    Fresh(MacAddr),
    /// Known, but not confirmed for a while.
    Stale(MacAddr),
    Unknown,
}

/// What a timeout leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Due {
    /// Ask again: everybody, or the one last known.
    Ask(IpAddr, Option<MacAddr>),
    /// Given up; so many packets died waiting.
    Failed { dropped: usize },
}

/// The table.
#[derive(Debug, Default)]
pub(super) struct Neighbours {
    entries: FxHashMap<IpAddr, Entry>,
    pending: BTreeMap<IpAddr, Pending>,
    clock: u64,
}

impl Neighbours {
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Looks an address up for use.
    pub(super) fn lookup(&mut self, now: Instant, ip: IpAddr) -> Lookup {
        let used = self.tick();
        let Some(entry) = self.entries.get_mut(&ip) else { return Lookup::Unknown };
        entry.used = used;
        if entry.origin == Origin::Static || now < entry.fresh_until {
            Lookup::Fresh(entry.mac)
        } else {
            Lookup::Stale(entry.mac)
        }
    }

    /// Adds a configured neighbour; `false` if the table is full of them.
    pub(super) fn add_static(&mut self, ip: IpAddr, mac: MacAddr) -> bool {
        let entry = Entry { mac, origin: Origin::Static, fresh_until: Instant::FAR_FUTURE, used: 0 };
        self.insert(ip, entry)
    }

    /// The neighbour said so itself: takes it up, and hands back what waited for it.
    pub(super) fn learn(&mut self, now: Instant, ip: IpAddr, mac: MacAddr) -> VecDeque<IpPacket> {
        let used = self.tick();
        match self.entries.get_mut(&ip) {
            Some(entry) if entry.origin == Origin::Static => {}
            Some(entry) => {
                entry.mac = mac;
                entry.fresh_until = now + FRESH_FOR;
            }
            None => {
                let entry = Entry { mac, origin: Origin::Learned, fresh_until: now + FRESH_FOR, used };
                self.insert(ip, entry);
            }
        }
        self.pending.remove(&ip).map(|pending| pending.waiting).unwrap_or_default()
    }

    /// Already known or asked for, so that an unasked announcement may count.
    pub(super) fn is_of_interest(&self, ip: IpAddr) -> bool {
        self.entries.contains_key(&ip) || self.pending.contains_key(&ip)
    }

    /// What is known and confirmed or not, without using it.
    pub(super) fn known(&self, ip: IpAddr) -> Option<MacAddr> {
        self.entries.get(&ip).map(|entry| entry.mac)
    }

    /// Notes that `ip` is being asked for; `true` if the question is new and must be sent.
    pub(super) fn ask(&mut self, now: Instant, ip: IpAddr) -> (bool, usize) {
        if self.pending.contains_key(&ip) {
            return (false, 0);
        }
        let mut dropped = 0;
        if self.pending.len() >= MAX_PENDING {
            // A flood of addresses that do not answer must not keep out one that would.
            let oldest = self.pending.iter().min_by_key(|(_, pending)| pending.began).map(|(&ip, _)| ip);
            if let Some(pending) = oldest.and_then(|ip| self.pending.remove(&ip)) {
                dropped = pending.waiting.len();
            }
        }
        let began = self.tick();
        let pending = Pending { waiting: VecDeque::new(), asked: 1, next: now + ASK_EVERY, began };
        self.pending.insert(ip, pending);
        (true, dropped)
    }

    /// Lets a packet wait for the answer about `ip`, which must have been asked for. Returns how many packets were
    /// dropped for it: the oldest, as in Linux's `unres_qlen`.
    pub(super) fn wait(&mut self, ip: IpAddr, packet: IpPacket) -> usize {
        let Some(pending) = self.pending.get_mut(&ip) else { return 1 };
        pending.waiting.push_back(packet);
        let mut dropped = 0;
        while pending.waiting.len() > MAX_WAITING {
            pending.waiting.pop_front();
            dropped += 1;
        }
        dropped
    }

    /// When [`Neighbours::due`] next has something to say.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.pending.values().map(|pending| pending.next).min()
    }

    /// One question whose time is up, if there is one.
    pub(super) fn due(&mut self, now: Instant) -> Option<Due> {
        let (&ip, pending) = self.pending.iter_mut().find(|(_, pending)| pending.next <= now)?;
        if pending.asked < ASK_TIMES {
            pending.asked += 1;
            pending.next = now + ASK_EVERY;
            return Some(Due::Ask(ip, self.known(ip)));
        }
        let dropped = self.pending.remove(&ip).map_or(0, |pending| pending.waiting.len());
        if self.entries.get(&ip).is_some_and(|entry| entry.origin == Origin::Learned) {
            self.entries.remove(&ip);
        }
        Some(Due::Failed { dropped })
    }

    fn insert(&mut self, ip: IpAddr, entry: Entry) -> bool {
        if self.entries.len() >= MAX_NEIGHBOURS && !self.entries.contains_key(&ip) {
            let learned = self.entries.iter().filter(|(_, entry)| entry.origin == Origin::Learned);
            // The address breaks ties, so that the same history leads to the same table.
            match learned.min_by_key(|(ip, entry)| (entry.used, **ip)).map(|(&ip, _)| ip) {
                Some(oldest) => self.entries.remove(&oldest),
                None => return false,
            };
        }
        self.entries.insert(ip, entry);
        true
    }

    fn tick(&mut self) -> u64 {
        self.clock = self.clock.wrapping_add(1);
        self.clock
    }
}

pub(super) const FRESH_FOR: Duration = Duration::from_secs(60);
pub(super) const ASK_EVERY: Duration = Duration::from_secs(1);
pub(super) const ASK_TIMES: u8 = 3;
pub(super) const MAX_NEIGHBOURS: usize = 1024;
/// Addresses asked for at one time.
pub(super) const MAX_PENDING: usize = 64;
/// Packets waiting for one address.
pub(super) const MAX_WAITING: usize = 8;
