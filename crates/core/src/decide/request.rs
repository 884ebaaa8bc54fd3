//! Each kind of request on its way to a command.

use super::{Counted, Decision, Hold, Working, resolve};
use crate::agreement;
use crate::apply;
use crate::cluster::Cluster;
use crate::command::{Command, Done, Kind, Outcome, Placement, Rejection};
use crate::id::{ClusterId, Name, Revision, ShardId};
use crate::join::{Digest, JoinToken, MAX_TOKEN_LIFE, Spending};
use crate::ledger::Share;
use crate::observed::TroubleKind;
use crate::request::{Ask, ClusterFound, GrowthFound, Observation, Observed, ObservedTenant, Report};
use crate::resources::{PodSize, Requests, Resources};
use crate::schedule;
use crate::state::State;
use crate::tenant::{Phase, Tenant, TenantSpec};
use crate::time::{Millis, Timestamp};

type Decided = Result<Decision, Rejection>;

impl Working {
    pub(super) fn decide_new(&mut self, state: &State, ask: &Ask, now: Timestamp) -> Decided {
        if acts_on_knowledge(ask) {
            apply::check_fence(state)?;
        }
        Ok(Decision::Propose(match ask {
            Ask::PlaceTenant { spec, wait } => return self.place(state, spec, *wait, now),
            Ask::UpdateTenant { spec, expected } => return self.update(state, spec, *expected),
            Ask::ReleaseTenant { name, purge, expected } => {
                apply::find_tenant(state, name)?;
                Command::ReleaseTenant { name: name.clone(), purge: *purge, expected: *expected }
            }
            Ask::UndeleteTenant { name } => return self.undelete(state, name),
            Ask::AdoptTenant { spec, cluster, shard } => return self.adopt(state, spec, cluster, *shard),
            Ask::PutCluster { spec, expected } => {
                apply::check_cluster_spec(state, spec)?;
                Command::PutCluster { spec: spec.clone(), expected: *expected }
            }
            Ask::CordonCluster { name, cordoned } => {
                find_cluster(state, name)?;
                Command::CordonCluster { name: name.clone(), cordoned: *cordoned }
            }
            Ask::DeleteCluster { name, forget } => {
                let cluster = find_cluster(state, name)?;
                let tenants = state.tenants.of_cluster(cluster).count();
                apply::check_delete(name, tenants, *forget)?;
                Command::DeleteCluster { name: name.clone(), forget: *forget }
            }
            Ask::Report(report) => return report_decision(state, report),
            Ask::Observe(observation) => return observe_decision(state, observation),
            Ask::PutPool { spec, expected } => {
                apply::check_pool(spec)?;
                Command::PutPool { spec: spec.clone(), expected: *expected }
            }
            Ask::DeletePool { name } => Command::DeletePool { name: name.clone() },
            Ask::PutClass { class } => {
                apply::check_class_version(class)?;
                Command::PutClass { class: class.clone() }
            }
            Ask::DeleteClass { name, version } => Command::DeleteClass { name: name.clone(), version: version.clone() },
            Ask::PutPolicy { spec, expected } => {
                apply::check_policy(spec)?;
                Command::PutPolicy { spec: spec.clone(), expected: *expected }
            }
            Ask::WaiveFence { cluster } => Command::WaiveFence { cluster: cluster.clone() },
            Ask::PutToken { cluster, digest, uid, life } => return put_token(state, cluster, *digest, uid, *life, now),
            Ask::SpendToken(spending) => return spend_token(state, spending, now),
            Ask::AllowRemovals { cluster, count } => allow_removals(state, cluster, *count)?,
            Ask::NoteCluster(found) => return note_cluster(state, found),
            Ask::NoteGrowth(found) => return note_growth(state, found),
        }))
    }

    fn place(&mut self, state: &State, spec: &TenantSpec, wait: bool, now: Timestamp) -> Decided {
        let mut spec = Box::new(spec.clone());
        resolve(state, &mut spec)?;
        if spec.deadline.is_some_and(|deadline| deadline <= now) {
            return Err(Rejection::Invalid { field: "spec.deadline".to_owned(), problem: "has passed already".to_owned() });
        }
        if state.has_tenant(spec.name.as_str()) {
            return Err(Rejection::AlreadyExists { kind: Kind::Tenant, name: spec.name.to_string() });
        }
        let used = self.ledger.owner_use(&spec.owner);
        let (found, held_back) = self.place_newcomer(state, &spec);
        let wanted = found.is_ok().then_some(spec.requests.total);
        apply::check_quota_with(state, used, &spec.owner, None, wanted)?;
        let placement = match found {
            Ok(mut placement) => {
                placement.policy = state.policy().changed;
                self.arrive(&spec, placement.cluster, placement.shard);
                Ok(placement)
            }
            Err(reason) if !wait => return Err(Rejection::Unplaceable { reason }),
            Err(reason) => {
                let max = state.policy().spec.max_pending;
                if state.pending_count() >= max as usize {
                    return Err(Rejection::PendingFull { max });
                }
                self.waiting.refused(&spec.name, held_back);
                Err(reason)
            }
        };
        Ok(Decision::Propose(Command::CreateTenant { spec, placement }))
    }

