//! `delete`, `undelete`, `cordon`, `uncordon`, `allow-removals`, `forget`, `place`: single changes.

use std::collections::BTreeSet;
use std::time::Instant;

use clap::Args;
use roadstead_api::v1;
use serde::Serialize;

use super::kinds::{Word, named, of_kind, one_of_kind};
use crate::apply::put::{place_of, send};
use crate::client::{Client, Connection, Services, request_id};
use crate::document::quantity::Span;
use crate::document::tenant::{ClassRef, timestamp_from_wire};
use crate::document::{Kind, duration_from_wire};
use crate::failure::{Exit, Failure, Several};
use crate::output::{dash_lines, json, out};

/// See [`super::Cli`].
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  roadstead delete tenant acme                 # its volumes are kept
  roadstead delete tenant acme --purge --wait  # they are not
  roadstead delete class/shop@3.1.0 pool/attic --dry-run")]
pub struct Delete {
    /// Kind and names, or KIND/NAME.
    #[arg(required = true, value_name = "KIND NAME", value_parser = Word, hide_possible_values = true)]
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
            // A tenant that waits is gone as soon as it is released.
            let before = if kind == Kind::Tenant { client.tenant(&name, false).await.ok() } else { None };
            let is_protected = before.as_ref().and_then(|tenant| tenant.spec.as_ref()).is_some_and(|spec| spec.deletion_protection);
            let deleted = self.one(&client, kind, &name).await;
            let deleted = if is_protected { deleted.map_err(|failure| failure.hint(unprotects(&name))) } else { deleted };
            let refused = deleted.is_err();
            all.add(deleted)?;
            if refused {
                continue;
            }
            let dry = if self.dry_run { " (dry run)" } else { "" };
            out(&format!("{}/{name} deleted{dry}\n", kind.lower()));
            if kind == Kind::Tenant {
                let before = before.unwrap_or_default();
                let retain = if self.purge { None } else { retention(&client, &before).await };
                out(&dash_lines(&prospect_of(&name, &before, retain, self.purge)));
                released.push(name);
            }
        }
        all.finish()?;
        if self.wait && !self.dry_run {
            super::wait::until_released(&client, &released, self.connection.timeout.saturating_sub(begun.elapsed())).await?;
            for name in &released {
                match client.tenant(name, false).await {
                    Ok(tenant) => {
                        if let Some(until) = tenant.status.and_then(|status| status.retained_until) {
                            out(&format!("tenant/{name} has stopped; undelete brings it back until {}\n", timestamp_from_wire(&until)));
                        }
                    }
                    Err(failure) if failure.exit == Exit::NotFound => out(&format!("tenant/{name} is gone\n")),
                    // It is done; that it cannot be looked at makes it no failure.
                    Err(_) => {}
                }
            }
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
#[command(after_help = "Examples:
  roadstead describe cluster eu-1                      # which removals wait
  roadstead allow-removals eu-1 --count 12 --dry-run   # which would go
  roadstead allow-removals eu-1 --count 12

An agent removes 5 tenants in ten minutes by itself, or 1 % of those in its cluster if that is more.
What goes beyond waits until an operator has looked at it. The agreement is to the tenants that are
named in the answer and to no others, and ends after an hour.")]
pub struct AllowRemovals {
    /// The cluster; the kind may stand before it, or as cluster/NAME.
    #[arg(required = true, num_args = 1..=2, value_name = "NAME")]
    cluster: Vec<String>,
    /// Agree to so many at most, in the order in which they go.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1000))]
    count: u32,
    /// Only say which would go.
    #[arg(long)]
    dry_run: bool,
    /// How to write the answer.
    #[arg(short, long, default_value = "name", value_parser = ["name", "json"])]
    output: String,
    #[command(flatten)]
    connection: Connection,
}

/// What was agreed to, for programs.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Allowed {
    cluster: String,
    tenants: Vec<String>,
    until: Option<String>,
    waiting: u32,
    dry_run: bool,
}

