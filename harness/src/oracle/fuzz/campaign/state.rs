//! What a campaign knows, on disk after every batch, so that an interrupted one goes on exactly where it was.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};

use super::super::generate::{self, Target};
use super::Config;

/// The `format` of states written by this version.
const FORMAT: &str = "rightedge-fuzz/1";

/// Indexes as ranges, `[from, to)`, that neither overlap nor touch.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct Ranges(Vec<[u64; 2]>);

impl Ranges {
    pub(super) fn insert(&mut self, i: u64) {
        let k = self.0.partition_point(|r| r[1] < i);
        match self.0.get_mut(k) {
            Some(r) if r[0] <= i && i < r[1] => return,
            Some(r) if r[1] == i => r[1] = i.saturating_add(1),
            Some(r) if i.checked_add(1) == Some(r[0]) => r[0] = i,
            _ => self.0.insert(k, [i, i.saturating_add(1)]),
        }
        if let (Some(a), Some(b)) = (self.0.get(k).copied(), self.0.get(k + 1).copied())
            && a[1] == b[0]
        {
            self.0.remove(k + 1);
            if let Some(r) = self.0.get_mut(k) {
                r[1] = b[1];
            }
        }
    }

    pub(super) fn contains(&self, i: u64) -> bool {
        let k = self.0.partition_point(|r| r[1] <= i);
        self.0.get(k).is_some_and(|r| r[0] <= i)
    }

    /// The first index not in here, from `i` on.
    pub(super) fn first_missing(&self, i: u64) -> u64 {
        let k = self.0.partition_point(|r| r[1] <= i);
        self.0.get(k).filter(|r| r[0] <= i).map_or(i, |r| r[1])
    }

    pub(super) fn end(&self) -> u64 {
        self.0.last().map_or(0, |r| r[1])
    }

    fn sane(&self) -> bool {
        self.0.iter().all(|r| r[0] < r[1])
            && self.0.windows(2).all(|w| matches!(w, [a, b] if a.last() < b.first()))
    }
}

/// What became of making a finding small.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Shrunk {
    /// It is still to be done.
    Due,
    /// It was done.
    Done,
    /// There were enough of its kind.
    Not,
}

/// A script on which kernel and stack differ.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// Index of the script.
    pub index: u64,
    /// Its name.
    pub name: String,
    /// What differs first.
    pub what: String,
    /// Whether it was made small.
    pub shrunk: Shrunk,
}

/// Everything.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct State {
    format: String,
    generator: u32,
    pub(super) kernel: String,
    pub(super) target: Target,
    pub(super) seed: u64,
    pub(super) runs: u64,
    /// Indexes that came to an end, one or another.
    pub(super) done: Ranges,
    /// Not recorded at the first attempt, with why; there will be a second.
    pub(super) again: BTreeMap<u64, String>,
    /// Not recorded at the second attempt either.
    pub(super) not_recorded: BTreeMap<u64, String>,
    pub(super) clean: u64,
    pub(super) operations: u64,
    pub(super) findings: Vec<Finding>,
}

impl State {
    pub(super) fn new(config: &Config) -> Self {
        State {
            format: FORMAT.to_owned(),
            generator: generate::VERSION,
            kernel: config.kernel.clone(),
            target: config.target.clone(),
            seed: config.seed,
            runs: config.runs,
            done: Ranges::default(),
            again: BTreeMap::new(),
            not_recorded: BTreeMap::new(),
            clean: 0,
            operations: 0,
            findings: Vec::new(),
        }
    }

    fn path(dir: &Path) -> PathBuf {
        dir.join("state.json")
    }

