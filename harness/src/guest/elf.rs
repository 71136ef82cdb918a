//! Which files a program needs besides itself.

use std::path::{Path, PathBuf};
use std::process::Command;

const PT_INTERP: u32 = 3;
/// A program header of a 64-bit file.
const HEADER: u64 = 56;

/// A program without what is behind its last loaded segment: symbols and what debuggers read, which are most of it.
/// Anything that is no little-endian 64-bit ELF file stays as it is.
pub(super) fn loaded(mut content: Vec<u8>) -> Vec<u8> {
    const PT_LOAD: u32 = 1;
    let end = |file: &[u8]| -> Option<usize> {
        let at = |from: u64, n: usize| file.get(usize::try_from(from).ok()?..)?.get(..n);
        let u16_at = |from: u64| Some(u16::from_le_bytes(*at(from, 2)?.first_chunk()?));
        let u32_at = |from: u64| Some(u32::from_le_bytes(*at(from, 4)?.first_chunk()?));
        let u64_at = |from: u64| Some(u64::from_le_bytes(*at(from, 8)?.first_chunk()?));
        if at(0, 6)? != b"\x7fELF\x02\x01" {
            return None;
        }
        let (table, each, count) = (u64_at(32)?, u64::from(u16_at(54)?), u64::from(u16_at(56)?));
        let mut end = 64u64;
        for n in 0..count.min(1_000) {
            let header = table.checked_add(n.checked_mul(each.max(HEADER))?)?;
            end = end.max(header.checked_add(HEADER)?);
            if u32_at(header)? == PT_LOAD {
                end = end.max(u64_at(header.checked_add(8)?)?.checked_add(u64_at(header.checked_add(32)?)?)?);
            }
        }
        usize::try_from(end).ok().filter(|end| *end <= file.len())
    };
    if let Some(end) = end(&content) {
        content.truncate(end);
        // No table of sections any more: its place, and how many there are.
        for (from, to) in [(40, 48), (60, 64)] {
            if let Some(field) = content.get_mut(from..to) {
                field.fill(0);
            }
        }
    }
    content
}

/// The loader that a little-endian 64-bit ELF file names; `None` if it names none, or is no such file.
fn interpreter(file: &[u8]) -> Option<&str> {
    let at = |from: u64, n: usize| file.get(usize::try_from(from).ok()?..)?.get(..n);
    let u16_at = |from: u64| Some(u16::from_le_bytes(*at(from, 2)?.first_chunk()?));
    let u32_at = |from: u64| Some(u32::from_le_bytes(*at(from, 4)?.first_chunk()?));
    let u64_at = |from: u64| Some(u64::from_le_bytes(*at(from, 8)?.first_chunk()?));
    if at(0, 6)? != b"\x7fELF\x02\x01" {
        return None;
    }
    let (table, each, count) = (u64_at(32)?, u64::from(u16_at(54)?), u64::from(u16_at(56)?));
    for n in 0..count.min(1_000) {
        let header = table.checked_add(n.checked_mul(each.max(HEADER))?)?;
        if u32_at(header)? == PT_INTERP {
            let size = usize::try_from(u64_at(header.checked_add(32)?)?).ok()?;
            let text = at(u64_at(header.checked_add(8)?)?, size)?;
            return std::str::from_utf8(text).ok().map(|t| t.trim_end_matches('\0'));
        }
    }
    None
}

/// The loader and the libraries that the program at `path` with this content needs; none for a static one.
pub(super) fn libraries(path: &Path, content: &[u8]) -> Result<Vec<PathBuf>, String> {
    let Some(loader) = interpreter(content) else { return Ok(Vec::new()) };
    let run = Command::new(loader).arg("--list").arg(path).env_remove("LD_PRELOAD").output();
    let output = run.map_err(|e| format!("its loader {loader}: {e}"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(format!("its loader {loader} cannot list its libraries: {}", said.trim()));
    }
    let mut files = vec![PathBuf::from(loader)];
    files.extend(listed(&String::from_utf8_lossy(&output.stdout)));
    files.dedup();
    Ok(files)
}

/// The files in a loader's list: lines like `libc.so.6 => /lib/libc.so.6 (0x…)`.
fn listed(text: &str) -> Vec<PathBuf> {
    let file = |line: &str| {
        let right = line.split_once("=>").map_or(line, |(_, right)| right).trim();
        let path = right.split(" (0x").next()?;
        path.starts_with('/').then(|| PathBuf::from(path))
    };
    text.lines().filter_map(file).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_libraries_are_found() {
        let own = std::env::current_exe().unwrap();
        let content = std::fs::read(&own).unwrap();
        let files = libraries(&own, &content).unwrap();
        assert!(files.iter().all(|f| f.is_file()), "{files:?}");
        assert_eq!(interpreter(&content).is_some(), !files.is_empty());
    }

    #[test]
    fn what_is_not_loaded_is_not_needed() {
        let own = std::env::current_exe().unwrap();
        let content = std::fs::read(&own).unwrap();
        let whole = content.len();
        let small = loaded(content);
        assert!(small.len() < whole);
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("small");
        std::fs::write(&path, &small).unwrap();
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let out = Command::new(&path).arg("--list").output().unwrap();
        assert!(out.status.success() && out.stdout.len() > 100);
        assert_eq!(loaded(b"#!/bin/sh".to_vec()), b"#!/bin/sh");
        for len in 0..600 {
            let _ = loaded(small[..len].to_vec());
        }
    }

    #[test]
    fn a_damaged_file_names_no_loader() {
        let own = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        for len in (0..1_200).chain([own.len() / 2]) {
            let _ = interpreter(own.get(..len).unwrap());
        }
        for byte in 16..640 {
            for value in [0, 0x7f, 0xff] {
                let mut file = own.get(..4096.min(own.len())).unwrap().to_vec();
                file[byte] = value;
                let _ = interpreter(&file);
            }
        }
        assert_eq!(interpreter(b"#!/bin/sh\n"), None);
        assert_eq!(interpreter(b""), None);
    }

    #[test]
    fn lists_are_read() {
        let text = "\tlinux-vdso.so.1 (0x00007f)\n\tlibc.so.6 => /lib/x/libc.so.6 (0x00007f)\n\tlibnone.so => not found\n\t/lib64/ld.so.2 (0x00007f)\n";
        assert_eq!(listed(text), [Path::new("/lib/x/libc.so.6"), Path::new("/lib64/ld.so.2")]);
    }
}
