//! The text of an answer: what each role asks for, as a model would write it.

use crate::ask::Ask;
use crate::script::{Content, Generator, Script};

/// The text for this request.
pub(crate) fn text(script: &Script, ask: &Ask, content: &Content) -> String {
    match content {
        Content::Text(text) => text.clone(),
        Content::File(text) => fenced(language(path(ask)), text),
        Content::Files(files) => {
            let blocks = files.iter().map(|(path, text)| fenced(&format!("{} path={path}", language(path)), text));
            blocks.collect::<Vec<_>>().join("\n")
        }
        Content::Generated(generator) => generated(script, ask, *generator),
        Content::Auto => generated(script, ask, by_role(ask)),
    }
}

fn path(ask: &Ask) -> &str {
    ask.file.as_deref().unwrap_or("answer.txt")
}

fn by_role(ask: &Ask) -> Generator {
    match (ask.role.as_deref(), &ask.file) {
        (Some("planner"), _) => Generator::Plan,
        (Some("coder"), Some(_)) => Generator::File,
        (Some("coder"), None) => Generator::Nothing,
        (Some("reviewer"), _) => Generator::Approve,
        _ => Generator::Plain,
    }
}

fn generated(script: &Script, ask: &Ask, generator: Generator) -> String {
    let file = || {
        let path = path(ask);
        script.file(path, ask.milestone).map_or_else(|| small_file(path), str::to_owned)
    };
    match generator {
        Generator::Plan => fenced("json", script.plan.as_deref().unwrap_or(PLAN)),
        Generator::File => fenced(language(path(ask)), &file()),
        Generator::Approve => r#"{"approved": true, "code_quality": 88, "issues": [], "next_steps": []}"#.to_owned(),
        Generator::Reject => REJECTION.to_owned(),
        Generator::Nothing => "NOTHING TO CHANGE".to_owned(),
        Generator::Plain => format!("This is {}, a simulated model. I answer from a script.", shown(&ask.model)),
        Generator::Prose => {
            "Certainly! I would be glad to help with that. Could you tell me more about what you need?".to_owned()
        }
        Generator::Lazy => {
            let text = file();
            let half = text.lines().take(text.lines().count().div_ceil(2)).collect::<Vec<_>>().join("\n");
            fenced(language(path(ask)), &format!("{half}\n{}\n", comment(path(ask), "... rest unchanged ...")))
        }
        Generator::Unclosed => {
            let whole = fenced(language(path(ask)), &file());
            whole.trim_end_matches(['`', '\n']).to_owned()
        }
    }
}

fn shown(model: &str) -> &str {
    if model.is_empty() { "sim" } else { model }
}

/// The plan where the script has none: two small milestones of text files.
const PLAN: &str = r#"{
  "milestones": [
    {"name": "Write the first notes", "description": "Two short notes.",
     "files": {"create": ["sim/one.md", "sim/two.md"], "modify": [], "delete": []}},
    {"name": "Write the last note", "description": "One more.",
     "files": {"create": ["sim/three.md"], "modify": [], "delete": []}}
  ],
  "risks": [],
  "confidence": 0.9
}"#;

const REJECTION: &str = r#"{"approved": false, "code_quality": 40,
 "issues": [{"severity": "high", "issue": "The change does not do what the milestone asks for.", "suggestion": "Read the milestone again."}],
 "next_steps": ["Mend it"]}"#;

/// The text in a fence that is longer than any run of back-ticks inside, as CommonMark wants it. The text ends with
/// exactly the line breaks that it has, plus one where it has none.
pub(crate) fn fenced(info: &str, text: &str) -> String {
    let mut longest = 0;
    let mut run = 0;
    for byte in text.bytes() {
        run = if byte == b'`' { run + 1 } else { 0 };
        longest = longest.max(run);
    }
    let fence = "`".repeat(3.max(longest + 1));
    let end = if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
    format!("{fence}{info}\n{text}{end}{fence}\n")
}

fn extension(path: &str) -> &str {
    let name = path.rsplit('/').next().unwrap_or(path);
    name.rsplit_once('.').map_or("", |(_, extension)| extension)
}

fn language(path: &str) -> &'static str {
    match extension(path) {
        "rs" => "rust",
        "c" | "h" => "c",
        "py" => "python",
        "js" | "mjs" => "javascript",
        "ts" => "typescript",
        "json" => "json",
        "toml" => "toml",
        "yaml" | "yml" => "yaml",
        "md" => "markdown",
        "sh" => "sh",
        "html" => "html",
        "css" => "css",
        "go" => "go",
        "java" => "java",
        _ => "text",
    }
}

