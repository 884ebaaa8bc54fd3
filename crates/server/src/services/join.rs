//! `JoinService`: tokens are made, and exchanged for certificates; agents renew theirs.
//!
//! That a token is exchanged once is decided in the log ([`Ask::SpendToken`]). The certificate is signed before, by this replica, and handed out
//! after it: a replica that cannot sign spends no token. A retry with the same key gets another certificate for it.

use std::sync::Arc;
use std::time::Duration;

use roadstead_api::v1;
use roadstead_api::v1::join_service_server::JoinService;
use roadstead_core::id::Name;
use roadstead_core::join::{Digest, MAX_TOKEN_LIFE, Spending, Spent};
use roadstead_core::request::{Ask, Principal};
use roadstead_core::time::Millis;
use tokio::sync::Semaphore;
use tonic::{Code, Request, Response, Status};
use tracing::info;

use super::agent::{check_identity, own_cluster};
use super::context::{Context, reach};
use crate::convert::check::{At, Check};
use crate::convert::cluster::MAX_UID_LEN;
use crate::convert::wire_timestamp;
use crate::errors::{Fault, RETRY_SOON};
use crate::identity::Role;
use crate::issuer::{IssueError, Issued, Issuer, Requested};

/// How long a token is good unless said otherwise: long enough to read manifests before they are applied.
const TOKEN_LIFE: Millis = Millis::from_secs(3600);
/// Exchanges and renewals at a time: each costs some signatures, and those without a certificate can be from anybody.
const MAX_EXCHANGES: usize = 16;
/// How long an exchange waits for its turn.
const TURN_WITHIN: Duration = Duration::from_secs(2);
/// The longest token that is looked at.
const MAX_TOKEN_LEN: usize = 256;

/// `JoinService` on one replica.
#[derive(Debug)]
pub struct Joins {
    context: Arc<Context>,
    issuer: Option<Arc<Issuer>>,
    turns: Semaphore,
}

/// The digest of a token, which is all that is kept of it.
#[must_use]
pub fn token_digest(token: &str) -> [u8; 32] {
    *blake3::hash(token.as_bytes()).as_bytes()
}

impl Joins {
    /// On this replica; without an issuer it exchanges nothing.
    #[must_use]
    pub fn new(context: Arc<Context>, issuer: Option<Issuer>) -> Self {
        Self { context, issuer: issuer.map(Arc::new), turns: Semaphore::new(MAX_EXCHANGES) }
    }

    fn issuer(&self) -> Result<Arc<Issuer>, Fault> {
        let missing = || {
            let words = "this replica issues no certificates: it was started without --issuer-cert and --issuer-key; ask another one";
            Fault::new(Code::FailedPrecondition, "NO_ISSUER", words)
        };
        self.issuer.clone().ok_or_else(missing)
    }

    async fn turn(&self) -> Result<tokio::sync::SemaphorePermit<'_>, Fault> {
        let turn = tokio::time::timeout(TURN_WITHIN, self.turns.acquire()).await;
        let turn = turn.ok().and_then(Result::ok);
        turn.ok_or_else(|| Fault::overloaded("too many certificates are asked for at the moment", RETRY_SOON))
    }

    async fn enrol_one(&self, message: v1::EnrolRequest) -> Result<v1::Issued, Fault> {
        let _turn = self.turn().await?;
        let issuer = self.issuer()?;
        let mut check = Check::default();
        let cluster = check.name(At::Top("cluster"), &message.cluster);
        let token = check.word(At::Top("token"), &message.token, MAX_TOKEN_LEN);
        let uid = uid(&mut check, &message.uid);
        let request = read(&mut check, &message.request);
        let fields = cluster.zip(token).zip(uid).zip(request);
        let (((cluster, token), uid), request) = check.finish(fields)?;
        let by = Spent { uid, key: Digest(request.key_digest()) };
        let spending = Spending { cluster: cluster.clone(), token: Digest(token_digest(&token)), by };
        // As who it will be.
        let principal = Principal::new(&format!("{}:{cluster}", Role::Agent)).map_err(|error| Fault::internal(error.to_string()))?;
        let issued = issue(issuer, cluster.clone(), request).await?;
        self.context.submit(&principal, None, Ask::SpendToken(Box::new(spending))).await?;
        info!(%cluster, "an agent was let in by its token");
        Ok(issued)
    }
}

