//! Sysctls of one stack, under their Linux names: each stack is a network namespace of its own.

use crate::profile::{Profile, ShrinkPolicy};

/// Why a sysctl was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SysctlError {
    /// No such sysctl on this path.
    #[error("unknown sysctl '{name}'; the receive path knows {known}")]
    Unknown {
        /// The name given.
        name: String,
        /// What there is.
        known: String,
    },
    /// Not as many numbers as the sysctl has.
    #[error("sysctl '{name}' takes {expected} number(s), got '{value}'")]
    Arity {
        /// The sysctl.
        name: String,
        /// The value given.
        value: String,
        /// How many numbers it takes.
        expected: usize,
    },
    /// A number outside its range.
    #[error("sysctl '{name}': {value} is outside {min}…{max}")]
    Range {
        /// The sysctl.
        name: String,
        /// The value given.
        value: String,
        /// Smallest.
        min: i64,
        /// Largest.
        max: i64,
    },
}

/// The settings of one stack. Fields are named as the sysctls are.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct Sysctls {
    /// net.ipv4.tcp_rmem: smallest, initial and largest receive buffer, bytes.
    pub tcp_rmem: [i32; 3],
    /// net.ipv4.tcp_wmem: smallest, initial and largest send buffer, bytes.
    pub tcp_wmem: [i32; 3],
    /// net.ipv4.tcp_mem: low, pressure and high marks of all sockets together, pages of 4096 bytes.
    pub tcp_mem: [i64; 3],
    /// net.core.rmem_max: cap of SO_RCVBUF before doubling, bytes.
    pub rmem_max: i32,
    /// net.core.wmem_max: cap of SO_SNDBUF before doubling, bytes.
    pub wmem_max: i32,
    /// net.core.mem_pcpu_rsv: pages one CPU may keep off the global account.
    pub mem_pcpu_rsv: i64,
    /// net.core.somaxconn: cap of a listener's accept queue.
    pub somaxconn: u32,
    /// net.ipv4.tcp_adv_win_scale, −31…31; inert under a scaling ratio.
    pub tcp_adv_win_scale: i8,
    /// net.ipv4.tcp_app_win, 0…31: share of the first window kept for the application.
    pub tcp_app_win: u8,
    /// net.ipv4.tcp_moderate_rcvbuf: receive-buffer autotuning.
    pub tcp_moderate_rcvbuf: bool,
    /// net.ipv4.tcp_shrink_window: the right edge may move left.
    pub tcp_shrink_window: bool,
    /// net.ipv4.tcp_collapse_max_bytes (a published patch): no collapse above this; 0 is off.
    pub tcp_collapse_max_bytes: u32,
    /// net.ipv4.tcp_workaround_signed_windows.
    pub tcp_workaround_signed_windows: bool,
    /// net.ipv4.tcp_window_scaling.
    pub tcp_window_scaling: bool,
    /// net.ipv4.tcp_timestamps.
    pub tcp_timestamps: bool,
    /// net.ipv4.tcp_sack.
    pub tcp_sack: bool,
    /// net.ipv4.tcp_dsack.
    pub tcp_dsack: bool,
    /// net.ipv4.tcp_comp_sack_delay_ns.
    pub tcp_comp_sack_delay_ns: u64,
    /// net.ipv4.tcp_comp_sack_slack_ns.
    pub tcp_comp_sack_slack_ns: u64,
    /// net.ipv4.tcp_comp_sack_nr, 0…255; 0 switches compression off.
    pub tcp_comp_sack_nr: u8,
    /// net.ipv4.tcp_comp_sack_rtt_percent, 1…1000.
    pub tcp_comp_sack_rtt_percent: u32,
    /// net.ipv4.tcp_backlog_ack_defer.
    pub tcp_backlog_ack_defer: bool,
    /// net.ipv4.tcp_pingpong_thresh, 1…255.
    pub tcp_pingpong_thresh: u8,
    /// net.ipv4.tcp_invalid_ratelimit, ms.
    pub tcp_invalid_ratelimit: u32,
    /// net.ipv4.tcp_challenge_ack_limit, per second; 2147483647 is no limit.
    pub tcp_challenge_ack_limit: i32,
    /// net.ipv4.tcp_rcvbuf_low_rtt, µs.
    pub tcp_rcvbuf_low_rtt: u32,
    /// net.ipv4.tcp_retries2: timeouts before an established connection is given up.
    pub tcp_retries2: u8,
    /// net.ipv4.tcp_syn_retries.
    pub tcp_syn_retries: u8,
    /// net.ipv4.tcp_synack_retries.
    pub tcp_synack_retries: u8,
    /// net.ipv4.tcp_fin_timeout, s.
    pub tcp_fin_timeout: u32,
}

