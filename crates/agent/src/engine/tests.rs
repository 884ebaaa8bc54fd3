#![allow(clippy::unwrap_used)] // a test that cannot go on should panic

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use roadstead_api::v1::{ObjectDiff, trouble::Kind};
use roadstead_core::id::VolumeUid;
use roadstead_core::reconcile::TenantSeen;

use super::*;
use crate::interpreter::{ClusterFacts, Job};

/// A cluster in which nothing is, and which lets anybody look only while it is open.
#[derive(Clone, Default)]
struct Empty {
    open: Arc<AtomicBool>,
}

impl Empty {
    fn look<T: Default>(&self) -> Result<T, Failed> {
        if self.open.load(Ordering::Relaxed) { Ok(T::default()) } else { Err(why()) }
    }
}

fn why() -> Failed {
    Failed::Later { why: "pods have not been listed yet".to_owned(), after: None }
}

impl Interpreter for Empty {
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
        self.look()
    }

    fn labelled(&self, _named: impl Fn(TenantId) -> bool) -> Result<Vec<(TenantId, TenantSeen)>, Failed> {
        self.look()
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

/// An agent of an empty cluster that was told of one tenant; what it says of that until it says `until`.
async fn told_of(open: bool, volumes: Vec<v1::VolumeIntent>, until: impl Fn(&v1::SeenTenant, &AtomicBool) -> bool) -> v1::SeenTenant {
    let cluster = Empty { open: Arc::new(AtomicBool::new(open)) };
    let mut engine = Engine::begin(cluster.clone(), Settings::default()).await.unwrap();
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
        volumes,
        ..Default::default()
    };
    heard.send(Heard::Begins).await.unwrap();
    heard.send(Heard::Intent(Box::new(v1::WatchIntentResponse { tenants: vec![tenant], generation, ..Default::default() }))).await.unwrap();
    let told = loop {
        let message = tells.recv().await.unwrap();
        heard.send(Heard::Taken(v1::ObserveResponse { revision: generation, ..Default::default() })).await.unwrap();
        assert!(message.complete_at.is_none());
        if let Some(told) = message.tenants.into_iter().find(|told| until(told, &cluster.open)) {
            break told;
        }
    };
    drop(heard);
    running.await.unwrap();
    told
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_may_not_look_says_so_of_its_tenants_and_of_nothing_else() {
    let began = Instant::now();
    let told = told_of(false, Vec::new(), |told, _| told.trouble.is_some()).await;
    let trouble = told.trouble.as_ref().unwrap();
    assert_eq!((told.observed, trouble.kind(), trouble.why.as_str()), (0, Kind::Blocked, "pods have not been listed yet"));
    assert!(began.elapsed() >= BLIND_AFTER, "a start takes a while: {:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn what_was_lost_stays_so_when_nobody_may_look_any_more() {
    let volume = v1::VolumeIntent { name: "data".to_owned(), size_bytes: 1, storage: "fast".to_owned(), uid: VolumeUid(7).to_string() };
    let (began, times) = (Instant::now(), std::cell::Cell::new(0));
    let told = told_of(true, vec![volume], |told, open| {
        open.store(false, Ordering::Relaxed);
        times.set(times.get() + 1);
        let kind = told.trouble.as_ref().map(v1::Trouble::kind);
        assert_eq!(kind, Some(Kind::VolumeLost), "{:?}", told.trouble);
        began.elapsed() > BLIND_AFTER + TELL_ANEW_EVERY
    });
    let told = told.await;
    assert!(times.get() > 1 && told.observed == 0, "seen by nobody: {told:?}");
}
