//! What must fit together.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use super::{Setup, said};
use crate::Environment;

#[test]
fn a_model_needs_a_configured_provider_wherever_it_is_named() {
    assert_eq!(
        said("[roles]\ncoder = [\n  \"opencod/x\",\n]"),
        r#"config.toml:3: model "opencod/x" needs a provider "opencod", but there is no [providers.opencod]; did you mean "opencode"?"#
    );
    assert_eq!(
        said("[models.\"zzz/x\"]\nspeed = 1"),
        r#"config.toml:1: model "zzz/x" needs a provider "zzz", but there is no [providers.zzz]; valid are "opencode""#
    );
}

#[test]
fn a_role_has_at_least_one_model_and_none_twice() {
    assert_eq!(
        said("[roles]\nplanner = []\ncoder = [\"opencode/a\", \"opencode/b\", \"opencode/a\"]"),
        "config.toml:2: roles.planner has no model; a role needs at least one\n\
         config.toml:3: roles.coder lists \"opencode/a\" twice"
    );
}

#[test]
fn a_provider_says_what_its_kind_needs() {
    assert_eq!(
        said(
            "[providers.a]\n[providers.b]\nkind = \"openai\"\n[providers.c]\nkind = \"command\"\n[providers.d]\nkind = \"anthropic\""
        ),
        "config.toml:1: [providers.a] has no kind; write kind = \"openai\", \"anthropic\" or \"command\"\n\
         config.toml:2: [providers.b] of kind \"openai\" has no base_url; write base_url = \"https://host/v1\"\n\
         config.toml:4: [providers.c] of kind \"command\" has no command; write command = [\"program\", \"argument\"]"
    );
}

#[test]
fn what_is_said_of_a_built_in_table_points_at_the_line_that_touched_it() {
    assert_eq!(
        said("[providers.opencode]\nkind = \"none\""),
        "config.toml:1: [providers.opencode] has no kind; write kind = \"openai\", \"anthropic\" or \"command\""
    );
}

#[test]
fn an_address_is_http_names_a_host_and_holds_no_password() {
    for good in ["http://h", "https://h:8080/v1?a=b", "http://[::1]:80/v1", "http://[::1]"] {
        Setup::with(&format!("[providers.opencode]\nbase_url = {good:?}")).good();
    }
    for bad in [
        "ftp://h",
        "h/v1",
        "http://",
        "http:///v1",
        "https://:80",
        "http://a b",
        "http://h:99999",
        "http://h:x",
        "http://::1",
    ] {
        assert_eq!(
            said(&format!("[providers.opencode]\nbase_url = {bad:?}")),
            "config.toml:2: providers.opencode.base_url: expected an address that begins with http:// or https:// and names a host",
            "{bad}"
        );
    }
    assert_eq!(
        said("[providers.opencode]\nbase_url = \"https://me:hunter2@h/v1\""),
        "config.toml:2: providers.opencode.base_url: must not hold a user or password; a key is set by api_key_env or api_key_file"
    );
}

#[test]
fn a_key_in_the_configuration_is_refused_and_not_repeated() {
    let all = said(
        "[providers.x]\nkind = \"openai\"\nbase_url = \"http://h\"\napi_key = \"sk-secret\"\napi_key_env = \"sk-secret\"\n\
         [issues]\ntoken = \"ghp_secret\"\n[alerts]\nwebhook = \"secret.example/hook\"",
    );
    assert_eq!(
        all,
        "config.toml:4: unknown key \"api_key\" in [providers.x]; a secret does not stand in the configuration: name a variable \
         or a file that holds it\n\
         config.toml:5: providers.x.api_key_env: expected the name of an environment variable, such as \"MY_KEY\", not the key itself\n\
         config.toml:7: unknown key \"token\" in [issues]; a secret does not stand in the configuration: name a variable or a file \
         that holds it\n\
         config.toml:9: alerts.webhook: expected an address that begins with http:// or https:// and names a host"
    );
}

#[test]
fn two_places_for_one_key_in_one_file_are_one_too_many() {
    assert_eq!(
        said(
            "[providers.opencode]\napi_key_env = \"A\"\napi_key_file = \"b\"\n[issues]\ntoken_env = \"A\"\ntoken_file = \"b\""
        ),
        "config.toml:3: [providers.opencode] has both api_key_env and api_key_file; keep one\n\
         config.toml:6: [issues] has both token_env and token_file; keep one"
    );
}

#[test]
fn github_needs_a_repository_and_a_token() {
    assert_eq!(
        said("[issues]\ntracker = \"github\""),
        "config.toml:2: issues.tracker \"github\" needs a repository; write repository = \"owner/name\"\n\
         config.toml:2: issues.tracker \"github\" needs a token; write token_env = \"GITHUB_TOKEN\" or token_file"
    );
    assert_eq!(
        said("[issues]\nrepository = \"name\""),
        r#"config.toml:2: issues.repository: expected "owner/name", found "name""#
    );
    Setup::with("[issues]\ntracker = \"github\"\nrepository = \"o/n\"\ntoken_env = \"T\"").good();
}

