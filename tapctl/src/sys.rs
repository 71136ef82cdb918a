//! The only module with `unsafe`: the system calls no crate wraps.
//!
//! Every function here is a thin, total wrapper: it takes borrowed descriptors and plain values, makes one
//! kernel call and returns its `errno` as an [`io::Error`]. Meaning, names and advice belong to the callers.
#![expect(unsafe_code, reason = "raw system calls live here and nowhere else")]
#![deny(unsafe_op_in_unsafe_fn, clippy::undocumented_unsafe_blocks, clippy::multiple_unsafe_ops_per_block)]

use std::io;
use std::mem::{offset_of, size_of};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

use libc::{c_int, c_short, c_ulong, c_void};
use linux_raw_sys::{if_tun, ioctl};

/// Longest interface name, without the terminating zero (`IFNAMSIZ - 1`).
pub(crate) const IFNAME_MAX: usize = libc::IFNAMSIZ - 1;

pub(crate) const IFF_TUN: u32 = if_tun::IFF_TUN;
pub(crate) const IFF_TAP: u32 = if_tun::IFF_TAP;
pub(crate) const IFF_NO_PI: u32 = if_tun::IFF_NO_PI;
pub(crate) const IFF_VNET_HDR: u32 = if_tun::IFF_VNET_HDR;
pub(crate) const IFF_MULTI_QUEUE: u32 = if_tun::IFF_MULTI_QUEUE;
pub(crate) const IFF_NAPI: u32 = if_tun::IFF_NAPI;
pub(crate) const IFF_NAPI_FRAGS: u32 = if_tun::IFF_NAPI_FRAGS;

/// `TUNSETIFF`: attaches the descriptor to a device, creating it when needed; returns the device's real name.
pub(crate) fn tun_set_iff(fd: BorrowedFd<'_>, name: &str, flags: u32) -> io::Result<String> {
    let mut request = ifreq_for(name)?;
    // The kernel reads `ifr_flags` as an unsigned 16-bit mask; the C type is merely signed.
    request.ifr_ifru.ifru_flags = (flags & 0xffff) as u16 as c_short;
    // SAFETY: `request` is a fully initialised `ifreq` that outlives the call; TUNSETIFF reads and writes
    // exactly one `ifreq`.
    let rc = unsafe { libc::ioctl(fd.as_raw_fd(), c_ulong::from(ioctl::TUNSETIFF) as _, &raw mut request) };
    check(rc)?;
    Ok(name_of(&request))
}

/// `TUNSETOFFLOAD`: the mask goes by value.
pub(crate) fn tun_set_offload(fd: BorrowedFd<'_>, mask: u32) -> io::Result<()> {
    ioctl_by_value(fd, ioctl::TUNSETOFFLOAD, mask)
}

/// `TUNSETPERSIST`: whether the device outlives its last descriptor.
pub(crate) fn tun_set_persist(fd: BorrowedFd<'_>, persist: bool) -> io::Result<()> {
    ioctl_by_value(fd, ioctl::TUNSETPERSIST, u32::from(persist))
}

/// `TUNSETVNETHDRSZ`: bytes of virtio header in front of each frame.
pub(crate) fn tun_set_vnet_hdr_size(fd: BorrowedFd<'_>, bytes: c_int) -> io::Result<()> {
    ioctl_int_pointer(fd, ioctl::TUNSETVNETHDRSZ, bytes)
}

/// `TUNSETVNETLE`: header fields little-endian whatever the machine.
pub(crate) fn tun_set_vnet_little_endian(fd: BorrowedFd<'_>) -> io::Result<()> {
    ioctl_int_pointer(fd, ioctl::TUNSETVNETLE, 1)
}

/// `TUNSETSNDBUF`: how much may be in flight towards the kernel.
pub(crate) fn tun_set_sndbuf(fd: BorrowedFd<'_>, bytes: c_int) -> io::Result<()> {
    ioctl_int_pointer(fd, ioctl::TUNSETSNDBUF, bytes)
}

/// `TUNSETCARRIER`: plug or unplug the virtual cable.
pub(crate) fn tun_set_carrier(fd: BorrowedFd<'_>, up: bool) -> io::Result<()> {
    ioctl_int_pointer(fd, ioctl::TUNSETCARRIER, c_int::from(up))
}

