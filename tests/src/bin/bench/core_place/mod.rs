//! `core-place`: decisions of the scheduler a second, on one core.
//!
//! 1,000 clusters in 48 regions, one in ten tainted; the fleet is held at 50, 90 and 99 % by one release for each placement.
//! What is measured is what a leader does for one tenant: give the released one's room back, place, take. Drawing tenants and
//! keeping the reference's books is not measured. Time is the thread's own on its core, so that what else runs on the machine is
//! not measured either; the rate on the wall is printed beside it. One decision of a hundred is compared with the reference.
//!
//! Peer: Karmada's in-memory scheduler at 1,000 clusters, 62 to 97 placements/s on 2 cores (public figures; not run here).

mod fleet;
mod reference;

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use roadstead_core::id::{ClusterId, ShardId};
use roadstead_core::ledger::{Ledger, Share};
use roadstead_core::schedule::{self, Scratch};
use roadstead_core::tenant::TenantSpec;
use serde_json::json;

use self::fleet::Tenants;
use self::reference::Books;
use crate::chance::Chance;
use crate::report::{Check, Report};

const SEED: u64 = 42;
/// The bar, in placements a second.
const BAR: f64 = 500_000.0;
/// Karmada at 1,000 clusters, the better of what was seen.
const PEER: f64 = 97.0;
/// How full the fleet is held, in percent.
const FILLS: [u32; 3] = [50, 90, 99];
/// Rounds at each fill, and placements in each: 990 measured together, 10 compared with the reference.
const ROUNDS: usize = 300;
const MEASURED: usize = 990;
const COMPARED: usize = 10;

struct Resident {
    spec: TenantSpec,
    cluster: ClusterId,
    shard: ShardId,
}

struct Bench {
    ledger: Ledger,
    scratch: Scratch,
    books: Books,
    tenants: Tenants,
    chance: Chance,
    residents: Vec<Resident>,
}

/// What was seen at one fill.
#[derive(Default)]
struct Seen {
    placed: usize,
    refused: usize,
    /// On the wall, and on the core.
    took: Duration,
    spent: Duration,
    compared: usize,
    different: usize,
    reached: f64,
}

impl Seen {
    /// Placements for each second that the thread was on a core.
    fn rate(&self) -> f64 {
        self.placed as f64 / self.spent.as_secs_f64()
    }

    fn rate_on_the_wall(&self) -> f64 {
        self.placed as f64 / self.took.as_secs_f64()
    }
}

/// Runs it.
pub(crate) fn run(arguments: &[String]) -> Result<Report> {
    let rounds = match arguments {
        [] => ROUNDS,
        [option, rounds] if option == "--rounds" => rounds.parse()?,
        _ => bail!("core-place knows --rounds N only"),
    };
    let mut bench = Bench::new();
    let (mut seen, mut crossed) = (Vec::new(), 0);
    for fill in FILLS {
        bench.fill(f64::from(fill) / 100.0);
        let at_fill = bench.hold(rounds);
        crossed += bench.books.crossed();
        eprintln!(
            "{fill} %: {:.0} placements/s of the core ({:.0} on the wall), {} placed, {} refused, {} of {} compared decisions differ, {:.2} % full at the end, {} tenants",
            at_fill.rate(),
            at_fill.rate_on_the_wall(),
            at_fill.placed,
            at_fill.refused,
            at_fill.different,
            at_fill.compared,
            100.0 * at_fill.reached,
            bench.residents.len()
        );
        seen.push(at_fill);
    }
    let value = seen.iter().map(Seen::rate).fold(f64::INFINITY, f64::min);
    let different: usize = seen.iter().map(|seen| seen.different).sum();
    let compared: usize = seen.iter().map(|seen| seen.compared).sum();
    let mut checks: Vec<_> =
        FILLS.iter().zip(&seen).map(|(fill, seen)| Check::at_least(&format!("placements/s at {fill} %"), seen.rate(), BAR)).collect();
    checks.push(Check::at_most("limits crossed", crossed as f64, 0.0));
    checks.push(Check::at_most("decisions that differ from the reference", different as f64, 0.0));
    let fills: Vec<_> = FILLS
        .iter()
        .zip(&seen)
        .map(|(fill, seen)| json!({"fill_percent": fill, "placed": seen.placed, "refused": seen.refused, "reached": seen.reached, "per_wall_second": seen.rate_on_the_wall()}))
        .collect();
    Ok(Report {
        bench: "core-place",
        unit: "placements/s",
        value,
        ratio: value / PEER,
        checks,
        details: json!({
            "cores": 1,
            "clusters": fleet::CLUSTERS,
            "fills": fills,
            "compared": compared,
            "gap": different as f64 / compared as f64,
            "peer": "Karmada's scheduler at 1,000 clusters: 62 to 97/s on 2 cores, from public figures, not run here",
        }),
    })
}

