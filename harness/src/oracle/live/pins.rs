//! Sysctls: everything that matters is set before every script, so that a recording does not depend on the machine's.

use std::collections::{BTreeMap, BTreeSet};

use rightedge_tapctl::sysctl;

use super::super::script::{Script, sysctl_name};

/// What a script gets unless it says otherwise; bare names mean net.ipv4.
///
/// Default values, but for: no pause between duplicate ACKs of one kind and no limit to challenge ACKs (they would depend
/// on what ran before), no compressed SACKs (their timer does not tick), nothing remembered from one connection to the
/// next, reno.
const BASE: &[(&str, &str)] = &[
    ("tcp_rmem", "4096 131072 6291456"),
    ("tcp_wmem", "4096 16384 4194304"),
    ("tcp_adv_win_scale", "1"),
    ("tcp_app_win", "31"),
    ("tcp_moderate_rcvbuf", "1"),
    ("tcp_shrink_window", "0"),
    ("tcp_workaround_signed_windows", "0"),
    ("tcp_window_scaling", "1"),
    ("tcp_timestamps", "1"),
    ("tcp_sack", "1"),
    ("tcp_dsack", "1"),
    ("tcp_comp_sack_delay_ns", "1000000"),
    ("tcp_comp_sack_slack_ns", "100000"),
    ("tcp_comp_sack_nr", "0"),
    ("tcp_comp_sack_rtt_percent", "33"),
    ("tcp_backlog_ack_defer", "1"),
    ("tcp_pingpong_thresh", "1"),
    ("tcp_invalid_ratelimit", "0"),
    ("tcp_challenge_ack_limit", "2147483647"),
    ("tcp_no_metrics_save", "1"),
    ("tcp_congestion_control", "reno"),
    ("tcp_ecn", "0"),
    ("tcp_slow_start_after_idle", "1"),
    ("tcp_early_retrans", "0"),
    ("tcp_recovery", "1"),
    ("tcp_frto", "2"),
    ("tcp_autocorking", "0"),
    ("tcp_fastopen", "0"),
    ("tcp_syncookies", "0"),
    ("tcp_retries1", "3"),
    ("tcp_retries2", "15"),
    ("tcp_rto_min_us", "200000"),
    ("tcp_rto_max_ms", "120000"),
    ("tcp_rcvbuf_low_rtt", "1000"),
    ("tcp_mtu_probing", "0"),
    ("tcp_min_snd_mss", "48"),
    ("tcp_fin_timeout", "60"),
    ("tcp_rfc1337", "0"),
    ("tcp_stdurg", "0"),
    ("tcp_abort_on_overflow", "0"),
];

/// Sysctls of the namespace as far as they have been touched.
#[derive(Debug, Default)]
pub(super) struct Pins {
    /// What was last written, by full name; gone when an operation of a script wrote it.
    written: BTreeMap<String, String>,
    /// What was there before a script wrote a name that is not in the baseline.
    found: BTreeMap<String, String>,
}

/// Sysctls as they are before a script begins.
#[derive(Debug, Default)]
pub(super) struct Pinned {
    pub(super) values: BTreeMap<String, String>,
    pub(super) missing: Vec<String>,
}

impl Pins {
    /// Sets everything for a script. What a kernel does not take stays as it is: the values read back tell.
    pub(super) fn set(&mut self, script: &Script) -> Pinned {
        let mut wanted: BTreeMap<String, String> = self.found.clone();
        wanted.extend(BASE.iter().map(|(n, v)| (sysctl_name(n), (*v).to_owned())));
        let named: BTreeSet<String> =
            BASE.iter().map(|(n, _)| sysctl_name(n)).chain(script.sysctl.keys().cloned()).collect();
        for (name, value) in &script.sysctl {
            self.remember(name);
            wanted.insert(name.clone(), value.clone());
        }
        for (name, value) in wanted {
            if self.written.get(&name) != Some(&value) {
                // Refused or missing: see above.
                let _ = sysctl::write(&name, &value);
                self.written.insert(name, value);
            }
        }
        let mut pinned = Pinned::default();
        for name in named {
            match sysctl::read(&name) {
                Ok(value) => {
                    pinned.values.insert(name, value);
                }
                Err(_) => pinned.missing.push(name),
            }
        }
        pinned
    }

    /// One sysctl, midway; the next script finds it as it was.
    pub(super) fn write(&mut self, name: &str, value: &str) -> Result<(), sysctl::SysctlError> {
        self.remember(name);
        self.written.remove(name);
        sysctl::write(name, value)
    }

    fn remember(&mut self, name: &str) {
        let known = self.found.contains_key(name) || BASE.iter().any(|(n, _)| sysctl_name(n) == name);
        if let (false, Ok(value)) = (known, sysctl::read(name)) {
            self.found.insert(name.to_owned(), value);
        }
    }
}
