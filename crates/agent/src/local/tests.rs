#![allow(clippy::unwrap_used)] // a test that cannot go on should panic

mod folder;

use std::path::PathBuf;

use roadstead_api::v1;
use roadstead_api::v1::observed_tenant::Observed;
use roadstead_api::v1::tenant_intent::Role;
use roadstead_api::v1::trouble::Kind;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::*;
use crate::engine::{Engine, Heard, QUEUE, Settings};

const PATIENCE: Duration = Duration::from_secs(20);

/// A class with a database that writes to its volume until that is gone, and a web server.
fn class() -> v1::Class {
    let template = serde_json::json!({
        "secrets": [{"name": "db", "generate": {"password": 24}}],
        "quiesce": {"within": "5s", "steps": [{"scale": "Deployment/web"}]},
        "local": {
            "db": {"run": ["sh", "-c", "while echo {{ values.line }} >> {{ volumes.data }}/log; do sleep 0.05; done"]},
            "web": {"run": ["sh", "-c", "while test -d {{ volumes.data }}; do sleep 0.05; done"]},
        },
    });
    v1::Class {
        name: "shop".into(),
        version: "1".into(),
        values_schema_json: r#"{"properties": {"line": {"type": "string", "default": "hello"}}}"#.into(),
        template_json: template.to_string(),
        ..v1::Class::default()
    }
}

fn revision(index: u64) -> v1::Revision {
    v1::Revision { incarnation: 0, index }
}

fn tenant(role: Role) -> v1::TenantIntent {
    v1::TenantIntent {
        uid: "0000000000000007".into(),
        epoch: Some(revision(3)),
        role: role.into(),
        name: "acme".into(),
        owner: "acme-gmbh".into(),
        class: "shop".into(),
        version: "1".into(),
        values_json: "{}".into(),
        volumes: vec![v1::VolumeIntent { name: "data".into(), size_bytes: 1 << 20, storage: "fast".into(), uid: String::new() }],
        ..v1::TenantIntent::default()
    }
}

fn message(generation: u64, tenants: Vec<v1::TenantIntent>) -> Heard {
    let message = v1::WatchIntentResponse { classes: vec![class()], tenants, generation: Some(revision(generation)), ..Default::default() };
    Heard::Intent(Box::new(message))
}

/// A cluster with an agent that can be stopped and started again.
struct World {
    folder: tempfile::TempDir,
    ends: Ends,
    heard: mpsc::Sender<Heard>,
    told: mpsc::Receiver<v1::ObserveRequest>,
    engine: JoinHandle<()>,
    /// What was told last of the tenant.
    last: v1::SeenTenant,
}

impl World {
    async fn new() -> Self {
        Self::on(tempfile::tempdir().unwrap()).await
    }

    async fn on(folder: tempfile::TempDir) -> Self {
        let local = Local::open(&folder.path().join("c0"), "uid-c0", Capacity::default()).unwrap();
        let site = roadstead_class::Site { other_storage: Some("folder".to_owned()), ..Default::default() };
        let mut engine = Engine::begin(local.clone(), Settings { site, ..Settings::default() }).await.unwrap();
        let ((heard, hears), (tell, told)) = (mpsc::channel(QUEUE), mpsc::channel(QUEUE));
        let engine = tokio::spawn(async move { engine.run(hears, tell).await });
        let world = Self { folder, ends: Ends(Some(local)), heard, told, engine, last: v1::SeenTenant::default() };
        world.heard.send(Heard::Begins).await.unwrap();
        world
    }

    async fn hear(&self, heard: Heard) {
        self.heard.send(heard).await.unwrap();
    }

    /// The agent stops, its processes go on; another one begins on the same folder.
    async fn restart(self) -> Self {
        self.restart_after(|_| ()).await
    }

