//! Blocks of addresses, as network policies name them.

use core::net::IpAddr;
use std::fmt;
use std::str::FromStr;

/// Bits before the IPv4 address within an IPv6 address that stands for it.
const MAPPED_BITS: u8 = 96;

/// A block of addresses, as in `10.0.0.0/8` or `fd00::/8`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cidr {
    address: IpAddr,
    prefix: u8,
}

impl FromStr for Cidr {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || "must be a block of addresses, as in 10.0.0.0/8 or fd00::/8".to_owned();
        let (address, prefix) = text.split_once('/').ok_or_else(wrong)?;
        let (address, prefix) = (address.parse::<IpAddr>().map_err(|_| wrong())?, prefix.parse::<u8>().map_err(|_| wrong())?);
        let cidr = Self { address, prefix };
        if prefix > cidr.bits() {
            return Err(wrong());
        }
        // The API server warns of such blocks and some network plugins refuse them.
        if cidr.masked(prefix) != cidr.number() {
            return Err(format!("has address bits beyond its prefix of {prefix}"));
        }
        Ok(cidr)
    }
}

/// Reads a block of addresses as [`crate::Site`] takes it.
///
/// # Errors
/// Why it is none.
pub fn read_cidr(text: &str) -> Result<String, String> {
    text.parse::<Cidr>().map(|cidr| cidr.to_string())
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

impl Cidr {
    fn bits(self) -> u8 {
        if self.address.is_ipv4() { 32 } else { 128 }
    }

    fn number(self) -> u128 {
        match self.address {
            IpAddr::V4(address) => u128::from(address.to_bits()),
            IpAddr::V6(address) => address.to_bits(),
        }
    }

    fn masked(self, prefix: u8) -> u128 {
        let beyond = u32::from(self.bits() - prefix);
        self.number().checked_shr(beyond).map_or(0, |head| head.checked_shl(beyond).unwrap_or(0))
    }

    /// The IPv4 block that this one stands for, if it is one of IPv4 addresses in the clothes of IPv6 (`::ffff:10.0.0.0/104`): who enforces a policy
    /// may take it for that.
    pub(crate) fn mapped(self) -> Option<Self> {
        let IpAddr::V6(address) = self.address else { return None };
        Some(Self { address: IpAddr::V4(address.to_ipv4_mapped()?), prefix: self.prefix.checked_sub(MAPPED_BITS)? })
    }

    /// Whether all addresses of `other` are in this block; each contains itself.
    pub(crate) fn contains(self, other: Self) -> bool {
        self.bits() == other.bits() && self.prefix <= other.prefix && other.masked(self.prefix) == self.number()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // a test that cannot go on should panic
mod tests {
    use super::*;

    #[test]
    fn a_block_contains_its_parts_of_the_same_family() {
        let contains = |a: &str, b: &str| a.parse::<Cidr>().unwrap().contains(b.parse().unwrap());
        assert!(contains("0.0.0.0/0", "169.254.0.0/16"));
        assert!(contains("169.254.0.0/16", "169.254.169.254/32"));
        assert!(contains("::/0", "fd00:ec2::254/128"));
        assert!(contains("10.0.0.0/8", "10.0.0.0/8"));
        assert!(!contains("10.0.0.0/8", "11.0.0.0/16"));
        assert!(!contains("10.1.0.0/16", "10.0.0.0/8"));
        assert!(!contains("0.0.0.0/0", "fd00::/8"));
    }

    #[test]
    fn a_block_of_ipv4_addresses_is_known_in_the_clothes_of_ipv6() {
        let mapped = |text: &str| text.parse::<Cidr>().unwrap().mapped().map(|cidr| cidr.to_string());
        assert_eq!(mapped("::ffff:169.254.169.254/128").as_deref(), Some("169.254.169.254/32"));
        assert_eq!(mapped("::ffff:a9fe:0/112").as_deref(), Some("169.254.0.0/16"));
        assert_eq!(mapped("::ffff:0:0/96").as_deref(), Some("0.0.0.0/0"));
        for plain in ["::/0", "::fffe:0:0/95", "fd00::/8", "fd00:ec2::254/128", "169.254.169.254/32"] {
            assert_eq!(mapped(plain), None, "{plain}");
        }
    }

    #[test]
    fn what_is_no_block_is_refused() {
        for text in ["", "10.0.0.0", "10.0.0.0/33", "10.0.0.1/8", "x/8", "::/129", "10.0.0.0/-1"] {
            assert!(text.parse::<Cidr>().is_err(), "{text}");
        }
    }
}
