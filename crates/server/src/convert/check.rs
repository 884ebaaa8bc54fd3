//! Where a field is, and what was wrong with it: several violations of one request are reported together.

use std::fmt;

use prost_types::{Duration, Timestamp as WireTimestamp};
use roadstead_api::v1;
use roadstead_core::id::{Incarnation, Name, NameError, Owner, Revision};
use roadstead_core::resources::MAX_QUANTITY;
use roadstead_core::time::{Millis, Timestamp};

use crate::errors::{Fault, MAX_VIOLATIONS, Violation};

/// The path of a field, kept on the stack: nothing is built unless something is wrong.
#[derive(Clone, Copy, Debug)]
pub enum At<'a> {
    /// A field of the request itself.
    Top(&'a str),
    /// A field of another.
    Field(&'a At<'a>, &'a str),
    /// An element of a list.
    Item(&'a At<'a>, usize),
    /// An entry of a map.
    Key(&'a At<'a>, &'a str),
}

impl At<'_> {
    /// A field of this one.
    #[must_use]
    pub fn field<'b>(&'b self, name: &'b str) -> At<'b> {
        At::Field(self, name)
    }

    /// An element of this list.
    #[must_use]
    pub fn item(&self, index: usize) -> At<'_> {
        At::Item(self, index)
    }

    /// An entry of this map.
    #[must_use]
    pub fn key<'b>(&'b self, key: &'b str) -> At<'b> {
        At::Key(self, key)
    }
}

impl fmt::Display for At<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Top(name) => f.write_str(name),
            Self::Field(parent, name) => write!(f, "{parent}.{name}"),
            Self::Item(parent, index) => write!(f, "{parent}[{index}]"),
            Self::Key(parent, key) => write!(f, "{parent}[{key:?}]"),
        }
    }
}

/// Collects what is wrong with one request. A conversion that answers `None` has reported why.
#[derive(Debug, Default)]
pub struct Check {
    violations: Vec<Violation>,
    more: usize,
}

impl Check {
    /// Reports a field; always `None`, to be returned.
    pub fn refuse<T>(&mut self, at: At<'_>, problem: impl fmt::Display) -> Option<T> {
        if self.violations.len() < MAX_VIOLATIONS {
            self.violations.push(Violation { field: at.to_string(), problem: problem.to_string() });
        } else {
            self.more += 1;
        }
        None
    }

    /// The value, if nothing was wrong.
    ///
    /// # Errors
    /// All violations together.
    pub fn finish<T>(mut self, value: Option<T>) -> Result<T, Fault> {
        if let (true, Some(last)) = (self.more > 0, self.violations.last_mut()) {
            last.problem = format!("{} (and {} more violations)", last.problem, self.more);
        }
        match value {
            Some(value) if self.violations.is_empty() => Ok(value),
            _ => Err(Fault::fields(self.violations)),
        }
    }

    /// A name as in DNS labels.
    pub fn name(&mut self, at: At<'_>, text: &str) -> Option<Name> {
        Name::new(text).map_err(|error| self.named(at, text, &error)).ok()
    }

    /// A name, or nothing if it is empty.
    pub fn optional_name(&mut self, at: At<'_>, text: &str) -> Option<Option<Name>> {
        if text.is_empty() { Some(None) } else { self.name(at, text).map(Some) }
    }

    /// An owner.
    pub fn owner(&mut self, at: At<'_>, text: &str) -> Option<Owner> {
        Owner::new(text).map_err(|error| self.named(at, text, &error)).ok()
    }

    fn named(&mut self, at: At<'_>, text: &str, error: &NameError) {
        let _: Option<()> = match error {
            NameError::Empty | NameError::TooLong { .. } => self.refuse(at, error),
            NameError::Character { .. } => self.refuse(at, format_args!("{text:?}: {error}")),
        };
    }

    /// Free text: not longer than `max` bytes, no control characters. Empty is fine.
    pub fn text(&mut self, at: At<'_>, text: &str, max: usize) -> Option<String> {
        if text.len() > max {
            return self.refuse(at, format_args!("has {} bytes, at most {max} are allowed", text.len()));
        }
        if let Some(position) = text.find(char::is_control) {
            return self.refuse(at, format_args!("has a control character at byte {position}; none is allowed"));
        }
        Some(text.to_owned())
    }

    /// Text that must not be empty.
    pub fn word(&mut self, at: At<'_>, text: &str, max: usize) -> Option<String> {
        if text.is_empty() { self.refuse(at, "must not be empty") } else { self.text(at, text, max) }
    }

