//! Rules of rendering.

use roadstead_class::{Class, Entry, RenderError, Rendered, Site, check, namespace_of, render};
use roadstead_core::id::{Incarnation, Name, Owner, TenantId};
use serde_json::{Value, json};

use crate::given::{self, class_of, workload};

fn rendered(spec: Value, manifests: &str, values: &Value) -> Result<Rendered, RenderError> {
    let class = class_of(spec, manifests).unwrap();
    render(&class, &given::tenant(&class, values), &given::site())
}

fn body<'r>(rendered: &'r Rendered, object: &str) -> &'r Value {
    &rendered.manifests().find(|manifest| manifest.id.to_string() == object).unwrap_or_else(|| panic!("no {object}")).body
}

fn config(text: &str) -> String {
    format!("{{apiVersion: v1, kind: ConfigMap, metadata: {{name: x}}, data: {{a: {text:?}}}}}")
}

/// What an expression gives, in a tenant with these values.
fn value(text: &str, values: &Value) -> Result<Value, String> {
    let spec = json!({"values": {}, "volumes": [{"name": "data", "size": "1Gi", "storage": "fast"}]});
    rendered(spec, &config(text), values)
        .map(|rendered| body(&rendered, "ConfigMap/x")["data"]["a"].clone())
        .map_err(|error| error.to_string())
}

#[test]
fn equal_input_gives_equal_output_and_digest() {
    for version in given::examples() {
        let class = Class::parse(&version).unwrap();
        let tenant = given::tenant(&class, &json!({}));
        let (a, b) = (render(&class, &tenant, &given::site()).unwrap(), render(&class, &tenant, &given::site()).unwrap());
        assert_eq!(a, b);
        let mut other = tenant.clone();
        other.hostnames.push("www.acme.example".to_owned());
        let changes = !a.parts.values().flatten().all(|manifest| manifest.id.kind != "Ingress");
        assert_eq!(render(&class, &other, &given::site()).unwrap().digest != a.digest, changes, "{}", class.name);
        assert_eq!(Class::parse(&version).unwrap().digest, class.digest);
    }
}

#[test]
fn a_tenant_has_kinds_of_its_cluster_and_of_its_class_and_no_others() {
    for version in given::examples() {
        let class = Class::parse(&version).unwrap();
        for entry in [given::site().entry, Entry::Gateway { name: "public".to_owned(), namespace: "gateways".to_owned() }] {
            let site = Site { entry, ..given::site() };
            let rendered = render(&class, &given::tenant(&class, &json!({})), &site).unwrap();
            for id in rendered.parts.values().flatten().map(|manifest| &manifest.id) {
                let of_cluster = site.kinds().contains(&(&id.api_version, &id.kind));
                assert!(of_cluster || class.kinds().contains(&(id.api_version.clone(), id.kind.clone())), "{}: {id}", class.name);
            }
        }
    }
}

#[test]
fn every_class_of_the_examples_passes_its_checks() {
    for version in given::examples() {
        assert_eq!(check(&Class::parse(&version).unwrap()), [], "{}", version.name);
    }
}

#[test]
fn an_expression_that_stands_alone_keeps_its_type() {
    let values = json!({"n": 4, "flag": true, "list": [1, "a"], "text": "4", "nothing": null, "map": {"k": 1}});
    for (text, expected) in [
        ("{{ values.n }}", json!(4)),
        ("{{ values.flag }}", json!(true)),
        ("{{ values.list }}", json!([1, "a"])),
        ("{{ values.map }}", json!({"k": 1})),
        ("{{ values.text }}", json!("4")),
        ("{{ values.nothing }}", json!(null)),
        ("n={{ values.n }}", json!("n=4")),
        (" {{ values.n }}", json!(" 4")),
        ("{{ values.n }}{{ values.text }}", json!("44")),
        ("{{ values.n | string }}", json!("4")),
        ("{{ values.n // 2 + 1 }}", json!(3)),
        ("{{ values.n | times(3) }}", json!(12)),
        ("{{ 'big' if values.n > 3 else 'small' }}", json!("big")),
        ("{{ values.absent | default('none') }}", json!("none")),
        ("{{ values.list | join('-') }}", json!("1-a")),
        ("{{ values.map | tojson }}", json!("{\"k\":1}")),
        ("{{ '}}' }} {{ \"{{\" }}", json!("}} {{")),
        ("{{ tenant.name }}/{{ tenant.uid }}/{{ tenant.owner }}/{{ tenant.epoch }}", json!("acme/0000000000000007/acme-gmbh/1.42")),
        ("{{ hostnames[0] }} {{ volumes.data }} {{ cluster }} {{ region }}", json!("shop.acme.example data eu-1 eu-central")),
        ("{{ namespace }}", json!("acme-0000000000000007")),
        ("${#array[@]} {# no comment #}", json!("${#array[@]} {# no comment #}")),
    ] {
        assert_eq!(value(text, &values), Ok(expected), "{text}");
    }
}

