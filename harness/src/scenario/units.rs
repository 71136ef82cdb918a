//! Sizes, durations and rates as people write them: one parser for scenario files, flags and link specifications.
//!
//! Durations are humantime's (`1ms`, `20us`, `2m 5s`). Sizes are bytes with a binary (`KiB`) or a decimal (`kB`) unit;
//! a bare `K` is refused because nobody agrees on what it means. Rates are bits per second in powers of ten.

use core::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use rightedge_stack::time::Duration;

/// A value that could not be read, with an example of one that can.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{value}` is not a {kind}: {why}; write {fix}")]
pub struct UnitError {
    /// What was expected: "duration", "size", "rate".
    pub kind: &'static str,
    /// What was written.
    pub value: String,
    /// What is wrong with it.
    pub why: String,
    /// Something that would be accepted.
    pub fix: String,
}

/// A number of bytes, written `4096`, `"256KiB"`, `"8MiB"`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Size(pub u64);

/// A span of time, written `"1ms"`, `"240s"`, `"15m"`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Span(pub Duration);

/// Reads a duration.
///
/// # Errors
/// When the text is no duration or more than 584 years.
pub fn parse_duration(text: &str) -> Result<Duration, UnitError> {
    let error = |why: String| UnitError {
        kind: "duration",
        value: text.to_owned(),
        why,
        fix: "a number with ns, us, ms, s, m or h, such as 1ms, 20us or 2m 5s".to_owned(),
    };
    let trimmed = text.trim();
    if trimmed == "0" {
        return Ok(Duration::ZERO);
    }
    let parsed = humantime::parse_duration(trimmed).map_err(|e| error(e.to_string()))?;
    let nanos = u64::try_from(parsed.as_nanos()).map_err(|_| error("too long".to_owned()))?;
    Ok(Duration::from_nanos(nanos))
}

/// Reads a number of bytes.
///
/// # Errors
/// When the text is no number with a known unit, is negative, or does not fit 64 bits.
pub fn parse_size(text: &str) -> Result<u64, UnitError> {
    let error =
        |why: &str, fix: String| UnitError { kind: "size", value: text.to_owned(), why: why.to_owned(), fix };
    let example = || "bytes, or a number with KiB, MiB or GiB, such as 65536 or 64KiB".to_owned();
    let (number, unit) = split_number(text);
    let factor: u64 = match unit {
        "" | "B" => 1,
        "KiB" | "kiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "TiB" => 1 << 40,
        "kB" | "KB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "TB" => 1_000_000_000_000,
        "k" | "K" | "m" | "M" | "g" | "G" => {
            let u = unit.to_uppercase();
            return Err(error(
                "the unit could mean powers of 1024 or of 1000",
                format!("{number}{u}iB or {number}{}B", if u == "K" { "k" } else { &u }),
            ));
        }
        _ => return Err(error("unknown unit", example())),
    };
    scale(number, factor).ok_or_else(|| error("not a number of bytes that fits 64 bits", example()))
}

/// Reads a rate in bits per second.
///
/// # Errors
/// When the text is no number with a known unit, or is zero.
pub fn parse_rate(text: &str) -> Result<u64, UnitError> {
    let error = |why: &str| UnitError {
        kind: "rate",
        value: text.to_owned(),
        why: why.to_owned(),
        fix: "a number with bit, kbit, mbit or gbit, such as 100mbit".to_owned(),
    };
    let (number, unit) = split_number(text);
    let unit = unit.to_ascii_lowercase();
    let factor: u64 = match unit.strip_suffix("/s").unwrap_or(&unit) {
        "bit" | "bps" => 1,
        "kbit" | "kbps" => 1_000,
        "mbit" | "mbps" => 1_000_000,
        "gbit" | "gbps" => 1_000_000_000,
        "" => return Err(error("the unit is missing")),
        _ => return Err(error("unknown unit")),
    };
    match scale(number, factor) {
        None => Err(error("not a number that fits 64 bits")),
        Some(0) => Err(error("a rate of zero would never deliver anything")),
        Some(rate) => Ok(rate),
    }
}

impl Size {
    /// Bytes as 32 bits, the largest value if they do not fit.
    #[must_use]
    pub fn as_u32(self) -> u32 {
        u32::try_from(self.0).unwrap_or(u32::MAX)
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (shift, unit) in [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")] {
            if self.0 != 0 && self.0 & ((1u64 << shift) - 1) == 0 {
                return write!(f, "{}{unit}", self.0 >> shift);
            }
        }
        write!(f, "{}B", self.0)
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let d = core::time::Duration::from_nanos(self.0.as_nanos());
        humantime::format_duration(d).fmt(f)
    }
}

impl core::str::FromStr for Size {
    type Err = UnitError;
    fn from_str(s: &str) -> Result<Self, UnitError> {
        parse_size(s).map(Size)
    }
}

