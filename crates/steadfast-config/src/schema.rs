//! Which keys exist: those of the built-in defaults, and of the templates for a provider and a model.

use std::sync::OnceLock;

use crate::tree::{Node, Origin, Table, parse_default};

/// Sections whose keys are names that the operator chooses.
pub(crate) const NAMED: [&str; 2] = ["providers", "models"];

/// What a provider's table says when it says nothing. `kind = "none"` is refused later.
const PROVIDER: &str = r#"
kind = "none"
base_url = "none"
api_key_env = "none"
api_key_file = "none"
stream = true
json_mode = false
command = []
"#;

/// What a model's table says when it says nothing.
const MODEL: &str = r#"
speed = "none"
quality = "none"
use_case = "none"
timeout = "5min"
context_window = "none"
max_output_tokens = "none"
max_concurrency = 4
price = "none"
enabled = true
"#;

/// The built-in defaults, parsed once.
pub(crate) fn defaults() -> &'static Table {
    static DEFAULTS: OnceLock<Table> = OnceLock::new();
    DEFAULTS.get_or_init(|| parse_default(include_str!("../../../config/default.toml")))
}

/// Every key of one provider or one model, with the value that holds when it is not given.
pub(crate) fn template(section: &str) -> &'static Table {
    static PROVIDER_TABLE: OnceLock<Table> = OnceLock::new();
    static MODEL_TABLE: OnceLock<Table> = OnceLock::new();
    if section == "providers" {
        PROVIDER_TABLE.get_or_init(|| parse_default(PROVIDER))
    } else {
        MODEL_TABLE.get_or_init(|| parse_default(MODEL))
    }
}

/// The sections, in the order of the default file.
pub(crate) fn sections() -> impl Iterator<Item = &'static str> + Clone {
    defaults().keys()
}

/// The keys of a section that is not [`NAMED`].
pub(crate) fn section(name: &str) -> Option<&'static Table> {
    defaults().get(name).filter(|_| !NAMED.contains(&name)).and_then(Node::table)
}

/// The sections that have a key of this name.
pub(crate) fn sections_with(key: &str) -> impl Iterator<Item = &'static str> {
    sections().filter(move |name| section(name).is_some_and(|table| table.get(key).is_some()))
}

/// The variable that sets a key.
pub(crate) fn variable(path: &[&str]) -> String {
    let fold = |part: &&str| part.to_uppercase().replace(|c: char| !c.is_ascii_alphanumeric(), "_");
    format!("STEADFAST_{}", path.iter().map(fold).collect::<Vec<_>>().join("__"))
}

/// The key as the place calls it: a variable's name for the environment, the key itself elsewhere.
pub(crate) fn as_written_at(origin: &Origin, path: &[&str]) -> String {
    match origin {
        Origin::Environment { .. } => variable(path),
        _ => format!("{:?}", path.last().copied().unwrap_or_default()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_built_in_provider_and_model_show_every_key_there_is() {
        for (section, name) in [("providers", "opencode"), ("models", "opencode/gpt-5-nano")] {
            let shown =
                defaults().get(section).and_then(Node::table).and_then(|all| all.get(name)).and_then(Node::table);
            let shown: Vec<&str> = shown.expect(name).keys().collect();
            assert_eq!(shown, template(section).keys().collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_variable_is_named_for_its_section_and_key() {
        assert_eq!(variable(&["daemon", "max_sessions"]), "STEADFAST_DAEMON__MAX_SESSIONS");
        assert_eq!(variable(&["models", "a/b-1", "timeout"]), "STEADFAST_MODELS__A_B_1__TIMEOUT");
    }
}
