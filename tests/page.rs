//! The dashboard in a real browser, where there is one; and the command that leads to it.

mod browser;

use std::os::unix::fs::PermissionsExt as _;

use browser::{Browser, Page, browser};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::{World, milestone, rule, wait_until};

const DESK: (u32, u32) = (1280, 900);
const PHONE: (u32, u32) = (360, 740);

/// A world whose daemon serves HTTP on a free port.
fn world(script: &str, settings: &[(&str, &str)]) -> World {
    let listen = ("daemon.listen", "\"127.0.0.1:0\"");
    World::new(script, &[settings, &[listen]].concat())
}

/// What `dashboard` prints.
#[track_caller]
fn address(world: &World) -> String {
    let said = world.steadfast(&["dashboard", "--no-open"]).expect(0).stdout;
    said.strip_suffix('\n').unwrap().to_owned()
}

/// Has each start listen where the first one did, so that a page finds the daemon again.
fn keep_port(world: &mut World) {
    let at = world.status()["http"].as_str().unwrap().to_owned();
    let at = at.strip_prefix("http://").unwrap();
    world.replace("daemon.listen = \"127.0.0.1:0\"", &format!("daemon.listen = \"{at}\""));
}

/// The dashboard of this world, connected.
#[track_caller]
fn dashboard(browser: &std::sync::Arc<Browser>, world: &World, size: (u32, u32)) -> Page {
    let page = Page::open(browser, &address(world), size);
    page.wait("the connection", "document.querySelector('#conn-text').textContent === 'live'");
    page
}

/// Keeps every text that a part of the page has shown.
fn remember(page: &Page, selector: &str) {
    page.eval(&format!(
        "(() => {{ window.told = ''; const node = document.querySelector({selector:?}); const look = () => window.told += \
         node.innerText + '\\n'; new MutationObserver(look).observe(node, {{ subtree: true, childList: true, \
         characterData: true, attributes: true }}); look(); }})()"
    ));
}

/// The numbers of the feed's lines, as shown, and that none is there twice.
#[track_caller]
fn feed(page: &Page) -> Vec<u64> {
    let shown = page.eval("[...document.querySelectorAll('#feed-log li')].map(line => Number(line.dataset.id))");
    let shown: Vec<u64> = serde_json::from_value(shown).unwrap();
    assert!(shown.windows(2).all(|two| two[0] > two[1]), "newest first, each once: {shown:?}");
    shown
}

const DONE: &str =
    "[...document.querySelectorAll('#recent-list .pill')].some(pill => pill.textContent === 'completed')";

#[test]
fn a_session_is_watched_live_from_submit_to_done() {
    let Some(browser) = browser() else { return };
    let script = milestone("Write the routes", &["src/a.js", "src/b.js"], &[], &[])
        + &milestone("Say how", &["docs/how.md"], &[], &[])
        + &rule("role = \"planner\"", "", "{ delay = \"1s\" }")
        + &rule("role = \"coder\", file = \"src/a.js\"", "", "{ delay = \"1s\" }");
    let world = world(&script, &[]);
    let daemon = world.start_daemon();
    let page = dashboard(&browser, &world, DESK);
    assert_eq!(page.text("#now"), "Idle");
    assert!(page.text("#live-none").contains("steadfast submit IDEA.md --repo DIR"));
    remember(&page, "#col-a");
    let id = world.submit("idea.md");
    page.wait("the end", DONE);
    let told = page.eval("window.told");
    let told = told.as_str().unwrap();
    for part in [
        "planning",
        "implementing",
        "Milestone 1/2: Write the routes",
        "src/a.js",
        "asks sim/one",
        "Add what is missing",
    ] {
        assert!(told.contains(part), "{part} in {told}");
    }
    page.wait("an idle page again", "document.querySelector('#now').textContent === 'Idle'");
    assert_eq!(page.eval("document.querySelectorAll('#live-list > *').length"), 0);
    // The feed tells the story that the store keeps.
    let story = world.steadfast(&["events", &id, "--json"]).expect(0).json();
    let story: Vec<u64> = story.as_array().unwrap().iter().map(|event| event["id"].as_u64().unwrap()).collect();
    let shown = feed(&page);
    assert!(story.iter().all(|id| shown.contains(id)), "{story:?} {shown:?}");
    // And so does the session's own view, with its files and its commits.
    page.click("#recent-list button", "Add what is missing");
    page.wait("the report", "document.querySelectorAll('#d-miles .mile').length === 2");
    let detail = page.text("#detail");
    let commit = world.git().revparse_single("steadfast/002-feature").unwrap().id().to_string();
    for part in ["src/b.js", "by sim/one", &commit[..10], "approved", "is commit", &id] {
        assert!(detail.contains(part), "{part} in {detail}");
    }
    assert_eq!(page.faults(), Vec::<String>::new());
    daemon.stop();
}

