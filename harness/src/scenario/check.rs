//! What a scenario must be, beyond its shape.

use rightedge_stack::nic::Driver;
use rightedge_stack::profile::Profile;
use rightedge_stack::sysctl::Sysctls;
use rightedge_stack::time::Duration;

use super::ScenarioError;
use super::expect::{Expect, SCALARS, SERIES, is_metric};
use super::reader::ReadPattern;
use super::schema::{OneOrMany, Scenario};
use super::units::{Size, Span};
use crate::datafile::{Complaint, check_about, check_name, complain};

/// Checks everything that does not need a run.
pub(super) fn check(file: &str, s: &Scenario) -> Result<(), ScenarioError> {
    let all = [names, policies, receiver, sender, route, limits, real_time, expectations];
    for part in all {
        part(s).map_err(|complaint| ScenarioError::value(file, complaint))?;
    }
    Ok(())
}

fn names(s: &Scenario) -> Result<(), Complaint> {
    check_name(&s.name, "fill-64k-aws0")?;
    check_about(&s.about)
}

fn policies(s: &Scenario) -> Result<(), Complaint> {
    if s.policies.is_empty() {
        let fix = "at least one, such as [\"linux-6.1\"]";
        return Err(complain("policies", "[]", "there is nothing to run under", fix));
    }
    for p in &s.policies {
        if let Err(e) = Profile::parse(p) {
            let fix = "a profile with switches, such as linux-6.1,shrink=merged";
            return Err(complain("policies", p, &e.to_string(), fix));
        }
    }
    Ok(())
}

fn receiver(s: &Scenario) -> Result<(), Complaint> {
    let r = &s.receiver;
    read_pattern("receiver.read", &r.read)?;
    size_within("receiver.so_rcvbuf", r.so_rcvbuf, 1, 1 << 31)?;
    size_within("receiver.options.window_clamp", r.options.window_clamp, 0, 1 << 30)?;
    size_within("receiver.options.rcvlowat", r.options.rcvlowat, 1, 1 << 31)?;
    size_within("receiver.driver.truesize", r.driver.truesize, 256, 1 << 20)?;
    size_within("receiver.driver.extra", r.driver.extra, 0, 1 << 20)?;
    segment_size("receiver.options.maxseg", r.options.maxseg)?;
    if Driver::named(&r.driver.model).is_none() {
        let known: Vec<&str> = Driver::ALL.iter().map(|d| d.1).collect();
        let fix = format!("one of {}", known.join(", "));
        return Err(complain("receiver.driver.model", &r.driver.model, "no such driver model", fix));
    }
    // The policies were checked before.
    for profile in s.policies.iter().filter_map(|p| Profile::parse(p).ok()) {
        let mut sysctls = Sysctls::defaults(&profile, 16 << 30);
        for (name, value) in &r.sysctls {
            if let Err(e) = sysctls.set(&profile, name, &value.to_string()) {
                let key = format!("receiver.sysctls.{name}");
                return Err(complain(
                    &key,
                    value,
                    &e.to_string(),
                    "a name and value as sysctl -w takes them",
                ));
            }
        }
    }
    Ok(())
}

fn read_pattern(key: &str, p: &ReadPattern) -> Result<(), Complaint> {
    let positive = |key: String, n: Size| {
        if n.0 == 0 {
            let fix = "1B or more, or pattern = \"never\"";
            return Err(complain(&key, n, "a read of nothing never ends", fix));
        }
        Ok(())
    };
    match p {
        ReadPattern::Never {} => Ok(()),
        ReadPattern::FlatOut { size } => positive(format!("{key}.size"), *size),
        ReadPattern::Paced { bytes, every } => {
            if every.0 == Duration::ZERO {
                let fix = "a duration such as 1ms, or pattern = \"flat_out\"";
                return Err(complain(&format!("{key}.every"), every, "no sleep is not a pace", fix));
            }
            positive(format!("{key}.bytes"), *bytes)
        }
        ReadPattern::Oscillating { phases, .. } => {
            if phases.is_empty() {
                let fix = "at least one { duration, bytes, every }";
                return Err(complain(&format!("{key}.phases"), "[]", "there is no phase", fix));
            }
            match phases.iter().position(|p| p.duration.0 < Duration::from_millis(1)) {
                Some(i) => {
                    let key = format!("{key}.phases[{i}].duration");
                    let value = phases.get(i).map_or(Span::default(), |p| p.duration);
                    Err(complain(&key, value, "a phase must last a while", "1ms or more"))
                }
                None => Ok(()),
            }
        }
    }
}

fn sender(s: &Scenario) -> Result<(), Complaint> {
    let t = &s.sender;
    if t.role.is_some_and(|role| role != s.sender_role()) {
        let value = format!("{:?}", s.receiver.role).to_lowercase();
        let fix = "the opposite of receiver.role, or leave it out";
        return Err(complain("sender.role", &value, "both sides cannot have the same role", fix));
    }
    write_sizes("sender.write", &t.write)?;
    segment_size("sender.mss", t.mss)?;
    if let Some(w) = t.wscale.filter(|&w| w > 14) {
        return Err(complain("sender.wscale", w, "RFC 7323 §2.3 allows no more than 14", "0 to 14"));
    }
    size_within("sender.gso_max", Some(t.gso_max), 0, 65_536)?;
    size_within("sender.so_sndbuf", t.so_sndbuf, 1, 1 << 30)?;
    if !(1..=100_000).contains(&t.connections) {
        return Err(complain("sender.connections", t.connections, "out of range", "1 to 100000"));
    }
    let word = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    if t.congestion.is_empty() || !t.congestion.chars().all(word) {
        let fix = "the kernel's name, such as reno or cubic";
        return Err(complain(
            "sender.congestion",
            &t.congestion,
            "not the name of a congestion control",
            fix,
        ));
    }
    Ok(())
}

