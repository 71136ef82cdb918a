//! A script through a live kernel and through the stack.

use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anyhow::{Context as _, Result};

use super::campaign::{Bench, Verdict};
use super::generate::{Space, Target};
use crate::guest::Kernel;
use crate::oracle::diff;
use crate::oracle::recorder::{self, Options};
use crate::oracle::replay::{self, profile_of};
use crate::oracle::script::{RxPath, Script};
use crate::oracle::trace::{Header, Record, Trace};

/// Records scripts on a kernel, replays what was recorded and compares.
#[derive(Debug)]
pub struct KernelBench {
    /// The kernel.
    pub kernel: Kernel,
    /// Profile to replay under; the one that stands for the kernel unless said.
    pub profile: Option<String>,
    /// How to record.
    pub options: Options,
}

/// What a kernel says of itself: the header of an empty recording.
///
/// # Errors
/// The kernel cannot be recorded on.
pub fn introduce(kernel: &Kernel, stop: &Arc<AtomicBool>) -> Result<Header> {
    let script = Script::parse_all("introduction", r#"{"name":"introduction"}"#, None)?;
    let options = Options { stop: Arc::clone(stop), ..Options::default() };
    let mut header = None;
    let mut trouble = None;
    recorder::record(kernel, &script, &options, &mut |_, r| match r {
        Ok(t) => header = Some(t.header),
        Err(e) => trouble = Some(e),
    })?;
    match (header, trouble) {
        (Some(h), _) => Ok(h),
        (None, Some(e)) => Err(e).with_context(|| format!("--kernel {kernel}")),
        (None, None) => anyhow::bail!("--kernel {kernel}: interrupted"),
    }
}

/// What scripts for this kernel may use.
#[must_use]
pub fn target(header: &Header, rx_paths: Vec<RxPath>) -> Target {
    let scale = replay::profile_for(&header.kernel) == Some("linux-6.1");
    Target {
        hz: (1000.0 / header.tick_ms).round() as u32,
        space: if scale { Space::AdvWinScale } else { Space::ScalingRatio },
        rx_paths,
        ..Target::default()
    }
}

/// A trace against the stack: the differences, and everything that is to be said of them.
///
/// # Errors
/// The trace asks for what the stack does not have.
pub fn judge(trace: &Trace, profile: Option<&str>) -> Result<(Vec<diff::Difference>, String)> {
    let profile = profile_of(trace, profile)?;
    let all = diff::compare(trace, &replay::replay(trace, &profile, false)?.trace);
    if all.is_empty() {
        return Ok((all, String::new()));
    }
    // Once more, with reasons.
    let r = replay::replay(trace, &profile, true)?;
    let report = diff::report(trace, &r.trace, &all, &r.decisions);
    Ok((all, report))
}

/// Is the first difference one that the kernel's clock makes, and not its rules? Why, if it is.
///
/// Bursts written back to back teach the receiver a round trip of some microseconds. Autotuning asks after every buffer of a
/// read whether a round trip has passed: when the read lasts longer than that, where in it the answer turns to yes hangs on
/// the machine's speed, while the replay's reads take no time. And with `tcp_rcvbuf_low_rtt` (6.19 and later) the round trip
/// itself scales the budget, with the microseconds between a write to the device and the kernel's look at its clock.
fn clock_decides(trace: &Trace, all: &[diff::Difference]) -> Option<&'static str> {
    let first = all.first()?;
    let rec = usize::try_from(first.record).ok().and_then(|i| trace.records.get(i))?;
    let differs = |field: &str| all.iter().take_while(|d| d.record == first.record).any(|d| d.field == field);
    let took_us = (rec.vol.end_ms - rec.vol.t_ms) * 1000.0;
    let round_trip = rec.vol.info.get("rcv_rtt").copied().unwrap_or(0);
    if outlasts_compression(trace, rec) {
        return Some(
            "a burst took longer than tcp_comp_sack_delay_ns: between which segments the timer ran is luck",
        );
    }
    if rec.op_name() != "read" || round_trip == 0 {
        return None;
    }
    let low = trace.header.sysctl.get("net.ipv4.tcp_rcvbuf_low_rtt").and_then(|v| v.parse::<u64>().ok());
    if differs("info.rcv_space") && (round_trip as f64) < took_us {
        Some("a read took longer than the receiver's round trip: how much of it autotuning saw is luck")
    } else if differs("mem.rcvbuf") && low.is_some_and(|low| round_trip < low) {
        Some("the receiver's round trip is below tcp_rcvbuf_low_rtt: its microseconds scale sk_rcvbuf")
    } else {
        None
    }
}

