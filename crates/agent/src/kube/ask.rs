//! What is asked of the API server beside watching: whether what looks lost or gone really is, and why no pods are made.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use k8s_openapi::api::core::v1::{Event, Pod};
use kube::Api;
use kube::api::ListParams;
use tokio::sync::Notify;
use tokio::time::Instant;
use tracing::debug;

use super::act::{Writer, call, call_opt};
use super::record::core;
use super::store::{POD, Question};
use crate::interpreter::Failed;

/// How often workloads without pods are looked for.
const LOOK_EVERY: Duration = Duration::from_secs(3);
/// How many of them are asked about at once.
const AT_ONCE: usize = 10;
/// How long an answer about one of them holds.
const ASK_AGAIN: Duration = Duration::from_secs(30);
/// Events of one object that are read.
const EVENTS: u32 = 20;
/// How long it takes until a question that was not answered is asked again.
const TRY_AGAIN: Duration = Duration::from_secs(2);

/// What waits to be asked.
#[derive(Debug, Default)]
pub(super) struct Questions {
    /// Each with the time from which on it may be asked.
    open: Mutex<BTreeMap<Question, Instant>>,
    wake: Notify,
}

impl Questions {
    /// Asks these, each once.
    pub(super) fn ask(&self, questions: Vec<Question>) {
        let now = Instant::now();
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        for question in questions {
            open.entry(question).or_insert(now);
        }
        drop(open);
        self.wake.notify_one();
    }

    /// The one that has waited longest, once it may be asked: one that cannot be answered keeps no other from it.
    async fn next(&self) -> Question {
        loop {
            match self.first() {
                Some((question, at)) if at <= Instant::now() => return question,
                Some((_, at)) => drop(tokio::time::timeout_at(at, self.wake.notified()).await),
                None => self.wake.notified().await,
            }
        }
    }

    fn first(&self) -> Option<(Question, Instant)> {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.iter().min_by_key(|(_, at)| **at).map(|(question, at)| (question.clone(), *at))
    }

    /// It was answered.
    fn is_answered(&self, question: &Question) {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).remove(question);
    }

    /// It was not answered.
    fn is_put_off(&self, question: Question) {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).insert(question, Instant::now() + TRY_AGAIN);
    }
}

/// Answers questions one by one.
pub(super) async fn answer(writer: Arc<Writer>, questions: Arc<Questions>) {
    loop {
        let question = questions.next().await;
        if question.kind == POD {
            match has_pods(&writer, &question.namespace).await {
                Ok(false) => {
                    questions.is_answered(&question);
                    writer.store.has_no_pods(&question);
                }
                // Their watch lags behind.
                Ok(true) => questions.is_put_off(question),
                Err(error) => {
                    debug!(%error, "a question waits");
                    questions.is_put_off(question);
                }
            }
            continue;
        }
        let id = core(question.kind, &question.name);
        let found = match writer.api(&id, &question.namespace) {
            Ok((kind, api)) => call_opt(&id.to_string(), api.get(&question.name)).await.map(|object| (kind, object)),
            Err(failed) => Err(failed),
        };
        match found {
            Ok((kind, object)) => {
                questions.is_answered(&question);
                writer.store.answered(question, kind, object);
            }
            Err(error) => {
                debug!(%error, "a question waits");
                questions.is_put_off(question);
            }
        }
    }
}

async fn has_pods(writer: &Writer, namespace: &str) -> Result<bool, Failed> {
    let pods: Api<Pod> = Api::namespaced(writer.client.clone(), namespace);
    let listed = call("pods", pods.list_metadata(&ListParams::default().limit(1))).await?;
    Ok(!listed.items.is_empty())
}

/// Looks for workloads that wait and have no pods, and reads why from their events: nothing else tells of a StatefulSet's.
pub(super) async fn explain(writer: Arc<Writer>) {
    let mut asked: HashMap<(String, String), Instant> = HashMap::new();
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        asked.retain(|_, at| at.elapsed() < ASK_AGAIN);
        for (namespace, kind, name) in without_pods(&writer, &asked) {
            let workload = format!("{kind}/{name}");
            asked.insert((namespace.clone(), workload.clone()), Instant::now());
            let why = why_no_pods(&writer, &namespace, &kind, &name).await;
            let known = writer.store.read().homes.get(&namespace).and_then(|home| home.told.get(workload.as_str()).cloned());
            if let Some(why) = why
                && known.as_deref() != Some(&*why)
            {
                writer.store.of_home(&namespace, |home| drop(home.told.insert(workload.into(), why.into())));
            }
        }
    }
}

fn without_pods(writer: &Writer, asked: &HashMap<(String, String), Instant>) -> Vec<(String, String, String)> {
    let inner = writer.store.read();
    let mut found = Vec::new();
    for (namespace, home) in inner.homes.iter().filter(|(_, home)| home.space.as_ref().is_some_and(|space| space.tenant.is_some())) {
        for (kind, objects) in &home.objects {
            let kind = &inner.kinds[*kind].kind.kind;
            if !matches!(kind.as_str(), "StatefulSet" | "Job" | "DaemonSet") {
                continue;
            }
            for (name, _) in objects.iter().filter(|(_, live)| live.waits.is_some()) {
                let workload = format!("{kind}/{name}");
                let has_trouble = home.pods.values().any(|pod| *pod.owner == *workload && pod.trouble.is_some());
                if !has_trouble && !asked.contains_key(&(namespace.clone(), workload)) && found.len() < AT_ONCE {
                    found.push((namespace.clone(), kind.clone(), name.to_string()));
                }
            }
        }
    }
    found
}

/// The newest warning about a workload.
async fn why_no_pods(writer: &Writer, namespace: &str, kind: &str, name: &str) -> Option<String> {
    let events: Api<Event> = Api::namespaced(writer.client.clone(), namespace);
    let params = ListParams::default().fields(&format!("involvedObject.kind={kind},involvedObject.name={name},type=Warning")).limit(EVENTS);
    let listed = call("events", events.list(&params)).await.ok()?;
    let when = |event: &Event| event.last_timestamp.clone().map(|time| time.0).or_else(|| event.event_time.clone().map(|time| time.0));
    let newest = listed.items.into_iter().max_by_key(when)?;
    newest.message
}

#[cfg(test)]
mod tests {
    use roadstead_core::id::TenantId;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_question_that_cannot_be_answered_keeps_no_other_from_it() {
        let question = |name: &str| Question { tenant: TenantId(1), namespace: "acme".to_owned(), kind: "Secret", name: name.to_owned() };
        let (questions, began) = (Questions::default(), Instant::now());
        questions.ask(vec![question("a"), question("b")]);
        assert_eq!(questions.next().await, question("a"));
        questions.is_put_off(question("a"));
        // It is asked for by each look, and is tried no sooner for that.
        questions.ask(vec![question("a")]);
        assert_eq!(questions.next().await, question("b"));
        questions.is_answered(&question("b"));
        assert_eq!(began.elapsed(), Duration::ZERO);
        assert_eq!(questions.next().await, question("a"));
        assert_eq!(began.elapsed(), TRY_AGAIN);
        questions.is_answered(&question("a"));
        questions.ask(vec![question("c")]);
        assert_eq!(questions.next().await, question("c"));
    }
}
