//! `roadstead-sim`: runs seeds, and replays one with everything that happened.

use clap::Parser;
use roadstead_consensus::replica::Sabotage;
use roadstead_simulations::seeds;
use roadstead_simulations::world::Planted;

/// Runs the real core and consensus in virtual time, with faults drawn from a seed.
#[derive(Parser)]
#[command(name = "roadstead-sim")]
struct Arguments {
    /// Run this seed.
    #[arg(long, conflicts_with = "seeds")]
    seed: Option<u64>,
    /// Run these seeds: FIRST..END, without END.
    #[arg(long, default_value = "0..2000")]
    seeds: String,
    /// Plant a fault: skip-sync, answer-before-commit, decide-before-first-entry, count-without-reservations, lose-request-ids, forget-fence,
    /// act-on-older-intents, make-lost-volumes, complete-too-soon, tell-only-news, tell-while-working, agree-unasked,
    /// count-removals-anew, delete-orphans, release-silent, move-silent.
    #[arg(long)]
    sabotage: Option<String>,
    /// With --seed: print everything that happens.
    #[arg(long, requires = "seed")]
    trace: bool,
}

fn planted(name: &str) -> anyhow::Result<Planted> {
    Ok(match name {
        "skip-sync" => Planted::SkipSync,
        "act-on-older-intents" => Planted::ActOnOlderIntents,
        "make-lost-volumes" => Planted::MakeLostVolumes,
        "complete-too-soon" => Planted::CompleteTooSoon,
        "tell-only-news" => Planted::TellOnlyNews,
        "tell-while-working" => Planted::TellWhileWorking,
        "agree-unasked" => Planted::AgreeUnasked,
        "count-removals-anew" => Planted::CountRemovalsAnew,
        "delete-orphans" => Planted::DeleteOrphans,
        "release-silent" => Planted::ReleaseSilent,
        "move-silent" => Planted::MoveSilent,
        "answer-before-commit" => Planted::Inside(Sabotage::AnswerBeforeCommit),
        "decide-before-first-entry" => Planted::Inside(Sabotage::DecideBeforeFirstEntry),
        "count-without-reservations" => Planted::Inside(Sabotage::CountWithoutReservations),
        "lose-request-ids" => Planted::Inside(Sabotage::LoseRequestIdsInSnapshot),
        "forget-fence" => Planted::Inside(Sabotage::ForgetFence),
        other => anyhow::bail!("{other:?} is no fault that can be planted; see --help"),
    })
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let planted = arguments.sabotage.as_deref().map(planted).transpose()?;
    if let Some(seed) = arguments.seed {
        let verdict = seeds::run(seed, planted, arguments.trace);
        verdict.told.iter().for_each(|line| println!("{line}"));
        println!("seed {seed}: hash {:016x}, {:?}", verdict.hash, verdict.stats);
        return verdict.violation.map_or(Ok(()), |what| Err(anyhow::anyhow!(what)));
    }
    let bounds = arguments.seeds.split_once("..").map(|(first, end)| (first.parse(), end.parse()));
    let Some((Ok(first), Ok(end))) = bounds else { anyhow::bail!("--seeds wants FIRST..END, as in 0..2000") };
    let summary = seeds::search(first..end, planted);
    println!("{} seeds, {:?}", summary.seeds, summary.stats);
    summary.first.and_then(|first| first.violation).map_or(Ok(()), |what| Err(anyhow::anyhow!(what)))
}
