//! `admin`: the replicas themselves: status, members, leadership, backup and restore.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use roadstead_api::v1;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::kinds::one_of_kind;
use crate::apply::put::send;
use crate::client::leader::{Answered, no_leader};
use crate::client::{Client, Connection, Services, request_id};
use crate::document::Kind;
use crate::failure::{Exit, Failure};
use crate::output::{Format, Table, dash_or, json, out, status, yaml};

/// Bytes of a backup sent at a time.
const CHUNK_BYTES: usize = 256 << 10;
/// Chunks read ahead of the network.
const CHUNKS_AHEAD: usize = 4;

/// The replicas themselves.
#[derive(Debug, Subcommand)]
pub enum Admin {
    /// How the replicas are: leader, members, revision, digest.
    #[command(after_help = "Examples:\n  roadstead admin status\n  roadstead admin status --every-replica")]
    Status(StatusVerb),
    /// List, add and remove members.
    #[command(subcommand, after_help = "Examples:\n  roadstead admin members list\n  roadstead admin members remove 5f3a0c1d2e4b6a70")]
    Members(Members),
    /// Hand leadership over.
    #[command(
        after_help = "Examples:\n  roadstead admin transfer      # to the member that has most\n  roadstead admin transfer 5f3a0c1d2e4b6a70"
    )]
    Transfer(Transfer),
    /// Write a consistent copy of the state to a file.
    #[command(after_help = "Examples:\n  roadstead admin backup -o fleet.backup")]
    Backup(Backup),
    /// Replace the whole state by a backup, as a new incarnation.
    #[command(after_help = "Examples:
  roadstead admin restore fleet.backup --i-know

All that happened since the backup is lost. Nothing is decided until every active cluster's agent has reported;
`roadstead admin status` lists those that have not, `roadstead admin waive-fence` goes on without them.
The backup is sent to the leader, whichever replica the context names first.")]
    Restore(Restore),
    /// Let decisions go on although some agents have not reported since a restore.
    #[command(after_help = "Examples:\n  roadstead admin waive-fence eu-1 --i-know\n  roadstead admin waive-fence --all --i-know")]
    WaiveFence(Waive),
}

/// See [`Admin::Status`].
#[derive(Debug, Args)]
pub struct StatusVerb {
    /// Ask each replica of the context, not the leader alone.
    #[arg(long)]
    every_replica: bool,
    /// How to write it.
    #[arg(short, long, default_value = "table")]
    output: Format,
    #[command(flatten)]
    connection: Connection,
}

/// Members of the group.
#[derive(Debug, Subcommand)]
pub enum Members {
    /// List the members.
    #[command(after_help = "Examples:\n  roadstead admin members list")]
    List(MembersList),
    /// Add a member as a learner; it votes once it has caught up. `roadstead server join` does this by itself.
    #[command(
        after_help = "Examples:\n  roadstead admin members add 5f3a0c1d2e4b6a70 \\\n      --peer-address r4:7421 --client-address r4:7420"
    )]
    Add(MembersAdd),
    /// Remove a member.
    #[command(after_help = "Examples:\n  roadstead admin members remove 5f3a0c1d2e4b6a70")]
    Remove(MembersRemove),
}

/// See [`Members::List`].
#[derive(Debug, Args)]
pub struct MembersList {
    #[command(flatten)]
    connection: Connection,
}

/// See [`Members::Add`].
#[derive(Debug, Args)]
pub struct MembersAdd {
    /// Id, as `roadstead server join` printed it.
    id: String,
    /// Where peers reach it.
    #[arg(long)]
    peer_address: String,
    /// Where clients reach it.
    #[arg(long)]
    client_address: String,
    #[command(flatten)]
    connection: Connection,
}

/// See [`Members::Remove`].
#[derive(Debug, Args)]
pub struct MembersRemove {
    /// Which.
    id: String,
    #[command(flatten)]
    connection: Connection,
}

/// See [`Admin::Transfer`].
#[derive(Debug, Args)]
pub struct Transfer {
    /// To whom; the most caught-up voter if left out.
    #[arg(default_value = "", hide_default_value = true)]
    id: String,
    #[command(flatten)]
    connection: Connection,
}

/// See [`Admin::Backup`].
#[derive(Debug, Args)]
pub struct Backup {
    /// File to write; it must not exist.
    #[arg(short, long)]
    output: PathBuf,
    #[command(flatten)]
    connection: Connection,
}

/// See [`Admin::Restore`].
#[derive(Debug, Args)]
pub struct Restore {
    /// File to read.
    file: PathBuf,
    /// You know that all that happened since is lost.
    #[arg(long, required = true)]
    i_know: bool,
    #[command(flatten)]
    connection: Connection,
}

