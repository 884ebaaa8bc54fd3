//! When it is tried, and carrying it out. It fails without harm: then nothing is known, and why.

use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, PostParams};
use kube::{Api, Client};
use roadstead_core::observed::{NetworkPolicies, Upheld};
use serde_json::Value;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tracing::{info, warn};

use super::pods::{self, DIALER, LISTENER, Standing};
use crate::wire::shortened;

/// How often it is tried anew: a network plugin is changed seldom, and its agent started again then mostly.
pub const TRY_EVERY: Duration = Duration::from_secs(24 * 3600);
/// How soon after nothing could be said.
pub const TRY_AGAIN_EVERY: Duration = Duration::from_secs(600);
/// How often a pod is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long a pod may take to come up: an image has to be fetched.
const COMES_WITHIN: Duration = Duration::from_secs(120);
/// How long the dialer may take from then on: a little more than it takes at most.
const ENDS_WITHIN: Duration = Duration::from_secs(120);
/// How long a pod of an earlier try may take to be gone.
const GOES_WITHIN: Duration = Duration::from_secs(60);

/// Tries, in one cluster.
#[derive(Clone)]
pub struct Probe {
    pods: Api<Pod>,
    image: String,
}

impl Probe {
    /// With pods of an image that has `roadstead` in it, in the agent's own namespace.
    #[must_use]
    pub fn new(client: Client, namespace: &str, image: &str) -> Self {
        Self { pods: Api::namespaced(client, namespace), image: image.to_owned() }
    }

    /// Tries now and then, for ever, and says what was found.
    pub async fn keep(self, found: watch::Sender<Option<NetworkPolicies>>) {
        loop {
            let policies = self.find_out().await;
            let NetworkPolicies { ingress, egress, why } = &policies;
            let known = *ingress != Upheld::Unknown && *egress != Upheld::Unknown;
            match (ingress, egress) {
                (Upheld::Yes, Upheld::Yes) => info!("network policies hold in this cluster"),
                (Upheld::No, _) | (_, Upheld::No) => {
                    warn!(?ingress, ?egress, "network policies do not hold in this cluster: its tenants are not kept apart");
                }
                (Upheld::Unknown | Upheld::Yes, Upheld::Unknown) | (Upheld::Unknown, Upheld::Yes) => {
                    warn!(why, "it is not known whether network policies hold in this cluster");
                }
            }
            found.send_replace(Some(policies));
            sleep(if known { TRY_EVERY } else { TRY_AGAIN_EVERY }).await;
        }
    }

    /// Tries once.
    pub async fn find_out(&self) -> NetworkPolicies {
        let found = self.attempt().await;
        // Whatever came of it: nothing is left of it.
        let cleared = self.clear().await;
        match found.and_then(|found| cleared.map(|()| found)) {
            Ok(found) => found,
            Err(why) => NetworkPolicies { why: shortened(&why), ..NetworkPolicies::default() },
        }
    }

    async fn attempt(&self) -> Result<NetworkPolicies, String> {
        self.clear().await?;
        self.create(pods::listener(&self.image)).await?;
        let address =
            match self.until(LISTENER, COMES_WITHIN, |standing| matches!(standing, Standing::Runs(_) | Standing::Ended(_))).await? {
                Standing::Runs(address) => address,
                Standing::Comes(why) | Standing::Fails(why) | Standing::Ended(why) => {
                    return Err(format!("the pod {LISTENER} has ended: {why}"));
                }
            };
        self.create(pods::dialer(&self.image, &address)).await?;
        let has_ended = |standing: &Standing| matches!(standing, Standing::Ended(_));
        match self.until(DIALER, COMES_WITHIN + ENDS_WITHIN, has_ended).await? {
            Standing::Ended(message) => pods::found(&message).ok_or_else(|| format!("the pod {DIALER} has ended: {message}")),
            Standing::Runs(_) | Standing::Comes(_) | Standing::Fails(_) => Err(format!("the pod {DIALER} does not end")),
        }
    }

    async fn create(&self, pod: Value) -> Result<(), String> {
        let pod: Pod = serde_json::from_value(pod).map_err(|error| error.to_string())?;
        self.pods.create(&PostParams::default(), &pod).await.map(drop).map_err(|error| format!("no pod can be made to try it: {error}"))
    }

    /// Waits until a pod is as wanted.
    async fn until(&self, name: &str, within: Duration, wanted: impl Fn(&Standing) -> bool) -> Result<Standing, String> {
        let end = Instant::now() + within;
        loop {
            let pod = self.pods.get(name).await.map_err(|error| format!("the pod {name}: {error}"))?;
            let standing = pods::standing(&pod);
            if wanted(&standing) {
                return Ok(standing);
            }
            let is_late = Instant::now() >= end;
            match standing {
                Standing::Fails(why) => return Err(format!("the pod {name} does not start: {why}")),
                Standing::Comes(why) if is_late => return Err(format!("the pod {name} does not start: {why}")),
                Standing::Runs(_) | Standing::Ended(_) if is_late => return Err(format!("the pod {name} does not end")),
                Standing::Comes(_) | Standing::Runs(_) | Standing::Ended(_) => sleep(LOOK_EVERY).await,
            }
        }
    }

    /// Deletes both pods, and waits until they are gone.
    async fn clear(&self) -> Result<(), String> {
        let end = Instant::now() + GOES_WITHIN;
        for name in [DIALER, LISTENER] {
            loop {
                match self.pods.delete(name, &DeleteParams::default()).await {
                    Err(kube::Error::Api(status)) if status.code == 404 => break,
                    Ok(_) if Instant::now() < end => sleep(LOOK_EVERY).await,
                    Ok(_) => return Err(format!("the pod {name} of an earlier try is not gone")),
                    Err(error) => return Err(format!("the pod {name} cannot be deleted: {error}")),
                }
            }
        }
        Ok(())
    }
}
