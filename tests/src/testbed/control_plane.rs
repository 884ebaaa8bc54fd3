//! One cluster's control plane on loopback: etcd, an API server and, if wanted, the controllers and a scheduler. It has no nodes.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::Api;
use kube::api::PostParams;
use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::identity::Identities;
use super::parts::{bound, part, start};
use crate::process::{Process, free_address, until};

/// How long a control plane may take to serve; some 4 s are usual, and a machine that builds besides needs many times that.
const READY_WITHIN: Duration = Duration::from_secs(90);
/// The group that may do everything.
const MASTERS: &str = "system:masters";

/// A control plane's folder; after it come the id of the process that started it, and letters by chance.
const FOLDER_PREFIX: &str = "roadstead-control-plane-";

/// What a control plane is made of.
#[derive(Clone, Debug)]
pub struct Options {
    /// Whether kube-controller-manager runs: without it no namespace ends, no quota is filled and no service account is made.
    pub controllers: bool,
    /// Whether kube-scheduler runs.
    pub scheduler: bool,
    /// Where the API server listens; what is not loopback must be no further away than this machine's own pods.
    pub address: IpAddr,
    /// Further flags of kube-apiserver, such as `--max-requests-inflight=50`.
    pub api_server_flags: Vec<String>,
    /// Further flags of kube-controller-manager, such as `--node-monitor-grace-period=1h`.
    pub controller_flags: Vec<String>,
    /// Requests per second that the controllers and the scheduler may make each; without it what Kubernetes itself sets, 20 for the one
    /// and 50 for the other. Only starting the controllers takes a hundred, hence more by default here.
    pub requests_per_second: Option<u32>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            controllers: true,
            scheduler: false,
            address: Ipv4Addr::LOCALHOST.into(),
            api_server_flags: Vec::new(),
            controller_flags: Vec::new(),
            requests_per_second: Some(200),
        }
    }
}

/// A running control plane. Dropping it kills its processes and removes its folder.
#[derive(Debug)]
pub struct ControlPlane {
    // Dropped in this order: who asks before who answers, and the folder at last.
    others: Vec<Process>,
    api_server: Process,
    etcd: Process,
    options: Options,
    etcd_address: SocketAddr,
    address: SocketAddr,
    services: String,
    admin: PathBuf,
    identities: Identities,
    folder: TempDir,
}

impl ControlPlane {
    /// Starts a control plane and waits until it serves; with controllers, until they have made the first service account.
    ///
    /// # Errors
    /// If a program is missing, or it does not serve in time; carries the end of its log.
    pub async fn start(options: Options) -> Result<Self> {
        static STARTED: AtomicU32 = AtomicU32::new(0);
        remove_left_folders();
        let prefix = format!("{FOLDER_PREFIX}{}-", std::process::id());
        let folder = tempfile::Builder::new().prefix(&prefix).tempdir().context("failed to make a folder")?;
        let identities = Identities::make(folder.path())?;
        let (etcd_address, address) = (free_address()?, SocketAddr::new(options.address, free_address()?.port()));
        identities.server("server", &["localhost", "127.0.0.1", &address.ip().to_string()])?;
        let admin = identities.kubeconfig("admin", "admin", &[MASTERS], address)?;
        let etcd = start_etcd(folder.path(), etcd_address)?;
        let services = format!("10.{}.0.0/16", 64 + STARTED.fetch_add(1, Ordering::Relaxed) % 64);
        let api_server = start_api_server(&identities, folder.path(), &options, etcd_address, address, &services)?;
        let mut plane = Self { others: Vec::new(), api_server, etcd, options, etcd_address, address, services, admin, identities, folder };
        plane.wait_until_it_serves().await?;
        if plane.options.controllers {
            let controllers = plane.start_controllers()?;
            plane.others.push(controllers);
        }
        if plane.options.scheduler {
            let scheduler = plane.start_scheduler()?;
            plane.others.push(scheduler);
        }
        if plane.options.controllers {
            plane.wait_for_the_first_account().await?;
        }
        Ok(plane)
    }

    /// The API server's address.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where everything of it is: data, logs, certificates.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The kubeconfig file of somebody who may do everything.
    #[must_use]
    pub fn kubeconfig(&self) -> &Path {
        &self.admin
    }

    /// The file with the certificate of the authority that signs all others here.
    #[must_use]
    pub fn authority(&self) -> PathBuf {
        self.identities.path("ca.crt")
    }

    /// A client that may do everything.
    ///
    /// # Errors
    /// If it cannot be made.
    pub async fn client(&self) -> Result<kube::Client> {
        Identities::client(&self.admin).await
    }

