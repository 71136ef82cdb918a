//! Any kernel image under QEMU, with an initramfs made of this program.
//!
//! The processor is emulated. Without a network its clock counts instructions, a nanosecond each: however busy the host is,
//! no operation slips past its tick, and time in which nothing happens takes none. What that clock cannot tell is how long
//! the kernel's work takes on a real machine. With a network it goes by the host's time, as whatever is behind it does.
//!
//! Results leave through a virtio port, for which Debian's kernels have all they need built in, or through the second
//! serial line, which every kernel has. Neither needs a file system of the host's.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::job::{JOB, Job, OUT, OUT_SERIAL};
use super::{GuestError, MEMORY_MIB, Program, cpio, elf, init, modules};

/// The program, and where those live that are not in PATH.
const QEMU: &str = "qemu-system-x86_64";
/// Where the job is in the initramfs.
const DIR: &str = "/job";
/// What makes a virtio port, with the places they are in if nothing was indexed.
const PORT_MODULES: [(&str, &str); 2] =
    [("virtio_pci", "kernel/drivers/virtio"), ("virtio_console", "kernel/drivers/char")];
/// And a network device.
const NET_MODULES: [(&str, &str); 1] = [("virtio_net", "kernel/drivers/net")];

/// A kernel image.
#[derive(Debug)]
pub(super) struct Qemu {
    image: PathBuf,
    release: String,
    /// The kernel's configuration, if it lies about.
    config: Option<PathBuf>,
}

impl Qemu {
    /// That image, if there is a QEMU for it.
    pub(super) fn new(image: &Path) -> Result<Self, GuestError> {
        let wrong = |why: String| GuestError::Missing {
            what: image.display().to_string(),
            why,
            fix: "give the path of a bzImage, as in qemu:/boot/vmlinuz",
        };
        let path = fs::canonicalize(image).map_err(|e| wrong(e.to_string()))?;
        let head = head(&path).map_err(|e| wrong(e.to_string()))?;
        let release = release(&head).ok_or_else(|| wrong("not the image of an x86 kernel".to_owned()))?;
        if !rightedge_tapctl::rights::Need::Qemu.probe().ok {
            return Err(GuestError::Missing {
                what: QEMU.to_owned(),
                why: "not found in PATH".to_owned(),
                fix: "install the package qemu-system-x86",
            });
        }
        let config = find_config(&path, &release);
        Ok(Qemu { image: path, release, config })
    }

    /// The release of its kernel.
    pub(super) fn release(&self) -> &str {
        &self.release
    }

    /// Boots with that job; if it is networked, descriptor 0 is the far end of its device.
    pub(super) fn command(
        &self,
        dir: &Path,
        job: Job,
        program: &Program,
        networked: bool,
    ) -> Result<Command, GuestError> {
        let initrd = dir.join("initrd");
        let bytes = self.initramfs(job, program, networked)?;
        fs::write(&initrd, bytes).map_err(|source| GuestError::Dir { path: initrd.clone(), source })?;
        // A path's comma is an option's end, unless it is doubled.
        let escaped = |path: PathBuf| path.display().to_string().replace(',', ",,");
        let mut c = Command::new(QEMU);
        c.args(["-no-user-config", "-nodefaults", "-display", "none", "-no-reboot", "-M", "pc", "-smp", "1"])
            // All instructions, for libraries built for newer processors, but not the deeper page tables: they are slow; and
            // not cmpxchg16b, of which the emulation of QEMU 7.2 makes kernels since 6.12 crash in most boots.
            .args(["-accel", "tcg", "-cpu", "max,la57=off,cx16=off"])
            .args(["-m", &MEMORY_MIB.to_string()])
            .arg("-kernel")
            .arg(&self.image)
            .arg("-initrd")
            .arg(&initrd)
            .arg("-append")
            .arg(format!("console=ttyS0 quiet panic=-1 reboot=t rdinit=/init -- oracle guest {DIR}"))
            // Not "stdio": that would read descriptor 0, too, and what it reads there are frames.
            .args(["-serial", "file:/dev/stdout"])
            .args(["-chardev", &format!("file,id=serial,path={}", escaped(dir.join(OUT_SERIAL)))])
            .args(["-serial", "chardev:serial"])
            .args(["-chardev", &format!("file,id=port,path={}", escaped(dir.join(OUT)))])
            .args(["-device", "virtio-serial-pci"])
            .args(["-device", &format!("virtserialport,chardev=port,name={}", init::PORT)]);
        if networked {
            // A frame is a segment: nothing is joined or cut, and checksums are whole.
            const PLAIN: &str = "csum=off,guest_csum=off,gso=off,guest_tso4=off,guest_tso6=off,guest_ecn=off,\
                                 guest_ufo=off,host_tso4=off,host_tso6=off,host_ecn=off,host_ufo=off,mrg_rxbuf=off";
            c.args(["-netdev", "dgram,id=net,local.type=fd,local.str=0"])
                .args(["-device", &format!("virtio-net-pci,netdev=net,{PLAIN}")]);
        } else {
            c.args(["-icount", "shift=0,sleep=off"]);
        }
        Ok(c)
    }

