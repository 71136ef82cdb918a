//! The operations of a random script.

use serde_json::{Map, Value, json};

use super::dice::Dice;
use super::settings::Settings;
use super::{ARRIVAL_US, Flavour, Kind, Target};

/// Payloads up to an Ethernet frame, among them those where the charge of a buffer steps.
const SIZES: [u32; 20] =
    [1, 5, 20, 64, 100, 127, 128, 200, 400, 500, 535, 536, 600, 700, 800, 1000, 1200, 1400, 1448, 1460];
/// Payloads beyond it.
const SUPER: [u32; 16] = [
    1461, 2000, 2896, 3400, 3461, 3600, 4000, 4100, 5792, 8000, 8948, 12_000, 20_000, 32_000, 40_000, 60_000,
];
/// Where in a millisecond reads lie: no two of them, and none and the arrivals, a whole millisecond apart.
const FRACTIONS: [u32; 6] = [350, 650, 450, 750, 550, 850];

const _: () = assert!(ARRIVAL_US + 100 <= 350, "reads lie behind arrivals");

/// Builds the operations one by one.
pub(super) struct Maker<'a> {
    flavour: &'a Flavour,
    d: &'a mut Dice,
    target: &'a Target,
    /// Payload sizes of this script.
    sizes: Vec<u32>,
    ops: Vec<Value>,
    count: u32,
    /// Ticks that may still be spent on more than one tick between operations.
    spare: u32,
    /// Reads so far, which says where in its tick the next one lies.
    reads: u32,
    /// Nothing measures the reader.
    fixed_buffer: bool,
    /// Segments of the next round.
    round: u32,
    /// Ticks from round to round.
    pace: u32,
    /// Now and then an operation waits out the delayed ACK.
    some_wait: bool,
}

impl<'a> Maker<'a> {
    pub(super) fn new(
        flavour: &'a Flavour,
        settings: &Settings,
        d: &'a mut Dice,
        target: &'a Target,
        waits: bool,
    ) -> Self {
        let slow = target.hz < 200;
        // Waiting out a delayed ACK costs ten ticks and more each time.
        let count = match (waits, slow) {
            (true, _) => d.pick(&[10, 10, 12]),
            (false, true) => d.pick(&[10, 12, 16, 20, 26]),
            (false, false) => d.pick(&[10, 14, 16, 20, 24, 32, 45]),
        };
        let mut sizes: Vec<u32> = if flavour.name == "small" {
            (0..2).map(|_| d.pick(SIZES.get(..10).unwrap_or(&SIZES))).collect()
        } else {
            (0..d.between(1, 3)).map(|_| d.pick(&SIZES)).collect()
        };
        if flavour.name != "small" && d.percent(20) {
            sizes.push(d.between(1, 1460));
        }
        if flavour.name == "super" || d.percent(if flavour.name == "tune" { 50 } else { 20 }) {
            sizes.push(d.pick(&SUPER));
        }
        let spare = match (flavour.name, slow) {
            ("tune", false) => 48,
            ("tune", true) => 24,
            (_, false) => 26,
            (_, true) => 12,
        };
        let round = d.between(2, 10);
        let pace = if slow { d.between(1, 3) } else { d.between(2, 9) };
        let some_wait = !waits && flavour.name != "comp" && d.percent(10);
        let fixed_buffer = settings.fixed_buffer();
        let (ops, reads) = (Vec::new(), 0);
        Maker { flavour, d, target, sizes, ops, count, spare, reads, fixed_buffer, round, pace, some_wait }
    }

    pub(super) fn ops(mut self) -> Vec<Value> {
        while (self.ops.len() as u32) < self.count {
            let Some(kind) = self.d.weighted(self.flavour.kinds) else { break };
            let size = self.d.pick(&self.sizes);
            if kind == Kind::Shut && self.ops.len() as u32 + 4 < self.count {
                self.segment("rcv".to_owned(), size);
            } else {
                self.add(kind, size);
            }
        }
        self.ops
    }

