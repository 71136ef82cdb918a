//! Decisions in words, and the kernel functions they answer to (Linux 6.1 and 6.18).

use core::fmt;

use super::{
    AckNow, CoalesceHow, CoalesceRefusal, CollapseOutcome, Decision, DropReason, Growth, MemoryLimit,
    QueueKind, WindowChoice, WindowLimit,
};

impl Decision {
    /// The kernel function that takes this decision (names as of Linux 6.18; the same in 6.1 unless said in its docs).
    #[must_use]
    pub fn kernel_function(&self) -> &'static str {
        match self {
            Decision::Arrived { predicted: true, .. } => "tcp_rcv_established (header prediction)",
            Decision::Arrived { .. } => "tcp_rcv_established",
            Decision::Charged { queue: QueueKind::Backlog, .. } => "tcp_add_backlog",
            Decision::Charged { .. } => "skb_set_owner_r",
            Decision::Coalesced { queue: QueueKind::Backlog, .. } => "tcp_add_backlog",
            Decision::Coalesced { .. } | Decision::NotCoalesced { .. } => "tcp_try_coalesce",
            Decision::Refunded { .. } => "sock_rfree",
            Decision::PruneCalled { .. } | Decision::PruneFailed { .. } => "tcp_prune_queue",
            Decision::Clamped { .. } => "tcp_clamp_window",
            Decision::Collapsed { queue: QueueKind::OutOfOrder, .. } => "tcp_collapse_ofo_queue",
            Decision::Collapsed { .. } => "tcp_collapse",
            Decision::OfoPruned { .. } => "tcp_prune_ofo_queue",
            Decision::MemoryRefused { .. } | Decision::Pressure { .. } => "__sk_mem_raise_allocated",
            Decision::Forced { .. } => "sk_forced_mem_schedule",
            Decision::Dropped { reason, .. } => reason.kernel_function(),
            Decision::ScalingRatio { .. } | Decision::RcvMss { .. } => "tcp_measure_rcv_mss",
            Decision::Ssthresh { .. } => "tcp_grow_window",
            Decision::Window(_) => "__tcp_select_window, tcp_select_window",
            Decision::AckNow { why, .. } => match why {
                AckNow::WindowUpdate | AckNow::AfterRead => "__tcp_cleanup_rbuf",
                AckNow::DelackTimer => "tcp_delack_timer_handler",
                AckNow::SackTimer => "tcp_compressed_ack_kick",
                AckNow::Challenge => "tcp_send_challenge_ack",
                AckNow::OutOfWindow | AckNow::Probe => "tcp_send_dupack",
                AckNow::OnData => "__tcp_transmit_skb",
                AckNow::Deferred => "tcp_release_cb",
                AckNow::Asked => "tcp_send_ack",
                AckNow::Handshake => "tcp_rcv_state_process",
                AckNow::MoreThanOneMss | AckNow::QuickAck | AckNow::Marked | AckNow::DuplicateAck => {
                    "__tcp_ack_snd_check"
                }
            },
            Decision::AckDelayed { .. } => "tcp_send_delayed_ack",
            Decision::AckCompressed { .. } => "__tcp_ack_snd_check",
            Decision::AckSkipped { .. } => "tcp_oow_rate_limited",
            Decision::Autotuned { .. } => "tcp_rcv_space_adjust",
            Decision::Read { .. } => "tcp_recvmsg_locked",
            Decision::Sack { duplicate: true, .. } => "tcp_dsack_set",
            Decision::Sack { .. } => "tcp_sack_new_ofo_skb",
            Decision::State { .. } => "tcp_set_state",
            Decision::Retransmitted { .. } => "tcp_retransmit_skb",
            Decision::Setting { .. } => "sk_setsockopt, do_tcp_setsockopt",
        }
    }
}

