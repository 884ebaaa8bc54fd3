//! The wire, generated from `proto/roadstead/v1`.

/// The public API.
pub mod v1 {
    #![allow(missing_docs, clippy::all, clippy::pedantic)]
    tonic::include_proto!("roadstead.v1");
    /// Descriptors of the public API, for reflection.
    pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/public.bin"));
}

/// What replicas say to each other.
pub mod internal {
    #![allow(missing_docs, clippy::all, clippy::pedantic)]
    tonic::include_proto!("roadstead.internal.v1");
}
