//! What a certificate says, in words.

use std::path::Path;

use x509_parser::extensions::GeneralName;
use x509_parser::pem::Pem;

use super::Error;

/// What a certificate file says.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Shown {
    /// Subject.
    pub subject: String,
    /// Issuer.
    pub issuer: String,
    /// Serial number in hexadecimal.
    pub serial: String,
    /// First day, RFC 3339.
    pub not_before: String,
    /// Last day, RFC 3339.
    pub not_after: String,
    /// Names: URIs, DNS names, addresses.
    pub names: Vec<String>,
    /// Whether it can sign others.
    pub authority: bool,
}

/// Reads every certificate of a PEM file.
///
/// # Errors
/// A file that cannot be read, or holds no certificate.
pub fn read(path: &Path) -> Result<Vec<Shown>, Error> {
    let bytes = std::fs::read(path).map_err(|source| Error::File { verb: "read", path: path.display().to_string(), source })?;
    let damaged = |reason: String| Error::Damaged { path: path.display().to_string(), reason };
    let mut shown = Vec::new();
    for pem in Pem::iter_from_buffer(&bytes) {
        let pem = pem.map_err(|error| damaged(error.to_string()))?;
        let certificate = pem.parse_x509().map_err(|error| damaged(error.to_string()))?;
        let names =
            certificate.subject_alternative_name().ok().flatten().map(|names| names.value.general_names.iter().map(name_text).collect());
        let time = |seconds: i64| jiff::Timestamp::from_second(seconds).map_or_else(|_| seconds.to_string(), |time| time.to_string());
        shown.push(Shown {
            subject: certificate.subject().to_string(),
            issuer: certificate.issuer().to_string(),
            serial: certificate.raw_serial().iter().map(|byte| format!("{byte:02x}")).collect(),
            not_before: time(certificate.validity().not_before.timestamp()),
            not_after: time(certificate.validity().not_after.timestamp()),
            names: names.unwrap_or_default(),
            authority: certificate.is_ca(),
        });
    }
    if shown.is_empty() { Err(damaged("it holds no certificate".to_owned())) } else { Ok(shown) }
}

fn name_text(name: &GeneralName<'_>) -> String {
    match name {
        GeneralName::URI(uri) => (*uri).to_owned(),
        GeneralName::DNSName(dns) => (*dns).to_owned(),
        GeneralName::IPAddress(bytes) => match bytes.len() {
            4 => std::net::Ipv4Addr::from(<[u8; 4]>::try_from(*bytes).unwrap_or_default()).to_string(),
            16 => std::net::Ipv6Addr::from(<[u8; 16]>::try_from(*bytes).unwrap_or_default()).to_string(),
            _ => format!("{bytes:?}"),
        },
        other => other.to_string(),
    }
}
