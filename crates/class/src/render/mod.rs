//! Rendering: everything that there is to be of one tenant in one cluster. The same input gives the same output wherever it is rendered.
//!
//! Modules in reading order: this one (expressions, volumes, secrets), `workloads` (what is added to a class's objects), `bounds` (quota,
//! limits, network), `routes` (hostnames).

mod workloads;
mod bounds;
mod routes;

use std::collections::{BTreeMap, BTreeSet};

use roadstead_core::id::{Name, TenantId};
use roadstead_core::intent::{TenantIntent, VolumeIntent};
use roadstead_core::reconcile::Part;
use serde_json::{Map, Value, json};

use crate::class::{Class, hex};
use crate::expression::{self, Engine, Failure, Wrong};
use crate::finding::Finding;
use crate::manifests::{Object, problems};
use crate::meter::{Spent, TIMES_IN_USE, VALUE_BYTES};
use crate::rendered::{LocalProcess, Manifest, ObjectId, Rendered, SecretPlan, SecretSource};
use crate::site::Site;
use crate::units::bytes_text;

/// Characters of a tenant's name that its namespace carries; with `-` and 16 digits they make 63.
const NAME_IN_NAMESPACE: usize = 46;
/// The longest name of an object (RFC 1123 subdomain).
const MAX_OBJECT_NAME: usize = 253;
/// The longest value of a label.
const MAX_LABEL_VALUE: usize = 63;

/// Label of a tenant's uid, on everything that is the tenant's.
pub const TENANT_LABEL: &str = "roadstead.dev/tenant";
/// Label of its name, on its namespace.
pub const NAME_LABEL: &str = "roadstead.dev/name";
/// Label of its shard, on its namespace.
pub const SHARD_LABEL: &str = "roadstead.dev/shard";
/// Label of its epoch, on its namespace.
pub const EPOCH_LABEL: &str = "roadstead.dev/epoch";
/// Label of its owner, on its namespace, if the owner can be a label's value.
pub const OWNER_LABEL: &str = "roadstead.dev/owner";
/// Label of a volume's name, on its claim.
pub const VOLUME_LABEL: &str = "roadstead.dev/volume";

/// Why a tenant cannot be rendered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RenderError {
    /// Its values are not what its class accepts.
    #[error("{field}: {problem}")]
    Values {
        /// Which, as in `spec.values.web`.
        field: String,
        /// Why not.
        problem: String,
    },
    /// An expression has no value.
    #[error("{file}: {object}: {path}: {expression}: {problem}")]
    Expression {
        /// The manifest's file.
        file: String,
        /// Kind and name as the class writes it.
        object: String,
        /// Where in the object, as in `spec.replicas`.
        path: String,
        /// The expression, braces included.
        expression: String,
        /// Why not.
        problem: String,
    },
    /// An expression of a local process has no value.
    #[error("local.{process}: {expression}: {problem}")]
    Local {
        /// Which process.
        process: String,
        /// The expression, braces included.
        expression: String,
        /// Why not.
        problem: String,
    },
    /// An object is not one once its expressions have values.
    #[error("{file}: {object}: {problem}")]
    Object {
        /// The manifest's file.
        file: String,
        /// Kind and name.
        object: String,
        /// What is wrong.
        problem: String,
    },
    /// All objects together are too large.
    #[error("the tenant's objects have more than {most} bytes, each value counted as {VALUE_BYTES} beside its text")]
    TooLarge {
        /// How many they may have.
        most: u64,
    },
    /// All expressions together do too much.
    #[error("{at}: up to here the tenant's expressions work on more than {most} bytes: let them split, sort and join less")]
    TooMuchWork {
        /// Where it became too much: an object's field or a local process.
        at: String,
        /// How many they may work on.
        most: u64,
    },
    /// A cluster has no storage of the kind.
    #[error("volume {volume}: cluster {cluster} maps no StorageClass to storage `{kind}`")]
    Storage {
        /// Volume.
        volume: Name,
        /// Kind of storage.
        kind: String,
        /// Cluster.
        cluster: String,
    },
    /// The class wants to reach what no tenant may.
    #[error("egress to {cidr} is denied to every tenant of cluster {cluster}, which denies {denied}")]
    Denied {
        /// What the class wants to reach.
        cidr: String,
        /// What the cluster denies.
        denied: String,
        /// Cluster.
        cluster: String,
    },
    /// A fact about the cluster is none.
    #[error("cluster {cluster}: {which} address {address:?}: {problem}")]
    Site {
        /// Cluster.
        cluster: String,
        /// Which of its addresses, in a word.
        which: &'static str,
        /// What it says.
        address: String,
        /// Why it is none.
        problem: String,
    },
    /// What the class exposes is not among its objects.
    #[error("network.expose: no Service of the manifests is named {service} with a port {port} and a selector")]
    Expose {
        /// Service.
        service: String,
        /// Port.
        port: u16,
    },
}

