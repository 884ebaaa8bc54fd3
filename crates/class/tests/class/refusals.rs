//! What is refused, each with its message.

use roadstead_class::{Class, Finding, check, check_change};
use serde_json::{Value, json};

use crate::given::{self, class_of, workload};

/// Everything that a class is refused for, when it is read or when it is tried.
pub(crate) fn problems(spec: Value, manifests: &str) -> Vec<String> {
    let found = class_of(spec, manifests).map_or_else(|found| found, |class| check(&class));
    found.iter().map(ToString::to_string).collect()
}

/// A class with room for the workloads of these tests.
pub(crate) fn roomy() -> Value {
    json!({"requests": {"cpu": 10, "memory": "10Gi", "pods": 20, "largestPod": {"cpu": 2, "memory": "2Gi"}}})
}

pub(crate) fn with(field: &str, value: Value) -> Value {
    let mut spec = roomy();
    spec[field] = value;
    spec
}

#[track_caller]
pub(crate) fn refused(spec: Value, manifests: &str, message: &str) {
    assert_eq!(problems(spec, manifests), [message]);
}

#[test]
fn a_sound_class_is_not_refused() {
    assert_eq!(problems(roomy(), &workload("Deployment", "replicas: 3")), Vec::<String>::new());
    assert_eq!(problems(json!({"requests": {}}), ""), Vec::<String>::new());
}

#[test]
fn kinds_that_no_class_may_bring_are_refused_with_what_to_do_instead() {
    let found: Vec<String> = [
        ("v1", "Namespace"),
        ("v1", "Secret"),
        ("v1", "PersistentVolumeClaim"),
        ("v1", "Pod"),
        ("apps/v1", "DaemonSet"),
        ("networking.k8s.io/v1", "NetworkPolicy"),
        ("networking.k8s.io/v1", "Ingress"),
        ("gateway.networking.k8s.io/v1", "HTTPRoute"),
        ("rbac.authorization.k8s.io/v1", "ClusterRole"),
        ("rbac.authorization.k8s.io/v1", "ClusterRoleBinding"),
        ("apiextensions.k8s.io/v1", "CustomResourceDefinition"),
        ("admissionregistration.k8s.io/v1", "ValidatingWebhookConfiguration"),
        ("extensions/v1beta1", "Deployment"),
        ("v1", "List"),
    ]
    .into_iter()
    .flat_map(|(api, kind)| problems(roomy(), &format!("{{apiVersion: {api}, kind: {kind}, metadata: {{name: x}}}}")))
    .collect();
    insta::assert_snapshot!(found.join("\n"));
}

#[test]
fn kinds_of_other_groups_are_allowed_and_told() {
    let class = class_of(roomy(), "{apiVersion: monitoring.example.com/v1, kind: Probe, metadata: {name: x}}").unwrap();
    assert_eq!(class.kinds().into_iter().collect::<Vec<_>>(), [("monitoring.example.com/v1".to_owned(), "Probe".to_owned())]);
    assert!(check(&class).is_empty());
}

#[test]
fn what_is_not_a_classs_to_say_is_refused() {
    let config = |metadata: &str| format!("{{apiVersion: v1, kind: ConfigMap, metadata: {metadata}}}");
    refused(roomy(), &config("{}"), "spec.manifests: shop.yaml: ConfigMap/?: needs a metadata.name");
    refused(
        roomy(),
        &config("{name: x, namespace: kube-system}"),
        "spec.manifests: shop.yaml: ConfigMap/x: metadata.namespace is not a class's to say: it is set to the tenant's",
    );
    refused(
        roomy(),
        &config("{name: x, finalizers: [a/b]}"),
        "spec.manifests: shop.yaml: ConfigMap/x: metadata.finalizers is not a class's to say",
    );
    refused(
        roomy(),
        &config("{name: x, labels: {roadstead.dev/tenant: other}}"),
        "spec.manifests: shop.yaml: ConfigMap/x: metadata.labels: roadstead.dev/tenant is not a class's to say",
    );
    refused(
        roomy(),
        "{apiVersion: v1, kind: ServiceAccount, metadata: {name: tenant}}",
        "spec.manifests: shop.yaml: ServiceAccount/tenant: the account tenant is made for every tenant",
    );
}

