//! Whether an object is as rendered: every rendered field is ours and has its value, and nothing is ours that is not rendered.
//!
//! `resourceVersion` says nothing about that (every status moves it), nor does `generation` (Secrets have none). Fields that the API server
//! filled in and those of others do not matter, unless they are inside a value that can only be owned as a whole.

use roadstead_class::suffix_factor;
use serde_json::Value;

use super::owned::{ItemKey, Owned};

/// Objects whose scalars are quantities: the API server rewrites `1000m` to `1`.
const QUANTITIES: &[&str] = &[
    "capacity",
    "default",
    "defaultRequest",
    "emptyDir",
    "hard",
    "limits",
    "max",
    "maxLimitRequestRatio",
    "min",
    "overhead",
    "requests",
    "resourceFieldRef",
    "target",
];
/// Fields of one object that may be ceded below one field.
const MAX_CEDED: usize = 4;
/// Nano units in one: quantities have at most nine decimal places.
const NANO: i128 = 1_000_000_000;

/// The first field that is not as rendered, outermost name last; what was compared on the way. Written as `spec.replicas`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Difference(Vec<String>);

impl Difference {
    fn at(name: &str) -> Self {
        Self(vec![name.to_owned()])
    }

    fn below(mut self, name: &str) -> Self {
        self.0.push(name.to_owned());
        self
    }
}

impl std::fmt::Display for Difference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let path: Vec<&str> = self.0.iter().rev().map(String::as_str).collect();
        f.write_str(&path.join("."))
    }
}

/// Paths of field names that are not looked at.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ceded<'a> {
    paths: &'a [&'a [String]],
    depth: usize,
}

impl<'a> Ceded<'a> {
    /// These paths.
    pub(super) fn new(paths: &'a [&'a [String]]) -> Self {
        Self { paths, depth: 0 }
    }

    fn is_empty(self) -> bool {
        self.paths.is_empty()
    }
}

/// Whether an object is as rendered.
///
/// # Errors
/// The first field that is not.
pub(super) fn in_step(body: &Value, owned: &Owned, ceded: Ceded<'_>) -> Result<(), Difference> {
    let Owned::Fields(fields) = owned else { return Err(Difference::at("metadata")) };
    let Some(object) = body.as_object() else { return Err(Difference::at("kind")) };
    let rendered = object.iter().filter(|(name, _)| !matches!(name.as_str(), "apiVersion" | "kind"));
    match_fields(rendered, fields, ceded, Place::Top)
}

/// Where in an object a value is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    /// The object itself.
    Top,
    /// Its metadata, whose name and namespace are nobody's fields.
    Metadata,
    /// Labels, annotations, a ConfigMap's data: texts, whatever they are called.
    Texts,
    /// An object whose scalars are quantities.
    Quantities,
    /// Anything else.
    Elsewhere,
}

impl Place {
    fn below(self, name: &str) -> Self {
        match self {
            Self::Top if name == "metadata" => Self::Metadata,
            Self::Top if matches!(name, "data" | "binaryData" | "stringData") => Self::Texts,
            Self::Metadata | Self::Texts => Self::Texts,
            Self::Quantities => Self::Quantities,
            Self::Top | Self::Elsewhere if QUANTITIES.contains(&name) => Self::Quantities,
            Self::Top | Self::Elsewhere => Self::Elsewhere,
        }
    }
}

fn differs(rendered: &Value, owned: &Owned, ceded: Ceded<'_>, place: Place) -> Result<(), Difference> {
    match (owned, rendered) {
        (Owned::Leaf(value), _) if contains(rendered, value, place) => Ok(()),
        (Owned::Fields(fields), Value::Object(object)) => match_fields(object.iter(), fields, ceded, place),
        (Owned::Fields(fields), Value::Array(items)) if fields.is_empty() && items.is_empty() => Ok(()),
        // Paths are of field names: none goes through a list.
        (Owned::Items(owned), Value::Array(items)) => match_items(items, owned),
        (Owned::Leaf(_) | Owned::Fields(_) | Owned::Items(_), _) => Err(Difference(Vec::new())),
    }
}

