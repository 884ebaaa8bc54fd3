//! Changes that a cluster could never carry out, from one version of a class to another or from some values to others: fields that the API server
//! lets nobody change.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use crate::check::{MAX_EXAMPLES, rendered, samples};
use crate::class::Class;
use crate::finding::{Finding, Findings};
use crate::rendered::{Manifest, ObjectId, Rendered};
use crate::sums::whole;
use crate::units::bytes_words;

/// A field that keeps what it was made with: its path, what it is if nothing is said, and which changes of it are allowed all the same.
type Field = (&'static str, Option<&'static str>, Allowed);
/// Whether an object may become another one for all that one of its fields differs.
type Allowed = fn(&Value, &Value) -> bool;

/// Fields that the API server never lets anybody change, by version and kind; a change of one answers 422 for ever. No rule covers them: making the
/// object anew would end what runs, and is the class's author's to decide, by another name. As validated in `pkg/apis/*/validation` of Kubernetes; a
/// field that newer versions let change is not among them.
const IMMUTABLE: [(&str, &str, &[Field]); 6] = [
    ("apps/v1", "Deployment", &[("/spec/selector", None, never)]),
    (
        "apps/v1",
        "StatefulSet",
        &[("/spec/selector", None, never), ("/spec/serviceName", None, never), ("/spec/podManagementPolicy", Some("OrderedReady"), never)],
    ),
    (
        "batch/v1",
        "Job",
        &[
            ("/spec/selector", None, never),
            ("/spec/template", None, never),
            ("/spec/completions", None, elastic),
            ("/spec/completionMode", Some("NonIndexed"), never),
            ("/spec/backoffLimitPerIndex", None, never),
            ("/spec/podFailurePolicy", None, never),
            ("/spec/successPolicy", None, never),
            ("/spec/managedBy", None, never),
        ],
    ),
    (
        "v1",
        "Service",
        &[
            ("/spec/clusterIP", None, of_one_address),
            ("/spec/clusterIPs/0", None, of_one_address),
            ("/spec/ipFamilies/0", None, external),
            ("/spec/loadBalancerClass", None, of_another_type),
        ],
    ),
    ("rbac.authorization.k8s.io/v1", "RoleBinding", &[("/roleRef", None, never)]),
    ("v1", "Secret", &[("/type", None, never)]),
];

/// Kinds whose objects may say of themselves that they are `immutable`, and what that covers.
const SEALED: ([&str; 2], [&str; 3]) = (["ConfigMap", "Secret"], ["/data", "/binaryData", "/immutable"]);

/// What of `new` cannot be applied to tenants that have `old`. Both must pass [`crate::check`].
#[must_use]
pub fn check_change(old: &Class, new: &Class) -> Vec<Finding> {
    let mut findings = Findings::default();
    volumes(old, new, &mut findings);
    // A tenant keeps what was said of it, and has the defaults of its version. What only one of the two accepts is no tenant's.
    let said = std::iter::once(json!({})).chain(examples(old)).chain(examples(new));
    let mut tried = Vec::new();
    for said in said {
        let (Some(before), Some(after)) = (filled(old, &said), filled(new, &said)) else { continue };
        let pair = (before, after);
        if tried.contains(&pair) {
            continue;
        }
        if let (Ok(before), Ok(after)) = (rendered(old, &pair.0), rendered(new, &pair.1)) {
            objects(&before, &after, &mut findings);
        }
        tried.push(pair);
    }
    // Where neither accepts what the other gives as an example, each is tried with its own.
    if tried.is_empty()
        && let (Some(before), Some(after)) = (sample(old), sample(new))
    {
        objects(&before, &after, &mut findings);
    }
    let mut told = BTreeSet::new();
    findings.0.retain(|finding| told.insert(finding.clone()));
    findings.0
}

/// A class rendered with the first values that it is tried with.
fn sample(class: &Class) -> Option<Rendered> {
    let samples = samples(class, &mut Findings::default());
    rendered(class, &samples.first()?.values).ok()
}

