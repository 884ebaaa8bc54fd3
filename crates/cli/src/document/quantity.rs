//! Quantities as Kubernetes writes them, durations and names: exact integers, never floats.
//!
//! `Cpu` counts millicores (`2500m`, `2`, `2.5`), `Bytes` bytes (`3Gi`, `500M`), `Span` milliseconds (`5m`, `7d`, `1h30m`).

use std::borrow::Cow;
use std::fmt;

use roadstead_core::id::{Name, Owner};
use roadstead_core::resources::MAX_QUANTITY;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, Deserializer, Visitor};
use serde::{Deserialize, Serialize, Serializer};

use super::read::shown;

/// Thousandths of a CPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cpu(pub u64);

/// Bytes of memory or storage.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Bytes(pub u64);

/// A length of time in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(pub u64);

/// A DNS label: what tenants, clusters, pools and classes are called.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Label(pub String);

/// An organisation.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct OwnerName(pub String);

const BINARY: [(&str, u128); 6] = [("Ki", 1 << 10), ("Mi", 1 << 20), ("Gi", 1 << 30), ("Ti", 1 << 40), ("Pi", 1 << 50), ("Ei", 1 << 60)];
const DECIMAL: [(&str, u128); 6] = [
    ("k", 1_000),
    ("M", 1_000_000),
    ("G", 1_000_000_000),
    ("T", 1_000_000_000_000),
    ("P", 1_000_000_000_000_000),
    ("E", 1_000_000_000_000_000_000),
];
const TIME: [(&str, u64); 6] = [("w", 604_800_000), ("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];
/// Digits of a quantity; more are a mistake, and the arithmetic below stays within 128 bits.
const MAX_DIGITS: usize = 18;

/// A decimal number taken apart: `digits / 10^decimals`, and what follows it.
struct Number<'a> {
    digits: u128,
    decimals: u32,
    suffix: &'a str,
}

fn split(text: &str) -> Result<Number<'_>, String> {
    if text.starts_with('-') {
        return Err(format!("`{}` must not be negative", shown(text)));
    }
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, suffix) = text.split_at(end);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let digits = format!("{whole}{fraction}");
    if digits.is_empty() || fraction.contains('.') {
        return Err(format!("`{}` does not begin with a number", shown(text)));
    }
    if digits.len() > MAX_DIGITS {
        return Err(format!("`{}` has more than {MAX_DIGITS} digits", shown(text)));
    }
    let digits = digits.parse().map_err(|_| format!("`{}` does not begin with a number", shown(text)))?;
    Ok(Number { digits, decimals: u32::try_from(fraction.len()).unwrap_or(u32::MAX), suffix })
}

/// `number * factor` if that is a whole number within the limit.
fn exact(text: &str, number: &Number<'_>, factor: u128, finest: &str) -> Result<u64, String> {
    let too_large = || format!("`{}` is larger than the largest quantity, {MAX_QUANTITY}", shown(text));
    let scaled = number.digits.checked_mul(factor).ok_or_else(too_large)?;
    let divisor = 10u128.checked_pow(number.decimals).ok_or_else(too_large)?;
    if scaled % divisor != 0 {
        return Err(format!("`{}` is finer than {finest}", shown(text)));
    }
    u64::try_from(scaled / divisor).ok().filter(|value| *value <= MAX_QUANTITY).ok_or_else(too_large)
}

/// The power of ten of a suffix as in `1e3`.
fn exponent(suffix: &str) -> Option<u128> {
    let power = suffix.strip_prefix(['e', 'E'])?;
    (power.len() == 1 || power.len() == 2).then_some(())?;
    10u128.checked_pow(power.parse().ok().filter(|power| *power <= 18)?)
}

impl Cpu {
    /// Reads `2500m`, `2` or `2.5`.
    ///
    /// # Errors
    /// What is wrong with it, and how to write it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let number = split(text)?;
        let factor = match number.suffix {
            "" => 1000,
            "m" => 1,
            _ => return Err(format!("`{}` has no unit of CPU: write cores (`2`, `2.5`) or thousandths (`2500m`)", shown(text))),
        };
        exact(text, &number, factor, "a thousandth of a CPU").map(Self)
    }
}

impl fmt::Display for Cpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_multiple_of(1000) { write!(f, "{}", self.0 / 1000) } else { write!(f, "{}m", self.0) }
    }
}