    /// A place that no waiting tenant of equal or higher priority could use, or why not; and whether it is held back for their sake.
    fn place_newcomer(&mut self, state: &State, spec: &TenantSpec) -> (Result<Placement, Vec<u8>>, bool) {
        let placement = match schedule::place(&mut self.scratch, &self.ledger, &self.arrivals.beside(state), spec) {
            Ok(placement) => placement,
            Err(unplaceable) => return (Err(unplaceable.reason), false),
        };
        if self.waiting_could_use(state, spec.priority, placement.cluster) {
            let reason = schedule::Reason::Unplaceable { clusters: 0, causes: Vec::new(), closest: None };
            return (Err(reason.encode()), true);
        }
        (Ok(placement), false)
    }

    fn update(&mut self, state: &State, spec: &TenantSpec, expected: Option<Revision>) -> Decided {
        let mut spec = Box::new(spec.clone());
        resolve(state, &mut spec)?;
        let tenant = apply::find_tenant(state, &spec.name)?;
        apply::expect(expected, tenant.changed, Kind::Tenant, spec.name.as_str())?;
        if tenant.spec == *spec {
            return Ok(Decision::Answer(Outcome::Done(Done::Changed { revision: tenant.changed })));
        }
        if !self.holds.contains_key(&tenant.id) {
            apply::check_update(state, &self.ledger, &tenant, &spec)?;
            self.hold_growth(&tenant, &spec);
        }
        Ok(Decision::Propose(Command::UpdateTenant { spec, expected }))
    }

    /// While the update is in flight the greater of both is counted.
    fn hold_growth(&mut self, tenant: &Tenant, spec: &TenantSpec) {
        let Phase::Bound { binding, .. } = tenant.phase else { return };
        let requests = greater(&tenant.spec.requests, &spec.requests);
        let before = Counted { spec: tenant.spec.clone(), share: Share::Full, cluster: binding.cluster, shard: binding.shard };
        let took = Counted { spec: TenantSpec { requests, ..tenant.spec.clone() }, ..before.clone() };
        self.hold(tenant, Some(before), took);
    }

    pub(super) fn hold(&mut self, tenant: &Tenant, instead_of: Option<Counted>, took: Counted) {
        let hold = Hold { instead_of, took };
        self.keep_hold(&hold);
        self.holds.entry(tenant.id).or_default().push_back(hold);
    }

    fn undelete(&mut self, state: &State, name: &Name) -> Decided {
        let tenant = apply::find_tenant(state, name)?;
        if !self.holds.contains_key(&tenant.id) {
            let back = apply::check_undelete(state, &self.ledger, &tenant)?;
            if let (Phase::Retained { binding, .. }, Some(back)) = (tenant.phase, back) {
                let kept = Counted { spec: tenant.spec.clone(), share: Share::StorageOnly, cluster: binding.cluster, shard: binding.shard };
                self.hold(&tenant, Some(kept.clone()), Counted { share: Share::Full, shard: back.shard, ..kept });
            }
        }
        Ok(Decision::Propose(Command::UndeleteTenant { name: name.clone() }))
    }

    fn adopt(&mut self, state: &State, spec: &TenantSpec, cluster: &Name, shard: Option<ShardId>) -> Decided {
        let mut spec = Box::new(spec.clone());
        resolve(state, &mut spec)?;
        let cluster = find_cluster(state, cluster)?;
        let shard = shard.unwrap_or_else(|| self.roomiest_shard(state, cluster));
        apply::check_adopt(state, &spec, cluster, shard)?;
        self.arrive(&spec, cluster, shard);
        Ok(Decision::Propose(Command::AdoptTenant { spec, cluster, shard }))
    }

    /// The first shard with room, opened or not; the least filled one if there is none.
    fn roomiest_shard(&self, state: &State, cluster: ClusterId) -> ShardId {
        let Some(found) = state.cluster_by_id(cluster) else { return ShardId(0) };
        let fill = |shard: &u16| self.ledger.shard_tenants(cluster, ShardId(*shard));
        let with_room = (0..found.spec.max_shards).find(|shard| fill(shard) < found.spec.shard_cap);
        ShardId(with_room.or_else(|| (0..found.spec.max_shards).min_by_key(fill)).unwrap_or(0))
    }
}

