//! A machine: a disk, a clock that is not everybody's, and perhaps a running replica.

use std::collections::BTreeMap;

use roadstead_consensus::door::{Monotonic, Role, Ticket};
use roadstead_consensus::member::{MemberId, MemberInfo};
use roadstead_consensus::replica::{Config, Replica};
use roadstead_core::command::FeatureLevel;
use roadstead_core::request::Request;

use crate::chance::Chance;
use crate::disk::Disk;
use crate::net::Micros;

/// A clock that runs at its own rate and may jump ahead; never back, as a monotonic clock.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    started: Micros,
    rate_percent: u64,
    jumped_ms: u64,
}

impl Clock {
    /// A clock that begins now.
    #[must_use]
    pub fn new(now: Micros, rate_percent: u64) -> Self {
        Self { started: now, rate_percent, jumped_ms: 0 }
    }

    /// What it shows.
    #[must_use]
    pub fn read(&self, now: Micros) -> Monotonic {
        Monotonic((now - self.started) * self.rate_percent / 100 / 1000 + self.jumped_ms)
    }

    /// How long its milliseconds take.
    #[must_use]
    pub fn duration(&self, ms: u64) -> Micros {
        ms * 1000 * 100 / self.rate_percent
    }

    /// Jumps ahead.
    pub fn jump(&mut self, ms: u64) {
        self.jumped_ms += ms;
    }
}

/// One machine.
pub struct Machine {
    /// Its number.
    pub number: usize,
    /// Its disk.
    pub disk: Disk,
    /// The running replica.
    pub replica: Option<Replica>,
    /// Counts starts; what was meant for an earlier one is not heard.
    pub boot: u64,
    /// Its clock.
    pub clock: Clock,
    /// Highest feature level of its build.
    pub level: FeatureLevel,
    /// What it last said of itself.
    pub role: Role,
    /// The last entry that it applied.
    pub applied: u64,
    /// Terms of the entries that it gave to its disk.
    pub terms: BTreeMap<u64, u64>,
    /// Requests that wait for the driver to take them.
    pub inbox: Vec<(Ticket, Request)>,
    /// Nothing happens here before then.
    pub paused_until: Micros,
    /// When its disk begins the last sync that it was given.
    pub sync_begins_at: Micros,
    /// When its disk has done what was given to it.
    pub disk_free_at: Micros,
    /// The disk is slow until then.
    pub slow_until: Micros,
    /// Its member was removed from the group.
    pub removed: bool,
}

impl Machine {
    /// A machine with this disk, switched off.
    #[must_use]
    pub fn new(number: usize, disk: Disk, level: FeatureLevel) -> Self {
        Self {
            number,
            disk,
            replica: None,
            boot: 0,
            clock: Clock::new(0, 100),
            level,
            role: Role::default(),
            applied: 0,
            terms: BTreeMap::new(),
            inbox: Vec::new(),
            paused_until: 0,
            sync_begins_at: 0,
            disk_free_at: 0,
            slow_until: 0,
            removed: false,
        }
    }

    /// The member whose storage it holds.
    #[must_use]
    pub fn member(&self) -> MemberId {
        self.disk.member()
    }

    /// Where it is reached.
    #[must_use]
    pub fn info(&self) -> MemberInfo {
        MemberInfo { peer_address: format!("machine-{}:7001", self.number), client_address: format!("machine-{}:7000", self.number) }
    }

    /// Starts a replica from what is on the disk.
    ///
    /// # Errors
    /// Why it did not start.
    pub fn start(&mut self, now: Micros, config: Config, drift_percent: u64, chance: &mut Chance) -> Result<(), String> {
        let restored = self.disk.restored()?;
        self.boot += 1;
        self.clock = Clock::new(now, chance.between(100 - drift_percent.min(90), 100 + drift_percent));
        self.role = Role::default();
        self.applied = restored.snapshot_index;
        self.terms = restored.entries.iter().map(|entry| (entry.index, entry.term)).collect();
        self.inbox.clear();
        (self.sync_begins_at, self.disk_free_at) = (now, now);
        let config = Config { supported_level: self.level, nonce: chance.draw(), ..config };
        self.replica = Some(Replica::new(config, restored)?);
        Ok(())
    }

    /// The power goes.
    pub fn lose_power(&mut self, chance: &mut Chance) {
        self.replica = None;
        self.boot += 1;
        self.disk.lose_power(chance);
        self.inbox.clear();
        self.role = Role::default();
        self.paused_until = 0;
        self.slow_until = 0;
    }

    /// When a write is on disk. All that wait while the disk is busy are one sync, as in a replica's log thread.
    pub fn disk_time(&mut self, now: Micros, sync_us: u64, chance: &mut Chance) -> Micros {
        if now < self.sync_begins_at {
            return self.disk_free_at;
        }
        self.sync_begins_at = self.disk_free_at.max(now);
        let slow = if self.sync_begins_at < self.slow_until { 60 } else { 1 };
        let hiccup = if chance.percent(1) { 20 } else { 1 };
        self.disk_free_at = self.sync_begins_at + chance.between(sync_us / 2, sync_us * 2) * slow * hiccup;
        self.disk_free_at
    }
}
