//! Which peers are installed, and how to get the rest.

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::drivers::Driver;
use super::smoltcp;
use super::spec::{Kind, PeerSpec};
use crate::doctor;
use crate::guest::{Kernel, Machine, UML};

/// A peer and whether it can be had here.
#[derive(Clone, Debug, Serialize)]
pub struct Entry {
    /// What to type.
    pub peer: String,
    /// What it is.
    pub about: String,
    /// Its version, if it is installed.
    pub version: Option<String>,
    /// A real stack, and not one of ours.
    pub real: bool,
    /// What is missing.
    pub missing: Option<String>,
    /// How to get it.
    pub fix: Option<String>,
}

/// Looks at all of them.
#[must_use]
pub fn all() -> Vec<Entry> {
    let mut all =
        vec![host(), kernel(&Kernel::Uml(UML.into()), "Linux as user-mode-linux: a kernel in a process")];
    for path in own_kernels() {
        let is_uml = path.extension().is_some_and(|e| e == "uml");
        let kernel_there = if is_uml { Kernel::Uml(path) } else { Kernel::Qemu(path) };
        let about = if is_uml { "Linux as user-mode-linux, built here" } else { "Linux under QEMU" };
        all.push(kernel(&kernel_there, about));
    }
    if !all.iter().any(|e| e.peer.starts_with("qemu:")) {
        all.push(Entry {
            peer: "qemu:IMAGE".to_owned(),
            about: "Linux under QEMU: any image of a kernel".to_owned(),
            version: None,
            real: true,
            missing: Some("no image in kernels/".to_owned()),
            fix: Some(
                "apt-get install qemu-system-x86, then tests/kernels/fetch-image 6.12, or name any bzImage"
                    .to_owned(),
            ),
        });
    }
    for d in Driver::ALL {
        all.push(entry(d.name(), d.about(), true, d.version(), d.fix()));
    }
    all.push(entry("smoltcp", "smoltcp, built in", true, Ok(smoltcp::VERSION.to_owned()), ""));
    all.push(entry(
        "model",
        "the model sender, ours: no real stack",
        false,
        Ok(env!("CARGO_PKG_VERSION").to_owned()),
        "",
    ));
    all
}

fn entry(peer: &str, about: &str, real: bool, version: Result<String, String>, fix: &str) -> Entry {
    let (version, missing) = match version {
        Ok(v) => (Some(v), None),
        Err(why) => (None, Some(why)),
    };
    let fix = missing.is_some().then(|| fix.to_owned());
    Entry { peer: peer.to_owned(), about: about.to_owned(), version, real, missing, fix }
}

fn host() -> Entry {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let version = doctor::kernel_sender().map(|()| release);
    entry("linux", "this machine's kernel", true, version, "see `rightedge doctor`")
}

fn kernel(kernel: &Kernel, about: &str) -> Entry {
    let version = Machine::new(kernel).map_err(|e| e.to_string());
    let version =
        version.map(|m| m.release().unwrap_or_else(|| "release unknown before it is booted".to_owned()));
    let fix = match kernel {
        Kernel::Uml(_) => "apt-get install user-mode-linux",
        Kernel::Qemu(_) | Kernel::Host => "apt-get install qemu-system-x86",
    };
    entry(&kernel.to_string(), about, true, version, fix)
}

/// Kernels that lie in `kernels/` of the working directory, where tests/kernels puts them.
fn own_kernels() -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("kernels").into_iter().flatten().flatten() {
        let path = entry.path();
        let image = path.join("vmlinuz");
        if image.is_file() {
            found.push(image);
        } else if path.is_file() && path.extension().is_some_and(|e| e == "uml") {
            found.push(path);
        }
    }
    found.sort_by_key(|p| version_key(p));
    found
}

/// 6.12 comes behind 6.1, and 5.10 before both.
fn version_key(path: &Path) -> (Vec<u32>, PathBuf) {
    let text = path.to_string_lossy();
    let numbers = text.split(|c: char| !c.is_ascii_digit()).filter_map(|n| n.parse().ok()).collect();
    (numbers, path.to_owned())
}

/// The peers of the matrix when none are named: every installed real stack, and the host's kernel in its variants.
#[must_use]
pub fn default_peers() -> Vec<PeerSpec> {
    let mut peers: Vec<PeerSpec> = Vec::new();
    let mut add = |text: &str| peers.extend(text.parse::<PeerSpec>());
    for e in all().into_iter().filter(|e| e.real && e.missing.is_none()) {
        add(&e.peer);
        if e.peer == "linux" {
            for variant in VARIANTS {
                add(&format!("linux,{variant}"));
            }
        } else if e.peer == "uml" {
            for variant in GUEST_VARIANTS {
                add(&format!("uml,{variant}"));
            }
        }
    }
    peers
}

/// How the host's kernel is varied.
pub const VARIANTS: [&str; 8] = [
    "cc=reno",
    "cc=bbr",
    "sack=off",
    "timestamps=off",
    "nodelay",
    "wscale=0",
    "wscale=14",
    "net.ipv4.tcp_retries2=5",
];

/// How user-mode-linux is varied.
pub const GUEST_VARIANTS: [&str; 2] = ["sack=off", "net.ipv4.tcp_retries2=5"];

/// The peers of the short form.
pub const SHORT: [&str; 5] = ["linux", "uml", "lwip", "gvisor", "smoltcp"];

/// Is the peer installed? If not, what is missing and how to get it.
///
/// # Errors
/// Both, in one line.
pub fn check(peer: &PeerSpec) -> Result<String, String> {
    let e = match &peer.kind {
        Kind::Host => host(),
        Kind::Guest(k) => kernel(k, ""),
        Kind::Driver(d) => entry(d.name(), "", true, d.version(), d.fix()),
        Kind::Smoltcp => return Ok(smoltcp::VERSION.to_owned()),
        Kind::Model | Kind::Bad(_) => return Ok(env!("CARGO_PKG_VERSION").to_owned()),
        Kind::Exec(words) => return Ok(words.join(" ")),
    };
    e.version
        .ok_or_else(|| format!("{}; to get it: {}", e.missing.unwrap_or_default(), e.fix.unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_comes_with_a_fix() {
        for e in all() {
            assert_eq!(e.version.is_some(), e.missing.is_none(), "{}", e.peer);
            assert_eq!(e.missing.is_some(), e.fix.is_some(), "{}", e.peer);
        }
    }

    #[test]
    fn variants_can_be_typed() {
        for v in VARIANTS {
            assert!(format!("linux,{v}").parse::<PeerSpec>().is_ok(), "{v}");
        }
        for v in GUEST_VARIANTS {
            assert!(format!("uml,{v}").parse::<PeerSpec>().is_ok(), "{v}");
        }
        for s in SHORT {
            assert!(s.parse::<PeerSpec>().is_ok(), "{s}");
        }
    }

    #[test]
    fn kernels_are_in_the_order_of_their_versions() {
        let mut all =
            ["kernels/7/vmlinuz", "kernels/6.12/vmlinuz", "kernels/5.10/vmlinuz", "kernels/6.1/vmlinuz"]
                .map(PathBuf::from);
        all.sort_by_key(|p| version_key(p));
        assert_eq!(
            all.map(|p| p.display().to_string()),
            ["kernels/5.10/vmlinuz", "kernels/6.1/vmlinuz", "kernels/6.12/vmlinuz", "kernels/7/vmlinuz"]
        );
    }
}
