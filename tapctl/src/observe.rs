//! What the kernel thinks: `TCP_INFO`, `SO_MEMINFO`, the window clamp, unread bytes, and the namespace's
//! counters by their `nstat` names.
//!
//! Kernels differ. A `tcp_info` shorter than the struct known here leaves its last fields *absent*, not zero,
//! and a counter this crate has never heard of is kept under its name.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io;
use std::mem::offset_of;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsFd;

use linux_raw_sys::net::tcp_info;

use crate::sys;

/// Why the kernel's view could not be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ObserveError {
    /// The socket did not answer.
    #[error("{what} of this socket: refused ({source}); it must be an open TCP socket")]
    Socket {
        /// What was asked.
        what: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// A file under /proc could not be read.
    #[error("{path}: could not be read ({source}); check that /proc is mounted")]
    Proc {
        /// The file.
        path: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// A file under /proc has another form.
    #[error("{path}: line {line} is not understood; this kernel may be newer than the parser")]
    Format {
        /// The file.
        path: &'static str,
        /// Which line, from one.
        line: usize,
    },
}

/// `struct tcp_info` as the kernel returned it; each accessor is `None` for fields past the returned length.
#[derive(Clone, Copy)]
pub struct TcpInfo {
    bytes: [u8; TCP_INFO_ROOM],
    len: usize,
}

/// More than any kernel returns today (280 bytes on 6.18).
const TCP_INFO_ROOM: usize = 512;
const _: () = assert!(size_of::<tcp_info>() <= TCP_INFO_ROOM);

macro_rules! tcp_info_fields {
    ($($field:ident: $kind:ty),+ $(,)?) => {
        impl TcpInfo {
            $(
                #[doc = concat!("`", stringify!($field), "`; `None` where this kernel's struct is shorter.")]
                pub fn $field(&self) -> Option<$kind> {
                    let at = offset_of!(tcp_info, $field);
                    let field = self.present().get(at..)?.first_chunk()?;
                    Some(<$kind>::from_ne_bytes(*field))
                }
            )+

            /// Every field this kernel returned, by name, in the struct's order (bit fields last).
            pub fn fields(&self) -> Vec<(&'static str, u64)> {
                let mut fields = Vec::new();
                $(
                    if let Some(value) = self.$field() {
                        fields.push((stringify!($field), u64::from(value)));
                    }
                )+
                let bits = [
                    ("tcpi_snd_wscale", self.tcpi_snd_wscale()),
                    ("tcpi_rcv_wscale", self.tcpi_rcv_wscale()),
                    ("tcpi_delivery_rate_app_limited", self.tcpi_delivery_rate_app_limited()),
                    ("tcpi_fastopen_client_fail", self.tcpi_fastopen_client_fail()),
                ];
                fields.extend(bits.into_iter().filter_map(|(name, value)| Some((name, u64::from(value?)))));
                fields
            }
        }
    };
}

tcp_info_fields! {
    tcpi_state: u8, tcpi_ca_state: u8, tcpi_retransmits: u8, tcpi_probes: u8, tcpi_backoff: u8,
    tcpi_options: u8, tcpi_rto: u32, tcpi_ato: u32, tcpi_snd_mss: u32, tcpi_rcv_mss: u32,
    tcpi_unacked: u32, tcpi_sacked: u32, tcpi_lost: u32, tcpi_retrans: u32, tcpi_fackets: u32,
    tcpi_last_data_sent: u32, tcpi_last_ack_sent: u32, tcpi_last_data_recv: u32,
    tcpi_last_ack_recv: u32, tcpi_pmtu: u32, tcpi_rcv_ssthresh: u32, tcpi_rtt: u32,
    tcpi_rttvar: u32, tcpi_snd_ssthresh: u32, tcpi_snd_cwnd: u32, tcpi_advmss: u32,
    tcpi_reordering: u32, tcpi_rcv_rtt: u32, tcpi_rcv_space: u32, tcpi_total_retrans: u32,
    tcpi_pacing_rate: u64, tcpi_max_pacing_rate: u64, tcpi_bytes_acked: u64,
    tcpi_bytes_received: u64, tcpi_segs_out: u32, tcpi_segs_in: u32, tcpi_notsent_bytes: u32,
    tcpi_min_rtt: u32, tcpi_data_segs_in: u32, tcpi_data_segs_out: u32, tcpi_delivery_rate: u64,
    tcpi_busy_time: u64, tcpi_rwnd_limited: u64, tcpi_sndbuf_limited: u64, tcpi_delivered: u32,
    tcpi_delivered_ce: u32, tcpi_bytes_sent: u64, tcpi_bytes_retrans: u64, tcpi_dsack_dups: u32,
    tcpi_reord_seen: u32, tcpi_rcv_ooopack: u32, tcpi_snd_wnd: u32, tcpi_rcv_wnd: u32,
    tcpi_rehash: u32, tcpi_total_rto: u16, tcpi_total_rto_recoveries: u16,
    tcpi_total_rto_time: u32,
}

impl TcpInfo {
    /// Asks a TCP socket.
    pub fn of(socket: &impl AsFd) -> Result<Self, ObserveError> {
        let mut bytes = [0; TCP_INFO_ROOM];
        let len = sys::getsockopt_bytes(socket.as_fd(), libc::IPPROTO_TCP, libc::TCP_INFO, &mut bytes)
            .map_err(|source| ObserveError::Socket { what: "TCP_INFO", source })?;
        Ok(Self { bytes, len })
    }

    /// From recorded bytes; what exceeds the room is dropped.
    pub fn from_bytes(recorded: &[u8]) -> Self {
        let mut bytes = [0; TCP_INFO_ROOM];
        let len = recorded.len().min(TCP_INFO_ROOM);
        for (slot, byte) in bytes.iter_mut().zip(recorded) {
            *slot = *byte;
        }
        Self { bytes, len }
    }

    /// The bytes the kernel returned.
    pub fn present(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }

    /// `tcpi_snd_wscale`: the peer's window scale.
    pub fn tcpi_snd_wscale(&self) -> Option<u8> {
        self.bit_field(0, 0, 0xf)
    }

    /// `tcpi_rcv_wscale`: our window scale.
    pub fn tcpi_rcv_wscale(&self) -> Option<u8> {
        self.bit_field(0, 4, 0xf)
    }

    /// `tcpi_delivery_rate_app_limited`.
    pub fn tcpi_delivery_rate_app_limited(&self) -> Option<u8> {
        self.bit_field(1, 0, 0x1)
    }

    /// `tcpi_fastopen_client_fail`.
    pub fn tcpi_fastopen_client_fail(&self) -> Option<u8> {
        self.bit_field(1, 1, 0x3)
    }

    /// One field by its kernel name.
    pub fn get(&self, name: &str) -> Option<u64> {
        self.fields().into_iter().find(|(field, _)| *field == name).map(|(_, value)| value)
    }

    /// The two bytes after `tcpi_options` hold bit fields, lowest bit first on little-endian machines.
    fn bit_field(&self, byte: usize, shift: u32, mask: u8) -> Option<u8> {
        let value = *self.present().get(offset_of!(tcp_info, _bitfield_1).saturating_add(byte))?;
        let from_top = 8_u32.saturating_sub(shift).saturating_sub(mask.count_ones());
        let shift = if cfg!(target_endian = "little") { shift } else { from_top };
        Some((value >> shift) & mask)
    }
}

impl fmt::Debug for TcpInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.fields()).finish()
    }
}

