//! `cargo xtask`: sets the tools up, checks, tests and measures. It builds nothing that is shipped.
//!
//! Modules in reading order: [`run`] (one step: its commands, its outcome, the summary), [`tools`] (what is not Rust, fetched once into
//! `.tools/`), [`checks`] (the steps of `cargo xtask test`), [`purity`] (which crate may depend on what), [`protos`] (buf),
//! [`mod@reference`] (docs/api.md), [`mod@bench`].

mod run;
mod tools;
mod checks;
mod purity;
mod protos;
mod reference;
mod bench;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Set-up, checks, tests and benchmarks of this repository", disable_help_subcommand = true)]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Sets up, then runs every check and test; the last line is `N passed, M failed`.
    Test {
        /// Only these steps (see --list).
        steps: Vec<String>,
        /// Leave out the steps that take minutes.
        #[arg(long)]
        quick: bool,
        /// Name the steps and stop.
        #[arg(long)]
        list: bool,
        /// Show the commands' output as it comes, too.
        #[arg(long, short)]
        verbose: bool,
    },
    /// Builds and runs one benchmark in release; the last line is its JSON.
    Bench {
        /// Which: see `cargo xtask bench list`.
        name: String,
        /// Passed on, as in `--rounds 5`.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Fetches and builds the tools that the checks need into `.tools/`.
    Setup,
    /// Writes what is generated and committed: docs/api.md.
    Gen,
    /// Declares the protos as they are to be what later ones must stay compatible with.
    ProtoBaseline,
}

fn main() -> std::process::ExitCode {
    let result = match Arguments::parse().verb {
        Verb::Test { steps, quick, list, verbose } => checks::test(&steps, quick, list, verbose),
        Verb::Bench { name, arguments } => bench::run(&name, &arguments),
        Verb::Setup => tools::set_up_all(),
        Verb::Gen => reference::write(),
        Verb::ProtoBaseline => protos::write_baseline(),
    };
    match result {
        Ok(true) => std::process::ExitCode::SUCCESS,
        Ok(false) => std::process::ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            std::process::ExitCode::FAILURE
        }
    }
}
