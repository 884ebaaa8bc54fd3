//! Recomputes everything derived and compares: for tests, simulations, and before a broken invariant is told.

use std::collections::BTreeMap;

use super::{Packed, State, cluster_digest, counted};
use crate::digest::{self, Tag};
use crate::ledger::Ledger;
use crate::tenant::{MAX_REASON_BYTES, Phase};

impl State {
    /// Recomputes everything derived and compares; the names of the invariants that do not hold. For tests, simulations and `Broken`.
    #[must_use]
    pub fn check_invariants(&self) -> Vec<String> {
        let mut problems = Vec::new();
        self.tenants.check(&mut problems);
        self.check_digest(&mut problems);
        self.check_ledger(&mut problems);
        self.check_references(&mut problems);
        problems
    }

    fn check_digest(&self, problems: &mut Vec<String>) {
        let clusters = self.clusters.values().map(|cluster| cluster_digest(cluster));
        let generations = self.generations.iter().map(|(id, revision)| super::generation_digest(*id, *revision));
        let pools = self.pools.values().map(|pool| digest::of(Tag::Pool, &**pool));
        let classes = self.classes().map(|class| digest::of(Tag::Class, &**class));
        let sum = clusters.chain(generations).chain(pools).chain(classes).fold(0u64, u64::wrapping_add);
        if sum != self.digest {
            problems.push("digest of the fleet".to_owned());
        }
        if self.observed.recomputed_digest() != self.observed.digest() {
            problems.push("digest of what agents have told".to_owned());
        }
        if self.tokens.recomputed_digest() != self.tokens.digest() {
            problems.push("digest of the tokens".to_owned());
        }
        if self.agreements.recomputed_digest() != self.agreements.digest() {
            problems.push("digest of the agreements".to_owned());
        }
        if self.requests.recomputed_digest() != self.requests.digest() {
            problems.push("digest of the request ids".to_owned());
        }
    }

    /// The ledger counts exactly what the tenants say.
    fn check_ledger(&self, problems: &mut Vec<String>) {
        let mut fresh = Ledger::default();
        for cluster in self.clusters.values() {
            fresh.put_cluster(cluster, self.pool(cluster.spec.pool.as_str()).map(|pool| &**pool));
        }
        for tenant in self.tenants.iter().map(Packed::tenant) {
            if let Some((share, binding)) = counted(&tenant.phase) {
                fresh.take(&tenant.spec, share, binding.cluster, binding.shard);
            }
        }
        if fresh.digest() != self.ledger.digest() {
            problems.push("the ledger counts something else than the tenants".to_owned());
        }
        for cluster in self.clusters.values() {
            let id = cluster.id;
            if fresh.used(id) != self.ledger.used(id) || fresh.tenants(id) != self.ledger.tenants(id) {
                problems.push(format!("use of cluster {}", cluster.spec.name));
            }
            if fresh.cluster_state(id) != self.ledger.cluster_state(id) || fresh.limit(id) != self.ledger.limit(id) {
                problems.push(format!("state and limits of cluster {}", cluster.spec.name));
            }
        }
    }

    /// Whatever is referred to is there, and numbers given out are never ahead of their counters.
    fn check_references(&self, problems: &mut Vec<String>) {
        let mut classes: BTreeMap<(String, String), u32> = BTreeMap::new();
        for packed in self.tenants.iter() {
            let tenant = packed.tenant();
            let name = &tenant.spec.name;
            *classes.entry((tenant.spec.class.to_string(), tenant.spec.version.clone())).or_default() += 1;
            if tenant.id.0 & ((1 << 48) - 1) >= self.next_tenant {
                problems.push(format!("tenant {name} has a number that was not given out"));
            }
            if tenant.reason.len() > MAX_REASON_BYTES || tenant.changed > self.revision || packed.history().read().is_none() {
                problems.push(format!("record of tenant {name}"));
            }
            if let Some(binding) = tenant.phase.binding() {
                let cluster = self.cluster_by_id(binding.cluster);
                if cluster.is_none_or(|cluster| binding.shard.0 >= cluster.shards) || binding.epoch > self.revision {
                    problems.push(format!("binding of tenant {name}"));
                }
            }
            if tenant.misplaced && matches!(tenant.phase, Phase::Pending { .. }) {
                problems.push(format!("tenant {name} is misplaced and nowhere"));
            }
        }
        let unknown = self.observed.tenants().any(|(id, _)| self.tenants.get(*id).is_none());
        let mut told_of = self.observed.clusters().map(|(id, _)| id).chain(self.observed.details().keys());
        if unknown || told_of.any(|id| !self.clusters.contains_key(id)) {
            problems.push("what agents have told is about something that is not there".to_owned());
        }
        if self.tokens.iter().any(|(id, _)| !self.clusters.contains_key(id)) {
            problems.push("a token of a cluster that is not there".to_owned());
        }
        if self.agreements.iter().any(|(id, _)| self.tenants.get(id).is_none()) {
            problems.push("an agreement is about a tenant that is not there".to_owned());
        }
        let used = self.classes.values().flat_map(|versions| versions.values());
        let used = used.filter(|kept| kept.tenants > 0);
        let used: BTreeMap<_, _> = used.map(|kept| ((kept.class.name.to_string(), kept.class.version.clone()), kept.tenants)).collect();
        if used != classes {
            problems.push("use of classes".to_owned());
        }
        if self.fenced as usize != self.fenced_clusters().count() || self.clusters.len() != self.cluster_ids.len() {
            problems.push("clusters by name, or fenced".to_owned());
        }
        if self.clusters.values().any(|cluster| self.pool(cluster.spec.pool.as_str()).is_none() || cluster.id.0 >= self.next_cluster) {
            problems.push("pool or number of a cluster".to_owned());
        }
    }
}