    /// A kubeconfig file with a certificate for a user who is in at most two groups.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn kubeconfig_as(&self, user: &str, groups: &[&str]) -> Result<PathBuf> {
        let file: String = user.chars().map(|letter| if letter.is_ascii_alphanumeric() { letter } else { '-' }).collect();
        self.identities.kubeconfig(&format!("user-{file}"), user, groups, self.address)
    }

    /// A client with a certificate for a user who is in at most two groups.
    ///
    /// # Errors
    /// If it cannot be made.
    pub async fn client_as(&self, user: &str, groups: &[&str]) -> Result<kube::Client> {
        Identities::client(&self.kubeconfig_as(user, groups)?).await
    }

    /// A client that is a service account, with a token that the API server gave for it.
    ///
    /// # Errors
    /// If there is no such account.
    pub async fn client_for_account(&self, namespace: &str, account: &str) -> Result<kube::Client> {
        kube::Client::try_from(self.config_for_account(namespace, account).await?).context("failed to make a client")
    }

    /// How a client of a service account reaches the API server, for whoever makes clients of its own.
    ///
    /// # Errors
    /// If there is no such account.
    pub async fn config_for_account(&self, namespace: &str, account: &str) -> Result<kube::Config> {
        self.identities.config_with_token(self.token_of(namespace, account).await?, self.address).await
    }

    /// A kubeconfig file with a token that the API server gave for a service account; it is good for an hour.
    ///
    /// # Errors
    /// If there is no such account.
    pub async fn kubeconfig_for_account(&self, namespace: &str, account: &str) -> Result<PathBuf> {
        let token = self.token_of(namespace, account).await?;
        self.identities.kubeconfig_with_token(&format!("account-{namespace}-{account}"), &token, self.address)
    }

    async fn token_of(&self, namespace: &str, account: &str) -> Result<String> {
        let accounts: Api<ServiceAccount> = Api::namespaced(self.client().await?, namespace);
        let request =
            TokenRequest { spec: TokenRequestSpec { audiences: Vec::new(), ..TokenRequestSpec::default() }, ..Default::default() };
        let made = accounts.create_token_request(account, &PostParams::default(), &request).await;
        let token = made.with_context(|| format!("failed to get a token for {namespace}/{account}"))?.status.context("a token is empty")?;
        Ok(token.token)
    }

    /// Kills the API server, as a crash does, starts it anew on the same address and waits until it serves.
    ///
    /// # Errors
    /// If it does not.
    pub async fn restart_api_server(&mut self) -> Result<()> {
        self.api_server.kill()?;
        self.api_server =
            start_api_server(&self.identities, self.folder.path(), &self.options, self.etcd_address, self.address, &self.services)?;
        self.wait_until_it_serves().await
    }

    /// Stops the API server where it is: connections stay open, nothing answers.
    ///
    /// # Errors
    /// If it has ended.
    pub fn pause(&mut self) -> Result<()> {
        self.api_server.signal(Signal::STOP)
    }

    /// Lets a paused API server go on.
    ///
    /// # Errors
    /// If it has ended.
    pub fn resume(&mut self) -> Result<()> {
        self.api_server.signal(Signal::CONT)
    }

    /// Process ids: the API server's, etcd's, then those of the controllers and the scheduler.
    #[must_use]
    pub fn ids(&self) -> Vec<u32> {
        [&self.api_server, &self.etcd].into_iter().chain(&self.others).map(Process::id).collect()
    }

    async fn wait_until_it_serves(&mut self) -> Result<()> {
        let client = self.client().await?;
        let ready = until("the API server serves", READY_WITHIN, || {
            let ended = self.api_server.ended();
            let client = client.clone();
            async move {
                if let Some(status) = ended? {
                    return Ok(Err(status));
                }
                let request = tonic::codegen::http::Request::get("/readyz").body(Vec::new()).context("a request is malformed")?;
                client.request_text(request).await.context("/readyz does not answer")?;
                Ok(Ok(()))
            }
        });
        match ready.await.with_context(|| format!("the end of its log:\n{}", self.api_server.log_tail()))? {
            Ok(()) => Ok(()),
            Err(status) => bail!("the API server ended ({status}):\n{}", self.api_server.log_tail()),
        }
    }

    async fn wait_for_the_first_account(&mut self) -> Result<()> {
        let accounts: Api<ServiceAccount> = Api::namespaced(self.client().await?, "default");
        let made = until("the controllers make a service account", READY_WITHIN, || async {
            accounts.get("default").await.context("there is none")?;
            Ok(())
        });
        made.await.with_context(|| format!("the end of their log:\n{}", self.others[0].log_tail()))
    }

    /// The command of a part that speaks to the API server with all rights.
    fn client_part(&self, name: &str, user: &str) -> Result<Command> {
        let kubeconfig = self.identities.kubeconfig(name, user, &[], self.address)?;
        let mut command = bound(&part(name)?);
        command.args(["--leader-elect=false", "--secure-port=0", "--profiling=false"]);
        command.arg(flag("kubeconfig", &kubeconfig));
        if let Some(rate) = self.options.requests_per_second {
            command.args([format!("--kube-api-qps={rate}"), format!("--kube-api-burst={rate}")]);
        }
        Ok(command)
    }

    fn start_controllers(&self) -> Result<Process> {
        let mut command = self.client_part("kube-controller-manager", "system:kube-controller-manager")?;
        command
            .arg("--use-service-account-credentials")
            .arg(flag("service-account-private-key-file", &self.identities.path("accounts.key")))
            .arg(flag("root-ca-file", &self.identities.path("ca.crt")))
            .arg(flag("flex-volume-plugin-dir", &self.folder.path().join("flex-volumes")))
            .args(&self.options.controller_flags);
        start("kube-controller-manager", command, self.folder.path())
    }

    /// Starts a kube-scheduler beside those of [`Options`], with fields of a `KubeSchedulerConfiguration`. Dropping it kills it.
    ///
    /// # Errors
    /// If it is missing or cannot be started.
    pub fn configured_scheduler(&self, settings: Value) -> Result<Process> {
        let name = "kube-scheduler";
        let mut configuration = json!({
            "apiVersion": "kubescheduler.config.k8s.io/v1", "kind": "KubeSchedulerConfiguration", "leaderElection": {"leaderElect": false},
        });
        for (field, value) in settings.as_object().cloned().unwrap_or_default() {
            configuration[field] = value;
        }
        let kubeconfig = self.identities.kubeconfig(name, "system:kube-scheduler", &[], self.address)?;
        configuration["clientConnection"]["kubeconfig"] = json!(kubeconfig);
        let file = self.folder.path().join("kube-scheduler.json");
        std::fs::write(&file, configuration.to_string()).with_context(|| format!("failed to write {}", file.display()))?;
        let mut command = bound(&part(name)?);
        command.arg("--secure-port=0").arg(flag("config", &file));
        start(name, command, self.folder.path())
    }

    fn start_scheduler(&self) -> Result<Process> {
        let command = self.client_part("kube-scheduler", "system:kube-scheduler")?;
        start("kube-scheduler", command, self.folder.path())
    }
}

