//! The client: connections to the replicas, and calls that go on to the next one when one does not answer.
//!
//! A write keeps its request id over all attempts, so that a retry has no second effect.

pub mod config;
pub mod silence;
pub mod calls;
pub mod leader;
pub mod follow;

use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use clap::Args;
use roadstead_api::v1::admin_service_client::AdminServiceClient;
use roadstead_api::v1::fleet_service_client::FleetServiceClient;
use roadstead_api::v1::join_service_client::JoinServiceClient;
use roadstead_api::v1::placement_service_client::PlacementServiceClient;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Code, Response, Status};
use tonic_types::StatusExt;
use x509_parser::pem::Pem;

use self::config::{Config, Context};
use self::silence::{NOTICE_AFTER, Silence};
use crate::failure::{Exit, Failure, retry_delay};
use crate::pki::REPLICA_DNS_NAME;

/// How long connecting to one replica may take; the next one is tried then.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// How long one attempt may take before the next replica is asked: longer than a replica itself waits for a leader.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(6);
/// A silent connection is tried this often, and given up after [`KEEP_ALIVE_TIMEOUT`].
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(2);
/// See [`KEEP_ALIVE_INTERVAL`].
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(2);
/// The first pause between attempts; it doubles up to [`MAX_PAUSE`], with jitter.
const MIN_PAUSE: Duration = Duration::from_millis(20);
/// See [`MIN_PAUSE`]: about an election, so that a new leader is found soon.
const MAX_PAUSE: Duration = Duration::from_millis(500);
/// The largest answer: a page of tenants, or an explanation of 1,000 clusters.
const MAX_MESSAGE_BYTES: usize = 64 << 20;

/// How to reach the placement service.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Connection")]
pub struct Connection {
    /// Context of the config file; the current one if left out.
    #[arg(long, env = "ROADSTEAD_CONTEXT")]
    pub context: Option<String>,
    /// Address of a replica (host:port, or https://host:port); repeatable, the next is tried if one does not answer.
    #[arg(long = "server", value_name = "HOST:PORT", env = "ROADSTEAD_SERVER", value_delimiter = ',')]
    pub servers: Vec<String>,
    /// Authorities to trust (PEM).
    #[arg(long, value_name = "FILE", env = "ROADSTEAD_CA")]
    pub ca: Option<PathBuf>,
    /// Our certificate (PEM).
    #[arg(long, value_name = "FILE", env = "ROADSTEAD_CERT")]
    pub cert: Option<PathBuf>,
    /// Our key (PEM).
    #[arg(long, value_name = "FILE", env = "ROADSTEAD_KEY")]
    pub key: Option<PathBuf>,
    /// How long to try before giving up.
    #[arg(long, default_value = "30s", value_parser = parse_span)]
    pub timeout: Duration,
}

/// Reads `30s` or `5m`.
///
/// # Errors
/// As documents say it.
pub fn parse_span(text: &str) -> Result<Duration, String> {
    crate::document::quantity::Span::parse(text).map(|span| Duration::from_millis(span.0))
}

impl Connection {
    /// Servers and files: the context's, with what was given in place of it.
    ///
    /// # Errors
    /// No context and not all of it given.
    pub fn resolve(&self) -> Result<Context, Failure> {
        let given = !self.servers.is_empty() && self.ca.is_some() && self.cert.is_some() && self.key.is_some();
        let mut context = if given && self.context.is_none() {
            Context::default()
        } else {
            let path = config::path()?;
            Config::load(&path)?.context(self.context.as_deref(), &path)?
        };
        if !self.servers.is_empty() {
            context.servers.clone_from(&self.servers);
        }
        for (slot, file) in [(&mut context.ca, &self.ca), (&mut context.cert, &self.cert), (&mut context.key, &self.key)] {
            if let Some(file) = file {
                slot.clone_from(file);
            }
        }
        Ok(context)
    }

