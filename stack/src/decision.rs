//! What the stack decided, as data: one typed event for each thing decided, with the numbers that decided it.
//!
//! Decisions are collected only while somebody listens ([`crate::Stack::set_tracing`]); otherwise the closures that
//! would build them are never run. A [`Record`] says which arriving frame, call or timer caused it and, for a decision
//! taken while building a segment, which departing frame carries it. `Display` puts any of them into words; the kernel
//! function that takes the same decision is [`Decision::kernel_function`].

use core::fmt;
use std::borrow::Cow;

use crate::{
    profile::{ShrinkPolicy, SpaceRule},
    time::Instant,
    units::Seq,
};

/// What made the stack act.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "kebab-case"))]
pub enum Cause {
    /// The arriving frame with this number (the first frame handed to the stack is 1).
    Frame(u64),
    /// A call of the application (read, setsockopt, connect, close …).
    Call,
    /// A timer of the stack.
    Timer,
}

/// One decision with its circumstances.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Record {
    /// When, on the caller's clock.
    pub at: Instant,
    /// The socket it concerns, if one does.
    pub socket: Option<crate::SocketId>,
    /// What made the stack act.
    pub cause: Cause,
    /// The departing frame (numbered from 1) that this decision went into, if it is about one.
    pub tx: Option<u64>,
    /// The decision.
    pub decision: Decision,
}

/// Which queue of a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "kebab-case"))]
pub enum QueueKind {
    /// `sk_receive_queue`: in order, readable.
    Receive,
    /// The out-of-order queue.
    OutOfOrder,
    /// The backlog: segments that arrived while a reader owned the socket.
    Backlog,
}

/// Why a segment (or a piece of one) was not kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "kebab-case"))]
#[non_exhaustive]
pub enum DropReason {
    /// Frame or packet malformed: too short, bad version, lengths that disagree.
    Malformed,
    /// IP or TCP checksum wrong.
    BadChecksum,
    /// Not addressed to this host.
    NotForUs,
    /// An IP fragment; reassembly is not modelled.
    Fragment,
    /// No socket for it.
    NoSocket,
    /// Everything in it was received before.
    OldData,
    /// It starts at or beyond the right edge of the window.
    OverWindow,
    /// It reaches beyond the right edge and the kernel generation refuses such segments (`BeyondWindow`).
    BeyondWindow,
    /// In-order data while the window is zero (`TCPZeroWindowDrop`).
    ZeroWindow,
    /// In-order data without memory for it (`TCPRcvQDrop`).
    RcvQueueFull,
    /// Out-of-order data without memory for it (`TCPOFODrop`).
    OfoNoMemory,
    /// Out-of-order data that is already held (`TCPOFOMerge`).
    OfoCovered,
    /// Thrown out of the out-of-order queue to make room (`OfoPruned`).
    OfoPruned,
    /// The backlog is full (`TCPBacklogDrop`).
    BacklogFull,
    /// Old timestamp (`PAWSEstab`).
    Paws,
    /// An old pure ACK with an old timestamp (`PAWSOldAck`).
    PawsOldAck,
    /// Sequence number outside what can be accepted.
    BadSequence,
    /// Acknowledges data never sent.
    AckUnsentData,
    /// A RST or SYN outside or inside the window that is answered with a challenge ACK.
    Challenged,
    /// A RST that closed the connection.
    Reset,
    /// Neither ACK, RST nor SYN.
    NoAckFlag,
    /// Behind the peer's FIN, or data after the application closed the socket.
    AfterClose,
    /// The listener's queue is full.
    ListenOverflow,
    /// Flags that make no sense in this state.
    BadFlags,
}

/// How two segments became one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "kebab-case"))]
pub enum CoalesceHow {
    /// The bytes were copied into the tail room of the queued buffer: no charge.
    TailRoom,
    /// The arriving head became a fragment of the queued segment: its descriptor is saved.
    HeadStolen,
    /// The arriving fragments were moved: the arriving head is saved.
    FragsMoved,
}

/// Why two segments could not become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "kebab-case"))]
pub enum CoalesceRefusal {
    /// Switched off by policy.
    SwitchedOff,
    /// Nothing queued to join.
    NoNeighbour,
    /// It does not start where the neighbour ends.
    NotContiguous,
    /// The neighbour is shared with somebody else (a clone).
    TargetCloned,
    /// One of the two carries a list of whole buffers.
    FragList,
    /// More fragments than one segment may hold.
    TooManyFrags,
    /// The arriving head is not a page fragment, so it cannot be stolen.
    HeadNotStealable,
}

