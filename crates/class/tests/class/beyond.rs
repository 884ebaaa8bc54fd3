//! What of a class reaches beyond its tenants' namespaces, or stands in the way of what is made there by itself, and is refused.

use roadstead_class::{check, render};
use serde_json::json;

use crate::given::{self, class_of, workload};
use crate::refusals::{problems, refused, roomy, with};

#[test]
fn kinds_of_other_groups_that_reach_beyond_the_namespace_are_refused() {
    let found: Vec<String> = [
        ("projectcalico.org/v3", "NetworkPolicy"),
        ("crd.projectcalico.org/v1", "NetworkSet"),
        ("cilium.io/v2", "CiliumNetworkPolicy"),
        ("policies.example.com/v1", "NetworkPolicy"),
        ("policies.example.com/v1", "FQDNNetworkPolicy"),
        ("traefik.io/v1alpha1", "IngressRoute"),
        ("networking.istio.io/v1", "VirtualService"),
        ("networking.istio.io/v1", "Gateway"),
        ("route.openshift.io/v1", "Route"),
        ("routes.example.com/v1", "Ingress"),
        ("helm.cattle.io/v1", "HelmChart"),
        ("kustomize.toolkit.fluxcd.io/v1", "Kustomization"),
        ("helm.toolkit.fluxcd.io/v2", "HelmRelease"),
        ("argoproj.io/v1alpha1", "Application"),
    ]
    .into_iter()
    .flat_map(|(api, kind)| {
        let found = problems(roomy(), &format!("{{apiVersion: {api}, kind: {kind}, metadata: {{name: x}}}}"));
        assert_eq!(found.len(), 1, "{api} {kind}");
        found
    })
    .collect();
    insta::assert_snapshot!(found.join("\n"));
}

#[test]
fn a_class_in_use_is_rendered_with_what_would_be_refused_now() {
    let manifests = "{apiVersion: traefik.io/v1alpha1, kind: IngressRoute, metadata: {name: x}}\n---\n\
                     {apiVersion: v1, kind: Service, metadata: {name: x}, spec: {type: ExternalName, externalIPs: [10.0.0.1]}}";
    let class = class_of(with("network", json!({"egress": [{"cidr": "::ffff:10.0.0.0/104"}]})), manifests).unwrap();
    assert_eq!(check(&class).len(), 4);
    assert!(render(&class, &given::tenant(&class, &json!({})), &given::site()).is_ok());
}

#[test]
fn kinds_of_operators_are_not() {
    for (api, kind) in [
        ("postgresql.cnpg.io/v1", "Cluster"),
        ("monitoring.coreos.com/v1", "ServiceMonitor"),
        ("argoproj.io/v1alpha1", "Rollout"),
        ("notcilium.io/v1", "Cache"),
        ("rds.services.k8s.aws/v1alpha1", "DBInstance"),
    ] {
        assert_eq!(problems(roomy(), &format!("{{apiVersion: {api}, kind: {kind}, metadata: {{name: x}}}}")), Vec::<String>::new());
    }
}

#[test]
fn services_that_take_addresses_or_lead_elsewhere_are_refused() {
    let service = |spec: &str| format!("{{apiVersion: v1, kind: Service, metadata: {{name: web}}, spec: {spec}}}");
    let what = "spec.manifests: Service/web: ";
    let addresses = "spec.externalIPs is not a class's to say: what others send to these addresses would come to the tenant";
    let address = "spec.loadBalancerIP is not a class's to say: addresses are given out by clusters";
    let elsewhere = "type ExternalName is not a class's to say: a controller would follow it from its own namespace";
    refused(roomy(), &service("{externalIPs: [10.0.0.1], ports: [{port: 80}]}"), &format!("{what}{addresses}"));
    refused(roomy(), &service("{type: LoadBalancer, loadBalancerIP: 10.0.0.1, ports: [{port: 80}]}"), &format!("{what}{address}"));
    refused(roomy(), &service("{type: ExternalName, externalName: kubernetes.default.svc}"), &format!("{what}{elsewhere}"));
    assert!(problems(roomy(), &service("{type: NodePort, externalIPs: [], loadBalancerIP: '', ports: [{port: 80}]}")).is_empty());
    let values = json!({"properties": {"type": {"enum": ["ClusterIP", "ExternalName"], "default": "ClusterIP"}}});
    refused(with("values", values), &service("{type: \"{{ values.type }}\", ports: [{port: 80}]}"), &format!("{what}{elsewhere}"));
}

#[test]
fn the_record_of_the_agent_is_no_class_s() {
    let config = |name: &str| format!("{{apiVersion: v1, kind: ConfigMap, metadata: {{name: {name:?}}}}}");
    let told = "ConfigMap/roadstead-record: the agent writes down there what it made: give it another name";
    refused(roomy(), &config("roadstead-record"), &format!("spec.manifests: shop.yaml: {told}"));
    refused(roomy(), &config("{{ 'roadstead-' ~ 'record' }}"), &format!("spec.manifests: shop.yaml: {told}"));
    let class = class_of(json!({"values": {}}), &config("{{ values.name }}")).unwrap();
    let tenant = given::tenant(&class, &json!({"name": "roadstead-record"}));
    assert_eq!(render(&class, &tenant, &given::site()).unwrap_err().to_string(), format!("shop.yaml: {told}"));
}

#[test]
fn what_a_class_brings_may_not_have_the_name_of_what_is_made() {
    let own =
        "{apiVersion: policy/v1, kind: PodDisruptionBudget, metadata: {name: deployment-web}, spec: {selector: {matchLabels: {app: x}}}}";
    let all = [workload("Deployment", "replicas: 2"), workload("StatefulSet", "replicas: 2"), own.to_owned()].join("---\n");
    refused(
        roomy(),
        &all,
        "spec.manifests: PodDisruptionBudget/deployment-web: one of this name is made for the tenant by itself: give it another name",
    );
}

#[test]
fn pods_that_pass_the_scheduler_by_or_go_before_others_are_refused() {
    let pod = |field: &str| workload("Deployment", "").replace("containers:", &format!("{field}\n      containers:"));
    let what = "spec.manifests: Deployment/web: ";
    refused(
        roomy(),
        &pod("nodeName: node-1"),
        &format!("{what}nodeName is not a class's to say: the scheduler would not be asked, and neither room nor taints would count"),
    );
    refused(
        roomy(),
        &pod("priorityClassName: system-node-critical"),
        &format!("{what}priorityClassName system-node-critical is for what a cluster needs to work: others' pods would go for it"),
    );
    let every = format!("{what}a toleration without a key is for every taint: name those that are meant");
    refused(roomy(), &pod("tolerations: [{operator: Exists}]"), &every);
    refused(roomy(), &pod("tolerations: [{key: '', operator: Exists, effect: NoExecute}]"), &every);
    assert!(problems(roomy(), &pod("tolerations: [{key: gpu, operator: Exists}]\n      priorityClassName: shops")).is_empty());
}

#[test]
fn egress_to_ipv4_addresses_is_written_as_such() {
    let egress = |cidr: &str| with("network", json!({"egress": [{"cidr": "::/0"}, {"cidr": cidr}]}));
    refused(
        egress("::ffff:169.254.169.254/128"),
        "",
        "spec.network.egress[1].cidr: ::ffff:169.254.169.254/128 is a block of IPv4 addresses: write 169.254.169.254/32",
    );
    assert!(problems(egress("2001:db8::/32"), "").is_empty());
}