    /// Ticks since the operation before: mostly one.
    ///
    /// A delayed ACK of the shortest kind leaves at `edge`: whether before or after an operation in the same tick is
    /// for the kernel's scheduler to say.
    fn gap(&mut self) -> u32 {
        let edge = (self.target.hz / 25 + 1).clamp(3, 1000);
        let gap = match self.d.below(100) {
            0..80 => 1,
            80..94 => self.d.pick(&[2, 3, 5, 8]),
            _ => self.d.pick(&[
                edge - 1,
                edge - 2,
                edge + 1,
                edge + 2,
                2 * edge - 2,
                2 * edge + 4,
                4 * edge - 4,
            ]),
        };
        self.spend(if gap == edge { 1 } else { gap })
    }

    fn spend(&mut self, gap: u32) -> u32 {
        let gap = if gap > self.spare + 1 { 1 } else { gap.max(1) };
        self.spare -= gap - 1;
        gap
    }

    fn push(&mut self, op: Value) {
        let gap = self.gap();
        self.push_after(gap, op);
    }

    fn push_after(&mut self, gap: u32, op: Value) {
        let Value::Object(mut op) = op else { return };
        if gap > 1 {
            op.insert("gap".to_owned(), gap.into());
        }
        if self.some_wait && !op.contains_key("settle") && self.d.percent(8) {
            op.insert("settle".to_owned(), "ack".into());
        }
        self.ops.push(Value::Object(op));
    }

    fn segment(&mut self, seq: String, len: u32) {
        let op = self.one(seq, len, false);
        self.push(op);
    }

    /// One segment; `aside` leaves `next` alone.
    fn one(&mut self, seq: String, len: u32, aside: bool) -> Value {
        let mut op = self.part(seq, len);
        op.insert("op".to_owned(), "inject".into());
        if aside {
            op.insert("aside".to_owned(), true.into());
        }
        Value::Object(op)
    }

    /// What a segment of a burst and one of its own have in common.
    fn part(&mut self, seq: String, len: u32) -> Map<String, Value> {
        let mut op = Map::new();
        op.insert("seq".to_owned(), seq.into());
        op.insert("len".to_owned(), len.into());
        if self.d.percent(15) {
            op.insert("flags".to_owned(), "AP".into());
        }
        op
    }

    fn with(mut op: Value, key: &str, value: impl Into<Value>) -> Value {
        if let Value::Object(map) = &mut op {
            map.insert(key.to_owned(), value.into());
        }
        op
    }

