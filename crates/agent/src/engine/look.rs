//! Looking at many tenants at once: what is compared is in memory, so that it takes processors and nothing else.

use std::collections::BTreeMap;
use std::num::NonZero;
use std::thread;

use roadstead_core::id::TenantId;
use roadstead_core::reconcile::TenantSeen;
use tokio::runtime::Handle;

use crate::interpreter::{Failed, Interpreter, Job};

/// From so many on it is shared out: fewer are looked at sooner than a thread is started.
const SHARED_FROM: usize = 256;
/// Threads at most: an agent is a guest among others.
const MAX_THREADS: usize = 4;

/// What is there of each.
pub(super) type Looked = Vec<(TenantId, Result<TenantSeen, Failed>)>;

/// Looks at those of the tenants that there is a job for, in their order.
pub(super) fn look_at<I: Interpreter>(interpreter: &I, jobs: &BTreeMap<TenantId, Job>, tenants: &[TenantId]) -> Looked {
    let look = |tenants: &[TenantId]| -> Looked { tenants.iter().filter_map(|id| Some((*id, interpreter.seen(jobs.get(id)?)))).collect() };
    let threads = thread::available_parallelism().map_or(1, NonZero::get).min(MAX_THREADS);
    if tenants.len() < SHARED_FROM || threads == 1 {
        return look(tenants);
    }
    // An interpreter may start a watch of a kind that it meets for the first time.
    let runtime = Handle::current();
    let look_there = &|tenants: &[TenantId]| {
        let _in_runtime = runtime.enter();
        look(tenants)
    };
    thread::scope(|scope| {
        let (own, others) = tenants.split_at(tenants.len().div_ceil(threads));
        let others: Vec<_> = others.chunks(own.len()).map(|part| scope.spawn(move || look_there(part))).collect();
        let mut looked = look(own);
        for other in others {
            looked.extend(other.join().expect("looking does not panic"));
        }
        looked
    })
}
