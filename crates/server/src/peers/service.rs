//! What other replicas call: Raft messages, forwarded requests, changes of the group, joining, snapshots.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::{Stream, StreamExt};
use prost::Message;
use roadstead_api::internal::change_group_request::Change as WireChange;
use roadstead_api::internal::replica_service_server::{ReplicaService, ReplicaServiceServer};
use roadstead_api::internal::{
    AskAgentRequest, AskAgentResponse, ChangeGroupRequest, ChangeGroupResponse, ClusterContact, ContactsRequest, ContactsResponse,
    ExchangeRequest, ExchangeResponse, FetchSnapshotRequest, FetchSnapshotResponse, ForwardRequest, ForwardResponse, JoinRequest,
    JoinResponse, MemberAddress, ask_agent_response,
};
use roadstead_api::v1;
use roadstead_consensus::door::Answer;
use roadstead_consensus::member::{MemberId, MemberInfo, Membership};
use roadstead_core::codec;
use roadstead_core::command::FeatureLevel;
use roadstead_core::id::{ClusterId, Revision};
use roadstead_core::time::Timestamp;
use tokio::sync::mpsc;
use tonic::{Request, Response, Status, Streaming};
use tracing::{info, warn};

use super::{MAX_MESSAGE_BYTES, Myself, Peers, connect, transfer, wire};
use crate::driver::message::{Asked, Change, Reply, ToDriver};
use crate::handle::{Handle, Heard, MAX_WAITING, RETRY_AFTER_MS, SUBMIT_TIMEOUT, SubmitError};
use crate::identity::{Role, caller};
use crate::questions::{ANSWER_WITHIN, Unanswered};
use crate::snapshots::Snapshots;
use crate::tls::Tls;

/// What a replica that was asked to ask an agent is given beyond the agent's own time.
const CONNECT_MARGIN: Duration = Duration::from_secs(2);
/// Answers sent back as one message.
const MAX_ANSWER_BATCH: usize = 512;

/// The service that peers call.
#[derive(Debug)]
pub(crate) struct PeerService {
    pub(crate) me: Myself,
    pub(crate) peers: Arc<Peers>,
    pub(crate) handle: Handle,
    pub(crate) snapshots: Snapshots,
}

impl PeerService {
    /// As tonic serves it.
    pub(crate) fn into_server(self) -> ReplicaServiceServer<Self> {
        ReplicaServiceServer::new(self).max_decoding_message_size(MAX_MESSAGE_BYTES).max_encoding_message_size(MAX_MESSAGE_BYTES)
    }

    /// Refuses a message for another group, or for another member (a wiped one under whose address this one runs now).
    fn check(&self, group: &str, to: Option<u64>) -> Result<(), Status> {
        if group != self.me.group {
            let why = format!("this replica belongs to group {}, not to {group}", self.me.group);
            warn!(group, "a message from another group was refused");
            return Err(Status::failed_precondition(why));
        }
        match to {
            Some(to) if to != self.me.id.0 => {
                let why = format!("member {} is not here any more; here is {}", MemberId(to), self.me.id);
                Err(Status::not_found(why))
            }
            Some(_) | None => Ok(()),
        }
    }

    fn take_forwarded(&self, request: ForwardRequest, done: &mpsc::UnboundedSender<(u64, Answer)>) -> Result<(), Status> {
        let gone = || Status::unavailable("this replica is stopping");
        if !request.heard.is_empty() {
            let clusters = request.heard.into_iter().map(ClusterId).collect();
            self.handle.inner.driver.send(ToDriver::Heard(clusters)).map_err(|_| gone())?;
        }
        let mut asked = Vec::with_capacity(request.requests.len());
        for forwarded in request.requests {
            let ticket = forwarded.ticket;
            match codec::decode_request(&forwarded.request) {
                Ok(request) => asked.push(Asked::new(request, SUBMIT_TIMEOUT, Reply::Peer { ticket, done: done.clone() })),
                Err(error) => {
                    let why = format!("the leader cannot read this request: {error}");
                    let _ = done.send((ticket, Answer::Refused { why }));
                }
            }
        }
        let waiting = &self.handle.inner.waiting;
        if waiting.fetch_add(asked.len(), Ordering::Relaxed) + asked.len() > MAX_WAITING {
            waiting.fetch_sub(asked.len(), Ordering::Relaxed);
            for asked in asked {
                if let Reply::Peer { ticket, done } = asked.reply {
                    let _ = done.send((ticket, Answer::Overloaded { retry_after_ms: RETRY_AFTER_MS }));
                }
            }
            return Ok(());
        }
        self.handle.inner.driver.send(ToDriver::Requests(asked)).map_err(|_| gone())
    }

