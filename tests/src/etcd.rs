//! Three members of etcd with mutual TLS and syncs on: the peer of some benchmarks.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use tonic::transport::Channel;

use crate::client::Credentials;
use crate::process::{Process, free_address, until};

/// As much of etcd's protocol as is spoken here.
pub mod wire {
    #![allow(missing_docs, clippy::all, clippy::pedantic)]
    tonic::include_proto!("etcdserverpb");
}

use wire::kv_client::KvClient;

/// Members.
pub const MEMBERS: usize = 3;
/// How long a fresh group may take to elect and answer.
const READY_WITHIN: Duration = Duration::from_secs(30);
/// Above what a benchmark writes; etcd's default of 2 GiB would do, too, but not for long runs.
const QUOTA_BYTES: u64 = 8 << 30;

/// A running group.
#[derive(Debug)]
pub struct Etcd {
    members: Vec<Process>,
    addresses: Vec<SocketAddr>,
    credentials: Credentials,
}

impl Etcd {
    /// Starts three members, each with its own folder below `folder`, and waits until they answer.
    ///
    /// # Errors
    /// If they do not.
    pub async fn start(program: &Path, folder: &Path) -> Result<Self> {
        let pki = Pki::make(folder)?;
        let clients = (0..MEMBERS).map(|_| free_address()).collect::<Result<Vec<_>>>()?;
        let peers = (0..MEMBERS).map(|_| free_address()).collect::<Result<Vec<_>>>()?;
        let all: Vec<String> = peers.iter().enumerate().map(|(number, address)| format!("m{number}=https://{address}")).collect();
        let mut members = Vec::new();
        for (number, (client, peer)) in clients.iter().zip(&peers).enumerate() {
            let mut command = Command::new(program);
            command
                .args(["--name", &format!("m{number}"), "--data-dir"])
                .arg(folder.join(format!("m{number}")))
                .args(["--listen-client-urls", &format!("https://{client}"), "--advertise-client-urls", &format!("https://{client}")])
                .args(["--listen-peer-urls", &format!("https://{peer}"), "--initial-advertise-peer-urls", &format!("https://{peer}")])
                .args([
                    "--initial-cluster",
                    &all.join(","),
                    "--initial-cluster-state",
                    "new",
                    "--client-cert-auth",
                    "--peer-client-cert-auth",
                ])
                .args(["--quota-backend-bytes", &QUOTA_BYTES.to_string(), "--log-level", "warn", "--max-txn-ops", "1024"]);
            for (flag, path) in pki.flags() {
                command.arg(flag).arg(path);
            }
            members.push(Process::start(&format!("etcd m{number}"), &mut command, &folder.join(format!("m{number}.log")))?);
        }
        let etcd = Self { members, addresses: clients, credentials: pki.credentials()? };
        for address in etcd.addresses.clone() {
            until("etcd answers", READY_WITHIN, || async {
                let mut client = KvClient::new(etcd.credentials.channel(address)?);
                client.range(wire::RangeRequest { key: b"ready".to_vec(), serializable: false }).await.context("a first read fails")
            })
            .await?;
        }
        Ok(etcd)
    }

    /// A connection to a member.
    ///
    /// # Errors
    /// If the certificates cannot be used.
    pub fn client(&self, member: usize) -> Result<KvClient<Channel>> {
        Ok(KvClient::new(self.credentials.channel(self.addresses[member % MEMBERS])?))
    }

    /// Process ids.
    #[must_use]
    pub fn ids(&self) -> Vec<u32> {
        self.members.iter().map(Process::id).collect()
    }
}

/// One transaction that puts keys which must not be there yet.
#[must_use]
pub fn put_if_absent(pairs: impl IntoIterator<Item = (Vec<u8>, Vec<u8>)>) -> wire::TxnRequest {
    let mut transaction = wire::TxnRequest::default();
    for (key, value) in pairs {
        transaction.compare.push(wire::Compare {
            result: wire::compare::CompareResult::Equal.into(),
            target: wire::compare::CompareTarget::Create.into(),
            key: key.clone(),
            target_union: Some(wire::compare::TargetUnion::CreateRevision(0)),
        });
        let put = wire::request_op::Request::RequestPut(wire::PutRequest { key, value });
        transaction.success.push(wire::RequestOp { request: Some(put) });
    }
    transaction
}

/// An authority and one certificate for everybody: etcd checks addresses, not roles.
struct Pki {
    authorities: PathBuf,
    certificate: PathBuf,
    key: PathBuf,
}

impl Pki {
    fn make(folder: &Path) -> Result<Self> {
        let authority_key = rcgen::KeyPair::generate().context("failed to make a key")?;
        let mut authority = rcgen::CertificateParams::new(Vec::new()).context("failed to describe an authority")?;
        authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let authority_pem = authority.self_signed(&authority_key).context("failed to sign an authority")?.pem();
        let issuer = rcgen::Issuer::new(authority, authority_key);
        let mut member =
            rcgen::CertificateParams::new(vec!["localhost".to_owned(), "127.0.0.1".to_owned()]).context("failed to describe a member")?;
        member.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth, rcgen::ExtendedKeyUsagePurpose::ClientAuth];
        let key = rcgen::KeyPair::generate().context("failed to make a key")?;
        let member_pem = member.signed_by(&key, &issuer).context("failed to sign a certificate")?.pem();
        let write = |name: &str, text: String| -> Result<PathBuf> {
            let path = folder.join(name);
            std::fs::write(&path, text).with_context(|| format!("failed to write {}", path.display()))?;
            Ok(path)
        };
        Ok(Self {
            authorities: write("ca.crt", authority_pem)?,
            certificate: write("member.crt", member_pem)?,
            key: write("member.key", key.serialize_pem())?,
        })
    }

    fn flags(&self) -> [(&'static str, &Path); 6] {
        [
            ("--cert-file", &self.certificate),
            ("--key-file", &self.key),
            ("--trusted-ca-file", &self.authorities),
            ("--peer-cert-file", &self.certificate),
            ("--peer-key-file", &self.key),
            ("--peer-trusted-ca-file", &self.authorities),
        ]
    }

    fn credentials(&self) -> Result<Credentials> {
        Credentials::read(&self.certificate, &self.key, &self.authorities, "localhost")
    }
}
