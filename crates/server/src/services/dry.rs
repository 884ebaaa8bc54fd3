//! What a request would do: decided and applied on a frozen copy, by the same code that does it.

use roadstead_core::apply;
use roadstead_core::command::{Batch, Done, Envelope, Outcome, Rejection};
use roadstead_core::decide::{Decision, Working};
use roadstead_core::request::{Ask, Principal, Request};
use roadstead_core::state::State;

/// The outcome of a request on a copy of a state, and that copy afterwards.
///
/// # Errors
/// What the request would be refused with.
pub fn run(state: &State, principal: &Principal, ask: Ask) -> Result<(Done, State), Rejection> {
    let mut copy = state.clone();
    let request = Request { principal: principal.clone(), retry: None, ask };
    let now = copy.time();
    let outcome = match Working::new(&copy).decide(&copy, &request, now)? {
        Decision::Answer(outcome) => outcome,
        Decision::Propose(command) => {
            let envelope = Envelope { principal: principal.clone(), retry: None, command };
            let batch = Batch { level: copy.level(), time: now, commands: vec![envelope] };
            let index = copy.revision().index + 1;
            let applied = apply::apply(&mut copy, index, &batch);
            let none = || Rejection::Broken { what: "a command has no outcome".to_owned() };
            applied.outcomes.into_iter().next().ok_or_else(none)?
        }
    };
    match outcome {
        Outcome::Done(done) => Ok((done, copy)),
        Outcome::Rejected(rejection) => Err(rejection),
    }
}
