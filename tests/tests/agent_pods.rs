//! The agent as the Deployment that joining makes, on a real node: two pods that know their cluster by what is mounted into them, run as
//! nobody on a file system that they cannot write to, and elect one of them by their names. All of it is as `roadstead join` wrote it, but for
//! the address of the API server: no Service has one that pods reach.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures::TryStreamExt;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Namespace, Node, Pod, Secret};
use kube::api::{DeleteParams, ListParams, LogParams, Patch, PatchParams, WatchEvent, WatchParams};
use kube::{Api, Client};
use roadstead_agent::identity::exchange::{Failed, Whose, enrol, new_key};
use roadstead_agent::identity::{Place, unix_now_s};
use roadstead_tests::cli;
use roadstead_tests::group::{Group, Options, SERVER_NAME, binary};
use roadstead_tests::process::until;
use roadstead_tests::testbed::{GUEST_IMAGE, WholeCluster};
use serde_json::{Value, json};
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint};

/// How long anything may take on a busy machine.
const SOON: Duration = Duration::from_secs(120);
/// How long it may take to find out whether network policies hold: a try takes a minute and a half at most, and one is broken off.
const TRIED_WITHIN: Duration = Duration::from_secs(300);
const NAME: &str = "eu-1";
const SYSTEM: &str = "roadstead-system";
/// The agent's Deployment, its Lease, its container's pods by their label.
const AGENT: &str = "roadstead-agent";
const TOKEN: &str = "roadstead-agent-join";
const IDENTITY: &str = "roadstead-agent-identity";
const IMAGE: &str = "testbed.local/roadstead:1";
const REPLICAS: usize = 3;
/// A cluster, and a class whose tenants have one pod.
const FLEET: &str = "\
apiVersion: roadstead.dev/v1
kind: Pool
metadata: {name: home}
spec: {kind: home, order: 1, policy: spread}
---
apiVersion: roadstead.dev/v1
kind: Cluster
metadata: {name: eu-1}
spec: {pool: home, provider: own, region: eu-1}
---
apiVersion: roadstead.dev/v1
kind: Class
metadata: {name: small}
spec:
  version: 1.0.0
  requests: {cpu: 20m, memory: 32Mi, pods: 2, largestPod: {cpu: 10m, memory: 16Mi}}
  podSecurity: restricted
  manifests: [small/*.yaml]
  retain: 1d
";

/// What a tenant of the class runs.
fn workload() -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"}, "spec": {
        "replicas": 1,
        "selector": {"matchLabels": {"app": "web"}},
        "template": {"metadata": {"labels": {"app": "web"}}, "spec": {
            "securityContext": {"runAsNonRoot": true, "runAsUser": 10001, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [{
                "name": "web", "image": GUEST_IMAGE, "args": ["pause"],
                "resources": {"requests": {"cpu": "10m", "memory": "16Mi"}},
                "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}},
            }],
        }},
    }})
}

/// A cluster with a node, and the replicas that its pods reach.
struct Site {
    cluster: WholeCluster,
    group: Group,
    client: Client,
}

impl Site {
    async fn start() -> Result<Self> {
        let cluster = WholeCluster::start(NAME).await?;
        cluster.import_program(IMAGE, &binary()?)?;
        let options = Options { address: Some(cluster.plane().address().ip()), ..Options::default() };
        let group = Group::issuing_with(REPLICAS, options).await?;
        let client = cluster.plane().client().await?;
        let (fleet, small) = (group.folder().join("fleet.yaml"), group.folder().join("small"));
        std::fs::create_dir(&small)?;
        std::fs::write(small.join("web.yaml"), workload().to_string())?;
        std::fs::write(&fleet, FLEET)?;
        cli::run(&group, 1, &["apply", "-f", &fleet.display().to_string()])?;
        Ok(Self { cluster, group, client })
    }

    fn namespaced<K>(&self) -> Api<K>
    where
        K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.client.clone(), SYSTEM)
    }

    /// Whether new pods start: what runs keeps running.
    async fn let_pods_start(&self, start: bool) -> Result<()> {
        let nodes: Api<Node> = Api::all(self.client.clone());
        let cordoned = Patch::Merge(json!({"spec": {"unschedulable": !start}}));
        nodes.patch(NAME, &PatchParams::default(), &cordoned).await?;
        Ok(())
    }

    /// Joins as an operator does, and tells the pods where the API server is before any of them starts.
    async fn join(&self) -> Result<()> {
        self.let_pods_start(false).await?;
        let kubeconfig = self.cluster.plane().kubeconfig().display().to_string();
        let servers: Vec<String> = self.group.replicas.iter().map(|replica| replica.client.to_string()).collect();
        let mut arguments = vec!["join", NAME, "--from-service", "--apply", "--kubeconfig", &kubeconfig, "--image", IMAGE];
        arguments.extend(servers.iter().flat_map(|server| ["--server", server]));
        // The level that knows tokens is agreed soon after the start.
        let told = until("it joins", SOON, || async { cli::run(&self.group, 1, &arguments) }).await?;
        ensure!(told.contains("secret/roadstead-agent-join created") && !told.contains("warning"), "{told}");

        let deployments: Api<Deployment> = self.namespaced();
        let wanted = deployments.get(AGENT).await?.spec.and_then(|spec| spec.replicas);
        ensure!(wanted == Some(2), "{wanted:?} replicas are wanted");
        let address = self.cluster.plane().address();
        let environment = json!([
            {"name": "KUBERNETES_SERVICE_HOST", "value": address.ip().to_string()},
            {"name": "KUBERNETES_SERVICE_PORT", "value": address.port().to_string()},
        ]);
        let container = json!({"name": "agent", "env": environment});
        let patch = json!({"spec": {"replicas": 0, "template": {"spec": {"containers": [container]}}}});
        deployments.patch(AGENT, &PatchParams::default(), &Patch::Strategic(patch)).await?;
        until("those without an address are gone", SOON, || async {
            let pods = self.pods().await?;
            ensure!(pods.is_empty(), "there are {:?}", pods.keys());
            Ok(())
        })
        .await?;
        let patch = json!({"spec": {"replicas": wanted}});
        deployments.patch(AGENT, &PatchParams::default(), &Patch::Merge(patch)).await?;
        self.let_pods_start(true).await
    }

    /// The agent's pods, by name.
    async fn pods(&self) -> Result<BTreeMap<String, Pod>> {
        let params = ListParams::default().labels(&format!("app.kubernetes.io/name={AGENT}"));
        let pods = self.namespaced::<Pod>().list(&params).await?.items;
        pods.into_iter().map(|pod| Ok((pod.metadata.name.clone().context("a pod has a name")?, pod))).collect()
    }

    /// Waits until both of the agent's pods run, and no other is there.
    async fn until_both_run(&self) -> Result<BTreeMap<String, Pod>> {
        until("both of the agent's pods run", SOON, || async {
            let pods = self.pods().await?;
            let running = pods.values().filter(|pod| is_ready(pod)).count();
            ensure!(pods.len() == 2 && running == 2, "{running} of {:?} run", statuses(pods.values()));
            Ok(pods)
        })
        .await
    }

    /// The pod that holds the lease, if it is one of these.
    async fn leading(&self, pods: &BTreeMap<String, Pod>) -> Result<String> {
        let lease = self.namespaced::<Lease>().get(AGENT).await?;
        let holder = lease.spec.and_then(|spec| spec.holder_identity).context("nobody holds the lease")?;
        pods.keys().find(|name| me(name) == holder).cloned().with_context(|| format!("{holder} holds the lease"))
    }

    /// Deletes the pod that leads as a rollout does; who is said to hold the lease from then on, until somebody else does.
    async fn told_to_end(&self, leading: &str) -> Result<Vec<String>> {
        let leases: Api<Lease> = self.namespaced();
        let version = leases.get(AGENT).await?.metadata.resource_version.context("it has a version")?;
        let params = WatchParams::default().fields(&format!("metadata.name={AGENT}"));
        let mut changes = std::pin::pin!(leases.watch(&params, &version).await?);
        self.namespaced::<Pod>().delete(leading, &DeleteParams::default()).await?;
        let mut holders = vec![me(leading)];
        while holders.iter().all(|holder| *holder == me(leading) || holder.is_empty()) {
            let change = tokio::time::timeout(SOON, changes.try_next()).await.context("nobody takes the lease")??;
            match change {
                Some(WatchEvent::Modified(lease)) => holders.push(lease.spec.and_then(|spec| spec.holder_identity).unwrap_or_default()),
                Some(WatchEvent::Bookmark(_)) => {}
                other => anyhow::bail!("{other:?}"),
            }
        }
        holders.dedup();
        Ok(holders)
    }

    /// What is told of the cluster, once it fits.
    async fn until_told(&self, what: &str, within: Duration, fits: impl Fn(&Value) -> bool) -> Result<()> {
        until(what, within, || async {
            let shown = cli::run(&self.group, 1, &["get", "cluster", NAME, "-o", "json"])?;
            let status = serde_json::from_str::<Value>(&shown)?["status"].take();
            ensure!(fits(&status), "{status}");
            Ok(())
        })
        .await
    }

    /// Places a tenant, and waits until it runs; the uid of its pod.
    async fn place(&self, tenant: &str) -> Result<String> {
        let file = self.group.folder().join("tenant.yaml");
        let spec = "{owner: acme-gmbh, class: small@1.0.0}";
        std::fs::write(&file, format!("apiVersion: roadstead.dev/v1\nkind: Tenant\nmetadata: {{name: {tenant}}}\nspec: {spec}\n"))?;
        cli::run(&self.group, 1, &["apply", "-f", &file.display().to_string(), "--wait", "--timeout", "120s"])?;
        self.pod_of(tenant).await
    }

    /// The uid of a tenant's only pod, which is ready.
    async fn pod_of(&self, tenant: &str) -> Result<String> {
        let namespaces: Api<Namespace> = Api::all(self.client.clone());
        let found = namespaces.list(&ListParams::default().labels(&format!("roadstead.dev/name={tenant}"))).await?;
        let home = found.items.into_iter().next().and_then(|home| home.metadata.name).context("it has a namespace")?;
        let pods = Api::<Pod>::namespaced(self.client.clone(), &home).list(&ListParams::default()).await?.items;
        ensure!(pods.len() == 1 && is_ready(&pods[0]), "{tenant}: {:?}", statuses(&pods));
        pods.into_iter().next().and_then(|pod| pod.metadata.uid).context("a pod has a uid")
    }

    /// The agent has a certificate of its own, and its token lets nobody in any more.
    async fn the_token_is_spent(&self) -> Result<()> {
        let kept = Place::secret(self.client.clone(), SYSTEM, IDENTITY).load().await.map_err(anyhow::Error::msg)?;
        let validity = kept.context("nothing is kept")?.validity(NAME).map_err(anyhow::Error::msg)?;
        ensure!(!validity.has_ended(unix_now_s()), "it ended at {}", validity.end());

        let mounted = self.namespaced::<Secret>().get(TOKEN).await?.data.context("a token has data")?;
        let text = |key: &str| -> Result<String> { Ok(String::from_utf8(mounted.get(key).context("it is there")?.0.clone())?) };
        let (token, authorities) = (text("token")?, text("ca.crt")?);
        let system = Api::<Namespace>::all(self.client.clone()).get("kube-system").await?;
        let whose = Whose { cluster: NAME, uid: &system.metadata.uid.context("it has a uid")? };
        let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(authorities)).domain_name(SERVER_NAME);
        let replica = Endpoint::from_shared(format!("https://{}", self.group.replica(1).client))?.tls_config(tls)?;
        let again = enrol(&[replica], whose, &token, &new_key().map_err(anyhow::Error::msg)?).await;
        let refused = matches!(&again, Err(Failed::Refused(why)) if why.contains("was used already"));
        ensure!(refused, "{:?}", again.map(|credentials| credentials.validity(NAME)));
        Ok(())
    }

    /// Nothing in the agent's namespace has ended with an error or was started again, and no agent told of one.
    async fn nothing_has_failed(&self) -> Result<()> {
        let pods: Api<Pod> = self.namespaced();
        for pod in pods.list(&ListParams::default()).await? {
            let containers = pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
            for container in containers {
                let states = [&container.state, &container.last_state];
                let ends = states.into_iter().flatten().filter_map(|state| state.terminated.as_ref());
                let failed = ends.filter(|end| end.exit_code != 0).count();
                ensure!(container.restart_count == 0 && failed == 0, "{:?}: {container:?}", pod.metadata.name);
            }
        }
        for name in self.pods().await?.into_keys() {
            let log = pods.logs(&name, &LogParams::default()).await?;
            let error = log.lines().find(|line| line.contains("ERROR"));
            ensure!(log.contains("INFO") && error.is_none(), "{name} says {error:?}");
        }
        Ok(())
    }

    /// How the agent's pods are, and what they said last.
    async fn said(&self) -> String {
        let (pods, mut all) = (self.pods().await.unwrap_or_default(), String::new());
        for (name, pod) in &pods {
            all.push_str(&format!("{name}: {:?}\n", statuses([pod])));
            for previous in [true, false] {
                let params = LogParams { previous, tail_lines: Some(40), ..LogParams::default() };
                // There may be none.
                all.push_str(&self.namespaced::<Pod>().logs(name, &params).await.unwrap_or_default());
            }
        }
        all
    }
}

/// What a pod's agent is called in the lease: there it is the first process.
fn me(pod: &str) -> String {
    format!("{pod}-1")
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    pod.metadata.deletion_timestamp.is_none()
        && conditions.into_iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

fn statuses<'a>(pods: impl IntoIterator<Item = &'a Pod>) -> Vec<(Option<&'a str>, Value)> {
    let told = |pod: &'a Pod| {
        let status = pod.status.clone().unwrap_or_default();
        (
            pod.metadata.name.as_deref(),
            json!({"phase": status.phase, "conditions": status.conditions, "containers": status.container_statuses}),
        )
    };
    pods.into_iter().map(told).collect()
}

/// Each pod is as confined as joining makes it.
fn is_confined(pod: &Pod) -> Result<()> {
    let spec = serde_json::to_value(&pod.spec)?;
    let (own, container) = (&spec["securityContext"], &spec["containers"][0]);
    ensure!((&own["runAsUser"], &own["runAsNonRoot"]) == (&json!(65532), &json!(true)), "{own}");
    ensure!(container["securityContext"]["readOnlyRootFilesystem"] == true, "{container}");
    // An image that a node has already is used as it is.
    ensure!(container["imagePullPolicy"] == "IfNotPresent", "{container}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_agent_runs_as_the_pods_that_joining_makes() -> Result<()> {
    let site = Site::start().await?;
    match live(&site).await {
        Ok(()) => Ok(()),
        Err(error) => Err(error.context(site.said().await)),
    }
}

async fn live(site: &Site) -> Result<()> {
    site.join().await?;
    let pods = site.until_both_run().await?;
    pods.values().try_for_each(is_confined)?;
    let first = until("one of them holds the lease", SOON, || site.leading(&pods)).await?;
    site.until_told("it has told what it holds", SOON, |status| {
        let (info, contact) = (&status["info"], &status["lastContact"]);
        let version = info["version"].as_str().is_some_and(|version| version.starts_with("v1."));
        let contact = contact.as_str().is_some_and(|contact| contact != "unknown");
        status["state"] == "Active" && version && contact && info["agent"] == env!("CARGO_PKG_VERSION") && info["readyNodes"] == 1
    })
    .await?;
    site.the_token_is_spent().await?;
    let runs = site.place("one").await?;
    site.nothing_has_failed().await?;

    // The other takes over by what both share, when neither the token nor whoever used it is there any more.
    site.namespaced::<Secret>().delete(TOKEN, &DeleteParams::default()).await?;
    site.let_pods_start(false).await?;
    site.namespaced::<Pod>().delete(&first, &DeleteParams::default().grace_period(0)).await?;
    let others: BTreeMap<String, Pod> = pods.into_iter().filter(|(name, _)| *name != first).collect();
    let second = until("the other holds the lease", SOON, || site.leading(&others)).await?;
    site.let_pods_start(true).await?;
    site.place("two").await?;
    ensure!(site.pod_of("one").await? == runs, "what ran kept running");

    // The pod in the first one's place has no token, and needs none.
    let pods = site.until_both_run().await?;
    let names: BTreeSet<&String> = pods.keys().collect();
    ensure!(names.contains(&second) && !names.contains(&first), "{names:?}");
    pods.values().try_for_each(is_confined)?;
    // Nothing on this machine enforces them. What the first one left of its try is in nobody's way.
    site.until_told("whether policies hold is known", TRIED_WITHIN, |status| {
        let found = &status["details"]["networkPolicies"];
        (&found["ingress"], &found["egress"]) == (&json!("NotEnforced"), &json!("NotEnforced"))
    })
    .await?;
    ensure!(site.leading(&pods).await? == second, "it leads still");

    // Told to end, it lets the other begin at once.
    let third = pods.keys().find(|name| **name != second).context("there are two")?;
    site.let_pods_start(false).await?;
    let holders = site.told_to_end(&second).await?;
    ensure!(holders == [me(&second), String::new(), me(third)], "{holders:?}");
    site.let_pods_start(true).await?;
    site.until_both_run().await?;
    site.nothing_has_failed().await
}
