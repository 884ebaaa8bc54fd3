//! What docs/troubleshooting.md quotes is what the program says, word by word.

use std::path::Path;

/// What others say: Kubernetes and its controllers, the TLS library, the system.
const OF_OTHERS: [&str; 7] = [
    "CreateContainerConfigError",
    "cannot get resource \"pods/exec\"",
    "exceeded quota",
    "exit status",
    "nodes are available",
    "received fatal alert: CertificateRequired",
    "namespaces \"roadstead-system\" not found",
];

/// All sources of the binary, with texts as they are when they are shown.
fn sources(folder: &Path, all: &mut String) {
    for entry in std::fs::read_dir(folder).expect("a folder of sources") {
        let path = entry.expect("an entry").path();
        if path.is_dir() && !path.ends_with("tests") {
            sources(&path, all);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = std::fs::read_to_string(&path).expect("a source");
            let mut pieces = text.split("\\\n");
            all.push_str(pieces.next().unwrap_or_default());
            pieces.for_each(|piece| all.push_str(piece.trim_start()));
        }
    }
}

/// The code spans of the first cells of the page's tables.
fn quoted(page: &str) -> Vec<String> {
    let mut found = Vec::new();
    for row in page.lines().filter_map(|line| line.strip_prefix("| ")) {
        let cell = row.replace("\\|", "¦");
        let mut rest = cell.split(" | ").next().unwrap_or_default();
        while let Some(start) = rest.find('`') {
            let fence = if rest[start..].starts_with("``") { "``" } else { "`" };
            let inside = &rest[start + fence.len()..];
            let end = inside.find(fence).expect("a code span ends");
            found.push(inside[..end].replace('¦', "|"));
            rest = &inside[end + fence.len()..];
        }
    }
    found
}

/// Whether a word stands for something that differs: a letter, a number, what is in capitals, an object, a field, a class, anything at all.
fn is_example(word: &str) -> bool {
    let core = word.trim_matches(['.', ',', ':', ';', '(', ')', '"', '`']);
    let named = core.split_once('/').is_some_and(|(kind, name)| kind.starts_with(char::is_uppercase) && name.len() == 1);
    let letters = core.chars().all(|letter| letter.is_ascii_uppercase() || letter.is_ascii_digit() || letter == '/');
    (letters && core != "API") || named || core.contains(['@', '.']) || word.ends_with("...")
}

/// The longest pieces of a quotation in which nothing is an example; a piece ends at parentheses, too.
fn pieces(quotation: &str) -> Vec<String> {
    let words: Vec<&str> = quotation.split_whitespace().collect();
    let runs = words.split(|word| is_example(word)).map(|run| run.join(" "));
    let parts =
        runs.flat_map(|run| run.split(['(', ')']).map(|part| part.trim_matches([' ', '.', ',', ':', ';']).to_owned()).collect::<Vec<_>>());
    parts.filter(|part| part.len() > 1).collect()
}

#[test]
fn every_message_that_is_explained_is_said() {
    let crates = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("crates");
    let mut all = String::new();
    for name in ["agent", "class", "cli", "core", "server"] {
        sources(&crates.join(name).join("src"), &mut all);
    }
    let all = all.replace("\\\"", "\"");
    let page = std::fs::read_to_string(crates.join("../docs/troubleshooting.md")).expect("the page");
    let quoted = quoted(&page);
    assert!(quoted.len() > 50, "{} messages are explained", quoted.len());
    let said = |piece: &String| all.contains(piece.as_str()) || OF_OTHERS.contains(&piece.as_str());
    let unsaid: Vec<_> = quoted.iter().filter_map(|text| Some((text, pieces(text).into_iter().find(|piece| !said(piece))?))).collect();
    assert!(unsaid.is_empty(), "nobody says: {unsaid:#?}");
}
