//! Two whole clusters with real nodes, pods and volumes carry tenants of the classes in `examples/` that were placed over the API: from the
//! first placement to the last purge, over lost agents, a restarted API server, and hands that break things. The agents have joined, and act
//! with the rights and within the policy that this gives them.

#[path = "real_clusters/site.rs"]
mod site;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Secret, Service};
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use roadstead_tests::cli;
use roadstead_tests::group::Group;
use roadstead_tests::process::until;
use serde_json::{Value, json};
use site::Site;

/// How long anything may take on a busy machine.
const SOON: Duration = Duration::from_secs(120);

fn document(name: &str) -> String {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/real_clusters").join(name).display().to_string()
}

/// The classes that the project shows; a program that keeps a log stands in for what is in their images.
fn classes() -> String {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../examples/classes.yaml").display().to_string()
}

fn shown(group: &Group, kind: &str, name: &str) -> Result<Value> {
    serde_json::from_str(&cli::run(group, 1, &["get", kind, name, "-o", "json"])?).context("a document is JSON")
}

fn status(group: &Group, tenant: &str) -> Result<Value> {
    Ok(shown(group, "tenant", tenant)?["status"].take())
}

async fn until_phase(group: &Group, name: &str, phase: &str) -> Result<()> {
    until(&format!("{name} is {phase}"), SOON, || async {
        let status = status(group, name)?;
        ensure!(status["phase"] == phase, "{status}");
        Ok(())
    })
    .await
}

async fn until_state(group: &Group, cluster: &str, state: &str) -> Result<Value> {
    until(&format!("{cluster} is {state}"), SOON, || async {
        let status = shown(group, "cluster", cluster)?["status"].take();
        ensure!(status["state"] == state, "{status}");
        Ok(status)
    })
    .await
}

/// Applies a tenant's document with another desired state.
fn desire(group: &Group, name: &str, desired: &str) -> Result<()> {
    let mut document = shown(group, "tenant", name)?;
    document["spec"]["desired"] = json!(desired);
    document["metadata"].as_object_mut().context("metadata")?.remove("revision");
    let file = group.folder().join("desired.json");
    std::fs::write(&file, document.to_string())?;
    cli::run(group, 1, &["apply", "-f", &file.display().to_string()]).map(drop)
}

