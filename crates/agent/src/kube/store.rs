//! What is there, as the watches last told: by namespace, as little of each object as comparing and judging needs.
//!
//! It is fed by watches and by the answers to our own writes, and asked by everybody. An answer that the watch has already overtaken is
//! dropped, so that what was deleted since does not come back.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Mutex, PoisonError, RwLock, RwLockReadGuard};
use std::time::Duration;

use kube::api::{ApiResource, DynamicObject};
use roadstead_class::ObjectId;
use roadstead_core::id::{Epoch, Incarnation, Revision, TenantId, VolumeUid};
use roadstead_core::reconcile::TenantSeen;
use serde_json::Value;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::owned::{Names, Owned, held};
use super::pods::SlimPod;
use super::record::{self, Record, Vanished, group};
use super::secrets::SlimSecret;
use super::{EPOCH_LABEL, Kind, TENANT_LABEL, ready, secrets};
use crate::interpreter::Changed;

/// A place in [`Inner::kinds`].
pub(super) type KindId = usize;

/// An object's `resourceVersion` as a number: they are etcd's revisions. Zero if there is none.
pub(super) fn version(text: Option<&str>) -> u64 {
    text.and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// One object.
#[derive(Clone, Debug)]
pub(super) struct Live {
    pub(super) version: u64,
    pub(super) uid: Box<str>,
    /// What of it is ours.
    pub(super) owned: Owned,
    /// Whether a controller of another object looks after it: it is never pruned.
    pub(super) controlled: bool,
    /// Whether it is held at rest.
    pub(super) held: bool,
    /// Whether it is on its way out.
    pub(super) deleting: bool,
    /// What it waits for.
    pub(super) waits: Option<Box<str>>,
    /// Types of its conditions that are true.
    pub(super) conditions: Box<[Box<str>]>,
    /// Whether nothing can start because of it.
    pub(super) at_rest: bool,
    /// What is needed of some kinds only.
    pub(super) extra: Extra,
}

/// What is needed of some kinds only.
#[derive(Clone, Debug)]
pub(super) enum Extra {
    Nothing,
    /// A PersistentVolumeClaim: whose it is and of which epoch, how large it is and is to be, whether it has lost its volume, which one that is.
    Claim {
        tenant: Option<TenantId>,
        epoch: Option<Epoch>,
        bytes: u64,
        requested: u64,
        lost: bool,
        volume: Box<str>,
    },
    /// A Secret.
    Secret(SlimSecret),
}

impl Live {
    /// What is kept of an object.
    pub(super) fn of(kind: &Kind, mut object: DynamicObject, names: &Names) -> Self {
        let entries = object.metadata.managed_fields.take().unwrap_or_default();
        // All of it as one tree, without copying what is large.
        let mut live = object.data.take();
        if let Some(fields) = live.as_object_mut() {
            fields.insert("metadata".to_owned(), serde_json::to_value(&object.metadata).unwrap_or_default());
        }
        let extra = match kind.kind.as_str() {
            "Secret" => {
                let hashes = secrets::hashes(&live["data"]);
                // A comparison sees hashes, and so does a dump of this process.
                if let Some(data) = live.get_mut("data").filter(|data| data.is_object()) {
                    *data = serde_json::to_value(&hashes).unwrap_or_default();
                }
                Extra::Secret(SlimSecret::new(live["type"].as_str(), hashes))
            }
            "PersistentVolumeClaim" => claim(&live),
            _ => Extra::Nothing,
        };
        let owners = object.metadata.owner_references.iter().flatten();
        Self {
            version: version(object.metadata.resource_version.as_deref()),
            uid: object.metadata.uid.as_deref().unwrap_or_default().into(),
            owned: match Owned::of(&live, &entries, names) {
                // It is created, so that nobody else's is taken over; it need not be applied for that.
                owned if owned.is_nothing() && kind.kind == "Namespace" => Owned::created(&live, &entries, names),
                owned => owned,
            },
            controlled: owners.into_iter().any(|owner| owner.controller == Some(true)),
            held: held(&entries),
            deleting: object.metadata.deletion_timestamp.is_some(),
            waits: ready::waits(&kind.kind, &live).map(Box::from),
            conditions: ready::true_conditions(&live),
            at_rest: ready::at_rest(&kind.kind, &live),
            extra,
        }
    }
}

fn claim(live: &Value) -> Extra {
    let size = |path: &str| live.pointer(path).and_then(super::compare::nano).and_then(|nano| u64::try_from(nano / 1_000_000_000).ok());
    let requested = size("/spec/resources/requests/storage").unwrap_or(0);
    Extra::Claim {
        tenant: live["metadata"]["labels"][TENANT_LABEL].as_str().and_then(tenant_of),
        epoch: live["metadata"]["labels"][EPOCH_LABEL].as_str().and_then(epoch_of),
        bytes: size("/status/capacity/storage").unwrap_or(requested),
        requested,
        lost: live["status"]["phase"] == "Lost",
        volume: live["spec"]["volumeName"].as_str().unwrap_or_default().into(),
    }
}

/// A namespace.
#[derive(Clone, Debug)]
pub(super) struct Space {
    /// Its own object.
    pub(super) live: Live,
    /// The tenant that its label names.
    pub(super) tenant: Option<TenantId>,
    /// What the label says, if it names no tenant.
    pub(super) label: Option<Box<str>>,
    /// The epoch that its label names; the oldest of all without one.
    pub(super) epoch: Epoch,
    /// Why it does not end, while it is on its way out.
    pub(super) stuck: Option<Box<str>>,
    /// What was to be made in it when it was created.
    pub(super) planned: Option<Box<Record>>,
}

impl Space {
    /// What is kept of a namespace.
    pub(super) fn of(kind: &Kind, object: DynamicObject, names: &Names) -> Self {
        let label = |name: &str| object.metadata.labels.iter().flatten().find(|(known, _)| *known == name).map(|(_, value)| value.clone());
        let text = label(TENANT_LABEL);
        let conditions = object.data["status"]["conditions"].as_array().map_or(&[][..], Vec::as_slice);
        let holds = conditions.iter().filter(|condition| condition["status"] == "True");
        let messages: Vec<&str> = holds.filter_map(|condition| condition["message"].as_str()).collect();
        Self {
            tenant: text.as_deref().and_then(tenant_of),
            epoch: label(EPOCH_LABEL).as_deref().and_then(epoch_of).unwrap_or_default(),
            label: text.map(Box::from),
            planned: Record::planned(&object.metadata).map(Box::new),
            stuck: (!messages.is_empty()).then(|| messages.join("; ").into()),
            live: Live::of(kind, object, names),
        }
    }
}

/// The tenant that a label names: 16 hexadecimal digits.
pub(super) fn tenant_of(label: &str) -> Option<TenantId> {
    (label.len() == 16).then(|| u64::from_str_radix(label, 16).ok().map(TenantId)).flatten()
}

/// The epoch that a label names, as in `0.17`.
pub(super) fn epoch_of(label: &str) -> Option<Revision> {
    let (incarnation, index) = label.split_once('.')?;
    Some(Revision { incarnation: Incarnation(incarnation.parse().ok()?), index: index.parse().ok()? })
}

/// A namespace and what is in it.
#[derive(Debug, Default)]
pub(super) struct Home {
    pub(super) space: Option<Space>,
    pub(super) objects: BTreeMap<KindId, BTreeMap<Box<str>, Live>>,
    pub(super) pods: BTreeMap<Box<str>, SlimPod>,
    /// By UID, as far as this process saw them vanish; what was written down of them is in the record.
    pub(super) vanished: BTreeMap<String, Vanished>,
    /// Whether the API server has answered that there are no pods, since anything was last seen that runs or makes some.
    pub(super) has_no_pods: bool,
    /// What was written down in it.
    pub(super) record: Option<Record>,
    /// Whether this process created it and has written nothing down in it yet: nothing is in it that is not seen.
    pub(super) is_new: bool,
    /// Why pods of a workload are not made, as events tell.
    pub(super) told: BTreeMap<Box<str>, Box<str>>,
    /// What the API server does not keep as applied: object, its version, the digest that was applied.
    pub(super) applied: BTreeMap<String, (u64, String)>,
    /// Goes up with each change.
    pub(super) changes: u64,
    /// What was last found out, and for what.
    pub(super) cached: Mutex<Option<(CacheKey, TenantSeen)>>,
}

impl Home {
    /// What is known to have been made, or to have been about to be when it was created.
    pub(super) fn recorded(&self) -> Option<&Record> {
        self.record.as_ref().or_else(|| self.space.as_ref()?.planned.as_deref())
    }
}

/// What an answer depends on: the rendering's digest, whether the tenant is to run, the volumes that it is known to have, the changes here,
/// those of what is shared.
pub(super) type CacheKey = (String, bool, Box<[Option<VolumeUid>]>, u64, u64);

/// What is asked of the API server before anything is called lost or gone: watches may lag behind.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Question {
    /// For whom: looked at again when it is answered.
    pub(super) tenant: TenantId,
    /// Empty for a namespace.
    pub(super) namespace: String,
    /// Of the core group.
    pub(super) kind: &'static str,
    pub(super) name: String,
}