#[test]
fn roles_beyond_the_tenants_own_are_refused() {
    let role = |rules: &str| format!("{{apiVersion: rbac.authorization.k8s.io/v1, kind: Role, metadata: {{name: r}}, rules: {rules}}}");
    assert!(problems(roomy(), &role("[{apiGroups: [''], resources: [pods], verbs: [get, list]}]")).is_empty());
    assert!(problems(roomy(), &role("[{apiGroups: [coordination.k8s.io], resources: [leases], verbs: [update]}]")).is_empty());
    refused(
        roomy(),
        &role("[{apiGroups: [''], resources: [secrets], verbs: [get]}]"),
        "spec.manifests: shop.yaml: Role/r: rules[0]: get on secrets of the core group is more than a tenant may have",
    );
    refused(
        roomy(),
        &role("[{apiGroups: ['*'], resources: ['*'], verbs: ['*']}]"),
        "spec.manifests: shop.yaml: Role/r: rules[0]: * on * of * is more than a tenant may have",
    );
    let binding = |role: &str, subject: &str| {
        format!(
            "{{apiVersion: rbac.authorization.k8s.io/v1, kind: RoleBinding, metadata: {{name: b}}, \
             roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: {role}, name: r}}, subjects: [{subject}]}}"
        )
    };
    let bound = format!("{}\n---\n{}", role("[]"), binding("Role", "{kind: ServiceAccount, name: tenant}"));
    assert_eq!(problems(roomy(), &bound), Vec::<String>::new());
    refused(
        roomy(),
        &binding("ClusterRole", "{kind: ServiceAccount, name: tenant}"),
        "spec.manifests: shop.yaml: RoleBinding/b: roleRef: ClusterRole is not a Role of the tenant's own",
    );
    refused(
        roomy(),
        &binding("Role", "{kind: ServiceAccount, name: x, namespace: kube-system}"),
        "spec.manifests: shop.yaml: RoleBinding/b: subjects[0] is not a ServiceAccount of the tenant's own (its namespace is set)",
    );
}

#[test]
fn volumes_beside_the_declared_ones_are_refused() {
    refused(
        roomy(),
        &workload("StatefulSet", "volumeClaimTemplates: []"),
        "spec.manifests: shop.yaml: StatefulSet/web: spec.volumeClaimTemplates: declare volumes under spec.volumes of the class, so that \
         their data moves with the tenant",
    );
    let pod = |fields: &str| workload("Deployment", "").replace("containers:", &format!("{fields}\n      containers:"));
    refused(
        roomy(),
        &pod("volumes: [{name: v, ephemeral: {volumeClaimTemplate: {}}}]"),
        "spec.manifests: shop.yaml: Deployment/web: volume v would make a claim of its own: declare it under spec.volumes of the class, or \
         use emptyDir",
    );
    refused(
        roomy(),
        &pod("volumes: [{name: v, persistentVolumeClaim: {claimName: other}}]"),
        "spec.manifests: Deployment/web: claims volume other, which is not among spec.volumes",
    );
    refused(
        roomy(),
        &workload("Deployment", "").replace("resources:", "volumeMounts: [{name: data, mountPath: /data}]\n        resources:"),
        "spec.manifests: Deployment/web: container web mounts data, which is neither among spec.volumes nor the pod's own",
    );
}

#[test]
fn expressions_are_refused_with_their_place() {
    let replicas = |text: &str| problems(roomy(), &workload("Deployment", &format!("replicas: {text:?}")));
    let found: Vec<String> = [
        "{% if values.x %}1{% endif %}",
        "{{ values.x }}",
        "{{ values.x.y }}",
        "{{ 1 + }}",
        "{{ 1",
        "{{ 'a' * 100000000 }}",
        "{{- 1 -}}",
        "{{ range(10) }}",
        "{{ 1 | slugify }}",
        "a{{ [1] }}",
        "{{ 'a' | replace('', 'b' | replace('b', 'c')) | int }}",
    ]
    .into_iter()
    .flat_map(|text| {
        let found = replicas(text);
        assert!(!found.is_empty(), "{text}");
        found
    })
    .collect();
    insta::assert_snapshot!(found.join("\n"));
}

#[test]
fn more_than_the_requests_say_is_refused() {
    let mut spec = roomy();
    spec["values"] = json!({"properties": {"web": {"type": "integer", "default": 1, "maximum": 4}}});
    spec["requests"] = json!({"cpu": "400m", "memory": "1Gi", "pods": 3, "largestPod": {"cpu": "100m", "memory": "64Mi"}});
    let found = problems(spec, &workload("Deployment", "replicas: \"{{ values.web }}\""));
    assert_eq!(
        found,
        [
            "spec.requests.cpu: is 400m, but with the largest values the manifests ask for 500m, surge of updates included",
            "spec.requests.pods: is 3, but with the largest values the manifests ask for 5, surge of updates included",
            "spec.requests.largestPod.memory: is 64Mi, but with its defaults one pod asks for 128Mi, surge of updates included",
        ]
    );
}

