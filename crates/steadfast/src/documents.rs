//! The documents, held against the code.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

fn top() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// What stands between backticks.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// Names of tests are sentences; names of keys, faults and files are not that long.
fn is_sentence(word: &str) -> bool {
    word.matches('_').count() >= 3 && word.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
}

fn collect_functions(dir: &Path, found: &mut BTreeSet<String>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect_functions(&path, found);
        } else if path.extension().is_some_and(|end| end == "rs") {
            let text = read(&path);
            let names = text.split("fn ").skip(1).filter_map(|rest| rest.split(['(', '<']).next());
            found.extend(names.filter(|name| is_sentence(name)).map(str::to_owned));
        }
    }
}

#[test]
fn every_test_that_the_edge_cases_name_exists() {
    let mut tests = BTreeSet::new();
    for dir in ["crates", "tests"].map(|dir| top().join(dir)).into_iter().filter(|dir| dir.is_dir()) {
        collect_functions(&dir, &mut tests);
    }
    let text = read(&top().join("docs/edge-cases.md"));
    let named: BTreeSet<&str> = quoted(&text).filter(|word| is_sentence(word)).collect();
    assert!(named.len() > 100, "the page was read");
    let missing: Vec<&&str> = named.iter().filter(|name| !tests.contains(**name)).collect();
    assert!(missing.is_empty(), "docs/edge-cases.md names tests that are not there: {missing:?}");
}

#[test]
fn every_code_of_the_control_socket_is_explained() {
    let source = read(&top().join("crates/steadfast/src/control/refusal.rs"));
    let text = read(&top().join("docs/errors.md"));
    let explained: BTreeSet<&str> = quoted(&text).collect();
    // Each status stands beside its code.
    let codes: BTreeSet<&str> = source
        .split("StatusCode::")
        .skip(1)
        .filter_map(|rest| rest.split('"').nth(1).filter(|_| rest.split('"').next().is_some_and(|gap| gap.len() < 40)))
        .collect();
    assert!(codes.contains("usage") && codes.contains("shutting-down"), "the codes were found: {codes:?}");
    let missing: Vec<&&str> = codes.iter().filter(|code| !explained.contains(**code)).collect();
    assert!(missing.is_empty(), "docs/errors.md does not explain {missing:?}");
}
