//! What happens to tenants at somebody's request: create, bind, update, release, undelete, adopt.

use std::cmp::Ordering;

use super::{Applier, Fate, expect, in_use, invalid, not_found};
use crate::cluster::Cluster;
use crate::command::{Done, Kind, Placement, Rejection};
use crate::history::EventKind;
use crate::id::{ClusterId, Name, Owner, Revision, ShardId, TenantId};
use crate::ledger::{Ledger, Refusal, Share};
use crate::resources::{Requests, Resources};
use crate::schedule::{Cause, Reason, Shortfall};
use crate::state::State;
use crate::tenant::{Binding, MAX_REASON_BYTES, Phase, Tenant, TenantSpec};

impl Applier<'_> {
    pub(super) fn create_tenant(&mut self, spec: &TenantSpec, placement: &Result<Placement, Vec<u8>>) -> Fate {
        check_new(self.state, spec)?;
        check_quota(self.state, &spec.owner, None, placement.is_ok().then_some(spec.requests.total))?;
        let (phase, reason, event) = match placement {
            Ok(placement) => {
                self.check_placement(spec, placement)?;
                self.open_shard(placement.cluster, placement.shard)?;
                let binding = self.bind(placement);
                let event = EventKind::Placed { cluster: binding.cluster, shard: binding.shard };
                (Phase::Bound { binding, running: false }, &placement.reason, event)
            }
            Err(reason) => {
                let max = self.state.policy().spec.max_pending;
                if self.state.pending_count() >= max as usize {
                    return Err(Rejection::PendingFull { max });
                }
                (Phase::Pending { since: self.time() }, reason, EventKind::Pending)
            }
        };
        let tenant = self.new_tenant(spec, phase, bounded(reason));
        let done = standing(&tenant);
        self.keep_tenant(tenant, Some(event));
        Ok(done)
    }

    pub(super) fn bind_tenant(&mut self, id: TenantId, placement: &Placement) -> Fate {
        let tenant = self.state.tenant_by_id(id).ok_or(Rejection::Stale)?;
        let Phase::Pending { .. } = tenant.phase else {
            return Err(Rejection::Stale);
        };
        check_quota(self.state, &tenant.spec.owner, Some(&tenant), Some(tenant.spec.requests.total))?;
        self.check_placement(&tenant.spec, placement)?;
        self.open_shard(placement.cluster, placement.shard)?;
        let binding = self.bind(placement);
        let mut after = Tenant::clone(&tenant);
        after.phase = Phase::Bound { binding, running: false };
        after.reason = bounded(&placement.reason);
        let done = standing(&after);
        self.keep_tenant(after, Some(EventKind::Placed { cluster: binding.cluster, shard: binding.shard }));
        Ok(done)
    }

    pub(super) fn note_unplaced(&mut self, id: TenantId, reason: &[u8]) -> Fate {
        let tenant = self.state.tenant_by_id(id).ok_or(Rejection::Stale)?;
        let Phase::Pending { .. } = tenant.phase else {
            return Err(Rejection::Stale);
        };
        if tenant.reason == reason {
            return Ok(Done::Changed { revision: tenant.changed });
        }
        let mut after = tenant;
        after.reason = bounded(reason);
        self.keep_tenant(after, None);
        Ok(self.done())
    }

    pub(super) fn update_tenant(&mut self, spec: &TenantSpec, expected: Option<Revision>) -> Fate {
        let tenant = find_tenant(self.state, &spec.name)?;
        expect(expected, tenant.changed, Kind::Tenant, spec.name.as_str())?;
        if tenant.spec == *spec {
            return Ok(Done::Changed { revision: tenant.changed });
        }
        check_update(self.state, self.state.ledger(), &tenant, spec)?;
        let mut after = Tenant::clone(&tenant);
        after.spec = spec.clone();
        after.misplaced = self.misplaced(Some(&tenant), &after);
        let turned = (after.misplaced != tenant.misplaced).then(|| self.misplaced_event(after.misplaced)).flatten();
        self.keep_tenant(after, [EventKind::Updated].into_iter().chain(turned));
        Ok(self.done())
    }

    pub(super) fn release_tenant(&mut self, name: &Name, purge: bool, expected: Option<Revision>) -> Fate {
        let tenant = find_tenant(self.state, name)?;
        expect(expected, tenant.changed, Kind::Tenant, name.as_str())?;
        let unchanged = Ok(Done::Changed { revision: tenant.changed });
        let phase = match tenant.phase {
            Phase::Pending { .. } => None,
            Phase::Bound { binding, .. } => Some(Phase::Releasing { binding, since: self.time(), purge }),
            Phase::Releasing { purge: already, .. } if already || !purge => return unchanged,
            Phase::Releasing { binding, since, .. } => Some(Phase::Releasing { binding, since, purge }),
            Phase::Retained { .. } if !purge => return unchanged,
            Phase::Purging { .. } => return unchanged,
            Phase::Retained { .. } => None,
        };
        if tenant.spec.deletion_protection {
            return Err(in_use(Kind::Tenant, name.as_str(), "deletion protection is on; switch it off first"));
        }
        match (phase, tenant.phase) {
            (None, Phase::Retained { binding, .. }) => self.purge_tenant(tenant, binding),
            (None, _) => self.drop_tenant(tenant.id),
            (Some(phase), _) => {
                let after = Tenant { phase, ..Tenant::clone(&tenant) };
                self.keep_tenant(after, Some(EventKind::Released { purge }));
            }
        }
        Ok(self.done())
    }

    pub(super) fn undelete_tenant(&mut self, name: &Name) -> Fate {
        let tenant = find_tenant(self.state, name)?;
        let Some(binding) = check_undelete(self.state, self.state.ledger(), &tenant)? else {
            return Ok(Done::Changed { revision: tenant.changed });
        };
        self.open_shard(binding.cluster, binding.shard)?;
        let mut after = tenant;
        after.phase = Phase::Bound { binding: Binding { epoch: self.revision(), ..binding }, running: false };
        let done = standing(&after);
        self.keep_tenant(after, Some(EventKind::Undeleted));
        Ok(done)
    }

    pub(super) fn adopt_tenant(&mut self, spec: &TenantSpec, cluster: ClusterId, shard: ShardId) -> Fate {
        check_adopt(self.state, spec, cluster, shard)?;
        while self.state.cluster_by_id(cluster).is_some_and(|cluster| shard.0 >= cluster.shards) {
            let next = self.state.cluster_by_id(cluster).map_or(0, |cluster| cluster.shards);
            self.open_shard(cluster, ShardId(next))?;
        }
        let binding = Binding { cluster, shard, epoch: self.revision() };
        let mut tenant = self.new_tenant(spec, Phase::Bound { binding, running: false }, Vec::new());
        tenant.misplaced = self.misplaced(None, &tenant);
        let done = standing(&tenant);
        self.keep_tenant(tenant, Some(EventKind::Adopted { cluster, shard }));
        Ok(done)
    }

    /// Whether the ground on which the leader decided still stands, and there is room.
    fn check_placement(&self, spec: &TenantSpec, placement: &Placement) -> Result<(), Rejection> {
        let cluster = self.state.cluster_by_id(placement.cluster).ok_or(Rejection::Stale)?;
        #[cfg(feature = "sabotage")]
        if self.state.unchecked {
            return Ok(());
        }
        let stands = placement.policy == self.state.policy().changed && placement.cluster_changed == cluster.changed;
        if !stands || self.state.ledger().check(self.state, spec, placement.cluster, placement.shard).is_err() {
            return Err(Rejection::Stale);
        }
        Ok(())
    }

    /// Opens a shard, if it is the one after the last.
    pub(super) fn open_shard(&mut self, cluster: ClusterId, shard: ShardId) -> Result<(), Rejection> {
        let cluster = self.state.cluster_by_id(cluster).ok_or(Rejection::Stale)?;
        if shard.0 < cluster.shards {
            return Ok(());
        }
        if shard.0 > cluster.shards {
            return Err(Rejection::Stale);
        }
        let mut after = crate::cluster::Cluster::clone(cluster);
        after.shards = shard.0 + 1;
        self.keep_cluster(after);
        Ok(())
    }

    fn bind(&self, placement: &Placement) -> Binding {
        Binding { cluster: placement.cluster, shard: placement.shard, epoch: self.revision() }
    }

    fn new_tenant(&mut self, spec: &TenantSpec, phase: Phase, reason: Vec<u8>) -> Tenant {
        let id = TenantId::new(self.state.incarnation(), self.state.next_tenant);
        self.state.next_tenant += 1;
        Tenant {
            id,
            spec: spec.clone(),
            phase,
            reason,
            misplaced: false,
            created: self.revision(),
            created_at: self.time(),
            changed: self.revision(),
        }
    }
}

