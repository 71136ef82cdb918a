//! What a stack is made of.

use core::net::IpAddr;

use crate::{
    iface::{IfaceConfig, Prefix},
    nic::Driver,
    profile::Profile,
    sysctl::Sysctls,
    wire::MacAddr,
};

/// Why a configuration is impossible.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The MTU cannot carry a TCP segment, or more than IP can.
    #[error("mtu {0} is outside 576…65535")]
    Mtu(u32),
    /// No address.
    #[error("a stack needs at least one address")]
    NoAddress,
    /// A route setting outside its range.
    #[error("route {name} {value} is outside {min}…{max}")]
    Route {
        /// The metric.
        name: &'static str,
        /// The value given.
        value: u32,
        /// Smallest.
        min: u32,
        /// Largest.
        max: u32,
    },
}

/// Metrics of the route to the peers, named as `ip route` names them; 0 means not set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(default))]
pub struct Route {
    /// First congestion window, segments.
    pub initcwnd: u32,
    /// First receive window, segments.
    pub initrwnd: u32,
    /// ACK every segment at once.
    pub quickack: bool,
    /// MTU of the path, bytes.
    pub mtu: u32,
    /// Advertised MSS, bytes.
    pub advmss: u32,
    /// Cap of the window, bytes.
    pub window: u32,
    /// Smallest retransmission timeout, ms.
    pub rto_min_ms: u32,
}

impl Route {
    pub(crate) fn rto_min_us(&self) -> u64 {
        if self.rto_min_ms == 0 { 200_000 } else { u64::from(self.rto_min_ms) * 1000 }
    }

    pub(crate) fn initcwnd(&self) -> u32 {
        if self.initcwnd == 0 { 10 } else { self.initcwnd }
    }

    /// The MSS to advertise, TCP_MAXSEG considered.
    pub(crate) fn advmss(&self, mtu: u32, v4: bool, user_mss: u32) -> u32 {
        let headers = if v4 { 40 } else { 60 };
        let path = if self.mtu > 0 { self.mtu.min(mtu) } else { mtu };
        let mss = if self.advmss > 0 { self.advmss } else { path.saturating_sub(headers).max(256) };
        if user_mss > 0 { mss.min(user_mss) } else { mss }
    }

    fn check(&self) -> Result<(), ConfigError> {
        let range = |name, value: u32, min, max| {
            if value == 0 || (min..=max).contains(&value) {
                Ok(())
            } else {
                Err(ConfigError::Route { name, value, min, max })
            }
        };
        range("initcwnd", self.initcwnd, 1, 65_535)?;
        range("initrwnd", self.initrwnd, 1, 65_535)?;
        range("mtu", self.mtu, 576, 65_535)?;
        range("advmss", self.advmss, 88, 65_495)?;
        range("rto_min", self.rto_min_ms, 1, 120_000)
    }
}

/// Everything a stack starts from.
#[derive(Clone, Debug)]
pub struct StackConfig {
    /// The kernel generation with its switches.
    pub profile: Profile,
    /// Sysctls; [`Sysctls::defaults`] of the profile unless changed.
    pub sysctls: Sysctls,
    /// How arriving frames become memory.
    pub driver: Driver,
    /// Charge every frame exactly this many bytes, whatever the driver model says.
    pub truesize: Option<u32>,
    /// Charge every frame so many bytes more.
    pub truesize_extra: u32,
    /// The interface.
    pub iface: IfaceConfig,
    /// Largest IP packet, bytes, 576…65 535.
    pub mtu: u32,
    /// Metrics of the route to the peers.
    pub route: Route,
    /// Seed of initial sequence numbers, timestamp offsets and the challenge-ACK budget.
    pub seed: u64,
}

impl StackConfig {
    /// A stack on an Ethernet with one address, on a machine with 16 GiB.
    #[must_use]
    pub fn ethernet(profile: Profile, mac: MacAddr, addr: IpAddr, prefix: u8) -> Self {
        let sysctls = Sysctls::defaults(&profile, 16 << 30);
        StackConfig {
            profile,
            sysctls,
            driver: Driver::TapBuild,
            truesize: None,
            truesize_extra: 0,
            iface: IfaceConfig::ethernet(mac, [Prefix::new(addr, prefix)]),
            mtu: 1500,
            route: Route::default(),
            seed: 0,
        }
    }

    /// A stack on a TUN device: bare IP packets.
    #[must_use]
    pub fn ip(profile: Profile, addr: IpAddr, prefix: u8) -> Self {
        let iface = IfaceConfig::ip([Prefix::new(addr, prefix)]);
        StackConfig {
            iface,
            driver: Driver::Tun,
            ..Self::ethernet(profile, MacAddr::default(), addr, prefix)
        }
    }

    /// Is every setting within its range?
    ///
    /// # Errors
    /// Names the setting that is not.
    pub fn check(&self) -> Result<(), ConfigError> {
        if !(576..=65_535).contains(&self.mtu) {
            return Err(ConfigError::Mtu(self.mtu));
        }
        if self.iface.addrs.is_empty() {
            return Err(ConfigError::NoAddress);
        }
        self.route.check()
    }
}
