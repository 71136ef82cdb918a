//! Kernels that are booted to be a peer: user-mode-linux, or any image under QEMU.
//!
//! A kernel is booted once for all situations it is to be put into: it opens a connection to a port of its own for each. A
//! router hands every cell the frames of its port.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration as StdDuration, Instant as Clock};

use anyhow::{Context as _, Result, bail};
use bytes::Bytes;
use rightedge_stack::{Stack, time::Instant, wire::RxMeta};
use rightedge_tapctl::link::Netlink;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::child::Account;
use super::frames::{Ending, Frames, Sender};
use super::spec::Options;
use super::{Shop, host};
use crate::guest::{Boot, Host, Kernel, Machine, Program, Running, Task, Wanted};
use crate::observer::segment::{self, NotTcp};
use crate::run::wire::tap::{KERNEL_HOOKS, KernelSide};
use crate::run::wire::{STACK_IP, SenderReport, Wire, nap, since};
use crate::sender::kernel::KernelSender;

/// The name of the task.
const NAME: &str = "send";
/// The task, for [`crate::guest::enter_if_init`].
pub const TASK: (&str, Task) = (NAME, serve);
/// Time between the beginnings of two connections.
const APART: StdDuration = StdDuration::from_millis(150);
/// How often the router looks at the guest.
const LOOK: StdDuration = StdDuration::from_millis(20);
/// Frames that may wait for a cell; what does not fit is lost, as on any network.
const WAITING: usize = 4_096;

/// What a guest is told.
#[derive(Debug, Serialize, Deserialize)]
struct Sending {
    /// Ports to connect to, and how many bytes to send there.
    streams: Vec<(u16, u64)>,
    options: String,
}

/// What the cells of a guest share.
#[derive(Debug)]
struct Shared {
    started: Clock,
    to_guest: Sender,
    accounts: Mutex<BTreeMap<u16, Account>>,
    /// What the guest says of itself, and what happened to it.
    guest: Mutex<Fate>,
    over: AtomicBool,
    stop: AtomicBool,
}

#[derive(Clone, Debug, Default)]
struct Fate {
    release: Option<String>,
    ready: bool,
    error: Option<String>,
    console: String,
}

/// A booted kernel with a connection for each situation.
#[derive(Debug)]
pub struct Row {
    shared: Arc<Shared>,
    wires: BTreeMap<u16, Receiver<Bytes>>,
    router: Option<JoinHandle<()>>,
}

impl Row {
    /// Boots `kernel`, which then connects to each of the ports and sends so many bytes there. Returns when it is up.
    ///
    /// # Errors
    /// It cannot be booted.
    pub fn start(kernel: &Kernel, options: &Options, streams: Vec<(u16, u64)>, shop: &Shop) -> Result<Self> {
        let machine = Machine::new(kernel)?;
        let mut tries = 0;
        loop {
            tries += 1;
            let mut row = Self::boot(&machine, kernel, options, &streams, shop)?;
            match row.come_up(machine.boot_limit()) {
                Ok(()) => return Ok(row),
                // An emulator may crash while a kernel boots; that is no finding about the kernel.
                Err(e) if tries < 3 && matches!(kernel, Kernel::Qemu(_)) => {
                    tracing::warn!("{e:#}; it is booted again");
                }
                Err(e) => return Err(e),
            }
        }
    }

    fn boot(
        machine: &Machine,
        kernel: &Kernel,
        options: &Options,
        streams: &[(u16, u64)],
        shop: &Shop,
    ) -> Result<Self> {
        let (frames, theirs) = Frames::pair(Ending::Unheard).context("no socket for a guest")?;
        let task = Sending { streams: streams.to_vec(), options: options.for_peer() };
        let wanted = options.get("cc").map(|cc| Wanted {
            name: format!("tcp_{cc}").into(),
            place: "kernel/net/ipv4".into(),
            sign: None,
            needed: None,
        });
        let boot = Boot {
            task: (NAME, serde_json::to_value(task)?),
            wanted: wanted.into_iter().collect(),
            frames: Some(theirs),
            favoured: false,
        };
        let program = shop.program.clone().unwrap_or_else(Program::own);
        let shared = Arc::new(Shared {
            started: Clock::now(),
            to_guest: frames.sender().context("no socket for a guest")?,
            accounts: Mutex::default(),
            guest: Mutex::default(),
            over: AtomicBool::new(false),
            stop: AtomicBool::new(false),
        });
        let mut wires = BTreeMap::new();
        let mut cells = BTreeMap::new();
        for (port, _) in streams {
            let (give, take) = sync_channel(WAITING);
            cells.insert(*port, give);
            wires.insert(*port, take);
        }
        let guest = machine.boot(&program, boot)?;
        let arp = super::answering_machine()?;
        let router = Router {
            frames,
            guest,
            cells,
            arp,
            lines: [Vec::new(), Vec::new()],
            shared: Arc::clone(&shared),
            kernel: kernel.to_string(),
        };
        let router = std::thread::Builder::new().name("guest-frames".to_owned()).spawn(|| router.run())?;
        Ok(Row { shared, wires, router: Some(router) })
    }

