//! The way to a cluster's API server, as kubectl finds it, and what it answers in the words of this program.

use std::path::{Path, PathBuf};

use clap::Args;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};

use crate::failure::{Exit, Failure};

/// Which management cluster.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Management cluster")]
pub struct Management {
    /// Kubeconfig file; as kubectl finds it if left out.
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// Context of the kubeconfig; the current one if left out.
    #[arg(long, value_name = "CONTEXT")]
    pub kube_context: Option<String>,
}

impl Management {
    /// A client of it. In a pod without a kubeconfig, its own cluster's.
    ///
    /// # Errors
    /// No way to it.
    pub async fn connect(&self) -> Result<Client, Failure> {
        if self.kubeconfig.is_some() || self.kube_context.is_some() {
            return connect(self.kubeconfig.as_deref(), self.kube_context.as_deref()).await;
        }
        let config = Config::infer().await.map_err(|error| unusable(&error))?;
        Client::try_from(config).map_err(|error| unusable(&error))
    }
}

/// A client of a kubeconfig file's context; both as kubectl finds them if not given.
///
/// # Errors
/// A file that is none, a context that is not in it.
pub async fn connect(file: Option<&Path>, context: Option<&str>) -> Result<Client, Failure> {
    let read = file.map_or_else(Kubeconfig::read, |file: &Path| Kubeconfig::read_from(file));
    let options = KubeConfigOptions { context: context.map(str::to_owned), ..KubeConfigOptions::default() };
    let config = Config::from_custom_kubeconfig(read.map_err(|error| unusable(&error))?, &options).await;
    Client::try_from(config.map_err(|error| unusable(&error))?).map_err(|error| unusable(&error))
}

fn unusable(error: &dyn std::fmt::Display) -> Failure {
    Failure::usage(format!("cannot use the kubeconfig: {error}")).hint("name a file with --kubeconfig and a context with --kube-context")
}

/// What an API server answered.
#[must_use]
pub fn failed(what: &str, error: &kube::Error) -> Failure {
    let kube::Error::Api(status) = error else {
        return Failure::new(Exit::Unavailable, format!("cannot {what}: {error}"))
            .hint("see that the cluster's API server answers: `kubectl version`");
    };
    let exit = match status.code {
        401 | 403 => Exit::Permission,
        404 => Exit::NotFound,
        409 => Exit::Conflict,
        _ => Exit::Failed,
    };
    Failure::new(exit, format!("cannot {what}: {}", status.message))
}