/// Whether a tenant can be recorded where it runs.
pub(crate) fn check_adopt(state: &State, spec: &TenantSpec, cluster: ClusterId, shard: ShardId) -> Result<(), Rejection> {
    check_new(state, spec)?;
    let found = state.cluster_by_id(cluster).ok_or(Rejection::Stale)?;
    let shards = found.spec.max_shards.max(found.shards);
    if shard.0 >= shards {
        return Err(invalid("shard", format!("cluster {:?} has shards 0 to {}", found.spec.name.as_str(), shards - 1)));
    }
    Ok(())
}

fn check_new(state: &State, spec: &TenantSpec) -> Result<(), Rejection> {
    if state.has_tenant(spec.name.as_str()) {
        return Err(Rejection::AlreadyExists { kind: Kind::Tenant, name: spec.name.to_string() });
    }
    check_class(state, spec)
}

/// How a tenant stands, as an answer.
pub(crate) fn standing(tenant: &Tenant) -> Done {
    match tenant.phase {
        Phase::Pending { .. } => Done::Pending { id: tenant.id },
        Phase::Bound { binding, .. }
        | Phase::Releasing { binding, .. }
        | Phase::Retained { binding, .. }
        | Phase::Purging { binding, .. } => {
            Done::Placed { id: tenant.id, cluster: binding.cluster, shard: binding.shard, epoch: binding.epoch }
        }
    }
}

