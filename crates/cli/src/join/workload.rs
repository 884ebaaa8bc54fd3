//! What runs: two replicas of the agent in a namespace of their own, and the certificate that they show or the token that they get it for.

use k8s_openapi::ByteString;
use roadstead_agent::probe::{DIALER, LABEL, LISTENER, NO_EGRESS_PORT, NO_INGRESS_PORT, OPEN_PORT};
use serde_json::{Value, json};

use super::{AGENT, Certificate, IDENTITY_SECRET, Joining, NAMESPACE, TOKEN_SECRET, Token, WHY};

/// The user that the image runs as.
const USER: u32 = 65532;
/// The container, by which it is found again.
pub(super) const CONTAINER: &str = "agent";
/// The volume with a certificate that the agent does not renew itself.
pub(super) const PKI_VOLUME: &str = "pki";
/// Where the certificate is mounted.
const PKI: &str = "/pki";
/// Where the token is mounted.
const JOIN: &str = "/join";

/// Labels of everything that is the agent's own.
#[must_use]
pub fn labels() -> Value {
    json!({"app.kubernetes.io/name": AGENT, "app.kubernetes.io/part-of": "roadstead"})
}

fn selector() -> Value {
    json!({"matchLabels": {"app.kubernetes.io/name": AGENT}})
}

/// The agent's own namespace.
#[must_use]
pub fn namespace() -> Value {
    let labels = json!({
        "app.kubernetes.io/name": AGENT,
        "app.kubernetes.io/part-of": "roadstead",
        "pod-security.kubernetes.io/enforce": "restricted",
    });
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE, "labels": labels}})
}

/// The agent's account.
#[must_use]
pub fn account() -> Value {
    object("v1", "ServiceAccount", AGENT, json!({}))
}

fn object(api_version: &str, kind: &str, name: &str, rest: Value) -> Value {
    let mut object = json!({
        "apiVersion": api_version,
        "kind": kind,
        "metadata": {"name": name, "namespace": NAMESPACE, "labels": labels()},
    });
    if let (Value::Object(object), Value::Object(rest)) = (&mut object, rest) {
        object.extend(rest);
    }
    object
}

/// Certificate, what guards the pods, and the pods.
#[must_use]
pub fn manifests(joining: &Joining) -> Vec<Value> {
    let mut all = Vec::new();
    let bytes = |text: &str| ByteString(text.as_bytes().to_vec());
    match &joining.certificate {
        Certificate::Own(Some(Token { token, authorities })) => {
            let data = json!({"token": bytes(token), "ca.crt": bytes(authorities)});
            all.push(object("v1", "Secret", TOKEN_SECRET, json!({"type": "Opaque", "data": data})));
        }
        Certificate::Pem { certificate, key, authorities } => {
            let data = json!({"tls.crt": bytes(certificate), "tls.key": bytes(key), "ca.crt": bytes(authorities)});
            all.push(object("v1", "Secret", AGENT, json!({"type": "kubernetes.io/tls", "data": data})));
        }
        Certificate::Own(None) | Certificate::Secret(_) => {}
    }
    let mut closed =
        object("networking.k8s.io/v1", "NetworkPolicy", AGENT, json!({"spec": {"podSelector": selector(), "policyTypes": ["Ingress"]}}));
    closed["metadata"]["annotations"] = json!({ WHY: "the agent dials out; nobody has to reach it" });
    all.push(closed);
    all.extend(policies_that_are_tried());
    let budget = json!({"spec": {"maxUnavailable": 1, "selector": selector()}});
    all.push(object("policy/v1", "PodDisruptionBudget", AGENT, budget));
    all.push(deployment(joining));
    all
}

/// What the agent's two pods try each other under: one port is allowed by both policies, one by that of what goes out alone, one by that of
/// what comes in alone.
fn policies_that_are_tried() -> [Value; 2] {
    let part = |part: &str| json!({"podSelector": {"matchLabels": {LABEL: part}}});
    let ports = |ports: [u16; 2]| json!(ports.map(|port| json!({"port": port, "protocol": "TCP"})));
    let incoming = json!({"from": [part("dialer")], "ports": ports([OPEN_PORT, NO_EGRESS_PORT])});
    let outgoing = json!({"to": [part("listener")], "ports": ports([OPEN_PORT, NO_INGRESS_PORT])});
    let policy = |name: &str, of: &str, rest: Value| {
        let mut spec = part(of);
        if let (Value::Object(spec), Value::Object(rest)) = (&mut spec, rest) {
            spec.extend(rest);
        }
        let mut policy = object("networking.k8s.io/v1", "NetworkPolicy", name, json!({"spec": spec}));
        policy["metadata"]["annotations"] = json!({ WHY: "the agent finds out by it whether policies hold in this cluster" });
        policy
    };
    [
        policy(LISTENER, "listener", json!({"policyTypes": ["Ingress"], "ingress": [incoming]})),
        policy(DIALER, "dialer", json!({"policyTypes": ["Egress"], "egress": [outgoing]})),
    ]
}