/// A descriptor view of a `tun_tap::Iface`, which offers only a raw number.
pub(crate) fn borrow_iface(iface: &tun_tap::Iface) -> BorrowedFd<'_> {
    // SAFETY: `iface` owns the open descriptor and the result borrows `iface`, so it cannot be closed while
    // the view lives.
    unsafe { BorrowedFd::borrow_raw(iface.as_raw_fd()) }
}

/// `getsockopt` into a byte buffer; returns how many bytes the kernel gave.
pub(crate) fn getsockopt_bytes(
    fd: BorrowedFd<'_>,
    level: c_int,
    option: c_int,
    buf: &mut [u8],
) -> io::Result<usize> {
    let mut len = libc::socklen_t::try_from(buf.len()).unwrap_or(libc::socklen_t::MAX);
    // SAFETY: the pointer and `len` describe `buf`, which is writable for the whole call; the kernel writes
    // at most `len` bytes and stores the count in `len`.
    let rc = unsafe {
        libc::getsockopt(fd.as_raw_fd(), level, option, buf.as_mut_ptr().cast::<c_void>(), &raw mut len)
    };
    check(rc)?;
    Ok((len as usize).min(buf.len()))
}

/// `setsockopt` with one `int`.
pub(crate) fn setsockopt_int(
    fd: BorrowedFd<'_>,
    level: c_int,
    option: c_int,
    value: c_int,
) -> io::Result<()> {
    let len = size_of::<c_int>() as libc::socklen_t;
    // SAFETY: the pointer describes one readable `int` that outlives the call.
    let rc =
        unsafe { libc::setsockopt(fd.as_raw_fd(), level, option, (&raw const value).cast::<c_void>(), len) };
    check(rc)
}

/// `SIOCINQ`: unread bytes in the receive queue.
pub(crate) fn siocinq(fd: BorrowedFd<'_>) -> io::Result<i32> {
    let mut value: c_int = 0;
    // SAFETY: SIOCINQ (the same number as FIONREAD) writes one int through the pointer.
    let rc = unsafe { libc::ioctl(fd.as_raw_fd(), libc::FIONREAD, &raw mut value) };
    check(rc)?;
    Ok(value)
}

/// `SIOCETHTOOL` with an `ethtool_value`; returns the value after the call.
pub(crate) fn ethtool_value(fd: BorrowedFd<'_>, name: &str, command: u32, data: u32) -> io::Result<u32> {
    /// `struct ethtool_value`.
    #[repr(C)]
    struct EthtoolValue {
        cmd: u32,
        data: u32,
    }
    let mut value = EthtoolValue { cmd: command, data };
    let mut request = ifreq_for(name)?;
    request.ifr_ifru.ifru_data = (&raw mut value).cast();
    // SAFETY: `request` is initialised and its data pointer is valid for an `ethtool_value`, the only thing
    // the commands used here read and write; both outlive the call.
    let rc = unsafe { libc::ioctl(fd.as_raw_fd(), libc::SIOCETHTOOL as _, &raw mut request) };
    check(rc)?;
    Ok(value.data)
}

/// `unshare(2)` for the calling thread.
pub(crate) fn unshare(flags: c_int) -> io::Result<()> {
    // SAFETY: none of the flags used in this crate (NEWNET, NEWUSER, NEWPID) touches memory or descriptors.
    let rc = unsafe { libc::unshare(flags) };
    check(rc)
}

/// Makes the command die with SIGKILL when the thread that spawns it ends.
pub(crate) fn die_with_parent(command: &mut Command) {
    // The parent could die between fork and prctl, and then no signal ever comes. Only the parent keeps the
    // writing end, so hang-up on the other end means it is gone. (getppid says nothing in a PID namespace.)
    let pipe = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).ok();
    let hook = move || {
        check(raw_set_pdeathsig())?;
        match &pipe {
            Some((reader, writer)) if parent_is_gone(reader.as_raw_fd(), writer.as_raw_fd()) => {
                Err(io::Error::from_raw_os_error(libc::ESRCH))
            }
            _ => Ok(()),
        }
    };
    // SAFETY: the hook runs between fork and exec and makes only async-signal-safe system calls; it
    // allocates nothing (an error made from a number does not).
    unsafe { command.pre_exec(hook) };
}

/// In the child only: closes its copy of the writing end, then looks whether another one is left.
fn parent_is_gone(reader: c_int, writer: c_int) -> bool {
    // SAFETY: the number is this child's copy of a descriptor nothing in the child uses again; the owning
    // value is never dropped here because exec or _exit follows.
    unsafe { libc::close(writer) };
    let mut watched = libc::pollfd { fd: reader, events: libc::POLLIN, revents: 0 };
    // SAFETY: one initialised `pollfd`, no waiting.
    let ready = unsafe { libc::poll(&raw mut watched, 1, 0) };
    ready > 0 && watched.revents & libc::POLLHUP != 0
}

