//! Defaults put into values, and how much that may make of them. A default may hold lists of what has defaults in turn, so that a few lines of a
//! schema could give any number of values.
//!
//! The limits count what is there and never time. Nothing but the schema and the values decides, so that `roadstead apply`, the placement
//! service and every agent come to the same values, or to the same error. A release that lowers one would stop tenants that run.

use serde_json::Value;

use super::{Node, Schema, VALUES, excerpt};
use crate::finding::Finding;

/// Values of one tenant, each in each list and map counted, with defaults. The 16 KiB that a tenant itself may say hold 8,192 at most.
pub const MAX_VALUES: usize = 10_000;
/// Bytes of the keys and texts of all these together: eight times what a tenant itself may say.
pub const MAX_VALUES_TEXT: usize = 128 << 10;
/// Properties that are looked for in all objects of the values together. A hundred objects with thirty properties each need 3,000.
const MAX_LOOKS: usize = 1 << 18;

impl Schema {
    /// Puts defaults where nothing is given, also inside of what is given.
    ///
    /// # Errors
    /// The field with which the values became more than a tenant may have. They are filled in part then.
    pub fn fill_defaults(&self, values: &mut Value) -> Result<(), Finding> {
        let mut filling = Filling::of(values)?;
        self.root.fill(values, &mut filling)
    }

    /// Everything for which a tenant's values are refused: what the schema does not accept, or what its defaults would make of them.
    #[must_use]
    pub fn refusals(&self, mut values: Value) -> Vec<Finding> {
        let mut found = self.violations(&values);
        if found.is_empty() {
            found.extend(self.fill_defaults(&mut values).err());
        }
        found
    }
}

impl Node {
    pub(super) fn fill(&self, value: &mut Value, filling: &mut Filling) -> Result<(), Finding> {
        let Self::Rules(rules) = self else { return Ok(()) };
        match value {
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => Ok(()),
            Value::Array(items) => {
                let Some(node) = &rules.items else { return Ok(()) };
                let mut each = items.iter_mut().enumerate();
                each.try_for_each(|(index, item)| filling.inside(&format!("[{index}]"), |filling| node.fill(item, filling)))
            }
            Value::Object(object) => {
                filling.look(rules.properties.len())?;
                for (name, node) in &rules.properties {
                    if let Self::Rules(inner) = node
                        && let Some(default) = &inner.default
                        && !object.contains_key(name)
                    {
                        filling.member(name, |filling| filling.add(name, default))?;
                        object.insert(name.clone(), default.clone());
                    }
                    if let Some(value) = object.get_mut(name) {
                        filling.member(name, |filling| node.fill(value, filling))?;
                    }
                }
                Ok(())
            }
        }
    }
}

/// Where in the values something is filled in, and what there is still room for.
#[derive(Debug)]
pub(super) struct Filling {
    path: String,
    values: usize,
    text: usize,
    looks: usize,
}

impl Filling {
    /// Room beside these values.
    pub(super) fn of(values: &Value) -> Result<Self, Finding> {
        let mut filling = Self { path: VALUES.to_owned(), values: MAX_VALUES, text: MAX_VALUES_TEXT, looks: MAX_LOOKS };
        filling.add("", values)?;
        Ok(filling)
    }

    /// Counts a value that is to be put in under a name, with all that it holds.
    pub(super) fn add(&mut self, name: &str, value: &Value) -> Result<(), Finding> {
        self.take(1, name.len())?;
        match value {
            Value::Null | Value::Bool(_) | Value::Number(_) => Ok(()),
            Value::String(text) => self.take(0, text.len()),
            Value::Array(items) => items.iter().try_for_each(|item| self.add("", item)),
            Value::Object(fields) => fields.iter().try_for_each(|(name, field)| self.add(name, field)),
        }
    }

    fn take(&mut self, values: usize, text: usize) -> Result<(), Finding> {
        let all_values = || self.full(format!("with what it adds there are more than {MAX_VALUES} values together"));
        self.values = self.values.checked_sub(values).ok_or_else(all_values)?;
        let all_text = || self.full(format!("with what it adds all values have more than {MAX_VALUES_TEXT} bytes of text together"));
        self.text = self.text.checked_sub(text).ok_or_else(all_text)?;
        Ok(())
    }

    /// Counts properties that are looked for.
    pub(super) fn look(&mut self, properties: usize) -> Result<(), Finding> {
        let many = || self.full(format!("more than {MAX_LOOKS} properties would be looked for in all objects of the values together"));
        self.looks = self.looks.checked_sub(properties).ok_or_else(many)?;
        Ok(())
    }

