//! `demo`: the main job on a bundled sample project, over real HTTP to simulated models that fail on a schedule.

use std::path::{Path, PathBuf};

use steadfast_sim::{Sim, demo as sample};

use crate::cli::{DemoArgs, Global};
use crate::commands::orders::read_idea;
use crate::commands::run::{Foreground, prepare};
use crate::exit::{Failure, Outcome, failed};
use crate::progress::note;
use crate::setup::Setup;
use crate::{logging, print};

/// `steadfast demo`.
pub(crate) async fn demo(global: &Global, args: DemoArgs) -> Outcome {
    let dir = match args.dir {
        Some(dir) => dir,
        None => std::env::temp_dir().join(format!("steadfast-demo-{}", std::process::id())),
    };
    let dir = std::path::absolute(&dir).map_err(|error| failed("cannot find the folder", &error))?;
    let occupied = dir.read_dir().is_ok_and(|mut entries| entries.next().is_some());
    if occupied || dir.is_file() {
        return Err(Failure::Usage(format!("{} exists and is not empty; choose another --dir", dir.display())));
    }
    let idea = dir.join("002-feature.md");
    let repo = dir.join("project");
    lay_out(&dir, &repo, &idea).map_err(|error| failed(&format!("cannot lay out {}", dir.display()), &error))?;
    steadfast_repo::Repository::init_with_files(&repo, "Begin the sample project")
        .map_err(|error| failed("cannot make the sample repository", &error))?;

    let server = Sim::start(([127, 0, 0, 1], 0).into(), sample::script())
        .map_err(|error| failed("cannot start the simulated models", &error))?;
    let config = dir.join("steadfast.toml");
    std::fs::write(&config, configuration(&server.base_url(), &dir))
        .map_err(|error| failed("cannot write the configuration", &error))?;

    note(&format!(
        "A sample project lies in {}. Simulated models answer on {}, and fail on a schedule:\n\
         watch a failover, a breaker that opens and recovers, a review that is not content, and one file that no model \
         can write.\n",
        repo.display(),
        server.base_url()
    ));
    let global = Global { config: vec![config.clone()], state_dir: None, ..global.clone() };
    let setup = Setup::load(&global)?;
    logging::start(global.log.as_deref(), None, setup.config.log.format)?;
    let submission = prepare(read_idea(&idea)?, repo.clone(), false).await?;
    let (settings, keeper) = (setup.settings()?, setup.open_store().await?);
    let session = submission.session.id.clone();
    let outcome = Foreground::begin(setup, settings, keeper).await?.submit(&global, submission).await;
    let n_requests = server.total();
    server.stop().await;
    if !global.json {
        print(&closing(&config, &repo, session.as_str(), n_requests));
    }
    outcome
}

fn lay_out(dir: &Path, repo: &Path, idea: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(dir)?;
    for (path, bytes) in sample::files() {
        let path = repo.join(path);
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent)?;
        }
        std::fs::write(path, bytes)?;
    }
    std::fs::write(idea, sample::idea())
}

/// Short times, so that what takes minutes in earnest takes seconds here.
fn configuration(base_url: &str, dir: &Path) -> String {
    let quoted: Vec<String> = sample::checks().iter().map(|check| format!("{check:?}")).collect();
    format!(
        "# The demo's configuration: short times, so that what takes minutes in earnest takes seconds.\n\
         [daemon]\nstate_dir = {state:?}\n\n\
         [failover]\nfailure_threshold = 3\nreset_timeout = \"1500ms\"\nmax_retries = 3\n\
         backoff = {{ initial = \"50ms\", max = \"400ms\" }}\noutage_patience = \"5s\"\n\n\
         [session]\nmax_parallel_agents = 4\nchecks = [{checks}]\n\
         # The simulated models write only the bundled files; checks of real models' code want \"bwrap\".\n\
         checks_sandbox = \"none\"\n\n\
         [providers.opencode]\nkind = \"openai\"\nbase_url = {base_url:?}\napi_key_env = \"none\"\n",
        state = state_dir(dir).to_string_lossy(),
        checks = quoted.join(", "),
    )
}

fn state_dir(dir: &Path) -> PathBuf {
    dir.join("state")
}

fn closing(config: &Path, repo: &Path, session: &str, n_requests: u64) -> String {
    let program = std::env::current_exe().map_or_else(|_| "steadfast".to_owned(), |path| path.display().to_string());
    format!(
        "\nThat was the real engine: {n_requests} HTTP requests, each answer on disk before it was used.\n\n\
         Look around:\n  \
         git -C {repo} log --stat steadfast/002-feature\n  \
         {program} --config {config} show {session}\n  \
         {program} --config {config} status\n  \
         {program} --config {config} outbox list\n\n\
         Then with your own models: steadfast config check, and steadfast run IDEA.md --repo DIR\n",
        repo = repo.display(),
        config = config.display(),
    )
}
