//! The agent: makes one cluster carry its tenants, and tells the placement service what it truly holds.
//!
//! Every decision is made in [`roadstead_core::reconcile`]; what there is to be is rendered by [`roadstead_class`]. Here actions are carried
//! out and things are looked at. Modules in reading order: [`mod@interpreter`] (what each kind of cluster must be able to do), [`wire`] (between
//! the wire and the core), `diff` (what would change, as it is told), [`engine`] (the loop), [`local`] (folders and processes), `pauses` and `watching` (a watch that goes on for ever), [`mod@kube`] (a Kubernetes cluster), [`mod@inventory`]
//! (what it holds), [`mod@probe`] (whether its network keeps to policies), [`identity`] (the agent's certificate), [`session`] (the conversation with the placement service), [`lease`] (which replica works), [`run`](run()) (all of it
//! together).

pub mod interpreter;
pub mod wire;
mod diff;
pub mod engine;
pub mod local;
mod pauses;
mod watching;
pub mod inventory;
pub mod probe;
pub mod kube;
pub mod identity;
pub mod session;
pub mod lease;
mod run;

pub use run::run;
