//! What the agent's account may do, and why. RBAC cannot tell a tenant's namespace from another: where it may do it, [`super::confine`] says.

use std::collections::BTreeMap;

use kube::api::{ApiResource, GroupVersionKind};
use roadstead_class::ROLE_RULES;
use serde_json::{Value, json};

use super::{AGENT, Joining, Kind, NAMESPACE, WHY, workload::labels};

/// To see what is there.
const SEE: [&str; 3] = ["get", "list", "watch"];
/// To see it and to make it what it is to be; everything is written by server-side apply, so nothing is updated.
const KEEP: [&str; 6] = ["get", "list", "watch", "create", "patch", "delete"];
/// As [`KEEP`] for what is never deleted by itself.
const GROW: [&str; 5] = ["get", "list", "watch", "create", "patch"];

/// Where roles are.
const RBAC: &str = "rbac.authorization.k8s.io";

/// What one rule allows.
struct Rule {
    group: String,
    resources: Vec<String>,
    verbs: Vec<&'static str>,
    why: String,
}

fn rule(group: &str, resources: &[&str], verbs: &[&'static str], why: &str) -> Rule {
    Rule {
        group: group.to_owned(),
        resources: resources.iter().map(|&resource| resource.to_owned()).collect(),
        verbs: verbs.to_vec(),
        why: why.to_owned(),
    }
}

/// ClusterRole and Role with their bindings.
#[must_use]
pub fn manifests(joining: &Joining) -> Vec<Value> {
    let everywhere = rules(joining);
    let own = [
        rule("coordination.k8s.io", &["leases"], &["get", "create", "update", "patch"], "which of the two replicas acts"),
        rule("", &["configmaps"], &["get", "create", "update", "patch"], "the newest generation that was acted on"),
        rule("", &["pods"], &["create", "delete"], "two pods that find out whether network policies hold, and nothing else"),
    ];
    vec![
        role("ClusterRole", None, &everywhere),
        binding("ClusterRole", None),
        role("Role", Some(NAMESPACE), &own),
        binding("Role", Some(NAMESPACE)),
    ]
}

fn rules(joining: &Joining) -> Vec<Rule> {
    let mut rules = vec![
        rule("", &["nodes", "pods", "persistentvolumes"], &SEE, "what the cluster has, and what others use of it"),
        rule(
            "storage.k8s.io",
            &["storageclasses", "csinodes", "csistoragecapacities", "volumeattachments"],
            &SEE,
            "kinds of storage, attachments left, and whether a stopped tenant's volumes are free",
        ),
        rule("karpenter.sh", &["nodepools"], &SEE, "what autoscaled nodes may still add"),
        rule("", &["events"], &["get", "list"], "why a workload has no pods"),
        rule("", &["pods"], &["delete"], "those of a stopped tenant that have ended: they stay, and would be taken for running ones"),
        rule("", &["namespaces"], &KEEP, "one for each tenant"),
        rule("", &["resourcequotas", "limitranges"], &KEEP, "what bounds a tenant"),
        rule("networking.k8s.io", &["networkpolicies"], &KEEP, "what a tenant may reach, and who may reach it"),
        rule(
            "",
            &["configmaps", "secrets", "serviceaccounts"],
            &KEEP,
            "a tenant's configuration, its secrets (generated, or copied from the template namespace), the accounts of its pods; the agent's own certificate",
        ),
        rule("", &["persistentvolumeclaims"], &GROW, "a tenant's volumes; they go with their namespace only"),
        rule("", &["services"], &KEEP, "workloads of classes"),
        rule("apps", &["deployments", "statefulsets"], &KEEP, "workloads of classes"),
        rule("apps", &["daemonsets"], &SEE, "whether anything of a tenant that was adopted still runs"),
        rule("batch", &["jobs", "cronjobs"], &KEEP, "workloads of classes"),
        rule("policy", &["poddisruptionbudgets"], &KEEP, "for workloads with two replicas and more"),
    ];
    if joining.runs_commands {
        rules.push(rule("", &["pods/exec"], &["get", "create"], "commands by which tenants of classes are brought to rest"));
    }
    // Whether something scales up again what was stopped has to be known whatever classes bring.
    let scales = joining.kinds.keys().any(|(_, kind)| kind == "HorizontalPodAutoscaler");
    rules.push(if scales {
        rule("autoscaling", &["horizontalpodautoscalers"], &KEEP, "workloads of classes")
    } else {
        rule("autoscaling", &["horizontalpodautoscalers"], &SEE, "whether anything scales up again what was stopped")
    });
    if joining.site.ingress.is_some() {
        rules.push(rule("networking.k8s.io", &["ingresses"], &KEEP, "tenants' hostnames"));
    }
    if joining.site.gateway.is_some() {
        rules.push(rule("gateway.networking.k8s.io", &["httproutes"], &KEEP, "tenants' hostnames"));
    }
    if joining.kinds.keys().any(|(api_version, _)| group_of(api_version) == RBAC) {
        rules.push(rule(RBAC, &["roles", "rolebindings"], &KEEP, "roles that classes bring"));
        rules.extend(ROLE_RULES.iter().map(|(group, resources, verbs)| {
            rule(group, resources, verbs, "what such a role may allow: nobody can grant what they do not have")
        }));
    }
    rules.extend(others(&joining.kinds));
    rules
}

fn group_of(api_version: &str) -> &str {
    api_version.split_once('/').map_or("", |(group, _)| group)
}

/// Kinds that are none of Kubernetes' own, one rule a group.
fn others(kinds: &BTreeMap<Kind, Option<String>>) -> Vec<Rule> {
    let mut groups = BTreeMap::<&str, Rule>::new();
    for ((api_version, kind), plural) in kinds {
        let Some((group, version)) = api_version.split_once('/') else { continue };
        if !is_foreign(api_version) {
            continue;
        }
        let guessed = || ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind)).plural;
        let plural = plural.clone().unwrap_or_else(guessed);
        let known = groups.entry(group).or_insert_with(|| rule(group, &[], &KEEP, "a kind that classes bring"));
        if !known.resources.contains(&plural) {
            known.resources.push(plural);
        }
    }
    groups.into_values().collect()
}

