//! The matrix for terminals, and what was found, in words.

use std::fmt::Write as _;

use comfy_table::{Attribute, Cell, CellAlignment, Color, ContentArrangement, Table, presets};

use super::judge::clauses::Level;
use super::judge::{Outcome, Verdict, span};
use super::matrix::{CellReport, CellState, Judged};
use super::results::{Results, glyph};

/// The matrix: a row per peer, a narrow column per situation, and a legend. Colours go away where they are not wanted.
#[must_use]
pub fn matrix(results: &Results) -> String {
    let mut table = Table::new();
    table.load_style(presets::UTF8_HORIZONTAL_ONLY).set_content_arrangement(ContentArrangement::Disabled);
    table.force_no_tty();
    let number = |i: usize| Cell::new(format!("{:>2}", i + 1)).set_alignment(CellAlignment::Right);
    let mut head = vec![Cell::new("peer")];
    head.extend((0..results.situations.len()).map(number));
    table.set_header(head);
    for peer in results.peers() {
        let mut row = vec![Cell::new(short(peer))];
        for s in &results.situations {
            let cell = results.cell(peer, &s.name);
            let g = cell.map_or(' ', |c| glyph(&c.state));
            row.push(coloured(g));
        }
        table.add_row(row);
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 1));
    }
    table.enforce_styling();
    let mut out = format!("{table}\n\n");
    for (i, s) in results.situations.iter().enumerate() {
        let _ = writeln!(out, "  {:>2} {:<22} {}", i + 1, s.name, s.about);
    }
    out += "\n  . clean   S a SHOULD is broken   M a MUST is broken   ? not settled   - makes no sense here   ! could not be run\n";
    out
}

/// `qemu:kernels/5.10/vmlinuz` is long for a row.
fn short(peer: &str) -> String {
    peer.replace("net.ipv4.", "")
}

fn coloured(g: char) -> Cell {
    let cell = Cell::new(format!("{g:>2}"));
    match g {
        'M' | '!' => cell.fg(Color::Red).add_attribute(Attribute::Bold),
        'S' => cell.fg(Color::Yellow),
        '?' => cell.fg(Color::Cyan),
        '.' => cell.fg(Color::Green),
        _ => cell,
    }
}

/// What was found, peer by peer: each broken clause once, with where it shows.
#[must_use]
pub fn findings(results: &Results) -> String {
    let mut out = String::new();
    for peer in results.peers() {
        let of_peer: Vec<_> = results.findings().filter(|(c, ..)| c.peer == peer).collect();
        let failed: Vec<_> = results
            .cells
            .iter()
            .filter(|c| c.peer == peer)
            .filter_map(|c| if let CellState::Failed { why } = &c.state { Some((c, why)) } else { None })
            .collect();
        if of_peer.is_empty() && failed.is_empty() {
            continue;
        }
        let _ = writeln!(out, "{peer}  [{}]", results.stack(peer));
        let mut clauses: Vec<_> = of_peer.iter().map(|(_, _, v)| v.clause).collect();
        clauses.sort_by_key(|c| (std::cmp::Reverse(c.level), c.id));
        clauses.dedup();
        for clause in clauses {
            let _ =
                writeln!(out, "  {} {} ({}): {}", clause.level.word(), clause.id, clause.source, clause.duty);
            for (cell, judged, v) in of_peer.iter().filter(|(_, _, v)| v.clause == clause) {
                let _ = writeln!(out, "    {:<22} {} [{}]", cell.situation, v.words, place(judged, v));
            }
        }
        for (cell, why) in failed {
            let _ = writeln!(out, "  ! {:<20} {}", cell.situation, first_line(why));
        }
        out.push('\n');
    }
    if out.is_empty() {
        out.push_str("No clause was found broken.\n");
    }
    out
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}

fn place(judged: &Judged, v: &Verdict) -> String {
    let packets: Vec<String> = v.packets.iter().take(4).map(u64::to_string).collect();
    let more = if v.packets.len() > 4 { " …" } else { "" };
    match packets.as_slice() {
        [] => judged.capture.display().to_string(),
        _ => format!("{} #{}{more}", judged.capture.display(), packets.join(" #")),
    }
}

