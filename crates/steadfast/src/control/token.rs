//! The token that TCP asks for: made once, kept in the state directory, readable by its owner alone.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use ring::rand::{SecureRandom as _, SystemRandom};

use crate::exit::{Failure, failed};

/// 256 bits, as hexadecimal digits.
const N_BYTES: usize = 32;
/// A token that somebody has put there is taken when it has at least so many characters.
const AT_LEAST: usize = 32;

/// Where it lies.
pub(crate) fn path(state_dir: &Path) -> PathBuf {
    state_dir.join("token")
}

/// Reads it; `None`: none was made yet.
///
/// # Errors
/// It cannot be read, others may read it, or it is none.
pub(crate) fn read(state_dir: &Path) -> Result<Option<String>, Failure> {
    let path = path(state_dir);
    let wrong = |what: &str| Failure::Failed(format!("{}: {what}", path.display()));
    let mode = match fs::metadata(&path) {
        Ok(metadata) => metadata.permissions().mode(),
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(&format!("cannot read {}", path.display()), &error)),
    };
    if mode & 0o077 != 0 {
        return Err(wrong("others may read or change the token: chmod 600, or delete it and have a new one made"));
    }
    let text = fs::read_to_string(&path).map_err(|error| failed(&format!("cannot read {}", path.display()), &error))?;
    let token = text.trim();
    let is_one =
        token.len() >= AT_LEAST && token.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'));
    if !is_one {
        return Err(wrong(
            "this is no token (letters, digits, - and _, at least 32): delete it and have a new one made",
        ));
    }
    Ok(Some(token.to_owned()))
}

/// Reads it, or makes one. It is on disk when this returns. The store's lock is held: nobody else makes one meanwhile.
pub(crate) fn read_or_make(state_dir: &Path) -> Result<String, Failure> {
    if let Some(token) = read(state_dir)? {
        return Ok(token);
    }
    let mut bytes = [0; N_BYTES];
    SystemRandom::new()
        .fill(&mut bytes)
        .map_err(|_unspecified| Failure::Failed("the machine gives no random numbers for a token".to_owned()))?;
    let token: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let path = path(state_dir);
    write(&path, &token).map_err(|error| failed(&format!("cannot write {}", path.display()), &error))?;
    Ok(token)
}

fn write(path: &Path, token: &str) -> std::io::Result<()> {
    let new = path.with_extension("new");
    // One that a killed process has left may be open to others.
    match fs::remove_file(&new) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
    file.write_all(token.as_bytes())?;
    file.write_all(b"\n")?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    File::open(path.parent().unwrap_or(Path::new("/")))?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_made_once_for_its_owner_alone_and_kept() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(read(dir.path()).unwrap(), None);
        fs::write(dir.path().join("token.new"), "half").unwrap();
        let token = read_or_make(dir.path()).unwrap();
        assert_eq!(token.len(), 2 * N_BYTES);
        assert_eq!(fs::metadata(path(dir.path())).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(read_or_make(dir.path()).unwrap(), token);
        let other = tempfile::tempdir().unwrap();
        assert_ne!(read_or_make(other.path()).unwrap(), token);
    }

    #[test]
    fn a_token_that_others_may_read_or_that_is_too_short_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let token = read_or_make(dir.path()).unwrap();
        fs::set_permissions(path(dir.path()), fs::Permissions::from_mode(0o640)).unwrap();
        assert!(read(dir.path()).unwrap_err().to_string().contains("chmod 600"));
        fs::set_permissions(path(dir.path()), fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(read(dir.path()).unwrap(), Some(token));
        for bad in ["", "short", "0123456789012345678901234567890 12"] {
            fs::write(path(dir.path()), bad).unwrap();
            assert!(read(dir.path()).unwrap_err().to_string().contains("no token"), "{bad}");
        }
    }
}
