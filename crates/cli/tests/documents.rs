//! Documents: bad ones are refused with file, line and field; good ones survive the way through the wire and back.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use roadstead_api::v1;
use roadstead_cli::document::Spec;
use roadstead_cli::document::files::{BadInput, Known, check_references, load, load_text};
use roadstead_cli::document::tenant::ClassRef;
use roadstead_cli::failure::Failure;
use roadstead_cli::output::objects::Object;
use roadstead_cli::output::{json, yaml};

/// One of each kind, with every field.
const EVERYTHING: &str = include_str!("everything.yaml");

fn document(kind: &str, name: &str, spec: &str) -> String {
    format!("apiVersion: roadstead.dev/v1\nkind: {kind}\nmetadata: {{name: {name}}}\nspec:\n{spec}")
}

fn refused(text: &[u8]) -> BadInput {
    load_text("fleet.yaml", Path::new("."), text).expect_err("a bad document")
}

#[test]
fn every_bad_document_is_refused_with_file_line_and_field() {
    let cluster = |spec: &str| document("Cluster", "eu-1", &format!("  provider: own\n  region: eu\n  pool: home\n{spec}"));
    let class = |requests: &str| document("Class", "shop", &format!("  version: 1.0.0\n  requests: {{{requests}}}\n"));
    let tenant = |spec: &str| document("Tenant", "acme", &format!("  owner: acme\n  class: shop@1.0.0\n{spec}"));
    let good = "memory: 1Gi, pods: 1, largestPod: {cpu: 1, memory: 1Gi}";
    let long_name = "x".repeat(1 << 20);
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        ("unknown field", cluster("  tenantCaps: 5\n").into(), "spec.tenantCaps"),
        ("unknown field deep inside", class("cpu: 1, memory: 1Gi, pods: 1, largestPod: {cpu: 1, mem: 1Gi}").into(), "spec.requests.largestPod.mem"),
        ("wrong unit of CPU", class(&format!("cpu: 2Gi, {good}")).into(), "spec.requests.cpu"),
        ("wrong unit of memory", class("cpu: 1, memory: 3GB, pods: 1, largestPod: {cpu: 1, memory: 1Gi}").into(), "spec.requests.memory"),
        ("duration without unit", document("Policy", "default", "  silentAfter: 20\n").into(), "spec.silentAfter"),
        ("negative quantity", class(&format!("cpu: -2, {good}")).into(), "spec.requests.cpu"),
        ("negative number", cluster("  tenantCap: -5\n").into(), "spec.tenantCap"),
        ("number too large", cluster("  tenantCap: 5000000000\n").into(), "spec.tenantCap"),
        ("fraction of a pod", class("cpu: 1, memory: 1Gi, pods: 1.5, largestPod: {cpu: 1, memory: 1Gi}").into(), "spec.requests.pods"),
        ("text for a number", cluster("  tenantCap: many\n").into(), "spec.tenantCap"),
        ("missing field", document("Cluster", "eu-1", "  provider: own\n  region: eu\n").into(), "spec"),
        ("missing spec", "apiVersion: roadstead.dev/v1\nkind: Pool\nmetadata: {name: home}\n".into(), ""),
        ("unknown variant", document("Pool", "home", "  kind: rented\n").into(), "spec.kind"),
        ("wrong apiVersion", cluster("").replace("roadstead.dev/v1", "v1").into(), "apiVersion"),
        ("wrong kind", cluster("").replace("Cluster", "Fleet").into(), "kind"),
        ("no apiVersion", "kind: Pool\n".into(), "apiVersion"),
        ("not a map", "- a\n- b\n".into(), ""),
        ("name of a mebibyte", document("Pool", &long_name, "  kind: home\n").into(), "metadata.name"),
        ("name in capitals", document("Pool", "Home", "  kind: home\n").into(), "metadata.name"),
        ("two policies' name", document("Policy", "other", "  {}\n").into(), "metadata.name"),
        ("duplicate name", format!("{}\n---\n{}", document("Pool", "home", "  kind: home\n"), document("Pool", "home", "  kind: burst\n")).into(), "metadata.name"),
        ("duplicate key", cluster("  tenantCap: 5\n  tenantCap: 6\n").into(), "tenantCap"),
        ("not UTF-8", [cluster("  residency: ").as_bytes(), b"e\xffu\n"].concat(), "residency"),
        ("broken YAML", "apiVersion: roadstead.dev/v1\nkind: [Pool\nmetadata: {}\n".into(), "metadata"),
        ("tabs for indentation", "apiVersion: roadstead.dev/v1\nkind: Pool\nspec:\n\tkind: home\n".into(), "?"),
        ("class without version", tenant("").replace("shop@1.0.0", "shop").into(), "spec.class"),
        ("deadline that is no time", tenant("  deadline: tomorrow\n").into(), "spec.deadline"),
        ("operand for Exists", tenant("  constraints:\n    labels:\n    - {key: a, operator: Exists, values: [b]}\n").into(), "spec.constraints.labels[0].values"),
        ("company of nobody", tenant("  constraints:\n    apart:\n    - {topologyKey: region}\n").into(), "spec.constraints.apart[0]"),
        ("weight out of range", tenant("  constraints:\n    preferences:\n    - {weight: 101, region: eu}\n").into(), "spec.constraints.preferences[0].weight"),
        ("too few shards", cluster("  tenantCap: 1000\n  maxShards: 5\n").into(), "spec.maxShards"),
        ("manifests that are not there", document("Class", "shop", "  version: 1.0.0\n  requests: {cpu: 1, memory: 1Gi, pods: 1, largestPod: {cpu: 1, memory: 1Gi}}\n  manifests: [absent-*.yaml]\n").into(), "spec.manifests[0]"),
    ];
    let mut transcript = String::new();
    for (what, text, field) in &cases {
        let bad = refused(text);
        for problem in &bad.0 {
            assert!(problem.place.is_some_and(|place| place.line > 0), "{what}: {problem}");
            assert!(problem.to_string().len() < 400, "{what}: {} bytes", problem.to_string().len());
        }
        // The YAML parser says where, not in which field.
        assert!(*field == "?" || bad.0[0].field == *field, "{what}: {bad}");
        transcript.push_str(&format!("{what}\n    {}\n", bad.0[0]));
    }
    insta::assert_snapshot!(transcript);
}