/// Did the timer of compressed SACKs, which counts nanoseconds, have time to run between two segments of a burst?
fn outlasts_compression(trace: &Trace, rec: &Record) -> bool {
    let sysctl = |name: &str| trace.header.sysctl.get(name).and_then(|v| v.parse::<u64>().ok());
    let on = sysctl("net.ipv4.tcp_comp_sack_nr").is_some_and(|n| n > 0);
    let delay_ms = sysctl("net.ipv4.tcp_comp_sack_delay_ns").unwrap_or(1_000_000) as f64 / 1e6;
    let (first, last) = (rec.vol.tx_ms.first(), rec.vol.tx_ms.last());
    on && first.zip(last).is_some_and(|(first, last)| last - first > delay_ms)
}

/// The record and field of the first difference.
type Place = (u64, String);

impl KernelBench {
    /// What became of a script, and where the first difference is if there is one.
    fn verdict(&self, trace: &Trace) -> (Verdict, Option<Place>) {
        let unknown = |why: String| (Verdict::NotRecorded { why }, None);
        let (all, report) = match judge(trace, self.profile.as_deref()) {
            Ok(judged) => judged,
            Err(e) => return unknown(format!("not replayed: {e:#}")),
        };
        let Some(first) = all.first() else {
            return (Verdict::Clean { ops: trace.records.len() as u64 }, None);
        };
        if let Some(why) = clock_decides(trace, &all) {
            return unknown(why.to_owned());
        }
        let mut trace_jsonl = Vec::new();
        // Into memory: it cannot fail.
        let _ = trace.write(&mut trace_jsonl);
        let place = (first.record, first.field.clone());
        (Verdict::Differs { what: diff::key(&all), report, trace_jsonl }, Some(place))
    }

    fn record(
        &self,
        scripts: &[Script],
        each: &mut (dyn FnMut(usize, Verdict, Option<Place>) + Send),
    ) -> Result<()> {
        recorder::record(&self.kernel, scripts, &self.options, &mut |i, r| match r {
            Ok(trace) => {
                let (verdict, place) = self.verdict(&trace);
                each(i, verdict, place);
            }
            Err(e) => each(i, Verdict::NotRecorded { why: e.kind().to_owned() }, None),
        })?;
        Ok(())
    }
}

