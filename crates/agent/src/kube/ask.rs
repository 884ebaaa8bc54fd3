//! What is asked of the API server beside watching: whether what looks lost or gone really is, and why no pods are made.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use k8s_openapi::api::core::v1::{Event, Pod};
use kube::Api;
use kube::api::ListParams;
use tokio::sync::Notify;
use tokio::time::Instant;
use tracing::{debug, warn};

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
/// How often it is asked in vain until that is logged.
const TELL_AFTER: u32 = 5;
/// Questions that are asked at a time.
const QUESTIONS: usize = 8;

/// What waits to be asked, and what is being asked.
#[derive(Debug, Default)]
pub(super) struct Questions {
    open: Mutex<BTreeMap<Question, Open>>,
    wake: Notify,
}

/// A question that has no answer yet.
#[derive(Debug)]
struct Open {
    /// From when on it may be asked; `None` while it is.
    at: Option<Instant>,
    /// How often it was asked in vain.
    tries: u32,
}

impl Questions {
    /// Asks these, each once.
    pub(super) fn ask(&self, questions: Vec<Question>) {
        let now = Instant::now();
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        for question in questions {
            open.entry(question).or_insert(Open { at: Some(now), tries: 0 });
        }
        drop(open);
        self.wake.notify_one();
    }

    /// The one that has waited longest, once it may be asked: one that cannot be answered keeps no other from it.
    async fn next(&self) -> Question {
        loop {
            let Some((question, at)) = self.first() else {
                self.wake.notified().await;
                continue;
            };
            if at > Instant::now() {
                let _something_else_came = tokio::time::timeout_at(at, self.wake.notified()).await;
            } else if self.is_begun(&question) {
                // There may be more, and others who wait for one.
                self.wake.notify_one();
                return question;
            }
        }
    }

    fn first(&self) -> Option<(Question, Instant)> {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let waiting = open.iter().filter_map(|(question, open)| Some((question, open.at?)));
        waiting.min_by_key(|(_, at)| *at).map(|(question, at)| (question.clone(), at))
    }

    /// It is being asked; not if somebody else asks it already.
    fn is_begun(&self, question: &Question) -> bool {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.get_mut(question).is_some_and(|open| open.at.take().is_some())
    }

    /// It was answered.
    fn is_answered(&self, question: &Question) {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).remove(question);
    }

    /// It was not answered, and why.
    fn is_put_off(&self, question: &Question, why: &Failed) {
        if let Some(open) = self.open.lock().unwrap_or_else(PoisonError::into_inner).get_mut(question) {
            (open.at, open.tries) = (Some(Instant::now() + TRY_AGAIN), open.tries.saturating_add(1));
            if open.tries == TELL_AFTER {
                warn!(namespace = question.namespace, why = %why, "{}, and cannot be seen; nothing is told of its tenant until then", question.words());
            }
        }
        self.wake.notify_one();
    }
}

/// Answers questions, some at a time.
pub(super) async fn answer(writer: Arc<Writer>, questions: Arc<Questions>) {
    futures::future::join_all((0..QUESTIONS).map(|_| answer_one_by_one(&writer, &questions))).await;
}

async fn answer_one_by_one(writer: &Writer, questions: &Questions) {
    loop {
        let question = questions.next().await;
        if let Err(error) = put_question(writer, questions, &question).await {
            debug!(%error, "a question waits");
            questions.is_put_off(&question, &error);
        }
    }
}

/// The answer is taken up once the question is open no more: whoever looks because of it may ask it anew.
async fn put_question(writer: &Writer, questions: &Questions, question: &Question) -> Result<(), Failed> {
    if question.kind == POD {
        let before = writer.store.changes(&question.namespace);
        let has_pods = has_pods(writer, &question.namespace).await?;
        questions.is_answered(question);
        // Where there are some their watch lags behind: whoever still wants to know asks again.
        if !has_pods {
            writer.store.has_no_pods(question, before);
        }
        return Ok(());
    }
    let id = core(question.kind, &question.name);
    let (kind, api) = writer.api(&id, &question.namespace)?;
    let object = call_opt(&id.to_string(), api.get(&question.name)).await?;
    questions.is_answered(question);
    writer.store.answered(question.clone(), kind, object);
    Ok(())
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
        questions.is_put_off(&question("a"), &Failed::Refused("not now".to_owned()));
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
