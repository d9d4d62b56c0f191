//! The reviewer's answer.

use serde_json::{Map, Value};
use steadfast_core::plan::{Review, ReviewIssue, Severity};

use super::json::{number, object, text_at, texts};
use super::{AnswerFault, cut};

/// A review's issues go into prompts, records and one issue for people (GitHub takes 65,536 characters): so many.
const MAX_ISSUES: usize = 50;
/// The longest text of an issue or its suggestion, in characters; the rest is cut.
const MAX_TEXT_CHARS: usize = 2_000;
/// Likewise for what to do next: so many, and so long.
const MAX_STEPS: usize = 20;
const MAX_STEP_CHARS: usize = 500;

/// Reads a review: one JSON object, bare or fenced, prose around it allowed.
///
/// `approved` must be there, as a boolean or the words "true" and "false"; `code_quality` must be a number, which is
/// rounded and brought into 0 to 100. Of more than 50 issues the first are kept, and a last one says how many are not;
/// long texts are cut. An issue that is only a string weighs medium, so does an unknown word for its weight.
///
/// # Errors
/// [`AnswerFault`]: no or several objects, broken JSON, a verdict or a quality that is missing or has a wrong type.
pub fn review(text: &str) -> Result<Review, AnswerFault> {
    let answer = object(text, "approved")?;
    let approved = answer.get("approved").and_then(flag);
    let quality = answer.get("code_quality").and_then(number);
    Ok(Review {
        approved: approved.ok_or(AnswerFault::Field { field: "approved".to_owned(), expected: "true or false" })?,
        code_quality: quality
            // Clamped first, so the cast keeps the value.
            .map(|quality| quality.clamp(0.0, 100.0).round() as u8)
            .ok_or(AnswerFault::Field { field: "code_quality".to_owned(), expected: "a number from 0 to 100" })?,
        issues: bounded(issues(answer.get("issues"))),
        next_steps: texts(answer.get("next_steps"), &["step", "description", "text", "action"])
            .iter()
            .take(MAX_STEPS)
            .map(|step| cut(step, MAX_STEP_CHARS))
            .collect(),
    })
}

fn flag(value: &Value) -> Option<bool> {
    match value {
        Value::Bool(flag) => Some(*flag),
        Value::String(text) if text.trim().eq_ignore_ascii_case("true") => Some(true),
        Value::String(text) if text.trim().eq_ignore_ascii_case("false") => Some(false),
        Value::Null | Value::Number(_) | Value::String(_) | Value::Array(_) | Value::Object(_) => None,
    }
}

fn issues(value: Option<&Value>) -> Vec<ReviewIssue> {
    match value {
        Some(Value::Array(issues)) => issues.iter().filter_map(issue).collect(),
        Some(single) => issue(single).into_iter().collect(),
        None => Vec::new(),
    }
}

fn bounded(mut issues: Vec<ReviewIssue>) -> Vec<ReviewIssue> {
    let left_out = issues.len().saturating_sub(MAX_ISSUES);
    issues.truncate(MAX_ISSUES);
    if left_out > 0 {
        issues.push(ReviewIssue {
            severity: Severity::Medium,
            issue: format!("{left_out} more issues were named than are kept"),
            suggestion: String::new(),
            file: None,
        });
    }
    issues
}

/// An issue without any text is none.
fn issue(value: &Value) -> Option<ReviewIssue> {
    let Value::Object(object) = value else {
        let issue = cut(&texts(Some(value), &[]).into_iter().next()?, MAX_TEXT_CHARS);
        return Some(ReviewIssue { severity: Severity::Medium, issue, suggestion: String::new(), file: None });
    };
    let suggestion = text_at(object, &["suggestion", "fix", "recommendation"]);
    let issue = text_at(object, &["issue", "description", "message", "title", "problem"]);
    Some(ReviewIssue {
        severity: severity(object),
        issue: cut(&issue.or_else(|| suggestion.clone())?, MAX_TEXT_CHARS),
        suggestion: cut(&suggestion.unwrap_or_default(), MAX_TEXT_CHARS),
        // Compared with the paths of the plan, which are shorter.
        file: text_at(object, &["file", "path"]).map(|file| cut(&file, MAX_TEXT_CHARS)),
    })
}

