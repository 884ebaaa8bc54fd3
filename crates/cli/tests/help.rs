//! The help of every verb, as people read it.

use clap::CommandFactory;
use roadstead_cli::verbs::Cli;

/// Columns that help is written for here, whatever the terminal.
const WIDTH: usize = 110;
/// Columns of an ordinary terminal: a longer example would be wrapped, and could not be copied.
const COPYABLE: usize = 80;

fn collect(command: &mut clap::Command, path: &str, pages: &mut Vec<(String, String)>) {
    let names: Vec<String> = command.get_subcommands().filter(|verb| !verb.is_hide_set()).map(|verb| verb.get_name().to_owned()).collect();
    pages.push((path.to_owned(), command.render_long_help().to_string()));
    for name in names.iter().filter(|name| *name != "help") {
        let verb = command.find_subcommand_mut(name).expect("listed above");
        collect(verb, &format!("{path} {name}"), pages);
    }
}

fn pages() -> Vec<(String, String)> {
    let mut command = Cli::command().term_width(WIDTH);
    command.build();
    let mut pages = Vec::new();
    collect(&mut command, "roadstead", &mut pages);
    pages
}

#[test]
fn every_verb_has_help_with_examples() {
    for (path, help) in pages() {
        assert!(path == "roadstead" || help.contains("Examples:\n"), "{path} has no examples:\n{help}");
        assert!(!help.starts_with('\n') && !help.starts_with("Usage"), "{path} does not say what it does");
    }
}

#[test]
fn help_is_as_it_was() {
    let text: String = pages().iter().map(|(path, help)| format!("==== {path} ====\n{help}\n")).collect();
    // The version changes with every release; the help need not.
    insta::assert_snapshot!(text);
}

#[test]
fn every_example_can_be_copied_from_a_terminal_of_80_columns() {
    for (path, _) in pages() {
        let mut command = Cli::command();
        let verb = path.split(' ').skip(1).fold(&mut command, |verb, name| verb.find_subcommand_mut(name).expect("a verb"));
        let text = verb.get_after_help().map(ToString::to_string).unwrap_or_default();
        let examples = text.lines().skip_while(|line| *line != "Examples:").skip(1).take_while(|line| line.starts_with("  "));
        for line in examples {
            assert!(line.len() <= COPYABLE, "{path}: {} columns: {line}", line.len());
        }
    }
}

#[test]
fn shells_complete_kinds_and_phases() {
    for shell in [clap_complete::Shell::Bash, clap_complete::Shell::Zsh, clap_complete::Shell::Fish] {
        let mut script = Vec::new();
        clap_complete::generate(shell, &mut Cli::command(), "roadstead", &mut script);
        let script = String::from_utf8(script).expect("UTF-8");
        // The scripts for fish complete no arguments without a flag.
        let kinds: &[&str] = if shell == clap_complete::Shell::Fish { &[] } else { &["classes", "policy pools classes clusters tenants"] };
        for word in kinds.iter().chain(&["retained"]) {
            assert!(script.contains(word), "{shell} does not offer {word}");
        }
    }
    let parse = |words: &[&str]| clap::Parser::try_parse_from(words).map(|_: Cli| ());
    for kind in ["tenant", "tenants", "t", "Tenant", "classes", "cl"] {
        assert!(parse(&["roadstead", "schema", kind]).is_ok(), "{kind}");
    }
    assert!(parse(&["roadstead", "schema", "pods"]).is_err());
    assert!(parse(&["roadstead", "get", "tenants", "--phase", "PENDING"]).is_ok(), "as it was");
    assert!(parse(&["roadstead", "get", "tenants", "--phase", "lost"]).is_err());
    assert!(parse(&["roadstead", "get", "tenant/acme"]).is_ok(), "a name is no kind");
}

#[test]
fn the_arguments_are_consistent() {
    Cli::command().debug_assert();
}
