//! What people and programs see: tables, YAML, JSON, names.
//!
//! Colour only on a terminal, and never with NO_COLOR. Tables are plain columns, so that they can be cut and sorted.

pub mod table;
pub mod objects;
pub mod details;
pub mod status;
pub mod bars;
pub mod diff;

use std::io::{IsTerminal, Write};

pub use table::{Cells, Table};

use crate::failure::Failure;

/// How objects of Kubernetes are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Objects {
    /// YAML documents, as kubectl takes them.
    #[default]
    Yaml,
    /// One JSON list, as kubectl takes it.
    Json,
}

/// How answers are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// Columns.
    #[default]
    Table,
    /// More columns.
    Wide,
    /// JSON documents.
    Json,
    /// YAML documents, as `apply` takes them.
    Yaml,
    /// Kind and name only.
    Name,
}

/// Whether colour is wanted on stdout.
#[must_use]
pub fn colour() -> bool {
    std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// Colours of states.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Paint {
    /// Well.
    Green,
    /// Waits or is limited.
    Yellow,
    /// Wrong.
    Red,
    /// Of no weight.
    Dim,
    /// A heading.
    Bold,
}

/// Text in a colour, or as it is.
#[must_use]
pub fn paint(text: &str, paint: Paint, colour: bool) -> String {
    if !colour {
        return text.to_owned();
    }
    let code = match paint {
        Paint::Green => "32",
        Paint::Yellow => "33",
        Paint::Red => "31",
        Paint::Dim => "2",
        Paint::Bold => "1",
    };
    format!("\u{1b}[{code}m{text}\u{1b}[0m")
}

/// Writes to stdout. That nobody reads it any more ends no program that has to tidy up after itself.
pub fn out(text: &str) {
    tell(text);
}

/// Writes to stdout; says whether somebody still reads it.
pub fn tell(text: &str) -> bool {
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).is_ok()
}

/// A value as YAML, with `---` between documents.
///
/// # Errors
/// Never for our own types; the serializer's otherwise.
pub fn yaml<T: serde::Serialize>(values: &[T]) -> Result<String, Failure> {
    let mut text = String::new();
    for (index, value) in values.iter().enumerate() {
        if index > 0 {
            text.push_str("---\n");
        }
        let document = serde_saphyr::to_string(value).map_err(|error| Failure::failed(format!("cannot write YAML: {error}")))?;
        text.push_str(document.trim_end());
        text.push('\n');
    }
    Ok(text)
}

/// A value as indented JSON.
///
/// # Errors
/// Never for our own types; the serializer's otherwise.
pub fn json<T: serde::Serialize>(value: &T) -> Result<String, Failure> {
    let text = serde_json::to_string_pretty(value).map_err(|error| Failure::failed(format!("cannot write JSON: {error}")))?;
    Ok(text + "\n")
}

/// Lines set in under the line before; empty for no text.
#[must_use]
pub fn dash_lines(text: &str) -> String {
    text.lines().map(|line| format!("  {line}\n")).collect()
}

/// Text, or a dash for none.
#[must_use]
pub fn dash_or(text: &str) -> &str {
    if text.is_empty() { "-" } else { text }
}
