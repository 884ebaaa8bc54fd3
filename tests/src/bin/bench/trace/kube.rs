//! A model cluster: nodes, and a scheduler that puts a pod on one of them as kube-scheduler does.
//!
//! Filter: the node has the cpu and the memory, and fewer than 110 pods (the kubelet's default `maxPods`). Score: plugin
//! `NodeResourcesFit` with the strategies of its `scoringStrategy`, cpu and memory weighing the same, in whole numbers from 0 to 100
//! (kubernetes/kubernetes, pkg/scheduler/framework/plugins/noderesources: most_allocated.go, least_allocated.go):
//!
//! - `MostAllocated`: for each resource `requested * 100 / allocatable`, the pod included; their mean;
//! - `LeastAllocated`: `(allocatable - requested) * 100 / allocatable`; their mean.
//!
//! Of nodes with the same score one is drawn (schedule_one.go, selectHost). Clusters have fewer than 100 nodes here, of which kube-scheduler
//! looks at all. The other score plugins see no difference between nodes here, but for `NodeResourcesBalancedAllocation`,
//! which is taken to be off.

use std::collections::BTreeMap;

use roadstead_core::cluster::{Capacity, NodeSize};
use roadstead_core::resources::{Bytes, Millicores, PodSize, Resources};

use crate::chance::Chance;

/// The kubelet's default.
const MAX_PODS: u64 = 110;
/// `MaxNodeScore` of kube-scheduler.
const MAX_SCORE: u64 = 100;

/// What kube-scheduler prefers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Strategy {
    MostAllocated,
    LeastAllocated,
}

#[derive(Clone, Copy, Debug)]
struct Node {
    allocatable: PodSize,
    free: PodSize,
    pods: u64,
}

/// One model cluster.
#[derive(Debug)]
pub(crate) struct Cluster {
    nodes: Vec<Node>,
    strategy: Strategy,
    chance: Chance,
}

impl Cluster {
    pub(crate) fn new(nodes: &[PodSize], strategy: Strategy, chance: Chance) -> Self {
        let nodes = nodes.iter().map(|node| Node { allocatable: *node, free: *node, pods: 0 }).collect();
        Self { nodes, strategy, chance }
    }

    /// Puts a pod on a node: its number, or nothing if none has room.
    pub(crate) fn bind(&mut self, pod: PodSize) -> Option<usize> {
        let (mut best, mut equal) = (None::<(u64, usize)>, 0);
        for (number, node) in self.nodes.iter().enumerate().filter(|(_, node)| node.takes(pod)) {
            let score = node.score(pod, self.strategy);
            match best {
                Some((than, _)) if score < than => {}
                Some((than, _)) if score == than => {
                    // The nth of equal ones takes the place of the one before with a chance of 1 in n: each is as likely in the end.
                    equal += 1;
                    if self.chance.below(equal) == 0 {
                        best = Some((score, number));
                    }
                }
                Some(_) | None => (best, equal) = (Some((score, number)), 1),
            }
        }
        let (_, number) = best?;
        let node = &mut self.nodes[number];
        node.free = PodSize { cpu: Millicores(node.free.cpu.0 - pod.cpu.0), memory: Bytes(node.free.memory.0 - pod.memory.0) };
        node.pods += 1;
        Some(number)
    }

    /// Takes a pod off the node that it is on.
    pub(crate) fn unbind(&mut self, number: usize, pod: PodSize) {
        let node = &mut self.nodes[number];
        node.free = PodSize { cpu: Millicores(node.free.cpu.0 + pod.cpu.0), memory: Bytes(node.free.memory.0 + pod.memory.0) };
        node.pods -= 1;
    }

    /// What its agent reports: nodes that are equal in what they have and in what is free are one entry.
    pub(crate) fn capacity(&self) -> Capacity {
        let mut allocatable = Resources::default();
        let mut sizes = BTreeMap::<(PodSize, PodSize), u32>::new();
        for node in &self.nodes {
            allocatable.cpu.0 += node.allocatable.cpu.0;
            allocatable.memory.0 += node.allocatable.memory.0;
            allocatable.pods += MAX_PODS;
            *sizes.entry((node.allocatable, node.reported_free())).or_default() += 1;
        }
        let nodes = sizes.into_iter().map(|((allocatable, largest_free), count)| NodeSize { allocatable, largest_free, count }).collect();
        Capacity { allocatable, used_by_others: Resources::default(), nodes }
    }