impl Sysctls {
    /// The defaults of a generation on a machine with `memory` bytes of RAM.
    #[must_use]
    pub fn defaults(profile: &Profile, memory: u64) -> Self {
        let pages = i64::try_from(memory / 4096).unwrap_or(i64::MAX / 8192);
        let limit = (pages / 16).max(128);
        let cap = i64::from(profile.tcp_rmem_max);
        let rmem2 = pages.saturating_mul(4096 / 128).min(cap).max(131_072);
        let wmem2 = pages.saturating_mul(4096 / 128).clamp(65_536, 4 << 20);
        Sysctls {
            tcp_rmem: [4096, 131_072, rmem2 as i32],
            tcp_wmem: [4096, 16_384, wmem2 as i32],
            tcp_mem: [limit / 4 * 3, limit, limit / 4 * 3 * 2],
            rmem_max: profile.rmem_max as i32,
            wmem_max: profile.rmem_max as i32,
            mem_pcpu_rsv: 256,
            somaxconn: 4096,
            tcp_adv_win_scale: 1,
            tcp_app_win: 31,
            tcp_moderate_rcvbuf: true,
            tcp_shrink_window: false,
            tcp_collapse_max_bytes: 0,
            tcp_workaround_signed_windows: false,
            tcp_window_scaling: true,
            tcp_timestamps: true,
            tcp_sack: true,
            tcp_dsack: true,
            tcp_comp_sack_delay_ns: 1_000_000,
            tcp_comp_sack_slack_ns: u64::from(profile.comp_sack_slack_ns),
            tcp_comp_sack_nr: 44,
            tcp_comp_sack_rtt_percent: 33,
            tcp_backlog_ack_defer: true,
            tcp_pingpong_thresh: 1,
            tcp_invalid_ratelimit: 500,
            tcp_challenge_ack_limit: i32::MAX,
            tcp_rcvbuf_low_rtt: 1000,
            tcp_retries2: 15,
            tcp_syn_retries: 6,
            tcp_synack_retries: 5,
            tcp_fin_timeout: 60,
        }
    }

    /// The shrink policy in force: the profile's, unless the sysctl turns the merged form on.
    #[must_use]
    pub(crate) fn shrink(&self, profile: &Profile) -> ShrinkPolicy {
        match profile.shrink {
            ShrinkPolicy::Never if self.tcp_shrink_window => ShrinkPolicy::Merged,
            s => s,
        }
    }

    /// Sets one sysctl from text, as `sysctl -w` would. `name` may be full (`net.ipv4.tcp_rmem`) or bare (`tcp_rmem`).
    ///
    /// # Errors
    /// Names the sysctl, the value and the range.
    pub fn set(&mut self, profile: &Profile, name: &str, value: &str) -> Result<(), SysctlError> {
        let bare = bare_name(name);
        let Some(entry) = TABLE.iter().find(|e| e.name == bare) else {
            let known: Vec<_> = TABLE.iter().map(|e| e.name).collect();
            return Err(SysctlError::Unknown { name: name.to_owned(), known: known.join(", ") });
        };
        let min = if bare == "tcp_rmem" { i64::from(profile.tcp_rmem_floor) } else { entry.min };
        let words: Vec<&str> = value.split_whitespace().collect();
        if words.len() != entry.arity {
            return Err(SysctlError::Arity {
                name: name.to_owned(),
                value: value.to_owned(),
                expected: entry.arity,
            });
        }
        let mut numbers = [0i64; 3];
        for (slot, word) in numbers.iter_mut().zip(&words) {
            *slot = word.parse().ok().filter(|n| (min..=entry.max).contains(n)).ok_or_else(|| {
                SysctlError::Range { name: name.to_owned(), value: (*word).to_owned(), min, max: entry.max }
            })?;
        }
        (entry.set)(self, numbers);
        Ok(())
    }

    /// The value of one sysctl as `sysctl -n` prints it.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<String> {
        let bare = bare_name(name);
        let entry = TABLE.iter().find(|e| e.name == bare)?;
        let all = (entry.get)(self);
        let words: Vec<_> = all.iter().take(entry.arity).map(i64::to_string).collect();
        Some(words.join("\t"))
    }

    /// The bare names of all sysctls there are.
    pub fn names() -> impl Iterator<Item = &'static str> {
        TABLE.iter().map(|e| e.name)
    }
}

fn bare_name(name: &str) -> &str {
    name.strip_prefix("net.ipv4.").or_else(|| name.strip_prefix("net.core.")).unwrap_or(name)
}

struct Entry {
    name: &'static str,
    arity: usize,
    min: i64,
    max: i64,
    get: fn(&Sysctls) -> [i64; 3],
    set: fn(&mut Sysctls, [i64; 3]),
}

macro_rules! scalar {
    ($name:ident: $ty:ty, $min:expr, $max:expr) => {
        Entry {
            name: stringify!($name),
            arity: 1,
            min: $min,
            max: $max,
            get: |s| [i64::try_from(s.$name).unwrap_or(i64::MAX), 0, 0],
            set: |s, v| s.$name = <$ty>::try_from(v[0]).unwrap_or_default(),
        }
    };
}

macro_rules! flag {
    ($name:ident) => {
        Entry {
            name: stringify!($name),
            arity: 1,
            min: 0,
            max: 1,
            get: |s| [i64::from(s.$name), 0, 0],
            set: |s, v| s.$name = v[0] != 0,
        }
    };
}

