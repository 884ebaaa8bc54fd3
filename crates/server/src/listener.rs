//! Accepts TLS connections, and closes those whose certificate is no longer good.
//!
//! It yields connections that carry their caller; it knows no gRPC.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustls_pki_types::CertificateDer;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::transport::server::Connected;
use tracing::{info, warn};

use crate::identity::{Caller, ConnectionInfo, IdentityError};
use crate::tls::{Tls, end_of, unix_now_s};

/// Connections that may be open on one listener; the next ones wait in the kernel's queue. 10,000 idle ones are promised.
pub const MAX_CONNECTIONS: usize = 16_384;
/// Handshakes at the same time: each costs about 1 ms of CPU, so more would only delay each other.
const MAX_HANDSHAKES: usize = 64;
/// How long a handshake may take before the connection is dropped: two round trips on a bad link, and some hundred others before it.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Rest after a failed accept (the process has no file descriptor left, mostly), so that it does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Connections without a certificate on one listener: they may do one thing only, which takes two round trips.
const MAX_STRANGERS: usize = 64;
/// How long such a connection lasts.
const STRANGER_LIFE: Duration = Duration::from_secs(20);
/// How often connections are looked over for certificates that have ended.
const EXPIRY_CHECK: Duration = Duration::from_secs(30);
/// Refused handshakes that are logged per [`EXPIRY_CHECK`]; the rest is only counted.
const MAX_REFUSALS_LOGGED: u64 = 100;

/// Files that a replica has open beside its clients' connections: its peers', the log's, snapshots.
const OTHER_FILES: u64 = 512;

/// Lets this process open as many files as it may: every connection is one, and a process often starts with leave for 1,024 and the right
/// to more. Says so if that is still too few for [`MAX_CONNECTIONS`].
pub fn raise_open_files() {
    let limit = getrlimit(Resource::Nofile);
    let wanted = MAX_CONNECTIONS as u64 + OTHER_FILES;
    let enough = |files: Option<u64>| files.is_none_or(|files| files >= wanted);
    if enough(limit.current) {
        return;
    }
    let raised = limit.maximum.map_or(wanted, |maximum| maximum.min(wanted));
    match setrlimit(Resource::Nofile, Rlimit { current: Some(raised), ..limit }) {
        Ok(()) if enough(Some(raised)) => {}
        Ok(()) => warn!(files = raised, wanted, "fewer files may be open than connections are allowed: raise ulimit -n"),
        Err(error) => warn!(%error, files = limit.current, wanted, "the limit of open files cannot be raised: raise ulimit -n"),
    }
}

/// Whom a listener lets in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Door {
    /// Who shows a good certificate.
    Certified,
    /// Also who shows none: few at a time, and not for long.
    Anybody,
}

/// Counts what a listener sees.
#[derive(Debug, Default)]
pub struct ListenerCounts {
    /// Connections open now.
    pub open: AtomicU64,
    /// Handshakes refused since the start.
    pub refused: Counter,
    /// Connections closed because their certificate was revoked or had ended, or its authority was removed.
    pub closed: Counter,
}

/// A connection with a checked certificate.
#[derive(Debug)]
pub struct Connection {
    stream: TlsStream<TcpStream>,
    info: ConnectionInfo,
    ended: Pin<Box<WaitForCancellationFutureOwned>>,
    /// It has let others have their turn since it last wrote everything out.
    gave_way: bool,
    _guard: Guard,
}

