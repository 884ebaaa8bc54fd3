//! Values against their class's schema: the part of JSON Schema that a class may use, checked when the class is put and when a tenant is.
//!
//! Known keywords: `type`, `enum`, `const`, `properties`, `required`, `additionalProperties`, `items`, `minItems`, `maxItems`, `minimum`,
//! `maximum`, `exclusiveMinimum`, `exclusiveMaximum`, `multipleOf` (integers), `minLength`, `maxLength`, and the annotations `$schema`,
//! `title`, `description`, `default`, `examples`, `$comment`. A schema that uses any other is refused, never half-checked.

mod filling;
mod largest;

use std::collections::BTreeMap;

pub use filling::{MAX_VALUES, MAX_VALUES_TEXT};
use serde_json::{Map, Number, Value};

use crate::finding::Finding;
use crate::nearest::nearest;

/// The field of a tenant that holds its values, as documents write it.
const VALUES: &str = "spec.values";
/// Schemas within schemas.
const MAX_DEPTH: usize = 16;
/// Properties, required names or enum members of one schema.
const MAX_MEMBERS: usize = 256;
/// Findings of one value that are reported.
const MAX_REPORTED: usize = 8;
/// Characters of a text that are quoted back.
const EXCERPT_CHARS: usize = 64;

/// A schema that was understood in full.
#[derive(Clone, Debug)]
pub struct Schema {
    /// Whether it accepts nothing at all (`false`, or no schema).
    root: Node,
}

#[derive(Clone, Debug)]
enum Node {
    /// `true`, or nothing said.
    Anything,
    /// `false`.
    Nothing,
    /// An object.
    Rules(Box<Rules>),
}

#[derive(Clone, Debug, Default)]
struct Rules {
    types: Option<Vec<Type>>,
    one_of_values: Option<Vec<Value>>,
    properties: BTreeMap<String, Node>,
    required: Vec<String>,
    additional: Option<Node>,
    items: Option<Node>,
    item_count: (Option<u64>, Option<u64>),
    length: (Option<u64>, Option<u64>),
    least: Option<Number>,
    most: Option<Number>,
    above: Option<Number>,
    below: Option<Number>,
    multiple_of: Option<u64>,
    default: Option<Value>,
    examples: Vec<Value>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Type {
    Null,
    Boolean,
    Integer,
    Number,
    String,
    Array,
    Object,
}

impl Type {
    const NAMES: [(&'static str, Self); 7] = [
        ("null", Self::Null),
        ("boolean", Self::Boolean),
        ("integer", Self::Integer),
        ("number", Self::Number),
        ("string", Self::String),
        ("array", Self::Array),
        ("object", Self::Object),
    ];

    fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(_, kind)| *kind == self).map_or("", |(name, _)| name)
    }

    fn holds(self, value: &Value) -> bool {
        match (self, value) {
            (Self::Null, Value::Null)
            | (Self::Boolean, Value::Bool(_))
            | (Self::Number, Value::Number(_))
            | (Self::String, Value::String(_))
            | (Self::Array, Value::Array(_))
            | (Self::Object, Value::Object(_)) => true,
            (Self::Integer, Value::Number(number)) => {
                number.is_i64() || number.is_u64() || number.as_f64().is_some_and(|float| float.fract() == 0.0)
            }
            (
                Self::Null | Self::Boolean | Self::Integer | Self::Number | Self::String | Self::Array | Self::Object,
                Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) | Value::Object(_),
            ) => false,
        }
    }
}

impl Schema {
    /// Reads a schema. An empty text accepts no values: only the empty object.
    ///
    /// # Errors
    /// Plain words, with the place within the schema, if it is no JSON or says something that is not checked.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            let rules = Rules { types: Some(vec![Type::Object]), additional: Some(Node::Nothing), ..Rules::default() };
            return Ok(Self { root: Node::Rules(Box::new(rules)) });
        }
        let value: Value = serde_json::from_str(text).map_err(|error| format!("is not JSON: {error}"))?;
        Ok(Self { root: node(&value, "#", 0)? })
    }

    /// What is wrong with a tenant's values: fields as in `spec.values.web`, and words. Empty if they are fine.
    #[must_use]
    pub fn violations(&self, values: &Value) -> Vec<Finding> {
        let mut found = Vec::new();
        check(&self.root, values, &mut VALUES.to_owned(), &mut found);
        found
    }

    /// Values that the schema gives as examples of the whole.
    #[must_use]
    pub fn examples(&self) -> &[Value] {
        match &self.root {
            Node::Anything | Node::Nothing => &[],
            Node::Rules(rules) => &rules.examples,
        }
    }
}

