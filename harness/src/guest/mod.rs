//! Kernels booted for one task: user-mode-linux or an image under QEMU.
//!
//! The guest's init is this very program, and there is no other in it. It finds a job, does the task that is named there,
//! says what there is to say, and switches the machine off. The guest can write to one directory in memory, which goes away
//! with it.
//!
//! | module | one line |
//! |---|---|
//! | [`kernel`](Kernel) | which kernels there are |
//! | `job` | what the guest is told, and the directory it is told in |
//! | `init` | the guest's side |
//! | `uml`, `qemu` | how each is booted |
//! | `modules`, `cpio`, `elf` | kernel modules; an initramfs; which libraries a program needs |

mod cpio;
mod elf;
mod init;
mod job;
mod kernel;
mod modules;
mod qemu;
mod uml;

pub use init::{Host, Task, enter_if_init};
pub use job::{Job, JobDir, Wanted};
pub use kernel::{Kernel, UML};

use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rightedge_tapctl::process;

use serde_json::Value;

use crate::contained::{Apart, Contained};

/// Memory of a guest. Its limits on TCP memory follow from it.
const MEMORY_MIB: u32 = 512;
/// How a kernel begins its last words.
const PANIC: &str = "Kernel panic - not syncing: ";
/// Real-time priority of a guest whose CPU is a process.
const PRIORITY: u8 = 30;

/// Why a guest did not do its task.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GuestError {
    /// The host's own kernel.
    #[error("kernel host is not a guest; give uml, uml:BINARY or qemu:IMAGE, or use it directly")]
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
    #[error("kernel {kernel}: its answers are damaged ({why}); run it again")]
    Output {
        /// Which kernel.
        kernel: String,
        /// What is wrong with it.
        why: String,
    },
    /// The guest itself says it cannot do it.
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

/// How a guest is booted.
#[derive(Debug, Default)]
pub struct Boot {
    /// The name of the task, and what it is told.
    pub task: (&'static str, Value),
    /// Kernel modules that the task wants.
    pub wanted: Vec<Wanted>,
    /// The far end of the guest's network device: a datagram socket that carries a frame in each message. With one the
    /// guest lives in real time; without, an emulated processor may have a clock of its own.
    pub frames: Option<OwnedFd>,
    /// Run it before ordinary processes and on one CPU, where that is allowed.
    pub favoured: bool,
}

/// A way to boot a kernel.
#[derive(Debug)]
pub struct Machine(Kind);

#[derive(Debug)]
enum Kind {
    Uml(uml::Uml),
    Qemu(qemu::Qemu),
}

impl Machine {
    /// The machine that boots `kernel`.
    ///
    /// # Errors
    /// What is missing, and how to get it.
    pub fn new(kernel: &Kernel) -> Result<Self, GuestError> {
        match kernel {
            Kernel::Host => Err(GuestError::Host),
            Kernel::Uml(binary) => uml::Uml::new(binary).map(|m| Machine(Kind::Uml(m))),
            Kernel::Qemu(image) => qemu::Qemu::new(image).map(|m| Machine(Kind::Qemu(m))),
        }
    }

    /// Where its kernel's configuration was found, and the text, if the kernel itself does not show it.
    #[must_use]
    pub fn config(&self) -> Option<(String, String)> {
        match &self.0 {
            Kind::Uml(uml) => uml.config(),
            Kind::Qemu(_) => None,
        }
    }

    /// The release of its kernel, if that is known before it is booted.
    #[must_use]
    pub fn release(&self) -> Option<String> {
        match &self.0 {
            Kind::Uml(uml) => uml.release(),
            Kind::Qemu(qemu) => Some(qemu.release().to_owned()),
        }
    }

    /// How long it may take to boot.
    #[must_use]
    pub fn boot_limit(&self) -> Duration {
        Duration::from_secs(match self.0 {
            Kind::Uml(_) => 30,
            Kind::Qemu(_) => 120,
        })
    }

