//! `doctor`: does everything answer.
//!
//! It changes nothing: no breaker counts what is asked here, no issue is filed, no alert sent.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures_util::future::join_all;
use serde::Serialize;
use steadfast_config::{Environment, Sandbox};
use steadfast_core::fault::{CallFault, Fault};
use steadfast_core::ids::{AttemptId, IdeaId, ModelId, Role, SessionId};
use steadfast_core::sentinel::{Limits, MemoryLimit, Sentinel, Verdict};
use steadfast_model::{CallContext, ModelClient, Probe};
use steadfast_notify::{DeliveryError, Retry};
use steadfast_repo::Repository;

use crate::cli::{DoctorArgs, Global};
use crate::client::socket_path;
use crate::commands::store::checked;
use crate::exit::{FAILED, Failure, Outcome};
use crate::setup::{Access, Setup};
use crate::text::{harmless, n_of};
use crate::wire::{CheckBody, StatusBody};
use crate::{print, print_json};

/// What was found out about one thing.
#[derive(Debug, Serialize)]
struct Finding {
    /// `configuration`, `key`, `model`, `git`, `repository`, `store`, `disk`, `memory`, `sandbox`, `issues`, `alerts`, `daemon`.
    check: &'static str,
    /// Which one of several: a provider, a model, a folder.
    name: Option<String>,
    result: Health,
    message: String,
    /// What to do, where there is something.
    advice: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Health {
    Ok,
    Warn,
    Fail,
}

impl Finding {
    fn new(check: &'static str, name: Option<String>, result: Health, message: impl Into<String>) -> Self {
        Self { check, name, result, message: message.into(), advice: None }
    }

    fn ok(check: &'static str, message: impl Into<String>) -> Self {
        Self::new(check, None, Health::Ok, message)
    }

    fn warn(check: &'static str, message: impl Into<String>) -> Self {
        Self::new(check, None, Health::Warn, message)
    }

    fn fail(check: &'static str, message: impl Into<String>) -> Self {
        Self::new(check, None, Health::Fail, message)
    }

    fn advise(self, advice: impl Into<String>) -> Self {
        Self { advice: Some(advice.into()), ..self }
    }

