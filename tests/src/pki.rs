//! Certificates that `roadstead pki` does not make: expired ones, and those that end soon.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, Issuer, KeyPair, KeyUsagePurpose, SanType};

use crate::client::Credentials;
use crate::group::{Group, SERVER_NAME};

/// How long before its end a certificate begins.
const VALID_FOR: Duration = Duration::from_secs(3_600);

/// Makes a certificate of a group's authority for a role, valid until `end`; PEM of it and of its key.
///
/// # Errors
/// If the authority cannot be read, or the certificate not be made.
pub fn issue(group: &Group, role: &str, name: &str, end: SystemTime) -> Result<(String, String)> {
    let pki = group.folder().join("pki");
    let read = |name: &str| std::fs::read_to_string(pki.join(name)).with_context(|| format!("failed to read {name}"));
    let authority = KeyPair::from_pem(&read("ca.key")?).context("the authority's key cannot be read")?;
    let issuer = Issuer::from_ca_cert_pem(&read("ca.crt")?, authority).context("the authority cannot be read")?;
    let key = KeyPair::generate().context("failed to make a key")?;
    let seconds = end.duration_since(UNIX_EPOCH).context("it ends before 1970")?;
    let mut params = CertificateParams::default();
    params.not_after = rcgen::date_time_ymd(1970, 1, 1) + seconds;
    params.not_before = rcgen::date_time_ymd(1970, 1, 1) + (seconds - VALID_FOR);
    params.distinguished_name.push(DnType::CommonName, name);
    let uri = format!("roadstead://{role}/{name}");
    params.subject_alt_names = vec![
        SanType::URI(uri.as_str().try_into().context("a name is ASCII")?),
        SanType::DnsName(SERVER_NAME.try_into().context("a name is ASCII")?),
    ];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    let certificate = params.signed_by(&key, &issuer).context("failed to sign a certificate")?.pem();
    Ok((certificate, key.serialize_pem()))
}

/// The same, as a client's credentials.
///
/// # Errors
/// The same.
pub fn credentials(group: &Group, role: &str, name: &str, end: SystemTime) -> Result<Credentials> {
    let (certificate, key) = issue(group, role, name, end)?;
    Ok(Credentials { certificate, key, ..group.credentials("admin-test")? })
}
