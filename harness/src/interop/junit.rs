//! JUnit XML, for CI servers: a suite per peer, a case per situation.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context as _, Result};
use quick_junit::{NonSuccessKind, Report, TestCase, TestCaseStatus, TestSuite};

use super::baseline::Comparison;
use super::judge::{Outcome, Overall, Verdict};
use super::matrix::CellState;
use super::results::Results;

/// The report. Without a comparison a broken MUST is a failure; with one, a change is.
///
/// # Errors
/// It cannot be put into XML.
pub fn render(results: &Results, comparison: Option<&Comparison>) -> Result<String> {
    let changed: Option<BTreeSet<(&str, &str)>> =
        comparison.map(|c| c.changes.iter().map(|c| (c.peer.as_str(), c.situation.as_str())).collect());
    let mut report = Report::new("rightedge interop");
    for peer in results.peers() {
        let mut suite = TestSuite::new(format!("{peer} [{}]", results.stack(peer)));
        for cell in results.cells.iter().filter(|c| c.peer == peer) {
            let mut status = TestCaseStatus::success();
            let mut out = String::new();
            let mut time = None;
            match &cell.state {
                CellState::Judged(j) => {
                    let failed = match &changed {
                        Some(changed) => changed.contains(&(cell.peer.as_str(), cell.situation.as_str())),
                        None => j.overall == Overall::Must,
                    };
                    if failed {
                        let broken: Vec<_> =
                            j.verdicts.iter().filter(|v| v.outcome == Outcome::Broken).collect();
                        status = TestCaseStatus::non_success(NonSuccessKind::Failure);
                        let first = broken.first().map_or_else(|| "not as before".to_owned(), |v| line(v));
                        status.set_message(first);
                        status.set_description(broken.iter().map(|v| line(v)).collect::<Vec<_>>().join("\n"));
                    } else if j.overall == Overall::Inconclusive {
                        status = TestCaseStatus::skipped();
                        status.set_message("not settled");
                    }
                    for v in &j.verdicts {
                        out += &line(v);
                        out.push('\n');
                    }
                    out += &format!("capture: {}\n", j.capture.display());
                    time = Some(Duration::from_secs_f64(j.figures.seconds.clamp(0.0, 1e6)));
                }
                CellState::NotApplicable { why } => {
                    status = TestCaseStatus::skipped();
                    status.set_message(why.clone());
                }
                CellState::Failed { why } => {
                    status = TestCaseStatus::non_success(NonSuccessKind::Error);
                    status.set_message(why.clone());
                }
            }
            let mut case = TestCase::new(cell.situation.clone(), status);
            case.set_classname(peer);
            if let Some(time) = time {
                case.set_time(time);
            }
            if !out.is_empty() {
                case.set_system_out(out);
            }
            suite.add_test_case(case);
        }
        report.add_test_suite(suite);
    }
    report.to_string().context("cannot put the results into XML")
}

fn line(v: &Verdict) -> String {
    let outcome = match v.outcome {
        Outcome::Kept => "kept",
        Outcome::NotTaken => "not taken",
        Outcome::Taken => "taken",
        Outcome::Inconclusive => "not settled",
        Outcome::Broken => "BROKEN",
    };
    format!("{} ({}, {}) {outcome}: {}", v.clause.id, v.clause.level.word(), v.clause.source, v.words)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::interop::baseline::Baseline;
    use crate::interop::testing::small_matrix;

    fn case<'a>(xml: &'a str, peer: &str, situation: &str) -> &'a str {
        let start = format!("<testcase name=\"{situation}\" classname=\"{peer}\"");
        let at = xml.find(&start).unwrap_or_else(|| panic!("no {start} in {xml}"));
        let rest = &xml[at..];
        &rest[..rest.find("</testcase>").or_else(|| rest.find("/>")).unwrap()]
    }

    #[test]
    fn a_broken_must_is_a_failure_and_a_cell_that_did_not_run_an_error() {
        let (_dir, results) = small_matrix();
        let xml = render(&results, None).unwrap();
        assert!(xml.contains("tests=\"14\" skipped=\"1\" failures=\"2\" errors=\"1\""), "{}", &xml[..400]);
        assert!(!case(&xml, "model", "window-one").contains("<failure"));
        let bad = case(&xml, "bad:never-probes", "zero-silent");
        assert!(bad.contains("<failure message=\"MUST-35 (MUST, "), "{bad}");
        assert!(case(&xml, "bad:keeps-window", "shrink-in-duplicates").contains("in-window"));
        let odd = case(&xml, "exec:nothing", "window-one");
        assert!(odd.contains("<error message=\"it &lt;did&gt; not &amp; &quot;could&quot; not\""), "{odd}");
        assert!(case(&xml, "model,wscale=14", "natural-unscaled").contains("<skipped"));
    }

    #[test]
    fn with_a_baseline_a_change_is_a_failure_and_a_known_fault_is_none() {
        let (_dir, results) = small_matrix();
        let same = Baseline::of(&results).compare(&Baseline::of(&results));
        let xml = render(&results, Some(&same)).unwrap();
        assert!(xml.contains("failures=\"0\" errors=\"1\""), "{}", &xml[..400]);
        let mut worse = results.clone();
        let only = Baseline::of(&results);
        // What was clean is now what the one without probes did.
        let bad = results.cell("bad:never-probes", "zero-silent").unwrap().state.clone();
        worse.cells.iter_mut().find(|c| c.peer == "model" && c.situation == "zero-silent").unwrap().state =
            bad;
        let xml = render(&worse, Some(&only.compare(&Baseline::of(&worse)))).unwrap();
        assert!(xml.contains("failures=\"1\" errors=\"1\""), "{}", &xml[..400]);
        assert!(case(&xml, "model", "zero-silent").contains("<failure"));
    }
}
