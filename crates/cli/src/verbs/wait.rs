//! `--wait`: until things are as they were asked to be.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use futures::StreamExt;
use roadstead_api::v1;

use crate::apply::put::send;
use crate::client::{Client, Services};
use crate::failure::{Exit, Failure};
use crate::output::status;

/// How often is looked again: people do not notice less.
const POLL: Duration = Duration::from_millis(250);
/// Names that a time-out lists.
const MAX_NAMED: usize = 5;
/// Above so many tenants the listing is read instead of each by itself.
const MANY: usize = 20;
/// How often agents are asked whether a change is carried out: each answer is some requests to a cluster's API server.
const ASK_EVERY: Duration = Duration::from_secs(1);
/// Of how many tenants is asked at a time: an agent answers as many.
const ASKED_AT_A_TIME: usize = 4;
/// How long a tenant has to run without trouble after its change was carried out: an agent tells of what is on its way after 5 s, and whatever
/// it tells is here within a second or two.
const SETTLES: Duration = Duration::from_secs(8);
/// What is waited for.
const AS_WANTED: &str = "as they are to be";

/// Waits until all of these tenants run, or are at rest if they are to be.
///
/// # Errors
/// The time is over; who is missing, and why.
pub async fn until_running(client: &Client, names: &[String], timeout: Duration) -> Result<(), Failure> {
    until(client, names, timeout, AS_WANTED, as_wanted).await
}

/// Whether a tenant is as it is to be, or what it is.
fn as_wanted(name: &str, found: Option<&v1::Tenant>) -> Result<(), String> {
    let Some(tenant) = found else { return Err(format!("{name} is gone")) };
    if status::is_as_wanted(tenant) {
        return Ok(());
    }
    if let Some(how) = status::deletion(tenant) {
        return Err(format!("{name} {how}"));
    }
    let status = tenant.status.clone().unwrap_or_default();
    let why = match (&status.trouble, &status.binding) {
        (Some(trouble), _) => &trouble.why,
        (None, Some(_)) => "its cluster's agent has not told that it is as it is to be",
        (None, None) => &status.reason,
    };
    Err(format!("{name} is {}: {why}", status::standing(tenant)))
}

/// Waits until tenants that were there already are as they are to be now. One that runs goes on running while a change is on its way, and its
/// agent tells nothing of a change that succeeds: it is asked whether anything is left to be changed.
///
/// # Errors
/// The time is over; who is missing, and why.
pub async fn until_changed(client: &Client, names: &BTreeSet<String>, timeout: Duration) -> Result<(), Failure> {
    let begun = Instant::now();
    // Since when nothing is left to be changed.
    let mut waiting: BTreeMap<String, Option<Instant>> = names.iter().map(|name| (name.clone(), None)).collect();
    // Why each is not as it is to be, as far as it was last found out.
    let mut why = BTreeMap::new();
    while !waiting.is_empty() {
        let unknown: Vec<String> = waiting.iter().filter(|(_, since)| since.is_none()).map(|(name, _)| name.clone()).collect();
        let mut answers = futures::stream::iter(unknown.into_iter().map(|name| async move {
            let left = timeout.saturating_sub(begun.elapsed());
            let answer = tokio::time::timeout(left, carried_out(client, &name)).await;
            (name, answer.ok())
        }))
        .buffer_unordered(ASKED_AT_A_TIME);
        while let Some((name, answer)) = answers.next().await {
            match answer {
                Some(Ok(())) => {
                    why.remove(&name);
                    waiting.insert(name, Some(Instant::now()));
                }
                Some(Err(reason)) => drop(why.insert(name.clone(), format!("{name} is as it was: {reason}"))),
                None => {
                    why.entry(name).or_insert_with_key(|name| format!("{name} is as it was: its cluster's agent has not answered in time"));
                }
            }
        }
        for (name, tenant) in look(client, &waiting.keys().cloned().collect()).await? {
            let runs = tenant.as_ref().is_some_and(|tenant| status::stage(tenant) == status::RUNNING);
            let has_settled = waiting.get(&name).copied().flatten().is_some_and(|since| since.elapsed() >= SETTLES);
            match as_wanted(&name, tenant.as_ref()) {
                Ok(()) if has_settled || !runs => {
                    why.remove(&name);
                    waiting.remove(&name);
                }
                Ok(()) => drop(why.entry(name).or_insert_with_key(|name| format!("{name} was changed just now"))),
                Err(reason) => drop(why.insert(name, reason)),
            }
        }
        if !waiting.is_empty() && begun.elapsed() >= timeout {
            return Err(not_yet(waiting.len(), names.len(), AS_WANTED, why.into_values().collect()));
        }
        if !waiting.is_empty() {
            tokio::time::sleep(ASK_EVERY).await;
        }
    }
    Ok(())
}

/// Whether nothing is left to be changed in a tenant's cluster, or what is. Who may not ask that is told nothing.
async fn carried_out(client: &Client, name: &str) -> Result<(), String> {
    let request = v1::DiffTenantRequest { name: name.to_owned(), spec: None, class: None };
    let answer = send!(client, &format!("diff tenant/{name} in its cluster"), placement, diff_tenant, request);
    let answer = match answer {
        Ok(answer) => answer,
        Err(failure) if failure.exit == Exit::Permission => return Ok(()),
        Err(failure) => return Err(failure.message),
    };
    match &answer.objects[..] {
        [] => Ok(()),
        [one] => Err(format!("{} is still to be changed", one.object)),
        [first, more @ ..] => Err(format!("{} and {} more objects are still to be changed", first.object, more.len())),
    }
}

/// Waits until all of these tenants have left their clusters.
///
/// # Errors
/// The time is over; who is still there.
pub async fn until_released(client: &Client, names: &[String], timeout: Duration) -> Result<(), Failure> {
    until(client, names, timeout, "gone", |_, found| {
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
    reached: impl Fn(&str, Option<&v1::Tenant>) -> Result<(), String>,
) -> Result<(), Failure> {
    let begun = Instant::now();
    let mut waiting: BTreeSet<String> = names.iter().cloned().collect();
    while !waiting.is_empty() {
        let mut why = Vec::new();
        for (name, tenant) in look(client, &waiting).await? {
            match reached(&name, tenant.as_ref()) {
                Ok(()) => drop(waiting.remove(&name)),
                Err(reason) => why.push(reason),
            }
        }
        if !waiting.is_empty() && begun.elapsed() >= timeout {
            return Err(not_yet(waiting.len(), names.len(), aim, why));
        }
        if !waiting.is_empty() {
            tokio::time::sleep(POLL).await;
        }
    }
    Ok(())
}

/// That so many are not as they are to be, and why some of them are not.
fn not_yet(waiting: usize, all: usize, aim: &str, why: Vec<String>) -> Failure {
    let shown = why.into_iter().take(MAX_NAMED).collect::<Vec<_>>().join("\n  ");
    let message = format!("{waiting} of {all} tenants are not {aim} yet:\n  {shown}");
    Failure::new(Exit::Unavailable, message).hint("`roadstead describe tenant NAME` says why; --timeout waits longer")
}

async fn look(client: &Client, names: &BTreeSet<String>) -> Result<Vec<(String, Option<v1::Tenant>)>, Failure> {
    if names.len() > MANY {
        let mut all: BTreeMap<String, v1::Tenant> =
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
