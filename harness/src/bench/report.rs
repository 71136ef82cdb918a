//! What a benchmark leaves: figures with their spread, what was asked of them, and how two of them compare.

use std::fmt::Write as _;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, bail};
use comfy_table::{CellAlignment, ContentArrangement, Table, presets};
use serde::{Deserialize, Serialize};

use super::collapse::{self, Point, PolicyCost};
use super::measure::{Effort, Measured, Unit};
use crate::record::write_json;

/// The version of the format.
const FORMAT: u32 = 1;

/// A point at which the live kernel collapsed the same queue.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct KernelPoint {
    /// Segments and device.
    pub what: String,
    /// What was charged before, bytes.
    pub charged: u32,
    /// Payload, bytes.
    pub payload: u64,
    /// The kernel's collapse and ours of the same queue, nanoseconds.
    pub kernel: Measured,
    /// Ours, with the profile of this kernel.
    pub ours: Measured,
}

/// What was asked for, and what came of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Target {
    /// In words.
    pub what: String,
    /// The figure.
    pub got: f64,
    /// At most this, or at least.
    pub wanted: f64,
    /// At least, and not at most.
    pub at_least: bool,
}

impl Target {
    /// At most `wanted`.
    pub fn at_most(what: impl Into<String>, got: f64, wanted: f64) -> Self {
        Target { what: what.into(), got, wanted, at_least: false }
    }

    /// At least `wanted`.
    pub fn at_least(what: impl Into<String>, got: f64, wanted: f64) -> Self {
        Target { what: what.into(), got, wanted, at_least: true }
    }

    /// It was met.
    #[must_use]
    pub fn met(&self) -> bool {
        if self.at_least { self.got >= self.wanted } else { self.got <= self.wanted }
    }
}

/// Everything of a run.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Report {
    /// The version of this format.
    pub format: u32,
    /// The version of the program, and whether it was built for speed.
    pub version: String,
    /// Processor, kernel and memory.
    pub machine: String,
    /// When, seconds since 1970.
    pub began: u64,
    /// How often.
    pub effort: Option<Effort>,
    /// Not interrupted.
    pub complete: bool,
    /// The figures.
    pub measured: Vec<Measured>,
    /// Collapses.
    #[serde(default)]
    pub collapse: Vec<Point>,
    /// The live kernel's.
    #[serde(default)]
    pub kernel: Vec<KernelPoint>,
    /// Policies.
    #[serde(default)]
    pub policies: Vec<PolicyCost>,
    /// What was asked for.
    #[serde(default)]
    pub targets: Vec<Target>,
}

