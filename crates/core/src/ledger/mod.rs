//! The ledger: every cluster's limits and all that is counted against them, in dense arrays.
//!
//! Counting is additive: [`Ledger::take`] and [`Ledger::give`] are exact inverses, in any order. The applied state has one
//! ledger; the leader has a second one that also counts its proposals in flight. It knows no tenant records.
//!
//! A clone shares everything and copies what either side changes afterwards: dense arrays as a whole (tens of microseconds
//! for 1,000 clusters), maps by path.

mod columns;
mod company;
mod counts;
mod fit;
mod hash;
mod layout;
mod places;
mod residents;
mod site;

use std::sync::Arc;

use imbl::GenericHashMap;
use imbl::shared_ptr::DefaultSharedPtr;

use crate::cluster::{Cluster, ClusterState};
use crate::constraint::{Company, CompanyTerm};
use crate::id::{ClusterId, Name, Owner, Revision, ShardId};
use crate::pool::Pool;
use crate::resources::{PodSize, RESOURCE_COUNT, Resource, Resources};
use crate::tenant::TenantSpec;

use self::company::Seekers;
use self::counts::{Counts, Row, ShardLimits};
use self::places::Places;

pub(crate) use self::columns::{BLOCK, Block, COLUMN_COUNT, Closed, SHARE_STEP_PPM, is_vague, steps_of_key, wanted_steps};
pub(crate) use self::company::Neighbours;
pub(crate) use self::hash::{BuildFold, FoldHasher};
pub(crate) use self::layout::Layout;
pub use self::residents::{Arrivals, Beside, Residents};
pub(crate) use self::site::{PoolRank, Site, taint_text};

/// How much of a tenant is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Share {
    /// Everything: it is resident, on its way in, or on its way out and not yet stopped.
    Full,
    /// Its storage only: stopped, its volumes are kept.
    StorageOnly,
}

impl Share {
    fn of(self, total: Resources) -> [u64; RESOURCE_COUNT] {
        match self {
            Self::Full => total.to_array(),
            Self::StorageOnly => Resources { storage: total.storage, ..Resources::default() }.to_array(),
        }
    }
}

/// A hard limit that would be crossed, or a constraint that does not hold: what one cluster answers to one tenant.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Refusal {
    /// Not `Active`.
    State(ClusterState),
    /// Waits for its agent's report since a restore.
    Fenced,
    /// The cluster's tenant cap.
    TenantCap {
        /// The cap.
        limit: u32,
    },
    /// Every shard is full and no more may be opened.
    Shards {
        /// How many shards there may be.
        limit: u32,
    },
    /// The shard that was asked for is full, or past those that there may be.
    Shard {
        /// Which.
        shard: ShardId,
        /// Tenants that it may hold.
        limit: u32,
    },
    /// A resource.
    Resource {
        /// Which.
        resource: Resource,
        /// What the tenant asks for.
        wanted: u64,
        /// What is left of the limit.
        free: u64,
        /// What may be promised.
        limit: u64,
    },
    /// No node is large enough for the largest pod, even if it were empty.
    LargestPod {
        /// The pod.
        wanted: PodSize,
        /// The node that comes closest.
        largest: PodSize,
    },
    /// One of the constraints that are written in the spec; the text names it.
    Constraint {
        /// Which kind: `region`, `taint`, `apart` and so on.
        which: &'static str,
        /// What was wanted and what is.
        detail: String,
    },
}

/// What is counted of a tenant.
#[derive(Clone, Copy)]
pub(crate) struct Claim<'a> {
    pub(crate) name: &'a Name,
    pub(crate) owner: &'a Owner,
    pub(crate) total: Resources,
    pub(crate) company: &'a [CompanyTerm],
}

impl<'a> From<&'a TenantSpec> for Claim<'a> {
    fn from(spec: &'a TenantSpec) -> Self {
        Self { name: &spec.name, owner: &spec.owner, total: spec.requests.total, company: &spec.constraints.company }
    }
}

type Map<K, V> = GenericHashMap<K, V, hash::BuildFold, DefaultSharedPtr>;

