//! `--wait`: until things are as they were asked to be.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use roadstead_api::v1;

use crate::client::Client;
use crate::failure::{Exit, Failure};
use crate::output::status;

/// How often is looked again: people do not notice less.
const POLL: Duration = Duration::from_millis(250);
/// Names that a time-out lists.
const MAX_NAMED: usize = 5;
/// Above so many tenants the listing is read instead of each by itself.
const MANY: usize = 20;

/// Waits until all of these tenants run, or are at rest if they are to be.
///
/// # Errors
/// The time is over; who is missing, and why.
pub async fn until_running(client: &Client, names: &[String], timeout: Duration) -> Result<(), Failure> {
    let wanted = |tenant: &v1::Tenant| {
        if status::is_as_wanted(tenant) {
            return Ok(());
        }
        let status = tenant.status.clone().unwrap_or_default();
        let why = status.trouble.as_ref().map_or(&status.reason, |trouble| &trouble.why);
        Err(format!("{} is {}: {why}", tenant.name, status::standing(tenant)))
    };
    until(client, names, timeout, "as they are to be", |found| match found {
        Some(tenant) => wanted(tenant),
        None => Err("it is gone".to_owned()),
    })
    .await
}

/// Waits until all of these tenants have left their clusters.
///
/// # Errors
/// The time is over; who is still there.
pub async fn until_released(client: &Client, names: &[String], timeout: Duration) -> Result<(), Failure> {
    until(client, names, timeout, "gone", |found| {
        let Some(tenant) = found else { return Ok(()) };
        let phase = tenant.status.clone().unwrap_or_default().phase();
        match phase {
            v1::Phase::Retained => Ok(()),
            v1::Phase::Unspecified
            | v1::Phase::Pending
            | v1::Phase::Placed
            | v1::Phase::Running
            | v1::Phase::Releasing
            | v1::Phase::Purging => Err(format!("{} is {}", tenant.name, status::phase(phase))),
        }
    })
    .await
}

async fn until(
    client: &Client,
    names: &[String],
    timeout: Duration,
    aim: &str,
    reached: impl Fn(Option<&v1::Tenant>) -> Result<(), String>,
) -> Result<(), Failure> {
    let begun = Instant::now();
    let mut waiting: BTreeSet<String> = names.iter().cloned().collect();
    while !waiting.is_empty() {
        let mut why = Vec::new();
        for (name, tenant) in look(client, &waiting).await? {
            match reached(tenant.as_ref()) {
                Ok(()) => drop(waiting.remove(&name)),
                Err(reason) => why.push(reason),
            }
        }
        if !waiting.is_empty() && begun.elapsed() >= timeout {
            let shown = why.into_iter().take(MAX_NAMED).collect::<Vec<_>>().join("\n  ");
            let message = format!("{} of {} tenants are not {aim} yet:\n  {shown}", waiting.len(), names.len());
            return Err(Failure::new(Exit::Unavailable, message).hint("`roadstead describe tenant NAME` says why; --timeout waits longer"));
        }
        if !waiting.is_empty() {
            tokio::time::sleep(POLL).await;
        }
    }
    Ok(())
}

async fn look(client: &Client, names: &BTreeSet<String>) -> Result<Vec<(String, Option<v1::Tenant>)>, Failure> {
    if names.len() > MANY {
        let mut all: std::collections::BTreeMap<String, v1::Tenant> =
            client.tenants("", false, usize::MAX).await?.into_iter().map(|tenant| (tenant.name.clone(), tenant)).collect();
        return Ok(names.iter().map(|name| (name.clone(), all.remove(name))).collect());
    }
    let mut found = Vec::new();
    for name in names {
        match client.tenant(name, false).await {
            Ok(tenant) => found.push((name.clone(), Some(tenant))),
            Err(failure) if failure.exit == Exit::NotFound => found.push((name.clone(), None)),
            Err(failure) => return Err(failure),
        }
    }
    Ok(found)
}