/// `SO_MEMINFO`: how the socket's memory is charged, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MemInfo {
    /// `SK_MEMINFO_RMEM_ALLOC`: charged to the receive side (`sk_rmem_alloc`).
    pub rmem_alloc: u32,
    /// `SK_MEMINFO_RCVBUF`: its limit (`sk_rcvbuf`).
    pub rcvbuf: u32,
    /// `SK_MEMINFO_WMEM_ALLOC`.
    pub wmem_alloc: u32,
    /// `SK_MEMINFO_SNDBUF`.
    pub sndbuf: u32,
    /// `SK_MEMINFO_FWD_ALLOC`: reserved ahead, not yet charged (`sk_forward_alloc`).
    pub fwd_alloc: u32,
    /// `SK_MEMINFO_WMEM_QUEUED`.
    pub wmem_queued: u32,
    /// `SK_MEMINFO_OPTMEM`.
    pub optmem: u32,
    /// `SK_MEMINFO_BACKLOG`: waiting while the socket was owned by the application.
    pub backlog: u32,
    /// `SK_MEMINFO_DROPS`.
    pub drops: u32,
}

impl MemInfo {
    /// Asks a socket.
    pub fn of(socket: &impl AsFd) -> Result<Self, ObserveError> {
        let mut bytes = [0; 64];
        let len = sys::getsockopt_bytes(socket.as_fd(), libc::SOL_SOCKET, SO_MEMINFO, &mut bytes)
            .map_err(|source| ObserveError::Socket { what: "SO_MEMINFO", source })?;
        let mut words = bytes.get(..len).unwrap_or_default().as_chunks::<4>().0.iter();
        // The option is younger (4.12) than its last value (4.7), so all nine are there or something is odd.
        let mut next = || {
            words.next().map(|word| u32::from_ne_bytes(*word)).ok_or_else(|| ObserveError::Socket {
                what: "SO_MEMINFO",
                source: io::Error::other(format!("{len} bytes returned, 36 expected")),
            })
        };
        Ok(Self {
            rmem_alloc: next()?,
            rcvbuf: next()?,
            wmem_alloc: next()?,
            sndbuf: next()?,
            fwd_alloc: next()?,
            wmem_queued: next()?,
            optmem: next()?,
            backlog: next()?,
            drops: next()?,
        })
    }

