//! Instructions instead of time: the same on a busy machine as on an idle one. Counted by valgrind, which runs this program.

use std::process::Command;

use anyhow::{Context as _, Result, bail};

use super::measure::{Measured, Unit};
use super::segment;

/// What is counted: a name that the hidden command takes, and the group of the figure.
pub const PATHS: [&str; 6] =
    ["in-order-1", "in-order-100", "in-order-1448", "rival-1", "rival-100", "rival-1448"];
/// Rounds of a count.
const ROUNDS: u32 = 8;

/// Does the work of a path, for the counter.
///
/// # Errors
/// There is no such path.
pub fn work(path: &str) -> Result<()> {
    let (kind, len) = path.rsplit_once('-').with_context(|| format!("path '{path}'"))?;
    let len = len.parse().with_context(|| format!("path '{path}'"))?;
    if !segment::repeat(kind, len, ROUNDS) {
        bail!("path '{path}': there are {}", PATHS.join(", "));
    }
    Ok(())
}

/// Instructions per segment of every path.
///
/// # Errors
/// valgrind is not installed, or fails.
pub fn count(each: &mut dyn FnMut(&str)) -> Result<Vec<Measured>> {
    let mut all = Vec::new();
    for path in PATHS {
        each(&format!("instructions/{path}"));
        let instructions = one(path)?;
        let (kind, len) = path.rsplit_once('-').unwrap_or((path, ""));
        all.push(Measured {
            group: format!("instructions/in-order-{len}"),
            case: if kind == "rival" { "smoltcp".to_owned() } else { "rightedge".to_owned() },
            unit: Unit::Instructions,
            per: "segment".to_owned(),
            rounds: vec![instructions as f64 / f64::from(ROUNDS * segment::BATCH)],
        });
    }
    all.sort_by(|a, b| a.group.cmp(&b.group));
    Ok(all)
}

fn one(path: &str) -> Result<u64> {
    let program = std::env::current_exe().context("cannot find this program")?;
    let out = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        // Only what a receiver does with its frames, and not how they are made.
        .arg("--toggle-collect=rightedge_benches::feed*")
        .arg(program)
        .args(["bench", "path", path])
        .output()
        .context("cannot run valgrind; to get it: apt-get install valgrind")?;
    let said = String::from_utf8_lossy(&out.stderr);
    let collected = said.lines().find_map(|l| l.split_once("Collected :"));
    let n = collected.and_then(|(_, n)| n.trim().parse().ok()).filter(|n| *n > 0);
    n.with_context(|| {
        format!("valgrind counted nothing for {path}: {}", said.lines().last().unwrap_or_default())
    })
}
