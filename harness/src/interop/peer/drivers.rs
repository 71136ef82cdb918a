//! Programs of ours around stacks that come as libraries: their sources are compiled in, and built on first use.
//!
//! What is built lies in `$XDG_CACHE_HOME/rightedge/peers` (or `~/.cache`, or the directory for temporary files), in a
//! directory named by the source and the version of the library, so that neither can be mistaken for another.

use std::collections::BTreeMap;
use std::fs::File;
use std::hash::{Hash as _, Hasher as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};
use rustc_hash::FxHasher;
use rustix::fs::FlockOperation;

use super::spec::Options;

/// A stack with a driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Driver {
    /// lwIP.
    Lwip,
    /// gVisor's netstack.
    Gvisor,
    /// libslirp: TCP of 4.4BSD.
    Slirp,
    /// passt.
    Passt,
    /// PyTCP.
    Pytcp,
}

/// How a driver is made.
struct Recipe {
    name: &'static str,
    about: &'static str,
    /// Name of its file, and its text.
    source: (&'static str, &'static str),
    /// Packages of Debian that building and running it takes.
    packages: &'static [&'static str],
    /// How to get them.
    fix: &'static str,
    /// The package whose version is that of the stack.
    stack: &'static str,
    takes: &'static [(&'static str, &'static str)],
}

const NODELAY: (&str, &str) = ("nodelay", "nothing: a switch");

impl Driver {
    /// All of them.
    pub const ALL: [Driver; 5] = [Driver::Lwip, Driver::Gvisor, Driver::Slirp, Driver::Passt, Driver::Pytcp];

    fn recipe(self) -> Recipe {
        match self {
            Driver::Lwip => Recipe {
                name: "lwip",
                about: "lwIP, a stack for small systems",
                source: ("lwip.c", include_str!("../../../peers/lwip.c")),
                packages: &["gcc", "libc6-dev", "pkg-config", "liblwip-dev"],
                fix: "apt-get install gcc libc6-dev pkg-config liblwip-dev",
                stack: "liblwip-dev",
                takes: &[NODELAY],
            },
            Driver::Gvisor => Recipe {
                name: "gvisor",
                about: "netstack, the stack of gVisor",
                source: ("gvisor.go", include_str!("../../../peers/gvisor.go")),
                packages: &["golang-go", "golang-gvisor-gvisor-dev"],
                fix: "apt-get install golang-go golang-gvisor-gvisor-dev",
                stack: "golang-gvisor-gvisor-dev",
                takes: &[NODELAY, ("cc", "reno or cubic"), ("sack", "on or off")],
            },
            Driver::Slirp => Recipe {
                name: "slirp",
                about: "libslirp, whose TCP is 4.4BSD's",
                source: ("slirp.c", include_str!("../../../peers/slirp.c")),
                packages: &["gcc", "libc6-dev", "pkg-config", "libslirp-dev"],
                fix: "apt-get install gcc libc6-dev pkg-config libslirp-dev",
                stack: "libslirp-dev",
                takes: &[NODELAY],
            },
            Driver::Passt => Recipe {
                name: "passt",
                about: "passt, which forwards connections into virtual machines",
                source: ("passt.c", include_str!("../../../peers/passt.c")),
                packages: &["gcc", "libc6-dev", "passt"],
                fix: "apt-get install gcc libc6-dev passt",
                stack: "passt",
                takes: &[NODELAY],
            },
            Driver::Pytcp => Recipe {
                name: "pytcp",
                about: "PyTCP, a stack in Python",
                source: ("pytcp.py", include_str!("../../../peers/pytcp.py")),
                packages: &[],
                fix: "python3 -m pip install PyTCP (any python3 in PATH, or set RIGHTEDGE_PYTHON to one)",
                stack: "PyTCP",
                takes: &[],
            },
        }
    }

