//! What is counted: five resources, their quantities, and sums that never wrap.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Thousandths of a CPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Millicores(pub u64);

/// Bytes of memory or storage.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Bytes(pub u64);

/// The largest quantity that is accepted anywhere: 2^53 - 1, so that JSON keeps it exactly and 1,000 sums of it stay in 64 bits.
pub const MAX_QUANTITY: u64 = (1 << 53) - 1;

/// How many resources are counted.
pub const RESOURCE_COUNT: usize = 5;

/// A counted resource; its number is its place in dense arrays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[repr(u8)]
pub enum Resource {
    /// Millicores.
    Cpu = 0,
    /// Bytes.
    Memory = 1,
    /// Pods.
    Pods = 2,
    /// Bytes of volumes.
    Storage = 3,
    /// Volume attachments.
    Attachments = 4,
}

impl Resource {
    /// All of them, in the order of dense arrays.
    pub const ALL: [Self; RESOURCE_COUNT] = [Self::Cpu, Self::Memory, Self::Pods, Self::Storage, Self::Attachments];

    /// The name that documents and answers use.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Memory => "memory",
            Self::Pods => "pods",
            Self::Storage => "storage",
            Self::Attachments => "attachments",
        }
    }
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// An amount of every counted resource.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Resources {
    /// CPU.
    pub cpu: Millicores,
    /// Memory.
    pub memory: Bytes,
    /// Number of pods.
    pub pods: u64,
    /// Volumes' bytes.
    pub storage: Bytes,
    /// Volume attachments.
    pub attachments: u64,
}

impl Resources {
    /// The amounts in the order of [`Resource::ALL`].
    #[must_use]
    pub fn to_array(self) -> [u64; RESOURCE_COUNT] {
        [self.cpu.0, self.memory.0, self.pods, self.storage.0, self.attachments]
    }

    /// From amounts in the order of [`Resource::ALL`].
    #[must_use]
    pub fn from_array([cpu, memory, pods, storage, attachments]: [u64; RESOURCE_COUNT]) -> Self {
        Self { cpu: Millicores(cpu), memory: Bytes(memory), pods, storage: Bytes(storage), attachments }
    }

    /// The amount of one resource.
    #[must_use]
    pub fn get(&self, resource: Resource) -> u64 {
        self.to_array()[resource as usize]
    }

    /// Sum per resource; `None` if one would not fit.
    #[must_use]
    pub fn checked_add(self, other: Self) -> Option<Self> {
        self.zip(other, u64::checked_add)
    }

    /// Difference per resource; `None` if one would be negative.
    #[must_use]
    pub fn checked_sub(self, other: Self) -> Option<Self> {
        self.zip(other, u64::checked_sub)
    }

    /// Difference per resource, zero where it would be negative.
    #[must_use]
    pub fn saturating_sub(self, other: Self) -> Self {
        self.zip(other, |a, b| Some(a.saturating_sub(b))).unwrap_or_default()
    }

    /// Sum per resource, at most as much as can be told.
    #[must_use]
    pub fn saturating_add(self, other: Self) -> Self {
        self.zip(other, |a, b| Some(a.saturating_add(b))).unwrap_or_default()
    }

    /// The smaller amount of each resource.
    #[must_use]
    pub fn least(self, other: Self) -> Self {
        self.zip(other, |a, b| Some(a.min(b))).unwrap_or_default()
    }

    /// Whether it is more of any resource.
    #[must_use]
    pub fn exceeds(self, other: Self) -> bool {
        self.to_array().into_iter().zip(other.to_array()).any(|(one, other)| one > other)
    }

    fn zip(self, other: Self, f: impl Fn(u64, u64) -> Option<u64>) -> Option<Self> {
        let (a, b) = (self.to_array(), other.to_array());
        let mut sum = [0; RESOURCE_COUNT];
        for (slot, (a, b)) in sum.iter_mut().zip(a.into_iter().zip(b)) {
            *slot = f(a, b)?;
        }
        Some(Self::from_array(sum))
    }
}

/// The CPU and memory of one pod or of one node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PodSize {
    /// CPU.
    pub cpu: Millicores,
    /// Memory.
    pub memory: Bytes,
}

impl PodSize {
    /// Whether a pod of this size fits into `room`.
    #[must_use]
    pub fn fits(self, room: Self) -> bool {
        self.cpu <= room.cpu && self.memory <= room.memory
    }
}

/// What a tenant asks for, resolved from its class and stored at admission.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Requests {
    /// The sums over all of its pods and volumes, surge included.
    pub total: Resources,
    /// The largest single pod: a hard limit against nodes' allocatable, a soft one against the largest free node.
    pub largest_pod: PodSize,
}

/// An amount as Kubernetes writes it, rounded down to whole mebibytes when it is not small.
pub(crate) fn amount(resource: Resource, value: u64) -> String {
    match resource {
        Resource::Cpu if value.is_multiple_of(1000) => (value / 1000).to_string(),
        Resource::Cpu => format!("{value}m"),
        Resource::Memory | Resource::Storage => bytes(value),
        Resource::Pods | Resource::Attachments => value.to_string(),
    }
}

fn bytes(value: u64) -> String {
    for (shift, unit) in [(40, "Ti"), (30, "Gi"), (20, "Mi"), (10, "Ki")] {
        if value >> shift > 0 && value.trailing_zeros() >= shift {
            return format!("{}{unit}", value >> shift);
        }
    }
    if value >= 1 << 30 { format!("{}Mi", value >> 20) } else { value.to_string() }
}
