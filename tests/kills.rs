//! `kill -9` at any instant: what is resumed ends as if nothing had happened, and pays for no answer twice (SPEC 7).

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;
use steadfast_sim::End;

use crate::support::{Running, World, milestone, rule, wait_until};

const BRANCH: &str = "steadfast/002-feature";
/// With a check there is a worktree; without one the files stay in memory.
const CHECK: &str = "[\"test -e README.md\"]";

/// Three milestones of every kind: files made, changed and deleted, a first review that is not content, a file that no
/// model writes. The answers take a while, so that there are instants of every kind to be killed in.
fn script() -> String {
    "latency = \"40ms\"\njitter = \"30ms\"\nchunk = 16\ninterval = \"1ms\"\n".to_owned()
        + &milestone("First", &["a.js", "b.py", "c.rs"], &["src/kept.txt"], &[])
        + &milestone("Second", &["d.js", "lost.js", "e.js"], &["README.md"], &["src/old.txt"])
        + &milestone("Third", &["f.js"], &["a.js"], &[])
        + &rule("role = \"coder\", file = \"lost.js\"", "", "{ status = 400 }")
        + &rule("role = \"reviewer\", milestone = 1, prompt = \"b = 'again'\"", "", "{ generate = \"approve\" }")
        + &rule(
            "role = \"reviewer\", milestone = 1",
            "",
            "{ review = { approved = false, issues = [{ issue = \"Again.\", file = \"b.py\" }] } }",
        )
        + &rule("role = \"coder\", file = \"b.py\", prompt = \"Again.\"", "", "{ file = \"b = 'again'\\n\" }")
}

/// One agent at a time makes a milestone last far longer than the last moments whose answers may be lost, so that a
/// forgotten answer shows.
fn world(n_agents: &str, checks: &str) -> World {
    let settings = [("session.checks", checks), ("session.max_parallel_agents", n_agents)];
    World::new(&script(), &settings)
}

/// Issues by kind and title; the same from the report and from the tracker's folder.
fn issues(world: &World, report: &Value) -> Vec<String> {
    let issues = report["issues"].as_array().unwrap();
    let files = std::fs::read_dir(world.state().join("issues")).unwrap().count();
    assert_eq!(files, issues.len(), "one file for each issue: {report:#}");
    assert!(issues.iter().all(|issue| issue["delivered"] == true), "{issues:?}");
    issues.iter().map(|issue| format!("{} {}", issue["kind"], issue["title"])).collect()
}

/// Goes on with what there is, or begins, when the process was killed before the session was on disk.
fn go_on(world: &World) -> Running {
    let known = world.steadfast(&["sessions", "--json"]).expect(0).json();
    match known.as_array().unwrap().len() {
        0 => world.start_run(),
        1 => world.start(&["resume", "--json"]),
        n => panic!("{n} sessions of one idea"),
    }
}

/// No answer that had been delivered more than 100 ms before a kill is asked for again. Times since the server's start.
fn nothing_was_bought_twice(world: &World, kills: &[Duration]) {
    let mut bought = BTreeMap::new();
    for request in world.sim.requests() {
        if request.end != End::Sent || request.status != 200 {
            continue;
        }
        // What was asked, in which round of fixes and after which try: the prompt tells.
        let question = (request.role, request.milestone, request.file, request.prompt);
        let (asked, ended) = (request.at, request.ended.unwrap());
        if let Some((first_asked, first_ended)) = bought.insert(question.clone(), (asked, ended)) {
            // Under way when the process was killed, or answered just then; the two clocks differ by a little.
            let lost = kills.iter().any(|kill| {
                first_asked < *kill + Duration::from_millis(50) && *kill < first_ended + Duration::from_millis(100)
            });
            let (role, milestone, file, _) = question;
            assert!(
                lost,
                "{role:?} {milestone:?} {file:?}: answered at {first_ended:?}, and asked at {asked:?}; {kills:?}"
            );
        }
    }
}