/// See [`Admin::WaiveFence`].
#[derive(Debug, Args)]
pub struct Waive {
    /// Which cluster; the kind may stand before it, or as cluster/NAME.
    #[arg(required_unless_present = "all", num_args = 1..=2, value_name = "NAME")]
    cluster: Vec<String>,
    /// All that have not reported.
    #[arg(long, conflicts_with = "cluster")]
    all: bool,
    /// You know what runs there.
    #[arg(long, required = true)]
    i_know: bool,
    #[command(flatten)]
    connection: Connection,
}

impl Admin {
    /// Carries the verb out.
    ///
    /// # Errors
    /// The call's.
    pub async fn run(self) -> Result<(), Failure> {
        match self {
            Self::Status(verb) => verb.run().await,
            Self::Members(verb) => verb.run().await,
            Self::Transfer(verb) => {
                let request = v1::TransferLeadershipRequest { id: verb.id };
                let answer = send!(verb.connection.connect()?, "transfer leadership", admin, transfer_leadership, request)?;
                out(&format!("{} leads\n", answer.leader_id));
                Ok(())
            }
            Self::Backup(verb) => verb.run().await,
            Self::Restore(verb) => verb.run().await,
            Self::WaiveFence(verb) => {
                let cluster = if verb.all { String::new() } else { one_of_kind(Kind::Cluster, &verb.cluster)? };
                let request = v1::WaiveFenceRequest { request_id: request_id(), cluster: cluster.clone() };
                send!(verb.connection.connect()?, "waive the fence", admin, waive_fence, request)?;
                out(&format!("fence waived for {}\n", if verb.all { "all clusters" } else { &cluster }));
                Ok(())
            }
        }
    }
}

impl StatusVerb {
    async fn run(self) -> Result<(), Failure> {
        let client = self.connection.connect()?;
        if self.every_replica {
            return self.every(&client).await;
        }
        match client.ask_leader().await? {
            Answered::Leader(_, status) => self.show(&status),
            Answered::Other(status, why) => {
                self.show(&status)?;
                Err(no_leader(&format!("{why}; this is what member {} knows", status.member_id)))
            }
        }
    }

    async fn every(&self, client: &Client) -> Result<(), Failure> {
        let (mut silent, mut led) = (Vec::new(), false);
        for (address, found) in client.status_of_each().await {
            match found {
                Ok(status) => {
                    led |= status.members.iter().any(|member| member.leader);
                    self.show(&status)?;
                }
                Err(why) => silent.push(format!("{address} did not answer: {why}")),
            }
        }
        match (silent.is_empty(), led) {
            (true, true) => Ok(()),
            (true, false) => Err(no_leader("none of the replicas knows of one")),
            (false, _) => Err(Failure::new(Exit::Unavailable, silent.join("\n"))),
        }
    }

    fn show(&self, found: &v1::GetStatusResponse) -> Result<(), Failure> {
        match self.output {
            Format::Json => out(&json(&status_value(found))?),
            Format::Yaml => out(&yaml(&[status_value(found)])?),
            Format::Name => out(&format!("{}\n", found.member_id)),
            Format::Table | Format::Wide => out(&status_text(found)),
        }
        Ok(())
    }
}

fn status_value(found: &v1::GetStatusResponse) -> serde_json::Value {
    let members = found.members.iter().map(|member| {
        serde_json::json!({
            "id": member.id, "peerAddress": member.peer_address, "clientAddress": member.client_address, "voter": member.voter,
            "leader": member.leader, "matched": member.matched, "supportedLevel": member.supported_level, "active": member.active,
        })
    });
    serde_json::json!({
        "group": found.group_id, "member": found.member_id, "term": found.term, "committed": found.committed,
        "applied": status::revision(found.applied.as_ref()), "featureLevel": found.feature_level, "digest": found.digest,
        "digestIndex": found.digest_index, "tenants": found.tenants, "pending": found.pending, "clusters": found.clusters,
        "fencedClusters": found.fenced_clusters, "version": found.version, "logBackend": found.log_backend,
        "issuesCertificates": found.issues_certificates, "members": members.collect::<Vec<_>>(),
    })
}

fn status_text(found: &v1::GetStatusResponse) -> String {
    let mut text =
        format!("group        {}\nasked        {} ({}, log in {})\n", found.group_id, found.member_id, found.version, found.log_backend);
    text.push_str(&format!(
        "term         {}, committed {}, applied {}\n",
        found.term,
        found.committed,
        status::revision(found.applied.as_ref())
    ));
    text.push_str(&format!("state        {} tenants, {} waiting, {} clusters\n", found.tenants, found.pending, found.clusters));
    text.push_str(&format!("level        {}, digest {} at {}\n", found.feature_level, dash_or(&found.digest), found.digest_index));
    if found.issues_certificates == Some(true) {
        text.push_str("issues       agents' certificates\n");
    }
    if !found.fenced_clusters.is_empty() {
        text.push_str(&format!("FENCED       waits for the agents of {}\n", found.fenced_clusters.join(", ")));
    }
    text.push_str(&members(&found.members));
    text.push('\n');
    text
}

