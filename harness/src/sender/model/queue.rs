//! The retransmission queue and its SACK scoreboard.
//!
//! Positions are 64-bit stream offsets, so order is total; the FIN is one offset behind the last byte.

use std::collections::VecDeque;

use rightedge_stack::time::{Duration, Instant};

/// Bytes the kernel charges per sent segment beside its payload, as measured on 6.18.
pub(super) const SKB_OVERHEAD: u64 = 832;

/// Segments above a hole that must be selectively acknowledged before it counts as lost.
pub(super) const DUP_THRESH: u32 = 3;

/// Something sent and not yet acknowledged.
#[derive(Clone, Debug)]
pub(super) struct Sent {
    pub(super) start: u64,
    pub(super) len: u32,
    /// MSS-sized segments inside.
    pub(super) packets: u32,
    pub(super) sent_at: Instant,
    pub(super) fin: bool,
    sacked: bool,
    lost: bool,
    /// A retransmission is in flight.
    retrans: bool,
    ever_retrans: bool,
}

/// What an acknowledgement took off the queue.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Acked {
    pub(super) packets: u32,
    /// When the newest segment that was never retransmitted was sent (Karn's rule).
    pub(super) clean_sent_at: Option<Instant>,
    /// A segment from before the loss that was never retransmitted has arrived.
    pub(super) original: bool,
}

/// What a selective acknowledgement marked.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Sacked {
    /// Something that was not marked before.
    pub(super) news: bool,
    /// As [`Acked::original`].
    pub(super) original: bool,
}

/// The queue.
#[derive(Clone, Debug, Default)]
pub(super) struct Queue {
    q: VecDeque<Sent>,
    packets_out: u32,
    sacked_out: u32,
    lost_out: u32,
    retrans_out: u32,
    wmem: u64,
    /// Behind the last byte selectively acknowledged.
    highest_sack: u64,
    /// The newest transmission known to have arrived.
    newest_arrival: Instant,
    /// No entry before this one is lost and waiting for retransmission.
    hint: usize,
}

impl Sent {
    pub(super) fn new(start: u64, len: u32, packets: u32, now: Instant, fin: bool) -> Self {
        Sent {
            start,
            len,
            packets,
            sent_at: now,
            fin,
            sacked: false,
            lost: false,
            retrans: false,
            ever_retrans: false,
        }
    }

    pub(super) fn end(&self) -> u64 {
        self.start + u64::from(self.len)
    }

    fn wmem(&self) -> u64 {
        u64::from(self.len) + u64::from(self.packets) * SKB_OVERHEAD
    }
}

impl Queue {
    pub(super) fn is_empty(&self) -> bool {
        self.q.is_empty()
    }

    pub(super) fn packets_out(&self) -> u32 {
        self.packets_out
    }

    /// Segments believed to be in the network.
    pub(super) fn in_flight(&self) -> u32 {
        (self.packets_out + self.retrans_out).saturating_sub(self.sacked_out + self.lost_out)
    }

    pub(super) fn sacked_out(&self) -> u32 {
        self.sacked_out
    }

    pub(super) fn wmem(&self) -> u64 {
        self.wmem
    }

    pub(super) fn push(&mut self, s: Sent) {
        self.packets_out += s.packets;
        self.wmem += s.wmem();
        self.q.push_back(s);
    }

    /// Everything before `una` is acknowledged. A segment cut in two keeps its rest.
    /// `high_seq` is where sending stood at the loss.
    pub(super) fn ack(&mut self, una: u64, mss: u32, high_seq: u64) -> Acked {
        let mut acked = Acked::default();
        while let Some(s) = self.q.front() {
            if s.end() > una {
                break;
            }
            let Some(s) = self.q.pop_front() else { break };
            self.forget(&s);
            acked.packets += s.packets;
            self.hint = self.hint.saturating_sub(1);
            if !s.ever_retrans && !s.sacked {
                self.newest_arrival = self.newest_arrival.max(s.sent_at);
                acked.clean_sent_at = acked.clean_sent_at.max(Some(s.sent_at));
                acked.original |= s.end() <= high_seq;
            }
        }
        if let Some(mut s) = self.q.front().cloned().filter(|s| s.start < una) {
            self.forget(&s);
            let before = s.packets;
            s.len = u32::try_from(s.end() - una).unwrap_or(0);
            s.start = una;
            s.packets = packets(s.len, mss);
            acked.packets += before.saturating_sub(s.packets);
            self.remember(&s);
            if let Some(front) = self.q.front_mut() {
                *front = s;
            }
        }
        acked
    }

    /// Marks what lies wholly in `[start, end)`.
    pub(super) fn sack(&mut self, start: u64, end: u64, high_seq: u64) -> Sacked {
        let mut out = Sacked::default();
        let from = self.q.partition_point(|s| s.start < start);
        for s in self.q.iter_mut().skip(from) {
            if s.end() > end {
                break;
            }
            if !s.sacked {
                out.news = true;
                out.original |= !s.ever_retrans && s.end() <= high_seq;
                self.newest_arrival = self.newest_arrival.max(s.sent_at);
                self.sacked_out += s.packets;
                if core::mem::take(&mut s.lost) {
                    self.lost_out -= s.packets;
                }
                if core::mem::take(&mut s.retrans) {
                    self.retrans_out -= s.packets;
                }
                s.sacked = true;
                self.highest_sack = self.highest_sack.max(s.end());
            }
        }
        out
    }

