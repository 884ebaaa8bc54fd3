//! Where a tenant goes and why: exact over all clusters, deterministic, integers only.
//!
//! [`place`] decides, [`explain`] tells the whole story of the same decision. What makes one cluster better than another
//! is in `score`; what is kept of a decision in [`Reason`].

mod reason;
mod report;
mod scan;
mod score;
mod scratch;
mod why_not;
#[cfg(test)]
mod tests;

use crate::command::Placement;
use crate::constraint::TaintEffect;
use crate::id::{ClusterId, Revision, ShardId};
use crate::ledger::{COLUMN_COUNT, Ledger, Neighbours, Refusal, Residents, taint_text, wanted_steps};
use crate::resources::RESOURCE_COUNT;
use crate::tenant::TenantSpec;

use self::reason::Tally;
pub use self::reason::{Cause, Reason, Shortfall, describe_reason};
pub use self::report::{MAX_EXAMPLES, RefusalGroup, describe_refusal, group};
use self::scan::{Found, Ranks};
use self::score::{Candidate, Score, choose_shard, judge, pools, share_of_key};
pub use self::scratch::Scratch;
use self::scratch::{Standing, node_of};

/// Nothing fits; the encoded reason counts refusals by cause.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unplaceable {
    /// At most [`crate::tenant::MAX_REASON_BYTES`].
    pub reason: Vec<u8>,
}

/// What one cluster says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It would take the tenant.
    Fits {
        /// The shard that it would enter.
        shard: ShardId,
        /// Score terms in the order in which they decide, each greater-is-better.
        terms: Vec<(&'static str, i64)>,
        /// What speaks against the cluster without refusing it.
        warnings: Vec<String>,
    },
    /// It would not: every refusal, not only the first.
    Refuses(Vec<Refusal>),
}

/// The whole story of one decision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// What `place` answers.
    pub decision: Result<Placement, Unplaceable>,
    /// Every cluster, best candidate first, refusals after them by id.
    pub clusters: Vec<(ClusterId, Verdict)>,
}

/// Chooses a cluster and shard. `policy` of the answer is left at its default: the caller knows which one it decides under.
///
/// # Errors
/// [`Unplaceable`] with the counts of refusals by cause.
pub fn place(scratch: &mut Scratch, ledger: &Ledger, residents: &dyn Residents, spec: &TenantSpec) -> Result<Placement, Unplaceable> {
    let neighbours = Neighbours::of(ledger, residents, spec);
    scratch.sync(ledger);
    let standing = scratch.find_standing(spec);
    if neighbours.are_wished_for() || scratch.standing(standing).crowded {
        return place_plainly(ledger, residents, spec);
    }
    scratch.prepare_pods(spec.requests.largest_pod);
    let mut search = Search::new(std::mem::take(&mut scratch.found), scratch, ledger, &neighbours, spec, standing);
    let decision = search.next_best().map(|winner| placement(ledger, &winner, search.next_best().as_ref()));
    scratch.found = search.found;
    decision.ok_or_else(|| why_not::why_not(ledger, &neighbours, spec, scratch.standing(standing), scratch.pods(spec.requests.largest_pod)))
}

/// The candidates for one tenant, best first, found pool by pool.
struct Search<'a, 'n> {
    ledger: &'a Ledger,
    neighbours: &'a Neighbours<'n>,
    wanted: [u64; RESOURCE_COUNT],
    steps: [u16; COLUMN_COUNT],
    standing: &'a Standing,
    nodes: &'a Ranks,
    /// Blocks that have been scanned, of the standing's live ones.
    scanned: usize,
    found: Found,
}

impl<'a, 'n> Search<'a, 'n> {
    fn new(
        mut found: Found,
        scratch: &'a Scratch,
        ledger: &'a Ledger,
        neighbours: &'a Neighbours<'n>,
        spec: &TenantSpec,
        standing: usize,
    ) -> Self {
        let wanted = spec.requests.total.to_array();
        let (standing, nodes) = (scratch.standing(standing), scratch.pods(spec.requests.largest_pod));
        found.clear();
        Self { ledger, neighbours, wanted, steps: wanted_steps(wanted), standing, nodes, scanned: 0, found }
    }

    /// The next best candidate that holds up to an exact check.
    fn next_best(&mut self) -> Option<Candidate> {
        loop {
            match self.found.pop(self.ledger.layout()) {
                Some((rank, key, row)) => {
                    if let Some(candidate) = self.judge(rank, key, ClusterId(row)) {
                        return Some(candidate);
                    }
                }
                None if self.scan_pool() => {}
                None => return None,
            }
        }
    }

