//! Quantities as the API server writes them. What is finer than the unit is rounded up, as kube-scheduler does; what is no quantity is none.

use std::borrow::Cow;

use roadstead_class::factor;
use roadstead_core::resources::MAX_QUANTITY;
use serde::{Deserialize, Deserializer};

/// Digits that are read; more than the API server accepts, and the arithmetic below stays within 128 bits.
const MAX_DIGITS: usize = 18;

/// A quantity in thousandths, so that CPU and bytes are both whole; at most a thousand times [`MAX_QUANTITY`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Quantity(u128);

impl Quantity {
    /// CPU in millicores.
    pub(crate) fn millicores(self) -> u64 {
        narrow(self.0)
    }

    /// Bytes, or a count.
    pub(crate) fn whole(self) -> u64 {
        narrow(self.0.div_ceil(1000))
    }

    /// Reads one; `None` if it is none or negative.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
        let (number, suffix) = text.split_at(end);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if whole.len() + fraction.len() > MAX_DIGITS {
            return None;
        }
        let digits = format!("{whole}{fraction}").parse::<u128>().ok()?;
        let (times, over) = factor(suffix)?;
        let divisor = 10u128.pow(u32::try_from(fraction.len()).ok()?).checked_mul(over)?;
        Some(Self(digits.checked_mul(times)?.checked_mul(1000)?.div_ceil(divisor).min(u128::from(MAX_QUANTITY) * 1000)))
    }
}

fn narrow(amount: u128) -> u64 {
    u64::try_from(amount).unwrap_or(MAX_QUANTITY).min(MAX_QUANTITY)
}

impl<'de> Deserialize<'de> for Quantity {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Written<'a> {
            Number(u64),
            Fraction(f64),
            #[serde(borrow)]
            Text(Cow<'a, str>),
        }
        Ok(match Written::deserialize(deserializer)? {
            Written::Number(number) => Self::parse(&number.to_string()),
            Written::Fraction(number) => Self::parse(&number.to_string()),
            Written::Text(text) => Self::parse(&text),
        }
        .unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::Quantity;

    #[test]
    fn quantities_are_read_as_kubernetes_writes_them() {
        let millicores = |text: &str| Quantity::parse(text).map(Quantity::millicores);
        let whole = |text: &str| Quantity::parse(text).map(Quantity::whole);
        assert_eq!([millicores("250m"), millicores("2"), millicores("0.5"), millicores("1n")], [Some(250), Some(2000), Some(500), Some(1)]);
        assert_eq!(
            [whole("1Ki"), whole("128974848"), whole("129e6"), whole("1500m"), whole("0.5Gi")],
            [Some(1024), Some(128_974_848), Some(129_000_000), Some(2), Some(1 << 29)]
        );
        assert_eq!(whole("9999999999E"), Some((1 << 53) - 1));
        assert_eq!([whole(""), whole("-1"), whole("1.2.3"), whole("1X"), whole("1e99")], [None; 5]);
        let read: [Quantity; 3] = serde_json::from_str(r#"["1Gi", 4, 0.5]"#).unwrap();
        assert_eq!(read.map(Quantity::millicores), [1000 << 30, 4000, 500]);
    }
}