    /// As [`World::restart`], with something done to the tenant's folder while there is no agent.
    async fn restart_after(mut self, change: impl FnOnce(&Path)) -> Self {
        let tenant = self.tenant();
        self.ends.0 = None;
        drop(self.heard);
        self.engine.await.unwrap();
        change(&tenant);
        Self::on(self.folder).await
    }

    /// Takes in what is told until it is as wanted.
    async fn until(&mut self, what: &str, is: impl Fn(&v1::SeenTenant) -> bool) {
        let wait = async {
            while !is(&self.last) {
                let message = self.told.recv().await.unwrap();
                self.heard.send(Heard::Taken(v1::ObserveResponse::default())).await.unwrap();
                self.last = message.tenants.into_iter().next().unwrap_or(std::mem::take(&mut self.last));
            }
        };
        let waited = tokio::time::timeout(PATIENCE, wait).await;
        assert!(waited.is_ok(), "{what} did not come, but {:?}", self.last);
    }

    /// Until everything was told once more, as it is after each beginning.
    async fn until_told_anew(&mut self) {
        let wait = async {
            loop {
                let message = self.told.recv().await.unwrap();
                self.heard.send(Heard::Taken(v1::ObserveResponse::default())).await.unwrap();
                if message.capacity.is_some() {
                    break;
                }
            }
        };
        tokio::time::timeout(PATIENCE, wait).await.unwrap();
    }

    async fn until_observed(&mut self, observed: Observed) {
        self.until(observed.as_str_name(), |seen| seen.observed() == observed).await;
    }

    fn tenant(&self) -> PathBuf {
        self.folder.path().join("c0/tenants/acme-0000000000000007")
    }

    fn record(&self) -> record::Record {
        record::Record::read(&self.tenant()).unwrap()
    }

    fn pid(&self, workload: &str) -> i32 {
        self.record().workloads.unwrap()[workload].identity.unwrap().pid
    }
}

/// Ends a cluster's processes with its test.
struct Ends(Option<Local>);

impl Drop for Ends {
    fn drop(&mut self) {
        if let Some(local) = &self.0 {
            local.end();
        }
    }
}

