//! The model fleet: pools, classes and clusters small enough to be full.

use std::collections::BTreeMap;

use roadstead_core::class::{ClassVersion, VolumeSpec};
use roadstead_core::cluster::ClusterSpec;
use roadstead_core::id::{Name, Revision};
use roadstead_core::policy::PolicySpec;
use roadstead_core::pool::{PoolKind, PoolPolicy, PoolSpec};
use roadstead_core::request::Ask;
use roadstead_core::resources::{Bytes, Millicores, PodSize, Requests, Resources};
use roadstead_core::time::Millis;

use crate::caller::{What, register_name, tenant};
use crate::chance::Chance;
use crate::linearizable::{Effect, Operation};

/// Tenants of class `small` that a cluster has room for by its cpu.
pub const SMALLS: u64 = 12;

fn name(text: &str) -> Name {
    Name::new(text).expect("a short name")
}

/// The name of a cluster.
#[must_use]
pub fn cluster_name(number: usize) -> Name {
    name(&format!("c{number}"))
}

/// What a cluster calls itself.
#[must_use]
pub fn uid(number: usize) -> String {
    format!("uid-{number}")
}

/// What the operator declares before anything else.
#[must_use]
pub fn set_up(clusters: usize, chance: &mut Chance, tokens: &mut u64) -> Vec<What> {
    let mut asks = Vec::new();
    let policy = if chance.percent(50) { PoolPolicy::Spread } else { PoolPolicy::Pack };
    let pool = PoolSpec { name: name("home"), kind: PoolKind::Home, order: 0, price_micros: 0, policy };
    asks.push(Ask::PutPool { spec: pool, expected: None });
    // Shorter than many silences in half of the runs, longer than any in most others.
    let silent_after = if chance.percent(50) { chance.between(1_000, 5_000) } else { chance.between(5_000, 60_000) };
    let policy = PolicySpec { silent_after: Millis(silent_after), max_pending: 40, pending_tries_per_batch: 8, ..PolicySpec::default() };
    asks.push(Ask::PutPolicy { spec: Box::new(policy), expected: None });
    for (class, cpu, volumes) in [("small", 100, &["data"][..]), ("large", 300, &["data", "logs"])] {
        asks.push(Ask::PutClass { class: Box::new(self::class(class, cpu, volumes)) });
    }
    for number in 0..clusters {
        asks.push(Ask::PutCluster { spec: Box::new(cluster(number, chance.between(6, 14) as u32)), expected: None });
    }
    for number in 0..crate::caller::REGISTERS {
        *tokens += 1;
        asks.push(Ask::PlaceTenant { spec: Box::new(tenant(&register_name(number), number, "small", *tokens)), wait: true });
    }
    asks.into_iter().map(What::Ask).collect()
}

/// What the set-up writes to a register, before anybody else asks for anything.
#[must_use]
pub fn first_write(number: u64) -> Operation {
    Operation { called: 0, answered: Some(1), effect: Effect::Write(number + 1) }
}

/// What there is in a cluster with so much cpu.
#[must_use]
pub fn allocatable(cpu: u64) -> Resources {
    Resources { cpu: Millicores(cpu), memory: Bytes(1 << 40), pods: 1000, storage: Bytes(1 << 45), attachments: 1000 }
}

fn volume(volume: &str) -> VolumeSpec {
    VolumeSpec { name: name(volume), size: Bytes(1 << 30), storage: "fast".to_owned(), grow: true }
}

/// A class whose tenants want so much cpu, and these volumes.
fn class(class: &str, cpu: u64, volumes: &[&str]) -> ClassVersion {
    let total = Resources { cpu: Millicores(cpu), memory: Bytes(1 << 28), pods: 3, storage: Bytes(1 << 30), attachments: 1 };
    let largest_pod = PodSize { cpu: Millicores(cpu / 2), memory: Bytes(1 << 26) };
    ClassVersion {
        name: name(class),
        version: "1.0.0".to_owned(),
        requests: Requests { total, largest_pod },
        volumes: volumes.iter().map(|volume| self::volume(volume)).collect(),
        retain: Millis::from_secs(5),
        values_schema: String::new(),
        template: String::new(),
        created: Revision::default(),
    }
}

/// A cluster's document.
#[must_use]
pub fn cluster(number: usize, tenant_cap: u32) -> ClusterSpec {
    ClusterSpec {
        name: cluster_name(number),
        uid: String::new(),
        provider: "own".to_owned(),
        region: format!("region{}", number % 2),
        zones: Vec::new(),
        residency: String::new(),
        labels: BTreeMap::new(),
        taints: Vec::new(),
        pool: name("home"),
        dedicated_to: Vec::new(),
        tenant_cap,
        high_water: tenant_cap.saturating_sub(1),
        shard_cap: 4,
        max_shards: 4,
        overcommit_percent: [100; 5],
        cordoned: false,
        draining: false,
    }
}
