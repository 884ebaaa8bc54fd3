//! Questions to clusters' agents. An agent dials out: a question travels in the stream of intents that it follows here, and its answer is a
//! call of its own to the same replica. Nothing of it is replicated, and it knows nothing of what is asked.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use roadstead_api::v1;
use roadstead_core::id::ClusterId;
use tokio::sync::{mpsc, oneshot};

/// How long an agent may take to answer: it asks its API server about every object of a tenant.
pub const ANSWER_WITHIN: Duration = Duration::from_secs(20);
/// Questions on their way to one agent; it takes a few at a time.
const MAX_WAITING: usize = 8;

/// Why there is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unanswered {
    /// No agent of the cluster follows its intent at any replica that could be asked.
    #[error("its agent is connected to no replica at the moment")]
    NotHere,
    /// It was asked, and said nothing.
    #[error("its agent did not answer within {} s; one of an older version never does", ANSWER_WITHIN.as_secs())]
    Silent,
    /// Too many questions wait for it.
    #[error("{MAX_WAITING} questions wait for its agent already")]
    Busy,
}

/// Who listens here, and what waits for an answer.
#[derive(Debug, Default)]
pub(crate) struct Questions {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    /// By cluster, the newest stream last.
    listeners: BTreeMap<ClusterId, Vec<mpsc::Sender<v1::DiffQuestion>>>,
    open: HashMap<String, (ClusterId, oneshot::Sender<v1::AnswerDiffRequest>)>,
}

impl Questions {
    /// What is asked of a cluster's agent from now on.
    pub(crate) fn listen(&self, cluster: ClusterId) -> mpsc::Receiver<v1::DiffQuestion> {
        let (ask, questions) = mpsc::channel(MAX_WAITING);
        let mut inner = self.lock();
        inner.listeners.retain(|_, listeners| {
            listeners.retain(|listener| !listener.is_closed());
            !listeners.is_empty()
        });
        inner.listeners.entry(cluster).or_default().push(ask);
        questions
    }

    /// Asks the agent of a cluster that follows its intent here.
    pub(crate) async fn ask(&self, cluster: ClusterId, question: v1::DiffQuestion) -> Result<v1::AnswerDiffRequest, Unanswered> {
        let (reply, answer) = oneshot::channel();
        let id = question.id.clone();
        {
            let mut inner = self.lock();
            let listener = inner.listeners.get(&cluster).and_then(|all| all.iter().rfind(|listener| !listener.is_closed()));
            listener.ok_or(Unanswered::NotHere)?.try_send(question).map_err(|_| Unanswered::Busy)?;
            inner.open.insert(id.clone(), (cluster, reply));
        }
        let answered = tokio::time::timeout(ANSWER_WITHIN, answer).await;
        self.lock().open.remove(&id);
        answered.ok().and_then(Result::ok).ok_or(Unanswered::Silent)
    }

    /// An agent answers; whether anybody waits for that. Only the agent that was asked is heard.
    pub(crate) fn answer(&self, cluster: ClusterId, answer: v1::AnswerDiffRequest) -> bool {
        let mut inner = self.lock();
        if inner.open.get(&answer.id).is_none_or(|(asked, _)| *asked != cluster) {
            return false;
        }
        inner.open.remove(&answer.id).is_some_and(|(_, reply)| reply.send(answer).is_ok())
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn question(id: &str) -> v1::DiffQuestion {
        v1::DiffQuestion { id: id.to_owned(), ..v1::DiffQuestion::default() }
    }

    fn answer(id: &str) -> v1::AnswerDiffRequest {
        v1::AnswerDiffRequest { id: id.to_owned(), ..v1::AnswerDiffRequest::default() }
    }

    #[tokio::test(start_paused = true)]
    async fn only_the_agent_that_was_asked_answers_and_silence_ends() {
        let (questions, here, other) = (Questions::default(), ClusterId(1), ClusterId(2));
        assert_eq!(questions.ask(here, question("a")).await, Err(Unanswered::NotHere));
        let gone = questions.listen(here);
        let mut listens = questions.listen(here);
        drop(gone);
        let agent = async {
            let asked = listens.recv().await.unwrap();
            assert!(!questions.answer(other, answer(&asked.id)), "another cluster's agent");
            assert!(!questions.answer(here, answer("b")), "nothing that was asked");
            assert!(questions.answer(here, answer(&asked.id)));
            assert!(!questions.answer(here, answer(&asked.id)), "nobody waits any more");
        };
        let (answered, ()) = tokio::join!(questions.ask(here, question("a")), agent);
        assert_eq!(answered, Ok(answer("a")));
        assert_eq!(questions.ask(here, question("c")).await, Err(Unanswered::Silent));
        assert!(!questions.answer(here, answer("c")));
        drop(listens);
        assert_eq!(questions.ask(here, question("d")).await, Err(Unanswered::NotHere));
    }
}
