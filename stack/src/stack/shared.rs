//! What all sockets of a stack share.

use core::{net::SocketAddr, ops::Range};
use std::collections::VecDeque;

use super::{ConfigError, Route, StackConfig};
use crate::{
    Event,
    counters::{Counter, Counters},
    decision::Decision,
    iface::Iface,
    log::Log,
    mem::GlobalMem,
    nic::{self, Driver, FrameShape, Layout},
    profile::Profile,
    skb::Spare,
    sysctl::Sysctls,
    time::{Instant, Tick},
    units::Seq,
    wire::{Medium, SegmentOut, TcpSegment},
};

pub(crate) struct Shared {
    pub(crate) profile: Profile,
    pub(crate) sysctl: Sysctls,
    pub(crate) tick: Tick,
    /// The tick that the last call fell into, and its number.
    this_tick: Range<Instant>,
    jiffies: u64,
    pub(crate) driver: Driver,
    truesize: Option<u32>,
    truesize_extra: u32,
    last_layout: (FrameShape, Layout),
    pub(crate) mtu: u32,
    pub(crate) route: Route,
    pub(crate) mem: GlobalMem,
    pub(crate) counters: Counters,
    pub(crate) log: Log,
    pub(crate) iface: Iface,
    pub(crate) events: VecDeque<Event>,
    pub(crate) spare: Spare,
    medium: Medium,
    seed: u64,
    drawn: u64,
    challenge_second: u64,
    challenges_left: u32,
}

impl Shared {
    pub(crate) fn new(config: StackConfig) -> Result<Self, ConfigError> {
        config.check()?;
        let StackConfig { profile, sysctls, driver, truesize, truesize_extra, iface, mtu, route, seed } =
            config;
        let mtu = if route.mtu > 0 { mtu.min(route.mtu) } else { mtu };
        let mut shared = Shared {
            tick: profile.build.tick(),
            this_tick: Instant::ZERO..Instant::ZERO,
            jiffies: 0,
            profile,
            sysctl: sysctls,
            driver,
            truesize,
            truesize_extra,
            last_layout: Default::default(),
            mtu,
            route,
            mem: GlobalMem::default(),
            counters: Counters::default(),
            log: Log::default(),
            medium: iface.medium,
            iface: Iface::new(iface),
            events: VecDeque::new(),
            spare: Spare::default(),
            seed,
            drawn: 0,
            challenge_second: u64::MAX,
            challenges_left: 0,
        };
        let (shape, _) = shared.last_layout;
        shared.last_layout = (shape, shared.lay_out(shape));
        Ok(shared)
    }

    pub(crate) fn medium(&self) -> Medium {
        self.medium
    }

    /// What time it is for the next calls: the tick is looked up once for all that happens in it.
    #[inline(always)]
    pub(crate) fn enter(&mut self, now: Instant) {
        if !self.this_tick.contains(&now) {
            self.jiffies = self.tick.jiffies(now);
            self.this_tick =
                self.tick.instant(self.jiffies)..self.tick.instant(self.jiffies.saturating_add(1));
        }
    }

    /// The tick that `now` falls into.
    #[inline(always)]
    pub(crate) fn jiffies(&self, now: Instant) -> u64 {
        if self.this_tick.contains(&now) { self.jiffies } else { self.tick.jiffies(now) }
    }

    /// What a frame of this shape becomes in memory. Frames of a stream are alike: the last answer is remembered, for what
    /// it depends on besides never changes.
    #[inline]
    pub(crate) fn layout(&mut self, shape: FrameShape) -> &Layout {
        let (last, _) = &self.last_layout;
        if last.frame != shape.frame
            || last.headers != shape.headers
            || last.payload != shape.payload
            || last.vnet_hdr_len != shape.vnet_hdr_len
        {
            self.last_layout = (shape, self.lay_out(shape));
        }
        let (_, layout) = &self.last_layout;
        layout
    }

    #[inline(never)]
    fn lay_out(&self, shape: FrameShape) -> Layout {
        let mut layout = nic::layout(self.driver, &self.profile, &shape);
        layout.truesize = self.truesize.unwrap_or(layout.truesize).saturating_add(self.truesize_extra);
        layout
    }

