//! `watch`: 1,000 watchers of one cluster or owner each and 3 of the whole fleet, while placements go on at a steady rate: is every watcher
//! complete, and how long after its acknowledgement does an event arrive?

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use roadstead_api::v1;
use roadstead_api::v1::place_tenants_response::Result as Answer;
use roadstead_api::v1::placement_service_client::PlacementServiceClient;
use roadstead_tests::fleet::{Fleet, Placements, cluster_name};
use roadstead_tests::group::Group;
use roadstead_tests::load::histogram;
use serde_json::json;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

use crate::report::{Check, Report};

const MEMBERS: usize = 3;
const CLUSTERS: u32 = 1_000;
const OWNERS: u64 = 1_000;
/// Watchers that share a connection.
const WATCHERS_PER_CONNECTION: usize = 50;
/// Streams that placements are sent through.
const STREAMS: u64 = 6;
/// How often each stream sends what is due.
const TICK: Duration = Duration::from_millis(5);
/// A watcher that has not seen everything so long after the last acknowledgement has missed something.
const COMPLETE_WITHIN: Duration = Duration::from_secs(15);

/// Settings; the defaults are what the bars are meant for.
#[derive(Clone, Debug, Parser)]
#[command(name = "roadstead-bench watch", disable_help_subcommand = true)]
struct Settings {
    /// Watchers of one cluster or one owner each, half and half.
    #[arg(long, default_value_t = 1_000)]
    watchers: usize,
    /// Watchers of the whole fleet.
    #[arg(long, default_value_t = 3)]
    whole: usize,
    /// Placements a second.
    #[arg(long, default_value_t = 10_000)]
    rate: u64,
    /// Seconds of load.
    #[arg(long, default_value_t = 20)]
    seconds: u64,
}

/// What a watcher follows.
#[derive(Clone, Copy, Debug)]
enum Follows {
    Cluster(u32),
    Owner(u64),
    Whole,
}

/// When each placement was acknowledged (microseconds since the start; 0 is not yet) and to which cluster it went.
struct Board {
    start: Instant,
    sent_us: Vec<AtomicU64>,
    acknowledged_us: Vec<AtomicU64>,
    cluster: Vec<AtomicU64>,
}

impl Board {
    fn now_us(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_micros()).unwrap_or(u64::MAX)
    }
}

