//! Telling other programs of the fleet: a ClusterProfile (`multicluster.x-k8s.io`) for each cluster in a management cluster, and what other
//! managers' profiles tell of clusters that have not joined.
//!
//! It lives beside the command line, not in the agent: it is a client of the placement service, for the whole fleet, and of a cluster that
//! need not carry tenants.
//!
//! In reading order: [`profile`] (their form, and a cluster as one), [`mod@plan`] (what is to be written and deleted), [`candidates`] (who
//! could join), [`mod@write`] (the management cluster). All but the last are pure.

pub mod profile;
pub mod plan;
pub mod candidates;
pub mod write;

pub use plan::{Owner, Step, plan};
pub use profile::ClusterProfile;
