//! What the stack decided, as data: one typed event for each thing decided, with the numbers that decided it.
//!
//! Decisions are collected only while somebody listens ([`crate::Stack::set_tracing`]); otherwise the closures that
//! would build them are never run. A [`Record`] says which arriving frame, call or timer caused it and, for a decision
//! taken while building a segment, which departing frame carries it. `Display` puts any of them into words; the kernel
//! function that takes the same decision is [`Decision::kernel_function`].

mod words;

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
    /// It was said from outside ([`crate::Steering`]).
    Steered,
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
    /// Somebody asked for one ([`crate::Stack::send_ack`]).
    Asked,
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
    /// Buffers became fragments of their neighbours; nothing was copied.
    Joined,
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
        /// Buffers made; when buffers were joined, those that others were joined onto.
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