#[test]
fn references_are_checked_against_the_input_and_the_server() {
    let text = format!(
        "{}\n---\n{}",
        document("Cluster", "eu-1", "  provider: own\n  region: eu\n  pool: attic\n"),
        document("Tenant", "acme", "  owner: acme\n  class: shop@2\n  constraints: {pool: cellar, cluster: eu-9}\n"),
    );
    let loaded = load_text("fleet.yaml", Path::new("."), text.as_bytes()).expect("good in itself");
    let bad = check_references(&loaded, &Known::default()).expect_err("leads nowhere");
    let problems: Vec<String> = bad.0.iter().map(ToString::to_string).collect();
    insta::assert_snapshot!(problems.join("\n"));
    let hints = Failure::from(bad).hints;
    assert!(hints.len() == 1 && hints[0].contains("`kind: Pool`"), "{hints:?}");
    let known = Known {
        pools: BTreeSet::from(["attic".to_owned(), "cellar".to_owned()]),
        classes: BTreeMap::from([("shop@2".parse().expect("a class"), String::new())]),
        clusters: BTreeSet::from(["eu-9".to_owned()]),
    };
    assert_eq!(check_references(&loaded, &known), Ok(()));
    assert!(Failure::from(refused(b"kind: Pool\n")).hints.is_empty());
}

