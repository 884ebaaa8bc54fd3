//! Which kinds of objects a tenant has: those that every tenant gets, those that a class may bring, and what is known of them.

/// What is done with a kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// A class may bring it; its place in the order in which objects are made.
    Allowed(u8),
    /// It may not; why, and what to do instead.
    Refused(&'static str),
}

/// Kinds that rendering makes of its own, whatever the class brings, beside the namespace, secrets and claims; a way in is [`crate::Site`]'s.
pub(crate) const MADE: [(&str, &str); 5] = [
    ("v1", "ServiceAccount"),
    ("v1", "ResourceQuota"),
    ("v1", "LimitRange"),
    ("networking.k8s.io/v1", "NetworkPolicy"),
    ("policy/v1", "PodDisruptionBudget"),
];

/// Kinds of other groups: after what they may refer to, before what runs.
const OTHERS: u8 = 5;

/// Built-in kinds that a class may bring, in the order in which they are made.
const ALLOWED: [(&str, &str, u8); 11] = [
    ("v1", "ServiceAccount", 0),
    ("v1", "ConfigMap", 1),
    ("rbac.authorization.k8s.io/v1", "Role", 2),
    ("rbac.authorization.k8s.io/v1", "RoleBinding", 3),
    ("v1", "Service", 4),
    ("apps/v1", "StatefulSet", 6),
    ("apps/v1", "Deployment", 7),
    ("batch/v1", "Job", 8),
    ("batch/v1", "CronJob", 9),
    ("autoscaling/v2", "HorizontalPodAutoscaler", 10),
    ("policy/v1", "PodDisruptionBudget", 11),
];

/// What to say of built-in kinds that people try.
const REFUSED: [(&str, &str); 18] = [
    ("Namespace", "the tenant's namespace is made for it"),
    ("Secret", "values of a class are never secret: declare it under spec.secrets"),
    ("PersistentVolumeClaim", "declare it under spec.volumes, so that its data moves with the tenant"),
    ("ResourceQuota", "it is made from spec.requests"),
    ("LimitRange", "it is made from spec.requests"),
    ("NetworkPolicy", "declare what may be reached under spec.network"),
    ("Ingress", "declare what is reachable under spec.network.expose; hostnames belong to tenants"),
    ("HTTPRoute", "declare what is reachable under spec.network.expose; hostnames belong to tenants"),
    ("DaemonSet", "a tenant has no claim on every node: use a Deployment"),
    ("Pod", "nothing would make it again: use a Deployment, a StatefulSet or a Job"),
    ("ReplicaSet", "use a Deployment"),
    ("ReplicationController", "use a Deployment"),
    ("ClusterRole", "a tenant has rights within its namespace only: use a Role"),
    ("ClusterRoleBinding", "a tenant has rights within its namespace only: use a RoleBinding"),
    ("PersistentVolume", "it is not namespaced: declare volumes under spec.volumes"),
    ("StorageClass", "it is not namespaced: clusters map kinds of storage"),
    ("CustomResourceDefinition", "it is not namespaced: install it in the clusters"),
    ("List", "write its items as documents of their own"),
];

/// What is done with a kind.
pub(crate) fn verdict(api_version: &str, kind: &str) -> Verdict {
    if let Some((_, _, order)) = ALLOWED.iter().find(|(api, name, _)| (*api, *name) == (api_version, kind)) {
        return Verdict::Allowed(*order);
    }
    let group = api_version.split_once('/').map_or("", |(group, _)| group);
    // Groups of Kubernetes itself have no dot, or end with its domain; everybody else's have a domain of their own.
    if group.contains('.') && !group.ends_with(".k8s.io") {
        return Verdict::Allowed(OTHERS);
    }
    let known = REFUSED.iter().find(|(name, _)| *name == kind).map(|(_, why)| *why);
    Verdict::Refused(known.unwrap_or("it is not among the kinds that a class may bring"))
}

/// What a role may allow within the tenant's own namespace: group, resources, verbs. Whoever makes the role has to have as much.
pub const RULES: [(&str, &[&str], &[&str]); 3] = [
    ("", &["configmaps", "endpoints", "pods", "services"], &["get", "list", "watch"]),
    ("discovery.k8s.io", &["endpointslices"], &["get", "list", "watch"]),
    ("coordination.k8s.io", &["leases"], &["get", "list", "watch", "create", "update", "patch", "delete"]),
];

/// Where the template of a kind's pods is, if it has pods.
pub(crate) fn pod_template(kind: &str) -> Option<&'static [&'static str]> {
    match kind {
        "Deployment" | "StatefulSet" | "Job" => Some(&["spec", "template"]),
        "CronJob" => Some(&["spec", "jobTemplate", "spec", "template"]),
        _ => None,
    }
}

/// Whether a kind runs replicas, which can be scaled.
pub(crate) fn scales(kind: &str) -> bool {
    matches!(kind, "Deployment" | "StatefulSet")
}
