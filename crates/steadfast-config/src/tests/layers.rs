//! Which layer wins.

use std::path::PathBuf;
use std::time::Duration;

use steadfast_core::ids::{ModelId, Role};
use steadfast_core::sentinel::MemoryLimit;

use super::Setup;
use crate::{Budget, Listen, Micros, Price, ProviderKind, Sandbox};

fn breaker(setup: &Setup) -> (u32, u64) {
    let failover = setup.good().config.failover;
    (failover.failure_threshold.get(), failover.reset_timeout.as_secs())
}

fn names(setup: &Setup) -> (Vec<String>, Vec<String>) {
    let config = setup.good().config;
    (config.providers.into_keys().collect(), config.models.into_keys().map(|id| id.to_string()).collect())
}

#[test]
fn the_machines_file_comes_before_the_users_before_variables_before_flags() {
    let sessions = |setup: &Setup| setup.good().config.daemon.max_sessions.get();
    let mut setup = Setup::new();
    setup.system("[daemon]\nmax_sessions = 10\nmax_restarts = 7");
    assert_eq!(sessions(&setup), 10);
    let home = setup.path("home");
    std::fs::create_dir_all(home.join("steadfast")).unwrap();
    std::fs::write(home.join("steadfast/config.toml"), "[daemon]\nmax_sessions = 11").unwrap();
    setup.env("XDG_CONFIG_HOME", home.to_str().unwrap());
    assert_eq!(sessions(&setup), 11);
    assert_eq!(setup.good().config.daemon.max_restarts, 7);
    assert_eq!(setup.good().files, [setup.path("etc.toml"), home.join("steadfast/config.toml")]);
    setup.env("STEADFAST_DAEMON__MAX_SESSIONS", "12");
    assert_eq!(sessions(&setup), 12);
    setup.flag("daemon.max_sessions", "13");
    assert_eq!(sessions(&setup), 13);
}

#[test]
fn files_named_on_the_command_line_stand_in_for_the_usual_ones() {
    let mut setup = Setup::new();
    setup
        .system("[daemon]\nmax_sessions = 10")
        .file("a.toml", "[daemon]\nmax_restarts = 1")
        .file("b.toml", "[daemon]\nmax_restarts = 2");
    let loaded = setup.good();
    assert_eq!((loaded.config.daemon.max_sessions.get(), loaded.config.daemon.max_restarts), (4, 2));
    assert_eq!(loaded.files, [setup.path("a.toml"), setup.path("b.toml")]);
}

#[test]
fn tables_merge_by_key_and_lists_replace() {
    let mut setup = Setup::new();
    setup
        .file("a.toml", "[failover]\nbackoff = { initial = \"2s\", max = \"20s\" }\n[issues]\nlabels = [\"a\", \"b\"]");
    setup.file("b.toml", "[failover.backoff]\nmax = \"30s\"\n[issues]\nlabels = [\"c\"]");
    let config = setup.good().config;
    assert_eq!((config.failover.backoff.initial.as_secs(), config.failover.backoff.max.as_secs()), (2, 30));
    assert_eq!(config.issues.labels, ["c"]);
}

#[test]
fn none_takes_back_what_an_earlier_layer_set() {
    let mut setup = Setup::new();
    setup.file("a.toml", "[daemon]\ntime_limit = \"6h\"\nlisten = \"127.0.0.1:1\"\n[session]\nmax_calls = 5\n[issues]\nassignee = \"me\"");
    setup.file("b.toml", "[daemon]\ntime_limit = \"none\"\nlisten = \"none\"\n[session]\nmax_calls = \"none\"\n[issues]\nassignee = \"none\"");
    let config = setup.good().config;
    assert_eq!((config.daemon.time_limit, config.daemon.listen, config.issues.assignee), (None, Listen::Nowhere, None));
    assert_eq!(config.session.max_calls, Budget::default());
}