    fn line(&self) -> String {
        let result = match self.result {
            Health::Ok => "ok  ",
            Health::Warn => "warn",
            Health::Fail => "FAIL",
        };
        let name = self.name.as_deref().map(|name| format!(" {name}")).unwrap_or_default();
        let advice = self.advice.as_deref().map(|advice| format!("; {advice}")).unwrap_or_default();
        harmless(&format!("{result}  {}{name}: {}{advice}", self.check, self.message)) + "\n"
    }
}

/// `steadfast doctor`.
pub(crate) async fn doctor(global: &Global, args: DoctorArgs) -> Outcome {
    let setup = Setup::load(global)?;
    let (mut findings, daemon) = local(&setup, args.repo.as_deref()).await;
    let (models, issues, alerts) = tokio::join!(models(&setup, daemon.as_ref()), issues(&setup), alerts(&setup));
    // Keys first, then whom they open.
    findings.splice(1..1, keys(&setup).into_iter().chain(models));
    let at = findings.len() - 1;
    findings.splice(at..at, [issues, alerts]);
    let count = |health: Health| findings.iter().filter(|finding| finding.result == health).count();
    let (failed, warned) = (count(Health::Fail), count(Health::Warn));
    if global.json {
        print_json(&serde_json::json!({ "ok": failed == 0, "checks": findings }))?;
    } else {
        findings.iter().for_each(|finding| print(&finding.line()));
        print(&match (failed, warned) {
            (0, 0) => "everything answers\n".to_owned(),
            _ => format!("{failed} failed, {}\n", n_of(warned, "warning")),
        });
    }
    if failed == 0 { Ok(()) } else { Err(Failure::Code(FAILED)) }
}

/// What needs no network: configuration first, daemon last; and what the daemon says of itself.
async fn local(setup: &Setup, repo: Option<&Path>) -> (Vec<Finding>, Option<StatusBody>) {
    let mut findings = vec![configuration(setup)];
    findings.push(Finding::ok("git", format!("libgit2 {} is built in", steadfast_repo::git_version())));
    findings.extend(repo.map(repository));
    // The store of a state directory that nobody has used yet is not made by looking at it.
    let is_there = setup.state_dir().join("store").exists();
    let access = if is_there { Some(setup.access_to_look().await) } else { None };
    findings.push(match &access {
        None => state_dir(setup.state_dir()),
        Some(Err(failure)) => {
            let advice = "run this as the user whose state directory it is; `steadfast store check` tells more";
            Finding::fail("store", failure.to_string()).advise(advice)
        }
        Some(Ok(Access::Served(client))) => store(client.get("/v1/store/check").await),
        Some(Ok(Access::Own(keeper))) => store(checked(keeper, setup.state_dir(), &mut |_, _| ())),
    });
    findings.extend(resources(setup));
    findings.push(sandbox(setup));
    let status: Option<Result<StatusBody, Failure>> = match access {
        Some(Ok(Access::Served(client))) => Some(client.get("/v1/status").await),
        _ => None,
    };
    findings.push(daemon(setup.state_dir(), status.as_ref()));
    (findings, status.and_then(Result::ok))
}

fn configuration(setup: &Setup) -> Finding {
    let wrong = setup.templates().err().or_else(|| setup.exclude().err());
    if let Some(failure) = wrong {
        return Finding::fail("configuration", failure.to_string());
    }
    let sources: Vec<String> = setup.loaded.files.iter().map(|path| path.display().to_string()).collect();
    let read = if sources.is_empty() { "built-in defaults".to_owned() } else { sources.join(", ") };
    let warnings: Vec<String> = setup.loaded.warnings.iter().map(ToString::to_string).collect();
    match warnings.is_empty() {
        true => Finding::ok("configuration", format!("valid ({read})")),
        false => Finding::warn("configuration", warnings.join("; ")),
    }
}

/// Whether each provider's key is there. Nothing of it is shown.
fn keys(setup: &Setup) -> Vec<Finding> {
    let environment = Environment::of_process();
    let key = |(name, provider): (&String, &steadfast_config::Provider)| {
        let finding = match provider.key(name, &environment) {
            Ok(Some(_)) => Finding::ok("key", "is there"),
            Ok(None) => Finding::ok("key", "none is configured; it is called without one"),
            Err(missing) => Finding::fail("key", missing.to_string())
                .advise(format!("set it, or change api_key_env or api_key_file of [providers.{name}]")),
        };
        Finding { name: Some(name.clone()), ..finding }
    };
    setup.config.providers.iter().map(key).collect()
}

/// Every model that a role lists, all at once.
async fn models(setup: &Setup, daemon: Option<&StatusBody>) -> Vec<Finding> {
    let probes = setup.clients().into_iter().map(|(id, client)| {
        let role = Role::ALL.into_iter().find(|role| setup.config.roles.of(*role).contains(&id));
        let breaker = daemon.and_then(|status| breaker_of(status, &id));
        let price = setup.config.models.get(&id).and_then(|model| model.price);
        async move {
            let finding = match client {
                Err(reason) if reason == "disabled" => Finding::ok("model", "not asked: enabled = false"),
                Err(reason) => Finding::fail("model", format!("not asked: {reason}")),
                Ok(client) => {
                    let probe = client.probe(context(role.unwrap_or(Role::Coder))).await;
                    model(&id, probe, client.as_ref(), price, breaker)
                }
            };
            Finding { name: Some(id.to_string()), ..finding }
        }
    });
    join_all(probes).await
}

/// What a proxy on the way may read: nobody's session, and an idea that says who asks.
fn context(role: Role) -> CallContext {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let session = SessionId::new(u64::try_from(now.as_millis()).unwrap_or(u64::MAX), 0);
    // Of the same clock; nobody has to tell two runs of this apart.
    let id = AttemptId::new(now.subsec_nanos().into());
    let idea = IdeaId::new("doctor").expect("a word of letters");
    CallContext { role, session, idea, milestone: None, file: None, attempt: 1, id }
}

fn model(
    id: &ModelId,
    probe: Result<Probe, CallFault>,
    client: &dyn ModelClient,
    price: Option<steadfast_config::Price>,
    breaker: Option<&str>,
) -> Finding {
    let at = client.host().map(|host| format!(" at {host}")).unwrap_or_default();
    let message = match probe {
        Ok(Probe::Listed) => format!("its provider{at} lists it and takes the key; this cost nothing"),
        Ok(Probe::Answered(usage)) => {
            let cost = price.map(|price| {
                let micros = (usage.input * price.input.0 + usage.output * price.output.0) as f64 / 1e6;
                format!(", {:.6} at its price", micros / 1e6)
            });
            let cost = cost.unwrap_or_default();
            format!("answers{at}; this cost {} + {} tokens{cost}", usage.input, usage.output)
        }
        Err(fault) => {
            let finding = Finding::fail("model", fault.message.clone());
            return match advice(&fault, id.provider()) {
                // It is there and will answer again by itself.
                Some(advice) if matches!(fault.fault, Fault::RateLimited { .. }) => {
                    Finding { result: Health::Warn, ..finding }.advise(advice)
                }
                Some(advice) => finding.advise(advice),
                None => finding,
            };
        }
    };
    match breaker {
        Some("OPEN") => Finding::warn("model", format!("{message}, but its breaker is OPEN"))
            .advise(format!("`steadfast breaker reset {id}` has it asked again at once")),
        _ => Finding::ok("model", message),
    }
}

fn advice(fault: &CallFault, provider: &str) -> Option<String> {
    let settings = format!("[providers.{provider}]");
    Some(match (&fault.fault, fault.status) {
        (Fault::Denied, Some(404)) => format!("check the model's name, and base_url of {settings}"),
        (Fault::Denied, _) => format!("check the key of {settings} and what it may use"),
        (Fault::Unavailable | Fault::TimedOut, _) => format!("check that the server runs, and base_url of {settings}"),
        (Fault::Network(_), _) => format!("check the network, the resolver, and base_url of {settings}"),
        (Fault::Tls, _) => format!("check base_url of {settings} and this machine's certificates (SSL_CERT_FILE)"),
        (Fault::Malformed, _) => format!("check that base_url of {settings} is that of the API"),
        (Fault::QuotaExhausted, _) => "add credit, or put another model first".to_owned(),
        (Fault::RateLimited { .. }, _) => "its limit is used up for now".to_owned(),
        _ => return None,
    })
}

fn breaker_of<'a>(status: &'a StatusBody, id: &ModelId) -> Option<&'a str> {
    let roles = [&status.roles.planner, &status.roles.coder, &status.roles.reviewer];
    let row = roles.into_iter().flatten().find(|row| row.model == id.to_string());
    row.map(|row| row.circuit_breaker.as_str())
}

