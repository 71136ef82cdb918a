//! Scenarios and situations are data: some are compiled in and found by name, any other is given by its path.
//!
//! Every complaint names file, key, value and something that would do.

use std::borrow::Cow;
use std::path::Path;

use serde::de::DeserializeOwned;

/// Why a data file cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DataFileError {
    /// Nothing built in has the name.
    #[error("no {kind} `{name}`; there are {known}; for a file of your own give its path, ending in .toml")]
    Unknown {
        /// What it was to be.
        kind: &'static str,
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
    /// The file is too large.
    #[error("{file}: {size} bytes is more than a {kind} has; give one of at most {MAX_FILE} bytes")]
    TooLarge {
        /// What it was to be.
        kind: &'static str,
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

/// A key, its value, what is wrong with it, and what would do.
pub type Complaint = (String, String, String, String);

/// Makes a complaint.
pub fn complain(key: &str, value: impl ToString, why: &str, fix: impl ToString) -> Complaint {
    (key.to_owned(), value.to_string(), why.to_owned(), fix.to_string())
}

impl DataFileError {
    /// A complaint about a value in `file`.
    #[must_use]
    pub fn value(file: &str, (key, value, why, fix): Complaint) -> Self {
        DataFileError::Value { file: file.to_owned(), key, value, why, fix }
    }
}

/// The text of a built-in by name, or of a file by its path (anything with a `/`, or ending in `.toml`); and what to call it
/// in messages.
///
/// # Errors
/// There is none, or it cannot be read.
pub fn find(
    kind: &'static str,
    built_in: &[(&str, &'static str)],
    name_or_path: &str,
) -> Result<(String, Cow<'static, str>), DataFileError> {
    if let Some((name, text)) = built_in.iter().find(|(name, _)| *name == name_or_path) {
        return Ok((format!("{name} (built in)"), Cow::Borrowed(text)));
    }
    let is_toml = Path::new(name_or_path).extension().is_some_and(|e| e == "toml");
    if !is_toml && !name_or_path.contains('/') {
        let mut known: Vec<&str> = built_in.iter().map(|(name, _)| *name).collect();
        known.sort_by_key(|name| distance(name, name_or_path));
        return Err(DataFileError::Unknown { kind, name: name_or_path.to_owned(), known: known.join(", ") });
    }
    let file = name_or_path.to_owned();
    let read = |source| DataFileError::Read { file: file.clone(), source };
    let size = std::fs::metadata(&file).map_err(read)?.len();
    if size > MAX_FILE {
        return Err(DataFileError::TooLarge { kind, file, size });
    }
    let text = std::fs::read_to_string(&file).map_err(read)?;
    Ok((file, Cow::Owned(text)))
}

/// Reads TOML.
///
/// # Errors
/// Names the file, the line, the key and what is expected.
pub fn parse<T: DeserializeOwned>(file: &str, text: &str) -> Result<T, DataFileError> {
    toml::from_str(text).map_err(|e| DataFileError::Parse {
        file: file.to_owned(),
        message: e.to_string().trim_end().to_owned(),
    })
}

/// Is it a name: lower-case letters, digits and hyphens?
///
/// # Errors
/// The complaint, if it is not.
pub fn check_name(name: &str, example: &str) -> Result<(), Complaint> {
    let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if name.is_empty() || name.len() > 64 || !name.chars().all(good) {
        let why = "a name is 1 to 64 lower-case letters, digits and hyphens";
        return Err(complain("name", name, why, format!("for example {example}")));
    }
    Ok(())
}

/// Is it one line for a list?
///
/// # Errors
/// The complaint, if it is not.
pub fn check_about(about: &str) -> Result<(), Complaint> {
    if about.trim().is_empty() || about.contains('\n') {
        let why = "one line is needed for the list";
        return Err(complain("about", about, why, "what it shows, in one line"));
    }
    Ok(())
}

/// The largest file.
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