fn node(value: &Value, at: &str, depth: usize) -> Result<Node, String> {
    match value {
        Value::Bool(true) => Ok(Node::Anything),
        Value::Bool(false) => Ok(Node::Nothing),
        Value::Object(_) if depth == MAX_DEPTH => Err(format!("{at} is nested deeper than {MAX_DEPTH} schemas")),
        Value::Object(object) => rules(object, at, depth).map(|rules| Node::Rules(Box::new(rules))),
        Value::Null | Value::Number(_) | Value::String(_) | Value::Array(_) => Err(format!("{at} must be an object, true or false")),
    }
}

fn rules(object: &Map<String, Value>, at: &str, depth: usize) -> Result<Rules, String> {
    let mut rules = Rules::default();
    for (keyword, value) in object {
        let here = format!("{at}/{keyword}");
        match keyword.as_str() {
            "type" => rules.types = Some(types(value, &here)?),
            "enum" => rules.one_of_values = Some(list(value, &here)?.clone()),
            "const" => rules.one_of_values = Some(vec![value.clone()]),
            "properties" => rules.properties = properties(value, &here, depth)?,
            "required" => rules.required = strings(value, &here)?,
            "additionalProperties" => rules.additional = Some(node(value, &here, depth + 1)?),
            "items" => rules.items = Some(node(value, &here, depth + 1)?),
            "minItems" => rules.item_count.0 = Some(count(value, &here)?),
            "maxItems" => rules.item_count.1 = Some(count(value, &here)?),
            "minLength" => rules.length.0 = Some(count(value, &here)?),
            "maxLength" => rules.length.1 = Some(count(value, &here)?),
            "minimum" => rules.least = Some(number(value, &here)?),
            "maximum" => rules.most = Some(number(value, &here)?),
            "exclusiveMinimum" => rules.above = Some(number(value, &here)?),
            "exclusiveMaximum" => rules.below = Some(number(value, &here)?),
            "multipleOf" => match count(value, &here)? {
                0 => return Err(format!("{here} must be greater than 0")),
                divisor => rules.multiple_of = Some(divisor),
            },
            "default" => rules.default = Some(value.clone()),
            "examples" => rules.examples.clone_from(list(value, &here)?),
            "$schema" | "title" | "description" | "$comment" => {}
            other => {
                return Err(format!(
                    "{at} uses the keyword {other:?}, which is not checked here and therefore not allowed; known are type, enum, const, \
                     properties, required, additionalProperties, items, min/maxItems, min/maxLength, minimum, maximum, \
                     exclusiveMinimum/Maximum, multipleOf"
                ));
            }
        }
    }
    Ok(rules)
}

fn types(value: &Value, at: &str) -> Result<Vec<Type>, String> {
    let names = match value {
        Value::String(name) => vec![name.clone()],
        Value::Array(_) => strings(value, at)?,
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_) => {
            return Err(format!("{at} must be a type or a list of types"));
        }
    };
    let known = |name: &String| Type::NAMES.iter().find(|(known, _)| known == name).map(|(_, kind)| *kind);
    names.iter().map(|name| known(name).ok_or_else(|| format!("{at}: {name:?} is no type of JSON"))).collect()
}

fn properties(value: &Value, at: &str, depth: usize) -> Result<BTreeMap<String, Node>, String> {
    let Value::Object(object) = value else { return Err(format!("{at} must be an object")) };
    if object.len() > MAX_MEMBERS {
        return Err(format!("{at} has {} entries, at most {MAX_MEMBERS} are allowed", object.len()));
    }
    object.iter().map(|(name, schema)| Ok((name.clone(), node(schema, &format!("{at}/{name}"), depth + 1)?))).collect()
}

fn list<'v>(value: &'v Value, at: &str) -> Result<&'v Vec<Value>, String> {
    match value {
        Value::Array(list) if list.len() <= MAX_MEMBERS => Ok(list),
        _ => Err(format!("{at} must be a list of at most {MAX_MEMBERS}")),
    }
}

fn strings(value: &Value, at: &str) -> Result<Vec<String>, String> {
    let text = |value: &Value| value.as_str().map(str::to_owned).ok_or_else(|| format!("{at} must be a list of strings"));
    list(value, at)?.iter().map(text).collect()
}

