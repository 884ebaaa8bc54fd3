//! A tenant as it is kept: its history and itself, as the bytes that a snapshot holds. There are a million of them, and few are
//! looked at twice: bytes take a third of the room that the thing itself does, and loading a snapshot only has to copy them.

use std::sync::Arc;

use crate::codec::{self, CodecError};
use crate::digest::{self, Tag};
use crate::history::History;
use crate::tenant::Tenant;

use super::facts::Facts;

const OURS: &str = "packed by this process, or checked when it was read";

/// How many bytes the tenant has (`u32` LE), then what a snapshot holds: the tenant, and its history with its length before it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Packed(Arc<[u8]>);

/// Bytes before the tenant.
const LENGTH: usize = 4;

impl Packed {
    /// Packs a tenant.
    pub(crate) fn new(tenant: &Tenant, history: &History) -> Self {
        let mut bytes = Vec::with_capacity(512);
        bytes.extend_from_slice(&[0; LENGTH]);
        codec::write(tenant, &mut bytes);
        let length = length(bytes.len() - LENGTH);
        codec::write(history.as_bytes(), &mut bytes);
        bytes[..LENGTH].copy_from_slice(&length);
        Self(bytes.into())
    }

    /// Takes a packed tenant from the front of a snapshot's bytes, checked, with what the indexes need; what follows it is the rest.
    ///
    /// # Errors
    /// When they do not begin with one.
    pub(super) fn read_prefix(bytes: &[u8]) -> Result<(Self, Facts<'_>, &[u8]), CodecError> {
        let (facts, after) = codec::read_prefix_borrowed::<Facts<'_>>(bytes)?;
        let (history, rest) = codec::read_prefix_borrowed::<&[u8]>(after)?;
        if !History::is_one(history) {
            return Err(codec::malformed("a tenant's history"));
        }
        let length = length(bytes.len() - after.len());
        let packed = [&length, &bytes[..bytes.len() - rest.len()]].concat();
        Ok((Self(packed.into()), facts, rest))
    }

    /// As they go into a snapshot.
    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.0[LENGTH..]
    }

    /// The tenant.
    pub(crate) fn tenant(&self) -> Tenant {
        codec::read_prefix(self.parts().0).expect(OURS).0
    }

    /// What happened to it.
    pub(crate) fn history(&self) -> History {
        History::from_bytes(self.parts().1).expect(OURS)
    }

    /// The digest of both.
    pub(crate) fn digest(&self) -> u64 {
        let (tenant, history) = self.parts();
        digest::of_bytes(Tag::Tenant, &[tenant, history].concat())
    }

    /// The tenant's bytes and the history's.
    fn parts(&self) -> (&[u8], &[u8]) {
        let (length, bytes) = self.0.split_first_chunk::<LENGTH>().expect(OURS);
        let (tenant, rest) = bytes.split_at(u32::from_le_bytes(*length) as usize);
        (tenant, codec::read_prefix_borrowed(rest).expect(OURS).0)
    }
}

fn length(bytes: usize) -> [u8; LENGTH] {
    u32::try_from(bytes).expect("a tenant is far below 4 GiB").to_le_bytes()
}