    fn add(&mut self, kind: Kind, z: u32) {
        match kind {
            Kind::Data => self.segment("rcv".to_owned(), z),
            Kind::Cont => self.segment("next".to_owned(), z),
            Kind::Hole => {
                let by = self.d.pick(&[1, 100, z, 2 * z, 3 * z, 5000, 10 * z]);
                self.segment(format!("rcv+{by}"), z);
            }
            Kind::Burst => {
                let n = self.burst_size().min(self.target.max_segments(z));
                self.burst(n, z);
            }
            Kind::Over => self.overlap(z),
            Kind::Dup => {
                let back = z + self.d.pick(&[0, 0, 10, 500]);
                let op = self.one(format!("rcv-{back}"), z, true);
                let alt = self.d.percent(20);
                self.push(if alt { Self::with(op, "alt", true) } else { op });
            }
            Kind::Edge => {
                let at = self.d.pick(&[
                    "edge".to_owned(),
                    "edge-1".to_owned(),
                    "edge+1".to_owned(),
                    format!("edge-{z}"),
                    format!("edge-{}", z / 2),
                    "edge-100".to_owned(),
                    "edge+500".to_owned(),
                ]);
                let len = self.d.pick(&[0, 1, z]);
                let op = self.one(at, len, true);
                self.push(op);
            }
            Kind::Fill => self.fill(z),
            Kind::Fin => {
                let at =
                    self.d.pick(&["rcv".to_owned(), "rcv".to_owned(), "next".to_owned(), format!("rcv+{z}")]);
                let len = self.d.pick(&[0, 0, z]);
                self.push(json!({"op": "inject", "seq": at, "len": len, "flags": "FA"}));
            }
            Kind::Pure => {
                let at = self.d.pick(&["rcv", "next", "edge", "rcv-1"]);
                let win = self.d.pick(&[512, 512, 600, 100]);
                self.push(json!({"op": "inject", "seq": at, "len": 0, "win": win, "aside": true}));
            }
            Kind::Probe => {
                if self.d.percent(50) {
                    let kind = self.d.pick(&["keepalive", "old", "byte"]);
                    self.push(json!({"op": "probe", "kind": kind}));
                } else {
                    let at = self.d.pick(&["rcv-1", "rcv", "ack-1", "edge"]);
                    let len = self.d.pick(&[0, 1]);
                    self.push(json!({"op": "inject", "seq": at, "len": len, "aside": true}));
                }
            }
            Kind::Paws => self.paws(z),
            Kind::Odd => self.odd(z),
            Kind::BadSum => {
                let at = self.d.pick(&["rcv", "next", "edge"]);
                let len = self.d.pick(&[0, z]);
                self.push(json!({"op": "inject", "seq": at, "len": len, "bad_sum": true, "aside": true}));
            }
            Kind::Read => {
                let n = self.amount(z);
                let gap = self.gap();
                self.read(gap, json!({"op": "read", "n": n}));
            }
            Kind::Reads => self.reads(z),
            Kind::Peek => {
                let n = self.amount(z);
                let flags = self.d.pick(&[
                    json!(["peek"]),
                    json!(["peek"]),
                    json!(["trunc"]),
                    json!(["trunc"]),
                    json!(["peek", "trunc"]),
                ]);
                let gap = self.gap();
                self.read(gap, json!({"op": "read", "n": n, "flags": flags}));
            }
            Kind::Round => {
                let gap = self.pace;
                let gap = self.spend(gap);
                let n = self.round.min(self.target.max_segments(z));
                let segs = vec![json!({"seq": "next", "len": z}); n as usize];
                self.push_after(gap, json!({"op": "burst", "segs": segs}));
                self.read(1, json!({"op": "read", "n": "all"}));
                // A sender in slow start, or one that has lost something.
                self.round = if self.d.percent(80) { self.round * 2 } else { self.round / 2 }.clamp(2, 64);
            }
            Kind::Opt => self.option(),
            Kind::Sleep => {
                // Clear of the tick at which a delayed ACK leaves, 40 ms and one tick behind.
                let ticks = self.d.pick(if self.target.hz >= 200 { &[3, 6, 15, 25] } else { &[2, 3, 7, 9] });
                if ticks <= self.spare {
                    self.spare -= ticks;
                    let ms = u64::from(ticks) * 1000 / u64::from(self.target.hz.max(1));
                    self.push_after(1, json!({"op": "sleep", "ms": ms.max(1)}));
                }
            }
            Kind::Rewind => self.push(json!({"op": "rewind"})),
            Kind::Repeat => {
                let n = self.d.between(2, 5);
                let by = self.d.pick(&[1, z, 2 * z, 1448]);
                let mut list = vec![json!({"op": "inject", "seq": "next", "len": z})];
                match self.d.below(3) {
                    0 => list.push(json!({"op": "inject", "seq": format!("next+{by}"), "len": z})),
                    1 => list
                        .push(json!({"op": "inject", "seq": format!("rcv-{by}"), "len": z, "aside": true})),
                    _ if self.fixed_buffer => list.push(json!({"op": "read", "n": z})),
                    _ => {}
                }
                self.push(json!({"op": "repeat", "n": n, "ops": list}));
            }
            Kind::Write => {
                let n = self.d.pick(&[1, 10, 100, 1000]);
                self.push(json!({"op": "write", "n": n}));
                self.push_after(1, json!({"op": "ackall"}));
            }
            Kind::Shut => {
                if self.d.percent(70) {
                    let how = self.d.pick(&["wr", "wr", "rd", "rdwr"]);
                    self.push(json!({"op": "shutdown", "how": how}));
                    if how != "rd" {
                        // The FIN would be sent again and again.
                        self.push_after(1, json!({"op": "ackall"}));
                    }
                } else {
                    self.push(json!({"op": "close"}));
                }
            }
        }
    }

