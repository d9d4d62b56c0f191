//! `dashboard`: where the page is, with the token, and opened where there is a desktop.

use std::io::{IsTerminal as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::cli::{DashboardArgs, Global};
use crate::client::Client;
use crate::control::token;
use crate::exit::{Failure, Outcome, failed};
use crate::progress::note;
use crate::setup::Setup;
use crate::wire::{DashboardAt, StatusBody};
use crate::{print, print_json};

/// Opens an address in the desktop's browser (freedesktop's xdg-utils).
const OPENER: &str = "xdg-open";

/// `steadfast dashboard`.
pub(crate) async fn dashboard(global: &Global, args: DashboardArgs) -> Outcome {
    let setup = Setup::load(global)?;
    let state_dir = setup.state_dir();
    let Some(client) = Client::connect_waiting(state_dir).await else {
        return Err(Failure::Failed(format!(
            "no daemon answers for {}: start one with `steadfast daemon`",
            state_dir.display()
        )));
    };
    let status: StatusBody = client.get("/v1/status").await?;
    let Some(base) = status.http else {
        return Err(Failure::Usage(if status.daemon {
            "the daemon serves its socket alone: set daemon.listen, e.g. to \"auto\", and start it again; `steadfast status` \
             shows the same as text"
                .to_owned()
        } else {
            "a session is carried in the foreground, which has no dashboard: `steadfast daemon` has one".to_owned()
        }));
    };
    let token = token::read(state_dir)?.ok_or_else(|| {
        let path = token::path(state_dir);
        Failure::Failed(format!("{} is gone: start the daemon again, and it makes a new token", path.display()))
    })?;
    let url = format!("{base}/?token={token}");
    let opened = (args.open || (!args.no_open && !global.json && is_desktop())) && open(state_dir, &url, args.open)?;
    if global.json {
        return print_json(&DashboardAt { url, opened });
    }
    print(&format!("{url}\n"));
    note(if opened { "opened in the browser" } else { "open this address; the token in it lets in whoever has it" });
    Ok(())
}

/// Somebody sits before it who sees a window that opens.
fn is_desktop() -> bool {
    let is_set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    (is_set("DISPLAY") || is_set("WAYLAND_DISPLAY")) && std::io::stdout().is_terminal()
}

/// Has the desktop open the address. Whether it was asked to; with `asked_for`, not being able to is an error.
///
/// The opener gets the path of a file that leads there, for what a program is called with can be read by everybody on the
/// machine (Jupyter does the same).
fn open(state_dir: &Path, url: &str, asked_for: bool) -> Result<bool, Failure> {
    let path = leads_to(state_dir, url).map_err(|error| failed("cannot write the page that leads there", &error))?;
    let mut command = Command::new(OPENER);
    command.arg(&path).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    match command.status() {
        Ok(status) if status.success() => Ok(true),
        Ok(status) if asked_for => {
            Err(Failure::Failed(format!("{OPENER} cannot open it ({status}); the address: {url}")))
        }
        Err(error) if asked_for => Err(Failure::Failed(format!("cannot start {OPENER}: {error}; the address: {url}"))),
        Ok(_) | Err(_) => Ok(false),
    }
}

/// A file of the owner's alone that sends a browser to the address.
fn leads_to(state_dir: &Path, url: &str) -> std::io::Result<PathBuf> {
    let path = state_dir.join("dashboard.html");
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
    // The address is one of ours and the token letters and digits, so nothing in them ends the attribute.
    writeln!(
        file,
        "<!doctype html><meta charset=\"utf-8\"><meta name=\"referrer\" content=\"no-referrer\">\
         <meta http-equiv=\"refresh\" content=\"0;url={url}\"><title>Steadfast</title><a href=\"{url}\">The dashboard</a>"
    )?;
    Ok(path)
}
