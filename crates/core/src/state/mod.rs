//! The replicated state: cheap to copy, changed only by [`crate::apply`].
//!
//! Persistent maps for what is kept, so that a clone is a frozen copy and costs microseconds; the [`Ledger`] for what is counted,
//! shared until the next change. Everything derived (indexes, ledger, digest) changes in [`State::put_tenant`] and its like, and nowhere else.

mod requests;
mod tenants;
mod check;
mod build;
mod facts;
mod observed;
mod tokens;
mod agreements;
mod packed;
mod sorted;

use std::sync::Arc;

use imbl::{OrdMap, Vector};

use crate::agreement::Agreement;
use crate::class::ClassVersion;
use crate::cluster::{Cluster, ClusterState};
use crate::command::{FIRST_LEVEL, FeatureLevel, Outcome};
use crate::digest::{self, Tag};
use crate::history::{History, KeptEvent, PrincipalNumber, TenantEvent};
use crate::id::{ClusterId, Incarnation, Name, Owner, Revision, ShardId, TenantId};
use crate::intent::{self, Role};
use crate::join::JoinToken;
use crate::ledger::{Ledger, Residents, Share};
use crate::observed::{ClusterInfo, KnownDetails, TenantFacts, TroubleKind};
use crate::policy::Policy;
use crate::pool::Pool;
use crate::request::{Principal, Retry};
use crate::tenant::{Binding, Phase, Tenant};
use crate::time::Timestamp;

pub(crate) use agreements::Agreements;
pub(crate) use build::{Builder, LoadedTenants};
pub(crate) use observed::Observed;
pub(crate) use packed::Packed;
pub(crate) use requests::{Kept as KeptRequest, Key as RequestKey, LoadedRequests, Requests, Verdict};
pub use tenants::Job;
pub(crate) use tenants::{PendingKey, Tenants, pending_key};
pub(crate) use tokens::Tokens;

/// A class version and how many tenants use it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct KeptClass {
    pub(crate) class: Arc<ClassVersion>,
    pub(crate) tenants: u32,
}

/// Who has ever asked for something: each gets a number, which is what histories and request ids keep.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Principals {
    numbers: OrdMap<Principal, PrincipalNumber>,
    names: Vector<Principal>,
    digest: u64,
}

impl Principals {
    pub(crate) fn number(&self, principal: &Principal) -> Option<PrincipalNumber> {
        self.numbers.get(principal).copied()
    }

    /// The number of a principal; a new one if it was never heard of.
    pub(crate) fn enter(&mut self, principal: &Principal) -> PrincipalNumber {
        if let Some(number) = self.number(principal) {
            return number;
        }
        let number = PrincipalNumber(u32::try_from(self.names.len()).expect("fewer principals than 2^32 certificates"));
        self.digest = self.digest.wrapping_add(digest::of(Tag::Principal, &(number, principal)));
        self.names.push_back(principal.clone());
        self.numbers.insert(principal.clone(), number);
        number
    }

