//! A whole cluster on this machine: a control plane, and one node with containerd and kubelet, on which real pods have real volumes.
//! Several run side by side. Needs root and the Debian packages that `cargo xtask setup` installs.

use std::fs::File;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use k8s_openapi::api::core::v1::{Node, PersistentVolume};
use kube::Api;
use kube::api::PostParams;
use serde_json::json;

use super::control_plane::{ControlPlane, Options};
use super::kwok::is_ready;
use super::machine::{Claim, run};
use super::parts::{bound, part, start};
use crate::process::{Process, free_address, until};

/// The image of the program for tests: `serve :8080 FILE` keeps a log in a file. Pods name it with `imagePullPolicy: Never`.
pub const GUEST_IMAGE: &str = "testbed.local/guest:1";
/// The storage class of the volumes that are added here.
pub const STORAGE_CLASS: &str = "testbed-local";
const PAUSE_IMAGE: &str = "testbed.local/pause:1";
/// Where distributions put the network plugins.
const NETWORK_PLUGINS: [&str; 2] = ["/usr/lib/cni", "/opt/cni/bin"];
/// How long containerd may take to answer.
const ANSWERS_WITHIN: Duration = Duration::from_secs(30);
/// How long a node may take to be ready; some 10 s are usual.
const READY_WITHIN: Duration = Duration::from_secs(120);

/// A running cluster with one node. Dropping it kills its pods and removes all that it had of the machine.
#[derive(Debug)]
pub struct WholeCluster {
    // Dropped in this order: what would start pods anew goes before the pods, which go with the claim.
    kubelet: Process,
    containerd: Process,
    plane: ControlPlane,
    name: String,
    claim: Claim,
}

impl WholeCluster {
    /// Starts a cluster whose node has the cluster's name, and waits until the node is ready.
    ///
    /// # Errors
    /// If a program or a right is missing, or a part does not serve in time; carries the end of its log.
    pub async fn start(name: &str) -> Result<Self> {
        Self::start_with(name, Options::default()).await
    }

