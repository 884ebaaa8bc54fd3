//! A real cluster joins: its API server takes the manifests, and lets the agent's account do what tenants need and nothing else.

use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use kube::Client;
use roadstead_tests::process::until;
use roadstead_tests::testbed::{ControlPlane, Options};
use serde_json::{Value, json};
use tonic::codegen::http::{Method, Request};

/// How long the API server may take to take up a policy, or a controller to do one thing.
const SOON: Duration = Duration::from_secs(60);
const SYSTEM: &str = "roadstead-system";
const AGENT: &str = "roadstead-agent";
const IDENTITY: &str = "roadstead-agent-identity";
/// A tenant's number and its namespace.
const TENANT: &str = "0000000000000001";
const HOME: &str = "acme-0000000000000001";
/// What the policy says of namespaces that are not tenants'.
const NO_TENANTS: &str = "This namespace is no tenant's";

/// A class that brings what few do: roles, an autoscaler, a kind of somebody else's, a command that is run before it is stopped.
const CLASS: &str = "\
apiVersion: roadstead.dev/v1
kind: Class
metadata: {name: rare}
spec:
  version: 1.0.0
  requests: {cpu: 1, memory: 1Gi, pods: 3, largestPod: {cpu: 1, memory: 1Gi}}
  podSecurity: baseline
  manifests: [rare/*.yaml]
  quiesce: {steps: [{exec: {in: Deployment/web, run: [checkpoint]}}]}
  retain: 1d
";
const MANIFESTS: &str = "\
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: seen}
rules: [{apiGroups: [\"\"], resources: [pods], verbs: [get, list, watch]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: seen}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: seen}
subjects: [{kind: ServiceAccount, name: tenant}]
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: web, image: web, resources: {requests: {cpu: 100m, memory: 64Mi}, limits: {memory: 64Mi}}}]}
---
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata: {name: web}
spec: {maxReplicas: 2, scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: web}}
---
apiVersion: db.example.com/v1
kind: Database
metadata: {name: main}
";

fn roadstead(arguments: &[&str]) -> Result<Output> {
    Command::new(roadstead_tests::group::binary()?).args(arguments).output().context("failed to run roadstead")
}

fn well(arguments: &[&str]) -> Result<String> {
    let output = roadstead(arguments)?;
    ensure!(output.status.success(), "roadstead {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?)
}

/// A cluster with a definition that a class uses, and a folder with that class and an authority.
struct Ready {
    plane: ControlPlane,
    folder: tempfile::TempDir,
    admin: Client,
}

impl Ready {
    async fn start() -> Result<Self> {
        let plane = ControlPlane::start(Options::default()).await?;
        let (folder, admin) = (tempfile::tempdir()?, plane.client().await?);
        std::fs::write(folder.path().join("class.yaml"), CLASS)?;
        std::fs::create_dir(folder.path().join("rare"))?;
        std::fs::write(folder.path().join("rare/all.yaml"), MANIFESTS)?;
        well(&["pki", "init", "--dir", &path(&folder.path().join("pki"))])?;
        let definition = json!({
            "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": "dbs.db.example.com"},
            "spec": {
                "group": "db.example.com", "scope": "Namespaced", "names": {"kind": "Database", "plural": "dbs"},
                "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {"type": "object"}}}],
            },
        });
        post(&admin, "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", &definition).await?;
        let databases = "/apis/db.example.com/v1/dbs";
        until("the definition is served", SOON, || async { Ok(send(&admin, Method::GET, databases, "", &Value::Null).await?) }).await?;
        Ok(Self { plane, folder, admin })
    }

    fn join(&self, more: &[&str]) -> Result<String> {
        let (class, pki) = (path(&self.folder.path().join("class.yaml")), path(&self.folder.path().join("pki")));
        let kubeconfig = path(self.plane.kubeconfig());
        let mut arguments = vec!["join", "eu-1", "--server", "r1.example.com:7420", "--ingress", "nginx", "-f", &class, "--pki", &pki];
        arguments.extend(["--apply", "--kubeconfig", &kubeconfig]);
        arguments.extend(more);
        well(&arguments)
    }

    /// What a person types who joins it once more without thinking: both outputs.
    fn join_again(&self, more: &[&str]) -> Result<String> {
        self.join_as("eu-1", &[], more)
    }

    /// The same as this cluster, in this environment.
    fn join_as(&self, cluster: &str, environment: &[(&str, &str)], more: &[&str]) -> Result<String> {
        let (kubeconfig, pki) = (path(self.plane.kubeconfig()), path(&self.folder.path().join("pki")));
        let arguments = [&["join", cluster, "--pki", &pki, "--apply", "--kubeconfig", &kubeconfig], more].concat();
        let mut command = Command::new(roadstead_tests::group::binary()?);
        let output = command.envs(environment.iter().copied()).args(&arguments).output().context("failed to run roadstead")?;
        let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        ensure!(output.status.success(), "roadstead {arguments:?}: {said}");
        Ok(said)
    }

    /// What a dry run says of a cluster that is furnished so: both outputs.
    fn would_join(&self, furnished: &[&str]) -> Result<String> {
        self.join_again(&[&["--dry-run", "--server", "r1.example.com:7420"], furnished].concat())
    }

    /// The Deployment's container, the rules of the role, and the policy about tenants' namespaces.
    async fn written(&self) -> Result<(Value, Vec<Value>, Value)> {
        let at = |path: &str| format!("/apis/{path}");
        let deployment = get(&self.admin, &at(&format!("apps/v1/namespaces/{SYSTEM}/deployments/{AGENT}"))).await?;
        let role = get(&self.admin, &at(&format!("rbac.authorization.k8s.io/v1/clusterroles/{AGENT}"))).await?;
        let policies = "admissionregistration.k8s.io/v1/validatingadmissionpolicies";
        let policy = get(&self.admin, &at(&format!("{policies}/roadstead-agent-kinds"))).await?;
        let rules = role["rules"].as_array().cloned().context("it has rules")?;
        Ok((deployment["spec"]["template"]["spec"]["containers"][0].clone(), rules, policy["spec"]["validations"].clone()))
    }

    /// Joins, and waits until both policies are in force.
    async fn joined() -> Result<(Self, Client)> {
        let ready = Self::start().await?;
        ready.join(&[])?;
        let agent = ready.plane.client_for_account(SYSTEM, AGENT).await?;
        let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "asked"}});
        let asked = [
            ("/api/v1/namespaces/default/configmaps?dryRun=All", map, NO_TENANTS),
            ("/api/v1/namespaces?dryRun=All", namespace("asked", json!({})), "creates tenants' namespaces only"),
        ];
        for (path, body, says) in &asked {
            until("the policies are in force", SOON, || async {
                match post(&agent, path, body).await {
                    Err(kube::Error::Api(status)) if status.message.contains(says) => Ok(()),
                    other => bail!("{other:?}"),
                }
            })
            .await?;
        }
        Ok((ready, agent))
    }
}

fn path(path: &Path) -> String {
    path.display().to_string()
}

async fn send(client: &Client, method: Method, path: &str, content: &str, body: &Value) -> kube::Result<Value> {
    let bytes = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
    let mut request = Request::builder().method(method).uri(path);
    if !content.is_empty() {
        request = request.header("content-type", content);
    }
    client.request(request.body(bytes).map_err(kube::Error::HttpError)?).await
}

async fn post(client: &Client, path: &str, body: &Value) -> kube::Result<Value> {
    send(client, Method::POST, path, "application/json", body).await
}

async fn merge(client: &Client, path: &str, body: &Value) -> kube::Result<Value> {
    send(client, Method::PATCH, path, "application/merge-patch+json", body).await
}

async fn apply(client: &Client, path: &str, body: &Value) -> kube::Result<Value> {
    send(client, Method::PATCH, &format!("{path}?fieldManager=roadstead"), "application/apply-patch+yaml", body).await
}

async fn delete(client: &Client, path: &str) -> kube::Result<Value> {
    send(client, Method::DELETE, path, "", &Value::Null).await
}

async fn get(client: &Client, path: &str) -> kube::Result<Value> {
    send(client, Method::GET, path, "", &Value::Null).await
}

fn namespace(name: &str, labels: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}})
}

fn home() -> Value {
    namespace(HOME, json!({"roadstead.dev/tenant": TENANT, "pod-security.kubernetes.io/enforce": "restricted"}))
}

/// A kind with the folder that its objects are in, and an object of it.
fn object(prefix: &str, plural: &str, kind: &str, spec: Value) -> (String, Value) {
    let mut body = json!({"apiVersion": prefix.trim_start_matches("api/").trim_start_matches("apis/"), "kind": kind});
    body["metadata"] = json!({"name": "web"});
    for (field, value) in spec.as_object().into_iter().flatten() {
        body[field] = value.clone();
    }
    (format!("/{prefix}/namespaces/{{}}/{plural}"), body)
}

/// A pod that every Pod Security level admits, of an account that [`objects`] has.
fn pod() -> Value {
    let closed = json!({"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}});
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web"},
        "spec": {
            "serviceAccountName": "web", "automountServiceAccountToken": false,
            "securityContext": {"runAsNonRoot": true, "runAsUser": 1, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [{"name": "web", "image": "web", "securityContext": closed}],
        },
    })
}

/// Makes a pod, as soon as the namespace's quota has been counted.
async fn prepare_pod(admin: &Client, namespace: &str) -> Result<Value> {
    let path = format!("/api/v1/namespaces/{namespace}/pods");
    until("a pod is made", SOON, || async { Ok(post(admin, &path, &pod()).await?) }).await
}

/// One object of every kind that a tenant may have.
fn objects() -> Vec<(String, Value)> {
    let pod = json!({
        "metadata": {"labels": {"app": "web"}},
        "spec": {"restartPolicy": "Always", "containers": [{"name": "web", "image": "web"}]},
    });
    let mut once = pod.clone();
    once["spec"]["restartPolicy"] = json!("Never");
    let select = json!({"matchLabels": {"app": "web"}});
    let (batch, rbac, networking) = ("apis/batch/v1", "apis/rbac.authorization.k8s.io/v1", "apis/networking.k8s.io/v1");
    let backend = json!({"service": {"name": "web", "port": {"number": 80}}});
    vec![
        object("api/v1", "resourcequotas", "ResourceQuota", json!({"spec": {"hard": {"pods": "10"}}})),
        object("api/v1", "limitranges", "LimitRange", json!({"spec": {"limits": [{"type": "Container"}]}})),
        object(networking, "networkpolicies", "NetworkPolicy", json!({"spec": {"podSelector": {}}})),
        object("api/v1", "configmaps", "ConfigMap", json!({"data": {"a": "b"}})),
        object("api/v1", "secrets", "Secret", json!({})),
        object("api/v1", "serviceaccounts", "ServiceAccount", json!({})),
        object("api/v1", "services", "Service", json!({"spec": {"ports": [{"port": 80}]}})),
        object("apis/apps/v1", "deployments", "Deployment", json!({"spec": {"selector": select, "template": pod}})),
        object("apis/apps/v1", "statefulsets", "StatefulSet", json!({"spec": {"serviceName": "web", "selector": select, "template": pod}})),
        object(batch, "jobs", "Job", json!({"spec": {"template": once}})),
        object(batch, "cronjobs", "CronJob", json!({"spec": {"schedule": "0 0 * * *", "jobTemplate": {"spec": {"template": once}}}})),
        object("apis/policy/v1", "poddisruptionbudgets", "PodDisruptionBudget", json!({"spec": {"selector": select}})),
        object(networking, "ingresses", "Ingress", json!({"spec": {"defaultBackend": backend}})),
        object(
            "apis/autoscaling/v2",
            "horizontalpodautoscalers",
            "HorizontalPodAutoscaler",
            json!({"spec": {"maxReplicas": 2, "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"}}}),
        ),
        object(
            rbac,
            "roles",
            "Role",
            json!({"rules": [
                {"apiGroups": [""], "resources": ["configmaps", "endpoints", "pods", "services"], "verbs": ["get", "list", "watch"]},
                {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["get", "list", "watch"]},
                {
                    "apiGroups": ["coordination.k8s.io"], "resources": ["leases"],
                    "verbs": ["get", "list", "watch", "create", "update", "patch", "delete"],
                },
            ]}),
        ),
        object(
            rbac,
            "rolebindings",
            "RoleBinding",
            json!({
                "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "web"},
                "subjects": [{"kind": "ServiceAccount", "name": "web", "namespace": HOME}],
            }),
        ),
        object("apis/db.example.com/v1", "dbs", "Database", json!({})),
    ]
}

#[tokio::test]
async fn a_cluster_joins_and_its_agent_may_do_all_that_tenants_need() -> Result<()> {
    let ready = Ready::start().await?;
    let judged = ready.join(&["--dry-run"])?;
    ensure!(judged.contains("validatingadmissionpolicy/roadstead-agent created (dry run)"), "{judged}");
    ensure!(judged.contains("deployment/roadstead-agent not judged: its namespace is not there yet"), "{judged}");
    ensure!(get(&ready.admin, &format!("/api/v1/namespaces/{SYSTEM}")).await.is_err(), "a dry run has made a namespace");
    let pki = path(&ready.folder.path().join("pki"));
    ensure!(!well(&["pki", "show", "--dir", &pki])?.contains("agent-eu-1"), "a dry run has issued a certificate");

    let first = ready.join(&[])?;
    let words = |told: &str, word: &str| told.lines().filter(|line| line.split_whitespace().nth(1) == Some(word)).count();
    let count = first.lines().take_while(|line| !line.is_empty()).count();
    ensure!(words(&first, "created") == count && count > 10, "{first}");
    // Controllers may still write beside it.
    until("joining again changes nothing", SOON, || async {
        for more in [&["--dry-run"][..], &[]] {
            let again = ready.join(more)?;
            ensure!(words(&again, "unchanged") == count, "{again}");
        }
        Ok(())
    })
    .await?;
    let wanted = ready.join(&["--dry-run", "--image", "another"])?;
    ensure!(wanted.contains("deployment/roadstead-agent configured (dry run)") && words(&wanted, "unchanged") == count - 1, "{wanted}");
    let uid = get(&ready.admin, "/api/v1/namespaces/kube-system").await?["metadata"]["uid"].clone();
    ensure!(first.contains(uid.as_str().context("a cluster has a uid")?), "{first}");
    for policy in [AGENT, "roadstead-agent-kinds"] {
        let policy = format!("/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies/{policy}");
        let checked = until("the policy's types are checked", SOON, || async {
            let policy = get(&ready.admin, &policy).await?;
            ensure!(policy["status"]["observedGeneration"] == policy["metadata"]["generation"], "not yet");
            Ok(policy)
        });
        let warnings = checked.await?["status"]["typeChecking"]["expressionWarnings"].clone();
        ensure!(warnings.is_null(), "{warnings}");
    }

    let agent = ready.plane.client_for_account(SYSTEM, AGENT).await?;
    sees_everything(&agent).await?;
    carries_a_tenant(&ready.admin, &agent).await?;
    keeps_its_own_state(&agent).await?;
    waits_in_queues_of_its_own(&ready.admin, &agent).await
}

#[tokio::test]
async fn joining_again_forgets_nothing_that_is_not_said_again() -> Result<()> {
    let ready = Ready::start().await?;
    let furniture = [
        &["--image", "registry.example.com/roadstead:1", "--storage", "fast=gp3", "--storage", "bulk=st1", "--deny", "10.0.0.0/8"][..],
        &["--dns-address", "169.254.20.10/32", "--tolerated-taint", "pool=tenants", "--allow-privileged", "--on-drift", "report"],
    ];
    ready.join(&furniture.concat())?;
    let (container, rules, policy) = ready.written().await?;
    let told = ready.join_again(&["--dry-run"])?;
    for kept in ["--ingress nginx=nginx", "--storage fast=gp3", "--deny 10.0.0.0/8", "--server r1.example.com:7420", "--allow-privileged"] {
        ensure!(told.contains(kept), "{kept} is not kept: {told}");
    }
    ensure!(told.contains("deployment/roadstead-agent unchanged (dry run)"), "{told}");
    let told = ready.join_again(&[])?;
    ensure!(told.contains("the agent keeps its rights for") && told.contains("dbs.db.example.com"), "{told}");
    let after = ready.written().await?;
    ensure!((&after.0, &after.2) == (&container, &policy), "{after:?} instead of {container} and {policy}");
    let lost: Vec<&Value> = rules.iter().filter(|rule| !after.1.contains(rule)).collect();
    ensure!(lost.is_empty(), "rights are lost: {lost:?}");
    let told = ready.join_again(&[])?;
    ensure!(ready.written().await? == after, "a third time changes something: {told}");

    // Where we reach replicas ourselves is not where the agent does.
    let told = ready.join_as("eu-1", &[("ROADSTEAD_SERVER", "127.0.0.1:7420")], &["--dry-run"])?;
    ensure!(told.contains("deployment/roadstead-agent unchanged (dry run)") && told.contains("--server r1.example.com:7420"), "{told}");
    let told = ready.join_again(&["--dry-run", "--server", "r3.example.com:7420"])?;
    ensure!(told.contains("at r3.example.com:7420, and no more at r1.example.com:7420"), "{told}");
    let refused = ready.join_as("eu-2", &[], &[]).err().context("another cluster's agent is taken over")?.to_string();
    ensure!(refused.contains("is cluster \"eu-1\"'s, not \"eu-2\"'s") && refused.contains("--kube-context"), "{refused}");

    // What is said otherwise is otherwise, and the rest stays.
    ready.join_again(&["--storage", "bulk=sc1", "--gateway", "gateways/public"])?;
    let (changed, _, _) = ready.written().await?;
    let has = |flag: &str| changed["args"].as_array().is_some_and(|args| args.iter().any(|arg| arg == flag));
    for flag in ["--storage=fast=gp3", "--storage=bulk=sc1", "--gateway=gateways/public", "--deny=10.0.0.0/8"] {
        ensure!(has(flag), "no {flag}: {changed}");
    }
    ensure!(!has("--storage=bulk=st1") && !has("--ingress=nginx=nginx"), "{changed}");

    // By hand: it is told, and nothing is written.
    let mut by_hand = changed.clone();
    by_hand["args"].as_array_mut().context("it has arguments")?.push(json!("--lease=mine"));
    let patch = json!({"spec": {"template": {"spec": {"containers": [by_hand]}}}});
    merge(&ready.admin, &format!("/apis/apps/v1/namespaces/{SYSTEM}/deployments/{AGENT}"), &patch).await?;
    let refused = ready.join_again(&[]).err().context("an argument is dropped")?.to_string();
    ensure!(refused.contains("--lease") && refused.contains("--anew"), "{refused}");

    let told = ready.join_again(&["--anew", "--server", "r2.example.com:7420"])?;
    let (anew, rules, _) = ready.written().await?;
    ensure!(told.contains("the agent loses its rights for") && !told.contains("kept from"), "{told}");
    let args = anew["args"].as_array().context("it has arguments")?;
    let kept = |flag: &&str| args.iter().any(|arg| arg.as_str().is_some_and(|arg| arg.starts_with(flag)));
    ensure!(!["--storage", "--gateway", "--deny", "--lease"].iter().any(kept), "{anew}");
    ensure!(!rules.iter().any(|rule| rule["resources"] == json!(["dbs"])), "{rules:?}");
    Ok(())
}

/// Which flow schema and which priority level the API server says that a request had.
async fn flow(client: &Client, path: &str) -> Result<[Option<String>; 2]> {
    let answer = client.send(Request::get(path).body(kube::client::Body::empty())?).await?;
    let header = |name: &str| answer.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    Ok([header("x-kubernetes-pf-flowschema-uid"), header("x-kubernetes-pf-prioritylevel-uid")])
}

async fn waits_in_queues_of_its_own(admin: &Client, agent: &Client) -> Result<()> {
    let lease = format!("/apis/coordination.k8s.io/v1/namespaces/{SYSTEM}/leases/{AGENT}");
    let (everything, own) = (["/api/v1/pods?limit=1", "/api/v1/namespaces/default/secrets?limit=1"], [lease.as_str()]);
    for (paths, schema, level) in [(&everything[..], AGENT, AGENT), (&own[..], "roadstead-agent-leases", "leader-election")] {
        let uid = |plural: &'static str, name: &'static str| async move {
            let found = get(admin, &format!("/apis/flowcontrol.apiserver.k8s.io/v1/{plural}/{name}")).await?;
            found["metadata"]["uid"].as_str().map(str::to_owned).context("it has a uid")
        };
        let expected = [Some(uid("flowschemas", schema).await?), Some(uid("prioritylevelconfigurations", level).await?)];
        for path in paths {
            until(&format!("{path} waits as {schema} says"), SOON, || async {
                let found = flow(agent, path).await?;
                ensure!(found == expected, "{found:?} instead of {expected:?}");
                Ok(())
            })
            .await?;
        }
    }
    Ok(())
}

async fn sees_everything(agent: &Client) -> Result<()> {
    let storage = ["storageclasses", "csinodes", "csistoragecapacities", "volumeattachments"];
    let core = ["namespaces", "nodes", "pods", "persistentvolumes", "persistentvolumeclaims", "secrets", "configmaps", "events"];
    let paths = core.map(|plural| format!("/api/v1/{plural}")).into_iter();
    let paths = paths.chain(storage.map(|plural| format!("/apis/storage.k8s.io/v1/{plural}")));
    let paths = paths.chain(objects().into_iter().map(|(path, _)| path.replace("/namespaces/{}", "")));
    for path in paths.chain(["/apis/apps/v1/daemonsets".to_owned()]) {
        get(agent, &format!("{path}?limit=1")).await.with_context(|| format!("cannot list {path}"))?;
    }
    Ok(())
}

async fn carries_a_tenant(admin: &Client, agent: &Client) -> Result<()> {
    post(agent, "/api/v1/namespaces", &home()).await.context("cannot create a tenant's namespace")?;
    let at = format!("/api/v1/namespaces/{HOME}");
    for (path, body) in objects() {
        let one = format!("{}/web", path.replace("{}", HOME));
        apply(agent, &one, &body).await.with_context(|| format!("cannot apply {one}"))?;
        merge(agent, &one, &json!({"metadata": {"labels": {"a": "b"}}})).await.with_context(|| format!("cannot patch {one}"))?;
    }
    let (claims, claim) = object(
        "api/v1",
        "persistentvolumeclaims",
        "PersistentVolumeClaim",
        json!({"spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}}),
    );
    let claims = claims.replace("{}", HOME);
    post(agent, &claims, &claim).await.context("cannot claim a volume")?;
    merge(agent, &format!("{claims}/web"), &json!({"metadata": {"labels": {"a": "b"}}})).await.context("cannot change a claim")?;
    refused(delete(agent, &format!("{claims}/web")).await, "cannot delete").context("a claim alone was deleted")?;
    // Pods are not the agent's to make; those that have ended it takes away.
    prepare_pod(admin, HOME).await?;
    refused(post(agent, &format!("{at}/pods"), &pod()).await, "cannot create").context("a pod was made")?;
    delete(agent, &format!("{at}/pods/web")).await.context("cannot take a pod away")?;
    // No such pod: the request has come through.
    let exec = get(agent, &format!("{at}/pods/none/exec?command=true&stdout=true")).await;
    ensure!(matches!(&exec, Err(kube::Error::Api(status)) if status.code == 404), "{exec:?}");
    for (path, _) in objects() {
        let one = format!("{}/web", path.replace("{}", HOME));
        delete(agent, &one).await.with_context(|| format!("cannot delete {one}"))?;
    }
    let epoch = json!({"metadata": {"labels": {"roadstead.dev/epoch": "0.7"}}});
    merge(agent, &at, &epoch).await.context("cannot move the epoch up")?;
    apply(agent, &at, &home()).await.context("cannot apply the namespace")?;
    // Somebody takes the label off: it is put back.
    merge(admin, &at, &json!({"metadata": {"labels": {"roadstead.dev/tenant": null}}})).await?;
    apply(agent, &at, &home()).await.context("cannot put the label back")?;
    delete(agent, &at).await.context("cannot delete a tenant's namespace")?;
    Ok(())
}

async fn keeps_its_own_state(agent: &Client) -> Result<()> {
    let (leases, lease) = object("apis/coordination.k8s.io/v1", "leases", "Lease", json!({"spec": {"holderIdentity": "one"}}));
    let (maps, map) = object("api/v1", "configmaps", "ConfigMap", json!({"data": {"generation": "0.1"}}));
    for (path, body) in [(leases, lease), (maps, map)] {
        let path = path.replace("{}", SYSTEM);
        post(agent, &path, &body).await.with_context(|| format!("cannot write {path}"))?;
        let there = get(agent, &format!("{path}/web")).await?;
        merge(agent, &format!("{path}/web"), &json!({"metadata": {"labels": {"a": "b"}}})).await?;
        let stale = send(agent, Method::PUT, &format!("{path}/web"), "application/json", &there).await;
        ensure!(matches!(&stale, Err(kube::Error::Api(status)) if status.code == 409), "a stale write was not noticed: {stale:?}");
    }
    let own = format!("/api/v1/namespaces/{SYSTEM}/secrets/{IDENTITY}");
    for _ in 0..2 {
        apply(agent, &own, &identity("kubernetes.io/tls")).await.context("cannot keep its certificate")?;
    }
    get(agent, &own).await?;
    Ok(())
}

/// Whether a request was forbidden, with these words.
fn refused(result: kube::Result<Value>, words: &str) -> Result<()> {
    match result {
        Err(kube::Error::Api(status)) if status.code == 403 => {
            ensure!(status.message.contains(words), "it was refused for another reason: {}", status.message);
            Ok(())
        }
        other => bail!("it was not forbidden: {other:?}"),
    }
}

/// A request that the agent's account must not make, and what the policy says to it.
struct Attempt {
    method: Method,
    path: String,
    content: &'static str,
    body: Value,
    says: &'static str,
}

/// The same by another name.
fn named(secret: &Value) -> Value {
    let mut other = secret.clone();
    other["metadata"]["name"] = json!(format!("{IDENTITY}-2"));
    other
}

/// The Secret that keeps the agent's certificate.
fn identity(kind: &str) -> Value {
    let data = json!({"tls.crt": "", "tls.key": ""});
    json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": IDENTITY}, "type": kind, "data": data})
}

fn attempts() -> Vec<Attempt> {
    let mut all = Vec::new();
    let mut attempt = |method: Method, path: String, content: &'static str, body: &Value, says: &'static str| {
        all.push(Attempt { method, path, content, body: body.clone(), says });
    };
    let (merge, json) = ("application/merge-patch+json", "application/json");
    let label = json!({"metadata": {"labels": {"a": "b"}}});
    let taken: Vec<_> = objects().into_iter().filter(|(_, body)| body["kind"] != "Database").collect();
    for namespace in ["default", "kube-system"] {
        for (path, body) in &taken {
            let path = path.replace("{}", namespace);
            let mut new = body.clone();
            new["metadata"]["name"] = json!("new");
            attempt(Method::POST, path.clone(), json, &new, NO_TENANTS);
            attempt(Method::PATCH, format!("{path}/web"), merge, &label, NO_TENANTS);
            attempt(Method::PATCH, format!("{path}/new?fieldManager=roadstead"), "application/apply-patch+yaml", &new, NO_TENANTS);
            attempt(Method::DELETE, format!("{path}/web"), "", &Value::Null, NO_TENANTS);
        }
        let at = format!("/api/v1/namespaces/{namespace}");
        attempt(Method::DELETE, format!("{at}/configmaps?labelSelector=victim"), "", &Value::Null, NO_TENANTS);
        attempt(Method::GET, format!("{at}/pods/none/exec?command=true&stdout=true"), "", &Value::Null, NO_TENANTS);
        attempt(Method::DELETE, format!("{at}/pods/web"), "", &Value::Null, NO_TENANTS);
        let token = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"audiences": []}});
        attempt(Method::POST, format!("{at}/serviceaccounts/web/token"), json, &token, NO_TENANTS);
    }
    let lease = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "new"}});
    attempt(Method::POST, "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases".to_owned(), json, &lease, NO_TENANTS);
    for (path, body) in
        taken.iter().filter(|(_, body)| ["Secret", "Deployment", "ServiceAccount"].iter().any(|kind| body["kind"] == **kind))
    {
        attempt(Method::POST, path.replace("{}", SYSTEM), json, body, NO_TENANTS);
    }

    // Its own certificate is kept in one Secret, of a type that makes no token, and in its own namespace only.
    let mut account = identity("kubernetes.io/service-account-token");
    account["metadata"]["annotations"] = json!({"kubernetes.io/service-account.name": "default"});
    let own = format!("/api/v1/namespaces/{SYSTEM}/secrets");
    attempt(Method::DELETE, format!("{own}/{IDENTITY}"), "", &Value::Null, NO_TENANTS);
    attempt(Method::POST, "/api/v1/namespaces/kube-system/secrets".to_owned(), json, &identity("kubernetes.io/tls"), NO_TENANTS);
    for mut other in [identity("Opaque"), account] {
        attempt(
            Method::PATCH,
            format!("{own}/{IDENTITY}-2?fieldManager=roadstead"),
            "application/apply-patch+yaml",
            &named(&other),
            NO_TENANTS,
        );
        attempt(Method::POST, own.clone(), json, &other, NO_TENANTS);
        other["metadata"]["generateName"] = json!(IDENTITY);
        other["metadata"]["name"] = Value::Null;
        attempt(Method::POST, own.clone(), json, &other, NO_TENANTS);
    }

    let spaces = "/api/v1/namespaces";
    let never = "never later";
    let tenant = |number: Value| json!({"metadata": {"labels": {"roadstead.dev/tenant": number}}});
    attempt(Method::DELETE, format!("{spaces}/foreign"), "", &Value::Null, never);
    attempt(Method::DELETE, format!("{spaces}/{SYSTEM}"), "", &Value::Null, never);
    attempt(Method::PATCH, format!("{spaces}/foreign"), merge, &label, never);
    attempt(Method::PATCH, format!("{spaces}/foreign"), merge, &tenant(json!(TENANT)), never);
    attempt(Method::PATCH, format!("{spaces}/foreign-00000000000000aa"), merge, &tenant(json!("00000000000000aa")), never);
    attempt(Method::PATCH, format!("{spaces}/kube-system"), merge, &tenant(json!(TENANT)), never);
    attempt(Method::PATCH, format!("{spaces}/{HOME}"), merge, &tenant(Value::Null), "stays as it is");
    attempt(Method::PATCH, format!("{spaces}/{HOME}"), merge, &tenant(json!("0000000000000002")), "stays as it is");
    let creates = "creates tenants' namespaces only";
    let levelled = |number: &str, level: &str| json!({"roadstead.dev/tenant": number, "pod-security.kubernetes.io/enforce": level});
    attempt(Method::POST, spaces.to_owned(), json, &namespace("new", json!({})), creates);
    attempt(Method::POST, spaces.to_owned(), json, &namespace("new", levelled(TENANT, "restricted")), creates);
    attempt(Method::POST, spaces.to_owned(), json, &namespace("new-a", levelled("a", "restricted")), creates);
    let level = "enforces a Pod Security level";
    let (new, number) = ("new-0000000000000003", "0000000000000003");
    attempt(Method::POST, spaces.to_owned(), json, &namespace(new, levelled(number, "privileged")), level);
    attempt(Method::POST, spaces.to_owned(), json, &namespace(new, json!({"roadstead.dev/tenant": number})), level);
    let open = json!({"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "privileged"}}});
    attempt(Method::PATCH, format!("{spaces}/{HOME}"), merge, &open, level);
    attempt(Method::PUT, format!("{spaces}/{HOME}/finalize"), json, &home(), "finalizers");

    let rbac = "/apis/rbac.authorization.k8s.io/v1";
    let outside = "outside of namespaces";
    let mut master = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRoleBinding",
        "metadata": {"name": "master"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
        "subjects": [{"kind": "ServiceAccount", "name": AGENT, "namespace": SYSTEM}],
    });
    attempt(Method::POST, format!("{rbac}/clusterrolebindings"), json, &master, outside);
    attempt(Method::DELETE, format!("{rbac}/clusterrolebindings/cluster-admin"), "", &Value::Null, outside);
    attempt(Method::PATCH, format!("{rbac}/clusterroles/{AGENT}"), merge, &label, outside);
    let volume = json!({
        "apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": "new"},
        "spec": {"capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"], "hostPath": {"path": "/"}},
    });
    attempt(Method::POST, "/api/v1/persistentvolumes".to_owned(), json, &volume, outside);
    attempt(
        Method::DELETE,
        "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/dbs.db.example.com".to_owned(),
        "",
        &Value::Null,
        outside,
    );
    master["kind"] = json!("RoleBinding");
    attempt(Method::POST, format!("{rbac}/namespaces/{HOME}/rolebindings"), json, &master, "Roles of the tenant's own namespace only");
    all
}

#[tokio::test]
async fn what_a_flag_names_and_the_cluster_does_not_have_is_told_before_tenants_wait_for_it() -> Result<()> {
    let ready = Ready::start().await?;
    let furnished = ["--storage", "fast=nosuch", "--storage", "bulk=here", "--ingress", "foo=kube-system"];
    let absent = ["StorageClass nosuch, which --storage fast=nosuch names", "IngressClass foo, which --ingress foo=kube-system names"];
    let storage = |name: &str| json!({"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {"name": name}, "provisioner": "example.com/none"});
    post(&ready.admin, "/apis/storage.k8s.io/v1/storageclasses", &storage("here")).await?;
    let told = ready.would_join(&furnished)?;
    for absent in absent {
        ensure!(told.contains(&format!("note: the cluster has no {absent}; it may be made later")), "{told}");
    }
    ensure!(told.matches("the cluster has no").count() == absent.len(), "{told}");
    let told = ready.would_join(&["--gateway", "gateways/public"])?;
    ensure!(told.contains("the cluster has no Gateway gateways/public, which --gateway gateways/public names"), "{told}");

    post(&ready.admin, "/apis/storage.k8s.io/v1/storageclasses", &storage("nosuch")).await?;
    let ingress = json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "IngressClass", "metadata": {"name": "foo"},
        "spec": {"controller": "example.com/none"},
    });
    post(&ready.admin, "/apis/networking.k8s.io/v1/ingressclasses", &ingress).await?;
    let told = ready.would_join(&furnished)?;
    ensure!(!told.contains("the cluster has no"), "{told}");
    Ok(())
}

#[tokio::test]
async fn the_agents_account_reaches_nothing_that_is_not_a_tenants() -> Result<()> {
    let (ready, agent) = Ready::joined().await?;
    let admin = &ready.admin;
    post(&agent, "/api/v1/namespaces", &home()).await?;
    apply(&agent, &format!("/api/v1/namespaces/{SYSTEM}/secrets/{IDENTITY}"), &identity("kubernetes.io/tls")).await?;
    for name in ["foreign", "foreign-00000000000000aa"] {
        post(admin, "/api/v1/namespaces", &namespace(name, json!({}))).await?;
    }
    for place in ["default", "kube-system"] {
        for (path, mut body) in objects().into_iter().filter(|(_, body)| body["kind"] != "Database") {
            body["metadata"]["labels"] = json!({"victim": ""});
            post(admin, &path.replace("{}", place), &body).await.with_context(|| format!("cannot prepare {path}"))?;
        }
        prepare_pod(admin, place).await?;
    }
    // With the rights that joining gives, roles or the policy refuse.
    try_all(&agent, |_| "").await?;
    let policy = format!("/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies/{AGENT}");
    refused(delete(&agent, &policy).await, "cannot delete")?;
    // With all rights that there are, the policy refuses alone, and says why.
    let master = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": "by-mistake"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
        "subjects": [{"kind": "ServiceAccount", "name": AGENT, "namespace": SYSTEM}],
    });
    post(admin, "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", &master).await?;
    until("the account has all rights", SOON, || async { Ok(get(&agent, "/apis/rbac.authorization.k8s.io/v1/clusterroles").await?) })
        .await?;
    let tried = try_all(&agent, |attempt| attempt.says).await?;
    println!("{tried} requests were refused by roles and policy, and again by the policy alone");
    Ok(())
}

async fn try_all(agent: &Client, says: impl Fn(&Attempt) -> &'static str) -> Result<usize> {
    let attempts = attempts();
    let mut wrong = Vec::new();
    for attempt in &attempts {
        let result = send(agent, attempt.method.clone(), &attempt.path, attempt.content, &attempt.body).await;
        if let Err(error) = refused(result, says(attempt)) {
            wrong.push(format!("{} {} {}: {error:#}", attempt.method, attempt.path, attempt.body));
        }
    }
    ensure!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), attempts.len(), wrong.join("\n"));
    Ok(attempts.len())
}
