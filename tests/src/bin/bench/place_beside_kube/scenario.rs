//! What both systems are given, and how what they made of it is judged: the same clusters, tenants, limits and constraints for both.

use std::collections::BTreeSet;

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use crate::chance::Chance;

/// Regions, of which each cluster is in one.
pub(super) const REGIONS: usize = 20;
/// The taint of some clusters: nobody enters who does not tolerate it.
pub(super) const TAINT: (&str, &str) = ("example.com/reserved", "true");
/// Of a hundred clusters, how many are tainted; of a hundred tenants, how many tolerate that.
const TAINTED: usize = 10;
const TOLERANT: usize = 20;
/// Of a hundred tenants, how many may be in one region only, and how many in two.
const IN_ONE: usize = 25;
const IN_TWO: usize = 25;
const MIB: u64 = 1 << 20;
/// What a cluster of factor 1 has; others have up to [`FACTORS`] times as much. On average 20 tenants use some 60 % of a cluster.
const UNIT: Amounts = Amounts { tenants: 16, cpu_millicores: 8_000, memory: 20 * 1024 * MIB };
const FACTORS: usize = 4;

/// Sizes of tenants, and how many of a hundred are at most that large.
pub(super) const SIZES: [(&str, usize, Amounts); 3] = [
    ("small", 50, Amounts { tenants: 1, cpu_millicores: 250, memory: 512 * MIB }),
    ("medium", 85, Amounts { tenants: 1, cpu_millicores: 500, memory: 2048 * MIB }),
    ("large", 100, Amounts { tenants: 1, cpu_millicores: 2_000, memory: 4096 * MIB }),
];

/// What is limited: the number of tenants, which is a node's number of pods, and two resources.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Amounts {
    pub(super) tenants: u64,
    pub(super) cpu_millicores: u64,
    pub(super) memory: u64,
}

impl Amounts {
    fn columns(self) -> [u64; 3] {
        [self.tenants, self.cpu_millicores, self.memory]
    }
}

/// A cluster, or the node that plays it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cluster {
    pub(super) region: usize,
    pub(super) tainted: bool,
    pub(super) limits: Amounts,
}

/// A tenant, or the pod that plays it.
#[derive(Clone, Debug)]
pub(super) struct Tenant {
    /// Of [`SIZES`].
    pub(super) size: usize,
    /// Those that it may be in; empty is any.
    pub(super) regions: BTreeSet<usize>,
    pub(super) tolerates: bool,
}

/// All clusters and tenants.
#[derive(Debug)]
pub(super) struct Scenario {
    pub(super) clusters: Vec<Cluster>,
    pub(super) tenants: Vec<Tenant>,
}

pub(super) fn region_name(region: usize) -> String {
    format!("region-{region}")
}

impl Scenario {
    /// Drawn with a fixed seed.
    pub(super) fn draw(clusters: usize, tenants: usize) -> Self {
        let mut chance = Chance::new(42);
        let cluster = |chance: &mut Chance, number: usize| {
            let factor = 1 + chance.below(FACTORS) as u64;
            let limits =
                Amounts { tenants: factor * UNIT.tenants, cpu_millicores: factor * UNIT.cpu_millicores, memory: factor * UNIT.memory };
            Cluster { region: number % REGIONS, tainted: chance.percent(TAINTED), limits }
        };
        let tenant = |chance: &mut Chance| {
            let drawn = chance.below(100);
            let size = SIZES.iter().position(|(_, up_to, _)| drawn < *up_to).unwrap_or_default();
            let how = chance.below(100);
            let count = if how < IN_ONE { 1 } else { 2 * usize::from(how < IN_ONE + IN_TWO) };
            let regions = (0..count).map(|_| chance.below(REGIONS)).collect();
            Tenant { size, regions, tolerates: chance.percent(TOLERANT) }
        };
        Self {
            clusters: (0..clusters).map(|number| cluster(&mut chance, number)).collect(),
            tenants: (0..tenants).map(|_| tenant(&mut chance)).collect(),
        }
    }

