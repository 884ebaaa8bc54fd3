//! Plain HTTP as a probe speaks it: one GET, one answer.

use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// The body of a successful answer.
///
/// # Errors
/// If there is none, or its status is not 200.
pub async fn get(address: SocketAddr, path: &str) -> Result<String> {
    let mut stream = TcpStream::connect(address).await.with_context(|| format!("nobody listens on {address}"))?;
    let request = format!("GET {path} HTTP/1.0\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.context("failed to send a request")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.context("failed to read an answer")?;
    let (head, body) = answer.split_once("\r\n\r\n").context("an answer has no body")?;
    let status = head.split_whitespace().nth(1).unwrap_or_default();
    ensure!(status == "200", "{path} answers {status}: {body}");
    Ok(body.to_owned())
}