    fn full(&self, problem: String) -> Finding {
        Finding { field: self.path.clone(), problem }
    }

    pub(super) fn inside<T>(&mut self, step: &str, fill: impl FnOnce(&mut Self) -> T) -> T {
        let length = self.path.len();
        self.path.push_str(step);
        let filled = fill(self);
        self.path.truncate(length);
        filled
    }

    pub(super) fn member<T>(&mut self, name: &str, fill: impl FnOnce(&mut Self) -> T) -> T {
        self.inside(&format!(".{}", excerpt(name)), fill)
    }

    /// Makes a value that may come to nothing: then there is as much room as before.
    pub(super) fn attempt<T>(&mut self, make: impl FnOnce(&mut Self) -> Result<Option<T>, Finding>) -> Result<Option<T>, Finding> {
        let (values, text) = (self.values, self.text);
        let made = make(self)?;
        if made.is_none() {
            (self.values, self.text) = (values, text);
        }
        Ok(made)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // a test that cannot go on should panic
mod tests {
    use serde_json::json;

    use super::*;

    fn filled(schema: &Value, mut values: Value) -> Result<Value, String> {
        let schema = Schema::parse(&schema.to_string()).unwrap();
        schema.fill_defaults(&mut values).map(|()| values).map_err(|wrong| wrong.to_string())
    }

    /// A list by default, of objects that have such a list by default, and so on.
    fn nested(levels: usize) -> Value {
        let mut list = json!({});
        for _ in 0..levels {
            list = json!({"default": vec![json!({}); 12], "items": {"properties": {"a": list}}});
        }
        list
    }

    #[test]
    fn defaults_fill_what_is_not_given_at_any_depth() {
        let schema = json!({"properties": {"web": {"type": "integer", "default": 2}, "mail": {"default": {}, "properties": {"port": {"default": 587}}},
            "shops": {"items": {"properties": {"theme": {"default": "plain"}}}}, "absent": {"properties": {"x": {"default": 1}}}}});
        let all = filled(&schema, json!({"web": 0, "shops": [{}, {"theme": "own"}]}));
        assert_eq!(all, Ok(json!({"web": 0, "mail": {"port": 587}, "shops": [{"theme": "plain"}, {"theme": "own"}]})));
    }

    #[test]
    fn defaults_within_defaults_do_not_multiply_without_bound() {
        let schema = json!({"properties": {"a": nested(7)}});
        assert!(schema.to_string().len() < 1000, "a small schema is enough");
        let error = filled(&schema, json!({})).unwrap_err();
        assert_eq!(error, "spec.values.a[0].a[0].a[0].a[4].a[10].a[5].a: with what it adds there are more than 10000 values together");
    }

    #[test]
    fn defaults_that_only_what_is_given_asks_for_are_bounded_too() {
        let schema = json!({"properties": {"list": {"items": {"properties": {"a": nested(6)}}}}});
        assert_eq!(filled(&schema, json!({})), Ok(json!({})));
        assert!(filled(&schema, json!({"list": [{}]})).unwrap_err().starts_with("spec.values.list[0].a[0]"));
        let schema = Schema::parse(&schema.to_string()).unwrap();
        assert_eq!(schema.refusals(json!({})), []);
        assert_eq!(schema.refusals(json!({"list": [{}]})).len(), 1, "whoever takes values from a tenant refuses them");
    }

    #[test]
    fn texts_of_defaults_are_bounded_together() {
        let schema = json!({"properties": {"list": {"items": {"properties": {"a": {"default": "x".repeat(60_000)}}}}}});
        assert!(filled(&schema, json!({"list": [{}, {}]})).is_ok());
        let error = filled(&schema, json!({"list": [{}, {}, {}]})).unwrap_err();
        assert_eq!(error, "spec.values.list[2].a: with what it adds all values have more than 131072 bytes of text together");
    }

    #[test]
    fn properties_are_not_looked_for_without_bound() {
        let properties: serde_json::Map<String, Value> = (0..200).map(|n| (format!("p{n}"), json!({"maximum": 1}))).collect();
        let schema = json!({"properties": {"list": {"items": {"properties": properties}}}});
        let error = filled(&schema, json!({"list": vec![json!({}); 5000]})).unwrap_err();
        assert!(error.contains("more than 262144 properties would be looked for"), "{error}");
    }

    #[test]
    fn what_a_tenant_can_say_itself_has_room() {
        let most = Value::Array(vec![json!(0); 8191]);
        assert_eq!(filled(&json!({"items": {"type": "integer"}}), most.clone()), Ok(most));
    }
}
