//! Pools, class versions, the policy.

use std::sync::Arc;

use super::{Applier, Change, Fate, expect, in_use, invalid, not_found};
use crate::class::{ClassVersion, MAX_TEMPLATE_BYTES, MAX_VERSION_LEN};
use crate::command::{Done, Kind, Rejection};
use crate::id::{Name, Revision};
use crate::policy::{Policy, PolicySpec};
use crate::pool::{Pool, PoolSpec};
use crate::resources::{MAX_QUANTITY, PodSize};
use crate::time::Millis;

/// Request ids are remembered at least this long: shorter, and a retry after a fail-over would be refused.
const MIN_REQUEST_WINDOW: Millis = Millis::from_secs(60);
/// Request ids remembered at least.
const MIN_REQUESTS: u32 = 1000;

impl Applier<'_> {
    pub(super) fn put_pool(&mut self, spec: &PoolSpec, expected: Option<Revision>) -> Fate {
        check_pool(spec)?;
        let name = spec.name.as_str();
        let before = self.state.pool(name).cloned();
        let changed = before.as_ref().map_or_else(Revision::default, |pool| pool.changed);
        expect(expected, changed, Kind::Pool, name)?;
        if before.as_ref().is_some_and(|pool| pool.spec == *spec) {
            return Ok(Done::Changed { revision: changed });
        }
        let created = before.as_ref().map_or(self.revision(), |pool| pool.created);
        let after = Arc::new(Pool { spec: spec.clone(), created, changed: self.revision() });
        self.state.put_pool(after.clone());
        self.changes.push(Change::Pool { before, after: Some(after) });
        Ok(self.done())
    }

    pub(super) fn delete_pool(&mut self, name: &Name) -> Fate {
        if self.state.pool(name.as_str()).is_none() {
            return Err(not_found(Kind::Pool, name.as_str()));
        }
        if let Some(cluster) = self.state.clusters().find(|cluster| cluster.spec.pool == *name) {
            return Err(in_use(Kind::Pool, name.as_str(), format!("cluster {:?} belongs to it", cluster.spec.name.as_str())));
        }
        let before = self.state.remove_pool(name);
        self.changes.push(Change::Pool { before, after: None });
        Ok(self.done())
    }

    pub(super) fn put_class(&mut self, class: &ClassVersion) -> Fate {
        check_class_version(class)?;
        if let Some(known) = self.state.class(class.name.as_str(), &class.version) {
            let same = ClassVersion { created: known.created, ..class.clone() } == **known;
            let name = format!("{}@{}", class.name, class.version);
            return if same {
                Ok(Done::Changed { revision: known.created })
            } else {
                Err(in_use(Kind::Class, &name, "a version's content is immutable; make a new version"))
            };
        }
        let after = Arc::new(ClassVersion { created: self.revision(), ..class.clone() });
        self.state.put_class(after.clone());
        self.changes.push(Change::Class { before: None, after: Some(after) });
        Ok(self.done())
    }

    pub(super) fn delete_class(&mut self, name: &Name, version: &str) -> Fate {
        let full = format!("{name}@{version}");
        if self.state.class(name.as_str(), version).is_none() {
            return Err(not_found(Kind::Class, &full));
        }
        let tenants = self.state.class_use(name.as_str(), version);
        if tenants > 0 {
            return Err(in_use(Kind::Class, &full, format!("{tenants} tenants use it; update or delete them first")));
        }
        let before = self.state.remove_class(name, version);
        self.changes.push(Change::Class { before, after: None });
        Ok(self.done())
    }

    pub(super) fn put_policy(&mut self, spec: &PolicySpec, expected: Option<Revision>) -> Fate {
        check_policy(spec)?;
        let before = self.state.policy().clone();
        expect(expected, before.changed, Kind::Policy, "default")?;
        if before.spec == *spec {
            return Ok(Done::Changed { revision: before.changed });
        }
        let after = Arc::new(Policy { spec: spec.clone(), changed: self.revision() });
        self.state.set_policy(after.clone());
        self.changes.push(Change::Policy { after });
        Ok(self.done())
    }
}

/// Checks a pool's spec.
pub(crate) fn check_pool(spec: &PoolSpec) -> Result<(), Rejection> {
    if spec.price_micros > crate::resources::MAX_QUANTITY {
        return Err(invalid("spec.price_micros", format!("must be at most {}", crate::resources::MAX_QUANTITY)));
    }
    Ok(())
}

/// Checks a policy against the bounds that keep the service safe.
pub(crate) fn check_policy(spec: &PolicySpec) -> Result<(), Rejection> {
    if spec.request_window < MIN_REQUEST_WINDOW {
        return Err(invalid("spec.request_window", format!("must be at least {} s", MIN_REQUEST_WINDOW.0 / 1000)));
    }
    if spec.max_requests < MIN_REQUESTS {
        return Err(invalid("spec.max_requests", format!("must be at least {MIN_REQUESTS}")));
    }
    if spec.silent_after.0 == 0 {
        return Err(invalid("spec.silent_after", "must be more than 0"));
    }
    if spec.pending_tries_per_batch == 0 {
        return Err(invalid("spec.pending_tries_per_batch", "must be at least 1"));
    }
    Ok(())
}

/// Checks what of a class version needs no other thing.
pub(crate) fn check_class_version(class: &ClassVersion) -> Result<(), Rejection> {
    if class.version.is_empty() || class.version.len() > MAX_VERSION_LEN {
        return Err(invalid("spec.version", format!("must have 1 to {MAX_VERSION_LEN} characters")));
    }
    let bytes = class.template.len() + class.values_schema.len();
    if bytes > MAX_TEMPLATE_BYTES {
        return Err(invalid("spec", format!("template and schema have {bytes} bytes, at most {MAX_TEMPLATE_BYTES} are allowed")));
    }
    if class.requests.total.to_array().iter().any(|amount| *amount > MAX_QUANTITY) {
        return Err(invalid("spec.requests", format!("no amount may be more than {MAX_QUANTITY}")));
    }
    if !class.requests.largest_pod.fits(PodSize { cpu: class.requests.total.cpu, memory: class.requests.total.memory }) {
        return Err(invalid("spec.requests.largestPod", "cannot be larger than the sum over all pods"));
    }
    for (position, volume) in class.volumes.iter().enumerate() {
        if class.volumes[..position].iter().any(|other| other.name == volume.name) {
            return Err(invalid(&format!("spec.volumes[{position}].name"), format!("{:?} is named twice", volume.name.as_str())));
        }
        if volume.size.0 > MAX_QUANTITY {
            return Err(invalid(&format!("spec.volumes[{position}].size"), format!("must be at most {MAX_QUANTITY} bytes")));
        }
    }
    Ok(())
}
