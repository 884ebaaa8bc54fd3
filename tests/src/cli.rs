//! `roadstead` as an operator types it, against one replica of a group.

use std::process::{Command, Output};

use anyhow::{Context, Result, ensure};

use crate::group::{Group, binary};

/// What a command said and how it ended.
#[derive(Clone, Debug)]
pub struct Said {
    /// The exit code; -1 after a signal.
    pub code: i32,
    /// Both outputs, one after the other.
    pub text: String,
}

impl Said {
    fn new(output: &Output) -> Self {
        let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        Self { code: output.status.code().unwrap_or(-1), text }
    }
}

/// Runs a verb with an admin's certificate against one replica.
///
/// # Errors
/// If it cannot be started.
pub fn try_run(group: &Group, number: usize, arguments: &[&str]) -> Result<Said> {
    let pki = group.folder().join("pki");
    let mut command = Command::new(binary()?);
    command.args(arguments).env("NO_COLOR", "1");
    command.env("ROADSTEAD_SERVER", group.replica(number).client.to_string()).env("ROADSTEAD_CA", pki.join("ca-bundle.crt"));
    command.env("ROADSTEAD_CERT", pki.join("admin-test.crt")).env("ROADSTEAD_KEY", pki.join("admin-test.key"));
    Ok(Said::new(&command.output().with_context(|| format!("failed to start {command:?}"))?))
}

/// The same; what it printed.
///
/// # Errors
/// If it does not end well.
pub fn run(group: &Group, number: usize, arguments: &[&str]) -> Result<String> {
    let said = try_run(group, number, arguments)?;
    ensure!(said.code == 0, "`roadstead {}` ended with {}:\n{}", arguments.join(" "), said.code, said.text);
    Ok(said.text)
}

/// Runs a verb that needs no replica, as `server recover`.
///
/// # Errors
/// If it cannot be started.
pub fn offline(arguments: &[&str]) -> Result<Said> {
    let mut command = Command::new(binary()?);
    command.args(arguments).env("NO_COLOR", "1");
    Ok(Said::new(&command.output().with_context(|| format!("failed to start {command:?}"))?))
}
