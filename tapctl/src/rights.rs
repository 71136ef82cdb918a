//! What may be done on this machine, and the fix for what may not.
//!
//! Nothing is assumed from a user id: each right is tried, in a namespace that vanishes again.
//!
//! [`require`] is for tests that need rights: without them they skip, loudly, or fail when the environment
//! variable [`REQUIRE_VAR`] says so.

use std::error::Error;
use std::fmt;
use std::io::{self, Write as _};
use std::path::PathBuf;

use crate::netns::{self, NetnsError};
use crate::sys;
use crate::tap::{self, IoMode, Napi, OffloadOptions, OffloadTap, PlainTap, TUN_NODE, TapError};

/// Set to `all` (or to a comma list of [`Need::name`]s) to turn skipped tests into failures.
pub const REQUIRE_VAR: &str = "RIGHTEDGE_REQUIRE";

/// Something a piece of work may need of the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Need {
    /// The TUN/TAP device node opens.
    TunNode,
    /// This thread may create a network namespace.
    Netns,
    /// A TAP device can be created inside a new namespace.
    Tap,
    /// A TAP device with virtio header and TSO can be created.
    VnetHdr,
    /// `IFF_NAPI_FRAGS`, which needs rights in the initial user namespace.
    NapiFrags,
    /// `AF_PACKET` sockets.
    Packet,
    /// Namespaces with a name, which need real root and mounts.
    NamedNetns,
    /// The `ip` program.
    Ip,
    /// A user-mode-linux kernel.
    Uml,
    /// QEMU for x86-64.
    Qemu,
    /// The `tshark` program.
    Tshark,
}

/// Every [`Need`], in the order `doctor` shows them.
pub const NEEDS: [Need; 11] = [
    Need::TunNode,
    Need::Netns,
    Need::Tap,
    Need::VnetHdr,
    Need::NapiFrags,
    Need::Packet,
    Need::NamedNetns,
    Need::Ip,
    Need::Uml,
    Need::Qemu,
    Need::Tshark,
];

impl Need {
    /// A short name, for people and for [`REQUIRE_VAR`].
    pub const fn name(self) -> &'static str {
        match self {
            Self::TunNode => "tun-node",
            Self::Netns => "netns",
            Self::Tap => "tap",
            Self::VnetHdr => "vnet-hdr",
            Self::NapiFrags => "napi-frags",
            Self::Packet => "af-packet",
            Self::NamedNetns => "named-netns",
            Self::Ip => "ip",
            Self::Uml => "user-mode-linux",
            Self::Qemu => "qemu",
            Self::Tshark => "tshark",
        }
    }

    /// Can the core of the project not run without it?
    pub const fn is_essential(self) -> bool {
        matches!(self, Self::TunNode | Self::Netns | Self::Tap)
    }

    /// Tries it.
    pub fn probe(self) -> Right {
        let result = match self {
            Self::TunNode => probe_node(),
            Self::Netns => probe_netns(),
            Self::Tap => probe_tap(None),
            Self::VnetHdr => probe_tap(Some(OffloadOptions::default())),
            Self::NapiFrags => {
                probe_tap(Some(OffloadOptions { napi: Napi::Frags, ..OffloadOptions::default() }))
            }
            Self::Packet => probe_packet(),
            Self::NamedNetns => probe_named(),
            Self::Ip => {
                probe_program(&["ip"], "install iproute2 (only for looking around; not needed to run)")
            }
            Self::Uml => probe_program(
                &["linux.uml", "linux"],
                "install user-mode-linux, or do without a second kernel as judge",
            ),
            Self::Qemu => probe_program(
                &["qemu-system-x86_64"],
                "install qemu-system-x86, or do without further kernels as judges",
            ),
            Self::Tshark => {
                probe_program(&["tshark"], "install tshark (only for reading captures; not needed to run)")
            }
        };
        match result {
            Ok(detail) => Right { name: self.name(), need: Some(self), ok: true, detail, fix: None },
            Err((detail, fix)) => {
                Right { name: self.name(), need: Some(self), ok: false, detail, fix: Some(fix) }
            }
        }
    }
}

