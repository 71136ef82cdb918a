//! Scenarios: named experiments as data. The built-in ones are the files of `scenarios/`, compiled in; any other is given
//! by its path.
//!
//! Reading goes through three sieves: the TOML syntax, the schema (unknown keys are refused), and [`Scenario::load`]'s
//! checks against what the stack knows. Every complaint names file, key, value and something that would do.

mod build;
mod check;
pub mod expect;
pub mod reader;
mod schema;
#[cfg(test)]
mod tests;
pub mod units;

use std::path::Path;

pub use expect::{Expect, Outcome, Quantity};
pub use reader::{Phase, ReadPattern, ReadSchedule};
pub use schema::{
    Clock, DriverSpec, Limits, OneOrMany, RealTime, Receiver, Route, Scenario, Sender, SocketOptions,
    SysctlValue,
};

/// Why a scenario cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ScenarioError {
    /// No built-in scenario has the name.
    #[error("no scenario `{name}`; there are {known}; for a file of your own give its path, ending in .toml")]
    Unknown {
        /// The name given.
        name: String,
        /// The names there are, the nearest first.
        known: String,
    },
    /// The file cannot be read.
    #[error("{file}: cannot read it: {source}; check the path")]
    Read {
        /// The path.
        file: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file is too large to be a scenario.
    #[error("{file}: {size} bytes is more than a scenario has; give one of at most {MAX_FILE} bytes")]
    TooLarge {
        /// The path.
        file: String,
        /// Its size.
        size: u64,
    },
    /// The text is no TOML, or a key or a type is wrong.
    #[error("{file}: {message}")]
    Parse {
        /// The file.
        file: String,
        /// Line, key and what is expected.
        message: String,
    },
    /// A value cannot be used.
    #[error("{file}: {key} = `{value}`: {why}; write {fix}")]
    Value {
        /// The file.
        file: String,
        /// The key, from the top of the file.
        key: String,
        /// The value as read.
        value: String,
        /// What is wrong.
        why: String,
        /// What would do.
        fix: String,
    },
}

impl Scenario {
    /// The built-in scenarios that are fit to use, in the order of [`BUILT_IN`].
    #[must_use]
    pub fn list() -> Vec<Scenario> {
        BUILT_IN.iter().filter_map(|(name, text)| Scenario::parse(name, text).ok()).collect()
    }

    /// Loads a built-in scenario by name, or a file by its path (anything with a `/`, or ending in `.toml`).
    ///
    /// # Errors
    /// When there is none, it cannot be read, or it is wrong.
    pub fn load(name_or_path: &str) -> Result<Scenario, ScenarioError> {
        if let Some((name, text)) = BUILT_IN.iter().find(|(name, _)| *name == name_or_path) {
            return Scenario::parse(&format!("{name} (built in)"), text);
        }
        let is_toml = Path::new(name_or_path).extension().is_some_and(|e| e == "toml");
        if !is_toml && !name_or_path.contains('/') {
            let mut known: Vec<&str> = BUILT_IN.iter().map(|(name, _)| *name).collect();
            known.sort_by_key(|name| distance(name, name_or_path));
            return Err(ScenarioError::Unknown { name: name_or_path.to_owned(), known: known.join(", ") });
        }
        let file = name_or_path.to_owned();
        let read = |source| ScenarioError::Read { file: file.clone(), source };
        let size = std::fs::metadata(&file).map_err(read)?.len();
        if size > MAX_FILE {
            return Err(ScenarioError::TooLarge { file, size });
        }
        let text = std::fs::read_to_string(&file).map_err(read)?;
        Scenario::parse(&file, &text)
    }

    /// Reads and checks a scenario; `file` is for the messages.
    ///
    /// # Errors
    /// When the text is not a scenario, or a value cannot be used.
    pub fn parse(file: &str, text: &str) -> Result<Scenario, ScenarioError> {
        let s: Scenario = toml::from_str(text).map_err(|e| ScenarioError::Parse {
            file: file.to_owned(),
            message: e.to_string().trim_end().to_owned(),
        })?;
        check::check(file, &s)?;
        Ok(s)
    }
}

/// Names and texts of the built-in scenarios.
pub const BUILT_IN: [(&str, &str); 5] = [
    ("fill-64k-aws0", include_str!("../../../scenarios/fill-64k-aws0.toml")),
    ("fill-64k-aws1", include_str!("../../../scenarios/fill-64k-aws1.toml")),
    ("spaghetti", include_str!("../../../scenarios/spaghetti.toml")),
    ("never-reads", include_str!("../../../scenarios/never-reads.toml")),
    ("unbounded-wscale13", include_str!("../../../scenarios/unbounded-wscale13.toml")),
];

/// The largest scenario file.
const MAX_FILE: u64 = 1 << 20;

/// Edits that turn one name into the other; names are short, and a long one is cut.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().take(64).collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().take(64).enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        for (cell, cb) in row.iter_mut().skip(1).zip(&b) {
            let best = (diagonal + usize::from(ca != *cb)).min(left + 1).min(*cell + 1);
            diagonal = core::mem::replace(cell, best);
            left = best;
        }
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
    }
    row.last().copied().unwrap_or(0)
}
