//! Clusters as ClusterProfiles in a management cluster: a real API server, a real placement service, the shipped rights.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use kube::Client;
use roadstead_api::v1;
use roadstead_api::v1::agent_service_client::AgentServiceClient;
use roadstead_cli::export::write::{carry_out, profiles};
use roadstead_cli::export::{ClusterProfile, Owner, Step, plan};
use roadstead_cli::failure::Exit;
use roadstead_tests::cli::{Said, run, try_run};
use roadstead_tests::group::{Group, binary};
use roadstead_tests::process::{Process, until};
use roadstead_tests::testbed::{ControlPlane, Options};
use serde_json::{Value, json};
use tonic::codegen::http::{Method, Request};

const SOON: Duration = Duration::from_secs(60);
const NAMESPACE: &str = "roadstead-clusters";
const PROFILES: &str = "/apis/multicluster.x-k8s.io/v1alpha1/namespaces/roadstead-clusters/clusterprofiles";
/// The exporter's account, as deploy/ has it.
const ACCOUNT: &str = "system:serviceaccount:roadstead-clusters:roadstead-export";

async fn send(client: &Client, method: Method, path: &str, content: &str, body: &Value) -> kube::Result<Value> {
    let bytes = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
    let request = Request::builder().method(method).uri(path).header("content-type", content);
    client.request(request.body(bytes).map_err(kube::Error::HttpError)?).await
}

/// A management cluster with the definition of profiles and the exporter's rights; and a placement service.
struct World {
    plane: ControlPlane,
    admin: Client,
    group: Group,
    /// Of the exporter's account.
    kubeconfig: String,
}

impl World {
    async fn start() -> Result<Self> {
        let plane = ControlPlane::start(Options { controllers: false, ..Options::default() }).await?;
        let admin = plane.client().await?;
        let definition: Value = serde_saphyr::from_str(include_str!("cluster_profiles/definition.yaml"))?;
        let definitions = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
        send(&admin, Method::POST, definitions, "application/json", &definition).await?;
        for document in include_str!("../../deploy/kubernetes/cluster-profiles.yaml").split("\n---\n") {
            let document: Value = serde_saphyr::from_str(document)?;
            let rbac = "/apis/rbac.authorization.k8s.io/v1/namespaces/roadstead-clusters";
            let path = match document["kind"].as_str() {
                Some("Namespace") => "/api/v1/namespaces".to_owned(),
                Some("Role") => format!("{rbac}/roles"),
                Some("RoleBinding") => format!("{rbac}/rolebindings"),
                // Nobody runs it here.
                _ => continue,
            };
            send(&admin, Method::POST, &path, "application/json", &document).await.with_context(|| format!("cannot create {path}"))?;
        }
        let kubeconfig = plane.kubeconfig_as(ACCOUNT, &["system:serviceaccounts"])?.display().to_string();
        let exporter = plane.client_as(ACCOUNT, &["system:serviceaccounts"]).await?;
        until("the exporter may list", SOON, || async {
            send(&exporter, Method::GET, PROFILES, "", &Value::Null).await?;
            Ok(())
        })
        .await?;
        let group = Group::start(1).await?;
        let world = Self { plane, admin, group, kubeconfig };
        world.apply("{kind: Pool, metadata: {name: home}, spec: {kind: home, policy: spread}}")?;
        Ok(world)
    }

    fn apply(&self, document: &str) -> Result<String> {
        let file = self.group.folder().join("document.yaml");
        std::fs::write(&file, document.replacen('{', "{apiVersion: roadstead.dev/v1, ", 1))?;
        run(&self.group, 1, &["apply", "-f", &file.display().to_string()])
    }

    fn apply_cluster(&self, name: &str) -> Result<String> {
        self.apply(&format!(
            "{{kind: Cluster, metadata: {{name: {name}}}, spec: {{provider: own, region: eu-central, zones: [a, b], pool: home}}}}"
        ))
    }

    /// What an agent of a cluster tells at first.
    async fn tell(&self, cluster: &str) -> Result<()> {
        if !self.group.folder().join(format!("pki/agent-{cluster}.crt")).exists() {
            self.group.pki(&["issue", "agent", cluster])?;
        }
        let resources = v1::Resources { cpu_millicores: 1_000, memory_bytes: 1 << 30, pods: 100, ..Default::default() };
        let info =
            v1::ClusterInfo { version: "v1.34.4".into(), agent_version: "0.1.0".into(), nodes: 3, ready_nodes: 3, ..Default::default() };
        let capacity = v1::Capacity { allocatable: Some(resources), used_by_others: Some(v1::Resources::default()), nodes: Vec::new() };
        let request =
            v1::ObserveRequest { uid: format!("uid-of-{cluster}"), capacity: Some(capacity), info: Some(info), ..Default::default() };
        AgentServiceClient::new(self.group.channel(1, &format!("agent-{cluster}"))?).observe(request).await.context("nobody listens")?;
        Ok(())
    }

