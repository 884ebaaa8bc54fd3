//! Classes as documents, and their form on the wire.
//!
//! What the placement service counts (requests, volumes, retention) is typed; the rest of the template (manifests, secrets, network,
//! readiness, quiescing) is carried to the clusters' agents as it is written, and read and checked by [`roadstead_class`].

use std::collections::BTreeMap;
use std::path::Path;

use roadstead_api::v1;
use roadstead_class::{Class, Finding};
use roadstead_core::class::{ClassVersion, VolumeSpec};
use roadstead_core::id::{Name, Revision};
use roadstead_core::resources::{Bytes as CoreBytes, Millicores, PodSize, Requests as CoreRequests, Resources};
use roadstead_core::time::Millis;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::Findings;
use super::quantity::{Bytes, Label, Span};
use super::resources::Requests;

/// Files that the manifests of one class may name.
pub const MAX_MANIFESTS: usize = 256;

/// One immutable version of a class.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ClassSpec {
    /// Version, as in 3.2.0.
    pub version: String,
    /// JSON Schema of tenants' values; none accepts no values.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub values: Option<Map<String, Value>>,
    /// What one tenant asks for, surge included, volumes apart.
    pub requests: Requests,
    /// Volumes that every tenant gets.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub volumes: Vec<Volume>,
    /// How long volumes are kept after deletion.
    #[serde(default)]
    pub retain: Span,
    /// Secrets: copied or generated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secrets: Option<Value>,
    /// What is exposed, and where traffic may go.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<Value>,
    /// Pod Security level.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_security: Option<PodSecurity>,
    /// Kubernetes manifests: patterns relative to the document's file, read by `apply`, or their content.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub manifests: Vec<Manifest>,
    /// Fields left to others, as in `Deployment/web:spec.replicas`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cede: Vec<String>,
    /// When a tenant is ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready: Option<Value>,
    /// How a tenant is brought to rest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quiesce: Option<Value>,
    /// How it runs as local processes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub local: Option<Value>,
}

/// Pod Security levels of Kubernetes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum PodSecurity {
    /// Anything.
    Privileged,
    /// Known escalations are refused.
    Baseline,
    /// Hardened.
    Restricted,
}

/// One volume of every tenant.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Volume {
    /// Name within the tenant.
    pub name: Label,
    /// Size; a tenant may ask for more.
    pub size: Bytes,
    /// Kind of storage, mapped per cluster.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub storage: String,
    /// Whether it may grow in place.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub grow: bool,
}

/// Manifests: a pattern of files, or one file's content.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Manifest {
    /// A path relative to the document; `*` stands for any part of a file name.
    Pattern(String),
    /// A file that has been read.
    File(ManifestFile),
}

/// One manifest file with its content.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ManifestFile {
    /// Its path as the document gave it.
    pub file: String,
    /// Its text.
    pub content: String,
}

/// The opaque rest of a class on the wire.
#[derive(Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Template {
    #[serde(skip_serializing_if = "Option::is_none")]
    secrets: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    network: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pod_security: Option<PodSecurity>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    manifests: Vec<Manifest>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    cede: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ready: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    quiesce: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    local: Option<Value>,
}

impl ClassSpec {
    /// Combinations that no single field's type can refuse, and what the class's tenants would become.
    pub fn check(&self, name: &str, findings: &mut Findings) {
        if self.version.is_empty() || self.version.len() > roadstead_core::class::MAX_VERSION_LEN {
            findings.add("spec.version", format!("must have 1 to {} characters", roadstead_core::class::MAX_VERSION_LEN));
        } else if let Some(bad) = self.version.chars().find(|c| !(c.is_ascii_alphanumeric() || ".-+_".contains(*c))) {
            findings.add("spec.version", format!("{bad:?} is not allowed: use letters, digits and any of . - + _"));
        }
        let requests = &self.requests;
        if requests.largest_pod.cpu > requests.cpu {
            findings.add("spec.requests.largestPod.cpu", "is more than all pods of the tenant ask for together");
        }
        if requests.largest_pod.memory > requests.memory {
            findings.add("spec.requests.largestPod.memory", "is more than all pods of the tenant ask for together");
        }
        let mut seen = BTreeMap::new();
        for (index, volume) in self.volumes.iter().enumerate() {
            if let Some(first) = seen.insert(&volume.name, index) {
                findings.add(format!("spec.volumes[{index}].name"), format!("`{}` is volume {first}'s name already", volume.name));
            }
        }
        // What follows from a problem that was found already is not told, too.
        let is_sound = findings.is_empty();
        let found = match self.parsed(name) {
            Ok(Some(class)) if is_sound => roadstead_class::check(&class),
            Ok(_) => Vec::new(),
            Err(found) => found,
        };
        for Finding { field, problem } in found {
            findings.add(field, problem);
        }
    }

