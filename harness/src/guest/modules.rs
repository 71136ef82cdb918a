//! Kernel modules: which files, in which order.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// The flag of finit_module(2) by which the kernel decompresses a module itself.
const COMPRESSED_FILE: i32 = 4;

/// How a module's file may end.
const ENDINGS: [&str; 4] = [".ko", ".ko.xz", ".ko.zst", ".ko.gz"];

/// The files to load for module `name`, what it depends on before it, out of the text of a `modules.dep`. Empty if
/// it is not in there.
pub(super) fn load_order(dep: &str, name: &str) -> Vec<String> {
    fn visit<'a>(dep: &'a str, file: &'a str, seen: &mut BTreeSet<&'a str>, order: &mut Vec<String>) {
        // Seen before its own dependencies, so that a circle ends.
        if !seen.insert(file) {
            return;
        }
        let line = dep.lines().find_map(|l| l.split_once(':').filter(|(f, _)| f.trim() == file));
        // modules.dep names the last to be loaded first.
        for below in line.map_or("", |(_, below)| below).split_whitespace().rev() {
            // Half a million files deep is no kernel's tree.
            if seen.len() < 1_000 {
                visit(dep, below, seen, order);
            }
        }
        order.push(file.to_owned());
    }
    let mut order = Vec::new();
    let file = dep.lines().filter_map(|l| Some(l.split_once(':')?.0.trim())).find(|f| is_called(f, name));
    if let Some(file) = file {
        visit(dep, file, &mut BTreeSet::new(), &mut order);
    }
    order
}

/// Does a file hold the module? `-` and `_` are the same.
fn is_called(file: &str, name: &str) -> bool {
    let base = file.rsplit('/').next().unwrap_or(file);
    let stem = ENDINGS.iter().find_map(|e| base.strip_suffix(e));
    stem.is_some_and(|s| s.replace('-', "_") == name.replace('-', "_"))
}

/// The files to load for a module of the kernel whose modules are in `dir`; empty if it has none of that name.
/// `place` is where the file is if nothing was indexed.
pub(super) fn find(dir: &Path, name: &str, place: &str) -> Vec<PathBuf> {
    let dep = std::fs::read_to_string(dir.join("modules.dep")).unwrap_or_default();
    let order: Vec<_> = load_order(&dep, name).iter().map(|f| dir.join(f)).collect();
    if !order.is_empty() {
        return order;
    }
    let files = ENDINGS.iter().map(|e| dir.join(format!("{place}/{name}{e}")));
    files.filter(|f| f.is_file()).take(1).collect()
}

/// Loads one; one that is there already is fine.
pub(super) fn load(file: &Path) -> Result<(), String> {
    let opened = std::fs::File::open(file).map_err(|e| format!("module {}: {e}", file.display()))?;
    let compressed = file.extension().is_some_and(|e| e != "ko");
    let flags = if compressed { COMPRESSED_FILE } else { 0 };
    match rustix::system::finit_module(&opened, c"", flags) {
        Ok(()) | Err(rustix::io::Errno::EXIST) => Ok(()),
        Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::INVAL) if compressed => Err(format!(
            "module {}: this kernel does not decompress modules itself; decompress the file beside it",
            file.display()
        )),
        Err(e) => Err(format!(
            "module {}: {e}; it must be of the very build that was booted (unknown symbols: run depmod for its directory)",
            file.display()
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEP: &str = "kernel/a/top.ko.xz: kernel/b/mid.ko.xz kernel/c/low.ko.xz\nkernel/b/mid.ko.xz: kernel/c/low.ko.xz\nkernel/c/low.ko.xz:\nkernel/net/my-tun.ko:\nkernel/x/p.ko: kernel/x/q.ko\nkernel/x/q.ko: kernel/x/p.ko\nnonsense\n";

    #[test]
    fn what_is_below_comes_first() {
        assert_eq!(
            load_order(DEP, "top"),
            ["kernel/c/low.ko.xz", "kernel/b/mid.ko.xz", "kernel/a/top.ko.xz"]
        );
        assert_eq!(load_order(DEP, "low"), ["kernel/c/low.ko.xz"]);
        assert_eq!(load_order(DEP, "my_tun"), ["kernel/net/my-tun.ko"]);
        // The whole name, and nothing else.
        for name in ["", "to", "op", "none", "nonsense"] {
            assert!(load_order(DEP, name).is_empty(), "{name}");
        }
        // A circle ends.
        assert_eq!(load_order(DEP, "p"), ["kernel/x/q.ko", "kernel/x/p.ko"]);
    }

    #[test]
    fn without_an_index_the_usual_place_is_looked_at() {
        let dir = tempfile::tempdir().unwrap();
        assert!(find(dir.path(), "tun", "kernel/drivers/net").is_empty());
        let net = dir.path().join("kernel/drivers/net");
        std::fs::create_dir_all(&net).unwrap();
        std::fs::write(net.join("tun.ko.xz"), "").unwrap();
        assert_eq!(find(dir.path(), "tun", "kernel/drivers/net"), [net.join("tun.ko.xz")]);
        assert!(load(&dir.path().join("none.ko")).unwrap_err().contains("none.ko"));
    }
}
