//! Who is on the other end: the caller that a certificate names.
//!
//! It reads a certificate; what its role may do is decided in `auth`, and how certificates are loaded and checked in [`crate::tls`].

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;
use std::sync::Arc;

use roadstead_core::id::Owner;
use roadstead_core::request::Principal;
use serde::{Deserialize, Serialize};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

/// The DNS name that every replica's certificate carries, whatever its address.
pub const REPLICA_DNS_NAME: &str = "replica.roadstead";
/// The scheme of the URI names that carry a role: `roadstead://ROLE/NAME`.
pub const SCHEME: &str = "roadstead://";
/// The URI host that restricts a client to an owner: `roadstead://owner/OWNER`.
pub const OWNER_HOST: &str = "owner";

/// What a certificate allows its holder to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// A replica of the placement service.
    Replica,
    /// May do everything.
    Admin,
    /// Looks after the fleet.
    Operator,
    /// Reads.
    Viewer,
    /// Places tenants, of certain owners only if its certificate says so.
    Client,
    /// Speaks for one cluster.
    Agent,
    /// Signs agents' certificates; calls nothing.
    Issuer,
}

impl Role {
    /// All roles.
    pub const ALL: [Self; 7] = [Self::Replica, Self::Admin, Self::Operator, Self::Viewer, Self::Client, Self::Agent, Self::Issuer];

    /// The role as it is written in certificates and principals.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Replica => "replica",
            Self::Admin => "admin",
            Self::Operator => "operator",
            Self::Viewer => "viewer",
            Self::Client => "client",
            Self::Agent => "agent",
            Self::Issuer => "issuer",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Role {
    type Err = IdentityError;
    fn from_str(text: &str) -> Result<Self, IdentityError> {
        Self::ALL.into_iter().find(|role| role.as_str() == text).ok_or_else(|| IdentityError::Role { found: text.to_owned() })
    }
}

/// Why a certificate names nobody.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// Not X.509.
    #[error("the certificate cannot be read: {what}")]
    Unreadable {
        /// What is wrong with it.
        what: String,
    },
    /// No URI name of ours.
    #[error("the certificate names no role: it needs a URI name roadstead://ROLE/NAME")]
    NoRole,
    /// Two URI names of ours.
    #[error("the certificate names more than one role")]
    ManyRoles,
    /// An unknown role.
    #[error("the certificate names the role {found:?}; known are replica, admin, operator, viewer, client, agent, issuer")]
    Role {
        /// What it says.
        found: String,
    },
    /// None was shown, where that is allowed.
    #[error("this connection shows no certificate")]
    NoCertificate,
    /// An issuer has signed more than it may.
    #[error("the certificate names the role {role}, and is signed by an issuer, which is believed of agents only")]
    ByIssuer {
        /// What it says.
        role: Role,
    },
    /// A name or owner that is not allowed.
    #[error("the certificate's name {found:?} is not allowed: {why}")]
    Name {
        /// What it says.
        found: String,
        /// What is wrong with it.
        why: String,
    },
}

/// Who is calling, as the certificate says it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// What the caller may be.
    pub role: Role,
    /// Its name; an agent's is its cluster's.
    pub name: String,
    /// The owners that a client is restricted to; empty is no restriction.
    pub owners: Vec<Owner>,
    /// `{role}:{name}`, as entries and events carry it.
    pub principal: Principal,
}

impl Caller {
    /// Makes a caller from its parts.
    ///
    /// # Errors
    /// [`IdentityError::Name`] if the name does not make a principal.
    pub fn new(role: Role, name: &str, owners: Vec<Owner>) -> Result<Self, IdentityError> {
        let bad = |why: String| IdentityError::Name { found: name.to_owned(), why };
        if name.is_empty() {
            return Err(bad("must not be empty".to_owned()));
        }
        let principal = Principal::new(&format!("{role}:{name}")).map_err(|error| bad(error.to_string()))?;
        Ok(Self { role, name: name.to_owned(), owners, principal })
    }