    pub(crate) fn name(&self, number: PrincipalNumber) -> Option<&Principal> {
        self.names.get(number.0 as usize)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Principal> {
        self.names.iter()
    }

    fn digest(&self) -> u64 {
        self.digest
    }
}

/// Everything that is replicated. A clone is a frozen copy and costs microseconds, whatever its size.
#[derive(Clone, Debug)]
pub struct State {
    pub(crate) revision: Revision,
    pub(crate) time: Timestamp,
    pub(crate) level: FeatureLevel,
    /// Numbers given out so far.
    pub(crate) next_tenant: u64,
    /// Numbers given out so far.
    pub(crate) next_cluster: u32,
    pub(crate) tenants: Tenants,
    clusters: OrdMap<ClusterId, Arc<Cluster>>,
    cluster_ids: OrdMap<Name, ClusterId>,
    /// When each cluster's intent last changed: with every binding, too often to be kept in the cluster.
    generations: OrdMap<ClusterId, Revision>,
    pools: OrdMap<Name, Arc<Pool>>,
    classes: OrdMap<Name, OrdMap<String, KeptClass>>,
    policy: Arc<Policy>,
    pub(crate) requests: Requests,
    pub(crate) principals: Principals,
    pub(crate) observed: Observed,
    pub(crate) tokens: Tokens,
    pub(crate) agreements: Agreements,
    ledger: Arc<Ledger>,
    fenced: u32,
    /// Over clusters, generations, pools, classes.
    digest: u64,
    /// Planted fault: apply takes what the leader decided for granted.
    #[cfg(feature = "sabotage")]
    pub unchecked: bool,
}

impl Default for State {
    fn default() -> Self {
        Self {
            revision: Revision::default(),
            time: Timestamp::default(),
            level: FIRST_LEVEL,
            next_tenant: 0,
            next_cluster: 0,
            tenants: Tenants::default(),
            clusters: OrdMap::new(),
            cluster_ids: OrdMap::new(),
            generations: OrdMap::new(),
            pools: OrdMap::new(),
            classes: OrdMap::new(),
            policy: Arc::default(),
            requests: Requests::default(),
            principals: Principals::default(),
            observed: Observed::default(),
            tokens: Tokens::default(),
            agreements: Agreements::default(),
            ledger: Arc::default(),
            fenced: 0,
            digest: 0,
            #[cfg(feature = "sabotage")]
            unchecked: false,
        }
    }
}

/// What the ledger counts of a tenant, and where.
pub(crate) fn counted(phase: &Phase) -> Option<(Share, Binding)> {
    match *phase {
        Phase::Pending { .. } => None,
        Phase::Bound { binding, .. } | Phase::Releasing { binding, .. } => Some((Share::Full, binding)),
        Phase::Retained { binding, .. } | Phase::Purging { binding, .. } => Some((Share::StorageOnly, binding)),
    }
}

/// Reading.
impl State {
    /// The last applied entry.
    #[must_use]
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// Restores so far.
    #[must_use]
    pub fn incarnation(&self) -> Incarnation {
        self.revision.incarnation
    }

    /// Replicated time of the last applied entry.
    #[must_use]
    pub fn time(&self) -> Timestamp {
        self.time
    }

    /// The agreed feature level.
    #[must_use]
    pub fn level(&self) -> FeatureLevel {
        self.level
    }

    /// A tenant by its name.
    #[must_use]
    pub fn tenant(&self, name: &str) -> Option<Tenant> {
        self.tenants.tenant(self.tenants.id_of(name)?)
    }

    /// Whether there is a tenant of this name.
    #[must_use]
    pub fn has_tenant(&self, name: &str) -> bool {
        self.tenants.id_of(name).is_some()
    }

    /// A tenant by its uid.
    #[must_use]
    pub fn tenant_by_id(&self, id: TenantId) -> Option<Tenant> {
        self.tenants.tenant(id)
    }

