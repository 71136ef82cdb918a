//! Which kernels there are, and recording on any of them.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use super::guest::{self, GuestError};
use super::live::{self, RecordError};
use super::script::Script;
use super::trace::Trace;

/// A kernel to record on.
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

/// Why nothing was recorded, or one script was not.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecorderError {
    /// On the kernel we run on, or reported by a guest.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// In a guest.
    #[error(transparent)]
    Guest(#[from] GuestError),
}

impl RecorderError {
    /// What kind of trouble this is, the same for every script that has it.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            RecorderError::Record(RecordError::Slips { .. }) => {
                "operations slipped past their ticks in every try"
            }
            RecorderError::Record(RecordError::CannotTake { .. }) => "the kernel does not take the script",
            RecorderError::Record(RecordError::NoConnection { .. }) => "no connection",
            RecorderError::Record(_) => "input or output failed",
            RecorderError::Guest(GuestError::Script { why, .. }) if why.contains("past their tick") => {
                "operations slipped past their ticks in every try"
            }
            RecorderError::Guest(GuestError::Script { why, .. }) if why.contains("does not take") => {
                "the kernel does not take the script"
            }
            RecorderError::Guest(GuestError::Script { why, .. }) if why.contains("no connection") => {
                "no connection"
            }
            RecorderError::Guest(GuestError::Ended { .. }) => "the guest died or fell silent",
            RecorderError::Guest(_) => "the guest failed",
        }
    }
}

/// Plays the scripts to `kernel` and hands over each trace, or why there is none.
///
/// # Errors
/// What keeps all scripts from being recorded.
pub fn record(
    kernel: &Kernel,
    scripts: &[Script],
    options: &Options,
    each: &mut (dyn FnMut(usize, Result<Trace, RecorderError>) + Send),
) -> Result<(), RecorderError> {
    match kernel {
        Kernel::Host => Ok(live::record_batch(scripts, options, &mut |i, r| each(i, r.map_err(Into::into)))?),
        Kernel::Uml(_) | Kernel::Qemu(_) => {
            Ok(guest::record_batch(kernel, scripts, options, &mut |i, r| each(i, r.map_err(Into::into)))?)
        }
    }
}

/// How to record.
#[derive(Clone, Debug)]
pub struct Options {
    /// How often a script is played when operations slip past their ticks.
    pub tries: u32,
    /// The command that records this again, for the header.
    pub command: Option<String>,
    /// Microseconds added to the phase of every operation, so that recorders beside each other do not meet.
    pub phase_us: u32,
    /// The kernel's configuration, where the kernel itself does not show it: where it was found, and its text.
    pub config: Option<(String, String)>,
    /// Set to end early; what is recorded by then is kept.
    pub stop: Arc<AtomicBool>,
}

impl Default for Options {
    fn default() -> Self {
        Options { tries: 5, command: None, phase_us: 0, config: None, stop: Arc::default() }
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