#[test]
fn pods_that_do_not_say_what_they_request_are_refused() {
    let found = problems(roomy(), &workload("Deployment", "").replace("{requests: {cpu: 100m, memory: 128Mi}}", "{}"));
    assert_eq!(
        found,
        [
            "spec.manifests: Deployment/web: container web does not say how much cpu it requests",
            "spec.manifests: Deployment/web: container web does not say how much memory it requests",
        ]
    );
    refused(
        roomy(),
        &workload("Deployment", "").replace("cpu: 100m", "cpu: 1 core"),
        "spec.manifests: Deployment/web: container web requests \"1 core\" of cpu, which is no quantity",
    );
}

#[test]
fn pods_that_their_namespace_would_not_admit_are_refused() {
    let careless = workload("Deployment", "")
        .replace("securityContext: {runAsNonRoot: true, seccompProfile: {type: RuntimeDefault}}", "hostNetwork: true")
        .replace("securityContext: {allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}}", "securityContext: {privileged: true}");
    let of = |level: &str| problems(with("podSecurity", json!(level)), &careless);
    insta::assert_snapshot!(of("restricted").join("\n"));
    assert_eq!(
        of("baseline"),
        [
            "spec.manifests: Deployment/web: hostNetwork is not admitted (podSecurity: baseline)",
            "spec.manifests: Deployment/web: container web: privileged is not admitted (podSecurity: baseline)",
        ]
    );
    assert_eq!(of("privileged"), Vec::<String>::new());
    assert_eq!(problems(roomy(), &careless), of("restricted"), "a class that names no level gets the hardened one");
}

#[test]
fn runs_that_pile_up_are_refused() {
    let job = "{apiVersion: batch/v1, kind: CronJob, metadata: {name: web}, spec: {jobTemplate: {spec: {template: {spec: \
               {restartPolicy: Never, containers: [{name: web, resources: {limits: {cpu: 1, memory: 1Gi}}}]}}}}}}";
    let roomy = || with("podSecurity", json!("privileged"));
    refused(
        roomy(),
        job,
        "spec.manifests: CronJob/web: its runs may pile up beyond what is requested: say concurrencyPolicy Forbid or Replace",
    );
    assert!(problems(roomy(), &job.replace("jobTemplate:", "concurrencyPolicy: Forbid, jobTemplate:")).is_empty());
}

#[test]
fn what_the_class_names_must_be_there() {
    let manifests = workload("Deployment", "");
    refused(with("cede", json!(["Deployment/api:spec.replicas"])), &manifests, "spec.cede[0]: Deployment/api is not among the manifests");
    refused(
        with("ready", json!({"also": ["Job/migrate=Complete"]})),
        &manifests,
        "spec.ready.also[0]: Job/migrate is not among the manifests",
    );
    refused(
        with("quiesce", json!({"steps": [{"scale": "StatefulSet/db"}]})),
        &manifests,
        "spec.quiesce.steps[0]: StatefulSet/db is not among the manifests",
    );
    refused(
        with("network", json!({"expose": {"service": "web", "port": 80}})),
        &manifests,
        "spec.network.expose: network.expose: no Service of the manifests is named web with a port 80 and a selector",
    );
    refused(
        roomy(),
        &manifests.replace("resources:", "envFrom: [{secretRef: {name: db}}]\n        resources:"),
        "spec.manifests: Deployment/web: container web needs secret db, which is not among spec.secrets",
    );
}

