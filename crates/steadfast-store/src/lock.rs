//! One process per store: a lock that the kernel releases when its holder dies.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use crate::error::{BackendError, StoreError};

/// How often a taken lock is looked at again.
const POLL: Duration = Duration::from_millis(10);

/// The held lock; dropping it releases it.
#[derive(Debug)]
pub(crate) struct StoreLock {
    _file: File,
}

impl StoreLock {
    /// Takes the lock `<dir>/lock`, waiting at most `wait`.
    pub(crate) fn take(dir: &Path, wait: Duration) -> Result<Self, StoreError> {
        let path = dir.join("lock");
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(|error| StoreError::from_io("open", &path, &error))?;
        lock(dir, &path, &mut file, wait)?;
        // The number is for messages only: the lock is held whether or not it could be written.
        let written = file
            .set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| file.write_all(format!("{}\n", std::process::id()).as_bytes()));
        if let Err(error) = written {
            tracing::debug!(error = %error, "the holder's number was not written to the lock file");
        }
        Ok(Self { _file: file })
    }

    /// Takes the lock without writing anything. `None` where there is no lock file, so that nobody can hold it.
    pub(crate) fn take_for_reading(dir: &Path, wait: Duration) -> Result<Option<Self>, StoreError> {
        let path = dir.join("lock");
        let mut file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(StoreError::from_io("open", &path, &error)),
        };
        lock(dir, &path, &mut file, wait)?;
        Ok(Some(Self { _file: file }))
    }
}

/// Waits for the lock of an open file.
fn lock(dir: &Path, path: &Path, file: &mut File, wait: Duration) -> Result<(), StoreError> {
    let start = Instant::now();
    loop {
        match flock(&*file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(()),
            Err(Errno::WOULDBLOCK) => {}
            Err(Errno::INTR) => continue,
            Err(error) => {
                return Err(StoreError::Io {
                    action: "lock",
                    path: path.to_owned(),
                    source: BackendError::new(std::io::Error::from(error)),
                });
            }
        }
        let waited = start.elapsed();
        if waited >= wait {
            return Err(StoreError::Locked { path: dir.to_owned(), holder: holder(file), waited });
        }
        thread::sleep(POLL.min(wait - waited));
    }
}

fn holder(file: &mut File) -> Option<u32> {
    let mut text = String::new();
    file.rewind().ok()?;
    file.take(32).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_lock_names_its_holder_and_is_free_after_the_drop() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let held = StoreLock::take(dir.path(), Duration::ZERO).expect("free");
        match StoreLock::take(dir.path(), Duration::ZERO) {
            Err(StoreError::Locked { holder, .. }) => assert_eq!(holder, Some(std::process::id())),
            other => panic!("{other:?}"),
        }
        drop(held);
        StoreLock::take(dir.path(), Duration::ZERO).expect("free again");
    }

    #[test]
    fn a_lock_that_becomes_free_is_waited_for() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let held = StoreLock::take(dir.path(), Duration::ZERO).expect("free");
        let path = dir.path().to_owned();
        let waiter = thread::spawn(move || StoreLock::take(&path, Duration::from_secs(60)).is_ok());
        drop(held);
        assert!(waiter.join().expect("no panic"));
    }
}
