//! Which of an agent's replicas works: the one that holds a Lease (`coordination.k8s.io/v1`).
//!
//! The holder renews its lease well before it ends and stops working when it cannot; the others wait until it has ended, by their own clocks:
//! they measure since they last saw it change, so that clocks need not agree. Two that work at the same time for a moment do no harm: what
//! they do is the same, and an older intent is refused by its generation.

use std::time::{Duration, Instant};

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::api::PostParams;
use kube::{Api, Client};
use tracing::{info, warn};

/// How long a lease is valid after its renewal.
const VALID: Duration = Duration::from_secs(15);
/// When a holder that could not renew it stops: before anybody else begins.
const GIVE_UP: Duration = Duration::from_secs(10);
/// How often it is renewed, or looked at.
const EVERY: Duration = Duration::from_secs(2);
/// How long one call may take.
const CALL_WITHIN: Duration = Duration::from_secs(5);

/// A lease that one of several may hold.
pub struct Election {
    api: Api<Lease>,
    name: String,
    /// Who we are: unique among the replicas.
    me: String,
    /// The version that was seen last, and when it was seen first.
    seen: Option<(String, Instant)>,
}

impl Election {
    /// For the lease of this name in a namespace.
    #[must_use]
    pub fn new(client: Client, namespace: &str, name: &str, me: &str) -> Self {
        Self { api: Api::namespaced(client, namespace), name: name.to_owned(), me: me.to_owned(), seen: None }
    }

    /// Waits until the lease is held.
    pub async fn won(&mut self) {
        info!(me = self.me, lease = self.name, "waiting for the lease");
        loop {
            match tokio::time::timeout(CALL_WITHIN, self.attempt()).await {
                Ok(Ok(true)) => return info!(me = self.me, "the lease is held"),
                Ok(Ok(false)) => {}
                Ok(Err(error)) => warn!(%error, "the lease cannot be looked at"),
                Err(_) => warn!("the lease cannot be looked at: no answer in time"),
            }
            tokio::time::sleep(EVERY).await;
        }
    }

    /// Renews the lease until that has failed for too long, or somebody else holds it.
    pub async fn lost(&mut self) {
        let mut renewed = Instant::now();
        while renewed.elapsed() < GIVE_UP {
            tokio::time::sleep(EVERY).await;
            match tokio::time::timeout(CALL_WITHIN, self.attempt()).await {
                Ok(Ok(true)) => renewed = Instant::now(),
                Ok(Ok(false)) => break,
                Ok(Err(error)) => warn!(%error, "the lease cannot be renewed"),
                Err(_) => warn!("the lease cannot be renewed: no answer in time"),
            }
        }
        warn!(me = self.me, "the lease is not held any more");
    }

    /// Takes or renews the lease; whether it is held now.
    async fn attempt(&mut self) -> Result<bool, kube::Error> {
        let Some(mut lease) = self.api.get_opt(&self.name).await? else {
            let metadata = ObjectMeta { name: Some(self.name.clone()), ..ObjectMeta::default() };
            let lease = Lease { metadata, spec: Some(self.spec(0)) };
            return lost_race(self.api.create(&PostParams::default(), &lease).await);
        };
        let spec = lease.spec.take().unwrap_or_default();
        let holder = spec.holder_identity.as_deref().unwrap_or_default();
        let transitions = spec.lease_transitions.unwrap_or_default();
        if holder != self.me && !holder.is_empty() && !self.has_ended(lease.metadata.resource_version.as_deref().unwrap_or_default()) {
            return Ok(false);
        }
        lease.spec = Some(LeaseSpec {
            acquire_time: if holder == self.me { spec.acquire_time.clone() } else { Some(now()) },
            ..self.spec(if holder == self.me { transitions } else { transitions.saturating_add(1) })
        });
        // With the version that was read: of two that try, one is refused.
        lost_race(self.api.replace(&self.name, &PostParams::default(), &lease).await)
    }

    /// Whether another's lease has not changed for as long as it is valid.
    fn has_ended(&mut self, version: &str) -> bool {
        match &self.seen {
            Some((known, since)) if known == version => since.elapsed() > VALID,
            Some(_) | None => {
                self.seen = Some((version.to_owned(), Instant::now()));
                false
            }
        }
    }

    fn spec(&self, transitions: i32) -> LeaseSpec {
        LeaseSpec {
            holder_identity: Some(self.me.clone()),
            lease_duration_seconds: i32::try_from(VALID.as_secs()).ok(),
            lease_transitions: Some(transitions),
            renew_time: Some(now()),
            acquire_time: Some(now()),
            ..LeaseSpec::default()
        }
    }

    /// Lets the next one begin at once.
    pub async fn give_up(&self) {
        let give_up = async {
            let mut lease = self.api.get(&self.name).await?;
            if let Some(spec) = lease.spec.as_mut().filter(|spec| spec.holder_identity.as_deref() == Some(&self.me)) {
                spec.holder_identity = Some(String::new());
                self.api.replace(&self.name, &PostParams::default(), &lease).await?;
            }
            Ok::<(), kube::Error>(())
        };
        match tokio::time::timeout(CALL_WITHIN, give_up).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => warn!(%error, "the lease could not be given up; it ends by itself"),
            Err(_) => warn!("the lease could not be given up in time; it ends by itself"),
        }
    }
}

/// A conflict means that somebody else was quicker.
fn lost_race(result: Result<Lease, kube::Error>) -> Result<bool, kube::Error> {
    match result {
        Ok(_) => Ok(true),
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(false),
        Err(error) => Err(error),
    }
}

fn now() -> MicroTime {
    MicroTime(jiff::Timestamp::now())
}
