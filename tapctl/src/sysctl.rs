//! Network sysctls of the calling thread's namespace: read, write, restore.
//!
//! `/proc/sys/net` shows each reader the values of its own network namespace, so these functions must run on
//! a thread inside (see [`crate::netns`]). Names outside `net.` are refused: those belong to the machine, not
//! to a namespace. A bare name means `net.ipv4.`.

use std::fmt;
use std::fs;
use std::io;
use std::marker::PhantomData;
use std::path::{Path, PathBuf};
use std::str::FromStr;

const ROOT: &str = "/proc/sys";

/// A checked sysctl name, in full dotted form.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SysctlName {
    dotted: String,
}

/// Why a sysctl could not be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SysctlError {
    /// Not a sysctl name.
    #[error(
        "sysctl name {name:?}: not a name; use tcp_rmem or net.ipv4.tcp_rmem (a dot inside an interface name is written '/')"
    )]
    Name {
        /// The text.
        name: String,
    },
    /// Belongs to the machine.
    #[error(
        "sysctl {name}: lies outside net., so it belongs to the whole machine; only net. names are set here"
    )]
    NotNetwork {
        /// The name.
        name: String,
    },
    /// `K=V` without `=`.
    #[error("sysctl setting {text:?}: no '='; write NAME=VALUE, as in tcp_rmem=\"4096 131072 6291456\"")]
    Setting {
        /// The text.
        text: String,
    },
    /// This kernel has no such sysctl here.
    #[error(
        "sysctl {name}: {action}, but it does not exist in this namespace on kernel {kernel}; leave it out, or use a kernel that has it (some names exist only in the initial namespace)"
    )]
    Missing {
        /// The name.
        name: SysctlName,
        /// What was attempted, with the value.
        action: String,
        /// The kernel release.
        kernel: String,
    },
    /// Read-only here.
    #[error("sysctl {name}: {action}, but it is read-only here; set it in the initial namespace as root")]
    Denied {
        /// The name.
        name: SysctlName,
        /// What was attempted, with the value.
        action: String,
    },
    /// The kernel did not take the value.
    #[error("sysctl {name}: value {value:?} refused ({source}); compare with the present value {present:?}")]
    Refused {
        /// The name.
        name: SysctlName,
        /// The value.
        value: String,
        /// What is there now.
        present: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// The text is not a list of numbers.
    #[error("sysctl {name}: {text:?} is not a list of numbers; read it as text")]
    NotNumbers {
        /// The name.
        name: SysctlName,
        /// The text.
        text: String,
    },
    /// Anything else.
    #[error("sysctl {name}: {action} failed ({source}); check that /proc is mounted and readable")]
    Io {
        /// The name.
        name: SysctlName,
        /// What was attempted, with the value.
        action: String,
        /// What the kernel said.
        source: io::Error,
    },
}

impl SysctlName {
    /// The full dotted name.
    pub fn as_str(&self) -> &str {
        &self.dotted
    }

    /// The name as scenarios write it: without `net.ipv4.` where that is enough to find it again.
    pub fn short(&self) -> &str {
        match self.dotted.strip_prefix("net.ipv4.") {
            Some(rest) if !rest.contains(['.', '/']) => rest,
            _ => &self.dotted,
        }
    }

    fn path(&self) -> PathBuf {
        // In names '.' separates and '/' stands for a dot, the other way round than in paths.
        let swapped: String = self
            .dotted
            .chars()
            .map(|char| match char {
                '.' => '/',
                '/' => '.',
                other => other,
            })
            .collect();
        Path::new(ROOT).join(swapped)
    }
}

impl FromStr for SysctlName {
    type Err = SysctlError;