impl Report {
    /// An empty one, of this machine.
    #[must_use]
    pub fn new(effort: Effort) -> Self {
        let optimized =
            if cfg!(debug_assertions) { "debug build: figures mean little" } else { "release build" };
        Report {
            format: FORMAT,
            version: format!("rightedge {}, {optimized}", env!("CARGO_PKG_VERSION")),
            machine: machine(),
            began: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs()),
            effort: Some(effort),
            ..Report::default()
        }
    }

    /// The figures of one case.
    #[must_use]
    pub fn find(&self, group: &str, case: &str) -> Option<&Measured> {
        self.measured.iter().find(|m| m.group == group && m.case == case)
    }

    /// Case `a` beside case `b` of a group.
    #[must_use]
    pub fn ratio(&self, group: &str, a: &str, b: &str) -> Option<f64> {
        Some(self.find(group, a)?.ratio_to(self.find(group, b)?))
    }

    /// Looks at everything that was asked for, as far as it was measured.
    pub fn judge(&mut self) {
        let mut all = Vec::new();
        let mut ratio = |group: &str, a: &str, b: &str, what: &str, wanted: f64, at_least: bool| {
            if let Some(got) = self.ratio(group, a, b) {
                all.push(Target { what: what.to_owned(), got, wanted, at_least });
            }
        };
        let ours = "rightedge";
        ratio(
            "wire/offload",
            ours,
            "null sink",
            "goodput over offloaded TAP, of the null sink's",
            0.95,
            true,
        );
        ratio(
            "wire/offload",
            ours,
            "kernel over veth",
            "goodput over offloaded TAP, of the kernel's over veth",
            1.0,
            true,
        );
        ratio("wire/plain", ours, "null sink", "goodput over plain TAP, of the null sink's", 0.95, true);
        ratio(
            "wire/plain",
            ours,
            "null sink, every second segment",
            "goodput over plain TAP, of a null sink's that acknowledges as often",
            0.95,
            true,
        );
        ratio("wire/plain", ours, "smoltcp", "goodput over plain TAP, of smoltcp's", 1.0, true);
        ratio(
            "segment/in-order-1448",
            ours,
            "smoltcp",
            "one in-order segment of 1448 B, of smoltcp's",
            0.7,
            false,
        );
        ratio("segment/holes", "100000", "100", "out-of-order insert, 100 000 holes against 100", 3.0, false);
        ratio("scale/segment", "10000", "1", "a segment, 10 000 connections against 1", 1.5, false);
        ratio(
            "scale/attack",
            "behind 100000",
            "behind 1000",
            "a byte of an attack, late against early",
            1.5,
            false,
        );
        if let Some(m) = self.find("segment/in-order-1448", ours) {
            all.push(Target::at_most("one in-order segment of 1448 B, ns", m.median(), 120.0));
        }
        if let Some(m) = self.measured.iter().rfind(|m| m.group == "scale/idle") {
            all.push(Target::at_most("bytes per idle connection", m.median(), 2048.0));
        }
        if let Some(m) = self.measured.iter().find(|m| m.group == "virtual") {
            all.push(Target::at_most(
                "the 2100 s of a slow reader in virtual time, s",
                m.median() / 1e9,
                5.0,
            ));
        }
        for (group, device) in [("wire/plain", "plain"), ("wire/offload", "offloaded")] {
            if let (Some(on), Some(off)) = (self.find(group, "rightedge, recorded"), self.find(group, ours)) {
                let what = format!("recorded to a run directory over {device} TAP, time of decisions off");
                all.push(Target::at_most(what, off.ratio_to(on), 1.5));
            }
        }
        let full: Vec<f64> = self
            .collapse
            .iter()
            .filter(|p| p.what.starts_with("1448 B, page-4k, in order") && p.charged >= 1 << 20)
            .map(Point::ratio_to_copy)
            .collect();
        if !full.is_empty() {
            let middle = super::measure::quantile(&full, 0.5);
            all.push(Target::at_most("collapse of full segments, of the plain copy's time", middle, 1.3));
        }
        let kernel: Vec<f64> = self.kernel.iter().map(|k| k.ours.ratio_to(&k.kernel)).collect();
        if !kernel.is_empty() {
            let middle = super::measure::quantile(&kernel, 0.5);
            all.push(Target::at_most("collapse, of the live kernel's time for the same queue", middle, 0.5));
        }
        self.targets = all;
    }

    /// Writes `bench.json`.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn write(&self, dir: &Path) -> Result<()> {
        write_json(&dir.join("bench.json"), &serde_json::to_value(self).context("no JSON")?)
    }

    /// Reads what [`Report::write`] wrote.
    ///
    /// # Errors
    /// It is not there, or something else.
    pub fn read(path: &Path) -> Result<Self> {
        let file = if path.is_dir() { path.join("bench.json") } else { path.to_owned() };
        let text = std::fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
        let r: Report = serde_json::from_slice(&text)
            .with_context(|| format!("{} is no result of a benchmark", file.display()))?;
        if r.format != FORMAT {
            bail!("{}: format {}; this program reads format {FORMAT}", file.display(), r.format);
        }
        Ok(r)
    }

    /// For people.
    #[must_use]
    pub fn text(&self) -> String {
        let mut out = format!("{}\n{}\n", self.version, self.machine);
        if let Some(e) = self.effort {
            let _ = writeln!(
                out,
                "{} rounds after {} to warm up; medians, and the interquartile range",
                e.rounds, e.warm_up
            );
        }
        if !self.measured.is_empty() {
            let mut t = table(["", "", "median", "", "± range", "to the first"]);
            let mut group = "";
            let mut first: Option<&Measured> = None;
            for m in &self.measured {
                if m.group != group {
                    group = &m.group;
                    first = None;
                }
                let head = if first.is_none() { m.group.clone() } else { String::new() };
                let ratio = first.map_or(String::new(), |f| format!("{:.2}", m.ratio_to(f)));
                let (value, unit) = shown(m.median(), m.unit);
                t.add_row([
                    head,
                    m.case.clone(),
                    value,
                    format!("{unit} per {}", m.per),
                    format!("{:.0} %", m.spread() * 100.0),
                    ratio,
                ]);
                first = first.or(Some(m));
            }
            let _ = writeln!(out, "\n{t}");
        }
        if !self.collapse.is_empty() {
            let mut t = table(["collapse of", "charged", "payload", "left", "ms", "ns/byte", "of a copy"]);
            for p in &self.collapse {
                t.add_row([
                    p.what.clone(),
                    bytes(p.charged.into()),
                    bytes(p.payload),
                    bytes(p.left.into()),
                    format!("{:.3}", p.milliseconds()),
                    format!("{:.2}", p.milliseconds() * 1e6 / p.payload.max(1) as f64),
                    format!("{:.2}", p.ratio_to_copy()),
                ]);
            }
            let _ = writeln!(out, "\n{t}");
            for ms in [0.5, 1.0, 2.0, 5.0] {
                let _ = match collapse::advice(&self.collapse, ms) {
                    Some(n) => {
                        writeln!(out, "a collapse stays below {ms} ms up to {} charged", bytes(n.into()))
                    }
                    None => writeln!(out, "no collapse that was measured stays below {ms} ms"),
                };
            }
        }
        if !self.kernel.is_empty() {
            let mut t = table([
                "the live kernel's collapse of",
                "charged",
                "kernel ms",
                "ours ms",
                "ours of the kernel's",
            ]);
            for k in &self.kernel {
                t.add_row([
                    k.what.clone(),
                    bytes(k.charged.into()),
                    format!("{:.3}", k.kernel.median() / 1e6),
                    format!("{:.3}", k.ours.median() / 1e6),
                    format!("{:.2}", k.ours.ratio_to(&k.kernel)),
                ]);
            }
            let _ = writeln!(out, "\n{t}");
        }
        if !self.policies.is_empty() {
            let mut t =
                table(["collapse=", "taken", "refused", "charged", "window", "ns/segment", "worst, µs"]);
            for p in &self.policies {
                t.add_row([
                    p.policy.clone(),
                    bytes(p.taken),
                    p.dropped.to_string(),
                    bytes(p.charged.into()),
                    bytes(p.window),
                    format!("{:.0}", p.mean.median()),
                    format!("{:.0}", p.worst_undisturbed() / 1e3),
                ]);
            }
            let _ = writeln!(out, "\n{t}");
        }
        if !self.targets.is_empty() {
            let mut t = table(["target", "wanted", "measured", ""]);
            for x in &self.targets {
                let sign = if x.at_least { "≥" } else { "≤" };
                let met = if x.met() { "met" } else { "NOT met" };
                t.add_row([
                    x.what.clone(),
                    format!("{sign} {}", x.wanted),
                    format!("{:.2}", x.got),
                    met.to_owned(),
                ]);
            }
            let _ = writeln!(out, "\n{t}");
        }
        out
    }

    /// Every figure with its group and case, those of collapses and policies too.
    fn everything(&self) -> Vec<(String, String, &Measured)> {
        let plain = self.measured.iter().map(|m| (m.group.clone(), m.case.clone(), m));
        let collapses = self.collapse.iter().flat_map(|p| {
            let size = bytes(p.charged.into());
            p.measured.iter().map(move |m| (format!("collapse/{}, {size}", p.what), m.case.clone(), m))
        });
        let kernel = self.kernel.iter().flat_map(|k| {
            let group = format!("kernel/{}, {}", k.what, bytes(k.charged.into()));
            [(&k.kernel, "the live kernel"), (&k.ours, "rightedge")]
                .map(|(m, case)| (group.clone(), case.to_owned(), m))
        });
        let policies = self.policies.iter().flat_map(|p| {
            [(&p.mean, "mean"), (&p.worst, "worst")]
                .map(|(m, case)| (format!("policies/{}", p.policy), case.to_owned(), m))
        });
        plain.chain(collapses).chain(kernel).chain(policies).collect()
    }

    /// Beside another: what has become faster or slower by more than the rounds differ.
    #[must_use]
    pub fn compare(&self, later: &Report) -> String {
        let mut out = String::new();
        if self.machine != later.machine {
            let _ = writeln!(out, "not the same machine:\n  {}\n  {}", self.machine, later.machine);
        }
        let mut t = table(["", "", "before", "after", "after/before", ""]);
        let after = later.everything();
        for (group, case, a) in self.everything() {
            let Some((_, _, b)) = after.iter().find(|(g, c, _)| *g == group && *c == case) else { continue };
            let ratio = if a.median() == 0.0 { 1.0 } else { b.median() / a.median() };
            let noise = a.spread().max(b.spread()).max(0.02);
            let better = if a.unit.more_is_better() { ratio > 1.0 } else { ratio < 1.0 };
            let word = match (ratio - 1.0).abs() > noise {
                false => "as before",
                true if better => "better",
                true => "WORSE",
            };
            let show = |m: &Measured| {
                let (v, u) = shown(m.median(), m.unit);
                format!("{v} {u}")
            };
            t.add_row([group, case, show(a), show(b), format!("{ratio:.3}"), word.to_owned()]);
        }
        let _ = writeln!(out, "{t}");
        out
    }
}

