//! The path of one segment beside smoltcp's, and a collapse beside the plain copy of the same bytes.
#![allow(missing_docs, reason = "criterion's macros")]

use std::hint::black_box;
use std::time::Duration;

use bytes::Bytes;
use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use rightedge_benches::connection::{Connections, Setup};
use rightedge_benches::queue::{QUEUES, Shape, full, plain_copy, used_memory};
use rightedge_benches::rival::Rival;
use rightedge_benches::{Receiver, feed};
use rightedge_stack::profile::Profile;

/// Segments in a batch; the application reads behind every [`READ`].
const BATCH: u32 = 256;
const READ: usize = 32;

fn in_order(c: &mut Criterion) {
    let mut group = c.benchmark_group("in-order");
    group.throughput(Throughput::Elements(BATCH.into()));
    for len in [1u32, 100, 1448] {
        let mut at = 0u32;
        let mut next = |len: u32| {
            let from = at;
            at = at.wrapping_add(BATCH * len);
            (0..BATCH).map(move |i| from.wrapping_add(i * len))
        };
        for decisions in [false, true] {
            let mut ours = Connections::new(&Setup { decisions, ..Setup::usual() }, 1);
            let peer = ours.peers[0];
            let name = if decisions { "rightedge, decisions on" } else { "rightedge" };
            let mut mine = 0u32;
            group.bench_function(BenchmarkId::new(name, len), |b| {
                b.iter_batched(
                    || {
                        let from = mine;
                        mine = mine.wrapping_add(BATCH * len);
                        peer.segments((0..BATCH).map(|i| from.wrapping_add(i * len)), len as usize)
                    },
                    |frames: Vec<Bytes>| black_box(feed(&mut ours, &frames, READ)),
                    BatchSize::SmallInput,
                );
            });
        }
        let mut rival = Rival::new(1 << 20);
        let peer = rival.peer;
        group.bench_function(BenchmarkId::new("smoltcp", len), |b| {
            b.iter_batched(
                || peer.segments(next(len), len as usize),
                |frames: Vec<Bytes>| black_box(feed(&mut rival, &frames, READ)),
                BatchSize::SmallInput,
            );
        });
    }
    group.finish();
}

/// Queues of every kind, collapsed by the first segment that does not fit; beside each the plain copy of the same bytes.
///
/// Throughput is payload. The largest takes gigabytes and minutes: `RIGHTEDGE_LARGEST_MIB=512` asks for it.
fn collapse(c: &mut Criterion) {
    let mut group = c.benchmark_group("collapse");
    group.sample_size(10).warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(1));
    let most = std::env::var("RIGHTEDGE_LARGEST_MIB").ok().and_then(|n| n.parse().ok()).unwrap_or(16u32);
    for (segment, driver, which, partly_read) in QUEUES {
        for charged in [64 << 10, 1 << 20, 16 << 20, 128 << 20, 512 << 20] {
            if charged > most.saturating_mul(1 << 20) {
                continue;
            }
            let shape = Shape { profile: Profile::linux_6_1(), driver, charged, segment, which, partly_read };
            let read = if partly_read { ", partly read" } else { "" };
            let name =
                format!("{segment} B, {}, {which:?}{read}, {} KiB charged", driver.name(), charged >> 10);
            let floor = full(&shape);
            group.throughput(Throughput::Bytes(floor.payload));
            group.bench_function(BenchmarkId::new("kernel's policy", &name), |b| {
                b.iter_batched(
                    || {
                        let q = full(&shape);
                        let plug = used_memory(q.payload);
                        (q, plug)
                    },
                    |(mut q, plug)| {
                        q.receiver.arrive(&q.last);
                        (q, plug)
                    },
                    BatchSize::PerIteration,
                );
            });
            group.bench_function(BenchmarkId::new("plain copy", &name), |b| {
                b.iter_batched(
                    || used_memory(floor.payload),
                    |plug| (plain_copy(&floor.frames), plug),
                    BatchSize::PerIteration,
                );
            });
        }
    }
    group.finish();
}

criterion_group!(benches, in_order, collapse);
criterion_main!(benches);