    fn from_str(text: &str) -> Result<Self, SysctlError> {
        let bad = || SysctlError::Name { name: text.to_owned() };
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"_-./@".contains(&byte);
        if text.is_empty() || text.len() > 200 || !text.bytes().all(allowed) {
            return Err(bad());
        }
        let dotted = if text.contains('.') { text.to_owned() } else { format!("net.ipv4.{text}") };
        // A component made only of '/' would become "." or ".." in the path.
        if dotted.split('.').any(|part| part.bytes().all(|byte| byte == b'/'))
            || (text.contains('/') && !text.contains('.'))
        {
            return Err(bad());
        }
        if !dotted.starts_with("net.") {
            return Err(SysctlError::NotNetwork { name: dotted });
        }
        Ok(Self { dotted })
    }
}

impl fmt::Display for SysctlName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.dotted)
    }
}

/// Splits `NAME=VALUE`.
pub fn parse_setting(text: &str) -> Result<(SysctlName, String), SysctlError> {
    let (name, value) = text.split_once('=').ok_or_else(|| SysctlError::Setting { text: text.to_owned() })?;
    Ok((name.trim().parse()?, normalize(value)))
}

/// Reads a value; several numbers are separated by single spaces.
pub fn read(name: &str) -> Result<String, SysctlError> {
    read_name(&name.parse()?)
}

/// Reads a value that is one or more numbers.
pub fn read_numbers(name: &str) -> Result<Vec<i64>, SysctlError> {
    let name: SysctlName = name.parse()?;
    let text = read_name(&name)?;
    text.split(' ')
        .map(|word| {
            word.parse().map_err(|_| SysctlError::NotNumbers { name: name.clone(), text: text.clone() })
        })
        .collect()
}

/// Does this kernel have the sysctl in this namespace?
pub fn exists(name: &str) -> Result<bool, SysctlError> {
    Ok(name.parse::<SysctlName>()?.path().exists())
}

/// Writes a value, such as `1` or `4096 131072 6291456`.
pub fn write(name: &str, value: impl fmt::Display) -> Result<(), SysctlError> {
    write_name(&name.parse()?, &value.to_string())
}

/// Does this kernel speak IPv6 (compiled in, or its module loaded)?
pub fn has_ipv6() -> bool {
    Path::new(ROOT).join("net/ipv6").exists()
}

/// Switches IPv6 off on one device, so that it neither announces itself nor configures addresses. On a kernel
/// without IPv6 there is nothing to do.
pub fn disable_ipv6(device: &str) -> Result<(), SysctlError> {
    if !has_ipv6() {
        return Ok(());
    }
    write(&format!("net.ipv6.conf.{}.disable_ipv6", device.replace('.', "/")), 1)
}

/// Puts a sysctl back to what it was when dropped. Tied to the thread, because the value belongs to the
/// thread's namespace.
#[derive(Debug)]
#[must_use = "the old value comes back when the guard is dropped"]
pub struct SysctlGuard {
    name: SysctlName,
    before: String,
    thread_bound: PhantomData<*const ()>,
}

impl SysctlGuard {
    /// Writes a value and remembers the present one.
    pub fn set(name: &str, value: impl fmt::Display) -> Result<Self, SysctlError> {
        let name: SysctlName = name.parse()?;
        let before = read_name(&name)?;
        write_name(&name, &value.to_string())?;
        Ok(Self { name, before, thread_bound: PhantomData })
    }

    /// Which sysctl.
    pub fn name(&self) -> &SysctlName {
        &self.name
    }

    /// What will come back.
    pub fn before(&self) -> &str {
        &self.before
    }

    /// Puts the old value back now and says whether that worked.
    pub fn restore(self) -> Result<(), SysctlError> {
        let result = write_name(&self.name, &self.before);
        std::mem::forget(self);
        result
    }

    /// Leaves the new value in place.
    pub fn keep(self) {
        std::mem::forget(self);
    }
}

impl Drop for SysctlGuard {
    fn drop(&mut self) {
        // A destructor has nobody to tell; `restore` does.
        let _ = write_name(&self.name, &self.before);
    }
}

fn read_name(name: &SysctlName) -> Result<String, SysctlError> {
    match fs::read_to_string(name.path()) {
        Ok(text) => Ok(normalize(&text)),
        Err(source) => Err(explain(name, "asked to read it".to_owned(), source)),
    }
}

