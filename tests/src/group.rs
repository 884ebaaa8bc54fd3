//! A placement service of several replicas: certificates, data folders, processes. Every flag of the binary that is used here stands in
//! this file.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use roadstead_api::v1;
use roadstead_api::v1::admin_service_client::AdminServiceClient;
use rustix::process::Signal;
use tempfile::TempDir;
use tonic::transport::Channel;

use crate::client::Credentials;
use crate::process::{Process, free_address, until};

/// The name that every replica's certificate carries.
pub const SERVER_NAME: &str = "replica.roadstead";
/// How long a fresh group may take to elect and answer on a busy machine.
pub const READY_WITHIN: Duration = Duration::from_secs(30);
/// How long a replica may take to end after SIGTERM.
pub const STOP_WITHIN: Duration = Duration::from_secs(20);

/// How a group is started.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// `sled` or `redb`; empty is the default.
    pub log_backend: String,
    /// Where replicas listen for clients, if not on loopback; it must be no further away than this machine's own pods.
    pub address: Option<IpAddr>,
    /// Further flags of `roadstead server`.
    pub flags: Vec<String>,
}

/// One replica.
#[derive(Debug)]
pub struct Replica {
    /// From 1; in its name and its folder.
    pub number: usize,
    /// Its data folder.
    pub data: PathBuf,
    /// Where clients reach it.
    pub client: SocketAddr,
    /// Where peers reach it.
    pub peer: SocketAddr,
    /// Its metrics and health over plain HTTP.
    pub probes: SocketAddr,
    /// Its process, while it runs.
    pub process: Option<Process>,
}

/// A running group; dropping it kills its processes and removes its folder.
#[derive(Debug)]
pub struct Group {
    /// Its replicas, by number. They end before their folder goes.
    pub replicas: Vec<Replica>,
    options: Options,
    folder: TempDir,
}

/// The binary under test: `ROADSTEAD_BIN`, else built here.
///
/// # Errors
/// If it does not build.
pub fn binary() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("ROADSTEAD_BIN") {
        return Ok(PathBuf::from(path));
    }
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("the tests lie in the workspace")?;
    let built = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(["build", "--quiet", "--package", "roadstead-cli", "--bin", "roadstead"])
        .current_dir(workspace)
        .status()
        .context("failed to run cargo build")?;
    ensure!(built.success(), "the binary does not build");
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace.join("target"), PathBuf::from);
    Ok(target.join("debug/roadstead"))
}

impl Group {
    /// Starts that many replicas and waits until there is a leader and all of them vote.
    ///
    /// # Errors
    /// If they do not come up.
    pub async fn start(replicas: usize) -> Result<Self> {
        Self::start_with(replicas, Options::default()).await
    }

    /// The same, with options.
    ///
    /// # Errors
    /// If they do not come up.
    pub async fn start_with(replicas: usize, options: Options) -> Result<Self> {
        Self::empty(options)?.with_replicas(replicas).await
    }

    async fn with_replicas(mut self, replicas: usize) -> Result<Self> {
        for number in 1..=replicas {
            self.add_replica().await.with_context(|| format!("replica {number} did not come up"))?;
        }
        self.wait_for_voters(replicas).await?;
        Ok(self)
    }

    /// One replica that lets agents in by tokens; their certificates are good for `life` (as in `36s`), or as long as is usual.
    ///
    /// # Errors
    /// If it does not come up.
    pub async fn issuing(life: Option<&str>) -> Result<Self> {
        let flags = life.into_iter().flat_map(|life| ["--agent-certificates".to_owned(), life.to_owned()]).collect();
        Self::issuing_with(1, Options { flags, ..Options::default() }).await
    }

    /// That many replicas, each of which lets agents in by tokens.
    ///
    /// # Errors
    /// If they do not come up.
    pub async fn issuing_with(replicas: usize, options: Options) -> Result<Self> {
        let mut group = Self::empty(options)?;
        group.pki(&["issue", "issuer", "r1"])?;
        let file = |name: &str| group.folder().join("pki").join(name).display().to_string();
        let issuer = ["--issuer-cert".to_owned(), file("issuer-r1.crt"), "--issuer-key".to_owned(), file("issuer-r1.key")];
        group.options.flags.extend(issuer);
        group.with_replicas(replicas).await
    }

