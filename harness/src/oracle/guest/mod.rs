//! Recording inside a kernel that is booted for it: user-mode-linux or an image under QEMU.
//!
//! The guest's init is this very program, and there is no other in it. It finds a job, records, hands every trace
//! over as soon as it is whole, and switches the machine off. The guest can write to one directory in memory, which
//! goes away with it.
//!
//! | module | one line |
//! |---|---|
//! | `job` | what the guest is told, and the directory it is told in |
//! | `out` | what the guest says |
//! | `init` | the guest's side |
//! | `uml`, `qemu` | how each is booted |
//! | `modules`, `cpio`, `elf` | kernel modules; an initramfs; which libraries a program needs |

mod cpio;
mod elf;
mod init;
mod job;
mod modules;
mod out;
mod qemu;
mod uml;

pub use init::{enter_if_init, init_main};

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, PipeReader, Read as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use rightedge_tapctl::process;
use rustix::process::{
    Pid, Resource, Rlimit, Signal, WaitId, WaitIdOptions, kill_process_group, prlimit, waitid,
};

use super::recorder::{Kernel, Options};
use super::script::Script;
use super::trace::Trace;
use job::{Job, JobDir};
use out::{Event, Reader};

/// Memory of a guest. Its limits on TCP memory follow from it.
const MEMORY_MIB: u32 = 512;
/// How often we look at a guest.
const LOOK: Duration = Duration::from_millis(10);
/// How long a guest that is done may take to go off.
const GO_OFF: Duration = Duration::from_secs(5);
/// What is kept of a console, bytes.
const CONSOLE: usize = 8 << 10;
/// How a kernel begins its last words.
const PANIC: &str = "Kernel panic - not syncing: ";
/// Real-time priority of a guest whose CPU is a process.
const PRIORITY: u8 = 30;

