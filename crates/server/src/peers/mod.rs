//! The other replicas: one link to each, and the service that they call.
//!
//! A link never makes the driver wait: its queue is bounded and drops the oldest Raft messages, which Raft sends again. Modules in reading
//! order: `wire` (to and from the wire), `connect` (TLS), `link` (one peer), `service` (what they call), `transfer` (snapshots).

mod wire;
pub(crate) mod connect;
mod link;
pub(crate) mod service;
mod transfer;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use prost::Message;
use roadstead_api::internal::AskAgentRequest;
use roadstead_api::v1;
use roadstead_consensus::member::{MemberId, Membership};
use roadstead_core::command::FeatureLevel;
use roadstead_core::id::{ClusterId, Revision};
use roadstead_core::request::Request;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use self::link::Link;
use crate::driver::message::{Change, ToDriver};
use crate::handle::{Heard, SubmitError};
use crate::questions::Unanswered;
use crate::snapshots::Snapshots;
use crate::tls::Tls;

/// The largest message between replicas: a Raft message carries at most one batch of entries, and an entry at most a few MiB.
pub(crate) const MAX_MESSAGE_BYTES: usize = 64 << 20;
/// Raft messages that may wait for the driver; past it, a stream is not read until some are taken.
const MAX_UNTAKEN: usize = 8192;
/// How long a link to a member that was removed is kept: it has to hear of its removal.
const FAREWELL: Duration = Duration::from_secs(30);

/// What came of a question to an agent.
type Asked = Result<v1::AnswerDiffRequest, Unanswered>;

/// What this replica says of itself to each peer.
#[derive(Clone, Debug)]
pub(crate) struct Myself {
    /// The group, as it travels.
    pub(crate) group: String,
    /// This member.
    pub(crate) id: MemberId,
    /// Where peers reach it.
    pub(crate) address: String,
    /// Highest level that this build supports.
    pub(crate) level: FeatureLevel,
}

/// The links to all other replicas.
#[derive(Debug)]
pub(crate) struct Peers {
    me: Myself,
    tls: Tls,
    driver: Sender<ToDriver>,
    runtime: tokio::runtime::Handle,
    snapshots: Snapshots,
    links: Mutex<Links>,
    untaken: AtomicUsize,
    stop: CancellationToken,
}

#[derive(Debug, Default)]
struct Links {
    members: Membership,
    open: BTreeMap<MemberId, Arc<Link>>,
}

impl Peers {
    /// No link yet. Tasks run on the runtime of the caller.
    pub(crate) fn new(me: Myself, tls: Tls, driver: Sender<ToDriver>, snapshots: Snapshots, stop: CancellationToken) -> Arc<Self> {
        let runtime = tokio::runtime::Handle::current();
        let (links, untaken) = (Mutex::default(), AtomicUsize::new(0));
        Arc::new(Self { me, tls, driver, runtime, snapshots, links, untaken, stop })
    }

    /// Keeps a link to each of these.
    pub(crate) fn set_members(self: &Arc<Self>, members: &Membership) {
        let mut links = self.lock();
        if links.members == *members {
            return;
        }
        links.members = members.clone();
        for (id, info) in members.voters.iter().chain(&members.learners) {
            self.reach(&mut links, *id, &info.peer_address);
        }
        let gone: Vec<MemberId> = links.open.keys().copied().filter(|id| !is_member(members, *id)).collect();
        drop(links);
        for id in gone {
            self.take_leave(id);
        }
    }

    /// A peer says where it is reached.
    pub(crate) fn learn_address(self: &Arc<Self>, id: MemberId, address: String) {
        self.reach(&mut self.lock(), id, &address);
    }

    fn reach(self: &Arc<Self>, links: &mut Links, id: MemberId, address: &str) {
        if id == self.me.id || address.is_empty() {
            return;
        }
        match links.open.get(&id) {
            Some(link) => link.set_address(address),
            None => {
                let link = Arc::new(Link::new(id, address, self.stop.child_token()));
                links.open.insert(id, Arc::clone(&link));
                self.runtime.spawn(link.run(self.me.clone(), self.tls.clone(), self.driver.clone()));
            }
        }
    }

    /// Ends a link after a while, unless the peer is a member again by then.
    fn take_leave(self: &Arc<Self>, id: MemberId) {
        let peers = Arc::clone(self);
        self.runtime.spawn(async move {
            tokio::select! {
                () = peers.stop.cancelled() => return,
                () = tokio::time::sleep(FAREWELL) => {}
            }
            let mut links = peers.lock();
            if !is_member(&links.members, id)
                && let Some(link) = links.open.remove(&id)
            {
                link.end();
            }
        });
    }

