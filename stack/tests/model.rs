//! Random programs of segments, reads, options and pauses against what must hold whatever happens.

mod rig;

use proptest::{collection::vec, prelude::*};
use rig::{Handshake, Rig, Sent, byte_at, config};
use rightedge_stack::{
    ListenOptions, SocketOption,
    nic::Driver,
    profile::{NoMemoryWindow, Profile, ShrinkPolicy},
    time::Duration,
    wire::{RxMeta, TcpFlags},
};

#[derive(Clone, Debug)]
enum Op {
    /// `len` bytes, `from` bytes away from the next expected one.
    Data {
        from: i32,
        len: u32,
        push: bool,
        fin: bool,
        gso: u16,
    },
    /// What the window allows, from the next expected byte on, in pieces of `mss`.
    Burst {
        mss: u16,
        pieces: u8,
    },
    Read(u32),
    Peek(u16),
    Hold,
    Release,
    Pass(u32),
    RcvBuf(i32),
    Lowat(i32),
    Clamp(u32),
    QuickAck(bool),
    Shrink(bool),
    CollapseMax(u32),
    AdvWinScale(i8),
    Moderate(bool),
    Rmem2(u32),
    TcpMem(u16),
    Say(u16),
    Shutdown,
}

fn op() -> impl Strategy<Value = Op> {
    let from = prop_oneof![5 => Just(0), 3 => -3000..3000i32, 2 => 0..100_000i32, 1 => any::<i32>()];
    let len = prop_oneof![4 => Just(1448u32), 3 => 1..300u32, 2 => 0..9000u32, 1 => 9000..65_000u32];
    prop_oneof![
        30 => (from, len, any::<bool>(), prop::bool::weighted(0.05), prop_oneof![Just(0u16), Just(1448), 1..9000u16])
            .prop_map(|(from, len, push, fin, gso)| Op::Data { from, len, push, fin, gso }),
        8 => (1..9000u16, 1..60u8).prop_map(|(mss, pieces)| Op::Burst { mss, pieces }),
        8 => prop_oneof![0..2000u32, 0..200_000u32].prop_map(Op::Read),
        2 => any::<u16>().prop_map(Op::Peek),
        3 => Just(Op::Hold),
        3 => Just(Op::Release),
        6 => prop_oneof![0..2000u32, 0..600_000u32].prop_map(Op::Pass),
        2 => prop_oneof![any::<i32>(), 0..60_000i32].prop_map(Op::RcvBuf),
        1 => prop_oneof![any::<i32>(), 0..60_000i32].prop_map(Op::Lowat),
        1 => prop_oneof![any::<u32>(), 0..60_000u32].prop_map(Op::Clamp),
        1 => any::<bool>().prop_map(Op::QuickAck),
        1 => any::<bool>().prop_map(Op::Shrink),
        1 => prop_oneof![Just(0u32), 0..200_000u32].prop_map(Op::CollapseMax),
        1 => (-31..=31i8).prop_map(Op::AdvWinScale),
        1 => any::<bool>().prop_map(Op::Moderate),
        1 => prop_oneof![Just(6u32 << 20), 4096..1_000_000u32, Just(i32::MAX as u32)].prop_map(Op::Rmem2),
        1 => prop_oneof![Just(u16::MAX), 0..400u16].prop_map(Op::TcpMem),
        2 => any::<u16>().prop_map(Op::Say),
        1 => Just(Op::Shutdown),
    ]
}

#[derive(Clone, Debug)]
struct World {
    profile: usize,
    driver: usize,
    switches: Vec<(usize, usize)>,
    collapse: &'static str,
    shake: (u16, Option<u8>, bool, bool, u32),
    rcvbuf: Option<i32>,
    end: u32,
    ops: Vec<Op>,
}