/// A small generator (splitmix64), so that a run that fails can be repeated by its seed.
fn random(state: &mut u64) -> f64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((z ^ (z >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
}

/// Kills the same work so many times, each time somewhere in the next stretch of it, and compares its end with that of
/// undisturbed work.
fn killed_and_resumed(seed: u64, n_kills: u32, n_agents: &str, checks: &str, kill: fn(&Running)) {
    let calm = world(n_agents, checks);
    let calm_report = calm.run().expect(0).json();
    let calm_calls = calm.sim.total();

    let begun = Instant::now();
    let world = world(n_agents, checks);
    let mut state = seed;
    let mut kills = Vec::new();
    let mut running = world.start_run();
    for n in 1..=n_kills {
        // Paced by what the work has come to, not by the clock: a slow machine is killed in the same places.
        let target = (f64::from(n - 1) + random(&mut state)) / f64::from(n_kills) * calm_calls as f64;
        wait_until("the work comes so far, or ends", || {
            (world.sim.total() as f64 >= target || running.has_ended()).then_some(())
        });
        // Then anywhere between two events.
        let moment = Instant::now() + Duration::from_micros((random(&mut state) * 60_000.0) as u64);
        while Instant::now() < moment {
            std::hint::spin_loop();
        }
        kill(&running);
        kills.push(begun.elapsed());
        let _ = running.end();
        running = go_on(&world);
    }
    let report = match running.output() {
        output if output.status.code() == Some(0) => output.json(),
        // It was over already when the last kill came, so there was nothing to go on with.
        output => {
            assert!(output.stderr.contains("there is no session to go on with"), "seed {seed}: {}", output.stderr);
            world.steadfast(&["show", "002-feature", "--json"]).expect(0).json()
        }
    };
    assert_eq!(report["phase"], "completed", "seed {seed}");
    assert_eq!(world.history(BRANCH), calm.history(BRANCH), "seed {seed}");
    assert_eq!(issues(&world, &report), issues(&calm, &calm_report), "seed {seed}");
    assert_eq!(report["milestones"][1]["verdict"], calm_report["milestones"][1]["verdict"]);
    nothing_was_bought_twice(&world, &kills);
    assert!(!world.state().join("worktrees").read_dir().is_ok_and(|mut left| left.next().is_some()), "seed {seed}");
}

#[test]
fn killed_four_times_it_ends_as_if_undisturbed() {
    killed_and_resumed(1, 4, "1", CHECK, |running| running.signal(Signal::KILL));
}

#[test]
fn killed_four_times_with_agents_side_by_side_and_no_worktree_it_ends_as_if_undisturbed() {
    killed_and_resumed(2, 4, "4", "[]", |running| running.signal(Signal::KILL));
}

#[test]
fn killed_with_its_whole_group_it_ends_as_if_undisturbed() {
    killed_and_resumed(3, 4, "1", CHECK, |running| running.signal_group(Signal::KILL));
}

/// The long run: `cargo test -p steadfast --test program -- --ignored --nocapture a_thousand_kills`. How many, and from which
/// seed on: `STEADFAST_KILLS`, `STEADFAST_SEED`. It stops at the first session that does not end as undisturbed, and names
/// its seed.
#[test]
#[ignore = "takes ten minutes or more; shorter ones of the same kind run always"]
fn a_thousand_kills_lose_and_double_nothing() {
    const A_SESSION: u32 = 8;
    let number = |name: &str, otherwise: u64| {
        std::env::var(name).map_or(otherwise, |text| text.parse().unwrap_or_else(|_| panic!("{name} is no number")))
    };
    let (wanted, first) = (number("STEADFAST_KILLS", 1_000), number("STEADFAST_SEED", 1));
    let n_sessions = wanted.div_ceil(u64::from(A_SESSION));
    for seed in first..first + n_sessions {
        let (n_agents, checks) = [("1", CHECK), ("4", "[]"), ("4", CHECK), ("1", "[]")][(seed % 4) as usize];
        let (whom, kill): (&str, fn(&Running)) = if seed % 3 == 0 {
            ("its group", |running| running.signal_group(Signal::KILL))
        } else {
            ("the process", |running| running.signal(Signal::KILL))
        };
        killed_and_resumed(seed, A_SESSION, n_agents, checks, kill);
        let so_far = (seed - first + 1) * u64::from(A_SESSION);
        println!(
            "seed {seed}: {A_SESSION} kills of {whom}, {n_agents} agent(s), checks {checks}: whole. {so_far} kills so far"
        );
    }
    println!(
        "{n_sessions} sessions, {} kills: 0 lost or doubled commits and issues, 0 that cannot resume, 0 answers asked twice",
        n_sessions * u64::from(A_SESSION)
    );
}

#[test]
fn a_session_killed_in_a_check_is_resumed_by_its_idea_in_the_environment() {
    let mut world = World::new(
        &milestone("First", &["a.js"], &[], &[]),
        // Passes at once before any change, then waits for a file that only the test makes.
        &[(
            "session.checks",
            "[\"test ! -e a.js || test -e ../../../go || { echo $$ > ../../../waits; sleep 600; }\"]",
        )],
    );
    let running = world.start_run();
    let check = wait_until("the check", || {
        let text = std::fs::read_to_string(world.path("waits")).ok()?;
        text.strip_suffix('\n')?.parse().ok().and_then(rustix::process::Pid::from_raw)
    });
    running.signal_group(Signal::KILL);
    let _ = running.end();
    let calls = world.sim.total();
    std::fs::write(world.path("go"), "").unwrap();

    world.env.insert("RESUME".to_owned(), "true".to_owned());
    let unnamed = world.steadfast(&["run", "--json"]).expect(2);
    assert!(unnamed.stderr.contains("IDEA_ID"), "{}", unnamed.stderr);
    world.env.insert("IDEA_ID".to_owned(), "003-other".to_owned());
    let unknown = world.steadfast(&["run", "--json"]).expect(2);
    assert!(unknown.stderr.contains("003-other"), "{}", unknown.stderr);
    world.env.insert("IDEA_ID".to_owned(), "002-feature".to_owned());
    let report = world.steadfast(&["run", "--json"]).expect(0).json();
    assert_eq!(report["phase"], "completed");
    assert_eq!(report["milestones"][0]["checks"][0]["passed"], true);
    // The check that the killed process left running does not write to the worktree of its successor.
    wait_until("the left check's end", || (!crate::support::is_alive(check)).then_some(()));
    // Only the review was still to be bought.
    assert_eq!(world.sim.total(), calls + 1);
    assert_eq!(world.messages(BRANCH).len(), 1);
}

#[test]
fn answers_that_came_before_a_kill_are_used_after_it_and_not_bought_again() {
    let script = milestone("First", &["a.js", "b.js", "c.js", "d.js"], &[], &[])
        + &rule("role = \"coder\", file = \"d.js\"", "first = 1", "{ fault = \"hang\" }");
    let world = World::new(&script, &[]);
    let running = world.start_run();
    let answered = || world.asked("coder").iter().filter(|request| request.end == End::Sent).count();
    wait_until("three answers and a call that hangs", || {
        (answered() == 3 && world.asked("coder").len() == 4).then_some(())
    });
    // An answer that came in the last moments may still be on its way to the disk.
    let arrived = Instant::now();
    wait_until("the last moments pass", || (arrived.elapsed() > Duration::from_millis(100)).then_some(()));
    running.signal(Signal::KILL);
    let _ = running.end();
    let output = world.steadfast(&["resume", "--json"]).expect(0);
    assert_eq!(output.json()["milestones"][0]["verdict"], "perfect");
    let files: Vec<String> = world.asked("coder").into_iter().filter_map(|request| request.file).collect();
    let times = |file: &str| files.iter().filter(|asked| *asked == file).count();
    assert_eq!(["a.js", "b.js", "c.js", "d.js"].map(times), [1, 1, 1, 2]);
    assert_eq!(output.stderr.matches("uses the answer that sim/one had given before").count(), 3, "{}", output.stderr);
}

#[test]
fn what_was_killed_shows_as_it_stands_and_does_not_begin_a_second_time() {
    let script =
        milestone("First", &["a.js"], &[], &[]) + &rule("role = \"coder\"", "first = 1", "{ fault = \"hang\" }");
    let world = World::new(&script, &[]);
    let running = world.start_run();
    wait_until("a call", || (world.asked("coder").len() == 1).then_some(()));
    running.signal(Signal::KILL);
    let _ = running.end();
    assert_eq!(world.status()["sessions"]["interrupted"], 1);
    let report = world.steadfast(&["show", "002-feature", "--json"]).expect(0).json();
    assert_eq!((&report["phase"], &report["success"]), (&Value::from("implementing"), &Value::from(false)));

    let again = world.run().expect(2);
    assert!(again.stderr.contains("steadfast resume"), "{}", again.stderr);
    let report = world.steadfast(&["resume", "002-feature", "--json"]).expect(0).json();
    assert_eq!(report["phase"], "completed");
    // The call that hung brought nothing, so it was made again; the plan was not.
    assert_eq!((world.asked("planner").len(), world.asked("coder").len()), (1, 2));
}
