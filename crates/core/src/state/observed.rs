//! What agents have told, by tenant and by cluster.

use std::sync::Arc;

use imbl::OrdMap;

use crate::digest::{self, Tag};
use crate::id::{ClusterId, TenantId};
use crate::observed::{ClusterInfo, KnownDetails, TenantFacts};

/// All of it. What holds nothing is not kept.
#[derive(Clone, Debug, Default)]
pub(crate) struct Observed {
    tenants: OrdMap<TenantId, Arc<TenantFacts>>,
    clusters: OrdMap<ClusterId, Arc<ClusterInfo>>,
    details: OrdMap<ClusterId, Arc<KnownDetails>>,
    digest: u64,
}

impl Observed {
    pub(crate) fn tenant(&self, id: TenantId) -> Option<&Arc<TenantFacts>> {
        self.tenants.get(&id)
    }

    pub(crate) fn cluster(&self, id: ClusterId) -> Option<&Arc<ClusterInfo>> {
        self.clusters.get(&id)
    }

    pub(crate) fn details(&self) -> &OrdMap<ClusterId, Arc<KnownDetails>> {
        &self.details
    }

    pub(crate) fn tenants(&self) -> impl Iterator<Item = (&TenantId, &Arc<TenantFacts>)> {
        self.tenants.iter()
    }

    pub(crate) fn clusters(&self) -> impl Iterator<Item = (&ClusterId, &Arc<ClusterInfo>)> {
        self.clusters.iter()
    }

    pub(crate) fn put_tenant(&mut self, id: TenantId, facts: TenantFacts) {
        if facts == TenantFacts::default() {
            return self.forget_tenant(id);
        }
        self.digest = self.digest.wrapping_add(digest::of(Tag::TenantFacts, &(id, &facts)));
        if let Some(before) = self.tenants.insert(id, Arc::new(facts)) {
            self.digest = self.digest.wrapping_sub(digest::of(Tag::TenantFacts, &(id, &*before)));
        }
    }

    pub(crate) fn forget_tenant(&mut self, id: TenantId) {
        if let Some(before) = self.tenants.remove(&id) {
            self.digest = self.digest.wrapping_sub(digest::of(Tag::TenantFacts, &(id, &*before)));
        }
    }

    pub(crate) fn put_cluster(&mut self, id: ClusterId, info: ClusterInfo) {
        self.digest = self.digest.wrapping_add(digest::of(Tag::ClusterInfo, &(id, &info)));
        if let Some(before) = self.clusters.insert(id, Arc::new(info)) {
            self.digest = self.digest.wrapping_sub(digest::of(Tag::ClusterInfo, &(id, &*before)));
        }
    }

    pub(crate) fn put_details(&mut self, id: ClusterId, known: KnownDetails) {
        self.digest = self.digest.wrapping_add(digest::of(Tag::ClusterDetails, &(id, &known)));
        if let Some(before) = self.details.insert(id, Arc::new(known)) {
            self.digest = self.digest.wrapping_sub(digest::of(Tag::ClusterDetails, &(id, &*before)));
        }
    }

    pub(crate) fn forget_cluster(&mut self, id: ClusterId) {
        if let Some(before) = self.clusters.remove(&id) {
            self.digest = self.digest.wrapping_sub(digest::of(Tag::ClusterInfo, &(id, &*before)));
        }
        if let Some(before) = self.details.remove(&id) {
            self.digest = self.digest.wrapping_sub(digest::of(Tag::ClusterDetails, &(id, &*before)));
        }
    }

    pub(crate) fn digest(&self) -> u64 {
        self.digest
    }

    pub(crate) fn recomputed_digest(&self) -> u64 {
        let tenants = self.tenants.iter().map(|(id, facts)| digest::of(Tag::TenantFacts, &(id, &**facts)));
        let clusters = self.clusters.iter().map(|(id, info)| digest::of(Tag::ClusterInfo, &(id, &**info)));
        let details = self.details.iter().map(|(id, known)| digest::of(Tag::ClusterDetails, &(id, &**known)));
        tenants.chain(clusters).chain(details).fold(0, u64::wrapping_add)
    }
}
