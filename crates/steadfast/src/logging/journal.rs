//! The journal's own protocol: a datagram an event, with fields (systemd's "Native Journal Protocol").
//!
//! A few lines here and no crate, as for sd_notify: a line of ours is bounded and holds no line break, so that neither of
//! the protocol's two difficult cases (binary values, files in place of large datagrams) comes up; and a journal that does
//! not read must not hold up the daemon.

use std::fmt::Write as _;
use std::io;
use std::os::linux::fs::MetadataExt as _;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;
use tracing::Level;

use super::line::Line;

/// Where every journald listens.
pub(super) const SOCKET: &str = "/run/systemd/journal/socket";
/// How long a journal whose queue is full may hold up whoever logs.
const SEND_WAIT: Duration = Duration::from_millis(100);
/// Of a field's name, in bytes; the journal drops longer ones.
const MAX_NAME: usize = 64;

/// An open way to the journal.
pub(super) struct Journal {
    socket: UnixDatagram,
    path: PathBuf,
}

/// Whether standard error is a stream to the journal (systemd.exec(5), `$JOURNAL_STREAM`). A child inherits the variable
/// with its environment, but maybe another standard error.
pub(super) fn is_standard_error() -> bool {
    let Ok(stream) = std::env::var("JOURNAL_STREAM") else { return false };
    let Ok(stat) = rustix::fs::fstat(std::io::stderr()) else { return false };
    stream == format!("{}:{}", stat.st_dev, stat.st_ino)
}

impl Journal {
    /// Nothing is sent yet; that somebody listens is seen from the socket's being there.
    pub(super) fn open(path: impl AsRef<Path>) -> io::Result<Self> {
        let path = path.as_ref().to_owned();
        path.metadata().map(|metadata| metadata.st_mode())?;
        let socket = UnixDatagram::unbound()?;
        socket.set_write_timeout(Some(SEND_WAIT))?;
        Ok(Self { socket, path })
    }

    pub(super) fn send(&self, line: &Line) -> io::Result<()> {
        // To the path each time: a journald that was started again listens on another socket.
        self.socket.send_to(datagram(line).as_bytes(), &self.path).map(|_sent| ())
    }
}

fn datagram(line: &Line) -> String {
    let priority = match line.level() {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        Level::DEBUG | Level::TRACE => 7,
    };
    let said = line.said(&|_, text| text.to_owned());
    let mut datagram = format!("MESSAGE={said}\nPRIORITY={priority}\nSYSLOG_IDENTIFIER=steadfast\n");
    let _ = writeln!(datagram, "TARGET={}", line.target());
    for (name, value) in line.fields() {
        let value = match value {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        let _ = writeln!(datagram, "{}={value}", name_of(name));
    }
    datagram
}

/// Capital letters, digits and underscores; the first part is ours, so that no field takes one of the journal's own names.
fn name_of(field: &str) -> String {
    let name = format!("STEADFAST_{}", field.to_uppercase());
    name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).take(MAX_NAME).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_journal_gets_the_line_and_each_field_by_its_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        assert!(Journal::open(&path).is_err());
        let there = UnixDatagram::bind(&path).unwrap();
        let journal = Journal::open(&path).unwrap();
        let sent = super::super::tests::logged(datagram, || {
            tracing::warn!(session = %"s1", duration_ms = 12, reason = "a b\nPRIORITY=0", "attempt failed");
        });
        assert_eq!(
            sent.lines().collect::<Vec<_>>(),
            [
                "MESSAGE=attempt failed session=s1 duration_ms=12 reason=\"a b PRIORITY=0\"",
                "PRIORITY=4",
                "SYSLOG_IDENTIFIER=steadfast",
                "TARGET=steadfast::logging::journal::tests",
                "STEADFAST_SESSION=s1",
                "STEADFAST_DURATION_MS=12",
                "STEADFAST_REASON=a b PRIORITY=0",
            ]
        );
        let log = super::super::Log::journal(journal);
        let all = tracing_subscriber::layer::SubscriberExt::with(tracing_subscriber::registry(), log);
        tracing::subscriber::with_default(all, || tracing::info!("heard"));
        let mut heard = [0; 1024];
        let n = there.recv(&mut heard).unwrap();
        assert!(heard[..n].starts_with(b"MESSAGE=heard\nPRIORITY=6\n"));
        assert_eq!(name_of("log.module-path ä"), "STEADFAST_LOG_MODULE_PATH__");
    }
}