#[test]
fn a_breaker_that_opens_is_shown_with_its_time_and_closed_by_the_button() {
    let Some(browser) = browser() else { return };
    let script =
        milestone("Write", &["a.js"], &[], &[]) + &rule("role = \"coder\", model = \"one\"", "", "{ status = 503 }");
    let settings =
        [("failover.failure_threshold", "1"), ("failover.reset_timeout", "\"10m\""), ("failover.max_retries", "1")];
    let world = world(&script, &settings);
    let daemon = world.start_daemon();
    let page = dashboard(&browser, &world, DESK);
    let pill = "document.querySelector('[data-model=\"sim/one\"] .pill').textContent";
    assert_eq!(page.eval(pill), "CLOSED");
    world.submit("idea.md");
    page.wait("an open breaker", &format!("{pill} === 'OPEN'"));
    page.wait(
        "its countdown",
        "/next test in 9 min \\d+ s/.test(document.querySelector('[data-model=\"sim/one\"]').textContent)",
    );
    page.wait(
        "a word to the operator",
        "document.querySelector('#needs').textContent.includes('sim/one is not asked')",
    );
    page.click("[data-model=\"sim/one\"] button", "Reset");
    page.wait("a closed breaker", &format!("{pill} === 'CLOSED'"));
    assert_eq!(world.coder_breaker(0), "CLOSED");
    page.wait("no need", "!document.querySelector('#needs').textContent.includes('sim/one is not asked')");
    // The rates tell of it: one answer of three came from a fallback, and a breaker opened.
    page.wait("the end", DONE);
    page.wait("the rates", "document.querySelector('[data-rate=breakerOpens] .value').textContent === '1 warning'");
    assert_eq!(page.text("[data-rate=fallback] .value"), "33 % critical");
    assert!(page.eval("document.querySelector('[data-rate=fallback] .chart-line').getTotalLength()").is_number());
    daemon.stop();
}

#[test]
fn a_session_is_cancelled_after_a_question_and_taken_up_again() {
    let Some(browser) = browser() else { return };
    let script =
        milestone("Write", &["a.js"], &[], &[]) + &rule("role = \"coder\"", "first = 1", "{ fault = \"hang\" }");
    let world = world(&script, &[]);
    let daemon = world.start_daemon();
    let page = dashboard(&browser, &world, DESK);
    let id = world.submit("idea.md");
    page.wait("the call", "document.querySelector('#live-list').textContent.includes('asks sim/one')");
    page.click("#live-list button", "Cancel");
    page.wait("the question", "document.querySelector('#ask').open");
    assert_eq!(page.eval("document.activeElement.id"), "ask-no", "what is harmless has the focus");
    page.click("#ask button", "Keep it running");
    assert_eq!(world.status()["sessions"]["active"], 1);
    page.click("#live-list button", "Cancel");
    page.click("#ask button", "Cancel session");
    page.wait("its end", "document.querySelector('#recent-list .pill')?.textContent === 'cancelled'");
    assert_eq!(world.status()["sessions"]["cancelled"], 1);
    page.click("#recent-list button", "Retry");
    page.wait("the end", DONE);
    assert_eq!(world.steadfast(&["show", &id, "--json"]).expect(0).json()["phase"], "completed");
    // What the daemon refuses is shown in its own words.
    page.eval("retry(document.createElement('button'), 's00000000000-aaaaaa')");
    page.wait(
        "the daemon's sentence",
        "document.querySelector('.toast.bad')?.textContent.includes('there is no session')",
    );
    daemon.stop();
}

