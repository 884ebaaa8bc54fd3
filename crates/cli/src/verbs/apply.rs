//! `apply`, `diff` and `adopt`: what people write goes in.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Instant;

use clap::Args;
use roadstead_api::v1;

use crate::apply::put::{place_of, send};
use crate::apply::{Change, Difference, Mode, apply_all};
use crate::client::{Client, Connection, Services, request_id};
use crate::document::class::ClassSpec;
use crate::document::files::{BadInput, Known, Loaded, check_references, load};
use crate::document::tenant::ClassRef;
use crate::document::{Kind, Spec};
use crate::failure::{Exit, Failure, LISTS_CLASSES, joined};
use crate::output::objects::Object;
use crate::output::{colour, diff, out, yaml};

/// Where documents come from.
#[derive(Debug, Args)]
pub struct Input {
    /// File or folder with documents, or - for stdin; repeatable.
    #[arg(short, long = "file", required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
}

impl Input {
    /// Reads and checks everything that needs no server.
    ///
    /// # Errors
    /// All problems.
    pub fn load(&self) -> Result<Vec<Loaded>, Failure> {
        Ok(load(&self.files)?)
    }

    /// Reads and checks everything, references included, before anything is written. A bad file needs no server to be refused.
    ///
    /// # Errors
    /// All problems, or the calls'.
    pub async fn load_checked(&self, connection: &Connection) -> Result<(Client, Vec<Loaded>), Failure> {
        let loaded = self.load()?;
        let client = connection.connect()?;
        let tenants_only = loaded.iter().all(|item| item.document.spec.kind() == Kind::Tenant);
        let known = if tenants_only { client.known_if_allowed().await? } else { Some(client.known().await?) };
        if let Some(known) = known {
            check_references(&loaded, &known).map_err(|bad| unknown(bad, &loaded, &known))?;
            check_changes(&client, &loaded, &known).await?;
        }
        Ok((client, loaded))
    }
}

/// What is wrong with references; of classes that are named and are not there, which versions there are.
fn unknown(bad: BadInput, loaded: &[Loaded], known: &Known) -> Failure {
    let about_classes = bad.0.iter().any(|problem| problem.field == "spec.class");
    let failure = Failure::from(bad);
    if !about_classes {
        return failure;
    }
    let class = |item: &Loaded| match &item.document.spec {
        Spec::Tenant(tenant) => tenant.class.parse::<ClassRef>().ok(),
        Spec::Policy(_) | Spec::Pool(_) | Spec::Class(_) | Spec::Cluster(_) => None,
    };
    let missing: BTreeSet<String> =
        loaded.iter().filter_map(class).filter(|class| !known.classes.contains_key(class)).map(|class| class.name).collect();
    missing.iter().filter_map(|name| versions_of(name, known.classes.keys())).fold(failure, Failure::hint).hint(LISTS_CLASSES)
}

/// Which versions there are of a class, if any.
pub(super) fn versions_of<'a>(name: &str, known: impl Iterator<Item = &'a ClassRef>) -> Option<String> {
    let versions: Vec<&str> = known.filter(|class| class.name == name).map(|class| class.version.as_str()).collect();
    if versions.is_empty() { None } else { Some(format!("of {name} there is {}", versions.join(", "))) }
}