fn match_fields<'a>(
    rendered: impl Iterator<Item = (&'a String, &'a Value)>,
    owned: &[(std::sync::Arc<str>, Owned)],
    ceded: Ceded<'_>,
    place: Place,
) -> Result<(), Difference> {
    let mut matched = 0;
    for (name, value) in rendered {
        if value.is_null() || is_ceded(ceded, name) || (place == Place::Metadata && matches!(name.as_str(), "name" | "namespace")) {
            continue;
        }
        // Both are mostly in the same order.
        let in_order = owned.get(matched).is_some_and(|(known, _)| **known == *name.as_str());
        let found = if in_order { Ok(matched) } else { owned.binary_search_by(|(known, _)| known.as_ref().cmp(name.as_str())) };
        let Ok(at) = found else { return Err(Difference::at(name)) };
        let mut kept = [&[][..]; MAX_CEDED];
        let below = below(ceded, name, &mut kept);
        differs(value, &owned[at].1, below, place.below(name)).map_err(|difference| difference.below(name))?;
        matched += 1;
    }
    let left = if ceded.is_empty() { 0 } else { owned.iter().filter(|(name, _)| is_ceded(ceded, name)).count() };
    if matched + left == owned.len() {
        return Ok(());
    }
    Err(Difference::at("a field that is no longer rendered"))
}

fn is_ceded(ceded: Ceded<'_>, name: &str) -> bool {
    ceded.paths.iter().any(|path| path.len() == ceded.depth + 1 && path[ceded.depth] == name)
}

/// The ceded paths that go on below a field; past [`MAX_CEDED`] the rest is looked at as usual.
fn below<'a, 'b: 'a>(ceded: Ceded<'b>, name: &str, kept: &'a mut [&'b [String]; MAX_CEDED]) -> Ceded<'a> {
    if ceded.is_empty() {
        return ceded;
    }
    let going_on = ceded.paths.iter().filter(|path| path.len() > ceded.depth + 1 && path[ceded.depth] == name);
    let count = kept.iter_mut().zip(going_on).map(|(slot, path)| *slot = *path).count();
    Ceded { paths: &kept[..count], depth: ceded.depth + 1 }
}

/// Items in their order: that of init containers and of environment variables matters.
fn match_items(rendered: &[Value], owned: &[(ItemKey, Owned)]) -> Result<(), Difference> {
    if rendered.len() != owned.len() {
        return Err(Difference::at("an item more or less"));
    }
    for (place, (item, (key, owned))) in rendered.iter().zip(owned).enumerate() {
        let name = || item.get("name").and_then(Value::as_str).map_or_else(|| format!("[{place}]"), |name| format!("[{name}]"));
        if !is_item(item, key) {
            return Err(Difference::at(&name()));
        }
        differs(item, owned, Ceded::new(&[]), Place::Elsewhere).map_err(|difference| difference.below(&name()))?;
    }
    Ok(())
}

/// Whether an item has this key. A port's protocol may be left out: the schema makes it `TCP`.
fn is_item(item: &Value, key: &ItemKey) -> bool {
    match key {
        ItemKey::Whole(whole) => item == whole,
        ItemKey::Fields(fields) => fields.iter().all(|(name, value)| match item.get(name.as_ref()) {
            Some(found) => found == value,
            None => name.as_ref() == "protocol" && value == "TCP",
        }),
    }
}

/// Whether a value has all that is rendered of it. Below a field that is owned as a whole, the API server fills in defaults.
fn contains(rendered: &Value, live: &Value, place: Place) -> bool {
    match (rendered, live) {
        (Value::Object(rendered), Value::Object(live)) => rendered.iter().all(|(name, value)| match live.get(name) {
            Some(live) => contains(value, live, place.below(name)),
            None => is_zero(value),
        }),
        (Value::Array(rendered), Value::Array(live)) => {
            rendered.len() == live.len() && rendered.iter().zip(live).all(|(rendered, live)| contains(rendered, live, place))
        }
        // What has the value that it has when it is not there is left out when it is stored.
        (rendered, Value::Null) => is_zero(rendered),
        // A half of 12 is 6.0, and kept as 6.
        (Value::Number(one), Value::Number(other)) if one.is_f64() != other.is_f64() => one.as_f64() == other.as_f64(),
        (rendered, live) => {
            rendered == live || (place == Place::Quantities && nano(rendered).is_some_and(|quantity| Some(quantity) == nano(live)))
        }
    }
}

fn is_zero(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(value) => !value,
        Value::Number(value) => value.as_f64() == Some(0.0),
        Value::String(value) => value.is_empty(),
        Value::Array(value) => value.is_empty(),
        Value::Object(value) => value.values().all(is_zero),
    }
}