async fn until_told(group: &Group, cluster: &str) -> Result<()> {
    until(&format!("{cluster} has told what it holds"), SOON, || async {
        let status = shown(group, "cluster", cluster)?["status"].take();
        ensure!(status["info"]["readyNodes"] == 1 && !status["capacity"]["allocatable"]["cpu"].is_null(), "{status}");
        ensure!(status["info"]["version"].as_str().is_some_and(|version| version.starts_with("v1.")), "{status}");
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tenants_live_in_the_clusters_that_were_chosen_for_them_until_they_are_purged() -> Result<()> {
    let group = Group::issuing(None).await?;
    let (mut red, mut blue) = tokio::try_join!(Site::start("red", 2), Site::start("blue", 1))?;
    cli::run(&group, 1, &["apply", "-f", &document("fleet.yaml"), "-f", &classes()])?;
    red.join(&group).await?;
    blue.join(&group).await?;
    red.start_agent(&group, "one")?;
    red.start_agent(&group, "two")?;
    blue.start_agent(&group, "alone")?;
    live(&group, &mut red, &mut blue).await.with_context(|| format!("{}{}", red.agents_said(), blue.agents_said()))
}

async fn live(group: &Group, red: &mut Site, blue: &mut Site) -> Result<()> {
    until_told(group, "red").await?;
    until_told(group, "blue").await?;
    // Placed, and carried where they were placed.
    cli::run(group, 1, &["apply", "-f", &document("tenants.yaml"), "--wait", "--timeout", "120s"])?;
    red.until_pods("acme", 3).await?;
    red.until_pods("rival", 2).await?;
    blue.until_pods("overseas", 3).await?;
    ensure!(red.namespaces_of("overseas").await?.is_empty() && blue.namespaces_of("acme").await?.is_empty(), "each in one cluster only");
    for (site, tenant, claim) in [(&*red, "acme", "data"), (&*red, "rival", "data"), (&*blue, "overseas", "state")] {
        let written = site.written_by(tenant, claim).await?;
        ensure!(
            written.starts_with("started\n") && written.matches("started").count() == 1,
            "{tenant} has a volume of its own: {written:?}"
        );
    }
    lose_agents(group, red, blue).await?;
    break_by_hand(group, red).await?;
    hibernate(group, red).await?;
    delete_and_bring_back(group, red).await?;
    purge(group, "acme", red, blue).await?;
    // A pod that has ended keeps nobody from being removed.
    until("the Job has ended", SOON, || async {
        let phases = blue.pods_of("newcomer").await?.into_iter().filter_map(|pod| pod.status?.phase);
        ensure!(phases.collect::<BTreeSet<_>>() == ["Running", "Succeeded"].map(str::to_owned).into(), "it has not");
        Ok(())
    })
    .await?;
    purge(group, "newcomer", blue, red).await?;
    red.until_pods("rival", 2).await?;
    blue.until_pods("overseas", 3).await?;
    red.nothing_was_refused()?;
    blue.nothing_was_refused()
}

/// Of two replicas of an agent the one that works is killed: the other goes on with all that there is. Meanwhile the other cluster is silent
/// for a while, its API server is started anew, and tenants come to it that cannot run.
async fn lose_agents(group: &Group, red: &mut Site, blue: &mut Site) -> Result<()> {
    let namespace = red.namespace_of("acme").await?;
    let deployments: Api<Deployment> = Api::namespaced(red.client.clone(), &namespace);
    let services: Api<Service> = Api::namespaced(red.client.clone(), &namespace);
    let (before, pods) = (deployments.get("web").await?, red.ready_pods("acme", 3).await?);
    let killed = red.kill_working().await?;
    services.delete("web", &DeleteParams::default()).await?;

    silence_moves_nothing(group, blue).await?;
    let elsewhere = blue.namespace_of("overseas").await?;
    blue.restart_api_server(|client| async move {
        let services: Api<Service> = Api::namespaced(client, &elsewhere);
        services.delete("broker", &DeleteParams::default()).await?;
        until("the agent goes on", SOON, || async { Ok(services.get("broker").await.map(drop)?) }).await
    })
    .await?;
    name_what_cannot_run(group, red, blue).await?;

    until("the other replica works", SOON, || red.working()).await?;
    until("the service is there again", SOON, || async { Ok(services.get("web").await.map(drop)?) }).await?;
    ensure!(deployments.get("web").await?.metadata.generation == before.metadata.generation, "what was in step was left alone");
    ensure!(red.ready_pods("acme", 3).await? == pods, "its tenants kept running without it");
    until_state(group, "red", "Active").await?;
    red.start_agent(group, killed)
}

/// What must not move of a tenant by itself.
fn standing(group: &Group, tenant: &str) -> Result<[Value; 5]> {
    let mut status = status(group, tenant)?;
    Ok(["phase", "cluster", "shard", "epoch", "volumes"].map(|field| status[field].take()))
}

/// A cluster's agent is not heard of for longer than is allowed, and comes back with what it knew before.
async fn silence_moves_nothing(group: &Group, blue: &mut Site) -> Result<()> {
    let (stands, pods, namespaces) = (standing(group, "overseas")?, blue.ready_pods("overseas", 3).await?, blue.namespaces().await?);
    ensure!(stands[0] == "Running" && stands[1] == "blue", "{stands:?}");
    blue.silence()?;
    let silent = until_state(group, "blue", "Silent").await?;
    ensure!(silent["tenants"] == 1 && silent["used"]["cpu"] == "1500m", "its tenant counts: {silent}");
    cli::run(group, 1, &["apply", "-f", &document("newcomer.yaml")])?;
    let newcomer = status(group, "newcomer")?;
    ensure!(newcomer["phase"] == "Pending" && newcomer["cluster"].is_null(), "{newcomer}");
    ensure!(newcomer["reason"].as_str().is_some_and(|reason| reason.contains("1 silent")), "{newcomer}");
    ensure!(standing(group, "overseas")? == stands && blue.ready_pods("overseas", 3).await? == pods, "its tenant keeps running");

    blue.end_silence()?;
    until_state(group, "blue", "Active").await?;
    until_phase(group, "newcomer", "Running").await?;
    let mut after = blue.namespaces().await?;
    after.remove(&blue.namespace_of("newcomer").await?);
    ensure!(after == namespaces, "{namespaces:?} became {after:?}");
    ensure!(standing(group, "overseas")? == stands && blue.ready_pods("overseas", 3).await? == pods, "its tenant is as it was");
    Ok(())
}

/// What keeps a tenant from running stands with it in plain words, and hinders nobody else.
async fn name_what_cannot_run(group: &Group, red: &Site, blue: &Site) -> Result<()> {
    cli::run(group, 1, &["apply", "-f", &document("troubled.yaml")])?;
    let told = [
        ("unpulled", "image registry.example/none:1 cannot be pulled"),
        ("homeless", "cannot be scheduled: 0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector"),
    ];
    for (name, words) in told {
        until(&format!("why {name} does not run is told"), SOON, || async {
            let status = status(group, name)?;
            ensure!(status["phase"] == "Placed" && status["trouble"]["why"].as_str().is_some_and(|why| why.contains(words)), "{status}");
            Ok(())
        })
        .await?;
        purge(group, name, blue, red).await?;
    }
    Ok(())
}

/// What hands do: a label is stripped, a workload edited, a generated secret deleted.
async fn break_by_hand(group: &Group, red: &Site) -> Result<()> {
    let namespace = red.namespace_of("acme").await?;
    let deployments: Api<Deployment> = Api::namespaced(red.client.clone(), &namespace);
    let by_hand = PatchParams { field_manager: Some("kubectl-edit".to_owned()), ..PatchParams::default() };
    let edited = json!({"metadata": {"labels": {"roadstead.dev/tenant": null}}, "spec": {"replicas": 1}});
    deployments.patch("web", &by_hand, &Patch::Merge(&edited)).await?;
    until("the workload is put right", SOON, || async {
        let web = deployments.get("web").await?;
        let labelled = web.metadata.labels.unwrap_or_default().contains_key("roadstead.dev/tenant");
        ensure!(labelled && web.spec.and_then(|spec| spec.replicas) == Some(2), "it is not yet");
        Ok(())
    })
    .await?;
    let pods = red.until_pods("acme", 3).await?;
    let secrets: Api<Secret> = Api::namespaced(red.client.clone(), &namespace);
    let secret = secrets.get("db").await?;
    secrets.delete("db", &DeleteParams::default()).await?;
    // A generated secret is never made anew over a volume that is there; put back it is taken for what it was.
    until("the loss is told", SOON, || async {
        let status = status(group, "acme")?;
        let trouble = &status["trouble"];
        let why = trouble["why"].as_str().unwrap_or_default();
        ensure!(trouble["kind"] == "SecretLost" && why.starts_with("secret db was generated here and is gone"), "{status}");
        Ok(())
    })
    .await?;
    ensure!(secrets.get_opt("db").await?.is_none(), "a new one was made");
    ensure!(red.ready_pods("acme", 3).await? == pods, "it keeps running");
    let again =
        Secret { metadata: kube::api::ObjectMeta { resource_version: None, uid: None, ..secret.metadata.clone() }, ..secret.clone() };
    secrets.create(&PostParams::default(), &again).await?;
    until("the trouble is over", SOON, || async {
        let status = status(group, "acme")?;
        ensure!(status["phase"] == "Running" && status["trouble"].is_null(), "{status}");
        Ok(())
    })
    .await?;
    ensure!(secrets.get("db").await?.data == secret.data, "it is another one");
    ensure!(red.ready_pods("acme", 3).await? == pods, "it kept running");
    Ok(())
}

/// What a tenant has written before it was stopped, to the last line.
async fn at_rest(red: &Site, tenant: &str, before: &str) -> Result<String> {
    let written = red.written_by(tenant, "data").await?;
    ensure!(written.starts_with(before) && written.ends_with("stopped\n"), "{before:?} became {written:?}");
    Ok(written)
}

/// Waits until a tenant writes behind all that it had written before.
async fn goes_on(red: &Site, tenant: &str, before: &str) -> Result<()> {
    until(&format!("{tenant} goes on with its data"), SOON, || async {
        let written = red.written_by(tenant, "data").await?;
        let since = written.strip_prefix(before).with_context(|| format!("{before:?} became {written:?}"))?;
        ensure!(since.starts_with("started\nrow 1\n"), "{since:?} is new");
        Ok(())
    })
    .await
}

/// Hibernated and woken, on the same volume.
async fn hibernate(group: &Group, red: &Site) -> Result<()> {
    let before = red.written_by("rival", "data").await?;
    desire(group, "rival", "Hibernated")?;
    red.until_pods("rival", 0).await?;
    let written = at_rest(red, "rival", &before).await?;
    desire(group, "rival", "Running")?;
    red.until_pods("rival", 2).await?;
    until_phase(group, "rival", "Running").await?;
    goes_on(red, "rival", &written).await
}

/// Deleted, and brought back where it was with its data.
async fn delete_and_bring_back(group: &Group, red: &Site) -> Result<()> {
    let (namespace, before) = (red.namespace_of("acme").await?, red.written_by("acme", "data").await?);
    let [.., volumes] = standing(group, "acme")?;
    ensure!(volumes["data"].is_string(), "its volume is known: {volumes}");
    cli::run(group, 1, &["delete", "tenant", "acme", "--wait", "--timeout", "120s"])?;
    ensure!(red.pods_of("acme").await?.is_empty(), "nothing of it runs");
    let claims: Api<PersistentVolumeClaim> = Api::namespaced(red.client.clone(), &namespace);
    ensure!(claims.get("data").await?.metadata.uid.as_deref() == volumes["data"].as_str(), "its volume is kept");
    let written = at_rest(red, "acme", &before).await?;
    cli::run(group, 1, &["undelete", "acme"])?;
    until_phase(group, "acme", "Running").await?;
    ensure!(red.namespace_of("acme").await? == namespace, "where it was");
    ensure!(claims.get("data").await?.metadata.uid.as_deref() == volumes["data"].as_str(), "it has another volume");
    goes_on(red, "acme", &written).await
}

/// Purges a tenant: of all namespaces in both clusters exactly its own is gone.
async fn purge(group: &Group, tenant: &str, from: &Site, other: &Site) -> Result<()> {
    let (mut expected, others) = (from.namespaces().await?, other.namespaces().await?);
    ensure!(expected.remove(&from.namespace_of(tenant).await?).is_some(), "it has a namespace");
    cli::run(group, 1, &["delete", "tenant", tenant, "--purge", "--wait", "--timeout", "120s"])?;
    let gone = |before: &BTreeMap<String, String>, after: &BTreeMap<String, String>| format!("{before:?} became {after:?}");
    let (left, elsewhere) = (from.namespaces().await?, other.namespaces().await?);
    ensure!(left == expected, "{}", gone(&expected, &left));
    ensure!(elsewhere == others, "{}", gone(&others, &elsewhere));
    Ok(())
}
