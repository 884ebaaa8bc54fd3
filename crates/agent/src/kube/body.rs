//! An object as it is to be here: as rendered, with what of it only the cluster knows. What is applied, compared, tried and noted is this.

use std::borrow::Cow;
use std::collections::BTreeMap;

use roadstead_class::{Manifest, Rendered};
use serde_json::Value;

use super::compare::nano;
use super::secrets;
use super::store::{Extra, Home, Inner, Live};

/// What of a quota the claims count against.
const CLAIMS: &str = "persistentvolumeclaims";
/// See [`CLAIMS`]; in bytes.
const STORAGE: &str = "requests.storage";
/// Nano units in one.
const NANO: i128 = 1_000_000_000;

/// An object of a tenant as it is to be.
pub(super) fn body<'a>(inner: &Inner, home: &Home, rendered: &Rendered, manifest: &'a Manifest) -> Cow<'a, Value> {
    let hashes = |name: &str| secret_hashes(inner, home, name);
    let mut body = secrets::with_restarts(&manifest.body, rendered, &hashes);
    if manifest.id.kind == "ResourceQuota" {
        leave_room(&mut body, detached(inner, home, rendered));
    }
    body
}

/// Claims of volumes that the tenant's class has dropped, which are kept: how many, and their bytes.
fn detached(inner: &Inner, home: &Home, rendered: &Rendered) -> (u64, u64) {
    let kind = inner.kind_of("v1", "PersistentVolumeClaim");
    let tenant = home.space.as_ref().and_then(|space| space.tenant);
    let is_rendered = |name: &str| rendered.volumes.values().any(|claim| claim.id.name == name);
    let is_recorded = |name: &str| home.recorded().into_iter().flat_map(|record| record.volumes.values()).any(|made| made.claim == name);
    let bytes = |name: &str, live: &Live| match &live.extra {
        Extra::Claim { tenant: of, bytes, requested, .. } if !is_rendered(name) => {
            ((of.is_some() && *of == tenant) || is_recorded(name)).then_some(*bytes.max(requested))
        }
        Extra::Claim { .. } | Extra::Nothing | Extra::Secret(_) => None,
    };
    let claims = kind.and_then(|kind| home.objects.get(&kind)).into_iter().flat_map(BTreeMap::iter);
    claims.filter_map(|(name, live)| bytes(name, live)).fold((0, 0), |(count, sum), bytes| (count + 1, sum.saturating_add(bytes)))
}

/// A quota counts every claim that is there, and is rendered for those of the class: what is kept beside them must not stand in their way.
fn leave_room(quota: &mut Cow<'_, Value>, (claims, bytes): (u64, u64)) {
    if claims == 0 {
        return;
    }
    for (name, more) in [(CLAIMS, claims), (STORAGE, bytes)] {
        let Some(hard) = quota["spec"]["hard"].get(name).and_then(nano) else { continue };
        quota.to_mut()["spec"]["hard"][name] = (hard / NANO + i128::from(more)).to_string().into();
    }
}

/// Hashes of a secret of the tenant.
fn secret_hashes(inner: &Inner, home: &Home, name: &str) -> Option<secrets::Hashes> {
    let kind = inner.kind_of("v1", "Secret")?;
    match &home.objects.get(&kind)?.get(name)?.extra {
        Extra::Secret(slim) => Some(slim.hashes.clone()),
        Extra::Nothing | Extra::Claim { .. } => None,
    }
}
