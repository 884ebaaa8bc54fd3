//! The `roadstead` binary.

/// Many small things are made in one thread and dropped in another, which this allocator is made for.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    roadstead_cli::verbs::main()
}
