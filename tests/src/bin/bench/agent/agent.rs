//! The agent that is measured, and the placement service that is played for it: whole intents, volumes' uids made facts, answers at once.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::Namespace;
use kube::{Api, Client};
use roadstead_agent::engine::{Engine, Heard, QUEUE, Settings as EngineSettings};
use roadstead_agent::interpreter::Interpreter;
use roadstead_agent::inventory::{Inventory, Options};
use roadstead_agent::kube::{Drift, Kind, KubeInterpreter, Settings};
use roadstead_api::v1;
use roadstead_api::v1::observed_tenant::Observed;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use super::Size;
use super::cluster::{Cluster, OWN};
use super::counts::Counts;
use super::tenants::{self, GENERATION, TEMPLATE};

/// Kinds that every agent watches beside those that each tenant has; as `roadstead agent` does.
const KINDS: [(&str, &str); 9] = [
    ("v1", "Service"),
    ("v1", "ServiceAccount"),
    ("v1", "ResourceQuota"),
    ("v1", "LimitRange"),
    ("networking.k8s.io/v1", "NetworkPolicy"),
    ("networking.k8s.io/v1", "Ingress"),
    ("policy/v1", "PodDisruptionBudget"),
    ("rbac.authorization.k8s.io/v1", "Role"),
    ("rbac.authorization.k8s.io/v1", "RoleBinding"),
];

/// How often it is said who does not run yet.
const SAY_EVERY: Duration = Duration::from_secs(10);

/// What is wanted, by uid: it outlives agents.
type Intents = Arc<Mutex<BTreeMap<String, v1::TenantIntent>>>;

/// How much the agent has in flight; as it is shipped where nothing is said.
#[derive(Clone, Copy, Debug, Default, clap::Args)]
pub(crate) struct InFlight {
    /// Tenants that the agent works on at the same time; as it is shipped if left out.
    #[arg(long)]
    parallel: Option<usize>,
    /// Of those, tenants of which is changed what is there already; as it is shipped if left out.
    #[arg(long)]
    changes: Option<usize>,
}

/// The agent as it is shipped, but for its process, its Lease and its conversation with the placement service.
pub(crate) struct Parts {
    pub(crate) inventory: Arc<Inventory>,
    pub(crate) interpreter: KubeInterpreter,
    pub(crate) engine: Engine<KubeInterpreter>,
    /// Hands what the inventory tells to the interpreter; ends with the inventory.
    forward: JoinHandle<()>,
}

impl Parts {
    /// With the inventory's requests apart from all others.
    pub(crate) async fn start(client: Client, inventorys: Client, in_flight: InFlight) -> Result<Self> {
        let inventory = Arc::new(Inventory::start(inventorys, Options::default()));
        let mut held = inventory.held();
        let (sender, facts) = watch::channel(None);
        let forward = tokio::spawn(async move {
            loop {
                sender.send_replace(held.borrow_and_update().as_ref().map(|held| held.facts.clone()));
                if held.changed().await.is_err() {
                    return;
                }
            }
        });
        let kind = |(api_version, kind): (&str, &str)| Kind { api_version: api_version.to_owned(), kind: kind.to_owned() };
        let counts = inventory.clone();
        let interpreter = KubeInterpreter::start(Settings {
            client,
            kinds: KINDS.map(kind).into(),
            own_namespace: OWN.0.to_owned(),
            template_namespace: TEMPLATE.0.to_owned(),
            drift: Drift::Repair,
            facts,
            on_others: Box::new(move |others| counts.hear(others)),
        });
        let shipped = EngineSettings::default();
        let InFlight { parallel, changes } = in_flight;
        let (parallel, changes) = (parallel.unwrap_or(shipped.parallel), changes.unwrap_or(shipped.changes));
        let settings = EngineSettings { site: tenants::site(), parallel, changes, ..shipped };
        let engine = Engine::begin(interpreter.clone(), settings).await.context("the agent does not begin")?;
        Ok(Self { inventory, interpreter, engine, forward })
    }
}

/// What was told so far.
#[derive(Clone, Debug, Default)]
pub(super) struct Told {
    /// By uid: what was told last, and since when with this kind of trouble, or with none: in other words it is no news.
    pub(super) tenants: BTreeMap<String, (v1::SeenTenant, Instant)>,
}

impl Told {
    /// How many are told to run.
    fn running(&self) -> usize {
        self.tenants.values().filter(|(seen, _)| seen.observed() == Observed::Running).count()
    }
}

/// One agent.
pub(super) struct Agent {
    /// Requests of the loop and its interpreter.
    pub(super) counts: Arc<Counts>,
    pub(super) interpreter: KubeInterpreter,
    pub(super) started: Instant,
    intents: Intents,
    in_flight: InFlight,
    told: watch::Receiver<Told>,
    engine: JoinHandle<Engine<KubeInterpreter>>,
    service: JoinHandle<()>,
    forward: JoinHandle<()>,
}

impl Agent {
    /// The first agent of a cluster: all tenants are wanted at once.
    pub(super) async fn start(cluster: &Cluster, size: Size) -> Result<Self> {
        let intents = (0..size.tenants).map(|number| tenants::intent(number, size.shard)).map(|intent| (intent.uid.clone(), intent));
        Self::with(cluster, Arc::new(Mutex::new(intents.collect())), size.in_flight).await
    }

