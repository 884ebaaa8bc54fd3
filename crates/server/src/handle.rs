//! What the services know of their replica: a cloneable handle that submits, reads, subscribes and changes the group.
//!
//! It knows no Raft: whether this replica leads, and who else does, is sorted out by the driver thread behind it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use roadstead_api::v1;
use roadstead_consensus::door::{Progress, Role};
use roadstead_consensus::member::{GroupId, MemberId, MemberInfo};
use roadstead_core::apply::Applied;
use roadstead_core::codec;
use roadstead_core::command::Outcome;
use roadstead_core::id::{ClusterId, Revision};
use roadstead_core::request::Request;
use roadstead_core::state::State;
use roadstead_core::time::Timestamp;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use crate::driver::message::{Asked, Change, Reader, Reply, ToDriver};
use crate::questions::{Questions, Unanswered};

/// How long a submission may take before its caller hears `Unknown` or `Unavailable`, unless it names a deadline itself: longer than any
/// election, shorter than people wait.
pub const SUBMIT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a read may take: as for a submission.
pub const READ_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the leader may take to say when agents were last heard of: an answer that has all the rest does not wait longer for that.
const CONTACTS_TIMEOUT: Duration = Duration::from_millis(500);
/// Requests that may wait or be in flight at one replica before new ones are refused: about 0.2 s of work at the promised rate.
pub const MAX_WAITING: usize = 20_000;
/// What a refused caller is told to wait: about the time in which half of a full queue is worked off.
pub const RETRY_AFTER_MS: u64 = 100;
/// Applied entries that a subscriber may be behind before it is cut off: some seconds of full load.
pub const MAX_SUBSCRIBER_LAG: usize = 4096;

/// What a submission came to, if it was decided.
pub type Submitted = Result<(Outcome, Revision), SubmitError>;

/// Why a submission has no outcome.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SubmitError {
    /// Too much waits already; nothing was done.
    #[error("too many requests are waiting; try again in {retry_after_ms} ms")]
    Overloaded {
        /// When to try again.
        retry_after_ms: u64,
    },
    /// It may have been done: ask again with the same request id.
    #[error("whether it was done is unknown: ask again with the same request id")]
    Unknown,
    /// There is no leader; nothing was done.
    #[error("the placement service has no leader at the moment; nothing was done")]
    Unavailable,
    /// It cannot be done; plain words.
    #[error("{why}")]
    Refused {
        /// Why.
        why: String,
    },
    /// This replica is shutting down; nothing was done.
    #[error("this replica is stopping; ask another one")]
    Stopping,
}

/// Why a read has no state.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// No leader confirmed it in time.
    #[error("the placement service has no leader at the moment; a stale read needs none")]
    Unavailable,
    /// This replica is shutting down.
    #[error("this replica is stopping; ask another one")]
    Stopping,
}

/// One applied entry, as watchers get it.
#[derive(Clone, Debug)]
pub struct AppliedEntry {
    /// Its index.
    pub index: u64,
    /// Replicated time.
    pub time: Timestamp,
    /// What it did.
    pub applied: Arc<Applied>,
}

/// The applied entries from a frozen copy on, in order and without a gap.
///
/// The channel ends when its reader fell [`MAX_SUBSCRIBER_LAG`] entries behind, or when the state was replaced as a whole (a snapshot, a
/// restore): subscribe again, and begin from the new copy.
#[derive(Debug)]
pub struct Subscription {
    /// What the first entry follows on.
    pub state: Arc<State>,
    /// The entries after it.
    pub entries: mpsc::Receiver<Arc<AppliedEntry>>,
}

/// When agents were last heard of in the present leader's term, in replicated time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Heard {
    /// When it was asked.
    pub now: Timestamp,
    /// By cluster; who is not in here has not been heard of in this term.
    pub last: BTreeMap<ClusterId, Timestamp>,
}

/// How this replica is.
#[derive(Clone, Debug)]
pub struct Status {
    /// Of the group.
    pub group: GroupId,
    /// Of this member.
    pub id: MemberId,
    /// Leadership and members.
    pub role: Role,
    /// What it has applied.
    pub applied: Revision,
    /// Last committed index that it knows.
    pub committed: u64,
    /// `sled` or `redb`.
    pub log_backend: &'static str,
    /// What the leader knows of each member; empty elsewhere.
    pub progress: Vec<Progress>,
}

