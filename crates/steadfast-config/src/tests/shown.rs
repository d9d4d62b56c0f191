//! `config show`.

use super::Setup;

#[test]
fn each_value_is_shown_with_its_origin_and_no_secret() {
    let mut setup = Setup::with(
        "[failover]\npreset = \"aggressive\"\nbackoff = { max = \"30s\" }\n\
         [session]\nchecks = [\"cargo test\"]\nmax_calls = { day = 5 }\n\
         [providers.mine]\nkind = \"anthropic\"\n\
         [models.\"mine/x\"]\nprice = { input = 1.5, output = 2 }\n\
         [roles]\nplanner = [\"mine/x\"]\ncoder = [\"mine/x\"]\nreviewer = [\"mine/x\"]\n\
         [alerts]\nwebhook = \"https://h/secret\"",
    );
    setup.env("STEADFAST_DAEMON__MAX_SESSIONS", "8").flag("log.format", "json");
    let shown = setup.plain(&setup.good().show());
    let shown = shown.replace(&shown[shown.find("context_exclude").unwrap()..shown.find("prompts_dir").unwrap()], "");
    insta::assert_snapshot!(shown);
}

#[test]
fn what_is_shown_reads_back_to_the_same_configuration() {
    let setup = Setup::with(
        "[failover]\nbackoff = { max = \"30s\" }\npreset = \"conservative\"\n[session]\nmax_cost = 2.50\nprompts_dir = \"p\"",
    );
    let loaded = setup.good();
    assert_eq!(Setup::with(&loaded.show()).good().config, loaded.config);
}

#[test]
fn the_origin_of_a_value_can_be_asked_for() {
    let setup = Setup::with("[failover]\nbackoff = { max = \"30s\" }\npreset = \"conservative\"");
    let loaded = setup.good();
    let origin = |path: &[&str]| setup.plain(&loaded.origin(path).unwrap().to_string());
    assert_eq!(origin(&["failover", "backoff", "max"]), "config.toml:2");
    assert_eq!(origin(&["failover", "backoff", "initial"]), "default");
    assert_eq!(origin(&["failover", "reset_timeout"]), r#"preset "conservative" (config.toml:3)"#);
    assert!(loaded.origin(&["nope"]).is_none());
}
