//! `agent`: makes the Kubernetes cluster that it runs in carry its tenants.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use roadstead_agent::engine::Settings;
use roadstead_agent::identity::keeper::Dial;
use roadstead_agent::identity::{Credentials, Keeper, Keeping, Place};
use roadstead_agent::interpreter::ClusterFacts;
use roadstead_agent::inventory::Inventory;
use roadstead_agent::kube::{Kind, KubeInterpreter, client};
use roadstead_agent::lease::Election;
use roadstead_agent::probe::Probe;
use roadstead_agent::session::Session;
use roadstead_core::observed::{ClusterDetails, NetworkPolicies};
use roadstead_server::identity::{Caller, Role};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::info;

use super::given::{self, Entrance};
use crate::client::config::Context;
use crate::client::{Connection, address, endpoints, endpoints_by};
use crate::document::tenant::checked_name;
use crate::failure::Failure;
use crate::join::{Counting, Running, SiteSettings};

/// The lease that one of the agent's replicas holds.
const LEASE: &str = "roadstead-agent";
/// How long the API server may take to say which cluster this is; it is asked again until then.
const IDENTITY_PAUSE: Duration = Duration::from_secs(5);

/// See [`super::Cli`].
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  # in a cluster, as `roadstead join` sets it up
  roadstead agent --cluster eu-1 --server rs.example.com:7420 \\
      --identity-secret roadstead-agent-identity \\
      --token-file /join/token --ca /join/ca.crt \\
      --storage fast=gp3 --storage bulk=st1 --ingress nginx=ingress-nginx
  # beside a cluster, for a try; the manifests of `roadstead join` applied first
  roadstead join eu-1 --token-file token
  roadstead agent --cluster eu-1 --kubeconfig agent.kubeconfig \\
      --identity-dir identity --token-file token --ca pki/ca-bundle.crt \\
      --storage fast=gp3

The token is exchanged for a certificate once, which then renews itself. Without --identity-secret and --identity-dir the certificate is
--cert and --key (`roadstead pki issue agent NAME`), and renewing it is up to you. The cluster must be declared (`roadstead apply -f
cluster.yaml`). Its identity is the UID of its kube-system namespace: a copy with the same certificate or name is refused.
SIGTERM ends the agent; its tenants keep running.")]
pub struct Agent {
    /// The cluster that this is; refused if the certificate names another.
    #[arg(long, value_name = "NAME")]
    cluster: Option<String>,
    /// Secret in the agent's namespace that keeps the certificate, which renews itself; made if it is not there.
    #[arg(long, value_name = "NAME", requires = "cluster", conflicts_with = "identity_dir")]
    identity_secret: Option<String>,
    /// Folder that keeps the certificate, which renews itself; made if it is not there.
    #[arg(long, value_name = "DIR", requires = "cluster")]
    identity_dir: Option<PathBuf>,
    /// One-time token of `roadstead join`, exchanged for a certificate when there is none that is good.
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Kubeconfig of the cluster; without it, that of the pod it runs in.
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// Context in the kubeconfig; the current one if left out.
    #[arg(long, value_name = "NAME", requires = "kubeconfig")]
    context_of_kubeconfig: Option<String>,
    /// The agent's own namespace: its lease, and the generation that it acted on last.
    #[arg(long, default_value = "roadstead-system")]
    namespace: String,
    /// Name of this replica of the agent in its lease, which no other may have; host name and process id if left out. `none` works
    /// without a lease.
    #[arg(long, value_name = "NAME")]
    lease: Option<String>,
    /// Image with `roadstead` in it, for two pods in the agent's namespace that find out whether network policies hold: soon after the start
    /// and each day. Left out, that stays unknown.
    #[arg(long, value_name = "IMAGE")]
    probe_image: Option<String>,
    #[command(flatten)]
    running: Running,
    #[command(flatten)]
    site: SiteSettings,
    #[command(flatten)]
    counting: Counting,
    #[command(flatten)]
    connection: Connection,
}

