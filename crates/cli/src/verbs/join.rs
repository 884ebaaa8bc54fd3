//! `join`: makes the manifests of a cluster's agent, and writes them to the cluster if wanted.

use std::collections::BTreeMap;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use roadstead_api::v1;
use roadstead_class::Class;
use roadstead_core::class::ClassVersion;
use roadstead_core::id::{Name, Revision};
use roadstead_core::resources::Requests;
use roadstead_core::time::Millis;
use roadstead_server::services::join::token_digest;
use serde_json::{Value, json};

use crate::client::config::Context;
use crate::client::{Connection, parse_span};
use crate::document::Spec;
use crate::document::class::{ClassSpec, PodSecurity};
use crate::document::files::load;
use crate::document::tenant::{ClassRef, checked_name};
use crate::failure::{Exit, Failure};
use crate::join::cluster::{KubeCluster, Written};
use crate::join::furniture::{Storages, named};
use crate::join::issuers::{Issuers, issuers};
use crate::join::{
    AGENT, Certificate, Counting, Joining, Kind, Running, SiteSettings, TOKEN_SECRET, Token, Told, confine, is_loopback, rights,
};
use crate::output::{Objects, json, out, yaml};
use crate::pki::authority::CERTIFICATE_DAYS;
use crate::pki::{Role, Store, Subject};

/// The image that deploy/Containerfile makes.
const IMAGE: &str = concat!("roadstead:", env!("CARGO_PKG_VERSION"));

/// What to do where classes are not named.
const NAME_CLASSES: &str = "name all classes with -f, or ask the service with --from-service";

/// What tokens begin with, so that one that lies about is known for what it is.
const TOKEN_PREFIX: &str = "roadstead-join-";

/// See [`super::Cli`].
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  # to read, then kubectl apply -f
  roadstead join eu-1 -f examples/classes.yaml > agent.yaml
  # the same, leaving the token alone that was made before
  roadstead join eu-1 -f examples/classes.yaml --dry-run > agent.yaml
  # what would become of it
  roadstead join eu-1 --from-service --apply --dry-run
  roadstead join eu-1 --from-service --apply --kube-context eu-1 \\
      --storage fast=gp3 --ingress nginx
  # a token alone, for an agent outside of the cluster
  roadstead join eu-1 --token-file token --storage fast=gp3
  # without tokens: the certificate is issued here, or is there already
  roadstead join eu-1 -f examples/classes.yaml --pki pki > agent.yaml
  roadstead join eu-1 --certificate-secret agent-pki \\
      --server r1.example.com:7420

The rights of the agent follow from the kinds that classes use: name their files, or ask the
service. Join again when a class brings a new kind; what is as it is to be stays.

Joining again with --apply takes every flag that is not given from the Deployment that is there,
and says which; what may be given several times is added to. Rights for classes go only if classes
are named that do not need them. With --anew nothing is taken over. What is printed holds what was
said, and no more.

The service makes a one-time token, which is put into a Secret: the agent exchanges it for a
certificate of its cluster, and renews that by itself. Its key never leaves the cluster. With
--apply the token is for that cluster alone, and none is made while the agent's certificate is
good. Each time that manifests are printed another token is made, which takes the place of the last
one; with --dry-run none is, and its Secret is left out. An agent whose certificate has ended joins
again in the same way, as itself; where it was revoked, or its issuer was, with --new-token.

