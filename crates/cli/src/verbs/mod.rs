//! The verbs, as kubectl's users know them. One module a group; this one is the list of them.

pub mod kinds;
pub mod get;
pub mod apply;
pub mod wait;
pub mod change;
pub mod rest;
pub mod place;
pub mod insight;
pub mod render;
pub mod watch;
pub mod admin;
pub mod server;
pub mod agent;
pub mod probe;
pub mod given;
pub mod join;
pub mod export;
pub mod dev;
pub mod config;
pub mod meta;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::failure::Failure;
use crate::pki::verbs::Pki;

/// Gives every tenant a berth in a fleet of Kubernetes clusters.
#[derive(Debug, Parser)]
#[command(
    name = "roadstead",
    version,
    propagate_version = true,
    max_term_width = 120,
    after_help = "Exit codes: 0 done, 1 refused or failed, 2 wrong usage or a bad document, 3 not found, 4 conflict, \
                  5 unavailable, 6 not permitted.\nBegin with `roadstead dev` or `roadstead demo`."
)]
pub struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// List things, or show them as documents.
    Get(get::Get),
    /// Show all that is known of a thing.
    Describe(get::Describe),
    /// Apply documents: create what is not there, change what differs.
    Apply(apply::Apply),
    /// Show what `apply` would change.
    Diff(apply::Diff),
    /// Show the Kubernetes objects that tenants become.
    Render(render::Render),
    /// Place one tenant without a file.
    Place(place::Place),
    /// Delete things; a tenant's volumes are kept for a while.
    Delete(change::Delete),
    /// Bring deleted tenants back.
    Undelete(change::Undelete),
    /// Bring tenants to rest; they keep their place and their volumes.
    Hibernate(rest::Hibernate),
    /// Let tenants run again that are at rest.
    Wake(rest::Wake),
    /// Let no new tenants into clusters.
    Cordon(change::Cordon),
    /// Let new tenants in again.
    Uncordon(change::Cordon),
    /// Agree to removals of tenants that wait for an operator.
    AllowRemovals(change::AllowRemovals),
    /// Show how full clusters or pools are.
    Top(insight::Top),
    /// Tell why a tenant is where it is, or nowhere.
    Explain(insight::Explain),
    /// Tell where tenants would go; changes nothing.
    Simulate(insight::Simulate),
    /// Show a tenant's history.
    Events(insight::Events),
    /// Follow every change, in order, over failures.
    Watch(watch::Watch),
    /// Record tenants that run somewhere already.
    Adopt(apply::Adopt),
    /// Give up a cluster that is gone for good.
    Forget(change::Forget),
    /// Look after the replicas themselves.
    #[command(
        subcommand,
        after_help = "Examples:\n  roadstead admin status\n  roadstead admin members list\n  roadstead admin backup -o fleet.backup"
    )]
    Admin(admin::Admin),
    /// Run a replica, or make its folder.
    #[command(
        subcommand,
        after_help = "Examples:
  roadstead server init --data ./r1 \\
      --client-address r1.example.com:7420 --peer-address r1.example.com:7421
  roadstead server run --data ./r1 \\
      --cert pki/replica-r1.crt --key pki/replica-r1.key --ca pki/ca-bundle.crt"
    )]
    Server(server::ServerVerb),
    /// Make the Kubernetes cluster that this runs in carry its tenants.
    Agent(Box<agent::Agent>),
    /// What runs in the two pods by which an agent finds out whether network policies hold.
    #[command(subcommand, hide = true)]
    Probe(probe::Probe),
    /// Let a Kubernetes cluster join: print the manifests of its agent, or apply them.
    Join(Box<join::Join>),
    /// Tell other programs of the fleet.
    #[command(subcommand, after_help = "Examples:\n  roadstead export cluster-profiles --once --dry-run")]
    Export(export::Export),
    /// Start a service and a fleet of clusters (folders) on this machine.
    Dev(dev::Dev),
    /// A tour that checks itself: kill the leader under load, lose nothing.
    Demo(crate::demo::Demo),
    /// Show and change contexts: which service, with which certificate.
    #[command(subcommand, after_help = "Examples:\n  roadstead config get-contexts\n  roadstead config use-context production")]
    Config(config::ConfigVerb),
    /// Make, renew and revoke certificates for a trial.
    #[command(subcommand, after_help = "Examples:\n  roadstead pki init --dir pki\n  roadstead pki issue admin alice --dir pki")]
    Pki(Pki),
    /// Print the JSON Schema of a kind of document.
    Schema(meta::Schema),
    /// Print a completion script for a shell.
    Completion(meta::Completion),
}

impl Cli {
    /// Carries the verb out.
    ///
    /// # Errors
    /// What failed, with its exit code.
    pub fn run(self) -> Result<(), Failure> {
        match self.verb {
            Verb::Schema(verb) => verb.run(),
            Verb::Completion(verb) => verb.run(),
            Verb::Config(verb) => verb.run(),
            Verb::Pki(verb) => verb.run(),
            verb => {
                let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
                runtime.block_on(verb.run())
            }
        }
    }
}

impl Verb {
    async fn run(self) -> Result<(), Failure> {
        match self {
            Self::Get(verb) => verb.run().await,
            Self::Describe(verb) => verb.run().await,
            Self::Apply(verb) => verb.run().await,
            Self::Diff(verb) => verb.run().await,
            Self::Render(verb) => verb.run().await,
            Self::Place(verb) => verb.run().await,
            Self::Delete(verb) => verb.run().await,
            Self::Undelete(verb) => verb.run().await,
            Self::Hibernate(verb) => verb.run().await,
            Self::Wake(verb) => verb.run().await,
            Self::Cordon(verb) => verb.run(true).await,
            Self::Uncordon(verb) => verb.run(false).await,
            Self::AllowRemovals(verb) => verb.run().await,
            Self::Top(verb) => verb.run().await,
            Self::Explain(verb) => verb.run().await,
            Self::Simulate(verb) => verb.run().await,
            Self::Events(verb) => verb.run().await,
            Self::Watch(verb) => verb.run().await,
            Self::Adopt(verb) => verb.run().await,
            Self::Forget(verb) => verb.run().await,
            Self::Admin(verb) => verb.run().await,
            Self::Server(verb) => verb.run().await,
            Self::Agent(verb) => verb.run().await,
            Self::Probe(verb) => verb.run().await,
            Self::Join(verb) => verb.run().await,
            Self::Export(verb) => verb.run().await,
            Self::Dev(verb) => verb.run().await,
            Self::Demo(verb) => verb.run().await,
            Self::Schema(_) | Self::Completion(_) | Self::Config(_) | Self::Pki(_) => Err(Failure::failed("this verb needs no runtime")),
        }
    }
}

/// The program: reads the arguments, carries the verb out, tells failures on stderr.
#[must_use]
pub fn main() -> ExitCode {
    match Cli::parse().run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if !failure.message.is_empty() {
                eprintln!("error: {failure}");
            }
            ExitCode::from(failure.exit as u8)
        }
    }
}
