//! What is said of a single wrong value or name. These sentences are the user interface: each is compared in full.

use std::fs;

use super::{Setup, said};
use crate::{Origin, schema};

#[test]
fn an_unknown_key_names_the_nearest_one() {
    assert_eq!(
        said("[daemon]\nmax_sesions = 4"),
        r#"config.toml:2: unknown key "max_sesions" in [daemon]; did you mean "max_sessions"?"#
    );
    assert_eq!(
        said("[failover]\nbackoff = { inital = \"1s\" }"),
        r#"config.toml:2: unknown key "inital" in [failover.backoff]; did you mean "initial"?"#
    );
    assert_eq!(
        said("[providers.opencode]\nbase-url = \"http://h\""),
        r#"config.toml:2: unknown key "base-url" in [providers.opencode]; did you mean "base_url"?"#
    );
    assert_eq!(
        said("[models.\"opencode/gpt-5-nano\"]\ntimeot = \"1s\""),
        r#"config.toml:2: unknown key "timeot" in [models."opencode/gpt-5-nano"]; did you mean "timeout"?"#
    );
}

#[test]
fn an_unknown_key_that_is_like_none_says_where_it_belongs_or_what_there_is() {
    assert_eq!(
        said("[log]\nmax_sessions = 4"),
        r#"config.toml:2: unknown key "max_sessions" in [log]; it belongs to [daemon]"#
    );
    assert_eq!(
        said("[roles]\nzzz = []"),
        r#"config.toml:2: unknown key "zzz" in [roles]; valid are "planner", "coder", "reviewer""#
    );
    assert_eq!(
        said("max_sessions = 4"),
        r#"config.toml:1: key "max_sessions" stands outside of its section; write it below [daemon]"#
    );
    assert_eq!(said("zzz = 4"), r#"config.toml:1: unknown key "zzz" outside of any section"#);
}

#[test]
fn an_unknown_section_names_the_nearest_one_and_its_keys_are_looked_at_all_the_same() {
    assert_eq!(
        said("[deamon]\nmax_sesions = 4"),
        "config.toml:1: unknown section [deamon]; did you mean [daemon]?\n\
         config.toml:2: unknown key \"max_sesions\" in [daemon]; did you mean \"max_sessions\"?"
    );
    assert_eq!(
        said("[zzz]"),
        "config.toml:1: unknown section [zzz]; valid are [daemon], [failover], [session], [providers], [models], [roles], \
         [issues], [alerts], [log]"
    );
}

#[test]
fn a_misspelt_key_is_not_told_a_second_time_as_missing() {
    assert_eq!(
        said("[providers.x]\nkind = \"openai\"\nbase_ur = \"http://h/v1\""),
        r#"config.toml:3: unknown key "base_ur" in [providers.x]; did you mean "base_url"?"#
    );
}

#[test]
fn a_section_or_table_that_is_none_is_told_how_to_be_written() {
    assert_eq!(said("daemon = 3"), "config.toml:1: daemon is a section: write [daemon] and its keys below, not 3");
    assert_eq!(
        said("[providers]\nx = \"http://h\""),
        r#"config.toml:2: providers.x is a table: write [providers.x] and its keys below, not "http://h""#
    );
    assert_eq!(
        said("[failover]\nbackoff = \"1s\""),
        r#"config.toml:2: failover.backoff: expected { initial = …, max = … }, found "1s""#
    );
}

#[test]
fn a_number_without_a_unit_is_told_to_have_one() {
    assert_eq!(
        said("[daemon]\ntime_limit = 90\nmin_free_disk = 512\nmemory_limit = 95\nkeep_finished = \"30\""),
        "config.toml:2: daemon.time_limit: 90 has no unit; write \"90s\" or \"90min\"\n\
         config.toml:3: daemon.min_free_disk: 512 has no unit; write \"512 MiB\" or \"512 B\"\n\
         config.toml:4: daemon.memory_limit: 95 has no unit; write \"95%\" or \"95 MiB\"\n\
         config.toml:5: daemon.keep_finished: \"30\" has no unit; write \"30s\" or \"30min\""
    );
}

#[test]
fn a_value_of_the_wrong_type_says_what_was_expected_and_found() {
    assert_eq!(
        said(
            "[daemon]\nmax_sessions = \"four\"\nlisten = \"localhost:1\"\nrestart_window = true\nmin_free_disk = []\n\
             memory_limit = 1979-05-27\n[failover]\nredeem = {}\nmin_success_rate = \"50%\"\n[session]\nchecks = \"make\"\n\
             max_calls = true\n[alerts]\nwebhook = 3"
        ),
        "config.toml:2: daemon.max_sessions: expected a whole number, found \"four\"\n\
         config.toml:3: daemon.listen: expected an IP address and a port such as \"127.0.0.1:7070\", \"auto\" or \"none\", found \"localhost:1\"\n\
         config.toml:4: daemon.restart_window: expected a duration such as \"90s\" or \"1h 30min\", found true\n\
         config.toml:5: daemon.min_free_disk: expected a size such as \"512 MiB\", found an array\n\
         config.toml:6: daemon.memory_limit: expected a percentage such as \"95%\" or a size such as \"2 GiB\", found a date\n\
         config.toml:8: failover.redeem: expected true or false, found a table\n\
         config.toml:9: failover.min_success_rate: expected a number from 0 to 1, found \"50%\"\n\
         config.toml:11: session.checks: expected a list of texts, found \"make\"\n\
         config.toml:12: session.max_calls: expected a number or { session = …, day = … }, found true\n\
         config.toml:14: alerts.webhook: expected a text, found 3"
    );
}

#[test]
fn a_value_out_of_range_says_the_range() {
    assert_eq!(
        said(
            "[daemon]\nmax_sessions = 0\nmax_restarts = -1\nrestart_window = \"0s\"\nmemory_limit = \"101%\"\n\
             time_limit = \"200 years\"\n[failover]\nfailure_threshold = 4294967296\nmin_success_rate = 1.01\n\
             [session]\nmax_calls = 0\nmax_cost = 0\nmax_tokens = { day = -3 }\n\
             [models.\"opencode/gpt-5-nano\"]\nspeed = 6\nprice = { input = -1, output = 1 }\nmax_concurrency = 1e3"
        ),
        "config.toml:2: daemon.max_sessions: must be at least 1, found 0\n\
         config.toml:3: daemon.max_restarts: must be at least 0, found -1\n\
         config.toml:4: daemon.restart_window: must be longer than zero\n\
         config.toml:5: daemon.memory_limit: expected a percentage from \"1%\" to \"100%\", found \"101%\"\n\
         config.toml:6: daemon.time_limit: \"years\" in \"200 years\" is no unit; use ms, s, min, h, d or w\n\
         config.toml:8: failover.failure_threshold: must be at most 4294967295, found 4294967296\n\
         config.toml:9: failover.min_success_rate: expected a number from 0 to 1, found 1.01\n\
         config.toml:11: session.max_calls: must be at least 1, found 0\n\
         config.toml:12: session.max_cost: must be more than zero\n\
         config.toml:13: session.max_tokens: day: must be at least 1, found -3\n\
         config.toml:15: models.\"opencode/gpt-5-nano\".speed: must be at most 5, found 6\n\
         config.toml:16: models.\"opencode/gpt-5-nano\".price: input: expected an amount from 0 to 1000000000, found -1\n\
         config.toml:17: models.\"opencode/gpt-5-nano\".max_concurrency: expected a whole number, found 1000"
    );
}

#[test]
fn a_word_that_is_not_known_names_the_nearest_one_or_all() {
    assert_eq!(
        said("[failover]\npreset = \"agressive\"\n[session]\nchecks_sandbox = \"docker\"\n[log]\nformat = 3"),
        "config.toml:2: failover.preset: \"agressive\" is not known; did you mean \"aggressive\"?\n\
         config.toml:4: session.checks_sandbox: \"docker\" is not known; valid are \"bwrap\", \"none\"\n\
         config.toml:6: log.format: expected \"auto\" or \"text\" or \"json\" or \"journald\", found 3"
    );
}

#[test]
fn a_wrong_item_of_a_list_is_told_with_its_own_line() {
    assert_eq!(
        said(
            "[roles]\ncoder = [\n  \"opencode/a\",\n  \"nope\",\n]\n[session]\ncontext_exclude = [\n  \"[a\",\n]\nchecks = [\n  \"\",\n]"
        ),
        "config.toml:4: roles.coder: \"nope\" is no model: write provider/name, e.g. opencode/gpt-5-nano\n\
         config.toml:8: session.context_exclude: \"[a\" is no glob: unclosed character class; missing ']'\n\
         config.toml:11: session.checks: must not be empty"
    );
}

#[test]
fn small_tables_are_checked_in_every_part() {
    assert_eq!(
        said(
            "[session]\nmax_calls = { session = 5, dya = 7 }\n[models.\"opencode/gpt-5-nano\"]\nprice = { input = 1 }"
        ),
        "config.toml:2: session.max_calls: unknown key \"dya\"; did you mean \"day\"?\n\
         config.toml:4: models.\"opencode/gpt-5-nano\".price: output is missing; write { input = …, output = … }, per million tokens"
    );
    assert_eq!(
        said("[models.\"opencode/gpt-5-nano\"]\nprice = 3"),
        "config.toml:2: models.\"opencode/gpt-5-nano\".price: expected { input = …, output = … }, found 3"
    );
}

#[test]
fn names_of_models_and_providers_have_a_form() {
    assert_eq!(
        said("[models.foo]\n[providers.\"a/b\"]"),
        "config.toml:1: [models.foo]: \"foo\" is no model: write provider/name, e.g. opencode/gpt-5-nano\n\
         config.toml:2: [providers.\"a/b\"]: \"a/b\" is no provider's name: use 1 to 64 of letters, digits, '.', '_' and '-'"
    );
}

#[test]
fn what_is_no_toml_is_told_with_its_line() {
    assert_eq!(said("[daemon]\nmax_sessions = = 4"), "config.toml:2: this is no TOML: extra `=`, expected nothing");
    assert_eq!(
        said("[models.opencode/gpt-5-nano]"),
        "config.toml:1: this is no TOML: invalid unquoted key, expected letters, numbers, `-`, `_`; quote a model's name: \
         [models.\"provider/name\"]"
    );
    assert_eq!(said("[log]\n[log]"), "config.toml:2: this is no TOML: duplicate key");
    assert_eq!(
        said("[session]\nchecks = [\"x\"\n[log]\nformat = \"x\n"),
        "config.toml:3: this is no TOML: missing comma between array elements, expected `,`\n\
         config.toml:4: this is no TOML: missing comma between array elements, expected `,`"
    );
}

#[test]
fn a_file_that_cannot_be_read_says_why() {
    let mut setup = Setup::new();
    setup.file("latin1.toml", "");
    fs::write(setup.path("latin1.toml"), [b'#', 0xe4]).unwrap();
    setup.file("large.toml", &"#".repeat((1 << 20) + 1));
    setup.file("gone.toml", "");
    fs::remove_file(setup.path("gone.toml")).unwrap();
    setup.file("folder.toml", "");
    fs::remove_file(setup.path("folder.toml")).unwrap();
    fs::create_dir(setup.path("folder.toml")).unwrap();
    assert_eq!(
        setup.said(),
        "configuration latin1.toml cannot be read: it is not UTF-8\n\
         configuration large.toml cannot be read: it is larger than 1 MiB\n\
         configuration gone.toml cannot be read: there is no such file\n\
         configuration folder.toml cannot be read: it is a folder"
    );
}

#[test]
fn a_fault_knows_its_file_line_and_column_in_characters() {
    let setup = Setup::with("\n[daemon]\n\"ä\" = 1\nmax_sessions = \"ö\"");
    let errors = setup.load().map(|loaded| loaded.config).unwrap_err();
    let places: Vec<(usize, usize)> =
        errors.faults().iter().filter_map(|fault| fault.origin.as_ref()).map(|at| (at.line(), at.column())).collect();
    assert_eq!(places, [(3, 1), (4, 16)]);
    assert!(
        matches!(&errors.faults()[0].origin, Some(Origin::File { path, .. }) if **path == *setup.path("config.toml"))
    );
}

#[test]
fn all_faults_of_all_layers_are_told_at_once_in_the_order_of_the_layers() {
    let mut setup = Setup::new();
    setup.file("a.toml", "[daemon]\nmax_sessions = 0\n[log]\nformat = \"xml\"");
    setup.file("b.toml", "[daemon]\nmax_sessions = 5\n[roles]\nplaner = []\ncoder = [\"x/y\", \"x/y\"]");
    setup.env("STEADFAST_DAEMON__MAX_SESIONS", "4").env("STEADFAST_SESSION__CHECK_TIMEOUT", "10");
    setup.flag("daemon.max_restarts", "many");
    assert_eq!(
        setup.said(),
        "a.toml:2: daemon.max_sessions: must be at least 1, found 0\n\
         a.toml:4: log.format: \"xml\" is not known; valid are \"auto\", \"text\", \"json\", \"journald\"\n\
         b.toml:4: unknown key \"planer\" in [roles]; did you mean \"planner\"?\n\
         b.toml:4: roles.planner has no model; a role needs at least one\n\
         b.toml:5: model \"x/y\" needs a provider \"x\", but there is no [providers.x]; valid are \"opencode\"\n\
         b.toml:5: roles.coder lists \"x/y\" twice\n\
         STEADFAST_DAEMON__MAX_SESIONS: unknown key \"max_sesions\" in [daemon]; did you mean STEADFAST_DAEMON__MAX_SESSIONS?\n\
         STEADFAST_SESSION__CHECK_TIMEOUT: session.check_timeout: 10 has no unit; write \"10s\" or \"10min\"\n\
         command line: daemon.max_restarts: expected a whole number, found \"many\""
    );
}

#[test]
fn every_key_takes_or_refuses_every_kind_of_value_and_a_refusal_names_both_key_and_line() {
    let values = [
        "true",
        "-1",
        "0",
        "1",
        "1.5",
        "nan",
        "1e400",
        "99999999999999999999",
        "0xffff_ffff_ffff_ffff",
        "''",
        "' '",
        "'x'",
        "'none'",
        "'1s'",
        "'1 MiB'",
        "[]",
        "[[]]",
        "['x', 1]",
        "['opencode/b']",
        "{}",
        "{ x = 1 }",
        "{ session = {}, input = [] }",
        "1979-05-27",
    ];
    let mut paths = Vec::new();
    for section in schema::sections() {
        match schema::section(section) {
            Some(table) => paths.extend(table.keys().map(|key| (format!("[{section}]"), section.to_owned(), key))),
            None => {
                let name = if section == "models" { "\"opencode/gpt-5-nano\"" } else { "opencode" };
                let full = format!("{section}.{name}");
                paths.extend(schema::template(section).keys().map(|key| (format!("[{full}]"), full.clone(), key)));
            }
        }
    }
    assert!(paths.len() > 60, "{}", paths.len());
    let setup = Setup::with("");
    for (header, section, key) in paths {
        for value in values {
            fs::write(setup.path("config.toml"), format!("{header}\n{key} = {value}")).unwrap();
            if let Err(errors) = setup.load() {
                let all = setup.plain(&errors.to_string());
                let named = all.contains(&format!("{section}.{key}")) || all.contains(&header) && all.contains(key);
                assert!(all.starts_with("config.toml:") && named, "{section}.{key} = {value}: {all}");
            }
        }
    }
}
