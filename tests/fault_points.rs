//! A process that kills itself at each of the points of `steadfast-fault-point`, which stand before and after every durable
//! step: what is resumed ends as if nothing had happened, and pays for no answer twice (SPEC 7).
//!
//! Three stretches of work come by every point: one with checks, in a worktree, whose issues go to GitHub and whose alerts
//! to a webhook; and one without, whose store tidies up all the time, first up to the end of its budget, and then from
//! there on. A first, undisturbed walk counts how often each point is come by. Then each case is that walk again, with
//! one `SIGKILL` at one arrival, and for some of them another one at the same point of the process that goes on.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{LazyLock, Mutex};
use std::time::{Duration, Instant};

use serde_json::Value;
use steadfast_fault_point::Point;
use steadfast_sim::End;
use steadfast_store::{CheckpointStore as _, OpenOptions, Prefix, Scan, SledStore};

use crate::alerts::Hook;
use crate::github::with_github;
use crate::github_server::GithubServer;
use crate::support::{Output, World, files_under, milestone, rule, wait_until};

const BRANCH: &str = "steadfast/002-feature";
const KILL: i32 = 9;
/// Nothing durable is done there: the watchdog's tests use it.
const NO_STEP: [Point; 2] = [Point::SupervisorPing, Point::Watching];
/// Cases at a time: a delivery that is looked for before it is repeated waits for two seconds, and nobody else should.
const N_SIDE_BY_SIDE: usize = 6;

/// A piece of work that one process does when nothing disturbs it.
struct Stretch {
    /// Its name, for the report of a case.
    name: &'static str,
    /// `session.max_calls`.
    max_calls: &'static str,
    /// How the process ends.
    code: i32,
}

struct Scenario {
    script: String,
    checks: &'static str,
    /// Issues go to GitHub and alerts to a webhook, else issues to a folder.
    is_outside: bool,
    /// The store tidies up at once.
    is_hasty: bool,
    stretches: Vec<Stretch>,
}

/// A first review that is not content, a file that no model writes, a file that goes, a milestone that nobody writes.
fn scenarios() -> [Scenario; 2] {
    let outside = milestone("First", &["a.js", "b.py"], &["src/kept.txt"], &["src/old.txt"])
        + &milestone("Second", &["d.js", "lost.js", "e.js"], &[], &[])
        + &milestone("Third", &["manual.js"], &[], &[])
        + &rule("role = \"coder\", file = \"lost.js\"", "", "{ status = 400 }")
        + &rule("role = \"coder\", file = \"manual.js\"", "", "{ status = 400 }")
        + &rule("role = \"reviewer\", milestone = 1, prompt = \"b = 'again'\"", "", "{ generate = \"approve\" }")
        + &rule(
            "role = \"reviewer\", milestone = 1",
            "",
            "{ review = { approved = false, issues = [{ issue = \"Again.\", file = \"b.py\" }] } }",
        )
        + &rule("role = \"coder\", file = \"b.py\", prompt = \"Again.\"", "", "{ file = \"b = 'again'\\n\" }");
    // Time for the store to tidy up in.
    let folder = "latency = \"60ms\"\n".to_owned()
        + &milestone("First", &["a.js", "b.js"], &["src/kept.txt"], &["src/old.txt"])
        + &milestone("Second", &["d.js", "lost.js", "e.js"], &[], &[])
        + &rule("role = \"coder\", file = \"lost.js\"", "", "{ status = 400 }");
    [
        Scenario {
            script: outside,
            checks: "[\"test -e README.md\"]",
            is_outside: true,
            is_hasty: false,
            stretches: vec![Stretch { name: "outside", max_calls: "99", code: 0 }],
        },
        Scenario {
            script: folder,
            checks: "[]",
            is_outside: false,
            is_hasty: true,
            stretches: vec![
                Stretch { name: "budget", max_calls: "3", code: 75 },
                Stretch { name: "folder", max_calls: "99", code: 0 },
            ],
        },
    ]
}