    /// As [`Self::start`], with options for the control plane; it has controllers and a scheduler, and its address is on the cluster's
    /// own bridge, so that pods reach it.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub async fn start_with(name: &str, options: Options) -> Result<Self> {
        let claim = Claim::take()?;
        let folder = claim.folder();
        let containerd = start_containerd(&claim)?;
        let options = Options { controllers: true, scheduler: true, address: IpAddr::V4(claim.address()), ..options };
        let plane = ControlPlane::start(options).await?;
        import_images(&folder, &containerd).await?;
        let kubelet = start_kubelet(&claim, &plane, name)?;
        let cluster = Self { kubelet, containerd, plane, name: name.to_owned(), claim };
        cluster.add_storage_class().await?;
        cluster.wait_until_the_node_is_ready().await?;
        Ok(cluster)
    }

    /// Its control plane. No Service has an address that pods reach: a pod that asks the API server needs `KUBERNETES_SERVICE_HOST` and
    /// `KUBERNETES_SERVICE_PORT` in its environment, set to [`ControlPlane::address`].
    #[must_use]
    pub fn plane(&self) -> &ControlPlane {
        &self.plane
    }

    /// Its control plane, to stop it or start it anew.
    pub fn plane_mut(&mut self) -> &mut ControlPlane {
        &mut self.plane
    }

    /// Its node's processes: kubelet and containerd.
    #[must_use]
    pub fn node(&self) -> [&Process; 2] {
        [&self.kubelet, &self.containerd]
    }

    /// Where everything of it is but the control plane.
    #[must_use]
    pub fn folder(&self) -> PathBuf {
        self.claim.folder()
    }

    /// Adds a `local` PersistentVolume on the node, which one claim of class [`STORAGE_CLASS`] may bind; returns the folder with its
    /// bytes. It is kept when its claim goes.
    ///
    /// # Errors
    /// If it cannot be made.
    pub async fn add_volume(&self, volume: &str, mebibytes: u32) -> Result<PathBuf> {
        let folder = self.folder().join("volumes").join(volume);
        std::fs::create_dir_all(&folder).with_context(|| format!("failed to create {}", folder.display()))?;
        let described = json!({
            "apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": volume},
            "spec": {
                "capacity": {"storage": format!("{mebibytes}Mi")},
                "accessModes": ["ReadWriteOnce"],
                "persistentVolumeReclaimPolicy": "Retain",
                "storageClassName": STORAGE_CLASS,
                "local": {"path": folder},
                "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [
                    {"key": "kubernetes.io/hostname", "operator": "In", "values": [self.name]},
                ]}]}},
            },
        });
        let volumes: Api<PersistentVolume> = Api::all(self.plane.client().await?);
        let described = serde_json::from_value(described).context("a volume is malformed")?;
        volumes.create(&PostParams::default(), &described).await.context("failed to create a volume")?;
        Ok(folder)
    }

    /// Gives the node an image with a program of this machine in `/usr/local/bin`, and the libraries that it needs.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn import_program(&self, image: &str, program: &Path) -> Result<()> {
        let name = program.file_name().and_then(|name| name.to_str()).context("a program has a name")?;
        let mut files = vec![format!("/usr/local/bin/{name}={}", program.display())];
        files.extend(libraries(program)?.into_iter().map(|library| format!("{library}={library}")));
        let mut arguments = vec!["image-of", image];
        arguments.extend(files.iter().map(String::as_str));
        import(&self.folder(), &arguments)
    }

    /// The network namespace of the pod with this address, as a file.
    ///
    /// # Errors
    /// If there is none.
    pub fn network_of(&self, address: &str) -> Result<PathBuf> {
        let folder = self.folder().join("containerd/state/io.containerd.grpc.v1.cri/netns");
        let found = std::fs::read_dir(&folder).with_context(|| format!("failed to read {}", folder.display()))?;
        let has_address = |network: &PathBuf| {
            let network = format!("--net={}", network.display());
            let output = Command::new("nsenter").args([&network, "ip", "-o", "address"]).output();
            output.is_ok_and(|output| String::from_utf8_lossy(&output.stdout).contains(&format!(" {address}/")))
        };
        let mut networks = found.flatten().map(|entry| entry.path());
        networks.find(has_address).with_context(|| format!("no pod here has the address {address}"))
    }

    async fn add_storage_class(&self) -> Result<()> {
        let described = json!({
            "apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {"name": STORAGE_CLASS},
            "provisioner": "kubernetes.io/no-provisioner",
            "volumeBindingMode": "WaitForFirstConsumer",
        });
        let classes = Api::<k8s_openapi::api::storage::v1::StorageClass>::all(self.plane.client().await?);
        let described = serde_json::from_value(described).context("a storage class is malformed")?;
        classes.create(&PostParams::default(), &described).await.context("failed to create a storage class")?;
        Ok(())
    }

    async fn wait_until_the_node_is_ready(&self) -> Result<()> {
        let nodes: Api<Node> = Api::all(self.plane.client().await?);
        let ready = until("the node is ready", READY_WITHIN, || async {
            let node = nodes.get(&self.name).await.context("it is not there")?;
            ensure!(is_ready(&node), "it is not: {:?}", node.status.and_then(|status| status.conditions));
            Ok(())
        });
        ready.await.with_context(|| {
            format!("the end of kubelet's log:\n{}\nof containerd's:\n{}", self.kubelet.log_tail(), self.containerd.log_tail())
        })
    }
}

fn socket(folder: &Path) -> PathBuf {
    folder.join("containerd.sock")
}

/// A program of the machine's own.
fn installed(name: &str) -> Result<PathBuf> {
    let folders = ["/usr/bin", "/usr/sbin", "/usr/local/bin", "/usr/local/sbin"];
    let found = folders.iter().map(|folder| Path::new(folder).join(name)).find(|path| path.is_file());
    found.with_context(|| format!("{name} is not installed: `cargo xtask setup` does it"))
}

fn start_containerd(claim: &Claim) -> Result<Process> {
    let folder = claim.folder();
    let plugins = NETWORK_PLUGINS.into_iter().find(|folder| Path::new(folder).join("bridge").is_file());
    let plugins = plugins.context("the network plugins are not installed: `cargo xtask setup` does it")?;
    let write = |name: &str, text: String| -> Result<PathBuf> {
        let path = folder.join(name);
        std::fs::create_dir_all(path.parent().unwrap_or(&folder)).with_context(|| format!("failed to create a folder for {name}"))?;
        std::fs::write(&path, text).with_context(|| format!("failed to write {}", path.display()))?;
        Ok(path)
    };
    // The bridge has its address already: as a gateway the plugin would let the whole machine forward packets.
    let network = json!({
        "cniVersion": "0.4.0", "name": claim.name(),
        "plugins": [{
            "type": "bridge", "bridge": claim.bridge(), "isGateway": false, "ipMasq": false,
            "ipam": {
                "type": "host-local", "dataDir": folder.join("addresses"),
                "ranges": [[{"subnet": claim.subnet(), "gateway": claim.address()}]],
                "routes": [{"dst": "0.0.0.0/0"}],
            },
        }],
    });
    write("networks/10-bridge.conflist", network.to_string())?;
    let own = folder.display();
    let config = write(
        "containerd.toml",
        format!(
            r#"version = 2
root = "{own}/containerd/root"
state = "{own}/containerd/state"
disabled_plugins = ["io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs"]
[grpc]
address = "{socket}"
[plugins."io.containerd.internal.v1.opt"]
path = "{own}/containerd/opt"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{PAUSE_IMAGE}"
# Where a process may not lower its score, every pod would fail.
restrict_oom_score_adj = true
netns_mounts_under_state_dir = true
disable_apparmor = true
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "{plugins}"
conf_dir = "{own}/networks"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
Root = "{own}/runc"
SystemdCgroup = false
"#,
            socket = socket(&folder).display()
        ),
    )?;
    let mut command = bound(&installed("containerd")?);
    command.arg("--config").arg(config);
    start("containerd", command, &folder)
}