#[test]
fn values_are_never_taken_for_expressions_or_yaml() {
    let values = json!({"evil": "{{ tenant.uid }}", "yaml": "x\nkind: Secret"});
    assert_eq!(value("{{ values.evil }}", &values), Ok(json!("{{ tenant.uid }}")));
    assert_eq!(value("a {{ values.yaml }}", &values), Ok(json!("a x\nkind: Secret")));
}

#[test]
fn what_is_undefined_is_an_error_that_names_its_place() {
    let error = value("{{ values.absent }}", &json!({})).unwrap_err();
    assert_eq!(error, "shop.yaml: ConfigMap/x: data.a: {{ values.absent }}: is not defined");
    let error = value("{{ values.a.b }}", &json!({})).unwrap_err();
    assert_eq!(error, "shop.yaml: ConfigMap/x: data.a: {{ values.a.b }}: is not defined, or is a part of something that is not");
}

#[test]
fn work_is_bounded() {
    let long = "x".repeat(15_000);
    let values = json!({"long": long});
    for (text, problem) in [
        ("{{ values.long | replace('x', values.long) }}", "the text would have more than 65536 bytes"),
        ("{{ [values.long, values.long, values.long, values.long, values.long] | join }}", "the text would have more than 65536 bytes"),
        ("{{ values.long | tojson | tojson | tojson | replace('x', 'xxxxx') }}", "the text would have more than 65536 bytes"),
    ] {
        let error = value(text, &values).unwrap_err();
        assert!(error.ends_with(problem), "{error}");
    }
    let many = format!("[{}]", "\"{{ values.long }}\", ".repeat(1200));
    let manifests = format!("{{apiVersion: v1, kind: ConfigMap, metadata: {{name: x}}, data: {many}}}");
    assert_eq!(rendered(json!({"values": {}}), &manifests, &values).unwrap_err(), RenderError::TooLarge { most: 16 << 20 });
}

#[test]
fn values_cannot_bring_in_what_the_class_may_not_say() {
    let manifests = workload("StatefulSet", "").replace("metadata: {name: web}", "metadata: {name: web, labels: \"{{ values.labels }}\"}");
    let values = json!({"labels": {"roadstead.dev/tenant": "other"}});
    let error = rendered(json!({"values": {}}), &manifests, &values).unwrap_err();
    assert_eq!(error.to_string(), "shop.yaml: StatefulSet/web: metadata.labels: roadstead.dev/tenant is not a class's to say");
}

#[test]
fn values_that_the_class_refuses_are_not_rendered() {
    let spec = json!({"values": {"additionalProperties": false}});
    let error = rendered(spec, &config("a"), &json!({"web": 1})).unwrap_err();
    assert_eq!(error.to_string(), "spec.values.web: is not allowed");
}

#[test]
fn a_namespace_has_as_much_of_the_name_as_fits_and_the_uid() {
    let id = TenantId::new(Incarnation(2), 10);
    let long = Name::new(&"a".repeat(63)).unwrap();
    assert_eq!(namespace_of(&Name::new("acme").unwrap(), id), "acme-000200000000000a");
    assert_eq!(namespace_of(&long, id).len(), 63);
    assert!(Name::new(&namespace_of(&long, id)).is_ok());
}

#[test]
fn an_owner_that_cannot_be_a_label_is_left_out() {
    let class = class_of(json!({}), "").unwrap();
    let mut tenant = given::tenant(&class, &json!({}));
    tenant.owner = Owner::new("team:shops@example.com").unwrap();
    let rendered = render(&class, &tenant, &given::site()).unwrap();
    assert_eq!(rendered.namespace.body["metadata"]["labels"].get("roadstead.dev/owner"), None);
}

#[test]
fn storage_that_a_cluster_does_not_map_is_named() {
    let spec = |storage: &str| json!({"volumes": [{"name": "data", "size": "1Gi", "storage": storage}]});
    let error = rendered(spec("exotic"), "", &json!({})).unwrap_err();
    assert_eq!(error.to_string(), "volume data: cluster eu-1 maps no StorageClass to storage `exotic`");
    let default = rendered(spec(""), "", &json!({})).unwrap();
    assert_eq!(body(&default, "PersistentVolumeClaim/data")["spec"].get("storageClassName"), None);
}

