//! `export`: tells other programs of the fleet.

use std::collections::BTreeMap;
use std::time::Duration;

use clap::{Args, Subcommand};
use roadstead_api::v1;
use serde_json::json;

use crate::client::follow::{Follow, Heard};
use crate::client::{Client, Connection, parse_span};
use crate::export::write::{carry_out, line, profiles};
use crate::export::{ClusterProfile, Owner, Step, plan};
use crate::failure::{Exit, Failure, Several};
use crate::kube_api::Management;
use crate::output::{Objects, json as json_text, out, yaml};

/// Changes that come one after the other are written together.
const TOGETHER: Duration = Duration::from_secs(1);

/// What is told of the fleet.
#[derive(Debug, Subcommand)]
pub enum Export {
    /// Write a ClusterProfile for each cluster to a management cluster, and keep it so.
    ClusterProfiles(ClusterProfiles),
}

impl Export {
    /// Carries the verb out.
    ///
    /// # Errors
    /// The verb's.
    pub async fn run(self) -> Result<(), Failure> {
        match self {
            Self::ClusterProfiles(verb) => verb.run().await,
        }
    }
}

/// See [`super::Cli`].
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  roadstead export cluster-profiles --once --dry-run --kube-context hub
  roadstead export cluster-profiles --once --dry-run -o yaml
  roadstead export cluster-profiles --kube-context hub   # until Ctrl-C

Written are multicluster.x-k8s.io/v1alpha1, labelled x-k8s.io/cluster-manager: roadstead. A profile of the same name
that another manager has, or another placement service, is left alone. A profile is deleted when its cluster is gone
from the placement service, and only if this service wrote it; while that does not answer, all stays.
What rights it takes, and a Deployment: deploy/kubernetes/cluster-profiles.yaml.")]
pub struct ClusterProfiles {
    /// Namespace for the profiles; it must be there.
    #[arg(short, long, default_value = "roadstead-clusters")]
    namespace: String,
    /// What the profiles call their manager; another for each placement service that writes to the same namespace.
    #[arg(long, default_value = "roadstead")]
    manager: String,
    /// Write once, and end.
    #[arg(long)]
    once: bool,
    /// Only tell what would be done.
    #[arg(long, requires = "once")]
    dry_run: bool,
    /// Print the profiles instead of what would become of them.
    #[arg(short, long, value_enum, requires = "dry_run")]
    output: Option<Objects>,
    /// Look this often whether all is as it is to be; changes of clusters are written at once.
    #[arg(long, default_value = "1m", value_parser = parse_span)]
    every: Duration,
    #[command(flatten)]
    management: Management,
    #[command(flatten)]
    connection: Connection,
}

impl ClusterProfiles {
    async fn run(self) -> Result<(), Failure> {
        let service = self.connection.connect()?;
        let cluster = self.management.connect().await?;
        if self.once {
            return self.once(&service, &cluster).await;
        }
        tokio::select! {
            never = self.keep(&service, &cluster) => never,
            _ = tokio::signal::ctrl_c() => Ok(()),
            () = super::dev::terminated() => Ok(()),
        }
    }

    async fn steps(&self, service: &Client, cluster: &kube::Client) -> Result<Vec<Step>, Failure> {
        // Profiles first: one that is written meanwhile, for a cluster that came later, must not look as if its cluster were gone.
        let there = profiles(cluster, Some(&self.namespace)).await?;
        let owner = Owner { manager: self.manager.clone(), group: service.status().await?.group_id };
        let clusters = service.clusters(false).await?;
        let now = jiff::Timestamp::now().round(jiff::Unit::Second).unwrap_or_default().to_string();
        Ok(plan(&clusters, &there, &self.namespace, &owner, &now))
    }