/// A world in which a scenario is walked once.
struct Walk {
    world: World,
    github: Option<GithubServer>,
    hook: Option<Hook>,
    /// Answers that the models gave and that a kill took away before they were on disk.
    lost: usize,
    n_kills: usize,
}

/// What must be the same however often it was killed.
#[derive(Debug, PartialEq)]
struct Ending {
    /// Trees and messages, oldest first, without the session's id.
    history: Vec<(BTreeMap<String, String>, String)>,
    /// Kind, title, state, number of comments or of closings.
    issues: Vec<(String, String, String, usize)>,
    /// By id, without the session's.
    alerts: BTreeSet<String>,
    milestones: Value,
    /// Answers that were bought and not lost.
    n_answers: usize,
}

impl Walk {
    fn begin(scenario: &Scenario) -> Self {
        // One agent at a time: the same arrivals each time.
        // What a stand-in has done stays: a daemon that tries to have it done properly is at work again at a moment that no
        // two walks share.
        let settings =
            [("session.checks", scenario.checks), ("session.max_parallel_agents", "1"), ("failover.redeem", "false")];
        let (mut world, github, hook) = if scenario.is_outside {
            let (mut world, github) = with_github(&scenario.script, &settings);
            let hook = Hook::start(0);
            world.env.insert("STEADFAST_ALERTS__WEBHOOK".to_owned(), hook.address.clone());
            (world, Some(github), Some(hook))
        } else {
            (World::new(&scenario.script, &settings), None, None)
        };
        if scenario.is_hasty {
            world.env.insert("STEADFAST_TEST_HASTE".to_owned(), "1".to_owned());
        }
        Self { world, github, hook, lost: 0, n_kills: 0 }
    }

    /// Sessions in the store, and answers of theirs; `None` where a session is packed, so that its answers are gone.
    fn saved(&self) -> (usize, Option<usize>) {
        let options = OpenOptions { lock_wait: Duration::from_secs(20) };
        let dir = self.world.state().join("store");
        if !dir.is_dir() {
            return (0, Some(0));
        }
        let (store, report) = SledStore::open_for_reading(&dir, &options).unwrap();
        assert!(!report.lost, "{report:?}");
        let keys = store.keys(&Scan::all(Prefix::everything())).unwrap();
        let n_heads = keys.iter().filter(|key| key.as_str().starts_with("h/")).count();
        let count = |start: &str| {
            keys.iter().filter(|key| key.as_str().starts_with("p/") && key.name().starts_with(start)).count()
        };
        let is_packed = n_heads > 0 && count("idea") == 0;
        (n_heads, (!is_packed).then(|| count("a/")))
    }

    fn n_bought(&self) -> usize {
        // Whose reader was killed has no end until the server notices.
        let requests = wait_until("the end of all calls", || {
            let requests = self.world.sim.requests();
            requests.iter().all(|request| request.ended.is_some()).then_some(requests)
        });
        requests.iter().filter(|request| request.end == End::Sent && request.status == 200).count()
    }

    fn was_killed(&mut self) {
        self.n_kills += 1;
        let (_, answers) = self.saved();
        if let Some(answers) = answers {
            self.lost = self.n_bought() - answers;
        }
    }

    /// Starts what there is to do: the session is begun, or gone on with. `None`: it is over.
    fn process(&mut self, stretch: &Stretch, fault: Option<&str>) -> Option<Output> {
        let env = &mut self.world.env;
        env.insert("STEADFAST_SESSION__MAX_CALLS".to_owned(), stretch.max_calls.to_owned());
        match fault {
            Some(fault) => env.insert("STEADFAST_TEST_FAULT".to_owned(), fault.to_owned()),
            None => env.remove("STEADFAST_TEST_FAULT"),
        };
        let (n_sessions, _) = self.saved();
        let output = match n_sessions {
            0 => self.world.run(),
            1 => self.world.steadfast(&["resume", "--json"]),
            n => panic!("{n} sessions of one idea"),
        };
        (!output.stderr.contains("there is no session to go on with")).then_some(output)
    }