/// A replica, as its services know it.
#[derive(Clone, Debug)]
pub struct Handle {
    pub(crate) inner: Arc<Inner>,
}

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) driver: std::sync::mpsc::Sender<ToDriver>,
    pub(crate) waiting: Arc<AtomicUsize>,
    pub(crate) role: watch::Receiver<Role>,
    pub(crate) stopping: CancellationToken,
    pub(crate) group: GroupId,
    pub(crate) id: MemberId,
    pub(crate) scratch: std::path::PathBuf,
    pub(crate) questions: Questions,
}

impl Handle {
    /// Submits a request to the leader, wherever it is, and waits for its outcome.
    ///
    /// # Errors
    /// [`SubmitError`]; after `Unknown` the caller asks again with the same request id. A request that carries one is asked again from
    /// here, within [`SUBMIT_TIMEOUT`].
    pub async fn submit(&self, request: Request) -> Submitted {
        self.submit_within(request, SUBMIT_TIMEOUT).await
    }

    /// Submits with a time limit of the caller's own.
    ///
    /// # Errors
    /// As [`Self::submit`].
    pub async fn submit_within(&self, request: Request, limit: Duration) -> Submitted {
        let (reply, answer) = oneshot::channel();
        self.admit(1)?;
        self.tell(ToDriver::Request(Asked::new(request, limit, Reply::One(reply))), 1)?;
        answer.await.unwrap_or(Err(SubmitError::Unknown))
    }

    /// Submits many requests at once; each is answered by itself on `done`, under the key that it came with, in any order.
    ///
    /// This is what a stream uses: one message to the driver for many requests, and no task or channel per request. At most as many answers
    /// wait in `done` as requests were submitted.
    ///
    /// # Errors
    /// [`SubmitError::Overloaded`] or [`SubmitError::Stopping`]: none of them was taken.
    pub fn submit_batch(
        &self,
        requests: impl IntoIterator<Item = (u64, Request)>,
        done: &mpsc::UnboundedSender<(u64, Submitted)>,
    ) -> Result<(), SubmitError> {
        let asked: Vec<Asked> = requests
            .into_iter()
            .map(|(key, request)| Asked::new(request, SUBMIT_TIMEOUT, Reply::Many { key, done: done.clone() }))
            .collect();
        let count = asked.len();
        self.admit(count)?;
        self.tell(ToDriver::Requests(asked), count)
    }

    /// How many more requests would be taken at the moment. For streams, which wait for room instead of being refused.
    #[must_use]
    pub fn room(&self) -> usize {
        MAX_WAITING.saturating_sub(self.inner.waiting.load(Ordering::Relaxed))
    }

    /// A frozen copy of the state: `fresh` is linearizable (from any replica), else the newest that this replica has applied.
    ///
    /// Everybody who waits at the same time gets the same copy.
    ///
    /// # Errors
    /// [`ReadError`].
    pub async fn read(&self, fresh: bool) -> Result<Arc<State>, ReadError> {
        let (reply, state) = oneshot::channel();
        let reader = Reader::new(READ_TIMEOUT, reply);
        let message = if fresh { ToDriver::ReadFresh(reader) } else { ToDriver::ReadNewest(reader) };
        self.inner.driver.send(message).map_err(|_| ReadError::Stopping)?;
        state.await.unwrap_or(Err(ReadError::Stopping))
    }

    /// The applied entries from now on, and the state that they follow on.
    ///
    /// # Errors
    /// [`ReadError::Stopping`].
    pub async fn subscribe(&self) -> Result<Subscription, ReadError> {
        let (reply, subscription) = oneshot::channel();
        self.inner.driver.send(ToDriver::Subscribe(reply)).map_err(|_| ReadError::Stopping)?;
        subscription.await.map_err(|_| ReadError::Stopping)
    }

    /// Leadership and members, as they change.
    #[must_use]
    pub fn role(&self) -> watch::Receiver<Role> {
        self.inner.role.clone()
    }

    /// The identity of the group.
    #[must_use]
    pub fn group(&self) -> GroupId {
        self.inner.group
    }

    /// This member.
    #[must_use]
    pub fn id(&self) -> MemberId {
        self.inner.id
    }

    /// Where backups are on their way in and out.
    pub(crate) fn scratch_folder(&self) -> &std::path::Path {
        &self.inner.scratch
    }

    /// Cancelled when the replica begins to stop: streams that would not end by themselves end then, with `UNAVAILABLE`.
    #[must_use]
    pub fn stopping(&self) -> CancellationToken {
        self.inner.stopping.clone()
    }

