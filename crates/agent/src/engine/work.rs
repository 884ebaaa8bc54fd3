//! Work on one tenant, beside the loop: actions one after the other. It does not know which come next, nor of any other tenant.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use roadstead_core::id::{ShardId, TenantId};
use roadstead_core::reconcile::Action;
use tracing::info;

use crate::interpreter::{Failed, Interpreter, Job};

/// A tenant that is worked on; its worker has a copy.
#[derive(Clone, Debug)]
pub(crate) struct Busy {
    pub(crate) shard: ShardId,
    /// Whether it was there before.
    pub(crate) is_change: bool,
    outdated: Arc<AtomicBool>,
}

/// How work on a tenant ended, where nothing failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// All was carried out.
    Whole,
    /// Something else was wanted: the rest was left.
    Outdated,
}

impl Busy {
    pub(crate) fn new(shard: ShardId, is_change: bool) -> Self {
        Self { shard, is_change, outdated: Arc::default() }
    }

    /// Something else is wanted of it: what was begun is carried to its end, and nothing more is begun.
    pub(crate) fn outdate(&self) {
        self.outdated.store(true, Ordering::Relaxed);
    }
}

/// Carries actions out, one after the other, for as long as they are what is wanted.
pub(crate) async fn carry_out<I: Interpreter>(
    interpreter: I,
    job: Job,
    actions: Vec<Action>,
    busy: Busy,
) -> (TenantId, Result<Ended, Failed>) {
    for action in actions {
        if busy.outdated.load(Ordering::Relaxed) {
            return (job.intent.id, Ok(Ended::Outdated));
        }
        info!(tenant = %job.intent.name, id = %job.intent.id, ?action, "carried out");
        if let Err(failed) = interpreter.act(&job, &action).await {
            return (job.intent.id, Err(failed));
        }
    }
    (job.intent.id, Ok(Ended::Whole))
}
