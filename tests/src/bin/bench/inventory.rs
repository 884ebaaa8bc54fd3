//! `inventory`: 5,000 nodes and 100,000 pods of 6 KiB on a real API server. How much memory and CPU does an agent take that tells what the
//! cluster holds, through the first list, 200 changes a second and a list that is forced anew; and how soon is a change told?

use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use futures::{StreamExt, TryStreamExt, stream};
use hdrhistogram::Histogram;
use k8s_openapi::api::core::v1::{Namespace, Node, Pod};
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config};
use prost::Message;
use roadstead_agent::engine::{Heard, QUEUE};
use roadstead_api::v1;
use roadstead_tests::load::histogram;
use roadstead_tests::testbed::{ControlPlane, Options as PlaneOptions};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, ChildStdout};
use tokio::sync::{mpsc, watch};
use tonic::codegen::http::Request;

use crate::agent::{GENERATION, InFlight, OWN, Parts, TEMPLATE};
use crate::report::{Check, Report};
use crate::usage::{cpu_seconds, peak_memory};

/// Name of the hidden subcommand that is the process which is measured.
pub(crate) const WATCHER: &str = "inventory-watcher";
/// Namespaces; every second one is a tenant's.
const NAMESPACES: usize = 100;
/// Of one pod as the API server gives it, `managedFields` included.
const POD_BYTES: usize = 6 * 1024;
/// How long the watcher may take for anything; a list of everything takes some seconds.
const SOON: Duration = Duration::from_secs(120);
/// Time between two probes.
const PROBE_EVERY: Duration = Duration::from_millis(1_000);
const MIB: f64 = 1_048_576.0;

/// Settings; the defaults are what the bars are meant for.
#[derive(Clone, Debug, Parser)]
#[command(name = "roadstead-bench inventory", disable_help_subcommand = true)]
struct Settings {
    /// Nodes.
    #[arg(long, default_value_t = 5_000)]
    nodes: usize,
    /// Pods.
    #[arg(long, default_value_t = 100_000)]
    pods: usize,
    /// Changes a second.
    #[arg(long, default_value_t = 200)]
    rate: u32,
    /// Seconds of changes.
    #[arg(long, default_value_t = 60)]
    seconds: u32,
    /// Requests in flight while the cluster is filled.
    #[arg(long, default_value_t = 64)]
    concurrency: usize,
}

/// One line of the watcher.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
struct Told {
    open: u32,
    nodes: u32,
    orphans: u32,
    other_pods: u64,
    other_millicores: u64,
    report_bytes: usize,
    pod_lists: u64,
}

/// The process that is measured: an agent for which the placement service is played, with nothing to carry yet. Ends when nobody reads what it
/// says.
pub(crate) async fn watch(arguments: &[String]) -> Result<()> {
    let file = arguments.first().context("no kubeconfig file is named")?;
    let kubeconfig = Kubeconfig::read_from(file).context("failed to read a kubeconfig file")?;
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.context("a kubeconfig file is wrong")?;
    let client = Client::try_from(config).context("failed to make a client")?;
    let Parts { inventory, mut engine, .. } = Parts::start(client.clone(), client, InFlight::default()).await?;
    let ((heard, hears), (tell, mut tells)) = (mpsc::channel(QUEUE), mpsc::channel(QUEUE));
    tokio::spawn(async move { engine.run(hears, tell).await });
    let generation = Some(v1::Revision { incarnation: 0, index: GENERATION });
    let nobody = v1::WatchIntentResponse { generation, ..Default::default() };
    heard.send(Heard::Begins).await.context("the agent has ended")?;
    heard.send(Heard::Intent(Box::new(nobody))).await.context("the agent has ended")?;
    let mut told = Told::default();
    while let Some(message) = tells.recv().await {
        told.take(&message, inventory.pod_lists());
        println!("{}", serde_json::to_string(&told)?);
        let answer = v1::ObserveResponse { revision: generation, ..Default::default() };
        heard.send(Heard::Taken(answer)).await.context("the agent has ended")?;
    }
    anyhow::bail!("the agent has ended")
}