#[test]
fn a_page_outlives_a_restart_of_the_daemon_and_shows_no_event_twice() {
    let Some(browser) = browser() else { return };
    let script =
        milestone("Write", &["a.js"], &[], &[]) + &rule("role = \"coder\"", "first = 1", "{ fault = \"hang\" }");
    let mut world = world(&script, &[]);
    let daemon = world.start_daemon();
    keep_port(&mut world);
    let page = dashboard(&browser, &world, DESK);
    let id = world.submit("idea.md");
    page.wait("the call", "document.querySelector('#live-list').textContent.includes('asks sim/one')");
    let before = feed(&page);
    daemon.kill_with(Signal::KILL);
    page.wait("the loss", "document.querySelector('#conn-text').textContent.startsWith('no connection')");
    let daemon = world.start_daemon();
    page.wait("the connection", "document.querySelector('#conn-text').textContent === 'live'");
    page.wait("the end", DONE);
    let shown = feed(&page);
    assert!(before.iter().all(|id| shown.contains(id)), "what was seen stays: {before:?} {shown:?}");
    let story = world.steadfast(&["events", &id, "--json"]).expect(0).json();
    let story: Vec<u64> = story.as_array().unwrap().iter().map(|event| event["id"].as_u64().unwrap()).collect();
    let missing = || story.iter().find(|id| !feed(&page).contains(id)).copied();
    wait_until("the events of the time between", || missing().is_none().then_some(()));
    assert_eq!(page.faults(), Vec::<String>::new());
    daemon.stop();
}

/// Names that stretch a page and names that want to be scripts. The paths are ones that a plan may have.
const HOSTILE: &str = "src/<img src=x onerror=window.pwned=1>\\u202e.js";

#[test]
fn names_that_models_chose_are_text_and_nothing_else() {
    let Some(browser) = browser() else { return };
    let long = format!("src/{}.js", "very-long-name-".repeat(12));
    let title = "<script>window.pwned=2</script><b>bold</b>";
    let script = format!(
        "[[plan.milestones]]\nname = \"<svg onload=window.pwned=3>\"\ndescription = \"x\"\ncreate = [\"{HOSTILE}\", {long:?}]\n"
    ) + &rule("role = \"coder\"", "", "{ status = 400 }");
    let world = world(&script, &[("session.milestone_retries", "0")]);
    std::fs::write(world.path("idea.md"), format!("---\nid: 002-feature\n---\n# {title}\n\nx\n")).unwrap();
    let daemon = world.start_daemon();
    let page = dashboard(&browser, &world, PHONE);
    world.submit("idea.md");
    page.wait("the end", DONE);
    assert!(page.text("#recent-list").contains(title));
    page.click("#recent-list button", title);
    page.wait("the report", "document.querySelectorAll('#d-story li').length > 5");
    let shown = page.text("body");
    assert!(shown.contains("<img src=x onerror=window.pwned=1>"), "{shown}");
    assert!(shown.contains("<svg onload=window.pwned=3>"), "{shown}");
    assert!(!shown.contains('\u{202e}'), "what turns the writing round is taken out");
    assert_eq!(page.eval("window.pwned ?? 'no'"), "no");
    assert_eq!(page.eval("document.querySelectorAll('main img, main script, dialog img, dialog svg').length"), 0);
    // Nothing of it makes a phone's page wider than the phone.
    assert_fits(&page, "#detail");
    page.key("Escape");
    assert_fits(&page, "main");
    assert_eq!(page.faults(), Vec::<String>::new());
    daemon.stop();
}

/// Nothing sticks out of the window at the side, and nothing has to be scrolled sideways.
#[track_caller]
fn assert_fits(page: &Page, selector: &str) {
    assert_eq!(page.eval("document.documentElement.scrollWidth <= innerWidth"), true);
    let out = page.eval(&format!(
        "[...document.querySelectorAll({selector:?} + ', ' + {selector:?} + ' *')].filter(node => node.checkVisibility() && \
         !node.closest('.sr, svg') && (node.getBoundingClientRect().right > innerWidth + 1 || node.getBoundingClientRect().left < -1)) \
         .map(node => node.outerHTML.slice(0, 200))"
    ));
    assert_eq!(out, json!([]), "wider than the window");
}