    /// A stretch to its end, killed as told: by each process's fault in turn.
    fn stretch(&mut self, stretch: &Stretch, faults: &[&str]) {
        let mut faults = faults.iter();
        loop {
            let output = self.process(stretch, faults.next().copied());
            self.world.env.remove("STEADFAST_TEST_FAULT");
            match output {
                Some(output) if output.status.signal() == Some(KILL) => self.was_killed(),
                Some(output) => {
                    output.expect(stretch.code);
                    return;
                }
                None => return,
            }
        }
    }

    fn end(&mut self) -> Ending {
        if self.n_kills > 0 {
            // What was killed after the last transition of its session has left what every start puts in order.
            let daemon = self.world.start_daemon();
            wait_until("all deliveries", || (self.world.status()["outbox"]["undelivered"] == 0).then_some(()));
            daemon.signal(rustix::process::Signal::TERM);
            daemon.output().expect(0);
        }
        self.leaves_nothing_behind();
        let report = self.world.steadfast(&["show", "002-feature", "--json"]).expect(0).json();
        assert_eq!(report["phase"], "completed");
        let waiting = self.world.steadfast(&["outbox", "list", "--json"]).expect(0).json();
        let waiting: Vec<&Value> =
            waiting.as_array().unwrap().iter().filter(|entry| entry["delivered"] != true).collect();
        assert!(waiting.is_empty(), "{waiting:?}");
        let mut milestones = report["milestones"].clone();
        for milestone in milestones.as_array_mut().unwrap() {
            let milestone = milestone.as_object_mut().unwrap();
            milestone.retain(|key, _| ["name", "status", "verdict", "approved", "files"].contains(&key.as_str()));
            for file in milestone.get_mut("files").and_then(Value::as_array_mut).into_iter().flatten() {
                file.as_object_mut().unwrap().retain(|key, _| ["path", "status"].contains(&key.as_str()));
            }
        }
        let session = report["sessionId"].as_str().unwrap();
        Ending {
            history: self.world.history(BRANCH),
            issues: self.issues(&report),
            alerts: self.alerts(session),
            milestones,
            n_answers: self.n_bought() - self.lost,
        }
    }

    /// Issues as they lie at the tracker, each known to the report by its address.
    fn issues(&self, report: &Value) -> Vec<(String, String, String, usize)> {
        let told = report["issues"].as_array().unwrap();
        let of_url = |url: &str| {
            let of_url: Vec<&Value> = told.iter().filter(|issue| issue["url"] == url).collect();
            assert_eq!(of_url.len(), 1, "{url} in {told:?}");
            (of_url[0]["kind"].as_str().unwrap().to_owned(), of_url[0]["title"].as_str().unwrap().to_owned())
        };
        let mut issues: Vec<(String, String, String, usize)> = match &self.github {
            Some(github) => github
                .issues()
                .iter()
                .map(|issue| {
                    let (kind, title) = of_url(issue["html_url"].as_str().unwrap());
                    let comments = github.comments(issue["number"].as_u64().unwrap()).len();
                    (kind, title, issue["state"].as_str().unwrap().to_owned(), comments)
                })
                .collect(),
            None => std::fs::read_dir(self.world.state().join("issues"))
                .unwrap()
                .map(|entry| {
                    let path = entry.unwrap().path();
                    let text = std::fs::read_to_string(&path).unwrap();
                    let (kind, title) = of_url(&format!("file://{}", path.display()));
                    let state = if text.contains("\nStatus: closed") { "closed" } else { "open" };
                    (kind, title, state.to_owned(), text.matches("\n## Closed\n").count())
                })
                .collect(),
        };
        assert_eq!(issues.len(), told.len(), "{told:?}");
        issues.sort();
        issues
    }