    fn export(&self, more: &[&str]) -> Result<Said> {
        let all = ["export", "cluster-profiles", "--once", "--kubeconfig", &self.kubeconfig];
        try_run(&self.group, 1, &[&all[..], more].concat())
    }

    /// What it said; it has to end with this code.
    fn exported(&self, code: i32, more: &[&str]) -> Result<String> {
        let said = self.export(more)?;
        ensure!(said.code == code, "export {more:?} ended with {}:\n{}", said.code, said.text);
        Ok(said.text)
    }

    async fn get(&self, name: &str) -> kube::Result<Value> {
        send(&self.admin, Method::GET, &format!("{PROFILES}/{name}"), "", &Value::Null).await
    }

    /// A profile of somebody else's.
    async fn foreign(&self, name: &str, manager: &str) -> Result<Value> {
        let body = json!({
            "apiVersion": "multicluster.x-k8s.io/v1alpha1", "kind": "ClusterProfile",
            "metadata": {"name": name, "labels": {"x-k8s.io/cluster-manager": manager}},
            "spec": {"displayName": "Theirs", "clusterManager": {"name": manager}},
        });
        Ok(send(&self.admin, Method::POST, PROFILES, "application/json", &body).await?)
    }

    async fn edit(&self, name: &str, change: &Value) -> Result<Value> {
        Ok(send(&self.admin, Method::PATCH, &format!("{PROFILES}/{name}"), "application/merge-patch+json", change).await?)
    }

    async fn is_gone(&self, name: &str) -> bool {
        matches!(self.get(name).await, Err(kube::Error::Api(status)) if status.code == 404)
    }
}

fn healthy(profile: &Value) -> &Value {
    &profile["status"]["conditions"][0]["status"]
}

#[tokio::test]
async fn a_fleet_is_written_once_and_what_is_others_is_left_alone() -> Result<()> {
    let world = World::start().await?;
    for name in ["eu-1", "eu-2", "eu-3"] {
        world.apply_cluster(name)?;
    }
    world.tell("eu-1").await?;
    let theirs =
        [world.foreign("eu-3", "karmada").await?, world.foreign("other", "karmada").await?, world.foreign("twin", "roadstead").await?];

    let told = world.exported(4, &["--dry-run"])?;
    ensure!(
        told.contains("clusterprofile/eu-1 created (dry run)") && told.contains("eu-3 left alone (dry run): karmada manages it"),
        "{told}"
    );
    let printed = world.exported(0, &["--dry-run", "-o", "yaml"])?;
    ensure!(printed.contains("kind: ClusterProfile") && printed.contains("apiVersion: multicluster.x-k8s.io/v1alpha1"), "{printed}");
    ensure!(world.is_gone("eu-1").await, "a dry run has written");

    let told = world.exported(4, &[])?;
    ensure!(told.contains("clusterprofile/eu-1 created") && told.contains("clusterprofile/eu-3 left alone: karmada manages it"), "{told}");
    let profile = world.get("eu-1").await?;
    let spec = json!({"displayName": "eu-1", "clusterManager": {"name": "roadstead"}});
    ensure!(profile["spec"] == spec && profile["metadata"]["labels"]["x-k8s.io/cluster-manager"] == "roadstead", "{profile}");
    ensure!(profile["status"]["version"]["kubernetes"] == "v1.34.4" && healthy(&profile) == "True", "{profile}");
    let property = |name: &str| {
        let all = profile["status"]["properties"].as_array().into_iter().flatten();
        all.clone().find(|property| property["name"] == name).map(|property| property["value"].clone()).unwrap_or_default()
    };
    for (name, value) in [
        ("cluster.clusterset.k8s.io", "uid-of-eu-1"),
        ("topology.kubernetes.io/region", "eu-central"),
        ("roadstead.dev/provider", "own"),
        ("roadstead.dev/pool", "home"),
        ("roadstead.dev/nodes", "3"),
    ] {
        ensure!(property(name) == value, "{name}: {profile}");
    }
    let managers = profile["metadata"]["managedFields"].as_array().into_iter().flatten();
    ensure!(managers.clone().all(|entry| entry["manager"] == "roadstead-export" && entry["operation"] == "Apply"), "{profile}");
    // No agent has told of it.
    let silent = world.get("eu-2").await?;
    ensure!(healthy(&silent) == "Unknown" && silent["status"]["version"]["kubernetes"].is_null(), "{silent}");

    // In step: nothing is written.
    world.tell("eu-1").await?;
    let told = world.exported(4, &[])?;
    ensure!(told.contains("clusterprofile/eu-1 unchanged") && told.contains("clusterprofile/eu-2 unchanged"), "{told}");
    ensure!(world.get("eu-1").await?["metadata"]["resourceVersion"] == profile["metadata"]["resourceVersion"], "it was written again");

    // Put right is what is ours.
    world.edit("eu-1", &json!({"metadata": {"labels": {"team": "blue"}}, "spec": {"displayName": "mine"}})).await?;
    let told = world.exported(4, &[])?;
    ensure!(told.contains("clusterprofile/eu-1 configured"), "{told}");
    let after = world.get("eu-1").await?;
    ensure!(after["spec"] == spec && after["metadata"]["labels"]["team"] == "blue", "{after}");

    // Its cluster is gone; but as long as the service does not answer, nobody knows.
    run(&world.group, 1, &["delete", "cluster", "eu-2"])?;
    let unreachable = world.exported(5, &["--server", "127.0.0.1:1", "--timeout", "1s"])?;
    ensure!(!unreachable.contains("clusterprofile/"), "{unreachable}");
    ensure!(!world.is_gone("eu-2").await, "it was deleted though the service did not answer");
    let told = world.exported(4, &[])?;
    ensure!(told.contains("clusterprofile/eu-2 deleted") && world.is_gone("eu-2").await, "{told}");
    for theirs in theirs {
        let name = theirs["metadata"]["name"].as_str().context("a profile has a name")?;
        ensure!(world.get(name).await? == theirs, "{name} is not as it was");
    }
    Ok(())
}

