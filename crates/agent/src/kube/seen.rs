//! What is there of a tenant, out of the store and compared with what was rendered. No I/O: what looks lost or gone is asked for by others,
//! and until that is answered nothing is said. Watches may lag behind by any time, and what they do not show may be there.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};

use roadstead_class::{Manifest, Rendered, SecretPlan, SecretSource, namespace_of as namespace_of_tenant};
use roadstead_core::id::{Epoch, Name, TenantId, VolumeUid};
use roadstead_core::intent::{Role, VolumeIntent};
use roadstead_core::reconcile::{Home as HomeSeen, Part, PartSeen, TenantSeen, VolumeSeen};
use serde_json::{Value, json};

use super::body::body;
use super::compare::{Ceded, in_step};
use super::holds::{holder, is_written};
use super::known::{generated, is_ours_to_delete, was_generated, was_made_for};
use super::record::{self, Record, core, group};
use super::secrets::{self, SlimSecret};
use super::store::{ANSWER_HOLDS, Confirmed, Extra, Home, Inner, Live, NO_NAMESPACE_HOLDS, Question, Served};
use super::{Drift, EPOCH_LABEL, Kind, SHARD_LABEL, TENANT_LABEL, words};
use crate::interpreter::{Failed, Job};

/// The label that every namespace has.
const NAME_OF_NAMESPACE: &str = "kubernetes.io/metadata.name";

/// The name of a tenant's namespace. Nothing that is there says it: labels are copied with what they are on.
pub(super) fn namespace_of(job: &Job) -> String {
    match &job.rendered {
        Ok(rendered) => rendered.namespace.id.name.clone(),
        Err(_) => namespace_of_tenant(&job.intent.name, job.intent.id),
    }
}

/// The namespace as it is to be: with the labels by which it is known.
pub(super) fn namespace_body(job: &Job, rendered: &Rendered) -> Value {
    let mut body = rendered.namespace.body.clone();
    let labels = &mut body["metadata"]["labels"];
    if !labels.is_object() {
        *labels = json!({});
    }
    labels[TENANT_LABEL] = job.intent.id.to_string().into();
    labels[EPOCH_LABEL] = job.intent.epoch.to_string().into();
    labels[SHARD_LABEL] = job.intent.shard.0.to_string().into();
    // Put in by every API server; as it is ours by the creation, it is ours by every later write.
    labels[NAME_OF_NAMESPACE] = rendered.namespace.id.name.as_str().into();
    body
}

/// Whose a namespace is.
pub(super) fn home_of(home: Option<&Home>, id: TenantId) -> HomeSeen {
    let Some((home, space)) = home.and_then(|home| Some((home, home.space.as_ref()?))) else { return HomeSeen::None };
    let recorded = || home.recorded().is_some_and(|record| record.tenant == id.to_string() && *record.namespace_uid == *space.live.uid);
    match (space.tenant, &space.label) {
        (Some(tenant), _) if tenant == id => {}
        // Its label was taken away, and what is in it says whose it is.
        (None, None) if recorded() => {}
        (Some(tenant), _) => return HomeSeen::Foreign(format!("a namespace of tenant {tenant}")),
        (None, Some(label)) => return HomeSeen::Foreign(format!("a namespace that is labelled {TENANT_LABEL}={label}")),
        (None, None) => return HomeSeen::Foreign("a namespace that is no tenant's".to_owned()),
    }
    if space.live.deleting {
        return HomeSeen::Terminating(space.stuck.as_deref().map(str::to_owned));
    }
    HomeSeen::Ours(if space.tenant.is_some() { space.epoch } else { Epoch::default() })
}

/// Whether enough has been listed to say anything.
///
/// # Errors
/// What has not been listed.
pub(super) fn listed(inner: &Inner) -> Result<(), Failed> {
    for list in super::watch::LISTS {
        if !inner.listed.contains(list) {
            return Err(words::again(format!("{list} have not been listed yet")));
        }
    }
    // Those that any tenant may have, and all that run anything; others matter to tenants that have them.
    let is_such = |kind: &Kind| super::ALWAYS.iter().any(|(api, name)| *name == kind.kind && group(api) == group(&kind.api_version));
    for state in inner.kinds.iter().filter(|state| is_such(&state.kind)) {
        match &state.served {
            Served::Unknown => return Err(not_listed(&state.kind.kind)),
            Served::Broken(why) => return Err(words::again(why.clone())),
            Served::Listed | Served::Missing => {}
        }
    }
    Ok(())
}

