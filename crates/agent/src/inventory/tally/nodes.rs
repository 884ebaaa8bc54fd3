//! One node: what it is, what is on it, and what of that is in the sums.

use roadstead_core::constraint::{TaintEffect, Toleration};
use roadstead_core::resources::{Bytes, Millicores, PodSize, Resource, Resources};

use super::{Census, Sums, UNLIMITED_ATTACHMENTS, narrowed, taint_key};
use crate::inventory::slim::Node;

/// A node as it is known: pods and drivers may be known before the node itself.
#[derive(Debug, Default)]
pub(super) struct NodeSlot {
    facts: Option<Box<Node>>,
    open: bool,
    /// What its drivers allow.
    pub(super) drivers: Option<u64>,
    /// What all pods on it ask for.
    pub(super) all: Sums,
    /// What others' pods on it ask for.
    pub(super) others: Sums,
}

impl NodeSlot {
    pub(super) fn facts(&self) -> Option<&Node> {
        self.facts.as_deref()
    }

    pub(super) fn is_open(&self) -> bool {
        self.open
    }

    /// Takes what the node is now, or that it is gone.
    pub(super) fn set(&mut self, facts: Option<Node>, tolerations: &[Toleration]) {
        self.open = facts.as_ref().is_some_and(|node| is_open(node, tolerations));
        self.facts = facts.map(Box::new);
    }

    /// Its part of what there is and of what others use.
    pub(super) fn part(&self) -> (Sums, Sums) {
        let Some(node) = self.facts().filter(|_| self.open) else { return Default::default() };
        let attachable = self.drivers.or(node.attachable).unwrap_or(UNLIMITED_ATTACHMENTS);
        let PodSize { cpu, memory } = node.allocatable;
        ([cpu.0.into(), memory.0.into(), node.pods.into(), 0, attachable.into()], self.others)
    }

    /// What an open node can allocate to tenants' pods and volumes.
    pub(super) fn open_size(&self) -> Option<Resources> {
        self.open.then(|| narrowed(self.part().0))
    }

    /// What an open node can allocate to pods, and the largest pod that it could take now.
    pub(super) fn open_room(&self) -> Option<(PodSize, PodSize)> {
        let node = self.facts().filter(|_| self.open)?;
        let left =
            |there: u64, resource: Resource| u64::try_from(u128::from(there).saturating_sub(self.all[resource as usize])).unwrap_or(0);
        let full = left(node.pods, Resource::Pods) == 0;
        let size = node.allocatable;
        let room = PodSize { cpu: Millicores(left(size.cpu.0, Resource::Cpu)), memory: Bytes(left(size.memory.0, Resource::Memory)) };
        Some((size, if full { PodSize::default() } else { room }))
    }

    /// Counts it among the nodes, or no longer.
    pub(super) fn enter(&self, census: &mut Census, there: bool) {
        let Some(node) = self.facts() else { return };
        let count = |number: &mut u32, holds: bool| {
            if holds {
                *number = if there { *number + 1 } else { *number - 1 };
            }
        };
        count(&mut census.nodes, true);
        count(&mut census.ready, node.ready);
        count(&mut census.open, self.open);
        for (number, holds) in census.pressure.iter_mut().zip(node.pressure) {
            count(number, holds);
        }
        if self.open {
            let zone = node.zone.clone().unwrap_or_default();
            count(census.zones.entry(zone.clone()).or_default(), true);
            if census.zones.get(&zone) == Some(&0) {
                census.zones.remove(&zone);
            }
        }
        for taint in &node.taints {
            let key = taint_key(taint);
            count(census.taints.entry(key.clone()).or_default(), true);
            if census.taints.get(&key) == Some(&0) {
                census.taints.remove(&key);
            }
        }
    }
}

fn is_open(node: &Node, tolerations: &[Toleration]) -> bool {
    let mut repelling = node.taints.iter().filter(|taint| taint.effect == TaintEffect::NoSchedule);
    node.ready && node.schedulable && repelling.all(|taint| tolerations.iter().any(|toleration| toleration.tolerates(taint)))
}
