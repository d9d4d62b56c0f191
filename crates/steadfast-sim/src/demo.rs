//! The content of `steadfast demo`: a small C project, an idea for it, and models that fail on a schedule.
//!
//! The project needs `sh`, `mktemp` and a C compiler called `cc` (or `$CC`). With breakers that open at 3 failures, at
//! least 1 s and at most 3 s of `reset_timeout`, backoffs of 50 to 400 ms, an `outage_patience` of 5 s, and the default models
//! under one provider, a run of 3 milestones and 9 files (one of them deleted) always ends like this: milestone 1 has 2 of 3 files
//! (`src/users.c` failed), 2 is perfect after one round of fixes, 3 is perfect; the breaker of `codellama-7b` opened in 1 and closed in 2 or 3;
//! the check passes after each milestone.

use crate::script::Script;

/// The paths, relative to the project's root, and the contents of the files that the project starts with, by path.
pub fn files() -> &'static [(&'static str, &'static [u8])] {
    &FILES
}

/// The idea, Markdown with front matter; its id is `002-feature`.
pub fn idea() -> &'static str {
    include_str!("../demo/idea.md")
}

/// The commands that check the project, each for a shell, from the project's root.
pub fn checks() -> &'static [&'static str] {
    &["sh check.sh"]
}

/// What the models answer, and how they fail.
///
/// # Panics
/// Never: the script is part of the program and parsed by a test.
pub fn script() -> Script {
    let script = Script::parse(SCRIPT).expect("the demo's script is tested");
    ANSWERS.iter().fold(script, |script, (milestone, path, text)| script.with_file(path, Some(*milestone), text))
}

const SCRIPT: &str = include_str!("../demo/sim.toml");

macro_rules! project {
    ($($path:literal),* $(,)?) => {
        [$(($path, include_bytes!(concat!("../demo/project/", $path)).as_slice())),*]
    };
}

static FILES: [(&str, &[u8]); 11] = project![
    "README.md",
    "check.sh",
    "src/api.c",
    "src/api.h",
    "src/endpoints.h",
    "src/hello.c",
    "src/main.c",
    "src/router.c",
    "src/router.h",
    "tests/router_test.c",
    "tests/test.h",
];

macro_rules! answers {
    ($($milestone:literal $path:literal),* $(,)?) => {
        [$(($milestone, $path, include_str!(concat!("../demo/answers/", $milestone, "/", $path)))),*]
    };
}

/// The milestone from 1, the path and the text that a coder who is not made to fail gives for it.
static ANSWERS: [(u32, &str, &str); 8] = answers![
    1 "src/auth.c",
    1 "src/users.c",
    1 "src/posts.c",
    2 "src/endpoints.h",
    2 "src/router.c",
    3 "tests/endpoints_test.c",
    3 "tests/router_test.c",
    3 "README.md",
];

#[cfg(test)]
mod tests;
