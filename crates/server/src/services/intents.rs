//! What is wanted of one cluster, as a stream: first all of it, then what changes.
//!
//! It follows the shared history of what was applied only to learn which tenants to look at; what it sends is the newest state's. Of several
//! changes to a tenant only the last may be sent, and what is as it was sent last is not sent again.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use futures::Stream;
use prost::Message;
use roadstead_api::v1;
use roadstead_core::id::{ClusterId, Name, Revision, TenantId};
use roadstead_core::intent::{self, TenantIntent};
use roadstead_core::state::State;
use tokio::sync::mpsc;
use tonic::{Code, Status};

use super::context::Context;
use crate::convert::{agent, class, wire_revision};
use crate::errors::{Fault, RETRY_SOON};
use crate::handle::Handle;
use crate::watch::history::{Place, Refused, Taken};
use crate::watch::scope::{Kinds, Scope};

/// Silence after which a sign of life is sent; also how long it takes until an end of a fence elsewhere is noticed.
const SIGN_OF_LIFE: Duration = Duration::from_secs(5);
/// The largest message, about; templates of classes may make one larger, up to [`super::MAX_ANSWER_BYTES`].
const MAX_MESSAGE_BYTES: usize = 1 << 20;

/// The intent of one cluster on its way to its agent.
pub(super) struct Intents {
    handle: Handle,
    place: Place,
    cluster: ClusterId,
    name: Name,
    ready: VecDeque<v1::WatchIntentResponse>,
    /// What was sent last of each tenant, as a hash.
    sent: BTreeMap<TenantId, u64>,
    /// The classes that were sent, and when each was created: a version that was deleted may have been made anew.
    classes: BTreeMap<(Name, String), Revision>,
    /// Removals wait for a cluster that has not reported since a restore: its end changes intents of all.
    fenced: bool,
    /// What is asked of the agent.
    questions: mpsc::Receiver<v1::DiffQuestion>,
}

impl Intents {
    /// Begins with all that is wanted.
    ///
    /// # Errors
    /// When this replica cannot be followed.
    pub(super) fn begin(context: &Context, name: Name, state: Arc<State>) -> Result<Self, Fault> {
        let cluster = state.cluster(name.as_str()).map(|cluster| cluster.id).ok_or_else(gone)?;
        let scope = Scope::new(Kinds { tenants: true, clusters: true, ..Kinds::NONE }, Some(name.clone()), None);
        let place = context.history.follow(scope, state.revision(), false).map_err(|refused| match refused {
            Refused::Full => Fault::overloaded("this server has as many watchers as it bears; ask another replica", RETRY_SOON),
            Refused::Compacted { .. } | Refused::Ended => Fault::unavailable("this replica is starting or stopping; ask another one"),
        })?;
        let handle = context.handle.clone();
        let fenced = state.fenced_count() > 0;
        let (ready, sent, classes) = Default::default();
        let questions = handle.questions().listen(cluster);
        let mut intents = Self { handle, place, cluster, name, ready, sent, classes, fenced, questions };
        intents.send_all(&state);
        Ok(intents)
    }

