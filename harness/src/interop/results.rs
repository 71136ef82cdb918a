//! What a matrix leaves: `results.json`, and beside every capture the cell it belongs to, written as soon as it is over.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};

use super::judge::clauses;
use super::matrix::{CellReport, CellState, Judged, slug};
use super::sequence::Sequence;
use super::situation::Situation;
use crate::record::write_json;

/// The version of the format; it changes when a reader of the old one would be misled.
pub const FORMAT: u32 = 1;

/// File names in the directory of a matrix.
pub mod names {
    /// Everything, for programs.
    pub const RESULTS: &str = "results.json";
    /// The matrix as text.
    pub const TEXT: &str = "matrix.txt";
    /// The page.
    pub const HTML: &str = "report.html";
    /// For CI servers.
    pub const JUNIT: &str = "junit.xml";
}

/// A whole matrix.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Results {
    /// [`FORMAT`].
    pub format: u32,
    /// The version of the program.
    pub version: String,
    /// The kernel it ran on.
    pub machine: String,
    /// When it was begun, seconds since 1970.
    pub began: u64,
    /// How long it took, seconds.
    pub seconds: f64,
    /// It was not interrupted.
    pub complete: bool,
    /// Seed of the receiver's numbers and of the links.
    pub seed: u64,
    /// The columns.
    pub situations: Vec<Column>,
    /// The cells, row by row.
    pub cells: Vec<CellReport>,
}

/// A column.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Column {
    /// Name of the situation.
    pub name: String,
    /// In one line.
    pub about: String,
    /// In a paragraph.
    pub explain: String,
    /// Clauses it is made for.
    pub clauses: Vec<String>,
}

impl From<&Situation> for Column {
    fn from(s: &Situation) -> Self {
        Column {
            name: s.name.clone(),
            about: s.about.clone(),
            explain: s.explain.trim().to_owned(),
            clauses: s.clauses.clone(),
        }
    }
}

impl Results {
    /// Results without cells.
    #[must_use]
    pub fn new(situations: &[Situation], seed: u64) -> Self {
        let began = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.as_secs());
        let uname = rustix::system::uname();
        Results {
            format: FORMAT,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            machine: format!(
                "Linux {} {}",
                uname.release().to_string_lossy(),
                uname.machine().to_string_lossy()
            ),
            began,
            seconds: 0.0,
            complete: false,
            seed,
            situations: situations.iter().map(Column::from).collect(),
            cells: Vec::new(),
        }
    }

    /// The rows, in the order of their first cells.
    #[must_use]
    pub fn peers(&self) -> Vec<&str> {
        let mut peers: Vec<&str> = Vec::new();
        for c in &self.cells {
            if !peers.contains(&c.peer.as_str()) {
                peers.push(&c.peer);
            }
        }
        peers
    }

    /// One cell.
    #[must_use]
    pub fn cell(&self, peer: &str, situation: &str) -> Option<&CellReport> {
        self.cells.iter().find(|c| c.peer == peer && c.situation == situation)
    }

    /// Name and version of a peer's stack, by its own account.
    #[must_use]
    pub fn stack(&self, peer: &str) -> &str {
        let cells = self.cells.iter().filter(|c| c.peer == peer);
        cells.filter_map(|c| c.judged()).map(|j| j.stack.as_str()).find(|s| !s.is_empty()).unwrap_or_default()
    }

    /// Every broken clause: the cell, what was found, and the clause.
    pub fn findings(&self) -> impl Iterator<Item = (&CellReport, &Judged, &super::judge::Verdict)> {
        let judged = self.cells.iter().filter_map(|c| Some((c, c.judged()?)));
        judged.flat_map(|(c, j)| {
            let broken = j.verdicts.iter().filter(|v| v.outcome == super::judge::Outcome::Broken);
            broken.map(move |v| (c, j, v))
        })
    }

    /// As JSON, with the table of the clauses and without the points of the diagrams, which are in the files of the cells.
    ///
    /// # Errors
    /// It cannot be put into JSON.
    pub fn to_json(&self) -> Result<serde_json::Value> {
        let mut slim = self.clone();
        for cell in &mut slim.cells {
            if let CellState::Judged(j) = &mut cell.state {
                j.sequence = Sequence::default();
            }
        }
        let mut value = serde_json::to_value(slim).context("cannot turn the results into JSON")?;
        if let Some(object) = value.as_object_mut() {
            let table: Vec<_> = clauses::ALL.iter().map(|c| serde_json::json!(c)).collect();
            object.insert("clauses".to_owned(), table.into());
        }
        Ok(value)
    }

    /// Writes `results.json`.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn write(&self, dir: &Path) -> Result<()> {
        write_json(&dir.join(names::RESULTS), &self.to_json()?)
    }

    /// Reads what a matrix left: its `results.json`, or, if it was killed before it could write that, its cells.
    ///
    /// # Errors
    /// There is nothing of the kind, or it is damaged.
    pub fn read(dir: &Path) -> Result<Self> {
        let path = dir.join(names::RESULTS);
        if path.is_file() {
            let text = std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
            let mut r: Results = serde_json::from_slice(&text)
                .with_context(|| format!("{}: no results of a matrix", path.display()))?;
            if r.format != FORMAT {
                bail!("{}: format {}; this program reads format {FORMAT}", path.display(), r.format);
            }
            for cell in &mut r.cells {
                // A cell whose file is gone has no diagram, and its verdicts all the same.
                if let CellState::Judged(j) = &mut cell.state
                    && let Ok(text) = std::fs::read(cell_path(dir, &cell.peer, &cell.situation))
                    && let Ok(CellReport { state: CellState::Judged(drawn), .. }) =
                        serde_json::from_slice(&text)
                {
                    j.sequence = drawn.sequence;
                }
            }
            return Ok(r);
        }
        let mut r = Results::new(&Situation::list(), 0);
        r.cells = cells(dir)?;
        if r.cells.is_empty() {
            bail!(
                "{}: no results of a matrix; give the directory that `rightedge interop` named",
                dir.display()
            );
        }
        r.situations.retain(|s| r.cells.iter().any(|c| c.situation == s.name));
        Ok(r)
    }
}

