//! Certificates for a trial or a small installation: one folder with an authority, what it issued, and what it revoked.
//!
//! A certificate names a role and a name in a URI, `roadstead://{role}/{name}`; a client's may carry owners that it is restricted to,
//! `roadstead://owner/{owner}`. Every replica's carries the DNS name `replica.roadstead`, which clients and peers verify whatever the
//! address. In reading order: this module (words and names), [`authority`] (keys and signatures), [`store`] (the folder), [`verbs`].

pub mod authority;
pub mod store;
pub mod show;
pub mod verbs;

use std::fmt;

use roadstead_core::id::{Name, Owner};
use roadstead_server::identity::{OWNER_HOST, SCHEME};
pub use roadstead_server::identity::{REPLICA_DNS_NAME, Role};
use serde::{Deserialize, Serialize};

pub use store::Store;

/// Whom a certificate is for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subject {
    /// What it may do.
    pub role: Role,
    /// Its name.
    pub name: String,
    /// Owners that a client is restricted to; none is all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub owners: Vec<String>,
    /// Further DNS names and addresses of a replica.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hosts: Vec<String>,
}

/// What can go wrong with certificates.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A name that no certificate may carry.
    #[error("{what} `{text}` {reason}")]
    BadName {
        /// Name or owner.
        what: &'static str,
        /// As given.
        text: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Owners for a role that has none.
    #[error("only a client's certificate can be restricted to owners, not one of role {0}")]
    OwnersWithoutClient(Role),
    /// The folder holds an authority already.
    #[error("{0} holds an authority already; use `roadstead pki rotate-ca` to replace it")]
    Exists(String),
    /// The folder holds none.
    #[error("{0} holds no authority; make one with `roadstead pki init --dir {0}`")]
    NotInitialised(String),
    /// No such certificate.
    #[error("{0} was not issued here; `roadstead pki show` lists what was")]
    NotIssued(String),
    /// Rotation is not under way, or is already.
    #[error("{0}")]
    Rotation(&'static str),
    /// A file.
    #[error("cannot {verb} {path}: {source}")]
    File {
        /// Read, write, ...
        verb: &'static str,
        /// Which.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// A file that is not what it should be.
    #[error("{path} is damaged: {reason}")]
    Damaged {
        /// Which.
        path: String,
        /// How.
        reason: String,
    },
    /// Keys or signatures.
    #[error("cannot make the certificate: {0}")]
    Crypto(#[from] rcgen::Error),
}

impl Subject {
    /// A subject without owners and hosts.
    #[must_use]
    pub fn new(role: Role, name: &str) -> Self {
        Self { role, name: name.to_owned(), owners: Vec::new(), hosts: Vec::new() }
    }

    /// Checks the names.
    ///
    /// # Errors
    /// [`Error::BadName`], [`Error::OwnersWithoutClient`].
    pub fn check(&self) -> Result<(), Error> {
        let bad = |what, text: &str, reason: String| Error::BadName { what, text: super::document::read::shown(text), reason };
        // A name goes into a URI and a file name; an agent's is a cluster's.
        Name::new(&self.name).map_err(|error| bad("the name", &self.name, error.to_string()))?;
        for owner in &self.owners {
            Owner::new(owner).map_err(|error| bad("the owner", owner, error.to_string()))?;
        }
        if !self.owners.is_empty() && self.role != Role::Client {
            return Err(Error::OwnersWithoutClient(self.role));
        }
        Ok(())
    }

    /// Role and name, as in `admin-alice`: how its files are called.
    #[must_use]
    pub fn file_stem(&self) -> String {
        format!("{}-{}", self.role, self.name)
    }

    /// The URIs that its certificate carries.
    #[must_use]
    pub fn uris(&self) -> Vec<String> {
        let owners = self.owners.iter().map(|owner| format!("{SCHEME}{OWNER_HOST}/{owner}"));
        std::iter::once(format!("{SCHEME}{}/{}", self.role, self.name)).chain(owners).collect()
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.role, self.name)
    }
}
