//! A tenant's hostnames: an Ingress or HTTPRoutes, as the cluster has it.

use serde_json::{Value, json};

use super::Here;
use crate::rendered::Manifest;
use crate::site::Entry;

/// What the object is called; a second one has its number behind it.
const NAME: &str = "tenant";
/// Hostnames of one HTTPRoute; its definition allows no more.
const HOSTNAMES_OF_ROUTE: usize = 16;

impl Here<'_> {
    pub(super) fn routes(&self) -> Vec<Manifest> {
        let (hostnames, Some(expose)) = (&self.tenant.hostnames, &self.class.template.expose) else { return Vec::new() };
        if hostnames.is_empty() {
            return Vec::new();
        }
        match &self.site.entry {
            Entry::None => Vec::new(),
            Entry::Ingress { class, .. } => {
                let backend = json!({"service": {"name": expose.service, "port": {"number": expose.port}}});
                let paths = json!([{"path": "/", "pathType": "Prefix", "backend": backend}]);
                let rules: Vec<Value> = hostnames.iter().map(|host| json!({"host": host, "http": {"paths": paths}})).collect();
                let spec = json!({"ingressClassName": class, "rules": rules});
                vec![self.own("networking.k8s.io/v1", "Ingress", NAME, json!({"spec": spec}))]
            }
            Entry::Gateway { name, namespace } => {
                let route = |(index, hostnames): (usize, &[String])| {
                    let spec = json!({
                        "parentRefs": [{"name": name, "namespace": namespace}],
                        "hostnames": hostnames,
                        "rules": [{"backendRefs": [{"name": expose.service, "port": expose.port}]}],
                    });
                    let called = if index == 0 { NAME.to_owned() } else { format!("{NAME}-{}", index + 1) };
                    self.own("gateway.networking.k8s.io/v1", "HTTPRoute", &called, json!({"spec": spec}))
                };
                hostnames.chunks(HOSTNAMES_OF_ROUTE).enumerate().map(route).collect()
            }
        }
    }
}
