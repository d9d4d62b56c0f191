use std::collections::BTreeMap;
use std::num::{NonZeroU32, NonZeroUsize};
use std::time::Duration;

use steadfast_core::ids::ModelId;
use steadfast_core::sentinel::MemoryLimit;

use super::Setup;
use crate::{
    Alerts, Backoff, Budget, Config, Daemon, Failover, Issues, Listen, Log, LogFormat, Model, Provider, ProviderKind,
    Roles, Sandbox, Session, Tracker,
};

const DEFAULT_FILE: &str = include_str!("../../../../config/default.toml");

fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

fn some(number: usize) -> NonZeroUsize {
    NonZeroUsize::new(number).unwrap()
}

fn ids(ids: &[&str]) -> Vec<ModelId> {
    ids.iter().map(|id| ModelId::new(id).unwrap()).collect()
}

/// The numbers of SPEC 2 to 11 and of the seed, written a second time.
fn expected() -> Config {
    let opencode = Provider {
        kind: ProviderKind::OpenAi,
        base_url: Some("https://opencode.ai/zen/v1".to_owned()),
        api_key_env: Some("OPENCODE_API_KEY".to_owned()),
        api_key_file: None,
        stream: true,
        json_mode: false,
        command: Vec::new(),
    };
    let model = |speed, quality, use_case: &str| Model {
        speed: Some(speed),
        quality: Some(quality),
        use_case: Some(use_case.to_owned()),
        timeout: secs(300),
        context_window: None,
        max_output_tokens: None,
        max_concurrency: some(4),
        price: None,
        enabled: true,
    };
    let models = [
        ("opencode/gpt-5-nano", model(3, 3, "Fast, general")),
        ("opencode/mixtral-8x7b", model(1, 5, "Better quality, thorough")),
        ("opencode/gpt-4-turbo", model(2, 4, "Last resort")),
        ("opencode/codellama-7b", model(2, 4, "Specialized in code")),
        ("opencode/codellama-13b", model(1, 5, "More capable at code")),
    ];
    let general = ids(&["opencode/gpt-5-nano", "opencode/mixtral-8x7b", "opencode/gpt-4-turbo"]);
    Config {
        daemon: Daemon {
            state_dir: "/home/u/.local/state/steadfast".into(),
            listen: Listen::Auto,
            max_sessions: some(4),
            max_restarts: 3,
            restart_window: secs(60),
            time_limit: None,
            time_limit_margin: secs(60),
            memory_limit: MemoryLimit::Percent(95),
            min_free_disk_bytes: 512 << 20,
            shutdown_grace: secs(2),
            keep_finished: secs(30 * 86_400),
        },
        failover: Failover {
            preset: None,
            failure_threshold: NonZeroU32::new(3).unwrap(),
            reset_timeout: secs(60),
            monitoring_period: secs(300),
            max_open: secs(3600),
            max_retries: NonZeroU32::new(3).unwrap(),
            backoff: Backoff { initial: secs(1), max: secs(60) },
            outage_patience: secs(600),
            graceful_degradation: true,
            partial_success: true,
            min_success_rate: 0.5,
            auto_timeout: false,
            redeem: true,
            redeem_within: secs(86_400),
        },
        session: Session {
            milestone_retries: 2,
            max_review_rounds: 2,
            max_parallel_agents: some(4),
            checks: Vec::new(),
            check_timeout: secs(600),
            checks_sandbox: Sandbox::Bwrap,
            context_exclude: [
                ".env*",
                "*.pem",
                "*.key",
                "*.p12",
                "*.pfx",
                "*.ppk",
                "*.jks",
                "*.keystore",
                "*.kdbx",
                "id_*",
                ".netrc",
                ".npmrc",
                ".pypirc",
                ".pgpass",
                ".htpasswd",
                ".git-credentials",
                ".aws",
                ".ssh",
                ".gnupg",
                ".kube",
                ".docker",
                "*.tfstate*",
                "*.tfvars",
                "credentials*",
                "secrets*",
            ]
            .map(str::to_owned)
            .to_vec(),
            prompts_dir: None,
            max_calls: Budget::default(),
            max_tokens: Budget::default(),
            max_cost: Budget::default(),
        },
        providers: BTreeMap::from([("opencode".to_owned(), opencode)]),
        models: models.map(|(id, model)| (ModelId::new(id).unwrap(), model)).into(),
        roles: Roles {
            planner: general.clone(),
            coder: ids(&["opencode/codellama-7b", "opencode/codellama-13b", "opencode/gpt-5-nano"]),
            reviewer: general,
        },
        issues: Issues {
            tracker: Tracker::Local,
            repository: None,
            token_env: None,
            token_file: None,
            api_url: "https://api.github.com".to_owned(),
            assignee: None,
            labels: Vec::new(),
        },
        alerts: Alerts { webhook: None },
        log: Log { format: LogFormat::Auto },
    }
}

#[test]
fn without_any_file_the_defaults_of_the_specification_hold() {
    let loaded = Setup::new().good();
    assert_eq!(loaded.config, expected());
    assert!(loaded.files.is_empty() && loaded.warnings.is_empty(), "{:?}", loaded.warnings);
}

#[test]
fn the_default_file_read_as_a_users_file_gives_exactly_the_defaults() {
    let loaded = Setup::with(DEFAULT_FILE).good();
    assert_eq!(loaded.config, expected());
    assert_eq!(loaded.warnings, []);
}

#[test]
fn the_default_file_says_something_of_every_key() {
    let keys =
        DEFAULT_FILE.lines().filter(|line| line.starts_with(|c: char| c.is_ascii_lowercase()) && line.contains(" = "));
    let bare: Vec<&str> = keys.filter(|line| !line.contains('#')).collect();
    // The other models repeat what the first one explains, and a role's key says all there is to say.
    let repeated = ["speed", "quality", "use_case", "planner", "coder", "reviewer", "api_url"];
    let unexplained: Vec<&&str> =
        bare.iter().filter(|line| !repeated.iter().any(|key| line.starts_with(key))).collect();
    assert!(unexplained.is_empty(), "{unexplained:?}");
}

#[test]
fn the_manual_says_something_of_every_key() {
    let manual = include_str!("../../../../docs/configuration.md");
    let mut missing = Vec::new();
    for section in crate::schema::sections() {
        let keys = crate::schema::section(section).unwrap_or_else(|| crate::schema::template(section));
        missing.extend(
            keys.keys().filter(|key| !manual.contains(&format!("| `{key}` |"))).map(|key| format!("{section}.{key}")),
        );
    }
    assert!(missing.is_empty(), "{missing:?}");
}
