//! `get` and `describe`.

use clap::Args;
use roadstead_api::v1;

use super::kinds::{Target, Word, named, targets};
use crate::client::{Client, Connection, Services};
use crate::document::Kind;
use crate::document::tenant::ClassRef;
use crate::export::candidates::{HEADINGS, MORE_HEADINGS, candidates};
use crate::failure::{Exit, Failure, joined};
use crate::kube_api::Management;
use crate::output::details::about_policies;
use crate::output::objects::{Object, render};
use crate::output::{Format, Table, colour, dash_or, json, out, status, yaml};

/// What [`Get`] lists besides kinds of documents.
const CANDIDATES: [&str; 2] = ["candidate", "candidates"];
/// Words of the PHASE column.
const PHASES: [&str; 9] = ["pending", "placed", "running", "stopping", "hibernated", "archived", "releasing", "retained", "purging"];

/// See [`super::Cli`].
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  roadstead get clusters
  roadstead get tenants --owner acme-gmbh --phase pending
  roadstead get tenants --phase hibernated
  roadstead get tenant acme -o yaml > acme.yaml   # and back: apply -f
  roadstead get class/shop@3.2.0 policy/default -o yaml
  roadstead get tenants -o name \\
      --filter 'cluster = \"eu-1\" AND name : \"shop*\"'
  roadstead get candidates --kube-context hub     # who could join

FULLEST is how far a cluster has used that limit up (its tenant cap or a resource) of which least is left;
in documents: status.dominantSharePpm, in millionths.

Candidates are clusters that have not joined and of which other managers tell in a management cluster, by
ClusterProfiles (multicluster.x-k8s.io).")]
pub struct Get {
    /// Kind (tenants, clusters, pools, classes, policy) and names, or KIND/NAME; or candidates.
    #[arg(required = true, value_name = "KIND [NAME]...", value_parser = Word, hide_possible_values = true)]
    what: Vec<String>,
    /// How to write it.
    #[arg(short, long, default_value = "table")]
    output: Format,
    /// Only tenants of this owner.
    #[arg(long)]
    owner: Option<String>,
    /// Only tenants on this cluster.
    #[arg(long)]
    cluster: Option<String>,
    /// Only tenants of this class.
    #[arg(long)]
    class: Option<String>,
    /// Only tenants for which the PHASE column begins with this word.
    #[arg(long, ignore_case = true, value_parser = PHASES)]
    phase: Option<String>,
    /// Only tenants whose constraints no longer hold where they are.
    #[arg(long)]
    misplaced: bool,
    /// A filter in the service's own words.
    #[arg(long)]
    filter: Option<String>,
    /// At most so many tenants.
    #[arg(long, default_value_t = usize::MAX, hide_default_value = true)]
    limit: usize,
    /// Whatever the asked replica has, also without a leader.
    #[arg(long)]
    stale: bool,
    /// No headings.
    #[arg(long)]
    no_headers: bool,
    #[command(flatten)]
    management: Management,
    #[command(flatten)]
    connection: Connection,
}

impl Get {
    /// Prints what was asked for.
    ///
    /// # Errors
    /// Wrong kinds, the calls' failures.
    pub async fn run(self) -> Result<(), Failure> {
        if let [what] = &self.what[..]
            && CANDIDATES.contains(&what.to_ascii_lowercase().as_str())
        {
            return self.candidates().await;
        }
        if self.management.kubeconfig.is_some() || self.management.kube_context.is_some() {
            return Err(Failure::usage("--kubeconfig and --kube-context are for `roadstead get candidates`")
                .hint("--context names a context of this program"));
        }
        let targets = targets(&self.what)?;
        self.check_filters(&targets)?;
        let client = self.connection.connect()?;
        let (mut objects, mut missing) = (Vec::new(), Vec::new());
        for target in &targets {
            match self.one(&client, target).await {
                Ok(found) => objects.extend(found),
                Err(failure) if failure.exit == Exit::NotFound => missing.push(failure),
                Err(failure) => return Err(failure),
            }
        }
        let text = render(&objects, self.output, !self.no_headers, colour())?;
        if text.is_empty() && missing.is_empty() && matches!(self.output, Format::Table | Format::Wide) {
            eprintln!("none");
        }
        // What is there is shown, also beside what is not.
        if !objects.is_empty() || missing.is_empty() {
            out(&text);
        }
        missing.into_iter().reduce(joined).map_or(Ok(()), Err)
    }

