//! The library of recordings as a whole: every one of them replayed.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use rightedge::oracle::diff;
use rightedge::oracle::replay::{profile_of, replay};
use rightedge::oracle::trace::Trace;

/// The checkout.
#[must_use]
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// Packed recordings below a directory, in order.
///
/// # Errors
/// What the system said.
pub fn files(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut out = Vec::new();
    let mut below = std::fs::read_dir(dir)?.map(|e| e.map(|e| e.path())).collect::<io::Result<Vec<_>>>()?;
    below.sort();
    for path in below {
        if path.is_dir() {
            out.extend(files(&path)?);
        } else if path.to_str().is_some_and(|p| p.ends_with(".jsonl.gz")) {
            out.push(path);
        }
    }
    Ok(out)
}

/// A recording that the stack does not answer as its kernel did.
#[derive(Clone, Debug)]
pub struct Differing {
    /// Its file.
    pub file: PathBuf,
    /// Its script.
    pub name: String,
    /// What kind of divergence it is.
    pub key: String,
    /// The first record that differs.
    pub record: u64,
    /// The first field, and both values.
    pub first: String,
}

/// What replaying all of them says.
#[derive(Clone, Debug, Default)]
pub struct Check {
    /// Recordings.
    pub recordings: u64,
    /// Records in them.
    pub records: u64,
    /// Those that differ.
    pub differing: Vec<Differing>,
}

impl Check {
    /// The line for the docs.
    #[must_use]
    pub fn count(&self) -> String {
        format!(
            "{} recordings, {} records, {} divergences",
            self.recordings,
            self.records,
            self.differing.len()
        )
    }

    /// All that differs, grouped by kind.
    #[must_use]
    pub fn text(&self) -> String {
        let mut kinds: BTreeMap<&str, Vec<&Differing>> = BTreeMap::new();
        for d in &self.differing {
            kinds.entry(&d.key).or_default().push(d);
        }
        let mut s = format!("{}\n", self.count());
        for (key, all) in kinds {
            s.push_str(&format!("{} × {key}\n", all.len()));
            for d in all {
                let place = d.file.parent().and_then(Path::file_name).unwrap_or_default();
                s.push_str(&format!(
                    "    {} on {}, record {}: {}\n",
                    d.name,
                    place.display(),
                    d.record,
                    d.first
                ));
            }
        }
        s.push_str("rightedge oracle check tests/recordings --long says more.\n");
        s
    }
}

/// Replays every recording below a directory.
///
/// # Errors
/// A recording cannot be read, or asks for what the stack does not have.
pub fn check(dir: &Path) -> Result<Check> {
    let mut out = Check::default();
    for file in files(dir).with_context(|| dir.display().to_string())? {
        for t in Trace::load(&file)? {
            let ours = replay(&t, &profile_of(&t, None)?, false)
                .with_context(|| format!("{}: {}", file.display(), t.name()))?;
            let all = diff::compare(&t, &ours.trace);
            out.recordings += 1;
            out.records += t.records.len() as u64;
            if let Some(first) = all.first() {
                out.differing.push(Differing {
                    file: file.clone(),
                    name: t.name().to_owned(),
                    key: diff::key(&all),
                    record: first.record,
                    first: first.to_string(),
                });
            }
        }
    }
    Ok(out)
}
