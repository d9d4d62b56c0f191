//! `config check` and `config show`.

use serde_json::json;

use crate::cli::Global;
use crate::exit::Outcome;
use crate::setup::{Setup, load};
use crate::{print, print_json};

/// `steadfast config check`: the files, and what only shows when it is used: prompts, sandbox, keys.
pub(crate) fn check(global: &Global) -> Outcome {
    let setup = Setup::load(global)?;
    setup.settings()?;
    let sources: Vec<String> = setup.loaded.files.iter().map(|path| path.display().to_string()).collect();
    let warnings = setup.loaded.warnings.iter().map(ToString::to_string);
    let callable = setup.check_callable(false).err().map(|failure| failure.to_string());
    if global.json {
        return print_json(&json!({
            "ok": true,
            "sources": sources,
            "warnings": warnings.chain(callable).collect::<Vec<_>>(),
        }));
    }
    let read = if sources.is_empty() { "built-in defaults".to_owned() } else { sources.join(", ") };
    print(&format!("the configuration is valid ({read})\n"));
    for warning in warnings.chain(callable) {
        print(&format!("warning: {warning}\n"));
    }
    Ok(())
}

/// `steadfast config show`.
pub(crate) fn show(global: &Global) -> Outcome {
    let loaded = load(global)?;
    if global.json {
        return print_json(&json!({ "toml": loaded.show() }));
    }
    print(&loaded.show());
    Ok(())
}