    /// Marks holes below enough selectively acknowledged segments as lost (RFC 6675 §3), and retransmissions that
    /// something sent `tolerance` later has overtaken (RFC 8985 §6.2). True if anything is newly lost.
    pub(super) fn mark_lost(&mut self, tolerance: Duration) -> bool {
        let end = self.q.partition_point(|s| s.start < self.highest_sack);
        let (mut above, mut news) = (0u32, false);
        for i in (0..end).rev() {
            let Some(s) = self.q.get_mut(i) else { break };
            if s.sacked {
                above += s.packets;
                continue;
            }
            let hole = !s.lost && !s.ever_retrans && above >= DUP_THRESH;
            let overtaken = s.retrans && s.sent_at + tolerance < self.newest_arrival;
            if hole || overtaken {
                if core::mem::take(&mut s.retrans) {
                    self.retrans_out -= s.packets;
                }
                if !s.lost {
                    s.lost = true;
                    self.lost_out += s.packets;
                }
                self.hint = self.hint.min(i);
                news = true;
            }
        }
        news
    }

    /// The first segment is lost (RFC 6582: three duplicates, or a partial acknowledgement).
    pub(super) fn mark_head_lost(&mut self) {
        if let Some(s) = self.q.front_mut().filter(|s| !s.sacked) {
            if core::mem::take(&mut s.retrans) {
                self.retrans_out -= s.packets;
            }
            if !s.lost {
                s.lost = true;
                self.lost_out += s.packets;
            }
            self.hint = 0;
        }
    }

    /// A time-out: everything not selectively acknowledged is lost. A first segment that *is* marked means that the
    /// receiver has thrown away what it had reported, so then no mark is believed any more.
    pub(super) fn mark_all_lost(&mut self) {
        let reneged = self.q.front().is_some_and(|s| s.sacked);
        (self.lost_out, self.retrans_out) = (0, 0);
        if reneged {
            self.sacked_out = 0;
        }
        for s in &mut self.q {
            s.sacked &= !reneged;
            s.retrans = false;
            s.lost = !s.sacked;
            if s.lost {
                self.lost_out += s.packets;
            }
        }
        self.hint = 0;
    }

    /// The loss was none: nothing is lost any more.
    pub(super) fn unmark_lost(&mut self) {
        self.lost_out = 0;
        self.q.iter_mut().for_each(|s| s.lost = false);
    }

    /// Without SACK every duplicate stands for one segment that has left the network.
    pub(super) fn count_duplicate(&mut self) {
        self.sacked_out = (self.sacked_out + 1).min(self.packets_out.saturating_sub(1));
    }

    /// Takes counted duplicates back when `acked` segments left the queue: one was the hole, the others had been
    /// counted.
    pub(super) fn clear_duplicates(&mut self, acked: u32) {
        self.sacked_out = self.sacked_out.saturating_sub(acked.saturating_sub(1)).min(self.packets_out);
    }

    /// The first segment, whatever is known about it.
    pub(super) fn head(&self) -> Option<&Sent> {
        self.q.front()
    }

    /// Entry `i`.
    pub(super) fn peek(&self, i: usize) -> Option<&Sent> {
        self.q.get(i)
    }

    /// The first segment that is lost and not retransmitted yet: its index and itself.
    pub(super) fn next_lost(&mut self) -> Option<(usize, &Sent)> {
        if self.lost_out == 0 {
            return None;
        }
        while let Some(s) = self.q.get(self.hint) {
            if s.lost && !s.retrans {
                break;
            }
            self.hint += 1;
        }
        self.q.get(self.hint).map(|s| (self.hint, s))
    }

    /// Cuts entry `i` so that it holds at most `len` bytes; the rest follows it.
    pub(super) fn split(&mut self, i: usize, len: u32, mss: u32) {
        let Some(s) = self.q.get(i).filter(|s| s.len > len && len > 0).cloned() else { return };
        self.forget(&s);
        let mut rest = s.clone();
        rest.start = s.start + u64::from(len);
        rest.len = s.len - len;
        rest.packets = packets(rest.len, mss);
        let first = Sent { len, packets: packets(len, mss), ..s };
        self.remember(&first);
        self.remember(&rest);
        if let Some(slot) = self.q.get_mut(i) {
            *slot = first;
        }
        self.q.insert(i + 1, rest);
    }

    /// Entry `i` goes out again.
    pub(super) fn retransmitted(&mut self, i: usize, now: Instant) {
        if let Some(s) = self.q.get_mut(i) {
            if !s.retrans {
                self.retrans_out += s.packets;
            }
            s.retrans = true;
            s.ever_retrans = true;
            s.sent_at = now;
        }
    }

    fn forget(&mut self, s: &Sent) {
        self.packets_out -= s.packets.min(self.packets_out);
        self.wmem -= s.wmem().min(self.wmem);
        if s.sacked {
            self.sacked_out -= s.packets.min(self.sacked_out);
        }
        if s.lost {
            self.lost_out -= s.packets.min(self.lost_out);
        }
        if s.retrans {
            self.retrans_out -= s.packets.min(self.retrans_out);
        }
    }

    fn remember(&mut self, s: &Sent) {
        self.packets_out += s.packets;
        self.wmem += s.wmem();
        self.sacked_out += if s.sacked { s.packets } else { 0 };
        self.lost_out += if s.lost { s.packets } else { 0 };
        self.retrans_out += if s.retrans { s.packets } else { 0 };
    }
}

/// Segments of `mss` bytes that `len` bytes take.
pub(super) fn packets(len: u32, mss: u32) -> u32 {
    len.div_ceil(mss.max(1)).max(1)
}
