//! Certificates: loading, checking, and changing them while connections go on.
//!
//! Files are compared by content; a set that cannot be used leaves the one in use as it is. Sessions are never resumed: resuming would skip
//! the check of the certificate, and with it a revocation. What a certificate's holder may do is none of its business.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::client::WebPkiServerVerifier;
use rustls::crypto::CryptoProvider;
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer, UnixTime};
use tokio::sync::watch;
use tracing::{error, info, warn};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::identity::{Caller, IdentityError, Role, is_issuer};

/// What is agreed in the TLS handshake.
const ALPN_H2: &[u8] = b"h2";
/// The largest certificate, key or revocation file that is read: 10,000 revoked serials take about 400 KiB.
const MAX_FILE_BYTES: u64 = 16 << 20;
/// A certificate of ours that ends within this time is warned of at each reload that finds it.
const EXPIRY_WARNING: Duration = Duration::from_secs(7 * 24 * 3600);

/// Where certificates are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// Our certificate, and intermediates after it (PEM).
    pub certificate: PathBuf,
    /// Its key (PEM).
    pub key: PathBuf,
    /// Authorities that are trusted (PEM, one or several: during a change of authority both).
    pub authorities: PathBuf,
    /// Revoked certificates (PEM, one list per authority); `None` or a missing file is none.
    pub revocations: Option<PathBuf>,
}

/// Why certificates cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("failed to read {path}: {source}")]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file does not contain what it should.
    #[error("{path}: {what}")]
    Content {
        /// Which.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// The parts do not fit together.
    #[error("the certificates cannot be used: {what}")]
    Unusable {
        /// Why.
        what: String,
    },
}

/// One usable set of certificates.
#[derive(Debug)]
pub struct Material {
    /// For connections that are accepted from who shows a certificate.
    pub server: Arc<ServerConfig>,
    /// For connections that are accepted from anybody.
    pub open: Arc<ServerConfig>,
    /// For connections that are made.
    pub client: Arc<ClientConfig>,
    verifier: Arc<dyn ClientCertVerifier>,
    /// When our own certificate ends, in seconds since 1970.
    pub not_after_unix_s: i64,
    /// Whom our own certificate names.
    own: Result<Caller, IdentityError>,
    content: blake3::Hash,
}

impl Material {
    /// Loads a set.
    ///
    /// # Errors
    /// A [`TlsError`] that says which file is wrong and how.
    pub fn load(files: &TlsFiles) -> Result<Self, TlsError> {
        Self::build(files, &Contents::read(files)?)
    }

    fn build(files: &TlsFiles, contents: &Contents) -> Result<Self, TlsError> {
        let provider = provider();
        let chain = certificates(&files.certificate, &contents.certificate)?;
        let key = PrivateKeyDer::from_pem_slice(&contents.key)
            .map_err(|error| TlsError::Content { path: files.key.clone(), what: format!("no usable key: {error:?}") })?;
        let roots = Arc::new(roots(&files.authorities, &contents.authorities)?);
        let crls = revocations(files, contents)?;
        let not_after_unix_s = end_of_own(&files.certificate, &chain)?;
        let own = chain.first().ok_or(IdentityError::NoRole).and_then(|leaf| Caller::from_certificate(leaf));
        let unusable = |what: &dyn std::fmt::Display| TlsError::Unusable { what: what.to_string() };

        // An issuer above the caller's certificate may be revoked, too.
        let verifier = || {
            WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(&provider))
                .with_crls(crls.iter().cloned())
                .allow_unknown_revocation_status()
        };
        let open = verifier().allow_unauthenticated().build().map_err(|error| unusable(&error))?;
        let verifier = verifier().build().map_err(|error| unusable(&error))?;
        let versions = |error: rustls::Error| unusable(&error);
        let server = |verifier: &Arc<dyn ClientCertVerifier>| {
            let mut server = ServerConfig::builder_with_provider(Arc::clone(&provider))
                .with_safe_default_protocol_versions()
                .map_err(versions)?
                .with_client_cert_verifier(Arc::clone(verifier))
                .with_single_cert(chain.clone(), key.clone_key())
                .map_err(|error| unusable(&error))?;
            server.alpn_protocols = vec![ALPN_H2.to_vec()];
            server.session_storage = Arc::new(NoServerSessionStorage {});
            server.send_tls13_tickets = 0;
            Ok::<_, TlsError>(Arc::new(server))
        };
        let (server, open) = (server(&verifier)?, server(&open)?);