    /// Addresses of the replicas only: those given, or the context's.
    ///
    /// # Errors
    /// None is given, and there is no context.
    pub fn resolve_servers(&self) -> Result<Vec<String>, Failure> {
        if self.servers.is_empty() { self.resolve().map(|context| context.servers) } else { Ok(self.servers.clone()) }
    }

    /// Connects.
    ///
    /// # Errors
    /// Certificates that cannot be used; a server that does not answer shows at the first call.
    pub fn connect(&self) -> Result<Client, Failure> {
        Client::prepare(&self.resolve()?, self.timeout, true)
    }
}

/// The services of one replica.
#[derive(Clone)]
pub struct Services {
    channel: Channel,
}

impl Services {
    /// Tenants.
    #[must_use]
    pub fn placement(&self) -> PlacementServiceClient<Channel> {
        PlacementServiceClient::new(self.channel.clone()).max_decoding_message_size(MAX_MESSAGE_BYTES)
    }
    /// Clusters, pools, classes, policy.
    #[must_use]
    pub fn fleet(&self) -> FleetServiceClient<Channel> {
        FleetServiceClient::new(self.channel.clone()).max_decoding_message_size(MAX_MESSAGE_BYTES)
    }
    /// Tokens of clusters.
    #[must_use]
    pub fn join(&self) -> JoinServiceClient<Channel> {
        JoinServiceClient::new(self.channel.clone())
    }
    /// The replicas themselves.
    #[must_use]
    pub fn admin(&self) -> AdminServiceClient<Channel> {
        AdminServiceClient::new(self.channel.clone()).max_decoding_message_size(MAX_MESSAGE_BYTES)
    }
}

/// Connections to all replicas of one service; cheap to clone.
#[derive(Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

struct Inner {
    servers: Vec<(String, Services)>,
    /// The replica that answered last.
    current: AtomicUsize,
    timeout: Duration,
    /// For replicas that the context does not name.
    tls: ClientTlsConfig,
    /// The certificate's file, for messages.
    certificate: PathBuf,
    /// Whether it has been told that a fence is waited for.
    fence_told: AtomicBool,
    /// Whether somebody waits who wants to know what for.
    watched: bool,
    /// Whether it has been told that no replica answers.
    silence_told: AtomicBool,
}

/// A replica's `host:port`, also of a URL.
///
/// # Errors
/// Another scheme than `https`, or a path.
pub fn address(text: &str) -> Result<&str, Failure> {
    let (scheme, rest) = text.split_once("://").unwrap_or(("https", text));
    let host = rest.strip_suffix('/').unwrap_or(rest);
    if scheme != "https" {
        return Err(Failure::usage(format!("the server {text}: replicas speak TLS only, not {scheme}"))
            .hint(format!("write {host} or https://{host}, with the port that a replica has for clients")));
    }
    if host.is_empty() || host.contains('/') {
        return Err(Failure::usage(format!("the server {text} is no address: write HOST:PORT or https://HOST:PORT")));
    }
    Ok(host)
}

/// How to reach one replica.
fn endpoint(server: &str, tls: &ClientTlsConfig, certificate: &Path) -> Result<Endpoint, Failure> {
    let bad = |error: tonic::transport::Error| Failure::usage(format!("{server} with {}: {}", certificate.display(), with_causes(&error)));
    Ok(Endpoint::from_shared(format!("https://{server}"))
        .map_err(bad)?
        .tls_config(tls.clone())
        .map_err(bad)?
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .http2_adaptive_window(true)
        .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
        .keep_alive_while_idle(true))
}

/// A connection to one replica, made when it is needed.
fn services(server: &str, tls: &ClientTlsConfig, certificate: &Path) -> Result<Services, Failure> {
    Ok(Services { channel: endpoint(server, tls, certificate)?.connect_lazy() })
}