fn repository(path: &Path) -> Finding {
    let finding = match Repository::open(path).and_then(|repository| Ok((repository.head()?, repository.identity()))) {
        Ok((head, author)) => {
            Finding::ok("repository", format!("at commit {}; commits are by {}", head.short(), author.name))
        }
        Err(error) => Finding::fail("repository", steadfast_actors::chain(&error)),
    };
    Finding { name: Some(path.display().to_string()), ..finding }
}

/// Nothing was ever done here: whether it could.
fn state_dir(path: &Path) -> Finding {
    let folder = path.ancestors().find(|folder| folder.exists()).unwrap_or(path);
    let access = rustix::fs::access(folder, rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK);
    match access {
        Ok(()) => Finding::ok("store", format!("none yet; it will be made in {}", path.display())),
        Err(error) => Finding::fail("store", format!("{} cannot be written: {error}", folder.display()))
            .advise("run this as the user that Steadfast runs as, or choose another state_dir"),
    }
}

fn store(check: Result<CheckBody, Failure>) -> Finding {
    match check {
        Err(failure) => Finding::fail("store", failure.to_string()),
        Ok(check) if check.sound => Finding::ok("store", format!("sound; {} records verify", check.records)),
        Ok(check) => {
            let lost = check.damaged.len() + check.set_aside.len();
            let message = format!(
                "not sound: {lost} damaged, {} missing, {} mended at the opening",
                check.missing,
                check.healed.len()
            );
            Finding::fail("store", message).advise("`steadfast store check` names them")
        }
    }
}

/// Disk and memory, held against what the daemon would hold against them.
fn resources(setup: &Setup) -> Vec<Finding> {
    let daemon = &setup.config.daemon;
    let reading = steadfast_actors::sentinel::read_machine(&daemon.state_dir);
    let shortage =
        |memory: MemoryLimit, min_free_disk: u64| match Sentinel::new(Limits { memory, min_free_disk, time: None })
            .read(&reading, Duration::ZERO)
        {
            Verdict::Pause(shortage) => Some(shortage.to_string()),
            _ => None,
        };
    let mib = |bytes: u64| bytes >> 20;
    let disk = match (shortage(MemoryLimit::Percent(100), daemon.min_free_disk_bytes), reading.free_disk) {
        (Some(short), _) => Finding::fail("disk", short)
            .advise(format!("make room where {} lies, `steadfast prune` may help", daemon.state_dir.display())),
        (None, Some(free)) => Finding::ok(
            "disk",
            format!("{} MiB free, min_free_disk asks for {}", mib(free), mib(daemon.min_free_disk_bytes)),
        ),
        (None, None) => Finding::warn("disk", "how much is free cannot be measured"),
    };
    let memory = match (shortage(daemon.memory_limit, 0), reading.memory) {
        (Some(short), _) => Finding::fail("memory", short).advise("a daemon would begin nothing until there is room"),
        (None, Some(memory)) => {
            Finding::ok("memory", format!("{} of {} MiB in use", mib(memory.used), mib(memory.total)))
        }
        (None, None) => Finding::warn("memory", "how much is used cannot be measured"),
    };
    vec![disk, memory]
}

