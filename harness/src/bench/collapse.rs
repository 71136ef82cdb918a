//! What a collapse costs beside the plain copy of the same bytes, and what other policies cost.

use std::cell::RefCell;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rightedge_benches::Receiver;
use rightedge_benches::queue::{QUEUES, Shape, Which, fill, fits, full, plain_copy, used_memory};
use rightedge_stack::nic::Driver;
use rightedge_stack::profile::Profile;
use serde::{Deserialize, Serialize};

use super::measure::{Case, Effort, Measured, Unit, compare, cpu_time, timed};

/// A point of the table: a queue, and what its collapse took.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Point {
    /// Which queue, of what.
    pub what: String,
    /// What was charged before, bytes.
    pub charged: u32,
    /// Payload in it, bytes.
    pub payload: u64,
    /// Segments in it.
    pub segments: u64,
    /// What is charged afterwards, bytes.
    pub left: u32,
    /// The arrival that calls for it, nanoseconds, and the plain copy of as many bytes.
    pub measured: Vec<Measured>,
}

impl Point {
    fn of(&self, case: &str) -> Option<&Measured> {
        self.measured.iter().find(|m| m.case == case)
    }

    /// Milliseconds of the collapse.
    #[must_use]
    pub fn milliseconds(&self) -> f64 {
        self.of(OURS).map_or(0.0, |m| m.median() / 1e6)
    }

    /// The collapse beside the plain copy.
    #[must_use]
    pub fn ratio_to_copy(&self) -> f64 {
        self.of(OURS).zip(self.of(COPY)).map_or(0.0, |(a, b)| a.ratio_to(b))
    }
}

/// The case that is ours.
pub const OURS: &str = "rightedge";
/// The floor.
pub const COPY: &str = "plain copy";

/// Sizes, bytes charged, up to `most`.
fn sizes(most: u32) -> impl Iterator<Item = u32> {
    (0..7).map(|i| (64 << 10) << (2 * i)).chain([512 << 20]).filter(move |n| *n <= most)
}

/// Time per collapse against the size of the queue, up to `most` bytes charged. When `stop` is set, the points that are there are
/// returned.
pub fn by_size(effort: Effort, most: u32, stop: &AtomicBool, each: &mut dyn FnMut(&str)) -> Vec<Point> {
    let mut points = Vec::new();
    for (segment, driver, which, partly_read) in QUEUES {
        let order = if which == Which::InOrder { "in order" } else { "out of order" };
        let read = if partly_read { ", the first half read" } else { "" };
        let what = format!("{segment} B, {}, {order}{read}", driver.name());
        for charged in sizes(most) {
            if stop.load(Ordering::Relaxed) {
                return points;
            }
            // What takes gigabytes takes long, and differs little from round to round.
            let rounds = if charged >= 128 << 20 { effort.rounds.min(3) } else { effort.rounds };
            let effort = Effort { rounds, ..effort };
            let shape = Shape { profile: Profile::linux_6_1(), driver, charged, segment, which, partly_read };
            points.extend(point(&what, &shape, effort, each));
        }
    }
    points
}

/// One queue. `None` if nothing of the kind is collapsed.
fn point(what: &str, shape: &Shape, effort: Effort, each: &mut dyn FnMut(&str)) -> Option<Point> {
    let (mut payload, mut segments, mut left) = (0, 0, 0);
    let pieces = RefCell::new(Vec::new());
    let fits = fits(shape);
    let collapsing = || {
        let mut q = fill(shape, fits);
        (payload, segments) = (q.payload, q.segments);
        pieces.replace(std::mem::take(&mut q.frames));
        let _plug = used_memory(q.payload);
        let t = timed(|| {
            q.receiver.arrive(&q.last);
            1
        });
        left = q.receiver.stack.info(q.receiver.all[0]).map_or(0, |i| i.mem.rmem_alloc);
        t
    };
    // Of the same frames, which are still there.
    let copying = || {
        let pieces = pieces.take();
        let _plug = used_memory(pieces.iter().map(|p| p.len() as u64).sum());
        timed(|| u64::from(plain_copy(&pieces) > 0))
    };
    let mut cases = [Case::new(OURS, collapsing), Case::new(COPY, copying)];
    let measured = compare("collapse", "call", effort, &mut cases, each);
    drop(cases);
    let worthwhile = left > 0 && left < shape.charged;
    worthwhile.then(|| Point {
        what: what.to_owned(),
        charged: shape.charged,
        payload,
        segments,
        left,
        measured,
    })
}

/// One collapse, nanoseconds.
#[must_use]
pub fn once(shape: &Shape) -> f64 {
    let mut q = full(shape);
    timed(|| {
        q.receiver.arrive(&q.last);
        1
    })
    .seconds
        * 1e9
}

/// The largest charged queue whose collapse stays below a time, for each kind of queue: `tcp_collapse_max_bytes`, derived.
#[must_use]
pub fn advice(points: &[Point], milliseconds: f64) -> Option<u32> {
    // All kinds must stay below it: which one a stranger fills is his choice.
    let slow = points.iter().filter(|p| p.milliseconds() > milliseconds).map(|p| p.charged).min();
    let fast = points.iter().filter(|p| slow.is_none_or(|s| p.charged < s));
    let largest = fast.map(|p| p.charged).max()?;
    // Between the last that is fast enough and the first that is not, time grows with size.
    let Some(slow) = slow else { return Some(largest) };
    let worst = |charged| {
        let of = points.iter().filter(|p| p.charged == charged);
        of.map(Point::milliseconds).fold(0.0, f64::max)
    };
    let (a, b) = (worst(largest), worst(slow));
    let share = if b > a { ((milliseconds - a) / (b - a)).clamp(0.0, 1.0) } else { 0.0 };
    Some(largest + (f64::from(slow - largest) * share) as u32)
}

