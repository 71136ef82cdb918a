//! What the kernel tells about the socket, sorted into what repeats and what hangs on the clock.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;

use rightedge_tapctl::observe::{KernelSocketView, NetCounters, ObserveError};

use super::super::trace::Record;

/// TCP_INFO that hangs on the clock.
const VOLATILE: &[&str] = &[
    "rto",
    "rtt",
    "rttvar",
    "rcv_rtt",
    "min_rtt",
    "last_data_sent",
    "last_ack_sent",
    "last_data_recv",
    "last_ack_recv",
    "pacing_rate",
    "max_pacing_rate",
    "delivery_rate",
    "delivery_rate_app_limited",
    "busy_time",
    "rwnd_limited",
    "sndbuf_limited",
    "snd_cwnd",
    "snd_ssthresh",
    "reordering",
    "total_rto_time",
];

/// Puts what a socket says into a record.
pub(super) fn fill(record: &mut Record, view: &KernelSocketView) {
    for (name, value) in view.tcp_info.fields() {
        let name = name.strip_prefix("tcpi_").unwrap_or(name);
        let map = if VOLATILE.contains(&name) { &mut record.vol.info } else { &mut record.info };
        map.insert(name.to_owned(), value);
    }
    if let Some(mem) = view.mem {
        record.mem = mem.fields().into_iter().map(|(n, v)| (n.to_owned(), v.into())).collect();
    }
    record.clamp = view.window_clamp.map(u64::from);
    record.inq = view.inq.map(u64::from);
}

/// State and bytes in order, which decide whether an acknowledgement is due.
pub(super) fn progress(socket: &OwnedFd) -> Result<(u8, u64), ObserveError> {
    let info = rightedge_tapctl::observe::TcpInfo::of(socket)?;
    Ok((info.tcpi_state().unwrap_or(0), info.tcpi_bytes_received().unwrap_or(0)))
}

/// Tcp and TcpExt counters of the namespace. How many connections there are is no event.
pub(super) fn counters() -> Result<BTreeMap<String, i64>, ObserveError> {
    let ours = |name: &str| {
        let rest = name.strip_prefix("TcpExt").or_else(|| name.strip_prefix("Tcp"));
        rest.is_some() && name != "TcpCurrEstab"
    };
    Ok(NetCounters::read()?.into_iter().filter(|(name, _)| ours(name)).collect())
}