fn not_listed(kind: &str) -> Failed {
    words::again(format!("{kind} objects have not been listed yet"))
}

/// Kinds that a tenant has by its rendering or by its record and that nobody watches yet.
///
/// # Errors
/// One is watched and has not been listed yet.
pub(super) fn new_kinds(inner: &Inner, home: Option<&Home>, rendered: Option<&Rendered>) -> Result<BTreeSet<Kind>, Failed> {
    let rendered = rendered.into_iter().flat_map(|rendered| rendered.parts.values().flatten());
    let rendered = rendered.map(|manifest| (&manifest.id.api_version, &manifest.id.kind));
    let made = home.and_then(Home::recorded).into_iter().flat_map(|record| &record.objects);
    let mut new = BTreeSet::new();
    for (api_version, kind) in rendered.chain(made.map(|made| (&made.api_version, &made.kind))) {
        match inner.kind_of(api_version, kind).map(|kind| &inner.kinds[kind].served) {
            None => drop(new.insert(Kind { api_version: api_version.clone(), kind: kind.clone() })),
            Some(Served::Unknown) => return Err(not_listed(kind)),
            Some(Served::Listed | Served::Missing | Served::Broken(_)) => {}
        }
    }
    Ok(new)
}

/// The PersistentVolume of a tenant's volume, once its claim is bound to one.
pub(super) fn volume_of(inner: &Inner, id: TenantId, volume: &Name) -> Option<Box<str>> {
    let homes = inner.spaces.get(&id)?.iter().filter_map(|name| inner.homes.get(name));
    // The record in a copy of the namespace tells of the one that it was copied from.
    let is_its_own = |home: &Home, record: &Record| home.space.as_ref().is_some_and(|space| *space.live.uid == *record.namespace_uid);
    let mut recorded = homes.filter_map(|home| Some((home, home.recorded().filter(|record| is_its_own(home, record))?)));
    let (home, made) = recorded.find_map(|(home, record)| Some((home, record.volumes.get(volume.as_str())?)))?;
    match &inner.peek(home, &core("PersistentVolumeClaim", &made.claim))?.extra {
        Extra::Claim { volume, .. } if !volume.is_empty() => Some(volume.clone()),
        Extra::Claim { .. } | Extra::Nothing | Extra::Secret(_) => None,
    }
}

/// What is known of a tenant without an intent.
pub(super) fn labelled(inner: &Inner, id: TenantId, namespace: &str) -> TenantSeen {
    let Some(home) = inner.homes.get(namespace) else { return TenantSeen::default() };
    let look = Look { inner, home, rendered: None, questions: Vec::new(), namespace, tenant: id, drift: Drift::default() };
    let volumes =
        look.volume_names(&[]).into_iter().filter_map(|(name, claim)| Some((name, look.volume(&claim, None, None, None).ok()?))).collect();
    TenantSeen { home: home_of(Some(home), id), volumes, at_rest: holder(inner, home).is_none(), ..TenantSeen::default() }
}