#[test]
fn everything_is_reached_and_done_by_the_keyboard_alone() {
    let Some(browser) = browser() else { return };
    let script =
        milestone("Write", &["a.js"], &[], &[]) + &rule("role = \"coder\"", "first = 1", "{ fault = \"hang\" }");
    let world = world(&script, &[]);
    let daemon = world.start_daemon();
    world.submit("idea.md");
    let page = dashboard(&browser, &world, DESK);
    page.wait("the call", "document.querySelector('#live-list').textContent.includes('asks sim/one')");
    // The order of the stops is the order of the document, each can be seen, and none is left out.
    page.eval(
        "window.all = [...document.querySelectorAll('a[href], button, input, select, [tabindex=\"0\"]')] \
         .filter(node => node.checkVisibility() && !node.disabled)",
    );
    let n = page.eval("window.all.length").as_u64().unwrap();
    assert!(n > 12, "{n}");
    for at in 0..n {
        page.key("Tab");
        let stop = page.eval(&format!(
            "document.activeElement === window.all[{at}] && getComputedStyle(document.activeElement).outlineStyle !== 'none' \
             ? '' : document.activeElement.outerHTML + ' instead of ' + window.all[{at}].outerHTML"
        ));
        assert_eq!(stop, "", "stop {at}");
    }
    let name = "document.activeElement !== document.body && document.activeElement.textContent.includes";
    let reach = |page: &Page, label: &str| {
        wait_until(label, || {
            page.key("Tab");
            (page.eval(&format!("{name}({label:?})")) == true).then_some(())
        });
    };
    page.eval("document.activeElement.blur()");
    reach(&page, "Add what is missing");
    page.key("Enter");
    page.wait("the session", "document.querySelector('#detail').open");
    page.key("Escape");
    page.wait("the page", "!document.querySelector('#detail').open");
    assert_eq!(page.eval(&format!("{name}('Add what is missing')")), true, "the focus is back where it was");
    reach(&page, "Cancel");
    page.key("Enter");
    page.wait("the question", "document.querySelector('#ask').open");
    reach(&page, "Cancel session");
    page.key("Enter");
    page.wait("its end", "document.querySelector('#recent-list .pill')?.textContent === 'cancelled'");
    // Everything that can be used has a name for those who do not see it.
    let nameless = page.eval(
        "[...document.querySelectorAll('button, input, select, a')].filter(node => !node.textContent.trim() && \
         !node.getAttribute('aria-label') && !node.labels?.length).map(node => node.outerHTML)",
    );
    assert_eq!(nameless, json!([]));
    daemon.stop();
}

#[test]
fn a_wrong_token_is_asked_for_and_the_right_one_leaves_the_address() {
    let Some(browser) = browser() else { return };
    let world = world("", &[]);
    let daemon = world.start_daemon();
    let right = address(&world);
    let (base, token) = right.split_once("?token=").unwrap();
    let page = Page::open(&browser, &format!("{base}?token=wrong"), DESK);
    page.wait("the question", "document.querySelector('#gate').checkVisibility()");
    assert_eq!(page.eval("document.querySelector('main').checkVisibility()"), false);
    assert_eq!(page.text("#gate-why"), "The token is not the daemon’s. It changes when its file is replaced.");
    page.eval("document.querySelector('#gate-token').focus()");
    page.type_in(token);
    page.key("Enter");
    page.wait("the connection", "document.querySelector('#conn-text').textContent === 'live'");
    assert_eq!(page.eval("document.querySelector('main').checkVisibility()"), true);
    assert_eq!(page.eval("location.href"), base);
    // It is kept for this tab, and for nobody else.
    page.go(base);
    page.wait("the connection", "document.querySelector('#conn-text').textContent === 'live'");
    let kept = page.eval("document.cookie + JSON.stringify({ ...localStorage })").to_string();
    assert!(!kept.contains(token), "{kept}");
    let other = Page::open(&browser, base, DESK);
    other.wait("the question", "document.querySelector('#gate').checkVisibility()");
    assert_eq!(other.text("#gate-why"), "");
    daemon.stop();
}

#[test]
fn the_page_comes_in_one_request_and_asks_nobody_but_its_daemon() {
    let Some(browser) = browser() else { return };
    let world = world("", &[]);
    let daemon = world.start_daemon();
    let page = dashboard(&browser, &world, DESK);
    let size = page.eval("performance.getEntriesByType('navigation')[0].transferSize").as_u64().unwrap();
    assert!((10_000..100 << 10).contains(&size), "{size}");
    let others = "performance.getEntriesByType('resource').map(entry => entry.name) \
                  .filter(name => !name.startsWith(location.origin + '/v1/') && !name.startsWith('data:'))";
    assert_eq!(page.eval(others), json!([]));
    assert_eq!(page.faults(), Vec::<String>::new());
    daemon.stop();
}

