//! Names, options, errors and wake-ups of sockets.

use core::fmt;

use crate::mem::GroupId;

/// Names a socket of one stack. Never reused while 2³² others were opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct SocketId {
    pub(crate) index: u32,
    pub(crate) generation: u32,
}

impl SocketId {
    /// A number that tells this socket from all others of its stack, in the order they were opened.
    #[must_use]
    pub fn number(self) -> u32 {
        self.generation
    }
}

impl fmt::Display for SocketId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{}", self.generation)
    }
}

/// A socket option, named as setsockopt(2) names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SocketOption {
    /// SO_RCVBUF, bytes: doubled, capped by net.core.rmem_max, and the end of autotuning.
    RcvBuf(i32),
    /// SO_RCVLOWAT, bytes: a reader is woken for no less.
    RcvLowat(i32),
    /// TCP_WINDOW_CLAMP, bytes: cap of the window; at least 1152 is stored.
    WindowClamp(u32),
    /// TCP_QUICKACK.
    QuickAck(bool),
    /// TCP_NODELAY: no waiting for small segments to fill (Nagle).
    NoDelay(bool),
    /// TCP_MAXSEG, bytes, 88…32767.
    MaxSeg(u16),
    /// The group whose memory limit applies; not an option of the kernel, where cgroups decide it.
    Group(Option<GroupId>),
    /// Somebody else chooses the window, or no longer. Not an option of the kernel; the nearest is TCP_REPAIR_WINDOW.
    Steer(Option<Steering>),
}

/// A window that is said from outside, so that a peer can be shown any window at any time.
///
/// What is offered is what was said, whatever memory allows and wherever the right edge was: it may move left. The scale
/// rounds it down and the 16-bit field caps it. Everything else stays as it is: memory is charged, and data are accepted up
/// to what was offered. It shows with the next segment that leaves; [`crate::Stack::send_ack`] makes one leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "kebab-case"))]
pub enum Steering {
    /// So many bytes from `rcv_nxt` on: the right edge moves with what arrives.
    Window(u32),
    /// The right edge stays behind so many bytes of the peer's stream; once they are there, the window is zero.
    Edge(u64),
}

impl Steering {
    /// The window, bytes, when `received` bytes of the stream are there.
    pub(crate) fn window(self, received: u64) -> u32 {
        match self {
            Steering::Window(bytes) => bytes,
            Steering::Edge(at) => u32::try_from(at.saturating_sub(received)).unwrap_or(u32::MAX),
        }
    }
}

impl SocketOption {
    pub(crate) fn check(self) -> Result<(), SocketError> {
        match self {
            SocketOption::MaxSeg(v) if !(88..=32_767).contains(&v) => {
                Err(SocketError::Invalid { what: "TCP_MAXSEG", value: i64::from(v), takes: "88…32767" })
            }
            _ => Ok(()),
        }
    }
}

/// Why a call on a socket failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[cfg_attr(feature = "serde", derive(serde::Serialize), serde(rename_all = "kebab-case"))]
#[non_exhaustive]
pub enum SocketError {
    /// No such socket, or not one of the right kind.
    #[error("no such socket")]
    BadId,
    /// Nothing to read yet.
    #[error("nothing to read yet")]
    WouldBlock,
    /// The handshake is not done.
    #[error("not connected")]
    NotConnected,
    /// The peer refused the connection (ECONNREFUSED).
    #[error("connection refused")]
    Refused,
    /// The peer reset the connection (ECONNRESET).
    #[error("connection reset by peer")]
    Reset,
    /// Nobody will take what is sent (EPIPE).
    #[error("broken pipe")]
    BrokenPipe,
    /// The peer stopped answering (ETIMEDOUT).
    #[error("connection timed out")]
    TimedOut,
    /// The address or pair of addresses is taken (EADDRINUSE).
    #[error("address already in use")]
    AddressInUse,
    /// Not an address of this stack (EADDRNOTAVAIL).
    #[error("not an address of this stack")]
    NoSuchAddress,
    /// An option outside its range (EINVAL).
    #[error("{what} does not take {value}; it takes {takes}")]
    Invalid {
        /// The option.
        what: &'static str,
        /// The value.
        value: i64,
        /// What it takes.
        takes: &'static str,
    },
}

/// A wake-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A listener has a connection to accept.
    Acceptable(SocketId),
    /// A connection attempt succeeded.
    Connected(SocketId),
    /// There is enough to read, or waiting longer would be wrong.
    Readable(SocketId),
    /// The send buffer has room again.
    Writable(SocketId),
    /// The peer will send nothing more.
    PeerClosed(SocketId),
    /// The connection is over, with an error or without.
    Closed(SocketId, Option<SocketError>),
}

impl Event {
    /// The socket it is about.
    #[must_use]
    pub fn socket(self) -> SocketId {
        match self {
            Event::Acceptable(id)
            | Event::Connected(id)
            | Event::Readable(id)
            | Event::Writable(id)
            | Event::PeerClosed(id)
            | Event::Closed(id, _) => id,
        }
    }
}