    /// All nine by name, in the kernel's order.
    pub fn fields(&self) -> [(&'static str, u32); 9] {
        let Self { rmem_alloc, rcvbuf, wmem_alloc, sndbuf, fwd_alloc, wmem_queued, optmem, backlog, drops } =
            *self;
        [
            ("rmem_alloc", rmem_alloc),
            ("rcvbuf", rcvbuf),
            ("wmem_alloc", wmem_alloc),
            ("sndbuf", sndbuf),
            ("fwd_alloc", fwd_alloc),
            ("wmem_queued", wmem_queued),
            ("optmem", optmem),
            ("backlog", backlog),
            ("drops", drops),
        ]
    }
}

/// `SO_MEMINFO` of the generic socket headers; libc does not name it.
const SO_MEMINFO: i32 = linux_raw_sys::net::SO_MEMINFO as i32;

/// Everything the kernel tells about one of our TCP sockets at one moment.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct KernelSocketView {
    /// `TCP_INFO`.
    pub tcp_info: TcpInfo,
    /// `SO_MEMINFO`; `None` before Linux 4.12.
    pub mem: Option<MemInfo>,
    /// `TCP_WINDOW_CLAMP`.
    pub window_clamp: Option<u32>,
    /// `SIOCINQ`: bytes an application could read now; `None` while listening.
    pub inq: Option<u32>,
}

impl KernelSocketView {
    /// Asks a TCP socket of this process; needs no rights.
    pub fn of(socket: &impl AsFd) -> Result<Self, ObserveError> {
        let fd = socket.as_fd();
        let mut clamp = [0; 4];
        let window_clamp = sys::getsockopt_bytes(fd, libc::IPPROTO_TCP, libc::TCP_WINDOW_CLAMP, &mut clamp);
        Ok(Self {
            tcp_info: TcpInfo::of(socket)?,
            mem: MemInfo::of(socket).ok(),
            window_clamp: window_clamp.ok().map(|_| u32::from_ne_bytes(clamp)),
            inq: sys::siocinq(fd).ok().and_then(|bytes| u32::try_from(bytes).ok()),
        })
    }
}