    /// Hands a finished segment to the interface.
    pub(crate) fn emit(&mut self, now: Instant, segment: &SegmentOut<'_>, id: u64) {
        // A segment that cannot be a packet was cut wrong by us; it is lost like any frame and sent again.
        let sent = self.iface.send(now, segment, id);
        debug_assert!(sent.is_ok(), "segment does not fit a packet");
    }

    /// Answers a segment that no socket wants.
    pub(crate) fn reset(&mut self, now: Instant, seg: &TcpSegment) {
        if self.iface.reset(now, seg, 0) {
            self.counters.inc(Counter::TcpOutSegs);
            self.counters.inc(Counter::TcpOutRsts);
        }
    }

    /// Reports a change of global memory pressure, if there was one.
    #[inline(always)]
    pub(crate) fn note_pressure(&mut self, now: Instant) {
        if let Some(on) = self.mem.pressure_changed.take() {
            let allocated = self.mem.in_use();
            self.log.push(now, None, move || Decision::Pressure { on, allocated });
        }
    }

    /// When a timer that is set now for tick `expires` fires: never early, and the later the coarser.
    ///
    /// Linux's timer wheel has levels of 64 slots, each level eight times as coarse as the one below, and a timer goes
    /// to the lowest level that reaches it. It fires at the first boundary of that level *behind* its tick: one tick
    /// late within 63 ticks, up to 8 late within 504, up to 64 within 4032, and so on.
    pub(crate) fn timer_instant(&self, now: Instant, expires: u64) -> Instant {
        let ahead = expires.saturating_sub(self.jiffies(now));
        let level = (0..8).find(|l| ahead < 63 << (3 * l)).unwrap_or(8);
        let shift = 3 * level;
        self.tick.instant((expires >> shift).saturating_add(1) << shift)
    }

    /// A number that depends on the seed and on what was drawn before, and on nothing else (SplitMix64).
    fn draw(&mut self, salt: u64) -> u64 {
        self.drawn = self.drawn.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.seed ^ self.drawn ^ salt;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn salt(local: SocketAddr, remote: SocketAddr) -> u64 {
        u64::from(local.port()) << 16 | u64::from(remote.port())
    }

    pub(crate) fn initial_seq(&mut self, local: SocketAddr, remote: SocketAddr) -> Seq {
        Seq(self.draw(Self::salt(local, remote)) as u32)
    }

    pub(crate) fn ts_offset(&mut self, local: SocketAddr, remote: SocketAddr) -> u32 {
        self.draw(Self::salt(local, remote)) as u32
    }

    /// RFC 5961 §7: a stack gives away only so many challenge ACKs per second, a number an outsider cannot guess.
    pub(crate) fn challenge_allowed(&mut self, now: Instant) -> bool {
        let limit = self.sysctl.tcp_challenge_ack_limit;
        if limit == i32::MAX {
            return true;
        }
        let second = now.as_millis() / 1000;
        if second != self.challenge_second {
            self.challenge_second = second;
            let limit = limit.max(0).unsigned_abs();
            let half = limit.div_ceil(2);
            let random = if limit == 0 { 0 } else { (self.draw(second) % u64::from(limit)) as u32 };
            self.challenges_left = half + random;
        }
        if self.challenges_left == 0 {
            return false;
        }
        self.challenges_left -= 1;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gaps between retransmissions of one segment, as measured on 6.18 at HZ 250 with an RTO of 52 ticks: the first
    /// was sent in tick 35 of a row of 64.
    #[test]
    fn the_timer_wheel_is_late_as_measured() {
        let ip = core::net::IpAddr::V4(core::net::Ipv4Addr::new(10, 0, 0, 1));
        let shared = Shared::new(StackConfig::ip(Profile::linux_6_18(), ip, 24)).unwrap();
        let mut at = 64 + 35;
        let mut gaps = Vec::new();
        for rto in [52, 104, 208, 416, 832] {
            let fires = shared.tick.jiffies(shared.timer_instant(shared.tick.instant(at), at + rto));
            gaps.push(fires - at);
            at = fires;
        }
        assert_eq!(gaps, [53, 112, 216, 424, 888]);
    }
}