impl Bytes {
    /// Reads `3Gi`, `500M`, `1.5Ti`, `1e9` or a number of bytes.
    ///
    /// # Errors
    /// What is wrong with it, and how to write it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let number = split(text)?;
        let factor = match number.suffix {
            "" => Some(1),
            suffix => BINARY.iter().chain(&DECIMAL).find(|(name, _)| *name == suffix).map(|(_, f)| *f).or_else(|| exponent(suffix)),
        };
        let factor = factor.ok_or_else(|| {
            format!("`{}` has no unit of bytes: write Ki, Mi, Gi, Ti (powers of 1024), k, M, G, T (powers of 1000) or none", shown(text))
        })?;
        exact(text, &number, factor, "a byte").map(Self)
    }
}

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = u128::from(self.0);
        let unit = BINARY.iter().rev().chain(DECIMAL.iter().rev()).find(|(_, factor)| value != 0 && value.is_multiple_of(*factor));
        match unit {
            Some((name, factor)) => write!(f, "{}{name}", value / factor),
            None => write!(f, "{value}"),
        }
    }
}

impl Span {
    /// Reads `20s`, `5m`, `7d`, `1h30m` or `250ms`.
    ///
    /// # Errors
    /// What is wrong with it, and how to write it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{}` is not a duration: write a number with its unit, as in 250ms, 20s, 5m, 1h30m or 7d", shown(text));
        if text.starts_with('-') {
            return Err(format!("`{}` must not be negative", shown(text)));
        }
        let (mut rest, mut total_ms) = (text, 0u64);
        while !rest.is_empty() {
            let end = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
            let amount: u64 = rest[..end].parse().map_err(|_| wrong())?;
            let unit_end = rest[end..].find(|c: char| c.is_ascii_digit()).map_or(rest.len(), |at| end + at);
            let factor = TIME.iter().find(|(name, _)| *name == &rest[end..unit_end]).map(|(_, ms)| *ms).ok_or_else(wrong)?;
            let part = amount.checked_mul(factor).ok_or_else(wrong)?;
            total_ms = total_ms.checked_add(part).filter(|ms| *ms <= MAX_QUANTITY).ok_or_else(wrong)?;
            rest = &rest[unit_end..];
        }
        if text.is_empty() { Err(wrong()) } else { Ok(Self(total_ms)) }
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == 0 {
            return f.write_str("0s");
        }
        let mut rest = self.0;
        for (name, factor) in TIME.iter().filter(|(name, _)| *name != "w") {
            if rest / factor > 0 {
                write!(f, "{}{name}", rest / factor)?;
                rest %= factor;
            }
        }
        Ok(())
    }
}

impl Label {
    fn parse(text: &str) -> Result<Self, String> {
        Name::new(text).map(|name| Self(name.as_str().to_owned())).map_err(|error| format!("the name `{}`: {error}", shown(text)))
    }
}