    /// The driver of that name.
    #[must_use]
    pub fn named(name: &str) -> Option<Driver> {
        Driver::ALL.into_iter().find(|d| d.name() == name)
    }

    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.recipe().name
    }

    /// What stack it is about.
    #[must_use]
    pub fn about(self) -> &'static str {
        self.recipe().about
    }

    /// The options it takes.
    #[must_use]
    pub fn takes(self) -> &'static [(&'static str, &'static str)] {
        self.recipe().takes
    }

    /// How to get what it needs.
    #[must_use]
    pub fn fix(self) -> &'static str {
        self.recipe().fix
    }

    /// The version of its stack, if everything that it needs is installed.
    ///
    /// # Errors
    /// What is missing.
    pub fn version(self) -> Result<String, String> {
        let r = self.recipe();
        if self == Driver::Pytcp {
            return pytcp_version();
        }
        for package in r.packages {
            // A compiler or a Go of another origin is as good.
            let program = match *package {
                "gcc" => "cc",
                "golang-go" => "go",
                "pkg-config" => "pkg-config",
                _ => "",
            };
            if program.is_empty() || find(program).is_none() {
                debian(package).ok_or_else(|| format!("{package} is not installed"))?;
            }
        }
        debian(r.stack).ok_or_else(|| format!("{} is not installed", r.stack))
    }
}

/// Drivers that were built, and where.
#[derive(Clone, Debug, Default)]
pub struct Built(BTreeMap<Driver, PathBuf>);

/// Builds what `drivers` need and is not there yet. `say` hears what takes a while.
///
/// # Errors
/// A driver cannot be built: what the compiler said.
pub fn build(drivers: &[Driver], say: &mut dyn FnMut(&str)) -> Result<Built> {
    let mut built = Built::default();
    for driver in drivers {
        if !built.0.contains_key(driver) {
            let path = build_one(*driver, say).with_context(|| format!("peer {}", driver.name()))?;
            built.0.insert(*driver, path);
        }
    }
    Ok(built)
}

fn build_one(driver: Driver, say: &mut dyn FnMut(&str)) -> Result<PathBuf> {
    let r = driver.recipe();
    let version = driver.version().map_err(|why| anyhow::anyhow!("{why}; to get it: {}", r.fix))?;
    let dir = cache().join(format!("{}-{}", r.name, fingerprint(&[r.source.1, &version])));
    std::fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let lock_path = dir.join("lock");
    let lock = File::create(&lock_path).with_context(|| lock_path.display().to_string())?;
    // Another process may be at it.
    rustix::fs::flock(&lock, FlockOperation::LockExclusive).context("cannot lock the cache")?;
    let (source, program) = (dir.join(r.source.0), dir.join("peer"));
    if driver == Driver::Pytcp {
        std::fs::write(&source, r.source.1).with_context(|| source.display().to_string())?;
        return Ok(source);
    }
    if program.is_file() {
        return Ok(program);
    }
    say(&format!("building the peer {} against {} {version}", r.name, r.stack));
    std::fs::write(&source, r.source.1).with_context(|| source.display().to_string())?;
    let new = dir.join("peer.new");
    let mut command = match driver {
        Driver::Gvisor => go(&source, &new, &version),
        _ => cc(&source, &new, driver)?,
    };
    command.current_dir(&dir);
    let out = command.stdin(Stdio::null()).output().context("no compiler")?;
    if !out.status.success() {
        let said = String::from_utf8_lossy(&out.stderr);
        let said: String = said.lines().take(20).map(|l| format!("\n  {l}")).collect();
        bail!("{} does not build ({}):{said}", r.source.0, out.status);
    }
    std::fs::rename(&new, &program).with_context(|| program.display().to_string())?;
    Ok(program)
}

fn cc(source: &Path, program: &Path, driver: Driver) -> Result<Command> {
    let library = match driver {
        Driver::Lwip => Some("lwip"),
        Driver::Slirp => Some("slirp"),
        Driver::Passt | Driver::Gvisor | Driver::Pytcp => None,
    };
    let mut c = Command::new("cc");
    c.args(["-std=gnu11", "-O1", "-o"]).arg(program).arg(source);
    if let Some(library) = library {
        let out = Command::new("pkg-config")
            .args(["--cflags", "--libs", library])
            .output()
            .context("pkg-config")?;
        if !out.status.success() {
            bail!("pkg-config knows no {library}: {}", String::from_utf8_lossy(&out.stderr).trim());
        }
        c.args(String::from_utf8_lossy(&out.stdout).split_whitespace());
    }
    Ok(c)
}

