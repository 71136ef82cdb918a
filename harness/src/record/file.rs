//! A file that grows by whole records only.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

/// Collects records in memory and hands them to the operating system in one piece, so that a process killed between
/// two flushes leaves a file that ends where a record ends.
#[derive(Debug)]
pub struct RecordFile {
    path: PathBuf,
    file: File,
    pending: Vec<u8>,
    total: u64,
}

impl RecordFile {
    /// Creates it, or empties it.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn create(path: &Path) -> Result<Self> {
        let path = path.to_owned();
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .open(&path)
            .with_context(|| format!("cannot create {}", path.display()))?;
        Ok(RecordFile { path, file, pending: Vec::new(), total: 0 })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes accepted so far, flushed or not.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.total
    }

    /// Lets `write` append one or more whole records.
    pub fn append(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        let before = self.pending.len();
        write(&mut self.pending);
        let more = self.pending.len().saturating_sub(before);
        self.total = self.total.saturating_add(more as u64);
    }

    /// Bytes that wait for a flush.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.pending.len()
    }
}

impl Write for RecordFile {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.pending.extend_from_slice(buf);
        self.total = self.total.saturating_add(buf.len() as u64);
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        let mut done = 0;
        let result = loop {
            match self.pending.get(done..) {
                None | Some([]) => break Ok(()),
                Some(rest) => match self.file.write(rest) {
                    Ok(0) => break Err(io::ErrorKind::WriteZero.into()),
                    Ok(n) => done += n,
                    Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                    Err(e) => break Err(e),
                },
            }
        };
        self.pending.drain(..done.min(self.pending.len()));
        result
    }
}

impl Drop for RecordFile {
    fn drop(&mut self) {
        // Whoever wanted to hear of an error has flushed before.
        let _ = self.flush();
    }
}

/// Writes a small file in one step: readers see the old content or the new, never half of it.
///
/// # Errors
/// It cannot be written.
pub fn write_json(path: &Path, value: &serde_json::Value) -> Result<()> {
    let mut text = serde_json::to_vec_pretty(value).context("cannot turn the value into JSON")?;
    text.push(b'\n');
    let dir = path.parent().unwrap_or(Path::new("."));
    let mut tmp = tempfile::Builder::new()
        .prefix(".rightedge-")
        .tempfile_in(dir)
        .with_context(|| format!("cannot create a file in {}", dir.display()))?;
    tmp.write_all(&text).with_context(|| format!("cannot write {}", path.display()))?;
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        // tempfile makes private files; results are meant to be shared like the other files of the run.
        let mode = std::fs::Permissions::from_mode(0o644);
        tmp.as_file().set_permissions(mode).with_context(|| format!("cannot write {}", path.display()))?;
    }
    tmp.persist(path).with_context(|| format!("cannot replace {}", path.display()))?;
    Ok(())
}
