//! Quantities as Kubernetes reads them, and durations as documents write them. Integers only; what is finer than the unit is rounded up.

use roadstead_core::time::Millis;
use serde_json::Value;

/// Digits of a quantity; more are a mistake, and the arithmetic below stays within 128 bits.
const MAX_DIGITS: usize = 18;
/// Suffixes, and what they multiply by: numerator and denominator.
const SUFFIXES: [(&str, u128, u128); 16] = [
    ("", 1, 1),
    ("n", 1, 1_000_000_000),
    ("u", 1, 1_000_000),
    ("m", 1, 1_000),
    ("k", 1_000, 1),
    ("M", 1_000_000, 1),
    ("G", 1_000_000_000, 1),
    ("T", 1_000_000_000_000, 1),
    ("P", 1_000_000_000_000_000, 1),
    ("E", 1_000_000_000_000_000_000, 1),
    ("Ki", 1 << 10, 1),
    ("Mi", 1 << 20, 1),
    ("Gi", 1 << 30, 1),
    ("Ti", 1 << 40, 1),
    ("Pi", 1 << 50, 1),
    ("Ei", 1 << 60, 1),
];
/// Units of durations in milliseconds.
const TIMES: [(&str, u64); 6] = [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000), ("w", 604_800_000)];

/// A quantity of CPU in thousandths; `None` if it is none.
pub(crate) fn millicores(value: &Value) -> Option<u64> {
    scaled(value, 1000)
}

/// A quantity of bytes; `None` if it is none.
pub(crate) fn bytes(value: &Value) -> Option<u64> {
    scaled(value, 1)
}

fn scaled(value: &Value, scale: u128) -> Option<u64> {
    let text = match value {
        Value::String(text) => text.clone(),
        Value::Number(number) => number.to_string(),
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => return None,
    };
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, suffix) = text.split_at(end);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let digits = format!("{whole}{fraction}");
    if digits.is_empty() || digits.len() > MAX_DIGITS || fraction.contains('.') {
        return None;
    }
    let (times, over) = factor(suffix)?;
    let numerator = digits.parse::<u128>().ok()?.checked_mul(times)?.checked_mul(scale)?;
    let divisor = 10u128.checked_pow(u32::try_from(fraction.len()).ok()?)?.checked_mul(over)?;
    u64::try_from(numerator.div_ceil(divisor)).ok()
}

/// What a suffix of a quantity multiplies by, exponents apart: numerator and denominator; `None` if there is no such suffix.
#[must_use]
pub fn suffix_factor(suffix: &str) -> Option<(u128, u128)> {
    SUFFIXES.iter().find(|(name, _, _)| *name == suffix).map(|(_, times, over)| (*times, *over))
}

/// What a suffix or an exponent (as in `e3`) of a quantity multiplies by: numerator and denominator; `None` if it is neither.
#[must_use]
pub fn factor(suffix: &str) -> Option<(u128, u128)> {
    if let Some(known) = suffix_factor(suffix) {
        return Some(known);
    }
    let power: i32 = suffix.strip_prefix(['e', 'E'])?.parse().ok().filter(|power: &i32| power.abs() <= 18)?;
    let factor = 10u128.checked_pow(power.unsigned_abs())?;
    Some(if power < 0 { (1, factor) } else { (factor, 1) })
}

/// A duration as in `20s`, `5m`, `1h30m`; `None` if it is none.
pub(crate) fn span(text: &str) -> Option<Millis> {
    let (mut rest, mut total) = (text, 0u64);
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit())?;
        let unit_end = rest[end..].find(|c: char| c.is_ascii_digit()).map_or(rest.len(), |at| end + at);
        let unit = TIMES.iter().find(|(name, _)| *name == &rest[end..unit_end])?.1;
        total = total.checked_add(rest[..end].parse::<u64>().ok()?.checked_mul(unit)?)?;
        rest = &rest[unit_end..];
    }
    (!text.is_empty()).then_some(Millis(total))
}

/// Bytes as Kubernetes writes them, exactly.
pub(crate) fn bytes_text(bytes: u64) -> String {
    let binary = SUFFIXES.iter().rev().filter(|(name, _, _)| name.ends_with('i'));
    let value = u128::from(bytes);
    let unit = binary.into_iter().find(|(_, times, _)| value != 0 && value.is_multiple_of(*times));
    unit.map_or_else(|| bytes.to_string(), |(name, times, _)| format!("{}{name}", value / times))
}

/// Bytes as people read them, exactly: a quantity, or a number of bytes where no unit goes into it.
pub(crate) fn bytes_words(bytes: u64) -> String {
    let text = bytes_text(bytes);
    if text.ends_with('i') { text } else { format!("{text} bytes") }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn quantities_are_read_as_kubernetes_does() {
        for (value, expected) in [
            (json!("250m"), 250),
            (json!(2), 2000),
            (json!("0.5"), 500),
            (json!(0.5), 500),
            (json!("1e3m"), 0),
            (json!("1n"), 1),
            (json!("1e2"), 100_000),
            (json!("1e-2"), 10),
        ] {
            assert_eq!(millicores(&value), (expected > 0).then_some(expected), "{value}");
        }
        for (value, expected) in [(json!("1Gi"), 1 << 30), (json!("1500m"), 2), (json!("1.5Ki"), 1536), (json!("128974848"), 128_974_848)] {
            assert_eq!(bytes(&value), Some(expected), "{value}");
        }
        for value in [json!("-1"), json!(""), json!("Gi"), json!("1GB"), json!(null), json!("1.2.3"), json!("99999999999999999999")] {
            assert_eq!(bytes(&value), None, "{value}");
        }
    }

    #[test]
    fn durations_need_a_unit() {
        assert_eq!(span("1h30m"), Some(Millis(5_400_000)));
        assert_eq!(span("250ms"), Some(Millis(250)));
        for text in ["", "20", "m", "-5m", "5min", "99999999999999999999d"] {
            assert_eq!(span(text), None, "{text}");
        }
    }

    #[test]
    fn bytes_are_written_exactly() {
        assert_eq!(bytes_text(5 << 30), "5Gi");
        assert_eq!(bytes_text(1500), "1500");
        assert_eq!(bytes_text(0), "0");
        assert_eq!((bytes_words(3 << 30).as_str(), bytes_words(1500).as_str()), ("3Gi", "1500 bytes"));
    }
}