impl DropReason {
    /// The kernel function that drops for this reason.
    #[must_use]
    pub fn kernel_function(self) -> &'static str {
        match self {
            DropReason::Malformed | DropReason::BadChecksum => "tcp_v4_rcv",
            DropReason::NotForUs | DropReason::Fragment => "ip_rcv",
            DropReason::NoSocket => "tcp_v4_send_reset",
            DropReason::OldData
            | DropReason::OverWindow
            | DropReason::ZeroWindow
            | DropReason::RcvQueueFull => "tcp_data_queue",
            DropReason::BeyondWindow | DropReason::BadSequence => "tcp_sequence",
            DropReason::OfoNoMemory | DropReason::OfoCovered => "tcp_data_queue_ofo",
            DropReason::OfoPruned => "tcp_prune_ofo_queue",
            DropReason::BacklogFull => "tcp_add_backlog",
            DropReason::Paws | DropReason::PawsOldAck | DropReason::Challenged | DropReason::Reset => {
                "tcp_validate_incoming"
            }
            DropReason::AckUnsentData => "tcp_ack",
            DropReason::NoAckFlag | DropReason::BadFlags => "tcp_rcv_established",
            DropReason::AfterClose => "tcp_rcv_state_process",
            DropReason::ListenOverflow => "tcp_conn_request",
        }
    }

    /// The reason in words.
    #[must_use]
    pub fn in_words(self) -> &'static str {
        match self {
            DropReason::Malformed => "malformed",
            DropReason::BadChecksum => "bad checksum",
            DropReason::NotForUs => "not addressed to this host",
            DropReason::Fragment => "an IP fragment",
            DropReason::NoSocket => "no socket for it",
            DropReason::OldData => "nothing new in it",
            DropReason::OverWindow => "it starts beyond the right edge",
            DropReason::BeyondWindow => "it reaches beyond the right edge",
            DropReason::ZeroWindow => "the window is zero",
            DropReason::RcvQueueFull => "no memory in the receive buffer",
            DropReason::OfoNoMemory => "no memory for out-of-order data",
            DropReason::OfoCovered => "already held out of order",
            DropReason::OfoPruned => "pruned from the out-of-order queue",
            DropReason::BacklogFull => "the backlog is full",
            DropReason::Paws => "its timestamp is old (PAWS)",
            DropReason::PawsOldAck => "an old ACK with an old timestamp",
            DropReason::BadSequence => "its sequence numbers are not acceptable",
            DropReason::AckUnsentData => "it acknowledges data never sent",
            DropReason::Challenged => "suspicious: answered with a challenge ACK",
            DropReason::Reset => "it reset the connection",
            DropReason::NoAckFlag => "no ACK flag",
            DropReason::AfterClose => "data after close",
            DropReason::ListenOverflow => "the accept queue is full",
            DropReason::BadFlags => "flags that make no sense here",
        }
    }
}

impl WindowLimit {
    /// The limit in words.
    #[must_use]
    pub fn in_words(self) -> &'static str {
        match self {
            WindowLimit::NoMemory => "no memory was found for a segment",
            WindowLimit::NothingToOffer => "the whole buffer is worth nothing",
            WindowLimit::BelowSixteenth => "free space is below 1/16 of the whole space",
            WindowLimit::BelowMss => "free space is below one segment",
            WindowLimit::BelowScaleUnit => "free space is below one unit of the window scale",
            WindowLimit::FreeSpace => "free space",
            WindowLimit::RcvSsthresh => "rcv_ssthresh",
            WindowLimit::KeptWithinMss => "old window kept: within one segment of free space",
            WindowLimit::WholeSegments => "free space in whole segments",
            WindowLimit::Steered => "what was said from outside",
        }
    }
}

impl fmt::Display for WindowChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "window {} (raw {} by {}", self.rcv_wnd, self.raw_window, self.limit.in_words())?;
        if self.edge_kept {
            write!(f, "; old right edge kept")?;
        }
        write!(
            f,
            "; free {} of {}, rcv_ssthresh {}, clamp {}, edge {:+})",
            self.free_space, self.full_space, self.rcv_ssthresh, self.window_clamp, self.edge_moved
        )
    }
}

impl QueueKind {
    /// The queue in words.
    #[must_use]
    pub fn in_words(self) -> &'static str {
        match self {
            QueueKind::Receive => "receive queue",
            QueueKind::OutOfOrder => "out-of-order queue",
            QueueKind::Backlog => "backlog",
        }
    }
}

