//! Streams of placements: as many requests outstanding as the peer's batches hold, each answered by itself.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use roadstead_api::v1;
use roadstead_api::v1::place_tenants_response::Result as Answer;
use roadstead_api::v1::placement_service_client::PlacementServiceClient;
use roadstead_tests::fleet::Placements;
use roadstead_tests::load::{Measured, Shape, histogram};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

type Client = PlacementServiceClient<Channel>;

/// One stream a client; each keeps `window` requests outstanding and sends the next one for every answer.
pub(crate) async fn closed_loop(shape: Shape, window: u64, clients: &[Client], placements: &Placements) -> Result<Measured> {
    let numbers = Arc::new(AtomicU64::new(0));
    let from = Instant::now() + shape.warm_up;
    let to = from + shape.measured;
    let streams: Vec<_> = (0..shape.clients)
        .map(|number| {
            let one = One { numbers: numbers.clone(), from, to, window, placements: placements.clone() };
            tokio::spawn(one.run(clients[number % clients.len()].clone()))
        })
        .collect();
    let (mut latency, mut failed) = (histogram(), 0);
    for stream in streams {
        let own = stream.await.context("a stream panicked")??;
        latency.add(&own.0).context("histograms have the same bounds")?;
        failed += own.1;
    }
    let done = latency.len();
    #[expect(clippy::cast_precision_loss, reason = "counts are far below 2^52")]
    let rate = done as f64 / shape.measured.as_secs_f64();
    Ok(Measured { rate, done, failed, latency })
}

/// Places the tenants 0 to `tenants` through some streams.
pub(crate) async fn fill(
    tenants: u64,
    streams: u64,
    window: u64,
    clients: &[Client],
    place: impl Fn(u64) -> v1::PlaceTenantRequest + Clone + Send + Sync + 'static,
) -> Result<()> {
    let mut all = Vec::new();
    for stream in 0..streams {
        let mut client = clients[usize::try_from(stream).context("a number of streams fits in memory")? % clients.len()].clone();
        let place = place.clone();
        all.push(tokio::spawn(async move {
            let mut waiting = (stream..tenants).step_by(usize::try_from(streams)?).collect::<std::collections::VecDeque<u64>>();
            let (sender, receiver) = mpsc::channel(usize::try_from(window)? + 1);
            let request = |sequence| v1::PlaceTenantsRequest { sequence, place: Some(place(sequence)) };
            let mut outstanding = 0u64;
            while let Some(number) = (outstanding < window).then(|| waiting.pop_front()).flatten() {
                sender.send(request(number)).await.context("the stream has ended")?;
                outstanding += 1;
            }
            let mut answers = client.place_tenants(ReceiverStream::new(receiver)).await.context("a stream cannot be opened")?.into_inner();
            while outstanding > 0 {
                let answer = answers.message().await.context("a stream broke")?.context("a stream ended before its answers")?;
                let next = match answer.result.context("an answer says nothing")? {
                    Answer::Acknowledgement(_) => waiting.pop_front(),
                    Answer::Error(error) if error.retry_after_ms > 0 => {
                        tokio::time::sleep(Duration::from_millis(error.retry_after_ms)).await;
                        Some(answer.sequence)
                    }
                    Answer::Error(error) => bail!("a placement was refused: {}", error.message),
                };
                match next {
                    Some(number) => sender.send(request(number)).await.context("the stream has ended")?,
                    None => outstanding -= 1,
                }
            }
            Ok(())
        }));
    }
    for stream in all {
        stream.await.context("a stream panicked")??;
    }
    Ok(())
}

struct One {
    numbers: Arc<AtomicU64>,
    from: Instant,
    to: Instant,
    window: u64,
    placements: Placements,
}

impl One {
    fn next(&self) -> v1::PlaceTenantsRequest {
        let number = self.numbers.fetch_add(1, Ordering::Relaxed);
        self.numbered(number)
    }

    fn numbered(&self, number: u64) -> v1::PlaceTenantsRequest {
        v1::PlaceTenantsRequest { sequence: number, place: Some(self.placements.request(number)) }
    }

    async fn run(self, mut client: Client) -> Result<(hdrhistogram::Histogram<u64>, u64)> {
        let room = usize::try_from(self.window).context("a window fits in memory")?;
        let (sender, receiver) = mpsc::channel(room + 1);
        let mut outstanding = HashMap::with_capacity(room);
        for _ in 0..self.window {
            let request = self.next();
            outstanding.insert(request.sequence, Instant::now());
            sender.send(request).await.context("the stream has ended")?;
        }
        let mut answers = client.place_tenants(ReceiverStream::new(receiver)).await.context("a stream cannot be opened")?.into_inner();
        let (mut latency, mut failed) = (histogram(), 0);
        while !outstanding.is_empty() {
            let answer = answers.message().await.context("a stream broke")?.context("a stream ended before its answers")?;
            match answer.result.context("an answer says nothing")? {
                Answer::Acknowledgement(done) => {
                    anyhow::ensure!(done.binding.is_some(), "a tenant was not bound: the fleet is too small for this benchmark");
                    let sent = outstanding.remove(&answer.sequence).context("an answer to nothing that was asked")?;
                    let now = Instant::now();
                    if now >= self.from && now < self.to {
                        latency.saturating_record(u64::try_from(now.duration_since(sent).as_micros()).unwrap_or(u64::MAX));
                    }
                    if now < self.to {
                        let request = self.next();
                        outstanding.insert(request.sequence, now);
                        sender.send(request).await.context("the stream has ended")?;
                    }
                }
                Answer::Error(error) if error.retry_after_ms > 0 => {
                    failed += 1;
                    tokio::time::sleep(Duration::from_millis(error.retry_after_ms)).await;
                    sender.send(self.numbered(answer.sequence)).await.context("the stream has ended")?;
                }
                Answer::Error(error) => bail!("a placement was refused: {}", error.message),
            }
        }
        Ok((latency, failed))
    }
}
