//! What the scan needs of facts and constraints, kept from one decision to the next.
//!
//! Two things are remembered for every cluster: where it stands for tenants with certain constraints (refused, or its pool,
//! taints and preferences as one rank), and how its nodes suit a certain largest pod. They depend on the clusters' facts
//! only, and those are compared by pointer: a changed cluster is a new pointer, and its row is worked out again.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{BuildHasher, Hash, Hasher};
use std::sync::Arc;

use hashbrown::{HashMap, HashTable};

use crate::constraint::{Constraints, Preference, Wish};
use crate::id::Owner;
use crate::ledger::{BLOCK, BuildFold, FoldHasher, Layout, Ledger, PoolRank, Site};
use crate::resources::PodSize;
use crate::schedule::reason::{Cause, Tally};
use crate::schedule::scan::{Found, NONE, Ranks};
use crate::schedule::score::{MAX_NODE_TERM, node_term, standing};
use crate::tenant::TenantSpec;

/// Sets of constraints that are remembered: at 2 KiB for 1,000 clusters this is 16 MiB. One more begins anew.
const MAX_STANDINGS: usize = 8192;
/// Allocations of constraints that are known to be equal to remembered ones.
const MAX_ALIASES: usize = 8192;
/// Sizes of largest pods that are remembered.
const MAX_PODS: usize = 4096;
/// Changed rows that are remembered; who is further behind works everything out again.
const MAX_CHANGES: usize = 4096;

/// Bits of a rank that say how the nodes suit the largest pod.
const NODE_BITS: u32 = (MAX_NODE_TERM as u64).ilog2() + 1;
/// Different standings that a rank can tell apart.
const MAX_TIERS: usize = (NONE >> NODE_BITS) as usize;

/// Memoised candidate sets and buffers; never changes an answer.
#[derive(Clone, Debug, Default)]
pub struct Scratch {
    table: Arc<Vec<Option<Arc<Site>>>>,
    layout: Arc<Layout>,
    pools: Vec<PoolRank>,
    dedicated: BTreeSet<Owner>,
    /// Rows in the order in which they changed; `forgotten` of them were dropped.
    changes: Vec<u32>,
    forgotten: u64,
    standings: Vec<Standing>,
    by_content: HashTable<u32>,
    /// The same constraints may be the same allocation, as when somebody is tried again. Each is held by a standing or by `aliases`, so that no other can
    /// come to the same address.
    by_pointer: HashMap<usize, u32, BuildFold>,
    aliases: Vec<Arc<Constraints>>,
    pods: HashMap<PodSize, Pods, BuildFold>,
    /// The buffer of the scan.
    pub(crate) found: Found,
}

/// Where every cluster stands for tenants with these constraints.
#[derive(Clone, Debug)]
pub(crate) struct Standing {
    constraints: Arc<Constraints>,
    /// The owner, if some cluster is dedicated to it.
    owner: Option<Owner>,
    hash: u64,
    seen: u64,
    /// The different standings, best first.
    tiers: Vec<[i64; 3]>,
    /// Rank of each cluster at its place in the columns, its low bits clear.
    ranks: Ranks,
    /// The blocks where somebody is not refused, in the order of pools: the pool's position and the block.
    live: Vec<(usize, usize)>,
    /// Why those are refused that are: a number for each cause, and the cause of each row.
    refused: BTreeMap<Cause, u32>,
    causes: Vec<Option<Cause>>,
    /// There are more standings than a rank can tell apart.
    pub(crate) crowded: bool,
}

#[derive(Clone, Debug)]
struct Pods {
    seen: u64,
    ranks: Ranks,
}

