//! An agent is let in by its token on a real API server, as the account that joining makes: it renews its certificate, is taken over from,
//! expires, loses its Secret, and comes back as itself each time, with its tenant where it was.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Secret};
use kube::Api;
use kube::api::{DeleteParams, ListParams, ObjectMeta, PostParams};
use roadstead_agent::engine::Heard;
use roadstead_agent::identity::exchange::refusal;
use roadstead_agent::identity::{Credentials, Keeper, Keeping, Place, unix_now_s};
use roadstead_agent::session::Session;
use roadstead_cli::client::endpoints_by;
use roadstead_tests::cli::{self, Said};
use roadstead_tests::group::{self, Group};
use roadstead_tests::process::{Process, until};
use roadstead_tests::testbed::{ControlPlane, Kwok, NodeShape, Options};
use tokio::sync::mpsc;
use tonic::transport::Endpoint;

/// How long agents' certificates are good here: they are renewed every 24 seconds or so.
const LIFE: &str = "36s";

/// How long the API server, a controller or a renewal may take.
const SOON: Duration = Duration::from_secs(60);
const SYSTEM: &str = "roadstead-system";
const AGENT: &str = "roadstead-agent";
const IDENTITY: &str = "roadstead-agent-identity";

/// A fleet of one cluster, and a tenant of a class that has next to nothing.
const FLEET: &str = "\
apiVersion: roadstead.dev/v1
kind: Pool
metadata: {name: home}
spec: {kind: home, order: 1, policy: spread}
---
apiVersion: roadstead.dev/v1
kind: Cluster
metadata: {name: eu-1}
spec: {pool: home, provider: own, region: eu-1}
---
apiVersion: roadstead.dev/v1
kind: Class
metadata: {name: plain}
spec:
  version: 1.0.0
  values: {additionalProperties: false, properties: {theme: {type: string, default: pale}}}
  requests: {cpu: 100m, memory: 64Mi, pods: 1, largestPod: {cpu: 100m, memory: 64Mi}}
  secrets: [{name: key, generate: {password: 32}}]
  manifests: [plain/*.yaml]
  retain: 1d
";
const MANIFEST: &str = "{apiVersion: v1, kind: ConfigMap, metadata: {name: plain}, data: {theme: \"{{ values.theme }}\"}}\n";
/// The class's next version: one object has another name, and there is one secret more.
const NEXT_CLASS: &str = "\
apiVersion: roadstead.dev/v1
kind: Class
metadata: {name: plain}
spec:
  version: 1.1.0
  values: {additionalProperties: false, properties: {theme: {type: string, default: pale}}}
  requests: {cpu: 100m, memory: 64Mi, pods: 1, largestPod: {cpu: 100m, memory: 64Mi}}
  secrets: [{name: key, generate: {password: 32}}, {name: more, generate: {password: 32}}]
  manifests: [next/*.yaml]
  retain: 1d
";
const NEXT_MANIFEST: &str = "{apiVersion: v1, kind: ConfigMap, metadata: {name: next}, data: {theme: \"{{ values.theme }}\"}}\n";
const TENANT: &str = "\
apiVersion: roadstead.dev/v1
kind: Tenant
metadata: {name: acme}
spec: {owner: acme-gmbh, class: plain@1.0.0}
";
/// A tenant that lacks a secret, of a class that copies one.
const LACKS: &str = "\
apiVersion: roadstead.dev/v1
kind: Class
metadata: {name: copies}
spec:
  version: 1.0.0
  requests: {cpu: 100m, memory: 64Mi, pods: 1, largestPod: {cpu: 100m, memory: 64Mi}}
  secrets: [{name: mail, copy: shared-mail}]
  manifests: [next/*.yaml]
  values: {additionalProperties: false, properties: {theme: {type: string, default: pale}}}
  retain: 1d
---
apiVersion: roadstead.dev/v1
kind: Tenant
metadata: {name: lacks}
spec: {owner: acme-gmbh, class: copies@1.0.0}
";
/// A namespace that is labelled as a tenant's and that nobody knows.
const ORPHAN: &str = "lost-00000000000000aa";
/// The same tenant, otherwise.
const DARK: &str = "\
apiVersion: roadstead.dev/v1
kind: Tenant
metadata: {name: acme}
spec: {owner: acme-gmbh, class: plain@1.0.0, values: {theme: dark}}
";

/// A replica that lets agents in, and the real cluster whose agent is to be.
struct Entering {
    plane: ControlPlane,
    folder: tempfile::TempDir,
    _kwok: Kwok,
    group: Group,
    kubeconfig: PathBuf,
    secrets: Api<Secret>,
}

fn path(path: &Path) -> String {
    path.display().to_string()
}

impl Entering {
    async fn start() -> Result<Self> {
        let plane = ControlPlane::start(Options::default()).await?;
        let kwok = Kwok::start(&plane).await?;
        kwok.add_nodes("node", 1, &NodeShape::of(8, 32)).await?;
        let mut group = Group::empty(group::Options::default())?;
        group.pki(&["issue", "issuer", "r1"])?;
        let pki = group.folder().join("pki");
        let file = |name: &str| path(&pki.join(name));
        let flags = ["--issuer-cert", &file("issuer-r1.crt"), "--issuer-key", &file("issuer-r1.key"), "--agent-certificates", LIFE];
        group.set_flags(flags.map(str::to_owned).to_vec());
        group.add_replica().await?;
        group.wait_for_voters(1).await?;
        let folder = tempfile::tempdir()?;
        for manifests in ["plain", "next"] {
            std::fs::create_dir(folder.path().join(manifests))?;
        }
        let documents =
            [("fleet.yaml", FLEET), ("tenant.yaml", TENANT), ("dark.yaml", DARK), ("next.yaml", NEXT_CLASS), ("lacks.yaml", LACKS)];
        let manifests = [("plain/map.yaml", MANIFEST), ("next/map.yaml", NEXT_MANIFEST)];
        for (name, text) in documents.into_iter().chain(manifests) {
            std::fs::write(folder.path().join(name), text)?;
        }
        cli::run(&group, 1, &["apply", "-f", &path(&folder.path().join("fleet.yaml"))])?;
        let user = format!("system:serviceaccount:{SYSTEM}:{AGENT}");
        let kubeconfig = plane.kubeconfig_as(&user, &["system:serviceaccounts", &format!("system:serviceaccounts:{SYSTEM}")])?;
        let secrets = Api::namespaced(plane.client().await?, SYSTEM);
        Ok(Self { plane, folder, _kwok: kwok, group, kubeconfig, secrets })
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn run(&self, arguments: &[&str]) -> Result<String> {
        cli::run(&self.group, 1, arguments)
    }

    /// Joins, and mounts the token as the kubelet does.
    async fn join(&self) -> Result<String> {
        self.join_with(&[]).await
    }

    async fn join_with(&self, more: &[&str]) -> Result<String> {
        let kubeconfig = path(self.plane.kubeconfig());
        let arguments = [&["join", "eu-1", "--from-service", "--apply", "--kubeconfig", &kubeconfig], more].concat();
        // The level that knows tokens is agreed soon after the start.
        let told = until("a token can be made", SOON, || async { self.run(&arguments) }).await?;
        let mounted = self.secrets.get("roadstead-agent-join").await?.data.context("a token has data")?;
        for (name, content) in mounted {
            std::fs::write(self.file(&name), content.0)?;
        }
        Ok(told)
    }

    fn log(&self) -> PathBuf {
        self.file("agent.log")
    }

    /// Waits until the agent has logged this since it was started.
    async fn logged(&self, words: &str) -> Result<()> {
        until(&format!("the agent says {words:?}"), SOON, || async {
            let log = std::fs::read_to_string(self.log())?;
            ensure!(log.contains(words), "{log}");
            Ok(())
        })
        .await
    }

    /// Starts one of the agent's replicas as its pod does.
    fn agent(&self, replica: &str) -> Result<Process> {
        self.agent_with(|command| command.args(["--lease", replica, "--identity-secret", IDENTITY]))
    }

    fn agent_with(&self, more: impl FnOnce(&mut Command) -> &mut Command) -> Result<Process> {
        // Each start has a log of its own.
        let _ = std::fs::remove_file(self.log());
        let mut command = Command::new(group::binary()?);
        command.args(["agent", "--cluster", "eu-1", "--kubeconfig"]).arg(&self.kubeconfig);
        more(&mut command).args(["--server", &self.group.replica(1).client.to_string()]);
        command.arg("--token-file").arg(self.file("token")).arg("--ca").arg(self.file("ca.crt"));
        Process::start("the agent", &mut command, &self.log())
    }

    /// What the agent has kept.
    async fn kept(&self) -> Result<Credentials> {
        let place = Place::secret(self.plane.client().await?, SYSTEM, IDENTITY);
        place.load().await.map_err(anyhow::Error::msg)?.context("nothing is kept")
    }

    /// Waits until another certificate is kept than this one.
    async fn next(&self, before: &Credentials) -> Result<Credentials> {
        until("another certificate is kept", SOON, || async {
            let kept = self.kept().await?;
            ensure!(kept.certificate != before.certificate && !kept.certificate.is_empty(), "it is the one before");
            Ok(kept)
        })
        .await
    }

    /// The tenant's namespace, once it is there and is not going.
    async fn namespace(&self) -> Result<Namespace> {
        let namespaces: Api<Namespace> = Api::all(self.plane.client().await?);
        let found = namespaces.list(&ListParams::default().labels("roadstead.dev/tenant")).await?;
        let home = found.items.into_iter().next().context("there is no tenant's namespace")?;
        ensure!(home.metadata.deletion_timestamp.is_none(), "it is being deleted");
        Ok(home)
    }

    /// The uid of the tenant's namespace.
    async fn home(&self) -> Result<String> {
        self.namespace().await?.metadata.uid.context("it has a uid")
    }

    /// What `diff --in-cluster` says of a file, once the agent has answered: it may be between two of its certificates.
    async fn diff(&self, file: &str) -> Result<Said> {
        let file = path(&self.file(file));
        until("the agent has answered", SOON, || async {
            let said = cli::try_run(&self.group, 1, &["diff", "-f", &file, "--in-cluster"])?;
            ensure!(said.text.contains("tenant/acme in eu-1: "), "{said:?}");
            Ok(said)
        })
        .await
    }

    /// `diff --in-cluster` shows what would become of the tenant's objects, makes nothing of it, and tells no secret's data.
    async fn shows_what_would_change(&self) -> Result<()> {
        until("the tenant runs", SOON, || async {
            let told = self.run(&["get", "tenant", "acme"])?;
            ensure!(told.contains("Running"), "{told}");
            Ok(())
        })
        .await?;
        let (client, home) = (self.plane.client().await?, self.namespace().await?.metadata.name.context("it has a name")?);
        let (maps, secrets) = (Api::<ConfigMap>::namespaced(client.clone(), &home), Api::<Secret>::namespaced(client, &home));
        let key = secrets.get("key").await?;
        let before = (maps.get("plain").await?, self.run(&["get", "tenant", "acme", "-o", "yaml"])?);

        let same = self.diff("tenant.yaml").await?;
        ensure!(same.code == 0 && same.text.contains("no object would change"), "{same:?}");
        let dark = self.diff("dark.yaml").await?;
        let (_, map) =
            dark.text.split_once("tenant/acme in eu-1: ConfigMap/plain would be changed\n").with_context(|| format!("{dark:?}"))?;
        let line = |sign: char, words: &str| map.lines().any(|line| line.starts_with(sign) && line.ends_with(words));
        ensure!(dark.code == 1 && line('-', "theme: pale") && line('+', "theme: dark"), "{dark:?}");
        let next = self.diff("next.yaml").await?;
        for words in ["Secret/more would be created", "ConfigMap/next would be created", "ConfigMap/plain would be deleted"] {
            ensure!(next.text.contains(&format!("tenant/acme in eu-1: {words}\n")), "no {words:?}: {next:?}");
        }

        let data = key.data.clone().context("it was generated")?;
        let raw: Vec<&str> = data.values().map(|value| std::str::from_utf8(&value.0)).collect::<Result<_, _>>()?;
        let written = serde_json::to_value(&data)?;
        let written: Vec<&str> = written.as_object().context("a map")?.values().filter_map(serde_json::Value::as_str).collect();
        ensure!(!raw.is_empty() && raw.iter().chain(&written).all(|value| value.len() >= 16), "{} values", raw.len());
        for said in [&same, &dark, &next] {
            ensure!(!raw.iter().chain(&written).any(|value| said.text.contains(value)), "a secret's data is told: {said:?}");
        }

        let after = (maps.get("plain").await?, self.run(&["get", "tenant", "acme", "-o", "yaml"])?);
        ensure!(before == after, "it was changed: {before:?} {after:?}");
        ensure!(secrets.get("key").await? == key, "the secret was changed");
        ensure!(maps.get_opt("next").await?.is_none() && secrets.get_opt("more").await?.is_none(), "it was made");
        ensure!(!self.run(&["get", "classes"])?.contains("1.1.0"), "the class was put");
        Ok(())
    }

    /// The agent's log names tenants' troubles when they begin and end, once, and what nobody knows of.
    async fn logs_what_is_wrong(&self) -> Result<()> {
        self.run(&["apply", "-f", &path(&self.file("lacks.yaml"))])?;
        self.logged("is not in the template namespace").await?;
        let client = self.plane.client().await?;
        let (namespaces, params) = (Api::<Namespace>::all(client.clone()), PostParams::default());
        let namespace = |name: &str, labels: Option<(String, String)>| {
            let metadata = ObjectMeta { name: Some(name.to_owned()), labels: Some(labels.into_iter().collect()), ..ObjectMeta::default() };
            Namespace { metadata, ..Namespace::default() }
        };
        let labelled = Some(("roadstead.dev/tenant".to_owned(), ORPHAN.trim_start_matches("lost-").to_owned()));
        namespaces.create(&params, &namespace(ORPHAN, labelled)).await?;
        self.logged(&format!("namespace {ORPHAN}")).await?;
        namespaces.create(&params, &namespace("roadstead-templates", None)).await?;
        let metadata = ObjectMeta { name: Some("shared-mail".to_owned()), ..ObjectMeta::default() };
        let shared = Secret { metadata, ..Secret::default() };
        Api::<Secret>::namespaced(client, "roadstead-templates").create(&params, &shared).await?;
        self.logged("a tenant's trouble is over").await?;
        let log = std::fs::read_to_string(self.log())?;
        let began = log.lines().filter(|line| line.contains("a tenant is in trouble") && line.contains("tenant=\"lacks\""));
        ensure!(began.count() == 1, "{log}");
        namespaces.delete(ORPHAN, &DeleteParams::default()).await?;
        Ok(())
    }

    fn ended(kept: &Credentials) -> Result<()> {
        let validity = kept.validity("eu-1").map_err(anyhow::Error::msg)?;
        ensure!(validity.has_ended(unix_now_s()), "it is good until {}", validity.end());
        Ok(())
    }
}

#[tokio::test]
async fn an_agent_is_let_in_by_a_token_renews_its_certificate_and_comes_back_as_itself() -> Result<()> {
    let entering = Entering::start().await?;
    let told = entering.join().await?;
    ensure!(told.contains("secret/roadstead-agent-join created") && told.contains("the token is good once"), "{told}");
    ensure!(!told.contains("PRIVATE KEY"), "{told}");
    let mut agent = entering.agent("one")?;
    let nothing = Credentials::default();
    let first = entering.next(&nothing).await?;
    entering.logged("the intent is followed").await?;
    let namespaces: Api<Namespace> = Api::all(entering.plane.client().await?);
    let uid = namespaces.get("kube-system").await?.metadata.uid.context("it has a uid")?;
    let described = entering.run(&["get", "cluster", "eu-1", "-o", "yaml"])?;
    ensure!(described.contains(&uid), "{described}");

    // It renews by itself, with a new key each time, and stays in conversation past the end of the first one.
    let second = entering.next(&first).await?;
    ensure!(second.key != first.key, "the key was used again");
    until("the first certificate has ended", SOON, || async { Entering::ended(&first) }).await?;
    let third = entering.next(&second).await?;
    entering.run(&["apply", "-f", &path(&entering.file("tenant.yaml"))])?;
    let home = until("the tenant has a namespace", SOON, || entering.home()).await?;
    entering.shows_what_would_change().await?;
    entering.logs_what_is_wrong().await?;
    let again = entering.join().await?;
    ensure!(again.contains("no token is made") && !again.contains("secret/"), "{again}");
    let again = entering.join_with(&["--new-token"]).await?;
    ensure!(again.contains("secret/roadstead-agent-join configured") && again.contains("the token is good once"), "{again}");

    // Its other replica takes over what is kept, without a token.
    std::fs::remove_file(entering.file("token"))?;
    let mut other = entering.agent("two")?;
    entering.logged("waiting for the lease").await?;
    agent.kill()?;
    entering.logged("the certificate is the one that is kept").await?;
    let fourth = entering.next(&third).await?;

    // Halted for longer than its certificate lasts, it says so; joined again, it is the same cluster's agent.
    other.kill()?;
    let last = entering.kept().await.unwrap_or(fourth);
    until("the last certificate has ended", SOON, || async { Entering::ended(&last) }).await?;
    let mut agent = entering.agent("two")?;
    entering.logged("its certificate ended at").await?;
    entering.logged("roadstead join eu-1").await?;
    ensure!(agent.ended()?.is_none(), "it waits to be let in again");
    let told = entering.join().await?;
    ensure!(told.contains("secret/roadstead-agent-join configured"), "{told}");
    let fifth = entering.next(&last).await?;
    entering.logged("the intent is followed").await?;

    // Its Secret gone and its token used, it says so as well.
    agent.kill()?;
    entering.secrets.delete(IDENTITY, &DeleteParams::default()).await?;
    let mut agent = entering.agent("two")?;
    entering.logged("its token was refused").await?;
    entering.logged("was used already").await?;
    entering.join().await?;
    entering.next(&fifth).await?;
    entering.logged("the intent is followed").await?;
    agent.kill()?;

    // Outside of its cluster it keeps its certificate in a folder.
    let (folder, token) = (entering.file("identity"), entering.file("token"));
    entering.run(&["join", "eu-1", "--token-file", &path(&token)])?;
    let mut agent = entering.agent_with(|command| command.args(["--lease", "none", "--identity-dir"]).arg(&folder))?;
    entering.logged("the token was exchanged").await?;
    entering.logged("the intent is followed").await?;
    ensure!(entering.home().await? == home, "its tenant is another one");
    agent.kill()?;
    let place = Place::Folder(folder);
    let kept = place.load().await.map_err(anyhow::Error::msg)?.context("nothing is kept")?;
    kept.validity("eu-1").map_err(anyhow::Error::msg)?;
    Ok(())
}

/// An agent outside of any cluster, as far as it concerns its certificate: it keeps one, and speaks to the service by it.
struct Outside {
    group: Group,
    folder: tempfile::TempDir,
    servers: Vec<String>,
}

impl Outside {
    async fn start() -> Result<Self> {
        let (group, folder) = (Group::issuing(None).await?, tempfile::tempdir()?);
        std::fs::create_dir(folder.path().join("plain"))?;
        for (name, text) in [("fleet.yaml", FLEET), ("plain/map.yaml", MANIFEST)] {
            std::fs::write(folder.path().join(name), text)?;
        }
        cli::run(&group, 1, &["apply", "-f", &path(&folder.path().join("fleet.yaml"))])?;
        let servers = vec![group.replica(1).client.to_string()];
        Ok(Self { group, folder, servers })
    }

    fn token(&self) -> PathBuf {
        self.folder.path().join("token")
    }

    async fn make_token(&self) -> Result<()> {
        let token = path(&self.token());
        // The level that knows tokens is agreed soon after the start.
        until("a token can be made", SOON, || async { cli::run(&self.group, 1, &["join", "eu-1", "--token-file", &token]) }).await?;
        Ok(())
    }

    fn place(&self) -> Place {
        Place::Folder(self.folder.path().join("identity"))
    }

    async fn kept(&self) -> Result<Credentials> {
        self.place().load().await.map_err(anyhow::Error::msg)?.context("nothing is kept")
    }

    fn keeper(&self) -> Keeper {
        let servers = self.servers.clone();
        Keeper::new(Keeping {
            cluster: "eu-1".to_owned(),
            uid: "uid-eu-1".to_owned(),
            place: self.place(),
            token: Some(self.token()),
            authorities: Some(self.group.folder().join("pki/ca-bundle.crt")),
            dial: Arc::new(move |credentials| dialled(&servers, credentials)),
        })
    }

    /// Whether the replica refuses this certificate: why.
    async fn refusal(&self, credentials: &Credentials) -> Result<Option<String>> {
        let replicas = dialled(&self.servers, credentials).map_err(anyhow::Error::msg)?;
        Ok(refusal(&replicas, "eu-1").await)
    }

    /// The issuer is somebody else's now: it is revoked, and another takes its place.
    fn replace_issuer(&self) -> Result<()> {
        self.group.pki(&["revoke", "issuer-r1"])?;
        self.group.pki(&["issue", "issuer", "r2"])?;
        let pki = self.group.folder().join("pki");
        for end in ["crt", "key"] {
            std::fs::copy(pki.join(format!("issuer-r2.{end}")), pki.join(format!("issuer-r1.{end}")))?;
        }
        Ok(())
    }
}

fn dialled(servers: &[String], credentials: &Credentials) -> Result<Vec<Endpoint>, String> {
    let Credentials { certificate, key, authorities } = credentials;
    let own = (!certificate.is_empty()).then_some((certificate.as_str(), key.as_str()));
    endpoints_by(servers, authorities, own).map_err(|failure| failure.to_string())
}

#[tokio::test]
async fn an_agent_whose_issuer_was_revoked_comes_back_by_a_token_that_it_has_not_used() -> Result<()> {
    let outside = Outside::start().await?;
    outside.make_token().await?;
    let keeper = outside.keeper();
    keeper.obtain().await;
    let first = outside.kept().await?;
    ensure!(outside.refusal(&first).await?.is_none(), "a good certificate is refused");
    let session = Session { uid: "uid-eu-1".to_owned(), replicas: keeper.replicas() };
    let ((heard, mut hears), (_tell, tells)) = (mpsc::channel(64), mpsc::channel(64));
    let working = tokio::spawn(async move { tokio::join!(keeper.keep(), session.run(heard, tells)) });
    let mut begins = async || {
        let next = async { while !matches!(hears.recv().await, Some(Heard::Begins) | None) {} };
        tokio::time::timeout(SOON, next).await.context("the intent is not followed")
    };
    begins().await?;

    outside.replace_issuer()?;
    let why = until("its certificate is refused", SOON, || async { outside.refusal(&first).await?.context("it is taken") }).await?;
    ensure!(why.contains("CertificateRevoked"), "{why}");
    // Its certificate is good by its dates for a month.
    outside.make_token().await?;
    let second = until("another certificate is kept", SOON, || async {
        let kept = outside.kept().await?;
        ensure!(kept.certificate != first.certificate, "it is the one before");
        Ok(kept)
    })
    .await?;
    ensure!(second.key != first.key, "the key may be why it was revoked");
    ensure!(outside.refusal(&second).await?.is_none(), "the new one is refused");
    begins().await?;
    working.abort();
    Ok(())
}
