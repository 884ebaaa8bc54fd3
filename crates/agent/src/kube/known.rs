//! What is known to have been made of a tenant and is nowhere else: its volumes, and the secrets that were generated for them; and what of the rest is ours.

use roadstead_class::ObjectId;
use roadstead_core::id::{Epoch, TenantId, VolumeUid};

use super::record::Record;
use super::store::{Extra, Home, Inner, Live};
use crate::interpreter::Job;

/// The hash of a secret that was generated, as it was then.
pub(super) fn generated<'a>(home: &'a Home, name: &str) -> Option<&'a str> {
    let made = home.recorded()?.secrets.get(name)?;
    made.hash.as_deref().filter(|_| made.generated)
}

/// Whether a secret that is not there was generated once: its record says so, or the record was lost, and what the secret protects is there.
pub(super) fn was_generated(inner: &Inner, home: &Home, job: &Job, name: &str) -> bool {
    let is_complete = home.is_new || home.record.as_ref().is_some_and(Record::is_complete);
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

/// Whether a claim was made for a tenant in an epoch, as its labels say from its beginning. Only such a one may be taken for a volume that is
/// not written down yet: what an older epoch left is not known to be the tenant's data.
pub(super) fn was_made_for(claim: &Live, id: TenantId, now: Epoch) -> bool {
    match &claim.extra {
        Extra::Claim { tenant, epoch, .. } => (*tenant, *epoch) == (Some(id), Some(now)),
        Extra::Nothing | Extra::Secret(_) => false,
    }
}

/// Whether a claim is this volume of a tenant, of which its record tells nothing yet.
pub(super) fn is_volume(job: &Job, name: &str, claim: &Live) -> bool {
    match job.intent.volumes.iter().find(|volume| volume.name.as_str() == name).and_then(|volume| volume.uid) {
        Some(uid) => claim.uid.parse::<VolumeUid>().is_ok_and(|claimed| claimed == uid),
        None => was_made_for(claim, job.intent.id, job.intent.epoch),
    }
}

/// Whether an object that was made is still ours, and nobody's else.
pub(super) fn is_ours_to_delete(id: &ObjectId, live: &Live) -> bool {
    id.kind != "PersistentVolumeClaim" && !live.controlled && !live.deleting && !live.owned.is_nothing()
}
