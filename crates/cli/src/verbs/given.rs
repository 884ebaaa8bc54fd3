//! Files that flags of `agent` name, looked at before it begins: a wrong path is mended by no waiting.
//!
//! In a cluster they are mounted from a Secret that may not be there yet, or not any more: then the agent waits for it, and only the folder
//! has to be there. Elsewhere a file that is needed has to be there.

use std::path::{Path, PathBuf};

use roadstead_agent::identity::Place;
use x509_parser::pem::Pem;

use crate::failure::Failure;

/// Flags by which an agent that keeps its own certificate gets the first one.
#[derive(Clone, Copy, Debug)]
pub struct Entrance<'a> {
    /// `--token-file`.
    pub token: Option<&'a PathBuf>,
    /// `--ca`.
    pub authorities: Option<&'a PathBuf>,
}

/// The file of a flag.
///
/// # Errors
/// Wrong usage that names the flag.
pub fn read(flag: &str, path: &Path) -> Result<Vec<u8>, Failure> {
    std::fs::read(path).map_err(|error| Failure::usage(format!("{flag}: cannot read {}: {error}", path.display())))
}

/// The file of a flag with certificates in it.
///
/// # Errors
/// Wrong usage that names the flag.
pub fn certificates(flag: &str, path: &Path) -> Result<(), Failure> {
    let bytes = read(flag, path)?;
    let found = Pem::iter_from_buffer(&bytes).any(|pem| pem.is_ok_and(|pem| pem.label == "CERTIFICATE"));
    if found { Ok(()) } else { Err(Failure::usage(format!("{flag}: there is no certificate (PEM) in {}", path.display()))) }
}

impl Entrance<'_> {
    /// For an agent whose certificate is kept in a Secret.
    ///
    /// # Errors
    /// Wrong usage that names the flag.
    pub fn check_mounted(self) -> Result<(), Failure> {
        self.check_complete()?;
        for (flag, path) in [("--token-file", self.token), ("--ca", self.authorities)] {
            let folder = path.and_then(|path| path.parent()).filter(|folder| !folder.as_os_str().is_empty());
            if let Some(missing) = folder.filter(|folder| !folder.is_dir()) {
                return Err(Failure::usage(format!("{flag}: there is no folder {}", missing.display()))
                    .hint("`roadstead join` mounts the Secret with both"));
            }
        }
        Ok(())
    }

    /// For an agent whose certificate is kept in a folder: what is kept there already needs no token.
    ///
    /// # Errors
    /// Wrong usage that names the flag.
    pub async fn check_beside(self, folder: &Path) -> Result<(), Failure> {
        let kept = Place::Folder(folder.to_owned()).load().await.map_err(|why| Failure::usage(format!("--identity-dir: {why}")))?;
        if kept.is_some_and(|kept| !kept.certificate.is_empty()) {
            return Ok(());
        }
        let Some(token) = self.token else {
            return Err(Failure::usage(format!("--token-file is missing, and {} holds no certificate", folder.display()))
                .hint("`roadstead join CLUSTER --token-file FILE` makes a token"));
        };
        self.check_complete()?;
        read("--token-file", token)?;
        self.authorities.map_or(Ok(()), |authorities| certificates("--ca", authorities))
    }

    /// A token alone lets nobody in: whoever shows it has to know whom it is shown to.
    fn check_complete(self) -> Result<(), Failure> {
        if self.token.is_some() && self.authorities.is_none() {
            return Err(Failure::usage("--ca is missing: a token is shown only to replicas that are known by their authorities")
                .hint("--ca FILE, as `roadstead pki` wrote it: pki/ca-bundle.crt"));
        }
        Ok(())
    }
}
