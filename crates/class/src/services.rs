//! Services of a class: what of them reaches beyond the tenant's namespace, and what of them its quota counts. Whom they select is not looked at.

use serde_json::Value;

use crate::rendered::ObjectId;

/// What a quota counts of Services beside their number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counted {
    /// Ports that every node of the cluster has for them.
    pub(crate) node_ports: u64,
    pub(crate) load_balancers: u64,
}

/// Whether an object is a Service of Kubernetes.
pub(crate) fn is_one(id: &ObjectId) -> bool {
    id.api_version == "v1" && id.kind == "Service"
}

/// What of a Service no class may say.
pub(crate) fn refusals(service: &Value) -> Vec<String> {
    let text = |field: &str| service.pointer(&format!("/spec/{field}")).and_then(Value::as_str).unwrap_or_default();
    let addresses = service.pointer("/spec/externalIPs");
    let no_addresses = addresses.is_none_or(|all| all.is_null() || all.as_array().is_some_and(Vec::is_empty));
    let mut found = Vec::new();
    if !no_addresses {
        found.push("spec.externalIPs is not a class's to say: what others send to these addresses would come to the tenant".to_owned());
    }
    if !text("loadBalancerIP").is_empty() {
        found.push("spec.loadBalancerIP is not a class's to say: addresses are given out by clusters".to_owned());
    }
    if text("type") == "ExternalName" {
        found.push("type ExternalName is not a class's to say: a controller would follow it from its own namespace".to_owned());
    }
    found
}

/// As kube-apiserver counts them (`pkg/quota/v1/evaluator/core/services.go`): a load balancer has a node port for each port too, unless it says
/// otherwise.
pub(crate) fn counted<'v>(services: impl Iterator<Item = &'v Value>) -> Counted {
    services.fold(Counted::default(), |sum, service| {
        let ports = service.pointer("/spec/ports").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        let named = || ports.iter().filter(|port| port.get("nodePort").is_some_and(|named| *named != 0 && !named.is_null())).count();
        let allocated = service.pointer("/spec/allocateLoadBalancerNodePorts") != Some(&Value::Bool(false));
        let (node_ports, load_balancers) = match service.pointer("/spec/type").and_then(Value::as_str) {
            Some("NodePort") => (ports.len(), 0),
            Some("LoadBalancer") => (if allocated { ports.len() } else { named() }, 1),
            Some(_) | None => (0, 0),
        };
        Counted {
            node_ports: sum.node_ports.saturating_add(node_ports as u64),
            load_balancers: sum.load_balancers.saturating_add(load_balancers),
        }
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn services_count_as_a_quota_counts_them() {
        let of = |spec: Value| {
            let Counted { node_ports, load_balancers } = counted([json!({ "spec": spec })].iter());
            (node_ports, load_balancers)
        };
        let ports = json!([{"port": 80}, {"port": 443, "nodePort": 30443}]);
        assert_eq!(of(json!({"ports": ports})), (0, 0));
        assert_eq!(of(json!({"ports": ports, "type": "ClusterIP"})), (0, 0));
        assert_eq!(of(json!({"ports": ports, "type": "NodePort"})), (2, 0));
        assert_eq!(of(json!({"ports": ports, "type": "LoadBalancer"})), (2, 1));
        let without = json!({"ports": ports, "type": "LoadBalancer", "allocateLoadBalancerNodePorts": false});
        assert_eq!(of(without.clone()), (1, 1), "one that is named is had all the same");
        let both = [json!({ "spec": without }), json!({"spec": {"type": "NodePort", "ports": [{"port": 1}]}})];
        assert_eq!(counted(both.iter()), Counted { node_ports: 2, load_balancers: 1 });
    }
}