    fn addresses(members: &Membership) -> Vec<MemberAddress> {
        let all = members.voters.iter().chain(&members.learners);
        all.map(|(id, info)| MemberAddress {
            id: id.0,
            peer_address: info.peer_address.clone(),
            client_address: info.client_address.clone(),
        })
        .collect()
    }
}

/// Answers, batched, until the requests have ended and all are answered.
fn answer_stream(answers: mpsc::UnboundedReceiver<(u64, Answer)>) -> impl Stream<Item = Result<ForwardResponse, Status>> + Send {
    futures::stream::unfold(answers, |mut answers| async move {
        let mut batch = Vec::with_capacity(MAX_ANSWER_BATCH);
        if answers.recv_many(&mut batch, MAX_ANSWER_BATCH).await == 0 {
            return None;
        }
        let answers_on_wire = batch.into_iter().map(|(ticket, answer)| wire::from_answer(ticket, answer)).collect();
        Some((Ok(ForwardResponse { answers: answers_on_wire }), answers))
    })
}

fn only_replicas<T>(request: &Request<T>) -> Result<(), Status> {
    let caller = caller(request)?;
    if caller.role == Role::Replica {
        return Ok(());
    }
    warn!(caller = %caller.principal, "a caller that is no replica was refused on the peer address");
    Err(Status::permission_denied(format!("{} may not call replicas: this takes the role replica", caller.principal)))
}

#[tonic::async_trait]
impl ReplicaService for PeerService {
    async fn exchange(&self, request: Request<Streaming<ExchangeRequest>>) -> Result<Response<ExchangeResponse>, Status> {
        only_replicas(&request)?;
        let mut stream = request.into_inner();
        while let Some(message) = stream.message().await? {
            self.check(&message.group_id, Some(message.to))?;
            let from = MemberId(message.from);
            if !message.from_address.is_empty() {
                let known = ToDriver::PeerAddress { id: from, address: message.from_address };
                self.handle.inner.driver.send(known).map_err(|_| Status::unavailable("this replica is stopping"))?;
            }
            if message.messages.is_empty() {
                continue;
            }
            let level = FeatureLevel(u16::try_from(message.supported_level).unwrap_or(u16::MAX));
            let messages = message.messages.into_iter().map(Vec::from).collect();
            if !self.peers.receive(from, level, messages).await {
                return Err(Status::unavailable("this replica is stopping"));
            }
        }
        Ok(Response::new(ExchangeResponse {}))
    }

    type ForwardStream = Pin<Box<dyn Stream<Item = Result<ForwardResponse, Status>> + Send>>;

    async fn forward(&self, request: Request<Streaming<ForwardRequest>>) -> Result<Response<Self::ForwardStream>, Status> {
        only_replicas(&request)?;
        let mut stream = request.into_inner();
        let first = stream.message().await?.ok_or_else(|| Status::invalid_argument("the first message names the group"))?;
        self.check(&first.group_id, Some(first.to))?;
        let (done, answers) = mpsc::unbounded_channel();
        self.take_forwarded(first, &done)?;
        let service =
            Self { me: self.me.clone(), peers: Arc::clone(&self.peers), handle: self.handle.clone(), snapshots: self.snapshots.clone() };
        // Ends with the stream: the sender of answers goes with it.
        tokio::spawn(async move {
            while let Some(Ok(request)) = stream.next().await {
                if service.take_forwarded(request, &done).is_err() {
                    return;
                }
            }
        });
        Ok(Response::new(Box::pin(answer_stream(answers))))
    }

