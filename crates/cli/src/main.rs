//! The `roadstead` binary.

fn main() -> std::process::ExitCode {
    roadstead_cli::verbs::main()
}
