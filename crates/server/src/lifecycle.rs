//! A replica's data folder: how it begins, and what it must look like for a replica to start from it.
//!
//! `identity.json` is written last, so that a folder without it is one that was never finished. What is damaged is refused with words that
//! say what to do; nothing is mended in silence.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use roadstead_consensus::door::{HardState, LogWrite, Restored};
use roadstead_consensus::member::{GroupId, MemberId, MemberInfo};
use roadstead_consensus::recover::force_single;
use roadstead_core::command::{FIRST_LEVEL, SUPPORTED_LEVEL};
use roadstead_core::time::Timestamp;
use serde::{Deserialize, Serialize};
use tracing::{info, warn};

use crate::backup;
use crate::driver::message::{format_group, parse_group};
use crate::log::{self, Backend, Log, LogError};
use crate::peers::service::{self, NotLetIn};
use crate::snapshots::{SnapshotError, Snapshots};
use crate::tls::Tls;

/// The file that says which replica a folder is.
const IDENTITY_FILE: &str = "identity.json";
/// The folder of the log.
const LOG_FOLDER: &str = "log";
/// The folder of snapshots.
const SNAPSHOTS_FOLDER: &str = "snapshots";
/// The format of [`IDENTITY_FILE`].
const FORMAT: u32 = 1;

/// Which replica a data folder is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Format of this file.
    pub format: u32,
    /// The group; absent until a member has let this one in.
    pub group: Option<String>,
    /// This member, as it is written: 16 hexadecimal digits.
    pub member: String,
    /// Where peers reach it.
    pub peer_address: String,
    /// Where clients reach it.
    pub client_address: String,
    /// What keeps the log.
    pub log_backend: Backend,
}

impl Identity {
    /// This member's id.
    #[must_use]
    pub fn id(&self) -> Option<MemberId> {
        u64::from_str_radix(&self.member, 16).ok().map(MemberId)
    }
}

/// Why a data folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LifecycleError {
    /// There is a replica already.
    #[error("{path} holds a replica already: start it without init or join, or choose another folder")]
    Exists {
        /// The folder.
        path: PathBuf,
    },
    /// There is no replica.
    #[error("{path} holds no replica: make one with init (the first of a group) or join (all others)")]
    Absent {
        /// The folder.
        path: PathBuf,
    },
    /// It was never let into a group.
    #[error("{path}: this replica asked to join a group and was not let in yet: run join again")]
    NotJoined {
        /// The folder.
        path: PathBuf,
    },
    /// The identity cannot be understood.
    #[error("{path} is damaged ({what}): do not start this replica from it; remove the data folder, and join it again as a new member")]
    Identity {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// The log is gone.
    #[error("{path} is gone: this replica has lost its log; remove the data folder, join it again as a new member, and remove the old one")]
    LogLost {
        /// The log's folder.
        path: PathBuf,
    },
    /// The log cannot be used.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The snapshots cannot be used.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// A member did not let it in.
    #[error("{via} did not let this replica in: {why}")]
    Refused {
        /// Who was asked.
        via: String,
        /// Why.
        why: String,
    },
    /// Replicas do not speak to each other at that address.
    #[error("{via} is a client address: a replica is let in at the peer address of another")]
    ForClients {
        /// Who was asked.
        via: String,
    },
    /// What it holds does not make a group.
    #[error("{path} cannot be recovered: {why}")]
    Unrecoverable {
        /// The folder.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// The file system failed.
    #[error("failed to {action} {path}: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        source: std::io::Error,
    },
}

/// Whether a folder holds a replica.
#[must_use]
pub fn exists(data: &Path) -> bool {
    data.join(IDENTITY_FILE).exists()
}

/// Reads which replica a folder is.
///
/// # Errors
/// [`LifecycleError::Absent`], or [`LifecycleError::Identity`] if it cannot be understood.
pub fn identity(data: &Path) -> Result<Identity, LifecycleError> {
    let path = data.join(IDENTITY_FILE);
    let text = match std::fs::read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Err(LifecycleError::Absent { path: data.to_owned() }),
        Err(source) => return Err(LifecycleError::Io { action: "read", path, source }),
    };
    let damaged = |what: String| LifecycleError::Identity { path: path.clone(), what };
    let identity: Identity = serde_json::from_slice(&text).map_err(|error| damaged(error.to_string()))?;
    if identity.format != FORMAT {
        return Err(damaged(format!("format {} is not known to this build", identity.format)));
    }
    if identity.id().is_none() {
        return Err(damaged(format!("{:?} is no member id", identity.member)));
    }
    Ok(identity)
}

