//! What a replica is started with. Time-outs and bounds are constants beside what they govern, not settings.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use roadstead_core::command::{FeatureLevel, SUPPORTED_LEVEL};

use crate::issuer::IssuerFiles;
use crate::tls::TlsFiles;

/// Milliseconds of one Raft tick: a fifth of what a busy machine delays a thread by, so that ticks are not the noise.
pub const TICK_MS: u64 = 10;
/// Ticks between heartbeats: four are missed before the quickest replica calls an election.
pub const HEARTBEAT_TICKS: usize = 3;
/// The least election time-out in ticks, the same on every replica: a leader is deserted after 130 to 260 ms of silence. Each time-out is drawn
/// anew from `[n, 2n)`, so that two replicas rarely collide; with pre-vote and vote it stays below the promised 500 ms.
pub const ELECTION_TICKS: usize = 13;

/// Where to listen: an address, or a socket that is bound already (tests, `dev`).
#[derive(Debug)]
pub enum Listen {
    /// Bind this one; port 0 is any free port.
    Address(SocketAddr),
    /// Use this one.
    Bound(TcpListener),
}

/// What a replica is started with. Its folder was made by [`crate::lifecycle::init`] or [`crate::lifecycle::join`].
#[derive(Debug)]
pub struct ServerConfig {
    /// The data folder.
    pub data: PathBuf,
    /// Certificate, key, authorities.
    pub tls: TlsFiles,
    /// For clients.
    pub client: Listen,
    /// For the other replicas.
    pub peer: Listen,
    /// Plain HTTP for /metrics, /healthz and /readyz; `None` is none.
    pub probes: Option<Listen>,
    /// What agents' certificates are issued with; `None` issues none, and lets in nobody without a certificate.
    pub issuer: Option<IssuerFiles>,
    /// The rest.
    pub tuning: Tuning,
}

/// What only tests and simulations of mixed versions change.
#[derive(Clone, Debug)]
pub struct Tuning {
    /// Highest feature level to support.
    pub supported_level: FeatureLevel,
    /// Entries after which a snapshot is taken.
    pub snapshot_every_entries: u64,
    /// Log bytes after which a snapshot is taken.
    pub snapshot_every_bytes: u64,
    /// How often certificate files are compared with what is in use.
    pub reload_every: Duration,
    /// Requests that may wait or be in flight.
    pub max_waiting: usize,
}

impl Default for Tuning {
    fn default() -> Self {
        Self {
            supported_level: SUPPORTED_LEVEL,
            // A restart replays at most this much: below 2 s at the promised rate of apply.
            snapshot_every_entries: 100_000,
            snapshot_every_bytes: 256 << 20,
            reload_every: Duration::from_secs(5),
            max_waiting: crate::handle::MAX_WAITING,
        }
    }
}

/// First of the ports that trials and tests are given.
const FIRST_TRIAL_PORT: u32 = 10_000;
/// How many there are: all are below those that Linux gives to whoever connects (from 32,768 on), which nobody is to take by chance
/// before the port is listened on.
const TRIAL_PORTS: u32 = 20_000;

/// An address on loopback that nobody listens on at the moment, each time another one.
///
/// # Errors
/// If every port is taken.
pub fn free_loopback_address() -> std::io::Result<SocketAddr> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    for _ in 0..TRIAL_PORTS {
        // Processes that run at the same time begin far from each other.
        let number = std::process::id().wrapping_mul(211).wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
        let port = u16::try_from(FIRST_TRIAL_PORT + number % TRIAL_PORTS).map_err(std::io::Error::other)?;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        if TcpListener::bind(address).is_ok() {
            return Ok(address);
        }
    }
    Err(std::io::ErrorKind::AddrInUse.into())
}
