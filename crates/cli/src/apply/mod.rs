//! From documents to calls: what a document would change, and changing it. Used by `apply`, `diff`, `dev` and `demo`.
//!
//! Each document is compared with what the server has and sent only if it differs, so that applying twice changes nothing.

pub mod change;
pub mod put;

pub use change::{Change, Difference, check_not_deleted, model_uid};

use futures::StreamExt;

use crate::client::Client;
use crate::document::files::{Known, Loaded, declared};
use crate::document::{Document, Kind, Spec};
use crate::failure::{Exit, Failure};

/// Documents of one kind that are on their way at a time: enough to fill the leader's batches, few enough to be polite.
const CONCURRENCY: usize = 128;

/// How to apply.
#[derive(Clone, Copy, Debug, Default)]
pub struct Mode {
    /// Ask the server to decide, but change nothing.
    pub dry_run: bool,
    /// Refuse a tenant for which there is no room instead of letting it wait.
    pub no_wait: bool,
    /// Do not report what documents say of model clusters: they have agents that do.
    pub leave_facts: bool,
}

/// What became of one document.
#[derive(Debug)]
pub struct Done {
    /// As in `tenant/acme`.
    pub identity: String,
    /// What was changed, and a detail worth telling.
    pub result: Result<(Difference, String), Failure>,
}

/// Applies documents that were loaded and checked, kind after kind; tells of each as it is done, in the order of the documents.
///
/// # Errors
/// In a dry run, the listings' failure; every document's own is told.
pub async fn apply_all(client: &Client, loaded: &[Loaded], mode: Mode, mut tell: impl FnMut(Done)) -> Result<(), Failure> {
    let known = if mode.dry_run { client.known_if_allowed().await? } else { None };
    let missing = known.map_or_else(Known::default, |known| missing(loaded, &known));
    for kind in Kind::ALL {
        let of_kind = loaded.iter().filter(|item| item.document.spec.kind() == kind);
        let mut running = futures::stream::iter(of_kind.map(|item| apply_one(client, item, mode, &missing))).buffered(CONCURRENCY);
        while let Some(done) = running.next().await {
            tell(done);
        }
    }
    Ok(())
}

async fn apply_one(client: &Client, item: &Loaded, mode: Mode, missing: &Known) -> Done {
    let identity = item.document.identity();
    let result = async {
        let mut change = Change::compute(client, &item.document).await?;
        change.report.take_if(|_| mode.leave_facts);
        let difference = change.difference();
        if difference == Difference::Unchanged {
            return Ok((difference, String::new()));
        }
        if refers_to(&item.document, missing) {
            return Ok((difference, "not asked of the server: it refers to what this input would create".to_owned()));
        }
        let detail = put::put(client, &change, mode).await?;
        Ok((difference, detail))
    };
    Done {
        identity,
        result: result
            .await
            .map_err(|failure: Failure| if failure.exit == Exit::Unavailable { failure } else { failure.at(&item.place()) }),
    }
}

/// What the input would create: the server cannot judge what refers to it.
fn missing(loaded: &[Loaded], known: &Known) -> Known {
    let here = declared(loaded);
    let classes = here.classes.into_iter().filter(|(class, _)| !known.classes.contains_key(class)).collect();
    Known { pools: &here.pools - &known.pools, classes, clusters: &here.clusters - &known.clusters }
}

fn refers_to(document: &Document, missing: &Known) -> bool {
    match &document.spec {
        Spec::Cluster(cluster) => missing.pools.contains(&cluster.pool.0),
        Spec::Tenant(tenant) => tenant.class.parse().is_ok_and(|class| missing.classes.contains_key(&class)),
        Spec::Policy(_) | Spec::Pool(_) | Spec::Class(_) => false,
    }
}