/// What a policy does to a receiver whose application does not read: cost, the worst arrival, memory, the window.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PolicyCost {
    /// The policy, as it is typed.
    pub policy: String,
    /// Payload that was taken, bytes.
    pub taken: u64,
    /// What was charged at the end, bytes.
    pub charged: u32,
    /// The window at the end, bytes.
    pub window: u64,
    /// Segments that were refused or thrown away.
    pub dropped: u64,
    /// Nanoseconds per arriving segment, by round.
    pub mean: Measured,
    /// The slowest arrival, nanoseconds, by round.
    pub worst: Measured,
}

impl PolicyCost {
    /// The slowest arrival of the round that was disturbed least, nanoseconds: what interrupts a round makes it slower, never
    /// faster.
    #[must_use]
    pub fn worst_undisturbed(&self) -> f64 {
        super::measure::quantile(&self.worst.rounds, 0.0)
    }
}

/// Policies that are compared.
pub const POLICIES: [&str; 6] = ["on", "off", "large", "bounded", "frags", "refuse"];

/// Every policy on the same arrivals: small segments in large buffers until memory is full, and as many again.
///
/// # Errors
/// A policy this stack does not have.
pub fn policies(
    effort: Effort,
    charged: u32,
    each: &mut dyn FnMut(&str),
) -> Result<Vec<PolicyCost>, rightedge_stack::profile::ProfileError> {
    let mut all = Vec::new();
    for policy in POLICIES {
        let profile = Profile::parse(&format!("linux-6.1,collapse={policy}"))?;
        let mut cost: Option<PolicyCost> = None;
        for round in 0..effort.warm_up + effort.rounds {
            let once = suffer(policy, &profile, charged);
            each(policy);
            if round < effort.warm_up {
                continue;
            }
            match &mut cost {
                None => cost = Some(once),
                Some(c) => {
                    c.mean.rounds.extend(once.mean.rounds);
                    c.worst.rounds.extend(once.worst.rounds);
                }
            }
        }
        all.extend(cost);
    }
    Ok(all)
}

fn suffer(policy: &str, profile: &Profile, charged: u32) -> PolicyCost {
    use rightedge_benches::connection::{Connections, Setup};
    const LEN: u32 = 700;
    let setup = Setup {
        profile: profile.clone(),
        driver: Driver::Page4K,
        rcvbuf: Some(i32::try_from(charged / 2).unwrap_or(i32::MAX)),
        decisions: false,
        pressure: false,
    };
    let count = charged / 1200;
    let arrivals = || {
        let c = Connections::new(&setup, 1);
        let frames = c.peers[0].segments((0..count).map(|i| i * LEN), LEN as usize);
        (c, frames)
    };
    let (mut c, frames) = arrivals();
    let total = timed(|| {
        for f in &frames {
            c.arrive(f);
        }
        count.into()
    });
    drop((c, frames));
    // Once more for the slowest, by the clock of this thread: what interrupts it is not its work.
    let (mut c, frames) = arrivals();
    let id = c.all[0];
    let (mut worst, mut before) = (Duration::ZERO, cpu_time());
    for f in &frames {
        c.arrive(f);
        let now = cpu_time();
        worst = worst.max(now.saturating_sub(before));
        before = now;
    }
    let info = c.stack.info(id).ok();
    let taken = info.as_ref().map_or(0, |i| i.bytes_received);
    let measured = |case: &str, value: f64| Measured {
        group: "policies".to_owned(),
        case: format!("{policy}, {case}"),
        unit: Unit::Nanoseconds,
        per: "segment".to_owned(),
        rounds: vec![value],
    };
    PolicyCost {
        policy: policy.to_owned(),
        taken,
        charged: info.as_ref().map_or(0, |i| i.mem.rmem_alloc),
        window: info.as_ref().map_or(0, |i| u64::from(i.rcv_wnd)),
        dropped: u64::from(count).saturating_sub(taken / u64::from(LEN)),
        mean: measured("mean", total.seconds * 1e9 / total.count),
        worst: measured("worst", worst.as_secs_f64() * 1e9),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(charged: u32, milliseconds: f64) -> Point {
        let measured = Measured {
            group: "collapse".to_owned(),
            case: OURS.to_owned(),
            unit: Unit::Nanoseconds,
            per: "call".to_owned(),
            rounds: vec![milliseconds * 1e6],
        };
        Point { what: "x".to_owned(), charged, payload: 1, segments: 1, left: 1, measured: vec![measured] }
    }

    #[test]
    fn advice_lies_between_what_was_fast_enough_and_what_was_not() {
        let points = [point(1_000, 0.5), point(2_000, 1.0), point(4_000, 3.0), point(2_000, 0.1)];
        assert_eq!(advice(&points, 2.0), Some(3_000));
        assert_eq!(advice(&points, 10.0), Some(4_000));
        assert_eq!(advice(&points, 0.1), None);
    }

    #[test]
    fn queues_collapse_and_the_copy_copies() {
        let effort = Effort { warm_up: 0, rounds: 1 };
        let points = by_size(effort, 256 << 10, &AtomicBool::new(false), &mut |_| ());
        assert!(points.len() >= 12, "{}", points.len());
        assert!(by_size(effort, 256 << 10, &AtomicBool::new(true), &mut |_| ()).is_empty());
        for p in &points {
            assert!(p.left < p.charged && p.payload > 0 && p.milliseconds() > 0.0, "{p:?}");
            assert!(p.ratio_to_copy() > 0.0, "{p:?}");
        }
    }
}
