//! The application's calls: read, peek, options, shutdown, close.
//!
//! Answers to (Linux 6.1 and 6.18): `tcp_recvmsg_locked`, `__tcp_cleanup_rbuf`, `tcp_eat_recv_skb`, `sk_setsockopt`,
//! `do_tcp_setsockopt`, `tcp_set_rcvlowat`, `__tcp_close`, `tcp_shutdown`.

use super::{Cx, State, Tcb};
use crate::{
    SocketError,
    counters::Counter,
    decision::Decision,
    profile::{RcvbufClamp, SpaceModel},
    wire::TcpFlags,
};

/// What the application asked for on the way out.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct PendingClose {
    /// close() was called: the slot is freed when the connection ends.
    pub(crate) closed: bool,
}

/// The smallest receive buffer: 2048 bytes and one descriptor (SOCK_MIN_RCVBUF).
pub(crate) const MIN_RCVBUF: i32 = 2304;

/// `SO_RCVBUF` as the kernel stores it: capped, doubled, with a floor.
pub(crate) fn doubled_rcvbuf(value: i32, rmem_max: i32) -> i32 {
    let capped = (value as u32).min(rmem_max.max(0).unsigned_abs()).min((i32::MAX / 2).unsigned_abs());
    ((capped * 2) as i32).max(MIN_RCVBUF)
}

impl Tcb {
    /// Copies up to `max` bytes to `sink` and frees what was read in full. `Ok(0)` is the end of the stream;
    /// [`SocketError::WouldBlock`] means that there is nothing yet.
    pub(crate) fn recv(
        &mut self,
        cx: &mut Cx<'_>,
        max: usize,
        sink: &mut dyn FnMut(&[u8]),
    ) -> Result<usize, SocketError> {
        self.readable_signalled = false;
        let mut left = u32::try_from(max).unwrap_or(u32::MAX);
        let mut copied = 0u32;
        // A read of nothing looks at the first buffer too, and frees a bare FIN.
        let mut look = true;
        while left > 0 || look {
            look = false;
            let Some(head) = self.queue.front() else { break };
            let offset = self.copied_seq.since(head.seq).max(0).unsigned_abs();
            let n = head.len.saturating_sub(offset).min(left);
            let fin = head.flags.contains(TcpFlags::FIN);
            head.copy_range(offset, n, &mut *sink);
            let finished = offset + n >= head.len;
            if n > 0 {
                self.copied_seq += n;
                copied += n;
                left -= n;
                self.space_adjust(cx);
            }
            if !finished {
                break;
            }
            if fin {
                self.copied_seq += 1;
            }
            if let Some(skb) = self.queue.pop_front() {
                self.mem.refund(&mut cx.mem(), skb.truesize);
                cx.shared.note_pressure(cx.now);
                let (truesize, sk_rmem_alloc) = (skb.truesize, self.mem.sk_rmem_alloc);
                self.decide(cx, move || Decision::Refunded { truesize, sk_rmem_alloc });
                cx.shared.spare.recycle(skb);
            }
            if fin {
                break;
            }
        }
        if copied > 0 {
            let (copied_seq, unread) = (self.copied_seq, self.unread());
            self.decide(cx, move || Decision::Read { len: copied, copied_seq, unread });
        }
        if !matches!(self.state, State::Closed | State::TimeWait) {
            self.ack_after_read(cx, copied);
        }
        if copied > 0 || (max == 0 && !self.queue.is_empty()) {
            return Ok(copied as usize);
        }
        self.nothing_to_read()
    }

    /// What a read finds that finds no data.
    fn nothing_to_read(&mut self) -> Result<usize, SocketError> {
        if !self.fin_received
            && let Some(e) = self.error.take()
        {
            // Told once (`sock_error`).
            return Err(e);
        }
        if self.fin_received || self.rcv_shutdown || self.state == State::Closed {
            Ok(0)
        } else {
            Err(SocketError::WouldBlock)
        }
    }

    /// Shows up to `max` unread bytes; nothing else happens.
    pub(crate) fn look(&self, max: usize, sink: &mut dyn FnMut(&[u8])) -> u32 {
        let mut left = u32::try_from(max).unwrap_or(u32::MAX);
        let (mut at, mut shown) = (self.copied_seq, 0u32);
        for skb in &self.queue {
            let offset = at.since(skb.seq).max(0).unsigned_abs();
            let n = skb.len.saturating_sub(offset).min(left);
            if n == 0 {
                break;
            }
            skb.copy_range(offset, n, &mut *sink);
            at += n;
            shown += n;
            left -= n;
        }
        shown
    }

    /// Shows up to `max` unread bytes without taking them. The ACK that is owed is looked at as after a read of so much.
    pub(crate) fn peek(
        &mut self,
        cx: &mut Cx<'_>,
        max: usize,
        sink: &mut dyn FnMut(&[u8]),
    ) -> Result<usize, SocketError> {
        let shown = self.look(max, sink);
        if shown > 0 {
            self.space_adjust(cx);
        }
        if !matches!(self.state, State::Closed | State::TimeWait) {
            self.ack_after_read(cx, shown);
        }
        if shown > 0 || (max == 0 && !self.queue.is_empty()) {
            return Ok(shown as usize);
        }
        self.nothing_to_read()
    }