impl Question {
    /// Namespace and name.
    fn place(&self) -> (String, String) {
        (self.namespace.clone(), self.name.clone())
    }

    /// Whether a tenant's namespace has any pods. That its workloads are at rest is told by watches of their own, which may be far ahead of that of
    /// the pods.
    pub(super) fn of_pods(tenant: TenantId, namespace: &str) -> Self {
        Self { tenant, namespace: namespace.to_owned(), kind: POD, name: String::new() }
    }

    /// That it is being asked, in words.
    pub(super) fn words(&self) -> String {
        if self.kind == POD {
            "its pods are being looked for".to_owned()
        } else {
            format!("{}/{} is being looked for", self.kind, self.name)
        }
    }
}

/// The kind of [`Question::of_pods`].
pub(super) const POD: &str = "Pod";

/// How long an answer holds. What was found out by it is kept with what was seen, until something changes there.
pub(super) const ANSWER_HOLDS: Duration = Duration::from_secs(20);
/// How long it holds that there is no namespace of a tenant that is only to be stopped, with which nothing can be kept, unless anything is seen in one of its
/// name: many times as long as it takes until all tenants are looked at again, so that those of whom nothing is there do not cost a request each time.
pub(super) const NO_NAMESPACE_HOLDS: Duration = Duration::from_secs(600);

