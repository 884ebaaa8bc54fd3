//! A replica, started and stopped: its folder, its threads, its listeners.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use roadstead_consensus::door::Role;
use roadstead_consensus::member::MemberId;
use roadstead_consensus::replica::{Config, Replica};
use tokio::net::TcpListener;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic::transport::Server as TonicServer;
use tracing::{info, warn};

use crate::config::{ELECTION_TICKS, HEARTBEAT_TICKS, Listen, ServerConfig, TICK_MS, Tuning};
use crate::driver::message::{ToDriver, format_group};
use crate::driver::{self, DiskParts, Ended, Parts};
use crate::handle::{Handle, Inner};
use crate::issuer::{IssueError, Issuer};
use crate::lifecycle::{self, Identity, LifecycleError, Opened};
use crate::listener::{self, Door, ListenerCounts};
use crate::metrics::Metrics;
use crate::peers::service::PeerService;
use crate::peers::{Myself, Peers};
use crate::probes;
use crate::questions::Questions;
use crate::services::{self, Services};
use crate::tls::{self, Tls, TlsError};

/// Requests decided into one entry.
const MAX_BATCH: usize = 1024;
/// Bytes of one entry, about: below what the log syncs in one go.
const MAX_ENTRY_BYTES: usize = 1 << 20;
/// Entries between two comparisons of the replicas' digests.
const DIGEST_EVERY: u64 = 10_000;
/// How long handing leadership over may take when stopping: a few elections.
const HAND_OVER_TIMEOUT: Duration = Duration::from_secs(2);
/// How long calls in flight are waited for when stopping.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);
/// How often a connection to a client with open streams is pinged: a client that vanished is noticed within twice this.
const PING_EVERY: Duration = Duration::from_secs(20);
/// Calls at the same time on one connection.
const MAX_STREAMS: u32 = 1024;
/// Bytes on their way on one stream and one connection.
const WINDOW_BYTES: u32 = 1 << 20;