fn table<const N: usize>(head: [&str; N]) -> Table {
    let mut t = Table::new();
    t.load_style(presets::UTF8_HORIZONTAL_ONLY).set_content_arrangement(ContentArrangement::Disabled);
    t.set_header(head);
    for column in t.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    t
}

/// A figure with its unit.
fn shown(value: f64, unit: Unit) -> (String, &'static str) {
    match unit {
        Unit::Nanoseconds if value >= 1e6 => (format!("{:.2}", value / 1e6), "ms"),
        Unit::Nanoseconds if value >= 1e4 => (format!("{:.2}", value / 1e3), "µs"),
        Unit::Nanoseconds if value < 10.0 => (format!("{value:.3}"), "ns"),
        Unit::Nanoseconds => (format!("{value:.1}"), "ns"),
        Unit::BytesPerSecond => (format!("{:.2}", value * 8.0 / 1e9), "Gbit"),
        Unit::Bytes => (format!("{value:.0}"), "B"),
        Unit::Instructions => (format!("{value:.0}"), "instructions"),
        Unit::Count => (format!("{value:.2}"), ""),
    }
}

fn bytes(n: u64) -> String {
    match n {
        n if n >= 10 << 20 => format!("{:.0} MiB", n as f64 / f64::from(1 << 20)),
        n if n >= 1 << 20 => format!("{:.1} MiB", n as f64 / f64::from(1 << 20)),
        n if n >= 1 << 10 => format!("{:.0} KiB", n as f64 / 1024.0),
        n => format!("{n} B"),
    }
}

