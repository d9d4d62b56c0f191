//! Files below one directory, reached without ever following a symbolic link.
//!
//! Each part of a path is opened relative to the directory that is already held open, with `O_NOFOLLOW`: what a name meant
//! when it was looked at is what is used, so that exchanging a directory for a link in between gains nothing. This is what
//! `openat2` with `RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS` gives, without needing that call (kernels before 5.6, container
//! filters that forbid it). `RepoPath` has no `..` and nothing under `.git`.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, RawMode, Stat};
use rustix::io::Errno;
use steadfast_core::ids::RepoPath;
use steadfast_fault_point::{self as fault_point, Point};

use crate::error::FileError;

/// A directory that is held open; all access is below it.
#[derive(Debug)]
pub(crate) struct ConfinedDir {
    root: OwnedFd,
}

/// What a path is followed for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// Directories that are missing are made.
    Write,
    /// They are not made; what is in their way is an error all the same.
    Check,
    /// Below a file or a missing directory there is nothing.
    Look,
}

const OPEN_DIR: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

impl ConfinedDir {
    /// The directory itself may be reached through links: its path is the operator's.
    pub(crate) fn open(dir: &Path) -> std::io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self { root: rustix::fs::open(dir, flags, Mode::empty())? })
    }

    /// Whether [`Self::write`] would find its way: nothing is made or changed. Room on the disk is another matter.
    pub(crate) fn may_write(&self, path: &RepoPath) -> Result<(), FileError> {
        let Some((parent, name)) = self.parent(path, Way::Check)? else {
            return Ok(());
        };
        match rustix::fs::statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => regular(path, &stat),
            Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(io("write", path, errno)),
        }
    }

    /// The file's bytes; `None` when it, or a directory on the way, is not there.
    pub(crate) fn read(&self, path: &RepoPath, max_bytes: u64) -> Result<Option<Vec<u8>>, FileError> {
        let Some((parent, name)) = self.parent(path, Way::Look)? else {
            return Ok(None);
        };
        // Without O_NONBLOCK opening a named pipe would wait for a writer.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = match rustix::fs::openat(&parent, name, flags, Mode::empty()) {
            Ok(fd) => fd,
            Err(Errno::NOENT) => return Ok(None),
            Err(Errno::LOOP) => return Err(link(path, path.as_str())),
            Err(Errno::NXIO) => return Err(FileError::Special { path: path.clone() }),
            Err(errno) => return Err(io("read", path, errno)),
        };
        let stat = rustix::fs::fstat(&file).map_err(|errno| io("read", path, errno))?;
        regular(path, &stat)?;
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        let too_large = |size| FileError::TooLarge { path: path.clone(), size, limit: max_bytes };
        if size > max_bytes {
            return Err(too_large(size));
        }
        let mut bytes = Vec::with_capacity(usize::try_from(size).unwrap_or(0));
        let mut limited = File::from(file).take(max_bytes.saturating_add(1));
        limited.read_to_end(&mut bytes).map_err(|source| FileError::Io { what: "read", path: path.clone(), source })?;
        // It may have grown since its size was asked for.
        if bytes.len() as u64 > max_bytes { Err(too_large(bytes.len() as u64)) } else { Ok(Some(bytes)) }
    }

    /// Puts `bytes` in the file's place at once: readers see the old or the new content, never a part. Missing directories are
    /// made. An existing file keeps its permissions. Nothing is synced: a worktree can be built again from commits.
    pub(crate) fn write(&self, path: &RepoPath, bytes: &[u8]) -> Result<(), FileError> {
        let parent = self.parent(path, Way::Write)?;
        let (parent, name) = parent.expect("missing directories are made, so there is a parent");
        let kept = match rustix::fs::statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => {
                regular(path, &stat)?;
                Some(Mode::from_raw_mode(stat.st_mode & 0o777))
            }
            Err(Errno::NOENT) => None,
            Err(errno) => return Err(io("write", path, errno)),
        };
        let temporary = temporary_name();
        fault_point::reach(Point::RepoFileBefore);
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(&parent, &*temporary, flags, Mode::from_raw_mode(0o666 as RawMode))
            .map_err(|errno| io("write", path, errno))?;
        let written = (|| {
            if let Some(mode) = kept {
                rustix::fs::fchmod(&fd, mode)?;
            }
            File::from(fd).write_all(bytes)?;
            fault_point::reach(Point::RepoFileUnnamed);
            rustix::fs::renameat(&parent, &*temporary, &parent, name)?;
            fault_point::reach(Point::RepoFileWritten);
            Ok(())
        })();
        written.map_err(|source: std::io::Error| {
            // Best effort: a rest is untracked and goes with the next reset.
            rustix::fs::unlinkat(&parent, &*temporary, AtFlags::empty()).ok();
            match Errno::from_io_error(&source) {
                Some(Errno::ISDIR) => FileError::IsDirectory { path: path.clone() },
                _ => FileError::Io { what: "write", path: path.clone(), source },
            }
        })
    }

    /// Removes the file, or the link that stands in its place, and the directories that are empty then. Whether it was there.
    pub(crate) fn delete(&self, path: &RepoPath) -> Result<bool, FileError> {
        let Some((parent, name)) = self.parent(path, Way::Look)? else {
            return Ok(false);
        };
        match rustix::fs::unlinkat(&parent, name, AtFlags::empty()) {
            Ok(()) => {}
            Err(Errno::NOENT) => return Ok(false),
            // Linux says EISDIR, POSIX says EPERM.
            Err(Errno::ISDIR | Errno::PERM) if is_dir(&parent, name) => {
                return Err(FileError::IsDirectory { path: path.clone() });
            }
            Err(errno) => return Err(io("delete", path, errno)),
        }
        fault_point::reach(Point::RepoFileDeleted);
        let mut rest = path.as_str();
        while let Some((above, _)) = rest.rsplit_once('/') {
            rest = above;
            let Ok(dir) = RepoPath::new(above) else { break };
            let Ok(Some((parent, name))) = self.parent(&dir, Way::Look) else {
                break;
            };
            // Refused for the first one that still holds something; git keeps no empty directories.
            if rustix::fs::unlinkat(&parent, name, AtFlags::REMOVEDIR).is_err() {
                break;
            }
        }
        Ok(true)
    }

    /// The directory that holds the file, and the file's name in it. `None`: it does not exist (never with [`Way::Write`]).
    fn parent<'a>(&self, path: &'a RepoPath, way: Way) -> Result<Option<(OwnedFd, &'a str)>, FileError> {
        let text = path.as_str();
        let what = if way == Way::Look { "read" } else { "write" };
        let mut dir = self.root.try_clone().map_err(|source| FileError::Io { what, path: path.clone(), source })?;
        let mut start = 0;
        for (end, _) in text.match_indices('/') {
            let (part, so_far) = (&text[start..end], &text[..end]);
            start = end + 1;
            dir = match rustix::fs::openat(&dir, part, OPEN_DIR, Mode::empty()) {
                Ok(next) => next,
                Err(Errno::NOENT) if way == Way::Write => {
                    // Somebody else may make it at the same moment: then it is there, which is all that is wanted.
                    match rustix::fs::mkdirat(&dir, part, Mode::from_raw_mode(0o777 as RawMode)) {
                        Ok(()) | Err(Errno::EXIST) => {}
                        Err(errno) => return Err(io(what, path, errno)),
                    }
                    rustix::fs::openat(&dir, part, OPEN_DIR, Mode::empty())
                        .map_err(|errno| no_dir(&dir, part, so_far, path, errno))?
                }
                Err(Errno::NOENT) => return Ok(None),
                // Nothing lies below a file; only a link is refused for reading and deleting too.
                Err(errno) => match no_dir(&dir, part, so_far, path, errno) {
                    FileError::ParentIsFile { .. } if way == Way::Look => return Ok(None),
                    error => return Err(error),
                },
            };
        }
        Ok(Some((dir, &text[start..])))
    }
}