    /// In the order of names, those after `after`.
    #[must_use]
    pub fn tenants_after<'a>(&'a self, after: Option<&str>) -> Box<dyn Iterator<Item = Tenant> + 'a> {
        Box::new(self.tenants.names_after(after).map(Packed::tenant))
    }

    /// Those that count against a cluster, by uid.
    #[must_use]
    pub fn tenants_of_cluster<'a>(&'a self, cluster: ClusterId) -> Box<dyn Iterator<Item = Tenant> + 'a> {
        Box::new(self.tenants.of_cluster(cluster).filter_map(|id| self.tenant_by_id(id)))
    }

    /// An owner's, by uid.
    #[must_use]
    pub fn tenants_of_owner<'a>(&'a self, owner: &Owner) -> Box<dyn Iterator<Item = Tenant> + 'a> {
        Box::new(self.tenants.of_owner(owner).filter_map(|id| self.tenant_by_id(id)))
    }

    /// Those that wait, in the order in which they are tried.
    #[must_use]
    pub fn pending_tenants<'a>(&'a self) -> Box<dyn Iterator<Item = &'a Arc<Tenant>> + 'a> {
        Box::new(self.tenants.pending().values())
    }

    /// All tenants that are not gone: bound, waiting, on their way out, retained.
    #[must_use]
    pub fn tenant_count(&self) -> usize {
        self.tenants.len()
    }

    /// Those that wait.
    #[must_use]
    pub fn pending_count(&self) -> usize {
        self.tenants.pending().len()
    }

    /// A cluster by its name.
    #[must_use]
    pub fn cluster(&self, name: &str) -> Option<&Arc<Cluster>> {
        self.clusters.get(self.cluster_ids.get(name)?)
    }

    /// A cluster by its number.
    #[must_use]
    pub fn cluster_by_id(&self, id: ClusterId) -> Option<&Arc<Cluster>> {
        self.clusters.get(&id)
    }

    /// In the order of names.
    #[must_use]
    pub fn clusters<'a>(&'a self) -> Box<dyn Iterator<Item = &'a Arc<Cluster>> + 'a> {
        Box::new(self.cluster_ids.values().filter_map(|id| self.clusters.get(id)))
    }

    /// When a cluster's intent last changed; an agent refuses an older one.
    #[must_use]
    pub fn generation(&self, id: ClusterId) -> Revision {
        self.generations.get(&id).copied().unwrap_or_default()
    }

    /// What a cluster is at the moment: the worst of what holds.
    #[must_use]
    pub fn cluster_state(&self, id: ClusterId) -> Option<ClusterState> {
        self.ledger.cluster_state(id)
    }

    /// Clusters whose agents have not reported since a restore.
    #[must_use]
    pub fn fenced_clusters<'a>(&'a self) -> Box<dyn Iterator<Item = &'a Arc<Cluster>> + 'a> {
        Box::new(self.clusters().filter(|cluster| cluster.fenced))
    }

    /// Clusters to which something may be added.
    pub(crate) fn growing(&self) -> impl Iterator<Item = &Cluster> {
        self.clusters.values().map(|cluster| &**cluster).filter(|cluster| !cluster.growth.is_nothing())
    }

    /// How many clusters have not reported since a restore; while any has not, nothing is decided or deleted.
    #[must_use]
    pub fn fenced_count(&self) -> u32 {
        self.fenced
    }

    /// A pool by its name.
    #[must_use]
    pub fn pool(&self, name: &str) -> Option<&Arc<Pool>> {
        self.pools.get(name)
    }

    /// In the order in which they are tried.
    #[must_use]
    pub fn pools<'a>(&'a self) -> Box<dyn Iterator<Item = &'a Arc<Pool>> + 'a> {
        let mut pools: Vec<_> = self.pools.values().collect();
        pools.sort_by_key(|pool| (pool.spec.order, pool.spec.price_micros, pool.spec.name.clone()));
        Box::new(pools.into_iter())
    }

    /// A class version.
    #[must_use]
    pub fn class(&self, name: &str, version: &str) -> Option<&Arc<ClassVersion>> {
        self.kept_class(name, version).map(|kept| &kept.class)
    }

    /// By name, then version.
    #[must_use]
    pub fn classes<'a>(&'a self) -> Box<dyn Iterator<Item = &'a Arc<ClassVersion>> + 'a> {
        Box::new(self.classes.values().flat_map(|versions| versions.values()).map(|kept| &kept.class))
    }

    /// Tenants that use a class version, retained ones included.
    #[must_use]
    pub fn class_use(&self, name: &str, version: &str) -> u32 {
        self.kept_class(name, version).map_or(0, |kept| kept.tenants)
    }

    fn kept_class(&self, name: &str, version: &str) -> Option<&KeptClass> {
        self.classes.get(name)?.get(version)
    }

    /// The policy.
    #[must_use]
    pub fn policy(&self) -> &Arc<Policy> {
        &self.policy
    }

    /// What is counted.
    #[must_use]
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// What was told about a tenant, beyond its phase.
    #[must_use]
    pub fn facts_of(&self, id: TenantId) -> Option<&TenantFacts> {
        self.observed.tenant(id).map(|facts| &**facts)
    }

    /// The token by which a cluster's agent is let in, used or not.
    #[must_use]
    pub fn token_of(&self, id: ClusterId) -> Option<&JoinToken> {
        self.tokens.get(id)
    }

    /// What a cluster is made of, once its agent has told.
    #[must_use]
    pub fn info_of(&self, id: ClusterId) -> Option<&ClusterInfo> {
        self.observed.cluster(id).map(|info| &**info)
    }

    /// Details of a cluster, once its agent has told.
    #[must_use]
    pub fn details_of(&self, id: ClusterId) -> Option<&KnownDetails> {
        self.observed.details().get(&id).map(|known| &**known)
    }

    /// Whether, and until when, an operator has agreed to a tenant's removal beyond the limit, as it is bound now.
    #[must_use]
    pub fn agreement_to(&self, tenant: &Tenant) -> Option<Agreement> {
        let binding = tenant.phase.binding()?;
        self.agreements.get(tenant.id).filter(|agreement| agreement.epoch == binding.epoch && agreement.until > self.time)
    }

    /// Tenants of a cluster whose removal an operator has agreed to, by uid.
    pub fn agreed(&self, cluster: ClusterId) -> impl Iterator<Item = (Tenant, Agreement)> {
        let tenants = self.agreements.iter().filter_map(|(id, _)| self.tenant_by_id(id));
        let here = tenants.filter(move |tenant| tenant.phase.binding().is_some_and(|binding| binding.cluster == cluster));
        here.filter_map(|tenant| self.agreement_to(&tenant).map(|agreement| (tenant, agreement)))
    }

    /// Tenants of a cluster whose removal waits for an operator, in the order in which its agent removes: by shard, then by uid.
    #[must_use]
    pub fn held_back(&self, cluster: ClusterId) -> Vec<Tenant> {
        let is_held_back = |facts: &TenantFacts| facts.trouble.as_ref().is_some_and(|trouble| trouble.kind == TroubleKind::HeldBack);
        let told = self.tenants.of_cluster(cluster).filter(|id| self.facts_of(*id).is_some_and(is_held_back));
        let waits = |tenant: &Tenant| intent::role(tenant) == Some(Role::Absent) && self.agreement_to(tenant).is_none();
        let mut waiting: Vec<Tenant> = told.filter_map(|id| self.tenant_by_id(id)).filter(waits).collect();
        waiting.sort_by_key(|tenant| (tenant.phase.binding().map(|binding| binding.shard), tenant.id));
        waiting
    }

    /// Oldest first, and whether older ones were dropped.
    #[must_use]
    pub fn events_of(&self, id: TenantId) -> (Vec<TenantEvent>, bool) {
        let Some((events, dropped)) = self.tenants.get(id).and_then(|packed| packed.history().read()) else {
            return (Vec::new(), false);
        };
        let named = |event: KeptEvent| {
            let principal = self.principals.name(event.principal)?.clone();
            Some(TenantEvent { time: event.time, revision: event.revision, principal, kind: event.kind })
        };
        (events.into_iter().filter_map(named).collect(), dropped)
    }

    /// What a request is answered without being executed: its first answer, or why its id is refused. `None` for one that is new.
    #[must_use]
    pub fn answered(&self, principal: &Principal, retry: &Retry) -> Option<Outcome> {
        let window = self.policy.spec.request_window;
        match self.requests.check(retry, self.principals.number(principal), self.time, window) {
            Verdict::New => None,
            verdict => Some(verdict.outcome(window)),
        }
    }

    /// The same on every replica at the same index.
    #[must_use]
    pub fn digest(&self) -> u64 {
        let scalars = [
            u64::from(self.revision.incarnation.0),
            self.revision.index,
            self.time.0,
            u64::from(self.level.0),
            self.next_tenant,
            u64::from(self.next_cluster),
            self.requests.floor_ms(),
        ];
        let policy = digest::of(Tag::Policy, &*self.policy);
        digest::of_words(Tag::Scalars, &scalars)
            .wrapping_add(self.digest)
            .wrapping_add(self.tenants.digest())
            .wrapping_add(self.requests.digest())
            .wrapping_add(self.principals.digest())
            .wrapping_add(self.observed.digest())
            .wrapping_add(self.tokens.digest())
            .wrapping_add(self.agreements.digest())
            .wrapping_add(policy)
    }
}

