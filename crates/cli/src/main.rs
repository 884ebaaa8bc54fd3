//! The `roadstead` binary.

/// What one thread takes another gives back: requests come in on the runtime's threads and end on the driver's (decision 0009).
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    roadstead_cli::verbs::main()
}