/// What the API server answered: the object's version, if it is there.
#[derive(Clone, Copy, Debug)]
struct Answer {
    at: Instant,
    version: Option<u64>,
}

/// What was answered about an object, beside what is seen of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Confirmed {
    /// It is, or is not, there just so.
    AsSeen,
    /// It is there, and is not seen.
    Unseen,
    /// It has not been asked, or has changed since.
    NotYet,
}

/// Whether the cluster serves a kind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Served {
    /// Not known yet.
    #[default]
    Unknown,
    /// It does, and all of it has been listed.
    Listed,
    /// It does not.
    Missing,
    /// It cannot be listed, and why: what there is of it is not known.
    Broken(String),
}

/// One kind.
#[derive(Debug)]
pub(super) struct KindState {
    pub(super) kind: Kind,
    pub(super) served: Served,
    pub(super) resource: Option<ApiResource>,
    /// The newest version that its watch has brought.
    seen: u64,
}

/// Everything.
#[derive(Debug, Default)]
pub(super) struct Inner {
    pub(super) kinds: Vec<KindState>,
    pub(super) homes: HashMap<String, Home>,
    pub(super) spaces: HashMap<TenantId, BTreeSet<String>>,
    /// Whether each node is ready.
    pub(super) nodes: HashMap<String, bool>,
    /// PersistentVolume by VolumeAttachment.
    pub(super) attachments: HashMap<String, String>,
    /// Secrets that are copied from, by name.
    pub(super) templates: BTreeMap<String, SlimSecret>,
    /// The namespace that they are in.
    pub(super) templates_from: String,
    /// Lists other than of kinds that have been read once: pods, nodes, attachments, templates.
    pub(super) listed: BTreeSet<&'static str>,
    /// Goes up when something changes that concerns more than one tenant.
    pub(super) shared: u64,
    /// By kind, then by namespace and name.
    answers: HashMap<&'static str, HashMap<(String, String), Answer>>,
}

impl Inner {
    /// The place of a kind.
    pub(super) fn kind_of(&self, api_version: &str, kind: &str) -> Option<KindId> {
        let exact = self.kinds.iter().position(|known| known.kind.kind == kind && known.kind.api_version == api_version);
        // An object is the same one in every version of its API that is served.
        let same = |known: &KindState| known.kind.kind == kind && group(&known.kind.api_version) == group(api_version);
        exact.or_else(|| self.kinds.iter().position(|known| same(known) && known.served != Served::Missing))
    }

