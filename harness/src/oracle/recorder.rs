//! Recording on any kernel.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use super::guest;
use super::live::{self, RecordError};
use super::script::Script;
use super::trace::Trace;
use crate::guest::{GuestError, Kernel};

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
