//! The score: what makes one cluster better than another that also fits.
//!
//! Terms are compared in the order of [`Score::NAMES`], each greater-is-better; clusters that are equal in all of them
//! are told apart by number, the lower first.
//!
//! | term | value |
//! |---|---|
//! | `pool` | minus the number of pools that come before the cluster's (by order, then price, then name) |
//! | `taints` | minus the number of `PreferNoSchedule` taints that are not tolerated |
//! | `preferences` | sum of the weights of the wishes that are fulfilled |
//! | `node` | 0 if no node has room now for the largest pod. Else, where the pool spreads or nodes are unknown, 1; where it packs, from 1 to 127, the more the less the pod would leave over on its node (`ledger::fit`) |
//! | `share` | the dominant share in steps of 16 millionths: minus it where the pool spreads, plus where it packs |

use crate::constraint::TaintEffect;
use crate::id::{ClusterId, ShardId};
use crate::ledger::{Ledger, Neighbours, PoolRank, Refusal, SHARE_STEP_PPM, Site, steps_of_key};
use crate::pool::PoolPolicy;
use crate::resources::PodSize;
use crate::tenant::TenantSpec;

/// How many terms there are.
pub(crate) const TERM_COUNT: usize = 5;

/// A cluster's score for one tenant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Score(pub(crate) [i64; TERM_COUNT]);

impl Score {
    /// The terms' names, in the order in which they decide.
    pub(crate) const NAMES: [&'static str; TERM_COUNT] = ["pool", "taints", "preferences", "node", "share"];
}

/// A cluster that would take the tenant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Candidate {
    pub(crate) cluster: ClusterId,
    pub(crate) shard: ShardId,
    pub(crate) score: Score,
}

impl Candidate {
    /// What is greater is better.
    pub(crate) fn key(&self) -> (Score, std::cmp::Reverse<ClusterId>) {
        (self.score, std::cmp::Reverse(self.cluster))
    }
}

/// All pools that clusters are in, first things first.
pub(crate) fn pools(ledger: &Ledger) -> Vec<&PoolRank> {
    let mut pools: Vec<_> = ledger.sites().map(|(_, site)| &site.pool).collect();
    pools.sort_unstable();
    pools.dedup();
    pools
}

/// Judges one cluster: the plain way, one after the other, on which everything faster is measured.
pub(crate) fn judge(
    ledger: &Ledger,
    neighbours: &Neighbours<'_>,
    pools: &[&PoolRank],
    spec: &TenantSpec,
    cluster: ClusterId,
    site: &Site,
) -> Result<Candidate, Vec<Refusal>> {
    let mut refusals = Vec::new();
    ledger.cluster_refusals(neighbours, spec, cluster, site, &mut refusals);
    let (shard, wishes) = match choose_shard(ledger, neighbours, cluster, site) {
        Some(found) if refusals.is_empty() => found,
        found => {
            if found.is_none() {
                refusals.extend(shard_refusals(ledger, neighbours, cluster, site));
            }
            return Err(refusals);
        }
    };
    let [pool, taints, preferences] = standing(pools, spec, site);
    let node = node_term(site, spec.requests.largest_pod);
    let score = Score([pool, taints, preferences + i64::from(wishes), node, share(ledger, cluster, site.policy)]);
    Ok(Candidate { cluster, shard, score })
}

/// The terms that depend on a cluster's facts and the tenant's constraints alone: pool, taints, preferences without company.
pub(crate) fn standing(pools: &[impl std::borrow::Borrow<PoolRank>], spec: &TenantSpec, site: &Site) -> [i64; 3] {
    let pool = pools.partition_point(|pool| *pool.borrow() < site.pool);
    let taints = site.untolerated(spec, TaintEffect::PreferNoSchedule).count();
    [-(pool as i64), -(taints as i64), i64::from(site.wish_weight(spec))]
}

/// How well the nodes of a cluster suit the largest pod.
pub(crate) fn node_term(site: &Site, pod: PodSize) -> i64 {
    match site.policy {
        PoolPolicy::Pack if !site.nodes.is_empty() => match site.gauge.waste(&site.nodes, pod) {
            Some(waste) => (MAX_NODE_TERM - i64::from(waste)).max(1),
            None => 0,
        },
        PoolPolicy::Pack | PoolPolicy::Spread => i64::from(site.has_room_for_pod(pod)),
    }
}

/// The greatest value of [`node_term`]: seven bits of a rank, enough for nodes of 4,000 cores.
pub(crate) const MAX_NODE_TERM: i64 = 127;

/// The share of a cluster as its pool's policy sees it.
fn share(ledger: &Ledger, cluster: ClusterId, policy: PoolPolicy) -> i64 {
    in_policy(policy, ledger.dominant_share_ppm(cluster) / SHARE_STEP_PPM)
}

/// The same, from the key that a cluster has in the columns if it is not overfull.
pub(crate) fn share_of_key(key: u16, policy: PoolPolicy) -> i64 {
    in_policy(policy, steps_of_key(policy, key))
}

fn in_policy(policy: PoolPolicy, steps: u32) -> i64 {
    match policy {
        PoolPolicy::Spread => -i64::from(steps),
        PoolPolicy::Pack => i64::from(steps),
    }
}

/// The shard that a tenant would enter and the weight of its wishes there: of those with room that its company allows, the one
/// with the weightiest wishes, then the fullest, then the lowest number. A shard that nobody is in may have to be opened.
pub(crate) fn choose_shard(ledger: &Ledger, neighbours: &Neighbours<'_>, cluster: ClusterId, site: &Site) -> Option<(ShardId, u32)> {
    let mut best: Option<((u32, u32), ShardId)> = None;
    for (shard, count) in shards_with_room(ledger, cluster, site) {
        // Asking about company is what takes time: only for a shard that would be chosen.
        let hopeless = !neighbours.are_wished_for() && best.is_some_and(|((_, than), at)| count < than || (count == than && shard > at));
        if !hopeless && neighbours.admits_shard(site, cluster, shard) {
            let key = (neighbours.wish_weight(site, cluster, shard), count);
            if best.is_none_or(|(than, at)| key > than || (key == than && shard < at)) {
                best = Some((key, shard));
            }
        }
    }
    best.map(|((weight, _), shard)| (shard, weight))
}

/// What refuses every shard that has room, each thing once; nothing if one is allowed or none has room.
pub(crate) fn shard_refusals(ledger: &Ledger, neighbours: &Neighbours<'_>, cluster: ClusterId, site: &Site) -> Vec<Refusal> {
    let mut refusals = Vec::new();
    for (shard, _) in shards_with_room(ledger, cluster, site) {
        let before = refusals.len();
        neighbours.shard_refusals(site, cluster, shard, &mut refusals);
        if refusals.len() == before {
            return Vec::new();
        }
    }
    refusals.sort_unstable();
    refusals.dedup();
    refusals
}

/// Shards that have room for one more, with what is in them. All empty ones are alike, so that the first stands for them.
fn shards_with_room<'a>(ledger: &'a Ledger, cluster: ClusterId, site: &'a Site) -> impl Iterator<Item = (ShardId, u32)> + 'a {
    let counts = ledger.shards(cluster);
    let first_empty = counts.iter().position(|count| *count == 0).unwrap_or(counts.len());
    let open = counts.iter().enumerate().filter(|(_, count)| **count > 0).map(|(shard, count)| (shard, *count));
    open.chain(std::iter::once((first_empty, 0)))
        .filter(|(shard, count)| *shard < usize::from(site.spec.max_shards) && *count < site.spec.shard_cap)
        .map(|(shard, count)| (ShardId(shard as u16), count))
}
