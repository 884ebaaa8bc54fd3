//! What one seed is like: which faults there are and how often, how small the limits are. Few seeds have all of them (swarm testing): a
//! run without crashes reaches places that one with crashes never does.

use roadstead_consensus::replica::Config;

use crate::chance::Chance;

/// The temper of one run.
#[derive(Clone, Debug)]
pub struct Temper {
    /// Machines at the start.
    pub machines: usize,
    /// Clients that place, change, release and read.
    pub clients: usize,
    /// Model clusters.
    pub clusters: usize,
    /// Messages lost, of a million.
    pub loss_ppm: u64,
    /// Messages that arrive twice.
    pub duplicate_ppm: u64,
    /// Messages that take fifty times as long.
    pub slow_ppm: u64,
    /// A message's delay, about.
    pub base_us: u64,
    /// A disk's sync, about.
    pub sync_us: u64,
    /// Microseconds between two faults; 0 for none.
    pub fault_every_us: u64,
    /// Weights of the kinds of faults.
    pub weights: Weights,
    /// Percent of the things done in clusters that fail, or seem to.
    pub action_fails: u64,
    /// How long one takes at most.
    pub action_us: u64,
    /// Percent of intents that come from a replica that may lag, and of those of which a copy comes late.
    pub late_percent: u64,
    /// Percent by which machines' clocks run fast or slow at most.
    pub drift_percent: u64,
    /// Whether some machines begin with an older build.
    pub mixed_levels: bool,
    /// Entries after which a snapshot is taken.
    pub snapshot_every_entries: u64,
    /// Requests decided into one entry.
    pub max_batch: usize,
    /// How long the faults go on.
    pub storm_us: u64,
}

/// How often each kind of fault is drawn, beside the others.
#[derive(Clone, Copy, Debug, Default)]
pub struct Weights {
    /// A machine loses its power and comes back.
    pub crash: u64,
    /// All of them.
    pub blackout: u64,
    /// The network falls apart, both ways or one way.
    pub partition: u64,
    /// A process stands still.
    pub pause: u64,
    /// A machine's clock jumps.
    pub clock: u64,
    /// A disk gets slow.
    pub slow_disk: u64,
    /// A disk gets full.
    pub full_disk: u64,
    /// A machine loses its disk and comes back as a new member.
    pub wipe: u64,
    /// A member is added or removed.
    pub membership: u64,
    /// Leadership is handed over.
    pub transfer: u64,
    /// A backup is taken, or restored.
    pub restore: u64,
    /// Something befalls an agent, or what is in its cluster.
    pub agent: u64,
    /// Nobody in a cluster reaches the placement service.
    pub silence: u64,
}

impl Temper {
    /// Draws a temper.
    #[must_use]
    pub fn draw(chance: &mut Chance) -> Self {
        let mut some = |percent: u64, high: u64| if chance.percent(percent) { chance.between(1, high) } else { 0 };
        let weights = Weights {
            crash: some(70, 10),
            blackout: some(30, 3),
            partition: some(60, 10),
            pause: some(40, 5),
            clock: some(30, 4),
            slow_disk: some(40, 4),
            full_disk: some(25, 3),
            wipe: some(30, 4),
            membership: some(40, 6),
            transfer: some(40, 5),
            restore: some(35, 6),
            agent: some(80, 12),
            silence: some(70, 12),
        };
        let (loss_ppm, duplicate_ppm, slow_ppm) = (some(60, 80_000), some(50, 50_000), some(50, 30_000));
        Self {
            machines: if chance.percent(80) { 3 } else { [1, 2, 5][chance.below(3) as usize] },
            clients: chance.between(2, 6) as usize,
            clusters: chance.between(2, 4) as usize,
            loss_ppm,
            duplicate_ppm,
            slow_ppm,
            base_us: chance.between(300, 4_000),
            sync_us: chance.between(200, 8_000),
            action_fails: if chance.percent(60) { chance.between(1, 25) } else { 0 },
            action_us: chance.between(2_000, 250_000),
            late_percent: if chance.percent(70) { chance.between(5, 60) } else { 0 },
            fault_every_us: if chance.percent(90) { chance.between(200_000, 2_000_000) } else { 0 },
            weights,
            drift_percent: if chance.percent(40) { chance.between(1, 30) } else { 0 },
            mixed_levels: chance.percent(40),
            snapshot_every_entries: if chance.percent(70) { chance.between(5, 60) } else { 100_000 },
            max_batch: chance.between(1, 16) as usize,
            storm_us: chance.between(6_000_000, 14_000_000),
        }
    }

    /// The replicas' configuration; what differs between machines is filled in by them.
    #[must_use]
    pub fn config(&self) -> Config {
        Config {
            tick_ms: 40,
            heartbeat_ticks: 2,
            max_waiting: 64,
            max_batch: self.max_batch,
            snapshot_every_entries: self.snapshot_every_entries,
            kept_entries: self.snapshot_every_entries / 2,
            digest_every: 8,
            ..Config::default()
        }
    }
}