    fn burst_size(&mut self) -> u32 {
        if self.flavour.name == "comp" {
            self.d.pick(&[2, 3, 5, 8, 12])
        } else {
            self.d.pick(&[2, 3, 5, 10, 20, 40])
        }
    }

    fn burst(&mut self, n: u32, z: u32) {
        let begins_beyond = matches!(self.flavour.name, "comp" | "ofo") && self.d.percent(50);
        if self.d.percent(15) {
            // A stride that is not the length leaves holes or overlaps; a negative one comes last first.
            let stride = match self.d.below(4) {
                0 => 2 * i64::from(z),
                1 => i64::from(z / 2),
                2 => -i64::from(z),
                _ => i64::from(z) + 1,
            };
            let seq = if stride < 0 { format!("next+{}", z * n) } else { "next".to_owned() };
            self.push(json!({"op": "burst", "seq": seq, "len": z, "count": n, "stride": stride}));
            return;
        }
        let mixed = self.d.percent(20);
        let first = if begins_beyond {
            format!("rcv+{z}")
        } else if self.d.percent(70) {
            "next".to_owned()
        } else {
            "rcv".to_owned()
        };
        let mut segs = vec![Value::Object(self.part(first, z))];
        for _ in 1..n {
            let len = if mixed { self.d.pick(&self.sizes) } else { z };
            let seq = if mixed && self.d.percent(10) { "rcv" } else { "next" };
            segs.push(Value::Object(self.part(seq.to_owned(), len)));
        }
        self.push(json!({"op": "burst", "segs": segs}));
    }

    fn overlap(&mut self, z: u32) {
        let a = self.d.pick(&[1, 50, z, 2 * z, 1000]);
        let at = self.d.pick(&[format!("rcv-{a}"), format!("next-{a}"), format!("rcv+{a}")]);
        let more = self.d.pick(&[0, 0, a, 1, 300]);
        let op = self.one(at, (z + more).min(64_000), false);
        let alt = self.d.percent(40);
        self.push(if alt { Self::with(op, "alt", true) } else { op });
    }

    fn fill(&mut self, z: u32) {
        let max = self.d.pick(&[5, 20, 40]).min(self.target.max_segments(z));
        let mut op = json!({"op": "fill", "len": z, "max": max});
        if self.d.percent(40) {
            op = Self::with(op, "partial", true);
        }
        if self.d.percent(15) {
            op = Self::with(op, "quiet", true);
        }
        self.push(op);
    }

    fn paws(&mut self, z: u32) {
        let at = self.d.pick(&["rcv".to_owned(), "rcv".to_owned(), format!("rcv-{z}"), format!("rcv+{z}")]);
        let len = self.d.pick(&[0, z]);
        let win = self.d.pick(&[512, 512, 300]);
        let op = json!({"op": "inject", "seq": at, "len": len, "win": win, "aside": true});
        let op = if self.d.percent(8) {
            Self::with(op, "no_ts", true)
        } else {
            let add: i64 =
                self.d.pick(&[-1, -2, -5, -100, -5000, -1_000_000, 10, -1, -5, -(1 << 31) + 1000, 1 << 20]);
            Self::with(op, "tsadd", add)
        };
        self.push(op);
    }

