//! A class that was read and understood in full.

use std::collections::BTreeSet;

use roadstead_core::class::{ClassVersion, VolumeSpec};
use roadstead_core::id::Name;
use roadstead_core::resources::Requests;

use crate::expression;
use crate::finding::{Finding, Findings};
use crate::manifests::{self, Object};
use crate::rendered::StopStep;
use crate::schema::Schema;
use crate::template::Template;

/// Bytes of digests: enough that two classes never share one.
const DIGEST_BYTES: usize = 16;

/// One immutable version of a class, ready to be rendered.
#[derive(Clone, Debug)]
pub struct Class {
    /// Class.
    pub name: Name,
    /// Version.
    pub version: String,
    /// Of everything in it, 16 bytes as hex.
    pub digest: String,
    /// What one tenant asks for.
    pub requests: Requests,
    /// Its volumes.
    pub volumes: Vec<VolumeSpec>,
    /// What values a tenant may have.
    pub schema: Schema,
    pub(crate) template: Template,
    pub(crate) objects: Vec<Object>,
}

impl Class {
    /// Reads a class version.
    ///
    /// # Errors
    /// Everything in it that cannot be understood, or that no class may say.
    pub fn parse(version: &ClassVersion) -> Result<Self, Vec<Finding>> {
        let mut findings = Findings::default();
        let schema = Schema::parse(&version.values_schema).map_err(|problem| findings.add("spec.values", problem)).ok();
        let template = Template::parse(&version.template, &mut findings);
        let objects = manifests::parse(&template.files, &mut findings);
        let engine = expression::engine(1);
        for (name, process) in &template.local {
            for text in process.run.iter().chain(process.env.values()) {
                if let Err(wrong) = expression::check(&engine, text) {
                    findings.add(format!("spec.local.{name}"), format!("{}: {}", wrong.expression, wrong.problem));
                }
            }
        }
        match schema {
            Some(schema) if findings.0.is_empty() => Ok(Self {
                name: version.name.clone(),
                version: version.version.clone(),
                digest: class_digest(version),
                requests: version.requests,
                volumes: version.volumes.clone(),
                schema,
                template,
                objects,
            }),
            Some(_) | None => Err(findings.0),
        }
    }

    /// The kinds of objects that its manifests hold: what an agent must have rights for, beyond those that every tenant has.
    #[must_use]
    pub fn kinds(&self) -> BTreeSet<(String, String)> {
        self.objects.iter().map(|object| (object.api_version.clone(), object.kind.clone())).collect()
    }

    /// Whether commands are run in its pods when a tenant is brought to rest, which an agent must have the right to.
    #[must_use]
    pub fn runs_commands(&self) -> bool {
        self.template.stop.iter().any(|step| matches!(step, StopStep::Exec(_)))
    }
}

/// Of what a class says, not of when it was created: 16 bytes as hex.
#[must_use]
pub fn class_digest(version: &ClassVersion) -> String {
    let mut hasher = blake3::Hasher::new();
    let mut field = |bytes: &[u8]| {
        hasher.update(&(bytes.len() as u64).to_le_bytes());
        hasher.update(bytes);
    };
    field(version.name.as_str().as_bytes());
    field(version.version.as_bytes());
    field(version.values_schema.as_bytes());
    field(version.template.as_bytes());
    for volume in &version.volumes {
        field(volume.name.as_str().as_bytes());
        field(&volume.size.0.to_le_bytes());
        field(volume.storage.as_bytes());
        field(&[u8::from(volume.grow)]);
    }
    let largest = version.requests.largest_pod;
    for number in version.requests.total.to_array().into_iter().chain([largest.cpu.0, largest.memory.0, version.retain.0]) {
        field(&number.to_le_bytes());
    }
    hex(&hasher)
}

/// The first bytes of a hash as hex.
pub(crate) fn hex(hasher: &blake3::Hasher) -> String {
    hasher.finalize().to_hex()[..DIGEST_BYTES * 2].to_owned()
}
