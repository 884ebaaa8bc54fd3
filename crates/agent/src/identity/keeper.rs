//! Sees to it that there is a certificate that is good: the kept one, else one for the token; renewed while it is good.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rand::RngExt;
use tokio::sync::watch;
use tonic::transport::Endpoint;
use tracing::{error, info, warn};

use super::exchange::{self, Failed, Whose};
use super::{Credentials, Place, Validity, unix_now_s};

/// How often it is looked whether there is a token, while there is no certificate.
const LOOK_AGAIN: Duration = Duration::from_secs(2);
/// The longest sleep before a renewal: clocks are set, machines are halted.
const LONGEST_SLEEP: Duration = Duration::from_secs(60);
/// After a renewal that failed, a part of what is left is waited, within these bounds.
const PART_LEFT: u32 = 10;
/// See [`PART_LEFT`].
const SHORTEST_PAUSE: Duration = Duration::from_millis(500);
/// See [`PART_LEFT`].
const LONGEST_PAUSE: Duration = Duration::from_secs(600);

/// How replicas are reached with these credentials; without a certificate among them, as somebody unknown.
pub type Dial = Arc<dyn Fn(&Credentials) -> Result<Vec<Endpoint>, String> + Send + Sync>;

/// What is needed to keep a certificate.
#[derive(Clone)]
pub struct Keeping {
    /// The cluster's name.
    pub cluster: String,
    /// UID of its `kube-system`.
    pub uid: String,
    /// Where the certificate is kept.
    pub place: Place,
    /// File of the token. It is read when it is needed: a new one lets the agent in again.
    pub token: Option<PathBuf>,
    /// File of the authorities by which replicas are known, for exchanging the token.
    pub authorities: Option<PathBuf>,
    /// See [`Dial`].
    pub dial: Dial,
}

/// Keeps a certificate; several that share a place are not to work at once (see [`crate::lease`]).
pub struct Keeper {
    keeping: Keeping,
    current: watch::Sender<Option<Arc<Credentials>>>,
}

impl Keeper {
    /// Nothing is known yet.
    #[must_use]
    pub fn new(keeping: Keeping) -> Self {
        Self { keeping, current: watch::Sender::new(None) }
    }

    /// How replicas are reached with the certificate of now.
    #[must_use]
    pub fn replicas(&self) -> crate::session::Replicas {
        let (current, dial) = (self.current.subscribe(), Arc::clone(&self.keeping.dial));
        Arc::new(move || {
            let credentials = current.borrow().clone();
            credentials.map_or_else(|| Err("this agent has no certificate that is good".to_owned()), |credentials| dial(&credentials))
        })
    }