/// What one owner holds, and where.
#[derive(Clone, Debug, Default)]
struct OwnerUse {
    /// Takes that have not been given back, of either share.
    takes: u32,
    tenants: u32,
    resources: [u128; RESOURCE_COUNT],
    places: Places,
    /// Company terms of those that count in full that mean this owner.
    seekers: Seekers,
}

impl OwnerUse {
    fn is_nothing(&self) -> bool {
        self.takes == 0 && self.seekers.is_empty()
    }
}

/// Limits and use of every cluster, shard, owner and company domain.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    /// Facts by cluster number.
    sites: Arc<Vec<Option<Arc<Site>>>>,
    /// Sums by cluster number.
    counts: Arc<Counts>,
    /// What the scan reads of both, always in step with them, and where it lies.
    columns: Arc<Vec<Block>>,
    layout: Arc<Layout>,
    owners: Map<Owner, OwnerUse>,
    /// Company terms of those that count in full, by the tenant that they mean.
    tenant_seekers: Map<Name, Seekers>,
    /// Wrapping sum of a hash of everything taken and not given.
    counted: u64,
    room_version: u64,
    clusters: u32,
}

impl Ledger {
    /// Takes over a cluster's spec, capacity and state (created or changed), or those of its pool. What is counted stays.
    pub fn put_cluster(&mut self, cluster: &Cluster, pool: Option<&Pool>) {
        let sites = Arc::make_mut(&mut self.sites);
        if sites.len() <= cluster.id.row() {
            sites.resize(cluster.id.row() + 1, None);
        }
        let site = Site::new(cluster, pool);
        Arc::make_mut(&mut self.counts).relimit(cluster.id, ShardLimits::of(&site.spec));
        let pool = site.pool.clone();
        let before = sites[cluster.id.row()].replace(Arc::new(site));
        self.clusters += u32::from(before.is_none());
        if before.is_none_or(|before| before.pool != pool) {
            self.move_to(cluster.id, Some(&pool));
        }
        self.refresh(cluster.id);
        self.room_version += 1;
    }

    /// Forgets a cluster; nothing may be counted in it any more.
    pub fn remove_cluster(&mut self, id: ClusterId) {
        if let Some(site) = Arc::make_mut(&mut self.sites).get_mut(id.row()) {
            self.clusters -= u32::from(site.is_some());
            *site = None;
        }
        Arc::make_mut(&mut self.counts).relimit(id, ShardLimits::default());
        self.move_to(id, None);
        self.room_version += 1;
    }

    /// Counts a tenant. Always possible, over every limit too: facts are accepted.
    pub fn take(&mut self, spec: &TenantSpec, share: Share, cluster: ClusterId, shard: ShardId) {
        self.take_unscanned(spec.into(), share, cluster, shard);
        self.refresh(cluster);
    }

    /// The same for one of many: what the scan reads is out of step until [`Self::rescan`].
    pub(crate) fn take_unscanned(&mut self, claim: Claim<'_>, share: Share, cluster: ClusterId, shard: ShardId) {
        let amounts = share.of(claim.total);
        let limits = self.shard_limits(cluster);
        let counts = Arc::make_mut(&mut self.counts);
        add(&mut counts.row_mut(cluster).used, amounts);
        if share == Share::Full {
            counts.enter(cluster, shard, limits);
        }
        with_owner(&mut self.owners, claim.owner, |owner| {
            add(&mut owner.resources, amounts);
            owner.takes += 1;
            if share == Share::Full {
                owner.tenants += 1;
                owner.places.add(cluster, shard);
            }
        });
        if share == Share::Full {
            for term in claim.company {
                let add = |seekers: &mut Seekers| seekers.add((term.kind, &term.topology), cluster, shard);
                match &term.company {
                    Company::Tenant(name) => add(self.tenant_seekers.entry(name.clone()).or_default()),
                    Company::Owner(owner) => with_owner(&mut self.owners, owner, |owner| add(&mut owner.seekers)),
                }
            }
        }
        self.counted = self.counted.wrapping_add(fingerprint(claim, share, cluster, shard));
    }

    /// Brings what the scan reads into step.
    pub(crate) fn rescan(&mut self) {
        (0..self.sites.len() as u32).for_each(|row| self.refresh(ClusterId(row)));
    }