macro_rules! triple {
    ($name:ident: $ty:ty, $min:expr, $max:expr) => {
        Entry {
            name: stringify!($name),
            arity: 3,
            min: $min,
            max: $max,
            get: |s| s.$name.map(|v| i64::from(v)),
            set: |s, v| s.$name = v.map(|n| <$ty>::try_from(n).unwrap_or_default()),
        }
    };
}

const INT: i64 = i32::MAX as i64;

const TABLE: &[Entry] = &[
    triple!(tcp_rmem: i32, 4096, INT),
    triple!(tcp_wmem: i32, 4096, INT),
    triple!(tcp_mem: i64, 0, i64::MAX >> 13),
    scalar!(rmem_max: i32, 2304, INT),
    scalar!(wmem_max: i32, 4608, INT),
    scalar!(mem_pcpu_rsv: i64, 256, INT),
    scalar!(somaxconn: u32, 0, INT),
    scalar!(tcp_adv_win_scale: i8, -31, 31),
    scalar!(tcp_app_win: u8, 0, 31),
    flag!(tcp_moderate_rcvbuf),
    flag!(tcp_shrink_window),
    scalar!(tcp_collapse_max_bytes: u32, 0, u32::MAX as i64),
    flag!(tcp_workaround_signed_windows),
    flag!(tcp_window_scaling),
    flag!(tcp_timestamps),
    flag!(tcp_sack),
    flag!(tcp_dsack),
    scalar!(tcp_comp_sack_delay_ns: u64, 0, i64::MAX),
    scalar!(tcp_comp_sack_slack_ns: u64, 0, i64::MAX),
    scalar!(tcp_comp_sack_nr: u8, 0, 255),
    scalar!(tcp_comp_sack_rtt_percent: u32, 1, 1000),
    flag!(tcp_backlog_ack_defer),
    scalar!(tcp_pingpong_thresh: u8, 1, 255),
    scalar!(tcp_invalid_ratelimit: u32, 0, INT),
    scalar!(tcp_challenge_ack_limit: i32, 0, INT),
    scalar!(tcp_rcvbuf_low_rtt: u32, 0, INT),
    scalar!(tcp_retries2: u8, 0, 255),
    scalar!(tcp_syn_retries: u8, 1, 127),
    scalar!(tcp_synack_retries: u8, 0, 255),
    scalar!(tcp_fin_timeout: u32, 0, 3600),
];

#[cfg(test)]
mod tests {
    use super::*;

    fn fresh() -> (Profile, Sysctls) {
        let p = Profile::linux_6_18();
        let s = Sysctls::defaults(&p, 16 << 30);
        (p, s)
    }

    #[test]
    fn names_full_and_bare() {
        let (p, mut s) = fresh();
        s.set(&p, "net.ipv4.tcp_rmem", "4096 131072 8388608").unwrap();
        assert_eq!(s.tcp_rmem, [4096, 131_072, 8_388_608]);
        s.set(&p, "rmem_max", "10000").unwrap();
        s.set(&p, "tcp_adv_win_scale", "-31").unwrap();
        assert_eq!((s.rmem_max, s.tcp_adv_win_scale), (10_000, -31));
        assert_eq!(s.get("net.ipv4.tcp_rmem").unwrap(), "4096\t131072\t8388608");
    }

    #[test]
    fn refusals_name_the_value_and_the_range() {
        let (p, mut s) = fresh();
        let say = |s: &mut Sysctls, n: &str, v: &str| s.set(&p, n, v).unwrap_err().to_string();
        assert!(say(&mut s, "tcp_adv_win_scale", "32").contains("-31…31"));
        assert!(say(&mut s, "tcp_rmem", "4096 1").contains("3 number"));
        assert!(say(&mut s, "tcp_rmem", "4096 x 1").contains("'tcp_rmem': x"));
        assert!(say(&mut s, "tcp_rwin", "1").contains("tcp_rmem"));
        for name in Profile::NAMES {
            let p = Profile::named(name).unwrap();
            let takes = Sysctls::defaults(&p, 1 << 30).set(&p, "tcp_rmem", "1 1 1").is_ok();
            assert_eq!(takes, ["linux-6.1", "linux-6.18"].contains(name), "{name}");
        }
    }

    #[test]
    fn every_sysctl_takes_what_it_prints() {
        let (p, s) = fresh();
        let mut copy = s.clone();
        for name in Sysctls::names() {
            copy.set(&p, name, &s.get(name).unwrap()).unwrap();
        }
        assert_eq!(copy, s);
    }

    #[test]
    fn defaults_scale_with_memory() {
        let (_, s) = fresh();
        assert_eq!(s.tcp_rmem, [4096, 131_072, 32 << 20]);
        let slack = |p| Sysctls::defaults(&p, 16 << 30).get("tcp_comp_sack_slack_ns").unwrap();
        assert_eq!(
            (slack(Profile::linux_6_12()), slack(Profile::linux_7())),
            ("100000".into(), "10000".into())
        );
        let small = Sysctls::defaults(&Profile::linux_6_1(), 120 << 20);
        assert_eq!(small.tcp_rmem[2], (120 << 20) / 128);
    }
}
