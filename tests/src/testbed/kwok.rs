//! Nodes and pods that kwok plays: for numbers, not for bytes. A pod bound to such a node is Running at once and runs nothing.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::{Node, NodeSpec, NodeStatus, Taint};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::Api;
use kube::api::{ListParams, ObjectMeta, PostParams};

use super::control_plane::ControlPlane;
use super::parts::{bound, part, start};
use crate::process::{Process, until};

/// The annotation by which kwok knows its own, so that real nodes may be beside them.
const OWN: (&str, &str) = ("kwok.x-k8s.io/node", "fake");
/// Where its pods' addresses come from: 4 million of them, apart from all Service ranges.
const POD_ADDRESSES: &str = "10.128.0.1/10";
/// Nodes that are created at the same time.
const AT_ONCE: usize = 16;
/// How long nodes may take to become ready; a thousand take some seconds.
const READY_WITHIN: Duration = Duration::from_secs(120);

/// A running kwok. Dropping it kills it; its nodes then miss their heartbeats.
pub struct Kwok {
    process: Process,
    client: kube::Client,
}

/// What each of some nodes is like.
#[derive(Clone, Debug, Default)]
pub struct NodeShape {
    /// What pods may ask for, such as `cpu: "4"`, `memory: 16Gi`, `pods: "110"`; capacity is the same.
    pub allocatable: BTreeMap<String, Quantity>,
    /// Beside `kubernetes.io/hostname`.
    pub labels: BTreeMap<String, String>,
    /// What keeps pods away.
    pub taints: Vec<Taint>,
}

impl NodeShape {
    /// So many cores and GiB, and 110 pods.
    #[must_use]
    pub fn of(cores: u32, gibibytes: u32) -> Self {
        let allocatable = [("cpu", cores.to_string()), ("memory", format!("{gibibytes}Gi")), ("pods", "110".to_owned())];
        Self { allocatable: allocatable.map(|(name, text)| (name.to_owned(), Quantity(text))).into(), ..Self::default() }
    }
}

impl Kwok {
    /// Starts kwok for a control plane.
    ///
    /// # Errors
    /// If it is missing or cannot be started.
    pub async fn start(plane: &ControlPlane) -> Result<Self> {
        let mut command = bound(&part("kwok")?);
        command
            .arg(format!("--kubeconfig={}", plane.kubeconfig().display()))
            .arg(format!("--manage-nodes-with-annotation-selector={}={}", OWN.0, OWN.1))
            .arg(format!("--cidr={POD_ADDRESSES}"))
            // Whoever runs this may have settings of their own for kwok at home.
            .env("KWOK_WORKDIR", plane.folder().join("kwok"));
        Ok(Self { process: start("kwok", command, plane.folder())?, client: plane.client().await? })
    }

    /// Its process.
    #[must_use]
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// Creates nodes of one shape, named `<prefix>-0` and on, and waits until all are ready.
    ///
    /// # Errors
    /// If they are not in time; carries the end of kwok's log.
    pub async fn add_nodes(&self, prefix: &str, count: usize, shape: &NodeShape) -> Result<()> {
        self.add_each(prefix, &vec![shape.clone(); count]).await
    }

    /// Creates a node of each shape, named `<prefix>-0` and on, and waits until all are ready.
    ///
    /// # Errors
    /// If they are not in time; carries the end of kwok's log.
    pub async fn add_each(&self, prefix: &str, shapes: &[NodeShape]) -> Result<()> {
        let (nodes, count): (Api<Node>, _) = (Api::all(self.client.clone()), shapes.len());
        let made = futures::stream::iter(shapes.iter().enumerate()).map(|(number, shape)| {
            let node = node(&format!("{prefix}-{number}"), prefix, shape);
            let nodes = nodes.clone();
            async move { nodes.create(&PostParams::default(), &node).await }
        });
        made.buffer_unordered(AT_ONCE).try_for_each(|_| async { Ok(()) }).await.context("failed to create a node")?;
        let own = ListParams::default().labels(&format!("{POOL}={prefix}"));
        let ready = until("the nodes are ready", READY_WITHIN, || async {
            let ready = nodes.list(&own).await?.iter().filter(|node| is_ready(node)).count();
            ensure!(ready == count, "{ready} of {count} are");
            Ok(())
        });
        ready.await.with_context(|| format!("the end of kwok's log:\n{}", self.process.log_tail()))
    }
}

/// The label that tells which nodes were added together.
const POOL: &str = "testbed/pool";

fn node(name: &str, pool: &str, shape: &NodeShape) -> Node {
    let mut labels = shape.labels.clone();
    labels.insert("kubernetes.io/hostname".to_owned(), name.to_owned());
    labels.insert(POOL.to_owned(), pool.to_owned());
    Node {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            labels: Some(labels),
            annotations: Some([(OWN.0.to_owned(), OWN.1.to_owned())].into()),
            ..ObjectMeta::default()
        },
        spec: Some(NodeSpec { taints: Some(shape.taints.clone()), ..NodeSpec::default() }),
        status: Some(NodeStatus {
            allocatable: Some(shape.allocatable.clone()),
            capacity: Some(shape.allocatable.clone()),
            ..NodeStatus::default()
        }),
    }
}

/// Whether a node says that it is ready.
pub(super) fn is_ready(node: &Node) -> bool {
    let conditions = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.filter(|condition| condition.type_ == "Ready").any(|condition| condition.status == "True")
}
