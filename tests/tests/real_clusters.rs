//! Two whole clusters with real nodes, pods and volumes carry tenants of the classes in `examples/` that were placed over the API: from the
//! first placement to the last purge, over killed agents, a restarted API server, and hands that break things.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Namespace, PersistentVolumeClaim, Pod, Secret, Service};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use roadstead_tests::cli;
use roadstead_tests::group::{Group, binary};
use roadstead_tests::process::{Process, until};
use roadstead_tests::testbed::{STORAGE_CLASS, WholeCluster};
use serde_json::{Value, json};

/// How long anything may take on a busy machine.
const SOON: Duration = Duration::from_secs(120);

fn document(name: &str) -> String {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/real_clusters").join(name).display().to_string()
}

/// The classes that the project shows; a program that keeps a log stands in for what is in their images.
fn classes() -> String {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../examples/classes.yaml").display().to_string()
}

/// A cluster with its agent.
struct Site {
    name: &'static str,
    cluster: WholeCluster,
    client: Client,
    volumes: Vec<PathBuf>,
    agent: Option<Process>,
}

impl Site {
    async fn start(name: &'static str, volumes: usize) -> Result<Self> {
        let cluster = WholeCluster::start(name).await?;
        let client = cluster.plane().client().await?;
        let mut folders = Vec::new();
        for number in 0..volumes {
            folders.push(cluster.add_volume(&format!("v{number}"), 20 * 1024).await?);
        }
        let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "roadstead-system"}});
        Api::<Namespace>::all(client.clone()).create(&PostParams::default(), &serde_json::from_value(namespace)?).await?;
        Ok(Self { name, cluster, client, volumes: folders, agent: None })
    }

    fn start_agent(&mut self, group: &Group) -> Result<()> {
        let pki = group.folder().join("pki");
        let mut command = Command::new(binary()?);
        command.arg("agent").arg("--kubeconfig").arg(self.cluster.plane().kubeconfig());
        command.args(["--lease", "one", "--storage", &format!("fast={STORAGE_CLASS}"), "--log-filter", "info"]);
        command.args(["--server", &group.replica(1).client.to_string()]).arg("--ca").arg(pki.join("ca-bundle.crt"));
        command.arg("--cert").arg(pki.join(format!("agent-{}.crt", self.name)));
        command.arg("--key").arg(pki.join(format!("agent-{}.key", self.name)));
        let log = group.folder().join(format!("agent-{}.log", self.name));
        self.agent = Some(Process::start(&format!("the agent of {}", self.name), &mut command, &log)?);
        Ok(())
    }

    fn agent(&mut self) -> Result<&mut Process> {
        self.agent.as_mut().context("the agent runs")
    }

    async fn namespaces_of(&self, tenant: &str) -> Result<Vec<String>> {
        let all: Api<Namespace> = Api::all(self.client.clone());
        let found = all.list(&ListParams::default().labels(&format!("roadstead.dev/name={tenant}"))).await?;
        Ok(found.items.into_iter().filter_map(|namespace| namespace.metadata.name).collect())
    }

    async fn namespace_of(&self, tenant: &str) -> Result<String> {
        let mut found = self.namespaces_of(tenant).await?;
        ensure!(found.len() == 1, "{tenant} has {found:?} in {}", self.name);
        found.pop().context("one")
    }

    async fn pods_of(&self, tenant: &str) -> Result<Vec<Pod>> {
        Ok(Api::<Pod>::namespaced(self.client.clone(), &self.namespace_of(tenant).await?).list(&ListParams::default()).await?.items)
    }

    async fn until_pods(&self, tenant: &str, count: usize) -> Result<()> {
        until(&format!("{tenant} has {count} ready pods in {}", self.name), SOON, || async {
            let pods = self.pods_of(tenant).await?;
            let ready = pods.iter().filter(|pod| is_ready(pod)).count();
            ensure!(pods.len() == count && ready == count, "{ready} of {} are ready", pods.len());
            Ok(())
        })
        .await
    }

    /// What was written to the volumes, all together.
    fn written(&self) -> String {
        self.volumes.iter().filter_map(|folder| std::fs::read_to_string(folder.join("log")).ok()).collect()
    }
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    pod.metadata.deletion_timestamp.is_none()
        && conditions.into_iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

