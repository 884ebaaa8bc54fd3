//! The tokens by which clusters' agents are let in, one a cluster.

use std::sync::Arc;

use imbl::OrdMap;

use crate::digest::{self, Tag};
use crate::id::ClusterId;
use crate::join::JoinToken;

/// All of them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tokens {
    of: OrdMap<ClusterId, Arc<JoinToken>>,
    digest: u64,
}

impl Tokens {
    pub(crate) fn get(&self, cluster: ClusterId) -> Option<&JoinToken> {
        self.of.get(&cluster).map(|token| &**token)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&ClusterId, &Arc<JoinToken>)> {
        self.of.iter()
    }

    pub(crate) fn put(&mut self, cluster: ClusterId, token: JoinToken) {
        self.forget(cluster);
        self.digest = self.digest.wrapping_add(digest::of(Tag::JoinToken, &(cluster, &token)));
        self.of.insert(cluster, Arc::new(token));
    }

    pub(crate) fn forget(&mut self, cluster: ClusterId) {
        if let Some(before) = self.of.remove(&cluster) {
            self.digest = self.digest.wrapping_sub(digest::of(Tag::JoinToken, &(cluster, &*before)));
        }
    }

    pub(crate) fn digest(&self) -> u64 {
        self.digest
    }

    pub(crate) fn recomputed_digest(&self) -> u64 {
        self.of.iter().map(|(id, token)| digest::of(Tag::JoinToken, &(id, &**token))).fold(0, u64::wrapping_add)
    }
}
