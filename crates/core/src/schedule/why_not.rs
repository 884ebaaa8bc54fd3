//! Why nothing fits: every cluster counted by its first cause, and the one that came closest, without asking each by itself.
//!
//! What is short in steps is short; only where a cluster has exactly as many steps as are wanted, or nothing is short in steps, is
//! it asked exactly. The answer is that of asking every cluster for everything that refuses it.

use crate::id::ClusterId;
use crate::ledger::{BLOCK, Block, COLUMN_COUNT, Closed, Ledger, Neighbours, Site, is_vague, wanted_steps};
use crate::resources::{RESOURCE_COUNT, Resource};
use crate::schedule::Unplaceable;
use crate::schedule::reason::{Cause, Shortfall, Tally};
use crate::schedule::scan::{NONE, Ranks};
use crate::schedule::score::{choose_shard, shard_refusals};
use crate::schedule::scratch::Standing;
use crate::tenant::TenantSpec;

/// A mask of one lane.
const ALL: u16 = u16::MAX;

/// What a lane needs beside being counted.
const ODD: u16 = 1;
const NEAR: u16 = 2;
const EXACT: u16 = 4;

/// Counts what the constraints refuse, and the clusters that they allow by what else refuses them.
pub(crate) fn why_not(ledger: &Ledger, neighbours: &Neighbours<'_>, spec: &TenantSpec, standing: &Standing, nodes: &Ranks) -> Unplaceable {
    let wanted = spec.requests.total.to_array();
    let steps = wanted_steps(wanted);
    let mut asked = Asked { ledger, neighbours, spec, wanted, tally: standing.tally() };
    let beyond_steps = steps[..RESOURCE_COUNT].contains(&u16::MAX);
    if beyond_steps || neighbours.bind_clusters() {
        for (_, number) in standing.live() {
            for lane in (0..BLOCK).filter(|lane| standing.ranks()[*number][*lane] != NONE) {
                asked.ask(*number, lane);
            }
        }
    } else {
        let mut counts = Counts { steps, vague: std::array::from_fn(|resource| is_vague(resource, wanted[resource])), ..Counts::default() };
        for (_, number) in standing.live() {
            let (ranks, nodes) = (&standing.ranks()[*number], &nodes[*number]);
            if counts.count(&ledger.blocks()[*number], ranks, nodes) {
                asked.special(&mut counts, *number, nodes);
            }
        }
        for (cause, lanes) in RESOURCE_CAUSES.into_iter().zip(&counts.short_first) {
            asked.tally.add(cause, lanes.iter().map(|count| u32::from(*count)).sum());
        }
    }
    Unplaceable { reason: asked.tally.into_reason().encode() }
}

const RESOURCE_CAUSES: [Cause; RESOURCE_COUNT] = [Cause::Cpu, Cause::Memory, Cause::Pods, Cause::Storage, Cause::Attachments];

/// The count over blocks, lane by lane.
struct Counts {
    steps: [u16; COLUMN_COUNT],
    /// Where as many steps as are wanted may yet be too little.
    vague: [bool; RESOURCE_COUNT],
    /// By resource and lane: clusters that are short of it first of all.
    short_first: [[u16; BLOCK]; RESOURCE_COUNT],
    /// Free steps of the closest so far, by what alone it is short of.
    closest: [u16; RESOURCE_COUNT],
    /// Of the last block.
    special: [u16; BLOCK],
}

impl Default for Counts {
    fn default() -> Self {
        Self {
            steps: [0; COLUMN_COUNT],
            vague: [false; RESOURCE_COUNT],
            short_first: [[0; BLOCK]; RESOURCE_COUNT],
            closest: [0; RESOURCE_COUNT],
            special: [0; BLOCK],
        }
    }
}

impl Counts {
    /// Counts one block; true if some lane needs more than being counted.
    fn count(&mut self, block: &Block, ranks: &[u16; BLOCK], nodes: &[u16; BLOCK]) -> bool {
        #[cfg(target_arch = "x86_64")]
        if std::arch::is_x86_feature_detected!("avx2") {
            #[allow(unsafe_code, reason = "the only way to use instructions that not every processor has; both ways are the same code")]
            // SAFETY: the processor has them, as was asked just now.
            return unsafe { self.count_widely(block, ranks, nodes) };
        }
        self.count_plainly(block, ranks, nodes)
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2")]
    fn count_widely(&mut self, block: &Block, ranks: &[u16; BLOCK], nodes: &[u16; BLOCK]) -> bool {
        self.count_plainly(block, ranks, nodes)
    }

    #[inline(always)]
    fn count_plainly(&mut self, block: &Block, ranks: &[u16; BLOCK], nodes: &[u16; BLOCK]) -> bool {
        let mask = |holds: bool| if holds { ALL } else { 0 };
        let (mut shorts, mut near, mut vague) = ([0_u16; BLOCK], [0_u16; BLOCK], [0_u16; BLOCK]);
        for resource in 0..RESOURCE_COUNT {
            let (wanted, free) = (self.steps[resource], &block.free[resource]);
            let (is_vague, closest) = (mask(self.vague[resource]), self.closest[resource]);
            for lane in 0..BLOCK {
                let short = mask(free[lane] < wanted);
                shorts[lane] += short & 1;
                near[lane] |= short & mask(free[lane].saturating_add(1) >= closest);
                vague[lane] |= is_vague & mask(free[lane] == wanted);
            }
        }
        let (mut plain, mut any) = ([0_u16; BLOCK], 0);
        for lane in 0..BLOCK {
            let allowed = mask(ranks[lane] != NONE);
            let open = allowed & mask(nodes[lane] != NONE) & mask(block.closed[lane] == Closed::Not as u16);
            let exact = open & (vague[lane] | mask(shorts[lane] == 0));
            plain[lane] = open & !exact;
            let special = (allowed & !open & ODD) | (exact & EXACT) | (plain[lane] & near[lane] & mask(shorts[lane] == 1) & NEAR);
            self.special[lane] = special;
            any |= special;
        }
        for resource in 0..RESOURCE_COUNT {
            let (wanted, free, counts) = (self.steps[resource], &block.free[resource], &mut self.short_first[resource]);
            for lane in 0..BLOCK {
                let short = plain[lane] & mask(free[lane] < wanted);
                counts[lane] += short & 1;
                plain[lane] &= !short;
            }
        }
        any != 0
    }
}

/// Clusters that are asked by themselves.
struct Asked<'a, 'n> {
    ledger: &'a Ledger,
    neighbours: &'a Neighbours<'n>,
    spec: &'a TenantSpec,
    wanted: [u64; RESOURCE_COUNT],
    tally: Tally,
}

impl Asked<'_, '_> {
    /// Sees to the lanes of a block that need more than being counted.
    fn special(&mut self, counts: &mut Counts, number: usize, nodes: &[u16; BLOCK]) {
        let block = &self.ledger.blocks()[number];
        for (lane, special) in counts.special.into_iter().enumerate().filter(|(_, special)| *special != 0) {
            match special {
                ODD if nodes[lane] == NONE => self.tally.add(Cause::LargestPod, 1),
                ODD => self.tally.add(cause_of_closed(block.closed[lane]), 1),
                EXACT => self.ask(number, lane),
                _ => self.see_how_close(counts, number, lane),
            }
        }
    }