fn acts_on_knowledge(ask: &Ask) -> bool {
    match ask {
        Ask::PlaceTenant { .. }
        | Ask::UpdateTenant { .. }
        | Ask::ReleaseTenant { .. }
        | Ask::UndeleteTenant { .. }
        | Ask::DeleteCluster { .. }
        | Ask::DeletePool { .. }
        | Ask::DeleteClass { .. }
        | Ask::AllowRemovals { .. } => true,
        Ask::AdoptTenant { .. }
        | Ask::PutCluster { .. }
        | Ask::CordonCluster { .. }
        | Ask::Report(_)
        | Ask::Observe(_)
        | Ask::PutPool { .. }
        | Ask::PutClass { .. }
        | Ask::PutPolicy { .. }
        | Ask::WaiveFence { .. }
        | Ask::PutToken { .. }
        | Ask::SpendToken(_)
        | Ask::NoteCluster(_)
        | Ask::NoteGrowth(_) => false,
    }
}

fn find_cluster(state: &State, name: &Name) -> Result<ClusterId, Rejection> {
    let not_found = || Rejection::NotFound { kind: Kind::Cluster, name: name.to_string() };
    state.cluster(name.as_str()).map(|cluster| cluster.id).ok_or_else(not_found)
}

/// The first of those whose removal waits: an agreement is to tenants that are named.
fn allow_removals(state: &State, cluster: &Name, count: u32) -> Result<Command, Rejection> {
    let waiting = state.held_back(find_cluster(state, cluster)?);
    let refused = |problem: &str| Rejection::InUse { kind: Kind::Cluster, name: cluster.to_string(), problem: problem.to_owned() };
    if state.level() < apply::AGREES {
        return Err(refused("not every replica knows of agreements to removals yet; upgrade them all first"));
    }
    let epoch = |tenant: &Tenant| tenant.phase.binding().map(|binding| (tenant.id, binding.epoch));
    let tenants: Vec<_> = waiting.iter().filter_map(epoch).take((count as usize).min(agreement::MAX_TENANTS)).collect();
    if tenants.is_empty() {
        return Err(refused("no removal waits there for an operator who has not agreed to it yet"));
    }
    Ok(Command::AllowRemovals { cluster: cluster.clone(), tenants })
}

fn report_decision(state: &State, report: &Report) -> Decided {
    let cluster = find_cluster(state, &report.cluster)?;
    let cluster = state.cluster_by_id(cluster).ok_or(Rejection::Stale)?;
    apply::check_uid(cluster, &report.uid)?;
    if report_matters(state, report) {
        return Ok(Decision::Propose(Command::Report(Box::new(report.clone()))));
    }
    Ok(Decision::Answer(Outcome::Done(Done::Changed { revision: cluster.changed })))
}

/// An observation in which only a report moves anything, or that not every replica understands yet, is that report.
fn observe_decision(state: &State, observation: &Observation) -> Decided {
    let mut observation = observation.clone();
    for (kind, _) in observation.tenants.iter_mut().filter_map(|seen| seen.trouble.as_mut()) {
        if *kind == TroubleKind::HeldBack && state.level() < apply::AGREES {
            *kind = TroubleKind::Blocked;
        }
    }
    let Observation { report, tenants, info } = &observation;
    let cluster = find_cluster(state, &report.cluster)?;
    let news = state.level() >= apply::OBSERVES && {
        let info = info.as_ref().is_some_and(|info| state.info_of(cluster) != Some(info));
        info || tenants.iter().any(|seen| apply::facts_after(state, cluster, seen).is_some())
    };
    if !news {
        return report_decision(state, report);
    }
    let known = state.cluster_by_id(cluster).ok_or(Rejection::Stale)?;
    apply::check_uid(known, &report.uid)?;
    apply::check_observation(&observation)?;
    Ok(Decision::Propose(Command::Observe(Box::new(observation))))
}

/// What is known already, or what not every replica understands yet, changes nothing: it is told again.
fn note_cluster(state: &State, found: &ClusterFound) -> Decided {
    let cluster = state.cluster_by_id(find_cluster(state, &found.cluster)?).ok_or(Rejection::Stale)?;
    apply::check_uid(cluster, &found.uid)?;
    apply::check_details(&found.details)?;
    let is_known = state.details_of(cluster.id).is_some_and(|known| known.details == found.details);
    if is_known || state.level() < apply::DETAILS {
        return Ok(Decision::Answer(Outcome::Done(Done::Changed { revision: cluster.changed })));
    }
    Ok(Decision::Propose(Command::NoteCluster(Box::new(found.clone()))))
}