        let server_verifier = WebPkiServerVerifier::builder_with_provider(roots, Arc::clone(&provider))
            .with_crls(crls)
            .only_check_end_entity_revocation()
            .allow_unknown_revocation_status()
            .build()
            .map_err(|error| unusable(&error))?;
        let mut client = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(versions)?
            .with_webpki_verifier(server_verifier)
            .with_client_auth_cert(chain, key)
            .map_err(|error| unusable(&error))?;
        client.alpn_protocols = vec![ALPN_H2.to_vec()];
        client.resumption = rustls::client::Resumption::disabled();
        Ok(Self { server, open, client: Arc::new(client), verifier, not_after_unix_s, own, content: contents.hash() })
    }

    /// Whether our own certificate makes us a replica: clients and peers refuse to talk to anybody else.
    ///
    /// # Errors
    /// [`TlsError::Unusable`] with what it is instead.
    pub fn check_replica(&self) -> Result<(), TlsError> {
        let what = match &self.own {
            Ok(caller) if caller.role == Role::Replica => return Ok(()),
            Ok(caller) => {
                format!("this one is of role {}; a replica needs one of role replica (`roadstead pki issue replica NAME`)", caller.role)
            }
            Err(error) => error.to_string(),
        };
        Err(TlsError::Unusable { what })
    }

    /// Whether a caller's certificate (and intermediates after it) would be accepted now.
    ///
    /// # Errors
    /// Plain words why not.
    pub fn check(&self, chain: &[CertificateDer<'_>]) -> Result<(), String> {
        let (leaf, intermediates) = chain.split_first().ok_or("no certificate")?;
        match self.verifier.verify_client_cert(leaf, intermediates, UnixTime::now()) {
            Ok(_) => Ok(()),
            Err(error) => Err(error.to_string()),
        }
    }
}

/// The set in use, replaced when the files change.
#[derive(Clone, Debug)]
pub struct Tls {
    files: TlsFiles,
    current: watch::Sender<Arc<Material>>,
}

impl Tls {
    /// Loads the files; refuses a certificate of ours that has ended.
    ///
    /// # Errors
    /// A [`TlsError`].
    pub fn load(files: TlsFiles) -> Result<Self, TlsError> {
        let material = Material::load(&files)?;
        if material.not_after_unix_s <= unix_now_s() {
            let what = "this certificate has expired: renew it, then start again".to_owned();
            return Err(TlsError::Content { path: files.certificate, what });
        }
        warn_of_expiry(&material);
        Ok(Self { files, current: watch::Sender::new(Arc::new(material)) })
    }

    /// What is in use now.
    #[must_use]
    pub fn current(&self) -> Arc<Material> {
        Arc::clone(&self.current.borrow())
    }

    /// The file of the authorities that are trusted.
    #[must_use]
    pub fn authorities(&self) -> &Path {
        &self.files.authorities
    }

    /// Changes of what is in use.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<Arc<Material>> {
        self.current.subscribe()
    }

    /// Reads the files again, and uses them if their content has changed and can be used. Says whether it changed.
    ///
    /// # Errors
    /// A [`TlsError`]; what was in use stays in use.
    pub fn reload(&self) -> Result<bool, TlsError> {
        let contents = Contents::read(&self.files)?;
        if contents.hash() == self.current().content {
            return Ok(false);
        }
        let material = Material::build(&self.files, &contents)?;
        warn_of_expiry(&material);
        self.current.send_replace(Arc::new(material));
        Ok(true)
    }

    /// Compares the files every so often, until dropped.
    pub async fn watch_files(self, every: Duration) {
        let mut last_error = None;
        loop {
            tokio::time::sleep(every).await;
            let tls = self.clone();
            let result = tokio::task::spawn_blocking(move || tls.reload()).await;
            let Ok(result) = result else { return };
            match result {
                Ok(true) => info!(certificate = %self.files.certificate.display(), "certificates reloaded"),
                Ok(false) => {}
                Err(error) => {
                    // Said once for each cause: a file half written is whole at the next look.
                    let text = error.to_string();
                    if last_error.as_ref() != Some(&text) {
                        error!(error = %text, "certificates were not reloaded; the ones in use stay in use");
                        last_error = Some(text);
                    }
                    continue;
                }
            }
            last_error = None;
        }
    }
}

