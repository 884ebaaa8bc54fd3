//! `PlaceTenants`: many placements over one stream, each acknowledged by itself, in the order of completion.
//!
//! The stream is its own bounded queue: it takes in no more than may be in flight, so that a caller that is too fast is slowed down by
//! HTTP/2's flow control, not refused. Whatever is there is taken in, submitted and answered together: no task, channel or lock per item.

use std::sync::Arc;
use std::time::Duration;

use futures::{FutureExt, Stream, StreamExt, stream};
use roadstead_api::v1;
use roadstead_api::v1::place_tenants_response::{Acknowledgement, Result as Answer};
use roadstead_core::command::{Done, Outcome};
use roadstead_core::id::{ClusterId, Revision};
use roadstead_core::request::{Ask, Request, Retry};
use roadstead_core::tenant::Binding;
use tokio::sync::mpsc;
use tonic::{Status, Streaming};

use super::context::{Context, submit_fault};
use super::placement::{Prepared, prepare};
use crate::auth::Reach;
use crate::convert::{tenant, wire_revision};
use crate::errors::{Fault, rejected, wire};
use crate::handle::{SubmitError, Submitted};
use crate::watch::ClusterNames;

/// Placements of one stream that wait for their answer: a tenth of what a replica takes, so that ten streams share it.
pub const MAX_IN_FLIGHT: usize = 2048;
/// Messages taken in, or answered, at a time.
const MAX_GATHER: usize = 256;
/// Rest when the replica has no room for what was taken in.
const ROOM_PAUSE: Duration = Duration::from_millis(2);
/// How long a stream waits for room before its items are refused.
const MAX_ROOM_PAUSES: u32 = 1000;

struct Line {
    context: Arc<Context>,
    reach: Reach,
    incoming: Streaming<v1::PlaceTenantsRequest>,
    /// Why nothing more comes in: the caller is done, or its stream broke.
    over: Option<Option<Status>>,
    done: mpsc::UnboundedSender<(u64, Submitted)>,
    answers: mpsc::UnboundedReceiver<(u64, Submitted)>,
    /// What is in flight, by key; free keys are used again.
    in_flight: Vec<Option<(u64, Retry)>>,
    free: Vec<u64>,
    names: ClusterNames,
}

/// Answers a stream of placements.
pub(super) fn run(
    context: Arc<Context>,
    reach: Reach,
    incoming: Streaming<v1::PlaceTenantsRequest>,
) -> impl Stream<Item = Result<v1::PlaceTenantsResponse, Status>> + Send {
    // Bounded by what is in flight.
    let (done, answers) = mpsc::unbounded_channel();
    let names = context.history.cluster_names();
    let line = Line { context, reach, incoming, over: None, done, answers, in_flight: Vec::new(), free: Vec::new(), names };
    let batches = stream::unfold(Some(line), |line| async move {
        let mut line = line?;
        match line.step().await {
            Some(answers) => Some((answers, Some(line))),
            None => line.over.flatten().map(|status| (vec![Err(status)], None)),
        }
    });
    batches.flat_map(stream::iter)
}

impl Line {
    /// The next answers; `None` when the stream is over and everything was answered.
    async fn step(&mut self) -> Option<Vec<Result<v1::PlaceTenantsResponse, Status>>> {
        let stopping = self.context.handle.stopping();
        loop {
            let waiting = self.in_flight.len() - self.free.len();
            if self.over.is_some() && waiting == 0 {
                return None;
            }
            let mut finished = Vec::new();
            tokio::select! {
                biased;
                count = self.answers.recv_many(&mut finished, MAX_GATHER), if waiting > 0 => {
                    debug_assert!(count > 0, "this end holds a sender, so the channel stays open");
                    return Some(self.answer(finished).await);
                }
                message = self.incoming.next(), if self.over.is_none() && waiting < MAX_IN_FLIGHT => {
                    let refused = self.take_in(message, MAX_IN_FLIGHT - waiting).await;
                    if !refused.is_empty() {
                        return Some(refused);
                    }
                }
                () = stopping.cancelled(), if self.over.is_none() => {
                    self.over = Some(Some(Fault::unavailable("this replica is stopping; go on at another one").into()));
                }
            }
        }
    }

    /// Takes in what is there, and submits it together; answers what is refused right away.
    async fn take_in(
        &mut self,
        first: Option<Result<v1::PlaceTenantsRequest, Status>>,
        room: usize,
    ) -> Vec<Result<v1::PlaceTenantsResponse, Status>> {
        let mut refused = Vec::new();
        let mut batch = Vec::new();
        let mut next = Some(first);
        while let Some(message) = next {
            match message {
                Some(Ok(message)) => {
                    let sequence = message.sequence;
                    match self.prepare(message).await {
                        Ok((retry, request)) => batch.push((self.key(sequence, retry), request)),
                        Err(fault) => refused.push(Ok(error(sequence, fault))),
                    }
                }
                Some(Err(status)) => self.over = Some(Some(wire(&status).into())),
                None => self.over = Some(None),
            }
            let more = self.over.is_none() && batch.len() < room.min(MAX_GATHER) && refused.len() < MAX_GATHER;
            next = if more { self.incoming.next().now_or_never() } else { None };
        }
        if !batch.is_empty() {
            refused.extend(self.submit(batch).await);
        }
        refused
    }

