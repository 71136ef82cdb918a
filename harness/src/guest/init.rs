//! The guest's side: the first and only process of a kernel that was booted for a task.
//!
//! There is no shell and no other program. Whatever happens is said to the host, and then the machine goes off.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, OnceLock, TryLockError};
use std::time::Duration;

use rightedge_tapctl::link::Netlink;
use rustix::fs::{CWD, Dev, FileType, Mode, makedev, mknodat};
use rustix::mount::{MountFlags, mount};
use rustix::system::{RebootCommand, reboot};
use serde_json::Value;

use super::job::{Job, OUT, Wanted};
use super::modules;

/// What the host reads.
static OUT_FILE: OnceLock<Mutex<File>> = OnceLock::new();
/// The machine ends when it starts again: the way of virtual hardware without a power switch.
static RESTART_ENDS: AtomicBool = AtomicBool::new(false);

/// HOSTFS_SUPER_MAGIC.
const HOSTFS: rustix::fs::FsWord = 0x00c0_ffee;
/// Where the job's directory is mounted.
const MOUNTED: &str = "/dev/job";
/// The first serial line is the console, this is the second.
const SERIAL: (u32, u32) = (4, 65);
/// Name of the virtio port.
pub(super) const PORT: &str = "rightedge";

/// What a guest can be booted for: the name by which a job asks for it, and what it then does.
pub type Task = fn(Value, &Host) -> Result<(), String>;

/// The way from the guest to whoever booted it.
#[derive(Debug)]
pub struct Host(());

impl Host {
    /// Says something and waits until it is there.
    ///
    /// # Errors
    /// There is no way to the host, or it is blocked.
    pub fn say(&self, words: impl FnOnce(&mut File) -> std::io::Result<()>) -> Result<(), String> {
        let Some(out) = OUT_FILE.get() else { return Err("no way to the host".to_owned()) };
        let mut file = out.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        words(&mut file).map_err(|e| format!("cannot write to the host: {e}"))?;
        // A port has nothing to wait for.
        let _ = file.sync_data();
        Ok(())
    }
}

/// Takes over if this process is the init of a guest: PID 1, called as `rightedge oracle guest DIR`. Call it before
/// anything else; it returns in every other process.
///
/// The guest says `=ready RELEASE` once it is up, whatever the task says, and `=done` or `=error "why"`.
pub fn enter_if_init(tasks: &[(&str, Task)]) {
    if std::process::id() != 1 {
        return;
    }
    let args: Vec<OsString> = std::env::args_os().skip(1).collect();
    // User-mode-linux adds words of its own at the end.
    if let [oracle, guest, dir, ..] = args.as_slice()
        && oracle == "oracle"
        && guest == "guest"
    {
        std::panic::set_hook(Box::new(|panic| give_up(&format!("internal error: {panic}"))));
        match serve(Path::new(dir), tasks) {
            Ok(()) => off(),
            Err(why) => give_up(&why),
        }
    }
}

fn serve(dir: &Path, tasks: &[(&str, Task)]) -> Result<(), String> {
    // Some kernels put a /dev of their own over the host's, and with it over what lies in /dev/shm: before its directory
    // is mounted the job may be out of sight.
    let in_a_process = rustix::fs::statfs("/").is_ok_and(|s| s.f_type == HOSTFS);
    RESTART_ENDS.store(!in_a_process, Ordering::Relaxed);
    furnish()?;
    let (job, file) = if in_a_process {
        make_dir(MOUNTED)?;
        let from = std::ffi::CString::new(dir.as_os_str().as_encoded_bytes())
            .map_err(|_| format!("{}: a zero in a path", dir.display()))?;
        mount("none", MOUNTED, "hostfs", MountFlags::NOSUID | MountFlags::NODEV, from.as_c_str())
            .map_err(|e| format!("mount of hostfs {}: {e}", dir.display()))?;
        let dir = Path::new(MOUNTED);
        (Job::read(dir)?, append(&dir.join(OUT))?)
    } else {
        let job = Job::read(dir)?;
        for module in &job.modules {
            // Some are for devices that this machine has not; what is missed shows in what it is missed for.
            if let Err(why) = modules::load(module) {
                eprintln!("{why}");
            }
        }
        (job, append(&port()?)?)
    };
    let _ = OUT_FILE.set(Mutex::new(file));
    load_modules(&job.wanted, &job.module_dirs)?;
    let lo = Netlink::open().and_then(|mut n| n.set_up("lo"));
    lo.map_err(|e| format!("device lo: {e}"))?;
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let task = tasks.iter().find(|(name, _)| *name == job.task);
    let (_, task) = task.ok_or_else(|| format!("task {}: no such task", job.task))?;
    let host = Host(());
    host.say(|f| whole(f, format!("\n=ready {release}\n")))?;
    task(job.arguments, &host)?;
    host.say(|f| whole(f, "\n=done\n".to_owned()))
}

