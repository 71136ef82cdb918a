//! TAP and TUN devices: a plain one over the `tun-tap` crate, and an offloaded one over our own ioctls.
//!
//! How a device is opened is a modelling parameter, not a detail. Read in `drivers/net/tun.c` of Linux 6.18
//! (`tun_get_user`, `tun_alloc_skb`, `tun_napi_alloc_frags`): frames written through a blocking descriptor
//! land in one linear buffer, through a non-blocking one in a page fragment, with a virtio header the headers
//! are linear and the payload sits in fragments, and with `IFF_NAPI` they pass GRO. Each gives the receiver
//! another `truesize`. So nothing here has a hidden default: [`IoMode`], [`Offloads`] and [`Napi`] are asked
//! for and can be read back.
//!
//! A device belongs to the network namespace of the thread that opens it and disappears with its last
//! descriptor unless [`OffloadTap::set_persist`] says otherwise.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice, Read as _, Write as _};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use linux_raw_sys::if_tun;

use crate::sys;
use crate::vnet::VnetHdrSize;

/// The device node.
pub const TUN_NODE: &str = "/dev/net/tun";

/// A buffer of this size holds every frame a device can hand over: the larger virtio header plus a 64 KiB
/// super-segment with its Ethernet header, which together exceed 65,535 bytes.
pub const MAX_FRAME_LEN: usize = 12 + 65_550;

/// What a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Layer {
    /// TAP: Ethernet frames.
    #[default]
    Ethernet,
    /// TUN: bare IP packets.
    Ip,
}

/// Whether a read waits; also decides how the kernel lays out the memory of a written frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum IoMode {
    /// `recv` waits for a frame. Written frames become one linear buffer.
    Blocking,
    /// `recv` fails with `WouldBlock` when nothing is queued. Written frames become a page fragment.
    #[default]
    NonBlocking,
}

/// What the kernel may leave undone towards us (`TUNSETOFFLOAD`).
///
/// The mask belongs to the device, not to the descriptor, so it is always written, zero too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Offloads {
    /// `TUN_F_CSUM`: partial checksums. The others need it.
    pub csum: bool,
    /// `TUN_F_TSO4`: TCP super-segments over IPv4.
    pub tso4: bool,
    /// `TUN_F_TSO6`: TCP super-segments over IPv6.
    pub tso6: bool,
    /// `TUN_F_TSO_ECN`: super-segments of flows that use ECN. Needs `tso4` or `tso6`.
    pub ecn: bool,
    /// `TUN_F_USO4` and `TUN_F_USO6`, which the kernel wants together.
    pub uso: bool,
}

impl Offloads {
    /// Every frame complete and of wire size.
    pub const NONE: Self = Self { csum: false, tso4: false, tso6: false, ecn: false, uso: false };
    /// Checksum, TSO for both families and ECN; no UDP segmentation.
    pub const TSO: Self = Self { csum: true, tso4: true, tso6: true, ecn: true, uso: false };
    /// Only partial checksums.
    pub const CSUM: Self = Self { csum: true, ..Self::NONE };

    /// The `TUN_F_*` mask.
    pub const fn mask(self) -> u32 {
        (if self.csum { if_tun::TUN_F_CSUM } else { 0 })
            | (if self.tso4 { if_tun::TUN_F_TSO4 } else { 0 })
            | (if self.tso6 { if_tun::TUN_F_TSO6 } else { 0 })
            | (if self.ecn { if_tun::TUN_F_TSO_ECN } else { 0 })
            | (if self.uso { if_tun::TUN_F_USO4 | if_tun::TUN_F_USO6 } else { 0 })
    }

    fn check(self) -> Result<(), TapError> {
        let more = self.tso4 || self.tso6 || self.ecn || self.uso;
        if more && !self.csum {
            return Err(TapError::OffloadsContradict { offloads: self, fix: "add csum" });
        }
        if self.ecn && !(self.tso4 || self.tso6) {
            return Err(TapError::OffloadsContradict {
                offloads: self,
                fix: "add tso4 or tso6, or drop ecn",
            });
        }
        Ok(())
    }
}

