//! The peer's side: kube-scheduler and a real API server; nodes play clusters, and pods tenants. Pods are only bound: nobody runs them.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::{Node, Pod, Taint};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams, WatchEvent, WatchParams};
use kube::{Api, Client};
use roadstead_tests::load::each_once;
use roadstead_tests::process::{Process, until};
use roadstead_tests::testbed::{ControlPlane, Kwok, NodeShape, Options};
use serde_json::{Value, json};

use super::scenario::{Cluster, SIZES, Scenario, TAINT, Tenant, region_name};
use super::{Placed, Settings};

/// Requests that the API server works on at a time: as many as it likes; 400 and 200 if left alone.
const REQUESTS_IN_FLIGHT: u32 = 3_000;
/// Requests a second that kube-scheduler may make: as many as it likes; 50 and bursts of 100 if left alone.
const REQUESTS_PER_SECOND: u32 = 100_000;
/// Nodes that kube-scheduler looks at in parallel; 16 if left alone.
const PARALLELISM: u32 = 32;
/// What every pod asks for once and a node has as often as a cluster takes tenants: kube-scheduler obeys a limit on pods, but levels only
/// resources that it is told to.
const TENANT: &str = "example.com/tenant";
const REGION: &str = "topology.kubernetes.io/region";
/// How long all pods may take to be bound.
const BOUND_WITHIN: Duration = Duration::from_secs(600);
const PAGE: u32 = 2_000;
/// Nodes are `cluster-0` and on, pods `tenant-0` and on.
const NODES: &str = "cluster";
const PODS: &str = "tenant";

/// When pods come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Arrival {
    /// All pods are there before kube-scheduler starts, and time runs from the first to the last binding: it never waits for a pod, nobody
    /// else asks the API server for anything, and its own start is not counted.
    Before,
    /// kube-scheduler runs already; time runs from the first request to create a pod until the last is bound.
    Meanwhile,
}

/// The limits, for whoever reads the figures.
pub(super) fn limits(settings: &Settings) -> Value {
    json!({
        "kube_api_qps": REQUESTS_PER_SECOND, "kube_api_burst": REQUESTS_PER_SECOND, "parallelism": PARALLELISM,
        "max_requests_inflight": REQUESTS_IN_FLIGHT, "max_mutating_requests_inflight": REQUESTS_IN_FLIGHT,
        "percentage_of_nodes_to_score": settings.percentage_of_nodes_to_score, "etcd": "one member, --unsafe-no-fsync",
    })
}

/// Binds all pods and sees where they are.
pub(super) async fn measure(settings: &Settings, scenario: &Scenario, arrival: Arrival) -> Result<Placed> {
    let plane = start(scenario).await?;
    let client = plane.client().await?;
    let pods: Api<Pod> = Api::default_namespaced(client.clone());
    let total = scenario.tenants.len();
    let (rate, _scheduler) = match arrival {
        Arrival::Before => {
            create(&client, scenario, settings.clients).await?;
            let mut bindings = Bindings::follow(&pods).await?;
            let scheduler = scheduler(&plane, settings)?;
            let first = bindings.seen(1).await?;
            let last = bindings.seen(total).await.with_context(|| format!("kube-scheduler said last:\n{}", scheduler.log_tail()))?;
            (super::rate(total - 1, last.duration_since(first)), scheduler)
        }
        Arrival::Meanwhile => {
            let scheduler = scheduler(&plane, settings)?;
            wait_until_it_binds(&pods).await?;
            let mut bindings = Bindings::follow(&pods).await?;
            let started = Instant::now();
            let (created, last) = tokio::join!(create(&client, scenario, settings.clients), bindings.seen(total));
            created?;
            let last = last.with_context(|| format!("kube-scheduler said last:\n{}", scheduler.log_tail()))?;
            (super::rate(total, last.duration_since(started)), scheduler)
        }
    };
    Ok(Placed { rate, spread: scenario.judge(&places(&pods, total).await?)? })
}

