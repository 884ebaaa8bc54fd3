//! What a pod asks for, counted as kube-scheduler counts it: the larger of its init containers and of its containers with their sidecars,
//! what stands for the whole pod instead where that is given, and its overhead on top. A pod that is being resized counts with the larger
//! of what it has and what it is to have. (`resourcehelper.PodRequests` of Kubernetes 1.34.)

use std::borrow::Cow;

use roadstead_core::resources::{Bytes, MAX_QUANTITY, Millicores, PodSize};
use serde::Deserialize;

use super::quantity::Quantity;

/// CPU and memory of `requests`, `overhead` and the like; each may be missing.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
pub(crate) struct Amounts {
    cpu: Option<Quantity>,
    memory: Option<Quantity>,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
pub(crate) struct WireResources {
    requests: Option<Amounts>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct WireContainer<'a> {
    #[serde(borrow)]
    name: Cow<'a, str>,
    #[serde(default)]
    resources: Option<WireResources>,
    #[serde(borrow, default)]
    restart_policy: Option<Cow<'a, str>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct WireContainerStatus<'a> {
    #[serde(borrow)]
    name: Cow<'a, str>,
    #[serde(default)]
    allocated_resources: Option<Amounts>,
    #[serde(default)]
    resources: Option<WireResources>,
}

/// What of a pod says what it asks for.
#[derive(Debug, Default)]
pub(crate) struct Asked<'a> {
    pub(crate) containers: Vec<WireContainer<'a>>,
    pub(crate) init_containers: Vec<WireContainer<'a>>,
    /// Of both.
    pub(crate) statuses: Vec<WireContainerStatus<'a>>,
    /// For the whole pod instead of the sum.
    pub(crate) whole: Option<Amounts>,
    pub(crate) overhead: Option<Amounts>,
    /// Whether it is to be resized and never can be: then what it is to have does not count.
    pub(crate) resize_infeasible: bool,
}

impl Asked<'_> {
    /// What the pod asks for; no amount is above [`MAX_QUANTITY`].
    pub(crate) fn effective(&self) -> PodSize {
        let mut running = PodSize::default();
        for container in &self.containers {
            running = add(running, self.of(container));
        }
        let (mut sidecars, mut starting) = (PodSize::default(), PodSize::default());
        for container in &self.init_containers {
            let size = self.of(container);
            if container.restart_policy.as_deref() == Some("Always") {
                running = add(running, size);
                sidecars = add(sidecars, size);
                starting = larger(starting, sidecars);
            } else {
                starting = larger(starting, add(sidecars, size));
            }
        }
        let mut size = larger(running, starting);
        if let Some(whole) = self.whole {
            let given = read(Some(whole));
            size = PodSize {
                cpu: if whole.cpu.is_some() { given.cpu } else { size.cpu },
                memory: if whole.memory.is_some() { given.memory } else { size.memory },
            };
        }
        add(size, read(self.overhead))
    }

    fn of(&self, container: &WireContainer<'_>) -> PodSize {
        let wanted = read(container.resources.and_then(|resources| resources.requests));
        let status = self.statuses.iter().find(|status| status.name == container.name);
        let Some((status, resources)) = status.and_then(|status| Some((status, status.resources?))) else { return wanted };
        let has = larger(read(resources.requests), read(status.allocated_resources));
        if self.resize_infeasible { has } else { larger(wanted, has) }
    }
}

fn read(amounts: Option<Amounts>) -> PodSize {
    let amounts = amounts.unwrap_or_default();
    PodSize { cpu: Millicores(amounts.cpu.unwrap_or_default().millicores()), memory: Bytes(amounts.memory.unwrap_or_default().whole()) }
}

fn add(a: PodSize, b: PodSize) -> PodSize {
    PodSize { cpu: Millicores((a.cpu.0 + b.cpu.0).min(MAX_QUANTITY)), memory: Bytes((a.memory.0 + b.memory.0).min(MAX_QUANTITY)) }
}

fn larger(a: PodSize, b: PodSize) -> PodSize {
    PodSize { cpu: a.cpu.max(b.cpu), memory: a.memory.max(b.memory) }
}