    /// Another agent of the same cluster, that knows nothing; this one is gone before.
    pub(super) async fn restart(self, cluster: &Cluster) -> Result<Self> {
        let (intents, in_flight) = (self.intents.clone(), self.in_flight);
        drop(self.stop().await?);
        Self::with(cluster, intents, in_flight).await
    }

    async fn with(cluster: &Cluster, intents: Intents, in_flight: InFlight) -> Result<Self> {
        let (counts, others) = (Arc::default(), Arc::default());
        let (client, counting) = (cluster.agents_client(&counts).await?, cluster.agents_client(&others).await?);
        let started = Instant::now();
        let namespaces: Api<Namespace> = Api::all(client.clone());
        namespaces.get("kube-system").await.context("the cluster does not say which it is")?;
        let Parts { interpreter, mut engine, forward, .. } = Parts::start(client, counting, in_flight).await?;
        let ((heard, hears), (tell, tells)) = (mpsc::channel(QUEUE), mpsc::channel(QUEUE));
        let (news, told) = watch::channel(Told::default());
        let service = tokio::spawn(serve(intents.clone(), tenants::class()?, heard, tells, news));
        let engine = tokio::spawn(async move {
            engine.run(hears, tell).await;
            engine
        });
        Ok(Self { counts, interpreter, started, intents, in_flight, told, engine, service, forward })
    }

    /// Waits until every tenant was told to run.
    pub(super) async fn until_all_run(&mut self, within: Duration) -> Result<()> {
        let wanted = self.intents.lock().unwrap_or_else(PoisonError::into_inner).len();
        let end = Instant::now() + within;
        loop {
            let all = tokio::time::timeout(SAY_EVERY, self.told.wait_for(|told| told.running() == wanted)).await;
            if let Ok(all) = all.map(|all| all.map(drop)) {
                return all.context("the agent has ended");
            }
            let told = self.told.borrow();
            let (running, count) = (told.running(), told.tenants.len());
            let why = told.tenants.values().find_map(|(seen, _)| seen.trouble.as_ref()).map(|trouble| trouble.why.as_str());
            let facts = self.interpreter.facts().map(|facts| facts.ready_nodes);
            let said = format!("{running} of {wanted} run, {count} are told of; of one it is said: {why:?}; ready nodes: {facts:?}");
            ensure!(Instant::now() < end, "{said}");
            eprintln!("{said}");
        }
    }

    /// What was told of a tenant last.
    pub(super) fn told(&self) -> watch::Receiver<Told> {
        self.told.clone()
    }

    /// Whether its loop has ended.
    pub(super) fn ended(&self) -> Option<()> {
        self.engine.is_finished().then_some(())
    }

    /// Ends the conversation and with it the loop, which is given back with all that it knows.
    pub(super) async fn stop(self) -> Result<Engine<KubeInterpreter>> {
        ensure!(self.ended().is_none(), "the agent had ended already");
        self.service.abort();
        let engine = self.engine.await.context("the agent has panicked")?;
        self.forward.abort();
        Ok(engine)
    }
}

/// Plays the placement service until the agent is gone.
async fn serve(
    intents: Intents,
    class: v1::Class,
    heard: mpsc::Sender<Heard>,
    mut tells: mpsc::Receiver<v1::ObserveRequest>,
    news: watch::Sender<Told>,
) {
    let generation = Some(v1::Revision { incarnation: 0, index: GENERATION });
    let all = intents.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect();
    let whole = v1::WatchIntentResponse { classes: vec![class], tenants: all, generation, ..Default::default() };
    if heard.send(Heard::Begins).await.is_err() || heard.send(Heard::Intent(Box::new(whole))).await.is_err() {
        return;
    }
    while let Some(message) = tells.recv().await {
        let changed = learn(&intents, &message.tenants);
        let now = Instant::now();
        news.send_modify(|told| {
            for seen in message.tenants {
                let kind = |seen: &v1::SeenTenant| seen.trouble.as_ref().map(v1::Trouble::kind);
                let before = told.tenants.get(&seen.uid);
                let since = before.filter(|(before, _)| kind(before) == kind(&seen)).map_or(now, |(_, since)| *since);
                told.tenants.insert(seen.uid.clone(), (seen, since));
            }
        });
        let answer = v1::ObserveResponse { revision: generation, ..Default::default() };
        if heard.send(Heard::Taken(answer)).await.is_err() {
            return;
        }
        if !changed.is_empty() {
            let message = v1::WatchIntentResponse { tenants: changed, generation, ..Default::default() };
            if heard.send(Heard::Intent(Box::new(message))).await.is_err() {
                return;
            }
        }
    }
}

/// Makes volumes' uids facts: whose intent changes by that.
fn learn(intents: &Intents, seen: &[v1::SeenTenant]) -> Vec<v1::TenantIntent> {
    let mut intents = intents.lock().unwrap_or_else(PoisonError::into_inner);
    let mut changed = Vec::new();
    for seen in seen {
        let Some(intent) = intents.get_mut(&seen.uid) else { continue };
        let before = intent.volumes.clone();
        for wanted in intent.volumes.iter_mut().filter(|wanted| wanted.uid.is_empty()) {
            if let Some(found) = seen.volumes.iter().find(|volume| volume.name == wanted.name) {
                wanted.uid.clone_from(&found.uid);
            }
        }
        if intent.volumes != before {
            changed.push(intent.clone());
        }
    }
    changed
}
