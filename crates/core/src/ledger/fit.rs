//! How closely a pod fits into a cluster's nodes: what the placement would leave over, as one small number.
//!
//! The node is the cluster's own scheduler's choice, which nothing here knows. What is known is which nodes have room. Two of
//! them bound what will be left: the tightest, which a scheduler that packs (`MostAllocated`) takes, and the roomiest, which one that
//! spreads (`LeastAllocated`, the default) takes. Both count: the first keeps holes small, the second keeps whole nodes free.
//!
//! What is left is counted in the scarcer of cpu and memory only: a node whose cpu is gone wastes no memory that anybody could
//! use. The scarcer is the one of which the cluster's nodes have the smaller part free.

use crate::cluster::NodeSize;
use crate::resources::PodSize;

/// Below this, what is left is nothing: a quarter of a core.
const UNIT_MILLICORES: u64 = 250;

/// How what is left on a node is counted; worked out once for each report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Gauge {
    /// Cpu is the scarcer, or there is as much left of both.
    Cpu,
    /// Memory is: as many bytes as this are worth one millicore, which is how the nodes have them.
    Memory {
        /// At least 1.
        per_millicore: u64,
    },
}

impl Gauge {
    /// The gauge for these nodes.
    pub(crate) fn of(nodes: &[NodeSize]) -> Self {
        let sum = |amount: fn(&NodeSize) -> u64| nodes.iter().map(|node| u128::from(amount(node)) * u128::from(node.count)).sum::<u128>();
        let (cpu, memory) = (sum(|node| node.allocatable.cpu.0), sum(|node| node.allocatable.memory.0));
        let (free_cpu, free_memory) = (sum(|node| node.largest_free.cpu.0), sum(|node| node.largest_free.memory.0));
        // Parts of the whole in millionths or so: the sums are below 2^94, and 20 bits more still fit.
        let parts = |free: u128, whole: u128| (free << 20).checked_div(whole).unwrap_or(0);
        if parts(free_cpu, cpu) <= parts(free_memory, memory) {
            return Self::Cpu;
        }
        let per_millicore = u64::try_from(memory / cpu.max(1)).unwrap_or(u64::MAX).max(1);
        Self::Memory { per_millicore }
    }

    /// What a node with this room has left once the pod is on it, as millicores; `None` if it does not fit.
    fn left(self, room: PodSize, pod: PodSize) -> Option<u64> {
        let (cpu, memory) = (room.cpu.0.checked_sub(pod.cpu.0)?, room.memory.0.checked_sub(pod.memory.0)?);
        Some(match self {
            Self::Cpu => cpu,
            Self::Memory { per_millicore } => memory / per_millicore,
        })
    }

    /// What is left over, in steps, on the tightest node that has room plus that on the roomiest: the less the better. `None` if
    /// no node has room.
    pub(crate) fn waste(self, nodes: &[NodeSize], pod: PodSize) -> Option<u32> {
        let (mut tightest, mut roomiest) = (None::<u64>, 0);
        for left in nodes.iter().filter_map(|node| self.left(node.largest_free, pod)) {
            tightest = Some(tightest.map_or(left, |least| least.min(left)));
            roomiest = roomiest.max(left);
        }
        Some(steps(tightest?) + steps(roomiest))
    }
}

/// Four steps for each doubling: what is left on a node matters by its order of magnitude.
fn steps(left_millicores: u64) -> u32 {
    let units = left_millicores / UNIT_MILLICORES;
    match units.checked_ilog2() {
        None | Some(0 | 1) => units as u32,
        Some(octave) => (octave - 1) * 4 + ((units >> (octave - 2)) & 3) as u32,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resources::{Bytes, Millicores};

    const GIB: u64 = 1 << 30;

    fn size(cores: u64, gib: u64) -> PodSize {
        PodSize { cpu: Millicores(1000 * cores), memory: Bytes(gib * GIB) }
    }

    fn node(whole: PodSize, free: PodSize) -> NodeSize {
        NodeSize { allocatable: whole, largest_free: free, count: 1 }
    }

    #[test]
    fn steps_never_fall_and_double_every_four() {
        let all: Vec<u32> = (0..4096).map(|units| steps(units * UNIT_MILLICORES)).collect();
        assert!(all.is_sorted());
        assert!(all.windows(2).all(|pair| pair[1] - pair[0] <= 1), "no step is left out");
        assert_eq!([all[0], all[1], all[4], all[8], all[16], all[4095]], [0, 1, 4, 8, 12, 43]);
        assert_eq!(steps(u64::MAX), 220, "there is no overflow");
    }

    #[test]
    fn the_scarcer_resource_is_what_counts() {
        let whole = size(32, 128);
        assert_eq!(Gauge::of(&[node(whole, size(8, 64))]), Gauge::Cpu);
        assert_eq!(Gauge::of(&[node(whole, whole)]), Gauge::Cpu);
        assert_eq!(Gauge::of(&[node(whole, size(16, 32))]), Gauge::Memory { per_millicore: 128 * GIB / 32_000 });
        assert_eq!(Gauge::of(&[]), Gauge::Cpu);
        let largest = PodSize { cpu: Millicores((1 << 53) - 1), memory: Bytes((1 << 53) - 1) };
        let nodes = [NodeSize { allocatable: largest, largest_free: largest, count: u32::MAX }; 256];
        assert_eq!(Gauge::of(&nodes), Gauge::Cpu);
    }

    #[test]
    fn a_tight_hole_wastes_less_than_a_whole_node_and_no_room_is_none() {
        let whole = size(32, 128);
        let waste = |free: &[PodSize], pod| {
            let nodes: Vec<_> = free.iter().map(|free| node(whole, *free)).collect();
            Gauge::Cpu.waste(&nodes, pod)
        };
        let pod = size(4, 8);
        assert_eq!(waste(&[size(4, 64)], pod), Some(0));
        assert_eq!(waste(&[size(3, 64), size(8, 7)], pod), None, "each has too little of something");
        assert!(waste(&[size(4, 64), size(8, 64)], pod) < waste(&[size(8, 64)], pod));
        assert!(waste(&[size(4, 64), size(8, 64)], pod) < waste(&[size(4, 64), whole], pod), "whole nodes are kept free");
        assert!(waste(&[size(4, 64), size(3, 64)], pod) == waste(&[size(4, 64)], pod), "nodes without room do not count");
    }
}