    /// Judges a whole placement: the cluster of each tenant, by number.
    ///
    /// # Errors
    /// If a limit is crossed or a constraint broken: then the figures would say nothing.
    pub(super) fn judge(&self, places: &[usize]) -> Result<Spread> {
        ensure!(places.len() == self.tenants.len(), "{} of {} tenants have a place", places.len(), self.tenants.len());
        let mut used = vec![[0; 3]; self.clusters.len()];
        for (number, (tenant, &place)) in self.tenants.iter().zip(places).enumerate() {
            let cluster = self.clusters[place];
            ensure!(tenant.regions.is_empty() || tenant.regions.contains(&cluster.region), "tenant {number} is in a wrong region");
            ensure!(tenant.tolerates || !cluster.tainted, "tenant {number} does not tolerate cluster {place}");
            for (used, wanted) in used[place].iter_mut().zip(SIZES[tenant.size].2.columns()) {
                *used += wanted;
            }
        }
        let mut shares = Vec::with_capacity(used.len());
        for (number, (used, cluster)) in used.iter().zip(&self.clusters).enumerate() {
            let columns = used.iter().zip(cluster.limits.columns());
            #[expect(clippy::cast_precision_loss, reason = "bytes of a node are far below 2^52")]
            let share = columns.map(|(used, limit)| *used as f64 / limit as f64).fold(0.0, f64::max);
            ensure!(share <= 1.0, "cluster {number} is over a limit");
            shares.push(share * 100.0);
        }
        Ok(Spread::of(&shares))
    }
}

/// How evenly clusters are used: their dominant shares in percent, each the greatest part of a limit that is used.
#[derive(Clone, Copy, Debug)]
pub(super) struct Spread {
    pub(super) deviation: f64,
    mean: f64,
    fullest: f64,
    emptiest: f64,
}

impl Spread {
    fn of(shares: &[f64]) -> Self {
        #[expect(clippy::cast_precision_loss, reason = "counts are far below 2^52")]
        let count = shares.len() as f64;
        let mean = shares.iter().sum::<f64>() / count;
        let variance = shares.iter().map(|share| (share - mean).powi(2)).sum::<f64>() / count;
        let (fullest, emptiest) = (shares.iter().copied().fold(0.0, f64::max), shares.iter().copied().fold(100.0, f64::min));
        Self { deviation: variance.sqrt(), mean, fullest, emptiest }
    }

    pub(super) fn json(self) -> Value {
        json!({
            "standard_deviation": self.deviation, "mean": self.mean, "fullest": self.fullest, "emptiest": self.emptiest,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_placement_that_breaks_a_rule_is_no_figure() {
        let limits = Amounts { tenants: 1, ..UNIT };
        let clusters = vec![Cluster { region: 0, tainted: false, limits }, Cluster { region: 1, tainted: true, limits: UNIT }];
        let tenant = |regions: &[usize], tolerates| Tenant { size: 0, regions: regions.iter().copied().collect(), tolerates };
        let scenario = Scenario { clusters, tenants: vec![tenant(&[0], false), tenant(&[], true)] };
        let says = |places: &[usize]| scenario.judge(places).map_err(|error| error.to_string());
        assert!(says(&[0]).unwrap_err().contains("1 of 2"));
        assert!(says(&[0, 0]).unwrap_err().contains("over a limit"));
        assert!(says(&[1, 1]).unwrap_err().contains("wrong region"));
        let spread = says(&[0, 1]).unwrap();
        // One of one tenant, and one of sixteen.
        assert!((spread.mean - (100.0 + 6.25) / 2.0).abs() < 1e-9, "{spread:?}");
        assert!((spread.deviation - (100.0 - 6.25) / 2.0).abs() < 1e-9, "{spread:?}");
    }

    #[test]
    fn the_tenants_of_the_figure_would_fill_six_tenths() {
        let scenario = Scenario::draw(1_000, 20_000);
        let sum = |all: &mut dyn Iterator<Item = Amounts>| {
            all.map(Amounts::columns).fold([0; 3], |sum, one| std::array::from_fn(|column| sum[column] + one[column]))
        };
        let there = sum(&mut scenario.clusters.iter().map(|cluster| cluster.limits));
        let wanted = sum(&mut scenario.tenants.iter().map(|tenant| SIZES[tenant.size].2));
        let percent: [u64; 3] = std::array::from_fn(|column| wanted[column] * 100 / there[column]);
        assert!(percent.iter().all(|percent| (45..70).contains(percent)), "{percent:?}");
    }
}
