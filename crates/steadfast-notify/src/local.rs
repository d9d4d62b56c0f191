//! Issues as Markdown files in a folder, for those who have no tracker, and for tests.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use crate::{Filed, Filing, Issue, IssueTracker, TrackerError};

/// Writes `<folder>/<key>.md`. The key is the file's name, so a repeated filing finds the first one.
#[derive(Debug, Clone)]
pub struct LocalTracker {
    folder: PathBuf,
}

impl LocalTracker {
    /// The folder is made when the first issue is filed.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self { folder: folder.into() }
    }
}

impl IssueTracker for LocalTracker {
    fn file(&self, issue: Issue) -> Filing {
        let folder = self.folder.clone();
        Box::pin(async move {
            let path = folder.join(format!("{}.md", issue.key));
            let failed = path.display().to_string();
            // Syncing a file takes a disk's time; the runtime's threads are not for waiting on disks.
            match tokio::task::spawn_blocking(move || write(&folder, &path, &issue)).await {
                Ok(result) => result,
                Err(join) => Err(TrackerError::Write { path: failed, source: std::io::Error::other(join.to_string()) }),
            }
        })
    }
}

fn write(folder: &Path, path: &Path, issue: &Issue) -> Result<Filed, TrackerError> {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '.' | '_' | '-');
    if issue.key.is_empty() || issue.key.len() > 120 || issue.key.starts_with('.') || !issue.key.chars().all(plain) {
        return Err(TrackerError::Key(issue.key.clone()));
    }
    let url = format!("file://{}", path.display());
    let failed = |source| TrackerError::Write { path: path.display().to_string(), source };
    if path.exists() {
        return Ok(Filed { url, found: true });
    }
    fs::create_dir_all(folder).map_err(failed)?;
    let temporary = folder.join(format!(".{}.tmp", issue.key));
    let mut file = fs::File::create(&temporary).map_err(failed)?;
    file.write_all(render(issue).as_bytes()).and_then(|()| file.sync_all()).map_err(failed)?;
    fs::rename(&temporary, path).map_err(failed)?;
    // The name is durable only when the folder is.
    fs::File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed)?;
    Ok(Filed { url, found: false })
}

fn render(issue: &Issue) -> String {
    let mut head = format!("# {}\n\n", issue.title);
    if let Some(assignee) = &issue.assignee {
        head.push_str(&format!("Assignee: {assignee}  \n"));
    }
    if !issue.labels.is_empty() {
        head.push_str(&format!("Labels: {}  \n", issue.labels.join(", ")));
    }
    format!("{head}Kind: {}\n\n{}\n\n{}\n", issue.kind.as_str(), issue.body.trim_end(), issue.marker())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::IssueKind;

    fn issue(key: &str) -> Issue {
        Issue {
            key: key.to_owned(),
            kind: IssueKind::FailedFile,
            title: "Write users.js".to_owned(),
            body: "All models failed.".to_owned(),
            labels: vec!["steadfast".to_owned()],
            assignee: Some("ada".to_owned()),
        }
    }

    #[tokio::test]
    async fn an_issue_is_filed_once_and_found_the_second_time() {
        let folder = tempfile::tempdir().unwrap();
        let tracker = LocalTracker::new(folder.path().join("issues"));
        let first = tracker.file(issue("s1-m1-users.js")).await.unwrap();
        let changed = Issue { body: "Another text.".to_owned(), ..issue("s1-m1-users.js") };
        let second = tracker.file(changed).await.unwrap();
        assert!(!first.found && second.found);
        let text = fs::read_to_string(folder.path().join("issues/s1-m1-users.js.md")).unwrap();
        assert!(text.contains("All models failed.") && text.contains("Assignee: ada"), "{text}");
        assert!(text.contains("<!-- steadfast-key: s1-m1-users.js -->"), "{text}");
    }

    #[tokio::test]
    async fn a_key_that_would_leave_the_folder_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let error = LocalTracker::new(folder.path()).file(issue("../x")).await.unwrap_err();
        assert!(matches!(error, TrackerError::Key(_)), "{error}");
    }

    #[tokio::test]
    async fn a_folder_that_cannot_be_made_is_a_clear_error() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("issues"), "a file").unwrap();
        let error = LocalTracker::new(folder.path().join("issues")).file(issue("k")).await.unwrap_err();
        assert!(error.to_string().contains("issues/k.md"), "{error}");
    }
}
