//! What the stack is attached to: a TAP device with a real kernel sender behind it, or a sender in this program.
//!
//! All are a [`Wire`]: frames in and out, a clock, and a way to wait. A run loop does not know which it has.

mod buffers;
pub mod embedded;
pub mod tap;

use std::net::Ipv4Addr;
use std::time::Duration as StdDuration;

use anyhow::Result;
use bytes::Bytes;
use rightedge_stack::{
    time::{Duration, Instant},
    wire::{MacAddr, RxMeta},
};

use self::embedded::{Embedded, SansIo};
use crate::scenario::{Clock, Scenario};
use crate::sender::{
    End, Role,
    model::{ModelConfig, ModelSender},
};

/// The sender's address.
pub const SENDER_IP: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
/// The stack's address.
pub const STACK_IP: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
/// The stack's hardware address.
pub const STACK_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);
/// The model sender's hardware address.
pub const SENDER_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
/// The port of whoever listens.
pub const PORT: u16 = 5001;
/// What became of the sender.
#[derive(Clone, Debug, Default, serde::Serialize)]
pub struct SenderReport {
    /// Kind and settings, in words.
    pub what: String,
    /// Bytes its application wrote.
    pub written: u64,
    /// Its error, as an errno name.
    pub error: Option<String>,
    /// Segments it sent again.
    pub retransmits: u64,
    /// Congestion window in segments, last seen.
    pub cwnd: u32,
    /// Smoothed round trip, µs, last seen.
    pub rtt_us: u64,
    /// Everything else it knows.
    pub detail: serde_json::Value,
}

/// Frames, a clock and a way to wait.
pub trait Wire {
    /// The time now.
    fn now(&mut self) -> Instant;
    /// The next frame from the sender, if one is there.
    ///
    /// # Errors
    /// The device failed.
    fn recv(&mut self, now: Instant) -> Result<Option<(Bytes, RxMeta)>>;
    /// Sends a frame to the sender. `false` if it was lost on the way because there was no room for it.
    ///
    /// # Errors
    /// The device failed.
    fn send(&mut self, now: Instant, frame: &Bytes) -> Result<bool>;
    /// Waits for a frame, at the longest until `until`, and never longer than `at_most` of real time.
    ///
    /// # Errors
    /// The device failed.
    fn wait(&mut self, until: Option<Instant>, at_most: StdDuration) -> Result<()>;
    /// How long a frame may wait unseen behind the wire, because others hand it on.
    fn lag(&self) -> Duration {
        Duration::ZERO
    }
    /// Nothing more will come from the sender.
    fn sender_done(&self) -> bool;
    /// The sender's figures.
    fn sender(&mut self) -> SenderReport;
    /// Ends the sender.
    fn stop(&mut self, now: Instant);
}

/// The wire to the model sender.
pub type ModelWire = Embedded<ModelSender>;

impl ModelWire {
    /// The model sender that `scenario` describes.
    #[must_use]
    pub fn of(scenario: &Scenario, clock: Clock) -> Self {
        let role = scenario.sender_role();
        let cfg = scenario.model_config(model_end(role));
        Embedded::new(ModelSender::new(cfg, Instant::ZERO), clock)
    }
}

/// The addresses of the model sender.
#[must_use]
pub fn model_end(role: Role) -> ModelConfig {
    ModelConfig {
        role,
        mac: SENDER_MAC.0,
        peer_mac: STACK_MAC.0,
        addr: SENDER_IP,
        peer_addr: STACK_IP,
        port: if role == Role::Server { PORT } else { 40_000 },
        peer_port: PORT,
        ..ModelConfig::default()
    }
}

impl SansIo for ModelSender {
    fn on_frame(&mut self, now: Instant, frame: &Bytes) {
        ModelSender::on_frame(self, now, frame);
    }

    fn poll_transmit(&mut self, now: Instant) -> Option<(Bytes, u16)> {
        ModelSender::poll_transmit(self, now)
    }

    fn poll_timeout(&mut self, _now: Instant) -> Option<Instant> {
        ModelSender::poll_timeout(self)
    }

    fn handle_timeout(&mut self, now: Instant) {
        ModelSender::handle_timeout(self, now);
    }

    fn is_over(&self) -> bool {
        ModelSender::is_over(self)
    }

    fn report(&self) -> SenderReport {
        let s = self.stats();
        SenderReport {
            what: "model sender".to_owned(),
            written: s.bytes_written,
            error: s.error.map(str::to_owned),
            retransmits: s.retransmits,
            cwnd: s.cwnd,
            rtt_us: s.srtt.map_or(0, Duration::as_micros),
            detail: serde_json::to_value(&s).unwrap_or_default(),
        }
    }

    fn stop(&mut self, now: Instant) {
        ModelSender::stop(self, now, End::Abort);
    }
}

pub(crate) fn since(start: std::time::Instant) -> Instant {
    Instant::from_nanos(u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX))
}

/// How long to sleep: until `until`, and never longer than `at_most`.
pub(crate) fn nap(now: Instant, until: Option<Instant>, at_most: StdDuration) -> StdDuration {
    until.map_or(at_most, |t| StdDuration::from_nanos(t.since(now).as_nanos())).min(at_most)
}
