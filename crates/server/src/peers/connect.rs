//! Connections to other replicas: TCP and TLS with the certificates in use at the time.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::transport::{Channel, Endpoint};

use super::MAX_MESSAGE_BYTES;
use crate::identity::{Caller, REPLICA_DNS_NAME, Role};
use crate::tls::Tls;
use roadstead_api::internal::replica_service_client::ReplicaServiceClient;

/// How long TCP and TLS may take: a stopped process accepts a connection in its kernel and never shakes hands.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(1500);
/// How often a connection with open streams is pinged.
const PING_EVERY: Duration = Duration::from_millis(500);
/// How long a ping may go unanswered before the connection is given up: several elections, so that only the dead are taken for dead.
const PING_TIMEOUT: Duration = Duration::from_secs(2);
/// Bytes on their way on one stream and one connection: a batch of entries for a follower that is a round trip away.
const WINDOW_BYTES: u32 = 4 << 20;

/// Connects to the replica at `address`.
pub(crate) async fn connect(tls: &Tls, address: &str) -> Result<ReplicaServiceClient<Channel>, String> {
    let channel = tokio::time::timeout(CONNECT_TIMEOUT, channel(tls, address)).await;
    let channel = channel.map_err(|_| format!("no answer within {} ms", CONNECT_TIMEOUT.as_millis()))??;
    Ok(ReplicaServiceClient::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES).max_encoding_message_size(MAX_MESSAGE_BYTES))
}

async fn channel(tls: &Tls, address: &str) -> Result<Channel, String> {
    // The connector below speaks TLS: to tonic it is a plain connection.
    let endpoint = Endpoint::from_shared(format!("http://{address}")).map_err(|error| format!("{address:?}: {error}"))?;
    let endpoint = endpoint
        .http2_keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_TIMEOUT)
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES);
    let stream = open(tls, address).await.map_err(|error| error.to_string())?;
    // One connection, made already: a second one is asked for only after this one broke, and then the link makes a new channel.
    let mut stream = Some(TokioIo::new(stream));
    let connector = tower::service_fn(move |_| {
        let stream = stream.take().ok_or_else(|| io::Error::new(io::ErrorKind::NotConnected, "the connection broke"));
        std::future::ready(stream)
    });
    endpoint.connect_with_connector(connector).await.map_err(|error| error.to_string())
}

async fn open(tls: &Tls, address: &str) -> io::Result<TlsStream<TcpStream>> {
    let tcp = TcpStream::connect(address).await?;
    tcp.set_nodelay(true)?;
    let name = ServerName::try_from(REPLICA_DNS_NAME).expect("a constant DNS name");
    let stream = TlsConnector::from(Arc::clone(&tls.current().client)).connect(name, tcp).await?;
    match Caller::from_chain(stream.get_ref().1.peer_certificates().unwrap_or_default()) {
        Ok(caller) if caller.role == Role::Replica => Ok(stream),
        Ok(caller) => Err(io::Error::other(format!("{} answers there, not a replica", caller.principal))),
        Err(error) => Err(io::Error::other(error)),
    }
}
