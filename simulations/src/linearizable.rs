//! Linearizability of one register, as Wing and Gong search for it: is there an order of all operations, each at some moment between its
//! call and its answer, in which every read sees the last write?

use std::collections::BTreeSet;

use crate::net::Micros;

/// What an operation did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Wrote a value.
    Write(u64),
    /// Saw a value.
    Read(u64),
}

/// One operation of a client. Values are numbers; 0 is what is there at the beginning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Operation {
    /// When it was called.
    pub called: Micros,
    /// When it was answered; a write without an answer may have happened at any time after its call, or never.
    pub answered: Option<Micros>,
    /// What it did.
    pub effect: Effect,
}

/// Whether a history of at most 128 operations on one register is linearizable.
#[must_use]
pub fn check(history: &[Operation]) -> bool {
    assert!(history.len() <= 128, "done is a set of 128 bits");
    let must: u128 = history.iter().enumerate().filter(|(_, op)| op.answered.is_some()).map(|(at, _)| 1 << at).sum();
    let mut seen = BTreeSet::new();
    let mut open = vec![(0_u128, 0_u64)];
    while let Some((done, value)) = open.pop() {
        if done & must == must {
            return true;
        }
        if !seen.insert((done, value)) {
            continue;
        }
        // Whatever comes next must have been called before every operation that is left was answered.
        let first_answer = history.iter().enumerate().filter(|(at, _)| done & (1 << at) == 0).filter_map(|(_, op)| op.answered).min();
        for (at, op) in history.iter().enumerate() {
            let left = done & (1 << at) == 0;
            if !left || first_answer.is_some_and(|first| op.called > first) {
                continue;
            }
            match op.effect {
                Effect::Write(written) => open.push((done | 1 << at, written)),
                Effect::Read(read) if read == value => open.push((done | 1 << at, value)),
                Effect::Read(_) => {}
            }
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn op(called: Micros, answered: Option<Micros>, effect: Effect) -> Operation {
        Operation { called, answered, effect }
    }

    #[test]
    fn operations_one_after_the_other_are_linearizable_if_reads_see_the_last_write() {
        let read = |seen| [op(0, Some(1), Effect::Write(7)), op(2, Some(3), Effect::Write(8)), op(4, Some(5), Effect::Read(seen))];
        assert!(check(&read(8)));
        assert!(!check(&read(7)));
        assert!(!check(&read(0)));
    }

    #[test]
    fn operations_at_the_same_time_may_come_in_either_order() {
        let reads =
            |first, second| [op(0, Some(9), Effect::Write(7)), op(1, Some(2), Effect::Read(first)), op(3, Some(4), Effect::Read(second))];
        assert!(check(&reads(0, 7)));
        assert!(check(&reads(7, 7)));
        assert!(!check(&reads(7, 0)), "a read must not see what is older than what an earlier one saw");
    }

    #[test]
    fn a_write_without_an_answer_may_have_happened_or_not() {
        let read = |seen| [op(0, Some(1), Effect::Write(7)), op(2, None, Effect::Write(8)), op(5, Some(6), Effect::Read(seen))];
        assert!(check(&read(7)));
        assert!(check(&read(8)));
        assert!(!check(&read(0)));
    }

    #[test]
    fn a_write_that_happened_twice_is_seen() {
        let history = [op(0, Some(1), Effect::Write(7)), op(2, Some(3), Effect::Write(8)), op(4, Some(5), Effect::Read(7))];
        assert!(!check(&history));
    }
}
