//! The planner's answer.

use std::collections::HashSet;

use serde_json::{Map, Value};
use steadfast_core::ids::RepoPath;
use steadfast_core::plan::{Change, MAX_FILES, MAX_MILESTONES, Plan, PlannedFile, PlannedMilestone, RefusedFile};

use super::json::{number, object, text_at, text_of, texts};
use super::{AnswerFault, cut};

/// What a plan says of itself when it does not say how sure it is.
const DEFAULT_CONFIDENCE: f64 = 0.5;
/// The longest name of a milestone, in characters; what is longer is cut. It becomes the commit's subject.
const MAX_NAME_CHARS: usize = 120;

/// The longest description of a milestone, in characters. It stands whole in every prompt of its milestone and in its
/// commit; this many are some 5,000 tokens.
const MAX_DESCRIPTION_CHARS: usize = 20_000;
/// Risks are shown to people: so many, and so long, in characters. What is more is cut.
const MAX_RISKS: usize = 50;
const MAX_RISK_CHARS: usize = 1_000;

/// Reads a plan: one JSON object, bare or fenced, prose around it allowed.
///
/// Unknown fields are ignored; missing lists are empty; a path that is named again within a milestone counts once, in the
/// order create, modify, delete; a path that must not be touched goes to [`PlannedMilestone::refused`].
///
/// # Errors
/// [`AnswerFault`]: no or several objects, broken JSON, no milestone, too many milestones or files, a description that is
/// too long, a field of a type that cannot be meant.
pub fn plan(text: &str) -> Result<Plan, AnswerFault> {
    let answer = object(text, "milestones")?;
    let milestones = match answer.get("milestones") {
        None | Some(Value::Null) => return Err(AnswerFault::NoMilestones),
        Some(Value::Array(milestones)) => milestones,
        Some(_) => return Err(field("milestones", "a list of objects")),
    };
    match milestones.len() {
        0 => return Err(AnswerFault::NoMilestones),
        count if count > MAX_MILESTONES => return Err(AnswerFault::TooManyMilestones { count }),
        _ => {}
    }
    let milestones = milestones.iter().enumerate().map(|(index, value)| milestone(index, value));
    let risks = texts(answer.get("risks"), &["risk", "description", "issue", "text"]);
    Ok(Plan {
        milestones: milestones.collect::<Result<_, _>>()?,
        risks: risks.iter().take(MAX_RISKS).map(|risk| cut(risk, MAX_RISK_CHARS)).collect(),
        confidence: answer.get("confidence").and_then(number).map_or(DEFAULT_CONFIDENCE, |c| c.clamp(0.0, 1.0)),
    })
}

fn field(field: impl Into<String>, expected: &'static str) -> AnswerFault {
    AnswerFault::Field { field: field.into(), expected }
}

fn milestone(index: usize, value: &Value) -> Result<PlannedMilestone, AnswerFault> {
    let at = format!("milestones[{index}]");
    let Value::Object(object) = value else {
        return Err(field(at, "an object with name, description and files"));
    };
    let description = text_at(object, &["description", "details"]).unwrap_or_default();
    let chars = description.chars().count();
    if chars > MAX_DESCRIPTION_CHARS {
        let what = format!("the description of milestone {}", index + 1);
        return Err(AnswerFault::TooLong { what, chars, max_chars: MAX_DESCRIPTION_CHARS });
    }
    let name = text_at(object, &["name", "title"])
        .map(|name| name.split_whitespace().collect::<Vec<_>>().join(" "))
        .filter(|name| !name.is_empty())
        .unwrap_or_else(|| format!("Milestone {}", index + 1));
    let mut milestone =
        PlannedMilestone { name: cut(&name, MAX_NAME_CHARS), description, files: Vec::new(), refused: Vec::new() };
    match object.get("files") {
        None | Some(Value::Null) => {}
        Some(Value::Object(files)) => collect(&mut milestone, files, &at)?,
        // An empty list says what an empty object says.
        Some(Value::Array(files)) if files.is_empty() => {}
        Some(_) => {
            return Err(field(format!("{at}.files"), "an object with the lists create, modify and delete"));
        }
    }
    let count = milestone.files.len() + milestone.refused.len();
    if count > MAX_FILES {
        return Err(AnswerFault::TooManyFiles { what: format!("milestone {}", index + 1), count });
    }
    Ok(milestone)
}