/// What is there of a tenant; and what must be asked first, if anything.
pub(super) fn seen(inner: &Inner, job: &Job, namespace: &str, drift: Drift) -> Result<TenantSeen, Vec<Question>> {
    let rendered = job.rendered.as_deref().ok();
    let found = inner.homes.get(namespace);
    let home_seen = home_of(found, job.intent.id);
    let (Some(home), HomeSeen::Ours(_) | HomeSeen::Terminating(_)) = (found, &home_seen) else {
        let at_rest = home_seen == HomeSeen::None && none_there(inner, job, namespace)?;
        return Ok(TenantSeen { home: home_seen, parts: nothing_there(job), at_rest, ..TenantSeen::default() });
    };
    let mut look = Look { inner, home, rendered, questions: Vec::new(), namespace, tenant: job.intent.id, drift };
    let rendering = rendered.map(|rendered| rendering(inner, rendered));
    let holder = holder(inner, home);
    let holds = holder.filter(|_| job.intent.role != Role::Run).map(|holder| holder.to_string());
    let mut seen = TenantSeen { home: home_seen, at_rest: holder.is_none(), holds, rendering, ..TenantSeen::default() };
    for (name, claim) in look.volume_names(&job.intent.volumes) {
        let known = job.intent.volumes.iter().find(|volume| volume.name == name).and_then(|volume| volume.uid);
        let recorded = home.record.as_ref().and_then(|record| record.volumes.get(name.as_str())).and_then(|made| made.uid.as_deref());
        match look.volume(&claim, recorded, known, Some(job.intent.epoch)) {
            Ok(volume) => drop(seen.volumes.insert(name, volume)),
            Err(question) => look.questions.push(question),
        }
    }
    for part in Part::ALL {
        let part_seen = match rendered {
            Some(rendered) => look.part(job, rendered, part),
            None => look.unrendered(job, part),
        };
        seen.parts.insert(part, part_seen);
    }
    // Who has lost something is stopped whatever is wanted.
    let is_lost = || {
        let volumes = seen.volumes.values().any(|volume| *volume == VolumeSeen::Lost);
        volumes || seen.parts.values().any(|part| matches!(part, PartSeen::Lost(_)))
    };
    if seen.at_rest && !home.has_no_pods && (job.intent.role != Role::Run || is_lost()) {
        look.questions.push(Question::of_pods(job.intent.id, namespace));
    }
    // What runs may use them until what is new is ready.
    let uses_others = [Part::Secrets, Part::Workloads].iter().all(|part| seen.parts.get(part) == Some(&PartSeen::Ready));
    if uses_others && job.intent.role == Role::Run && rendered.is_some_and(|rendered| look.stale(Part::Secrets, rendered)) {
        seen.parts.insert(Part::Secrets, PartSeen::Differs);
    }
    if look.questions.is_empty() { Ok(seen) } else { Err(look.questions) }
}

/// Of all that a tenant is compared with: what was rendered, and the secrets that are copied.
fn rendering(inner: &Inner, rendered: &Rendered) -> u64 {
    let mut hasher = DefaultHasher::new();
    rendered.digest.hash(&mut hasher);
    for plan in &rendered.secrets {
        if let SecretSource::Copy { from } = &plan.source {
            inner.templates.get(from).hash(&mut hasher);
        }
    }
    hasher.finish()
}

/// Whether a namespace that is not seen is known not to be there: asked for where that would be told, as gone, as stopped or as the loss of
/// what was in it.
fn none_there(inner: &Inner, job: &Job, namespace: &str) -> Result<bool, Vec<Question>> {
    let intent = &job.intent;
    let is_told = match intent.role {
        Role::Absent | Role::Stopped => true,
        Role::Run | Role::Hold | Role::Receive => intent.volumes.iter().any(|volume| volume.uid.is_some()),
    };
    if !is_told {
        return Ok(false);
    }
    let question = Question { tenant: intent.id, namespace: String::new(), kind: "Namespace", name: namespace.to_owned() };
    // That it is gone for good, or what was in it, is asked for anew.
    let within = if intent.role == Role::Stopped { NO_NAMESPACE_HOLDS } else { ANSWER_HOLDS };
    match inner.confirmed(&question, None, within) {
        Confirmed::AsSeen => Ok(true),
        Confirmed::Unseen | Confirmed::NotYet => Err(vec![question]),
    }
}

/// Where there is no namespace yet: what is not rendered at all is there.
fn nothing_there(job: &Job) -> BTreeMap<Part, PartSeen> {
    match &job.rendered {
        Err(why) => BTreeMap::from([(Part::Bounds, PartSeen::Blocked(why.clone()))]),
        Ok(rendered) => {
            let empty = |part: &Part| match part {
                Part::Bounds => false,
                Part::Secrets => rendered.secrets.is_empty(),
                Part::Workloads => false,
                Part::Routes => job.intent.role == Role::Run && rendered.parts.get(part).is_none_or(Vec::is_empty),
            };
            Part::ALL.into_iter().filter(empty).map(|part| (part, PartSeen::Ready)).collect()
        }
    }
}

struct Look<'a> {
    inner: &'a Inner,
    home: &'a Home,
    rendered: Option<&'a Rendered>,
    questions: Vec<Question>,
    namespace: &'a str,
    tenant: TenantId,
    drift: Drift,
}

