//! Scripts that are refused say where and why, word for word; windows count as documented.

use super::*;

fn refusal(text: &str) -> String {
    Script::parse(text).expect_err("this script must be refused").to_string()
}

#[test]
fn the_example_and_an_empty_script_are_accepted() {
    let example = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../config/sim-example.toml"));
    let script = Script::parse(example).unwrap();
    assert!(script.rules.len() >= 5);
    assert!(Script::parse("").unwrap().rules.is_empty());
}

#[test]
fn unknown_keys_are_refused_with_line_and_nearest_name() {
    assert_eq!(refusal("latencey = \"1s\""), "line 1: unknown key `latencey` in the script; did you mean `latency`?");
    assert_eq!(
        refusal("seed = 1\n[[rule]]\nmatch = { modle = \"a\" }\nthen = {}"),
        "line 3: unknown key `modle` in `match`; did you mean `model`?"
    );
    assert_eq!(
        refusal("[[rule]]\nthen = {}\n\ncolour = 1"),
        "line 4: unknown key `colour` in [[rule]]; known are `name`, `match`, `per`, `first`, `nth`, `after`, `every`, `probability`, `then`"
    );
    assert_eq!(
        refusal("[plan]\n[[plan.milestones]]\nname = \"a\"\ncraete = []"),
        "line 4: unknown key `craete` in [[plan.milestones]]; did you mean `create`?"
    );
}

#[test]
fn unknown_words_are_refused_with_the_nearest_one() {
    assert_eq!(refusal("[[rule]]\nthen = { fault = \"hangs\" }"), "line 2: `hangs` is no fault; did you mean `hang`?");
    assert_eq!(
        refusal("[[rule]]\nthen = { generate = \"aprove\" }"),
        "line 2: `aprove` is no generate; did you mean `approve`?"
    );
    assert_eq!(
        refusal("[[rule]]\nmatch = { role = \"writer\" }\nthen = {}"),
        "line 2: `writer` is no role; known are `planner`, `coder`, `reviewer`, and `none` for a request without one"
    );
    assert_eq!(
        refusal("[[rule]]\nper = [\"models\"]\nthen = {}"),
        "line 2: `models` is nothing to count by; known are `model`, `role`, `file`, `idea`, `session`, `milestone`"
    );
}

#[test]
fn values_of_the_wrong_kind_are_refused() {
    assert_eq!(
        refusal("latency = 5"),
        "line 1: `latency` in the script must be a span of time with its unit, such as \"200ms\", \"1.5s\" or \"2m\""
    );
    assert_eq!(
        refusal("[[rule]]\nfirst = 0\nthen = {}"),
        "line 2: `first` in [[rule]] must be a whole number of at least 1"
    );
    assert_eq!(
        refusal("[[rule]]\nprobability = 1.5\nthen = {}"),
        "line 2: `probability` in [[rule]] must be a number from 0 to 1"
    );
    assert_eq!(refusal("rule = 3"), "line 1: `rule` in the script must be a list of tables: write [[rule]]");
    assert_eq!(
        refusal("[[rule]]\nthen = { status = 700 }"),
        "line 2: `status` in `then` must be a whole number from 200 to 599"
    );
    assert_eq!(refusal("[[rule]]\nthen = { headers = { \"a b\" = \"c\" } }"), "line 2: `a b: c` is no header");
}

#[test]
fn keys_that_are_missing_or_exclude_each_other_are_named() {
    assert_eq!(refusal("\n[[rule]]\nfirst = 1"), "line 2: a [[rule]] needs a `then`");
    assert_eq!(refusal("[[file]]\npath = \"a\""), "line 1: a [[file]] needs a `text`");
    assert_eq!(refusal("[[file]]\ntext = \"a\""), "line 1: a [[file]] needs a `path`");
    assert_eq!(
        refusal("[[rule]]\nthen = { content = \"a\", file = \"b\" }"),
        "line 2: `content` and `file` exclude each other: an answer has one content"
    );
    assert_eq!(
        refusal("[[rule]]\nthen = { status = 500, fault = \"html\" }"),
        "line 2: `status` and `fault` exclude each other; the body of a status is its `body`"
    );
    assert_eq!(
        refusal("[[rule]]\nthen = { body = \"a\" }"),
        "line 2: `body` goes with a `status`; the text of an answer is its `content`"
    );
    assert_eq!(refusal("[[rule]]\nthen = { size = 3 }"), "line 2: `size` goes with the fault `huge` only");
    assert_eq!(
        refusal("[[rule]]\nmatch = { model = \"a\" }\nthen = { fault = \"refuse\" }"),
        "line 2: a rule with the fault `refuse` can have no `match`: the connection ends before a request is read"
    );
}

#[test]
fn broken_toml_is_refused_with_its_line() {
    let error = Script::parse("seed = 1\nlatency = ").expect_err("no value");
    assert_eq!(error.line, 2);
    assert!(!error.message.is_empty() && !error.message.contains('\n'));
}

fn taken(window: &Window) -> Vec<u64> {
    (1..=12).filter(|n| window.holds(*n)).collect()
}

#[test]
fn windows_count_from_one_and_all_their_parts_must_hold() {
    assert_eq!(taken(&Window::default()).len(), 12);
    assert_eq!(taken(&Window { first: Some(2), ..Window::default() }), [1, 2]);
    assert_eq!(taken(&Window { nth: vec![1, 3], ..Window::default() }), [1, 3]);
    assert_eq!(taken(&Window { after: 10, ..Window::default() }), [11, 12]);
    assert_eq!(taken(&Window { every: Some(4), ..Window::default() }), [4, 8, 12]);
    assert_eq!(taken(&Window { after: 2, first: Some(3), ..Window::default() }), [3, 4, 5]);
    assert_eq!(taken(&Window { after: 1, every: Some(5), first: Some(5), ..Window::default() }), [6]);
}

#[test]
fn a_files_text_of_the_milestone_goes_before_its_text_for_all() {
    let script = Script::default().with_file("a", Some(2), "two").with_file("a", None, "all");
    assert_eq!(script.file("a", Some(2)), Some("two"));
    assert_eq!(script.file("a", Some(1)), Some("all"));
    assert_eq!(script.file("a", None), Some("all"));
    assert_eq!(script.file("b", None), None);
}
