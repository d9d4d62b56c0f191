//! The demo's code compiles and passes its check at every step, and the models fail as the story needs it.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use super::*;
use crate::answer;
use crate::ask::{Ask, Endpoint};
use crate::choose::Counts;
use crate::script::{Content, Effect, Fault};

type Tree = BTreeMap<String, Vec<u8>>;

fn start() -> Tree {
    files().iter().map(|(path, bytes)| ((*path).to_owned(), bytes.to_vec())).collect()
}

/// The tree after a milestone of the plan, written from the scripted texts.
fn carried(tree: &mut Tree, milestone: u32, failed: &[&str]) {
    let script = script();
    let plan: Value = serde_json::from_str(script.plan.as_deref().unwrap()).unwrap();
    let named = &plan["milestones"][milestone as usize - 1]["files"];
    let paths = |list: &str| {
        named[list].as_array().unwrap().iter().map(|path| path.as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    for path in paths("create") {
        assert!(!tree.contains_key(&path), "{path} is there already");
    }
    for path in paths("modify").iter().chain(&paths("delete")) {
        assert!(tree.contains_key(path), "{path} is not there");
    }
    for path in [paths("create"), paths("modify")].concat() {
        if !failed.contains(&path.as_str()) {
            let text = script.file(&path, Some(milestone)).unwrap_or_else(|| panic!("no text for {path}"));
            tree.insert(path, text.as_bytes().to_vec());
        }
    }
    for path in paths("delete") {
        tree.remove(&path);
    }
}

/// Runs the check on a tree; `None` where there is no shell or C compiler.
fn check(tree: &Tree) -> Option<Result<(), String>> {
    let compiler = std::env::var("CC").unwrap_or_else(|_| "cc".to_owned());
    for program in [compiler.split(' ').next().unwrap_or("cc"), "sh"] {
        let found = Command::new(program).arg("-c").arg("true").output();
        if found.is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound) {
            return None;
        }
    }
    let root = tempfile::tempdir().unwrap();
    for (path, bytes) in tree {
        let place = root.path().join(path);
        std::fs::create_dir_all(place.parent().unwrap()).unwrap();
        std::fs::write(place, bytes).unwrap();
    }
    let before = names(root.path());
    let command = checks()[0].split(' ').collect::<Vec<_>>();
    let output = Command::new(command[0]).args(&command[1..]).current_dir(root.path()).output().unwrap();
    assert_eq!(names(root.path()), before, "the check leaves something behind");
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(!said.contains("warning"), "{said}");
    Some(if output.status.success() { Ok(()) } else { Err(said) })
}

fn names(folder: &Path) -> Vec<String> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() {
            names.extend(self::names(&entry.path()));
        }
        names.push(entry.path().display().to_string());
    }
    names.sort();
    names
}

#[test]
fn the_check_passes_before_and_after_each_milestone_without_the_missing_file() {
    let mut tree = start();
    assert_eq!(check(&tree).unwrap_or(Ok(())), Ok(()));
    for (milestone, failed) in [(1, &["src/users.c"][..]), (2, &[]), (3, &[])] {
        carried(&mut tree, milestone, failed);
        assert_eq!(check(&tree).unwrap_or(Ok(())), Ok(()), "after milestone {milestone}");
    }
    assert!(!tree.contains_key("src/users.c") && !tree.contains_key("src/hello.c"));
    assert_eq!(tree.len(), files().len() - 1 + 3);
}

#[test]
fn the_check_also_passes_when_somebody_adds_the_missing_file() {
    let mut tree = start();
    for milestone in 1..=3 {
        carried(&mut tree, milestone, &[]);
    }
    assert_eq!(check(&tree).unwrap_or(Ok(())), Ok(()));
}

/// The text of a rule's fenced file.
fn careless_router() -> Vec<u8> {
    let script = script();
    let rule = script.rules.iter().find(|rule| rule.name == "the first router.c is careless").unwrap();
    let Effect::Answer { content: Content::File(text), fault: None } = &rule.then.effect else {
        panic!("it is a file")
    };
    text.as_bytes().to_vec()
}

