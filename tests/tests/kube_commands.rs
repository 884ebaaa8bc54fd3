//! Commands that a class runs in its pods before it is stopped, on a real node. Needs root.

#[path = "kube/faults.rs"]
#[allow(dead_code)] // it is shared
mod faults;
#[path = "kube/world.rs"]
#[allow(dead_code)] // it is shared
mod world;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use roadstead_agent::interpreter::{Failed, Interpreter, Job};
use roadstead_class::{Exec, Manifest, StopStep};
use roadstead_core::intent::Role;
use roadstead_core::reconcile::{Action, Condition, Part};
use roadstead_core::time::Millis;
use roadstead_tests::testbed::{GUEST_IMAGE, STORAGE_CLASS, WholeCluster};
use serde_json::{Value, json};
use world::{Given, World, manifest, name, tenant};

const HOME: &str = "commands";
const TENANT: u64 = 50;
const MEBIBYTES: u32 = 16;

fn container(args: Value) -> Value {
    json!({"name": "guest", "image": GUEST_IMAGE, "imagePullPolicy": "Never", "args": args,
        "resources": {"requests": {"cpu": "10m", "memory": "16Mi"}, "limits": {"memory": "64Mi"}}})
}

/// A database that keeps a log on its volume, and what uses it.
fn workloads() -> Vec<Manifest> {
    let labels = |app: &str| json!({"labels": {"app": app}});
    let mut serves = container(json!(["serve", ":8080", "/data/log"]));
    serves["volumeMounts"] = json!([{"name": "data", "mountPath": "/data"}]);
    serves["readinessProbe"] = json!({"httpGet": {"path": "/", "port": 8080}, "periodSeconds": 1});
    let volumes = json!([{"name": "data", "persistentVolumeClaim": {"claimName": "data"}}]);
    let db = json!({"spec": {"serviceName": "db", "replicas": 1, "selector": {"matchLabels": {"app": "db"}},
        "template": {"metadata": labels("db"), "spec": {"containers": [serves], "volumes": volumes}}}});
    let pauses = container(json!(["pause"]));
    let web = json!({"spec": {"replicas": 1, "selector": {"matchLabels": {"app": "web"}},
        "template": {"metadata": labels("web"), "spec": {"containers": [pauses]}}}});
    vec![manifest(HOME, TENANT, "apps/v1", "StatefulSet", "db", db), manifest(HOME, TENANT, "apps/v1", "Deployment", "web", web)]
}

fn append(file: &str, line: &str) -> Vec<String> {
    ["/guest", "append", file, line].map(str::to_owned).to_vec()
}

/// A step that writes a line into the database's log, and what takes it back another.
fn noted(line: &str, undo: &str) -> StopStep {
    StopStep::Exec(Exec { target: "StatefulSet/db".to_owned(), run: append("/data/log", line), undo: append("/data/log", undo) })
}