impl fmt::Display for Need {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// One line of the report.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Right {
    /// Short name.
    pub name: &'static str,
    /// Which need it answers; `None` for plain facts.
    pub need: Option<Need>,
    /// Is it there?
    pub ok: bool,
    /// What was found, or why not.
    pub detail: String,
    /// What to do, when it is not there.
    pub fix: Option<String>,
}

impl fmt::Display for Right {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let essential = self.need.is_some_and(Need::is_essential);
        let mark = match (self.ok, essential) {
            (true, _) => "ok     ",
            (false, true) => "MISSING",
            (false, false) => "absent ",
        };
        write!(f, "{mark}  {:<16} {}", self.name, self.detail)?;
        match &self.fix {
            Some(fix) => write!(f, "\n{:>25} fix: {fix}", ""),
            None => Ok(()),
        }
    }
}

/// The whole report.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Rights {
    /// One entry per [`Need`], then facts about the machine.
    pub entries: Vec<Right>,
}

impl Rights {
    /// Tries everything. Takes a few milliseconds and leaves nothing behind.
    pub fn probe() -> Self {
        let mut entries: Vec<Right> = NEEDS.iter().map(|need| need.probe()).collect();
        entries.push(fact("kernel", kernel()));
        entries.push(fact("memory", memory()));
        Self { entries }
    }

    /// The entry for one need.
    pub fn of(&self, need: Need) -> Option<&Right> {
        self.entries.iter().find(|right| right.need == Some(need))
    }

    /// Is everything there that the core of the project needs?
    pub fn is_sufficient(&self) -> bool {
        self.entries.iter().all(|right| right.ok || !right.need.is_some_and(Need::is_essential))
    }
}

impl fmt::Display for Rights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for right in &self.entries {
            writeln!(f, "{right}")?;
        }
        Ok(())
    }
}

/// For tests: are these rights there? If not, says so on standard error, past the test harness' capture, and
/// returns `false` so that the test can return.
///
/// # Panics
///
/// When a right is missing and [`REQUIRE_VAR`] is `all` or names it: then a skip is a failure.
pub fn require(test: &str, needs: &[Need]) -> bool {
    let missing = needs.iter().map(|need| need.probe()).filter(|right| !right.ok);
    let missing: Vec<_> = missing.map(|r| (r.name.to_owned(), r.detail, r.fix.unwrap_or_default())).collect();
    require_nothing_of(test, &missing)
}

/// For tests that need more than rights: what is missing for them, by name, with what is wrong and the fix. If anything is,
/// says so as [`require`] does and returns `false`.
///
/// # Panics
///
/// When something is missing and [`REQUIRE_VAR`] is `all` or names it.
#[expect(clippy::panic, reason = "failing the calling test is the purpose")]
pub fn require_nothing_of(test: &str, missing: &[(String, String, String)]) -> bool {
    if missing.is_empty() {
        return true;
    }
    let insist = std::env::var(REQUIRE_VAR).unwrap_or_default();
    let mut text = String::new();
    for (name, detail, fix) in missing {
        text.push_str(&format!("\n    missing {name}: {detail}; fix: {fix}"));
        if insist.split(',').any(|word| word.trim() == "all" || word.trim() == name) {
            panic!("{test} needs more than is here, and {REQUIRE_VAR}={insist} forbids skipping{text}");
        }
    }
    // The test harness captures print macros but not the stream itself.
    let _ = writeln!(io::stderr(), "SKIPPED {test}{text}");
    false
}

