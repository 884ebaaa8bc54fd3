//! What hands do to tenants, and who sees that it is put right: watches of the benchmark's own.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use futures::StreamExt;
use kube::api::{DeleteParams, DynamicObject, Patch, PatchParams};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, ResourceExt};
use roadstead_api::v1::trouble::Kind as Trouble;
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use crate::agent::agent::Told;
use crate::agent::cluster::Cluster;
use crate::agent::tenants;

/// Kinds that are damaged and put right again.
const KINDS: [&str; 6] = ["Namespace", "ConfigMap", "Secret", "Service", "NetworkPolicy", "Deployment"];
/// How `kubectl edit` calls itself.
const HANDS: &str = "kubectl-edit";
const LABEL: &str = "roadstead.dev/tenant";

/// What is done to a tenant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Damage {
    Deleted(&'static str, &'static str),
    Edited(&'static str, &'static str),
    Stripped(&'static str, &'static str),
    SecretDeleted(&'static str),
    NamespaceStripped,
    ClaimDeleted,
}

impl Damage {
    /// The mix: each of the six in turn, and of each one object after the other.
    fn of(number: u32) -> Self {
        let turn = |choices: &[(&'static str, &'static str)]| choices[(number / 6) as usize % choices.len()];
        match number % 6 {
            0 => {
                let (kind, name) = turn(&[("Deployment", "web"), ("Service", "web"), ("ConfigMap", "settings"), ("NetworkPolicy", "deny")]);
                Self::Deleted(kind, name)
            }
            1 => {
                let (kind, name) = turn(&[("Deployment", "web"), ("ConfigMap", "settings")]);
                Self::Edited(kind, name)
            }
            2 => {
                let (kind, name) = turn(&[("Deployment", "web"), ("Service", "web"), ("ConfigMap", "settings")]);
                Self::Stripped(kind, name)
            }
            3 => Self::SecretDeleted(turn(&[("Secret", "smtp"), ("Secret", "db")]).1),
            4 => Self::NamespaceStripped,
            _ => Self::ClaimDeleted,
        }
    }

    /// In words.
    pub(super) fn words(self) -> &'static str {
        match self {
            Self::Deleted("Deployment", _) => "Deployment deleted",
            Self::Deleted(..) => "object deleted",
            Self::Edited(..) => "edited",
            Self::Stripped(..) => "label stripped",
            Self::SecretDeleted("db") => "generated Secret deleted",
            Self::SecretDeleted(_) => "copied Secret deleted",
            Self::NamespaceStripped => "namespace label stripped",
            Self::ClaimDeleted => "claim deleted",
        }
    }

    /// Kind and name of the object.
    fn object(self) -> (&'static str, &'static str) {
        match self {
            Self::Deleted(kind, name) | Self::Edited(kind, name) | Self::Stripped(kind, name) => (kind, name),
            Self::SecretDeleted(name) => ("Secret", name),
            Self::NamespaceStripped => ("Namespace", ""),
            Self::ClaimDeleted => ("PersistentVolumeClaim", tenants::VOLUME),
        }
    }

    /// What it is named for, where it cannot be put right.
    fn named(self) -> Option<Trouble> {
        match self {
            Self::SecretDeleted("db") => Some(Trouble::SecretLost),
            Self::ClaimDeleted => Some(Trouble::VolumeLost),
            Self::Deleted(..) | Self::Edited(..) | Self::Stripped(..) | Self::SecretDeleted(_) | Self::NamespaceStripped => None,
        }
    }
}

/// One damaged tenant.
#[derive(Clone, Copy, Debug)]
pub(super) struct Victim {
    number: u32,
    pub(super) damage: Damage,
}

/// Those that are damaged, evenly among all; others with another beginning below the distance between two.
pub(super) fn victims(damaged: u32, tenants: u32, first: u32) -> Vec<Victim> {
    let each = (tenants / damaged.max(1)).max(1);
    (0..damaged.min(tenants)).map(|number| Victim { number: number * each + first % each, damage: Damage::of(number) }).collect()
}

/// When it was done, and the version that the object has by it; the largest if it is gone.
#[derive(Clone, Copy, Debug)]
pub(super) struct Damaged {
    pub(super) at: Instant,
    version: u64,
}

impl Victim {
    pub(super) async fn damage(&self, cluster: &Cluster) -> Result<Damaged> {
        let (kind, name) = self.damage.object();
        let namespace = tenants::namespace(self.number);
        let resource = cluster.resource(kind)?;
        let api: Api<DynamicObject> = match kind {
            "Namespace" => Api::all_with(cluster.client.clone(), resource),
            _ => Api::namespaced_with(cluster.client.clone(), &namespace, resource),
        };
        let patch = match (self.damage, kind) {
            (Damage::Edited(..), "Deployment") => json!({"spec": {"replicas": 3}}),
            (Damage::Edited(..), _) => json!({"data": {"theme": "broken"}}),
            (Damage::Stripped(..) | Damage::NamespaceStripped, _) => json!({"metadata": {"labels": {LABEL: null}}}),
            (Damage::Deleted(..) | Damage::SecretDeleted(_) | Damage::ClaimDeleted, _) => {
                api.delete(name, &DeleteParams::background()).await.with_context(|| format!("failed to delete {kind}/{name}"))?;
                return Ok(Damaged { at: Instant::now(), version: u64::MAX });
            }
        };
        let name = if name.is_empty() { &namespace } else { name };
        let by_hand = PatchParams { field_manager: Some(HANDS.to_owned()), ..PatchParams::default() };
        let patched = api.patch(name, &by_hand, &Patch::Merge(patch)).await.with_context(|| format!("failed to damage {kind}/{name}"))?;
        Ok(Damaged { at: Instant::now(), version: version_of(&patched) })
    }