impl Told {
    /// A message says only what is news.
    fn take(&mut self, message: &v1::ObserveRequest, pod_lists: u64) {
        if let Some(info) = &message.info {
            (self.nodes, self.orphans) = (info.nodes, info.orphans);
        }
        if let Some(details) = &message.details {
            self.open = details.open_nodes;
        }
        if let Some(used) = message.capacity.as_ref().and_then(|capacity| capacity.used_by_others.as_ref()) {
            (self.other_pods, self.other_millicores) = (used.pods, used.cpu_millicores);
        }
        (self.report_bytes, self.pod_lists) = (message.encoded_len(), pod_lists);
    }
}

/// Runs it.
pub(crate) async fn run(arguments: &[String]) -> Result<Report> {
    let settings = Settings::parse_from(std::iter::once("inventory").chain(arguments.iter().map(String::as_str)));
    // Nobody is there to make service accounts, or to take the first taint off a node.
    let flags = vec!["--disable-admission-plugins=ServiceAccount,TaintNodesByCondition".to_owned()];
    let options = PlaneOptions { controllers: false, api_server_flags: flags, ..PlaneOptions::default() };
    let mut plane = ControlPlane::start(options).await?;
    let client = plane.client().await?;
    let started = Instant::now();
    let pod_bytes = fill(&client, &settings).await?;
    let fill_s = started.elapsed().as_secs_f64();
    eprintln!("filled in {fill_s:.0} s; a pod has {pod_bytes} bytes");

    let mut watcher = Watcher::start(plane.kubeconfig())?;
    let started = Instant::now();
    // What nobody has placed there counts as others', also where it is labelled as a tenant's.
    let (others, nodes) = (u64::try_from(settings.pods)?, u32::try_from(settings.nodes)?);
    let is_all = |told: &Told| told.other_pods == others && told.nodes == nodes && told.orphans as usize == NAMESPACES / 2;
    let first = watcher.told("a first look", is_all).await?;
    let first_s = started.elapsed().as_secs_f64();
    let first_memory = watcher.memory()?;
    eprintln!("first look after {first_s:.1} s, {:.0} MiB: {first:?}", first_memory / MIB);

    let (cpu, load_started) = (watcher.cpu_seconds()?, Instant::now());
    let load = tokio::spawn(load(client.clone(), settings.clone()));
    let Probes { told, written, both } = probe(&client, &mut watcher, &settings, || load.is_finished()).await?;
    let share = (watcher.cpu_seconds()? - cpu) / load_started.elapsed().as_secs_f64() * 100.0;
    let load_took = load.await.context("the load panicked")??;
    let rate = f64::from(settings.rate) * f64::from(settings.seconds) / load_took.as_secs_f64();
    let load_memory = watcher.memory()?;
    eprintln!("{rate:.0} changes/s, {share:.1} % of a core, {:.0} MiB", load_memory / MIB);

    let started = Instant::now();
    plane.restart_api_server().await?;
    let relisted = relist(&client, &mut watcher, &settings).await?;
    let relist_s = started.elapsed().as_secs_f64();
    let memory = watcher.memory()?;
    let ms = |us: u64| Duration::from_micros(us).as_secs_f64() * 1e3;
    #[expect(clippy::cast_precision_loss, reason = "counts are far below 2^52")]
    let (report_kib, pod_count) = (watcher.largest_report as f64 / 1024.0, settings.pods as f64);
    Ok(Report {
        bench: "inventory",
        unit: "MiB",
        value: memory / MIB,
        ratio: memory / MIB / 512.0,
        checks: vec![
            Check::below("VmHWM in MiB through first list and forced list", memory / MIB, 512.0),
            Check::below("percent of a core", share, 20.0),
            Check::below(
                "largest ms from the acknowledgement of a change until it is on its way to the placement service",
                ms(told.max()),
                1_000.0,
            ),
            Check::below("KiB of the largest report", report_kib, 64.0),
            Check::at_least("changes/s", rate, f64::from(settings.rate) * 0.95),
            Check::at_least("pods", pod_count, 100_000.0),
            Check::at_least("bytes of a pod", f64::from(u32::try_from(pod_bytes)?), 6_000.0),
        ],
        details: json!({
            "fill_s": fill_s, "first_look_s": first_s, "first_look_mib": first_memory / MIB, "load_mib": load_memory / MIB,
            "forced_list_s_with_restart": relist_s, "pod_lists": relisted.pod_lists, "probes": told.len(),
            "told_p50_ms": ms(told.value_at_quantile(0.5)), "told_p99_ms": ms(told.value_at_quantile(0.99)),
            "write_p50_ms": ms(written.value_at_quantile(0.5)), "write_max_ms": ms(written.max()),
            "since_sent_p50_ms": ms(both.value_at_quantile(0.5)), "since_sent_max_ms": ms(both.max()), "reports_told": watcher.lines,
        }),
    })
}

