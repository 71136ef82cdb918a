//! The machine's own kernel as sender: ordinary TCP sockets, written to by a thread of their own.
//!
//! Sockets belong to the network namespace of the thread that calls [`KernelSender::start`]; the sender's thread
//! inherits it. Everything is non-blocking with polls of at most [`TICK`], so a sender never holds up the end of a run:
//! dropping it stops the thread and closes the sockets.
//!
//! Pacing is absolute: write *k* is due at *k* times the pace, so a late wake-up is made up for by the writes that were
//! missed and no more. Time spent blocked on a full send buffer is not owed.
//!
//! What needs unsafe code (TCP_INFO, TCP_MAXSEG, TCP_NOTSENT_LOWAT) comes in through [`KernelHooks`].

mod conn;
#[cfg(test)]
mod tests;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::sockopt;
use serde::Serialize;

use super::{End, Role};
use conn::Conn;

/// The longest the thread sleeps before it looks at its stop flag.
pub const TICK: Duration = Duration::from_millis(20);

/// What the kernel sender is told.
#[derive(Clone, Debug)]
pub struct KernelConfig {
    /// Who opens the connections.
    pub role: Role,
    /// Where to listen (port 0 lets the kernel choose), or, as a client, what to bind to (port 0 for any).
    pub local: SocketAddr,
    /// Where to connect to, as a client.
    pub remote: SocketAddr,
    /// Connections to open, or to accept.
    pub connections: u32,
    /// Sizes of successive writes, used in turn.
    pub write_sizes: Vec<u32>,
    /// Time from one write to the next; zero writes whenever there is room.
    pub pace: Duration,
    /// TCP_NODELAY.
    pub nodelay: bool,
    /// TCP_CONGESTION, by name.
    pub congestion: Option<String>,
    /// SO_SNDBUF as given to setsockopt; the kernel doubles it and stops tuning it.
    pub sndbuf: Option<u32>,
    /// TCP_MAXSEG; needs [`KernelHooks::set_option`].
    pub maxseg: Option<u16>,
    /// TCP_NOTSENT_LOWAT; needs [`KernelHooks::set_option`].
    pub notsent_lowat: Option<u32>,
    /// Bytes per connection.
    pub total: Option<u64>,
    /// Time per connection, from when it was established.
    pub time_limit: Option<Duration>,
    /// What happens at either limit.
    pub end: End,
    /// How long a client's connect may take.
    pub connect_timeout: Duration,
    /// How long a closed connection waits for the peer's FIN before it is left to the kernel.
    pub close_wait: Duration,
    /// Interval of [`TcpSample`]s; zero takes none.
    pub sample_every: Duration,
}

/// Socket options and observations that need unsafe code, from whoever has it.
#[derive(Clone, Copy, Debug, Default)]
pub struct KernelHooks {
    /// Sets an option that the safe libraries do not know.
    pub set_option: Option<fn(BorrowedFd<'_>, TcpOption) -> io::Result<()>>,
    /// Reads TCP_INFO; `at` and `connection` of the sample are filled in by the sender.
    pub sample: Option<fn(BorrowedFd<'_>) -> io::Result<TcpSample>>,
}

/// An option for [`KernelHooks::set_option`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TcpOption {
    /// TCP_MAXSEG.
    MaxSeg(u16),
    /// TCP_NOTSENT_LOWAT.
    NotsentLowat(u32),
}

/// A reading of the kernel's TCP_INFO.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct TcpSample {
    /// Nanoseconds since the sender started.
    pub at: u64,
    /// Index of the connection.
    pub connection: u32,
    /// Congestion window in segments.
    pub snd_cwnd: u32,
    /// Slow-start threshold in segments.
    pub snd_ssthresh: u32,
    /// Smoothed round trip in microseconds.
    pub rtt_us: u32,
    /// Retransmission time-out in microseconds.
    pub rto_us: u32,
    /// Segments sent and not acknowledged.
    pub unacked: u32,
    /// Segments being retransmitted.
    pub retrans: u32,
    /// Segments ever retransmitted.
    pub total_retrans: u32,
    /// The peer's window in bytes; zero where the kernel does not tell.
    pub snd_wnd: u32,
    /// Segment size.
    pub snd_mss: u32,
    /// Unanswered probes.
    pub probes: u32,
    /// Bytes not sent yet.
    pub notsent_bytes: u32,
    /// Payload bytes acknowledged.
    pub bytes_acked: u64,
    /// Payload bytes sent again.
    pub bytes_retrans: u64,
}