/// The namespace of a tenant: as much of its name as there is room for, and its uid, which no other tenant ever has.
#[must_use]
pub fn namespace_of(name: &Name, id: TenantId) -> String {
    let head: String = name.as_str().chars().take(NAME_IN_NAMESPACE).collect();
    format!("{head}-{id}")
}

/// Whether a namespace of this name can be the one of the tenant with this uid. Labels are copied with what they are on; a copy has another name.
#[must_use]
pub fn may_be_namespace_of(namespace: &str, uid: &str) -> bool {
    namespace.strip_suffix(uid).is_some_and(|head| head.ends_with('-'))
}

/// Everything that there is to be of a tenant.
///
/// # Errors
/// See [`RenderError`]: values, expressions, or what the cluster lacks.
pub fn render(class: &Class, tenant: &TenantIntent, site: &Site) -> Result<Rendered, RenderError> {
    render_within(TIMES_IN_USE, class, tenant, site)
}

/// The same for a class that is tried, before any tenant has it: with a part of the room that its tenants will have.
///
/// # Errors
/// As [`render`].
pub fn try_render(class: &Class, tenant: &TenantIntent, site: &Site) -> Result<Rendered, RenderError> {
    render_within(1, class, tenant, site)
}

fn render_within(room: u64, class: &Class, tenant: &TenantIntent, site: &Site) -> Result<Rendered, RenderError> {
    let values = values_of(class, tenant)?;
    let here = Here { class, tenant, site, namespace: namespace_of(&tenant.name, tenant.id), uid: tenant.id.to_string() };
    let engine = expression::engine(room);
    let objects = here.objects(&engine, &values)?;
    let mut rendered = Rendered {
        digest: String::new(),
        class_digest: class.digest.clone(),
        namespace: here.namespace(),
        parts: BTreeMap::new(),
        secrets: here.secrets(),
        volumes: here.volumes()?,
        ceded: here.ceded(&objects),
        also: class.template.also.clone(),
        ready_within: class.template.ready_within,
        stop: class.template.stop.clone(),
        stop_within: class.template.stop_within,
        local: here.local(&engine, &values)?,
    };
    rendered.parts.insert(Part::Bounds, here.bounds(&objects)?);
    rendered.parts.insert(Part::Routes, here.routes());
    rendered.parts.insert(Part::Workloads, here.workloads(objects));
    rendered.digest = digest_of(&rendered);
    Ok(rendered)
}

/// The tenant's values, defaults filled in.
fn values_of(class: &Class, tenant: &TenantIntent) -> Result<Value, RenderError> {
    let text = if tenant.values.is_empty() { "{}" } else { &tenant.values };
    let wrong = |Finding { field, problem }| RenderError::Values { field, problem };
    let mut values: Value = serde_json::from_str(text)
        .map_err(|error| wrong(Finding { field: "spec.values".to_owned(), problem: format!("is not JSON: {error}") }))?;
    if let Some(first) = class.schema.violations(&values).into_iter().next() {
        return Err(wrong(first));
    }
    class.schema.fill_defaults(&mut values).map_err(wrong)?;
    Ok(values)
}