/// What has been found of a part so far.
#[derive(Default)]
struct Found {
    there: usize,
    wrong: bool,
    /// The first thing that is not as rendered: object and field.
    first: Option<String>,
    waits: Option<String>,
}

impl Look<'_> {
    /// Volumes by name with their claims: those that are known, those that are rendered and those that have been.
    fn volume_names(&self, known: &[VolumeIntent]) -> BTreeMap<Name, String> {
        let known = known.iter().filter(|volume| volume.uid.is_some()).map(|volume| (volume.name.clone(), volume.name.to_string()));
        let recorded = self.home.recorded().into_iter().flat_map(|record| &record.volumes);
        let recorded = recorded.filter_map(|(name, made)| Some((Name::new(name).ok()?, made.claim.clone())));
        let rendered = self.rendered.iter().flat_map(|rendered| &rendered.volumes);
        known.chain(rendered.map(|(name, claim)| (name.clone(), claim.id.name.clone()))).chain(recorded).collect()
    }

    fn claim(&self, name: &str) -> Option<&Live> {
        let kind = self.inner.kind_of("v1", "PersistentVolumeClaim")?;
        self.home.objects.get(&kind)?.get(name)
    }

    /// A volume, of which the tenant's record and its intent may know which one it is; if neither does, it is what was made for the tenant in
    /// this epoch. Whatever would be called lost is asked for first.
    fn volume(&self, claim: &str, recorded: Option<&str>, known: Option<VolumeUid>, epoch: Option<Epoch>) -> Result<VolumeSeen, Question> {
        let live = self.claim(claim);
        let was_made = |live: &Live| epoch.is_none_or(|epoch| was_made_for(live, self.tenant, epoch));
        if recorded.is_none() && known.is_none() && !live.is_some_and(was_made) {
            return Ok(VolumeSeen::Never);
        }
        match live.map(|live| (&live.extra, live.uid.parse::<VolumeUid>(), &*live.uid)) {
            Some((Extra::Claim { bytes, requested, lost: false, .. }, Ok(uid), text))
                if recorded.is_none_or(|recorded| recorded == text) && known.is_none_or(|known| known == uid) =>
            {
                if live.is_some_and(|live| live.deleting) {
                    return Ok(VolumeSeen::Going { uid });
                }
                // What it has been asked to grow to it is growing to: that is waited for, and not asked for again.
                return Ok(VolumeSeen::There { bytes: *bytes.max(requested), uid });
            }
            None | Some(_) => {}
        }
        let question = self.question("PersistentVolumeClaim", claim);
        match self.inner.confirmed(&question, live, ANSWER_HOLDS) {
            Confirmed::AsSeen => Ok(VolumeSeen::Lost),
            Confirmed::Unseen | Confirmed::NotYet => Err(question),
        }
    }

    fn question(&self, kind: &'static str, name: &str) -> Question {
        Question { tenant: self.tenant, namespace: self.namespace.to_owned(), kind, name: name.to_owned() }
    }

    /// A part of a tenant that cannot be rendered.
    fn unrendered(&self, job: &Job, part: Part) -> PartSeen {
        let why = job.rendered.as_ref().err().cloned().unwrap_or_default();
        let recorded = self.home.recorded().into_iter().flat_map(|record| &record.objects);
        match part {
            Part::Routes => {
                let mut routes = recorded.filter(|made| made.part == part.into());
                if routes.any(|made| self.inner.peek(self.home, &made.id()).is_some()) { PartSeen::Differs } else { PartSeen::Missing }
            }
            Part::Bounds | Part::Secrets | Part::Workloads => PartSeen::Blocked(why),
        }
    }

    fn part(&mut self, job: &Job, rendered: &Rendered, part: Part) -> PartSeen {
        let mut found = Found::default();
        let mut wanted = 0;
        if part == Part::Bounds {
            wanted += 1;
            found.there += 1;
            if namespace_differs(self.inner, job, rendered, self.namespace) {
                found.wrong = true;
                found.first = Some("the namespace's labels".to_owned());
            }
        }
        if part == Part::Secrets {
            wanted += rendered.secrets.len();
            for plan in &rendered.secrets {
                if let Some(seen) = self.secret(job, plan, &mut found) {
                    return seen;
                }
            }
        }
        let manifests: &[Manifest] = rendered.parts.get(&part).map_or(&[], Vec::as_slice);
        wanted += manifests.len();
        for manifest in manifests {
            if let Some(seen) = self.object(manifest, rendered, &mut found) {
                return seen;
            }
        }
        let stale = part != Part::Secrets && self.stale(part, rendered);
        let is_only_told = self.drift == Drift::Report && part != Part::Secrets && !manifests.is_empty();
        let was_in_step = is_only_told && self.was_in_step(job, rendered, part);
        if let Some(what) = found.first.as_ref().filter(|_| was_in_step) {
            return PartSeen::Blocked(format!("changed by hand, and left as it is (--on-drift report): {what}"));
        }
        if found.there == 0 && wanted > 0 || wanted == 0 && part == Part::Routes && job.intent.role != Role::Run {
            return if stale { PartSeen::Differs } else { PartSeen::Missing };
        }
        // What was begun to stop it is to be taken back, also where nothing was scaled yet.
        let is_stopping = job.intent.role == Role::Run && self.home.record.as_ref().is_some_and(|record| !record.stopping.is_empty());
        if found.wrong || found.there < wanted || part == Part::Workloads && (self.unrecorded(rendered) || is_stopping) {
            return PartSeen::Differs;
        }
        if is_only_told && !was_in_step {
            // To be noted, or nobody could tell what is changed from now on from what is to be made.
            return PartSeen::Differs;
        }
        let waits =
            found.waits.or_else(|| if part == Part::Workloads { self.also(rendered).or_else(|| self.growing(rendered)) } else { None });
        match waits {
            Some(why) => PartSeen::Waits(why),
            // Only when what is new is ready, what was before it goes.
            None if stale => PartSeen::Differs,
            None => PartSeen::Ready,
        }
    }

    /// Whether a part has been as it is rendered now.
    fn was_in_step(&self, job: &Job, rendered: &Rendered, part: Part) -> bool {
        let noted = self.home.record.as_ref().and_then(|record| record.in_step.get(&part.into()));
        noted.is_some_and(|noted| *noted == hash_of(self.inner, self.home, job, rendered, part))
    }

    /// Whether something of a part is recorded, there, ours, and not rendered any more.
    fn stale(&self, part: Part, rendered: &Rendered) -> bool {
        let mut stale = self.home.recorded().into_iter().flat_map(|record| record.stale(part, rendered));
        stale.any(|id| self.inner.peek(self.home, &id).is_some_and(|live| is_ours_to_delete(&id, live)))
    }

    /// Whether something is there that the record does not tell of, or something vanished.
    fn unrecorded(&self, rendered: &Rendered) -> bool {
        let Some(record) = &self.home.record else { return true };
        if !is_written(self.inner, self.home) {
            return true;
        }
        let objects = rendered.parts.values().flatten().all(|manifest| record.objects.iter().any(|made| made.is(&manifest.id)));
        let volumes = rendered.volumes.iter().all(|(name, claim)| {
            let known = record.volumes.get(name.as_str()).and_then(|made| made.uid.as_ref());
            known.is_some() || self.claim(&claim.id.name).is_none()
        });
        let secrets = rendered.secrets.iter().all(|plan| {
            let known = record.secrets.get(&plan.manifest.id.name).and_then(|made| made.hash.as_ref());
            known.is_some() || self.inner.peek(self.home, &plan.manifest.id).is_none()
        });
        !(objects && volumes && secrets)
    }

    /// What must hold beyond the usual, and does not.
    fn also(&self, rendered: &Rendered) -> Option<String> {
        let manifests = || rendered.parts.values().flatten();
        rendered.also.iter().find_map(|observe| {
            let manifest = manifests().find(|manifest| manifest.id.to_string() == observe.object);
            let live = manifest.and_then(|manifest| self.inner.peek(self.home, &manifest.id));
            let holds = live.is_some_and(|live| live.conditions.iter().any(|condition| **condition == *observe.condition));
            (!holds).then(|| format!("{} is not {} yet", observe.object, observe.condition))
        })
    }

    /// A volume that has been asked to grow and has not yet.
    fn growing(&self, rendered: &Rendered) -> Option<String> {
        rendered.volumes.iter().find_map(|(name, claim)| match &self.claim(&claim.id.name)?.extra {
            Extra::Claim { bytes, requested, volume, .. } if bytes < requested && !volume.is_empty() => {
                Some(format!("volume {name} is growing from {} to {} MiB; its storage has to do that", bytes >> 20, requested >> 20))
            }
            Extra::Claim { .. } | Extra::Nothing | Extra::Secret(_) => None,
        })
    }

    /// A secret; `Some` if it decides about the whole part.
    fn secret(&mut self, job: &Job, plan: &SecretPlan, found: &mut Found) -> Option<PartSeen> {
        let name = &plan.manifest.id.name;
        let lost = || match Name::new(name) {
            Ok(name) => PartSeen::Lost(name),
            Err(_) => PartSeen::Blocked(format!("the secret `{name}` was generated once and is not there any more")),
        };
        let original = match &plan.source {
            SecretSource::Copy { from } => match self.inner.templates.get(from) {
                Some(original) => match secrets::not_copied(from, &original.of_type) {
                    Some(why) => return Some(PartSeen::Blocked(why)),
                    None => Some(original),
                },
                None => return Some(PartSeen::Blocked(secrets::no_original(from, name))),
            },
            SecretSource::Generate { .. } => None,
        };
        let live = self.inner.peek(self.home, &plan.manifest.id);
        let hashes = live.map(|live| match &live.extra {
            Extra::Secret(slim) => secrets::missing_key(plan, &slim.hashes).is_none(),
            Extra::Nothing | Extra::Claim { .. } => false,
        });
        let is_lost = match hashes {
            Some(is_whole) => !is_whole,
            None => original.is_none() && was_generated(self.inner, self.home, job, name),
        };
        if is_lost {
            let question = self.question("Secret", name);
            match self.inner.confirmed(&question, live, ANSWER_HOLDS) {
                Confirmed::AsSeen => return Some(lost()),
                // It is there without the label by which it is watched.
                Confirmed::Unseen => found.there += 1,
                Confirmed::NotYet => self.questions.push(question),
            }
            found.wrong = true;
            return None;
        }
        let live = live?;
        found.there += 1;
        found.wrong |= secret_differs(plan, original, live);
        if let Extra::Secret(slim) = &live.extra
            && generated(self.home, name).is_some_and(|hash| original.is_none() && hash != secrets::digest(&slim.hashes))
        {
            found
                .waits
                .get_or_insert_with(|| format!("the secret `{name}` is not the one that was generated: somebody has changed its data"));
        }
        None
    }

    /// An object; `Some` if it decides about the whole part.
    fn object(&self, manifest: &Manifest, rendered: &Rendered, found: &mut Found) -> Option<PartSeen> {
        let id = &manifest.id;
        let kind = self.inner.kind_of(&id.api_version, &id.kind);
        match kind.map(|kind| &self.inner.kinds[kind].served) {
            Some(Served::Listed | Served::Unknown) => {}
            Some(Served::Missing) | None => {
                return Some(PartSeen::Blocked(format!(
                    "the cluster serves no {} ({}); its CRD is missing or broken",
                    id.kind, id.api_version
                )));
            }
            Some(Served::Broken(why)) => return Some(PartSeen::Blocked(why.clone())),
        }
        let Some(live) = self.inner.peek(self.home, id) else {
            found.first.get_or_insert_with(|| format!("{id} is not there"));
            return None;
        };
        found.there += 1;
        if let Err(difference) = differs(self.inner, self.home, manifest, rendered, live) {
            let kept = self.home.applied.get(&id.to_string());
            if kept.is_some_and(|(version, digest)| *version == live.version && *digest == rendered.digest) {
                return Some(PartSeen::Blocked(format!("{id}: the cluster does not keep {difference} as it is applied")));
            }
            found.wrong = true;
            found.first.get_or_insert_with(|| format!("{id}: {difference}"));
        }
        if let Some(waits) = live.waits.as_deref().filter(|_| found.waits.is_none()) {
            let told = self.why_no_pods(&id.to_string()).map(|why| format!("; {why}")).unwrap_or_default();
            found.waits = Some(format!("{id}: {waits}{told}"));
        }
        None
    }

    /// What keeps a workload's pods from running.
    fn why_no_pods(&self, workload: &str) -> Option<&str> {
        let pod = self.home.pods.values().filter(|pod| *pod.owner == *workload).find_map(|pod| pod.trouble.as_deref());
        pod.or_else(|| self.home.told.get(workload).map(|why| &**why))
    }
}

