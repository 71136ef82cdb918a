//! The stack, with an application that reads everything at once and copies nothing.
//!
//! Each frame is read into a buffer of its own, which the stack keeps as long as bytes of it wait; then the buffer is used
//! again. So neither bytes nor zeroes are copied, and no memory is asked for but a few words per frame.

use std::net::SocketAddr;
use std::ops::Range;

use anyhow::Result;
use bytes::{Bytes, BytesMut};
use rightedge_stack::{
    Event, ListenOptions, SocketId, SocketOption, Stack, StackConfig, nic::Driver, profile::Profile,
    time::Instant, wire::RxMeta,
};

use super::port::{Port, Receiver, frame_room};
use super::{TCP_RMEM, WINDOW};
use crate::run::wire::{PORT, STACK_IP, STACK_MAC};

/// The stack and its reader.
pub(super) struct Ours {
    stack: Stack,
    connection: Option<SocketId>,
    /// Where the next frame goes; empty once it has come.
    next: BytesMut,
    /// Frames of this batch, whole.
    held: Vec<Bytes>,
    /// Buffers that nobody uses.
    free: Vec<BytesMut>,
    room: usize,
    decisions: bool,
    read: u64,
}

impl Ours {
    /// A stack that listens. With `decisions`, they are taken and thrown away.
    ///
    /// # Errors
    /// The stack refuses its configuration.
    pub(super) fn new(offload: bool, decisions: bool) -> Result<Self> {
        let profile = Profile::linux_6_18();
        let mut config = StackConfig::ethernet(profile.clone(), STACK_MAC, STACK_IP.into(), 24);
        config.sysctls.set(&profile, "net.ipv4.tcp_rmem", TCP_RMEM)?;
        config.driver = if offload { Driver::TapVnet } else { Driver::TapBuild };
        let mut stack = Stack::new(config)?;
        stack.set_tracing(decisions);
        let mut options = ListenOptions::default();
        options.set(SocketOption::WindowClamp(u32::try_from(WINDOW)?))?;
        stack.listen(SocketAddr::new(STACK_IP.into(), PORT), options)?;
        let room = frame_room(offload);
        Ok(Ours {
            stack,
            connection: None,
            next: BytesMut::new(),
            held: Vec::new(),
            free: Vec::new(),
            room,
            decisions,
            read: 0,
        })
    }

    fn transmit(&mut self, port: &Port) -> Result<()> {
        while let Some(t) = self.stack.poll_transmit() {
            port.send(&t.frame)?;
        }
        Ok(())
    }
}

impl Receiver for Ours {
    fn buffer(&mut self) -> &mut [u8] {
        if self.next.is_empty() {
            // The one used last is still in the cache.
            self.next = self.free.pop().unwrap_or_else(|| BytesMut::zeroed(self.room));
        }
        &mut self.next
    }

    fn arrived(&mut self, now: Instant, frame: Range<usize>, meta: RxMeta, port: &Port) -> Result<()> {
        let whole = std::mem::take(&mut self.next).freeze();
        self.stack.ingress(now, &whole.slice(frame), meta);
        self.held.push(whole);
        self.transmit(port)
    }

    fn settle(&mut self, now: Instant, port: &Port) -> Result<()> {
        if self.stack.poll_timeout().is_some_and(|t| t <= now) {
            self.stack.handle_timeout(now);
        }
        while let Some(event) = self.stack.poll_event() {
            if let Event::Acceptable(listener) = event {
                self.connection = self.stack.accept(listener).or(self.connection);
            }
        }
        if let Some(id) = self.connection {
            while let Ok(n @ 1..) = self.stack.recv_with(now, id, usize::MAX, &mut |piece| {
                std::hint::black_box(piece);
            }) {
                self.read += n as u64;
            }
        }
        self.transmit(port)?;
        while self.decisions
            && let Some(record) = self.stack.poll_decision()
        {
            std::hint::black_box(record);
        }
        for whole in self.held.drain(..) {
            // What the stack still keeps is given up here; it has the memory for as long as it needs it.
            if let Ok(buffer) = whole.try_into_mut() {
                self.free.push(buffer);
            }
        }
        Ok(())
    }

    fn due(&mut self, _: Instant) -> Option<Instant> {
        self.stack.poll_timeout()
    }

    fn read(&self) -> u64 {
        self.read
    }
}
