//! `place`: one tenant without a file.

use std::time::Instant;

use clap::Args;
use roadstead_api::v1;
use serde_json::{Map, Value};

use super::apply::versions_of;
use super::kinds::one_of_kind;
use crate::apply::check_not_deleted;
use crate::apply::put::{place_of, send};
use crate::client::{Client, Connection, Services, request_id};
use crate::document::Kind;
use crate::document::constraint::Constraints;
use crate::document::quantity::Label;
use crate::document::tenant::{ClassRef, checked_name};
use crate::failure::{Exit, Failure};
use crate::output::{dash_lines, out};

/// See [`super::Cli`].
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  roadstead place corner --owner acme-gmbh --class shop-small@1.0.0
  roadstead place market --owner acme-gmbh --class shop-large@1.0.0 \\
      --region eu-central --set web=6 --set theme=dark --wait
  roadstead place kiosk --owner acme-gmbh --class shop-small@1.0.0 --dry-run

The classes are those of examples/. A dry run tells where it would go.")]
pub struct Place {
    /// Name: a DNS label; the kind may stand before it, or as tenant/NAME.
    #[arg(required = true, num_args = 1..=2, value_name = "NAME")]
    name: Vec<String>,
    /// Organisation.
    #[arg(long)]
    owner: String,
    /// Class and version.
    #[arg(long)]
    class: ClassRef,
    /// A value of the class's template: JSON, or else text; repeatable.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    values: Vec<String>,
    /// Only in this region; repeatable.
    #[arg(long = "region")]
    regions: Vec<String>,
    /// Only at this provider; repeatable.
    #[arg(long = "provider")]
    providers: Vec<String>,
    /// Only where this jurisdiction holds.
    #[arg(long)]
    residency: Option<String>,
    /// Only in this pool.
    #[arg(long)]
    pool: Option<String>,
    /// Only on this cluster.
    #[arg(long)]
    cluster: Option<String>,
    /// The greater is served first among those that wait.
    #[arg(long, default_value_t = 0, allow_hyphen_values = true)]
    priority: i32,
    /// Refuse it if there is no room instead of letting it wait.
    #[arg(long)]
    no_queue: bool,
    /// Decide and tell, but change nothing.
    #[arg(long)]
    dry_run: bool,
    /// Wait until it runs.
    #[arg(long)]
    wait: bool,
    #[command(flatten)]
    connection: Connection,
}

impl Place {
    /// Places the tenant.
    ///
    /// # Errors
    /// Bad names and values, a cluster or pool that there is not, the server's refusal.
    pub async fn run(self) -> Result<(), Failure> {
        let spec = self.spec()?;
        let name = checked_name(&one_of_kind(Kind::Tenant, &self.name)?).map_err(Failure::usage)?.0;
        let client = self.connection.connect()?;
        let begun = Instant::now();
        self.check_place(&client).await?;
        let request = v1::PlaceTenantRequest {
            request_id: request_id(),
            name: name.clone(),
            spec: Some(spec),
            wait: Some(!self.no_queue),
            dry_run: self.dry_run,
        };
        let answer = match send!(client, &format!("place tenant/{name}"), placement, place_tenant, request) {
            Ok(answer) => answer,
            Err(failure) => return Err(self.explained(&client, &name, failure).await),
        };
        let status = answer.tenant.and_then(|tenant| tenant.status).unwrap_or_default();
        let dry = if self.dry_run { " (dry run)" } else { "" };
        out(&format!("tenant/{name} {}{dry}\n", place_of(&status)));
        if status.binding.is_some() {
            out(&dash_lines(&status.reason));
        }
        if status.phase() == v1::Phase::Pending && !self.dry_run {
            eprintln!("next: `roadstead explain {name}` says what it waits for");
        }
        if self.wait && !self.dry_run {
            let left = self.connection.timeout.saturating_sub(begun.elapsed());
            super::wait::until_running(&client, std::slice::from_ref(&name), left).await?;
        }
        Ok(())
    }

    /// Refuses a cluster and a pool that there are not, as `apply` does: the tenant would wait for ever. What who may not read the fleet names is
    /// judged by the service.
    async fn check_place(&self, client: &Client) -> Result<(), Failure> {
        if self.cluster.is_none() && self.pool.is_none() {
            return Ok(());
        }
        let Some(known) = client.known_if_allowed().await? else { return Ok(()) };
        for (kind, given, there) in [(Kind::Cluster, &self.cluster, &known.clusters), (Kind::Pool, &self.pool, &known.pools)] {
            let Some(name) = given.as_ref().filter(|name| !there.contains(*name)) else { continue };
            let message = format!("--{0}: there is no {0} `{name}`", kind.lower());
            return Err(Failure::usage(message).hint(format!("`roadstead get {}` lists what there is", kind.plural())));
        }
        Ok(())
    }

    /// A refusal with what is known of its reason: which versions the class has, that a tenant of this name is deleted.
    async fn explained(&self, client: &Client, name: &str, failure: Failure) -> Failure {
        match failure.exit {
            Exit::NotFound => {
                let classes = client.classes(false).await.unwrap_or_default();
                let known: Vec<ClassRef> = classes.into_iter().map(|class| ClassRef { name: class.name, version: class.version }).collect();
                versions_of(&self.class.name, known.iter()).into_iter().fold(failure, Failure::hint)
            }
            Exit::Conflict => match client.tenant(name, false).await.map(|tenant| check_not_deleted(&tenant)) {
                Ok(Err(deleted)) => Failure { exit: failure.exit, ..deleted },
                Ok(Ok(())) | Err(_) => failure,
            },
            Exit::Failed | Exit::Usage | Exit::Unavailable | Exit::Permission | Exit::Interrupted => failure,
        }
    }

    fn spec(&self) -> Result<v1::TenantSpec, Failure> {
        let label = |name: &Option<String>| name.as_deref().map(checked_name).transpose().map_err(Failure::usage);
        let (pool, cluster): (Option<Label>, Option<Label>) = (label(&self.pool)?, label(&self.cluster)?);
        let constraints = Constraints {
            regions: self.regions.clone(),
            providers: self.providers.clone(),
            residency: self.residency.clone(),
            pool,
            cluster,
            ..Constraints::default()
        };
        let mut values = Map::new();
        for pair in &self.values {
            let (key, value) =
                pair.split_once('=').ok_or_else(|| Failure::usage(format!("--set {pair}: write KEY=VALUE, as in --set web=6")))?;
            values.insert(key.to_owned(), serde_json::from_str(value).unwrap_or_else(|_| Value::String(value.to_owned())));
        }
        Ok(v1::TenantSpec {
            owner: self.owner.clone(),
            class: self.class.name.clone(),
            version: self.class.version.clone(),
            values_json: if values.is_empty() { String::new() } else { Value::Object(values).to_string() },
            priority: self.priority,
            constraints: Some((&constraints).into()),
            ..v1::TenantSpec::default()
        })
    }
}