impl fmt::Display for Offloads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = [
            (self.csum, "csum"),
            (self.tso4, "tso4"),
            (self.tso6, "tso6"),
            (self.ecn, "ecn"),
            (self.uso, "uso"),
        ];
        let on: Vec<&str> = names.iter().filter(|(on, _)| *on).map(|(_, name)| *name).collect();
        f.write_str(if on.is_empty() { "none".to_owned() } else { on.join(",") }.as_str())
    }
}

impl std::str::FromStr for Offloads {
    type Err = TapError;

    /// Reads `none`, `tso` (checksum, both TSO kinds and ECN), or a comma list of `csum`, `tso4`, `tso6`,
    /// `ecn`, `uso`.
    fn from_str(text: &str) -> Result<Self, TapError> {
        let mut offloads = Self::NONE;
        for word in text.split(',').map(str::trim) {
            match word {
                "none" | "" => {}
                "csum" => offloads.csum = true,
                "tso4" => offloads.tso4 = true,
                "tso6" => offloads.tso6 = true,
                "ecn" => offloads.ecn = true,
                "uso" => offloads.uso = true,
                "tso" => offloads = Self { uso: offloads.uso, ..Self::TSO },
                other => return Err(TapError::OffloadUnknown { word: other.to_owned() }),
            }
        }
        offloads.check()?;
        Ok(offloads)
    }
}

/// Whether written frames pass NAPI, and so GRO.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Napi {
    /// Straight to the stack.
    #[default]
    Off,
    /// `IFF_NAPI`: through NAPI and GRO.
    On,
    /// `IFF_NAPI_FRAGS` as well: the pieces of one vectored write become the linear part and the fragments
    /// of one `sk_buff`. TAP only, and needs CAP_NET_ADMIN in the *initial* user namespace.
    Frags,
}

/// Whether the device may have several descriptors, one queue each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Queues {
    /// One descriptor.
    #[default]
    Single,
    /// `IFF_MULTI_QUEUE`; further ones through [`OffloadTap::add_queue`].
    Multi,
}

/// How to open an [`OffloadTap`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OffloadOptions {
    /// TAP or TUN.
    pub layer: Layer,
    /// Blocking or not.
    pub io: IoMode,
    /// Virtio header in front of frames, and how long; `None` for bare frames (then no offloads).
    pub vnet_hdr: Option<VnetHdrSize>,
    /// What the kernel may leave undone.
    pub offloads: Offloads,
    /// NAPI and GRO for written frames.
    pub napi: Napi,
    /// One queue or several.
    pub queues: Queues,
    /// `TUNSETSNDBUF` in bytes; `None` leaves the kernel's default (unlimited).
    pub sndbuf: Option<i32>,
}

impl Default for OffloadOptions {
    /// A non-blocking TAP with a ten-byte header and TSO.
    fn default() -> Self {
        Self {
            layer: Layer::Ethernet,
            io: IoMode::NonBlocking,
            vnet_hdr: Some(VnetHdrSize::Ten),
            offloads: Offloads::TSO,
            napi: Napi::Off,
            queues: Queues::Single,
            sndbuf: None,
        }
    }
}

