//! `server`: one replica of the placement service, from its folder to its end.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Subcommand};
use roadstead_consensus::member::MemberInfo;
use roadstead_server::config::{Listen, ServerConfig, Tuning};
use roadstead_server::driver::Ended;
use roadstead_server::issuer::{AGENT_LIFE, IssuerFiles};
use roadstead_server::lifecycle::{self, Identity, LifecycleError};
use roadstead_server::listener::raise_open_files;
use roadstead_server::log::Backend;
use roadstead_server::server::{Server, StartError};
use roadstead_server::tls::{Tls, TlsFiles};

use crate::failure::{Exit, Failure};
use crate::output::out;

/// How long joining is tried: the member asked may not know a leader yet.
const JOIN_TIMEOUT: Duration = Duration::from_secs(30);
/// Pause between two attempts to join: about an election.
const JOIN_PAUSE: Duration = Duration::from_millis(500);
/// Where `run` listens unless it is told otherwise.
const LISTEN_CLIENT: &str = "0.0.0.0:7420";
/// The same for the other replicas.
const LISTEN_PEER: &str = "0.0.0.0:7421";

/// One replica of the placement service.
#[derive(Debug, Subcommand)]
pub enum ServerVerb {
    /// Run the replica of a data folder until SIGTERM.
    #[command(after_help = "Examples:
  roadstead server run --data /var/lib/roadstead/r1 \\
      --listen-client 0.0.0.0:7420 --listen-peer 0.0.0.0:7421 \\
      --cert pki/replica-r1.crt --key pki/replica-r1.key \\
      --ca pki/ca-bundle.crt --crl pki/crl.pem \\
      --issuer-cert pki/issuer-r1.crt --issuer-key pki/issuer-r1.key

With --issuer-cert and --issuer-key (`roadstead pki issue issuer r1`) it lets agents in by the tokens of
`roadstead join`. Certificates are taken up anew without a restart. SIGTERM hands leadership over and drains.")]
    Run(Run),
    /// Make the first replica of a new group.
    #[command(after_help = "Examples:
  roadstead server init --data /var/lib/roadstead/r1 \\
      --client-address r1.example.com:7420 --peer-address r1.example.com:7421")]
    Init(Init),
    /// Make a further replica; it is let in by a member, and votes once it has caught up.
    #[command(after_help = "Examples:
  roadstead server join --data /var/lib/roadstead/r2 --via r1.example.com:7421 \\
      --client-address r2.example.com:7420 --peer-address r2.example.com:7421 \\
      --cert pki/replica-r2.crt --key pki/replica-r2.key --ca pki/ca-bundle.crt

Can be repeated until it succeeds. A replica whose disk was wiped joins as a new one; remove the old one first.
To replace one that still works, join the new one first, then remove the old one.")]
    Join(Join),
    /// Make a group of one from what one member has: for a group that has lost its majority for good.
    #[command(after_help = "Examples:
  roadstead server recover --i-know \\
      --data /var/lib/roadstead/r2 --into /var/lib/roadstead/r2-new \\
      --client-address r2.example.com:7420 --peer-address r2.example.com:7421

Take the member that has most, with its process stopped. What it has is kept, also what it cannot know to be committed; a new incarnation
begins, and nothing is decided until the clusters' agents have reported. The other members' folders are useless then: remove them, and
join them anew. The old folder is left as it is and must never be started again.")]
    Recover(Recover),
}

/// Where a replica is reached.
#[derive(Debug, Args)]
pub struct Folder {
    /// Data folder.
    #[arg(long)]
    data: PathBuf,
    /// Where clients reach it (host:port).
    #[arg(long, value_name = "HOST:PORT")]
    client_address: String,
    /// Where the other replicas reach it (host:port).
    #[arg(long, value_name = "HOST:PORT")]
    peer_address: String,
    /// What keeps the log: sled or redb.
    #[arg(long, default_value = "sled", value_parser = backend)]
    log: Backend,
}

/// The certificates of a replica.
#[derive(Debug, Args)]
pub struct Certificates {
    /// Its certificate (PEM), role replica.
    #[arg(long, value_name = "FILE")]
    cert: PathBuf,
    /// Its key (PEM).
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// Authorities to trust (PEM).
    #[arg(long, value_name = "FILE")]
    ca: PathBuf,
    /// What was revoked (PEM).
    #[arg(long, value_name = "FILE")]
    crl: Option<PathBuf>,
}

