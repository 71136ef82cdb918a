//! Where decisions are collected while somebody listens.

use std::collections::VecDeque;

use crate::{
    SocketId,
    decision::{Cause, Decision, Record},
    time::Instant,
};

/// At most this many decisions wait to be taken; the oldest are dropped and counted beyond it.
pub(crate) const MAX_PENDING: usize = 1 << 16;

/// The decisions that wait to be taken.
#[derive(Debug)]
pub(crate) struct Log {
    listening: bool,
    records: VecDeque<Record>,
    pub(crate) cause: Cause,
    tx: Option<u64>,
    next_tx: u64,
    pub(crate) lost: u64,
}

impl Default for Log {
    fn default() -> Self {
        Log { listening: false, records: VecDeque::new(), cause: Cause::Call, tx: None, next_tx: 1, lost: 0 }
    }
}

impl Log {
    pub(crate) fn listen(&mut self, on: bool) {
        self.listening = on;
        if !on {
            self.records.clear();
        }
    }

    pub(crate) fn listening(&self) -> bool {
        self.listening
    }

    #[inline(always)]
    pub(crate) fn push(&mut self, at: Instant, socket: Option<SocketId>, f: impl FnOnce() -> Decision) {
        if self.listening {
            self.record(at, socket, f);
        }
    }

    /// Apart from the question whether anybody listens, so that only that is asked in place.
    #[cold]
    #[inline(never)]
    fn record(&mut self, at: Instant, socket: Option<SocketId>, f: impl FnOnce() -> Decision) {
        if self.records.len() >= MAX_PENDING {
            self.records.pop_front();
            self.lost += 1;
        }
        let record = Record { at, socket, cause: self.cause, tx: self.tx, decision: f() };
        #[cfg(feature = "tracing")]
        tracing::trace!(target: "rightedge", decision = %record.decision);
        self.records.push_back(record);
    }

    #[inline]
    pub(crate) fn take(&mut self) -> Option<Record> {
        self.records.pop_front()
    }

    /// A departing frame is being built: decisions from now on go into it. Returns its number.
    pub(crate) fn begin_tx(&mut self) -> u64 {
        let id = self.next_tx;
        self.next_tx += 1;
        self.tx = Some(id);
        id
    }

    pub(crate) fn end_tx(&mut self) {
        self.tx = None;
    }
}