/// Checks that tenants of the latest version can be given a class version that the service does not have yet.
async fn check_changes(client: &Client, loaded: &[Loaded], known: &Known) -> Result<(), Failure> {
    let is_new = |name: &str, version: &str| {
        let others = known.classes.keys().any(|class| class.name == name);
        others && !known.classes.contains_key(&ClassRef { name: name.to_owned(), version: version.to_owned() })
    };
    let mut listed = None;
    let mut problems = Vec::new();
    for item in loaded {
        let Spec::Class(spec) = &item.document.spec else { continue };
        let name = &item.document.name;
        if !is_new(name, &spec.version) {
            continue;
        }
        let classes = match &listed {
            Some(classes) => classes,
            None => listed.insert(client.classes(false).await?),
        };
        let created = |class: &&v1::Class| class.revision.as_ref().map(|revision| (revision.incarnation, revision.index));
        let Some(latest) = classes.iter().filter(|class| class.name == *name).max_by_key(created) else { continue };
        let before = ClassRef { name: name.clone(), version: latest.version.clone() };
        let latest = client.class(&before, false).await?;
        // What the service has and cannot be understood here is not this document's fault.
        if let (Ok(Some(old)), Ok(Some(new))) = (ClassSpec::from(&latest).parsed(name), spec.parsed(name)) {
            let found = roadstead_class::check_change(&old, &new).into_iter();
            problems.extend(found.map(|finding| item.problem(&finding.field, format!("{} (compared with {before})", finding.problem))));
        }
    }
    if problems.is_empty() { Ok(()) } else { Err(BadInput(problems).into()) }
}

/// See [`super::Cli`].
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  roadstead apply -f examples/                 # a whole folder
  roadstead apply -f acme.yaml --dry-run       # what would become of it
  roadstead apply -f acme.yaml --wait --timeout 2m
  generate-tenants | roadstead apply -f -

The whole input is checked before anything is written; then each document is applied by itself:
policy, pools, classes, clusters, tenants, in this order. A dry run judges each document as if
it came alone; `simulate` lets tenants count for those after them.")]
pub struct Apply {
    #[command(flatten)]
    input: Input,
    /// Ask the service what would become of it, but change nothing.
    #[arg(long)]
    dry_run: bool,
    /// Wait until the tenants run as their documents say, without trouble, or are at rest if they are to be.
    #[arg(long)]
    wait: bool,
    /// Refuse a tenant for which there is no room instead of letting it wait.
    #[arg(long)]
    no_queue: bool,
    #[command(flatten)]
    connection: Connection,
}

impl Apply {
    /// Applies the documents.
    ///
    /// # Errors
    /// Bad documents, or the first refusal; the others are applied nevertheless.
    pub async fn run(self) -> Result<(), Failure> {
        let begun = Instant::now();
        let (client, loaded) = self.input.load_checked(&self.connection).await?;
        let mode = Mode { dry_run: self.dry_run, no_wait: self.no_queue, leave_facts: false };
        let (mut failures, mut changed) = (Vec::new(), BTreeSet::new());
        apply_all(&client, &loaded, mode, |done| match done.result {
            Ok((difference, detail)) => {
                out(&told(&done.identity, difference.word(), &detail, mode.dry_run));
                let tenant = done.identity.strip_prefix("tenant/").filter(|_| difference == Difference::Configured);
                changed.extend(tenant.map(str::to_owned));
            }
            Err(failure) => {
                out(&told(&done.identity, "failed", "", mode.dry_run));
                failures.push(failure);
            }
        })
        .await?;
        let count = failures.len();
        if let Some(first) = failures.into_iter().reduce(joined) {
            let note = format!("{}\n{count} of {} documents were not applied", first.message, loaded.len());
            // A file of which a part is in force was neither refused as a whole nor left alone: no single code of a document says so.
            let partly = count < loaded.len() && !self.dry_run;
            let exit = if partly { Exit::Failed } else { first.exit };
            return Err(Failure { message: note, exit, ..first });
        }
        if self.wait && !self.dry_run {
            let left = || self.connection.timeout.saturating_sub(begun.elapsed());
            super::wait::until_running(&client, &names(&loaded, Kind::Tenant), left()).await?;
            super::wait::until_changed(&client, &changed, left()).await?;
        }
        Ok(())
    }
}

fn told(identity: &str, word: &str, detail: &str, dry_run: bool) -> String {
    let dry = if dry_run { " (dry run)" } else { "" };
    let detail = if detail.is_empty() { String::new() } else { format!(" {detail}") };
    format!("{identity} {word}{detail}{dry}\n")
}

