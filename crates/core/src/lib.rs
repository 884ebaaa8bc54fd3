//! Every decision of Roadstead: data in, data out.
//!
//! This crate knows no clock, no randomness, no file and no socket. Time is an argument
//! ([`time::Timestamp`], taken from the replicated log), chance is a seed, and what a caller wants is
//! a [`request::Request`]. The modules are listed in reading order:
//!
//! 1. words: [`id`], [`time`], [`resources`], [`constraint`], [`cluster`], [`pool`], [`class`],
//!    [`tenant`], [`policy`];
//! 2. deciding: [`ledger`] (what is counted), [`schedule`] (where a tenant goes and why), [`decide`] (request -> command);
//! 3. keeping: [`observed`] and [`join`] (what agents tell, and how they are let in), [`command`], [`state`], [`apply`], [`history`], [`codec`];
//! 4. carrying: [`intent`] (what is wanted of a cluster), [`reconcile`] (what comes next there).

mod text;
pub mod id;
pub mod time;
pub mod resources;
pub mod constraint;
pub mod cluster;
pub mod pool;
pub mod class;
pub mod tenant;
pub mod policy;

pub mod ledger;
pub mod schedule;

pub mod observed;
pub mod join;
pub mod agreement;
pub mod request;
pub mod decide;
pub mod command;
pub mod state;
pub mod apply;
pub mod history;
mod digest;
pub mod codec;

pub mod intent;
pub mod reconcile;
