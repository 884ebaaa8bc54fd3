//! How the agent works: what it does about changes by hand, and what it logs. Flags of `join`, which become flags of its agent.

use clap::{Args, ValueEnum};
use roadstead_agent::kube::Drift;
use tracing_subscriber::EnvFilter;

/// What an agent logs unless it is said otherwise.
const LOG_FILTER: &str = "info";
/// Says it where no flag does: of the agent itself, not of whoever joins its cluster.
const LOG_VARIABLE: &str = "ROADSTEAD_LOG";

/// What is done about a field of ours that somebody changed at a keyboard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum OnDrift {
    /// It is put right.
    Repair,
    /// It is only told.
    Report,
}

/// How the agent works.
#[derive(Clone, Debug, Default, PartialEq, Eq, Args)]
#[command(next_help_heading = "Agent")]
pub struct Running {
    /// What is done about changes by hand; repair if left out.
    #[arg(long)]
    pub on_drift: Option<OnDrift>,
    /// What the agent logs to stderr, as in info or info,roadstead_agent=debug. If left out, what ROADSTEAD_LOG says where it runs, else
    /// info.
    #[arg(long, value_name = "FILTER", value_parser = filter)]
    pub log_filter: Option<String>,
    /// The agent logs as JSON.
    #[arg(long)]
    pub log_json: bool,
}

fn filter(text: &str) -> Result<String, String> {
    EnvFilter::try_new(text).map(|_| text.to_owned()).map_err(|error| error.to_string())
}

impl Running {
    /// What is done about changes by hand.
    #[must_use]
    pub fn drift(&self) -> Drift {
        match self.on_drift {
            Some(OnDrift::Repair) | None => Drift::Repair,
            Some(OnDrift::Report) => Drift::Report,
        }
    }

    /// What is logged by the agent that this process is.
    #[must_use]
    pub fn own_log_filter(&self) -> String {
        self.log_filter.clone().or_else(|| std::env::var(LOG_VARIABLE).ok()).unwrap_or_else(|| LOG_FILTER.to_owned())
    }

    /// Takes over what was said before and is not said now.
    pub fn keep(&mut self, before: Self) {
        let Self { on_drift, log_filter, log_json } = before;
        self.on_drift = self.on_drift.or(on_drift);
        self.log_filter = self.log_filter.take().or(log_filter);
        self.log_json |= log_json;
    }

    /// The flags that say the same; what is as usual is left out.
    #[must_use]
    pub fn flags(&self) -> Vec<String> {
        let drift = match self.on_drift {
            Some(OnDrift::Report) => Some("--on-drift=report".to_owned()),
            Some(OnDrift::Repair) | None => None,
        };
        let log = self.log_filter.as_ref().map(|filter| format!("--log-filter={filter}"));
        let json = self.log_json.then(|| "--log-json".to_owned());
        drift.into_iter().chain(log).chain(json).collect()
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Flags {
        #[command(flatten)]
        running: Running,
    }

    fn read(flags: &[String]) -> Result<Running, clap::Error> {
        Flags::try_parse_from(std::iter::once("agent".to_owned()).chain(flags.iter().cloned())).map(|flags| flags.running)
    }

    #[test]
    fn an_agent_reads_from_its_flags_what_join_was_told() {
        let told = Running { on_drift: Some(OnDrift::Report), log_filter: Some("info,roadstead_agent=debug".to_owned()), log_json: true };
        assert_eq!(told.flags(), ["--on-drift=report", "--log-filter=info,roadstead_agent=debug", "--log-json"]);
        assert_eq!(read(&told.flags()).unwrap(), told);
        assert_eq!((told.drift(), read(&[]).unwrap().drift()), (Drift::Report, Drift::Repair));
        assert_eq!(read(&[]).unwrap(), Running::default());
        assert!(Running { on_drift: Some(OnDrift::Repair), ..Running::default() }.flags().is_empty());
    }

    #[test]
    fn a_filter_that_would_keep_the_agent_from_starting_is_refused_before_it_is_written() {
        assert!(read(&["--log-filter=info,=debug=".to_owned()]).is_err());
    }
}