impl Certificates {
    fn files(self) -> TlsFiles {
        TlsFiles { certificate: self.cert, key: self.key, authorities: self.ca, revocations: self.crl }
    }
}

/// What a replica issues agents' certificates with.
#[derive(Debug, Args)]
#[command(next_help_heading = "Agents")]
pub struct IssuerFlags {
    /// Certificate that signs agents' (PEM), role issuer: agents are let in by tokens then.
    #[arg(long, value_name = "FILE", requires = "issuer_key")]
    issuer_cert: Option<PathBuf>,
    /// Its key (PEM).
    #[arg(long, value_name = "FILE", requires = "issuer_cert")]
    issuer_key: Option<PathBuf>,
    /// How long an agent's certificate is good, 30d if left out; it renews itself at two thirds.
    #[arg(long, value_name = "TIME", requires = "issuer_cert", value_parser = crate::client::parse_span)]
    agent_certificates: Option<Duration>,
}

impl IssuerFlags {
    fn files(self) -> Option<IssuerFiles> {
        let (certificate, key) = self.issuer_cert.zip(self.issuer_key)?;
        Some(IssuerFiles { certificate, key, life: self.agent_certificates.unwrap_or(AGENT_LIFE) })
    }
}

/// See [`ServerVerb::Run`].
#[derive(Debug, Args)]
pub struct Run {
    /// Data folder, made by `init` or `join`.
    #[arg(long)]
    data: PathBuf,
    /// Address for clients.
    #[arg(long, default_value = LISTEN_CLIENT)]
    listen_client: SocketAddr,
    /// Address for the other replicas.
    #[arg(long, default_value = LISTEN_PEER)]
    listen_peer: SocketAddr,
    /// Address of /metrics, /healthz and /readyz over plain HTTP.
    #[arg(long, default_value = "127.0.0.1:7422")]
    listen_probes: SocketAddr,
    /// No metrics and probes.
    #[arg(long, conflicts_with = "listen_probes")]
    no_probes: bool,
    #[command(flatten)]
    certificates: Certificates,
    #[command(flatten)]
    issuer: IssuerFlags,
    /// Log entries after which a snapshot is taken.
    #[arg(long, default_value_t = Tuning::default().snapshot_every_entries)]
    snapshot_every: u64,
    /// End when stdin ends: a parent that goes away takes this replica with it.
    #[arg(long, hide = true)]
    with_parent: bool,
    /// What is logged, as in info or roadstead_server=debug.
    #[arg(long, default_value = "info", env = "ROADSTEAD_LOG")]
    log_filter: String,
    /// Logs as JSON, one object a line.
    #[arg(long)]
    log_json: bool,
}

/// See [`ServerVerb::Init`].
#[derive(Debug, Args)]
pub struct Init {
    #[command(flatten)]
    folder: Folder,
}

/// See [`ServerVerb::Join`].
#[derive(Debug, Args)]
pub struct Join {
    #[command(flatten)]
    folder: Folder,
    /// Peer address of any member, not its client address.
    #[arg(long, value_name = "HOST:PORT")]
    via: String,
    #[command(flatten)]
    certificates: Certificates,
}

/// See [`ServerVerb::Recover`].
#[derive(Debug, Args)]
pub struct Recover {
    /// Data folder of the member that has most.
    #[arg(long)]
    data: PathBuf,
    /// New folder for the new group's first replica.
    #[arg(long)]
    into: PathBuf,
    /// Where clients reach it (host:port).
    #[arg(long, value_name = "HOST:PORT")]
    client_address: String,
    /// Where the other replicas reach it (host:port).
    #[arg(long, value_name = "HOST:PORT")]
    peer_address: String,
    /// You know that the majority is gone for good.
    #[arg(long, required = true)]
    i_know: bool,
}

impl Recover {
    fn run(self) -> Result<(), Failure> {
        let info = member_info(&self.client_address, &self.peer_address)?;
        let identity = lifecycle::recover(&self.data, &self.into, info).map_err(|error| in_words(&error))?;
        out(&format!("member {} is the new group {}\n", identity.member, identity.group.as_deref().unwrap_or_default()));
        out(&started(&self.into, &identity, None));
        out(&format!("and never start a replica from {} again.\n", self.data.display()));
        Ok(())
    }
}

