//! Pods against the Pod Security level of their namespace (Kubernetes' Pod Security Standards). It acts on pods and never on what makes them:
//! without this a tenant whose pods are all refused would be applied without a word and never run.
//!
//! Fields of Linux containers only; what is rarer (SELinux, AppArmor, sysctls) is left to the API server.

use serde_json::Value;

use crate::template::PodSecurity;

/// Kinds of volumes that the restricted level knows.
const VOLUMES: [&str; 8] = ["configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"];
/// Capabilities that the baseline level lets a container add.
const CAPABILITIES: [&str; 13] = [
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];

/// What of a pod its namespace would not admit.
pub(crate) fn refusals(level: PodSecurity, pod: &Value) -> Vec<String> {
    let mut found = Vec::new();
    match level {
        PodSecurity::Privileged => {}
        PodSecurity::Baseline => baseline(pod, &mut found),
        PodSecurity::Restricted => {
            baseline(pod, &mut found);
            restricted(pod, &mut found);
        }
    }
    found
}

fn containers(pod: &Value) -> impl Iterator<Item = (&str, &Value)> {
    let all = ["initContainers", "containers"].into_iter().filter_map(|field| pod.get(field)?.as_array()).flatten();
    all.map(|container| (container.get("name").and_then(Value::as_str).unwrap_or("?"), container))
}

fn volumes(pod: &Value) -> impl Iterator<Item = &Value> {
    pod.get("volumes").and_then(Value::as_array).into_iter().flatten()
}

fn is(value: &Value, pointer: &str, expected: bool) -> bool {
    value.pointer(pointer) == Some(&Value::Bool(expected))
}

fn list<'v>(value: &'v Value, pointer: &str) -> impl Iterator<Item = &'v str> {
    value.pointer(pointer).and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str)
}

fn baseline(pod: &Value, found: &mut Vec<String>) {
    for field in ["hostNetwork", "hostPID", "hostIPC"] {
        if is(pod, &format!("/{field}"), true) {
            found.push(format!("{field} is not admitted"));
        }
    }
    if volumes(pod).any(|volume| volume.get("hostPath").is_some()) {
        found.push("hostPath volumes are not admitted".to_owned());
    }
    for (name, container) in containers(pod) {
        if is(container, "/securityContext/privileged", true) {
            found.push(format!("container {name}: privileged is not admitted"));
        }
        for capability in list(container, "/securityContext/capabilities/add").filter(|capability| !CAPABILITIES.contains(capability)) {
            found.push(format!("container {name}: capability {capability} is not admitted"));
        }
        let ports = container.get("ports").and_then(Value::as_array).into_iter().flatten();
        if ports.into_iter().any(|port| port.get("hostPort").and_then(Value::as_u64).unwrap_or(0) > 0) {
            found.push(format!("container {name}: hostPort is not admitted"));
        }
    }
}

fn restricted(pod: &Value, found: &mut Vec<String>) {
    let known = |volume: &Value| {
        volume.as_object().is_none_or(|fields| fields.keys().all(|field| field == "name" || VOLUMES.contains(&field.as_str())))
    };
    if volumes(pod).any(|volume| !known(volume)) {
        found.push(format!("only volumes of the kinds {} are admitted", VOLUMES.join(", ")));
    }
    if pod.pointer("/securityContext/runAsUser").and_then(Value::as_u64) == Some(0) {
        found.push("securityContext.runAsUser must not be 0".to_owned());
    }
    for (name, container) in containers(pod) {
        let mut must = |holds: bool, what: &str| {
            if !holds {
                found.push(format!("container {name}: securityContext.{what}"));
            }
        };
        // A container's own field stands in place of its pod's.
        let field = |field: &str| container.pointer(field).or_else(|| pod.pointer(field));
        must(field("/securityContext/runAsNonRoot") == Some(&Value::Bool(true)), "runAsNonRoot must be true, here or for the pod");
        must(container.pointer("/securityContext/runAsUser").and_then(Value::as_u64) != Some(0), "runAsUser must not be 0");
        let profile = field("/securityContext/seccompProfile/type").and_then(Value::as_str);
        must(
            matches!(profile, Some("RuntimeDefault" | "Localhost")),
            "seccompProfile.type must be RuntimeDefault or Localhost, here or for the pod",
        );
        must(is(container, "/securityContext/allowPrivilegeEscalation", false), "allowPrivilegeEscalation must be false");
        must(list(container, "/securityContext/capabilities/drop").any(|dropped| dropped == "ALL"), "capabilities.drop must hold ALL");
        let only_ports = list(container, "/securityContext/capabilities/add").all(|added| added == "NET_BIND_SERVICE");
        must(only_ports, "capabilities.add may hold NET_BIND_SERVICE only");
    }
}
