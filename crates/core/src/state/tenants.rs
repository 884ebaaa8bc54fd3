//! All tenants and the indexes over them: by number, name, cluster, owner; who waits; what expires.
//!
//! Everything but `by_id` is derived from it. It knows nothing of the ledger, of classes and of commands.

use std::cmp::Reverse;
use std::ops::Bound;
use std::sync::Arc;

use imbl::{OrdMap, OrdSet};

use crate::history::History;
use crate::id::{ClusterId, Name, Owner, TenantId};
use crate::tenant::{Phase, Tenant};
use crate::time::Timestamp;

use super::facts::Facts;
use super::packed::Packed;
use super::sorted::Sorted;

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

/// A tenant of a snapshot on its way into the indexes.
#[derive(Debug)]
pub(crate) struct Loaded {
    named: Named,
    kept: Kept,
}

/// For the indexes by name and owner.
#[derive(Debug)]
struct Named {
    name: Name,
    owner: Owner,
    id: TenantId,
    pending: bool,
}

/// For all others.
#[derive(Debug)]
struct Kept {
    id: TenantId,
    packed: Packed,
    digest: u64,
    cluster: Option<ClusterId>,
    expiry: Option<Timestamp>,
    /// The tenant, if it waits.
    pending: Option<Arc<Tenant>>,
}

impl Loaded {
    pub(super) fn new(facts: &Facts<'_>, packed: Packed) -> Self {
        let (id, spec, phase) = (facts.id, &facts.spec, &facts.phase);
        let pending = matches!(phase, Phase::Pending { .. }).then(|| Arc::new(packed.tenant()));
        let named = Named { name: spec.name.clone(), owner: spec.owner.clone(), id, pending: pending.is_some() };
        let digest = packed.digest();
        Self { named, kept: Kept { id, packed, digest, cluster: cluster_of(phase), expiry: expiry(phase, spec.deadline), pending } }
    }

    pub(super) fn id(&self) -> TenantId {
        self.named.id
    }

    pub(super) fn name(&self) -> &Name {
        &self.named.name
    }

    pub(super) fn owner(&self) -> &Owner {
        &self.named.owner
    }
}

/// The tenants of a snapshot, in the order of their names.
#[derive(Debug, Default)]
pub(crate) struct Collected {
    named: Vec<Named>,
    kept: Vec<Kept>,
}

impl Collected {
    pub(crate) fn push(&mut self, Loaded { named, kept }: Loaded) {
        self.named.push(named);
        self.kept.push(kept);
    }

    /// Builds all indexes: each map is filled in its own order, which is several times faster than one by one. `both` runs two jobs.
    ///
    /// # Errors
    /// When names or numbers are not unique, or names do not ascend.
    pub(crate) fn finish(self, both: impl FnOnce(Job<'_>, Job<'_>)) -> Result<Tenants, String> {
        let (mut named, mut all, mut kept) = (Ok(Tenants::default()), Tenants::default(), Ok(()));
        both(Box::new(|| named = index_names(self.named)), Box::new(|| kept = all.keep_all(self.kept)));
        kept?;
        let Tenants { by_name, by_owner, owners, next_owner, .. } = named?;
        Ok(Tenants { by_name, by_owner, owners, next_owner, ..all })
    }
}

/// An index of tenants' numbers.
fn build<K: Ord + Clone, V: Clone>(mut entries: Vec<(K, V)>) -> Result<Sorted<K, V>, String> {
    entries.sort_unstable_by(|one, other| one.0.cmp(&other.0));
    Sorted::build(entries).map_err(|_| "a tenant's number comes twice".to_owned())
}

/// Those of one group, in ascending order.
fn ids_of<G: Ord + Copy>(index: &Sorted<(G, TenantId), ()>, group: G) -> impl Iterator<Item = TenantId> + use<'_, G> {
    let from = index.from(Bound::Included(&(group, TenantId(0))));
    from.take_while(move |((of, _), ())| *of == group).map(|((_, id), ())| *id)
}

/// Something to be done, on whatever thread.
pub type Job<'a> = Box<dyn FnOnce() + Send + 'a>;

