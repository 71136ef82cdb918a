//! Where both streams stand, as far as the peer can know, and what the positions of a script mean by it.

use std::collections::BTreeMap;

use rightedge_stack::wire::{TcpFlags, TcpSegment};

use super::super::script::{Base, Flags, Position};
use super::super::trace::Frame;

/// Both streams. Positions are relative to the first payload byte of their sender.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Cursor {
    /// Sequence number of the peer's first payload byte.
    pub(super) isn: u32,
    /// Sequence number of the receiver's first payload byte.
    pub(super) irs: u32,
    /// The next new byte of the peer.
    pub(super) next: i64,
    /// The highest acknowledgement seen.
    pub(super) ack: i64,
    /// The right edge of the last window seen.
    pub(super) edge: i64,
    /// What the receiver has in order.
    pub(super) rcv: i64,
    /// What the receiver has sent, FIN included.
    pub(super) snd: i64,
    /// Scale of the receiver's windows, in force.
    pub(super) wscale: u8,
    /// Timestamps are in force.
    pub(super) ts: bool,
    /// TSval of the SYN-ACK.
    pub(super) ts0: u32,
    /// The last TSval seen.
    pub(super) tsval: u32,
}

/// The signed distance between sequence numbers.
pub(super) fn distance(later: u32, earlier: u32) -> i64 {
    i64::from(later.wrapping_sub(earlier).cast_signed())
}

/// A relative position as a sequence number.
pub(super) fn absolute(first: u32, position: i64) -> u32 {
    // Modulo 2^32 is what sequence numbers are.
    first.wrapping_add(position as u32)
}

impl Cursor {
    /// The position that is meant.
    pub(super) fn resolve(&self, p: Position) -> i64 {
        let base = match p.base {
            Base::First => 0,
            Base::Next => self.next,
            Base::Ack => self.ack,
            Base::Edge => self.edge,
            Base::Rcv => self.rcv,
        };
        base.saturating_add(p.offset)
    }

    /// Takes over what a frame of the receiver says, and gives its record.
    pub(super) fn see(&mut self, s: &TcpSegment) -> Frame {
        let syn = s.flags.contains(TcpFlags::SYN);
        let acks = s.flags.contains(TcpFlags::ACK);
        if syn {
            self.irs = s.seq.0.wrapping_add(1);
            self.ts0 = s.options.timestamps.map_or(0, |t| t.tsval);
        }
        let len = s.payload_len();
        let seq = distance(s.seq.0, self.irs);
        let ack = if acks { distance(s.ack.0, self.isn) } else { 0 };
        let wnd = u64::from(s.window) << if syn { 0 } else { self.wscale.min(14) };
        let edge = ack.saturating_add(wnd.cast_signed());
        if acks && !s.flags.contains(TcpFlags::RST) {
            self.ack = self.ack.max(ack);
            self.edge = edge;
        }
        let fin = i64::from(s.flags.contains(TcpFlags::FIN));
        if !syn {
            self.snd = self.snd.max(seq.saturating_add(len.into()).saturating_add(fin));
        }
        if let Some(t) = s.options.timestamps {
            self.tsval = t.tsval;
        }
        let sack = s.options.sack.iter();
        Frame {
            flags: Flags(s.flags),
            seq,
            len,
            ack,
            win: s.window,
            wnd,
            edge,
            sack: sack.map(|b| [distance(b.start.0, self.isn), distance(b.end.0, self.isn)]).collect(),
            mss: s.options.mss,
            wscale: s.options.wscale,
            sackok: s.options.sack_permitted,
            tsecr: s.options.timestamps.map(|t| t.tsecr),
            at: None,
            late: false,
            extra: serde_json::Map::new(),
        }
    }

    /// Does the receiver owe an acknowledgement, having this much in order?
    pub(super) fn owes(&self, state: u8, received: u64) -> bool {
        // Only states in which acknowledgements are sent: ESTABLISHED, FIN-WAIT-1, FIN-WAIT-2, CLOSE-WAIT, LAST-ACK, CLOSING.
        let sends = matches!(state, 1 | 4 | 5 | 8 | 9 | 11);
        // The counter has 64 bits, positions wrap.
        sends && distance(received as u32, self.ack as u32) > 0
    }
}

/// What changed, zeros left out.
pub(super) fn changes<'a>(
    before: &BTreeMap<String, i64>,
    after: impl Iterator<Item = (&'a String, &'a i64)>,
) -> BTreeMap<String, i64> {
    after
        .map(|(name, n)| (name.clone(), n.wrapping_sub(before.get(name).copied().unwrap_or(0))))
        .filter(|(_, n)| *n != 0)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rightedge_stack::units::Seq;
    use rightedge_stack::wire::{Medium, Packet, RxMeta, forge::Forge, parse};

    fn segment(seq: u32, ack: u32, flags: TcpFlags, window: u16) -> TcpSegment {
        let (a, b) = ("10.9.0.2:5001".parse().unwrap(), "10.9.0.1:20000".parse().unwrap());
        let f = Forge::new(a, b).seq_ack(Seq(seq), Seq(ack)).flags(flags).window(window).build();
        let Ok(Packet::Tcp(s)) = parse(Medium::Ip, &f, RxMeta::default()) else { panic!() };
        s
    }

    #[test]
    fn positions_are_what_was_seen_last() {
        let mut c = Cursor { isn: u32::MAX - 9, wscale: 7, ..Cursor::default() };
        let f = c.see(&segment(500, c.isn, TcpFlags::SYN | TcpFlags::ACK, 100));
        assert_eq!((f.seq, f.ack, f.wnd, f.edge), (-1, 0, 100, 100));
        // Across the wrap.
        let f = c.see(&segment(501, 90, TcpFlags::ACK, 2));
        assert_eq!((f.seq, f.ack, f.wnd, f.edge), (0, 100, 256, 356));
        let old = c.see(&segment(501, 80, TcpFlags::ACK, 1));
        assert_eq!((old.ack, c.ack, c.edge), (90, 100, 218));
        c.next = 120;
        c.rcv = 110;
        let at = |base, offset| c.resolve(Position { base, offset });
        assert_eq!(at(Base::First, -3), -3);
        assert_eq!(at(Base::Next, 1), 121);
        assert_eq!(at(Base::Ack, -1), 99);
        assert_eq!(at(Base::Edge, 0), 218);
        assert_eq!(at(Base::Rcv, i64::MAX), i64::MAX);
        assert_eq!(absolute(c.isn, 100), 90);
        assert_eq!(absolute(c.isn, -1), u32::MAX - 10);
    }

    #[test]
    fn a_reset_moves_no_edge() {
        let mut c = Cursor { edge: 77, ..Cursor::default() };
        c.see(&segment(1, 5, TcpFlags::RST | TcpFlags::ACK, 9));
        assert_eq!((c.ack, c.edge), (0, 77));
    }

    #[test]
    fn debts() {
        let c = Cursor { ack: 100, ..Cursor::default() };
        assert!(c.owes(1, 101) && !c.owes(1, 100) && !c.owes(7, 101));
    }

    #[test]
    fn zero_changes_are_left_out() {
        let map =
            |v: &[(&str, i64)]| v.iter().map(|(n, v)| ((*n).to_owned(), *v)).collect::<BTreeMap<_, _>>();
        let (a, b) = (map(&[("A", 1), ("B", 2)]), map(&[("A", 1), ("B", 5), ("C", 1)]));
        assert_eq!(changes(&a, b.iter()), map(&[("B", 3), ("C", 1)]));
    }
}
