//! Which files of a repository matter for a prompt. Only names are looked at; whoever calls reads the texts.

use std::collections::{HashMap, HashSet};
use std::sync::LazyLock;

use steadfast_core::ids::RepoPath;

use crate::prompt::TreeEntry;

/// The most files that a ranking names; no prompt has room for more.
pub const MAX_RANKED: usize = 200;
/// Larger files are data or generated.
const MAX_FILE_BYTES: u64 = 256 << 10;

const MANIFESTS: &[&str] = &[
    "cargo.toml",
    "package.json",
    "pyproject.toml",
    "setup.py",
    "setup.cfg",
    "requirements.txt",
    "go.mod",
    "pom.xml",
    "build.gradle",
    "build.gradle.kts",
    "composer.json",
    "gemfile",
    "mix.exs",
    "makefile",
    "cmakelists.txt",
    "meson.build",
    "tsconfig.json",
    "deno.json",
    "pubspec.yaml",
    "package.swift",
    "dune-project",
    "build.zig",
    "stack.yaml",
];
/// Directories whose files people do not write.
const FOREIGN_DIRECTORIES: &[&str] = &[
    "node_modules",
    "vendor",
    "third_party",
    "dist",
    "build",
    "target",
    "out",
    ".git",
    ".venv",
    "venv",
    "__pycache__",
    ".next",
    "coverage",
    ".idea",
    ".vscode",
    "bower_components",
    "site-packages",
    ".tox",
    ".cache",
];
const FOREIGN_NAMES: &[&str] = &[
    "package-lock.json",
    "yarn.lock",
    "pnpm-lock.yaml",
    "cargo.lock",
    "poetry.lock",
    "uv.lock",
    "pdm.lock",
    "composer.lock",
    "gemfile.lock",
    "go.sum",
    "flake.lock",
    "bun.lockb",
    "mix.lock",
    "pubspec.lock",
    ".ds_store",
];
const BINARY_EXTENSIONS: &[&str] = &[
    "png", "jpg", "jpeg", "gif", "webp", "ico", "bmp", "tiff", "avif", "pdf", "zip", "gz", "tgz", "xz", "zst", "bz2",
    "7z", "tar", "jar", "war", "class", "exe", "dll", "so", "dylib", "a", "o", "obj", "lib", "bin", "dat", "db",
    "sqlite", "sqlite3", "woff", "woff2", "ttf", "otf", "eot", "mp3", "mp4", "mov", "avi", "wav", "ogg", "webm", "pyc",
    "wasm", "map", "gguf", "onnx", "pt", "parquet", "npy", "pack", "idx", "snap", "ipynb", "min.js", "min.css",
];
/// Words of a task that say nothing about files.
static STOP_WORDS: LazyLock<HashSet<&str>> = LazyLock::new(|| {
    let words = "the and for with that this from into are was not but can should must will has have all any \
        each when then than use used using add added new make file files code test tests src lib \
        line lines also only one two its it's them they you your our of in on to a an is be or as \
        at by if so no do";
    words.split(' ').collect()
});

/// Files that help to plan a task, most important first: manifests and the README at the top, then files that the task
/// names, then files whose names share words with it, then entry points. At most [`MAX_RANKED`]; binary, generated, foreign and very large
/// files are left out.
pub fn key_files<'a>(tree: &'a [TreeEntry], idea_body: &str) -> Vec<&'a TreeEntry> {
    let task = Task::new(idea_body);
    rank(tree, |entry, name| {
        let depth = name.depth();
        let manifest = match (name.is_manifest(), name.is_readme(), depth) {
            (true, _, 0) => 5_000,
            (_, true, 0) => 4_500,
            (true, _, _) => 150 - 10 * depth,
            (_, true, _) => 60,
            _ => 0,
        };
        let entry_point = if name.is_entry_point() { 15 } else { 0 };
        let source = if name.is_test() { 5 } else { 20 };
        let large = if entry.size > 64 << 10 { -30 } else { 0 };
        Some(manifest + task.score(name) + entry_point + source + large - 3 * depth)
    })
}

