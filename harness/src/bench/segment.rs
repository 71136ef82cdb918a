//! The path of one segment: ours with decisions off and on, and smoltcp's socket, handed the same frames.

use bytes::Bytes;
use rightedge_benches::connection::{Connections, Forger, Setup};
use rightedge_benches::rival::Rival;
use rightedge_benches::{Receiver, feed};
use rightedge_stack::profile::Coalesce;
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

fn case<R: Receiver + 'static>(name: &str, mut stream: Stream<R>) -> Case<'static> {
    Case::new(name, move || stream.round())
}

/// What is compared: in order with full, small and tiny segments, super-segments, and between holes.
pub const GROUPS: [&str; 6] =
    ["in-order-1", "in-order-100", "in-order-1448", "super-64k", "holes", "holes, decisions on"];

/// The cases of a group, ours first; none if there is no such group.
#[must_use]
pub fn cases(group: &str) -> Vec<Case<'static>> {
    let tracing = || Setup { decisions: true, ..Setup::usual() };
    let mut separate = Setup::usual();
    separate.profile.coalesce = Coalesce::Off;
    match group {
        "in-order-1" | "in-order-100" | "in-order-1448" => {
            let len = group.rsplit('-').next().and_then(|n| n.parse().ok()).unwrap_or(1448);
            let rival = Rival::new(4 << 20);
            vec![
                case("rightedge", ours(&Setup::usual(), len)),
                case("smoltcp", Stream { peer: rival.peer, receiver: rival, at: 0, len }),
                case("rightedge, decisions on", ours(&tracing(), len)),
                case("rightedge, coalesce=off", ours(&separate, len)),
            ]
        }
        "super-64k" => {
            let len = 44 * 1448;
            let large = |setup: &Setup| {
                let mut large = ours(setup, len);
                large.receiver.with_meta(RxMeta { gso_size: 1448, hdr_len: 0, csum_ok: true });
                large
            };
            let rival = Rival::new(8 << 20);
            vec![
                case("rightedge", large(&Setup::usual())),
                case("smoltcp", Stream { peer: rival.peer, receiver: rival, at: 0, len }),
                case("rightedge, decisions on", large(&tracing())),
                case("rightedge, coalesce=off", large(&separate)),
            ]
        }
        "holes" => HOLES.map(|n| between_holes(n, false)).into(),
        "holes, decisions on" => HOLES.map(|n| between_holes(n, true)).into(),
        _ => Vec::new(),
    }
}

/// Times a group.
pub fn measure(group: &str, effort: Effort, each: &mut dyn FnMut(&str)) -> Vec<Measured> {
    compare(&format!("segment/{group}"), per(group), effort, &mut cases(group), each)
}

/// What the figures of a group are per.
#[must_use]
pub fn per(group: &str) -> &'static str {
    match group {
        "super-64k" => "super-segment",
        g if g.starts_with("holes") => "insert",
        _ => "segment",
    }
}

/// The price of global pressure: the same segments when all connections together use too much.
pub fn pressure(effort: Effort, each: &mut dyn FnMut(&str)) -> Vec<Measured> {
    let mut cases = [
        case("ample", ours(&Setup::usual(), 1448)),
        case("under pressure", ours(&Setup { pressure: true, ..Setup::usual() }, 1448)),
    ];
    compare("scale/pressure", "segment", effort, &mut cases, each)
}

/// Does the work of a case for somebody who counts instructions. Returns how many segments that was, if there is such a case.
#[must_use]
pub fn repeat(group: &str, case: &str) -> Option<u64> {
    let mut case = cases(group).into_iter().find(|c| c.name == case)?;
    // Behind a queue that was filled for it, once is enough.
    let rounds = if group.starts_with("holes") { 1 } else { 8 };
    let count: f64 = (0..rounds).map(|_| (case.round)().count).sum();
    Some(count as u64)
}

/// Segments that come out of order are put between so many holes.
const HOLES: [u32; 5] = [10, 100, 1_000, 10_000, 100_000];
/// How many are timed.
const INSERTS: u32 = 500;

/// The cost of one more when there are that many holes, at places all over the queue. The rival holds a few holes at the most,
/// and is not asked.
fn between_holes(holes: u32, decisions: bool) -> Case<'static> {
    Case::new(holes.to_string(), move || {
        let setup = Setup { rcvbuf: Some(1 << 30), decisions, ..Setup::usual() };
        let mut c = Connections::new(&setup, 1);
        let n = holes + INSERTS;
        // Every place once, in an order that jumps about: the multiplier is a prime.
        let places = (0..n).map(|i| (u64::from(i) * 2_654_435_761 % u64::from(n)) as u32 * 200 + 100);
        let frames: Vec<Bytes> = c.peers[0].segments(places, 50);
        let (before, timed_ones) = frames.split_at(holes as usize);
        for f in before {
            c.arrive(f);
        }
        timed(|| {
            feed(&mut c, timed_ones, timed_ones.len());
            INSERTS.into()
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_case_does_its_work() {
        for group in GROUPS {
            let all = cases(group);
            assert!(all.len() >= 4, "{group}");
            for mut case in all {
                if case.name.len() < 6 || !group.starts_with("holes") {
                    assert!((case.round)().count > 0.0, "{group}, {}", case.name);
                }
            }
        }
        assert!(cases("no-such").is_empty() && repeat("in-order-1", "nobody").is_none());
    }
}
