use smoltcp::wire::{TcpControl, TcpRepr, TcpSeqNumber};

use super::*;
use crate::interop::testing::{PEER, RECEIVER, frame, plain, stamps};
use crate::sender::pattern;

const PEER_ISN: i32 = -3;
const OWN_ISN: i32 = 1_000_000;

/// A watch over a connection; frames are numbered from 1.
struct Wire {
    watch: Watch,
    packet: u64,
}

impl Wire {
    fn new(content: Content) -> Self {
        Wire { watch: Watch::new(content), packet: 0 }
    }

    fn open(content: Content, peer_scale: Option<u8>, own_scale: Option<u8>) -> Self {
        let mut w = Wire::new(content);
        w.from(&TcpRepr {
            control: TcpControl::Syn,
            seq_number: TcpSeqNumber(PEER_ISN),
            window_scale: peer_scale,
            sack_permitted: true,
            ..plain()
        });
        w.to(&TcpRepr {
            control: TcpControl::Syn,
            seq_number: TcpSeqNumber(OWN_ISN),
            ack_number: Some(TcpSeqNumber(PEER_ISN + 1)),
            window_len: 20_000,
            window_scale: own_scale,
            max_seg_size: Some(1000),
            ..plain()
        });
        w
    }

    fn see(&mut self, way: Way, lost: bool, bytes: &[u8]) -> Option<Seen> {
        self.packet += 1;
        self.watch.frame(self.packet, self.packet * 10, way, lost, bytes).cloned()
    }

    fn from(&mut self, tcp: &TcpRepr<'_>) -> Option<Seen> {
        self.see(Way::FromPeer, false, &frame(tcp))
    }

    fn to(&mut self, tcp: &TcpRepr<'_>) -> Option<Seen> {
        let back = TcpRepr { src_port: RECEIVER.1, dst_port: PEER.1, ..*tcp };
        self.see(Way::ToPeer, false, &frame(&back))
    }

    fn data(&mut self, at: i64, payload: &[u8], lost: bool) -> Option<Seen> {
        let tcp = data(at, payload);
        self.see(Way::FromPeer, lost, &frame(&tcp))
    }

    fn ack(&mut self, ack: i64, window: u16) -> Option<Seen> {
        let number = Some(TcpSeqNumber(PEER_ISN.wrapping_add(1).wrapping_add(ack as i32)));
        self.to(&TcpRepr {
            seq_number: TcpSeqNumber(OWN_ISN + 1),
            ack_number: number,
            window_len: window,
            ..plain()
        })
    }
}

fn data(at: i64, payload: &[u8]) -> TcpRepr<'_> {
    TcpRepr {
        seq_number: TcpSeqNumber(PEER_ISN.wrapping_add(1).wrapping_add(at as i32)),
        ack_number: Some(TcpSeqNumber(OWN_ISN + 1)),
        payload,
        ..plain()
    }
}

/// The bytes that belong at a position.
fn right(at: u64, len: usize) -> Vec<u8> {
    pattern(at, len).to_vec()
}

#[test]
fn positions_are_counted_from_the_first_byte_across_the_wrap() {
    let mut w = Wire::open(Content::Pattern, Some(2), Some(7));
    let first = w.data(0, &right(0, 10), false).unwrap();
    assert_eq!((first.seq, first.end(), first.wrong_byte), (0, 10, None));
    let ack = w.ack(10, 100).unwrap();
    assert_eq!((ack.ack, ack.window, ack.edge()), (Some(10), Some(12_800), Some(12_810)));
    let t = w.watch.trace();
    assert_eq!((t.received, t.wscale, t.sack, t.mss), (10, Some(7), true, Some(1000)));
    assert_eq!(t.segments.iter().map(|s| s.packet).collect::<Vec<_>>(), [1, 2, 3, 4]);
}

#[test]
fn a_window_is_scaled_only_if_both_offer_it_and_never_in_a_syn() {
    let mut w = Wire::open(Content::Pattern, None, Some(7));
    assert_eq!(w.watch.trace().segments[1].window, Some(20_000));
    assert_eq!(w.ack(0, 100).unwrap().window, Some(100));
    let mut w = Wire::open(Content::Pattern, Some(0), Some(30));
    assert_eq!(w.watch.trace().segments[1].window, Some(20_000));
    assert_eq!(w.ack(0, 1).unwrap().window, Some(1 << 14), "RFC 7323 §2.3: 14 is the most");
}

