//! Classes as templates: from a class, a tenant's intent and facts about a cluster to what there is to be in that cluster.
//!
//! Pure: the same input gives the same output wherever it is rendered, so that agents, `roadstead render` and the checks of
//! `roadstead apply` agree. It knows no API server and decides nothing about order or time; that is [`roadstead_core::reconcile`].
//!
//! Modules in reading order: `template` and `manifests` (what a class says), `kinds` (what it may bring), `class` (both, understood),
//! `schema`, `meter` and `expression` (values, what they may cost, and where they go), `render`, `sums` (what its pods ask for), `pods`, `services`,
//! `check` and `change` (what is refused before it is written anywhere).

mod finding;
mod nearest;
mod units;
mod cidr;
mod schema;
mod meter;
mod expression;
mod kinds;
mod rendered;
mod site;
mod template;
mod manifests;
mod class;
mod render;
mod sums;
mod pod_security;
mod pods;
mod services;
mod check;
mod change;

pub use change::check_change;
pub use check::check;
pub use cidr::read_cidr;
pub use class::{Class, class_digest};
pub use expression::{MAX_EXPRESSION_CHARS, MAX_STEPS, MAX_TEXT_BYTES, unquoted as unquoted_expression};
pub use finding::Finding;
pub use kinds::{RULES as ROLE_RULES, reaches_beyond};
pub use manifests::{MAX_DEPTH, MAX_NODES, MAX_OBJECTS, RECORD};
pub use meter::{MAX_RENDERED_BYTES, MAX_WORK_BYTES, TIMES_IN_USE, VALUE_BYTES};
pub use nearest::nearest;
pub use render::{
    EPOCH_LABEL, NAME_LABEL, OWNER_LABEL, RenderError, SHARD_LABEL, TENANT_LABEL, VOLUME_LABEL, may_be_namespace_of, namespace_of, render,
    try_render,
};
pub use rendered::{Ceded, Exec, LocalProcess, Manifest, ObjectId, Observe, Rendered, SecretPlan, SecretSource, StopStep};
pub use schema::{MAX_VALUES, MAX_VALUES_TEXT, Schema};
pub use site::{Entry, METADATA, Site};
pub use sums::pods_of;
pub use template::{MAX_ENTRIES, PodSecurity, SECRET_CHARS};
pub use units::{factor, suffix_factor};
