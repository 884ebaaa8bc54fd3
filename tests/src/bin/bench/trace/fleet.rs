//! Fleets of the trace's nodes: thinned evenly, cut into 16 clusters; and the bound that no scheduler beats.

use roadstead_core::resources::PodSize;

/// Clusters of a fleet.
pub(crate) const CLUSTERS: usize = 16;

/// Which nodes make one cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Grouping {
    /// Those that stand in a row in the trace: clusters differ in what their nodes are.
    Rows,
    /// Every sixteenth: clusters are much alike.
    Dealt,
}

impl Grouping {
    /// As on the command line.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Rows => "rows",
            Self::Dealt => "dealt",
        }
    }
}

/// How fleets are made.
#[derive(Debug)]
pub(crate) struct Plan {
    /// All nodes of the trace, in its order.
    pub(crate) nodes: Vec<PodSize>,
    pub(crate) grouping: Grouping,
}

impl Plan {
    /// So many nodes, as evenly spaced in the trace's order as can be.
    pub(crate) fn thinned(&self, count: usize) -> impl Iterator<Item = PodSize> {
        let all = self.nodes.len();
        let is_kept = move |place: usize| (place + 1) * count / all > place * count / all;
        self.nodes.iter().enumerate().filter(move |(place, _)| is_kept(*place)).map(|(_, node)| *node)
    }

    /// The nodes of each cluster in a fleet of so many.
    pub(crate) fn clusters(&self, count: usize) -> Vec<Vec<PodSize>> {
        let mut clusters = vec![Vec::new(); CLUSTERS];
        for (place, node) in self.thinned(count).enumerate() {
            let cluster = match self.grouping {
                Grouping::Rows => place * CLUSTERS / count,
                Grouping::Dealt => place % CLUSTERS,
            };
            clusters[cluster].push(node);
        }
        clusters
    }

    /// The smallest thinned fleet whose nodes together offer this much cpu and this much memory.
    pub(crate) fn smallest_offering(&self, wanted: PodSize) -> Option<usize> {
        (1..=self.nodes.len()).find(|count| {
            let (cpu, memory) = self.thinned(*count).fold((0, 0), |(cpu, memory), node| (cpu + node.cpu.0, memory + node.memory.0));
            cpu >= wanted.cpu.0 && memory >= wanted.memory.0
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use roadstead_core::resources::{Bytes, Millicores};

    fn plan(count: u64) -> Plan {
        let nodes = (0..count).map(|number| PodSize { cpu: Millicores(number), memory: Bytes(1) }).collect();
        Plan { nodes, grouping: Grouping::Rows }
    }

    #[test]
    fn thinning_keeps_exactly_so_many_at_even_distances() {
        let plan = plan(1523);
        for count in [1, 2, 16, 278, 761, 762, 1522, 1523] {
            let kept: Vec<u64> = plan.thinned(count).map(|node| node.cpu.0).collect();
            assert_eq!(kept.len(), count);
            let distances: std::collections::BTreeSet<u64> = kept.windows(2).map(|pair| pair[1] - pair[0]).collect();
            let (least, most) = (distances.first().copied().unwrap_or(1), distances.last().copied().unwrap_or(1));
            assert!(most - least <= 1, "{count}: distances from {least} to {most}");
        }
    }

    #[test]
    fn every_node_is_in_one_cluster_and_clusters_are_even() {
        for grouping in [Grouping::Rows, Grouping::Dealt] {
            let plan = Plan { grouping, ..plan(1523) };
            for count in [16, 100, 283] {
                let clusters = plan.clusters(count);
                let mut all: Vec<_> = clusters.iter().flatten().copied().collect();
                all.sort_unstable();
                assert_eq!(all, plan.thinned(count).collect::<Vec<_>>());
                assert!(clusters.iter().all(|nodes| [count / 16, count / 16 + 1].contains(&nodes.len())));
            }
        }
    }

    #[test]
    fn the_bound_is_the_first_fleet_that_offers_both() {
        let node = |cores: u64, gib: u64| PodSize { cpu: Millicores(1000 * cores), memory: Bytes(gib << 30) };
        let plan = Plan { nodes: vec![node(10, 10); 8], grouping: Grouping::Rows };
        assert_eq!(plan.smallest_offering(node(50, 1)), Some(5));
        assert_eq!(plan.smallest_offering(node(51, 1)), Some(6));
        assert_eq!(plan.smallest_offering(node(1, 71)), Some(8));
        assert_eq!(plan.smallest_offering(node(81, 1)), None);
    }
}
