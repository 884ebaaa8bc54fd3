//! `explain`, `simulate`, `top`, `events`: why, where to, and how full.

use clap::Args;
use roadstead_api::v1;

use super::apply::Input;
use super::kinds::one_of_kind;
use crate::apply::put::{place_of, send};
use crate::client::{Connection, Services};
use crate::document::quantity::{Bytes, Cpu};
use crate::document::{Kind, Spec};
use crate::failure::{Exit, Failure};
use crate::output::bars::{bar, percent};
use crate::output::{Paint, Table, colour, dash_lines, out, paint, status};

/// Clusters that a line names before it says how many more there are.
const MAX_NAMED: usize = 4;
/// Characters of a bar.
const BAR_WIDTH: usize = 20;

/// See [`super::Cli`].
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  roadstead explain acme\n  roadstead explain acme --every-cluster")]
pub struct Explain {
    /// Tenant; the kind may stand before it, or as tenant/NAME.
    #[arg(required = true, num_args = 1..=2, value_name = "NAME")]
    name: Vec<String>,
    /// Name every cluster instead of grouping equal refusals.
    #[arg(long)]
    every_cluster: bool,
    #[command(flatten)]
    connection: Connection,
}

impl Explain {
    /// Tells why a tenant is where it is, and what every cluster says to it now.
    ///
    /// # Errors
    /// The call's.
    pub async fn run(self) -> Result<(), Failure> {
        let name = one_of_kind(Kind::Tenant, &self.name)?;
        let client = self.connection.connect()?;
        let request = v1::ExplainTenantRequest { name: name.clone(), every_cluster: self.every_cluster };
        let answer = send!(client, &format!("explain tenant/{name}"), placement, explain_tenant, request)?;
        out(&explained(&name, &answer, colour()));
        Ok(())
    }
}

/// An explanation as text.
#[must_use]
pub fn explained(name: &str, answer: &v1::ExplainTenantResponse, colour: bool) -> String {
    let tenant = answer.tenant.clone().unwrap_or_default();
    let tenant_status = tenant.status.clone().unwrap_or_default();
    let place = match &tenant_status.binding {
        Some(_) => format!("{} {}", status::standing(&tenant), place_of(&tenant_status)),
        None => place_of(&tenant_status),
    };
    let mut text = format!("{} {place}\n", paint(&format!("tenant/{name}"), Paint::Bold, colour));
    if !answer.kept_reason.is_empty() {
        text.push_str(&format!("decided then: {}\n", answer.kept_reason));
    }
    if let Some(now) = &answer.now {
        text.push_str(&format!("decided now (revision {}): ", status::revision(answer.revision.as_ref())));
        text.push_str(&explanation(now, colour));
    }
    text
}

/// What a decision weighed, as text.
#[must_use]
pub fn explanation(explanation: &v1::Explanation, colour: bool) -> String {
    let mut text = format!("{}\n", explanation.summary);
    if !explanation.candidates.is_empty() {
        let mut table = Table::new(&["RANK", "CLUSTER", "WEIGHED"]);
        for candidate in &explanation.candidates {
            let terms: Vec<String> = candidate.terms.iter().map(|term| format!("{}={}", term.name, term.value)).collect();
            let warnings = candidate.warnings.iter().map(|warning| format!(" ({warning})")).collect::<String>();
            table.row(vec![candidate.rank.to_string(), candidate.cluster.clone(), terms.join(" ") + &warnings]);
        }
        let shown = u32::try_from(explanation.candidates.len()).unwrap_or(u32::MAX);
        text.push_str(&format!("fits on {} clusters", explanation.candidate_count.max(shown)));
        text.push_str(if explanation.candidate_count > shown { ", the best are\n" } else { "\n" });
        text.push_str(&dash_lines(&table.render(colour)));
    }
    if !explanation.refusals.is_empty() {
        text.push_str("what stands against it; a cluster may be counted for several causes\n");
        let mut table = Table::new(&["CLUSTERS", "CAUSE", "WHY"]);
        for refusal in &explanation.refusals {
            table.row(vec![refusal.count.to_string(), refusal.cause.clone(), why(refusal)]);
        }
        text.push_str(&dash_lines(&table.render(colour)));
    }
    text
}