/// The indexes by name and owner, and no other.
fn index_names(named: Vec<Named>) -> Result<Tenants, String> {
    let mut all = Tenants::default();
    let by_owner = named.iter().map(|named| ((all.enter_owner(&named.owner, named.pending), named.id), ())).collect();
    all.by_owner = build(by_owner)?;
    let by_name = named.into_iter().map(|named| (named.name, named.id)).collect();
    all.by_name = Sorted::build(by_name).map_err(|name| format!("tenant {name} comes twice or out of order"))?;
    Ok(all)
}

/// The tenants.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tenants {
    by_id: Sorted<TenantId, Packed>,
    by_name: Sorted<Name, TenantId>,
    by_cluster: Sorted<(ClusterId, TenantId), ()>,
    by_owner: Sorted<(OwnerNumber, TenantId), ()>,
    owners: OrdMap<Owner, OwnerEntry>,
    next_owner: OwnerNumber,
    /// Unpacked: they are looked at again and again.
    pending: OrdMap<PendingKey, Arc<Tenant>>,
    expiries: OrdSet<(Timestamp, TenantId)>,
    digest: u64,
}

pub(crate) fn pending_key(tenant: &Tenant) -> Option<PendingKey> {
    match tenant.phase {
        Phase::Pending { since } => Some((Reverse(tenant.spec.priority), since, tenant.id)),
        Phase::Bound { .. } | Phase::Releasing { .. } | Phase::Retained { .. } | Phase::Purging { .. } => None,
    }
}

fn expiry(phase: &Phase, deadline: Option<Timestamp>) -> Option<Timestamp> {
    match *phase {
        Phase::Pending { .. } => deadline,
        Phase::Retained { until, .. } => Some(until),
        Phase::Bound { .. } | Phase::Releasing { .. } | Phase::Purging { .. } => None,
    }
}

fn expiry_of(tenant: &Tenant) -> Option<Timestamp> {
    expiry(&tenant.phase, tenant.spec.deadline)
}

fn cluster_of(phase: &Phase) -> Option<ClusterId> {
    phase.binding().map(|binding| binding.cluster)
}

impl Tenants {
    pub(crate) fn len(&self) -> usize {
        self.by_id.len()
    }

    pub(crate) fn get(&self, id: TenantId) -> Option<&Packed> {
        self.by_id.get(&id)
    }

    pub(crate) fn tenant(&self, id: TenantId) -> Option<Tenant> {
        self.get(id).map(Packed::tenant)
    }

    pub(crate) fn id_of(&self, name: &str) -> Option<TenantId> {
        self.by_name.get(&Name::new(name).ok()?).copied()
    }