    /// How this replica is.
    ///
    /// # Errors
    /// [`ReadError::Stopping`].
    pub async fn status(&self) -> Result<Status, ReadError> {
        let (reply, status) = oneshot::channel();
        self.inner.driver.send(ToDriver::Status(reply)).map_err(|_| ReadError::Stopping)?;
        status.await.map_err(|_| ReadError::Stopping)
    }

    /// Adds a member as a learner; the leader promotes it once it has caught up.
    ///
    /// # Errors
    /// [`SubmitError`].
    pub async fn add_member(&self, id: MemberId, info: MemberInfo) -> Result<Revision, SubmitError> {
        self.change(Change::Add { id, info }).await
    }

    /// Removes a member.
    ///
    /// # Errors
    /// [`SubmitError`].
    pub async fn remove_member(&self, id: MemberId) -> Result<Revision, SubmitError> {
        self.change(Change::Remove { id }).await
    }

    /// Hands leadership over, to the most caught-up voter if nobody is named.
    ///
    /// # Errors
    /// [`SubmitError`].
    pub async fn transfer(&self, to: Option<MemberId>) -> Result<Revision, SubmitError> {
        self.change(Change::Transfer { to }).await
    }

    /// Replaces the whole state by a decoded backup, as a new incarnation. Only the leader does it.
    ///
    /// # Errors
    /// [`SubmitError::Refused`] on another replica than the leader.
    pub async fn restore(&self, state: Box<State>) -> Result<Revision, SubmitError> {
        let encoded = tokio::task::spawn_blocking(move || {
            let chunks = codec::snapshot(&state).collect();
            Change::Restore { state, chunks }
        });
        self.change(encoded.await.map_err(|_| SubmitError::Stopping)?).await
    }

    /// Says that a cluster's agent was heard of; its report changed nothing that is replicated.
    pub fn heard(&self, cluster: ClusterId) {
        // A replica that stops has no use for it.
        let _ = self.inner.driver.send(ToDriver::Heard(vec![cluster]));
    }

    /// When agents were last heard of: as this replica knows it if it leads, else, if it may ask, as the leader does. `None` is unknown.
    pub async fn last_heard(&self, ask_leader: bool) -> Option<Heard> {
        let (reply, heard) = oneshot::channel();
        self.inner.driver.send(ToDriver::LastHeard { ask_leader, reply }).ok()?;
        tokio::time::timeout(CONTACTS_TIMEOUT, heard).await.ok()?.ok()?
    }

    /// Questions to the agents that follow their intents here.
    pub(crate) fn questions(&self) -> &Questions {
        &self.inner.questions
    }

    /// Asks a cluster's agent, at whatever replica it follows its intent.
    ///
    /// # Errors
    /// Why there is no answer.
    pub async fn ask_agent(&self, cluster: ClusterId, question: v1::DiffQuestion) -> Result<v1::AnswerDiffRequest, Unanswered> {
        match self.inner.questions.ask(cluster, question.clone()).await {
            Err(Unanswered::NotHere) => {}
            asked => return asked,
        }
        let (reply, answer) = oneshot::channel();
        let ask = ToDriver::AskAgent { cluster, question: Box::new(question), reply };
        self.inner.driver.send(ask).map_err(|_| Unanswered::NotHere)?;
        answer.await.unwrap_or(Err(Unanswered::NotHere))
    }

    async fn change(&self, change: Change) -> Result<Revision, SubmitError> {
        let (reply, done) = oneshot::channel();
        self.inner.driver.send(ToDriver::Change(change, reply)).map_err(|_| SubmitError::Stopping)?;
        done.await.unwrap_or(Err(SubmitError::Unknown))
    }

    /// Counts `count` more requests as waiting, unless that is too many. The driver counts them off as it answers.
    fn admit(&self, count: usize) -> Result<(), SubmitError> {
        if self.inner.stopping.is_cancelled() {
            return Err(SubmitError::Stopping);
        }
        let before = self.inner.waiting.fetch_add(count, Ordering::Relaxed);
        if before + count > MAX_WAITING {
            self.inner.waiting.fetch_sub(count, Ordering::Relaxed);
            return Err(SubmitError::Overloaded { retry_after_ms: RETRY_AFTER_MS });
        }
        Ok(())
    }

    fn tell(&self, message: ToDriver, count: usize) -> Result<(), SubmitError> {
        self.inner.driver.send(message).map_err(|_| {
            self.inner.waiting.fetch_sub(count, Ordering::Relaxed);
            SubmitError::Stopping
        })
    }
}