/// Why a replica did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Its folder.
    #[error(transparent)]
    Lifecycle(#[from] LifecycleError),
    /// Its certificates.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// What agents' certificates are issued with.
    #[error(transparent)]
    Issuer(#[from] IssueError),
    /// An address.
    #[error("failed to listen on {address}: {source}")]
    Listen {
        /// Which.
        address: String,
        /// Why.
        source: std::io::Error,
    },
    /// What was restored does not fit together.
    #[error("the data folder cannot be used: {what}; remove it, and join this replica again as a new member")]
    Inconsistent {
        /// What.
        what: String,
    },
    /// A thread.
    #[error("failed to start a thread: {source}")]
    Thread {
        /// Why.
        source: std::io::Error,
    },
}

/// Starts replicas.
#[derive(Clone, Copy, Debug)]
pub struct Server;

/// A replica that runs.
#[derive(Debug)]
pub struct RunningServer {
    /// Where clients reach it.
    pub client_address: SocketAddr,
    /// Where the other replicas reach it.
    pub peer_address: SocketAddr,
    /// Where /metrics, /healthz and /readyz are.
    pub probes_address: Option<SocketAddr>,
    /// Which replica it is.
    pub identity: Identity,
    handle: Handle,
    tls: Tls,
    ended: watch::Receiver<Option<Ended>>,
    tasks: Tasks,
}

#[derive(Debug)]
struct Tasks {
    /// Ends what goes on for ever, and is answered with `UNAVAILABLE`.
    stopping: CancellationToken,
    /// Ends the client listener.
    close_client: CancellationToken,
    /// Ends everything else.
    stop: CancellationToken,
    client: JoinHandle<()>,
    /// Hold the client's and the peers' sockets.
    accepting: [JoinHandle<()>; 2],
    others: Vec<JoinHandle<()>>,
    driver: std::thread::JoinHandle<()>,
}

impl Server {
    /// Starts the replica of a data folder that [`lifecycle::init`] or [`lifecycle::join`] has made, on the runtime of the caller.
    ///
    /// # Errors
    /// A [`StartError`] in words that say what to do.
    pub async fn start(config: ServerConfig) -> Result<RunningServer, StartError> {
        tls::install_provider();
        let ServerConfig { data, tls, client, peer, probes, issuer, tuning } = config;
        let tls = Tls::load(tls)?;
        tls.current().check_replica()?;
        let issuer = issuer.map(|files| Issuer::load(files, tls.clone())).transpose()?;
        let opened = tokio::task::spawn_blocking(move || lifecycle::open(&data)).await;
        let opened = opened.map_err(|error| StartError::Inconsistent { what: error.to_string() })??;
        let sockets = Sockets { client: bind(client)?, peer: bind(peer)?, probes: probes.map(bind).transpose()? };
        start_opened(opened, tls, issuer, sockets, &tuning)
    }
}

struct Sockets {
    client: TcpListener,
    peer: TcpListener,
    probes: Option<TcpListener>,
}

fn bind(listen: Listen) -> Result<TcpListener, StartError> {
    let bound = match listen {
        Listen::Address(address) => {
            std::net::TcpListener::bind(address).map_err(|source| StartError::Listen { address: address.to_string(), source })?
        }
        Listen::Bound(socket) => socket,
    };
    let failed = |source| StartError::Listen { address: "a socket".to_owned(), source };
    bound.set_nonblocking(true).map_err(failed)?;
    TcpListener::from_std(bound).map_err(failed)
}

fn local_address(socket: &TcpListener) -> Result<SocketAddr, StartError> {
    socket.local_addr().map_err(|source| StartError::Listen { address: "a socket".to_owned(), source })
}

fn start_opened(opened: Opened, tls: Tls, issuer: Option<Issuer>, sockets: Sockets, tuning: &Tuning) -> Result<RunningServer, StartError> {
    let Opened { identity, group, id, restored, log, snapshots, scratch } = opened;
    let (client_address, peer_address) = (local_address(&sockets.client)?, local_address(&sockets.peer)?);
    let probes_address = sockets.probes.as_ref().map(local_address).transpose()?;
    let replica = Replica::new(replica_config(tuning), restored).map_err(|what| StartError::Inconsistent { what })?;

    let metrics = Arc::new(Metrics::default());
    let (stopping, close_client, stop) = (CancellationToken::new(), CancellationToken::new(), CancellationToken::new());
    let (sender, inbox) = std::sync::mpsc::channel();
    let waiting = Arc::new(AtomicUsize::new(0));
    let first_role = Role { membership: replica.membership().clone(), ..Role::default() };
    let role = watch::Sender::new(first_role.clone());
    let handle = Handle {
        inner: Arc::new(Inner {
            driver: sender.clone(),
            waiting: Arc::clone(&waiting),
            role: role.subscribe(),
            stopping: stopping.clone(),
            group,
            id,
            scratch,
            questions: Questions::default(),
        }),
    };
    let me = Myself { group: format_group(group), id, address: identity.peer_address.clone(), level: tuning.supported_level };
    let peers = Peers::new(me.clone(), tls.clone(), sender.clone(), snapshots.clone(), stop.clone());
    peers.set_members(&first_role.membership);

    let disk = DiskParts { log, snapshots: snapshot_writer(&snapshots) };
    let log_backend = backend_name(identity.log_backend);
    let parts =
        Parts { replica, group, log_backend, inbox, disk, peers: Arc::clone(&peers), role, waiting, metrics: Arc::clone(&metrics), sender };
    let (has_ended, driver_ended) = oneshot::channel();
    let driver = driver::spawn(parts, has_ended).map_err(|source| StartError::Thread { source })?;
    let ended = watch_end(driver_ended);

    let peer_service = PeerService { me, peers, handle: handle.clone(), snapshots };
    let peer_routes = Routes::new(peer_service.into_server());
    let (peer, accepting_peers) =
        spawn_grpc("peer", Door::Certified, sockets.peer, &tls, peer_routes, &stop, Arc::clone(metrics.peer_listener()));
    let mut others = vec![tokio::spawn(tls.clone().watch_files(tuning.reload_every)), peer];
    let door = if issuer.is_some() { Door::Anybody } else { Door::Certified };
    let Services { routes, history, tasks } = services::router(&handle, issuer);
    others.extend(tasks);
    let (client, accepting_clients) =
        spawn_grpc("client", door, sockets.client, &tls, routes, &close_client, Arc::clone(metrics.client_listener()));
    if let Some(socket) = sockets.probes {
        let served = probes::serve(socket, handle.clone(), metrics, history, stop.clone());
        others.push(tokio::spawn(async move {
            if let Err(error) = served.await {
                warn!(%error, "the probes' listener has ended");
            }
        }));
    }
    info!(member = %id, group = %format_group(group), %client_address, %peer_address, "replica started");
    let accepting = [accepting_clients, accepting_peers];
    let tasks = Tasks { stopping, close_client, stop, client, accepting, others, driver };
    Ok(RunningServer { client_address, peer_address, probes_address, identity, handle, tls, ended, tasks })
}

// The simulator's build has a field more: its planted faults.
#[allow(clippy::needless_update)]
fn replica_config(tuning: &Tuning) -> Config {
    Config {
        tick_ms: TICK_MS,
        heartbeat_ticks: HEARTBEAT_TICKS,
        election_ticks: ELECTION_TICKS,
        max_waiting: tuning.max_waiting,
        max_batch: MAX_BATCH,
        max_entry_bytes: MAX_ENTRY_BYTES,
        snapshot_every_entries: tuning.snapshot_every_entries,
        snapshot_every_bytes: tuning.snapshot_every_bytes,
        supported_level: tuning.supported_level,
        digest_every: DIGEST_EVERY,
        nonce: rand::random(),
        ..Config::default()
    }
}

fn backend_name(backend: crate::log::Backend) -> &'static str {
    match backend {
        crate::log::Backend::Sled => "sled",
        crate::log::Backend::Redb => "redb",
    }
}