    /// By number.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Packed> {
        self.by_id.iter().map(|(_, packed)| packed)
    }

    /// In the order of names, those after `after`.
    pub(crate) fn names_after<'a>(&'a self, after: Option<&str>) -> impl Iterator<Item = &'a Packed> + use<'a> {
        self.by_name.from::<str>(after.map_or(Bound::Unbounded, Bound::Excluded)).filter_map(|(_, id)| self.by_id.get(id))
    }

    pub(crate) fn of_cluster(&self, cluster: ClusterId) -> impl Iterator<Item = TenantId> {
        ids_of(&self.by_cluster, cluster)
    }

    pub(crate) fn of_owner<'a>(&'a self, owner: &Owner) -> impl Iterator<Item = TenantId> + use<'a> {
        self.owners.get(owner).into_iter().flat_map(|entry| ids_of(&self.by_owner, entry.number))
    }

    /// Those that wait, in the order in which they are tried.
    pub(crate) fn pending(&self) -> &OrdMap<PendingKey, Arc<Tenant>> {
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

    /// Adds a tenant, or replaces `before`, which is how it is kept now.
    pub(crate) fn put(&mut self, before: Option<&Tenant>, after: &Arc<Tenant>, history: &History) {
        let packed = Packed::new(after, history);
        self.digest = self.digest.wrapping_add(packed.digest());
        if let Some(old) = self.by_id.insert(after.id, packed) {
            self.digest = self.digest.wrapping_sub(old.digest());
        }
        match before {
            None => self.index(after),
            Some(before) => self.reindex(before, after),
        }
    }

    /// Removes a tenant for good.
    pub(crate) fn remove(&mut self, id: TenantId) -> Option<Tenant> {
        let old = self.by_id.remove(&id)?;
        self.digest = self.digest.wrapping_sub(old.digest());
        let before = old.tenant();
        self.unindex(&before);
        Some(before)
    }

    fn index(&mut self, tenant: &Arc<Tenant>) {
        self.by_name.insert(tenant.spec.name.clone(), tenant.id);
        let number = self.enter_owner(&tenant.spec.owner, pending_key(tenant).is_some());
        self.by_owner.insert((number, tenant.id), ());
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
    fn reindex(&mut self, before: &Tenant, after: &Arc<Tenant>) {
        if before.spec.name != after.spec.name || before.spec.owner != after.spec.owner {
            self.unindex(before);
            self.index(after);
            return;
        }
        let pending = pending_key(after);
        let same = pending_key(before) == pending
            && expiry_of(before) == expiry_of(after)
            && cluster_of(&before.phase) == cluster_of(&after.phase);
        if same {
            if let Some(key) = pending {
                self.pending.insert(key, Arc::clone(after));
            }
            return;
        }
        self.unindex_phase(before);
        self.index_phase(after);
        if let Some(entry) = self.owners.get_mut(&after.spec.owner) {
            entry.pending += u32::from(pending_key(after).is_some());
            entry.pending -= u32::from(pending_key(before).is_some());
        }
    }

    fn index_phase(&mut self, tenant: &Arc<Tenant>) {
        if let Some(cluster) = cluster_of(&tenant.phase) {
            self.by_cluster.insert((cluster, tenant.id), ());
        }
        if let Some(key) = pending_key(tenant) {
            self.pending.insert(key, Arc::clone(tenant));
        }
        if let Some(time) = expiry_of(tenant) {
            self.expiries.insert((time, tenant.id));
        }
    }

    fn unindex_phase(&mut self, tenant: &Tenant) {
        if let Some(cluster) = cluster_of(&tenant.phase) {
            self.by_cluster.remove(&(cluster, tenant.id));
        }
        if let Some(key) = pending_key(tenant) {
            self.pending.remove(&key);
        }
        if let Some(time) = expiry_of(tenant) {
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

    /// Fills everything but the indexes by name and owner.
    fn keep_all(&mut self, kept: Vec<Kept>) -> Result<(), String> {
        self.by_cluster = build(kept.iter().filter_map(|kept| Some(((kept.cluster?, kept.id), ()))).collect())?;
        let mut by_id = Vec::with_capacity(kept.len());
        for Kept { id, packed, digest, expiry, pending, .. } in kept {
            self.digest = self.digest.wrapping_add(digest);
            self.expiries.extend(expiry.map(|time| (time, id)));
            self.pending.extend(pending.and_then(|tenant| Some((pending_key(&tenant)?, tenant))));
            by_id.push((id, packed));
        }
        self.by_id = build(by_id)?;
        Ok(())
    }

    /// Recomputes every index from `by_id` and compares.
    pub(crate) fn check(&self, problems: &mut Vec<String>) {
        let mut fresh = Self { next_owner: self.next_owner, ..Self::default() };
        for packed in self.iter() {
            fresh.put(None, &Arc::new(packed.tenant()), &packed.history());
        }
        let mut same = |name: &str, same: bool| {
            if !same {
                problems.push(format!("index of tenants {name}"));
            }
        };
        let found = self.by_name.iter().all(|(name, id)| self.by_name.get(name) == Some(id))
            && self.by_id.iter().all(|(id, _)| self.get(*id).is_some());
        same("by name", fresh.by_name == self.by_name && self.by_name.len() == self.by_id.len() && found);
        same("by cluster", fresh.by_cluster == self.by_cluster);
        same("that wait", fresh.pending == self.pending);
        same("that expire", fresh.expiries == self.expiries);
        same("digest", fresh.digest == self.digest);
        same("by owner", fresh.by_owner.len() == self.by_owner.len() && fresh.owners.len() == self.owners.len());
        for (owner, entry) in &self.owners {
            let mine: Vec<_> = self.of_owner(owner).filter_map(|id| self.tenant(id)).collect();
            let counted = mine.len() == entry.tenants as usize && mine.iter().all(|tenant| tenant.spec.owner == *owner);
            let pending = mine.iter().filter(|tenant| pending_key(tenant).is_some()).count();
            same("of an owner", counted && pending == entry.pending as usize);
        }
    }
}
