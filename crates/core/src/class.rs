//! Classes: named templates of one tenant, with immutable versions.

use serde::{Deserialize, Serialize};

use crate::id::{Name, Revision};
use crate::resources::{Bytes, Requests};
use crate::time::Millis;

/// The longest version text.
pub const MAX_VERSION_LEN: usize = 64;
/// The largest template (manifests, schemas, steps) of one version in bytes.
pub const MAX_TEMPLATE_BYTES: usize = 1 << 20;

/// One volume that every tenant of the class gets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeSpec {
    /// Name within the tenant.
    pub name: Name,
    /// Size; a tenant may ask for more.
    pub size: Bytes,
    /// Kind of storage, mapped per cluster.
    pub storage: String,
    /// Whether it may grow in place.
    pub grow: bool,
}

/// One immutable version of a class.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClassVersion {
    /// Class.
    pub name: Name,
    /// Version, as in `3.2.0`.
    pub version: String,
    /// What one tenant asks for, surge included; storage and attachments are the sums over `volumes` plus what is stated.
    pub requests: Requests,
    /// Its volumes.
    pub volumes: Vec<VolumeSpec>,
    /// How long volumes are kept after deletion.
    pub retain: Millis,
    /// JSON Schema of the tenants' values, as JSON text; empty accepts no values.
    pub values_schema: String,
    /// Everything else of the document, as JSON text: manifests, secrets, network, quiesce, ready. Not read by this crate.
    pub template: String,
    /// When it was created.
    pub created: Revision,
}
