//! Classes as people write them: what they render to, and what is refused.
#![allow(clippy::unwrap_used)] // a test that cannot go on should panic

mod given;
mod examples;
mod render;
mod budgets;
mod refusals;
mod beyond;
mod sound;
mod largest;
mod sums;
mod properties;
