//! A headless Chromium, driven over its debugging pipe (the Chrome DevTools Protocol, messages of JSON that end with a zero
//! byte). One process serves all tests that run at the same time; each has a context of its own, without a shared cookie or
//! storage, and the process ends with the last of them.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, Weak};

use rustix::fs::{CWD, FileType, Mode, mknodat};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{PATIENCE, wait_until};

/// Under these names it is looked for in `PATH`.
const NAMES: &[&str] = &["chromium", "chromium-browser", "google-chrome-stable", "google-chrome", "chrome"];

static RUNNING: Mutex<Weak<Browser>> = Mutex::new(Weak::new());

/// The browser; `None`, and a word about it on standard error, where there is none on this machine.
pub(crate) fn browser() -> Option<Arc<Browser>> {
    let mut running = RUNNING.lock().unwrap();
    if let Some(browser) = running.upgrade() {
        return Some(browser);
    }
    let Some(program) = find() else {
        let word = format!("skipped: this test wants a Chromium, and PATH has none of {}\n", NAMES.join(", "));
        std::io::stderr().write_all(word.as_bytes()).unwrap();
        return None;
    };
    let browser = Arc::new(Browser::start(&program));
    *running = Arc::downgrade(&browser);
    Some(browser)
}

fn find() -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let folders: Vec<PathBuf> = std::env::split_paths(&path).collect();
    NAMES.iter().flat_map(|name| folders.iter().map(move |folder| folder.join(name))).find(|program| program.is_file())
}

/// What has come over the pipe.
#[derive(Default)]
struct Heard {
    replies: HashMap<u64, Value>,
    /// Errors of a page's script, and what its policy has stopped, by session.
    faults: HashMap<String, Vec<String>>,
    ended: bool,
}

/// A process of it.
pub(crate) struct Browser {
    child: Child,
    to: Mutex<File>,
    heard: Arc<(Mutex<Heard>, Condvar)>,
    next: AtomicU64,
    /// Its profile, and the pipes.
    _dir: TempDir,
}