#[test]
fn every_kind_of_value_is_read() {
    let setup = Setup::with(
        "[daemon]\nlisten = \"[::1]:70\"\nmemory_limit = \"2 GiB\"\nmin_free_disk = 0\nshutdown_grace = \"0s\"\n\
         [failover]\nmin_success_rate = 1\noutage_patience = \"0s\"\n\
         [session]\nmax_calls = 7\nmax_tokens = { session = 8 }\nmax_cost = { day = 2.5 }\nchecks_sandbox = \"none\"\n\
         [providers.claude]\nkind = \"anthropic\"\n\
         [providers.tool]\nkind = \"command\"\ncommand = [\"aider\", \"-\"]\n\
         [models.\"claude/x\"]\ncontext_window = 200_000\nprice = { input = 0.05, output = 3 }\n\
         [roles]\nplanner = [\"claude/x\", \"tool/any/thing\"]",
    );
    let config = setup.good().config;
    assert_eq!(config.daemon.listen, Listen::At("[::1]:70".parse().unwrap()));
    assert!(matches!(config.daemon.memory_limit, MemoryLimit::Bytes(bytes) if bytes == 2 << 30));
    assert_eq!((config.daemon.min_free_disk_bytes, config.daemon.shutdown_grace), (0, Duration::ZERO));
    assert_eq!(config.failover.min_success_rate, 1.0);
    assert_eq!(config.session.max_calls, Budget { session: Some(7), day: None });
    assert_eq!(config.session.max_tokens, Budget { session: Some(8), day: None });
    assert_eq!(config.session.max_cost, Budget { session: None, day: Some(Micros(2_500_000)) });
    assert_eq!(config.session.checks_sandbox, Sandbox::None);
    assert_eq!(config.providers["claude"].base_url.as_deref(), Some("https://api.anthropic.com"));
    assert_eq!((config.providers["tool"].kind, config.providers["tool"].command.len()), (ProviderKind::Command, 2));
    let model = &config.models[&ModelId::new("claude/x").unwrap()];
    assert_eq!(model.price, Some(Price { input: Micros(50_000), output: Micros(3_000_000) }));
    assert_eq!((model.context_window.unwrap().get(), model.timeout.as_secs(), model.enabled), (200_000, 300, true));
    assert_eq!(config.roles.of(Role::Planner)[1].name(), "any/thing");
    assert!(config.models.contains_key(&ModelId::new("tool/any/thing").unwrap()), "a role's model needs no table");
}

#[test]
fn built_in_models_that_no_role_uses_any_more_are_left_out() {
    let own = "[providers.mine]\nkind = \"openai\"\nbase_url = \"http://h/v1\"\n[roles]\ncoder = [\"mine/x\"]\n";
    let (providers, models) = names(&Setup::with(own));
    assert_eq!(providers, ["mine", "opencode"]);
    assert_eq!(models, ["mine/x", "opencode/gpt-4-turbo", "opencode/gpt-5-nano", "opencode/mixtral-8x7b"]);
    let setup = Setup::with(&format!("{own}planner = [\"mine/x\"]\nreviewer = [\"mine/x\"]"));
    assert_eq!(names(&setup), (vec!["mine".to_owned()], vec!["mine/x".to_owned()]));
    assert_eq!(setup.warned(), "");
}

#[test]
fn a_built_in_provider_is_changed_key_by_key() {
    let config = Setup::with("[providers.opencode]\nbase_url = \"http://127.0.0.1:1/v1\"").good().config;
    let provider = &config.providers["opencode"];
    assert_eq!(provider.base_url.as_deref(), Some("http://127.0.0.1:1/v1"));
    assert_eq!(provider.api_key_env.as_deref(), Some("OPENCODE_API_KEY"));
}

