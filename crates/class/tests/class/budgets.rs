//! What a class, or a tenant's values, could make of an agent's or the placement service's time and memory, and how it ends.

use roadstead_class::{Class, RenderError, check, check_change, try_render};
use serde_json::{Map, Value, json};

use crate::given::{self, class_of};

/// A ConfigMap with these data.
fn config(data: &Value) -> String {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x"}, "data": data}).to_string()
}

/// A class with a text of 60,000 characters and a list of 5,000 numbers by default.
fn class(data: &Value) -> Class {
    let values = json!({"properties": {
        "a": {"default": "a".repeat(60_000)}, "list": {"default": vec![0; 5000]}, "map": {"default": {"x": vec![0; 2000], "y": "b"}},
    }});
    class_of(json!({"values": values}), &config(data)).unwrap()
}

/// How the rendering of an expression ends that stands so often in a class.
#[track_caller]
fn fate(expression: &str, times: usize) -> Result<(), RenderError> {
    let class = class(&Value::Array(vec![json!(format!("{{{{ {expression} }}}}")); times]));
    try_render(&class, &given::tenant(&class, &json!({})), &given::site()).map(|_| ())
}

#[track_caller]
fn works_too_much(expression: &str, times: usize) {
    let fate = fate(expression, times);
    assert!(matches!(fate, Err(RenderError::TooMuchWork { .. })), "{expression}: {fate:?}");
}

#[track_caller]
fn is_too_large(expression: &str, times: usize) {
    assert_eq!(fate(expression, times), Err(RenderError::TooLarge { most: 4 << 20 }), "{expression}");
}

/// `[item, item, ...]`.
fn list(item: &str, times: usize) -> String {
    format!("[{}]", vec![item; times].join(","))
}

#[test]
fn lists_of_empty_texts_are_not_free() {
    works_too_much(&list("values.a|split('a')", 20), 8);
    let class = class(&json!([format!("{{{{ {} }}}}", list("values.a|split('a')", 20))]));
    let error = try_render(&class, &given::tenant(&class, &json!({})), &given::site()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "shop.yaml: ConfigMap/x: data[0]: up to here the tenant's expressions work on more than 33554432 bytes: let them split, sort and join less"
    );
}

#[test]
fn what_takes_long_once_is_not_done_a_hundred_times() {
    works_too_much("values.a|split('a')|sort|length", 100);
    works_too_much("values.a|split('')|max", 100);
    works_too_much("values.a|sort|length", 100);
    works_too_much("values.list|sort(attribute='0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0')|length", 100);
    works_too_much("values.list == values.list[:]", 100);
    works_too_much("(values.list + values.list)|length", 100);
    works_too_much("values.map == {'x': values.map.x[:], 'y': 'b'}", 100);
    works_too_much(&format!("{}|length", list("values", 50)), 100);
    works_too_much("values.a|replace('b', '')|length", 1000);
    works_too_much("0 in values.list[::-1]", 100);
}

#[test]
fn what_joins_and_cuts_again_and_again_is_paid_again_and_again() {
    works_too_much(&format!("({})|length", ["values.a"; 45].join("~")), 2);
    works_too_much(&format!("values.list{}|length", "[::-1][:-1]".repeat(40)), 2);
    works_too_much(&format!("({})|length", ["values.list"; 35].join("+")), 2);
    assert_eq!(fate("(values.map.y ~ '-' ~ values.map.y)|length", 1000), Ok(()));
}

#[test]
fn all_that_comes_out_counts() {
    is_too_large(&list("values.list", 20), 1);
    is_too_large("values.list", 14);
    is_too_large("values.a", 80);
    is_too_large("values.a }}{{ values.a", 40);
    is_too_large("values", 20);
    is_too_large("{values.a: 1}", 75);
    assert_eq!(fate("values.list", 12), Ok(()));
    let plain = class_of(json!({}), &config(&json!(vec![0; 70_000]))).unwrap();
    assert_eq!(
        try_render(&plain, &given::tenant(&plain, &json!({})), &given::site()).unwrap_err(),
        RenderError::TooLarge { most: 4 << 20 }
    );
}

#[test]
fn filters_write_no_text_that_is_refused() {
    for expression in ["tojson", "string", "join(',')"] {
        let error = fate(&format!("{}|{expression}", list("values.list", 10)), 1).unwrap_err().to_string();
        assert!(error.ends_with("the text would have more than 65536 bytes"), "{error}");
    }
}

#[test]
fn of_many_small_expressions_each_counts() {
    let text = "{{1}}".repeat(200_000);
    let class = class_of(json!({}), &config(&json!({"a": text}))).unwrap();
    let fate = try_render(&class, &given::tenant(&class, &json!({})), &given::site());
    assert!(matches!(fate, Err(RenderError::TooMuchWork { .. })), "{fate:?}");
}