fn backend(text: &str) -> Result<Backend, String> {
    match text {
        "sled" => Ok(Backend::Sled),
        "redb" => Ok(Backend::Redb),
        _ => Err("use sled or redb".to_owned()),
    }
}

/// How a replica is started from its folder, with the files that are known.
fn started(data: &Path, identity: &Identity, files: Option<&TlsFiles>) -> String {
    let own = |flag: &str, address: &str, usual: &str| {
        let port = |address: &str| address.rsplit_once(':').map(|(_, port)| port.to_owned());
        let port = port(address).filter(|own| port(usual).as_ref() != Some(own));
        let loopback = address.parse::<SocketAddr>().is_ok_and(|address| address.ip().is_loopback());
        port.map(|port| format!(" --{flag} {}", if loopback { address.to_owned() } else { format!("0.0.0.0:{port}") })).unwrap_or_default()
    };
    let client = own("listen-client", &identity.client_address, LISTEN_CLIENT);
    let listen = client + &own("listen-peer", &identity.peer_address, LISTEN_PEER);
    let certificates = match files {
        None => "--cert ... --key ... --ca ... --crl ...".to_owned(),
        Some(TlsFiles { certificate, key, authorities, revocations }) => {
            let crl = revocations.as_ref().map(|crl| format!(" --crl {}", crl.display())).unwrap_or_default();
            format!("--cert {} --key {} --ca {}{crl}", certificate.display(), key.display(), authorities.display())
        }
    };
    format!(
        "\nNext: roadstead server run --data {}{listen} \\\n        {certificates} \\\n        \
         --issuer-cert ... --issuer-key ...    # lets agents in: roadstead pki issue issuer NAME\n",
        data.display()
    )
}

impl Folder {
    fn info(&self) -> Result<MemberInfo, Failure> {
        member_info(&self.client_address, &self.peer_address)
    }
}

fn member_info(client: &str, peer: &str) -> Result<MemberInfo, Failure> {
    for (flag, address) in [("--client-address", client), ("--peer-address", peer)] {
        let port = address.rsplit_once(':').and_then(|(host, port)| port.parse::<u16>().ok().filter(|_| !host.is_empty()));
        if port.is_none_or(|port| port == 0) {
            return Err(Failure::usage(format!("{flag} {address}: write HOST:PORT, as the others reach it")));
        }
    }
    Ok(MemberInfo { peer_address: peer.to_owned(), client_address: client.to_owned() })
}

impl ServerVerb {
    /// Carries the verb out.
    ///
    /// # Errors
    /// Why there is no replica, and what to do.
    pub async fn run(self) -> Result<(), Failure> {
        match self {
            Self::Run(run) => run.run().await,
            Self::Init(init) => init.run(),
            Self::Join(join) => join.run().await,
            Self::Recover(recover) => recover.run(),
        }
    }
}

impl Init {
    fn run(self) -> Result<(), Failure> {
        let identity = lifecycle::init(&self.folder.data, self.folder.info()?, self.folder.log).map_err(|error| in_words(&error))?;
        out(&format!("member {} of the new group {}\n", identity.member, identity.group.as_deref().unwrap_or_default()));
        out(&started(&self.folder.data, &identity, None));
        Ok(())
    }
}

impl Join {
    async fn run(self) -> Result<(), Failure> {
        let info = self.folder.info()?;
        let files = self.certificates.files();
        let tls = Tls::load(files.clone()).map_err(|error| Failure::failed(error.to_string()))?;
        let begun = std::time::Instant::now();
        let identity = loop {
            match lifecycle::join(&self.folder.data, info.clone(), self.folder.log, &self.via, &tls).await {
                Ok(identity) => break identity,
                Err(LifecycleError::Refused { .. }) if begun.elapsed() < JOIN_TIMEOUT => tokio::time::sleep(JOIN_PAUSE).await,
                Err(error) => return Err(in_words(&error)),
            }
        };
        out(&format!("member {} of the group {}\n", identity.member, identity.group.as_deref().unwrap_or_default()));
        out(&started(&self.folder.data, &identity, Some(&files)));
        Ok(())
    }
}

