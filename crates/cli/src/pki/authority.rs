//! Keys and signatures: an authority, the certificates that it signs, and its list of revoked ones.
//!
//! Text in, text out (PEM); [`super::store`] keeps the files.

use std::net::IpAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose,
    GeneralSubtree, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, NameConstraints, RevocationReason, RevokedCertParams, SanType,
    SerialNumber,
};

use super::{Error, REPLICA_DNS_NAME, Role, Subject};

/// How long an authority is valid: long enough that replacing it is planned, not forced.
pub const AUTHORITY_DAYS: u64 = 3650;
/// How long a certificate is valid unless said otherwise: short, because renewing needs no restart.
pub const CERTIFICATE_DAYS: u64 = 90;
/// Certificates begin a little earlier, for clocks that run behind.
const CLOCK_SKEW: Duration = Duration::from_secs(300);
const DAY: Duration = Duration::from_secs(86_400);

/// A certificate and its key, as PEM.
pub struct Pair {
    /// Certificate.
    pub certificate: String,
    /// Private key.
    pub key: String,
    /// Serial number in hexadecimal.
    pub serial: String,
    /// Seconds since 1970 at which it ends.
    pub not_after: u64,
}

/// One revoked certificate.
#[derive(Clone, Debug)]
pub struct Revoked {
    /// Serial number in hexadecimal.
    pub serial: String,
    /// Seconds since 1970 at which it was revoked.
    pub at: u64,
}

/// An authority that can sign.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    may_sign_issuers: bool,
}

/// Seconds since 1970.
#[must_use]
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_secs())
}

macro_rules! at {
    ($seconds:expr) => {
        rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs($seconds)
    };
}

fn new_serial() -> (SerialNumber, String) {
    let mut bytes = *uuid::Uuid::new_v4().as_bytes();
    // RFC 5280: a serial number is positive; and a leading zero byte would be dropped on the way.
    bytes[0] = (bytes[0] & 0x7f) | 0x40;
    (SerialNumber::from_slice(&bytes), hex(&bytes))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len() / 2).filter_map(|i| u8::from_str_radix(text.get(2 * i..2 * i + 2)?, 16).ok()).collect()
}

fn params(name: &str, days: u64) -> (CertificateParams, String, u64) {
    let (serial, serial_text) = new_serial();
    let not_after = now() + days * DAY.as_secs();
    let mut distinguished_name = DistinguishedName::new();
    distinguished_name.push(DnType::OrganizationName, "Roadstead");
    distinguished_name.push(DnType::CommonName, name);
    let mut params = CertificateParams::default();
    params.not_before = at!(now() - CLOCK_SKEW.as_secs());
    params.not_after = at!(not_after);
    params.serial_number = Some(serial);
    params.distinguished_name = distinguished_name;
    params.use_authority_key_identifier_extension = true;
    (params, serial_text, not_after)
}

/// Makes a new authority.
///
/// # Errors
/// The cryptography library's.
pub fn new_authority() -> Result<Pair, Error> {
    let key = KeyPair::generate()?;
    let (mut params, serial, not_after) = params("", AUTHORITY_DAYS);
    // Its own name each, so that two authorities of a rotation are told apart.
    params.distinguished_name.push(DnType::CommonName, format!("Roadstead CA {}", &serial[..8]));
    // One below it: the issuer of agents' certificates.
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(1));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
    let certificate = params.self_signed(&key)?.pem();
    Ok(Pair { certificate, key: key.serialize_pem(), serial, not_after })
}

/// How many authorities may be below this one.
fn levels_below(certificate: &str) -> u32 {
    let pem = x509_parser::pem::parse_x509_pem(certificate.as_bytes());
    let constraints = pem.ok().and_then(|(_, pem)| {
        let certificate = pem.parse_x509().ok()?;
        certificate.basic_constraints().ok().flatten().map(|found| found.value.path_len_constraint.unwrap_or(u32::MAX))
    });
    constraints.unwrap_or(0)
}

impl Authority {
    /// Takes up an authority from its PEM files.
    ///
    /// # Errors
    /// The cryptography library's.
    pub fn load(certificate: &str, key: &str) -> Result<Self, Error> {
        let issuer = Issuer::from_ca_cert_pem(certificate, KeyPair::from_pem(key)?)?;
        Ok(Self { issuer, may_sign_issuers: levels_below(certificate) > 0 })
    }

    /// Signs a certificate for `subject`, with `key` or a new one.
    ///
    /// # Errors
    /// A bad name, or the cryptography library's.
    pub fn issue(&self, subject: &Subject, days: u64, key: Option<&str>) -> Result<Pair, Error> {
        subject.check()?;
        if subject.role == Role::Issuer && !self.may_sign_issuers {
            return Err(Error::Rotation(
                "this authority was made without leave to have issuers below it: `roadstead pki rotate-ca` makes one that has it",
            ));
        }
        let key = key.map_or_else(KeyPair::generate, KeyPair::from_pem)?;
        let (mut params, serial, not_after) = params(&subject.to_string(), days);
        for uri in subject.uris() {
            params.subject_alt_names.push(SanType::URI(uri.as_str().try_into()?));
        }
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        match subject.role {
            Role::Replica => {
                params.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth);
                params.subject_alt_names.push(SanType::DnsName(REPLICA_DNS_NAME.try_into()?));
            }
            Role::Issuer => {
                params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
                params.key_usages.push(KeyUsagePurpose::KeyCertSign);
                // Nobody serves by what it signs: no name of a server is among those that are allowed. That it signs agents only, replicas check.
                let nowhere = vec![GeneralSubtree::DnsName("agents.invalid".to_owned())];
                params.name_constraints = Some(NameConstraints { permitted_subtrees: nowhere, excluded_subtrees: Vec::new() });
            }
            Role::Admin | Role::Operator | Role::Viewer | Role::Client | Role::Agent => {}
        }
        for host in &subject.hosts {
            params.subject_alt_names.push(match host.parse::<IpAddr>() {
                Ok(address) => SanType::IpAddress(address),
                Err(_) => SanType::DnsName(host.as_str().try_into()?),
            });
        }
        let certificate = params.signed_by(&key, &self.issuer)?.pem();
        Ok(Pair { certificate, key: key.serialize_pem(), serial, not_after })
    }

    /// Signs the list of what was revoked, as PEM. `number` grows with every list.
    ///
    /// # Errors
    /// The cryptography library's.
    pub fn revocations(&self, revoked: &[Revoked], number: u64) -> Result<String, Error> {
        let revoked_certs = revoked
            .iter()
            .map(|entry| RevokedCertParams {
                serial_number: SerialNumber::from_slice(&unhex(&entry.serial)),
                revocation_time: at!(entry.at),
                reason_code: Some(RevocationReason::Unspecified),
                invalidity_date: None,
            })
            .collect();
        let list = CertificateRevocationListParams {
            this_update: at!(now() - CLOCK_SKEW.as_secs()),
            // The list is handed out as a file when it changes; nobody fetches a next one.
            next_update: at!(now() + AUTHORITY_DAYS * DAY.as_secs()),
            crl_number: SerialNumber::from_slice(&number.to_be_bytes()),
            issuing_distribution_point: None,
            revoked_certs,
            key_identifier_method: KeyIdMethod::Sha256,
        };
        Ok(list.signed_by(&self.issuer)?.pem()?)
    }
}
