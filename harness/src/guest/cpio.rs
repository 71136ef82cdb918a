//! An initramfs: a cpio archive in the `newc` format, as Documentation/driver-api/early-userspace/buffer-format.rst
//! of the kernel describes it.

use std::collections::BTreeSet;

const DIRECTORY: u32 = 0o040_755;
const FILE: u32 = 0o100_755;
const CHARACTER_DEVICE: u32 = 0o020_600;

/// An archive in memory.
#[derive(Debug, Default)]
pub(super) struct Archive {
    bytes: Vec<u8>,
    /// Numbers of the entries so far.
    entries: u32,
    directories: BTreeSet<String>,
}

/// What the format cannot hold.
pub(super) type TooLarge = std::num::TryFromIntError;

impl Archive {
    /// A file, executable by all, with the directories above it.
    pub(super) fn file(&mut self, path: &str, content: &[u8]) -> Result<(), TooLarge> {
        self.parents(path)?;
        self.entry(path, FILE, (0, 0), content)
    }

    /// A character device, with the directories above it.
    pub(super) fn device(&mut self, path: &str, major: u32, minor: u32) -> Result<(), TooLarge> {
        self.parents(path)?;
        self.entry(path, CHARACTER_DEVICE, (major, minor), &[])
    }

    /// The whole archive.
    pub(super) fn finish(mut self) -> Result<Vec<u8>, TooLarge> {
        self.entry("TRAILER!!!", 0, (0, 0), &[])?;
        Ok(self.bytes)
    }

    fn parents(&mut self, path: &str) -> Result<(), TooLarge> {
        let path = path.trim_start_matches('/');
        for (at, _) in path.match_indices('/') {
            let above = path.get(..at).unwrap_or_default();
            if self.directories.insert(above.to_owned()) {
                self.entry(above, DIRECTORY, (0, 0), &[])?;
            }
        }
        Ok(())
    }

    fn entry(&mut self, path: &str, mode: u32, device: (u32, u32), content: &[u8]) -> Result<(), TooLarge> {
        let name = path.trim_start_matches('/');
        self.entries = self.entries.wrapping_add(1);
        let name_size = u32::try_from(name.len())?.saturating_add(1);
        let size = u32::try_from(content.len())?;
        // inode, mode, uid, gid, links, mtime, size, device, its own number if it is one, name, no checksum.
        let fields = [self.entries, mode, 0, 0, 1, 0, size, 0, 0, device.0, device.1, name_size, 0];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(content);
        self.pad();
        Ok(())
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads it back: path, mode, size and where the content is.
    fn list(bytes: &[u8]) -> Vec<(String, u32, Vec<u8>)> {
        let mut entries = Vec::new();
        let mut at = 0;
        loop {
            assert_eq!(at % 4, 0);
            assert_eq!(&bytes[at..at + 6], b"070701");
            let head = at + 6;
            let field = |n: usize| {
                let from = head + 8 * n;
                usize::from_str_radix(std::str::from_utf8(&bytes[from..from + 8]).unwrap(), 16).unwrap()
            };
            let name_end = at + 110 + field(11);
            let name = std::str::from_utf8(&bytes[at + 110..name_end - 1]).unwrap();
            assert_eq!(bytes[name_end - 1], 0);
            let content = name_end.next_multiple_of(4);
            at = (content + field(6)).next_multiple_of(4);
            if name == "TRAILER!!!" {
                assert_eq!(at, bytes.len());
                return entries;
            }
            entries.push((name.to_owned(), field(1) as u32, bytes[content..content + field(6)].to_vec()));
        }
    }

    #[test]
    fn what_is_put_in_is_there_with_its_directories_before_it() {
        let mut a = Archive::default();
        a.file("/init", b"program").unwrap();
        a.device("dev/console", 5, 1).unwrap();
        a.file("/lib/x86/libc.so.6", b"").unwrap();
        a.file("lib/x86/libm.so.6", b"1234").unwrap();
        let all = list(&a.finish().unwrap());
        let names: Vec<_> = all.iter().map(|(n, m, _)| (n.as_str(), *m >> 12)).collect();
        assert_eq!(
            names,
            [
                ("init", 8),
                ("dev", 4),
                ("dev/console", 2),
                ("lib", 4),
                ("lib/x86", 4),
                ("lib/x86/libc.so.6", 8),
                ("lib/x86/libm.so.6", 8)
            ]
        );
        assert_eq!((all[0].2.as_slice(), all[6].2.as_slice()), (&b"program"[..], &b"1234"[..]));
        assert_eq!(list(&Archive::default().finish().unwrap()), []);
    }
}