/// Why a device could not be opened or set.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TapError {
    /// The name is no interface name.
    #[error(
        "interface name {name:?}: must be 1 to {max} bytes of printable ASCII without '/', ':' or spaces; choose another name",
        max = sys::IFNAME_MAX
    )]
    Name {
        /// The name asked for.
        name: String,
    },
    /// No device node.
    #[error(
        "{TUN_NODE}: the node or the driver behind it is missing; load it with `modprobe tun` (in a container, pass the device in)"
    )]
    NodeMissing,
    /// The node may not be opened.
    #[error(
        "{TUN_NODE}: mode {mode} does not let this user open it, and being root in a user namespace does not help; `chmod 666 {TUN_NODE}`, a udev rule with a group, or run as root"
    )]
    NodeDenied {
        /// Mode and owner of the node.
        mode: String,
    },
    /// CAP_NET_ADMIN is missing.
    #[error(
        "device {name:?}: creating it needs CAP_NET_ADMIN over this network namespace; run as root or inside a private namespace (`tapctl run`)"
    )]
    NotPermitted {
        /// The device.
        name: String,
    },
    /// Somebody else holds it.
    #[error("device {name:?}: already open elsewhere; choose another name or close the other holder")]
    Busy {
        /// The device.
        name: String,
    },
    /// An interface of that name is something else.
    #[error(
        "device {name:?}: an interface of that name exists and is no TUN/TAP with these flags ({flags}); choose another name or open it as it was created"
    )]
    Mismatch {
        /// The device.
        name: String,
        /// What was asked.
        flags: String,
    },
    /// `IFF_NAPI_FRAGS` was refused.
    #[error(
        "device {name:?}: IFF_NAPI_FRAGS needs CAP_NET_ADMIN in the initial user namespace; run as real root or use napi without fragments"
    )]
    NapiFragsDenied {
        /// The device.
        name: String,
    },
    /// Offloads that need each other.
    #[error("offloads {offloads}: incomplete; {fix}")]
    OffloadsContradict {
        /// What was asked.
        offloads: Offloads,
        /// What to change.
        fix: &'static str,
    },
    /// No such offload.
    #[error("offload {word:?}: unknown; use none, tso, or a list of csum,tso4,tso6,ecn,uso")]
    OffloadUnknown {
        /// The word.
        word: String,
    },
    /// Offloads without the header that describes them.
    #[error("device {name:?}: offloads {offloads} need a virtio header; set vnet_hdr or offloads none")]
    OffloadsWithoutHeader {
        /// The device.
        name: String,
        /// What was asked.
        offloads: Offloads,
    },
    /// NAPI options that need each other.
    #[error("device {name:?}: napi fragments exist for Ethernet devices only; use layer ethernet")]
    NapiFragsNeedsEthernet {
        /// The device.
        name: String,
    },
    /// A setting was refused.
    #[error("device {name:?}: {what} = {value} refused ({source}); this kernel may be too old for it")]
    Setting {
        /// The device.
        name: String,
        /// The ioctl.
        what: &'static str,
        /// The value.
        value: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// Anything else while opening.
    #[error(
        "device {name:?}: could not be opened ({source}); `tapctl doctor` shows what this machine allows"
    )]
    Open {
        /// The device.
        name: String,
        /// What the kernel said.
        source: io::Error,
    },
}

/// A device with one bare frame per read, over the `tun-tap` crate.
#[derive(Debug)]
pub struct PlainTap {
    iface: tun_tap::Iface,
    io: IoMode,
}

impl PlainTap {
    /// Opens (and so creates) a device without packet information or virtio header.
    ///
    /// A name may contain `%d`, which the kernel replaces; ask [`PlainTap::name`] for the result.
    pub fn open(name: &str, layer: Layer, io: IoMode) -> Result<Self, TapError> {
        check_name(name)?;
        let mode = match layer {
            Layer::Ethernet => tun_tap::Mode::Tap,
            Layer::Ip => tun_tap::Mode::Tun,
        };
        let iface = tun_tap::Iface::without_packet_info(name, mode)
            .map_err(|source| explain_open(name, "plain", source))?;
        let tap = Self { iface, io: IoMode::Blocking };
        // The mask survives in a persistent device, so it is cleared here as well.
        sys::tun_set_offload(tap.as_fd(), 0).map_err(|source| setting(name, "TUNSETOFFLOAD", 0, source))?;
        tap.with_io(io)
    }

    fn with_io(mut self, io: IoMode) -> Result<Self, TapError> {
        set_io(self.as_fd(), self.name(), io)?;
        self.io = io;
        Ok(self)
    }

    /// The device's real name.
    pub fn name(&self) -> &str {
        self.iface.name()
    }

    /// TAP or TUN.
    pub fn layer(&self) -> Layer {
        match self.iface.mode() {
            tun_tap::Mode::Tap => Layer::Ethernet,
            tun_tap::Mode::Tun => Layer::Ip,
        }
    }

    /// Reads one frame. A buffer of [`MAX_FRAME_LEN`] never truncates.
    pub fn recv(&self, buf: &mut [u8]) -> io::Result<usize> {
        self.iface.recv(buf)
    }

    /// Writes one frame; returns when the kernel's receive path has run for it.
    pub fn send(&self, frame: &[u8]) -> io::Result<usize> {
        self.iface.send(frame)
    }

    /// Writes one frame from several pieces.
    pub fn send_vectored(&self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        Ok(rustix::io::writev(self.as_fd(), parts)?)
    }
}

impl AsFd for PlainTap {
    fn as_fd(&self) -> BorrowedFd<'_> {
        sys::borrow_iface(&self.iface)
    }
}