#[test]
fn a_later_place_for_a_key_replaces_the_earlier_one() {
    let mut setup = Setup::with("[providers.opencode]\napi_key_file = \"key\"\n[issues]\ntoken_env = \"A\"");
    let config = setup.good().config;
    assert_eq!(config.providers["opencode"].api_key_env, None);
    assert_eq!(config.providers["opencode"].api_key_file, Some(setup.path("key")));
    setup.env("STEADFAST_ISSUES__TOKEN_FILE", "/t").env("STEADFAST_PROVIDERS__OPENCODE__API_KEY_ENV", "B");
    let config = setup.good().config;
    assert_eq!((config.issues.token_env, config.issues.token_file), (None, Some(PathBuf::from("/t"))));
    assert_eq!(config.providers["opencode"].api_key_env.as_deref(), Some("B"));
    assert_eq!(config.providers["opencode"].api_key_file, None);
}

#[test]
fn a_preset_goes_below_explicit_keys_of_its_own_and_later_layers_and_above_earlier_ones() {
    assert_eq!(breaker(&Setup::with("[failover]\npreset = \"aggressive\"")), (2, 30));
    assert_eq!(breaker(&Setup::with("[failover]\npreset = \"conservative\"")), (10, 300));
    assert_eq!(breaker(&Setup::with("[failover]\npreset = \"aggressive\"\nfailure_threshold = 5")), (5, 30));
    let mut setup = Setup::with("[failover]\nfailure_threshold = 7\nreset_timeout = \"7s\"");
    setup.preset("aggressive");
    assert_eq!(breaker(&setup), (2, 30));
    setup.flag("failover.failure_threshold", "9");
    assert_eq!(breaker(&setup), (9, 30));
}

#[test]
fn a_preset_that_is_taken_back_leaves_no_number_behind() {
    let mut setup = Setup::with("[failover]\npreset = \"aggressive\"");
    setup.file("b.toml", "[failover]\npreset = \"none\"");
    assert_eq!(breaker(&setup), (3, 60));
    setup.preset("cautious");
    assert_eq!(
        setup.said(),
        r#"command line: failover.preset: "cautious" is not known; valid are "aggressive", "conservative""#
    );
}

#[test]
fn paths_count_from_the_file_they_are_written_in_or_from_home() {
    let mut setup = Setup::with("[session]\nprompts_dir = \"prompts\"\n[daemon]\nstate_dir = \"~/state\"");
    let config = setup.good().config;
    assert_eq!(config.session.prompts_dir, Some(setup.path("prompts")));
    assert_eq!(config.daemon.state_dir, PathBuf::from("/home/u/state"));
    setup.flag("daemon.state_dir", "here");
    assert_eq!(setup.good().config.daemon.state_dir, PathBuf::from("here"));
    setup.env("HOME", "");
    assert_eq!(
        setup.said(),
        r#"config.toml:4: daemon.state_dir: "~/state" counts from the home folder, but HOME is not set"#
    );
}

#[test]
fn the_state_folder_is_systemds_else_the_users() {
    let state_dir = |setup: &Setup| setup.good().config.daemon.state_dir;
    let mut setup = Setup::new();
    assert_eq!(state_dir(&setup), PathBuf::from("/home/u/.local/state/steadfast"));
    setup.env("XDG_STATE_HOME", "/x");
    assert_eq!(state_dir(&setup), PathBuf::from("/x/steadfast"));
    setup.env("STATE_DIRECTORY", "/var/lib/one:/var/lib/two");
    assert_eq!(state_dir(&setup), PathBuf::from("/var/lib/one"));
    setup.flag("daemon.state_dir", "/flag");
    assert_eq!(state_dir(&setup), PathBuf::from("/flag"));
    let mut nowhere = Setup::new();
    nowhere.env("HOME", "");
    assert_eq!(
        nowhere.said(),
        "default: daemon.state_dir: none of STATE_DIRECTORY, XDG_STATE_HOME and HOME is set; say where the state is to be"
    );
    nowhere.flag("daemon.state_dir", "/flag");
    assert_eq!(state_dir(&nowhere), PathBuf::from("/flag"));
}