fn world() -> impl Strategy<Value = World> {
    let isn = prop_oneof![Just(1_000_000u32), any::<u32>(), (u32::MAX - 70_000)..=u32::MAX];
    let mss = prop_oneof![3 => Just(1460u16), 1 => any::<u16>()];
    let wscale = prop_oneof![3 => Just(Some(7u8)), 1 => Just(None), 1 => (0..=255u8).prop_map(Some)];
    (
        0..Profile::NAMES.len(),
        0..Driver::ALL.len(),
        prop_oneof![Just(Vec::new()), vec((any::<usize>(), any::<usize>()), 0..4)],
        prop::sample::select(
            &["on", "on", "off", "large", "bounded", "bounded:16384", "frags", "refuse"][..],
        ),
        (mss, wscale, any::<bool>(), any::<bool>(), isn),
        prop_oneof![3 => Just(None), 1 => (0..100_000i32).prop_map(Some), 1 => any::<i32>().prop_map(Some)],
        prop_oneof![Just(u32::MAX >> 2), 0..400_000u32],
        vec(op(), 1..80),
    )
        .prop_map(|(profile, driver, switches, collapse, shake, rcvbuf, end, ops)| World {
            profile,
            driver,
            switches,
            collapse,
            shake,
            rcvbuf,
            end,
            ops,
        })
}

fn profile(w: &World) -> Profile {
    let mut p = Profile::named(Profile::NAMES[w.profile]).unwrap();
    p.set("collapse", w.collapse).unwrap();
    for (which, value) in &w.switches {
        let all = p.switches();
        let s = &all[which % all.len()];
        let values: Vec<&str> = s.takes.split('|').collect();
        let value = match values[value % values.len()] {
            "BYTES" => "60000",
            "bounded:BYTES" => "bounded:16384",
            v if v.contains('…') => v.split('…').nth(value & 1).unwrap(),
            v => v,
        };
        p.set(s.name, value).unwrap();
    }
    p
}

/// What the peer has sent of its stream, and what the stack may have said about it.
struct Model {
    /// Bytes `0..n` and no others were sent without a hole; and further ranges.
    sent: Vec<(u32, u32)>,
    end: u32,
    fin: bool,
    acked: u32,
    read: u32,
    edge: i64,
    may_shrink: bool,
}

impl Model {
    fn add(&mut self, start: u32, end: u32) {
        if start < end {
            self.sent.push((start, end));
            self.sent.sort_unstable();
            let mut merged: Vec<(u32, u32)> = Vec::new();
            for &(a, b) in &self.sent {
                match merged.last_mut() {
                    Some(last) if a <= last.1 => last.1 = last.1.max(b),
                    _ => merged.push((a, b)),
                }
            }
            self.sent = merged;
        }
    }

    fn contiguous(&self) -> u32 {
        let n = self.sent.first().filter(|(a, _)| *a == 0).map_or(0, |(_, b)| *b);
        n + u32::from(self.fin && n == self.end)
    }

    fn check(&mut self, rig: &Rig, sent: &[Sent]) -> Result<(), TestCaseError> {
        let nomem = rig.stack.profile().no_memory_window == NoMemoryWindow::Zero;
        for s in sent {
            if s.flags.contains(TcpFlags::RST) {
                continue;
            }
            prop_assert!(s.ack <= self.contiguous(), "{s:?} acknowledges more than {}", self.contiguous());
            prop_assert!(s.ack >= self.acked, "{s:?} takes back {}", self.acked);
            self.acked = s.ack;
            let edge = i64::from(s.ack) + i64::from(s.window);
            if edge < self.edge {
                prop_assert!(
                    self.may_shrink || (nomem && s.window == 0),
                    "{s:?}: the right edge moved left from {}",
                    self.edge
                );
            }
            self.edge = edge;
            for &(a, b) in &s.sack {
                let fin = u32::from(self.fin);
                let known = |x: &(u32, u32)| x.0 <= a && b <= x.1 + if x.1 == self.end { fin } else { 0 };
                let only_fin = self.fin && a == self.end && b == self.end + 1;
                prop_assert!(only_fin || self.sent.iter().any(known), "SACK {a}..{b} of {:?}", self.sent);
            }
        }
        if let Err(e) = rig.stack.audit() {
            return Err(TestCaseError::fail(e));
        }
        Ok(())
    }

