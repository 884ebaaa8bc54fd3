//! What is known to have been made of a tenant and is nowhere else: its volumes, and the secrets that were generated for them.

use super::record::Record;
use super::store::{Extra, Home, Inner};
use crate::interpreter::Job;

/// The hash of a secret that was generated, as it was then.
pub(super) fn generated<'a>(home: &'a Home, name: &str) -> Option<&'a str> {
    let made = home.record.as_ref()?.secrets.get(name)?;
    made.hash.as_deref().filter(|_| made.generated)
}

/// Whether a secret that is not there was generated once: its record says so, or the record was lost, and what the secret protects is there.
pub(super) fn was_generated(inner: &Inner, home: &Home, job: &Job, name: &str) -> bool {
    let is_complete = home.record.as_ref().is_some_and(Record::is_complete);
    generated(home, name).is_some() || (!is_complete && has_volumes(inner, home, job))
}

/// Whether a volume of a tenant is known: by its intent, or by a claim that is there.
pub(super) fn has_volumes(inner: &Inner, home: &Home, job: &Job) -> bool {
    let volumes = &job.intent.volumes;
    let kind = inner.kind_of("v1", "PersistentVolumeClaim");
    let mut claims = kind.and_then(|kind| home.objects.get(&kind)).into_iter().flatten();
    let is_known = volumes.iter().any(|volume| volume.uid.is_some());
    is_known
        || claims.any(|(name, live)| match &live.extra {
            Extra::Claim { tenant: Some(tenant), .. } if *tenant == job.intent.id => true,
            Extra::Claim { .. } | Extra::Nothing | Extra::Secret(_) => volumes.iter().any(|volume| *volume.name.as_str() == **name),
        })
}
