//! Programs that keep to the peer contract: a descriptor of Ethernet frames, a few variables, and lines on standard output.

use std::process::{Command, Stdio};
use std::time::Duration as StdDuration;

use anyhow::{Context as _, Result};
use bytes::Bytes;
use rightedge_stack::{time::Instant, wire::RxMeta};

use super::Job;
use super::frames::{Ending, Frames};
use super::spec::Options;
use crate::contained::{Apart, Contained};
use crate::run::wire::{PORT, SENDER_IP, SENDER_MAC, STACK_IP, SenderReport, Wire, nap, since};

/// The most resident memory of a peer, bytes.
const MEMORY: u64 = 1 << 30;
/// The most address space: Go takes more than it uses.
const SPACE: u64 = 8 << 30;
/// How often its memory is looked at.
const LOOK: StdDuration = StdDuration::from_millis(500);

/// What a peer says on its standard output.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Account {
    /// Name and version of its stack.
    pub(super) stack: Option<String>,
    /// Bytes handed to the stack.
    pub(super) written: u64,
    /// What went wrong with the connection.
    pub(super) error: Option<String>,
    /// It is done.
    pub(super) done: bool,
}

impl Account {
    /// Takes a line; what is no line of the contract is passed over.
    pub(super) fn take(&mut self, line: &str) {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        match word {
            "stack" => self.stack = Some(rest.trim().to_owned()),
            "written" => self.written = rest.trim().parse().unwrap_or(self.written),
            "error" => self.error = Some(rest.trim().to_owned()),
            "done" => self.done = true,
            _ => {}
        }
    }

    /// As a sender's report.
    pub(super) fn report(&self, said: &str) -> SenderReport {
        SenderReport {
            what: self.stack.clone().unwrap_or_default(),
            written: self.written,
            error: self.error.clone(),
            detail: serde_json::json!({ "done": self.done, "said": said }),
            ..SenderReport::default()
        }
    }
}

/// A running program behind a socket.
#[derive(Debug)]
pub(super) struct ChildWire {
    frames: Frames,
    child: Contained,
    account: Account,
    started: std::time::Instant,
    looked: std::time::Instant,
    over: bool,
}

/// A program of the user's.
pub(super) fn exec(words: &[String]) -> Command {
    let (program, arguments) = words.split_first().map_or(("", &[][..]), |(p, a)| (p.as_str(), a));
    let mut c = Command::new(program);
    c.args(arguments);
    c
}

impl ChildWire {
    /// Starts `command`.
    pub(super) fn start(mut command: Command, options: &Options, job: Job) -> Result<Self> {
        let (frames, theirs) = Frames::pair(Ending::Heard).context("no socket for a peer")?;
        let name = command.get_program().to_string_lossy().into_owned();
        command
            .stdin(Stdio::from(theirs))
            .env("RIGHTEDGE_ADDRESS", format!("{SENDER_IP}/24"))
            .env("RIGHTEDGE_MAC", mac())
            .env("RIGHTEDGE_MTU", "1500")
            .env("RIGHTEDGE_RECEIVER", format!("{STACK_IP}:{PORT}"))
            .env("RIGHTEDGE_BYTES", job.bytes.to_string())
            .env("RIGHTEDGE_OPTIONS", options.for_peer());
        let apart = Apart { with_helpers: true, own_network: true, lines: true, memory: Some(SPACE) };
        let child = Contained::start("peer", command, apart).with_context(|| format!("peer {name}"))?;
        let now = std::time::Instant::now();
        Ok(ChildWire { frames, child, account: Account::default(), started: now, looked: now, over: false })
    }

    fn listen(&mut self) {
        self.child.listen();
        for line in self.child.lines() {
            self.account.take(&line);
        }
    }
}

/// The peer's hardware address, as people write it.
pub(super) fn mac() -> String {
    SENDER_MAC.0.map(|b| format!("{b:02x}")).join(":")
}

impl Wire for ChildWire {
    fn now(&mut self) -> Instant {
        since(self.started)
    }

    fn recv(&mut self, _: Instant) -> Result<Option<(Bytes, RxMeta)>> {
        let frame = self.frames.recv().context("cannot read from a peer's socket")?;
        Ok(frame.map(|f| (f, RxMeta::default())))
    }

    fn send(&mut self, _: Instant, frame: &Bytes) -> Result<bool> {
        self.frames.send(frame).context("cannot write to a peer's socket")
    }

    fn wait(&mut self, until: Option<Instant>, at_most: StdDuration) -> Result<()> {
        self.listen();
        if self.child.over().is_some() {
            // Its last words.
            self.listen();
            self.over = true;
        }
        if self.looked.elapsed() > LOOK {
            self.looked = std::time::Instant::now();
            if self.child.resident().is_some_and(|b| b > MEMORY) {
                self.account.error = Some(format!("more than {} MiB of memory", MEMORY >> 20));
                self.child.end();
            }
        }
        let nap = nap(since(self.started), until, at_most);
        self.frames.wait(nap).context("cannot wait for a peer's socket")
    }

    fn sender_done(&self) -> bool {
        self.over
    }

    fn sender(&mut self) -> SenderReport {
        self.account.report(&self.child.said())
    }

    fn stop(&mut self, _: Instant) {
        self.child.end();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_contract_are_taken_and_others_passed_over() {
        let mut a = Account::default();
        for line in ["stack lwip 2.1.3", "written 10", "hello", "written x", "", "error ETIMEDOUT", "done"] {
            a.take(line);
        }
        assert_eq!(
            (a.stack.as_deref(), a.written, a.error.as_deref(), a.done),
            (Some("lwip 2.1.3"), 10, Some("ETIMEDOUT"), true)
        );
    }
}
