//! What is settled before a script's first operation.

use serde_json::{Map, Value, json};

use super::dice::Dice;
use super::{Space, Target};
use crate::oracle::script::RxPath;

/// The top of a script, and what its operations need to know of it.
pub(super) struct Settings {
    pub(super) sysctl: Map<String, Value>,
    pub(super) listener: Vec<Value>,
    pub(super) handshake: Map<String, Value>,
    pub(super) rest: Map<String, Value>,
}

fn set(map: &mut Map<String, Value>, key: &str, value: impl Into<Value>) {
    map.insert(key.to_owned(), value.into());
}

impl Settings {
    pub(super) fn random(d: &mut Dice, target: &Target) -> Self {
        let mut rest = Map::new();
        let path = if target.rx_paths.is_empty() { RxPath::default() } else { d.pick(&target.rx_paths) };
        set(&mut rest, "rx_path", path.to_string());
        if d.percent(15) {
            set(&mut rest, "mtu", d.pick(&[576, 1280, 1492, 4000, 9000, 65_521]));
        }
        if d.percent(15) {
            // Close below 2^32 the numbers wrap, close below 2^31 they change their sign.
            let top = d.pick(&[u32::MAX, u32::MAX, 0x7fff_ffff]);
            let below = d.pick(&[0, 1, 100, 1448, 20_000, 65_536, 200_000]);
            set(&mut rest, "isn", top.wrapping_sub(below));
        }
        if target.routes && d.percent(8) {
            set(&mut rest, "route", route(d));
        }
        let handshake = handshake(d, target);
        if handshake.get("ts") == Some(&Value::Bool(true)) && d.percent(6) {
            set(&mut rest, "tsecr", d.pick(&["frozen", "zero"]));
        }
        Settings { sysctl: sysctl(d, target), listener: listener(d), handshake, rest }
    }

    /// True if nothing measures how fast the reader is: the buffer stays as it is.
    pub(super) fn fixed_buffer(&self) -> bool {
        let locked = |o: &Value| o.get(0).is_some_and(|n| n == "SO_RCVBUF");
        self.listener.iter().any(locked) || self.sysctl.get("tcp_moderate_rcvbuf").is_some_and(|v| v == "0")
    }
}

fn handshake(d: &mut Dice, target: &Target) -> Map<String, Value> {
    let mut h = Map::new();
    if d.percent(50) {
        set(&mut h, "ts", true);
    }
    if d.percent(20) {
        set(&mut h, "sack", false);
    }
    match d.below(100) {
        0..45 => {}
        45..60 => set(&mut h, "mss", 536),
        60..73 => set(&mut h, "mss", 1000),
        73..86 => set(&mut h, "mss", 9000),
        86..94 => set(&mut h, "mss", 300),
        94..97 => set(&mut h, "mss", d.pick(&[1, 48, 88, 1220, 1461, 32_767, 65_535])),
        _ => set(&mut h, "mss", Value::Null),
    }
    match d.below(100) {
        0..45 => {}
        45..60 => set(&mut h, "wscale", 0),
        60..72 => set(&mut h, "wscale", 2),
        72..84 => set(&mut h, "wscale", 14),
        84..87 => set(&mut h, "wscale", d.pick(&[1, 5, 10, 15])),
        _ => set(&mut h, "wscale", Value::Null),
    }
    if d.percent(15) {
        set(&mut h, "win", d.pick(&[512, 8192, 1000, 100]));
    }
    if d.percent(20) {
        set(&mut h, "ack_delay_ms", ack_delay(d, target));
    }
    h
}

/// How long the peer takes for its ACK: some whole ticks and most of a millisecond, so that the round trip that it
/// makes is never a whole number of ticks, as the distances between reads may be.
pub(super) fn ack_delay(d: &mut Dice, target: &Target) -> u64 {
    let ticks = d.pick(if target.hz >= 250 { &[2, 5, 12, 30] } else { &[2, 3, 5, 12] });
    ticks * 1000 / u64::from(target.hz.max(1)) + 1
}

fn sysctl(d: &mut Dice, target: &Target) -> Map<String, Value> {
    let mut y = Map::new();
    let old = target.space == Space::AdvWinScale;
    if !old && d.percent(30) {
        set(&mut y, "tcp_shrink_window", "1");
    }
    if d.percent(50) {
        let low = d.pick(&[4096, 4096, 4096, 10_000, 1]);
        let first = d.pick(&[2000, 4096, 6000, 10_000, 20_000, 32_768, 65_536, 131_072, 200_000, 1_000_000]);
        let most = d.pick(&[first, first * 2, 262_144, 6_291_456, 33_554_432]);
        let rmem =
            if d.percent(10) { "4096 16384 16384".to_owned() } else { format!("{low} {first} {most}") };
        set(&mut y, "tcp_rmem", rmem);
    }
    if d.percent(12) {
        set(&mut y, "tcp_moderate_rcvbuf", "0");
    }
    // A ratio has replaced the scale in later kernels: there it must change nothing.
    if d.percent(if old { 30 } else { 8 }) {
        set(&mut y, "tcp_adv_win_scale", d.pick(&["-31", "-2", "-1", "0", "2", "3", "5", "31"]));
    }
    if d.percent(10) {
        set(&mut y, "tcp_app_win", d.pick(&["0", "1", "2", "5", "12"]));
    }
    if d.percent(7) {
        set(&mut y, "tcp_workaround_signed_windows", "1");
    }
    if d.percent(10) {
        set(&mut y, "tcp_dsack", "0");
    }
    if d.percent(10) {
        set(&mut y, "tcp_invalid_ratelimit", "500");
    }
    for name in ["tcp_sack", "tcp_timestamps", "tcp_window_scaling"] {
        if d.percent(3) {
            set(&mut y, name, "0");
        }
    }
    y
}

fn listener(d: &mut Dice) -> Vec<Value> {
    let mut l = Vec::new();
    if d.percent(30) {
        let n = d.pick(&[1000, 2304, 3000, 5000, 8000, 10_000, 16_384, 30_000, 65_536, 200_000]);
        l.push(json!(["SO_RCVBUF", n]));
    }
    if d.percent(10) {
        l.push(json!(["TCP_WINDOW_CLAMP", d.pick(&[1, 1000, 3000, 10_000, 50_000, 100_000])]));
    }
    if d.percent(8) {
        l.push(json!(["SO_RCVLOWAT", d.pick(&[1, 2000, 20_000])]));
    }
    if d.percent(4) {
        l.push(json!(["TCP_MAXSEG", d.pick(&[88, 536, 1000, 1400])]));
    }
    l
}

fn route(d: &mut Dice) -> Value {
    match d.below(4) {
        0 => json!({"quickack": true}),
        1 => json!({"initrwnd": d.pick(&[1, 2, 10, 40, 200])}),
        2 => json!({"window": d.pick(&[1000, 5000, 30_000, 100_000])}),
        _ => json!({"advmss": d.pick(&[300, 536, 1000, 1400])}),
    }
}