    /// Until there is a certificate that is good. Says why there is none, each reason once.
    pub async fn obtain(&self) {
        let (mut told, mut refused) = (String::new(), None);
        loop {
            match self.attempt(&mut refused).await {
                Ok(()) => return,
                Err(why) if why == told => {}
                Err(why) => {
                    error!(why, "this agent cannot speak to the placement service; its tenants keep running as they are");
                    told = why;
                }
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// `refused` is the token that was refused last, and why.
    async fn attempt(&self, refused: &mut Option<(String, String)>) -> Result<(), String> {
        let Keeping { cluster, place, .. } = &self.keeping;
        let kept = place.load().await?.unwrap_or_default();
        let why = match kept.validity(cluster) {
            Ok(validity) if !validity.has_ended(unix_now_s()) => {
                info!(%place, until = validity.end(), "the certificate is the one that is kept");
                self.current.send_replace(Some(Arc::new(kept)));
                return Ok(());
            }
            Ok(validity) => format!("its certificate ended at {}", validity.end()),
            Err(why) => format!("{place}: {why}"),
        };
        let again = format!("join the cluster again (`roadstead join {cluster}`): it comes back as itself");
        let Some(token) = self.token() else { return Err(format!("{why}, and there is no token; {again}")) };
        if let Some((known, because)) = refused
            && *known == token
        {
            return Err(because.clone());
        }
        let credentials = match self.exchange(&token, kept).await {
            Ok(credentials) => credentials,
            Err(Failed::Refused(words)) => {
                let because = format!("{why}, and its token was refused: {words}; {again}");
                *refused = Some((token, because.clone()));
                return Err(because);
            }
            Err(Failed::Later(words)) => return Err(format!("{why}, and its token cannot be exchanged: {words}")),
        };
        info!(%place, "the token was exchanged for a certificate");
        self.take(credentials).await;
        Ok(())
    }

    fn token(&self) -> Option<String> {
        let text = std::fs::read_to_string(self.keeping.token.as_ref()?).ok()?;
        Some(text.trim().to_owned()).filter(|token| !token.is_empty())
    }

    /// The key is kept before it is used: who is asked twice by the same one answers twice.
    async fn exchange(&self, token: &str, kept: Credentials) -> Result<Credentials, Failed> {
        let Keeping { cluster, uid, place, authorities, dial, .. } = &self.keeping;
        let file = authorities.as_ref().ok_or_else(|| Failed::Later("no authorities are given (--ca)".to_owned()))?;
        let authorities =
            std::fs::read_to_string(file).map_err(|error| Failed::Later(format!("cannot read {}: {error}", file.display())))?;
        let key = if kept.key.is_empty() {
            let key = exchange::new_key().map_err(Failed::Later)?;
            let waiting = Credentials { certificate: String::new(), key: key.clone(), authorities: authorities.clone() };
            place.store(&waiting).await.map_err(Failed::Later)?;
            key
        } else {
            kept.key
        };
        let stranger = Credentials { authorities, ..Credentials::default() };
        let replicas = dial(&stranger).map_err(Failed::Later)?;
        exchange::enrol(&replicas, Whose { cluster, uid }, token, &key).await
    }

    /// Uses a certificate from now on, and keeps it.
    async fn take(&self, credentials: Credentials) {
        let credentials = Arc::new(credentials);
        self.current.send_replace(Some(Arc::clone(&credentials)));
        while let Err(why) = self.keeping.place.store(&credentials).await {
            warn!(why, "the certificate is in use and not kept yet; it is written again");
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// Renews the certificate for ever. One that has ended all the same is got for a token again.
    pub async fn keep(&self) {
        loop {
            let validity = self.validity();
            let Some(validity) = validity.filter(|validity| !validity.has_ended(unix_now_s())) else {
                self.current.send_replace(None);
                self.obtain().await;
                continue;
            };
            reach(validity.renew_at(rand::rng().random_range(-1.0..1.0))).await;
            if let Err(why) = self.renew().await {
                warn!(%why, until = validity.end(), "the certificate was not renewed; it is tried again");
                let left = Duration::from_secs(u64::try_from(validity.ends - unix_now_s()).unwrap_or_default());
                tokio::time::sleep((left / PART_LEFT).clamp(SHORTEST_PAUSE, LONGEST_PAUSE)).await;
            }
        }
    }

    fn validity(&self) -> Option<Validity> {
        self.current.borrow().as_ref().and_then(|credentials| credentials.validity(&self.keeping.cluster).ok())
    }

    async fn renew(&self) -> Result<(), Failed> {
        let Keeping { cluster, uid, dial, .. } = &self.keeping;
        let current = self.current.borrow().clone().ok_or_else(|| Failed::Later("there is none".to_owned()))?;
        let replicas = dial(&current).map_err(Failed::Later)?;
        let renewed = exchange::renew(&replicas, Whose { cluster, uid }).await?;
        let until = renewed.validity(cluster).map(Validity::end).unwrap_or_default();
        info!(until, "the certificate was renewed");
        self.take(renewed).await;
        Ok(())
    }
}

/// Until a time, in seconds since 1970.
async fn reach(time: i64) {
    loop {
        let left = Duration::from_secs(u64::try_from(time - unix_now_s()).unwrap_or_default());
        if left.is_zero() {
            return;
        }
        tokio::time::sleep(left.min(LONGEST_SLEEP)).await;
    }
}
