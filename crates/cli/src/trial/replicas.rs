//! Replicas of a trial: in this process, or in processes of their own that can be killed.

use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};

use roadstead_server::config::{Listen, ServerConfig, Tuning};
use roadstead_server::issuer::{AGENT_LIFE, IssuerFiles};
use roadstead_server::server::{RunningServer, Server};

use super::{Plan, Trial};
use crate::failure::Failure;
use crate::pki::store::Files;
use crate::verbs::server::start_failure;

/// Starts a replica in this process.
///
/// # Errors
/// Why it did not start.
pub async fn start_here(plan: &Plan) -> Result<RunningServer, Failure> {
    let config = ServerConfig {
        data: plan.data.clone(),
        tls: plan.tls_files(),
        client: Listen::Address(address(&plan.info.client_address)?),
        peer: Listen::Address(address(&plan.info.peer_address)?),
        probes: None,
        issuer: plan.issuer.clone().map(|Files { certificate, key, .. }| IssuerFiles { certificate, key, life: AGENT_LIFE }),
        tuning: Tuning::default(),
    };
    Server::start(config).await.map_err(|error| start_failure(&error))
}

fn address(text: &str) -> Result<SocketAddr, Failure> {
    text.parse().map_err(|_| Failure::failed(format!("`{text}` is not an address of this machine")))
}

/// Makes and starts all replicas in this process, the first one first: it lets the others in.
///
/// # Errors
/// The first that does not start; those started before are killed.
pub async fn start_all_here(trial: &Trial) -> Result<Vec<RunningServer>, Failure> {
    let mut running = Vec::new();
    for (index, plan) in trial.plans.iter().enumerate() {
        trial.make_replica(index).await?;
        running.push(start_here(plan).await?);
    }
    Ok(running)
}

/// A replica in a process of its own; dropping it kills it.
#[derive(Debug)]
pub struct Process {
    /// As in `r1`.
    pub name: String,
    child: Child,
}

impl Process {
    /// Starts `roadstead server run` for a plan; its log goes to a file beside its data.
    ///
    /// # Errors
    /// A process that cannot be started.
    pub fn start(plan: &Plan) -> Result<Self, Failure> {
        let program = std::env::current_exe()?;
        let log_path = plan.data.with_extension("log");
        let log = std::fs::File::options().create(true).append(true).open(&log_path)?;
        let mut command = Command::new(program);
        command.args(["server", "run", "--no-probes", "--with-parent", "--data"]).arg(&plan.data);
        command.args(["--listen-client", &plan.info.client_address, "--listen-peer", &plan.info.peer_address]);
        command.arg("--cert").arg(&plan.files.certificate).arg("--key").arg(&plan.files.key);
        command.arg("--ca").arg(&plan.files.ca_bundle).arg("--crl").arg(&plan.files.crl);
        if let Some(issuer) = &plan.issuer {
            command.arg("--issuer-cert").arg(&issuer.certificate).arg("--issuer-key").arg(&issuer.key);
        }
        // It ends when its stdin does: also if this process is killed.
        command.stdin(Stdio::piped()).stdout(log.try_clone()?).stderr(log);
        let child = command.spawn().map_err(|error| Failure::failed(format!("cannot start {}: {error}", plan.name)))?;
        Ok(Self { name: plan.name.clone(), child })
    }

    /// Its process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// kill -9.
    pub fn kill(&mut self) {
        // Fails only if it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// How it ended, if it did by itself.
    #[must_use]
    pub fn ended(&mut self) -> Option<String> {
        self.child.try_wait().ok().flatten().map(|status| status.to_string())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}
