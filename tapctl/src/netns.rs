//! Network namespaces: unnamed ones that vanish with the process, named ones that stay on request.
//!
//! A namespace belongs to a *thread*. Work runs in a fresh thread that creates or enters the namespace and
//! then ends; nothing is ever switched back. An unnamed namespace has no entry anywhere on the host: it lives
//! while a thread is inside or a descriptor refers to it, so not even SIGKILL leaves it behind.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use rustix::mount::{MountPropagationFlags, UnmountFlags};
use rustix::thread::{CapabilitySet, LinkNameSpaceType};

use crate::link::Netlink;
use crate::sys;

/// Where named namespaces are mounted; the directory `ip netns` uses.
pub const NETNS_DIR: &str = "/run/netns";

const THREAD_NETNS: &str = "/proc/thread-self/ns/net";

/// How this process came by its rights over new network namespaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Privilege {
    /// It had CAP_NET_ADMIN and CAP_SYS_ADMIN already.
    Already,
    /// It is now root inside a user namespace of its own.
    UserNamespace,
}

/// Why a namespace could not be made, entered or removed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NetnsError {
    /// The user namespace was refused.
    #[error(
        "user namespace: refused ({source}); run as root, or allow it: sysctl user.max_user_namespaces > 0, and where they exist kernel.unprivileged_userns_clone=1 and kernel.apparmor_restrict_unprivileged_userns=0"
    )]
    UserNamespace {
        /// What the kernel said.
        source: io::Error,
    },
    /// Too late for a user namespace.
    #[error(
        "user namespace: this process has {threads} threads and the kernel allows it only with one; call prepare_process first thing in main"
    )]
    Threads {
        /// How many threads.
        threads: usize,
    },
    /// Identity mapping refused.
    #[error("user namespace: writing {file} = {value:?} failed ({source}); run as root")]
    IdMap {
        /// The file under /proc/self.
        file: &'static str,
        /// What was written.
        value: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// The network namespace was refused.
    #[error(
        "network namespace: unshare(CLONE_NEWNET) refused ({source}); run as root, or call prepare_process first (`tapctl doctor` shows what is missing)"
    )]
    Unshare {
        /// What the kernel said.
        source: io::Error,
    },
    /// The namespace could not be entered.
    #[error(
        "network namespace {name:?}: could not be entered ({source}); it needs CAP_SYS_ADMIN: run as root"
    )]
    Enter {
        /// Its name, or `private`.
        name: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// No thread.
    #[error("network namespace: no thread could be started for it ({source}); check the limit on processes")]
    Thread {
        /// What the kernel said.
        source: io::Error,
    },
    /// A step while setting the new namespace up.
    #[error("network namespace: {step} failed ({source})")]
    Setup {
        /// Which step.
        step: &'static str,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Not a usable name.
    #[error(
        "namespace name {name:?}: must be 1 to 200 letters, digits, '-', '_' or '.', not starting with '.'; choose another"
    )]
    Name {
        /// The name.
        name: String,
    },
    /// The name is taken.
    #[error(
        "namespace {name:?}: exists already in {NETNS_DIR}; choose another name or remove it with `tapctl down`"
    )]
    Exists {
        /// The name.
        name: String,
    },
    /// No such name.
    #[error("namespace {name:?}: not found in {NETNS_DIR}; `tapctl show` lists those there are")]
    Missing {
        /// The name.
        name: String,
    },
    /// Mounting or unmounting failed.
    #[error(
        "namespace {name:?}: {step} failed ({source}); named namespaces need real root, unnamed ones do not"
    )]
    Mount {
        /// The name.
        name: String,
        /// Which step.
        step: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// A command inside the namespace did not start.
    #[error("command {command:?}: could not be started ({source}); check the name and PATH")]
    Command {
        /// The program.
        command: OsString,
        /// What the kernel said.
        source: io::Error,
    },
}

/// Makes sure this process may create network namespaces. Call once, first thing in `main`.
///
/// With CAP_NET_ADMIN and CAP_SYS_ADMIN it does nothing. Without, it enters a user namespace in which the
/// process is root; the kernel permits that only while the process has a single thread. Rights over the
/// machine do not grow: opening [`crate::tap::TUN_NODE`] still needs permission on the node.
pub fn prepare_process() -> Result<Privilege, NetnsError> {
    if has_net_admin() && has_capability(CapabilitySet::SYS_ADMIN) {
        return Ok(Privilege::Already);
    }
    let threads = fs::read_dir("/proc/self/task").map_or(1, Iterator::count);
    if threads > 1 {
        return Err(NetnsError::Threads { threads });
    }
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    sys::unshare(libc::CLONE_NEWUSER).map_err(|source| NetnsError::UserNamespace { source })?;
    // Without CAP_SETGID outside, the kernel takes a gid_map only after setgroups is denied.
    let files = [
        ("/proc/self/setgroups", "deny".to_owned()),
        ("/proc/self/uid_map", format!("0 {uid} 1")),
        ("/proc/self/gid_map", format!("0 {gid} 1")),
    ];
    for (file, value) in files {
        fs::write(file, &value).map_err(|source| NetnsError::IdMap { file, value, source })?;
    }
    Ok(Privilege::UserNamespace)
}