#[test]
fn the_careless_router_passes_the_check_of_its_milestone_and_fails_the_test_of_the_next() {
    let mut tree = start();
    carried(&mut tree, 1, &["src/users.c"]);
    carried(&mut tree, 2, &[]);
    assert_ne!(tree["src/router.c"], careless_router());
    tree.insert("src/router.c".to_owned(), careless_router());
    assert_eq!(check(&tree).unwrap_or(Ok(())), Ok(()), "otherwise the review would have nothing to find");
    carried(&mut tree, 3, &[]);
    assert!(check(&tree).is_none_or(|result| result.is_err_and(|said| said.contains("/postscript"))));
}

fn ask(role: &str, model: &str, milestone: u32, file: Option<&str>) -> Ask {
    Ask {
        endpoint: Endpoint::Chat,
        model: model.to_owned(),
        stream: true,
        include_usage: true,
        role: Some(role.to_owned()),
        session: None,
        idea: Some("002-feature".to_owned()),
        milestone: Some(milestone),
        file: file.map(str::to_owned),
        attempt: Some(1),
        attempt_id: None,
        traceparent: None,
        prompt_bytes: 0,
        prompt: None,
    }
}

/// What a request meets: `ok`, a status, or a fault's word.
fn met(counts: &mut Counts, ask: &Ask) -> String {
    let script = script();
    match counts.choose(&script, ask).map(|rule| &rule.then.effect) {
        None | Some(Effect::Answer { fault: None, .. }) => "ok".to_owned(),
        Some(Effect::Status { code, .. }) => code.to_string(),
        Some(Effect::Answer { fault: Some(fault), .. }) => fault.word().to_owned(),
    }
}

#[test]
fn the_first_three_calls_of_the_first_coder_fail_in_any_order_and_users_c_always() {
    let orders = [
        ["src/auth.c", "src/users.c", "src/posts.c"],
        ["src/users.c", "src/users.c", "src/auth.c"],
        ["src/posts.c", "src/auth.c", "src/users.c"],
    ];
    for order in orders {
        let mut counts = Counts::new(&script());
        let first: Vec<_> =
            order.iter().map(|file| met(&mut counts, &ask("coder", "codellama-7b", 1, Some(file)))).collect();
        assert_eq!(first, ["500", "503", Fault::BrokenStream.word()]);
        for (model, verdict) in [("codellama-13b", "filtered"), ("gpt-5-nano", "400"), ("codellama-7b", "400")] {
            assert_eq!(met(&mut counts, &ask("coder", model, 1, Some("src/users.c"))), verdict);
            assert_eq!(met(&mut counts, &ask("coder", model, 1, Some("src/auth.c"))), "ok");
        }
        assert_eq!(met(&mut counts, &ask("coder", "codellama-7b", 2, Some("src/endpoints.h"))), "ok");
    }
}

#[test]
fn the_reviews_tell_one_rejection_that_names_the_file() {
    let script = script();
    let mut counts = Counts::new(&script);
    let mut review = |model: &str, milestone| {
        let ask = ask("reviewer", model, milestone, None);
        let rule = counts.choose(&script, &ask);
        let content = match rule.map(|rule| &rule.then.effect) {
            Some(Effect::Status { code, .. }) => return code.to_string(),
            Some(Effect::Answer { content, .. }) => content.clone(),
            None => Content::Auto,
        };
        let answer: Value = serde_json::from_str(&answer::text(&script, &ask, &content)).unwrap();
        format!("{} {}", answer["approved"], answer["issues"][0]["file"].as_str().unwrap_or("-"))
    };
    assert_eq!(review("gpt-5-nano", 1), "503");
    assert_eq!(review("mixtral-8x7b", 1), "true src/posts.c");
    assert_eq!(review("gpt-5-nano", 2), "false src/router.c");
    assert_eq!(review("gpt-5-nano", 2), "true -");
    assert_eq!(review("gpt-5-nano", 3), "true -");
}

#[test]
fn the_idea_has_the_id_that_the_demo_speaks_of() {
    assert!(idea().starts_with("---\nid: 002-feature\ntitle: "));
    assert!(script().with_pace(Duration::ZERO, Duration::ZERO).latency.is_zero());
}
