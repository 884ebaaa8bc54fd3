//! A fast hash of short texts and numbers, the same on every machine.
//!
//! It chooses buckets of maps that are never iterated and mixes the ledger's digest; it is no defence against
//! somebody who looks for collisions, and nothing that is decided depends on it.

use std::hash::{BuildHasher, Hasher};

use crate::id::{Name, Owner};

/// Odd constants with about as many ones as zeros (from the binary expansions of pi and e).
const SEED: u64 = 0x243f_6a88_85a3_08d3;
const MULTIPLIER: u64 = 0xb7e1_5162_8aed_2a6b;

/// Multiplies to 128 bits and folds the halves together.
pub(crate) fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    (product as u64) ^ ((product >> 64) as u64)
}

/// Mixes one more word into a hash.
pub(crate) fn mix(hash: u64, word: u64) -> u64 {
    fold(hash ^ word, MULTIPLIER)
}

/// The hash of some bytes.
pub(crate) fn of_bytes(bytes: &[u8]) -> u64 {
    let mut hasher = FoldHasher::default();
    hasher.write(bytes);
    hasher.finish()
}

/// The hash of a tenant's name.
pub(crate) fn of_name(name: &Name) -> u64 {
    of_bytes(name.as_bytes())
}

/// The hash of an owner.
pub(crate) fn of_owner(owner: &Owner) -> u64 {
    of_bytes(owner.as_bytes())
}

/// The hasher's state.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FoldHasher(u64);

impl Default for FoldHasher {
    fn default() -> Self {
        Self(SEED)
    }
}

impl Hasher for FoldHasher {
    fn write(&mut self, bytes: &[u8]) {
        let (words, rest) = bytes.as_chunks::<8>();
        for word in words {
            self.0 = mix(self.0, u64::from_le_bytes(*word));
        }
        let mut last = [0; 8];
        last[..rest.len()].copy_from_slice(rest);
        self.0 = mix(self.0, u64::from_le_bytes(last) ^ ((bytes.len() as u64) << 56));
    }

    fn write_u8(&mut self, value: u8) {
        self.write_u64(u64::from(value));
    }

    fn write_u32(&mut self, value: u32) {
        self.write_u64(u64::from(value));
    }

    fn write_u64(&mut self, value: u64) {
        self.0 = mix(self.0, value);
    }

    fn write_usize(&mut self, value: usize) {
        self.write_u64(value as u64);
    }

    fn finish(&self) -> u64 {
        // The low bits choose the first level of a map.
        fold(self.0, SEED | 1)
    }
}

/// Makes [`FoldHasher`]s.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct BuildFold;

impl BuildHasher for BuildFold {
    type Hasher = FoldHasher;

    fn build_hasher(&self) -> FoldHasher {
        FoldHasher::default()
    }
}