/// Which limit decided the raw window (`__tcp_select_window`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "kebab-case"))]
pub enum WindowLimit {
    /// No memory was found for a segment: the window is zero for one ACK.
    NoMemory,
    /// The full window is not worth one byte.
    NothingToOffer,
    /// Free space is below a sixteenth of the whole space.
    BelowSixteenth,
    /// Free space is below one segment.
    BelowMss,
    /// Free space is below one unit of the window scale.
    BelowScaleUnit,
    /// Free space was the smallest.
    FreeSpace,
    /// rcv_ssthresh was the smallest.
    RcvSsthresh,
    /// Without scaling: the old window is kept because it is within one segment of the free space.
    KeptWithinMss,
    /// Without scaling: rounded down to whole segments.
    WholeSegments,
}

/// One choice of a window with everything that went into it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct WindowChoice {
    /// sk_rcvbuf, bytes.
    pub sk_rcvbuf: i32,
    /// sk_rmem_alloc, bytes.
    pub sk_rmem_alloc: i32,
    /// sk_backlog.len, bytes.
    pub backlog_len: i32,
    /// How memory becomes window.
    pub space_rule: SpaceRule,
    /// `tcp_space()`: the window that the free memory is worth; may be negative.
    pub free_space: i32,
    /// `tcp_full_space()`: the window that the whole buffer is worth.
    pub full_space: i32,
    /// window_clamp, bytes.
    pub window_clamp: u32,
    /// rcv_ssthresh, bytes.
    pub rcv_ssthresh: u32,
    /// Estimate of the peer's segment size (`icsk_ack.rcv_mss`).
    pub rcv_mss: u32,
    /// Scale shift of this side's window.
    pub rcv_wscale: u8,
    /// Whether, and in which form, the right edge may move left.
    pub shrink: ShrinkPolicy,
    /// What `__tcp_select_window` came to, before the no-shrink rule.
    pub raw_window: u32,
    /// The limit that decided it.
    pub limit: WindowLimit,
    /// rcv_nxt when the window was chosen.
    pub rcv_nxt: Seq,
    /// What was left of the window offered before (`tcp_receive_window`).
    pub old_window: u32,
    /// rcv_wnd as stored at the last advertisement.
    pub old_rcv_wnd: u32,
    /// The no-shrink rule kept the old right edge although less was wanted.
    pub edge_kept: bool,
    /// The new rcv_wnd.
    pub rcv_wnd: u32,
    /// The 16-bit field on the wire.
    pub field: u16,
    /// How far the right edge moved, in bytes; negative is to the left.
    pub edge_moved: i64,
}

/// Why an ACK went out at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "kebab-case"))]
pub enum AckNow {
    /// More than one rcv_mss is unacknowledged and the window would not close.
    MoreThanOneMss,
    /// Quick-ACK mode (start of the connection, recovery, or the route says so).
    QuickAck,
    /// The ACK-now mark: a hole was filled or there is no memory.
    Marked,
    /// A duplicate ACK for an out-of-order segment.
    DuplicateAck,
    /// Something unacceptable arrived and must be answered.
    OutOfWindow,
    /// A challenge to a suspicious RST, SYN or ACK.
    Challenge,
    /// The reader took enough to make a window update worthwhile.
    WindowUpdate,
    /// The reader emptied the queue after pushed data, or a full segment was waiting.
    AfterRead,
    /// The delayed-ACK timer fired.
    DelackTimer,
    /// The SACK-compression timer fired or a SACK block had to be flushed.
    SackTimer,
    /// Part of opening or closing the connection.
    Handshake,
    /// Answer to a keep-alive or window probe.
    Probe,
    /// It rides on data this side sends anyway.
    OnData,
    /// One ACK for a batch that was drained from the backlog.
    Deferred,
}

/// Why rcv_ssthresh did or did not grow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "kebab-case"))]
pub enum Growth {
    /// Grown by the full step.
    Grew,
    /// Grown, but only by the room left under the clamp and the free space.
    CutByRoom,
    /// No room: already at the clamp or at the free space.
    NoRoom,
    /// The segment's memory is too large for its payload.
    PoorlyPacked,
    /// Global or group memory pressure: cut instead.
    UnderPressure,
}