/// In one piece, so that marks do not break into each other.
fn whole(file: &mut File, text: String) -> std::io::Result<()> {
    file.write_all(text.as_bytes())?;
    file.flush()
}

/// The file systems and devices that recording needs, all in memory.
fn furnish() -> Result<(), String> {
    for (kind, at) in [("proc", "/proc"), ("sysfs", "/sys"), ("tmpfs", "/dev")] {
        // An initramfs of ours has them; on a host's root they are there.
        let _ = fs::create_dir(at);
        mount(kind, at, kind, MountFlags::NOSUID, None)
            .map_err(|e| format!("mount of {kind} on {at}: {e}"))?;
    }
    make_dir("/dev/net")?;
    for (at, major, minor) in [
        ("/dev/null", 1, 3),
        ("/dev/zero", 1, 5),
        ("/dev/random", 1, 8),
        ("/dev/urandom", 1, 9),
        ("/dev/net/tun", 10, 200),
    ] {
        make_node(at, makedev(major, minor))?;
    }
    Ok(())
}

fn make_dir(at: &str) -> Result<(), String> {
    fs::create_dir(at).map_err(|e| format!("{at}: {e}"))
}

fn make_node(at: &str, device: Dev) -> Result<(), String> {
    mknodat(CWD, at, FileType::CharacterDevice, Mode::from_raw_mode(0o666), device)
        .map_err(|e| format!("{at}: {e}"))
}

fn append(path: &Path) -> Result<File, String> {
    File::options().append(true).open(path).map_err(|e| format!("{}: {e}", path.display()))
}

/// The device through which results leave.
fn port() -> Result<PathBuf, String> {
    // The host names its ports some time after the kernel is up.
    for _ in 0..100 {
        for entry in fs::read_dir("/sys/class/virtio-ports").into_iter().flatten().flatten() {
            let dir = entry.path();
            let read = |name: &str| fs::read_to_string(dir.join(name)).unwrap_or_default();
            if read("name").trim() == PORT
                && let Some((major, minor)) = read("dev").trim().split_once(':')
                && let (Ok(major), Ok(minor)) = (major.parse(), minor.parse())
            {
                make_node("/dev/port", makedev(major, minor))?;
                return Ok("/dev/port".into());
            }
        }
        if !Path::new("/sys/bus/virtio").exists() {
            break;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    make_node("/dev/serial", makedev(SERIAL.0, SERIAL.1))?;
    Ok("/dev/serial".into())
}

/// Loads what the task wants and is not there yet.
fn load_modules(wanted: &[Wanted], dirs: &[PathBuf]) -> Result<(), String> {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let dirs: Vec<PathBuf> = dirs.iter().map(|d| d.join(&release)).filter(|d| d.is_dir()).collect();
    for w in wanted {
        let is_there = || w.sign.as_ref().is_some_and(|s| Path::new(s.as_ref()).exists());
        let mut tried = Vec::new();
        for dir in &dirs {
            if is_there() {
                break;
            }
            tried.push(dir.display().to_string());
            let files = modules::find(dir, &w.name, &w.place);
            tried.extend(files.iter().filter_map(|f| modules::load(f).err()));
        }
        if let Some(fix) = w.needed.as_ref().filter(|_| !is_there()) {
            let tried = if tried.is_empty() {
                "no modules of this release are there".to_owned()
            } else {
                tried.join("; ")
            };
            return Err(format!(
                "kernel {release} has no {} and none could be loaded ({tried}); install its modules, or build it with {fix}",
                w.name
            ));
        }
    }
    Ok(())
}

/// Says why there is no going on, to the host or else the console, and ends the machine.
fn give_up(why: &str) -> ! {
    eprintln!("rightedge: {why}");
    let error = format!("\n=error {}\n", Value::from(why));
    if let Some(out) = OUT_FILE.get() {
        // A panic may have come while the lock was held, by this very thread.
        for _ in 0..50 {
            match out.try_lock() {
                Ok(mut file) => {
                    let _ = whole(&mut file, error.clone());
                    let _ = file.sync_data();
                    break;
                }
                Err(TryLockError::Poisoned(file)) => {
                    let mut file = file.into_inner();
                    let _ = whole(&mut file, error.clone());
                    let _ = file.sync_data();
                    break;
                }
                Err(TryLockError::WouldBlock) => std::thread::sleep(Duration::from_millis(10)),
            }
        }
    }
    off()
}

/// Ends the machine.
fn off() -> ! {
    rustix::fs::sync();
    let how =
        if RESTART_ENDS.load(Ordering::Relaxed) { RebootCommand::Restart } else { RebootCommand::PowerOff };
    let _ = reboot(how);
    // Unreached; without its init a kernel panics, which ends it too.
    std::process::exit(1)
}
