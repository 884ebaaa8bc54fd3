//! The largest values that a schema accepts, and what may be chosen: what the tenant may say that asks for most.

use serde_json::{Map, Number, Value};

use super::filling::Filling;
use super::{Node, Rules, Schema, Type, check, compare, whole};
use crate::finding::Finding;

impl Schema {
    /// Makes every number that the schema bounds as large as it may be: the tenant that asks for most. What would not be accepted so is left as it is.
    ///
    /// # Errors
    /// The field with which the values became more than a tenant may have. They are as they were then.
    pub fn fill_maxima(&self, values: &mut Value) -> Result<(), Finding> {
        let (mut raised, mut filling) = (values.clone(), Filling::of(values)?);
        self.root.fill_maxima(&mut raised, &mut filling)?;
        if self.root.accepts(&raised) {
            *values = raised;
        }
        Ok(())
    }

    /// What may be chosen for the properties of the whole, member by member: of an `enum`, and of what is true or false. The properties with the
    /// fewest members come first.
    #[must_use]
    pub fn choices(&self) -> Vec<(&str, Value)> {
        let Node::Rules(rules) = &self.root else { return Vec::new() };
        let mut choices: Vec<(&str, Vec<Value>)> = rules.properties.iter().map(|(name, node)| (name.as_str(), node.members())).collect();
        choices.sort_by_key(|(_, members)| members.len());
        choices.into_iter().flat_map(|(name, members)| members.into_iter().map(move |member| (name, member))).collect()
    }
}

impl Node {
    /// As [`Schema::fill_maxima`], of what is inside of a value.
    fn fill_maxima(&self, value: &mut Value, filling: &mut Filling) -> Result<(), Finding> {
        let Self::Rules(rules) = self else { return Ok(()) };
        match value {
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
            Value::Array(items) => {
                if let Some(node) = &rules.items {
                    for (index, item) in items.iter_mut().enumerate() {
                        filling.inside(&format!("[{index}]"), |filling| node.raise(item, filling))?;
                    }
                }
            }
            Value::Object(object) => {
                filling.look(rules.properties.len())?;
                for (name, node) in &rules.properties {
                    match object.get_mut(name) {
                        Some(value) => filling.member(name, |filling| node.raise(value, filling))?,
                        None => {
                            let raised = filling.member(name, |filling| node.added(name, filling))?;
                            object.extend(raised.map(|raised| (name.clone(), raised)));
                        }
                    }
                }
                if let Some(node) = &rules.additional {
                    let others = object.iter_mut().filter(|(name, _)| !rules.properties.contains_key(*name));
                    for (name, value) in others {
                        filling.member(name, |filling| node.raise(value, filling))?;
                    }
                }
            }
        }
        Ok(())
    }

    fn raise(&self, value: &mut Value, filling: &mut Filling) -> Result<(), Finding> {
        if let Some(raised) = filling.attempt(|filling| self.raised(value.clone(), filling))? {
            *value = raised;
        }
        Ok(())
    }

    /// What is put in where nothing is, under a name: the largest number, or an object with those inside of it.
    fn added(&self, name: &str, filling: &mut Filling) -> Result<Option<Value>, Finding> {
        filling.attempt(|filling| {
            let mut value = Value::Object(Map::new());
            filling.add(name, &value)?;
            self.fill(&mut value, filling)?;
            self.raised(value, filling)
        })
    }

    /// The largest number that is accepted, or the value with those inside of it; `None` if there is nothing that could be larger.
    fn raised(&self, before: Value, filling: &mut Filling) -> Result<Option<Value>, Finding> {
        let Self::Rules(rules) = self else { return Ok(None) };
        if let Some(largest) = rules.largest() {
            return Ok(Some(largest));
        }
        let mut raised = before.clone();
        self.fill_maxima(&mut raised, filling)?;
        Ok((raised != before && self.accepts(&raised)).then_some(raised))
    }

    fn accepts(&self, value: &Value) -> bool {
        let mut found = Vec::new();
        check(self, value, &mut String::new(), &mut found);
        found.is_empty()
    }

    /// All that it may be, where that is a choice and not a range.
    fn members(&self) -> Vec<Value> {
        let Self::Rules(rules) = self else { return Vec::new() };
        let is_switch = rules.types.as_deref() == Some(&[Type::Boolean]);
        let members = match &rules.one_of_values {
            Some(members) => members.clone(),
            None if is_switch => vec![Value::Bool(false), Value::Bool(true)],
            None => Vec::new(),
        };
        members.into_iter().filter(|member| self.accepts(member)).collect()
    }
}

impl Rules {
    /// The largest number that is accepted, if there is one: the largest integer, or what `maximum` says where it is a fraction and may be one.
    fn largest(&self) -> Option<Value> {
        let candidates: Vec<Number> = match &self.one_of_values {
            Some(members) => members.iter().filter_map(|member| member.as_number().cloned()).collect(),
            None => {
                let bounds = [self.most.as_ref().and_then(floor), self.below.as_ref().and_then(floor_below)];
                let whole = bounds.into_iter().flatten().min()?;
                let divisor = i128::from(self.multiple_of.unwrap_or(1));
                self.most.clone().into_iter().chain(integer(whole.div_euclid(divisor) * divisor)).collect()
            }
        };
        // Of two that are equal the last one: an integer rather than `6.0`.
        let accepted = candidates.into_iter().filter(|number| {
            let mut found = Vec::new();
            self.check(&Value::Number(number.clone()), &mut String::new(), &mut found);
            found.is_empty()
        });
        accepted.max_by(compare).map(Value::Number)
    }
}