/// What certificates of a context make of a connection.
fn tls_of(context: &Context) -> Result<ClientTlsConfig, Failure> {
    let read = |path: &PathBuf, what: &str| {
        std::fs::read(path).map_err(|error| {
            Failure::failed(format!("cannot read the {what} {}: {error}", path.display()))
                .hint("`roadstead pki issue admin NAME` makes a certificate; `roadstead config get-contexts` shows which is used")
        })
    };
    let certificate = read(&context.cert, "certificate")?;
    check_not_ended(&context.cert, &certificate)?;
    Ok(ClientTlsConfig::new()
        .ca_certificate(Certificate::from_pem(read(&context.ca, "authority")?))
        .identity(Identity::from_pem(certificate, read(&context.key, "key")?))
        .domain_name(REPLICA_DNS_NAME))
}

/// How to reach the replicas of a context, with its certificates as they are now.
///
/// # Errors
/// Certificates that cannot be read or used, addresses that are none.
pub fn endpoints(context: &Context) -> Result<Vec<Endpoint>, Failure> {
    let tls = tls_of(context)?;
    context.servers.iter().map(|server| endpoint(address(server)?, &tls, &context.cert)).collect()
}

/// How to reach replicas with what is at hand, as PEM; without a certificate of our own, as somebody unknown.
///
/// # Errors
/// What cannot be used, addresses that are none.
pub fn endpoints_by(servers: &[String], authorities: &str, own: Option<(&str, &str)>) -> Result<Vec<Endpoint>, Failure> {
    let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(authorities)).domain_name(REPLICA_DNS_NAME);
    let tls = match own {
        Some((certificate, key)) => tls.identity(Identity::from_pem(certificate, key)),
        None => tls,
    };
    servers.iter().map(|server| endpoint(address(server)?, &tls, Path::new("the agent's certificate"))).collect()
}

impl Client {
    /// Prepares connections; they are made when needed.
    ///
    /// # Errors
    /// Certificates that cannot be read or used, addresses that are none.
    pub fn new(context: &Context, timeout: Duration) -> Result<Self, Failure> {
        Self::prepare(context, timeout, false)
    }

    /// The same; `watched` says that somebody waits for each call and wants to know why it takes long.
    fn prepare(context: &Context, timeout: Duration, watched: bool) -> Result<Self, Failure> {
        if context.servers.is_empty() {
            return Err(Failure::usage("no server is given").hint("name one with --server HOST:PORT"));
        }
        let tls = tls_of(context)?;
        let servers = context.servers.iter().map(|server| {
            let server = address(server)?;
            Ok((server.to_owned(), services(server, &tls, &context.cert)?))
        });
        let servers = servers.collect::<Result<Vec<_>, Failure>>()?;
        let (current, fence_told, silence_told) = (AtomicUsize::new(0), AtomicBool::new(false), AtomicBool::new(false));
        let certificate = context.cert.clone();
        Ok(Self { inner: Arc::new(Inner { servers, current, timeout, tls, certificate, fence_told, watched, silence_told }) })
    }

    /// The services of the replica that answered last.
    #[must_use]
    pub fn services(&self) -> Services {
        self.services_at(self.inner.current.load(Ordering::Relaxed))
    }

    /// The services of one replica, counted round.
    #[must_use]
    pub fn services_at(&self, index: usize) -> Services {
        self.inner.servers[index % self.inner.servers.len()].1.clone()
    }

    /// How long calls are tried.
    #[must_use]
    pub fn timeout(&self) -> Duration {
        self.inner.timeout
    }

    /// Turns to the next replica.
    pub fn advance(&self) {
        self.inner.current.fetch_add(1, Ordering::Relaxed);
    }

    /// The address of the replica that answered last.
    fn server(&self) -> &str {
        self.server_at(self.inner.current.load(Ordering::Relaxed))
    }

    fn server_at(&self, index: usize) -> &str {
        &self.inner.servers[index % self.inner.servers.len()].0
    }