/// Does the calling thread hold CAP_NET_ADMIN in its user namespace?
pub fn has_net_admin() -> bool {
    has_capability(CapabilitySet::NET_ADMIN)
}

/// May the calling thread create network namespaces right away?
pub fn may_create() -> bool {
    has_net_admin() && has_capability(CapabilitySet::SYS_ADMIN)
}

/// Is this the machine's own user namespace? It maps every id onto itself.
pub(crate) fn in_initial_user_namespace() -> bool {
    let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    map.split_whitespace().eq(["0", "0", "4294967295"])
}

fn has_capability(wanted: CapabilitySet) -> bool {
    rustix::thread::capabilities(None).is_ok_and(|sets| sets.effective.contains(wanted))
}

/// A network namespace of our own, held by a descriptor and by nothing else.
///
/// Its `lo` is up. When the value is dropped and the last thread inside has ended, the kernel removes the
/// namespace with everything in it.
#[derive(Debug)]
pub struct PrivateNet {
    fd: OwnedFd,
    name: String,
}

impl PrivateNet {
    /// Creates a namespace.
    pub fn new() -> Result<Self, NetnsError> {
        let fd = in_fresh_thread(|| {
            unshare_net()?;
            File::open(THREAD_NETNS).map(OwnedFd::from).map_err(|source| NetnsError::Setup {
                step: "opening /proc/thread-self/ns/net",
                source: source.into(),
            })
        })??;
        Ok(Self { fd, name: "private".to_owned() })
    }

    /// The namespace of the calling thread.
    pub fn current() -> Result<Self, NetnsError> {
        let file = File::open(THREAD_NETNS)
            .map_err(|source| NetnsError::Enter { name: "current".to_owned(), source })?;
        Ok(Self { fd: file.into(), name: "current".to_owned() })
    }

    /// A named namespace, as `tapctl up --ns` or `ip netns add` makes them.
    pub fn named(name: &str) -> Result<Self, NetnsError> {
        let path = named_path(name)?;
        let file = File::open(path).map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => NetnsError::Missing { name: name.to_owned() },
            _ => NetnsError::Enter { name: name.to_owned(), source },
        })?;
        Ok(Self { fd: file.into(), name: name.to_owned() })
    }

    /// Runs a closure in a fresh thread inside the namespace and returns its result.
    ///
    /// Threads and processes started from the closure are inside as well. A panic in the closure continues
    /// in the caller.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T, NetnsError> {
        in_fresh_thread(|| self.enter_thread().map(|()| work()))?
    }

    /// Starts a command inside the namespace.
    pub fn spawn(&self, command: &mut Command) -> Result<Child, NetnsError> {
        self.run(|| command.spawn())?
            .map_err(|source| NetnsError::Command { command: command.get_program().to_owned(), source })
    }

    /// Moves the *calling thread* into the namespace, for good. Meant for threads made for the purpose and
    /// for single-threaded programs about to become another.
    pub fn enter_thread(&self) -> Result<(), NetnsError> {
        rustix::thread::move_into_link_name_space(self.fd.as_fd(), Some(LinkNameSpaceType::Network))
            .map_err(|errno| NetnsError::Enter { name: self.name.clone(), source: errno.into() })
    }
}

impl AsFd for PrivateNet {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Creates a namespace, runs a closure in it on a fresh thread and returns its result; see [`PrivateNet`].
pub fn run_in_new_netns<T: Send>(work: impl FnOnce() -> T + Send) -> Result<T, NetnsError> {
    in_fresh_thread(|| unshare_net().map(|()| work()))?
}

/// Moves the *calling thread* into a new namespace, for good; see [`PrivateNet::enter_thread`].
pub fn enter_new_netns() -> Result<(), NetnsError> {
    unshare_net()
}

/// Creates a named namespace, which stays until [`remove_named`] or reboot. Needs real root.
///
/// No process keeps it: the namespace is bind-mounted on a file in [`NETNS_DIR`], as `ip netns add` does, so
/// both tools see each other's.
pub fn create_named(name: &str) -> Result<PrivateNet, NetnsError> {
    let path = named_path(name)?;
    let failed = |step: &'static str| {
        let name = name.to_owned();
        move |source: io::Error| NetnsError::Mount { name, step, source }
    };
    create_name_file(&path).map_err(|source| match source.kind() {
        io::ErrorKind::AlreadyExists => NetnsError::Exists { name: name.to_owned() },
        _ => failed("creating its file")(source),
    })?;
    let made = in_fresh_thread(|| {
        unshare_net()?;
        rustix::mount::mount_bind(THREAD_NETNS, &path).map_err(|errno| failed("mounting it")(errno.into()))
    });
    match made.and_then(|inner| inner) {
        Ok(()) => PrivateNet::named(name),
        Err(error) => {
            // Best effort: the file is empty and ours.
            let _ = fs::remove_file(&path);
            Err(error)
        }
    }
}

