//! What of an object that is there is ours: the fields that server-side apply has booked to our manager, with the values they have now.
//!
//! Only that is kept of an object. It is all that a comparison needs: a rendered field that is not in it has been taken from us or was
//! never applied, and one in it that is not rendered any more is still to be given up. It knows no rendering and no cluster.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ManagedFieldsEntry;
use serde_json::Value;

/// Our field manager.
pub const MANAGER: &str = "roadstead";
/// The field manager under which workloads are brought to rest: what it holds is given back when they are to run.
pub const REST_MANAGER: &str = "roadstead-rest";

/// Fields that are ours. What is below a leaf is ours as a whole.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Owned {
    /// Owned as a whole; null where it is owned and not there.
    Leaf(Value),
    /// Some fields of an object, sorted by name.
    Fields(Box<[(Arc<str>, Owned)]>),
    /// Some items of a list that is keyed, in the order in which they are there.
    Items(Box<[(ItemKey, Owned)]>),
}

/// What tells the items of a list apart.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum ItemKey {
    /// These fields of the item.
    Fields(Box<[(Arc<str>, Value)]>),
    /// The item itself.
    Whole(Value),
}

/// Field names, each kept once: the same few hundred in every object.
#[derive(Clone, Debug, Default)]
pub(super) struct Names(Arc<Mutex<HashSet<Arc<str>>>>);

impl Names {
    fn get(&self, name: &str) -> Arc<str> {
        let mut known = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(name) = known.get(name) {
            return name.clone();
        }
        let name: Arc<str> = name.into();
        known.insert(name.clone());
        name
    }
}

impl Owned {
    /// Nothing is ours.
    pub(super) fn nothing() -> Self {
        Self::Fields(Box::default())
    }

    /// Whether nothing is ours.
    pub(super) fn is_nothing(&self) -> bool {
        matches!(self, Self::Fields(fields) if fields.is_empty())
    }

    /// What of `live` its `entries` book to our manager.
    pub(super) fn of(live: &Value, entries: &[ManagedFieldsEntry], names: &Names) -> Self {
        Self::by(live, entries, "Apply", names)
    }

    /// What of `live` its `entries` book to our manager as created, not applied.
    pub(super) fn created(live: &Value, entries: &[ManagedFieldsEntry], names: &Names) -> Self {
        Self::by(live, entries, "Update", names)
    }

    fn by(live: &Value, entries: &[ManagedFieldsEntry], operation: &str, names: &Names) -> Self {
        let ours = |entry: &&ManagedFieldsEntry| {
            let so = entry.operation.as_deref() == Some(operation) && entry.subresource.as_deref().unwrap_or_default().is_empty();
            so && entry.manager.as_deref() == Some(MANAGER)
        };
        match entries.iter().find(ours).and_then(|entry| entry.fields_v1.as_ref()) {
            Some(fields) => Self::project(live, &fields.0, names),
            None => Self::nothing(),
        }
    }

    /// The part of `live` that a set of fields names, in the form that `managedFields` has: `f:` a field, `k:` an item by its key fields,
    /// `v:` an item by itself, `.` the thing itself.
    fn project(live: &Value, fields: &Value, names: &Names) -> Self {
        let Some(fields) = fields.as_object().filter(|fields| !fields.is_empty()) else { return Self::Leaf(live.clone()) };
        let mut some = Vec::new();
        let mut items = Vec::new();
        for (step, below) in fields {
            match step.split_once(':') {
                Some(("f", name)) => {
                    let value = live.get(name).unwrap_or(&Value::Null);
                    some.push((names.get(name), Self::project(value, below, names)));
                }
                Some(("k", key)) => items.extend(Self::item(live, key, false, below, names)),
                Some(("v", key)) => items.extend(Self::item(live, key, true, below, names)),
                // "." says that the thing itself is owned; an item by its place ("i:") occurs in no list that can be applied.
                Some(_) | None => {}
            }
        }
        if items.is_empty() {
            some.sort_by(|a, b| a.0.cmp(&b.0));
            return Self::Fields(some.into());
        }
        items.sort_by_key(|(place, ..)| *place);
        Self::Items(items.into_iter().map(|(_, key, owned)| (key, owned)).collect())
    }

    fn item(live: &Value, key: &str, whole: bool, below: &Value, names: &Names) -> Option<(usize, ItemKey, Self)> {
        let key: Value = serde_json::from_str(key).ok()?;
        let list = live.as_array().map_or(&[][..], Vec::as_slice);
        let place = list.iter().position(|item| match key.as_object() {
            Some(key) if !whole => key.iter().all(|(name, value)| item.get(name) == Some(value)),
            Some(_) | None => *item == key,
        });
        let value = place.map_or(&Value::Null, |place| &list[place]);
        let key = match key {
            Value::Object(key) if !whole => ItemKey::Fields(key.into_iter().map(|(name, value)| (names.get(&name), value)).collect()),
            key => ItemKey::Whole(key),
        };
        let owned = if whole { Self::Leaf(value.clone()) } else { Self::project(value, below, names) };
        Some((place.unwrap_or(usize::MAX), key, owned))
    }

    /// The value at a path of field names, if we own it.
    pub(super) fn value_at(&self, path: &[String]) -> Option<&Value> {
        match (self, path) {
            (Self::Leaf(value), path) => path.iter().try_fold(value, |value, name| value.get(name)),
            (Self::Fields(fields), [first, rest @ ..]) => {
                let place = fields.binary_search_by(|(name, _)| name.as_ref().cmp(first)).ok()?;
                fields[place].1.value_at(rest)
            }
            (Self::Fields(_) | Self::Items(_), _) => None,
        }
    }
}

/// Whether the manager that brings workloads to rest holds any field.
pub(super) fn held(entries: &[ManagedFieldsEntry]) -> bool {
    entries.iter().any(|entry| entry.manager.as_deref() == Some(REST_MANAGER))
}
