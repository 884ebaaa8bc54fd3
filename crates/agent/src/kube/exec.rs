//! Commands in a tenant's pods: the steps of its class that bring it to rest, and what takes them back when it is to run after all.
//!
//! What was begun is written into the tenant's record before it begins, with the pod that it runs in: a step that was done is not done again
//! by an agent that starts anew, and what was begun is taken back, also where the class has changed since. A command that was cut off may be
//! run twice.

use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Status;
use kube::Api;
use kube::api::AttachParams;
use roadstead_class::Exec;
use tokio::io::{AsyncRead, AsyncReadExt, copy, sink};
use tracing::info;

use super::act::{Work, call_opt};
use super::record::Ran;
use super::words;
use crate::interpreter::Failed;

/// Bytes of what a command says that are passed on.
const MAX_SAID_BYTES: u64 = 300;

impl Work<'_> {
    /// Runs a step's command in every pod of its workload that runs and in which it was not run yet, one after the other, within what is left of
    /// the time for all steps.
    pub(super) async fn exec(&self, step: &Exec) -> Result<(), Failed> {
        for (pod, uid) in self.pods_of(&step.target) {
            let mut record = self.recorded().await?;
            let is_it = |ran: &&mut Ran| ran.workload == step.target && ran.run == step.run && ran.pod == pod && ran.uid == uid;
            match record.stopping.iter_mut().find(is_it) {
                Some(ran) if ran.done => continue,
                Some(_) => {}
                None => {
                    let (workload, run, undo) = (step.target.clone(), step.run.clone(), step.undo.clone());
                    record.stopping.push(Ran { workload, pod: pod.clone(), uid: uid.clone(), run, undo, done: false });
                    self.write(&record).await?;
                }
            }
            self.run(&step.target, &pod, &uid, &step.run, self.time_left()).await?;
            if let Some(ran) = record.stopping.iter_mut().find(is_it) {
                ran.done = true;
            }
            self.write(&record).await?;
        }
        Ok(())
    }

    /// Takes back what was begun in pods that are still there, last first. In those that are gone there is nothing to take back.
    pub(super) async fn take_back(&self) -> Result<(), Failed> {
        if self.look(|inner| {
            inner.homes.get(&self.namespace).and_then(|home| home.record.as_ref()).is_none_or(|record| record.stopping.is_empty())
        }) {
            return Ok(());
        }
        let mut record = self.recorded().await?;
        while let Some(ran) = record.stopping.pop() {
            if !ran.undo.is_empty() && self.pods_of(&ran.workload).contains(&(ran.pod.clone(), ran.uid.clone())) {
                self.run(&ran.workload, &ran.pod, &ran.uid, &ran.undo, self.stop_within()).await?;
                self.write(&record).await?;
            }
        }
        self.write(&record).await
    }

    /// Name and uid of the pods of a workload that have neither ended nor been asked to.
    fn pods_of(&self, workload: &str) -> Vec<(String, String)> {
        self.look(|inner| {
            let pods = inner.homes.get(&self.namespace).into_iter().flat_map(|home| &home.pods);
            let runs = pods.filter(|(_, pod)| *pod.owner == *workload && !pod.ended && !pod.deleting);
            runs.map(|(name, pod)| (name.to_string(), pod.uid.to_string())).collect()
        })
    }

    /// Runs a command in the first container of a pod; in one that does not run there is nothing to run it for.
    async fn run(&self, workload: &str, name: &str, uid: &str, command: &[String], within: Duration) -> Result<(), Failed> {
        let pods: Api<Pod> = Api::namespaced(self.writer.client.clone(), &self.namespace);
        let Some(pod) = call_opt(&format!("Pod/{name}"), pods.get(name)).await? else { return Ok(()) };
        let runs = pod.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Running");
        if pod.metadata.uid.as_deref() != Some(uid) || !runs {
            return Ok(());
        }
        let Some(container) = pod.spec.as_ref().and_then(|spec| spec.containers.first()) else { return Ok(()) };
        let shown = command.join(" ");
        info!(tenant = %self.job.intent.name, pod = name, command = shown, "a command is run");
        let what = format!("{workload}: the command `{shown}` in pod {name}");
        let params = AttachParams::default().container(&container.name);
        let ended = tokio::time::timeout(within, async {
            let mut process = pods.exec(name, command, &params).await?;
            let (said, out, status) = (process.stderr(), process.stdout(), process.take_status());
            let status = async { if let Some(status) = status { status.await } else { None } };
            let (said, _, status) = tokio::join!(first_bytes(said), first_bytes(out), status);
            Ok((said, status))
        });
        match ended.await {
            Ok(Ok((said, status))) => verdict(&what, status.as_ref(), &said),
            Ok(Err(error)) => Err(words::failed(error, &what)),
            Err(_) => Err(words::again(format!("{what} did not end within {} s", within.as_secs()))),
        }
    }
}

/// What is said first; the rest is read and dropped, or nothing more would come.
async fn first_bytes(reader: Option<impl AsyncRead + Unpin>) -> String {
    let Some(mut reader) = reader else { return String::new() };
    let mut said = Vec::new();
    // What cannot be read was not said.
    let _ = (&mut reader).take(MAX_SAID_BYTES).read_to_end(&mut said).await;
    let _ = copy(&mut reader, &mut sink()).await;
    String::from_utf8_lossy(&said).trim().to_owned()
}

/// What became of a command that has ended.
fn verdict(what: &str, status: Option<&Status>, said: &str) -> Result<(), Failed> {
    let Some(status) = status else { return Err(words::again(format!("{what} was cut off"))) };
    if status.status.as_deref() == Some("Success") {
        return Ok(());
    }
    let causes = status.details.iter().flat_map(|details| details.causes.iter().flatten());
    let code = causes.into_iter().find(|cause| cause.reason.as_deref() == Some("ExitCode")).and_then(|cause| cause.message.clone());
    let how = match code {
        Some(code) => format!("failed with exit code {code}"),
        None => format!("could not be run: {}", status.message.as_deref().unwrap_or("no reason is given")),
    };
    let said = if said.is_empty() { String::new() } else { format!(": {said}") };
    Err(words::again(format!("{what} {how}{said}")))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn how_a_command_ended_is_told_with_what_it_said() {
        let status = |text: serde_json::Value| serde_json::from_value::<Status>(text).unwrap();
        assert_eq!(verdict("c", Some(&status(json!({"status": "Success"}))), ""), Ok(()));
        let failed =
            status(json!({"status": "Failure", "reason": "NonZeroExitCode", "message": "command terminated with non-zero exit code",
            "details": {"causes": [{"reason": "ExitCode", "message": "3"}]}}));
        assert_eq!(verdict("c", Some(&failed), "no lock"), Err(words::again("c failed with exit code 3: no lock")));
        let unknown = status(json!({"status": "Failure", "message": "executable file not found"}));
        assert_eq!(verdict("c", Some(&unknown), ""), Err(words::again("c could not be run: executable file not found")));
        assert_eq!(verdict("c", None, ""), Err(words::again("c was cut off")));
    }
}
