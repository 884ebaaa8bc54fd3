//! What the Kubernetes interpreter ends and what it leaves: how a tenant comes to rest and what it says where something holds it, what goes when
//! it is not rendered any more, and copies of its namespace.

#[path = "kube/faults.rs"]
#[allow(dead_code)] // it is shared
mod faults;
#[path = "kube/rendered.rs"]
#[allow(dead_code)] // it is shared
mod rendered;
#[path = "kube/world.rs"]
#[allow(dead_code)] // it is shared
mod world;

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use faults::Fault;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::batch::v1::CronJob;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Node, PersistentVolumeClaim, Pod, Secret, ServiceAccount};
use k8s_openapi::api::storage::v1::VolumeAttachment;
use kube::Api;
use kube::api::{ApiResource, DeleteParams, DynamicObject, Patch, PatchParams, PostParams};
use kube::core::GroupVersionKind;
use rendered::{Shop, namespace};
use roadstead_agent::interpreter::{Failed, Interpreter, Job};
use roadstead_class::{Exec, Manifest, StopStep};
use roadstead_core::id::TenantId;
use roadstead_core::intent::Role;
use roadstead_core::reconcile::{Action, Condition, Part, PartSeen};
use roadstead_core::time::Millis;
use roadstead_tests::process::until;
use roadstead_tests::testbed::{ControlPlane, Options};
use serde_json::{Value, json};
use world::{SOON, World, deployment, manifest, ready, tenant};

/// A control plane without controllers: nobody else makes or ends anything.
fn alone() -> Options {
    Options { controllers: false, ..Options::default() }
}

/// A tenant of these workloads, without bounds: no quota is filled where there are no controllers.
fn of(world: &World, id: u64, namespace: &str, workloads: Vec<Manifest>) -> Job {
    let mut job = tenant(id, namespace, Role::Run);
    world.change(&mut job, |rendered| {
        rendered.parts.insert(Part::Bounds, Vec::new());
        rendered.parts.insert(Part::Workloads, workloads);
    });
    job
}

fn config(namespace: &str, id: u64, name: &str) -> Manifest {
    manifest(namespace, id, "v1", "ConfigMap", name, json!({"data": {"theme": "plain"}}))
}

/// What is written down in a tenant's namespace.
async fn record(world: &World, namespace: &str) -> Result<String> {
    let maps: Api<ConfigMap> = Api::namespaced(world.client(), namespace);
    maps.get("roadstead-record").await?.data.unwrap_or_default().remove("record").context("it holds a record")
}

/// A pod that somebody makes by hand; nobody starts it.
async fn make_pod(world: &World, namespace: &str, name: &str, node: Option<&str>) -> Result<()> {
    let pods: Api<Pod> = Api::namespaced(world.client(), namespace);
    let container = json!({"name": "shell", "image": "shell:1", "resources": {"requests": {"cpu": "10m", "memory": "8Mi"}, "limits": {"memory": "8Mi"}}});
    let spec = json!({"automountServiceAccountToken": false, "nodeName": node, "containers": [container]});
    let pod: Pod = serde_json::from_value(json!({"metadata": {"name": name}, "spec": spec}))?;
    // Its account is made a moment after its namespace.
    until("the pod is made", SOON, || async { Ok(pods.create(&PostParams::default(), &pod).await.map(drop)?) }).await
}