    /// This class, understood; `None` if its name is none.
    ///
    /// # Errors
    /// What no class may say.
    pub fn parsed(&self, name: &str) -> Result<Option<Class>, Vec<Finding>> {
        self.to_version(name).map(|version| Class::parse(&version)).transpose()
    }

    /// This class as the service keeps it; `None` if it or one of its volumes has no name.
    fn to_version(&self, name: &str) -> Option<ClassVersion> {
        let volume = |volume: &Volume| {
            let name = Name::new(&volume.name.0).ok()?;
            Some(VolumeSpec { name, size: CoreBytes(volume.size.0), storage: volume.storage.clone(), grow: volume.grow })
        };
        let requests = &self.requests;
        Some(ClassVersion {
            name: Name::new(name).ok()?,
            version: self.version.clone(),
            requests: CoreRequests {
                total: Resources {
                    cpu: Millicores(requests.cpu.0),
                    memory: CoreBytes(requests.memory.0),
                    pods: requests.pods,
                    storage: CoreBytes(requests.storage.0),
                    attachments: requests.attachments,
                },
                largest_pod: PodSize { cpu: Millicores(requests.largest_pod.cpu.0), memory: CoreBytes(requests.largest_pod.memory.0) },
            },
            volumes: self.volumes.iter().map(volume).collect::<Option<_>>()?,
            retain: Millis(self.retain.0),
            values_schema: self.values_schema().unwrap_or_default(),
            template: template_of(self),
            created: Revision::default(),
        })
    }

    /// The JSON Schema of tenants' values as text, if there is one.
    #[must_use]
    pub fn values_schema(&self) -> Option<String> {
        self.values.as_ref().map(|schema| Value::Object(schema.clone()).to_string())
    }

    /// Replaces patterns by the files that they name, relative to `folder`.
    pub fn inline(&mut self, folder: &Path, findings: &mut Findings) {
        let mut files = Vec::new();
        for (index, manifest) in std::mem::take(&mut self.manifests).into_iter().enumerate() {
            match manifest {
                Manifest::File(_) => files.push(manifest),
                Manifest::Pattern(pattern) => match super::glob::read(folder, &pattern) {
                    Ok(found) => files.extend(found.into_iter().map(|(file, content)| Manifest::File(ManifestFile { file, content }))),
                    Err(message) => findings.add(format!("spec.manifests[{index}]"), message),
                },
            }
        }
        if files.len() > MAX_MANIFESTS {
            findings.add("spec.manifests", format!("names {} files, at most {MAX_MANIFESTS} are allowed", files.len()));
        }
        self.manifests = files;
    }

    /// This class on the wire.
    #[must_use]
    pub fn to_wire(&self, name: &str) -> v1::Class {
        let volumes = self.volumes.iter().map(|volume| v1::VolumeSpec {
            name: volume.name.0.clone(),
            size_bytes: volume.size.0,
            storage: volume.storage.clone(),
            grow: volume.grow,
        });
        v1::Class {
            name: name.to_owned(),
            version: self.version.clone(),
            requests: Some((&self.requests).into()),
            volumes: volumes.collect(),
            retain: Some(super::duration_to_wire(self.retain)),
            values_schema_json: self.values_schema().unwrap_or_default(),
            template_json: template_of(self),
            revision: None,
            tenants: 0,
            digest: String::new(),
        }
    }
}

fn template_of(spec: &ClassSpec) -> String {
    let template = Template {
        secrets: spec.secrets.clone(),
        network: spec.network.clone(),
        pod_security: spec.pod_security,
        manifests: spec.manifests.clone(),
        cede: spec.cede.clone(),
        ready: spec.ready.clone(),
        quiesce: spec.quiesce.clone(),
        local: spec.local.clone(),
    };
    serde_json::to_string(&template).expect("a template of maps with text keys is JSON")
}

impl From<&v1::Class> for ClassSpec {
    fn from(wire: &v1::Class) -> Self {
        let template: Template = serde_json::from_str(&wire.template_json).unwrap_or_default();
        let volumes = wire.volumes.iter().map(|volume| Volume {
            name: Label(volume.name.clone()),
            size: Bytes(volume.size_bytes),
            storage: volume.storage.clone(),
            grow: volume.grow,
        });
        Self {
            version: wire.version.clone(),
            values: serde_json::from_str(&wire.values_schema_json).ok(),
            requests: wire.requests.as_ref().map(Into::into).unwrap_or_default(),
            volumes: volumes.collect(),
            retain: wire.retain.as_ref().map(super::duration_from_wire).unwrap_or_default(),
            secrets: template.secrets,
            network: template.network,
            pod_security: template.pod_security,
            manifests: template.manifests,
            cede: template.cede,
            ready: template.ready,
            quiesce: template.quiesce,
            local: template.local,
        }
    }
}