#[tokio::test]
async fn what_came_or_changed_since_it_was_seen_is_left_alone() -> Result<()> {
    let world = World::start().await?;
    let exporter = world.plane.client_as(ACCOUNT, &["system:serviceaccounts"]).await?;
    let cluster = |name: &str| v1::Cluster { name: name.into(), spec: Some(v1::ClusterSpec::default()), ..Default::default() };
    let owner = Owner { manager: "roadstead".into(), group: "0a".into() };
    let now = "2026-01-01T00:00:00Z";
    let plan = |clusters: &[v1::Cluster], there: &[ClusterProfile]| plan(clusters, there, NAMESPACE, &owner, now);
    let conflicts = async |step: &Step| {
        let failure = carry_out(&exporter, NAMESPACE, step).await.err().with_context(|| format!("{step:?} went through"))?;
        ensure!(failure.exit == Exit::Conflict, "{failure}");
        anyhow::Ok(())
    };

    // Somebody else was faster.
    let create = plan(&[cluster("eu-1"), cluster("eu-2")], &[]);
    let theirs = world.foreign("eu-1", "karmada").await?;
    conflicts(&create[0]).await?;
    ensure!(world.get("eu-1").await? == theirs, "a foreign profile was changed");
    ensure!(carry_out(&exporter, NAMESPACE, &create[1]).await.is_ok_and(|word| word == "created"), "eu-2 was not made");

    // It has changed since it was to be deleted: perhaps its cluster is back.
    let seen = profiles(&exporter, Some(NAMESPACE)).await.map_err(|failure| anyhow::anyhow!("{failure}"))?;
    let delete = plan(&[], &seen);
    ensure!(matches!(&delete[..], [Step::Delete { name, .. }] if name == "eu-2"), "{delete:?}");
    world.edit("eu-2", &json!({"metadata": {"labels": {"team": "blue"}}})).await?;
    conflicts(&delete[0]).await?;
    ensure!(!world.is_gone("eu-2").await, "it was deleted");

    // Another took its place: neither the old steps to delete nor to change touch that.
    let mut renamed = seen.clone();
    renamed.iter_mut().for_each(|profile| profile.spec.display_name = "edited".into());
    let change = plan(&[cluster("eu-2")], &renamed);
    ensure!(matches!(&change[..], [Step::Change(_)]), "{change:?}");
    send(&world.admin, Method::DELETE, &format!("{PROFILES}/eu-2"), "", &Value::Null).await?;
    let theirs = world.foreign("eu-2", "karmada").await?;
    conflicts(&delete[0]).await?;
    conflicts(&change[0]).await?;
    ensure!(world.get("eu-2").await? == theirs, "a foreign profile was changed");
    Ok(())
}

