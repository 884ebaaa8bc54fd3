//! What the agent's account may do, and why. RBAC cannot tell a tenant's namespace from another: where it may do it, [`super::confine`] says.
//!
//! What a tenant may still have of before can always be seen and taken away; whether more of it may be made follows from classes and site.

use std::collections::BTreeMap;

use kube::api::{ApiResource, GroupVersionKind};
use roadstead_class::{ROLE_RULES, reaches_beyond};
use serde_json::{Value, json};

use super::{AGENT, Joining, Kind, NAMESPACE, WHY, workload::labels};

/// To see what is there.
const SEE: [&str; 3] = ["get", "list", "watch"];
/// To see it and to make it what it is to be; everything is written by server-side apply, so nothing is updated.
const KEEP: [&str; 6] = ["get", "list", "watch", "create", "patch", "delete"];
/// As [`KEEP`] for what is never deleted by itself.
const GROW: [&str; 5] = ["get", "list", "watch", "create", "patch"];

/// To see what tenants may have of before, and to take it away.
const END: [&str; 4] = ["get", "list", "watch", "delete"];
/// Every verb that a rule here has.
const VERBS: [&str; 7] = ["get", "list", "watch", "create", "update", "patch", "delete"];

/// Where roles are.
const RBAC: &str = "rbac.authorization.k8s.io";
/// The reason of rules for kinds that are none of Kubernetes' own.
const BROUGHT: &str = "a kind that classes bring";

/// What one rule allows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
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

impl Rule {
    /// A rule as it stands in a role at a place, with its reason among these lines, which are in the same order if nobody has changed the role by
    /// hand; `None` if it is none that is written here, and so has no reason.
    fn read(rule: &Value, place: usize, why: &[&str]) -> Option<Self> {
        let texts = |field: &str| rule[field].as_array()?.iter().map(|one| one.as_str().map(str::to_owned)).collect::<Option<Vec<_>>>();
        let is_empty = |field: &str| rule[field].as_array().is_none_or(Vec::is_empty);
        let group = <[String; 1]>::try_from(texts("apiGroups")?).ok()?;
        let verbs = texts("verbs")?.iter().map(|verb| VERBS.into_iter().find(|known| known == verb)).collect::<Option<Vec<_>>>()?;
        let (resources, [group]) = (texts("resources")?, group);
        let is_ours = is_empty("resourceNames") && is_empty("nonResourceURLs") && !resources.iter().any(|resource| resource.contains('*'));
        let mut rule = Self { group, resources, verbs, why: String::new() };
        let reason = why.get(place).into_iter().chain(why).find_map(|line| line.strip_prefix(&rule.subject())?.strip_prefix(": "));
        rule.why = reason?.to_owned();
        is_ours.then_some(rule)
    }

    /// What it is about, as its reason's line begins.
    fn subject(&self) -> String {
        let group = if self.group.is_empty() { String::new() } else { format!(" of {}", self.group) };
        format!("{}{group}", self.resources.join(", "))
    }

    /// Whether it is as [`others`] writes them, with its reason.
    fn is_of_others(&self) -> bool {
        is_foreign_group(&self.group) && self.verbs == KEEP && self.why == BROUGHT
    }

    /// The same for some of its resources; `None` if none is left.
    fn of(&self, is_one: impl Fn(&str) -> bool) -> Option<Self> {
        let resources: Vec<String> = self.resources.iter().filter(|resource| is_one(resource)).cloned().collect();
        (!resources.is_empty()).then(|| Self { resources, ..self.clone() })
    }

    /// Whether these rules allow it all.
    fn is_within(&self, rules: &[Self]) -> bool {
        let allows = |rule: &Self, resource: &String, verb: &&'static str| {
            rule.group == self.group && rule.resources.contains(resource) && rule.verbs.contains(verb)
        };
        let allowed = |resource, verb| rules.iter().any(|rule| allows(rule, resource, verb));
        self.resources.iter().all(|resource| self.verbs.iter().all(|verb| allowed(resource, verb)))
    }
}

/// What of the ClusterRole that is there is for classes and not needed by those that are named now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Beyond {
    /// What may be kept.
    pub kept: Vec<Rule>,
    /// What no class should bring, whoever brought it.
    pub refused: Vec<Rule>,
}

/// See [`Beyond`]. It has only what joining has written, which its line in the annotation [`WHY`] tells: what is there by hand is not among it.
#[must_use]
pub fn beyond(joining: &Joining, role: &Value) -> Beyond {
    let (needed, most) = (rules(&Wanted::of(joining)), rules(&Wanted { scales: true, roles: true, commands: true, ..Wanted::of(joining) }));
    let why: Vec<&str> = role["metadata"]["annotations"][WHY].as_str().unwrap_or_default().lines().collect();
    let there = role["rules"].as_array().into_iter().flatten().enumerate().filter_map(|(place, rule)| Rule::read(rule, place, &why));
    let of_classes = there.filter(|rule| rule.is_within(&most) || rule.is_of_others()).filter(|rule| !rule.is_within(&needed));
    let mut beyond = Beyond::default();
    for rule in of_classes {
        beyond.kept.extend(rule.of(|resource| !reaches_beyond(&rule.group, resource)));
        beyond.refused.extend(rule.of(|resource| reaches_beyond(&rule.group, resource)).filter(|rule| !rule.is_within(&needed)));
    }
    beyond
}

