//! Issues agents' certificates, by a certificate that was issued for just that: it is one of role issuer.
//!
//! What it signs is a client of role agent and nothing else, whatever a request asks for; [`crate::tls`] and [`crate::identity`] see to it that
//! no other role is believed of what an issuer has signed, and no server. Whether somebody may have a certificate is decided elsewhere.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{
    CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, KeyPair, KeyUsagePurpose,
    PublicKeyData, SanType, SerialNumber,
};
use roadstead_core::id::Name;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, CertificateSigningRequestDer};

use crate::identity::{Caller, Role, SCHEME};
use crate::tls::{Tls, end_of, unix_now_s};

/// How long an agent's certificate is good unless said otherwise. It is renewed at two thirds: what was stolen is of no use soon.
pub const AGENT_LIFE: Duration = Duration::from_secs(30 * 24 * 3600);
/// Certificates begin a little earlier, for clocks that run behind; a short one by a part of its life.
const CLOCK_SKEW: Duration = Duration::from_secs(300);
/// See [`CLOCK_SKEW`].
const SKEW_PART: u32 = 10;
/// The largest request that is read: one with a key of RSA 4096 has 1 KiB.
pub const MAX_REQUEST_BYTES: usize = 8 << 10;

/// What is needed to issue certificates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IssuerFiles {
    /// A certificate of role issuer (PEM).
    pub certificate: PathBuf,
    /// Its key (PEM).
    pub key: PathBuf,
    /// How long agents' certificates are good, at most as long as the issuer's own.
    pub life: Duration,
}

/// Why no certificate is issued.
#[derive(Debug, thiserror::Error)]
pub enum IssueError {
    /// What was sent is no request for a certificate.
    #[error("it is no request for a certificate (PKCS#10, DER) signed by its key: {what}")]
    Request {
        /// What is wrong with it.
        what: String,
    },
    /// The issuer is not usable.
    #[error("the issuer {path} cannot be used: {what}")]
    Issuer {
        /// Its certificate or key.
        path: PathBuf,
        /// Why.
        what: String,
    },
}

/// A certificate as it is handed out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issued {
    /// PEM: the certificate, then the issuer's.
    pub chain: String,
    /// When it ends, in seconds since 1970.
    pub not_after_unix_s: i64,
}

/// The key of a checked request.
#[derive(Debug)]
pub struct Requested(CertificateSigningRequestParams);

impl Requested {
    /// Reads a request and checks that whoever made it has the key.
    ///
    /// # Errors
    /// [`IssueError::Request`].
    pub fn read(der: &[u8]) -> Result<Self, IssueError> {
        let refused = |what: String| IssueError::Request { what };
        if der.len() > MAX_REQUEST_BYTES {
            return Err(refused(format!("it has {} bytes, at most {MAX_REQUEST_BYTES} are read", der.len())));
        }
        let request = CertificateSigningRequestParams::from_der(&CertificateSigningRequestDer::from(der));
        request.map(Self).map_err(|error| refused(error.to_string()))
    }

    /// The digest of its public key.
    #[must_use]
    pub fn key_digest(&self) -> [u8; 32] {
        *blake3::hash(&self.0.public_key.subject_public_key_info()).as_bytes()
    }
}

/// Issues certificates; the files are read each time, so that a renewed issuer is used.
#[derive(Clone, Debug)]
pub struct Issuer {
    files: IssuerFiles,
    tls: Tls,
}

impl Issuer {
    /// Takes the files up, and tries them.
    ///
    /// # Errors
    /// [`IssueError::Issuer`] with what is wrong with them.
    pub fn load(files: IssuerFiles, tls: Tls) -> Result<Self, IssueError> {
        let issuer = Self { files, tls };
        let probe = KeyPair::generate().map_err(|error| issuer.broken(&issuer.files.key, error))?;
        let name = Name::new("probe").map_err(|error| issuer.broken(&issuer.files.certificate, error))?;
        issuer.sign(&name, &probe)?;
        Ok(issuer)
    }