#[test]
fn values_that_the_class_refuses_are_a_problem_with_file_line_and_field_wherever_the_class_is() {
    let class = document(
        "Class",
        "shop",
        "  version: 1.0.0\n  requests: {cpu: 1, memory: 1Gi, pods: 1, largestPod: {cpu: 1, memory: 1Gi}}\n  values: {additionalProperties: false, properties: {web: {type: integer, maximum: 6}}}\n",
    );
    let good = document("Tenant", "good", "  owner: o\n  class: shop@1.0.0\n  values: {web: 6}\n");
    let bad = document("Tenant", "bad", "  owner: o\n  class: shop@1.0.0\n  values:\n    web: 7\n    colour: red\n");
    let none = document("Tenant", "none", "  owner: o\n  class: plain@1\n  values: {a: 1}\n");
    let found = |text: &str, known: &Known| {
        let loaded = load_text("in.yaml", Path::new("."), text.as_bytes()).expect("good documents");
        check_references(&loaded, known).map_err(|bad| bad.0.iter().map(ToString::to_string).collect::<Vec<_>>())
    };
    let both = [good.clone(), bad.clone()].join("---\n");
    let shop: ClassRef = "shop@1.0.0".parse().expect("a class");
    let Spec::Class(spec) = load_text("c.yaml", Path::new("."), class.as_bytes()).expect("a class").remove(0).document.spec else {
        panic!("a class")
    };
    let plain: ClassRef = "plain@1".parse().expect("a class");
    let classes = BTreeMap::from([(shop, spec.values_schema().expect("a schema")), (plain, String::new())]);
    let known = Known { classes, ..Known::default() };
    insta::assert_snapshot!(found(&both, &known).expect_err("known to the server").join("\n"));
    let here = format!("{both}---\n{class}");
    assert_eq!(found(&here, &Known::default()), found(&both, &known), "the class is in the same input");
    assert_eq!(found(&format!("{good}---\n{class}"), &Known::default()), Ok(()));
    let none = found(&none, &known).expect_err("a class without a schema accepts no values");
    assert!(none[0].contains("spec.values.a: is not allowed"), "{none:?}");
}

#[test]
fn a_schema_that_the_service_would_refuse_is_refused_with_its_place() {
    let class = document(
        "Class",
        "shop",
        "  version: 1.0.0\n  requests: {cpu: 1, memory: 1Gi, pods: 1, largestPod: {cpu: 1, memory: 1Gi}}\n  values: {properties: {web: {pattern: x}}}\n",
    );
    let bad = load_text("c.yaml", Path::new("."), class.as_bytes()).expect_err("a keyword that is not checked");
    assert_eq!(bad.0[0].field, "spec.values");
    assert!(bad.0[0].message.contains("\"pattern\""), "{bad}");
}

#[test]
fn all_problems_of_all_files_are_listed_at_once() {
    let folder = tempfile::tempdir().expect("folder");
    std::fs::write(folder.path().join("a.yaml"), document("Pool", "home", "  kind: home\n")).expect("write");
    std::fs::write(folder.path().join("b.yaml"), document("Pool", "home", "  kind: home\n")).expect("write");
    std::fs::write(folder.path().join("c.yml"), document("Pool", "B", "  kind: home\n  colour: red\n")).expect("write");
    std::fs::write(folder.path().join("notes.txt"), "not a document").expect("write");
    let bad = load(&[folder.path().to_owned(), folder.path().join("absent.yaml")]).expect_err("bad");
    let files: Vec<&str> = bad.0.iter().map(|problem| problem.file.rsplit('/').next().unwrap_or_default()).collect();
    assert_eq!(files, ["c.yml", "absent.yaml", "b.yaml"], "{bad}");
}

#[test]
fn documents_are_applied_in_the_order_of_their_dependence() {
    let loaded = load_text("everything.yaml", Path::new("tests"), EVERYTHING.as_bytes()).expect("good");
    let kinds: Vec<&str> = loaded.iter().map(|item| item.document.spec.kind().name()).collect();
    assert_eq!(kinds, ["Policy", "Pool", "Class", "Cluster", "Tenant"]);
}

