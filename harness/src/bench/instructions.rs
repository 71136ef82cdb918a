//! Instructions instead of time: the same on a busy machine as on an idle one. Counted by valgrind, which runs this program.

use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;

use anyhow::{Context as _, Result, anyhow};

use super::measure::{Measured, Unit};
use super::segment;

/// What is counted, of [`segment::GROUPS`].
const GROUPS: [&str; 5] = ["in-order-1", "in-order-100", "in-order-1448", "super-64k", "holes"];
/// Between a group and a case in what the hidden command takes.
const BEHIND: char = ':';

/// Does the work of a path, for the counter. Returns how many segments that was.
///
/// # Errors
/// There is no such path.
pub fn work(path: &str) -> Result<u64> {
    let (group, case) = path.split_once(BEHIND).unwrap_or((path, ""));
    segment::repeat(group, case).with_context(|| {
        let all: Vec<String> = paths().iter().map(|(g, c)| format!("{g}{BEHIND}{c}")).collect();
        format!("path '{path}': there are {}", all.join("; "))
    })
}

fn paths() -> Vec<(&'static str, String)> {
    let names = |group| segment::cases(group).into_iter().map(move |c| (group, c.name));
    GROUPS.into_iter().flat_map(names).collect()
}

/// Instructions per segment of every path in the groups that are `wanted`. Several are counted at a time, which does not
/// change what is counted.
///
/// # Errors
/// valgrind is not installed, or fails.
pub fn count(wanted: &dyn Fn(&str) -> bool, each: &mut dyn FnMut(&str)) -> Result<Vec<Measured>> {
    let paths: Vec<_> = paths().into_iter().filter(|(group, _)| wanted(group)).collect();
    let next = AtomicUsize::new(0);
    let (done, results) = mpsc::channel();
    let mut counted: Vec<(usize, f64)> = std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            let (paths, next, done) = (&paths, &next, done.clone());
            scope.spawn(move || {
                while let Some((at, (group, case))) =
                    Some(next.fetch_add(1, Ordering::Relaxed)).and_then(|at| Some((at, paths.get(at)?)))
                {
                    let result = one(&format!("{group}{BEHIND}{case}"));
                    let failed = result.is_err();
                    // Nobody listens any more once another has failed.
                    if done.send(result.map(|n| (at, n))).is_err() || failed {
                        break;
                    }
                }
            });
        }
        drop(done);
        results.iter().inspect(|_| each("instructions")).collect::<Result<_>>()
    })?;
    counted.sort_by_key(|(at, _)| *at);
    let measured = |(n, (group, case)): ((usize, f64), (&str, String))| Measured {
        group: format!("instructions/{group}"),
        case,
        unit: Unit::Instructions,
        per: segment::per(group).to_owned(),
        rounds: vec![n.1],
    };
    Ok(counted.into_iter().zip(paths).map(measured).collect())
}

/// Instructions per segment of one path.
fn one(path: &str) -> Result<f64> {
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
    let number = |text: &str| text.trim().parse::<f64>().ok().filter(|n| *n > 0.0);
    let collected = said.lines().find_map(|l| l.split_once("Collected :")).and_then(|(_, n)| number(n));
    let segments = number(&String::from_utf8_lossy(&out.stdout));
    collected.zip(segments).map(|(n, of)| n / of).ok_or_else(|| {
        anyhow!("valgrind counted nothing for {path}: {}", said.lines().last().unwrap_or_default())
    })
}