/// The parts of constraints that the clusters' own facts answer.
#[derive(PartialEq, Eq, Hash)]
struct OwnFacts<'a> {
    constraints: [&'a [String]; 3],
    names: [Option<&'a str>; 3],
    labels: &'a [crate::constraint::Requirement],
    tolerations: &'a [crate::constraint::Toleration],
    dedicated: bool,
    preferences: Vec<&'a Preference>,
}

impl<'a> OwnFacts<'a> {
    fn of(constraints: &'a Constraints) -> Self {
        Self {
            constraints: [&constraints.providers, &constraints.regions, &constraints.zones],
            names: [
                constraints.residency.as_deref(),
                constraints.pool.as_ref().map(|pool| pool.as_str()),
                constraints.cluster.as_ref().map(|cluster| cluster.as_str()),
            ],
            labels: &constraints.labels,
            tolerations: &constraints.tolerations,
            dedicated: constraints.dedicated,
            preferences: constraints.preferences.iter().filter(|preference| !matches!(preference.wish, Wish::Company(_))).collect(),
        }
    }
}

impl Scratch {
    /// Takes notice of what has changed in the facts.
    pub(crate) fn sync(&mut self, ledger: &Ledger) {
        if Arc::ptr_eq(&self.table, ledger.site_table()) {
            return;
        }
        let table = Arc::clone(ledger.site_table());
        let mut anew = table.len() != self.table.len() || !Arc::ptr_eq(&self.layout, ledger.layout());
        for (row, (new, old)) in table.iter().zip(self.table.iter()).enumerate() {
            let same = match (new, old) {
                (Some(new), Some(old)) => Arc::ptr_eq(new, old),
                (None, None) => true,
                _ => false,
            };
            if !same {
                self.changes.push(row as u32);
                anew |= !same_frame(new.as_deref(), old.as_deref());
            }
        }
        self.table = table;
        self.layout = Arc::clone(ledger.layout());
        if self.changes.len() > MAX_CHANGES {
            self.forgotten += self.changes.len() as u64;
            self.changes.clear();
        }
        if anew {
            self.begin_anew(ledger);
        }
    }

    /// Forgets everything that depends on which pools and dedicated owners there are.
    fn begin_anew(&mut self, ledger: &Ledger) {
        self.pools = ledger.sites().map(|(_, site)| site.pool.clone()).collect();
        self.pools.sort_unstable();
        self.pools.dedup();
        self.dedicated = ledger.sites().flat_map(|(_, site)| site.spec.dedicated_to.iter().cloned()).collect();
        self.forget_standings();
        self.pods.clear();
    }

    fn forget_standings(&mut self) {
        self.standings.clear();
        self.by_content.clear();
        self.forget_aliases();
    }

    fn forget_aliases(&mut self) {
        self.by_pointer.clear();
        self.aliases.clear();
    }

    /// Where the clusters stand for this tenant's constraints: a number for [`Scratch::standing`].
    pub(crate) fn find_standing(&mut self, spec: &TenantSpec) -> usize {
        let owner = self.dedicated.contains(&spec.owner).then(|| spec.owner.clone());
        let pointer = Arc::as_ptr(&spec.constraints) as usize;
        let index = match self.by_pointer.get(&pointer).filter(|_| owner.is_none()) {
            Some(index) => *index as usize,
            None => self.look_up(spec, owner, pointer),
        };
        let facts = Facts { table: &self.table, layout: &self.layout, pools: &self.pools };
        self.standings[index].catch_up(facts, Changes { rows: &self.changes, forgotten: self.forgotten }, spec);
        index
    }

    fn look_up(&mut self, spec: &TenantSpec, owner: Option<Owner>, pointer: usize) -> usize {
        if self.standings.len() >= MAX_STANDINGS {
            self.forget_standings();
        }
        if self.aliases.len() >= MAX_ALIASES {
            self.forget_aliases();
        }
        let facts = OwnFacts::of(&spec.constraints);
        let mut hasher: FoldHasher = BuildFold.build_hasher();
        facts.hash(&mut hasher);
        owner.hash(&mut hasher);
        let hash = hasher.finish();
        let standings = &self.standings;
        let same = |index: &u32| {
            let other = &standings[*index as usize];
            other.owner == owner && OwnFacts::of(&other.constraints) == facts
        };
        let index = match self.by_content.find(hash, same) {
            Some(index) => *index,
            None => {
                let index = self.standings.len() as u32;
                self.standings.push(Standing::new(Arc::clone(&spec.constraints), owner.clone(), hash));
                let standings = &self.standings;
                self.by_content.insert_unique(hash, index, |index| standings[*index as usize].hash);
                index
            }
        };
        if owner.is_none() {
            self.aliases.push(Arc::clone(&spec.constraints));
            self.by_pointer.insert(pointer, index);
        }
        index as usize
    }

    /// A standing that was found just now.
    pub(crate) fn standing(&self, index: usize) -> &Standing {
        &self.standings[index]
    }

    /// Works out how the nodes suit a pod.
    pub(crate) fn prepare_pods(&mut self, pod: PodSize) {
        if self.pods.len() >= MAX_PODS && !self.pods.contains_key(&pod) {
            self.pods.clear();
        }
        let changes = Changes { rows: &self.changes, forgotten: self.forgotten };
        let pods = self.pods.entry(pod).or_insert_with(|| Pods { seen: u64::MAX, ranks: Ranks::new() });
        let (table, layout) = (&self.table, &self.layout);
        let put = |ranks: &mut Ranks, row: usize| {
            let Some(slot) = layout.slot(row) else { return };
            let site = table.get(row).and_then(|site| site.as_deref());
            ranks[slot.block][slot.lane] =
                site.filter(|site| site.takes_pod(pod)).map_or(NONE, |site| (MAX_NODE_TERM - node_term(site, pod)) as u16);
        };
        match changes.since(pods.seen) {
            Some(rows) => rows.iter().for_each(|row| put(&mut pods.ranks, *row as usize)),
            None => {
                pods.ranks = vec![[NONE; BLOCK]; layout.rows().len()];
                (0..table.len()).for_each(|row| put(&mut pods.ranks, row));
            }
        }
        pods.seen = changes.now();
    }

    /// Ranks at every place in the columns for a pod that was prepared just now.
    pub(crate) fn pods(&self, pod: PodSize) -> &Ranks {
        &self.pods[&pod].ranks
    }
}

/// Whether two versions of a cluster agree in what decides the pools' order and who has dedicated clusters.
fn same_frame(new: Option<&Site>, old: Option<&Site>) -> bool {
    match (new, old) {
        (Some(new), Some(old)) => new.pool == old.pool && new.spec.dedicated_to == old.spec.dedicated_to,
        (None, None) => true,
        _ => false,
    }
}

/// What the standings are worked out from.
#[derive(Clone, Copy)]
struct Facts<'a> {
    table: &'a [Option<Arc<Site>>],
    layout: &'a Layout,
    pools: &'a [PoolRank],
}