    /// No receiver can be asked whether it has an alert, so one may come twice: with the same id.
    fn alerts(&self, session: &str) -> BTreeSet<String> {
        let Some(hook) = &self.hook else { return BTreeSet::new() };
        hook.all().iter().map(|alert| alert["id"].as_str().unwrap().replace(session, "SESSION")).collect()
    }

    fn leaves_nothing_behind(&self) {
        let git = self.world.repo().join(".git");
        let worktrees = self.world.state().join("worktrees");
        let mut left = names(&worktrees, 1);
        left.extend(names(&git.join("worktrees"), 1));
        left.extend(names(&git, 9).into_iter().filter(|name| name.ends_with(".lock")));
        // A copy of the tree that is cut off by the end of its process is the next opening's to remove, and may lie there.
        let is_unfinished = |name: &String| name.ends_with(".tmp");
        left.extend(names(&self.world.state(), 3).into_iter().filter(is_unfinished));
        assert!(left.is_empty(), "{left:?}");
    }
}

/// Paths below a folder, so many levels down.
fn names(folder: &Path, depth: usize) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten() {
        let path = entry.unwrap().path();
        if depth > 1 && path.is_dir() {
            found.extend(names(&path, depth - 1));
        }
        found.push(path.display().to_string());
    }
    found
}

/// How often each point is come by, by stretch.
type Arrivals = Vec<BTreeMap<&'static str, usize>>;

struct Calm {
    scenario: Scenario,
    arrivals: Arrivals,
    ending: Ending,
}

/// The undisturbed walks, made once.
static CALM: LazyLock<Vec<Calm>> = LazyLock::new(|| {
    let walk = |scenario: Scenario| {
        let mut walk = Walk::begin(&scenario);
        let mut arrivals = Arrivals::new();
        for stretch in &scenario.stretches {
            let file = walk.world.path(&format!("arrivals-{}", stretch.name));
            walk.world.env.insert("STEADFAST_TEST_ARRIVALS".to_owned(), file.display().to_string());
            walk.stretch(stretch, &[]);
            walk.world.env.remove("STEADFAST_TEST_ARRIVALS");
            let mut counts = BTreeMap::new();
            for line in std::fs::read_to_string(file).unwrap().lines() {
                *counts.entry(Point::named(line).unwrap().name()).or_default() += 1;
            }
            arrivals.push(counts);
        }
        let ending = walk.end();
        drop(walk);
        Calm { scenario, arrivals, ending }
    };
    scenarios().into_iter().map(walk).collect()
});

/// One walk with its kills.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Case {
    scenario: usize,
    stretch: usize,
    point: &'static str,
    /// Which arrival, from 1.
    at: usize,
    /// The process that goes on is killed when it first comes by the same point.
    twice: bool,
}

impl Case {
    fn name(&self) -> String {
        let stretch = CALM[self.scenario].scenario.stretches[self.stretch].name;
        format!("{stretch}: {}@{}{}", self.point, self.at, if self.twice { ", twice" } else { "" })
    }

    /// How many kills there were.
    fn walk(&self) -> usize {
        let calm = &CALM[self.scenario];
        let mut walk = Walk::begin(&calm.scenario);
        let (first, again) = (format!("{}=kill@{}", self.point, self.at), format!("{}=kill@1", self.point));
        for (number, stretch) in calm.scenario.stretches.iter().enumerate() {
            match number == self.stretch {
                true if self.twice => walk.stretch(stretch, &[&first, &again]),
                true => walk.stretch(stretch, &[&first]),
                false => walk.stretch(stretch, &[]),
            }
        }
        assert_eq!(walk.end(), calm.ending);
        walk.n_kills
    }
}

