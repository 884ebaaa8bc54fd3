//! Compiles what the benchmarks' peer speaks.

use std::path::Path;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("proto");
    println!("cargo:rerun-if-changed={}", folder.display());
    let files = protox::compile([folder.join("etcd.proto")], [&folder])?;
    tonic_prost_build::configure().build_server(false).compile_fds(files)?;
    Ok(())
}
