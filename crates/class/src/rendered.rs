//! What rendering gives: everything that there is to be of a tenant in a cluster. Interpreters compare it with what is there.

use std::collections::BTreeMap;
use std::fmt;

use roadstead_core::id::Name;
use roadstead_core::reconcile::Part;
use roadstead_core::time::Millis;
use serde_json::Value;

/// Which object of a tenant's namespace (or, for the namespace itself, of the cluster).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectId {
    /// As in `apps/v1`.
    pub api_version: String,
    /// As in `Deployment`.
    pub kind: String,
    /// Its name.
    pub name: String,
}

impl fmt::Display for ObjectId {
    /// As people name it: `Deployment/web`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.kind, self.name)
    }
}

/// One object as it is to be: exactly the fields that are ours.
#[derive(Clone, Debug, PartialEq)]
pub struct Manifest {
    /// Which.
    pub id: ObjectId,
    /// The whole object with `apiVersion`, `kind` and `metadata` (name, namespace, labels).
    pub body: Value,
}

/// Where a secret's data comes from. It is never in the log nor in a class.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SecretSource {
    /// Copied with its type from the secret of this name in the cluster's template namespace, and kept in step with it.
    Copy {
        /// Name there.
        from: String,
    },
    /// Generated once, each key a random text of so many characters, and never made anew over volumes that are there.
    Generate {
        /// Key to length.
        keys: BTreeMap<String, u32>,
    },
}

/// A secret of a tenant.
#[derive(Clone, Debug, PartialEq)]
pub struct SecretPlan {
    /// The Secret without its data, and a copied one without its type.
    pub manifest: Manifest,
    /// Where its data comes from.
    pub source: SecretSource,
    /// Whether pods are restarted when its data changes.
    pub restart_on_change: bool,
}

/// A field that is left to somebody else, an autoscaler say: applied when the object is made and not looked at after that.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ceded {
    /// Kind and name.
    pub object: String,
    /// Path within the object, as in `["spec", "replicas"]`.
    pub path: Vec<String>,
}

/// A command inside a workload's pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exec {
    /// `StatefulSet/db`.
    pub target: String,
    /// The command.
    pub run: Vec<String>,
    /// What takes it back.
    pub undo: Vec<String>,
}

/// One step of bringing a tenant to rest, in the class's order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StopStep {
    /// Scale a workload to zero: `Deployment/web`.
    Scale(String),
    /// Run a command.
    Exec(Exec),
}

/// Something that must hold before a tenant is ready, beyond the usual rules: `Job/migrate=Complete`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Observe {
    /// `Job/migrate`.
    pub object: String,
    /// Type of a condition that must be true.
    pub condition: String,
}

/// A process of the local interpreter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalProcess {
    /// Program and arguments. `{{ volumes.NAME }}` has been left as the token `${volume:NAME}`, which the interpreter replaces by a folder.
    pub run: Vec<String>,
    /// Added to its environment.
    pub env: BTreeMap<String, String>,
}

/// Everything that there is to be of one tenant.
#[derive(Clone, Debug, PartialEq)]
pub struct Rendered {
    /// Of everything below but the class, 16 bytes as hex: equal digests mean equal objects.
    pub digest: String,
    /// Of the class that it was rendered from.
    pub class_digest: String,
    /// The namespace.
    pub namespace: Manifest,
    /// Objects by part, in the order in which they are made; secrets and volumes are apart.
    pub parts: BTreeMap<Part, Vec<Manifest>>,
    /// Secrets.
    pub secrets: Vec<SecretPlan>,
    /// Volume claims by the volume's name.
    pub volumes: BTreeMap<Name, Manifest>,
    /// Fields left to others.
    pub ceded: Vec<Ceded>,
    /// What must hold beyond the usual.
    pub also: Vec<Observe>,
    /// How long it may take to become ready before that is called trouble; none: ten minutes.
    pub ready_within: Option<Millis>,
    /// How it is brought to rest; what no step names is scaled to zero after the last.
    pub stop: Vec<StopStep>,
    /// How long the steps may take together.
    pub stop_within: Option<Millis>,
    /// Processes of the local interpreter by workload.
    pub local: BTreeMap<String, LocalProcess>,
}

impl Rendered {
    /// Every object in the order in which they are made; secrets without their data.
    pub fn manifests(&self) -> impl Iterator<Item = &Manifest> {
        let part = |part: Part| self.parts.get(&part).into_iter().flatten();
        let secrets = self.secrets.iter().map(|secret| &secret.manifest);
        let bounds = std::iter::once(&self.namespace).chain(part(Part::Bounds));
        bounds.chain(part(Part::Secrets)).chain(secrets).chain(self.volumes.values()).chain(part(Part::Workloads)).chain(part(Part::Routes))
    }
}