impl Bench for KernelBench {
    /// A difference must show twice, in the same record and field: what the kernel itself does otherwise the next time is no
    /// statement about the stack. It counts as not recorded, with the fields that moved.
    fn run(&mut self, scripts: &[(u64, Script)], each: &mut dyn FnMut(u64, Verdict)) -> Result<()> {
        let only: Vec<Script> = scripts.iter().map(|(_, s)| s.clone()).collect();
        let mut suspects: Vec<(usize, Verdict, Place)> = Vec::new();
        let mut settled: Vec<(usize, Verdict)> = Vec::new();
        let first = self.record(&only, &mut |i, verdict, place| match place {
            Some(place) => suspects.push((i, verdict, place)),
            None => settled.push((i, verdict)),
        });
        for (i, v) in settled {
            if let Some((index, _)) = scripts.get(i) {
                each(*index, v);
            }
        }
        first?;
        let again: Vec<Script> = suspects.iter().filter_map(|(i, ..)| only.get(*i).cloned()).collect();
        if again.is_empty() {
            return Ok(());
        }
        let mut second: Vec<Option<(Verdict, Option<Place>)>> = vec![None; again.len()];
        self.record(&again, &mut |i, verdict, place| {
            if let Some(slot) = second.get_mut(i) {
                *slot = Some((verdict, place));
            }
        })?;
        for ((i, before, (record, field)), after) in suspects.into_iter().zip(second) {
            let Some((index, _)) = scripts.get(i) else { continue };
            let unsteady = |then: &str| Verdict::NotRecorded {
                why: format!("unsteady: {field} differed once, and then {then}"),
            };
            let verdict = match after {
                Some((Verdict::Clean { .. }, _)) => unsteady("nothing"),
                Some((_, Some((r, f)))) if (r, f.as_str()) != (record, field.as_str()) => unsteady(&f),
                Some((after @ Verdict::Differs { .. }, _)) => after,
                Some((Verdict::NotRecorded { .. }, _)) | None => before,
            };
            each(*index, verdict);
        }
        Ok(())
    }
}

/// Ways of opening the device, as typed: `linear,frag,vnet`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RxPaths(pub Vec<RxPath>);

impl FromStr for RxPaths {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let one = |name: &str| {
            let known = || RxPath::ALL.iter().map(|(_, n)| *n).collect::<Vec<_>>().join(", ");
            RxPath::ALL
                .iter()
                .find(|(_, n)| *n == name.trim())
                .map(|(p, _)| *p)
                .ok_or_else(|| format!("'{name}' is no way of opening the device; there are {}", known()))
        };
        text.split(',').map(one).collect::<Result<_, _>>().map(RxPaths)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trace(op: &str, rtt: u64, took: f64, tx_ms: &str) -> Trace {
        let end = 8.0 + took;
        let text = format!(
            r#"{{"header":{{"script":{{"name":"t"}},"kernel":"6.18.1","tick_ms":4,"sysctl":{{"net.ipv4.tcp_comp_sack_nr":"44","net.ipv4.tcp_comp_sack_delay_ns":"1000000"}}}}}}
{{"i":0,"op":{{"op":"{op}"}},"vol":{{"t_ms":8,"end_ms":{end},"tx_ms":[{tx_ms}],"info":{{"rcv_rtt":{rtt}}}}}}}
"#
        );
        Trace::read_all("t", text.as_bytes()).unwrap().remove(0)
    }

    fn differs(field: &str) -> Vec<diff::Difference> {
        vec![diff::Difference {
            record: 0,
            field: field.to_owned(),
            left: String::new(),
            right: String::new(),
        }]
    }

    #[test]
    fn the_clock_is_blamed_for_what_it_does_and_no_more() {
        let space = differs("info.rcv_space");
        assert!(clock_decides(&trace("read", 17, 0.2, ""), &space).is_some());
        assert!(clock_decides(&trace("read", 300, 0.2, ""), &space).is_none(), "the read was over before");
        assert!(clock_decides(&trace("read", 17, 0.2, ""), &differs("mem.rmem_alloc")).is_none());
        assert!(clock_decides(&trace("inject", 17, 0.2, ""), &space).is_none());
        let sack = differs("rx");
        assert!(clock_decides(&trace("burst", 0, 2.0, "8.0,9.5"), &sack).is_some());
        assert!(clock_decides(&trace("burst", 0, 2.0, "8.0,8.5"), &sack).is_none());
    }

    #[test]
    fn ways_of_opening_the_device() {
        assert_eq!("linear, vnet".parse(), Ok(RxPaths(vec![RxPath::Linear, RxPath::Vnet])));
        assert!("fast".parse::<RxPaths>().unwrap_err().contains("napi_frags"));
    }
}
