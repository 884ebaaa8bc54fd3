//! Pods, as little of them as is needed: whose they are, where, and what keeps them from running.

use k8s_openapi::api::core::v1::{ContainerStatus, Pod};

/// What is kept of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SlimPod {
    /// Which one it is.
    pub(super) uid: Box<str>,
    /// Whether all in it has ended for good; its object stays until somebody deletes it.
    pub(super) ended: bool,
    /// Whether its node itself has said that it ended, and ended well: nobody else says that.
    pub(super) succeeded: bool,
    /// Whether it has been asked to end, or has and is being taken away.
    pub(super) deleting: bool,
    /// The node that it is bound to.
    pub(super) node: Option<Box<str>>,
    /// What made it: `Deployment/web`; empty if nothing did.
    pub(super) owner: Box<str>,
    /// What keeps it from being ready, in plain words with its name.
    pub(super) trouble: Option<Box<str>>,
}

impl SlimPod {
    /// What is kept of it.
    pub(super) fn of(pod: &Pod) -> Self {
        let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
        Self {
            uid: pod.metadata.uid.as_deref().unwrap_or_default().into(),
            ended: matches!(phase, Some("Succeeded" | "Failed")),
            succeeded: phase == Some("Succeeded"),
            deleting: pod.metadata.deletion_timestamp.is_some(),
            node: pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).map(Box::from),
            owner: owner(pod).into(),
            trouble: trouble(pod).map(Box::from),
        }
    }
}

/// A Deployment's pods are owned by a ReplicaSet that is called as the Deployment with the template's hash behind.
fn owner(pod: &Pod) -> String {
    let owners = pod.metadata.owner_references.iter().flatten();
    let Some(owner) = owners.into_iter().find(|owner| owner.controller == Some(true)) else { return String::new() };
    let hash = pod.metadata.labels.iter().flatten().find(|(name, _)| *name == "pod-template-hash").map(|(_, hash)| hash.as_str());
    let deployment = hash.and_then(|hash| owner.name.strip_suffix(hash)?.strip_suffix('-'));
    match deployment.filter(|_| owner.kind == "ReplicaSet") {
        Some(name) => format!("Deployment/{name}"),
        None => format!("{}/{}", owner.kind, owner.name),
    }
}

fn trouble(pod: &Pod) -> Option<String> {
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    if pod.metadata.deletion_timestamp.is_some() {
        return Some(format!("pod {name} is ending"));
    }
    let status = pod.status.as_ref()?;
    match status.phase.as_deref() {
        Some("Succeeded") => return None,
        Some("Failed") => {
            let why = status.message.as_deref().or(status.reason.as_deref()).unwrap_or("no reason is given");
            return Some(format!("pod {name} has failed: {why}"));
        }
        Some(_) | None => {}
    }
    let condition = |kind: &str| status.conditions.iter().flatten().find(|condition| condition.type_ == kind);
    if let Some(unscheduled) = condition("PodScheduled").filter(|condition| condition.status == "False") {
        let why = unscheduled.message.as_deref().unwrap_or("no reason is given");
        return Some(format!("pod {name} cannot be scheduled: {why}"));
    }
    let inits = status.init_container_statuses.iter().flatten();
    if let Some(why) = inits.chain(status.container_statuses.iter().flatten()).find_map(stuck) {
        return Some(format!("pod {name}: {why}"));
    }
    let ready = condition("Ready").is_some_and(|condition| condition.status == "True");
    (!ready).then(|| match status.container_statuses.iter().flatten().find(|container| !container.ready) {
        Some(container) => format!("pod {name}: container {} is not ready", container.name),
        None => format!("pod {name} is not ready"),
    })
}

/// Why a container does not start, or not stay.
fn stuck(container: &ContainerStatus) -> Option<String> {
    let waiting = container.state.as_ref()?.waiting.as_ref()?;
    let reason = waiting.reason.as_deref()?;
    let message = waiting.message.as_deref().map(|message| format!(": {message}")).unwrap_or_default();
    Some(match reason {
        "ContainerCreating" | "PodInitializing" => return None,
        "ErrImagePull" | "ImagePullBackOff" | "InvalidImageName" | "ErrImageNeverPull" | "RegistryUnavailable" => {
            format!("image {} cannot be pulled ({reason})", container.image)
        }
        "CrashLoopBackOff" => {
            let ended = container.last_state.as_ref().and_then(|state| state.terminated.as_ref());
            let code = ended.map(|ended| format!(" (exit code {})", ended.exit_code)).unwrap_or_default();
            format!("container {} ends again and again{code}", container.name)
        }
        reason => format!("container {} cannot start ({reason}{message})", container.name),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(status: serde_json::Value) -> SlimPod {
        let pod = json!({
            "metadata": {
                "name": "web-7f-x", "labels": {"pod-template-hash": "7f"},
                "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web-7f", "uid": "u", "controller": true}],
            },
            "status": status,
        });
        SlimPod::of(&serde_json::from_value(pod).unwrap())
    }

    #[test]
    fn a_pod_is_told_by_its_deployment_and_by_what_is_wrong() {
        let waiting = |reason: &str| {
            let container = json!({"name": "web", "image": "shop:1", "imageID": "", "ready": false, "restartCount": 0, "state": {"waiting": {"reason": reason}},
                "lastState": {"terminated": {"exitCode": 3}}});
            pod(json!({"phase": "Pending", "containerStatuses": [container]}))
        };
        assert_eq!(&*waiting("ImagePullBackOff").owner, "Deployment/web");
        assert_eq!(waiting("ImagePullBackOff").trouble.as_deref(), Some("pod web-7f-x: image shop:1 cannot be pulled (ImagePullBackOff)"));
        assert_eq!(waiting("CrashLoopBackOff").trouble.as_deref(), Some("pod web-7f-x: container web ends again and again (exit code 3)"));
        assert_eq!(waiting("ContainerCreating").trouble.as_deref(), Some("pod web-7f-x: container web is not ready"));
        let unschedulable = pod(json!({"phase": "Pending", "conditions": [
            {"type": "PodScheduled", "status": "False", "message": "0/3 nodes are available: 3 Insufficient cpu."}]}));
        let told = unschedulable.trouble.unwrap();
        assert_eq!(&*told, "pod web-7f-x cannot be scheduled: 0/3 nodes are available: 3 Insufficient cpu.");
        assert_eq!(pod(json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]})).trouble, None);
    }
}