fn count(value: &Value, at: &str) -> Result<u64, String> {
    value.as_u64().ok_or_else(|| format!("{at} must be an integer, not negative"))
}

fn number(value: &Value, at: &str) -> Result<Number, String> {
    match value {
        Value::Number(number) => Ok(number.clone()),
        _ => Err(format!("{at} must be a number")),
    }
}

fn check(node: &Node, value: &Value, path: &mut String, found: &mut Vec<Finding>) {
    // What is found further on is not told, and saying it costs: an enum may have long members, and a list many items.
    if found.len() >= MAX_REPORTED {
        return;
    }
    match node {
        Node::Anything => {}
        Node::Nothing => report(found, path, "is not allowed".to_owned()),
        Node::Rules(rules) => rules.check(value, path, found),
    }
}

fn report(found: &mut Vec<Finding>, path: &str, problem: String) {
    if found.len() < MAX_REPORTED {
        found.push(Finding { field: path.to_owned(), problem });
    }
}

/// Checks something inside, with its path.
fn inside(path: &mut String, step: &str, check: impl FnOnce(&mut String)) {
    let length = path.len();
    path.push_str(step);
    check(path);
    path.truncate(length);
}

impl Rules {
    fn check(&self, value: &Value, path: &mut String, found: &mut Vec<Finding>) {
        if let Some(types) = &self.types
            && !types.iter().any(|kind| kind.holds(value))
        {
            let names: Vec<&str> = types.iter().map(|kind| kind.name()).collect();
            return report(found, path, format!("is {}, must be of type {}", shown(value), names.join(" or ")));
        }
        if let Some(allowed) = &self.one_of_values
            && !allowed.iter().any(|one| same(one, value))
        {
            let all: Vec<String> = allowed.iter().take(16).map(shown).collect();
            return report(found, path, format!("is {}, must be one of {}", shown(value), all.join(", ")));
        }
        match value {
            Value::Null | Value::Bool(_) => {}
            Value::Number(number) => self.check_number(number, path, found),
            Value::String(text) => bounds(text.chars().count(), self.length, "characters", path, found),
            Value::Array(items) => {
                bounds(items.len(), self.item_count, "items", path, found);
                if let Some(node) = &self.items {
                    for (index, item) in items.iter().enumerate() {
                        inside(path, &format!("[{index}]"), |path| check(node, item, path, found));
                    }
                }
            }
            Value::Object(object) => self.check_object(object, path, found),
        }
    }

    fn check_object(&self, object: &Map<String, Value>, path: &mut String, found: &mut Vec<Finding>) {
        for name in &self.required {
            if !object.contains_key(name) {
                inside(path, &format!(".{name}"), |path| report(found, path, "must be given".to_owned()));
            }
        }
        for (name, value) in object {
            let (known, step) = (self.properties.get(name), format!(".{}", excerpt(name)));
            match known.or(self.additional.as_ref()) {
                None => {}
                Some(Node::Nothing) if known.is_none() && found.len() < MAX_REPORTED => {
                    let meant = nearest(name, self.properties.keys().map(String::as_str));
                    let hint = meant.map(|meant| format!("; did you mean `{meant}`?")).unwrap_or_default();
                    inside(path, &step, |path| report(found, path, format!("is not allowed{hint}")));
                }
                Some(node) => inside(path, &step, |path| check(node, value, path, found)),
            }
        }
    }

    fn check_number(&self, number: &Number, path: &str, found: &mut Vec<Finding>) {
        use std::cmp::Ordering::{Equal, Greater, Less};
        let rules: [(&Option<Number>, &[std::cmp::Ordering], &str); 4] = [
            (&self.least, &[Equal, Greater], "at least"),
            (&self.most, &[Equal, Less], "at most"),
            (&self.above, &[Greater], "greater than"),
            (&self.below, &[Less], "less than"),
        ];
        for (bound, allowed, words) in rules {
            if let Some(bound) = bound
                && !allowed.contains(&compare(number, bound))
            {
                report(found, path, format!("is {number}, must be {words} {bound}"));
            }
        }
        if let Some(divisor) = self.multiple_of {
            let divides = number.as_u64().map(|n| n % divisor == 0).or_else(|| number.as_i64().map(|n| n.unsigned_abs() % divisor == 0));
            if !divides.unwrap_or(false) {
                report(found, path, format!("is {number}, must be a multiple of {divisor}"));
            }
        }
    }
}