    /// Uncounts a tenant: the exact inverse of `take`.
    ///
    /// # Panics
    /// If it was not counted like this: the sums would be wrong from here on.
    pub fn give(&mut self, spec: &TenantSpec, share: Share, cluster: ClusterId, shard: ShardId) {
        const COUNTED: &str = "what is given back was taken before";
        let amounts = share.of(spec.requests.total);
        let limits = self.shard_limits(cluster);
        let counts = Arc::make_mut(&mut self.counts);
        subtract(&mut counts.row_mut(cluster).used, amounts);
        let owner = self.owners.get_mut(&spec.owner).expect(COUNTED);
        subtract(&mut owner.resources, amounts);
        owner.takes = owner.takes.checked_sub(1).expect(COUNTED);
        if share == Share::Full {
            counts.leave(cluster, shard, limits);
            owner.tenants = owner.tenants.checked_sub(1).expect(COUNTED);
            owner.places.remove(cluster, shard);
        }
        if owner.is_nothing() {
            self.owners.remove(&spec.owner);
        }
        if share == Share::Full {
            for term in &spec.constraints.company {
                let key = (term.kind, &term.topology);
                match &term.company {
                    Company::Tenant(name) => {
                        let seekers = self.tenant_seekers.get_mut(name).expect(COUNTED);
                        seekers.remove(key, cluster, shard);
                        if seekers.is_empty() {
                            self.tenant_seekers.remove(name);
                        }
                    }
                    Company::Owner(owner) => {
                        let sought = self.owners.get_mut(owner).expect(COUNTED);
                        sought.seekers.remove(key, cluster, shard);
                        if sought.is_nothing() {
                            self.owners.remove(owner);
                        }
                    }
                }
            }
        }
        self.refresh(cluster);
        self.counted = self.counted.wrapping_sub(fingerprint(spec.into(), share, cluster, shard));
        self.room_version += 1;
    }

    /// Checks every hard limit (caps, shard, resources, largest pod, state) and every constraint for one place.
    ///
    /// The tenant itself must not be counted: give it back first to ask about the place where it is.
    ///
    /// # Errors
    /// The first refusal, in a fixed order: constraints, state, company, caps, resources.
    pub fn check(&self, residents: &dyn Residents, spec: &TenantSpec, cluster: ClusterId, shard: ShardId) -> Result<(), Refusal> {
        let Some(site) = self.site(cluster) else { return Err(unknown()) };
        let neighbours = Neighbours::of(self, residents, spec);
        let mut refusals = Vec::new();
        self.cluster_refusals(&neighbours, spec, cluster, site, &mut refusals);
        if refusals.is_empty() {
            neighbours.shard_refusals(site, cluster, shard, &mut refusals);
        }
        match refusals.into_iter().next() {
            Some(refusal) => Err(refusal),
            None => self.check_shard(site, cluster, shard),
        }
    }

    /// Checks hard limits only, without `spec`'s constraints and the cluster's state: for growth in place.
    ///
    /// It asks whether `share` of the tenant may be taken in addition to what is counted: give back what it holds first.
    ///
    /// # Errors
    /// The first refusal.
    pub fn check_limits(&self, spec: &TenantSpec, share: Share, cluster: ClusterId, shard: ShardId) -> Result<(), Refusal> {
        let Some(site) = self.site(cluster) else { return Err(unknown()) };
        let mut refusals = Vec::new();
        if share == Share::Full {
            let pod = spec.requests.largest_pod;
            if !site.takes_pod(pod) {
                return Err(Refusal::LargestPod { wanted: pod, largest: site.largest_node(pod) });
            }
            if self.tenants(cluster) >= site.spec.tenant_cap {
                return Err(Refusal::TenantCap { limit: site.spec.tenant_cap });
            }
            self.check_shard(site, cluster, shard)?;
        }
        self.resource_refusals(share.of(spec.requests.total), cluster, site, &mut refusals);
        refusals.into_iter().next().map_or(Ok(()), Err)
    }

    /// Tenants counted in a cluster.
    #[must_use]
    pub fn tenants(&self, cluster: ClusterId) -> u32 {
        self.row(cluster).tenants
    }

    /// Tenants counted in a shard.
    #[must_use]
    pub fn shard_tenants(&self, cluster: ClusterId, shard: ShardId) -> u32 {
        self.counts.shards(cluster).get(usize::from(shard.0)).copied().unwrap_or(0)
    }