/// Runs it.
pub(crate) async fn run(arguments: &[String]) -> Result<Report> {
    let settings = Settings::parse_from(std::iter::once("watch").chain(arguments.iter().map(String::as_str)));
    let group = Group::start(MEMBERS).await?;
    Fleet { clusters: CLUSTERS, regions: 48, tenant_cap: 1_000 }.declare(&group.channel(1, "admin-test")?).await?;
    let total = settings.rate * settings.seconds;
    let slots = || (0..total).map(|_| AtomicU64::new(0)).collect::<Vec<_>>();
    let board = Arc::new(Board { start: Instant::now(), sent_us: slots(), acknowledged_us: slots(), cluster: slots() });
    let (stop, stopped) = tokio::sync::watch::channel(None);
    let mut watchers = JoinSet::new();
    let mut channel = None;
    let (ready, mut all_ready) = mpsc::channel(settings.watchers + settings.whole);
    for number in 0..settings.watchers + settings.whole {
        if number % WATCHERS_PER_CONNECTION == 0 {
            channel = Some(group.channel(number / WATCHERS_PER_CONNECTION % MEMBERS + 1, "viewer-test")?);
        }
        let channel = channel.clone().context("the first watcher makes a connection")?;
        watchers.spawn(watch(channel, follows(&settings, number), board.clone(), ready.clone(), stopped.clone()));
    }
    for _ in 0..settings.watchers + settings.whole {
        all_ready.recv().await.context("a watcher has ended")?;
    }
    let started = Instant::now();
    let mut streams = JoinSet::new();
    for stream in 0..STREAMS {
        let client = PlacementServiceClient::new(group.channel(usize::try_from(stream)? % MEMBERS + 1, "client-test")?);
        streams.spawn(place(client, stream, settings.rate, total, board.clone()));
    }
    while let Some(done) = streams.join_next().await {
        done.context("a stream panicked")??;
    }
    let took = started.elapsed();
    stop.send(Some(Instant::now() + COMPLETE_WITHIN)).context("all watchers have ended")?;
    let (mut lag, mut since_sent, mut events, mut incomplete) = (histogram(), histogram(), 0, 0);
    while let Some(done) = watchers.join_next().await {
        let (follows, seen) = done.context("a watcher panicked")??;
        events += seen.len();
        let expected = expected(follows, &board);
        let numbers: HashSet<u64> = seen.iter().map(|(number, _)| *number).collect();
        if numbers.len() != seen.len() || numbers != expected {
            incomplete += 1;
            eprintln!("{follows:?} saw {} events of {} tenants, expected {}", seen.len(), numbers.len(), expected.len());
        }
        for (number, at_us) in seen {
            let slot = usize::try_from(number)?;
            let after = |slots: &[AtomicU64]| slots.get(slot).map_or(0, |us| at_us.saturating_sub(us.load(Ordering::Relaxed)));
            lag.saturating_record(after(&board.acknowledged_us));
            since_sent.saturating_record(after(&board.sent_us));
        }
    }
    let ms = |us: u64| Duration::from_micros(us).as_secs_f64() * 1e3;
    let p99 = ms(lag.value_at_quantile(0.99));
    #[expect(clippy::cast_precision_loss, reason = "counts are far below 2^52")]
    let rate = total as f64 / took.as_secs_f64();
    Ok(Report {
        bench: "watch",
        unit: "ms",
        value: p99,
        ratio: p99 / 100.0,
        checks: vec![
            Check::below("p99 lag in ms after the acknowledgement", p99, 100.0),
            Check::at_most("watchers that missed an event or saw one twice", f64::from(incomplete), 0.0),
            Check::at_least("placements/s meanwhile", rate, 9_500.0),
            Check::at_least("watchers", f64::from(u32::try_from(settings.watchers)?), 1_000.0),
        ],
        details: json!({
            "placements": total, "events": events, "lag_p50_ms": ms(lag.value_at_quantile(0.5)), "lag_max_ms": ms(lag.max()),
            "since_sent_p50_ms": ms(since_sent.value_at_quantile(0.5)), "since_sent_p99_ms": ms(since_sent.value_at_quantile(0.99)),
        }),
    })
}

fn follows(settings: &Settings, number: usize) -> Follows {
    let half = u32::try_from(number / 2).unwrap_or(u32::MAX);
    match (number < settings.watchers, number % 2) {
        (false, _) => Follows::Whole,
        (true, 0) => Follows::Cluster(half % CLUSTERS),
        (true, _) => Follows::Owner(u64::from(half) % OWNERS),
    }
}

/// The numbers of the placements that a watcher must have seen.
fn expected(follows: Follows, board: &Board) -> HashSet<u64> {
    let all = board.cluster.iter().zip(0u64..);
    all.filter(|(cluster, number)| match follows {
        Follows::Cluster(wanted) => cluster.load(Ordering::Relaxed) == u64::from(wanted),
        Follows::Owner(wanted) => number % OWNERS == wanted,
        Follows::Whole => true,
    })
    .map(|(_, number)| number)
    .collect()
}

