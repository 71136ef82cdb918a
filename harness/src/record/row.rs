//! A sample in both files at once: a number is rendered once for `samples.csv` and `samples.jsonl`.

use super::Sample;
use super::sample::{Event, FlagLetters};

/// One column's value.
enum Cell {
    Whole(i64),
    Natural(u64),
    Event(Event),
    Flags(FlagLetters),
    Nothing,
}

impl From<Event> for Cell {
    fn from(event: Event) -> Self {
        Cell::Event(event)
    }
}

impl From<FlagLetters> for Cell {
    fn from(flags: FlagLetters) -> Self {
        Cell::Flags(flags)
    }
}

impl From<i64> for Cell {
    fn from(n: i64) -> Self {
        Cell::Whole(n)
    }
}

impl From<u64> for Cell {
    fn from(n: u64) -> Self {
        Cell::Natural(n)
    }
}

impl From<u32> for Cell {
    fn from(n: u32) -> Self {
        Cell::Natural(n.into())
    }
}

impl From<u16> for Cell {
    fn from(n: u16) -> Self {
        Cell::Natural(n.into())
    }
}

impl From<u8> for Cell {
    fn from(n: u8) -> Self {
        Cell::Natural(n.into())
    }
}

impl<T: Into<Cell>> From<Option<T>> for Cell {
    fn from(n: Option<T>) -> Self {
        n.map_or(Cell::Nothing, Into::into)
    }
}

/// The first line of `samples.csv`.
pub(super) fn header(csv: &mut Vec<u8>) {
    csv.extend_from_slice(Sample::COLUMNS.join(",").as_bytes());
    csv.push(b'\n');
}

macro_rules! columns {
    ($put:expr, $s:expr; $first:ident $(, $name:ident)*) => {
        $put(concat!("{\"", stringify!($first), "\":"), $s.$first.into());
        $($put(concat!(",\"", stringify!($name), "\":"), $s.$name.into());)*
    };
}

/// Appends a row to both.
pub(super) fn write(s: &Sample, csv: &mut Vec<u8>, json: &mut Vec<u8>) {
    let mut digits = itoa::Buffer::new();
    let mut put = |key: &str, cell: Cell| {
        json.extend_from_slice(key.as_bytes());
        let (text, quoted) = match &cell {
            Cell::Whole(n) => (digits.format(*n), false),
            Cell::Natural(n) => (digits.format(*n), false),
            // Letters, points: what needs no quotes in a table and no escapes in JSON.
            Cell::Event(event) => (event.name(), true),
            Cell::Flags(flags) => (flags.as_str(), true),
            Cell::Nothing => {
                json.extend_from_slice(b"null");
                csv.push(b',');
                return;
            }
        };
        if quoted {
            json.push(b'"');
        }
        json.extend_from_slice(text.as_bytes());
        if quoted {
            json.push(b'"');
        }
        csv.extend_from_slice(text.as_bytes());
        csv.push(b',');
    };
    columns!(put, s; packet, t_ns, event, conn, rx_seq, rx_len, rx_flags, tx_ack, tx_win_field, tx_wnd,
        right_edge, skmem_rb, skmem_r, skmem_f, skmem_bl, recv_q, ofo_bytes, rcv_win, rcv_ssthresh,
        window_clamp, rcv_wnd, rcv_mss, scaling_ratio, rcv_nxt, acked, copied, coalesced, collapsed,
        pruned, dropped, clamped, pcap_packet);
    json.extend_from_slice(b"}\n");
    // The comma behind the last column.
    if let Some(last) = csv.last_mut() {
        *last = b'\n';
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_what_a_serializer_makes_of_them() {
        let full = Sample {
            packet: u64::MAX,
            event: Event::Tx,
            rx_flags: "SFRPUEC.".chars().collect(),
            tx_ack: Some(i64::MIN),
            tx_win_field: Some(u16::MAX),
            tx_wnd: Some(0),
            scaling_ratio: Some(u8::MAX),
            copied: i64::MAX,
            clamped: u32::MAX,
            pcap_packet: Some(1),
            ..Sample::default()
        };
        for s in [Sample::default(), full] {
            let (mut csv, mut json) = (Vec::new(), Vec::new());
            header(&mut csv);
            write(&s, &mut csv, &mut json);
            let mut table = csv::Writer::from_writer(Vec::new());
            table.serialize(&s).unwrap();
            assert_eq!(csv, table.into_inner().unwrap());
            assert_eq!(String::from_utf8(json).unwrap(), serde_json::to_string(&s).unwrap() + "\n");
        }
    }
}