    async fn prepare(&self, message: v1::PlaceTenantsRequest) -> Result<(Retry, Request), Fault> {
        let place = message.place.ok_or_else(|| Fault::invalid("place", "must be given"))?;
        if place.dry_run {
            return Err(Fault::invalid("place.dry_run", "is not allowed in a stream; use PlaceTenant or SimulatePlacement"));
        }
        let Prepared { retry, spec, wait, .. } = prepare(&self.reach, place)?;
        match self.context.check_known_values(&spec) {
            Some(checked) => checked?,
            None => self.context.check_values(&spec).await?,
        }
        let principal = self.reach.caller().principal.clone();
        Ok((retry, Request { principal, retry: Some(retry), ask: Ask::PlaceTenant { spec, wait } }))
    }

    fn key(&mut self, sequence: u64, retry: Retry) -> u64 {
        let item = Some((sequence, retry));
        if let Some(key) = self.free.pop() {
            self.in_flight[place(key)] = item;
            return key;
        }
        self.in_flight.push(item);
        self.in_flight.len() as u64 - 1
    }

    fn finish(&mut self, key: u64) -> (u64, Retry) {
        self.free.push(key);
        self.in_flight[place(key)].take().expect("a key is answered once")
    }

    /// Submits a batch once there is room for it.
    async fn submit(&mut self, batch: Vec<(u64, Request)>) -> Vec<Result<v1::PlaceTenantsResponse, Status>> {
        let mut pauses = 0;
        while self.context.handle.room() < batch.len() && pauses < MAX_ROOM_PAUSES {
            tokio::time::sleep(ROOM_PAUSE).await;
            pauses += 1;
        }
        let keys: Vec<u64> = batch.iter().map(|(key, _)| *key).collect();
        match self.context.handle.submit_batch(batch, &self.done) {
            Ok(()) => Vec::new(),
            Err(refusal) => keys.into_iter().map(|key| Ok(self.unsubmitted(key, &refusal))).collect(),
        }
    }

    fn unsubmitted(&mut self, key: u64, refusal: &SubmitError) -> v1::PlaceTenantsResponse {
        let (sequence, retry) = self.finish(key);
        error(sequence, submit_fault(refusal, Some(retry)))
    }

    async fn answer(&mut self, finished: Vec<(u64, Submitted)>) -> Vec<Result<v1::PlaceTenantsResponse, Status>> {
        self.learn_names(&finished).await;
        let mut answers = Vec::with_capacity(finished.len());
        for (key, submitted) in finished {
            answers.push(Ok(self.answer_one(key, submitted).await));
        }
        answers
    }

    async fn answer_one(&mut self, key: u64, submitted: Submitted) -> v1::PlaceTenantsResponse {
        let (sequence, retry) = self.finish(key);
        let names = &self.names;
        let name = |id: ClusterId| names.get(&id).map_or_else(|| format!("#{}", id.0), ToString::to_string);
        match submitted {
            Ok((Outcome::Done(done), revision)) => {
                let revision = self.context.revision_of(&done, revision).await;
                let result = Some(Answer::Acknowledgement(acknowledgement(&done, revision, &name)));
                v1::PlaceTenantsResponse { sequence, result }
            }
            Ok((Outcome::Rejected(rejection), _)) => error(sequence, rejected(&rejection, &name)),
            Err(refusal) => error(sequence, submit_fault(&refusal, Some(retry))),
        }
    }

    /// Makes sure that clusters which came into being after this stream are known by name.
    async fn learn_names(&mut self, finished: &[(u64, Submitted)]) {
        let unknown = |names: &ClusterNames| {
            finished.iter().any(|(_, submitted)| match submitted {
                Ok((Outcome::Done(Done::Placed { cluster, .. }), _)) => !names.contains_key(cluster),
                Ok(_) | Err(_) => false,
            })
        };
        if unknown(&self.names) {
            self.names = self.context.history.cluster_names();
        }
        if unknown(&self.names)
            && let Ok(state) = self.context.state(true).await
        {
            self.names = Arc::new(state.clusters().map(|cluster| (cluster.id, cluster.spec.name.clone())).collect());
        }
    }
}

fn place(key: u64) -> usize {
    usize::try_from(key).expect("keys are positions")
}

fn acknowledgement(done: &Done, revision: Revision, name: &dyn Fn(ClusterId) -> String) -> Acknowledgement {
    let revision = Some(wire_revision(revision));
    match *done {
        Done::Placed { id, cluster, shard, epoch } => {
            let binding = Some(tenant::wire_binding(&Binding { cluster, shard, epoch }, name));
            Acknowledgement { uid: id.to_string(), phase: v1::Phase::Placed.into(), binding, revision }
        }
        Done::Pending { id } => Acknowledgement { uid: id.to_string(), phase: v1::Phase::Pending.into(), binding: None, revision },
        Done::Changed { .. } => Acknowledgement { uid: String::new(), phase: v1::Phase::Unspecified.into(), binding: None, revision },
    }
}

fn error(sequence: u64, fault: Fault) -> v1::PlaceTenantsResponse {
    v1::PlaceTenantsResponse { sequence, result: Some(Answer::Error(fault.into_place_error())) }
}