impl OwnerName {
    fn parse(text: &str) -> Result<Self, String> {
        Owner::new(text).map(|owner| Self(owner.as_str().to_owned())).map_err(|error| format!("the owner `{}`: {error}", shown(text)))
    }
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for OwnerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Millionths of the fleet's currency.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Price(pub u64);

/// Decimals of a price.
const PRICE_DECIMALS: usize = 6;

impl Price {
    /// Reads `0.012`, exactly.
    fn parse(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{}` is not a price: write a number with at most {PRICE_DECIMALS} decimals", shown(text));
        if text.starts_with('-') {
            return Err(format!("`{}` must not be negative", shown(text)));
        }
        let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
        let digits = |part: &str| part.chars().all(|c| c.is_ascii_digit());
        if whole.is_empty() || whole.len() > 9 || fraction.len() > PRICE_DECIMALS || !digits(whole) || !digits(fraction) {
            return Err(wrong());
        }
        format!("{whole}{fraction:0<PRICE_DECIMALS$}").parse().map(Self).map_err(|_| wrong())
    }
}

impl fmt::Display for Price {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = format!("{}.{:06}", self.0 / 1_000_000, self.0 % 1_000_000);
        f.write_str(text.trim_end_matches('0').trim_end_matches('.'))
    }
}

/// Reads a scalar as the text that was written, whatever YAML takes it for.
struct Text<T>(fn(&str) -> Result<T, String>);

impl<T> Visitor<'_> for Text<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("text or a number")
    }
    fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
        (self.0)(text).map_err(E::custom)
    }
    fn visit_u64<E: de::Error>(self, number: u64) -> Result<T, E> {
        (self.0)(&number.to_string()).map_err(E::custom)
    }
}

macro_rules! as_text {
    ($type:ty, $name:literal, $pattern:expr) => {
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.deserialize_str(Text(Self::parse))
            }
        }
        impl JsonSchema for $type {
            fn schema_name() -> Cow<'static, str> {
                $name.into()
            }
            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                $pattern
            }
        }
    };
}

as_text!(
    Cpu,
    "Cpu",
    json_schema!({
        "description": "CPUs: cores (2, 2.5) or thousandths (2500m)",
        "type": ["string", "number"], "pattern": "^[0-9]+(\\.[0-9]+)?m?$", "minimum": 0
    })
);
as_text!(
    Bytes,
    "Bytes",
    json_schema!({
        "description": "Bytes with Ki, Mi, Gi, Ti, Pi, Ei, k, M, G, T, P, E or no unit",
        "type": ["string", "integer"], "pattern": "^[0-9]+(\\.[0-9]+)?([KMGTPE]i|[kMGTPE]|[eE][0-9]{1,2})?$", "minimum": 0
    })
);
as_text!(
    Span,
    "Duration",
    json_schema!({
        "description": "A duration: 250ms, 20s, 5m, 1h30m, 7d, 2w",
        "type": "string", "pattern": "^([0-9]+(ms|s|m|h|d|w))+$"
    })
);
as_text!(
    Price,
    "Price",
    json_schema!({
        "description": "A price with at most 6 decimals", "type": ["string", "number"], "pattern": "^[0-9]{1,9}(\\.[0-9]{1,6})?$", "minimum": 0
    })
);
as_text!(
    Label,
    "Name",
    json_schema!({
        "description": "A DNS label", "type": "string", "maxLength": 63, "pattern": "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"
    })
);
as_text!(
    OwnerName,
    "Owner",
    json_schema!({
        "description": "An organisation", "type": "string", "maxLength": 253, "pattern": "^[-A-Za-z0-9_.@:/]+$"
    })
);

impl Serialize for Cpu {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.0.is_multiple_of(1000) { serializer.serialize_u64(self.0 / 1000) } else { serializer.collect_str(self) }
    }
}

impl Serialize for Bytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let text = self.to_string();
        match text.parse::<u64>() {
            Ok(number) => serializer.serialize_u64(number),
            Err(_) => serializer.serialize_str(&text),
        }
    }
}

impl Serialize for Price {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.0.is_multiple_of(1_000_000) { serializer.serialize_u64(self.0 / 1_000_000) } else { serializer.collect_str(self) }
    }
}

macro_rules! serialize_text {
    ($($type:ty),*) => {$(
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
    )*};
}
serialize_text!(Span, Label, OwnerName);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_is_exact_thousandths() {
        for (text, millicores) in [("2500m", 2500), ("2", 2000), ("2.5", 2500), ("0.001", 1), (".5", 500), ("0", 0)] {
            assert_eq!(Cpu::parse(text), Ok(Cpu(millicores)), "{text}");
        }
        for text in ["-1", "2Gi", "0.0001", "1.5m", "", "m", "1.2.3", "2500 m", "99999999999999999999", "+1", "1e3"] {
            assert!(Cpu::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn bytes_are_exact_in_every_unit() {
        let cases = [("3Gi", 3 << 30), ("500M", 500_000_000), ("1.5Ki", 1536), ("1e3", 1000), ("1E3", 1000), ("7", 7), ("0.5Gi", 1 << 29)];
        for (text, bytes) in cases {
            assert_eq!(Bytes::parse(text), Ok(Bytes(bytes)), "{text}");
        }
        for text in ["-1Gi", "10m", "1.0001Ki", "9Ei", "Gi", "1GB", "1gi", "0x10", "1e", "1e99"] {
            assert!(Bytes::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn durations_need_a_unit() {
        for (text, ms) in [("20s", 20_000), ("5m", 300_000), ("7d", 604_800_000), ("1h30m", 5_400_000), ("250ms", 250), ("1w", 604_800_000)]
        {
            assert_eq!(Span::parse(text), Ok(Span(ms)), "{text}");
        }
        for text in ["20", "", "-5m", "5 m", "m", "5min", "1.5h", "99999999999999999d"] {
            assert!(Span::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn what_is_shown_reads_back_as_the_same() {
        for value in [0, 1, 999, 1000, 1024, 1500, 2500, 3 << 30, 500_000_000, MAX_QUANTITY] {
            assert_eq!(Bytes::parse(&Bytes(value).to_string()), Ok(Bytes(value)));
            assert_eq!(Cpu::parse(&Cpu(value).to_string()), Ok(Cpu(value)));
            assert_eq!(Span::parse(&Span(value).to_string()), Ok(Span(value)));
        }
    }
}
