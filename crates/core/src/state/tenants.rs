//! All tenants and the indexes over them: by number, name, cluster, owner; who waits; what expires.
//!
//! Everything but `by_id` is derived from it. It knows nothing of the ledger, of classes and of commands.

use std::cmp::Reverse;
use std::sync::Arc;

use imbl::{OrdMap, OrdSet};

use crate::digest::{self, Tag};
use crate::history::History;
use crate::id::{ClusterId, Name, Owner, TenantId};
use crate::tenant::{Phase, Tenant};
use crate::time::Timestamp;

/// A tenant and what happened to it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Kept {
    pub(crate) tenant: Arc<Tenant>,
    pub(crate) history: History,
}

impl Kept {
    fn digest(&self) -> u64 {
        let mut bytes = Vec::with_capacity(512);
        crate::codec::write(&*self.tenant, &mut bytes);
        bytes.extend_from_slice(self.history.as_bytes());
        digest::of_bytes(Tag::Tenant, &bytes)
    }
}

/// The order in which waiting tenants are tried: greater priority first, then arrival. (Their owners' shares move with every
/// placement; the leader weighs them when it tries.)
pub(crate) type PendingKey = (Reverse<i32>, Timestamp, TenantId);

/// A number for an owner, local to this replica: it only makes the index small.
type OwnerNumber = u64;

/// What is counted of an owner beside the ledger.
#[derive(Clone, Debug, PartialEq)]
struct OwnerEntry {
    number: OwnerNumber,
    tenants: u32,
    pending: u32,
}

/// The tenants.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tenants {
    by_id: OrdMap<TenantId, Kept>,
    by_name: OrdMap<Name, TenantId>,
    by_cluster: OrdSet<(ClusterId, TenantId)>,
    by_owner: OrdSet<(OwnerNumber, TenantId)>,
    owners: OrdMap<Owner, OwnerEntry>,
    next_owner: OwnerNumber,
    pending: OrdSet<PendingKey>,
    expiries: OrdSet<(Timestamp, TenantId)>,
    digest: u64,
}

pub(crate) fn pending_key(tenant: &Tenant) -> Option<PendingKey> {
    match tenant.phase {
        Phase::Pending { since } => Some((Reverse(tenant.spec.priority), since, tenant.id)),
        Phase::Bound { .. } | Phase::Releasing { .. } | Phase::Retained { .. } => None,
    }
}

fn expiry(tenant: &Tenant) -> Option<Timestamp> {
    match tenant.phase {
        Phase::Pending { .. } => tenant.spec.deadline,
        Phase::Retained { until, .. } => Some(until),
        Phase::Bound { .. } | Phase::Releasing { .. } => None,
    }
}

fn cluster_of(tenant: &Tenant) -> Option<ClusterId> {
    tenant.phase.binding().map(|binding| binding.cluster)
}

impl Tenants {
    pub(crate) fn len(&self) -> usize {
        self.by_id.len()
    }

    pub(crate) fn get(&self, id: TenantId) -> Option<&Kept> {
        self.by_id.get(&id)
    }

    pub(crate) fn id_of(&self, name: &str) -> Option<TenantId> {
        self.by_name.get(name).copied()
    }

    pub(crate) fn by_name(&self, name: &str) -> Option<&Arc<Tenant>> {
        self.get(self.id_of(name)?).map(|kept| &kept.tenant)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Kept> {
        self.by_id.values()
    }

    /// In the order of names, those after `after`.
    pub(crate) fn names_after<'a>(&'a self, after: Option<&str>) -> impl Iterator<Item = &'a Kept> + use<'a> {
        let from = after.map_or(std::ops::Bound::Unbounded, std::ops::Bound::Excluded);
        self.by_name.range::<_, str>((from, std::ops::Bound::Unbounded)).filter_map(|(_, id)| self.by_id.get(id))
    }

