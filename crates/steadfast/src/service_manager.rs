//! Tells the service manager how the daemon stands: sd_notify(3), a datagram a message.
//!
//! A few lines here and no crate: the protocol is lines of text on a Unix socket, the standard library has abstract
//! addresses, and two things must be ours: a manager that does not read may not hold the daemon up, and nothing may change
//! the environment of a process with threads.

mod watch;

pub(crate) use watch::watch;

use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::Arc;
use std::time::Duration;

/// How long a manager whose queue is full may hold up whoever tells it something. systemd's holds hundreds of messages.
const SEND_WAIT: Duration = Duration::from_millis(100);

/// The service manager, or nobody. Cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct ServiceManager {
    socket: Option<Arc<(UnixDatagram, SocketAddr)>>,
    watchdog: Option<Duration>,
}

impl ServiceManager {
    /// As `NOTIFY_SOCKET`, `WATCHDOG_USEC` and `WATCHDOG_PID` say. Children inherit these, and it does no harm: the unit
    /// has messages taken from the main process alone (`NotifyAccess=main`).
    pub(crate) fn of_process() -> Self {
        let variable = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
        let Some(name) = variable("NOTIFY_SOCKET") else { return Self::default() };
        let opened = address(&name).and_then(|address| {
            let socket = UnixDatagram::unbound()?;
            socket.set_write_timeout(Some(SEND_WAIT))?;
            Ok(Arc::new((socket, address)))
        });
        let socket = opened.inspect_err(|error| {
            tracing::error!(socket = name, error = %error, "the service manager cannot be told anything");
        });
        let usec = variable("WATCHDOG_USEC").and_then(|text| text.parse().ok());
        Self { socket: socket.ok(), watchdog: watchdog(usec, variable("WATCHDOG_PID").as_deref(), std::process::id()) }
    }

    /// Whether anybody is told anything.
    pub(crate) fn is_there(&self) -> bool {
        self.socket.is_some()
    }

    /// How often it wants a sign of life, at the latest; `None`: it wants none.
    pub(crate) fn watchdog(&self) -> Option<Duration> {
        self.watchdog.filter(|_| self.is_there())
    }

    /// Lines such as `READY=1`, in one message.
    pub(crate) fn tell(&self, lines: &str) {
        let Some(there) = &self.socket else { return };
        let (socket, address) = there.as_ref();
        if let Err(error) = socket.send_to_addr(lines.as_bytes(), address) {
            tracing::warn!(lines, error = %error, "the service manager was not told");
        }
    }
}

/// A `STATUS=` line. A line break would begin another assignment.
pub(crate) fn status(text: &str) -> String {
    format!("STATUS={}", text.replace(['\n', '\r'], " "))
}

/// The beginning of a reload; `READY=1` ends it. The time is what `Type=notify-reload` asks for.
pub(crate) fn reloading() -> String {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let usec = i128::from(now.tv_sec) * 1_000_000 + i128::from(now.tv_nsec) / 1_000;
    format!("RELOADING=1\nMONOTONIC_USEC={usec}")
}

/// `/path`, or `@name` in the abstract namespace.
fn address(name: &str) -> std::io::Result<SocketAddr> {
    match name.strip_prefix('@') {
        Some(name) => SocketAddr::from_abstract_name(name),
        None if name.starts_with('/') => SocketAddr::from_pathname(name),
        None => Err(std::io::Error::other("it is neither a path nor an abstract name")),
    }
}

/// sd_watchdog_enabled(3): the variables may be meant for another process, which has started this one.
fn watchdog(usec: Option<u64>, meant_for: Option<&str>, own_pid: u32) -> Option<Duration> {
    let is_ours = meant_for.is_none_or(|pid| pid.parse() == Ok(own_pid));
    usec.filter(|usec| *usec > 0 && is_ours).map(Duration::from_micros)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watchdog_that_is_meant_for_another_process_or_off_is_none() {
        let second = Some(Duration::from_secs(1));
        assert_eq!(watchdog(Some(1_000_000), None, 7), second);
        assert_eq!(watchdog(Some(1_000_000), Some("7"), 7), second);
        for (usec, pid) in [(Some(1_000_000), Some("8")), (Some(0), None), (None, None), (Some(5), Some("x"))] {
            assert_eq!(watchdog(usec, pid, 7), None);
        }
    }

    #[test]
    fn a_socket_is_a_path_or_an_abstract_name() {
        assert_eq!(address("/run/x").unwrap().as_pathname(), Some("/run/x".as_ref()));
        assert_eq!(address("@x").unwrap().as_abstract_name(), Some(&b"x"[..]));
        assert!(address("vsock:2:1").is_err());
    }

    #[test]
    fn a_status_is_one_line_whatever_it_holds() {
        assert_eq!(status("bad:\n  line 1\nREADY=1"), "STATUS=bad:   line 1 READY=1");
    }
}
