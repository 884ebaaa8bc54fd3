//! A whole input (files, folders, stdin), read and checked before anything is sent.
//!
//! Every problem names file, line and field. Nothing is handed on if any document is bad.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io::Read;
use std::path::{Path, PathBuf};

use roadstead_class::{Finding, Schema};
use serde::Deserialize;

use super::class::ClassSpec;
use super::fleet::{ClusterSpec, PolicySpec, PoolSpec};
use super::read::{from_node, shown};
use super::tenant::{ClassRef, TenantSpec};
use super::tree::{self, Node, Place, Value};
use super::{API_VERSION, Document, Envelope, Findings, Kind, LIST_KIND, POLICY_NAME, Spec};

/// The largest file that is read.
pub const MAX_FILE_BYTES: u64 = 256 << 20;
/// Problems that are listed; more only repeat a mistake.
pub const MAX_PROBLEMS: usize = 50;

/// One problem.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// File, or `-` for stdin.
    pub file: String,
    /// Where in it; absent if the file could not be read at all.
    pub place: Option<Place>,
    /// Field, as in `spec.requests.cpu`; empty if it is none's.
    pub field: String,
    /// What is wrong.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if let Some(place) = self.place {
            write!(f, ":{}:{}", place.line, place.column)?;
        }
        if !self.field.is_empty() {
            write!(f, ": {}", self.field)?;
        }
        write!(f, ": {}", self.message)
    }
}

/// Everything that is wrong with an input.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct BadInput(pub Vec<Problem>);

impl fmt::Display for BadInput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for problem in self.0.iter().take(MAX_PROBLEMS) {
            writeln!(f, "{problem}")?;
        }
        if let Some(more) = self.0.len().checked_sub(MAX_PROBLEMS + 1) {
            writeln!(f, "and {} more", more + 1)?;
        }
        let count = self.0.len();
        write!(f, "{count} problem{}; nothing was sent", if count == 1 { "" } else { "s" })
    }
}

/// How a problem with a pool that there is not begins.
const NO_POOL: &str = "there is no pool";

impl BadInput {
    /// Whether a pool is named that there is not.
    #[must_use]
    pub fn lacks_a_pool(&self) -> bool {
        self.0.iter().any(|problem| problem.message.starts_with(NO_POOL))
    }
}

/// A document with where it came from.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// What was read.
    pub document: Document,
    /// File.
    pub file: String,
    /// Tree, for the places of fields.
    pub node: Node,
}

impl Loaded {
    /// Where it stands: file and line of its name.
    #[must_use]
    pub fn place(&self) -> String {
        format!("{}:{}", self.file, self.node.place_of("metadata.name").line)
    }

    /// A problem with one of its fields.
    #[must_use]
    pub fn problem(&self, field: &str, message: impl Into<String>) -> Problem {
        Problem { file: self.file.clone(), place: Some(self.node.place_of(field)), field: field.to_owned(), message: message.into() }
    }
}

/// What the documents refer to outside of themselves.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Known {
    /// Pools.
    pub pools: BTreeSet<String>,
    /// Class versions, each with the JSON Schema of its tenants' values; empty for one that accepts none.
    pub classes: BTreeMap<ClassRef, String>,
    /// Clusters.
    pub clusters: BTreeSet<String>,
}

/// Reads files and folders (`-` is stdin) and checks everything that needs no server; sorted into the order of application.
///
/// # Errors
/// All problems of all files.
pub fn load(inputs: &[PathBuf]) -> Result<Vec<Loaded>, BadInput> {
    let (mut loaded, mut problems) = (Vec::new(), Vec::new());
    for input in inputs {
        match sources(input) {
            Ok(sources) => {
                for source in sources {
                    read_source(&source, &mut loaded, &mut problems);
                }
            }
            Err(problem) => problems.push(problem),
        }
    }
    if loaded.is_empty() && problems.is_empty() {
        let file = inputs.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ");
        problems.push(Problem { file, place: None, field: String::new(), message: "holds no document".to_owned() });
    }
    finish(loaded, problems)
}

/// Reads documents from text, as [`load`] does; `file` is what problems name.
///
/// # Errors
/// All problems.
pub fn load_text(file: &str, folder: &Path, bytes: &[u8]) -> Result<Vec<Loaded>, BadInput> {
    let (mut loaded, mut problems) = (Vec::new(), Vec::new());
    let source = Source { file: file.to_owned(), folder: folder.to_owned(), bytes: bytes.to_owned() };
    read_source(&source, &mut loaded, &mut problems);
    finish(loaded, problems)
}

