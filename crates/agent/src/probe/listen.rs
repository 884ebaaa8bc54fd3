//! What runs in the first pod: accepts connections on the three ports, and does nothing with them.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use tokio::net::TcpListener;
use tokio::task::JoinSet;

use super::{NO_EGRESS_PORT, NO_INGRESS_PORT, OPEN_PORT};

/// Accepts until it is ended.
///
/// # Errors
/// A port that cannot be bound: no port may be missing, or it would look as if it was denied.
pub async fn listen() -> io::Result<()> {
    let mut listeners = Vec::new();
    for port in [OPEN_PORT, NO_INGRESS_PORT, NO_EGRESS_PORT] {
        listeners.push(bind(port).await?);
    }
    let mut accepting = JoinSet::new();
    for listener in listeners {
        accepting.spawn(async move {
            loop {
                // Closed at once: to have been reached is all that matters.
                drop(listener.accept().await?);
            }
        });
    }
    match accepting.join_next().await {
        Some(ended) => ended.map_err(io::Error::other)?,
        None => Ok(()),
    }
}

/// On all addresses: pods have one of either family, or both.
async fn bind(port: u16) -> io::Result<TcpListener> {
    match TcpListener::bind((IpAddr::V6(Ipv6Addr::UNSPECIFIED), port)).await {
        Ok(listener) => Ok(listener),
        Err(_) => TcpListener::bind((IpAddr::V4(Ipv4Addr::UNSPECIFIED), port)).await,
    }
}