/// One object with its expressions' values put in.
struct Made {
    id: ObjectId,
    body: Value,
}

/// What all parts of a tenant's rendering know.
struct Here<'a> {
    class: &'a Class,
    tenant: &'a TenantIntent,
    site: &'a Site,
    namespace: String,
    uid: String,
}

impl Here<'_> {
    fn context(&self, engine: &Engine, values: &Value, volume: impl Fn(&VolumeIntent) -> String) -> minijinja::Value {
        let tenant = self.tenant;
        let volumes: Map<String, Value> = tenant.volumes.iter().map(|claim| (claim.name.to_string(), json!(volume(claim)))).collect();
        let names = [
            ("values", values.clone()),
            (
                "tenant",
                json!({
                    "name": tenant.name.as_str(), "uid": self.uid, "owner": tenant.owner.as_str(), "epoch": tenant.epoch.to_string(),
                }),
            ),
            ("hostnames", json!(tenant.hostnames)),
            ("volumes", Value::Object(volumes)),
            ("cluster", json!(self.site.cluster)),
            ("region", json!(self.site.region)),
            ("namespace", json!(self.namespace)),
        ];
        engine.context(&names.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
    }

    fn objects(&self, engine: &Engine, values: &Value) -> Result<Vec<Made>, RenderError> {
        let context = self.context(engine, values, |volume| volume.name.to_string());
        let (mut made, mut seen) = (Vec::with_capacity(self.class.objects.len()), BTreeSet::new());
        for object in &self.class.objects {
            let put = Put { engine, context: &context, object };
            let body = put.values(&object.body, &mut String::new())?;
            let wrong = |object_name: &str, problem: &str| RenderError::Object {
                file: object.file.clone(),
                object: format!("{}/{object_name}", object.kind),
                problem: problem.to_owned(),
            };
            let name = match body.pointer("/metadata/name").and_then(Value::as_str) {
                Some(name) if is_object_name(name) => name.to_owned(),
                other => return Err(wrong(other.unwrap_or("?"), "its name is none: use a-z, 0-9, '-' and '.'")),
            };
            // Values may have brought in what the class could not have said itself.
            if let Some(problem) = problems(&object.kind, &body).first() {
                return Err(wrong(&name, problem));
            }
            let id = ObjectId { api_version: object.api_version.clone(), kind: object.kind.clone(), name };
            if !seen.insert(id.clone()) {
                return Err(wrong(&id.name, "is there twice"));
            }
            made.push(Made { id, body });
        }
        Ok(made)
    }

    fn local(&self, engine: &Engine, values: &Value) -> Result<BTreeMap<String, LocalProcess>, RenderError> {
        let context = self.context(engine, values, |volume| format!("${{volume:{}}}", volume.name));
        let text = |name: &str, text: &str| match expression::evaluate(engine, text, &context) {
            Ok(Value::String(text)) => Ok(text),
            Ok(value @ (Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_))) => Ok(value.to_string()),
            Err(Failure::Wrong(Wrong { expression, problem })) => Err(RenderError::Local { process: name.to_owned(), expression, problem }),
            Err(Failure::Spent(spent)) => Err(too_much(spent, || format!("local.{name}"))),
        };
        let processes = self.class.template.local.iter().map(|(name, process)| {
            let run = process.run.iter().map(|part| text(name, part)).collect::<Result<_, _>>()?;
            let env = process.env.iter().map(|(key, value)| Ok((key.clone(), text(name, value)?))).collect::<Result<_, RenderError>>()?;
            Ok((name.clone(), LocalProcess { run, env }))
        });
        processes.collect()
    }

    fn namespace(&self) -> Manifest {
        let tenant = self.tenant;
        let level = self.class.template.pod_security.name();
        let mut labels = Map::new();
        let mut label = |name: &str, value: &str| labels.insert(name.to_owned(), Value::String(value.to_owned()));
        label(TENANT_LABEL, &self.uid);
        label(NAME_LABEL, tenant.name.as_str());
        label(SHARD_LABEL, &tenant.shard.0.to_string());
        label(EPOCH_LABEL, &tenant.epoch.to_string());
        if is_label_value(tenant.owner.as_str()) {
            label(OWNER_LABEL, tenant.owner.as_str());
        }
        for mode in ["enforce", "warn", "audit"] {
            label(&format!("pod-security.kubernetes.io/{mode}"), level);
        }
        let id = ObjectId { api_version: "v1".to_owned(), kind: "Namespace".to_owned(), name: self.namespace.clone() };
        let body = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": self.namespace, "labels": labels}});
        Manifest { id, body }
    }

    /// An object of ours within the namespace; `fields` are those beside apiVersion, kind and metadata.
    fn own(&self, api_version: &str, kind: &str, name: &str, fields: Value) -> Manifest {
        let mut body = json!({
            "apiVersion": api_version,
            "kind": kind,
            "metadata": {"name": name, "namespace": self.namespace, "labels": {TENANT_LABEL: self.uid}},
        });
        if let (Some(body), Value::Object(fields)) = (body.as_object_mut(), fields) {
            body.extend(fields);
        }
        Manifest { id: ObjectId { api_version: api_version.to_owned(), kind: kind.to_owned(), name: name.to_owned() }, body }
    }

    fn secrets(&self) -> Vec<SecretPlan> {
        let plan = |secret: &crate::template::Secret| SecretPlan {
            // A copied secret gets the type of its original with its data, and no other type may stand in the way.
            manifest: self.own(
                "v1",
                "Secret",
                secret.name.as_str(),
                match secret.source {
                    SecretSource::Copy { .. } => json!({}),
                    SecretSource::Generate { .. } => json!({"type": "Opaque"}),
                },
            ),
            source: secret.source.clone(),
            restart_on_change: secret.restart_on_change,
        };
        self.class.template.secrets.iter().map(plan).collect()
    }

    fn volumes(&self) -> Result<BTreeMap<Name, Manifest>, RenderError> {
        let claim = |volume: &VolumeIntent| {
            let mut spec = json!({
                "accessModes": ["ReadWriteOnce"],
                "resources": {"requests": {"storage": bytes_text(volume.size.0)}},
            });
            match self.site.storage.get(&volume.storage).or(self.site.other_storage.as_ref()) {
                Some(storage_class) => spec["storageClassName"] = json!(storage_class),
                // The cluster's default StorageClass is put in by its API server.
                None if volume.storage.is_empty() => {}
                None => {
                    return Err(RenderError::Storage {
                        volume: volume.name.clone(),
                        kind: volume.storage.clone(),
                        cluster: self.site.cluster.clone(),
                    });
                }
            }
            let mut manifest = self.own("v1", "PersistentVolumeClaim", volume.name.as_str(), json!({"spec": spec}));
            manifest.body["metadata"]["labels"][VOLUME_LABEL] = json!(volume.name.as_str());
            Ok((volume.name.clone(), manifest))
        };
        self.tenant.volumes.iter().map(claim).collect()
    }
}