/// The one provider of cryptography.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// Installs the process's default provider, for libraries that ask for one.
pub fn install_provider() {
    // Fails only if one is installed already.
    let _ = rustls::crypto::ring::default_provider().install_default();
}

struct Contents {
    certificate: Vec<u8>,
    key: Vec<u8>,
    authorities: Vec<u8>,
    revocations: Vec<u8>,
}

impl Contents {
    fn read(files: &TlsFiles) -> Result<Self, TlsError> {
        let revocations = match &files.revocations {
            Some(path) if path.exists() => read(path)?,
            Some(_) | None => Vec::new(),
        };
        Ok(Self { certificate: read(&files.certificate)?, key: read(&files.key)?, authorities: read(&files.authorities)?, revocations })
    }

    fn hash(&self) -> blake3::Hash {
        let mut hasher = blake3::Hasher::new();
        for part in [&self.certificate, &self.key, &self.authorities, &self.revocations] {
            hasher.update(&(part.len() as u64).to_le_bytes()).update(part);
        }
        hasher.finalize()
    }
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    let failed = |source| TlsError::Read { path: path.to_owned(), source };
    let size = std::fs::metadata(path).map_err(failed)?.len();
    if size > MAX_FILE_BYTES {
        let what = format!("{size} bytes are more than a certificate file may have ({MAX_FILE_BYTES})");
        return Err(TlsError::Content { path: path.to_owned(), what });
    }
    std::fs::read(path).map_err(failed)
}

fn certificates(path: &Path, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let content = |what: String| TlsError::Content { path: path.to_owned(), what };
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let chain = chain.map_err(|error| content(format!("not a PEM file of certificates: {error:?}")))?;
    if chain.is_empty() { Err(content("there is no certificate in it".to_owned())) } else { Ok(chain) }
}

fn roots(path: &Path, pem: &[u8]) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for authority in certificates(path, pem)? {
        if is_issuer(&authority) {
            // It would be believed of everybody.
            let what = "an issuer of agents' certificates is no authority: leave it out".to_owned();
            return Err(TlsError::Content { path: path.to_owned(), what });
        }
        roots.add(authority).map_err(|error| TlsError::Content { path: path.to_owned(), what: format!("not an authority: {error}") })?;
    }
    Ok(roots)
}

fn revocations(files: &TlsFiles, contents: &Contents) -> Result<Vec<CertificateRevocationListDer<'static>>, TlsError> {
    let lists: Result<Vec<_>, _> = CertificateRevocationListDer::pem_slice_iter(&contents.revocations).collect();
    lists.map_err(|error| TlsError::Content {
        path: files.revocations.clone().unwrap_or_default(),
        what: format!("not a PEM file of revocation lists: {error:?}"),
    })
}

fn end_of_own(path: &Path, chain: &[CertificateDer<'_>]) -> Result<i64, TlsError> {
    let leaf = chain.first().expect("certificates() returns at least one");
    end_of(leaf).ok_or_else(|| TlsError::Content { path: path.to_owned(), what: "the certificate cannot be read".to_owned() })
}

/// When a certificate ends, in seconds since 1970.
pub(crate) fn end_of(certificate: &CertificateDer<'_>) -> Option<i64> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    Some(parsed.validity().not_after.timestamp())
}

/// Wall time: only ever compared with certificates' dates.
pub(crate) fn unix_now_s() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| i64::try_from(since.as_secs()).unwrap_or(i64::MAX))
}

fn warn_of_expiry(material: &Material) {
    let left_s = material.not_after_unix_s - unix_now_s();
    if left_s <= 0 {
        error!(left_s, "this replica's certificate has expired: nobody will talk to it until it is renewed");
    } else if left_s < i64::try_from(EXPIRY_WARNING.as_secs()).unwrap_or(i64::MAX) {
        warn!(left_s, "this replica's certificate expires soon: renew it");
    }
}
