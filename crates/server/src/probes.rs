//! Plain HTTP for machines that look after this one: /metrics, /healthz, /readyz.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::handle::Handle;
use crate::metrics::Metrics;
use crate::watch::history::History;

#[derive(Clone)]
struct Probed {
    handle: Handle,
    metrics: Arc<Metrics>,
    history: Arc<History>,
}

/// Serves the probes until `stop` is cancelled.
pub(crate) async fn serve(
    socket: TcpListener,
    handle: Handle,
    metrics: Arc<Metrics>,
    history: Arc<History>,
    stop: CancellationToken,
) -> std::io::Result<()> {
    let router = Router::new()
        .route("/metrics", get(show_metrics))
        .route("/healthz", get(healthy))
        .route("/readyz", get(ready))
        .with_state(Probed { handle, metrics, history });
    axum::serve(socket, router).with_graceful_shutdown(stop.cancelled_owned()).await
}

async fn show_metrics(State(probed): State<Probed>) -> impl IntoResponse {
    if let Ok(state) = probed.handle.read(false).await {
        probed.metrics.scrape(&state, probed.history.watchers());
    }
    ([(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], probed.metrics.encode())
}

/// Healthy: the driver thread answers.
async fn healthy(State(probed): State<Probed>) -> impl IntoResponse {
    match probed.handle.status().await {
        Ok(_) => (StatusCode::OK, "ok\n".to_owned()),
        Err(error) => (StatusCode::SERVICE_UNAVAILABLE, format!("{error}\n")),
    }
}

/// Ready: it knows a leader and is not stopping, so that any call may be sent here.
async fn ready(State(probed): State<Probed>) -> impl IntoResponse {
    if probed.handle.stopping().is_cancelled() {
        return (StatusCode::SERVICE_UNAVAILABLE, "stopping\n");
    }
    match probed.handle.role().borrow().leader {
        Some(_) => (StatusCode::OK, "ready\n"),
        None => (StatusCode::SERVICE_UNAVAILABLE, "no leader is known\n"),
    }
}
