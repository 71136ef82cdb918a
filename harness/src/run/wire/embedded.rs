//! A sender without I/O of its own, in this program: the clock may jump from event to event.

use std::collections::VecDeque;
use std::time::Duration as StdDuration;

use anyhow::Result;
use bytes::Bytes;
use rightedge_stack::{
    time::{Duration, Instant},
    wire::RxMeta,
};

use super::{SenderReport, Wire, nap, since};
use crate::scenario::Clock;

/// A sender that is driven as the stack is: frames and time in, frames out.
pub trait SansIo {
    /// Takes a frame from the stack.
    fn on_frame(&mut self, now: Instant, frame: &Bytes);
    /// The next frame for the stack, with the segment size if it is a super-segment (0 otherwise). Call until `None` after
    /// every input and time-out.
    fn poll_transmit(&mut self, now: Instant) -> Option<(Bytes, u16)>;
    /// When to call [`SansIo::handle_timeout`] next.
    fn poll_timeout(&mut self, now: Instant) -> Option<Instant>;
    /// Runs what is due at `now`.
    fn handle_timeout(&mut self, now: Instant);
    /// No data comes any more.
    fn is_over(&self) -> bool;
    /// Its figures.
    fn report(&self) -> SenderReport;
    /// Ends it.
    fn stop(&mut self, now: Instant);
}

/// The wire to a [`SansIo`] sender.
#[derive(Debug)]
pub struct Embedded<S> {
    sender: S,
    clock: Clock,
    virtual_now: Instant,
    started: std::time::Instant,
    latency: Duration,
    from_sender: VecDeque<(Instant, Bytes, u16)>,
    to_sender: VecDeque<(Instant, Bytes)>,
}

impl<S: SansIo> Embedded<S> {
    /// A wire to `sender`, which was made at [`Instant::ZERO`]. Frames take no time.
    pub fn new(sender: S, clock: Clock) -> Self {
        Embedded {
            sender,
            clock,
            virtual_now: Instant::ZERO,
            started: std::time::Instant::now(),
            latency: Duration::ZERO,
            from_sender: VecDeque::new(),
            to_sender: VecDeque::new(),
        }
    }

    /// Frames take so long, each way.
    #[must_use]
    pub fn with_latency(mut self, latency: Duration) -> Self {
        self.latency = latency;
        self
    }

    /// Lets the sender have what has come, run what is due, and say what it has to say.
    fn turn(&mut self, now: Instant) {
        while self.to_sender.front().is_some_and(|(at, _)| *at <= now) {
            if let Some((at, frame)) = self.to_sender.pop_front() {
                self.sender.on_frame(at.max(self.virtual_now).min(now), &frame);
                self.listen(now);
            }
        }
        if self.sender.poll_timeout(now).is_some_and(|t| t <= now) {
            self.sender.handle_timeout(now);
        }
        self.listen(now);
    }

    fn listen(&mut self, now: Instant) {
        /// A sender that never stops talking is heard again in the next turn.
        const MOST: usize = 10_000;
        while self.from_sender.len() < MOST {
            let Some((frame, gso_size)) = self.sender.poll_transmit(now) else { break };
            self.from_sender.push_back((now + self.latency, frame, gso_size));
        }
    }
}

impl<S: SansIo> Wire for Embedded<S> {
    fn now(&mut self) -> Instant {
        match self.clock {
            Clock::Virtual => self.virtual_now,
            Clock::Real => since(self.started),
        }
    }

    fn recv(&mut self, now: Instant) -> Result<Option<(Bytes, RxMeta)>> {
        if self.latency == Duration::ZERO {
            if self.sender.poll_timeout(now).is_some_and(|t| t <= now) {
                self.sender.handle_timeout(now);
            }
            let frame = self.sender.poll_transmit(now);
            return Ok(frame.map(|(frame, gso_size)| (frame, RxMeta { gso_size, ..RxMeta::default() })));
        }
        self.turn(now);
        if self.from_sender.front().is_none_or(|(at, ..)| *at > now) {
            return Ok(None);
        }
        let frame = self.from_sender.pop_front();
        Ok(frame.map(|(_, frame, gso_size)| (frame, RxMeta { gso_size, ..RxMeta::default() })))
    }

    fn send(&mut self, now: Instant, frame: &Bytes) -> Result<bool> {
        if self.latency == Duration::ZERO {
            self.sender.on_frame(now, frame);
        } else {
            self.to_sender.push_back((now + self.latency, frame.clone()));
        }
        Ok(true)
    }

    fn wait(&mut self, until: Option<Instant>, at_most: StdDuration) -> Result<()> {
        let now = self.now();
        let arrives = self.from_sender.front().map(|(at, ..)| *at);
        let heard = self.to_sender.front().map(|(at, _)| *at);
        let next = [until, self.sender.poll_timeout(now), arrives, heard].into_iter().flatten().min();
        match self.clock {
            Clock::Virtual => {
                // Nothing ever happens again: the run loop's own limit ends the run.
                let next = next.unwrap_or(Instant::FAR_FUTURE);
                self.virtual_now = next.max(self.virtual_now);
            }
            Clock::Real => std::thread::sleep(nap(now, next, at_most)),
        }
        Ok(())
    }

    fn sender_done(&self) -> bool {
        self.sender.is_over() && self.from_sender.is_empty()
    }

    fn sender(&mut self) -> SenderReport {
        let mut report = self.sender.report();
        report.what = format!("{} ({:?} clock)", report.what, self.clock).to_lowercase();
        report
    }

    fn stop(&mut self, now: Instant) {
        self.sender.stop(now);
    }
}