/// What rules are about, in words.
#[must_use]
pub fn about(rules: &[Rule]) -> String {
    let mut all: Vec<String> = Vec::new();
    for rule in rules {
        let group = if rule.group.is_empty() { String::new() } else { format!(".{}", rule.group) };
        all.extend(rule.resources.iter().map(|resource| format!("{resource}{group}")).filter(|one| !all.contains(one)).collect::<Vec<_>>());
    }
    all.join(", ")
}

/// What the rules follow from.
struct Wanted<'a> {
    scales: bool,
    roles: bool,
    commands: bool,
    ingresses: bool,
    routes: bool,
    kinds: &'a BTreeMap<Kind, Option<String>>,
}

impl<'a> Wanted<'a> {
    fn of(joining: &'a Joining) -> Self {
        Self {
            scales: joining.kinds.keys().any(|(_, kind)| kind == "HorizontalPodAutoscaler"),
            roles: joining.kinds.keys().any(|(api_version, _)| group_of(api_version) == RBAC),
            commands: joining.runs_commands,
            ingresses: joining.site.ingress.is_some(),
            routes: joining.site.gateway.is_some(),
            kinds: &joining.kinds,
        }
    }
}

/// ClusterRole and Role with their bindings.
#[must_use]
pub fn manifests(joining: &Joining) -> Vec<Value> {
    let mut everywhere = rules(&Wanted::of(joining));
    everywhere.extend(joining.kept_rights.iter().cloned());
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

fn rules(wanted: &Wanted<'_>) -> Vec<Rule> {
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
    if wanted.commands {
        rules.push(rule("", &["pods/exec"], &["get", "create"], "commands by which tenants of classes are brought to rest"));
    }
    // What a class or the site brought before stays in tenants' namespaces until it is taken away; an autoscaler would scale up again what was
    // stopped.
    for (is_wanted, group, resource, why, why_not) in [
        (
            wanted.scales,
            "autoscaling",
            "horizontalpodautoscalers",
            "workloads of classes",
            "so that nothing scales up again what was stopped",
        ),
        (wanted.ingresses, "networking.k8s.io", "ingresses", "tenants' hostnames", "tenants' hostnames, as they came in before"),
        (wanted.routes, "gateway.networking.k8s.io", "httproutes", "tenants' hostnames", "tenants' hostnames, as they came in before"),
    ] {
        rules.push(if is_wanted { rule(group, &[resource], &KEEP, why) } else { rule(group, &[resource], &END, why_not) });
    }
    if wanted.roles {
        rules.push(rule(RBAC, &["roles", "rolebindings"], &KEEP, "roles that classes bring"));
        rules.extend(ROLE_RULES.iter().map(|(group, resources, verbs)| {
            rule(group, resources, verbs, "what such a role may allow: nobody can grant what they do not have")
        }));
    }
    rules.extend(others(wanted.kinds));
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
        let known = groups.entry(group).or_insert_with(|| rule(group, &[], &KEEP, BROUGHT));
        if !known.resources.contains(&plural) {
            known.resources.push(plural);
        }
    }
    groups.into_values().collect()
}

/// Whether a group is none of Kubernetes' own: its plurals are not known here.
#[must_use]
pub fn is_foreign(api_version: &str) -> bool {
    is_foreign_group(group_of(api_version))
}