/// Values that a class gives as examples of the whole.
fn examples(class: &Class) -> impl Iterator<Item = Value> {
    class.schema.examples().iter().take(MAX_EXAMPLES).cloned()
}

/// Values with a class's defaults; `None` if it does not accept them.
fn filled(class: &Class, said: &Value) -> Option<Value> {
    let mut values = said.clone();
    class.schema.fill_defaults(&mut values).ok()?;
    class.schema.violations(&values).is_empty().then_some(values)
}

fn volumes(old: &Class, new: &Class, findings: &mut Findings) {
    for (index, volume) in new.volumes.iter().enumerate() {
        // A volume that is dropped is only detached, and a new one is made.
        let Some(before) = old.volumes.iter().find(|before| before.name == volume.name) else { continue };
        let field = format!("spec.volumes[{index}]");
        if before.storage != volume.storage {
            let (was, is) = (&before.storage, &volume.storage);
            findings.add(
                format!("{field}.storage"),
                format!("was `{was}` and would be `{is}`: a claim keeps its storage for good, so give the volume another name"),
            );
        }
        if volume.size < before.size {
            let (was, is) = (bytes_words(before.size.0), bytes_words(volume.size.0));
            findings.add(format!("{field}.size"), format!("was {was} and would be {is}: volumes never shrink"));
        }
        if volume.size > before.size && !before.grow {
            findings.add(format!("{field}.size"), "would be larger, and the volume cannot grow: `grow` is not set");
        }
    }
}

fn objects(old: &Rendered, new: &Rendered, findings: &mut Findings) {
    for after in new.manifests() {
        let Some(before) = old.manifests().find(|before| before.id == after.id) else { continue };
        for field in refused(before, after) {
            let problem = format!("{}: {field} would change, which no cluster allows: give the object another name", after.id);
            findings.add("spec.manifests", problem);
        }
    }
}

/// What no cluster lets change of an object that is to become another one, as in `spec.selector`.
fn refused(before: &Manifest, after: &Manifest) -> Vec<String> {
    let mut found = Vec::new();
    let mut tell = |path: &str| found.push(path.trim_start_matches('/').replace('/', "."));
    for (path, default, allowed) in fields_of(&after.id) {
        let differs = value(&before.body, path, *default) != value(&after.body, path, *default);
        if differs && !allowed(&before.body, &after.body) {
            tell(path);
        }
    }
    if may_be_sealed(&after.id) && before.body.get("immutable") == Some(&Value::Bool(true)) {
        for path in SEALED.1 {
            if before.body.pointer(path) != after.body.pointer(path) {
                tell(path);
            }
        }
    }
    found
}

fn fields_of(id: &ObjectId) -> &'static [Field] {
    let found = IMMUTABLE.iter().find(|(version, kind, _)| *version == id.api_version && *kind == id.kind);
    found.map_or(&[], |(_, _, fields)| fields)
}

fn may_be_sealed(id: &ObjectId) -> bool {
    id.api_version == "v1" && SEALED.0.contains(&id.kind.as_str())
}

/// Objects of one version, each as the first values made it that it was tried with. A tenant changes its values, and its objects keep what cannot
/// change.
#[derive(Default)]
pub(crate) struct FirstMade(BTreeMap<ObjectId, Manifest>);

impl FirstMade {
    /// Tells of what of a rendering could not come of what was made first, or that of it, since `what` has changed. One of another name is another
    /// object.
    pub(crate) fn compare(&mut self, rendered: &Rendered, what: &str, findings: &mut Findings) {
        for manifest in rendered.manifests().filter(|manifest| !fields_of(&manifest.id).is_empty() || may_be_sealed(&manifest.id)) {
            let Some(first) = self.0.get(&manifest.id) else {
                self.0.insert(manifest.id.clone(), manifest.clone());
                continue;
            };
            for field in refused(first, manifest).into_iter().chain(refused(manifest, first)) {
                let problem = format!(
                    "{}: {field} depends on {what}, and no cluster lets it change: put what it depends on into the object's name",
                    manifest.id
                );
                findings.add("spec.manifests", problem);
            }
        }
    }
}

