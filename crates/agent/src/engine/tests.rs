#![allow(clippy::unwrap_used)] // a test that cannot go on should panic

use roadstead_api::v1::{ObjectDiff, trouble::Kind};

use super::*;
use crate::interpreter::Job;

/// A cluster that does not let anybody look.
#[derive(Clone)]
struct Closed;

fn why() -> Failed {
    Failed::Later { why: "pods have not been listed yet".to_owned(), after: None }
}

impl Interpreter for Closed {
    async fn generation(&self) -> Result<Revision, Failed> {
        Ok(Revision::default())
    }

    async fn keep_generation(&self, _generation: Revision) -> Result<(), Failed> {
        Ok(())
    }

    async fn removals(&self) -> Result<Removals, Failed> {
        Ok(Removals::new())
    }

    async fn keep_removals(&self, removals: &Removals) -> Result<Removals, Failed> {
        Ok(removals.clone())
    }

    fn seen(&self, _job: &Job) -> Result<TenantSeen, Failed> {
        Err(why())
    }

    fn labelled(&self, _named: impl Fn(TenantId) -> bool) -> Result<Vec<(TenantId, TenantSeen)>, Failed> {
        Err(why())
    }

    async fn act(&self, _job: &Job, _action: &Action) -> Result<(), Failed> {
        Err(why())
    }

    async fn diff(&self, _job: &Job) -> Result<Vec<ObjectDiff>, Failed> {
        Err(why())
    }

    async fn changed(&self) -> Changed {
        std::future::pending().await
    }

    fn facts(&self) -> Result<ClusterFacts, Failed> {
        Ok(ClusterFacts::default())
    }
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_may_not_look_says_so_of_its_tenants_and_of_nothing_else() {
    let mut engine = Engine::begin(Closed, Settings::default()).await.unwrap();
    let ((heard, hears), (tell, mut tells)) = (mpsc::channel(QUEUE), mpsc::channel(QUEUE));
    let running = tokio::spawn(async move { engine.run(hears, tell).await });
    let generation = Some(v1::Revision { incarnation: 0, index: 7 });
    let tenant = v1::TenantIntent {
        uid: TenantId(1).to_string(),
        epoch: Some(v1::Revision { incarnation: 0, index: 3 }),
        role: v1::tenant_intent::Role::Run.into(),
        name: "acme".to_owned(),
        owner: "acme".to_owned(),
        class: "shop".to_owned(),
        version: "1".to_owned(),
        values_json: "{}".to_owned(),
        ..Default::default()
    };
    let began = Instant::now();
    heard.send(Heard::Begins).await.unwrap();
    heard.send(Heard::Intent(Box::new(v1::WatchIntentResponse { tenants: vec![tenant], generation, ..Default::default() }))).await.unwrap();
    let told = loop {
        let message = tells.recv().await.unwrap();
        heard.send(Heard::Taken(v1::ObserveResponse { revision: generation, ..Default::default() })).await.unwrap();
        assert!(message.complete_at.is_none());
        if let Some(trouble) = message.tenants.into_iter().find_map(|seen| seen.trouble.map(|trouble| (seen.observed, trouble))) {
            break trouble;
        }
    };
    let (observed, trouble) = told;
    assert_eq!((observed, trouble.kind(), trouble.why.as_str()), (0, Kind::Blocked, "pods have not been listed yet"));
    assert!(began.elapsed() >= BLIND_AFTER, "a start takes a while: {:?}", began.elapsed());
    drop(heard);
    running.await.unwrap();
}
