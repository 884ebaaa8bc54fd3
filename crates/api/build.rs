//! Compiles proto/ without a system protoc.

use std::path::{Path, PathBuf};

const PUBLIC: [&str; 6] = ["types", "placement", "fleet", "agent", "join", "admin"];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../proto");
    println!("cargo:rerun-if-changed={}", root.display());
    let public: Vec<PathBuf> = PUBLIC.iter().map(|name| root.join(format!("roadstead/v1/{name}.proto"))).collect();
    let internal = root.join("roadstead/internal/v1/replica.proto");
    let mut compiler = protox::Compiler::new([&root])?;
    compiler.include_source_info(true).include_imports(true).open_files(&public)?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("public.bin"), compiler.encode_file_descriptor_set())?;
    compiler.open_file(&internal)?;
    // Ordered maps: a message has one encoding, which request fingerprints rest on.
    tonic_prost_build::configure().bytes(".").btree_map(".").compile_fds(compiler.file_descriptor_set())?;
    Ok(())
}