    /// Resources counted in a cluster.
    #[must_use]
    pub fn used(&self, cluster: ClusterId) -> Resources {
        narrow(self.row(cluster).used)
    }

    /// What may be promised in a cluster: allocatable with overcommit, less what others use.
    #[must_use]
    pub fn limit(&self, cluster: ClusterId) -> Resources {
        self.site(cluster).map_or_else(Resources::default, |site| Resources::from_array(site.limit))
    }

    /// The greatest share of any limit that is used, in millionths; above 1,000,000 when overfull.
    #[must_use]
    pub fn dominant_share_ppm(&self, cluster: ClusterId) -> u32 {
        self.site(cluster).map_or(0, |site| columns::dominant_share_ppm(site, &self.row(cluster)))
    }

    /// Whether a hard limit of the cluster or of one of its shards is crossed.
    #[must_use]
    pub fn overfull(&self, cluster: ClusterId) -> bool {
        self.site(cluster).is_some_and(|site| columns::is_overfull(site, &self.row(cluster)))
    }

    /// What the cluster is at the moment. An operator's word comes before silence, silence before `Overfull`.
    #[must_use]
    pub fn cluster_state(&self, cluster: ClusterId) -> Option<ClusterState> {
        Some(match self.site(cluster)?.state() {
            ClusterState::Active if self.overfull(cluster) => ClusterState::Overfull,
            state => state,
        })
    }

    /// What an owner holds: tenants that count in full, and resources.
    #[must_use]
    pub fn owner_use(&self, owner: &Owner) -> (u32, Resources) {
        self.owners.get(owner).map_or_else(Default::default, |owner| (owner.tenants, narrow(owner.resources)))
    }

    /// `changed` of a cluster's spec, as `put_cluster` last saw it.
    #[must_use]
    pub fn cluster_changed(&self, cluster: ClusterId) -> Revision {
        self.site(cluster).map_or_else(Revision::default, |site| site.changed)
    }

    /// Grows by something that makes a waiting tenant worth another try: room given back, or a cluster's facts changed.
    #[must_use]
    pub fn room_version(&self) -> u64 {
        self.room_version
    }

    /// A digest over everything counted, independent of the order of takes and gives.
    #[must_use]
    pub fn digest(&self) -> u64 {
        let mut digest = self.counted;
        for (cluster, row) in self.counts.rows().filter(|(_, row)| row.tenants > 0 || row.used != [0; RESOURCE_COUNT]) {
            digest = hash::mix(digest, u64::from(cluster.0) << 32 | u64::from(row.tenants));
            for used in row.used {
                digest = hash::mix(digest, used as u64);
            }
        }
        digest
    }

    /// Every refusal of a cluster that does not depend on the shard, in the fixed order.
    pub(crate) fn cluster_refusals(
        &self,
        neighbours: &Neighbours<'_>,
        spec: &TenantSpec,
        cluster: ClusterId,
        site: &Site,
        refusals: &mut Vec<Refusal>,
    ) {
        site.refusals(spec, refusals);
        self.later_refusals(neighbours, spec, cluster, site, refusals);
    }

    /// The refusals that come after those of the cluster's own facts.
    pub(crate) fn later_refusals(
        &self,
        neighbours: &Neighbours<'_>,
        spec: &TenantSpec,
        cluster: ClusterId,
        site: &Site,
        refusals: &mut Vec<Refusal>,
    ) {
        if site.fenced {
            refusals.push(Refusal::Fenced);
        }
        match self.cluster_state(cluster) {
            Some(ClusterState::Active) | None => {}
            Some(state) => refusals.push(Refusal::State(state)),
        }
        neighbours.cluster_refusals(site, cluster, refusals);
        let row = self.counts.row_ref(cluster);
        if row.tenants >= site.spec.tenant_cap {
            refusals.push(Refusal::TenantCap { limit: site.spec.tenant_cap });
        }
        if row.shard_room == 0 {
            refusals.push(Refusal::Shards { limit: u32::from(site.spec.max_shards) });
        }
        self.resource_refusals(spec.requests.total.to_array(), cluster, site, refusals);
    }