/// Files that help to write one file of a milestone, most important first: the milestone's other files, files of the same
/// name (tests, headers), files that the task or the milestone names, files of the same directory, and manifests. The file
/// itself is left out. At most [`MAX_RANKED`]; what has no relation to it at all is left out too.
///
/// `words`: the idea's and the milestone's text.
pub fn neighbours<'a>(
    path: &RepoPath,
    milestone_files: &[RepoPath],
    tree: &'a [TreeEntry],
    words: &str,
) -> Vec<&'a TreeEntry> {
    let own = Name::new(path.as_str());
    let own_words: HashSet<&str> = own.words.iter().map(String::as_str).collect();
    let task = Task::new(words);
    let with: HashSet<&str> = milestone_files.iter().map(RepoPath::as_str).collect();
    rank(tree, |entry, name| {
        if entry.path == *path {
            return None;
        }
        let mut score = task.score(name);
        if with.contains(entry.path.as_str()) {
            score += 3_000;
        }
        if name.bare_stem() == own.bare_stem() && !own.bare_stem().is_empty() {
            score += 2_500;
        }
        if name.directory == own.directory {
            score += 120;
        }
        if name.is_manifest() && (name.directory.is_empty() || own.directory.starts_with(name.directory)) {
            score += 200;
        }
        if name.extension == own.extension && !own.extension.is_empty() {
            score += 15;
        }
        score += 12 * name.words.iter().filter(|word| own_words.contains(word.as_str())).count() as i64;
        if name.is_entry_point() && own.directory.starts_with(name.directory) {
            score += 30;
        }
        if entry.size > 64 << 10 {
            score -= 60;
        }
        (score >= 30).then_some(score)
    })
}

fn rank(tree: &[TreeEntry], score: impl Fn(&TreeEntry, &Name<'_>) -> Option<i64>) -> Vec<&TreeEntry> {
    let mut ranked: Vec<(i64, &TreeEntry)> = tree
        .iter()
        .filter(|entry| (1..=MAX_FILE_BYTES).contains(&entry.size))
        .filter_map(|entry| {
            let name = Name::new(entry.path.as_str());
            if name.is_foreign() { None } else { score(entry, &name).map(|score| (score, entry)) }
        })
        .collect();
    ranked.sort_by(|(a, left), (b, right)| b.cmp(a).then_with(|| left.path.cmp(&right.path)));
    ranked.into_iter().take(MAX_RANKED).map(|(_, entry)| entry).collect()
}

/// A path, cut up.
struct Name<'a> {
    path: &'a str,
    /// With a slash at the end; empty at the root.
    directory: &'a str,
    file: String,
    stem: String,
    extension: String,
    /// Of directories and stem, lower-case, three letters or more.
    words: Vec<String>,
}

impl<'a> Name<'a> {
    fn new(path: &'a str) -> Self {
        let at = path.rfind('/').map_or(0, |at| at + 1);
        let name = &path[at..];
        let (stem, extension) = match name.rfind('.').filter(|at| *at > 0) {
            Some(dot) => (&name[..dot], &name[dot + 1..]),
            None => (name, ""),
        };
        Self {
            path,
            directory: &path[..at],
            file: name.to_lowercase(),
            stem: stem.to_lowercase(),
            extension: extension.to_lowercase(),
            words: words(&format!("{}{stem}", &path[..at])),
        }
    }

    fn depth(&self) -> i64 {
        self.path.matches('/').count() as i64
    }

    fn is_manifest(&self) -> bool {
        MANIFESTS.contains(&self.file.as_str()) || matches!(self.extension.as_str(), "csproj" | "cabal" | "gemspec")
    }

    fn is_readme(&self) -> bool {
        self.stem == "readme"
    }

    fn is_entry_point(&self) -> bool {
        matches!(
            self.stem.as_str(),
            "main" | "lib" | "index" | "app" | "mod" | "server" | "cli" | "__init__" | "__main__"
        )
    }

    fn is_test(&self) -> bool {
        self.words
            .iter()
            .any(|word| matches!(word.as_str(), "test" | "tests" | "spec" | "specs" | "fixtures" | "testdata"))
    }

    /// The stem without what marks tests and headers, so that `foo.c`, `foo.h`, `test_foo.py` and `foo.spec.ts` meet.
    fn bare_stem(&self) -> &str {
        let stem = self.stem.strip_prefix("test_").unwrap_or(&self.stem);
        let ends = [".test", ".spec", "_test", "_spec", "-test", "tests", "test", ".d"];
        let stem = ends.iter().find_map(|end| stem.strip_suffix(end)).unwrap_or(stem);
        // Files such as mod.rs and index.js share nothing but their role.
        if matches!(stem, "main" | "lib" | "index" | "app" | "mod" | "__init__" | "readme") { "" } else { stem }
    }

    fn is_foreign(&self) -> bool {
        let generated =
            self.file.contains(".min.") || self.file.ends_with(".lock") || self.file.contains(".generated.");
        generated
            || FOREIGN_NAMES.contains(&self.file.as_str())
            || BINARY_EXTENSIONS.contains(&self.extension.as_str())
            || self
                .directory
                .split('/')
                .any(|part| FOREIGN_DIRECTORIES.iter().any(|foreign| part.eq_ignore_ascii_case(foreign)))
    }
}

/// A task's text, prepared for looking up names.
struct Task {
    /// What stands between white space and punctuation, lower-case: paths and file names.
    tokens: HashSet<String>,
    /// How often each word comes.
    words: HashMap<String, i64>,
}