    /// Lists clusters that could join.
    async fn candidates(&self) -> Result<(), Failure> {
        if let Some(given) = self.filters().find(|(_, given)| *given) {
            return Err(Failure::usage(format!("{} does not apply to candidates: they have no filters", given.0)));
        }
        let client = self.connection.connect()?;
        let profiles = crate::export::write::profiles(&self.management.connect().await?, None).await?;
        let found = candidates(&profiles, &client.clusters(self.stale).await?);
        if found.is_empty() && matches!(self.output, Format::Table | Format::Wide) {
            eprintln!("none");
            return Ok(());
        }
        out(&match self.output {
            Format::Json => json(&found)?,
            Format::Yaml => yaml(&found)?,
            Format::Name => found.iter().map(|candidate| format!("candidate/{}\n", candidate.name)).collect(),
            Format::Table | Format::Wide => {
                let wide = self.output == Format::Wide;
                let headings: Vec<_> = HEADINGS.into_iter().chain(MORE_HEADINGS.into_iter().filter(|_| wide)).collect();
                let mut table = Table::new(&headings).without_headings(self.no_headers);
                found.iter().for_each(|candidate| table.row(candidate.cells(wide)));
                table.render(colour())
            }
        });
        if let Some(first) = found.first() {
            let name = &first.name;
            eprintln!(
                "next: `roadstead apply -f {name}.yaml` (kind: Cluster, metadata: {{name: {name}}}, its provider, region and pool), then\n\
                 next: `roadstead join {name} --from-service --apply --kube-context {name}`"
            );
        }
        Ok(())
    }

    /// Filters of lists of tenants, and whether they are given.
    fn filters(&self) -> impl Iterator<Item = (&'static str, bool)> {
        [
            ("--owner", self.owner.is_some()),
            ("--cluster", self.cluster.is_some()),
            ("--class", self.class.is_some()),
            ("--phase", self.phase.is_some()),
            ("--misplaced", self.misplaced),
            ("--filter", self.filter.is_some()),
            ("--limit", self.limit != usize::MAX),
        ]
        .into_iter()
    }

    /// Refuses a filter that would be ignored: what is shown would not be what was asked for.
    fn check_filters(&self, targets: &[Target]) -> Result<(), Failure> {
        let Some((given, _)) = self.filters().find(|(_, given)| *given) else { return Ok(()) };
        let all = self.filters().map(|(name, _)| name).collect::<Vec<_>>().join(", ");
        if let Some(other) = targets.iter().find(|target| target.kind != Kind::Tenant) {
            let kind = other.kind.plural();
            return Err(Failure::usage(format!("{given} does not apply to {kind}: they have no filters"))
                .hint(format!("{all} filter `roadstead get tenants`; {kind} can be named: `roadstead get {kind} NAME`")));
        }
        if targets.iter().any(|target| target.name.is_some()) {
            return Err(Failure::usage(format!("{given} filters a list, and cannot be given beside names"))
                .hint(format!("leave out the names, or {given}")));
        }
        Ok(())
    }

    async fn one(&self, client: &Client, target: &Target) -> Result<Vec<Object>, Failure> {
        match (&target.name, target.kind) {
            (Some(name), Kind::Class) if !name.contains('@') => {
                let found = self.classes(client, Some(name)).await?;
                if found.is_empty() { Err(Failure::new(Exit::NotFound, format!("there is no class `{name}`"))) } else { Ok(found) }
            }
            (Some(name), kind) => Ok(vec![client.object(kind, name, self.stale).await?]),
            (None, _) => self.all(client, target).await,
        }
    }

    async fn all(&self, client: &Client, target: &Target) -> Result<Vec<Object>, Failure> {
        Ok(match target.kind {
            Kind::Policy => vec![Object::Policy(client.policy(self.stale).await?)],
            Kind::Pool => client.pools(self.stale).await?.into_iter().map(Object::Pool).collect(),
            Kind::Class => self.classes(client, None).await?,
            Kind::Cluster => client.clusters(self.stale).await?.into_iter().map(|cluster| Object::Cluster(Box::new(cluster))).collect(),
            Kind::Tenant => {
                // The service knows phases only, and not what the column says of those that are to be at rest.
                let filter = self.tenant_filter();
                let tenants = match &self.phase {
                    None => client.tenants(&filter, self.stale, self.limit).await?,
                    Some(phase) => {
                        let is_wanted = |tenant: &v1::Tenant| status::stage(tenant).eq_ignore_ascii_case(phase);
                        client.tenants_wanted(&filter, self.stale, self.limit, is_wanted).await?
                    }
                };
                tenants.into_iter().map(|tenant| Object::Tenant(Box::new(tenant))).collect()
            }
        })
    }

    /// Versions of one class or of all; with their templates if they are written as documents.
    async fn classes(&self, client: &Client, name: Option<&str>) -> Result<Vec<Object>, Failure> {
        let mut found = Vec::new();
        for class in client.classes(self.stale).await? {
            if name.is_some_and(|name| name != class.name) {
                continue;
            }
            let whole = match self.output {
                Format::Yaml | Format::Json => client.class(&ClassRef { name: class.name, version: class.version }, self.stale).await?,
                Format::Table | Format::Wide | Format::Name => class,
            };
            found.push(Object::Class(Box::new(whole)));
        }
        Ok(found)
    }