    /// The namespaces with a claim that is bound to this volume.
    pub(super) fn with_volume(&self, volume: &str) -> Vec<String> {
        let bound = |live: &Live| matches!(&live.extra, Extra::Claim { volume: bound, .. } if **bound == *volume);
        let homes = self.homes.iter().filter(|(_, home)| home.objects.values().flat_map(BTreeMap::values).any(bound));
        homes.map(|(namespace, _)| namespace.clone()).collect()
    }

    /// Whether what is seen of an object is what the API server answered, so long ago at most.
    pub(super) fn confirmed(&self, question: &Question, seen: Option<&Live>, within: Duration) -> Confirmed {
        let answers = self.answers.get(question.kind);
        let answer = answers.and_then(|answers| answers.get(&question.place())).filter(|answer| answer.at.elapsed() < within);
        match (answer, seen) {
            (Some(Answer { version: None, .. }), None) => Confirmed::AsSeen,
            (Some(Answer { version: Some(version), .. }), Some(live)) if *version == live.version => Confirmed::AsSeen,
            (Some(Answer { version: Some(_), .. }), None) => Confirmed::Unseen,
            (Some(_) | None, _) => Confirmed::NotYet,
        }
    }

    /// Something was heard of an object: what was answered about it is over.
    fn forget_answers(&mut self, kind: KindId, namespace: Option<&str>, name: &str) {
        if self.answers.is_empty() {
            return;
        }
        if let Some(answers) = self.answers.get_mut(self.kinds[kind].kind.kind.as_str()) {
            answers.remove(&(namespace.unwrap_or_default().to_owned(), name.to_owned()));
        }
    }

    /// An object of a namespace.
    pub(super) fn peek<'a>(&self, home: &'a Home, id: &ObjectId) -> Option<&'a Live> {
        home.objects.get(&self.kind_of(&id.api_version, &id.kind)?)?.get(id.name.as_str())
    }
}

/// What is there.
#[derive(Debug, Default)]
pub(super) struct Store {
    inner: RwLock<Inner>,
    changed: Mutex<(BTreeSet<TenantId>, bool)>,
    wake: Notify,
    pub(super) names: Names,
}

impl Store {
    /// Nothing is known yet. The first kind that is added must be Namespace.
    pub(super) fn new(templates_from: &str) -> Self {
        let inner = Inner { templates_from: templates_from.to_owned(), ..Inner::default() };
        Self { inner: RwLock::new(inner), ..Self::default() }
    }

    /// Takes a kind in of which nothing is known yet; `None` if there is one already that is the same.
    pub(super) fn add(&self, kind: Kind) -> Option<KindId> {
        let mut inner = self.inner.write().unwrap_or_else(PoisonError::into_inner);
        if inner.kind_of(&kind.api_version, &kind.kind).is_some() {
            return None;
        }
        inner.kinds.push(KindState { kind, served: Served::Unknown, resource: None, seen: 0 });
        Some(inner.kinds.len() - 1)
    }

    /// What is there now.
    pub(super) fn read(&self) -> RwLockReadGuard<'_, Inner> {
        self.inner.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes something that concerns more than one tenant.
    pub(super) fn shared(&self, change: impl FnOnce(&mut Inner)) {
        let mut inner = self.inner.write().unwrap_or_else(PoisonError::into_inner);
        change(&mut inner);
        inner.shared += 1;
        let all: Vec<TenantId> = inner.spaces.keys().copied().collect();
        drop(inner);
        self.tell(all, true);
    }

    /// Changes something that concerns the namespaces that are returned.
    pub(super) fn some(&self, change: impl FnOnce(&mut Inner) -> Vec<String>) {
        let names = change(&mut self.inner.write().unwrap_or_else(PoisonError::into_inner));
        for name in names {
            self.touched(self.inner.write().unwrap_or_else(PoisonError::into_inner), &name);
        }
    }

    /// Changes something of one namespace.
    pub(super) fn of_home(&self, namespace: &str, change: impl FnOnce(&mut Home)) {
        let mut inner = self.inner.write().unwrap_or_else(PoisonError::into_inner);
        let home = inner.homes.entry(namespace.to_owned()).or_default();
        change(home);
        self.touched(inner, namespace);
    }

