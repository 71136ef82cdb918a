//! `check DIRECTORY`: replays every recording; one line of JSON per recording that differs, and one that counts.

mod library;

fn main() -> anyhow::Result<()> {
    let dir = std::env::args_os().nth(1).ok_or_else(|| anyhow::anyhow!("give a directory of recordings"))?;
    let check = library::check(std::path::Path::new(&dir))?;
    for d in &check.differing {
        println!("{}", serde_json::json!({"name": d.name, "first": d.first, "file": d.file}));
    }
    println!("{}", serde_json::json!({"recordings": check.recordings, "records": check.records}));
    Ok(())
}
