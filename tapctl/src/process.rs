//! Child processes that cannot outlive what they were started for; scheduling of the calling thread.

use std::io;
use std::process::{Command, ExitStatus};

use crate::sys;

/// Makes the command be killed when the *thread* that spawns it ends, however it ends (`PR_SET_PDEATHSIG`).
///
/// Spawn from a thread that lives as long as the command should: not through
/// [`crate::netns::PrivateNet::spawn`], whose thread ends at once. Grandchildren are not covered; for those
/// see [`next_child_is_init`].
pub fn die_with_parent(command: &mut Command) -> &mut Command {
    sys::die_with_parent(command);
    command
}

/// Makes the command and everything it starts run before ordinary processes (SCHED_FIFO, 1 to 99) and on one CPU
/// only. Whatever of it this process has no right to is left out without a word.
pub fn favour(command: &mut Command, priority: u8, cpu: Option<usize>) -> &mut Command {
    // The set of CPUs that a call takes has this size.
    let cpu = cpu.filter(|cpu| *cpu < rustix::thread::CpuSet::MAX_CPU);
    sys::favour(command, i32::from(priority.clamp(1, 99)), cpu);
    command
}

/// Makes the next child of this process the init of a new PID namespace: when it ends, the kernel kills every
/// descendant it still has, daemons included. Needs CAP_SYS_ADMIN in the user namespace.
///
/// As init the child ignores signals it has no handler for, so start something small that starts the rest.
pub fn next_child_is_init() -> io::Result<()> {
    sys::unshare(libc::CLONE_NEWPID)
}

/// Puts the *calling thread* ahead of every ordinary one (`SCHED_FIFO`, priority 1 to 99). Needs CAP_SYS_NICE or a
/// limit on real-time priorities (`ulimit -r`) that allows it.
pub fn schedule_fifo(priority: u8) -> io::Result<()> {
    sys::sched_fifo(priority.into())
}

/// Ignores Ctrl-C and Ctrl-\ in this process, so that a child in the same terminal can end in its own way.
/// Children started later inherit this.
pub fn ignore_interrupts() {
    sys::ignore_signal(libc::SIGINT);
    sys::ignore_signal(libc::SIGQUIT);
}

/// The number a shell would report: the exit code, or 128 and the signal.
pub fn shell_code(status: ExitStatus) -> u8 {
    use std::os::unix::process::ExitStatusExt as _;
    let code = status.code().or_else(|| status.signal().map(|signal| signal.saturating_add(128)));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(u8::MAX)
}
