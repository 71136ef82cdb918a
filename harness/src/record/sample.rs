//! One row of `samples.csv`: what one event left behind in one connection.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// What kind of event a sample describes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Event {
    /// A segment arrived.
    #[default]
    Rx,
    /// A segment departed.
    Tx,
    /// The application read.
    Read,
    /// A timer of the stack fired.
    Timer,
}

impl Event {
    /// The name in the files.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Event::Rx => "rx",
            Event::Tx => "tx",
            Event::Read => "read",
            Event::Timer => "timer",
        }
    }
}

/// The flags of a segment as letters; eight have room.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct FlagLetters {
    len: u8,
    letters: [u8; 8],
}

impl FlagLetters {
    /// The letters.
    #[must_use]
    pub fn as_str(&self) -> &str {
        let letters = self.letters.get(..usize::from(self.len)).unwrap_or_default();
        std::str::from_utf8(letters).unwrap_or_default()
    }
}

impl FromIterator<char> for FlagLetters {
    /// What has no room is left out.
    fn from_iter<I: IntoIterator<Item = char>>(all: I) -> Self {
        let mut flags = FlagLetters::default();
        for letter in all {
            let at = usize::from(flags.len);
            let Some(room) = flags.letters.get_mut(at..at + letter.len_utf8()) else { break };
            letter.encode_utf8(room);
            flags.len += letter.len_utf8() as u8;
        }
        flags
    }
}

impl fmt::Debug for FlagLetters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_str().fmt(f)
    }
}

impl Serialize for FlagLetters {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for FlagLetters {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Letters;

        impl serde::de::Visitor<'_> for Letters {
            type Value = FlagLetters;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the letters of a segment's flags")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<FlagLetters, E> {
                Ok(text.chars().collect())
            }
        }

        from.deserialize_str(Letters)
    }
}

/// The state of a connection after one event. Byte counts are bytes, windows unscaled; every sequence-like number is
/// relative to the first payload byte of the peer (`rx_seq`, `right_edge`, `rcv_nxt`, `acked`, `copied`).
///
/// The struct is flat so that the same fields are the columns of `samples.csv` and the keys of `samples.jsonl`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// Number of the arriving frame, or of the last one that arrived.
    pub packet: u64,
    /// Time of the event on the run's clock, nanoseconds.
    pub t_ns: u64,
    /// What happened.
    pub event: Event,
    /// Number of the connection within the run.
    pub conn: u32,
    /// First sequence number of the arriving segment.
    pub rx_seq: i64,
    /// Payload bytes of the arriving segment.
    pub rx_len: u32,
    /// Flags of the segment, as letters (`S`, `F`, `R`, `P`, `.`, `U`, `E`, `C`).
    pub rx_flags: FlagLetters,
    /// Acknowledgement number of the departing segment.
    pub tx_ack: Option<i64>,
    /// The 16-bit window field of the departing segment.
    pub tx_win_field: Option<u16>,
    /// That field, scaled.
    pub tx_wnd: Option<u32>,
    /// The right edge of the window last offered.
    pub right_edge: i64,
    /// sk_rcvbuf.
    pub skmem_rb: i64,
    /// sk_rmem_alloc.
    pub skmem_r: i64,
    /// sk_forward_alloc.
    pub skmem_f: i64,
    /// Backlog length.
    pub skmem_bl: i64,
    /// Unread bytes in order.
    pub recv_q: i64,
    /// Payload bytes held out of order.
    pub ofo_bytes: i64,
    /// What the peer may still send: right edge less rcv_nxt.
    pub rcv_win: i64,
    /// rcv_ssthresh.
    pub rcv_ssthresh: i64,
    /// window_clamp.
    pub window_clamp: i64,
    /// rcv_wnd as stored at the last advertisement.
    pub rcv_wnd: i64,
    /// Estimate of the peer's segment size.
    pub rcv_mss: i64,
    /// scaling_ratio in 256ths, where the kernel generation has one.
    pub scaling_ratio: Option<u8>,
    /// rcv_nxt.
    pub rcv_nxt: i64,
    /// What has been acknowledged on the wire.
    pub acked: i64,
    /// What the application has read.
    pub copied: i64,
    /// Segments merged into a neighbour by this event.
    pub coalesced: u32,
    /// Collapses that rewrote a queue during this event.
    pub collapsed: u32,
    /// Prune calls during this event.
    pub pruned: u32,
    /// Segments (or pieces) dropped by this event.
    pub dropped: u32,
    /// Times that sk_rcvbuf was raised, or rcv_ssthresh cut, by the clamp during this event.
    pub clamped: u32,
    /// The packet's number in `wire.pcapng`, counted from 1; `explain --packet N` takes it.
    pub pcap_packet: Option<u64>,
}

impl Sample {
    /// The columns in file order.
    pub const COLUMNS: [&'static str; 32] = [
        "packet",
        "t_ns",
        "event",
        "conn",
        "rx_seq",
        "rx_len",
        "rx_flags",
        "tx_ack",
        "tx_win_field",
        "tx_wnd",
        "right_edge",
        "skmem_rb",
        "skmem_r",
        "skmem_f",
        "skmem_bl",
        "recv_q",
        "ofo_bytes",
        "rcv_win",
        "rcv_ssthresh",
        "window_clamp",
        "rcv_wnd",
        "rcv_mss",
        "scaling_ratio",
        "rcv_nxt",
        "acked",
        "copied",
        "coalesced",
        "collapsed",
        "pruned",
        "dropped",
        "clamped",
        "pcap_packet",
    ];
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_columns_are_the_fields_in_order() {
        let mut w = csv::Writer::from_writer(Vec::new());
        w.serialize(Sample::default()).unwrap();
        let text = String::from_utf8(w.into_inner().unwrap()).unwrap();
        assert_eq!(text.lines().next().unwrap(), Sample::COLUMNS.join(","));
    }

    #[test]
    fn flags_read_back_and_have_room_for_eight() {
        let all: FlagLetters = "SFRPUEC.".chars().collect();
        assert_eq!(all.as_str(), "SFRPUEC.");
        assert_eq!(serde_json::from_str::<FlagLetters>("\"SFRPUEC.\"").unwrap(), all);
        let long: FlagLetters = "SFRPUECµµ".chars().collect();
        assert_eq!(long.as_str(), "SFRPUEC");
        assert_eq!(format!("{:?}", FlagLetters::default()), "\"\"");
    }
}