async fn until(what: &str, is: impl Fn() -> bool) {
    let wait = async {
        while !is() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    assert!(tokio::time::timeout(PATIENCE, wait).await.is_ok(), "{what}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenant_runs_is_stopped_with_its_volume_runs_again_and_is_purged() {
    let mut world = World::new().await;
    world.hear(message(5, vec![tenant(Role::Run)])).await;
    world.until_observed(Observed::Running).await;
    let log = world.tenant().join("volumes/data/log");
    until("the database writes to its volume", || std::fs::read_to_string(&log).is_ok_and(|text| text.starts_with("hello"))).await;
    let password = std::fs::read(world.tenant().join("secrets/db/password")).unwrap();
    assert_eq!(password.len(), 24);
    assert_eq!(world.last.volumes.len(), 1, "its uid is told");

    world.hear(message(6, vec![tenant(Role::Stopped)])).await;
    world.until_observed(Observed::Stopped).await;
    assert_eq!(world.record().workloads, None);
    let written = std::fs::read(&log).unwrap();

    world.hear(message(7, vec![tenant(Role::Run)])).await;
    world.until_observed(Observed::Running).await;
    assert!(std::fs::read(&log).unwrap().starts_with(&written), "the same volume");
    assert_eq!(std::fs::read(world.tenant().join("secrets/db/password")).unwrap(), password, "the same secret");

    world.hear(message(8, vec![tenant(Role::Absent)])).await;
    world.until_observed(Observed::Absent).await;
    assert!(!world.tenant().exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_agent_finds_what_runs_and_repeats_nothing() {
    let mut world = World::new().await;
    world.hear(message(5, vec![tenant(Role::Run)])).await;
    world.until_observed(Observed::Running).await;
    let (record, pid) = (world.record(), world.pid("db"));
    let mut world = world.restart().await;
    assert_eq!(world.pid("db"), pid);
    world.hear(message(5, vec![tenant(Role::Run)])).await;
    world.until_observed(Observed::Running).await;
    assert_eq!(world.record(), record);
    // What is older than what was acted on is not acted on.
    world.hear(Heard::Begins).await;
    world.hear(message(4, vec![tenant(Role::Absent)])).await;
    world.until_told_anew().await;
    assert_eq!(world.pid("db"), pid);
    world.hear(Heard::Begins).await;
    world.hear(message(6, vec![tenant(Role::Run)])).await;
    world.until_observed(Observed::Running).await;
    assert_eq!(world.pid("db"), pid);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_named_any_more_is_left_as_it_is_and_told_as_an_orphan() {
    let mut world = World::new().await;
    world.hear(message(5, vec![tenant(Role::Run)])).await;
    world.until_observed(Observed::Running).await;
    let pid = world.pid("db");
    world.hear(Heard::Begins).await;
    world.hear(message(6, vec![])).await;
    let orphans = async {
        loop {
            let message = world.told.recv().await.unwrap();
            world.heard.send(Heard::Taken(v1::ObserveResponse::default())).await.unwrap();
            if message.info.is_some_and(|info| info.orphans == 1) {
                break;
            }
        }
    };
    tokio::time::timeout(PATIENCE, orphans).await.unwrap();
    assert_eq!(world.pid("db"), pid);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_who_is_only_to_be_stopped_nothing_is_made_before_it_is_to_run() {
    let mut world = World::new().await;
    world.hear(message(5, vec![tenant(Role::Stopped)])).await;
    world.until_observed(Observed::Stopped).await;
    assert!(!world.tenant().exists());
    world.hear(message(6, vec![tenant(Role::Run)])).await;
    world.until_observed(Observed::Running).await;
    assert!(world.record().workloads.is_some());
}

/// As where a hibernated tenant is deleted: nothing else is wanted here, but that it is stopped means something else there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_told_is_told_again_when_only_the_generation_has_moved() {
    let mut world = World::new().await;
    world.hear(message(5, vec![tenant(Role::Stopped)])).await;
    world.until_observed(Observed::Stopped).await;
    world.last = v1::SeenTenant::default();
    world.hear(message(6, vec![])).await;
    world.until_observed(Observed::Stopped).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenant_of_a_newer_epoch_is_told_as_of_that_epoch_and_left_alone() {
    let mut world = World::new().await;
    world.hear(message(5, vec![tenant(Role::Run)])).await;
    world.until_observed(Observed::Running).await;
    let pid = world.pid("db");
    let older = v1::TenantIntent { epoch: Some(revision(2)), ..tenant(Role::Absent) };
    world.hear(message(6, vec![older])).await;
    let blocked = |seen: &v1::SeenTenant| seen.trouble.as_ref().is_some_and(|trouble| trouble.kind() == Kind::Blocked);
    world.until("it is told", blocked).await;
    assert_eq!((world.last.epoch, world.last.observed()), (Some(revision(3)), Observed::Running));
    assert_eq!(world.pid("db"), pid);
}

/// After a restore all that is carried is told, but not before an intent of the new incarnation has been kept.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_is_told_after_a_restore_only_once_an_intent_of_the_new_incarnation_is_kept() {
    let mut world = World::new().await;
    world.hear(message(5, vec![tenant(Role::Run)])).await;
    world.until_observed(Observed::Running).await;
    let restored = v1::Revision { incarnation: 1, index: 2 };
    let wanted = v1::ObserveResponse { complete_wanted: true, revision: Some(restored), ..Default::default() };
    let mut complete = async |intent: Option<Heard>| {
        let asked = intent.is_none();
        if let Some(intent) = intent {
            world.hear(intent).await;
        }
        world.hear(Heard::Begins).await;
        world.hear(message(5, vec![tenant(Role::Run)])).await;
        for _ in 0..2 {
            let told = tokio::time::timeout(PATIENCE, world.told.recv()).await.unwrap().unwrap();
            world.heard.send(Heard::Taken(wanted)).await.unwrap();
            if told.complete_at.is_some() {
                return told.complete_at;
            }
            world.heard.send(Heard::Begins).await.unwrap();
            world.heard.send(message(5, vec![tenant(Role::Run)])).await.unwrap();
        }
        assert!(asked);
        None
    };
    assert_eq!(complete(None).await, None, "the intent that is kept is older than the restore");
    let intent = v1::WatchIntentResponse {
        tenants: vec![tenant(Role::Run)],
        generation: Some(v1::Revision { incarnation: 1, index: 1 }),
        ..Default::default()
    };
    world.hear(Heard::Begins).await;
    world.hear(Heard::Intent(Box::new(intent))).await;
    let told = async {
        loop {
            let told = world.told.recv().await.unwrap();
            world.heard.send(Heard::Taken(wanted)).await.unwrap();
            if told.complete_at == Some(restored) {
                return told;
            }
        }
    };
    let told = tokio::time::timeout(PATIENCE, told).await.unwrap();
    assert_eq!(told.tenants.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_ends_is_started_again_and_its_tenant_says_so() {
    let mut world = World::new().await;
    world.hear(message(5, vec![tenant(Role::Run)])).await;
    world.until_observed(Observed::Running).await;
    let pid = world.pid("db");
    rustix::process::kill_process(rustix::process::Pid::from_raw(pid).unwrap(), rustix::process::Signal::KILL).unwrap();
    world.until("it does not run", |seen| seen.observed() == Observed::Unspecified).await;
    world.until_observed(Observed::Running).await;
    assert_ne!(world.pid("db"), pid);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_volume_stops_its_tenant_and_is_never_made_anew() {
    let mut world = World::new().await;
    world.hear(message(5, vec![tenant(Role::Run)])).await;
    world.until_observed(Observed::Running).await;
    std::fs::remove_dir_all(world.tenant().join("volumes/data")).unwrap();
    let lost = |seen: &v1::SeenTenant| seen.trouble.as_ref().is_some_and(|trouble| trouble.kind() == Kind::VolumeLost);
    world.until("the loss is told", lost).await;
    until("its processes are ended", || world.record().workloads.is_none()).await;
    assert!(!world.tenant().join("volumes/data").exists());
    // Not even where its whole folder is gone, as long as the placement service knows of the volume.
    std::fs::remove_dir_all(world.tenant()).unwrap();
    let mut known = tenant(Role::Run);
    known.volumes[0].uid = "0c9ee5b2-52b8-4d7c-9a5e-2f3a1b0c4d5e".into();
    let mut world = world.restart().await;
    world.hear(message(6, vec![known])).await;
    world.until("the loss is told", lost).await;
    assert!(!world.tenant().exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_secret_is_never_made_anew() {
    let mut world = World::new().await;
    world.hear(message(5, vec![tenant(Role::Run)])).await;
    world.until_observed(Observed::Running).await;
    std::fs::remove_dir_all(world.tenant().join("secrets/db")).unwrap();
    let lost = |seen: &v1::SeenTenant| seen.trouble.as_ref().is_some_and(|trouble| trouble.kind() == Kind::SecretLost);
    world.until("the loss is told", lost).await;
    assert!(!world.tenant().join("secrets/db").exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_folder_that_is_somebody_elses_is_left_alone() {
    let mut world = World::new().await;
    std::fs::create_dir_all(world.tenant()).unwrap();
    std::fs::write(world.tenant().join("theirs"), "important").unwrap();
    world.hear(message(5, vec![tenant(Role::Absent)])).await;
    let blocked = |seen: &v1::SeenTenant| seen.trouble.as_ref().is_some_and(|trouble| trouble.kind() == Kind::Blocked);
    world.until("it is told", blocked).await;
    assert!(world.last.trouble.as_ref().unwrap().why.contains("not ours"), "{:?}", world.last);
    assert_eq!(std::fs::read_to_string(world.tenant().join("theirs")).unwrap(), "important");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_agents_the_one_with_the_older_intent_does_nothing() {
    let mut world = World::new().await;
    world.hear(message(5, vec![tenant(Role::Run)])).await;
    world.until_observed(Observed::Running).await;
    let pid = world.pid("db");
    let other = Local::open(&world.folder.path().join("c0"), "uid-c0", Capacity::default()).unwrap();
    assert_eq!(other.generation().await.unwrap().index, 5);
    let generation = |index| Revision { index, ..Revision::default() };
    other.keep_generation(generation(7)).await.unwrap();
    world.hear(message(6, vec![tenant(Role::Absent)])).await;
    world.hear(message(7, vec![tenant(Role::Run)])).await;
    world.until_observed(Observed::Running).await;
    assert_eq!(world.pid("db"), pid);
    other.keep_generation(generation(9)).await.unwrap();
    world.hear(message(8, vec![tenant(Role::Stopped)])).await;
    // It cannot even keep what is older; and where it has heard nothing new, it may not act on what it knew.
    let local = world.ends.0.clone().unwrap();
    assert!(matches!(local.keep_generation(generation(8)).await, Err(Failed::Refused(why)) if why.contains("newer than 0.8")));
    let job = Job { intent: crate::wire::intent(&tenant(Role::Stopped)).unwrap(), rendered: Err("nothing".to_owned()) };
    for action in [Action::Stop, Action::Delete, Action::Claim] {
        assert!(matches!(local.act(&job, &action).await, Err(Failed::Later { why, .. }) if why.contains("acted on generation 0.9")));
    }
    assert_eq!(world.pid("db"), pid);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_not_ready_within_the_time_of_its_class_says_so() {
    let mut world = World::new().await;
    let template = serde_json::json!({"ready": {"within": "2s"}, "local": {"db": {"run": ["sh", "-c", "exit 3"]}}});
    let class = v1::Class { template_json: template.to_string(), ..class() };
    let tenants = vec![v1::TenantIntent { volumes: Vec::new(), ..tenant(Role::Run) }];
    let message = v1::WatchIntentResponse { classes: vec![class], tenants, generation: Some(revision(5)), ..Default::default() };
    world.hear(Heard::Intent(Box::new(message))).await;
    let late = |seen: &v1::SeenTenant| seen.trouble.as_ref().is_some_and(|trouble| trouble.kind() == Kind::Blocked);
    world.until("it is late", late).await;
    let why = &world.last.trouble.as_ref().unwrap().why;
    assert!(why.starts_with("not ready within 2s: process db: "), "{why}");
}

/// Takes in what is told until each of so many tenants is as wanted, or gone.
async fn until_all(world: &mut World, count: usize, is: impl Fn(&v1::SeenTenant) -> bool) {
    let mut last = BTreeMap::new();
    let wait = async {
        while last.values().filter(|seen| is(seen)).count() < count {
            let message = world.told.recv().await.unwrap();
            world.heard.send(Heard::Taken(v1::ObserveResponse::default())).await.unwrap();
            last.extend(message.tenants.into_iter().map(|seen| (seen.uid.clone(), seen)));
        }
    };
    let waited = tokio::time::timeout(PATIENCE, wait).await;
    assert!(waited.is_ok(), "{last:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_begins_again_and_again_removes_no_more_than_one_that_goes_on() {
    const ALL: usize = 12;
    const UNASKED: usize = 5;
    let mut world = World::new().await;
    let of = |number: usize, role: Role| v1::TenantIntent { uid: format!("{number:016x}"), name: format!("t-{number}"), ..tenant(role) };
    let all = |role: Role| (0..ALL).map(|number| of(number, role)).collect::<Vec<_>>();
    world.hear(message(5, all(Role::Hold))).await;
    until_all(&mut world, ALL, |seen| seen.observed() == Observed::Stopped).await;
    for generation in 6..9 {
        world.hear(message(generation, all(Role::Absent))).await;
        let is_over = |seen: &v1::SeenTenant| {
            seen.observed() == Observed::Absent || seen.trouble.as_ref().is_some_and(|trouble| trouble.kind() == Kind::HeldBack)
        };
        until_all(&mut world, ALL, is_over).await;
        let left = std::fs::read_dir(world.folder.path().join("c0/tenants")).unwrap().count();
        assert_eq!(left, ALL - UNASKED, "in generation {generation}");
        world = world.restart().await;
    }
    // Nor does a second one, which has read what is kept before the first began any.
    let other = Local::open(&world.folder.path().join("c0"), "uid-c0", Capacity::default()).unwrap();
    let kept = other.removals().await.unwrap();
    assert_eq!(kept.len(), UNASKED);
    let theirs = kept.iter().map(|(id, begun)| (*id, *begun)).chain([(TenantId(77), Timestamp(1))]).collect();
    let local = world.ends.0.clone().unwrap();
    assert_eq!(local.keep_removals(&theirs).await.as_ref(), Ok(&theirs));
    let ours = kept.iter().map(|(id, begun)| (*id, *begun)).chain([(TenantId(78), Timestamp(2))]).collect();
    assert_eq!(other.keep_removals(&ours).await.as_ref(), Ok(&theirs), "those of the first come first");
    assert_eq!(other.keep_removals(&ours).await.as_ref(), Ok(&ours), "once they are known");
}

/// What an agent answers to a question.
async fn ask(world: &World, tenant: v1::TenantIntent) -> v1::AnswerDiffRequest {
    let (reply, mut answer) = mpsc::channel(1);
    let question = v1::DiffQuestion { id: "q".into(), class: Some(class()), tenant: Some(tenant) };
    world.hear(Heard::Question(Box::new(question), reply)).await;
    tokio::time::timeout(PATIENCE, answer.recv()).await.unwrap().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_would_change_is_told_and_nothing_of_it_is_done() {
    let mut world = World::new().await;
    let objects = |answer: &v1::AnswerDiffRequest| {
        let of = |diff: &v1::ObjectDiff| (diff.object.clone(), diff.change());
        answer.objects.iter().map(of).collect::<Vec<_>>()
    };
    use v1::object_diff::Change;
    let new = ask(&world, tenant(Role::Run)).await;
    let made = ["Process/db", "Process/web", "Volume/data"].map(|object| (object.to_owned(), Change::Created));
    assert_eq!((objects(&new), new.error.as_str(), new.uid.as_str()), (made.to_vec(), "", "uid-c0"));
    assert!(!world.tenant().exists(), "nothing was made");

    world.hear(message(5, vec![tenant(Role::Run)])).await;
    world.until_observed(Observed::Running).await;
    let record = world.record();
    let same = ask(&world, tenant(Role::Run)).await;
    assert!(same.objects.is_empty() && same.error.is_empty(), "{same:?}");
    let changed = v1::TenantIntent { values_json: r#"{"line": "other"}"#.into(), hostnames: vec!["a.example".into()], ..tenant(Role::Run) };
    let answer = ask(&world, changed).await;
    let expected = [("Process/db".to_owned(), Change::Changed), ("Routes/hostnames".to_owned(), Change::Created)];
    assert_eq!(objects(&answer), expected);
    assert!(answer.objects[0].before.contains("echo hello") && answer.objects[0].after.contains("echo other"), "{answer:?}");
    assert_eq!(world.record(), record, "nothing was changed");
    let password = std::fs::read_to_string(world.tenant().join("secrets/db/password")).unwrap();
    assert!(!format!("{answer:?}{new:?}").contains(&password), "no secret is told");

    let wrong = ask(&world, v1::TenantIntent { values_json: r#"{"line": 7}"#.into(), ..tenant(Role::Run) }).await;
    assert!(!wrong.error.is_empty() && wrong.objects.is_empty(), "{wrong:?}");
}
