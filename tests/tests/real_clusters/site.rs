//! A whole cluster that has joined, with its agents: processes beside its node, because no image of theirs is there, with the arguments, the
//! files and the account of the pods that joining makes.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, PersistentVolumeClaim, Pod, Secret};
use kube::api::{ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use roadstead_tests::cli;
use roadstead_tests::group::{Group, binary};
use roadstead_tests::process::{Process, until};
use roadstead_tests::testbed::{STORAGE_CLASS, WholeCluster};
use rustix::process::Signal;
use serde_json::json;

use crate::SOON;

const SYSTEM: &str = "roadstead-system";
/// The agent's account, its Deployment, its Lease.
const AGENT: &str = "roadstead-agent";
/// What is said to an account that may not do something: by roles, and by the policies that joining makes, whose names begin so.
const REFUSALS: [&str; 2] =
    ["User \"system:serviceaccount:roadstead-system:roadstead-agent\" cannot", "ValidatingAdmissionPolicy 'roadstead-agent"];

/// See the module.
pub(crate) struct Site {
    pub(crate) name: &'static str,
    pub(crate) cluster: WholeCluster,
    pub(crate) client: Client,
    /// The folders of its volumes, by the volumes' names.
    volumes: BTreeMap<String, PathBuf>,
    agents: BTreeMap<&'static str, Process>,
    /// Their logs, and how far each has been looked at.
    logs: BTreeMap<PathBuf, usize>,
    /// Of the agent's account.
    kubeconfig: PathBuf,
    arguments: Vec<String>,
}

impl Site {
    pub(crate) async fn start(name: &'static str, volumes: usize) -> Result<Self> {
        let cluster = WholeCluster::start(name).await?;
        let client = cluster.plane().client().await?;
        let mut folders = BTreeMap::new();
        for number in 0..volumes {
            let volume = format!("v{number}");
            let folder = cluster.add_volume(&volume, 20 * 1024).await?;
            folders.insert(volume, folder);
        }
        let (kubeconfig, arguments) = (PathBuf::new(), Vec::new());
        Ok(Self { name, cluster, client, volumes: folders, agents: BTreeMap::new(), logs: BTreeMap::new(), kubeconfig, arguments })
    }

    /// Joins as an operator does, and waits until its agents are confined.
    pub(crate) async fn join(&mut self, group: &Group) -> Result<()> {
        let (admin, storage) = (self.cluster.plane().kubeconfig().display().to_string(), format!("fast={STORAGE_CLASS}"));
        let arguments = ["join", self.name, "--from-service", "--apply", "--kubeconfig", &admin, "--storage", &storage];
        // The level that knows tokens is agreed soon after the start.
        let told = until(&format!("{} joins", self.name), SOON, || async { cli::run(group, 1, &arguments) }).await?;
        ensure!(told.contains("secret/roadstead-agent-join created"), "{told}");
        self.kubeconfig = self.cluster.plane().kubeconfig_for_account(SYSTEM, AGENT).await?;
        self.arguments = self.arguments_of_pods(&group.folder().join(self.name)).await?;
        let account = self.cluster.plane().client_for_account(SYSTEM, AGENT).await?;
        let maps: Api<ConfigMap> = Api::namespaced(account, "default");
        let map: ConfigMap = serde_json::from_value(json!({"metadata": {"name": "asked"}}))?;
        until("its rights and the policy are in force", SOON, || async {
            match maps.create(&PostParams { dry_run: true, ..PostParams::default() }, &map).await {
                Err(kube::Error::Api(status)) if status.message.contains(REFUSALS[1]) => Ok(()),
                other => bail!("{other:?}"),
            }
        })
        .await
    }

    /// What the container in the agent's pods is started with; files that it mounts are put into a folder instead. No pod is left: none of
    /// them could run.
    async fn arguments_of_pods(&self, folder: &Path) -> Result<Vec<String>> {
        let deployments: Api<Deployment> = Api::namespaced(self.client.clone(), SYSTEM);
        let none = Patch::Merge(json!({"spec": {"replicas": 0}}));
        let pod = deployments.patch(AGENT, &PatchParams::default(), &none).await?.spec.and_then(|spec| spec.template.spec);
        let pod = pod.context("a Deployment has pods")?;
        let container = pod.containers.into_iter().next().context("a pod has a container")?;
        let mut arguments = container.args.context("an agent has arguments")?;
        for mount in container.volume_mounts.into_iter().flatten() {
            let volume = pod.volumes.iter().flatten().find(|volume| volume.name == mount.name);
            let secret = volume.and_then(|volume| volume.secret.as_ref()?.secret_name.as_deref()).context("only secrets are mounted")?;
            let to = folder.join(&mount.name);
            std::fs::create_dir_all(&to)?;
            let secrets: Api<Secret> = Api::namespaced(self.client.clone(), SYSTEM);
            for (file, content) in secrets.get(secret).await?.data.into_iter().flatten() {
                std::fs::write(to.join(file), content.0)?;
            }
            let (from, to) = (format!("={}/", mount.mount_path), format!("={}/", to.display()));
            arguments.iter_mut().for_each(|argument| *argument = argument.replace(&from, &to));
        }
        Ok(arguments)
    }

    /// Starts one of the agent's replicas as its pod does.
    pub(crate) fn start_agent(&mut self, group: &Group, replica: &'static str) -> Result<()> {
        let mut command = Command::new(binary()?);
        command.arg("agent").args(&self.arguments).arg("--kubeconfig").arg(&self.kubeconfig);
        // What is refused is tried again, and told at this level only.
        command.args(["--lease", replica, "--log-filter", "info,roadstead_agent=debug"]);
        let log = group.folder().join(format!("agent-{}-{replica}.log", self.name));
        let process = Process::start(&format!("agent {replica} of {}", self.name), &mut command, &log)?;
        self.agents.insert(replica, process);
        self.logs.entry(log).or_default();
        Ok(())
    }

    /// Stops its agents where they are: nothing of them is heard.
    pub(crate) fn silence(&mut self) -> Result<()> {
        self.agents.values_mut().try_for_each(|agent| agent.signal(Signal::STOP))
    }

    pub(crate) fn end_silence(&mut self) -> Result<()> {
        self.agents.values_mut().try_for_each(|agent| agent.signal(Signal::CONT))
    }

    /// The replica of its agent that works.
    pub(crate) async fn working(&self) -> Result<&'static str> {
        let lease = Api::<Lease>::namespaced(self.client.clone(), SYSTEM).get(AGENT).await?;
        let holder = lease.spec.and_then(|spec| spec.holder_identity).context("nobody holds the lease")?;
        self.agents.keys().find(|replica| **replica == holder).copied().with_context(|| format!("{holder} holds the lease"))
    }

    /// kill -9 of the replica that works; which one it was.
    pub(crate) async fn kill_working(&mut self) -> Result<&'static str> {
        let working = self.working().await?;
        let mut agent = self.agents.remove(working).context("it runs")?;
        agent.kill()?;
        Ok(working)
    }

    /// The ends of its agents' logs.
    pub(crate) fn agents_said(&self) -> String {
        self.agents.iter().map(|(replica, agent)| format!("agent {replica} of {}:\n{}\n", self.name, agent.log_tail())).collect()
    }

    /// What its agents have logged since this was asked last.
    fn logged(&mut self) -> Result<String> {
        let mut all = String::new();
        for (log, read) in &mut self.logs {
            let text = std::fs::read_to_string(log)?;
            all.push_str(&text[*read..]);
            *read = text.len();
        }
        ensure!(all.contains("DEBUG"), "the agents of {} tell too little", self.name);
        Ok(all)
    }

    /// That nothing was refused to its agents for want of a right since it was looked last.
    pub(crate) fn nothing_was_refused(&mut self) -> Result<()> {
        let logged = self.logged()?;
        let refused = logged.lines().find(|line| REFUSALS.iter().any(|refusal| line.replace('\\', "").contains(refusal)));
        ensure!(refused.is_none(), "refused in {}: {refused:?}", self.name);
        Ok(())
    }

    /// Restarts the API server. It refuses everything for a moment, until it has read its roles; the agent goes on when this is over.
    pub(crate) async fn restart_api_server<F: Future<Output = Result<()>>>(&mut self, goes_on: impl FnOnce(Client) -> F) -> Result<()> {
        self.nothing_was_refused()?;
        self.cluster.plane_mut().restart_api_server().await?;
        goes_on(self.client.clone()).await?;
        self.logged().map(drop)
    }

    /// All namespaces that there are, with their UIDs.
    pub(crate) async fn namespaces(&self) -> Result<BTreeMap<String, String>> {
        let all = Api::<Namespace>::all(self.client.clone()).list(&ListParams::default()).await?;
        all.items.into_iter().map(|one| one.metadata.name.zip(one.metadata.uid).context("it has a name and a uid")).collect()
    }

    pub(crate) async fn namespaces_of(&self, tenant: &str) -> Result<Vec<String>> {
        let all: Api<Namespace> = Api::all(self.client.clone());
        let found = all.list(&ListParams::default().labels(&format!("roadstead.dev/name={tenant}"))).await?;
        Ok(found.items.into_iter().filter_map(|namespace| namespace.metadata.name).collect())
    }

    pub(crate) async fn namespace_of(&self, tenant: &str) -> Result<String> {
        let mut found = self.namespaces_of(tenant).await?;
        ensure!(found.len() == 1, "{tenant} has {found:?} in {}", self.name);
        found.pop().context("one")
    }

    pub(crate) async fn pods_of(&self, tenant: &str) -> Result<Vec<Pod>> {
        Ok(Api::<Pod>::namespaced(self.client.clone(), &self.namespace_of(tenant).await?).list(&ListParams::default()).await?.items)
    }

    /// The UIDs of a tenant's pods, of which so many are ready and no others are there.
    pub(crate) async fn ready_pods(&self, tenant: &str, count: usize) -> Result<Vec<String>> {
        let pods = self.pods_of(tenant).await?;
        let ready = pods.iter().filter(|pod| is_ready(pod)).count();
        ensure!(pods.len() == count && ready == count, "{ready} of {} pods of {tenant} are ready in {}", pods.len(), self.name);
        let mut uids: Vec<String> = pods.into_iter().filter_map(|pod| pod.metadata.uid).collect();
        uids.sort();
        Ok(uids)
    }

    pub(crate) async fn until_pods(&self, tenant: &str, count: usize) -> Result<Vec<String>> {
        until(&format!("{tenant} has {count} ready pods"), SOON, || self.ready_pods(tenant, count)).await
    }

    /// What a tenant has written to its volume so far.
    pub(crate) async fn written_by(&self, tenant: &str, claim: &str) -> Result<String> {
        let claims: Api<PersistentVolumeClaim> = Api::namespaced(self.client.clone(), &self.namespace_of(tenant).await?);
        let volume = claims.get(claim).await?.spec.and_then(|spec| spec.volume_name).context("the claim is bound")?;
        let folder = self.volumes.get(&volume).with_context(|| format!("there is no volume {volume}"))?;
        Ok(std::fs::read_to_string(folder.join("log"))?)
    }
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    pod.metadata.deletion_timestamp.is_none()
        && conditions.into_iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}
