//! Tenants as documents, and their form on the wire.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use roadstead_api::v1;
use roadstead_core::tenant::MAX_VALUES_BYTES;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::Findings;
use super::constraint::Constraints;
use super::quantity::{Bytes, Label, OwnerName};

/// One isolated single-tenant instance of an application.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TenantSpec {
    /// Organisation.
    pub owner: OwnerName,
    /// Class and version, as in `shop@3.2.0`.
    pub class: String,
    /// Whether it should run.
    #[serde(default)]
    pub desired: Desired,
    /// Values of the class's template; never secret.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub values: Map<String, Value>,
    /// Hostnames.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hostnames: Vec<String>,
    /// Sizes of volumes that differ from the class's.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub volumes: BTreeMap<String, Bytes>,
    /// The greater is served first among those that wait.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub priority: i32,
    /// Deletion is refused while true.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub deletion_protection: bool,
    /// Waits for room no longer than until then (RFC 3339).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline: Option<String>,
    /// Where it may go.
    #[serde(default, skip_serializing_if = "unconstrained")]
    pub constraints: Constraints,
}

fn is_zero(priority: &i32) -> bool {
    *priority == 0
}
fn unconstrained(constraints: &Constraints) -> bool {
    *constraints == Constraints::default()
}

/// Whether a tenant should run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Desired {
    /// Runs.
    #[default]
    Running,
    /// Stopped, keeps its place and volumes.
    Hibernated,
    /// As `Hibernated`.
    Archived,
}

/// A class with its version, written `shop@3.2.0`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ClassRef {
    /// Class.
    pub name: String,
    /// Version.
    pub version: String,
}

impl fmt::Display for ClassRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.name, self.version)
    }
}

impl FromStr for ClassRef {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('@') {
            Some((name, version)) if !name.is_empty() && !version.is_empty() => {
                Ok(Self { name: name.to_owned(), version: version.to_owned() })
            }
            _ => Err(format!("`{}` is not a class with its version: write it as in shop@3.2.0", super::read::shown(text))),
        }
    }
}

impl TenantSpec {
    /// Combinations that no single field's type can refuse.
    pub fn check(&self, findings: &mut Findings) {
        if let Err(message) = self.class.parse::<ClassRef>() {
            findings.add("spec.class", message);
        }
        if let Some(Err(message)) = self.deadline.as_deref().map(timestamp_to_wire) {
            findings.add("spec.deadline", message);
        }
        let values = self.values_text().len();
        if values > MAX_VALUES_BYTES {
            findings.add("spec.values", format!("has {values} bytes as JSON, at most {MAX_VALUES_BYTES} are allowed"));
        }
        self.constraints.check("spec.constraints", findings);
    }

    /// The values as JSON; empty if there are none.
    fn values_text(&self) -> String {
        if self.values.is_empty() { String::new() } else { Value::Object(self.values.clone()).to_string() }
    }
}

/// RFC 3339 to the wire.
fn timestamp_to_wire(text: &str) -> Result<prost_types::Timestamp, String> {
    let time: jiff::Timestamp =
        text.parse().map_err(|_| format!("`{}` is not a time: write it as in 2027-01-31T12:00:00Z", super::read::shown(text)))?;
    Ok(prost_types::Timestamp { seconds: time.as_second(), nanos: time.subsec_nanosecond() })
}

/// A time of the wire in RFC 3339.
#[must_use]
pub fn timestamp_from_wire(time: &prost_types::Timestamp) -> String {
    jiff::Timestamp::new(time.seconds, time.nanos).map_or_else(|_| format!("{}s", time.seconds), |time| time.to_string())
}

impl From<&TenantSpec> for v1::TenantSpec {
    fn from(doc: &TenantSpec) -> Self {
        let class = doc.class.parse().unwrap_or(ClassRef { name: doc.class.clone(), version: String::new() });
        let desired = match doc.desired {
            Desired::Running => v1::Desired::Running,
            Desired::Hibernated => v1::Desired::Hibernated,
            Desired::Archived => v1::Desired::Archived,
        };
        let volumes = doc.volumes.iter().map(|(name, size)| v1::VolumeSize { name: name.clone(), size_bytes: size.0 });
        Self {
            owner: doc.owner.0.clone(),
            class: class.name,
            version: class.version,
            values_json: doc.values_text(),
            hostnames: doc.hostnames.clone(),
            volumes: volumes.collect(),
            desired: desired.into(),
            priority: doc.priority,
            deletion_protection: doc.deletion_protection,
            deadline: doc.deadline.as_deref().and_then(|text| timestamp_to_wire(text).ok()),
            constraints: Some((&doc.constraints).into()),
        }
    }
}

impl From<&v1::TenantSpec> for TenantSpec {
    fn from(wire: &v1::TenantSpec) -> Self {
        let desired = match wire.desired() {
            v1::Desired::Unspecified | v1::Desired::Running => Desired::Running,
            v1::Desired::Hibernated => Desired::Hibernated,
            v1::Desired::Archived => Desired::Archived,
        };
        Self {
            owner: OwnerName(wire.owner.clone()),
            class: ClassRef { name: wire.class.clone(), version: wire.version.clone() }.to_string(),
            desired,
            values: serde_json::from_str(&wire.values_json).unwrap_or_default(),
            hostnames: wire.hostnames.clone(),
            volumes: wire.volumes.iter().map(|volume| (volume.name.clone(), Bytes(volume.size_bytes))).collect(),
            priority: wire.priority,
            deletion_protection: wire.deletion_protection,
            deadline: wire.deadline.as_ref().map(timestamp_from_wire),
            constraints: wire.constraints.as_ref().map(Into::into).unwrap_or_default(),
        }
    }
}

/// The name under which a tenant is written, checked.
///
/// # Errors
/// Why it is no name.
pub fn checked_name(text: &str) -> Result<Label, String> {
    roadstead_core::id::Name::new(text)
        .map(|name| Label(name.as_str().to_owned()))
        .map_err(|error| format!("the name `{}`: {error}", super::read::shown(text)))
}