#[test]
fn pods_get_the_volumes_that_they_mount_the_account_and_the_label() {
    let spec =
        json!({"volumes": [{"name": "data", "size": "1Gi", "storage": "fast"}, {"name": "unused", "size": "1Gi", "storage": "fast"}]});
    let manifests = workload("StatefulSet", "").replace("resources:", "volumeMounts: [{name: data, mountPath: /data}]\n        resources:");
    let rendered = rendered(spec, &manifests, &json!({})).unwrap();
    let template = &body(&rendered, "StatefulSet/web")["spec"]["template"];
    assert_eq!(template["spec"]["volumes"], json!([{"name": "data", "persistentVolumeClaim": {"claimName": "data"}}]));
    assert_eq!(template["spec"]["serviceAccountName"], json!("tenant"));
    assert_eq!(template["metadata"]["labels"]["roadstead.dev/tenant"], json!("0000000000000007"));
}

#[test]
fn budgets_are_made_from_two_replicas_up() {
    let kinds = |fields: &str| {
        let rendered = rendered(json!({}), &workload("Deployment", fields), &json!({})).unwrap();
        rendered.manifests().filter(|manifest| manifest.id.kind == "PodDisruptionBudget").count()
    };
    assert_eq!((kinds(""), kinds("replicas: 1"), kinds("replicas: 2")), (0, 0, 1));
}

#[test]
fn workloads_of_one_name_have_a_budget_each() {
    let all =
        ["Deployment", "StatefulSet"].map(|kind| workload(kind, "replicas: \"{{ 4 / 2 }}\"").replace("app: web", &format!("app: {kind}")));
    let rendered = rendered(json!({}), &all.join("---\n"), &json!({})).unwrap();
    for (budget, kind) in [("PodDisruptionBudget/web", "StatefulSet"), ("PodDisruptionBudget/deployment-web", "Deployment")] {
        assert_eq!(body(&rendered, budget)["spec"]["selector"], json!({"matchLabels": {"app": kind}}), "{budget}");
    }
    let ids: Vec<String> = rendered.manifests().map(|manifest| format!("{:?}", manifest.id)).collect();
    assert_eq!(ids.iter().collect::<std::collections::BTreeSet<_>>().len(), ids.len());
}

#[test]
fn a_quota_has_room_for_as_many_services_that_nodes_open_ports_for_as_the_class_brings() {
    let hard = |service: &str| {
        let service = format!("{{apiVersion: v1, kind: Service, metadata: {{name: x}}, spec: {service}}}");
        let rendered = rendered(json!({"values": {}}), &service, &json!({"type": "NodePort"})).unwrap();
        let hard = &body(&rendered, "ResourceQuota/tenant")["spec"]["hard"];
        ["services.nodeports", "services.loadbalancers"].map(|counted| hard[counted].as_str().unwrap().to_owned())
    };
    assert_eq!(hard("{ports: [{port: 80}]}"), ["0", "0"]);
    // And for as many again: what has another name is made before what had the old one goes.
    assert_eq!(hard("{type: \"{{ values.type }}\", ports: [{port: 80}, {port: 443}]}"), ["4", "0"]);
    assert_eq!(hard("{type: LoadBalancer, ports: [{port: 80}]}"), ["2", "2"]);
    assert_eq!(hard("{type: LoadBalancer, allocateLoadBalancerNodePorts: false, ports: [{port: 80}]}"), ["0", "2"]);
}

#[test]
fn an_autoscaler_has_the_replicas_to_itself() {
    let scaler = "---\n{apiVersion: autoscaling/v2, kind: HorizontalPodAutoscaler, metadata: {name: web}, spec: {minReplicas: 2, maxReplicas: 5, \
                  scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: web}}}";
    let rendered = rendered(json!({}), &(workload("Deployment", "") + scaler), &json!({})).unwrap();
    let ceded: Vec<String> = rendered.ceded.iter().map(|ceded| format!("{}:{}", ceded.object, ceded.path.join("."))).collect();
    assert_eq!(ceded, ["Deployment/web:spec.replicas"]);
    assert_eq!(body(&rendered, "PodDisruptionBudget/web")["spec"]["maxUnavailable"], json!(1));
}