impl Browser {
    fn start(program: &Path) -> Self {
        let dir = tempfile::Builder::new().prefix("sfb").tempdir().unwrap();
        let (to, from) = (dir.path().join("to"), dir.path().join("from"));
        for pipe in [&to, &from] {
            mknodat(CWD, pipe, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        }
        // Opened for both directions, a named pipe waits for nobody.
        let open = |pipe: &Path| OpenOptions::new().read(true).write(true).open(pipe).unwrap();
        let (to_file, from_file) = (open(&to), open(&from));
        let child = Command::new("sh")
            .args(["-c", "exec \"$0\" \"$@\" 3<\"$PIPE_TO\" 4>\"$PIPE_FROM\""])
            .arg(program)
            .args(["--headless=new", "--remote-debugging-pipe", "--no-sandbox", "--disable-gpu", "--no-first-run"])
            .args(["--disable-background-networking", "--disable-component-update", "--disable-extensions"])
            .args(["--disable-dev-shm-usage", "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1"])
            .arg(format!("--user-data-dir={}", dir.path().join("profile").display()))
            .arg("about:blank")
            .env("PIPE_TO", &to)
            .env("PIPE_FROM", &from)
            .env("HOME", dir.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let heard: Arc<(Mutex<Heard>, Condvar)> = Arc::default();
        let listening = Arc::clone(&heard);
        std::thread::spawn(move || listen(from_file, &listening));
        Self { child, to: Mutex::new(to_file), heard, next: AtomicU64::new(1), _dir: dir }
    }

    /// Sends a command and waits for its result.
    #[track_caller]
    fn command(&self, session: Option<&str>, method: &str, parameters: Value) -> Value {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let mut message = json!({ "id": id, "method": method, "params": parameters });
        if let Some(session) = session {
            message["sessionId"] = session.into();
        }
        let mut bytes = message.to_string().into_bytes();
        bytes.push(0);
        self.to.lock().unwrap().write_all(&bytes).unwrap();
        let (heard, changed) = &*self.heard;
        let heard = heard.lock().unwrap();
        let waits = |heard: &mut Heard| !heard.replies.contains_key(&id) && !heard.ended;
        let (mut heard, _) = changed.wait_timeout_while(heard, PATIENCE, waits).unwrap();
        let reply = heard.replies.remove(&id).unwrap_or_else(|| panic!("the browser does not answer {method}"));
        assert!(reply["error"].is_null(), "{method}: {reply}");
        reply["result"].clone()
    }
}

fn listen(mut from: File, heard: &(Mutex<Heard>, Condvar)) {
    let (mut rest, mut part) = (Vec::new(), [0; 65536]);
    while let Ok(n @ 1..) = from.read(&mut part) {
        rest.extend_from_slice(&part[..n]);
        while let Some(end) = rest.iter().position(|byte| *byte == 0) {
            let message: Vec<u8> = rest.drain(..=end).collect();
            if end == 0 {
                return;
            }
            let message: Value = serde_json::from_slice(&message[..end]).unwrap();
            let mut now = heard.0.lock().unwrap();
            let fault = match message["method"].as_str() {
                Some("Runtime.exceptionThrown") => Some(&message["params"]["exceptionDetails"]),
                Some("Log.entryAdded") if message["params"]["entry"]["source"] != "network" => Some(&message["params"]),
                _ => None,
            };
            if let (Some(fault), Some(session)) = (fault, message["sessionId"].as_str()) {
                now.faults.entry(session.to_owned()).or_default().push(fault.to_string());
            }
            if let Some(id) = message["id"].as_u64() {
                now.replies.insert(id, message);
                heard.1.notify_all();
            }
        }
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        self.heard.0.lock().unwrap().ended = true;
        // An empty message ends the thread that listens; the pipe is open for both directions.
        if let Ok(mut pipe) = OpenOptions::new().write(true).open(self._dir.path().join("from")) {
            let _ = pipe.write_all(&[0]);
        }
    }
}

/// A page in a context of its own.
pub(crate) struct Page {
    browser: Arc<Browser>,
    context: String,
    session: String,
}

impl Page {
    /// Opens an address in a window of this size.
    #[track_caller]
    pub(crate) fn open(browser: &Arc<Browser>, address: &str, (width, height): (u32, u32)) -> Self {
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let context = text(&browser.command(None, "Target.createBrowserContext", json!({}))["browserContextId"]);
        let about = json!({ "url": "about:blank", "browserContextId": context });
        let target = text(&browser.command(None, "Target.createTarget", about)["targetId"]);
        let attach = json!({ "targetId": target, "flatten": true });
        let session = text(&browser.command(None, "Target.attachToTarget", attach)["sessionId"]);
        let page = Self { browser: Arc::clone(browser), context, session };
        for domain in ["Runtime.enable", "Log.enable", "Page.enable"] {
            page.command(domain, json!({}));
        }
        let metrics = json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": false });
        page.command("Emulation.setDeviceMetricsOverride", metrics);
        // Several pages at once: each is to behave as the one in front.
        page.command("Emulation.setFocusEmulationEnabled", json!({ "enabled": true }));
        page.go(address);
        page
    }

    /// Goes to an address and waits until its document is there.
    #[track_caller]
    pub(crate) fn go(&self, address: &str) {
        self.command("Page.navigate", json!({ "url": address }));
        self.wait("a document", "document.readyState === 'complete' && location.href !== 'about:blank'");
    }

    #[track_caller]
    fn command(&self, method: &str, parameters: Value) -> Value {
        self.browser.command(Some(&self.session), method, parameters)
    }

    /// The value of an expression, awaited where it is a promise.
    #[track_caller]
    pub(crate) fn eval(&self, expression: &str) -> Value {
        self.try_eval(expression).unwrap_or_else(|error| panic!("{expression}: {error}"))
    }

    fn try_eval(&self, expression: &str) -> Result<Value, String> {
        let parameters = json!({ "expression": expression, "awaitPromise": true, "returnByValue": true });
        let result = self.command("Runtime.evaluate", parameters);
        match &result["exceptionDetails"] {
            Value::Null => Ok(result["result"]["value"].clone()),
            exception => Err(exception.to_string()),
        }
    }

    /// Waits until an expression is true. Shows the page when it does not become so.
    #[track_caller]
    pub(crate) fn wait(&self, what: &str, expression: &str) {
        let begun = std::time::Instant::now();
        while self.try_eval(&format!("!!({expression})")) != Ok(Value::Bool(true)) {
            if begun.elapsed() > PATIENCE {
                let shown = self.try_eval("document.body.innerText");
                panic!("{what} did not come about: {expression}\n{}\n{:?}", shown.unwrap_or_default(), self.faults());
            }
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    }

    /// The text of the first element that a selector finds; empty where there is none.
    #[track_caller]
    pub(crate) fn text(&self, selector: &str) -> String {
        let text = self.eval(&format!("document.querySelector({selector:?})?.textContent ?? ''"));
        text.as_str().unwrap().to_owned()
    }

    /// Clicks with the mouse into the middle of the first visible element that a selector finds and that has this text.
    #[track_caller]
    pub(crate) fn click(&self, selector: &str, label: &str) {
        let find = format!(
            "(() => {{ const node = [...document.querySelectorAll({selector:?})].find(node => node.checkVisibility() && \
             !node.disabled && node.textContent.includes({label:?})); node?.scrollIntoView({{ block: 'center' }}); \
             const box = node?.getBoundingClientRect(); return box && [box.x + box.width / 2, box.y + box.height / 2]; }})()"
        );
        let at = wait_until(&format!("{selector} {label}"), || Some(self.eval(&find)).filter(Value::is_array));
        for kind in ["mousePressed", "mouseReleased"] {
            let event = json!({ "type": kind, "x": at[0], "y": at[1], "button": "left", "clickCount": 1 });
            self.command("Input.dispatchMouseEvent", event);
        }
    }

    /// Presses a key, e.g. `Tab`, `Enter`, `Escape`, and lets it go.
    #[track_caller]
    pub(crate) fn key(&self, key: &str) {
        let (code, text) = match key {
            "Tab" => (9, ""),
            "Enter" => (13, "\r"),
            "Escape" => (27, ""),
            other => panic!("no key {other}"),
        };
        for kind in ["keyDown", "keyUp"] {
            let text = if kind == "keyDown" { text } else { "" };
            let event = json!({ "type": kind, "key": key, "code": key, "windowsVirtualKeyCode": code, "text": text });
            self.command("Input.dispatchKeyEvent", event);
        }
    }

    /// Types into what has the focus.
    #[track_caller]
    pub(crate) fn type_in(&self, text: &str) {
        self.command("Input.insertText", json!({ "text": text }));
    }

    /// Errors of the page's script, and what its policy has stopped, so far.
    pub(crate) fn faults(&self) -> Vec<String> {
        self.browser.heard.0.lock().unwrap().faults.get(&self.session).cloned().unwrap_or_default()
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.browser.command(None, "Target.disposeBrowserContext", json!({ "browserContextId": self.context }));
        }
    }
}