impl fmt::Display for Decision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Decision::Arrived { seq, len, truesize, gso_size, predicted } => {
                write!(f, "arrived {seq}+{len}, truesize {truesize}")?;
                if *gso_size != 0 {
                    write!(f, ", super-segment of {gso_size}-byte segments")?;
                }
                if *predicted { write!(f, ", as predicted") } else { Ok(()) }
            }
            Decision::Charged { queue, truesize, sk_rmem_alloc, sk_rcvbuf, sk_forward_alloc } => write!(
                f,
                "charged {truesize:+} for the {}: skmem_r {sk_rmem_alloc} of {sk_rcvbuf}, skmem_f {sk_forward_alloc}",
                queue.in_words()
            ),
            Decision::Coalesced { queue, how, len, delta, total_len } => {
                let how = match how {
                    CoalesceHow::TailRoom => "copied into tail room",
                    CoalesceHow::HeadStolen => "head stolen",
                    CoalesceHow::FragsMoved => "fragments moved",
                };
                write!(
                    f,
                    "coalesced {len} bytes in the {} ({how}): {delta:+}, now {total_len} bytes",
                    queue.in_words()
                )
            }
            Decision::NotCoalesced { queue, why } => {
                let why = match why {
                    CoalesceRefusal::SwitchedOff => "coalescing is off",
                    CoalesceRefusal::NoNeighbour => "nothing queued",
                    CoalesceRefusal::NotContiguous => "not contiguous",
                    CoalesceRefusal::TargetCloned => "the queued buffer is shared",
                    CoalesceRefusal::FragList => "a list of buffers cannot be merged",
                    CoalesceRefusal::TooManyFrags => "too many fragments",
                    CoalesceRefusal::HeadNotStealable => "its head cannot be stolen",
                };
                write!(f, "queued on its own in the {}: {why}", queue.in_words())
            }
            Decision::Refunded { truesize, sk_rmem_alloc } => {
                write!(f, "refunded {truesize}: skmem_r {sk_rmem_alloc}")
            }
            Decision::PruneCalled { sk_rmem_alloc, sk_rcvbuf, asked } => {
                write!(f, "PruneCalled: {asked} asked with skmem_r {sk_rmem_alloc} of {sk_rcvbuf}")
            }
            Decision::Clamped {
                sk_rcvbuf_before,
                sk_rcvbuf,
                sk_rmem_alloc,
                rcv_ssthresh_before,
                rcv_ssthresh,
            } => {
                write!(f, "clamp: ")?;
                if sk_rcvbuf_before == sk_rcvbuf {
                    write!(f, "skmem_rb stays {sk_rcvbuf} (skmem_r {sk_rmem_alloc})")?;
                } else {
                    write!(f, "skmem_rb raised {sk_rcvbuf_before} to {sk_rcvbuf}, what is charged")?;
                }
                if rcv_ssthresh_before != rcv_ssthresh {
                    write!(f, ", rcv_ssthresh cut {rcv_ssthresh_before} to {rcv_ssthresh}")?;
                }
                Ok(())
            }
            Decision::Collapsed {
                queue,
                outcome,
                freed,
                made,
                copied,
                sk_rmem_alloc_before,
                sk_rmem_alloc,
            } => {
                let q = queue.in_words();
                match outcome {
                    CollapseOutcome::Rewritten => write!(
                        f,
                        "collapsed the {q}: {freed} buffers into {made}, {copied} bytes copied, skmem_r {sk_rmem_alloc_before} to {sk_rmem_alloc}"
                    ),
                    CollapseOutcome::Joined => write!(
                        f,
                        "joined the {q}: {freed} buffers became fragments of {made}, nothing copied, skmem_r {sk_rmem_alloc_before} to {sk_rmem_alloc}"
                    ),
                    CollapseOutcome::NothingBloated => {
                        write!(f, "{q} not collapsed: every buffer is well packed")
                    }
                    CollapseOutcome::SwitchedOff => write!(f, "{q} not collapsed: collapse is off"),
                    CollapseOutcome::AboveThreshold => {
                        write!(
                            f,
                            "{q} not collapsed: skmem_r {sk_rmem_alloc_before} is above tcp_collapse_max_bytes"
                        )
                    }
                }
            }
            Decision::OfoPruned { dropped, bytes, sk_rmem_alloc } => {
                write!(f, "OfoPruned: {dropped} buffers with {bytes} bytes dropped, skmem_r {sk_rmem_alloc}")
            }
            Decision::PruneFailed { sk_rmem_alloc, sk_rcvbuf } => {
                write!(f, "RcvPruned: no room made, skmem_r {sk_rmem_alloc} of {sk_rcvbuf}")
            }
            Decision::MemoryRefused { limit, pages, allocated } => {
                let l = match limit {
                    MemoryLimit::TcpMemHigh => "tcp_mem[2]",
                    MemoryLimit::FairShare => "the fair share under pressure",
                    MemoryLimit::Group => "the group's limit",
                };
                write!(f, "{pages} pages refused by {l} ({allocated} in use)")
            }
            Decision::Forced { truesize } => write!(f, "{truesize} forced: the receive queue is empty"),
            Decision::Pressure { on, allocated } => {
                write!(
                    f,
                    "memory pressure {} ({allocated} pages in use)",
                    if *on { "begins" } else { "ends" }
                )
            }
            Decision::Dropped { reason, seq, len } => write!(f, "DROPPED {seq}+{len}: {}", reason.in_words()),
            Decision::ScalingRatio { before, after, len, truesize, window_clamp, rcv_ssthresh } => write!(
                f,
                "scaling_ratio {before} to {after} ({len} of {truesize} bytes): window_clamp {window_clamp}, rcv_ssthresh {rcv_ssthresh}"
            ),
            Decision::RcvMss { before, after } => write!(f, "rcv_mss {before} to {after}"),
            Decision::Ssthresh { growth, before, after, room, window_clamp } => match growth {
                Growth::Grew => write!(f, "rcv_ssthresh {before} to {after}"),
                Growth::CutByRoom => {
                    write!(f, "rcv_ssthresh {before} to {after}, all the room there was ({room})")
                }
                Growth::NoRoom => {
                    write!(
                        f,
                        "rcv_ssthresh stays {before}: room {room} under clamp {window_clamp} and free space"
                    )
                }
                Growth::PoorlyPacked => {
                    write!(f, "rcv_ssthresh stays {before}: too much memory for the payload")
                }
                Growth::UnderPressure => write!(f, "rcv_ssthresh {before} to {after}: memory pressure"),
            },
            Decision::Window(w) => w.fmt(f),
            Decision::AckNow { why, ack } => {
                let why = match why {
                    AckNow::MoreThanOneMss => "more than one rcv_mss unacknowledged",
                    AckNow::QuickAck => "quick-ACK mode",
                    AckNow::Marked => "marked ACK-now",
                    AckNow::DuplicateAck => "duplicate ACK for a hole",
                    AckNow::OutOfWindow => "answer to something unacceptable",
                    AckNow::Challenge => "challenge",
                    AckNow::WindowUpdate => "window update after a read",
                    AckNow::AfterRead => "the reader caught up",
                    AckNow::DelackTimer => "delayed-ACK timer",
                    AckNow::SackTimer => "compressed SACKs flushed",
                    AckNow::Handshake => "handshake or close",
                    AckNow::Probe => "answer to a probe",
                    AckNow::OnData => "on departing data",
                    AckNow::Deferred => "one ACK for the drained backlog",
                    AckNow::Asked => "asked for from outside",
                };
                write!(f, "ACK {ack} now: {why}")
            }
            Decision::AckDelayed { until, ato } => {
                write!(f, "ACK delayed until {:.3} s (ato {ato} jiffies)", until.as_secs_f64())
            }
            Decision::AckCompressed { held, until } => {
                write!(f, "duplicate ACK held back ({held} so far, until {:.6} s)", until.as_secs_f64())
            }
            Decision::AckSkipped { counter } => write!(f, "answer suppressed by the rate limit ({counter})"),
            Decision::Autotuned { copied, space, sk_rcvbuf_before, sk_rcvbuf, window_clamp, rcv_rtt_us } => {
                write!(
                    f,
                    "autotuning: {copied} bytes read in a round trip of {rcv_rtt_us} µs ({space} before): skmem_rb {sk_rcvbuf_before} to {sk_rcvbuf}, window_clamp {window_clamp}"
                )
            }
            Decision::Read { len, copied_seq, unread } => {
                write!(f, "read {len} bytes up to {copied_seq}, {unread} unread")
            }
            Decision::Sack { start, end, duplicate } => {
                write!(f, "{} {start}..{end}", if *duplicate { "D-SACK" } else { "SACK" })
            }
            Decision::State { from, to } => write!(f, "{from} to {to}"),
            Decision::Retransmitted { seq, len, backoff } => {
                write!(f, "retransmitted {seq}+{len} (back-off {backoff})")
            }
            Decision::Setting { name, value, sk_rcvbuf, window_clamp, rcv_ssthresh } => write!(
                f,
                "{name} = {value}: skmem_rb {sk_rcvbuf}, window_clamp {window_clamp}, rcv_ssthresh {rcv_ssthresh}"
            ),
        }
    }
}
