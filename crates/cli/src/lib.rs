//! The `roadstead` binary's library.
//!
//! In reading order: [`document`] (what people write), [`failure`] and [`output`] (what they see), [`client`] (connections, contexts,
//! retries), [`kube_api`] (clusters' API servers), [`apply`] (from documents to calls), [`verbs`] (kubectl's grammar), [`pki`] (certificates), [`join`] (the manifests of
//! a cluster's agent), [`export`] (telling other programs of the fleet), [`trial`] (a whole service and a model fleet on this machine), [`demo`] (a tour that checks itself).

pub mod document;
pub mod failure;
pub mod output;
pub mod client;
pub mod kube_api;
pub mod apply;
pub mod verbs;
pub mod pki;
pub mod join;
pub mod export;
pub mod trial;
pub mod demo;
