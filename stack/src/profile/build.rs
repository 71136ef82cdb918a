//! What the configuration of one kernel build adds to a generation.

use crate::time::Tick;

/// Constants of one kernel *build*, where configuration changes what a receiver can be seen to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct KernelBuild {
    /// Ticks per second (CONFIG_HZ), 1…10 000.
    pub hz: u32,
    /// Header reserve `MAX_HEADER`, bytes: 32, 80, 96, 128, 144 or 176 depending on the link types built in.
    pub max_header: u32,
    /// `NET_IP_ALIGN`: 0 on x86, 2 in user-mode-linux and most other architectures.
    pub net_ip_align: u32,
    /// CONFIG_MAX_SKB_FRAGS: fragments an skb may hold, 17…45.
    pub max_skb_frags: u32,
}

impl KernelBuild {
    /// A distribution's build for x86-64, as Debian's: 250 ticks per second, wireless mesh and tunnels as modules.
    pub const DISTRIBUTION: KernelBuild =
        KernelBuild { hz: 250, max_header: 176, net_ip_align: 0, max_skb_frags: 17 };

    /// The reserve in front of locally built TCP headers (`MAX_TCP_HEADER`).
    #[must_use]
    pub const fn max_tcp_header(&self) -> u32 {
        (128 + self.max_header + 63) & !63
    }

    /// Usable bytes of a head that fills one page (`SKB_MAX_HEAD(0)`).
    #[must_use]
    pub const fn page_room(&self) -> u32 {
        4096 - self.shared_info()
    }

    /// Cost of the shared info behind every head.
    #[must_use]
    pub const fn shared_info(&self) -> u32 {
        let frags = if self.max_skb_frags < 17 { 17 } else { self.max_skb_frags };
        (320 + (frags - 17) * 16 + 63) & !63
    }

    /// Memory of an skb with `end` usable bytes in its head (`SKB_TRUESIZE`).
    #[must_use]
    pub const fn truesize(&self, end: u32) -> u32 {
        end + SKB_DESCRIPTOR + self.shared_info()
    }

    /// The size of a small-head object (since 6.3).
    #[must_use]
    pub const fn small_head(&self) -> u32 {
        let mtu = self.max_header + 128 + 64;
        let a = if self.max_tcp_header() > mtu { self.max_tcp_header() } else { mtu };
        let size = ((a + 63) & !63) + self.shared_info();
        if size.is_power_of_two() { size + 64 } else { size }
    }

    /// The tick of this build.
    #[must_use]
    pub const fn tick(&self) -> Tick {
        Tick::new(self.hz)
    }
}

/// What `struct sk_buff` itself costs, rounded to a cache line.
pub(crate) const SKB_DESCRIPTOR: u32 = 256;