#[tokio::test]
async fn a_copy_of_a_namespace_is_never_taken_for_the_tenants_own() -> Result<()> {
    let world = World::start(Options::default()).await?;
    let mut job = Shop { volumes: &["data"], ..Shop::default() }.tenant(1)?;
    world.settles(&job, &Condition::Running).await?;
    let namespaces: Api<Namespace> = Api::all(world.client());
    let mut labels = namespaces.get(&namespace(1)).await?.metadata.labels.unwrap_or_default();
    labels.remove("kubernetes.io/metadata.name");
    // As a restore under another name makes it: before the tenant's own in the order of names.
    let copy: Namespace = serde_json::from_value(json!({"metadata": {"name": "a-copy", "labels": labels}}))?;
    namespaces.create(&PostParams::default(), &copy).await?;
    until("both are seen", SOON, || async {
        let homes = world.kube.home_of(job.intent.id);
        ensure!(homes == format!("namespace a-copy and namespace {}", namespace(1)), "{homes}");
        Ok(())
    })
    .await?;

    job.rendered = Err("class shop@1 cannot be rendered: values.plan is undefined".to_owned());
    job.intent.role = Role::Absent;
    world.settles(&job, &Condition::Absent).await?;
    assert!(namespaces.get_opt(&namespace(1)).await?.is_none());
    assert_eq!(namespaces.get("a-copy").await?.metadata.deletion_timestamp, None);
    // When nobody names the tenant any more it is told of as whatever has a tenant's label.
    let left: Vec<TenantId> = world.kube.labelled(|_| false)?.into_iter().map(|(id, _)| id).collect();
    assert_eq!(left, [job.intent.id]);
    Ok(())
}

#[tokio::test]
async fn what_is_out_of_sight_is_not_forgotten() -> Result<()> {
    const HOME: &str = "unseen";
    let world = World::start(alone()).await?;
    let client = world.client();
    let definition = json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": "gadgets.example.com"},
        "spec": {"group": "example.com", "scope": "Namespaced", "names": {"kind": "Gadget", "plural": "gadgets"},
            "versions": [{"name": "v1", "served": true, "storage": true,
                "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}}]}});
    world.create("apiextensions.k8s.io", "v1", "CustomResourceDefinition", &definition).await?;
    let kind = GroupVersionKind::gvk("example.com", "v1", "Gadget");
    until("it is served", SOON, || async { Ok(kube::discovery::pinned_kind(&client, &kind).await.map(drop)?) }).await?;
    let gadgets: Api<DynamicObject> = Api::namespaced_with(client.clone(), HOME, &ApiResource::from_gvk_with_plural(&kind, "gadgets"));
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), HOME);
    let gadget = manifest(HOME, 2, "example.com/v1", "Gadget", "g", json!({"spec": {"size": 1}}));
    let mut job = of(&world, 2, HOME, vec![config(HOME, 2, "old"), gadget.clone()]);
    world.settles(&job, &Condition::Running).await?;

    // Somebody takes the label off an object before the class drops it.
    let by_hand = PatchParams { field_manager: Some("kubectl-label".to_owned()), ..PatchParams::default() };
    maps.patch("old", &by_hand, &Patch::Merge(json!({"metadata": {"labels": {"roadstead.dev/tenant": null}}}))).await?;
    until("it is not seen any more", SOON, || async {
        let part = world.kube.seen(&job)?.parts.remove(&Part::Workloads);
        ensure!(part == Some(PartSeen::Differs), "{part:?}");
        Ok(())
    })
    .await?;
    world.change(&mut job, |rendered| drop(rendered.parts.insert(Part::Workloads, vec![config(HOME, 2, "new"), gadget])));
    world.comes("it is pruned", &job, || async { Ok(maps.get_opt("old").await?.is_none()) }).await?;
    world.settles(&job, &Condition::Running).await?;

    // A kind cannot be looked at, as while its conversion webhook is down, when an agent begins anew and the class drops it.
    let blind = world.another().await?;
    let why = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "code": 500, "message": "conversion webhook failed"});
    let is_list = |request: &tonic::codegen::http::request::Parts| request.uri.path().ends_with("/gadgets");
    blind.faults.add(is_list, Fault::Answer(500, Vec::new(), why.to_string()));
    world.change(&mut job, |rendered| drop(rendered.parts.insert(Part::Workloads, vec![config(HOME, 2, "newer")])));
    blind.comes("the old one is pruned", &job, || async { Ok(maps.get_opt("new").await?.is_none()) }).await?;
    blind.settles(&job, &Condition::Running).await?;
    assert!(record(&world, HOME).await?.contains("Gadget"));
    blind.faults.clear();
    blind.comes("it is pruned once it is seen", &job, || async { Ok(gadgets.get_opt("g").await?.is_none()) }).await?;
    blind.settles(&job, &Condition::Running).await?;

    // It is forgotten when it is known to be gone.
    world.change(&mut job, |rendered| drop(rendered.parts.insert(Part::Workloads, vec![config(HOME, 2, "newest")])));
    blind.settles(&job, &Condition::Running).await?;
    let record = record(&world, HOME).await?;
    assert!(!record.contains("Gadget") && !record.contains("\"old\"") && record.contains("newest"), "{record}");
    Ok(())
}

