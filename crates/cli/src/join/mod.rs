//! Joining a Kubernetes cluster: from what is known of it to the manifests of its agent.
//!
//! In reading order: this module (what is known, and all manifests in order), [`site`] (how the cluster is furnished), [`counting`] (what counts
//! there and cannot be seen), [`running`] (how the agent works), [`before`] (what was said when the cluster joined), [`furniture`] (what
//! classes and flags take to be there), [`needs`] (what else classes need), [`issuers`] (whether a token would let anybody in), [`rights`] (what
//! the agent's account may do, and why), [`confine`] (where it may do it), [`workload`] (what runs), [`cluster`] (reading and writing them in a
//! cluster), [`again`] (what is told of what stays and what goes). All but the last two are pure: the same input gives the same manifests.

pub mod site;
pub mod counting;
pub mod running;
pub mod before;
pub mod furniture;
pub mod needs;
pub mod issuers;
pub mod rights;
pub mod confine;
pub mod workload;
pub mod cluster;
pub mod again;

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde_json::Value;

pub use before::Stated;
pub use counting::Counting;
pub use running::Running;
pub use site::SiteSettings;

/// The agent's own namespace.
pub const NAMESPACE: &str = "roadstead-system";
/// The agent's account, and how most of its objects are called.
pub const AGENT: &str = "roadstead-agent";
/// Under which name the API server keeps what the agent wrote.
pub const MANAGER: &str = "roadstead";
/// Annotation with the reason of an object, for whoever reads it in the cluster.
pub const WHY: &str = "roadstead.dev/why";

/// The API version and kind of objects, as in `apps/v1` and `Deployment`.
pub type Kind = (String, String);

/// The Secret in which the agent keeps its certificate.
pub const IDENTITY_SECRET: &str = "roadstead-agent-identity";
/// The Secret in which it finds its token.
pub const TOKEN_SECRET: &str = "roadstead-agent-join";

/// A token that the agent exchanges for its certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    /// The token.
    pub token: String,
    /// The authorities to trust, as PEM.
    pub authorities: String,
}

/// The certificate that the agent shows to the placement service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Certificate {
    /// The agent gets it for a token and renews it; no token if it has a certificate.
    Own(Option<Token>),
    /// A Secret that is there: `tls.crt`, `tls.key` and `ca.crt`, as PEM.
    Secret(String),
    /// One that is put into a Secret, as PEM.
    Pem {
        /// The agent's certificate.
        certificate: String,
        /// Its private key.
        key: String,
        /// The authorities to trust.
        authorities: String,
    },
}

/// What is known of a cluster that joins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Joining {
    /// The cluster's name, as the placement service has it.
    pub cluster: String,
    /// The image with the binary.
    pub image: String,
    /// Where the agent reaches the replicas, as `host:port`.
    pub servers: Vec<String>,
    /// How the cluster is furnished.
    pub site: SiteSettings,
    /// What counts there and cannot be seen.
    pub counting: Counting,
    /// How the agent works.
    pub running: Running,
    /// Kinds that classes use, with the plural that the cluster has for them; without one it is guessed.
    pub kinds: BTreeMap<Kind, Option<String>>,
    /// Whether classes run commands in pods to bring tenants to rest.
    pub runs_commands: bool,
    /// Rights that the account has for classes that nobody named now.
    pub kept_rights: Vec<rights::Rule>,
    /// See [`Certificate`].
    pub certificate: Certificate,
    /// Whether tenants' pods may do anything, as classes with `podSecurity: privileged` need it.
    pub privileged: bool,
}

impl Joining {
    /// All manifests, in the order in which they are made: what confines the account comes before its rights, the pods come last.
    #[must_use]
    pub fn manifests(&self) -> Vec<Value> {
        let mut all = vec![workload::namespace(), workload::account()];
        all.extend(confine::manifests(self.privileged));
        all.extend(rights::manifests(self));
        all.extend(workload::manifests(self));
        all
    }
}

/// What was said before with what is said now: in place of the same if it is there, else behind it, so that what is as it was stays in its place.
fn added<T: Clone>(before: Vec<T>, now: &[T], same: fn(&T, &T) -> bool) -> Vec<T> {
    let again = |old: T| now.iter().rev().find(|new| same(new, &old)).cloned().unwrap_or(old);
    let mut all: Vec<T> = before.into_iter().map(again).collect();
    let new: Vec<T> = now.iter().filter(|new| !all.iter().any(|old| same(old, new))).cloned().collect();
    all.extend(new);
    all
}

/// Whether an address is that of whoever uses it, and so another one in each pod.
#[must_use]
pub fn is_loopback(server: &str) -> bool {
    let address = server.split_once("://").map_or(server, |(_, rest)| rest);
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host).trim_start_matches('[').trim_end_matches(']');
    match host.parse::<IpAddr>() {
        Ok(address) => address.is_loopback() || address.is_unspecified(),
        Err(_) => host.eq_ignore_ascii_case("localhost") || host.to_ascii_lowercase().ends_with(".localhost"),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn with_token() -> Joining {
        let token = Token { token: "t".to_owned(), authorities: "a".to_owned() };
        Joining { certificate: Certificate::Own(Some(token)), ..example() }
    }

    pub(crate) fn example() -> Joining {
        Joining {
            cluster: "eu-1".to_owned(),
            image: "roadstead:0.1.0".to_owned(),
            servers: vec!["r1.example.com:7420".to_owned()],
            site: SiteSettings::default(),
            counting: Counting::default(),
            running: Running::default(),
            kinds: BTreeMap::new(),
            runs_commands: false,
            kept_rights: Vec::new(),
            certificate: Certificate::Secret("given".to_owned()),
            privileged: false,
        }
    }

    #[test]
    fn the_account_is_confined_before_it_has_rights_and_has_rights_before_it_runs() {
        let manifests = example().manifests();
        let place = |kind: &str| manifests.iter().position(|manifest| manifest["kind"] == kind).expect("it is among them");
        assert_eq!(place("Namespace"), 0);
        assert!(place("ValidatingAdmissionPolicyBinding") < place("ClusterRoleBinding"));
        assert!(place("ClusterRoleBinding") < place("Deployment"));
    }

    #[test]
    fn a_secret_that_is_there_is_not_written() {
        let kinds = |joining: &Joining| joining.manifests().iter().any(|manifest| manifest["kind"] == "Secret");
        assert!(!kinds(&example()));
        let pem = || "pem".to_owned();
        let certificate = Certificate::Pem { certificate: pem(), key: pem(), authorities: pem() };
        assert!(kinds(&Joining { certificate, ..example() }));
        assert!(kinds(&with_token()));
        assert!(!kinds(&Joining { certificate: Certificate::Own(None), ..example() }));
    }

    #[test]
    fn an_address_of_the_pod_itself_is_known_for_what_it_is() {
        for own in
            ["127.0.0.1:7420", "127.8.0.1:7420", "localhost:7420", "LocalHost:1", "[::1]:7420", "0.0.0.0:7420", "https://127.0.0.1:7420"]
        {
            assert!(is_loopback(own), "{own}");
        }
        for other in ["r1.example.com:7420", "10.0.0.1:7420", "[fd00::1]:7420", "https://rs:7420", "localhost.example.com:7420"] {
            assert!(!is_loopback(other), "{other}");
        }
    }
}
