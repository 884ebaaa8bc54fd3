//! The two pods, and what one that has ended, or does not come up, says.

use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use roadstead_core::observed::NetworkPolicies;
use serde_json::{Value, json};

/// What a pod of the two is for, by which policies choose it: the end of its name.
pub const LABEL: &str = "roadstead.dev/probe";
/// The pod that is reached, or not.
pub const LISTENER: &str = "roadstead-probe-listener";
/// The pod that tries.
pub const DIALER: &str = "roadstead-probe-dialer";
/// They end by themselves, also when nobody is there any more to delete them.
const LIVES_S: u64 = 300;
/// The user that the image runs as.
const USER: u32 = 65532;

/// Reasons for which a container waits that pass by themselves.
const ON_ITS_WAY: [&str; 2] = ["ContainerCreating", "PodInitializing"];

/// A pod of the two: it has no rights, and writes nothing but what it found.
fn pod(name: &str, image: &str, arguments: &[&str]) -> Value {
    let part = name.rsplit_once('-').map_or(name, |(_, part)| part);
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {
            "app.kubernetes.io/name": "roadstead-probe", "app.kubernetes.io/part-of": "roadstead", LABEL: part,
        }},
        "spec": {
            "restartPolicy": "Never",
            "activeDeadlineSeconds": LIVES_S,
            "terminationGracePeriodSeconds": 1,
            "automountServiceAccountToken": false,
            "enableServiceLinks": false,
            "securityContext": {
                "runAsNonRoot": true, "runAsUser": USER, "runAsGroup": USER, "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [{
                "name": part,
                "image": image,
                "command": ["roadstead", "probe"],
                "args": arguments,
                "resources": {"requests": {"cpu": "10m", "memory": "32Mi"}, "limits": {"memory": "128Mi"}},
                "securityContext": {
                    "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true, "capabilities": {"drop": ["ALL"]},
                },
            }],
        },
    })
}

pub(super) fn listener(image: &str) -> Value {
    pod(LISTENER, image, &["listen"])
}

/// On another node, if there is one: what tenants of different nodes send each other is to be denied, too.
pub(super) fn dialer(image: &str, listener: &str) -> Value {
    let mut pod = pod(DIALER, image, &["dial", listener]);
    pod["spec"]["affinity"] = json!({"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [
        {"weight": 100, "podAffinityTerm": {"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {LABEL: "listener"}}}},
    ]}});
    pod
}

/// How a pod is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// It is on its way, and why it is not there yet.
    Comes(String),
    /// It does not come up as it is: an image that cannot be pulled, a container that cannot be made.
    Fails(String),
    /// It runs, at this address.
    Runs(String),
    /// It has ended, and said this.
    Ended(String),
}

pub(super) fn standing(pod: &Pod) -> Standing {
    let Some(status) = &pod.status else { return Standing::Comes("nothing is known of it".to_owned()) };
    let container = status.container_statuses.iter().flatten().next();
    let state = container.and_then(|container| container.state.as_ref());
    if let Some(ended) = state.and_then(|state| state.terminated.as_ref()) {
        let words = ended.message.clone().filter(|message| !message.is_empty());
        return Standing::Ended(words.unwrap_or_else(|| format!("exit code {}", ended.exit_code)));
    }
    if matches!(status.phase.as_deref(), Some("Failed" | "Succeeded")) {
        return Standing::Ended(status.message.clone().or_else(|| status.reason.clone()).unwrap_or_default());
    }
    match (&status.pod_ip, state.is_some_and(|state| state.running.is_some())) {
        (Some(address), true) => Standing::Runs(address.clone()),
        (Some(_) | None, _) => waits(pod, container),
    }
}

/// Why it is not there yet, in Kubernetes' words.
fn waits(pod: &Pod, container: Option<&ContainerStatus>) -> Standing {
    let waiting = container.and_then(|container| container.state.as_ref()?.waiting.as_ref());
    let in_the_way = waiting.filter(|waiting| !waiting.reason.as_deref().is_some_and(|reason| ON_ITS_WAY.contains(&reason)));
    if let Some(waiting) = in_the_way {
        let words = [&waiting.reason, &waiting.message].into_iter().flatten().map(String::as_str);
        return Standing::Fails(words.collect::<Vec<_>>().join(": "));
    }
    let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let unscheduled = conditions.into_iter().find(|condition| condition.type_ == "PodScheduled" && condition.status == "False");
    Standing::Comes(unscheduled.and_then(|condition| condition.message.clone()).unwrap_or_else(|| "it is being started".to_owned()))
}

/// What the dialer found: as it writes it, and as it is read.
pub(super) fn found(message: &str) -> Option<NetworkPolicies> {
    serde_json::from_str(message.trim()).ok()
}

#[cfg(test)]
mod tests {
    use roadstead_core::observed::Upheld;

    use super::*;

    fn with(status: Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": DIALER}, "status": status})).expect("it is a pod")
    }

    #[test]
    fn how_a_pod_is_follows_from_what_kubernetes_tells() {
        let comes = |status| if let Standing::Comes(why) = standing(&with(status)) { why } else { panic!("it is there") };
        assert_eq!(comes(json!({})), "it is being started");
        let none = json!({"conditions": [{"type": "PodScheduled", "status": "False", "message": "0/3 nodes are available"}]});
        assert_eq!(comes(none), "0/3 nodes are available");
        let image = json!({"containerStatuses": [{"name": "x", "image": "", "imageID": "", "ready": false, "restartCount": 0,
            "state": {"waiting": {"reason": "ErrImagePull", "message": "no such host"}}}]});
        assert_eq!(standing(&with(image)), Standing::Fails("ErrImagePull: no such host".to_owned()));
        let running = |state: Value| {
            json!({"podIP": "10.0.0.7", "phase": "Running", "containerStatuses": [
                {"name": "x", "image": "", "imageID": "", "ready": true, "restartCount": 0, "state": state}]})
        };
        assert_eq!(standing(&with(running(json!({"running": {}})))), Standing::Runs("10.0.0.7".to_owned()));
        let ended = running(json!({"terminated": {"exitCode": 0, "message": "{}"}}));
        assert_eq!(standing(&with(ended)), Standing::Ended("{}".to_owned()));
        let late = json!({"phase": "Failed", "reason": "DeadlineExceeded"});
        assert_eq!(standing(&with(late)), Standing::Ended("DeadlineExceeded".to_owned()));
    }

    #[test]
    fn what_the_dialer_writes_is_what_is_read() {
        let written = NetworkPolicies { ingress: Upheld::Yes, egress: Upheld::No, why: String::new() };
        assert_eq!(found(&serde_json::to_string(&written).expect("it is JSON")), Some(written));
        assert_eq!(found("exit code 137"), None);
    }

    #[test]
    fn the_pods_keep_to_the_strictest_pod_security_level_and_have_no_rights() {
        for pod in [listener("roadstead:1"), dialer("roadstead:1", "10.0.0.7")] {
            let spec = &pod["spec"];
            assert_eq!((&spec["automountServiceAccountToken"], &spec["securityContext"]["runAsNonRoot"]), (&json!(false), &json!(true)));
            assert_eq!(spec["containers"][0]["securityContext"]["capabilities"]["drop"], json!(["ALL"]));
            assert!(spec.get("volumes").is_none() && spec.get("serviceAccountName").is_none());
        }
    }
}