fn is_foreign_group(group: &str) -> bool {
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
    let why = rules.iter().map(|rule| format!("{}: {}\n", rule.subject(), rule.why));
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
    fn kinds_that_no_class_uses_are_not_made() {
        assert!(verbs(&example(), RBAC, "roles").is_empty());
        assert_eq!(verbs(&example(), "autoscaling", "horizontalpodautoscalers"), END);
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
    fn hostnames_are_made_for_the_entry_that_the_cluster_has_and_taken_away_from_any() {
        let some = Some(("a".to_owned(), "b".to_owned()));
        let ingress = Joining { site: SiteSettings { ingress: some.clone(), ..SiteSettings::default() }, ..example() };
        let gateway = Joining { site: SiteSettings { gateway: some, ..SiteSettings::default() }, ..example() };
        let rights = |joining: &Joining| {
            [verbs(joining, "networking.k8s.io", "ingresses"), verbs(joining, "gateway.networking.k8s.io", "httproutes")]
        };
        assert_eq!(rights(&example()), [END, END]);
        assert_eq!(rights(&ingress), [&KEEP[..], &END]);
        assert_eq!(rights(&gateway), [&END[..], &KEEP]);
    }

    /// What of these rights is for classes that nobody names any more.
    fn beyond_none(joining: &Joining) -> Vec<Rule> {
        beyond(&example(), &manifests(joining)[0]).kept
    }

    #[test]
    fn rights_for_classes_that_nobody_names_are_known_with_their_reasons_and_can_be_kept() {
        let kind = |api_version: &str, kind: &str| (api_version.to_owned(), kind.to_owned());
        let kinds =
            [kind("db.example.com/v1", "Database"), kind("autoscaling/v2", "HorizontalPodAutoscaler"), kind(&format!("{RBAC}/v1"), "Role")];
        let all = Joining { kinds: kinds.map(|kind| (kind, None)).into(), runs_commands: true, ..example() };
        let kept = beyond_none(&all);
        let again = Joining { kept_rights: kept.clone(), ..example() };
        assert_eq!(beyond_none(&again), kept, "and once more");
        for (group, resource) in [
            ("", "pods/exec"),
            ("autoscaling", "horizontalpodautoscalers"),
            (RBAC, "roles"),
            ("discovery.k8s.io", "endpointslices"),
            ("db.example.com", "databases"),
        ] {
            let wanted = verbs(&all, group, resource);
            assert!(!wanted.is_empty() && wanted.iter().all(|verb| verbs(&again, group, resource).contains(verb)), "{resource}");
        }
        assert!(kept.iter().any(|rule| rule.why == "commands by which tenants of classes are brought to rest"), "{kept:?}");
        assert!(about(&kept).contains("pods/exec, horizontalpodautoscalers.autoscaling"), "{}", about(&kept));
        assert_eq!((beyond(&all, &manifests(&all)[0]).kept, beyond_none(&example())), (Vec::new(), Vec::new()));
    }

    #[test]
    fn rights_that_no_class_brought_are_not_kept() {
        let ingress = SiteSettings { ingress: Some(("a".to_owned(), "b".to_owned())), ..SiteSettings::default() };
        assert_eq!(beyond_none(&Joining { site: ingress, ..example() }), Vec::new(), "the cluster has another entry now");
        let rule = |group: &str, resource: &str, verb: &str| json!({"apiGroups": [group], "resources": [resource], "verbs": [verb]});
        let mut named = rule("db.example.com", "dbs", "get");
        named["resourceNames"] = json!(["one"]);
        let by_hand = [
            rule("*", "*", "*"),
            rule("", "serviceaccounts/token", "create"),
            rule("db.example.com", "*", "get"),
            rule(RBAC, "roles", "escalate"),
            json!({"nonResourceURLs": ["/metrics"], "verbs": ["get"]}),
            named,
        ];
        assert_eq!(beyond(&example(), &json!({"rules": by_hand})), Beyond::default());
        assert_eq!(beyond(&example(), &json!({"rules": [rule("", "pods/exec", "create")]})), Beyond::default(), "as a class would have it");
    }

    #[test]
    fn rights_for_kinds_of_others_are_kept_only_as_joining_writes_them_and_with_their_reason() {
        let rule = |verbs: &[&str]| json!({"apiGroups": ["db.example.com"], "resources": ["dbs", "users"], "verbs": verbs});
        let role = |rule: Value, why: &str| json!({"metadata": {"annotations": {WHY: why}}, "rules": [rule]});
        let ours = "dbs, users of db.example.com: a kind that classes bring";
        assert_eq!(beyond(&example(), &role(rule(&KEEP), "")), Beyond::default(), "by hand");
        assert_eq!(beyond(&example(), &role(rule(&KEEP), "dbs, users of db.example.com: mine")), Beyond::default());
        assert_eq!(beyond(&example(), &role(rule(&SEE), ours)), Beyond::default(), "changed by hand");
        let kept = beyond(&example(), &role(rule(&KEEP), &format!("more: lines\n{ours}\n")));
        assert_eq!((about(&kept.kept).as_str(), kept.refused), ("dbs.db.example.com, users.db.example.com", Vec::new()));
    }

    #[test]
    fn rights_for_kinds_that_no_class_should_bring_are_kept_only_for_classes_that_are_named() {
        let kind = |api_version: &str, kind: &str| ((api_version.to_owned(), kind.to_owned()), None);
        let kinds =
            [kind("helm.cattle.io/v1", "HelmChart"), kind("argoproj.io/v1alpha1", "Application"), kind("argoproj.io/v1alpha1", "Rollout")];
        let before = Joining { kinds: kinds.into(), ..example() };
        let role = &manifests(&before)[0];
        let found = beyond(&example(), role);
        assert_eq!(about(&found.kept), "rollouts.argoproj.io");
        assert_eq!(about(&found.refused), "applications.argoproj.io, helmcharts.helm.cattle.io");
        assert_eq!(beyond(&before, role), Beyond::default(), "a class that is in use goes on");
    }

    #[test]
    fn every_rule_has_its_reason() {
        for role in manifests(&example()).iter().filter(|manifest| manifest["rules"].is_array()) {
            let why = role["metadata"]["annotations"][WHY].as_str().expect("it has reasons");
            assert_eq!(Some(why.lines().count()), role["rules"].as_array().map(Vec::len));
        }
    }
}