/// One cell in words.
#[must_use]
pub fn cell(report: &CellReport) -> String {
    let mut out = format!("{} in {}\n", report.peer, report.situation);
    match &report.state {
        CellState::NotApplicable { why } => {
            let _ = writeln!(out, "  makes no sense: {why}");
        }
        CellState::Failed { why } => {
            let _ = writeln!(out, "  could not be run: {why}");
        }
        CellState::Judged(j) => out += &judged(j),
    }
    out
}

/// The verdicts of a cell in words.
#[must_use]
pub fn judged(j: &Judged) -> String {
    let mut out = String::new();
    for v in &j.verdicts {
        let mark = match (v.outcome, v.clause.level) {
            (Outcome::Broken, _) => "BROKEN ",
            (Outcome::Kept, _) => "kept   ",
            (Outcome::Inconclusive, _) => "?      ",
            (Outcome::Taken, Level::May | Level::Should | Level::Must) => "taken  ",
            (Outcome::NotTaken, _) => "not    ",
        };
        let packets: Vec<String> = v.packets.iter().take(6).map(|p| format!("#{p}")).collect();
        let packets = if packets.is_empty() { String::new() } else { format!(" [{}]", packets.join(" ")) };
        let _ =
            writeln!(out, "  {mark} {:<6} {:<9} {}{packets}", v.clause.level.word(), v.clause.id, v.words);
    }
    let f = &j.figures;
    let seconds = |s: f64| span((s * 1e9) as u64);
    let _ = write!(
        out,
        "  {} bytes in {}, {} data segments, {} bytes again",
        f.bytes,
        seconds(f.seconds),
        f.data_segments,
        f.bytes_again
    );
    if f.retractions > 0 {
        let times = if f.retractions == 1 { "once".to_owned() } else { format!("{} times", f.retractions) };
        let _ = write!(out, ", the edge moved left {times}");
    }
    if f.closed > 0.0 {
        let _ = write!(out, ", closed for {}", seconds(f.closed));
    }
    if let Some(r) = f.recovery {
        let _ = write!(out, ", {} from reopening to progress", seconds(r));
    }
    if let Some(r) = f.goodput_ratio {
        let _ = write!(out, ", goodput {r:.2} of the undisturbed run's");
    }
    out.push('\n');
    if !j.missed.is_empty() {
        let _ = writeln!(out, "  steps that were waited for in vain: {}", j.missed.join(", "));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::interop::testing::small_matrix;

    fn plain(text: &str) -> String {
        anstream::adapter::strip_str(text).to_string()
    }

    #[test]
    fn a_row_has_a_character_per_situation() {
        let (_dir, results) = small_matrix();
        let text = plain(&matrix(&results));
        let row = |peer: &str| {
            let line = text.lines().find(|l| l.starts_with(peer)).unwrap();
            line.split_whitespace().skip(1).collect::<String>()
        };
        assert_eq!(row("model "), "....");
        assert_eq!(row("bad:keeps-window"), "...M");
        assert_eq!(row("exec:nothing"), "!");
        assert!(text.contains("   3 zero-silent "), "{text}");
    }

    #[test]
    fn findings_name_clause_words_and_packets() {
        let (_dir, results) = small_matrix();
        let text = findings(&results);
        assert!(!text.contains("model  [") && text.contains("bad:never-probes  ["), "{text}");
        assert!(text.contains("  MUST in-window (RFC 7323 §2.4 (3), RFC 9293 §3.8.6): "), "{text}");
        assert!(text.contains("bad_keeps-window/shrink-in-duplicates.pcapng #"), "{text}");
        assert!(text.contains("! window-one           it <did> not"), "{text}");
        let mut clean = results.clone();
        clean.cells.retain(|c| c.peer == "model");
        assert_eq!(findings(&clean), "No clause was found broken.\n");
    }

    #[test]
    fn a_cell_tells_every_verdict_and_its_figures() {
        let (_dir, results) = small_matrix();
        let text = cell(results.cell("bad:never-probes", "zero-silent").unwrap());
        assert!(text.starts_with("bad:never-probes in zero-silent\n  "), "{text}");
        assert!(text.contains("BROKEN  MUST   MUST-35"), "{text}");
        assert!(text.contains(", closed for "), "{text}");
    }
}
