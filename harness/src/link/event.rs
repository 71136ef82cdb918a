//! What the link did with each packet, as records.

use serde::Serialize;

use rightedge_stack::time::{Duration, Instant};

/// Which way a frame travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Dir {
    /// From the sender to the receiving stack: data.
    Down,
    /// From the receiving stack to the sender: acknowledgements.
    Up,
}

/// One packet's fate, decided when it was pushed.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LinkEvent {
    /// When the packet was pushed.
    pub at: Instant,
    /// Its direction.
    pub dir: Dir,
    /// Its number in that direction, from 1; a super-segment counts once.
    pub number: u64,
    /// Bytes of the frame as pushed.
    pub len: u32,
    /// Bytes it stands for on the wire: a super-segment repeats its headers once per segment.
    pub wire_len: u32,
    /// What became of it.
    pub fate: Fate,
}

/// What became of a packet.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "fate", rename_all = "snake_case")]
pub enum Fate {
    /// It will come out.
    Forward {
        /// When.
        deliver_at: Instant,
        /// How long it waits for the packets before it, transmission time apart.
        waited: Duration,
        /// It got the extra delay, so that later packets may overtake it.
        reordered: bool,
        /// It comes out twice.
        duplicated: bool,
        /// The bit that was flipped, counted from the start of the frame.
        corrupted_bit: Option<u32>,
    },
    /// It will not.
    Drop {
        /// Why.
        cause: DropCause,
    },
}

/// Why a packet was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum DropCause {
    /// Its number is in the list of packets to lose.
    Listed,
    /// The dice said so.
    Random,
    /// The queue before the rate limiter had no room for its bytes.
    QueueBytes,
    /// The queue before the rate limiter held too many packets.
    QueuePackets,
    /// The emulator's own memory limit; shows a specification that holds too much in flight.
    LinkFull,
}

/// Counts of one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct LinkStats {
    /// Packets pushed.
    pub pushed: u64,
    /// Bytes pushed.
    pub pushed_bytes: u64,
    /// Packets delivered, duplicates included.
    pub delivered: u64,
    /// Bytes delivered, duplicates included.
    pub delivered_bytes: u64,
    /// Packets lost by list or by chance.
    pub lost: u64,
    /// Packets the queue had no room for.
    pub queue_drops: u64,
    /// Packets dropped by the emulator's memory limit.
    pub overflow_drops: u64,
    /// Packets given the extra delay.
    pub reordered: u64,
    /// Packets sent twice.
    pub duplicated: u64,
    /// Packets with a flipped bit.
    pub corrupted: u64,
    /// The most bytes the queue held.
    pub queue_peak_bytes: u64,
}
