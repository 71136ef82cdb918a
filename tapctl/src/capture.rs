//! An independent observer: an `AF_PACKET` socket on one interface.
//!
//! It sees what crosses the device whoever wrote it, with the kernel's timestamp, and shares no code with the
//! stack. On a device with offloads it sees super-segments, as `tcpdump` does.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, SystemTime};

use crate::link::{LinkError, Netlink};
use crate::sys;

/// Which way a frame went, from the point of view of the kernel that owns the interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Direction {
    /// Arrived at the kernel (on a TAP: written by us).
    Received,
    /// Sent by the kernel (on a TAP: for us to read).
    Sent,
}

/// One captured frame; its bytes are in the buffer given to [`Capture::recv`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Captured {
    /// Bytes in the buffer.
    pub len: usize,
    /// Bytes the frame had; more than `len` when the buffer was too small.
    pub wire_len: usize,
    /// The kernel's clock when the frame passed.
    pub timestamp: SystemTime,
    /// Which way it went.
    pub direction: Direction,
}

/// Why a capture could not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CaptureError {
    /// The interface could not be found.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// The socket was refused.
    #[error(
        "capture on {device:?}: AF_PACKET refused ({source}); it needs CAP_NET_RAW: run as root or inside a private namespace"
    )]
    Socket {
        /// The interface.
        device: String,
        /// What the kernel said.
        source: io::Error,
    },
}

/// A running capture.
#[derive(Debug)]
pub struct Capture {
    fd: OwnedFd,
    device: String,
}

impl Capture {
    /// Starts on an interface of the calling thread's namespace. Frames queue in the socket from here on.
    pub fn open(device: &str) -> Result<Self, CaptureError> {
        let index = Netlink::open()?.index(device)?;
        let fd = sys::packet_socket(index)
            .map_err(|source| CaptureError::Socket { device: device.to_owned(), source })?;
        Ok(Self { fd, device: device.to_owned() })
    }

    /// Which interface.
    pub fn device(&self) -> &str {
        &self.device
    }

    /// The next frame, or `None` when none is queued.
    pub fn recv(&self, buf: &mut [u8]) -> io::Result<Option<Captured>> {
        let meta = match sys::packet_recv(self.fd.as_fd(), buf) {
            Ok(meta) => meta,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            Err(error) => return Err(error),
        };
        let timestamp = meta.stamp.and_then(|(seconds, nanos)| {
            let since = Duration::new(u64::try_from(seconds).ok()?, u32::try_from(nanos).ok()?);
            SystemTime::UNIX_EPOCH.checked_add(since)
        });
        Ok(Some(Captured {
            len: meta.len,
            wire_len: meta.wire_len,
            timestamp: timestamp.unwrap_or_else(SystemTime::now),
            direction: if meta.packet_type == libc::PACKET_OUTGOING {
                Direction::Sent
            } else {
                Direction::Received
            },
        }))
    }

    /// Asks for a larger queue (`SO_RCVBUFFORCE`, else `SO_RCVBUF`), so that bursts are not lost.
    pub fn set_rcvbuf(&self, bytes: i32) -> io::Result<()> {
        let fd = self.fd.as_fd();
        sys::setsockopt_int(fd, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, bytes)
            .or_else(|_| sys::setsockopt_int(fd, libc::SOL_SOCKET, libc::SO_RCVBUF, bytes))
    }

    /// Frames lost since the last call because the queue was full (`PACKET_STATISTICS`).
    pub fn drops(&self) -> io::Result<u32> {
        let mut stats = [0u8; 8];
        let got =
            sys::getsockopt_bytes(self.fd.as_fd(), libc::SOL_PACKET, libc::PACKET_STATISTICS, &mut stats)?;
        let drops = stats.get(4..got).and_then(|bytes| bytes.first_chunk().copied());
        Ok(drops.map_or(0, u32::from_ne_bytes))
    }
}

impl AsFd for Capture {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
