//! `join`: makes the manifests of a cluster's agent, and writes them to the cluster if wanted.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::parser::ValueSource;
use clap::{ArgMatches, Args, Command, FromArgMatches};
use roadstead_api::v1;
use roadstead_server::services::join::token_digest;
use serde_json::{Value, json};

use crate::client::config::Context;
use crate::client::{Connection, parse_span};
use crate::document::Spec;
use crate::document::files::load;
use crate::document::tenant::{ClassRef, checked_name};
use crate::failure::{Exit, Failure};
use crate::join::again;
use crate::join::cluster::{KubeCluster, Written};
use crate::join::issuers::{Issuers, issuers};
use crate::join::needs::{Known, Needed};
use crate::join::{AGENT, Certificate, Counting, Joining, Running, SiteSettings, Stated, TOKEN_SECRET, Token, rights};
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
    // Before the connection: its flags are gone from what is read when it has taken them.
    #[command(flatten)]
    typed: Typed,
    #[command(flatten)]
    connection: Connection,
}

/// What of the connection was typed, and does not come of the environment: an agent has another one.
#[derive(Clone, Copy, Debug)]
struct Typed {
    servers: bool,
}

impl FromArgMatches for Typed {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        Ok(Self { servers: matches.value_source("servers") == Some(ValueSource::CommandLine) })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl Args for Typed {
    fn augment_args(command: Command) -> Command {
        command
    }

    fn augment_args_for_update(command: Command) -> Command {
        command
    }
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
        let Taken { mut stated, mut kept, servers } = self.taken(&cluster, kube.as_ref()).await?;
        let mut needed = self.needed(stated.privileged).await?;
        tell(needed.notes.drain(..));
        if self.asks_service(&stated) {
            let declared = self.connection.connect()?.cluster(&cluster, false).await.map_err(|failure| undeclared(failure, &cluster))?;
            again::take_region(&mut stated, &mut kept, declared.spec.unwrap_or_default().region);
        }
        if stated.servers.is_empty() {
            stated.servers = self.connection.resolve_servers()?;
        }
        again::tell_kept(&kept);
        tell(again::moved(&servers, &stated.servers));
        again::warn_of_loopback(&stated.servers);
        tell(needed.storages.unmapped(&stated.site));
        if let Some(kube) = &kube {
            again::tell_absent(kube, &stated).await;
            kube.find_plurals(&mut needed.kinds).await?;
        }
        let certificate = self.certificate(&cluster, kube.as_ref(), &stated).await?;
        let Stated { cluster: _, image, servers, certificate_secret: _, privileged, site, counting, running } = stated;
        let image = image.unwrap_or_else(|| IMAGE.to_owned());
        let Needed { kinds, runs_commands, known, storages: _, notes: _ } = needed;
        let kept_rights = Vec::new();
        let mut joining =
            Joining { cluster, image, servers, site, counting, running, kinds, runs_commands, kept_rights, certificate, privileged };
        match kube {
            Some(kube) => {
                joining.kept_rights = self.kept_rights(&kube, &joining, known).await?;
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
            tell([again::no_class()]);
        }
        Ok(())
    }

    fn names_no_class(&self) -> bool {
        !self.from_service && self.files.is_empty()
    }

    /// What is said now.
    fn stated(&self, cluster: &str) -> Stated {
        Stated {
            cluster: Some(cluster.to_owned()),
            image: self.image.clone(),
            // Others are those by which we reach replicas: the agent has them only if it has none of its own.
            servers: if self.typed.servers { self.connection.servers.clone() } else { Vec::new() },
            certificate_secret: self.certificate_secret.clone(),
            privileged: self.allow_privileged,
            site: self.site.clone(),
            counting: self.counting.clone(),
            running: self.running.clone(),
        }
    }

    /// What is said now, with what was said when the cluster joined and is not said now.
    async fn taken(&self, cluster: &str, kube: Option<&KubeCluster>) -> Result<Taken, Failure> {
        let mut stated = self.stated(cluster);
        let before = match kube {
            // What is not taken over need not be as it is to be.
            Some(kube) if self.anew => again::read(kube).await.ok().flatten(),
            Some(kube) => again::read(kube).await?,
            None => None,
        };
        let Some(mut before) = before else { return Ok(Taken { stated, kept: Vec::new(), servers: Vec::new() }) };
        let servers = before.servers.clone();
        if self.anew {
            return Ok(Taken { stated, kept: Vec::new(), servers });
        }
        again::check_cluster(&before, cluster)?;
        if self.pki.is_some() || self.new_token {
            before.certificate_secret = None;
        }
        let mut kept = stated.keep(before);
        // What would be written all the same is nothing to tell.
        let usual: Vec<String> = match self.connection.resolve_servers() {
            Ok(servers) if servers == stated.servers => servers.iter().map(|server| format!("--server={server}")).collect(),
            Ok(_) | Err(_) => Vec::new(),
        };
        kept.retain(|flag| *flag != format!("--image={IMAGE}") && !usual.contains(flag));
        Ok(Taken { stated, kept, servers })
    }

    /// Whether the service is asked anyhow; without a token and its classes all can be made without it.
    fn asks_service(&self, stated: &Stated) -> bool {
        self.from_service || (self.pki.is_none() && stated.certificate_secret.is_none())
    }

    /// What classes need: those of the files, and of the service if it is to be asked.
    async fn needed(&self, privileged: bool) -> Result<Needed, Failure> {
        let known = if self.names_no_class() { Known::Nothing } else { Known::All };
        let mut needed = Needed { known, ..Needed::default() };
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
    async fn kept_rights(&self, kube: &KubeCluster, joining: &Joining, known: Known) -> Result<Vec<rights::Rule>, Failure> {
        let role = kube.read("rbac.authorization.k8s.io/v1", "ClusterRole", AGENT).await?;
        let beyond = role.as_ref().map(|role| rights::beyond(joining, role)).unwrap_or_default();
        let (kept, said) = again::keep_rights(beyond, known, self.anew);
        tell(said);
        Ok(kept)
    }

    async fn certificate(&self, cluster: &str, kube: Option<&KubeCluster>, stated: &Stated) -> Result<Certificate, Failure> {
        if let Some(name) = &stated.certificate_secret {
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

fn tell(notes: impl IntoIterator<Item = String>) {
    notes.into_iter().for_each(|note| eprintln!("note: {note}"));
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

/// What is said with what was.
struct Taken {
    stated: Stated,
    /// What was taken over, as flags.
    kept: Vec<String>,
    /// Where the agent that is there looks for replicas.
    servers: Vec<String>,
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

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        join: Join,
    }

    #[test]
    fn addresses_of_the_environment_are_said_of_no_agent_that_has_its_own() {
        let joins = |words: &[&str]| {
            let words = ["join", "eu-1"].into_iter().chain(words.iter().copied());
            <Line as clap::Parser>::try_parse_from(words).expect("it is a command").join
        };
        let typed = joins(&["--server", "r1:7420,r2:7420"]);
        assert_eq!(typed.stated("eu-1").servers, ["r1:7420", "r2:7420"]);
        let mut forwarded = joins(&[]);
        // As `ROADSTEAD_SERVER` does.
        forwarded.connection.servers = vec!["127.0.0.1:7420".to_owned()];
        let mut stated = forwarded.stated("eu-1");
        stated.keep(Stated { servers: vec!["r1:7420".to_owned()], ..Stated::default() });
        assert_eq!(stated.servers, ["r1:7420"]);
        assert_eq!(forwarded.connection.resolve_servers().expect("they are there"), ["127.0.0.1:7420"], "for one that has none");
    }
}