/// Sets an integer option at level `IPPROTO_TCP` or `SOL_SOCKET` that the standard library has no name for,
/// such as `TCP_WINDOW_CLAMP`, `SO_RCVBUFFORCE` or `SO_RCVLOWAT`.
pub fn set_socket_option(socket: &impl AsFd, level: i32, option: i32, value: i32) -> io::Result<()> {
    sys::setsockopt_int(socket.as_fd(), level, option, value)
}

/// The integer value of a socket option.
pub fn socket_option(socket: &impl AsFd, level: i32, option: i32) -> io::Result<i32> {
    let mut bytes = [0; 4];
    sys::getsockopt_bytes(socket.as_fd(), level, option, &mut bytes)?;
    Ok(i32::from_ne_bytes(bytes))
}

const NETSTAT: &str = "/proc/thread-self/net/netstat";
const SNMP: &str = "/proc/thread-self/net/snmp";

/// The namespace's counters by their `nstat` names: `TcpExtTCPRcvCollapsed`, `TcpInSegs`, `IpExtInOctets`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NetCounters {
    values: BTreeMap<String, i64>,
}

impl NetCounters {
    /// Reads the counters of the calling thread's namespace.
    pub fn read() -> Result<Self, ObserveError> {
        let mut counters = Self::default();
        for path in [SNMP, NETSTAT] {
            let text = fs::read_to_string(path).map_err(|source| ObserveError::Proc { path, source })?;
            counters.parse(path, &text)?;
        }
        Ok(counters)
    }

    /// From the text of `/proc/net/netstat` or `/proc/net/snmp`: pairs of a line with names and a line with
    /// values, both starting with the group. Unknown groups and names are kept.
    pub fn from_text(text: &str) -> Result<Self, ObserveError> {
        let mut counters = Self::default();
        counters.parse("text", text)?;
        Ok(counters)
    }

    fn parse(&mut self, path: &'static str, text: &str) -> Result<(), ObserveError> {
        let mut lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
        while let Some((number, names)) = lines.next() {
            let wrong = |line: usize| ObserveError::Format { path, line: line.saturating_add(1) };
            let (value_number, values) = lines.next().ok_or_else(|| wrong(number))?;
            let (group, names) = names.split_once(':').ok_or_else(|| wrong(number))?;
            let (value_group, values) = values.split_once(':').ok_or_else(|| wrong(value_number))?;
            if group != value_group {
                return Err(wrong(value_number));
            }
            let mut values = values.split_whitespace();
            for name in names.split_whitespace() {
                let value = values.next().and_then(number_of).ok_or_else(|| wrong(value_number))?;
                self.values.insert(format!("{group}{name}"), value);
            }
        }
        Ok(())
    }

    /// One counter, by its `nstat` name, or by its bare name within `TcpExt`, then `Tcp`.
    pub fn get(&self, name: &str) -> Option<i64> {
        let find = |key: &str| self.values.get(key).copied();
        find(name).or_else(|| find(&format!("TcpExt{name}"))).or_else(|| find(&format!("Tcp{name}")))
    }

    /// All counters in the order of their names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, i64)> {
        self.values.iter().map(|(name, value)| (name.as_str(), *value))
    }

    /// How many counters there are.
    pub fn len(&self) -> usize {
        self.values.len()
    }

    /// Are there none?
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// What changed since `earlier`: only counters that differ; one that is new counts from zero.
    #[must_use]
    pub fn delta(&self, earlier: &Self) -> Self {
        let values = self
            .values
            .iter()
            .filter_map(|(name, now)| {
                let before = earlier.values.get(name).copied().unwrap_or(0);
                (*now != before).then(|| (name.clone(), now.wrapping_sub(before)))
            })
            .collect();
        Self { values }
    }
}