    fn key(&self) -> Key {
        let (kind, name) = self.damage.object();
        let namespace = tenants::namespace(self.number);
        match kind {
            "Namespace" => (kind.to_owned(), String::new(), namespace),
            _ => (kind.to_owned(), namespace, name.to_owned()),
        }
    }
}

fn version_of(object: &DynamicObject) -> u64 {
    object.resource_version().and_then(|version| version.parse().ok()).unwrap_or(0)
}

/// Kind, namespace, name.
type Key = (String, String, String);

/// What matters of an object: what nobody chose is left out.
fn essence(object: &DynamicObject) -> Value {
    let mut spec = object.data["spec"].clone();
    if let Some(fields) = spec.as_object_mut() {
        fields.retain(|name, _| !name.starts_with("clusterIP"));
    }
    json!({"labels": object.metadata.labels, "spec": spec, "data": object.data["data"]})
}

/// An object as an event showed it.
struct Shown {
    at: Instant,
    key: Key,
    uid: String,
    version: u64,
    essence: Value,
}

/// Watches everything that is damaged.
pub(super) struct Hospital {
    /// As it was when all was well.
    well: HashMap<Key, (String, Value)>,
    shown: mpsc::UnboundedReceiver<Shown>,
    _watches: JoinSet<()>,
}

impl Hospital {
    /// Notes how everything is.
    pub(super) async fn open(cluster: &Cluster) -> Result<Self> {
        let (sender, shown) = mpsc::unbounded_channel();
        let (mut watches, mut well, mut lists) = (JoinSet::new(), HashMap::new(), Vec::new());
        for kind in KINDS {
            let api: Api<DynamicObject> = Api::all_with(cluster.client.clone(), cluster.resource(kind)?);
            let (listed, list) = tokio::sync::oneshot::channel();
            lists.push(list);
            watches.spawn(follow(api, kind, sender.clone(), listed));
        }
        for list in lists {
            well.extend(list.await.context("a watch has ended")?);
        }
        Ok(Self { well, shown, _watches: watches })
    }

    /// When each was put right or named; `None` for whom neither came in time.
    pub(super) async fn until_mended(
        &mut self,
        victims: &[Victim],
        damaged: &[Damaged],
        mut told: watch::Receiver<Told>,
        within: Duration,
    ) -> Result<Vec<Option<Instant>>> {
        let mut mended = vec![None; victims.len()];
        let by_key: BTreeMap<Key, usize> = victims.iter().enumerate().map(|(place, victim)| (victim.key(), place)).collect();
        let deadline = tokio::time::Instant::now() + within;
        while mended.iter().any(Option::is_none) {
            // What was told before this looks is looked at, too.
            note_named(victims, &told.borrow_and_update(), &mut mended);
            tokio::select! {
                shown = self.shown.recv() => {
                    let Some(shown) = shown else { bail!("all watches have ended") };
                    let Some(place) = by_key.get(&shown.key).copied() else { continue };
                    let Some((uid, well)) = self.well.get(&shown.key) else { bail!("{:?} was not there", shown.key) };
                    let is_newer = shown.uid != *uid || shown.version > damaged[place].version;
                    if is_newer && shown.essence == *well && victims[place].damage.named().is_none() {
                        mended[place].get_or_insert(shown.at);
                    }
                }
                changed = told.changed() => changed.context("the agent has ended")?,
                () = tokio::time::sleep_until(deadline) => break,
            }
        }
        Ok(mended)
    }
}

fn note_named(victims: &[Victim], told: &Told, mended: &mut [Option<Instant>]) {
    for (victim, mended) in victims.iter().zip(mended).filter(|(_, mended)| mended.is_none()) {
        let Some(named) = victim.damage.named() else { continue };
        let Some((seen, at)) = told.tenants.get(&tenants::uid(victim.number)) else { continue };
        if seen.trouble.as_ref().is_some_and(|trouble| trouble.kind() == named) {
            *mended = Some(*at);
        }
    }
}

/// Follows a kind for ever; first says how all of it is.
async fn follow(
    api: Api<DynamicObject>,
    kind: &'static str,
    shown: mpsc::UnboundedSender<Shown>,
    listed: tokio::sync::oneshot::Sender<Vec<(Key, (String, Value))>>,
) {
    let (mut all, mut listed) = (Vec::new(), Some(listed));
    let mut stream = watcher(api, watcher::Config::default()).default_backoff().boxed();
    while let Some(event) = stream.next().await {
        let at = Instant::now();
        let (object, is_new) = match event {
            Ok(watcher::Event::InitApply(object)) => (object, false),
            Ok(watcher::Event::Apply(object)) => (object, true),
            Ok(watcher::Event::InitDone) => {
                if let Some(listed) = listed.take() {
                    let _ = listed.send(std::mem::take(&mut all));
                }
                continue;
            }
            Ok(watcher::Event::Init | watcher::Event::Delete(_)) => continue,
            Err(error) => {
                eprintln!("a watch goes on after an error: {error}");
                continue;
            }
        };
        let key = (kind.to_owned(), object.namespace().unwrap_or_default(), object.name_any());
        let (uid, essence) = (object.uid().unwrap_or_default(), essence(&object));
        if listed.is_some() {
            all.push((key, (uid, essence)));
        } else if is_new && object.metadata.deletion_timestamp.is_none() {
            let _ = shown.send(Shown { at, key, uid, version: version_of(&object), essence });
        }
    }
}
