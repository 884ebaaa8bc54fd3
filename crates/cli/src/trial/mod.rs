//! A whole placement service with a fleet of model clusters on this machine: what `dev` and `demo` share.
//!
//! ```text
//! DIR/config.yaml    a context; DIR/pki/ certificates; DIR/r1/ .. the replicas' data; DIR/examples/ documents to try
//! ```
//! DIR/clusters/ folders that are clusters. Real replicas, real logs, real mutual TLS on loopback. In reading order: this module (the folder),
//! [`replicas`] (in this process or in their own), [`agents`] (the model clusters of `demo`), [`local`] (the clusters of `dev`: folders with
//! processes), [`examples`].

pub mod examples;
pub mod replicas;
pub mod agents;
pub mod local;

use std::path::{Path, PathBuf};
use std::time::Duration;

use roadstead_consensus::member::MemberInfo;
use roadstead_server::config::free_loopback_address;
use roadstead_server::lifecycle;
use roadstead_server::log::Backend;
use roadstead_server::tls::{Tls, TlsFiles};

use crate::apply::{Mode, apply_all};
use crate::client::Client;
use crate::client::config::{Config, Context};
use crate::document::files::{Loaded, load};
use crate::document::{Kind, Spec};
use crate::failure::Failure;
use crate::pki::store::Files;
use crate::pki::{Role, Store, Subject};
use crate::verbs::server::in_words;

/// The name of the context that is written.
pub const CONTEXT: &str = "trial";
/// Days that certificates of a trial are valid.
const CERTIFICATE_DAYS: u64 = 365;
/// How long calls of a trial are tried: longer than electing a leader on a busy machine takes.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(30);
/// How long replicas may take to elect a leader and let each other in.
const READY_TIMEOUT: Duration = Duration::from_secs(60);
/// How often it is looked whether they have.
const POLL: Duration = Duration::from_millis(50);

/// One replica's place.
#[derive(Clone, Debug)]
pub struct Plan {
    /// As in `r1`.
    pub name: String,
    /// Data folder.
    pub data: PathBuf,
    /// Where it is reached.
    pub info: MemberInfo,
    /// Its certificates.
    pub files: Files,
    /// What it issues agents' certificates with; a folder from before issuers has none.
    pub issuer: Option<Files>,
}

impl Plan {
    /// Its certificates, as the server takes them.
    #[must_use]
    pub fn tls_files(&self) -> TlsFiles {
        let files = self.files.clone();
        TlsFiles { certificate: files.certificate, key: files.key, authorities: files.ca_bundle, revocations: Some(files.crl) }
    }
}

/// The folder of a trial.
pub struct Trial {
    /// The folder.
    pub folder: PathBuf,
    /// Its authority.
    pub pki: Store,
    /// Its replicas.
    pub plans: Vec<Plan>,
}

impl Trial {
    /// Prepares a folder: certificates, addresses, examples. What is there already is used again.
    ///
    /// # Errors
    /// A folder that cannot be written, or that holds another number of replicas.
    pub fn prepare(folder: &Path, replicas: usize) -> Result<Self, Failure> {
        std::fs::create_dir_all(folder).map_err(|error| Failure::failed(format!("cannot create {}: {error}", folder.display())))?;
        let folder = std::path::absolute(folder)?;
        let mut pki = Store::open_or_init(&folder.join("pki"))?;
        let mut plans = Vec::new();
        for number in 1..=replicas {
            let name = format!("r{number}");
            let data = folder.join(&name);
            let files = pki.ensure(&Subject::new(Role::Replica, &name), CERTIFICATE_DAYS)?;
            let issuer = pki.ensure(&Subject::new(Role::Issuer, &name), CERTIFICATE_DAYS).ok();
            let info = if lifecycle::exists(&data) {
                let identity = lifecycle::identity(&data).map_err(|error| in_words(&error))?;
                MemberInfo { peer_address: identity.peer_address, client_address: identity.client_address }
            } else {
                MemberInfo { peer_address: free_address()?, client_address: free_address()? }
            };
            plans.push(Plan { name, data, info, files, issuer });
        }
        if lifecycle::exists(&folder.join(format!("r{}", replicas + 1))) {
            let message = format!("{} holds more than {replicas} replicas", folder.display());
            return Err(Failure::usage(message).hint("give the same --replicas as the first time, or another --data"));
        }
        let trial = Self { folder, pki, plans };
        examples::write(&trial.folder.join("examples"))?;
        Ok(trial)
    }

