//! The work of `core-place`: a fleet held at a fill by one release for each placement, a part of the decisions compared with the reference.
//!
//! What is measured is what a leader does for one tenant: give the released one's room back, place, take. Drawing tenants and keeping
//! the reference's books is not measured. It knows no report and no bar.

mod fleet;
mod reference;

use std::time::{Duration, Instant};

use roadstead_core::command::Placement;
use roadstead_core::id::{ClusterId, ShardId};
use roadstead_core::ledger::{Arrivals, Ledger, Share};
use roadstead_core::schedule::{self, Scratch};
use roadstead_core::tenant::TenantSpec;

use self::fleet::Tenants;
use self::reference::Books;
use crate::chance::Chance;

pub(crate) use self::fleet::CLUSTERS;

const SEED: u64 = 42;
/// Rounds at each fill, and placements in each: 990 measured together, 10 compared with the reference.
pub(crate) const ROUNDS: usize = 300;
const MEASURED: usize = 990;
const COMPARED: usize = 10;

struct Resident {
    spec: TenantSpec,
    cluster: ClusterId,
    shard: ShardId,
}

/// The fleet, its tenants and the books of the reference.
pub(crate) struct Bench {
    ledger: Ledger,
    /// Who is where, as the state knows it.
    present: Arrivals,
    scratch: Scratch,
    books: Books,
    tenants: Tenants,
    chance: Chance,
    residents: Vec<Resident>,
}

/// What was seen at one fill.
#[derive(Default)]
pub(crate) struct Seen {
    pub(crate) placed: usize,
    pub(crate) refused: usize,
    /// On the wall, and on the core.
    took: Duration,
    spent: Duration,
    pub(crate) compared: usize,
    pub(crate) different: usize,
    pub(crate) reached: f64,
    pub(crate) tenants: usize,
}

impl Seen {
    /// Placements for each second that the thread was on a core.
    pub(crate) fn rate(&self) -> f64 {
        self.placed as f64 / self.spent.as_secs_f64()
    }

    pub(crate) fn rate_on_the_wall(&self) -> f64 {
        self.placed as f64 / self.took.as_secs_f64()
    }
}

impl std::fmt::Display for Seen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{:.0} placements/s of the core ({:.0} on the wall), {} placed, {} refused, {} of {} compared decisions differ, {:.2} % full at the end, {} tenants",
            self.rate(),
            self.rate_on_the_wall(),
            self.placed,
            self.refused,
            self.different,
            self.compared,
            100.0 * self.reached,
            self.tenants
        )
    }
}

impl Bench {
    pub(crate) fn new() -> Self {
        let mut chance = Chance::new(SEED);
        let (clusters, pools) = (fleet::clusters(&mut chance), fleet::pools());
        let mut ledger = Ledger::default();
        for cluster in &clusters {
            ledger.put_cluster(cluster, pools.iter().find(|pool| pool.spec.name == cluster.spec.pool));
        }
        Self {
            ledger,
            present: Arrivals::default(),
            scratch: Scratch::default(),
            books: Books::new(clusters, pools),
            tenants: Tenants::new(chance.clone()),
            chance,
            residents: Vec::new(),
        }
    }

    /// Places tenants until the fleet is this full.
    pub(crate) fn fill(&mut self, fill: f64) {
        while self.books.fill() < fill {
            for _ in 0..100 {
                let spec = self.tenants.draw();
                if let Ok(placement) = schedule::place(&mut self.scratch, &self.ledger, &self.present, &spec) {
                    self.take(&spec, &placement);
                    self.books.enter(&spec, placement.cluster.row(), placement.shard.0);
                    self.residents.push(Resident { spec, cluster: placement.cluster, shard: placement.shard });
                }
            }
        }
    }

    /// One release for each placement, for some rounds.
    pub(crate) fn hold(&mut self, rounds: usize) -> Seen {
        let mut seen = Seen::default();
        for _ in 0..rounds {
            self.measure(&mut seen);
            for _ in 0..COMPARED {
                self.compare(&mut seen);
            }
        }
        seen.reached = self.books.fill();
        seen.tenants = self.residents.len();
        seen
    }

    /// Limits that are crossed now.
    pub(crate) fn crossed(&self) -> usize {
        self.books.crossed()
    }

    fn measure(&mut self, seen: &mut Seen) {
        let leaving: Vec<_> = (0..MEASURED).map(|_| self.release()).collect();
        // Who is refused makes way for the next one; more than this would mean that the fill cannot be held.
        let drawn: Vec<_> = (0..2 * MEASURED).map(|_| self.tenants.draw()).collect();
        let mut coming = drawn.into_iter();
        let mut entered = Vec::with_capacity(MEASURED);
        let (start, spent) = (Instant::now(), cpu_time());
        'leaving: for resident in &leaving {
            self.give(resident);
            for spec in coming.by_ref() {
                match schedule::place(&mut self.scratch, &self.ledger, &self.present, &spec) {
                    Ok(placement) => {
                        self.take(&spec, &placement);
                        entered.push((spec, placement));
                        continue 'leaving;
                    }
                    Err(_) => seen.refused += 1,
                }
            }
        }
        seen.spent += cpu_time() - spent;
        seen.took += start.elapsed();
        seen.placed += entered.len();
        for resident in leaving {
            self.books.leave(&resident.spec, resident.cluster.row(), resident.shard.0);
        }
        for (spec, placement) in entered {
            self.books.enter(&spec, placement.cluster.row(), placement.shard.0);
            self.residents.push(Resident { spec, cluster: placement.cluster, shard: placement.shard });
        }
    }

    fn take(&mut self, spec: &TenantSpec, placement: &Placement) {
        self.ledger.take(spec, Share::Full, placement.cluster, placement.shard);
        self.present.add(&spec.name, placement.cluster, placement.shard);
    }

    fn give(&mut self, resident: &Resident) {
        self.ledger.give(&resident.spec, Share::Full, resident.cluster, resident.shard);
        self.present.remove(&resident.spec.name, resident.cluster, resident.shard);
    }

    fn release(&mut self) -> Resident {
        let position = self.chance.below(self.residents.len());
        self.residents.swap_remove(position)
    }

    /// The same, decided by the reference too.
    fn compare(&mut self, seen: &mut Seen) {
        let resident = self.release();
        self.give(&resident);
        self.books.leave(&resident.spec, resident.cluster.row(), resident.shard.0);
        loop {
            let spec = self.tenants.draw();
            let expected = self.books.choose(&spec);
            let placed = schedule::place(&mut self.scratch, &self.ledger, &self.present, &spec);
            seen.compared += 1;
            let is = placed.as_ref().ok().map(|placement| (placement.cluster.row(), placement.shard.0));
            let differs = is != expected.map(|choice| (choice.cluster, choice.shard));
            if differs && seen.different == 0 {
                eprintln!("first difference: {is:?} against {expected:?} for {spec:?}");
            }
            seen.different += usize::from(differs);
            if let Ok(placement) = placed {
                self.take(&spec, &placement);
                self.books.enter(&spec, placement.cluster.row(), placement.shard.0);
                self.residents.push(Resident { spec, cluster: placement.cluster, shard: placement.shard });
                return;
            }
        }
    }
}

/// How long this thread has been on a core.
fn cpu_time() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").expect("Linux says how long a thread has run");
    let nanoseconds = text.split_whitespace().next().and_then(|first| first.parse().ok()).expect("its first number is nanoseconds");
    Duration::from_nanos(nanoseconds)
}
