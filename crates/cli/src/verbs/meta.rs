//! `schema` and `completion`: what other programs want to know of this one.

use clap::builder::TypedValueParser;
use clap::{Args, CommandFactory};
use clap_complete::Shell;

use super::kinds::{Word, kind};
use crate::document::{Kind, schema};
use crate::failure::Failure;
use crate::output::{json, out};

/// See [`super::Cli`].
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  roadstead schema tenant > tenant.schema.json")]
pub struct Schema {
    /// Kind of document, in singular, plural or short.
    #[arg(value_parser = Word.try_map(|word| kind(&word)))]
    kind: Kind,
}

impl Schema {
    /// Prints the schema.
    ///
    /// # Errors
    /// Never.
    pub fn run(&self) -> Result<(), Failure> {
        out(&json(&schema::of(self.kind))?);
        Ok(())
    }
}

/// See [`super::Cli`].
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  source <(roadstead completion bash)\n  roadstead completion zsh > ~/.zfunc/_roadstead")]
pub struct Completion {
    /// Shell.
    shell: Shell,
}

impl Completion {
    /// Prints the script.
    ///
    /// # Errors
    /// Never.
    pub fn run(&self) -> Result<(), Failure> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut super::Cli::command(), "roadstead", &mut script);
        out(&String::from_utf8_lossy(&script));
        Ok(())
    }
}
