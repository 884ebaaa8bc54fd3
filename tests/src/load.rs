//! A closed loop of clients: each sends its next request when the last one was answered. The same program drives every system measured.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use hdrhistogram::Histogram;

/// Latencies are kept to three digits up to this many microseconds.
const LONGEST_US: u64 = 120_000_000;
/// A client whose requests fail this often in a row gives up: something is broken that waiting does not mend.
const MOST_FAILURES_IN_A_ROW: u32 = 100;
/// A refused client waits so long before it asks again.
const BACK_OFF: Duration = Duration::from_millis(10);

/// How much load.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Clients, spread over the connections in turn.
    pub clients: usize,
    /// Not measured.
    pub warm_up: Duration,
    /// Measured.
    pub measured: Duration,
}

/// What was measured.
#[derive(Clone, Debug)]
pub struct Measured {
    /// Units done (placements, reads) per second.
    pub rate: f64,
    /// Units done.
    pub done: u64,
    /// Requests that failed and were sent again.
    pub failed: u64,
    /// Latency in microseconds of each request.
    pub latency: Histogram<u64>,
}

impl Measured {
    /// A quantile of the latency in milliseconds.
    #[must_use]
    pub fn quantile_ms(&self, quantile: f64) -> f64 {
        let us = self.latency.value_at_quantile(quantile);
        Duration::from_micros(us).as_secs_f64() * 1e3
    }
}

/// A histogram of latencies in microseconds.
///
/// # Panics
/// Never: the bounds are fixed.
#[must_use]
pub fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LONGEST_US, 3).expect("the bounds of a histogram of latencies are valid")
}

/// Runs the load. `call` sends request number `n` of all over a connection and says how many units it was worth; a failed request is sent
/// again with the same number.
///
/// # Errors
/// If a client's requests fail again and again.
pub async fn closed_loop<C, F>(shape: Shape, channels: &[C], call: impl Fn(C, u64) -> F + Send + Sync + Clone + 'static) -> Result<Measured>
where
    C: Clone + Send + Sync + 'static,
    F: Future<Output = Result<u64>> + Send + 'static,
{
    let numbers = Arc::new(AtomicU64::new(0));
    let from = Instant::now() + shape.warm_up;
    let to = from + shape.measured;
    let clients: Vec<_> = (0..shape.clients)
        .map(|client| {
            let (call, numbers, channel) = (call.clone(), numbers.clone(), channels[client % channels.len()].clone());
            tokio::spawn(one_client(channel, numbers, from, to, call))
        })
        .collect();
    let (mut latency, mut done, mut failed) = (histogram(), 0, 0);
    for client in clients {
        let own = client.await.context("a client panicked")??;
        latency.add(&own.0).context("histograms have the same bounds")?;
        done += own.1;
        failed += own.2;
    }
    #[expect(clippy::cast_precision_loss, reason = "counts are far below 2^52")]
    let rate = done as f64 / shape.measured.as_secs_f64();
    Ok(Measured { rate, done, failed, latency })
}

async fn one_client<C, F>(
    channel: C,
    numbers: Arc<AtomicU64>,
    from: Instant,
    to: Instant,
    call: impl Fn(C, u64) -> F,
) -> Result<(Histogram<u64>, u64, u64)>
where
    C: Clone,
    F: Future<Output = Result<u64>>,
{
    let (mut latency, mut done, mut failed) = (histogram(), 0, 0);
    while Instant::now() < to {
        let number = numbers.fetch_add(1, Ordering::Relaxed);
        let sent = Instant::now();
        let units = persistently(&channel, number, &call, &mut failed).await?;
        let answered = Instant::now();
        if answered >= from && answered < to {
            done += units;
            let us = u64::try_from(answered.duration_since(sent).as_micros()).unwrap_or(LONGEST_US);
            latency.saturating_record(us);
        }
    }
    Ok((latency, done, failed))
}

/// Sends each of the requests 0 to `total` until it is done, some at a time. How long that took, and how many failed and were sent again.
///
/// # Errors
/// If a request fails again and again.
pub async fn each_once<C, F>(
    total: u64,
    clients: usize,
    channels: &[C],
    call: impl Fn(C, u64) -> F + Send + Sync + Clone + 'static,
) -> Result<(Duration, u64)>
where
    C: Clone + Send + Sync + 'static,
    F: Future<Output = Result<u64>> + Send + 'static,
{
    let (numbers, started) = (Arc::new(AtomicU64::new(0)), Instant::now());
    let clients: Vec<_> = (0..clients)
        .map(|client| {
            let (call, numbers, channel) = (call.clone(), numbers.clone(), channels[client % channels.len()].clone());
            tokio::spawn(async move {
                let mut failed = 0;
                loop {
                    let number = numbers.fetch_add(1, Ordering::Relaxed);
                    if number >= total {
                        return Ok::<_, anyhow::Error>(failed);
                    }
                    persistently(&channel, number, &call, &mut failed).await?;
                }
            })
        })
        .collect();
    let mut failed = 0;
    for client in clients {
        failed += client.await.context("a client panicked")??;
    }
    Ok((started.elapsed(), failed))
}

/// Sends one request until it is done; how many units it was worth.
async fn persistently<C, F>(channel: &C, number: u64, call: &impl Fn(C, u64) -> F, failed: &mut u64) -> Result<u64>
where
    C: Clone,
    F: Future<Output = Result<u64>>,
{
    let mut in_a_row = 0;
    loop {
        match call(channel.clone(), number).await {
            Ok(units) => return Ok(units),
            Err(error) => {
                *failed += 1;
                in_a_row += 1;
                if in_a_row > MOST_FAILURES_IN_A_ROW {
                    return Err(error.context(format!("request {number} failed {in_a_row} times in a row")));
                }
                tokio::time::sleep(BACK_OFF).await;
            }
        }
    }
}