/// The paths of an object that are left to others: only once it is there, and not while we hold it at rest ourselves.
pub(super) fn ceded<'a>(rendered: &'a Rendered, manifest: &Manifest, live: Option<&Live>) -> Vec<&'a [String]> {
    let Some(live) = live.filter(|live| !live.held) else { return Vec::new() };
    if live.owned.is_nothing() || rendered.ceded.is_empty() {
        return Vec::new();
    }
    let id = manifest.id.to_string();
    rendered.ceded.iter().filter(|ceded| ceded.object == id).map(|ceded| ceded.path.as_slice()).collect()
}

/// Whether an object that is there is as rendered.
///
/// # Errors
/// The first field that is not, or that it is held at rest.
pub(super) fn differs(inner: &Inner, home: &Home, manifest: &Manifest, rendered: &Rendered, live: &Live) -> Result<(), String> {
    let body = body(inner, home, rendered, manifest);
    let ceded = ceded(rendered, manifest, Some(live));
    in_step(&body, &live.owned, Ceded::new(&ceded)).map_err(|difference| difference.to_string())?;
    if live.held { Err("what keeps it at rest".to_owned()) } else { Ok(()) }
}

/// Whether a secret that is there is not as it is to be. The data of one that is generated is whatever it was made as.
fn secret_differs(plan: &SecretPlan, original: Option<&SlimSecret>, live: &Live) -> bool {
    let ceded = ["data".to_owned()];
    let ceded: &[&[String]] = if original.is_none() { &[&ceded] } else { &[] };
    let data = original.map_or(Value::Null, |original| json!(original.hashes));
    let body = secrets::body(plan, data, original.map(|original| &*original.of_type));
    in_step(&body, &live.owned, Ceded::new(ceded)).is_err()
}