fn names(loaded: &[Loaded], kind: Kind) -> Vec<String> {
    loaded.iter().filter(|item| item.document.spec.kind() == kind).map(|item| item.document.name.clone()).collect()
}

/// See [`super::Cli`].
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  roadstead diff -f examples/                        # documents only
  roadstead diff -f acme.yaml --in-cluster           # and its objects
  roadstead diff -f shop-3.3.yaml --in-cluster --tenant acme

With --in-cluster the agents of the tenants' clusters try the change there without making it.
A class is tried with one tenant: the one that is named, or the first that has the class.
Exits with 0 if nothing differs and with 1 if something does, or is of a tenant that was deleted.")]
pub struct Diff {
    #[command(flatten)]
    input: Input,
    /// Show what would change in the tenants' clusters, too.
    #[arg(long)]
    in_cluster: bool,
    /// The tenant that classes are tried with.
    #[arg(long, requires = "in_cluster", value_name = "NAME")]
    tenant: Option<String>,
    #[command(flatten)]
    connection: Connection,
}

impl Diff {
    /// Shows what `apply` would change.
    ///
    /// # Errors
    /// Bad documents, the calls', and [`Exit::Failed`] if something differs or cannot be applied.
    pub async fn run(self) -> Result<(), Failure> {
        let (client, loaded) = self.input.load_checked(&self.connection).await?;
        let (mut differing, mut refused) = (0, Vec::new());
        for item in loaded {
            let change = match Change::compute(&client, &item.document).await {
                Ok(change) => change,
                Err(failure) if failure.exit == Exit::Failed => {
                    refused.push(failure.at(&item.place()));
                    continue;
                }
                Err(failure) => return Err(failure),
            };
            let differs = change.difference() != Difference::Unchanged;
            if differs {
                let old = change.current.as_ref().map(spec_text).transpose()?.unwrap_or_default();
                out(&format!("{} would be {}\n", item.document.identity(), change.difference().word()));
                out(&diff::lines(&old, &spec_text(&change.desired)?, colour()));
                if change.report.is_some() {
                    out("  its capacity would be reported anew\n");
                }
            }
            let in_cluster = match &change.desired {
                Object::Tenant(tenant) if self.in_cluster && change.current.is_some() => {
                    let spec = tenant.spec.clone();
                    objects(&client, v1::DiffTenantRequest { name: tenant.name.clone(), spec, class: None }).await?
                }
                Object::Class(class) if self.in_cluster => match self.tenant_of(&client, &class.name).await? {
                    Some(name) => objects(&client, v1::DiffTenantRequest { name, spec: None, class: Some((**class).clone()) }).await?,
                    None => false,
                },
                Object::Tenant(_) | Object::Class(_) | Object::Cluster(_) | Object::Pool(_) | Object::Policy(_) => false,
            };
            differing += usize::from(differs || in_cluster);
        }
        match differing {
            0 => {}
            1 => eprintln!("one document differs"),
            _ => eprintln!("{differing} documents differ"),
        }
        match refused.into_iter().reduce(joined) {
            Some(refused) => Err(refused),
            None if differing == 0 => Ok(()),
            None => Err(Failure::new(Exit::Failed, "")),
        }
    }

    /// The tenant that a class is tried with, if there is one in a cluster.
    async fn tenant_of(&self, client: &Client, class: &str) -> Result<Option<String>, Failure> {
        if self.tenant.is_some() {
            return Ok(self.tenant.clone());
        }
        let tenants = client.tenants(&format!("class = \"{class}\""), false, MAX_LOOKED_AT).await?;
        let placed = |tenant: &v1::Tenant| tenant.status.as_ref().is_some_and(|status| status.binding.is_some());
        let found = tenants.into_iter().find(placed).map(|tenant| tenant.name);
        if found.is_none() {
            out(&format!("class/{class} has no tenant in a cluster that it could be tried with\n"));
        }
        Ok(found)
    }
}