impl Task {
    fn new(text: &str) -> Self {
        let lower = text.to_lowercase();
        let tokens = lower
            .split(|c: char| c.is_whitespace() || "`\"'()[],;:<>*".contains(c))
            .map(|token| token.trim_end_matches(['.', '!', '?']).trim_start_matches("./").to_owned())
            .filter(|token| !token.is_empty())
            .collect();
        let mut counts = HashMap::new();
        for word in words(text) {
            *counts.entry(word).or_default() += 1;
        }
        Self { tokens, words: counts }
    }

    /// How strongly the task points at a file.
    fn score(&self, name: &Name<'_>) -> i64 {
        if self.tokens.contains(&name.path.to_lowercase()) {
            return 2_000;
        }
        if name.file.len() >= 4 && self.tokens.contains(&name.file) {
            return 1_500;
        }
        let mut score = 0;
        if name.stem.len() >= 3 && self.tokens.contains(&name.stem) && !STOP_WORDS.contains(name.stem.as_str()) {
            score += 400;
        }
        let shared: HashSet<&String> = name.words.iter().filter(|word| self.words.contains_key(*word)).collect();
        for word in shared {
            score += 25 + 5 * self.words.get(word).copied().unwrap_or(0).min(5);
        }
        score
    }
}

/// Words of a text: split at what is no letter or digit and before capitals, lower-case, without a plural's "s", three
/// letters or more, no stop words.
fn words(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut word = String::new();
    let mut previous_lower = false;
    let mut end = |word: &mut String| {
        if word.chars().count() >= 3 && !STOP_WORDS.contains(word.as_str()) {
            let singular = word.strip_suffix('s').filter(|stem| stem.len() >= 3 && !stem.ends_with('s'));
            found.push(singular.unwrap_or(word).to_owned());
        }
        word.clear();
    };
    for c in text.chars() {
        if !c.is_alphanumeric() || (c.is_uppercase() && previous_lower) {
            end(&mut word);
        }
        if c.is_alphanumeric() {
            word.extend(c.to_lowercase());
        }
        previous_lower = c.is_lowercase();
    }
    end(&mut word);
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(paths: &[&str]) -> Vec<TreeEntry> {
        paths.iter().map(|path| TreeEntry { path: RepoPath::new(path).expect("valid"), size: 100 }).collect()
    }

    fn names<'a>(ranked: &[&'a TreeEntry]) -> Vec<&'a str> {
        ranked.iter().map(|entry| entry.path.as_str()).collect()
    }

    #[test]
    fn manifests_come_first_then_named_files_then_similar_ones() {
        let tree = tree(&[
            "src/util/strings.js",
            "src/login/session.js",
            "src/auth.js",
            "README.md",
            "package.json",
            "docs/old.md",
            "test/auth.test.js",
            "package-lock.json",
            "node_modules/x/auth.js",
            "logo.png",
            "src/index.js",
        ]);
        let ranked = key_files(&tree, "Change `src/util/strings.js`. The login must keep its session. See auth.js.");
        assert_eq!(
            names(&ranked),
            [
                "package.json",
                "README.md",
                "src/util/strings.js",
                "src/auth.js",
                "src/login/session.js",
                "test/auth.test.js",
                "src/index.js",
                "docs/old.md"
            ]
        );
    }

    #[test]
    fn very_large_and_empty_files_are_left_out() {
        let entry = |path: &str, size| TreeEntry { path: RepoPath::new(path).expect("valid"), size };
        let tree = [entry("a.js", 0), entry("b.js", MAX_FILE_BYTES + 1), entry("c.js", MAX_FILE_BYTES)];
        assert_eq!(names(&key_files(&tree, "a.js b.js")), ["c.js"]);
        let many: Vec<TreeEntry> = (0..500).map(|n| entry(&format!("f{n}.js"), 1)).collect();
        assert_eq!(key_files(&many, "").len(), MAX_RANKED);
    }

    #[test]
    fn neighbours_are_partners_of_the_file() {
        let tree = tree(&[
            "src/user.c",
            "src/user.h",
            "tests/test_user.c",
            "src/post.c",
            "src/post.h",
            "Makefile",
            "docs/guide.md",
            "src/deep/down/other.py",
            "tools/gen.py",
            "src/main.c",
        ]);
        let path = RepoPath::new("src/user.c").expect("valid");
        let with = [RepoPath::new("src/post.c").expect("valid"), path.clone()];
        let ranked = neighbours(&path, &with, &tree, "Rename the guide.md text");
        assert_eq!(
            names(&ranked),
            ["src/post.c", "src/user.h", "tests/test_user.c", "docs/guide.md", "Makefile", "src/main.c", "src/post.h"]
        );
    }

    #[test]
    fn words_are_split_as_people_name_files() {
        assert_eq!(words("src/userProfile_v2/HTTPServer-tests the class"), ["user", "profile", "httpserver", "class"]);
    }
}