/// Processor, kernel, memory.
fn machine() -> String {
    let uname = rustix::system::uname();
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let cpu = read("/proc/cpuinfo");
    let model = cpu.lines().find_map(|l| l.strip_prefix("model name")).unwrap_or_default();
    let model = model.trim_start_matches([' ', '\t', ':']);
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let memory = read("/proc/meminfo");
    let kib = memory.lines().find_map(|l| l.strip_prefix("MemTotal:"));
    let kib: u64 = kib.and_then(|l| l.split_whitespace().next()?.parse().ok()).unwrap_or(0);
    format!(
        "Linux {} {}, {cpus} × {model}, {} MiB",
        uname.release().to_string_lossy(),
        uname.machine().to_string_lossy(),
        kib >> 10
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(group: &str, case: &str, rounds: &[f64]) -> Measured {
        Measured {
            group: group.to_owned(),
            case: case.to_owned(),
            unit: Unit::Nanoseconds,
            per: "segment".to_owned(),
            rounds: rounds.to_vec(),
        }
    }

    fn report(figures: &[(&str, &str, f64)]) -> Report {
        let mut r = Report::new(Effort { warm_up: 0, rounds: 1 });
        r.measured = figures.iter().map(|(g, c, v)| measured(g, c, &[*v])).collect();
        r
    }

    #[test]
    fn targets_are_ratios_of_one_run_and_say_whether_they_were_met() {
        let mut r = report(&[
            ("segment/in-order-1448", "rightedge", 100.0),
            ("segment/in-order-1448", "smoltcp", 200.0),
            ("segment/holes", "100", 10.0),
            ("segment/holes", "100000", 40.0),
        ]);
        r.judge();
        let of = |what: &str| r.targets.iter().find(|t| t.what.contains(what)).unwrap();
        assert!((of("smoltcp's").got - 0.5).abs() < 1e-9 && of("smoltcp's").met());
        assert!(of("1448 B, ns").met());
        assert!(!of("holes").met());
        assert!(r.text().contains("NOT met"));
        assert_eq!(r.targets.len(), 3);
    }

    #[test]
    fn a_comparison_tells_a_change_from_noise() {
        let a = report(&[
            ("g", "same", 100.0),
            ("g", "faster", 100.0),
            ("g", "slower", 100.0),
            ("g", "gone", 1.0),
        ]);
        let b = report(&[("g", "same", 101.0), ("g", "faster", 50.0), ("g", "slower", 150.0)]);
        let text = a.compare(&b);
        let line = |case: &str| text.lines().find(|l| l.contains(case)).unwrap_or_default().to_owned();
        assert!(line("same").contains("as before"), "{text}");
        assert!(line("faster").contains("better"), "{text}");
        assert!(line("slower").contains("WORSE"), "{text}");
        assert!(!text.contains("gone"));
    }

    #[test]
    fn collapses_and_policies_are_compared_too() {
        let with = |ns: f64| {
            let mut r = report(&[]);
            let of_it = vec![measured("collapse", collapse::OURS, &[ns])];
            let (what, payload, segments, left) = ("100 B".to_owned(), 1, 1, 1);
            r.collapse.push(Point { what, charged: 1 << 20, payload, segments, left, measured: of_it });
            let (mean, worst) = (measured("p", "mean", &[5.0]), measured("p", "worst", &[ns]));
            let policy = "bounded".to_owned();
            r.policies.push(PolicyCost { policy, taken: 1, charged: 1, window: 1, dropped: 0, mean, worst });
            r
        };
        let text = with(1e6).compare(&with(2e6));
        let line = |what: &str| text.lines().find(|l| l.contains(what)).unwrap_or_default().to_owned();
        assert!(line("collapse/100 B, 1.0 MiB").contains("WORSE"), "{text}");
        assert!(text.contains("mean") && line("worst").contains("WORSE"), "{text}");
    }

    #[test]
    fn what_was_written_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let r = report(&[("g", "c", 1.5)]);
        r.write(dir.path()).unwrap();
        assert_eq!(Report::read(dir.path()).unwrap().measured, r.measured);
        std::fs::write(dir.path().join("x.json"), "{}").unwrap();
        assert!(Report::read(&dir.path().join("x.json")).is_err());
        assert!(format!("{:#}", Report::read(Path::new("/no/such")).unwrap_err()).contains("/no/such"));
    }
}
