//! What a benchmark says: lines for people, then one line of JSON.

use anyhow::Result;
use serde::Serialize;
use serde_json::Value;

/// A bar and whether it was reached.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Check {
    name: String,
    value: f64,
    limit: f64,
    ok: bool,
}

impl Check {
    /// The value must not be below the limit.
    pub(crate) fn at_least(name: &str, value: f64, limit: f64) -> Self {
        Self { name: name.to_owned(), value, limit, ok: value >= limit }
    }

    /// The value must not be above the limit.
    pub(crate) fn at_most(name: &str, value: f64, limit: f64) -> Self {
        Self { name: name.to_owned(), value, limit, ok: value <= limit }
    }

    /// The value must be below the limit.
    pub(crate) fn below(name: &str, value: f64, limit: f64) -> Self {
        Self { name: name.to_owned(), value, limit, ok: value < limit }
    }
}

/// What a benchmark found.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    /// Its name.
    pub(crate) bench: &'static str,
    /// Of `value`.
    pub(crate) unit: &'static str,
    /// The figure.
    pub(crate) value: f64,
    /// Over the peer's figure, or over the bound.
    pub(crate) ratio: f64,
    /// Every bar.
    pub(crate) checks: Vec<Check>,
    /// Everything else that was measured.
    pub(crate) details: Value,
}

impl Report {
    /// Prints the checks, then the JSON as the last line; true if every bar was reached.
    pub(crate) fn print(&self) -> Result<bool> {
        for check in &self.checks {
            let word = if check.ok { "ok  " } else { "MISS" };
            eprintln!("{word} {}: {:.3} (bar {:.3})", check.name, check.value, check.limit);
        }
        println!("{}", serde_json::to_string(self)?);
        Ok(self.checks.iter().all(|check| check.ok))
    }
}

/// The middle of some figures.
pub(crate) fn median(figures: &[f64]) -> f64 {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => 0.0,
        n if n % 2 == 1 => sorted[n / 2],
        n => f64::midpoint(sorted[n / 2 - 1], sorted[n / 2]),
    }
}
