//! The page: the matrix, and behind every cell its verdicts and its time–sequence diagram. One file with everything in it.

use std::time::{Duration, UNIX_EPOCH};

use anyhow::{Context as _, Result};
use askama::Template;

use super::judge::clauses::{self, Clause};
use super::judge::{Outcome, Verdict};
use super::matrix::{CellReport, CellState};
use super::results::{Results, glyph};

#[derive(Template)]
#[template(path = "interop.html")]
struct Page<'a> {
    results: &'a Results,
    when: String,
    rows: Vec<Row<'a>>,
    findings: Vec<Findings<'a>>,
    clauses: &'static [&'static Clause],
    /// The cells as JSON that cannot end a script.
    data: String,
    uplot_js: &'static str,
    uplot_css: &'static str,
    script: &'static str,
    style: &'static str,
}

struct Row<'a> {
    peer: &'a str,
    stack: &'a str,
    cells: Vec<Entry<'a>>,
}

struct Entry<'a> {
    situation: &'a str,
    glyph: char,
    class: &'static str,
    title: String,
}

struct Findings<'a> {
    peer: &'a str,
    stack: &'a str,
    list: Vec<(&'a CellReport, &'a Verdict)>,
}

/// The page of these results.
///
/// # Errors
/// The results cannot be put into it.
pub fn render(results: &Results) -> Result<String> {
    let rows = results.peers().into_iter().map(|peer| Row {
        peer,
        stack: results.stack(peer),
        cells: results.situations.iter().map(|s| entry(results.cell(peer, &s.name), &s.name)).collect(),
    });
    let findings = results.peers().into_iter().map(|peer| {
        let mut list: Vec<_> =
            results.findings().filter(|(c, ..)| c.peer == peer).map(|(c, _, v)| (c, v)).collect();
        list.sort_by_key(|(_, v)| std::cmp::Reverse(v.clause.level));
        Findings { peer, stack: results.stack(peer), list }
    });
    let data = serde_json::to_string(&serde_json::json!({
        "cells": results.cells,
        "situations": results.situations,
        "clauses": clauses::ALL.iter().map(|c| serde_json::json!(c)).collect::<Vec<_>>(),
    }))
    .context("cannot turn the results into JSON")?
    // In a script neither a tag nor a comment may begin.
    .replace('<', "\\u003c");
    let page = Page {
        results,
        when: date(results.began),
        rows: rows.collect(),
        findings: findings.filter(|f| !f.list.is_empty()).collect(),
        clauses: clauses::ALL,
        data,
        uplot_js: include_str!("../../assets/uplot/uPlot.iife.min.js"),
        uplot_css: include_str!("../../assets/uplot/uPlot.min.css"),
        script: include_str!("../../assets/interop.js"),
        style: include_str!("../../assets/interop.css"),
    };
    page.render().context("cannot make the page")
}

fn entry<'a>(cell: Option<&CellReport>, situation: &'a str) -> Entry<'a> {
    let Some(cell) = cell else {
        return Entry { situation, glyph: ' ', class: "none", title: "not run".to_owned() };
    };
    let glyph = glyph(&cell.state);
    let (class, title) = match (&cell.state, glyph) {
        (CellState::NotApplicable { why }, _) => ("none", format!("makes no sense: {why}")),
        (CellState::Failed { why }, _) => {
            ("failed", format!("could not be run: {}", why.lines().next().unwrap_or_default()))
        }
        (CellState::Judged(j), g) => {
            let worst =
                j.verdicts.iter().filter(|v| matches!(v.outcome, Outcome::Broken | Outcome::Inconclusive));
            let worst = worst.max_by_key(|v| (v.outcome, v.clause.level));
            let title = worst
                .map_or_else(|| "every clause kept".to_owned(), |v| format!("{}: {}", v.clause.id, v.words));
            let class = match g {
                'M' => "must",
                'S' => "should",
                '?' => "open",
                _ => "clean",
            };
            (class, title)
        }
    };
    Entry { situation, glyph: if glyph == '.' { '·' } else { glyph }, class, title }
}

/// Seconds since 1970 as a date.
fn date(seconds: u64) -> String {
    // What lies behind the year 9999 cannot be written.
    let at = UNIX_EPOCH + Duration::from_secs(seconds.min(253_402_300_799));
    humantime::format_rfc3339_seconds(at).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::interop::testing::small_matrix;

    #[test]
    fn the_page_holds_everything_and_fetches_nothing() {
        let (_dir, results) = small_matrix();
        let page = render(&results).unwrap();
        for peer in results.peers() {
            assert!(page.contains(peer), "{peer}");
        }
        for clause in clauses::ALL {
            assert!(page.contains(clause.id), "{}", clause.id);
        }
        for outside in ["src=\"", "href=\"http", "@import", "url(http"] {
            assert!(!page.contains(outside), "{outside}");
        }
        // What a peer says of itself is text, in the markup and in the data.
        assert!(!page.contains("<did>"));
        assert!(
            page.contains("it &#60;did&#62; not") && page.contains("it \\u003cdid> not"),
            "escaped otherwise"
        );
    }

    #[test]
    fn dates_are_dates() {
        assert_eq!(date(951_827_696), "2000-02-29T12:34:56Z");
        assert!(date(u64::MAX).starts_with("9999"));
    }
}
