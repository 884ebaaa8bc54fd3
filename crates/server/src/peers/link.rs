//! The link to one peer: Raft messages one way, requests and their answers, and a connection that is made again when it breaks.

use std::collections::VecDeque;
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::Stream;
use roadstead_api::internal::replica_service_client::ReplicaServiceClient;
use roadstead_api::internal::{ExchangeRequest, ForwardRequest, Forwarded};
use roadstead_consensus::member::MemberId;
use roadstead_core::codec;
use roadstead_core::id::ClusterId;
use roadstead_core::request::Request;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;
use tracing::{info, warn};

use super::{Myself, connect, wire};
use crate::driver::message::ToDriver;
use crate::tls::Tls;

/// Raft messages that wait for a slow peer; the oldest go first, and Raft sends them again when the peer is back.
const MAX_QUEUED: usize = 4096;
/// Bytes of Raft messages that wait for a slow peer.
const MAX_QUEUED_BYTES: usize = 32 << 20;
/// Bytes sent as one message, about.
const MAX_BATCH_BYTES: usize = 1 << 20;
/// Requests forwarded as one message.
const MAX_FORWARD_BATCH: usize = 512;
/// Rest before a broken connection is made again, at first and at most: a peer that restarts is met within an election time-out.
const MIN_PAUSE: Duration = Duration::from_millis(20);
/// See [`MIN_PAUSE`].
const MAX_PAUSE: Duration = Duration::from_millis(320);

/// One peer.
#[derive(Debug)]
pub(super) struct Link {
    peer: MemberId,
    address: watch::Sender<String>,
    outgoing: Mutex<Outgoing>,
    has_messages: Notify,
    has_forwards: Notify,
    end: CancellationToken,
}

#[derive(Debug, Default)]
struct Outgoing {
    messages: VecDeque<Vec<u8>>,
    bytes: usize,
    forwards: VecDeque<(u64, Arc<Request>)>,
    heard: Vec<ClusterId>,
}

impl Link {
    pub(super) fn new(peer: MemberId, address: &str, end: CancellationToken) -> Self {
        Self {
            peer,
            address: watch::Sender::new(address.to_owned()),
            outgoing: Mutex::default(),
            has_messages: Notify::new(),
            has_forwards: Notify::new(),
            end,
        }
    }

    pub(super) fn address(&self) -> String {
        self.address.borrow().clone()
    }

    pub(super) fn set_address(&self, address: &str) {
        self.address.send_if_modified(|known| {
            let differs = known != address;
            if differs {
                address.clone_into(known);
            }
            differs
        });
    }

    pub(super) fn end(&self) {
        self.end.cancel();
    }

    /// Queues messages; false if older ones had to be dropped for them.
    pub(super) fn send(&self, messages: Vec<Vec<u8>>) -> bool {
        let mut outgoing = self.lock();
        outgoing.bytes += messages.iter().map(Vec::len).sum::<usize>();
        outgoing.messages.extend(messages);
        let mut kept_all = true;
        while outgoing.messages.len() > MAX_QUEUED || outgoing.bytes > MAX_QUEUED_BYTES {
            let dropped = outgoing.messages.pop_front().map_or(0, |message| message.len());
            outgoing.bytes -= dropped;
            kept_all = false;
        }
        drop(outgoing);
        self.has_messages.notify_one();
        kept_all
    }

    /// Queues requests. They are bounded by the requests that may wait at this replica.
    pub(super) fn forward(&self, requests: Vec<(u64, Arc<Request>)>) {
        self.lock().forwards.extend(requests);
        self.has_forwards.notify_one();
    }

    pub(super) fn heard(&self, clusters: Vec<ClusterId>) {
        let mut outgoing = self.lock();
        outgoing.heard.extend(clusters);
        outgoing.heard.sort_unstable();
        outgoing.heard.dedup();
        drop(outgoing);
        self.has_forwards.notify_one();
    }

    /// Keeps the link until it is ended.
    pub(super) async fn run(self: Arc<Self>, me: Myself, tls: Tls, driver: Sender<ToDriver>) {
        let end = self.end.clone();
        tokio::select! {
            () = end.cancelled() => {}
            () = self.keep(me, tls, driver) => {}
        }
    }

