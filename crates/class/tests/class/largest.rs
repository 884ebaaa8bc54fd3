//! Which values a class is tried with, so that no tenant asks for more than it says.

use roadstead_class::check;
use serde_json::{Value, json};

use crate::given::{class_of, workload};

/// What is told of a class with these values, of which a Deployment without surge has so many replicas of 100m, and that says that it has `cpu`.
fn told(cpu: &str, values: Value, replicas: &str) -> Vec<String> {
    let requests = json!({"cpu": cpu, "memory": "100Gi", "pods": 1000, "largestPod": {"cpu": "100m", "memory": "1Gi"}});
    let manifests = workload("Deployment", &format!("replicas: \"{{{{ {replicas} }}}}\"\n  strategy: {{type: Recreate}}"));
    let class = class_of(json!({"requests": requests, "values": values}), &manifests).unwrap();
    check(&class).iter().map(ToString::to_string).collect()
}

/// Tells exactly that, and nothing to a class that says so much.
#[track_caller]
fn asks(values: Value, replicas: &str, with: &str, most: u64) {
    let cpu = |pods: u64| format!("{}m", 100 * pods);
    let message =
        format!("spec.requests.cpu: is {}, but with {with} the manifests ask for {}, surge of updates included", cpu(most - 1), cpu(most));
    assert_eq!(told(&cpu(most - 1), values.clone(), replicas), [message]);
    assert_eq!(told(&cpu(most), values, replicas), Vec::<String>::new());
}

/// Twice as many for who is large.
const BY_PLAN: &str = "values.web | times(2) if values.plan == 'large' else values.web";

#[test]
fn each_member_of_an_enum_is_tried_with_the_largest_values() {
    let web = json!({"type": "integer", "default": 1, "maximum": 6});
    let plan = json!({"enum": ["small", "large"], "default": "small"});
    asks(json!({"properties": {"plan": plan, "web": web}}), BY_PLAN, "plan \"large\" and the largest values", 12);
    let doubled = json!({"type": "boolean", "default": false});
    let by_switch = "values.web | times(2) if values.doubled else values.web";
    asks(json!({"properties": {"doubled": doubled, "web": web}}), by_switch, "doubled true and the largest values", 12);
}

#[test]
fn each_example_is_tried_with_the_largest_values() {
    let (web, plan) = (json!({"type": "integer", "default": 1, "maximum": 6}), json!({"type": "string", "default": "small"}));
    let values = json!({"properties": {"plan": plan, "web": web}, "examples": [{"plan": "other"}, {"plan": "large", "web": 2}]});
    asks(values, BY_PLAN, "examples[1] of its values and the largest values", 12);
}

#[test]
fn the_largest_values_are_those_that_the_schema_accepts() {
    let one = |rules: Value| {
        let mut web = json!({"type": "integer", "default": 0});
        web.as_object_mut().unwrap().extend(rules.as_object().unwrap().clone());
        json!({ "properties": { "web": web } })
    };
    asks(one(json!({"maximum": 10, "multipleOf": 4})), "values.web", "the largest values", 8);
    asks(one(json!({"exclusiveMaximum": 6})), "values.web", "the largest values", 5);
    asks(one(json!({"maximum": 9, "enum": [0, 3, 5]})), "values.web", "the largest values", 5);
}

#[test]
fn what_has_no_largest_value_does_not_hide_what_others_ask_for() {
    let odd = json!({"type": "integer", "minimum": 6, "maximum": 9, "multipleOf": 5});
    let web = json!({"type": "integer", "default": 1, "maximum": 6});
    asks(json!({"properties": {"odd": odd, "web": web}}), "values.web", "the largest values", 6);
}

/// Rendering is the work: of many members only so many are tried, those of the shortest lists first.
#[test]
fn of_many_members_only_so_many_are_tried() {
    let place: Vec<String> = (0..200).map(|number| format!("p{number}")).collect();
    let values = json!({"properties": {
        "place": {"enum": place, "default": "p0"},
        "plan": {"enum": ["small", "large"], "default": "small"},
        "web": {"type": "integer", "default": 1, "maximum": 2},
    }});
    asks(values.clone(), BY_PLAN, "plan \"large\" and the largest values", 4);
    let at = |place: &str| format!("4 if values.place == '{place}' else values.web");
    asks(values.clone(), &at("p29"), "place \"p29\" and the largest values", 4);
    assert_eq!(told("200m", values, &at("p30")), Vec::<String>::new());
}