    /// Waits until the guest says it is up.
    fn come_up(&mut self, limit: StdDuration) -> Result<()> {
        let begun = Clock::now();
        loop {
            let fate = lock(&self.shared.guest).clone();
            if let Some(why) = fate.error {
                bail!("{why}");
            }
            if fate.ready {
                return Ok(());
            }
            if begun.elapsed() > limit {
                bail!("the guest did not come up within {} s", limit.as_secs());
            }
            std::thread::sleep(LOOK);
        }
    }

    /// The wire of one of its connections.
    pub fn wire(&mut self, port: u16) -> Option<GuestWire> {
        let frames = self.wires.remove(&port)?;
        Some(GuestWire { shared: Arc::clone(&self.shared), port, frames, next: None })
    }
}

impl Drop for Row {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(router) = self.router.take() {
            // It has nothing to say.
            let _ = router.join();
        }
    }
}

/// Hands on frames, and listens to the guest.
struct Router {
    frames: Frames,
    guest: Running,
    cells: BTreeMap<u16, SyncSender<Bytes>>,
    /// Answers who has the receiver's address.
    arp: Stack,
    lines: [Vec<u8>; 2],
    shared: Arc<Shared>,
    kernel: String,
}

impl Router {
    fn run(mut self) {
        while !self.shared.stop.load(Ordering::Relaxed) {
            if let Err(e) = self.turn() {
                lock(&self.shared.guest).error.get_or_insert(format!("{e:#}"));
                break;
            }
            if self.shared.over.load(Ordering::Relaxed) {
                break;
            }
        }
        self.guest.end();
        self.shared.over.store(true, Ordering::Relaxed);
    }

    fn turn(&mut self) -> Result<()> {
        self.frames.wait(LOOK)?;
        while let Some(frame) = self.frames.recv().context("cannot read from a guest's socket")? {
            self.route(frame)?;
        }
        let ended = self.guest.over();
        self.listen()?;
        if let Some(status) = ended {
            let how = self.guest.ended_how(status);
            let mut fate = lock(&self.shared.guest);
            fate.console = self.guest.console();
            fate.error.get_or_insert_with(|| format!("kernel {}: {how}", self.kernel));
            self.shared.over.store(true, Ordering::Relaxed);
        }
        Ok(())
    }

    fn route(&mut self, frame: Bytes) -> Result<()> {
        match segment::parse(&frame) {
            Ok(s) => {
                if let Some(cell) = self.cells.get(&s.destination.port()) {
                    // Full, or over: lost.
                    let _ = cell.try_send(frame);
                }
            }
            Err(NotTcp::Other) => {
                // A question is answered here, an answer is for whoever asked.
                let now = since(self.shared.started);
                self.arp.ingress(now, &frame, RxMeta::default());
                while let Some(answer) = self.arp.poll_transmit() {
                    self.frames.send(&answer.frame)?;
                }
                for cell in self.cells.values() {
                    let _ = cell.try_send(frame.clone());
                }
            }
            Err(_) => {}
        }
        Ok(())
    }

    fn listen(&mut self) -> Result<()> {
        let (lines, shared) = (&mut self.lines, &self.shared);
        let read = self.guest.read(|way, piece| {
            let Some(line) = lines.get_mut(way) else { return Ok(()) };
            for byte in piece {
                match byte {
                    b'\n' => {
                        shared.take(String::from_utf8_lossy(line).trim());
                        line.clear();
                    }
                    _ if line.len() < 4096 => line.push(*byte),
                    _ => {}
                }
            }
            Ok(())
        });
        read.map_err(anyhow::Error::msg).context("cannot read what a guest says")
    }
}

impl Shared {
    /// Takes a line: a mark of the guest's own, or a port and a line of the contract.
    fn take(&self, line: &str) {
        let mut fate = lock(&self.guest);
        match line.strip_prefix('=').and_then(|l| l.split_once(' ').or(Some((l, "")))) {
            Some(("ready", release)) => {
                fate.ready = true;
                fate.release = Some(format!("Linux {release}"));
            }
            Some(("error", why)) => {
                let why = serde_json::from_str(why).unwrap_or_else(|_| why.to_owned());
                fate.error.get_or_insert(why);
            }
            Some(_) => {}
            None => {
                if let Some((port, line)) = line.split_once(' ')
                    && let Ok(port) = port.parse()
                {
                    lock(&self.accounts).entry(port).or_default().take(line);
                }
            }
        }
    }
}

