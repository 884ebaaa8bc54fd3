//! `AdminService`: members, leadership, backups.

use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt, stream::BoxStream};
use roadstead_api::v1;
use roadstead_api::v1::admin_service_server::AdminService;
use roadstead_consensus::door::{Progress, Role};
use roadstead_consensus::member::{MemberId, MemberInfo};
use roadstead_core::request::Ask;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Response, Status, Streaming};

use super::context::{Context, reach, retry, submit_fault};
use crate::backup::{Backup, BackupError};
use crate::convert::check::{At, Check};
use crate::convert::request_id::fingerprint;
use crate::convert::{excerpt, wire_revision, wire_timestamp};
use crate::driver::message::format_group;
use crate::errors::{Fault, wire};
use crate::handle::Status as ReplicaStatus;

/// Messages of a backup that wait to be sent: enough to keep a link busy.
const BACKUP_AHEAD: usize = 16;
/// How long a new leader is waited for after the old one has let go: some elections.
const TRANSFER_WAIT: Duration = Duration::from_secs(3);
/// The longest address.
const MAX_ADDRESS_LEN: usize = 261;

/// `AdminService` on one replica.
#[derive(Debug)]
pub struct Admin {
    context: Arc<Context>,
    issues: bool,
}

impl Admin {
    /// On this replica; `issues` says whether it issues certificates.
    #[must_use]
    pub fn new(context: Arc<Context>, issues: bool) -> Self {
        Self { context, issues }
    }

    async fn status(&self) -> Result<ReplicaStatus, Fault> {
        self.context.handle.status().await.map_err(|error| Fault::unavailable(error.to_string()))
    }

    async fn members(&self) -> Result<Vec<v1::Member>, Fault> {
        let status = self.status().await?;
        Ok(wire_members(&status.role, &status.progress))
    }

    async fn add(&self, message: &v1::AddMemberRequest) -> Result<v1::AddMemberResponse, Fault> {
        let mut check = Check::default();
        let id = member_id(&mut check, &message.id);
        let peer_address = check.word(At::Top("peer_address"), &message.peer_address, MAX_ADDRESS_LEN);
        let client_address = check.word(At::Top("client_address"), &message.client_address, MAX_ADDRESS_LEN);
        let (id, (peer_address, client_address)) = check.finish(id.zip(peer_address.zip(client_address)))?;
        let added = self.context.handle.add_member(id, MemberInfo { peer_address, client_address }).await;
        added.map_err(|error| submit_fault(&error, None))?;
        Ok(v1::AddMemberResponse { members: self.members().await? })
    }

    async fn remove(&self, message: &v1::RemoveMemberRequest) -> Result<v1::RemoveMemberResponse, Fault> {
        let mut check = Check::default();
        let id = member_id(&mut check, &message.id);
        let id = check.finish(id)?;
        self.context.handle.remove_member(id).await.map_err(|error| submit_fault(&error, None))?;
        Ok(v1::RemoveMemberResponse { members: self.members().await? })
    }

    async fn transfer(&self, message: &v1::TransferLeadershipRequest) -> Result<v1::TransferLeadershipResponse, Fault> {
        let mut check = Check::default();
        let to = if message.id.is_empty() { Some(None) } else { member_id(&mut check, &message.id).map(Some) };
        let to = check.finish(to)?;
        let mut role = self.context.handle.role();
        let before = role.borrow().leader;
        self.context.handle.transfer(to).await.map_err(|error| submit_fault(&error, None))?;
        let settled = |role: &Role| match to {
            Some(wanted) => role.leader == Some(wanted),
            None => role.leader.is_some() && role.leader != before,
        };
        match tokio::time::timeout(TRANSFER_WAIT, role.wait_for(settled)).await {
            Ok(Ok(role)) => Ok(v1::TransferLeadershipResponse { leader_id: role.leader.map(|id| id.to_string()).unwrap_or_default() }),
            Ok(Err(_)) | Err(_) => Err(Fault::unavailable("leadership was not taken over in time; ask for the status")),
        }
    }

    async fn restored(&self, mut incoming: Streaming<v1::RestoreRequest>) -> Result<v1::RestoreResponse, Status> {
        let mut backup = self.context.handle.receive_backup().map_err(|error| backup_fault(&error))?;
        let mut first = true;
        while let Some(message) = incoming.next().await {
            let message = message.map_err(|status| wire(&status))?;
            if std::mem::take(&mut first) && !message.i_know {
                return Err(Fault::invalid("i_know", "must be true: everything since the backup is lost").into());
            }
            backup.push(&message.chunk).map_err(|error| backup_fault(&error))?;
        }
        if first {
            return Err(Fault::invalid("chunk", "must be given: the bytes of a backup").into());
        }
        let state = backup.finish().await.map_err(|error| backup_fault(&error))?;
        let tenants = state.tenant_count() as u64;
        let revision = self.context.handle.restore(state).await.map_err(|error| submit_fault(&error, None))?;
        Ok(v1::RestoreResponse { revision: Some(wire_revision(revision)), tenants })
    }

    async fn waive(&self, request: Request<v1::WaiveFenceRequest>) -> Result<v1::WaiveFenceResponse, Status> {
        let reach = reach(&request)?;
        let mut message = request.into_inner();
        let id = std::mem::take(&mut message.request_id);
        let print = fingerprint("WaiveFence", &message);
        let mut check = Check::default();
        let retry = retry(&mut check, &id, print);
        let cluster = check.optional_name(At::Top("cluster"), &message.cluster);
        let (retry, cluster) = check.finish(retry.zip(cluster))?;
        let (done, revision) = self.context.submit(&reach.caller().principal, Some(retry), Ask::WaiveFence { cluster }).await?;
        let revision = self.context.revision_of(&done, revision).await;
        Ok(v1::WaiveFenceResponse { revision: Some(wire_revision(revision)) })
    }
}

