//! The agent's certificate: taken from where it is kept, got for a one-time token, renewed by itself.
//!
//! The private key is made here and never leaves its cluster. In reading order: this module (what a certificate says, when it is to be
//! renewed), [`keep`] (where it is kept), [`exchange`] (asking for one), [`keeper`] (all of it together).

pub mod keep;
pub mod exchange;
pub mod keeper;

use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use x509_parser::extensions::GeneralName;
use x509_parser::pem::Pem;

pub use keep::Place;
pub use keeper::{Keeper, Keeping};

/// The name of a cluster's agent in its certificate, before the cluster's.
const AGENT_OF: &str = "roadstead://agent/";
/// A certificate is renewed when this part of its life is over, give or take [`JITTER`] of it: a third is left for what may be in the way.
const RENEW_AFTER: f64 = 2.0 / 3.0;
/// So that a thousand clusters that joined together do not renew together.
const JITTER: f64 = 0.05;

/// A certificate with what is used beside it, as PEM.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Credentials {
    /// The certificate, and the issuer's after it; empty while it is asked for.
    pub certificate: String,
    /// Its private key.
    pub key: String,
    /// The authorities by which replicas are known.
    pub authorities: String,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("certificate", &self.certificate).finish_non_exhaustive()
    }
}

/// From when to when a certificate is good, in seconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    /// From here on.
    pub begins: i64,
    /// Not any more from here on.
    pub ends: i64,
}

impl Validity {
    /// Whether it is over.
    #[must_use]
    pub fn has_ended(self, now: i64) -> bool {
        self.ends <= now
    }

    /// When to renew, in seconds since 1970; `chance` is from -1 to 1.
    #[must_use]
    pub fn renew_at(self, chance: f64) -> i64 {
        let life = (self.ends - self.begins).max(0) as f64;
        self.begins + (life * (RENEW_AFTER + JITTER * chance.clamp(-1.0, 1.0))).round() as i64
    }

    /// When it ends, as people write it.
    #[must_use]
    pub fn end(self) -> String {
        jiff::Timestamp::from_second(self.ends).map_or_else(|_| self.ends.to_string(), |end| end.to_string())
    }
}

impl Credentials {
    /// When the certificate is good, if it is of this cluster's agent.
    ///
    /// # Errors
    /// Plain words about what it is instead.
    pub fn validity(&self, cluster: &str) -> Result<Validity, String> {
        let pem = Pem::iter_from_buffer(self.certificate.as_bytes()).next();
        let pem = pem.ok_or("there is no certificate")?.map_err(|error| format!("the certificate is no PEM: {error}"))?;
        let certificate = pem.parse_x509().map_err(|error| format!("the certificate cannot be read: {error}"))?;
        let names = certificate.subject_alternative_name().ok().flatten();
        let names = names.iter().flat_map(|names| &names.value.general_names);
        let mut named = names.filter_map(|name| match name {
            GeneralName::URI(uri) => Some(*uri),
            _ => None,
        });
        let wanted = format!("{AGENT_OF}{cluster}");
        if !named.any(|uri| uri == wanted) {
            return Err(format!("the certificate is not {wanted}'s"));
        }
        let valid = certificate.validity();
        Ok(Validity { begins: valid.not_before.timestamp(), ends: valid.not_after.timestamp() })
    }
}

/// Seconds since 1970: only ever compared with certificates' dates.
#[must_use]
pub fn unix_now_s() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| i64::try_from(since.as_secs()).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn issued(uri: &str, days: (i32, i32)) -> Credentials {
        let mut params = rcgen::CertificateParams::default();
        params.subject_alt_names = vec![rcgen::SanType::URI(uri.try_into().unwrap())];
        (params.not_before, params.not_after) = (rcgen::date_time_ymd(days.0, 1, 1), rcgen::date_time_ymd(days.1, 1, 1));
        let key = rcgen::KeyPair::generate().unwrap();
        Credentials { certificate: params.self_signed(&key).unwrap().pem(), key: key.serialize_pem(), authorities: String::new() }
    }

    #[test]
    fn a_certificate_is_renewed_at_two_thirds_of_its_life_more_or_less() {
        let validity = Validity { begins: 1000, ends: 4000 };
        assert_eq!(validity.renew_at(0.0), 3000);
        assert_eq!((validity.renew_at(-1.0), validity.renew_at(1.0)), (2850, 3150));
        assert_eq!(validity.renew_at(100.0), 3150, "never near the end");
        assert!(!validity.has_ended(3999) && validity.has_ended(4000));
        assert_eq!(Validity { begins: 10, ends: 5 }.renew_at(1.0), 10);
    }

    #[test]
    fn a_certificate_is_of_one_cluster_and_of_an_agent() {
        let agent = issued("roadstead://agent/eu-1", (2020, 2021));
        assert!(agent.validity("eu-1").unwrap().has_ended(unix_now_s()));
        assert!(!issued("roadstead://agent/eu-1", (2020, 2200)).validity("eu-1").unwrap().has_ended(unix_now_s()));
        assert!(agent.validity("eu-2").unwrap_err().contains("agent/eu-2"));
        assert!(issued("roadstead://admin/eu-1", (2020, 2200)).validity("eu-1").is_err());
        assert_eq!(Credentials::default().validity("eu-1").unwrap_err(), "there is no certificate");
    }

    #[test]
    fn a_key_is_never_shown() {
        let agent = issued("roadstead://agent/eu-1", (2020, 2021));
        assert!(!format!("{agent:?}").contains("PRIVATE"), "{agent:?}");
    }
}