    /// Reads the caller from a certificate's URI names.
    ///
    /// # Errors
    /// An [`IdentityError`] that says what is missing or wrong.
    pub fn from_certificate(der: &[u8]) -> Result<Self, IdentityError> {
        let unreadable = |what: String| IdentityError::Unreadable { what };
        let (_, certificate) = X509Certificate::from_der(der).map_err(|error| unreadable(error.to_string()))?;
        let names = certificate.subject_alternative_name().map_err(|error| unreadable(error.to_string()))?;
        let uris = names.iter().flat_map(|names| &names.value.general_names).filter_map(|name| match name {
            GeneralName::URI(uri) => uri.strip_prefix(SCHEME),
            _ => None,
        });
        Self::from_uris(uris)
    }

    /// Reads the caller from the first certificate of a chain, each signed by the next one. An issuer is believed of agents only.
    ///
    /// # Errors
    /// An [`IdentityError`] that says what is missing or wrong.
    pub fn from_chain<C: AsRef<[u8]>>(chain: &[C]) -> Result<Self, IdentityError> {
        let (leaf, above) = chain.split_first().ok_or(IdentityError::NoCertificate)?;
        let caller = Self::from_certificate(leaf.as_ref())?;
        let by_issuer = above.iter().any(|one| is_issuer(one.as_ref()));
        if by_issuer && caller.role != Role::Agent { Err(IdentityError::ByIssuer { role: caller.role }) } else { Ok(caller) }
    }

    fn from_uris<'a>(uris: impl Iterator<Item = &'a str>) -> Result<Self, IdentityError> {
        let mut named: Option<(Role, &str)> = None;
        let mut owners = Vec::new();
        for uri in uris {
            let (host, name) = uri.split_once('/').ok_or(IdentityError::NoRole)?;
            if host == OWNER_HOST {
                let owner = Owner::new(name).map_err(|why| IdentityError::Name { found: name.to_owned(), why: why.to_string() })?;
                owners.push(owner);
            } else if named.replace((host.parse()?, name)).is_some() {
                return Err(IdentityError::ManyRoles);
            }
        }
        let (role, name) = named.ok_or(IdentityError::NoRole)?;
        Self::new(role, name, owners)
    }
}

/// Whether a certificate is one of role issuer.
#[must_use]
pub fn is_issuer(der: &[u8]) -> bool {
    Caller::from_certificate(der).is_ok_and(|caller| caller.role == Role::Issuer)
}

/// What is known of a connection; in the extensions of every request that came over it.
#[derive(Clone, Debug)]
pub struct ConnectionInfo {
    /// Who called, or why the certificate names nobody.
    pub caller: Result<Arc<Caller>, IdentityError>,
    /// From where.
    pub remote: SocketAddr,
}

/// The caller of a request.
///
/// # Errors
/// `UNAUTHENTICATED`, with plain words, if the certificate names nobody.
pub fn caller<T>(request: &tonic::Request<T>) -> Result<Arc<Caller>, tonic::Status> {
    match request.extensions().get::<ConnectionInfo>() {
        Some(ConnectionInfo { caller: Ok(caller), .. }) => Ok(Arc::clone(caller)),
        Some(ConnectionInfo { caller: Err(error), .. }) => Err(tonic::Status::unauthenticated(error.to_string())),
        None => Err(tonic::Status::unauthenticated("this connection carries no certificate")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(uris: &[&str]) -> Result<Caller, IdentityError> {
        Caller::from_uris(uris.iter().copied())
    }

    #[test]
    fn a_role_and_its_owners_are_read() {
        let caller = read(&["client/shop-portal", "owner/acme-gmbh", "owner/bolt"]).unwrap();
        assert_eq!(caller.principal.as_str(), "client:shop-portal");
        assert_eq!(caller.owners.iter().map(Owner::as_str).collect::<Vec<_>>(), ["acme-gmbh", "bolt"]);
    }

    #[test]
    fn a_certificate_without_exactly_one_role_names_nobody() {
        assert_eq!(read(&[]), Err(IdentityError::NoRole));
        assert_eq!(read(&["owner/acme"]), Err(IdentityError::NoRole));
        assert_eq!(read(&["admin/a", "viewer/a"]), Err(IdentityError::ManyRoles));
        assert!(matches!(read(&["root/a"]), Err(IdentityError::Role { .. })));
        assert!(matches!(read(&["admin/"]), Err(IdentityError::Name { .. })));
        assert!(matches!(read(&["admin/a b"]), Err(IdentityError::Name { .. })));
    }
}