fn raw_set_pdeathsig() -> c_int {
    // SAFETY: PR_SET_PDEATHSIG takes one integer and touches no memory.
    unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as c_ulong, 0, 0, 0) }
}

/// `sched_setscheduler` with SCHED_FIFO for the calling thread.
pub(crate) fn sched_fifo(priority: c_int) -> io::Result<()> {
    // SAFETY: `sched_param` is plain data for which all-zero is valid (musl's has fields beyond the priority).
    let mut param: libc::sched_param = unsafe { std::mem::zeroed() };
    param.sched_priority = priority;
    // SAFETY: pid 0 is the calling thread; the kernel reads one initialised `sched_param`.
    let rc = unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &raw const param) };
    check(rc)
}

/// Makes the command begin under SCHED_FIFO and on one CPU, as far as the kernel lets it.
pub(crate) fn favour(command: &mut Command, priority: c_int, cpu: Option<usize>) {
    let cpus = cpu.map(|cpu| {
        let mut set = rustix::thread::CpuSet::new();
        set.set(cpu);
        set
    });
    let hook = move || {
        if let Some(set) = &cpus {
            let _ = rustix::thread::sched_setaffinity(None, set);
        }
        let _ = sched_fifo(priority);
        Ok(())
    };
    // SAFETY: the hook runs between fork and exec and makes two system calls on values made before; it
    // allocates nothing.
    unsafe { command.pre_exec(hook) };
}

/// Ignores a signal in this process.
pub(crate) fn ignore_signal(signal: c_int) {
    // SAFETY: SIG_IGN installs no handler, so no code of ours can run in signal context.
    unsafe { libc::signal(signal, libc::SIG_IGN) };
}

/// An `AF_PACKET` raw socket bound to one interface, close-on-exec and non-blocking, with receive timestamps.
pub(crate) fn packet_socket(ifindex: u32) -> io::Result<OwnedFd> {
    let protocol = (libc::ETH_P_ALL as u16).to_be();
    let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // Protocol 0 keeps the socket deaf until it is bound, so no frame of another interface slips in.
    // SAFETY: socket(2) touches no memory of ours.
    let raw = unsafe { libc::socket(libc::AF_PACKET, kind, 0) };
    check(raw)?;
    // SAFETY: `raw` was just returned by the kernel and nobody else owns it.
    let fd = unsafe { OwnedFd::from_raw_fd(raw) };
    setsockopt_int(std::os::fd::AsFd::as_fd(&fd), libc::SOL_SOCKET, libc::SO_TIMESTAMPNS, 1)?;
    let address = libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: protocol,
        sll_ifindex: i32::try_from(ifindex).map_err(|_| io::Error::from_raw_os_error(libc::ENODEV))?,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    let len = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
    // SAFETY: `address` is an initialised `sockaddr_ll` and `len` is its size.
    let rc = unsafe { libc::bind(raw, (&raw const address).cast(), len) };
    check(rc)?;
    Ok(fd)
}

/// Hears every address on an interface as long as the socket is open (`PACKET_MR_PROMISC`).
pub(crate) fn packet_promiscuous(fd: BorrowedFd<'_>, ifindex: u32) -> io::Result<()> {
    let request = libc::packet_mreq {
        mr_ifindex: i32::try_from(ifindex).map_err(|_| io::Error::from_raw_os_error(libc::ENODEV))?,
        mr_type: libc::PACKET_MR_PROMISC as u16,
        mr_alen: 0,
        mr_address: [0; 8],
    };
    let len = size_of::<libc::packet_mreq>() as libc::socklen_t;
    // SAFETY: the pointer describes one readable `packet_mreq` that outlives the call.
    let rc = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            libc::SOL_PACKET,
            libc::PACKET_ADD_MEMBERSHIP,
            (&raw const request).cast::<c_void>(),
            len,
        )
    };
    check(rc)
}