/// An object of the class, and what is put into it.
struct Put<'a> {
    engine: &'a Engine,
    context: &'a minijinja::Value,
    object: &'a Object,
}

impl Put<'_> {
    /// The tree with its expressions' values. Keys are no expressions.
    fn values(&self, value: &Value, path: &mut String) -> Result<Value, RenderError> {
        let length = path.len();
        let room = |text: usize| self.engine.grow(text).map_err(|spent| self.failed(path, Failure::Spent(spent)));
        match value {
            Value::Null | Value::Bool(_) | Value::Number(_) => room(0).map(|()| value.clone()),
            Value::String(text) => expression::evaluate(self.engine, text, self.context).map_err(|failure| self.failed(path, failure)),
            Value::Array(items) => {
                room(0)?;
                let mut made = Vec::with_capacity(items.len());
                for (index, item) in items.iter().enumerate() {
                    path.push_str(&format!("[{index}]"));
                    made.push(self.values(item, path)?);
                    path.truncate(length);
                }
                Ok(Value::Array(made))
            }
            Value::Object(fields) => {
                room(fields.keys().map(String::len).sum())?;
                let mut made = Map::new();
                for (name, field) in fields {
                    path.push_str(if length == 0 { "" } else { "." });
                    path.push_str(name);
                    made.insert(name.clone(), self.values(field, path)?);
                    path.truncate(length);
                }
                Ok(Value::Object(made))
            }
        }
    }

    fn failed(&self, path: &str, failure: Failure) -> RenderError {
        let name = self.object.body.pointer("/metadata/name").and_then(Value::as_str).unwrap_or("?");
        let (file, object) = (self.object.file.clone(), format!("{}/{name}", self.object.kind));
        match failure {
            Failure::Wrong(Wrong { expression, problem }) => {
                RenderError::Expression { file, object, path: path.to_owned(), expression, problem }
            }
            Failure::Spent(spent) => too_much(spent, || format!("{file}: {object}: {path}")),
        }
    }
}

