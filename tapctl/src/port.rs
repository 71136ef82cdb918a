//! A place on somebody else's network: frames in and out of an interface, beside the kernel's own stack.
//!
//! The kernel goes on using the interface as before. A port hears only what is for its own hardware address or for
//! everybody, so that a busy machine's traffic does not pass through it. It takes frames with their virtio headers
//! (`PACKET_VNET_HDR`, packet(7)): what GRO or a virtual neighbour's TSO merged says so, and a checksum that the
//! neighbour left to a device that does not exist is told from a wrong one.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use crate::capture::CaptureError;
use crate::link::{Mac, Netlink};
use crate::sys;
use crate::tap::wait_readable;
use crate::vnet::{VnetHdr, VnetHdrSize};

/// An open port.
#[derive(Debug)]
pub struct Port {
    fd: OwnedFd,
    device: String,
}

/// Bytes of the header in front of each frame.
pub const HEADER: usize = 10;

impl Port {
    /// Opens one on an interface of the calling thread's namespace, for the hardware address `mac`. The interface hears
    /// every address as long as the port is open.
    pub fn open(device: &str, mac: Mac) -> Result<Self, CaptureError> {
        let index = Netlink::open()?.index(device)?;
        let open = || -> io::Result<OwnedFd> {
            let fd = sys::packet_socket(index)?;
            sys::packet_filter(fd.as_fd(), mac.0)?;
            sys::setsockopt_int(fd.as_fd(), libc::SOL_PACKET, libc::PACKET_VNET_HDR, 1)?;
            sys::packet_promiscuous(fd.as_fd(), index)?;
            // What was queued before the filter was there is not for us.
            while sys::packet_recv(fd.as_fd(), &mut [0; HEADER]).is_ok() {}
            Ok(fd)
        };
        let fd = open().map_err(|source| CaptureError::Socket { device: device.to_owned(), source })?;
        Ok(Self { fd, device: device.to_owned() })
    }

    /// Which interface.
    pub fn device(&self) -> &str {
        &self.device
    }

    /// The next frame behind its header, or `None` when none is queued.
    pub fn recv<'a>(&self, buf: &'a mut [u8]) -> io::Result<Option<(VnetHdr, &'a [u8])>> {
        loop {
            let meta = match sys::packet_recv(self.fd.as_fd(), buf) {
                Ok(meta) => meta,
                Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
                    return Ok(None);
                }
                // A merged frame of a kind that a virtio header cannot describe: no TCP.
                Err(e) if e.raw_os_error() == Some(libc::EINVAL) => continue,
                Err(e) => return Err(e),
            };
            if meta.packet_type == libc::PACKET_OUTGOING || meta.wire_len > buf.len() {
                continue;
            }
            let data = buf.get(..meta.len).unwrap_or_default();
            return match VnetHdr::parse(data, VnetHdrSize::Ten) {
                Ok((header, frame)) => Ok(Some((header, frame))),
                Err(e) => Err(io::Error::new(io::ErrorKind::InvalidData, e)),
            };
        }
    }

    /// Sends a frame. `false` if the interface's queue had no room for it.
    pub fn send(&self, frame: &[u8]) -> io::Result<bool> {
        match rustix::io::writev(&self.fd, &[IoSlice::new(&[0; HEADER]), IoSlice::new(frame)]) {
            Ok(_) => Ok(true),
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::NOBUFS | rustix::io::Errno::INTR) => Ok(false),
            Err(e) => Err(e.into()),
        }
    }

    /// Waits for a frame; `false` when none came in time.
    pub fn wait_readable(&self, timeout: Option<Duration>) -> io::Result<bool> {
        wait_readable(&self.fd, timeout)
    }

    /// Asks for a larger queue (`SO_RCVBUFFORCE`, else `SO_RCVBUF`), so that bursts are not lost.
    pub fn set_rcvbuf(&self, bytes: i32) -> io::Result<()> {
        let fd = self.fd.as_fd();
        sys::setsockopt_int(fd, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, bytes)
            .or_else(|_| sys::setsockopt_int(fd, libc::SOL_SOCKET, libc::SO_RCVBUF, bytes))
    }
}

impl AsFd for Port {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