impl IntoIterator for NetCounters {
    type Item = (String, i64);
    type IntoIter = std::collections::btree_map::IntoIter<String, i64>;

    fn into_iter(self) -> Self::IntoIter {
        self.values.into_iter()
    }
}

impl fmt::Display for NetCounters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, value) in self.iter() {
            writeln!(f, "{name:<40} {value}")?;
        }
        Ok(())
    }
}

/// Counters are unsigned 64-bit in the kernel, except MaxConn, which may be -1; deltas wrap the same way.
fn number_of(text: &str) -> Option<i64> {
    text.parse::<i64>().ok().or_else(|| text.parse::<u64>().ok().map(u64::cast_signed))
}

/// One TCP socket of the namespace, as `/proc/net/tcp` lists it; whose it is does not matter.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct SocketEntry {
    /// Our end.
    pub local: SocketAddr,
    /// The other end.
    pub remote: SocketAddr,
    /// The state's name, as `ss` shows it.
    pub state: &'static str,
    /// Bytes sent and not acknowledged; for a listener, the backlog's limit.
    pub tx_queue: u32,
    /// Bytes received and not read; for a listener, connections waiting.
    pub rx_queue: u32,
    /// Inode, which tells sockets apart.
    pub inode: u64,
}

const TCP4: &str = "/proc/thread-self/net/tcp";
const TCP6: &str = "/proc/thread-self/net/tcp6";

/// All TCP sockets of the calling thread's namespace.
pub fn sockets() -> Result<Vec<SocketEntry>, ObserveError> {
    let mut found = Vec::new();
    for path in [TCP4, TCP6] {
        match fs::read_to_string(path) {
            Ok(text) => {
                for (number, line) in text.lines().enumerate().skip(1) {
                    let entry = socket_entry(line);
                    found.push(entry.ok_or(ObserveError::Format { path, line: number.saturating_add(1) })?);
                }
            }
            // A kernel without IPv6 has no such file.
            Err(source) if source.kind() == io::ErrorKind::NotFound && path == TCP6 => {}
            Err(source) => return Err(ObserveError::Proc { path, source }),
        }
    }
    Ok(found)
}

fn socket_entry(line: &str) -> Option<SocketEntry> {
    let mut words = line.split_whitespace();
    let _slot = words.next()?;
    let local = proc_address(words.next()?)?;
    let remote = proc_address(words.next()?)?;
    let state = state_name(u8::from_str_radix(words.next()?, 16).ok()?);
    let (tx_queue, rx_queue) = words.next()?.split_once(':')?;
    // timer, retransmits, uid, timeout come before the inode.
    let inode = words.nth(4)?.parse().ok()?;
    Some(SocketEntry {
        local,
        remote,
        state,
        tx_queue: u32::from_str_radix(tx_queue, 16).ok()?,
        rx_queue: u32::from_str_radix(rx_queue, 16).ok()?,
        inode,
    })
}