    /// That of an interrupted campaign, or a new one.
    pub(super) fn open(config: &Config) -> Result<Self> {
        let path = Self::path(&config.out_dir);
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Self::new(config)),
            Err(e) => return Err(e).with_context(|| format!("cannot read {}", path.display())),
        };
        let shown = path.display();
        if !config.resume {
            bail!("{shown} is that of an earlier campaign; resume it, or give another directory");
        }
        let mut state: State = serde_json::from_str(&text)
            .with_context(|| format!("{shown} is no state of a campaign; give another directory"))?;
        let differs = |what: &str, was: &dyn std::fmt::Display, is: &dyn std::fmt::Display| {
            anyhow::anyhow!(
                "{shown}: the campaign had {what} {was}, this one has {is}; give the same, or another directory"
            )
        };
        if state.format != FORMAT {
            return Err(differs("format", &state.format, &FORMAT));
        }
        if state.generator != generate::VERSION {
            return Err(differs("generator", &state.generator, &generate::VERSION));
        }
        if state.seed != config.seed {
            return Err(differs("seed", &state.seed, &config.seed));
        }
        if state.kernel != config.kernel {
            return Err(differs("kernel", &state.kernel, &config.kernel));
        }
        if state.target != config.target {
            let text = |t: &Target| serde_json::to_string(t).unwrap_or_default();
            return Err(differs("target", &text(&state.target), &text(&config.target)));
        }
        if !state.done.sane() {
            bail!("{shown}: done is no list of ranges in order; give another directory");
        }
        let last = state.done.end().max(state.again.keys().next_back().map_or(0, |i| i.saturating_add(1)));
        if last > config.runs {
            return Err(differs("got to run", &last, &format!("only {} runs", config.runs)));
        }
        // More runs than before: it goes on.
        state.runs = config.runs;
        Ok(state)
    }

    pub(super) fn save(&self, dir: &Path) -> Result<()> {
        write_json(&Self::path(dir), self)
    }

    /// Scripts that came to an end, and those that wait for a second attempt.
    pub(super) fn attempted(&self, i: u64) -> bool {
        self.done.contains(i) || self.again.contains_key(&i)
    }

    /// How many findings of a kind are small, or will be.
    pub(super) fn small(&self, what: &str) -> usize {
        self.findings.iter().filter(|f| f.what == what && f.shrunk != Shrunk::Not).count()
    }

    pub(super) fn summary(&self) -> Summary {
        let mut kinds: BTreeMap<&str, Vec<u64>> = BTreeMap::new();
        for f in &self.findings {
            kinds.entry(&f.what).or_default().push(f.index);
        }
        let mut kinds: Vec<KindOf> = kinds
            .into_iter()
            .map(|(what, indexes)| {
                let indexes: BTreeSet<u64> = indexes.into_iter().collect();
                KindOf { what: what.to_owned(), count: indexes.len() as u64, indexes }
            })
            .collect();
        kinds.sort_by(|a, b| b.count.cmp(&a.count).then_with(|| a.what.cmp(&b.what)));
        let mut reasons = BTreeMap::new();
        for why in self.not_recorded.values().chain(self.again.values()) {
            *reasons.entry(why.clone()).or_insert(0) += 1;
        }
        let differs = self.findings.len() as u64;
        let not_recorded = (self.not_recorded.len() + self.again.len()) as u64;
        Summary {
            kernel: self.kernel.clone(),
            seed: self.seed,
            runs: self.runs,
            clean: self.clean,
            differs,
            not_recorded,
            operations: self.operations,
            complete: self.again.is_empty() && self.done.first_missing(0) >= self.runs,
            kinds,
            reasons,
        }
    }
}

/// What a campaign came to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// The kernel.
    pub kernel: String,
    /// The seed.
    pub seed: u64,
    /// Scripts that were asked for.
    pub runs: u64,
    /// Scripts without a difference.
    pub clean: u64,
    /// Scripts with one.
    pub differs: u64,
    /// Scripts that could not be recorded, so that nothing is known.
    pub not_recorded: u64,
    /// Operations of the scripts without a difference.
    pub operations: u64,
    /// Whether every script came to an end; if not, the campaign was interrupted.
    pub complete: bool,
    /// What differs, most frequent first.
    pub kinds: Vec<KindOf>,
    /// Why scripts were not recorded, and how many.
    pub reasons: BTreeMap<String, u64>,
}

/// Findings that differ in the same thing first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KindOf {
    /// What differs.
    pub what: String,
    /// How many scripts.
    pub count: u64,
    /// Their indexes.
    pub indexes: BTreeSet<u64>,
}

/// Writes a file that is either whole or as it was.
pub(super) fn write_json(path: &Path, value: &impl Serialize) -> Result<()> {
    let mut text = serde_json::to_vec_pretty(value).context("cannot write JSON")?;
    text.push(b'\n');
    let new = path.with_extension("json.new");
    let put = || -> std::io::Result<()> {
        let mut file = File::create(&new)?;
        file.write_all(&text)?;
        file.sync_all()?;
        fs::rename(&new, path)
    };
    put().with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_a_set() {
        let mut coin = 1u64;
        let mut set = BTreeSet::new();
        let mut ranges = Ranges::default();
        for _ in 0..500 {
            coin = coin.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let i = (coin >> 33) % 200;
            set.insert(i);
            ranges.insert(i);
            assert!(ranges.sane(), "{ranges:?}");
            for k in 0..202 {
                assert_eq!(ranges.contains(k), set.contains(&k), "{k} in {ranges:?}");
                assert_eq!(ranges.first_missing(k), (k..).find(|k| !set.contains(k)).unwrap());
            }
        }
        assert_eq!(ranges.end(), set.last().unwrap() + 1);
        ranges.insert(u64::MAX - 1);
        assert!(ranges.contains(u64::MAX - 1));
    }
}