fn too_much(spent: Spent, at: impl FnOnce() -> String) -> RenderError {
    match spent {
        Spent::Work(most) => RenderError::TooMuchWork { at: at(), most },
        Spent::Size(most) => RenderError::TooLarge { most },
    }
}

/// Whether a text can be a label's value.
fn is_label_value(text: &str) -> bool {
    let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    text.len() <= MAX_LABEL_VALUE
        && edge(text.chars().next())
        && edge(text.chars().next_back())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
}

/// Whether a text can be an object's name (RFC 1123 subdomain).
fn is_object_name(text: &str) -> bool {
    let label = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
    };
    text.len() <= MAX_OBJECT_NAME && text.split('.').all(label)
}

fn digest_of(rendered: &Rendered) -> String {
    let mut hasher = blake3::Hasher::new();
    let mut add = |tag: &str, text: &str| {
        for field in [tag, text] {
            hasher.update(&(field.len() as u64).to_le_bytes());
            hasher.update(field.as_bytes());
        }
    };
    // Maps of JSON are sorted by key: equal trees have equal texts.
    add("namespace", &rendered.namespace.body.to_string());
    for (part, manifests) in &rendered.parts {
        for manifest in manifests {
            add(&format!("{part:?}"), &manifest.body.to_string());
        }
    }
    for secret in &rendered.secrets {
        add("secret", &secret.manifest.body.to_string());
        match &secret.source {
            SecretSource::Copy { from } => add("copy", from),
            SecretSource::Generate { keys } => add("generate", &json!(keys).to_string()),
        }
        add("restart", if secret.restart_on_change { "yes" } else { "no" });
    }
    for (name, manifest) in &rendered.volumes {
        add(name.as_str(), &manifest.body.to_string());
    }
    for ceded in &rendered.ceded {
        add(&ceded.object, &ceded.path.join("."));
    }
    for observe in &rendered.also {
        add(&observe.object, &observe.condition);
    }
    add("stop", &format!("{:?}", rendered.stop));
    for (tag, length) in [("ready", rendered.ready_within), ("stop", rendered.stop_within)] {
        add(tag, &length.map_or_else(String::new, |length| length.0.to_string()));
    }
    for (name, process) in &rendered.local {
        add(name, &json!([process.run, process.env]).to_string());
    }
    hex(&hasher)
}