    /// A question was answered: with the object, or that there is none. What is there is seen from now on, also where its watch lags behind.
    pub(super) fn answered(&self, question: Question, kind: KindId, object: Option<DynamicObject>) {
        let (tenant, namespace) = (question.tenant, question.namespace.clone());
        let version = object.as_ref().map(|object| version(object.metadata.resource_version.as_deref()));
        if let Some(object) = object {
            self.put(kind, object, true);
        }
        let mut inner = self.inner.write().unwrap_or_else(PoisonError::into_inner);
        let answers = inner.answers.entry(question.kind).or_default();
        answers.retain(|_, answer| answer.at.elapsed() < if kind == 0 { NO_NAMESPACE_HOLDS } else { ANSWER_HOLDS });
        answers.insert(question.place(), Answer { at: Instant::now(), version });
        self.touched(inner, &namespace);
        self.tell([tenant], false);
    }

    /// How often something has changed in a namespace.
    pub(super) fn changes(&self, namespace: &str) -> Option<u64> {
        self.read().homes.get(namespace).map(|home| home.changes)
    }

    /// A question was answered with no: there are no pods in the namespace. An answer that may be older than what has changed there since is none.
    pub(super) fn has_no_pods(&self, question: &Question, before: Option<u64>) {
        self.of_home(&question.namespace, |home| home.has_no_pods |= Some(home.changes) == before);
        self.tell([question.tenant], false);
    }

    /// That there is no such namespace is not known any more.
    pub(super) fn forget_namespace(&self, namespace: &str) {
        self.inner.write().unwrap_or_else(PoisonError::into_inner).forget_answers(0, None, namespace);
    }

    fn touched(&self, mut inner: std::sync::RwLockWriteGuard<'_, Inner>, namespace: &str) {
        let Some(home) = inner.homes.get_mut(namespace) else { return };
        home.changes += 1;
        let is_unseen = home.space.is_none();
        let tenant = home.space.as_ref().and_then(|space| space.tenant);
        let empty =
            home.space.is_none() && home.pods.is_empty() && home.objects.values().all(BTreeMap::is_empty) && home.vanished.is_empty();
        if empty {
            inner.homes.remove(namespace);
        }
        if is_unseen {
            inner.forget_answers(0, None, namespace);
        }
        drop(inner);
        self.tell(tenant, false);
    }

    fn tell(&self, tenants: impl IntoIterator<Item = TenantId>, cluster: bool) {
        let mut changed = self.changed.lock().unwrap_or_else(PoisonError::into_inner);
        changed.0.extend(tenants);
        changed.1 |= cluster;
        if !changed.0.is_empty() || changed.1 {
            self.wake.notify_one();
        }
    }

    /// Waits until something changed. What one caller hears no other does.
    pub(super) async fn changed(&self) -> Changed {
        loop {
            {
                let mut changed = self.changed.lock().unwrap_or_else(PoisonError::into_inner);
                let (tenants, cluster) = std::mem::take(&mut *changed);
                if !tenants.is_empty() || cluster {
                    return Changed { tenants: tenants.into_iter().collect(), cluster };
                }
            }
            self.wake.notified().await;
        }
    }

    /// An object is there: told by its watch, or (`answer`) by the API server to whoever wrote it.
    pub(super) fn put(&self, kind: KindId, object: DynamicObject, answer: bool) {
        let Some(name) = object.metadata.name.clone() else { return };
        let version = version(object.metadata.resource_version.as_deref());
        let (kind_known, is_space) = {
            let mut inner = self.inner.write().unwrap_or_else(PoisonError::into_inner);
            inner.forget_answers(kind, object.metadata.namespace.as_deref(), &name);
            let state = &mut inner.kinds[kind];
            if answer && version <= state.seen {
                return;
            }
            if !answer {
                state.seen = state.seen.max(version);
            }
            let known = state.kind.clone();
            // What we wrote comes once as the answer and once by the watch.
            if Self::knows(&inner, kind, &object, version) {
                return;
            }
            (known, kind == 0)
        };
        // Reading it is the work: done without the lock.
        if is_space {
            let space = Space::of(&kind_known, object, &self.names);
            return self.put_space(name, space);
        }
        let Some(namespace) = object.metadata.namespace.clone() else { return };
        let record = (kind_known.kind == "ConfigMap" && name == record::NAME).then(|| Record::of(&object.data)).flatten();
        let live = Live::of(&kind_known, object, &self.names);
        self.of_home(&namespace, |home| {
            let objects = home.objects.entry(kind).or_default();
            if objects.get(name.as_str()).is_some_and(|known| known.version > live.version) {
                return;
            }
            if record.is_some() {
                (home.record, home.is_new) = (record, false);
            }
            home.has_no_pods &= live.at_rest;
            if live.waits.is_none() {
                home.told.remove(format!("{}/{name}", kind_known.kind).as_str());
            }
            objects.insert(name.into(), live);
        });
    }