    /// Queues Raft messages.
    pub(crate) fn send(&self, to: MemberId, messages: Vec<Vec<u8>>) {
        let link = self.lock().open.get(&to).cloned();
        if let Some(link) = link
            && !link.send(messages)
        {
            // The driver is this thread or has stopped.
            let _ = self.driver.send(ToDriver::LinkFull(to));
        }
    }

    /// Queues requests for the leader.
    pub(crate) fn forward(&self, to: MemberId, requests: Vec<(u64, Arc<Request>)>) {
        let link = self.lock().open.get(&to).cloned();
        match link {
            Some(link) => link.forward(requests),
            None => drop(self.driver.send(ToDriver::LinkLost(to))),
        }
    }

    /// Queues what agents were heard of.
    pub(crate) fn heard(&self, to: MemberId, clusters: Vec<ClusterId>) {
        let link = self.lock().open.get(&to).cloned();
        if let Some(link) = link {
            link.heard(clusters);
        }
    }

    /// Asks the leader for a change of the group.
    pub(crate) fn change(&self, to: MemberId, change: Change, reply: oneshot::Sender<Result<Revision, SubmitError>>) {
        let address = self.address(to);
        let (tls, group) = (self.tls.clone(), self.me.group.clone());
        self.runtime.spawn(async move {
            let result = match address {
                Some(address) => service::change(&tls, &address, group, change).await,
                None => Err(SubmitError::Unavailable),
            };
            // The caller may have gone away.
            let _ = reply.send(result);
        });
    }

    /// Asks the leader when agents were last heard of.
    pub(crate) fn last_heard(&self, leader: MemberId, reply: oneshot::Sender<Option<Heard>>) {
        let address = self.address(leader);
        let (tls, group) = (self.tls.clone(), self.me.group.clone());
        self.runtime.spawn(async move {
            let heard = match address {
                Some(address) => service::last_heard(&tls, &address, group).await,
                None => None,
            };
            // The caller may have gone away.
            let _ = reply.send(heard);
        });
    }

    /// Asks every other replica to ask a cluster's agent, if it follows its intent there.
    pub(crate) fn ask_agent(&self, cluster: ClusterId, question: &v1::DiffQuestion, reply: oneshot::Sender<Asked>) {
        let addresses: Vec<String> = self.lock().open.values().map(|link| link.address()).collect();
        let (tls, group, question) = (self.tls.clone(), self.me.group.clone(), Bytes::from(question.encode_to_vec()));
        self.runtime.spawn(async move {
            let ask = |address: String| {
                let (tls, group_id, question) = (tls.clone(), group.clone(), question.clone());
                async move { service::ask_agent(&tls, &address, AskAgentRequest { group_id, cluster: cluster.0, question }).await }
            };
            let mut asked: FuturesUnordered<_> = addresses.into_iter().map(ask).collect();
            let mut worst = Unanswered::NotHere;
            while let Some(outcome) = asked.next().await {
                match outcome {
                    Err(Unanswered::NotHere) => {}
                    Err(why) => worst = why,
                    Ok(answer) => return drop(reply.send(Ok(answer))),
                }
            }
            // The caller may have gone away.
            let _ = reply.send(Err(worst));
        });
    }

    /// Fetches a snapshot from a peer, and tells the driver of its end.
    pub(crate) fn fetch_snapshot(&self, from: MemberId, term: u64, index: u64) {
        let source = transfer::Source { address: self.address(from), me: self.me.clone(), tls: self.tls.clone(), term, index };
        let (snapshots, driver, stop) = (self.snapshots.clone(), self.driver.clone(), self.stop.clone());
        self.runtime.spawn(async move {
            let message = tokio::select! {
                () = stop.cancelled() => return,
                message = transfer::fetch(source, snapshots) => message,
            };
            // The driver may have stopped.
            let _ = driver.send(message);
        });
    }

    /// Counts messages that the driver has taken.
    pub(crate) fn taken(&self, messages: usize) {
        self.untaken.fetch_sub(messages, Ordering::Relaxed);
    }

    /// Hands a peer's messages to the driver, once it has room for them; false when it has stopped.
    pub(crate) async fn receive(&self, from: MemberId, level: FeatureLevel, messages: Vec<Vec<u8>>) -> bool {
        /// The driver's rounds take about this long.
        const LOOK_AGAIN: Duration = Duration::from_millis(1);
        while self.untaken.load(Ordering::Relaxed) > MAX_UNTAKEN {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        self.untaken.fetch_add(messages.len(), Ordering::Relaxed);
        self.driver.send(ToDriver::Messages { from, level, messages }).is_ok()
    }

    fn address(&self, of: MemberId) -> Option<String> {
        self.lock().open.get(&of).map(|link| link.address())
    }

    fn lock(&self) -> MutexGuard<'_, Links> {
        self.links.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_member(members: &Membership, id: MemberId) -> bool {
    members.voters.contains_key(&id) || members.learners.contains_key(&id)
}