fn write_name(name: &SysctlName, value: &str) -> Result<(), SysctlError> {
    let value = normalize(value);
    // Opened without O_CREAT: a missing name must come back as missing.
    let result = fs::OpenOptions::new()
        .write(true)
        .open(name.path())
        .and_then(|mut file| io::Write::write_all(&mut file, value.as_bytes()));
    match result {
        Ok(()) => Ok(()),
        Err(source)
            if matches!(source.raw_os_error(), Some(libc::EINVAL | libc::ERANGE | libc::ENOENT))
                && name.path().exists() =>
        {
            let present = read_name(name).unwrap_or_default();
            Err(SysctlError::Refused { name: name.clone(), value, present, source })
        }
        Err(source) => Err(explain(name, format!("asked to set it to {value:?}"), source)),
    }
}

fn explain(name: &SysctlName, action: String, source: io::Error) -> SysctlError {
    let name = name.clone();
    match source.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::IsADirectory => {
            let kernel = rustix::system::uname().release().to_string_lossy().into_owned();
            SysctlError::Missing { name, action, kernel }
        }
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            SysctlError::Denied { name, action }
        }
        _ => SysctlError::Io { name, action, source },
    }
}

/// Single spaces between values, none around.
fn normalize(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bare_names_mean_ipv4() {
        let name: SysctlName = "tcp_rmem".parse().unwrap();
        assert_eq!(name.as_str(), "net.ipv4.tcp_rmem");
        assert_eq!(name.short(), "tcp_rmem");
        assert_eq!(name.path(), Path::new("/proc/sys/net/ipv4/tcp_rmem"));
        let full: SysctlName = "net.core.rmem_max".parse().unwrap();
        assert_eq!(full.path(), Path::new("/proc/sys/net/core/rmem_max"));
        assert_eq!(full.short(), "net.core.rmem_max");
    }

    #[test]
    fn slash_stands_for_a_dot_in_an_interface_name() {
        let name: SysctlName = "net.ipv4.conf.eth0/5.rp_filter".parse().unwrap();
        assert_eq!(name.path(), Path::new("/proc/sys/net/ipv4/conf/eth0.5/rp_filter"));
    }

    #[test]
    fn traversal_is_refused() {
        let bad = [
            "",
            ".",
            "..",
            "net..ipv4",
            "net./.x",
            "net.//.x",
            "net.ipv4.",
            "/etc/passwd",
            "//",
            "a b",
            "tcp\n",
            "net.ipv4.//.//.kernel",
            "net.ipv4.tcp\0rmem",
        ];
        for name in bad {
            assert!(name.parse::<SysctlName>().is_err(), "{name:?}");
        }
        assert!(matches!("kernel.panic".parse::<SysctlName>(), Err(SysctlError::NotNetwork { .. })));
    }

    #[test]
    fn no_accepted_name_leaves_the_tree() {
        for name in ["a/b", "net./x/.y", "net.x/../y", "net.ipv4.a//b", "///x"] {
            if let Ok(name) = name.parse::<SysctlName>() {
                let path = name.path();
                let plain = |part: std::path::Component<'_>| !matches!(part, std::path::Component::ParentDir);
                assert!(path.starts_with("/proc/sys/net") && path.components().all(plain), "{path:?}");
            }
        }
    }

    #[test]
    fn settings() {
        let (name, value) = parse_setting("tcp_rmem = 4096\t131072  6291456").unwrap();
        assert_eq!((name.short(), value.as_str()), ("tcp_rmem", "4096 131072 6291456"));
        assert!(parse_setting("tcp_rmem").is_err());
    }

    #[test]
    fn reading_needs_no_rights() {
        assert_eq!(read_numbers("tcp_rmem").unwrap().len(), 3);
        assert!(exists("tcp_rmem").unwrap());
        let error = write("tcp_no_such_thing", 1).unwrap_err().to_string();
        assert!(error.contains("net.ipv4.tcp_no_such_thing") && error.contains("\"1\""), "{error}");
    }
}
