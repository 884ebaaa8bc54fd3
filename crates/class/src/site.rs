//! Facts about a cluster that rendering needs. They come from the cluster's agent, not from the class.

use std::collections::BTreeMap;

use crate::kinds::MADE;

/// Addresses that no tenant of any cluster may reach: where clouds hand out what a machine may do. AWS, Google and Azure answer at
/// 169.254.169.254, and AWS and Google by IPv6 at an address of their own; Azure's agents are steered from 168.63.129.16.
pub const METADATA: [&str; 4] = ["169.254.0.0/16", "168.63.129.16/32", "fd00:ec2::254/128", "fd20:ce::254/128"];

/// How traffic from outside comes in, if it does.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Entry {
    /// It does not: hostnames have no objects.
    #[default]
    None,
    /// An Ingress of this class for each tenant with hostnames.
    Ingress {
        /// `spec.ingressClassName`.
        class: String,
        /// The namespace that its controller's traffic comes from.
        from_namespace: String,
    },
    /// An HTTPRoute that attaches to this Gateway.
    Gateway {
        /// Name.
        name: String,
        /// Namespace of the Gateway, which its traffic comes from, too.
        namespace: String,
    },
}

/// What rendering knows of a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Site {
    /// Its name.
    pub cluster: String,
    /// Its region.
    pub region: String,
    /// Kind of storage, as classes name it, to StorageClass. The empty kind is the cluster's default.
    pub storage: BTreeMap<String, String>,
    /// What every kind is that `storage` does not map; without it such a kind is an error.
    pub other_storage: Option<String>,
    /// How traffic comes in.
    pub entry: Entry,
    /// Namespace of the cluster's DNS; pods may ask it.
    pub dns_namespace: String,
    /// Addresses outside of that namespace at which pods may ask for names, as CIDRs: a cache on each node, say.
    pub dns_addresses: Vec<String>,
    /// Addresses that no tenant may reach, as CIDRs: [`METADATA`], and what else the cluster denies.
    pub denied: Vec<String>,
}

impl Site {
    /// Kinds that a tenant may have here whatever its class brings: API version and kind. Namespace, Secret and PersistentVolumeClaim go without
    /// saying.
    #[must_use]
    pub fn kinds(&self) -> Vec<(&'static str, &'static str)> {
        let way_in = match self.entry {
            Entry::None => None,
            Entry::Ingress { .. } => Some(("networking.k8s.io/v1", "Ingress")),
            Entry::Gateway { .. } => Some(("gateway.networking.k8s.io/v1", "HTTPRoute")),
        };
        MADE.into_iter().chain(way_in).collect()
    }
}

impl Default for Site {
    /// DNS in `kube-system`; [`METADATA`] denied; no storage is mapped and nothing comes in.
    fn default() -> Self {
        Self {
            cluster: String::new(),
            region: String::new(),
            storage: BTreeMap::new(),
            other_storage: None,
            entry: Entry::None,
            dns_namespace: "kube-system".to_owned(),
            dns_addresses: Vec::new(),
            denied: METADATA.map(str::to_owned).to_vec(),
        }
    }
}