The region is that of the cluster's document if left out; with --pki or --certificate-secret the
service is asked for it only with --from-service.
What is needed and why: docs/joining.md.")]
pub struct Join {
    /// Name of the cluster, as its document has it.
    cluster: String,
    /// File or folder with classes; repeatable.
    #[arg(short, long = "file", value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Ask the service for its classes.
    #[arg(long)]
    from_service: bool,
    /// Write to the cluster instead of printing.
    #[arg(long)]
    apply: bool,
    /// Change nothing: with --apply the API server judges what would be written; without, it is printed, and no token is made.
    #[arg(long)]
    dry_run: bool,
    /// Take nothing over from the Deployment that is there: what is not said now is as usual.
    #[arg(long, requires = "apply")]
    anew: bool,
    /// Kubeconfig file; as kubectl finds it if left out.
    #[arg(long, value_name = "FILE", requires = "apply")]
    kubeconfig: Option<PathBuf>,
    /// Context of the kubeconfig; the current one if left out.
    #[arg(long, value_name = "CONTEXT", requires = "apply")]
    kube_context: Option<String>,
    /// How manifests are printed.
    #[arg(short, long, value_enum, default_value_t, conflicts_with = "apply")]
    output: Objects,
    /// Image with this binary; roadstead with this version as its tag if left out.
    #[arg(long)]
    image: Option<String>,
    /// How long the token is good.
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = parse_span)]
    ttl: Duration,
    /// Make a token although the agent has a certificate that is good by its dates: it was revoked, say.
    #[arg(long, requires = "apply", conflicts_with_all = ["pki", "certificate_secret"])]
    new_token: bool,
    /// UID of the kube-system of the only cluster that may use the token, where it is printed.
    #[arg(long, value_name = "UID", conflicts_with = "apply")]
    uid: Option<String>,
    /// Only make a token, and write it to this file.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["apply", "dry_run", "files", "from_service", "output", "pki", "certificate_secret"])]
    token_file: Option<PathBuf>,
    /// A Secret in roadstead-system that is there, with tls.crt, tls.key and ca.crt, instead of a token.
    #[arg(long, value_name = "NAME", conflicts_with = "pki")]
    certificate_secret: Option<String>,
    /// Folder of an authority (`roadstead pki`) that issues the agent's certificate here and now, instead of a token.
    #[arg(long, value_name = "DIR")]
    pki: Option<PathBuf>,
    /// Days that a certificate from --pki is valid.
    #[arg(long, default_value_t = CERTIFICATE_DAYS, requires = "pki", value_parser = clap::value_parser!(u64).range(1..=3650))]
    days: u64,
    /// Let classes have podSecurity: privileged; whoever acts as the agent has the nodes then.
    #[arg(long)]
    allow_privileged: bool,
    #[command(flatten)]
    running: Running,
    #[command(flatten)]
    site: SiteSettings,
    #[command(flatten)]
    counting: Counting,
    #[command(flatten)]
    connection: Connection,
}

impl Join {
    /// Prints the manifests, or writes them.
    ///
    /// # Errors
    /// Bad names and classes, no certificate, the API server's refusal.
    pub async fn run(self) -> Result<(), Failure> {
        let cluster = checked_name(&self.cluster).map_err(Failure::usage)?.0;
        if let Some(file) = &self.token_file {
            return self.only_token(&cluster, file).await;
        }
        let kube = match self.apply {
            true => Some(KubeCluster::connect(self.kubeconfig.as_ref(), self.kube_context.as_deref()).await?),
            false => None,
        };
        let (mut told, mut kept) = self.told(kube.as_ref()).await?;
        let mut needed = self.needed(told.privileged).await?;
        if self.asks_service(&told) {
            let declared = self.connection.connect()?.cluster(&cluster, false).await.map_err(|failure| undeclared(failure, &cluster))?;
            take_region(&mut told, &mut kept, declared.spec.unwrap_or_default().region);
        }
        if told.servers.is_empty() {
            told.servers = self.connection.resolve_servers()?;
        }
        tell_kept(&kept);
        warn_of_loopback(&told.servers);
        needed.storages.unmapped(&told.site).iter().for_each(|said| eprintln!("note: {said}"));
        if let Some(kube) = &kube {
            tell_absent(kube, &told).await;
            kube.find_plurals(&mut needed.kinds).await?;
        }
        let certificate = self.certificate(&cluster, kube.as_ref(), &told).await?;
        let Told { image, servers, certificate_secret: _, privileged, site, counting, running } = told;
        let image = image.unwrap_or_else(|| IMAGE.to_owned());
        let Needed { kinds, runs_commands, all_are_known, storages: _ } = needed;
        let kept_rights = Vec::new();
        let mut joining =
            Joining { cluster, image, servers, site, counting, running, kinds, runs_commands, kept_rights, certificate, privileged };
        match kube {
            Some(kube) => {
                joining.kept_rights = self.kept_rights(&kube, &joining, all_are_known).await?;
                write(&kube, &joining, self.dry_run).await
            }
            None => self.print(&joining),
        }
    }