#[test]
fn what_a_cluster_denies_is_taken_out_of_the_egress() {
    let spec = |cidr: &str| json!({"network": {"egress": [{"cidr": cidr}]}});
    let egress =
        |cidr: &str| rendered(spec(cidr), "", &json!({})).map(|rendered| body(&rendered, "NetworkPolicy/egress")["spec"]["egress"].clone());
    assert_eq!(
        egress("0.0.0.0/0").unwrap(),
        json!([{"to": [{"ipBlock": {"cidr": "0.0.0.0/0", "except": ["169.254.0.0/16", "168.63.129.16/32"]}}]}])
    );
    let except = ["fd00:ec2::254/128", "fd20:ce::254/128"];
    assert_eq!(egress("::/0").unwrap(), json!([{"to": [{"ipBlock": {"cidr": "::/0", "except": except}}]}]));
    assert_eq!(egress("10.0.0.0/8").unwrap(), json!([{"to": [{"ipBlock": {"cidr": "10.0.0.0/8"}}]}]));
    let error = egress("169.254.169.254/32").unwrap_err().to_string();
    assert_eq!(error, "egress to 169.254.169.254/32 is denied to every tenant of cluster eu-1, which denies 169.254.0.0/16");
}

#[test]
fn names_are_asked_for_where_the_cluster_says() {
    let class = class_of(json!({}), "").unwrap();
    let dns = |addresses: &[&str]| {
        let site = Site { dns_addresses: addresses.iter().map(|&address| address.to_owned()).collect(), ..given::site() };
        render(&class, &given::tenant(&class, &json!({})), &site)
            .map(|rendered| body(&rendered, "NetworkPolicy/dns")["spec"]["egress"].clone())
    };
    let namespace = json!({"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "kube-system"}}});
    assert_eq!(dns(&[]).unwrap()[0]["to"], json!([namespace]));
    let told = dns(&["169.254.20.10/32", "fd00::a/128"]).unwrap();
    let block = |cidr: &str| json!({"ipBlock": {"cidr": cidr}});
    assert_eq!(told[0]["to"], json!([namespace, block("169.254.20.10/32"), block("fd00::a/128")]));
    assert_eq!(
        told[0]["ports"],
        json!([{"protocol": "UDP", "port": 53}, {"protocol": "TCP", "port": 53}]),
        "and nothing else is open there"
    );
    let error = dns(&["169.254.20.10"]).unwrap_err().to_string();
    assert_eq!(error, "cluster eu-1: DNS address \"169.254.20.10\": must be a block of addresses, as in 10.0.0.0/8 or fd00::/8");
}

#[test]
fn hostnames_go_the_way_that_the_cluster_has() {
    let service =
        "{apiVersion: v1, kind: Service, metadata: {name: web}, spec: {selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}}";
    let class = class_of(json!({"network": {"expose": {"service": "web", "port": 80}}}), service).unwrap();
    let tenant = given::tenant(&class, &json!({}));
    let site = |entry| Site { entry, ..given::site() };
    let gateway = render(&class, &tenant, &site(Entry::Gateway { name: "public".to_owned(), namespace: "gateways".to_owned() })).unwrap();
    assert_eq!(body(&gateway, "HTTPRoute/tenant")["spec"]["hostnames"], json!(["shop.acme.example"]));
    let ingress = &body(&gateway, "NetworkPolicy/entry")["spec"]["ingress"][0];
    assert_eq!(ingress["ports"], json!([{"protocol": "TCP", "port": 8080}]));
    assert_eq!(ingress["from"][0]["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"], json!("gateways"));
    // No route may have more than 16.
    let names: Vec<String> = (0..20).map(|number| format!("shop-{number}.acme.example")).collect();
    let many = roadstead_core::intent::TenantIntent { hostnames: names.clone(), ..tenant.clone() };
    let many = render(&class, &many, &site(Entry::Gateway { name: "public".to_owned(), namespace: "gateways".to_owned() })).unwrap();
    let routed = ["HTTPRoute/tenant", "HTTPRoute/tenant-2"].map(|route| body(&many, route)["spec"]["hostnames"].clone());
    assert_eq!(routed, [json!(names[..16]), json!(names[16..])]);
    let none = render(&class, &tenant, &site(Entry::None)).unwrap();
    let names: Vec<String> = none.manifests().map(|manifest| manifest.id.to_string()).collect();
    assert!(!names.iter().any(|name| name == "NetworkPolicy/entry" || name.starts_with("Ingress/")), "{names:?}");
}

#[test]
fn octal_modes_are_read_as_kubectl_reads_them() {
    let rendered =
        rendered(json!({}), "{apiVersion: v1, kind: ConfigMap, metadata: {name: x}, mode: 0644, word: yes}", &json!({})).unwrap();
    assert_eq!(body(&rendered, "ConfigMap/x")["mode"], json!(0o644));
    assert_eq!(body(&rendered, "ConfigMap/x")["word"], json!("yes"));
}