/// The largest integer that is no larger.
fn floor(number: &Number) -> Option<i128> {
    whole(number).or_else(|| number.as_f64().map(|float| float.floor() as i128))
}

/// The largest integer that is smaller.
fn floor_below(number: &Number) -> Option<i128> {
    whole(number).or_else(|| number.as_f64().map(|float| float.ceil() as i128)).map(|bound| bound.saturating_sub(1))
}

/// An integer as JSON holds it; `None` beyond 64 bits.
fn integer(value: i128) -> Option<Number> {
    i64::try_from(value).map(Number::from).ok().or_else(|| u64::try_from(value).map(Number::from).ok())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // a test that cannot go on should panic
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn maxima_are_the_largest_integers_that_are_allowed() {
        let schema =
            Schema::parse(r#"{"properties": {"plan": {"enum": ["small", "large"]}, "web": {"type": "integer", "maximum": 6}}}"#).unwrap();
        let mut values = json!({"plan": "small", "web": 1});
        schema.fill_maxima(&mut values).unwrap();
        assert_eq!(values, json!({"plan": "small", "web": 6}));
    }

    #[track_caller]
    fn largest(property: &str, is: Value) {
        let schema = Schema::parse(&format!(r#"{{"properties": {{"n": {property}, "web": {{"maximum": 6}}}}}}"#)).unwrap();
        let mut values = json!({});
        schema.fill_maxima(&mut values).unwrap();
        let wanted = if is.is_null() { json!({"web": 6}) } else { json!({"n": is, "web": 6}) };
        assert_eq!(values, wanted, "{property}");
    }

    #[test]
    fn a_maximum_is_rounded_down_to_what_is_allowed() {
        largest(r#"{"type": "integer", "maximum": 10, "multipleOf": 4}"#, json!(8));
        largest(r#"{"type": "integer", "maximum": -1, "multipleOf": 4}"#, json!(-4));
        largest(r#"{"type": "integer", "exclusiveMaximum": 6}"#, json!(5));
        largest(r#"{"type": "integer", "exclusiveMaximum": 5.5}"#, json!(5));
        largest(r#"{"type": "integer", "exclusiveMaximum": 9, "maximum": 20, "multipleOf": 3}"#, json!(6));
        largest(r#"{"type": "integer", "maximum": 6.9}"#, json!(6));
        largest(r#"{"type": "integer", "maximum": 6.0}"#, json!(6));
        largest(r#"{"type": "number", "maximum": 2.5}"#, json!(2.5));
        largest(r#"{"type": "integer", "maximum": 18446744073709551615}"#, json!(u64::MAX));
        largest(r#"{"enum": [1, 5, 3], "maximum": 4}"#, json!(3));
    }

    #[test]
    fn a_property_that_has_no_largest_value_leaves_those_of_others() {
        largest(r#"{"type": "integer", "maximum": 3, "minimum": 2, "multipleOf": 5}"#, Value::Null);
        largest(r#"{"type": "string", "maximum": 3}"#, Value::Null);
        largest(r#"{"enum": ["a"], "maximum": 3}"#, Value::Null);
        largest(r#"{"required": ["a"], "properties": {"b": {"maximum": 3}}}"#, Value::Null);
    }

    #[test]
    fn maxima_are_filled_in_at_any_depth() {
        let text = r#"{"properties": {"mail": {"properties": {"port": {"maximum": 9}}}, "shops": {"items": {"properties": {"web": {"maximum": 2}}}}},
            "additionalProperties": {"maximum": 4}}"#;
        let schema = Schema::parse(text).unwrap();
        let mut values = json!({"shops": [{}, {"web": 1}], "other": 1});
        schema.fill_maxima(&mut values).unwrap();
        assert_eq!(values, json!({"mail": {"port": 9}, "shops": [{"web": 2}, {"web": 2}], "other": 4}));
    }

    #[test]
    fn maxima_of_many_properties_in_many_objects_are_bounded() {
        let properties: Map<String, Value> =
            (0..200).map(|n| (format!("p{n}"), json!({"properties": {"a": {"properties": {"b": {"maximum": 1}}}}}))).collect();
        let schema = json!({"properties": {"list": {"default": vec![json!({}); 1000], "items": {"properties": properties}}}});
        let schema = Schema::parse(&schema.to_string()).unwrap();
        let mut values = json!({});
        schema.fill_defaults(&mut values).unwrap();
        let before = values.clone();
        let error = schema.fill_maxima(&mut values).unwrap_err().to_string();
        assert!(error.starts_with("spec.values.list[") && error.ends_with("there are more than 10000 values together"), "{error}");
        assert_eq!(values, before);
    }

    #[test]
    fn what_cannot_be_larger_takes_no_room() {
        let properties: Map<String, Value> = (0..200).map(|n| (format!("p{n}"), json!({"type": "string"}))).collect();
        let schema = json!({"properties": {"list": {"items": {"properties": properties}}, "web": {"maximum": 6}}});
        let schema = Schema::parse(&schema.to_string()).unwrap();
        let mut values = json!({"list": vec![json!({}); 100]});
        schema.fill_maxima(&mut values).unwrap();
        assert_eq!(values["web"], json!(6));
    }

    #[test]
    fn choices_are_all_members_with_the_fewest_first() {
        let text = r#"{"properties": {"a": {"enum": ["x", "y", "z"]}, "b": {"type": "boolean"}, "c": {"type": "string", "enum": ["p", 1]}, "d": {}}}"#;
        let schema = Schema::parse(text).unwrap();
        let all = [("c", json!("p")), ("b", json!(false)), ("b", json!(true)), ("a", json!("x")), ("a", json!("y")), ("a", json!("z"))];
        assert_eq!(schema.choices(), all);
    }
}