    async fn once(&self, service: &Client, cluster: &kube::Client) -> Result<(), Failure> {
        let steps = self.steps(service, cluster).await?;
        if let Some(output) = self.output {
            return print(&steps, output);
        }
        let mut several = Several::default();
        for step in &steps {
            if self.dry_run {
                out(&format!("{}\n", line(step, would(step))));
                continue;
            }
            let done = carry_out(cluster, &self.namespace, step).await;
            several.add(done.map(|word| out(&format!("{}\n", line(step, word)))))?;
        }
        several.finish()?;
        match steps.iter().any(|step| matches!(step, Step::Foreign { .. })) {
            true => Err(Failure::new(Exit::Conflict, "profiles of others have the names of clusters, and were left alone")
                .hint("write to a namespace of your own with --namespace")),
            false => Ok(()),
        }
    }

    /// Works until it is stopped. Whatever fails is tried again.
    async fn keep(&self, service: &Client, cluster: &kube::Client) -> Result<(), Failure> {
        let mut told = BTreeMap::new();
        loop {
            let mut follow = Follow::new(service.clone(), watch());
            loop {
                self.round(service, cluster, &mut told).await;
                tokio::select! {
                    heard = changed(&mut follow) => if heard.is_err() { break },
                    () = tokio::time::sleep(self.every) => {}
                }
                // What comes meanwhile is seen in the next round.
                let _ = tokio::time::timeout(TOGETHER, async { while changed(&mut follow).await.is_ok() {} }).await;
            }
            tokio::time::sleep(self.every).await;
        }
    }

    /// One look at everything. Tells what it did, and once what it could not do.
    async fn round(&self, service: &Client, cluster: &kube::Client, told: &mut BTreeMap<String, String>) {
        let mut tell_once = |what: String, text: String| {
            let before = told.insert(what, text.clone());
            if before.unwrap_or_default() != text {
                eprintln!("{text}");
            }
        };
        let steps = match self.steps(service, cluster).await {
            Ok(steps) => steps,
            Err(failure) => return tell_once(String::new(), format!("nothing was changed: {failure}")),
        };
        tell_once(String::new(), format!("{} clusters and profiles are looked after", steps.len()));
        for step in &steps {
            match (carry_out(cluster, &self.namespace, step).await, step) {
                (Err(failure), _) => tell_once(name(step), failure.to_string()),
                (Ok(word), Step::Foreign { .. }) => tell_once(name(step), line(step, word)),
                (Ok(_), Step::Keep(_)) => {}
                (Ok(word), Step::Create(_) | Step::Change(_) | Step::Delete { .. }) => out(&format!("{}\n", line(step, word))),
            }
        }
    }
}

/// What would become of a profile.
fn would(step: &Step) -> &'static str {
    match step {
        Step::Create(_) => "created (dry run)",
        Step::Change(_) => "configured (dry run)",
        Step::Keep(_) => "unchanged (dry run)",
        Step::Foreign { .. } => "left alone (dry run)",
        Step::Delete { .. } => "deleted (dry run)",
    }
}

fn name(step: &Step) -> String {
    match step {
        Step::Create(profile) | Step::Change(profile) | Step::Keep(profile) => profile.metadata.name.clone().unwrap_or_default(),
        Step::Foreign { name, .. } | Step::Delete { name, .. } => name.clone(),
    }
}

fn print(steps: &[Step], output: Objects) -> Result<(), Failure> {
    let profile = |step: &Step| match step {
        Step::Create(profile) | Step::Change(profile) | Step::Keep(profile) => Some(ClusterProfile::clone(profile)),
        Step::Foreign { .. } | Step::Delete { .. } => None,
    };
    let mut profiles: Vec<ClusterProfile> = steps.iter().filter_map(profile).collect();
    profiles.iter_mut().for_each(|profile| profile.metadata.resource_version = None);
    out(&match output {
        Objects::Yaml => yaml(&profiles)?,
        Objects::Json => json_text(&json!({"apiVersion": "v1", "kind": "List", "items": profiles}))?,
    });
    Ok(())
}

/// With the present state, so that nothing is missed between the first look and the watch.
fn watch() -> v1::WatchRequest {
    v1::WatchRequest { kinds: vec![v1::WatchKind::Cluster.into()], with_initial_state: true, ..v1::WatchRequest::default() }
}

/// The next change of a cluster.
async fn changed(follow: &mut Follow) -> Result<(), Failure> {
    loop {
        if let Heard::Event(..) = follow.next().await? {
            return Ok(());
        }
    }
}
