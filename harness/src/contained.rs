//! Child processes that cannot outlive their value nor this process, cannot flood us, and leave nothing behind.
//!
//! A thread of its own starts each: a child dies with the thread that starts it, and namespaces are made for that thread's
//! children. Where there is the right to it, the child is the init of a PID namespace, so that everything it starts goes
//! with it, daemons included.

use std::io::{self, PipeReader, Read as _};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, ExitStatus};
use std::sync::mpsc;

use rightedge_tapctl::link::Netlink;
use rightedge_tapctl::{netns, process};
use rustix::process::{
    Pid, Resource, Rlimit, Signal, WaitId, WaitIdOptions, kill_process_group, prlimit, waitid,
};

/// What is kept of what a child writes, bytes.
const KEPT: usize = 8 << 10;
/// The longest line, bytes; what is longer is cut.
const LINE: usize = 1 << 10;
/// Lines that may wait.
const LINES: usize = 1_000;

/// How a child is kept apart.
#[derive(Clone, Copy, Debug, Default)]
pub struct Apart {
    /// What it starts goes with it, if there is the right to see to it.
    pub with_helpers: bool,
    /// A network namespace of its own in which only `lo` is up.
    pub own_network: bool,
    /// Its standard output is read in lines; otherwise it goes where standard error goes.
    pub lines: bool,
    /// The most address space, bytes.
    pub memory: Option<u64>,
}

/// A running child.
#[derive(Debug)]
pub struct Contained {
    child: Child,
    ended: Option<ExitStatus>,
    lines: Option<Lines>,
    said: Tail,
    // The thread whose child it is ends when this goes.
    _keeper: mpsc::Sender<()>,
}

impl Contained {
    /// Starts it; `name` is for the thread. What its standard input is has been said.
    ///
    /// # Errors
    /// The program cannot be started, or the namespace cannot be made.
    pub fn start(name: &str, mut command: Command, apart: Apart) -> io::Result<Self> {
        let (said, writer) = pipe()?;
        let lines = if apart.lines {
            let (reader, writer) = pipe()?;
            command.stdout(writer);
            Some(Lines { reader, open: Vec::new(), cut: false, whole: Vec::new() })
        } else {
            command.stdout(writer.try_clone()?);
            None
        };
        command.stderr(writer).process_group(0);
        let (keeper, end) = mpsc::channel::<()>();
        let (give, take) = mpsc::channel();
        let keep = move || {
            let begin = || -> io::Result<Child> {
                if apart.own_network {
                    netns::enter_new_netns().map_err(io::Error::other)?;
                    let up = Netlink::open().and_then(|mut n| n.set_up("lo"));
                    up.map_err(io::Error::other)?;
                }
                if apart.with_helpers
                    && let Err(e) = process::next_child_is_init()
                {
                    tracing::debug!("no PID namespace for a child: {e}");
                }
                process::die_with_parent(&mut command).spawn()
            };
            let mut begin = begin;
            let _ = give.send(begin());
            drop(command);
            let _ = end.recv();
        };
        std::thread::Builder::new().name(name.to_owned()).spawn(keep)?;
        let child = take.recv().map_err(io::Error::other)??;
        let contained = Contained {
            child,
            ended: None,
            lines,
            said: Tail { reader: said, kept: Vec::new() },
            _keeper: keeper,
        };
        // A dead kernel would leave its whole memory as a core.
        let _ = prlimit(contained.pid(), Resource::Core, Rlimit { current: Some(0), maximum: Some(0) });
        if apart.memory.is_some() {
            let limit = Rlimit { current: apart.memory, maximum: apart.memory };
            let _ = prlimit(contained.pid(), Resource::As, limit);
        }
        Ok(contained)
    }

    /// Its number.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    fn pid(&self) -> Option<Pid> {
        i32::try_from(self.child.id()).ok().and_then(Pid::from_raw)
    }

    /// How it ended, if it did; what it started then ends too.
    pub fn over(&mut self) -> Option<ExitStatus> {
        let pid = self.pid()?;
        // It stays unreaped for now, so that its number remains its own.
        let look = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        if self.ended.is_none() && !matches!(waitid(WaitId::Pid(pid), look), Ok(None)) {
            self.end();
        }
        self.ended
    }

    /// Ends it.
    pub fn end(&mut self) {
        if self.ended.is_none() {
            // The group: parts of a kernel in a process are its children.
            if let Some(pid) = self.pid() {
                let _ = kill_process_group(pid, Signal::KILL);
            }
            let _ = self.child.kill();
            self.ended = self.child.wait().ok();
        }
    }

    /// Takes what it wrote; call it now and then, or a child that writes much waits.
    pub fn listen(&mut self) {
        self.said.listen();
        if let Some(lines) = &mut self.lines {
            lines.listen();
        }
    }

    /// The whole lines that came since the last call.
    pub fn lines(&mut self) -> Vec<String> {
        self.lines.as_mut().map(|l| std::mem::take(&mut l.whole)).unwrap_or_default()
    }

    /// The end of what it wrote to standard error, without what only a terminal understands.
    #[must_use]
    pub fn said(&self) -> String {
        plain(&self.said.kept)
    }

    /// Resident memory of the process, bytes, as the kernel counts it.
    #[must_use]
    pub fn resident(&self) -> Option<u64> {
        let text = std::fs::read_to_string(format!("/proc/{}/statm", self.id())).ok()?;
        let pages: u64 = text.split_whitespace().nth(1)?.parse().ok()?;
        Some(pages.saturating_mul(rustix::param::page_size() as u64))
    }
}