fn finish(mut loaded: Vec<Loaded>, mut problems: Vec<Problem>) -> Result<Vec<Loaded>, BadInput> {
    find_duplicates(&loaded, &mut problems);
    if !problems.is_empty() {
        return Err(BadInput(problems));
    }
    loaded.sort_by_key(|item| item.document.spec.kind());
    Ok(loaded)
}

/// One text to read.
struct Source {
    file: String,
    folder: PathBuf,
    bytes: Vec<u8>,
}

fn sources(input: &Path) -> Result<Vec<Source>, Problem> {
    let problem = |path: &Path, message: String| Problem { file: path.display().to_string(), place: None, field: String::new(), message };
    if input == Path::new("-") {
        let mut bytes = Vec::new();
        let read = std::io::stdin().lock().take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes);
        read.map_err(|error| problem(input, format!("cannot read stdin: {error}")))?;
        return Ok(vec![Source { file: "-".to_owned(), folder: PathBuf::from("."), bytes }]);
    }
    let metadata = std::fs::metadata(input).map_err(|error| problem(input, format!("cannot be read: {error}")))?;
    let paths = if metadata.is_dir() { folder_files(input).map_err(|e| problem(input, e))? } else { vec![input.to_owned()] };
    paths
        .into_iter()
        .map(|path| {
            let size = std::fs::metadata(&path).map_or(0, |metadata| metadata.len());
            if size > MAX_FILE_BYTES {
                return Err(problem(&path, format!("has {size} bytes, at most {MAX_FILE_BYTES} are read")));
            }
            let bytes = std::fs::read(&path).map_err(|error| problem(&path, format!("cannot be read: {error}")))?;
            Ok(Source { file: path.display().to_string(), folder: folder_of(&path).to_owned(), bytes })
        })
        .collect()
}