    pub(crate) fn of_cluster(&self, cluster: ClusterId) -> impl Iterator<Item = &Kept> {
        let range = (cluster, TenantId(0))..=(cluster, TenantId(u64::MAX));
        self.by_cluster.range(range).filter_map(|(_, id)| self.by_id.get(id))
    }

    pub(crate) fn of_owner<'a>(&'a self, owner: &Owner) -> impl Iterator<Item = &'a Kept> + use<'a> {
        let number = self.owners.get(owner).map(|entry| entry.number);
        let range = number.map(|number| (number, TenantId(0))..=(number, TenantId(u64::MAX)));
        range.into_iter().flat_map(|range| self.by_owner.range(range)).filter_map(|(_, id)| self.by_id.get(id))
    }

    pub(crate) fn pending(&self) -> &OrdSet<PendingKey> {
        &self.pending
    }

    pub(crate) fn pending_of_owner(&self, owner: &Owner) -> u32 {
        self.owners.get(owner).map_or(0, |entry| entry.pending)
    }

    /// By time, what expires.
    pub(crate) fn expiries(&self) -> &OrdSet<(Timestamp, TenantId)> {
        &self.expiries
    }

    pub(crate) fn digest(&self) -> u64 {
        self.digest
    }

    /// Adds or replaces a tenant; gives back what was there.
    pub(crate) fn put(&mut self, kept: Kept) -> Option<Kept> {
        let tenant = kept.tenant.clone();
        self.digest = self.digest.wrapping_add(kept.digest());
        let before = self.by_id.insert(tenant.id, kept);
        match &before {
            None => self.index(&tenant),
            Some(before) => {
                self.digest = self.digest.wrapping_sub(before.digest());
                self.reindex(&before.tenant, &tenant);
            }
        }
        before
    }

    /// Removes a tenant for good.
    pub(crate) fn remove(&mut self, id: TenantId) -> Option<Kept> {
        let before = self.by_id.remove(&id)?;
        self.digest = self.digest.wrapping_sub(before.digest());
        self.unindex(&before.tenant);
        Some(before)
    }

    fn index(&mut self, tenant: &Tenant) {
        self.by_name.insert(tenant.spec.name.clone(), tenant.id);
        let number = self.enter_owner(&tenant.spec.owner, pending_key(tenant).is_some());
        self.by_owner.insert((number, tenant.id));
        self.index_phase(tenant);
    }

    fn unindex(&mut self, tenant: &Tenant) {
        self.by_name.remove(&tenant.spec.name);
        self.unindex_phase(tenant);
        let owner = &tenant.spec.owner;
        let Some(entry) = self.owners.get_mut(owner) else { return };
        entry.tenants -= 1;
        entry.pending -= u32::from(pending_key(tenant).is_some());
        let (number, left) = (entry.number, entry.tenants);
        self.by_owner.remove(&(number, tenant.id));
        if left == 0 {
            self.owners.remove(owner);
        }
    }

    /// Only what may change: a tenant's name and owner do not.
    fn reindex(&mut self, before: &Tenant, after: &Tenant) {
        if before.spec.name != after.spec.name || before.spec.owner != after.spec.owner {
            self.unindex(before);
            self.index(after);
            return;
        }
        let same = pending_key(before) == pending_key(after) && expiry(before) == expiry(after) && cluster_of(before) == cluster_of(after);
        if same {
            return;
        }
        self.unindex_phase(before);
        self.index_phase(after);
        if let Some(entry) = self.owners.get_mut(&after.spec.owner) {
            entry.pending += u32::from(pending_key(after).is_some());
            entry.pending -= u32::from(pending_key(before).is_some());
        }
    }

    fn index_phase(&mut self, tenant: &Tenant) {
        if let Some(cluster) = cluster_of(tenant) {
            self.by_cluster.insert((cluster, tenant.id));
        }
        if let Some(key) = pending_key(tenant) {
            self.pending.insert(key);
        }
        if let Some(time) = expiry(tenant) {
            self.expiries.insert((time, tenant.id));
        }
    }

    fn unindex_phase(&mut self, tenant: &Tenant) {
        if let Some(cluster) = cluster_of(tenant) {
            self.by_cluster.remove(&(cluster, tenant.id));
        }
        if let Some(key) = pending_key(tenant) {
            self.pending.remove(&key);
        }
        if let Some(time) = expiry(tenant) {
            self.expiries.remove(&(time, tenant.id));
        }
    }

    fn enter_owner(&mut self, owner: &Owner, pending: bool) -> OwnerNumber {
        if let Some(entry) = self.owners.get_mut(owner) {
            entry.tenants += 1;
            entry.pending += u32::from(pending);
            return entry.number;
        }
        let number = self.next_owner;
        self.next_owner += 1;
        self.owners.insert(owner.clone(), OwnerEntry { number, tenants: 1, pending: u32::from(pending) });
        number
    }

    /// Builds all indexes at once: each map is filled in its own order, which is several times faster than one by one.
    ///
    /// # Errors
    /// When names or numbers are not unique, or names do not ascend.
    pub(crate) fn from_sorted(kept: Vec<Kept>, digest: u64) -> Result<Self, String> {
        if let Some(pair) = kept.windows(2).find(|pair| pair[0].tenant.spec.name >= pair[1].tenant.spec.name) {
            return Err(format!("tenant {} comes twice or out of order", pair[1].tenant.spec.name));
        }
        let mut all = Self { digest, ..Self::default() };
        let (mut by_cluster, mut by_owner) = (Vec::with_capacity(kept.len()), Vec::with_capacity(kept.len()));
        for Kept { tenant, .. } in &kept {
            all.by_name.insert(tenant.spec.name.clone(), tenant.id);
            by_owner.push((all.enter_owner(&tenant.spec.owner, pending_key(tenant).is_some()), tenant.id));
            by_cluster.extend(cluster_of(tenant).map(|cluster| (cluster, tenant.id)));
            all.pending.extend(pending_key(tenant));
            all.expiries.extend(expiry(tenant).map(|time| (time, tenant.id)));
        }
        by_cluster.sort_unstable();
        by_owner.sort_unstable();
        all.by_cluster.extend(by_cluster);
        all.by_owner.extend(by_owner);
        let mut by_id = kept;
        by_id.sort_unstable_by_key(|kept| kept.tenant.id);
        let count = by_id.len();
        all.by_id.extend(by_id.into_iter().map(|kept| (kept.tenant.id, kept)));
        if all.by_id.len() == count { Ok(all) } else { Err("a tenant's number comes twice".to_owned()) }
    }

    /// Recomputes every index from `by_id` and compares.
    pub(crate) fn check(&self, problems: &mut Vec<String>) {
        let mut fresh = Self { next_owner: self.next_owner, ..Self::default() };
        for kept in self.iter() {
            fresh.put(kept.clone());
        }
        let mut same = |name: &str, same: bool| {
            if !same {
                problems.push(format!("index of tenants {name}"));
            }
        };
        same("by name", fresh.by_name == self.by_name && self.by_name.len() == self.by_id.len());
        same("by cluster", fresh.by_cluster == self.by_cluster);
        same("that wait", fresh.pending == self.pending);
        same("that expire", fresh.expiries == self.expiries);
        same("digest", fresh.digest == self.digest);
        same("by owner", fresh.by_owner.len() == self.by_owner.len() && fresh.owners.len() == self.owners.len());
        for (owner, entry) in &self.owners {
            let mine: Vec<_> = self.of_owner(owner).collect();
            let counted = mine.len() == entry.tenants as usize && mine.iter().all(|kept| kept.tenant.spec.owner == *owner);
            let pending = mine.iter().filter(|kept| pending_key(&kept.tenant).is_some()).count();
            same("of an owner", counted && pending == entry.pending as usize);
        }
    }
}
