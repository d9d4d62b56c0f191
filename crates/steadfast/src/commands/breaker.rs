//! `breaker reset` and `breaker simulate`.

use std::io::Read as _;
use std::num::NonZeroU32;
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use steadfast_core::breaker::BreakerConfig;
use steadfast_core::breaker::simulate::{self, Op, Step};
use steadfast_core::ids::ModelId;

use crate::cli::Global;
use crate::exit::{Failure, Outcome, failed};
use crate::setup::{Access, Setup};
use crate::wire::{ResetBody, ResetDone};
use crate::{print, print_json};

/// The largest timeline file that is read.
const MAX_BYTES: u64 = 64 << 20;

/// `steadfast breaker reset`.
pub(crate) async fn reset(global: &Global, model: Option<String>) -> Outcome {
    let setup = Setup::load(global)?;
    if let Some(model) = &model {
        check_model(&setup, model)?;
    }
    let reset = match setup.access().await? {
        Access::Served(client) => {
            let done: ResetDone = client.post("/v1/breakers/reset", &ResetBody { model }).await?;
            done.reset
        }
        Access::Own(keeper) => {
            let model = model.as_deref().and_then(|model| ModelId::new(model).ok());
            let reset = keeper.forget_breakers(model.as_ref()).await;
            keeper.close().await;
            reset.map_err(|error| failed("cannot reset", &error))?
        }
    };
    if global.json {
        return print_json(&ResetDone { reset });
    }
    print(&format!("{reset} breaker(s) reset\n"));
    Ok(())
}

fn check_model(setup: &Setup, model: &str) -> Result<(), Failure> {
    let id = ModelId::new(model).map_err(|error| Failure::Usage(error.to_string()))?;
    let known: Vec<&ModelId> =
        steadfast_core::ids::Role::ALL.iter().flat_map(|role| setup.config.roles.of(*role)).collect();
    if known.contains(&&id) {
        return Ok(());
    }
    let mut names: Vec<&str> = known.iter().map(|id| id.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    Err(Failure::Usage(format!("no role uses the model {model}; there are {}", names.join(", "))))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TimelineIn {
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    config: ConfigIn,
    steps: Vec<StepIn>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct ConfigIn {
    failure_threshold: Option<NonZeroU32>,
    reset_timeout_ms: Option<u64>,
    monitoring_period_ms: Option<u64>,
    max_open_ms: Option<u64>,
    probe_lease_ms: Option<u64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct StepIn {
    at_ms: u64,
    op: OpIn,
    #[serde(default)]
    call: Option<String>,
    /// What an earlier replay printed; ignored, so that an output can be replayed.
    #[serde(default)]
    #[expect(dead_code, reason = "accepted so that an output can be fed in again, and not read")]
    got: Option<Value>,
}

#[derive(Deserialize, Serialize, Clone, Copy, PartialEq)]
#[serde(rename_all = "lowercase")]
enum OpIn {
    Acquire,
    Success,
    Failure,
    Cancel,
    Reset,
    Status,
}

/// `steadfast breaker simulate`: the same timelines come out, each step with what the breaker did.
pub(crate) fn simulate(file: &Path) -> Outcome {
    let shown = if file == Path::new("-") { "standard input".to_owned() } else { file.display().to_string() };
    let wrong = |what: String| Failure::Usage(format!("{shown}: {what}"));
    let mut text = String::new();
    let read = if file == Path::new("-") {
        std::io::stdin().take(MAX_BYTES).read_to_string(&mut text)
    } else {
        std::fs::File::open(file).and_then(|file| file.take(MAX_BYTES).read_to_string(&mut text))
    };
    read.map_err(|error| wrong(format!("cannot read the timelines: {error}")))?;
    let document: Value = serde_json::from_str(&text).map_err(|error| wrong(format!("this is no JSON: {error}")))?;
    match document {
        Value::Array(timelines) => {
            let replayed: Result<Vec<Value>, Failure> =
                timelines.into_iter().enumerate().map(|(at, timeline)| one(timeline, at).map_err(&wrong)).collect();
            print_json(&replayed?)
        }
        timeline => print_json(&one(timeline, 0).map_err(wrong)?),
    }
}

/// Replays one timeline; `at` is its place, for errors.
fn one(mut document: Value, at: usize) -> Result<Value, String> {
    let name =
        |timeline: Option<&str>| timeline.map_or(format!("timeline {}", at + 1), |name| format!("timeline {name:?}"));
    let given = document.get("name").and_then(Value::as_str).map(str::to_owned);
    let timeline =
        TimelineIn::deserialize(&document).map_err(|error| format!("{}: {error}", name(given.as_deref())))?;
    let called = name(timeline.name.as_deref());
    let default = BreakerConfig::default();
    let millis = |given: Option<u64>, otherwise: Duration| given.map_or(otherwise, Duration::from_millis);
    let reset_timeout = millis(timeline.config.reset_timeout_ms, default.reset_timeout);
    let config = BreakerConfig {
        failure_threshold: timeline.config.failure_threshold.unwrap_or(default.failure_threshold),
        reset_timeout,
        monitoring_period: millis(timeline.config.monitoring_period_ms, default.monitoring_period),
        max_open: millis(timeline.config.max_open_ms, default.max_open),
        probe_lease: millis(timeline.config.probe_lease_ms, reset_timeout),
    };
    let mut steps = Vec::with_capacity(timeline.steps.len());
    let mut last = 0;
    for (place, step) in timeline.steps.iter().enumerate() {
        if step.at_ms < last {
            return Err(format!(
                "{called}: step {} is at {} ms, before the step ahead of it ({last} ms)",
                place + 1,
                step.at_ms
            ));
        }
        last = step.at_ms;
        let call = || step.call.clone().ok_or_else(|| format!("{called}: step {} needs a \"call\"", place + 1));
        let op = match step.op {
            OpIn::Acquire => Op::Acquire(call()?),
            OpIn::Success => Op::Success(call()?),
            OpIn::Failure => Op::Failure(call()?),
            OpIn::Cancel => Op::Cancel(call()?),
            OpIn::Reset => Op::Reset,
            OpIn::Status => Op::Status,
        };
        steps.push(Step { at: Duration::from_millis(step.at_ms), op });
    }
    let got = simulate::run(config, &steps);
    // The input comes back as it was, so that nothing of it is lost, with one field more a step.
    let shown = document.get_mut("steps").and_then(Value::as_array_mut);
    for (step, got) in shown.into_iter().flatten().zip(got) {
        let mut result = json!({ "state": got.state.to_string(), "status": got.status.to_string() });
        if let Some(admitted) = got.admitted {
            result["admitted"] = json!(admitted);
        }
        step["got"] = result;
    }
    Ok(document)
}