fn members(members: &[v1::Member]) -> String {
    let mut table = Table::new(&["MEMBER", "ROLE", "HEARD", "HAS", "LEVEL", "CLIENTS", "PEERS"]);
    for member in members {
        let role = match (member.leader, member.voter) {
            (true, _) => "leader",
            (false, true) => "voter",
            (false, false) => "learner",
        };
        let heard = member.active.map_or("-", |active| if active { "yes" } else { "no" });
        table.row(vec![
            member.id.clone(),
            role.to_owned(),
            heard.to_owned(),
            member.matched.map_or_else(|| "-".to_owned(), |index| index.to_string()),
            // Only the leader knows; a level of 0 is not there.
            if member.supported_level == 0 { "-".to_owned() } else { member.supported_level.to_string() },
            member.client_address.clone(),
            member.peer_address.clone(),
        ]);
    }
    table.render(crate::output::colour())
}

impl Members {
    async fn run(self) -> Result<(), Failure> {
        let listed = match self {
            Self::List(verb) => verb.connection.connect()?.status().await?.members,
            Self::Add(verb) => {
                let request = v1::AddMemberRequest { id: verb.id, peer_address: verb.peer_address, client_address: verb.client_address };
                send!(verb.connection.connect()?, "add a member", admin, add_member, request)?.members
            }
            Self::Remove(verb) => {
                let request = v1::RemoveMemberRequest { id: verb.id };
                send!(verb.connection.connect()?, "remove a member", admin, remove_member, request)?.members
            }
        };
        out(&members(&listed));
        Ok(())
    }
}

impl Backup {
    async fn run(self) -> Result<(), Failure> {
        let client: Client = self.connection.connect()?;
        let failed = |error: std::io::Error| Failure::failed(format!("cannot write {}: {error}", self.output.display()));
        if self.output.exists() {
            return Err(Failure::usage(format!("{} exists already", self.output.display())));
        }
        let mut stream = send!(client, "backup", admin, backup, v1::BackupRequest {})?;
        let part = self.output.with_extension("part");
        let mut file = tokio::fs::File::create(&part).await.map_err(failed)?;
        let (mut bytes, mut revision) = (0usize, None);
        while let Some(message) = stream.message().await.map_err(|error| client.failure("backup", &error))? {
            revision = revision.or(message.revision);
            bytes += message.chunk.len();
            file.write_all(&message.chunk).await.map_err(failed)?;
        }
        file.sync_all().await.map_err(failed)?;
        tokio::fs::rename(&part, &self.output).await.map_err(failed)?;
        out(&format!("{} holds revision {} ({bytes} bytes)\n", self.output.display(), status::revision(revision.as_ref())));
        Ok(())
    }
}

impl Restore {
    async fn run(self) -> Result<(), Failure> {
        let client = self.connection.connect()?;
        let leader = client.leader().await?;
        let path = self.file.display().to_string();
        let mut file = tokio::fs::File::open(&self.file).await.map_err(|error| Failure::failed(format!("cannot read {path}: {error}")))?;
        let (sender, receiver) = tokio::sync::mpsc::channel(CHUNKS_AHEAD);
        let reader = tokio::spawn(async move {
            let mut first = true;
            loop {
                let mut chunk = vec![0; CHUNK_BYTES];
                let read = file.read(&mut chunk).await?;
                chunk.truncate(read);
                let message = v1::RestoreRequest { chunk: chunk.into(), i_know: std::mem::take(&mut first) };
                if read == 0 || sender.send(message).await.is_err() {
                    return Ok::<(), std::io::Error>(());
                }
            }
        });
        let stream = tokio_stream::wrappers::ReceiverStream::new(receiver);
        let answer = leader.admin().restore(stream).await.map_err(|error| client.failure("restore", &error))?.into_inner();
        reader
            .await
            .map_err(|error| Failure::failed(error.to_string()))?
            .map_err(|error| Failure::failed(format!("cannot read {path}: {error}")))?;
        out(&format!("{} tenants restored as of revision {}\n", answer.tenants, status::revision(answer.revision.as_ref())));
        out("\nNext: roadstead admin status    # lists clusters whose agents have not reported yet\n");
        Ok(())
    }
}