impl Agent {
    /// Works until SIGTERM.
    ///
    /// # Errors
    /// No way to the cluster, certificates that cannot be used.
    pub async fn run(self) -> Result<(), Failure> {
        super::server::log_to_stderr(&self.running.own_log_filter(), self.running.log_json)?;
        let shown = self.shown().await?;
        let kubeconfig = |error: kube::Error| Failure::usage(format!("{}: it cannot be used: {error}", self.way()));
        let config = self.kube_config().await?;
        info!(api_server = %config.cluster_url, by = self.way(), "this is the cluster that is worked on");
        let cluster = client(config).map_err(kubeconfig)?;
        let stop = CancellationToken::new();
        let signal = stop.clone();
        tokio::spawn(async move {
            tokio::select! {
                _ = tokio::signal::ctrl_c() => {}
                () = super::dev::terminated() => {}
            }
            signal.cancel();
        });
        let lease = self.lease.clone().unwrap_or_else(own_name);
        while !stop.is_cancelled() {
            let turn = stop.child_token();
            let Some(uid) = stop.run_until_cancelled(identity(&cluster)).await else { break };
            if lease == "none" {
                self.work(&cluster, &shown, uid, turn).await?;
                continue;
            }
            let mut election = Election::new(cluster.clone(), &self.namespace, LEASE, &lease);
            if stop.run_until_cancelled(election.won()).await.is_none() {
                break;
            }
            let work = self.work(&cluster, &shown, uid, turn.clone());
            tokio::pin!(work);
            tokio::select! {
                ended = &mut work => {
                    ended?;
                    // Kept until the work was at its end; now the next one begins at once, and does not wait until the lease has ended.
                    election.give_up().await;
                }
                () = election.lost() => {
                    turn.cancel();
                    work.await?;
                }
            }
        }
        Ok(())
    }

    async fn kube_config(&self) -> Result<kube::Config, Failure> {
        let bad = |error: &dyn std::fmt::Display| {
            let hint = "run it in a pod with a service account, or give --kubeconfig FILE of the cluster";
            Failure::usage(format!("{}: no way to the cluster: {error}", self.way())).hint(hint)
        };
        // Never a kubeconfig that happens to be there: it may be of another cluster.
        let Some(file) = &self.kubeconfig else { return kube::Config::incluster().map_err(|error| bad(&error)) };
        let kubeconfig = kube::config::Kubeconfig::read_from(file).map_err(|error| bad(&error))?;
        let options = kube::config::KubeConfigOptions { context: self.context_of_kubeconfig.clone(), ..Default::default() };
        kube::Config::from_custom_kubeconfig(kubeconfig, &options).await.map_err(|error| bad(&error))
    }

    /// By what the cluster is reached, as it was said.
    fn way(&self) -> String {
        self.kubeconfig.as_ref().map_or_else(|| "without --kubeconfig".to_owned(), |file| format!("--kubeconfig {}", file.display()))
    }

    /// Which certificate is shown, and the cluster that it names.
    async fn shown(&self) -> Result<Shown, Failure> {
        if let (Some(cluster), true) = (&self.cluster, self.identity_secret.is_some() || self.identity_dir.is_some()) {
            let cluster = checked_name(cluster).map_err(Failure::usage)?.0;
            let servers = self.connection.resolve_servers()?;
            servers.iter().try_for_each(|server| address(server).map(drop))?;
            let entrance = Entrance { token: self.token_file.as_ref(), authorities: self.connection.ca.as_ref() };
            match &self.identity_dir {
                Some(folder) => entrance.check_beside(folder).await?,
                None => entrance.check_mounted()?,
            }
            return Ok(Shown::Kept { cluster, servers });
        }
        if self.token_file.is_some() {
            return Err(Failure::usage("a token is exchanged for a certificate: say where to keep it")
                .hint("--identity-secret NAME in a cluster, --identity-dir DIR elsewhere, and --cluster NAME"));
        }
        let context = self.connection.resolve()?;
        given::certificates("--ca", &context.ca)?;
        given::certificates("--cert", &context.cert)?;
        given::read("--key", &context.key)?;
        endpoints(&context)?;
        let cluster = own_cluster(&context.cert)?;
        if let Some(wanted) = self.cluster.as_ref().filter(|wanted| **wanted != cluster) {
            return Err(Failure::usage(format!("{} is the certificate of cluster {cluster}, not of {wanted}", context.cert.display())));
        }
        Ok(Shown::Files { cluster, context })
    }

    /// Keeps the certificate of this cluster, where it was said.
    fn keeper(&self, client: &kube::Client, cluster: &str, uid: &str, servers: &[String]) -> Keeper {
        let place = match (&self.identity_secret, &self.identity_dir) {
            (Some(name), _) => Place::secret(client.clone(), &self.namespace, name),
            (None, folder) => Place::Folder(folder.clone().unwrap_or_default()),
        };
        Keeper::new(Keeping {
            cluster: cluster.to_owned(),
            uid: uid.to_owned(),
            place,
            token: self.token_file.clone(),
            authorities: self.connection.ca.clone(),
            dial: dial(servers),
        })
    }

    /// Works with the certificate that is shown; everything anew with each lease: what was seen before may be long past.
    async fn work(&self, client: &kube::Client, shown: &Shown, uid: String, stop: CancellationToken) -> Result<(), Failure> {
        let (cluster, servers) = match shown {
            Shown::Files { cluster, context } => {
                let session = Session { uid, replicas: replicas(context.clone()) };
                return self.carry(client, cluster, session, stop).await;
            }
            Shown::Kept { cluster, servers } => (cluster, servers),
        };
        let keeper = self.keeper(client, cluster, &uid, servers);
        if stop.run_until_cancelled(keeper.obtain()).await.is_none() {
            return Ok(());
        }
        let session = Session { uid, replicas: keeper.replicas() };
        tokio::select! {
            ended = self.carry(client, cluster, session, stop) => ended,
            () = keeper.keep() => Ok(()),
        }
    }