/// One connection of a booted kernel.
#[derive(Debug)]
pub struct GuestWire {
    shared: Arc<Shared>,
    port: u16,
    frames: Receiver<Bytes>,
    next: Option<Bytes>,
}

impl GuestWire {
    fn account(&self) -> Account {
        lock(&self.shared.accounts).get(&self.port).cloned().unwrap_or_default()
    }
}

impl Wire for GuestWire {
    fn now(&mut self) -> Instant {
        since(self.shared.started)
    }

    fn recv(&mut self, _: Instant) -> Result<Option<(Bytes, RxMeta)>> {
        let frame = self.next.take().or_else(|| self.frames.try_recv().ok());
        Ok(frame.map(|f| (f, RxMeta::default())))
    }

    fn send(&mut self, _: Instant, frame: &Bytes) -> Result<bool> {
        self.shared.to_guest.send(frame).context("cannot write to a guest's socket")
    }

    fn wait(&mut self, until: Option<Instant>, at_most: StdDuration) -> Result<()> {
        let nap = nap(since(self.shared.started), until, at_most);
        match self.frames.recv_timeout(nap) {
            Ok(frame) => self.next = Some(frame),
            Err(RecvTimeoutError::Timeout) => {}
            // The guest has gone.
            Err(RecvTimeoutError::Disconnected) => std::thread::sleep(nap.min(LOOK)),
        }
        Ok(())
    }

    fn lag(&self) -> rightedge_stack::time::Duration {
        rightedge_stack::time::Duration::from_millis(50)
    }

    fn sender_done(&self) -> bool {
        let a = self.account();
        self.shared.over.load(Ordering::Relaxed) || a.done || a.error.is_some()
    }

    fn sender(&mut self) -> SenderReport {
        let fate = lock(&self.shared.guest).clone();
        let mut a = self.account();
        a.stack = fate.release;
        if !a.done {
            a.error = a.error.or(fate.error);
        }
        a.report(&fate.console)
    }

    fn stop(&mut self, _: Instant) {}
}

fn lock<T>(m: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

// ---- the guest's side ----------------------------------------------------------------------------------------------

fn serve(arguments: Value, host: &Host) -> Result<(), String> {
    let task: Sending = serde_json::from_value(arguments).map_err(|e| format!("what is to be sent: {e}"))?;
    let spec: super::spec::PeerSpec = format!("linux,{}", task.options).parse()?;
    let device = device()?;
    let mut sysctls = host::sysctls(&spec.options);
    if let Some(cc) = spec.options.get("cc") {
        // Whoever asks for one by name may have it.
        sysctls.push(("net.ipv4.tcp_allowed_congestion_control".to_owned(), format!("reno cubic {cc}")));
    }
    let side = KernelSide { sysctls, ..KernelSide::default() };
    side.apply(&device).map_err(|e| format!("{e:#}"))?;
    let mut senders: Vec<(u16, KernelSender, Option<u64>)> = Vec::new();
    let mut streams = task.streams.into_iter();
    loop {
        if let Some((port, bytes)) = streams.next() {
            let mut config = host::sender(&spec.options, bytes);
            config.remote = (STACK_IP, port).into();
            let sender = KernelSender::start(config, KERNEL_HOOKS).map_err(|e| e.to_string())?;
            senders.push((port, sender, None));
        } else if senders.is_empty() {
            return Ok(());
        }
        let mut lines = String::new();
        senders.retain_mut(|(port, sender, told)| {
            let finished = sender.is_finished();
            let stats = sender.stats();
            let written: u64 = stats.connections.iter().map(|c| c.written).sum();
            if *told != Some(written) {
                *told = Some(written);
                lines += &format!("{port} written {written}\n");
            }
            if finished {
                let error = stats.connections.iter().find_map(|c| c.first_error.clone()).or(stats.error);
                lines += &error.map_or_else(|| format!("{port} done\n"), |e| format!("{port} error {e}\n"));
            }
            !finished
        });
        if !lines.is_empty() {
            host.say(|f| f.write_all(lines.as_bytes()).and_then(|()| f.flush()))?;
        }
        std::thread::sleep(APART);
    }
}

/// The guest's network device, once it is there.
fn device() -> Result<String, String> {
    let mut nl = Netlink::open().map_err(|e| e.to_string())?;
    for _ in 0..200 {
        let links = nl.links().map_err(|e| e.to_string())?;
        if let Some(link) = links.iter().find(|l| l.name.starts_with("eth") || l.name.starts_with("vec")) {
            return Ok(link.name.clone());
        }
        std::thread::sleep(StdDuration::from_millis(20));
    }
    Err("no network device; the kernel needs virtio_net, or user-mode-linux with CONFIG_UML_NET_VECTOR"
        .to_owned())
}