/// The name of a namespace; every other one is a tenant's.
fn space(number: usize) -> String {
    format!("space-{number:016x}")
}

/// Writes namespaces, nodes and pods; how large a pod is.
async fn fill(client: &Client, settings: &Settings) -> Result<usize> {
    for own in [OWN.0, TEMPLATE.0] {
        let namespace = json!({"metadata": {"name": own}});
        Api::<Namespace>::all(client.clone()).create(&PostParams::default(), &serde_json::from_value(namespace)?).await?;
    }
    for number in 0..NAMESPACES {
        let labels = (number % 2 == 0).then(|| json!({"roadstead.dev/tenant": format!("{number:016x}")}));
        let namespace = json!({"metadata": {"name": space(number), "labels": labels}});
        Api::<Namespace>::all(client.clone()).create(&PostParams::default(), &serde_json::from_value(namespace)?).await?;
    }
    let nodes = Api::<Node>::all(client.clone());
    let made = stream::iter(0..settings.nodes).map(|number| {
        let nodes = nodes.clone();
        async move {
            let cores = 8 << (number % 3);
            let node = json!({
                "metadata": {"name": format!("node-{number}"), "labels": {"topology.kubernetes.io/zone": format!("zone-{}", number % 3)}},
                "status": {
                    "allocatable": {"cpu": cores.to_string(), "memory": format!("{}Ki", ((cores * 4) << 20) - number % 50), "pods": "110"},
                    "conditions": [{"type": "Ready", "status": "True"}],
                },
            });
            nodes.create(&PostParams::default(), &serde_json::from_value(node)?).await.context("failed to create a node")
        }
    });
    made.buffer_unordered(settings.concurrency).try_for_each(|_| async { Ok(()) }).await?;
    let padding = padding(client, settings).await?;
    let made = stream::iter(0..settings.pods).map(|number| create(client, pod(number, "pod", settings, padding), number));
    made.buffer_unordered(settings.concurrency).try_for_each(|_| async { Ok(()) }).await?;
    let sample = Request::get(format!("/api/v1/namespaces/{}/pods/pod-0", space(0))).body(Vec::new()).context("a request is malformed")?;
    Ok(client.request_text(sample).await.context("failed to get a pod")?.len())
}

/// How much a pod's annotation must hold so that the whole is as large as wanted.
async fn padding(client: &Client, settings: &Settings) -> Result<usize> {
    let bare = create(client, pod(0, "bare", settings, 0), 0).await?;
    Api::<Pod>::namespaced(client.clone(), &space(0)).delete("bare-0", &DeleteParams::default().grace_period(0)).await?;
    Ok(POD_BYTES.saturating_sub(bare))
}