/// Where a connection stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ConnState {
    /// A client waits for the handshake.
    #[default]
    Connecting,
    /// The application writes, or keeps the connection open.
    Open,
    /// All is written and the FIN queued; the peer has not closed yet.
    Closing,
    /// Over.
    Closed,
}

/// One connection's figures.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ConnStats {
    /// Where it stands.
    pub state: ConnState,
    /// The peer's address.
    pub peer: Option<SocketAddr>,
    /// Bytes the kernel took.
    pub written: u64,
    /// Calls to write that took something.
    pub writes: u64,
    /// Times the send buffer was full.
    pub blocked: u64,
    /// The send buffer is full now.
    pub is_blocked: bool,
    /// Bytes the peer sent; they are thrown away.
    pub read: u64,
    /// The peer has closed its side.
    pub peer_closed: bool,
    /// The first error, as an errno name.
    pub first_error: Option<String>,
    /// The last error, as an errno name.
    pub last_error: Option<String>,
}

/// All figures.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct KernelStats {
    /// The connections, in the order of accepting or connecting.
    pub connections: Vec<ConnStats>,
    /// An error of the sender itself (accept, poll).
    pub error: Option<String>,
    /// The thread has ended.
    pub finished: bool,
}

/// Why a kernel sender cannot start.
#[derive(Debug, thiserror::Error)]
pub enum KernelSenderError {
    /// An address cannot be used.
    #[error("kernel sender: cannot {what} {addr}: {source}; {fix}")]
    Address {
        /// "listen on", "bind to", "connect to".
        what: &'static str,
        /// The address.
        addr: SocketAddr,
        /// What the kernel said.
        source: io::Error,
        /// What to do about it.
        fix: &'static str,
    },
    /// A socket option cannot be set.
    #[error("kernel sender: cannot set {name}={value}: {source}; {fix}")]
    Option {
        /// The option.
        name: &'static str,
        /// The value.
        value: String,
        /// What the kernel said.
        source: io::Error,
        /// What to do about it.
        fix: &'static str,
    },
    /// The thread cannot be made.
    #[error("kernel sender: cannot start a thread: {0}; raise the limit of processes (ulimit -u)")]
    Thread(io::Error),
    /// Nothing to do.
    #[error("kernel sender: connections=0 sends nothing; write connections=1 or more")]
    NoConnections,
}

/// A running kernel sender.
#[derive(Debug)]
pub struct KernelSender {
    shared: Arc<Shared>,
    local: SocketAddr,
    thread: Option<JoinHandle<()>>,
}

/// Shared with the thread.
#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    /// How to end when stopped: see [`end_code`].
    stop_end: AtomicU8,
    stats: Mutex<KernelStats>,
    samples: Mutex<Vec<TcpSample>>,
}

impl KernelSender {
    /// Makes the sockets in the calling thread's network namespace and starts to send.
    ///
    /// # Errors
    /// When an address or a socket option is refused. A connection that fails later shows in [`KernelSender::stats`].
    pub fn start(cfg: KernelConfig, hooks: KernelHooks) -> Result<Self, KernelSenderError> {
        if cfg.connections == 0 {
            return Err(KernelSenderError::NoConnections);
        }
        let shared = Arc::new(Shared::default());
        let mut listener = None;
        let mut conns = Vec::new();
        let local = match cfg.role {
            Role::Server => {
                let l = listen(&cfg, hooks)?;
                let at = l.local_addr().unwrap_or(cfg.local);
                listener = Some(l);
                at
            }
            Role::Client => {
                for _ in 0..cfg.connections {
                    conns.push(Conn::connecting(connect(&cfg, hooks)?, &cfg));
                }
                cfg.local
            }
        };
        let start = Instant::now();
        let worker = Worker {
            accepted: 0,
            listener,
            conns,
            hooks,
            start,
            next_sample: start,
            shared: shared.clone(),
            cfg,
        };
        let thread = std::thread::Builder::new()
            .name("kernel-sender".to_owned())
            .spawn(move || worker.run())
            .map_err(KernelSenderError::Thread)?;
        Ok(KernelSender { shared, local, thread: Some(thread) })
    }

