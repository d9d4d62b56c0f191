//! Keys and secret files go nowhere (SPEC 9): not into a prompt, a record, an issue, a log or a commit.

use crate::support::{Output, World, files_under, milestone, rule};

const KEY: &str = "sk-live-7Jq2mWx9Vb4TzR8pLs5N";
const IN_FILE: &str = "hunter2-correct-horse-battery";

/// Neither the program's words nor any byte of its state nor the branch holds the text.
#[track_caller]
fn nowhere(world: &World, outputs: &[&Output], secret: &str) {
    for output in outputs {
        assert!(!output.stdout.contains(secret) && !output.stderr.contains(secret), "{output:?}");
    }
    for (path, bytes) in files_under(&world.state()) {
        let found = bytes.windows(secret.len()).any(|window| window == secret.as_bytes());
        assert!(!found, "{} in {}", secret, path.display());
    }
    for (path, text) in world.files_at("steadfast/002-feature") {
        assert!(!text.contains(secret), "{secret} in {path}");
    }
    for message in world.messages("steadfast/002-feature") {
        assert!(!message.contains(secret), "{secret} in {message}");
    }
}

/// Every command that says something, with everything that it logs.
fn everything_said(world: &World) -> Vec<Output> {
    [
        &["show", "002-feature", "--json"][..],
        &["show", "002-feature"],
        &["sessions"],
        &["status", "--json"],
        &["status"],
        &["outbox", "list", "--json"],
        &["config", "show"],
        &["config", "check"],
    ]
    .iter()
    .map(|args| world.steadfast(&[*args, &["--log", "trace"]].concat()).expect(0))
    .collect()
}

#[test]
fn a_key_that_servers_throw_back_at_us_is_in_no_output_record_or_issue() {
    // The server says the key in its errors, in its headers, and as an answer.
    let error = format!("'{{\"error\":{{\"message\":\"Incorrect API key provided: {KEY}\"}}}}'");
    let script = milestone("Write", &["a.js", "b.js", "c.js", "d.js"], &[], &[])
        + &rule("role = \"coder\", file = \"a.js\"", "", &format!("{{ status = 400, body = {error} }}"))
        + &rule("role = \"coder\", file = \"b.js\"", "", &format!("{{ file = \"key = '{KEY}'\\n\" }}"))
        + &rule(
            "role = \"reviewer\"",
            "",
            &format!("{{ status = 503, body = {error}, headers = {{ x-request-id = \"{KEY}\" }} }}"),
        );
    let mut world = World::new(&format!("api_key = {KEY:?}\n{script}"), &[]);
    world.configure("providers.sim.api_key_env = \"SIM_API_KEY\"");
    world.env.insert("SIM_API_KEY".to_owned(), KEY.to_owned());
    let ran = world.steadfast(&["run", "idea.md", "--repo", "repo", "--json", "--log", "trace"]).expect(0);
    // The key was in use: with another one every request gets a 401.
    assert_eq!(ran.json()["milestones"][0]["verdict"], "acceptable");
    let said = everything_said(&world);
    let outputs: Vec<&Output> = said.iter().chain([&ran]).collect();
    nowhere(&world, &outputs, KEY);
}

#[test]
fn a_key_in_a_file_is_used_and_goes_nowhere() {
    let mut world = World::new(&format!("api_key = {KEY:?}\n{}", milestone("Write", &["a.js"], &[], &[])), &[]);
    let file = world.path("key.txt");
    std::fs::write(&file, format!("{KEY}\n")).unwrap();
    std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    world.configure(&format!("providers.sim.api_key_file = {:?}", file.display().to_string()));
    let ran = world.steadfast(&["run", "idea.md", "--repo", "repo", "--json", "--log", "trace"]).expect(0);
    assert_eq!(ran.json()["degraded"], false);
    let said = everything_said(&world);
    let outputs: Vec<&Output> = said.iter().chain([&ran]).collect();
    nowhere(&world, &outputs, KEY);
}

#[test]
fn a_wrong_key_is_told_without_saying_it() {
    let mut world =
        World::new(&format!("api_key = \"another-key-entirely\"\n{}", milestone("Write", &["a.js"], &[], &[])), &[]);
    world.configure("providers.sim.api_key_env = \"SIM_API_KEY\"");
    world.env.insert("SIM_API_KEY".to_owned(), KEY.to_owned());
    let ran = world.run().expect(0);
    assert_eq!(ran.json()["degraded"], true);
    assert!(ran.stderr.contains("401"), "{}", ran.stderr);
    let said = everything_said(&world);
    let outputs: Vec<&Output> = said.iter().chain([&ran]).collect();
    nowhere(&world, &outputs, KEY);
}

