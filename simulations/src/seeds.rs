//! Many seeds on all processors.

use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::world::{Planted, Stats, Verdict, World};

/// What came of some seeds.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    /// Seeds that were run.
    pub seeds: u64,
    /// The unsound run with the least seed.
    pub first: Option<Verdict>,
    /// Sums.
    pub stats: Stats,
}

/// Runs one seed.
#[must_use]
pub fn run(seed: u64, planted: Option<Planted>, tell: bool) -> Verdict {
    World::new(seed, planted, tell).run()
}

/// Runs seeds until one is unsound, on all processors. The answer is the same for any number of processors.
///
/// # Panics
/// When a run panics: the message has the seed.
#[must_use]
pub fn search(seeds: Range<u64>, planted: Option<Planted>) -> Summary {
    let next = AtomicU64::new(seeds.start);
    let stop = AtomicU64::new(seeds.end);
    let summary = Mutex::new(Summary::default());
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= stop.load(Ordering::Relaxed) {
                        return;
                    }
                    let verdict = caught(seed, planted);
                    let mut summary = summary.lock().expect("nobody panics with the lock");
                    summary.add(&verdict);
                    if verdict.violation.is_some() {
                        stop.fetch_min(seed, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    summary.into_inner().expect("nobody panics with the lock")
}

/// A run that panics is unsound: the product must not.
fn caught(seed: u64, planted: Option<Planted>) -> Verdict {
    std::panic::catch_unwind(|| run(seed, planted, false)).unwrap_or_else(|panic| {
        let what = panic.downcast_ref::<String>().cloned().or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        let violation = Some(format!("seed {seed}: a replica panicked: {}", what.unwrap_or_default()));
        Verdict { seed, violation, hash: 0, told: Vec::new(), stats: Stats::default() }
    })
}

impl Summary {
    fn add(&mut self, verdict: &Verdict) {
        self.seeds += 1;
        let Stats { events, answers, starts, installs, restores, actions, agreed, .. } = verdict.stats;
        let Stats { silent, returned, beside, older, orphans, running_orphans, .. } = verdict.stats;
        self.stats.events += events;
        self.stats.answers += answers;
        self.stats.starts += starts;
        self.stats.installs += installs;
        self.stats.restores += restores;
        self.stats.actions += actions;
        self.stats.agreed += agreed;
        self.stats.silent += silent;
        self.stats.returned += returned;
        self.stats.beside += beside;
        self.stats.older += older;
        self.stats.orphans += orphans;
        self.stats.running_orphans += running_orphans;
        let earlier = self.first.as_ref().is_none_or(|first| verdict.seed < first.seed);
        if verdict.violation.is_some() && earlier {
            self.first = Some(verdict.clone());
        }
    }
}
