//! A tenant's hostnames: an Ingress or an HTTPRoute, as the cluster has it.

use serde_json::{Value, json};

use super::Here;
use crate::rendered::Manifest;
use crate::site::Entry;

/// What the one object is called.
const NAME: &str = "tenant";

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
                let spec = json!({
                    "parentRefs": [{"name": name, "namespace": namespace}],
                    "hostnames": hostnames,
                    "rules": [{"backendRefs": [{"name": expose.service, "port": expose.port}]}],
                });
                vec![self.own("gateway.networking.k8s.io/v1", "HTTPRoute", NAME, json!({"spec": spec}))]
            }
        }
    }
}
