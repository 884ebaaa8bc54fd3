//! `probe`: the two halves of a try whether network policies hold; an agent starts them in pods, nobody at a keyboard.

use std::io::Write;
use std::net::IpAddr;
use std::path::Path;

use clap::Subcommand;
use roadstead_agent::probe::{dial, listen};

use crate::failure::Failure;

/// Where a pod leaves what it has to say to whoever looks at its status.
const TERMINATION_LOG: &str = "/dev/termination-log";

/// See [`super::Cli`].
#[derive(Debug, Subcommand)]
pub enum Probe {
    /// Accept connections until SIGTERM.
    Listen,
    /// Try what can be reached there, and print what follows as JSON.
    Dial {
        /// Where `listen` runs.
        listener: IpAddr,
    },
}

impl Probe {
    /// Runs it.
    ///
    /// # Errors
    /// Ports that cannot be bound, output that cannot be written.
    pub async fn run(self) -> Result<(), Failure> {
        match self {
            Self::Listen => tokio::select! {
                ended = listen() => ended.map_err(|error| Failure::failed(format!("cannot listen: {error}"))),
                () = super::dev::terminated() => Ok(()),
            },
            Self::Dial { listener } => {
                let found = serde_json::to_string(&dial(listener).await).map_err(|error| Failure::failed(error.to_string()))?;
                if Path::new(TERMINATION_LOG).exists() {
                    std::fs::write(TERMINATION_LOG, &found).map_err(|error| Failure::failed(format!("{TERMINATION_LOG}: {error}")))?;
                }
                writeln!(std::io::stdout(), "{found}").map_err(|error| Failure::failed(error.to_string()))
            }
        }
    }
}