    /// The authorities that replicas are known by, as PEM.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn authorities(&self) -> Result<String, IssueError> {
        let path = self.tls.authorities();
        std::fs::read_to_string(path).map_err(|error| self.broken(path, error))
    }

    /// A certificate for the agent of a cluster, with the key that was asked for and nothing else of the request.
    ///
    /// # Errors
    /// [`IssueError::Issuer`].
    pub fn issue(&self, cluster: &Name, requested: &Requested) -> Result<Issued, IssueError> {
        self.sign(cluster, &requested.0.public_key)
    }

    fn sign(&self, cluster: &Name, key: &impl PublicKeyData) -> Result<Issued, IssueError> {
        let IssuerFiles { certificate, key: key_file, life } = &self.files;
        let read = |path: &Path| std::fs::read_to_string(path).map_err(|error| self.broken(path, error));
        let (own, own_key) = (read(certificate)?, read(key_file)?);
        let (own_der, own_end) = self.check_own(&own)?;
        let signing = KeyPair::from_pem(&own_key).map_err(|error| self.broken(key_file, error))?;
        if !fits(&own_der, &signing) {
            return Err(self.broken(key_file, "it is not the key of the certificate"));
        }
        let signing = rcgen::Issuer::from_ca_cert_der(&own_der, signing).map_err(|error| self.broken(certificate, error))?;
        let (params, not_after_unix_s) = params(cluster, *life, own_end).map_err(|error| self.broken(certificate, error))?;
        let signed = params.signed_by(key, &signing).map_err(|error| self.broken(key_file, error))?;
        // What callers' certificates are held against: the authority, the constraints, what was revoked.
        let accepted = self.tls.current().check(&[signed.der().clone(), own_der]);
        accepted.map_err(|why| self.broken(certificate, format!("what it issues is not accepted here: {why}")))?;
        Ok(Issued { chain: format!("{}{own}", signed.pem()), not_after_unix_s })
    }

    /// Our own certificate, and when it ends.
    fn check_own(&self, pem: &str) -> Result<(CertificateDer<'static>, i64), IssueError> {
        let path = &self.files.certificate;
        let der = CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|error| self.broken(path, format!("{error:?}")))?;
        match Caller::from_certificate(&der) {
            Ok(caller) if caller.role == Role::Issuer => {}
            Ok(caller) => return Err(self.broken(path, format!("it is {}'s, not one of role issuer", caller.principal))),
            Err(error) => return Err(self.broken(path, error)),
        }
        let end = end_of(&der).ok_or_else(|| self.broken(path, "it cannot be read"))?;
        if end <= unix_now_s() {
            return Err(self.broken(path, "it has expired: renew it (`roadstead pki renew`)"));
        }
        Ok((der, end))
    }

    fn broken(&self, path: &Path, what: impl ToString) -> IssueError {
        IssueError::Issuer { path: path.to_owned(), what: what.to_string() }
    }
}

/// Whether a key is the one of a certificate.
fn fits(certificate: &CertificateDer<'_>, key: &KeyPair) -> bool {
    let parsed = x509_parser::parse_x509_certificate(certificate);
    parsed.is_ok_and(|(_, parsed)| parsed.public_key().raw == key.subject_public_key_info())
}

/// What an agent's certificate says: all of it is decided here.
fn params(cluster: &Name, life: Duration, latest_unix_s: i64) -> Result<(CertificateParams, i64), rcgen::Error> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let begin = now.saturating_sub(CLOCK_SKEW.min(life / SKEW_PART)).as_secs();
    let latest = u64::try_from(latest_unix_s).unwrap_or_default();
    let end = now.saturating_add(life).as_secs().min(latest);
    let at = |seconds: u64| rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(seconds);
    let mut serial: [u8; 16] = rand::random();
    // RFC 5280: a serial number is positive; and a leading zero byte would be dropped on the way.
    serial[0] = (serial[0] & 0x7f) | 0x40;

    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, "Roadstead");
    params.distinguished_name.push(DnType::CommonName, format!("{}:{cluster}", Role::Agent));
    params.subject_alt_names = vec![SanType::URI(format!("{SCHEME}{}/{cluster}", Role::Agent).try_into()?)];
    params.not_before = at(begin);
    params.not_after = at(end);
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    Ok((params, i64::try_from(end).unwrap_or(i64::MAX)))
}