/// As [`note_cluster`].
fn note_growth(state: &State, found: &GrowthFound) -> Decided {
    let cluster = state.cluster_by_id(find_cluster(state, &found.cluster)?).ok_or(Rejection::Stale)?;
    apply::check_uid(cluster, &found.uid)?;
    apply::check_growth(&found.room)?;
    if cluster.growth == found.room || state.level() < apply::COUNTS_GROWTH {
        return Ok(Decision::Answer(Outcome::Done(Done::Changed { revision: cluster.changed })));
    }
    Ok(Decision::Propose(Command::NoteGrowth(Box::new(found.clone()))))
}

/// Not before every replica understands what comes of it.
fn check_enrols(state: &State) -> Result<(), Rejection> {
    let (level, wanted) = (state.level(), apply::ENROLS);
    if level >= wanted {
        return Ok(());
    }
    let problem = format!("needs feature level {}, and the replicas are at {}: upgrade all of them first", wanted.0, level.0);
    Err(Rejection::Invalid { field: "token".to_owned(), problem })
}

fn put_token(state: &State, cluster: &Name, digest: Digest, uid: &str, life: Millis, now: Timestamp) -> Decided {
    check_enrols(state)?;
    if life == Millis(0) || life > MAX_TOKEN_LIFE {
        let problem = format!("must be more than 0 and at most {} s", MAX_TOKEN_LIFE.0 / 1000);
        return Err(Rejection::Invalid { field: "life".to_owned(), problem });
    }
    let token = Box::new(JoinToken { digest, uid: uid.to_owned(), until: now.after(life), spent: None });
    apply::check_token(state, cluster, &token)?;
    Ok(Decision::Propose(Command::PutToken { cluster: cluster.clone(), token }))
}

fn spend_token(state: &State, spending: &Spending, now: Timestamp) -> Decided {
    check_enrols(state)?;
    let (cluster, token) = apply::check_spending(state, spending, now)?;
    if token.spent.is_some() {
        return Ok(Decision::Answer(Outcome::Done(Done::Changed { revision: cluster.changed })));
    }
    Ok(Decision::Propose(Command::SpendToken(Box::new(spending.clone()))))
}

/// Whether a report would change anything that is replicated; otherwise it only tells that the agent lives.
#[must_use]
pub fn report_matters(state: &State, report: &Report) -> bool {
    let Some(cluster) = state.cluster(report.cluster.as_str()) else { return true };
    let identity = cluster.spec.uid != report.uid && !report.uid.is_empty();
    let capacity = report.capacity.as_ref().is_some_and(|capacity| cluster.reported_at.is_none() || *capacity != cluster.capacity);
    let awaited = cluster.fenced && report.complete == Some(state.incarnation());
    let agent = report.by_agent && (cluster.silent || !cluster.has_agent);
    identity || capacity || agent || awaited || report.tenants.iter().any(|seen| moves(state, cluster, seen))
}

/// Whether what was seen of a tenant moves its phase.
fn moves(state: &State, cluster: &Cluster, seen: &ObservedTenant) -> bool {
    let Some(tenant) = state.tenant_by_id(seen.id) else { return false };
    let Some(binding) = tenant.phase.binding() else {
        return seen.observed != Observed::Absent && apply::may_be_found(state, cluster);
    };
    let cluster = cluster.id;
    if apply::comes_from_later(state, &tenant, cluster, seen) {
        return true;
    }
    let here = binding.cluster == cluster && binding.epoch == seen.epoch;
    here && match (tenant.phase, seen.observed) {
        (Phase::Pending { .. }, _) => false,
        (Phase::Bound { running, .. }, observed) => running != (observed == Observed::Running),
        (Phase::Releasing { purge, .. }, Observed::Stopped) => !purge,
        (Phase::Releasing { .. } | Phase::Retained { .. } | Phase::Purging { .. }, Observed::Absent) => true,
        (Phase::Releasing { .. }, Observed::Running) => false,
        (Phase::Retained { .. } | Phase::Purging { .. }, Observed::Running | Observed::Stopped) => false,
    }
}

/// The greater of each amount.
fn greater(a: &Requests, b: &Requests) -> Requests {
    let (x, y) = (a.total.to_array(), b.total.to_array());
    let mut total = x;
    for (sum, other) in total.iter_mut().zip(y) {
        *sum = (*sum).max(other);
    }
    let pod = PodSize { cpu: a.largest_pod.cpu.max(b.largest_pod.cpu), memory: a.largest_pod.memory.max(b.largest_pod.memory) };
    Requests { total: Resources::from_array(total), largest_pod: pod }
}