fn flag(name: &str, path: &Path) -> String {
    format!("--{name}={}", path.display())
}

/// Removes the folders of processes that were killed; two that do it at once are in each other's way, and one of them succeeds.
fn remove_left_folders() {
    for entry in std::fs::read_dir(std::env::temp_dir()).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let id = name.to_str().and_then(|name| name.strip_prefix(FOLDER_PREFIX)?.split('-').next()?.parse::<u32>().ok());
        if id.is_some_and(|id| !Path::new("/proc").join(id.to_string()).exists()) {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

fn start_etcd(folder: &Path, address: SocketAddr) -> Result<Process> {
    let (client, peer) = (format!("http://{address}"), format!("http://{}", free_address()?));
    let mut command = bound(&part("etcd")?);
    command
        .arg(flag("data-dir", &folder.join("etcd")))
        .args(["--name=etcd", "--log-level=warn"])
        // What is lost with the machine is no loss to a test.
        .arg("--unsafe-no-fsync")
        .args([format!("--listen-client-urls={client}"), format!("--advertise-client-urls={client}")])
        .args([format!("--listen-peer-urls={peer}"), format!("--initial-advertise-peer-urls={peer}")])
        .arg(format!("--initial-cluster=etcd={peer}"));
    start("etcd", command, folder)
}

fn start_api_server(
    identities: &Identities,
    folder: &Path,
    options: &Options,
    etcd: SocketAddr,
    address: SocketAddr,
    services: &str,
) -> Result<Process> {
    let mut command = bound(&part("kube-apiserver")?);
    command
        .arg(format!("--etcd-servers=http://{etcd}"))
        .args([format!("--bind-address={}", address.ip()), format!("--advertise-address={}", address.ip())])
        .args([format!("--secure-port={}", address.port()), format!("--service-cluster-ip-range={services}")])
        .args(["--authorization-mode=Node,RBAC", "--allow-privileged", "--profiling=false"])
        // A loopback address must not be anybody's endpoint.
        .arg("--endpoint-reconciler-type=none")
        // Nodes' names are in no DNS.
        .arg("--kubelet-preferred-address-types=InternalIP")
        .arg("--service-account-issuer=https://kubernetes.default.svc")
        .arg(flag("cert-dir", folder));
    for (name, file) in [
        ("client-ca-file", "ca.crt"),
        ("tls-cert-file", "server.crt"),
        ("tls-private-key-file", "server.key"),
        ("service-account-key-file", "accounts.pub"),
        ("service-account-signing-key-file", "accounts.key"),
        // What it shows to kubelets.
        ("kubelet-client-certificate", "admin.crt"),
        ("kubelet-client-key", "admin.key"),
    ] {
        command.arg(flag(name, &identities.path(file)));
    }
    command.args(&options.api_server_flags);
    start("kube-apiserver", command, folder)
}