/// A device opened by our own ioctls: virtio header, offloads, NAPI, queues.
#[derive(Debug)]
pub struct OffloadTap {
    file: File,
    name: String,
    options: OffloadOptions,
}

impl OffloadTap {
    /// Opens (and so creates) a device.
    ///
    /// A name may contain `%d`, which the kernel replaces; ask [`OffloadTap::name`] for the result.
    pub fn open(name: &str, options: OffloadOptions) -> Result<Self, TapError> {
        check_name(name)?;
        options.offloads.check()?;
        if options.vnet_hdr.is_none() && options.offloads != Offloads::NONE {
            return Err(TapError::OffloadsWithoutHeader {
                name: name.to_owned(),
                offloads: options.offloads,
            });
        }
        if options.napi == Napi::Frags && options.layer == Layer::Ip {
            return Err(TapError::NapiFragsNeedsEthernet { name: name.to_owned() });
        }
        Self::attach(name, options)
    }

    fn attach(name: &str, options: OffloadOptions) -> Result<Self, TapError> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(TUN_NODE)
            .map_err(|source| explain_open(name, "", source))?;
        let flags = flags_of(&options);
        let real = sys::tun_set_iff(file.as_fd(), name, flags).map_err(|source| {
            let denied = source.raw_os_error() == Some(libc::EPERM);
            if denied && options.napi == Napi::Frags && crate::netns::has_net_admin() {
                TapError::NapiFragsDenied { name: name.to_owned() }
            } else {
                explain_open(name, &format!("{flags:#06x}"), source)
            }
        })?;
        let tap = Self { file, name: real, options };
        if let Some(size) = tap.options.vnet_hdr {
            // A header size is at most twelve.
            let bytes = size.bytes() as i32;
            sys::tun_set_vnet_hdr_size(tap.as_fd(), bytes)
                .map_err(|source| setting(&tap.name, "TUNSETVNETHDRSZ", bytes, source))?;
            sys::tun_set_vnet_little_endian(tap.as_fd())
                .map_err(|source| setting(&tap.name, "TUNSETVNETLE", 1, source))?;
        }
        tap.write_offloads(tap.options.offloads)?;
        if let Some(bytes) = tap.options.sndbuf {
            sys::tun_set_sndbuf(tap.as_fd(), bytes)
                .map_err(|source| setting(&tap.name, "TUNSETSNDBUF", bytes, source))?;
        }
        set_io(tap.as_fd(), &tap.name, tap.options.io)?;
        Ok(tap)
    }

    /// A further queue of the same device. Needs [`Queues::Multi`].
    pub fn add_queue(&self) -> Result<Self, TapError> {
        Self::attach(&self.name, self.options.clone())
    }

    /// Changes what the kernel may leave undone, from the next frame on, for all queues.
    pub fn set_offloads(&mut self, offloads: Offloads) -> Result<(), TapError> {
        offloads.check()?;
        if self.options.vnet_hdr.is_none() && offloads != Offloads::NONE {
            return Err(TapError::OffloadsWithoutHeader { name: self.name.clone(), offloads });
        }
        self.write_offloads(offloads)?;
        self.options.offloads = offloads;
        Ok(())
    }

    /// Whether the device outlives its last descriptor (it still dies with its namespace).
    pub fn set_persist(&self, persist: bool) -> Result<(), TapError> {
        sys::tun_set_persist(self.as_fd(), persist)
            .map_err(|source| setting(&self.name, "TUNSETPERSIST", persist, source))
    }

    /// Plugs or unplugs the virtual cable.
    pub fn set_carrier(&self, up: bool) -> Result<(), TapError> {
        sys::tun_set_carrier(self.as_fd(), up)
            .map_err(|source| setting(&self.name, "TUNSETCARRIER", up, source))
    }

    /// The device's real name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How it is open; offloads as last set.
    pub fn options(&self) -> &OffloadOptions {
        &self.options
    }

    /// Reads one frame, virtio header first. A buffer of [`MAX_FRAME_LEN`] never truncates.
    pub fn recv(&self, buf: &mut [u8]) -> io::Result<usize> {
        (&self.file).read(buf)
    }

    /// Writes one frame, virtio header first; returns when the kernel's receive path has run for it.
    pub fn send(&self, frame: &[u8]) -> io::Result<usize> {
        (&self.file).write(frame)
    }

    /// Writes one frame from several pieces, the virtio header first. With [`Napi::Frags`] each further
    /// piece becomes a fragment of the `sk_buff`.
    pub fn send_vectored(&self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        (&self.file).write_vectored(parts)
    }

    fn write_offloads(&self, offloads: Offloads) -> Result<(), TapError> {
        sys::tun_set_offload(self.as_fd(), offloads.mask())
            .map_err(|source| setting(&self.name, "TUNSETOFFLOAD", offloads, source))
    }
}

