//! Clusters that are folders on this machine, each with an agent of its own: a real gRPC client with an agent's certificate.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use roadstead_agent::engine::Settings;
use roadstead_agent::local::Local;
use roadstead_agent::session::Session;
use roadstead_api::v1;
use roadstead_class::Site;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::Trial;
use super::agents::{Facts, some_capacity};
use crate::apply::model_uid;
use crate::client::{Client, endpoints};
use crate::failure::Failure;
use crate::pki::{Role, Subject};

/// The agents of a fleet of folders.
pub struct Folders {
    stop: CancellationToken,
    tasks: JoinSet<()>,
    clusters: BTreeMap<String, Local>,
}

impl Default for Folders {
    fn default() -> Self {
        Self { stop: CancellationToken::new(), tasks: JoinSet::new(), clusters: BTreeMap::new() }
    }
}

impl Folders {
    /// Starts an agent for each cluster that has none.
    ///
    /// # Errors
    /// Certificates or folders that cannot be written, the listing's failure.
    pub async fn follow(&mut self, trial: &mut Trial, client: &Client, facts: &Facts) -> Result<(), Failure> {
        for cluster in client.clusters(true).await? {
            if self.clusters.contains_key(&cluster.name) {
                continue;
            }
            let local = open(trial, &cluster, facts.get(&cluster.name))?;
            let context = trial.context(&Subject::new(Role::Agent, &cluster.name))?;
            let replicas = Arc::new(move || endpoints(&context).map_err(|failure| failure.to_string()));
            let uid = local.uid();
            let site = Site { cluster: cluster.name.clone(), other_storage: Some("folder".to_owned()), ..Site::default() };
            let (settings, session) = (Settings { site, ..Settings::default() }, Session { uid, replicas });
            let (agent, stop, name) = (local.clone(), self.stop.clone(), cluster.name.clone());
            self.tasks.spawn(async move {
                if let Err(error) = roadstead_agent::run(agent, settings, session, stop).await {
                    tracing::error!(cluster = name, %error, "the agent has ended");
                }
            });
            self.clusters.insert(cluster.name, local);
        }
        Ok(())
    }

    /// How many clusters there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.clusters.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.clusters.is_empty()
    }

    /// Ends the agents, then everything that runs in their clusters; it starts again with the next ones.
    pub async fn end(mut self) {
        self.stop.cancel();
        while self.tasks.join_next().await.is_some() {}
        let ended = tokio::task::spawn_blocking(move || self.clusters.values().for_each(Local::end)).await;
        if let Err(error) = ended {
            tracing::error!(%error, "not every process was ended");
        }
    }
}

fn declared_uid(cluster: &v1::Cluster) -> String {
    let declared = cluster.spec.as_ref().map(|spec| spec.uid.clone()).filter(|uid| !uid.is_empty());
    declared.unwrap_or_else(|| model_uid(&cluster.name))
}

fn open(trial: &Trial, cluster: &v1::Cluster, facts: Option<&v1::Capacity>) -> Result<Local, Failure> {
    let folder: PathBuf = trial.folder.join("clusters").join(&cluster.name);
    let capacity = facts.cloned().unwrap_or_else(some_capacity);
    Local::open(&folder, &declared_uid(cluster), roadstead_agent::wire::capacity(&capacity))
        .map_err(|error| Failure::failed(format!("cannot open {} as a cluster: {error}", folder.display())))
}