/// The rows that have changed so far.
#[derive(Clone, Copy)]
struct Changes<'a> {
    rows: &'a [u32],
    forgotten: u64,
}

impl<'a> Changes<'a> {
    fn now(self) -> u64 {
        self.forgotten + self.rows.len() as u64
    }

    /// Those since then; `None` if that is too long ago.
    fn since(self, then: u64) -> Option<&'a [u32]> {
        self.rows.get(usize::try_from(then.checked_sub(self.forgotten)?).ok()?..)
    }
}

impl Standing {
    fn new(constraints: Arc<Constraints>, owner: Option<Owner>, hash: u64) -> Self {
        Self {
            constraints,
            owner,
            hash,
            seen: u64::MAX,
            tiers: Vec::new(),
            ranks: Ranks::new(),
            live: Vec::new(),
            refused: BTreeMap::new(),
            causes: Vec::new(),
            crowded: false,
        }
    }

    /// Counts the clusters that the constraints refuse.
    pub(crate) fn tally(&self) -> Tally {
        let mut tally = Tally::default();
        for (cause, clusters) in self.refused.iter().filter(|(_, clusters)| **clusters > 0) {
            tally.add(*cause, *clusters);
        }
        tally
    }

    /// Ranks at every place in the columns.
    pub(crate) fn ranks(&self) -> &Ranks {
        &self.ranks
    }