/// Follows until it has seen everything, or until the time is up; what it saw: placement and time.
async fn watch(
    channel: Channel,
    follows: Follows,
    board: Arc<Board>,
    ready: mpsc::Sender<()>,
    mut stopped: tokio::sync::watch::Receiver<Option<Instant>>,
) -> Result<(Follows, Vec<(u64, u64)>)> {
    let mut request = v1::WatchRequest { kinds: vec![v1::WatchKind::Tenant.into()], with_initial_state: true, ..Default::default() };
    match follows {
        Follows::Cluster(number) => request.cluster = cluster_name(number),
        Follows::Owner(number) => request.owner = format!("owner-{number:03}"),
        Follows::Whole => {}
    }
    let mut stream = PlacementServiceClient::new(channel).watch(request).await.context("a watch cannot be opened")?.into_inner();
    while !stream.message().await.context("a watch broke")?.context("a watch ended")?.initial_state_complete {}
    ready.send(()).await.context("nobody waits for the watchers")?;
    let mut seen = Vec::new();
    let (mut end, mut wanted) = (None, usize::MAX);
    loop {
        if seen.len() >= wanted {
            return Ok((follows, seen));
        }
        tokio::select! {
            message = stream.message() => {
                let message = message.context("a watch broke")?.context("a watch ended")?;
                let now = board.now_us();
                for event in message.events.iter().filter(|event| event.r#type() == v1::watch_event::Type::Added) {
                    let Some(v1::watch_event::Object::Tenant(tenant)) = &event.object else { continue };
                    let number = tenant.name.rsplit('-').next().and_then(|digits| digits.parse().ok());
                    seen.push((number.with_context(|| format!("{} is not of this benchmark", tenant.name))?, now));
                }
            }
            _ = stopped.changed(), if end.is_none() => {
                end = *stopped.borrow();
                wanted = expected(follows, &board).len();
            }
            () = tokio::time::sleep_until(end.unwrap_or_else(Instant::now).into()), if end.is_some() => return Ok((follows, seen)),
        }
    }
}

/// Sends every [`STREAMS`]th placement when it is due and notes its acknowledgement.
async fn place(mut client: PlacementServiceClient<Channel>, stream: u64, rate: u64, total: u64, board: Arc<Board>) -> Result<()> {
    let placements = Placements::new("bench");
    let (sender, receiver) = mpsc::channel(1_024);
    let own = (total + STREAMS - 1 - stream) / STREAMS;
    let sending = tokio::spawn({
        let (board, placements) = (board.clone(), placements.clone());
        async move {
            let (start, mut next) = (Instant::now(), 0);
            let mut tick = tokio::time::interval(TICK);
            while next < own {
                tick.tick().await;
                let due = u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX).saturating_mul(rate) / STREAMS / 1_000_000;
                while next < due.min(own) {
                    let number = next * STREAMS + stream;
                    board.sent_us[usize::try_from(number)?].store(board.now_us(), Ordering::Relaxed);
                    let request = v1::PlaceTenantsRequest { sequence: number, place: Some(placements.request(number)) };
                    sender.send(request).await.context("the stream has ended")?;
                    next += 1;
                }
            }
            // Kept open until all are answered: closing it is the server's sign to end.
            Ok::<_, anyhow::Error>(sender)
        }
    });
    let mut answers = client.place_tenants(ReceiverStream::new(receiver)).await.context("a stream cannot be opened")?.into_inner();
    for _ in 0..own {
        let answer = answers.message().await.context("a stream broke")?.context("a stream ended before its answers")?;
        let slot = usize::try_from(answer.sequence)?;
        let Some(Answer::Acknowledgement(done)) = answer.result else { anyhow::bail!("a placement was refused: {:?}", answer.result) };
        let cluster = done.binding.context("a tenant was not bound")?.cluster;
        let number = cluster.strip_prefix('c').and_then(|digits| digits.parse().ok()).context("a cluster of another benchmark")?;
        board.cluster[slot].store(number, Ordering::Relaxed);
        let before = board.acknowledged_us[slot].swap(board.now_us(), Ordering::Relaxed);
        ensure!(before == 0, "placement {slot} was acknowledged twice");
    }
    sending.await.context("a sender panicked")??;
    Ok(())
}
