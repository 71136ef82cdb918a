//! A baseline: what was found before, so that a change in a peer's behaviour shows as a difference.
//!
//! It holds what does not depend on the machine's mood: how each cell ended, which clauses were broken and which were not
//! settled. Figures and what was merely kept are not in it. What depends on chance, as where a segment is lost does, can come
//! out in more than one way: a cell then has several entries, and each is as before.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};

use super::judge::{End, Outcome};
use super::matrix::{CellReport, CellState};
use super::results::Results;
use crate::record::write_json;

/// The version of the format.
const FORMAT: u32 = 1;

/// What was found, by peer and situation.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Baseline {
    format: u32,
    /// The stacks, by their own account.
    stacks: BTreeMap<String, String>,
    /// Peer, situation, and what was found: once, or in several runs.
    cells: BTreeMap<String, BTreeMap<String, BTreeSet<Found>>>,
}

/// What was found in a cell.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Found {
    /// How it ended; none if it makes no sense.
    end: Option<End>,
    /// Clauses that were broken.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    broken: BTreeSet<String>,
    /// Clauses that were not settled.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    inconclusive: BTreeSet<String>,
}

impl Found {
    fn of(cell: &CellReport) -> Option<Self> {
        match &cell.state {
            CellState::Judged(j) => {
                let named = |outcome| {
                    let all = j.verdicts.iter().filter(move |v| v.outcome == outcome);
                    all.map(|v| v.clause.id.to_owned()).collect()
                };
                let (broken, inconclusive) = (named(Outcome::Broken), named(Outcome::Inconclusive));
                Some(Found { end: Some(j.end), broken, inconclusive })
            }
            CellState::NotApplicable { .. } => Some(Found::default()),
            // That it could not be run says nothing about the peer.
            CellState::Failed { .. } => None,
        }
    }
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(end) = self.end else { return f.write_str("not applicable") };
        let end = serde_json::to_value(end).ok();
        write!(f, "{}", end.as_ref().and_then(|v| v.as_str()).unwrap_or_default())?;
        for (what, ids) in [("broken", &self.broken), ("inconclusive", &self.inconclusive)] {
            if !ids.is_empty() {
                write!(f, ", {what}: {}", ids.iter().cloned().collect::<Vec<_>>().join(" "))?;
            }
        }
        Ok(())
    }
}

/// A cell that is not as it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The peer.
    pub peer: String,
    /// The situation.
    pub situation: String,
    /// What was found before, in one way or several.
    pub before: BTreeSet<Found>,
    /// What was found now.
    pub now: Found,
    /// The stacks, if they are not the same.
    pub stacks: Option<(String, String)>,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} / {}", self.peer, self.situation)?;
        let (was, is) = self
            .stacks
            .as_ref()
            .map_or_else(Default::default, |(before, now)| (format!("   [{before}]"), format!("   [{now}]")));
        for before in &self.before {
            writeln!(f, "  - {before}{was}")?;
        }
        writeln!(f, "  + {}{is}", self.now)
    }
}

/// What a comparison came to.
#[derive(Clone, Debug, Default)]
pub struct Comparison {
    /// Cells that are not as they were.
    pub changes: Vec<Change>,
    /// Cells that are as they were.
    pub same: usize,
    /// Cells that the baseline does not know.
    pub new: usize,
}

impl Baseline {
    /// The baseline of these results.
    #[must_use]
    pub fn of(results: &Results) -> Self {
        let mut b = Baseline { format: FORMAT, ..Baseline::default() };
        for cell in &results.cells {
            if let Some(found) = Found::of(cell) {
                let of_peer = b.cells.entry(cell.peer.clone()).or_default();
                of_peer.insert(cell.situation.clone(), BTreeSet::from([found]));
            }
        }
        for peer in results.peers() {
            b.stacks.insert(peer.to_owned(), results.stack(peer).to_owned());
        }
        b
    }

