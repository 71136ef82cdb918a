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

use crate::datafile;

pub use expect::{Expect, Outcome, Quantity};
pub use reader::{Phase, ReadPattern, ReadSchedule};
pub use schema::{
    Clock, DriverSpec, Limits, OneOrMany, RealTime, Receiver, Route, Scenario, Sender, SocketOptions,
    SysctlValue,
};

/// Why a scenario cannot be used.
pub use crate::datafile::DataFileError as ScenarioError;

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
        let (file, text) = datafile::find("scenario", &BUILT_IN, name_or_path)?;
        Scenario::parse(&file, &text)
    }

    /// Reads and checks a scenario; `file` is for the messages.
    ///
    /// # Errors
    /// When the text is not a scenario, or a value cannot be used.
    pub fn parse(file: &str, text: &str) -> Result<Scenario, ScenarioError> {
        let s: Scenario = datafile::parse(file, text)?;
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
