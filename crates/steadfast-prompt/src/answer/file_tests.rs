use proptest::prelude::*;

use super::*;

const MAX: usize = 10_000;

fn whole(text: &str, current: Option<&str>) -> Result<String, AnswerFault> {
    file(text, current, MAX).map(|file| {
        assert_eq!(file.form, FileForm::Whole);
        file.text
    })
}

fn edits(text: &str, current: &str) -> Result<String, AnswerFault> {
    file(text, Some(current), MAX).map(|file| {
        assert!(matches!(file.form, FileForm::Edits(n) if n > 0));
        file.text
    })
}

#[test]
fn a_whole_file_is_the_lines_of_the_only_block() {
    let cases = [
        ("```js\na();\n```", "a();\n"),
        ("Here is it:\n\n```js path=a.js\na();\n\n```\nDone, `a` is *fine*.", "a();\n\n"),
        ("````markdown\n# T\n```bash\nnpm i\n```\n````", "# T\n```bash\nnpm i\n```\n"),
        ("~~~\n```\nx\n```\n~~~\n", "```\nx\n```\n"),
        ("```\r\na\r\nb\r\n```\r\n", "a\nb\n"),
        ("<think>\n```\nno\n```\n</think>\n```\nyes\n```", "yes\n"),
        ("```\n  indented\n\ttab\n```", "  indented\n\ttab\n"),
        ("```\nä → 🦀\n```", "ä → 🦀\n"),
        ("```\ntext: <<<<<<< SEARCH\n    <<<<<<< HEAD\n```", "text: <<<<<<< SEARCH\n    <<<<<<< HEAD\n"),
        ("```\nTitle\n=======\n```", "Title\n=======\n"),
    ];
    for (text, expected) in cases {
        assert_eq!(whole(text, None).as_deref(), Ok(expected), "{text:?}");
        assert_eq!(whole(text, Some("old\n")).as_deref(), Ok(expected), "{text:?}");
    }
}

#[test]
fn a_file_keeps_the_line_ending_that_it_has() {
    assert_eq!(whole("```\na\nb\n```", Some("x\r\ny\r\n")).as_deref(), Ok("a\r\nb\r\n"));
    assert_eq!(whole("```\r\na\r\nb\r\n```", Some("x\r\ny\r\n")).as_deref(), Ok("a\r\nb\r\n"));
    assert_eq!(whole("```\r\na\r\nb\r\n```", Some("x\ny\n")).as_deref(), Ok("a\nb\n"));
}

#[test]
fn what_is_no_whole_file_says_why() {
    let marker = |line, text: &str| AnswerFault::ConflictMarker { line, text: text.to_owned() };
    let cases = [
        ("", AnswerFault::Empty),
        (" \n\n", AnswerFault::Empty),
        ("<think>```\nx\n```", AnswerFault::Empty),
        ("I cannot do that.", AnswerFault::NoBlock),
        ("const a = 1;\n", AnswerFault::NoBlock),
        ("    ```\n    a\n    ```", AnswerFault::NoBlock),
        ("```js\na", AnswerFault::UnclosedBlock { line: 1 }),
        ("text\n````\na\n```", AnswerFault::UnclosedBlock { line: 2 }),
        ("```\na\n~~~", AnswerFault::UnclosedBlock { line: 1 }),
        ("```\na\n```\n```\nb\n```", AnswerFault::SeveralBlocks { count: 2 }),
        ("```\na\n```\nand\n```\nb", AnswerFault::UnclosedBlock { line: 5 }),
        ("```md\n# T\n```sh\nx\n```\ny\n```\n", AnswerFault::NestedBlock { line: 3 }),
        ("```\n```", AnswerFault::EmptyFile),
        ("```\n \n\n```", AnswerFault::EmptyFile),
        ("```\na\nb\0\n```", AnswerFault::Nul { line: 2 }),
        ("```\na\n<<<<<<< HEAD\nb\n=======\nc\n>>>>>>> x\n```", marker(2, "<<<<<<< HEAD")),
        ("```\na\n<<<<<<< SEARCH\nb\n=======\nc\n>>>>>>> REPLACE\nd d\n```", marker(2, "<<<<<<< SEARCH")),
        ("```\na\n>>>>>>> REPLACE\n```", marker(2, ">>>>>>> REPLACE")),
        (
            "```\na\n# ... rest of the code ...\n```",
            AnswerFault::Placeholder { line: 2, text: "# ... rest of the code ...".to_owned() },
        ),
    ];
    for (text, expected) in cases {
        assert_eq!(whole(text, None), Err(expected), "{text:?}");
    }
    let long = format!("```\n{}\n```", "x".repeat(MAX));
    assert_eq!(whole(&long, None), Err(AnswerFault::TooLarge { bytes: MAX + 1, max_bytes: MAX }));
}