    /// Makes the replica's data folder unless it is there; others than the first ask the first to be let in.
    ///
    /// # Errors
    /// What the disk refuses, or nobody who lets it in.
    pub async fn make_replica(&self, index: usize) -> Result<(), Failure> {
        let plan = &self.plans[index];
        if lifecycle::identity(&plan.data).is_ok_and(|identity| identity.group.is_some()) {
            return Ok(());
        }
        if index == 0 {
            return lifecycle::init(&plan.data, plan.info.clone(), Backend::default()).map(drop).map_err(|error| in_words(&error));
        }
        let tls = Tls::load(plan.tls_files()).map_err(|error| Failure::failed(error.to_string()))?;
        let via = &self.plans[0].info.peer_address;
        let begun = std::time::Instant::now();
        loop {
            match lifecycle::join(&plan.data, plan.info.clone(), Backend::default(), via, &tls).await {
                Ok(_) => return Ok(()),
                Err(error) if begun.elapsed() > READY_TIMEOUT => return Err(in_words(&error)),
                Err(_) => tokio::time::sleep(POLL).await,
            }
        }
    }

    /// A context for a certificate of this trial, which is issued if need be.
    ///
    /// # Errors
    /// A certificate that cannot be written.
    pub fn context(&mut self, subject: &Subject) -> Result<Context, Failure> {
        let files = self.pki.ensure(subject, CERTIFICATE_DAYS)?;
        let servers = self.plans.iter().map(|plan| plan.info.client_address.clone()).collect();
        Ok(Context { servers, ca: files.ca_bundle, cert: files.certificate, key: files.key })
    }

    /// A client with a certificate of this trial.
    ///
    /// # Errors
    /// As [`Self::context`].
    pub fn client(&mut self, role: Role, name: &str) -> Result<Client, Failure> {
        Client::new(&self.context(&Subject::new(role, name))?, CALL_TIMEOUT)
    }

    /// Writes a config file with a context of an admin, beside others that somebody has added; tells where.
    ///
    /// # Errors
    /// A file that cannot be read or written.
    pub fn write_config(&mut self) -> Result<PathBuf, Failure> {
        let context = self.context(&Subject::new(Role::Admin, "me"))?;
        let path = self.folder.join("config.yaml");
        let mut config = Config::load(&path)?;
        config.contexts.insert(CONTEXT.to_owned(), context);
        config.current_context.get_or_insert_with(|| CONTEXT.to_owned());
        config.save(&path)?;
        Ok(path)
    }

    /// The example documents that make the fleet, with at most so many clusters.
    ///
    /// # Errors
    /// An example that somebody has broken.
    pub fn fleet_documents(&self, clusters: usize) -> Result<Vec<Loaded>, Failure> {
        let mut left = clusters;
        let mut loaded = load(&[self.folder.join("examples")])?;
        loaded.retain(|item| match item.document.spec {
            Spec::Tenant(_) => false,
            Spec::Cluster(_) => {
                let wanted = left > 0;
                left = left.saturating_sub(1);
                wanted
            }
            Spec::Policy(_) | Spec::Pool(_) | Spec::Class(_) => true,
        });
        Ok(loaded)
    }
}

/// Waits until a leader is known and so many members vote.
///
/// # Errors
/// They do not, in time.
pub async fn until_voters(client: &Client, voters: usize) -> Result<(), Failure> {
    let begun = std::time::Instant::now();
    loop {
        let status = client.status().await;
        if let Ok(status) = &status
            && status.members.iter().filter(|member| member.voter).count() == voters
            && status.members.iter().any(|member| member.leader)
        {
            return Ok(());
        }
        if begun.elapsed() > READY_TIMEOUT {
            return Err(status.err().unwrap_or_else(|| Failure::failed("the replicas did not let each other in, in time")));
        }
        tokio::time::sleep(POLL).await;
    }
}

/// Applies documents whose clusters are models with agents of their own: those report the capacity, not we.
///
/// # Errors
/// The first refusal.
pub async fn declare(client: &Client, loaded: &[Loaded]) -> Result<(), Failure> {
    let mut first = None;
    let mode = Mode { leave_facts: true, ..Mode::default() };
    apply_all(client, loaded, mode, |done| first = first.take().or(done.result.err())).await?;
    first.map_or(Ok(()), Err)
}

/// Waits until every cluster has reported what it has.
///
/// # Errors
/// One has not, in time.
pub async fn until_reported(client: &Client) -> Result<(), Failure> {
    let begun = std::time::Instant::now();
    loop {
        let clusters = client.clusters(false).await?;
        let missing = clusters.iter().find(|cluster| cluster.status.as_ref().is_none_or(|status| status.report_time.is_none()));
        match missing {
            None => return Ok(()),
            Some(cluster) if begun.elapsed() > READY_TIMEOUT => {
                return Err(Failure::failed(format!("cluster/{} has not reported in time", cluster.name)));
            }
            Some(_) => tokio::time::sleep(POLL).await,
        }
    }
}

/// How many documents of a kind there are.
#[must_use]
pub fn count(loaded: &[Loaded], kind: Kind) -> usize {
    loaded.iter().filter(|item| item.document.spec.kind() == kind).count()
}

fn free_address() -> Result<String, Failure> {
    Ok(free_loopback_address()?.to_string())
}