#[test]
fn a_token_that_would_cross_the_network_in_the_open_is_warned_of() {
    let warned = |api_url: &str| {
        let issues = "[issues]\ntracker = \"github\"\nrepository = \"o/n\"\ntoken_env = \"T\"";
        Setup::with(&format!("{issues}\napi_url = {api_url:?}")).warned()
    };
    assert_eq!(
        warned("http://ghe.example/api/v3"),
        "config.toml:5: issues.api_url begins with http://, so the token goes over the network for all to read; use https://"
    );
    for near in ["http://127.0.0.1:8080/api/v3", "http://localhost/", "http://[::1]:80/x", "https://ghe.example/api/v3"]
    {
        assert_eq!(warned(near), "");
    }
}

#[test]
fn times_fit_together() {
    assert_eq!(
        said("[daemon]\ntime_limit = \"1min\"\n[failover]\nbackoff = { initial = \"2min\" }"),
        "config.toml:2: daemon.time_limit: 1min leaves no time to work; it must be longer than time_limit_margin (1min)\n\
         config.toml:4: failover.backoff: initial (2min) must not be longer than max (1min)"
    );
    assert_eq!(
        said("[failover.backoff]\nmax = \"10ms\""),
        "config.toml:2: failover.backoff: initial (1s) must not be longer than max (10ms)"
    );
}

#[test]
fn a_wrong_value_does_not_hide_a_rule_that_is_broken_elsewhere() {
    assert_eq!(
        said("[daemon]\nmax_sessions = 0\n[roles]\ncoder = [\"x/y\"]"),
        "config.toml:2: daemon.max_sessions: must be at least 1, found 0\n\
         config.toml:4: model \"x/y\" needs a provider \"x\", but there is no [providers.x]; valid are \"opencode\""
    );
}

#[test]
fn what_is_allowed_but_hardly_meant_is_warned_of() {
    let setup = Setup::with(
        "[failover]\npreset = \"aggressive\"\nfailure_threshold = 3\nreset_timeout = \"2h\"\n\
         [session]\ncontext_exclude = [\".env*\"]\nmax_cost = 5\n\
         [providers.opencode]\ncommand = [\"x\"]\n\
         [providers.tool]\nkind = \"command\"\ncommand = [\"x\"]\nbase_url = \"http://h\"\nstream = true\n\
         [models.\"opencode/gpt-5-nan\"]\n\
         [models.\"opencode/gpt-5-nano\"]\nprice = { input = 0, output = 0 }\n\
         [roles]\nplanner = [\"opencode/gpt-5-nano\"]\ncoder = [\"opencode/gpt-5-nano\"]\nreviewer = [\"opencode/x\"]\n\
         [issues]\nrepository = \"o/n\"",
    );
    assert_eq!(
        setup.warned(),
        "config.toml:2: failover.preset has no effect: failure_threshold and reset_timeout are both set and go before it\n\
         config.toml:4: failover.max_open (1h) is shorter than reset_timeout (2h), so it never lengthens a pause\n\
         config.toml:6: session.context_exclude replaces the built-in list; these may now go into prompts: *.pem *.key *.p12 *.pfx \
         *.ppk *.jks *.keystore *.kdbx id_* .netrc .npmrc .pypirc .pgpass .htpasswd .git-credentials .aws .ssh .gnupg .kube .docker \
         *.tfstate* *.tfvars credentials* secrets*\n\
         config.toml:7: session.max_cost is set, but model \"opencode/x\" has no price: its calls count as free\n\
         config.toml:9: providers.opencode.command has no effect on a provider of kind \"openai\"\n\
         config.toml:13: providers.tool.base_url has no effect on a provider of kind \"command\"\n\
         config.toml:15: model \"opencode/gpt-5-nan\" is in no role, so it is never asked; did you mean \"opencode/gpt-5-nano\"?\n\
         config.toml:23: issues.repository has no effect with tracker \"local\"; did you mean tracker = \"github\"?"
    );
}

#[test]
fn checks_in_a_sandbox_do_not_start_without_the_sandbox() {
    let setup = Setup::with("[session]\nchecks = [\"make\"]");
    let loaded = setup.good();
    let with_path = |path: String| -> Environment { [("PATH".to_owned(), path)].into_iter().collect() };
    let bare = with_path("/nonexistent".to_owned());
    assert_eq!(
        setup.plain(&loaded.may_start(&bare).unwrap_err().to_string()),
        "config.toml:2: session.checks needs the program \"bwrap\" (bubblewrap), and it is not in PATH; install it, or write \
         checks_sandbox = \"none\" to let code that a model wrote run as you"
    );
    let program = setup.path("bwrap");
    fs::write(&program, "").unwrap();
    let folder = with_path(setup.path("").display().to_string());
    assert!(loaded.may_start(&folder).is_err(), "a file that cannot be executed is no program");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    assert_eq!(loaded.may_start(&folder), Ok(()));

    assert_eq!(
        Setup::with("[session]\nchecks = [\"make\"]\nchecks_sandbox = \"none\"").good().may_start(&bare),
        Ok(())
    );
    assert_eq!(Setup::new().good().may_start(&bare), Ok(()));
}

#[test]
fn an_address_that_other_machines_reach_is_warned_of() {
    let warnings = |listen: &str| {
        let loaded = Setup::with(&format!("[daemon]\nlisten = \"{listen}\"")).good();
        loaded.warnings.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    for quiet in ["127.0.0.1:7070", "[::1]:0", "auto", "none"] {
        assert_eq!(warnings(quiet), Vec::<String>::new());
    }
    let said = warnings("0.0.0.0:7070");
    assert!(said[0].contains("config.toml:2: daemon.listen: 0.0.0.0:7070 is reached from other machines"), "{said:?}");
}