fn bounds(count: usize, (least, most): (Option<u64>, Option<u64>), unit: &str, path: &str, found: &mut Vec<Finding>) {
    let count = count as u64;
    if let Some(least) = least.filter(|least| count < *least) {
        report(found, path, format!("has {count} {unit}, at least {least} are needed"));
    }
    if let Some(most) = most.filter(|most| count > *most) {
        report(found, path, format!("has {count} {unit}, at most {most} are allowed"));
    }
}

/// Numbers are equal by value, as JSON Schema has it: `1.0` is `1`.
fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => compare(a, b).is_eq(),
        _ => a == b,
    }
}

/// A number that is written as an integer.
fn whole(number: &Number) -> Option<i128> {
    number.as_i64().map(i128::from).or_else(|| number.as_u64().map(i128::from))
}

fn compare(a: &Number, b: &Number) -> std::cmp::Ordering {
    match (whole(a), whole(b)) {
        (Some(a), Some(b)) => a.cmp(&b),
        _ => a.as_f64().unwrap_or(f64::NAN).total_cmp(&b.as_f64().unwrap_or(f64::NAN)),
    }
}

fn shown(value: &Value) -> String {
    excerpt(&value.to_string())
}

/// The beginning of a text that may be long.
fn excerpt(text: &str) -> String {
    text.chars().take(EXCERPT_CHARS).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // a test that cannot go on should panic
mod tests {
    use serde_json::json;

    use super::*;

    const SHOP: &str = r#"{"additionalProperties": false, "required": ["plan"], "properties":
        {"plan": {"enum": ["small", "large"]}, "web": {"type": "integer", "default": 2, "minimum": 1, "maximum": 6}, "tags": {"type": "array", "items": {"type": "string", "maxLength": 3}}}}"#;

    fn problems(values: Value) -> Vec<String> {
        let schema = Schema::parse(SHOP).unwrap();
        schema.violations(&values).into_iter().map(|Finding { field, problem }| format!("{field}: {problem}")).collect()
    }

    #[test]
    fn values_of_the_schema_pass() {
        assert_eq!(problems(json!({"plan": "large", "web": 6, "tags": ["abc"]})), Vec::<String>::new());
        assert_eq!(problems(json!({"plan": "large", "web": 6.0})), Vec::<String>::new());
    }

    #[test]
    fn everything_that_is_wrong_is_told_with_its_path() {
        let found = problems(json!({"web": 7, "tags": ["ok", "long"], "colour": "red"}));
        assert_eq!(
            found,
            [
                "spec.values.plan: must be given",
                "spec.values.colour: is not allowed",
                "spec.values.tags[1]: has 4 characters, at most 3 are allowed",
                "spec.values.web: is 7, must be at most 6"
            ]
        );
        assert_eq!(problems(json!({"plan": 3}))[0], "spec.values.plan: is 3, must be one of \"small\", \"large\"");
    }

    #[test]
    fn a_name_that_is_not_allowed_is_told_with_the_one_that_may_have_been_meant() {
        assert_eq!(problems(json!({"plan": "large", "wbe": 3})), ["spec.values.wbe: is not allowed; did you mean `web`?"]);
    }

    #[test]
    fn a_keyword_that_is_not_checked_is_refused() {
        let error = Schema::parse(r#"{"properties": {"a": {"pattern": "^x"}}}"#).unwrap_err();
        assert!(error.starts_with("#/properties/a uses the keyword \"pattern\""), "{error}");
        assert!(Schema::parse("[]").is_err());
        assert!(Schema::parse(&"{\"items\":".repeat(40)).is_err());
    }

    #[test]
    fn what_is_wrong_is_told_within_bounds_however_often_it_is_wrong() {
        let members: Vec<String> = (0..16).map(|n| format!("{n}{}", "x".repeat(30_000))).collect();
        let schema = Schema::parse(&json!({"items": {"enum": members}}).to_string()).unwrap();
        let found = schema.violations(&Value::Array(vec![json!(0); 8000]));
        assert_eq!(found.len(), MAX_REPORTED);
        assert!(found.iter().all(|finding| finding.problem.len() < 2000));
    }

    #[test]
    fn no_schema_accepts_no_values() {
        let schema = Schema::parse("").unwrap();
        assert!(schema.violations(&json!({})).is_empty());
        assert_eq!(schema.violations(&json!({"a": 1})).len(), 1);
    }
}