    /// A cluster that is short of one resource only, by about as little as the closest one.
    fn see_how_close(&mut self, counts: &mut Counts, number: usize, lane: usize) {
        let block = &self.ledger.blocks()[number];
        let short = |resource: &usize| block.free[*resource][lane] < counts.steps[*resource];
        let Some(resource) = (0..RESOURCE_COUNT).find(short) else { return };
        let steps = block.free[resource][lane];
        if steps.saturating_add(1) < counts.closest[resource] {
            return;
        }
        let cluster = ClusterId(self.ledger.layout().rows()[number][lane]);
        let Some(site) = self.ledger.site(cluster) else { return };
        let shortfall = self.shortfall(cluster, site, Resource::ALL[resource]);
        if self.tally.is_closer(&shortfall) && choose_shard(self.ledger, self.neighbours, cluster, site).is_some() {
            counts.closest[resource] = counts.closest[resource].max(steps);
            self.tally.near(shortfall);
        }
    }

    fn shortfall(&self, cluster: ClusterId, site: &Site, resource: Resource) -> Shortfall {
        let (wanted, limit) = (self.wanted[resource as usize], site.limit[resource as usize]);
        Shortfall { cluster, resource, wanted, free: self.ledger.free(resource, cluster, site), limit }
    }

    /// Asks one cluster for its first cause, exactly.
    fn ask(&mut self, number: usize, lane: usize) {
        let cluster = ClusterId(self.ledger.layout().rows()[number][lane]);
        let Some(site) = self.ledger.site(cluster) else { return };
        let closed = self.ledger.blocks()[number].closed[lane];
        let before_company = closed != Closed::Not as u16 && closed < Closed::TenantCap as u16;
        let company = || self.neighbours.cause_of_cluster(site, cluster);
        if !site.takes_pod(self.spec.requests.largest_pod) {
            self.tally.add(Cause::LargestPod, 1);
        } else if before_company {
            self.tally.add(cause_of_closed(closed), 1);
        } else if let Some(which) = company() {
            self.tally.add(Cause::of_constraint(which), 1);
        } else if closed != Closed::Not as u16 {
            self.tally.add(cause_of_closed(closed), 1);
        } else {
            self.ask_for_room(cluster, site);
        }
    }

    fn ask_for_room(&mut self, cluster: ClusterId, site: &Site) {
        let short = |resource: &Resource| self.wanted[*resource as usize] > self.ledger.free(*resource, cluster, site);
        let mut shorts = Resource::ALL.into_iter().filter(short);
        let (first, second) = (shorts.next(), shorts.next());
        match first {
            Some(resource) => {
                self.tally.add(RESOURCE_CAUSES[resource as usize], 1);
                let shortfall = self.shortfall(cluster, site, resource);
                if second.is_none()
                    && self.tally.is_closer(&shortfall)
                    && choose_shard(self.ledger, self.neighbours, cluster, site).is_some()
                {
                    self.tally.near(shortfall);
                }
            }
            None => {
                if let Some(refusal) = shard_refusals(self.ledger, self.neighbours, cluster, site).first() {
                    self.tally.add(Cause::of(refusal), 1);
                }
            }
        }
    }
}

fn cause_of_closed(closed: u16) -> Cause {
    const CAUSES: [(Closed, Cause); 7] = [
        (Closed::Fenced, Cause::Fenced),
        (Closed::Cordoned, Cause::Cordoned),
        (Closed::Draining, Cause::Draining),
        (Closed::Silent, Cause::Silent),
        (Closed::Overfull, Cause::Overfull),
        (Closed::TenantCap, Cause::TenantCap),
        (Closed::Shards, Cause::Shards),
    ];
    CAUSES.into_iter().find(|(code, _)| *code as u16 == closed).map_or(Cause::OtherConstraint, |(_, cause)| cause)
}