impl Connection {
    /// Lets whatever is ready to run do so before the next write.
    ///
    /// An answer wakes its connection, which tokio then runs next: every answer would cost a TLS record and a system call of its own. Those
    /// whose requests were decided together become ready together, and so go out together.
    fn give_way(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if std::mem::replace(&mut self.gave_way, true) {
            return Poll::Ready(());
        }
        // A task that wakes itself goes behind all others that are ready.
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

/// Gives back what a connection holds.
#[derive(Debug)]
struct Guard {
    number: u64,
    registry: Arc<Registry>,
    _permit: OwnedSemaphorePermit,
    _stranger: Option<OwnedSemaphorePermit>,
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.registry.remove(self.number);
    }
}

/// The connections that are open, with their certificates.
#[derive(Debug, Default)]
struct Registry {
    next: AtomicU64,
    open: Mutex<BTreeMap<u64, Registered>>,
    logged: AtomicU64,
    counts: Arc<ListenerCounts>,
}

#[derive(Clone, Debug)]
struct Registered {
    chain: Arc<[CertificateDer<'static>]>,
    not_after_unix_s: i64,
    who: Arc<str>,
    end: CancellationToken,
}

impl Registry {
    fn add(&self, registered: Registered) -> u64 {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        self.lock().insert(number, registered);
        self.counts.open.fetch_add(1, Ordering::Relaxed);
        number
    }

