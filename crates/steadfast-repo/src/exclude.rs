//! Files that hold secrets and never go into a prompt (`context_exclude`, SPEC 9).

use globset::{GlobBuilder, GlobSet, GlobSetBuilder};

/// A pattern of `context_exclude` that is no glob.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{pattern:?} is no glob: {reason}")]
pub struct ExcludeError {
    /// The pattern as given.
    pub pattern: String,
    /// What is wrong with it.
    pub reason: String,
}

/// A set of globs, each matched against the whole path, every leading part of it, and every single part of it.
#[derive(Debug, Clone)]
pub struct Exclude {
    globs: GlobSet,
}

impl Exclude {
    /// `*` and `?` do not cross `/`, `**` does; `[…]` and `{a,b}` work; upper and lower case are the same, because a file
    /// named `.ENV` is no less secret. A leading or trailing `/` is ignored. No globs: nothing is excluded.
    ///
    /// # Errors
    /// The first pattern that is no glob.
    pub fn new(patterns: &[String]) -> Result<Self, ExcludeError> {
        let fault = |pattern: &str, error: &globset::Error| ExcludeError {
            pattern: pattern.to_owned(),
            reason: error.kind().to_string(),
        };
        let mut set = GlobSetBuilder::new();
        for pattern in patterns {
            let glob = GlobBuilder::new(pattern.trim_matches('/'))
                .case_insensitive(true)
                .literal_separator(true)
                .build()
                .map_err(|error| fault(pattern, &error))?;
            set.add(glob);
        }
        let globs = set.build().map_err(|error| fault(&patterns.join(", "), &error))?;
        Ok(Self { globs })
    }

    /// Whether the file at `path` (with `/`, relative to the repository) must stay out of prompts: a glob matches the file's
    /// name, a folder's name on the way to it, or the path up to any of these.
    pub fn matches(&self, path: &str) -> bool {
        if self.globs.is_empty() {
            return false;
        }
        let ends = path.match_indices('/').map(|(at, _)| at).chain([path.len()]);
        let mut start = 0;
        for end in ends {
            if self.globs.is_match(&path[start..end]) || self.globs.is_match(&path[..end]) {
                return true;
            }
            start = end + 1;
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exclude(patterns: &[&str]) -> Exclude {
        let owned: Vec<String> = patterns.iter().map(|p| (*p).to_owned()).collect();
        Exclude::new(&owned).unwrap()
    }

    #[test]
    fn a_secret_file_is_excluded_wherever_it_lies() {
        let secrets = exclude(&[".env*", "*.pem", "id_*", "secrets/"]);
        for path in [".env", "a/b/.env.local", "KEY.PEM", "x/id_rsa", "secrets/a.txt", "app/secrets/b", ".ENV"] {
            assert!(secrets.matches(path), "{path}");
        }
        for path in ["src/env.rs", "a.pem.md", "grid_x", "secrets.md", "a/idx"] {
            assert!(!secrets.matches(path), "{path}");
        }
    }

    #[test]
    fn a_pattern_with_a_folder_is_matched_from_the_top() {
        let some = exclude(&["config/*.key", "**/private/*.txt", "/build"]);
        for path in ["config/a.key", "x/private/a.txt", "private/a.txt", "build/x/y"] {
            assert!(some.matches(path), "{path}");
        }
        for path in ["x/config/a.key", "config/a/b.key", "x/private/y/a.txt"] {
            assert!(!some.matches(path), "{path}");
        }
    }

    #[test]
    fn no_pattern_excludes_nothing_and_a_bad_one_is_named() {
        assert!(!exclude(&[]).matches(".env"));
        assert_eq!(Exclude::new(&["a[".to_owned()]).unwrap_err().pattern, "a[");
    }
}