    /// Calls until a replica answers or the time is over. `what` begins the message of a failure. Who waits for it is told after a while
    /// which endpoints have not answered.
    ///
    /// # Errors
    /// The refusal, or the last failure, with every endpoint's reason.
    pub async fn call<T, F, A>(&self, what: &str, call: F) -> Result<T, Failure>
    where
        F: Fn(Services) -> A,
        A: Future<Output = Result<Response<T>, Status>>,
    {
        let silence = Mutex::default();
        let until = Instant::now() + self.inner.timeout;
        let notice = async {
            tokio::time::sleep(NOTICE_AFTER).await;
            if self.inner.watched
                && !self.inner.fence_told.load(Ordering::Relaxed)
                && !self.inner.silence_told.swap(true, Ordering::Relaxed)
            {
                tell_of_silence(&noted(&silence), until);
            }
            std::future::pending().await
        };
        let answer = tokio::select! {
            answer = self.attempts(call, &silence) => answer,
            never = notice => never,
        };
        let status = match answer {
            Ok(answer) => return Ok(answer),
            Err(status) => status,
        };
        let mut silence = noted(&silence).clone();
        let given_up = may_retry(&status, retry_delay(&status));
        if given_up && self.know_no_leader(&mut silence).await {
            return Err(leader::nobody_leads(what, &silence));
        }
        if given_up && !silence.is_broken() {
            return Err(self.nobody_answered(what, &status, &silence));
        }
        let mut failure = self.failure(what, &status);
        // The status says what the last of them said.
        if given_up && silence.len() > 1 {
            failure.message.push_str(&silence.lines());
        }
        Err(failure)
    }

    async fn attempts<T, F, A>(&self, call: F, silence: &Mutex<Silence>) -> Result<T, Status>
    where
        F: Fn(Services) -> A,
        A: Future<Output = Result<Response<T>, Status>>,
    {
        let begun = Instant::now();
        let mut pause = MIN_PAUSE;
        loop {
            let limit = self.inner.timeout.saturating_sub(begun.elapsed()).min(ATTEMPT_TIMEOUT);
            let current = self.inner.current.load(Ordering::Relaxed);
            let server = self.server_at(current);
            noted(silence).asking(server);
            let attempt = tokio::time::timeout(limit, call(self.services_at(current))).await;
            let status = match attempt {
                Ok(Ok(response)) => return Ok(response.into_inner()),
                Ok(Err(status)) => {
                    let (reason, answered) = reason_of(&status);
                    noted(silence).failed(server, reason, answered);
                    status
                }
                Err(_) => {
                    let words = format!("no answer within {:.1} s", limit.as_secs_f64());
                    if limit < ATTEMPT_TIMEOUT {
                        noted(silence).cut_off(server, words.clone());
                    } else {
                        noted(silence).failed(server, words.clone(), false);
                    }
                    Status::deadline_exceeded(words)
                }
            };
            let asked_to_wait = retry_delay(&status);
            if !may_retry(&status, asked_to_wait) {
                return Err(status);
            }
            if status.code() != Code::ResourceExhausted {
                self.advance();
            }
            let wait = asked_to_wait.unwrap_or(Duration::ZERO).max(jittered(pause));
            if begun.elapsed() + wait >= self.inner.timeout {
                return Err(status);
            }
            self.tell_of_fence(&status);
            tokio::time::sleep(wait).await;
            pause = (pause * 2).min(MAX_PAUSE);
        }
    }

    /// Says once what is waited for, so that a fence is no silence of half a minute.
    fn tell_of_fence(&self, status: &Status) {
        let fenced = status.get_error_details().error_info().is_some_and(|info| info.reason == "FENCED");
        if fenced && !self.inner.fence_told.swap(true, Ordering::Relaxed) {
            let most = self.inner.timeout.as_secs();
            eprintln!("waiting at most {most} s for clusters' agents: {}", status.message());
            eprintln!("next: `roadstead admin status` lists those missing, `roadstead admin waive-fence` goes on without them");
        }
    }

    /// That no replica answered at all, with each one's reason.
    pub(crate) fn nobody_answered(&self, what: &str, status: &Status, silence: &Silence) -> Failure {
        let mut failure = self.failure(what, status);
        failure.message = format!("{what}: no replica answered within {} s{}", self.inner.timeout.as_secs_f64(), silence.lines());
        failure
    }