/// Walks all cases, some side by side. Answers the kills by point.
fn walk_all(cases: &[Case]) -> BTreeMap<&'static str, usize> {
    let (next, kills, failed) = (AtomicUsize::new(0), Mutex::new(BTreeMap::new()), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..N_SIDE_BY_SIDE {
            scope.spawn(|| {
                while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let begun = Instant::now();
                    match std::panic::catch_unwind(|| case.walk()) {
                        Ok(n) => {
                            let took = begun.elapsed().as_secs_f32();
                            let line = format!(
                                "{}: {n} kill(s), as undisturbed; {took:.1} s
",
                                case.name()
                            );
                            std::io::stderr().write_all(line.as_bytes()).unwrap();
                            *kills.lock().unwrap().entry(case.point).or_default() += n;
                        }
                        Err(panic) => {
                            let text = panic.downcast_ref::<String>().map(String::as_str);
                            let text = text.or(panic.downcast_ref::<&str>().copied()).unwrap_or("a panic");
                            failed.lock().unwrap().push(format!("{}: {text}", case.name()));
                        }
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().unwrap();
    assert!(failed.is_empty(), "{} of {} cases:\n{}", failed.len(), cases.len(), failed.join("\n\n"));
    kills.into_inner().unwrap()
}

/// Every arrival of the undisturbed walks.
fn arrivals() -> Vec<Case> {
    let mut all = Vec::new();
    for (scenario, calm) in CALM.iter().enumerate() {
        for (stretch, counts) in calm.arrivals.iter().enumerate() {
            for (point, n) in counts {
                all.extend((1..=*n).map(|at| Case { scenario, stretch, point, at, twice: false }));
            }
        }
    }
    all
}

fn is_walked(point: &Point) -> bool {
    !NO_STEP.contains(point)
}

#[test]
fn the_walks_come_by_every_point() {
    let reached: BTreeSet<&str> = arrivals().iter().map(|case| case.point).collect();
    let missed: Vec<&str> = Point::ALL.iter().filter(|point| is_walked(point)).map(|point| point.name()).collect();
    let missed: Vec<&&str> = missed.iter().filter(|point| !reached.contains(**point)).collect();
    assert!(missed.is_empty(), "no walk comes by {missed:?}");
}

/// The first arrival at each point, where the process that goes on is killed there once more, and the last one.
#[test]
fn killed_at_any_point_it_ends_as_if_undisturbed() {
    let all = arrivals();
    let mut cases = BTreeSet::new();
    for point in Point::ALL.iter().filter(|point| is_walked(point)) {
        let mut here = all.iter().filter(|case| case.point == point.name());
        cases.extend(here.clone().next().map(|case| Case { twice: true, ..*case }));
        cases.extend(here.next_back());
    }
    let cases: Vec<Case> = cases.into_iter().collect();
    let kills = walk_all(&cases);
    for point in Point::ALL.iter().filter(|point| is_walked(point)) {
        assert!(kills.get(point.name()).is_some_and(|n| *n > 0), "nothing was killed at {}", point.name());
    }
}

/// The long run: `cargo test -p steadfast --test program -- --ignored --nocapture killed_at_every_arrival`. Only points
/// whose names begin so: `STEADFAST_POINTS`.
#[test]
#[ignore = "takes half an hour or more; a shorter one of the same kind runs always"]
fn killed_at_every_arrival_at_every_point_it_ends_as_if_undisturbed() {
    let wanted = std::env::var("STEADFAST_POINTS").unwrap_or_default();
    let all = arrivals().into_iter().filter(|case| case.point.starts_with(&wanted));
    let cases: Vec<Case> = all.flat_map(|case| [case, Case { twice: true, ..case }]).collect();
    let kills = walk_all(&cases);
    let (n_points, n_kills) = (kills.len(), kills.values().sum::<usize>());
    println!(
        "{} walks, {n_kills} kills at {n_points} points: 0 lost or doubled commits and issues, 0 that cannot resume, 0 saved \
         answers asked for again",
        cases.len()
    );
}

/// Copies a folder; sockets stay behind, as nobody listens on a copy.
fn copy(from: &Path, to: &Path) {
    std::fs::create_dir(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let (kind, to) = (entry.file_type().unwrap(), to.join(entry.file_name()));
        if kind.is_dir() {
            copy(&entry.path(), &to);
        } else if kind.is_file() {
            std::fs::copy(entry.path(), to).unwrap();
        }
    }
}

/// Stops a process at a point, has another one carry the session to its end in a copy of the state folder that has taken
/// its place, and lets the first one go on.
fn thought_dead(scenario: &Scenario, point: Point) {
    let fault = point.name();
    let mut walk = Walk::begin(scenario);
    let stretch = Stretch { name: "fenced", max_calls: "99", code: 0 };
    walk.world.env.insert("STEADFAST_SESSION__MAX_CALLS".to_owned(), stretch.max_calls.to_owned());
    walk.world.env.insert("STEADFAST_TEST_FAULT".to_owned(), format!("{fault}=stop@1"));
    let first = walk.world.start_run();
    wait_until(&format!("the stop at {fault}"), || first.is_stopped().then_some(()));
    walk.world.env.remove("STEADFAST_TEST_FAULT");
    // The kernel keeps the lock for a process that lives; what lets another one in is a lock that is lost, as with a folder
    // that was copied, or moved to another machine.
    std::fs::rename(walk.world.state(), walk.world.path("old-state")).unwrap();
    copy(&walk.world.path("old-state"), &walk.world.state());
    walk.stretch(&stretch, &[]);
    let look = |walk: &Walk| {
        let asked =
            walk.github.as_ref().map(|github| github.asked().iter().filter(|asked| asked.method != "GET").count());
        let heads = walk.hook.as_ref().map(|hook| hook.all().len());
        (files_under(&walk.world.state()), files_under(&walk.world.repo()), asked, heads)
    };
    let before = look(&walk);
    first.signal(rustix::process::Signal::CONT);
    let output = first.output();
    let after = look(&walk);
    let changed = |before: &BTreeMap<_, Vec<u8>>, after: &BTreeMap<_, Vec<u8>>| {
        let differ = |path: &&std::path::PathBuf| before.get(*path) != after.get(*path);
        before.keys().chain(after.keys()).filter(differ).cloned().collect::<BTreeSet<std::path::PathBuf>>()
    };
    let said = &output.stderr;
    assert_eq!(changed(&before.0, &after.0), BTreeSet::new(), "{fault}: {said}");
    assert_eq!(changed(&before.1, &after.1), BTreeSet::new(), "{fault}: {said}");
    assert_eq!((before.2, before.3), (after.2, after.3), "{fault}: requests; {said}");
    // There the session was over, or may have come to its end before all threads stood still: nothing was taken from it.
    if !matches!(point, Point::DeliveryBefore | Point::PackingBefore | Point::StoreClosing) {
        assert_eq!(output.status.code(), Some(1), "{fault}: {said}");
        assert!(said.contains("another process"), "{fault}: {said}");
    }
}

#[test]
fn a_process_that_was_thought_dead_commits_delivers_and_saves_nothing_any_more() {
    let [outside, folder] = scenarios();
    for point in [
        Point::ClaimBefore,
        Point::AnswerBefore,
        Point::ChecksBefore,
        Point::StoreJournalGrown,
        Point::CommitBefore,
        Point::StoreClosing,
    ] {
        thought_dead(&outside, point);
    }
    // While something is delivered the session works on: without a worktree, whose files are nobody's, its place is known.
    thought_dead(&Scenario { checks: "[]", ..outside }, Point::DeliveryBefore);
    for point in
        [Point::CommitBefore, Point::StoreFrozen, Point::DeliveryBefore, Point::PackingBefore, Point::StoreClosing]
    {
        thought_dead(&folder, point);
    }
}
