//! What bounds a tenant: quota, limits, network policies, account.

use roadstead_core::resources::RESOURCE_COUNT;
use serde_json::{Value, json};

use super::{Here, Made, RenderError};
use crate::cidr::Cidr;
use crate::manifests::ACCOUNT;
use crate::rendered::Manifest;
use crate::services;
use crate::site::Entry;
use crate::units::bytes_text;

/// By how much the quota exceeds what is requested, as a part of it: one fourth, as much as a rolling update may take down while those
/// pods still terminate and count. A quota equal to the requests blocks updates.
const HEADROOM_PART: u64 = 4;
/// What a container asks for that does not say: thousandths of a CPU, and bytes.
const DEFAULT_REQUEST: (u64, u64) = (10, 32 << 20);

/// How many times its Services a tenant may have for a while: one that gets another name is made before the old one is taken away. None stays none.
const RENAMED: u64 = 2;

impl Here<'_> {
    pub(super) fn bounds(&self, objects: &[Made]) -> Result<Vec<Manifest>, RenderError> {
        let mut bounds = vec![self.quota(objects), self.limits()];
        bounds.extend(self.policies(objects)?);
        bounds.push(self.own("v1", "ServiceAccount", ACCOUNT, json!({"automountServiceAccountToken": false})));
        Ok(bounds)
    }

    fn quota(&self, objects: &[Made]) -> Manifest {
        let requests = self.tenant.requests;
        let largest = [requests.largest_pod.cpu.0, requests.largest_pod.memory.0, 1, 0, 0];
        let mut hard = [0; RESOURCE_COUNT];
        for ((slot, amount), largest) in hard.iter_mut().zip(requests.total.to_array()).zip(largest) {
            // Volumes are not updated by rolling.
            *slot = if largest == 0 { amount } else { amount.saturating_add(largest.max(amount.div_ceil(HEADROOM_PART))) };
        }
        let [cpu, memory, pods, storage, _] = hard;
        let services = objects.iter().filter(|object| services::is_one(&object.id)).map(|object| &object.body);
        let counted = services::counted(services);
        let hard = json!({
            "requests.cpu": format!("{cpu}m"),
            "requests.memory": bytes_text(memory),
            "pods": pods.to_string(),
            "requests.storage": bytes_text(storage),
            "persistentvolumeclaims": self.tenant.volumes.len().to_string(),
            "services.nodeports": counted.node_ports.saturating_mul(RENAMED).to_string(),
            "services.loadbalancers": counted.load_balancers.saturating_mul(RENAMED).to_string(),
        });
        self.own("v1", "ResourceQuota", "tenant", json!({"spec": {"hard": hard}}))
    }

    fn limits(&self) -> Manifest {
        let largest = self.tenant.requests.largest_pod;
        let (cpu, memory) = DEFAULT_REQUEST;
        let mut limit = json!({"type": "Container", "defaultRequest": {"cpu": format!("{cpu}m"), "memory": bytes_text(memory)}});
        // No container asks for more than the largest pod, so that this never stands against what it asks for.
        if largest.memory.0 > 0 {
            limit["default"] = json!({"memory": bytes_text(largest.memory.0)});
            limit["defaultRequest"]["memory"] = json!(bytes_text(memory.min(largest.memory.0)));
        }
        self.own("v1", "LimitRange", "tenant", json!({"spec": {"limits": [limit]}}))
    }

    fn policies(&self, objects: &[Made]) -> Result<Vec<Manifest>, RenderError> {
        let everybody = json!({});
        let policy = |name: &str, spec: Value| self.own("networking.k8s.io/v1", "NetworkPolicy", name, json!({"spec": spec}));
        let within = json!([{"podSelector": everybody}]);
        let asked =
            self.site.dns_addresses.iter().map(|address| Ok(json!({"ipBlock": {"cidr": self.address("DNS", address)?.to_string()}})));
        let asked = std::iter::once(Ok(namespace(&self.site.dns_namespace))).chain(asked).collect::<Result<Vec<Value>, RenderError>>()?;
        let dns = json!([{
            "to": asked,
            "ports": [{"protocol": "UDP", "port": 53}, {"protocol": "TCP", "port": 53}],
        }]);
        let mut policies = vec![
            policy("deny", json!({"podSelector": everybody, "policyTypes": ["Ingress", "Egress"]})),
            policy(
                "within",
                json!({
                    "podSelector": everybody,
                    "policyTypes": ["Ingress", "Egress"],
                    "ingress": [{"from": within}],
                    "egress": [{"to": within}],
                }),
            ),
            policy("dns", json!({"podSelector": everybody, "policyTypes": ["Egress"], "egress": dns})),
        ];
        let egress = self.egress()?;
        if !egress.is_empty() {
            policies.push(policy("egress", json!({"podSelector": everybody, "policyTypes": ["Egress"], "egress": egress})));
        }
        let from = match &self.site.entry {
            Entry::None => None,
            Entry::Ingress { from_namespace, .. } => Some(from_namespace),
            Entry::Gateway { namespace, .. } => Some(namespace),
        };
        if let (Some(from), Some(expose)) = (from, &self.class.template.expose) {
            let unknown = || RenderError::Expose { service: expose.service.clone(), port: expose.port };
            let (selector, port) = self.exposed(objects, &expose.service, expose.port).ok_or_else(unknown)?;
            let ingress = json!([{"from": [namespace(from)], "ports": [{"protocol": "TCP", "port": port}]}]);
            policies
                .push(policy("entry", json!({"podSelector": {"matchLabels": selector}, "policyTypes": ["Ingress"], "ingress": ingress})));
        }
        Ok(policies)
    }

    /// A block of addresses that the cluster's facts name.
    fn address(&self, which: &'static str, text: &str) -> Result<Cidr, RenderError> {
        text.parse().map_err(|problem| RenderError::Site { cluster: self.site.cluster.clone(), which, address: text.to_owned(), problem })
    }

    fn egress(&self) -> Result<Vec<Value>, RenderError> {
        let cluster = || self.site.cluster.clone();
        let denied = self.site.denied.iter().map(|denied| self.address("denied", denied)).collect::<Result<Vec<_>, _>>()?;
        let rule = |egress: &crate::template::Egress| {
            if let Some(denied) = denied.iter().find(|denied| denied.contains(egress.cidr)) {
                return Err(RenderError::Denied { cidr: egress.cidr.to_string(), denied: denied.to_string(), cluster: cluster() });
            }
            let except: Vec<String> = denied.iter().filter(|denied| egress.cidr.contains(**denied)).map(ToString::to_string).collect();
            let mut block = json!({"cidr": egress.cidr.to_string()});
            if !except.is_empty() {
                block["except"] = json!(except);
            }
            let mut rule = json!({"to": [{"ipBlock": block}]});
            if !egress.ports.is_empty() {
                let port = |port: &u16| json!({"protocol": egress.protocol.name(), "port": port});
                rule["ports"] = egress.ports.iter().map(port).collect();
            }
            Ok(rule)
        };
        self.class.template.egress.iter().map(rule).collect()
    }
}

/// All pods of a namespace, as the other side of a connection.
fn namespace(name: &str) -> Value {
    json!({"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": name}}})
}