    fn put_space(&self, name: String, space: Space) {
        let mut inner = self.inner.write().unwrap_or_else(PoisonError::into_inner);
        let home = inner.homes.entry(name.clone()).or_default();
        if home.space.as_ref().is_some_and(|known| known.live.version > space.live.version) {
            return;
        }
        // Another one of its name, created by whomever.
        let is_same = home.space.as_ref().is_some_and(|known| known.live.uid == space.live.uid);
        (home.is_new, home.has_no_pods) = (home.is_new && is_same, home.has_no_pods && is_same);
        let (tenant, before) = (space.tenant, home.space.replace(space).and_then(|space| space.tenant));
        self.moved(inner, &name, before, tenant);
    }

    fn moved(&self, mut inner: std::sync::RwLockWriteGuard<'_, Inner>, name: &str, before: Option<TenantId>, now: Option<TenantId>) {
        if before != now {
            if let Some(tenant) = before
                && let Some(spaces) = inner.spaces.get_mut(&tenant)
            {
                spaces.remove(name);
                if spaces.is_empty() {
                    inner.spaces.remove(&tenant);
                }
            }
            if let Some(tenant) = now {
                inner.spaces.entry(tenant).or_default().insert(name.to_owned());
            }
        }
        self.touched(inner, name);
        self.tell(before, false);
    }

    /// Whether just this version of an object is known: nothing has to be read of it then.
    fn knows(inner: &Inner, kind: KindId, object: &DynamicObject, version: u64) -> bool {
        let Some(name) = object.metadata.name.as_deref() else { return false };
        let known = match object.metadata.namespace.as_deref() {
            None => inner.homes.get(name).and_then(|home| home.space.as_ref()).map(|space| &space.live),
            Some(namespace) => inner.homes.get(namespace).and_then(|home| home.objects.get(&kind)?.get(name)),
        };
        known.is_some_and(|known| version > 0 && known.version == version)
    }

    /// An object is not there any more, as its watch tells.
    pub(super) fn remove(&self, kind: KindId, namespace: Option<&str>, name: &str, version: u64) {
        let mut inner = self.inner.write().unwrap_or_else(PoisonError::into_inner);
        inner.forget_answers(kind, namespace, name);
        let state = &mut inner.kinds[kind];
        state.seen = state.seen.max(version);
        let is_config_map = state.kind.kind == "ConfigMap";
        let place = if kind == 0 { name } else { namespace.unwrap_or_default() };
        let Some(home) = inner.homes.get_mut(place) else { return };
        let known = match kind {
            0 => home.space.as_ref().map(|space| &space.live),
            _ => home.objects.get(&kind).and_then(|objects| objects.get(name)),
        };
        // What is there was made since.
        if version > 0 && known.is_some_and(|known| known.version > version) {
            return;
        }
        if kind == 0 {
            let before = home.space.take().and_then(|space| space.tenant);
            home.record = None;
            home.is_new = false;
            home.applied.clear();
            return self.moved(inner, name, before, None);
        }
        if let Some(objects) = home.objects.get_mut(&kind) {
            objects.remove(name);
        }
        if name == record::NAME && is_config_map {
            home.record = None;
        }
        self.touched(inner, place);
    }

    /// A kind has been listed; what is not in `there` (namespace and name) is gone.
    pub(super) fn listed(&self, kind: KindId, there: &BTreeSet<(String, String)>) {
        let inner = self.read();
        let mut gone = Vec::new();
        for (namespace, home) in &inner.homes {
            if kind == 0 {
                let is_there = home.space.is_none() || there.contains(&(String::new(), namespace.clone()));
                gone.extend((!is_there).then(|| (String::new(), namespace.clone())));
            } else {
                let names = home.objects.get(&kind).into_iter().flat_map(BTreeMap::keys);
                let places = names.map(|name| (namespace.clone(), name.to_string()));
                gone.extend(places.filter(|place| !there.contains(place)));
            }
        }
        let before = inner.kinds[kind].served.clone();
        drop(inner);
        for (namespace, name) in gone {
            self.remove(kind, Some(&namespace), &name, 0);
        }
        if before != Served::Listed {
            self.served(kind, Served::Listed);
        }
    }

    /// Whether the cluster serves a kind has changed.
    pub(super) fn served(&self, kind: KindId, served: Served) {
        self.shared(|inner| inner.kinds[kind].served = served);
    }
}