pub(crate) fn find_tenant(state: &State, name: &Name) -> Result<Tenant, Rejection> {
    state.tenant(name.as_str()).ok_or_else(|| not_found(Kind::Tenant, name.as_str()))
}

pub(crate) fn check_class(state: &State, spec: &TenantSpec) -> Result<(), Rejection> {
    match state.class(spec.class.as_str(), &spec.version) {
        Some(_) => Ok(()),
        None => Err(not_found(Kind::Class, &format!("{}@{}", spec.class, spec.version))),
    }
}

/// Whether a new spec may replace a tenant's: where it is, with what it holds.
pub(crate) fn check_update(state: &State, ledger: &Ledger, tenant: &Tenant, spec: &TenantSpec) -> Result<(), Rejection> {
    if tenant.spec.owner != spec.owner {
        return Err(invalid("spec.owner", format!("is {:?} and cannot be changed", tenant.spec.owner.as_str())));
    }
    check_class(state, spec)?;
    match tenant.phase {
        Phase::Pending { .. } => Ok(()),
        Phase::Bound { binding, .. } => {
            check_volumes(state, &tenant.spec, spec)?;
            if !grows(&tenant.spec.requests, &spec.requests) {
                return Ok(());
            }
            check_quota_with(state, ledger.owner_use(&spec.owner), &spec.owner, Some(tenant), Some(spec.requests.total))?;
            fits_in_place(ledger, tenant, spec, Share::Full, binding)
        }
        Phase::Releasing { .. } | Phase::Retained { .. } | Phase::Purging { .. } => {
            Err(in_use(Kind::Tenant, spec.name.as_str(), "it has been deleted; undelete it first"))
        }
    }
}

/// Where a deleted tenant comes back: in the cluster where its volumes are, if there is room. `None` if it is not deleted.
pub(crate) fn check_undelete(state: &State, ledger: &Ledger, tenant: &Tenant) -> Result<Option<Binding>, Rejection> {
    match tenant.phase {
        Phase::Pending { .. } | Phase::Bound { .. } => Ok(None),
        Phase::Releasing { purge: true, .. } | Phase::Purging { .. } => {
            Err(in_use(Kind::Tenant, tenant.spec.name.as_str(), "its volumes are being purged; it cannot come back"))
        }
        Phase::Releasing { binding, .. } => Ok(Some(binding)),
        Phase::Retained { binding, .. } => {
            let owner = &tenant.spec.owner;
            check_quota_with(state, ledger.owner_use(owner), owner, Some(tenant), Some(tenant.spec.requests.total))?;
            let back = Binding { shard: shard_to_return_to(state, ledger, binding), ..binding };
            fits_in_place(ledger, tenant, &tenant.spec, Share::StorageOnly, back)?;
            Ok(Some(back))
        }
    }
}

/// Its own shard, or the first with room if that is full, opened for it if need be.
fn shard_to_return_to(state: &State, ledger: &Ledger, Binding { cluster: id, shard: own, .. }: Binding) -> ShardId {
    let Some(cluster) = state.cluster_by_id(id) else { return own };
    if state.level() < super::RETURNS_TO_ANY_SHARD || ledger.shard_tenants(id, own) < cluster.spec.shard_cap {
        return own;
    }
    first_shard_with_room(ledger, cluster).unwrap_or(own)
}

/// The first opened shard below its cap, else a new one, if there may be one more.
pub(super) fn first_shard_with_room(ledger: &Ledger, cluster: &Cluster) -> Option<ShardId> {
    let has_room = |shard: &ShardId| ledger.shard_tenants(cluster.id, *shard) < cluster.spec.shard_cap;
    let opened = (0..cluster.shards).map(ShardId).find(has_room);
    opened.or((cluster.shards < cluster.spec.max_shards).then_some(ShardId(cluster.shards)))
}