#[test]
fn what_the_file_had_before_it_may_keep() {
    let current = "# ... existing code ...\n<<<<<<< HEAD\n>>>>>>> x\n";
    assert_eq!(whole(&format!("```\n{current}a\n```"), Some(current)), Ok(format!("{current}a\n")));
}

const CURRENT: &str = "one\n  two\nthree\n  two\nfour\n";

fn block(search: &str, replace: &str) -> String {
    format!("<<<<<<< SEARCH\n{search}=======\n{replace}>>>>>>> REPLACE\n")
}

#[test]
fn edits_are_applied_in_order() {
    let cases = [
        (block("one\n", "1\n"), "1\n  two\nthree\n  two\nfour\n"),
        (format!("Sure:\n```\n{}```\nDone.", block("one\n", "1\n")), "1\n  two\nthree\n  two\nfour\n"),
        (
            format!("a.txt\n```text\na.txt\n{}\na.txt\n\n{}```\n", block("one\n", "1\n"), block("four\n", "4\n")),
            "1\n  two\nthree\n  two\n4\n",
        ),
        (
            format!("```\n{}```\nand\n~~~\n{}~~~\n", block("one\n", "1\n"), block("four\n", "4\n")),
            "1\n  two\nthree\n  two\n4\n",
        ),
        (block("  two\nthree\n", ""), "one\n  two\nfour\n"),
        (format!("{}{}", block("one\n", "four\n"), block("  two\nfour\n", "x\n")), "four\n  two\nthree\nx\n"),
        (block("four\n", "four\n```\nfence\n```\n"), "one\n  two\nthree\n  two\nfour\n```\nfence\n```\n"),
        (block("one\n", "1\r\n").replace('\n', "\r\n").replace("\r\r", "\r"), "1\n  two\nthree\n  two\nfour\n"),
    ];
    for (text, expected) in cases {
        assert_eq!(edits(&text, CURRENT).as_deref(), Ok(expected), "{text}");
    }
}

#[test]
fn untouched_lines_keep_their_endings() {
    assert_eq!(edits(&block("b\n", "B\nC\n"), "a\r\nb\r\nc").as_deref(), Ok("a\r\nB\r\nC\r\nc"));
    assert_eq!(edits(&block("c\n", "C\n"), "a\nb\nc").as_deref(), Ok("a\nb\nC\n"));
    assert_eq!(edits(&block("c\n", ""), "a\nb\nc").as_deref(), Ok("a\nb\n"));
    assert_eq!(edits(&block("a\n", "A\n"), "a\nb\r\nc\n").as_deref(), Ok("A\nb\r\nc\n"));
}

#[test]
fn an_edit_that_does_not_match_once_says_which_and_why() {
    let no_match = |block, text: &str| AnswerFault::NoMatch { block, text: text.to_owned() };
    let cases = [
        (block("two\n", "x\n"), no_match(1, "two")),
        (block("on\n", "x\n"), no_match(1, "on")),
        (format!("{}{}", block("one\n", "1\n"), block("one\n", "2\n")), no_match(2, "one")),
        (block("  two\n", "x\n"), AnswerFault::SeveralMatches { block: 1, count: 2, text: "two".to_owned() }),
        (block("", "x\n"), AnswerFault::EmptySearch { block: 1 }),
        (block("\n \n", "x\n"), AnswerFault::EmptySearch { block: 1 }),
        ("<<<<<<< SEARCH\none\n>>>>>>> REPLACE\n".to_owned(), AnswerFault::IncompleteEdit { block: 1 }),
        ("<<<<<<< SEARCH\none\n=======\n1\n".to_owned(), AnswerFault::IncompleteEdit { block: 1 }),
        ("```\n<<<<<<< SEARCH\none\n=======\n1\n```\n".to_owned(), AnswerFault::IncompleteEdit { block: 1 }),
        (format!("```\n{}", block("one\n", "1\n")), AnswerFault::UnclosedBlock { line: 1 }),
        (format!("{}\n```\nwhole file\n```\n", block("one\n", "1\n")), AnswerFault::EditAndFile),
        (block("one\n  two\nthree\n  two\nfour\n", ""), AnswerFault::EmptyFile),
        (
            block("one\n", "// ... existing code ...\n"),
            AnswerFault::Placeholder { line: 1, text: "// ... existing code ...".to_owned() },
        ),
    ];
    for (text, expected) in cases {
        assert_eq!(edits(&text, CURRENT), Err(expected), "{text}");
    }
    assert_eq!(file(&block("one\n", "1\n"), None, MAX), Err(AnswerFault::EditOfNothing));
    let overlapping = AnswerFault::SeveralMatches { block: 1, count: 2, text: "a".to_owned() };
    assert_eq!(edits(&block("a\na\n", "b\n"), "a\na\na\n"), Err(overlapping));
    assert_eq!(
        file(&block("a\n", &"x\n".repeat(MAX)), Some("a\n"), MAX).map(|f| f.text.len()),
        Err(AnswerFault::TooLarge { bytes: 2 * MAX, max_bytes: MAX })
    );
}