/// Is this error, or one it stems from, about rights the process lacks (rather than wrong input)?
///
/// Programs answer such errors with an exit code of their own.
pub fn is_missing_right(error: &(dyn Error + 'static)) -> bool {
    let denied = |source: &io::Error| matches!(source.raw_os_error(), Some(libc::EPERM | libc::EACCES));
    let mut next = Some(error);
    while let Some(error) = next {
        let here = match error.downcast_ref::<TapError>() {
            Some(
                TapError::NodeMissing
                | TapError::NodeDenied { .. }
                | TapError::NotPermitted { .. }
                | TapError::NapiFragsDenied { .. },
            ) => true,
            _ => matches!(
                error.downcast_ref::<NetnsError>(),
                Some(
                    NetnsError::UserNamespace { .. } | NetnsError::IdMap { .. } | NetnsError::Threads { .. }
                )
            ),
        };
        if here || error.downcast_ref::<io::Error>().is_some_and(denied) {
            return true;
        }
        next = error.source();
    }
    false
}

type Probe = Result<String, (String, String)>;

fn probe_node() -> Probe {
    match std::fs::OpenOptions::new().read(true).write(true).open(TUN_NODE) {
        Ok(_) => Ok(format!("{TUN_NODE} opens (mode {})", tap::node_mode())),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Err((
            format!("{TUN_NODE} has mode {} and this user may not open it", tap::node_mode()),
            NODE_FIX.to_owned(),
        )),
        Err(error) => Err((format!("{TUN_NODE}: {error}"), DRIVER_FIX.to_owned())),
    }
}

const DRIVER_FIX: &str = "modprobe tun; in a container, pass the device in";

const NODE_FIX: &str = "chmod 666 /dev/net/tun, or a udev rule KERNEL==\"tun\", GROUP=\"netdev\", MODE=\"0660\" with this user in that group, or run as root (root inside a user namespace does not help)";

fn probe_netns() -> Probe {
    if netns::may_create() {
        return match netns::run_in_new_netns(|| ()) {
            Ok(()) => Ok("created one and dropped it, with this process' own rights".to_owned()),
            Err(error) => Err((error.to_string(), "run as root".to_owned())),
        };
    }
    match sys::probe_user_namespace() {
        Ok(probe) if probe.unshare == 0 => Err((
            "not in this process as it is, but a private user namespace would allow it".to_owned(),
            "programs enter it by themselves (`tapctl run`); for tests: `unshare --user --map-root-user cargo test`"
                .to_owned(),
        )),
        Ok(probe) => {
            let reason = io::Error::from_raw_os_error(probe.unshare);
            Err((format!("refused, with a user namespace too ({reason})"), USERNS_FIX.to_owned()))
        }
        Err(error) => Err((format!("could not be tried ({error})"), "run as root".to_owned())),
    }
}

const USERNS_FIX: &str = "run as root, or sysctl user.max_user_namespaces=10000 and, where they exist, kernel.unprivileged_userns_clone=1 and kernel.apparmor_restrict_unprivileged_userns=0";

/// What an unprivileged process could do inside a user namespace, for the rights that depend on it.
fn unprivileged_tap() -> Probe {
    let no = |text: String, fix: &str| Err((text, fix.to_owned()));
    match sys::probe_user_namespace() {
        Ok(probe) if probe.unshare != 0 => {
            no("needs a network namespace, which is refused".to_owned(), USERNS_FIX)
        }
        Ok(probe) if probe.open != 0 => no(
            format!("{TUN_NODE} (mode {}) does not open in a user namespace either", tap::node_mode()),
            NODE_FIX,
        ),
        Ok(probe) if probe.set_iff != 0 => no(
            format!("refused inside a user namespace ({})", io::Error::from_raw_os_error(probe.set_iff)),
            "run as root",
        ),
        Ok(_) => no(
            "not in this process as it is, but a private user namespace would allow it".to_owned(),
            "programs enter it by themselves (`tapctl run`); for tests: `unshare --user --map-root-user cargo test`",
        ),
        Err(error) => no(format!("could not be tried ({error})"), "run as root"),
    }
}

fn probe_tap(options: Option<OffloadOptions>) -> Probe {
    if !netns::may_create() {
        return unprivileged_tap();
    }
    let tried = netns::run_in_new_netns(|| match options {
        None => PlainTap::open("reprobe0", tap::Layer::Ethernet, IoMode::NonBlocking)
            .map(|tap| format!("created {} in a private namespace", tap.name())),
        Some(options) => OffloadTap::open("reprobe0", options).map(|tap| match tap.options().napi {
            Napi::Off => format!("offloads {} accepted", tap.options().offloads),
            Napi::On | Napi::Frags => "IFF_NAPI and IFF_NAPI_FRAGS accepted".to_owned(),
        }),
    });
    match tried {
        Ok(Ok(detail)) => Ok(detail),
        Ok(Err(TapError::NodeDenied { mode })) => {
            Err((format!("{TUN_NODE} (mode {mode}) does not open"), NODE_FIX.to_owned()))
        }
        Ok(Err(TapError::NodeMissing)) => {
            Err((format!("{TUN_NODE} or the driver behind it is missing"), DRIVER_FIX.to_owned()))
        }
        Ok(Err(TapError::NapiFragsDenied { .. })) => Err((
            "IFF_NAPI_FRAGS needs CAP_NET_ADMIN in the initial user namespace".to_owned(),
            "run as real root, or do without exact fragments (napi works)".to_owned(),
        )),
        Ok(Err(error)) => Err((error.to_string(), "run as real root on a kernel with CONFIG_TUN".to_owned())),
        Err(error) => Err((error.to_string(), "run as root".to_owned())),
    }
}

fn probe_packet() -> Probe {
    let fix = || "run as root, with CAP_NET_RAW, or inside a private namespace".to_owned();
    if netns::may_create() {
        return match netns::run_in_new_netns(|| crate::capture::Capture::open("lo").map(drop)) {
            Ok(Ok(())) => Ok("opened on lo of a private namespace".to_owned()),
            Ok(Err(error)) => Err((error.to_string(), fix())),
            Err(error) => Err((error.to_string(), fix())),
        };
    }
    match crate::capture::Capture::open("lo") {
        Ok(_) => Ok("opened on lo".to_owned()),
        Err(error) => Err((error.to_string(), fix())),
    }
}

fn probe_named() -> Probe {
    if netns::may_create() && netns::in_initial_user_namespace() {
        Ok(format!("real root; names live in {}", netns::NETNS_DIR))
    } else {
        Err((
            "needs real root, because it mounts".to_owned(),
            "use unnamed namespaces (`tapctl run`), or run as root".to_owned(),
        ))
    }
}

fn probe_program(names: &[&str], fix: &str) -> Probe {
    let path = std::env::var_os("PATH").unwrap_or_default();
    // Many users have no sbin in PATH although its programs run for them.
    let folders = std::env::split_paths(&path).chain(["/usr/sbin", "/sbin"].map(PathBuf::from));
    let candidates: Vec<PathBuf> = folders.collect();
    for name in names {
        for folder in &candidates {
            let file = folder.join(name);
            if rustix::fs::access(&file, rustix::fs::Access::EXEC_OK).is_ok() && file.is_file() {
                return Ok(file.display().to_string());
            }
        }
    }
    Err((format!("no {} in PATH", names.join(" or ")), fix.to_owned()))
}

fn fact(name: &'static str, detail: String) -> Right {
    Right { name, need: None, ok: true, detail, fix: None }
}

fn kernel() -> String {
    let uname = rustix::system::uname();
    let part = |text: &std::ffi::CStr| text.to_string_lossy().into_owned();
    format!("{} {} {}", part(uname.sysname()), part(uname.release()), part(uname.machine()))
}

fn memory() -> String {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kib = |key: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
        line.split_whitespace().next()?.parse::<u64>().ok()
    };
    match (kib("MemAvailable"), kib("MemTotal")) {
        (Some(free), Some(total)) => format!("{} MiB available of {} MiB", free / 1024, total / 1024),
        _ => "unknown: /proc/meminfo could not be read".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_missing_right_comes_with_a_fix() {
        let rights = Rights::probe();
        assert_eq!(rights.entries.len(), NEEDS.len() + 2);
        for right in &rights.entries {
            assert_eq!(right.ok, right.fix.is_none(), "{right}");
            assert!(!right.detail.is_empty());
        }
        for need in NEEDS {
            assert_eq!(rights.of(need).map(|right| right.name), Some(need.name()));
        }
    }

    #[test]
    fn a_missing_program_is_named() {
        let (detail, fix) = probe_program(&["re-no-such-program"], "install it").unwrap_err();
        assert!(detail.contains("re-no-such-program") && fix == "install it");
    }
}
