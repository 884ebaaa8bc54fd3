//! Between the wire and the core: what comes in is checked field by field, what goes out is written as people read it.
//!
//! Every conversion inwards reports all that is wrong with a message in one go, by the path of the field. Nothing here decides
//! anything: what depends on the state (a class that does not exist, a quota) is the core's to refuse.

pub mod check;
pub mod constraints;
pub mod tenant;
pub mod cluster;
pub mod class;
pub mod agent;
pub mod details;
pub mod policy;
pub mod request_id;
pub mod explain;

use prost_types::{Duration, Timestamp as WireTimestamp};
use roadstead_api::v1;
use roadstead_core::id::{ClusterId, Revision};
use roadstead_core::resources::{Bytes, Millicores, PodSize, Requests, Resources};
use roadstead_core::state::State;
use roadstead_core::time::{Millis, Timestamp};

use check::{At, Check};

/// Characters of a caller's text that are quoted back.
const EXCERPT_CHARS: usize = 64;

/// The beginning of a text that may be long.
#[must_use]
pub fn excerpt(text: &str) -> String {
    text.chars().take(EXCERPT_CHARS).collect()
}

/// Puts names to cluster numbers; one that is gone is told as its number.
pub fn cluster_names(state: &State) -> impl Fn(ClusterId) -> String + '_ {
    |id| state.cluster_by_id(id).map_or_else(|| format!("#{}", id.0), |cluster| cluster.spec.name.to_string())
}

/// An amount of every resource.
pub fn resources(check: &mut Check, at: At<'_>, wire: Option<&v1::Resources>) -> Option<Resources> {
    let Some(wire) = wire else { return Some(Resources::default()) };
    let cpu = check.quantity(at.field("cpu_millicores"), wire.cpu_millicores);
    let memory = check.quantity(at.field("memory_bytes"), wire.memory_bytes);
    let pods = check.quantity(at.field("pods"), wire.pods);
    let storage = check.quantity(at.field("storage_bytes"), wire.storage_bytes);
    let attachments = check.quantity(at.field("attachments"), wire.attachments);
    Some(Resources { cpu: Millicores(cpu?), memory: Bytes(memory?), pods: pods?, storage: Bytes(storage?), attachments: attachments? })
}

/// CPU and memory of one pod or node.
pub fn pod_size(check: &mut Check, at: At<'_>, wire: Option<&v1::PodSize>) -> Option<PodSize> {
    let Some(wire) = wire else { return Some(PodSize::default()) };
    let cpu = check.quantity(at.field("cpu_millicores"), wire.cpu_millicores);
    let memory = check.quantity(at.field("memory_bytes"), wire.memory_bytes);
    Some(PodSize { cpu: Millicores(cpu?), memory: Bytes(memory?) })
}

/// What one tenant asks for.
pub fn requests(check: &mut Check, at: At<'_>, wire: Option<&v1::Requests>) -> Option<Requests> {
    let Some(wire) = wire else { return Some(Requests::default()) };
    let total = resources(check, at.field("total"), wire.total.as_ref());
    let largest_pod = pod_size(check, at.field("largest_pod"), wire.largest_pod.as_ref());
    let (total, largest_pod) = (total?, largest_pod?);
    if !largest_pod.fits(PodSize { cpu: total.cpu, memory: total.memory }) {
        return check.refuse(at.field("largest_pod"), "is larger than the sum over all pods");
    }
    Some(Requests { total, largest_pod })
}

/// An amount of every resource, as people read it.
#[must_use]
pub fn wire_resources(resources: &Resources) -> v1::Resources {
    v1::Resources {
        cpu_millicores: resources.cpu.0,
        memory_bytes: resources.memory.0,
        pods: resources.pods,
        storage_bytes: resources.storage.0,
        attachments: resources.attachments,
    }
}

/// CPU and memory of one pod or node, as people read it.
#[must_use]
pub fn wire_pod_size(size: &PodSize) -> v1::PodSize {
    v1::PodSize { cpu_millicores: size.cpu.0, memory_bytes: size.memory.0 }
}

/// What one tenant asks for, as people read it.
#[must_use]
pub fn wire_requests(requests: &Requests) -> v1::Requests {
    v1::Requests { total: Some(wire_resources(&requests.total)), largest_pod: Some(wire_pod_size(&requests.largest_pod)) }
}

/// A revision on the wire.
#[must_use]
pub fn wire_revision(revision: Revision) -> v1::Revision {
    v1::Revision { incarnation: u32::from(revision.incarnation.0), index: revision.index }
}

/// A point in time on the wire.
#[must_use]
pub fn wire_timestamp(time: Timestamp) -> WireTimestamp {
    let (seconds, nanos) = split(time.0);
    WireTimestamp { seconds, nanos }
}

/// A length of time on the wire.
#[must_use]
pub fn wire_duration(length: Millis) -> Duration {
    let (seconds, nanos) = split(length.0);
    Duration { seconds, nanos }
}

fn split(ms: u64) -> (i64, i32) {
    let nanos = i32::try_from(ms % 1000 * 1_000_000).expect("less than a second in nanoseconds fits");
    (i64::try_from(ms / 1000).expect("a u64 divided by 1000 fits"), nanos)
}