    async fn keep(self: &Arc<Self>, me: Myself, tls: Tls, driver: Sender<ToDriver>) {
        let mut pause = MIN_PAUSE;
        let mut addresses = self.address.subscribe();
        let mut last_error = String::new();
        loop {
            let address = addresses.borrow_and_update().clone();
            match connect::connect(&tls, &address).await {
                Ok(client) => {
                    info!(peer = %self.peer, address, "connected to a peer");
                    pause = MIN_PAUSE;
                    let error = self.serve(client, &me, &driver, &mut addresses).await;
                    info!(peer = %self.peer, address, error, "connection to a peer ended");
                    last_error = error;
                }
                Err(error) => {
                    if error != last_error {
                        warn!(peer = %self.peer, address, error, "failed to connect to a peer; trying again");
                        last_error = error;
                    }
                }
            }
            self.forget();
            if driver.send(ToDriver::LinkLost(self.peer)).is_err() {
                return;
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(MAX_PAUSE);
        }
    }

    /// Talks on one connection until it ends; why it did.
    async fn serve(
        self: &Arc<Self>,
        mut client: ReplicaServiceClient<Channel>,
        me: &Myself,
        driver: &Sender<ToDriver>,
        addresses: &mut watch::Receiver<String>,
    ) -> String {
        let mut exchange_client = client.clone();
        let exchange = exchange_client.exchange(self.exchange_stream(me));
        let forward = self.take_answers(&mut client, me, driver);
        tokio::select! {
            ended = exchange => ended.map_or_else(|status| describe(&status), |_| "the peer ended it".to_owned()),
            ended = forward => ended,
            _ = addresses.changed() => "the peer is at another address now".to_owned(),
        }
    }

    /// Messages for the peer, as they come, batched.
    fn exchange_stream(self: &Arc<Self>, me: &Myself) -> impl Stream<Item = ExchangeRequest> + Send + 'static {
        let first = ExchangeRequest {
            group_id: me.group.clone(),
            from: me.id.0,
            to: self.peer.0,
            messages: Vec::new(),
            supported_level: u32::from(me.level.0),
            from_address: me.address.clone(),
        };
        futures::stream::unfold((Arc::clone(self), Some(first.clone())), move |(link, introduction)| {
            let base = ExchangeRequest { from_address: String::new(), ..first.clone() };
            async move {
                if let Some(introduction) = introduction {
                    return Some((introduction, (link, None)));
                }
                loop {
                    let messages = link.take_messages();
                    if !messages.is_empty() {
                        return Some((ExchangeRequest { messages, ..base }, (link, None)));
                    }
                    link.has_messages.notified().await;
                }
            }
        })
    }

    fn take_messages(&self) -> Vec<Bytes> {
        let mut outgoing = self.lock();
        let (mut taken, mut bytes) = (Vec::new(), 0);
        while bytes < MAX_BATCH_BYTES
            && let Some(message) = outgoing.messages.pop_front()
        {
            bytes += message.len();
            taken.push(Bytes::from(message));
        }
        outgoing.bytes -= bytes;
        taken
    }

    /// Requests for the leader, as they come, batched.
    fn forward_stream(self: &Arc<Self>, me: &Myself) -> impl Stream<Item = ForwardRequest> + Send + 'static {
        let first = ForwardRequest { group_id: me.group.clone(), from: me.id.0, to: self.peer.0, ..ForwardRequest::default() };
        futures::stream::unfold((Arc::clone(self), Some(first)), |(link, introduction)| async move {
            if let Some(introduction) = introduction {
                return Some((introduction, (link, None)));
            }
            loop {
                let (requests, heard) = link.take_forwards();
                if !requests.is_empty() || !heard.is_empty() {
                    return Some((ForwardRequest { requests, heard, ..ForwardRequest::default() }, (link, None)));
                }
                link.has_forwards.notified().await;
            }
        })
    }

    fn take_forwards(&self) -> (Vec<Forwarded>, Vec<u32>) {
        let mut outgoing = self.lock();
        let count = outgoing.forwards.len().min(MAX_FORWARD_BATCH);
        let taken: Vec<_> = outgoing.forwards.drain(..count).collect();
        let heard = std::mem::take(&mut outgoing.heard);
        drop(outgoing);
        let encode = |(ticket, request): (u64, Arc<Request>)| Forwarded { ticket, request: codec::encode_request(&request).into() };
        (taken.into_iter().map(encode).collect(), heard.into_iter().map(|cluster| cluster.0).collect())
    }

    /// Hands the leader's answers to the driver until the stream ends; why it did.
    async fn take_answers(self: &Arc<Self>, client: &mut ReplicaServiceClient<Channel>, me: &Myself, driver: &Sender<ToDriver>) -> String {
        let mut answers = match client.forward(self.forward_stream(me)).await {
            Ok(response) => response.into_inner(),
            Err(status) => return describe(&status),
        };
        loop {
            match answers.message().await {
                Ok(Some(response)) => {
                    let answers = response.answers.into_iter().map(wire::to_answer).collect();
                    if driver.send(ToDriver::Answers { from: self.peer, answers }).is_err() {
                        return "this replica has stopped".to_owned();
                    }
                }
                Ok(None) => return "the peer ended it".to_owned(),
                Err(status) => return describe(&status),
            }
        }
    }

    /// What waited for the connection that broke: Raft sends its messages again, the router its requests.
    fn forget(&self) {
        *self.lock() = Outgoing::default();
    }

    fn lock(&self) -> MutexGuard<'_, Outgoing> {
        self.outgoing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn describe(status: &tonic::Status) -> String {
    format!("{}: {}", status.code(), status.message())
}