#[test]
fn local_processes_share_the_budgets() {
    let local = json!({"web": {"run": ["{{ values.a|split('a')|sort|length }}"]}});
    let spec = json!({"values": {"properties": {"a": {"default": "a".repeat(60_000)}}}, "local": local});
    let class = class_of(spec, "").unwrap();
    let error = try_render(&class, &given::tenant(&class, &json!({})), &given::site()).unwrap_err();
    assert!(error.to_string().starts_with("local.web: up to here"), "{error}");
}

#[test]
fn a_large_class_of_the_usual_kind_has_room() {
    let spec = json!({"values": {"properties": {
        "image": {"default": {}, "properties": {"registry": {"default": "registry.example"}, "tag": {"default": "1.27.3"}}},
        "replicas": {"type": "integer", "default": 2}, "settings": {"default": "key = value\n".repeat(1000)},
    }}});
    let field = |n: usize| {
        let all = [
            "{{ values.image.registry }}/web:{{ values.image.tag }}",
            "{{ values.replicas | times(2) | string }}",
            "{{ values.image.tag | default('latest') ~ '-' ~ tenant.name }}",
            "{{ hostnames | first }}",
            "{{ 'x' if values.replicas > 1 else 'y' }}",
        ];
        (format!("field{n}"), json!(all[n % all.len()]))
    };
    let object = |n: usize| {
        let data: Map<String, Value> = (0..30).map(field).collect();
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": format!("x{n}")}, "data": data, "more": ["{{ values.settings }}"]})
    };
    let objects: Vec<String> = (0..128).map(|n| object(n).to_string()).collect();
    let class = class_of(spec, &objects.join("\n---\n")).unwrap();
    try_render(&class, &given::tenant(&class, &json!({})), &given::site()).unwrap();
}

/// A list by default, of objects that have such a list by default, and so on.
fn nested(levels: usize) -> Value {
    (0..levels).fold(json!({}), |list, _| json!({"default": vec![json!({}); 12], "items": {"properties": {"a": list}}}))
}

#[test]
fn a_class_whose_defaults_multiply_is_refused() {
    let class = class_of(json!({"values": {"properties": {"a": nested(7)}}}), "").unwrap();
    let found = check(&class);
    let first = found.first().unwrap().to_string();
    assert!(first.starts_with("spec.values: the default of spec.values.a[0].a"), "{first}");
    assert!(first.ends_with("with what it adds there are more than 10000 values together"), "{first}");
    assert_eq!(check_change(&class, &class), []);
}

#[test]
fn a_tenant_whose_values_multiply_is_refused() {
    let values = json!({"properties": {"list": {"items": {"properties": {"a": nested(6)}}}}});
    let class = class_of(json!({"values": values}), "").unwrap();
    assert_eq!(check(&class), [], "nothing that can be tried has the list");
    let error = try_render(&class, &given::tenant(&class, &json!({"list": [{}]})), &given::site()).unwrap_err();
    assert!(matches!(&error, RenderError::Values { field, .. } if field.starts_with("spec.values.list[0].a[0]")), "{error}");
    assert_eq!(class.schema.refusals(json!({"list": [{}]})).first().unwrap().to_string(), error.to_string(), "all refuse the same");
}

#[test]
fn examples_and_largest_values_that_multiply_are_refused() {
    let values = json!({"properties": {"list": {"items": {"properties": {"a": nested(6)}}}}, "examples": [{"list": [{}]}]});
    let found = check(&class_of(json!({"values": values}), "").unwrap());
    assert!(found.first().unwrap().problem.starts_with("examples[0]: spec.values.list[0].a[0]"), "{found:?}");
    let properties: Map<String, Value> = (0..200).map(|n| (format!("p{n}"), json!({"maximum": 1}))).collect();
    let values = json!({"properties": {"list": {"default": vec![json!({}); 100], "items": {"properties": properties}}}});
    let found = check(&class_of(json!({"values": values}), "").unwrap());
    assert!(found.first().unwrap().problem.starts_with("the largest values: spec.values.list["), "{found:?}");
}

#[test]
fn a_class_that_works_too_much_is_tried_once() {
    let choices: Map<String, Value> = (0..8).map(|n| (format!("c{n}"), json!({"enum": [1, 2, 3, 4], "default": 1}))).collect();
    let mut properties = choices;
    properties.insert("a".to_owned(), json!({"default": "a".repeat(60_000)}));
    let data = Value::Array(vec![json!("{{ values.a|split('a')|length }}"); 20]);
    let class = class_of(json!({"values": {"properties": properties}}), &config(&data)).unwrap();
    let found = check(&class);
    assert_eq!(found.len(), 1, "{found:?}");
}

#[test]
fn rights_of_long_lists_are_refused_soon() {
    let names: Vec<String> = (0..5000).map(|n| format!("n{n}")).collect();
    for (groups, resources, verbs) in [(&names, &names, &names[..]), (&names, &names, &[])] {
        let rules = json!([{"apiGroups": groups, "resources": resources, "verbs": verbs}]);
        let role = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": {"name": "r"}, "rules": rules});
        assert_eq!(class_of(json!({}), &role.to_string()).is_err(), !verbs.is_empty());
    }
}
