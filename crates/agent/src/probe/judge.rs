//! What follows from the ports that were reached. Policies come into force a while after their pods, and a network fails at times: so one
//! port that was not reached once says nothing.

use roadstead_core::observed::{NetworkPolicies, Upheld};

/// Rounds in a row in which a denied port was not reached, and the open one was: then it is kept from it.
const HOLDS_AFTER: u32 = 3;
/// Rounds in which the open port was reached, after which it is said how things are: time enough for a policy to come into force.
const COUNTED_ROUNDS: u32 = 20;
/// All rounds.
const MAX_ROUNDS: u32 = 45;

/// Which ports one round has reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Reached {
    /// The one that everybody allows.
    pub(super) open: bool,
    /// The one that the listener's policy denies.
    pub(super) no_ingress: bool,
    /// The one that the dialer's policy denies.
    pub(super) no_egress: bool,
}

/// What is known of one of the denied ports.
#[derive(Clone, Copy, Debug, Default)]
struct Denied {
    /// Rounds in a row in which it was not reached.
    without: u32,
    /// The last counted round in which it was.
    reached_at: Option<u32>,
}

impl Denied {
    fn take(&mut self, reached: bool, counted: u32) {
        if reached {
            *self = Self { without: 0, reached_at: Some(counted) };
        } else {
            self.without += 1;
        }
    }

    fn upheld(self, counted: u32) -> Upheld {
        if self.without >= HOLDS_AFTER {
            return Upheld::Yes;
        }
        let was_reached = self.reached_at.is_some_and(|at| counted >= COUNTED_ROUNDS && counted - at < HOLDS_AFTER);
        if was_reached { Upheld::No } else { Upheld::Unknown }
    }
}

/// What was reached so far.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Judge {
    rounds: u32,
    /// Those in which the open port was reached.
    counted: u32,
    ingress: Denied,
    egress: Denied,
}

impl Judge {
    /// Takes a round in; what is found, once that can be said.
    pub(super) fn round(&mut self, reached: Reached) -> Option<NetworkPolicies> {
        self.rounds += 1;
        if reached.open {
            self.counted += 1;
            self.ingress.take(reached.no_ingress, self.counted);
            self.egress.take(reached.no_egress, self.counted);
        } else {
            // The network is not there yet, or not any more: what was not reached before may have been for that.
            (self.ingress.without, self.egress.without) = (0, 0);
        }
        let (ingress, egress) = (self.ingress.upheld(self.counted), self.egress.upheld(self.counted));
        if ingress != Upheld::Unknown && egress != Upheld::Unknown {
            return Some(NetworkPolicies { ingress, egress, why: String::new() });
        }
        (self.rounds >= MAX_ROUNDS).then(|| {
            let why = format!("its pods reached each other in {} of {} tries only, also where that is allowed", self.counted, self.rounds);
            NetworkPolicies { ingress, egress, why }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is found, and after how many rounds.
    fn judged(of: impl Fn(u32) -> Reached) -> (NetworkPolicies, u32) {
        let mut judge = Judge::default();
        (1..).find_map(|round| judge.round(of(round)).map(|found| (found, round))).expect("it ends")
    }

    fn all(round: u32, from: u32) -> Reached {
        Reached { open: true, no_ingress: round < from, no_egress: round < from }
    }

    #[test]
    fn what_is_denied_from_the_beginning_or_soon_after_is_upheld() {
        assert_eq!(judged(|round| all(round, 1)).1, HOLDS_AFTER);
        let (found, rounds) = judged(|round| all(round, 10));
        assert_eq!((found.ingress, found.egress, rounds), (Upheld::Yes, Upheld::Yes, 9 + HOLDS_AFTER));
    }

    #[test]
    fn what_gets_through_is_not_upheld_each_direction_by_itself() {
        let (found, rounds) = judged(|_| Reached { open: true, no_ingress: true, no_egress: true });
        assert_eq!((found.ingress, found.egress, rounds), (Upheld::No, Upheld::No, COUNTED_ROUNDS));
        let (found, _) = judged(|_| Reached { open: true, no_ingress: false, no_egress: true });
        assert_eq!((found.ingress, found.egress), (Upheld::Yes, Upheld::No));
        let (found, _) = judged(|_| Reached { open: true, no_ingress: true, no_egress: false });
        assert_eq!((found.ingress, found.egress), (Upheld::No, Upheld::Yes));
    }

    #[test]
    fn a_network_that_fails_is_no_evidence() {
        let (found, rounds) = judged(|_| Reached { open: false, no_ingress: false, no_egress: false });
        assert_eq!((found.ingress, found.egress, rounds), (Upheld::Unknown, Upheld::Unknown, MAX_ROUNDS));
        assert!(found.why.contains("0 of 45"), "{}", found.why);
        // Gone whenever two rounds in a row have been counted.
        let (found, rounds) = judged(|round| Reached { open: round % 3 != 0, no_ingress: false, no_egress: true });
        assert_eq!((found.ingress, found.egress, rounds), (Upheld::Unknown, Upheld::No, MAX_ROUNDS));
    }

    #[test]
    fn a_port_that_is_reached_now_and_then_is_not_kept_from_anybody() {
        let (found, _) = judged(|round| Reached { open: true, no_ingress: round % 3 == 0, no_egress: false });
        assert_eq!((found.ingress, found.egress), (Upheld::No, Upheld::Yes));
    }
}