    /// Where a server listens, with the port that the kernel chose.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// The figures now.
    #[must_use]
    pub fn stats(&self) -> KernelStats {
        lock(&self.shared.stats).clone()
    }

    /// The samples taken since the last call.
    #[must_use]
    pub fn drain_samples(&self) -> Vec<TcpSample> {
        core::mem::take(&mut *lock(&self.shared.samples))
    }

    /// All connections are over.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        lock(&self.shared.stats).finished
    }

    /// Asks the thread to end all connections in this way; returns at once.
    pub fn request_stop(&self, end: End) {
        self.shared.stop_end.store(end_code(end), Ordering::Relaxed);
        self.shared.stop.store(true, Ordering::Release);
    }

    /// Ends all connections and waits for the thread, a few [`TICK`]s at most.
    #[must_use]
    pub fn stop(mut self, end: End) -> KernelStats {
        self.request_stop(end);
        self.join();
        self.stats()
    }

    fn join(&mut self) {
        if let Some(t) = self.thread.take()
            && t.join().is_err()
        {
            lock(&self.shared.stats).error = Some("the sender's thread panicked".to_owned());
        }
    }
}

impl Drop for KernelSender {
    fn drop(&mut self) {
        if self.thread.is_some() {
            self.request_stop(End::Abort);
            self.join();
        }
    }
}

impl Default for KernelConfig {
    fn default() -> Self {
        let any = SocketAddr::from(([0, 0, 0, 0], 0));
        KernelConfig {
            role: Role::Server,
            local: any,
            remote: any,
            connections: 1,
            write_sizes: vec![65_536],
            pace: Duration::ZERO,
            nodelay: false,
            congestion: None,
            sndbuf: None,
            maxseg: None,
            notsent_lowat: None,
            total: None,
            time_limit: None,
            end: End::Close,
            connect_timeout: Duration::from_secs(10),
            close_wait: Duration::from_secs(1),
            sample_every: Duration::ZERO,
        }
    }
}

/// The name of an error number, as a C program would write it.
#[must_use]
pub fn errno_name(e: &io::Error) -> String {
    let Some(n) = e.raw_os_error() else { return e.to_string() };
    let name = ERRNO.iter().find(|(code, _)| *code == n).map(|(_, name)| *name);
    name.map_or_else(|| format!("errno {n}"), str::to_owned)
}

const ERRNO: [(i32, &str); 14] = [
    (libc::ETIMEDOUT, "ETIMEDOUT"),
    (libc::ECONNRESET, "ECONNRESET"),
    (libc::ECONNREFUSED, "ECONNREFUSED"),
    (libc::ECONNABORTED, "ECONNABORTED"),
    (libc::EPIPE, "EPIPE"),
    (libc::EHOSTUNREACH, "EHOSTUNREACH"),
    (libc::ENETUNREACH, "ENETUNREACH"),
    (libc::ENETDOWN, "ENETDOWN"),
    (libc::EADDRINUSE, "EADDRINUSE"),
    (libc::EADDRNOTAVAIL, "EADDRNOTAVAIL"),
    (libc::ENOBUFS, "ENOBUFS"),
    (libc::ENOMEM, "ENOMEM"),
    (libc::EPERM, "EPERM"),
    (libc::EPROTO, "EPROTO"),
];

/// Samples kept when nobody drains them.
const MAX_SAMPLES: usize = 1 << 18;

