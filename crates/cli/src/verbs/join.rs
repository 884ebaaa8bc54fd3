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

use crate::client::{Connection, parse_span};
use crate::document::Spec;
use crate::document::class::{ClassSpec, PodSecurity};
use crate::document::files::load;
use crate::document::tenant::{ClassRef, checked_name};
use crate::failure::{Exit, Failure};
use crate::join::cluster::{KubeCluster, Written};
use crate::join::issuers::{Issuers, issuers};
use crate::join::{Certificate, Counting, Joining, Kind, SiteSettings, Token, is_loopback};
use crate::output::{Objects, json, out, yaml};
use crate::pki::authority::CERTIFICATE_DAYS;
use crate::pki::{Role, Store, Subject};

/// The image that deploy/Containerfile makes.
const IMAGE: &str = concat!("roadstead:", env!("CARGO_PKG_VERSION"));

/// What tokens begin with, so that one that lies about is known for what it is.
const TOKEN_PREFIX: &str = "roadstead-join-";

/// See [`super::Cli`].
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  # to read, then kubectl apply -f
  roadstead join eu-1 -f examples/classes.yaml > agent.yaml
  # what would become of it
  roadstead join eu-1 --from-service --apply --dry-run
  roadstead join eu-1 --from-service --apply --kube-context eu-1 \\
      --storage fast=gp3 --ingress nginx
  # a token alone, for an agent outside of the cluster
  roadstead join eu-1 --token-file token
  # without tokens: the certificate is issued here, or is there already
  roadstead join eu-1 -f examples/classes.yaml --pki pki > agent.yaml
  roadstead join eu-1 --certificate-secret agent-pki \\
      --server r1.example.com:7420

The rights of the agent follow from the kinds that classes use: name their files, or ask the
service. Join again when a class brings a new kind; what is as it is to be stays.

