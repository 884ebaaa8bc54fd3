//! What has been made for a tenant, written down in its namespace before it is made: only that is ever pruned, and what is in it and not
//! there has been lost.
//!
//! A volume's identity and a secret's hash are written after they were made and before anything runs: until then nothing of them is lost
//! that matters, and they may be made again. Until then what is to be made stands in an annotation of the namespace, with which that was created: a new
//! tenant takes one write less, and a thousand of them a thousand.

use std::collections::{BTreeMap, BTreeSet};

use kube::api::ObjectMeta;
use roadstead_class::ObjectId;
use roadstead_class::Rendered;
use roadstead_core::id::TenantId;
use roadstead_core::reconcile::Part;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::TENANT_LABEL;
use super::owned::MANAGER;

/// Name of the ConfigMap that it is kept in.
pub(super) const NAME: &str = roadstead_class::RECORD;
/// Its only key.
const KEY: &str = "record";
/// The annotation of a namespace that says what was to be made in it when it was created.
pub(super) const PLAN: &str = "roadstead.dev/record";
/// Annotations may be 256 KiB together: what is longer is written into the ConfigMap at once.
const MAX_PLAN_BYTES: usize = 128 << 10;

/// What has been made for a tenant.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Record {
    /// Whose it is, and of which namespace: a copy elsewhere says nothing.
    pub(super) tenant: String,
    pub(super) namespace_uid: String,
    /// Whether it was begun before any volume was there. One that was lost and begun anew does not know what was made before.
    pub(super) whole: bool,
    /// Objects but for secrets and volumes.
    pub(super) objects: BTreeSet<Made>,
    /// By the volume's name.
    pub(super) volumes: BTreeMap<String, MadeVolume>,
    /// By the secret's name.
    pub(super) secrets: BTreeMap<String, MadeSecret>,
    /// Parts that were as rendered, each with a hash of that; where damage is only told.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) in_step: BTreeMap<PartName, String>,
    /// Commands by which it was brought to rest last, in the order in which they were begun; until it runs again.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) stopping: Vec<Ran>,
    /// Pods that vanished and may run on, by UID, until that is over: while one is in here the tenant is not at rest.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) vanished: BTreeMap<String, Vanished>,
}

/// A pod that was taken out of the API while its node was not ready: no evidence that it ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Vanished {
    /// Its name.
    pub(super) pod: String,
    pub(super) node: String,
}

/// A command that was begun in a pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Ran {
    /// As in `StatefulSet/db`.
    pub(super) workload: String,
    pub(super) pod: String,
    /// UID of the pod: another of its name knows nothing of it.
    pub(super) uid: String,
    pub(super) run: Vec<String>,
    /// What takes it back, as the class said then.
    pub(super) undo: Vec<String>,
    /// Whether it has ended well.
    pub(super) done: bool,
}

/// One object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Made {
    pub(super) part: PartName,
    pub(super) api_version: String,
    pub(super) kind: String,
    pub(super) name: String,
}

/// One volume.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct MadeVolume {
    /// Name of its claim.
    pub(super) claim: String,
    /// UID of its claim, once that has been there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) uid: Option<String>,
}

/// One secret.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct MadeSecret {
    /// Whether its data exists nowhere else.
    pub(super) generated: bool,
    /// Of its data, once it has been there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) hash: Option<String>,
}

/// A [`Part`] as it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum PartName {
    Bounds,
    Secrets,
    Workloads,
    Routes,
}

impl From<Part> for PartName {
    fn from(part: Part) -> Self {
        match part {
            Part::Bounds => Self::Bounds,
            Part::Secrets => Self::Secrets,
            Part::Workloads => Self::Workloads,
            Part::Routes => Self::Routes,
        }
    }
}

impl Made {
    fn new(part: Part, id: &ObjectId) -> Self {
        Self { part: part.into(), api_version: id.api_version.clone(), kind: id.kind.clone(), name: id.name.clone() }
    }

    /// Whether it is this object; the version of its API may have moved on.
    pub(super) fn is(&self, id: &ObjectId) -> bool {
        self.kind == id.kind && self.name == id.name && group(&self.api_version) == group(&id.api_version)
    }