/// A pod of three containers, with what pods usually have.
fn pod(number: usize, prefix: &str, settings: &Settings, padding: usize) -> Value {
    let container = |name: &str, cpu: usize| {
        let variable = |index: usize| json!({"name": format!("VARIABLE_{index}"), "value": format!("value-{index}")});
        json!({
            "name": name, "image": format!("registry.example/{name}:1.0.0"), "ports": [{"containerPort": 8000 + cpu}],
            "env": (0..4).map(variable).collect::<Vec<_>>(),
            "resources": {"requests": {"cpu": format!("{cpu}m"), "memory": "64Mi"}, "limits": {"memory": "128Mi"}},
            "readinessProbe": {"httpGet": {"path": "/healthz", "port": 8000 + cpu}},
            "volumeMounts": [{"name": "scratch", "mountPath": "/scratch"}],
        })
    };
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": format!("{prefix}-{number}"), "labels": {"app": format!("app-{}", number % 100), "pod-template-hash": "5d4f8c7b9"},
            "annotations": {"example.com/padding": "x".repeat(padding)},
        },
        "spec": {
            "nodeName": format!("node-{}", number % settings.nodes), "volumes": [{"name": "scratch", "emptyDir": {}}],
            "containers": [container("main", 20), container("proxy", 10), container("logs", 5)],
        },
    })
}

/// Creates a pod in the namespace that its number stands for; how large it is.
async fn create(client: &Client, pod: Value, number: usize) -> Result<usize> {
    let path = format!("/api/v1/namespaces/{}/pods", space(number % NAMESPACES));
    let request = Request::post(path).header("content-type", "application/json").body(pod.to_string().into_bytes());
    Ok(client.request_text(request.context("a request is malformed")?).await.context("failed to create a pod")?.len())
}

/// Changes pods at a steady rate: half are edited, a quarter is deleted, and as many others come instead. How long that took until the last
/// was acknowledged.
async fn load(client: Client, settings: Settings) -> Result<Duration> {
    let started = Instant::now();
    let mut ticks = tokio::time::interval(Duration::from_secs(1) / settings.rate);
    let (mut tasks, total) = (tokio::task::JoinSet::new(), settings.rate as usize * settings.seconds as usize);
    for change in 0..total {
        ticks.tick().await;
        let (client, settings) = (client.clone(), settings.clone());
        tasks.spawn(async move {
            // Each quadruple of changes has pods of its own; those that are replaced are never edited.
            let number = change / 4 * 4 % settings.pods;
            let pods = |number: usize| Api::<Pod>::namespaced(client.clone(), &space(number % NAMESPACES));
            match change % 4 {
                edit @ 0..=1 => {
                    let edited = Patch::Merge(json!({"metadata": {"annotations": {"example.com/edited": change.to_string()}}}));
                    let number = number + edit;
                    pods(number).patch(&format!("pod-{number}"), &PatchParams::default(), &edited).await.context("failed to edit a pod")?;
                }
                2 => {
                    let (name, now) = (format!("pod-{}", number + 2), DeleteParams::default().grace_period(0));
                    pods(number + 2).delete(&name, &now).await.context("failed to delete a pod")?;
                }
                _ => {
                    let next = pod(number + 2, &format!("next-{change}"), &settings, 3_000);
                    create(&client, next, number + 2).await?;
                }
            }
            anyhow::Ok(())
        });
        while let Some(done) = tasks.try_join_next() {
            done.context("a change panicked")??;
        }
    }
    while let Some(done) = tasks.join_next().await {
        done.context("a change panicked")??;
    }
    Ok(started.elapsed())
}

/// What the probes took in microseconds.
struct Probes {
    /// From the API server's acknowledgement until it was told; zero if that was before.
    told: Histogram<u64>,
    /// From the request until the acknowledgement: what the API server takes, on a machine that it shares with the load.
    written: Histogram<u64>,
    /// From the request until it was told.
    both: Histogram<u64>,
}