    fn print(&self, joining: &Joining) -> Result<(), Failure> {
        let manifests = joining.manifests();
        out(&match self.output {
            Objects::Yaml => yaml(&manifests)?,
            Objects::Json => json(&json!({"apiVersion": "v1", "kind": "List", "items": manifests}))?,
        });
        match joining.certificate {
            Certificate::Pem { .. } => eprintln!("note: the Secret among it holds the agent's private key"),
            Certificate::Own(Some(_)) => {
                eprintln!("note: the Secret among it holds a token that lets the first to use it in as the agent of this cluster");
            }
            Certificate::Own(None) | Certificate::Secret(_) => {}
        }
        if self.names_no_class() {
            tell_no_class();
        }
        Ok(())
    }

    fn names_no_class(&self) -> bool {
        !self.from_service && self.files.is_empty()
    }

    /// What is said now, with what was said when the cluster joined and is not said now; and what that is, as flags.
    async fn told(&self, kube: Option<&KubeCluster>) -> Result<(Told, Vec<String>), Failure> {
        let mut told = Told {
            image: self.image.clone(),
            servers: self.connection.servers.clone(),
            certificate_secret: self.certificate_secret.clone(),
            privileged: self.allow_privileged,
            site: self.site.clone(),
            counting: self.counting.clone(),
            running: self.running.clone(),
        };
        let Some(kube) = kube.filter(|_| !self.anew) else { return Ok((told, Vec::new())) };
        let Some(deployment) = kube.read("apps/v1", "Deployment", AGENT).await? else { return Ok((told, Vec::new())) };
        let policy = kube.read("admissionregistration.k8s.io/v1", "ValidatingAdmissionPolicy", confine::KINDS).await?;
        let mut before = Told::read(&deployment, policy.as_ref()).map_err(|why| {
            Failure::failed(format!("the Deployment that is there is not as `join` writes it: {why}"))
                .hint("take out what was put in by hand: kubectl -n roadstead-system edit deployment roadstead-agent")
                .hint("or take nothing over from it, and say all flags: --anew")
        })?;
        if self.pki.is_some() || self.new_token {
            before.certificate_secret = None;
        }
        let mut kept = told.keep(before);
        // What would be written all the same is nothing to tell.
        let usual: Vec<String> = match self.connection.resolve_servers() {
            Ok(servers) if servers == told.servers => servers.iter().map(|server| format!("--server={server}")).collect(),
            Ok(_) | Err(_) => Vec::new(),
        };
        kept.retain(|flag| *flag != format!("--image={IMAGE}") && !usual.contains(flag));
        Ok((told, kept))
    }

    /// Whether the service is asked anyhow; without a token and its classes all can be made without it.
    fn asks_service(&self, told: &Told) -> bool {
        self.from_service || (self.pki.is_none() && told.certificate_secret.is_none())
    }

    /// What classes need: those of the files, and of the service if it is to be asked.
    async fn needed(&self, privileged: bool) -> Result<Needed, Failure> {
        let mut needed = Needed { all_are_known: !self.names_no_class(), ..Needed::default() };
        if !self.files.is_empty() {
            let mut found = false;
            for item in load(&self.files)? {
                if let Spec::Class(spec) = item.document.spec {
                    needed.add(&spec.to_wire(&item.document.name), privileged)?;
                    found = true;
                }
            }
            if !found {
                return Err(Failure::usage("there is no class in the input"));
            }
        }
        if self.from_service {
            let client = self.connection.connect()?;
            for listed in client.classes(false).await? {
                let class = client.class(&ClassRef { name: listed.name, version: listed.version }, false).await?;
                needed.add_stored(&class, privileged);
            }
        }
        Ok(needed)
    }