impl core::str::FromStr for Span {
    type Err = UnitError;
    fn from_str(s: &str) -> Result<Self, UnitError> {
        parse_duration(s).map(Span)
    }
}

impl Serialize for Size {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl Serialize for Span {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct V;
        impl de::Visitor<'_> for V {
            type Value = Size;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a size: bytes as a number, or text such as \"64KiB\"")
            }
            fn visit_str<E: de::Error>(self, v: &str) -> Result<Size, E> {
                parse_size(v).map(Size).map_err(E::custom)
            }
            fn visit_i64<E: de::Error>(self, v: i64) -> Result<Size, E> {
                u64::try_from(v)
                    .map(Size)
                    .map_err(|_| E::custom(format!("a size cannot be negative ({v}); write 0 or more")))
            }
            fn visit_u64<E: de::Error>(self, v: u64) -> Result<Size, E> {
                Ok(Size(v))
            }
        }
        d.deserialize_any(V)
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct V;
        impl de::Visitor<'_> for V {
            type Value = Span;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a duration in quotes with its unit, such as \"1ms\"")
            }
            fn visit_str<E: de::Error>(self, v: &str) -> Result<Span, E> {
                parse_duration(v).map(Span).map_err(E::custom)
            }
        }
        d.deserialize_any(V)
    }
}

/// The leading digits (with `_` and one `.`) and the rest, blanks removed around both.
fn split_number(text: &str) -> (&str, &str) {
    let text = text.trim();
    let end = text.find(|c: char| !(c.is_ascii_digit() || c == '.' || c == '_')).unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    (number.trim(), unit.trim())
}

/// `number` (decimal, at most nine places) times `factor`, exactly; `None` if it is none, or no whole result fits.
fn scale(number: &str, factor: u64) -> Option<u64> {
    let clean: String = number.chars().filter(|&c| c != '_').collect();
    let (whole, frac) = clean.split_once('.').unwrap_or((&clean, ""));
    if whole.is_empty() || frac.len() > 9 || frac.contains('.') || (clean.contains('.') && frac.is_empty()) {
        return None;
    }
    let whole = u128::from(whole.parse::<u64>().ok()?).checked_mul(u128::from(factor))?;
    let part = match frac {
        "" => 0,
        f => {
            let scaled = f.parse::<u128>().ok()?.checked_mul(u128::from(factor))?;
            let unit = 10u128.pow(u32::try_from(f.len()).ok()?);
            (scaled % unit == 0).then_some(scaled / unit)?
        }
    };
    u64::try_from(whole.checked_add(part)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_binary_or_decimal_and_never_ambiguous() {
        for (text, bytes) in [
            ("0", 0),
            ("4096", 4096),
            ("64KiB", 65536),
            ("256 MiB", 1 << 28),
            ("1.5MiB", 3 << 19),
            ("2kB", 2000),
        ] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        let e = parse_size("64K").unwrap_err().to_string();
        assert!(e.contains("64KiB or 64kB"), "{e}");
        for bad in [
            "",
            "KiB",
            "-1",
            "1.0001KiB",
            "99999999999999999999",
            "18446744073709551615KiB",
            "1..5MiB",
            "5 apples",
            "1.MiB",
        ] {
            assert!(parse_size(bad).is_err(), "{bad}");
        }
        assert_eq!(Size(8 << 20).to_string(), "8MiB");
        assert_eq!(Size(1448).to_string(), "1448B");
    }

    #[test]
    fn durations_and_rates() {
        assert_eq!(parse_duration("1ms"), Ok(Duration::from_millis(1)));
        assert_eq!(parse_duration("20us"), Ok(Duration::from_micros(20)));
        assert_eq!(parse_duration("2100s").map(Duration::as_millis), Ok(2_100_000));
        assert_eq!(parse_duration("0"), Ok(Duration::ZERO));
        assert!(parse_duration("5").unwrap_err().to_string().contains("such as 1ms"));
        assert!(parse_duration("99999999999y").is_err());
        assert_eq!(parse_rate("100mbit"), Ok(100_000_000));
        assert_eq!(parse_rate("2655752000bit/s"), Ok(2_655_752_000));
        assert_eq!(parse_rate("1.5gbit"), Ok(1_500_000_000));
        assert!(parse_rate("0mbit").is_err() && parse_rate("100").is_err() && parse_rate("9MB").is_err());
    }

    #[test]
    fn what_is_printed_reads_back() {
        for s in [0, 1, 1448, 65536, 1 << 40, u64::MAX] {
            assert_eq!(Size(s).to_string().parse(), Ok(Size(s)));
        }
        for ns in [0, 1, 20_000, 1_500_000_000, 924_600_000_000] {
            let d = Span(Duration::from_nanos(ns));
            assert_eq!(d.to_string().parse(), Ok(d));
        }
    }
}