fn collect(milestone: &mut PlannedMilestone, files: &Map<String, Value>, at: &str) -> Result<(), AnswerFault> {
    let mut seen = HashSet::new();
    for (key, change) in [("create", Change::Create), ("modify", Change::Modify), ("delete", Change::Delete)] {
        let list = match files.get(key) {
            None | Some(Value::Null) => continue,
            Some(Value::Array(list)) => list.as_slice(),
            Some(single @ (Value::String(_) | Value::Object(_))) => std::slice::from_ref(single),
            Some(_) => return Err(field(format!("{at}.files.{key}"), "a list of paths")),
        };
        for (index, entry) in list.iter().enumerate() {
            let path = match entry {
                Value::String(path) => Some(path.trim().to_owned()),
                Value::Object(entry) => {
                    ["path", "file", "name"].iter().find_map(|key| entry.get(*key).and_then(text_of))
                }
                _ => None,
            };
            let path = path.ok_or_else(|| field(format!("{at}.files.{key}[{index}]"), "a path"))?;
            match RepoPath::new(&path) {
                Ok(path) if seen.insert(path.as_str().to_owned()) => {
                    milestone.files.push(PlannedFile { path, change });
                }
                Err(refused) if seen.insert(path) => {
                    milestone.refused.push(RefusedFile { path: refused.path, reason: refused.reason.to_owned() });
                }
                Ok(_) | Err(_) => {}
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A short form of a plan that is easy to compare.
    fn short(text: &str) -> Result<String, String> {
        let plan = plan(text).map_err(|fault| fault.to_string())?;
        let milestones: Vec<String> = plan
            .milestones
            .iter()
            .map(|m| {
                let files: Vec<_> = m.files.iter().map(|f| format!("{:?} {}", f.change, f.path)).collect();
                let refused: Vec<_> = m.refused.iter().map(|f| format!("{:?}", f.path)).collect();
                format!("{}: {} [{}] refused [{}]", m.name, m.description, files.join(", "), refused.join(", "))
            })
            .collect();
        Ok(format!("{} | {:?} | {}", milestones.join("; "), plan.risks, plan.confidence))
    }

    #[test]
    fn plans_are_read() {
        let cases = [
            (
                r#"{"milestones": [{"name": "A", "description": "d", "files": {"create": ["x.js"], "modify": ["y.js"], "delete": ["z.js"]}}], "risks": ["r"], "confidence": 0.9}"#,
                r#"A: d [Create x.js, Modify y.js, Delete z.js] refused [] | ["r"] | 0.9"#,
            ),
            (
                r#"{"milestones": [{}, {"name": " a\n b ", "files": {}}, {"name": "", "title": "T", "files": []}], "unknown": {"a": 1}}"#,
                r#"Milestone 1:  [] refused []; a b:  [] refused []; T:  [] refused [] | [] | 0.5"#,
            ),
            (
                r#"{"milestones": [{"name": 7, "files": {"create": ["a", "./a", "b"], "modify": ["b", "c"], "delete": ["c", "a", " d "]}}]}"#,
                r#"7:  [Create a, Create b, Modify c, Delete d] refused [] | [] | 0.5"#,
            ),
            (
                r#"{"milestones": [{"name": "A", "files": {"create": ["../x", "/etc/passwd", ".git/hooks/x", "", "../x", "ok"], "modify": null}}], "confidence": 7}"#,
                r#"A:  [Create ok] refused ["../x", "/etc/passwd", ".git/hooks/x", ""] | [] | 1"#,
            ),
            (
                r#"{"milestones": [{"name": "A", "files": {"create": [{"path": "a"}, {"file": "b", "why": 1}], "modify": "c"}}], "risks": [{"risk": "r"}, 5, null, []], "confidence": -1}"#,
                r#"A:  [Create a, Create b, Modify c] refused [] | ["r", "5"] | 0"#,
            ),
            (
                r#"{"milestones": [{"name": "A", "description": null}], "risks": "one", "confidence": "0.75"}"#,
                r#"A:  [] refused [] | ["one"] | 0.75"#,
            ),
            (r#"{"milestones": [{"name": "A"}], "confidence": "NaN"}"#, r#"A:  [] refused [] | [] | 0.5"#),
            (r#"{"milestones": [{"name": "A"}], "confidence": null}"#, r#"A:  [] refused [] | [] | 0.5"#),
            (
                "Here is the plan:\n```json\n{\"milestones\": [{\"name\": \"A\"}]}\n```\nIt has {one} milestone.",
                r#"A:  [] refused [] | [] | 0.5"#,
            ),
        ];
        for (text, expected) in cases {
            assert_eq!(short(text).as_deref(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_is_no_plan_says_why() {
        let no_milestones = "a plan without milestones is no plan; give at least one milestone";
        let cases = [
            (r#"{"milestones": []}"#, no_milestones),
            (r#"{"milestones": null}"#, no_milestones),
            (r#"{"plan": "x"}"#, no_milestones),
            (r#"{"milestones": {"name": "A"}}"#, "the JSON field milestones must be a list of objects"),
            (
                r#"{"milestones": ["A"]}"#,
                "the JSON field milestones[0] must be an object with name, description and files",
            ),
            (
                r#"{"milestones": [{"files": ["a.js"]}]}"#,
                "the JSON field milestones[0].files must be an object with the lists create, modify and delete",
            ),
            (
                r#"{"milestones": [{}, {"files": {"create": 5}}]}"#,
                "the JSON field milestones[1].files.create must be a list of paths",
            ),
            (
                r#"{"milestones": [{"files": {"delete": ["a", 5]}}]}"#,
                "the JSON field milestones[0].files.delete[1] must be a path",
            ),
            (
                r#"{"milestones": [{"name": "A"}]} {"milestones": [{"name": "B"}]}"#,
                "there are 2 JSON objects in the answer; answer with exactly one",
            ),
        ];
        for (text, expected) in cases {
            assert_eq!(short(text), Err(expected.to_owned()), "{text}");
        }
    }

    fn with(n_milestones: usize, n_files: usize) -> String {
        let files: Vec<String> = (0..n_files).map(|n| format!("\"f{n}\"")).collect();
        let milestone = format!("{{\"files\": {{\"create\": [{}]}}}}", files.join(","));
        format!("{{\"milestones\": [{}]}}", vec![milestone; n_milestones].join(","))
    }

    #[test]
    fn sizes_are_bounded_on_both_sides_of_the_bound() {
        assert_eq!(plan(&with(50, 1)).map(|p| p.milestones.len()), Ok(50));
        assert_eq!(plan(&with(51, 1)), Err(AnswerFault::TooManyMilestones { count: 51 }));
        assert_eq!(plan(&with(1, 200)).map(|p| p.milestones[0].files.len()), Ok(200));
        let many = AnswerFault::TooManyFiles { what: "milestone 1".to_owned(), count: 201 };
        assert_eq!(plan(&with(1, 201)), Err(many));
    }

    #[test]
    fn a_description_that_would_fill_every_prompt_is_refused_and_risks_are_cut() {
        let with = |length: usize| {
            let text = "ä".repeat(length);
            plan(&format!(r#"{{"milestones": [{{"name": "A"}}, {{"description": "{text}"}}], "risks": ["{text}"]}}"#))
        };
        let fault = with(20_001).unwrap_err().to_string();
        assert!(fault.starts_with("the description of milestone 2 has 20001 characters, but at most 20000"), "{fault}");
        let whole = with(20_000).unwrap();
        assert_eq!(whole.milestones[1].description.chars().count(), 20_000);
        assert_eq!(whole.risks[0].chars().count(), 1_000);
        let risks = vec![r#""r""#; 51].join(",");
        let many = plan(&format!(r#"{{"milestones": [{{"name": "A"}}], "risks": [{risks}]}}"#)).unwrap();
        assert_eq!(many.risks.len(), 50);
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(text in "(\\PC|[\n\r\t{}\\[\\]\":,`])*") {
            let _ = plan(&text);
        }

        #[test]
        fn no_json_makes_the_parser_panic(text in json()) {
            if let Ok(plan) = plan(&format!("{{\"milestones\": {text}, \"risks\": {text}, \"confidence\": {text}}}")) {
                prop_assert!((0.0..=1.0).contains(&plan.confidence));
                prop_assert!(plan.milestones.iter().all(|m| !m.name.is_empty() && m.files.len() <= MAX_FILES));
            }
        }
    }

    /// JSON values of the kinds that plans are made of.
    fn json() -> impl Strategy<Value = String> {
        let keys = ["name", "files", "create", "modify", "delete", "path", "description", "risk"];
        let leaf = prop_oneof![
            Just("null".to_owned()),
            any::<i64>().prop_map(|n| n.to_string()),
            any::<f64>().prop_filter("finite", |n| n.is_finite()).prop_map(|n| n.to_string()),
            "[a-z./]{0,8}".prop_map(|s| format!("{s:?}")),
        ];
        leaf.prop_recursive(5, 40, 4, move |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(|v| format!("[{}]", v.join(","))),
                prop::collection::vec((prop::sample::select(keys.to_vec()), inner), 0..4).prop_map(|v| {
                    let fields: Vec<String> = v.iter().map(|(k, v)| format!("\"{k}\":{v}")).collect();
                    format!("{{{}}}", fields.join(","))
                }),
            ]
        })
    }
}
