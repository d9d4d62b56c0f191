//! Makes a merged tree complete: templates under each provider and model, a table for each model that a role names, the
//! state folder, and without what is built in but not used.

use steadfast_core::ids::{ModelId, Role};

use crate::env::Environment;
use crate::schema::{NAMED, template};
use crate::tree::{Entry, Node, Origin, Table, Value};

/// What the defaults say of Anthropic (its API reference).
const ANTHROPIC: &str = "https://api.anthropic.com";

pub(crate) fn complete(tree: &mut Table, env: &Environment) {
    if let Some(node) = tree.get_mut("daemon").and_then(|node| as_table(node)?.get_mut("state_dir"))
        && node.as_text() == Some("auto")
        && let Some(folder) = state_dir(env)
    {
        node.value = Value::Text(folder);
        node.raw = None;
    }
    let named = named_in_roles(tree);
    let models = tree.table_mut("models", &Origin::Default);
    for (model, at) in &named {
        models.table_mut(model, at);
    }
    models.0.retain(|entry| !built_in(entry) || named.iter().any(|(model, _)| *model == entry.key));
    let used: Vec<String> =
        models.keys().filter_map(|key| Some(ModelId::new(key).ok()?.provider().to_owned())).collect();
    let providers = tree.table_mut("providers", &Origin::Default);
    providers.0.retain(|entry| !built_in(entry) || used.contains(&entry.key));
    for section in NAMED {
        for entry in &mut tree.table_mut(section, &Origin::Default).0 {
            if let Some(table) = as_table(&mut entry.node) {
                table.fill(template(section));
                // A key that replaced its alternative in merging left a gap; `fill` closed it. One table of its own needs more:
                if table.get("kind").and_then(Node::as_text) == Some("anthropic")
                    && let Some(node) =
                        table.get_mut("base_url").filter(|node| node.is_none_word() && node.at == Origin::Default)
                {
                    node.value = Value::Text(ANTHROPIC.to_owned());
                }
            }
        }
    }
    if let Some(defaults) = crate::schema::section("issues") {
        tree.table_mut("issues", &Origin::Default).fill(defaults);
    }
}

fn as_table(node: &mut Node) -> Option<&mut Table> {
    match &mut node.value {
        Value::Table(table) => Some(table),
        _ => None,
    }
}

/// Whether no layer said anything of it.
fn built_in(entry: &Entry) -> bool {
    entry.key_at == Origin::Default
        && entry.node.table().is_none_or(|table| table.0.iter().all(|entry| entry.node.at == Origin::Default))
}

/// Every text in every role, with the place where it stands; some may be no model's name.
pub(crate) fn named_in_roles(tree: &Table) -> Vec<(String, Origin)> {
    let roles = tree.get("roles").and_then(Node::table);
    let mut named: Vec<(String, Origin)> = Vec::new();
    for node in Role::ALL.iter().filter_map(|role| roles?.get(role.as_str())) {
        for item in items(node) {
            if let Some(text) = item.as_text()
                && ModelId::new(text).is_ok()
                && !named.iter().any(|(known, _)| known == text)
            {
                named.push((text.to_owned(), item.at.clone()));
            }
        }
    }
    named
}

/// The items of a list; a bare text is a list of one.
pub(crate) fn items(node: &Node) -> &[Node] {
    match &node.value {
        Value::Array(items) => items,
        _ => std::slice::from_ref(node),
    }
}

/// systemd's `StateDirectory=` (the first, where there are several), else the XDG state folder, else its default.
fn state_dir(env: &Environment) -> Option<String> {
    let systemd = env.get("STATE_DIRECTORY").and_then(|folders| folders.split(':').next()).map(ToOwned::to_owned);
    let of_user = || {
        let state = env.folder("XDG_STATE_HOME").or_else(|| Some(env.home()?.join(".local/state")))?;
        Some(state.join("steadfast").to_string_lossy().into_owned())
    };
    systemd.or_else(of_user)
}
