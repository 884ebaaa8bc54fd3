//! Builds a state from the things of a snapshot, indexes and ledger included.

use std::sync::Arc;

use super::tenants::{Collected, Loaded};
use super::{Job, LoadedRequests, Packed, State, counted};
use crate::agreement::Agreement;
use crate::class::ClassVersion;
use crate::cluster::{Cluster, GrowthRoom};
use crate::codec::{CodecError, Scalars};
use crate::constraint::CompanyTerm;
use crate::id::{ClusterId, Name, Revision, TenantId};
use crate::join::JoinToken;
use crate::ledger::{Claim, Share};
use crate::observed::{ClusterInfo, KnownDetails, TenantFacts};
use crate::pool::Pool;
use crate::request::Principal;
use crate::resources::Resources;
use crate::tenant::Binding;

/// A state on its way up. What tenants refer to comes before them.
#[derive(Debug, Default)]
pub(crate) struct Builder {
    state: State,
    tenants: Collected,
    requests: LoadedRequests,
}

/// Some tenants of a snapshot: all that can be made of them without the state.
#[derive(Debug, Default)]
pub(crate) struct LoadedTenants {
    tenants: Vec<LoadedTenant>,
    /// Which classes they are of, and how many of each.
    classes: Vec<(Name, String, u32)>,
}

#[derive(Debug)]
struct LoadedTenant {
    indexed: Loaded,
    counted: Option<(Share, Binding)>,
    total: Resources,
    company: Vec<CompanyTerm>,
}

impl LoadedTenants {
    /// Reads packed tenants, one after the other.
    ///
    /// # Errors
    /// When the bytes are not that and nothing else.
    pub(crate) fn read(mut bytes: &[u8]) -> Result<Self, CodecError> {
        let mut all = Self::default();
        while !bytes.is_empty() {
            let (packed, facts, rest) = Packed::read_prefix(bytes)?;
            let indexed = Loaded::new(&facts, packed);
            let spec = facts.spec;
            match all.classes.iter_mut().find(|(class, version, _)| *class == spec.class && *version == spec.version) {
                Some((_, _, tenants)) => *tenants += 1,
                None => all.classes.push((spec.class, spec.version.to_owned(), 1)),
            }
            let counted = counted(&facts.phase);
            all.tenants.push(LoadedTenant { indexed, counted, total: spec.requests.total, company: spec.constraints.company });
            bytes = rest;
        }
        Ok(all)
    }

    pub(crate) fn len(&self) -> usize {
        self.tenants.len()
    }
}

impl Builder {
    pub(crate) fn scalars(&mut self, scalars: Scalars) {
        let state = &mut self.state;
        state.revision = scalars.revision;
        state.time = scalars.time;
        state.level = scalars.level;
        state.next_tenant = scalars.next_tenant;
        state.next_cluster = scalars.next_cluster;
        state.requests.set_floor_ms(scalars.requests_floor_ms);
        state.policy = Arc::new(scalars.policy);
    }

    pub(crate) fn principal(&mut self, principal: &Principal) {
        self.state.principals.enter(principal);
    }

    pub(crate) fn pool(&mut self, pool: Pool) {
        self.state.put_pool(Arc::new(pool));
    }

    pub(crate) fn cluster(&mut self, cluster: Cluster, generation: Revision) {
        self.state.set_generation(cluster.id, generation);
        self.state.put_cluster(Arc::new(cluster));
    }

    pub(crate) fn class(&mut self, class: ClassVersion) {
        self.state.put_class(Arc::new(class));
    }

    /// Adds tenants; they come in the order of their names.
    ///
    /// # Errors
    /// When one is bound where there is no shard, or is of a class that is not there.
    pub(crate) fn tenants(&mut self, loaded: LoadedTenants) -> Result<(), String> {
        for (class, version, tenants) in loaded.classes {
            if self.state.class(class.as_str(), &version).is_none() {
                return Err(format!("{tenants} tenants are of class {class}@{version}, which does not exist"));
            }
            self.state.use_class(&class, &version, |used| *used += tenants);
        }
        for LoadedTenant { indexed, counted, total, company } in loaded.tenants {
            if let Some((share, Binding { cluster, shard, .. })) = counted {
                if self.state.cluster_by_id(cluster).is_none_or(|cluster| shard.0 >= cluster.shards) {
                    return Err(format!("tenant {} is bound to a shard that does not exist", indexed.id()));
                }
                let claim = Claim { name: indexed.name(), owner: indexed.owner(), total, company: &company };
                self.state.ledger_mut().take_unscanned(claim, share, cluster, shard);
            }
            self.tenants.push(indexed);
        }
        Ok(())
    }

    /// Adds what was told about a tenant.
    pub(crate) fn tenant_facts(&mut self, id: TenantId, facts: TenantFacts) {
        self.state.observed.put_tenant(id, facts);
    }

    /// Adds what was told about a cluster.
    pub(crate) fn cluster_info(&mut self, id: ClusterId, info: ClusterInfo) {
        self.state.observed.put_cluster(id, info);
    }

    /// Adds details of a cluster.
    pub(crate) fn cluster_details(&mut self, id: ClusterId, known: KnownDetails) {
        self.state.observed.put_details(id, known);
    }

    /// Adds what may still be added to a cluster.
    ///
    /// # Errors
    /// When the cluster is not there.
    pub(crate) fn cluster_growth(&mut self, id: ClusterId, growth: GrowthRoom) -> Result<(), String> {
        let cluster =
            self.state.cluster_by_id(id).ok_or_else(|| format!("something may be added to cluster {}, which is not there", id.0))?;
        let cluster = Cluster { growth, ..Cluster::clone(cluster) };
        self.state.put_cluster(Arc::new(cluster));
        Ok(())
    }

    /// Adds the token of a cluster.
    pub(crate) fn token(&mut self, id: ClusterId, token: JoinToken) {
        self.state.tokens.put(id, token);
    }

    /// Adds an agreement to a removal.
    pub(crate) fn agreement(&mut self, id: TenantId, agreement: Agreement) {
        self.state.agreements.put(id, agreement);
    }

    /// Adds requests; they come in ascending order.
    pub(crate) fn requests(&mut self, loaded: LoadedRequests) {
        self.requests.append(loaded);
    }

    /// The state. `both` runs two jobs, at the same time if it can.
    ///
    /// # Errors
    /// When a tenant or a request comes twice, or out of order.
    pub(crate) fn finish(mut self, both: impl FnOnce(Job<'_>, Job<'_>)) -> Result<State, String> {
        self.state.ledger_mut().rescan();
        self.state.requests.fill(self.requests)?;
        self.state.tenants = self.tenants.finish(both)?;
        Ok(self.state)
    }
}
