//! The examples, carried in the binary, so that `dev` and `demo` run from anywhere.

use std::path::Path;

use crate::failure::Failure;

/// Path below `examples/`, and content.
const FILES: [(&str, &str); 19] = [
    ("README.md", include_str!("../../../../examples/README.md")),
    ("policy.yaml", include_str!("../../../../examples/policy.yaml")),
    ("pools.yaml", include_str!("../../../../examples/pools.yaml")),
    ("classes.yaml", include_str!("../../../../examples/classes.yaml")),
    ("shop-1.0/web.yaml", include_str!("../../../../examples/shop-1.0/web.yaml")),
    ("shop-1.0/db.yaml", include_str!("../../../../examples/shop-1.0/db.yaml")),
    ("shop-1.0-media/media.yaml", include_str!("../../../../examples/shop-1.0-media/media.yaml")),
    ("sqldb-1.0/db.yaml", include_str!("../../../../examples/sqldb-1.0/db.yaml")),
    ("devices-1.0/broker.yaml", include_str!("../../../../examples/devices-1.0/broker.yaml")),
    ("devices-1.0/gateway.yaml", include_str!("../../../../examples/devices-1.0/gateway.yaml")),
    ("timeseries-1.0/store.yaml", include_str!("../../../../examples/timeseries-1.0/store.yaml")),
    ("timeseries-1.0/query.yaml", include_str!("../../../../examples/timeseries-1.0/query.yaml")),
    ("warehouse-1.0/warehouse.yaml", include_str!("../../../../examples/warehouse-1.0/warehouse.yaml")),
    ("clusters-own.yaml", include_str!("../../../../examples/clusters-own.yaml")),
    ("clusters-aws.yaml", include_str!("../../../../examples/clusters-aws.yaml")),
    ("clusters-gcp.yaml", include_str!("../../../../examples/clusters-gcp.yaml")),
    ("clusters-azure.yaml", include_str!("../../../../examples/clusters-azure.yaml")),
    ("tenants.yaml", include_str!("../../../../examples/tenants.yaml")),
    ("what-if/unplaceable.yaml", include_str!("../../../../examples/what-if/unplaceable.yaml")),
];

/// Writes the examples into a folder; what is there already stays as it is.
///
/// # Errors
/// A folder that cannot be written.
pub fn write(folder: &Path) -> Result<(), Failure> {
    for (name, content) in FILES {
        let path = folder.join(name);
        let parent = path.parent().unwrap_or(folder);
        std::fs::create_dir_all(parent).map_err(|error| Failure::failed(format!("cannot create {}: {error}", parent.display())))?;
        if !path.exists() {
            std::fs::write(&path, content).map_err(|error| Failure::failed(format!("cannot write {}: {error}", path.display())))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::document::Kind;
    use crate::document::files::{Known, check_references, load};

    #[test]
    fn the_examples_are_good_documents_with_twenty_clusters() {
        let folder = tempfile::tempdir().expect("folder");
        write(folder.path()).expect("write");
        let loaded = load(&[folder.path().to_owned()]).unwrap_or_else(|bad| panic!("{bad}"));
        check_references(&loaded, &Known::default()).unwrap_or_else(|bad| panic!("{bad}"));
        let count = |kind| loaded.iter().filter(|item| item.document.spec.kind() == kind).count();
        assert_eq!((count(Kind::Policy), count(Kind::Pool), count(Kind::Class), count(Kind::Cluster)), (1, 4, 6, 20));
        assert_eq!(load(&[folder.path().join("what-if")]).expect("good").len(), 1);
    }

    #[test]
    fn the_embedded_examples_are_all_that_there_are() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples");
        let mut found = Vec::new();
        let mut folders = vec![root.clone()];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).expect("folder") {
                let path = entry.expect("entry").path();
                if path.is_dir() {
                    folders.push(path);
                } else {
                    found.push(path.strip_prefix(&root).expect("below").to_string_lossy().into_owned());
                }
            }
        }
        found.sort();
        let mut embedded: Vec<String> = FILES.iter().map(|(name, _)| (*name).to_owned()).collect();
        embedded.sort();
        assert_eq!(embedded, found);
    }
}