impl Residents for State {
    fn where_is(&self, tenant: &Name, found: &mut dyn FnMut(ClusterId, ShardId)) {
        if let Some((Share::Full, binding)) = self.tenant(tenant.as_str()).and_then(|tenant| counted(&tenant.phase)) {
            found(binding.cluster, binding.shard);
        }
    }
}

/// Restoring.
impl State {
    /// Moves a restored backup to where the log of its new group is: the next entry to be applied may be any above `index`. Only for a state
    /// whose next entry begins a new incarnation, which is what orders it after everything that the backup holds.
    pub fn rebase(&mut self, index: u64) {
        self.revision.index = index;
    }

    /// Takes over the clusters of the state whose place a backup takes that the backup does not know, each with its pool: tenants may have been
    /// placed in them since, so that they are waited for like the others.
    pub fn keep_clusters_of(&mut self, before: &Self) {
        self.next_cluster = self.next_cluster.max(before.next_cluster);
        for cluster in before.clusters.values() {
            let spec = &cluster.spec;
            let same_uid = |known: &Arc<Cluster>| !spec.uid.is_empty() && known.spec.uid == spec.uid;
            if self.cluster_ids.contains_key(&spec.name) || self.clusters.values().any(same_uid) {
                continue;
            }
            if let (None, Some(pool)) = (self.pools.get(&spec.pool), before.pools.get(&spec.pool)) {
                self.put_pool(pool.clone());
            }
            let id = ClusterId(self.next_cluster);
            self.next_cluster += 1;
            self.set_generation(id, self.revision);
            self.put_cluster(Arc::new(Cluster { id, ..Cluster::clone(cluster) }));
        }
    }
}

