//! Runs the work of the benchmark `core-place` alone: the same fleet, tenants and reference, without anything but the core to build.
//!
//! `cargo run --release -p roadstead-core --example core_place -- [rounds] [fill in percent]...`; prints one line per fill.
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "../../../tests/src/bin/bench/chance.rs"]
mod chance;
#[path = "../../../tests/src/bin/bench/core_place/workload/mod.rs"]
mod workload;

use self::workload::{Bench, ROUNDS};

fn main() {
    let arguments: Vec<usize> = std::env::args().skip(1).map(|text| text.parse().unwrap()).collect();
    let rounds = arguments.first().copied().unwrap_or(ROUNDS);
    let fills = if arguments.len() > 1 { &arguments[1..] } else { &[50, 90, 99] };
    let mut bench = Bench::new();
    println!("{} clusters, {rounds} rounds", workload::CLUSTERS);
    for fill in fills {
        bench.fill(*fill as f64 / 100.0);
        let seen = bench.hold(rounds);
        println!("{fill} %: {seen}, {} limits crossed", bench.crossed());
    }
}