/// Where a file lies: a bare name has no parent that could be read.
fn folder_of(file: &Path) -> &Path {
    file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// The YAML and JSON files directly in a folder, by name; files below folders inside it are manifests, not documents.
fn folder_files(folder: &Path) -> Result<Vec<PathBuf>, String> {
    let listing = std::fs::read_dir(folder).map_err(|error| format!("cannot be read: {error}"))?;
    let mut paths: Vec<PathBuf> = listing
        .filter_map(Result::ok)
        .map(|entry| entry.path())
        .filter(|path| path.is_file() && path.extension().is_some_and(|end| end == "yaml" || end == "yml" || end == "json"))
        .collect();
    paths.sort();
    if paths.is_empty() { Err("holds no .yaml, .yml or .json file".to_owned()) } else { Ok(paths) }
}

fn read_source(source: &Source, loaded: &mut Vec<Loaded>, problems: &mut Vec<Problem>) {
    let problem = |place: Option<Place>, field: String, message: String| Problem { file: source.file.clone(), place, field, message };
    if source.bytes.len() as u64 > MAX_FILE_BYTES {
        problems.push(problem(None, String::new(), format!("is larger than {MAX_FILE_BYTES} bytes")));
        return;
    }
    let text = match std::str::from_utf8(&source.bytes) {
        Ok(text) => text,
        Err(error) => {
            let (place, field) = locate(&source.bytes, error.valid_up_to());
            problems.push(problem(Some(place), field, "is not UTF-8".to_owned()));
            return;
        }
    };
    match tree::parse(text) {
        Err((place, message)) => {
            let field = key_on_line(text.lines().nth(usize::try_from(place.line.saturating_sub(1)).unwrap_or(0)).unwrap_or(""));
            let hint = roadstead_class::unquoted_expression(text).map(|hint| format!("; {hint}")).unwrap_or_default();
            problems.push(problem((place.line > 0).then_some(place), field, message + &hint));
        }
        Ok(nodes) => {
            for node in nodes {
                match unpacked(source, node) {
                    Ok(nodes) => nodes.into_iter().for_each(|node| match read_document(source, node) {
                        Ok(item) => loaded.push(item),
                        Err(found) => problems.extend(found),
                    }),
                    Err(found) => problems.push(found),
                }
            }
        }
    }
}

/// The items of a `kind: List`, as `get -o json` writes several things; any other document as it is.
fn unpacked(source: &Source, node: Node) -> Result<Vec<Node>, Problem> {
    let text = |key: &str| node.get(key).and_then(Node::text);
    if text("kind") != Some(LIST_KIND) || text("apiVersion") != Some(API_VERSION) {
        return Ok(vec![node]);
    }
    match node.get("items") {
        Some(Node { value: Value::List(items), .. }) => Ok(items.clone()),
        Some(_) | None => {
            let message = format!("a {LIST_KIND} holds its documents here, as a list");
            Err(Problem { file: source.file.clone(), place: Some(node.place_of("items")), field: "items".to_owned(), message })
        }
    }
}

/// Line, column and the key of that line for a byte that is not UTF-8.
fn locate(bytes: &[u8], at: usize) -> (Place, String) {
    let before = &bytes[..at];
    let start = before.iter().rposition(|byte| *byte == b'\n').map_or(0, |newline| newline + 1);
    let line = before.iter().filter(|byte| **byte == b'\n').count() as u64 + 1;
    let prefix = String::from_utf8_lossy(&before[start..]);
    (Place { line, column: prefix.chars().count() as u64 + 1 }, key_on_line(&prefix))
}

/// The last key that a line begins: all that is known of the field when the text is no YAML.
fn key_on_line(line: &str) -> String {
    let head = line.rsplit_once(':').map_or("", |(head, _)| head);
    let key: String = head.chars().rev().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
    shown(&key.chars().rev().collect::<String>())
}

fn read_document(source: &Source, node: Node) -> Result<Loaded, Vec<Problem>> {
    let kind = kind_of(source, &node)?;
    let (name, mut spec) = match kind {
        Kind::Policy => read_kind::<PolicySpec>(source, &node).map(|(name, spec)| (name, Spec::Policy(spec))),
        Kind::Pool => read_kind::<PoolSpec>(source, &node).map(|(name, spec)| (name, Spec::Pool(spec))),
        Kind::Class => read_kind::<ClassSpec>(source, &node).map(|(name, spec)| (name, Spec::Class(Box::new(spec)))),
        Kind::Cluster => read_kind::<ClusterSpec>(source, &node).map(|(name, spec)| (name, Spec::Cluster(Box::new(spec)))),
        Kind::Tenant => read_kind::<TenantSpec>(source, &node).map(|(name, spec)| (name, Spec::Tenant(Box::new(spec)))),
    }
    .map_err(|problem| vec![problem])?;
    let mut findings = Findings::default();
    match &mut spec {
        Spec::Policy(_) if name != POLICY_NAME => {
            findings.add("metadata.name", format!("there is one policy, and its name is `{POLICY_NAME}`"));
        }
        Spec::Policy(_) | Spec::Pool(_) => {}
        Spec::Class(class) => {
            class.inline(&source.folder, &mut findings);
            class.check(&name, &mut findings);
        }
        Spec::Cluster(cluster) => cluster.check(&mut findings),
        Spec::Tenant(tenant) => tenant.check(&mut findings),
    }
    let loaded = Loaded { document: Document { name, spec }, file: source.file.clone(), node };
    let problems: Vec<Problem> = findings.0.into_iter().map(|(field, message)| loaded.problem(&field, message)).collect();
    if problems.is_empty() { Ok(loaded) } else { Err(problems) }
}

/// Reads `apiVersion` and `kind`, so that the rest is judged by the right type.
fn kind_of(source: &Source, node: &Node) -> Result<Kind, Vec<Problem>> {
    let problem = |field: &str, message: String| {
        vec![Problem { file: source.file.clone(), place: Some(node.place_of(field)), field: field.to_owned(), message }]
    };
    if !matches!(node.value, Value::Map(_)) {
        return Err(problem("", "a document is a map with apiVersion, kind, metadata and spec".to_owned()));
    }
    match node.get("apiVersion").map(Node::text) {
        None => return Err(problem("apiVersion", format!("is missing: write `apiVersion: {API_VERSION}`"))),
        Some(Some(API_VERSION)) => {}
        Some(other) => {
            let other = other.map_or("what is written".to_owned(), |text| format!("`{}`", shown(text)));
            return Err(problem("apiVersion", format!("{other} is not known here: write `{API_VERSION}`")));
        }
    }
    let known = || Kind::ALL.map(Kind::name).join(", ");
    match node.get("kind").map(Node::text) {
        None => Err(problem("kind", format!("is missing: write one of {}", known()))),
        Some(text) => Kind::ALL.into_iter().find(|kind| Some(kind.name()) == text).ok_or_else(|| {
            let text = text.map_or("what is written".to_owned(), |text| format!("`{}`", shown(text)));
            problem("kind", format!("{text} is not one of {}", known()))
        }),
    }
}

fn read_kind<'de, S: Deserialize<'de>>(source: &Source, node: &'de Node) -> Result<(String, S), Problem> {
    let envelope: Envelope<S> = from_node(node).map_err(|error| Problem {
        file: source.file.clone(),
        place: error.place.or(Some(node.place)),
        field: error.field(),
        message: error.message,
    })?;
    Ok((envelope.metadata.name.0, envelope.spec))
}

fn find_duplicates(loaded: &[Loaded], problems: &mut Vec<Problem>) {
    let mut seen: BTreeMap<String, &Loaded> = BTreeMap::new();
    for item in loaded {
        if let Some(first) = seen.insert(item.document.identity(), item) {
            let message = format!("{} is declared in {} already", item.document.identity(), first.place());
            problems.push(item.problem("metadata.name", message));
        }
    }
}

/// What an input declares itself, for [`check_references`].
#[must_use]
pub fn declared(loaded: &[Loaded]) -> Known {
    let mut known = Known::default();
    for item in loaded {
        let name = item.document.name.clone();
        match &item.document.spec {
            Spec::Pool(_) => {
                known.pools.insert(name);
            }
            Spec::Class(class) => {
                known.classes.insert(ClassRef { name, version: class.version.clone() }, class.values_schema().unwrap_or_default());
            }
            Spec::Cluster(_) => {
                known.clusters.insert(name);
            }
            Spec::Policy(_) | Spec::Tenant(_) => {}
        }
    }
    known
}

/// Checks that every pool, class and cluster that is named is declared here or `known` to the server, and that every tenant's values are
/// such as its class accepts.
///
/// # Errors
/// Each reference that leads nowhere, each value that the class refuses.
pub fn check_references(loaded: &[Loaded], known: &Known) -> Result<(), BadInput> {
    let here = declared(loaded);
    // A schema of the server that cannot be read is the server's to judge.
    let parse = |(class, text): (&ClassRef, &String)| Schema::parse(text).ok().map(|schema| (class.clone(), schema));
    let schemas: BTreeMap<ClassRef, Schema> = known.classes.iter().chain(&here.classes).filter_map(parse).collect();
    let pool = |name: &str| here.pools.contains(name) || known.pools.contains(name);
    let mut problems = Vec::new();
    for item in loaded {
        match &item.document.spec {
            Spec::Cluster(cluster) if !pool(&cluster.pool.0) => {
                problems.push(item.problem("spec.pool", format!("{NO_POOL} `{}`, neither here nor on the server", cluster.pool)));
            }
            Spec::Tenant(tenant) => {
                let class = tenant.class.parse::<ClassRef>().ok();
                if let Some(schema) = class.as_ref().and_then(|class| schemas.get(class)) {
                    let refusals = schema.refusals(serde_json::Value::Object(tenant.values.clone()));
                    problems.extend(refusals.into_iter().map(|Finding { field, problem }| item.problem(&field, problem)));
                }
                if let Some(class) = class.filter(|class| !here.classes.contains_key(class) && !known.classes.contains_key(class)) {
                    problems.push(item.problem("spec.class", format!("there is no class `{class}`, neither here nor on the server")));
                }
                if let Some(name) = tenant.constraints.pool.as_ref().filter(|name| !pool(&name.0)) {
                    problems.push(item.problem("spec.constraints.pool", format!("{NO_POOL} `{name}`, neither here nor on the server")));
                }
                let cluster = |name: &str| here.clusters.contains(name) || known.clusters.contains(name);
                if let Some(name) = tenant.constraints.cluster.as_ref().filter(|name| !cluster(&name.0)) {
                    let message = format!("there is no cluster `{name}`, neither here nor on the server");
                    problems.push(item.problem("spec.constraints.cluster", message));
                }
            }
            Spec::Cluster(_) | Spec::Policy(_) | Spec::Pool(_) | Spec::Class(_) => {}
        }
    }
    if problems.is_empty() { Ok(()) } else { Err(BadInput(problems)) }
}