fn sandbox(setup: &Setup) -> Finding {
    let session = &setup.config.session;
    match setup.bwrap() {
        Err(failure) => Finding::fail("sandbox", failure.to_string()),
        Ok(Some(program)) => Finding::ok("sandbox", format!("{} works", program.display())),
        Ok(None) if session.checks.is_empty() => Finding::ok("sandbox", "none is needed: no checks are configured"),
        Ok(None) => {
            debug_assert_eq!(session.checks_sandbox, Sandbox::None);
            Finding::ok("sandbox", "checks run without one, as checks_sandbox = \"none\" says")
        }
    }
}

async fn issues(setup: &Setup) -> Finding {
    match setup.github() {
        Err(failure) => Finding::fail("issues", failure.to_string()),
        Ok(None) => Finding::ok("issues", format!("are files in {}", setup.issues_dir().display())),
        Ok(Some(github)) => match github.check().await {
            Err(error) => undelivered("issues", &error),
            Ok(notes) if notes.is_empty() => {
                let repository = setup.config.issues.repository.as_deref().unwrap_or_default();
                Finding::ok("issues", format!("GitHub shows {repository} to the token; none was filed to try it"))
            }
            Ok(notes) => Finding::warn("issues", notes.join("; ")),
        },
    }
}

async fn alerts(setup: &Setup) -> Finding {
    match setup.webhook() {
        Err(failure) => Finding::fail("alerts", failure.to_string()),
        Ok(None) => Finding::ok("alerts", "no webhook is configured"),
        Ok(Some(webhook)) => match webhook.reach().await {
            Ok(host) => Finding::ok("alerts", format!("{host} answers; no alert was sent to try it")),
            Err(error) => undelivered("alerts", &error).advise("check webhook in [alerts] and the network"),
        },
    }
}

fn undelivered(check: &'static str, error: &DeliveryError) -> Finding {
    match error.retry() {
        Retry::After(_) => Finding::warn(check, error.to_string()),
        Retry::Soon | Retry::Slowly => Finding::fail(check, error.to_string()),
    }
}

fn daemon(state_dir: &Path, status: Option<&Result<StatusBody, Failure>>) -> Finding {
    match status {
        Some(Err(failure)) => Finding::fail("daemon", failure.to_string()),
        Some(Ok(StatusBody { paused: Some(reason), .. })) => {
            Finding::warn("daemon", format!("it runs, but begins nothing: {reason}"))
        }
        Some(Ok(status)) if !status.daemon => {
            Finding::ok("daemon", "none runs; a session is carried in the foreground on this state directory")
        }
        Some(Ok(status)) if status.outbox.undelivered > 0 => {
            let waiting = n_of(status.outbox.undelivered, "issue or alert");
            Finding::warn("daemon", format!("it runs; {waiting} undelivered"))
                .advise("`steadfast outbox list` says why")
        }
        Some(Ok(status)) => {
            let sessions = &status.sessions;
            Finding::ok("daemon", format!("it runs; {} at work, {} queued", sessions.active, sessions.queued))
        }
        None => match unit() {
            Some((unit, state)) => Finding::warn(
                "daemon",
                format!(
                    "the unit {} is installed, but nobody answers on {}",
                    unit.display(),
                    socket_path(state_dir).display()
                ),
            )
            .advise(format!("`{state}` says why; a service of the machine answers its own user and state directory")),
            None => Finding::ok("daemon", "none runs; `steadfast run` works by itself, `steadfast daemon` serves many"),
        },
    }
}

/// A unit of ours where systemd is at work, and the command that says how it stands.
fn unit() -> Option<(PathBuf, &'static str)> {
    // sd_booted(3).
    if !Path::new("/run/systemd/system").is_dir() {
        return None;
    }
    let home = std::env::var_os("HOME").map(|home| Path::new(&home).join(".config/systemd/user"));
    let of_machine = ["/etc/systemd/system", "/usr/local/lib/systemd/system", "/usr/lib/systemd/system"];
    let folders = of_machine.into_iter().map(|folder| (PathBuf::from(folder), "systemctl status steadfast"));
    let all = folders.chain(home.map(|folder| (folder, "systemctl --user status steadfast")));
    all.map(|(folder, state)| (folder.join("steadfast.service"), state)).find(|(unit, _)| unit.is_file())
}
