//! `core-place`: decisions of the scheduler a second, on one core.
//!
//! 1,000 clusters in 48 regions, one in ten tainted; the fleet is held at 50, 90 and 99 % by one release for each placement. Time is
//! the thread's own on its core, so that what else runs on the machine is not measured; the rate on the wall is printed beside it. One
//! decision of a hundred is compared with the reference. The work itself is `workload`, which an example of the core runs alone, too.
//!
//! Peer: Karmada's in-memory scheduler at 1,000 clusters, 62 to 97 placements/s on 2 cores (public figures; not run here).

mod workload;

use anyhow::{Result, bail};
use serde_json::json;

use self::workload::{Bench, CLUSTERS, ROUNDS, Seen};
use crate::report::{Check, Report};

/// The bar, in placements a second.
const BAR: f64 = 500_000.0;
/// Karmada at 1,000 clusters, the better of what was seen.
const PEER: f64 = 97.0;
/// How full the fleet is held, in percent.
const FILLS: [u32; 3] = [50, 90, 99];

/// Runs it.
pub(crate) fn run(arguments: &[String]) -> Result<Report> {
    let rounds = match arguments {
        [] => ROUNDS,
        [option, rounds] if option == "--rounds" => rounds.parse()?,
        _ => bail!("core-place knows --rounds N only"),
    };
    let mut bench = Bench::new();
    let (mut seen, mut crossed) = (Vec::new(), 0);
    for fill in FILLS {
        bench.fill(f64::from(fill) / 100.0);
        let at_fill = bench.hold(rounds);
        crossed += bench.crossed();
        eprintln!("{fill} %: {at_fill}");
        seen.push(at_fill);
    }
    let value = seen.iter().map(Seen::rate).fold(f64::INFINITY, f64::min);
    let different: usize = seen.iter().map(|seen| seen.different).sum();
    let compared: usize = seen.iter().map(|seen| seen.compared).sum();
    let mut checks: Vec<_> =
        FILLS.iter().zip(&seen).map(|(fill, seen)| Check::at_least(&format!("placements/s at {fill} %"), seen.rate(), BAR)).collect();
    checks.push(Check::at_most("limits crossed", crossed as f64, 0.0));
    checks.push(Check::at_most("decisions that differ from the reference", different as f64, 0.0));
    let fills: Vec<_> = FILLS
        .iter()
        .zip(&seen)
        .map(|(fill, seen)| json!({"fill_percent": fill, "placed": seen.placed, "refused": seen.refused, "reached": seen.reached, "per_wall_second": seen.rate_on_the_wall()}))
        .collect();
    Ok(Report {
        bench: "core-place",
        unit: "placements/s",
        value,
        ratio: value / PEER,
        checks,
        details: json!({
            "cores": 1,
            "clusters": CLUSTERS,
            "fills": fills,
            "compared": compared,
            "gap": different as f64 / compared as f64,
            "peer": "Karmada's scheduler at 1,000 clusters: 62 to 97/s on 2 cores, from public figures, not run here",
        }),
    })
}
