//! Connections over mutual TLS, as any client makes them.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};

/// How long a connection may take to come up: a busy small machine takes some hundred milliseconds for a handshake.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Who one is, and whom one trusts (PEM).
#[derive(Clone, Debug)]
pub struct Credentials {
    /// Own certificate.
    pub certificate: String,
    /// Its key.
    pub key: String,
    /// Trusted authorities.
    pub authorities: String,
    /// The name that the other side's certificate must carry.
    pub server_name: String,
}

impl Credentials {
    /// Reads three PEM files.
    ///
    /// # Errors
    /// If one cannot be read.
    pub fn read(certificate: &Path, key: &Path, authorities: &Path, server_name: &str) -> Result<Self> {
        let read = |path: &Path| std::fs::read_to_string(path).with_context(|| format!("failed to read {}", path.display()));
        Ok(Self { certificate: read(certificate)?, key: read(key)?, authorities: read(authorities)?, server_name: server_name.to_owned() })
    }

    /// A connection that is made when it is first used, and made again when it is lost.
    ///
    /// # Errors
    /// If the certificates cannot be used.
    pub fn channel(&self, address: SocketAddr) -> Result<Channel> {
        let tls = ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(&self.authorities))
            .identity(Identity::from_pem(&self.certificate, &self.key))
            .domain_name(&self.server_name);
        let endpoint = Endpoint::from_shared(format!("https://{address}")).context("an address makes a URI")?;
        let endpoint = endpoint.tls_config(tls).context("the certificates cannot be used")?;
        Ok(endpoint.connect_timeout(CONNECT_TIMEOUT).tcp_nodelay(true).connect_lazy())
    }
}
