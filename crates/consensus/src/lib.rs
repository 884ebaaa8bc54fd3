//! Raft through one door: [`replica::Replica::on`] takes an input and a time and returns outputs.
//!
//! This crate knows no async runtime, no clock, no chance, no file and no socket. The server's driver thread and
//! the simulator both do nothing but carry out outputs. Modules in reading order:
//!
//! 1. the contract: [`member`] (who takes part), [`door`] (inputs, outputs, their duties), [`recover`];
//! 2. the state machine around raft-rs: [`replica`] (the door), `ready` (carrying out, applying), `lead` (deciding, proposing), `change`
//!    (members, handing over), `restore`, `digest`;
//! 3. what it keeps: `machine` (what entries do), `store` (the log's tail), `disk` (writes on their way), `batch` (requests), `reads`,
//!    `snapshots`, `clock` (replicated time), `wire` (what replicas say).

pub mod member;
pub mod door;
pub mod recover;

pub mod replica;
mod ready;
mod lead;
mod change;
mod restore;
mod digest;

mod machine;
mod store;
mod disk;
mod batch;
mod reads;
mod snapshots;
mod clock;
mod wire;