fn is_dir(parent: &OwnedFd, name: &str) -> bool {
    rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)
        .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Directory)
}

/// Why a part of a path could not be opened as a directory.
fn no_dir(dir: &OwnedFd, part: &str, so_far: &str, path: &RepoPath, errno: Errno) -> FileError {
    if !matches!(errno, Errno::NOTDIR | Errno::LOOP) {
        return io("open", path, errno);
    }
    match rustix::fs::statat(dir, part, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Symlink => link(path, so_far),
        Ok(_) | Err(_) => FileError::ParentIsFile { path: path.clone(), file: so_far.to_owned() },
    }
}

fn regular(path: &RepoPath, stat: &Stat) -> Result<(), FileError> {
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => Ok(()),
        FileType::Symlink => Err(link(path, path.as_str())),
        FileType::Directory => Err(FileError::IsDirectory { path: path.clone() }),
        _ => Err(FileError::Special { path: path.clone() }),
    }
}

fn link(path: &RepoPath, at: &str) -> FileError {
    FileError::SymbolicLink { path: path.clone(), link: at.to_owned() }
}

fn io(what: &'static str, path: &RepoPath, errno: Errno) -> FileError {
    FileError::Io { what, path: path.clone(), source: errno.into() }
}

fn temporary_name() -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    format!(".steadfast-{}-{}.tmp", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use rustix::fs::{CWD, RenameFlags};

    use super::*;

    fn path(text: &str) -> RepoPath {
        RepoPath::new(text).unwrap()
    }

    fn fixture() -> (tempfile::TempDir, ConfinedDir) {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join("inside/sub")).unwrap();
        fs::create_dir(folder.path().join("outside")).unwrap();
        fs::write(folder.path().join("outside/secret"), "secret").unwrap();
        let dir = ConfinedDir::open(&folder.path().join("inside")).unwrap();
        (folder, dir)
    }

    #[test]
    fn a_written_file_is_read_back_and_its_directories_are_made() {
        let (folder, dir) = fixture();
        dir.write(&path("a/b/c.txt"), b"one").unwrap();
        dir.write(&path("a/b/c.txt"), b"two").unwrap();
        assert_eq!(dir.read(&path("a/b/c.txt"), 3).unwrap().unwrap(), b"two");
        assert_eq!(fs::read_dir(folder.path().join("inside/a/b")).unwrap().count(), 1);
        assert_eq!(dir.read(&path("a/x/c.txt"), 3).unwrap(), None);
        assert_eq!(dir.read(&path("a/b/c.txt/d"), 3).unwrap(), None);
    }

    #[test]
    fn an_executable_file_stays_executable() {
        let (folder, dir) = fixture();
        let script = folder.path().join("inside/run.sh");
        fs::write(&script, "old").unwrap();
        fs::set_permissions(&script, fs::Permissions::from_mode(0o750)).unwrap();
        dir.write(&path("run.sh"), b"new").unwrap();
        assert_eq!(fs::metadata(&script).unwrap().permissions().mode() & 0o777, 0o750);
        assert_eq!(fs::read(&script).unwrap(), b"new");
    }

    #[test]
    fn nothing_is_reached_through_a_symbolic_link() {
        let (folder, dir) = fixture();
        let inside = folder.path().join("inside");
        symlink("../outside", inside.join("out")).unwrap();
        symlink("../../outside/secret", inside.join("sub/secret")).unwrap();
        symlink("../outside/new", inside.join("dangling")).unwrap();
        symlink("sub", inside.join("within")).unwrap();
        for bad in ["out/secret", "out/new/x", "sub/secret", "dangling", "within/x"] {
            assert!(matches!(dir.may_write(&path(bad)), Err(FileError::SymbolicLink { .. })), "{bad}");
            assert!(matches!(dir.write(&path(bad), b"x"), Err(FileError::SymbolicLink { .. })), "{bad}");
            assert!(matches!(dir.read(&path(bad), 9), Err(FileError::SymbolicLink { .. })), "{bad}");
        }
        assert!(matches!(dir.delete(&path("out/secret")), Err(FileError::SymbolicLink { .. })));
        assert_eq!(fs::read(folder.path().join("outside/secret")).unwrap(), b"secret");
        assert_eq!(fs::read_dir(folder.path().join("outside")).unwrap().count(), 1);
    }

    #[test]
    fn a_link_itself_can_be_deleted_without_harm_to_its_target() {
        let (folder, dir) = fixture();
        symlink("../../outside/secret", folder.path().join("inside/sub/link")).unwrap();
        assert!(dir.delete(&path("sub/link")).unwrap());
        assert!(folder.path().join("outside/secret").exists());
    }

    #[test]
    fn a_directory_swapped_for_a_link_meanwhile_gains_nothing() {
        let (folder, dir) = fixture();
        let (real, link) = (folder.path().join("inside/d"), folder.path().join("inside/l"));
        fs::create_dir(&real).unwrap();
        symlink("../outside", &link).unwrap();
        let stop = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            let swapper = scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    rustix::fs::renameat_with(CWD, &real, CWD, &link, RenameFlags::EXCHANGE).unwrap();
                }
            });
            for _ in 0..2_000 {
                // Which of the two it met is chance; that nothing appears outside is not.
                dir.write(&path("d/x"), b"x").ok();
            }
            stop.store(true, Ordering::Relaxed);
            swapper.join().unwrap();
        });
        assert_eq!(fs::read_dir(folder.path().join("outside")).unwrap().count(), 1);
    }

    #[test]
    fn a_directory_or_a_file_in_the_way_is_named() {
        let (_folder, dir) = fixture();
        dir.write(&path("f"), b"x").unwrap();
        assert!(matches!(dir.write(&path("sub"), b"x"), Err(FileError::IsDirectory { .. })));
        assert!(matches!(dir.read(&path("sub"), 9), Err(FileError::IsDirectory { .. })));
        assert!(matches!(dir.delete(&path("sub")), Err(FileError::IsDirectory { .. })));
        let Err(FileError::ParentIsFile { file, .. }) = dir.write(&path("f/a/b"), b"x") else { panic!("written") };
        assert_eq!(file, "f");
        for bad in ["sub", "f/a", "f/a/b"] {
            assert!(dir.may_write(&path(bad)).is_err(), "{bad}");
        }
        for good in ["f", "sub/x", "new/x/y"] {
            dir.may_write(&path(good)).unwrap();
        }
        assert!(dir.read(&path("new"), 9).unwrap().is_none());
    }

    #[test]
    fn pipes_and_large_files_are_refused_without_waiting() {
        let (folder, dir) = fixture();
        let pipe = folder.path().join("inside/pipe");
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        assert!(matches!(dir.read(&path("pipe"), 9), Err(FileError::Special { .. })));
        assert!(matches!(dir.write(&path("pipe"), b"x"), Err(FileError::Special { .. })));
        dir.write(&path("big"), &[b'x'; 10]).unwrap();
        let Err(FileError::TooLarge { size, limit, .. }) = dir.read(&path("big"), 9) else { panic!("read") };
        assert_eq!((size, limit), (10, 9));
    }

    #[test]
    fn deleting_removes_directories_that_are_empty_then() {
        let (folder, dir) = fixture();
        dir.write(&path("a/b/c"), b"x").unwrap();
        dir.write(&path("a/d"), b"x").unwrap();
        assert!(dir.delete(&path("a/b/c")).unwrap());
        assert!(!dir.delete(&path("a/b/c")).unwrap());
        let inside = folder.path().join("inside");
        assert!(!inside.join("a/b").exists());
        assert!(inside.join("a/d").exists());
    }
}