fn job(world: &World) -> Job {
    let mut job = tenant(TENANT, HOME, Role::Run);
    world.change(&mut job, |rendered| {
        let claim = &mut rendered.volumes.get_mut(&name("data")).expect("it has a volume").body["spec"];
        claim["storageClassName"] = json!(STORAGE_CLASS);
        claim["resources"]["requests"]["storage"] = json!(format!("{MEBIBYTES}Mi"));
        rendered.parts.insert(Part::Workloads, workloads());
        let scale = |workload: &str| StopStep::Scale(workload.to_owned());
        rendered.stop = vec![noted("freeze", "thaw"), scale("Deployment/web"), noted("checkpoint", "resume"), scale("StatefulSet/db")];
        rendered.stop_within = Some(Millis::from_secs(60));
    });
    job.intent.volumes[0].size.0 = u64::from(MEBIBYTES) << 20;
    job
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_run_in_the_order_of_the_class_once_and_are_taken_back_in_reverse() -> Result<()> {
    let cluster = WholeCluster::start("commands").await?;
    let log = cluster.add_volume("v0", MEBIBYTES).await?.join("log");
    let written = || std::fs::read_to_string(&log).unwrap_or_default();
    let world = World::over(cluster.plane()).await?;
    let mut job = job(&world);
    let of = |role, job: &mut Job| job.intent.role = role;
    world.settles(&job, &Condition::Running).await?;

    // Stopped: each once, the last before the database is told to end. Up again there is nothing to take back in new pods.
    of(Role::Stopped, &mut job);
    world.settles(&job, &Condition::Stopped).await?;
    assert_eq!(written(), "started\nfreeze\ncheckpoint\nstopped\n");
    of(Role::Run, &mut job);
    world.settles(&job, &Condition::Running).await?;
    assert_eq!(written(), "started\nfreeze\ncheckpoint\nstopped\nstarted\n");

    // Taken back half-way, by another agent, which neither repeats what was done nor forgets to take it back.
    std::fs::write(&log, "")?;
    let pods: Api<Pod> = Api::namespaced(world.client(), HOME);
    let before = pods.get("db-0").await?.metadata.uid;
    of(Role::Stopped, &mut job);
    world.says(&job, "it is being stopped").await?;
    assert_eq!(written(), "freeze\n");
    let other = world.another().await?;
    other.says(&job, "it is being stopped").await?;
    ensure!(written().starts_with("freeze\n") && written().matches("freeze").count() == 1, "{}", written());
    of(Role::Run, &mut job);
    other.settles(&job, &Condition::Running).await?;
    let taken_back = if written().contains("checkpoint") { "freeze\ncheckpoint\nresume\nthaw\n" } else { "freeze\nthaw\n" };
    assert_eq!(written(), taken_back);
    assert_eq!(pods.get("db-0").await?.metadata.uid, before);
    let writes = other.writes();
    other.settles(&job, &Condition::Running).await?;
    assert_eq!(other.writes(), writes);

    // Without the right to it is said what to do.
    let cores = ["nodes", "pods", "namespaces", "configmaps", "secrets", "persistentvolumeclaims", "services", "resourcequotas", "events"];
    let all = |group: &str, resources: Value| json!({"apiGroups": [group], "resources": resources, "verbs": ["*"]});
    let others = ["apps", "batch", "autoscaling", "networking.k8s.io", "storage.k8s.io"].map(|group| all(group, json!(["*"])));
    let rules: Vec<Value> = others.into_iter().chain([all("", json!(cores))]).collect();
    let rbac = "rbac.authorization.k8s.io";
    let role = json!({"apiVersion": format!("{rbac}/v1"), "kind": "ClusterRole", "metadata": {"name": "no-exec"}, "rules": rules});
    let binding = json!({"apiVersion": format!("{rbac}/v1"), "kind": "ClusterRoleBinding", "metadata": {"name": "no-exec"},
        "roleRef": {"apiGroup": rbac, "kind": "ClusterRole", "name": "no-exec"}, "subjects": [{"apiGroup": rbac, "kind": "User", "name": "no-exec"}]});
    world.create(rbac, "v1", "ClusterRole", &role).await?;
    world.create(rbac, "v1", "ClusterRoleBinding", &binding).await?;
    let limited = world.another_with(&Given { user: Some("no-exec".to_owned()), ..Given::default() }).await?;
    limited.settles(&job, &Condition::Running).await?;
    of(Role::Stopped, &mut job);
    let refused = limited.kube.act(&job, &Action::Stop).await;
    let wanted =
        |why: &str| why.contains("the agent has not the right to do this (`roadstead join` again") && why.contains("\"pods/exec\"");
    ensure!(matches!(&refused, Err(Failed::Refused(why)) if wanted(why)), "{refused:?}");
    of(Role::Run, &mut job);
    world.settles(&job, &Condition::Running).await?;

    // One that fails says how; when the time is over it is stopped without it.
    world.change(&mut job, |rendered| {
        let fails = Exec { target: "StatefulSet/db".to_owned(), run: append("/nowhere/log", "x"), undo: Vec::new() };
        rendered.stop = vec![StopStep::Exec(fails)];
        rendered.stop_within = Some(Millis::from_secs(5));
    });
    world.settles(&job, &Condition::Running).await?;
    of(Role::Stopped, &mut job);
    let failed = world.kube.act(&job, &Action::Stop).await;
    let Err(Failed::Later { why, .. }) = failed else { anyhow::bail!("{failed:?}") };
    ensure!(
        why.starts_with("StatefulSet/db: the command `/guest append /nowhere/log x` in pod db-0 failed with exit code 1: guest: open"),
        "{why}"
    );
    world.settles(&job, &Condition::Stopped).await?;
    written().ends_with("stopped\n").then_some(()).context("it was told to end")
}
