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

/// What to say of built-in kinds that people try; a kind of such a name in another group is meant for the same.
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

/// Why no class brings further policies: whoever judges them may do so before Kubernetes' own, or beside them.
const POLICIES: &str = "it may open what is denied to every tenant: declare what may be reached under spec.network";
/// Why no class brings routes.
const ROUTES: &str = "declare what is reachable under spec.network.expose; hostnames belong to tenants";
/// Why no class brings what is deployed by somebody else.
const DEPLOYERS: &str = "its controller writes beyond the tenant's namespace, with rights that no tenant has: bring what it would make";

/// What of groups that are not Kubernetes' own reaches beyond a tenant's namespace: the end of the group's name, kinds (none: all of them), and why
/// not.
const BEYOND: [(&str, &[&str], &str); 31] = [
    ("projectcalico.org", &[], POLICIES),
    ("cilium.io", &[], POLICIES),
    ("antrea.io", &[], POLICIES),
    ("k8s.ovn.org", &[], POLICIES),
    ("vpcresources.k8s.aws", &[], POLICIES),
    ("k8s.cni.cncf.io", &[], POLICIES),
    ("traefik.io", &[], ROUTES),
    ("traefik.containo.us", &[], ROUTES),
    ("networking.istio.io", &[], ROUTES),
    ("route.openshift.io", &[], ROUTES),
    ("projectcontour.io", &[], ROUTES),
    ("gateway.envoyproxy.io", &[], ROUTES),
    ("gateway.networking.x-k8s.io", &[], ROUTES),
    ("getambassador.io", &[], ROUTES),
    ("konghq.com", &[], ROUTES),
    ("nginx.org", &[], ROUTES),
    ("haproxy.org", &[], ROUTES),
    ("apisix.apache.org", &[], ROUTES),
    ("networking.gke.io", &[], ROUTES),
    ("elbv2.k8s.aws", &[], ROUTES),
    ("serving.knative.dev", &[], ROUTES),
    ("helm.cattle.io", &[], DEPLOYERS),
    ("fleet.cattle.io", &[], DEPLOYERS),
    ("toolkit.fluxcd.io", &[], DEPLOYERS),
    ("argoproj.io", &["Application", "ApplicationSet", "AppProject"], DEPLOYERS),
    ("operators.coreos.com", &[], DEPLOYERS),
    ("open-cluster-management.io", &[], DEPLOYERS),
    ("kappctrl.k14s.io", &[], DEPLOYERS),
    ("packaging.carvel.dev", &[], DEPLOYERS),
    ("crossplane.io", &["Object", "ObservedObjectCollection", "Release"], DEPLOYERS),
    ("hnc.x-k8s.io", &[], DEPLOYERS),
];

/// Whether a group is not Kubernetes' own: those of Kubernetes have no dot, or end with its domain; everybody else's have a domain of their own.
fn is_foreign(group: &str) -> bool {
    group.contains('.') && !group.ends_with(".k8s.io")
}

fn group_of(api_version: &str) -> &str {
    api_version.split_once('/').map_or("", |(group, _)| group)
}

/// Why a class should not bring a kind of a group that is not Kubernetes' own, although it can be read. Told when a class is applied: what is in use
/// already goes on.
pub(crate) fn beyond(api_version: &str, kind: &str) -> Option<&'static str> {
    let group = group_of(api_version);
    if !is_foreign(group) {
        return None;
    }
    if let Some((_, why)) = REFUSED.iter().find(|(name, _)| *name == kind) {
        return Some(why);
    }
    if kind.ends_with("NetworkPolicy") {
        return Some(POLICIES);
    }
    let found = BEYOND.iter().find(|(end, kinds, _)| is_of(group, end) && (kinds.is_empty() || kinds.contains(&kind)));
    found.map(|(_, _, why)| *why)
}

/// Whether a resource, named by its group and its plural, is one that no class should bring although its group is not Kubernetes' own: see
/// [`crate::check()`]. Plurals are those that definitions usually have: of others it is not known.
#[must_use]
pub fn reaches_beyond(group: &str, plural: &str) -> bool {
    let is_one = |kind: &&str| is_plural_of(plural, kind);
    let is_in = |(end, kinds, _): &(&str, &[&str], &str)| is_of(group, end) && (kinds.is_empty() || kinds.iter().any(is_one));
    is_foreign(group) && (plural.ends_with("networkpolicies") || REFUSED.iter().any(|(kind, _)| is_one(kind)) || BEYOND.iter().any(is_in))
}

/// Whether a group is this one or below it.
fn is_of(group: &str, end: &str) -> bool {
    group.strip_suffix(end).is_some_and(|head| head.is_empty() || head.ends_with('.'))
}

fn is_plural_of(plural: &str, kind: &str) -> bool {
    let kind = kind.to_ascii_lowercase();
    let end = plural.strip_prefix(kind.trim_end_matches('y')).unwrap_or_default();
    if kind.ends_with('y') { matches!(end, "ies" | "ys") } else { matches!(end, "s" | "es") }
}

/// How it is told that a class cannot bring a kind.
pub(crate) fn refusal(api_version: &str, kind: &str, why: &str) -> String {
    format!("{kind} ({api_version}) cannot be part of a class: {why}")
}

/// What is done with a kind.
pub(crate) fn verdict(api_version: &str, kind: &str) -> Verdict {
    if let Some((_, _, order)) = ALLOWED.iter().find(|(api, name, _)| (*api, *name) == (api_version, kind)) {
        return Verdict::Allowed(*order);
    }
    if is_foreign(group_of(api_version)) {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_resource_reaches_beyond_as_its_kind_does() {
        for (group, plural, kind) in [
            ("helm.cattle.io", "helmcharts", "HelmChart"),
            ("kustomize.toolkit.fluxcd.io", "kustomizations", "Kustomization"),
            ("argoproj.io", "applications", "Application"),
            ("argoproj.io", "applicationsets", "ApplicationSet"),
            ("crd.example.com", "globalnetworkpolicies", "GlobalNetworkPolicy"),
            ("other.example.com", "ingresses", "Ingress"),
            ("other.example.com", "storageclasses", "StorageClass"),
            ("argoproj.io", "rollouts", "Rollout"),
            ("db.example.com", "databases", "Database"),
            ("nothelm.cattle.io", "helmcharts", "HelmChart"),
            ("apps", "daemonsets", "DaemonSet"),
        ] {
            assert_eq!(reaches_beyond(group, plural), beyond(&format!("{group}/v1"), kind).is_some(), "{plural}.{group}");
        }
        assert!(reaches_beyond("helm.cattle.io", "helmcharts") && reaches_beyond("argoproj.io", "applications"));
        assert!(!reaches_beyond("argoproj.io", "rollouts") && !reaches_beyond("db.example.com", "databases"));
    }
}
