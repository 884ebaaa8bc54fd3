//! The whole agent of a cluster but for its conversation: its loop over an interpreter, fed with intents by hand.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use roadstead_agent::engine::{Engine, Heard, QUEUE, Settings};
use roadstead_agent::kube::KubeInterpreter;
use roadstead_api::v1;
use roadstead_api::v1::observed_tenant::Observed;
use roadstead_api::v1::tenant_intent::Role;
use roadstead_class::Site;
use roadstead_tests::process::until;
use serde_json::json;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

/// The newest that was told of each tenant, by its uid, and all troubles that ever were.
#[derive(Default)]
struct Told {
    last: BTreeMap<String, v1::SeenTenant>,
    troubles: Vec<(String, v1::Trouble)>,
}

/// See the module.
pub(crate) struct Agent {
    heard: mpsc::Sender<Heard>,
    told: Arc<Mutex<Told>>,
    _tasks: JoinSet<()>,
}

/// A class without pods: what it has is there at once.
pub(crate) fn class() -> v1::Class {
    let settings = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: settings}\ndata: {theme: plain}\n";
    let template = json!({
        "manifests": [{"file": "shop.yaml", "content": settings}],
        "secrets": [{"name": "db", "generate": {"password": 24}}],
        "podSecurity": "restricted",
    });
    let volume = v1::VolumeSpec { name: "data".into(), size_bytes: 1 << 30, storage: "fast".into(), grow: true };
    v1::Class {
        name: "shop".into(),
        version: "1".into(),
        template_json: template.to_string(),
        volumes: vec![volume],
        ..v1::Class::default()
    }
}

fn uid(number: u64) -> String {
    format!("{number:016x}")
}

/// The namespace of a tenant.
pub(crate) fn namespace(number: u64) -> String {
    format!("tenant-{number}-{}", uid(number))
}

/// A tenant of the class, in a shard.
pub(crate) fn intent(number: u64, shard: u32, role: Role) -> v1::TenantIntent {
    let total = v1::Resources { cpu_millicores: 1000, memory_bytes: 1 << 30, pods: 4, storage_bytes: 4 << 30, ..v1::Resources::default() };
    v1::TenantIntent {
        uid: uid(number),
        epoch: Some(v1::Revision { incarnation: 0, index: 3 }),
        shard,
        role: role.into(),
        name: format!("tenant-{number}"),
        owner: "acme".into(),
        class: "shop".into(),
        version: "1".into(),
        values_json: "{}".into(),
        requests: Some(v1::Requests { total: Some(total), ..v1::Requests::default() }),
        volumes: vec![v1::VolumeIntent { name: "data".into(), size_bytes: 1 << 30, storage: "fast".into(), uid: String::new() }],
        ..v1::TenantIntent::default()
    }
}

impl Agent {
    /// Starts; what it tells is always taken.
    pub(crate) async fn start(kube: KubeInterpreter) -> Result<Self> {
        let site = Site { other_storage: Some("fast".to_owned()), ..Site::default() };
        let mut engine = Engine::begin(kube, Settings { site, ..Settings::default() }).await?;
        let ((heard, hears), (tell, mut tells)) = (mpsc::channel(QUEUE), mpsc::channel(QUEUE));
        let told = Arc::new(Mutex::new(Told::default()));
        let mut tasks = JoinSet::new();
        tasks.spawn(async move { engine.run(hears, tell).await });
        let (takes, keeps) = (heard.clone(), told.clone());
        tasks.spawn(async move {
            while let Some(message) = tells.recv().await {
                let message: v1::ObserveRequest = message;
                {
                    let mut told = keeps.lock().unwrap_or_else(PoisonError::into_inner);
                    for seen in message.tenants {
                        told.troubles.extend(seen.trouble.clone().map(|trouble| (seen.uid.clone(), trouble)));
                        told.last.insert(seen.uid.clone(), seen);
                    }
                }
                if takes.send(Heard::Taken(v1::ObserveResponse::default())).await.is_err() {
                    return;
                }
            }
        });
        heard.send(Heard::Begins).await?;
        Ok(Self { heard, told, _tasks: tasks })
    }

    /// From now on this is wanted, of these and nobody else.
    pub(crate) async fn want(&self, generation: u64, tenants: Vec<v1::TenantIntent>) -> Result<()> {
        self.heard.send(Heard::Begins).await?;
        let generation = Some(v1::Revision { incarnation: 0, index: generation });
        let message = v1::WatchIntentResponse { classes: vec![class()], tenants, generation, ..Default::default() };
        Ok(self.heard.send(Heard::Intent(Box::new(message))).await?)
    }

    fn told<T>(&self, look: impl FnOnce(&Told) -> T) -> T {
        look(&self.told.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// What was told last of a tenant.
    pub(crate) fn last(&self, number: u64) -> Option<v1::SeenTenant> {
        self.told(|told| told.last.get(&uid(number)).cloned())
    }

    /// All troubles that ever were told but for what is only waited for: whose, and why.
    pub(crate) fn troubles(&self) -> Vec<(String, String)> {
        self.told(|told| {
            let grave = told.troubles.iter().filter(|(_, trouble)| trouble.kind() != v1::trouble::Kind::Waits);
            grave.map(|(uid, trouble)| (uid.clone(), trouble.why.clone())).collect()
        })
    }

    /// Waits until this is told of a tenant.
    pub(crate) async fn until_told(&self, number: u64, observed: Observed, within: Duration) -> Result<()> {
        until(&format!("tenant {number} is {}", observed.as_str_name()), within, || async {
            let last = self.last(number).context("nothing is told of it")?;
            ensure!(last.observed() == observed, "{last:?}");
            Ok(())
        })
        .await
    }

    /// Waits until a tenant's trouble is told in words that contain these.
    pub(crate) async fn until_trouble(&self, number: u64, words: &str, within: Duration) -> Result<v1::Trouble> {
        until(&format!("tenant {number} says `{words}`"), within, || async {
            let last = self.last(number).context("nothing is told of it")?;
            let trouble = last.trouble.clone().filter(|trouble| trouble.why.contains(words));
            trouble.with_context(|| format!("{last:?}"))
        })
        .await
    }
}
