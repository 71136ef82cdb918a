//! Axes: which ticks to draw and how to write them.

/// From a value to a place on the sheet.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scale {
    pub(super) low: f64,
    pub(super) high: f64,
}

impl Scale {
    /// A place between `a` and `b`; values outside the scale end at its ends.
    pub(super) fn place(&self, value: f64, a: f64, b: f64) -> f64 {
        let span = self.high - self.low;
        let part = if span > 0.0 { ((value - self.low) / span).clamp(0.0, 1.0) } else { 0.5 };
        a + part * (b - a)
    }
}

/// A scale from zero for byte counts up to `most`, with ticks at round multiples of a power of two.
pub(super) fn bytes(most: f64, ticks: usize) -> (Scale, Vec<f64>) {
    let most = most.max(1.0);
    let mut step = 1.0;
    while most / step > ticks as f64 {
        step *= 2.0;
    }
    let n = (most / step).ceil();
    let high = (n * step).max(most * 1.02);
    (Scale { low: 0.0, high }, steps(0.0, high, step))
}

/// Round decimal ticks inside `low..high`.
pub(super) fn decimal(low: f64, high: f64, ticks: usize, whole: bool) -> Vec<f64> {
    let span = (high - low).max(f64::MIN_POSITIVE);
    let mut step = 10f64.powf((span / ticks as f64).log10().floor());
    for factor in [1.0, 2.0, 5.0, 10.0] {
        if span / (step * factor) <= ticks as f64 {
            step *= factor;
            break;
        }
    }
    if whole {
        step = step.max(1.0);
    }
    let first = (low / step).ceil() * step;
    steps(first, high, step)
}

fn steps(first: f64, high: f64, step: f64) -> Vec<f64> {
    let n = ((high - first) / step + 1e-6).floor();
    if !n.is_finite() || n < 0.0 {
        return Vec::new();
    }
    (0..=(n.min(100.0) as u32)).map(|i| first + step * f64::from(i)).collect()
}

/// A byte count with its unit.
pub(super) fn byte_label(value: f64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let mut v = value;
    let mut unit = 0;
    while v.abs() >= 1024.0 && unit + 1 < units.len() {
        v /= 1024.0;
        unit += 1;
    }
    if value == 0.0 {
        return "0".to_owned();
    }
    format!("{} {}", trimmed(v), units[unit])
}

/// A time in seconds with the unit that suits a span of `span` seconds.
pub(super) fn time_unit(span: f64) -> (f64, &'static str) {
    match span {
        s if s < 2e-6 => (1e9, "ns"),
        s if s < 2e-3 => (1e6, "µs"),
        s if s < 2.0 => (1e3, "ms"),
        _ => (1.0, "s"),
    }
}

/// At most two decimals, none that say nothing.
pub(super) fn trimmed(v: f64) -> String {
    let text = format!("{v:.2}");
    let text = text.trim_end_matches('0').trim_end_matches('.');
    if v.abs() >= 10_000.0 { thousands(v) } else { text.to_owned() }
}

/// Whole numbers with thin gaps between thousands.
pub(super) fn thousands(v: f64) -> String {
    let digits = format!("{:.0}", v.abs());
    let mut out = String::new();
    for (i, c) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i) % 3 == 0 && digits.len() > 4 {
            out.push('\u{202f}');
        }
        out.push(c);
    }
    if v < 0.0 && digits != "0" { format!("−{out}") } else { out }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_of_bytes_are_round_and_cover_everything() {
        for most in [0.0, 1.0, 700.0, 65_536.0, 73_984.0, 6e6, 2.68e8, 1e12, 9.2e18] {
            let (scale, ticks) = bytes(most, 7);
            assert!(scale.high >= most && ticks.len() >= 2 && ticks.len() <= 9, "{most} {ticks:?}");
        }
        assert_eq!(
            bytes(73_984.0, 7).1.iter().map(|t| byte_label(*t)).collect::<Vec<_>>(),
            ["0", "16 KiB", "32 KiB", "48 KiB", "64 KiB", "80 KiB"]
        );
    }

    #[test]
    fn labels_are_short() {
        assert_eq!(byte_label(1.5 * 1048576.0), "1.5 MiB");
        assert_eq!(thousands(12_345.0), "12\u{202f}345");
        assert_eq!(thousands(1234.0), "1234");
        assert_eq!(trimmed(0.25), "0.25");
        assert_eq!(decimal(1.0, 62.0, 8, true), [10.0, 20.0, 30.0, 40.0, 50.0, 60.0]);
        assert_eq!(decimal(0.0, 0.5, 5, true), [0.0]);
        assert!(decimal(0.0, f64::MAX, 8, true).len() <= 101);
    }
}