/// Tenants among which one is looked for that is in a cluster.
const MAX_LOOKED_AT: usize = 100;

/// Shows what would change of a tenant's objects; whether anything would.
async fn objects(client: &Client, request: v1::DiffTenantRequest) -> Result<bool, Failure> {
    let what = format!("diff tenant/{} in its cluster", request.name);
    let name = request.name.clone();
    let answer = send!(client, &what, placement, diff_tenant, request)?;
    let change = |object: &v1::ObjectDiff| match object.change() {
        v1::object_diff::Change::Created => "created",
        v1::object_diff::Change::Changed => "changed",
        v1::object_diff::Change::Deleted => "deleted",
        v1::object_diff::Change::Refused => "refused",
        v1::object_diff::Change::Unspecified => "changed in a way that this version does not know",
    };
    for object in &answer.objects {
        let note = if object.note.is_empty() { String::new() } else { format!(": {}", object.note) };
        out(&format!("tenant/{name} in {}: {} would be {}{note}\n", answer.cluster, object.object, change(object)));
        if object.change() != v1::object_diff::Change::Refused {
            out(&diff::lines(&object.before, &object.after, colour()));
        }
    }
    if answer.left_out > 0 {
        out(&format!("{} more objects would change\n", answer.left_out));
    }
    if answer.objects.is_empty() {
        out(&format!("tenant/{name} in {}: no object would change\n", answer.cluster));
    }
    Ok(!answer.objects.is_empty())
}

/// A thing's spec as YAML, without what the server adds.
fn spec_text(object: &Object) -> Result<String, Failure> {
    let text = yaml(&[object.document(false)])?;
    Ok(text.lines().filter(|line| !line.starts_with("  revision:") && !line.starts_with("  uid:") && !line.starts_with("  created:")).fold(
        String::new(),
        |mut text, line| {
            text.push_str(line);
            text.push('\n');
            text
        },
    ))
}

/// See [`super::Cli`].
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  roadstead adopt -f legacy-tenants.yaml --cluster eu-1\n  roadstead adopt -f acme.yaml --cluster eu-1 --shard 3"
)]
pub struct Adopt {
    #[command(flatten)]
    input: Input,
    /// Where the tenants run already.
    #[arg(long)]
    cluster: String,
    /// Their shard; chosen if left out.
    #[arg(long)]
    shard: Option<u32>,
    #[command(flatten)]
    connection: Connection,
}

impl Adopt {
    /// Records tenants that run somewhere already, over the cap too.
    ///
    /// # Errors
    /// Bad documents, documents of other kinds, the server's refusal.
    pub async fn run(self) -> Result<(), Failure> {
        let (client, loaded) = self.input.load_checked(&self.connection).await?;
        if let Some(other) = loaded.iter().find(|item| item.document.spec.kind() != Kind::Tenant) {
            return Err(Failure::usage(format!("{}: only tenants can be adopted; apply the rest first", other.document.identity())));
        }
        for (adopted, item) in loaded.into_iter().enumerate() {
            let Spec::Tenant(spec) = &item.document.spec else { continue };
            let place = item.place();
            let request = v1::AdoptTenantRequest {
                request_id: request_id(),
                name: item.document.name.clone(),
                spec: Some((&**spec).into()),
                cluster: self.cluster.clone(),
                shard: self.shard,
            };
            let what = format!("adopt tenant/{}", item.document.name);
            let answer = send!(client, &what, placement, adopt_tenant, request);
            let answer = answer.map_err(|failure| failure.at(&place));
            let answer = answer.map_err(|failure| if adopted > 0 { failure.after_changes() } else { failure })?;
            let tenant = answer.tenant.unwrap_or_default();
            let place = tenant.status.as_ref().map(place_of).unwrap_or_default();
            out(&format!("tenant/{} adopted {place}\n", tenant.name));
        }
        Ok(())
    }
}