/// A refusal in words, with its numbers unless the words carry them, and some of the clusters.
fn why(refusal: &v1::Refusal) -> String {
    let amount = |name: &str, number: Option<u64>| number.map(|number| format!("{name} {}", in_units(&refusal.cause, number)));
    let numbers = [amount("wanted", refusal.wanted), amount("free", refusal.free), amount("limit", refusal.limit)];
    let numbers = numbers.into_iter().flatten().collect::<Vec<_>>().join(", ");
    let mut text = refusal.message.clone();
    if !numbers.is_empty() && !text.contains(" wanted, ") {
        text.push_str(&format!(" ({numbers})"));
    }
    if refusal.clusters.len() > 1 {
        text.push_str(&format!(" [{}]", some_of(&refusal.clusters, refusal.count)));
    }
    text
}

fn in_units(cause: &str, number: u64) -> String {
    match cause {
        "cpu" => Cpu(number).to_string(),
        "memory" | "storage" => crate::output::objects::rounded(number),
        _ => number.to_string(),
    }
}

fn some_of(clusters: &[String], count: u32) -> String {
    let shown = clusters.iter().take(MAX_NAMED).cloned().collect::<Vec<_>>().join(",");
    let more = (count as usize).saturating_sub(MAX_NAMED.min(clusters.len()));
    if more > 0 { format!("{shown},+{more}") } else { shown }
}

/// See [`super::Cli`].
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  roadstead simulate -f new-tenants.yaml         # where would they go?
  roadstead simulate -f shop.yaml --count 200    # would 200 more like it fit?")]
pub struct Simulate {
    #[command(flatten)]
    input: Input,
    /// Each tenant so many times.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1000))]
    count: u32,
    /// Name every cluster instead of grouping equal refusals.
    #[arg(long)]
    every_cluster: bool,
    #[command(flatten)]
    connection: Connection,
}

impl Simulate {
    /// Tells where tenants that do not exist would go; changes nothing.
    ///
    /// # Errors
    /// Bad documents, the call's.
    pub async fn run(self) -> Result<(), Failure> {
        let loaded = self.input.load()?;
        let client = self.connection.connect()?;
        let mut tenants = Vec::new();
        for item in &loaded {
            let Spec::Tenant(spec) = &item.document.spec else { continue };
            for copy in 0..self.count {
                let name = if copy == 0 { item.document.name.clone() } else { numbered(&item.document.name, copy) };
                tenants.push(v1::PlaceTenantRequest { name, spec: Some((&**spec).into()), ..v1::PlaceTenantRequest::default() });
            }
        }
        if tenants.is_empty() {
            return Err(Failure::usage("there is no tenant in the input"));
        }
        let names: Vec<String> = tenants.iter().map(|tenant| tenant.name.clone()).collect();
        let request = v1::SimulatePlacementRequest { tenants, every_cluster: self.every_cluster };
        let answer = send!(client, "simulate", placement, simulate_placement, request)?;
        let mut fitting = 0;
        for (name, found) in names.iter().zip(&answer.explanations) {
            fitting += usize::from(found.would_bind.is_some());
            match &found.would_bind {
                Some(binding) if names.len() > 1 => out(&format!("{name} would go to {} shard {}\n", binding.cluster, binding.shard)),
                _ => out(&format!("{name}: {}", explanation(found, colour()))),
            }
        }
        out(&format!("{fitting} of {} would fit, as of revision {}\n", names.len(), status::revision(answer.revision.as_ref())));
        Ok(())
    }
}

/// A DNS label with a number behind it.
fn numbered(name: &str, number: u32) -> String {
    let tail = format!("-{number}");
    let head: String = name.chars().take(63 - tail.len()).collect();
    head + &tail
}

/// See [`super::Cli`].
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  roadstead top\n  roadstead top pools")]
pub struct Top {
    /// clusters or pools.
    #[arg(default_value = "clusters", value_parser = ["clusters", "pools"])]
    what: String,
    #[command(flatten)]
    connection: Connection,
}

impl Top {
    /// Shows how full clusters or pools are.
    ///
    /// # Errors
    /// The call's.
    pub async fn run(self) -> Result<(), Failure> {
        let client = self.connection.connect()?;
        let clusters = client.clusters(false).await?;
        out(&if self.what == "pools" { pools(&clusters) } else { fill(&clusters, colour()) });
        Ok(())
    }
}

/// What a cluster can promise, without what others use.
fn whole(status: &v1::ClusterStatus) -> v1::Resources {
    let (used, free) = (status.used.unwrap_or_default(), status.free.unwrap_or_default());
    v1::Resources {
        cpu_millicores: used.cpu_millicores + free.cpu_millicores,
        memory_bytes: used.memory_bytes + free.memory_bytes,
        pods: used.pods + free.pods,
        storage_bytes: used.storage_bytes + free.storage_bytes,
        attachments: used.attachments + free.attachments,
    }
}

