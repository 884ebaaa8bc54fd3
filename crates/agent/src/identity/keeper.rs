//! Sees to it that there is a certificate that is good: the kept one, else one for the token; renewed while it is good. One that replicas
//! refuse although it is good by its dates, because it or its issuer was revoked, gives way to one for a token that was not used yet.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rand::RngExt;
use tokio::sync::watch;
use tokio::time::Instant;
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

/// After replicas were dialled it is waited for this long: whoever dials again then does so because no connection lasts.
const SETTLES_WITHIN: Duration = Duration::from_secs(3);
/// Who is refused dials again within this time: longer than the session pauses after a refusal.
const DIALS_AGAIN_WITHIN: Duration = Duration::from_secs(30);

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
    /// How often replicas were dialled with it.
    dialled: watch::Sender<u64>,
    /// The token that was exchanged last.
    used: Mutex<Option<String>>,
}

/// A renewal that failed, of this certificate alone: another one is renewed when it is due.
struct Pause {
    of: Arc<Credentials>,
    /// When it is tried again.
    until: Instant,
}

/// Coming back after replicas have refused the certificate.
#[derive(Default)]
struct Return {
    /// What was logged last, so that each reason is said once.
    told: String,
    /// The token that is being exchanged and the key that the certificate will be for: asked for again with another one, it would be spent.
    asked: Option<(String, String)>,
    /// The token that was refused, and why.
    refused: Option<(String, String)>,
}

impl Keeper {
    /// Nothing is known yet.
    #[must_use]
    pub fn new(keeping: Keeping) -> Self {
        Self { keeping, current: watch::Sender::new(None), dialled: watch::Sender::new(0), used: Mutex::new(None) }
    }

