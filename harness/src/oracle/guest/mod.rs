//! Recording inside a kernel that is booted for it.
//!
//! The guest takes the scripts in order and hands every trace over as soon as it is whole (`out` is how).

mod out;

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::live::{self, RecordError};
use super::recorder::Options;
use super::script::{Op, Script, Settle};
use super::trace::Trace;
use crate::guest::{Boot, GuestError, Host, Kernel, Machine, Program, Task, Wanted};
use out::{Event, Reader};

/// The name of the task.
const NAME: &str = "record";
/// The task, for [`crate::guest::enter_if_init`].
pub const TASK: (&str, Task) = (NAME, serve);
/// How often we look at a guest.
const LOOK: Duration = Duration::from_millis(10);
/// How long a guest that is done may take to go off.
const GO_OFF: Duration = Duration::from_secs(5);

/// What a guest is told.
#[derive(Debug, Serialize, Deserialize)]
struct Recording {
    /// The scripts, by the numbers that results name.
    scripts: Vec<(usize, Map<String, Value>)>,
    /// As in the options.
    tries: u32,
    /// As in the options.
    phase_us: u32,
    /// As in the options.
    command: Option<String>,
    /// As in the options.
    config: Option<(String, String)>,
}

/// Records scripts on a kernel booted for them. `each` gets the number of the script and its trace, or why there is
/// none, as soon as that is known; in which order is the guest's affair.
///
/// A script on which the kernel dies or hangs costs that script only: the rest are recorded on a kernel booted anew.
/// When `options.stop` is set the guest is ended, and the rest are not reported.
///
/// # Errors
/// When nothing more can be recorded at all: no such kernel, it does not boot, it cannot record.
pub fn record_batch(
    kernel: &Kernel,
    scripts: &[Script],
    options: &Options,
    each: &mut (dyn FnMut(usize, Result<Trace, GuestError>) + Send),
) -> Result<(), GuestError> {
    record_batch_as(&Program::own(), kernel, scripts, options, each)
}

/// As [`record_batch`], with `program` as the guest's init: a program that calls [`crate::guest::enter_if_init`].
///
/// # Errors
/// As [`record_batch`].
pub fn record_batch_as(
    program: &Program,
    kernel: &Kernel,
    scripts: &[Script],
    options: &Options,
    each: &mut (dyn FnMut(usize, Result<Trace, GuestError>) + Send),
) -> Result<(), GuestError> {
    let machine = Machine::new(kernel)?;
    let mut due: BTreeMap<usize, &Script> = scripts.iter().enumerate().collect();
    let mut in_vain = 0;
    while !due.is_empty() && !options.stop.load(Ordering::Relaxed) {
        let before = due.len();
        let mut session = Session { kernel, options, due: &mut due, each: &mut *each, ready: false };
        let Err(error) = session.run(&machine, program) else { continue };
        let ready = session.ready;
        let fatal = !matches!(
            error,
            GuestError::Ended { .. } | GuestError::Output { .. } | GuestError::Refused { .. }
        );
        in_vain = if due.len() < before { 0 } else { in_vain + 1 };
        if fatal || !ready || in_vain > 1 {
            return Err(error);
        }
        // The guest takes them in order, so the first that is due is the one it was at.
        if let Some((number, _)) = due.pop_first() {
            each(number, Err(error));
        }
    }
    Ok(())
}

/// One guest, from boot to end.
struct Session<'a, 's> {
    kernel: &'a Kernel,
    options: &'a Options,
    due: &'a mut BTreeMap<usize, &'s Script>,
    each: &'a mut (dyn FnMut(usize, Result<Trace, GuestError>) + Send),
    ready: bool,
}

impl Session<'_, '_> {
    /// Boots, hands on what comes, ends the guest. `Ok` if all was recorded or the user wants no more.
    fn run(&mut self, machine: &Machine, program: &Program) -> Result<(), GuestError> {
        let task = Recording {
            scripts: self.due.iter().map(|(n, s)| (*n, s.raw.clone())).collect(),
            tries: self.options.tries,
            phase_us: self.options.phase_us,
            command: self.options.command.clone(),
            config: self.options.config.clone().or_else(|| machine.config()),
        };
        let task = serde_json::to_value(task).map_err(|e| self.damaged(e.to_string()))?;
        let boot = Boot {
            task: (NAME, task),
            wanted: vec![Wanted::TUN, Wanted::CONFIGS],
            favoured: true,
            ..Boot::default()
        };
        let mut readers = [Reader::default(), Reader::default()];
        let mut guest = machine.boot(program, boot)?;
        let mut limit = machine.boot_limit();
        let mut since = Instant::now();
        let mut done = false;
        loop {
            // Looked at first: what was written before the end is then read.
            let over = guest.over();
            let mut events = Vec::new();
            let fed = guest.read(|way, piece| match readers.get_mut(way) {
                Some(reader) => reader.feed(piece, &mut events),
                None => Ok(()),
            });
            fed.map_err(|why| self.damaged(why))?;
            for event in events {
                since = Instant::now();
                done |= self.take(event)?;
                limit = if done { GO_OFF } else { self.patience() };
            }
            if self.options.stop.load(Ordering::Relaxed)
                || (done && (over.is_some() || since.elapsed() > limit))
            {
                return self.finish(done);
            }
            let why = match over {
                Some(status) => guest.ended_how(status),
                None if since.elapsed() <= limit => {
                    std::thread::sleep(LOOK);
                    continue;
                }
                None if self.ready => {
                    format!("nothing came for {} s; it hangs, or the machine is overloaded", limit.as_secs())
                }
                None => format!("did not come up within {} s", limit.as_secs()),
            };
            return Err(GuestError::Ended { kernel: self.kernel.to_string(), why, console: guest.console() });
        }
    }