#[test]
fn sections_that_cannot_be_read_are_refused_with_their_field() {
    let found: Vec<String> = [
        ("secrets", json!([{"name": "db"}])),
        ("secrets", json!([{"name": "db", "copy": "x", "generate": {"password": 32}}])),
        ("secrets", json!([{"name": "db", "generate": {"pass word": 4}}])),
        ("secrets", json!([{"name": "Db", "copy": "x"}])),
        ("secrets", json!([{"name": "db", "copy": "x"}, {"name": "db", "copy": "y"}])),
        ("secrets", json!([{"name": "db", "copy": "x", "onChange": "explode"}])),
        ("network", json!({"egress": [{"cidr": "10.0.0.1/8"}]})),
        ("network", json!({"egress": [{"cidr": "10.0.0.0/8", "ports": [70000]}]})),
        ("network", json!({"egress": [{"cidr": "169.254.169.254/32"}]})),
        ("network", json!({"ingress": []})),
        ("podSecurity", json!("none")),
        ("cede", json!(["Deployment/web"])),
        ("cede", json!(["Deployment/web:metadata.labels"])),
        ("ready", json!({"within": "5"})),
        ("ready", json!({"also": ["migrate"]})),
        ("quiesce", json!({"steps": [{"scale": "Job/x"}]})),
        ("quiesce", json!({"steps": [{"exec": {"in": "Deployment/web", "run": []}}]})),
        ("quiesce", json!({"steps": [{"wait": "5s"}]})),
        ("local", json!({"db": {"run": []}})),
        ("local", json!({"db": {"run": ["{{ values.x }}"]}})),
        ("local", json!({"db": {"run": ["{% raw %}"]}})),
    ]
    .into_iter()
    .flat_map(|(field, value)| {
        let found = problems(with(field, value.clone()), &workload("Deployment", ""));
        assert!(!found.is_empty(), "{field}: {value}");
        found
    })
    .collect();
    insta::assert_snapshot!(found.join("\n"));
}

#[test]
fn values_that_cannot_be_tried_are_refused() {
    refused(
        with("values", json!({"required": ["plan"], "properties": {"plan": {"type": "string"}}})),
        "",
        "spec.values: asks for values that have no default, so that nothing can be tried: give `examples` of the whole",
    );
    refused(
        with("values", json!({"properties": {"web": {"type": "integer", "default": "two"}}})),
        "",
        "spec.values: the default of spec.values.web is \"two\", must be of type integer",
    );
    refused(
        with("values", json!({"examples": [{"web": 9}], "properties": {"web": {"maximum": 8}}})),
        "",
        "spec.values: examples[0]: spec.values.web is 9, must be at most 8",
    );
}

#[test]
fn yaml_beyond_the_limits_is_refused() {
    let deep = format!("{{apiVersion: v1, kind: ConfigMap, metadata: {{name: x}}, data: {}1{}}}", "[".repeat(60), "]".repeat(60));
    let bomb = "a: &a [x,x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b,*b]\n\
                d: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c,*c]\ne: [*d,*d,*d,*d,*d,*d,*d,*d,*d,*d,*d,*d,*d]";
    let many = "{apiVersion: v1, kind: ConfigMap, metadata: {name: x}}\n---\n".repeat(129);
    for manifests in [deep.as_str(), bomb, many.as_str(), "a: [", "a: 1\na: 2", "just text", "[]"] {
        let found = problems(roomy(), manifests);
        assert!(!found.is_empty() && found[0].starts_with("spec.manifests: "), "{manifests}: {found:?}");
    }
}

#[test]
fn an_expression_without_quotes_is_told_to_be_put_into_them() {
    for (replicas, shown) in [
        ("replicas: {{ values.web }}", "{{ values.web }}"),
        ("replicas: {{ values.web }}-more", "{{ values.web }}"),
        ("replicas: [{{ values.web | default(1) }}]", "{{ values.web | default(1) }}"),
    ] {
        let manifest = format!("apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: web}}\nspec:\n  {replicas}\n");
        let found = problems(roomy(), &manifest);
        assert_eq!(found.len(), 1, "{found:?}");
        let hint = format!("; put the expression of line 5 into quotes, as in \"{shown}\"");
        assert!(found[0].contains("is no YAML: ") && found[0].ends_with(&hint), "{found:?}");
    }
    let found = problems(roomy(), "metadata: {name: \"{{ values.web }}\"}\na: [");
    assert!(!found[0].contains("quotes"), "what is in quotes already is not what is wrong: {found:?}");
}

#[test]
fn templates_beyond_the_limits_are_refused() {
    let parsed = |template: String| {
        let mut version = given::version("shop", &roomy(), Vec::new());
        version.template = template;
        Class::parse(&version).map_or_else(|found| found.iter().map(ToString::to_string).collect(), |_| Vec::new())
    };
    assert_eq!(parsed(String::new()), Vec::<String>::new());
    assert_eq!(parsed(" ".repeat((1 << 20) + 1)), ["spec.manifests: the template has 1048577 bytes, at most 1048576 are allowed"]);
    assert_eq!(
        parsed("[]".to_owned()),
        ["spec: the template is no JSON object: invalid type: sequence, expected a map at line 1 column 0"]
    );
    assert_eq!(parsed(json!({"sidecars": []}).to_string()), ["spec.sidecars: is not known here"]);
    let many = json!({"cede": vec!["Deployment/web:spec.replicas"; 65]});
    assert_eq!(parsed(many.to_string()), ["spec.cede: has 65 entries, at most 64 are allowed"]);
}

