//! Asks the placement service for a certificate: for a token, or for the one that is at hand.

use std::future::Future;
use std::time::Duration;

use rcgen::{CertificateParams, KeyPair, PublicKeyData};
use roadstead_api::v1;
use roadstead_api::v1::fleet_service_client::FleetServiceClient;
use roadstead_api::v1::join_service_client::JoinServiceClient;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Response, Status};
use x509_parser::pem::Pem;

use super::{Credentials, unix_now_s};

/// How long a replica may take: it waits for a leader itself for less.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// How a refusal in the TLS handshake begins, in the TLS library's words.
const ALERT: &str = "received fatal alert: ";
/// The alerts that are about the certificate that was shown, as that library names them.
const ABOUT_CERTIFICATES: [&str; 6] =
    ["BadCertificate", "CertificateRevoked", "CertificateExpired", "CertificateUnknown", "UnknownCA", "AccessDenied"];

/// Why there is no certificate.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failed {
    /// Asking again in the same way does not help.
    #[error("{0}")]
    Refused(String),
    /// It may come later.
    #[error("{0}")]
    Later(String),
}

/// A new private key, as PEM.
///
/// # Errors
/// The cryptography library's.
pub fn new_key() -> Result<String, String> {
    KeyPair::generate().map(|key| key.serialize_pem()).map_err(|error| error.to_string())
}

/// What a certificate is for.
#[derive(Clone, Copy, Debug)]
pub struct Whose<'a> {
    /// The cluster's name.
    pub cluster: &'a str,
    /// UID of its `kube-system`.
    pub uid: &'a str,
}

/// A certificate for this key, for a token, from the first replica that gives one.
///
/// # Errors
/// See [`Failed`].
pub async fn enrol(replicas: &[Endpoint], whose: Whose<'_>, token: &str, key: &str) -> Result<Credentials, Failed> {
    let message = v1::EnrolRequest {
        cluster: whose.cluster.to_owned(),
        token: token.to_owned(),
        uid: whose.uid.to_owned(),
        request: request(key).map_err(Failed::Later)?.into(),
    };
    let issued = first(replicas, |mut service| {
        let message = message.clone();
        async move { service.enrol(message).await.map(Response::into_inner) }
    });
    judged(whose, key, issued.await?.issued)
}

/// A certificate for a new key, by the one that the replicas are asked with.
///
/// # Errors
/// See [`Failed`].
pub async fn renew(replicas: &[Endpoint], whose: Whose<'_>) -> Result<Credentials, Failed> {
    let key = new_key().map_err(Failed::Later)?;
    let message = v1::RenewRequest { uid: whose.uid.to_owned(), request: request(&key).map_err(Failed::Later)?.into() };
    let issued = first(replicas, |mut service| {
        let message = message.clone();
        async move { service.renew(message).await.map(Response::into_inner) }
    });
    judged(whose, &key, issued.await?.issued)
}

/// Why replicas refuse the certificate that they are asked with; `None` if one takes it, or none says.
pub async fn refusal(replicas: &[Endpoint], cluster: &str) -> Option<String> {
    let mut refusal = None;
    for replica in replicas {
        // What an agent may ask any replica at any time, and what costs next to nothing.
        let request = v1::GetClusterRequest { name: cluster.to_owned(), consistency: v1::Consistency::Stale.into() };
        let mut service = FleetServiceClient::new(replica.connect_lazy());
        match tokio::time::timeout(ANSWER_WITHIN, service.get_cluster(request)).await {
            Ok(Err(status)) if refuses_certificate(&status) => refusal = Some(with_causes(&status)),
            Ok(Err(status)) if matches!(status.code(), Code::Unavailable | Code::Unknown | Code::Cancelled | Code::DeadlineExceeded) => {}
            Err(_) => {}
            Ok(_) => return None,
        }
    }
    refusal
}

