//! What this machine can do, and how to get the rest.

use rightedge_tapctl::rights::{Need, Rights};
use serde::Serialize;

use crate::interop::peer::inventory;

/// One line of the report.
#[derive(Clone, Debug, Serialize)]
pub struct Finding {
    /// What it is about.
    pub name: String,
    /// It works, or is there.
    pub ok: bool,
    /// Runs need it; otherwise it only adds something.
    pub needed: bool,
    /// What was found.
    pub detail: String,
    /// How to get it.
    pub fix: Option<String>,
}

/// Looks at everything.
#[must_use]
pub fn examine() -> Vec<Finding> {
    let rights = Rights::probe();
    let rights = rights.entries.iter().map(|r| Finding {
        name: r.name.to_string(),
        ok: r.ok,
        needed: r.need.is_some_and(|n| matches!(n, Need::TunNode | Need::Netns | Need::Tap)),
        detail: r.detail.clone(),
        fix: (!r.ok).then(|| r.fix.clone()).flatten(),
    });
    let peers = inventory::all().into_iter().filter(|e| e.real).map(|e| Finding {
        name: format!("peer {}", e.peer),
        ok: e.missing.is_none(),
        needed: false,
        detail: match (e.version, e.missing) {
            (Some(version), _) => format!("{} [{version}]", e.about),
            (None, missing) => format!("{}: {}", e.about, missing.unwrap_or_default()),
        },
        fix: e.fix,
    });
    rights.chain(peers).collect()
}

/// Can a kernel sender be run here? If not, why not.
///
/// # Errors
/// The first thing that is missing, and how to get it.
pub fn kernel_sender() -> Result<(), String> {
    for need in [Need::TunNode, Need::Netns, Need::Tap] {
        let r = need.probe();
        if !r.ok {
            return Err(format!("{}: {}; {}", r.name, r.detail, r.fix.unwrap_or_default()));
        }
    }
    Ok(())
}

/// The report for people.
#[must_use]
pub fn text(findings: &[Finding]) -> String {
    use std::fmt::Write as _;
    let mut s = String::new();
    let width = findings.iter().map(|f| f.name.len()).max().unwrap_or(0);
    for f in findings {
        let mark = match (f.ok, f.needed) {
            (true, _) => "ok     ",
            (false, true) => "MISSING",
            (false, false) => "no     ",
        };
        let _ = writeln!(s, "{mark}  {:<width$} {}", f.name, f.detail);
        if let Some(fix) = &f.fix {
            let _ = writeln!(s, "         {:<width$} to get it: {fix}", "");
        }
    }
    let missing = findings.iter().filter(|f| f.needed && !f.ok).count();
    let verdict = if missing == 0 {
        "Real kernel senders can be run here."
    } else {
        "Real kernel senders cannot be run here; the model sender in virtual time always can (--sender model)."
    };
    let _ = writeln!(s, "\n{verdict}");
    s
}
