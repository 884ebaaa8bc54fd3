//! The trace as it is published, and the load that its rotated copies make together. It knows no fleet.

use std::path::Path;

use anyhow::{Context, Result, bail};
use roadstead_core::resources::{Bytes, Millicores, PodSize};

use crate::chance::Chance;

const PODS: &str = "openb_pod_list_default.csv";
const NODES: &str = "openb_node_list_all_node.csv";

/// Where it can be had.
const SOURCE: &str = "It is public: github.com/alibaba/clusterdata, folder cluster-trace-gpu-v2023/csv. Two of its files are read: \
    openb_pod_list_default.csv (columns cpu_milli, memory_mib, creation_time, deletion_time; seconds) and \
    openb_node_list_all_node.csv (columns cpu_milli, memory_mib). Name their folder by --traces FOLDER or by ROADSTEAD_TRACES.";

/// One pod of the trace: in place from `start` until just before `end`, in seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pod {
    pub(crate) size: PodSize,
    pub(crate) start: u64,
    pub(crate) end: u64,
}

/// What is read.
#[derive(Debug)]
pub(crate) struct Trace {
    pub(crate) pods: Vec<Pod>,
    /// What each node can allocate, in the trace's order.
    pub(crate) nodes: Vec<PodSize>,
}

/// A tenant comes or goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Event {
    /// Since the clock began to run; who is there already came before.
    pub(crate) second: i64,
    /// In one second departures come first: what they leave can be used.
    pub(crate) arrives: bool,
    /// Its number in [`Load::sizes`].
    pub(crate) tenant: usize,
}

/// Everything that happens, in order.
#[derive(Debug)]
pub(crate) struct Load {
    pub(crate) events: Vec<Event>,
    pub(crate) sizes: Vec<PodSize>,
    /// The greatest sum of cpu and that of memory; they need not be at the same time.
    pub(crate) peak: PodSize,
    pub(crate) peak_tenants: usize,
}

impl Trace {
    /// Reads both files.
    ///
    /// # Errors
    /// Says where the trace can be had if it is not there, and what is wrong with a file that is not as expected.
    pub(crate) fn read(folder: Option<&Path>) -> Result<Self> {
        let Some(folder) = folder else { bail!("the trace is not part of this repository. {SOURCE}") };
        let read = |file: &str| {
            let path = folder.join(file);
            std::fs::read_to_string(&path).with_context(|| format!("failed to read {}. {SOURCE}", path.display()))
        };
        let pods =
            rows(&read(PODS)?, ["cpu_milli", "memory_mib", "creation_time", "deletion_time"]).with_context(|| format!("in {PODS}"))?;
        let nodes = rows(&read(NODES)?, ["cpu_milli", "memory_mib"]).with_context(|| format!("in {NODES}"))?;
        Ok(Self {
            pods: pods.into_iter().map(|[cpu, memory, start, end]| Pod { size: size(cpu, memory), start, end }).collect(),
            nodes: nodes.into_iter().map(|[cpu, memory]| size(cpu, memory)).collect(),
        })
    }

    /// The last second of the trace: where a copy that is rotated begins again.
    fn length(&self) -> u64 {
        self.pods.iter().map(|pod| pod.end).max().unwrap_or(0)
    }

    /// So many copies together, each rotated by an offset of its own.
    pub(crate) fn load(&self, copies: usize, seed: u64) -> Load {
        let (mut chance, length) = (Chance::new(seed), self.length());
        let (mut events, mut sizes) = (Vec::new(), Vec::new());
        for _ in 0..copies {
            let offset = chance.below(usize::try_from(length).unwrap_or(usize::MAX)) as u64;
            for pod in &self.pods {
                for (from, until) in rotated(*pod, offset, length).into_iter().flatten() {
                    let tenant = sizes.len();
                    sizes.push(pod.size);
                    events.push(Event { second: from, arrives: true, tenant });
                    // Who is there at the end of the run stays: the next turn would take it from there.
                    events.extend((until <= length as i64).then_some(Event { second: until, arrives: false, tenant }));
                }
            }
        }
        events.sort_unstable();
        let (peak, peak_tenants) = peak(&events, &sizes);
        Load { events, sizes, peak, peak_tenants }
    }
}

impl Load {
    pub(crate) fn arrivals(&self) -> usize {
        self.events.iter().filter(|event| event.arrives).count()
    }
}

/// When a pod is in place during one turn of a trace that is rotated by `offset`: from when until when. One that is cut by the end of the
/// turn is there at its beginning too, since before the clock began to run. One that came and went in the same second never is.
fn rotated(pod: Pod, offset: u64, length: u64) -> [Option<(i64, i64)>; 2] {
    if pod.end <= pod.start {
        return [None, None];
    }
    let from = ((pod.start + offset) % length) as i64;
    let until = from + (pod.end - pod.start) as i64;
    let length = length as i64;
    [Some((from, until)), (until > length).then_some((from - length, until - length))]
}

fn peak(events: &[Event], sizes: &[PodSize]) -> (PodSize, usize) {
    let (mut cpu, mut memory, mut tenants) = (0_u64, 0_u64, 0_usize);
    let (mut peak, mut peak_tenants) = (PodSize::default(), 0);
    for event in events {
        let size = sizes[event.tenant];
        if event.arrives {
            (cpu, memory, tenants) = (cpu + size.cpu.0, memory + size.memory.0, tenants + 1);
        } else {
            (cpu, memory, tenants) = (cpu - size.cpu.0, memory - size.memory.0, tenants - 1);
        }
        peak.cpu.0 = peak.cpu.0.max(cpu);
        peak.memory.0 = peak.memory.0.max(memory);
        peak_tenants = peak_tenants.max(tenants);
    }
    (peak, peak_tenants)
}