/// Addresses are 32-bit words of network-order bytes printed in the machine's order.
fn proc_address(text: &str) -> Option<SocketAddr> {
    let (address, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let word = |at: usize| {
        let digits = address.get(at.checked_mul(8)?..)?.get(..8)?;
        Some(u32::from_str_radix(digits, 16).ok()?.to_ne_bytes())
    };
    let ip = match address.len() {
        8 => IpAddr::V4(Ipv4Addr::from(word(0)?)),
        32 => {
            let mut bytes = [0; 16];
            for (index, slot) in bytes.as_chunks_mut::<4>().0.iter_mut().enumerate() {
                *slot = word(index)?;
            }
            IpAddr::V6(Ipv6Addr::from(bytes))
        }
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

/// `include/net/tcp_states.h`, in the words of `ss`.
fn state_name(state: u8) -> &'static str {
    match state {
        1 => "ESTAB",
        2 => "SYN-SENT",
        3 => "SYN-RECV",
        4 => "FIN-WAIT-1",
        5 => "FIN-WAIT-2",
        6 => "TIME-WAIT",
        7 => "CLOSE",
        8 => "CLOSE-WAIT",
        9 => "LAST-ACK",
        10 => "LISTEN",
        11 => "CLOSING",
        12 => "NEW-SYN-RECV",
        _ => "UNKNOWN",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_past_the_returned_length_are_absent() {
        let whole = TcpInfo::from_bytes(&[1; 280]);
        assert_eq!(whole.tcpi_rcv_wnd(), Some(0x0101_0101));
        let at = offset_of!(tcp_info, tcpi_rcv_wnd);
        let old = TcpInfo::from_bytes(&vec![1; at + 3]);
        assert_eq!((old.tcpi_rcv_wnd(), old.tcpi_snd_wnd()), (None, Some(0x0101_0101)));
        assert_eq!(old.get("tcpi_rcv_wnd"), None);
        assert_eq!(TcpInfo::from_bytes(&[]).fields(), []);
        assert_eq!(TcpInfo::from_bytes(&[7; 4096]).present().len(), 512);
    }

    #[test]
    #[cfg(target_endian = "little")]
    fn window_scales_are_the_two_nibbles_after_the_options() {
        let mut bytes = [0; 280];
        bytes[6] = 0x72;
        bytes[7] = 0b101;
        let info = TcpInfo::from_bytes(&bytes);
        assert_eq!((info.tcpi_snd_wscale(), info.tcpi_rcv_wscale()), (Some(2), Some(7)));
        assert_eq!(
            (info.tcpi_delivery_rate_app_limited(), info.tcpi_fastopen_client_fail()),
            (Some(1), Some(2))
        );
    }

    #[test]
    fn counters_keep_unknown_names_and_wrap() {
        let before = NetCounters::from_text("TcpExt: A B\nTcpExt: 1 2\nNew: X\nNew: -1\n").unwrap();
        let after =
            NetCounters::from_text("TcpExt: A B C\nTcpExt: 4 2 18446744073709551615\nNew: X\nNew: -1\n")
                .unwrap();
        assert_eq!(before.get("NewX"), Some(-1));
        assert_eq!((after.get("A"), after.get("TcpExtA"), after.get("Z")), (Some(4), Some(4), None));
        let delta: Vec<_> = after.delta(&before).into_iter().collect();
        assert_eq!(delta, [("TcpExtA".to_owned(), 3), ("TcpExtC".to_owned(), -1)]);
    }

    #[test]
    fn broken_counter_files_name_the_line() {
        for (text, at) in
            [("A: x", 1), ("A: x\nB: 1", 2), ("A: x\nA: y", 2), ("A: x y\nA: 1", 2), ("x\ny", 1)]
        {
            match NetCounters::from_text(text) {
                Err(ObserveError::Format { line, .. }) => assert_eq!(line, at, "{text:?}"),
                other => panic!("{text:?}: {other:?}"),
            }
        }
    }

    #[test]
    #[cfg(target_endian = "little")]
    fn proc_net_tcp_lines() {
        let line = "   0: 0100007F:1F90 00000000:0000 0A 00000000:00000003 00:00000000 00000000     0        0 12345 1 0 100 0 0 10 0";
        let entry = socket_entry(line).unwrap();
        assert_eq!((entry.local.to_string().as_str(), entry.state), ("127.0.0.1:8080", "LISTEN"));
        assert_eq!((entry.rx_queue, entry.inode), (3, 12345));
        let six = proc_address("B80D0120000000000000000001000000:0050").unwrap();
        assert_eq!(six.to_string(), "[2001:db8::1]:80");
        for bad in [
            "",
            "1: x",
            "0: 0100007F:1F90 00000000:0000 0A 0:0",
            "0: ü00007F:1F90 00000000:0000 0A 0:0 0 0 0 0 1",
        ] {
            assert!(socket_entry(bad).is_none(), "{bad}");
        }
    }
}