/// The thread's own state.
struct Worker {
    cfg: KernelConfig,
    hooks: KernelHooks,
    listener: Option<TcpListener>,
    accepted: u32,
    conns: Vec<Conn>,
    shared: Arc<Shared>,
    start: Instant,
    next_sample: Instant,
}

impl Worker {
    fn run(mut self) {
        loop {
            if self.shared.stop.load(Ordering::Acquire) {
                let end = end_of(self.shared.stop_end.load(Ordering::Relaxed));
                self.conns.iter_mut().for_each(|c| c.end_now(end));
                break;
            }
            self.accept();
            let now = Instant::now();
            let mut busy = false;
            for c in &mut self.conns {
                busy |= c.step(now, &self.cfg);
            }
            self.sample(now);
            self.publish(false);
            if self.listener.is_none() && self.conns.iter().all(Conn::is_closed) {
                break;
            }
            if !busy && let Err(e) = self.wait() {
                lock(&self.shared.stats).error.get_or_insert(format!("poll: {}", errno_name(&e)));
                std::thread::sleep(TICK);
            }
        }
        self.publish(true);
    }

    fn accept(&mut self) {
        while let Some(l) = &self.listener {
            match l.accept() {
                Ok((stream, peer)) => {
                    self.conns.push(Conn::accepted(stream, peer, &self.cfg));
                    self.accepted += 1;
                    if self.accepted >= self.cfg.connections {
                        self.listener = None;
                    }
                }
                Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
                    return;
                }
                Err(e) => {
                    lock(&self.shared.stats).error.get_or_insert(format!("accept: {}", errno_name(&e)));
                    return;
                }
            }
        }
    }

    fn sample(&mut self, now: Instant) {
        let every = self.cfg.sample_every;
        let Some(read) = self.hooks.sample.filter(|_| !every.is_zero() && now >= self.next_sample) else {
            return;
        };
        self.next_sample = now + every;
        let at = u64::try_from(now.duration_since(self.start).as_nanos()).unwrap_or(u64::MAX);
        let mut samples = lock(&self.shared.samples);
        for (i, c) in self.conns.iter().enumerate() {
            let Some(fd) = c.fd().filter(|_| samples.len() < MAX_SAMPLES) else { continue };
            if let Ok(s) = read(fd) {
                samples.push(TcpSample { at, connection: u32::try_from(i).unwrap_or(u32::MAX), ..s });
            }
        }
    }

    fn publish(&self, finished: bool) {
        let mut stats = lock(&self.shared.stats);
        stats.finished = finished;
        stats.connections.resize(self.conns.len(), ConnStats::default());
        for (slot, c) in stats.connections.iter_mut().zip(&self.conns) {
            if *slot != c.stats {
                slot.clone_from(&c.stats);
            }
        }
    }

    /// Sleeps until a socket is ready, a write or a sample is due, or a tick has passed.
    fn wait(&self) -> io::Result<()> {
        let now = Instant::now();
        let mut until = now + TICK;
        let mut fds = Vec::with_capacity(self.conns.len() + 1);
        if let Some(l) = &self.listener {
            fds.push(PollFd::new(l, PollFlags::IN));
        }
        for c in &self.conns {
            if let Some((fd, events)) = c.interest() {
                fds.push(PollFd::from_borrowed_fd(fd, events));
            }
            if let Some(t) = c.next_due(&self.cfg) {
                until = until.min(t);
            }
        }
        if self.hooks.sample.is_some() && !self.cfg.sample_every.is_zero() {
            until = until.min(self.next_sample);
        }
        let timeout = until.saturating_duration_since(now);
        let timeout = Timespec { tv_sec: 0, tv_nsec: timeout.subsec_nanos().into() }; // TICK is below a second
        match poll(&mut fds, Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }
}