    /// Rights of the role that is there for classes that nobody named now: kept unless all classes are known, or nothing is to be kept.
    async fn kept_rights(&self, kube: &KubeCluster, joining: &Joining, all_are_known: bool) -> Result<Vec<rights::Rule>, Failure> {
        let role = kube.read("rbac.authorization.k8s.io/v1", "ClusterRole", AGENT).await?;
        let beyond = role.as_ref().map(|role| rights::beyond(joining, role)).unwrap_or_default();
        let about = rights::about(&beyond);
        if all_are_known || self.anew {
            if !beyond.is_empty() {
                eprintln!(
                    "note: the agent loses its rights for {about}, which no class that is named needs; if tenants do, {NAME_CLASSES}"
                );
            }
            return Ok(Vec::new());
        }
        if !beyond.is_empty() {
            eprintln!("note: the agent keeps its rights for {about}; to have them follow from classes, {NAME_CLASSES}");
        } else if self.names_no_class() {
            tell_no_class();
        }
        Ok(beyond)
    }

    async fn certificate(&self, cluster: &str, kube: Option<&KubeCluster>, told: &Told) -> Result<Certificate, Failure> {
        if let Some(name) = &told.certificate_secret {
            return Ok(Certificate::Secret(name.clone()));
        }
        if let Some(folder) = &self.pki {
            return self.issued(cluster, folder);
        }
        let uid = match kube {
            Some(kube) => {
                if !self.new_token
                    && let Some(validity) = kube.certified(cluster).await
                {
                    eprintln!(
                        "note: the agent has a certificate, which it renews by itself, now good until {}; no token is made (if it was \
                         revoked: --new-token)",
                        validity.end()
                    );
                    return Ok(Certificate::Own(None));
                }
                kube.uid().await?
            }
            None => self.uid.clone().unwrap_or_default(),
        };
        self.check_issuers().await?;
        if self.dry_run && kube.is_none() {
            eprintln!(
                "note: no token is made in a dry run: the Secret {TOKEN_SECRET} is left out, and one that is there stays as good as it is"
            );
            return Ok(Certificate::Own(None));
        }
        let token = if self.dry_run { "made when it is written".to_owned() } else { self.new_token(cluster, &uid).await? };
        Ok(Certificate::Own(Some(Token { token, authorities: self.authorities()? })))
    }

    /// One that is issued here and now.
    fn issued(&self, cluster: &str, folder: &Path) -> Result<Certificate, Failure> {
        let mut store = Store::open(folder)?;
        let subject = Subject::new(Role::Agent, cluster);
        let files = if self.dry_run { store.files(&subject) } else { store.ensure(&subject, self.days)? };
        if !files.certificate.exists() && !self.apply {
            eprintln!("note: no certificate is issued in a dry run: the Secret {AGENT}, which is to hold it, is left out");
            return Ok(Certificate::Secret(AGENT.to_owned()));
        }
        if !files.certificate.exists() {
            let text = || "issued when it is written".to_owned();
            return Ok(Certificate::Pem { certificate: text(), key: text(), authorities: text() });
        }
        Ok(Certificate::Pem { certificate: read(&files.certificate)?, key: read(&files.key)?, authorities: read(&files.ca_bundle)? })
    }

    /// The authorities by which the agent knows replicas: those that we know them by.
    fn authorities(&self) -> Result<String, Failure> {
        read(&self.connection.resolve()?.ca)
    }

