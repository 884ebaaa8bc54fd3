//! What is there of a tenant, out of the store and compared with what was rendered. No I/O: what is recorded and not seen is asked for by
//! others, and until that is answered nothing is said.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use roadstead_class::{Manifest, Rendered, SecretPlan, SecretSource};
use roadstead_core::id::{Epoch, Name, TenantId, VolumeUid};
use roadstead_core::intent::Role;
use roadstead_core::reconcile::{Home as HomeSeen, Part, PartSeen, TenantSeen, VolumeSeen};
use serde_json::{Value, json};

use super::compare::{Ceded, in_step};
use super::secrets;
use super::store::{Extra, Home, Inner, Live, Served};
use super::{EPOCH_LABEL, SHARD_LABEL, TENANT_LABEL, words};
use crate::interpreter::{Failed, Job};

/// The label that every namespace has.
const NAME_OF_NAMESPACE: &str = "kubernetes.io/metadata.name";

/// What is asked of the API server before anything is called lost: namespace, kind, name.
pub(super) type Question = (String, &'static str, String);

/// The name of a tenant's namespace: what is rendered says, else what is labelled.
pub(super) fn namespace_of(inner: &Inner, id: TenantId, rendered: Option<&Rendered>) -> Option<String> {
    match rendered {
        Some(rendered) => Some(rendered.namespace.id.name.clone()),
        None => inner.spaces.get(&id).and_then(|names| names.first().cloned()),
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
    let recorded =
        || home.record.as_ref().is_some_and(|record| record.tenant == id.to_string() && *record.namespace_uid == *space.live.uid);
    match (space.tenant, &space.label) {
        (Some(tenant), _) if tenant == id => {}
        // Its label was taken away, and what is in it says whose it is.
        (None, None) if recorded() => {}
        (Some(tenant), _) => return HomeSeen::Foreign(format!("a namespace of tenant {tenant}")),
        (None, Some(label)) => return HomeSeen::Foreign(format!("a namespace that is labelled {TENANT_LABEL}={label}")),
        (None, None) => return HomeSeen::Foreign("a namespace that is no tenant's".to_owned()),
    }
    if space.live.deleting {
        return HomeSeen::Terminating;
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
    for state in &inner.kinds {
        match &state.served {
            Served::Unknown => return Err(words::again(format!("{} objects have not been listed yet", state.kind.kind))),
            Served::Broken(why) if super::ALWAYS.iter().any(|(_, kind)| *kind == state.kind.kind) => return Err(words::again(why.clone())),
            Served::Listed | Served::Missing | Served::Broken(_) => {}
        }
    }
    Ok(())
}

/// What is known of a tenant without an intent.
pub(super) fn labelled(inner: &Inner, id: TenantId, namespace: &str) -> TenantSeen {
    let Some(home) = inner.homes.get(namespace) else { return TenantSeen::default() };
    let look = Look { inner, home, rendered: None, questions: Vec::new(), namespace };
    let volumes = look.volume_names().into_iter().filter_map(|(name, claim)| Some((name, look.volume(&claim, None).ok()?))).collect();
    TenantSeen { home: home_of(Some(home), id), parts: BTreeMap::new(), volumes, at_rest: look.at_rest(), rendering: None }
}

/// What is there of a tenant; and what must be asked first, if anything.
pub(super) fn seen(inner: &Inner, job: &Job, namespace: Option<&str>, rendered: Option<&Rendered>) -> Result<TenantSeen, Vec<Question>> {
    let found = namespace.and_then(|namespace| Some((namespace, inner.homes.get(namespace)?)));
    let home_seen = home_of(found.map(|(_, home)| home), job.intent.id);
    let (Some((namespace, home)), HomeSeen::Ours(_) | HomeSeen::Terminating) = (found, &home_seen) else {
        return Ok(TenantSeen { home: home_seen, parts: nothing_there(job), ..TenantSeen::default() });
    };
    let mut look = Look { inner, home, rendered, questions: Vec::new(), namespace };
    let rendering = rendered.map(|rendered| rendering(inner, rendered));
    let mut seen = TenantSeen { home: home_seen, at_rest: look.at_rest(), rendering, ..TenantSeen::default() };
    for (name, claim) in look.volume_names() {
        let recorded = home.record.as_ref().and_then(|record| record.volumes.get(name.as_str())).and_then(|made| made.uid.as_deref());
        match look.volume(&claim, recorded) {
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
}

/// What has been found of a part so far.
#[derive(Default)]
struct Found {
    there: usize,
    wrong: bool,
    waits: Option<String>,
}

impl Look<'_> {
    /// Volumes by name with their claims: those that are rendered and those that have been.
    fn volume_names(&self) -> BTreeMap<Name, String> {
        let recorded = self.home.record.iter().flat_map(|record| &record.volumes);
        let recorded = recorded.filter_map(|(name, made)| Some((Name::new(name).ok()?, made.claim.clone())));
        let rendered = self.rendered.iter().flat_map(|rendered| &rendered.volumes);
        rendered.map(|(name, claim)| (name.clone(), claim.id.name.clone())).chain(recorded).collect()
    }

    fn claim(&self, name: &str) -> Option<&Live> {
        let kind = self.inner.kind_of("v1", "PersistentVolumeClaim")?;
        self.home.objects.get(&kind)?.get(name)
    }

    fn volume(&self, claim: &str, recorded: Option<&str>) -> Result<VolumeSeen, Question> {
        let Some(live) = self.claim(claim) else {
            return match (recorded, self.asked("PersistentVolumeClaim", claim)) {
                (None, _) => Ok(VolumeSeen::Never),
                (Some(_), Some(false)) => Ok(VolumeSeen::Lost),
                (Some(_), Some(true) | None) => Err(self.question("PersistentVolumeClaim", claim)),
            };
        };
        let (Extra::Claim { bytes, lost, .. }, Ok(uid)) = (&live.extra, live.uid.parse::<VolumeUid>()) else { return Ok(VolumeSeen::Lost) };
        let another = recorded.is_some_and(|recorded| *recorded != *live.uid);
        Ok(if *lost || another { VolumeSeen::Lost } else { VolumeSeen::There { bytes: *bytes, uid } })
    }

    fn asked(&self, kind: &'static str, name: &str) -> Option<bool> {
        self.home.asked.get(&(kind, name.into())).copied()
    }

    fn question(&self, kind: &'static str, name: &str) -> Question {
        (self.namespace.to_owned(), kind, name.to_owned())
    }

    /// Whether nothing of it can write any more. What cannot be listed is not known to be at rest.
    fn at_rest(&self) -> bool {
        let known = self.inner.kinds.iter().all(|state| matches!(state.served, Served::Listed | Served::Missing));
        let objects = self.home.objects.values().flat_map(BTreeMap::values);
        let vanished = self.home.vanished.values().any(|node| self.inner.nodes.get(&**node) == Some(&false));
        let attached = |claim: &Live| match &claim.extra {
            Extra::Claim { volume, .. } => self.inner.attachments.values().any(|attached| **attached == **volume),
            Extra::Nothing | Extra::Secret(_) => false,
        };
        known && self.home.pods.is_empty() && !vanished && objects.into_iter().all(|live| live.at_rest && !attached(live))
    }

    /// A part of a tenant that cannot be rendered.
    fn unrendered(&self, job: &Job, part: Part) -> PartSeen {
        let why = job.rendered.as_ref().err().cloned().unwrap_or_default();
        let recorded = self.home.record.iter().flat_map(|record| &record.objects);
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
            found.wrong |= namespace_differs(self.inner, job, rendered, self.namespace);
        }
        if part == Part::Secrets {
            wanted += rendered.secrets.len();
            for plan in &rendered.secrets {
                if let Some(seen) = self.secret(plan, &mut found) {
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
        let stale = self.stale(part, rendered);
        if found.there == 0 && wanted > 0 || wanted == 0 && part == Part::Routes && job.intent.role != Role::Run {
            return if stale { PartSeen::Differs } else { PartSeen::Missing };
        }
        if found.wrong || found.there < wanted || part == Part::Workloads && self.unrecorded(rendered) {
            return PartSeen::Differs;
        }
        let waits = found.waits.or_else(|| if part == Part::Workloads { self.also(rendered) } else { None });
        match waits {
            Some(why) => PartSeen::Waits(why),
            // Only when what is new is ready, what was before it goes.
            None if stale => PartSeen::Differs,
            None => PartSeen::Ready,
        }
    }

    /// Whether something of a part is recorded, there, ours, and not rendered any more.
    fn stale(&self, part: Part, rendered: &Rendered) -> bool {
        let mut stale = self.home.record.iter().flat_map(|record| record.stale(part, rendered));
        stale.any(|made| {
            self.inner.peek(self.home, &made.id()).is_some_and(|live| !live.controlled && !live.deleting && !live.owned.is_nothing())
        })
    }

    /// Whether something is there that the record does not tell of.
    fn unrecorded(&self, rendered: &Rendered) -> bool {
        let Some(record) = &self.home.record else { return true };
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

    /// A secret; `Some` if it decides about the whole part.
    fn secret(&mut self, plan: &SecretPlan, found: &mut Found) -> Option<PartSeen> {
        let name = &plan.manifest.id.name;
        let lost = || match Name::new(name) {
            Ok(name) => PartSeen::Lost(name),
            Err(_) => PartSeen::Blocked(format!("the secret `{name}` was generated once and is not there any more")),
        };
        let recorded = self.home.record.as_ref().and_then(|record| record.secrets.get(name));
        let data = match &plan.source {
            SecretSource::Copy { from } => match self.inner.templates.get(from) {
                Some(data) => Some(data),
                None => {
                    return Some(PartSeen::Blocked(format!(
                        "the secret `{from}`, which `{name}` is copied from, is not in the template namespace"
                    )));
                }
            },
            SecretSource::Generate { .. } => None,
        };
        let Some(live) = self.inner.peek(self.home, &plan.manifest.id) else {
            if data.is_none() && recorded.is_some_and(|made| made.generated && made.hash.is_some()) {
                match self.asked("Secret", name) {
                    Some(false) => return Some(lost()),
                    // It is there without the label by which it is watched.
                    Some(true) => found.there += 1,
                    None => self.questions.push(self.question("Secret", name)),
                }
                found.wrong = true;
            }
            return None;
        };
        found.there += 1;
        let Extra::Secret(hashes) = &live.extra else { return None };
        if secrets::missing_key(plan, hashes).is_some() {
            return Some(lost());
        }
        let ceded = ["data".to_owned()];
        let ceded: &[&[String]] = if data.is_none() { &[&ceded] } else { &[] };
        let body = secrets::body(plan, data.map_or(Value::Null, |data| json!(data)));
        found.wrong |= in_step(&body, &live.owned, Ceded::new(ceded)).is_err();
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
        let live = self.inner.peek(self.home, id)?;
        found.there += 1;
        if let Err(difference) = differs(self.inner, self.home, manifest, rendered, live) {
            let kept = self.home.applied.get(&id.to_string());
            if kept.is_some_and(|(version, digest)| *version == live.version && *digest == rendered.digest) {
                return Some(PartSeen::Blocked(format!("{id}: the cluster does not keep {difference} as it is applied")));
            }
            found.wrong = true;
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
    let hashes = |name: &str| secret_hashes(inner, home, name);
    let body = secrets::with_restarts(&manifest.body, rendered, &hashes);
    let ceded = ceded(rendered, manifest, Some(live));
    in_step(&body, &live.owned, Ceded::new(&ceded)).map_err(|difference| difference.to_string())?;
    if live.held { Err("what keeps it at rest".to_owned()) } else { Ok(()) }
}

/// Whether the namespace is not as it is to be; its epoch is looked at apart.
pub(super) fn namespace_differs(inner: &Inner, job: &Job, rendered: &Rendered, namespace: &str) -> bool {
    let epoch = ["metadata", "labels", EPOCH_LABEL].map(str::to_owned);
    let space = inner.homes.get(namespace).and_then(|home| home.space.as_ref());
    space.is_none_or(|space| in_step(&namespace_body(job, rendered), &space.live.owned, Ceded::new(&[&epoch])).is_err())
}

/// Hashes of a secret of the tenant.
pub(super) fn secret_hashes(inner: &Inner, home: &Home, name: &str) -> Option<secrets::Hashes> {
    let kind = inner.kind_of("v1", "Secret")?;
    match &home.objects.get(&kind)?.get(name)?.extra {
        Extra::Secret(hashes) => Some(hashes.clone()),
        Extra::Nothing | Extra::Claim { .. } => None,
    }
}
