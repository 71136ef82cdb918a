//! From a scenario to the settings of a sender. Addresses, and the limits of a run, stay with the caller.

use super::schema::Scenario;
use super::units::Size;
use crate::sender::kernel::KernelConfig;
use crate::sender::model::{AppModel, Congestion, ModelConfig, SndBuf};

impl Scenario {
    /// `base` (addresses, ports, sequence number) with everything the scenario says about the sender.
    ///
    /// The model knows `reno`; any other congestion control is run as Reno too.
    #[must_use]
    pub fn model_config(&self, base: ModelConfig) -> ModelConfig {
        let t = &self.sender;
        let mtu_mss = self.route.mtu.and_then(|m| u16::try_from(m.saturating_sub(40)).ok());
        ModelConfig {
            role: self.sender_role(),
            mss: t.mss.or(mtu_mss).unwrap_or(base.mss),
            timestamps: t.timestamps,
            sack: t.sack,
            wscale: t.wscale.or(base.wscale),
            app: AppModel {
                write_sizes: t.write.sizes(),
                pace: t.pace.0,
                nodelay: t.nodelay,
                total: t.total.map(|n| n.0),
                stop_after: base.app.stop_after,
                end: t.end,
            },
            // The kernel doubles what setsockopt is given.
            sndbuf: t.so_sndbuf.map_or(base.sndbuf, |Size(n)| SndBuf::Fixed(n.saturating_mul(2))),
            initcwnd: self.route.initcwnd.unwrap_or(base.initcwnd),
            congestion: Congestion::Reno,
            gso_max: t.gso_max.as_u32(),
            ..base
        }
    }

    /// `base` (addresses, timeouts, sampling) with everything the scenario says about the sender. What a socket cannot
    /// set (timestamps, SACK, sysctls, the initial congestion window of the route) is the namespace's.
    #[must_use]
    pub fn kernel_config(&self, base: KernelConfig) -> KernelConfig {
        let t = &self.sender;
        let int = |s: Size| i32::try_from(s.0).unwrap_or(i32::MAX).unsigned_abs();
        KernelConfig {
            role: self.sender_role(),
            connections: t.connections,
            write_sizes: t.write.sizes(),
            pace: std::time::Duration::from_nanos(t.pace.0.as_nanos()),
            nodelay: t.nodelay,
            congestion: Some(t.congestion.clone()),
            sndbuf: t.so_sndbuf.map(int),
            maxseg: t.mss,
            notsent_lowat: t.notsent_lowat.map(int),
            total: t.total.map(|n| n.0),
            end: t.end,
            ..base
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sender::{End, Role};

    #[test]
    fn senders_are_told_what_the_scenario_says() {
        let s = Scenario::load("fill-64k-aws0").unwrap();
        let m = s.model_config(ModelConfig::default());
        assert_eq!((m.role, m.mss, m.timestamps, m.initcwnd), (Role::Client, 1024, false, 1024));
        assert_eq!((m.app.write_sizes.as_slice(), m.app.nodelay, m.app.end), (&[1024][..], true, End::Keep));
        let k = s.kernel_config(KernelConfig::default());
        assert_eq!((k.role, k.maxseg, k.congestion.as_deref()), (Role::Client, Some(1024), Some("reno")));
    }
}