impl Run {
    async fn run(self) -> Result<(), Failure> {
        log_to_stderr(&self.log_filter, self.log_json)?;
        raise_open_files();
        let probes = (!self.no_probes).then_some(Listen::Address(self.listen_probes));
        let config = ServerConfig {
            data: self.data,
            tls: self.certificates.files(),
            client: Listen::Address(self.listen_client),
            peer: Listen::Address(self.listen_peer),
            probes,
            issuer: self.issuer.files(),
            tuning: Tuning { snapshot_every_entries: self.snapshot_every.max(1), ..Tuning::default() },
        };
        let running = Server::start(config).await.map_err(|error| start_failure(&error))?;
        tracing::info!(member = %running.identity.member, client = %running.client_address, peer = %running.peer_address, "replica started");
        let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
        let ended = tokio::select! {
            ended = running.ended() => ended,
            _ = terminate.recv() => { tracing::info!("SIGTERM: handing over and draining"); running.shutdown().await }
            () = parent_ended(self.with_parent) => { tracing::info!("the parent has ended"); running.shutdown().await }
            _ = tokio::signal::ctrl_c() => { tracing::info!("interrupted: handing over and draining"); running.shutdown().await }
        };
        tracing::info!(?ended, "replica ended");
        match ended {
            Ended::Stopped => Ok(()),
            Ended::Failed(why) => Err(Failure::failed(why)),
        }
    }
}

/// Until stdin ends, if that matters.
async fn parent_ended(matters: bool) {
    if !matters {
        return std::future::pending().await;
    }
    // A thread of its own: tokio's stdin would hold up the end of the runtime.
    let (sender, receiver) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        let _ = sender.send(());
    });
    let _ = receiver.await;
}

/// Sends logs to stderr.
///
/// # Errors
/// A filter that is none.
pub fn log_to_stderr(filter: &str, json: bool) -> Result<(), Failure> {
    let filter =
        tracing_subscriber::EnvFilter::try_new(filter).map_err(|error| Failure::usage(format!("--log-filter {filter}: {error}")))?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false);
    let started = if json { builder.json().try_init() } else { builder.try_init() };
    started.map_err(|error| Failure::failed(error.to_string()))
}

/// What a replica that did not start says.
pub(crate) fn start_failure(error: &StartError) -> Failure {
    match error {
        StartError::Lifecycle(error) => in_words(error),
        other => Failure::failed(other.to_string()),
    }
}

/// What a folder that cannot be used says.
pub(crate) fn in_words(error: &LifecycleError) -> Failure {
    match error {
        LifecycleError::Exists { .. } => Failure::new(Exit::Conflict, error.to_string()),
        LifecycleError::Absent { .. } => Failure::new(Exit::NotFound, error.to_string()),
        LifecycleError::ForClients { via } => Failure::usage(format!(
            "{via} is a client address; --via takes the peer address of a replica (port 7421 unless told otherwise)"
        )),
        other => Failure::failed(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(client: &str, peer: &str) -> Identity {
        Identity {
            format: 1,
            group: None,
            member: "1".to_owned(),
            peer_address: peer.to_owned(),
            client_address: client.to_owned(),
            log_backend: Backend::default(),
        }
    }

    #[test]
    fn who_has_made_a_replica_is_told_how_it_is_started_so_that_agents_get_in() {
        let usual = started(Path::new("r1"), &identity("r1.example.com:7420", "r1.example.com:7421"), None);
        let lines: Vec<&str> = usual.trim().lines().map(str::trim).collect();
        assert_eq!(lines[..2], ["Next: roadstead server run --data r1 \\", "--cert ... --key ... --ca ... --crl ... \\"]);
        assert!(lines[2].starts_with("--issuer-cert ... --issuer-key ...") && lines[2].contains("roadstead pki issue issuer"), "{usual}");

        let file = |name: &str| PathBuf::from(name);
        let files = TlsFiles { certificate: file("a.crt"), key: file("a.key"), authorities: file("ca.crt"), revocations: None };
        let other = started(Path::new("r2"), &identity("127.0.0.1:7430", "10.0.0.1:7431"), Some(&files));
        assert!(other.contains(" --data r2 --listen-client 127.0.0.1:7430 --listen-peer 0.0.0.0:7431 \\\n"), "{other}");
        assert!(other.contains(" --cert a.crt --key a.key --ca ca.crt \\\n"), "{other}");
    }
}