fn snapshot_writer(snapshots: &crate::snapshots::Snapshots) -> driver::disk::SnapshotWriter {
    let snapshots = snapshots.clone();
    Box::new(move |term, index, membership, state| {
        let id = crate::snapshots::SnapshotId { index, term };
        snapshots.write(term, index, membership, state).map_err(|error| error.to_string())?;
        snapshots.serve(id).map(|file| file.total_bytes()).map_err(|error| error.to_string())
    })
}

/// Turns the driver's one word into something that many can wait for.
fn watch_end(driver_ended: oneshot::Receiver<Ended>) -> watch::Receiver<Option<Ended>> {
    let (tell, ended) = watch::channel(None);
    tokio::spawn(async move {
        let end = driver_ended.await.unwrap_or_else(|_| Ended::Failed("the driver thread has panicked".to_owned()));
        tell.send_replace(Some(end));
    });
    ended
}

/// Serves on a socket: the task that answers calls, and the one that holds the socket.
fn spawn_grpc(
    name: &'static str,
    door: Door,
    socket: TcpListener,
    tls: &Tls,
    routes: Routes,
    stop: &CancellationToken,
    counts: Arc<ListenerCounts>,
) -> (JoinHandle<()>, JoinHandle<()>) {
    let (accepting, connections) = listener::listen(socket, name, door, tls.clone(), stop.clone(), counts);
    let mut server = TonicServer::builder()
        .max_concurrent_streams(MAX_STREAMS)
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES)
        .http2_keepalive_interval(Some(PING_EVERY))
        .http2_keepalive_timeout(Some(PING_EVERY));
    let served = server.add_routes(routes).serve_with_incoming_shutdown(connections, stop.clone().cancelled_owned());
    let serving = tokio::spawn(async move {
        if let Err(error) = served.await {
            warn!(listener = name, %error, "a listener has ended");
        }
    });
    (serving, accepting)
}

impl RunningServer {
    /// The replica, as services know it.
    #[must_use]
    pub fn handle(&self) -> &Handle {
        &self.handle
    }

    /// This member.
    #[must_use]
    pub fn id(&self) -> MemberId {
        self.handle.id()
    }

    /// Its certificates.
    #[must_use]
    pub fn tls(&self) -> &Tls {
        &self.tls
    }

    /// Waits until the replica has ended by itself (a full disk, a damaged state, removal), and says why.
    pub async fn ended(&self) -> Ended {
        let mut ended = self.ended.clone();
        match ended.wait_for(Option::is_some).await {
            Ok(end) => end.clone().expect("waited for"),
            Err(_) => Ended::Stopped,
        }
    }

    /// Stops in good order: hands leadership over, lets calls in flight end, stops. Bounded by [`HAND_OVER_TIMEOUT`] and
    /// [`DRAIN_TIMEOUT`].
    pub async fn shutdown(self) -> Ended {
        info!("stopping");
        let Self { handle, ended, tasks, .. } = self;
        tasks.stopping.cancel();
        hand_over(&handle).await;
        tasks.close_client.cancel();
        if tokio::time::timeout(DRAIN_TIMEOUT, tasks.client).await.is_err() {
            warn!("calls were still in flight; their clients hear that the connection broke");
        }
        // It has stopped already if nobody receives.
        let _ = handle.inner.driver.send(ToDriver::Stop);
        let joined = tokio::task::spawn_blocking(move || tasks.driver.join()).await;
        tasks.stop.cancel();
        for task in tasks.others {
            task.abort();
        }
        release(tasks.accepting).await;
        if !matches!(joined, Ok(Ok(()))) {
            return Ended::Failed("the driver thread has panicked".to_owned());
        }
        let end = ended.borrow().clone();
        end.unwrap_or(Ended::Stopped)
    }

    /// Ends at once, as a crash would: nothing is handed over, nobody is told. For tests.
    pub async fn kill(self) {
        let Self { handle, tasks, .. } = self;
        tasks.stopping.cancel();
        tasks.close_client.cancel();
        tasks.stop.cancel();
        tasks.client.abort();
        for task in tasks.others {
            task.abort();
        }
        let _ = handle.inner.driver.send(ToDriver::Stop);
        let _ = tokio::task::spawn_blocking(move || tasks.driver.join()).await;
        release(tasks.accepting).await;
    }
}

/// Waits until nobody holds the sockets any more, so that the same addresses can be listened on again.
async fn release(accepting: [JoinHandle<()>; 2]) {
    for task in accepting {
        // A task that has panicked holds nothing either.
        let _ = task.await;
    }
}

/// Hands leadership to another voter, if this replica leads and there is one.
async fn hand_over(handle: &Handle) {
    let mut role = handle.role();
    let leads_others = {
        let role = role.borrow();
        role.leading && role.membership.voters.len() > 1
    };
    if !leads_others {
        return;
    }
    let handed_over = async {
        if let Err(error) = handle.transfer(None).await {
            warn!(%error, "leadership was not handed over");
            return;
        }
        // An error is the driver's end.
        let _ = role.wait_for(|role| !role.leading && role.leader.is_some()).await;
    };
    if tokio::time::timeout(HAND_OVER_TIMEOUT, handed_over).await.is_err() {
        warn!("leadership was not handed over in time");
    }
}