#[test]
fn a_file_with_lines_of_equals_signs_can_be_edited() {
    let current = "Title\n=======\n\ntext\n";
    assert_eq!(edits(&block("Title\n=======\n\ntext\n", "New\n"), current).as_deref(), Ok("New\n"));
    assert_eq!(
        edits(&block("text\n", "Other\n=======\n"), current).as_deref(),
        Ok("Title\n=======\n\nOther\n=======\n")
    );
    assert_eq!(edits(&block("Title\n=======\n", "New\n"), current).as_deref(), Ok("New\n\ntext\n"));
    assert_eq!(edits(&block("x\n=======\n", "New\n"), current), Err(AnswerFault::SeveralDividers { block: 1 }));
}

#[test]
fn equal_lines_do_not_make_the_search_slow() {
    let current = "a\n".repeat(50_000);
    let many = "a\n".repeat(20_000) + "b\n";
    assert!(matches!(edits(&block(&many, "c\n"), &current), Err(AnswerFault::NoMatch { .. })));
}

/// Lines without control characters, so that every one of them is text.
fn any_file() -> impl Strategy<Value = String> {
    prop::collection::vec("[ \\PC]{0,20}|`{1,6}[a-z]{0,2}|~{3,5}| {0,4}```", 1..12)
        .prop_map(|lines| lines.iter().map(|line| format!("{line}\n")).collect::<String>())
        .prop_filter("not blank", |text| !text.trim().is_empty())
        .prop_filter("no placeholder", |text| check(text, None, MAX).is_ok())
}

proptest! {
    #[test]
    fn a_file_in_a_long_enough_fence_reads_back_as_itself(text in any_file(), prose in "[a-z ]{0,20}") {
        let answer = format!("{prose}\n{}{prose}", fence::wrap("text", &text));
        prop_assert_eq!(whole(&answer, None), Ok(text.clone()));
        prop_assert_eq!(whole(&answer, Some("old\n")), Ok(text));
    }

    #[test]
    fn an_edit_of_a_unique_line_changes_that_line_alone(before in any_file(), after in any_file()) {
        let current = format!("{before}THE ONE LINE\n{after}");
        prop_assume!(check(&current, None, MAX).is_ok());
        let expected = format!("{before}new\n{after}");
        prop_assert_eq!(edits(&block("THE ONE LINE\n", "new\n"), &current), Ok(expected));
    }

    #[test]
    fn no_text_makes_the_parser_panic(
        parts in prop::collection::vec(prop_oneof![
            "\\PC{0,10}",
            Just("\n".to_owned()), Just("\r\n".to_owned()), Just("```\n".to_owned()), Just("~~~~\n".to_owned()),
            Just("\n<<<<<<< SEARCH\n".to_owned()), Just("\n=======\n".to_owned()), Just("\n>>>>>>> REPLACE\n".to_owned()),
            Just("one\n".to_owned()), Just("// ... rest of\n".to_owned()), Just("(…)\n".to_owned()),
        ], 0..20),
    ) {
        let text = parts.concat();
        for current in [None, Some(CURRENT), Some(""), Some("one")] {
            if let Ok(file) = file(&text, current, MAX) {
                prop_assert!(!file.text.trim().is_empty() && file.text.len() <= MAX);
            }
        }
    }
}
