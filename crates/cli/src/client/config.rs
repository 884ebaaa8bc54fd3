//! Contexts: which servers, with which certificate. Kept in `~/.config/roadstead/config.yaml` or where ROADSTEAD_CONFIG points.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::failure::{Exit, Failure};

/// The environment variable that names the file.
pub const CONFIG_VARIABLE: &str = "ROADSTEAD_CONFIG";

/// The whole file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Config {
    /// The context that is used unless another is named.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub current_context: Option<String>,
    /// Contexts by name.
    pub contexts: BTreeMap<String, Context>,
}

/// How to reach one placement service. Relative paths begin at the file's folder.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Context {
    /// Addresses (`host:port`) of the replicas; any answers, the next is tried if one does not.
    pub servers: Vec<String>,
    /// Authorities to trust.
    pub ca: PathBuf,
    /// Certificate.
    pub cert: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

/// Where the file is.
///
/// # Errors
/// Neither the variable nor a home folder is set.
pub fn path() -> Result<PathBuf, Failure> {
    if let Some(path) = std::env::var_os(CONFIG_VARIABLE).filter(|path| !path.is_empty()) {
        return Ok(path.into());
    }
    let base = std::env::var_os("XDG_CONFIG_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    let base = base.or_else(|| std::env::var_os("HOME").map(|home| Path::new(&home).join(".config")));
    base.map(|base| base.join("roadstead/config.yaml"))
        .ok_or_else(|| Failure::usage(format!("neither HOME nor {CONFIG_VARIABLE} is set, so there is no place for contexts")))
}

/// That there is no file, and who names it.
fn no_file(path: &Path) -> String {
    let is_named = std::env::var_os(CONFIG_VARIABLE).is_some_and(|named| Path::new(&named) == path);
    let by = if is_named { format!(", which {CONFIG_VARIABLE} names") } else { String::new() };
    format!("there is no file {}{by}", path.display())
}

impl Config {
    /// Reads a file; a missing one is empty.
    ///
    /// # Errors
    /// A file that cannot be read or is not a config.
    pub fn load(path: &Path) -> Result<Self, Failure> {
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(Failure::failed(format!("cannot read {}: {error}", path.display()))),
        };
        if text.trim().is_empty() {
            return Ok(Self::default());
        }
        serde_saphyr::from_str(&text).map_err(|error| {
            let line = error.location().map(|place| format!(":{}:{}", place.line(), place.column())).unwrap_or_default();
            Failure::usage(format!("{}{line}: {}", path.display(), error.without_snippet()))
        })
    }

    /// Writes a file, and its folder.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn save(&self, path: &Path) -> Result<(), Failure> {
        let failed = |error: std::io::Error| Failure::failed(format!("cannot write {}: {error}", path.display()));
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(failed)?;
        }
        let part = path.with_extension("part");
        std::fs::write(&part, crate::output::yaml(&[self])?).map_err(failed)?;
        std::fs::rename(&part, path).map_err(failed)
    }

    /// The named context, or the current one; with paths that work from anywhere.
    ///
    /// # Errors
    /// No such context, or none at all.
    pub fn context(&self, name: Option<&str>, path: &Path) -> Result<Context, Failure> {
        let Some(name) = name.or(self.current_context.as_deref()) else {
            let missing = if path.exists() { String::new() } else { format!(": {}", no_file(path)) };
            return Err(Failure::usage(format!("no context is set and no --server is given{missing}")).hint(
                "start a fleet on this machine with `roadstead dev`, or name a service with \
                 `roadstead config set-context NAME --server HOST:PORT --ca FILE --cert FILE --key FILE`",
            ));
        };
        let mut context = self.contexts.get(name).cloned().ok_or_else(|| {
            let known: Vec<&str> = self.contexts.keys().map(String::as_str).collect();
            if !path.exists() {
                return Failure::new(Exit::NotFound, format!("there is no context `{name}`: {}", no_file(path)));
            }
            Failure::new(Exit::NotFound, format!("there is no context `{name}` in {}", path.display()))
                .hint(format!("known are: {}", if known.is_empty() { "none".to_owned() } else { known.join(", ") }))
        })?;
        let folder = path.parent().unwrap_or(Path::new("."));
        for file in [&mut context.ca, &mut context.cert, &mut context.key] {
            *file = folder.join(&*file);
        }
        Ok(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_not_there_is_named() {
        let path = Path::new("/nonexistent/config.yaml");
        let config = Config::load(path).expect("a missing one is empty");
        for name in [None, Some("production")] {
            let refused = config.context(name, path).expect_err("there is no context").to_string();
            assert!(refused.contains(": there is no file /nonexistent/config.yaml"), "{refused}");
        }
    }
}