/// Lets through only frames to `mac` or to a group (classic BPF, `SO_ATTACH_FILTER`).
pub(crate) fn packet_filter(fd: BorrowedFd<'_>, mac: [u8; 6]) -> io::Result<()> {
    const LOAD_WORD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
    const LOAD_HALF: u16 = (libc::BPF_LD | libc::BPF_H | libc::BPF_ABS) as u16;
    const LOAD_BYTE: u16 = (libc::BPF_LD | libc::BPF_B | libc::BPF_ABS) as u16;
    const EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    const ANY_BIT: u16 = (libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K) as u16;
    const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
    let op = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
    let [a, b, c, d, e, f] = mac;
    let mut program = [
        op(LOAD_BYTE, 0, 0, 0),
        op(ANY_BIT, 4, 0, 1),
        op(LOAD_WORD, 0, 0, 0),
        op(EQUAL, 0, 3, u32::from_be_bytes([a, b, c, d])),
        op(LOAD_HALF, 0, 0, 4),
        op(EQUAL, 0, 1, u32::from(u16::from_be_bytes([e, f]))),
        op(RETURN, 0, 0, u32::MAX),
        op(RETURN, 0, 0, 0),
    ];
    let request = libc::sock_fprog { len: 8, filter: program.as_mut_ptr() };
    let len = size_of::<libc::sock_fprog>() as libc::socklen_t;
    // SAFETY: the pointer describes one readable `sock_fprog`, which points at `len` live instructions; the kernel copies
    // both within the call.
    let rc = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_FILTER,
            (&raw const request).cast::<c_void>(),
            len,
        )
    };
    check(rc)
}

/// What one `recvmsg` on a packet socket returned.
pub(crate) struct PacketMeta {
    /// Bytes copied into the buffer.
    pub(crate) len: usize,
    /// Bytes the frame really had.
    pub(crate) wire_len: usize,
    /// `sll_pkttype`.
    pub(crate) packet_type: u8,
    /// Seconds and nanoseconds of the realtime clock.
    pub(crate) stamp: Option<(i64, i64)>,
}

/// `recvmsg` on a packet socket, with the address and the timestamp.
pub(crate) fn packet_recv(fd: BorrowedFd<'_>, buf: &mut [u8]) -> io::Result<PacketMeta> {
    // Room for one `cmsghdr` and one `timespec`, aligned as the kernel's macros expect.
    let mut control = [0u64; 8];
    let mut address = libc::sockaddr_ll {
        sll_family: 0,
        sll_protocol: 0,
        sll_ifindex: 0,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    let mut part = libc::iovec { iov_base: buf.as_mut_ptr().cast(), iov_len: buf.len() };
    // SAFETY: all-zero is a valid `msghdr` (null pointers, zero lengths).
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_name = (&raw mut address).cast();
    message.msg_namelen = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = size_of::<[u64; 8]>() as _;
    // SAFETY: every pointer in `message` describes a live buffer above with its true length.
    let received = unsafe { libc::recvmsg(fd.as_raw_fd(), &raw mut message, libc::MSG_TRUNC) };
    let wire_len = usize::try_from(received).map_err(|_| io::Error::last_os_error())?;
    let used = (message.msg_controllen as usize).min(size_of::<[u64; 8]>());
    Ok(PacketMeta {
        len: wire_len.min(buf.len()),
        wire_len,
        packet_type: address.sll_pkttype,
        stamp: timestamp_of(zerocopy::IntoBytes::as_bytes(&control).get(..used).unwrap_or_default()),
    })
}

/// Finds the first SCM_TIMESTAMPNS in a control buffer, by offsets instead of pointers.
fn timestamp_of(control: &[u8]) -> Option<(i64, i64)> {
    let level = i32_at(control, offset_of!(libc::cmsghdr, cmsg_level))?;
    let kind = i32_at(control, offset_of!(libc::cmsghdr, cmsg_type))?;
    if level != libc::SOL_SOCKET || kind != libc::SCM_TIMESTAMPNS {
        return None;
    }
    let data = control.get(size_of::<libc::cmsghdr>()..)?;
    Some((i64_at(data, 0)?, i64_at(data, 8)?))
}

fn i32_at(bytes: &[u8], at: usize) -> Option<i32> {
    Some(i32::from_ne_bytes(bytes.get(at..)?.first_chunk().copied()?))
}

fn i64_at(bytes: &[u8], at: usize) -> Option<i64> {
    Some(i64::from_ne_bytes(bytes.get(at..)?.first_chunk().copied()?))
}

/// What a child in a fresh user and network namespace could do; each is an `errno`, 0 for success.
#[derive(Debug, Clone, Copy)]
pub(crate) struct UserNamespaceProbe {
    /// `unshare(CLONE_NEWUSER | CLONE_NEWNET)`.
    pub(crate) unshare: i32,
    /// `open("/dev/net/tun")` inside.
    pub(crate) open: i32,
    /// `TUNSETIFF` of a TAP inside.
    pub(crate) set_iff: i32,
}

/// Tries an unprivileged namespace in a short-lived child: a multi-threaded process may not enter one itself.
pub(crate) fn probe_user_namespace() -> io::Result<UserNamespaceProbe> {
    let request = ifreq_for("reprobe0")?;
    let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    // SAFETY: the child calls only async-signal-safe functions (unshare, open, ioctl, write, _exit) on memory
    // prepared before the fork, so locks held by other threads at the fork do not matter.
    let pid = unsafe { libc::fork() };
    check(pid)?;
    if pid == 0 {
        probe_child(request, writer.as_raw_fd());
    }
    drop(writer);
    let mut report = [0u8; 12];
    let mut filled = 0;
    while let Some(rest) = report.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match rustix::io::read(&reader, rest) {
            Ok(0) => break,
            Ok(count) => filled = filled.saturating_add(count),
            Err(rustix::io::Errno::INTR) => {}
            Err(_) => break,
        }
    }
    let mut status = 0;
    // SAFETY: waits for the child made above; `status` is a writable int.
    unsafe { libc::waitpid(pid, &raw mut status, 0) };
    let at = |offset| i32_at(&report, offset).unwrap_or(libc::EIO);
    if filled < report.len() {
        return Err(io::Error::other("the probing child ended without a report"));
    }
    Ok(UserNamespaceProbe { unshare: at(0), open: at(4), set_iff: at(8) })
}