impl Bench {
    fn new() -> Self {
        let mut chance = Chance::new(SEED);
        let (clusters, pools) = (fleet::clusters(&mut chance), fleet::pools());
        let mut ledger = Ledger::default();
        for cluster in &clusters {
            ledger.put_cluster(cluster, pools.iter().find(|pool| pool.spec.name == cluster.spec.pool));
        }
        Self {
            ledger,
            scratch: Scratch::default(),
            books: Books::new(clusters, pools),
            tenants: Tenants::new(chance.clone()),
            chance,
            residents: Vec::new(),
        }
    }

    /// Places tenants until the fleet is this full.
    fn fill(&mut self, fill: f64) {
        while self.books.fill() < fill {
            for _ in 0..100 {
                let spec = self.tenants.draw();
                if let Ok(placement) = schedule::place(&mut self.scratch, &self.ledger, &spec) {
                    self.ledger.take(&spec, Share::Full, placement.cluster, placement.shard);
                    self.books.enter(&spec, placement.cluster.row(), placement.shard.0);
                    self.residents.push(Resident { spec, cluster: placement.cluster, shard: placement.shard });
                }
            }
        }
    }

    /// One release for each placement, for some rounds.
    fn hold(&mut self, rounds: usize) -> Seen {
        let mut seen = Seen::default();
        for _ in 0..rounds {
            self.measure(&mut seen);
            for _ in 0..COMPARED {
                self.compare(&mut seen);
            }
        }
        seen.reached = self.books.fill();
        seen
    }

    fn measure(&mut self, seen: &mut Seen) {
        let leaving: Vec<_> = (0..MEASURED).map(|_| self.release()).collect();
        // Who is refused makes way for the next one; more than this would mean that the fill cannot be held.
        let drawn: Vec<_> = (0..2 * MEASURED).map(|_| self.tenants.draw()).collect();
        let mut coming = drawn.into_iter();
        let mut entered = Vec::with_capacity(MEASURED);
        let (start, spent) = (Instant::now(), cpu_time());
        'leaving: for resident in &leaving {
            self.ledger.give(&resident.spec, Share::Full, resident.cluster, resident.shard);
            for spec in coming.by_ref() {
                match schedule::place(&mut self.scratch, &self.ledger, &spec) {
                    Ok(placement) => {
                        self.ledger.take(&spec, Share::Full, placement.cluster, placement.shard);
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

    fn release(&mut self) -> Resident {
        let position = self.chance.below(self.residents.len());
        self.residents.swap_remove(position)
    }

    /// The same, decided by the reference too.
    fn compare(&mut self, seen: &mut Seen) {
        let resident = self.release();
        self.ledger.give(&resident.spec, Share::Full, resident.cluster, resident.shard);
        self.books.leave(&resident.spec, resident.cluster.row(), resident.shard.0);
        loop {
            let spec = self.tenants.draw();
            let expected = self.books.choose(&spec);
            let placed = schedule::place(&mut self.scratch, &self.ledger, &spec);
            seen.compared += 1;
            let is = placed.as_ref().ok().map(|placement| (placement.cluster.row(), placement.shard.0));
            let differs = is != expected.map(|choice| (choice.cluster, choice.shard));
            if differs && seen.different == 0 {
                eprintln!("first difference: {is:?} against {expected:?} for {spec:?}");
            }
            seen.different += usize::from(differs);
            if let Ok(placement) = placed {
                self.ledger.take(&spec, Share::Full, placement.cluster, placement.shard);
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