    fn take(&mut self, bytes: &[u8]) -> Result<(), TestCaseError> {
        for (i, b) in bytes.iter().enumerate() {
            prop_assert_eq!(*b, byte_at(self.read + i as u32), "byte {}", self.read + i as u32);
        }
        self.read += bytes.len() as u32;
        Ok(())
    }
}

fn data(rig: &mut Rig, m: &mut Model, at: u32, len: u32, flags: TcpFlags, gso: u16) -> Vec<Sent> {
    // A stream ends once: nothing lies behind its end, and only there is a FIN.
    let at = at.min(m.end);
    let len = len.min(m.end - at);
    let flags = if at + len == m.end { flags } else { flags - TcpFlags::FIN };
    m.add(at, at + len);
    m.fin |= flags.contains(TcpFlags::FIN);
    let f = rig.forge(at, len as usize, flags);
    let gso_size = if u32::from(gso) < len { gso } else { 0 };
    let hdr_len = if gso & 1 == 0 { 66 } else { 0 };
    rig.push_meta(f, RxMeta { gso_size, hdr_len, csum_ok: false });
    rig.sent()
}

fn set(rig: &mut Rig, name: &str, value: String) {
    rig.stack.set_sysctl(rig.now, name, &value).unwrap();
}

fn step(rig: &mut Rig, m: &mut Model, op: &Op) -> Result<Vec<Sent>, TestCaseError> {
    let (now, id) = (rig.now, rig.id);
    let next = rig.info().rcv_nxt.since(rig.isn).clamp(0, m.end as i32) as u32;
    match *op {
        Op::Data { from, len, push, fin, gso } => {
            let mut flags = TcpFlags::ACK;
            flags.set(TcpFlags::PSH, push);
            flags.set(TcpFlags::FIN, fin);
            let at = next.saturating_add_signed(from);
            return Ok(data(rig, m, at, len, flags, gso));
        }
        Op::Burst { mss, pieces } => {
            let mut out = Vec::new();
            let room = rig.info().rcv_win;
            let mut at = 0;
            for _ in 0..pieces {
                if at >= room {
                    break;
                }
                out.append(&mut data(rig, m, next + at, u32::from(mss), TcpFlags::ACK, 0));
                at += u32::from(mss);
            }
            return Ok(out);
        }
        Op::Read(n) => {
            let bytes = rig.read(n as usize);
            m.take(&bytes)?;
        }
        Op::Peek(n) => {
            let mut buf = vec![0; usize::from(n)];
            let unread = rig.info().recv_q as usize;
            let n = rig.stack.peek(now, id, &mut buf).unwrap_or(0);
            prop_assert_eq!(n, unread.min(buf.len()));
            for (i, b) in buf[..n].iter().enumerate() {
                prop_assert_eq!(*b, byte_at(m.read + i as u32));
            }
        }
        Op::Hold => rig.stack.hold(now, id).unwrap(),
        Op::Release => rig.stack.release(now, id).unwrap(),
        Op::Pass(us) => return Ok(rig.pass(Duration::from_micros(u64::from(us)))),
        Op::RcvBuf(v) => rig.stack.set_option(now, id, SocketOption::RcvBuf(v)).unwrap(),
        Op::Lowat(v) => rig.stack.set_option(now, id, SocketOption::RcvLowat(v)).unwrap(),
        Op::Clamp(v) => {
            let _ = rig.stack.set_option(now, id, SocketOption::WindowClamp(v));
        }
        Op::QuickAck(on) => rig.stack.set_option(now, id, SocketOption::QuickAck(on)).unwrap(),
        Op::Shrink(on) => {
            m.may_shrink |= on;
            set(rig, "tcp_shrink_window", u8::from(on).to_string());
        }
        Op::CollapseMax(v) => set(rig, "tcp_collapse_max_bytes", v.to_string()),
        Op::AdvWinScale(v) => set(rig, "tcp_adv_win_scale", v.to_string()),
        Op::Moderate(on) => set(rig, "tcp_moderate_rcvbuf", u8::from(on).to_string()),
        Op::Rmem2(v) => set(rig, "tcp_rmem", format!("4096 131072 {v}")),
        Op::TcpMem(v) => {
            let high = if v == u16::MAX { 1 << 20 } else { i64::from(v) };
            set(rig, "tcp_mem", format!("{} {} {high}", high / 2, high * 3 / 4));
        }
        Op::Say(n) => {
            let _ = rig.stack.send(now, id, &vec![7; usize::from(n)].into());
            let out = rig.sent();
            rig.acked += rig.info().send_q;
            return Ok(out);
        }
        Op::Shutdown => {
            let _ = rig.stack.shutdown(now, id);
            let out = rig.sent();
            rig.acked += rig.info().send_q;
            return Ok(out);
        }
    }
    Ok(rig.sent())
}

