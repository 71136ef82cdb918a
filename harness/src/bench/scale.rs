//! Many connections, and an attack: what each costs in time and in memory.

use bytes::Bytes;
use rightedge_benches::Receiver;
use rightedge_benches::connection::{Connections, Setup};
use rightedge_stack::time::Duration;

use super::measure::{Case, Effort, Measured, Unit, compare, timed};

/// Numbers of connections.
const CONNECTIONS: [u32; 4] = [1, 100, 10_000, 100_000];
/// Segments in a round, at least one per connection.
const SEGMENTS: u32 = 20_000;
/// Frames that are made at a time.
const BATCH: u32 = 1_000;

/// A segment when so many connections take turns, and the timers of all of them.
pub fn connections(effort: Effort, most: u32, each: &mut dyn FnMut(&str)) -> Vec<Measured> {
    let numbers = || CONNECTIONS.iter().copied().filter(|n| *n <= most);
    let setup = Setup { rcvbuf: None, ..Setup::usual() };
    let mut all = Vec::new();
    let mut cases: Vec<Case<'_>> = numbers()
        .map(|n| {
            let mut c = Connections::new(&setup, n);
            let mut at = 0u32;
            let order: Vec<usize> = (0..n as usize).collect();
            Case::new(n.to_string(), move || {
                let payload = Bytes::from(vec![0x5a; 1448]);
                let mut count = 0;
                let mut seconds = 0.0;
                while count < u64::from(SEGMENTS.max(n)) {
                    // A batch for each number, as long as the others', so that frames are as near for all.
                    let again = (BATCH / n).max(1);
                    for group in order.chunks(BATCH as usize) {
                        let frames: Vec<(usize, Bytes)> = (0..again)
                            .flat_map(|i| group.iter().map(move |n| (i, *n)))
                            .map(|(i, n)| (n, c.peers[n].segment(at.wrapping_add(i * 1448), payload.clone())))
                            .collect();
                        let t = timed(|| {
                            for (i, (_, f)) in frames.iter().enumerate() {
                                c.arrive(f);
                                // Each is read as often: behind ten segments of its own.
                                if n == 1 && i % 10 == 9 {
                                    c.drain_of(0);
                                }
                            }
                            frames.len() as u64
                        });
                        seconds += t.seconds;
                        count += frames.len() as u64;
                    }
                    at = at.wrapping_add(again * 1448);
                    for i in 0..n as usize {
                        c.drain_of(i);
                    }
                }
                super::measure::Timed { seconds, count: count as f64 }
            })
        })
        .collect();
    all.extend(compare("scale/segment", "segment", effort, &mut cases, each));
    drop(cases);
    // Every connection owes an acknowledgement, and time passes.
    let mut cases: Vec<Case<'_>> = numbers()
        .map(|n| {
            let mut c = Connections::new(&setup, n);
            let mut at = 0u32;
            Case::new(n.to_string(), move || {
                let payload = Bytes::from_static(b"x");
                for i in 0..n as usize {
                    let frame = c.peers[i].segment(at, payload.clone());
                    c.arrive(&frame);
                }
                at = at.wrapping_add(1);
                timed(|| {
                    c.pass(Duration::from_millis(250));
                    n.into()
                })
            })
        })
        .collect();
    all.extend(compare("scale/timers", "connection", effort, &mut cases, each));
    all
}

/// Resident memory of so many idle connections, bytes each, in a process of their own: memory that was used before and is
/// free again would be counted as none.
pub fn idle_memory(connections: u32) -> Option<Measured> {
    let program = std::env::current_exe().ok()?;
    let out = std::process::Command::new(program).args(["bench", "idle", &connections.to_string()]).output();
    let bytes: f64 = String::from_utf8(out.ok()?.stdout).ok()?.trim().parse().ok()?;
    Some(Measured {
        group: "scale/idle".to_owned(),
        case: connections.to_string(),
        unit: Unit::Bytes,
        per: "connection".to_owned(),
        rounds: vec![bytes],
    })
}

/// The same in this process, bytes per connection.
#[must_use]
pub fn idle(connections: u32) -> Option<f64> {
    let before = resident()?;
    let c = Connections::new(&Setup { rcvbuf: None, ..Setup::usual() }, connections);
    let after = resident()?;
    // The forger of each peer is ours, not the stack's.
    let forgers = c.peers.capacity() * size_of_val(&c.peers[0]) + c.all.capacity() * size_of_val(&c.all[0]);
    Some(after.saturating_sub(before).saturating_sub(forgers as u64) as f64 / f64::from(connections))
}

fn resident() -> Option<u64> {
    let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = statm.split_whitespace().nth(1)?.parse().ok()?;
    Some(pages * rustix::param::page_size() as u64)
}

/// An attack with tiny segments out of order (CVE-2018-5390): the time per arriving byte, early and late in it.
pub fn attack(effort: Effort, each: &mut dyn FnMut(&str)) -> Vec<Measured> {
    let mut cases: Vec<Case<'_>> = [1_000u32, 10_000, 100_000]
        .into_iter()
        .map(|already| {
            Case::new(format!("behind {already}"), move || {
                // The usual memory: the attack runs into its limit, and every further segment into the ladder.
                let mut c = Connections::new(&Setup { rcvbuf: None, ..Setup::usual() }, 1);
                let n = already + 1_000;
                let places = (0..n).map(|i| (u64::from(i) * 2_654_435_761 % 16_000) as u32 * 2 + 1);
                let frames = c.peers[0].segments(places, 1);
                let (before, late) = frames.split_at(already as usize);
                for f in before {
                    c.arrive(f);
                }
                timed(|| {
                    for f in late {
                        c.arrive(f);
                    }
                    late.len() as u64
                })
            })
        })
        .collect();
    compare("scale/attack", "byte", effort, &mut cases, each)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_case_does_its_work() {
        let effort = Effort { warm_up: 0, rounds: 1 };
        for m in connections(effort, 100, &mut |_| ()) {
            assert!(m.median() > 0.0, "{m:?}");
        }
        for m in attack(effort, &mut |_| ()) {
            assert!(m.median() > 0.0, "{m:?}");
        }
        assert!(idle(100).is_some());
    }
}