/// A Kubernetes quantity in billionths; `None` if it is none, or too large or too fine to compare.
pub(super) fn nano(value: &Value) -> Option<i128> {
    let text = match value {
        Value::String(text) => text.clone(),
        Value::Number(number) => number.to_string(),
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => return None,
    };
    let end = text.find(|c: char| !(c.is_ascii_digit() || matches!(c, '.' | '-' | '+'))).unwrap_or(text.len());
    let (number, suffix) = text.split_at(end);
    let (factor, divisor): (i128, i128) = match suffix_factor(suffix) {
        Some((times, over)) => (i128::try_from(times).ok()?, i128::try_from(over).ok()?),
        None => {
            let exponent: i32 = suffix.strip_prefix(['e', 'E'])?.parse().ok()?;
            let power = 10_i128.checked_pow(exponent.unsigned_abs())?;
            if exponent < 0 { (1, power) } else { (power, 1) }
        }
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if fraction.len() > 9 || (whole.is_empty() && fraction.is_empty()) {
        return None;
    }
    let digits: i128 = format!("{whole}{fraction}").parse().ok()?;
    let scale = 10_i128.checked_pow(u32::try_from(fraction.len()).ok()?)?;
    digits.checked_mul(factor)?.checked_mul(NANO)?.checked_div(divisor.checked_mul(scale)?)
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::{FieldsV1, ManagedFieldsEntry};
    use serde_json::json;

    use super::super::owned::{MANAGER, Names};
    use super::*;

    /// A Deployment as the API server keeps it, and the fields that are booked to us.
    fn live() -> (Value, Value) {
        let live = json!({
            "apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": {"name": "web", "namespace": "t", "uid": "u", "labels": {"app": "web", "theirs": "x"}},
            "spec": {
                "replicas": 2, "revisionHistoryLimit": 10, "selector": {"matchLabels": {"app": "web"}},
                "template": {"spec": {"restartPolicy": "Always", "containers": [{
                    "name": "web", "image": "shop:1", "imagePullPolicy": "IfNotPresent",
                    "resources": {"requests": {"cpu": "1", "memory": "1Gi"}},
                    "ports": [{"containerPort": 80, "protocol": "TCP"}],
                    "env": [{"name": "A", "value": "1"}, {"name": "B"}],
                }]}},
            },
        });
        let fields = json!({
            "f:metadata": {"f:labels": {"f:app": {}}},
            "f:spec": {
                "f:replicas": {}, "f:selector": {},
                "f:template": {"f:spec": {"f:containers": {"k:{\"name\":\"web\"}": {
                    ".": {}, "f:name": {}, "f:image": {},
                    "f:resources": {"f:requests": {"f:cpu": {}, "f:memory": {}}},
                    "f:ports": {"k:{\"containerPort\":80,\"protocol\":\"TCP\"}": {".": {}, "f:containerPort": {}}},
                    "f:env": {"k:{\"name\":\"A\"}": {".": {}, "f:name": {}, "f:value": {}}, "k:{\"name\":\"B\"}": {".": {}, "f:name": {}, "f:value": {}}},
                }}}},
            },
        });
        (live, fields)
    }

    fn rendered() -> Value {
        json!({
            "apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": {"name": "web", "namespace": "t", "labels": {"app": "web"}},
            "spec": {
                "replicas": 2, "selector": {"matchLabels": {"app": "web"}},
                "template": {"spec": {"containers": [{
                    "name": "web", "image": "shop:1",
                    "resources": {"requests": {"cpu": "1000m", "memory": "1024Mi"}},
                    "ports": [{"containerPort": 80}],
                    "env": [{"name": "A", "value": "1"}, {"name": "B", "value": ""}],
                }]}},
            },
        })
    }

    fn owned(live: &Value, fields: Value) -> Owned {
        let entry = ManagedFieldsEntry {
            manager: Some(MANAGER.to_owned()),
            operation: Some("Apply".to_owned()),
            fields_v1: Some(FieldsV1(fields)),
            ..Default::default()
        };
        Owned::of(live, &[entry], &Names::default())
    }

    fn compare(rendered: &Value, live: &Value, fields: Value) -> Result<(), String> {
        in_step(rendered, &owned(live, fields), Ceded::new(&[])).map_err(|difference| difference.to_string())
    }

    #[test]
    fn an_object_as_applied_is_in_step_whatever_others_and_defaults_add() {
        let (live, fields) = live();
        assert_eq!(compare(&rendered(), &live, fields), Ok(()));
    }

    #[test]
    fn a_changed_value_a_field_taken_and_a_field_given_up_are_told_apart_by_name() {
        let (mut drifted, fields) = live();
        drifted["spec"]["replicas"] = json!(3);
        assert_eq!(compare(&rendered(), &drifted, fields.clone()), Err("spec.replicas".to_owned()));
        let (live, mut taken) = live();
        taken["f:spec"].as_object_mut().unwrap().remove("f:replicas");
        assert_eq!(compare(&rendered(), &live, taken), Err("spec.replicas".to_owned()));
        let mut fewer = rendered();
        fewer["spec"].as_object_mut().unwrap().remove("replicas");
        assert_eq!(compare(&fewer, &live, fields.clone()), Err("spec.a field that is no longer rendered".to_owned()));
        let mut image = rendered();
        image["spec"]["template"]["spec"]["containers"][0]["image"] = json!("shop:2");
        assert_eq!(compare(&image, &live, fields), Err("spec.template.spec.containers.[web].image".to_owned()));
    }

    #[test]
    fn a_quantity_is_one_only_where_quantities_are() {
        let (mut live, fields) = live();
        live["spec"]["template"]["spec"]["containers"][0]["env"][0]["value"] = json!("1000m");
        assert_eq!(compare(&rendered(), &live, fields), Err("spec.template.spec.containers.[web].env.[A].value".to_owned()));
        for (one, other) in [("1", "1000m"), ("1Gi", "1024Mi"), ("0.5", "500m"), ("1e3", "1k"), ("1500000000", "1.5G"), ("2", "2.0")] {
            assert_eq!(nano(&json!(one)), nano(&json!(other)), "{one} {other}");
        }
        for wrong in ["", "x", "1x", "1.0000000001", "Gi"] {
            assert_eq!(nano(&json!(wrong)), None, "{wrong}");
        }
    }

    #[test]
    fn a_whole_number_is_the_same_one_however_it_is_written() {
        let (live, fields) = live();
        let mut whole = rendered();
        let replicas = live["spec"]["replicas"].as_f64().unwrap();
        whole["spec"]["replicas"] = json!(replicas);
        assert_eq!(compare(&whole, &live, fields.clone()), Ok(()));
        whole["spec"]["replicas"] = json!(replicas + 0.5);
        assert_eq!(compare(&whole, &live, fields), Err("spec.replicas".to_owned()));
    }

    #[test]
    fn a_text_may_be_called_name() {
        let live = json!({"metadata": {"name": "settings", "labels": {"name": "shop"}}, "data": {"name": "acme", "namespace": "x"}});
        let fields = json!({"f:metadata": {"f:labels": {"f:name": {}}}, "f:data": {"f:name": {}, "f:namespace": {}}});
        assert_eq!(compare(&live, &live, fields.clone()), Ok(()));
        let mut drifted = live.clone();
        drifted["data"]["name"] = json!("rival");
        assert_eq!(compare(&live, &drifted, fields), Err("data.name".to_owned()));
    }

    #[test]
    fn a_ceded_field_is_not_looked_at() {
        let (mut live, fields) = live();
        live["spec"]["replicas"] = json!(7);
        let path = ["spec".to_owned(), "replicas".to_owned()];
        assert_eq!(in_step(&rendered(), &owned(&live, fields.clone()), Ceded::new(&[&path])), Ok(()));
        let mut taken = fields;
        taken["f:spec"].as_object_mut().unwrap().remove("f:replicas");
        assert_eq!(in_step(&rendered(), &owned(&live, taken), Ceded::new(&[&path])), Ok(()));
    }

    #[test]
    fn the_order_of_items_matters() {
        let (live, fields) = live();
        let mut other = rendered();
        other["spec"]["template"]["spec"]["containers"][0]["env"].as_array_mut().unwrap().reverse();
        assert_eq!(compare(&other, &live, fields), Err("spec.template.spec.containers.[web].env.[B]".to_owned()));
    }

    #[test]
    fn below_what_is_owned_as_a_whole_defaults_do_not_matter() {
        let live = json!({"spec": {"ingress": [{"ports": [{"port": 80, "protocol": "TCP"}]}], "podSelector": {}}});
        let fields = json!({"f:spec": {"f:ingress": {}, "f:podSelector": {}}});
        let rendered = json!({"spec": {"ingress": [{"ports": [{"port": 80}]}], "podSelector": {}}});
        assert_eq!(compare(&rendered, &live, fields.clone()), Ok(()));
        let more = json!({"spec": {"ingress": [{"ports": [{"port": 80}, {"port": 81}]}], "podSelector": {}}});
        assert_eq!(compare(&more, &live, fields), Err("spec.ingress".to_owned()));
    }
}