    fn note_setting(&self, cx: &mut Cx<'_>, name: &'static str, value: i64) {
        let (sk_rcvbuf, window_clamp, rcv_ssthresh) =
            (self.mem.sk_rcvbuf, self.win.window_clamp, self.win.rcv_ssthresh);
        self.decide(cx, move || Decision::Setting {
            name: name.into(),
            value,
            sk_rcvbuf,
            window_clamp,
            rcv_ssthresh,
        });
    }

    /// SO_RCVBUF.
    pub(crate) fn set_rcvbuf(&mut self, cx: &mut Cx<'_>, value: i32) {
        self.mem.rcvbuf_locked = true;
        self.mem.sk_rcvbuf = doubled_rcvbuf(value, cx.shared.sysctl.rmem_max);
        if cx.shared.profile.rcvbuf_clamp == RcvbufClamp::Moves {
            let clamp = self.full_space(cx) as u32;
            self.set_window_clamp(clamp);
        }
        self.note_setting(cx, "SO_RCVBUF", i64::from(value));
    }

    /// SO_RCVLOWAT.
    pub(crate) fn set_rcvlowat(&mut self, cx: &mut Cx<'_>, value: i32) {
        let value = if value < 0 { i32::MAX } else { value };
        let cap =
            if self.mem.rcvbuf_locked { self.mem.sk_rcvbuf >> 1 } else { cx.shared.sysctl.tcp_rmem[2] >> 1 };
        let value = value.min(cap);
        self.rcvlowat = value.max(1);
        self.signal_readable(cx);
        if !self.mem.rcvbuf_locked {
            match cx.shared.profile.space {
                SpaceModel::AdvWinScale => {
                    let need = value.saturating_mul(2);
                    if need > self.mem.sk_rcvbuf {
                        self.mem.sk_rcvbuf = need;
                        self.win.window_clamp = self.window_from_space(cx, need) as u32;
                    }
                }
                SpaceModel::ScalingRatio => {
                    let need = self.space_rule(cx).space_from_window(value);
                    if need > self.mem.sk_rcvbuf {
                        self.mem.sk_rcvbuf = need;
                        if self.win.window_clamp != 0 && self.win.window_clamp < value.unsigned_abs() {
                            self.win.window_clamp = value.unsigned_abs();
                        }
                    }
                }
            }
        }
        self.note_setting(cx, "SO_RCVLOWAT", i64::from(value));
    }

    /// TCP_WINDOW_CLAMP.
    pub(crate) fn set_clamp_option(&mut self, cx: &mut Cx<'_>, value: u32) -> Result<(), SocketError> {
        if value == 0 && self.is_open() {
            return Err(SocketError::Invalid {
                what: "TCP_WINDOW_CLAMP",
                value: 0,
                takes: "at least 1 once connected",
            });
        }
        if value == 0 {
            self.win.window_clamp = 0;
        } else {
            self.set_window_clamp(value);
        }
        self.note_setting(cx, "TCP_WINDOW_CLAMP", i64::from(value));
        Ok(())
    }

    /// Not over: neither closed nor in TIME-WAIT, which in Linux is no longer this socket's.
    pub(crate) fn is_open(&self) -> bool {
        !matches!(self.state, State::Closed | State::TimeWait)
    }

    /// TCP_QUICKACK: 1 leaves ping-pong mode and sends what a read would have sent; 0 enters it.
    pub(crate) fn set_quickack(&mut self, cx: &mut Cx<'_>, on: bool) {
        if on {
            self.ack.pingpong = 0;
            if matches!(self.state, State::Established | State::CloseWait)
                && self.ack.flags.contains(super::AckFlags::SCHED)
            {
                self.ack.flags |= super::AckFlags::PUSHED;
                self.ack_after_read(cx, 1);
            }
        } else {
            self.enter_pingpong(cx);
        }
        self.note_setting(cx, "TCP_QUICKACK", i64::from(on));
    }

    /// Half-closes: nothing more is sent after what is queued.
    pub(crate) fn shutdown_send(&mut self, cx: &mut Cx<'_>) {
        self.snd_shutdown = true;
        match self.state {
            State::Established => {
                self.set_state(cx, State::FinWait1);
                self.queue_fin(cx);
            }
            State::CloseWait => {
                self.set_state(cx, State::LastAck);
                self.queue_fin(cx);
            }
            State::SynSent => self.done(cx),
            State::FinWait1
            | State::FinWait2
            | State::Closing
            | State::LastAck
            | State::TimeWait
            | State::Closed => {}
        }
    }

    /// close(): unread data turns the close into an abort (RFC 2525 §2.17).
    pub(crate) fn close(&mut self, cx: &mut Cx<'_>) {
        // A reader's hold ends with the socket, or its backlog would wait for ever.
        self.release(cx);
        self.pending_close.closed = true;
        self.orphan = true;
        self.rcv_shutdown = true;
        let unread = self.unread() > 0;
        for skb in core::mem::take(&mut self.queue) {
            self.mem.refund(&mut cx.mem(), skb.truesize);
        }
        self.copied_seq = self.rcv_nxt;
        if unread && !matches!(self.state, State::Closed | State::TimeWait) {
            cx.count(Counter::TcpExtTCPAbortOnClose);
            self.abort(cx);
            return;
        }
        self.shutdown_send(cx);
        if self.state == State::FinWait2 {
            self.start_fin_timeout(cx);
        }
    }
}