impl AsFd for OffloadTap {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// Either kind of device behind one set of methods.
#[derive(Debug)]
pub enum Tap {
    /// One bare frame per read.
    Plain(PlainTap),
    /// With a virtio header, offloads or NAPI.
    Offload(OffloadTap),
}

impl Tap {
    /// A plain TAP device.
    pub fn plain(name: &str, io: IoMode) -> Result<Self, TapError> {
        PlainTap::open(name, Layer::Ethernet, io).map(Self::Plain)
    }

    /// A plain TUN device.
    pub fn tun(name: &str, io: IoMode) -> Result<Self, TapError> {
        PlainTap::open(name, Layer::Ip, io).map(Self::Plain)
    }

    /// An offloaded device.
    pub fn offload(name: &str, options: OffloadOptions) -> Result<Self, TapError> {
        OffloadTap::open(name, options).map(Self::Offload)
    }

    /// The device's real name.
    pub fn name(&self) -> &str {
        match self {
            Self::Plain(tap) => tap.name(),
            Self::Offload(tap) => tap.name(),
        }
    }

    /// TAP or TUN.
    pub fn layer(&self) -> Layer {
        match self {
            Self::Plain(tap) => tap.layer(),
            Self::Offload(tap) => tap.options.layer,
        }
    }

    /// Blocking or not.
    pub fn io_mode(&self) -> IoMode {
        match self {
            Self::Plain(tap) => tap.io,
            Self::Offload(tap) => tap.options.io,
        }
    }

    /// Length of the virtio header in front of frames, if there is one.
    pub fn vnet_hdr(&self) -> Option<VnetHdrSize> {
        match self {
            Self::Plain(_) => None,
            Self::Offload(tap) => tap.options.vnet_hdr,
        }
    }

    /// What the kernel may leave undone.
    pub fn offloads(&self) -> Offloads {
        match self {
            Self::Plain(_) => Offloads::NONE,
            Self::Offload(tap) => tap.options.offloads,
        }
    }

    /// Reads one frame (virtio header first, if there is one). A buffer of [`MAX_FRAME_LEN`] never truncates.
    pub fn recv(&self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(tap) => tap.recv(buf),
            Self::Offload(tap) => tap.recv(buf),
        }
    }

    /// Writes one frame (virtio header first, if there is one).
    pub fn send(&self, frame: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(tap) => tap.send(frame),
            Self::Offload(tap) => tap.send(frame),
        }
    }

    /// Writes one frame from several pieces.
    pub fn send_vectored(&self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        match self {
            Self::Plain(tap) => tap.send_vectored(parts),
            Self::Offload(tap) => tap.send_vectored(parts),
        }
    }

    /// Waits until a frame can be read; `false` when the time is up. `None` waits for ever.
    pub fn wait_readable(&self, timeout: Option<Duration>) -> io::Result<bool> {
        wait_readable(self, timeout)
    }
}

impl AsFd for Tap {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Plain(tap) => tap.as_fd(),
            Self::Offload(tap) => tap.as_fd(),
        }
    }
}