impl AllowRemovals {
    /// Agrees to removals that wait, and says whose.
    ///
    /// # Errors
    /// The server's refusal: none waits, or the role may not.
    pub async fn run(self) -> Result<(), Failure> {
        let name = one_of_kind(Kind::Cluster, &self.cluster)?;
        let client = self.connection.connect()?;
        let request =
            v1::AllowRemovalsRequest { request_id: request_id(), cluster: name.clone(), count: self.count, dry_run: self.dry_run };
        let answer = send!(client, &format!("allow-removals cluster/{name}"), fleet, allow_removals, request)?;
        let until = answer.until.as_ref().map(timestamp_from_wire);
        if self.output == "json" {
            let (tenants, waiting) = (answer.tenants, answer.waiting);
            out(&json(&Allowed { cluster: name, tenants, until, waiting, dry_run: self.dry_run })?);
            return Ok(());
        }
        let dry = if self.dry_run { " (dry run)" } else { "" };
        for tenant in &answer.tenants {
            out(&format!("tenant/{tenant} may be removed until {}{dry}\n", until.as_deref().unwrap_or("then")));
        }
        if answer.waiting > 0 {
            out(&format!("{} more wait in cluster/{name}\n", answer.waiting));
        }
        Ok(())
    }
}

/// See [`super::Cli`].
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  roadstead forget eu-1 --i-know   # it burned down: its tenants wait for room")]
pub struct Forget {
    /// The cluster that is gone for good; the kind may stand before it, or as cluster/NAME.
    #[arg(required = true, num_args = 1..=2, value_name = "NAME")]
    cluster: Vec<String>,
    /// You know that nothing of it will ever come back.
    #[arg(long, required = true)]
    i_know: bool,
    /// Only check, and say what would become of its tenants.
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    connection: Connection,
}

impl Forget {
    /// Forgets a cluster, and says before and after what becomes of its tenants.
    ///
    /// # Errors
    /// The server's refusal.
    pub async fn run(self) -> Result<(), Failure> {
        let name = one_of_kind(Kind::Cluster, &self.cluster)?;
        let client = self.connection.connect()?;
        client.cluster(&name, false).await?;
        let tenants = client.tenants(&format!("cluster = \"{name}\""), false, usize::MAX).await?;
        let (leaving, homeless): (Vec<v1::Tenant>, Vec<v1::Tenant>) = tenants.into_iter().partition(is_leaving);
        let verb = if self.dry_run { "would" } else { "will" };
        out(&prospects(&name, verb, homeless.len(), leaving.len()));
        let request = v1::DeleteClusterRequest { request_id: request_id(), name: name.clone(), forget: true, dry_run: self.dry_run };
        send!(client, &format!("forget cluster/{name}"), fleet, delete_cluster, request)?;
        if self.dry_run {
            out(&format!("cluster/{name} forgotten (dry run)\n"));
            return Ok(());
        }
        out(&format!("cluster/{name} forgotten\n"));
        // It is done; that the count fails makes it no failure.
        if !homeless.is_empty()
            && let Ok(pending) = client.tenants("phase = PENDING", false, usize::MAX).await
        {
            let names: BTreeSet<String> = homeless.into_iter().map(|tenant| tenant.name).collect();
            let waiting = pending.iter().filter(|tenant| names.contains(&tenant.name)).count();
            out(&format!("placed on other clusters by now: {}; waiting for room: {waiting}\n", names.len() - waiting));
            if waiting > 0 {
                out("\nNext: roadstead get tenants --phase pending    # roadstead explain NAME says what each waits for\n");
            }
        }
        Ok(())
    }
}

/// How a tenant's deletion protection is switched off.
fn unprotects(name: &str) -> String {
    format!(
        "`roadstead get tenant {name} -o yaml > {name}.yaml`, take `deletionProtection: true` out of it, `roadstead apply -f {name}.yaml`"
    )
}

/// How long a tenant's class keeps volumes; `None` if who asks may not know.
async fn retention(client: &Client, tenant: &v1::Tenant) -> Option<Span> {
    let spec = tenant.spec.as_ref()?;
    let class = client.class(&ClassRef { name: spec.class.clone(), version: spec.version.clone() }, false).await.ok()?;
    class.retain.as_ref().map(duration_from_wire)
}