/// Makes the first replica of a new group.
///
/// # Errors
/// [`LifecycleError::Exists`], or what the disk refuses.
pub fn init(data: &Path, info: MemberInfo, backend: Backend) -> Result<Identity, LifecycleError> {
    if exists(data) {
        return Err(LifecycleError::Exists { path: data.to_owned() });
    }
    let (group, id) = (GroupId(rand::random()), new_member_id());
    let first = Restored::first(group, id, info.clone(), Timestamp(unix_ms()), FIRST_LEVEL);
    begin(data, &first, backend)?;
    let identity = new_identity(Some(format_group(group)), id, &info, backend);
    write_identity(data, &identity)?;
    info!(group = %format_group(group), member = %id, data = %data.display(), "made the first replica of a new group");
    Ok(identity)
}

/// Makes a replica that joins the group of which `via` (a peer address) is a member. Can be repeated until it succeeds.
///
/// # Errors
/// [`LifecycleError::Refused`] with the member's words, [`LifecycleError::ForClients`], or what the disk refuses.
pub async fn join(data: &Path, info: MemberInfo, backend: Backend, via: &str, tls: &Tls) -> Result<Identity, LifecycleError> {
    let mut joining = match identity(data) {
        Ok(known) if known.group.is_some() => return Err(LifecycleError::Exists { path: data.to_owned() }),
        // Asked before under this id: the group may know it already.
        Ok(known) => Identity { peer_address: info.peer_address.clone(), client_address: info.client_address.clone(), ..known },
        Err(LifecycleError::Absent { .. }) => new_identity(None, new_member_id(), &info, backend),
        Err(error) => return Err(error),
    };
    drop(log::open(&data.join(LOG_FOLDER), joining.log_backend)?);
    write_identity(data, &joining)?;
    let id = joining.id().expect("made or checked above");
    let refused = |why: String| LifecycleError::Refused { via: via.to_owned(), why };
    let response = service::join(tls, via, id, &info).await.map_err(|why| match why {
        NotLetIn::ForClients => LifecycleError::ForClients { via: via.to_owned() },
        NotLetIn::Refused(why) => refused(why),
    })?;
    let group = parse_group(&response.group_id).ok_or_else(|| refused(format!("{:?} is no group", response.group_id)))?;
    joining.group = Some(format_group(group));
    write_identity(data, &joining)?;
    info!(group = %format_group(group), member = %id, via, "let into the group; its data comes when the replica is started");
    Ok(joining)
}

/// Makes what one member has a new group of one, in the new folder `into`, as a new incarnation: for a group that lost its majority for good.
///
/// Everything that this member has is kept, also what it cannot know to be committed; its folder is left as it is, and must not be started
/// any more. The new group has an identity of its own, so that members of the old one are not heard: they join it anew, from empty folders.
///
/// # Errors
/// [`LifecycleError::Unrecoverable`], [`LifecycleError::Exists`], or what the disk refuses.
pub fn recover(data: &Path, into: &Path, info: MemberInfo) -> Result<Identity, LifecycleError> {
    if exists(into) {
        return Err(LifecycleError::Exists { path: into.to_owned() });
    }
    let Opened { identity, restored, group: old, .. } = open(data)?;
    let group = GroupId(rand::random());
    let unrecoverable = |why: String| LifecycleError::Unrecoverable { path: data.to_owned(), why };
    let recovered = force_single(restored, group, info.clone(), SUPPORTED_LEVEL).map_err(unrecoverable)?;
    begin(into, &recovered, identity.log_backend)?;
    let (id, index) = (recovered.id, recovered.snapshot_index);
    let identity = new_identity(Some(format_group(group)), id, &info, identity.log_backend);
    write_identity(into, &identity)?;
    warn!(old_group = %format_group(old), group = %format_group(group), member = %id, index, "recovered as a new group of one");
    Ok(identity)
}

/// Writes a snapshot and an empty log that goes on after it.
fn begin(data: &Path, from: &Restored, backend: Backend) -> Result<(), LifecycleError> {
    let snapshots = Snapshots::open(&data.join(SNAPSHOTS_FOLDER), from.group)?;
    snapshots.write(from.snapshot_term, from.snapshot_index, &from.membership, &from.state)?;
    let mut log = log::open(&data.join(LOG_FOLDER), backend)?;
    log.write(&LogWrite { begins_after: Some(from.snapshot_index), entries: Vec::new(), hard_state: Some(from.hard_state) })?;
    Ok(())
}

