//! User-mode-linux: a kernel that is an ordinary process, needs no rights, and takes the host's files as its root.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::{GuestError, MEMORY_MIB, Program, job};

/// Where directories of modules may lie, named by release.
const MODULE_DIRS: [&str; 4] =
    ["/usr/lib/uml/modules", "/usr/local/lib/uml/modules", "/lib/modules", "/usr/lib/modules"];

/// A user-mode-linux binary.
#[derive(Debug)]
pub(super) struct Uml {
    binary: PathBuf,
}

impl Uml {
    /// That binary, if it can be run.
    pub(super) fn new(binary: &Path) -> Result<Self, GuestError> {
        let missing = |why: String| GuestError::Missing {
            what: binary.display().to_string(),
            why,
            fix: "install the package user-mode-linux, or give the path of another as uml:BINARY",
        };
        let binary = std::fs::canonicalize(binary).map_err(|e| missing(e.to_string()))?;
        rustix::fs::access(&binary, rustix::fs::Access::EXEC_OK).map_err(|e| missing(e.to_string()))?;
        Ok(Uml { binary })
    }

    /// Its configuration, which the binary prints when asked: where it comes from, and the text.
    pub(super) fn config(&self) -> Option<(String, String)> {
        let shown = Command::new(&self.binary).arg("--showconfig").output().ok()?;
        let text = String::from_utf8_lossy(&shown.stdout).into_owned();
        text.contains("CONFIG_").then(|| ("--showconfig".to_owned(), text))
    }

    /// Its release, which the binary prints when asked.
    pub(super) fn release(&self) -> Option<String> {
        let shown = Command::new(&self.binary).arg("--version").output().ok()?;
        let text = String::from_utf8_lossy(&shown.stdout).trim().to_owned();
        (!text.is_empty() && text.len() < 100 && !text.contains('\n')).then_some(text)
    }

    /// Where its modules may lie.
    pub(super) fn module_dirs(&self) -> Vec<PathBuf> {
        let beside = self.binary.parent().unwrap_or(Path::new("/"));
        let near = [beside.join("modules"), beside.join("../lib/uml/modules")];
        near.into_iter().chain(MODULE_DIRS.map(PathBuf::from)).collect()
    }

    /// Boots with the job in `dir`; if it is networked, descriptor 0 is the far end of its device.
    pub(super) fn command(
        &self,
        dir: &Path,
        program: &Program,
        networked: bool,
    ) -> Result<Command, GuestError> {
        let init = program.in_reach(dir)?;
        let shm = Path::new(job::SHM);
        let mut c = Command::new(&self.binary);
        c.arg(format!("mem={MEMORY_MIB}M"))
            .args(["root=/dev/root", "rootfstype=hostfs", "rootflags=/", "ro", "quiet"])
            .args(["con=null", "con0=null,fd:2", "ssl=null", "umid=guest"])
            .arg(format!("uml_dir={}/", dir.display()))
            .arg(format!("init={}", init.display()))
            .args(networked.then_some("vec0:transport=fd,fd=0,depth=128,gro=0,vec=0"))
            .args(["--", "oracle", "guest"])
            .arg(dir)
            .env_clear()
            // The memory is a file there, gone as soon as it is open.
            .env("TMPDIR", if job::is_roomy(shm) { shm } else { dir })
            .env("HOME", dir);
        Ok(c)
    }
}
