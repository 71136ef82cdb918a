//! The path of one segment: ours with decisions off and on, and smoltcp's socket, handed the same frames.

use bytes::Bytes;
use rightedge_benches::connection::{Connections, Forger, Setup};
use rightedge_benches::rival::Rival;
use rightedge_benches::{Receiver, feed};
use rightedge_stack::profile::{Coalesce, Profile};
use rightedge_stack::wire::RxMeta;

use super::measure::{Case, Effort, Measured, Timed, compare, timed};

/// Segments in a round; the application reads behind every 32 of them.
pub const BATCH: u32 = 1024;
const READ: u32 = 32;

/// A receiver with its peer and the place in the stream.
struct Stream<R> {
    receiver: R,
    peer: Forger,
    at: u32,
    len: u32,
}

impl<R: Receiver> Stream<R> {
    /// A round. The frames of a batch are made before the clock starts, and are in the cache as a device's ring is behind
    /// the call that read from it.
    fn round(&mut self) -> Timed {
        let len = self.len;
        let mut round = Timed { seconds: 0.0, count: 0.0 };
        for _ in 0..BATCH / READ {
            let from = self.at;
            self.at = from.wrapping_add(READ * len);
            let frames = self.peer.segments((0..READ).map(|i| from.wrapping_add(i * len)), len as usize);
            let mut read = 0;
            let t = timed(|| {
                read = feed(&mut self.receiver, &frames, READ as usize);
                READ.into()
            });
            // What does not do the work does not count.
            if read != (READ * len) as usize {
                return Timed { count: 0.0, ..t };
            }
            round.seconds += t.seconds;
            round.count += t.count;
        }
        round
    }
}

fn ours(setup: &Setup, len: u32) -> Stream<Connections> {
    let receiver = Connections::new(setup, 1);
    Stream { peer: receiver.peers[0], receiver, at: 0, len }
}

fn case<'a, R: Receiver + 'a>(name: &str, mut stream: Stream<R>) -> Case<'a> {
    Case::new(name, move || stream.round())
}

/// In order: full, small and tiny segments, super-segments; with coalescing and without.
pub fn in_order(effort: Effort, each: &mut dyn FnMut(&str)) -> Vec<Measured> {
    let mut all = Vec::new();
    for len in [1, 100, 1448] {
        let mut separate = Profile::linux_6_18();
        separate.coalesce = Coalesce::Off;
        let rival = Rival::new(4 << 20);
        let mut cases = [
            case("rightedge", ours(&Setup::usual(), len)),
            case("smoltcp", Stream { peer: rival.peer, receiver: rival, at: 0, len }),
            case("rightedge, decisions on", ours(&Setup { decisions: true, ..Setup::usual() }, len)),
            case("rightedge, coalesce=off", ours(&Setup { profile: separate, ..Setup::usual() }, len)),
        ];
        all.extend(compare(&format!("segment/in-order-{len}"), "segment", effort, &mut cases, each));
    }
    let len = 44 * 1448;
    let mut large = ours(&Setup::usual(), len);
    large.receiver.with_meta(RxMeta { gso_size: 1448, hdr_len: 0, csum_ok: true });
    let rival = Rival::new(8 << 20);
    let mut cases =
        [case("rightedge", large), case("smoltcp", Stream { peer: rival.peer, receiver: rival, at: 0, len })];
    all.extend(compare("segment/super-64k", "super-segment", effort, &mut cases, each));
    all
}

/// The price of global pressure: the same segments when all connections together use too much.
pub fn pressure(effort: Effort, each: &mut dyn FnMut(&str)) -> Vec<Measured> {
    let mut cases = [
        case("ample", ours(&Setup::usual(), 1448)),
        case("under pressure", ours(&Setup { pressure: true, ..Setup::usual() }, 1448)),
    ];
    compare("scale/pressure", "segment", effort, &mut cases, each)
}

/// Does the work of `rounds` rounds for somebody who counts instructions; `false` if there is no such kind.
pub fn repeat(kind: &str, len: u32, rounds: u32) -> bool {
    let mut stream: Box<dyn FnMut() -> Timed> = match kind {
        "in-order" => {
            let mut s = ours(&Setup::usual(), len);
            Box::new(move || s.round())
        }
        "rival" => {
            let receiver = Rival::new(4 << 20);
            let mut s = Stream { peer: receiver.peer, receiver, at: 0, len };
            Box::new(move || s.round())
        }
        _ => return false,
    };
    (0..rounds).all(|_| stream().count > 0.0)
}

/// Segments that come out of order are put between so many holes.
const HOLES: [u32; 5] = [10, 100, 1_000, 10_000, 100_000];
/// How many are timed.
const INSERTS: u32 = 500;

/// Out of order: the cost of one more when there are that many holes, at places all over the queue.
pub fn holes(effort: Effort, each: &mut dyn FnMut(&str)) -> Vec<Measured> {
    let mut cases: Vec<Case<'_>> = HOLES
        .iter()
        .map(|&holes| {
            Case::new(holes.to_string(), move || {
                let mut c = Connections::new(&Setup { rcvbuf: Some(1 << 30), ..Setup::usual() }, 1);
                let n = holes + INSERTS;
                // Every place once, in an order that jumps about: the multiplier is a prime.
                let places = (0..n).map(|i| (u64::from(i) * 2_654_435_761 % u64::from(n)) as u32 * 200 + 100);
                let frames: Vec<Bytes> = c.peers[0].segments(places, 50);
                let (before, timed_ones) = frames.split_at(holes as usize);
                for f in before {
                    c.arrive(f);
                }
                timed(|| {
                    for f in timed_ones {
                        c.arrive(f);
                    }
                    INSERTS.into()
                })
            })
        })
        .collect();
    compare("segment/holes", "insert", effort, &mut cases, each)
}
