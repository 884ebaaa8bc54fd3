//! The verbs against a real replica, as a process would use them: documents in, documents out, exit codes.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use clap::CommandFactory;
use roadstead_cli::client::Client;
use roadstead_cli::document::files::load;
use roadstead_cli::pki::{Role, Subject};
use roadstead_cli::trial::agents::{Fleet, facts};
use roadstead_cli::trial::{Trial, declare, replicas, until_reported, until_voters};
use roadstead_server::server::RunningServer;

/// A replica with the example fleet, whose model clusters have agents.
struct Service {
    folder: tempfile::TempDir,
    config: PathBuf,
    trial: Trial,
    client: Client,
    running: Vec<RunningServer>,
    fleet: Fleet,
}

impl Service {
    async fn start() -> Self {
        Self::start_with(usize::MAX, |_| {}).await
    }

    /// The same with at most so many clusters, of a trial that is not as usual.
    async fn start_with(clusters: usize, change: impl FnOnce(&mut Trial)) -> Self {
        let folder = tempfile::tempdir().expect("folder");
        let mut trial = Trial::prepare(folder.path(), 1).expect("a trial");
        change(&mut trial);
        let running = replicas::start_all_here(&trial).await.expect("a replica");
        let client = trial.client(Role::Admin, "me").expect("a client");
        until_voters(&client, 1).await.expect("a leader");
        let documents = trial.fleet_documents(clusters).expect("the examples");
        declare(&client, &documents).await.expect("declared");
        let mut fleet = Fleet::new();
        fleet.follow(&mut trial, &client, &facts(&documents)).await.expect("agents");
        until_reported(&client).await.expect("reports");
        let config = trial.write_config().expect("a context");
        Self { folder, config, trial, client, running, fleet }
    }

    /// Runs the binary with the trial's context.
    async fn run(&self, arguments: &[&str]) -> Ran {
        let mut command = Command::new(env!("CARGO_BIN_EXE_roadstead"));
        command.args(arguments).env("ROADSTEAD_CONFIG", &self.config).env("NO_COLOR", "1").env_remove("ROADSTEAD_SERVER");
        let output = tokio::task::spawn_blocking(move || command.output()).await.expect("joined").expect("run");
        Ran::new(arguments, output)
    }

    fn write(&self, name: &str, text: impl AsRef<[u8]>) -> String {
        let path = self.folder.path().join(name);
        std::fs::write(&path, text).expect("write");
        path.to_string_lossy().into_owned()
    }

    fn example(&self, name: &str) -> String {
        self.folder.path().join("examples").join(name).to_string_lossy().into_owned()
    }

    async fn stop(self) {
        drop(self.fleet);
        for server in self.running {
            server.shutdown().await;
        }
    }
}

struct Ran {
    what: String,
    code: i32,
    out: String,
    err: String,
}

impl Ran {
    fn new(arguments: &[&str], output: Output) -> Self {
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
        Self { what: arguments.join(" "), code: output.status.code().unwrap_or(-1), out: text(output.stdout), err: text(output.stderr) }
    }

    #[track_caller]
    fn exits(self, code: i32) -> Self {
        assert_eq!(self.code, code, "`{}`\n{}\n{}", self.what, self.out, self.err);
        self
    }

    #[track_caller]
    fn says(self, text: &str) -> Self {
        assert!(self.out.contains(text) || self.err.contains(text), "`{}` does not say {text:?}:\n{}\n{}", self.what, self.out, self.err);
        self
    }
}