fn uid(check: &mut Check, uid: &str) -> Option<String> {
    match uid {
        "" => check.refuse(At::Top("uid"), "is missing: the UID of the cluster's kube-system"),
        uid => check.word(At::Top("uid"), uid, MAX_UID_LEN),
    }
}

fn read(check: &mut Check, request: &[u8]) -> Option<Requested> {
    Requested::read(request).map_err(|error| check.refuse::<()>(At::Top("request"), error)).ok()
}

/// Signs, which reads files and computes.
async fn issue(issuer: Arc<Issuer>, cluster: Name, request: Requested) -> Result<v1::Issued, Fault> {
    let signed = tokio::task::spawn_blocking(move || Ok::<_, IssueError>((issuer.issue(&cluster, &request)?, issuer.authorities()?))).await;
    let signed = signed.map_err(|error| Fault::internal(error.to_string()))?;
    let broken = |error: IssueError| {
        tracing::error!(%error, "no certificate is issued");
        Fault::new(Code::FailedPrecondition, "ISSUER_UNUSABLE", format!("{error}; ask another replica"))
    };
    let (Issued { chain, .. }, authorities) = signed.map_err(broken)?;
    Ok(v1::Issued { certificate: chain, authorities })
}

#[tonic::async_trait]
impl JoinService for Joins {
    async fn put_token(&self, request: Request<v1::PutTokenRequest>) -> Result<Response<v1::PutTokenResponse>, Status> {
        let reach = reach(&request)?;
        let message = request.get_ref();
        let mut check = Check::default();
        let cluster = check.name(At::Top("cluster"), &message.cluster);
        let uid = check.text(At::Top("uid"), &message.uid, MAX_UID_LEN);
        let life = match &message.life {
            Some(life) => check.duration(At::Top("life"), life, MAX_TOKEN_LIFE),
            None => Some(TOKEN_LIFE),
        };
        let digest = match <[u8; 32]>::try_from(&message.token_digest[..]) {
            Ok(digest) => Some(Digest(digest)),
            Err(_) => check.refuse(At::Top("token_digest"), "must have 32 bytes"),
        };
        let (((cluster, uid), life), digest) = check.finish(cluster.zip(uid).zip(life).zip(digest))?;
        let ask = Ask::PutToken { cluster: cluster.clone(), digest, uid, life };
        self.context.submit(&reach.caller().principal, None, ask).await?;
        let state = self.context.state(true).await?;
        let token = state.cluster(cluster.as_str()).and_then(|cluster| state.token_of(cluster.id));
        let token = token.filter(|token| token.digest == digest);
        let token = token.ok_or_else(|| Fault::unavailable("another token has taken its place already; make one more"))?;
        Ok(Response::new(v1::PutTokenResponse { until: Some(wire_timestamp(token.until)) }))
    }

    async fn enrol(&self, request: Request<v1::EnrolRequest>) -> Result<Response<v1::EnrolResponse>, Status> {
        let issued = self.enrol_one(request.into_inner()).await?;
        Ok(Response::new(v1::EnrolResponse { issued: Some(issued) }))
    }

    async fn renew(&self, request: Request<v1::RenewRequest>) -> Result<Response<v1::RenewResponse>, Status> {
        let reach = reach(&request)?;
        let cluster = own_cluster(&reach)?;
        let _turn = self.turn().await?;
        let issuer = self.issuer()?;
        let message = request.get_ref();
        let mut check = Check::default();
        let uid = uid(&mut check, &message.uid);
        let key = read(&mut check, &message.request);
        let (uid, key) = check.finish(uid.zip(key))?;
        let state = self.context.state(true).await?;
        check_identity(&state, &cluster, &uid)?;
        let issued = issue(issuer, cluster.clone(), key).await?;
        info!(%cluster, "an agent's certificate was renewed");
        Ok(Response::new(v1::RenewResponse { issued: Some(issued) }))
    }
}
