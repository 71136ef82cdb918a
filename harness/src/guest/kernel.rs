//! Which kernels there are.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// A kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kernel {
    /// The one we run on.
    Host,
    /// User-mode-linux: a kernel in a process.
    Uml(PathBuf),
    /// A kernel image under QEMU.
    Qemu(PathBuf),
}

/// Where Debian puts user-mode-linux.
pub const UML: &str = "/usr/bin/linux.uml";

impl FromStr for Kernel {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            None if text == "host" => Ok(Kernel::Host),
            None if text == "uml" => Ok(Kernel::Uml(PathBuf::from(UML))),
            Some(("uml", path)) if !path.is_empty() => Ok(Kernel::Uml(PathBuf::from(path))),
            Some(("qemu", path)) if !path.is_empty() => Ok(Kernel::Qemu(PathBuf::from(path))),
            _ => Err(format!("kernel '{text}': give host, uml, uml:BINARY or qemu:IMAGE")),
        }
    }
}

impl fmt::Display for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Kernel::Host => f.write_str("host"),
            Kernel::Uml(p) if p.as_os_str() == UML => f.write_str("uml"),
            Kernel::Uml(p) => write!(f, "uml:{}", p.display()),
            Kernel::Qemu(p) => write!(f, "qemu:{}", p.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_have_names() {
        for name in ["host", "uml", "uml:/x/linux", "qemu:/boot/vmlinuz"] {
            assert_eq!(name.parse::<Kernel>().unwrap().to_string(), name);
        }
        for name in ["", "qemu", "qemu:", "uml:", "bsd"] {
            assert!(name.parse::<Kernel>().unwrap_err().contains("give host, uml"), "{name}");
        }
    }
}