#[tokio::test]
async fn a_copied_secret_goes_once_nothing_needs_it_and_a_generated_one_stays() -> Result<()> {
    const HOME: &str = "secrets";
    let world = World::start(alone()).await?;
    let mut job = of(&world, 3, HOME, vec![deployment(HOME, 3)]);
    let deployments: Api<Deployment> = Api::namespaced(world.client(), HOME);
    let secrets: Api<Secret> = Api::namespaced(world.client(), HOME);
    world.says(&job, "Deployment/web: has not been looked at by its controller yet").await?;
    ready(&deployments, "web", 2).await?;
    world.settles(&job, &Condition::Running).await?;
    let theirs = json!({"metadata": {"name": "theirs", "labels": {"roadstead.dev/tenant": "0000000000000003"}}});
    secrets.create(&PostParams::default(), &serde_json::from_value(theirs)?).await?;
    let password = secrets.get("db").await?.data;

    // The next version uses neither: what runs may until that one is ready, whatever else is done.
    world.change(&mut job, |rendered| {
        rendered.secrets.clear();
        let mut next = deployment(HOME, 3);
        next.body["spec"]["template"]["spec"]["containers"][0]["envFrom"] = json!([]);
        rendered.parts.insert(Part::Workloads, vec![next]);
    });
    world.says(&job, "Deployment/web: has not been looked at by its controller yet").await?;
    world.kube.act(&job, &Action::Put(Part::Secrets)).await?;
    assert_eq!(secrets.get("smtp").await?.metadata.deletion_timestamp, None);
    ready(&deployments, "web", 2).await?;
    world.comes("the copy goes", &job, || async { Ok(secrets.get_opt("smtp").await?.is_none()) }).await?;
    world.settles(&job, &Condition::Running).await?;
    assert_eq!(secrets.get("db").await?.data, password);
    secrets.get("theirs").await?;
    let before = world.requests();
    world.kube.forget_comparisons();
    assert_eq!(world.step(&job).await?, Condition::Running);
    assert_eq!(world.requests(), before, "in step it asks nobody");
    Ok(())
}

#[tokio::test]
async fn what_keeps_a_tenant_from_being_at_rest_is_named() -> Result<()> {
    const HOME: &str = "held";
    let world = World::start(Options::default()).await?;
    let mut job = of(&world, 4, HOME, vec![config(HOME, 4, "settings")]);
    world.settles(&job, &Condition::Running).await?;
    let pods: Api<Pod> = Api::namespaced(world.client(), HOME);

    // A pod of somebody at a keyboard: nothing is done about it while the tenant is only stopped.
    make_pod(&world, HOME, "shell", None).await?;
    job.intent.role = Role::Stopped;
    world.says(&job, "it is being stopped: pod shell still runs, and no controller will end it; delete it").await?;
    world.kube.act(&job, &Action::Stop).await?;
    assert_eq!(pods.get("shell").await?.metadata.deletion_timestamp, None);
    pods.delete("shell", &DeleteParams::default()).await?;
    world.settles(&job, &Condition::Stopped).await?;

    // A volume that a node still has.
    let volume = json!({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": "v"}, "spec": {
        "capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"], "storageClassName": "fast", "hostPath": {"path": "/nowhere"}}});
    world.create("", "v1", "PersistentVolume", &volume).await?;
    let claims: Api<PersistentVolumeClaim> = Api::namespaced(world.client(), HOME);
    until("the claim is bound", SOON, || async {
        let phase = claims.get("data").await?.status.and_then(|status| status.phase);
        ensure!(phase.as_deref() == Some("Bound"), "it is {phase:?}");
        Ok(())
    })
    .await?;
    let attachment = json!({"apiVersion": "storage.k8s.io/v1", "kind": "VolumeAttachment", "metadata": {"name": "attached"},
        "spec": {"attacher": "none.example.com", "nodeName": "node", "source": {"persistentVolumeName": "v"}}});
    world.create("storage.k8s.io", "v1", "VolumeAttachment", &attachment).await?;
    world.says(&job, "it is being stopped: volume data is still attached to a node (VolumeAttachment/attached)").await?;
    assert!(!world.kube.seen(&job)?.at_rest);
    Api::<VolumeAttachment>::all(world.client()).delete("attached", &DeleteParams::default()).await?;
    world.settles(&job, &Condition::Stopped).await?;

    // Where all is to go, what nothing looks after keeps it from nothing.
    make_pod(&world, HOME, "shell", None).await?;
    job.intent.role = Role::Absent;
    world.settles(&job, &Condition::Absent).await?;
    Ok(())
}

