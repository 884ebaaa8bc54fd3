//! Snapshots on their way from one replica to another: in pieces, and resumed where a broken connection left off.

use std::sync::mpsc::Sender;
use std::time::Duration;

use futures::Stream;
use roadstead_api::internal::{FetchSnapshotRequest, FetchSnapshotResponse};
use roadstead_consensus::member::MemberId;
use tonic::Status;
use tracing::{info, warn};

use super::{Myself, connect};
use crate::driver::message::ToDriver;
use crate::snapshots::{Fetch, Snapshot, SnapshotError, SnapshotId, Snapshots};
use crate::tls::Tls;

/// Bytes of one piece: large enough that the cost of a message does not count, small enough for the stream's window.
const PIECE_BYTES: usize = 1 << 20;
/// How often a broken transfer is resumed before the leader is asked for another snapshot.
const MAX_ATTEMPTS: usize = 20;
/// Rest before a broken transfer is resumed.
const PAUSE: Duration = Duration::from_millis(250);
/// How long a piece may take.
const PIECE_TIMEOUT: Duration = Duration::from_secs(10);

/// Where to fetch what from.
#[derive(Debug)]
pub(super) struct Source {
    pub(super) address: Option<String>,
    pub(super) me: Myself,
    pub(super) tls: Tls,
    pub(super) term: u64,
    pub(super) index: u64,
}

/// Fetches a snapshot; what the driver is to be told.
pub(super) async fn fetch(source: Source, snapshots: Snapshots) -> ToDriver {
    let (term, index) = (source.term, source.index);
    match fetch_whole(&source, snapshots).await {
        Ok(snapshot) => {
            ToDriver::SnapshotInstalled { term, index, membership: snapshot.header.membership, state: Box::new(snapshot.state) }
        }
        Err(why) => {
            warn!(term, index, why, "failed to fetch a snapshot; the leader will send another");
            ToDriver::SnapshotFailed { term, index }
        }
    }
}

async fn fetch_whole(source: &Source, snapshots: Snapshots) -> Result<Snapshot, String> {
    let id = SnapshotId { index: source.index, term: source.term };
    let address = source.address.as_deref().ok_or("the leader's address is not known yet")?;
    let mut fetch = snapshots.fetch(id).map_err(|error| error.to_string())?;
    let mut attempt = 1;
    loop {
        match fetch_rest(source, address, &mut fetch).await {
            Ok(()) => break,
            Err(Broken::ForGood(why)) => return Err(why),
            Err(Broken::ForNow(why)) if attempt == MAX_ATTEMPTS => return Err(why),
            Err(Broken::ForNow(why)) => {
                info!(attempt, why, received = fetch.received(), "a snapshot's transfer broke; resuming it");
                attempt += 1;
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
    // Syncs and decodes: up to seconds for a million tenants.
    let finished = tokio::task::spawn_blocking(move || fetch.finish()).await;
    finished.map_err(|error| error.to_string())?.map_err(|error| error.to_string())
}

/// How a transfer broke.
enum Broken {
    ForNow(String),
    ForGood(String),
}

impl From<Status> for Broken {
    fn from(status: Status) -> Self {
        let why = format!("{}: {}", status.code(), status.message());
        match status.code() {
            tonic::Code::NotFound | tonic::Code::FailedPrecondition | tonic::Code::PermissionDenied => Self::ForGood(why),
            _ => Self::ForNow(why),
        }
    }
}

async fn fetch_rest(source: &Source, address: &str, fetch: &mut Fetch) -> Result<(), Broken> {
    let mut client = connect::connect(&source.tls, address).await.map_err(Broken::ForNow)?;
    let request = FetchSnapshotRequest {
        group_id: source.me.group.clone(),
        term: source.term,
        index: source.index,
        offset: fetch.received(),
        from: source.me.id.0,
    };
    let mut pieces = client.fetch_snapshot(request).await?.into_inner();
    loop {
        let piece = tokio::time::timeout(PIECE_TIMEOUT, pieces.message()).await;
        let piece = piece.map_err(|_| Broken::ForNow("no piece came in time".to_owned()))??;
        let Some(piece) = piece else { return Err(Broken::ForNow("the stream ended early".to_owned())) };
        fetch.push(&piece.chunk).map_err(|error| Broken::ForGood(error.to_string()))?;
        if fetch.received() >= piece.total_bytes {
            // Read to its end, so that the other side knows that all has arrived.
            let _ = pieces.message().await;
            return Ok(());
        }
    }
}

/// The pieces of a snapshot from an offset; the driver is told when the last one was taken.
pub(super) async fn serve(
    request: FetchSnapshotRequest,
    snapshots: Snapshots,
    driver: Sender<ToDriver>,
) -> Result<impl Stream<Item = Result<FetchSnapshotResponse, Status>> + Send + 'static, Status> {
    let (to, id) = (MemberId(request.from), SnapshotId { index: request.index, term: request.term });
    let served = match snapshots.serve(id) {
        Ok(served) => served,
        Err(error) => {
            // The driver may have stopped.
            let _ = driver.send(ToDriver::SnapshotDelivered { to, ok: false });
            return Err(to_status(&error));
        }
    };
    info!(%to, index = id.index, offset = request.offset, bytes = served.total_bytes(), "a peer fetches a snapshot");
    Ok(futures::stream::unfold((served, request.offset), move |(served, offset)| {
        let total_bytes = served.total_bytes();
        let next = if offset >= total_bytes {
            // The driver may have stopped.
            let _ = driver.send(ToDriver::SnapshotDelivered { to, ok: true });
            None
        } else {
            Some(match served.range(offset, PIECE_BYTES) {
                Ok(chunk) => {
                    let next = offset + chunk.len() as u64;
                    (Ok(FetchSnapshotResponse { chunk: chunk.into(), total_bytes }), (served, next))
                }
                Err(error) => (Err(to_status(&error)), (served, total_bytes)),
            })
        };
        std::future::ready(next)
    }))
}

fn to_status(error: &SnapshotError) -> Status {
    match error {
        SnapshotError::Gone { .. } => Status::not_found(error.to_string()),
        SnapshotError::Full { .. }
        | SnapshotError::Damaged { .. }
        | SnapshotError::OtherGroup { .. }
        | SnapshotError::Unusable { .. }
        | SnapshotError::Io { .. } => Status::internal(error.to_string()),
    }
}