    /// This program as init, the libraries it needs, the modules it loads, and the job.
    fn initramfs(&self, mut job: Job, program: &Program, networked: bool) -> Result<Vec<u8>, GuestError> {
        let unread = |path: &Path| {
            let path = path.to_owned();
            |source| GuestError::Program { path, source }
        };
        let large = |e: cpio::TooLarge| GuestError::Form { path: program.path.clone(), why: e.to_string() };
        let content = fs::read(&program.source).map_err(unread(&program.path))?;
        let libraries = elf::libraries(&program.source, &content)
            .map_err(|why| GuestError::Form { path: program.path.clone(), why })?;
        let mut archive = cpio::Archive::default();
        archive.device("dev/console", 5, 1).map_err(large)?;
        // For the moment before there is another /dev: the runtime of a program opens it.
        archive.device("dev/null", 1, 3).map_err(large)?;
        archive.file("init", &elf::loaded(content)).map_err(large)?;
        for library in libraries {
            let content = fs::read(&library).map_err(unread(&library))?;
            archive.file(&library.to_string_lossy(), &content).map_err(large)?;
        }
        if let Some(config) = self.config.as_ref().and_then(|c| fs::read(c).ok()) {
            archive.file(&format!("boot/config-{}", self.release), &config).map_err(large)?;
        }
        job.modules.clear();
        let net = NET_MODULES.iter().filter(|_| networked);
        let ours = PORT_MODULES.iter().chain(net).copied();
        let wanted = ours.chain(job.wanted.iter().map(|w| (w.name.as_ref(), w.place.as_ref())));
        for (n, module) in find_modules(&self.image, &self.release, wanted).iter().enumerate() {
            let content =
                fs::read(module).map_err(|source| GuestError::Dir { path: module.clone(), source })?;
            let name = module.file_name().unwrap_or_default().to_string_lossy();
            let inside = format!("/modules/{n:02}-{name}");
            archive.file(&inside, &content).map_err(large)?;
            job.modules.push(inside.into());
        }
        let text =
            serde_json::to_vec(&job).map_err(|e| GuestError::Dir { path: JOB.into(), source: e.into() })?;
        archive.file(&format!("{DIR}/{JOB}"), &text).map_err(large)?;
        archive.finish().map_err(large)
    }
}