#[test]
fn the_rates_of_a_day_outlive_the_process() {
    let script = milestone("Write", &["a.js"], &[], &[]);
    let world = world(&script, &[]);
    world.run().expect(0);
    let daemon = world.start_daemon();
    let client = |path: &str| get(&world, path);
    let history = client("/v1/rates/history");
    let rate = &history["rates"]["primarySuccess"];
    assert_eq!((&rate["low"], &rate["high"], &rate["moreIsBetter"]), (&json!(0.7), &json!(0.9), &json!(true)));
    assert_eq!(rate["values"].as_array().unwrap().last(), Some(&json!(1.0)), "{history}");
    assert_eq!(rate["values"].as_array().unwrap().len(), history["minutes"].as_array().unwrap().len());
    daemon.stop();
}

/// Reads from the daemon over HTTP.
#[track_caller]
fn get(world: &World, path: &str) -> Value {
    let address = address(world);
    let (base, token) = address.split_once("/?token=").unwrap();
    let host = base.strip_prefix("http://").unwrap();
    let mut stream = std::net::TcpStream::connect(host).unwrap();
    let request =
        format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {token}\r\nConnection: close\r\n\r\n");
    std::io::Write::write_all(&mut stream, request.as_bytes()).unwrap();
    let mut answer = String::new();
    std::io::Read::read_to_string(&mut stream, &mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200"), "{answer}");
    serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}\n{answer}"))
}

#[test]
fn who_comes_in_the_middle_is_told_what_is_under_way() {
    let script =
        milestone("Write", &["a.js"], &[], &[]) + &rule("role = \"coder\"", "first = 1", "{ fault = \"hang\" }");
    let world = world(&script, &[]);
    let daemon = world.start_daemon();
    let id = world.submit("idea.md");
    let live = wait_until("a call", || {
        let live = get(&world, "/v1/live");
        (live["atWork"][0]["state"] == "asks" && live["atWork"][0]["role"] == "coder").then_some(live)
    });
    let work = &live["atWork"][0];
    assert_eq!((&work["file"], &work["model"], &work["attempt"]), (&json!("a.js"), &json!("sim/one"), &json!(1)));
    assert_eq!((&live["sessions"][0]["sessionId"], &live["unfinished"]), (&json!(id), &json!(1)));
    assert_eq!(live["version"], env!("CARGO_PKG_VERSION"));
    assert!(live["lastEventId"].as_u64().unwrap() > 1 << 31);
    daemon.stop();
}

#[test]
fn the_dashboard_command_says_where_it_is_or_why_it_is_not() {
    let mut world = world("", &[]);
    let said = world.steadfast(&["dashboard"]).expect(1).stderr;
    assert!(said.contains("no daemon answers for") && said.contains("steadfast daemon"), "{said}");
    let daemon = world.start_daemon();
    let token = std::fs::read_to_string(world.state().join("token")).unwrap();
    let url = format!("{}/?token={}", world.status()["http"].as_str().unwrap(), token.trim());
    assert_eq!(address(&world), url);
    let json = world.steadfast(&["dashboard", "--json"]).expect(0).json();
    assert_eq!(json, json!({ "url": url, "opened": false }));
    // A desktop's opener is handed a file that nobody else can read: what it is called with, everybody can.
    let bin = world.path("bin");
    std::fs::create_dir(&bin).unwrap();
    let opener = bin.join("xdg-open");
    std::fs::write(
        &opener,
        format!("#!/bin/sh\necho \"$@\" >'{0}.new'; mv '{0}.new' '{0}'\n", world.path("opened").display()),
    )
    .unwrap();
    std::fs::set_permissions(&opener, std::fs::Permissions::from_mode(0o755)).unwrap();
    let path = std::env::var("PATH").unwrap_or_default();
    world.env.insert("PATH".to_owned(), format!("{}:{path}", bin.display()));
    world.steadfast(&["dashboard", "--open"]).expect(0);
    let opened = wait_until("the opener", || std::fs::read_to_string(world.path("opened")).ok());
    assert!(!opened.contains(token.trim()), "{opened}");
    let file = std::path::PathBuf::from(opened.trim());
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(std::fs::read_to_string(&file).unwrap().contains(&url));
    daemon.stop();
    // A daemon that serves its socket alone.
    world.replace("daemon.listen = \"127.0.0.1:0\"", "daemon.listen = \"none\"");
    let daemon = world.start_daemon();
    let said = world.steadfast(&["dashboard"]).expect(2).stderr;
    assert!(said.contains("daemon.listen"), "{said}");
    daemon.stop();
}