    fn remove(&self, number: u64) {
        if self.lock().remove(&number).is_some() {
            self.counts.open.fetch_sub(1, Ordering::Relaxed);
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<u64, Registered>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends every connection for which `bad` gives a reason.
    fn end_if(&self, bad: impl Fn(&Registered) -> Option<String>) {
        let open: Vec<Registered> = self.lock().values().cloned().collect();
        for connection in open.iter().filter(|connection| !connection.end.is_cancelled()) {
            if let Some(why) = bad(connection) {
                warn!(caller = %connection.who, why, "connection closed: its certificate is no longer good");
                self.counts.closed.inc();
                connection.end.cancel();
            }
        }
    }
}

/// Accepts connections until `stop` is cancelled; the stream of connections then ends. The task has let go of the socket when it has ended.
pub fn listen(
    socket: TcpListener,
    name: &'static str,
    door: Door,
    tls: Tls,
    stop: CancellationToken,
    counts: Arc<ListenerCounts>,
) -> (JoinHandle<()>, ReceiverStream<io::Result<Connection>>) {
    let (ready, connections) = mpsc::channel(MAX_HANDSHAKES);
    let registry = Arc::new(Registry { counts, ..Registry::default() });
    tokio::spawn(look_over(Arc::clone(&registry), tls.clone(), stop.clone()));
    let hall = Hall { door, tls, registry, strangers: Arc::new(Semaphore::new(MAX_STRANGERS)) };
    let accepting = tokio::spawn(accept(socket, name, hall, stop, ready));
    (accepting, ReceiverStream::new(connections))
}

/// What every handshake needs.
#[derive(Clone)]
struct Hall {
    door: Door,
    tls: Tls,
    registry: Arc<Registry>,
    strangers: Arc<Semaphore>,
}

async fn accept(socket: TcpListener, name: &'static str, hall: Hall, stop: CancellationToken, ready: mpsc::Sender<io::Result<Connection>>) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let handshakes = Arc::new(Semaphore::new(MAX_HANDSHAKES));
    loop {
        let next = async {
            let place = Arc::clone(&places).acquire_owned().await.expect("the semaphore is never closed");
            let turn = Arc::clone(&handshakes).acquire_owned().await.expect("the semaphore is never closed");
            (socket.accept().await, place, turn)
        };
        let (accepted, place, turn) = tokio::select! {
            () = stop.cancelled() => return,
            next = next => next,
        };
        let (stream, remote) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                warn!(listener = name, %error, "failed to accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let (hall, ready) = (hall.clone(), ready.clone());
        tokio::spawn(async move {
            let result = tokio::time::timeout(HANDSHAKE_TIMEOUT, hall.shake_hands(stream, remote, place)).await;
            drop(turn);
            match result.unwrap_or_else(|_| Err(io::Error::new(io::ErrorKind::TimedOut, "the TLS handshake took too long"))) {
                // The server is stopping if nobody receives.
                Ok(connection) => drop(ready.send(Ok(connection)).await),
                Err(error) => {
                    hall.registry.counts.refused.inc();
                    if hall.registry.logged.fetch_add(1, Ordering::Relaxed) < MAX_REFUSALS_LOGGED {
                        warn!(listener = name, %remote, %error, "connection refused");
                    }
                }
            }
        });
    }
}

impl Hall {
    async fn shake_hands(&self, stream: TcpStream, remote: SocketAddr, permit: OwnedSemaphorePermit) -> io::Result<Connection> {
        stream.set_nodelay(true)?;
        let material = self.tls.current();
        let config = match self.door {
            Door::Certified => &material.server,
            Door::Anybody => &material.open,
        };
        let stream = TlsAcceptor::from(Arc::clone(config)).accept(stream).await?;
        let chain: Arc<[CertificateDer<'static>]> = stream
            .get_ref()
            .1
            .peer_certificates()
            .map(|chain| chain.iter().map(|certificate| certificate.clone().into_owned()).collect())
            .unwrap_or_default();
        let caller: Result<Arc<Caller>, IdentityError> = Caller::from_chain(&chain).map(Arc::new);
        let who: Arc<str> = match &caller {
            Ok(caller) => caller.principal.as_str().into(),
            Err(IdentityError::NoCertificate) => "a stranger".into(),
            Err(error) => {
                info!(%remote, %error, "a caller without a role has connected; its calls will be refused");
                "nobody".into()
            }
        };
        let end = CancellationToken::new();
        let stranger = if chain.is_empty() { Some(self.let_stranger_in(&end)?) } else { None };
        let not_after_unix_s = chain.first().map_or(i64::MAX, |leaf| end_of(leaf).unwrap_or(0));
        let number = self.registry.add(Registered { chain: Arc::clone(&chain), not_after_unix_s, who, end: end.clone() });
        let guard = Guard { number, registry: Arc::clone(&self.registry), _permit: permit, _stranger: stranger };
        let newest = self.tls.current();
        if !Arc::ptr_eq(&newest, &material) && !chain.is_empty() {
            // What was revoked during the handshake was not yet open when open connections were looked over.
            newest.check(&chain).map_err(io::Error::other)?;
        }
        let ended = Box::pin(end.cancelled_owned());
        Ok(Connection { stream, info: ConnectionInfo { caller, remote }, ended, gave_way: false, _guard: guard })
    }

    /// A place for a connection without a certificate, which `end` closes when its time is over.
    fn let_stranger_in(&self, end: &CancellationToken) -> io::Result<OwnedSemaphorePermit> {
        let place = Arc::clone(&self.strangers).try_acquire_owned();
        let place = place.map_err(|_| io::Error::other("too many connections without a certificate are open already"))?;
        let end = end.clone();
        tokio::spawn(async move {
            tokio::time::sleep(STRANGER_LIFE).await;
            end.cancel();
        });
        Ok(place)
    }
}

/// Ends connections whose certificates are no longer good: after each change of ours, and when one ends.
async fn look_over(registry: Arc<Registry>, tls: Tls, stop: CancellationToken) {
    let mut changes = tls.changes();
    changes.mark_unchanged();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(EXPIRY_CHECK) => {
                registry.logged.store(0, Ordering::Relaxed);
                let now = unix_now_s();
                registry.end_if(|connection| (connection.not_after_unix_s <= now).then(|| "it has expired".to_owned()));
            }
            changed = changes.changed() => {
                if changed.is_err() {
                    return;
                }
                let material = Arc::clone(&changes.borrow_and_update());
                let registry = Arc::clone(&registry);
                // Some 100 us of CPU for each connection.
                let checked = tokio::task::spawn_blocking(move || {
                    let certified = |connection: &Registered| !connection.chain.is_empty();
                    registry.end_if(|connection| certified(connection).then(|| material.check(&connection.chain).err()).flatten());
                });
                if checked.await.is_err() {
                    return;
                }
            }
        }
    }
}

impl Connected for Connection {
    type ConnectInfo = ConnectionInfo;

    fn connect_info(&self) -> ConnectionInfo {
        self.info.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        // HTTP/2 always has a read pending, so that this wakes an idle connection, too.
        if self.ended.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::ConnectionAborted, "the certificate is no longer good")));
        }
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.give_way(cx));
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
        self.gave_way = false;
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    // Not vectored: HTTP/2 then gathers messages of up to 1 KiB into one write, where it would otherwise write each by itself from 256 bytes on.
}