/// Whether a replica does not take the certificate that it was shown, whatever is asked.
fn refuses_certificate(status: &Status) -> bool {
    let words = with_causes(status);
    let alert = words.split_once(ALERT).map(|(_, alert)| alert);
    status.code() == Code::Unauthenticated || alert.is_some_and(|alert| ABOUT_CERTIFICATES.iter().any(|about| alert.starts_with(about)))
}

fn request(key: &str) -> Result<Vec<u8>, String> {
    let made = || {
        let key = KeyPair::from_pem(key)?;
        // Whose it is, the service decides.
        Ok(CertificateParams::default().serialize_request(&key)?.der().to_vec())
    };
    made().map_err(|error: rcgen::Error| error.to_string())
}

/// The first answer of the replicas in turn; a refusal that each would repeat ends it.
async fn first<T, F, A>(replicas: &[Endpoint], call: F) -> Result<T, Failed>
where
    F: Fn(JoinServiceClient<Channel>) -> A,
    A: Future<Output = Result<T, Status>>,
{
    let mut reasons = Vec::new();
    for replica in replicas {
        let answer = tokio::time::timeout(ANSWER_WITHIN, call(JoinServiceClient::new(replica.connect_lazy()))).await;
        let status = match answer {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(status)) => status,
            Err(_) => Status::deadline_exceeded("no answer in time"),
        };
        let words = format!("{}: {}", replica.uri(), with_causes(&status));
        if matches!(status.code(), Code::InvalidArgument | Code::NotFound | Code::PermissionDenied | Code::Unauthenticated) {
            return Err(Failed::Refused(status.message().to_owned()));
        }
        reasons.push(words);
    }
    Err(Failed::Later(if reasons.is_empty() { "no replica is named".to_owned() } else { reasons.join("; ") }))
}

/// A status with what it came of: that a replica is not who it is to be stands there.
fn with_causes(status: &Status) -> String {
    let mut text = status.message().to_owned();
    let mut source = std::error::Error::source(status);
    while let Some(error) = source {
        let cause = error.to_string();
        if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
        source = error.source();
    }
    text
}

/// Takes an answer for what it is: a certificate of this cluster, for this key, that is good now.
fn judged(whose: Whose<'_>, key: &str, issued: Option<v1::Issued>) -> Result<Credentials, Failed> {
    let wrong = |why: String| Failed::Later(format!("what was issued cannot be used: {why}"));
    let v1::Issued { certificate, authorities } = issued.ok_or_else(|| wrong("nothing".to_owned()))?;
    let credentials = Credentials { certificate, key: key.to_owned(), authorities };
    let validity = credentials.validity(whose.cluster).map_err(wrong)?;
    if validity.has_ended(unix_now_s()) {
        return Err(wrong(format!("it ended at {}; do the clocks agree?", validity.end())));
    }
    let own = KeyPair::from_pem(key).map_err(|error| wrong(error.to_string()))?;
    let pem = Pem::iter_from_buffer(credentials.certificate.as_bytes()).next().and_then(Result::ok);
    let fits = pem.and_then(|pem| Some(pem.parse_x509().ok()?.public_key().raw == own.subject_public_key_info()));
    if fits == Some(true) { Ok(credentials) } else { Err(wrong("it is for another key".to_owned())) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_refused_by_an_alert_about_it_or_by_a_word_and_not_by_silence() {
        let alert = |alert: &str| Status::unknown(format!("transport error: {ALERT}{alert}"));
        for refused in [alert("CertificateRevoked"), alert("UnknownCA"), Status::unauthenticated("no role")] {
            assert!(refuses_certificate(&refused), "{refused:?}");
        }
        // None was shown, or it was about something else.
        for other in
            [alert("CertificateRequired"), alert("InternalError"), Status::unavailable("refused"), Status::permission_denied("a copy")]
        {
            assert!(!refuses_certificate(&other), "{other:?}");
        }
    }
}