impl Drop for Contained {
    fn drop(&mut self) {
        self.end();
    }
}

/// A pipe that may say nothing when we listen.
fn pipe() -> io::Result<(PipeReader, io::PipeWriter)> {
    let (reader, writer) = io::pipe()?;
    rustix::io::ioctl_fionbio(&reader, true)?;
    Ok((reader, writer))
}

/// Hands on what has come, but no more than a pipe holds: one that writes without end does not keep us here.
fn drain(reader: &mut PipeReader, mut each: impl FnMut(&[u8])) {
    let mut piece = [0; 4096];
    for _ in 0..16 {
        match reader.read(&mut piece) {
            Ok(n) if n > 0 => each(piece.get(..n).unwrap_or_default()),
            _ => break,
        }
    }
}

fn plain(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    text.chars().filter(|c| !c.is_control() || *c == '\n').collect()
}

/// The end of what was written.
#[derive(Debug)]
struct Tail {
    reader: PipeReader,
    kept: Vec<u8>,
}

impl Tail {
    fn listen(&mut self) {
        let kept = &mut self.kept;
        drain(&mut self.reader, |piece| kept.extend_from_slice(piece));
        let old = kept.len().saturating_sub(KEPT);
        kept.drain(..old);
    }
}

/// What was written, in lines.
#[derive(Debug)]
struct Lines {
    reader: PipeReader,
    open: Vec<u8>,
    cut: bool,
    whole: Vec<String>,
}

impl Lines {
    fn listen(&mut self) {
        let (open, cut, whole) = (&mut self.open, &mut self.cut, &mut self.whole);
        drain(&mut self.reader, |piece| {
            for byte in piece {
                if *byte == b'\n' {
                    if whole.len() < LINES {
                        whole.push(plain(open));
                    }
                    open.clear();
                    *cut = false;
                } else if open.len() < LINE {
                    open.push(*byte);
                } else {
                    *cut = true;
                }
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use std::process::Stdio;
    use std::time::{Duration, Instant};

    use super::*;

    fn shell(script: &str, apart: Apart) -> Contained {
        let mut c = Command::new("/bin/sh");
        c.args(["-c", script]).stdin(Stdio::null());
        Contained::start("test", c, apart).unwrap()
    }

    fn wait(c: &mut Contained) -> ExitStatus {
        let begun = Instant::now();
        loop {
            c.listen();
            if let Some(status) = c.over() {
                c.listen();
                return status;
            }
            assert!(begun.elapsed() < Duration::from_secs(20), "it does not end");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    fn lines_and_errors_are_told_apart() {
        let mut c =
            shell("echo one; echo two; echo bad >&2; exit 3", Apart { lines: true, ..Apart::default() });
        assert_eq!(wait(&mut c).code(), Some(3));
        assert_eq!(c.lines(), ["one", "two"]);
        assert!(c.lines().is_empty());
        assert_eq!(c.said(), "bad\n");
        let mut c = shell("echo one; echo bad >&2", Apart::default());
        wait(&mut c);
        assert_eq!(c.said(), "one\nbad\n");
    }

    #[test]
    fn a_flood_is_cut() {
        let mut c =
            shell("yes | head -c 3000000; yes 1>&2 | head -c 1", Apart { lines: true, ..Apart::default() });
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_millis(300) {
            c.listen();
        }
        assert!(c.lines().len() <= LINES && c.said().len() <= KEPT);
        c.end();
        let mut c = shell(
            "head -c 100000 /dev/zero | tr '\\0' x; echo; echo next",
            Apart { lines: true, ..Apart::default() },
        );
        wait(&mut c);
        let lines = c.lines();
        assert_eq!((lines[0].len(), lines[1].as_str()), (LINE, "next"));
    }

    #[test]
    fn it_ends_with_its_value_and_so_does_what_it_started() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("pid");
        let script = format!("sleep 1000 & echo $! > {0}.new; mv {0}.new {0}; wait", file.display());
        let c = shell(&script, Apart::default());
        let begun = Instant::now();
        let sleeper = loop {
            if let Ok(text) = std::fs::read_to_string(&file) {
                break text.trim().parse::<i32>().unwrap();
            }
            assert!(begun.elapsed() < Duration::from_secs(20));
            std::thread::sleep(Duration::from_millis(5));
        };
        let alive = || rustix::process::test_kill_process(Pid::from_raw(sleeper).unwrap()).is_ok();
        assert!(alive());
        drop(c);
        while alive() {
            // Its new parent has to reap it.
            assert!(begun.elapsed() < Duration::from_secs(20));
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    fn what_cannot_be_started_is_an_error() {
        let e = Contained::start("test", Command::new("/no/such/program"), Apart::default()).unwrap_err();
        assert_eq!(e.kind(), io::ErrorKind::NotFound);
    }
}