fn go(source: &Path, program: &Path, version: &str) -> Command {
    let mut c = Command::new("go");
    c.args(["build", "-ldflags", &format!("-X main.version={version}"), "-o"])
        .arg(program)
        .arg(source)
        // Debian's packages of Go are source trees of this kind.
        .env("GO111MODULE", "off")
        .env("GOPATH", "/usr/share/gocode")
        .env("GOFLAGS", "")
        .env("GOCACHE", cache().join("go"));
    c
}

/// The command that runs a driver that was built.
pub(super) fn command(driver: Driver, built: &Built, options: &Options) -> Result<Command> {
    let path = built.0.get(&driver).with_context(|| format!("peer {} was not built", driver.name()))?;
    let _ = options;
    let mut c = if driver == Driver::Pytcp {
        let mut c = Command::new(python());
        c.arg(path);
        c
    } else {
        Command::new(path)
    };
    c.current_dir("/");
    Ok(c)
}

fn python() -> PathBuf {
    std::env::var_os("RIGHTEDGE_PYTHON").map_or_else(|| PathBuf::from("python3"), PathBuf::from)
}

fn pytcp_version() -> Result<String, String> {
    let ask = "import importlib.metadata as m; print(m.version('PyTCP'))";
    let out = Command::new(python()).args(["-c", ask]).stdin(Stdio::null()).output();
    let out = out.map_err(|e| format!("{}: {e}", python().display()))?;
    let text = String::from_utf8_lossy(&out.stdout).trim().to_owned();
    if out.status.success() && !text.is_empty() {
        Ok(text)
    } else {
        Err("PyTCP is not installed for python3".to_owned())
    }
}

/// The version of a package of Debian, if it is installed.
pub(super) fn debian(package: &str) -> Option<String> {
    let out = Command::new("dpkg-query")
        .args(["-W", "-f", "${db:Status-Status} ${Version}", package])
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
        .ok()?;
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    let (status, version) = text.split_once(' ')?;
    (status == "installed").then(|| version.to_owned())
}

/// A program in PATH.
pub(super) fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|d| d.join(program))
        .find(|f| f.is_file() && rustix::fs::access(f, rustix::fs::Access::EXEC_OK).is_ok())
}

/// Where what was built lies.
fn cache() -> PathBuf {
    let named = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|p| p.is_absolute());
    let base = named("XDG_CACHE_HOME").or_else(|| named("HOME").map(|h| h.join(".cache")));
    let base = base.filter(|b| std::fs::create_dir_all(b).is_ok() && is_writable(b));
    let user = rustix::process::geteuid().as_raw();
    base.map_or_else(|| std::env::temp_dir().join(format!("rightedge-{user}")), |b| b.join("rightedge"))
        .join("peers")
}

fn is_writable(dir: &Path) -> bool {
    rustix::fs::access(dir, rustix::fs::Access::WRITE_OK).is_ok()
}

fn fingerprint(parts: &[&str]) -> String {
    let mut h = FxHasher::default();
    parts.hash(&mut h);
    format!("{:016x}", h.finish())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drivers_have_names_and_say_how_to_get_them() {
        for d in Driver::ALL {
            assert_eq!(Driver::named(d.name()), Some(d));
            assert!(d.fix().contains("install") && !d.about().is_empty());
        }
        assert_eq!(Driver::named("windows"), None);
    }

    #[test]
    fn a_source_and_a_version_have_a_directory_of_their_own() {
        assert_ne!(fingerprint(&["a", "1"]), fingerprint(&["a", "2"]));
        assert_ne!(fingerprint(&["a", "1"]), fingerprint(&["b", "1"]));
        assert_eq!(fingerprint(&["a", "1"]), fingerprint(&["a", "1"]));
    }
}
