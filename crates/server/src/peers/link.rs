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
    /// Counts connections. A stream of an earlier one may live on where its peer never closes it, and must take nothing any more: what it
    /// took would be lost, and nobody would be told.
    connection: u64,
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
        let connection = self.lock().connection;
        let mut exchange_client = client.clone();
        let exchange = exchange_client.exchange(self.exchange_stream(me, connection));
        let forward = self.take_answers(&mut client, me, connection, driver);
        tokio::select! {
            ended = exchange => ended.map_or_else(|status| describe(&status), |_| "the peer ended it".to_owned()),
            ended = forward => ended,
            _ = addresses.changed() => "the peer is at another address now".to_owned(),
        }
    }

    /// Messages for the peer, as they come, batched.
    fn exchange_stream(self: &Arc<Self>, me: &Myself, connection: u64) -> impl Stream<Item = ExchangeRequest> + Send + 'static {
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
                    let Some(messages) = link.take_messages(connection) else {
                        // It may have been woken in its successor's stead.
                        link.has_messages.notify_one();
                        return None;
                    };
                    if !messages.is_empty() {
                        return Some((ExchangeRequest { messages, ..base }, (link, None)));
                    }
                    link.has_messages.notified().await;
                }
            }
        })
    }

    /// The next messages; `None` for a connection that is no more.
    fn take_messages(&self, connection: u64) -> Option<Vec<Bytes>> {
        let mut outgoing = self.lock();
        if outgoing.connection != connection {
            return None;
        }
        let (mut taken, mut bytes) = (Vec::new(), 0);
        while bytes < MAX_BATCH_BYTES
            && let Some(message) = outgoing.messages.pop_front()
        {
            bytes += message.len();
            taken.push(Bytes::from(message));
        }
        outgoing.bytes -= bytes;
        Some(taken)
    }

    /// Requests for the leader, as they come, batched.
    fn forward_stream(self: &Arc<Self>, me: &Myself, connection: u64) -> impl Stream<Item = ForwardRequest> + Send + 'static {
        let first = ForwardRequest { group_id: me.group.clone(), from: me.id.0, to: self.peer.0, ..ForwardRequest::default() };
        futures::stream::unfold((Arc::clone(self), Some(first)), move |(link, introduction)| async move {
            if let Some(introduction) = introduction {
                return Some((introduction, (link, None)));
            }
            loop {
                let Some((requests, heard)) = link.take_forwards(connection) else {
                    link.has_forwards.notify_one();
                    return None;
                };
                if !requests.is_empty() || !heard.is_empty() {
                    return Some((ForwardRequest { requests, heard, ..ForwardRequest::default() }, (link, None)));
                }
                link.has_forwards.notified().await;
            }
        })
    }

    /// The next requests and what was heard of; `None` for a connection that is no more.
    fn take_forwards(&self, connection: u64) -> Option<(Vec<Forwarded>, Vec<u32>)> {
        let mut outgoing = self.lock();
        if outgoing.connection != connection {
            return None;
        }
        let count = outgoing.forwards.len().min(MAX_FORWARD_BATCH);
        let taken: Vec<_> = outgoing.forwards.drain(..count).collect();
        let heard = std::mem::take(&mut outgoing.heard);
        drop(outgoing);
        let encode = |(ticket, request): (u64, Arc<Request>)| Forwarded { ticket, request: codec::encode_request(&request).into() };
        Some((taken.into_iter().map(encode).collect(), heard.into_iter().map(|cluster| cluster.0).collect()))
    }

    /// Hands the leader's answers to the driver until the stream ends; why it did.
    async fn take_answers(
        self: &Arc<Self>,
        client: &mut ReplicaServiceClient<Channel>,
        me: &Myself,
        connection: u64,
        driver: &Sender<ToDriver>,
    ) -> String {
        let mut answers = match client.forward(self.forward_stream(me, connection)).await {
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
        let mut outgoing = self.lock();
        *outgoing = Outgoing { connection: outgoing.connection + 1, ..Outgoing::default() };
        drop(outgoing);
        // So that its streams end.
        self.has_messages.notify_waiters();
        self.has_forwards.notify_waiters();
    }

    fn lock(&self) -> MutexGuard<'_, Outgoing> {
        self.outgoing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn describe(status: &tonic::Status) -> String {
    format!("{}: {}", status.code(), status.message())
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::StreamExt;
    use roadstead_core::command::FIRST_LEVEL;
    use roadstead_core::id::Owner;
    use roadstead_core::request::Ask;

    fn request() -> Arc<Request> {
        Arc::new(Request { principal: Owner::new("client:test").unwrap(), retry: None, ask: Ask::WaiveFence { cluster: None } })
    }

    #[tokio::test]
    async fn a_stream_of_an_earlier_connection_takes_nothing_from_the_next_one() {
        let me = Myself { group: "g".into(), id: MemberId(1), address: "a:1".into(), level: FIRST_LEVEL };
        let link = Arc::new(Link::new(MemberId(2), "b:1", CancellationToken::new()));
        let (mut old_messages, mut old_requests) = (Box::pin(link.exchange_stream(&me, 0)), Box::pin(link.forward_stream(&me, 0)));
        assert!(old_messages.next().await.is_some() && old_requests.next().await.is_some(), "they introduce themselves");
        link.forget();
        let (mut messages, mut requests) = (Box::pin(link.exchange_stream(&me, 1)), Box::pin(link.forward_stream(&me, 1)));
        assert!(messages.next().await.is_some() && requests.next().await.is_some());
        assert!(link.send(vec![vec![7]]));
        link.forward(vec![(9, request())]);
        assert!(old_messages.next().await.is_none() && old_requests.next().await.is_none());
        assert_eq!(messages.next().await.unwrap().messages, [Bytes::from(vec![7])]);
        assert_eq!(requests.next().await.unwrap().requests[0].ticket, 9);
    }
}