#[test]
fn objects_of_one_name_are_refused() {
    let twice = "{apiVersion: v1, kind: ConfigMap, metadata: {name: x}}\n---\n{apiVersion: v1, kind: ConfigMap, metadata: {name: x}}";
    refused(roomy(), twice, "spec.manifests: shop.yaml: ConfigMap/x: is there twice");
    refused(
        roomy(),
        "{apiVersion: v1, kind: ConfigMap, metadata: {name: Not_a_name}}",
        "spec.manifests: shop.yaml: ConfigMap/Not_a_name: its name is none: use a-z, 0-9, '-' and '.'",
    );
}

fn changed(before: Class, after: Class) -> Vec<String> {
    check_change(&before, &after).iter().map(|Finding { field, problem }| format!("{field}: {problem}")).collect()
}

#[test]
fn changes_that_no_cluster_allows_are_refused() {
    let class = |manifests: &str| class_of(roomy(), manifests).unwrap();
    let before = workload("StatefulSet", "serviceName: db");
    assert_eq!(changed(class(&before), class(&before.replace("replicas: 1", "replicas: 2"))), Vec::<String>::new());
    assert_eq!(
        changed(class(&before), class(&workload("StatefulSet", "serviceName: db\n  podManagementPolicy: OrderedReady"))),
        Vec::<String>::new()
    );
    assert_eq!(
        changed(class(&before), class(&before.replace("serviceName: db", "serviceName: sql"))),
        ["spec.manifests: StatefulSet/web: spec.serviceName would change, which no cluster allows: give the object another name"]
    );
    assert_eq!(
        changed(class(&before), class(&before.replace("app: web", "app: shop"))),
        ["spec.manifests: StatefulSet/web: spec.selector would change, which no cluster allows: give the object another name"]
    );
    let job = workload("Job", "");
    assert_eq!(
        changed(class(&job), class(&job.replace("web:1", "web:2"))),
        ["spec.manifests: Job/web: spec.template would change, which no cluster allows: give the object another name"]
    );
    let config =
        |value: &str| class(&format!("{{apiVersion: v1, kind: ConfigMap, metadata: {{name: x}}, immutable: true, data: {{a: {value}}}}}"));
    assert_eq!(
        changed(config("x"), config("y")),
        ["spec.manifests: ConfigMap/x: data would change, which no cluster allows: give the object another name"]
    );
}

#[test]
fn a_change_is_tried_with_every_example_and_with_what_both_versions_make_of_it() {
    let job = workload("Job", "");
    let class =
        |image: &str, schema: &Value| class_of(with("values", schema.clone()), &job.replace("registry.example/web:1", image)).unwrap();
    let by_size = |large: &str| format!("\"registry.example/web:{{{{ '{large}' if values.size == 'large' else '1' }}}}\"");
    let schema = |default: &str| {
        let size = json!({"type": "string", "enum": ["small", "large"], "default": default});
        json!({"properties": {"size": size}, "examples": [{"size": "large"}]})
    };
    let told = ["spec.manifests: Job/web: spec.template would change, which no cluster allows: give the object another name"];
    let small = schema("small");
    assert_eq!(changed(class(&by_size("2"), &small), class(&by_size("2"), &small)), Vec::<String>::new());
    assert_eq!(changed(class(&by_size("2"), &small), class(&by_size("3"), &small)), told, "of the example alone, and told once");
    assert_eq!(changed(class(&by_size("2"), &small), class(&by_size("2"), &schema("large"))), told, "of who says nothing");
}

#[test]
fn volumes_keep_their_storage_and_never_shrink() {
    let class = |volumes: Value| class_of(with("volumes", volumes), "").unwrap();
    let before = || class(json!([{"name": "data", "size": "10Gi", "storage": "fast"}]));
    assert_eq!(changed(before(), class(json!([]))), Vec::<String>::new());
    let found = changed(before(), class(json!([{"name": "data", "size": "5Gi", "storage": "bulk"}])));
    assert_eq!(
        found,
        [
            "spec.volumes[0].storage: was `fast` and would be `bulk`: a claim keeps its storage for good, so give the volume another name",
            "spec.volumes[0].size: was 10Gi and would be 5Gi: volumes never shrink",
        ]
    );
    assert_eq!(
        changed(before(), class(json!([{"name": "data", "size": "20Gi", "storage": "fast"}]))),
        ["spec.volumes[0].size: would be larger, and the volume cannot grow: `grow` is not set"]
    );
}