/// Whether a group is none of Kubernetes' own: its plurals are not known here.
#[must_use]
pub fn is_foreign(api_version: &str) -> bool {
    let group = group_of(api_version);
    group.contains('.') && !group.ends_with(".k8s.io")
}

fn metadata(namespace: Option<&str>) -> Value {
    let mut metadata = json!({"name": AGENT, "labels": labels()});
    if let Some(namespace) = namespace {
        metadata["namespace"] = json!(namespace);
    }
    metadata
}

fn role(kind: &str, namespace: Option<&str>, rules: &[Rule]) -> Value {
    let mut metadata = metadata(namespace);
    let why = rules.iter().map(|rule| {
        let group = if rule.group.is_empty() { String::new() } else { format!(" of {}", rule.group) };
        format!("{}{group}: {}\n", rule.resources.join(", "), rule.why)
    });
    metadata["annotations"] = json!({ WHY: why.collect::<String>() });
    let rules = rules.iter().map(|rule| json!({"apiGroups": [rule.group], "resources": rule.resources, "verbs": rule.verbs}));
    json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": kind, "metadata": metadata, "rules": rules.collect::<Vec<_>>()})
}

fn binding(kind: &str, namespace: Option<&str>) -> Value {
    json!({
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": format!("{kind}Binding"),
        "metadata": metadata(namespace),
        "roleRef": {"apiGroup": RBAC, "kind": kind, "name": AGENT},
        "subjects": [{"kind": "ServiceAccount", "name": AGENT, "namespace": NAMESPACE}],
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::join::SiteSettings;
    use crate::join::tests::example;

    /// The verbs that the ClusterRole has for a resource.
    fn verbs(joining: &Joining, group: &str, resource: &str) -> Vec<String> {
        let role = &manifests(joining)[0];
        let rules = role["rules"].as_array().expect("there are rules").clone();
        let has = |rule: &Value, field: &str, what: &str| rule[field].as_array().is_some_and(|all| all.iter().any(|one| one == what));
        let of = rules.iter().filter(|rule| has(rule, "apiGroups", group) && has(rule, "resources", resource));
        let verbs = of.flat_map(|rule| rule["verbs"].as_array().into_iter().flatten());
        verbs.filter_map(Value::as_str).map(str::to_owned).collect()
    }

    fn with_kind(api_version: &str, kind: &str, plural: Option<&str>) -> Joining {
        let kinds = BTreeMap::from([((api_version.to_owned(), kind.to_owned()), plural.map(str::to_owned))]);
        Joining { kinds, ..example() }
    }

    #[test]
    fn claims_are_never_deleted_and_nothing_allows_everything() {
        assert!(!verbs(&example(), "", "persistentvolumeclaims").contains(&"delete".to_owned()));
        let text = serde_json::to_string(&manifests(&example())).expect("it is JSON");
        assert!(!["\"*\"", "escalate", "\"bind\"", "impersonate", "deletecollection"].iter().any(|word| text.contains(word)), "{text}");
    }

    #[test]
    fn pods_are_seen_and_taken_away_and_never_made_or_changed() {
        assert_eq!(verbs(&example(), "", "pods"), ["get", "list", "watch", "delete"]);
    }

    #[test]
    fn kinds_that_no_class_uses_are_not_written() {
        assert!(verbs(&example(), RBAC, "roles").is_empty());
        assert_eq!(verbs(&example(), "autoscaling", "horizontalpodautoscalers"), SEE);
        let scaled = with_kind("autoscaling/v2", "HorizontalPodAutoscaler", None);
        assert_eq!(verbs(&scaled, "autoscaling", "horizontalpodautoscalers"), KEEP);
        assert_eq!(verbs(&with_kind(&format!("{RBAC}/v1"), "Role", None), RBAC, "rolebindings"), KEEP);
    }

    #[test]
    fn commands_are_run_in_pods_only_where_a_class_does() {
        assert!(verbs(&example(), "", "pods/exec").is_empty());
        assert_eq!(verbs(&Joining { runs_commands: true, ..example() }, "", "pods/exec"), ["get", "create"]);
    }

    #[test]
    fn whoever_makes_roles_has_what_they_allow() {
        let joining = with_kind("rbac.authorization.k8s.io/v1", "Role", None);
        for (group, resources, wanted) in ROLE_RULES {
            for resource in resources {
                let has = verbs(&joining, group, resource);
                assert!(wanted.iter().all(|verb| has.contains(&(*verb).to_owned())), "{resource}: {has:?}");
            }
        }
    }

    #[test]
    fn kinds_of_others_are_written_by_the_plural_that_the_cluster_has_or_else_a_guess() {
        assert_eq!(verbs(&with_kind("db.example.com/v1", "Database", None), "db.example.com", "databases"), KEEP);
        assert_eq!(verbs(&with_kind("db.example.com/v1", "Database", Some("dbs")), "db.example.com", "dbs"), KEEP);
        assert!(verbs(&with_kind("db.example.com/v1", "Database", Some("dbs")), "db.example.com", "databases").is_empty());
    }

    #[test]
    fn hostnames_need_rights_for_the_entry_that_the_cluster_has() {
        let some = Some(("a".to_owned(), "b".to_owned()));
        let ingress = Joining { site: SiteSettings { ingress: some.clone(), ..SiteSettings::default() }, ..example() };
        let gateway = Joining { site: SiteSettings { gateway: some, ..SiteSettings::default() }, ..example() };
        let rights = |joining: &Joining| {
            (verbs(joining, "networking.k8s.io", "ingresses").len(), verbs(joining, "gateway.networking.k8s.io", "httproutes").len())
        };
        assert_eq!((rights(&example()), rights(&ingress), rights(&gateway)), ((0, 0), (KEEP.len(), 0), (0, KEEP.len())));
    }

    #[test]
    fn every_rule_has_its_reason() {
        for role in manifests(&example()).iter().filter(|manifest| manifest["rules"].is_array()) {
            let why = role["metadata"]["annotations"][WHY].as_str().expect("it has reasons");
            assert_eq!(Some(why.lines().count()), role["rules"].as_array().map(Vec::len));
        }
    }
}