#[test]
fn variables_need_no_quotes_for_texts_and_reach_nested_keys_providers_and_models() {
    let mut setup = Setup::new();
    setup
        .env("STEADFAST_FAILOVER__BACKOFF__MAX", "10 s")
        .env("STEADFAST_FAILOVER__MAX_OPEN", "1h 30min")
        .env("STEADFAST_DAEMON__LISTEN", "127.0.0.1:80")
        .env("STEADFAST_FAILOVER__PARTIAL_SUCCESS", "false")
        .env("STEADFAST_ISSUES__ASSIGNEE", "007")
        .env("STEADFAST_SESSION__CHECKS", "cargo test")
        .env("STEADFAST_SESSION__MAX_CALLS", "{ day = 3 }")
        .env("STEADFAST_DAEMON__MAX_SESSIONS", "")
        .env("STEADFAST_PROVIDERS__LOCAL__KIND", "openai")
        .env("STEADFAST_PROVIDERS__LOCAL__BASE_URL", "http://h/v1")
        .env("STEADFAST_ROLES__CODER", "[\"local/Qwen-2.5\", \"opencode/gpt-5-nano\"]")
        .env("STEADFAST_MODELS__LOCAL_QWEN_2_5__TIMEOUT", "1h");
    let config = setup.good().config;
    assert_eq!(config.failover.backoff.max.as_secs(), 10);
    assert_eq!(config.failover.max_open.as_secs(), 5400);
    assert_eq!(config.daemon.listen, Listen::At("127.0.0.1:80".parse().unwrap()));
    assert!(!config.failover.partial_success);
    assert_eq!(config.issues.assignee.as_deref(), Some("007"));
    assert_eq!(config.session.checks, ["cargo test"]);
    assert_eq!(config.session.max_calls.day, Some(3));
    assert_eq!(config.daemon.max_sessions.get(), 4);
    assert_eq!(config.models[&ModelId::new("local/Qwen-2.5").unwrap()].timeout.as_secs(), 3600);
    assert_eq!(setup.warned(), "");
}

#[test]
fn a_misspelt_variable_is_told_and_foreign_ones_are_left_alone() {
    let mut setup = Setup::new();
    setup
        .env("STEADFAST_BENCH_KEY", "x")
        .env("STEADFAST_TOOL__THING", "x")
        .env("RESUME", "true")
        .env("FAIL_PRIMARY", "true")
        .env("STEADFAST_DAEMON_MAX_SESSIONS", "8");
    assert_eq!(
        setup.warned(),
        "STEADFAST_DAEMON_MAX_SESSIONS: has no effect; did you mean STEADFAST_DAEMON__MAX_SESSIONS?"
    );
    setup.env("STEADFAST_DEAMON__MAX_SESSIONS", "8").env("STEADFAST_MODELS__OPENCODE_GPT_5_NANA__SPEED", "1");
    assert_eq!(
        setup.said(),
        "STEADFAST_DEAMON__MAX_SESSIONS: unknown section [deamon]; did you mean STEADFAST_DAEMON__…?\n\
         STEADFAST_MODELS__OPENCODE_GPT_5_NANA__SPEED: no configured model is meant by \"OPENCODE_GPT_5_NANA\"; did you mean \
         \"OPENCODE_GPT_5_NANO\"?"
    );
}

#[test]
fn flags_reach_every_key_and_a_key_that_is_none_is_told() {
    let mut setup = Setup::new();
    setup.flag("models.\"opencode/gpt-5-nano\".timeout", "7s").flag("log.format", "json");
    let config = setup.good().config;
    assert_eq!(config.models[&ModelId::new("opencode/gpt-5-nano").unwrap()].timeout.as_secs(), 7);
    setup.flag("log format", "json");
    assert_eq!(setup.said(), "command line: \"log format\" is no key; write section.key");
}
