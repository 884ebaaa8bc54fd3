//! Letting a cluster's agent in: a token that is exchanged once, by one key, of one cluster.
//!
//! Only the token's digest is kept, never the token. What the exchange gives, a certificate, is made elsewhere: here is decided
//! whether it may be made. From feature level [`crate::apply::ENROLS`] on.

use serde::{Deserialize, Serialize};

use crate::id::Name;
use crate::time::{Millis, Timestamp};

/// The longest that a token is good for: who has it by then is not who was given it.
pub const MAX_TOKEN_LIFE: Millis = Millis::from_secs(7 * 24 * 3600);
/// The longest identity of a cluster, in bytes: a UID has 36.
pub const MAX_UID_BYTES: usize = 64;

/// The digest of a secret, or of a public key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Digest(pub [u8; 32]);

/// The token of a cluster: each has one at most, a new one takes the place of the one before.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinToken {
    /// Of the token.
    pub digest: Digest,
    /// UID of `kube-system` of the only cluster that may exchange it; empty is whichever comes first, if the cluster's is not known yet.
    pub uid: String,
    /// It is good before this time.
    pub until: Timestamp,
    /// Who has exchanged it.
    pub spent: Option<Spent>,
}

/// By whom a token was exchanged. The same one gets the same answer again, since answers are lost.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spent {
    /// UID of the cluster.
    pub uid: String,
    /// Of the public key that the certificate is for.
    pub key: Digest,
}

/// A token that somebody wants to exchange.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spending {
    /// For a certificate of this cluster.
    pub cluster: Name,
    /// Of the token.
    pub token: Digest,
    /// By whom.
    pub by: Spent,
}
