#![allow(clippy::unwrap_used)] // a test that cannot go on should panic

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use roadstead_api::v1::observed_tenant::Observed;
use roadstead_api::v1::{ObjectDiff, trouble::Kind};
use roadstead_core::id::{Epoch, Incarnation, VolumeUid};
use roadstead_core::reconcile::{Home, TenantSeen};
use tokio::sync::Semaphore;

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

fn at(index: u64) -> v1::Revision {
    v1::Revision { incarnation: 0, index }
}

/// A tenant that is to run.
fn tenant() -> v1::TenantIntent {
    v1::TenantIntent {
        uid: TenantId(1).to_string(),
        epoch: Some(at(3)),
        role: v1::tenant_intent::Role::Run.into(),
        name: "acme".to_owned(),
        owner: "acme".to_owned(),
        class: "shop".to_owned(),
        version: "1".to_owned(),
        values_json: "{}".to_owned(),
        ..Default::default()
    }
}

/// An agent of an empty cluster that was told of one tenant; what it says of that until it says `until`.
async fn told_of(open: bool, volumes: Vec<v1::VolumeIntent>, until: impl Fn(&v1::SeenTenant, &AtomicBool) -> bool) -> v1::SeenTenant {
    let cluster = Empty { open: Arc::new(AtomicBool::new(open)) };
    let mut engine = Engine::begin(cluster.clone(), Settings::default()).await.unwrap();
    let ((heard, hears), (tell, mut tells)) = (mpsc::channel(QUEUE), mpsc::channel(QUEUE));
    let running = tokio::spawn(async move { engine.run(hears, tell).await });
    let generation = Some(at(7));
    let tenant = v1::TenantIntent { volumes, ..tenant() };
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

/// A cluster in which there is nothing but what is made of the tenant. What is done there ends when it may.
#[derive(Clone)]
struct Slow {
    /// The generation that was acted on last.
    kept: u64,
    is_there: Arc<AtomicBool>,
    may_end: Arc<Semaphore>,
    ended: Arc<Mutex<Vec<Action>>>,
    /// Those of whom it was said that nobody counts them, each time; and how often that was said of volumes.
    orphans: Arc<Mutex<Vec<Vec<TenantId>>>>,
    detached: Arc<AtomicUsize>,
}

impl Slow {
    fn new(kept: u64, is_there: bool) -> Self {
        let (ended, orphans, detached) = Default::default();
        Self { kept, is_there: Arc::new(AtomicBool::new(is_there)), may_end: Arc::new(Semaphore::new(0)), ended, orphans, detached }
    }

    fn is_there(&self) -> bool {
        self.is_there.load(Ordering::Relaxed)
    }

    fn home(&self) -> TenantSeen {
        let epoch = Epoch { incarnation: Incarnation(0), index: 3 };
        TenantSeen { home: if self.is_there() { Home::Ours(epoch) } else { Home::None }, ..TenantSeen::default() }
    }
}

impl Interpreter for Slow {
    async fn generation(&self) -> Result<Revision, Failed> {
        Ok(Revision { incarnation: Incarnation(0), index: self.kept })
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
        Ok(self.home())
    }

    fn labelled(&self, named: impl Fn(TenantId) -> bool) -> Result<Vec<(TenantId, TenantSeen)>, Failed> {
        let is_found = self.is_there() && !named(TenantId(1));
        Ok(is_found.then(|| (TenantId(1), self.home())).into_iter().collect())
    }

    async fn act(&self, _job: &Job, action: &Action) -> Result<(), Failed> {
        self.may_end.acquire().await.unwrap().forget();
        self.ended.lock().unwrap().push(action.clone());
        if *action == Action::Claim {
            self.is_there.store(true, Ordering::Relaxed);
        }
        Ok(())
    }

    async fn diff(&self, _job: &Job) -> Result<Vec<ObjectDiff>, Failed> {
        Err(why())
    }

    async fn changed(&self) -> Changed {
        std::future::pending().await
    }

    fn orphans(&self, orphans: &[TenantId]) {
        self.orphans.lock().unwrap().push(orphans.to_vec());
    }

    fn detached(&self, _volumes: &BTreeSet<(TenantId, Name)>) {
        self.detached.fetch_add(1, Ordering::Relaxed);
    }

    fn facts(&self) -> Result<ClusterFacts, Failed> {
        Ok(ClusterFacts::default())
    }
}

/// What a placement service that was restored hears of an agent: all that its cluster carries is waited for.
struct Restored {
    cluster: Slow,
    hears: mpsc::Sender<Heard>,
    tells: mpsc::Receiver<v1::ObserveRequest>,
}

impl Restored {
    async fn new(cluster: Slow) -> Self {
        let mut engine = Engine::begin(cluster.clone(), Settings::default()).await.unwrap();
        let ((hears, heard), (tell, tells)) = (mpsc::channel(QUEUE), mpsc::channel(QUEUE));
        tokio::spawn(async move { engine.run(heard, tell).await });
        Self { cluster, hears, tells }
    }

    /// A new stream, of which this is all.
    async fn wants(&self, tenants: Vec<v1::TenantIntent>, index: u64) {
        self.hears.send(Heard::Begins).await.unwrap();
        self.changes(v1::WatchIntentResponse { tenants, ..Default::default() }, index).await;
    }

    async fn changes(&self, change: v1::WatchIntentResponse, index: u64) {
        let change = v1::WatchIntentResponse { generation: Some(at(index)), ..change };
        self.hears.send(Heard::Intent(Box::new(change))).await.unwrap();
    }

    /// What is told within a while. What is there is neither told as gone nor left out where all is told.
    async fn told_for(&mut self, time: Duration) -> Vec<v1::ObserveRequest> {
        let (until, mut told) = (Instant::now() + time, Vec::new());
        while let Ok(message) = tokio::time::timeout_at(until, self.tells.recv()).await {
            let message = message.unwrap();
            let of_it = message.tenants.iter().find(|told| told.uid == TenantId(1).to_string());
            if self.cluster.is_there() {
                assert!(of_it.is_none_or(|told| told.observed() != Observed::Absent), "it is there: {message:?}");
                assert!(message.complete_at.is_none() || of_it.is_some(), "it is not named: {message:?}");
            }
            let answer = v1::ObserveResponse { revision: Some(at(9)), complete_wanted: true, ..Default::default() };
            self.hears.send(Heard::Taken(answer)).await.unwrap();
            told.push(message);
        }
        told
    }
}

#[tokio::test(start_paused = true)]
async fn whoever_was_worked_on_is_told_of_by_a_look_behind_the_work() {
    let goes = v1::TenantIntent { role: v1::tenant_intent::Role::Absent.into(), ..tenant() };
    let is_deleted = v1::WatchIntentResponse { tenants: vec![goes], ..Default::default() };
    let is_named_no_more = v1::WatchIntentResponse { gone: vec![TenantId(1).to_string()], ..Default::default() };
    // Whatever is told anyway just then, and whenever it was looked last.
    for moment in (0..40).map(|number| Duration::from_millis(1000 + 5 * number)) {
        for change in [&is_deleted, &is_named_no_more] {
            let mut service = Restored::new(Slow::new(0, false)).await;
            service.wants(vec![tenant()], 7).await;
            service.told_for(moment).await;
            assert!(!service.cluster.is_there(), "it is being made");
            service.changes(change.clone(), 8).await;
            service.told_for(Duration::from_millis(2)).await;
            service.cluster.may_end.add_permits(100);
            let told = service.told_for(Duration::from_secs(3)).await;
            assert!(service.cluster.is_there() && told.iter().any(|told| told.complete_at.is_some()));
            let ended = service.cluster.ended.lock().unwrap();
            assert_eq!((&ended[0], ended.contains(&Action::Stop)), (&Action::Claim, !change.tenants.is_empty()), "it goes on");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn under_an_intent_that_is_older_than_one_that_was_acted_on_neither_all_is_told_nor_what_is_left() {
    let mut service = Restored::new(Slow::new(9, true)).await;
    let while_it_is_older = |told: Vec<v1::ObserveRequest>| {
        assert!(told.iter().all(|told| told.complete_at.is_none() && told.capacity.is_none()), "{told:?}");
        told.into_iter().filter_map(|told| Some(told.info?.orphans)).collect::<Vec<_>>()
    };
    assert_eq!(while_it_is_older(service.told_for(Duration::from_secs(2)).await), [0], "an agent that has just begun");
    service.wants(vec![tenant()], 7).await;
    assert_eq!(while_it_is_older(service.told_for(Duration::from_secs(2)).await), [0]);
    let cluster = service.cluster.clone();
    let nobodys = || (cluster.orphans.lock().unwrap().clone(), cluster.detached.load(Ordering::Relaxed) > 0);
    assert_eq!(nobodys(), (Vec::new(), false));

    service.wants(Vec::new(), 9).await;
    let told = service.told_for(Duration::from_secs(2)).await;
    assert!(told.iter().any(|told| told.complete_at.is_some()) && told.iter().any(|told| told.capacity.is_some()), "{told:?}");
    let known = (vec![vec![TenantId(1)]], true);
    assert_eq!(nobodys(), known);
    cluster.detached.store(0, Ordering::Relaxed);
    service.wants(vec![tenant()], 8).await;
    let told = service.told_for(Duration::from_secs(2)).await;
    assert!(
        told.iter().all(|told| told.complete_at.is_none())
            && told.iter().any(|told| told.info.as_ref().is_some_and(|info| info.orphans == 1))
    );
    assert_eq!(nobodys(), (known.0, false), "as before");
}
