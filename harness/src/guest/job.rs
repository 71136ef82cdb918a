//! What a guest is told, and the directory it is told in.

use std::borrow::Cow;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rustix::fs::{FlockOperation, StatVfsMountFlags};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::GuestError;

/// What there is to do.
pub(super) const JOB: &str = "job.json";
/// What the guest says.
pub(super) const OUT: &str = "out.jsonl";
/// The same over a second way, where the first does not exist.
pub(super) const OUT_SERIAL: &str = "out-serial.jsonl";
/// Locked as long as the directory is in use.
const LOCK: &str = "lock";
/// How the names of the directories begin.
const PREFIX: &str = "rightedge-guest-";
/// A file system in memory.
pub(super) const SHM: &str = "/dev/shm";
/// Room that a directory of a guest must have: the memory of a kernel in a process lies in it.
const ROOM: u64 = 640 << 20;

/// A kernel module that a task wants, unless what it brings is there already.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Wanted {
    /// Its name.
    pub name: Cow<'static, str>,
    /// The directory it is in below that of the release, if nothing was indexed.
    pub place: Cow<'static, str>,
    /// The file that is there once it is, if there is one.
    pub sign: Option<Cow<'static, str>>,
    /// Why there is no going on without it: what to build into the kernel.
    pub needed: Option<Cow<'static, str>>,
}

impl Wanted {
    /// TAP and TUN devices.
    pub const TUN: Wanted = Wanted {
        name: Cow::Borrowed("tun"),
        place: Cow::Borrowed("kernel/drivers/net"),
        sign: Some(Cow::Borrowed("/sys/class/misc/tun")),
        needed: Some(Cow::Borrowed("CONFIG_TUN=y")),
    };
    /// What shows the kernel's configuration.
    pub const CONFIGS: Wanted = Wanted {
        name: Cow::Borrowed("configs"),
        place: Cow::Borrowed("kernel/kernel"),
        sign: Some(Cow::Borrowed("/proc/config.gz")),
        needed: None,
    };
}

/// What a guest is told.
#[derive(Debug, Serialize, Deserialize)]
pub struct Job {
    /// The name of the task.
    pub task: String,
    /// What the task is told.
    pub arguments: Value,
    /// Modules that the task wants.
    pub wanted: Vec<Wanted>,
    /// Files of modules that were packed, in the order they are loaded.
    pub modules: Vec<PathBuf>,
    /// Where directories of modules lie, named by release.
    pub module_dirs: Vec<PathBuf>,
}

impl Job {
    /// Reads it from `dir`.
    pub(super) fn read(dir: &Path) -> Result<Self, String> {
        let path = dir.join(JOB);
        let text = fs::read(&path).map_err(|e| format!("{}: {e}", path.display()))?;
        serde_json::from_slice(&text).map_err(|e| format!("{}: {e}", path.display()))
    }

    /// Writes it into `dir`.
    pub(super) fn write(&self, dir: &Path) -> Result<(), GuestError> {
        let path = dir.join(JOB);
        let text = serde_json::to_vec(self).map_err(io::Error::from);
        text.and_then(|t| fs::write(&path, t)).map_err(|source| GuestError::Dir { path, source })
    }
}

/// A directory for one guest. It goes with the value; one whose process was killed goes when the next is made.
#[derive(Debug)]
pub struct JobDir {
    dir: tempfile::TempDir,
    // Held, not read.
    _lock: File,
}

impl JobDir {
    /// Where temporary files are, or with `shm` in memory if there is room.
    pub(super) fn create(shm: bool) -> Result<Self, GuestError> {
        let memory = Path::new(SHM);
        sweep(memory);
        sweep(&std::env::temp_dir());
        let base = if shm && is_roomy(memory) { memory.to_owned() } else { std::env::temp_dir() };
        let fail = |source| GuestError::Dir { path: base.clone(), source };
        let dir = tempfile::Builder::new().prefix(PREFIX).tempdir_in(&base).map_err(fail)?;
        let lock = File::create(dir.path().join(LOCK)).map_err(fail)?;
        rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).map_err(|e| fail(e.into()))?;
        if dir.path().to_str().is_none_or(|p| p.contains([' ', '"', '\'', '\\', '\t', '\n'])) {
            return Err(GuestError::Place { path: dir.path().to_owned() });
        }
        Ok(JobDir { dir, _lock: lock })
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        self.dir.path()
    }
}

/// May programs run from there, and is there room?
pub(super) fn is_roomy(dir: &Path) -> bool {
    let writable = rustix::fs::access(dir, rustix::fs::Access::WRITE_OK).is_ok();
    rustix::fs::statvfs(dir).is_ok_and(|s| {
        writable
            && !s.f_flag.contains(StatVfsMountFlags::NOEXEC)
            && s.f_bavail.saturating_mul(s.f_frsize) >= ROOM
    })
}

/// Removes directories whose process is gone.
fn sweep(base: &Path) {
    let Ok(entries) = fs::read_dir(base) else { return };
    for entry in entries.flatten() {
        if !entry.file_name().to_string_lossy().starts_with(PREFIX)
            || !entry.file_type().is_ok_and(|t| t.is_dir())
        {
            continue;
        }
        let dir = entry.path();
        // Between its making and its lock a directory is free but in use.
        let age = entry
            .metadata()
            .and_then(|m| m.modified())
            .ok()
            .and_then(|t| SystemTime::now().duration_since(t).ok());
        if age.is_none_or(|a| a < Duration::from_secs(10)) {
            continue;
        }
        // Another user's directory cannot be opened, or not removed.
        let Ok(lock) = File::open(dir.join(LOCK)) else { continue };
        if rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok() {
            let _ = fs::remove_dir_all(&dir);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_goes_with_its_value_and_leftovers_go_with_the_next() {
        let base = tempfile::tempdir().unwrap();
        let make = |name: &str, locked: bool| {
            let dir = base.path().join(name);
            fs::create_dir(&dir).unwrap();
            let lock = File::create(dir.join(LOCK)).unwrap();
            let past = SystemTime::now() - Duration::from_secs(100);
            File::open(&dir).unwrap().set_modified(past).unwrap();
            if locked {
                rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).unwrap();
            }
            lock
        };
        let _held = make("rightedge-guest-held", true);
        drop(make("rightedge-guest-left", false));
        drop(make("another", false));
        fs::create_dir(base.path().join("rightedge-guest-new")).unwrap();
        sweep(base.path());
        let mut left: Vec<_> = fs::read_dir(base.path())
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        left.sort();
        assert_eq!(left, ["another", "rightedge-guest-held", "rightedge-guest-new"]);

        let dir = JobDir::create(true).unwrap();
        let path = dir.path().to_owned();
        assert!(path.is_dir());
        drop(dir);
        assert!(!path.exists());
    }

    #[test]
    fn a_job_survives_the_way() {
        let dir = tempfile::tempdir().unwrap();
        let job = Job {
            task: "record".to_owned(),
            arguments: serde_json::json!({"note": "…\n"}),
            wanted: vec![Wanted::TUN],
            modules: vec!["/m/a.ko".into()],
            module_dirs: Vec::new(),
        };
        job.write(dir.path()).unwrap();
        let again = Job::read(dir.path()).unwrap();
        assert_eq!((again.task, again.arguments), (job.task, job.arguments));
        assert_eq!(again.wanted.first().unwrap().name, "tun");
        fs::write(dir.path().join(JOB), "{}").unwrap();
        assert!(Job::read(dir.path()).unwrap_err().contains("job.json"));
    }
}