#[cfg(feature = "sabotage")]
impl State {
    /// Planted fault: forgets which requests were answered.
    pub fn forget_requests(&mut self) {
        self.requests = Requests::default();
    }
}

/// Changing: each keeps everything derived in step.
impl State {
    pub(crate) fn ledger_mut(&mut self) -> &mut Ledger {
        Arc::make_mut(&mut self.ledger)
    }

    /// Adds a tenant, or replaces `before`, which is how it is kept now: indexes, ledger, use of its class, generation of its cluster.
    pub(crate) fn put_tenant(&mut self, before: Option<&Tenant>, tenant: &Arc<Tenant>, history: &History) {
        self.tenants.put(before, tenant, history);
        self.recount(before, Some(tenant));
    }

    /// Replaces what was told about a tenant; the intent of its cluster knows its volumes.
    pub(crate) fn put_facts(&mut self, cluster: ClusterId, id: TenantId, facts: TenantFacts) {
        let known = self.facts_of(id).map_or(&[][..], |before| &before.volumes) == facts.volumes;
        self.observed.put_tenant(id, facts);
        if !known {
            self.touch_generation(cluster);
        }
    }

    /// Removes a tenant for good.
    pub(crate) fn remove_tenant(&mut self, id: TenantId) -> Option<Tenant> {
        let before = self.tenants.remove(id)?;
        self.observed.forget_tenant(id);
        self.agreements.forget(id);
        self.recount(Some(&before), None);
        Some(before)
    }

    fn recount(&mut self, before: Option<&Tenant>, after: Option<&Tenant>) {
        let ledger = Arc::make_mut(&mut self.ledger);
        recount(ledger, before, after);
        let same_class = match (before, after) {
            (Some(before), Some(after)) => before.spec.class == after.spec.class && before.spec.version == after.spec.version,
            _ => false,
        };
        if !same_class {
            if let Some(Tenant { spec, .. }) = before {
                self.use_class(&spec.class, &spec.version, |tenants| *tenants = tenants.saturating_sub(1));
            }
            if let Some(Tenant { spec, .. }) = after {
                self.use_class(&spec.class, &spec.version, |tenants| *tenants += 1);
            }
        }
        for tenant in [before, after].into_iter().flatten() {
            if let Some(binding) = tenant.phase.binding() {
                self.touch_generation(binding.cluster);
            }
        }
    }

    fn use_class(&mut self, name: &Name, version: &str, change: impl FnOnce(&mut u32)) {
        if let Some(kept) = self.classes.get_mut(name).and_then(|versions| versions.get_mut(version)) {
            change(&mut kept.tenants);
        }
    }

    /// The cluster's intent changes with this entry.
    pub(crate) fn touch_generation(&mut self, cluster: ClusterId) {
        let revision = self.revision;
        if self.generations.get(&cluster) != Some(&revision) {
            self.set_generation(cluster, revision);
        }
    }

    pub(crate) fn set_generation(&mut self, cluster: ClusterId, revision: Revision) {
        self.digest = self.digest.wrapping_add(generation_digest(cluster, revision));
        if let Some(before) = self.generations.insert(cluster, revision) {
            self.digest = self.digest.wrapping_sub(generation_digest(cluster, before));
        }
    }

    /// Adds or replaces a cluster; its name does not change.
    pub(crate) fn put_cluster(&mut self, cluster: Arc<Cluster>) {
        let pool = self.pools.get(&cluster.spec.pool).cloned();
        self.ledger_mut().put_cluster(&cluster, pool.as_deref());
        self.digest = self.digest.wrapping_add(cluster_digest(&cluster));
        self.fenced += u32::from(cluster.fenced);
        self.cluster_ids.insert(cluster.spec.name.clone(), cluster.id);
        if let Some(before) = self.clusters.insert(cluster.id, cluster) {
            self.digest = self.digest.wrapping_sub(cluster_digest(&before));
            self.fenced -= u32::from(before.fenced);
        }
    }

    /// Removes a cluster that nothing is counted in any more.
    pub(crate) fn remove_cluster(&mut self, id: ClusterId) -> Option<Arc<Cluster>> {
        let before = self.clusters.remove(&id)?;
        self.ledger_mut().remove_cluster(id);
        self.digest = self.digest.wrapping_sub(cluster_digest(&before));
        self.fenced -= u32::from(before.fenced);
        self.cluster_ids.remove(&before.spec.name);
        self.observed.forget_cluster(id);
        self.tokens.forget(id);
        if let Some(generation) = self.generations.remove(&id) {
            self.digest = self.digest.wrapping_sub(generation_digest(id, generation));
        }
        Some(before)
    }