    /// Scans the next pool; false if there is none.
    fn scan_pool(&mut self) -> bool {
        self.found.clear();
        let (live, blocks) = (self.standing.live(), self.ledger.blocks());
        let Some((pool, _)) = live.get(self.scanned) else { return false };
        for (_, number) in live[self.scanned..].iter().take_while(|(other, _)| other == pool) {
            let block = &blocks[*number];
            if block.may_have(&self.steps) {
                self.found.add(*number, block, &self.steps, &self.standing.ranks()[*number], &self.nodes[*number]);
            }
            self.scanned += 1;
        }
        true
    }

    fn judge(&self, rank: u16, key: u16, cluster: ClusterId) -> Option<Candidate> {
        let site = self.ledger.site(cluster)?;
        if !self.ledger.has_room(self.wanted, cluster, site) || !self.neighbours.admits_cluster(site, cluster) {
            return None;
        }
        let (shard, _) = choose_shard(self.ledger, self.neighbours, cluster, site)?;
        let [pool, taints, preferences] = self.standing.terms(rank);
        let score = Score([pool, taints, preferences, node_of(rank), share_of_key(key, site.policy)]);
        Some(Candidate { cluster, shard, score })
    }
}

/// Decides by judging one cluster after the other: for what the scan cannot rank.
fn place_plainly(ledger: &Ledger, residents: &dyn Residents, spec: &TenantSpec) -> Result<Placement, Unplaceable> {
    let (fits, refuses) = judge_all(ledger, residents, spec);
    decide(ledger, &fits, &refuses)
}

/// Tells the whole story; its decision is `place`'s.
#[must_use]
pub fn explain(ledger: &Ledger, residents: &dyn Residents, spec: &TenantSpec) -> Explanation {
    let (mut fits, refuses) = judge_all(ledger, residents, spec);
    fits.sort_unstable_by_key(|candidate| std::cmp::Reverse(candidate.key()));
    let decision = decide(ledger, &fits, &refuses);
    let mut clusters: Vec<_> = fits.into_iter().map(|candidate| (candidate.cluster, fits_verdict(ledger, spec, candidate))).collect();
    clusters.extend(refuses.into_iter().map(|(cluster, refusals)| (cluster, Verdict::Refuses(refusals))));
    Explanation { decision, clusters }
}

type Refusing = Vec<(ClusterId, Vec<Refusal>)>;

fn judge_all(ledger: &Ledger, residents: &dyn Residents, spec: &TenantSpec) -> (Vec<Candidate>, Refusing) {
    let (neighbours, pools) = (Neighbours::of(ledger, residents, spec), pools(ledger));
    let (mut fits, mut refuses) = (Vec::new(), Vec::new());
    for (cluster, site) in ledger.sites() {
        match judge(ledger, &neighbours, &pools, spec, cluster, site) {
            Ok(candidate) => fits.push(candidate),
            Err(refusals) => refuses.push((cluster, refusals)),
        }
    }
    (fits, refuses)
}

fn decide(ledger: &Ledger, fits: &[Candidate], refuses: &Refusing) -> Result<Placement, Unplaceable> {
    let Some(winner) = fits.iter().max_by_key(|candidate| candidate.key()) else {
        let mut tally = Tally::default();
        refuses.iter().for_each(|(cluster, refusals)| tally.add_cluster(*cluster, refusals));
        return Err(Unplaceable { reason: tally.into_reason().encode() });
    };
    let runner_up = fits.iter().filter(|candidate| candidate.cluster != winner.cluster).max_by_key(|candidate| candidate.key());
    Ok(placement(ledger, winner, runner_up))
}

fn placement(ledger: &Ledger, winner: &Candidate, runner_up: Option<&Candidate>) -> Placement {
    Placement {
        cluster: winner.cluster,
        shard: winner.shard,
        reason: Reason::placed(ledger.cluster_count(), winner, runner_up).encode(),
        policy: Revision::default(),
        cluster_changed: ledger.cluster_changed(winner.cluster),
    }
}

fn fits_verdict(ledger: &Ledger, spec: &TenantSpec, candidate: Candidate) -> Verdict {
    let terms = Score::NAMES.into_iter().zip(candidate.score.0).collect();
    let mut warnings = Vec::new();
    if let Some(site) = ledger.site(candidate.cluster) {
        let taints = site.untolerated(spec, TaintEffect::PreferNoSchedule);
        warnings.extend(taints.map(|taint| format!("does not tolerate {}", taint_text(taint))));
        if !site.has_room_for_pod(spec.requests.largest_pod) {
            warnings.push("no node has room for the largest pod at the moment".to_owned());
        }
    }
    Verdict::Fits { shard: candidate.shard, terms, warnings }
}