fn probe_child(mut request: libc::ifreq, out: c_int) -> ! {
    let mut report: [i32; 3] = [0; 3];
    let flags = libc::CLONE_NEWUSER | libc::CLONE_NEWNET;
    // SAFETY: touches no memory.
    if unsafe { libc::unshare(flags) } < 0 {
        report = [errno(); 3];
    } else {
        // SAFETY: a literal path with its zero.
        let fd = unsafe { libc::open(c"/dev/net/tun".as_ptr(), libc::O_RDWR | libc::O_CLOEXEC) };
        if fd < 0 {
            report = [0, errno(), errno()];
        } else {
            request.ifr_ifru.ifru_flags = (IFF_TAP | IFF_NO_PI) as c_short;
            // SAFETY: `request` is an initialised `ifreq`.
            let rc = unsafe { libc::ioctl(fd, c_ulong::from(ioctl::TUNSETIFF) as _, &raw mut request) };
            report[2] = if rc < 0 { errno() } else { 0 };
        }
    }
    // SAFETY: `report` is 12 readable bytes.
    unsafe { libc::write(out, report.as_ptr().cast(), size_of::<[i32; 3]>()) };
    // SAFETY: ends the child without running anything that belongs to the parent.
    unsafe { libc::_exit(0) }
}

fn errno() -> i32 {
    io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO)
}

fn ioctl_by_value(fd: BorrowedFd<'_>, request: u32, value: u32) -> io::Result<()> {
    // SAFETY: the requests passed here take their argument by value; nothing is dereferenced.
    let rc = unsafe { libc::ioctl(fd.as_raw_fd(), c_ulong::from(request) as _, c_ulong::from(value)) };
    check(rc)
}

fn ioctl_int_pointer(fd: BorrowedFd<'_>, request: u32, value: c_int) -> io::Result<()> {
    // SAFETY: the requests passed here read exactly one int through the pointer, which outlives the call.
    let rc = unsafe { libc::ioctl(fd.as_raw_fd(), c_ulong::from(request) as _, &raw const value) };
    check(rc)
}

fn ifreq_for(name: &str) -> io::Result<libc::ifreq> {
    // SAFETY: `ifreq` is plain data for which all-zero is valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    if name.len() > IFNAME_MAX || name.bytes().any(|byte| byte == 0) {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    for (slot, byte) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *slot = byte as libc::c_char;
    }
    Ok(request)
}

fn name_of(request: &libc::ifreq) -> String {
    let bytes: Vec<u8> =
        request.ifr_name.iter().map(|&char| char as u8).take_while(|&byte| byte != 0).collect();
    String::from_utf8_lossy(&bytes).into_owned()
}

fn check(rc: c_int) -> io::Result<()> {
    if rc < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