/// Clusters' fill as bars.
#[must_use]
pub fn fill(clusters: &[v1::Cluster], colour: bool) -> String {
    let mut table = Table::new(&[
        "CLUSTER",
        "POOL",
        "STATE",
        "TENANTS",
        "",
        "CPU",
        "MEMORY",
        "PODS",
        "STORAGE",
        "ATTACHMENTS",
        "VERSION",
        "NODES",
        "AGENT",
        "LAST CONTACT",
    ]);
    for cluster in clusters {
        let (spec, status) = (cluster.spec.clone().unwrap_or_default(), cluster.status.clone().unwrap_or_default());
        let (used, whole) = (status.used.unwrap_or_default(), whole(&status));
        let cells = [
            cluster.name.clone(),
            spec.pool,
            status::cluster_state(status.state()).to_owned(),
            format!("{}/{}", status.tenants, spec.tenant_cap),
            bar(status.tenants.into(), spec.tenant_cap.into(), BAR_WIDTH),
            percent(used.cpu_millicores, whole.cpu_millicores),
            percent(used.memory_bytes, whole.memory_bytes),
            percent(used.pods, whole.pods),
            percent(used.storage_bytes, whole.storage_bytes),
            percent(used.attachments, whole.attachments),
        ]
        .into_iter()
        .chain(status::made_of(&status))
        .chain([status::contact(&status)]);
        table.row(cells.collect());
    }
    table.render(colour)
}

fn pools(clusters: &[v1::Cluster]) -> String {
    let mut sums = std::collections::BTreeMap::<String, (u64, u64, u64, v1::Resources, v1::Resources)>::new();
    for cluster in clusters {
        let (spec, status) = (cluster.spec.clone().unwrap_or_default(), cluster.status.clone().unwrap_or_default());
        let sum = sums.entry(spec.pool).or_default();
        sum.0 += 1;
        sum.1 += u64::from(status.tenants);
        sum.2 += u64::from(spec.tenant_cap);
        add(&mut sum.3, status.used.unwrap_or_default());
        add(&mut sum.4, whole(&status));
    }
    let mut table = Table::new(&["POOL", "CLUSTERS", "TENANTS", "", "CPU", "MEMORY", "STORAGE", "CPU USED", "MEMORY USED"]);
    for (pool, (count, tenants, cap, used, whole)) in sums {
        table.row(vec![
            pool,
            count.to_string(),
            format!("{tenants}/{cap}"),
            bar(tenants, cap, BAR_WIDTH),
            percent(used.cpu_millicores, whole.cpu_millicores),
            percent(used.memory_bytes, whole.memory_bytes),
            percent(used.storage_bytes, whole.storage_bytes),
            Cpu(used.cpu_millicores / 1000 * 1000).to_string(),
            Bytes(used.memory_bytes >> 30 << 30).to_string(),
        ]);
    }
    table.render(colour())
}

fn add(sum: &mut v1::Resources, more: v1::Resources) {
    sum.cpu_millicores += more.cpu_millicores;
    sum.memory_bytes += more.memory_bytes;
    sum.pods += more.pods;
    sum.storage_bytes += more.storage_bytes;
    sum.attachments += more.attachments;
}

/// See [`super::Cli`].
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  roadstead events acme")]
pub struct Events {
    /// Tenant; the kind may stand before it, or as tenant/NAME.
    #[arg(required = true, num_args = 1..=2, value_name = "NAME")]
    name: Vec<String>,
    #[command(flatten)]
    connection: Connection,
}

impl Events {
    /// Shows a tenant's history.
    ///
    /// # Errors
    /// The call's.
    pub async fn run(self) -> Result<(), Failure> {
        let name = one_of_kind(Kind::Tenant, &self.name)?;
        let client = self.connection.connect()?;
        let found = super::get::events_of(&client, &name).await.map_err(|failure| match failure.exit {
            Exit::NotFound => failure.hint(
                "a tenant's history goes with the tenant, once its cluster has told that nothing is left of it: nothing is kept of one that \
                 was purged; `roadstead watch tenants` shows changes as they come",
            ),
            Exit::Failed | Exit::Usage | Exit::Conflict | Exit::Unavailable | Exit::Permission | Exit::Interrupted => failure,
        });
        out(found?.trim_start());
        Ok(())
    }
}