/// What the collapse did, or why it did not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "kebab-case"))]
pub enum CollapseOutcome {
    /// Segments were rewritten.
    Rewritten,
    /// Every segment is well packed already.
    NothingBloated,
    /// Collapse is switched off.
    SwitchedOff,
    /// sk_rmem_alloc is above tcp_collapse_max_bytes.
    AboveThreshold,
}

/// Which limit refused memory (`__sk_mem_raise_allocated`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "kebab-case"))]
pub enum MemoryLimit {
    /// tcp_mem\[2\].
    TcpMemHigh,
    /// Under pressure and this socket uses more than its share.
    FairShare,
    /// The group (memory cgroup) is at its limit.
    Group,
}

/// One thing decided. Byte counts are bytes, windows are unscaled, sequence numbers absolute.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize), serde(tag = "kind", rename_all = "kebab-case"))]
#[non_exhaustive]
pub enum Decision {
    /// A segment reached its socket.
    Arrived {
        /// First sequence number.
        seq: Seq,
        /// Payload bytes.
        len: u32,
        /// Charged memory its buffer costs.
        truesize: i32,
        /// Payload bytes per segment of a super-segment; 0 for an ordinary one.
        gso_size: u16,
        /// Whether header prediction took it.
        predicted: bool,
    },
    /// Memory was charged to the socket.
    Charged {
        /// For which queue.
        queue: QueueKind,
        /// The charge.
        truesize: i32,
        /// sk_rmem_alloc afterwards.
        sk_rmem_alloc: i32,
        /// sk_rcvbuf.
        sk_rcvbuf: i32,
        /// sk_forward_alloc afterwards.
        sk_forward_alloc: i32,
    },
    /// A segment was merged into a queued one.
    Coalesced {
        /// In which queue.
        queue: QueueKind,
        /// How.
        how: CoalesceHow,
        /// Payload bytes merged.
        len: u32,
        /// What the merge was charged.
        delta: i32,
        /// Payload bytes of the queued segment afterwards.
        total_len: u32,
    },
    /// A segment was queued on its own.
    NotCoalesced {
        /// In which queue.
        queue: QueueKind,
        /// Why.
        why: CoalesceRefusal,
    },
    /// Memory was given back when the reader consumed buffers.
    Refunded {
        /// How much.
        truesize: i32,
        /// sk_rmem_alloc afterwards.
        sk_rmem_alloc: i32,
    },
    /// Memory could not be had: the ladder of `tcp_prune_queue` begins.
    PruneCalled {
        /// sk_rmem_alloc.
        sk_rmem_alloc: i32,
        /// sk_rcvbuf.
        sk_rcvbuf: i32,
        /// Truesize of the arriving segment.
        asked: i32,
    },
    /// `tcp_clamp_window`: the buffer may be raised to what is charged, and rcv_ssthresh is cut if it is not enough.
    Clamped {
        /// sk_rcvbuf before.
        sk_rcvbuf_before: i32,
        /// sk_rcvbuf after.
        sk_rcvbuf: i32,
        /// sk_rmem_alloc.
        sk_rmem_alloc: i32,
        /// rcv_ssthresh before.
        rcv_ssthresh_before: u32,
        /// rcv_ssthresh after.
        rcv_ssthresh: u32,
    },
    /// A queue was rewritten into tight buffers, or was not.
    Collapsed {
        /// Which queue.
        queue: QueueKind,
        /// What came of it.
        outcome: CollapseOutcome,
        /// Buffers freed.
        freed: u32,
        /// Buffers made.
        made: u32,
        /// Payload bytes copied.
        copied: u64,
        /// sk_rmem_alloc before.
        sk_rmem_alloc_before: i32,
        /// sk_rmem_alloc after.
        sk_rmem_alloc: i32,
    },
    /// Out-of-order segments were thrown away to make room.
    OfoPruned {
        /// How many buffers.
        dropped: u32,
        /// Their payload bytes.
        bytes: u64,
        /// sk_rmem_alloc afterwards.
        sk_rmem_alloc: i32,
    },
    /// The ladder ended without success.
    PruneFailed {
        /// sk_rmem_alloc.
        sk_rmem_alloc: i32,
        /// sk_rcvbuf.
        sk_rcvbuf: i32,
    },
    /// A global or group limit refused memory.
    MemoryRefused {
        /// Which.
        limit: MemoryLimit,
        /// Pages asked for.
        pages: i64,
        /// Pages in use under that limit.
        allocated: i64,
    },
    /// Memory was taken although a limit was reached: an in-order segment for an empty queue must be let in.
    Forced {
        /// Its truesize.
        truesize: i32,
    },
    /// Global memory pressure began or ended.
    Pressure {
        /// Began?
        on: bool,
        /// Pages in use.
        allocated: i64,
    },
    /// A segment or part of one was not kept.
    Dropped {
        /// Why.
        reason: DropReason,
        /// First sequence number.
        seq: Seq,
        /// Payload bytes.
        len: u32,
    },
    /// The socket's scaling_ratio was measured anew.
    ScalingRatio {
        /// Before, in 256ths.
        before: u8,
        /// After, in 256ths.
        after: u8,
        /// Payload of the segment measured.
        len: u32,
        /// Its truesize.
        truesize: i32,
        /// window_clamp afterwards.
        window_clamp: u32,
        /// rcv_ssthresh afterwards.
        rcv_ssthresh: u32,
    },
    /// The estimate of the peer's segment size changed.
    RcvMss {
        /// Before.
        before: u32,
        /// After.
        after: u32,
    },
    /// rcv_ssthresh was considered for growth.
    Ssthresh {
        /// What came of it.
        growth: Growth,
        /// Before.
        before: u32,
        /// After.
        after: u32,
        /// Room under the clamp and the free space before.
        room: i32,
        /// window_clamp.
        window_clamp: u32,
    },
    /// A window was chosen for a departing segment.
    Window(WindowChoice),
    /// An ACK is sent now.
    AckNow {
        /// Why.
        why: AckNow,
        /// What it acknowledges.
        ack: Seq,
    },
    /// An ACK is owed and waits for the delayed-ACK timer.
    AckDelayed {
        /// When the timer fires.
        until: Instant,
        /// ATO in jiffies.
        ato: u32,
    },
    /// A duplicate ACK is held back by SACK compression.
    AckCompressed {
        /// How many are held back now.
        held: u8,
        /// When they go out at the latest.
        until: Instant,
    },
    /// An answer was owed but the rate limit swallowed it.
    AckSkipped {
        /// The counter it shows up in.
        counter: &'static str,
    },
    /// Receive-buffer autotuning looked at one round trip.
    Autotuned {
        /// Bytes the reader took in it.
        copied: i64,
        /// What it had taken before (rcvq_space).
        space: u32,
        /// sk_rcvbuf before.
        sk_rcvbuf_before: i32,
        /// sk_rcvbuf after.
        sk_rcvbuf: i32,
        /// window_clamp after.
        window_clamp: u32,
        /// Receiver-side round-trip estimate, µs.
        rcv_rtt_us: u32,
    },
    /// The reader took bytes.
    Read {
        /// How many.
        len: u32,
        /// copied_seq afterwards.
        copied_seq: Seq,
        /// Unread bytes left.
        unread: u32,
    },
    /// A block of sequence space is reported as received out of order (or twice).
    Sack {
        /// Start.
        start: Seq,
        /// End.
        end: Seq,
        /// Reported as received twice (D-SACK).
        duplicate: bool,
    },
    /// A connection changed state.
    State {
        /// Before, as `ss` names it.
        from: &'static str,
        /// After.
        to: &'static str,
    },
    /// A segment of this side was sent again.
    Retransmitted {
        /// Its first sequence number.
        seq: Seq,
        /// Its payload bytes.
        len: u32,
        /// How many times in a row the timer fired.
        backoff: u8,
    },
    /// A socket option or sysctl changed something a window hangs on.
    Setting {
        /// Its name.
        name: Cow<'static, str>,
        /// The value asked for.
        value: i64,
        /// sk_rcvbuf afterwards.
        sk_rcvbuf: i32,
        /// window_clamp afterwards.
        window_clamp: u32,
        /// rcv_ssthresh afterwards.
        rcv_ssthresh: u32,
    },
}

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
