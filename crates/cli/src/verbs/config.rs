//! `config`: contexts.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::client::config::{self, Config, Context};
use crate::failure::{Exit, Failure};
use crate::output::{Table, out, yaml};

/// Contexts: which service, with which certificate.
#[derive(Debug, Subcommand)]
pub enum ConfigVerb {
    /// List the contexts; the current one has a star.
    #[command(after_help = "Examples:\n  roadstead config get-contexts")]
    GetContexts,
    /// Make a context the current one.
    #[command(after_help = "Examples:\n  roadstead config use-context production")]
    UseContext {
        /// Which.
        name: String,
    },
    /// Print the name of the current context.
    #[command(after_help = "Examples:\n  roadstead config current-context")]
    CurrentContext,
    /// Create or change a context; the first becomes the current one.
    #[command(after_help = "Examples:
  roadstead config set-context production \\
      --server r1.example.com:7420 --server r2.example.com:7420 \\
      --ca pki/ca-bundle.crt \\
      --cert pki/admin-alice.crt --key pki/admin-alice.key")]
    SetContext(SetContext),
    /// Remove a context.
    #[command(after_help = "Examples:\n  roadstead config delete-context trial")]
    DeleteContext {
        /// Which.
        name: String,
    },
    /// Print the config file.
    #[command(after_help = "Examples:\n  roadstead config view")]
    View,
}

/// See [`ConfigVerb::SetContext`].
#[derive(Debug, Args)]
pub struct SetContext {
    /// Which.
    name: String,
    /// Address of a replica; repeatable.
    #[arg(long = "server", value_name = "HOST:PORT")]
    servers: Vec<String>,
    /// Authorities to trust (PEM).
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// Certificate (PEM).
    #[arg(long, value_name = "FILE")]
    cert: Option<PathBuf>,
    /// Its key (PEM).
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
}

impl ConfigVerb {
    /// Carries the verb out.
    ///
    /// # Errors
    /// A file that cannot be read or written, a context that is not there.
    pub fn run(self) -> Result<(), Failure> {
        let path = config::path()?;
        let mut config = Config::load(&path)?;
        match self {
            Self::GetContexts => {
                let mut table = Table::new(&["CURRENT", "NAME", "SERVERS", "CERTIFICATE"]);
                for (name, context) in &config.contexts {
                    let star = if config.current_context.as_ref() == Some(name) { "*" } else { "" };
                    let certificate = context.cert.display().to_string();
                    table.row(vec![star.to_owned(), name.clone(), context.servers.join(","), certificate]);
                }
                table.print();
                return Ok(());
            }
            Self::CurrentContext => {
                let current = config.current_context.ok_or_else(|| Failure::new(Exit::NotFound, "no context is set"))?;
                out(&(current + "\n"));
                return Ok(());
            }
            Self::View => {
                out(&yaml(&[&config])?);
                return Ok(());
            }
            Self::UseContext { name } => {
                config.context(Some(&name), &path)?;
                println!("context `{name}` is the current one");
                config.current_context = Some(name);
            }
            Self::SetContext(set) => set.apply(&mut config)?,
            Self::DeleteContext { name } => {
                config.context(Some(&name), &path)?;
                config.contexts.remove(&name);
                config.current_context.take_if(|current| *current == name);
                println!("context `{name}` removed");
            }
        }
        config.save(&path)
    }
}

impl SetContext {
    fn apply(self, config: &mut Config) -> Result<(), Failure> {
        let mut context = config.contexts.get(&self.name).cloned().unwrap_or_default();
        if !self.servers.is_empty() {
            let addresses = self.servers.iter().map(|server| crate::client::address(server).map(str::to_owned));
            context.servers = addresses.collect::<Result<_, _>>()?;
        }
        for (slot, file) in [(&mut context.ca, self.ca), (&mut context.cert, self.cert), (&mut context.key, self.key)] {
            if let Some(file) = file {
                *slot = std::path::absolute(file)?;
            }
        }
        let Context { servers, ca, cert, key } = &context;
        let missing = [("--server", servers.is_empty()), ("--ca", unset(ca)), ("--cert", unset(cert)), ("--key", unset(key))];
        if let Some((flag, _)) = missing.iter().find(|(_, missing)| *missing) {
            return Err(Failure::usage(format!("context `{}` has no {flag} yet", self.name)));
        }
        config.contexts.insert(self.name.clone(), context);
        config.current_context.get_or_insert(self.name.clone());
        println!("context `{}` set", self.name);
        Ok(())
    }
}

fn unset(path: &std::path::Path) -> bool {
    path.as_os_str().is_empty()
}
