//! A digest over things: 64 bits, the same on every machine and build, added up so that one change costs one thing.
//!
//! The sum does not depend on the order in which things came. It finds replicas that have come apart; it is no defence
//! against somebody who looks for collisions.

use serde::Serialize;

/// Odd constants with well mixed bits (the fractional digits of pi).
const SEED: u64 = 0x243f_6a88_85a3_08d3;
const FOLD: u64 = 0x1319_8a2e_0370_7345;

/// What kind of thing a digest is over: equal bytes of different kinds differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Tag {
    Tenant = 1,
    Cluster = 2,
    Pool = 3,
    Class = 4,
    Policy = 5,
    Request = 6,
    Generation = 7,
    Principal = 8,
    Scalars = 9,
    TenantFacts = 10,
    ClusterInfo = 11,
    JoinToken = 12,
    Agreement = 13,
    ClusterDetails = 14,
    ClusterGrowth = 15,
}

fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    (product as u64) ^ ((product >> 64) as u64)
}

/// The digest of some bytes.
pub(crate) fn of_bytes(tag: Tag, bytes: &[u8]) -> u64 {
    let mut hash = SEED ^ u64::from(tag as u8);
    let (words, rest) = bytes.as_chunks::<8>();
    for word in words {
        hash = fold(hash ^ u64::from_le_bytes(*word), FOLD);
    }
    let mut last = [0; 8];
    last[..rest.len()].copy_from_slice(rest);
    hash = fold(hash ^ u64::from_le_bytes(last), FOLD ^ SEED);
    fold(hash ^ bytes.len() as u64, FOLD)
}

/// The digest of some numbers.
pub(crate) fn of_words(tag: Tag, words: &[u64]) -> u64 {
    let mut hash = SEED ^ u64::from(tag as u8);
    for word in words {
        hash = fold(hash ^ word, FOLD);
    }
    fold(hash ^ words.len() as u64, FOLD)
}

/// The digest of a thing as [`crate::codec`] writes it.
pub(crate) fn of<T: Serialize>(tag: Tag, thing: &T) -> u64 {
    let mut bytes = Vec::with_capacity(512);
    crate::codec::write(thing, &mut bytes);
    of_bytes(tag, &bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_tell_kinds_lengths_and_positions_apart() {
        let mut seen = std::collections::BTreeSet::new();
        for tag in [Tag::Tenant, Tag::Cluster, Tag::Request] {
            for len in 0..40 {
                assert!(seen.insert(of_bytes(tag, &vec![0; len])), "{tag:?} {len}");
                for position in 0..len {
                    let mut bytes = vec![0; len];
                    bytes[position] = 1;
                    assert!(seen.insert(of_bytes(tag, &bytes)), "{tag:?} {len} {position}");
                }
            }
        }
    }
}
