//! Finding the one JSON object of an answer, with or without a fence or prose around it.

use serde_json::{Map, Value};

use super::{AnswerFault, cut, spoken};

/// The one object that can be meant: the only outermost one that has `key`, else the only outermost one at all.
///
/// Fences need no care of their own: the object is found where it starts. The parser stops at 128 levels, so deep
/// nesting cannot overflow the stack, and each byte is looked at by at most a small multiple of 128 attempts.
///
/// # Errors
/// [`AnswerFault::Empty`], [`AnswerFault::NoJson`], [`AnswerFault::BadJson`], [`AnswerFault::SeveralObjects`].
pub(super) fn object(text: &str, key: &str) -> Result<Map<String, Value>, AnswerFault> {
    let text = spoken(text);
    if text.trim().is_empty() {
        return Err(AnswerFault::Empty);
    }
    let mut found: Vec<Map<String, Value>> = Vec::new();
    let mut broken = None;
    let mut at = 0;
    while let Some(start) = text[at..].find('{').map(|offset| at + offset) {
        let mut stream = serde_json::Deserializer::from_str(&text[start..]).into_iter::<Map<String, Value>>();
        match stream.next() {
            Some(Ok(object)) => {
                at = start + stream.byte_offset();
                found.push(object);
            }
            Some(Err(error)) if looks_meant(&text[start..]) => {
                broken.get_or_insert_with(|| describe(&text[..start], &error));
                // Parts of a broken object are no answer: go on behind it, or stop when it has no end.
                let Some(length) = balanced(&text[start..]) else {
                    break;
                };
                at = start + length;
            }
            _ => at = start + 1,
        }
    }
    let with_key = found.iter().filter(|object| object.contains_key(key)).count();
    if with_key > 0 {
        found.retain(|object| object.contains_key(key));
    } else if let Some(reason) = broken {
        return Err(AnswerFault::BadJson { reason });
    }
    match found.len() {
        0 => Err(AnswerFault::NoJson),
        1 => Ok(found.swap_remove(0)),
        count => Err(AnswerFault::SeveralObjects { count }),
    }
}

/// A brace, a string and a colon: not just a brace in prose or code.
fn looks_meant(text: &str) -> bool {
    let inside = text[1..].trim_start();
    inside
        .strip_prefix('"')
        .and_then(|rest| rest.split_once('"'))
        .is_some_and(|(name, rest)| name.len() <= 100 && rest.trim_start().starts_with(':'))
}

/// The length of the part up to the brace that closes the first one, strings taken into account.
fn balanced(text: &str) -> Option<usize> {
    let (mut depth, mut in_string, mut escaped) = (0_usize, false, false);
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b'{' if !in_string => depth += 1,
            b'}' if !in_string => {
                depth -= 1;
                if depth == 0 {
                    return Some(at + 1);
                }
            }
            _ => {}
        }
    }
    None
}

fn describe(before: &str, error: &serde_json::Error) -> String {
    let lines_before = before.matches('\n').count();
    let columns_before = before.rsplit('\n').next().map_or(0, str::len);
    let column = if error.line() <= 1 { columns_before + error.column() } else { error.column() };
    let text = error.to_string();
    // The position that the parser names is relative to the object; ours is that of the answer.
    let reason = text.split(" at line ").next().unwrap_or(&text);
    format!("{} at line {} column {column} of the answer", cut(reason, 150), lines_before + error.line().max(1))
}

/// A string, number or boolean as trimmed text without control characters but newline and tab; `None` otherwise.
pub(super) fn text_of(value: &Value) -> Option<String> {
    let text = match value {
        Value::String(text) => text.clone(),
        Value::Number(number) => number.to_string(),
        Value::Bool(flag) => flag.to_string(),
        Value::Null | Value::Array(_) | Value::Object(_) => return None,
    };
    let plain: String = text.chars().filter(|c| !c.is_control() || matches!(c, '\n' | '\t')).collect();
    let plain = plain.trim();
    (!plain.is_empty()).then(|| plain.to_owned())
}

/// The first of `keys` that holds a text.
pub(super) fn text_at(object: &Map<String, Value>, keys: &[&str]) -> Option<String> {
    keys.iter().find_map(|key| object.get(*key).and_then(text_of))
}

