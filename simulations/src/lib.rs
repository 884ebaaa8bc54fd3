//! The real core and consensus in virtual time, with every fault that a seed can draw.
//!
//! Nothing here decides anything: machines, disks, clocks, network, callers and agents are models; the replicas are the product's. The same seed
//! gives the same run. Modules in reading order: [`chance`], [`temper`] (what a seed is like), [`net`], [`disk`], [`machine`]; [`caller`] (who
//! asks), [`fleet`], [`mod@cluster`] and [`agent`] (where tenants are carried); [`truth`], [`checks`], [`carried`], [`linearizable`] (what must hold);
//! [`world`] with `carry`, `calls`, `storm` and `tend` (one run), [`seeds`] (many).

pub mod chance;
pub mod temper;
pub mod net;
pub mod disk;
pub mod machine;
pub mod caller;
pub mod fleet;
pub mod cluster;
pub mod agent;
pub mod truth;
pub mod checks;
pub mod carried;
pub mod linearizable;
pub mod world;
mod carry;
mod calls;
mod storm;
mod tend;
pub mod seeds;
