//! Who is who in a testbed: an authority of its own, certificates, and kubeconfig files that name them.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use kube::config::{AuthInfo, Cluster, Context as KubeContext, KubeConfigOptions, Kubeconfig, NamedAuthInfo, NamedCluster, NamedContext};
use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose};

/// The attribute `O`, spelled so that rcgen, which writes each attribute once, writes it twice.
const ORGANIZATION: [u64; 4] = [2, 5, 4, 10];

/// An authority and its folder: `ca.crt`, and for each name a `.crt`, a `.key` and perhaps a `.kubeconfig`.
pub(super) struct Identities {
    folder: PathBuf,
    issuer: Issuer<'static, KeyPair>,
}

impl std::fmt::Debug for Identities {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Identities").field("folder", &self.folder).finish_non_exhaustive()
    }
}

impl Identities {
    /// Makes an authority, and the key with which tokens of service accounts are signed (`accounts.key`, `accounts.pub`).
    ///
    /// # Errors
    /// If the folder cannot be written.
    pub(super) fn make(folder: &Path) -> Result<Self> {
        let key = KeyPair::generate().context("failed to make a key")?;
        let mut authority = CertificateParams::new(Vec::new()).context("failed to describe an authority")?;
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        authority.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        authority.distinguished_name.push(DnType::CommonName, "testbed");
        let certificate = authority.self_signed(&key).context("failed to sign an authority")?.pem();
        let identities = Self { folder: folder.to_owned(), issuer: Issuer::new(authority, key) };
        identities.write("ca.crt", &certificate)?;
        let accounts = KeyPair::generate().context("failed to make a key")?;
        identities.write("accounts.key", &accounts.serialize_pem())?;
        identities.write("accounts.pub", &accounts.public_key_pem())?;
        Ok(identities)
    }

    /// The path of a file in the folder.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    fn write(&self, name: &str, text: &str) -> Result<PathBuf> {
        let path = self.path(name);
        std::fs::write(&path, text).with_context(|| format!("failed to write {}", path.display()))?;
        Ok(path)
    }

    fn sign(&self, file: &str, mut of: CertificateParams, usage: ExtendedKeyUsagePurpose) -> Result<()> {
        of.extended_key_usages = vec![usage];
        let key = KeyPair::generate().context("failed to make a key")?;
        let certificate = of.signed_by(&key, &self.issuer).context("failed to sign a certificate")?;
        self.write(&format!("{file}.crt"), &certificate.pem())?;
        self.write(&format!("{file}.key"), &key.serialize_pem())?;
        Ok(())
    }

    /// A server's certificate in `<file>.crt` and `<file>.key`.
    ///
    /// # Errors
    /// If it cannot be signed or written.
    pub(super) fn server(&self, file: &str, names: &[&str]) -> Result<()> {
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        let certificate = CertificateParams::new(names).context("failed to describe a server")?;
        self.sign(file, certificate, ExtendedKeyUsagePurpose::ServerAuth)
    }

    /// A user's certificate in `<file>.crt` and `<file>.key`.
    ///
    /// # Errors
    /// If there are more than two groups, or it cannot be signed or written.
    pub(super) fn user(&self, file: &str, user: &str, groups: &[&str]) -> Result<()> {
        let mut certificate = CertificateParams::new(Vec::new()).context("failed to describe a user")?;
        let name = &mut certificate.distinguished_name;
        name.push(DnType::CommonName, user);
        let spellings = [DnType::OrganizationName, DnType::CustomDnType(ORGANIZATION.to_vec())];
        if groups.len() > spellings.len() {
            bail!("a certificate made here carries at most {} groups, not {}", spellings.len(), groups.len());
        }
        for (spelling, &group) in spellings.into_iter().zip(groups) {
            name.push(spelling, group);
        }
        self.sign(file, certificate, ExtendedKeyUsagePurpose::ClientAuth)
    }

    /// A user's certificate and, in `<file>.kubeconfig`, where to show it.
    ///
    /// # Errors
    /// As [`Self::user`].
    pub(super) fn kubeconfig(&self, file: &str, user: &str, groups: &[&str], server: SocketAddr) -> Result<PathBuf> {
        self.user(file, user, groups)?;
        let path = |ending: &str| Some(self.path(&format!("{file}.{ending}")).display().to_string());
        self.describe(file, AuthInfo { client_certificate: path("crt"), client_key: path("key"), ..AuthInfo::default() }, server)
    }

    /// A token in `<file>.token`, from which it is read as a pod does, and, in `<file>.kubeconfig`, where to show it.
    ///
    /// # Errors
    /// If they cannot be written.
    pub(super) fn kubeconfig_with_token(&self, file: &str, token: &str, server: SocketAddr) -> Result<PathBuf> {
        let token = self.write(&format!("{file}.token"), token)?;
        self.describe(file, AuthInfo { token_file: Some(token.display().to_string()), ..AuthInfo::default() }, server)
    }

    fn describe(&self, file: &str, auth: AuthInfo, server: SocketAddr) -> Result<PathBuf> {
        let config = serde_json::to_string(&self.described(auth, server)).context("failed to write a kubeconfig")?;
        // Every JSON document is a YAML document.
        self.write(&format!("{file}.kubeconfig"), &config)
    }

    /// A client of a server, by a kubeconfig file.
    ///
    /// # Errors
    /// If the file does not describe one.
    pub(super) async fn client(kubeconfig: &Path) -> Result<kube::Client> {
        let read = Kubeconfig::read_from(kubeconfig).with_context(|| format!("failed to read {}", kubeconfig.display()))?;
        client(read).await
    }

    /// How a client that shows a token reaches a server.
    ///
    /// # Errors
    /// If that cannot be described.
    pub(super) async fn config_with_token(&self, token: String, server: SocketAddr) -> Result<kube::Config> {
        config(self.described(AuthInfo { token: Some(token.into()), ..AuthInfo::default() }, server)).await
    }

    fn described(&self, auth: AuthInfo, server: SocketAddr) -> Kubeconfig {
        let name = || "testbed".to_owned();
        let cluster = Cluster {
            server: Some(format!("https://{server}")),
            certificate_authority: Some(self.path("ca.crt").display().to_string()),
            ..Cluster::default()
        };
        let context = KubeContext { cluster: name(), user: Some(name()), ..KubeContext::default() };
        Kubeconfig {
            clusters: vec![NamedCluster { name: name(), cluster: Some(cluster), ..NamedCluster::default() }],
            auth_infos: vec![NamedAuthInfo { name: name(), auth_info: Some(auth), ..NamedAuthInfo::default() }],
            contexts: vec![NamedContext { name: name(), context: Some(context), ..NamedContext::default() }],
            current_context: Some(name()),
            kind: Some("Config".to_owned()),
            api_version: Some("v1".to_owned()),
            ..Kubeconfig::default()
        }
    }
}

async fn client(kubeconfig: Kubeconfig) -> Result<kube::Client> {
    kube::Client::try_from(config(kubeconfig).await?).context("failed to make a client")
}

async fn config(kubeconfig: Kubeconfig) -> Result<kube::Config> {
    kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.context("a kubeconfig is of no use")
}
