//! What is in a tenant's folder: kept in step, taken over, deleted to its end.

use super::*;
use crate::local::process::Process;
use crate::local::record::Record;

/// A class of this template, and a tenant of it without volumes.
fn of_template(generation: u64, template: &serde_json::Value, role: Role) -> Heard {
    let class = v1::Class { template_json: template.to_string(), ..class() };
    let tenants = vec![v1::TenantIntent { volumes: Vec::new(), ..tenant(role) }];
    let message = v1::WatchIntentResponse { classes: vec![class], tenants, generation: Some(revision(generation)), ..Default::default() };
    Heard::Intent(Box::new(message))
}

fn is_blocked(seen: &v1::SeenTenant) -> bool {
    seen.trouble.as_ref().is_some_and(|trouble| trouble.kind() == Kind::Blocked)
}

/// What a secret has, by key.
fn contents(folder: &Path) -> BTreeMap<String, String> {
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    secrets::read(folder).unwrap_or_default().into_iter().map(|(key, value)| (key, text(value))).collect()
}

fn keys<const N: usize>(all: [(&str, &str); N]) -> BTreeMap<String, String> {
    all.map(|(key, value)| (key.to_owned(), value.to_owned())).into()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copied_secret_is_kept_in_step_with_its_original() {
    let mut world = World::new().await;
    let templates = world.folder.path().join("c0/templates");
    let change = |name: &str, to: BTreeMap<String, String>| {
        let bytes = to.into_iter().map(|(key, value)| (key, value.into_bytes())).collect();
        secrets::write(&templates.join(name), &bytes).unwrap();
    };
    change("shared-ca", keys([("ca", "one")]));
    change("shared-smtp", keys([("user", "one"), ("password", "one")]));
    let template = serde_json::json!({
        "secrets": [{"name": "ca", "copy": "shared-ca"}, {"name": "smtp", "copy": "shared-smtp", "onChange": "restart"}],
        "local": {"db": {"run": ["sleep", "1000"]}},
    });
    world.hear(of_template(5, &template, Role::Run)).await;
    world.until_observed(Observed::Running).await;
    let copy = |name: &str| world.folder.path().join("c0/tenants/acme-0000000000000007/secrets").join(name);
    let (ca, smtp, pid) = (copy("ca"), copy("smtp"), world.pid("db"));
    assert_eq!((contents(&ca), contents(&smtp)), (keys([("ca", "one")]), keys([("user", "one"), ("password", "one")])));

    change("shared-ca", keys([("ca", "two")]));
    until("the copy follows", || contents(&ca) == keys([("ca", "two")])).await;
    assert_eq!(world.pid("db"), pid, "nothing restarts that is not to");
    change("shared-smtp", keys([("user", "two")]));
    until("the copy follows, without what is there no more", || contents(&smtp) == keys([("user", "two")])).await;
    until("what runs is started anew", || world.pid("db") != pid).await;

    let pid = world.pid("db");
    std::fs::remove_dir_all(templates.join("shared-ca")).unwrap();
    world.until("it is told that there is no original", is_blocked).await;
    let why = &world.last.trouble.as_ref().unwrap().why;
    assert!(why.contains("the secret `shared-ca`, which `ca` is copied from, is not in"), "{why}");
    assert_eq!((contents(&ca), world.pid("db")), (keys([("ca", "two")]), pid), "what is there is left as it is");
    change("shared-ca", keys([("ca", "two")]));
    world.until("all is well", |seen| seen.trouble.is_none() && seen.observed() == Observed::Running).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_made_and_not_written_down_is_taken_over() {
    let mut world = World::new().await;
    world.hear(message(5, vec![tenant(Role::Run)])).await;
    world.until_observed(Observed::Running).await;
    let (record, password) = (world.record(), contents(&world.tenant().join("secrets/db")));
    let forget = |tenant: &Path| {
        let known = Record::read(tenant).unwrap();
        Record { secrets: Vec::new(), volumes: BTreeMap::new(), ..known }.write(tenant).unwrap();
    };
    let mut world = world.restart_after(forget).await;
    world.hear(message(5, vec![tenant(Role::Run)])).await;
    world.until_observed(Observed::Running).await;
    assert_eq!((world.record(), contents(&world.tenant().join("secrets/db"))), (record, password));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_folder_in_which_nothing_has_been_written_down_yet_is_nobodys() {
    let mut world = World::new().await;
    std::fs::create_dir_all(world.tenant()).unwrap();
    std::fs::write(record::begun(&world.tenant()), "{").unwrap();
    world.hear(message(5, vec![tenant(Role::Run)])).await;
    world.until_observed(Observed::Running).await;
}

/// A tenant that is at rest, of whose folder so much was deleted before its agent ended; and how much there was.
async fn half_deleted(steps: usize) -> (World, usize) {
    let mut world = World::new().await;
    world.hear(message(5, vec![tenant(Role::Receive)])).await;
    world.until_observed(Observed::Stopped).await;
    let mut all = 0;
    let delete = |folder: &Path| {
        let doomed = Tenant::found(folder.to_owned(), PathBuf::new()).unwrap().doomed().unwrap();
        for path in &doomed[..steps.min(doomed.len())] {
            if path.is_dir() { std::fs::remove_dir_all(path).unwrap() } else { std::fs::remove_file(path).unwrap() }
        }
        all = doomed.len();
    };
    let world = world.restart_after(delete).await;
    (world, all)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deletion_that_was_broken_off_anywhere_goes_on() {
    let mut steps = 0;
    loop {
        let (mut world, all) = half_deleted(steps).await;
        assert!(world.tenant().exists());
        world.hear(message(6, vec![tenant(Role::Absent)])).await;
        world.until_observed(Observed::Absent).await;
        let left = std::fs::read_dir(world.tenant()).map_or(0, Iterator::count);
        assert_eq!(left, 0, "after {steps} of {all} steps");
        if steps == all {
            break;
        }
        steps += 1;
    }
    assert_eq!(steps, 5, "what makes the volume known, three folders, what says whose they are");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_left_of_a_volume_that_was_being_deleted_is_not_taken_for_it() {
    let (mut world, _) = half_deleted(1).await;
    assert!(world.tenant().join("volumes/data").exists());
    world.hear(message(6, vec![tenant(Role::Run)])).await;
    world.until("the loss is told", |seen| seen.trouble.as_ref().is_some_and(|trouble| trouble.kind() == Kind::VolumeLost)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn processes_that_outlive_their_folder_are_ended_before_their_tenant_is_told_absent() {
    let mut world = World::new().await;
    let template = serde_json::json!({"local": {"db": {"run": ["sleep", "1000"]}}});
    world.hear(of_template(5, &template, Role::Run)).await;
    world.until_observed(Observed::Running).await;
    let started = world.record().workloads.unwrap()["db"].clone();
    let runs = || Process::adopt(started.program(), started.identity.unwrap()).is_some();
    let mut world = world.restart().await;
    std::fs::remove_dir_all(world.tenant()).unwrap();
    assert!(runs());
    world.hear(of_template(6, &template, Role::Absent)).await;
    world.until_observed(Observed::Absent).await;
    assert!(!runs());
    assert!(!world.tenant().exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn processes_beside_one_that_cannot_be_started_are_known_to_the_next_agent() {
    let mut world = World::new().await;
    let template = serde_json::json!({"local": {"a": {"run": ["/no/such/program"]}, "db": {"run": ["sleep", "1000"]}}});
    world.hear(of_template(5, &template, Role::Run)).await;
    world.until("why not", |seen| seen.trouble.as_ref().is_some_and(|trouble| trouble.why.contains("process a cannot be started"))).await;
    let started = world.record().workloads.unwrap()["db"].clone();
    let runs = || Process::adopt(started.program(), started.identity.unwrap()).is_some();
    assert!(runs());
    let mut world = world.restart().await;
    world.hear(of_template(6, &template, Role::Stopped)).await;
    world.until_observed(Observed::Stopped).await;
    assert!(!runs());
}
