//! Nodes as a few sizes: equal nodes with about the same room are one entry.
//!
//! Room is rounded down to a share of what the node has, so that it is never promised. Where that leaves more than
//! [`MAX_NODE_SIZES`] entries the shares get coarser, then what nodes have is rounded down, too (nodes of one machine type differ by some
//! KiB), and at last the smallest nodes become one entry that has the least of any.

use std::collections::BTreeMap;

use roadstead_core::cluster::{MAX_NODE_SIZES, NodeSize};
use roadstead_core::resources::{Bytes, Millicores, PodSize};

/// How fine, from fine to coarse: shares of a node that room is told in, and bits that are kept of what a node has.
const GRAINS: [(u64, u32); 6] = [(16, 64), (4, 64), (8, 6), (4, 6), (2, 3), (1, 1)];

/// Sizes of nodes, each with what it can allocate and its room; the largest first.
pub(super) fn sizes(nodes: impl Iterator<Item = (PodSize, PodSize)>) -> Vec<NodeSize> {
    let mut counts = BTreeMap::<(PodSize, PodSize), u32>::new();
    for node in nodes {
        *counts.entry(node).or_default() += 1;
    }
    let mut rounded = BTreeMap::new();
    for (shares, bits) in GRAINS {
        rounded.clear();
        for ((size, room), count) in &counts {
            let size = PodSize { cpu: Millicores(kept(size.cpu.0, bits)), memory: Bytes(kept(size.memory.0, bits)) };
            let room = PodSize {
                cpu: Millicores(down(room.cpu.0, size.cpu.0, shares)),
                memory: Bytes(down(room.memory.0, size.memory.0, shares)),
            };
            *rounded.entry((size, room)).or_default() += count;
        }
        if rounded.len() <= MAX_NODE_SIZES {
            break;
        }
    }
    let size = |((allocatable, largest_free), count)| NodeSize { allocatable, largest_free, count };
    let mut sizes: Vec<NodeSize> = rounded.into_iter().rev().map(size).collect();
    if sizes.len() > MAX_NODE_SIZES {
        let rest = sizes.split_off(MAX_NODE_SIZES - 1);
        sizes.extend(rest.into_iter().reduce(|a, b| NodeSize {
            allocatable: least(a.allocatable, b.allocatable),
            largest_free: least(a.largest_free, b.largest_free),
            count: a.count + b.count,
        }));
    }
    sizes
}

/// Room rounded down to whole shares of a node.
fn down(room: u64, size: u64, shares: u64) -> u64 {
    // 128 bits: quantities have up to 53.
    let (room, size, shares) = (u128::from(room.min(size)), u128::from(size), u128::from(shares));
    let whole = (room * shares).checked_div(size).unwrap_or(0);
    u64::try_from(whole * size / shares).unwrap_or(0)
}

/// The leading bits of an amount.
fn kept(amount: u64, bits: u32) -> u64 {
    let dropped = (64 - amount.leading_zeros()).saturating_sub(bits);
    amount >> dropped << dropped
}

fn least(a: PodSize, b: PodSize) -> PodSize {
    PodSize { cpu: a.cpu.min(b.cpu), memory: a.memory.min(b.memory) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(cpu: u64, memory: u64) -> PodSize {
        PodSize { cpu: Millicores(cpu), memory: Bytes(memory) }
    }

    #[test]
    fn equal_nodes_with_about_the_same_room_are_one_entry() {
        let nodes = [(pod(16_000, 64), pod(3_999, 64)), (pod(16_000, 64), pod(3_000, 64)), (pod(16_000, 64), pod(16_000, 0))];
        let size = |room, count| NodeSize { allocatable: pod(16_000, 64), largest_free: room, count };
        assert_eq!(sizes(nodes.into_iter()), [size(pod(16_000, 0), 1), size(pod(3_000, 64), 2)]);
    }

    #[test]
    fn any_nodes_are_few_entries_that_promise_no_more_than_there_is() {
        let mut seed = 7u64;
        let mut next = |below: u64| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) % below
        };
        for (distinct, spread) in [(1, 1), (5, 1_000), (600, 1 << 20), (3_000, 1 << 50)] {
            let nodes: Vec<_> = (0..5_000)
                .map(|number: u64| {
                    let size = pod(1 + number % distinct * spread, 1 + number % distinct * (spread + 7));
                    (size, pod(next(size.cpu.0 + 1), next(size.memory.0 + 1)))
                })
                .collect();
            let told = sizes(nodes.iter().copied());
            assert!(told.len() <= MAX_NODE_SIZES);
            assert_eq!(told.iter().map(|size| size.count).sum::<u32>(), 5_000);
            // Whatever pod an entry would take, a node takes.
            for size in &told {
                assert!(nodes.iter().any(|(all, room)| size.allocatable.fits(*all) && size.largest_free.fits(*room)));
                assert!(size.largest_free.fits(size.allocatable));
            }
        }
    }
}