    /// A status in words, with the servers that were asked if none answered.
    #[must_use]
    pub fn failure(&self, what: &str, status: &Status) -> Failure {
        let mut failure = Failure::from_status(what, status);
        if status.code() == Code::Unavailable && status.get_ref_source().is_some() {
            let servers: Vec<&str> = self.inner.servers.iter().map(|(server, _)| server.as_str()).collect();
            let cause = status.get_ref_source().map(with_causes).unwrap_or_default();
            failure.message = format!("{what}: no replica answered ({}): {cause}", servers.join(", "));
        }
        failure
    }
}

/// What is noted of the endpoints so far.
fn noted(silence: &Mutex<Silence>) -> std::sync::MutexGuard<'_, Silence> {
    silence.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Says on stderr what is waited for, and how long.
fn tell_of_silence(silence: &Silence, until: Instant) {
    let left = until.saturating_duration_since(Instant::now());
    let clock = jiff::Timestamp::now().checked_add(left).unwrap_or(jiff::Timestamp::MAX);
    eprintln!("{}", silence.notice(&clock.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(), left));
}

/// Why an attempt failed, and whether the replica itself said so.
fn reason_of(status: &Status) -> (String, bool) {
    match status.get_ref_source() {
        Some(source) => (with_causes(source), false),
        None if status.message().is_empty() => (status.code().description().to_owned(), true),
        None => (status.message().to_owned(), true),
    }
}

/// Refuses a certificate that has ended, which a replica answers by closing the connection: that would look like any other loss of one.
/// What cannot be read at all is left to who uses it.
fn check_not_ended(path: &Path, pem: &[u8]) -> Result<(), Failure> {
    let Some(Ok(pem)) = Pem::iter_from_buffer(pem).next() else { return Ok(()) };
    let Ok(certificate) = pem.parse_x509() else { return Ok(()) };
    let end = certificate.validity().not_after.timestamp();
    if end > jiff::Timestamp::now().as_second() {
        return Ok(());
    }
    let end = jiff::Timestamp::from_second(end).map_or_else(|_| end.to_string(), |end| end.to_string());
    Err(Failure::new(Exit::Permission, format!("the certificate {} expired at {end}", path.display()))
        .hint("`roadstead pki renew NAME --dir DIR` where it was made, or use another: `roadstead config get-contexts`"))
}

/// The error below a status that the transport made.
trait Source {
    fn get_ref_source(&self) -> Option<&(dyn std::error::Error + 'static)>;
}

impl Source for Status {
    fn get_ref_source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        std::error::Error::source(self)
    }
}

/// An error with all that caused it, without repeating.
fn with_causes(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let cause = error.to_string();
        if !text.contains(&cause) {
            text.push_str(": ");
            text.push_str(&cause);
        }
        source = error.source();
    }
    text
}

/// Whether asking again, with the same request id, makes sense.
fn may_retry(status: &Status, asked_to_wait: Option<Duration>) -> bool {
    match status.code() {
        Code::Unavailable | Code::Unknown | Code::DeadlineExceeded | Code::Cancelled => true,
        _ => asked_to_wait.is_some(),
    }
}

/// Between half of a pause and all of it, so that many clients do not come back together.
fn jittered(pause: Duration) -> Duration {
    let half = pause / 2;
    half + half.mul_f64(rand::random::<f64>())
}

/// A new request id: UUIDv7, as the service asks for.
#[must_use]
pub fn request_id() -> String {
    uuid::Uuid::now_v7().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_may_be_a_url_but_of_https_only() {
        for text in ["r1:7420", "https://r1:7420", "https://r1:7420/"] {
            assert_eq!(address(text).expect("an address"), "r1:7420");
        }
        assert_eq!(address("[::1]:7420").expect("an address"), "[::1]:7420");
        let plain = address("http://r1:7420").expect_err("no plain text").to_string();
        assert!(plain.contains("replicas speak TLS only") && plain.contains("write r1:7420 or https://r1:7420"), "{plain}");
        assert!(address("https://r1:7420/v1").is_err() && address("https://").is_err() && address("grpc://r1").is_err());
    }
}