    fn resource_refusals(&self, wanted: [u64; RESOURCE_COUNT], cluster: ClusterId, site: &Site, refusals: &mut Vec<Refusal>) {
        let row = self.counts.row_ref(cluster);
        for resource in Resource::ALL {
            let (wanted, limit) = (wanted[resource as usize], site.limit[resource as usize]);
            let free = free(row.used[resource as usize], limit);
            if wanted > free {
                refusals.push(Refusal::Resource { resource, wanted, free, limit });
            }
        }
    }

    fn check_shard(&self, site: &Site, cluster: ClusterId, shard: ShardId) -> Result<(), Refusal> {
        if shard.0 >= site.spec.max_shards || self.shard_tenants(cluster, shard) >= site.spec.shard_cap {
            return Err(Refusal::Shard { shard, limit: site.spec.shard_cap });
        }
        Ok(())
    }

    /// How many clusters there are.
    pub(crate) fn cluster_count(&self) -> u32 {
        self.clusters
    }

    /// A cluster's facts.
    pub(crate) fn site(&self, cluster: ClusterId) -> Option<&Site> {
        self.sites.get(cluster.row())?.as_deref()
    }

    /// All clusters' facts, by number.
    pub(crate) fn sites(&self) -> impl Iterator<Item = (ClusterId, &Site)> {
        (0..).map(ClusterId).zip(self.sites.iter()).filter_map(|(id, site)| Some((id, site.as_deref()?)))
    }

    /// Tenants of each shard of a cluster; shards beyond the end are empty.
    pub(crate) fn shards(&self, cluster: ClusterId) -> &[u32] {
        self.counts.shards(cluster)
    }

    /// Where the tenants of an owner are.
    pub(crate) fn owner_places(&self, owner: &Owner) -> Option<&Places> {
        self.owners.get(owner).map(|owner| &owner.places).filter(|places| !places.is_empty())
    }

    /// The residents' terms that mean this tenant by name.
    pub(crate) fn seekers_of_tenant(&self, name: &Name) -> Option<&Seekers> {
        // Most fleets have few such terms; an empty map is not worth a hash.
        if self.tenant_seekers.is_empty() { None } else { self.tenant_seekers.get(name) }
    }

    /// How many of some tenants are in a cluster, by where they are.
    pub(crate) fn in_cluster(&self, places: &Places, cluster: ClusterId) -> u32 {
        places.in_cluster(cluster, self.shards(cluster).len())
    }

    /// The residents' terms that mean this owner, and where its own tenants are.
    pub(crate) fn seekers_of_owner(&self, owner: &Owner) -> Option<(&Seekers, Option<&Places>)> {
        let found = self.owners.get(owner)?;
        Some((&found.seekers, Some(&found.places).filter(|places| !places.is_empty())))
    }

    /// All clusters' facts as one shared table: equal pointers are equal facts.
    pub(crate) fn site_table(&self) -> &Arc<Vec<Option<Arc<Site>>>> {
        &self.sites
    }

    /// The numbers as the scan reads them.
    pub(crate) fn blocks(&self) -> &[Block] {
        &self.columns
    }

    /// Where they lie.
    pub(crate) fn layout(&self) -> &Arc<Layout> {
        &self.layout
    }

    /// Whether a cluster has room for the resources, exactly.
    pub(crate) fn has_room(&self, wanted: [u64; RESOURCE_COUNT], cluster: ClusterId, site: &Site) -> bool {
        let row = self.counts.row_ref(cluster);
        wanted.into_iter().zip(row.used).zip(site.limit).all(|((wanted, used), limit)| wanted <= free(used, limit))
    }

    /// What is left of one of a cluster's resources.
    pub(crate) fn free(&self, resource: Resource, cluster: ClusterId, site: &Site) -> u64 {
        free(self.counts.row_ref(cluster).used[resource as usize], site.limit[resource as usize])
    }

    /// Gives a cluster's columns a place among those of its pool, or none.
    fn move_to(&mut self, cluster: ClusterId, pool: Option<&PoolRank>) {
        let layout = Arc::make_mut(&mut self.layout);
        let columns = Arc::make_mut(&mut self.columns);
        if let Some(before) = layout.remove(cluster.row()) {
            columns[before.block].clear(before.lane);
        }
        if let Some(pool) = pool {
            layout.put(cluster.row(), pool);
            columns.resize(layout.rows().len(), Block::default());
        }
    }