The service makes a one-time token, which is put into a Secret: the agent exchanges it for a
certificate of its cluster, and renews that by itself. Its key never leaves the cluster. With
--apply the token is for that cluster alone, and none is made while the agent's certificate is
good. An agent whose certificate has ended joins again in the same way, as itself.

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
    /// Let the API server judge what would be written, but change nothing.
    #[arg(long, requires = "apply")]
    dry_run: bool,
    /// Kubeconfig file; as kubectl finds it if left out.
    #[arg(long, value_name = "FILE", requires = "apply")]
    kubeconfig: Option<PathBuf>,
    /// Context of the kubeconfig; the current one if left out.
    #[arg(long, value_name = "CONTEXT", requires = "apply")]
    kube_context: Option<String>,
    /// How manifests are printed.
    #[arg(short, long, value_enum, default_value_t, conflicts_with = "apply")]
    output: Objects,
    /// Image with this binary.
    #[arg(long, default_value = IMAGE)]
    image: String,
    /// How long the token is good.
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = parse_span)]
    ttl: Duration,
    /// UID of the kube-system of the only cluster that may use the token, where it is printed.
    #[arg(long, value_name = "UID", conflicts_with = "apply")]
    uid: Option<String>,
    /// Only make a token, and write it to this file.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["apply", "files", "from_service", "output", "pki", "certificate_secret"])]
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
        let servers = self.connection.resolve_servers()?;
        let Needed { mut kinds, runs_commands } = self.needed().await?;
        let mut site = self.site.clone();
        if self.asks_service() {
            let declared = self.connection.connect()?.cluster(&cluster, false).await.map_err(|failure| undeclared(failure, &cluster))?;
            if site.region.is_empty() {
                site.region = declared.spec.unwrap_or_default().region;
            }
        }
        let own: Vec<&str> = servers.iter().map(String::as_str).filter(|server| is_loopback(server)).collect();
        if !own.is_empty() {
            eprintln!(
                "warning: the agent will look for replicas at {}, which from within a pod is that pod itself: name them as pods reach \
                 them, with --server HOST:PORT",
                own.join(", ")
            );
        }
        let kube = if self.apply {
            let kube = KubeCluster::connect(self.kubeconfig.as_ref(), self.kube_context.as_deref()).await?;
            kube.find_plurals(&mut kinds).await?;
            Some(kube)
        } else {
            None
        };
        let joining = Joining {
            certificate: self.certificate(&cluster, kube.as_ref()).await?,
            cluster,
            image: self.image.clone(),
            servers,
            site,
            counting: self.counting.clone(),
            kinds,
            runs_commands,
            privileged: self.allow_privileged,
        };
        match kube {
            Some(kube) => write(&kube, &joining, self.dry_run).await,
            None => {
                let manifests = joining.manifests();
                out(&match self.output {
                    Objects::Yaml => yaml(&manifests)?,
                    Objects::Json => json(&json!({"apiVersion": "v1", "kind": "List", "items": manifests}))?,
                });
                match joining.certificate {
                    Certificate::Pem { .. } => eprintln!("note: the Secret among it holds the agent's private key"),
                    Certificate::Own(_) => {
                        eprintln!("note: the Secret among it holds a token that lets the first to use it in as the agent of this cluster");
                    }
                    Certificate::Secret(_) => {}
                }
                Ok(())
            }
        }
    }

    /// Whether the service is asked anyhow; without a token and its classes all can be made without it.
    fn asks_service(&self) -> bool {
        self.from_service || (self.pki.is_none() && self.certificate_secret.is_none())
    }

    /// What classes need: those of the files, and of the service if it is to be asked.
    async fn needed(&self) -> Result<Needed, Failure> {
        let mut classes: Vec<(String, ClassSpec)> = Vec::new();
        if !self.files.is_empty() {
            for item in load(&self.files)? {
                if let Spec::Class(spec) = item.document.spec {
                    classes.push((item.document.name, *spec));
                }
            }
            if classes.is_empty() {
                return Err(Failure::usage("there is no class in the input"));
            }
        }
        if self.from_service {
            let client = self.connection.connect()?;
            for listed in client.classes(false).await? {
                let class = client.class(&ClassRef { name: listed.name, version: listed.version }, false).await?;
                classes.push((class.name.clone(), ClassSpec::from(&class)));
            }
        }
        let mut needed = Needed::default();
        for (name, spec) in classes {
            if spec.pod_security == Some(PodSecurity::Privileged) && !self.allow_privileged {
                eprintln!(
                    "note: {name}@{} has podSecurity: privileged: this cluster will not take its tenants without --allow-privileged",
                    spec.version
                );
            }
            let class = parsed(&spec.to_wire(&name))?;
            needed.kinds.extend(class.kinds().into_iter().map(|kind| (kind, None)));
            needed.runs_commands |= class.runs_commands();
        }
        Ok(needed)
    }

    async fn certificate(&self, cluster: &str, kube: Option<&KubeCluster>) -> Result<Certificate, Failure> {
        if let Some(name) = &self.certificate_secret {
            return Ok(Certificate::Secret(name.clone()));
        }
        if let Some(folder) = &self.pki {
            return self.issued(cluster, folder);
        }
        let uid = match kube {
            Some(kube) => {
                if let Some(validity) = kube.certified(cluster).await {
                    eprintln!(
                        "note: the agent has a certificate, which it renews by itself, now good until {}; no token is made",
                        validity.end()
                    );
                    return Ok(Certificate::Own(None));
                }
                kube.uid().await?
            }
            None => self.uid.clone().unwrap_or_default(),
        };
        self.check_issuers().await?;
        let token = if self.dry_run { "made when it is written".to_owned() } else { self.new_token(cluster, &uid).await? };
        Ok(Certificate::Own(Some(Token { token, authorities: self.authorities()? })))
    }

    /// One that is issued here and now.
    fn issued(&self, cluster: &str, folder: &Path) -> Result<Certificate, Failure> {
        let mut store = Store::open(folder)?;
        let subject = Subject::new(Role::Agent, cluster);
        let files = if self.dry_run { store.files(&subject) } else { store.ensure(&subject, self.days)? };
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
        let token = self.new_token(cluster, self.uid.as_deref().unwrap_or_default()).await?;
        let failed = |error: std::io::Error| Failure::failed(format!("cannot write {}: {error}", file.display()));
        let mut options = std::fs::OpenOptions::new();
        let mut written = options.write(true).create(true).truncate(true).mode(0o600).open(file).map_err(failed)?;
        written.write_all(token.as_bytes()).map_err(failed)?;
        out(&format!("{}\n", file.display()));
        let (context, token) = (self.connection.resolve()?, file.display());
        let servers = context.servers.join(",");
        out(&format!("\nNext: roadstead agent --cluster {cluster} --identity-dir identity --token-file {token} \\\n"));
        out(&format!("          --server {servers} --ca {}\n", context.ca.display()));
        Ok(())
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