/// An API server with a node for each cluster. kwok makes them ready and goes: it would only cost the peer time to play pods.
async fn start(scenario: &Scenario) -> Result<ControlPlane> {
    // Without controllers nobody makes service accounts, takes taints off, or minds that nodes have no heartbeat.
    let flags = vec![
        "--disable-admission-plugins=ServiceAccount,TaintNodesByCondition".to_owned(),
        format!("--max-requests-inflight={REQUESTS_IN_FLIGHT}"),
        format!("--max-mutating-requests-inflight={REQUESTS_IN_FLIGHT}"),
    ];
    let plane = ControlPlane::start(Options { controllers: false, api_server_flags: flags, ..Options::default() }).await?;
    let kwok = Kwok::start(&plane).await?;
    let shapes: Vec<NodeShape> = scenario.clusters.iter().map(shape).collect();
    kwok.add_each(NODES, &shapes).await?;
    drop(kwok);
    add_tenants(&plane.client().await?, scenario).await?;
    Ok(plane)
}

/// Nodes tell of a further resource, as a device plugin would: kwok leaves only those that it knows.
async fn add_tenants(client: &Client, scenario: &Scenario) -> Result<()> {
    let nodes: Api<Node> = Api::all(client.clone());
    let told = futures::stream::iter(scenario.clusters.iter().enumerate()).map(|(number, cluster)| {
        let (nodes, room) = (nodes.clone(), json!({TENANT: cluster.limits.tenants.to_string()}));
        async move {
            let patch = Patch::Merge(json!({"status": {"capacity": room, "allocatable": room}}));
            nodes.patch_status(&format!("{NODES}-{number}"), &PatchParams::default(), &patch).await.context("failed to patch a node")
        }
    });
    told.buffer_unordered(16).try_for_each(|_| async { Ok(()) }).await
}

fn shape(cluster: &Cluster) -> NodeShape {
    let limits = cluster.limits;
    let allocatable =
        [("pods", limits.tenants.to_string()), ("cpu", format!("{}m", limits.cpu_millicores)), ("memory", limits.memory.to_string())];
    let taint = Taint { key: TAINT.0.to_owned(), value: Some(TAINT.1.to_owned()), effect: "NoSchedule".to_owned(), ..Taint::default() };
    NodeShape {
        allocatable: allocatable.map(|(name, text)| (name.to_owned(), Quantity(text))).into(),
        labels: [(REGION.to_owned(), region_name(cluster.region))].into(),
        taints: cluster.tainted.then_some(taint).into_iter().collect(),
    }
}

fn scheduler(plane: &ControlPlane, settings: &Settings) -> Result<Process> {
    let resources = ["cpu", "memory", TENANT].map(|name| json!({"name": name, "weight": 1}));
    let scored = json!({"scoringStrategy": {"type": "LeastAllocated", "resources": resources}});
    plane.configured_scheduler(json!({
        "profiles": [{"schedulerName": "default-scheduler", "pluginConfig": [{"name": "NodeResourcesFit", "args": scored}]}],
        "clientConnection": {"qps": REQUESTS_PER_SECOND, "burst": REQUESTS_PER_SECOND},
        "parallelism": PARALLELISM,
        "percentageOfNodesToScore": settings.percentage_of_nodes_to_score,
    }))
}

/// Waits until a pod that asks for nothing is bound, and removes it.
async fn wait_until_it_binds(pods: &Api<Pod>) -> Result<()> {
    let pod = serde_json::from_value(json!({"metadata": {"name": "first"}, "spec": {"containers": [{"name": "main", "image": "none"}]}}))?;
    pods.create(&PostParams::default(), &pod).await.context("failed to create a pod")?;
    until("kube-scheduler binds", Duration::from_secs(60), || async {
        let bound = pods.get("first").await?.spec.and_then(|spec| spec.node_name);
        bound.context("it has not yet")
    })
    .await?;
    pods.delete("first", &DeleteParams::default().grace_period(0)).await.context("failed to delete a pod")?;
    Ok(())
}

/// Creates all pods.
async fn create(client: &Client, scenario: &Scenario, clients: usize) -> Result<()> {
    let bodies: Vec<Vec<u8>> = scenario.tenants.iter().enumerate().map(|(number, tenant)| pod(number, tenant).to_string().into()).collect();
    let bodies: std::sync::Arc<[Vec<u8>]> = bodies.into();
    let call = move |client: Client, number: u64| {
        let body = bodies.get(usize::try_from(number).unwrap_or(usize::MAX)).cloned().unwrap_or_default();
        async move {
            let request = tonic::codegen::http::Request::post("/api/v1/namespaces/default/pods").header("content-type", "application/json");
            client.request_text(request.body(body).context("a request is malformed")?).await.context("failed to create a pod")?;
            Ok(1)
        }
    };
    let (_, failed) = each_once(scenario.tenants.len() as u64, clients, std::slice::from_ref(client), call).await?;
    ensure!(failed == 0, "{failed} pods could not be created at once");
    Ok(())
}

