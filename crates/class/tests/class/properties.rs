//! Whatever people write, nothing panics, and what is rendered stays the tenant's own.

use proptest::prelude::*;
use roadstead_class::{Class, check, pods_of, render};
use serde_json::{Value, json};

use crate::given;

/// Pieces of which expressions and mistakes are made.
const PIECES: [&str; 40] = [
    "{{",
    "}}",
    "{%",
    "%}",
    "values",
    ".",
    "web",
    "tenant.name",
    " ",
    "'",
    "\"",
    "|",
    "default(1)",
    "tojson",
    "[",
    "]",
    "(",
    ")",
    "0",
    "-",
    "+",
    "~",
    "if",
    "else",
    "in",
    "not",
    "*",
    "**",
    "//",
    "%",
    ":",
    "9999999999999999999",
    "1.5",
    "replace('a','b')",
    "{",
    "}",
    "\\",
    "é",
    "\n",
    "sort",
];

fn text() -> impl Strategy<Value = String> {
    let piece = prop::sample::select(PIECES.to_vec());
    let expression = prop::collection::vec(piece.clone(), 1..8).prop_map(|pieces| format!("{{{{ {} }}}}", pieces.concat()));
    prop_oneof![prop::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat()), expression]
}

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        prop::num::f64::NORMAL.prop_map(Value::from),
        text().prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map("[a-z]{1,6}", inner, 0..4).prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

#[test]
fn nesting_as_deep_as_an_expression_can_be_does_not_exhaust_the_stack() {
    for piece in ["(", "[", "not ", "-", "{1:", "1 if ", "1+", "1~", "values.", "1|int|", "values["] {
        let text = format!("{{{{ {} }}}}", piece.repeat(500 / piece.len()));
        let closed = format!("{{{{ {}1{} }}}}", "(".repeat(250), ")".repeat(250));
        for text in [text, closed] {
            let manifest = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x"}, "data": [text]}).to_string();
            let version = given::version("shop", &json!({}), vec![("x.yaml".to_owned(), manifest)]);
            assert!(Class::parse(&version).is_err(), "{text}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn no_expression_and_no_values_make_it_panic(texts in prop::collection::vec(text(), 1..5), values in value()) {
        let manifest = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x"}, "data": texts}).to_string();
        let version = given::version("shop", &json!({"values": {}}), vec![("x.yaml".to_owned(), manifest)]);
        if let Ok(class) = Class::parse(&version) {
            let tenant = given::tenant(&class, &values);
            if let Ok(rendered) = render(&class, &tenant, &given::site()) {
                prop_assert_eq!(&render(&class, &tenant, &given::site()).unwrap(), &rendered);
            }
        }
    }

    #[test]
    fn no_manifest_makes_it_panic_and_all_that_is_rendered_is_the_tenants_own(
        kind in prop::sample::select(vec!["Deployment", "StatefulSet", "Job", "CronJob", "Service", "Role", "RoleBinding", "ConfigMap"]),
        metadata in value(),
        spec in value(),
        values in value(),
    ) {
        let group = match kind {
            "Deployment" | "StatefulSet" => "apps/v1",
            "Job" | "CronJob" => "batch/v1",
            "Role" | "RoleBinding" => "rbac.authorization.k8s.io/v1",
            _ => "v1",
        };
        let metadata = if metadata.is_object() { metadata } else { json!({"name": "x"}) };
        let manifest = json!({"apiVersion": group, "kind": kind, "metadata": metadata, "spec": {"template": spec, "replicas": "{{ values }}"}});
        let spec = json!({"values": {}, "volumes": [{"name": "data", "size": "1Gi", "storage": "fast"}]});
        let version = given::version("shop", &spec, vec![("x.yaml".to_owned(), manifest.to_string())]);
        if let Ok(class) = Class::parse(&version) {
            let _ = check(&class);
            if let Ok(rendered) = render(&class, &given::tenant(&class, &values), &given::site()) {
                let _ = pods_of(&rendered);
                for manifest in rendered.manifests().filter(|manifest| manifest.id.kind != "Namespace") {
                    prop_assert_eq!(&manifest.body["metadata"]["namespace"], &json!("acme-0000000000000007"));
                    prop_assert_eq!(&manifest.body["metadata"]["labels"]["roadstead.dev/tenant"], &json!("0000000000000007"));
                }
            }
        }
    }

    #[test]
    fn no_template_and_no_yaml_makes_parsing_panic(template in value(), yaml in "[ -~\n]{0,80}") {
        let mut version = given::version("shop", &json!({}), vec![("x.yaml".to_owned(), yaml)]);
        let _ = Class::parse(&version);
        let fields = ["secrets", "network", "podSecurity", "manifests", "cede", "ready", "quiesce", "local"];
        for field in fields {
            version.template = json!({field: template}).to_string();
            let _ = Class::parse(&version);
        }
    }
}
