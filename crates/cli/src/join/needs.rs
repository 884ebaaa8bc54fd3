//! What classes need of a cluster: kinds of objects, commands in pods, storage.
//!
//! Where classes come from it does not know.

use std::collections::BTreeMap;

use roadstead_api::v1;
use roadstead_class::Class;
use roadstead_core::class::ClassVersion;
use roadstead_core::id::{Name, Revision};
use roadstead_core::resources::Requests;
use roadstead_core::time::Millis;

use super::Kind;
use super::furniture::Storages;
use crate::document::class::{ClassSpec, PodSecurity};
use crate::failure::Failure;

/// Which classes are known that the agent is to carry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Known {
    /// None is named.
    #[default]
    Nothing,
    /// Some are named, and one of them cannot be read.
    Some,
    /// All that are named: then nothing else is needed.
    All,
}

/// What classes need.
#[derive(Debug, Default)]
pub struct Needed {
    /// See [`super::Joining::kinds`].
    pub kinds: BTreeMap<Kind, Option<String>>,
    /// See [`super::Joining::runs_commands`].
    pub runs_commands: bool,
    /// Which storage they want.
    pub storages: Storages,
    /// Which of them are known.
    pub known: Known,
    /// What is to be said of some of them.
    pub notes: Vec<String>,
}

impl Needed {
    /// Adds a class.
    ///
    /// # Errors
    /// This version cannot read it.
    pub fn add(&mut self, class: &v1::Class, privileged: bool) -> Result<(), Failure> {
        let parsed = parsed(class)?;
        if !privileged && ClassSpec::from(class).pod_security == Some(PodSecurity::Privileged) {
            self.notes.push(format!(
                "{}@{} has podSecurity: privileged: this cluster will not take its tenants without --allow-privileged",
                class.name, class.version
            ));
        }
        self.kinds.extend(parsed.kinds().into_iter().map(|kind| (kind, None)));
        self.runs_commands |= parsed.runs_commands();
        self.storages.add(class);
        Ok(())
    }

    /// One that the service has: another version of this program may have put it, which is no reason not to join.
    pub fn add_stored(&mut self, class: &v1::Class, privileged: bool) {
        if let Err(failure) = self.add(class, privileged) {
            self.notes.push(format!("{}; this version cannot read it, and gives no rights for it", failure.message));
            self.known = Known::Some;
        }
    }
}

/// A class as agents understand it.
fn parsed(class: &v1::Class) -> Result<Class, Failure> {
    let failed = |why: String| Failure::usage(format!("class {}@{}: {why}", class.name, class.version));
    // What tenants ask for and what volumes they have is of no matter for rights.
    let version = ClassVersion {
        name: Name::new(&class.name).map_err(|error| failed(error.to_string()))?,
        version: class.version.clone(),
        requests: Requests::default(),
        volumes: Vec::new(),
        retain: Millis::default(),
        values_schema: class.values_schema_json.clone(),
        template: class.template_json.clone(),
        created: Revision::default(),
    };
    Class::parse(&version).map_err(|found| failed(found.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stored_class_that_cannot_be_read_keeps_nobody_from_joining_and_says_that_rights_may_lack() {
        let class = |template: &str| v1::Class {
            name: "shop".to_owned(),
            version: "1.0.0".to_owned(),
            template_json: template.to_owned(),
            ..v1::Class::default()
        };
        let mut needed = Needed { known: Known::All, ..Needed::default() };
        needed.add_stored(&class(""), false);
        assert_eq!(needed.known, Known::All);
        let unknown = class(r#"{"what": "a later version knows"}"#);
        assert!(needed.add(&unknown, false).is_err(), "one of a file is refused");
        needed.add_stored(&unknown, false);
        assert_eq!(needed.known, Known::Some);
    }
}
