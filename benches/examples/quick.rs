//! Scratch.
use rightedge_benches::{connection::*, rival::*, *};
use std::time::Instant;
fn med(mut v: Vec<f64>) -> f64 {
    v.sort_by(f64::total_cmp);
    v[v.len() / 2]
}
fn main() {
    const B: u32 = 1024;
    let rounds: usize = std::env::args().nth(1).map_or(60, |s| s.parse().unwrap());
    let only = std::env::args().nth(2);
    println!("Tcb etc");
    for len in [1u32, 1448] {
        let mut ours = Connections::new(&Setup::usual(), 1);
        let mut dec = Connections::new(&Setup { decisions: true, ..Setup::usual() }, 1);
        let mut riv = Rival::new(4 << 20);
        let (mut at, mut r) = (0u32, [vec![], vec![], vec![]]);
        for _ in 0..rounds {
            let offs: Vec<u32> = (0..B).map(|i| at.wrapping_add(i * len)).collect();
            at = at.wrapping_add(B * len);
            let peers = [ours.peers[0], dec.peers[0], riv.peer];
            for k in 0..3 {
                if only.is_some() && k > 0 {
                    continue;
                }
                let f = peers[k].segments(offs.iter().copied(), len as usize);
                let t = Instant::now();
                let n = match k {
                    0 => feed(&mut ours, &f, 32),
                    1 => feed(&mut dec, &f, 32),
                    _ => feed(&mut riv, &f, 32),
                };
                r[k].push(t.elapsed().as_secs_f64() * 1e9 / f64::from(B));
                assert_eq!(n, (B * len) as usize, "{k}");
            }
        }
        for v in &mut r {
            if v.is_empty() {
                v.push(0.0)
            }
        }
        println!(
            "len {len}: ours {:.1} decisions {:.1} smoltcp {:.1} ns",
            med(r[0].clone()),
            med(r[1].clone()),
            med(r[2].clone())
        );
    }
}