    /// Adds or replaces a pool and tells the ledger of its clusters.
    pub(crate) fn put_pool(&mut self, pool: Arc<Pool>) {
        let name = pool.spec.name.clone();
        self.digest = self.digest.wrapping_add(digest::of(Tag::Pool, &*pool));
        if let Some(before) = self.pools.insert(name.clone(), pool.clone()) {
            self.digest = self.digest.wrapping_sub(digest::of(Tag::Pool, &*before));
        }
        let ledger = Arc::make_mut(&mut self.ledger);
        for cluster in self.clusters.values().filter(|cluster| cluster.spec.pool == name) {
            ledger.put_cluster(cluster, Some(&pool));
        }
    }

    pub(crate) fn remove_pool(&mut self, name: &Name) -> Option<Arc<Pool>> {
        let before = self.pools.remove(name)?;
        self.digest = self.digest.wrapping_sub(digest::of(Tag::Pool, &*before));
        Some(before)
    }

    /// Adds a class version that is not there yet.
    pub(crate) fn put_class(&mut self, class: Arc<ClassVersion>) {
        self.digest = self.digest.wrapping_add(digest::of(Tag::Class, &*class));
        let versions = self.classes.entry(class.name.clone()).or_default();
        versions.insert(class.version.clone(), KeptClass { class, tenants: 0 });
    }

    /// Removes a class version that nobody uses.
    pub(crate) fn remove_class(&mut self, name: &Name, version: &str) -> Option<Arc<ClassVersion>> {
        let versions = self.classes.get_mut(name)?;
        let before = versions.remove(version)?.class;
        if versions.is_empty() {
            self.classes.remove(name);
        }
        self.digest = self.digest.wrapping_sub(digest::of(Tag::Class, &*before));
        Some(before)
    }

    pub(crate) fn set_policy(&mut self, policy: Arc<Policy>) {
        self.policy = policy;
    }

    pub(crate) fn pools_by_name(&self) -> impl Iterator<Item = &Arc<Pool>> {
        self.pools.values()
    }

    pub(crate) fn classes_by_name(&self) -> impl Iterator<Item = &Arc<ClassVersion>> {
        self.classes.values().flat_map(|versions| versions.values()).map(|kept| &kept.class)
    }

    pub(crate) fn generations(&self) -> impl Iterator<Item = (ClusterId, Revision)> {
        self.generations.iter().map(|(cluster, revision)| (*cluster, *revision))
    }
}

/// Moves what a ledger counts of a tenant from how it was to how it is.
pub(crate) fn recount(ledger: &mut Ledger, before: Option<&Tenant>, after: Option<&Tenant>) {
    let of = |tenant: Option<&Tenant>| tenant.and_then(|tenant| counted(&tenant.phase));
    let (was, is) = (of(before), of(after));
    if let (Some(before), Some(after)) = (before, after) {
        let same_place = match (was, is) {
            (None, None) => true,
            (Some((share, a)), Some((other, b))) => share == other && a.cluster == b.cluster && a.shard == b.shard,
            (None, Some(_)) | (Some(_), None) => false,
        };
        let (a, b) = (&before.spec, &after.spec);
        if same_place && a.requests == b.requests && a.owner == b.owner && a.constraints == b.constraints {
            return;
        }
    }
    if let (Some(tenant), Some((share, binding))) = (before, was) {
        ledger.give(&tenant.spec, share, binding.cluster, binding.shard);
    }
    if let (Some(tenant), Some((share, binding))) = (after, is) {
        ledger.take(&tenant.spec, share, binding.cluster, binding.shard);
    }
}

/// Of a cluster, with what may be added to it where anything may.
fn cluster_digest(cluster: &Cluster) -> u64 {
    let growth = if cluster.growth.is_nothing() { 0 } else { digest::of(Tag::ClusterGrowth, &(cluster.id, &cluster.growth)) };
    digest::of(Tag::Cluster, cluster).wrapping_add(growth)
}

fn generation_digest(cluster: ClusterId, revision: Revision) -> u64 {
    digest::of_words(Tag::Generation, &[u64::from(cluster.0), u64::from(revision.incarnation.0), revision.index])
}