/// Why a guest did not record.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GuestError {
    /// The host's own kernel.
    #[error("kernel host is not a guest; give uml, uml:BINARY or qemu:IMAGE, or record on it directly")]
    Host,
    /// A program or a file is not there.
    #[error("{what}: {why}; {fix}")]
    Missing {
        /// Which.
        what: String,
        /// What the system said.
        why: String,
        /// What to do.
        fix: &'static str,
    },
    /// The directory of a guest, or something in it.
    #[error("{}: {source}; a guest needs a directory it can write to: set TMPDIR to one", path.display())]
    Dir {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A path that a kernel's command line cannot carry.
    #[error("{}: a kernel cannot be told a path with spaces or quotes; set TMPDIR to another directory", path.display())]
    Place {
        /// The path.
        path: PathBuf,
    },
    /// This program itself.
    #[error("{}: {source}; the guest runs this program, so its file must be readable", path.display())]
    Program {
        /// Its path.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The program's form.
    #[error("{}: {why}; the guest runs this program", path.display())]
    Form {
        /// Its path.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// The guest's process did not start.
    #[error("{program}: {source}")]
    Start {
        /// What was started.
        program: String,
        /// What the system said.
        source: io::Error,
    },
    /// It ended before it was done, or fell silent.
    #[error("kernel {kernel}: {why}{}", last_words(console))]
    Ended {
        /// Which kernel.
        kernel: String,
        /// What happened.
        why: String,
        /// The end of what it wrote to its console.
        console: String,
    },
    /// It said what no guest says.
    #[error("kernel {kernel}: its answers are damaged ({why}); record it again")]
    Output {
        /// Which kernel.
        kernel: String,
        /// What is wrong with it.
        why: String,
    },
    /// The guest itself says it cannot record.
    #[error("kernel {kernel}: {why}")]
    Refused {
        /// Which kernel.
        kernel: String,
        /// What it said.
        why: String,
    },
    /// A script could not be recorded; the others can.
    #[error("kernel {kernel}: {why}")]
    Script {
        /// Which kernel.
        kernel: String,
        /// What the recorder said.
        why: String,
    },
}

/// The end of a console, for people: what led to a panic is above it, what follows is the way through the kernel.
fn last_words(console: &str) -> String {
    let before = console.rfind(PANIC).and_then(|at| console.get(..at));
    let console = before.map_or(console, |c| c.get(..c.rfind('\n').unwrap_or(0)).unwrap_or(c));
    let lines: Vec<&str> = console.lines().map(str::trim_end).filter(|l| !l.is_empty()).collect();
    match lines.get(lines.len().saturating_sub(12)..) {
        None | Some([]) => "; its console is empty".to_owned(),
        Some(lines) => format!("; its console ends:\n  {}", lines.join("\n  ")),
    }
}

/// Records scripts on a kernel booted for them. `each` gets the number of the script and its trace, or why there is
/// none, as soon as that is known; in which order is the guest's affair.
///
/// A script on which the kernel dies or hangs costs that script only: the rest are recorded on a kernel booted anew.
/// When `options.stop` is set the guest is ended, and the rest are not reported.
///
/// # Errors
/// When nothing more can be recorded at all: no such kernel, it does not boot, it cannot record.
pub fn record_batch(
    kernel: &Kernel,
    scripts: &[Script],
    options: &Options,
    each: &mut (dyn FnMut(usize, Result<Trace, GuestError>) + Send),
) -> Result<(), GuestError> {
    record_batch_as(&Program::own(), kernel, scripts, options, each)
}

/// As [`record_batch`], with `program` as the guest's init: a program that calls [`enter_if_init`].
///
/// # Errors
/// As [`record_batch`].
pub fn record_batch_as(
    program: &Program,
    kernel: &Kernel,
    scripts: &[Script],
    options: &Options,
    each: &mut (dyn FnMut(usize, Result<Trace, GuestError>) + Send),
) -> Result<(), GuestError> {
    let machine = Machine::new(kernel)?;
    let mut due: BTreeMap<usize, &Script> = scripts.iter().enumerate().collect();
    let mut in_vain = 0;
    while !due.is_empty() && !options.stop.load(Ordering::Relaxed) {
        let before = due.len();
        let mut session = Session { kernel, options, due: &mut due, each: &mut *each, ready: false };
        let Err(error) = session.run(&machine, program) else { continue };
        let ready = session.ready;
        let fatal = !matches!(
            error,
            GuestError::Ended { .. } | GuestError::Output { .. } | GuestError::Refused { .. }
        );
        in_vain = if due.len() < before { 0 } else { in_vain + 1 };
        if fatal || !ready || in_vain > 1 {
            return Err(error);
        }
        // The guest takes them in order, so the first that is due is the one it was at.
        if let Some((number, _)) = due.pop_first() {
            each(number, Err(error));
        }
    }
    Ok(())
}

/// The program that is the guest's init.
#[derive(Clone, Debug)]
pub struct Program {
    path: PathBuf,
    source: PathBuf,
}

impl Program {
    /// The one that runs now.
    #[must_use]
    pub fn own() -> Self {
        // By number: a loader that is asked about the file is another self.
        let source = PathBuf::from(format!("/proc/{}/exe", std::process::id()));
        Program { path: std::env::current_exe().unwrap_or_else(|_| source.clone()), source }
    }

    /// Another.
    #[must_use]
    pub fn at(path: &Path) -> Self {
        let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        Program { source: path.clone(), path }
    }

    /// Can a kernel that has the host's root be told its path? Not if that is strange, or leads to another file by now,
    /// or may lie below a /dev that kernels cover with one of their own.
    fn is_in_reach(&self) -> bool {
        let plain = self.path.to_str().is_some_and(|p| {
            // All of a kernel's command line may have 2048 bytes.
            p.len() < 512 && p.chars().all(|c| c.is_ascii_alphanumeric() || "/._-+@%".contains(c))
        });
        let id = |path: &Path| rustix::fs::stat(path).map(|s| (s.st_dev, s.st_ino)).ok();
        plain
            && !self.path.starts_with("/dev")
            && id(&self.path).is_some()
            && id(&self.path) == id(&self.source)
    }

    /// The path to tell such a kernel: its own, or that of a copy in `dir`.
    fn in_reach(&self, dir: &Path) -> Result<PathBuf, GuestError> {
        if self.is_in_reach() {
            return Ok(self.path.clone());
        }
        let copy = dir.join("init");
        std::fs::copy(&self.source, &copy)
            .map_err(|source| GuestError::Program { path: self.path.clone(), source })?;
        Ok(copy)
    }
}

/// A way to boot a kernel.
enum Machine {
    Uml(uml::Uml),
    Qemu(qemu::Qemu),
}

impl Machine {
    fn new(kernel: &Kernel) -> Result<Self, GuestError> {
        match kernel {
            Kernel::Host => Err(GuestError::Host),
            Kernel::Uml(binary) => uml::Uml::new(binary).map(Machine::Uml),
            Kernel::Qemu(image) => qemu::Qemu::new(image).map(Machine::Qemu),
        }
    }

    /// How long it may take to boot.
    fn boot_limit(&self) -> Duration {
        Duration::from_secs(match self {
            Machine::Uml(_) => 30,
            Machine::Qemu(_) => 120,
        })
    }

    /// Writes the job and makes the command that boots it.
    fn prepare(&self, dir: &Path, mut job: Job, program: &Program) -> Result<Command, GuestError> {
        for name in [job::OUT, job::OUT_SERIAL] {
            let path = dir.join(name);
            File::create(&path).map_err(|source| GuestError::Dir { path, source })?;
        }
        let mut command = match self {
            Machine::Uml(uml) => {
                job.module_dirs = uml.module_dirs();
                job.config = job.config.or_else(|| uml.config());
                job.write(dir)?;
                let mut c = uml.command(dir, program)?;
                process::favour(&mut c, PRIORITY, next_cpu());
                c
            }
            Machine::Qemu(qemu) => qemu.command(dir, job, program)?,
        };
        command.current_dir(dir).stdin(Stdio::null()).process_group(0);
        Ok(command)
    }
}

/// A CPU for a guest: one after the other, so that guests beside each other do not meet.
fn next_cpu() -> Option<usize> {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let set = rustix::thread::sched_getaffinity(None).ok()?;
    let all: Vec<usize> = (0..rustix::thread::CpuSet::MAX_CPU).filter(|c| set.is_set(*c)).collect();
    // Not all processes of this program begin with the same.
    let first = std::process::id() as usize;
    let at = NEXT.fetch_add(1, Ordering::Relaxed).wrapping_add(first).checked_rem(all.len())?;
    all.get(at).copied()
}

/// One guest, from boot to end.
struct Session<'a, 's> {
    kernel: &'a Kernel,
    options: &'a Options,
    due: &'a mut BTreeMap<usize, &'s Script>,
    each: &'a mut (dyn FnMut(usize, Result<Trace, GuestError>) + Send),
    ready: bool,
}

impl Session<'_, '_> {
    /// Boots, hands on what comes, ends the guest. `Ok` if all was recorded or the user wants no more.
    fn run(&mut self, machine: &Machine, program: &Program) -> Result<(), GuestError> {
        // What lies in /dev/shm is out of a kernel's reach when it looks for its init.
        let dir = JobDir::create(matches!(machine, Machine::Qemu(_)) || program.is_in_reach())?;
        let job = Job {
            scripts: self.due.iter().map(|(n, s)| (*n, s.raw.clone())).collect(),
            tries: self.options.tries,
            phase_us: self.options.phase_us,
            command: self.options.command.clone(),
            config: self.options.config.clone(),
            modules: Vec::new(),
            module_dirs: Vec::new(),
        };
        let mut outs = Vec::new();
        let command = machine.prepare(dir.path(), job, program)?;
        for name in [job::OUT, job::OUT_SERIAL] {
            let path = dir.path().join(name);
            let file = File::open(&path).map_err(|source| GuestError::Dir { path, source })?;
            outs.push((file, Reader::default()));
        }
        let mut guest = Guest::start(command, matches!(machine, Machine::Uml(_)))?;
        let mut limit = machine.boot_limit();
        let mut since = Instant::now();
        let mut done = false;
        loop {
            // Looked at first: what was written before the end is then read.
            let over = guest.over();
            guest.listen();
            let mut events = Vec::new();
            for (file, reader) in &mut outs {
                let fed = feed(file, reader, &mut events);
                fed.map_err(|why| GuestError::Output { kernel: self.kernel.to_string(), why })?;
            }
            for event in events {
                since = Instant::now();
                done |= self.take(event)?;
                limit = if done { GO_OFF } else { self.patience() };
            }
            if self.options.stop.load(Ordering::Relaxed)
                || (done && (over.is_some() || since.elapsed() > limit))
            {
                return self.finish(done);
            }
            let why = match over {
                Some(status) => ended_how(status, &guest.console()),
                None if since.elapsed() <= limit => {
                    std::thread::sleep(LOOK);
                    continue;
                }
                None if self.ready => {
                    format!("nothing came for {} s; it hangs, or the machine is overloaded", limit.as_secs())
                }
                None => format!("did not come up within {} s", limit.as_secs()),
            };
            return Err(GuestError::Ended { kernel: self.kernel.to_string(), why, console: guest.console() });
        }
    }

    /// The guest says it is done, or shall be.
    fn finish(&self, done: bool) -> Result<(), GuestError> {
        match self.due.keys().next() {
            Some(first) if done => Err(GuestError::Output {
                kernel: self.kernel.to_string(),
                why: format!("no answer for {} scripts, the first of them number {first}", self.due.len()),
            }),
            _ => Ok(()),
        }
    }

    /// Hands on what a guest said; `true` if it says it is done.
    fn take(&mut self, event: Event) -> Result<bool, GuestError> {
        let kernel = || self.kernel.to_string();
        let (number, result) = match event {
            Event::Ready(release) => {
                tracing::info!("kernel {} is up: Linux {release}", self.kernel);
                self.ready = true;
                return Ok(false);
            }
            Event::Done => return Ok(true),
            Event::Error(why) => return Err(GuestError::Refused { kernel: kernel(), why }),
            Event::Trace(number, trace) => (number, Ok(*trace)),
            Event::Failed(number, why) => (number, Err(GuestError::Script { kernel: kernel(), why })),
        };
        if self.due.remove(&number).is_none() {
            let why = format!("an answer for script {number}, which it was not asked for");
            return Err(GuestError::Output { kernel: kernel(), why });
        }
        (self.each)(number, result);
        Ok(false)
    }

    /// How long it may be silent now.
    fn patience(&self) -> Duration {
        let longest = self.due.values().map(|s| job::patience(s, self.options.tries)).max();
        longest.unwrap_or(GO_OFF)
    }
}

/// What is new in the file goes to the reader.
fn feed(file: &mut File, reader: &mut Reader, events: &mut Vec<Event>) -> Result<(), String> {
    let mut piece = vec![0; 64 << 10];
    loop {
        match file.read(&mut piece) {
            Ok(0) => return Ok(()),
            Ok(n) => reader.feed(piece.get(..n).unwrap_or_default(), events)?,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e.to_string()),
        }
    }
}

/// How a guest ended that was not done.
fn ended_how(status: ExitStatus, console: &str) -> String {
    for (mark, what) in [(PANIC, "panicked: "), ("rightedge: ", "gave up: ")] {
        if let Some((_, rest)) = console.rsplit_once(mark) {
            return format!("{what}{}", rest.lines().next().unwrap_or_default().trim_end());
        }
    }
    format!("ended before it was done ({status})")
}

/// A running guest. It does not outlive the value, nor this process.
struct Guest {
    child: Child,
    ended: Option<ExitStatus>,
    reader: PipeReader,
    console: Vec<u8>,
    // The thread whose child it is ends when this goes.
    _keeper: mpsc::Sender<()>,
}

impl Guest {
    /// Starts it. With `helpers`, those go with it too, however this process ends, if there is the right to see to it.
    fn start(mut command: Command, helpers: bool) -> Result<Self, GuestError> {
        let program = command.get_program().to_string_lossy().into_owned();
        let fail = |source| GuestError::Start { program: program.clone(), source };
        let (reader, writer) = io::pipe().map_err(fail)?;
        // It may say nothing when we listen.
        rustix::io::ioctl_fionbio(&reader, true).map_err(|e| fail(e.into()))?;
        command.stdout(writer.try_clone().map_err(fail)?).stderr(writer);
        let (keeper, end) = mpsc::channel::<()>();
        let (give, take) = mpsc::channel();
        // The guest dies with the thread that starts it, and a namespace is for the children of one thread.
        let keep = move || {
            if helpers && let Err(e) = process::next_child_is_init() {
                tracing::debug!("no PID namespace for the guest: {e}");
            }
            let _ = give.send(process::die_with_parent(&mut command).spawn());
            drop(command);
            let _ = end.recv();
        };
        std::thread::Builder::new().name("guest".to_owned()).spawn(keep).map_err(fail)?;
        let child = take.recv().map_err(|e| fail(io::Error::other(e))).and_then(|c| c.map_err(fail))?;
        let guest = Guest { child, ended: None, reader, console: Vec::new(), _keeper: keeper };
        // A dead kernel would leave its whole memory as a core.
        let _ = prlimit(guest.pid(), Resource::Core, Rlimit { current: Some(0), maximum: Some(0) });
        Ok(guest)
    }

    fn pid(&self) -> Option<Pid> {
        i32::try_from(self.child.id()).ok().and_then(Pid::from_raw)
    }

    /// How it ended, if it did; its helpers then end too.
    fn over(&mut self) -> Option<ExitStatus> {
        let pid = self.pid()?;
        // It stays unreaped for now, so that its number remains its own.
        let look = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        if self.ended.is_none() && !matches!(waitid(WaitId::Pid(pid), look), Ok(None)) {
            self.end();
        }
        self.ended
    }

    fn end(&mut self) {
        if self.ended.is_none() {
            // The group: parts of a kernel in a process are its children.
            if let Some(pid) = self.pid() {
                let _ = kill_process_group(pid, Signal::KILL);
            }
            let _ = self.child.kill();
            self.ended = self.child.wait().ok();
        }
    }

    /// Takes what it wrote to its console.
    fn listen(&mut self) {
        let mut piece = [0; 4096];
        // As much as a pipe holds; a guest that writes without end does not keep us here.
        for _ in 0..16 {
            match self.reader.read(&mut piece) {
                Ok(n) if n > 0 => self.console.extend_from_slice(piece.get(..n).unwrap_or_default()),
                _ => break,
            }
        }
        let old = self.console.len().saturating_sub(CONSOLE);
        self.console.drain(..old);
    }

    /// The end of its console, without what only a terminal understands.
    fn console(&self) -> String {
        let text = String::from_utf8_lossy(&self.console);
        text.chars().filter(|c| !c.is_control() || *c == '\n').collect()
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.end();
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt as _;

    use super::*;

    #[test]
    fn the_reason_is_looked_for_on_the_console() {
        let how = |c: &str| ended_how(ExitStatus::from_raw(0x100), c);
        assert_eq!(
            how("x\nKernel panic - not syncing: No init found.  Try\nmore"),
            "panicked: No init found.  Try"
        );
        assert_eq!(how("a\nrightedge: /dev: no\n"), "gave up: /dev: no");
        assert!(how("").contains("exit status: 1"));
        assert_eq!(last_words("\n \n"), "; its console is empty");
        let said = last_words("BUG: bad\n[  1.5] Kernel panic - not syncing: Fatal\nCall Trace:\n");
        assert_eq!(said, "; its console ends:\n  BUG: bad");
        let long: String = (0..100).map(|i| format!("line {i}\r\n")).collect();
        let said = last_words(&long);
        assert!(said.ends_with("line 98\n  line 99") && said.lines().count() == 13, "{said}");
    }

    #[test]
    fn what_cannot_be_booted_is_said_before_anything_is_made() {
        let run = |k: &str| {
            let kernel: Kernel = k.parse().unwrap();
            record_batch(&kernel, &[], &Options::default(), &mut |_, _| {}).unwrap_err().to_string()
        };
        assert!(run("host").contains("uml:BINARY"));
        assert!(
            run("uml:/nowhere/linux").contains("/nowhere/linux")
                && run("uml:/nowhere/linux").contains("install")
        );
        assert!(run("qemu:/nowhere/vmlinuz").contains("/nowhere/vmlinuz"));
    }

    #[test]
    fn a_program_with_a_strange_path_is_copied() {
        let dir = tempfile::tempdir().unwrap();
        let strange = dir.path().join("a program");
        std::fs::write(&strange, "x").unwrap();
        let program = Program::at(&strange);
        assert_eq!(program.in_reach(dir.path()).unwrap(), dir.path().join("init"));
        assert_eq!(Program::at(Path::new("/bin/sh")).in_reach(dir.path()).unwrap(), Path::new("/bin/sh"));
        assert!(!Program::at(Path::new("/dev/null")).is_in_reach());
        assert!(Program::at(Path::new("/no/such")).in_reach(dir.path()).is_err());
    }
}
