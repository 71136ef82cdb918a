//! The path of one segment beside smoltcp's, and a collapse beside the plain copy of the same bytes.
#![allow(missing_docs, reason = "criterion's macros")]

use std::hint::black_box;

use bytes::Bytes;
use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use rightedge_benches::connection::{Connections, Setup};
use rightedge_benches::queue::{Shape, Which, full};
use rightedge_benches::rival::Rival;
use rightedge_benches::{Receiver, feed};
use rightedge_stack::nic::Driver;
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

/// Queues of small and of full segments, collapsed by the first segment that does not fit.
fn collapse(c: &mut Criterion) {
    let mut group = c.benchmark_group("collapse");
    group.sample_size(10);
    for (segment, which) in [(100, Which::InOrder), (1448, Which::InOrder), (1448, Which::OutOfOrder)] {
        for charged in [64 << 10, 1 << 20, 16 << 20] {
            let shape = Shape {
                profile: Profile::linux_6_1(),
                driver: Driver::Page4K,
                charged,
                segment,
                which,
                partly_read: false,
            };
            let name = format!("{which:?}, {segment} B, {charged} charged");
            group.bench_function(BenchmarkId::new("kernel's policy", &name), |b| {
                b.iter_batched(
                    || full(&shape),
                    |mut q| {
                        q.receiver.arrive(&q.last);
                        q
                    },
                    BatchSize::PerIteration,
                );
            });
            let source = vec![1u8; full(&shape).payload as usize];
            group.bench_function(BenchmarkId::new("plain copy", &name), |b| {
                b.iter(|| black_box(source.clone()));
            });
        }
    }
    group.finish();
}

criterion_group!(benches, in_order, collapse);
criterion_main!(benches);