fn never(_: &Value, _: &Value) -> bool {
    false
}

/// An Indexed Job has other completions if it has as many at a time.
fn elastic(_: &Value, after: &Value) -> bool {
    let number = |path: &str| after.pointer(path).and_then(whole);
    let indexed = after.pointer("/spec/completionMode").and_then(Value::as_str) == Some("Indexed");
    indexed && number("/spec/completions") == Some(number("/spec/parallelism").unwrap_or(1))
}

/// A Service that leads out of the cluster has no address, before or after.
fn external(before: &Value, after: &Value) -> bool {
    [before, after].into_iter().any(|service| type_of(service) == "ExternalName")
}

/// A Service names its first address in two places, or in one of them.
fn of_one_address(before: &Value, after: &Value) -> bool {
    let address = |service: &Value| ["/spec/clusterIP", "/spec/clusterIPs/0"].into_iter().find_map(|path| service.pointer(path).cloned());
    external(before, after) || address(before) == address(after)
}

/// What only one type of Service has comes and goes with it.
fn of_another_type(before: &Value, after: &Value) -> bool {
    type_of(before) != type_of(after)
}

fn type_of(service: &Value) -> &str {
    service.pointer("/spec/type").and_then(Value::as_str).unwrap_or("ClusterIP")
}

fn value(body: &Value, path: &str, default: Option<&str>) -> Option<Value> {
    body.pointer(path).cloned().or_else(|| default.map(Value::from))
}

#[cfg(test)]
mod tests {
    use roadstead_core::reconcile::Part;

    use super::*;

    fn object(version: &str, kind: &str, body: &Value) -> Manifest {
        Manifest { id: ObjectId { api_version: version.to_owned(), kind: kind.to_owned(), name: "x".to_owned() }, body: body.clone() }
    }

    fn with(manifest: Manifest) -> Rendered {
        Rendered {
            digest: String::new(),
            class_digest: String::new(),
            namespace: object("v1", "Namespace", &json!({})),
            parts: BTreeMap::from([(Part::Workloads, vec![manifest])]),
            secrets: Vec::new(),
            volumes: BTreeMap::new(),
            ceded: Vec::new(),
            also: Vec::new(),
            ready_within: None,
            stop: Vec::new(),
            stop_within: None,
            local: BTreeMap::new(),
        }
    }

    /// What is told of an object that becomes another one.
    fn told(version: &str, kind: &str, before: &Value, after: &Value) -> Vec<String> {
        let mut findings = Findings::default();
        objects(&with(object(version, kind, before)), &with(object(version, kind, after)), &mut findings);
        findings.0.into_iter().map(|finding| finding.problem).collect()
    }