    /// The blocks where somebody is not refused, in the order of pools: the pool's position and the block.
    pub(crate) fn live(&self) -> &[(usize, usize)] {
        &self.live
    }

    fn catch_up(&mut self, facts: Facts<'_>, changes: Changes<'_>, spec: &TenantSpec) {
        if self.seen == changes.now() {
            return;
        }
        let patched = changes.since(self.seen).is_some_and(|rows| rows.iter().all(|row| self.patch(facts, *row as usize, spec)));
        if !patched {
            self.work_out(facts, spec);
        }
        let groups = facts.layout.groups().iter().enumerate();
        let all = groups.flat_map(|(position, group)| group.blocks.iter().map(move |block| (position, *block)));
        self.live = all.filter(|(_, block)| self.ranks[*block].iter().any(|rank| *rank != NONE)).collect();
        self.seen = changes.now();
    }

    /// Works out one row again; false if it stands where no cluster stood before.
    fn patch(&mut self, facts: Facts<'_>, row: usize, spec: &TenantSpec) -> bool {
        let (terms, cause) = stand(facts, row, spec);
        let rank = match terms.map(|terms| rank_of(&self.tiers, terms)) {
            None => NONE,
            Some(Some(rank)) => rank,
            Some(None) => return false,
        };
        self.put(facts, row, rank, cause);
        true
    }

    fn work_out(&mut self, facts: Facts<'_>, spec: &TenantSpec) {
        let all: Vec<_> = (0..facts.table.len()).map(|row| stand(facts, row, spec)).collect();
        self.tiers = all.iter().filter_map(|(terms, _)| *terms).collect();
        self.tiers.sort_unstable_by(|a, b| b.cmp(a));
        self.tiers.dedup();
        self.crowded = self.tiers.len() > MAX_TIERS;
        self.ranks = vec![[NONE; BLOCK]; facts.layout.rows().len()];
        self.refused.clear();
        self.causes = vec![None; facts.table.len()];
        for (row, (terms, cause)) in all.into_iter().enumerate() {
            let rank = terms.and_then(|terms| rank_of(&self.tiers, terms));
            self.put(facts, row, rank.unwrap_or(NONE), cause);
        }
    }

    fn put(&mut self, facts: Facts<'_>, row: usize, rank: u16, cause: Option<Cause>) {
        if let Some(slot) = facts.layout.slot(row) {
            self.ranks[slot.block][slot.lane] = rank;
        }
        self.put_cause(row, cause);
    }

    fn put_cause(&mut self, row: usize, cause: Option<Cause>) {
        if let Some(old) = std::mem::replace(&mut self.causes[row], cause) {
            *self.refused.entry(old).or_default() -= 1;
        }
        if let Some(new) = cause {
            *self.refused.entry(new).or_default() += 1;
        }
    }

    /// The terms that a rank stands for.
    pub(crate) fn terms(&self, rank: u16) -> [i64; 3] {
        self.tiers[usize::from(rank >> NODE_BITS)]
    }
}

/// The node term that a rank stands for.
pub(crate) fn node_of(rank: u16) -> i64 {
    MAX_NODE_TERM - i64::from(rank & ((1 << NODE_BITS) - 1))
}

/// How a cluster stands by its own facts: its terms, or the cause of its refusal; neither if there is no such cluster.
fn stand(facts: Facts<'_>, row: usize, spec: &TenantSpec) -> (Option<[i64; 3]>, Option<Cause>) {
    let Some(site) = facts.table.get(row).and_then(|site| site.as_deref()) else { return (None, None) };
    match site.first_refusal(spec) {
        None => (Some(standing(facts.pools, spec, site)), None),
        Some(which) => (None, Some(Cause::of_constraint(which))),
    }
}

fn rank_of(tiers: &[[i64; 3]], terms: [i64; 3]) -> Option<u16> {
    let tier = tiers.binary_search_by(|tier| terms.cmp(tier)).ok()?;
    u16::try_from(tier << NODE_BITS).ok()
}