fn tenant(name: &str, spec: &str) -> String {
    format!("apiVersion: roadstead.dev/v1\nkind: Tenant\nmetadata: {{name: {name}}}\nspec: {{owner: acme, class: {spec}}}\n")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_verbs_do_what_they_say_and_end_with_the_documented_code() {
    let mut service = Service::start().await;
    documents_go_in_once(&service).await;
    documents_come_out_as_they_went_in(&service).await;
    nothing_of_a_bad_input_is_applied(&service).await;
    codes_tell_what_went_wrong(&service).await;
    tenants_come_and_go(&service).await;
    a_tenant_that_is_deleted_is_nothing_that_is_as_declared(&service).await;
    who_can_never_be_placed_is_not_let_wait(&service).await;
    tenants_rest_and_wake(&service).await;
    what_a_slip_meant_is_said(&service).await;
    what_is_there_is_shown_beside_what_is_not(&service).await;
    a_part_in_force_is_no_wrong_usage(&service).await;
    a_bad_value_keeps_the_whole_input_out(&service).await;
    a_client_applies_its_own_tenants(&service).await;
    a_client_is_shown_what_it_may_see_and_told_what_was_left_out(&service).await;
    the_only_kind_of_a_verb_may_be_named(&service).await;
    a_filter_that_does_not_apply_is_refused(&service).await;
    nobody_waits_in_silence_for_a_service_that_does_not_answer(&service).await;
    a_server_may_be_a_url(&service).await;
    joining_asks_the_service_first_what_would_fail_later(&service).await;
    joining_says_what_classes_want_and_nobody_named(&service).await;
    a_dry_run_of_joining_makes_no_token(&service).await;
    a_token_alone_says_how_an_agent_outside_of_its_cluster_is_started(&service).await;
    a_replica_that_asks_at_a_client_address_is_told_so_at_once(&service).await;
    agents_are_shown_and_what_only_they_know_is_said_to_be_unknown(&service).await;
    forgetting_says_what_becomes_of_the_tenants(&service).await;
    the_examples_of_place_work(&service).await;
    contexts_survive_a_restart(&mut service).await;
    service.stop().await;
}

async fn documents_go_in_once(service: &Service) {
    let folder = service.example("");
    service.run(&["apply", "-f", &folder, "--dry-run"]).await.exits(0).says("tenant/acme created");
    service.run(&["get", "tenant", "acme"]).await.exits(3);
    service.run(&["apply", "-f", &folder, "--wait"]).await.exits(0).says("tenant/acme created on ");
    let again = service.run(&["apply", "-f", &folder]).await.exits(0);
    assert!(again.out.lines().all(|line| line.ends_with(" unchanged")), "{}", again.out);
    service.run(&["diff", "-f", &folder]).await.exits(0);
}

async fn documents_come_out_as_they_went_in(service: &Service) {
    let got = service.run(&["get", "policy,pools,classes,clusters,tenants", "-o", "yaml"]).await.exits(0);
    assert_eq!(got.out.matches("apiVersion: roadstead.dev/v1").count(), 37);
    let listed = service.run(&["get", "policy,pools,classes,clusters,tenants", "-o", "json"]).await.exits(0).says("\"kind\": \"List\"");
    for (name, text) in [("got.yaml", got.out), ("got.json", listed.out)] {
        let file = service.write(name, text);
        let again = service.run(&["apply", "-f", &file]).await.exits(0);
        assert_eq!(again.out.lines().filter(|line| line.ends_with(" unchanged")).count(), 37, "{}", again.out);
    }
}

async fn nothing_of_a_bad_input_is_applied(service: &Service) {
    let good = tenant("bystander", "shop-small@1.0.0");
    let bad = [
        ("unknown field", tenant("bad", "shop-small@1.0.0, prio: 3").into_bytes(), ":9:"),
        ("unknown class", tenant("bad", "shop-tiny@1.0.0").into_bytes(), "spec.class"),
        ("duplicate", tenant("bystander", "shop-small@1.0.0").into_bytes(), "metadata.name"),
        ("not UTF-8", b"apiVersion: \xff\n".to_vec(), "not UTF-8"),
    ];
    for (what, text, says) in bad {
        let file = service.write("bad.yaml", [good.as_bytes(), b"---\n", &text].concat());
        service.run(&["apply", "-f", &file]).await.exits(2).says(says).says("nothing was sent");
        service.run(&["get", "tenant", "bystander"]).await.exits(3).says("does not exist");
        assert!(!what.is_empty());
    }
}

async fn codes_tell_what_went_wrong(service: &Service) {
    service.run(&["get", "pods"]).await.exits(2).says("is not a kind");
    service.run(&["delete", "pool", "home"]).await.exits(1).says("belongs to it");
    service.run(&["delete", "tenant", "acme-orders"]).await.exits(1).says("deletion protection");
    service.run(&["place", "acme", "--owner", "a", "--class", "shop-small@1.0.0"]).await.exits(4).says("exists already");
    let huge = ["place", "huge", "--owner", "a", "--class", "warehouse@1.0.0", "--region", "us-east", "--no-queue"];
    service.run(&huge).await.exits(1).says("none of 20 clusters fits");
    service.run(&["get", "clusters", "--server", "127.0.0.1:1", "--timeout", "500ms"]).await.exits(5).says("no replica answered");
    let changed = service.write("class.yaml", "apiVersion: roadstead.dev/v1\nkind: Class\nmetadata: {name: devices}\nspec:\n  version: 1.0.0\n  requests: {cpu: 1, memory: 1Gi, pods: 1, largestPod: {cpu: 1, memory: 1Gi}}\n");
    service.run(&["apply", "-f", &changed]).await.exits(4).says("versions are immutable");
    let smaller = service.write("sqldb.yaml", "apiVersion: roadstead.dev/v1\nkind: Class\nmetadata: {name: sqldb}\nspec:\n  version: 1.1.0\n  requests: {cpu: 1, memory: 1Gi, pods: 1, largestPod: {cpu: 1, memory: 1Gi}}\n  volumes: [{name: data, size: 1Gi, storage: fast}]\n");
    service.run(&["apply", "-f", &smaller]).await.exits(2).says("sqldb.yaml:7:").says("volumes never shrink (compared with sqldb@1.0.0)");
    let mut pki = roadstead_cli::pki::Store::open(&service.trial.folder.join("pki")).expect("the authority");
    let viewer = pki.ensure(&Subject::new(Role::Viewer, "v"), 30).expect("a certificate");
    let (cert, key) = (viewer.certificate.to_string_lossy(), viewer.key.to_string_lossy());
    service.run(&["cordon", "own-fra-1", "--cert", &cert, "--key", &key]).await.exits(6).says("viewer");
    service.run(&["get", "clusters", "--cert", &cert, "--key", &key]).await.exits(0).says("own-fra-1");
}

async fn tenants_come_and_go(service: &Service) {
    service.run(&["place", "first", "--owner", "me", "--class", "shop-small@1.0.0", "--wait"]).await.exits(0).says("tenant/first on ");
    service.run(&["explain", "first"]).await.exits(0).says("decided then").says("decided now");
    service.run(&["events", "first"]).await.exits(0).says("admin:me").says("agent:");
    let deleted = service.run(&["delete", "tenant", "first", "--wait"]).await.exits(0);
    deleted.says("kept for 7d once it has stopped").says("undelete brings it back until 2");
    service.run(&["get", "tenants", "--phase", "retained", "-o", "name"]).await.exits(0).says("tenant/first");
    service.run(&["undelete", "tenant", "first"]).await.exits(0).says("undeleted");
    service.run(&["events", "nosuch"]).await.exits(3).says("history goes with the tenant");
    service.run(&["delete", "tenant", "first", "--purge", "--wait"]).await.exits(0);
    service.run(&["get", "tenant", "first"]).await.exits(3);
    service.run(&["simulate", "-f", &service.example("what-if"), "--count", "2"]).await.exits(0).says("0 of 2 would fit");
    service.run(&["cordon", "nosuch", "own-fra-1"]).await.exits(3).says("nosuch").says("cluster/own-fra-1 cordoned");
    service.run(&["apply", "-f", &service.example("clusters-own.yaml")]).await.exits(0).says("cluster/own-fra-1 unchanged");
    service.run(&["get", "cluster", "own-fra-1"]).await.exits(0).says("Cordoned");
    service.run(&["uncordon", "own-fra-1"]).await.exits(0);
    let backup = service.folder.path().join("fleet.backup").to_string_lossy().into_owned();
    service.run(&["admin", "backup", "-o", &backup]).await.exits(0).says("holds revision");
    assert!(Path::new(&backup).metadata().expect("a file").len() > 1000);
    service.run(&["admin", "status"]).await.exits(0).says("leader");
    assert_eq!(service.client.clusters(false).await.expect("clusters").len(), 20);
    assert_eq!(load(&[PathBuf::from(service.example(""))]).expect("the examples").len(), 37);
}

async fn a_tenant_that_is_deleted_is_nothing_that_is_as_declared(service: &Service) {
    let file = service.write("leaver.yaml", tenant("leaver", "shop-small@1.0.0, constraints: {cluster: own-ber-1}"));
    service.run(&["apply", "-f", &file, "--wait"]).await.exits(0);
    service.run(&["describe", "tenant", "leaver"]).await.exits(0).says("namespace: leaver-0");
    service.run(&["get", "tenant", "leaver", "-o", "wide"]).await.exits(0).says("NAMESPACE").says(" leaver-0");
    service.run(&["delete", "tenant", "leaver", "--wait"]).await.exits(0);
    let next = "next: `roadstead undelete leaver`, or `roadstead delete tenant leaver --purge` and apply again";
    for verb in ["apply", "diff"] {
        let ran = service
            .run(&[verb, "-f", &file])
            .await
            .exits(1)
            .says("leaver.yaml:3: tenant \"leaver\" is deleted, its volumes are kept until 2");
        assert!(ran.err.contains(next) && !ran.out.contains("unchanged"), "{}\n{}", ran.out, ran.err);
    }
    let place = ["place", "leaver", "--owner", "acme", "--class", "shop-small@1.0.0"];
    service.run(&place).await.exits(4).says("is deleted, its volumes are kept until 2").says(next);
    service.run(&["hibernate", "leaver"]).await.exits(1).says(next);
    let there = service.client.tenants("cluster = \"own-ber-1\"", false, usize::MAX).await.expect("tenants").len();
    let says = format!("tenants bound to it: {there}, deleted and kept: 1 (roadstead delete tenant NAME --purge, or wait");
    service.run(&["delete", "cluster", "own-ber-1"]).await.exits(1).says(&says);
    service.run(&["delete", "tenant", "leaver", "--purge", "--wait"]).await.exits(0).says("tenant/leaver is gone");
    service.run(&["apply", "-f", &file]).await.exits(0).says("tenant/leaver created");
}

async fn who_can_never_be_placed_is_not_let_wait(service: &Service) {
    let place = |more: [&'static str; 2]| [&["place", "lost", "--owner", "me", "--class", "shop-small@1.0.0"][..], &more].concat();
    service
        .run(&place(["--cluster", "nosuch"]))
        .await
        .exits(2)
        .says("--cluster: there is no cluster `nosuch`")
        .says("`roadstead get clusters`");
    service.run(&place(["--pool", "nosuch"])).await.exits(2).says("--pool: there is no pool `nosuch`").says("`roadstead get pools`");
    service.run(&["get", "tenant", "lost"]).await.exits(3);
    let waits = service.run(&place(["--region", "nowhere"])).await.exits(0).says("pending");
    assert_eq!(waits.err, "next: `roadstead explain lost` says what it waits for\n");
    service.run(&["delete", "tenant", "lost"]).await.exits(0);
}

async fn tenants_rest_and_wake(service: &Service) {
    service.run(&["place", "sleeper", "--owner", "me", "--class", "shop-small@1.0.0", "--wait"]).await.exits(0);
    service.run(&["hibernate", "sleeper", "--dry-run"]).await.exits(0).says("tenant/sleeper is to be Hibernated (dry run)");
    let some = service.run(&["hibernate", "sleeper", "nosuch", "-o", "json"]).await.exits(3).says("nosuch");
    assert!(some.out.contains("\"desired\": \"Hibernated\""), "{}", some.out);
    service.run(&["hibernate", "tenant/sleeper"]).await.exits(0).says("tenant/sleeper unchanged");
    // The agents here follow no intent: it is not stopped.
    service.run(&["get", "tenants", "--phase", "stopping", "-o", "name"]).await.exits(0).says("tenant/sleeper");
    for other in ["running", "hibernated"] {
        let ran = service.run(&["get", "tenants", "--phase", other, "-o", "name"]).await.exits(0);
        assert!(!ran.out.contains("tenant/sleeper"), "{other}: {}", ran.out);
    }
    let one = service.run(&["get", "tenants", "--phase", "Running", "--limit", "1", "-o", "name"]).await.exits(0);
    assert_eq!(one.out.lines().count(), 1);
    service.run(&["hibernate", "sleeper", "--archive", "-o", "json"]).await.exits(0).says("\"desired\": \"Archived\"");
    // It is told as running, and nobody has said that it was woken.
    let woken = service.run(&["wake", "sleeper", "--wait", "--timeout", "3s"]).await.exits(5).says("tenant/sleeper is to be Running");
    assert!(woken.err.contains("its agent is connected to no replica"), "{}", woken.err);
}

async fn what_a_slip_meant_is_said(service: &Service) {
    let place = ["place", "typo", "--owner", "me", "--class", "shop-small@2"];
    service.run(&place).await.exits(3).says("next: of shop-small there is 1.0.0").says("`roadstead get classes` lists");
    let file = service.write("typo.yaml", tenant("typo", "shop-small@2"));
    service.run(&["apply", "-f", &file]).await.exits(2).says("next: of shop-small there is 1.0.0").says("`roadstead get classes` lists");
    let values = service.write("wbe.yaml", tenant("typo", "shop-large@1.0.0, values: {wbe: 3}"));
    service.run(&["apply", "-f", &values]).await.exits(2).says("spec.values.wbe: is not allowed; did you mean `web`?");
    service
        .run(&["place", "typo", "--owner", "me", "--class", "shop-large@1.0.0", "--set", "wbe=3"])
        .await
        .exits(2)
        .says("did you mean `web`?");
    service.run(&["delete", "tenant", "acme-orders"]).await.exits(1).says("take `deletionProtection: true` out of it");
    service.run(&["render", "-f", &service.example("classes.yaml")]).await.exits(2).says("add a document of kind Tenant");
    let classes = service.example("classes.yaml");
    service.run(&["render", "-f", &file, "--class", &classes]).await.exits(3).says("classes.yaml has shop-small@1.0.0");
    let hosts = service.write("hosts.yaml", tenant("hosts", "shop-small@1.0.0, hostnames: [a.example]"));
    service.run(&["render", "-f", &hosts, "--class", &classes]).await.exits(0).says("note: nothing leads the hostnames of hosts in");
    let led = service.run(&["render", "-f", &hosts, "--class", &classes, "--ingress", "nginx"]).await.exits(0);
    assert_eq!(led.err, "");
}

async fn what_is_there_is_shown_beside_what_is_not(service: &Service) {
    service.run(&["get", "tenants", "acme", "nosuch"]).await.exits(3).says("acme-gmbh").says("nosuch");
    service.run(&["get", "policy", "nosuch"]).await.exits(3).says("there is no policy `nosuch`");
    let ran = service.run(&["get", "policy", "pools", "classes"]).await.exits(3).says("policy,pools,classes");
    assert_eq!(ran.out, "");
    let changed = service.write("differs.yaml", tenant("differs", "shop-small@1.0.0"));
    let ran = service.run(&["diff", "-f", &changed]).await.exits(1).says("one document differs");
    assert!(!ran.err.contains("error"), "{}", ran.err);
}

async fn a_part_in_force_is_no_wrong_usage(service: &Service) {
    let good = tenant("good-half", "shop-small@1.0.0");
    // A client may not read classes: only the server knows that a value does not fit the class's schema.
    let bad = tenant("bad-half", "shop-large@1.0.0, values: {web: 1000}");
    let (cert, key) = client_of_acme(service);
    let alone = service.write("bad-half.yaml", &bad);
    service
        .run(&["apply", "-f", &alone, "--cert", &cert, "--key", &key])
        .await
        .exits(2)
        .says("tenant/bad-half failed")
        .says("bad-half.yaml:3: ")
        .says("spec.values.web: is 1000");
    let both = service.write("halves.yaml", format!("{good}---\n{bad}"));
    service
        .run(&["apply", "-f", &both, "--cert", &cert, "--key", &key])
        .await
        .exits(1)
        .says("tenant/good-half created")
        .says("halves.yaml:8: ")
        .says("1 of 2 documents were not applied");
}

/// Certificate and key of a client that may touch tenants of `acme` only.
fn client_of_acme(service: &Service) -> (String, String) {
    let mut pki = roadstead_cli::pki::Store::open(&service.trial.folder.join("pki")).expect("the authority");
    let subject = Subject { owners: vec!["acme".to_owned()], ..Subject::new(Role::Client, "portal") };
    let client = pki.ensure(&subject, 30).expect("a certificate");
    (client.certificate.to_string_lossy().into_owned(), client.key.to_string_lossy().into_owned())
}

async fn a_bad_value_keeps_the_whole_input_out(service: &Service) {
    let good = tenant("before-bad", "shop-small@1.0.0");
    let bad = tenant("with-bad", "shop-large@1.0.0, values: {web: 1000}");
    let file = service.write("values.yaml", format!("{good}---\n{bad}"));
    for verb in ["apply", "diff"] {
        service.run(&[verb, "-f", &file]).await.exits(2).says("values.yaml:9:").says("spec.values.web: is 1000").says("nothing was sent");
    }
    service.run(&["get", "tenant", "before-bad"]).await.exits(3);
}

async fn a_client_is_shown_what_it_may_see_and_told_what_was_left_out(service: &Service) {
    let (cert, key) = client_of_acme(service);
    let as_client = |words: &[&str]| [words, &["--cert", &cert, "--key", &key]].concat().iter().map(|word| (*word).to_owned()).collect();
    let run = async |words: &[&str]| {
        let words: Vec<String> = as_client(words);
        service.run(&words.iter().map(String::as_str).collect::<Vec<_>>()).await
    };
    let shown = run(&["describe", "tenant", "own"]).await.exits(0).says("owner: acme").says("left out: its history");
    assert_eq!(shown.err.lines().count(), 1, "{}", shown.err);
    // `acme-orders` is of another owner, and nobody has the other name.
    let theirs = run(&["get", "tenant", "acme-orders"]).await.exits(3);
    let nobodys = run(&["get", "tenant", "acme-nobody"]).await.exits(3);
    assert_eq!(theirs.err, nobodys.err.replace("acme-nobody", "acme-orders"));
}

async fn the_only_kind_of_a_verb_may_be_named(service: &Service) {
    service.run(&["explain", "tenant", "acme"]).await.exits(0).says("decided then");
    service.run(&["explain", "tenant/acme"]).await.exits(0).says("decided then");
    service.run(&["events", "tenant", "acme"]).await.exits(0).says("admin:me");
    service.run(&["cordon", "cluster", "own-fra-1"]).await.exits(0).says("cluster/own-fra-1 cordoned");
    service.run(&["uncordon", "cluster/own-fra-1"]).await.exits(0).says("cluster/own-fra-1 uncordoned");
    service.run(&["place", "tenant", "named", "--owner", "me", "--class", "shop-small@1.0.0"]).await.exits(0).says("tenant/named on ");
    service.run(&["admin", "waive-fence", "cluster", "own-fra-1", "--i-know"]).await.exits(0).says("own-fra-1");
    service.run(&["explain", "cluster", "own-fra-1"]).await.exits(2).says("only a tenant can be named here");
    service.run(&["events", "acme", "named"]).await.exits(2).says("one tenant can be named here");
}

async fn a_filter_that_does_not_apply_is_refused(service: &Service) {
    service.run(&["get", "clusters", "--owner", "acme"]).await.exits(2).says("--owner").says("get tenants");
    service.run(&["get", "tenants,pools", "--limit", "3"]).await.exits(2).says("--limit");
    service.run(&["get", "tenant", "acme", "--phase", "pending"]).await.exits(2).says("--phase");
    service.run(&["watch", "clusters", "--owner", "acme"]).await.exits(2).says("--owner");
    service.run(&["get", "tenants", "--owner", "acme", "-o", "name"]).await.exits(0).says("tenant/own");
}

async fn nobody_waits_in_silence_for_a_service_that_does_not_answer(service: &Service) {
    let nowhere = ["--server", "127.0.0.1:1", "--server", "127.0.0.1:2", "--timeout", "4s"];
    let (get, watch) = ([&["get", "clusters"][..], &nowhere].concat(), [&["watch"][..], &nowhere].concat());
    let (get, watch) = tokio::join!(service.run(&get), service.run(&watch));
    for ran in [get, watch] {
        let ran = ran.exits(5).says("next: ");
        let (notice, failure) = ran.err.split_once("\nerror: ").expect("an error at last");
        assert!(notice.starts_with("no replica has answered yet:\n") && notice.contains("\nstill trying, until 20"), "{notice}");
        assert!(failure.contains("no replica answered within 4 s\n"), "{failure}");
        for text in [notice, failure] {
            for server in ["127.0.0.1:1", "127.0.0.1:2"] {
                let line =
                    text.lines().find(|line| line.starts_with(&format!("  {server}: "))).unwrap_or_else(|| panic!("{server}:\n{text}"));
                assert!(line.contains("refused"), "{line}");
            }
        }
    }
}

async fn a_server_may_be_a_url(service: &Service) {
    let address = &service.trial.plans[0].info.client_address;
    service.run(&["get", "clusters", "--server", &format!("https://{address}/")]).await.exits(0).says("own-fra-1");
    service.run(&["get", "clusters", "--server", &format!("http://{address}")]).await.exits(2).says("replicas speak TLS only");
}

async fn forgetting_says_what_becomes_of_the_tenants(service: &Service) {
    let place = |name: &'static str| ["place", name, "--owner", "me", "--class", "shop-small@1.0.0", "--cluster", "own-fra-2", "--wait"];
    service.run(&place("stays")).await.exits(0);
    service.run(&place("leaves")).await.exits(0);
    service.run(&["delete", "tenant", "leaves", "--wait"]).await.exits(0);
    let there = service.client.tenants("cluster = \"own-fra-2\"", false, usize::MAX).await.expect("tenants").len();
    let forget = ["forget", "cluster", "own-fra-2", "--i-know"];
    service
        .run(&[&forget[..], &["--dry-run"]].concat())
        .await
        .exits(0)
        .says(&format!("cluster/own-fra-2 has {there} tenants"))
        .says("would wait for room on another cluster")
        .says("1 tenant that is deleted already would be gone")
        .says("cluster/own-fra-2 forgotten (dry run)");
    service.run(&["get", "cluster", "own-fra-2"]).await.exits(0);
    // `stays` may go nowhere else.
    service.run(&forget).await.exits(0).says("will wait for room").says("waiting for room: ").says("get tenants --phase pending");
    service.run(&["get", "tenant", "stays"]).await.exits(0).says("Pending");
    service.run(&["get", "tenant", "leaves"]).await.exits(3);
    service.run(&["forget", "nosuch", "--i-know"]).await.exits(3).says("nosuch");
    service.run(&["delete", "tenant", "stays", "--purge"]).await.exits(0);
}

async fn a_client_applies_its_own_tenants(service: &Service) {
    let (cert, key) = client_of_acme(service);
    let own = service.write("own.yaml", tenant("own", "shop-small@1.0.0"));
    service.run(&["apply", "-f", &own, "--dry-run", "--cert", &cert, "--key", &key]).await.exits(0).says("tenant/own created");
    service.run(&["apply", "-f", &own, "--cert", &cert, "--key", &key]).await.exits(0).says("tenant/own created on ");
    let unknown = service.write("unknown.yaml", tenant("unknown", "shop-small@9.9.9"));
    service
        .run(&["apply", "-f", &unknown, "--cert", &cert, "--key", &key])
        .await
        .exits(3)
        .says("unknown.yaml:3: ")
        .says("shop-small@9.9.9");
    let pools = service.example("pools.yaml");
    service.run(&["apply", "-f", &pools, "--cert", &cert, "--key", &key]).await.exits(6).says("client");
}

async fn contexts_survive_a_restart(service: &mut Service) {
    let files = service.trial.context(&Subject::new(Role::Viewer, "v")).expect("a context");
    let [ca, cert, key] = [&files.ca, &files.cert, &files.key].map(|path| path.to_string_lossy().into_owned());
    let mine = ["config", "set-context", "mine", "--server", "127.0.0.1:1", "--ca", &ca, "--cert", &cert, "--key", &key];
    service.run(&mine).await.exits(0);
    service.config = service.trial.write_config().expect("a context");
    service.run(&["config", "get-contexts"]).await.exits(0).says("mine").says("trial");
    service.run(&["get", "clusters"]).await.exits(0).says("own-fra-1");
}

async fn the_examples_of_place_work(service: &Service) {
    let mut command = roadstead_cli::verbs::Cli::command();
    let place = command.find_subcommand_mut("place").expect("a verb");
    let help = place.get_after_help().expect("examples").to_string().replace("\\\n", " ");
    let examples: Vec<&str> = help.lines().filter_map(|line| line.trim().strip_prefix("roadstead ")).collect();
    assert_eq!(examples.len(), 3, "{help}");
    for example in examples {
        service.run(&example.split_whitespace().collect::<Vec<_>>()).await.exits(0);
    }
}

/// The replica here issues certificates, and is reached on this machine only.
async fn joining_asks_the_service_first_what_would_fail_later(service: &Service) {
    let (classes, pki) = (service.example("classes.yaml"), service.trial.folder.join("pki").to_string_lossy().into_owned());
    let unknown = ["join", "nosuch", "-f", &classes];
    service.run(&unknown).await.exits(3).says("declare cluster nosuch first: `roadstead apply -f cluster.yaml`");
    let joined =
        service.run(&["join", "own-fra-1", "-f", &classes]).await.exits(0).says("--region=eu-central").says("the token is good once");
    assert!(joined.err.contains("warning: the agent will look for replicas at 127.0.0.1:"), "{}", joined.err);
    assert!(!joined.out.contains("warning"), "{}", joined.out);

    // Without a token it is asked only if that was said.
    let issued = ["join", "own-fra-1", "--from-service", "--pki", &pki];
    service.run(&issued).await.exits(0).says("--region=eu-central");
    service.run(&[&issued[..], &["--region", "fra"]].concat()).await.exits(0).says("--region=fra");
    let offline = ["join", "nosuch", "-f", &classes, "--pki", &pki, "--server", "r1.example.com:7420", "--region", "fra"];
    let printed = service.run(&offline).await.exits(0).says("--region=fra");
    assert!(!printed.err.contains("warning"), "{}", printed.err);
}

async fn joining_says_what_classes_want_and_nobody_named(service: &Service) {
    let (classes, pki) = (service.example("classes.yaml"), service.trial.folder.join("pki").to_string_lossy().into_owned());
    for source in [&["-f", &*classes][..], &["--from-service"]] {
        let join = [&["join", "own-fra-1", "--pki", &pki, "--storage", "bulk=st1"][..], source].concat();
        let told = service.run(&join).await.exits(0);
        assert_eq!(told.err.matches("which is not mapped").count(), 1, "{}", told.err);
        assert!(told.err.contains(" storage \"fast\", which is not mapped: --storage fast=STORAGECLASS\n"), "{}", told.err);
        assert!(!told.err.contains("no class is named"), "{}", told.err);
        for furnished in [["--storage", "fast=gp3"], ["--other-storage", "slow"]] {
            let told = service.run(&[&join[..], &furnished].concat()).await.exits(0);
            assert!(!told.err.contains("not mapped"), "{}", told.err);
        }
    }
    let none = service.run(&["join", "own-fra-1", "--pki", &pki]).await.exits(0);
    assert!(none.err.contains("note: no class is named, so that the agent has rights for what every class may bring only"), "{}", none.err);
}

async fn a_dry_run_of_joining_makes_no_token(service: &Service) {
    let (classes, pki) = (service.example("classes.yaml"), service.trial.folder.join("pki").to_string_lossy().into_owned());
    let join = ["join", "own-fra-1", "-f", &classes];
    let made = service.run(&join).await.exits(0).says("the token is good once");
    let dry = service.run(&[&join[..], &["--dry-run"]].concat()).await.exits(0);
    assert!(dry.err.contains("no token is made in a dry run") && !dry.err.contains("the token is good once"), "{}", dry.err);
    let documents = |text: &str| text.split("---\n").map(str::to_owned).collect::<Vec<_>>();
    let (made, dry) = (documents(&made.out), documents(&dry.out));
    let lacks: Vec<&String> = made.iter().filter(|document| !dry.contains(document)).collect();
    assert!(lacks.len() == 1 && lacks[0].contains("kind: Secret") && dry.len() + 1 == made.len(), "{lacks:?}");
    let unissued = ["join", "unissued", "-f", &classes, "--pki", &pki, "--server", "r1.example.com:7420", "--dry-run"];
    let dry = service.run(&unissued).await.exits(0).says("no certificate is issued in a dry run");
    assert!(!dry.out.contains("kind: Secret\n"), "{}", dry.out);
    assert!(!service.trial.folder.join("pki/agent-unissued.crt").exists(), "a certificate was issued");
}

async fn a_token_alone_says_how_an_agent_outside_of_its_cluster_is_started(service: &Service) {
    let token = service.folder.path().join("beside.token").to_string_lossy().into_owned();
    let told = service.run(&["join", "own-fra-1", "--token-file", &token, "--storage", "fast=gp3"]).await.exits(0);
    for says in ["--lease trial-1", "--kubeconfig agent.kubeconfig", "--region eu-central", "--storage fast=gp3"] {
        assert!(told.out.contains(says), "no {says}: {}", told.out);
    }
    service.run(&["join", "own-fra-1", "--token-file", &token, "--dry-run"]).await.exits(2);
}

async fn a_replica_that_asks_at_a_client_address_is_told_so_at_once(service: &Service) {
    let (plan, data) = (&service.trial.plans[0], service.folder.path().join("new").to_string_lossy().into_owned());
    let file = |path: &Path| path.to_string_lossy().into_owned();
    let (cert, key, ca) = (file(&plan.files.certificate), file(&plan.files.key), file(&plan.files.ca_bundle));
    let join = ["server", "join", "--data", &data, "--client-address", "r2:7420", "--peer-address", "r2:7421"];
    let by = ["--via", &plan.info.client_address, "--cert", &cert, "--key", &key, "--ca", &ca];
    let begun = std::time::Instant::now();
    let told = service.run(&[&join[..], &by].concat()).await.exits(2);
    let says = "is a client address; --via takes the peer address of a replica (port 7421 unless told otherwise)";
    assert!(told.err.contains(&format!("{} {says}", plan.info.client_address)), "{}", told.err);
    assert!(begun.elapsed() < std::time::Duration::from_secs(15), "it was tried again");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_token_is_made_where_no_replica_would_take_it() {
    let service = Service::start_with(1, |trial| trial.plans.iter_mut().for_each(|plan| plan.issuer = None)).await;
    let clusters = service.client.clusters(false).await.expect("clusters");
    let (name, classes) = (&clusters.first().expect("one").name, service.example("classes.yaml"));
    let token = service.folder.path().join("token").to_string_lossy().into_owned();
    for arguments in [&["join", name, "-f", &classes][..], &["join", name, "--token-file", &token]] {
        let refused = service.run(arguments).await.exits(1).says("no replica issues certificates");
        assert!(refused.out.is_empty(), "{}", refused.out);
        assert!(refused.err.contains("--issuer-cert and --issuer-key") && refused.err.contains("--pki DIR"), "{}", refused.err);
    }
    assert!(!Path::new(&token).exists(), "a token was written");
    let pki = service.trial.folder.join("pki").to_string_lossy().into_owned();
    service.run(&["join", name, "-f", &classes, "--pki", &pki]).await.exits(0);
    service.stop().await;
}

/// The agents here tell what they have and follow no intent: there is nobody to ask, and nothing is held back.
async fn agents_are_shown_and_what_only_they_know_is_said_to_be_unknown(service: &Service) {
    let shown = service.run(&["get", "cluster", "own-fra-1"]).await.exits(0).says("LAST CONTACT").says("s ago");
    assert!(!shown.out.contains("unknown") && !shown.out.contains("no agent"), "{}", shown.out);
    service.run(&["get", "cluster", "own-fra-1", "-o", "yaml"]).await.exits(0).says("lastContact: ").says("lastContactAge: ");
    service.run(&["top"]).await.exits(0).says("LAST CONTACT").says("s ago");
    service.run(&["describe", "cluster", "own-fra-1"]).await.exits(0).says("lastContact: ");

    service.run(&["allow-removals", "own-fra-1", "--count", "0"]).await.exits(2);
    service.run(&["allow-removals", "nosuch", "--count", "3"]).await.exits(3);
    for dry in [&["allow-removals", "own-fra-1", "--count", "3"][..], &["allow-removals", "cluster/own-fra-1", "--count", "3", "--dry-run"]]
    {
        service.run(dry).await.exits(1).says("no removal waits there");
    }
    let file = service.example("tenants.yaml");
    service.run(&["diff", "-f", &file, "--in-cluster"]).await.exits(1).says("its agent is connected to no replica");
    service.run(&["diff", "-f", &file, "--tenant", "acme"]).await.exits(2);
}

/// A class whose tenants' process does as it says.
fn class(version: &str, run: &str) -> String {
    format!(
        "apiVersion: roadstead.dev/v1\nkind: Class\nmetadata: {{name: job}}\nspec:\n  version: {version}\n  \
         requests: {{cpu: 1, memory: 1Gi, pods: 1, largestPod: {{cpu: 1, memory: 1Gi}}}}\n  local:\n    main: {{run: [sh, -c, \"{run}\"]}}\n"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_is_waited_for_until_it_is_carried_out_and_nothing_is_wrong_with_it() {
    let mut service = Service::start_with(0, |_| {}).await;
    let one = "apiVersion: roadstead.dev/v1\nkind: Cluster\nmetadata: {name: own}\nspec: {provider: own, region: eu-central, pool: home}\n";
    let classes =
        [("1", "exec sleep 1000"), ("2", "exit 3"), ("3", "exec sleep 1001")].map(|(version, run)| class(version, run)).join("---\n");
    let fleet = service.write("own.yaml", format!("{one}---\n{classes}"));
    service.run(&["apply", "-f", &fleet]).await.exits(0);
    let mut folders = roadstead_cli::trial::local::Folders::default();
    let facts = roadstead_cli::trial::agents::Facts::default();
    folders.follow(&mut service.trial, &service.client, &facts).await.expect("an agent");
    until_reported(&service.client).await.expect("a report");

    let apply = async |version: &str, timeout: &str| {
        let file = service.write("worker.yaml", tenant("worker", &format!("job@{version}")));
        service.run(&["apply", "-f", &file, "--wait", "--timeout", timeout]).await
    };
    apply("1", "60s").await.exits(0).says("tenant/worker created on own");
    let broken = apply("2", "20s").await.exits(5).says("tenant/worker configured");
    assert!(broken.err.contains("1 of 1 tenants are not as they are to be yet") && broken.err.contains("worker is "), "{}", broken.err);
    assert!(broken.err.contains("exit status: 3"), "it says what is wrong: {}", broken.err);
    apply("3", "90s").await.exits(0).says("tenant/worker configured");
    service.run(&["hibernate", "worker"]).await.exits(0).says("tenant/worker is to be Hibernated");
    let woken = service.run(&["wake", "worker", "--wait"]).await.exits(0);
    assert!(woken.out.ends_with("tenant/worker is Running\n"), "{}", woken.out);
    service.run(&["hibernate", "worker", "--wait"]).await.exits(0).says("tenant/worker is Hibernated");
    folders.end().await;
    service.stop().await;
}