    /// Every field of the table: the object before and after, of which nothing else differs.
    fn rows() -> Vec<(&'static str, &'static str, &'static str, Value, Value)> {
        let (apps, batch, rbac) = ("apps/v1", "batch/v1", "rbac.authorization.k8s.io/v1");
        let spec = |field: &str, value: Value| json!({"spec": {field: value}});
        let (web, shop) = (json!({"matchLabels": {"app": "web"}}), json!({"matchLabels": {"app": "shop"}}));
        let selector = || (spec("selector", web.clone()), spec("selector", shop.clone()));
        let image = |image: &str| spec("template", json!({"spec": {"containers": [{"image": image}]}}));
        let balanced = |class: &str| json!({"spec": {"type": "LoadBalancer", "loadBalancerClass": class}});
        let fails = |action: &str| spec("podFailurePolicy", json!({"rules": [{"action": action}]}));
        let indexes = |indexes: &str| spec("successPolicy", json!({"rules": [{"succeededIndexes": indexes}]}));
        let row = |version, kind, path, (before, after): (Value, Value)| (version, kind, path, before, after);
        vec![
            row(apps, "Deployment", "/spec/selector", selector()),
            row(apps, "StatefulSet", "/spec/selector", selector()),
            row(apps, "StatefulSet", "/spec/serviceName", (spec("serviceName", json!("db")), spec("serviceName", json!("sql")))),
            row(apps, "StatefulSet", "/spec/podManagementPolicy", (json!({}), spec("podManagementPolicy", json!("Parallel")))),
            row(batch, "Job", "/spec/selector", selector()),
            row(batch, "Job", "/spec/template", (image("web:1"), image("web:2"))),
            row(batch, "Job", "/spec/completions", (spec("completions", json!(1)), spec("completions", json!(2)))),
            row(batch, "Job", "/spec/completionMode", (json!({}), spec("completionMode", json!("Indexed")))),
            row(batch, "Job", "/spec/backoffLimitPerIndex", (json!({}), spec("backoffLimitPerIndex", json!(2)))),
            row(batch, "Job", "/spec/podFailurePolicy", (fails("FailJob"), fails("Ignore"))),
            row(batch, "Job", "/spec/successPolicy", (indexes("0"), indexes("0-1"))),
            row(batch, "Job", "/spec/managedBy", (json!({}), spec("managedBy", json!("example.com/queue")))),
            row("v1", "Service", "/spec/clusterIP", (json!({}), spec("clusterIP", json!("None")))),
            row("v1", "Service", "/spec/clusterIPs/0", (spec("clusterIPs", json!(["None"])), spec("clusterIPs", json!(["10.0.0.1"])))),
            row("v1", "Service", "/spec/ipFamilies/0", (spec("ipFamilies", json!(["IPv4"])), spec("ipFamilies", json!(["IPv6"])))),
            row("v1", "Service", "/spec/loadBalancerClass", (balanced("example.com/a"), balanced("example.com/b"))),
            row(rbac, "RoleBinding", "/roleRef", (json!({"roleRef": {"name": "a"}}), json!({"roleRef": {"name": "b"}}))),
            row("v1", "Secret", "/type", (json!({"type": "Opaque"}), json!({"type": "kubernetes.io/tls"}))),
        ]
    }

    #[test]
    fn every_field_that_no_cluster_lets_change_is_told_by_name() {
        for (version, kind, path, before, after) in rows() {
            let field = path.trim_start_matches('/').replace('/', ".");
            let problem = format!("{kind}/x: {field} would change, which no cluster allows: give the object another name");
            assert_eq!(told(version, kind, &before, &after), std::slice::from_ref(&problem), "{kind} {path}");
            assert_eq!(told(version, kind, &before, &before), Vec::<String>::new(), "{kind} {path}");
            assert_eq!(told("example.com/v1", kind, &before, &after), Vec::<String>::new(), "a {kind} of another group is another kind");
        }
        let listed = IMMUTABLE.iter().flat_map(|(version, kind, fields)| fields.iter().map(move |(path, ..)| (*version, *kind, *path)));
        let named: Vec<_> = rows().into_iter().map(|(version, kind, path, ..)| (version, kind, path)).collect();
        assert_eq!(listed.collect::<Vec<_>>(), named);
    }

    #[test]
    fn what_is_said_to_be_immutable_keeps_its_data() {
        for kind in ["ConfigMap", "Secret"] {
            for (path, before) in [("data", json!({"a": "x"})), ("binaryData", json!({"a": "eA=="}))] {
                let sealed = |is: bool| json!({"immutable": is, path: before});
                let problem =
                    |field: &str| format!("{kind}/x: {field} would change, which no cluster allows: give the object another name");
                assert_eq!(told("v1", kind, &sealed(true), &json!({"immutable": true, path: {}})), [problem(path)]);
                assert_eq!(told("v1", kind, &sealed(true), &sealed(false)), [problem("immutable")]);
                assert_eq!(told("v1", kind, &sealed(false), &json!({path: {}})), Vec::<String>::new());
            }
        }
    }