    /// How replicas are reached with the certificate of now.
    #[must_use]
    pub fn replicas(&self) -> crate::session::Replicas {
        let (current, dial, dialled) = (self.current.subscribe(), Arc::clone(&self.keeping.dial), self.dialled.clone());
        Arc::new(move || {
            let credentials = current.borrow().clone();
            dialled.send_modify(|times| *times = times.wrapping_add(1));
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
        let again = format!("join the cluster again (`{}`): it comes back as itself", self.join(""));
        let Some(token) = self.token() else { return Err(format!("{why}, and there is no token; {again}")) };
        if let Some((known, because)) = refused
            && *known == token
        {
            return Err(because.clone());
        }
        let exchanged = match self.kept_key(kept).await {
            Ok(key) => self.exchange(&token, &key).await,
            Err(failed) => Err(failed),
        };
        let credentials = match exchanged {
            Ok(credentials) => credentials,
            Err(Failed::Refused(words)) => {
                let because = format!("{why}, and its token was refused: {words}; {again}");
                *refused = Some((token, because.clone()));
                return Err(because);
            }
            Err(Failed::Later(words)) => return Err(format!("{why}, and its token cannot be exchanged: {words}")),
        };
        info!(%place, "the token was exchanged for a certificate");
        self.set_used(token);
        self.take(credentials).await;
        Ok(())
    }

    /// The command that makes a token.
    fn join(&self, flag: &str) -> String {
        let Keeping { cluster, place, .. } = &self.keeping;
        match place {
            Place::Secret { .. } => format!("roadstead join {cluster} --apply{flag}"),
            // There a token is made in any case.
            Place::Folder(_) => format!("roadstead join {cluster} --token-file FILE"),
        }
    }

    fn token(&self) -> Option<String> {
        let text = std::fs::read_to_string(self.keeping.token.as_ref()?).ok()?;
        Some(text.trim().to_owned()).filter(|token| !token.is_empty())
    }

    fn set_used(&self, token: String) {
        *self.used.lock().unwrap_or_else(PoisonError::into_inner) = Some(token);
    }

    fn is_used(&self, token: &str) -> bool {
        self.used.lock().unwrap_or_else(PoisonError::into_inner).as_deref() == Some(token)
    }

    fn given_authorities(&self) -> Result<String, Failed> {
        let file = self.keeping.authorities.as_ref().ok_or_else(|| Failed::Later("no authorities are given (--ca)".to_owned()))?;
        std::fs::read_to_string(file).map_err(|error| Failed::Later(format!("cannot read {}: {error}", file.display())))
    }

    /// The key is kept before it is used: who is asked twice by the same one answers twice.
    async fn kept_key(&self, kept: Credentials) -> Result<String, Failed> {
        if !kept.key.is_empty() {
            return Ok(kept.key);
        }
        let authorities = self.given_authorities()?;
        let key = exchange::new_key().map_err(Failed::Later)?;
        let waiting = Credentials { certificate: String::new(), key: key.clone(), authorities };
        self.keeping.place.store(&waiting).await.map_err(Failed::Later)?;
        Ok(key)
    }

    async fn exchange(&self, token: &str, key: &str) -> Result<Credentials, Failed> {
        let Keeping { cluster, uid, dial, .. } = &self.keeping;
        let stranger = Credentials { authorities: self.given_authorities()?, ..Credentials::default() };
        let replicas = dial(&stranger).map_err(Failed::Later)?;
        exchange::enrol(&replicas, Whose { cluster, uid }, token, key).await
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

    /// Renews the certificate for ever. One that has ended all the same, or that replicas refuse, is got for a token again.
    pub async fn keep(&self) {
        let (mut pause, mut back) = (None, Return::default());
        loop {
            let validity = self.validity();
            let Some(validity) = validity.filter(|validity| !validity.has_ended(unix_now_s())) else {
                self.current.send_replace(None);
                self.obtain().await;
                continue;
            };
            let (renew_at, paused) = (validity.renew_at(rand::rng().random_range(-1.0..1.0)), self.paused(pause.as_ref()));
            let due = async {
                match paused {
                    Some(until) => tokio::time::sleep_until(until).await,
                    None => reach(renew_at).await,
                }
            };
            tokio::select! {
                () = due => pause = self.renew_or_pause(validity).await,
                why = self.turned_away() => self.come_back(&why, &mut back).await,
            }
        }
    }

    /// Until when the renewal of the certificate of now waits because one has failed.
    fn paused(&self, pause: Option<&Pause>) -> Option<Instant> {
        let current = self.current.borrow();
        pause.filter(|pause| current.as_ref().is_some_and(|current| Arc::ptr_eq(current, &pause.of))).map(|pause| pause.until)
    }

    /// Renews; the pause before the next attempt if that fails.
    async fn renew_or_pause(&self, validity: Validity) -> Option<Pause> {
        let of = self.current.borrow().clone()?;
        let why = self.renew().await.err()?;
        warn!(%why, until = validity.end(), "the certificate was not renewed; it is tried again");
        let left = Duration::from_secs(u64::try_from(validity.ends - unix_now_s()).unwrap_or_default());
        Some(Pause { of, until: Instant::now() + (left / PART_LEFT).clamp(SHORTEST_PAUSE, LONGEST_PAUSE) })
    }

    /// Until replicas refuse the certificate: why. They are asked only while connections do not last: a thousand agents would cost them more
    /// than what it is good for.
    async fn turned_away(&self) -> String {
        let mut dialled = self.dialled.subscribe();
        loop {
            // We hold the sender ourselves: it is never gone.
            let _ = dialled.changed().await;
            tokio::time::sleep(SETTLES_WITHIN).await;
            dialled.mark_unchanged();
            if tokio::time::timeout(DIALS_AGAIN_WITHIN, dialled.changed()).await.is_err() {
                continue;
            }
            dialled.mark_changed();
            let current = self.current.borrow().clone();
            let replicas = current.and_then(|current| (self.keeping.dial)(&current).ok()).unwrap_or_default();
            if let Some(why) = exchange::refusal(&replicas, &self.keeping.cluster).await {
                return why;
            }
        }
    }

    /// Exchanges the token, if it is another one than those that were tried, for a certificate in place of the one that is refused.
    async fn come_back(&self, why: &str, back: &mut Return) {
        match self.attempt_return(back).await {
            Ok(()) => {
                info!(place = %self.keeping.place, "the token was exchanged for a certificate, in place of one that was refused");
                *back = Return::default();
            }
            Err(because) => {
                let why = format!("replicas refuse its certificate ({why}), {because}");
                if why != back.told {
                    error!(why, "this agent cannot speak to the placement service; its tenants keep running as they are");
                    back.told = why;
                }
            }
        }
    }

    async fn attempt_return(&self, back: &mut Return) -> Result<(), String> {
        let again = format!("join the cluster again (`{}`): it comes back as itself", self.join(" --new-token"));
        let token = self.token().filter(|token| !self.is_used(token));
        let token = token.ok_or_else(|| format!("and there is no token that was not used yet; {again}"))?;
        if let Some((_, because)) = back.refused.as_ref().filter(|(refused, _)| *refused == token) {
            return Err(because.clone());
        }
        // Another key: the one before may be why the certificate was revoked. It is kept with its certificate only, in place of one that
        // replicas may take again.
        let key = match back.asked.take().filter(|(asked, _)| *asked == token) {
            Some((_, key)) => key,
            None => exchange::new_key()?,
        };
        match self.exchange(&token, &key).await {
            Ok(credentials) => {
                self.set_used(token);
                self.take(credentials).await;
                Ok(())
            }
            Err(Failed::Refused(words)) => {
                let because = format!("and its token was refused: {words}; {again}");
                back.refused = Some((token, because.clone()));
                Err(because)
            }
            Err(Failed::Later(words)) => {
                back.asked = Some((token, key));
                Err(format!("and its token cannot be exchanged: {words}"))
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

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// A keeper in this folder, which reaches no replica; and how often it has tried to.
    fn keeper(folder: &tempfile::TempDir) -> (Keeper, Arc<AtomicUsize>) {
        let (dialled, authorities) = (Arc::new(AtomicUsize::new(0)), folder.path().join("ca.crt"));
        std::fs::write(&authorities, "the authorities").unwrap();
        let dials = Arc::clone(&dialled);
        let keeping = Keeping {
            cluster: "eu-1".to_owned(),
            uid: "uid-eu-1".to_owned(),
            place: Place::Folder(folder.path().join("identity")),
            token: Some(folder.path().join("token")),
            authorities: Some(authorities),
            dial: Arc::new(move |_| {
                dials.fetch_add(1, Ordering::Relaxed);
                Err("no replica is there".to_owned())
            }),
        };
        (Keeper::new(keeping), dialled)
    }

    #[tokio::test]
    async fn a_token_that_was_used_is_not_exchanged_again_and_another_one_is() {
        let folder = tempfile::tempdir().unwrap();
        let (keeper, dialled) = keeper(&folder);
        keeper.set_used("first".to_owned());
        let (token, mut back) = (folder.path().join("token"), Return::default());
        std::fs::write(&token, "first\n").unwrap();
        let why = keeper.attempt_return(&mut back).await.unwrap_err();
        assert!(why.contains("no token that was not used yet") && why.contains("eu-1"), "{why}");
        assert_eq!(dialled.load(Ordering::Relaxed), 0, "nobody is asked");

        std::fs::write(&token, "second\n").unwrap();
        let why = keeper.attempt_return(&mut back).await.unwrap_err();
        assert_eq!((why.as_str(), dialled.load(Ordering::Relaxed)), ("and its token cannot be exchanged: no replica is there", 1));
        let asked = back.asked.clone();
        assert!(asked.as_ref().is_some_and(|(token, _)| token == "second"), "with the same key next time");
        keeper.attempt_return(&mut back).await.unwrap_err();
        assert!(back.asked == asked && dialled.load(Ordering::Relaxed) == 2, "another key would spend the token");
    }

    #[tokio::test(start_paused = true)]
    async fn a_renewal_that_failed_holds_up_that_certificate_until_one_time_and_no_other() {
        let folder = tempfile::tempdir().unwrap();
        let (keeper, _) = keeper(&folder);
        let held = |text: &str| Arc::new(Credentials { certificate: text.to_owned(), ..Credentials::default() });
        keeper.current.send_replace(Some(held("first")));
        let validity = Validity { begins: 0, ends: unix_now_s() + 1000 };
        let begun = Instant::now();
        let pause = keeper.renew_or_pause(validity).await;
        let until = keeper.paused(pause.as_ref()).unwrap();
        let wait = until - begun;
        assert!((Duration::from_secs(99)..=Duration::from_secs(100)).contains(&wait), "{wait:?}");
        // As refusals come in meanwhile.
        tokio::time::advance(Duration::from_secs(30)).await;
        assert_eq!(keeper.paused(pause.as_ref()), Some(until));
        // By a token, in place of the first one.
        keeper.current.send_replace(Some(held("second")));
        assert_eq!(keeper.paused(pause.as_ref()), None);
    }
}