fn pod(number: usize, tenant: &Tenant) -> Value {
    let amounts = SIZES[tenant.size].2;
    let requests = json!({"cpu": format!("{}m", amounts.cpu_millicores), "memory": amounts.memory.to_string(), TENANT: "1"});
    let resources = json!({"requests": requests, "limits": {TENANT: "1"}});
    let mut spec = json!({"containers": [{"name": "main", "image": "none", "resources": resources}]});
    if tenant.tolerates {
        spec["tolerations"] = json!([{"key": TAINT.0, "operator": "Equal", "value": TAINT.1, "effect": "NoSchedule"}]);
    }
    if !tenant.regions.is_empty() {
        let regions: Vec<String> = tenant.regions.iter().map(|region| region_name(*region)).collect();
        let terms = json!([{"matchExpressions": [{"key": REGION, "operator": "In", "values": regions}]}]);
        spec["affinity"] = json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}});
    }
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": format!("{PODS}-{number}")}, "spec": spec})
}

/// Pods as they are bound. A watch of those without a node hears, with little work for the API server, of each that has got one.
struct Bindings {
    events: futures::stream::BoxStream<'static, kube::Result<WatchEvent<kube::core::PartialObjectMeta<Pod>>>>,
    pods: Api<Pod>,
    version: String,
    count: usize,
}

impl Bindings {
    async fn follow(pods: &Api<Pod>) -> Result<Self> {
        let version =
            pods.list_metadata(&ListParams::default().limit(1)).await?.metadata.resource_version.context("a list has a version")?;
        let events = Self::watch(pods, &version).await?;
        Ok(Self { events, pods: pods.clone(), version, count: 0 })
    }

    async fn watch(
        pods: &Api<Pod>,
        version: &str,
    ) -> Result<futures::stream::BoxStream<'static, kube::Result<WatchEvent<kube::core::PartialObjectMeta<Pod>>>>> {
        let without_node = WatchParams { bookmarks: false, ..WatchParams::default() }.fields("spec.nodeName=");
        Ok(pods.watch_metadata(&without_node, version).await.context("pods cannot be watched")?.boxed())
    }

    /// When so many were bound.
    async fn seen(&mut self, count: usize) -> Result<Instant> {
        let all = async {
            while self.count < count {
                match self.events.next().await.transpose().context("a watch broke")? {
                    Some(WatchEvent::Deleted(pod)) => {
                        self.count += 1;
                        self.version = pod.metadata.resource_version.unwrap_or_default();
                    }
                    Some(WatchEvent::Added(pod) | WatchEvent::Modified(pod)) => {
                        self.version = pod.metadata.resource_version.unwrap_or_default();
                    }
                    Some(WatchEvent::Bookmark(_)) => {}
                    Some(WatchEvent::Error(error)) => bail!("a watch broke: {}", error.message),
                    // The API server ends each watch some day.
                    None => self.events = Self::watch(&self.pods, &self.version).await?,
                }
            }
            Ok(Instant::now())
        };
        let found = tokio::time::timeout(BOUND_WITHIN, all).await;
        found.unwrap_or_else(|_| bail!("not all pods were bound within {BOUND_WITHIN:?}"))
    }
}

/// The node of each pod, by number.
async fn places(pods: &Api<Pod>, total: usize) -> Result<Vec<usize>> {
    let mut places = vec![None; total];
    let mut page = ListParams::default().limit(PAGE);
    loop {
        let list = pods.list(&page).await.context("pods cannot be listed")?;
        for pod in list.items {
            let name = pod.metadata.name.unwrap_or_default();
            let node = pod.spec.and_then(|spec| spec.node_name).with_context(|| format!("{name} has no node"))?;
            places[number(&name)?] = Some(number(&node)?);
        }
        match list.metadata.continue_.filter(|next| !next.is_empty()) {
            Some(next) => page = page.continue_token(&next),
            None => return places.into_iter().collect::<Option<_>>().context("a pod is not there"),
        }
    }
}

/// The number at the end of a name.
fn number(name: &str) -> Result<usize> {
    Ok(name.rsplit_once('-').with_context(|| format!("{name} has no number"))?.1.parse()?)
}
