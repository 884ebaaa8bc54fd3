//! Where the certificate is kept: a Secret in the agent's namespace, which its replicas share, or a file outside of Kubernetes.

use std::fmt;
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::Client;
use kube::api::{Api, Patch, PatchParams};
use serde_json::json;

use super::Credentials;

/// Under which name the API server keeps that we wrote it.
const MANAGER: &str = "roadstead-identity";
/// How long one call may take.
const CALL_WITHIN: Duration = Duration::from_secs(10);
/// What a Secret of certificate and key is; the agent's account may write no other.
const TYPE: &str = "kubernetes.io/tls";
/// Key in the Secret.
const CERTIFICATE: &str = "tls.crt";
/// See [`CERTIFICATE`].
const KEY: &str = "tls.key";
/// See [`CERTIFICATE`].
const AUTHORITIES: &str = "ca.crt";
/// The file in a folder: one, so that certificate and key always fit.
const FILE: &str = "identity.json";

/// Where it is kept.
#[derive(Clone)]
pub enum Place {
    /// A Secret of its own.
    Secret {
        /// Those of the agent's namespace.
        api: Box<Api<Secret>>,
        /// Which.
        name: String,
    },
    /// A folder of its own.
    Folder(PathBuf),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Secret { name, .. } => write!(f, "secret/{name}"),
            Self::Folder(folder) => write!(f, "{}", folder.join(FILE).display()),
        }
    }
}

impl Place {
    /// A Secret of this name in a namespace.
    #[must_use]
    pub fn secret(client: Client, namespace: &str, name: &str) -> Self {
        Self::Secret { api: Box::new(Api::namespaced(client, namespace)), name: name.to_owned() }
    }

    /// What is kept; `None` if nothing is. The certificate is empty if only a key is.
    ///
    /// # Errors
    /// It cannot be read.
    pub async fn load(&self) -> Result<Option<Credentials>, String> {
        let failed = |why: String| format!("{self} cannot be read: {why}");
        match self {
            Self::Secret { api, name } => {
                let found =
                    tokio::time::timeout(CALL_WITHIN, api.get_opt(name)).await.map_err(|_| failed("no answer in time".to_owned()))?;
                Ok(found.map_err(|error| failed(error.to_string()))?.map(|secret| read(&secret)))
            }
            Self::Folder(folder) => match std::fs::read(folder.join(FILE)) {
                Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(|error| failed(error.to_string())),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
                Err(error) => Err(failed(error.to_string())),
            },
        }
    }

    /// Keeps it in place of what was there.
    ///
    /// # Errors
    /// It cannot be written.
    pub async fn store(&self, credentials: &Credentials) -> Result<(), String> {
        let failed = |why: String| format!("{self} cannot be written: {why}");
        match self {
            Self::Secret { api, name } => {
                let bytes = |text: &str| ByteString(text.as_bytes().to_vec());
                let Credentials { certificate, key, authorities } = credentials;
                let secret = json!({
                    "apiVersion": "v1",
                    "kind": "Secret",
                    "metadata": {"name": name, "labels": {"app.kubernetes.io/part-of": "roadstead"}},
                    "type": TYPE,
                    "data": {CERTIFICATE: bytes(certificate), KEY: bytes(key), AUTHORITIES: bytes(authorities)},
                });
                let params = PatchParams::apply(MANAGER).force();
                let written = tokio::time::timeout(CALL_WITHIN, api.patch(name, &params, &Patch::Apply(&secret))).await;
                written.map_err(|_| failed("no answer in time".to_owned()))?.map(drop).map_err(|error| failed(error.to_string()))
            }
            Self::Folder(folder) => {
                let text = serde_json::to_vec(credentials).map_err(|error| failed(error.to_string()))?;
                write(folder, &text).map_err(|error| failed(error.to_string()))
            }
        }
    }
}

fn read(secret: &Secret) -> Credentials {
    let text = |key: &str| {
        let bytes = secret.data.as_ref().and_then(|data| data.get(key));
        bytes.map(|bytes| String::from_utf8_lossy(&bytes.0).into_owned()).unwrap_or_default()
    };
    Credentials { certificate: text(CERTIFICATE), key: text(KEY), authorities: text(AUTHORITIES) }
}

/// Writes beside it and renames: whoever reads sees one or the other.
fn write(folder: &Path, bytes: &[u8]) -> std::io::Result<()> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    let part = folder.join(format!("{FILE}.part"));
    let mut file = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&part)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(&part, folder.join(FILE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_a_folder_keeps_is_its_owners_and_comes_back() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let place = Place::Folder(folder.path().join("identity"));
        assert_eq!(place.load().await, Ok(None));
        let text = |text: &str| text.to_owned();
        for certificate in ["", "c"] {
            let credentials = Credentials { certificate: text(certificate), key: text("k"), authorities: text("a") };
            place.store(&credentials).await.unwrap();
            assert_eq!(place.load().await, Ok(Some(credentials)));
        }
        let file = folder.path().join("identity").join(FILE);
        assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        std::fs::write(&file, "{").unwrap();
        assert!(place.load().await.unwrap_err().contains("cannot be read"));
    }
}