    /// A list of distinct words, at most `max_items` of at most `max_len` bytes each.
    pub fn words(&mut self, at: At<'_>, texts: &[String], max_items: usize, max_len: usize) -> Option<Vec<String>> {
        self.list(at, texts, max_items, |check, at, text| check.word(at, text, max_len))
    }

    /// Converts a list whose length is bounded, and whose items are distinct.
    pub fn list<S, T: PartialEq>(
        &mut self,
        at: At<'_>,
        items: &[S],
        max: usize,
        mut convert: impl FnMut(&mut Self, At<'_>, &S) -> Option<T>,
    ) -> Option<Vec<T>> {
        if items.len() > max {
            return self.refuse(at, format_args!("has {} items, at most {max} are allowed", items.len()));
        }
        let mut all = Vec::with_capacity(items.len());
        let mut whole = true;
        for (index, item) in items.iter().enumerate() {
            match convert(self, at.item(index), item) {
                Some(item) if all.contains(&item) => {
                    whole = false;
                    let _: Option<()> = self.refuse(at.item(index), "is listed twice");
                }
                Some(item) => all.push(item),
                None => whole = false,
            }
        }
        whole.then_some(all)
    }

    /// A number within bounds, both allowed.
    pub fn within<N: PartialOrd + fmt::Display + Copy>(&mut self, at: At<'_>, number: N, least: N, most: N) -> Option<N> {
        if number < least || number > most {
            return self.refuse(at, format_args!("is {number}; {least} to {most} is allowed"));
        }
        Some(number)
    }

    /// A quantity of a resource.
    pub fn quantity(&mut self, at: At<'_>, number: u64) -> Option<u64> {
        self.within(at, number, 0, MAX_QUANTITY)
    }

    /// A field that must be there.
    pub fn required<'m, M>(&mut self, at: At<'_>, message: Option<&'m M>) -> Option<&'m M> {
        match message {
            Some(message) => Some(message),
            None => self.refuse(at, "must be given"),
        }
    }

    /// A field that may be left out, and is converted where it is there.
    pub fn optional<M, T>(
        &mut self,
        at: At<'_>,
        wire: Option<M>,
        convert: impl FnOnce(&mut Self, At<'_>, M) -> Option<T>,
    ) -> Option<Option<T>> {
        match wire {
            None => Some(None),
            Some(wire) => convert(self, at, wire).map(Some),
        }
    }

    /// An enum as the wire has it; numbers that this build does not know are refused, never guessed.
    pub fn known<E: TryFrom<i32>>(&mut self, at: At<'_>, number: i32) -> Option<E> {
        match E::try_from(number) {
            Ok(value) => Some(value),
            Err(_) => self.refuse(at, format_args!("{number} is no value that this server knows")),
        }
    }

    /// A revision.
    pub fn revision(&mut self, at: At<'_>, wire: &v1::Revision) -> Option<Revision> {
        match u16::try_from(wire.incarnation) {
            Ok(incarnation) => Some(Revision { incarnation: Incarnation(incarnation), index: wire.index }),
            Err(_) => self.refuse(at.field("incarnation"), format_args!("is {}; at most {} is possible", wire.incarnation, u16::MAX)),
        }
    }

    /// A revision that may be left out.
    pub fn optional_revision(&mut self, at: At<'_>, wire: Option<&v1::Revision>) -> Option<Option<Revision>> {
        self.optional(at, wire, Self::revision)
    }

    /// A point in time from 1970 on, in whole milliseconds.
    pub fn timestamp(&mut self, at: At<'_>, wire: &WireTimestamp) -> Option<Timestamp> {
        match millis(wire.seconds, wire.nanos) {
            Some(ms) => Some(Timestamp(ms)),
            None => self.refuse(at, "is no time between the years 1970 and 9999"),
        }
    }

    /// A length of time in whole milliseconds, not negative, at most `most`.
    pub fn duration(&mut self, at: At<'_>, wire: &Duration, most: Millis) -> Option<Millis> {
        match millis(wire.seconds, wire.nanos) {
            Some(ms) if ms <= most.0 => Some(Millis(ms)),
            _ => self.refuse(at, format_args!("is no length of time between 0 and {} s", most.0 / 1000)),
        }
    }
}

/// The last second of the year 9999, as protobuf's timestamps end there.
const LAST_SECOND: i64 = 253_402_300_799;

fn millis(seconds: i64, nanos: i32) -> Option<u64> {
    let (seconds, nanos) = (u64::try_from(seconds).ok()?, u64::try_from(nanos).ok()?);
    (seconds <= LAST_SECOND.unsigned_abs() && nanos < 1_000_000_000).then_some(seconds * 1000 + nanos / 1_000_000)
}
