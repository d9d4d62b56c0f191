//! The one direction in which the crates may know each other, held against their manifests. `docs/architecture.md` draws
//! it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// The layers, lowest first: a crate may use crates of the layers below its own, and none of its own.
const LAYERS: [&[&str]; 5] = [
    &["fault-point"],
    &["core"],
    &["config", "model", "store", "repo", "notify", "prompt"],
    &["actors"],
    &["steadfast"],
];
/// Uses none of ours, for it stands in for a stranger's server.
const ALONE: &str = "sim";
/// Edges that the layers would allow. Actors get settings and a server's address, never where these come from.
const FORBIDDEN: [(&str, &str); 2] = [("actors", "config"), ("actors", "sim")];

/// Without the common prefix; the binary's crate is the prefix itself.
fn short(name: &str) -> &str {
    name.strip_prefix("steadfast-").unwrap_or(name)
}

fn layer(name: &str) -> Option<usize> {
    LAYERS.iter().position(|layer| layer.contains(&name))
}

fn may_use(user: &str, used: &str) -> bool {
    match (layer(user), layer(used)) {
        _ if FORBIDDEN.contains(&(user, used)) => false,
        (Some(above), Some(below)) => below < above,
        (Some(above), None) => used == ALONE && above + 1 == LAYERS.len(),
        (None, _) => false,
    }
}

fn manifest(dir: &Path) -> toml::Table {
    let path = dir.join("Cargo.toml");
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    text.parse().unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Packages that a manifest names in any of its tables of dependencies, those for tests, builds and single targets too.
fn used_packages(table: &toml::Table, found: &mut BTreeSet<String>) {
    for (key, value) in table {
        let Some(inner) = value.as_table() else { continue };
        if !key.ends_with("dependencies") {
            used_packages(inner, found);
            continue;
        }
        for (name, value) in inner {
            let package = value.get("package").and_then(toml::Value::as_str);
            found.insert(package.unwrap_or(name).to_owned());
        }
    }
}

/// Each crate of the workspace with those of ours that it uses, by short names.
fn edges() -> BTreeMap<String, BTreeSet<String>> {
    let crates = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate lies in crates/");
    let mut dirs: Vec<PathBuf> = fs::read_dir(crates).unwrap().map(|entry| entry.unwrap().path()).collect();
    dirs.retain(|dir| dir.join("Cargo.toml").is_file());
    let manifests: Vec<toml::Table> = dirs.iter().map(|dir| manifest(dir)).collect();
    let name = |manifest: &toml::Table| manifest["package"]["name"].as_str().unwrap().to_owned();
    let ours: BTreeSet<String> = manifests.iter().map(name).collect();
    let edges_of = |manifest: &toml::Table| {
        let mut used = BTreeSet::new();
        used_packages(manifest, &mut used);
        (short(&name(manifest)).to_owned(), used.intersection(&ours).map(|used| short(used).to_owned()).collect())
    };
    manifests.iter().map(edges_of).collect()
}

#[test]
fn crates_use_each_other_in_one_direction_only() {
    let edges = edges();
    assert!(edges["steadfast"].contains("actors"), "the manifests were read");
    let wrong: Vec<String> = edges
        .iter()
        .flat_map(|(user, used)| used.iter().map(move |used| (user, used)))
        .filter(|(user, used)| !may_use(user, used))
        .map(|(user, used)| format!("{user} must not use {used}"))
        .collect();
    assert!(wrong.is_empty(), "{}; see docs/architecture.md", wrong.join(", "));
}

#[test]
fn every_crate_has_its_place_in_the_direction() {
    let unplaced: Vec<String> = edges().into_keys().filter(|name| layer(name).is_none() && name != ALONE).collect();
    assert!(unplaced.is_empty(), "not in LAYERS: {}; see docs/architecture.md", unplaced.join(", "));
}

#[test]
fn an_edge_against_the_direction_is_noticed() {
    for (user, used) in
        [("core", "store"), ("store", "model"), ("actors", "config"), ("actors", "sim"), ("sim", "core")]
    {
        assert!(!may_use(user, used), "{user} → {used}");
    }
    for (user, used) in [("store", "core"), ("actors", "store"), ("steadfast", "config"), ("steadfast", "sim")] {
        assert!(may_use(user, used), "{user} → {used}");
    }
    let manifest: toml::Table =
        "[target.'cfg(unix)'.dev-dependencies]\nx = { package = \"steadfast-store\" }\n".parse().unwrap();
    let mut used = BTreeSet::new();
    used_packages(&manifest, &mut used);
    assert_eq!(used, BTreeSet::from(["steadfast-store".to_owned()]));
}