    #[test]
    fn what_a_cluster_does_let_change_is_not_told() {
        let nothing = Vec::<String>::new();
        let service = |spec: Value| json!({ "spec": spec });
        let external = service(json!({"type": "ExternalName", "externalName": "db.example"}));
        assert_eq!(told("v1", "Service", &service(json!({"clusterIP": "None", "ipFamilies": ["IPv4"]})), &external), nothing);
        let (one, two) = (service(json!({"ipFamilies": ["IPv4"]})), service(json!({"ipFamilies": ["IPv4", "IPv6"]})));
        assert_eq!(told("v1", "Service", &one, &two), nothing, "a second family is added");
        let (one, both) = (json!({"clusterIP": "None"}), json!({"clusterIP": "None", "clusterIPs": ["None"]}));
        assert_eq!(told("v1", "Service", &service(one), &service(both)), nothing, "the same address, named once more");
        let balanced = service(json!({"type": "LoadBalancer", "loadBalancerClass": "example.com/a"}));
        assert_eq!(told("v1", "Service", &service(json!({})), &balanced), nothing);
        let job = |completions: u64, parallelism: u64| json!({"spec": {"completionMode": "Indexed", "completions": completions, "parallelism": parallelism}});
        assert_eq!(told("batch/v1", "Job", &job(2, 2), &job(3, 3)), nothing, "an elastic Job");
        assert_eq!(told("batch/v1", "Job", &job(2, 2), &job(3, 2)).len(), 1);
        let limits = |failed: u64| json!({"spec": {"backoffLimit": failed, "maxFailedIndexes": failed, "suspend": failed == 1}});
        assert_eq!(told("batch/v1", "Job", &limits(1), &limits(2)), nothing);
    }

    /// What is told of an object that some values make so and others otherwise, whichever are tried first.
    fn depends(version: &str, kind: &str, one: &Value, other: &Value) -> Vec<String> {
        let of = |one: &Value, other: &Value| {
            let (mut made, mut findings) = (FirstMade::default(), Findings::default());
            for body in [one, other, one] {
                made.compare(&with(object(version, kind, body)), "values", &mut findings);
            }
            findings.0.into_iter().map(|finding| finding.problem).collect::<Vec<_>>()
        };
        let told = of(one, other);
        assert_eq!(of(other, one), told);
        told
    }

    #[test]
    fn what_no_cluster_lets_change_may_not_depend_on_values() {
        for (version, kind, path, one, other) in rows() {
            let field = path.trim_start_matches('/').replace('/', ".");
            let problem = format!(
                "{kind}/x: {field} depends on values, and no cluster lets it change: put what it depends on into the object's name"
            );
            assert_eq!(depends(version, kind, &one, &other), [problem], "{kind} {path}");
        }
        let sealed = |data: &str| json!({"immutable": true, "data": {"a": data}});
        assert_eq!(depends("v1", "ConfigMap", &sealed("x"), &sealed("y")).len(), 1);
        let job = |completions: u64| json!({"spec": {"completionMode": "Indexed", "completions": completions, "parallelism": 2}});
        assert_eq!(depends("batch/v1", "Job", &job(2), &job(3)).len(), 1, "there is no way back from one that is not elastic");
    }

    #[test]
    fn what_a_cluster_lets_change_may_depend_on_values() {
        let nothing = Vec::<String>::new();
        let job = |count: f64| json!({"spec": {"completionMode": "Indexed", "completions": count, "parallelism": count}});
        assert_eq!(depends("batch/v1", "Job", &job(2.0), &job(3.0)), nothing, "an elastic Job");
        let set = |replicas: u64| json!({"spec": {"replicas": replicas, "serviceName": "db"}});
        assert_eq!(depends("apps/v1", "StatefulSet", &set(1), &set(2)), nothing);
        let open = |data: &str| json!({"data": {"a": data}});
        assert_eq!(depends("v1", "ConfigMap", &open("x"), &open("y")), nothing);
    }
}
