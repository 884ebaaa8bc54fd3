//! Classes as templates: from a class, a tenant's intent and facts about a cluster to what there is to be in that cluster.
//!
//! Pure: the same input gives the same output wherever it is rendered, so that agents, `roadstead render` and the checks of
//! `roadstead apply` agree. It knows no API server and decides nothing about order or time; that is [`roadstead_core::reconcile`].

mod rendered;
mod site;

pub use rendered::{Ceded, Exec, LocalProcess, Manifest, ObjectId, Observe, Rendered, SecretPlan, SecretSource, StopStep};
pub use site::{Entry, Site};