fn listen(cfg: &KernelConfig, hooks: KernelHooks) -> Result<TcpListener, KernelSenderError> {
    let err = |source: io::Error| KernelSenderError::Address {
        what: "listen on",
        addr: cfg.local,
        source,
        fix: "give an address of this namespace and a free port, or port 0",
    };
    let fd = socket(cfg.local).map_err(err)?;
    sockopt::set_socket_reuseaddr(&fd, true).map_err(|e| err(e.into()))?;
    set_options(fd.as_fd(), cfg, hooks)?;
    rustix::net::bind(&fd, &cfg.local).map_err(|e| err(e.into()))?;
    let backlog = i32::try_from(cfg.connections).unwrap_or(i32::MAX).max(16);
    rustix::net::listen(&fd, backlog).map_err(|e| err(e.into()))?;
    Ok(TcpListener::from(fd))
}

fn connect(cfg: &KernelConfig, hooks: KernelHooks) -> Result<OwnedFd, KernelSenderError> {
    let err = |what, addr, source: io::Error| KernelSenderError::Address {
        what,
        addr,
        source,
        fix: "check the address and its route in this namespace",
    };
    let fd = socket(cfg.remote).map_err(|e| err("connect to", cfg.remote, e))?;
    set_options(fd.as_fd(), cfg, hooks)?;
    if cfg.local.port() != 0 || !cfg.local.ip().is_unspecified() {
        let bound = rustix::net::bind(&fd, &cfg.local);
        bound.map_err(|e| err("bind to", cfg.local, e.into()))?;
    }
    match rustix::net::connect(&fd, &cfg.remote) {
        Ok(()) | Err(rustix::io::Errno::INPROGRESS | rustix::io::Errno::INTR) => Ok(fd),
        Err(e) => Err(err("connect to", cfg.remote, e.into())),
    }
}

fn socket(addr: SocketAddr) -> io::Result<OwnedFd> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, ipproto, socket_with};
    let family = if addr.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    Ok(socket_with(family, SocketType::STREAM, flags, Some(ipproto::TCP))?)
}

/// Before listen or connect, so that MSS and buffers take part in the handshake; accepted sockets inherit them.
fn set_options(fd: BorrowedFd<'_>, cfg: &KernelConfig, hooks: KernelHooks) -> Result<(), KernelSenderError> {
    let fail =
        |name, value: String, source: io::Error, fix| KernelSenderError::Option { name, value, source, fix };
    sockopt::set_tcp_nodelay(fd, cfg.nodelay).map_err(|e| {
        fail("TCP_NODELAY", cfg.nodelay.to_string(), e.into(), "report this: it is a plain flag")
    })?;
    if let Some(name) = &cfg.congestion {
        sockopt::set_tcp_congestion(fd, name).map_err(|e| {
            let fix =
                "choose one of /proc/sys/net/ipv4/tcp_allowed_congestion_control, such as reno or cubic";
            fail("TCP_CONGESTION", name.clone(), e.into(), fix)
        })?;
    }
    if let Some(bytes) = cfg.sndbuf {
        sockopt::set_socket_send_buffer_size(fd, bytes as usize)
            .map_err(|e| fail("SO_SNDBUF", bytes.to_string(), e.into(), "give at most net.core.wmem_max"))?;
    }
    let hooked = [
        ("TCP_MAXSEG", cfg.maxseg.map(TcpOption::MaxSeg), "give 88 to 32767"),
        ("TCP_NOTSENT_LOWAT", cfg.notsent_lowat.map(TcpOption::NotsentLowat), "give a number of bytes"),
    ];
    for (name, option, fix) in hooked {
        let Some(option) = option else { continue };
        let value = match option {
            TcpOption::MaxSeg(v) => u32::from(v),
            TcpOption::NotsentLowat(v) => v,
        };
        let set = hooks.set_option.ok_or_else(|| io::Error::from(io::ErrorKind::Unsupported));
        set.and_then(|f| f(fd, option)).map_err(|e| fail(name, value.to_string(), e, fix))?;
    }
    Ok(())
}

fn end_code(end: End) -> u8 {
    match end {
        End::Close => 0,
        End::Abort => 1,
        End::Keep => 2,
    }
}

fn end_of(code: u8) -> End {
    match code {
        0 => End::Close,
        1 => End::Abort,
        _ => End::Keep,
    }
}

/// A panic elsewhere does not make the figures useless.
fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}
