//! What can be said to the driver thread.

use std::sync::Arc;
use std::time::{Duration, Instant};

use roadstead_api::v1;
use roadstead_consensus::door::Answer;
use roadstead_consensus::member::{GroupId, MemberId, MemberInfo, Membership};
use roadstead_core::command::FeatureLevel;
use roadstead_core::id::{ClusterId, Revision};
use roadstead_core::request::Request;
use roadstead_core::state::State;
use tokio::sync::{mpsc, oneshot};

use crate::handle::{Heard, ReadError, Status, SubmitError, Submitted, Subscription};
use crate::questions::Unanswered;

/// One message to the driver.
#[derive(Debug)]
pub enum ToDriver {
    /// A caller's request.
    Request(Asked),
    /// Many.
    Requests(Vec<Asked>),
    /// A linearizable read.
    ReadFresh(Reader),
    /// A read of whatever was applied last.
    ReadNewest(Reader),
    /// A subscription to applied entries.
    Subscribe(oneshot::Sender<Subscription>),
    /// How is the replica?
    Status(oneshot::Sender<Status>),
    /// A change of the group, or a restore.
    Change(Change, oneshot::Sender<Result<Revision, SubmitError>>),
    /// Agents that were heard of.
    Heard(Vec<ClusterId>),
    /// When was each agent last heard of?
    LastHeard {
        /// Whether the leader is asked if it is another replica.
        ask_leader: bool,
        /// `None` if it is not known.
        reply: oneshot::Sender<Option<Heard>>,
    },
    /// Ask a cluster's agent, which follows its intent at another replica.
    AskAgent {
        /// Whose.
        cluster: ClusterId,
        /// What.
        question: Box<v1::DiffQuestion>,
        /// Whom to answer.
        reply: oneshot::Sender<Result<v1::AnswerDiffRequest, Unanswered>>,
    },

    /// Raft messages of a peer.
    Messages {
        /// Whose.
        from: MemberId,
        /// The highest level that its build supports.
        level: FeatureLevel,
        /// Opaque.
        messages: Vec<Vec<u8>>,
    },
    /// A peer says where it is reached (a new learner knows nobody's address).
    PeerAddress {
        /// Who.
        id: MemberId,
        /// Where.
        address: String,
    },
    /// The leader's answers to requests that were forwarded.
    Answers {
        /// Who answered.
        from: MemberId,
        /// By ticket.
        answers: Vec<(u64, Answer)>,
    },
    /// A peer cannot be reached; what was forwarded to it on the last connection has no answer any more.
    LinkLost(MemberId),
    /// A peer does not take messages as fast as they are made; some were dropped.
    LinkFull(MemberId),

    /// Everything up to this write is on disk.
    Persisted(u64),
    /// A snapshot is on disk.
    SnapshotTaken {
        /// Its index.
        index: u64,
        /// How long it took.
        took: Duration,
        /// Size of the file.
        bytes: u64,
    },
    /// A peer's snapshot is on disk and decoded.
    SnapshotInstalled {
        /// Its term.
        term: u64,
        /// Its index.
        index: u64,
        /// Members as of it.
        membership: Membership,
        /// The state.
        state: Box<State>,
    },
    /// A peer's snapshot could not be had.
    SnapshotFailed {
        /// Its term.
        term: u64,
        /// Its index.
        index: u64,
    },
    /// A peer has fetched (or given up on) a snapshot of ours.
    SnapshotDelivered {
        /// Who.
        to: MemberId,
        /// Whether it has all of it.
        ok: bool,
    },
    /// A thread that the replica cannot do without has failed: stop, with these words.
    Failed(String),
    /// Stop.
    Stop,
}

/// A request and whom to answer.
#[derive(Debug)]
pub struct Asked {
    /// The request.
    pub request: Request,
    /// When its caller stops waiting.
    pub deadline: Instant,
    /// Whom to answer.
    pub reply: Reply,
}

impl Asked {
    /// A request that must be answered within `limit`.
    #[must_use]
    pub fn new(request: Request, limit: Duration, reply: Reply) -> Self {
        Self { request, deadline: Instant::now() + limit, reply }
    }
}

/// Whom to answer.
#[derive(Debug)]
pub enum Reply {
    /// A caller that waits for this one.
    One(oneshot::Sender<Submitted>),
    /// A stream that has submitted many.
    Many {
        /// The stream's number for it.
        key: u64,
        /// Where answers go.
        done: mpsc::UnboundedSender<(u64, Submitted)>,
    },
    /// Another replica that has forwarded it: it hears the replica's own answer, and retries by itself.
    Peer {
        /// The other replica's number for it.
        ticket: u64,
        /// Where answers go.
        done: mpsc::UnboundedSender<(u64, Answer)>,
    },
}

/// Who waits for a state.
#[derive(Debug)]
pub struct Reader {
    /// Until when.
    pub deadline: Instant,
    /// Whom to answer.
    pub reply: oneshot::Sender<Result<Arc<State>, ReadError>>,
}

impl Reader {
    /// Somebody who waits for at most `limit`.
    #[must_use]
    pub fn new(limit: Duration, reply: oneshot::Sender<Result<Arc<State>, ReadError>>) -> Self {
        Self { deadline: Instant::now() + limit, reply }
    }
}

/// A change of the group.
#[derive(Clone, Debug)]
pub enum Change {
    /// Add a learner.
    Add {
        /// Who.
        id: MemberId,
        /// Where it is reached.
        info: MemberInfo,
    },
    /// Remove a member.
    Remove {
        /// Who.
        id: MemberId,
    },
    /// Hand leadership over.
    Transfer {
        /// To whom.
        to: Option<MemberId>,
    },
    /// Replace the state as a new incarnation.
    Restore {
        /// By this.
        state: Box<State>,
        /// The same, as it is written down.
        chunks: Vec<Vec<u8>>,
    },
}

/// Reads a group's identity as it travels: 32 hexadecimal digits.
#[must_use]
pub fn parse_group(text: &str) -> Option<GroupId> {
    (text.len() == 32).then(|| u128::from_str_radix(text, 16).ok().map(GroupId)).flatten()
}

/// Writes a group's identity as it travels.
#[must_use]
pub fn format_group(group: GroupId) -> String {
    format!("{:032x}", group.0)
}