fn tenant(group: &Group, name: &str) -> Result<Value> {
    serde_json::from_str(&cli::run(group, 1, &["get", "tenant", name, "-o", "json"])?).context("a tenant is JSON")
}

async fn until_phase(group: &Group, name: &str, phase: &str) -> Result<()> {
    until(&format!("{name} is {phase}"), SOON, || async {
        let status = tenant(group, name)?["status"].take();
        ensure!(status["phase"] == phase, "{status}");
        Ok(())
    })
    .await
}

/// Applies a tenant's document with another desired state.
fn desire(group: &Group, name: &str, desired: &str) -> Result<()> {
    let mut document = tenant(group, name)?;
    document["spec"]["desired"] = json!(desired);
    document["metadata"].as_object_mut().context("metadata")?.remove("revision");
    let file = group.folder().join("desired.json");
    std::fs::write(&file, document.to_string())?;
    cli::run(group, 1, &["apply", "-f", &file.display().to_string()]).map(drop)
}

async fn until_told(group: &Group, cluster: &str) -> Result<()> {
    until(&format!("{cluster} has told what it holds"), SOON, || async {
        let told: Value = serde_json::from_str(&cli::run(group, 1, &["get", "cluster", cluster, "-o", "json"])?)?;
        let status = &told["status"];
        ensure!(status["info"]["readyNodes"] == 1 && !status["capacity"]["allocatable"]["cpu"].is_null(), "{status}");
        ensure!(status["info"]["version"].as_str().is_some_and(|version| version.starts_with("v1.")), "{status}");
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tenants_live_in_the_clusters_that_were_chosen_for_them_until_they_are_purged() -> Result<()> {
    let group = Group::start(1).await?;
    let (mut red, mut blue) = tokio::try_join!(Site::start("red", 2), Site::start("blue", 1))?;
    for site in [&mut red, &mut blue] {
        group.pki(&["issue", "agent", site.name])?;
    }
    cli::run(&group, 1, &["apply", "-f", &document("fleet.yaml"), "-f", &classes()])?;
    red.start_agent(&group)?;
    blue.start_agent(&group)?;
    let lived = live(&group, &mut red, &mut blue).await;
    lived.with_context(|| {
        let log = |site: &mut Site| site.agent().map(|agent| agent.log_tail()).unwrap_or_default();
        format!("the agent of red: {}\nthe agent of blue: {}", log(&mut red), log(&mut blue))
    })
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
    ensure!(red.written().matches("started").count() == 2, "each database writes to its own volume: {:?}", red.written());
    let uids = tenant(group, "acme")?["status"]["volumes"].take();
    ensure!(uids["data"].is_string(), "its volume is known: {uids}");

    // Hibernated and woken, on the same volume.
    desire(group, "rival", "Hibernated")?;
    red.until_pods("rival", 0).await?;
    desire(group, "rival", "Running")?;
    red.until_pods("rival", 2).await?;
    until_phase(group, "rival", "Running").await?;
    ensure!(red.written().matches("stopped").count() == 1 && red.written().matches("started").count() == 3, "{:?}", red.written());

    // An agent is killed; what is broken by hand meanwhile is put right by the next, and nothing else is touched.
    red.agent()?.kill()?;
    let namespace = red.namespace_of("acme").await?;
    let deployments: Api<Deployment> = Api::namespaced(red.client.clone(), &namespace);
    let (before, pods) = (deployments.get("web").await?, red.pods_of("acme").await?.len());
    ensure!(pods == 3, "its tenants keep running without it");
    Api::<Service>::namespaced(red.client.clone(), &namespace).delete("web", &DeleteParams::default()).await?;
    red.start_agent(group)?;
    let services: Api<Service> = Api::namespaced(red.client.clone(), &namespace);
    until("the service is there again", SOON, || async { Ok(services.get("web").await.map(drop)?) }).await?;
    ensure!(deployments.get("web").await?.metadata.generation == before.metadata.generation, "what was in step was left alone");
    break_by_hand(red, &namespace).await?;

    // An API server is restarted under its agent.
    blue.cluster.plane_mut().restart_api_server().await?;
    let elsewhere = blue.namespace_of("overseas").await?;
    let services: Api<Service> = Api::namespaced(blue.client.clone(), &elsewhere);
    services.delete("broker", &DeleteParams::default()).await?;
    until("the agent goes on", SOON, || async { Ok(services.get("broker").await.map(drop)?) }).await?;
    name_what_cannot_run(group).await?;

    // Deleted, brought back with its data, and purged: exactly its namespace goes.
    cli::run(group, 1, &["delete", "tenant", "acme", "--wait", "--timeout", "120s"])?;
    ensure!(red.pods_of("acme").await?.is_empty(), "nothing of it runs");
    let claims: Api<PersistentVolumeClaim> = Api::namespaced(red.client.clone(), &namespace);
    ensure!(claims.get("data").await?.metadata.uid.as_deref() == uids["data"].as_str(), "its volume is kept");
    cli::run(group, 1, &["undelete", "acme"])?;
    until_phase(group, "acme", "Running").await?;
    ensure!(red.namespace_of("acme").await? == namespace, "where it was");
    cli::run(group, 1, &["delete", "tenant", "acme", "--purge", "--wait", "--timeout", "120s"])?;
    ensure!(red.namespaces_of("acme").await?.is_empty(), "its namespace is gone");
    red.until_pods("rival", 2).await?;
    blue.until_pods("overseas", 3).await?;
    Ok(())
}

/// What keeps a tenant from running stands with it in plain words, and hinders nobody else.
async fn name_what_cannot_run(group: &Group) -> Result<()> {
    cli::run(group, 1, &["apply", "-f", &document("troubled.yaml")])?;
    let told = [
        ("unpulled", "image registry.example/none:1 cannot be pulled"),
        ("homeless", "cannot be scheduled: 0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector"),
    ];
    for (name, words) in told {
        until(&format!("why {name} does not run is told"), SOON, || async {
            let status = tenant(group, name)?["status"].take();
            ensure!(status["phase"] == "Placed" && status["trouble"]["why"].as_str().is_some_and(|why| why.contains(words)), "{status}");
            Ok(())
        })
        .await?;
        cli::run(group, 1, &["delete", "tenant", name, "--purge", "--wait", "--timeout", "120s"])?;
    }
    Ok(())
}

/// What hands do: a label is stripped, a workload edited, a generated secret deleted.
async fn break_by_hand(red: &Site, namespace: &str) -> Result<()> {
    let deployments: Api<Deployment> = Api::namespaced(red.client.clone(), namespace);
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
    red.until_pods("acme", 3).await?;
    let secrets: Api<Secret> = Api::namespaced(red.client.clone(), namespace);
    let secret = secrets.get("db").await?;
    secrets.delete("db", &DeleteParams::default()).await?;
    // A generated secret is never made anew over a volume that is there; put back it is taken for what it was.
    let again = Secret { metadata: kube::api::ObjectMeta { resource_version: None, uid: None, ..secret.metadata.clone() }, ..secret };
    until("the secret is not made anew", SOON, || async {
        let lost = secrets.get_opt("db").await?.is_none();
        ensure!(lost, "a new one is there");
        Ok(())
    })
    .await?;
    secrets.create(&PostParams::default(), &again).await?;
    Ok(())
}
