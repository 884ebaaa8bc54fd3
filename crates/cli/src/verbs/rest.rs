//! `hibernate` and `wake`: whether tenants run.

use std::collections::BTreeSet;
use std::time::Instant;

use clap::Args;
use roadstead_api::v1;

use super::kinds::of_kind;
use crate::apply::check_not_deleted;
use crate::apply::put::send;
use crate::client::{Client, Connection, Services, request_id};
use crate::document::Kind;
use crate::failure::{Exit, Failure, Several};
use crate::output::objects::{Object, render};
use crate::output::{Format, out, status};

/// How often a tenant is read again that has changed meanwhile: its agent tells that it runs, somebody else changes it.
const MAX_TRIES: usize = 3;

/// See [`super::Cli`].
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  roadstead hibernate acme               # nothing runs; its volumes are kept
  roadstead hibernate acme globex --wait
  roadstead hibernate acme --archive     # it will rest for long
  roadstead get tenants --phase hibernated

A tenant at rest keeps its place and its volumes, and both count. To its cluster, Archived is the same
as Hibernated. Where tenants are kept as files, set `spec.desired` there, too: `apply` wakes them else.")]
pub struct Hibernate {
    /// Tenants; the kind may stand before them, or as tenant/NAME.
    #[arg(required = true, value_name = "NAME")]
    names: Vec<String>,
    /// Archived instead of Hibernated.
    #[arg(long)]
    archive: bool,
    #[command(flatten)]
    turn: Turn,
}

impl Hibernate {
    /// Brings tenants to rest.
    ///
    /// # Errors
    /// Every refusal.
    pub async fn run(self) -> Result<(), Failure> {
        let desired = if self.archive { v1::Desired::Archived } else { v1::Desired::Hibernated };
        self.turn.run(&self.names, desired).await
    }
}

/// See [`super::Cli`].
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  roadstead wake acme\n  roadstead wake tenant acme globex --wait")]
pub struct Wake {
    /// Tenants; the kind may stand before them, or as tenant/NAME.
    #[arg(required = true, value_name = "NAME")]
    names: Vec<String>,
    #[command(flatten)]
    turn: Turn,
}

impl Wake {
    /// Lets tenants run again.
    ///
    /// # Errors
    /// Every refusal.
    pub async fn run(self) -> Result<(), Failure> {
        self.turn.run(&self.names, v1::Desired::Running).await
    }
}

/// How tenants are turned.
#[derive(Debug, Args)]
struct Turn {
    /// Only check.
    #[arg(long)]
    dry_run: bool,
    /// Wait until they are at rest, or run.
    #[arg(long)]
    wait: bool,
    /// How to write the answer: a line for each, or the tenants as they are then.
    #[arg(short, long, default_value = "name", value_parser = ["name", "json"])]
    output: String,
    #[command(flatten)]
    connection: Connection,
}

impl Turn {
    async fn run(&self, names: &[String], desired: v1::Desired) -> Result<(), Failure> {
        let names = of_kind(Kind::Tenant, names)?;
        let (client, begun) = (self.connection.connect()?, Instant::now());
        let (mut turned, mut changed, mut all) = (Vec::new(), BTreeSet::new(), Several::default());
        let mut done = Ok(());
        for name in names {
            let answer = self.one(&client, &name, desired).await;
            done = all.add(answer.map(|(tenant, is_changed)| {
                let word = if is_changed { format!("is to be {}", word(desired)) } else { "unchanged".to_owned() };
                self.tell(&format!("tenant/{name} {word}{}\n", if self.dry_run { " (dry run)" } else { "" }));
                turned.push(tenant);
                changed.extend(is_changed.then_some(name));
            }));
            if done.is_err() {
                break;
            }
        }
        // What some were refused for does not hide what became of the others.
        let mut done = done.and_then(|()| all.finish());
        if self.wait && !self.dry_run {
            let names: Vec<String> = turned.iter().map(|tenant| tenant.name.clone()).collect();
            // One that is woken before it was seen stopped is told as running all the time.
            let woken = if desired == v1::Desired::Running { changed } else { BTreeSet::new() };
            let left = || self.connection.timeout.saturating_sub(begun.elapsed());
            let waited = async {
                super::wait::until_running(&client, &names, left()).await?;
                super::wait::until_changed(&client, &woken, left()).await
            };
            done = done.and(waited.await);
            turned.clear();
            for name in &names {
                let tenant = client.tenant(name, false).await?;
                self.tell(&format!("tenant/{name} is {}\n", status::standing(&tenant)));
                turned.push(tenant);
            }
        }
        if self.output == "json" {
            let objects: Vec<Object> = turned.into_iter().map(|tenant| Object::Tenant(Box::new(tenant))).collect();
            out(&render(&objects, Format::Json, false, false)?);
        }
        done
    }

    /// Says something to people.
    fn tell(&self, line: &str) {
        if self.output != "json" {
            out(line);
        }
    }

    /// The tenant as it is then, and whether that is a change.
    async fn one(&self, client: &Client, name: &str, desired: v1::Desired) -> Result<(v1::Tenant, bool), Failure> {
        let mut tries = 1;
        loop {
            let tenant = client.tenant(name, false).await?;
            check_not_deleted(&tenant)?;
            if tenant.spec.as_ref().is_some_and(|spec| word(spec.desired()) == word(desired)) {
                return Ok((tenant, false));
            }
            let request = v1::UpdateTenantRequest {
                request_id: request_id(),
                name: name.to_owned(),
                spec: Some(v1::TenantSpec { desired: desired.into(), ..v1::TenantSpec::default() }),
                update_mask: Some(prost_types::FieldMask { paths: vec!["desired".to_owned()] }),
                expected_revision: tenant.revision,
                dry_run: self.dry_run,
            };
            match send!(client, &format!("change tenant/{name}"), placement, update_tenant, request) {
                Err(failure) if failure.exit == Exit::Conflict && tries < MAX_TRIES => tries += 1,
                answer => return Ok((answer?.tenant.unwrap_or_default(), true)),
            }
        }
    }
}

/// As documents write it.
fn word(desired: v1::Desired) -> &'static str {
    match desired {
        v1::Desired::Unspecified | v1::Desired::Running => "Running",
        v1::Desired::Hibernated => "Hibernated",
        v1::Desired::Archived => "Archived",
    }
}
