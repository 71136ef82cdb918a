//! A socket that carries an Ethernet frame in each message.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use bytes::Bytes;
use rightedge_tapctl::tap::{MAX_FRAME_LEN, wait_readable};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socketpair};

/// Our end of a pair.
#[derive(Debug)]
pub(super) struct Frames {
    fd: OwnedFd,
    buffer: Vec<u8>,
    gone: bool,
}

/// How the other end hears that we have gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    /// It reads an end of file.
    Heard,
    /// It does not; but programs that know only datagram sockets can have it.
    Unheard,
}

impl Frames {
    /// A pair: ours, and the one for the peer.
    pub(super) fn pair(ending: Ending) -> io::Result<(Self, OwnedFd)> {
        let kind = match ending {
            Ending::Heard => SocketType::SEQPACKET,
            Ending::Unheard => SocketType::DGRAM,
        };
        let (ours, theirs) = socketpair(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None)?;
        Ok((Frames { fd: ours, buffer: vec![0; MAX_FRAME_LEN], gone: false }, theirs))
    }

    /// The next frame, if one is there.
    pub(super) fn recv(&mut self) -> io::Result<Option<Bytes>> {
        match recv(&self.fd, self.buffer.as_mut_slice(), RecvFlags::DONTWAIT) {
            // An end of file, or an empty message, which is no frame either.
            Ok((0, _)) => {
                self.gone = true;
                Ok(None)
            }
            Ok((n, _)) => Ok(self.buffer.get(..n).map(Bytes::copy_from_slice)),
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => Ok(None),
            Err(rustix::io::Errno::CONNRESET | rustix::io::Errno::CONNREFUSED) => {
                self.gone = true;
                Ok(None)
            }
            Err(e) => Err(e.into()),
        }
    }

    /// Sends a frame. `false` if there was no room for it for some time: then it is lost, as on any network.
    pub(super) fn send(&self, frame: &[u8]) -> io::Result<bool> {
        send_frame(self.fd.as_fd(), frame)
    }

    /// The way to the peer, for other threads.
    pub(super) fn sender(&self) -> io::Result<Sender> {
        Ok(Sender(self.fd.try_clone()?))
    }

    /// Waits for a frame.
    pub(super) fn wait(&self, at_most: Duration) -> io::Result<()> {
        if self.gone {
            // It would be readable for ever.
            std::thread::sleep(at_most.min(Duration::from_millis(10)));
            return Ok(());
        }
        match wait_readable(&self.fd, Some(at_most)) {
            Ok(_) => Ok(()),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => Ok(()),
            Err(e) => Err(e),
        }
    }
}

/// The way to a peer.
#[derive(Debug)]
pub(super) struct Sender(OwnedFd);

impl Sender {
    /// As [`Frames::send`].
    pub(super) fn send(&self, frame: &[u8]) -> io::Result<bool> {
        send_frame(self.0.as_fd(), frame)
    }
}

fn send_frame(fd: BorrowedFd<'_>, frame: &[u8]) -> io::Result<bool> {
    use rustix::io::Errno;
    /// A peer that is busy gets so long to make room, one that hangs no more.
    const PATIENCE: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
    for last in [false, true] {
        match send(fd, frame, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
            Ok(_) => return Ok(true),
            Err(Errno::AGAIN | Errno::INTR | Errno::NOBUFS) if !last => {
                let mut fds = [PollFd::from_borrowed_fd(fd, PollFlags::OUT)];
                match poll(&mut fds, Some(&PATIENCE)) {
                    Ok(_) | Err(Errno::INTR) => {}
                    Err(e) => return Err(e.into()),
                }
            }
            // Full, or nobody is there any more: that shows in what it says last.
            Err(
                Errno::AGAIN
                | Errno::INTR
                | Errno::NOBUFS
                | Errno::PIPE
                | Errno::CONNRESET
                | Errno::CONNREFUSED,
            ) => break,
            Err(e) => return Err(e.into()),
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_keep_their_ends_and_an_end_is_heard() {
        for ending in [Ending::Heard, Ending::Unheard] {
            let (mut ours, theirs) = Frames::pair(ending).unwrap();
            assert!(ours.recv().unwrap().is_none());
            for frame in [&b"one"[..], &[7; 1514]] {
                rustix::io::write(&theirs, frame).unwrap();
            }
            assert_eq!(ours.recv().unwrap().unwrap(), "one");
            assert_eq!(ours.recv().unwrap().unwrap().len(), 1514);
            assert!(ours.send(b"back").unwrap());
            let mut got = [0; 10];
            assert_eq!(rustix::io::read(&theirs, &mut got).unwrap(), 4);
            // Nobody reads: what does not fit is lost.
            while ours.send(&[0; 1514]).unwrap() {}
            drop(theirs);
            assert!(ours.recv().unwrap().is_none());
            assert!(!ours.send(b"nobody").unwrap());
        }
    }
}
