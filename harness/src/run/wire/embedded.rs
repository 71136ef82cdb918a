//! A sender without I/O of its own, in this program: the clock may jump from event to event.

use std::time::Duration as StdDuration;

use anyhow::Result;
use bytes::Bytes;
use rightedge_stack::{time::Instant, wire::RxMeta};

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
}

impl<S: SansIo> Embedded<S> {
    /// A wire to `sender`, which was made at [`Instant::ZERO`].
    pub fn new(sender: S, clock: Clock) -> Self {
        Embedded { sender, clock, virtual_now: Instant::ZERO, started: std::time::Instant::now() }
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
        if self.sender.poll_timeout(now).is_some_and(|t| t <= now) {
            self.sender.handle_timeout(now);
        }
        let frame = self.sender.poll_transmit(now);
        Ok(frame.map(|(frame, gso_size)| (frame, RxMeta { gso_size, ..RxMeta::default() })))
    }

    fn send(&mut self, now: Instant, frame: &Bytes) -> Result<()> {
        self.sender.on_frame(now, frame);
        Ok(())
    }

    fn wait(&mut self, until: Option<Instant>, at_most: StdDuration) -> Result<()> {
        let now = self.now();
        let next = [until, self.sender.poll_timeout(now)].into_iter().flatten().min();
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
        self.sender.is_over()
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
