//! One connection of the kernel sender.

use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::time::Instant;

use rustix::event::PollFlags;
use rustix::net::sockopt;

use super::{ConnState, ConnStats, KernelConfig, errno_name};
use crate::sender::{End, WriteSizes, pattern};

/// Writes in one step before others have their turn.
const BATCH: u32 = 256;

pub(super) struct Conn {
    pub(super) stats: ConnStats,
    stream: Option<TcpStream>,
    sizes: WriteSizes,
    /// Written of the write under way.
    partial: u32,
    opened: Instant,
    next_write: Instant,
    /// The application is done; what is left is the configured end.
    done: bool,
    closing_since: Instant,
}

impl Conn {
    pub(super) fn connecting(fd: OwnedFd, cfg: &KernelConfig) -> Self {
        Conn::new(TcpStream::from(fd), ConnState::Connecting, Some(cfg.remote), cfg)
    }

    pub(super) fn accepted(stream: TcpStream, peer: SocketAddr, cfg: &KernelConfig) -> Self {
        let nonblocking = stream.set_nonblocking(true);
        let mut c = Conn::new(stream, ConnState::Open, Some(peer), cfg);
        if let Err(e) = nonblocking {
            c.fail(&e);
        }
        c
    }

    fn new(stream: TcpStream, state: ConnState, peer: Option<SocketAddr>, cfg: &KernelConfig) -> Self {
        let now = Instant::now();
        Conn {
            stats: ConnStats { state, peer, ..ConnStats::default() },
            stream: Some(stream),
            sizes: WriteSizes::new(&cfg.write_sizes),
            partial: 0,
            opened: now,
            next_write: now,
            done: false,
            closing_since: now,
        }
    }

    pub(super) fn is_closed(&self) -> bool {
        self.stats.state == ConnState::Closed
    }

    pub(super) fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.stream.as_ref().map(|s| s.as_fd())
    }

    /// What to poll for.
    pub(super) fn interest(&self) -> Option<(BorrowedFd<'_>, PollFlags)> {
        let fd = self.fd()?;
        let mut events = PollFlags::empty();
        if self.stats.state == ConnState::Connecting || self.stats.is_blocked {
            events |= PollFlags::OUT;
        }
        if !self.stats.peer_closed {
            events |= PollFlags::IN;
        }
        Some((fd, events))
    }

    /// When something is to be done without the socket having become ready.
    pub(super) fn next_due(&self, cfg: &KernelConfig) -> Option<Instant> {
        let open = self.stats.state == ConnState::Open && !self.done;
        let write = (open && !self.stats.is_blocked).then_some(self.next_write);
        let stop = cfg.time_limit.filter(|_| open).map(|d| self.opened + d);
        write.into_iter().chain(stop).min()
    }

    /// Does what can be done now; true if there is more to do at once.
    pub(super) fn step(&mut self, now: Instant, cfg: &KernelConfig) -> bool {
        self.check_error();
        match self.stats.state {
            ConnState::Closed => return false,
            ConnState::Connecting => {
                self.finish_connect(now, cfg);
                return false;
            }
            ConnState::Open | ConnState::Closing => {}
        }
        self.discard_input();
        if self.stats.state == ConnState::Closing {
            if self.stats.peer_closed || now.duration_since(self.closing_since) >= cfg.close_wait {
                self.close();
            }
            return false;
        }
        if self.done {
            return false;
        }
        let timed_out = cfg.time_limit.is_some_and(|d| now.duration_since(self.opened) >= d);
        if timed_out || cfg.total.is_some_and(|t| self.stats.written >= t) {
            self.end(cfg.end, now);
            return false;
        }
        self.write(now, cfg)
    }

    /// Ends the connection at once, whatever it is doing.
    pub(super) fn end_now(&mut self, end: End) {
        self.check_error();
        if end == End::Close
            && let Some(s) = &self.stream
        {
            let _ = s.shutdown(Shutdown::Write); // a dead connection has nothing to shut
        }
        if end == End::Abort {
            self.abort_on_close();
        }
        self.close();
    }

    fn write(&mut self, now: Instant, cfg: &KernelConfig) -> bool {
        for _ in 0..BATCH {
            if now < self.next_write {
                return false;
            }
            let size = self.sizes.peek();
            let left = cfg.total.map_or(u64::MAX, |t| t.saturating_sub(self.stats.written));
            if left == 0 {
                return true;
            }
            let want = u64::from(size - self.partial.min(size)).min(left);
            let chunk = pattern(self.stats.written, usize::try_from(want).unwrap_or(usize::MAX));
            let Some(stream) = &mut self.stream else { return false };
            match stream.write(chunk) {
                Ok(n) => {
                    if self.stats.is_blocked {
                        self.stats.is_blocked = false;
                        self.next_write = now;
                    }
                    self.stats.written += n as u64;
                    self.stats.writes += 1;
                    self.partial = self.partial.saturating_add(u32::try_from(n).unwrap_or(u32::MAX));
                    if self.partial >= size {
                        self.partial = 0;
                        self.sizes.advance();
                        self.next_write = if cfg.pace.is_zero() { now } else { self.next_write + cfg.pace };
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    if !self.stats.is_blocked {
                        self.stats.is_blocked = true;
                        self.stats.blocked += 1;
                    }
                    return false;
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => {
                    self.fail(&e);
                    return false;
                }
            }
        }
        true
    }

    fn finish_connect(&mut self, now: Instant, cfg: &KernelConfig) {
        let Some(stream) = &self.stream else { return };
        if stream.peer_addr().is_ok() {
            self.stats.state = ConnState::Open;
            self.opened = now;
            self.next_write = now;
        } else if now.duration_since(self.opened) >= cfg.connect_timeout {
            self.fail(&io::Error::from_raw_os_error(libc::ETIMEDOUT));
        }
    }

    fn end(&mut self, end: End, now: Instant) {
        self.done = true;
        self.stats.is_blocked = false;
        match end {
            End::Keep => {}
            End::Abort => {
                self.abort_on_close();
                self.close();
            }
            End::Close => {
                let shut = self.stream.as_ref().map(|s| s.shutdown(Shutdown::Write));
                if let Some(Err(e)) = shut {
                    return self.fail(&e);
                }
                self.stats.state = ConnState::Closing;
                self.closing_since = now;
            }
        }
    }

    /// A linger of zero makes close send RST and forget what is unsent.
    fn abort_on_close(&self) {
        if let Some(s) = &self.stream {
            let _ = sockopt::set_socket_linger(s, Some(std::time::Duration::ZERO));
        }
    }

    fn close(&mut self) {
        self.stream = None;
        self.stats.is_blocked = false;
        self.stats.state = ConnState::Closed;
    }

    fn check_error(&mut self) {
        let Some(stream) = &self.stream else { return };
        match stream.take_error() {
            Ok(None) => {}
            Ok(Some(e)) | Err(e) => self.fail(&e),
        }
    }

    fn fail(&mut self, e: &io::Error) {
        let name = errno_name(e);
        self.stats.first_error.get_or_insert_with(|| name.clone());
        self.stats.last_error = Some(name);
        self.close();
    }

    fn discard_input(&mut self) {
        let mut buf = [0u8; 4096];
        for _ in 0..16 {
            let Some(stream) = self.stream.as_mut().filter(|_| !self.stats.peer_closed) else { return };
            match stream.read(&mut buf) {
                Ok(0) => self.stats.peer_closed = true,
                Ok(n) => self.stats.read += n as u64,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return self.fail(&e),
            }
        }
    }
}