/// Cordons a node, uncordons it, and so on while there is load.
async fn probe(client: &Client, watcher: &mut Watcher, settings: &Settings, is_over: impl Fn() -> bool) -> Result<Probes> {
    let mut probes = Probes { told: histogram(), written: histogram(), both: histogram() };
    let nodes = Api::<Node>::all(client.clone());
    let all = u32::try_from(settings.nodes)?;
    let mut ticks = tokio::time::interval(PROBE_EVERY);
    let mut cordoned = false;
    while !is_over() || cordoned {
        ticks.tick().await;
        cordoned = !cordoned;
        let patch = Patch::Merge(json!({"spec": {"unschedulable": cordoned}}));
        let started = Instant::now();
        nodes.patch("node-7", &PatchParams::default(), &patch).await.context("failed to cordon a node")?;
        let acknowledged = Instant::now();
        probes.written.saturating_record(micros(acknowledged.duration_since(started)));
        let open = if cordoned { all - 1 } else { all };
        watcher.told("a cordon", |told| told.open == open).await?;
        probes.both.saturating_record(micros(watcher.told_at.duration_since(started)));
        probes.told.saturating_record(micros(watcher.told_at.saturating_duration_since(acknowledged)));
    }
    Ok(probes)
}

/// Waits for the list that a restarted API server forces, since it cannot tell what had changed before. A list that finds nothing new is not
/// told of: a node is cordoned and uncordoned until it is.
async fn relist(client: &Client, watcher: &mut Watcher, settings: &Settings) -> Result<Told> {
    let (nodes, end, all) = (Api::<Node>::all(client.clone()), Instant::now() + SOON, u32::try_from(settings.nodes)?);
    loop {
        for (cordoned, open) in [(true, all - 1), (false, all)] {
            let patch = Patch::Merge(json!({"spec": {"unschedulable": cordoned}}));
            nodes.patch("node-7", &PatchParams::default(), &patch).await.context("failed to cordon a node")?;
            watcher.told("a cordon", |told| told.open == open).await?;
        }
        if watcher.last.pod_lists > 1 {
            ensure!(watcher.last.nodes == all, "after the second list there are {} nodes", watcher.last.nodes);
            return Ok(watcher.last);
        }
        ensure!(Instant::now() < end, "pods were not listed anew within {SOON:?}");
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// The process that is measured, and what it said.
struct Watcher {
    child: Child,
    lines: u64,
    largest_report: usize,
    last: Told,
    told_at: Instant,
    told: watch::Receiver<(Told, Instant, u64, usize)>,
}

impl Watcher {
    fn start(kubeconfig: &Path) -> Result<Self> {
        let mut command = tokio::process::Command::new(std::env::current_exe().context("this program has no path")?);
        command.arg(WATCHER).arg(kubeconfig).stdout(Stdio::piped()).stdin(Stdio::null()).kill_on_drop(true);
        let mut child = command.spawn().context("failed to start the process to be measured")?;
        let stdout = child.stdout.take().context("its output is read")?;
        let (sender, told) = watch::channel((Told::default(), Instant::now(), 0, 0));
        tokio::spawn(read(stdout, sender));
        Ok(Self { child, lines: 0, largest_report: 0, last: Told::default(), told_at: Instant::now(), told })
    }

    /// What it says as soon as that is as expected; `told_at` is when it said so.
    async fn told(&mut self, what: &str, expected: impl Fn(&Told) -> bool) -> Result<Told> {
        let found = tokio::time::timeout(SOON, self.told.wait_for(|(told, ..)| expected(told))).await;
        let last = self.last;
        let (told, at, lines, largest) =
            *found.with_context(|| format!("{what}: not within {SOON:?}; before it was {last:?}"))?.context("the watcher has ended")?;
        (self.last, self.told_at, self.lines, self.largest_report) = (told, at, lines, largest);
        Ok(told)
    }

    fn process(&self) -> Result<String> {
        Ok(self.child.id().context("the watcher has ended")?.to_string())
    }

    fn memory(&self) -> Result<f64> {
        peak_memory(&self.process()?)
    }

    fn cpu_seconds(&self) -> Result<f64> {
        cpu_seconds(&self.process()?)
    }
}

async fn read(stdout: ChildStdout, sender: watch::Sender<(Told, Instant, u64, usize)>) {
    let mut lines = BufReader::new(stdout).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        let now = Instant::now();
        let Ok(told) = serde_json::from_str::<Told>(&line) else { continue };
        sender.send_modify(|(last, at, lines, largest)| {
            (*last, *at, *lines, *largest) = (told, now, *lines + 1, told.report_bytes.max(*largest));
        });
    }
}
