//! `dev`: a placement service and a fleet of clusters on this machine, until Ctrl-C. A cluster is a folder, a tenant's workload a process.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use crate::document::Kind;
use crate::failure::Failure;
use crate::output::out;
use crate::pki::Role;
use crate::trial::agents::facts;
use crate::trial::local::Folders;
use crate::trial::{Trial, count, declare, replicas, until_reported, until_voters};

/// How often it is looked for clusters that somebody has added.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// See [`super::Cli`].
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  roadstead dev                        # three replicas, 20 clusters
  roadstead dev --data /tmp/rs --clusters 3 --replicas 1

Nothing to install: real replicas with real logs and mutual TLS on loopback. A cluster is a folder in DIR/clusters, a volume a folder in
it, a workload a process of the class's `local` command. Nothing bounds those processes: run classes that you trust.
Started again on the same folder, it goes on where it was.")]
pub struct Dev {
    /// Folder for data, certificates and the context.
    #[arg(long, default_value = "roadstead-dev")]
    data: PathBuf,
    /// Clusters of the examples to begin with.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(0..=20))]
    clusters: u64,
    /// Replicas.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=7))]
    replicas: u64,
    /// What is logged to stderr, as in info.
    #[arg(long, default_value = "error", env = "ROADSTEAD_LOG")]
    log_filter: String,
}

impl Dev {
    /// Runs until interrupted.
    ///
    /// # Errors
    /// Why it did not start.
    pub async fn run(self) -> Result<(), Failure> {
        super::server::log_to_stderr(&self.log_filter, false)?;
        let mut trial = Trial::prepare(&self.data, usize::try_from(self.replicas).unwrap_or(3))?;
        let again = trial.plans.iter().all(|plan| roadstead_server::lifecycle::exists(&plan.data));
        out(&format!(
            "{} {} replicas in {} ...\n",
            if again { "continuing with" } else { "starting" },
            trial.plans.len(),
            trial.folder.display()
        ));
        let running = replicas::start_all_here(&trial).await?;
        let client = trial.client(Role::Admin, "me")?;
        until_voters(&client, trial.plans.len()).await?;
        let documents = trial.fleet_documents(usize::try_from(self.clusters).unwrap_or(20))?;
        if client.clusters(false).await?.is_empty() {
            declare(&client, &documents).await?;
        }
        let facts = facts(&documents);
        let mut fleet = Folders::default();
        fleet.follow(&mut trial, &client, &facts).await?;
        until_reported(&client).await?;
        let config = trial.write_config()?;
        out(&self.greeting(&trial, fleet.len(), count(&documents, Kind::Class), &config));
        let mut look = tokio::time::interval(LOOK_EVERY);
        loop {
            tokio::select! {
                _ = tokio::signal::ctrl_c() => break,
                _ = terminated() => break,
                _ = look.tick() => {
                    if let Err(failure) = fleet.follow(&mut trial, &client, &facts).await {
                        tracing::warn!(error = %failure, "cannot look for new clusters");
                    }
                }
            }
        }
        out("\nstopping ...\n");
        fleet.end().await;
        for server in running {
            server.shutdown().await;
        }
        out(&format!("stopped; `roadstead dev --data {}` goes on\n", self.data.display()));
        Ok(())
    }

    fn greeting(&self, trial: &Trial, clusters: usize, classes: usize, config: &std::path::Path) -> String {
        let servers: Vec<&str> = trial.plans.iter().map(|plan| plan.info.client_address.as_str()).collect();
        let examples = trial.folder.join("examples");
        let folder = trial.folder.join("clusters");
        let (config, examples, clusters_folder) = (config.display(), examples.display(), folder.display());
        format!(
            "{} replicas on {}, {clusters} clusters, {classes} classes

Try in another terminal:
  export ROADSTEAD_CONFIG={config}
  roadstead admin status
  roadstead top
  roadstead apply -f {examples}/tenants.yaml --wait
  roadstead get tenants -o wide
  roadstead explain acme
  roadstead simulate -f {examples}/what-if/unplaceable.yaml
  roadstead place first --owner me --class shop-small@1.0.0 --wait
  roadstead watch tenants
  ls {clusters_folder}/*/tenants          # a cluster is a folder, a workload a process
  roadstead cordon own-fra-1
  roadstead delete tenant first && roadstead undelete first

Ctrl-C stops it; started again on the same folder it goes on.
",
            servers.len(),
            servers.join(", ")
        )
    }
}

/// Until SIGTERM, or until the terminal goes away.
pub(crate) async fn terminated() {
    use tokio::signal::unix::{SignalKind, signal};
    let (terminate, hangup) = (signal(SignalKind::terminate()), signal(SignalKind::hangup()));
    let (Ok(mut terminate), Ok(mut hangup)) = (terminate, hangup) else { return std::future::pending().await };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = hangup.recv() => {}
    }
}