fn write_sizes(key: &str, w: &OneOrMany) -> Result<(), Complaint> {
    let sizes = match w {
        OneOrMany::One(s) => std::slice::from_ref(s),
        OneOrMany::Many(all) => all,
    };
    if sizes.is_empty() || sizes.len() > 65_536 {
        return Err(complain(key, format!("{} sizes", sizes.len()), "nothing to write", "1 to 65536 sizes"));
    }
    match sizes.iter().find(|s| !(1..=1 << 30).contains(&s.0)) {
        Some(bad) => Err(complain(key, bad, "a write cannot be that large or empty", "1B to 1GiB")),
        None => Ok(()),
    }
}

fn segment_size(key: &str, mss: Option<u16>) -> Result<(), Complaint> {
    match mss.filter(|m| !(88..=32_767).contains(m)) {
        Some(m) => Err(complain(key, m, "no kernel takes that segment size", "88 to 32767")),
        None => Ok(()),
    }
}

fn size_within(key: &str, size: Option<Size>, min: u64, max: u64) -> Result<(), Complaint> {
    match size.filter(|s| !(min..=max).contains(&s.0)) {
        Some(s) => Err(complain(key, s, "out of range", format!("{} to {}", Size(min), Size(max)))),
        None => Ok(()),
    }
}

fn route(s: &Scenario) -> Result<(), Complaint> {
    let r = &s.route;
    if let Some(m) = r.mtu.filter(|m| !(576..=65_535).contains(m)) {
        return Err(complain("route.mtu", m, "out of range", "576 to 65535"));
    }
    segment_size("route.advmss", r.advmss)?;
    let real = s.real_time.as_ref().and_then(|t| t.initcwnd);
    let all = [("route.initcwnd", r.initcwnd), ("route.initrwnd", r.initrwnd), ("real_time.initcwnd", real)];
    for (key, v) in all {
        if let Some(v) = v.filter(|v| !(1..=1 << 20).contains(v)) {
            return Err(complain(key, v, "out of range", "1 to 1048576 segments"));
        }
    }
    Ok(())
}

fn limits(s: &Scenario) -> Result<(), Complaint> {
    if s.limits.time.is_none() && s.limits.packets.is_none() && s.limits.bytes.is_none() {
        let fix = "limits.time, limits.packets or limits.bytes";
        return Err(complain("limits", "{}", "the run would never end", fix));
    }
    let week = Duration::from_secs(7 * 86_400);
    for (key, t) in
        [("limits.time", s.limits.time), ("real_time.time", s.real_time.as_ref().and_then(|r| r.time))]
    {
        if let Some(t) = t.filter(|t| t.0 == Duration::ZERO || t.0 > week) {
            return Err(complain(key, t, "out of range", "more than nothing, at most 7d"));
        }
    }
    Ok(())
}

fn real_time(s: &Scenario) -> Result<(), Complaint> {
    let Some(r) = &s.real_time else { return Ok(()) };
    if let Some(p) = &r.read {
        read_pattern("real_time.read", p)?;
    }
    if let Some(w) = &r.write {
        write_sizes("real_time.write", w)?;
    }
    if r.why.trim().is_empty() {
        let fix = "what it changes and what that does to the comparison";
        return Err(complain("real_time.why", "", "people must know why the values differ", fix));
    }
    Ok(())
}

fn expectations(s: &Scenario) -> Result<(), Complaint> {
    for (i, e) in s.expect.iter().enumerate() {
        expectation(s, e)
            .map_err(|(key, value, why, fix)| (format!("expect[{i}].{key}"), value, why, fix))?;
    }
    Ok(())
}

fn expectation(s: &Scenario, e: &Expect) -> Result<(), Complaint> {
    if !is_metric(&e.metric) {
        let names: Vec<&str> = SCALARS.iter().map(|m| m.0).collect();
        let series: Vec<&str> = SERIES.iter().map(|m| m.0).collect();
        let fix = format!(
            "{}, counter.NAME, or .first .final .min .max of {}",
            names.join(", "),
            series.join(", ")
        );
        return Err(complain("metric", &e.metric, "no such metric", fix));
    }
    if let Some(p) = e.policies.iter().find(|p| !s.policies.contains(p)) {
        let fix = format!("one of {}", s.policies.join(" | "));
        return Err(complain("policies", p, "the scenario does not run under it", fix));
    }
    if e.near.is_some() != e.tolerance.is_some() {
        let fix = "both, such as near = 62464 and tolerance = 0.05";
        return Err(complain("near", "", "near and tolerance belong together", fix));
    }
    if let Some(t) = e.tolerance.filter(|t| !(0.0..=10.0).contains(t)) {
        return Err(complain("tolerance", t, "not a share", "0.05 for five percent"));
    }
    if e.tolerance.is_some_and(|t| t > 0.0) && e.reason.trim().is_empty() {
        return Err(complain("reason", "", "a tolerance needs one", "why ours may differ"));
    }
    for (key, q) in [("at_least", &e.at_least), ("at_most", &e.at_most), ("near", &e.near)] {
        if let Some(q) = q.as_ref().filter(|q| q.number().is_none()) {
            return Err(complain(key, q, "not a number, size or duration", "for example 62464, 8MiB or 15m"));
        }
    }
    let series = e.metric.rsplit_once('.').is_some_and(|(n, _)| SERIES.iter().any(|(s, _)| *s == n));
    if e.at_packet.is_some() && !series {
        return Err(complain(
            "at_packet",
            &e.metric,
            "only a series has a value at a packet",
            "rcv_win.final",
        ));
    }
    Ok(())
}