/// Says of a node whether it is ready.
async fn node_is(world: &ControlPlane, name: &str, ready: bool) -> Result<()> {
    let nodes: Api<Node> = Api::all(world.client().await?);
    let status = if ready { "True" } else { "False" };
    let conditions = json!([{"type": "Ready", "status": status}]);
    nodes.patch_status(name, &PatchParams::default(), &Patch::Merge(json!({"status": {"conditions": conditions}}))).await?;
    Ok(())
}

#[tokio::test]
async fn a_pod_that_vanished_from_a_node_that_is_not_ready_is_taken_for_ended_by_no_agent() -> Result<()> {
    const HOME: &str = "vanished";
    let plane = ControlPlane::start(alone()).await?;
    let nodes: Api<Node> = Api::all(plane.client().await?);
    nodes.create(&PostParams::default(), &serde_json::from_value(json!({"metadata": {"name": "far"}}))?).await?;
    node_is(&plane, "far", false).await?;
    let world = World::over(&plane).await?;
    let mut job = of(&world, 5, HOME, vec![config(HOME, 5, "settings")]);
    world.settles(&job, &Condition::Running).await?;
    let accounts: Api<ServiceAccount> = Api::namespaced(world.client(), HOME);
    accounts.create(&PostParams::default(), &serde_json::from_value(json!({"metadata": {"name": "default"}}))?).await?;
    let pods: Api<Pod> = Api::namespaced(world.client(), HOME);
    let force = DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() };

    // While the tenant runs.
    make_pod(&world, HOME, "db-0", Some("far")).await?;
    pods.delete("db-0", &force).await?;
    world.comes("it is written down", &job, || async { Ok(record(&world, HOME).await?.contains("db-0")) }).await?;
    world.settles(&job, &Condition::Running).await?;
    // An agent that begins anew has not seen it; while it is stopped another one vanishes.
    let next = world.another().await?;
    job.intent.role = Role::Stopped;
    next.says(&job, "it is being stopped: pod db-0 was deleted while its node far was not ready").await?;
    make_pod(&world, HOME, "db-1", Some("far")).await?;
    pods.delete("db-1", &force).await?;
    next.comes("it is written down", &job, || async { Ok(record(&world, HOME).await?.contains("db-1")) }).await?;
    let last = world.another().await?;
    for agent in [&world, &next, &last] {
        agent.says(&job, "and may still run there; bring it back, or delete the Node once its machine is off").await?;
        assert!(!agent.kube.seen(&job)?.at_rest);
    }

    // Back, it has ended what was taken from it; that is written down before it is told.
    node_is(&plane, "far", true).await?;
    for agent in [&last, &next, &world] {
        agent.settles(&job, &Condition::Stopped).await?;
        let record = record(&world, HOME).await?;
        assert!(!record.contains("vanished"), "{record}");
    }
    Ok(())
}

