//! A TAP device, a kernel's sender behind it, and the loop that drives a receiver.

use std::io::{self, IoSlice};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration as StdDuration;

use anyhow::{Context as _, Result};
use rightedge_stack::{time::Instant, wire::RxMeta};
use rightedge_tapctl::{
    tap::{IoMode, MAX_FRAME_LEN, OffloadOptions, Tap},
    vnet::{GsoType, VnetHdr, VnetHdrSize},
};

use super::meter::{Meter, Round};
use super::{kernel_side, sender};
use crate::run::wire::{nap, since, tap::KERNEL_HOOKS};
use crate::sender::{End, kernel::KernelSender};

/// The device in the round's own namespace.
const DEVICE: &str = "rightedge0";
/// Bytes read before a receiver settles: one large super-segment, or 33 full-sized segments.
const BATCH: usize = 48 << 10;
/// The longest sleep: the end of the round is looked at this often.
const MAX_NAP: StdDuration = StdDuration::from_millis(20);

/// Somebody who receives.
pub(super) trait Receiver {
    /// Where the next frame goes.
    fn buffer(&mut self) -> &mut [u8];
    /// A frame is in this part of the buffer.
    fn arrived(&mut self, now: Instant, frame: Range<usize>, meta: RxMeta, port: &Port) -> Result<()>;
    /// Nothing more for the moment: the application reads, and what is still to be sent is sent.
    fn settle(&mut self, now: Instant, port: &Port) -> Result<()>;
    /// When to settle at the latest if nothing comes.
    fn due(&mut self, now: Instant) -> Option<Instant>;
    /// Payload bytes that the application got.
    fn read(&self) -> u64;
}

/// The device.
pub(super) struct Port {
    tap: Tap,
    header: usize,
    started: std::time::Instant,
}

/// A buffer of this size holds every frame of the device, header included.
pub(super) fn frame_room(offload: bool) -> usize {
    if offload { MAX_FRAME_LEN } else { 2048 }
}

impl Port {
    /// Makes the device in the namespace of the calling thread and sets the sender's side up.
    ///
    /// # Errors
    /// The device, an address or a sysctl was refused.
    pub(super) fn open(offload: bool) -> Result<Self> {
        let tap = if offload {
            let options = OffloadOptions { vnet_hdr: Some(VnetHdrSize::Ten), ..OffloadOptions::default() };
            Tap::offload(DEVICE, options)
        } else {
            Tap::plain(DEVICE, IoMode::NonBlocking)
        };
        let tap = tap.context("cannot make the TAP device")?;
        kernel_side().apply(DEVICE)?;
        let header = tap.vnet_hdr().map_or(0, VnetHdrSize::bytes);
        Ok(Port { tap, header, started: std::time::Instant::now() })
    }

    /// Starts the sender and drives `receiver` for a round.
    ///
    /// # Errors
    /// The device or the sender failed, or nothing came.
    pub(super) fn drive(
        &self,
        receiver: &mut impl Receiver,
        mut meter: Meter,
        stop: &AtomicBool,
    ) -> Result<Round> {
        let sender = KernelSender::start(sender(), KERNEL_HOOKS)?;
        let round = loop {
            let now = since(self.started);
            let mut batch = 0;
            while batch < BATCH {
                let Some((frame, meta)) = self.receive(receiver.buffer())? else { break };
                batch += frame.len();
                receiver.arrived(now, frame, meta, self)?;
            }
            receiver.settle(now, self)?;
            if let Some(round) = meter.look(receiver.read())? {
                break round;
            }
            if stop.load(Ordering::Relaxed) {
                anyhow::bail!("interrupted");
            }
            if batch == 0 {
                let until = receiver.due(now);
                self.tap
                    .wait_readable(Some(nap(since(self.started), until, MAX_NAP)))
                    .context("cannot wait for the TAP device")?;
            }
        };
        drop(sender.stop(End::Abort));
        Ok(round)
    }

    fn receive(&self, buffer: &mut [u8]) -> Result<Option<(Range<usize>, RxMeta)>> {
        let n = match self.tap.recv(buffer) {
            Ok(n) => n,
            Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
                return Ok(None);
            }
            Err(e) => return Err(e).context("cannot read from the TAP device"),
        };
        let Some(size) = self.tap.vnet_hdr() else { return Ok(Some((0..n, RxMeta::default()))) };
        let data = buffer.get(..n).unwrap_or_default();
        let (h, _) = VnetHdr::parse(data, size).context("virtio header of a frame from the kernel")?;
        let meta = RxMeta {
            gso_size: if h.gso() == GsoType::None { 0 } else { h.gso_size.get() },
            hdr_len: h.hdr_len.get(),
            csum_ok: h.needs_csum() || h.data_valid(),
        };
        Ok(Some((self.header..n, meta)))
    }

    /// Sends a frame. One that finds no room is lost, as on any link.
    ///
    /// # Errors
    /// The device failed.
    pub(super) fn send(&self, frame: &[u8]) -> Result<()> {
        let sent = if self.header > 0 {
            let header = [0u8; 12];
            let header = header.get(..self.header).unwrap_or_default();
            self.tap.send_vectored(&[IoSlice::new(header), IoSlice::new(frame)])
        } else {
            self.tap.send(frame)
        };
        match sent {
            Ok(_) => Ok(()),
            Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => Ok(()),
            Err(e) => Err(e).context("cannot write to the TAP device"),
        }
    }
}