    /// What a receiver answers with a challenge, drops, or takes with care.
    fn odd(&mut self, z: u32) {
        let len = self.d.pick(&[0, z]);
        let op = match self.d.below(8) {
            0 => json!({"op": "inject", "seq": "rcv+10", "len": 0, "flags": "S", "aside": true}),
            1 => json!({"op": "inject", "seq": "rcv", "len": 0, "flags": "SA", "aside": true}),
            2 => json!({"op": "inject", "seq": "rcv+1", "len": 0, "flags": "R", "aside": true}),
            3 => json!({"op": "inject", "seq": "edge+1", "len": 0, "flags": "RA", "aside": true}),
            4 => json!({"op": "inject", "seq": "rcv", "len": len, "flags": "P", "aside": true}),
            5 => json!({"op": "inject", "seq": "rcv", "len": len, "ack": 1000, "aside": true}),
            6 => {
                let back = self.d.pick(&[-1, -1000, -1_000_000]);
                json!({"op": "inject", "seq": "rcv", "len": len, "ack": back, "aside": true})
            }
            _ => json!({"op": "inject", "seq": "rcv-1000000", "len": len, "aside": true}),
        };
        self.push(op);
    }

    fn amount(&mut self, z: u32) -> Value {
        match self.d.below(8) {
            0..3 => "all".into(),
            3 => 1.into(),
            4 => z.into(),
            5 => (5 * z).into(),
            6 => 1000.into(),
            _ => 10_000.into(),
        }
    }

    /// A read at a phase of its own.
    fn read(&mut self, gap: u32, op: Value) {
        let at = FRACTIONS.get(self.reads as usize % FRACTIONS.len()).copied().unwrap_or(ARRIVAL_US);
        let whole =
            if self.target.tick_us() < 4000 { 0 } else { (self.reads / FRACTIONS.len() as u32) % 2 * 1000 };
        self.reads += 1;
        let mut op = Self::with(op, "ph", at + whole);
        if self.flavour.name == "comp" {
            // Behind its phase, settling would not end within the tick; nothing is put off either.
            op = Self::with(op, "settle", "none");
        }
        self.push_after(gap, op);
    }

    /// A slow reader.
    fn reads(&mut self, z: u32) {
        let count = self.d.between(2, 5);
        let n = self.d.pick(&[z, 100, 1000, 3000, 2 * z]);
        if self.fixed_buffer {
            self.push(json!({"op": "reads", "n": n, "count": count}));
        } else {
            for _ in 0..count {
                self.read(1, json!({"op": "read", "n": n}));
            }
        }
    }

    fn option(&mut self) {
        let (name, value): (&str, i64) = match self.d.below(100) {
            0..38 => (
                "SO_RCVBUF",
                self.d.pick(&[1, 1000, 3000, 6000, 20_000, 60_000, 100_000, 300_000, 3_000_000]),
            ),
            38..68 => (
                "TCP_WINDOW_CLAMP",
                self.d.pick(&[0, 1, 1000, 1153, 3000, 8000, 20_000, 65_536, 100_000, 1 << 20, 1 << 30]),
            ),
            68..80 => ("SO_RCVLOWAT", self.d.pick(&[0, 1, 1000, 20_000, 80_000, 200_000, 1 << 30])),
            80..90 => ("TCP_QUICKACK", self.d.pick(&[0, 1])),
            _ => return self.sysctl(),
        };
        self.push(json!({"op": "setsockopt", "name": name, "value": value}));
    }

    fn sysctl(&mut self) {
        let old = self.target.space == super::Space::AdvWinScale;
        let (name, value) = match self.d.below(6) {
            0 | 1 if !old => ("tcp_shrink_window", self.d.pick(&["0", "1"])),
            // Where nothing measures the reader, reads lie at one phase: it has to stay so.
            2 if !self.fixed_buffer => ("tcp_moderate_rcvbuf", self.d.pick(&["0", "1"])),
            3 => ("tcp_rmem", self.d.pick(&["4096 20000 20000", "4096 131072 33554432", "4096 4096 200000"])),
            4 => ("tcp_app_win", self.d.pick(&["0", "2", "31"])),
            5 => ("tcp_dsack", self.d.pick(&["0", "1"])),
            _ => ("tcp_adv_win_scale", self.d.pick(&["-2", "0", "1", "2"])),
        };
        self.push(json!({"op": "sysctl", "name": name, "value": value}));
    }
}