/// Waits until a descriptor can be read; `false` when the time is up. `None` waits for ever.
pub fn wait_readable(fd: &impl AsFd, timeout: Option<Duration>) -> io::Result<bool> {
    use rustix::event::{PollFd, PollFlags, Timespec};
    let deadline = timeout.map(|wait| (std::time::Instant::now(), wait));
    loop {
        let left = deadline.map(|(start, wait)| {
            let left = wait.saturating_sub(start.elapsed());
            Timespec {
                tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
                tv_nsec: left.subsec_nanos().into(),
            }
        });
        match rustix::event::poll(&mut [PollFd::new(fd, PollFlags::IN)], left.as_ref()) {
            Ok(ready) => return Ok(ready > 0),
            Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// Is this a name the kernel would take for an interface? (`dev_valid_name`, plus printable ASCII only.)
pub fn check_name(name: &str) -> Result<(), TapError> {
    let good = !name.is_empty()
        && name.len() <= sys::IFNAME_MAX
        && name != "."
        && name != ".."
        && name.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'/' && byte != b':')
        && (!name.contains('%') || (name.matches('%').count() == 1 && name.contains("%d")));
    if good { Ok(()) } else { Err(TapError::Name { name: name.to_owned() }) }
}

fn flags_of(options: &OffloadOptions) -> u32 {
    let layer = match options.layer {
        Layer::Ethernet => sys::IFF_TAP,
        Layer::Ip => sys::IFF_TUN,
    };
    let napi = match options.napi {
        Napi::Off => 0,
        Napi::On => sys::IFF_NAPI,
        Napi::Frags => sys::IFF_NAPI | sys::IFF_NAPI_FRAGS,
    };
    let header = if options.vnet_hdr.is_some() { sys::IFF_VNET_HDR } else { 0 };
    let queues = match options.queues {
        Queues::Single => 0,
        Queues::Multi => sys::IFF_MULTI_QUEUE,
    };
    layer | sys::IFF_NO_PI | napi | header | queues
}

fn set_io(fd: BorrowedFd<'_>, name: &str, io: IoMode) -> Result<(), TapError> {
    rustix::io::ioctl_fionbio(fd, io == IoMode::NonBlocking)
        .map_err(|errno| setting(name, "FIONBIO", format!("{io:?}"), errno.into()))
}

fn setting(name: &str, what: &'static str, value: impl fmt::Display, source: io::Error) -> TapError {
    TapError::Setting { name: name.to_owned(), what, value: value.to_string(), source }
}

/// EACCES can only come from opening the node, EPERM from TUNSETIFF.
fn explain_open(name: &str, flags: &str, source: io::Error) -> TapError {
    let name = name.to_owned();
    match source.raw_os_error() {
        Some(libc::ENOENT | libc::ENODEV | libc::ENXIO) => TapError::NodeMissing,
        Some(libc::EACCES) => TapError::NodeDenied { mode: node_mode() },
        Some(libc::EPERM) => TapError::NotPermitted { name },
        Some(libc::EBUSY) => TapError::Busy { name },
        Some(libc::EINVAL) => TapError::Mismatch { name, flags: flags.to_owned() },
        _ => TapError::Open { name, source },
    }
}

/// Mode and owner of the device node, as `0600 uid 0 gid 0`.
pub(crate) fn node_mode() -> String {
    use std::os::unix::fs::MetadataExt as _;
    let owner = |meta: &std::fs::Metadata| {
        // Inside a user namespace every owner that is not mapped looks like this one.
        if meta.uid() == 65_534 && !crate::netns::in_initial_user_namespace() {
            "owned outside this user namespace".to_owned()
        } else {
            format!("uid {} gid {}", meta.uid(), meta.gid())
        }
    };
    std::fs::metadata(TUN_NODE).map_or_else(
        |error| error.to_string(),
        |meta| format!("{:04o} {}", meta.mode() & 0o7777, owner(&meta)),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for good in ["re0", "a", "fifteen-bytes-x", "tap%d"] {
            assert!(check_name(good).is_ok(), "{good}");
        }
        for bad in ["", ".", "..", "sixteen-bytes-xx", "a/b", "a b", "a:b", "a\0b", "ü", "x%s", "%d%d"] {
            assert!(matches!(check_name(bad), Err(TapError::Name { .. })), "{bad:?}");
        }
    }

    #[test]
    fn offload_lists() {
        assert_eq!("none".parse::<Offloads>().unwrap(), Offloads::NONE);
        assert_eq!("tso".parse::<Offloads>().unwrap(), Offloads::TSO);
        assert_eq!(Offloads::TSO.mask(), 0xf);
        assert_eq!("csum,tso4,uso".parse::<Offloads>().unwrap().mask(), 1 | 2 | 32 | 64);
        assert_eq!(Offloads::TSO.to_string(), "csum,tso4,tso6,ecn");
        assert_eq!(Offloads::NONE.to_string(), "none");
        for bad in ["tso4", "csum,ecn", "lro"] {
            assert!(bad.parse::<Offloads>().is_err(), "{bad}");
        }
    }
}