fn size(cpu_millicores: u64, memory_mib: u64) -> PodSize {
    PodSize { cpu: Millicores(cpu_millicores), memory: Bytes(memory_mib << 20) }
}

/// These columns of a table whose first line names them.
fn rows<const N: usize>(text: &str, columns: [&str; N]) -> Result<Vec<[u64; N]>> {
    let mut lines = text.lines();
    let names: Vec<&str> = lines.next().unwrap_or("").split(',').map(str::trim).collect();
    let mut places = [0; N];
    for (place, column) in places.iter_mut().zip(columns) {
        *place = names.iter().position(|name| *name == column).with_context(|| format!("no column is called {column}"))?;
    }
    let row = |(number, line): (usize, &str)| {
        let fields: Vec<&str> = line.split(',').map(str::trim).collect();
        let mut row = [0; N];
        for ((value, place), column) in row.iter_mut().zip(places).zip(columns) {
            let field = fields.get(place).copied().unwrap_or("");
            *value = field.parse().with_context(|| format!("line {}: {column} is {field:?}, not a whole number", number + 2))?;
        }
        Ok(row)
    };
    lines.enumerate().filter(|(_, line)| !line.trim().is_empty()).map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(cpu: u64, start: u64, end: u64) -> Pod {
        Pod { size: size(cpu, 1024), start, end }
    }

    #[test]
    fn a_rotated_pod_that_passes_the_end_is_there_at_the_beginning_too() {
        assert_eq!(rotated(pod(1, 10, 30), 0, 100), [Some((10, 30)), None]);
        assert_eq!(rotated(pod(1, 10, 30), 50, 100), [Some((60, 80)), None]);
        assert_eq!(rotated(pod(1, 10, 30), 70, 100), [Some((80, 100)), None], "until the very end is not past it");
        assert_eq!(rotated(pod(1, 10, 30), 75, 100), [Some((85, 105)), Some((-15, 5))]);
        assert_eq!(rotated(pod(1, 10, 30), 95, 100), [Some((5, 25)), None], "it begins in the next turn");
        assert_eq!(rotated(pod(1, 10, 10), 5, 100), [None, None]);
    }

    #[test]
    fn rotation_keeps_the_time_that_pods_are_in_place() {
        let pods = vec![pod(1, 0, 100), pod(2, 10, 30), pod(3, 90, 99), pod(4, 50, 51)];
        let trace = Trace { pods: pods.clone(), nodes: Vec::new() };
        let wanted: i64 = pods.iter().map(|pod| (pod.end - pod.start) as i64).sum();
        for seed in 0..50 {
            let load = trace.load(1, seed);
            let mut spans = vec![(0, 100); load.sizes.len()];
            for event in &load.events {
                let span = &mut spans[event.tenant];
                if event.arrives { span.0 = event.second.max(0) } else { span.1 = event.second }
            }
            assert_eq!(spans.iter().map(|(from, until)| until - from).sum::<i64>(), wanted, "seed {seed}");
        }
    }

    #[test]
    fn the_peak_counts_departures_before_arrivals_of_the_same_second() {
        let trace = Trace { pods: vec![pod(4000, 0, 50), pod(4000, 50, 100), pod(1000, 20, 60)], nodes: Vec::new() };
        let load = trace.load(1, 7);
        assert_eq!((load.peak.cpu, load.peak_tenants), (Millicores(5000), 2));
        assert_eq!(load.peak.memory, Bytes(2 << 30));
    }

    #[test]
    fn copies_are_rotated_by_different_offsets_and_a_seed_repeats_them() {
        let trace = Trace { pods: vec![pod(1000, 0, 10), pod(1, 0, 1_000_000)], nodes: Vec::new() };
        let load = trace.load(3, 1);
        assert_eq!(load.events, trace.load(3, 1).events);
        let starts: std::collections::BTreeSet<_> =
            load.events.iter().filter(|event| event.arrives && load.sizes[event.tenant].cpu.0 == 1000).map(|event| event.second).collect();
        assert_eq!(starts.len(), 3);
    }

    #[test]
    fn columns_are_found_by_name_and_a_bad_number_is_told_with_its_line() {
        assert_eq!(rows("a,b,c\n1,x,3\n4,,6\n", ["c", "a"]).expect("a good table"), [[3, 1], [6, 4]]);
        let problem = |text| format!("{:#}", rows::<1>(text, ["b"]).expect_err("a bad table"));
        assert!(problem("a,c\n1,2\n").contains("no column is called b"));
        assert!(problem("a,b\n1,2\n1,x\n").contains("line 3: b is \"x\""));
    }

    #[test]
    fn without_the_files_it_says_where_they_can_be_had() {
        for folder in [None, Some(Path::new("no-such-folder"))] {
            let error = format!("{:#}", Trace::read(folder).expect_err("there is none"));
            assert!(["alibaba/clusterdata", "ROADSTEAD_TRACES", PODS, NODES].iter().all(|part| error.contains(part)), "{error}");
        }
    }
}