/// An opened data folder.
pub(crate) struct Opened {
    pub(crate) identity: Identity,
    pub(crate) group: GroupId,
    pub(crate) id: MemberId,
    pub(crate) restored: Restored,
    pub(crate) log: Box<dyn Log>,
    pub(crate) snapshots: Snapshots,
    /// For backups on their way.
    pub(crate) scratch: PathBuf,
}

/// Opens a data folder, and verifies everything in it.
pub(crate) fn open(data: &Path) -> Result<Opened, LifecycleError> {
    let identity = identity(data)?;
    let id = identity.id().expect("checked when it was read");
    let Some(group) = &identity.group else {
        return Err(LifecycleError::NotJoined { path: data.to_owned() });
    };
    let group = parse_group(group)
        .ok_or_else(|| LifecycleError::Identity { path: data.join(IDENTITY_FILE), what: format!("{group:?} is no group") })?;
    let log_folder = data.join(LOG_FOLDER);
    if !log_folder.exists() {
        return Err(LifecycleError::LogLost { path: log_folder });
    }
    let snapshots = Snapshots::open(&data.join(SNAPSHOTS_FOLDER), group)?;
    // Each takes a second or so when it is large.
    let (log, newest) = std::thread::scope(|scope| {
        let reading = scope.spawn(|| {
            let mut log = log::open(&log_folder, identity.log_backend)?;
            let loaded = log.load()?;
            Ok::<_, LogError>((log, loaded))
        });
        let newest = snapshots.newest();
        (reading.join(), newest)
    });
    let (log, (hard_state, entries)) =
        log.map_err(|_| LogError::Damaged { path: log_folder.display().to_string(), what: "reading it panicked".to_owned() })??;
    let (snapshot, wrong) = snapshots.load_after(newest?, log.base().index)?;
    for what in wrong {
        warn!(what, "a snapshot cannot be used; an older one is");
    }
    let restored = match snapshot {
        Some(snapshot) => Restored {
            group,
            id,
            hard_state: at_least(hard_state, snapshot.header.term, snapshot.header.index),
            snapshot_term: snapshot.header.term,
            snapshot_index: snapshot.header.index,
            membership: snapshot.header.membership,
            state: Box::new(snapshot.state),
            entries,
        },
        None => Restored { hard_state, entries, ..Restored::joining(group, id) },
    };
    let scratch = data.join(backup::FOLDER);
    if let Err(error) = std::fs::remove_dir_all(&scratch)
        && error.kind() != std::io::ErrorKind::NotFound
    {
        warn!(%error, "backups that were left unfinished cannot be removed");
    }
    Ok(Opened { identity, group, id, restored, log, snapshots, scratch })
}

/// A snapshot may be on disk before the hard state that goes with it.
fn at_least(hard_state: HardState, term: u64, index: u64) -> HardState {
    let commit = hard_state.commit.max(index);
    if hard_state.term < term { HardState { term, vote: 0, commit } } else { HardState { commit, ..hard_state } }
}

fn new_identity(group: Option<String>, id: MemberId, info: &MemberInfo, log_backend: Backend) -> Identity {
    let (peer_address, client_address) = (info.peer_address.clone(), info.client_address.clone());
    Identity { format: FORMAT, group, member: id.to_string(), peer_address, client_address, log_backend }
}

/// A stamp in seconds above 24 random bits: a wiped disk never comes back under its old id.
fn new_member_id() -> MemberId {
    const RANDOM_BITS: u32 = 24;
    const STAMP_MASK: u64 = (1 << 40) - 1;
    let stamp = (unix_ms() / 1000) & STAMP_MASK;
    let random = u64::from(rand::random::<u32>() >> (u32::BITS - RANDOM_BITS));
    MemberId((stamp << RANDOM_BITS | random).max(1))
}

fn unix_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// Writes the identity whole or not at all.
fn write_identity(data: &Path, identity: &Identity) -> Result<(), LifecycleError> {
    let (path, unfinished) = (data.join(IDENTITY_FILE), data.join("identity.json.unfinished"));
    let io = |action, source| LifecycleError::Io { action, path: path.clone(), source };
    let text = serde_json::to_vec_pretty(identity).map_err(|error| io("encode", error.into()))?;
    std::fs::create_dir_all(data).map_err(|source| io("create the folder of", source))?;
    let mut file = File::create(&unfinished).map_err(|source| io("write", source))?;
    file.write_all(&text).and_then(|()| file.sync_all()).map_err(|source| io("write", source))?;
    std::fs::rename(&unfinished, &path).map_err(|source| io("rename", source))?;
    File::open(data).and_then(|folder| folder.sync_all()).map_err(|source| io("sync the folder of", source))
}