    async fn carry(&self, cluster: &kube::Client, name: &str, session: Session, stop: CancellationToken) -> Result<(), Failure> {
        let inventory = Arc::new(Inventory::start(cluster.clone(), self.counting.options()));
        let mut held = inventory.held();
        let (sender, facts) = watch::channel(None);
        let (found, mut tried) = watch::channel(None);
        let mut beside = JoinSet::new();
        if let Some(image) = &self.probe_image {
            beside.spawn(Probe::new(cluster.clone(), &self.namespace, image).keep(found));
        }
        beside.spawn(async move {
            loop {
                let policies: NetworkPolicies = tried.borrow_and_update().clone().unwrap_or_default();
                let facts = held.borrow_and_update().as_ref().map(|held| held.facts.clone());
                sender.send_replace(facts.map(|facts| ClusterFacts { details: ClusterDetails { policies, ..facts.details }, ..facts }));
                tokio::select! {
                    changed = held.changed() => if changed.is_err() { return },
                    // Without a probe nothing ever comes.
                    Ok(()) = tried.changed() => {}
                }
            }
        });
        let site = self.site.site(name);
        let kind = |(api_version, kind): (&str, &str)| Kind { api_version: api_version.to_owned(), kind: kind.to_owned() };
        let kinds = site.kinds().into_iter().map(kind).collect();
        let interpreter = KubeInterpreter::start(roadstead_agent::kube::Settings {
            client: cluster.clone(),
            kinds,
            own_namespace: self.namespace.clone(),
            template_namespace: self.site.template_namespace().to_owned(),
            drift: self.running.drift(),
            facts,
            on_others: Box::new(move |others| inventory.hear(others)),
        });
        let settings = Settings { site, ..Settings::default() };
        let ended = roadstead_agent::run(interpreter, settings, session, stop).await;
        beside.shutdown().await;
        ended.map_err(|error| Failure::failed(format!("the agent has ended: {error}")))
    }
}

/// Which certificate an agent shows.
enum Shown {
    /// One that somebody else renews.
    Files { cluster: String, context: Context },
    /// One of its own.
    Kept { cluster: String, servers: Vec<String> },
}

/// A name that no other agent of the cluster has: in a cluster that of its pod, which a restart of its container keeps.
fn own_name() -> String {
    let told = std::env::var("HOSTNAME").ok().filter(|name| !name.is_empty());
    let read = || std::fs::read_to_string("/proc/sys/kernel/hostname").ok().map(|name| name.trim().to_owned());
    let host = told.or_else(read).unwrap_or_else(|| "agent".to_owned());
    format!("{host}-{}", std::process::id())
}

/// How replicas are reached with credentials of our own.
fn dial(servers: &[String]) -> Dial {
    let servers = servers.to_vec();
    Arc::new(move |credentials| {
        let Credentials { certificate, key, authorities } = credentials;
        let own = (!certificate.is_empty()).then_some((certificate.as_str(), key.as_str()));
        endpoints_by(&servers, authorities, own).map_err(|failure| failure.to_string())
    })
}

/// The cluster that an agent's certificate names.
fn own_cluster(certificate: &Path) -> Result<String, Failure> {
    let bad = |why: String| {
        Failure::usage(format!("{}: {why}", certificate.display()))
            .hint("`roadstead pki issue agent NAME` makes one for the cluster of that name")
    };
    let pem = std::fs::read(certificate).map_err(|error| bad(error.to_string()))?;
    let (_, pem) = x509_parser::pem::parse_x509_pem(&pem).map_err(|error| bad(error.to_string()))?;
    let caller = Caller::from_certificate(&pem.contents).map_err(|error| bad(error.to_string()))?;
    if caller.role != Role::Agent {
        return Err(bad(format!("it is {}'s, not an agent's", caller.principal)));
    }
    Ok(caller.name.to_string())
}

fn replicas(context: Context) -> roadstead_agent::session::Replicas {
    Arc::new(move || endpoints(&context).map_err(|failure| failure.to_string()))
}

/// The UID of the cluster's kube-system; asked for until it is known.
async fn identity(cluster: &kube::Client) -> String {
    let namespaces: kube::Api<k8s_openapi::api::core::v1::Namespace> = kube::Api::all(cluster.clone());
    loop {
        match namespaces.get("kube-system").await {
            Ok(found) => return found.metadata.uid.unwrap_or_default(),
            Err(error) => tracing::warn!(%error, "the cluster does not say which it is"),
        }
        tokio::time::sleep(IDENTITY_PAUSE).await;
    }
}