#[test]
fn secret_files_of_the_repository_go_into_no_prompt_even_when_a_plan_names_them() {
    let script = milestone("Touch secrets", &["src/new.txt"], &[".env", "src/kept.txt", "deploy/id_rsa"], &[])
        + &milestone("Choose", &[], &[], &[]);
    let world = World::new(&script, &[]);
    let git = world.git();
    let mut index = git.index().unwrap();
    for path in [".env", ".env.local", "deploy/id_rsa", "certs/server.pem", "config/credentials.json"] {
        let file = world.repo().join(path);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(&file, format!("SECRET={IN_FILE}\n")).unwrap();
        index.add_path(std::path::Path::new(path)).unwrap();
    }
    let tree = git.find_tree(index.write_tree().unwrap()).unwrap();
    let who = git2::Signature::now("Somebody", "somebody@example.org").unwrap();
    let head = git.head().unwrap().peel_to_commit().unwrap();
    git.commit(Some("HEAD"), &who, &who, "Secrets", &tree, &[&head]).unwrap();

    let ran = world.run();
    assert!(ran.status.success(), "{ran:?}");
    let asked = world.sim.requests();
    assert!(asked.iter().any(|request| request.role.as_deref() == Some("reviewer")));
    for request in asked {
        let prompt = request.prompt.unwrap();
        assert!(!prompt.contains(IN_FILE), "{:?} {:?}: {prompt}", request.role, request.file);
    }
    let said = everything_said(&world);
    for output in said.iter().chain([&ran]) {
        assert!(!output.stdout.contains(IN_FILE) && !output.stderr.contains(IN_FILE), "{output:?}");
    }
    for (path, bytes) in files_under(&world.state()) {
        assert!(!bytes.windows(IN_FILE.len()).any(|window| window == IN_FILE.as_bytes()), "{}", path.display());
    }
}

#[test]
fn checks_do_not_get_the_keys_in_their_environment() {
    let mut world = World::new(
        &format!("api_key = {KEY:?}\n{}", milestone("Write", &["a.js"], &[], &[])),
        &[("session.checks", "[\"env > ../../../seen\"]")],
    );
    world.configure("providers.sim.api_key_env = \"SIM_API_KEY\"");
    world.env.insert("SIM_API_KEY".to_owned(), KEY.to_owned());
    world.run().expect(0);
    let seen = std::fs::read_to_string(world.path("seen")).unwrap();
    assert!(seen.contains("PATH="), "{seen}");
    assert!(!seen.contains(KEY), "{seen}");
}

/// A test that prints what it was given, in the middle of a line or of code.
#[test]
fn what_stands_in_an_excluded_file_does_not_get_into_prompts_or_issues_by_what_a_check_prints() {
    let settings = [("session.checks", "[\"cat .env; . ./.env; echo token is $TOKEN.; false\"]")];
    let world = World::new(&milestone("Write", &["a.js"], &[], &[]), &settings);
    std::fs::write(world.repo().join(".env"), "TOKEN=\"hunter2-hunter2\"\n").unwrap();
    let git = world.git();
    let mut index = git.index().unwrap();
    index.add_path(std::path::Path::new(".env")).unwrap();
    index.write().unwrap();
    let tree = git.find_tree(index.write_tree().unwrap()).unwrap();
    let who = git2::Signature::now("Somebody", "somebody@example.org").unwrap();
    let head = git.head().unwrap().peel_to_commit().unwrap();
    git.commit(Some("HEAD"), &who, &who, "More", &tree, &[&head]).unwrap();
    let ran = world.run().expect(0);
    let prompts: Vec<String> = world.sim.requests().into_iter().filter_map(|request| request.prompt).collect();
    assert!(prompts.iter().any(|prompt| prompt.contains("[kept out by context_exclude]")));
    assert!(prompts.iter().all(|prompt| !prompt.contains("hunter2")));
    assert!(!ran.stdout.contains("hunter2") && !ran.stderr.contains("hunter2"));
    for (path, bytes) in crate::support::files_under(&world.state()) {
        assert!(!String::from_utf8_lossy(&bytes).contains("hunter2"), "{}", path.display());
    }
}
