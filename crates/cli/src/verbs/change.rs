//! `delete`, `undelete`, `cordon`, `uncordon`, `forget`, `place`: single changes.

use std::time::Instant;

use clap::Args;
use roadstead_api::v1;

use super::kinds::{named, of_kind};
use crate::apply::put::{place_of, send};
use crate::client::{Client, Connection, Services, request_id};
use crate::document::Kind;
use crate::document::tenant::ClassRef;
use crate::failure::{Failure, Several};
use crate::output::out;

/// See [`super::Cli`].
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  roadstead delete tenant acme                 # undelete brings it back
  roadstead delete tenant acme --purge --wait  # they are not
  roadstead delete class/shop@3.1.0 pool/attic --dry-run")]
pub struct Delete {
    /// Kind and names, or KIND/NAME.
    #[arg(required = true, value_name = "KIND NAME")]
    what: Vec<String>,
    /// Do not keep a tenant's volumes.
    #[arg(long)]
    purge: bool,
    /// Only check.
    #[arg(long)]
    dry_run: bool,
    /// Wait until tenants have left their clusters.
    #[arg(long)]
    wait: bool,
    #[command(flatten)]
    connection: Connection,
}

impl Delete {
    /// Deletes.
    ///
    /// # Errors
    /// Every refusal.
    pub async fn run(self) -> Result<(), Failure> {
        let named = named(&self.what)?;
        let client = self.connection.connect()?;
        let begun = Instant::now();
        let (mut released, mut all) = (Vec::new(), Several::default());
        for (kind, name) in named {
            let deleted = self.one(&client, kind, &name).await;
            let refused = deleted.is_err();
            all.add(deleted)?;
            if refused {
                continue;
            }
            let dry = if self.dry_run { " (dry run)" } else { "" };
            out(&format!("{}/{name} deleted{dry}\n", kind.lower()));
            if kind == Kind::Tenant {
                released.push(name);
            }
        }
        all.finish()?;
        if self.wait && !self.dry_run {
            super::wait::until_released(&client, &released, self.connection.timeout.saturating_sub(begun.elapsed())).await?;
        }
        Ok(())
    }

    async fn one(&self, client: &Client, kind: Kind, name: &str) -> Result<(), Failure> {
        let what = format!("delete {}/{name}", kind.lower());
        let (request_id, dry_run, owned) = (request_id(), self.dry_run, name.to_owned());
        match kind {
            Kind::Policy => {
                return Err(Failure::usage("the policy cannot be deleted").hint("apply one with an empty spec to set its defaults"));
            }
            Kind::Pool => {
                send!(client, &what, fleet, delete_pool, v1::DeletePoolRequest { request_id, name: owned, dry_run })?;
            }
            Kind::Class => {
                let class: ClassRef = name.parse().map_err(Failure::usage)?;
                let request = v1::DeleteClassRequest { request_id, name: class.name, version: class.version, dry_run };
                send!(client, &what, fleet, delete_class, request)?;
            }
            Kind::Cluster => {
                let request = v1::DeleteClusterRequest { request_id, name: owned, forget: false, dry_run };
                send!(client, &what, fleet, delete_cluster, request)?;
            }
            Kind::Tenant => {
                let request = v1::ReleaseTenantRequest { request_id, name: owned, purge: self.purge, expected_revision: None, dry_run };
                send!(client, &what, placement, release_tenant, request)?;
            }
        }
        Ok(())
    }
}

/// See [`super::Cli`].
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  roadstead undelete acme\n  roadstead undelete tenant acme globex")]
pub struct Undelete {
    /// Tenants; the kind may stand before them, or as tenant/NAME.
    #[arg(required = true, value_name = "NAME")]
    names: Vec<String>,
    #[command(flatten)]
    connection: Connection,
}

impl Undelete {
    /// Brings tenants back, within the retention.
    ///
    /// # Errors
    /// Every refusal.
    pub async fn run(self) -> Result<(), Failure> {
        let names = of_kind(Kind::Tenant, &self.names)?;
        let client = self.connection.connect()?;
        let mut all = Several::default();
        for name in names {
            let request = v1::UndeleteTenantRequest { request_id: request_id(), name: name.clone() };
            let answer = send!(client, &format!("undelete tenant/{name}"), placement, undelete_tenant, request);
            all.add(answer.map(|answer| {
                let place = answer.tenant.and_then(|tenant| tenant.status).map(|status| place_of(&status)).unwrap_or_default();
                out(&format!("tenant/{name} undeleted {place}\n"));
            }))?;
        }
        all.finish()
    }
}

/// See [`super::Cli`].
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  roadstead cordon eu-1      # no new tenants; those there stay\n  roadstead uncordon eu-1")]
pub struct Cordon {
    /// Clusters; the kind may stand before them, or as cluster/NAME.
    #[arg(required = true, value_name = "NAME")]
    clusters: Vec<String>,
    #[command(flatten)]
    connection: Connection,
}

impl Cordon {
    /// Sets or lifts the cordon.
    ///
    /// # Errors
    /// Every refusal.
    pub async fn run(self, cordoned: bool) -> Result<(), Failure> {
        let names = of_kind(Kind::Cluster, &self.clusters)?;
        let client = self.connection.connect()?;
        let mut all = Several::default();
        for name in names {
            let (request_id, verb) = (request_id(), if cordoned { "cordon" } else { "uncordon" });
            let what = format!("{verb} cluster/{name}");
            let answer = if cordoned {
                let request = v1::CordonClusterRequest { request_id, name: name.clone() };
                send!(client, &what, fleet, cordon_cluster, request).map(|_| ())
            } else {
                let request = v1::UncordonClusterRequest { request_id, name: name.clone() };
                send!(client, &what, fleet, uncordon_cluster, request).map(|_| ())
            };
            all.add(answer.map(|()| out(&format!("cluster/{name} {verb}ed\n"))))?;
        }
        all.finish()
    }
}

/// See [`super::Cli`].
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  roadstead forget eu-1 --i-know   # it burned down: its tenants wait for room")]
pub struct Forget {
    /// The cluster that is gone for good, and its tenants with it.
    cluster: String,
    /// You know that nothing of it will ever come back.
    #[arg(long, required = true)]
    i_know: bool,
    /// Only check.
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    connection: Connection,
}

impl Forget {
    /// Forgets a cluster.
    ///
    /// # Errors
    /// The server's refusal.
    pub async fn run(self) -> Result<(), Failure> {
        let client = self.connection.connect()?;
        let name = self.cluster;
        let request = v1::DeleteClusterRequest { request_id: request_id(), name: name.clone(), forget: true, dry_run: self.dry_run };
        send!(client, &format!("forget cluster/{name}"), fleet, delete_cluster, request)?;
        let dry = if self.dry_run { " (dry run)" } else { "" };
        out(&format!("cluster/{name} forgotten{dry}\n"));
        Ok(())
    }
}