    /// Certificates, and no replica yet.
    ///
    /// # Errors
    /// If certificates cannot be made.
    pub fn empty(options: Options) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("roadstead-").tempdir().context("failed to make a temporary folder")?;
        let group = Self { folder, options, replicas: Vec::new() };
        group.pki(&["init"])?;
        for (role, name) in [("admin", "test"), ("operator", "test"), ("client", "test"), ("viewer", "test")] {
            group.pki(&["issue", role, name])?;
        }
        Ok(group)
    }

    /// Its folder: certificates in `pki/`, data in `r1/` and so on, logs in `r1.log` and so on.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Runs `roadstead pki`.
    ///
    /// # Errors
    /// If it fails.
    pub fn pki(&self, arguments: &[&str]) -> Result<()> {
        let mut command = Command::new(binary()?);
        command.arg("pki").args(arguments).arg("--dir").arg(self.folder().join("pki"));
        run(&mut command)
    }

    /// Makes a further replica: `init` for the first, `join` for others; and starts it.
    ///
    /// # Errors
    /// If it cannot be made or does not answer.
    pub async fn add_replica(&mut self) -> Result<usize> {
        let number = self.prepare_replica()?;
        self.make_folder(number)?;
        self.start_replica(number)?;
        self.wait_until_it_answers(number).await?;
        Ok(number)
    }

    /// A further replica with certificate and addresses; its data folder is still to be made.
    ///
    /// # Errors
    /// If there is no certificate or no port.
    pub fn prepare_replica(&mut self) -> Result<usize> {
        let number = self.replicas.len() + 1;
        self.pki(&["issue", "replica", &format!("r{number}")])?;
        let data = self.folder().join(format!("r{number}"));
        let (mut client, peer, probes) = (free_address()?, free_address()?, free_address()?);
        client.set_ip(self.options.address.unwrap_or(Ipv4Addr::LOCALHOST.into()));
        self.replicas.push(Replica { number, data, client, peer, probes, process: None });
        Ok(number)
    }

    /// Makes a replica's data folder: `init` for the first, `join` through any that runs for the others.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn make_folder(&self, number: usize) -> Result<()> {
        let running = self.replicas.iter().find(|replica| replica.process.is_some());
        self.make_folder_via(self.replica(number), running.map(|running| running.peer))
    }

    fn make_folder_via(&self, replica: &Replica, join: Option<SocketAddr>) -> Result<()> {
        let mut command = Command::new(binary()?);
        command.arg("server").arg(if join.is_some() { "join" } else { "init" }).arg("--data").arg(&replica.data);
        command.args(["--client-address", &replica.client.to_string(), "--peer-address", &replica.peer.to_string()]);
        if !self.options.log_backend.is_empty() {
            command.args(["--log", &self.options.log_backend]);
        }
        if let Some(address) = join {
            command.args(["--via", &address.to_string()]);
            self.add_certificates(&mut command, replica.number);
        }
        run(&mut command)
    }

    fn add_certificates(&self, command: &mut Command, number: usize) {
        let pki = self.folder().join("pki");
        command.arg("--cert").arg(pki.join(format!("replica-r{number}.crt")));
        command.arg("--key").arg(pki.join(format!("replica-r{number}.key")));
        command.arg("--ca").arg(pki.join("ca-bundle.crt")).arg("--crl").arg(pki.join("crl.pem"));
    }

    /// Starts a replica that does not run.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn start_replica(&mut self, number: usize) -> Result<()> {
        let replica = self.replica(number);
        let mut command = Command::new(binary()?);
        command.args(["server", "run", "--data"]).arg(&replica.data);
        command.args(["--listen-client", &replica.client.to_string(), "--listen-peer", &replica.peer.to_string()]);
        command.args(["--listen-probes", &replica.probes.to_string()]);
        self.add_certificates(&mut command, number);
        command.args(&self.options.flags);
        let log = self.folder().join(format!("r{number}.log"));
        let process = Process::start(&format!("replica {number}"), &mut command, &log)?;
        self.replica_mut(number).process = Some(process);
        Ok(())
    }

    /// Sets the further flags of replicas that are started from now on.
    pub fn set_flags(&mut self, flags: Vec<String>) {
        self.options.flags = flags;
    }

    /// A replica by number.
    ///
    /// # Panics
    /// If there is none.
    #[must_use]
    pub fn replica(&self, number: usize) -> &Replica {
        self.replicas.get(number.wrapping_sub(1)).expect("replicas count from 1")
    }

    fn replica_mut(&mut self, number: usize) -> &mut Replica {
        self.replicas.get_mut(number.wrapping_sub(1)).expect("replicas count from 1")
    }

    /// The process of a replica that runs.
    ///
    /// # Errors
    /// If it does not run.
    pub fn process(&mut self, number: usize) -> Result<&mut Process> {
        self.replica_mut(number).process.as_mut().with_context(|| format!("replica {number} does not run"))
    }

    /// kill -9.
    ///
    /// # Errors
    /// If it does not run.
    pub fn kill(&mut self, number: usize) -> Result<()> {
        self.process(number)?.kill()?;
        self.replica_mut(number).process = None;
        Ok(())
    }

    /// SIGTERM, and waits for its end.
    ///
    /// # Errors
    /// If it does not end well and in time.
    pub fn terminate(&mut self, number: usize) -> Result<()> {
        let process = self.process(number)?;
        let status = process.terminate(STOP_WITHIN)?;
        ensure!(status.success(), "replica {number} ended with {status}:\n{}", process.log_tail());
        self.replica_mut(number).process = None;
        Ok(())
    }

    /// SIGSTOP.
    ///
    /// # Errors
    /// If it does not run.
    pub fn pause(&mut self, number: usize) -> Result<()> {
        self.process(number)?.signal(Signal::STOP)
    }

    /// SIGCONT.
    ///
    /// # Errors
    /// If it does not run.
    pub fn resume(&mut self, number: usize) -> Result<()> {
        self.process(number)?.signal(Signal::CONT)
    }

    /// The credentials of `role-name`, issued at the start for admin-test, operator-test, client-test and viewer-test.
    ///
    /// # Errors
    /// If there are none.
    pub fn credentials(&self, stem: &str) -> Result<Credentials> {
        let pki = self.folder().join("pki");
        Credentials::read(&pki.join(format!("{stem}.crt")), &pki.join(format!("{stem}.key")), &pki.join("ca-bundle.crt"), SERVER_NAME)
    }

    /// A new connection to a replica.
    ///
    /// # Errors
    /// If the credentials cannot be used.
    pub fn channel(&self, number: usize, stem: &str) -> Result<Channel> {
        self.credentials(stem)?.channel(self.replica(number).client)
    }

    /// What a replica says of itself and the group.
    ///
    /// # Errors
    /// If it does not answer.
    pub async fn status(&self, number: usize) -> Result<v1::GetStatusResponse> {
        let mut client = AdminServiceClient::new(self.channel(number, "admin-test")?);
        let mut request = tonic::Request::new(v1::GetStatusRequest {});
        request.set_timeout(Duration::from_secs(2));
        Ok(client.get_status(request).await.context("the replica does not tell its status")?.into_inner())
    }

    /// Waits until a replica tells its status.
    ///
    /// # Errors
    /// If it does not in time.
    pub async fn wait_until_it_answers(&self, number: usize) -> Result<()> {
        let answers = until("a replica answers", READY_WITHIN, || async { self.status(number).await.map(drop) }).await;
        let said = || self.replica(number).process.as_ref().map(Process::log_tail).unwrap_or_default();
        answers.with_context(|| format!("replica {number} said last:\n{}", said()))
    }

    /// Waits until a leader says that so many members vote and all are in touch.
    ///
    /// # Errors
    /// If that does not come to pass.
    pub async fn wait_for_voters(&self, voters: usize) -> Result<usize> {
        until("all members vote", READY_WITHIN, || async {
            let leader = self.leader_now().await?;
            let members = self.status(leader).await?.members;
            let found = members.iter().filter(|member| member.voter).count();
            ensure!(found == voters, "{found} of {voters} members vote");
            Ok(leader)
        })
        .await
    }

    /// The number of the replica that leads, as it says itself; waits until one does.
    ///
    /// # Errors
    /// If none does.
    pub async fn leader(&self) -> Result<usize> {
        until("a replica leads", READY_WITHIN, || self.leader_now()).await
    }

    async fn leader_now(&self) -> Result<usize> {
        for replica in self.replicas.iter().filter(|replica| replica.process.is_some()) {
            let Ok(status) = self.status(replica.number).await else { continue };
            if status.members.iter().any(|member| member.leader && member.id == status.member_id) {
                return Ok(replica.number);
            }
        }
        anyhow::bail!("no replica says that it leads")
    }
}

fn run(command: &mut Command) -> Result<()> {
    let output = command.output().with_context(|| format!("failed to start {command:?}"))?;
    ensure!(
        output.status.success(),
        "{command:?} failed ({}):\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}