/// Writes a cell beside its capture.
///
/// # Errors
/// It cannot be written.
pub fn write_cell(dir: &Path, cell: &CellReport) -> Result<()> {
    let path = cell_path(dir, &cell.peer, &cell.situation);
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    }
    let value = serde_json::to_value(cell).context("cannot turn a cell into JSON")?;
    write_json(&path, &value)
}

fn cell_path(dir: &Path, peer: &str, situation: &str) -> PathBuf {
    dir.join(slug(peer)).join(format!("{situation}.json"))
}

fn cells(dir: &Path) -> Result<Vec<CellReport>> {
    let list = |dir: &Path| -> Result<Vec<std::path::PathBuf>> {
        let entries = std::fs::read_dir(dir).with_context(|| format!("cannot read {}", dir.display()))?;
        let mut all: Vec<_> = entries.flatten().map(|e| e.path()).collect();
        all.sort();
        Ok(all)
    };
    let mut cells = Vec::new();
    for sub in list(dir)?.iter().filter(|p| p.is_dir()) {
        for file in list(sub)?.iter().filter(|p| p.extension().is_some_and(|e| e == "json")) {
            let text = std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
            // What is no cell is somebody else's.
            if let Ok(cell) = serde_json::from_slice(&text) {
                cells.push(cell);
            }
        }
    }
    Ok(cells)
}

/// A cell in a character: `.` clean, `S` a SHOULD broken, `M` a MUST broken, `?` not settled, `-` makes no sense, `!`
/// could not be run.
#[must_use]
pub fn glyph(state: &CellState) -> char {
    use super::judge::Overall;
    match state {
        CellState::Judged(j) => match j.overall {
            Overall::Clean => '.',
            Overall::Inconclusive => '?',
            Overall::Should => 'S',
            Overall::Must => 'M',
        },
        CellState::NotApplicable { .. } => '-',
        CellState::Failed { .. } => '!',
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::interop::testing::small_matrix;

    #[test]
    fn results_are_read_as_they_were_written_and_diagrams_come_from_the_cells() {
        let (dir, results) = small_matrix();
        results.write(dir.path()).unwrap();
        let text = std::fs::read_to_string(dir.path().join(names::RESULTS)).unwrap();
        assert!(!text.contains("\"sequence\"") && text.contains("\"MUST-34\""));
        let read = Results::read(dir.path()).unwrap();
        assert_eq!(serde_json::to_value(&read).unwrap(), serde_json::to_value(&results).unwrap());
        assert!(!read.cell("model", "window-one").unwrap().judged().unwrap().sequence.is_empty());
        // Without the file of a cell its verdicts remain.
        std::fs::remove_file(dir.path().join("model/window-one.json")).unwrap();
        let read = Results::read(dir.path()).unwrap();
        let cell = read.cell("model", "window-one").unwrap().judged().unwrap();
        assert!(cell.sequence.is_empty() && !cell.verdicts.is_empty());
    }

    #[test]
    fn what_was_killed_is_read_from_its_cells() {
        let (dir, results) = small_matrix();
        let read = Results::read(dir.path()).unwrap();
        assert!(!read.complete);
        assert_eq!(read.cells.len(), results.cells.len());
        for c in &results.cells {
            let again = read.cell(&c.peer, &c.situation).unwrap();
            assert_eq!(serde_json::to_value(again).unwrap(), serde_json::to_value(c).unwrap());
        }
    }

    #[test]
    fn what_is_no_matrix_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let e = format!("{:#}", Results::read(dir.path()).unwrap_err());
        assert!(e.contains("no results of a matrix"), "{e}");
        std::fs::write(dir.path().join(names::RESULTS), "{\"format\": ").unwrap();
        let e = format!("{:#}", Results::read(dir.path()).unwrap_err());
        assert!(e.contains("results.json"), "{e}");
        let (dir, results) = small_matrix();
        Results { format: 99, ..results }.write(dir.path()).unwrap();
        let e = format!("{:#}", Results::read(dir.path()).unwrap_err());
        assert!(e.contains("format 99"), "{e}");
    }

    #[test]
    fn a_cell_is_a_character() {
        let (_dir, results) = small_matrix();
        let of = |peer: &str, situation: &str| glyph(&results.cell(peer, situation).unwrap().state);
        assert_eq!(of("model", "window-one"), '.');
        assert_eq!(of("bad:never-probes", "zero-silent"), 'M');
        assert_eq!(of("bad:keeps-window", "shrink-in-duplicates"), 'M');
        assert_eq!(of("model,wscale=14", "natural-unscaled"), '-');
        assert_eq!(of("exec:nothing", "window-one"), '!');
    }
}