/// Whether a secret is there as it is to be, and stays.
pub(super) fn has_secret(inner: &Inner, namespace: &str, plan: &SecretPlan) -> bool {
    let original = match &plan.source {
        SecretSource::Copy { from } => match inner.templates.get(from) {
            Some(original) => Some(original),
            None => return false,
        },
        SecretSource::Generate { .. } => None,
    };
    let live = inner.homes.get(namespace).and_then(|home| inner.peek(home, &plan.manifest.id));
    live.is_some_and(|live| match &live.extra {
        Extra::Secret(_) if live.deleting => false,
        Extra::Secret(slim) => secrets::missing_key(plan, &slim.hashes).is_none() && !secret_differs(plan, original, live),
        Extra::Nothing | Extra::Claim { .. } => false,
    })
}

/// A hash of all that a part is to be, also of what of it does not come from the class.
pub(super) fn hash_of(inner: &Inner, home: &Home, job: &Job, rendered: &Rendered, part: Part) -> String {
    let mut hasher = blake3::Hasher::new();
    for manifest in rendered.parts.get(&part).into_iter().flatten() {
        hasher.update(body(inner, home, rendered, manifest).to_string().as_bytes());
    }
    if part == Part::Bounds {
        let mut space = namespace_body(job, rendered);
        space["metadata"]["labels"][EPOCH_LABEL] = Value::Null;
        hasher.update(space.to_string().as_bytes());
    }
    hasher.finalize().to_hex()[..16].to_owned()
}

/// Whether the namespace is not as it is to be; its epoch is looked at apart.
pub(super) fn namespace_differs(inner: &Inner, job: &Job, rendered: &Rendered, namespace: &str) -> bool {
    let body = namespace_body(job, rendered);
    // The one only goes up. The other was written once; there may be no annotations beside it.
    let epoch = ["metadata", "labels", EPOCH_LABEL].map(str::to_owned);
    let plan = ["metadata", "annotations", record::PLAN].map(str::to_owned);
    let plan = if body["metadata"]["annotations"].is_object() { &plan[..] } else { &plan[..2] };
    let space = inner.homes.get(namespace).and_then(|home| home.space.as_ref());
    space.is_none_or(|space| in_step(&body, &space.live.owned, Ceded::new(&[&epoch, plan])).is_err())
}