    /// The messages.
    pub(super) fn into_stream(self) -> impl Stream<Item = Result<v1::WatchIntentResponse, Status>> + Send + 'static {
        futures::stream::unfold(Some(self), async |intents| {
            let mut intents = intents?;
            match intents.next().await {
                Ok(message) => Some((Ok(message), Some(intents))),
                Err(fault) => Some((Err(fault.into()), None)),
            }
        })
    }

    async fn next(&mut self) -> Result<v1::WatchIntentResponse, Fault> {
        loop {
            if let Some(message) = self.ready.pop_front() {
                return Ok(message);
            }
            match self.place.take() {
                Taken::Entries(entries) => {
                    let changed: BTreeSet<TenantId> = entries.iter().flat_map(|entry| entry.tenants_of(&self.name)).collect();
                    let state = self.read().await?;
                    self.send(&state, changed);
                }
                Taken::Nothing(_) => {
                    let waited = tokio::select! {
                        waited = tokio::time::timeout(SIGN_OF_LIFE, self.place.changed()) => waited,
                        Some(question) = self.questions.recv() => {
                            return Ok(v1::WatchIntentResponse { questions: vec![question], ..v1::WatchIntentResponse::default() });
                        }
                    };
                    if waited.is_err() {
                        let state = self.read().await?;
                        self.send(&state, BTreeSet::new());
                        if self.ready.is_empty() {
                            self.ready.push_back(self.whole(&state));
                        }
                    }
                }
                Taken::Compacted => return Err(Fault::new(Code::OutOfRange, "COMPACTED", "the history has moved on: begin again")),
                Taken::Ended => return Err(Fault::unavailable("this replica is stopping; ask another one")),
            }
        }
    }

    async fn read(&self) -> Result<Arc<State>, Fault> {
        let state = self.handle.read(false).await.map_err(|error| Fault::unavailable(error.to_string()))?;
        if state.cluster_by_id(self.cluster).is_none() {
            return Err(gone());
        }
        Ok(state)
    }

    /// Sends what has changed of these tenants, or all of them when a fence has come or gone.
    fn send(&mut self, state: &State, changed: BTreeSet<TenantId>) {
        let fenced = state.fenced_count() > 0;
        if std::mem::replace(&mut self.fenced, fenced) != fenced {
            return self.send_all(state);
        }
        let mut parts = Parts::default();
        for id in changed {
            let wanted =
                state.tenant_by_id(id).filter(|tenant| tenant.phase.binding().is_some_and(|binding| binding.cluster == self.cluster));
            match wanted.and_then(|tenant| intent::of_tenant(state, &tenant)) {
                Some(wanted) => self.add(&mut parts, state, &wanted),
                None if self.sent.remove(&id).is_some() => parts.gone(id),
                None => {}
            }
        }
        self.finish(parts, state);
    }

    fn send_all(&mut self, state: &State) {
        let all = intent::for_cluster(state, self.cluster);
        let named: BTreeSet<TenantId> = all.tenants.iter().map(|wanted| wanted.id).collect();
        let gone: Vec<TenantId> = self.sent.keys().filter(|id| !named.contains(id)).copied().collect();
        let mut parts = Parts::default();
        for id in gone {
            self.sent.remove(&id);
            parts.gone(id);
        }
        all.tenants.iter().for_each(|wanted| self.add(&mut parts, state, wanted));
        let first = self.sent.is_empty();
        self.finish(parts, state);
        if first && self.ready.is_empty() {
            self.ready.push_back(self.whole(state));
        }
    }

    fn add(&mut self, parts: &mut Parts, state: &State, wanted: &TenantIntent) {
        let wire = agent::wire_intent(wanted);
        let hash = hash_of(&wire.encode_to_vec());
        if self.sent.insert(wanted.id, hash) == Some(hash) {
            return;
        }
        if let Some(found) = state.class(wanted.class.as_str(), &wanted.version)
            && self.classes.insert((wanted.class.clone(), wanted.version.clone()), found.created) != Some(found.created)
        {
            parts.class(class::wire(found, 0));
        }
        parts.tenant(wire);
    }

    fn finish(&mut self, parts: Parts, state: &State) {
        let Some(mut messages) = parts.finish() else { return };
        if let Some(last) = messages.last_mut() {
            last.generation = self.whole(state).generation;
        }
        self.ready.extend(messages);
    }

    /// A message that says only that all was sent.
    fn whole(&self, state: &State) -> v1::WatchIntentResponse {
        let generation: Revision = state.generation(self.cluster);
        v1::WatchIntentResponse { generation: Some(wire_revision(generation)), ..v1::WatchIntentResponse::default() }
    }
}

/// Messages of bounded size.
#[derive(Default)]
struct Parts {
    full: Vec<v1::WatchIntentResponse>,
    part: v1::WatchIntentResponse,
    bytes: usize,
}

impl Parts {
    fn make_room(&mut self, bytes: usize) {
        if self.bytes > 0 && self.bytes + bytes > MAX_MESSAGE_BYTES {
            self.full.push(std::mem::take(&mut self.part));
            self.bytes = 0;
        }
        self.bytes += bytes;
    }

    fn class(&mut self, class: v1::Class) {
        self.make_room(class.encoded_len());
        self.part.classes.push(class);
    }

    fn tenant(&mut self, tenant: v1::TenantIntent) {
        self.make_room(tenant.encoded_len());
        self.part.tenants.push(tenant);
    }

    fn gone(&mut self, id: TenantId) {
        let uid = id.to_string();
        self.make_room(uid.len());
        self.part.gone.push(uid);
    }

    /// `None` if there is nothing to be sent.
    fn finish(mut self) -> Option<Vec<v1::WatchIntentResponse>> {
        if self.bytes == 0 {
            return None;
        }
        self.full.push(self.part);
        Some(self.full)
    }
}

fn hash_of(bytes: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    bytes.hash(&mut hasher);
    hasher.finish()
}

fn gone() -> Fault {
    Fault::new(
        Code::NotFound,
        "NOT_FOUND",
        "this cluster is not declared any more: nothing is wanted of it, and nothing is deleted for that",
    )
}