/// The server's form of a document, as if it had been applied and read again.
fn on_the_server(spec: &Spec, name: &str) -> Object {
    let revision = Some(v1::Revision { incarnation: 1, index: 42 });
    let name = name.to_owned();
    match spec {
        Spec::Policy(policy) => Object::Policy(v1::Policy { spec: Some(policy.into()), revision }),
        Spec::Pool(pool) => Object::Pool(v1::Pool { name, spec: Some(pool.into()), revision }),
        Spec::Class(class) => Object::Class(Box::new(v1::Class { revision, tenants: 7, ..class.to_wire(&name) })),
        Spec::Cluster(cluster) => {
            let status = v1::ClusterStatus { tenants: 3, capacity: cluster.capacity.as_ref().map(Into::into), ..Default::default() };
            Object::Cluster(Box::new(v1::Cluster { name, spec: Some((&**cluster).into()), status: Some(status), revision }))
        }
        Spec::Tenant(tenant) => {
            let binding = v1::Binding { cluster: "eu-1".to_owned(), shard: 3, epoch: revision };
            let status = v1::TenantStatus {
                phase: v1::Phase::Running.into(),
                binding: Some(binding),
                reason: "emptiest".to_owned(),
                ..Default::default()
            };
            let create_time = Some(prost_types::Timestamp { seconds: 1_800_000_000, nanos: 0 });
            let uid = "1-42-1".to_owned();
            Object::Tenant(Box::new(v1::Tenant { name, uid, spec: Some((&**tenant).into()), status: Some(status), revision, create_time }))
        }
    }
}

#[test]
fn what_get_writes_is_what_apply_reads() {
    let loaded = load_text("everything.yaml", Path::new("tests"), EVERYTHING.as_bytes()).expect("good");
    let mut transcript = String::new();
    for item in &loaded {
        let object = on_the_server(&item.document.spec, &item.document.name);
        let text = yaml(&[object.document(true)]).expect("YAML");
        let mut expected = item.document.clone();
        if let Spec::Cluster(cluster) = &mut expected.spec {
            // Facts are reported, not declared: they come back under `status`.
            cluster.capacity = None;
        }
        let again = load_text("got.yaml", Path::new("."), text.as_bytes()).unwrap_or_else(|bad| panic!("{bad}\n{text}"));
        assert_eq!(again[0].document, expected, "{text}");
        let from_json = json(&object.document(true)).expect("JSON");
        let again = load_text("got.json", Path::new("."), from_json.as_bytes()).unwrap_or_else(|bad| panic!("{bad}\n{from_json}"));
        assert_eq!(again[0].document, expected, "{from_json}");
        transcript.push_str(&text);
        transcript.push_str("---\n");
    }
    insta::assert_snapshot!(transcript);
}

#[test]
fn a_list_holds_documents_and_what_is_wrong_in_them_keeps_its_line() {
    let pool = |kind: &str| {
        format!("  - apiVersion: roadstead.dev/v1\n    kind: Pool\n    metadata: {{name: {kind}}}\n    spec: {{kind: {kind}}}\n")
    };
    let list = |items: &str| format!("apiVersion: roadstead.dev/v1\nkind: List\n{items}");
    let read = |text: String| load_text("list.yaml", Path::new("."), text.as_bytes());
    let good = read(list(&format!("items:\n{}{}", pool("home"), pool("burst")))).expect("two pools");
    assert_eq!(good.len(), 2);
    let bad = read(list(&format!("items:\n{}{}", pool("home"), pool("hotel")))).expect_err("no such kind of pool");
    assert_eq!(bad.0[0].place.map(|place| place.line), Some(11), "{bad}");
    for items in ["", "items: 3\n"] {
        assert_eq!(read(list(items)).expect_err("no items").0[0].field, "items");
    }
}
