//! Connections below gRPC: TLS as a client makes it, and bytes that no client would send.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, crypto::ring};

use crate::client::Credentials;

/// What an HTTP/2 client begins with: its preface and empty settings.
pub const GREETING: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

/// What is needed for TLS connections with these credentials.
///
/// # Errors
/// If they cannot be used.
pub fn config(credentials: &Credentials) -> Result<Arc<ClientConfig>> {
    let mut roots = RootCertStore::empty();
    for authority in CertificateDer::pem_slice_iter(credentials.authorities.as_bytes()) {
        roots.add(authority.context("an authority is no PEM")?).context("an authority is none")?;
    }
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(credentials.certificate.as_bytes()).collect();
    let key = PrivateKeyDer::from_pem_slice(credentials.key.as_bytes()).context("a key is no PEM")?;
    let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .context("TLS has versions")?
        .with_root_certificates(roots)
        .with_client_auth_cert(chain.context("a certificate is no PEM")?, key)
        .context("the certificate cannot be used")?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(Arc::new(config))
}

/// A TLS connection; whether the server takes the certificate shows when it first answers.
///
/// # Errors
/// If there is no connection, or this side does not accept the server.
pub async fn connect(address: SocketAddr, config: &Arc<ClientConfig>, server_name: &str) -> Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(address).await.with_context(|| format!("nobody listens on {address}"))?;
    let name = ServerName::try_from(server_name.to_owned()).context("a name is one")?;
    TlsConnector::from(config.clone()).connect(name, stream).await.context("the handshake failed")
}

/// A connection over which the server has said something.
///
/// # Errors
/// Why it does not.
pub async fn greet(address: SocketAddr, credentials: &Credentials) -> Result<TlsStream<TcpStream>> {
    let mut stream = connect(address, &config(credentials)?, &credentials.server_name).await?;
    stream.write_all(GREETING).await.context("the greeting was refused")?;
    stream.read_exact(&mut [0; 9]).await.context("the greeting was not answered")?;
    Ok(stream)
}