fn comment(path: &str, text: &str) -> String {
    match extension(path) {
        "py" | "sh" | "toml" | "yaml" | "yml" => format!("# {text}"),
        "html" | "md" => format!("<!-- {text} -->"),
        "css" => format!("/* {text} */"),
        _ => format!("// {text}"),
    }
}

/// A file that its language accepts, small, and different for each path.
fn small_file(path: &str) -> String {
    let stem = path.rsplit('/').next().unwrap_or(path).split('.').next().unwrap_or_default();
    let mut name: String =
        stem.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '_' }).collect();
    if !name.starts_with(|c: char| c.is_ascii_alphabetic()) {
        name.insert_str(0, "f_");
    }
    let upper = name.to_ascii_uppercase();
    match extension(path) {
        "rs" => format!(
            "//! Written by a simulated model.\n\n/// The name of this module.\npub fn {name}() -> &'static str {{\n    \"{name}\"\n}}\n"
        ),
        "c" => format!("/* Written by a simulated model. */\n\nint {name}(void)\n{{\n    return 0;\n}}\n"),
        "h" => format!("#ifndef {upper}_H\n#define {upper}_H\n\nint {name}(void);\n\n#endif\n"),
        "py" => format!("\"\"\"Written by a simulated model.\"\"\"\n\n\ndef {name}():\n    return \"{name}\"\n"),
        "js" | "mjs" => {
            format!("// Written by a simulated model.\nexport function {name}() {{\n  return '{name}';\n}}\n")
        }
        "ts" => {
            format!("// Written by a simulated model.\nexport function {name}(): string {{\n  return '{name}';\n}}\n")
        }
        "json" => format!("{{\n  \"name\": \"{name}\"\n}}\n"),
        "toml" => format!("name = \"{name}\"\n"),
        "yaml" | "yml" => format!("name: {name}\n"),
        "md" => format!("# {name}\n\nWritten by a simulated model.\n"),
        "sh" => format!("#!/bin/sh\n# Written by a simulated model.\necho {name}\n"),
        "html" => format!(
            "<!doctype html>\n<html lang=\"en\">\n<head><title>{name}</title></head>\n<body><p>{name}</p></body>\n</html>\n"
        ),
        "css" => format!(".{name} {{\n  margin: 0;\n}}\n"),
        "go" => format!("package {name}\n\n// Name of this package.\nconst Name = \"{name}\"\n"),
        "java" => format!("class {name} {{\n}}\n"),
        _ => format!("{name}: written by a simulated model.\n"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ask::Endpoint;

    fn ask(role: Option<&str>, file: Option<&str>) -> Ask {
        Ask {
            endpoint: Endpoint::Chat,
            model: "m".to_owned(),
            stream: false,
            include_usage: false,
            role: role.map(str::to_owned),
            session: None,
            idea: None,
            milestone: Some(1),
            file: file.map(str::to_owned),
            attempt: None,
            attempt_id: None,
            traceparent: None,
            prompt_bytes: 0,
            prompt: None,
        }
    }

    #[test]
    fn each_role_gets_what_it_asks_for() {
        let script = Script::default().with_file("a.c", Some(1), "int a;\n");
        let auto = |ask: &Ask| text(&script, ask, &Content::Auto);
        assert_eq!(auto(&ask(Some("coder"), Some("a.c"))), "```c\nint a;\n```\n");
        assert_eq!(auto(&ask(Some("coder"), None)), "NOTHING TO CHANGE");
        assert!(auto(&ask(Some("coder"), Some("x/b.py"))).contains("def b():"));
        assert!(auto(&ask(Some("planner"), None)).starts_with("```json\n{"));
        assert!(auto(&ask(Some("reviewer"), None)).contains("\"code_quality\": 88"));
        assert!(auto(&ask(None, None)).contains("simulated model"));
    }

    #[test]
    fn the_built_in_json_is_json() {
        for text in [PLAN, REJECTION] {
            assert!(serde_json::from_str::<serde_json::Value>(text).is_ok());
        }
    }

    #[test]
    fn a_fence_is_longer_than_any_inside() {
        assert_eq!(fenced("markdown", "a\n````\nb\n````\n"), "`````markdown\na\n````\nb\n````\n`````\n");
        assert_eq!(fenced("text", "no end"), "```text\nno end\n```\n");
        assert_eq!(fenced("text", ""), "```text\n```\n");
    }

    #[test]
    fn an_unclosed_block_has_no_second_fence_and_a_lazy_one_says_so() {
        let script = Script::default();
        let ask = ask(Some("coder"), Some("a.rs"));
        let unclosed = text(&script, &ask, &Content::Generated(Generator::Unclosed));
        assert_eq!(unclosed.matches("```").count(), 1);
        assert!(text(&script, &ask, &Content::Generated(Generator::Lazy)).contains("// ... rest unchanged ..."));
    }
}
