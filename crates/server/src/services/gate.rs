//! The gate before every call: who may, how much at a time, how long.
//!
//! It works on paths and headers, before any message is decoded.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;
use tonic::{Code, Status};

use crate::auth;
use crate::errors::{self, Fault, RETRY_SOON};
use crate::identity::{ConnectionInfo, IdentityError};

/// Unary calls in progress on one server. Each may hold a message of up to 4 MiB, though few do; the queue behind them is bounded by itself.
pub const MAX_UNARY: usize = 16_384;
/// Streams in progress on one server, watches (which have a bound of their own) not counted.
pub const MAX_STREAMS: usize = 2048;
/// A caller's deadline is cut by this part of itself (and at most [`MAX_MARGIN`]), so that the answer still arrives.
const MARGIN_PART: u32 = 20;
/// See [`MARGIN_PART`].
const MAX_MARGIN: Duration = Duration::from_millis(50);

/// RPCs whose answer is a stream, or whose request is.
const STREAMS: &[&str] = &[
    "roadstead.v1.PlacementService/PlaceTenants",
    "roadstead.v1.AdminService/Backup",
    "roadstead.v1.AdminService/Restore",
    "grpc.health.v1.Health/Watch",
    "grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
];
/// As many as there are watches; an agent that holds one is no burden on the streams of others.
const WATCH_INTENT: &str = "roadstead.v1.AgentService/WatchIntent";
const WATCH: &str = "roadstead.v1.PlacementService/Watch";

/// Counts what is in progress.
#[derive(Debug, Default)]
pub struct Gate {
    unary: Arc<AtomicUsize>,
    streams: Arc<AtomicUsize>,
}

/// Gives a place back.
struct Permit(Arc<AtomicUsize>);

impl Permit {
    fn take(count: &Arc<AtomicUsize>, max: usize, what: &str) -> Result<Self, Fault> {
        let before = count.fetch_add(1, Ordering::Relaxed);
        let permit = Self(Arc::clone(count));
        if before >= max {
            return Err(Fault::overloaded(
                format!("this server has {max} {what} in progress already; ask again, or ask another replica"),
                RETRY_SOON,
            ));
        }
        Ok(permit)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Lets a call pass, or answers it here.
pub async fn pass(State(gate): State<Arc<Gate>>, request: Request, next: Next) -> Response {
    let rpc = request.uri().path().trim_start_matches('/').to_owned();
    if let Err(fault) = admit(&request, &rpc) {
        return refuse(fault);
    }
    if rpc == WATCH || rpc == WATCH_INTENT {
        return next.run(request).await;
    }
    let stream = STREAMS.contains(&rpc.as_str());
    let permit = if stream { Permit::take(&gate.streams, MAX_STREAMS, "streams") } else { Permit::take(&gate.unary, MAX_UNARY, "calls") };
    let permit = match permit {
        Ok(permit) => permit,
        Err(fault) => return refuse(fault),
    };
    if stream {
        // Until the last message has been taken.
        return worded(next.run(request).await).map(|body| axum::body::Body::new(Held { body, _permit: permit }));
    }
    let Some(limit) = request.headers().get("grpc-timeout").and_then(|value| parse_timeout(value.to_str().ok()?)) else {
        return worded(next.run(request).await);
    };
    match tokio::time::timeout(limit - (limit / MARGIN_PART).min(MAX_MARGIN), next.run(request)).await {
        Ok(response) => worded(response),
        Err(_) => refuse(Fault::new(
            Code::DeadlineExceeded,
            "DEADLINE_EXCEEDED",
            "the caller's deadline has passed; whether a change was made is unknown: ask again with the same request id",
        )),
    }
}

fn admit(request: &Request, rpc: &str) -> Result<(), Fault> {
    let unknown = |why: String| Fault::new(Code::Unauthenticated, "NO_CALLER", why);
    match request.extensions().get::<ConnectionInfo>() {
        Some(ConnectionInfo { caller: Ok(caller), .. }) => auth::may_call(caller, rpc),
        Some(ConnectionInfo { caller: Err(IdentityError::NoCertificate), .. }) if rpc == auth::WITHOUT_CERTIFICATE => Ok(()),
        Some(ConnectionInfo { caller: Err(error), .. }) => Err(unknown(error.to_string())),
        None => Err(unknown("this connection carries no certificate".to_owned())),
    }
}

/// Gives an error of the transport's own (it has no details) the form of all others.
fn worded(response: Response) -> Response {
    match Status::from_header_map(response.headers()) {
        Some(status) if status.code() != Code::Ok && status.details().is_empty() => refuse(errors::wire(&status)),
        Some(_) | None => response,
    }
}

fn refuse(fault: Fault) -> Response {
    Status::from(fault).into_http()
}

/// `grpc-timeout`: at most eight digits and a unit.
fn parse_timeout(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.len() > 8 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let count: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(count * 3600),
        "M" => Duration::from_secs(count * 60),
        "S" => Duration::from_secs(count),
        "m" => Duration::from_millis(count),
        "u" => Duration::from_micros(count),
        "n" => Duration::from_nanos(count),
        _ => return None,
    })
}

/// A body that holds its place until it has ended.
struct Held {
    body: axum::body::Body,
    _permit: Permit,
}

impl http_body::Body for Held {
    type Data = bytes::Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<http_body::Frame<bytes::Bytes>, axum::Error>>> {
        std::pin::Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_are_read_as_the_protocol_has_them() {
        assert_eq!(parse_timeout("250m"), Some(Duration::from_millis(250)));
        assert_eq!(parse_timeout("99999999H"), Some(Duration::from_secs(99_999_999 * 3600)));
        for bad in ["", "m", "250", "123456789S", "-1S", "1é"] {
            assert_eq!(parse_timeout(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_full_gate_refuses_with_a_retry_hint_and_gives_places_back() {
        let count = Arc::new(AtomicUsize::new(0));
        let held = Permit::take(&count, 1, "calls").unwrap_or_else(|_| panic!("there is a place"));
        let refused = Permit::take(&count, 1, "calls").map(drop).unwrap_err();
        assert_eq!(refused.code(), Code::ResourceExhausted);
        drop(held);
        assert_eq!(count.load(Ordering::Relaxed), 0);
        assert!(Permit::take(&count, 1, "calls").is_ok());
    }
}