    /// What is used of all nodes together.
    pub(crate) fn used(&self) -> PodSize {
        self.nodes.iter().fold(PodSize::default(), |sum, node| PodSize {
            cpu: Millicores(sum.cpu.0 + node.allocatable.cpu.0 - node.free.cpu.0),
            memory: Bytes(sum.memory.0 + node.allocatable.memory.0 - node.free.memory.0),
        })
    }
}

impl Node {
    fn takes(&self, pod: PodSize) -> bool {
        self.pods < MAX_PODS && pod.fits(self.free)
    }

    fn reported_free(&self) -> PodSize {
        if self.pods < MAX_PODS { self.free } else { PodSize::default() }
    }

    fn score(&self, pod: PodSize, strategy: Strategy) -> u64 {
        let of = |allocatable: u64, free: u64, pod: u64| {
            let left = free - pod;
            match strategy {
                Strategy::MostAllocated => ((allocatable - left) * MAX_SCORE).checked_div(allocatable).unwrap_or(0),
                Strategy::LeastAllocated => (left * MAX_SCORE).checked_div(allocatable).unwrap_or(0),
            }
        };
        let cpu = of(self.allocatable.cpu.0, self.free.cpu.0, pod.cpu.0);
        let memory = of(self.allocatable.memory.0, self.free.memory.0, pod.memory.0);
        u64::midpoint(cpu, memory)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size(cores: u64, gib: u64) -> PodSize {
        PodSize { cpu: Millicores(1000 * cores), memory: Bytes(gib << 30) }
    }

    fn cluster(nodes: &[PodSize], strategy: Strategy) -> Cluster {
        Cluster::new(nodes, strategy, Chance::new(1))
    }

    /// Worked out by hand: on A (10 cores, 40 GiB, 5 cores and 10 GiB used) a pod of 2 cores and 4 GiB makes 70 % and 35 %; on B (20 cores,
    /// 40 GiB, 8 cores and 28 GiB used) 50 % and 80 %; C is empty, as A: 20 % and 10 %.
    fn worked_out(strategy: Strategy) -> (Vec<u64>, Option<usize>) {
        let mut cluster = cluster(&[size(10, 40), size(20, 40), size(10, 40)], strategy);
        cluster.nodes[0].free = size(5, 30);
        cluster.nodes[1].free = size(12, 12);
        let pod = size(2, 4);
        (cluster.nodes.iter().map(|node| node.score(pod, strategy)).collect(), cluster.bind(pod))
    }

    #[test]
    fn most_allocated_takes_the_fullest_node_of_the_hand_example() {
        assert_eq!(worked_out(Strategy::MostAllocated), (vec![52, 65, 15], Some(1)));
    }

    #[test]
    fn least_allocated_takes_the_emptiest_node_of_the_hand_example() {
        assert_eq!(worked_out(Strategy::LeastAllocated), (vec![47, 35, 85], Some(2)));
    }

    #[test]
    fn a_pod_goes_where_it_fits_only_and_leaves_all_behind() {
        for strategy in [Strategy::MostAllocated, Strategy::LeastAllocated] {
            let mut cluster = cluster(&[size(4, 64), size(16, 8), size(8, 32)], strategy);
            assert_eq!(cluster.bind(size(5, 16)), Some(2), "the only one with both");
            assert_eq!(cluster.bind(size(5, 16)), None);
            cluster.unbind(2, size(5, 16));
            assert_eq!(cluster.used(), PodSize::default());
            assert_eq!(cluster.bind(size(5, 16)), Some(2));
        }
    }

    #[test]
    fn a_node_takes_110_pods_and_then_reports_no_room() {
        let mut cluster = cluster(&[size(1000, 1000)], Strategy::MostAllocated);
        assert!((0..110).all(|_| cluster.bind(size(1, 1)) == Some(0)));
        assert_eq!(cluster.bind(size(1, 1)), None);
        assert_eq!(cluster.capacity().nodes[0].largest_free, PodSize::default());
    }

    #[test]
    fn equal_nodes_are_drawn_from_and_reported_as_one() {
        let mut drawn = [false; 3];
        for seed in 0..20 {
            let mut cluster = Cluster::new(&[size(8, 32); 3], Strategy::LeastAllocated, Chance::new(seed));
            drawn[cluster.bind(size(1, 1)).expect("there is room")] = true;
            let counts: Vec<_> = cluster.capacity().nodes.iter().map(|node| (node.largest_free, node.count)).collect();
            assert_eq!(counts, [(size(7, 31), 1), (size(8, 32), 2)]);
        }
        assert_eq!(drawn, [true; 3]);
    }
}