#[test]
fn a_wrong_byte_is_found_but_not_in_what_is_acknowledged() {
    let mut w = Wire::open(Content::Pattern, Some(0), Some(0));
    let mut bytes = right(0, 10);
    bytes[7] ^= 1;
    assert_eq!(w.data(0, &bytes, false).unwrap().wrong_byte, Some(7));
    w.ack(10, 100);
    assert_eq!(w.data(9, &[0xaa], false).unwrap().wrong_byte, None, "a probe may carry any byte there");
    let mut straddling = right(8, 10);
    straddling[0] ^= 1;
    straddling[5] ^= 1;
    assert_eq!(w.data(8, &straddling, false).unwrap().wrong_byte, Some(13));
}

#[test]
fn unknown_content_must_be_the_same_again() {
    let mut w = Wire::open(Content::Consistent, Some(0), Some(0));
    assert_eq!(w.data(10, b"0123456789", true).unwrap().wrong_byte, None);
    assert_eq!(w.data(0, b"abcdefghij0123", false).unwrap().wrong_byte, None);
    assert_eq!(w.data(8, b"ij01X", false).unwrap().wrong_byte, Some(12));
    assert_eq!(w.data(18, b"89new", false).unwrap().wrong_byte, None);
    assert_eq!(w.data(20, b"old", false).unwrap().wrong_byte, Some(20));
}

#[test]
fn what_is_out_of_order_counts_when_the_gap_is_filled_and_what_is_lost_never() {
    let mut w = Wire::open(Content::Pattern, Some(0), Some(0));
    w.data(20, &right(20, 10), false);
    w.data(10, &right(10, 10), true);
    assert_eq!(w.watch.trace().received, 0);
    w.data(0, &right(0, 10), false);
    assert_eq!(w.watch.trace().received, 10);
    // Held back in the network, and now it arrives after all.
    w.watch.reaches(4);
    assert_eq!(w.watch.trace().received, 30);
    w.watch.reaches(77);
    assert!(!w.watch.trace().segments[3].lost);
}

#[test]
fn timestamps_say_what_was_heard() {
    let mut w = Wire::open(Content::Pattern, Some(0), Some(0));
    let tcp = TcpRepr { timestamp: stamps(5, 6), ..data(0, b"") };
    let seen = w.from(&tcp).unwrap();
    assert_eq!((seen.tsval, seen.tsecr), (Some(5), Some(6)));
    let syn = TcpRepr { ack_number: None, control: TcpControl::Rst, timestamp: stamps(5, 6), ..data(0, b"") };
    assert_eq!(w.from(&syn).unwrap().tsecr, None, "without ACK the field says nothing");
}

#[test]
fn other_frames_are_counted_and_damaged_ones_do_not_count() {
    let mut w = Wire::open(Content::Pattern, Some(0), Some(0));
    let bytes = right(0, 10);
    let mut damaged = frame(&data(0, &bytes));
    *damaged.last_mut().unwrap() ^= 1;
    assert!(w.see(Way::FromPeer, false, &damaged).is_none());
    let other = TcpRepr { src_port: 9, ..data(0, &bytes) };
    assert!(w.from(&other).is_none());
    assert!(w.see(Way::FromPeer, false, b"no frame").is_none());
    let t = w.watch.trace();
    assert_eq!((t.damaged, t.others, t.received, t.segments.len()), (1, 2, 0, 2));
}

#[test]
fn padding_is_no_payload() {
    let mut w = Wire::open(Content::Pattern, Some(0), Some(0));
    let bytes = right(0, 1);
    let mut padded = frame(&data(0, &bytes));
    padded.resize(60, 0xee);
    let seen = w.see(Way::FromPeer, false, &padded).unwrap();
    assert_eq!((seen.len, seen.wrong_byte), (1, None));
}

#[test]
fn the_end_of_the_stream_is_where_the_fin_is() {
    let mut w = Wire::open(Content::Pattern, Some(0), Some(0));
    let bytes = right(0, 10);
    let fin = TcpRepr { control: TcpControl::Fin, ..data(0, &bytes) };
    assert!(w.from(&fin).unwrap().is_data());
    assert_eq!(w.watch.trace().fin, Some(10));
}

#[test]
fn no_frame_upsets_it() {
    let mut w = Wire::open(Content::Consistent, Some(14), Some(14));
    let whole = frame(&TcpRepr { timestamp: stamps(1, 2), ..data(5, b"hello") });
    for n in 0..whole.len() {
        w.see(Way::FromPeer, false, &whole[..n]);
        for value in [0, 0x55, 0xff] {
            let mut other = whole.clone();
            other[n] = value;
            w.see(Way::FromPeer, false, &other);
            w.see(Way::ToPeer, false, &other);
        }
    }
    // A number far away is no offset into memory.
    for at in [-1, i64::from(i32::MIN), i64::from(i32::MAX), 1 << 30] {
        w.data(at, b"x", false);
    }
    assert!(w.watch.trace().received <= 1 << 31);
}