#[tokio::test]
async fn a_running_export_follows_the_fleet() -> Result<()> {
    let world = World::start().await?;
    world.apply("{kind: Policy, metadata: {name: default}, spec: {silentAfter: 2s}}")?;
    world.apply_cluster("eu-1")?;
    let pki = world.group.folder().join("pki");
    let mut command = Command::new(binary()?);
    // Only the watch can be what tells it.
    command.args(["export", "cluster-profiles", "--every", "1h", "--kubeconfig", &world.kubeconfig]);
    command.args(["--server", &world.group.replica(1).client.to_string()]);
    for (flag, file) in [("--ca", "ca-bundle.crt"), ("--cert", "viewer-test.crt"), ("--key", "viewer-test.key")] {
        command.arg(flag).arg(pki.join(file));
    }
    let log: PathBuf = world.group.folder().join("export.log");
    let mut export = Process::start("export", &mut command, &log)?;
    let seen = async |what: &str, name: &str, expected: &dyn Fn(&Value) -> bool| {
        until(what, SOON, || async {
            let profile = world.get(name).await?;
            ensure!(expected(&profile), "{profile}");
            Ok(())
        })
        .await
    };
    seen("a profile of the cluster that is there", "eu-1", &|profile| healthy(profile) == "Unknown").await?;
    world.tell("eu-1").await?;
    seen("its agent is in contact", "eu-1", &|profile| healthy(profile) == "True").await?;
    seen("its agent has fallen silent", "eu-1", &|profile| {
        healthy(profile) == "Unknown" && profile["status"]["conditions"][0]["reason"] == "AgentSilent"
    })
    .await?;
    world.apply_cluster("eu-2")?;
    seen("a profile of a new cluster", "eu-2", &|_| true).await?;
    run(&world.group, 1, &["delete", "cluster", "eu-2"])?;
    until("the profile of a cluster that is gone goes", SOON, || async {
        ensure!(world.is_gone("eu-2").await, "it is there");
        Ok(())
    })
    .await?;
    ensure!(!world.is_gone("eu-1").await, "the other is gone, too");
    let ended = export.terminate(SOON)?;
    ensure!(ended.success(), "{ended}: {}", export.log_tail());
    Ok(())
}

#[tokio::test]
async fn clusters_of_other_managers_are_candidates_until_they_have_joined() -> Result<()> {
    let world = World::start().await?;
    world.apply_cluster("eu-1")?;
    world.tell("eu-1").await?;
    world.exported(0, &[])?;
    world.foreign("eu-9", "karmada").await?;
    world.foreign("production", "karmada").await?;
    let status = json!({"status": {
        "version": {"kubernetes": "v1.33.1"},
        "properties": [{"name": "topology.kubernetes.io/region", "value": "us-east"}, {"name": "id.example.com", "value": "uid-of-eu-1"}],
    }});
    let path = format!("{PROFILES}/production/status");
    send(&world.admin, Method::PATCH, &path, "application/merge-patch+json", &status).await?;
    let admin = world.plane.kubeconfig().display().to_string();
    let list = |more: &[&str]| try_run(&world.group, 1, &[&["get", "candidates", "--kubeconfig", &admin][..], more].concat());
    // That one has joined: it has the identity of eu-1.
    let names = list(&["-o", "name"])?;
    ensure!(names.code == 0 && names.text.starts_with("candidate/eu-9\nnext: "), "{}", names.text);
    let table = list(&[])?.text;
    ensure!(table.contains("eu-9  karmada  roadstead-clusters  -        Unknown"), "{table}");
    ensure!(table.contains("next: `roadstead join eu-9 --from-service --apply --kube-context eu-9`"), "{table}");
    world.apply_cluster("eu-9")?;
    ensure!(list(&[])?.text.trim() == "none", "{}", list(&[])?.text);
    // The exporter's rights do not reach over namespaces; and a cluster without the definition says so.
    let refused = try_run(&world.group, 1, &["get", "candidates", "--kubeconfig", &world.kubeconfig])?;
    ensure!(refused.code == 6 && refused.text.contains("cannot list ClusterProfiles"), "{}", refused.text);
    let definition = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/clusterprofiles.multicluster.x-k8s.io";
    send(&world.admin, Method::DELETE, definition, "", &Value::Null).await?;
    until("the definition is gone", SOON, || async {
        let said = list(&[])?;
        ensure!(said.code == 3 && said.text.contains("the cluster serves no ClusterProfile"), "{}", said.text);
        Ok(())
    })
    .await
}