    /// Refuses to make a token that nobody would exchange: the agent alone would say so, and not before it runs.
    async fn check_issuers(&self) -> Result<(), Failure> {
        match issuers(&self.connection.connect()?.status_of_members().await?) {
            Issuers::Some => Ok(()),
            Issuers::None => Err(Failure::failed("no replica issues certificates, so that a token would let no agent in")
                .hint("start a replica with --issuer-cert and --issuer-key: `roadstead pki issue issuer NAME` makes both")
                .hint("or issue the agent's certificate here and now: --pki DIR, the folder of `roadstead pki`")),
            Issuers::Unknown(why) => {
                eprintln!(
                    "note: no replica that answered issues certificates, and without one the agent is not let in; {}",
                    why.join("; ")
                );
                Ok(())
            }
        }
    }

    /// A token of which the service hears the digest only.
    async fn new_token(&self, cluster: &str, uid: &str) -> Result<String, Failure> {
        let secret: [u8; 32] = rand::random();
        let token = format!("{TOKEN_PREFIX}{}", secret.iter().map(|byte| format!("{byte:02x}")).collect::<String>());
        let life = prost_types::Duration::try_from(self.ttl).map_err(|error| Failure::usage(format!("--ttl: {error}")))?;
        let request = v1::PutTokenRequest {
            cluster: cluster.to_owned(),
            token_digest: token_digest(&token).to_vec().into(),
            uid: uid.to_owned(),
            life: Some(life),
        };
        let made = self.connection.connect()?.put_token(&request).await;
        let until = made.map_err(|failure| undeclared(failure, cluster))?;
        let until = jiff::Timestamp::from_second(until.seconds).unwrap_or_default();
        eprintln!("note: the token is good once, until {until}; a newer one for {cluster} takes its place");
        Ok(token)
    }

    async fn only_token(&self, cluster: &str, file: &Path) -> Result<(), Failure> {
        self.check_issuers().await?;
        let declared = self.connection.connect()?.cluster(cluster, false).await.map_err(|failure| undeclared(failure, cluster))?;
        let token = self.new_token(cluster, self.uid.as_deref().unwrap_or_default()).await?;
        let failed = |error: std::io::Error| Failure::failed(format!("cannot write {}: {error}", file.display()));
        let mut options = std::fs::OpenOptions::new();
        let mut written = options.write(true).create(true).truncate(true).mode(0o600).open(file).map_err(failed)?;
        written.write_all(token.as_bytes()).map_err(failed)?;
        out(&format!("{}\n", file.display()));
        let region = self.site.region.clone().or_else(|| declared.spec.map(|spec| spec.region));
        let site = SiteSettings { region, ..self.site.clone() };
        let flags = [site.flags(), self.counting.flags(), self.running.flags()].concat();
        out(&started_outside(cluster, file, &self.connection.resolve()?, &flags));
        Ok(())
    }
}

/// How the agent of a token is started outside of its cluster.
fn started_outside(cluster: &str, token: &Path, context: &Context, flags: &[String]) -> String {
    let (token, servers, ca) = (token.display(), context.servers.join(","), context.ca.display());
    let flags: Vec<String> = flags.iter().map(|flag| flag.replacen('=', " ", 1)).collect();
    let flags = if flags.is_empty() { String::new() } else { format!(" \\\n    {}", flags.join(" ")) };
    format!(
        "\nNext: make agent.kubeconfig, a kubeconfig of the agent's account, as in docs/joining.md, and then\n  \
         roadstead agent --cluster {cluster} --lease trial-1 --identity-dir identity --token-file {token} \\\n    \
         --server {servers} --ca {ca} --kubeconfig agent.kubeconfig{flags}\n"
    )
}

/// The region is that of the cluster's document, unless it is said now or was when the cluster joined.
fn take_region(told: &mut Told, kept: &mut Vec<String>, declared: String) {
    match &told.site.region {
        None => told.site.region = Some(declared),
        Some(region) if *region == declared => kept.retain(|flag| *flag != format!("--region={region}")),
        Some(region) if kept.contains(&format!("--region={region}")) && !declared.is_empty() => {
            eprintln!("note: the cluster's document has another region: --region {declared} takes it over");
        }
        Some(_) => {}
    }
}