    /// Reads one.
    ///
    /// # Errors
    /// It cannot be read, or is none.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read(path)
            .with_context(|| format!("cannot read {}; --write-baseline makes one", path.display()))?;
        let b: Baseline =
            serde_json::from_slice(&text).with_context(|| format!("{} is no baseline", path.display()))?;
        if b.format != FORMAT {
            bail!(
                "{}: format {}; this program reads format {FORMAT}: write it anew with --write-baseline",
                path.display(),
                b.format
            );
        }
        Ok(b)
    }

    /// Writes it.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn write(&self, path: &Path) -> Result<()> {
        write_json(path, &serde_json::to_value(self).context("cannot turn the baseline into JSON")?)
    }

    /// Puts what is known of other cells beside this.
    #[must_use]
    pub fn with(mut self, older: Baseline) -> Self {
        for (peer, cells) in older.cells {
            let mine = self.cells.entry(peer).or_default();
            for (situation, found) in cells {
                mine.entry(situation).or_insert(found);
            }
        }
        for (peer, stack) in older.stacks {
            self.stacks.entry(peer).or_insert(stack);
        }
        self
    }

    /// Puts what is known beside what was found now: what came out in either way is as before from then on.
    #[must_use]
    pub fn widened(mut self, older: Baseline) -> Self {
        for (peer, cells) in &older.cells {
            for (situation, found) in cells {
                if let Some(mine) = self.cells.get_mut(peer).and_then(|p| p.get_mut(situation)) {
                    mine.extend(found.iter().cloned());
                }
            }
        }
        self.with(older)
    }

    /// Compares what was found now with this.
    #[must_use]
    pub fn compare(&self, now: &Baseline) -> Comparison {
        let mut c = Comparison::default();
        for (peer, cells) in &now.cells {
            for (situation, found) in cells {
                let before = self.cells.get(peer).and_then(|p| p.get(situation));
                match (before, found.difference(before.unwrap_or(&BTreeSet::new())).next()) {
                    (None, _) => c.new += 1,
                    (Some(_), None) => c.same += 1,
                    (Some(before), Some(found)) => {
                        let stacks = self.stacks.get(peer).cloned().zip(now.stacks.get(peer).cloned());
                        c.changes.push(Change {
                            peer: peer.clone(),
                            situation: situation.clone(),
                            before: before.clone(),
                            now: found.clone(),
                            stacks: stacks.filter(|(a, b)| a != b),
                        });
                    }
                }
            }
        }
        c
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::interop::judge::clauses;
    use crate::interop::testing::small_matrix;

    fn break_clause(results: &mut Results, peer: &str, situation: &str) {
        let cell = results.cells.iter_mut().find(|c| c.peer == peer && c.situation == situation).unwrap();
        let CellState::Judged(j) = &mut cell.state else { panic!("{cell:?}") };
        let v = j.verdicts.iter_mut().find(|v| *v.clause == clauses::DATA).unwrap();
        v.outcome = Outcome::Broken;
        "another stack".clone_into(&mut j.stack);
    }

    #[test]
    fn what_is_as_before_is_no_change() {
        let (dir, results) = small_matrix();
        let b = Baseline::of(&results);
        let path = dir.path().join("baseline.json");
        b.write(&path).unwrap();
        assert_eq!(Baseline::read(&path).unwrap(), b);
        let c = b.compare(&Baseline::of(&results));
        // All but the one that could not be run: that says nothing.
        assert_eq!((c.changes.len(), c.same, c.new), (0, results.cells.len() - 1, 0));
    }

    #[test]
    fn a_clause_that_breaks_is_a_change_with_both_sides() {
        let (_dir, mut results) = small_matrix();
        let before = Baseline::of(&results);
        break_clause(&mut results, "model", "window-one");
        let c = before.compare(&Baseline::of(&results));
        assert_eq!((c.changes.len(), c.changes[0].situation.as_str()), (1, "window-one"));
        let said = c.changes[0].to_string();
        let lines: Vec<_> = said.lines().collect();
        assert_eq!(lines[0], "model / window-one");
        assert!(lines[1].starts_with("  - complete"), "{said}");
        assert!(lines[2].starts_with("  + complete, broken: data"), "{said}");
        // And the way back is one, too.
        assert_eq!(Baseline::of(&results).compare(&before).changes.len(), 1);
    }

    #[test]
    fn another_version_of_a_stack_is_named_beside_its_change() {
        let (_dir, mut results) = small_matrix();
        let before = Baseline::of(&results);
        for situation in ["plain", "window-one", "zero-silent", "shrink-in-duplicates"] {
            break_clause(&mut results, "model", situation);
        }
        let c = before.compare(&Baseline::of(&results));
        assert_eq!(c.changes.len(), 4);
        assert!(c.changes[0].to_string().contains("[another stack]"), "{}", c.changes[0]);
    }

    #[test]
    fn cells_that_were_not_run_are_neither_lost_nor_changed() {
        let (_dir, results) = small_matrix();
        let all = Baseline::of(&results);
        let mut few = results.clone();
        few.cells.retain(|c| c.situation == "plain");
        let few = Baseline::of(&few);
        assert_eq!(few.clone().with(all.clone()), all);
        let c = all.compare(&few);
        assert_eq!((c.changes.len(), c.same, c.new), (0, 3, 0));
        assert_eq!(few.compare(&all).new, results.cells.len() - 1 - 3);
    }

    #[test]
    fn what_comes_out_in_two_ways_is_as_before_in_both() {
        let (_dir, mut results) = small_matrix();
        let one = Baseline::of(&results);
        break_clause(&mut results, "model", "window-one");
        let other = Baseline::of(&results);
        let both = other.clone().widened(one.clone());
        assert_eq!((both.compare(&one).changes.len(), both.compare(&other).changes.len()), (0, 0));
        // A third way is a change, and both that are known are named.
        let cell =
            results.cells.iter_mut().find(|c| c.peer == "model" && c.situation == "window-one").unwrap();
        let CellState::Judged(j) = &mut cell.state else { panic!("{cell:?}") };
        j.end = End::Reset;
        let c = both.compare(&Baseline::of(&results));
        let said = c.changes[0].to_string();
        assert_eq!(
            (c.changes.len(), said.lines().filter(|l| l.starts_with("  - ")).count()),
            (1, 2),
            "{said}"
        );
    }

    #[test]
    fn what_is_no_baseline_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("b.json");
        let e = format!("{:#}", Baseline::read(&path).unwrap_err());
        assert!(e.contains("--write-baseline") && e.contains("b.json"), "{e}");
        std::fs::write(&path, "{}").unwrap();
        assert!(format!("{:#}", Baseline::read(&path).unwrap_err()).contains("is no baseline"));
        std::fs::write(&path, r#"{"format": 7, "stacks": {}, "cells": {}}"#).unwrap();
        assert!(format!("{:#}", Baseline::read(&path).unwrap_err()).contains("format 7"));
    }
}