    /// Boots it.
    ///
    /// # Errors
    /// It cannot be started; that it does not come up shows later.
    pub fn boot(&self, program: &Program, boot: Boot) -> Result<Running, GuestError> {
        // What lies in /dev/shm is out of a kernel's reach when it looks for its init.
        let dir = JobDir::create(matches!(self.0, Kind::Qemu(_)) || program.is_in_reach())?;
        let mut outs = Vec::new();
        for name in [job::OUT, job::OUT_SERIAL] {
            let path = dir.path().join(name);
            let fail = |source| GuestError::Dir { path: path.clone(), source };
            File::create(&path).map_err(fail)?;
            outs.push(File::open(&path).map_err(fail)?);
        }
        let mut job = Job {
            task: boot.task.0.to_owned(),
            arguments: boot.task.1,
            wanted: boot.wanted,
            modules: Vec::new(),
            module_dirs: Vec::new(),
        };
        let networked = boot.frames.is_some();
        let mut command = match &self.0 {
            Kind::Uml(uml) => {
                job.module_dirs = uml.module_dirs();
                job.write(dir.path())?;
                uml.command(dir.path(), program, networked)?
            }
            Kind::Qemu(qemu) => qemu.command(dir.path(), job, program, networked)?,
        };
        if boot.favoured && matches!(self.0, Kind::Uml(_)) {
            process::favour(&mut command, PRIORITY, next_cpu());
        }
        let stdin = boot.frames.map_or_else(Stdio::null, Stdio::from);
        command.current_dir(dir.path()).stdin(stdin);
        // Parts of a kernel in a process are processes too.
        let apart = Apart { with_helpers: matches!(self.0, Kind::Uml(_)), ..Apart::default() };
        let program = command.get_program().to_string_lossy().into_owned();
        let guest = Contained::start("guest", command, apart)
            .map_err(|source| GuestError::Start { program, source })?;
        Ok(Running { guest, outs, _dir: dir })
    }
}

/// A machine that was booted. It goes with the value.
#[derive(Debug)]
pub struct Running {
    guest: Contained,
    outs: Vec<File>,
    // Held, not read.
    _dir: JobDir,
}

impl Running {
    /// Has it ended, and how? Ask before [`Running::read`]: what was written before the end is then read.
    pub fn over(&mut self) -> Option<ExitStatus> {
        self.guest.over()
    }

    /// What it said since the last time, with the number of the way it took.
    ///
    /// # Errors
    /// The files it writes to cannot be read, or `each` refuses what is in them.
    pub fn read<F>(&mut self, mut each: F) -> Result<(), String>
    where
        F: FnMut(usize, &[u8]) -> Result<(), String>,
    {
        self.guest.listen();
        let mut piece = vec![0; 64 << 10];
        for (way, file) in self.outs.iter_mut().enumerate() {
            loop {
                match file.read(&mut piece) {
                    Ok(0) => break,
                    Ok(n) => each(way, piece.get(..n).unwrap_or_default())?,
                    Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                    Err(e) => return Err(e.to_string()),
                }
            }
        }
        Ok(())
    }

    /// The process.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.guest.id()
    }

    /// The end of what it wrote to its console.
    #[must_use]
    pub fn console(&self) -> String {
        self.guest.said()
    }

    /// How it ended, if it was not done, in words.
    #[must_use]
    pub fn ended_how(&self, status: ExitStatus) -> String {
        ended_how(status, &self.console())
    }

    /// Ends it.
    pub fn end(&mut self) {
        self.guest.end();
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

/// How a guest ended that was not done.
fn ended_how(status: ExitStatus, console: &str) -> String {
    for (mark, what) in [(PANIC, "panicked: "), ("rightedge: ", "gave up: ")] {
        if let Some((_, rest)) = console.rsplit_once(mark) {
            return format!("{what}{}", rest.lines().next().unwrap_or_default().trim_end());
        }
    }
    format!("ended before it was done ({status})")
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
        let new = |k: &str| Machine::new(&k.parse().unwrap()).unwrap_err().to_string();
        assert!(new("host").contains("uml:BINARY"));
        let said = new("uml:/nowhere/linux");
        assert!(said.contains("/nowhere/linux") && said.contains("install"), "{said}");
        assert!(new("qemu:/nowhere/vmlinuz").contains("/nowhere/vmlinuz"));
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