/// What becomes of the volumes of a tenant that was deleted, and until when it can be brought back.
fn prospect_of(name: &str, before: &v1::Tenant, retain: Option<Span>, purge: bool) -> String {
    let status = before.status.clone().unwrap_or_default();
    let back = format!("until then `roadstead undelete {name}` brings it back");
    match (status.phase(), status.retained_until, retain) {
        (v1::Phase::Pending, _, _) => "it had no place yet, and so no volumes: nothing can be brought back".to_owned(),
        (v1::Phase::Purging, _, _) => "its volumes are being deleted already: nothing brings it back".to_owned(),
        _ if purge => "its volumes go with it as soon as it has stopped: nothing brings it back".to_owned(),
        (v1::Phase::Retained, Some(until), _) => format!("its volumes are kept until {}; {back}", timestamp_from_wire(&until)),
        (_, _, Some(Span(0))) => "its volumes go as soon as it has stopped, for its class retains nothing".to_owned(),
        (_, _, Some(retain)) => format!("its volumes are kept for {retain} once it has stopped; {back}"),
        (_, _, None) => format!("its volumes are kept for its class's retention once it has stopped; {back}"),
    }
}

/// Whether a tenant is on its way out, or out but for its volumes: nothing is left of it without its cluster.
fn is_leaving(tenant: &v1::Tenant) -> bool {
    match tenant.status.clone().unwrap_or_default().phase() {
        v1::Phase::Releasing | v1::Phase::Retained | v1::Phase::Purging => true,
        v1::Phase::Unspecified | v1::Phase::Pending | v1::Phase::Placed | v1::Phase::Running => false,
    }
}

/// What becomes of the tenants of a cluster that is forgotten.
fn prospects(cluster: &str, verb: &str, homeless: usize, leaving: usize) -> String {
    let tenants = |count: usize| if count == 1 { "1 tenant".to_owned() } else { format!("{count} tenants") };
    if homeless + leaving == 0 {
        return format!("cluster/{cluster} has no tenants\n");
    }
    let mut text = format!("cluster/{cluster} has {}\n", tenants(homeless + leaving));
    if homeless > 0 {
        let count = tenants(homeless);
        text.push_str(&format!("  {count} {verb} wait for room on another cluster and begin anew there: what was stored here is lost\n"));
    }
    if leaving > 0 {
        let are = if leaving == 1 { "is" } else { "are" };
        text.push_str(&format!("  {} that {are} deleted already {verb} be gone, and cannot be undeleted\n", tenants(leaving)));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tenant(phase: v1::Phase) -> v1::Tenant {
        v1::Tenant { status: Some(v1::TenantStatus { phase: phase.into(), ..v1::TenantStatus::default() }), ..v1::Tenant::default() }
    }

    #[test]
    fn deleting_says_until_when_a_tenant_can_be_brought_back() {
        let week = Some(Span(7 * 24 * 3600 * 1000));
        let said = |phase, retain, purge| prospect_of("acme", &tenant(phase), retain, purge);
        let kept = said(v1::Phase::Running, week, false);
        assert!(kept.contains("kept for 7d") && kept.contains("`roadstead undelete acme`"), "{kept}");
        assert!(said(v1::Phase::Running, None, false).contains("for its class's retention"));
        for lost in [said(v1::Phase::Running, week, true), said(v1::Phase::Retained, week, true), said(v1::Phase::Pending, week, false)] {
            assert!(!lost.contains("undelete") && lost.contains("back"), "{lost}");
        }
        assert!(!said(v1::Phase::Placed, Some(Span(0)), false).contains("undelete"));
        let mut retained = tenant(v1::Phase::Retained);
        let until = Some(prost_types::Timestamp { seconds: 1_800_000_000, nanos: 0 });
        retained.status = retained.status.map(|status| v1::TenantStatus { retained_until: until, ..status });
        assert!(prospect_of("acme", &retained, week, false).contains("kept until 2027-01-15T08:00:00Z"));
    }
}