fn severity(issue: &Map<String, Value>) -> Severity {
    let word = text_at(issue, &["severity", "level", "priority"]).unwrap_or_default().to_lowercase();
    match word.as_str() {
        "low" | "info" | "minor" | "trivial" | "nit" | "note" | "style" | "cosmetic" | "suggestion" => Severity::Low,
        "high" | "major" | "error" | "severe" => Severity::High,
        "critical" | "blocker" | "blocking" | "fatal" => Severity::Critical,
        _ => Severity::Medium,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(text: &str) -> Result<Review, String> {
        review(text).map_err(|fault| fault.to_string())
    }

    #[test]
    fn a_review_is_read() {
        let text = r#"Looks good.
```json
{"approved": true, "code_quality": 88.5, "issues": [
  {"severity": "HIGH", "issue": "no test", "suggestion": "add one", "file": "a.js"},
  {"severity": "blocker", "description": "b"}, {"severity": "nit", "message": "c", "file": ""},
  {"severity": "odd", "suggestion": "only this"}, {"severity": 5}, "plain", null, {"issue": " "}],
 "next_steps": ["x", {"step": "y"}, 3, null], "extra": 1}
```"#;
        let issue = |severity, issue: &str, suggestion: &str, file: Option<&str>| ReviewIssue {
            severity,
            issue: issue.to_owned(),
            suggestion: suggestion.to_owned(),
            file: file.map(str::to_owned),
        };
        let expected = Review {
            approved: true,
            code_quality: 89,
            issues: vec![
                issue(Severity::High, "no test", "add one", Some("a.js")),
                issue(Severity::Critical, "b", "", None),
                issue(Severity::Low, "c", "", None),
                issue(Severity::Medium, "only this", "only this", None),
                issue(Severity::Medium, "plain", "", None),
            ],
            next_steps: vec!["x".to_owned(), "y".to_owned(), "3".to_owned()],
        };
        assert_eq!(read(text), Ok(expected));
    }

    #[test]
    fn severities_are_understood_in_other_words_too() {
        for (word, severity) in [
            ("low", Severity::Low),
            ("Info", Severity::Low),
            ("minor", Severity::Low),
            ("medium", Severity::Medium),
            ("warning", Severity::Medium),
            ("", Severity::Medium),
            ("High ", Severity::High),
            ("major", Severity::High),
            ("error", Severity::High),
            ("CRITICAL", Severity::Critical),
            ("blocker", Severity::Critical),
        ] {
            let text = format!(
                r#"{{"approved": false, "code_quality": 1, "issues": [{{"issue": "i", "severity": "{word}"}}]}}"#
            );
            assert_eq!(read(&text).map(|r| r.issues[0].severity), Ok(severity), "{word}");
        }
    }

    #[test]
    fn verdict_and_quality_are_tolerant_but_never_guessed() {
        let quality = |value: &str| {
            read(&format!(r#"{{"approved": "True", "code_quality": {value}}}"#)).map(|r| (r.approved, r.code_quality))
        };
        for (value, expected) in
            [("0", 0), ("100", 100), ("101", 100), ("-3", 0), ("49.5", 50), ("\"70\"", 70), ("1e300", 100)]
        {
            assert_eq!(quality(value), Ok((true, expected)), "{value}");
        }
        let bad_quality = "the JSON field code_quality must be a number from 0 to 100";
        for value in ["null", "\"good\"", "[5]", "true", "\"NaN\"", "\"inf\""] {
            assert_eq!(quality(value), Err(bad_quality.to_owned()), "{value}");
        }
        assert_eq!(read(r#"{"approved": true}"#), Err(bad_quality.to_owned()));
        for approved in ["null", "1", "\"yes\"", "[true]", "{}"] {
            let text = format!(r#"{{"approved": {approved}, "code_quality": 5}}"#);
            assert_eq!(read(&text), Err("the JSON field approved must be true or false".to_owned()), "{approved}");
        }
        assert_eq!(read(r#"{"code_quality": 5}"#), Err("the JSON field approved must be true or false".to_owned()));
        assert_eq!(
            read("LGTM"),
            Err("there is no JSON object in the answer; answer with one JSON object and nothing else".to_owned())
        );
    }

    #[test]
    fn a_review_without_measure_is_cut_and_says_so() {
        let long = "x".repeat(5_000);
        let issues = vec![format!(r#"{{"issue": "{long}", "suggestion": "{long}"}}"#); 3_000].join(",");
        let steps = vec![format!("{long:?}"); 300].join(",");
        let text =
            format!(r#"{{"approved": false, "code_quality": 1, "issues": [{issues}], "next_steps": [{steps}]}}"#);
        let review = review(&text).unwrap();
        assert_eq!((review.issues.len(), review.next_steps.len()), (51, 20));
        assert_eq!(review.issues[50].issue, "2950 more issues were named than are kept");
        let longest = |text: &str| text.chars().count();
        assert_eq!((longest(&review.issues[0].issue), longest(&review.issues[0].suggestion)), (2_000, 2_000));
        assert_eq!(longest(&review.next_steps[0]), 500);
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(text in "(\\PC|[\n\r\t{}\\[\\]\":,`])*") {
            let _ = review(&text);
            let _ = review(&format!("{{\"approved\": true, \"code_quality\": 1, \"issues\": [{text}]}}"));
        }
    }
}