/// Gives the images of the program for tests to containerd, as soon as it answers.
async fn import_images(folder: &Path, containerd: &Process) -> Result<()> {
    let answers = until("containerd answers", ANSWERS_WITHIN, || std::future::ready(ctr(folder, &["version"])));
    answers.await.with_context(|| format!("the end of its log:\n{}", containerd.log_tail()))?;
    import(folder, &["image"])
}

fn ctr(folder: &Path, arguments: &[&str]) -> Result<()> {
    let socket = socket(folder).display().to_string();
    run("ctr", &[["--address", &socket, "--namespace", "k8s.io"].as_slice(), arguments].concat())
}

/// Has the program for tests write an archive of images, and gives it to containerd.
fn import(folder: &Path, image: &[&str]) -> Result<()> {
    let archive = folder.join("images.tar");
    let file = File::create(&archive).with_context(|| format!("failed to create {}", archive.display()))?;
    let status = Command::new(part("testbed-guest")?).args(image).stdout(file).status().context("failed to write images")?;
    if !status.success() {
        bail!("failed to write images: {status}");
    }
    ctr(folder, &["images", "import", &archive.display().to_string()])
}

/// The libraries that a program of this machine is linked with, and what loads them.
fn libraries(program: &Path) -> Result<Vec<String>> {
    let output = Command::new("ldd").arg(program).output().context("failed to start ldd")?;
    if !output.status.success() {
        bail!("ldd {}: {}", program.display(), String::from_utf8_lossy(&output.stderr).trim());
    }
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    Ok(text.split_whitespace().filter(|word| word.starts_with('/')).map(str::to_owned).collect())
}

fn start_kubelet(claim: &Claim, plane: &ControlPlane, name: &str) -> Result<Process> {
    let folder = claim.folder();
    let kubeconfig = plane.kubeconfig_as(&format!("system:node:{name}"), &["system:nodes"])?;
    let config = json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration",
        "address": claim.address(), "port": free_address()?.port(), "healthzPort": 0,
        "authentication": {
            "anonymous": {"enabled": false}, "webhook": {"enabled": true}, "x509": {"clientCAFile": plane.authority()},
        },
        "authorization": {"mode": "Webhook"},
        "containerRuntimeEndpoint": format!("unix://{}", socket(&folder).display()),
        // With a root in common, each kubelet would end the pods of the others.
        "cgroupDriver": "cgroupfs", "cgroupRoot": format!("/{}", claim.name()),
        "failCgroupV1": false, "failSwapOn": false, "enforceNodeAllocatable": [], "oomScoreAdj": 0,
        "makeIPTablesUtilChains": false, "resolvConf": "",
        "podLogsDir": folder.join("logs"), "volumePluginDir": folder.join("flex-volumes"),
        // How full the machine's disk is says nothing of the test.
        "evictionHard": {"memory.available": "0%", "nodefs.available": "0%", "nodefs.inodesFree": "0%", "imagefs.available": "0%"},
        "imageGCHighThresholdPercent": 100, "imageGCLowThresholdPercent": 99,
    });
    let path = folder.join("kubelet.json");
    std::fs::write(&path, config.to_string()).with_context(|| format!("failed to write {}", path.display()))?;
    let mut command = bound(&part("kubelet")?);
    command
        .arg(format!("--config={}", path.display()))
        .arg(format!("--kubeconfig={}", kubeconfig.display()))
        .arg(format!("--root-dir={}", folder.join("kubelet").display()))
        .arg(format!("--cert-dir={}", folder.join("kubelet-certificates").display()))
        .arg(format!("--node-ip={}", claim.address()))
        .arg(format!("--hostname-override={name}"));
    start("kubelet", command, &folder)
}