fn member_id(check: &mut Check, text: &str) -> Option<MemberId> {
    let strict = text.len() == 16 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    match u64::from_str_radix(text, 16) {
        Ok(number) if strict && number != 0 => Some(MemberId(number)),
        Ok(_) | Err(_) => {
            check.refuse(At::Top("id"), format_args!("{:?} is no member id: 16 of 0-9 a-f, as the replica printed it", excerpt(text)))
        }
    }
}

fn wire_members(role: &Role, progress: &[Progress]) -> Vec<v1::Member> {
    let voters = role.membership.voters.iter().map(|member| (member, true));
    let learners = role.membership.learners.iter().map(|member| (member, false));
    let member = |((id, info), voter): ((&MemberId, &MemberInfo), bool)| {
        let known = progress.iter().find(|progress| progress.id == *id);
        v1::Member {
            id: id.to_string(),
            peer_address: info.peer_address.clone(),
            client_address: info.client_address.clone(),
            voter,
            leader: role.leader == Some(*id),
            matched: known.map(|known| known.matched),
            supported_level: known.and_then(|known| known.supported).map_or(0, |level| u32::from(level.0)),
            active: known.map(|known| known.active),
        }
    };
    voters.chain(learners).map(member).collect()
}

/// What is wrong with a backup that was sent, or why one could not be made.
fn backup_fault(error: &BackupError) -> Fault {
    let words = error.to_string();
    match error {
        BackupError::Damaged { .. } | BackupError::Snapshot(_) => Fault::new(Code::InvalidArgument, "BAD_BACKUP", words),
        BackupError::Read(_) => Fault::unavailable(words),
        BackupError::Io { .. } => Fault::new(Code::ResourceExhausted, "DISK", words),
        BackupError::BrokenOff => Fault::internal(words),
    }
}

/// Sends a backup; ends early when nobody receives any more.
fn send_backup(mut backup: Backup, sender: &mpsc::Sender<Result<v1::BackupResponse, Status>>) {
    let mut revision = Some(wire_revision(backup.revision));
    loop {
        let message = match backup.next_piece() {
            Ok(None) => return,
            Ok(Some(chunk)) => Ok(v1::BackupResponse { chunk, revision: revision.take() }),
            Err(error) => Err(backup_fault(&error).into()),
        };
        let broken = message.is_err();
        if sender.blocking_send(message).is_err() || broken {
            return;
        }
    }
}

#[tonic::async_trait]
impl AdminService for Admin {
    async fn get_status(&self, _: Request<v1::GetStatusRequest>) -> Result<Response<v1::GetStatusResponse>, Status> {
        let status = self.status().await?;
        let state = self.context.state(false).await?;
        let fenced = state.fenced_clusters().map(|cluster| cluster.spec.name.to_string()).collect();
        Ok(Response::new(v1::GetStatusResponse {
            group_id: format_group(status.group),
            member_id: status.id.to_string(),
            members: wire_members(&status.role, &status.progress),
            term: status.role.term,
            committed: status.committed,
            applied: Some(wire_revision(status.applied)),
            feature_level: u32::from(state.level().0),
            digest: format!("{:016x}", state.digest()),
            digest_index: state.revision().index,
            tenants: state.tenant_count() as u64,
            pending: state.pending_count() as u64,
            clusters: u32::try_from(state.clusters().count()).unwrap_or(u32::MAX),
            fenced_clusters: fenced,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            log_backend: status.log_backend.to_owned(),
            time: Some(wire_timestamp(state.time())),
            issues_certificates: Some(self.issues),
        }))
    }

    async fn add_member(&self, request: Request<v1::AddMemberRequest>) -> Result<Response<v1::AddMemberResponse>, Status> {
        Ok(Response::new(self.add(request.get_ref()).await?))
    }

    async fn remove_member(&self, request: Request<v1::RemoveMemberRequest>) -> Result<Response<v1::RemoveMemberResponse>, Status> {
        Ok(Response::new(self.remove(request.get_ref()).await?))
    }

    async fn transfer_leadership(
        &self,
        request: Request<v1::TransferLeadershipRequest>,
    ) -> Result<Response<v1::TransferLeadershipResponse>, Status> {
        Ok(Response::new(self.transfer(request.get_ref()).await?))
    }

    type BackupStream = BoxStream<'static, Result<v1::BackupResponse, Status>>;

    async fn backup(&self, _: Request<v1::BackupRequest>) -> Result<Response<Self::BackupStream>, Status> {
        let backup = self.context.handle.backup().await.map_err(|error| backup_fault(&error))?;
        let (sender, chunks) = mpsc::channel(BACKUP_AHEAD);
        // Ends when everything is sent, or when the caller has gone and the channel is closed.
        tokio::task::spawn_blocking(move || send_backup(backup, &sender));
        Ok(Response::new(ReceiverStream::new(chunks).boxed()))
    }

    async fn restore(&self, request: Request<Streaming<v1::RestoreRequest>>) -> Result<Response<v1::RestoreResponse>, Status> {
        Ok(Response::new(self.restored(request.into_inner()).await?))
    }

    async fn waive_fence(&self, request: Request<v1::WaiveFenceRequest>) -> Result<Response<v1::WaiveFenceResponse>, Status> {
        Ok(Response::new(self.waive(request).await?))
    }
}
