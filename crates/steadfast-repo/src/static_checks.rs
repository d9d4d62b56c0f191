//! The basic checks that stand in for a reviewer when no model answers (SPEC 5).
//!
//! They find what is certainly wrong; on doubt they find nothing.

use serde::Deserialize;
use steadfast_core::ids::RepoPath;

mod brackets;

/// Something that is wrong with a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StaticFinding {
    /// The file.
    pub file: RepoPath,
    /// What is wrong, for a person, with a line where there is one.
    pub problem: String,
}

/// Looks at each file's content: empty, not UTF-8, conflict markers left in, JSON, TOML or YAML that does not parse, brackets
/// that do not match. At most one finding a file, in the order of the files.
pub fn static_checks(files: &[(RepoPath, &[u8])]) -> Vec<StaticFinding> {
    let look = |(file, content): &(RepoPath, &[u8])| {
        problem(file.as_str(), content).map(|problem| StaticFinding { file: file.clone(), problem })
    };
    files.iter().filter_map(look).collect()
}

/// Files that mean something by being there, so that they may be empty.
const MAY_BE_EMPTY: &[&str] =
    &["__init__.py", "py.typed", ".gitkeep", ".keep", ".nojekyll", ".npmignore", "conftest.py"];

fn problem(path: &str, content: &[u8]) -> Option<String> {
    let name = path.rsplit('/').next().unwrap_or(path).to_ascii_lowercase();
    let extension = name.rsplit_once('.').map_or("", |(_, extension)| extension);
    let Ok(text) = std::str::from_utf8(content) else {
        return Some("it is not UTF-8 text".to_owned());
    };
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    if text.trim().is_empty() {
        return (!MAY_BE_EMPTY.contains(&name.as_str())).then(|| "it is empty".to_owned());
    }
    if let Some(line) = conflict_marker(text, extension) {
        return Some(format!("line {line} is a conflict marker"));
    }
    match extension {
        "json" if takes_comments(path, &name) => None,
        "json" | "webmanifest" | "geojson" | "ipynb" => json(text),
        "jsonl" | "ndjson" => json_lines(text),
        "toml" => toml(text),
        "lock" if matches!(name.as_str(), "cargo.lock" | "poetry.lock" | "uv.lock") => toml(text),
        "yaml" | "yml" => yaml(text),
        _ => brackets::problem(extension, text),
    }
}

/// Counted from 1. In prose, where markers may be shown as an example, only a whole conflict counts.
fn conflict_marker(text: &str, extension: &str) -> Option<usize> {
    let is_marker = |line: &str, with: char| {
        let rest = line.trim_start_matches(with);
        line.len() - rest.len() == 7 && (rest.is_empty() || rest.starts_with([' ', '\r']))
    };
    let find = |with: char| text.lines().position(|line| is_marker(line, with)).map(|at| at + 1);
    let (ours, theirs) = (find('<'), find('>'));
    if !matches!(extension, "md" | "markdown" | "txt" | "rst" | "adoc" | "patch" | "diff" | "eml") {
        return ours.or(theirs);
    }
    let (ours, middle, theirs) = (ours?, find('=')?, theirs?);
    (ours < middle && middle < theirs).then_some(ours)
}

/// Configuration files whose readers accept comments, although they are called JSON.
fn takes_comments(path: &str, name: &str) -> bool {
    let of_a_tool = [
        "tsconfig",
        "jsconfig",
        ".eslintrc",
        ".babelrc",
        ".swcrc",
        "devcontainer",
        "tslint",
        "deno",
        "wrangler",
        "pyrightconfig",
    ];
    of_a_tool.iter().any(|tool| name.starts_with(tool))
        || path.split('/').any(|part| matches!(part, ".vscode" | ".devcontainer" | ".zed"))
}

fn json(text: &str) -> Option<String> {
    let error = serde_json::from_str::<serde::de::IgnoredAny>(text).err()?;
    Some(format!("it is no JSON: {error}"))
}

