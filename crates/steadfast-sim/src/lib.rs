//! A simulated model server: an OpenAI-compatible endpoint (and Anthropic's `messages`) whose answers and faults come
//! from a script. It serves `steadfast demo`, the tests, and drills of a user's own with `steadfast sim`.
//!
//! Must not know anything of Steadfast but what goes over the wire (SPEC 12).
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use steadfast_sim::{Script, Sim};
//!
//! let script = Script::parse(
//!     r#"
//!     [[rule]]
//!     match = { role = "coder", model = "codellama-7b" }
//!     first = 2
//!     then = { status = 503, headers = { retry-after = "1" } }
//!     "#,
//! )?;
//! let sim = Sim::start(([127, 0, 0, 1], 0).into(), script)?;
//! println!("point a provider's base_url to {}", sim.base_url());
//! sim.stop().await;
//! # Ok(())
//! # }
//! ```
//!
//! # What it serves
//!
//! | request | answer |
//! |---|---|
//! | `POST …/chat/completions` | OpenAI's format, plain or as a stream, as the request asks |
//! | `POST …/messages` | Anthropic's format, likewise |
//! | `GET …/models` | the script's `models`, else one called `sim` |
//! | `GET /__requests`, `GET /__requests?after=N` | the log as JSON ([`Request`]), the latest [`MAX_LOGGED`] |
//! | `GET /__count` | `{"requests", "open", "kept", "models": {name: requests}}` |
//!
//! Without a rule, a planner gets the script's `[plan]`, a coder the scripted text of its file, else a small valid file
//! for the extension, a coder without a file `NOTHING TO CHANGE`, a reviewer an approval with `code_quality` 88, and a
//! request without `X-Steadfast-Role` (`curl`, say) one plain sentence.
//!
//! # Scripts
//!
//! TOML; unknown keys are refused. `config/sim-example.toml` is an example with everything in it. Times are texts with a
//! unit (`us`, `ms`, `s`, `m`, `h`), at most a day.
//!
//! | key | default | meaning |
//! |---|---|---|
//! | `seed` | 1 | of all chance: the same seed and the same requests give the same faults |
//! | `latency`, `jitter` | 0 | wait before the first byte; up to `jitter` more, by request |
//! | `chunk`, `interval` | 64, 0 | characters in one event of a stream; wait between two events |
//! | `models` | all | the models that exist; another one gets a 404 |
//! | `api_key` | none | the key that requests must carry (`Authorization: Bearer` or `x-api-key`); else 401 |
//! | `keep_prompts` | false | keep the prompts' texts in the log, 64 KiB each at most |
//! | `[plan]` | a small one | `risks`, `confidence`, `[[plan.milestones]]` with `name`, `description`, `create`, `modify`, `delete` |
//! | `[[file]]` | – | `path`, `text`, and `milestone` when the text is for one milestone only |
//! | `[[rule]]` | – | see below |
//!
//! Rules are tried in order, and the first one that takes a request decides. A rule **matches** when every key of its
//! `match` fits: `model`, `file`, `idea`, `session` (patterns: `*` is any text, `/` included; `?` one byte), `role`
//! (`planner`, `coder`, `reviewer`, or `none`), `milestone`, `attempt` (numbers from 1), `prompt` (a part of the messages' text), `stream`
//! (`true`, `false`). A list fits when one of its entries does.
//!
//! A rule **counts**, from 1, the requests that it matches and that no rule before it took. The count is the rule's own;
//! with `per` (one or more of `model`, `role`, `file`, `idea`, `session`, `milestone`) each value has a count of its own: `per = "file"`,
//! `first = 1` takes the first request for each file. It takes the requests inside its **window**, all of whose keys must hold:
//! `after = N` passes over N requests, and the others count from there; `first = N`; `nth = [1, 3]`; `every = N` (each
//! N-th). Then `probability` (0 to 1) decides by the seed, the rule's place, the key and the count: whatever the order in which parallel
//! requests come, the n-th of a key meets the same fate. A request that chance lets go is counted and goes on to the next rule.
//!
//! `then` says what happens. At most one content: `content` (exactly this text), `file` (this text as the asked file, fenced),
//! `files` (paths and texts, fenced with their paths), `review` (`approved`, `code_quality`, `issues`, `next_steps`), or `generate`: `plan`, `file`,
//! `approve`, `reject`, `nothing` (`NOTHING TO CHANGE`), `plain` (a sentence), `prose` (chat instead of what was asked), `lazy` (half a file
//! and "rest unchanged"), `unclosed` (a fenced block without end). Or `status` with an optional `body` (default: what providers send with it). Or a
//! `fault`. With any of them `headers`, `delay` (instead of latency and jitter), `chunk`, `interval`. `then = {}` answers well, and so shields
//! requests from the rules after it.
//!
//! # Faults, by the rows of SPEC 4's table
//!
//! | row | script |
//! |---|---|
//! | connect refused or reset | `fault = "refuse"` (connections are reset when they are made; such a rule has no `match` and counts connections), `"reset"` (RST instead of an answer), `"close"` (FIN instead) |
//! | 408, 500, 502, 503, 504, 529 | `status = 503` |
//! | stream broken, ended without its terminal event | `"broken_stream"` (RST in the middle), `"cut_stream"` (FIN in the middle), `"no_done"` (all text, orderly end, no terminal event), `"stream_error"` (an error event in the middle) |
//! | read timeout | `"hang"` (no byte, ever), `"stall"` (half an answer, then nothing), a long `delay`, a small `chunk` with a long `interval` |
//! | 200 that is no answer | `"html"`, `"bad_json"`, `"no_choices"`, `"not_utf8"`, `"huge"` (with `size` in bytes, default 64 MiB) |
//! | DNS failure, TLS refused, no key | not of a server's making: use a host that does not exist, an `https` base URL, no key |
//! | 409; 400, 422 | `status = 409`, … |
//! | 429 with `Retry-After` | `status = 429, headers = { retry-after = "2" }` |
//! | 429 without it | `status = 429` |
//! | quota, 402 | `fault = "quota"` (429), `status = 402`, `fault = "quota_in_400"` |
//! | 401, 403, 404 | `status = 401`, …; or `api_key` and `models` |
//! | context too long | `fault = "context_too_long"` (400), `status = 413` |
//! | empty, or not what was asked for | `content = ""`, `generate = "prose"`, `"lazy"`, `"unclosed"` |
//! | `finish_reason: length` | `fault = "truncated"` (the first half of the text) |
//! | content filter | `fault = "filtered"` |
//! | the provider's own word | `headers = { x-should-retry = "false" }` |
//! | a streaming request answered with plain JSON | `fault = "plain"` |
//!
//! On a plain request, the faults of streams end the body before its announced length.

mod answer;
mod ask;
mod body;
mod choose;
mod connection;
pub mod demo;
mod log;
mod script;
mod server;
mod wire;

pub use log::{End, MAX_LOGGED, Request};
pub use script::{Script, ScriptError};
pub use server::{Sim, SimError, SimHandle};

/// What `steadfast sim --help` says at length.
pub const CLI_HELP: &str = "\
Runs a simulated model server until it is interrupted: an OpenAI-compatible endpoint (POST /v1/chat/completions, GET
/v1/models; also Anthropic's POST /v1/messages) whose answers and faults come from a script. Point a provider's base_url
to the address that it prints, and see what your configuration does when models fail.

  steadfast sim --listen 127.0.0.1:0 --script drill.toml

Without --script every request is answered well and at once. With port 0 the system chooses a free port. The script is
TOML: rules that are tried in order, each with what it matches (model, role, file, milestone, ...), which of the matching
requests it takes (first, nth, after, every, probability), and what then happens (a text, a status, a fault such as
\"hang\" or \"broken_stream\"). config/sim-example.toml explains all of it by example.

GET /__requests shows what was asked and answered, GET /__count how often.";
