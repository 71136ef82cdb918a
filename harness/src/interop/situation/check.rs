//! What a situation must be, beyond its shape.

use rightedge_stack::nic::Driver;
use rightedge_stack::profile::Profile;
use rightedge_stack::sysctl::Sysctls;
use rightedge_stack::time::Duration;

use super::{Situation, SituationError, Step, Until, WindowIs};
use crate::datafile::{Complaint, check_about, check_name, complain};
use crate::interop::judge::clauses;
use crate::link::DirSpec;
use crate::scenario::units::Size;

/// Checks everything that does not need a run.
pub(super) fn check(file: &str, s: &Situation) -> Result<(), SituationError> {
    for part in [names, receiver, link, steps] {
        part(s).map_err(|complaint| SituationError::value(file, complaint))?;
    }
    Ok(())
}

fn names(s: &Situation) -> Result<(), Complaint> {
    check_name(&s.name, "zero-in-flight")?;
    check_about(&s.about)?;
    for id in &s.clauses {
        if clauses::named(id).is_none() {
            let known: Vec<_> = clauses::ALL.iter().map(|c| c.id).collect();
            return Err(complain("clauses", id, "no such clause is judged", known.join(", ")));
        }
    }
    const MOST: u64 = 1 << 30;
    if !(1..=MOST).contains(&s.bytes.0) {
        return Err(complain(
            "bytes",
            s.bytes,
            "there must be something to send, and not more than 1 GiB",
            "150000",
        ));
    }
    Ok(())
}

fn receiver(s: &Situation) -> Result<(), Complaint> {
    let r = &s.receiver;
    let profile = Profile::parse(&r.policy).map_err(|e| {
        complain("receiver.policy", &r.policy, &e.to_string(), "for example linux-6.1,shrink=merged")
    })?;
    if !(88..=1460).contains(&r.mss) {
        return Err(complain("receiver.mss", r.mss, "an Ethernet frame carries 88 to 1460 bytes", "1000"));
    }
    if r.wscale.is_some_and(|w| w > 14) {
        return Err(complain("receiver.wscale", r.wscale.unwrap_or(0), "RFC 7323 has scales 0 to 14", "7"));
    }
    if let Some(w) = r.window {
        window("receiver.window", w, r.wscale)?;
    }
    let mut sysctls = Sysctls::defaults(&profile, 16 << 30);
    for (name, value) in &r.sysctls {
        let set = sysctls.set(&profile, name, &value.to_string());
        set.map_err(|e| {
            complain("receiver.sysctls", name, &e.to_string(), "a sysctl of the policy's generation")
        })?;
    }
    if Driver::named(&r.driver.model).is_none() {
        let known: Vec<_> = Driver::ALL.iter().map(|(_, n, _)| *n).collect();
        return Err(complain(
            "receiver.driver.model",
            &r.driver.model,
            "no such driver model",
            known.join(", "),
        ));
    }
    Ok(())
}

fn window(key: &str, w: Size, wscale: Option<u8>) -> Result<(), Complaint> {
    let most = 65_535u64 << wscale.unwrap_or(14).min(14);
    if w.0 > most {
        let why = "a window of this scale cannot say so much";
        return Err(complain(key, w, why, format!("at most {most}")));
    }
    Ok(())
}

fn link(s: &Situation) -> Result<(), Complaint> {
    if s.link.up != DirSpec::default() {
        let why = "what the receiver sends is judged by when it reaches the peer, so nothing may delay it";
        return Err(complain("link", &s.link, why, "down: only, and answers = \"lose\" in a step"));
    }
    Ok(())
}

fn steps(s: &Situation) -> Result<(), Complaint> {
    const MOST: usize = 1_000;
    if s.steps.len() > MOST {
        return Err(complain("step", s.steps.len(), "too many steps", format!("at most {MOST}")));
    }
    let last = s.steps.len().saturating_sub(1);
    for (i, step) in s.steps.iter().enumerate() {
        one(s, step, i == last)
            .map_err(|(key, value, why, fix)| (format!("step[{i}].{key}"), value, why, fix))?;
    }
    Ok(())
}

fn one(s: &Situation, step: &Step, last: bool) -> Result<(), Complaint> {
    if step.name.is_empty() || step.name.len() > 64 || step.name.chars().any(char::is_control) {
        return Err(complain("name", &step.name, "a step has a name of 1 to 64 characters", "reopen"));
    }
    if step.window.is_some() && step.edge.is_some() {
        let why = "the window and the edge cannot both be said";
        return Err(complain("edge", step.edge.unwrap_or_default(), why, "one of the two"));
    }
    if let Some(WindowIs::Bytes(w)) = step.window {
        window("window", w, s.receiver.wscale)?;
    }
    if let Some(e) = step.edge {
        window("edge", e, s.receiver.wscale)?;
    }
    if step.lose.contains(&0) {
        return Err(complain("lose", 0, "segments are numbered from 1", "1"));
    }
    if step.until == Until::default() && !last {
        let why = "it never ends, so the steps behind it never begin";
        return Err(complain("until", "{}", why, "for example { time = \"10s\" }"));
    }
    const DAY: Duration = Duration::from_secs(86_400);
    if step.at_most.0 > DAY || step.at_most.0 == Duration::ZERO {
        return Err(complain(
            "at_most",
            step.at_most,
            "a step takes more than nothing and at most a day",
            "30s",
        ));
    }
    Ok(())
}