fn json_lines(text: &str) -> Option<String> {
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let mut faults = lines.filter_map(|(at, line)| Some((at + 1, json(line)?)));
    faults.next().map(|(line, fault)| format!("line {line}: {fault}"))
}

fn toml(text: &str) -> Option<String> {
    let error = toml::from_str::<toml::Table>(text).err()?;
    let line = error.span().map(|span| text[..span.start.min(text.len())].matches('\n').count() + 1);
    let place = line.map(|line| format!(" (line {line})")).unwrap_or_default();
    Some(format!("it is no TOML: {}{place}", error.message().replace('\n', ", ")))
}

fn yaml(text: &str) -> Option<String> {
    // Templates of YAML (Helm, Ansible, Jinja) are YAML only once they are filled in.
    if text.contains("{{") || text.contains("{%") {
        return None;
    }
    let mut documents = serde_yaml_ng::Deserializer::from_str(text);
    let error = documents.find_map(|document| serde_yaml_ng::Value::deserialize(document).err())?;
    Some(format!("it is no YAML: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finding(path: &str, content: &str) -> Option<String> {
        let path = RepoPath::new(path).unwrap();
        static_checks(&[(path, content.as_bytes())]).pop().map(|finding| finding.problem)
    }

    #[test]
    fn good_files_have_no_findings() {
        let files = [
            ("a.json", "{\"a\": [1, 2.5e3, null]}"),
            ("tsconfig.json", "{ // comment\n}"),
            (".vscode/settings.json", "{ /* x */ }"),
            ("a.jsonl", "{}\n[1]\n\n"),
            ("a.toml", "[a]\nb = 1\n"),
            ("a.yml", "a: !Ref b\n---\n- c: &x 1\n- *x\n"),
            ("chart.yaml", "a: {{ .Values.b }}\n{{- if x }}\n"),
            ("pkg/__init__.py", ""),
            ("README.md", "Title\n=======\n\n<<<<<<< HEAD is a marker\n"),
            ("a.unknown", "((("),
            ("Makefile", "all:\n\techo )\n"),
        ];
        for (path, content) in files {
            assert_eq!(finding(path, content), None, "{path}");
        }
    }

    #[test]
    fn what_is_certainly_wrong_is_found() {
        let files = [
            ("a.json", "{\"a\": 1,}", "it is no JSON: key must be a string at line 1 column 9"),
            ("a.jsonl", "{}\n{", "line 2: it is no JSON: EOF while parsing an object at line 1 column 1"),
            ("a.rs", " \n", "it is empty"),
            ("a.rs", "fn a() {\n<<<<<<< HEAD\n}\n", "line 2 is a conflict marker"),
            ("a.py", "x = 1\n>>>>>>> REPLACE\n", "line 2 is a conflict marker"),
            ("a.md", "<<<<<<< a\nx\n=======\ny\n>>>>>>> b\n", "line 1 is a conflict marker"),
            ("a.rs", "fn a() {", "'{' in line 1 is never closed"),
        ];
        for (path, content, problem) in files {
            assert_eq!(finding(path, content).as_deref(), Some(problem), "{path}");
        }
        assert!(finding("a.toml", "a = 1\nb = [").unwrap().contains("line 2"));
        assert!(finding("a.yaml", "a: [1\nb: 2\n").unwrap().starts_with("it is no YAML"));
        assert!(finding("a.yaml", "a: 1\n---\nb: 1\nb: 2\n").unwrap().contains("duplicate"));
    }

    #[test]
    fn a_file_that_is_no_text_is_found() {
        let path = RepoPath::new("a.rs").unwrap();
        let findings = static_checks(&[(path.clone(), &[0xff, 0xfe]), (path, b"fn a() {}")]);
        assert_eq!(findings.len(), 1);
        assert_eq!(findings[0].problem, "it is not UTF-8 text");
    }
}
