//! What a guest is told, and the directory it is told in.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rustix::fs::{FlockOperation, StatVfsMountFlags};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::GuestError;
use crate::oracle::script::{Op, Script, Settle};

/// What there is to do.
pub(super) const JOB: &str = "job.json";
/// What was recorded, as [`super::out`] writes it.
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

/// What a guest is told.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Job {
    /// The scripts, by the numbers that results name.
    pub(super) scripts: Vec<(usize, Map<String, Value>)>,
    /// As in the options.
    pub(super) tries: u32,
    /// As in the options.
    pub(super) phase_us: u32,
    /// As in the options.
    pub(super) command: Option<String>,
    /// As in the options.
    #[serde(default)]
    pub(super) config: Option<(String, String)>,
    /// Kernel modules, in the order they are loaded.
    pub(super) modules: Vec<PathBuf>,
    /// Where directories of modules lie, named by release, if TUN is still missing.
    pub(super) module_dirs: Vec<PathBuf>,
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
pub(super) struct JobDir {
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

/// How long a guest may be silent while it records this: four times what the script takes for every try, and a
/// minute.
pub(super) fn patience(script: &Script, tries: u32) -> Duration {
    /// The longest tick there is, milliseconds.
    const TICK: u64 = 10;
    let mut ms = script.handshake.ack_delay_ms.saturating_add(1_000);
    for step in &script.steps {
        let settle = match step.settle {
            // The longest a delayed ACK waits.
            Settle::Ack => 250,
            Settle::None => 0,
            Settle::Ms(ms) => ms,
        };
        let sleep = if let Op::Sleep { ms } = step.op { ms } else { 0 };
        let start = u64::from(step.gap).saturating_mul(TICK).saturating_add(u64::from(step.phase_us) / 1_000);
        ms = ms.saturating_add(settle).saturating_add(sleep).saturating_add(start);
    }
    let all = ms.saturating_mul(u64::from(tries.max(1))).saturating_mul(4).saturating_add(60_000);
    Duration::from_millis(all)
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
        let script = Script::parse_all("t", r#"{"name":"a","note":"…\n"}"#, None).unwrap().remove(0);
        let job = Job {
            scripts: vec![(7, script.raw.clone())],
            tries: 3,
            phase_us: 500,
            command: Some("rightedge".to_owned()),
            config: Some(("--showconfig".to_owned(), "CONFIG_HZ=100".to_owned())),
            modules: vec!["/m/a.ko".into()],
            module_dirs: Vec::new(),
        };
        job.write(dir.path()).unwrap();
        let again = Job::read(dir.path()).unwrap();
        assert_eq!((again.tries, again.phase_us), (3, 500));
        assert_eq!(again.scripts, [(7, script.raw)]);
        fs::write(dir.path().join(JOB), "{}").unwrap();
        assert!(Job::read(dir.path()).unwrap_err().contains("job.json"));
    }

    #[test]
    fn patience_follows_the_script() {
        let of = |text: &str| patience(&Script::parse_all("t", text, None).unwrap().remove(0), 5).as_secs();
        assert_eq!(of("{}"), 80);
        assert!(of(r#"{"ops":[{"op":"sleep","ms":100000}]}"#) > 2_000);
        let long = r#"{"ops":[{"op":"repeat","n":19000,"ops":[{"op":"sleep","ms":3600000,"gap":1000000}]}]}"#;
        assert!(of(long) > 1_000_000_000);
    }
}