    async fn change_group(&self, request: Request<ChangeGroupRequest>) -> Result<Response<ChangeGroupResponse>, Status> {
        only_replicas(&request)?;
        let request = request.into_inner();
        self.check(&request.group_id, None)?;
        let revision = match request.change {
            Some(WireChange::Add(member)) => self.handle.add_member(MemberId(member.id), info_of(member)).await,
            Some(WireChange::Remove(id)) => self.handle.remove_member(MemberId(id)).await,
            Some(WireChange::Transfer(to)) => self.handle.transfer((to != 0).then_some(MemberId(to))).await,
            None => return Err(Status::invalid_argument("no change is named")),
        };
        let Revision { index, incarnation } = revision.map_err(|error| to_status(&error))?;
        Ok(Response::new(ChangeGroupResponse { revision_index: index, revision_incarnation: u32::from(incarnation.0) }))
    }

    async fn join(&self, request: Request<JoinRequest>) -> Result<Response<JoinResponse>, Status> {
        let principal = caller(&request)?.principal.clone();
        only_replicas(&request)?;
        let member = request.into_inner().member.ok_or_else(|| Status::invalid_argument("no member is named"))?;
        let id = MemberId(member.id);
        info!(%principal, member = %id, peer_address = member.peer_address, "a new member asks to be let in");
        self.handle.add_member(id, info_of(member)).await.map_err(|error| to_status(&error))?;
        let members = Self::addresses(&self.handle.role().borrow().membership);
        Ok(Response::new(JoinResponse { group_id: self.me.group.clone(), members }))
    }

    async fn contacts(&self, request: Request<ContactsRequest>) -> Result<Response<ContactsResponse>, Status> {
        only_replicas(&request)?;
        self.check(&request.get_ref().group_id, None)?;
        // A replica that does not lead any more does not pass the question on: who asked hears that it is not known.
        let heard = self.handle.last_heard(false).await.ok_or_else(|| Status::unavailable("this replica does not lead"))?;
        let contacts = heard.last.into_iter().map(|(cluster, at)| ClusterContact { cluster: cluster.0, at_ms: at.0 }).collect();
        Ok(Response::new(ContactsResponse { now_ms: heard.now.0, contacts }))
    }

    async fn ask_agent(&self, request: Request<AskAgentRequest>) -> Result<Response<AskAgentResponse>, Status> {
        only_replicas(&request)?;
        let AskAgentRequest { group_id, cluster, question } = request.into_inner();
        self.check(&group_id, None)?;
        let question = v1::DiffQuestion::decode(&question[..]).map_err(|error| Status::invalid_argument(error.to_string()))?;
        let outcome = match self.handle.questions().ask(ClusterId(cluster), question).await {
            Ok(answer) => ask_agent_response::Outcome::Answer(answer.encode_to_vec().into()),
            Err(Unanswered::NotHere) => ask_agent_response::Outcome::NotHere(true),
            Err(Unanswered::Silent) => ask_agent_response::Outcome::Silent(true),
            Err(Unanswered::Busy) => ask_agent_response::Outcome::Busy(true),
        };
        Ok(Response::new(AskAgentResponse { outcome: Some(outcome) }))
    }

    type FetchSnapshotStream = Pin<Box<dyn Stream<Item = Result<FetchSnapshotResponse, Status>> + Send>>;

    async fn fetch_snapshot(&self, request: Request<FetchSnapshotRequest>) -> Result<Response<Self::FetchSnapshotStream>, Status> {
        only_replicas(&request)?;
        let request = request.into_inner();
        self.check(&request.group_id, None)?;
        let stream = transfer::serve(request, self.snapshots.clone(), self.handle.inner.driver.clone()).await?;
        Ok(Response::new(Box::pin(stream)))
    }
}

fn info_of(member: MemberAddress) -> MemberInfo {
    MemberInfo { peer_address: member.peer_address, client_address: member.client_address }
}

fn to_status(error: &SubmitError) -> Status {
    let text = error.to_string();
    match error {
        SubmitError::Overloaded { .. } => Status::resource_exhausted(text),
        SubmitError::Unknown => Status::unknown(text),
        SubmitError::Unavailable | SubmitError::Stopping => Status::unavailable(text),
        SubmitError::Refused { .. } => Status::failed_precondition(text),
    }
}

