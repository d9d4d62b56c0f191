//! A commit made in memory: the parent's trees with a few changes laid over them. Nothing is written here.
//!
//! Invariant: the same parent, changes, message, author and time give the same bytes, so the same id (SPEC 7: a repetition
//! after a crash gives the same hash).

use std::collections::BTreeMap;

use git2::{ObjectType, Oid};
use steadfast_core::ids::RepoPath;

use crate::error::{FileError, RepoError, git_at};

/// What happens to one file in a commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FileChange {
    /// The file gets exactly these bytes. It stays executable if it was; a new file is not.
    Write(Vec<u8>),
    /// The file goes. One that is not there is no error.
    Delete,
}

/// Who stands in a commit, both as author and as committer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Author {
    /// Never empty.
    pub name: String,
    /// Never empty.
    pub email: String,
}

impl Author {
    /// Characters that would break a commit's header, or that git trims from the ends of a name, are left out; what is then
    /// empty is replaced by Steadfast's own.
    pub fn new(name: &str, email: &str) -> Self {
        let clean = |text: &str, otherwise: &str| {
            let kept: String = text.chars().filter(|c| !matches!(c, '<' | '>') && !c.is_control()).collect();
            let crud = |c: char| c.is_whitespace() || matches!(c, '.' | ',' | ':' | ';' | '"' | '\\' | '\'');
            let trimmed = kept.trim_matches(crud);
            if trimmed.is_empty() { otherwise.to_owned() } else { trimmed.to_owned() }
        };
        Self { name: clean(name, "Steadfast"), email: clean(email, "steadfast@localhost") }
    }

    /// The identity used where the user has configured none.
    pub fn steadfast() -> Self {
        Self::new("", "")
    }

    /// As git writes it in commits and reflogs, in UTC.
    pub(crate) fn line(&self, unix_s: i64) -> String {
        format!("{} <{}> {} +0000", self.name, self.email, unix_s)
    }
}

/// One object that is to be stored.
#[derive(Debug)]
pub(crate) struct NewObject {
    pub(crate) id: Oid,
    pub(crate) kind: ObjectType,
    pub(crate) data: Vec<u8>,
}

impl NewObject {
    fn new(kind: ObjectType, data: Vec<u8>) -> Result<Self, RepoError> {
        let id = Oid::hash_object(kind, &data).map_err(git_at("hash an object"))?;
        Ok(Self { id, kind, data })
    }
}

const TREE: i32 = 0o040_000;
const FILE: i32 = 0o100_644;
/// The mode of a symbolic link in a tree.
pub(crate) const LINK: i32 = 0o120_000;
const SUBMODULE: i32 = 0o160_000;

/// The changes of one directory.
#[derive(Default)]
struct Dir<'a> {
    dirs: BTreeMap<&'a str, Dir<'a>>,
    files: BTreeMap<&'a str, (&'a RepoPath, &'a FileChange)>,
}

impl<'a> Dir<'a> {
    fn of(changes: &'a [(RepoPath, FileChange)]) -> Self {
        let mut top = Self::default();
        for (path, change) in changes {
            let mut dir = &mut top;
            let (parents, name) = path.as_str().rsplit_once('/').unwrap_or(("", path.as_str()));
            for part in parents.split('/').filter(|part| !part.is_empty()) {
                dir = dir.dirs.entry(part).or_default();
            }
            dir.files.insert(name, (path, change));
        }
        top
    }

    /// Any path in here, for an error.
    fn some_path(&self) -> Option<&'a RepoPath> {
        let here = self.files.values().next().map(|(path, _)| *path);
        here.or_else(|| self.dirs.values().find_map(Dir::some_path))
    }

    fn only_deletes(&self) -> bool {
        self.files.values().all(|(_, change)| matches!(change, FileChange::Delete))
            && self.dirs.values().all(Dir::only_deletes)
    }
}

/// Lays `changes` over the tree `base`. When a path is named twice the last one counts. New objects go into `objects`,
/// children before the trees that name them; the id of the resulting top tree is returned.
pub(crate) fn build_tree(
    repo: &git2::Repository,
    base: Oid,
    changes: &[(RepoPath, FileChange)],
    objects: &mut Vec<NewObject>,
) -> Result<Oid, RepoError> {
    match build_dir(repo, Some(base), "", &Dir::of(changes), objects)? {
        Some(id) => Ok(id),
        None => store_tree(&BTreeMap::new(), objects),
    }
}

type Entries = BTreeMap<Vec<u8>, (i32, Oid)>;

