//! Builds a state from the things of a snapshot, indexes and ledger included.

use std::sync::Arc;

use super::{Collected, Job, KeptRequest, Loaded, RequestKey, State, counted};
use crate::class::ClassVersion;
use crate::cluster::Cluster;
use crate::codec::Scalars;
use crate::id::{Name, Revision};
use crate::pool::Pool;
use crate::request::Principal;
use crate::tenant::Tenant;

/// A state on its way up. What tenants refer to comes before them.
#[derive(Debug, Default)]
pub(crate) struct Builder {
    state: State,
    tenants: Collected,
    /// The class of the tenant before, and how many in a row were of it.
    class: Option<(Name, String)>,
    of_class: u32,
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

    /// Adds a tenant; they come in the order of their names.
    ///
    /// # Errors
    /// When it is bound where there is no shard, or is of a class that is not there.
    pub(crate) fn tenant(&mut self, tenant: &Tenant, loaded: Loaded) -> Result<(), String> {
        let (id, spec) = (tenant.id, &tenant.spec);
        if let Some((share, binding)) = counted(&tenant.phase) {
            if self.state.cluster_by_id(binding.cluster).is_none_or(|cluster| binding.shard.0 >= cluster.shards) {
                return Err(format!("tenant {id} is bound to a shard that does not exist"));
            }
            self.state.ledger_mut().take_unscanned(spec, share, binding.cluster, binding.shard);
        }
        if self.class.as_ref().is_none_or(|(class, version)| *class != spec.class || *version != spec.version) {
            if self.state.class(spec.class.as_str(), &spec.version).is_none() {
                return Err(format!("tenant {id} is of class {}@{}, which does not exist", spec.class, spec.version));
            }
            self.use_class();
            self.class = Some((spec.class.clone(), spec.version.clone()));
        }
        self.of_class += 1;
        self.tenants.push(loaded);
        Ok(())
    }

    pub(crate) fn request(&mut self, key: RequestKey, kept: KeptRequest) {
        self.state.requests.put(key, kept);
    }

    fn use_class(&mut self) {
        let count = std::mem::take(&mut self.of_class);
        if let Some((class, version)) = self.class.take() {
            self.state.use_class(&class, &version, |tenants| *tenants += count);
        }
    }

    /// The state. `both` runs two jobs, at the same time if it can.
    ///
    /// # Errors
    /// When a tenant comes twice, or out of order.
    pub(crate) fn finish(mut self, both: impl FnOnce(Job<'_>, Job<'_>)) -> Result<State, String> {
        self.use_class();
        self.state.ledger_mut().rescan();
        self.state.tenants = self.tenants.finish(both)?;
        Ok(self.state)
    }
}
