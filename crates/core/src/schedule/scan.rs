//! The scan: which clusters have room, and the best of them, 64 at a time.
//!
//! Plain loops over arrays of 16-bit numbers that the compiler turns into vector instructions of whatever width there is.
//! A scan never misses a cluster that fits; whoever uses it checks the answer exactly and masks out what does not.

use crate::ledger::{BLOCK, COLUMN_COUNT, Ledger};

/// A rank that no candidate has.
pub(crate) const NONE: u16 = u16::MAX;

/// One rank per cluster, the lower the better.
pub(crate) type Ranks = Vec<[u16; BLOCK]>;

/// Writes into `found` the rank of every cluster that may have room: that in `standing` with that in `nodes` in its low bits, and
/// [`NONE`] where either says so or something is short.
pub(crate) fn feasible(found: &mut Ranks, ledger: &Ledger, wanted: [u16; COLUMN_COUNT], standing: &Ranks, nodes: &Ranks) {
    found.clear();
    for ((block, standing), nodes) in ledger.blocks().iter().zip(standing).zip(nodes) {
        let mut short = [0_u16; BLOCK];
        for (wanted, free) in wanted.into_iter().zip(&block.free) {
            for lane in 0..BLOCK {
                short[lane] |= wanted.saturating_sub(free[lane]);
            }
        }
        let mut ranks = [0_u16; BLOCK];
        for lane in 0..BLOCK {
            let refused = if short[lane] == 0 { 0 } else { NONE };
            ranks[lane] = standing[lane] | nodes[lane] | refused;
        }
        found.push(ranks);
    }
}

/// The row with the lowest rank, of equal ones that with the lowest key, of equal ones the first.
#[allow(clippy::needless_range_loop, reason = "plain lanes are what the compiler turns into vectors")]
pub(crate) fn best(found: &Ranks, ledger: &Ledger) -> Option<usize> {
    let mut lowest = [NONE; BLOCK];
    for ranks in found {
        for lane in 0..BLOCK {
            lowest[lane] = lowest[lane].min(ranks[lane]);
        }
    }
    let rank = lowest.into_iter().min().filter(|rank| *rank != NONE)?;
    let mut keys = [NONE; BLOCK];
    for (ranks, block) in found.iter().zip(ledger.blocks()) {
        for lane in 0..BLOCK {
            let other = if ranks[lane] == rank { 0 } else { NONE };
            keys[lane] = keys[lane].min(block.key[lane] | other);
        }
    }
    let key = keys.into_iter().min()?;
    for (number, (ranks, block)) in found.iter().zip(ledger.blocks()).enumerate() {
        let mut hits = 0_u64;
        for lane in 0..BLOCK {
            hits |= u64::from(ranks[lane] == rank && block.key[lane] == key) << lane;
        }
        if hits != 0 {
            return Some(number * BLOCK + hits.trailing_zeros() as usize);
        }
    }
    None
}
