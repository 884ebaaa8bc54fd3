//! Classes on the command line: what `apply` refuses, and what `render` shows without any service.

use std::path::Path;
use std::process::{Command, Output};

use roadstead_cli::document::files::load_text;

fn class(requests: &str, manifests: &str) -> String {
    let content = serde_json::to_string(manifests).expect("JSON");
    format!(
        "apiVersion: roadstead.dev/v1\nkind: Class\nmetadata: {{name: shop}}\nspec:\n  version: 1.0.0\n  podSecurity: baseline\n  values: {{properties: {{web: \
         {{type: integer, default: 1, maximum: 3}}}}}}\n  requests: {requests}\n  manifests: [{{file: web.yaml, content: {content}}}]\n"
    )
}

const WEB: &str = "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web}\nspec:\n  replicas: '{{ values.web }}'\n  \
                   template: {spec: {containers: [{name: web, resources: {requests: {cpu: 250m, memory: 256Mi}}}]}}\n";
const REQUESTS: &str = "{cpu: 1, memory: 1Gi, pods: 4, largestPod: {cpu: 250m, memory: 256Mi}}";

fn problems(text: &str) -> Vec<String> {
    let found = load_text("shop.yaml", Path::new("."), text.as_bytes());
    found.map_or_else(|bad| bad.0.iter().map(ToString::to_string).collect(), |_| Vec::new())
}

#[test]
fn a_class_that_its_tenants_would_exceed_is_refused_with_file_line_and_field() {
    assert_eq!(problems(&class(REQUESTS, WEB)), Vec::<String>::new());
    assert_eq!(
        problems(&class("{cpu: 600m, memory: 1Gi, pods: 4, largestPod: {cpu: 250m, memory: 256Mi}}", WEB)),
        ["shop.yaml:8:19: spec.requests.cpu: is 600m, but with the largest values the manifests ask for 1000m, surge of updates included"]
    );
    assert_eq!(
        problems(&class(REQUESTS, &WEB.replace("kind: Deployment", "kind: DaemonSet"))),
        ["shop.yaml:9:14: spec.manifests: web.yaml: DaemonSet (apps/v1) cannot be part of a class: a tenant has no claim on every node: \
             use a Deployment"]
    );
}

fn render(folder: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_roadstead"));
    command.arg("render").args(arguments).current_dir(folder).env("ROADSTEAD_CONFIG", folder.join("none")).env_remove("ROADSTEAD_SERVER");
    command.output().expect("run")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn render_shows_the_objects_of_tenants_without_a_service() {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples");
    let shown = render(&examples, &["-f", "tenants.yaml", "--class", "classes.yaml", "--ingress", "nginx", "--storage", "fast=gp3"]);
    assert!(shown.status.success(), "{}", text(&shown.stderr));
    let shown = text(&shown.stdout);
    for expected in
        ["name: acme-0000000000000000", "replicas: 4", "ingressClassName: nginx", "storageClassName: gp3", "storageClassName: bulk"]
    {
        assert!(shown.contains(expected), "{expected} is not in\n{shown}");
    }
    let shown = render(&examples, &["-f", "tenants.yaml", "--class", "classes.yaml", "-o", "json"]);
    let list: serde_json::Value = serde_json::from_slice(&shown.stdout).expect("JSON");
    let items = list["items"].as_array().expect("a list");
    assert_eq!(items.iter().filter(|item| item["kind"] == "Namespace").count(), 6);
    assert!(items.iter().all(|item| item["kind"] != "Ingress"), "a cluster without an entry has no routes");
}

#[test]
fn the_class_that_the_documentation_shows_is_one() {
    let page = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/classes.md")).expect("the page");
    let blocks: Vec<&str> = page.split("```yaml\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
    let folder = tempfile::tempdir().expect("folder");
    std::fs::create_dir(folder.path().join("shop-3.2")).expect("folder");
    for (name, block) in ["shop.yaml", "shop-3.2/web.yaml", "shop-3.2/db.yaml", "acme.yaml"].into_iter().zip(&blocks) {
        std::fs::write(folder.path().join(name), block).expect("write");
    }
    let shown = render(folder.path(), &["-f", "acme.yaml", "--class", "shop.yaml"]);
    assert!(shown.status.success(), "{}", text(&shown.stderr));
    let shown = text(&shown.stdout);
    assert!(shown.contains("replicas: 4") && shown.contains("kind: StatefulSet"), "{shown}");
}

#[test]
fn a_class_finds_its_manifests_beside_it_also_where_it_is_named_without_a_folder() {
    let folder = tempfile::tempdir().expect("folder");
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).expect("write");
    let spec = format!("  version: 1.0.0\n  podSecurity: baseline\n  requests: {REQUESTS}\n  manifests: [web*.yaml]\n");
    write("class.yaml", &format!("apiVersion: roadstead.dev/v1\nkind: Class\nmetadata: {{name: shop}}\nspec:\n{spec}"));
    write("web.yaml", &WEB.replace("'{{ values.web }}'", "1"));
    write("acme.yaml", "apiVersion: roadstead.dev/v1\nkind: Tenant\nmetadata: {name: acme}\nspec: {owner: o, class: shop@1.0.0}\n");
    let shown = render(folder.path(), &["-f", "acme.yaml", "--class", "class.yaml"]);
    assert!(shown.status.success() && text(&shown.stdout).contains("kind: Deployment"), "{shown:?}");
}

#[test]
fn what_cannot_be_rendered_is_told_with_file_and_line() {
    let folder = tempfile::tempdir().expect("folder");
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).expect("write");
    write("shop.yaml", &class(REQUESTS, WEB));
    write(
        "acme.yaml",
        "apiVersion: roadstead.dev/v1\nkind: Tenant\nmetadata: {name: acme}\nspec:\n  owner: o\n  class: shop@1.0.0\n  values: {web: 9}\n",
    );
    let shown = render(folder.path(), &["-f", "acme.yaml", "--class", "shop.yaml"]);
    assert_eq!(shown.status.code(), Some(2));
    let message = text(&shown.stderr);
    assert!(message.contains("acme.yaml:7:") && message.contains("spec.values.web: is 9, must be at most 3"), "{message}");
}