/// The first 64 KiB.
fn head(path: &Path) -> std::io::Result<Vec<u8>> {
    use std::io::Read as _;
    let mut bytes = Vec::new();
    fs::File::open(path)?.take(64 << 10).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The release that the header of a bzImage names.
fn release(head: &[u8]) -> Option<String> {
    if head.get(0x202..0x206)? != b"HdrS" {
        return None;
    }
    let at = usize::from(u16::from_le_bytes(*head.get(0x20e..)?.first_chunk()?)).checked_add(0x200)?;
    let text = head.get(at..)?.split(|b| *b == 0 || *b == b' ').next()?;
    let text = std::str::from_utf8(text).ok()?;
    let plain = text.chars().all(|c| c.is_ascii_alphanumeric() || "._-+~".contains(c));
    (plain && !text.is_empty() && !text.starts_with('.')).then(|| text.to_owned())
}

/// Where what belongs to the image may lie: below it, beside it if it is in boot/, or it is among its own modules.
fn module_dirs(image: &Path, release: &str) -> [PathBuf; 6] {
    let beside = image.parent().unwrap_or(Path::new("/"));
    let above = beside.parent().unwrap_or(Path::new("/"));
    [
        beside.join("lib/modules").join(release),
        above.join("lib/modules").join(release),
        above.join("usr/lib/modules").join(release),
        beside.to_owned(),
        Path::new("/lib/modules").join(release),
        Path::new("/usr/lib/modules").join(release),
    ]
}

/// The modules to load, in order, from the directory of modules nearest to the image.
fn find_modules<'a>(
    image: &Path,
    release: &str,
    wanted: impl Iterator<Item = (&'a str, &'a str)>,
) -> Vec<PathBuf> {
    let dirs = module_dirs(image, release);
    let Some(dir) = dirs.iter().find(|d| d.join("kernel").is_dir()) else { return Vec::new() };
    let mut files: Vec<PathBuf> = Vec::new();
    for (name, place) in wanted {
        for file in modules::find(dir, name, place) {
            if !files.contains(&file) {
                files.push(file);
            }
        }
    }
    files
}

/// The configuration the image was built with.
fn find_config(image: &Path, release: &str) -> Option<PathBuf> {
    let boot = image.with_file_name(format!("config-{release}"));
    let dirs = module_dirs(image, release);
    // A file called config beside an image in boot/ could be anything.
    let named = dirs.iter().filter(|d| d.ends_with(release)).map(|d| d.join("config"));
    std::iter::once(boot).chain(named).find(|f| f.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(text: &[u8]) -> Vec<u8> {
        let mut head = vec![0; 0x400];
        head[0x202..0x206].copy_from_slice(b"HdrS");
        head[0x20e..0x210].copy_from_slice(&0x100u16.to_le_bytes());
        head[0x300..0x300 + text.len()].copy_from_slice(text);
        head
    }

    #[test]
    fn the_release_is_read_from_the_image() {
        assert_eq!(
            release(&image(b"6.12.1-cloud-amd64 (x@y) #1 SMP\0")).as_deref(),
            Some("6.12.1-cloud-amd64")
        );
        for wrong in [&b""[..], b"\0", b" x", b"../../etc\0", b"a/b\0", b"\xff\0"] {
            assert_eq!(release(&image(wrong)), None, "{wrong:?}");
        }
        let whole = image(b"6.1\0");
        for len in 0..0x300 {
            assert_eq!(release(&whole[..len]), None);
        }
        let mut far = image(b"6.1\0");
        far[0x20e..0x210].copy_from_slice(&u16::MAX.to_le_bytes());
        assert_eq!(release(&far), None);
    }

    #[test]
    fn modules_are_looked_for_beside_the_image() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("lib/modules/9.9-none");
        fs::create_dir_all(dir.join("kernel/drivers/net")).unwrap();
        fs::create_dir_all(root.path().join("boot")).unwrap();
        let tun = dir.join("kernel/drivers/net/tun.ko.xz");
        fs::write(&tun, "").unwrap();
        let find =
            |image: &Path, release| find_modules(image, release, [("tun", "kernel/drivers/net")].into_iter());
        let found = find(&root.path().join("boot/vmlinuz"), "9.9-none");
        assert_eq!(found, std::slice::from_ref(&tun));
        assert_eq!(find(&dir.join("vmlinuz"), "9.9-none"), [tun]);
        assert!(find(&root.path().join("boot/vmlinuz"), "9.8-none").is_empty());

        let config = |image: &str| find_config(&root.path().join(image), "9.9-none");
        fs::write(root.path().join("boot/config"), "").unwrap();
        assert_eq!(config("boot/vmlinuz"), None);
        fs::write(dir.join("config"), "").unwrap();
        assert_eq!(config("boot/vmlinuz"), Some(dir.join("config")));
        fs::write(root.path().join("boot/config-9.9-none"), "").unwrap();
        assert_eq!(config("boot/vmlinuz"), Some(root.path().join("boot/config-9.9-none")));
    }
}
