//! The network between replicas, and between clients and replicas: delay, loss, duplication, reordering, cuts in either direction.

use std::collections::BTreeSet;

use crate::chance::Chance;
use crate::temper::Temper;

/// A time in microseconds since the simulation began.
pub type Micros = u64;

/// The network. Ends are numbers of machines.
#[derive(Debug)]
pub struct Net {
    chance: Chance,
    loss_ppm: u64,
    duplicate_ppm: u64,
    slow_ppm: u64,
    base_us: u64,
    /// Directed links that carry nothing.
    cut: BTreeSet<(usize, usize)>,
}

impl Net {
    /// A network of this temper.
    #[must_use]
    pub fn new(temper: &Temper, chance: Chance) -> Self {
        let Temper { loss_ppm, duplicate_ppm, slow_ppm, base_us, .. } = *temper;
        Self { chance, loss_ppm, duplicate_ppm, slow_ppm, base_us, cut: BTreeSet::new() }
    }

    /// When copies of a message arrive; none if it is lost.
    pub fn carry(&mut self, now: Micros, from: usize, to: usize) -> Vec<Micros> {
        if self.cut.contains(&(from, to)) || self.chance.ppm(self.loss_ppm) {
            return Vec::new();
        }
        let mut arrivals = vec![now + self.delay()];
        if self.chance.ppm(self.duplicate_ppm) {
            arrivals.push(now + self.delay() * 3);
        }
        arrivals
    }

    /// The delay of one message; now and then one is overtaken by many others.
    pub fn delay(&mut self) -> Micros {
        let slow = if self.chance.ppm(self.slow_ppm) { 50 } else { 1 };
        self.chance.between(self.base_us / 2, self.base_us * 3) * slow
    }

    /// Whether a link carries anything.
    #[must_use]
    pub fn is_cut(&self, from: usize, to: usize) -> bool {
        self.cut.contains(&(from, to))
    }

    /// Cuts off a set of machines from the others: both ways, or only what they say, or only what they hear.
    pub fn cut_off(&mut self, some: &BTreeSet<usize>, machines: usize, hear: bool, say: bool) {
        for inside in some {
            for outside in (0..machines).filter(|outside| !some.contains(outside)) {
                if say {
                    self.cut.insert((*inside, outside));
                }
                if hear {
                    self.cut.insert((outside, *inside));
                }
            }
        }
    }

    /// Every link works again.
    pub fn heal(&mut self) {
        self.cut.clear();
    }

    /// From now on nothing is lost or late.
    pub fn calm(&mut self) {
        self.heal();
        (self.loss_ppm, self.duplicate_ppm, self.slow_ppm) = (0, 0, 0);
    }
}