/// Where the pods find what they begin with: mount and volume.
fn mounts(certificate: &Certificate) -> (Value, Value) {
    let (name, path, secret) = match certificate {
        // A token that was used is of no use: the Secret may be deleted then.
        Certificate::Own(_) => ("join", JOIN, json!({"secretName": TOKEN_SECRET, "defaultMode": 0o440, "optional": true})),
        Certificate::Secret(name) => (PKI_VOLUME, PKI, json!({"secretName": name, "defaultMode": 0o440})),
        Certificate::Pem { .. } => (PKI_VOLUME, PKI, json!({"secretName": AGENT, "defaultMode": 0o440})),
    };
    (json!({"name": name, "mountPath": path, "readOnly": true}), json!({"name": name, "secret": secret}))
}

fn deployment(joining: &Joining) -> Value {
    let (mounted, volume) = mounts(&joining.certificate);
    let mut args = vec![format!("--cluster={}", joining.cluster)];
    args.extend(joining.servers.iter().map(|server| format!("--server={server}")));
    args.extend(match &joining.certificate {
        Certificate::Own(_) => {
            [format!("--identity-secret={IDENTITY_SECRET}"), format!("--token-file={JOIN}/token"), format!("--ca={JOIN}/ca.crt")]
        }
        Certificate::Secret(_) | Certificate::Pem { .. } => {
            [format!("--cert={PKI}/tls.crt"), format!("--key={PKI}/tls.key"), format!("--ca={PKI}/ca.crt")]
        }
    });
    args.push(format!("--probe-image={}", joining.image));
    args.extend(joining.site.flags());
    args.extend(joining.counting.flags());
    args.extend(joining.running.flags());
    let container = json!({
        "name": CONTAINER,
        "image": joining.image,
        "command": ["roadstead", "agent"],
        "args": args,
        // Watches of 100,000 pods fit into half of the limit.
        "resources": {"requests": {"cpu": "200m", "memory": "256Mi"}, "limits": {"memory": "1Gi"}},
        "securityContext": {
            "allowPrivilegeEscalation": false,
            "readOnlyRootFilesystem": true,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [mounted],
    });
    // Preferred: in a cluster of one node both run, and the second is of use when the first one's process dies.
    let apart = json!({"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [
        {"weight": 100, "podAffinityTerm": {"topologyKey": "kubernetes.io/hostname", "labelSelector": selector()}},
    ]}});
    let pod = json!({
        "serviceAccountName": AGENT,
        "securityContext": {
            "runAsNonRoot": true,
            "runAsUser": USER,
            "runAsGroup": USER,
            "fsGroup": USER,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "affinity": apart,
        "containers": [container],
        "volumes": [volume],
    });
    object(
        "apps/v1",
        "Deployment",
        AGENT,
        json!({"spec": {
            "replicas": 2,
            "selector": selector(),
            "template": {"metadata": {"labels": labels()}, "spec": pod},
        }}),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::join::tests::{example, with_token};

    #[test]
    fn the_agent_is_told_its_cluster_its_replicas_and_its_certificate() {
        let deployment = deployment(&example());
        let pod = &deployment["spec"]["template"]["spec"];
        let args = ["--cluster=eu-1", "--server=r1.example.com:7420", "--cert=/pki/tls.crt", "--key=/pki/tls.key", "--ca=/pki/ca.crt"];
        let image = format!("--probe-image={}", example().image);
        assert_eq!(pod["containers"][0]["args"], json!([args.as_slice(), &[&*image]].concat()));
        assert_eq!(pod["volumes"][0]["secret"]["secretName"], "given");
    }

    #[test]
    fn an_agent_that_gets_its_certificate_is_told_where_its_token_is_and_where_to_keep_it() {
        let manifests = manifests(&with_token());
        assert_eq!(
            (&manifests[0]["metadata"]["name"], &manifests[0]["data"]),
            (&json!(TOKEN_SECRET), &json!({"token": "dA==", "ca.crt": "YQ=="}))
        );
        let pod = &manifests.last().expect("there are some")["spec"]["template"]["spec"];
        let args = pod["containers"][0]["args"].to_string();
        for wanted in ["--identity-secret=roadstead-agent-identity", "--token-file=/join/token", "--ca=/join/ca.crt"] {
            assert!(args.contains(wanted), "{args}");
        }
        assert_eq!(pod["volumes"][0]["secret"]["optional"], true);
    }

    #[test]
    fn a_secret_holds_what_was_given() {
        let pem = |text: &str| text.to_owned();
        let certificate = Certificate::Pem { certificate: pem("c"), key: pem("k"), authorities: pem("a") };
        let manifests = manifests(&Joining { certificate, ..example() });
        assert_eq!(manifests[0]["data"], json!({"tls.crt": "Yw==", "tls.key": "aw==", "ca.crt": "YQ=="}));
    }
}