/// One line with all that was taken over.
fn tell_kept(kept: &[String]) {
    if !kept.is_empty() {
        let flags: Vec<String> = kept.iter().map(|flag| flag.replacen('=', " ", 1)).collect();
        eprintln!("note: kept from the Deployment that is there: {} (--anew keeps nothing)", flags.join(", "));
    }
}

fn tell_no_class() {
    eprintln!("note: no class is named, so that the agent has rights for what every class may bring only; {NAME_CLASSES}");
}

/// What flags name and the cluster does not have: nothing is wrong with that as long as it comes before tenants do.
async fn tell_absent(kube: &KubeCluster, told: &Told) {
    for named in named(&told.site, &told.counting) {
        match kube.has(&named).await {
            Ok(true) => {}
            Ok(false) => eprintln!("note: {}", named.is_absent()),
            Err(failure) => eprintln!("note: {}; {} is taken to be right", failure.message, named.flag),
        }
    }
}

fn warn_of_loopback(servers: &[String]) {
    let own: Vec<&str> = servers.iter().map(String::as_str).filter(|server| is_loopback(server)).collect();
    if !own.is_empty() {
        eprintln!(
            "warning: the agent will look for replicas at {}, which from within a pod is that pod itself: name them as pods reach \
             them, with --server HOST:PORT",
            own.join(", ")
        );
    }
}

/// With what to do about a cluster that the service does not have.
fn undeclared(failure: Failure, cluster: &str) -> Failure {
    match failure.exit {
        Exit::NotFound => failure.hint(format!("declare cluster {cluster} first: `roadstead apply -f cluster.yaml`")),
        Exit::Failed | Exit::Usage | Exit::Conflict | Exit::Unavailable | Exit::Permission | Exit::Interrupted => failure,
    }
}

fn read(path: &Path) -> Result<String, Failure> {
    std::fs::read_to_string(path).map_err(|error| Failure::failed(format!("cannot read {}: {error}", path.display())))
}

/// What classes need rights for.
#[derive(Default)]
struct Needed {
    /// See [`Joining::kinds`].
    kinds: BTreeMap<Kind, Option<String>>,
    /// See [`Joining::runs_commands`].
    runs_commands: bool,
    /// Which storage they want.
    storages: Storages,
    /// Whether classes were named, and all that were can be read: then nothing else is needed.
    all_are_known: bool,
}

impl Needed {
    fn add(&mut self, class: &v1::Class, privileged: bool) -> Result<(), Failure> {
        let parsed = parsed(class)?;
        if !privileged && ClassSpec::from(class).pod_security == Some(PodSecurity::Privileged) {
            eprintln!(
                "note: {}@{} has podSecurity: privileged: this cluster will not take its tenants without --allow-privileged",
                class.name, class.version
            );
        }
        self.kinds.extend(parsed.kinds().into_iter().map(|kind| (kind, None)));
        self.runs_commands |= parsed.runs_commands();
        self.storages.add(class);
        Ok(())
    }

    /// One that the service has: another version of this program may have put it, which is no reason not to join.
    fn add_stored(&mut self, class: &v1::Class, privileged: bool) {
        if let Err(failure) = self.add(class, privileged) {
            eprintln!("note: {}; this version cannot read it, and gives no rights for it", failure.message);
            self.all_are_known = false;
        }
    }
}