/// `above`: the directory's own path, empty or ending in `/`. `None`: it is empty now, so git does not keep it.
fn build_dir(
    repo: &git2::Repository,
    old: Option<Oid>,
    above: &str,
    changes: &Dir<'_>,
    objects: &mut Vec<NewObject>,
) -> Result<Option<Oid>, RepoError> {
    let mut entries = match old {
        Some(id) => read_entries(repo, id)?,
        None => Entries::new(),
    };
    let before = entries.clone();
    // Deletes first, then directories, then files: so a file may become a directory and the other way round.
    for (name, (path, change)) in &changes.files {
        if !matches!(change, FileChange::Delete) {
            continue;
        }
        match entries.get(name.as_bytes()) {
            Some((TREE | SUBMODULE, _)) => {
                return Err(FileError::IsDirectory { path: (*path).clone() }.into());
            }
            Some(_) => drop(entries.remove(name.as_bytes())),
            None => {}
        }
    }
    for (name, below) in &changes.dirs {
        let old_below = match entries.get(name.as_bytes()) {
            Some((TREE, id)) => Some(*id),
            None => None,
            // Nothing lies below a file, so there is nothing to delete there.
            Some(_) if below.only_deletes() => continue,
            Some((mode, _)) => return Err(blocked(format!("{above}{name}"), *mode, below).into()),
        };
        match build_dir(repo, old_below, &format!("{above}{name}/"), below, objects)? {
            Some(id) => drop(entries.insert(name.as_bytes().to_vec(), (TREE, id))),
            None => drop(entries.remove(name.as_bytes())),
        }
    }
    for (name, (path, change)) in &changes.files {
        let FileChange::Write(bytes) = change else {
            continue;
        };
        let (mode, old_id) = match entries.get(name.as_bytes()) {
            None => (FILE, None),
            Some((TREE | SUBMODULE, _)) => {
                return Err(FileError::IsDirectory { path: (*path).clone() }.into());
            }
            Some((LINK, _)) => {
                return Err(FileError::SymbolicLink { path: (*path).clone(), link: path.to_string() }.into());
            }
            Some((mode, id)) => (*mode, Some(*id)),
        };
        let blob = NewObject::new(ObjectType::Blob, bytes.clone())?;
        entries.insert(name.as_bytes().to_vec(), (mode, blob.id));
        if old_id != Some(blob.id) {
            objects.push(blob);
        }
    }
    match old {
        _ if entries.is_empty() => Ok(None),
        Some(id) if entries == before => Ok(Some(id)),
        _ => store_tree(&entries, objects).map(Some),
    }
}

fn blocked(at: String, mode: i32, below: &Dir<'_>) -> FileError {
    let path = below.some_path().expect("a directory is only made for a path below it").clone();
    match mode {
        LINK => FileError::SymbolicLink { path, link: at },
        _ => FileError::ParentIsFile { path, file: at },
    }
}

fn read_entries(repo: &git2::Repository, id: Oid) -> Result<Entries, RepoError> {
    let tree = repo.find_tree(id).map_err(git_at("read a tree"))?;
    Ok(tree.iter().map(|entry| (entry.name_bytes().to_vec(), (entry.filemode_raw(), entry.id()))).collect())
}

fn store_tree(entries: &Entries, objects: &mut Vec<NewObject>) -> Result<Oid, RepoError> {
    let mut sorted: Vec<(&Vec<u8>, &(i32, Oid))> = entries.iter().collect();
    // git orders a directory as if its name ended in a slash.
    sorted.sort_by_cached_key(|(name, (mode, _))| {
        let mut key = (*name).clone();
        key.extend((*mode == TREE).then_some(b'/'));
        key
    });
    let mut data = Vec::with_capacity(sorted.len() * 40);
    for (name, (mode, id)) in sorted {
        data.extend_from_slice(format!("{mode:o} ").as_bytes());
        data.extend_from_slice(name);
        data.push(0);
        data.extend_from_slice(id.as_bytes());
    }
    let tree = NewObject::new(ObjectType::Tree, data)?;
    let id = tree.id;
    objects.push(tree);
    Ok(id)
}

/// The commit object itself. A NUL in the message, which git cannot keep, becomes a space; the message ends in one newline.
pub(crate) fn build_commit(
    tree: Oid,
    parent: Oid,
    author: &Author,
    unix_s: i64,
    message: &str,
) -> Result<NewObject, RepoError> {
    // An author that was made by hand is cleaned here, so that no name can forge a header.
    let who = Author::new(&author.name, &author.email).line(unix_s);
    let text = message.trim_end().replace('\0', " ");
    let data = format!("tree {tree}\nparent {parent}\nauthor {who}\ncommitter {who}\n\n{text}\n");
    NewObject::new(ObjectType::Commit, data.into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_forge_a_header() {
        let author = Author::new(" A <x>\ntree 1 ", "<a@b>\n");
        assert_eq!(author.line(5), "A xtree 1 <a@b> 5 +0000");
        assert_eq!(Author::new("...", "").line(0), "Steadfast <steadfast@localhost> 0 +0000");
    }
}