fn run(w: &World) -> Result<(), TestCaseError> {
    let p = profile(w);
    let may_shrink = p.shrink != ShrinkPolicy::Never;
    let c = config(p, Driver::ALL[w.driver].0);
    let (mss, wscale, sack, ts, isn) = w.shake;
    let shake = Handshake { mss, wscale, sack, ts, isn, ..Handshake::default() };
    let mut rig = Rig::new(c, ListenOptions { rcvbuf: w.rcvbuf, ..ListenOptions::default() }, shake);
    rig.stack.set_tracing(w.ops.len().is_multiple_of(2));
    let edge = i64::from(rig.syn_ack.window);
    let mut m = Model { sent: Vec::new(), end: w.end, fin: false, acked: 0, read: 0, edge, may_shrink };
    for op in &w.ops {
        let sent = step(&mut rig, &mut m, op)?;
        rig.records.clear();
        m.check(&rig, &sent).map_err(|e| TestCaseError::fail(format!("{op:?}: {e}")))?;
        if rig.stack.info(rig.id).is_err() {
            return Ok(());
        }
    }
    // Whatever was acknowledged can be read.
    rig.stack.release(rig.now, rig.id).unwrap();
    let sent = rig.sent();
    m.check(&rig, &sent)?;
    loop {
        let bytes = rig.read(50_000);
        if bytes.is_empty() {
            break;
        }
        m.take(&bytes)?;
    }
    let fin = u32::from(m.fin && m.acked == m.end + 1);
    prop_assert!(m.read + fin >= m.acked, "{} read, {} acknowledged", m.read, m.acked);
    let i = rig.info();
    prop_assert!(i.rcvq_skbs == 0 && i.recv_q == 0, "{} buffers left", i.rcvq_skbs);
    // Nothing is left when the connection is gone.
    rig.stack.close(rig.now, rig.id).unwrap();
    let sent = rig.sent();
    m.check(&rig, &sent)?;
    let next = i.rcv_nxt.since(rig.isn) as u32;
    rig.inject(next, 0, TcpFlags::RST);
    rig.pass(Duration::from_secs(61));
    prop_assert_eq!(rig.stack.connections().count(), 0);
    prop_assert_eq!(rig.stack.memory().0, 0);
    if let Err(e) = rig.stack.audit() {
        return Err(TestCaseError::fail(e));
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases.max(400), max_shrink_iters: 3000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_the_books_balance_and_the_bytes_are_right(w in world()) {
        run(&w)?;
    }
}

#[test]
fn bytes_out_of_order_are_counted_once_after_a_collapse() {
    let p = Profile::linux_6_1();
    let options = ListenOptions { rcvbuf: Some(16_060), ..ListenOptions::default() };
    let mut rig = Rig::new(
        config(p, Driver::TapBuild),
        options,
        Handshake { ts: false, sack: false, ..Default::default() },
    );
    for at in 0..5 {
        rig.data(at * 3403, 3403);
    }
    let next = rig.info().rcv_nxt.since(rig.isn) as u32;
    rig.data(next + 99, 1633);
    rig.data(next + 1, 779);
    rig.stack.set_option(rig.now, rig.id, SocketOption::RcvBuf(0)).unwrap();
    rig.data(next, 1448);
    let i = rig.info();
    assert_eq!((i.ofo_skbs, i.ofo_bytes), (0, 0));
}