/// A class as agents understand it.
fn parsed(class: &v1::Class) -> Result<Class, Failure> {
    let failed = |why: String| Failure::usage(format!("class {}@{}: {why}", class.name, class.version));
    // What tenants ask for and what volumes they have is of no matter for rights.
    let version = ClassVersion {
        name: Name::new(&class.name).map_err(|error| failed(error.to_string()))?,
        version: class.version.clone(),
        requests: Requests::default(),
        volumes: Vec::new(),
        retain: Millis::default(),
        values_schema: class.values_schema_json.clone(),
        template: class.template_json.clone(),
        created: Revision::default(),
    };
    Class::parse(&version).map_err(|found| failed(found.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")))
}

async fn write(kube: &KubeCluster, joining: &Joining, dry_run: bool) -> Result<(), Failure> {
    let uid = kube.uid().await?;
    let dry = if dry_run { " (dry run)" } else { "" };
    for manifest in joining.manifests() {
        let text = |pointer: &str| manifest.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
        let identity = format!("{}/{}", text("/kind").to_lowercase(), text("/metadata/name"));
        let word = match kube.write(&manifest, dry_run).await? {
            Written::As(difference) => difference.word(),
            Written::Unknown => "not judged: its namespace is not there yet",
        };
        out(&format!("{identity} {word}{dry}\n"));
    }
    out(&format!("\ncluster {} has the uid {uid}\n", joining.cluster));
    if !dry_run {
        out(&format!("\nNext: roadstead describe cluster {}   # last contact\n", joining.cluster));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stored_class_that_cannot_be_read_keeps_nobody_from_joining_and_says_that_rights_may_lack() {
        let class = |template: &str| v1::Class {
            name: "shop".to_owned(),
            version: "1.0.0".to_owned(),
            template_json: template.to_owned(),
            ..v1::Class::default()
        };
        let mut needed = Needed { all_are_known: true, ..Needed::default() };
        needed.add_stored(&class(""), false);
        assert!(needed.all_are_known);
        let unknown = class(r#"{"what": "a later version knows"}"#);
        assert!(needed.add(&unknown, false).is_err(), "one of a file is refused");
        needed.add_stored(&unknown, false);
        assert!(!needed.all_are_known);
    }

    #[test]
    fn an_agent_outside_of_its_cluster_is_started_with_a_kubeconfig_and_what_was_said_of_the_cluster() {
        let context = Context { servers: vec!["r1:7420".to_owned(), "r2:7420".to_owned()], ca: "pki/ca.crt".into(), ..Context::default() };
        let flags = ["--region=eu", "--storage=fast=gp3"].map(str::to_owned);
        let said = started_outside("eu-1", Path::new("token"), &context, &flags);
        let command = said.split_once("and then\n").expect("a command").1.replace("\\\n", " ");
        let words: Vec<&str> = command.split_whitespace().collect();
        assert_eq!(
            words.join(" "),
            "roadstead agent --cluster eu-1 --lease trial-1 --identity-dir identity --token-file token --server r1:7420,r2:7420 \
             --ca pki/ca.crt --kubeconfig agent.kubeconfig --region eu --storage fast=gp3"
        );
        assert!(<crate::verbs::Cli as clap::Parser>::try_parse_from(words).is_ok(), "{said}");
        assert!(started_outside("eu-1", Path::new("token"), &context, &[]).ends_with("--kubeconfig agent.kubeconfig\n"));
    }

    #[test]
    fn the_region_is_the_documents_unless_it_was_said() {
        let with = |region: Option<&str>| {
            let site = SiteSettings { region: region.map(str::to_owned), ..SiteSettings::default() };
            Told { site, ..Told::default() }
        };
        let taken = |region: Option<&str>, kept: &[&str]| {
            let (mut told, mut kept) = (with(region), kept.iter().map(|&flag| flag.to_owned()).collect());
            take_region(&mut told, &mut kept, "eu".to_owned());
            (told.site.region.unwrap_or_default(), kept)
        };
        let flag = |region: &str| vec![format!("--region={region}")];
        assert_eq!(taken(None, &[]), ("eu".to_owned(), Vec::new()));
        assert_eq!(taken(Some("eu"), &["--region=eu"]), ("eu".to_owned(), Vec::new()), "nothing to tell");
        assert_eq!(taken(Some("fra"), &["--region=fra"]), ("fra".to_owned(), flag("fra")));
        assert_eq!(taken(Some("fra"), &[]), ("fra".to_owned(), Vec::new()));
    }
}
