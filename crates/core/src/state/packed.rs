//! A tenant as it is kept: its history and itself, as the bytes that a snapshot holds. There are a million of them, and few are
//! looked at twice: bytes take a third of the room that the thing itself does, and loading a snapshot only has to copy them.

use std::sync::Arc;

use crate::codec::{self, CodecError};
use crate::digest::{self, Tag};
use crate::history::History;
use crate::tenant::Tenant;

use super::facts::Facts;

const OURS: &str = "packed by this process, or checked when it was read";

/// The bytes: the history, with its length before it, then the tenant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Packed(Arc<[u8]>);

impl Packed {
    /// Packs a tenant.
    pub(crate) fn new(tenant: &Tenant, history: &History) -> Self {
        let mut bytes = Vec::with_capacity(512);
        codec::write(history.as_bytes(), &mut bytes);
        codec::write(tenant, &mut bytes);
        Self(bytes.into())
    }

    /// Takes a packed tenant from the front of some bytes, checked, with what the indexes need; what follows it is the rest.
    ///
    /// # Errors
    /// When they do not begin with one.
    pub(super) fn read_prefix(bytes: &[u8]) -> Result<(Self, Facts<'_>, &[u8]), CodecError> {
        let (history, rest) = codec::read_prefix_borrowed::<&[u8]>(bytes)?;
        if !History::is_one(history) {
            return Err(codec::malformed("a tenant's history"));
        }
        let (facts, rest) = codec::read_prefix_borrowed::<Facts<'_>>(rest)?;
        Ok((Self(bytes[..bytes.len() - rest.len()].into()), facts, rest))
    }

    /// As they go into a snapshot.
    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The tenant.
    pub(crate) fn tenant(&self) -> Tenant {
        let (_, rest) = codec::read_prefix_borrowed::<&[u8]>(&self.0).expect(OURS);
        codec::read_prefix(rest).expect(OURS).0
    }

    /// What happened to it.
    pub(crate) fn history(&self) -> History {
        let (history, _) = codec::read_prefix_borrowed::<&[u8]>(&self.0).expect(OURS);
        History::from_bytes(history).expect(OURS)
    }

    /// The digest of both.
    pub(crate) fn digest(&self) -> u64 {
        digest::of_bytes(Tag::Tenant, &self.0)
    }
}