    /// Brings one cluster's columns into step.
    fn refresh(&mut self, cluster: ClusterId) {
        if let (Some(slot), Some(Some(site))) = (self.layout.slot(cluster.row()), self.sites.get(cluster.row())) {
            Arc::make_mut(&mut self.columns)[slot.block].put(slot.lane, site, self.counts.row_ref(cluster));
        }
    }

    fn row(&self, cluster: ClusterId) -> Row {
        *self.counts.row_ref(cluster)
    }

    fn shard_limits(&self, cluster: ClusterId) -> ShardLimits {
        self.site(cluster).map_or_else(ShardLimits::default, |site| ShardLimits::of(&site.spec))
    }
}

fn add(sums: &mut [u128; RESOURCE_COUNT], amounts: [u64; RESOURCE_COUNT]) {
    for (sum, amount) in sums.iter_mut().zip(amounts) {
        *sum += u128::from(amount);
    }
}

fn subtract(sums: &mut [u128; RESOURCE_COUNT], amounts: [u64; RESOURCE_COUNT]) {
    for (sum, amount) in sums.iter_mut().zip(amounts) {
        *sum = sum.checked_sub(u128::from(amount)).expect("what is given back was taken before");
    }
}

fn narrow(sums: [u128; RESOURCE_COUNT]) -> Resources {
    Resources::from_array(sums.map(|sum| u64::try_from(sum).unwrap_or(u64::MAX)))
}

/// What is left of a limit.
fn free(used: u128, limit: u64) -> u64 {
    u64::try_from(used).map_or(0, |used| limit.saturating_sub(used))
}

/// Changes what is counted of an owner; nothing is if it is new.
fn with_owner(owners: &mut Map<Owner, OwnerUse>, owner: &Owner, change: impl FnOnce(&mut OwnerUse)) {
    if let Some(known) = owners.get_mut(owner) {
        return change(known);
    }
    let mut new = OwnerUse::default();
    change(&mut new);
    owners.insert(owner.clone(), new);
}

/// Quantities below this many units go through 64 bits when they are multiplied by a thousand: 16 PiB.
const NARROW: u64 = 1 << 54;

/// `used` in millionths of `limit`, rounded down.
fn share_ppm(used: u128, limit: u64) -> u32 {
    match (used, limit) {
        (0, _) => 0,
        (_, 0) => u32::MAX,
        // In two steps of a thousand, the second with the rest of the first, so that nothing is lost: much faster than 128 bits.
        (used, limit) if used < u128::from(NARROW) && limit < NARROW => {
            let thousandfold = used as u64 * 1000;
            let (whole, rest) = (thousandfold / limit, thousandfold % limit);
            u32::try_from(whole.saturating_mul(1000).saturating_add(rest * 1000 / limit)).unwrap_or(u32::MAX)
        }
        (used, limit) => u32::try_from(used.saturating_mul(1_000_000) / u128::from(limit)).unwrap_or(u32::MAX),
    }
}

fn unknown() -> Refusal {
    Refusal::Constraint { which: "cluster", detail: "there is no such cluster".to_owned() }
}

fn fingerprint(claim: Claim<'_>, share: Share, cluster: ClusterId, shard: ShardId) -> u64 {
    let place = u64::from(cluster.0) << 32 | u64::from(shard.0) << 8 | u64::from(share == Share::Full);
    let who = hash::mix(hash::of_name(claim.name), hash::of_owner(claim.owner));
    share.of(claim.total).into_iter().fold(hash::mix(who, place), hash::mix)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn shares_are_exact(used in any::<u64>(), limit in any::<u64>(), narrower in (0_u32..64, 0_u32..64)) {
            let (used, limit) = (used >> narrower.0, limit >> narrower.1);
            let exact = match (used, limit) {
                (0, _) => 0,
                (_, 0) => u128::from(u32::MAX),
                (used, limit) => u128::from(used) * 1_000_000 / u128::from(limit),
            };
            prop_assert_eq!(u128::from(share_ppm(u128::from(used), limit)), exact.min(u128::from(u32::MAX)));
        }
    }
}
