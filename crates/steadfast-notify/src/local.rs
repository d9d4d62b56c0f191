//! Issues as Markdown files in a folder, for those who have no tracker, and for tests.

use std::fs;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};

use steadfast_fault_point::{self as fault_point, Point};

use crate::{Closed, Closing, ClosingDone, DeliveryError, Filed, Filing, Issue, IssueTracker, Tried};

/// A file that people have written into is read up to here.
const MAX_FILE_BYTES: u64 = 4 << 20;

/// Writes `<folder>/<key>.md`. The key is the file's name, so a repeated filing finds the first one, and it is looked for
/// every time.
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
    fn file(&self, issue: Issue, _tried: Tried) -> Filing {
        let folder = self.folder.clone();
        Box::pin(async move {
            let path = path_of(&folder, &issue.key)?;
            blocking(path, move |path| write(&folder, path, &issue)).await
        })
    }

    fn close(&self, closing: Closing, _url: String, _tried: Tried) -> ClosingDone {
        let folder = self.folder.clone();
        Box::pin(async move {
            let path = path_of(&folder, &closing.issue)?;
            blocking(path, move |path| close(&folder, path, &closing)).await
        })
    }
}

/// Syncing a file takes a disk's time; the runtime's threads are not for waiting on disks.
async fn blocking<T: Send + 'static>(
    path: PathBuf,
    work: impl FnOnce(&Path) -> std::io::Result<T> + Send + 'static,
) -> Result<T, DeliveryError> {
    let shown = path.display().to_string();
    let done = tokio::task::spawn_blocking(move || work(&path)).await;
    let done = done.unwrap_or_else(|panic| Err(std::io::Error::other(panic.to_string())));
    done.map_err(|source| DeliveryError::Write { path: shown, source })
}

fn path_of(folder: &Path, key: &str) -> Result<PathBuf, DeliveryError> {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '.' | '_' | '-');
    if key.is_empty() || key.len() > 120 || key.starts_with('.') || !key.chars().all(plain) {
        return Err(DeliveryError::Key(key.to_owned()));
    }
    Ok(folder.join(format!("{key}.md")))
}

fn write(folder: &Path, path: &Path, issue: &Issue) -> std::io::Result<Filed> {
    let found = path.exists();
    if !found {
        fs::create_dir_all(folder)?;
        put(folder, path, &render(issue))?;
    }
    Ok(Filed { url: format!("file://{}", path.display()), found, note: None })
}

/// Puts the whole file in its place, or leaves what was there.
fn put(folder: &Path, path: &Path, text: &str) -> std::io::Result<()> {
    let name = path.file_stem().unwrap_or_default().to_string_lossy();
    let temporary = folder.join(format!(".{name}.tmp"));
    fault_point::reach(Point::NotifyFileBefore);
    let mut file = fs::File::create(&temporary)?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all())?;
    fault_point::reach(Point::NotifyFileUnnamed);
    fs::rename(&temporary, path)?;
    fault_point::reach(Point::NotifyFileNamed);
    // The name is durable only when the folder is.
    fs::File::open(folder).and_then(|folder| folder.sync_all())?;
    fault_point::reach(Point::NotifyFileSynced);
    Ok(())
}

fn close(folder: &Path, path: &Path, closing: &Closing) -> std::io::Result<Closed> {
    let mut text = String::new();
    match fs::File::open(path) {
        Ok(file) => file.take(MAX_FILE_BYTES + 1).read_to_string(&mut text)?,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Ok(Closed { note: Some("somebody has deleted the file".to_owned()) });
        }
        Err(error) => return Err(error),
    };
    if text.len() as u64 > MAX_FILE_BYTES {
        return Ok(Closed { note: Some("the file is larger than 4 MiB and was left as it is".to_owned()) });
    }
    let marker = closing.marker();
    if text.contains(&marker) {
        return Ok(Closed { note: Some("it was closed already".to_owned()) });
    }
    // The first line that we wrote ourselves; a person may have taken it out.
    if let Some(kind) = text.find("\nKind: ") {
        text.insert_str(kind, "\nStatus: closed  ");
    }
    let end = if text.ends_with('\n') { "" } else { "\n" };
    text.push_str(&format!("{end}\n## Closed\n\n{}\n\n{marker}\n", closing.comment.trim_end()));
    put(folder, path, &text)?;
    Ok(Closed::default())
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
        let first = tracker.file(issue("s1-m1-users.js"), Tried::Never).await.unwrap();
        let changed = Issue { body: "Another text.".to_owned(), ..issue("s1-m1-users.js") };
        let second = tracker.file(changed, Tried::Never).await.unwrap();
        assert!(!first.found && second.found);
        let text = fs::read_to_string(folder.path().join("issues/s1-m1-users.js.md")).unwrap();
        assert!(text.contains("All models failed.") && text.contains("Assignee: ada"), "{text}");
        assert!(text.contains("<!-- steadfast-key: s1-m1-users.js -->"), "{text}");
    }

    #[tokio::test]
    async fn a_closed_issue_says_so_once_and_keeps_what_was_written_into_it() {
        let folder = tempfile::tempdir().unwrap();
        let tracker = LocalTracker::new(folder.path());
        let url = tracker.file(issue("k"), Tried::Never).await.unwrap().url;
        let path = folder.path().join("k.md");
        let noted = fs::read_to_string(&path).unwrap() + "\nI am on it.";
        fs::write(&path, noted).unwrap();
        let closing = Closing { issue: "k".to_owned(), comment: "It went on.".to_owned() };
        let first = tracker.close(closing.clone(), url.clone(), Tried::Never).await.unwrap();
        let second = tracker.close(closing.clone(), url.clone(), Tried::Perhaps { since_ms: 0 }).await.unwrap();
        assert!(first.note.is_none() && second.note.is_some());
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains("\nStatus: closed  \nKind: failed_file\n") && text.contains("I am on it.\n"), "{text}");
        assert_eq!(text.matches("## Closed\n\nIt went on.").count(), 1, "{text}");
        fs::remove_file(&path).unwrap();
        let gone = tracker.close(closing, url, Tried::Never).await.unwrap();
        assert!(gone.note.unwrap().contains("deleted") && !path.exists());
    }

    #[tokio::test]
    async fn a_key_that_would_leave_the_folder_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let error = LocalTracker::new(folder.path()).file(issue("../x"), Tried::Never).await.unwrap_err();
        assert!(matches!(error, DeliveryError::Key(_)), "{error}");
    }

    #[tokio::test]
    async fn a_folder_that_cannot_be_made_is_a_clear_error() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("issues"), "a file").unwrap();
        let error = LocalTracker::new(folder.path().join("issues")).file(issue("k"), Tried::Never).await.unwrap_err();
        assert!(error.to_string().contains("issues/k.md"), "{error}");
    }
}