/// Texts of a list: strings, or objects with one of `keys`. A single text counts as a list of one; what is no text is
/// left out.
pub(super) fn texts(value: Option<&Value>, keys: &[&str]) -> Vec<String> {
    let one = |value: &Value| match value {
        Value::Object(object) => text_at(object, keys),
        other => text_of(other),
    };
    match value {
        Some(Value::Array(items)) => items.iter().filter_map(one).collect(),
        Some(value) => one(value).into_iter().collect(),
        None => Vec::new(),
    }
}

/// A number, also one written as a string.
pub(super) fn number(value: &Value) -> Option<f64> {
    let number = match value {
        Value::Number(number) => number.as_f64(),
        Value::String(text) => text.trim().parse().ok(),
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
    };
    number.filter(|number: &f64| number.is_finite())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(text: &str) -> Result<String, String> {
        object(text, "k").map(|object| Value::Object(object).to_string()).map_err(|fault| fault.to_string())
    }

    #[test]
    fn the_one_object_is_found() {
        let one = r#"{"k":1}"#;
        let cases = [
            r#"{"k":1}"#,
            "  {\"k\": 1}\n",
            "\u{feff}{\"k\":1}",
            "```json\n{\"k\":1}\n```",
            "```\n{\"k\":1}\n```",
            "~~~JSON\n{\"k\":1}\n~~~",
            "Sure! Here is it:\n\n```json\n{\"k\":1}\n```\nHope that helps :-}",
            "The set {a, b} and {} are no answer. {\"k\":1} is.",
            "```json\n{\"k\":1}\n",
            "<think>maybe {\"k\":2}?</think>\n{\"k\":1}",
            "{\"other\":1} {\"k\":1}",
            "first try {\"k\": oops, \"x\": {\"k\": 3}} then {\"k\":1}",
            "use `{{name}}` and {\"k\":1}",
        ];
        for text in cases {
            assert_eq!(find(text).as_deref(), Ok(one), "{text:?}");
        }
    }

    #[test]
    fn what_is_ambiguous_or_broken_is_refused() {
        let cases = [
            ("", "the answer is empty"),
            (" \n", "the answer is empty"),
            ("<think>hm {\"k\":1}", "the answer is empty"),
            (
                "I cannot do that.",
                "there is no JSON object in the answer; answer with one JSON object and nothing else",
            ),
            ("[1, 2]", "there is no JSON object in the answer; answer with one JSON object and nothing else"),
            ("{\"k\":1} {\"k\":1}", "there are 2 JSON objects in the answer; answer with exactly one"),
            ("{\"a\":1} {\"b\":1} {}", "there are 3 JSON objects in the answer; answer with exactly one"),
            (
                "x\n {\"k\": [1,]}",
                "the JSON is not valid: trailing comma at line 2 column 11 of the answer; answer with one complete JSON object and nothing else",
            ),
            (
                "{\n\"k\": [{\"k\":1}",
                "the JSON is not valid: EOF while parsing a list at line 2 column 13 of the answer; answer with one complete JSON object and nothing else",
            ),
            (
                "{\"k\": NaN}",
                "the JSON is not valid: expected value at line 1 column 7 of the answer; answer with one complete JSON object and nothing else",
            ),
        ];
        for (text, expected) in cases {
            assert_eq!(find(text), Err(expected.to_owned()), "{text:?}");
        }
    }

    #[test]
    fn depth_neither_overflows_nor_takes_long() {
        let deep = "{\"k\":".repeat(100_000);
        assert!(matches!(object(&deep, "k"), Err(AnswerFault::BadJson { .. })));
        assert!(matches!(object(&"{".repeat(1_000_000), "k"), Err(AnswerFault::NoJson)));
        assert!(matches!(object(&"[".repeat(1_000_000), "k"), Err(AnswerFault::NoJson)));
        let nested = format!("{}1{}", "{\"k\":[".repeat(100_000), "]}".repeat(100_000));
        assert!(matches!(object(&nested, "k"), Err(AnswerFault::BadJson { .. })));
        assert!(object(&"{ \"".repeat(300_000), "k").is_err());
    }
}
