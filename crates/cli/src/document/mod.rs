//! Documents: what people write, read and checked as a whole before anything is sent.
//!
//! In reading order: [`tree`] (YAML with places), [`read`] (places into serde's errors), [`quantity`], the kinds, [`files`] (a whole
//! input), [`schema`]. Nothing here talks to a server.

pub mod tree;
pub mod read;
pub mod quantity;
pub mod resources;
pub mod constraint;
pub mod tenant;
pub mod class;
pub mod glob;
pub mod fleet;
pub mod files;
pub mod schema;

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use self::class::ClassSpec;
use self::fleet::{ClusterSpec, PolicySpec, PoolSpec};
use self::quantity::{Label, Span};
use self::tenant::TenantSpec;

/// The version that every document names.
pub const API_VERSION: &str = "roadstead.dev/v1";
/// The kind of a document that only holds others.
pub const LIST_KIND: &str = "List";
/// The only name that a policy may have.
pub const POLICY_NAME: &str = "default";

/// Kinds of documents, in the order in which they are applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Kind {
    /// What holds for the whole fleet.
    Policy,
    /// Interchangeable clusters.
    Pool,
    /// A template of tenants.
    Class,
    /// A Kubernetes cluster.
    Cluster,
    /// An instance of an application.
    Tenant,
}

impl Kind {
    /// All of them, in the order in which they are applied.
    pub const ALL: [Self; 5] = [Self::Policy, Self::Pool, Self::Class, Self::Cluster, Self::Tenant];

    /// As documents write it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Policy => "Policy",
            Self::Pool => "Pool",
            Self::Class => "Class",
            Self::Cluster => "Cluster",
            Self::Tenant => "Tenant",
        }
    }

    /// As answers write it, in front of a name.
    #[must_use]
    pub fn lower(self) -> &'static str {
        match self {
            Self::Policy => "policy",
            Self::Pool => "pool",
            Self::Class => "class",
            Self::Cluster => "cluster",
            Self::Tenant => "tenant",
        }
    }

    /// Several of them, as verbs take them.
    #[must_use]
    pub fn plural(self) -> &'static str {
        match self {
            Self::Policy => "policy",
            Self::Pool => "pools",
            Self::Class => "classes",
            Self::Cluster => "clusters",
            Self::Tenant => "tenants",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Name, and what the server adds on the way out.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Metadata {
    /// Unique among things of its kind.
    pub name: Label,
    /// Set by the server, ignored on apply.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<String>,
    /// Set by the server, ignored on apply.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<String>,
    /// Set by the server, ignored on apply.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
}

/// A document of one kind.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Envelope<S> {
    /// `roadstead.dev/v1`.
    pub api_version: String,
    /// The kind.
    pub kind: String,
    /// Name.
    pub metadata: Metadata,
    /// What is declared.
    pub spec: S,
    /// How it is. Ignored on apply.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<serde_json::Value>,
}

impl<S> Envelope<S> {
    /// A document as the server's answers are shown.
    pub fn new(kind: Kind, metadata: Metadata, spec: S, status: Option<serde_json::Value>) -> Self {
        Self { api_version: API_VERSION.to_owned(), kind: kind.name().to_owned(), metadata, spec, status }
    }
}

/// What a document declares.
#[derive(Clone, Debug, PartialEq)]
pub enum Spec {
    /// The policy.
    Policy(PolicySpec),
    /// A pool.
    Pool(PoolSpec),
    /// A class version.
    Class(Box<ClassSpec>),
    /// A cluster.
    Cluster(Box<ClusterSpec>),
    /// A tenant.
    Tenant(Box<TenantSpec>),
}

impl Spec {
    /// Its kind.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Self::Policy(_) => Kind::Policy,
            Self::Pool(_) => Kind::Pool,
            Self::Class(_) => Kind::Class,
            Self::Cluster(_) => Kind::Cluster,
            Self::Tenant(_) => Kind::Tenant,
        }
    }
}

/// A document that has been read.
#[derive(Clone, Debug, PartialEq)]
pub struct Document {
    /// Name.
    pub name: String,
    /// What it declares.
    pub spec: Spec,
}

impl Document {
    /// What tells it from others: `tenant/acme`, `class/shop@3.2.0`.
    #[must_use]
    pub fn identity(&self) -> String {
        let kind = self.spec.kind().lower();
        match &self.spec {
            Spec::Class(class) => format!("{kind}/{}@{}", self.name, class.version),
            Spec::Policy(_) | Spec::Pool(_) | Spec::Cluster(_) | Spec::Tenant(_) => format!("{kind}/{}", self.name),
        }
    }
}

/// What checks have found in one document: a field and what is wrong with it.
#[derive(Debug, Default)]
pub struct Findings(Vec<(String, String)>);

impl Findings {
    /// Notes one.
    pub fn add(&mut self, field: impl Into<String>, message: impl Into<String>) {
        self.0.push((field.into(), message.into()));
    }

    /// Whether nothing was found yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Milliseconds to the wire.
#[must_use]
pub fn duration_to_wire(span: Span) -> prost_types::Duration {
    let seconds = i64::try_from(span.0 / 1000).unwrap_or(i64::MAX);
    let nanos = i32::try_from(span.0 % 1000).unwrap_or(0) * 1_000_000;
    prost_types::Duration { seconds, nanos }
}

/// Milliseconds from the wire.
#[must_use]
pub fn duration_from_wire(duration: &prost_types::Duration) -> Span {
    let seconds = u64::try_from(duration.seconds).unwrap_or(0);
    let millis = u64::try_from(duration.nanos).unwrap_or(0) / 1_000_000;
    Span(seconds.saturating_mul(1000).saturating_add(millis))
}
