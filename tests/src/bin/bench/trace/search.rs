//! The smallest fleet that will do. A larger one need not do where a smaller one does, since other nodes make it. So every size is tried
//! near the bound; past that a bisection finds a candidate, and what it has skipped just below is tried one by one.

use std::collections::BTreeMap;

use anyhow::{Result, bail};

/// Sizes below a candidate that must all have failed.
const BELOW: usize = 3;
/// Sizes above the smallest that are tried too, to tell how firm the ground is: no more than told.
const ABOVE: usize = 2;

/// What was found, and every size that was tried.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) nodes: usize,
    pub(crate) tried: BTreeMap<usize, bool>,
}

/// Sizes that were tried, and how to try another.
struct Search<F> {
    tried: BTreeMap<usize, bool>,
    will_do: F,
}

impl<F: FnMut(usize) -> Result<bool>> Search<F> {
    fn attempt(&mut self, size: usize) -> Result<bool> {
        if let Some(known) = self.tried.get(&size) {
            return Ok(*known);
        }
        let answer = (self.will_do)(size)?;
        self.tried.insert(size, answer);
        Ok(answer)
    }

    /// Ever greater strides from `failed` to one that will do, then bisection, then what lies just below.
    fn bisect(&mut self, mut failed: usize, largest: usize) -> Result<usize> {
        let (bound, mut stride) = (failed, (failed / 50).max(1));
        let mut nodes = failed;
        while nodes == failed || !self.attempt(nodes)? {
            if nodes == largest {
                bail!("somebody waits even in a fleet of {largest} nodes");
            }
            (failed, nodes) = (nodes, (nodes + stride).min(largest));
            stride *= 2;
        }
        while nodes - failed > 1 {
            let middle = usize::midpoint(failed, nodes);
            if self.attempt(middle)? {
                nodes = middle;
            } else {
                failed = middle;
            }
        }
        let mut below = nodes;
        while below > bound && nodes - below < BELOW {
            below -= 1;
            if self.attempt(below)? {
                nodes = below;
            }
        }
        Ok(nodes)
    }
}

/// Searches from `bound` (nothing below will do) to `largest`; up to `each` every size is tried, so that up to there the answer is exact.
///
/// # Errors
/// The trial's, or that not even the largest will do.
pub(crate) fn smallest(bound: usize, each: usize, largest: usize, will_do: impl FnMut(usize) -> Result<bool>) -> Result<Found> {
    let mut search = Search { tried: BTreeMap::new(), will_do };
    let each = each.clamp(bound, largest);
    let mut nodes = bound;
    while !search.attempt(nodes)? {
        if nodes == each {
            nodes = search.bisect(nodes, largest)?;
            break;
        }
        nodes += 1;
    }
    for above in nodes + 1..=(nodes + ABOVE).min(largest) {
        search.attempt(above)?;
    }
    Ok(Found { nodes, tried: search.tried })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_border_is_found_wherever_it_is() {
        for each in [100, 120] {
            for border in 100..=400 {
                let found = smallest(100, each, 400, |size| Ok(size >= border)).expect("the largest will do");
                assert_eq!(found.nodes, border);
                let near = (border - BELOW).max(100)..=(border + ABOVE).min(400);
                assert!(near.into_iter().all(|size| found.tried.get(&size) == Some(&(size >= border))), "{border}: {:?}", found.tried);
            }
        }
    }

    #[test]
    fn near_the_bound_the_first_of_several_is_found() {
        for first in 100..=120 {
            let found = smallest(100, 120, 400, |size| Ok(size == first || size > 150)).expect("the largest will do");
            assert_eq!(found.nodes, first);
        }
    }

    #[test]
    fn a_smaller_one_that_bisection_skips_is_found_just_below() {
        for failing in [vec![], vec![204], vec![204, 205]] {
            let found = smallest(100, 100, 400, |size| Ok(size >= 203 && !failing.contains(&size))).expect("the largest will do");
            assert_eq!(found.nodes, 203, "{:?}", found.tried);
        }
    }

    #[test]
    fn nothing_that_will_do_is_an_error() {
        assert!(smallest(100, 110, 130, |_| Ok(false)).is_err());
    }
}
