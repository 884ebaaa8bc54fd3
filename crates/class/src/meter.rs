//! What the rendering of one tenant may cost, all of it together: work of its expressions, and memory of what comes out. Whoever does something
//! pays for it before; it knows neither expressions nor objects.
//!
//! Costs are counted in bytes and never in time: rendering the same comes to the same result everywhere, so that what `roadstead apply` and the
//! placement service have tried is rendered by every agent. A release that lowers a limit would stop tenants that run.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use minijinja::value::{Enumerator, Object, Serde, ValueKind};
use serde_json::{Map, Value};

/// Bytes that each value counts, beside its text: about what it takes in memory.
pub const VALUE_BYTES: u64 = 64;
/// Bytes of all objects of one tenant together, when a class is tried: keys, texts, and [`VALUE_BYTES`] for each value. A request to the API server is
/// bounded by 1.5 MiB for one object alone.
pub const MAX_RENDERED_BYTES: u64 = 4 << 20;
/// Bytes that all expressions of one tenant may work on together, when a class is tried: some hundredths of a second. A class of 128 objects with 30
/// expressions each takes a third.
pub const MAX_WORK_BYTES: u64 = 32 << 20;
/// How many times as much room as when their class was tried tenants have: their own values may be larger than those that were tried.
pub const TIMES_IN_USE: u64 = 4;
/// Bytes that reading one character of an expression counts.
const CHARACTER_BYTES: u64 = 64;
/// Characters that every expression counts in addition.
const EXPRESSION_CHARS: u64 = 16;

/// What was more than there was room for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Spent {
    /// So many bytes to work on.
    Work(u64),
    /// So many bytes that come out.
    Size(u64),
}

impl From<Spent> for minijinja::Error {
    /// It ends an evaluation; what is told is what [`Meter::check`] says.
    fn from(_: Spent) -> Self {
        Self::from(minijinja::ErrorKind::OutOfFuel)
    }
}

/// What is left of the two budgets. Filters and names share it, and the engine wants them to be `Sync`.
#[derive(Debug)]
pub(crate) struct Meter {
    /// How many times the limits there were at the beginning.
    room: u64,
    work: AtomicU64,
    size: AtomicU64,
    /// How many times what the expression works on counts.
    times: AtomicU64,
}

impl Meter {
    /// With as many times the limits.
    pub(crate) fn new(room: u64) -> Self {
        let (work, size) = (AtomicU64::new(MAX_WORK_BYTES * room), AtomicU64::new(MAX_RENDERED_BYTES * room));
        Self { room, work, size, times: AtomicU64::new(1) }
    }

    /// Pays for reading an expression. `again` is how often it may go through what it has gone through already, where nothing can be paid: it
    /// joins texts and lists or cuts them, and each of these steps may do so to the result of all others.
    pub(crate) fn begin(&self, chars: usize, again: usize) -> Result<(), Spent> {
        self.times.store(1, Ordering::Relaxed);
        self.work((bytes(chars) + EXPRESSION_CHARS) * CHARACTER_BYTES)?;
        let times = bytes(again).saturating_add(1);
        self.times.store(times.saturating_mul(times), Ordering::Relaxed);
        Ok(())
    }

    /// Pays for work on as many bytes.
    pub(crate) fn work(&self, bytes: u64) -> Result<(), Spent> {
        pay(&self.work, bytes.saturating_mul(self.times.load(Ordering::Relaxed)), Spent::Work(MAX_WORK_BYTES * self.room))
    }

    /// Pays for work on a value with all that it holds, as often as said for as many values.
    pub(crate) fn work_on(&self, value: &minijinja::Value, often: impl FnOnce(u64) -> u64) -> Result<(), Spent> {
        let weight = weight(value, self.work.load(Ordering::Relaxed));
        self.work(weight.saturating_mul(often(weight / VALUE_BYTES)))
    }

    /// Pays for memory of what comes out.
    pub(crate) fn grow(&self, bytes: u64) -> Result<(), Spent> {
        pay(&self.size, bytes, Spent::Size(MAX_RENDERED_BYTES * self.room))
    }

    /// Pays for the memory of a value that is not made yet.
    pub(crate) fn grow_by(&self, value: &minijinja::Value) -> Result<(), Spent> {
        self.grow(weight(value, self.size.load(Ordering::Relaxed)))
    }

    /// Whether all was paid so far.
    pub(crate) fn check(&self) -> Result<(), Spent> {
        self.work(0).and_then(|()| self.grow(0))
    }
}

/// Once something could not be paid nothing is left: nothing else is done then.
fn pay(left: &AtomicU64, bytes: u64, spent: Spent) -> Result<(), Spent> {
    let before = left.load(Ordering::Relaxed);
    let after = before.saturating_sub(bytes);
    left.store(after, Ordering::Relaxed);
    if after == 0 { Err(spent) } else { Ok(()) }
}

/// A length as it is counted.
pub(crate) fn bytes(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}

/// Bytes that a value counts with all that it holds; of one that has more than `most`, any number above it.
fn weight(value: &minijinja::Value, most: u64) -> u64 {
    let mut sum = VALUE_BYTES.saturating_add(value.as_str().map_or(0, |text| bytes(text.len())));
    let is_map = value.kind() == ValueKind::Map;
    if !is_map && !matches!(value.kind(), ValueKind::Seq | ValueKind::Iterable) {
        return sum;
    }
    for item in value.try_iter().into_iter().flatten() {
        if sum > most {
            break;
        }
        let held = if is_map { weight_of_field(value, &item, most - sum) } else { weight(&item, most - sum) };
        sum = sum.saturating_add(held);
    }
    sum
}

fn weight_of_field(map: &minijinja::Value, key: &minijinja::Value, most: u64) -> u64 {
    let field = map.get_item(key).map_or(VALUE_BYTES, |field| weight(&field, most));
    field.saturating_add(key.as_str().map_or(VALUE_BYTES, |key| bytes(key.len())))
}

/// Names that expressions may say, and the members of maps among them. Whoever takes what one stands for pays for all of it, since what the engine
/// does with it then cannot be seen; of a map whoever goes on to its members.
#[derive(Debug)]
struct Names {
    known: BTreeMap<String, (minijinja::Value, u64)>,
    meter: Arc<Meter>,
}

impl Object for Names {
    fn get_value(self: &Arc<Self>, key: &minijinja::Value) -> Option<minijinja::Value> {
        let (value, weight) = self.known.get(key.as_str()?)?;
        // What cannot be paid is not defined: the check after the evaluation tells why. Values that are errors have no order in the engine.
        self.meter.work(*weight).ok().map(|()| value.clone())
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        match self.meter.work(bytes(self.known.len()).saturating_mul(VALUE_BYTES)) {
            Ok(()) => Enumerator::Values(self.known.keys().map(minijinja::Value::from).collect()),
            Err(_) => Enumerator::Empty,
        }
    }

    fn enumerator_len(self: &Arc<Self>) -> Option<usize> {
        Some(self.known.len())
    }
}

/// What expressions may name, by name.
pub(crate) fn names(meter: &Arc<Meter>, names: &Map<String, Value>) -> minijinja::Value {
    let weighed = |value: &Value| match value {
        Value::Object(fields) => (self::names(meter, fields), VALUE_BYTES),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {
            let value = minijinja::Value::from(Serde(value));
            let weight = weight(&value, u64::MAX);
            (value, weight)
        }
    };
    let known = names.iter().map(|(name, value)| (name.clone(), weighed(value))).collect();
    minijinja::Value::from_object(Names { known, meter: Arc::clone(meter) })
}
