//! The classes of examples/: what a tenant of each becomes.

use roadstead_class::{Class, Rendered, pods_of, render};
use serde_json::{Value, json};

use crate::given;

/// Everything that was rendered, as a reader wants to see it.
fn shown(rendered: &Rendered) -> Value {
    let local = rendered.local.iter().map(|(name, process)| (name.clone(), json!({"run": process.run, "env": process.env})));
    json!({
        "objects": rendered.manifests().map(|manifest| &manifest.body).collect::<Vec<_>>(),
        "secrets": rendered.secrets.iter().map(|secret| format!("{}: {:?}", secret.manifest.id, secret.source)).collect::<Vec<_>>(),
        "ceded": rendered.ceded.iter().map(|ceded| format!("{}:{}", ceded.object, ceded.path.join("."))).collect::<Vec<_>>(),
        "stop": rendered.stop.iter().map(|step| format!("{step:?}")).collect::<Vec<_>>(),
        "within": format!("ready {:?}, stop {:?}", rendered.ready_within, rendered.stop_within),
        "local": local.collect::<serde_json::Map<_, _>>(),
        "sum": format!("{:?}", pods_of(rendered)),
    })
}

#[test]
fn the_examples_render_as_they_did() {
    for version in given::examples() {
        let class = Class::parse(&version).unwrap();
        let rendered = render(&class, &given::tenant(&class, &json!({})), &given::site()).unwrap();
        insta::assert_yaml_snapshot!(version.name.as_str(), shown(&rendered));
    }
}
