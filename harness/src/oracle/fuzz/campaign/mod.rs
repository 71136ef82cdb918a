//! Many random scripts on several benches at once: counted, differences kept and made small, interrupted and resumed.
//!
//! | file | content |
//! |---|---|
//! | `state.json` | what a resumed campaign goes on from |
//! | `summary.json` | a [`Summary`] |
//! | `finding-INDEX/original.json` | the script that told a difference |
//! | `finding-INDEX/script.json` | the smallest one found that tells the same |
//! | `finding-INDEX/trace.jsonl`, `report.txt` | what the kernel did with it, and how that differs |

mod state;
mod work;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context as _, Result};

pub use self::state::{Finding, KindOf, Shrunk, Summary};
use self::state::{State, write_json};
use self::work::Shared;
use super::generate::Target;
use crate::oracle::script::Script;

/// So many findings of a kind are made small.
pub const SMALL_PER_KIND: usize = 3;

/// What became of a script.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Kernel and stack do the same.
    Clean {
        /// Operations compared.
        ops: u64,
    },
    /// They do not.
    Differs {
        /// What differs first, short: findings are grouped by it.
        what: String,
        /// All that is to be said.
        report: String,
        /// The kernel's trace.
        trace_jsonl: Vec<u8>,
    },
    /// The kernel's trace is not to be relied on, so nothing is known.
    NotRecorded {
        /// Why.
        why: String,
    },
}

/// Something that runs scripts on a kernel and compares.
pub trait Bench {
    /// Runs scripts and says of each what became of it. One that nothing is said of counts as not recorded.
    ///
    /// # Errors
    /// The bench cannot go on; what was said by then holds.
    fn run(&mut self, scripts: &[(u64, Script)], each: &mut dyn FnMut(u64, Verdict)) -> Result<()>;
}

/// What to run.
#[derive(Clone, Debug)]
pub struct Config {
    /// The kernel, as its traces name it. A campaign is about one.
    pub kernel: String,
    /// What scripts are made for.
    pub target: Target,
    /// Indexes below this are run.
    pub runs: u64,
    /// The seed.
    pub seed: u64,
    /// Scripts handed to a bench at once.
    pub batch: usize,
    /// Benches beside each other.
    pub jobs: usize,
    /// Where everything goes.
    pub out_dir: PathBuf,
    /// Goes on with the campaign that is in `out_dir`, if there is one.
    pub resume: bool,
    /// Without progress on stderr.
    pub quiet: bool,
}

/// Runs a campaign until it is complete or `stop` is set. `make` makes the bench of a job, and again when one broke.
///
/// # Errors
/// The directory cannot be written, holds another campaign, or benches keep breaking. What was done by then is kept
/// and can be resumed.
pub fn run<B: Bench>(
    config: &Config,
    stop: &Arc<AtomicBool>,
    make: &(dyn Fn(usize) -> Result<B> + Sync),
) -> Result<Summary> {
    let dir = &config.out_dir;
    std::fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let state = State::open(config)?;
    state.save(dir)?;
    let shared = Shared::new(config, stop, state);
    let jobs = config.jobs.max(1);
    let failed: Vec<anyhow::Error> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..jobs)
            .map(|job| {
                let shared = &shared;
                std::thread::Builder::new().name(format!("bench {job}")).spawn_scoped(scope, move || {
                    let result = work::work(shared, job, make);
                    if result.is_err() {
                        // The others would go on for hours before anyone reads what is wrong.
                        shared.abandon();
                    }
                    result
                })
            })
            .collect();
        workers
            .into_iter()
            .enumerate()
            .filter_map(|(job, worker)| {
                let broke = |_| anyhow::anyhow!("bench {job} broke down");
                match worker.context("cannot start a thread").map(|w| w.join().map_err(broke)) {
                    Ok(Ok(result)) => result.err(),
                    Ok(Err(e)) | Err(e) => Some(e),
                }
            })
            .collect()
    });
    let state = shared.finish();
    state.save(dir)?;
    let summary = state.summary();
    write_json(&dir.join("summary.json"), &summary)?;
    match failed.into_iter().next() {
        Some(e) if !stop.load(Ordering::Relaxed) => {
            Err(e.context(format!("the campaign in {} ended early; it can be resumed", dir.display())))
        }
        _ => Ok(summary),
    }
}

#[cfg(test)]
mod tests;
