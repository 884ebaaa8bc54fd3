//! Class versions, in both directions.

use std::collections::BTreeSet;

use roadstead_api::v1;
use roadstead_class::Schema;
use roadstead_class::class_digest;
use roadstead_core::class::{ClassVersion, MAX_TEMPLATE_BYTES, MAX_VERSION_LEN, VolumeSpec};
use roadstead_core::constraint::limits::MAX_LABEL_LEN;
use roadstead_core::id::Revision;
use roadstead_core::resources::Bytes;
use roadstead_core::time::Millis;

use super::check::{At, Check};
use super::{requests, wire_duration, wire_requests, wire_revision};

/// Volumes of one tenant, or of one class.
pub const MAX_VOLUMES: usize = 32;
/// The longest retention of deleted tenants' volumes: ten years.
const MAX_RETAIN: Millis = Millis::from_secs(3660 * 24 * 3600);
/// The largest schema of values in bytes.
const MAX_SCHEMA_BYTES: usize = 64 << 10;

/// A version's name: 1 to 64 of letters, digits and `. + - _`.
pub fn version(check: &mut Check, at: At<'_>, text: &str) -> Option<String> {
    let text = check.word(at, text, MAX_VERSION_LEN)?;
    if let Some(found) = text.chars().find(|c| !(c.is_ascii_alphanumeric() || ".+-_".contains(*c))) {
        return check.refuse(at, format_args!("{found:?} is not allowed in a version: use letters, digits and any of . + - _"));
    }
    Some(text)
}

/// A version of a class.
pub fn class(check: &mut Check, wire: Option<&v1::Class>) -> Option<ClassVersion> {
    let at = At::Top("class");
    let wire = check.required(at, wire)?;
    let name = check.name(at.field("name"), &wire.name);
    let version = version(check, at.field("version"), &wire.version);
    let requests = requests(check, at.field("requests"), wire.requests.as_ref());
    let volumes = volumes(check, at.field("volumes"), &wire.volumes);
    let retain = match &wire.retain {
        None => Some(Millis::default()),
        Some(length) => check.duration(at.field("retain"), length, MAX_RETAIN),
    };
    let values_schema = values_schema(check, at.field("values_schema_json"), &wire.values_schema_json);
    let template = template(check, at.field("template_json"), &wire.template_json);
    Some(ClassVersion {
        name: name?,
        version: version?,
        requests: requests?,
        volumes: volumes?,
        retain: retain?,
        values_schema: values_schema?,
        template: template?,
        created: Revision::default(),
    })
}

fn volumes(check: &mut Check, at: At<'_>, wire: &[v1::VolumeSpec]) -> Option<Vec<VolumeSpec>> {
    let mut names = BTreeSet::new();
    check.list(at, wire, MAX_VOLUMES, |check, at, volume| {
        let name = check.name(at.field("name"), &volume.name);
        let size = check.quantity(at.field("size_bytes"), volume.size_bytes);
        let storage = check.text(at.field("storage"), &volume.storage, MAX_LABEL_LEN);
        let name = name?;
        if !names.insert(name.clone()) {
            return check.refuse(at.field("name"), format_args!("volume {name} is listed twice"));
        }
        Some(VolumeSpec { name, size: Bytes(size?), storage: storage?, grow: volume.grow })
    })
}

fn values_schema(check: &mut Check, at: At<'_>, text: &str) -> Option<String> {
    if text.len() > MAX_SCHEMA_BYTES {
        return check.refuse(at, format_args!("has {} bytes, at most {MAX_SCHEMA_BYTES} are allowed", text.len()));
    }
    match Schema::parse(text) {
        Ok(_) => Some(text.to_owned()),
        Err(problem) => check.refuse(at, problem),
    }
}

fn template(check: &mut Check, at: At<'_>, text: &str) -> Option<String> {
    if text.len() > MAX_TEMPLATE_BYTES {
        return check.refuse(at, format_args!("has {} bytes, at most {MAX_TEMPLATE_BYTES} are allowed", text.len()));
    }
    if text.is_empty() {
        return Some(String::new());
    }
    match serde_json::from_str::<serde_json::Value>(text) {
        Err(error) => check.refuse(at, format_args!("is not JSON: {error}")),
        Ok(value) if value.is_object() => Some(text.to_owned()),
        Ok(_) => check.refuse(at, "must be a JSON object"),
    }
}

/// What a caller reads of a class version; `tenants` use it.
#[must_use]
pub fn wire(class: &ClassVersion, tenants: u32) -> v1::Class {
    v1::Class { template_json: class.template.clone(), ..wire_without_template(class, tenants) }
}

/// The same without its template, which may be large.
#[must_use]
pub fn wire_without_template(class: &ClassVersion, tenants: u32) -> v1::Class {
    let volume = |volume: &VolumeSpec| v1::VolumeSpec {
        name: volume.name.to_string(),
        size_bytes: volume.size.0,
        storage: volume.storage.clone(),
        grow: volume.grow,
    };
    v1::Class {
        name: class.name.to_string(),
        version: class.version.clone(),
        requests: Some(wire_requests(&class.requests)),
        volumes: class.volumes.iter().map(volume).collect(),
        retain: Some(wire_duration(class.retain)),
        values_schema_json: class.values_schema.clone(),
        template_json: String::new(),
        revision: Some(wire_revision(class.created)),
        tenants,
        digest: class_digest(class),
    }
}