    fn damaged(&self, why: String) -> GuestError {
        GuestError::Output { kernel: self.kernel.to_string(), why }
    }

    /// The guest says it is done, or shall be.
    fn finish(&self, done: bool) -> Result<(), GuestError> {
        match self.due.keys().next() {
            Some(first) if done => Err(self.damaged(format!(
                "no answer for {} scripts, the first of them number {first}",
                self.due.len()
            ))),
            _ => Ok(()),
        }
    }

    /// Hands on what a guest said; `true` if it says it is done.
    fn take(&mut self, event: Event) -> Result<bool, GuestError> {
        let kernel = || self.kernel.to_string();
        let (number, result) = match event {
            Event::Ready(release) => {
                tracing::info!("kernel {} is up: Linux {release}", self.kernel);
                self.ready = true;
                return Ok(false);
            }
            Event::Done => return Ok(true),
            Event::Error(why) => return Err(GuestError::Refused { kernel: kernel(), why }),
            Event::Trace(number, trace) => (number, Ok(*trace)),
            Event::Failed(number, why) => (number, Err(GuestError::Script { kernel: kernel(), why })),
        };
        if self.due.remove(&number).is_none() {
            let why = format!("an answer for script {number}, which it was not asked for");
            return Err(self.damaged(why));
        }
        (self.each)(number, result);
        Ok(false)
    }

    /// How long it may be silent now.
    fn patience(&self) -> Duration {
        let longest = self.due.values().map(|s| patience(s, self.options.tries)).max();
        longest.unwrap_or(GO_OFF)
    }
}

/// How long a guest may be silent while it records this: four times what the script takes for every try, and a
/// minute.
fn patience(script: &Script, tries: u32) -> Duration {
    /// The longest tick there is, milliseconds.
    const TICK: u64 = 10;
    let mut ms = script.handshake.ack_delay_ms.saturating_add(1_000);
    for step in &script.steps {
        let settle = match step.settle {
            // The longest a delayed ACK waits.
            Settle::Ack => 250,
            Settle::None => 0,
            Settle::Ms(ms) => ms,
        };
        let sleep = if let Op::Sleep { ms } = step.op { ms } else { 0 };
        let start = u64::from(step.gap).saturating_mul(TICK).saturating_add(u64::from(step.phase_us) / 1_000);
        ms = ms.saturating_add(settle).saturating_add(sleep).saturating_add(start);
    }
    let all = ms.saturating_mul(u64::from(tries.max(1))).saturating_mul(4).saturating_add(60_000);
    Duration::from_millis(all)
}

// ---- the guest's side ----------------------------------------------------------------------------------------------

fn serve(arguments: Value, host: &Host) -> Result<(), String> {
    let task: Recording =
        serde_json::from_value(arguments).map_err(|e| format!("what is to be recorded: {e}"))?;
    let (numbers, maps): (Vec<_>, Vec<_>) = task.scripts.into_iter().unzip();
    let scripts = maps.into_iter().map(Script::from_map).collect::<Result<Vec<_>, _>>();
    let scripts = scripts.map_err(|e| e.to_string())?;
    let options = Options {
        config: task.config,
        tries: task.tries,
        command: task.command,
        phase_us: task.phase_us,
        ..Options::default()
    };
    let mut heard = Ok(());
    let mut each = |i: usize, result: Result<Trace, RecordError>| {
        let Some(number) = numbers.get(i).copied() else { return };
        let said = host.say(|f| match &result {
            Ok(trace) => out::trace(f, number, trace),
            Err(e) => out::failed(f, number, &in_one_line(e)),
        });
        if heard.is_ok() {
            heard = said;
        }
    };
    live::record_batch(&scripts, &options, &mut each).map_err(|e| in_one_line(&e))?;
    heard
}

/// An error with its causes.
fn in_one_line(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(e) = next {
        let words = e.to_string();
        if !text.contains(&words) {
            text.push_str(": ");
            text.push_str(&words);
        }
        next = e.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patience_follows_the_script() {
        let of = |text: &str| patience(&Script::parse_all("t", text, None).unwrap().remove(0), 5).as_secs();
        assert_eq!(of("{}"), 80);
        assert!(of(r#"{"ops":[{"op":"sleep","ms":100000}]}"#) > 2_000);
        let long = r#"{"ops":[{"op":"repeat","n":19000,"ops":[{"op":"sleep","ms":3600000,"gap":1000000}]}]}"#;
        assert!(of(long) > 1_000_000_000);
    }
}
