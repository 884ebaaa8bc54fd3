//! The scan: which clusters have room, and the best of them, 64 at a time, pool after pool.
//!
//! Plain loops over arrays of 16-bit numbers that the compiler turns into vector instructions. A scan never misses a cluster that fits;
//! whoever uses it checks the answer exactly and asks for the next best.

use crate::ledger::{BLOCK, Block, COLUMN_COUNT, Layout};

/// A rank that no candidate has.
pub(crate) const NONE: u16 = u16::MAX;

/// One rank per place in the columns, the lower the better.
pub(crate) type Ranks = Vec<[u16; BLOCK]>;

/// A rank in the upper half, the cluster's key in the lower: the order of candidates of one pool, but for their numbers.
type Merits = [u32; BLOCK];

/// What is less than this is a candidate.
const NO_MERIT: u32 = (NONE as u32) << 16;

/// What a scan of some blocks has found; the buffers are used again.
#[derive(Clone, Debug, Default)]
pub(crate) struct Found {
    merits: Vec<Merits>,
    /// Of each of them: the lowest, and the block.
    lowest: Vec<(u32, usize)>,
}

impl Found {
    /// Begins anew.
    pub(crate) fn clear(&mut self) {
        self.merits.clear();
        self.lowest.clear();
    }

    /// Adds what one block has: every cluster that may have room, by the rank in `standing` with that in `nodes` in its low bits;
    /// nobody where either says so or something is short.
    pub(crate) fn add(
        &mut self,
        number: usize,
        block: &Block,
        wanted: &[u16; COLUMN_COUNT],
        standing: &[u16; BLOCK],
        nodes: &[u16; BLOCK],
    ) {
        let mut merits = [NO_MERIT; BLOCK];
        let lowest = rank(&mut merits, block, wanted, standing, nodes);
        if lowest < NO_MERIT {
            self.merits.push(merits);
            self.lowest.push((lowest, number));
        }
    }

    /// Takes the best out: its rank, its key and its cluster's number. Of equal ones that with the lowest number.
    pub(crate) fn pop(&mut self, layout: &Layout) -> Option<(u16, u16, u32)> {
        let lowest = self.lowest.iter().map(|(lowest, _)| *lowest).min().filter(|lowest| *lowest < NO_MERIT)?;
        let equal = self.lowest.iter().zip(&self.merits).filter(|((merit, _), _)| *merit == lowest);
        let row = equal.map(|((_, block), merits)| first_of(merits, lowest, &layout.rows()[*block])).min()?;
        let slot = layout.slot(row as usize)?;
        let found = self.lowest.iter().position(|(_, block)| *block == slot.block)?;
        self.merits[found][slot.lane] = NO_MERIT;
        self.lowest[found].0 = self.merits[found].iter().copied().fold(NO_MERIT, u32::min);
        Some(((lowest >> 16) as u16, lowest as u16, row))
    }
}

/// The lowest number of a cluster that has this merit.
fn first_of(merits: &Merits, merit: u32, rows: &[u32; BLOCK]) -> u32 {
    let mut first = u32::MAX;
    for lane in 0..BLOCK {
        first = first.min(if merits[lane] == merit { rows[lane] } else { u32::MAX });
    }
    first
}

#[inline(always)]
fn rank_plainly(merits: &mut Merits, block: &Block, wanted: &[u16; COLUMN_COUNT], standing: &[u16; BLOCK], nodes: &[u16; BLOCK]) -> u32 {
    let mut refused = [0_u16; BLOCK];
    for (wanted, free) in wanted.iter().zip(&block.free) {
        for lane in 0..BLOCK {
            refused[lane] |= if free[lane] < *wanted { NONE } else { 0 };
        }
    }
    let mut lowest = NO_MERIT;
    for lane in 0..BLOCK {
        let rank = refused[lane] | standing[lane] | nodes[lane];
        merits[lane] = u32::from(rank) << 16 | u32::from(block.key[lane]);
        lowest = lowest.min(merits[lane]);
    }
    lowest
}

/// The same with wider registers, where there are such.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn rank_widely(merits: &mut Merits, block: &Block, wanted: &[u16; COLUMN_COUNT], standing: &[u16; BLOCK], nodes: &[u16; BLOCK]) -> u32 {
    rank_plainly(merits, block, wanted, standing, nodes)
}

/// Writes the merit of every cluster of a block and says which is the lowest.
fn rank(merits: &mut Merits, block: &Block, wanted: &[u16; COLUMN_COUNT], standing: &[u16; BLOCK], nodes: &[u16; BLOCK]) -> u32 {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2") {
        #[allow(unsafe_code, reason = "the only way to use instructions that not every processor has; both ways are the same code")]
        // SAFETY: the processor has them, as was asked just now.
        return unsafe { rank_widely(merits, block, wanted, standing, nodes) };
    }
    rank_plainly(merits, block, wanted, standing, nodes)
}