    fn tenant_filter(&self) -> String {
        let quoted = |name: &str, value: &Option<String>| value.as_ref().map(|value| format!("{name} = \"{}\"", value.replace('"', "")));
        let mut terms: Vec<String> = [quoted("owner", &self.owner), quoted("cluster", &self.cluster)].into_iter().flatten().collect();
        match self.class.as_deref().map(|class| class.split_once('@').unwrap_or((class, ""))) {
            Some((name, "")) => terms.extend(quoted("class", &Some(name.to_owned()))),
            Some((name, version)) => {
                terms.extend(quoted("class", &Some(name.to_owned())));
                terms.extend(quoted("version", &Some(version.to_owned())));
            }
            None => {}
        }
        let phase = self.phase.as_ref().map(|phase| phase.to_ascii_uppercase());
        match phase.as_deref() {
            None | Some("STOPPING") => {}
            Some("HIBERNATED" | "ARCHIVED") => terms.push("phase = PLACED".to_owned()),
            Some(phase) => terms.push(format!("phase = {phase}")),
        }
        terms.extend(self.misplaced.then(|| "misplaced = true".to_owned()));
        terms.extend(self.filter.clone());
        terms.join(" AND ")
    }
}

/// See [`super::Cli`].
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  roadstead describe tenant acme\n  roadstead describe cluster/eu-1")]
pub struct Describe {
    /// Kind and name, or KIND/NAME.
    #[arg(required = true, value_name = "KIND NAME", value_parser = Word, hide_possible_values = true)]
    what: Vec<String>,
    #[command(flatten)]
    connection: Connection,
}

impl Describe {
    /// Prints all of some things that the caller may see, and says what it may not.
    ///
    /// # Errors
    /// The calls' failures.
    pub async fn run(self) -> Result<(), Failure> {
        let named = named(&self.what)?;
        let client = self.connection.connect()?;
        for (kind, name) in named {
            let object = client.object(kind, &name, false).await?;
            out(&yaml(&[object.document(true)])?);
            if let Object::Cluster(cluster) = &object {
                out(&next_for_removals(cluster));
                out(&about_policies(cluster));
            }
            let (what, more) = match &object {
                Object::Tenant(tenant) => ("its history", events_of(&client, &tenant.name).await),
                Object::Cluster(cluster) => ("its tenants by class", tenants_of(&client, &cluster.name).await),
                Object::Policy(_) | Object::Pool(_) | Object::Class(_) => continue,
            };
            match more {
                Ok(text) => out(&text),
                // Whoever may see a thing need not be allowed to see all of it.
                Err(failure) if failure.exit == Exit::Permission => eprintln!("left out: {what}: {}", failure.message),
                Err(failure) => return Err(failure),
            }
        }
        Ok(())
    }
}

/// What to do about removals that wait for an operator, if any do.
fn next_for_removals(cluster: &v1::Cluster) -> String {
    let removals = cluster.status.as_ref().and_then(|status| status.removals.clone()).filter(|removals| removals.waiting > 0);
    let Some(removals) = removals else { return String::new() };
    let (name, waiting, first) = (&cluster.name, removals.waiting, removals.first.join(", "));
    let more = if (removals.first.len() as u32) < waiting { " and others" } else { "" };
    format!(
        "\n{waiting} removals wait for an operator: {first}{more}\n\nNext: roadstead get tenants --cluster {name} --phase releasing    # are \
         they meant to go?\n      roadstead allow-removals {name} --count {waiting}    # then agree\n"
    )
}

/// A tenant's history as a table.
///
/// # Errors
/// The call's.
pub async fn events_of(client: &Client, name: &str) -> Result<String, Failure> {
    let request = v1::ListTenantEventsRequest { name: name.to_owned() };
    let answer = client
        .call(&format!("events of tenant/{name}"), |services: Services| {
            let request = request.clone();
            async move { services.placement().list_tenant_events(request).await }
        })
        .await?;
    let mut table = crate::output::Table::new(&["TIME", "EVENT", "BY", "REVISION", "MESSAGE"]);
    for event in answer.events {
        let time = event.time.as_ref().map(crate::document::tenant::timestamp_from_wire).unwrap_or_default();
        let revision = status::revision(event.revision.as_ref());
        table.row(vec![time, event.kind, dash_or(&event.principal).to_owned(), revision, dash_or(&event.message).to_owned()]);
    }
    let older = if answer.truncated { "older events were dropped\n" } else { "" };
    Ok(format!("\n{}{older}", table.render(colour())))
}

/// How many tenants a cluster has of each class.
async fn tenants_of(client: &Client, cluster: &str) -> Result<String, Failure> {
    let tenants = client.tenants(&format!("cluster = \"{cluster}\""), false, usize::MAX).await?;
    let mut counts = std::collections::BTreeMap::<String, usize>::new();
    for spec in tenants.iter().filter_map(|tenant| tenant.spec.as_ref()) {
        *counts.entry(format!("{}@{}", spec.class, spec.version)).or_default() += 1;
    }
    let mut table = crate::output::Table::new(&["CLASS", "TENANTS"]);
    for (class, count) in counts {
        table.row(vec![class, count.to_string()]);
    }
    Ok(format!("\n{}", table.render(colour())))
}