/// A volume that is there cannot shrink, and grows only where its class says that it can.
fn check_volumes(state: &State, before: &TenantSpec, after: &TenantSpec) -> Result<(), Rejection> {
    let class = |spec: &TenantSpec| state.class(spec.class.as_str(), &spec.version).cloned();
    let (Some(old), Some(new)) = (class(before), class(after)) else { return Ok(()) };
    for volume in &new.volumes {
        let Some(known) = old.volumes.iter().find(|known| known.name == volume.name) else { continue };
        let (is, wanted) = (before.size_of(known), after.size_of(volume));
        let problem = match wanted.cmp(&is) {
            Ordering::Less => "a volume that is there cannot shrink",
            Ordering::Greater if !volume.grow => "its class does not let it grow in place",
            Ordering::Equal | Ordering::Greater => continue,
        };
        let name = volume.name.as_str();
        return Err(invalid("spec.volumes", format!("{name:?} has {} bytes and would have {}: {problem}", is.0, wanted.0)));
    }
    Ok(())
}

/// Whether anything asked for has grown.
fn grows(before: &Requests, after: &Requests) -> bool {
    let sums = before.total.to_array().into_iter().zip(after.total.to_array()).any(|(before, after)| after > before);
    sums || !after.largest_pod.fits(before.largest_pod)
}

/// Checks a tenant's own place as if what it counts there now were given back.
fn fits_in_place(ledger: &Ledger, tenant: &Tenant, spec: &TenantSpec, held: Share, binding: Binding) -> Result<(), Rejection> {
    let mut without = ledger.clone();
    without.give(&tenant.spec, held, binding.cluster, binding.shard);
    match without.check_limits(spec, Share::Full, binding.cluster, binding.shard) {
        Ok(()) => Ok(()),
        Err(refusal) => Err(Rejection::Unplaceable { reason: refusal_reason(binding.cluster, &refusal) }),
    }
}

/// One cluster's refusal as a reason that can be kept.
fn refusal_reason(cluster: ClusterId, refusal: &Refusal) -> Vec<u8> {
    let closest = match *refusal {
        Refusal::Resource { resource, wanted, free, limit } => Some(Shortfall { cluster, resource, wanted, free, limit }),
        Refusal::State(_)
        | Refusal::Fenced
        | Refusal::TenantCap { .. }
        | Refusal::Shards { .. }
        | Refusal::Shard { .. }
        | Refusal::LargestPod { .. }
        | Refusal::Constraint { .. } => None,
    };
    Reason::Unplaceable { clusters: 1, causes: vec![(Cause::of(refusal), 1)], closest }.encode()
}

/// Whether an owner's quota allows one more tenant (`held` is `None`), or that `held` becomes bound with `wanted`.
pub(crate) fn check_quota(state: &State, owner: &Owner, held: Option<&Tenant>, wanted: Option<Resources>) -> Result<(), Rejection> {
    let used = state.ledger().owner_use(owner);
    check_quota_with(state, used, owner, held, wanted)
}

/// The same, with what a ledger says that the owner uses.
pub(crate) fn check_quota_with(
    state: &State,
    (bound, used): (u32, Resources),
    owner: &Owner,
    held: Option<&Tenant>,
    wanted: Option<Resources>,
) -> Result<(), Rejection> {
    let policy = &state.policy().spec;
    let quota = policy.quotas.get(owner).unwrap_or(&policy.default_quota);
    let counts_already = held.is_some_and(|tenant| !matches!(tenant.phase, Phase::Retained { .. }));
    let tenants = u64::from(bound) + u64::from(state.tenants.pending_of_owner(owner)) + u64::from(!counts_already);
    let refused = |what: &str, limit: u64, wanted: u64| {
        Err(Rejection::QuotaExceeded { owner: owner.to_string(), what: what.to_owned(), limit, wanted })
    };
    match quota.tenants {
        Some(limit) if !counts_already && tenants > u64::from(limit) => return refused("tenants", limit.into(), tenants),
        _ => {}
    }
    let Some(wanted) = wanted else { return Ok(()) };
    let held = held.map_or_else(Resources::default, held_resources).to_array();
    for (resource, limit) in crate::resources::Resource::ALL.into_iter().zip(quota.resources) {
        let row = resource as usize;
        let after = (used.get(resource).saturating_sub(held[row])).saturating_add(wanted.get(resource));
        match limit {
            Some(limit) if after > limit && wanted.get(resource) > held[row] => return refused(resource.name(), limit, after),
            _ => {}
        }
    }
    Ok(())
}

/// What the ledger counts of a tenant now.
fn held_resources(tenant: &Tenant) -> Resources {
    let total = tenant.spec.requests.total;
    match crate::state::counted(&tenant.phase) {
        None => Resources::default(),
        Some((Share::Full, _)) => total,
        Some((Share::StorageOnly, _)) => Resources { storage: total.storage, ..Resources::default() },
    }
}

fn bounded(reason: &[u8]) -> Vec<u8> {
    reason[..reason.len().min(MAX_REASON_BYTES)].to_vec()
}