fn from_status(status: &Status) -> SubmitError {
    match status.code() {
        tonic::Code::ResourceExhausted => SubmitError::Overloaded { retry_after_ms: RETRY_AFTER_MS },
        tonic::Code::Unavailable => SubmitError::Unavailable,
        tonic::Code::FailedPrecondition => SubmitError::Refused { why: status.message().to_owned() },
        _ => SubmitError::Unknown,
    }
}

/// Asks the leader at `address` for a change of the group.
pub(super) async fn change(tls: &Tls, address: &str, group_id: String, change: Change) -> Result<Revision, SubmitError> {
    let change = match change {
        Change::Add { id, info } => {
            WireChange::Add(MemberAddress { id: id.0, peer_address: info.peer_address, client_address: info.client_address })
        }
        Change::Remove { id } => WireChange::Remove(id.0),
        Change::Transfer { to } => WireChange::Transfer(to.map_or(0, |id| id.0)),
        Change::Restore { .. } => {
            let why = "only the leader restores: ask it".to_owned();
            return Err(SubmitError::Refused { why });
        }
    };
    let mut client = connect::connect(tls, address).await.map_err(|_| SubmitError::Unavailable)?;
    let request = ChangeGroupRequest { group_id, change: Some(change), principal: String::new() };
    let response = client.change_group(request).await.map_err(|status| from_status(&status))?.into_inner();
    Ok(wire::to_revision(response.revision_index, response.revision_incarnation))
}

/// Asks the leader at `address` when agents were last heard of.
pub(super) async fn last_heard(tls: &Tls, address: &str, group_id: String) -> Option<Heard> {
    let mut client = connect::connect(tls, address).await.ok()?;
    let answer = client.contacts(ContactsRequest { group_id }).await.ok()?.into_inner();
    let last = answer.contacts.into_iter().map(|contact| (ClusterId(contact.cluster), Timestamp(contact.at_ms))).collect();
    Some(Heard { now: Timestamp(answer.now_ms), last })
}

/// Asks the replica at `address` to ask an agent. One that cannot be reached has no agent that could be asked.
pub(super) async fn ask_agent(tls: &Tls, address: &str, request: AskAgentRequest) -> Result<v1::AnswerDiffRequest, Unanswered> {
    let mut client = connect::connect(tls, address).await.map_err(|_| Unanswered::NotHere)?;
    let asked = tokio::time::timeout(ANSWER_WITHIN + CONNECT_MARGIN, client.ask_agent(request)).await;
    let outcome = asked.map_err(|_| Unanswered::Silent)?.map_err(|_| Unanswered::NotHere)?.into_inner().outcome;
    match outcome {
        Some(ask_agent_response::Outcome::Answer(answer)) => v1::AnswerDiffRequest::decode(&answer[..]).map_err(|_| Unanswered::Silent),
        Some(ask_agent_response::Outcome::Silent(_)) => Err(Unanswered::Silent),
        Some(ask_agent_response::Outcome::Busy(_)) => Err(Unanswered::Busy),
        Some(ask_agent_response::Outcome::NotHere(_)) | None => Err(Unanswered::NotHere),
    }
}

/// Why a new member was not let in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum NotLetIn {
    /// A replica answers there, and does not speak to others of its kind at that address.
    ForClients,
    /// Nobody answered, or in the member's words.
    Refused(String),
}

/// Asks a member at `address` to let this new one in; the group's identity and members.
pub(crate) async fn join(tls: &Tls, address: &str, id: MemberId, info: &MemberInfo) -> Result<JoinResponse, NotLetIn> {
    let mut client = connect::connect(tls, address).await.map_err(NotLetIn::Refused)?;
    let member = MemberAddress { id: id.0, peer_address: info.peer_address.clone(), client_address: info.client_address.clone() };
    let response = client.join(JoinRequest { member: Some(member) }).await;
    response.map(Response::into_inner).map_err(|status| match status.code() {
        tonic::Code::Unimplemented => NotLetIn::ForClients,
        code => NotLetIn::Refused(format!("{code}: {}", status.message())),
    })
}