    /// Whether it is rendered.
    pub(super) fn is_in(&self, rendered: &Rendered) -> bool {
        rendered.parts.values().flatten().any(|manifest| self.is(&manifest.id))
    }

    /// As people name it.
    pub(super) fn id(&self) -> ObjectId {
        ObjectId { api_version: self.api_version.clone(), kind: self.kind.clone(), name: self.name.clone() }
    }
}

/// Whether a secret is rendered.
pub(super) fn is_secret_of(rendered: &Rendered, name: &str) -> bool {
    rendered.secrets.iter().any(|plan| plan.manifest.id.name == *name)
}

/// An object of the core group.
pub(super) fn core(kind: &str, name: &str) -> ObjectId {
    ObjectId { api_version: "v1".to_owned(), kind: kind.to_owned(), name: name.to_owned() }
}

/// `apps` of `apps/v1`; empty for the core group.
pub(super) fn group(api_version: &str) -> &str {
    api_version.split_once('/').map_or("", |(group, _)| group)
}

impl Record {
    /// The record that a ConfigMap holds. One that cannot be read is `None`, which means that it is not known what was made.
    pub(super) fn of(live: &Value) -> Option<Self> {
        serde_json::from_str(live["data"][KEY].as_str()?).ok()
    }

    /// What was to be made in a namespace when we created it: a copy of the annotation elsewhere says nothing. It tells of nothing that was made since, so
    /// that it is never whole.
    pub(super) fn planned(namespace: &ObjectMeta) -> Option<Self> {
        namespace.managed_fields.as_ref()?.iter().find(|entry| entry.manager.as_deref() == Some(MANAGER))?;
        let text = namespace.annotations.as_ref()?.get(PLAN)?;
        let plan: Self = serde_json::from_str(text).ok()?;
        Some(Self { namespace_uid: namespace.uid.clone()?, whole: false, ..plan })
    }

    /// As the annotation of a namespace that is to be created.
    pub(super) fn plan(tenant: TenantId, rendered: &Rendered) -> Option<String> {
        let text = serde_json::to_string(&Self::default().with(tenant, "", rendered)).ok()?;
        (text.len() <= MAX_PLAN_BYTES).then_some(text)
    }

    /// With all names that are rendered: what is there already stays.
    pub(super) fn with(&self, tenant: TenantId, namespace_uid: &str, rendered: &Rendered) -> Self {
        let mut record = self.clone();
        record.tenant = tenant.to_string();
        namespace_uid.clone_into(&mut record.namespace_uid);
        for (part, manifests) in &rendered.parts {
            record.objects.extend(manifests.iter().map(|manifest| Made::new(*part, &manifest.id)));
        }
        for (name, claim) in &rendered.volumes {
            let made = record.volumes.entry(name.to_string()).or_default();
            if made.claim.is_empty() {
                made.claim.clone_from(&claim.id.name);
            }
        }
        for plan in &rendered.secrets {
            let generated = matches!(plan.source, roadstead_class::SecretSource::Generate { .. });
            record.secrets.entry(plan.manifest.id.name.clone()).or_default().generated |= generated;
        }
        record
    }

    /// Whether what it does not tell of was never made. Volumes are written down when all is there that they need.
    pub(super) fn is_complete(&self) -> bool {
        self.whole || self.volumes.values().any(|made| made.uid.is_some())
    }

    /// What was made for a part and is not rendered any more; no secret that was generated, which is nowhere else.
    pub(super) fn stale<'a>(&'a self, part: Part, rendered: &'a Rendered) -> impl Iterator<Item = ObjectId> {
        let objects = self.objects.iter().filter(move |made| made.part == PartName::from(part) && !made.is_in(rendered));
        let is_stale = move |name: &str, made: &MadeSecret| part == Part::Secrets && !made.generated && !is_secret_of(rendered, name);
        let secrets = self.secrets.iter().filter(move |(name, made)| is_stale(name, made));
        objects.map(Made::id).chain(secrets.map(|(name, _)| core("Secret", name)))
    }

    /// As an object to apply.
    pub(super) fn body(&self, namespace: &str) -> Value {
        let text = serde_json::to_string(self).unwrap_or_default();
        let labels = json!({ TENANT_LABEL: self.tenant });
        json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": { "name": NAME, "namespace": namespace, "labels": labels },
            "data": { KEY: text },
        })
    }
}
