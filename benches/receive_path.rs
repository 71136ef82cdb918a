//! The path of one segment, and a collapse beside the plain copy of the same bytes.
#![allow(missing_docs, reason = "criterion's macros")]

use std::hint::black_box;

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use rightedge_benches::Bench;
use rightedge_stack::{nic::Driver, profile::Profile};

fn in_order(c: &mut Criterion) {
    let mut group = c.benchmark_group("in-order");
    for len in [100usize, 1448] {
        group.throughput(Throughput::Elements(32));
        group.bench_with_input(BenchmarkId::new("32 segments and a read", len), &len, |b, &len| {
            let mut bench = Bench::new(Profile::linux_6_18(), Driver::TapBuild, 4 << 20);
            let mut at = 0u32;
            b.iter_batched(
                || (0..32u32).map(|i| i * len as u32).collect::<Vec<_>>(),
                |offsets| {
                    for o in &offsets {
                        let frame = bench.segment(at.wrapping_add(*o), len);
                        bench.arrive(black_box(&frame));
                    }
                    at = at.wrapping_add(32 * len as u32);
                    black_box(bench.drain())
                },
                BatchSize::SmallInput,
            );
        });
    }
    group.finish();
}

/// A queue of 100-byte segments in slab heads, collapsed by the first one that does not fit.
fn collapse(c: &mut Criterion) {
    let mut group = c.benchmark_group("collapse");
    group.sample_size(20);
    for rcvbuf in [64 << 10, 1 << 20, 8 << 20] {
        let full = || {
            let mut bench = Bench::new(Profile::linux_6_1(), Driver::Tun, rcvbuf / 2);
            let mut at = 0u32;
            loop {
                let frame = bench.segment(at, 100);
                let info = bench.stack.info(bench.id).expect("open");
                if i64::from(info.mem.rmem_alloc) > i64::from(rcvbuf) {
                    return (bench, frame, info.recv_q);
                }
                bench.arrive(&frame);
                at += 100;
            }
        };
        group.bench_function(BenchmarkId::new("kernel's policy", rcvbuf), |b| {
            b.iter_batched(full, |(mut bench, frame, _)| bench.arrive(&frame), BatchSize::LargeInput);
        });
        let (_, _, bytes) = full();
        let source = vec![1u8; bytes as usize];
        group
            .bench_function(BenchmarkId::new("plain copy", rcvbuf), |b| b.iter(|| black_box(source.clone())));
    }
    group.finish();
}

criterion_group!(benches, in_order, collapse);
criterion_main!(benches);