/// Removes a named namespace; processes still inside keep it alive, unnamed, until they end.
pub fn remove_named(name: &str) -> Result<(), NetnsError> {
    let path = named_path(name)?;
    if !path.exists() {
        return Err(NetnsError::Missing { name: name.to_owned() });
    }
    let failed = |step: &'static str| {
        let name = name.to_owned();
        move |source: io::Error| NetnsError::Mount { name, step, source }
    };
    match rustix::mount::unmount(&path, UnmountFlags::DETACH) {
        // Not a mount point: a file left over from an interrupted start.
        Ok(()) | Err(rustix::io::Errno::INVAL) => {}
        Err(errno) => return Err(failed("unmounting it")(errno.into())),
    }
    fs::remove_file(&path).map_err(failed("removing its file"))?;
    remove_empty_netns_dir();
    Ok(())
}

/// Names in [`NETNS_DIR`], sorted.
pub fn list_named() -> Vec<String> {
    let Ok(entries) = fs::read_dir(NETNS_DIR) else { return Vec::new() };
    let mut names: Vec<String> =
        entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect();
    names.sort();
    names
}

fn named_path(name: &str) -> Result<PathBuf, NetnsError> {
    let good = (1..=200).contains(&name.len())
        && !name.starts_with('.')
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
    if good {
        Ok(PathBuf::from(NETNS_DIR).join(name))
    } else {
        Err(NetnsError::Name { name: name.to_owned() })
    }
}

/// A removal elsewhere may take the empty directory away in between, so a missing one is made again.
fn create_name_file(path: &Path) -> io::Result<()> {
    let mut attempts_left = 5;
    loop {
        let made = fs::create_dir_all(NETNS_DIR)
            .and_then(|()| share_netns_dir())
            .and_then(|()| OpenOptions::new().write(true).create_new(true).open(path));
        match made {
            Err(error) if error.kind() == io::ErrorKind::NotFound && attempts_left > 0 => attempts_left -= 1,
            other => return other.map(drop),
        }
    }
}

/// With the last name goes the directory, if it is the mount onto itself that [`share_netns_dir`] makes (same
/// file system as its parent). Both steps fail harmlessly while somebody uses it.
fn remove_empty_netns_dir() {
    use std::os::unix::fs::MetadataExt as _;
    let device = |path: &Path| fs::metadata(path).map(|meta| meta.dev()).ok();
    let folder = Path::new(NETNS_DIR);
    let is_ours = folder.parent().is_some_and(|parent| device(parent) == device(folder));
    if is_ours && list_named().is_empty() {
        let _ = rustix::mount::unmount(folder, UnmountFlags::empty());
        let _ = fs::remove_dir(folder);
    }
}

/// Mounts in other mount namespaces should see the name come and go, so the directory is a shared mount.
fn share_netns_dir() -> io::Result<()> {
    let flags = MountPropagationFlags::SHARED | MountPropagationFlags::REC;
    match rustix::mount::mount_change(NETNS_DIR, flags) {
        Err(rustix::io::Errno::INVAL) => {
            rustix::mount::mount_bind_recursive(NETNS_DIR, NETNS_DIR)?;
            Ok(rustix::mount::mount_change(NETNS_DIR, flags)?)
        }
        other => Ok(other?),
    }
}

fn unshare_net() -> Result<(), NetnsError> {
    sys::unshare(libc::CLONE_NEWNET).map_err(|source| NetnsError::Unshare { source })?;
    let up = Netlink::open().and_then(|mut links| links.set_up("lo"));
    up.map_err(|source| NetnsError::Setup { step: "bringing lo up", source: source.into() })
}

fn in_fresh_thread<T: Send>(work: impl FnOnce() -> T + Send) -> Result<T, NetnsError> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new()
            .name("netns".to_owned())
            .spawn_scoped(scope, work)
            .map_err(|source| NetnsError::Thread { source })?;
        match thread.join() {
            Ok(value) => Ok(value),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_leave_the_directory() {
        for bad in ["", ".", "..", ".x", "a/b", "../x", "a b", "a\0", "ü", &"x".repeat(201)] {
            assert!(matches!(named_path(bad), Err(NetnsError::Name { .. })), "{bad:?}");
        }
        assert_eq!(named_path("re-1.a_b").unwrap(), PathBuf::from("/run/netns/re-1.a_b"));
    }
}