#[tokio::test]
async fn autoscalers_go_and_cron_jobs_are_suspended_by_a_stop() -> Result<()> {
    const HOME: &str = "clocks";
    let world = World::start(alone()).await?;
    let container = json!({"name": "job", "image": "shop:1"});
    let template = json!({"spec": {"template": {"spec": {"restartPolicy": "Never", "containers": [container]}}}});
    let night = json!({"spec": {"schedule": "0 3 * * *", "jobTemplate": template}});
    let target = json!({"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"});
    let workloads = || {
        vec![
            manifest(HOME, 6, "batch/v1", "CronJob", "night", night.clone()),
            manifest(
                HOME,
                6,
                "autoscaling/v2",
                "HorizontalPodAutoscaler",
                "web",
                json!({"spec": {"maxReplicas": 3, "scaleTargetRef": target}}),
            ),
        ]
    };
    let mut job = of(&world, 6, HOME, workloads());
    world.settles(&job, &Condition::Running).await?;
    let scalers: Api<HorizontalPodAutoscaler> = Api::namespaced(world.client(), HOME);
    let crons: Api<CronJob> = Api::namespaced(world.client(), HOME);
    let suspended = || async { Ok::<_, anyhow::Error>(crons.get("night").await?.spec.and_then(|spec| spec.suspend).unwrap_or_default()) };
    assert!(!suspended().await?);
    assert!(!world.kube.seen(&job)?.at_rest);
    job.intent.role = Role::Stopped;
    world.settles(&job, &Condition::Stopped).await?;
    assert!(suspended().await?);
    assert!(scalers.get_opt("web").await?.is_none());
    job.intent.role = Role::Run;
    world.settles(&job, &Condition::Running).await?;
    assert!(!suspended().await?);
    scalers.get("web").await?;
    Ok(())
}

#[tokio::test]
async fn a_stop_that_was_called_off_takes_no_time_from_the_next() -> Result<()> {
    const HOME: &str = "called-off";
    const WITHIN: Duration = Duration::from_secs(10);
    let world = World::start(alone()).await?;
    let mut db = deployment(HOME, 7);
    db.id.name = "db".to_owned();
    db.body["metadata"]["name"] = json!("db");
    let mut job = of(&world, 7, HOME, vec![deployment(HOME, 7), db]);
    let scale = |name: &str| StopStep::Scale(format!("Deployment/{name}"));
    let exec = Exec { target: "Deployment/web".to_owned(), run: vec!["flush".to_owned()], undo: Vec::new() };
    world.change(&mut job, |rendered| {
        rendered.stop = vec![StopStep::Exec(exec), scale("web"), scale("db")];
        rendered.stop_within = Some(Millis::from_secs(WITHIN.as_secs()));
    });
    let runs = "Deployment/web: has not been looked at by its controller yet";
    world.says(&job, runs).await?;

    // It gets as far as the first step, and nothing is scaled.
    let is_web =
        |request: &tonic::codegen::http::request::Parts| request.method == "PATCH" && request.uri.path().ends_with("/deployments/web");
    let down: Value = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "code": 503, "message": "down"});
    world.faults.add(is_web, Fault::Answer(503, Vec::new(), down.to_string()));
    job.intent.role = Role::Stopped;
    world.until_seen(&job).await?;
    let (began, stopped) = (Instant::now(), world.kube.act(&job, &Action::Stop).await);
    assert!(matches!(&stopped, Err(Failed::Later { .. })), "{stopped:?}");
    world.faults.clear();
    let writes = world.writes();
    job.intent.role = Role::Run;
    world.says(&job, runs).await?;
    assert_eq!(world.writes(), writes, "there is nothing to take back");
    until("its time is over", SOON, || async {
        ensure!(began.elapsed() > WITHIN, "it is not");
        Ok(())
    })
    .await?;

    job.intent.role = Role::Stopped;
    world.until_seen(&job).await?;
    world.kube.act(&job, &Action::Stop).await?;
    let deployments: Api<Deployment> = Api::namespaced(world.client(), HOME);
    let replicas = async |name: &str| Ok::<_, anyhow::Error>(deployments.get(name).await?.spec.context("it has a spec")?.replicas);
    assert_eq!((replicas("web").await?, replicas("db").await?), (Some(0), Some(2)), "one after the other");
    Ok(())
}
